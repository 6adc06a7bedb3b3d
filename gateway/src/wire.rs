//! SOAP over HTTP as both listeners speak it: bounded reading on the way in, replies and faults on the way out.

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body;
use ncp_soap::{Addressing, BoxError, Envelope, MessageLimits, OutPart, SoapError};
use ncp_xml::{Element, Limits};

use crate::config;
use crate::listener::{OutParts, Reply, ReplyBody, full};
use crate::outcome::GatewayError;

/// Bytes of parts that a request needs none of.
const TRAILING_BYTES: usize = 1 << 20;

/// Header blocks that we understand (`ihe-transactions.md` 2.1).
const UNDERSTOOD: &[(&str, &str)] = &[
    (ncp_soap::ns::WSA, "Action"),
    (ncp_soap::ns::WSA, "To"),
    (ncp_soap::ns::WSA, "MessageID"),
    (ncp_soap::ns::WSA, "ReplyTo"),
    (ncp_soap::ns::WSA, "FaultTo"),
    (ncp_soap::ns::WSA, "From"),
    (ncp_soap::ns::WSA, "RelatesTo"),
    (ncp_soap::ns::WSSE, "Security"),
];

/// A request that was read: its bytes are what signatures are checked on.
pub struct Request {
    /// Bytes of the envelope.
    pub bytes: Bytes,
    /// Its header blocks and body.
    pub envelope: Envelope,
    /// WS-Addressing.
    pub addressing: Addressing,
}

/// Reads a request, which has no binary part in any of the transactions.
///
/// # Errors
/// MIME, limits, XML, addressing, mustUnderstand.
pub async fn read<B>(limits: &config::Limits, headers: &HeaderMap, body: B) -> Result<Request, SoapError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let bounds = MessageLimits { root_bytes: limits.message_bytes, idle: limits.idle, ..MessageLimits::default() };
    let mut incoming = ncp_soap::read_message(headers, body, &bounds).await?;
    // The message must have come to its end.
    incoming.parts.drain(TRAILING_BYTES).await?;
    let bytes = incoming.root;
    let envelope = Envelope::read(&bytes, &Limits { bytes: limits.message_bytes, ..Limits::REQUEST })?;
    envelope.check_must_understand(UNDERSTOOD)?;
    let addressing = Addressing::read(&envelope)?;
    Ok(Request { bytes, envelope, addressing })
}

/// What a transaction answers: a value that knows no connection.
pub enum Answer {
    /// A body in simple SOAP.
    Simple(Element),
    /// A body whose documents follow as MTOM parts.
    Parts(Element, OutParts),
}

/// A response's envelope.
pub fn envelope(action: &str, relates_to: Option<&str>, body: Element) -> Vec<u8> {
    Envelope { headers: Addressing::response(action, relates_to).to_headers(), body }.write()
}

/// A reply in simple SOAP.
pub fn simple(action: &str, relates_to: Option<&str>, body: Element) -> Reply {
    reply(StatusCode::OK, ncp_soap::soap_content_type(action), full(envelope(action, relates_to, body)))
}

/// A reply as MTOM, also without a binary part (ITI TF-2: V.8).
pub fn mtom<S>(action: &str, relates_to: Option<&str>, body: Element, parts: S) -> Reply
where
    S: Stream<Item = Result<OutPart, BoxError>> + Send + 'static,
{
    let (content_type, body) = ncp_soap::mtom_response(envelope(action, relates_to, body), parts);
    reply(StatusCode::OK, content_type, ReplyBody::new(body))
}

/// A SOAP fault. Its text is fixed and carries the reference, nothing else.
pub fn fault(error: &GatewayError, relates_to: Option<&str>, reference: &str) -> Reply {
    let (fault, status) = match error {
        GatewayError::Soap(soap) => (soap.fault(reference), soap.http_status()),
        other => {
            let row = other.row();
            (ncp_soap::Fault::sender(row.wss, &format!("{} (reference {reference})", row.text)), 400)
        }
    };
    let bytes = fault.envelope(relates_to).write();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = reply(status, ncp_soap::soap_content_type(ncp_soap::FAULT_ACTION), full(bytes));
    if matches!(error, GatewayError::Soap(SoapError::TooLarge(_) | SoapError::Timeout | SoapError::Truncated)) {
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
