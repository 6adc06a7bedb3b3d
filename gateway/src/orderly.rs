//! An error inside a body does not overtake the bytes before it: hyper closes a connection at once when a body fails and drops
//! what it had not yet written, so the error waits until the connection was flushed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy::connect::CaptureConnection;
use ncp_tls::Flushes;

/// The connection that a body goes out on.
pub enum Way {
    /// A reply: that of its request.
    Known(Flushes),
    /// A request: the one that the client chose for it.
    Chosen(CaptureConnection),
}

impl Way {
    /// The flushes of the connection, once it is there.
    pub(crate) fn flushes(&self) -> Option<Flushes> {
        match self {
            Self::Known(flushes) => Some(flushes.clone()),
            Self::Chosen(captured) => {
                let mut of_connection = http::Extensions::new();
                captured.connection_metadata().as_ref()?.get_extras(&mut of_connection);
                of_connection.remove()
            }
        }
    }
}

/// A body whose error waits for a flush that began after it.
pub struct Orderly<B: Body> {
    body: B,
    way: Way,
    /// The error, and the number of flushes when it came.
    failed: Option<(B::Error, Flushes, u64)>,
}

impl<B: Body> Orderly<B> {
    /// A body on its way.
    pub fn new(body: B, way: Way) -> Self {
        Self { body, way, failed: None }
    }
}

impl<B> Body for Orderly<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let (error, flushes, before) = match self.failed.take() {
            Some(failed) => failed,
            None => match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => {
                    // Without a connection nothing was sent that it could overtake.
                    let Some(flushes) = self.way.flushes() else { return Poll::Ready(Some(Err(error))) };
                    let count = flushes.count();
                    (error, flushes, count)
                }
                frame => return Poll::Ready(frame),
            },
        };
        flushes.wait(cx);
        if flushes.count() > before {
            return Poll::Ready(Some(Err(error)));
        }
        self.failed = Some((error, flushes, before));
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
