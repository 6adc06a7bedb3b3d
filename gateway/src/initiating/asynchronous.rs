//! WS-Addressing asynchronous exchange (ITI TF-2: V.5): a country's answers that come over a connection of its own.
//!
//! A request that names a reply address of ours waits here under its MessageID, for a bounded time and with a bounded
//! number of others. What comes is matched by RelatesTo and by the country whose certificate was shown.

use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use ncp_audit::{Event, PeerFacts};
use ncp_soap::{Addressing, Envelope, MessageLimits, SoapError};
use ncp_xml::{ANSWERS, Limits};
use tokio::sync::oneshot;

use crate::admission::Authenticated;
use crate::app::App;
use crate::begun::Begun;
use crate::listener::{PeerConnection, Reply, empty};
use crate::outcome::GatewayError;
use crate::pending::{Arrived, Receiver};
use crate::soap_client::PARTS;
use crate::wire;

/// Takes what a country posts to a reply address of ours. Its connection is answered when the message has been read to
/// its end, so that nothing is kept here.
pub async fn receive(app: &App, who: &PeerConnection, headers: &HeaderMap, body: Incoming) -> Reply {
    let reference = uuid::Uuid::new_v4().to_string();
    match hand_over(app, who, headers, body).await {
        Ok(()) => empty(StatusCode::ACCEPTED),
        Err(error) if is_harmless(&error) => {
            let country = who.peer.as_ref().map(|p| p.country.to_string()).unwrap_or_default();
            tracing::info!(ncp.reference = %reference, %country, reason = %error, "asynchronous answer not taken");
            wire::fault(&GatewayError::Soap(error), wire::Back::default(), &reference)
        }
        Err(error) => {
            tracing::info!(ncp.reference = %reference, reason = %error, "asynchronous answer refused");
            let peer = PeerFacts {
                country: who.peer.as_ref().map(|p| p.country.to_string()).unwrap_or_default(),
                certificate_name: who.certificate.common_name.clone(),
                address: who.address.ip().to_string(),
                ..PeerFacts::default()
            };
            let event = Event::SecurityAlert { rule: format!("asynchronous answer: {error}"), peer };
            if let Err(error) = app.audit.event(&event, &reference).await {
                tracing::error!(reason = %error, "event not stored");
            }
            wire::fault(&GatewayError::Soap(error), wire::Back::default(), &reference)
        }
    }
}

/// What happens to an answer that is one: it comes late, slowly or not whole, or when we have no memory for it.
fn is_harmless(error: &SoapError) -> bool {
    use SoapError::{Busy, Connection, Late, Timeout, Truncated};
    matches!(error, Late | Busy | Timeout | Truncated | Connection)
}

async fn hand_over(app: &App, who: &PeerConnection, headers: &HeaderMap, body: Incoming) -> Result<(), SoapError> {
    let limits = &app.config.limits;
    let country = who.peer.as_ref().map(|p| p.country).ok_or(SoapError::Addressing)?;
    let bounds =
        MessageLimits { root_bytes: limits.answer_bytes, parts: PARTS, idle: limits.idle, ..MessageLimits::default() };
    let mut message =
        ncp_soap::read_message(headers, Begun::from(body), &bounds, ANSWERS.charge(&who.subject())).await?;
    let bounds = Limits { bytes: limits.answer_bytes, ..Limits::ANSWER };
    let envelope = Envelope::read_charged(&message.root, &bounds, message.parts.charge())?;
    let relates = Addressing::read(&envelope)?.relates_to.ok_or(SoapError::Addressing)?;
    let waiting = match app.pending.take(&relates, country) {
        Receiver::Waits(waiting) => waiting,
        Receiver::Over => return Err(SoapError::Late),
        Receiver::Nobody => return Err(SoapError::Addressing),
    };
    let (taken, done) = oneshot::channel();
    let arrived = Arrived { envelope, parts: message.parts, taken };
    waiting.send(arrived).map_err(|_| SoapError::Late)?;
    // Resolves when the answer is dropped; nobody sends on it.
    let _ = done.await;
    Ok(())
}
