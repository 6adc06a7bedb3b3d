//! Handshakes with a time limit, without Nagle's delay.

use std::time::Duration;

use openssl::ssl::{Ssl, SslAcceptor, SslConnector};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::{CertificateFacts, TlsError, ssl_error};

/// A TLS connection.
pub type TlsStream = SslStream<TcpStream>;

/// The server's half of a handshake.
///
/// # Errors
/// Time, network, handshake.
pub async fn accept(acceptor: &SslAcceptor, tcp: TcpStream, limit: Duration) -> Result<TlsStream, TlsError> {
    tcp.set_nodelay(true)?;
    let ssl = Ssl::new(acceptor.context()).map_err(ssl_error("tls"))?;
    let mut stream = SslStream::new(ssl, tcp).map_err(ssl_error("tls"))?;
    let handshake = std::pin::Pin::new(&mut stream).accept();
    match tokio::time::timeout(limit, handshake).await {
        Err(_) => Err(TlsError::Timeout),
        Ok(Err(error)) => Err(TlsError::Handshake(reason(&error))),
        Ok(Ok(())) => Ok(stream),
    }
}

/// Connects and shakes hands; the server's name is checked against its certificate.
///
/// # Errors
/// Time, network, handshake.
pub async fn connect(
    connector: &SslConnector,
    host: &str,
    port: u16,
    server_name: &str,
    limit: Duration,
) -> Result<TlsStream, TlsError> {
    let work = async {
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let configuration = connector.configure().map_err(ssl_error("tls"))?;
        let ssl = configuration.into_ssl(server_name).map_err(ssl_error("tls"))?;
        let mut stream = SslStream::new(ssl, tcp).map_err(ssl_error("tls"))?;
        std::pin::Pin::new(&mut stream).connect().await.map_err(|e| TlsError::Handshake(reason(&e)))?;
        Ok(stream)
    };
    tokio::time::timeout(limit, work).await.map_err(|_| TlsError::Timeout)?
}

/// What the other side showed, if anything; its chain was verified in the handshake.
pub fn peer_certificate(stream: &TlsStream) -> Option<CertificateFacts> {
    stream.ssl().peer_certificate().and_then(|c| CertificateFacts::of(&c).ok())
}

fn reason(error: &openssl::ssl::Error) -> String {
    match error.ssl_error().and_then(|stack| stack.errors().first().and_then(|e| e.reason())) {
        Some(reason) => reason.to_owned(),
        None => error.code().as_raw().to_string(),
    }
}
