//! The peers' listener: mutual TLS, who is at the other end, load shedding. And the types of a reply.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use http::{Request, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use ncp_audit::{Event, PeerFacts};
use ncp_soap::{BoxError, OutPart};
use ncp_tls::{CertificateFacts, Flushed, Flushes, Freshness, SenderKnown, TlsStream};
use openssl::x509::X509;
use tokio::net::TcpListener;

use crate::admission::{AGAIN, Authenticated, Capacity};
use crate::app::{App, Snapshot};
use crate::config::{Limits, Peer};
use crate::initiating::asynchronous;
use crate::orderly::{Orderly, Way};
use crate::responding::pipeline::{self, Replied};

/// A reply's body.
pub type ReplyBody = UnsyncBoxBody<Bytes, BoxError>;
/// A reply.
pub type Reply = http::Response<ReplyBody>;
/// Parts of an answer as they come.
pub type OutParts = Pin<Box<dyn Stream<Item = Result<OutPart, BoxError>> + Send>>;

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

/// The certificate that the handshake brought, and what came with it.
struct Shown {
    leaf: X509,
    sent: Vec<X509>,
}

impl Authenticated for PeerConnection {
    /// The country, or the system of our own one by the name in its certificate.
    fn subject(&self) -> String {
        let country = self.peer.as_ref().map(|peer| peer.country.to_string());
        country.unwrap_or_else(|| self.certificate.common_name.clone())
    }

    fn address(&self) -> IpAddr {
        self.address.ip()
    }
}

impl PeerConnection {
    /// The connection of a system of our own country whose certificate was checked.
    pub(crate) fn national(certificate: Arc<CertificateFacts>, address: SocketAddr, own: SocketAddr) -> Self {
        Self { certificate, address, own, peer: None, shown: None }
    }

    /// Whether the certificate is still good: a reload, the end of a status, of a CRL or of a certificate since the handshake
    /// counts. The anchors remember a path that held, so that this costs nothing as long as nothing ended.
    async fn still_good(&self, snapshot: &Snapshot) -> bool {
        let Some(shown) = &self.shown else { return false };
        let Some(peer) = self.certificate.country.and_then(|c| snapshot.peers.by_country(c)) else { return false };
        snapshot.issued_for(peer, &shown.leaf, &shown.sent).await.is_some()
    }
}

/// Serves HTTP/1.1 on one connection. When the drain begins, the exchange that is under way is the last; the connection is
/// open until the last byte of its reply has gone.
pub async fn serve_connection<S, B>(stream: TlsStream, service: S, app: &App)
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
    let _open = app.drain.hold();
    let open = stream.connection();
    let stream = Flushed::new(stream.paced(app.config.limits.idle), counted);
    ncp_tls::serve_http((stream, open), service, app.config.limits.times(), app.drain.stopping()).await;
}

/// A reply to somebody who is authenticated: the connection is kept for longer from now on.
pub(crate) fn to_known(mut reply: Reply) -> Reply {
    reply.extensions_mut().insert(SenderKnown);
    reply
}

/// The certificate was good when the connection began.
pub(crate) fn no_longer() -> Reply {
    unread(StatusCode::FORBIDDEN)
}

/// A reply before the body of its request was read: the connection ends with it, since no request can follow that body.
pub(crate) fn unread(status: StatusCode) -> Reply {
    let mut reply = empty(status);
    reply.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    reply
}

/// What a listener of systems carries at once: all of them together, and each system or country.
pub(crate) fn capacity(limits: &Limits) -> Capacity {
    shared(limits.concurrency, limits)
}

/// Permits for answers that are posted to other countries: half of `limits.concurrency`, apart from those of the listener, so that
/// a receiver that stalls takes none from requests that are answered on their own connection.
pub(crate) fn reply_capacity(limits: &Limits) -> Capacity {
    shared(limits.concurrency.div_ceil(2), limits)
}

fn shared(most: usize, limits: &Limits) -> Capacity {
    Capacity::new(most, most * usize::from(limits.peer_share_percent) / 100, most)
}

/// Accepts peers until the drain begins.
pub async fn serve_peers(app: Arc<App>, listener: TcpListener) {
    let capacity = Arc::new(capacity(&app.config.limits));
    let bounds = app.config.limits.bounds();
    let source = app.clone();
    let acceptor = move || Some(source.snapshot.load().peer_acceptor.clone());
    let drain = app.drain.clone();
    ncp_tls::accept_until(listener, acceptor, bounds, drain.stopping(), move |accepted, address| {
        let (app, capacity) = (app.clone(), capacity.clone());
        async move {
            match accepted {
                Ok(stream) => connection(app, stream, address, capacity).await,
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

async fn connection(app: Arc<App>, stream: TlsStream, address: SocketAddr, capacity: Arc<Capacity>) {
    let Some(certificate) = ncp_tls::peer_certificate(&stream).map(Arc::new) else { return };
    let Some(leaf) = stream.ssl().peer_certificate() else { return };
    let sent: Vec<X509> =
        stream.ssl().peer_cert_chain().map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
    let snapshot = app.snapshot.load_full();
    // The country's own anchors must have issued it: another country's CA cannot vouch for this one.
    let named = certificate.country.and_then(|country| snapshot.peers.by_country(country));
    let (freshness, peer) = match named {
        Some(peer) => (snapshot.issued_for(peer, &leaf, &sent).await, Some(peer.clone())),
        None => (None, None),
    };
    if freshness.is_none() {
        handshake_failed(&app, address, "certificate is of no configured country, or not good").await;
        return;
    }
    if freshness == Some(Freshness::Stale) {
        tracing::warn!(country = ?certificate.country, "revocation data are past their time, within the grace");
    }
    let Ok(own) = stream.local_addr() else { return };
    let shown = Some(Arc::new(Shown { leaf, sent }));
    let who = PeerConnection { certificate, address, own, peer, shown };
    let served = app.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, who, capacity) = (served.clone(), who.clone(), capacity.clone());
        async move {
            let snapshot = app.snapshot.load_full();
            if !who.still_good(&snapshot).await {
                handshake_failed(&app, who.address, "certificate is no longer good").await;
                return Ok::<_, std::convert::Infallible>(no_longer());
            }
            // Boxed, so that the compiler need not look through all of it at once.
            Ok(to_known(exchange(app, &snapshot, who, request, &capacity).boxed().await))
        }
    });
    serve_connection(stream, service, &app).await;
}

async fn exchange(
    app: Arc<App>,
    snapshot: &Snapshot,
    who: PeerConnection,
    request: Request<Incoming>,
    capacity: &Capacity,
) -> Reply {
    let peer = who.certificate.country.and_then(|country| snapshot.peers.by_country(country)).cloned();
    let who = PeerConnection { peer, ..who };
    if request.method() != http::Method::POST {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(permit) = capacity.enter(&who).await else {
        app.metrics.shed("peers");
        return busy();
    };
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if app.config.listener.reply_paths.contains(&path) {
        return held_by(permit, asynchronous::receive(&app, &who, &parts.headers, body).await);
    }
    let open = app.drain.hold();
    let reply = match pipeline::respond(app, who, &path, &parts.headers, body).await {
        Replied::Now(reply) => reply,
        Replied::Later(work) => {
            tokio::spawn(async move {
                let _held = open;
                work.await;
            });
            return empty(StatusCode::ACCEPTED);
        }
    };
    held_by(permit, reply)
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
    let mut reply = unread(StatusCode::SERVICE_UNAVAILABLE);
    reply.headers_mut().insert(header::RETRY_AFTER, AGAIN.as_secs().into());
    reply
}
