//! One SOAP message to one country and the root of its answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
use ncp_ihe::actions;
use ncp_saml::SignedAssertion;
use ncp_soap::SoapError;
use ncp_tls::{Anchors, Country, Material, ServerOf, http_client};
use ncp_xml::Element;

use super::guard::Found;
use crate::audit_scope::Recorder;
use crate::circuit::Outcome;
use crate::compare::Misfit;
use crate::config::{Client, Limits, Peer};
use crate::identity::TransactionName;
use crate::lists::LISTS;
pub(super) use crate::soap_client::code_only;
use crate::soap_client::{CallError, Elsewhere, Packaging, SoapCall};
pub use crate::soap_client::{Route, SoapAnswer as PeerAnswer};
use crate::whole::NotHeld;

/// How long a country is looked for each time.
const LOOKING: Duration = Duration::from_secs(2);

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
    /// The answer began, and comes too slowly.
    #[error("peer's answer comes too slowly")]
    Slow,
    /// An HTTP status without SOAP.
    #[error("peer answered HTTP {0}")]
    Http(u16),
    /// A SOAP fault; its text is not kept.
    #[error("peer answered with a fault")]
    Fault,
    /// Not what the transaction prescribes.
    #[error("peer's answer is malformed: {0}")]
    Malformed(&'static str),
    /// What of it cannot be read: XML, MIME, addressing, a coding or charset that is not known or not the declared one.
    #[error("peer's answer cannot be read: {0}")]
    Unreadable(String),
    /// Refused by an error code of the transaction.
    #[error("peer refused with {0}")]
    Refused(String),
    /// Hash or size do not fit the metadata.
    #[error("content does not fit its metadata")]
    Mismatch,
    /// A document or instance that is not what it should be: the rule that was broken.
    #[error("withheld: {0}")]
    Withheld(&'static str),
    /// Larger than we take.
    #[error("peer's answer is too large")]
    TooLarge,
    /// The connection ended inside an answer.
    #[error("peer's answer broke off")]
    BrokeOff,
    /// As many calls to the country are open as may be.
    #[error("too many calls to the peer are open")]
    Busy,
    /// The country is busy and says when to come back.
    #[error("peer is busy")]
    Later(Duration),
    /// The country answered, and it is we who have no memory for it now. Not asked again by ourselves: what was asked for was
    /// carried out there.
    #[error("no memory for the peer's answer now")]
    NoMemory,
    /// The country failed too often of late and is not asked for so long.
    #[error("peer is not asked after its failures")]
    Open(Duration),
}

impl PeerError {
    /// Whether there was no answer of the transaction at all (ITI TF-3: table 4.2.4.1-2, XDSUnavailableCommunity).
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::NotServed | Self::Http(_) | Self::Fault | Self::Open(_)) || self.is_of_the_way()
    }

    /// Whether the way to the peer failed, or the peer itself.
    pub fn is_of_the_way(&self) -> bool {
        matches!(self, Self::BrokeOff | Self::Slow) || self.opens_a_circuit()
    }

    /// What a circuit makes of it.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Unreachable(_) => Outcome::Unreachable,
            error if error.opens_a_circuit() => Outcome::Failed,
            _ => Outcome::Answered,
        }
    }

    /// Whether the peer as a whole does not answer: what a circuit counts. An answer that breaks off or is too slow counts
    /// against its exchange alone: mostly one object behind the peer is to blame. So does an error page of the peer's gateway,
    /// as a SOAP fault with the same status does; 502, 503 and 504 say that there is no gateway behind what answered (RFC 9110
    /// 15.6).
    pub fn opens_a_circuit(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout => true,
            Self::Http(status) => matches!(status, 502..=504),
            _ => false,
        }
    }
}

impl From<CallError> for PeerError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(why) => Self::Unreachable(why),
            CallError::BrokeOff => Self::BrokeOff,
            CallError::Timeout => Self::Timeout,
            CallError::Slow => Self::Slow,
            CallError::Http(status) => Self::Http(status),
            CallError::Later(after) => Self::Later(after),
            CallError::NoMemory => Self::NoMemory,
            CallError::Fault => Self::Fault,
            CallError::Malformed(what) => Self::Malformed(what),
            CallError::Unreadable(what) => Self::Unreadable(what),
            CallError::TooLarge => Self::TooLarge,
            CallError::Waiting => Self::Busy,
        }
    }
}

impl From<Misfit> for PeerError {
    fn from(misfit: Misfit) -> Self {
        Self::Withheld(misfit.rule())
    }
}

impl From<NotHeld> for PeerError {
    fn from(why: NotHeld) -> Self {
        match why {
            NotHeld::Busy => Self::NoMemory,
            NotHeld::TooLarge => Self::TooLarge,
        }
    }
}

impl From<SoapError> for PeerError {
    fn from(error: SoapError) -> Self {
        CallError::from(error).into()
    }
}

/// A client for each country, which shows our certificate and takes that country's only. What is `known` of an earlier
/// snapshot stays, with its connections.
///
/// # Errors
/// Files, OpenSSL, with the peer's name.
pub fn routes(
    client: &Client,
    peers: &[Peer],
    limits: &Limits,
    anchors: &BTreeMap<Country, Arc<Anchors>>,
    known: impl Fn(&Country) -> Option<Route>,
) -> Result<BTreeMap<Country, Route>, Vec<String>> {
    let material = Material::load(&client.certificate, &client.key).map_err(|e| vec![format!("client: {e}")])?;
    let mut out = BTreeMap::new();
    let mut problems = Vec::new();
    for peer in peers {
        let Some(anchors) = anchors.get(&peer.country) else { continue };
        if let Some(route) = known(&peer.country) {
            out.insert(peer.country, route);
            continue;
        }
        match material.connector_trusting(anchors.authorities().cloned(), b"\x08http/1.1") {
            Ok(connector) => {
                let server = ServerOf { country: peer.country, anchors: anchors.clone() };
                out.insert(peer.country, http_client(connector, Some(server), limits.handshake).paced(limits.idle));
            }
            Err(error) => problems.push(format!("peer {}: {error}", peer.name)),
        }
    }
    if problems.is_empty() { Ok(out) } else { Err(problems) }
}

/// A message on its way out, but for its body.
pub(super) struct Outgoing<'a> {
    pub(super) country: Country,
    pub(super) limits: &'a Limits,
    pub(super) route: &'a Route,
    pub(super) endpoint: &'a str,
    pub(super) transaction: TransactionName,
    pub(super) assertions: &'a [SignedAssertion],
    pub(super) elsewhere: Option<Elsewhere<'a>>,
    pub(super) evidence: Option<&'a Recorder>,
    /// Where it is noted who answered.
    pub(super) trail: &'a Recorder,
}

/// Sends and reads.
///
/// # Errors
/// [`PeerError`].
pub(super) async fn send(message: &Outgoing<'_>, body: Element, patience: Duration) -> Result<PeerAnswer, PeerError> {
    let Outgoing { country, limits, route, endpoint, transaction, assertions, elsewhere, evidence, trail } = *message;
    let (action, packaging) = match transaction {
        TransactionName::Iti55 => (actions::ITI55_REQUEST, Packaging::Simple),
        TransactionName::Iti38 => (actions::ITI38_REQUEST, Packaging::Simple),
        TransactionName::Iti39 => (actions::ITI39_REQUEST, Packaging::Mtom),
        TransactionName::Rad75 => (actions::RAD75_REQUEST, Packaging::Mtom),
    };
    let answer_bytes = limits.answer_bytes;
    let listed = (transaction == TransactionName::Iti38).then(|| (LISTS.of_country(country), limits.results));
    let of = &country.to_string();
    let call = SoapCall {
        of,
        trail: Some(trail),
        endpoint,
        action,
        packaging,
        assertions,
        body,
        patience,
        answer_bytes,
        listed,
        elsewhere,
        evidence,
    };
    Ok(call.send(route).await?)
}

/// What the status of an answer without a message says. Some gateways answer HEAD with 500 or 501 (Axis2, CXF).
fn told_by(status: u16) -> Found {
    if PeerError::Http(status).opens_a_circuit() { Found::NobodyBehind } else { Found::There }
}

/// Whether a country's gateway answers at all. Nothing is asked: what it says to a request without a message does not matter,
/// unless somebody before it says that there is none behind.
pub(super) async fn look(route: &Route, endpoint: &str) -> Found {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let Ok(request) = Request::head(endpoint).body(body) else { return Found::NoLonger };
    match tokio::time::timeout(LOOKING, route.request(request)).await {
        Ok(Ok(answer)) => told_by(answer.status().as_u16()),
        _ => Found::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SK-03: which answers to a look are those of a gateway.
    #[test]
    fn sk_03_a_gateway_that_answers_head_with_an_error_is_there() {
        for status in [200, 202, 302, 401, 403, 404, 405, 429, 500, 501, 505, 511] {
            assert_eq!(told_by(status), Found::There, "{status}");
        }
        for status in [502, 503, 504] {
            assert_eq!(told_by(status), Found::NobodyBehind, "{status}");
        }
    }
}
