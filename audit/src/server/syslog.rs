//! Receives syslog over mutual TLS from the ATNA sources that the configuration names. The name in the certificate says who
//! it is, whatever the message says.

use std::sync::Arc;
use std::time::Duration;

use ncp_tls::{SslAcceptor, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::framing::{FrameError, Frames, message};
use super::repository::Incoming;
use super::service::Shared;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// A sender that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(600);
const CONNECTIONS: usize = 256;
/// Messages made durable together at most.
const GROUP: usize = 256;
/// Of a connection with a framing error so much is kept.
const KEPT: usize = 64 << 10;

/// Accepts senders until told to stop.
pub(super) async fn serve(
    shared: Shared,
    listener: TcpListener,
    acceptor: SslAcceptor,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok((tcp, address)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (shared, acceptor, stop) = (shared.clone(), acceptor.clone(), stop.clone());
        while open.try_join_next().is_some() {}
        open.spawn(async move {
            match ncp_tls::accept(&acceptor, tcp, HANDSHAKE).await {
                Ok(stream) => connection(&shared, stream, stop).await,
                Err(error) => tracing::info!(reason = %error, address = %address.ip(), "syslog handshake refused"),
            }
            drop(slot);
        });
    }
    while open.join_next().await.is_some() {}
}

async fn connection(shared: &Shared, mut stream: TlsStream, mut stop: watch::Receiver<bool>) {
    let Some(certificate) = ncp_tls::peer_certificate(&stream) else { return };
    if !shared.access().may_send(&certificate) {
        // The sender sees a connection that broke before anything was read, and keeps what it has.
        return shared.refused(&certificate, "certificate may not send by syslog").await;
    }
    let source = certificate.common_name;
    let mut frames = Frames::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = tokio::time::timeout(IDLE, stream.read(&mut buffer)) => read,
            // What was read is kept; the sender's later frames meet a closed connection and are sent again.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let bytes = match read {
            Ok(Ok(0)) | Ok(Err(_)) | Err(_) => {
                if !frames.rest().is_empty() {
                    let cut = rejected(frames.rest(), FrameError::Cut);
                    let _ = shared.keep_foreign(source, "syslog", vec![cut]).await;
                }
                break;
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
                return;
            }
        };
        // What cannot be stored is not read on: the sender sees a broken connection and keeps it.
        if !group.is_empty() && shared.keep_foreign(source.clone(), "syslog", group).await.is_err() {
            return;
        }
        if broken {
            break;
        }
    }
    let _ = tokio::time::timeout(HANDSHAKE, stream.shutdown()).await;
}

fn incoming(frame: Vec<u8>) -> Incoming {
    let content = message(&frame).map_err(|reason| (frame, format!("syslog: {reason}")));
    Incoming { media_type: "application/xml", content }
}

fn rejected(bytes: &[u8], error: FrameError) -> Incoming {
    let kept = bytes[..bytes.len().min(KEPT)].to_vec();
    Incoming { media_type: "application/octet-stream", content: Err((kept, format!("syslog: {error}"))) }
}
