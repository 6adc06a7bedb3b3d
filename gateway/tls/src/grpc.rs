//! tonic over OpenSSL: one place for keys, suites and revocation.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use openssl::ssl::SslAcceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Accepted, CertificateFacts, TlsConnector, TlsError, TlsStream, connect, peer_certificate};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// ALPN of HTTP/2.
const H2: &[u8] = b"h2";

/// A channel that connects when first used and again when it broke.
///
/// # Errors
/// An endpoint that is no `https://host:port`.
pub fn channel(endpoint: &str, server_name: &str, connector: TlsConnector) -> Result<Channel, TlsError> {
    let invalid = |_| TlsError::Handshake(format!("{endpoint} is no endpoint"));
    // tonic itself must not do TLS: our connector does, so the scheme that it sees is plain.
    let plain = endpoint.replacen("https://", "http://", 1);
    let server_name: Arc<str> = server_name.into();
    let service = tower::service_fn(move |uri: Uri| {
        let (connector, server_name) = (connector.clone(), server_name.clone());
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let stream = connect(&connector, &host, port, &server_name, HANDSHAKE).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(plain).map_err(invalid)?;
    Ok(endpoint
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector_lazy(service))
}

/// The connections of a gRPC server.
pub fn incoming(listener: TcpListener, acceptor: SslAcceptor) -> impl Stream<Item = io::Result<GrpcStream>> {
    let accepted = Accepted::new(listener, acceptor);
    futures_util::stream::unfold(accepted, |mut accepted| async move {
        loop {
            let (stream, _) = accepted.next().await?;
            if stream.ssl().selected_alpn_protocol() == Some(H2) {
                let peer = peer_certificate(&stream).map(Arc::new);
                return Some((Ok(GrpcStream { stream, peer }), accepted));
            }
            tracing::info!("grpc client without h2 refused");
        }
    })
}

/// A connection as tonic takes it.
pub struct GrpcStream {
    stream: TlsStream,
    peer: Option<Arc<CertificateFacts>>,
}

/// What handlers find in the extensions of a request: who is at the other end.
#[derive(Debug, Clone)]
pub struct GrpcPeer(pub Option<Arc<CertificateFacts>>);

impl Connected for GrpcStream {
    type ConnectInfo = GrpcPeer;
    fn connect_info(&self) -> GrpcPeer {
        GrpcPeer(self.peer.clone())
    }
}

impl AsyncRead for GrpcStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for GrpcStream {
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
