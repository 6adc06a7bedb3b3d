//! The answer of an asynchronous exchange (ITI TF-2: V.5): posted to the one address that is configured for the peer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::capture_connection;
use ncp_soap::BoxError;

use super::pipeline::Exchange;
use crate::initiating::PeerError;
use crate::listener::{Reply, ReplyBody};
use crate::orderly::{Orderly, Way};
use crate::soap_client;

/// A whole answer, images included.
pub(super) const WHOLE: Duration = Duration::from_secs(30 * 60);

/// Pauses before the answer is posted again to a receiver that cannot be connected to, milliseconds: a restart.
const PAUSES_MS: [u64; 5] = [250, 500, 1000, 2000, 4000];

/// Posts a reply. Its body is read as fast as the peer takes it. A receiver that cannot be connected to is tried again, as
/// long as nothing of the reply has left.
///
/// # Errors
/// The way to the peer, or a status other than success.
pub(super) async fn deliver(exchange: &Exchange, address: &str, reply: Reply) -> Result<(), PeerError> {
    let (parts, body) = reply.into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).ok_or(PeerError::Malformed("reply"))?;
    let lent = Lent(Arc::new(Mutex::new((body, false))));
    let work = async {
        let mut pauses = PAUSES_MS.into_iter();
        loop {
            let error = match post(exchange, address, content_type, lent.clone()).await? {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) => return Err(PeerError::Http(status.as_u16())),
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause) if error.is_connect() && !lent.has_begun() => {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                _ => return Err(soap_client::unreachable(&error).into()),
            }
        }
    };
    tokio::time::timeout(WHOLE, work).await.map_err(|_| PeerError::Timeout)?
}

/// One try, by the trust and over the connections of this moment.
async fn post(
    exchange: &Exchange,
    address: &str,
    content_type: &http::HeaderValue,
    body: Lent,
) -> Result<Result<http::StatusCode, hyper_util::client::legacy::Error>, PeerError> {
    let peer = exchange.connection.peer.as_ref().ok_or(PeerError::NotServed)?;
    let snapshot = exchange.app.snapshot.load_full();
    let route = snapshot.routes.get(&peer.country).ok_or(PeerError::NotServed)?;
    let mut request = Request::post(address)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::ACCEPT_ENCODING, "identity")
        .body(())
        .map_err(|_| PeerError::Unreachable("address".into()))?;
    // What was sent before an instance failed arrives (FO-08), over this connection as over the peer's own.
    let way = Way::Chosen(capture_connection(&mut request));
    let request = request.map(|()| Orderly::new(body, way).boxed_unsync());
    Ok(route.request(request).await.map(|response| response.status()))
}

/// A body that is not lost with a request whose connection was never made; and whether it was begun.
#[derive(Clone)]
struct Lent(Arc<Mutex<(ReplyBody, bool)>>);

impl Lent {
    fn has_begun(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lent.1 = true;
        Pin::new(&mut lent.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.size_hint()
    }
}
