//! Connections whose flushes are counted: whoever sends a body over one knows what of it was handed to the network.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

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
    /// How often so far.
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    fn flushed(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// Wakes the body at the next flush.
    pub fn wait(&self, context: &Context<'_>) {
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

    /// The stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
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
