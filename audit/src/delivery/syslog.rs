//! Syslog over TLS (RFC 5424, RFC 5425) to a foreign repository.
//!
//! The protocol has no acknowledgement: what a receiver was sent without error may be lost with it. A *safe point* is
//! reached when the connection was closed in order (RFC 5425 4.4): nothing was closed from the other side before our
//! `close_notify`, and after it the other side read to the end and answered with its own. A connection that ends without
//! one is no safe point, unless the receiver is known to close so. On any error everything after the last safe point is
//! sent again; a receiver may store some records twice, it loses none.

use std::time::Duration;

use futures_util::FutureExt;
use ncp_tls::{TlsConnector, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Delivered, Receiver};
use crate::AuditError;
use crate::message::{Dialect, Message};
use crate::sink::AuditSink;
use crate::spool::Outgoing;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// One write, and the end of the connection.
const STALLED: Duration = Duration::from_secs(60);

/// What stands before a message in its frame, bytes: two names of 255, an instant, numbers, the XML declaration.
const HEADER: usize = 1 << 10;

/// A foreign repository.
#[derive(Clone)]
pub struct SyslogTarget {
    /// Name in configuration; where it stands is kept under it.
    pub name: String,
    /// Host and port, 6514 as a rule.
    pub address: (String, u16),
    /// Name that its certificate must show.
    pub server_name: String,
    /// Our certificate and the anchors of the other side.
    pub connector: TlsConnector,
    /// What it reads.
    pub dialect: Dialect,
    /// A byte order mark before the message: ITI-20 discourages it, OpenATNA expects it.
    pub bom: bool,
    /// Source, epoch and seq as STRUCTURED-DATA; ITI-20 has none.
    pub structured_data: bool,
    /// The HOSTNAME field of the syslog header (RFC 5424 6.2.4).
    pub hostname: String,
    /// Our source in STRUCTURED-DATA.
    pub source: String,
    /// It ends connections without `close_notify`, as rsyslog with GnuTLS does: an orderly end of TCP behind our own
    /// `close_notify` then counts as delivered.
    pub ends_without_notify: bool,
    /// Bytes of one frame at most.
    pub max_record_bytes: usize,
}

/// Sends the spool's records until the process ends.
pub fn syslog(sink: AuditSink, target: SyslogTarget) -> impl Future<Output = ()> + Send {
    super::deliver(sink, target)
}

impl Receiver for SyslogTarget {
    const BATCH: usize = 1000;

    fn name(&self) -> String {
        format!("syslog-{}", self.name)
    }

    fn most(&self) -> usize {
        self.max_record_bytes
    }

    /// A record of before a receiver took this dialect is written in it now.
    fn complete(&self, outgoing: &mut Outgoing) {
        if self.dialect == Dialect::Ehdsi && outgoing.record.ehdsi.is_none() {
            let message = Message::read(outgoing.record.xml.as_bytes()).ok();
            outgoing.record.ehdsi = message.map(|message| message.to_xml(Dialect::Ehdsi));
        }
    }

    fn form<'a>(&self, outgoing: &'a Outgoing) -> Option<&'a str> {
        outgoing.message(self.dialect)
    }

    fn size(&self, outgoing: &Outgoing) -> usize {
        self.form(outgoing).map_or(0, |xml| xml.len() + HEADER)
    }

    async fn deliver(&self, batch: &[Outgoing]) -> Delivered {
        match send(self, batch).await {
            Ok(()) => Delivered { taken: batch.len(), end: Ok(()) },
            Err(error) => Delivered { taken: 0, end: Err(error.into()) },
        }
    }
}

/// One connection, from the handshake to the safe point.
async fn send(target: &SyslogTarget, batch: &[Outgoing]) -> Result<(), AuditError> {
    let other = |e: ncp_tls::TlsError| AuditError::Repository(e.to_string());
    let messages: Vec<Vec<u8>> = batch
        .iter()
        .filter_map(|o| Some(frame(target, o.message(target.dialect)?, o.record.event_time_us, (o.epoch, o.seq))))
        .collect();
    if messages.is_empty() {
        return Ok(());
    }
    let (host, port) = &target.address;
    let mut stream =
        ncp_tls::connect(&target.connector, host, *port, &target.server_name, HANDSHAKE).await.map_err(other)?;
    let work = async {
        for message in messages {
            stream.write_all(&message).await?;
        }
        stream.flush().await?;
        close(&mut stream, target.ends_without_notify).await
    };
    tokio::time::timeout(STALLED, work).await.map_err(|_| AuditError::Repository("receiver stalls".into()))?
}

async fn close(stream: &mut TlsStream, without_notify: bool) -> Result<(), AuditError> {
    let early = || AuditError::Repository("receiver closed the connection".into());
    let mut nothing = [0; 256];
    if let Some(Ok(0) | Err(_)) = stream.read(&mut nothing).now_or_never() {
        return Err(early());
    }
    stream.shutdown().await?;
    loop {
        match stream.read(&mut nothing).await {
            Ok(0) => break,
            Ok(_) => {}
            // An orderly end without `close_notify`; a reset is another kind of error.
            Err(error)
                if error.kind() == std::io::ErrorKind::UnexpectedEof
                    || error.to_string().contains("unexpected eof") =>
            {
                break;
            }
            Err(_) => return Err(early()),
        }
    }
    if without_notify || stream.notified() {
        return Ok(());
    }
    Err(AuditError::Repository("receiver ended without close_notify".into()))
}

/// An octet-counted frame: PRI 85 (authpriv.notice), MSGID as ITI TF-2: 3.20.4.1.2 has it.
fn frame(target: &SyslogTarget, xml: &str, event_time_us: i64, (epoch, seq): (u64, u64)) -> Vec<u8> {
    let at = jiff::Timestamp::from_microsecond(event_time_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let printable = |text: &str, most: usize| -> String {
        let kept: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
        if kept.is_empty() { "-".to_owned() } else { kept }
    };
    // One element, no bracket or quote in its values: common parsers read no further.
    let source: String = target.source.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).collect();
    let data = match target.structured_data {
        true => format!("[audit@32473 src=\"{source}\" ep=\"{epoch}\" seq=\"{seq}\"]"),
        false => "-".to_owned(),
    };
    let head = format!(
        "<85>1 {} {} ncp-gateway {} IHE+RFC-3881 {data} ",
        at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"),
        printable(&target.hostname, 255),
        std::process::id(),
    );
    let bom: &[u8] = if target.bom { b"\xef\xbb\xbf" } else { b"" };
    let declaration = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
    let length = head.len() + bom.len() + declaration.len() + xml.len();
    let mut out = format!("{length} {head}").into_bytes();
    out.extend_from_slice(bom);
    out.extend_from_slice(declaration.as_bytes());
    out.extend_from_slice(xml.as_bytes());
    out
}
