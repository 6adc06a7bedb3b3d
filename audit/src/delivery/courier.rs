//! One receiver's share of the spool, and how a record is found that the receiver does not take.
//!
//! Some receivers say so, some fail on it for ever. One that fails again and again on the same record while it takes a later
//! one does not take that record; one that takes nothing is down, and everything waits.

use std::time::Duration;

use tokio::sync::watch;

use crate::AuditError;
use crate::sink::AuditSink;
use crate::spool::{Cursor, Outgoing, Position, Reader};

/// Failures at one place after which the record there is suspected.
const SUSPECT: u32 = 3;
/// Later records that are tried beside a suspected one.
const PROBES: usize = 8;
/// Records read at once.
const READ: usize = 1000;

/// Why records were not taken.
pub(super) enum Failure {
    /// The first of the rest will never be taken.
    Refused(String),
    /// All may be taken later.
    Later(Later),
}

/// A record that the receiver did not take now, and when it is sent again.
pub(super) struct Later {
    pub(super) error: AuditError,
    /// As the receiver asked; none: as the pauses go.
    pub(super) after: Option<Duration>,
}

impl From<AuditError> for Later {
    fn from(error: AuditError) -> Self {
        Self { error, after: None }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::Later(error.into())
    }
}

/// How far a batch went.
pub(super) struct Delivered {
    /// So many need not be sent again.
    pub(super) taken: usize,
    pub(super) end: Result<(), Failure>,
}

/// A repository that acknowledges in its own way.
pub(super) trait Receiver: Send + Sync {
    /// Records between two acknowledgements at most.
    const BATCH: usize;

    /// Under which its cursor is kept.
    fn name(&self) -> String;

    /// Bytes of one record at most.
    fn most(&self) -> usize;

    /// Puts a record into the form in which it is sent, where it was written without.
    fn complete(&self, _: &mut Outgoing) {}

    /// What is sent of a record; none: nothing.
    fn form<'a>(&self, outgoing: &'a Outgoing) -> Option<&'a str>;

    /// Bytes of a record as it is sent.
    fn size(&self, outgoing: &Outgoing) -> usize {
        self.form(outgoing).map_or(0, str::len)
    }

    /// Delivers a batch.
    fn deliver(&self, batch: &[Outgoing]) -> impl Future<Output = Delivered> + Send;
}

/// Carries the spool's records to one receiver.
pub(super) struct Courier<R> {
    pub(super) name: String,
    pub(super) to: R,
    pub(super) sink: AuditSink,
    cursor: Cursor,
    reader: Reader,
    /// Failures since something was taken.
    failures: u32,
    /// No later record could tell a refusal from a receiver that is down.
    alone: bool,
    /// Something was acknowledged since this was last asked.
    progress: bool,
}

impl<R: Receiver> Courier<R> {
    pub(super) fn new(sink: AuditSink, to: R) -> Self {
        let name = to.name();
        let (cursor, reader) = sink.resume(&name);
        Self { name, to, sink, cursor, reader, failures: 0, alone: false, progress: false }
    }

    /// Begins again behind the last record that was taken.
    pub(super) fn resume(&mut self) {
        (self.cursor, self.reader) = self.sink.resume(&self.name);
    }

    /// Whether something was acknowledged since this was last asked: the receiver is there, whatever failed after.
    pub(super) fn progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Reads and delivers what is there; whether there was anything.
    pub(super) async fn carry(&mut self, until: Position) -> Result<bool, Later> {
        let batch = self.reader.records(until, self.cursor, READ)?;
        let mut batch = batch.into_iter().map(|outgoing| self.prepare(outgoing)).collect::<Result<Vec<_>, _>>()?;
        let anything = !batch.is_empty();
        let mut done = 0;
        while done < batch.len() {
            let next = batch.len().min(done + R::BATCH);
            let Delivered { taken, end } = self.to.deliver(&batch[done..next]).await;
            if taken > 0 {
                done += taken;
                self.taken(batch[done - 1].cursor())?;
            }
            match end {
                Ok(()) => {}
                Err(Failure::Refused(reason)) => batch[done] = self.refused(batch[done].clone(), &reason)?,
                Err(Failure::Later(later)) => {
                    self.failures += 1;
                    if self.failures >= SUSPECT && self.single_out(&batch[done..]).await? {
                        // What stands for it is sent from the place that is known.
                        self.resume();
                        return Ok(true);
                    }
                    return Err(later);
                }
            }
        }
        Ok(anything)
    }

    fn taken(&mut self, cursor: Cursor) -> Result<(), AuditError> {
        self.sink.delivered(&self.name, cursor)?;
        (self.failures, self.alone, self.progress) = (0, false, true);
        Ok(())
    }

    /// The record as the receiver takes it: one that is too long is set apart, and what stands for it goes.
    pub(super) fn prepare(&self, outgoing: Outgoing) -> Result<Outgoing, AuditError> {
        let mut outgoing = self.sink.for_receiver(&self.name, outgoing);
        self.to.complete(&mut outgoing);
        let size = self.to.size(&outgoing);
        if size <= self.to.most() {
            return Ok(outgoing);
        }
        let reason = format!("{size} bytes, more than the {} that the receiver takes", self.to.most());
        let outgoing = self.refused(outgoing, &reason)?;
        if self.to.size(&outgoing) <= self.to.most() { Ok(outgoing) } else { self.refused(outgoing, &reason) }
    }

    /// Sets a record apart; returns what goes in its place.
    pub(super) fn refused(&self, outgoing: Outgoing, reason: &str) -> Result<Outgoing, AuditError> {
        let xml = self.to.form(&outgoing).unwrap_or(&outgoing.record.xml);
        self.sink.set_apart(&self.name, &outgoing, xml, reason)?;
        Ok(self.sink.for_receiver(&self.name, outgoing))
    }

    /// Tries the first record alone, then later ones: when one of those is taken and the first still is not, the first is
    /// set apart. Whether there was progress.
    async fn single_out(&mut self, rest: &[Outgoing]) -> Result<bool, AuditError> {
        let Some(first) = rest.iter().position(|outgoing| self.to.form(outgoing).is_some()) else { return Ok(false) };
        if self.alone_taken(rest, first).await? {
            return Ok(true);
        }
        let later = rest.iter().enumerate().skip(first + 1).filter(|(_, outgoing)| self.to.form(outgoing).is_some());
        let later: Vec<usize> = later.map(|(index, _)| index).take(PROBES).collect();
        self.alone = later.is_empty();
        for index in later {
            if self.to.deliver(&rest[index..=index]).await.end.is_ok() {
                // Not only a moment ago: it must fail beside one that is taken.
                if !self.alone_taken(rest, first).await? {
                    let reason = "the receiver fails on it and takes what comes after";
                    self.refused(rest[first].clone(), reason)?;
                    self.failures = 0;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the records up to this one are done, sent by itself.
    async fn alone_taken(&mut self, rest: &[Outgoing], index: usize) -> Result<bool, AuditError> {
        match self.to.deliver(&rest[index..=index]).await.end {
            Ok(()) => self.taken(rest[index].cursor())?,
            Err(Failure::Refused(reason)) => drop(self.refused(rest[index].clone(), &reason)?),
            Err(Failure::Later(_)) => return Ok(false),
        }
        Ok(true)
    }

    /// Pauses; where only a further record can tell what is wrong, it ends the pause.
    pub(super) async fn wait(&self, pause: Duration, end: &mut watch::Receiver<Position>) {
        let further = async {
            tokio::time::sleep(super::SHORTEST_PAUSE.min(pause)).await;
            drop(end.changed().await);
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = further, if self.alone => {}
        }
    }
}
