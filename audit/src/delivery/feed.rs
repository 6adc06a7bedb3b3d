//! The acknowledged feed to our own repository: order kept, resumed where the repository stands, retried for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use ncp_proto::audit::audit_feed_client::AuditFeedClient;
use ncp_proto::audit::{Ack, Record};
use tonic::transport::Channel;

use super::{SHORTEST_PAUSE, longer};
use crate::AuditError;
use crate::sink::AuditSink;
use crate::spool::{Cursor, Outgoing, Reader};

const RECEIVER: &str = "feed";

/// What was sent and is not acknowledged.
type Sent = Arc<Mutex<VecDeque<Cursor>>>;

/// Sends the spool's records to the repository until the process ends.
pub async fn feed(sink: AuditSink, channel: Channel) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        match run(&sink, channel.clone()).await {
            Ok(()) => pause = SHORTEST_PAUSE,
            Err(error) => {
                tracing::warn!(reason = %error, "audit feed interrupted, trying again");
                pause = longer(pause);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn run(sink: &AuditSink, channel: Channel) -> Result<(), AuditError> {
    let repository = |status: tonic::Status| AuditError::Repository(status.code().description().to_owned());
    let (cursor, reader) = sink.resume(RECEIVER);
    let (sender, receiver) = tokio::sync::mpsc::channel(256);
    let mut client = AuditFeedClient::new(channel).max_decoding_message_size(1 << 20);
    let sent = Sent::default();
    let reading = tokio::spawn(read_on(sink.clone(), cursor, reader, sender, sent.clone()));
    let result = async {
        let records = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut acks = client.append(records).await.map_err(repository)?.into_inner();
        while let Some(ack) = acks.message().await.map_err(repository)? {
            if let Some(cursor) = acknowledge(&sent, &ack) {
                sink.delivered(RECEIVER, cursor)?;
            }
        }
        Ok(())
    }
    .await;
    reading.abort();
    result
}

/// Reads records beyond the acknowledged ones in order and follows the end of the spool.
async fn read_on(
    sink: AuditSink,
    cursor: Cursor,
    mut reader: Reader,
    sender: tokio::sync::mpsc::Sender<Record>,
    sent: Sent,
) -> Result<(), AuditError> {
    let mut end = sink.end();
    loop {
        let until = *end.borrow_and_update();
        loop {
            let batch = reader.records(until, cursor, 64)?;
            if batch.is_empty() {
                break;
            }
            for outgoing in batch {
                sent.lock().unwrap_or_else(|p| p.into_inner()).push_back(outgoing.cursor());
                if sender.send(record(outgoing)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if end.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn record(outgoing: Outgoing) -> Record {
    Record {
        epoch: outgoing.epoch,
        seq: outgoing.seq,
        event_time_us: outgoing.record.event_time_us,
        media_type: "application/xml".into(),
        facts: Some(outgoing.record.facts()),
        message: outgoing.record.xml.into_bytes(),
        ended_epoch: outgoing.ended.0,
        ended_seq: outgoing.ended.1,
        ..Record::default()
    }
}

/// Forgets what the repository has; returns how far that is.
fn acknowledge(sent: &Sent, ack: &Ack) -> Option<Cursor> {
    let mut sent = sent.lock().unwrap_or_else(|p| p.into_inner());
    let mut last = None;
    while sent.front().is_some_and(|c| (c.epoch, c.seq) <= (ack.epoch, ack.durable_seq)) {
        last = sent.pop_front();
    }
    last
}
