//! Scopes and tokens at the clinicians' port: what a scope does not say, or says in a way that is not read, is refused over
//! HTTP before any other country hears of it (T-TOK-1 to T-TOK-4).

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use ncp_tests::asking::PATIENTS;
use ncp_tests::issuer::Issuer;
use serde_json::{Value, json};

use crate::clinicians::{base, confirm, knows, matches};
use crate::{Others, World, entry, listed, patient, second};

/// Status, challenge and problem of a call with a token.
async fn call(world: &World, token: &str, url: &str, body: Option<&Value>) -> (u16, String, Value) {
    let clinic = world.clinic.as_ref().expect("a clinicians' side");
    let connector =
        ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1").expect("a connector");
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, second() * 10);
    let path = url.strip_prefix(ncp_tests::issuer::BASE).unwrap_or(url);
    let request = Request::builder()
        .method(if body.is_some() { "POST" } else { "GET" })
        .uri(format!("https://localhost:{}{path}", clinic.0.port()))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/fhir+json")
        .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
        .expect("a request");
    let (head, body) = http.request(request).await.expect("answers").into_parts();
    let challenge = head.headers.get("www-authenticate").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = body.collect().await.expect("a body").to_bytes();
    (head.status.as_u16(), challenge, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn world() -> (World, Vec<ncp_tests::country::Country>) {
    let known = knows("2.999.101", "19800101", || listed(vec![entry("2.999.101", 1)]));
    Others::none().with("AA", "2.999.101", known).await.clinicians().world("").await
}

fn person() -> Value {
    let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
    json!({ "resourceType": "Patient", "identifier": [identifier] })
}

/// A token of the professional, changed.
fn token(world: &World, typ: Option<&str>, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = Issuer::claims("hpr-1");
    change(&mut claims);
    world.clinic.as_ref().expect("a side").1.sign(&claims, typ).expect("signs")
}

fn scoped(world: &World, scope: &str) -> String {
    token(world, Some("at+jwt"), |claims| claims["scope"] = json!(scope))
}

#[tokio::test]
async fn se_16_what_a_scope_does_not_say_is_forbidden() {
    let (world, countries) = world().await;
    let (search, person) = ("/fhir/Patient/$match", person());
    for scope in [
        "user/Patient.rs?_id=1",
        "user/Patient.s?identifier=4711",
        "user/Patient.rs?",
        "user/Patient.r",
        "user/Patient.read.s",
        "patient/Patient.rs",
        "launch/patient",
        "launch/patient openid fhirUser",
        "user/DocumentReference.rs user/Binary.r",
        "user/Patient.cud",
        "USER/Patient.rs",
    ] {
        let (status, challenge, problem) = call(&world, &scoped(&world, scope), search, Some(&person)).await;
        assert_eq!(status, 403, "{scope}: {problem}");
        assert!(challenge.contains("insufficient_scope"), "{scope}: {challenge}");
    }
    for details in [json!([{ "type": "patient_record", "identifier": "1" }]), json!([]), json!("x")] {
        let narrowed = token(&world, Some("at+jwt"), |claims| claims["authorization_details"] = details.clone());
        assert_eq!(call(&world, &narrowed, search, Some(&person)).await.0, 403, "{details}");
    }
    // What narrows the professional's claims, and is not read, closes them.
    for (name, value) in [
        ("purpose_of_use", json!([{ "code": "HRESCH" }])),
        ("purpose_of_use", json!([{ "code": "TREAT" }, { "code": "HRESCH" }])),
        ("person_id", json!("4711^^^&2.999.7.1&ISO")),
    ] {
        let narrowed = token(&world, Some("at+jwt"), |claims| claims["extensions"]["ihe_iua"][name] = value.clone());
        assert_eq!(call(&world, &narrowed, search, Some(&person)).await.0, 403, "{name} {value}");
    }
    let bppc = token(&world, Some("at+jwt"), |claims| claims["extensions"]["ihe_bppc"] = json!({ "acp": "urn:x" }));
    assert_eq!(call(&world, &bppc, search, Some(&person)).await.0, 403);
    assert!(countries[0].asked().is_empty(), "nobody was asked");
    for scope in ["user/Patient.s", "user/Patient.rs", "system/*.read", "ITI-119", "launch/patient user/Patient.rs"] {
        assert_eq!(call(&world, &scoped(&world, scope), search, Some(&person)).await.0, 200, "{scope}");
    }
}

/// Reading and searching are two rights on every path.
#[tokio::test]
async fn se_16_reading_is_not_searching_over_http() {
    let (world, _countries) = world().await;
    let base = base(&confirm(&world, &matches(&world).await).await);
    let list = format!("{base}/DocumentReference");
    let good = scoped(&world, "user/DocumentReference.s");
    let (status, _, bundle) = call(&world, &good, &list, None).await;
    assert_eq!(status, 200, "{bundle}");
    let url = bundle.pointer("/entry/0/resource/content/0/attachment/url").and_then(Value::as_str).expect("an address");
    for (scope, url, expected) in [
        ("user/DocumentReference.r", list.as_str(), 403),
        ("user/DocumentReference.s?status=current", &list, 403),
        ("user/Binary.rs", &list, 403),
        ("user/Binary.s", url, 403),
        ("user/Binary.r?_id=1", url, 403),
        ("user/DocumentReference.rs", url, 403),
    ] {
        let (status, challenge, _) = call(&world, &scoped(&world, scope), url, None).await;
        assert_eq!(status, expected, "{scope}");
        assert!(challenge.contains("insufficient_scope"), "{challenge}");
    }
    // With the right it goes on to the other country, which has no such document.
    assert!(!matches!(call(&world, &scoped(&world, "user/Binary.r"), url, None).await.0, 401 | 403));
}

/// Types, lives and times of tokens over HTTP; the configuration allows other types where an issuer is older.
#[tokio::test]
async fn se_20_types_and_lives_over_http() {
    let now = jiff::Timestamp::now().as_second();
    let person = person();
    let ask = async |world: &World, token: &str| call(world, token, "/fhir/Patient/$match", Some(&person)).await.0;
    let (world, countries) = world().await;
    for typ in [None, Some("JWT"), Some("logout+jwt"), Some("")] {
        assert_eq!(ask(&world, &token(&world, typ, |_| ())).await, 401, "{typ:?}");
    }
    type Change = fn(&mut Value, i64);
    let changes: [(&str, Change); 3] = [
        ("nbf with a fraction", |claims, now| claims["nbf"] = json!(now as f64 + 3600.5)),
        ("a life of 25 hours", |claims, now| claims["exp"] = json!(now + 25 * 3600)),
        ("auth_time that is none", |claims, _| claims["auth_time"] = json!("today")),
    ];
    for (what, change) in changes {
        let changed = token(&world, Some("at+jwt"), |claims| change(claims, now));
        assert_eq!(ask(&world, &changed).await, 401, "{what}");
    }
    assert!(countries[0].asked().is_empty(), "nobody was asked");
    assert_eq!(ask(&world, &token(&world, Some("application/at+jwt"), |_| ())).await, 200);

    let known = knows("2.999.101", "19800101", || listed(vec![entry("2.999.101", 1)]));
    let lines = "token_life = \"1h\"\nuntyped_tokens = true\n";
    let others = Others::none().with("AA", "2.999.101", known).await.clinicians().clinician_lines(lines);
    let (older, _countries) = others.world("").await;
    for (typ, expected) in [(None, 200), (Some("JWT"), 200), (Some("at+jwt"), 200), (Some("logout+jwt"), 401)] {
        assert_eq!(ask(&older, &token(&older, typ, |_| ())).await, expected, "{typ:?}");
    }
    let long = token(&older, None, |claims| claims["exp"] = json!(now + 2 * 3600));
    assert_eq!(ask(&older, &long).await, 401, "longer than the configuration allows");
}
