//! The WS-Trust endpoint, asked as OpenNCP's portal asks its TRC-STS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ncp_saml::{
    HcpClaims, Purpose, SealKey, SecurityHeader, SignedAssertion, Signer, SignerIdentity, SignerTrust, Verifier,
    hcp_template,
};
use ncp_soap::{Addressing, Envelope, ns};
use ncp_tests::consumer::{TOKENS, TRUST, treatment_request};
use ncp_tests::neighbour::Answer;
use ncp_tls::{Anchors, CertificateFacts, Country, Revocation};
use ncp_xml::Element;
use openssl::x509::X509Ref;

use crate::{Others, World, listed, patient};

const NOK: &str = "https://ehdsi.eu/assertion/nok";
const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";

/// The professional's assertion in the form of the eHDSI profile, signed by the country's issuer of user assertions.
async fn hcp(world: &World, claims: &HcpClaims, issued: Timestamp) -> SignedAssertion {
    let id = format!("_{}", uuid::Uuid::new_v4());
    let text = hcp_template(&id, claims, issued, Duration::from_secs(3600)).to_xml();
    world.consumer.sign(&id, &text).await.expect("signs")
}

/// What OpenNCP's client asks for: element by element, here with every detail.
fn kin_request(purpose: &str, details: &[(&str, &str)]) -> Element {
    let trust = |local: &str, text: &str| Element::new(TRUST, local).text(text);
    let nok = |local: &str, text: &str| Element::new(NOK, local).text(text);
    let parameters = Element::new(NOK, "NoKParameters").with(nok("PurposeOfUse", purpose));
    Element::new(TRUST, "RequestSecurityToken")
        .with(trust("RequestType", &format!("{TRUST}/Issue")))
        .with(trust("TokenType", SAML))
        .with(details.iter().fold(parameters, |all, (name, value)| all.with(nok(name, value))))
}

struct Norway(Anchors);

impl SignerTrust for Norway {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        self.0.verify(certificate, &[]).map_err(|e| e.to_string())?;
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        let country = facts.country.ok_or("no country")?;
        Ok(SignerIdentity { country, fingerprint: facts.fingerprint, common_name: facts.common_name, stale: false })
    }
}

/// Both assertions as another country's NCP-A checks them.
async fn accepted(world: &World, hcp: &SignedAssertion, trc: &str) -> SecurityHeader {
    let anchors = Anchors::load(&world.anchors, Revocation::none(), ncp_tls::Purpose::Seal).expect("anchors");
    let mut headers = Addressing::request("urn:x", "https://ncp.example.fi").to_headers();
    headers.push(Element::new(ns::WSSE, "Security").raw(hcp.xml.clone()).raw(trc));
    let message = Envelope { headers, body: Element::new("urn:x", "x") }.write();
    let verifier = Verifier::start(1).expect("starts");
    verifier.verify(message.into(), Arc::new(Norway(anchors)), Timestamp::now()).await.expect("verifies")
}

fn subcode(answer: &Answer) -> String {
    answer.fault().map(|f| if f.subcode.is_empty() { f.code } else { f.subcode }).unwrap_or_default()
}

#[tokio::test]
async fn a_treatment_is_confirmed_as_by_openncp() {
    let (world, _countries) = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await.world("").await;
    let hcp = hcp(&world, &world.claims, Timestamp::now()).await;
    let asked = treatment_request(&patient().to_cx(), "TREATMENT");
    let answer = world.consumer.token(std::slice::from_ref(&hcp), asked).await.expect("answers");
    assert!(answer.fault().is_none(), "{:?}", answer.fault());
    let token = answer.body.path(TRUST, &["RequestSecurityTokenResponse", "RequestedSecurityToken"]).expect("a token");
    let text = String::from_utf8(answer.envelope.to_vec()).expect("text");
    // Verbatim: that is what a portal passes on.
    let (from, to) = (text.find("<saml:Assertion").expect("begins"), text.find("</saml:Assertion>").expect("ends"));
    let issued = &text[from..to + "</saml:Assertion>".len()];
    let id = token.child(SAML, "Assertion").and_then(|a| a.get("ID")).expect("an ID");
    assert!(issued.contains(id));
    let found = accepted(&world, &hcp, issued).await;
    let trc = found.trc.expect("a TRC");
    assert_eq!((trc.patient.as_str(), trc.hcp_id.as_str()), (patient().to_cx().as_str(), hcp.id.as_str()));
    assert_eq!(trc.purpose, Some(Purpose::Treatment));
    assert!(trc.not_on_or_after <= found.hcp.not_on_or_after);
    assert_eq!(trc.signer().country, Country::parse("NO").expect("NO"));
}

#[tokio::test]
async fn what_must_not_confirm_a_treatment() {
    let others = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await;
    let (world, _countries) = others.world("").await;
    let attacker = world.attacker();
    let foreign = &world.others[0];
    let seal = SealKey::load(&foreign.path("seal.pem"), &foreign.path("seal.key")).expect("a seal");
    let signer = Signer::start(seal, 1).expect("starts");
    let hour = Duration::from_secs(3600);
    let foreign = signer.issue_hcp("_f", &world.claims, Timestamp::now(), hour).await.expect("signs");
    let asked = treatment_request(&patient().to_cx(), "TREATMENT");
    let answer = world.consumer.token(&[foreign], asked).await.expect("answers");
    assert_eq!(subcode(&answer), "wsse:InvalidSecurityToken");
    // The last one is good and served.
    let rows = attacker.rows().await.expect("rows");
    let rows: Vec<_> = rows.iter().filter(|row| row.id.starts_with("T-STS-")).collect();
    assert_eq!(rows.len(), 17);
    for row in rows {
        let finding = attacker.run(row).await;
        assert!(finding.held, "{finding:?}");
    }
}

#[tokio::test]
async fn a_next_of_kin_is_named_as_by_openncp() {
    let (world, _countries) = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await.world("").await;
    let hcp = hcp(&world, &world.claims, Timestamp::now()).await;
    let one = std::slice::from_ref(&hcp);
    let cx = patient().to_cx();
    let id = ("NextOfKinId", "2^^^&2.999.1&ISO");
    let details = [
        ("PatientId", cx.as_str()),
        id,
        ("NextOfKinFirstName", "Kari"),
        ("NextOfKinFamilyName", "Testesen"),
        ("NextOfKinGender", "F"),
        ("NextOfKinAddressStreet", "Storgata 1"),
        ("NextOfKinAddressCity", "Oslo"),
        ("NextOfKinAddressPostalCode", "0155"),
        ("NextOfKinAddressCountry", "NO"),
        ("NextOfKinBirthDate", "1980-02-29"),
    ];
    let answer = world.consumer.token(one, kin_request("TREATMENT", &details)).await.expect("answers");
    assert!(answer.fault().is_none(), "{:?}", answer.fault());
    let text = String::from_utf8(answer.envelope.to_vec()).expect("text");
    let (from, to) = (text.find("<saml:Assertion").expect("begins"), text.find("</saml:Assertion>").expect("ends"));
    let issued = &text[from..to + "</saml:Assertion>".len()];
    let found = accepted(&world, &hcp, issued).await.nok.expect("a next of kin");
    assert_eq!((found.kin_id.as_str(), found.hcp_id.as_str()), (id.1, hcp.id.as_str()));
    assert_eq!(found.birth_date.as_deref(), Some("19800229"));
    assert_eq!((found.first_name.as_deref(), found.family_name.as_deref()), (Some("Kari"), Some("Testesen")));
    for value in ["F", "Storgata 1", "Oslo", "0155", "NO"] {
        assert!(issued.contains(&format!(">{value}<")), "{value}");
    }
    // EHDSI-96 names the patient, and the next of kin as guarantor.
    let records = world.records();
    let record = records.iter().find(|xml| xml.contains("EHDSI-96")).expect("on the trail");
    for part in [&found.id, "4711", "2^^^&amp;2.999.1&amp;ISO"] {
        assert!(record.contains(part), "{part}: {record}");
    }

    // The client of earlier versions names neither patient nor birth date; the service's own name of the postal code.
    let short = kin_request("TREATMENT", &[id, ("NextOfKinPostalCode", "0155")]);
    let answer = world.consumer.token(one, short).await.expect("answers");
    assert!(answer.fault().is_none() && String::from_utf8_lossy(&answer.envelope).contains(">0155<"));
    let long = "x".repeat(300);
    for (purpose, details) in [
        ("TREATMENT", vec![("NextOfKinFirstName", "Kari")]),
        ("TREATMENT", vec![id, id]),
        ("TREATMENT", vec![id, ("PatientId", "4711")]),
        ("TREATMENT", vec![id, ("NextOfKinBirthDate", "31-02-1980")]),
        ("TREATMENT", vec![id, ("NextOfKinFamilyName", long.as_str())]),
        ("CURIOSITY", vec![id]),
    ] {
        let answer = world.consumer.token(one, kin_request(purpose, &details)).await.expect("answers");
        assert_eq!(subcode(&answer), "Sender", "{purpose} {details:?}");
    }
    let answer = world.consumer.token(one, kin_request("EMERGENCY", &[id])).await.expect("answers");
    assert_eq!(subcode(&answer), "wsse:FailedCheck");
    let answer = world.consumer.token(&[], kin_request("TREATMENT", &[id])).await.expect("answers");
    assert_eq!(subcode(&answer), "wsse:InvalidSecurity");
    assert_eq!(world.records().iter().filter(|xml| xml.contains("EHDSI-96")).count(), 2);
}

/// OpenNCP's own sample is read; its assertion is of 2010, signed with SHA-1.
#[tokio::test]
#[allow(clippy::print_stdout)]
async fn the_sample_of_openncp_is_read_and_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let file = std::env::var_os("NCP_SHARED_DATA").map_or(root, PathBuf::from).join("openncp/saml/SampleRST.xml");
    let Ok(sample) = std::fs::read_to_string(&file) else {
        println!("skipped: needs NCP_SHARED_DATA");
        return;
    };
    // The file holds a second, empty envelope behind the first.
    let sample = &sample[..sample.find("</S:Envelope>").expect("an end") + "</S:Envelope>".len()];
    let (world, _countries) = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await.world("").await;
    let answer = world.consumer.token_message(TOKENS, sample.as_bytes().to_vec()).await.expect("answers");
    assert_eq!(subcode(&answer), "wsse:InvalidSecurityToken");

    // The same message with an assertion of today and a patient named as patients are.
    let hcp = hcp(&world, &world.claims, Timestamp::now()).await;
    let (from, to) =
        (sample.find("<saml2:Assertion").expect("begins"), sample.find("</saml2:Assertion>").expect("ends"));
    let cx = patient().to_cx().replace('&', "&amp;");
    let message = [&sample[..from], &hcp.xml, &sample[to + "</saml2:Assertion>".len()..]].concat();
    let message = message.replace("123423423223452323321235t", &cx);
    // The harness signs without a declaration of its own for the prefix that its PrefixList names.
    let message = message.replace("\n            xmlns:xs=\"http://www.w3.org/2001/XMLSchema\">", ">");
    let answer = world.consumer.token_message(TOKENS, message.into_bytes()).await.expect("answers");
    assert!(answer.fault().is_none(), "{:?}", answer.fault());
    assert!(answer.body.path(TRUST, &["RequestSecurityTokenResponse", "RequestedSecurityToken"]).is_some());
}
