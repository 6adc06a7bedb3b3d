//! What must not be believed, shown on a gateway: one row per id of the threat table, the expected answer as data. Beside
//! it the verifier alone, with two other implementations of XML signatures to differ from.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use ncp_ihe::actions;
use ncp_saml::{AssertionError, SecurityHeader, SignerIdentity, SignerTrust, TrcClaims, Verifier, trc_template};
use ncp_tests::attack::{self, Finding, Row};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::{Algorithm, Use, peer_pin};
use ncp_tls::{Anchors, CertificateFacts, Country, Purpose, Revocation};
use openssl::x509::X509Ref;

mod blocked;
mod callers;
mod closed;
mod content;
mod cost;
mod crl;
mod directives;
mod initiating;
mod judges;
mod long;
mod metrics;
mod opted_out;
mod preamble;
mod records;
mod rollover;
mod smp;
mod states;
mod threats;
mod trail;
mod treating;
mod world;

use world::World;

struct Trust(Anchors, Country);

impl SignerTrust for Trust {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.0.verify(certificate, &[]).map_err(|e| e.to_string())?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        match facts.country {
            Some(country) if country == self.1 => Ok(SignerIdentity {
                country,
                fingerprint: facts.fingerprint,
                common_name: facts.common_name,
                stale: false,
            }),
            _ => Err("country".to_owned()),
        }
    }
}

fn trust(world: &World, code: &str) -> Arc<Trust> {
    let anchors = world.path(&format!("{code}/anchors.pem"));
    let anchors = Anchors::load(&anchors, Revocation::none(), Purpose::Seal).expect("anchors");
    Arc::new(Trust(anchors, Country::parse(&code.to_uppercase()).expect("a country")))
}

async fn verify(world: &World, verifier: &Verifier, row: &Row) -> Result<SecurityHeader, AssertionError> {
    let message = row.messages.last().expect("a message");
    verifier.verify(message.bytes.clone().into(), trust(world, "fi"), Timestamp::now()).await
}

/// Where reports go.
fn report_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Every row over mutual TLS against a gateway (SE-15, SE-21 and SE-23 among them: T-SAM, T-SOA; ON-06: T-BND-6b, 6f;
/// ON-14: T-SAM-50): the answer is one of those that the row allows, and the next good
/// request is served.
#[tokio::test(flavor = "multi_thread")]
async fn every_row_against_a_responding_gateway() {
    let world = World::new();
    let gateway = world.start("rows", |text| text).await;
    let attacker = world.attacker(&gateway);
    let mut findings = Vec::new();
    for row in attacker.rows().await.expect("rows") {
        findings.push(attacker.run(&row).await);
    }
    let anchors = world.no.path("anchors.pem");
    let at = ("127.0.0.1", gateway.address.port());
    findings.extend(attack::handshakes(&attacker, &anchors, at, Some("revoked-client")).await.expect("handshakes"));
    let file = report_folder().join("abuse-responding.md");
    std::fs::write(&file, attack::report("responding, in process", &findings)).expect("writes");
    println!("{} rows, report in {}", findings.len(), file.display());
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    gateway.stop().await;
}

/// Against a gateway that names its peers' certificates, no other certificate of their authorities will do.
#[tokio::test(flavor = "multi_thread")]
async fn se_10_other_names_of_the_same_authority() {
    let world = World::new();
    for (name, usage) in [("consumer", Use::Client), ("xua", Use::Seal)] {
        world.pki("fi").leaf(name, usage, Algorithm::P256, 0, 90).expect("a leaf");
    }
    let gateway = world.start("names", |text| text.replacen("pin = \"anchor\"\n", &peer_pin("FI"), 1)).await;
    let attacker = world.attacker(&gateway);
    let at = ("127.0.0.1", gateway.address.port());
    let findings = attack::other_names(&attacker, &world.no.path("anchors.pem"), at).await.expect("rows");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(findings.len() == 4 + 6 * 3 && wrong.is_empty(), "{wrong:#?}");
    gateway.stop().await;
}

/// The verifier alone, without a gateway around it, refuses each row for the reason that the row names.
#[tokio::test]
async fn the_verifier_refuses_for_the_reason_named() {
    let world = World::new();
    let gateway = world.start("verifier", |text| text).await;
    let verifier = Verifier::start(1).expect("starts");
    let mut wrong = Vec::new();
    for row in world.attacker(&gateway).rows().await.expect("rows").iter().filter(|r| !r.rule.is_empty()) {
        match verify(&world, &verifier, row).await {
            Ok(_) => wrong.push(format!("{}: accepted", row.id)),
            Err(error) if !error.to_string().contains(row.rule) => {
                wrong.push(format!("{}: {error}, expected {}", row.id, row.rule))
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Trust in two countries at once, as no gateway has it: the binding of the two assertions must hold without it.
struct Both([Arc<Trust>; 2]);

impl SignerTrust for Both {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.0[0].signer(certificate).or_else(|_| self.0[1].signer(certificate))
    }
}

#[tokio::test]
async fn a_treatment_is_of_the_country_of_its_professional() {
    let world = World::new();
    let gateway = world.start("countries", |text| text).await;
    let (fi, se) = (world.neighbour("fi", &gateway), world.neighbour("se", &gateway));
    let patient = ncp_ihe::PatientId::parse_cx(world::PATIENT).expect("a CX");
    let hcp = fi.hcp(&fi.claims(), Timestamp::now()).await.expect("signs");
    let verifier = Verifier::start(1).expect("starts");
    for (of, expected) in [(&fi, Ok(())), (&se, Err(AssertionError::TrcBinding("signed by another country")))] {
        let trc = of.trc(&hcp, &of.claims(), &patient).await.expect("signs");
        let body = Neighbour::find_documents(&patient).to_element();
        let message = fi.message(actions::ITI38_REQUEST, XCA, &[hcp.clone(), trc], body);
        let trust = Arc::new(Both([trust(&world, "fi"), trust(&world, "se")]));
        let got = verifier.verify(message.into(), trust, Timestamp::now()).await.map(|_| ());
        assert_eq!(got, expected);
    }
    gateway.stop().await;
}

/// A verifier that knows an assertion takes it again, in another message too, and nothing that differs from it in a byte.
#[tokio::test]
async fn what_is_known_is_taken_byte_for_byte() {
    let world = World::new();
    let gateway = world.start("again", |text| text).await;
    let patient = ncp_ihe::PatientId::parse_cx(world::PATIENT).expect("a CX");
    let neighbour = world.neighbour("fi", &gateway);
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let body = || Neighbour::find_documents(&patient).to_element();
    let message =
        || String::from_utf8(neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body())).expect("text");
    let (verifier, trust) = (Verifier::start(1).expect("starts"), trust(&world, "fi"));
    let verify = async |message: String| verifier.verify(message.into(), trust.clone(), Timestamp::now()).await;
    let (first, again) = (verify(message()).await.expect("verifies"), verify(message()).await.expect("verifies again"));
    assert_eq!((first.hcp.id.as_str(), first.hcp.digest()), (again.hcp.id.as_str(), again.hcp.digest()));
    for (from, to) in [("Radiologist on duty", "Radiologist on duly"), ("^^^&amp;", "9^^^&amp;")] {
        assert!(message().contains(from), "{from}");
        let error = verify(message().replace(from, to)).await.expect_err("changed");
        assert!(matches!(error, AssertionError::Signature(_)), "{from}: {error}");
    }
    let late = Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let error = verifier.verify(message().into(), trust.clone(), late).await.expect_err("ended");
    assert!(matches!(error, AssertionError::Time(_)), "{error}");
    gateway.stop().await;
}

/// An assertion may take a namespace from around it (Finland's do): the same bytes elsewhere are another assertion.
#[tokio::test]
async fn what_is_known_is_known_where_it_stands() {
    let world = World::new();
    let gateway = world.start("around", |text| text).await;
    let patient = ncp_ihe::PatientId::parse_cx(world::PATIENT).expect("a CX");
    let neighbour = world.neighbour("fi", &gateway);
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let body = Neighbour::find_documents(&patient).to_element();
    let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
    let message = String::from_utf8(message).expect("text");
    let declared = " xmlns:xs=\"http://www.w3.org/2001/XMLSchema\"";
    assert_eq!(message.matches(declared).count(), 2, "one in each assertion");
    let around = |declaration: &str| {
        let inner = message.replace(declared, "");
        let tag = inner.find("Security ").expect("a Security header") + "Security".len();
        format!("{}{declaration}{}", &inner[..tag], &inner[tag..])
    };
    let (verifier, trust) = (Verifier::start(1).expect("starts"), trust(&world, "fi"));
    let verify = async |message: String| verifier.verify(message.into(), trust.clone(), Timestamp::now()).await;
    verify(around(declared)).await.expect("the namespace comes from around it");
    let error = verify(around(" xmlns:xs=\"urn:other\"")).await.expect_err("another namespace");
    assert!(matches!(error, AssertionError::Signature(_)), "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn the_same_facts_give_the_same_assertion() {
    let facts = TrcClaims {
        country: Country::parse("FI").expect("FI"),
        name_id: "u".into(),
        hcp_id: "_h".into(),
        patient: "p".into(),
        purpose: ncp_saml::Purpose::Treatment,
    };
    let now = Timestamp::now();
    let one = trc_template("_t", &facts, now, now + jiff::SignedDuration::from_hours(1)).to_xml();
    assert_eq!(one, trc_template("_t", &facts, now, now + jiff::SignedDuration::from_hours(1)).to_xml());
}
