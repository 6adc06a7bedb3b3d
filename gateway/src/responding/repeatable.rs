//! A body that can be sent again as long as little of it was.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use ncp_soap::BoxError;

use crate::begun::with;
use crate::listener::ReplyBody;

/// Bytes that are kept of what was sent: an answer to a discovery or of some dozens of documents.
const KEPT: usize = 256 << 10;

/// A body, and what was taken of it.
pub(super) struct Repeatable {
    body: ReplyBody,
    kept: Vec<Bytes>,
    /// How many of the kept ones were given out in this turn.
    given: usize,
    /// More was given out than is kept, or the body failed.
    is_lost: bool,
    has_ended: bool,
}

impl Repeatable {
    pub(super) fn new(body: ReplyBody) -> Self {
        Self { body, kept: Vec::new(), given: 0, is_lost: false, has_ended: false }
    }

    /// Begins at the first byte again, if all are there still.
    pub(super) fn begin_again(&mut self) -> bool {
        self.given = 0;
        !self.is_lost
    }

    fn keep(&mut self, data: &Bytes) {
        let kept: usize = self.kept.iter().map(Bytes::len).sum();
        if self.is_lost || kept + data.len() > KEPT {
            self.lose();
        } else {
            self.kept.push(data.clone());
            self.given = self.kept.len();
        }
    }

    fn lose(&mut self) {
        (self.kept, self.given, self.is_lost) = (Vec::new(), 0, true);
    }
}

impl Body for Repeatable {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.kept.get(self.given).cloned() {
            self.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                }
            }
            Some(Err(_)) => self.lose(),
            None => self.has_ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.given == self.kept.len() && (self.has_ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        with(self.kept[self.given..].iter().map(Bytes::len).sum(), &self.body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn of(frames: Vec<Result<Bytes, BoxError>>) -> Repeatable {
        let stream = futures_util::stream::iter(frames.into_iter().map(|frame| frame.map(Frame::data)));
        Repeatable::new(ReplyBody::new(StreamBody::new(stream)))
    }

    /// CO-08: what is sent again is the same, from wherever it was given up; and nothing is sent again in part.
    #[tokio::test]
    async fn co_08_a_body_is_repeated_whole_or_not() {
        let frames = || (0..4).map(|n| Ok(Bytes::from(vec![n; 1000]))).collect::<Vec<_>>();
        let whole: Vec<u8> = (0..4).flat_map(|n| vec![n; 1000]).collect();
        for taken in 0..=5 {
            let mut body = of(frames());
            for _ in 0..taken {
                let _ = body.frame().await;
            }
            assert!(body.begin_again(), "{taken}");
            assert_eq!(body.collect().await.expect("reads").to_bytes(), whole, "{taken}");
        }
        let mut simple = Repeatable::new(crate::listener::full("answer"));
        let _ = simple.frame().await;
        assert!(simple.is_end_stream() && simple.begin_again());
        assert_eq!((simple.is_end_stream(), simple.size_hint().exact()), (false, Some(6)));

        let mut long = of(vec![Ok(Bytes::from(vec![0; KEPT])), Ok(Bytes::from_static(b"1"))]);
        let _ = long.frame().await;
        assert!(long.begin_again());
        let _ = (long.frame().await, long.frame().await);
        assert!(!long.begin_again(), "more than is kept");
        let mut failed = of(vec![Ok(Bytes::from_static(b"1")), Err("an instance failed".into())]);
        let _ = (failed.frame().await, failed.frame().await);
        assert!(!failed.begin_again());
    }
}
