//! What the gateway holds: the sink, and one [`Exchange`] per exchange.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use crate::AuditError;
use crate::event::{Decision, Event, Intent, Outcome, OutcomeIndicator};
use crate::frame::Key;
use crate::message::{self, AuditRecord, Site};
use crate::spool::{
    self, Cursor, Folder, Item, Job, Ledger, Outgoing, Position, Reach, Reader, SetApart, SpoolLimits, Status,
};
use crate::throttle::Throttle;

/// A source that is silent for longer has a fault.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// What happens to disclosure when no rung of the spool takes the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Nothing is disclosed, whatever the purpose.
    #[default]
    DenyExport,
    /// For the purpose EMERGENCY only: disclosed, with an alarm; the record is held in memory until a disk takes it, and
    /// an encrypted last copy goes to the log.
    AllowAndAlarm,
}

/// Where the spool is and who writes it.
#[derive(Debug, Clone)]
pub struct SpoolOptions {
    /// Folder.
    pub dir: PathBuf,
    /// 32 bytes in hex, mode 0600.
    pub key_file: PathBuf,
    /// Who.
    pub site: Site,
    /// Bounds.
    pub limits: SpoolLimits,
    /// When no rung takes a record.
    pub on_failure: OnFailure,
}

impl SpoolOptions {
    /// With the default bounds.
    pub fn new(dir: PathBuf, key_file: PathBuf, site: Site) -> Self {
        Self { dir, key_file, site, limits: SpoolLimits::default(), on_failure: OnFailure::default() }
    }
}

/// The way into the trail; clones share it.
#[derive(Clone)]
pub struct AuditSink {
    inner: Arc<Inner>,
}

struct Inner {
    site: Site,
    folder: Folder,
    key: Key,
    queue: mpsc::SyncSender<Job>,
    end: watch::Receiver<Position>,
    status: watch::Receiver<Status>,
    epoch: u64,
    on_failure: OnFailure,
    throttle: Throttle,
    ledger: Arc<Mutex<Ledger>>,
    /// Up to where each receiver has everything.
    receivers: Mutex<BTreeMap<String, Cursor>>,
    /// What each receiver does not take.
    apart: Mutex<BTreeMap<String, Apart>>,
}

/// What a receiver does not take: numbers that wait no longer, and how many there are in all.
#[derive(Debug, Default)]
struct Apart {
    numbers: BTreeMap<(u64, u64), String>,
    /// Not even what stands for them is taken.
    left_out: BTreeSet<(u64, u64)>,
    all: u64,
    /// Where the last of them ends in its file.
    end: u64,
}

/// How far a receiver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `feed`, or kind and name of a foreign repository.
    pub receiver: String,
    /// Records that it has not acknowledged.
    pub waiting: u64,
    /// When the oldest of them was made, to the second; none: nothing waits.
    pub oldest: Option<Timestamp>,
    /// Records that it does not take and that were set apart.
    pub apart: u64,
}

impl AuditSink {
    /// Opens the spool and closes what the last run left open, with outcome 12.
    ///
    /// # Errors
    /// Folder, key, or records of another key.
    pub async fn open(options: &SpoolOptions) -> Result<Self, AuditError> {
        let key = Key::load(&options.key_file)?;
        let folder = Folder::new(&options.dir, &options.limits)?;
        let for_open = (folder.clone(), key.clone());
        // Where an emergency goes on without a record, the log has to have its copy at once.
        let at_once = options.on_failure == OnFailure::AllowAndAlarm;
        let opened = tokio::task::spawn_blocking(move || spool::open(&for_open.0, &for_open.1, at_once))
            .await
            .map_err(|_| AuditError::Stopped)??;
        let inner = Inner {
            site: options.site.clone(),
            folder,
            key,
            queue: opened.queue,
            end: opened.end,
            status: opened.status,
            epoch: opened.epoch,
            on_failure: options.on_failure,
            throttle: Throttle::default(),
            ledger: opened.ledger,
            receivers: Mutex::default(),
            apart: Mutex::default(),
        };
        let sink = Self { inner: Arc::new(inner) };
        let mut missing = None;
        for (intent, decision) in opened.unfinished {
            let outcome =
                Outcome::new(OutcomeIndicator::Major, "ended without an outcome: what was disclosed is not known");
            let records = message::of_exchange(&sink.inner.site, &intent, &decision, &outcome);
            // A full spool is no reason not to start: delivery makes room, and the writer holds the record until then.
            missing = sink.records(Some(intent.exchange_id), records).await.err().or(missing);
        }
        if let Some(error) = missing {
            tracing::error!(reason = %error, "ends of exchanges of the last run are not stored yet");
        }
        Ok(sink)
    }

    /// Starts of this spool so far.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// Whether a receiver takes the `ehdsi` dialect, in which requests leave evidence.
    pub fn keeps_evidence(&self) -> bool {
        self.inner.site.ehdsi
    }

    /// How the spool is.
    pub fn status(&self) -> Status {
        Status { given_up: self.inner.folder.given_up(), ..*self.inner.status.borrow() }
    }

    /// Space that the primary folder's segments take, bytes.
    pub fn used(&self) -> u64 {
        self.inner.folder.used()
    }

    /// How far each receiver is.
    pub fn deliveries(&self) -> Vec<Delivery> {
        let ledger = self.inner.ledger.lock().unwrap_or_else(|p| p.into_inner());
        let receivers = self.inner.receivers.lock().unwrap_or_else(|p| p.into_inner());
        let delivery = |(receiver, cursor): (&String, &Cursor)| {
            let (waiting, oldest) = ledger.after(*cursor);
            let oldest = oldest.and_then(|us| Timestamp::from_microsecond(us).ok());
            let apart = self.apart().get(receiver).map_or(0, |apart| apart.all);
            Delivery { receiver: receiver.clone(), waiting, oldest, apart }
        };
        receivers.iter().map(delivery).collect()
    }

    /// Begins an exchange; resolves when the intent is on disk.
    ///
    /// # Errors
    /// The record could not be stored, and no purpose could allow to go on.
    pub async fn intent(&self, intent: Intent) -> Result<Exchange, AuditError> {
        let intent = intent.bounded();
        let stored = self.write(Item::Intent(intent.clone())).await;
        if stored.is_err() && self.inner.on_failure == OnFailure::DenyExport {
            stored?;
        }
        Ok(Exchange { sink: self.clone(), open: Some((intent, Decision::default())) })
    }

    /// Writes an event that stands alone.
    ///
    /// # Errors
    /// The record could not be stored.
    pub async fn event(&self, event: &Event, exchange_id: &str) -> Result<(), AuditError> {
        let record = message::of_event(&self.inner.site, event, exchange_id, Timestamp::now());
        self.records(None, vec![record]).await
    }

    /// Writes what a caller did who did not authenticate. Such callers cannot fill the spool: beyond a rate, by address
    /// and in all, they are counted, and one record a minute says how many there were.
    ///
    /// # Errors
    /// The record could not be stored.
    pub async fn refused_caller(&self, event: &Event, exchange_id: &str, address: &str) -> Result<(), AuditError> {
        if self.inner.throttle.admit(address) { self.event(event, exchange_id).await } else { Ok(()) }
    }

    async fn records(&self, closes: Option<String>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        self.write(Item::records(closes, records)).await
    }

    async fn write(&self, item: Item) -> Result<(), AuditError> {
        let (done, told) = oneshot::channel();
        self.inner.queue.try_send(Job { item, done }).map_err(|_| AuditError::Stopped)?;
        told.await.map_err(|_| AuditError::Stopped)?
    }

    pub(crate) fn end(&self) -> watch::Receiver<Position> {
        self.inner.end.clone()
    }

    /// Where a receiver stands, and a reader that begins there.
    pub(crate) fn resume(&self, receiver: &str) -> (Cursor, Reader) {
        let cursor = Cursor::load(&self.inner.folder.dir, receiver, self.reach());
        // So that who reads the folder knows of a receiver that has acknowledged nothing yet.
        if let Err(error) = cursor.store(&self.inner.folder.dir, receiver) {
            tracing::warn!(receiver, reason = %error, "how far a receiver is cannot be written");
        }
        let mut receivers = self.inner.receivers.lock().unwrap_or_else(|p| p.into_inner());
        receivers.insert(receiver.to_owned(), cursor);
        drop(receivers);
        let folder = &self.inner.folder;
        folder.set_acknowledged(folder.acknowledged().min(cursor.segment));
        self.load_apart(receiver);
        (cursor, Reader::new(self.inner.folder.clone(), self.inner.key.clone(), cursor.segment))
    }

    /// How far the spool goes.
    fn reach(&self) -> Reach {
        let number = self.inner.ledger.lock().unwrap_or_else(|p| p.into_inner()).end();
        Reach { number, segment: self.inner.end.borrow().segment }
    }

    /// A receiver has everything up to here; what all of them have may go.
    pub(crate) fn delivered(&self, receiver: &str, cursor: Cursor) -> std::io::Result<()> {
        cursor.store(&self.inner.folder.dir, receiver)?;
        let mut receivers = self.inner.receivers.lock().unwrap_or_else(|p| p.into_inner());
        let before = receivers.insert(receiver.to_owned(), cursor);
        if before.is_some_and(|before| before.segment == cursor.segment) {
            return Ok(());
        }
        drop(receivers);
        self.acknowledged();
        let first_open = self.inner.ledger.lock().unwrap_or_else(|p| p.into_inner()).first_open();
        self.inner.folder.prune(self.inner.folder.acknowledged().min(first_open))
    }

    /// Says which segments all receivers have.
    fn acknowledged(&self) {
        let receivers = self.inner.receivers.lock().unwrap_or_else(|p| p.into_inner());
        let least = receivers.values().map(|cursor| cursor.segment).min().unwrap_or(0);
        self.inner.folder.set_acknowledged(least);
    }

    fn apart(&self) -> MutexGuard<'_, BTreeMap<String, Apart>> {
        self.inner.apart.lock().unwrap_or_else(|p| p.into_inner())
    }

    fn load_apart(&self, receiver: &str) {
        let mut apart = self.apart();
        if apart.contains_key(receiver) {
            return;
        }
        match spool::apart::read(&self.inner.folder.dir, &self.inner.key, receiver) {
            Ok((records, end)) => {
                let all = records.len() as u64;
                let numbers = records.into_iter().map(|r| ((r.epoch, r.seq), r.reason)).collect();
                apart.insert(receiver.to_owned(), Apart { numbers, all, end, ..Apart::default() });
            }
            Err(error) => tracing::error!(receiver, reason = %error, "what was set apart cannot be read"),
        }
    }

    /// Sets apart what a receiver does not take, for an operator: encrypted, counted, with an alarm.
    pub(crate) fn set_apart(
        &self,
        receiver: &str,
        outgoing: &Outgoing,
        xml: &str,
        reason: &str,
    ) -> Result<(), AuditError> {
        let (epoch, seq) = (outgoing.epoch, outgoing.seq);
        let known = self.apart().get(receiver).is_some_and(|apart| apart.numbers.contains_key(&(epoch, seq)));
        let mut end = self.apart().get(receiver).map_or(0, |apart| apart.end);
        if known {
            tracing::error!(receiver, epoch, seq, reason, "ALARM: not even a note of the audit record is taken");
        } else {
            let one = SetApart { epoch, seq, at: Timestamp::now(), reason: reason.to_owned(), xml: xml.to_owned() };
            end = spool::apart::add(&self.inner.folder.dir, &self.inner.key, receiver, &one, end)?;
            tracing::error!(receiver, epoch, seq, reason, "ALARM: audit record not taken, set apart");
        }
        let mut apart = self.apart();
        let apart = apart.entry(receiver.to_owned()).or_default();
        if known {
            apart.left_out.insert((epoch, seq));
        } else {
            apart.all += 1;
            apart.end = end;
            apart.numbers.insert((epoch, seq), reason.to_owned());
        }
        Ok(())
    }

    /// The record as a receiver gets it: itself, or what stands for one that was set apart.
    pub(crate) fn for_receiver(&self, receiver: &str, outgoing: Outgoing) -> Outgoing {
        let apart = self.apart();
        let number = (outgoing.epoch, outgoing.seq);
        let Some(apart) = apart.get(receiver) else { return outgoing };
        let Some(reason) = apart.numbers.get(&number) else { return outgoing };
        let record = outgoing.record.stand_in(&self.inner.site, reason);
        Outgoing { record, left_out: apart.left_out.contains(&number), ..outgoing }
    }
}

/// Writes a heartbeat each minute, and what the throttle held back, until the process ends.
pub async fn heartbeat(sink: AuditSink) {
    // All deliveries have been started: a receiver that is no longer configured holds nothing back from now on.
    sink.acknowledged();
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let suppressed = sink.inner.throttle.take().map(|(count, since)| {
            let rule = "calls without a valid token or certificate".to_owned();
            Event::Suppressed { rule, count, since }
        });
        for event in suppressed.into_iter().chain([Event::Heartbeat]) {
            if let Err(error) = sink.event(&event, "").await {
                tracing::error!(reason = %error, "heartbeat not stored");
            }
        }
    }
}

/// An exchange whose intent is on disk. Dropped without an outcome it is closed with outcome 12.
pub struct Exchange {
    sink: AuditSink,
    open: Option<(Intent, Decision)>,
}

impl Exchange {
    /// Writes the decision; resolves when it is on disk. No byte may leave before.
    ///
    /// # Errors
    /// The record could not be stored, and the purpose does not allow to go on all the same ([`OnFailure`]).
    pub async fn decided(&mut self, decision: Decision) -> Result<(), AuditError> {
        let Some((intent, slot)) = &mut self.open else { return Err(AuditError::Stopped) };
        let exchange_id = intent.exchange_id.clone();
        let decision = decision.bounded();
        let emergency = decision.purpose == "EMERGENCY";
        *slot = decision.clone();
        match self.sink.write(Item::Decision { exchange_id, decision }).await {
            Err(error) if emergency && self.sink.inner.on_failure == OnFailure::AllowAndAlarm => {
                tracing::error!(reason = %error, "ALARM: emergency disclosure without a durable audit record");
                Ok(())
            }
            stored => stored,
        }
    }

    /// Writes the outcome and with it the audit message.
    ///
    /// # Errors
    /// The record could not be stored; the writer holds it, and recovery at the next start will say that the end is not
    /// known.
    pub async fn finish(mut self, outcome: Outcome) -> Result<(), AuditError> {
        let Some((intent, decision)) = self.open.take() else { return Err(AuditError::Stopped) };
        let records = message::of_exchange(&self.sink.inner.site, &intent, &decision, &outcome);
        self.sink.records(Some(intent.exchange_id), records).await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some((intent, decision)) = self.open.take() else { return };
        let outcome = Outcome::new(OutcomeIndicator::Major, "ended without an outcome");
        let records = message::of_exchange(&self.sink.inner.site, &intent, &decision, &outcome);
        let item = Item::records(Some(intent.exchange_id), records);
        let (done, _) = oneshot::channel();
        let _ = self.sink.inner.queue.try_send(Job { item, done });
    }
}
