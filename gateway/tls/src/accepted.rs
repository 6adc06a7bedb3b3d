//! The one accept loop of servers over TLS. A caller is nobody before the handshake, and after it mostly somebody who still
//! has to say who calls; so half-open and open connections have permits apart, and each network has a share of both. Who
//! showed a certificate is authenticated by the handshake. Each handshake has a task and a time limit of its own, so that a
//! slow one holds nobody up.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::connections::Connections;
use crate::{TlsError, TlsStream, accept};

/// How long nothing is accepted after that failed: descriptors are short.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// Handshakes at once at most, and those of one network.
const HANDSHAKES: (usize, usize) = (2048, 512);
/// Connections at once at most.
pub(crate) const CONNECTIONS: usize = 2048;

/// What a listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Time of a handshake.
    pub handshake: Duration,
    /// Connections of one network at once at most.
    pub of_network: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(10), of_network: 512 }
    }
}

/// Accepts connections until `stopped`; `each` gets them after the handshake, or why it failed. A connection has its
/// permit until the stream is dropped. The acceptor is asked for at every connection, since a reload makes a new one.
pub async fn accept_until<F, Done>(
    listener: TcpListener,
    acceptor: impl Fn() -> Option<SslAcceptor>,
    bounds: Bounds,
    stopped: impl Future<Output = ()>,
    each: F,
) where
    F: Fn(Result<TlsStream, TlsError>, SocketAddr) -> Done + Clone + Send + 'static,
    Done: Future<Output = ()> + Send,
{
    let half_open = Connections::half_open(HANDSHAKES.0, HANDSHAKES.1);
    let connections = Connections::new(CONNECTIONS, bounds.of_network);
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let accepted = tokio::select! { accepted = listener.accept() => accepted, () = &mut stopped => return };
        let Ok((tcp, address)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some(acceptor) = acceptor() else { continue };
        let Some(mut under_way) = half_open.enter(address.ip()) else { continue };
        let (each, connections) = (each.clone(), connections.clone());
        tokio::spawn(async move {
            let shaken = tokio::select! {
                shaken = accept(&acceptor, tcp, bounds.handshake) => shaken,
                () = poll_fn(|cx| under_way.poll_ended(cx)) => return,
            };
            drop(under_way);
            match shaken {
                Ok(stream) => {
                    let Some(permit) = connections.enter(address.ip()) else { return };
                    if stream.ssl().peer_certificate().is_some() {
                        permit.connection().authenticated();
                    }
                    each(Ok(stream.holding(permit)), address).await;
                }
                Err(error) => each(Err(error), address).await,
            }
        });
    }
}

/// Connections whose handshake is done.
pub struct Accepted(mpsc::Receiver<(TlsStream, SocketAddr)>);

impl Accepted {
    /// Accepts from now on.
    pub fn new(listener: TcpListener, acceptor: SslAcceptor) -> Self {
        let (sender, ready) = mpsc::channel(64);
        let closed = sender.clone();
        let each = move |shaken: Result<TlsStream, TlsError>, address: SocketAddr| {
            let sender = sender.clone();
            async move {
                match shaken {
                    Ok(stream) => drop(sender.send((stream, address)).await),
                    Err(error) => tracing::info!(reason = %error, address = %address.ip(), "handshake refused"),
                }
            }
        };
        tokio::spawn(async move {
            accept_until(listener, || Some(acceptor.clone()), Bounds::default(), closed.closed(), each).await;
        });
        Self(ready)
    }

    /// The next one.
    pub async fn next(&mut self) -> Option<(TlsStream, SocketAddr)> {
        self.0.recv().await
    }
}
