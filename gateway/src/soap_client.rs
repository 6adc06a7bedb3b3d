//! One SOAP message over mutual TLS and the root of its answer: towards other countries and towards national systems.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use ncp_ihe::{Content, MessageError, QueryResponse, RegistryObjects, RetrieveResponse};
use ncp_saml::SignedAssertion;
use ncp_soap::{Addressing, BoxError, Envelope, Fault, MessageLimits, Parts, SoapError, ns};
use ncp_tls::{Country, HttpClient, TlsError};
use ncp_xml::{ANSWERS, Charge, Element, Limits as XmlLimits};
use tokio::sync::oneshot;

use crate::audit_scope::Recorder;
use crate::begun::Begun;
use crate::http_get;
use crate::lists::{NoRoom, Share};
use crate::pending::{Arrived, Pending};
use crate::retry_after;

/// A pooled client of one system.
pub type Route = HttpClient<UnsyncBoxBody<Bytes, BoxError>>;

/// The body of an answer.
pub type AnswerBody = Begun<Incoming>;

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
    /// The country or the system that is asked: whose share of the memory for answers its answer takes.
    pub of: &'a str,
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
    /// The DocumentEntries of the answer are read one by one, into this memory, those of at most so many documents.
    pub listed: Option<(Share, usize)>,
    /// The request names our reply address, and its answer may come there.
    pub elsewhere: Option<Elsewhere<'a>>,
    /// Keeps the headers of request and answer, where the trail keeps evidence.
    pub evidence: Option<&'a Recorder>,
    /// Where it is noted what was sent, by its MessageID, and who answered.
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
    pub parts: Parts<AnswerBody>,
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
    /// Entries of documents that are made when they are retrieved. They stand beside the originals of which they are made, so
    /// that as many of them are read as of others.
    made: usize,
    most: usize,
    /// Memory that they take.
    pub share: Option<Share>,
    refused: Option<NoRoom>,
}

impl Listed {
    fn take(&mut self, object: &Element) {
        if self.refused.is_some() {
            return;
        }
        if self.entries.read_listed(object).is_err() {
            self.unusable += 1;
            return;
        }
        if let Some(entry) = self.entries.entries.last() {
            self.made += usize::from(entry.is_delayed_assembly());
            let too_many = self.made.max(self.entries.entries.len() - self.made) > self.most;
            let grown = self.share.as_ref().map_or(Ok(()), |share| share.grow(Share::of(entry)));
            self.refused = if too_many { Some(NoRoom::TooLong) } else { grown.err() };
        }
        if self.refused.is_some() {
            // Lists that grow side by side would all be refused if each kept its memory to the end of its answer.
            (self.entries, self.share) = (RegistryObjects::default(), None);
        }
    }

    /// What forbids the answer.
    fn refusal(&self) -> Option<CallError> {
        self.refused.map(|none| match none {
            NoRoom::TooLong => CallError::TooLarge,
            NoRoom::Busy => CallError::NoMemory,
        })
    }

    /// The whole answer of a query, and the number of entries that cannot be used.
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
    /// The answer began, and comes too slowly.
    #[error("answer comes too slowly")]
    Slow,
    /// An HTTP status without SOAP.
    #[error("HTTP {0}")]
    Http(u16),
    /// Busy, and says when to come back.
    #[error("busy")]
    Later(Duration),
    /// It is we who have no memory for the answer now. What was asked for may have been carried out.
    #[error("no memory for the answer now")]
    NoMemory,
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
            SoapError::Timeout => Self::Slow,
            SoapError::TooLarge(_) => Self::TooLarge,
            SoapError::Truncated | SoapError::Connection => Self::BrokeOff,
            SoapError::Busy => Self::NoMemory,
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
        if let (Some(trail), Some(id)) = (self.trail, &addressing.message_id) {
            trail.sent(id, self.evidence.is_some().then_some(&message));
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
        let limits = MessageLimits {
            root_bytes: self.answer_bytes,
            parts: PARTS,
            idle: self.patience,
            ..MessageLimits::default()
        };
        let waits = waiting.is_some();
        let answered = async {
            let response = route.request(request).await.map_err(|e| unreachable(&e))?;
            read_answer(response, waits, limits, self.listed, ANSWERS.charge(self.of)).await
        };
        let work = async {
            let Some(waiting) = waiting else { return answered.await?.ok_or(CallError::Malformed("no message")) };
            let mut arrived = pin!(waiting.arrived());
            // The other side may end its acknowledgement only when we have taken its answer.
            let arrived = tokio::select! {
                biased;
                answered = answered => match answered? {
                    Some(answered) => return Ok(answered),
                    None => arrived.await,
                },
                arrived = &mut arrived => arrived,
            };
            let Arrived { envelope, parts, taken } = arrived?;
            Ok(Answer { server: String::new(), envelope, listed: Listed::default(), parts, taken: Some(taken) })
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
        parts.refer(&envelope.body)?;
        Ok(SoapAnswer { body: envelope.body, listed, parts, taken })
    }
}

/// An answer as it came, over either connection.
struct Answer<B> {
    /// Name in the server's certificate, where it came over our own connection.
    server: String,
    envelope: Envelope,
    listed: Listed,
    parts: Parts<Begun<B>>,
    taken: Option<oneshot::Sender<()>>,
}

/// Reads an answer to its root. `None`: the message was taken, and is answered elsewhere (WS-Addressing SOAP Binding 5), for which
/// the caller `waits`. Such an acknowledgement is a 202, or any success without octets or with a text that is no message (RFC
/// 9110 15.3.3: what a 202 carries describes its status).
async fn read_answer<B>(
    response: Response<B>,
    waits: bool,
    limits: MessageLimits,
    list: Option<(Share, usize)>,
    charge: Charge,
) -> Result<Option<Answer<B>>, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let shown = head.extensions.get::<ncp_tls::ServerCertificate>();
    let server = shown.map(|shown| shown.0.common_name.clone()).unwrap_or_default();
    if let Some(coding) = http_get::coding(&head.headers) {
        return Err(CallError::Unreadable(format!("content coding {coding}")));
    }
    if head.status.is_success() && body.is_end_stream() {
        return Ok(None);
    }
    // Whatever it carries beside, as the fault of a gateway that has no memory for the request does.
    if let Some(after) = retry_after::of_overload(head.status, &head.headers) {
        return Err(CallError::Later(after));
    }
    // What was taken says nothing, or has an empty Body; some write the answer itself.
    let is_taken = head.status == StatusCode::ACCEPTED || (waits && head.status.is_success());
    if is_taken && !may_be_message(&head.headers) {
        return Ok(None);
    }
    let body = match is_taken {
        true => Begun::of(body).await.map_err(|_| CallError::BrokeOff)?,
        false => Some(Begun::from(body)),
    };
    let Some(body) = body else { return Ok(None) };
    let mut headers = head.headers;
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/soap+xml"));
    let is_list = list.is_some();
    let mut listed = match list {
        Some((share, most)) => Listed { share: Some(share), most, ..Listed::default() },
        None => Listed::default(),
    };
    let reading = async {
        if is_list {
            let limits = (&MessageLimits { root_bytes: XmlLimits::LISTED.bytes, ..limits }, &XmlLimits::LISTED);
            let take = &mut |object: Element| listed.take(&object);
            return ncp_soap::read_lifting(&headers, body, limits, RegistryObjects::LISTED, take, charge).await;
        }
        let mut message = ncp_soap::read_message(&headers, body, &limits, charge).await?;
        let xml = XmlLimits::ANSWER.of(limits.root_bytes);
        let envelope = Envelope::read_charged(&message.root, &xml, message.parts.charge())?;
        Ok((envelope, message.parts))
    };
    let (envelope, parts) = match reading.await {
        Ok(read) => read,
        Err(SoapError::EmptyBody) if is_taken => return Ok(None),
        Err(error) if head.status.is_success() || matches!(error, SoapError::Busy) => return Err(error.into()),
        Err(_) => return Err(CallError::Http(head.status.as_u16())),
    };
    match listed.refusal() {
        Some(refusal) => Err(refusal),
        None => Ok(Some(Answer { server, envelope, listed, parts, taken: None })),
    }
}

/// Whether the media type is one of SOAP or a package, or is left out.
fn may_be_message(headers: &http::HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    ["application/soap+xml", "multipart/", "text/xml", "application/xml"]
        .iter()
        .any(|known| text.trim_start().starts_with(known))
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

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use ncp_soap::OutPart;
    use ncp_tls::Country;
    use ncp_xml::InFlight;

    use super::*;
    use crate::listener::{Reply, full};
    use crate::lists::{LISTS, Lists};
    use crate::national::with_event;
    use crate::outcome::GatewayError;
    use crate::wire;

    const LIMITS: MessageLimits =
        MessageLimits { root_bytes: 1 << 20, before_root_bytes: 0, idle: Duration::from_secs(600), parts: 10 };

    fn under(status: u16, body: impl Into<Bytes>) -> Reply {
        let mut reply = Response::new(full(body));
        *reply.status_mut() = StatusCode::from_u16(status).expect("a status");
        reply
    }

    fn envelope(body: &str) -> String {
        format!("<s:Envelope xmlns:s=\"{}\"><s:Body>{body}</s:Body></s:Envelope>", ns::SOAP)
    }

    async fn read(reply: Reply) -> Result<Option<Answer<crate::listener::ReplyBody>>, CallError> {
        static BUDGET: InFlight = InFlight::new(384 << 10, 100);
        let list =
            reply.headers().contains_key("listing").then(|| (LISTS.of_country(Country::parse("SE").expect("SE")), 10));
        let waits = reply.headers().contains_key("elsewhere");
        read_answer(reply, waits, LIMITS, list, BUDGET.charge("SE")).await
    }

    /// SK-07: of long lists that grow side by side not all are refused: who is refused leaves its memory to the others.
    #[test]
    fn sk_07_lists_that_grow_side_by_side_are_not_all_refused() {
        static SMALL: Lists = Lists::new(4 << 20, 100);
        let report = with_event(&ncp_ihe::Coded::new("CT", "2.999.4", None));
        let whole = (2 << 20) / Share::of(&report);
        let objects = RegistryObjects { entries: vec![report], ..RegistryObjects::default() }.to_element();
        let entry = objects.elements().next().expect("an entry");
        let share = || Some(SMALL.of_country(Country::parse("SE").expect("SE")));
        let mut lists: Vec<Listed> =
            (0..8).map(|_| Listed { share: share(), most: 10_000, ..Listed::default() }).collect();
        for _ in 0..whole {
            lists.iter_mut().for_each(|list| list.take(entry));
        }
        let read = lists.iter().filter(|list| list.refusal().is_none()).count();
        assert!((1..8).contains(&read), "{read} of 8");
        assert!(lists.iter().all(|list| list.unusable == 0));
    }

    /// SK-06: a gateway without memory for our request says so in a fault under 503, which is no error of it.
    #[tokio::test]
    async fn sk_06_a_fault_under_503_is_told_as_busy() {
        let busy = wire::fault(&GatewayError::Soap(SoapError::Busy), wire::Back::default(), "r");
        assert!(matches!(read(busy).await, Err(CallError::Later(after)) if after == crate::admission::AGAIN));
        let refused = wire::fault(&GatewayError::Soap(SoapError::Action), wire::Back::default(), "r");
        let read = read(refused).await.expect("a fault").expect("an answer");
        assert!(Fault::read(&read.envelope.body).is_some());
    }

    /// SE-07: whatever the status, what we have no memory for is no failure of whoever answered.
    #[tokio::test]
    async fn se_07_an_answer_without_memory_is_no_failure_of_the_country() {
        for status in [200, 202, 500, 503] {
            let reply = under(status, envelope(&format!("<a>{}</a>", "x".repeat(500 << 10))));
            assert!(matches!(read(reply).await, Err(CallError::NoMemory)), "{status}");
        }
    }

    /// CO-07: a 202 says by zero octets or by an empty Body that the request was taken; an answer in it is one like any other.
    #[tokio::test]
    async fn co_07_an_answer_under_202_keeps_its_parts() {
        for body in [String::new(), envelope(""), envelope("\n")] {
            for listing in [false, true] {
                let mut reply = under(202, body.clone());
                if listing {
                    reply.headers_mut().insert("listing", HeaderValue::from_static("1"));
                }
                assert!(matches!(read(reply).await, Ok(None)), "{body}");
            }
        }
        assert!(matches!(read(under(200, envelope(""))).await, Err(CallError::Unreadable(_))));
        for (status, elsewhere, is_taken) in
            [(202, false, true), (202, true, true), (200, true, true), (200, false, false)]
        {
            let mut reply = under(status, "Accepted");
            reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            // No length: the body has zero octets, and says so at its end.
            let mut chunked =
                Response::new(crate::listener::ReplyBody::new(StreamBody::new(futures_util::stream::empty())));
            *chunked.status_mut() = reply.status();
            for mut reply in [reply, chunked] {
                if elsewhere {
                    reply.headers_mut().insert("elsewhere", HeaderValue::from_static("1"));
                }
                assert_eq!(matches!(read(reply).await, Ok(None)), is_taken, "{status} {elsewhere}");
            }
        }

        let data = Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(b"image"))]));
        let part = OutPart { content_id: "1@se".into(), media_type: "application/dicom".into(), data };
        let root = envelope("<a/>").into_bytes();
        let (content_type, body) = ncp_soap::mtom_response(root, futures_util::stream::iter([Ok(part)]));
        let mut reply = Response::new(crate::listener::ReplyBody::new(body));
        *reply.status_mut() = StatusCode::ACCEPTED;
        reply.headers_mut().insert(header::CONTENT_TYPE, content_type);
        let mut read = read(reply).await.expect("reads").expect("an answer");
        assert_eq!(read.parts.next().await.expect("reads").expect("a part").content_id, "1@se");
        assert_eq!(read.parts.chunk().await.expect("reads").as_deref(), Some(&b"image"[..]));
    }
}
