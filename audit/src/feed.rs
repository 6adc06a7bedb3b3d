//! The acknowledged feed: order kept, resumed where the repository stands, retried for ever.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ncp_proto::audit::audit_feed_client::AuditFeedClient;
use ncp_proto::audit::{Ack, Record};
use tonic::transport::Channel;

use crate::AuditError;
use crate::frame::{self, Found};
use crate::sink::AuditSink;
use crate::spool::{self, Item, Position};

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Sends the spool's records to the repository until the process ends.
pub async fn feed(sink: AuditSink, channel: Channel) {
    let mut pause = Duration::from_millis(200);
    loop {
        match run(&sink, channel.clone()).await {
            Ok(()) => pause = Duration::from_millis(200),
            Err(error) => {
                tracing::warn!(reason = %error, "audit feed interrupted, trying again");
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn run(sink: &AuditSink, channel: Channel) -> Result<(), AuditError> {
    let repository = |status: tonic::Status| AuditError::Repository(status.code().description().to_owned());
    let acked = read_acked(sink.dir());
    let (sender, receiver) = tokio::sync::mpsc::channel(256);
    let mut client = AuditFeedClient::new(channel).max_decoding_message_size(1 << 20);
    let unacknowledged = Sent::default();
    let reader = tokio::spawn(read_on(sink.clone(), acked, sender, unacknowledged.clone()));
    let result = async {
        let mut acks = client
            .append(tokio_stream::wrappers::ReceiverStream::new(receiver))
            .await
            .map_err(repository)?
            .into_inner();
        while let Some(ack) = acks.message().await.map_err(repository)? {
            write_acked(sink.dir(), &ack)?;
            if let Some(segment) = acknowledge(&unacknowledged, &ack)
                && let Err(error) = spool::prune(sink.dir(), segment)
            {
                tracing::warn!(reason = %error, "old spool segments not removed");
            }
        }
        Ok(())
    }
    .await;
    reader.abort();
    result
}

/// Reads records beyond the acknowledged ones in order and follows the end of the spool.
async fn read_on(
    sink: AuditSink,
    acked: (u64, u64),
    sender: tokio::sync::mpsc::Sender<Record>,
    unacknowledged: Sent,
) -> Result<(), AuditError> {
    let mut end = sink.end();
    let mut at: Option<Position> = None;
    let mut open: Option<(u64, File)> = None;
    loop {
        let until = *end.borrow_and_update();
        let numbers = spool::segments(sink.dir())?;
        let from = at.map_or(0, |at| at.segment);
        for number in numbers.into_iter().filter(|n| *n <= until.segment && *n >= from) {
            let mut offset = at.filter(|at| at.segment == number).map_or(0, |at| at.offset);
            if open.as_ref().is_none_or(|(n, _)| *n != number) {
                open = Some((number, File::open(spool::segment_path(sink.dir(), number))?));
            }
            let Some((_, file)) = &mut open else { continue };
            while number < until.segment || offset < until.offset {
                let Ok(found) = frame::read_at(file, sink.key(), offset)? else { return Err(AuditError::OtherKey) };
                let Found::Frame(plain, next) = found else { break };
                if let Item::Records { epoch, first_seq, records, .. } =
                    serde_json::from_slice(&plain).map_err(std::io::Error::other)?
                {
                    for (index, record) in records.into_iter().enumerate() {
                        let seq = first_seq + index as u64;
                        if (epoch, seq) <= acked {
                            continue;
                        }
                        let facts = Some(record.facts());
                        let record = Record {
                            epoch,
                            seq,
                            event_time_us: record.event_time_us,
                            media_type: "application/xml".into(),
                            message: record.xml.into_bytes(),
                            facts,
                        };
                        unacknowledged.lock().unwrap_or_else(|p| p.into_inner()).push_back((epoch, seq, number));
                        if sender.send(record).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                offset = next;
            }
            at = Some(Position { segment: number, offset });
        }
        if end.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// What was sent and is not acknowledged: epoch, seq, segment.
type Sent = Arc<Mutex<VecDeque<(u64, u64, u64)>>>;

/// Forgets what the repository has; returns the first segment that still holds something it has not.
fn acknowledge(sent: &Sent, ack: &Ack) -> Option<u64> {
    let mut sent = sent.lock().unwrap_or_else(|p| p.into_inner());
    let mut last = None;
    while let Some((epoch, seq, segment)) = sent.front().copied() {
        if (epoch, seq) > (ack.epoch, ack.durable_seq) {
            return Some(segment);
        }
        last = Some(segment);
        sent.pop_front();
    }
    last
}

fn read_acked(dir: &Path) -> (u64, u64) {
    let text = std::fs::read_to_string(dir.join("acknowledged")).unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Only a hint: a stale one makes the repository see records again, which it knows by (source, epoch, seq).
fn write_acked(dir: &Path, ack: &Ack) -> std::io::Result<()> {
    let fresh = dir.join("acknowledged.new");
    std::fs::write(&fresh, format!("{} {}\n", ack.epoch, ack.durable_seq))?;
    std::fs::rename(fresh, dir.join("acknowledged"))
}
