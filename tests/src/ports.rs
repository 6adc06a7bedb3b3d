//! Ports for servers that a test starts.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that nobody listens on, below those that the system gives to outgoing connections: one that is bound later must
/// not have been taken by another test's client.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() * 97 % 10_000).unwrap_or(0);
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        if let Ok(address) = TcpListener::bind(("127.0.0.1", port)).and_then(|l| l.local_addr()) {
            return address;
        }
    }
}
