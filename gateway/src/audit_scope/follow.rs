//! The trail goes with an answer that streams and closes when it ends, breaks or is dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use ncp_soap::{BoxError, OutPart};

use super::Trail;
use crate::listener::OutParts;
use crate::passing::Incomplete;

pub(super) fn follow(trail: Trail, parts: OutParts) -> OutParts {
    Box::pin(Followed { parts, trail: Some(trail) })
}

struct Followed {
    parts: OutParts,
    trail: Option<Trail>,
}

impl Stream for Followed {
    type Item = Result<OutPart, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.parts.as_mut().poll_next(cx);
        match &next {
            Poll::Ready(None) => close_later(self.trail.take(), None),
            // The others were sent; what is missing is named.
            Poll::Ready(Some(Err(error))) if error.is::<Incomplete>() => close_later(self.trail.take(), None),
            Poll::Ready(Some(Err(_))) => close_later(self.trail.take(), Some("source broke off")),
            _ => {}
        }
        next
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        close_later(self.trail.take(), Some("receiver or source went away"));
    }
}

fn close_later(trail: Option<Trail>, broken: Option<&'static str>) {
    let (Some(trail), Ok(runtime)) = (trail, tokio::runtime::Handle::try_current()) else { return };
    runtime.spawn(async move {
        match broken {
            None => trail.finish().await,
            Some(why) => trail.broke_off(why).await,
        }
    });
}
