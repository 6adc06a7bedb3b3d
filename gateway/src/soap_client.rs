//! One SOAP message over mutual TLS and the root of its answer: towards other countries and towards national systems.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use ncp_ihe::{Content, MessageError, QueryResponse, RegistryObjects, RetrieveResponse};
use ncp_saml::SignedAssertion;
use ncp_soap::{Addressing, BoxError, Envelope, Fault, MessageLimits, Parts, SoapError, ns};
use ncp_tls::{Country, HttpClient, TlsError};
use ncp_xml::{Element, Limits as XmlLimits};
use tokio::sync::oneshot;

use crate::audit_scope::Recorder;
use crate::http_get;
use crate::pending::{Arrived, Pending};
use crate::retry_after;

/// A pooled client of one system.
pub type Route = HttpClient<UnsyncBoxBody<Bytes, BoxError>>;

/// Parts of one answer: far above a batch, since foreign systems may send a whole study.
pub(crate) const PARTS: usize = 100_000;

/// How a transaction packs its messages (ITI TF-2: V.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packaging {
    /// Simple SOAP.
    Simple,
    /// MTOM, also for a request without a binary part.
    Mtom,
}

/// One message on its way out.
pub struct SoapCall<'a> {
    /// `https://…`
    pub endpoint: &'a str,
    /// `wsa:Action`.
    pub action: &'a str,
    /// Packaging.
    pub packaging: Packaging,
    /// What goes into `wsse:Security`; none: no such header.
    pub assertions: &'a [SignedAssertion],
    /// Body element.
    pub body: Element,
    /// Time until the root of the answer was read, and the longest silence behind it.
    pub patience: Duration,
    /// Largest root of an answer, bytes.
    pub answer_bytes: usize,
    /// The DocumentEntries of the answer are read one by one, at most so many.
    pub listed: Option<usize>,
    /// The request names our reply address, and its answer may come there.
    pub elsewhere: Option<Elsewhere<'a>>,
    /// Keeps the headers of request and answer, where the trail keeps evidence.
    pub evidence: Option<&'a Recorder>,
    /// Where it is noted who answered.
    pub trail: Option<&'a Recorder>,
}

/// An answer that comes over another connection.
#[derive(Clone, Copy)]
pub struct Elsewhere<'a> {
    /// Our reply address.
    pub address: &'a str,
    /// Who waits.
    pub pending: &'a Arc<Pending>,
    /// Who must bring it.
    pub country: Country,
}

/// An answer whose root was read.
pub struct SoapAnswer {
    /// The body element.
    pub body: Element,
    /// What of it was read apart.
    pub listed: Listed,
    /// What follows.
    pub parts: Parts<Incoming>,
    /// Where it came over a connection of the other side: dropped when it was read.
    pub(crate) taken: Option<oneshot::Sender<()>>,
}

/// DocumentEntries of a long answer, read as they came.
#[derive(Debug, Default)]
pub struct Listed {
    /// Those that can be used.
    pub entries: RegistryObjects,
    /// Number of those that cannot.
    pub unusable: usize,
    most: usize,
    too_many: bool,
}

impl Listed {
    fn take(&mut self, object: &Element) {
        if self.entries.len() >= self.most {
            self.too_many = true;
        } else if self.entries.read_listed(object).is_err() {
            self.unusable += 1;
        }
    }

    /// The whole answer of a query.
    ///
    /// # Errors
    /// The body is no AdhocQueryResponse.
    pub fn response(self, body: &Element) -> Result<(QueryResponse, usize), MessageError> {
        let (mut response, unusable) = QueryResponse::read(body)?;
        let beside = std::mem::replace(&mut response.objects, self.entries);
        response.objects.extend(beside);
        Ok((response, unusable + self.unusable))
    }
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Connecting, TLS, or the connection while asking.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The connection ended inside an answer.
    #[error("answer broke off")]
    BrokeOff,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// An HTTP status without SOAP.
    #[error("HTTP {0}")]
    Http(u16),
    /// Busy, and says when to come back.
    #[error("busy")]
    Later(Duration),
    /// A SOAP fault; its text is not kept.
    #[error("fault")]
    Fault,
    /// Not what the transaction prescribes.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// What of it cannot be read: XML, MIME, addressing, a coding or charset that is not known or not the declared one.
    #[error("answer cannot be read: {0}")]
    Unreadable(String),
    /// Larger than we take.
    #[error("answer is too large")]
    TooLarge,
    /// Too many requests wait for answers over other connections.
    #[error("too many answers are waited for")]
    Waiting,
}

impl From<SoapError> for CallError {
    fn from(error: SoapError) -> Self {
        match error {
            SoapError::Timeout => Self::Timeout,
            SoapError::TooLarge(_) => Self::TooLarge,
            SoapError::Truncated | SoapError::Connection => Self::BrokeOff,
            // It is we who have no memory for the answer: nothing is wrong with it.
            SoapError::Busy => Self::Later(retry_after::OWN),
            // Our own words for the cause, and a declared coding or charset: nothing else of the answer.
            other => Self::Unreadable(other.to_string()),
        }
    }
}

impl SoapCall<'_> {
    /// Sends and reads the root.
    ///
    /// # Errors
    /// [`CallError`]; a fault is one.
    pub async fn send(self, route: &Route) -> Result<SoapAnswer, CallError> {
        let mut addressing = Addressing::request(self.action, self.endpoint);
        let mut waiting = None;
        if let Some(elsewhere) = &self.elsewhere {
            addressing = addressing.answered_at(elsewhere.address);
            let id = addressing.message_id.as_deref().unwrap_or_default();
            waiting = Some(elsewhere.pending.expect(id, elsewhere.country)?);
        }
        let mut headers = addressing.to_headers();
        if !self.assertions.is_empty() {
            let security = Element::new(ns::WSSE, "Security");
            headers.push(self.assertions.iter().fold(security, |all, one| all.raw(one.xml.clone())));
        }
        let message = Envelope { headers, body: self.body }.write();
        if let (Some(evidence), Some(id)) = (self.evidence, &addressing.message_id) {
            evidence.sent(id, &message);
        }
        let (content_type, body) = match self.packaging {
            Packaging::Mtom => ncp_soap::mtom_request(message),
            Packaging::Simple => {
                let body = Full::new(Bytes::from(message)).map_err(|never| match never {}).boxed_unsync();
                (ncp_soap::soap_content_type(self.action), body)
            }
        };
        let request = Request::post(self.endpoint)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::ACCEPT_ENCODING, "identity")
            .body(body)
            .map_err(|_| CallError::Unreachable("address".into()))?;
        let work = async {
            match (answer(route, request, self.patience, self.answer_bytes, self.listed).await?, waiting) {
                (Some(answered), _) => Ok(answered),
                (None, Some(waiting)) => {
                    let Arrived { envelope, parts, taken } = waiting.arrived().await?;
                    Ok(Answer { server: String::new(), envelope, listed: Listed::default(), parts, taken: Some(taken) })
                }
                (None, None) => Err(CallError::Malformed("no message")),
            }
        };
        let answered = tokio::time::timeout(self.patience, work).await;
        let Answer { server, envelope, listed, mut parts, taken } = answered.map_err(|_| CallError::Timeout)??;
        if let Some(trail) = self.trail {
            trail.server(&server);
        }
        let answered = Addressing::read(&envelope).ok();
        if let (Some(evidence), Some(id)) = (self.evidence, answered.as_ref().and_then(|a| a.message_id.as_deref())) {
            evidence.answered(id, envelope.headers.clone());
        }
        if Fault::read(&envelope.body).is_some() {
            return Err(CallError::Fault);
        }
        // A foreign stack may leave the header out; one that names another message is not our answer.
        let relates = answered.and_then(|a| a.relates_to);
        if relates.is_some() && relates != addressing.message_id {
            return Err(CallError::Malformed("relates to another message"));
        }
        parts.refer(&envelope.body);
        Ok(SoapAnswer { body: envelope.body, listed, parts, taken })
    }
}

/// An answer as it came, over either connection.
struct Answer {
    /// Name in the server's certificate, where it came over our own connection.
    server: String,
    envelope: Envelope,
    listed: Listed,
    parts: Parts<Incoming>,
    taken: Option<oneshot::Sender<()>>,
}

async fn answer(
    route: &Route,
    request: Request<UnsyncBoxBody<Bytes, BoxError>>,
    idle: Duration,
    root_bytes: usize,
    most: Option<usize>,
) -> Result<Option<Answer>, CallError> {
    let response = route.request(request).await.map_err(|e| unreachable(&e))?;
    let (parts, body) = response.into_parts();
    let shown = parts.extensions.get::<ncp_tls::ServerCertificate>();
    let server = shown.map(|shown| shown.0.common_name.clone()).unwrap_or_default();
    if let Some(coding) = http_get::coding(&parts.headers) {
        return Err(CallError::Unreadable(format!("content coding {coding}")));
    }
    // Taken, and answered elsewhere (WS-Addressing SOAP Binding 5).
    if parts.status.is_success() && body.is_end_stream() {
        return Ok(None);
    }
    if parts.status == StatusCode::ACCEPTED {
        let envelope = accepted(&parts.headers, body, (root_bytes, idle)).await?;
        let of = |envelope| Answer { server, envelope, listed: Listed::default(), parts: Parts::none(), taken: None };
        return Ok(envelope.map(of));
    }
    let mut headers = parts.headers;
    let later = retry_after::of_overload(parts.status, &headers);
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/soap+xml"));
    let limits = MessageLimits { root_bytes, parts: PARTS, idle, ..MessageLimits::default() };
    let refused = |error: SoapError| match (parts.status.is_success(), later) {
        (true, _) => error.into(),
        (false, Some(after)) => CallError::Later(after),
        (false, None) => CallError::Http(parts.status.as_u16()),
    };
    let mut listed = Listed { most: most.unwrap_or_default(), ..Listed::default() };
    let (envelope, parts) = if most.is_some() {
        let limits = (&MessageLimits { root_bytes: XmlLimits::LISTED.bytes, ..limits }, &XmlLimits::LISTED);
        let take = &mut |object: Element| listed.take(&object);
        ncp_soap::read_lifting(&headers, body, limits, RegistryObjects::LISTED, take).await.map_err(refused)?
    } else {
        let mut message = ncp_soap::read_message(&headers, body, &limits).await.map_err(refused)?;
        let xml = XmlLimits { bytes: root_bytes, ..XmlLimits::ANSWER };
        let envelope = Envelope::read_charged(&message.root, &xml, message.parts.charge()).map_err(refused)?;
        (envelope, message.parts)
    };
    if listed.too_many {
        Err(CallError::TooLarge)
    } else {
        Ok(Some(Answer { server, envelope, listed, parts, taken: None }))
    }
}

/// What a 202 carries, which has an answer elsewhere: nothing, whatever frames the zero octets (RFC 9112 6.3, 7.1); an
/// envelope whose Body is empty; or, as some write it, the answer itself.
async fn accepted(
    headers: &HeaderMap,
    body: Incoming,
    (root_bytes, idle): (usize, Duration),
) -> Result<Option<Envelope>, CallError> {
    let collected = tokio::time::timeout(idle, Limited::new(body, root_bytes).collect());
    let bytes = match collected.await.map_err(|_| CallError::Timeout)? {
        Ok(whole) => whole.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(CallError::TooLarge),
        Err(_) => return Err(CallError::BrokeOff),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = headers.clone();
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/soap+xml"));
    let limits = MessageLimits { root_bytes, parts: PARTS, idle, ..MessageLimits::default() };
    let mut message = ncp_soap::read_message(&headers, Full::new(bytes), &limits).await?;
    message.parts.drain(root_bytes).await?;
    let xml = XmlLimits { bytes: root_bytes, ..XmlLimits::ANSWER };
    Ok(Envelope::read_acknowledgement(&message.root, &xml)?)
}

/// The innermost reason that is ours; hyper's own texts stay out. An answer whose head cannot be read is no lost connection.
pub(crate) fn unreachable(error: &hyper_util::client::legacy::Error) -> CallError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(tls) = inner.downcast_ref::<TlsError>() {
            return match tls {
                TlsError::Timeout => CallError::Timeout,
                other => CallError::Unreachable(other.to_string()),
            };
        }
        if let Some(http) = inner.downcast_ref::<hyper::Error>()
            && http.is_parse()
        {
            let what =
                if http.is_parse_too_large() { "its HTTP head is too large" } else { "a field of its HTTP head" };
            return CallError::Unreadable(what.into());
        }
        source = inner.source();
    }
    CallError::Unreachable("connection broke".into())
}

/// Reads the root of a retrieve.
///
/// # Errors
/// Malformed.
pub fn read_retrieve(body: &Element) -> Result<RetrieveResponse, CallError> {
    let read = RetrieveResponse::read(body, |holder| match ncp_soap::included(holder) {
        Ok(Some(id)) => Ok(Content::Include(id)),
        Ok(None) => ncp_soap::inline_content(holder).map(Content::Inline),
        Err(error) => Err(error),
    });
    read.map_err(|_| CallError::Malformed("RetrieveDocumentSetResponse"))
}

/// A code without anything that the other side might have put into it.
pub fn code_only(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':')).take(64).collect()
}
