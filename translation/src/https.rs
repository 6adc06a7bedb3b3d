//! The façade's own TLS: HTTP/1.1 for clients that show a certificate of our own services.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use ncp_tls::{SslAcceptor, TlsStream};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

/// Handshakes at once at most.
const HANDSHAKES: usize = 256;
/// Time of one.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections whose handshake is done; one that takes its time holds up nobody.
pub struct Https {
    ready: mpsc::Receiver<(TlsStream, SocketAddr)>,
    address: SocketAddr,
}

impl Https {
    /// Accepts from now on.
    ///
    /// # Errors
    /// A listener without an address.
    pub fn new(listener: TcpListener, acceptor: SslAcceptor) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(64);
        tokio::spawn(accept(listener, acceptor, sender));
        Ok(Self { ready, address })
    }
}

async fn accept(listener: TcpListener, acceptor: SslAcceptor, sender: mpsc::Sender<(TlsStream, SocketAddr)>) {
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
            match ncp_tls::accept(&acceptor, tcp, HANDSHAKE).await {
                Ok(stream) => drop(sender.send((stream, address)).await),
                Err(error) => tracing::info!(reason = %error, "fhir handshake refused"),
            }
            drop(slot);
        });
    }
}

impl Listener for Https {
    type Io = TlsStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsStream, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
