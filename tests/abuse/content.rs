//! What assertions may say beside what everybody writes, and what the trail says of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_ihe::{PatientId, actions};
use ncp_saml::{
    HcpClaims, NextOfKin, NextOfKinClaims, Purpose, SealKey, SignedAssertion, Signer, TrcClaims, hcp_template,
};
use ncp_tests::attack::{INTEGRITY, SERVED, verdict};
use ncp_tests::neighbour::{Neighbour, XCA};

use crate::world::{Gateway, PATIENT, World, peer};

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

fn id() -> String {
    format!("_{}", uuid::Uuid::new_v4())
}

/// Finland with its seal, as a test needs it.
struct Finland {
    neighbour: Neighbour,
    seal: Signer,
}

impl Finland {
    fn of(world: &World, gateway: &Gateway) -> Self {
        let pki = world.pki("fi");
        let seal = SealKey::load(&pki.path("seal.pem"), &pki.path("seal.key")).expect("a seal");
        Self { neighbour: world.neighbour("fi", gateway), seal: Signer::start(seal, 1).expect("starts") }
    }

    async fn hcp(&self, claims: &HcpClaims) -> SignedAssertion {
        self.neighbour.hcp(claims, Timestamp::now()).await.expect("signs")
    }

    async fn trc(&self, hcp: &SignedAssertion, purpose: Purpose) -> SignedAssertion {
        let claims = self.neighbour.claims();
        let facts = TrcClaims {
            country: claims.country,
            name_id: claims.name_id,
            hcp_id: hcp.id.clone(),
            patient: patient().to_cx(),
            purpose,
        };
        let now = Timestamp::now();
        let until = now + SignedDuration::from_hours(1);
        self.seal.issue_trc(&id(), &facts, now, until).await.expect("signs")
    }

    async fn kin(&self, hcp_id: &str, subject: &str) -> SignedAssertion {
        let kin = NextOfKin { id: "kin-1".into(), ..NextOfKin::default() };
        let country = self.neighbour.country;
        let facts = NextOfKinClaims { country, name_id: subject.into(), hcp_id: hcp_id.into(), kin };
        let now = Timestamp::now();
        self.seal.issue_nok(&id(), &facts, now, now + SignedDuration::from_hours(1)).await.expect("signs")
    }

    async fn ask(&self, assertions: &[SignedAssertion]) -> String {
        let body = Neighbour::find_documents(&patient()).to_element();
        verdict(&self.neighbour.call(actions::ITI38_REQUEST, XCA, assertions, body).await.expect("an answer"))
    }
}

/// The peer with further lines.
fn finland_with(lines: &'static str) -> impl FnOnce(String) -> String {
    move |text| {
        let plain = peer("fi", "FI", "2.999.246");
        assert!(text.contains(&plain));
        text.replacen(&plain, &format!("{plain}{lines}\n"), 1)
    }
}

/// What the trail holds when the gateway has ended.
async fn records(gateway: Gateway) -> Vec<String> {
    let options = gateway.app.config.audit.spool_options("test".into());
    gateway.stop().await;
    let content = ncp_audit::read_spool(&options).expect("reads");
    content.records.into_iter().map(|(_, _, xml)| xml).collect()
}

/// OpenNCP's issuer writes one subject into every next-of-kin assertion; what binds is the reference and the signer.
#[tokio::test(flavor = "multi_thread")]
async fn on_05_a_next_of_kin_is_bound_by_its_reference() {
    let world = World::new();
    for (name, lines, other_subject) in [("plain", "", "1002"), ("incumbent", "kind = \"openncp\"", SERVED)] {
        let gateway = world.start(name, finland_with(lines)).await;
        let finland = Finland::of(&world, &gateway);
        let hcp = finland.hcp(&finland.neighbour.claims()).await;
        let trc = finland.trc(&hcp, Purpose::Treatment).await;
        let own = finland.neighbour.claims().name_id;
        for (hcp_id, subject, expected) in [
            (hcp.id.as_str(), own.as_str(), SERVED),
            (hcp.id.as_str(), "doctorId", other_subject),
            ("_other", "doctorId", "1002"),
            ("_other", own.as_str(), "1002"),
        ] {
            let nok = finland.kin(hcp_id, subject).await;
            let got = finland.ask(&[nok, hcp.clone(), trc.clone()]).await;
            assert_eq!(got, expected, "{name}: {hcp_id} {subject}");
        }
        gateway.stop().await;
    }
}

/// The purpose chosen for a patient after the login is the one that counts, and the trail says so.
#[tokio::test(flavor = "multi_thread")]
async fn on_06_the_purpose_of_the_treatment_is_the_effective_one() {
    let world = World::new();
    let gateway = world.start("purpose", |text| text).await;
    let finland = Finland::of(&world, &gateway);
    let hcp = finland.hcp(&finland.neighbour.claims()).await;
    let treatment = finland.trc(&hcp, Purpose::Treatment).await;
    assert_eq!(finland.ask(&[hcp.clone(), treatment]).await, SERVED);
    let emergency = finland.trc(&hcp, Purpose::Emergency).await;
    assert_eq!(finland.ask(&[hcp, emergency]).await, SERVED);
    let login = HcpClaims { purpose: Purpose::Emergency, ..finland.neighbour.claims() };
    let hcp = finland.hcp(&login).await;
    let less = finland.trc(&hcp, Purpose::Treatment).await;
    assert_eq!(finland.ask(&[hcp, less]).await, "1002");
    let records = records(gateway).await;
    let started = records.iter().filter(|xml| xml.contains("csd-code=\"110127\"")).count();
    assert_eq!(started, 1, "one emergency, in an answer that was served: {records:#?}");
}

/// A weak class of login stays refused; a country may vouch for one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn on_18_a_country_may_vouch_for_its_classes_of_login() {
    let (national, world) = ("urn:example:fi:card", World::new());
    let lines = "authn_classes = [\"urn:example:fi:card\"]";
    for (name, lines, expected) in [("strict", "", "4702"), ("vouched", lines, SERVED)] {
        let gateway = world.start(name, finland_with(lines)).await;
        let finland = Finland::of(&world, &gateway);
        for (class, expected) in [
            (national, expected),
            ("urn:oasis:names:tc:SAML:2.0:ac:classes:Password", "4702"),
            ("urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified", "4702"),
        ] {
            let claims = HcpClaims { authn_context_class: class.into(), ..finland.neighbour.claims() };
            let hcp = finland.hcp(&claims).await;
            let trc = finland.trc(&hcp, Purpose::Treatment).await;
            assert_eq!(finland.ask(&[hcp, trc]).await, expected, "{name}: {class}");
        }
        gateway.stop().await;
    }
}

/// The record of what was refused for its length holds length and digest, and nothing of the text.
#[tokio::test(flavor = "multi_thread")]
async fn se_21_a_text_that_is_too_long_is_recorded_by_its_digest() {
    let world = World::new();
    let gateway = world.start("long", |text| text).await;
    let finland = Finland::of(&world, &gateway);
    let long = "Radiologist ".repeat(90_000);
    let claims = HcpClaims { subject_name: long.clone(), ..finland.neighbour.claims() };
    let hcp_id = id();
    let template = hcp_template(&hcp_id, &claims, Timestamp::now(), Duration::from_secs(3600));
    let hcp = finland.seal.sign(&hcp_id, template).await.expect("signs");
    let trc = finland.trc(&hcp, Purpose::Treatment).await;
    assert_eq!(finland.ask(&[hcp, trc]).await, INTEGRITY);
    let records = records(gateway).await;
    let digest = hex::encode(openssl::sha::sha256(long.as_bytes()));
    let told = records.iter().filter(|xml| xml.contains(&digest) && xml.contains(&long.len().to_string())).count();
    assert!(told > 0, "{records:#?}");
    let bytes: usize = records.iter().map(String::len).sum();
    assert!(bytes <= 64 << 10, "{bytes} bytes of records");
    assert!(records.iter().all(|xml| !xml.contains("Radiologist Radiologist")));
}

/// Where the operator says by which addresses we are known, a message to another one is for somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn se_23_a_message_to_another_address_is_not_ours() {
    let (world, ours) = (World::new(), "https://ncp.example.no/xca");
    let known = |text: String| text.replacen("[listener]\n", &format!("[listener]\naddresses = [\"{ours}\"]\n"), 1);
    let (strict, open) = (world.start("addressed", known).await, world.start("open", |text| text).await);
    for (gateway, is_strict) in [(strict, true), (open, false)] {
        let neighbour = world.neighbour("fi", &gateway);
        for (to, is_ours) in [
            (ours, true),
            ("https://NCP.example.no/xca/", true),
            ("http://www.w3.org/2005/08/addressing/anonymous", true),
            ("https://elsewhere.example/xca", false),
            ("https://ncp.example.no/xca?x", false),
        ] {
            let assertions = neighbour.assertions(&patient()).await.expect("signs");
            let body = Neighbour::find_documents(&patient()).to_element();
            let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
            let text = String::from_utf8(message).expect("text");
            let written = format!("https://127.0.0.1:{}{XCA}", gateway.address.port());
            assert!(text.contains(&written));
            let message = text.replacen(&written, to, 1).into_bytes();
            let answer = neighbour.post(XCA, "application/soap+xml; charset=UTF-8", message).await.expect("an answer");
            match answer.fault() {
                None => assert!(is_ours || !is_strict, "{to}"),
                Some(fault) => {
                    assert!(is_strict && !is_ours, "{to}: {}", fault.subcode);
                    assert_eq!(fault.subcode, "wsa:DestinationUnreachable");
                }
            }
        }
        gateway.stop().await;
    }
}
