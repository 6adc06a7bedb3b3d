//! The seal key in a token (SoftHSM): the configuration names it, assertions verify, the key never leaves it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ncp_gateway::config;
use ncp_gateway::snapshot::{Learned, Snapshot};
use ncp_saml::{SignerIdentity, SignerTrust, Verifier};
use ncp_soap::{Envelope, ns};
use ncp_tests::asking::{Asking, Known};
use ncp_tests::country::{Country, Reaction};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{Algorithm, CountryPki, Use};
use ncp_tls::{Anchors, CertificateFacts, Purpose, Revocation};
use ncp_xml::Element;
use openssl::x509::X509Ref;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const FOLDER: &str = "NCP_TEST_TOKEN_FOLDER";

struct Trust(Anchors);

impl SignerTrust for Trust {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.0.verify(certificate, &[]).map_err(|e| e.to_string())?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        let country = facts.country.ok_or("no country")?;
        Ok(SignerIdentity { country, fingerprint: facts.fingerprint, common_name: facts.common_name, stale: false })
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let out = Command::new(program).args(arguments).env("SOFTHSM2_CONF", folder.join("softhsm2.conf")).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

/// SoftHSM finds its token by an environment variable, so the test runs itself again with it.
#[test]
fn a_seal_in_a_token_signs() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(signs(Path::new(&folder)));
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path();
    let tokens = folder.join("tokens");
    std::fs::create_dir(&tokens).expect("a folder");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
    std::fs::write(folder.join("softhsm2.conf"), text).expect("writes");
    let pki = Asking::create(folder).expect("a PKI").pki;
    pki.leaf("rsa", Use::Seal, Algorithm::Rsa2048, 0, 90).expect("a leaf");
    std::fs::write(folder.join("pin"), "1234\n").expect("writes");
    run("softhsm2-util", &["--init-token", "--free", "--label", "ncp", "--so-pin", "5678", "--pin", "1234"], folder);
    for (leaf, id) in [("seal", "01"), ("rsa", "02")] {
        let key = pki.path(&format!("{leaf}.key")).display().to_string();
        run(
            "softhsm2-util",
            &["--import", &key, "--token", "ncp", "--label", leaf, "--id", id, "--pin", "1234"],
            folder,
        );
        std::fs::remove_file(&key).expect("removes");
    }
    let own = std::env::current_exe().expect("a path");
    let out = Command::new(own)
        .args(["--exact", "a_seal_in_a_token_signs", "--nocapture"])
        .env(FOLDER, folder)
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .output()
        .expect("runs");
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

async fn signs(folder: &Path) {
    let pki = CountryPki::open(&folder.join("pki"), "NO").expect("a PKI");
    let asking = Asking { dir: folder.to_owned(), pki };
    let other = asking.other("AA").expect("a PKI");
    let country = Country::start(&other, &asking.pki.path("anchors.pem"), |_| Reaction::Status(404)).await;
    let country = country.expect("starts");
    let known = Known { pki: &other, home: "2.999.101".into(), country: &country, lines: String::new() };
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/no");
    let path = asking.write([0, 0, 0], "", &policies, &[known]).expect("writes");
    let plain = std::fs::read_to_string(&path).expect("reads");
    let load = |leaf: &str, token: &str, label: &str| {
        let seal = format!(
            "certificate = \"pki/{leaf}.pem\"\npkcs11 = {{ module = \"{MODULE}\", token = \"{token}\", label = \"{label}\", \
             pin_file = \"pin\" }}"
        );
        let text = plain.replace("certificate = \"pki/seal.pem\"\nkey = \"pki/seal.key\"", &seal);
        std::fs::write(&path, text).expect("writes");
        let config = config::load(&path).unwrap_or_else(|problems| panic!("{problems:?}"));
        Snapshot::load(&config, &Learned::default())
    };
    let anchors = asking.pki.path("anchors.pem");
    let verifier = Verifier::start(1).expect("starts");
    let claims = claims(&asking);
    for leaf in ["seal", "rsa"] {
        let snapshot = load(leaf, "ncp", leaf).unwrap_or_else(|problems| panic!("{problems:?}"));
        let signing = (0..16).map(|n| {
            let (signer, claims) = (snapshot.signer.clone(), claims.clone());
            async move {
                signer
                    .issue_hcp(&format!("_{n}"), &claims, Timestamp::now(), Duration::from_secs(600))
                    .await
                    .expect("signs")
            }
        });
        for signed in futures_util::future::join_all(signing).await {
            let security = Element::new(ns::WSSE, "Security").raw(signed.xml);
            let message = Envelope { headers: vec![security], body: Element::new("urn:x", "x") }.write();
            let trust = Anchors::load(&anchors, Revocation::none(), Purpose::Seal).expect("anchors");
            let found = verifier.verify(message.into(), Arc::new(Trust(trust)), Timestamp::now()).await;
            assert_eq!(found.expect("verifies").hcp.id, signed.id);
        }
    }
    // What does not fit is said at the start, not with the first assertion.
    for (leaf, token, label, said) in [
        ("seal", "other", "seal", "no token of that label"),
        ("seal", "ncp", "other", "no private key of that label"),
        ("rsa", "ncp", "seal", "does not sign as the certificate's would"),
    ] {
        let problems = load(leaf, token, label).err().unwrap_or_default();
        assert!(problems.iter().any(|problem| problem.contains(said)), "{said}: {problems:?}");
    }
}

fn claims(asking: &Asking) -> ncp_saml::HcpClaims {
    // The neighbour's own seal is not used; it only knows what a professional says.
    let pki = CountryPki::create(&asking.dir.join("claims"), "NO", Algorithm::P256).expect("a PKI");
    let neighbour = Neighbour::new(&pki, "2.999.47", &asking.pki.path("anchors.pem"), "localhost", 1);
    neighbour.expect("claims").claims()
}
