//! Assertions that must not be believed: one case per id of the threat table, expected rule as data, and cross-checks of
//! our signatures with two other implementations.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_saml::{
    AssertionError, SealKey, SecurityHeader, SignedAssertion, Signer, SignerIdentity, SignerTrust, TrcClaims, Verifier,
    trc_template,
};
use ncp_soap::ns;
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{Algorithm, CountryPki, Use};
use ncp_tls::{Anchors, CertificateFacts, Country, Purpose};
use ncp_xml::Element;
use openssl::x509::X509Ref;

mod table;

/// A country with its PKI, made once.
struct World {
    _dir: tempfile::TempDir,
    fi: CountryPki,
    se: CountryPki,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    let fi = CountryPki::create(&dir.path().join("fi"), "FI", Algorithm::P256).expect("a PKI");
    let se = CountryPki::create(&dir.path().join("se"), "SE", Algorithm::Rsa2048).expect("a PKI");
    fi.leaf("old", Use::Seal, Algorithm::P256, -30, 0).expect("an expired leaf");
    fi.leaf("future", Use::Seal, Algorithm::P256, 5, 30).expect("a future leaf");
    World { _dir: dir, fi, se }
});

struct Trust(Anchors, Country);

impl SignerTrust for Trust {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.0.verify(certificate, &[]).map_err(|e| e.to_string())?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        match facts.country {
            Some(country) if country == self.1 => {
                Ok(SignerIdentity { country, fingerprint: facts.fingerprint, common_name: facts.common_name })
            }
            _ => Err("country".to_owned()),
        }
    }
}

fn neighbour(pki: &CountryPki) -> Neighbour {
    Neighbour::new(pki, "2.999.246", &pki.path("anchors.pem"), "localhost", 1).expect("a neighbour")
}

fn patient() -> ncp_ihe::PatientId {
    ncp_ihe::PatientId::parse_cx("1^^^&2.999.1&ISO").expect("a CX")
}

/// HCP and TRC of Finland, as text.
async fn good() -> (String, String) {
    let mut both = neighbour(&WORLD.fi).assertions(&patient()).await.expect("signs");
    let trc = both.remove(1).xml;
    (both.remove(0).xml, trc)
}

fn envelope(headers: &str, body: &str) -> Vec<u8> {
    format!("<s:Envelope xmlns:s=\"{}\"><s:Header>{headers}</s:Header><s:Body>{body}</s:Body></s:Envelope>", ns::SOAP)
        .into_bytes()
}

fn security(assertions: &[&str]) -> Vec<u8> {
    envelope(&format!("<w:Security xmlns:w=\"{}\">{}</w:Security>", ns::WSSE, assertions.concat()), "<x/>")
}

async fn verify(message: Vec<u8>) -> Result<SecurityHeader, AssertionError> {
    static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::start(1).expect("starts"));
    let anchors = Anchors::load(&WORLD.fi.path("anchors.pem"), None, Purpose::Seal).expect("anchors");
    let trust = Arc::new(Trust(anchors, Country::parse("FI").expect("FI")));
    VERIFIER.verify(message.into(), trust, Timestamp::now()).await
}

#[tokio::test]
async fn good_assertions_of_both_algorithms_verify() {
    let (hcp, trc) = good().await;
    let header = verify(security(&[&hcp, &trc])).await.expect("verifies");
    assert_eq!(header.hcp.subject_name, "Radiologist on duty");
    assert_eq!(header.trc.expect("a TRC").patient, "1^^^&2.999.1&ISO");
    let rsa = neighbour(&WORLD.se).assertions(&patient()).await.expect("signs");
    let anchors = Anchors::load(&WORLD.se.path("anchors.pem"), None, Purpose::Seal).expect("anchors");
    let trust = Arc::new(Trust(anchors, Country::parse("SE").expect("SE")));
    let verifier = Verifier::start(1).expect("starts");
    verifier.verify(security(&[&rsa[0].xml, &rsa[1].xml]).into(), trust, Timestamp::now()).await.expect("verifies");
}

#[tokio::test]
async fn every_row_of_the_table_is_refused_for_its_reason() {
    let (hcp, trc) = good().await;
    verify(security(&[&hcp, &trc])).await.expect("the base of all rows is good");
    let mut wrong = Vec::new();
    for row in table::rows(&hcp, &trc) {
        match verify(row.message).await {
            Ok(_) => wrong.push(format!("{}: accepted", row.id)),
            Err(error) if !error.to_string().contains(row.expected) => {
                wrong.push(format!("{}: {error}, expected {}", row.id, row.expected))
            }
            Err(_) => println!("{} refused: {}", row.id, row.expected),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    verify(security(&[&hcp, &trc])).await.expect("the next good one is served");
}

#[tokio::test]
async fn times_and_signers() {
    let finland = neighbour(&WORLD.fi);
    let claims = finland.claims();
    let now = Timestamp::now();
    let hour = |h: i64| SignedDuration::from_hours(h);
    let expect = |found: Result<SecurityHeader, AssertionError>, wanted: &str| {
        let error = found.err().map(|e| e.to_string()).unwrap_or_else(|| "accepted".into());
        assert!(error.contains(wanted), "{error}, expected {wanted}");
    };
    let hcp = |issued| finland.hcp(&claims, issued);
    expect(verify(security(&[&hcp(now - hour(5)).await.expect("signs").xml])).await, "expired");
    expect(verify(security(&[&hcp(now + hour(1)).await.expect("signs").xml])).await, "not yet valid");
    let early = hcp(now + SignedDuration::from_secs(30)).await.expect("signs");
    verify(security(&[&early.xml])).await.expect("30 s early is within the skew");

    let seal = |pki: &CountryPki, name: &str| {
        SealKey::load(&pki.path(&format!("{name}.pem")), &pki.path(&format!("{name}.key"))).expect("a seal")
    };
    for (name, reason) in [("old", "expired"), ("future", "not yet valid")] {
        let signer = Signer::start(seal(&WORLD.fi, name), 1).expect("starts");
        let signed = signer.issue_hcp("_t", &claims, now, Duration::from_secs(60)).await.expect("signs");
        expect(verify(security(&[&signed.xml])).await, reason);
    }
    let swedish = Signer::start(seal(&WORLD.se, "seal"), 1).expect("starts");
    let signed = swedish.issue_hcp("_s", &claims, now, Duration::from_secs(60)).await.expect("signs");
    expect(verify(security(&[&signed.xml])).await, "not trusted");
    let finnish = Signer::start(seal(&WORLD.fi, "seal"), 1).expect("starts");
    let long = finnish.issue_hcp("_l", &claims, now, Duration::from_secs(5 * 3600)).await.expect("signs");
    expect(verify(security(&[&long.xml])).await, "lives too long");
    let issuer = ncp_saml::HcpClaims { country: Country::parse("SE").expect("SE"), ..claims.clone() };
    let lying = finnish.issue_hcp("_i", &issuer, now, Duration::from_secs(60)).await.expect("signs");
    expect(verify(security(&[&lying.xml])).await, "another country");

    let good = hcp(now).await.expect("signs");
    let facts = TrcClaims {
        country: finland.country,
        name_id: claims.name_id.clone(),
        hcp_id: good.id.clone(),
        patient: "1^^^&2.999.1&ISO".into(),
        purpose: claims.purpose,
    };
    for (changed, reason) in [
        (TrcClaims { hcp_id: "_other".into(), ..facts.clone() }, "another assertion"),
        (TrcClaims { name_id: "somebody".into(), ..facts.clone() }, "another subject"),
    ] {
        let trc = finnish.issue_trc("_b", &changed, now, now + hour(1)).await.expect("signs");
        expect(verify(security(&[&good.xml, &trc.xml])).await, reason);
    }
    let trc = finnish.issue_trc("_b", &facts, now, now + hour(3)).await.expect("signs");
    expect(verify(security(&[&good.xml, &trc.xml])).await, "lives too long");
}

#[tokio::test]
async fn a_comment_in_a_value_changes_nothing() {
    // Comments are outside the signed bytes under exclusive c14n: the joined text is what is used (T-CMT-1).
    let (hcp, trc) = good().await;
    let split = trc.replace("1^^^&amp;2.999.1&amp;ISO", "1^^^&amp;2.999.1&amp;IS<!-- x -->O");
    assert_ne!(split, trc);
    let header = verify(security(&[&hcp, &split])).await.expect("still signed");
    assert_eq!(header.trc.expect("a TRC").patient, "1^^^&2.999.1&ISO");
}

#[tokio::test]
async fn the_same_facts_give_the_same_assertion() {
    let finland = neighbour(&WORLD.fi);
    let facts = TrcClaims {
        country: finland.country,
        name_id: "u".into(),
        hcp_id: "_h".into(),
        patient: "p".into(),
        purpose: ncp_saml::Purpose::Treatment,
    };
    let now = Timestamp::now();
    let one = trc_template("_t", &facts, now, now + SignedDuration::from_hours(1)).to_xml();
    assert_eq!(one, trc_template("_t", &facts, now, now + SignedDuration::from_hours(1)).to_xml());
}

/// xmlsec1 and signxml take what we sign (both algorithms).
#[tokio::test]
async fn other_implementations_verify_our_signatures() {
    for pki in [&WORLD.fi, &WORLD.se] {
        let signed: SignedAssertion = neighbour(pki).assertions(&patient()).await.expect("signs").remove(0);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("assertion.xml");
        std::fs::write(&file, &signed.xml).expect("writes");
        let out = Command::new("xmlsec1")
            .args(["--verify", "--id-attr:ID", "urn:oasis:names:tc:SAML:2.0:assertion:Assertion", "--trusted-pem"])
            .arg(pki.path("anchors.pem"))
            .arg("--pubkey-cert-pem")
            .arg(pki.path("seal.pem"))
            .arg(&file)
            .output()
            .expect("xmlsec1 is installed");
        assert!(out.status.success(), "xmlsec1: {}", String::from_utf8_lossy(&out.stderr));
        let Some(python) = std::env::var_os("NCP_PYTHON").map(PathBuf::from) else {
            println!("skipped: needs NCP_PYTHON with signxml (tests/run.sh sets it)");
            continue;
        };
        let script = "import sys\nfrom signxml import XMLVerifier\nxml=open(sys.argv[1],'rb').read()\ncert=open(sys.argv[2]).read()\nr=XMLVerifier().verify(xml,x509_cert=cert,id_attribute='ID')\nassert b'Radiologist on duty' in r.signed_data\n";
        let leaf = dir.path().join("leaf.pem");
        let chain = std::fs::read_to_string(pki.path("seal.pem")).expect("reads");
        let end = chain.find("-----END CERTIFICATE-----").expect("PEM") + "-----END CERTIFICATE-----\n".len();
        std::fs::write(&leaf, &chain[..end]).expect("writes");
        let out = Command::new(python).args(["-c", script]).arg(&file).arg(&leaf).output().expect("python");
        assert!(out.status.success(), "signxml: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// An element's text form, for building messages.
fn element(namespace: &str, local: &str, inner: &str) -> String {
    Element::new(namespace, local).raw(inner).to_xml()
}
