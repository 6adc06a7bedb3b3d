//! The trail goes with an answer that streams and closes when it ends, breaks or is dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use ncp_soap::{BoxError, OutPart};
use tokio::sync::oneshot;

use super::Trail;
use crate::listener::OutParts;
use crate::passing::Incomplete;

/// A trail whose answer streamed, and why the stream broke off, if it did.
pub struct Streamed {
    trail: Trail,
    broken: Option<&'static str>,
}

impl Streamed {
    /// Closes the trail: `delivered` says what became of an answer that was posted.
    pub async fn close(self, delivered: Result<(), String>) {
        match (self.broken, delivered) {
            (_, Err(why)) => self.trail.broke_off(&why).await,
            (Some(why), Ok(())) => self.trail.broke_off(why).await,
            (None, Ok(())) => self.trail.finish().await,
        }
    }
}

pub(super) fn follow(trail: Trail, parts: OutParts) -> OutParts {
    Box::pin(Followed { parts, trail: Some(trail), ends: None })
}

/// The same for an answer whose stream is not its end: the trail is handed back.
pub(super) fn follow_back(trail: Trail, parts: OutParts) -> (OutParts, oneshot::Receiver<Streamed>) {
    let (ends, ended) = oneshot::channel();
    (Box::pin(Followed { parts, trail: Some(trail), ends: Some(ends) }), ended)
}

struct Followed {
    parts: OutParts,
    trail: Option<Trail>,
    /// Where the trail goes when the stream ends; none: it is closed then.
    ends: Option<oneshot::Sender<Streamed>>,
}

impl Followed {
    fn end(&mut self, broken: Option<&'static str>) {
        let Some(trail) = self.trail.take() else { return };
        let streamed = Streamed { trail, broken };
        let streamed = match self.ends.take() {
            Some(ends) => match ends.send(streamed) {
                Ok(()) => return,
                // Whoever delivered the answer went away.
                Err(streamed) => streamed,
            },
            None => streamed,
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(streamed.close(Ok(())));
        }
    }
}

impl Stream for Followed {
    type Item = Result<OutPart, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.parts.as_mut().poll_next(cx);
        match &next {
            Poll::Ready(None) => self.end(None),
            // The others were sent; what is missing is named.
            Poll::Ready(Some(Err(error))) if error.is::<Incomplete>() => self.end(None),
            Poll::Ready(Some(Err(_))) => self.end(Some("source broke off")),
            _ => {}
        }
        next
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.end(Some("receiver or source went away"));
    }
}
