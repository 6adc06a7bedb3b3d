//! hyper's pooled HTTP/1.1 client over OpenSSL, which also checks the country of the server it reached.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Builder, Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::revocation::now;
use crate::{
    Anchors, Country, Flushed, Flushes, TlsConnector, TlsError, TlsStream, Verdict, connect, peer_certificate,
};

/// Idle connections kept for one server.
const IDLE: usize = 8;

/// A client with a pool of connections.
pub struct HttpClient<B>(Arc<Pool<B>>);

struct Pool<B> {
    connect: TlsConnect,
    client: Mutex<Client<TlsConnect, B>>,
}

impl<B> Clone for HttpClient<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The country that a server must be of: by the C of its certificate, and by a path with revocation to its anchors.
#[derive(Clone)]
pub struct ServerOf {
    /// C of the certificate.
    pub country: Country,
    /// Where its path ends.
    pub anchors: Arc<Anchors>,
}

/// A client whose connections are made by `connector`. A server that is not of the country asked for is not spoken to.
pub fn http_client<B>(connector: TlsConnector, server: Option<ServerOf>, limit: Duration) -> HttpClient<B>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    HttpClient::of(TlsConnect { connector, server, limit, idle: None, ends: Arc::new(AtomicI64::new(NEVER)) })
}

fn pooled<B>(connect: TlsConnect) -> Client<TlsConnect, B>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    http_builder().pool_idle_timeout(Duration::from_secs(20)).pool_max_idle_per_host(IDLE).build(connect)
}

/// How each of our HTTP clients is built. A folded field of an answer is read, with spaces for its line ends (RFC 9112 5.2);
/// hyper refuses it unless it is told.
pub fn http_builder() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).http1_allow_obsolete_multiline_headers_in_responses(true);
    builder
}

impl<B> HttpClient<B>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    fn of(connect: TlsConnect) -> Self {
        let client = Mutex::new(pooled(connect.clone()));
        Self(Arc::new(Pool { connect, client }))
    }

    /// The longest time that a server may let 64 KiB of a request wait; 30 s where nothing else is said.
    #[must_use]
    pub fn paced(&self, idle: Duration) -> Self {
        Self::of(TlsConnect { idle: Some(idle), ..self.0.connect.clone() })
    }
}

impl<B> HttpClient<B>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request over a connection whose server is good at this moment. When the verdict on the server of a kept
    /// connection has ended (its certificate, a CRL, an OCSP status), all kept connections are given up and the server is
    /// judged again in a new handshake; an exchange that is under way goes on.
    pub fn request(&self, request: Request<B>) -> ResponseFuture {
        let mut client = self.0.client.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.connect.ends.load(Ordering::Acquire) <= now() {
            self.0.connect.ends.store(NEVER, Ordering::Release);
            *client = pooled(self.0.connect.clone());
        }
        client.request(request)
    }
}

impl<B> HttpClient<B>
where
    B: hyper::body::Body + Default + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Asks for what is at an address, as [`request`](Self::request) does.
    pub fn get(&self, uri: Uri) -> ResponseFuture {
        let mut request = Request::new(B::default());
        *request.uri_mut() = uri;
        self.request(request)
    }
}

/// No connection was judged yet.
const NEVER: i64 = i64::MAX;

/// Connects to `https://host:port`; the host must be a name of the server's certificate.
#[derive(Clone)]
pub struct TlsConnect {
    connector: TlsConnector,
    server: Option<ServerOf>,
    limit: Duration,
    idle: Option<Duration>,
    /// The first end of the verdicts on the connections that were made.
    ends: Arc<AtomicI64>,
}

impl tower::Service<Uri> for TlsConnect {
    type Response = HttpsStream;
    type Error = TlsError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpsStream, TlsError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            if uri.scheme_str() != Some("https") {
                return Err(TlsError::Handshake("endpoint is no https address".into()));
            }
            let port = uri.port_u16().unwrap_or(443);
            let stream = connect(&this.connector, &host, port, &host, this.limit).await?;
            if let Some(server) = &this.server {
                this.ends.fetch_min(server.check(&stream).await?.until, Ordering::AcqRel);
            }
            let stream = match this.idle {
                Some(idle) => stream.paced(idle),
                None => stream,
            };
            let flushes = Flushes::default();
            Ok(HttpsStream { stream: TokioIo::new(Flushed::new(stream, flushes.clone())), flushes })
        })
    }
}

impl ServerOf {
    /// Country, path, revocation and a stapled answer of the server at the other end.
    ///
    /// # Errors
    /// The first that does not hold.
    pub async fn check(&self, stream: &TlsStream) -> Result<Verdict, TlsError> {
        if peer_certificate(stream).and_then(|c| c.country) != Some(self.country) {
            return Err(TlsError::Handshake(format!("server's certificate is not of {}", self.country)));
        }
        let ssl = stream.ssl();
        let leaf = ssl.peer_certificate().ok_or_else(|| TlsError::Handshake("no certificate".into()))?;
        let sent: Vec<_> = ssl.peer_cert_chain().map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
        let staple = ssl.ocsp_status().map(<[u8]>::to_vec);
        let verdict = self.anchors.judge_online(&leaf, &sent, staple.as_deref()).await?;
        if verdict.freshness == crate::Freshness::Stale {
            tracing::warn!(country = %self.country, "revocation data of the server are past their time, within the grace");
        }
        Ok(verdict)
    }
}

/// What the server showed; among the extensions of every answer.
#[derive(Clone)]
pub struct ServerCertificate(pub Arc<crate::CertificateFacts>);

/// A connection as hyper's client takes it. Its [`Flushes`] go with it, for whoever captures it.
pub struct HttpsStream {
    stream: TokioIo<Flushed<TlsStream>>,
    flushes: Flushes,
}

impl Connection for HttpsStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.flushes.clone());
        match peer_certificate(self.stream.inner().get_ref()) {
            Some(facts) => connected.extra(ServerCertificate(facts.into())),
            None => connected,
        }
    }
}

impl Read for HttpsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for HttpsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
