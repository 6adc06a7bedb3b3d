//! Tokens that are bound to a key (DPoP, RFC 9449) or to a client certificate (RFC 8705), over the clinicians' own HTTPS.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jws::{ES256, JwsHeader};
use josekit::jwt::{self, JwtPayload};
use ncp_ihe::actions;
use ncp_tests::asking::PATIENTS;
use ncp_tests::country::{Asked, Reaction};
use ncp_tests::issuer::BASE;
use ncp_tls::Material;
use openssl::hash::MessageDigest;
use openssl::sha::sha256;
use serde_json::{Value, json};

use crate::clinicians::{bound, knows};
use crate::{Others, World, listed, patient, second};

const MATCH: &str = "/fhir/Patient/$match";

fn finland() -> impl Fn(&Asked) -> Reaction {
    knows("2.999.101", "19800101", || listed(Vec::new()))
}

/// `$match` with this client certificate and these headers: the status.
async fn ask(world: &World, certificate: Option<&str>, headers: &[(&str, String)]) -> u16 {
    let (clinic, anchors) = (world.clinic.as_ref().expect("a side"), std::slice::from_ref(&world.anchors));
    let connector = match certificate {
        None => ncp_tls::anonymous_connector(anchors, b"\x08http/1.1").expect("a connector"),
        Some(leaf) => {
            let file = |end: &str| world.anchors.with_file_name(format!("{leaf}.{end}"));
            let material = Material::load(&file("pem"), &file("key")).expect("material");
            material.connector(anchors, b"\x08http/1.1").expect("a connector")
        }
    };
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, second() * 10);
    let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
    let person = json!({ "resourceType": "Patient", "identifier": [identifier] }).to_string();
    let request = Request::post(format!("https://localhost:{}{MATCH}", clinic.0.port()));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
    let request = request.header("content-type", "application/fhir+json").body(Full::new(Bytes::from(person)));
    http.request(request.expect("a request")).await.expect("answers").status().as_u16()
}

fn key() -> Jwk {
    Jwk::generate_ec_key(EcCurve::P256).expect("a key")
}

/// RFC 7638.
fn thumbprint(key: &Jwk) -> String {
    let text = |name: &str| key.parameter(name).and_then(Value::as_str).expect("a coordinate").to_owned();
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text("x"), text("y"));
    URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()))
}

/// A proof for `$match` with this token, changed.
fn proof(key: &Jwk, token: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({
        "jti": uuid::Uuid::new_v4().to_string(),
        "htm": "POST",
        "htu": format!("{BASE}{MATCH}"),
        "iat": jiff::Timestamp::now().as_second(),
        "ath": URL_SAFE_NO_PAD.encode(sha256(token.as_bytes())),
    });
    change(&mut claims);
    let mut header = JwsHeader::new();
    header.set_token_type("dpop+jwt");
    header.set_jwk(key.to_public_key().expect("public"));
    let payload = JwtPayload::from_map(claims.as_object().expect("an object").clone()).expect("claims");
    jwt::encode_with_signer(&payload, &header, &ES256.signer_from_jwk(key).expect("a signer")).expect("signs")
}

#[tokio::test]
async fn a_token_bound_to_a_key_needs_its_proof() {
    let others = Others::none().with("AA", "2.999.101", finland()).await;
    let (world, countries) = others.clinicians().world("").await;
    let issuer = &world.clinic.as_ref().expect("a side").1;
    let (own, other) = (key(), key());
    let token = bound(issuer, "hpr-1", Some(json!({ "jkt": thumbprint(&own) })));
    let another = bound(issuer, "hpr-2", Some(json!({ "jkt": thumbprint(&own) })));
    let with = async |proofs: &[String]| {
        let mut headers = vec![("authorization", format!("DPoP {token}"))];
        headers.extend(proofs.iter().map(|proof| ("dpop", proof.clone())));
        ask(&world, None, &headers).await
    };
    let good = proof(&own, &token, |_| ());
    assert_eq!(with(std::slice::from_ref(&good)).await, 200);
    let asked = countries[0].asked().iter().filter(|a| a.action == actions::ITI55_REQUEST).count();
    assert_eq!(asked, 1, "the other country was asked for her");
    assert_eq!(with(std::slice::from_ref(&good)).await, 401, "jti: used before");
    assert_eq!(with(&[]).await, 401, "no proof");
    assert_eq!(with(&[proof(&own, &token, |_| ()), proof(&own, &token, |_| ())]).await, 401, "two proofs");
    for (what, bad) in [
        ("ath", proof(&own, &another, |_| ())),
        ("htu", proof(&own, &token, |claims| claims["htu"] = json!(format!("{BASE}/fhir/metadata")))),
        ("htm", proof(&own, &token, |claims| claims["htm"] = json!("GET"))),
        ("iat", proof(&own, &token, |claims| claims["iat"] = json!(jiff::Timestamp::now().as_second() - 120))),
        ("key", proof(&other, &token, |_| ())),
    ] {
        assert_eq!(with(&[bad]).await, 401, "{what}");
    }
    // A query belongs to no address of a proof.
    let queried = proof(&own, &token, |claims| claims["htu"] = json!(format!("{BASE}{MATCH}?a=b")));
    assert_eq!(with(&[queried]).await, 200);
    let stolen = [("authorization", format!("Bearer {token}"))];
    assert_eq!(ask(&world, None, &stolen).await, 401, "the token as one that is not bound");
    let free = bound(issuer, "hpr-1", None);
    let needless = [("authorization", format!("DPoP {free}")), ("dpop", proof(&own, &free, |_| ()))];
    assert_eq!(ask(&world, None, &needless).await, 401, "a free token as a bound one");
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_needs_its_connection() {
    let others = Others::none().with("AA", "2.999.101", finland()).await;
    let (world, _countries) = others.clinicians().world("").await;
    let issuer = &world.clinic.as_ref().expect("a side").1;
    let pem = std::fs::read(world.anchors.with_file_name("consumer.pem")).expect("reads");
    let leaf = openssl::x509::X509::from_pem(&pem).expect("a certificate");
    let of = URL_SAFE_NO_PAD.encode(leaf.digest(MessageDigest::sha256()).expect("a digest"));
    let token = bound(issuer, "hpr-1", Some(json!({ "x5t#S256": of })));
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    assert_eq!(ask(&world, Some("consumer"), &bearer(&token)).await, 200);
    assert_eq!(ask(&world, None, &bearer(&token)).await, 401, "no certificate");
    assert_eq!(ask(&world, Some("tls-client"), &bearer(&token)).await, 401, "another certificate");
    let own = key();
    let proved = [("authorization", format!("DPoP {token}")), ("dpop", proof(&own, &token, |_| ()))];
    assert_eq!(ask(&world, Some("consumer"), &proved).await, 401, "as one bound to a key");
    let both = bound(issuer, "hpr-1", Some(json!({ "x5t#S256": of, "jkt": thumbprint(&own) })));
    assert_eq!(ask(&world, Some("consumer"), &bearer(&both)).await, 401, "bound twice");
    // Systems without a certificate go on, also those that show one with a free token.
    let free = bound(issuer, "hpr-1", None);
    assert_eq!(ask(&world, None, &bearer(&free)).await, 200);
    assert_eq!(ask(&world, Some("consumer"), &bearer(&free)).await, 200);
}
