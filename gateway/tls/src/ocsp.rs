//! OCSP (RFC 6960): a configured responder asked over HTTP, or an answer stapled to a handshake. Never an address of a
//! certificate's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::client::legacy::Client;
use openssl::hash::MessageDigest;
use openssl::ocsp::{OcspCertId, OcspCertStatus, OcspFlag, OcspRequest, OcspResponse, OcspResponseStatus};
use openssl::stack::Stack;
use openssl::x509::store::X509Store;
use openssl::x509::{X509, X509Ref};

use crate::revocation::{now, unix};
use crate::{TlsError, ssl_error};

/// Largest answer.
const ANSWER_BYTES: usize = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);
/// A failed responder is not asked again for so long.
const PAUSE: Duration = Duration::from_secs(30);
/// An answer is believed until its `nextUpdate`, and for so long at most before the responder is asked again, seconds.
const FRESH_S: i64 = 3600;
/// An answer past its `nextUpdate`, within the difference of clocks, is believed for so long, seconds.
const PAST_S: i64 = 1;
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

/// A status and how long it is believed, seconds since 1970. Before it was told, which the clock went back behind, it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) status: Status,
    since: i64,
    pub(crate) until: i64,
}

impl Told {
    /// A status ends when its issuer says so (RFC 6960 4.2.2.1), and when our own bound says so.
    fn new(status: Status, next_update: Option<i64>, now: i64) -> Self {
        let until = next_update.unwrap_or(i64::MAX).min(now + FRESH_S).max(now + PAST_S);
        Self { status, since: now, until }
    }

    /// For how long it has been past its end.
    fn past(&self, now: i64) -> i64 {
        if now < self.since { i64::MAX } else { now - self.until }
    }
}

/// A configured responder and what it said last.
pub struct Ocsp {
    url: String,
    known: Mutex<HashMap<String, Known>>,
    /// One question at a time: connections whose statuses end together wait for one answer.
    asking: Arc<tokio::sync::Mutex<()>>,
    /// Where questions are asked that nobody waits for: where the first was.
    runtime: OnceLock<tokio::runtime::Handle>,
    pause: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The last answer.
    told: Option<Told>,
    /// When the responder failed, unless it has answered since.
    failed: Option<i64>,
}

impl Known {
    fn at_hand(&self, now: i64, pause: i64) -> AtHand {
        if let Some(told) = self.told.filter(|told| (told.since..told.until).contains(&now)) {
            return AtHand::Fresh(told);
        }
        let last = self.told.map(|told| (told.status, told.past(now)));
        match self.failed {
            None => AtHand::Nothing,
            Some(failed) if (failed..failed.saturating_add(pause)).contains(&now) => AtHand::Failing(last),
            Some(_) => AtHand::Due(last),
        }
    }
}

/// What is at hand without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtHand {
    Fresh(Told),
    /// The responder failed a moment ago; the last status, if any, and for how many seconds it has been past its end.
    Failing(Option<(Status, i64)>),
    /// The same, and it may be asked again.
    Due(Option<(Status, i64)>),
    /// Ask.
    Nothing,
}

impl AtHand {
    fn asks(self) -> bool {
        matches!(self, Self::Due(_) | Self::Nothing)
    }
}

impl Ocsp {
    /// A responder at `http://…`.
    pub fn new(url: &str) -> Self {
        let (known, asking, runtime) = Default::default();
        Self { url: url.to_owned(), known, asking, runtime, pause: PAUSE }
    }

    /// The same, which is asked again so long after it failed.
    #[must_use]
    pub fn pausing(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    pub(crate) fn at_hand(&self, fingerprint: &str) -> AtHand {
        let known = self.known.lock().unwrap_or_else(|p| p.into_inner());
        known.get(fingerprint).map_or(AtHand::Nothing, |known| self.state(known))
    }

    fn state(&self, known: &Known) -> AtHand {
        known.at_hand(now(), i64::try_from(self.pause.as_secs()).unwrap_or(i64::MAX))
    }

    /// Asks about a certificate and remembers the answer, or that there was none.
    pub(crate) async fn ask(&self, leaf: &X509Ref, issuer: &X509Ref, store: &X509Store, fingerprint: &str) {
        self.runtime.get_or_init(tokio::runtime::Handle::current);
        let _asking = self.asking.lock().await;
        if self.at_hand(fingerprint).asks() {
            self.ask_now(leaf, issuer, store, fingerprint).await;
        }
    }

    /// The same while nobody waits for the answer, unless a question is under way.
    pub(crate) fn ask_beside(
        self: &Arc<Self>,
        leaf: &X509Ref,
        issuer: impl FnOnce() -> Option<X509>,
        store: &Arc<X509Store>,
        fingerprint: &str,
    ) {
        let Some(runtime) = self.runtime.get() else { return };
        let Ok(asking) = self.asking.clone().try_lock_owned() else { return };
        let Some(issuer) = issuer() else { return };
        let (ocsp, leaf, store, fingerprint) = (self.clone(), leaf.to_owned(), store.clone(), fingerprint.to_owned());
        runtime.spawn(async move {
            ocsp.ask_now(&leaf, &issuer, &store, &fingerprint).await;
            drop(asking);
        });
    }

    async fn ask_now(&self, leaf: &X509Ref, issuer: &X509Ref, store: &X509Store, fingerprint: &str) {
        let answer = self.fetch(leaf, issuer).await;
        let told = answer.and_then(|bytes| read(&bytes, leaf, issuer, store));
        let mut known = self.known.lock().unwrap_or_else(|p| p.into_inner());
        if known.len() >= CAPACITY && !known.contains_key(fingerprint) {
            known.retain(|_, known| !self.state(known).asks());
            if known.len() >= CAPACITY {
                return;
            }
        }
        match told {
            Ok(told) => {
                known.insert(fingerprint.to_owned(), Known { told: Some(told), failed: None });
            }
            Err(error) => {
                tracing::warn!(reason = %error, "ocsp responder gave no usable answer");
                known.entry(fingerprint.to_owned()).or_default().failed = Some(now());
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
        let client: Client<_, Full<Bytes>> = crate::http_builder().build_http();
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
pub(crate) fn read(der: &[u8], leaf: &X509Ref, issuer: &X509Ref, store: &X509Store) -> Result<Told, TlsError> {
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
        let status = match found.status {
            OcspCertStatus::GOOD => Status::Good,
            OcspCertStatus::REVOKED => Status::Revoked,
            _ => Status::Unknown,
        };
        // A time that cannot be read ends at once.
        let next_update = found.next_update().map(|time| unix(crate::ffi::time(time)).unwrap_or(0));
        return Ok(Told::new(status, next_update, now()));
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
    match read(&bytes, leaf, issuer, &store.build())?.status {
        Status::Good => Ok(bytes.to_vec()),
        _ => Err(TlsError::Untrusted("ocsp: our own certificate is not good".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn known(next_update: Option<i64>) -> Known {
        Known { told: Some(Told::new(Status::Good, next_update, NOW)), failed: None }
    }

    fn is_fresh(known: &Known, now: i64) -> bool {
        matches!(known.at_hand(now, 30), AtHand::Fresh(_))
    }

    /// CO-06.
    #[test]
    fn co_06_a_status_ends_when_its_issuer_says_so() {
        for (next_update, ends) in [
            (Some(4), 4),
            (Some(FRESH_S - 1), FRESH_S - 1),
            (Some(2 * FRESH_S), FRESH_S),
            (None, FRESH_S),
            (Some(-9), PAST_S),
        ] {
            let known = known(next_update.map(|after| NOW + after));
            assert!(is_fresh(&known, NOW), "{next_update:?}");
            assert!(is_fresh(&known, NOW + ends - 1), "{next_update:?}");
            assert_eq!(known.at_hand(NOW + ends, 30), AtHand::Nothing, "{next_update:?}: the responder is asked again");
            assert_eq!(known.at_hand(NOW - 1, 30), AtHand::Nothing, "{next_update:?}: the clock went back");
        }
    }

    /// CO-06.
    #[test]
    fn co_06_the_grace_begins_at_the_end_of_the_status() {
        let mut known = known(Some(NOW + 4));
        known.failed = Some(NOW + 10);
        assert!(is_fresh(&known, NOW + 3));
        assert_eq!(known.at_hand(NOW + 10, 30), AtHand::Failing(Some((Status::Good, 6))));
        assert_eq!(known.at_hand(NOW + 40, 30), AtHand::Due(Some((Status::Good, 36))));
        let never = Known { told: None, failed: Some(NOW) };
        assert_eq!(never.at_hand(NOW, 30), AtHand::Failing(None));
        assert_eq!(never.at_hand(NOW - 1, 30), AtHand::Due(None), "the clock went back");
        // What was told later than now is within no grace.
        assert_eq!(known.at_hand(NOW - 1, 30), AtHand::Due(Some((Status::Good, i64::MAX))));
    }
}
