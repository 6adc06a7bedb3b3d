//! The one accept loop of servers over TLS. A caller is nobody before the handshake, and after it mostly somebody who still
//! has to say who calls; so half-open and open connections have permits apart, and each network has a share of both. Each
//! handshake has a task and a time limit of its own, so that a slow one holds nobody up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::half_open::HalfOpen;
use crate::shares::Places;
use crate::{TlsError, TlsStream, accept};

/// Time of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once at most, and those of one network.
const HANDSHAKES: (usize, usize) = (2048, 512);
/// Connections at once at most, and those of one network.
const CONNECTIONS: (usize, usize) = (2048, 512);

/// Accepts connections until `stopped`; `each` gets them after the handshake, or why it failed. A connection has its
/// permit until the stream is dropped. The acceptor is asked for at every connection, since a reload makes a new one.
pub async fn accept_until<F, Done>(
    listener: TcpListener,
    acceptor: impl Fn() -> Option<SslAcceptor>,
    limit: Duration,
    stopped: impl Future<Output = ()>,
    each: F,
) where
    F: Fn(Result<TlsStream, TlsError>, SocketAddr) -> Done + Clone + Send + 'static,
    Done: Future<Output = ()> + Send,
{
    let half_open = HalfOpen::new(HANDSHAKES.0, HANDSHAKES.1);
    let connections = Arc::new(Places::new(CONNECTIONS.0, CONNECTIONS.1));
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let accepted = tokio::select! { accepted = listener.accept() => accepted, () = &mut stopped => return };
        let Ok((tcp, address)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(acceptor) = acceptor() else { continue };
        let mut under_way = half_open.enter(address.ip());
        let (each, connections) = (each.clone(), connections.clone());
        tokio::spawn(async move {
            let shaken = tokio::select! {
                shaken = accept(&acceptor, tcp, limit) => shaken,
                () = under_way.ended() => return,
            };
            drop(under_way);
            match shaken {
                Ok(stream) => {
                    let Some(place) = connections.take(address.ip()) else { return };
                    each(Ok(stream.holding(place)), address).await;
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
            accept_until(listener, || Some(acceptor.clone()), HANDSHAKE, closed.closed(), each).await;
        });
        Self(ready)
    }

    /// The next one.
    pub async fn next(&mut self) -> Option<(TlsStream, SocketAddr)> {
        self.0.recv().await
    }
}
