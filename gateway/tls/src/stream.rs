//! Handshakes with a time limit, and a stream that moves several records at a time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use openssl::ssl::{Ssl, SslAcceptor, SslRef, StatusType};
use tokio::io::{AsyncRead, AsyncWrite, BufStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_openssl::SslStream;

use crate::connections::Permit;
use crate::judged::Judged;
use crate::paced::Paced;
use crate::{CertificateFacts, OpenConnection, TlsConnector, TlsError, ssl_error};

/// Bytes read from and written to the socket at once. OpenSSL asks for a record's head and body apart and writes record
/// by record (16 KiB at most); gathered, a study takes a sixth of the system calls and wake-ups.
const GATHERED: usize = 64 << 10;

/// How long a server goes on reading a connection that it has ended, and how much.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;

/// A TLS connection.
pub struct TlsStream {
    tls: SslStream<BufStream<Paced>>,
    end: End,
    judged: Option<Judged>,
}

/// What is still to be done once the last byte was written.
enum End {
    /// Nothing more: the asking side.
    Plain,
    /// The answering side: a socket that is closed over bytes that nobody read is reset, and a reset takes from the other end
    /// what it has not read yet. So they are read and thrown away.
    Linger,
    Lingering(Pin<Box<Sleep>>, usize),
}

impl TlsStream {
    fn new(ssl: Ssl, tcp: TcpStream, end: End) -> Result<Self, TlsError> {
        let gathered = BufStream::with_capacity(GATHERED, GATHERED, Paced::over(tcp)?);
        Ok(Self { tls: SslStream::new(ssl, gathered).map_err(ssl_error("tls"))?, end, judged: None })
    }

    /// The permit of an accepted connection is given back when the stream is dropped; the stream ends with it.
    pub(crate) fn holding(mut self, permit: Permit) -> Self {
        self.tls.get_mut().get_mut().hold(permit);
        self
    }

    /// The accepted connection, for its requests.
    pub fn connection(&self) -> OpenConnection {
        self.tls.get_ref().get_ref().connection()
    }

    /// The session.
    pub fn ssl(&self) -> &SslRef {
        self.tls.ssl()
    }

    /// The longest time that the other end may let 64 KiB wait that are written to it; 30 s where nothing else is said.
    pub fn paced(mut self, within: Duration) -> Self {
        self.tls.get_mut().get_mut().within(within);
        self
    }

    fn tcp(&self) -> &TcpStream {
        self.tls.get_ref().get_ref().get_ref()
    }

    /// Whether the other end said that it ends (`close_notify`).
    pub fn notified(&self) -> bool {
        crate::ffi::ended_by_peer(self.tls.ssl())
    }

    /// Ends the connection with a reset, so that the other end takes nothing of it for received.
    pub fn reset(self) {
        // A socket that is gone needs no reset.
        let _ = self.tcp().set_zero_linger();
    }

    /// Our own end.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }
}

impl AsyncRead for TlsStream {
    /// Fills the buffer with all records that are there.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(Poll::Ready(error)) = self.judged.as_mut().map(|judged| judged.poll_ended(cx)) {
            tracing::warn!(reason = %error, "connection between our own programs ended");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, error)));
        }
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let filled = buf.filled().len();
            match Pin::new(&mut self.tls).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > filled => {}
                // The end, and what goes wrong behind bytes that were read, shows again at the next read.
                other if filled == before => return other,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tls: stream, end, .. } = &mut *self;
        if !matches!(end, End::Lingering(..)) {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            if matches!(end, End::Linger) {
                *end = End::Lingering(Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES);
            }
        }
        let End::Lingering(over, left) = end else { return Poll::Ready(Ok(())) };
        let mut thrown_away = [0; 8 << 10];
        while *left > 0 {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match Pin::new(stream.get_mut()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    *left = left.saturating_sub(buffer.filled().len())
                }
                Poll::Ready(_) => break,
                Poll::Pending => return over.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The server's half of a handshake. Who says nothing costs no buffer.
///
/// # Errors
/// Time, network, handshake.
pub async fn accept(acceptor: &SslAcceptor, tcp: TcpStream, limit: Duration) -> Result<TlsStream, TlsError> {
    let work = async {
        tcp.readable().await?;
        let ssl = Ssl::new(acceptor.context()).map_err(ssl_error("tls"))?;
        let mut stream = TlsStream::new(ssl, tcp, End::Linger)?;
        Pin::new(&mut stream.tls).accept().await.map_err(|e| TlsError::Handshake(reason(&e)))?;
        stream.judged = Judged::of(stream.ssl());
        Ok(stream)
    };
    tokio::time::timeout(limit, work).await.map_err(|_| TlsError::Timeout)?
}

/// Connects and shakes hands; the server's name is checked against its certificate.
///
/// # Errors
/// Time, network, handshake.
pub async fn connect(
    connector: &TlsConnector,
    host: &str,
    port: u16,
    server_name: &str,
    limit: Duration,
) -> Result<TlsStream, TlsError> {
    let work = async {
        let tcp = TcpStream::connect((host, port)).await?;
        let mut ssl = connector.session(server_name).map_err(ssl_error("tls"))?;
        // Asks for a stapled answer; `ServerOf` reads it.
        ssl.set_status_type(StatusType::OCSP).map_err(ssl_error("tls"))?;
        let mut stream = TlsStream::new(ssl, tcp, End::Plain)?;
        Pin::new(&mut stream.tls).connect().await.map_err(|e| TlsError::Handshake(reason(&e)))?;
        stream.judged = Judged::of(stream.ssl());
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
