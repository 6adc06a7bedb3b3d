//! OCSP (RFC 6960): a configured responder asked over HTTP, or an answer stapled to a handshake. Never an address of a
//! certificate's own.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use openssl::hash::MessageDigest;
use openssl::ocsp::{OcspCertId, OcspCertStatus, OcspFlag, OcspRequest, OcspResponse, OcspResponseStatus};
use openssl::stack::Stack;
use openssl::x509::store::X509Store;
use openssl::x509::{X509, X509Ref};

use crate::revocation::now;
use crate::{TlsError, ssl_error};

/// Largest answer.
const ANSWER_BYTES: usize = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);
/// A failed responder is not asked again for so long, seconds.
const PAUSE_S: i64 = 30;
/// An answer is believed for so long at most before the responder is asked again, seconds.
const FRESH_S: i64 = 3600;
/// Allowed difference of clocks, seconds.
const SKEW_S: u32 = 300;
/// Certificates whose status is remembered.
const CAPACITY: usize = 4096;

/// What an answer says of one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Good,
    Revoked,
    /// The responder does not know it: as good as revoked.
    Unknown,
}

/// A configured responder and what it said last.
pub struct Ocsp {
    url: String,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    status: Status,
    /// When the status was learned.
    at: i64,
    /// When the responder may be asked again.
    until: i64,
}

/// What is at hand without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtHand {
    Fresh(Status),
    /// The responder failed a moment ago; the last status, if any, and its age in seconds.
    Failing(Option<(Status, i64)>),
    /// Ask.
    Nothing,
}

impl Ocsp {
    /// A responder at `http://…`.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), known: Mutex::default() }
    }

    pub(crate) fn at_hand(&self, fingerprint: &str) -> AtHand {
        let known = self.known.lock().unwrap_or_else(|p| p.into_inner());
        match known.get(fingerprint) {
            Some(k) if k.at == NEVER && k.until > now() => AtHand::Failing(None),
            Some(k) if k.at + FRESH_S > now() && k.until > now() => AtHand::Fresh(k.status),
            Some(k) if k.until > now() => AtHand::Failing(Some((k.status, now() - k.at))),
            _ => AtHand::Nothing,
        }
    }

    /// Asks about a certificate and remembers the answer, or that there was none.
    pub(crate) async fn ask(&self, leaf: &X509Ref, issuer: &X509Ref, store: &X509Store, fingerprint: &str) {
        let answer = self.fetch(leaf, issuer).await;
        let status = answer.and_then(|bytes| read(&bytes, leaf, issuer, store));
        let mut known = self.known.lock().unwrap_or_else(|p| p.into_inner());
        if known.len() >= CAPACITY && !known.contains_key(fingerprint) {
            known.retain(|_, k| k.until > now());
            if known.len() >= CAPACITY {
                return;
            }
        }
        match status {
            Ok(status) => {
                known.insert(fingerprint.to_owned(), Known { status, at: now(), until: now() + FRESH_S });
            }
            Err(error) => {
                tracing::warn!(reason = %error, "ocsp responder gave no usable answer");
                let entry = known.entry(fingerprint.to_owned());
                entry.or_insert(Known { status: Status::Unknown, at: NEVER, until: 0 }).until = now() + PAUSE_S;
            }
        }
    }

    async fn fetch(&self, leaf: &X509Ref, issuer: &X509Ref) -> Result<Bytes, TlsError> {
        let der = {
            let id = OcspCertId::from_cert(MessageDigest::sha1(), leaf, issuer).map_err(ssl_error("ocsp"))?;
            let mut request = OcspRequest::new().map_err(ssl_error("ocsp"))?;
            request.add_id(id).map_err(ssl_error("ocsp"))?;
            request.to_der().map_err(ssl_error("ocsp"))?
        };
        fetch(&self.url, Some(("application/ocsp-request", der)), ANSWER_BYTES, TIMEOUT).await
    }
}

/// `Known::at` before any answer.
const NEVER: i64 = i64::MIN / 2;

/// One plain HTTP exchange with a configured address; no redirect is followed.
///
/// # Errors
/// Address, network, a status other than 200, size, time.
pub async fn fetch(
    url: &str,
    post: Option<(&'static str, Vec<u8>)>,
    most: usize,
    limit: Duration,
) -> Result<Bytes, TlsError> {
    let failed = |why: String| TlsError::Handshake(format!("{url}: {why}"));
    let builder = Request::builder().uri(url).header(header::USER_AGENT, "ncp-gateway");
    // Without the field a server may choose any coding (RFC 9110 12.5.3).
    let builder = builder.header(header::ACCEPT_ENCODING, "identity");
    let request = match post {
        Some((kind, body)) => {
            builder.method("POST").header(header::CONTENT_TYPE, kind).body(Full::new(Bytes::from(body)))
        }
        None => builder.method("GET").body(Full::new(Bytes::new())),
    };
    let request = request.map_err(|e| failed(e.to_string()))?;
    let work = async {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|e| failed(e.to_string()))?;
        if response.status() != hyper::StatusCode::OK {
            return Err(failed(format!("HTTP {}", response.status())));
        }
        let coding = response.headers().get(header::CONTENT_ENCODING).map(hyper::http::HeaderValue::as_bytes);
        if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
            return Err(failed("a content coding that was not asked for".into()));
        }
        let body = Limited::new(response.into_body(), most).collect().await.map_err(|e| failed(e.to_string()))?;
        Ok(body.to_bytes())
    };
    tokio::time::timeout(limit, work).await.map_err(|_| TlsError::Timeout)?
}

/// Reads an answer: signed by the issuer or by a responder that it delegated to, in time, about this certificate.
pub(crate) fn read(der: &[u8], leaf: &X509Ref, issuer: &X509Ref, store: &X509Store) -> Result<Status, TlsError> {
    let untrusted = |why: &str| TlsError::Untrusted(format!("ocsp: {why}"));
    let response = OcspResponse::from_der(der).map_err(ssl_error("ocsp"))?;
    if response.status() != OcspResponseStatus::SUCCESSFUL {
        return Err(untrusted("responder refused"));
    }
    let basic = response.basic().map_err(ssl_error("ocsp"))?;
    let mut helpers: Stack<X509> = Stack::new().map_err(ssl_error("ocsp"))?;
    helpers.push(issuer.to_owned()).map_err(ssl_error("ocsp"))?;
    basic.verify(&helpers, store, OcspFlag::empty()).map_err(|_| untrusted("signature"))?;
    // The digest of the id is the responder's choice.
    for digest in [MessageDigest::sha1(), MessageDigest::sha256()] {
        let id = OcspCertId::from_cert(digest, leaf, issuer).map_err(ssl_error("ocsp"))?;
        let Some(found) = basic.find_status(&id) else { continue };
        found.check_validity(SKEW_S, None).map_err(|_| untrusted("out of time"))?;
        return Ok(match found.status {
            OcspCertStatus::GOOD => Status::Good,
            OcspCertStatus::REVOKED => Status::Revoked,
            _ => Status::Unknown,
        });
    }
    Err(untrusted("about another certificate"))
}

/// Asks a responder for an answer that a server staples to its own handshakes.
///
/// # Errors
/// As [`fetch`], and an answer that does not hold or says other than good.
pub async fn staple(url: &str, chain: &[X509]) -> Result<Vec<u8>, TlsError> {
    let [leaf, issuer, ..] = chain else { return Err(TlsError::Untrusted("ocsp: chain without issuer".into())) };
    let bytes = Ocsp::new(url).fetch(leaf, issuer).await?;
    let mut store = openssl::x509::store::X509StoreBuilder::new().map_err(ssl_error("ocsp"))?;
    for link in &chain[1..] {
        store.add_cert(link.clone()).map_err(ssl_error("ocsp"))?;
    }
    store.set_flags(openssl::x509::verify::X509VerifyFlags::PARTIAL_CHAIN).map_err(ssl_error("ocsp"))?;
    match read(&bytes, leaf, issuer, &store.build())? {
        Status::Good => Ok(bytes.to_vec()),
        _ => Err(TlsError::Untrusted("ocsp: our own certificate is not good".into())),
    }
}
