//! Signing and verifying per second, one worker, against the bare OpenSSL operation in the same process.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ncp_saml::{SealKey, Signer, SignerIdentity, SignerTrust, Verifier};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tls::Country;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign;
use openssl::x509::X509Ref;

/// The signature only: path and revocation are measured apart.
struct AnySigner(Country);

impl SignerTrust for AnySigner {
    fn signer(&self, _: &X509Ref) -> Result<SignerIdentity, String> {
        Ok(SignerIdentity { country: self.0, fingerprint: String::new(), common_name: String::new(), stale: false })
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

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
        let assertion = runtime.block_on(signer.issue_hcp("_b", &claims, Timestamp::now(), life))?;
        let message = format!(
            "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"><s:Header><w:Security xmlns:w=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd\">{}</w:Security></s:Header><s:Body><x/></s:Body></s:Envelope>",
            assertion.xml
        );
        let message = bytes::Bytes::from(message);
        let trust: Arc<dyn SignerTrust> = Arc::new(AnySigner(Country::parse("NO")?));
        let verifier = Verifier::start(1)?;

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
        let ours_verify = rate(|| {
            runtime.block_on(verifier.verify(message.clone(), trust.clone(), Timestamp::now()))?;
            Ok(())
        })?;
        for (what, ours, peer) in [("sign", ours_sign, bare_sign), ("verify", ours_verify, bare_verify)] {
            let ratio = ours / peer;
            println!(
                "{{\"bench\":\"saml\",\"operation\":\"{what}\",\"key\":\"{name}\",\"bytes\":{},\"per_second\":{ours:.0},\"openssl_per_second\":{peer:.0},\"ratio\":{ratio:.3}}}",
                assertion.xml.len()
            );
        }
    }
    Ok(())
}
