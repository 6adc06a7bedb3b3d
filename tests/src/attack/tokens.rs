//! Tokens that grant less than is asked for, or are none.

use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jws::{self, ES256, HS256, JwsHeader, JwsSigner};
use serde_json::{Value, json};

use super::clinician::{Asked, BAD, GOOD, NONE, Rows};
use crate::pki::Error;

const SCOPE: &str = "HTTP 403 insufficient_scope";
const FORBIDDEN: &str = "HTTP 403";
const TOKEN: &str = "HTTP 401 invalid_token";

pub(super) fn rows(rows: &mut Rows<'_>) -> Result<(), Error> {
    scopes(rows)?;
    narrowed(rows)?;
    rights(rows)?;
    times(rows)?;
    signatures(rows)
}

/// A token of the professional, changed.
fn token(rows: &Rows<'_>, typ: Option<&str>, change: impl FnOnce(&mut Value)) -> Result<String, Error> {
    let mut claims = rows.of.claims("hpr-1");
    change(&mut claims);
    Ok(format!("Bearer {}", rows.of.issuer.sign(&claims, typ)?))
}

fn scoped(rows: &Rows<'_>, scope: &str) -> Result<String, Error> {
    token(rows, Some("at+jwt"), |claims| claims["scope"] = json!(scope))
}

/// What a scope does not say, or says with a restriction, is forbidden (SE-16).
fn scopes(rows: &mut Rows<'_>) -> Result<(), Error> {
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
        let token = scoped(rows, scope)?;
        rows.search("T-TOK-1", &format!("search with the scope {scope}"), SCOPE, token);
    }
    for scope in ["user/Patient.s", "user/Patient.rs", "system/*.read", "ITI-119", "launch/patient user/Patient.rs"] {
        let token = scoped(rows, scope)?;
        rows.search("T-TOK-1 good", &format!("search with the scope {scope}"), GOOD, token);
    }
    Ok(())
}

/// What narrows the professional's claims, and is not read, closes them.
fn narrowed(rows: &mut Rows<'_>) -> Result<(), Error> {
    for details in [json!([{ "type": "patient_record", "identifier": "1" }]), json!([]), json!("x")] {
        let token = token(rows, Some("at+jwt"), |claims| claims["authorization_details"] = details.clone())?;
        rows.search("T-TOK-2", &format!("authorization_details {details}"), SCOPE, token);
    }
    for (name, value) in [
        ("purpose_of_use", json!([{ "code": "HRESCH" }])),
        ("purpose_of_use", json!([{ "code": "TREAT" }, { "code": "HRESCH" }])),
        ("person_id", json!("4711^^^&2.999.7.1&ISO")),
    ] {
        let token = token(rows, Some("at+jwt"), |claims| claims["extensions"]["ihe_iua"][name] = value.clone())?;
        rows.search("T-TOK-2", &format!("{name} {value}"), FORBIDDEN, token);
    }
    let bppc = token(rows, Some("at+jwt"), |claims| claims["extensions"]["ihe_bppc"] = json!({ "acp": "urn:x" }))?;
    rows.search("T-TOK-2", "a privacy policy of the patient", FORBIDDEN, bppc);
    Ok(())
}

/// Reading and searching are two rights on every path.
fn rights(rows: &mut Rows<'_>) -> Result<(), Error> {
    let (list, document) = (format!("{}/DocumentReference", rows.known.base), rows.known.document.clone());
    for (scope, what, url) in [
        ("user/DocumentReference.r", "list", list.as_str()),
        ("user/DocumentReference.s?status=current", "list", &list),
        ("user/Binary.rs", "list", &list),
        ("user/Binary.s", "document", &document),
        ("user/Binary.r?_id=1", "document", &document),
        ("user/DocumentReference.rs", "document", &document),
    ] {
        let asked = Asked { authorization: scoped(rows, scope)?, url, header: NONE, body: None };
        rows.push("T-TOK-6", &format!("{what} with the scope {scope}"), &[SCOPE], &asked);
    }
    Ok(())
}

/// Types, lives and times (SE-20).
fn times(rows: &mut Rows<'_>) -> Result<(), Error> {
    for typ in [None, Some("JWT"), Some("logout+jwt"), Some("")] {
        let token = token(rows, typ, |_| ())?;
        rows.search("T-TOK-3", &format!("typ {typ:?}"), TOKEN, token);
    }
    let token_of = token(rows, Some("application/at+jwt"), |_| ())?;
    rows.search("T-TOK-3 good", "typ application/at+jwt", GOOD, token_of);
    let now = jiff::Timestamp::now().as_second();
    type Change = fn(&mut Value, i64);
    let changes: [(&str, Change); 8] = [
        ("nbf with a fraction", |claims, now| claims["nbf"] = json!(now as f64 + 3600.5)),
        ("nbf in an hour", |claims, now| claims["nbf"] = json!(now + 3600)),
        ("nbf that is none", |claims, _| claims["nbf"] = json!("today")),
        ("a life of 25 hours", |claims, now| claims["exp"] = json!(now + 25 * 3600)),
        ("auth_time that is none", |claims, _| claims["auth_time"] = json!("today")),
        ("expired", |claims, now| claims["exp"] = json!(now - 600)),
        ("exp that is none", |claims, _| claims["exp"] = json!("never")),
        ("another audience", |claims, _| claims["aud"] = json!("https://elsewhere.example")),
    ];
    for (what, change) in changes {
        let changed = token(rows, Some("at+jwt"), |claims| change(claims, now))?;
        rows.search("T-TOK-4", what, TOKEN, changed);
    }
    Ok(())
}

/// A token is what the issuer signed for us, and is bound as it says.
fn signatures(rows: &mut Rows<'_>) -> Result<(), Error> {
    let good = token(rows, Some("at+jwt"), |_| ())?;
    let parts: Vec<&str> = good.trim_start_matches("Bearer ").split('.').collect();
    let [header, claims, signature] = parts[..] else { return Err("a token has three parts".into()) };
    let none = openssl::base64::encode_block(br#"{"alg":"none","typ":"at+jwt"}"#);
    let none = none.replace('+', "-").replace('/', "_").replace('=', "");
    let public = rows.of.issuer.public()?;
    let payload = rows.of.claims("hpr-1").to_string();
    let by = |signer: &dyn JwsSigner| -> Result<String, Error> {
        let mut header = JwsHeader::new();
        header.set_token_type("at+jwt");
        header.set_key_id(public.key_id().unwrap_or_default());
        Ok(format!("Bearer {}", jws::serialize_compact(payload.as_bytes(), &header, signer)?))
    };
    let other = by(&ES256.signer_from_jwk(&Jwk::generate_ec_key(EcCurve::P256)?)?)?;
    let hmac = by(&HS256.signer_from_bytes(public.to_string())?)?;
    let issuer = token(rows, Some("at+jwt"), |claims| claims["iss"] = json!("https://elsewhere.example"))?;
    let thumbprint = "A".repeat(43);
    let bound = token(rows, Some("at+jwt"), |claims| claims["cnf"] = json!({ "jkt": thumbprint }))?;
    let certified = token(rows, Some("at+jwt"), |claims| claims["cnf"] = json!({ "x5t#S256": thumbprint }))?;
    let odd = token(rows, Some("at+jwt"), |claims| claims["cnf"] = json!({ "kid": "1" }))?;
    for (input, authorization) in [
        ("no token", String::new()),
        ("an empty token", "Bearer ".into()),
        ("a password", "Basic aHByOmhwcg==".into()),
        ("alg none", format!("Bearer {none}.{claims}.")),
        ("a token without its signature", format!("Bearer {header}.{claims}.")),
        ("claims changed after signing", format!("Bearer {header}.{}.{signature}", claims.replacen('e', "f", 3))),
        ("signed by another key of the same name", other),
        ("HMAC with the public key", hmac),
        ("another issuer", issuer),
        ("bound to a key, shown without it", bound),
        ("bound to a certificate, shown without it", certified),
        ("bound in a way that nobody knows", odd),
        ("a free token as one that is bound", good.replacen("Bearer", "DPoP", 1)),
    ] {
        rows.search("T-TOK-5", input, TOKEN, authorization);
    }
    let nothing = "Bearer x";
    for (input, first, second) in [
        ("two tokens, the first of which is good", good.as_str(), nothing),
        ("two tokens, the last of which is good", nothing, &good),
        ("the same token twice", &good, &good),
    ] {
        let asked = Asked {
            authorization: second.to_owned(),
            url: "/fhir/Patient/$match",
            header: ("Authorization", first),
            body: Some(rows.of.person().to_string()),
        };
        rows.push("T-TOK-7", input, &[TOKEN, BAD], &asked);
    }
    let long = Asked {
        authorization: format!("Bearer {}", "x".repeat(40 << 10)),
        url: "/fhir/Patient/$match",
        header: NONE,
        body: Some(rows.of.person().to_string()),
    };
    rows.push("T-TOK-8", "a token of 40 KiB", &["HTTP 431"], &long);
    Ok(())
}
