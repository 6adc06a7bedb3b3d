//! The answer of an asynchronous exchange (ITI TF-2: V.5): posted to the one address that is configured for the peer.

use std::time::Duration;

use http::{Request, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::capture_connection;

use super::pipeline::Exchange;
use crate::initiating::PeerError;
use crate::listener::Reply;
use crate::orderly::{Orderly, Way};

/// A whole answer, images included.
const WHOLE: Duration = Duration::from_secs(30 * 60);

/// Posts a reply. Its body is read as fast as the peer takes it.
///
/// # Errors
/// The way to the peer, or a status other than success.
pub(super) async fn deliver(exchange: &Exchange, address: &str, reply: Reply) -> Result<(), PeerError> {
    let peer = exchange.connection.peer.as_ref().ok_or(PeerError::NotServed)?;
    let route = exchange.snapshot.routes.get(&peer.country).ok_or(PeerError::NotServed)?;
    let (parts, body) = reply.into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).cloned().ok_or(PeerError::Malformed("reply"))?;
    let mut request = Request::post(address)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::ACCEPT_ENCODING, "identity")
        .body(())
        .map_err(|_| PeerError::Unreachable("address".into()))?;
    // What was sent before an instance failed arrives (FO-08), over this connection as over the peer's own.
    let way = Way::Chosen(capture_connection(&mut request));
    let request = request.map(|()| Orderly::new(body, way).boxed_unsync());
    let answered = tokio::time::timeout(WHOLE, route.request(request)).await.map_err(|_| PeerError::Timeout)?;
    let status = answered.map_err(|_| PeerError::BrokeOff)?.status();
    if status.is_success() { Ok(()) } else { Err(PeerError::Http(status.as_u16())) }
}
