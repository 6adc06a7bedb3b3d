//! Who may ask the façade without a certificate of our own services: by bearer token (IUA ITI-72).

use std::path::Path;

use axum::extract::connect_info::Connected;
use axum::http::StatusCode;
use axum::serve::IncomingStream;
use jiff::Timestamp;
use ncp_tls::{Accepted, Taken, TokenIssuer, scope_covers};

use super::Refused;

/// Whether a connection showed a certificate; the handshake has checked it.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    certified: bool,
}

impl Connected<IncomingStream<'_, Accepted>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Accepted>) -> Self {
        Self { certified: stream.io().ssl().peer_certificate().is_some() }
    }
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
    pub(super) fn admit(&self, caller: Option<Caller>, header: Option<&str>, path: &str) -> Result<(), Refused> {
        let (resource, below) = path.split_once('/').unwrap_or((path, ""));
        if caller.is_some_and(|caller| caller.certified) || resource == "metadata" {
            return Ok(());
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
            return Ok(());
        }
        Err(Refused(StatusCode::FORBIDDEN, "forbidden", "the token's scope does not cover the resource".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use axum::http::Request;
    use josekit::jwk::Jwk;
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jws::{ES256, JwsHeader};
    use josekit::jwt::{self, JwtPayload};
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;
    use crate::load::tests::shipped;

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
            request.extensions_mut().insert(ConnectInfo(Caller { certified }));
            let response = crate::facade::routes_for(store.clone(), bearers()).oneshot(request).await.expect("answers");
            (response.status().as_u16(), response.headers().contains_key("www-authenticate"))
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
}
