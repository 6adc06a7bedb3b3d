//! Receives syslog over mutual TLS from the ATNA sources that the configuration names. The name in the certificate says who
//! it is, whatever the message says.

use std::net::SocketAddr;
use std::time::Duration;

use ncp_tls::{Bounds, SslAcceptor, TlsError, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::framing::{FrameError, Frames, message};
use super::repository::Incoming;
use super::service::Shared;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// A sender that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(600);
/// Messages made durable together at most.
const GROUP: usize = 256;
/// Of a connection with a framing error so much is kept.
const KEPT: usize = 64 << 10;

/// Accepts senders until told to stop; returns once the last connection has ended.
pub(super) async fn serve(
    shared: Shared,
    listener: TcpListener,
    acceptor: SslAcceptor,
    mut stop: watch::Receiver<bool>,
) {
    let (open, mut none_open) = mpsc::channel::<()>(1);
    let told = stop.clone();
    let each = move |accepted: Result<TlsStream, TlsError>, address: SocketAddr| {
        let (shared, stop, open) = (shared.clone(), told.clone(), open.clone());
        async move {
            match accepted {
                Ok(stream) => connection(&shared, stream, stop).await,
                Err(error) => tracing::info!(reason = %error, address = %address.ip(), "syslog handshake refused"),
            }
            drop(open);
        }
    };
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    ncp_tls::accept_until(listener, || Some(acceptor.clone()), Bounds::default(), stopped, each).await;
    none_open.recv().await;
}

/// Reads a connection to its end. `close_notify` is our only acknowledgement (RFC 5425 4.4): it is given where the sender
/// ended the connection and everything that came is stored. In every other case the connection is reset, and the sender
/// sends again.
async fn connection(shared: &Shared, mut stream: TlsStream, stop: watch::Receiver<bool>) {
    match read_all(shared, &mut stream, stop).await {
        true => drop(tokio::time::timeout(HANDSHAKE, stream.shutdown()).await),
        false => stream.reset(),
    }
}

/// Whether all was read and is stored.
async fn read_all(shared: &Shared, stream: &mut TlsStream, mut stop: watch::Receiver<bool>) -> bool {
    let Some(certificate) = ncp_tls::peer_certificate(stream) else { return false };
    if !shared.access().may_send(&certificate) {
        shared.refused(&certificate, "certificate may not send by syslog").await;
        return false;
    }
    let source = certificate.common_name;
    let mut frames = Frames::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = tokio::time::timeout(IDLE, stream.read(&mut buffer)) => read,
            _ = stop.wait_for(|stop| *stop) => return false,
        };
        let bytes = match read {
            Ok(Ok(0)) | Ok(Err(_)) | Err(_) => {
                let whole = frames.rest().is_empty();
                if !whole {
                    let cut = rejected(frames.rest(), FrameError::Cut);
                    let _ = shared.keep_foreign(source, "syslog", vec![cut]).await;
                }
                return whole && matches!(read, Ok(Ok(0)));
            }
            Ok(Ok(n)) => &buffer[..n],
        };
        frames.push(bytes);
        let mut group = Vec::new();
        let broken = loop {
            match frames.next() {
                Ok(Some(frame)) => group.push(incoming(frame)),
                Ok(None) => break false,
                Err(error) => {
                    group.push(rejected(frames.rest(), error));
                    break true;
                }
            }
            if group.len() >= GROUP
                && shared.keep_foreign(source.clone(), "syslog", std::mem::take(&mut group)).await.is_err()
            {
                return false;
            }
        };
        // What cannot be stored is not read on: the sender sees a broken connection and keeps it.
        let stored = group.is_empty() || shared.keep_foreign(source.clone(), "syslog", group).await.is_ok();
        if broken || !stored {
            return false;
        }
    }
}

fn incoming(frame: Vec<u8>) -> Incoming {
    let content = message(&frame).map_err(|reason| (frame, format!("syslog: {reason}")));
    Incoming { media_type: "application/xml", content }
}

fn rejected(bytes: &[u8], error: FrameError) -> Incoming {
    let kept = bytes[..bytes.len().min(KEPT)].to_vec();
    Incoming { media_type: "application/octet-stream", content: Err((kept, format!("syslog: {error}"))) }
}
