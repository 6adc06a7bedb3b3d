//! The one accept loop of servers over TLS: each handshake has a task and a time limit of its own, so that a slow one
//! holds nobody up, and there are so many at once at most.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::{TlsStream, accept};

/// Time of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once at most.
const HANDSHAKES: usize = 256;

/// Connections whose handshake is done. axum serves them as they are.
pub struct Accepted {
    ready: mpsc::Receiver<(TlsStream, SocketAddr)>,
    address: std::io::Result<SocketAddr>,
}

impl Accepted {
    /// Accepts from now on.
    pub fn new(listener: TcpListener, acceptor: SslAcceptor) -> Self {
        let address = listener.local_addr();
        let (sender, ready) = mpsc::channel(64);
        tokio::spawn(shaking_hands(listener, acceptor, sender));
        Self { ready, address }
    }

    /// The next one.
    pub async fn next(&mut self) -> Option<(TlsStream, SocketAddr)> {
        self.ready.recv().await
    }
}

async fn shaking_hands(listener: TcpListener, acceptor: SslAcceptor, sender: mpsc::Sender<(TlsStream, SocketAddr)>) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! { accepted = listener.accept() => accepted, () = sender.closed() => return };
        let Ok((tcp, address)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (sender, acceptor) = (sender.clone(), acceptor.clone());
        tokio::spawn(async move {
            match accept(&acceptor, tcp, HANDSHAKE).await {
                Ok(stream) => drop(sender.send((stream, address)).await),
                Err(error) => tracing::info!(reason = %error, address = %address.ip(), "handshake refused"),
            }
            drop(slot);
        });
    }
}

impl axum::serve::Listener for Accepted {
    type Io = TlsStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsStream, SocketAddr) {
        match self.next().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.address.as_ref().copied().map_err(|error| error.kind().into())
    }
}
