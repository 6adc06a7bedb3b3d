//! The acknowledged feed to our own repository: order kept, resumed where the repository stands, retried for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ncp_proto::audit::audit_feed_client::AuditFeedClient;
use ncp_proto::audit::{Ack, Record, Refusal};
use prost::Message;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::{Courier, Delivered, FEED_BYTES, Failure, Receiver, SHORTEST_PAUSE, longer};
use crate::AuditError;
use crate::sink::AuditSink;
use crate::spool::{Cursor, Outgoing, Position, Reader};

const RECEIVER: &str = "feed";
/// A record that is sent by itself is acknowledged within this time.
const ALONE: Duration = Duration::from_secs(30);

/// What was sent and is not acknowledged.
type Sent = Arc<Mutex<VecDeque<Outgoing>>>;

/// The feed to our own audit repository over gRPC.
struct Feed(Channel);

/// Sends the spool's records to the repository until the process ends. The repository is known to the spool when this
/// returns.
pub fn feed(sink: AuditSink, channel: Channel) -> impl Future<Output = ()> + Send {
    let end = sink.end();
    send(Courier::new(sink, Feed(channel)), end)
}

async fn send(mut courier: Courier<Feed>, mut end: watch::Receiver<Position>) {
    let mut pause = SHORTEST_PAUSE;
    let mut failures = 0;
    loop {
        let (progress, error) = run(&courier).await;
        if progress {
            (failures, pause) = (0, SHORTEST_PAUSE);
        }
        failures += 1;
        tracing::warn!(reason = %error, "audit feed interrupted, trying again");
        // Again at the same place: in small steps, until it is known whether it is the record.
        if failures >= 2 {
            courier.resume();
            let until = *end.borrow_and_update();
            while let Ok(true) = courier.carry(until).await {
                failures = 0;
            }
            if courier.progress() {
                pause = SHORTEST_PAUSE;
            }
        }
        courier.wait(pause, &mut end).await;
        pause = longer(pause);
    }
}

fn repository(status: &tonic::Status) -> AuditError {
    AuditError::Repository(status.code().description().to_owned())
}

fn client(channel: Channel) -> AuditFeedClient<Channel> {
    AuditFeedClient::new(channel)
        .max_decoding_message_size(super::ACK_BYTES)
        .max_encoding_message_size(super::FEED_BYTES)
}

/// One stream from the place that is acknowledged on; whether anything more was, and why it ended. No end is a good one: it
/// is there for as long as the process.
async fn run(courier: &Courier<Feed>) -> (bool, AuditError) {
    let sink = courier.sink.clone();
    let (cursor, reader) = sink.resume(RECEIVER);
    let (sender, receiver) = tokio::sync::mpsc::channel(256);
    let sent = Sent::default();
    let mut progress = false;
    let work = async {
        let records = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut client = client(courier.to.0.clone());
        let mut acks = client.append(records).await.map_err(|status| repository(&status))?.into_inner();
        while let Some(ack) = acks.message().await.map_err(|status| repository(&status))? {
            if let Some(cursor) = acknowledge(&sent, &ack) {
                sink.delivered(RECEIVER, cursor)?;
                progress = true;
            }
            if let Some(refusal) = &ack.refused {
                let refused =
                    named(&sent, refusal).ok_or(AuditError::Repository("refused nothing that was sent".into()))?;
                courier.refused(refused, &refusal.reason)?;
                progress = true;
                return Err(AuditError::Repository("a record was refused".into()));
            }
        }
        Err(AuditError::Repository("the repository ended the feed".into()))
    };
    let reading = read_on(courier, cursor, reader, sender, &sent);
    let result: Result<(), AuditError> = tokio::select! {
        result = work => result,
        result = reading => result,
    };
    (progress, result.err().unwrap_or(AuditError::Stopped))
}

/// Reads records beyond the acknowledged ones in order and follows the end of the spool.
async fn read_on(
    courier: &Courier<Feed>,
    cursor: Cursor,
    mut reader: Reader,
    sender: tokio::sync::mpsc::Sender<Record>,
    sent: &Sent,
) -> Result<(), AuditError> {
    let mut end = courier.sink.end();
    loop {
        let until = *end.borrow_and_update();
        loop {
            let batch = reader.records(until, cursor, 64)?;
            if batch.is_empty() {
                break;
            }
            for outgoing in batch {
                let outgoing = courier.prepare(outgoing)?;
                sent.lock().unwrap_or_else(|p| p.into_inner()).push_back(outgoing.clone());
                if sender.send(record(&outgoing)).await.is_err() {
                    // The stream ended; the other half says why.
                    std::future::pending::<()>().await;
                }
            }
        }
        end.changed().await.map_err(|_| AuditError::Stopped)?;
    }
}

impl Receiver for Feed {
    const BATCH: usize = 256;

    fn name(&self) -> String {
        RECEIVER.to_owned()
    }

    fn most(&self) -> usize {
        FEED_BYTES
    }

    fn form<'a>(&self, outgoing: &'a Outgoing) -> Option<&'a str> {
        Some(&outgoing.record.xml)
    }

    fn size(&self, outgoing: &Outgoing) -> usize {
        record(outgoing).encoded_len()
    }

    /// One stream of its own, which must bring an acknowledgement of each before it ends.
    async fn deliver(&self, batch: &[Outgoing]) -> Delivered {
        let sent = Sent::new(Mutex::new(batch.iter().cloned().collect()));
        let records: Vec<Record> = batch.iter().map(record).collect();
        let work = async {
            let mut client = client(self.0.clone());
            let records = tokio_stream::iter(records);
            let mut acks = client.append(records).await.map_err(|status| repository(&status))?.into_inner();
            while let Some(ack) = acks.message().await.map_err(|status| repository(&status))? {
                acknowledge(&sent, &ack);
                if let Some(refusal) = ack.refused.filter(|refusal| named(&sent, refusal).is_some()) {
                    return Err(Failure::Refused(refusal.reason));
                }
            }
            Ok(())
        };
        let end = match tokio::time::timeout(ALONE, work).await {
            Ok(end) => end,
            Err(_) => Err(AuditError::Repository("no acknowledgement".into()).into()),
        };
        let left = sent.lock().unwrap_or_else(|p| p.into_inner()).len();
        let early = || Err(AuditError::Repository("the repository ended the feed".into()).into());
        let end = if left == 0 || end.is_err() { end } else { early() };
        Delivered { taken: batch.len() - left, end }
    }
}

fn record(outgoing: &Outgoing) -> Record {
    Record {
        epoch: outgoing.epoch,
        seq: outgoing.seq,
        event_time_us: outgoing.record.event_time_us,
        media_type: "application/xml".into(),
        facts: Some(outgoing.record.facts()),
        message: outgoing.record.xml.clone().into_bytes(),
        ended_epoch: outgoing.ended.0,
        ended_seq: outgoing.ended.1,
        ..Record::default()
    }
}

/// Forgets what the repository has; returns how far that is.
fn acknowledge(sent: &Sent, ack: &Ack) -> Option<Cursor> {
    let mut sent = sent.lock().unwrap_or_else(|p| p.into_inner());
    let mut last = None;
    while sent.front().is_some_and(|o| (o.epoch, o.seq) <= (ack.epoch, ack.durable_seq)) {
        last = sent.pop_front().map(|outgoing| outgoing.cursor());
    }
    last
}

/// The record that the repository does not take, where it was sent and is not acknowledged.
fn named(sent: &Sent, refusal: &Refusal) -> Option<Outgoing> {
    let sent = sent.lock().unwrap_or_else(|p| p.into_inner());
    let number = (refusal.epoch, refusal.seq);
    let named = |o: &&Outgoing| if refusal.next { (o.epoch, o.seq) > number } else { (o.epoch, o.seq) == number };
    sent.iter().find(named).cloned()
}
