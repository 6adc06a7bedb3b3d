//! A TCP relay that passes, slows, stalls and cuts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of the bytes.
#[derive(Clone, Copy)]
pub enum Way {
    Passes,
    /// So many bytes a second towards the receiver.
    Slow(u64),
    /// Nothing moves, and no connection ends.
    Stalls,
    /// Every connection ends after so many bytes, inside a frame as a rule.
    CutAfter(u64),
}

/// Listens on a port of its own.
#[derive(Clone)]
pub struct Relay {
    pub port: u16,
    way: Arc<AtomicU64>,
    pub cuts: Arc<AtomicU64>,
}

impl Relay {
    pub async fn before(receiver: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let relay = Self { port, way: Arc::default(), cuts: Arc::default() };
        let own = relay.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let own = own.clone();
                tokio::spawn(async move {
                    let Ok(onward) = TcpStream::connect(receiver).await else { return };
                    own.pass(tcp, onward).await;
                });
            }
        });
        relay
    }

    /// From now on, for connections that are open too.
    pub fn set(&self, way: Way) {
        let coded = match way {
            Way::Passes => 0,
            Way::Stalls => 1,
            Way::Slow(rate) => 2 | rate << 2,
            Way::CutAfter(bytes) => 3 | bytes << 2,
        };
        self.way.store(coded, Ordering::Release);
    }

    fn way(&self) -> Way {
        let coded = self.way.load(Ordering::Acquire);
        match coded & 3 {
            0 => Way::Passes,
            1 => Way::Stalls,
            2 => Way::Slow(coded >> 2),
            _ => Way::CutAfter(coded >> 2),
        }
    }

    async fn pass(&self, near: TcpStream, far: TcpStream) {
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.into_split(), far.into_split());
        let back = async {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from_far.read(&mut buffer).await {
                while matches!(self.way(), Way::Stalls) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                if to_near.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        };
        let forth = async {
            let (mut buffer, mut passed) = (vec![0; 4 << 10], 0);
            while let Ok(n @ 1..) = from_near.read(&mut buffer).await {
                while matches!(self.way(), Way::Stalls) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                passed += n as u64;
                let mut bytes = &buffer[..n];
                match self.way() {
                    Way::Slow(rate) => {
                        tokio::time::sleep(Duration::from_micros(n as u64 * 1_000_000 / rate.max(1))).await;
                    }
                    Way::CutAfter(most) if passed > most => {
                        self.cuts.fetch_add(1, Ordering::Relaxed);
                        bytes = &bytes[..n / 2];
                        let _ = to_far.write_all(bytes).await;
                        return;
                    }
                    _ => {}
                }
                if to_far.write_all(bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = back => {}, () = forth => {} }
    }
}
