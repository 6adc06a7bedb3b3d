//! SE-01, SE-21: a clinician's call that is longer than the trail holds is refused, and the record of the refusal has its
//! length and digest.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use ncp_tests::asking::PATIENTS;
use serde_json::{Value, json};

use crate::clinicians::{base, call, code, confirm, knows, matches, send};
use crate::{Others, World, entry, listed, patient, second};

const MATCH: &str = "/fhir/Patient/$match";
const FHIR: &str = "application/fhir+json";
const FORM: &str = "application/x-www-form-urlencoded";
const TEXT: usize = 4 << 10;
/// What is read of a body.
const READ: usize = 64 << 10;

fn person(more: &Value) -> Value {
    let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
    let mut person = json!({ "resourceType": "Patient", "identifier": [identifier] });
    person.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    person
}

fn text_told(text: &str) -> String {
    let digest = hex::encode(openssl::sha::sha256(text.as_bytes()));
    format!("a text of the call is longer than 4 KiB ({} bytes, SHA-256 {digest})", text.len())
}

fn body_told(body: &str) -> String {
    let digest = hex::encode(openssl::sha::sha256(&body.as_bytes()[..READ]));
    let announced = format!("{} bytes announced, SHA-256 of the first {READ} bytes {digest}", body.len());
    format!("the body of the call is longer than 64 KiB ({announced})")
}

/// The answer says that the call is too long; one record more tells how long it was, and holds nothing of it.
fn refused(world: &World, (status, _, outcome): &(u16, Option<String>, Value), told: &str, before: usize) {
    assert_eq!((*status, code(&outcome["issue"][0])), (413, "request-too-long"), "{outcome}");
    let records = world.records();
    assert_eq!(records.len(), before + 1, "{told}");
    assert!(records[before].contains(told), "{told}: {}", records[before]);
    assert!(!records.concat().contains(&"x".repeat(100)), "nothing of what was too long");
}

#[tokio::test]
async fn se_01_a_clinicians_long_call_leaves_its_length_and_digest() {
    let (world, countries) = Others::none()
        .with("AA", "2.999.101", knows("2.999.101", "19800101", || listed(vec![entry("2.999.101", 1)])))
        .await
        .clinicians()
        .world("")
        .await;
    let urls = matches(&world).await;
    let documents = format!("{}/DocumentReference", base(&confirm(&world, &urls).await));
    let asked = countries[0].asked().len();

    let long = "x".repeat(TEXT + 1);
    for more in [
        json!({ "name": [{ "family": long }] }),
        json!({ "name": [{ "family": "B", "given": ["A", long] }] }),
        json!({ "birthDate": long }),
        json!({ "identifier": [{ "system": format!("urn:oid:{PATIENTS}"), "value": long }] }),
    ] {
        let before = world.records().len();
        refused(&world, &call(&world, MATCH, "", Some(&person(&more))).await, &text_told(&long), before);
    }
    let before = world.records().len();
    let emergency = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "purpose", "valueCoding": { "code": "ETREAT" } },
        { "name": "relationship", "valueBoolean": true },
        { "name": "reason", "valueString": long },
    ] });
    let confirmed = call(&world, &format!("{}/$confirm-treatment", urls[0]), "", Some(&emergency)).await;
    refused(&world, &confirmed, &text_told(&long), before);
    let before = world.records().len();
    let found = call(&world, &format!("{documents}?type=a,{long}"), "", None).await;
    refused(&world, &found, &text_told(&long), before);

    // A query of more than 256 KiB.
    let padding = " ".repeat((256 << 10) + 1);
    let form = format!("status=current&note={}", "x,".repeat(128 << 10));
    for (url, kind, body) in [
        (MATCH.to_owned(), FHIR, person(&json!({})).to_string() + &padding),
        (format!("{}/$confirm-treatment", urls[0]), FHIR, emergency.to_string() + &padding),
        (format!("{documents}/_search"), FORM, form),
    ] {
        let before = world.records().len();
        refused(&world, &send(&world, &url, "", Some((kind, body.clone()))).await, &body_told(&body), before);
    }
    assert_eq!(countries[0].asked().len(), asked, "nothing was asked");

    // What is as long as it may be is served, and so is the next call.
    let most = person(&json!({ "name": [{ "family": "x".repeat(TEXT) }] }));
    assert_eq!(call(&world, MATCH, "", Some(&most)).await.0, 200);
    assert_eq!(call(&world, &documents, "", None).await.0, 200);
}

/// Who shows no token is refused for that alone: nothing is stored of what was sent.
#[tokio::test]
async fn se_01_a_long_call_without_a_token_stores_nothing_of_it() {
    let others = Others::none().with("AA", "2.999.101", knows("2.999.101", "19800101", || listed(Vec::new()))).await;
    let (world, _countries) = others.clinicians().world("").await;
    let port = world.clinic.as_ref().expect("a clinicians' side").0.port();
    let connector =
        ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1").expect("a connector");
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, second() * 10);
    let body = person(&json!({ "name": [{ "family": "x".repeat(TEXT + 1) }] })).to_string();
    let request = Request::post(format!("https://localhost:{port}{MATCH}")).header("content-type", FHIR);
    let answer = http.request(request.body(Full::new(Bytes::from(body))).expect("a request")).await.expect("answers");
    assert_eq!(answer.status().as_u16(), 401);
    assert!(!world.records().concat().contains("longer than"));
}
