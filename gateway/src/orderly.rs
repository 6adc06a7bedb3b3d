//! An error inside a body does not overtake the bytes before it: hyper closes a connection at once when a body fails and drops
//! what it had not yet written, so the error waits until the connection was flushed.
//!
//! Nor does a long frame go at once: hyper copies what it is given, so that a document which nobody reads would stand there
//! once more, and its own memory be given back before it was read (SE-07).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy::connect::CaptureConnection;
use ncp_tls::Flushes;

/// Bytes that go to the connection at once.
const PIECE: usize = 64 << 10;

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

/// A body in pieces, whose error waits for a flush that began after it.
pub struct Orderly<B: Body> {
    body: B,
    /// What is left of its last frame.
    left: Bytes,
    way: Way,
    /// The error, and the number of flushes when it came.
    failed: Option<(B::Error, Flushes, u64)>,
}

impl<B: Body> Orderly<B> {
    /// A body on its way.
    pub fn new(body: B, way: Way) -> Self {
        Self { body, left: Bytes::new(), way, failed: None }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        let length = self.left.len().min(PIECE);
        Frame::data(self.left.split_to(length))
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
        if !self.left.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let (error, flushes, before) = match self.failed.take() {
            Some(failed) => failed,
            None => match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => {
                    // Without a connection nothing was sent that it could overtake.
                    let Some(flushes) = self.way.flushes() else { return Poll::Ready(Some(Err(error))) };
                    let count = flushes.count();
                    (error, flushes, count)
                }
                Some(Ok(frame)) => {
                    let frame = frame.into_data().map(|data| {
                        self.left = data;
                        self.piece()
                    });
                    return Poll::Ready(Some(Ok(frame.unwrap_or_else(|trailers| trailers))));
                }
                None => return Poll::Ready(None),
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
        self.left.is_empty() && self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, left) = (self.body.size_hint(), self.left.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint.set_lower(body.lower().saturating_add(left));
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    /// SE-07: hyper never has more than a piece of a document, and the body is as long as it says.
    #[tokio::test]
    async fn se_07_a_long_frame_goes_in_pieces() {
        for length in [0, 1, PIECE, 3 * PIECE + 1] {
            let bytes = Bytes::from((0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>());
            let mut body = Orderly::new(Full::new(bytes.clone()), Way::Known(Flushes::default()));
            let mut came = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                let data = frame.into_data().expect("data");
                assert!(data.len() <= PIECE);
                came.extend_from_slice(&data);
                assert_eq!(body.size_hint().exact(), Some((length - came.len()) as u64));
                assert_eq!(body.is_end_stream(), came.len() == length);
            }
            assert!(came == bytes, "{length}");
        }
    }
}
