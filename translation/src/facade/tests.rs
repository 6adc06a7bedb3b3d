//! The `$translate` fixtures of the HL7 terminology ecosystem, replayed in R4 and R5, and the other operations.

#![allow(clippy::print_stdout)] // a test says what it leaves out

use std::path::PathBuf;

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;
use tower::ServiceExt;

use super::routes;
use crate::load::build;
use crate::load::tests::{fixtures, shipped};
use crate::snapshot::Snapshot;
use crate::store::Store;

fn ecosystem() -> Store {
    let files: Vec<PathBuf> = [
        "ConceptMap-full.json",
        "ConceptMap-novs.json",
        "codesystem-source.json",
        "codesystem-target.json",
        "valueset-source.json",
        "valueset-target.json",
    ]
    .iter()
    .map(|f| fixtures().join("tx-ecosystem").join(f))
    .collect();
    Store::new(Snapshot::built(build(&files).unwrap_or_else(|p| panic!("{p:#?}"))).expect("a snapshot"))
        .expect("passes")
}

async fn ask(store: &Store, method: &str, uri: &str, body: &str) -> (u16, Value) {
    let request = Request::builder().method(method).uri(uri).body(Body::from(body.to_owned())).expect("a request");
    let response = routes(store.clone()).oneshot(request).await.expect("answers");
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, serde_json::from_slice(&bytes).expect("JSON"))
}

/// Whether an answer is the expected one: arrays in any order, `$optional$` parts may be missing.
fn fits(expected: &Value, found: &Value, release: &str) -> bool {
    match (expected, found) {
        (Value::Array(e), Value::Array(f)) => {
            let optional = |e: &Value| match &e["$optional$"] {
                Value::Bool(optional) => *optional,
                Value::String(text) => text != &format!("version:{release}") && text.starts_with("version:"),
                _ => false,
            };
            let mut left: Vec<&Value> = f.iter().collect();
            for e in e {
                match left.iter().position(|f| fits(e, f, release)) {
                    Some(at) => {
                        left.remove(at);
                    }
                    None if optional(e) || e["$optional$"].is_string() => {}
                    None => return false,
                }
            }
            left.is_empty()
        }
        (Value::Object(e), Value::Object(f)) => {
            let named = e.iter().filter(|(k, _)| !k.starts_with('$'));
            named.clone().count() == f.len()
                && named.into_iter().all(|(k, v)| f.get(k).is_some_and(|f| fits(v, f, release)))
        }
        (Value::String(e), Value::String(_)) if e.starts_with('$') && e.ends_with('$') => true,
        (e, f) => e == f,
    }
}

#[tokio::test]
async fn tx_ecosystem_translate_fixtures() {
    let store = ecosystem();
    let read = |name: &str| std::fs::read_to_string(fixtures().join("tx-ecosystem").join(name)).expect("a fixture");
    for case in ["translate-1", "translate-reverse"] {
        let expected: Value = serde_json::from_str(&read(&format!("{case}-response-parameters.json"))).expect("JSON");
        for release in ["4", "5"] {
            let uri = format!("/r{release}/ConceptMap/$translate");
            let (status, found) = ask(&store, "POST", &uri, &read(&format!("{case}-request-parameters.json"))).await;
            assert_eq!(status, 200, "{found}");
            assert!(fits(&expected, &found, release), "{case} R{release}: {found:#}");
            println!("{case} R{release}: pass");
        }
    }
    for case in ["snomed-translate", "omop implicit", "omop implicit-bad"] {
        println!("{case}: not applicable, needs SNOMED CT or OMOP content");
    }
}

#[tokio::test]
async fn the_ecosystems_other_rows_which_its_list_does_not_test() {
    let store = ecosystem();
    let ask = |code: &'static str| {
        let store = store.clone();
        async move {
            let uri = format!(
                "/r4/ConceptMap/$translate?system=http://hl7.org/fhir/test/CodeSystem/source&code={code}&targetsystem=http://hl7.org/fhir/test/CodeSystem/target"
            );
            ask(&store, "GET", &uri, "").await.1
        }
    };
    let part = |v: &Value, name: &str| -> Value {
        let m = v["parameter"]
            .as_array()
            .and_then(|p| p.iter().find(|p| p["name"] == "match"))
            .cloned()
            .unwrap_or_default();
        m["part"].as_array().and_then(|p| p.iter().find(|p| p["name"] == name)).cloned().unwrap_or_default()
    };
    assert_eq!(part(&ask("code-2").await, "equivalence")["valueCode"], "narrower");
    assert_eq!(part(&ask("code-3").await, "equivalence")["valueCode"], "wider");
    let disjoint = ask("code-2b").await;
    assert_eq!(
        (&disjoint["parameter"][0]["valueBoolean"], &part(&disjoint, "equivalence")["valueCode"]),
        (&false.into(), &"disjoint".into())
    );
    assert_eq!(part(&ask("code-5").await, "concept")["valueCoding"]["code"], "temp", "unmapped: fixed");
}

#[tokio::test]
async fn metadata_lookup_validate_maps_and_refusals() {
    let store = Store::new(shipped()).expect("passes");
    assert_eq!(ask(&store, "GET", "/r5/metadata", "").await.1["fhirVersion"], "5.0.0");
    assert_eq!(ask(&store, "GET", "/metadata", "").await.1["fhirVersion"], "4.0.1");
    let (status, found) =
        ask(&store, "GET", "/r4/CodeSystem/$lookup?system=http://loinc.org&code=24627-2&displayLanguage=nb", "").await;
    assert_eq!(
        (
            status,
            found["parameter"]
                .as_array()
                .and_then(|p| p.iter().find(|p| p["name"] == "display"))
                .map(|p| p["valueString"].clone())
        ),
        (200, Some("CT toraks".into()))
    );
    let (status, found) =
        ask(&store, "GET", "/r4/CodeSystem/$validate-code?url=http://loinc.org&code=24627-2", "").await;
    assert_eq!((status, &found["parameter"][0]["valueBoolean"]), (200, &true.into()));
    let (_, found) = ask(&store, "GET", "/r4/ConceptMap?url=urn:ncp:ConceptMap:no-xds-metadata", "").await;
    assert_eq!((&found["total"], &found["entry"][0]["resource"]["version"]), (&1.into(), &"2026-11".into()));
    for (uri, status) in [
        ("/r4/ConceptMap/$translate", 400),
        ("/r4/ConceptMap/$translate?system=urn:none&code=x", 404),
        ("/r4/ConceptMap/$translate?system=%ff&code=x", 400),
        ("/r4/CodeSystem/$lookup?system=http://loinc.org&code=nope", 404),
        ("/r4/ValueSet/$validate-code?url=urn:none&system=http://loinc.org&code=x", 404),
        ("/r4/Patient/1", 404),
    ] {
        let (found, outcome) = ask(&store, "GET", uri, "").await;
        assert_eq!((found, &outcome["resourceType"]), (status, &"OperationOutcome".into()), "{uri}");
    }
    let (status, _) = ask(&store, "POST", "/r5/ConceptMap/$translate", "{").await;
    assert_eq!(status, 400);
    let tx = r#"{"resourceType":"Parameters","parameter":[{"name":"tx-resource","resource":{"resourceType":"CodeSystem"}}]}"#;
    let (status, outcome) = ask(&store, "POST", "/r5/ConceptMap/$translate", tx).await;
    assert_eq!(status, 400);
    assert!(outcome.to_string().contains("not supported"));
}
