//! One SOAP message to one country and the root of its answer.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use ncp_ihe::{Severity, Status, actions};
use ncp_saml::SignedAssertion;
use ncp_soap::{Addressing, BoxError, Envelope, Fault, MessageLimits, Parts, SoapError, ns};
use ncp_tls::{Country, HttpClient, Material, TlsError, http_client};
use ncp_xml::{Element, Limits as XmlLimits};

use crate::config::{Client, Limits, Peer};
use crate::identity::TransactionName;

/// A pooled client that trusts one country alone.
pub type Route = HttpClient<UnsyncBoxBody<Bytes, BoxError>>;

/// Parts of one answer: far above a batch, since foreign gateways may send a whole study.
const PARTS: usize = 100_000;

/// Why a country gave no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No address is configured for the transaction.
    #[error("peer does not serve this transaction")]
    NotServed,
    /// Connecting, TLS, or the connection while asking.
    #[error("peer cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("peer did not answer in time")]
    Timeout,
    /// An HTTP status without SOAP.
    #[error("peer answered HTTP {0}")]
    Http(u16),
    /// A SOAP fault; its text is not kept.
    #[error("peer answered with a fault")]
    Fault,
    /// Not what the transaction prescribes.
    #[error("peer's answer is malformed: {0}")]
    Malformed(&'static str),
    /// Refused by an error code of the transaction.
    #[error("peer refused with {0}")]
    Refused(String),
    /// Hash or size do not fit the metadata.
    #[error("content does not fit its metadata")]
    Mismatch,
    /// Larger than we take.
    #[error("peer's answer is too large")]
    TooLarge,
    /// The connection ended inside an answer.
    #[error("peer's answer broke off")]
    BrokeOff,
    /// As many calls to the country are open as may be.
    #[error("too many calls to the peer are open")]
    Busy,
    /// The country failed too often of late and is not asked for a while.
    #[error("peer is not asked after its failures")]
    Open,
}

impl PeerError {
    /// Whether there was no answer of the transaction at all (ITI TF-3: table 4.2.4.1-2, XDSUnavailableCommunity).
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::NotServed | Self::Http(_) | Self::Fault | Self::Open) || self.is_of_the_way()
    }

    /// Whether the way to the peer failed, or the peer itself: what a circuit counts.
    pub fn is_of_the_way(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout | Self::BrokeOff => true,
            Self::Http(status) => *status >= 500,
            _ => false,
        }
    }

    /// The first error code of a failed answer, kept only if it is a code.
    pub(super) fn refused(status: Status, errors: &[ncp_ihe::RegistryError]) -> Option<Self> {
        if status != Status::Failure {
            return None;
        }
        let code = errors.iter().find(|e| e.severity == Severity::Error).map(|e| e.code.as_str());
        Some(Self::Refused(code.map_or_else(|| "no code".into(), code_only)))
    }
}

/// A code without anything that a peer might have put into it.
pub(super) fn code_only(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':')).take(64).collect()
}

impl From<SoapError> for PeerError {
    fn from(error: SoapError) -> Self {
        match error {
            SoapError::Timeout => Self::Timeout,
            SoapError::TooLarge(_) => Self::TooLarge,
            SoapError::Truncated | SoapError::Connection => Self::BrokeOff,
            _ => Self::Malformed("soap"),
        }
    }
}

/// An answer whose root was read.
pub struct PeerAnswer {
    /// The body element.
    pub body: Element,
    /// What follows.
    pub parts: Parts<Incoming>,
}

/// A client for each country, which shows our certificate and takes that country's only.
///
/// # Errors
/// Files, OpenSSL, with the peer's name.
pub fn routes(client: &Client, peers: &[Peer], limits: &Limits) -> Result<BTreeMap<Country, Route>, Vec<String>> {
    let material = Material::load(&client.certificate, &client.key).map_err(|e| vec![format!("client: {e}")])?;
    let mut out = BTreeMap::new();
    let mut problems = Vec::new();
    for peer in peers {
        match material.connector(std::slice::from_ref(&peer.tls_anchors), b"\x08http/1.1") {
            Ok(connector) => {
                out.insert(peer.country, http_client(connector, Some(peer.country), limits.handshake));
            }
            Err(error) => problems.push(format!("peer {}: {error}", peer.name)),
        }
    }
    if problems.is_empty() { Ok(out) } else { Err(problems) }
}

/// Sends and reads.
///
/// # Errors
/// [`PeerError`].
pub(super) async fn send(
    limits: &Limits,
    route: &Route,
    endpoint: &str,
    transaction: TransactionName,
    assertions: &[SignedAssertion],
    body: Element,
    patience: Duration,
) -> Result<PeerAnswer, PeerError> {
    let action = match transaction {
        TransactionName::Iti55 => actions::ITI55_REQUEST,
        TransactionName::Iti38 => actions::ITI38_REQUEST,
        TransactionName::Iti39 => actions::ITI39_REQUEST,
        TransactionName::Rad75 => actions::RAD75_REQUEST,
    };
    let addressing = Addressing::request(action, endpoint);
    let security = assertions.iter().fold(Element::new(ns::WSSE, "Security"), |all, one| all.raw(one.xml.clone()));
    let mut headers = addressing.to_headers();
    headers.push(security);
    let message = Envelope { headers, body }.write();
    let (content_type, body) = match transaction {
        TransactionName::Iti39 | TransactionName::Rad75 => ncp_soap::mtom_request(message),
        _ => {
            let body = Full::new(Bytes::from(message)).map_err(|never| match never {}).boxed_unsync();
            (ncp_soap::soap_content_type(action), body)
        }
    };
    let request = Request::post(endpoint)
        .header(header::CONTENT_TYPE, content_type)
        .body(body)
        .map_err(|_| PeerError::Unreachable("address".into()))?;
    let answered = tokio::time::timeout(patience, answer(limits, route, request, patience)).await;
    let (answer, envelope) = answered.map_err(|_| PeerError::Timeout)??;
    if Fault::read(&answer.body).is_some() {
        return Err(PeerError::Fault);
    }
    // A foreign stack may leave the header out; one that names another message is not our answer.
    let relates = Addressing::read(&envelope).ok().and_then(|a| a.relates_to);
    if relates.is_some() && relates != addressing.message_id {
        return Err(PeerError::Malformed("relates to another message"));
    }
    Ok(answer)
}

async fn answer(
    limits: &Limits,
    route: &Route,
    request: Request<UnsyncBoxBody<Bytes, BoxError>>,
    idle: Duration,
) -> Result<(PeerAnswer, Envelope), PeerError> {
    let response = route.request(request).await.map_err(|e| unreachable(&e))?;
    let (parts, body) = response.into_parts();
    let mut headers = parts.headers;
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/soap+xml"));
    let message_limits =
        MessageLimits { root_bytes: limits.answer_bytes, parts: PARTS, idle, ..MessageLimits::default() };
    let refused = |error: SoapError| match parts.status.is_success() {
        true => error.into(),
        false => PeerError::Http(parts.status.as_u16()),
    };
    let message = ncp_soap::read_message(&headers, body, &message_limits).await.map_err(refused)?;
    let xml = XmlLimits { bytes: limits.answer_bytes, ..XmlLimits::ANSWER };
    let envelope = Envelope::read(&message.root, &xml).map_err(refused)?;
    let body = envelope.body.clone();
    Ok((PeerAnswer { body, parts: message.parts }, envelope))
}

/// The innermost reason that is ours; hyper's own texts stay out.
fn unreachable(error: &hyper_util::client::legacy::Error) -> PeerError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(tls) = inner.downcast_ref::<TlsError>() {
            return match tls {
                TlsError::Timeout => PeerError::Timeout,
                other => PeerError::Unreachable(other.to_string()),
            };
        }
        source = inner.source();
    }
    PeerError::Unreachable("connection broke".into())
}
