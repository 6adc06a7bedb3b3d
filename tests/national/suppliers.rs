//! One rule for whoever answers for patients: demographics narrow, and a record that is out of use is nobody's (CO-05).

use jiff::Timestamp;
use ncp_ihe::{PatientAnswer, PatientQuery, PatientResponse, PersonName, actions};
use ncp_tests::neighbour::XCPD;
use serde_json::{Value, json};

use crate::domain::Domain;
use crate::grpc::{self, entry, holdings, served};
use crate::harness::{Asker, HOME, World};
use crate::xds::domain;
use crate::{BIRTH_DATE, oid, patient, study};

/// The degree of the match that ITI-55 names; none where it finds nobody.
async fn found(asker: &Asker, family: Option<&str>, birth_date: Option<&str>, gender: Option<&str>) -> Option<u8> {
    let name = family.map(|family| PersonName { family: family.into(), given: vec!["Jon".into()] });
    let text = |text: Option<&str>| text.map(ToOwned::to_owned);
    let (birth_date, gender) = (text(birth_date), text(gender));
    let query = PatientQuery::new(oid("2.999.246"), oid(HOME), vec![patient()], name, birth_date, gender);
    let hcp = asker.hcp(&asker.claims(), Timestamp::now()).await.expect("signs");
    let body = query.to_element(Timestamp::now());
    let answer = asker.call(actions::ITI55_REQUEST, XCPD, &[hcp], body).await.expect("an answer");
    match PatientResponse::read(&answer.body).expect("ITI-55") {
        PatientAnswer::Matches(matches) => {
            assert_eq!((matches.len(), &matches[0].record.id), (1, &patient()));
            Some(matches[0].degree)
        }
        PatientAnswer::NoMatch { .. } => None,
        PatientAnswer::Refused(refusal) => panic!("{refusal:?}"),
    }
}

async fn demographics_narrow(asker: &Asker, supplier: &str) {
    let own = (Some("Testesen"), Some(BIRTH_DATE), Some("M"));
    for (family, birth_date, gender, expected) in [
        (None, None, None, Some(100)),
        (own.0, own.1, own.2, Some(100)),
        (Some(" testesen "), None, None, Some(100)),
        (Some("Nordmann"), own.1, own.2, None),
        (own.0, Some("19770531"), own.2, None),
        (own.0, own.1, Some("F"), None),
        (None, None, Some("F"), None),
    ] {
        let got = found(asker, family, birth_date, gender).await;
        assert_eq!(got, expected, "{supplier}: {family:?} {birth_date:?} {gender:?}");
    }
}

async fn supplied(transaction: &str) -> (World, Domain, Asker) {
    let world = World::new();
    let place = if transaction == "ITI-47" { "pdq" } else { "fhir" };
    let patients = format!("{{ transaction = \"{transaction}\", endpoint = \"https://localhost:PORT/{place}\" }}");
    let (domain, asker, _files) = domain(&world, &study(8, 1), &patients).await;
    (world, domain, asker)
}

#[tokio::test]
async fn co_05_demographics_narrow_what_each_supplier_answers() {
    for transaction in ["ITI-47", "ITI-119"] {
        let (_world, _domain, asker) = supplied(transaction).await;
        demographics_narrow(&asker, transaction).await;
    }
    let world = World::new();
    let report = b"<report/>".to_vec();
    let document = (entry("2.999.47.31.7", "text/xml", report.len() as u64), report);
    let port = served(&world, holdings(document)).await;
    let asker = world.gateway(false, &grpc::connector(&world, port)).await;
    demographics_narrow(&asker, "grpc").await;
    let world = World::new();
    demographics_narrow(&world.gateway(true, "").await, "the patients' file").await;
}

/// HL7 V3 has many words for a record that is out of use; `active` and `normal` are those for one that is in use.
#[tokio::test]
async fn co_05_a_record_out_of_use_is_nobodys_in_iti_47() {
    let (_world, domain, asker) = supplied("ITI-47").await;
    for (status, expected) in [
        ("active", Some(100)),
        ("normal", Some(100)),
        ("inactive", None),
        ("nullified", None),
        ("terminated", None),
        ("obsolete", None),
        ("cancelled", None),
        ("suspended", None),
        ("pending", None),
        ("Active", None),
        ("", None),
    ] {
        domain.0.lock().expect("not poisoned").status = Some(status);
        assert_eq!(found(&asker, None, None, None).await, expected, "{status:?}");
    }
}

#[tokio::test]
async fn co_05_a_record_out_of_use_or_merely_possible_is_nobodys_in_iti_119() {
    let (_world, domain, asker) = supplied("ITI-119").await;
    let graded = |grade: &str| {
        let url = "http://hl7.org/fhir/StructureDefinition/match-grade";
        json!({ "search": { "mode": "match", "score": 0.3, "extension": [{ "url": url, "valueCode": grade }] } })
    };
    let patient = |member: Value| json!({ "resource": member });
    for (entry, expected) in [
        (json!({}), Some(100)),
        (graded("certain"), Some(100)),
        (graded("probable"), Some(100)),
        (graded("possible"), None),
        (graded("certainly-not"), None),
        (patient(json!({ "active": true })), Some(100)),
        (patient(json!({ "active": false })), None),
        (patient(json!({ "link": [{ "type": "replaces", "other": { "reference": "Patient/2" } }] })), Some(100)),
        (patient(json!({ "link": [{ "type": "replaced-by", "other": { "reference": "Patient/2" } }] })), None),
    ] {
        domain.0.lock().expect("not poisoned").entry = entry.clone();
        assert_eq!(found(&asker, None, None, None).await, expected, "{entry}");
    }
}

/// IM-18 for persons: a supplier of ITI-119 that is busy says when, and the other country hears it.
#[tokio::test]
async fn im_18_a_busy_supplier_says_when_to_ask_again() {
    let (_world, domain, asker) = supplied("ITI-119").await;
    domain.0.lock().expect("not poisoned").busy = Some(600);
    let query = PatientQuery::new(oid("2.999.246"), oid(HOME), vec![patient()], None, None, None);
    let hcp = asker.hcp(&asker.claims(), Timestamp::now()).await.expect("signs");
    let body = query.to_element(Timestamp::now());
    let answer = asker.call(actions::ITI55_REQUEST, XCPD, &[hcp], body).await.expect("an answer");
    let answer = PatientResponse::read(&answer.body).expect("ITI-55");
    let PatientAnswer::Refused(refusal) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.reason, "ResponderBusy");
    assert!(refusal.text.starts_with("busy, try again in 600 s"), "{refusal:?}");
}
