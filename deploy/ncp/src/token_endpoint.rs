//! The token endpoint of the demonstration's issuers. A back-end system authenticates with `private_key_jwt` (RFC 7523 2.2,
//! OpenID Connect Core 9) and is given a token (RFC 6749 4.4) for the professional whom the demonstration knows.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use josekit::jwk::Jwk;
use josekit::jws::alg::ecdsa::EcdsaJwsVerifier;
use josekit::jws::{ES256, JwsHeader, JwsVerifier};
use josekit::jwt::{self, JwtPayload};
use ncp_tls::{ClientAuth, Material};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Error, demo, issuer};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const FORM: &str = "application/x-www-form-urlencoded";
/// Largest request, bytes.
const LONGEST: usize = 16 << 10;
/// Longest life of an assertion from now, seconds.
const LIFE: i64 = 300;
/// Assertions that are remembered; beyond, new ones are refused.
const CAPACITY: usize = 10_000;

/// Where a country's issuer gives tokens: `aud` of an assertion.
pub(crate) fn address(country: &str) -> String {
    format!("https://localhost:{}/token", demo::offset(country) + 454)
}

/// One country's endpoint.
pub(crate) struct Endpoint {
    pki: PathBuf,
    country: &'static str,
    clients: BTreeMap<String, Registered>,
    used: Mutex<HashMap<String, i64>>,
}

/// A client's key.
struct Registered {
    key: String,
    verifier: EcdsaJwsVerifier,
}

/// An error of RFC 6749 5.2.
type Refused = (StatusCode, &'static str);

const CLIENT: Refused = (StatusCode::UNAUTHORIZED, "invalid_client");
const REQUEST: Refused = (StatusCode::BAD_REQUEST, "invalid_request");

impl Endpoint {
    /// Reads the registered clients.
    pub(crate) fn load(pki: &Path, country: &'static str) -> Result<Self, Error> {
        let clients: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(pki.join("clients.json"))?)?;
        let key = |(name, jwk): (String, Value)| {
            let jwk = Jwk::from_bytes(jwk.to_string())?;
            let key = jwk.key_id().ok_or("a key without kid")?.to_owned();
            Ok::<_, Error>((name, Registered { key, verifier: ES256.verifier_from_jwk(&jwk)? }))
        };
        let clients = clients.into_iter().map(key).collect::<Result<_, _>>()?;
        Ok(Self { pki: pki.to_owned(), country, clients, used: Mutex::default() })
    }

    /// Binds, and gives what serves for as long as it runs.
    pub(crate) async fn bound(self) -> Result<impl Future<Output = ()> + Send, Error> {
        let file = |name: &str| self.pki.join(name);
        let material = Material::load(&file("tls-server.pem"), &file("tls-server.key"))?;
        let acceptor = material.acceptor(ClientAuth::None, &[], b"\x08http/1.1")?;
        let listener = TcpListener::bind(("127.0.0.1", demo::offset(self.country) + 454)).await?;
        let endpoint = Arc::new(self);
        Ok(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, endpoint) = (acceptor.clone(), endpoint.clone());
                tokio::spawn(async move {
                    let Ok(stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(5)).await else { return };
                    let service = service_fn(move |request| {
                        let endpoint = endpoint.clone();
                        async move { endpoint.call(request).await }
                    });
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        })
    }

    async fn call(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
        let form = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == FORM);
        let asked = request.method() == hyper::Method::POST && request.uri().path() == "/token" && form;
        let body = Limited::new(request.into_body(), LONGEST).collect().await;
        let (status, answer) = match body {
            Ok(body) if asked => match self.answer(&body.to_bytes(), jiff::Timestamp::now().as_second()) {
                Ok(answer) => (StatusCode::OK, answer),
                Err((status, error)) => (status, json!({ "error": error })),
            },
            _ => (StatusCode::BAD_REQUEST, json!({ "error": REQUEST.1 })),
        };
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CACHE_CONTROL, "no-store")
            .body(Full::new(answer.to_string().into()))
    }

    /// The answer to a form.
    fn answer(&self, form: &[u8], now: i64) -> Result<Value, Refused> {
        let mut given = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(form) {
            // No parameter may come twice (RFC 6749 3.2).
            if given.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(REQUEST);
            }
        }
        let text = |name: &str| given.get(name).map(String::as_str);
        if text("grant_type") != Some("client_credentials") {
            return Err((StatusCode::BAD_REQUEST, "unsupported_grant_type"));
        }
        if text("client_assertion_type") != Some(ASSERTION_TYPE) {
            return Err(CLIENT);
        }
        let client = self.client(text("client_assertion").ok_or(CLIENT)?, now)?;
        if text("client_id").is_some_and(|named| named != client) {
            return Err(CLIENT);
        }
        let scope = text("scope").unwrap_or(issuer::SCOPES);
        if scope.is_empty() || !scope.split(' ').all(|one| issuer::SCOPES.split(' ').any(|known| known == one)) {
            return Err((StatusCode::BAD_REQUEST, "invalid_scope"));
        }
        let token = issuer::Token { scope, client: &client, ..issuer::Token::default() };
        let signed = issuer::token(&self.pki, self.country, &token);
        let signed = signed.map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "server_error"))?;
        Ok(json!({ "access_token": signed, "token_type": "Bearer", "expires_in": token.life, "scope": scope }))
    }

    /// The client whose key signed the assertion: for us, in time, and not used before (RFC 7523 3).
    fn client(&self, assertion: &str, now: i64) -> Result<String, Refused> {
        let (claims, header) = jwt::decode_with_verifier_selector(assertion, |header| {
            let found = self.clients.values().find(|client| header.key_id() == Some(&client.key));
            Ok(found.map(|client| &client.verifier as &dyn JwsVerifier))
        })
        .map_err(|_| CLIENT)?;
        let named = self.clients.iter().find(|(_, client)| header.key_id() == Some(&client.key));
        let client = named.map(|(name, _)| name.clone()).ok_or(CLIENT)?;
        let text = |name: &str| claims.claim(name).and_then(Value::as_str);
        let own = address(self.country);
        let addressed = match claims.claim("aud") {
            Some(Value::String(one)) => *one == own,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(&own)),
            _ => false,
        };
        let ends = claims.claim("exp").and_then(Value::as_i64).ok_or(CLIENT)?;
        let in_time = now < ends && ends <= now + LIFE;
        let id = text("jti").filter(|id| !id.is_empty() && id.len() <= 256).ok_or(CLIENT)?;
        if text("iss") != Some(&client) || text("sub") != Some(&client) || !addressed || !in_time {
            return Err(CLIENT);
        }
        let mut used = self.used.lock().unwrap_or_else(|p| p.into_inner());
        used.retain(|_, until| *until > now);
        if used.len() >= CAPACITY || used.insert(format!("{client} {id}"), ends).is_some() {
            return Err(CLIENT);
        }
        Ok(client)
    }
}

/// An assertion of the demonstration's back-end system, changed.
pub(crate) fn assertion(pki: &Path, country: &str, change: impl FnOnce(&mut Value)) -> Result<String, Error> {
    let key = std::fs::read(pki.join("client.jwk"));
    let key = Jwk::from_bytes(key.map_err(|e| format!("{e}: no client in {}", pki.display()))?)?;
    let mut claims = json!({
        "iss": issuer::CLIENT,
        "sub": issuer::CLIENT,
        "aud": address(country),
        "jti": uuid::Uuid::new_v4().to_string(),
        "exp": jiff::Timestamp::now().as_second() + 60,
    });
    change(&mut claims);
    let Value::Object(claims) = claims else { return Err("claims".into()) };
    let mut header = JwsHeader::new();
    header.set_key_id(key.key_id().unwrap_or_default());
    Ok(jwt::encode_with_signer(&JwtPayload::from_map(claims)?, &header, &ES256.signer_from_jwk(&key)?)?)
}

fn form(assertion: &str, more: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials").append_pair("client_assertion_type", ASSERTION_TYPE);
    form.append_pair("client_assertion", assertion).extend_pairs(more);
    form.finish()
}

/// Asks a country's endpoint: status and answer.
pub(crate) async fn ask(
    pki: &Path,
    country: &str,
    assertion: &str,
    more: &[(&str, &str)],
) -> Result<(StatusCode, Value), Error> {
    let connector = ncp_tls::anonymous_connector(&[pki.join("anchors.pem")], b"\x08http/1.1")?;
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, Duration::from_secs(10));
    let body = Full::new(Bytes::from(form(assertion, more)));
    let request = Request::post(address(country)).header(header::CONTENT_TYPE, FORM).body(body)?;
    let answer = http.request(request).await.map_err(|e| format!("{e}: is the demonstration running?"))?;
    let status = answer.status();
    Ok((status, serde_json::from_slice(&Limited::new(answer.into_body(), LONGEST).collect().await?.to_bytes())?))
}

/// A token for the demonstration's back-end system.
pub(crate) async fn token(pki: &Path, country: &str) -> Result<String, Error> {
    let (status, answer) = ask(pki, country, &assertion(pki, country, |_| ())?, &[]).await?;
    let token = answer.get("access_token").and_then(Value::as_str).map(ToOwned::to_owned);
    token.ok_or_else(|| format!("the token issuer answered {status}: {answer}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_who_holds_its_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = dir.path();
        issuer::create(pki).expect("keys");
        let endpoint = Endpoint::load(pki, "fi").expect("clients");
        let now = jiff::Timestamp::now().as_second();
        let with = |assertion: &str, more: &[(&str, &str)]| endpoint.answer(form(assertion, more).as_bytes(), now);
        let made = |change: &dyn Fn(&mut Value)| assertion(pki, "fi", |claims| change(claims)).expect("signs");
        let good = made(&|_| ());
        let answer = with(&good, &[("scope", "user/Patient.rs")]).expect("a token");
        assert_eq!((&answer["token_type"], &answer["scope"]), (&json!("Bearer"), &json!("user/Patient.rs")));
        assert_eq!(with(&good, &[]), Err(CLIENT), "used before");
        for (what, change) in [
            ("iss", &(|c: &mut Value| c["iss"] = json!("another")) as &dyn Fn(&mut Value)),
            ("sub", &|c| c["sub"] = json!("another")),
            ("aud", &|c| c["aud"] = json!("https://elsewhere.example/token")),
            ("expired", &move |c| c["exp"] = json!(now - 1)),
            ("too long", &move |c| c["exp"] = json!(now + LIFE + 60)),
            ("jti", &|c| c["jti"] = json!("")),
        ] {
            assert_eq!(with(&made(change), &[]), Err(CLIENT), "{what}");
        }
        let several = made(&|c| c["aud"] = json!(["https://elsewhere.example", address("fi")]));
        assert!(with(&several, &[("client_id", issuer::CLIENT)]).is_ok());
        assert_eq!(with(&made(&|_| ()), &[("client_id", "another")]), Err(CLIENT));
        assert_eq!(with(&made(&|_| ()), &[("scope", "system/*.cruds")]).expect_err("too wide").1, "invalid_scope");
        assert_eq!(with(&made(&|_| ()), &[("grant_type", "client_credentials")]), Err(REQUEST), "twice");
        for broken in ["", "a.b.c", &good[1..]] {
            assert_eq!(with(broken, &[]), Err(CLIENT));
        }
        // The key of another system with the name of this one.
        let other = tempfile::tempdir().expect("a folder");
        issuer::create(other.path()).expect("keys");
        let forged = assertion(other.path(), "fi", |_| ()).expect("signs");
        assert_eq!(with(&forged, &[]), Err(CLIENT));
        let secret = endpoint.answer(b"grant_type=client_credentials&client_id=ris-demo&client_secret=x", now);
        assert_eq!(secret, Err(CLIENT));
        let password = endpoint.answer(b"grant_type=password", now).expect_err("no such grant");
        assert_eq!(password.1, "unsupported_grant_type");
    }
}
