//! An error inside a reply does not overtake the bytes before it: hyper closes a connection at once when a body fails and drops
//! what it had not yet written, so the error waits until the connection was flushed.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often a connection was flushed, and the body that waits for the next time.
#[derive(Clone, Default)]
pub struct Flushes(Arc<State>);

#[derive(Default)]
struct State {
    count: AtomicU64,
    waiting: Mutex<Option<Waker>>,
}

impl Flushes {
    fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    fn flushed(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    fn wait(&self, context: &Context<'_>) {
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
    }
}

/// A connection whose flushes are counted.
pub struct Flushed<S> {
    stream: S,
    flushes: Flushes,
}

impl<S> Flushed<S> {
    /// Counts the flushes of a stream.
    pub fn new(stream: S, flushes: Flushes) -> Self {
        Self { stream, flushes }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flushed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.flushes.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A body whose error waits for a flush that began after it.
pub struct Orderly<B: Body> {
    body: B,
    flushes: Flushes,
    /// The error, and the number of flushes when it came.
    failed: Option<(B::Error, u64)>,
}

impl<B: Body> Orderly<B> {
    /// The body of a reply on the connection whose flushes these are.
    pub fn new(body: B, flushes: Flushes) -> Self {
        Self { body, flushes, failed: None }
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
        if self.failed.is_none() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => {
                    let count = self.flushes.count();
                    self.failed = Some((error, count));
                }
                frame => return Poll::Ready(frame),
            }
        }
        self.flushes.wait(cx);
        match self.failed.take() {
            Some((error, before)) if self.flushes.count() > before => Poll::Ready(Some(Err(error))),
            waiting => {
                self.failed = waiting;
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
