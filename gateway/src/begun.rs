//! A body whose first bytes were read, to know whether it has any.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

/// A body with what was read of it in front.
pub struct Begun<B> {
    first: Option<Bytes>,
    rest: B,
}

impl<B> From<B> for Begun<B> {
    /// Nothing was read.
    fn from(rest: B) -> Self {
        Self { first: None, rest }
    }
}

impl<B> Begun<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Waits for the first bytes; `None` where the body ends without any, whatever frames its zero octets (RFC 9112 6.3, 7.1).
    ///
    /// # Errors
    /// Those of the body.
    pub async fn of(mut rest: B) -> Result<Option<Self>, B::Error> {
        while let Some(frame) = rest.frame().await {
            if let Ok(first) = frame?.into_data()
                && !first.is_empty()
            {
                return Ok(Some(Self { first: Some(first), rest }));
            }
        }
        Ok(None)
    }
}

impl<B> Body for Begun<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        with(self.first.as_ref().map_or(0, Bytes::len), &self.rest.size_hint())
    }
}

/// The hint of a body with so many bytes in front of it.
pub(crate) fn with(bytes: usize, rest: &SizeHint) -> SizeHint {
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(bytes as u64)) {
        hint.set_upper(upper);
    }
    hint.set_lower(rest.lower().saturating_add(bytes as u64));
    hint
}
