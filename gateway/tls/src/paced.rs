//! The lowest rate at which the other end takes what is written to it. Without one, whoever asks and then does not read
//! keeps a connection, and all that hangs on it, for as long as it likes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// So many bytes are taken in so much time that bytes wait, or the connection ends.
const LEAST: usize = 64 << 10;
const WITHIN: Duration = Duration::from_secs(30);

/// An end that is gone without a word is noticed after so long without bytes, and so many questions.
const SILENT: Duration = Duration::from_secs(60);
const ASKED: (u32, Duration) = (4, Duration::from_secs(15));

/// A stream whose writes end with an error when the other end takes too little.
pub(crate) struct Paced<S> {
    stream: S,
    within: Duration,
    /// Taken, and waited for that, since the last `LEAST` bytes.
    taken: usize,
    waited: Duration,
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Paced<TcpStream> {
    /// Over a socket without Nagle's delay that tells whether the other end is there.
    pub(crate) fn over(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let socket = SockRef::from(&tcp);
        let (questions, apart) = ASKED;
        let asks = TcpKeepalive::new().with_time(SILENT).with_interval(apart).with_retries(questions);
        socket.set_tcp_keepalive(&asks)?;
        Ok(Self::new(tcp))
    }
}

impl<S> Paced<S> {
    fn new(stream: S) -> Self {
        Self { stream, within: WITHIN, taken: 0, waited: Duration::ZERO, waits: None }
    }

    /// The longest time that the other end may let 64 KiB wait.
    pub(crate) fn within(&mut self, within: Duration) {
        self.within = within;
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// A write went on by so many bytes.
    fn took(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waits.take() {
            self.waited += since.elapsed();
        }
        self.taken += bytes;
        if self.taken >= LEAST {
            (self.taken, self.waited) = (0, Duration::ZERO);
        }
    }

    /// A write waits; it fails when all such waiting was too long for what was taken meanwhile.
    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = self.within.saturating_sub(self.waited);
        let (_, over) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        ready!(over.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other end reads too slowly")))
    }

    fn paced(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.took(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Pending => self.waits(cx),
            failed => failed,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.paced(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.paced(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(600);

    /// Writes until all is taken or the writing fails. The other end takes so many bytes at a time, after each pause.
    async fn written(bytes: usize, within: Duration, (taken, pause): (usize, Duration)) -> io::Result<()> {
        let (near, mut far) = duplex(16 << 10);
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; taken];
            loop {
                tokio::time::sleep(pause).await;
                if far.read_exact(&mut buffer).await.is_err() {
                    return;
                }
            }
        });
        let mut near = Paced { within, ..Paced::new(near) };
        let whole = vec![7; bytes];
        let result = tokio::time::timeout(SHORT * 100, near.write_all(&whole)).await;
        reader.abort();
        result.unwrap_or(Ok(()))
    }

    /// SE-11: nobody reads, and somebody reads almost nothing, again and again.
    #[tokio::test]
    async fn se_11_a_reader_that_takes_too_little_is_let_go() {
        for (taken, pause) in [(1, LONG), (1, SHORT / 4), (1000, SHORT / 4)] {
            let result = written(10 << 20, SHORT, (taken, pause)).await;
            assert_eq!(result.expect_err("is too slow").kind(), io::ErrorKind::TimedOut, "{taken}");
        }
    }

    /// Who takes enough for the time that it lets us wait is served, however long the whole takes.
    #[tokio::test]
    async fn se_11_a_slow_reader_is_served() {
        assert!(written(1 << 20, SHORT * 50, (LEAST / 4, SHORT / 20)).await.is_ok());
    }

    /// Time in which nothing waits to be written does not count.
    #[tokio::test]
    async fn se_11_an_idle_connection_is_not_slow() {
        let (near, mut far) = duplex(1 << 10);
        let mut near = Paced { within: Duration::from_millis(20), ..Paced::new(near) };
        for _ in 0..10 {
            near.write_all(b"answer").await.expect("takes it");
            tokio::time::sleep(Duration::from_millis(10)).await;
            far.read_exact(&mut [0; 6]).await.expect("reads");
        }
    }
}
