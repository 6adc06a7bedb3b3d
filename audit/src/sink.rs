//! What the gateway holds: the sink, and one [`Exchange`] per exchange.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use crate::AuditError;
use crate::event::{Decision, Event, Intent, Outcome, OutcomeIndicator};
use crate::frame::Key;
use crate::message::{self, AuditRecord, Site};
use crate::spool::{self, Item, Job, Position};

/// Where the spool is and who writes it.
#[derive(Debug, Clone)]
pub struct SpoolOptions {
    /// Folder.
    pub dir: PathBuf,
    /// 32 bytes in hex, mode 0600.
    pub key_file: PathBuf,
    /// Who.
    pub site: Site,
}

/// The way into the trail; clones share it.
#[derive(Clone)]
pub struct AuditSink {
    inner: Arc<Inner>,
}

struct Inner {
    site: Site,
    dir: PathBuf,
    key: Key,
    queue: mpsc::SyncSender<Job>,
    end: watch::Receiver<Position>,
    epoch: u64,
}

impl AuditSink {
    /// Opens the spool and closes what the last run left open, with outcome 12.
    ///
    /// # Errors
    /// Folder, key, or records of another key.
    pub async fn open(options: &SpoolOptions) -> Result<Self, AuditError> {
        let key = Key::load(&options.key_file)?;
        let (dir, for_open) = (options.dir.clone(), key.clone());
        let opened = tokio::task::spawn_blocking(move || spool::open(&dir, &for_open))
            .await
            .map_err(|_| AuditError::Stopped)??;
        let inner = Inner {
            site: options.site.clone(),
            dir: options.dir.clone(),
            key,
            queue: opened.queue,
            end: opened.end,
            epoch: opened.epoch,
        };
        drop(opened.thread);
        let sink = Self { inner: Arc::new(inner) };
        for (intent, decision) in opened.unfinished {
            let outcome =
                Outcome::new(OutcomeIndicator::Major, "ended without an outcome: what was disclosed is not known");
            let records = message::of_exchange(&sink.inner.site, &intent, &decision, &outcome);
            sink.records(Some(intent.exchange_id), records).await?;
        }
        Ok(sink)
    }

    /// Starts of this spool so far.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// Begins an exchange; resolves when the intent is on disk.
    ///
    /// # Errors
    /// The record could not be stored.
    pub async fn intent(&self, intent: Intent) -> Result<Exchange, AuditError> {
        self.write(Item::Intent(intent.clone())).await?;
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

    async fn records(&self, closes: Option<String>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        self.write(Item::Records { closes, epoch: 0, first_seq: 0, records }).await
    }

    async fn write(&self, item: Item) -> Result<(), AuditError> {
        let (done, told) = oneshot::channel();
        self.inner.queue.try_send(Job { item, done }).map_err(|_| AuditError::Stopped)?;
        told.await.map_err(|_| AuditError::Stopped)?
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.inner.dir
    }

    pub(crate) fn key(&self) -> &Key {
        &self.inner.key
    }

    pub(crate) fn end(&self) -> watch::Receiver<Position> {
        self.inner.end.clone()
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
    /// The record could not be stored.
    pub async fn decided(&mut self, decision: Decision) -> Result<(), AuditError> {
        let Some((intent, slot)) = &mut self.open else { return Err(AuditError::Stopped) };
        let exchange_id = intent.exchange_id.clone();
        *slot = decision.clone();
        self.sink.write(Item::Decision { exchange_id, decision }).await
    }

    /// Writes the outcome and with it the audit message.
    ///
    /// # Errors
    /// The record could not be stored; recovery at the next start will say that the end is not known.
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
        let item = Item::Records { closes: Some(intent.exchange_id), epoch: 0, first_seq: 0, records };
        let (done, _) = oneshot::channel();
        let _ = self.sink.inner.queue.try_send(Job { item, done });
    }
}
