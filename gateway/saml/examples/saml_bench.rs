//! Signing and verifying assertions per second, one worker, against the bare OpenSSL operation in the same process.
//! Verifying: assertions that come for the first time, and one that comes again; each with the signer trusted as given and
//! with its path built and its CRL looked up.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use ncp_saml::{SealKey, Signer, SignerIdentity, SignerTrust, Verifier};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tls::{Anchors, CertificateFacts, Country, Purpose, Revocation};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign;
use openssl::x509::X509Ref;

/// The signature only.
struct AnySigner(Country);

impl SignerTrust for AnySigner {
    fn signer(&self, _: &X509Ref) -> Result<SignerIdentity, String> {
        Ok(SignerIdentity { country: self.0, fingerprint: String::new(), common_name: String::new(), stale: false })
    }
}

/// Path, dates, use, strength and revocation, as a gateway checks them.
struct PathAndCrl(Anchors);

impl SignerTrust for PathAndCrl {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.0.verify(certificate, &[]).map_err(|e| e.to_string())?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        let country = facts.country.ok_or("no country")?;
        let CertificateFacts { fingerprint, common_name, .. } = facts;
        Ok(SignerIdentity { country, fingerprint, common_name, stale: false })
    }
}

/// More than a verifier remembers.
const DISTINCT: usize = 6_000;

type Error = Box<dyn std::error::Error + Send + Sync>;

const BEFORE: &str = "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"><s:Header><w:Security xmlns:w=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd\">";
const AFTER: &str = "</w:Security></s:Header><s:Body><x/></s:Body></s:Envelope>";

const LONG: Duration = Duration::from_secs(2);

fn rate(mut work: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let (began, mut n) = (Instant::now(), 0u32);
    while began.elapsed() < LONG {
        work()?;
        n += 1;
    }
    Ok(f64::from(n) / began.elapsed().as_secs_f64())
}

fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    for (name, algorithm) in [("RSA-2048", Algorithm::Rsa2048), ("P-256", Algorithm::P256)] {
        let pki = CountryPki::create(&dir.path().join(name), "NO", algorithm)?;
        let neighbour = Neighbour::new(&pki, "2.999.47", &pki.path("anchors.pem"), "localhost", 1)?;
        let claims = neighbour.claims();
        let signer = Signer::start(SealKey::load(&pki.path("seal.pem"), &pki.path("seal.key"))?, 1)?;
        let life = Duration::from_secs(3600);
        let assertion =
            |n: usize| runtime.block_on(signer.issue_hcp(&format!("_{n}"), &claims, Timestamp::now(), life));
        let bytes = assertion(0)?.xml.len();
        let message = |n| Ok(format!("{BEFORE}{}{AFTER}", assertion(n)?.xml).into());
        let messages = (0..DISTINCT).map(message).collect::<Result<Vec<Bytes>, Error>>()?;
        let crls = ncp_tls::read_crls(&pki.crl("bench.crl", &[], (-3600, 86_400))?)?;
        let revocation = Revocation { crls: Arc::new(crls), ..Revocation::none() };
        let anchors = Anchors::load(&pki.path("anchors.pem"), revocation, Purpose::Seal)?;
        let given: Arc<dyn SignerTrust> = Arc::new(AnySigner(Country::parse("NO")?));
        let checked: Arc<dyn SignerTrust> = Arc::new(PathAndCrl(anchors));

        let key = PKey::private_key_from_pem(&std::fs::read(pki.path("seal.key"))?)?;
        let data = vec![7; 800];
        let mut bare = sign::Signer::new(MessageDigest::sha256(), &key)?;
        let signature = bare.sign_oneshot_to_vec(&data)?;
        let public = PKey::public_key_from_pem(&key.public_key_to_pem()?)?;
        let bare_sign = rate(|| {
            sign::Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(&data)?;
            Ok(())
        })?;
        let bare_verify = rate(|| {
            sign::Verifier::new(MessageDigest::sha256(), &public)?.verify_oneshot(&signature, &data)?;
            Ok(())
        })?;
        let ours_sign = rate(|| {
            runtime.block_on(signer.issue_hcp("_b", &claims, Timestamp::now(), life))?;
            Ok(())
        })?;
        let verify = |messages: &[Bytes], trust: &Arc<dyn SignerTrust>| -> Result<f64, Error> {
            let verifier = Verifier::start(1)?;
            let mut next = messages.iter().cycle();
            rate(|| {
                let message = next.next().ok_or("no message")?.clone();
                runtime.block_on(verifier.verify(message, trust.clone(), Timestamp::now()))?;
                Ok(())
            })
        };
        let again = &messages[..1];
        for (what, ours, peer) in [
            ("sign", ours_sign, bare_sign),
            ("verify", verify(&messages, &given)?, bare_verify),
            ("verify with path and CRL", verify(&messages, &checked)?, bare_verify),
            ("verify again", verify(again, &given)?, bare_verify),
            ("verify again with path and CRL", verify(again, &checked)?, bare_verify),
        ] {
            let ratio = ours / peer;
            println!(
                "{{\"bench\":\"assertions\",\"operation\":\"{what}\",\"key\":\"{name}\",\"bytes\":{bytes},\"per_second\":{ours:.0},\"openssl_per_second\":{peer:.0},\"ratio\":{ratio:.3}}}"
            );
        }
    }
    Ok(())
}
