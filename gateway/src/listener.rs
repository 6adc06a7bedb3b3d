//! The peers' listener: mutual TLS, who is at the other end, load shedding. And the types of a reply.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ncp_audit::{Event, PeerFacts};
use ncp_soap::{BoxError, OutPart};
use ncp_tls::{CertificateFacts, Country, Flushed, Flushes, SslAcceptor, TlsError, TlsStream};
use openssl::x509::X509;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::{App, Snapshot};
use crate::config::Peer;
use crate::initiating::asynchronous;
use crate::orderly::{Orderly, Way};
use crate::responding::pipeline::{self, Replied};
use crate::shutdown::Drain;

/// A reply's body.
pub type ReplyBody = UnsyncBoxBody<Bytes, BoxError>;
/// A reply.
pub type Reply = http::Response<ReplyBody>;
/// Parts of an answer as they come.
pub type OutParts = Pin<Box<dyn Stream<Item = Result<OutPart, BoxError>> + Send>>;

/// Connections held at once.
const CONNECTIONS: usize = 2048;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> ReplyBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Who is at the other end of TLS.
#[derive(Clone)]
pub struct PeerConnection {
    /// The certificate that was shown and verified.
    pub certificate: Arc<CertificateFacts>,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Where it reached us.
    pub own: SocketAddr,
    /// The configured country whose anchors issued it.
    pub peer: Option<Arc<Peer>>,
    shown: Option<Arc<Shown>>,
}

/// What the handshake showed, and under which snapshot it was good: a reload asks again.
struct Shown {
    leaf: X509,
    sent: Vec<X509>,
    verified: AtomicU64,
}

impl PeerConnection {
    /// A connection of somebody who is no country: a system of our own one.
    pub fn national(certificate: Arc<CertificateFacts>, address: SocketAddr, own: SocketAddr) -> Self {
        Self { certificate, address, own, peer: None, shown: None }
    }

    /// Whether the certificate is still good under this snapshot.
    async fn still_good(&self, snapshot: &Snapshot) -> bool {
        let Some(shown) = &self.shown else { return false };
        if shown.verified.load(Ordering::Acquire) == snapshot.generation {
            return true;
        }
        let Some(peer) = self.certificate.country.and_then(|c| snapshot.peers.by_country(c)) else { return false };
        let good = snapshot.issued_for(peer, &shown.leaf, &shown.sent).await;
        if good {
            shown.verified.store(snapshot.generation, Ordering::Release);
        }
        good
    }
}

/// Accepts connections until the drain begins; `each` gets them after the handshake, or why it failed. The acceptor is
/// asked for at every connection, since a reload makes a new one.
pub async fn accept_until_drained<F, Done>(
    listener: TcpListener,
    acceptor: impl Fn() -> Option<SslAcceptor>,
    handshake: Duration,
    drain: Drain,
    each: F,
) where
    F: Fn(Result<TlsStream, TlsError>, SocketAddr) -> Done + Clone + Send + Sync + 'static,
    Done: Future<Output = ()> + Send,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! { accepted = listener.accept() => accepted, () = drain.stopping() => return };
        let Ok((tcp, address)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = connections.clone().try_acquire_owned() else { continue };
        let Some(acceptor) = acceptor() else { continue };
        let each = each.clone();
        tokio::spawn(async move {
            each(ncp_tls::accept(&acceptor, tcp, handshake).await, address).await;
            drop(slot);
        });
    }
}

/// Serves HTTP/1.1 on one connection, with bounded header fields that must come in time. When the drain begins, the
/// exchange that is under way is the last; the connection is open until the last byte of its reply has gone.
pub async fn serve_connection<S, B>(stream: TlsStream, service: S, drain: &Drain)
where
    S: hyper::service::Service<Request<Incoming>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: 'static,
    B: http_body::Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + Unpin,
{
    let flushes = Flushes::default();
    let counted = flushes.clone();
    let service = service_fn(move |request| {
        let (answered, flushes) = (service.call(request), flushes.clone());
        async move { answered.await.map(|reply| reply.map(|body| Orderly::new(body, Way::Known(flushes)))) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(64 << 10)
        .max_headers(100)
        .serve_connection(TokioIo::new(Flushed::new(stream, counted)), service);
    let (mut connection, _open) = (std::pin::pin!(connection), drain.hold());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(reason = %error, "connection ended");
    }
}

/// Accepts peers until the drain begins.
pub async fn serve_peers(app: Arc<App>, listener: TcpListener) {
    let load = Arc::new(Load::new(&app));
    let handshake = app.config.limits.handshake;
    let source = app.clone();
    let acceptor = move || Some(source.snapshot.load().peer_acceptor.clone());
    accept_until_drained(listener, acceptor, handshake, app.drain.clone(), move |accepted, address| {
        let (app, load) = (app.clone(), load.clone());
        async move {
            match accepted {
                Ok(stream) => connection(app, stream, address, load).await,
                Err(error) => handshake_failed(&app, address, &error.to_string()).await,
            }
        }
    })
    .await;
}

/// Failed handshakes leave a record each up to a rate, and one that counts the rest.
pub(crate) async fn handshake_failed(app: &App, address: SocketAddr, rule: &str) {
    let address = address.ip().to_string();
    let peer = PeerFacts { address: address.clone(), ..PeerFacts::default() };
    let event = Event::NodeAuthenticationFailed { rule: rule.to_owned(), peer };
    if let Err(error) = app.audit.refused_caller(&event, "", &address).await {
        tracing::error!(reason = %error, "handshake failure not recorded");
    }
}

async fn connection(app: Arc<App>, stream: TlsStream, address: SocketAddr, load: Arc<Load>) {
    let Some(certificate) = ncp_tls::peer_certificate(&stream).map(Arc::new) else { return };
    let Some(leaf) = stream.ssl().peer_certificate() else { return };
    let sent: Vec<X509> =
        stream.ssl().peer_cert_chain().map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
    let snapshot = app.snapshot.load_full();
    // The country's own anchors must have issued it: another country's CA cannot vouch for this one.
    let peer = match certificate.country.and_then(|country| snapshot.peers.by_country(country)) {
        Some(peer) if snapshot.issued_for(peer, &leaf, &sent).await => peer.clone(),
        _ => {
            handshake_failed(&app, address, "certificate is of no configured country, or not good").await;
            return;
        }
    };
    let Ok(own) = stream.local_addr() else { return };
    let shown = Some(Arc::new(Shown { leaf, sent, verified: AtomicU64::new(snapshot.generation) }));
    let who = PeerConnection { certificate, address, own, peer: Some(peer), shown };
    let drain = app.drain.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, who, load) = (app.clone(), who.clone(), load.clone());
        async move { Ok::<_, std::convert::Infallible>(exchange(app, who, request, &load).await) }
    });
    serve_connection(stream, service, &drain).await;
}

async fn exchange(app: Arc<App>, who: PeerConnection, request: Request<Incoming>, load: &Load) -> Reply {
    let snapshot = app.snapshot.load_full();
    if !who.still_good(&snapshot).await {
        handshake_failed(&app, who.address, "certificate is no longer good").await;
        let mut reply = empty(StatusCode::FORBIDDEN);
        reply.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
        return reply;
    }
    let peer = who.certificate.country.and_then(|country| snapshot.peers.by_country(country)).cloned();
    let who = PeerConnection { peer, ..who };
    let Some(permits) = load.enter(&who) else { return busy() };
    if request.method() != http::Method::POST {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if app.config.listener.reply_paths.contains(&path) {
        return held_by(permits, asynchronous::receive(&app, &who, &parts.headers, body).await);
    }
    let open = app.drain.hold();
    let reply = match pipeline::respond(app, who, &path, &parts.headers, body).await {
        Replied::Now(reply) => reply,
        Replied::Later(work) => {
            tokio::spawn(async move {
                let _held = (open, permits);
                work.await;
            });
            return empty(StatusCode::ACCEPTED);
        }
    };
    held_by(permits, reply)
}

/// The exchange has its place until the last byte of the reply has gone.
pub(crate) fn held_by(held: impl Send + 'static, reply: Reply) -> Reply {
    reply.map(|body| {
        body.map_frame(move |frame| {
            let _ = &held;
            frame
        })
        .boxed_unsync()
    })
}

pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = http::Response::new(full(Bytes::new()));
    *reply.status_mut() = status;
    reply
}

/// Early refusal under load.
pub(crate) fn busy() -> Reply {
    let mut reply = empty(StatusCode::SERVICE_UNAVAILABLE);
    reply.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("5"));
    reply
}

/// Bounded concurrency, in all and by country.
struct Load {
    all: Arc<Semaphore>,
    share: usize,
    by_country: Mutex<BTreeMap<Country, Arc<Semaphore>>>,
}

impl Load {
    fn new(app: &App) -> Self {
        let limits = &app.config.limits;
        let share = (limits.concurrency * usize::from(limits.peer_share_percent) / 100).max(1);
        Self { all: Arc::new(Semaphore::new(limits.concurrency)), share, by_country: Mutex::default() }
    }

    fn enter(&self, who: &PeerConnection) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let own = match &who.peer {
            Some(peer) => {
                // A country that a reload added gets its share when it first comes.
                let mut all = self.by_country.lock().unwrap_or_else(|p| p.into_inner());
                let semaphore = all.entry(peer.country).or_insert_with(|| Arc::new(Semaphore::new(self.share)));
                Some(semaphore.clone().try_acquire_owned().ok()?)
            }
            None => None,
        };
        Some((self.all.clone().try_acquire_owned().ok()?, own))
    }
}
