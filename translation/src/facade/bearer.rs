//! Who may ask the façade without a certificate of our own services: by bearer token (IUA ITI-72).

use std::path::Path;

use axum::http::StatusCode;
use jiff::Timestamp;
use ncp_tls::{Taken, TokenIssuer, scope_covers};

use super::Refused;

/// Who was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Somebody with a certificate or a token.
    Known,
    /// Somebody of whom nothing is known, for what is told to all.
    Anybody,
}

/// Whose tokens are taken, and for whom they must be.
pub struct Bearers(TokenIssuer);

impl Bearers {
    /// Reads the issuer's public keys.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn load(issuer: &str, audience: &str, jwks: &Path, taken: Taken) -> Result<Self, String> {
        TokenIssuer::load(issuer, audience, jwks, taken).map(Self)
    }

    /// A caller without certificate needs a token whose scope covers the resource; what the server can do is told to all.
    pub(super) fn admit(&self, certified: bool, header: Option<&str>, path: &str) -> Result<Who, Refused> {
        let (resource, below) = path.split_once('/').unwrap_or((path, ""));
        if certified {
            return Ok(Who::Known);
        }
        if resource == "metadata" {
            return Ok(Who::Anybody);
        }
        let login = |text: &str| Refused(StatusCode::UNAUTHORIZED, "login", text.to_owned());
        let token =
            header.and_then(|h| h.strip_prefix("Bearer ")).ok_or_else(|| login("a bearer token is required"))?;
        let claims = self.0.check(token.trim(), Timestamp::now());
        let claims = claims.ok().filter(|claims| !claims.is_bound()).ok_or_else(|| login("the token does not hold"))?;
        // An operation is neither a read nor a search; either right shows what it needs.
        let rights: &[char] = match below {
            "" | "_search" => &['s'],
            operation if operation.contains('$') => &['r', 's'],
            _ => &['r'],
        };
        if claims.scopes().any(|scope| scope_covers(scope, &["user", "system"], resource, rights)) {
            return Ok(Who::Known);
        }
        Err(Refused(StatusCode::FORBIDDEN, "forbidden", "the token's scope does not cover the resource".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::Request;
    use josekit::jwk::Jwk;
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jws::{ES256, JwsHeader};
    use josekit::jwt::{self, JwtPayload};
    use ncp_tls::{CertificateFacts, SenderKnown, ShownCertificate};
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;
    use crate::load::tests::shipped;

    fn certificate() -> CertificateFacts {
        let (der, subject, dns_names) = (Vec::new(), Vec::new(), Vec::new());
        let [fingerprint, common_name, issuer] = [const { String::new() }; 3];
        CertificateFacts { der, fingerprint, common_name, country: None, issuer, subject, dns_names }
    }

    #[tokio::test]
    async fn a_certificate_or_a_token_for_the_resource_and_nothing_else() {
        let key = Jwk::generate_ec_key(EcCurve::P256).expect("a key");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let set = json!({ "keys": [key.to_public_key().expect("public")] });
        std::fs::write(file.path(), set.to_string()).expect("writes");
        let bearers = || {
            Bearers::load("https://idp.example", "https://terms.example", file.path(), Taken::default()).expect("loads")
        };
        let now = Timestamp::now().as_second();
        let token = |scope: &str, audience: &str, more: serde_json::Value| {
            let mut claims =
                json!({ "iss": "https://idp.example", "aud": audience, "iat": now, "exp": now + 60, "scope": scope });
            claims.as_object_mut().expect("claims").extend(more.as_object().expect("claims").clone());
            let payload = JwtPayload::from_map(claims.as_object().expect("claims").clone()).expect("claims");
            let signer = ES256.signer_from_jwk(&key).expect("a signer");
            let mut header = JwsHeader::new();
            header.set_token_type("at+jwt");
            jwt::encode_with_signer(&payload, &header, &signer).expect("signs")
        };
        let (free, ours) = (json!({}), "https://terms.example");
        let store = crate::store::Store::new(shipped()).expect("passes");
        let ask = async |path: &str, certified: bool, token: Option<&str>| {
            let mut request = Request::builder().uri(path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let mut request = request.body(Body::empty()).expect("a request");
            let shown = certified.then(|| Arc::new(certificate()));
            request.extensions_mut().insert(ShownCertificate(shown));
            let response = crate::facade::routes_for(store.clone(), bearers()).oneshot(request).await.expect("answers");
            let status = response.status().as_u16();
            // A connection becomes known by a certificate or a token that holds, not by what is told to all.
            let known = response.extensions().get::<SenderKnown>().is_some();
            assert_eq!(known, status == 200 && !path.ends_with("metadata") || certified, "{path}");
            (status, response.headers().contains_key("www-authenticate"))
        };
        let maps = "/r4/ConceptMap?url=x";
        let reads = token("openid user/ConceptMap.rs", ours, free.clone());
        for (path, certified, token, expected) in [
            (maps, true, None, (200, false)),
            (maps, false, Some(&reads), (200, false)),
            ("/fhir/r5/ConceptMap?url=x", false, Some(&token("system/*.read", ours, free.clone())), (200, false)),
            ("/r4/metadata", false, None, (200, false)),
            (maps, false, None, (401, true)),
            ("/r4/CodeSystem/$lookup?system=x&code=y", false, Some(&reads), (403, false)),
            (maps, false, Some(&token("user/ConceptMap.r", ours, free.clone())), (403, false)),
            (maps, false, Some(&token("user/ConceptMap.s", ours, free.clone())), (200, false)),
            (maps, false, Some(&token("user/ConceptMap.s?url=x", ours, free.clone())), (403, false)),
            (
                maps,
                false,
                Some(&token("user/ConceptMap.rs", ours, json!({ "authorization_details": [] }))),
                (403, false),
            ),
            (maps, false, Some(&token("patient/ConceptMap.rs", ours, free.clone())), (403, false)),
            (maps, false, Some(&token("user/ConceptMap.rs", "https://other.example", free.clone())), (401, true)),
            (maps, false, Some(&token("user/ConceptMap.rs", ours, json!({ "cnf": { "jkt": "x" } }))), (401, true)),
            (maps, false, Some(&token("user/ConceptMap.rs", ours, json!({ "exp": now - 3600 }))), (401, true)),
            (maps, false, Some(&"a.b.c".to_owned()), (401, true)),
        ] {
            assert_eq!(ask(path, certified, token.map(String::as_str)).await, expected, "{path} {token:?}");
        }
    }

    /// SE-04: who has no token is refused before a byte of the body came, and a body comes within its time.
    #[tokio::test]
    async fn se_04_a_body_is_read_of_known_callers_and_within_its_time() {
        let key = Jwk::generate_ec_key(EcCurve::P256).expect("a key");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), json!({ "keys": [key.to_public_key().expect("public")] }).to_string())
            .expect("writes");
        let taken = Taken::default();
        let bearers = Bearers::load("https://idp.example", "https://terms.example", file.path(), taken).expect("loads");
        let store = crate::store::Store::new(shipped()).expect("passes");
        let endless =
            || Body::from_stream(futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>());
        let request = Request::post("/r4/ConceptMap/$translate").body(endless()).expect("a request");
        let response = crate::facade::routes_for(store, bearers).oneshot(request).await.expect("answers");
        assert_eq!(response.status(), 401);
        let late = crate::facade::posted(endless(), std::time::Duration::ZERO).await;
        assert!(late.is_err_and(|refused| refused.0 == StatusCode::REQUEST_TIMEOUT));
    }
}
