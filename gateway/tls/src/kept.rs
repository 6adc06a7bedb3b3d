//! How long a server keeps a connection that has no request under way: short until it carried a request whose sender is
//! authenticated, then longer than the pools of common clients keep theirs, so that the client is the one who closes. Each
//! answer says how long. A connection that was idle for too long ends as if the other end had closed it: between requests,
//! and with `close_notify`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use hyper::http::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The hint of RFC 2068 19.7.1.1, which clients still read.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Times of a connection without a request under way.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Until the connection carried a request whose sender is authenticated.
    pub unknown: Duration,
    /// From then on: pools of Java and .NET, and load balancers, keep a connection for up to 60 s.
    pub known: Duration,
    /// The head of a request, from its first byte on.
    pub head: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { unknown: seconds(10), known: seconds(75), head: seconds(10) }
    }
}

impl Times {
    fn kept(self, is_known: bool) -> Duration {
        if is_known { self.known } else { self.unknown }
    }
}

/// In the extensions of an answer: the sender of its request is authenticated.
#[derive(Debug, Clone, Copy)]
pub struct SenderKnown;

/// What is known of a connection, shared by its stream and its answers.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<State>);

#[derive(Default)]
struct State {
    known: AtomicBool,
    under_way: AtomicBool,
}

impl Kept {
    /// A request was read. It is under way until the guard is dropped, which goes with its answer.
    pub(crate) fn begin(&self) -> UnderWay {
        self.0.under_way.store(true, Ordering::Release);
        UnderWay(self.clone())
    }

    pub(crate) fn known(&self) {
        self.0.known.store(true, Ordering::Release);
    }

    /// Says how long the connection is kept, somewhat less than it is: a request that is on its way then still arrives.
    pub(crate) fn hint(&self, times: Times, headers: &mut HeaderMap) {
        let kept = times.kept(self.0.known.load(Ordering::Acquire)).as_secs();
        if let Ok(value) = HeaderValue::try_from(format!("timeout={}", kept.saturating_sub(kept / 15 + 1))) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            headers.insert(KEEP_ALIVE, value);
        }
    }
}

/// A request whose answer has not been handed over.
pub(crate) struct UnderWay(Kept);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way.store(false, Ordering::Release);
    }
}

/// The body of an answer, with which its request ends.
pub(crate) struct Answered<B> {
    pub(crate) body: B,
    pub(crate) _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Answered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// A head has begun.
    Head,
    /// A request is under way, or its answer is being written: their own limits hold.
    Request,
}

/// A connection that ends when it was idle for too long, or a head takes too long.
pub(crate) struct Between<S> {
    stream: S,
    kept: Kept,
    times: Times,
    phase: Phase,
    /// Bytes may wait to be written.
    writes: bool,
    end: Pin<Box<Sleep>>,
}

impl<S> Between<S> {
    pub(crate) fn new(stream: S, kept: Kept, times: Times) -> Self {
        let end = Box::pin(tokio::time::sleep(times.unknown));
        Self { stream, kept, times, phase: Phase::Idle, writes: false, end }
    }

    fn enter(&mut self, phase: Phase, limit: Duration) {
        self.phase = phase;
        self.end.as_mut().reset(Instant::now() + limit);
    }

    /// A request begins and ends without a read or a write of its own; the time begins when its answer has left.
    fn notice(&mut self) {
        let state = &self.kept.0;
        if self.writes || state.under_way.load(Ordering::Acquire) {
            self.phase = Phase::Request;
        } else if self.phase == Phase::Request {
            let known = state.known.load(Ordering::Acquire);
            self.enter(Phase::Idle, self.times.kept(known));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Between<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.notice();
        if read.is_ready() {
            if this.phase == Phase::Idle && buf.filled().len() > before {
                this.enter(Phase::Head, this.times.head);
            }
            return read;
        }
        if this.phase == Phase::Request {
            return Poll::Pending;
        }
        ready!(this.end.as_mut().poll(cx));
        match this.phase {
            // As if the other end had closed.
            Phase::Idle => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Between<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The last flush of an answer comes after its end: from here on the connection is idle.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        if std::mem::take(&mut this.writes) {
            this.phase = Phase::Request;
        }
        this.notice();
        if this.phase == Phase::Idle {
            // A read that waits was asked before the time began.
            let _ = this.end.as_mut().poll(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::Request;
    use hyper::body::{Bytes, Incoming};
    use hyper::http::Response;
    use hyper::service::service_fn;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::{OpenConnection, serve_http};

    const MILLI: Duration = Duration::from_millis(1);
    const TIMES: Times =
        Times { unknown: Duration::from_secs(10), known: Duration::from_secs(75), head: Duration::from_secs(10) };
    /// An answer is longer than what the connection takes at once.
    const ANSWER: usize = 3000;

    /// Answers after the pause of the path, half of it before and half of it inside the answer; `/known` authenticates.
    async fn answered(
        request: Request<Incoming>,
    ) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
        let mut path = request.uri().path().split('/').skip(1);
        let known = path.next() == Some("known");
        let pause = MILLI * path.next().and_then(|pause| pause.parse().ok()).unwrap_or_default() / 2;
        http_body_util::BodyExt::collect(request.into_body()).await.expect("a body");
        tokio::time::sleep(pause).await;
        let frames = futures_util::stream::unfold(0, move |sent| async move {
            if sent == 2 {
                tokio::time::sleep(pause).await;
            }
            (sent < 3).then(|| (Ok(Frame::data(Bytes::from(vec![b'x'; ANSWER / 3]))), sent + 1))
        });
        let mut reply = Response::new(StreamBody::new(Box::pin(frames)));
        reply.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(ANSWER));
        if known {
            reply.extensions_mut().insert(SenderKnown);
        }
        Ok(reply)
    }

    fn connected() -> DuplexStream {
        let (client, server) = duplex(700);
        tokio::spawn(serve_http(
            (server, OpenConnection::default()),
            service_fn(answered),
            TIMES,
            std::future::pending(),
        ));
        client
    }

    /// One exchange of a client that sends its request in pieces, each followed by a pause, and begins to read after
    /// another; the head of the answer.
    async fn ask(client: &mut DuplexStream, path: &str, [sends, reads]: [Duration; 2]) -> String {
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        for piece in request.as_bytes().chunks(20) {
            client.write_all(piece).await.expect("the connection is open");
            tokio::time::sleep(sends).await;
        }
        tokio::time::sleep(reads).await;
        let mut answer = Vec::new();
        loop {
            let read = client.read_buf(&mut answer).await.expect("the connection is open");
            assert!(read > 0, "closed inside an answer after {} bytes", answer.len());
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end.filter(|end| answer.len() == end + 4 + ANSWER) {
                answer.truncate(end);
                return String::from_utf8(answer).expect("text");
            }
        }
    }

    /// After how long the connection ended without a further byte.
    async fn ended(client: &mut DuplexStream) -> Duration {
        let began = Instant::now();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("ends as a stream does");
        assert!(rest.is_empty());
        began.elapsed()
    }

    fn about(time: Duration, limit: Duration) -> bool {
        time >= limit.saturating_sub(MILLI * 5) && time <= limit + MILLI * 5
    }

    /// One exchange: whether it authenticates, the pause before it, that inside the request, that of the server, that of a
    /// slow reader; milliseconds.
    type Step = (bool, u64, u64, u64, u64);

    fn step() -> impl Strategy<Value = Step> {
        let pause = prop_oneof![Just(0), 0..74_900u64];
        let slow = prop_oneof![Just(0), 0..200_000u64];
        (any::<bool>(), pause, prop_oneof![Just(0), 0..1900u64], slow.clone(), slow)
    }

    proptest! {
        /// The property of idle connections: whatever requests and pauses below the limit follow each other, however slowly
        /// a request comes within its own limit, its answer is made and its reader reads, no request meets a closed
        /// connection. The close comes when the time after the last answer is over, and not before.
        #[test]
        fn sk_10_a_connection_is_closed_between_requests_only(steps in prop::collection::vec(step(), 0..6)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("a runtime").block_on(async {
                let (mut client, mut known) = (connected(), false);
                for (authenticates, before, sends, makes, reads) in steps {
                    let before = if known { before } else { before * 9_900 / 74_900 };
                    tokio::time::sleep(MILLI * u32::try_from(before).expect("short")).await;
                    let path = format!("/{}/{makes}", if authenticates { "known" } else { "nobody" });
                    let head = ask(&mut client, &path, [Duration::from_millis(sends), Duration::from_millis(reads)]).await;
                    known |= authenticates;
                    let said = if known { "keep-alive: timeout=69" } else { "keep-alive: timeout=9" };
                    assert!(head.contains(said) && head.contains("connection: keep-alive"), "{head}");
                }
                let limit = TIMES.kept(known);
                let time = ended(&mut client).await;
                assert!(about(time, limit), "{time:?} of {limit:?}");
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sk_10_a_head_that_takes_too_long_ends_a_known_connection_too() {
        let mut client = connected();
        ask(&mut client, "/known", [Duration::ZERO; 2]).await;
        tokio::time::sleep(TIMES.known - MILLI * 2000).await;
        let began = Instant::now();
        for byte in b"GET / HTTP/1.1\r\nHost: a" {
            tokio::time::sleep(MILLI * 1500).await;
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        // The first byte came after a second and a half; the first that comes too late is the eighth.
        assert!(about(began.elapsed(), MILLI * 12_000), "{:?}", began.elapsed());
    }

    /// Requests that come before the answer to the one before them are answered, and the time begins after the last.
    #[tokio::test(start_paused = true)]
    async fn sk_10_requests_that_follow_at_once_are_answered() {
        let mut client = connected();
        let one = "POST /known/50000 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        client.write_all(one.repeat(3).as_bytes()).await.expect("writes");
        let mut answers = Vec::new();
        let began = Instant::now();
        client.read_to_end(&mut answers).await.expect("ends as a stream does");
        assert_eq!(answers.windows(8).filter(|eight| eight == b"HTTP/1.1").count(), 3);
        assert!(about(began.elapsed(), MILLI * 150_000 + TIMES.known), "{:?}", began.elapsed());
    }

    /// When the server stops, its answers say so.
    #[tokio::test(start_paused = true)]
    async fn sk_10_a_server_that_stops_says_that_its_answer_is_the_last() {
        let (mut client, server) = duplex(1 << 16);
        tokio::spawn(serve_http(
            (server, OpenConnection::default()),
            service_fn(answered),
            TIMES,
            tokio::time::sleep(MILLI * 10),
        ));
        let head = ask(&mut client, "/known/100", [Duration::ZERO; 2]).await;
        assert!(head.contains("connection: close") && !head.contains("keep-alive"), "{head}");
        assert_eq!(ended(&mut client).await, Duration::ZERO);
    }
}
