//! hyper's pooled HTTP/1.1 client over OpenSSL, which also checks the country of the server it reached.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use openssl::ssl::SslConnector;

use crate::{Country, TlsError, TlsStream, connect, peer_certificate};

/// Idle connections kept for one server.
const IDLE: usize = 8;

/// A client with a pool of connections.
pub type HttpClient<B> = Client<TlsConnect, B>;

/// A client whose connections are made by `connector`. With a country, a server whose certificate is of another one is
/// not spoken to.
pub fn http_client<B>(connector: SslConnector, country: Option<Country>, limit: Duration) -> HttpClient<B>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(IDLE)
        .build(TlsConnect { connector, country, limit })
}

/// Connects to `https://host:port`; the host must be a name of the server's certificate.
#[derive(Clone)]
pub struct TlsConnect {
    connector: SslConnector,
    country: Option<Country>,
    limit: Duration,
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
            if let Some(country) = this.country
                && peer_certificate(&stream).and_then(|c| c.country) != Some(country)
            {
                return Err(TlsError::Handshake(format!("server's certificate is not of {country}")));
            }
            Ok(HttpsStream(TokioIo::new(stream)))
        })
    }
}

/// A connection as hyper's client takes it.
pub struct HttpsStream(TokioIo<TlsStream>);

impl Connection for HttpsStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for HttpsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for HttpsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
