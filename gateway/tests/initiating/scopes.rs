//! Scopes and tokens at the clinicians' port: what a scope does not say, or says in a way that is not read, is refused over
//! HTTP before any other country hears of it (T-TOK-1 to T-TOK-8).

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use ncp_tests::asking::PATIENTS;
use ncp_tests::issuer::Issuer;
use serde_json::{Value, json};

use crate::clinicians::knows;
use crate::{Others, World, entry, listed, patient, second};

/// Status of a call with a token.
async fn call(world: &World, token: &str, url: &str, body: Option<&Value>) -> u16 {
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
    http.request(request).await.expect("answers").status().as_u16()
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

#[tokio::test]
async fn se_16_what_a_scope_does_not_say_is_forbidden() {
    let (world, countries) = world().await;
    let known = world.clinician().learn().await.expect("the good way");
    let asked = countries[0].asked().len();
    world.holds(&known, &["T-TOK-1", "T-TOK-2"]).await;
    assert_eq!(countries[0].asked().len(), asked, "nobody was asked");
    world.holds(&known, &["T-TOK-1 good"]).await;
}

/// Reading and searching are two rights on every path.
#[tokio::test]
async fn se_16_reading_is_not_searching_over_http() {
    let (world, countries) = world().await;
    let known = world.clinician().learn().await.expect("the good way");
    let asked = countries[0].asked().len();
    world.holds(&known, &["T-TOK-6"]).await;
    assert_eq!(countries[0].asked().len(), asked, "nobody was asked");
    let scoped = |scope: &str| token(&world, Some("at+jwt"), |claims| claims["scope"] = json!(scope));
    let list = format!("{}/DocumentReference", known.base);
    assert_eq!(call(&world, &scoped("user/DocumentReference.s"), &list, None).await, 200);
    // With the right it goes on to the other country, which has no such document.
    assert!(!matches!(call(&world, &scoped("user/Binary.r"), &known.document, None).await, 401 | 403));
}

/// Types, lives and times of tokens over HTTP; the configuration allows other types where an issuer is older.
#[tokio::test]
async fn se_20_types_and_lives_over_http() {
    let now = jiff::Timestamp::now().as_second();
    let person = person();
    let ask = async |world: &World, token: &str| call(world, token, "/fhir/Patient/$match", Some(&person)).await;
    let (world, countries) = world().await;
    let urls = world.clinician().learn().await.expect("the good way");
    let asked = countries[0].asked().len();
    world.holds(&urls, &["T-TOK-3", "T-TOK-4", "T-TOK-5", "T-TOK-7", "T-TOK-8"]).await;
    assert_eq!(countries[0].asked().len(), asked, "nobody was asked");
    world.holds(&urls, &["T-TOK-3 good"]).await;

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
