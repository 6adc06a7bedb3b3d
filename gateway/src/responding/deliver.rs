//! The answer of an asynchronous exchange (ITI TF-2: V.5): posted to the one address that is configured for the peer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::capture_connection;
use ncp_soap::BoxError;
use ncp_tls::Flushes;
use tokio::sync::oneshot;

use super::pipeline::Exchange;
use super::repeatable::Repeatable;
use crate::initiating::PeerError;
use crate::listener::Reply;
use crate::orderly::{Orderly, Way};
use crate::{retry_after, soap_client};

/// A whole answer, images included.
pub(super) const WHOLE: Duration = Duration::from_secs(30 * 60);

/// Pauses before the answer is posted again to a receiver that cannot be reached, milliseconds: a restart.
const PAUSES_MS: [u64; 5] = [250, 500, 1000, 2000, 4000];
/// How long one that is busy is waited for, each time.
const BUSY: Duration = Duration::from_secs(6);

/// Posts a reply. Its body is read as fast as the peer takes it. A receiver that cannot be reached, whose connection breaks before
/// it has answered, or that is busy for a short time, gets it again, as long as all of the reply is there. One that takes too
/// little, or has all and does not say so in time, is let go.
///
/// # Errors
/// The way to the peer, or a status other than success.
pub(super) async fn deliver(exchange: &Exchange, address: &str, reply: Reply) -> Result<(), PeerError> {
    let (parts, body) = reply.into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).ok_or(PeerError::Malformed("reply"))?;
    let sending = Sending { body: Repeatable::new(body), turn: 0, way: None };
    let mut lent = Lent { sending: Arc::new(Mutex::new(sending)), turn: 0 };
    let work = async {
        let mut pauses = PAUSES_MS.into_iter();
        loop {
            let (error, after) = match post(exchange, address, content_type, lent.clone()).await? {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => match retry_after::of_overload(answer.status(), answer.headers()) {
                    Some(after) => (PeerError::Later(after), Some(after)),
                    None => (PeerError::Http(answer.status().as_u16()), None),
                },
                Err(error) => (soap_client::unreachable(&error).into(), None),
            };
            let is_passing = after.map_or(error.opens_a_circuit(), |after| after <= BUSY);
            match pauses.next().map(Duration::from_millis) {
                Some(pause) if is_passing && lent.begin_again() => tokio::time::sleep(after.unwrap_or(pause)).await,
                _ => return Err(error),
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
) -> Result<Result<http::Response<()>, hyper_util::client::legacy::Error>, PeerError> {
    let peer = exchange.connection.peer.as_ref().ok_or(PeerError::NotServed)?;
    let snapshot = exchange.app.snapshot.load_full();
    let route = snapshot.routes.get(&peer.country).ok_or(PeerError::NotServed)?;
    let mut request = Request::post(address)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::ACCEPT_ENCODING, "identity")
        .body(())
        .map_err(|_| PeerError::Unreachable("address".into()))?;
    // What was sent before an instance failed arrives (FO-08), over this connection as over the peer's own.
    let captured = capture_connection(&mut request);
    let gone = body.on(Way::Chosen(captured.clone()));
    let request = request.map(|()| Orderly::new(body, Way::Chosen(captured)).boxed_unsync());
    let unanswered = async {
        // A sender that is dropped before belongs to a request that failed.
        match gone.await {
            Ok(sent) => sent.flushed().await,
            Err(_) => std::future::pending().await,
        }
        tokio::time::sleep(exchange.app.config.limits.first_byte).await;
    };
    tokio::select! {
        posted = route.request(request) => Ok(posted.map(|response| response.map(drop))),
        () = unanswered => Err(PeerError::Timeout),
    }
}

/// A body that is not lost with a request whose connection was never made, or whose receiver was busy.
#[derive(Clone)]
struct Lent {
    sending: Arc<Mutex<Sending>>,
    turn: usize,
}

struct Sending {
    body: Repeatable,
    /// Which request it belongs to: an earlier one may send on when it was answered.
    turn: usize,
    /// The connection of the present request, and who is told when the last byte was handed to it.
    way: Option<(Way, oneshot::Sender<Sent>)>,
}

/// The last byte was handed to the connection after so many flushes.
struct Sent(Option<(Flushes, u64)>);

impl Sent {
    /// Resolves when it has left.
    async fn flushed(self) {
        let Some((flushes, before)) = self.0 else { return };
        std::future::poll_fn(|cx| {
            flushes.wait(cx);
            if flushes.count() > before { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Lent {
    fn lock(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it from the requests before, if it can be sent from its first byte.
    fn begin_again(&mut self) -> bool {
        self.turn += 1;
        let turn = self.turn;
        let mut sending = self.lock();
        sending.turn = turn;
        sending.body.begin_again()
    }

    /// It goes out on this connection. Resolves when its last byte was handed over.
    fn on(&self, way: Way) -> oneshot::Receiver<Sent> {
        let (tell, gone) = oneshot::channel();
        self.lock().way = Some((way, tell));
        gone
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut sending = self.lock();
        if sending.turn != self.turn {
            return Poll::Ready(Some(Err("the reply is sent in another request".into())));
        }
        let frame = ready!(Pin::new(&mut sending.body).poll_frame(cx));
        if (frame.is_none() || sending.body.is_end_stream())
            && let Some((way, tell)) = sending.way.take()
        {
            let flushes = way.flushes().map(|flushes| (flushes.clone(), flushes.count()));
            // Nobody waits for it who has the answer already.
            let _ = tell.send(Sent(flushes));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let sending = self.lock();
        sending.turn == self.turn && sending.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}
