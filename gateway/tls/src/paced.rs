//! The lowest rate at which the other end takes what is written to it. Without one, whoever asks and then does not read
//! keeps a connection, and all that hangs on it, for as long as it likes.
//!
//! What counts is what the other end acknowledged. Its own kernel tells that in steps of about a sixteenth of its receive
//! buffer, which is 200 kB where a fast connection became slow.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::OpenConnection;
use crate::acknowledged::acknowledged;
use crate::connections::Permit;

/// So many bytes are acknowledged in so much time that bytes wait, or the connection ends.
const LEAST: u64 = 64 << 10;
const WITHIN: Duration = Duration::from_secs(30);

/// How often the socket is looked at in that time.
const LOOKS: u32 = 10;

/// An end that is gone without a word is noticed after so long without bytes, and so many questions.
const SILENT: Duration = Duration::from_secs(60);
const ASKED: (u32, Duration) = (4, Duration::from_secs(15));

/// A socket whose writes end with an error when the other end takes too little. One that was accepted ends too when it has to
/// give way to others.
pub(crate) struct Paced {
    tcp: TcpStream,
    permit: Option<Permit>,
    within: Duration,
    /// What was acknowledged when `waited` began.
    acknowledged: u64,
    /// How long bytes waited since `LEAST` were last acknowledged.
    waited: Duration,
    waits: Option<Waits>,
}

/// A write that waits.
struct Waits {
    since: Instant,
    look: Pin<Box<Sleep>>,
}

impl Paced {
    /// Over a socket without Nagle's delay that tells whether the other end is there.
    pub(crate) fn over(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let socket = SockRef::from(&tcp);
        let (questions, apart) = ASKED;
        let asks = TcpKeepalive::new().with_time(SILENT).with_interval(apart).with_retries(questions);
        socket.set_tcp_keepalive(&asks)?;
        Ok(Self { tcp, permit: None, within: WITHIN, acknowledged: 0, waited: Duration::ZERO, waits: None })
    }

    /// The longest time that the other end may let 64 KiB wait.
    pub(crate) fn within(&mut self, within: Duration) {
        self.within = within;
    }

    /// The permit of an accepted connection.
    pub(crate) fn hold(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    pub(crate) fn connection(&self) -> OpenConnection {
        self.permit.as_ref().map(Permit::connection).unwrap_or_default()
    }

    pub(crate) fn get_ref(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether the connection still has its permit.
    fn goes_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.permit.as_mut().map(|permit| permit.poll_ended(cx)) {
            Some(Poll::Ready(())) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "gave way to others")),
            _ => Ok(()),
        }
    }

    /// The time begins again where enough was acknowledged meanwhile.
    fn look(&mut self) {
        let acknowledged = acknowledged(&self.tcp);
        if acknowledged.saturating_sub(self.acknowledged) >= LEAST {
            (self.acknowledged, self.waited) = (acknowledged, Duration::ZERO);
        }
    }

    /// The write goes on, or it is time to look: until here bytes waited.
    fn count(&mut self) {
        if let Some(waits) = self.waits.take() {
            self.waited += waits.since.elapsed();
        }
    }

    /// A write waits; it fails when all such waiting was too long for what was acknowledged meanwhile.
    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if self.waits.is_none() {
                self.look();
                let left = self.within.saturating_sub(self.waited);
                if left.is_zero() {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other end reads too slowly")));
                }
                let look = Box::pin(tokio::time::sleep(left.min(self.within / LOOKS)));
                self.waits = Some(Waits { since: Instant::now(), look });
            }
            if let Some(waits) = &mut self.waits {
                ready!(waits.look.as_mut().poll(cx));
            }
            self.count();
        }
    }

    fn paced(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.count();
                Poll::Ready(Ok(bytes))
            }
            Poll::Pending => self.waits(cx),
            failed => failed,
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.goes_on(cx)?;
        Pin::new(&mut self.tcp).poll_read(cx, out)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.goes_on(cx)?;
        let written = Pin::new(&mut self.tcp).poll_write(cx, data);
        self.paced(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.goes_on(cx)?;
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, data);
        self.paced(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    /// What the kernels of both ends hold at most is less.
    const MUCH: usize = 64 << 20;

    /// Both ends of a connection; ours counts.
    async fn connected() -> (Paced, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (far, _) = listener.accept().await.expect("a connection");
        (Paced::over(near).expect("a socket"), far)
    }

    /// Lets the kernel do what it has to, while the clock stands still.
    async fn settle() {
        tokio::task::spawn_blocking(|| std::thread::sleep(MILLI)).await.expect("runs");
    }

    /// Reads so many bytes, while the clock stands still.
    async fn take(far: &TcpStream, buffer: &mut [u8]) {
        let mut read = 0;
        while read < buffer.len() {
            match far.try_read(&mut buffer[read..]) {
                Ok(bytes) => read += bytes,
                Err(_) => settle().await,
            }
        }
        settle().await;
    }

    /// How long the writer went on, and how it ended, when its reader, fast for `fast` bytes, then takes so many bytes again
    /// and again, each after its pause, up to `slow` of them. The clock is stopped once the fast part is over.
    async fn read(fast: u64, (taken, pause): (usize, Duration), slow: usize) -> (Duration, Option<io::Error>) {
        let (mut near, mut far) = connected().await;
        let mut writer = tokio::spawn(async move { near.write_all(&vec![7; MUCH * 2]).await });
        tokio::io::copy(&mut (&mut far).take(fast), &mut tokio::io::sink()).await.expect("reads");
        tokio::time::pause();
        let (began, mut read, mut buffer) = (Instant::now(), 0, vec![0; taken]);
        while read < slow {
            tokio::select! {
                ended = &mut writer => return (began.elapsed(), ended.expect("runs").err()),
                () = tokio::time::sleep(pause) => {}
            }
            take(&far, &mut buffer).await;
            read += taken;
        }
        writer.abort();
        (began.elapsed(), None)
    }

    /// SE-11: nobody reads, and somebody reads almost nothing, whether or not it read fast before.
    #[tokio::test]
    async fn se_11_a_reader_that_takes_too_little_is_let_go() {
        const LONG: Duration = Duration::from_secs(6000);
        for fast in [0, MUCH as u64] {
            for (taken, pause) in [(1, LONG), (1, MILLI * 500), (1000, MILLI * 1500)] {
                // Some minutes of the stopped clock, should nobody end it.
                let (time, error) = read(fast, (taken, pause), taken * 400).await;
                tokio::time::resume();
                assert_eq!(error.expect("is too slow").kind(), io::ErrorKind::TimedOut, "{taken} of {fast}");
                // What was acknowledged last was seen a tenth of the time later.
                assert!(time <= WITHIN + WITHIN / LOOKS + MILLI * 100, "{time:?}, {taken} of {fast}");
            }
        }
    }

    /// SE-11: who takes 20 kB a second, far more than the least, has its 5 MB, whether or not it read fast before.
    #[tokio::test]
    async fn se_11_a_slow_reader_is_served() {
        for fast in [0, MUCH as u64] {
            let (time, error) = read(fast, (16 << 10, MILLI * 800), 5 << 20).await;
            tokio::time::resume();
            assert!(error.is_none(), "{fast}: {error:?} after {time:?}");
        }
    }

    /// Time in which nothing waits to be written does not count.
    #[tokio::test]
    async fn se_11_an_idle_connection_is_not_slow() {
        let (mut near, far) = connected().await;
        tokio::time::pause();
        for _ in 0..10 {
            near.write_all(b"answer").await.expect("takes it");
            tokio::time::sleep(WITHIN / 2).await;
            take(&far, &mut [0; 6]).await;
        }
    }
}
