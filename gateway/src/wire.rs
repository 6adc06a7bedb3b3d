//! SOAP over HTTP as both listeners speak it: bounded reading on the way in, replies and faults on the way out.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use ncp_audit::TooLong;
use ncp_ihe::{DocumentEntry, QueryResponse};
use ncp_soap::{Addressing, BoxError, Envelope, MessageLimits, OutPart, SizeLimit, SoapError};
use ncp_xml::{Charge, Element, Limits, REQUESTS};

use crate::admission::Authenticated;
use crate::config;
use crate::listener::{OutParts, Reply, ReplyBody, full};
use crate::lists::Share;
use crate::outcome::GatewayError;

/// Header fields of a request, bytes.
const HEADER_BYTES: usize = 32 << 10;
/// Bytes of parts that a request needs none of.
const TRAILING_BYTES: usize = 1 << 20;
const TOO_LONG: &str = "the message is longer than is read";

/// Header blocks that we understand.
const UNDERSTOOD: &[(&str, &str)] = &[
    (ncp_soap::ns::WSA, "Action"),
    (ncp_soap::ns::WSA, "To"),
    (ncp_soap::ns::WSA, "MessageID"),
    (ncp_soap::ns::WSA, "ReplyTo"),
    (ncp_soap::ns::WSA, "FaultTo"),
    (ncp_soap::ns::WSA, "From"),
    (ncp_soap::ns::WSA, "RelatesTo"),
    (ncp_soap::ns::WSSE, "Security"),
    // A hint for caches; nothing is kept of a discovery.
    ("urn:ihe:iti:xcpd:2009", "CorrelationTimeToLive"),
];

/// A request that was read: its bytes are what signatures are checked on.
pub struct Request {
    /// Bytes of the envelope.
    pub bytes: Bytes,
    /// Its header blocks and body.
    pub envelope: Envelope,
    /// WS-Addressing.
    pub addressing: Addressing,
    /// Where the answer goes, if not back on the connection; always a configured address.
    pub answer_at: Option<String>,
    /// MessageID of the answer.
    pub answer_id: String,
    /// What the request holds of the budget of all messages, until it is dropped.
    _charge: Charge,
}

/// To what and where an answer goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Back<'a> {
    /// MessageID of the request.
    pub relates_to: Option<&'a str>,
    /// The reply address of an asynchronous exchange.
    pub to: Option<&'a str>,
    /// MessageID of the answer, where the trail knows it before; none: a new one.
    pub message_id: Option<&'a str>,
    /// The request carried no WS-Addressing: a stack without it would not understand the blocks of an answer either.
    pub is_bare: bool,
}

impl Request {
    /// Where its answer goes.
    pub fn back(&self) -> Back<'_> {
        let (message_id, is_bare) = (Some(self.answer_id.as_str()), self.addressing.is_implied);
        Back { relates_to: self.addressing.message_id.as_deref(), to: self.answer_at.as_deref(), message_id, is_bare }
    }
}

impl Back<'_> {
    /// The header blocks of an answer.
    pub fn headers(self, action: &str) -> Vec<Element> {
        if self.is_bare {
            return Vec::new();
        }
        let mut addressing = Addressing::response(action, self.relates_to);
        addressing.to = self.to.map(ToOwned::to_owned);
        addressing.message_id = self.message_id.map(ToOwned::to_owned).or(addressing.message_id);
        addressing.to_headers()
    }
}

/// Reads a message that is one envelope: bounded, whole, nothing in it that must be understood and is not.
///
/// # Errors
/// MIME, limits, XML, mustUnderstand. Of a message that is too long: its length as announced, and the digest of what was read
/// of its envelope. Busy where the messages that are being read, or those of the same caller, leave no memory for it; what it
/// holds itself is given back with the charge.
pub async fn read_envelope<B>(
    limits: &config::Limits,
    caller: &impl Authenticated,
    headers: &HeaderMap,
    body: B,
) -> Result<(Bytes, Envelope, Option<String>, Charge), GatewayError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let bounds = MessageLimits { root_bytes: limits.message_bytes, idle: limits.idle, ..MessageLimits::default() };
    let header_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > HEADER_BYTES {
        return Err(SoapError::TooLarge(SizeLimit::Headers).into());
    }
    let announced = body.size_hint().exact();
    let charge = REQUESTS.charge(&caller.subject());
    let mut root = BytesMut::new();
    let reading = async {
        if announced.is_some_and(|n| n > (bounds.root_bytes + bounds.before_root_bytes + TRAILING_BYTES) as u64) {
            return Err(SoapError::TooLarge(SizeLimit::Body));
        }
        let (action, mut parts) = ncp_soap::read_root(headers, body, &bounds, charge, &mut root).await?;
        // The message must have come to its end.
        parts.drain(TRAILING_BYTES).await?;
        Ok((action, parts.into_charge()))
    };
    let read = tokio::time::timeout(limits.request, reading).await.unwrap_or(Err(SoapError::Timeout));
    let (action, mut charge) = read.map_err(|error| match error {
        SoapError::TooLarge(SizeLimit::Body) => GatewayError::from(TooLong::begun(TOO_LONG, announced, &root)),
        other => other.into(),
    })?;
    let bytes = root.freeze();
    let bounds = Limits::REQUEST.of(limits.message_bytes);
    let envelope = Envelope::read_charged(&bytes, &bounds, &mut charge)?;
    envelope.check_must_understand(UNDERSTOOD)?;
    Ok((bytes, envelope, action, charge))
}

/// Reads a request, which has no binary part in any of the transactions. `reply_to` is the one address beside the
/// connection at which it may want its answer; `implied` says which action a message has whose header says none, by the
/// action that its Content-Type declares and by its body.
///
/// # Errors
/// MIME, limits, XML, addressing, mustUnderstand.
pub async fn read<B>(
    limits: &config::Limits,
    caller: &impl Authenticated,
    reply_to: Option<&str>,
    headers: &HeaderMap,
    body: B,
    implied: impl FnOnce(Option<String>, &Element) -> Option<String>,
) -> Result<Request, GatewayError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (bytes, envelope, declared, charge) = read_envelope(limits, caller, headers, body).await?;
    let addressing = Addressing::read_or(&envelope, || implied(declared, &envelope.body))?;
    let answer_at = addressing.reply_address(reply_to)?.map(ToOwned::to_owned);
    let answer_id = uuid::Uuid::new_v4().urn().to_string();
    Ok(Request { bytes, envelope, addressing, answer_at, answer_id, _charge: charge })
}

/// What a transaction answers: a value that knows no connection.
pub enum Answer {
    /// A body in simple SOAP.
    Simple(Element),
    /// What a query found, in simple SOAP, written entry by entry.
    Listed(Listing),
    /// A body whose documents follow as MTOM parts.
    Parts(Element, OutParts),
}

/// What a query found.
pub struct Listing {
    /// What stands in the answer beside the entries that are made for it.
    pub response: QueryResponse,
    /// Entries that are made when they are written.
    pub further: Box<dyn Iterator<Item = DocumentEntry> + Send>,
    /// Memory that the list takes until it was written.
    pub shares: Vec<Share>,
}

/// A response's envelope.
pub fn envelope(action: &str, back: Back<'_>, body: Element) -> Vec<u8> {
    Envelope { headers: back.headers(action), body }.write()
}

/// A reply in simple SOAP.
pub fn simple(action: &str, back: Back<'_>, body: Element) -> Reply {
    reply(StatusCode::OK, ncp_soap::soap_content_type(action), full(envelope(action, back, body)))
}

/// Bytes of a list that are written before they are sent.
const LIST_CHUNK: usize = 64 << 10;

/// A reply in simple SOAP whose entries are written as the peer takes them.
pub fn listed(action: &str, back: Back<'_>, found: Listing) -> Reply {
    let Listing { response, further, shares } = found;
    let (shell, entries) = response.into_listing_with(further);
    let (before, after) = Envelope { headers: back.headers(action), body: shell }.write_around();
    let mut pieces = std::iter::once(before).chain(entries.map(|entry| entry.to_xml())).chain(std::iter::once(after));
    let chunks = std::iter::from_fn(move || {
        let _until_written = &shares;
        let mut chunk = pieces.next()?;
        while chunk.len() < LIST_CHUNK
            && let Some(piece) = pieces.next()
        {
            chunk.push_str(&piece);
        }
        Some(Ok(Frame::data(Bytes::from(chunk))))
    });
    let body = StreamBody::new(futures_util::stream::iter(chunks));
    reply(StatusCode::OK, ncp_soap::soap_content_type(action), ReplyBody::new(body))
}

/// A reply as MTOM, also without a binary part (ITI TF-2: V.8).
pub fn mtom<S>(action: &str, back: Back<'_>, body: Element, parts: S) -> Reply
where
    S: Stream<Item = Result<OutPart, BoxError>> + Send + 'static,
{
    let (content_type, body) = ncp_soap::mtom_response(envelope(action, back, body), parts);
    reply(StatusCode::OK, content_type, ReplyBody::new(body))
}

/// A SOAP fault. Its text is fixed and carries the reference, nothing else.
pub fn fault(error: &GatewayError, back: Back<'_>, reference: &str) -> Reply {
    let (fault, status) = match error {
        GatewayError::Soap(soap) => (soap.fault(reference), soap.http_status()),
        other => {
            let row = other.row();
            let status = if matches!(other, GatewayError::TooLong(_)) { 413 } else { 400 };
            (ncp_soap::Fault::sender(row.wss, &format!("{} (reference {reference})", row.text)), status)
        }
    };
    let bytes = envelope(ncp_soap::FAULT_ACTION, back, fault.to_element());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = reply(status, ncp_soap::soap_content_type(ncp_soap::FAULT_ACTION), full(bytes));
    let ends = matches!(
        error,
        GatewayError::Soap(SoapError::TooLarge(_) | SoapError::Timeout | SoapError::Truncated | SoapError::Busy)
    );
    if matches!(error, GatewayError::Soap(SoapError::Busy)) {
        // As the text of the fault says.
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    if ends || matches!(error, GatewayError::TooLong(_)) {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// The audit intent could not be stored: nothing is done, nothing disclosed.
pub fn unstarted(reference: &str, error: &GatewayError) -> Reply {
    tracing::error!(ncp.reference = %reference, reason = %error, "exchange not started");
    let fault = ncp_soap::Fault::receiver(&format!("not available (reference {reference})"));
    let content_type = ncp_soap::soap_content_type(ncp_soap::FAULT_ACTION);
    let mut reply = reply(StatusCode::SERVICE_UNAVAILABLE, content_type, full(fault.envelope(None).write()));
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
    reply
}

fn reply(status: StatusCode, content_type: HeaderValue, body: ReplyBody) -> Reply {
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use ncp_xml::XmlError;

    use super::*;

    #[test]
    fn se_07_no_memory_is_told_as_busy() {
        let error = GatewayError::from(SoapError::from(XmlError::Busy));
        let reply = fault(&error, Back::default(), "r");
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers().get(header::RETRY_AFTER).map(HeaderValue::as_bytes), Some(&b"5"[..]));
        assert_eq!((error.class(), error.row().alert.is_some()), ("failed", false));
        let beyond = fault(&GatewayError::from(SoapError::from(XmlError::Memory)), Back::default(), "r");
        assert_eq!(beyond.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
