//! HTTP/1.1 as every server speaks it: bounded header fields that must come in time, and connections that are kept
//! between requests as [`Times`] say.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use hyper::Request;
use hyper::body::{Body, Bytes, Incoming};
use hyper::http::header::{self, HeaderValue};
use hyper::http::{Response, StatusCode, Version};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use openssl::ssl::SslAcceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use crate::accepted::{CONNECTIONS, PAUSE};
use crate::connections::Connections;
use crate::kept::{Answered, Between, Kept};
use crate::paced::Paced;
use crate::{Bounds, CertificateFacts, OpenConnection, SenderKnown, Times, accept_until, peer_certificate};

/// Serves one connection. When `stopping` resolves, the exchange that is under way is the last; the connection is open until
/// the last byte of its answer has gone. An answer that carries [`SenderKnown`] makes its connection known; each request
/// carries the connection, so that its caller may be known before.
pub async fn serve_http<I, S, B>(
    (stream, open): (I, OpenConnection),
    service: S,
    times: Times,
    stopping: impl Future<Output = ()>,
) where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (kept, last) = (Kept::default(), Arc::new(AtomicBool::new(false)));
    let stream = Between::new(stream, kept.clone(), times);
    let stops = last.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (kept, last, under_way, open) = (kept.clone(), stops.clone(), kept.begin(), open.clone());
        request.extensions_mut().insert(open.clone());
        let closes = request
            .headers()
            .get(header::CONNECTION)
            .is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(b"close"));
        let (is_kept, has_body) = (request.version() == Version::HTTP_11 && !closes, !request.body().is_end_stream());
        let answering = service.call(request);
        async move {
            let mut reply = answering.await?;
            let is_known = reply.extensions_mut().remove::<SenderKnown>().is_some();
            if is_known {
                kept.known();
                open.authenticated();
            }
            // Of somebody unknown no body was read, and behind one that was not read to its end no request can follow.
            let ends = matches!(reply.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE);
            let is_unread = has_body && !reply.status().is_success() && (ends || !is_known);
            let headers = reply.headers_mut();
            if is_unread || last.load(Ordering::Acquire) {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            } else if is_kept && !headers.contains_key(header::CONNECTION) {
                kept.hint(times, headers);
            }
            Ok::<_, S::Error>(reply.map(|body| Answered { body, _under_way: under_way }))
        }
    });
    // `Between` has the times of heads and of idle connections.
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(64 << 10)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping => {
            last.store(true, Ordering::Release);
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(reason = %error, "connection ended");
    }
}

/// In the extensions of a request: the certificate that its connection showed, which the handshake has checked.
#[derive(Debug, Clone)]
pub struct ShownCertificate(pub Option<Arc<CertificateFacts>>);

/// Serves routes without TLS until `stopped`, and then what is still under way: pages for callers of the same machine. The
/// limits are those of every server.
pub async fn serve_plain(listener: TcpListener, routes: Router, times: Times, stopped: impl Future<Output = ()>) {
    let (stop, told) = watch::channel(false);
    let (open, mut none_left) = mpsc::channel::<Infallible>(1);
    let connections = Connections::new(CONNECTIONS, Bounds::default().of_network);
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let accepted = tokio::select! { accepted = listener.accept() => accepted, () = &mut stopped => break };
        let Ok((tcp, address)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (Some(permit), Ok(mut stream)) = (connections.enter(address.ip()), Paced::over(tcp)) else { continue };
        stream.hold(permit);
        let (routes, mut told, open) = (routes.clone(), told.clone(), open.clone());
        tokio::spawn(async move {
            let stopping = async move {
                let _ = told.wait_for(|stop| *stop).await;
            };
            let connection = stream.connection();
            serve_http((stream, connection), TowerToHyperService::new(routes), times, stopping).await;
            drop(open);
        });
    }
    stop.send_replace(true);
    drop(open);
    none_left.recv().await;
}

/// Serves routes over TLS until `stopped`, and then what is still under way. Who showed a certificate is known; the answer to
/// somebody else says whether its request made its sender known.
pub async fn serve_routes(
    listener: TcpListener,
    acceptor: SslAcceptor,
    routes: Router,
    times: Times,
    stopped: impl Future<Output = ()>,
) {
    let (stop, told) = watch::channel(false);
    let (open, mut none_left) = mpsc::channel::<Infallible>(1);
    accept_until(
        listener,
        || Some(acceptor.clone()),
        Bounds { handshake: times.head, ..Bounds::default() },
        stopped,
        move |shaken, address| {
            let (routes, mut told, open) = (routes.clone(), told.clone(), open.clone());
            async move {
                let stream = match shaken {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::info!(reason = %error, address = %address.ip(), "handshake refused");
                        return;
                    }
                };
                let shown = ShownCertificate(peer_certificate(&stream).map(Arc::new));
                let certified = shown.0.is_some();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(shown.clone());
                    let answering = routes.clone().oneshot(request);
                    async move {
                        let mut reply = answering.await?;
                        if certified {
                            reply.extensions_mut().insert(SenderKnown);
                        }
                        Ok::<_, Infallible>(reply)
                    }
                });
                let stopping = async move {
                    let _ = told.wait_for(|stop| *stop).await;
                };
                let connection = stream.connection();
                serve_http((stream, connection), service, times, stopping).await;
                drop(open);
            }
        },
    )
    .await;
    stop.send_replace(true);
    none_left.recv().await;
}
