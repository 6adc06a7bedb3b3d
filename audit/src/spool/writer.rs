//! The writer thread: group commit, and what happens when the disk says no.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::watch;

use super::folder::{Folder, Rung, SpoolLevel};
use super::unstored::{Line, Unstored};
use super::{Checkpoint, Item, Job, Ledger, Position, Status};
use crate::AuditError;
use crate::frame::{self, Key};

/// Records of one group at most.
const GROUP: usize = 256;
/// Outcomes that the disk did not take are held for a later group.
const HELD: usize = 10_000;

/// Between two checkpoints within a segment, bytes: a start reads so much in some 60 ms.
const CHECKPOINT: u64 = 16 << 20;
/// How often a spool that takes nothing looks for room, also when no record comes.
const LOOK: Duration = Duration::from_secs(1);

/// The segment that is written.
struct Current {
    file: File,
    capacity: u64,
    rung: Rung,
}

pub(super) struct Writer {
    pub(super) folder: Folder,
    pub(super) key: Key,
    current: Option<Current>,
    at: Position,
    pub(super) epoch: u64,
    next_seq: u64,
    groups: u64,
    /// Where the last checkpoint stands, and where one was tried last.
    noted: Position,
    tried: Position,
    /// The first segment that was needed when the level was last looked at.
    needed: u64,
    /// The last segment may hold half a group under these numbers: no number is given twice.
    renumber: bool,
    /// The epoch before and its last number, for the first records of this one.
    ended: (u64, u64),
    ledger: Arc<Mutex<Ledger>>,
    held: VecDeque<Item>,
    unstored: Unstored,
    tell: watch::Sender<Position>,
    status: watch::Sender<Status>,
}

impl Writer {
    pub(super) fn new(
        (folder, key): (Folder, Key),
        (epoch, ended): (u64, (u64, u64)),
        last_segment: u64,
        ledger: Arc<Mutex<Ledger>>,
        tell: watch::Sender<Position>,
        status: watch::Sender<Status>,
    ) -> Self {
        let at = Position { segment: last_segment, offset: 0 };
        let (held, unstored) = (VecDeque::new(), Unstored::new(HELD));
        Self {
            folder,
            key,
            current: None,
            at,
            epoch,
            next_seq: 1,
            groups: 0,
            noted: at,
            tried: at,
            needed: 0,
            renumber: false,
            ended,
            ledger,
            held,
            unstored,
            tell,
            status,
        }
    }

    /// The last copies of records are told as soon as they are refused, each in a line.
    pub(super) fn tell_at_once(&mut self) {
        self.unstored = Unstored::new(0);
    }

    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        if let Err(error) = self.rotate() {
            tracing::error!(reason = %error, "audit spool takes nothing");
        }
        self.report();
        loop {
            let look = self.current.is_none().then_some(LOOK);
            let next = match self.unstored.wait(Instant::now()).into_iter().chain(look).min() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => jobs.recv_timeout(wait),
            };
            match next {
                Ok(first) => {
                    let mut group = vec![first];
                    group.extend(jobs.try_iter().take(GROUP - 1));
                    self.commit(group);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.current.is_none() && self.rotate().is_ok() {
                        self.commit(Vec::new());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.unstored.line(Instant::now()).iter().for_each(say);
        }
        while let Some(line) = self.unstored.next() {
            say(&line);
        }
        self.close();
        if self.noted != self.at && self.at.offset > 0 {
            self.checkpoint();
        }
    }

    /// The first segment that a receiver or a recovery needs.
    fn needed(&self) -> u64 {
        let first_open = self.ledger.lock().unwrap_or_else(|p| p.into_inner()).first_open();
        self.folder.acknowledged().min(first_open)
    }

    /// Writes a group and makes it durable. A group that the current segment does not take goes to a new one, climbing
    /// the ladder; on failure nothing of it counts.
    fn commit(&mut self, mut group: Vec<Job>) {
        let mut held: Vec<Item> = self.held.drain(..).collect();
        let mut failure = std::io::Error::from(std::io::ErrorKind::StorageFull);
        for _ in 0..3 {
            let before = self.at;
            match self.write(&mut held, &mut group) {
                Ok(()) => {
                    self.groups += 1;
                    self.unstored.stored();
                    let mut ledger = self.ledger.lock().unwrap_or_else(|p| p.into_inner());
                    let items = held.iter().chain(group.iter().map(|job| &job.item));
                    items.for_each(|item| item.note(before, &mut ledger));
                    drop(ledger);
                    self.tell.send_replace(self.at);
                    self.report();
                    for job in group {
                        let _ = job.done.send(Ok(()));
                    }
                    if self.tried.segment != self.at.segment || self.at.offset - self.tried.offset >= CHECKPOINT {
                        self.checkpoint();
                    }
                    return;
                }
                Err(error) => failure = error,
            }
            if self.current.is_none()
                && let Err(error) = self.rotate()
            {
                failure = error;
                break;
            }
        }
        self.unstored.refuse(&failure, group.len());
        self.report();
        for job in group {
            let _ = job.done.send(Err(AuditError::Io(std::io::Error::from(failure.kind()))));
            if matches!(job.item, Item::Records { .. }) {
                self.last_copy(&job.item);
                held.push(job.item);
            }
        }
        let surplus = held.len().saturating_sub(HELD);
        self.held = held.into_iter().skip(surplus).collect();
    }

    fn write(&mut self, held: &mut [Item], group: &mut [Job]) -> std::io::Result<()> {
        let before = self.next_seq;
        let mut bytes = Vec::new();
        for item in held.iter_mut().chain(group.iter_mut().map(|job| &mut job.item)) {
            if let Item::Records { epoch, first_seq, records, ended, .. } = item {
                (*epoch, *first_seq) = (self.epoch, self.next_seq);
                *ended = if self.next_seq == 1 { self.ended } else { (0, 0) };
                self.next_seq += records.len() as u64;
            }
            bytes.extend_from_slice(&frame::seal(&self.key, &item.to_bytes()?)?);
        }
        let full = self
            .current
            .as_ref()
            .is_none_or(|current| self.at.offset > 0 && self.at.offset + bytes.len() as u64 > current.capacity);
        if full {
            self.next_seq = before;
            self.close();
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let Some(current) = &mut self.current else { return Err(std::io::ErrorKind::StorageFull.into()) };
        match current.file.write_all(&bytes).and_then(|()| current.file.sync_data()) {
            Ok(()) => {
                self.at.offset += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.next_seq = before;
                // Half a write must not stand; a file whose sync failed is not written again. Where the cut fails the
                // numbers of this group may be on disk, so that a new epoch begins.
                self.renumber |= current.file.set_len(self.at.offset).and_then(|()| current.file.sync_data()).is_err();
                self.current = None;
                Err(error)
            }
        }
    }

    /// Gives back what a segment reserved and did not use.
    fn close(&mut self) {
        if let Some(current) = self.current.take() {
            let _ = current.file.set_len(self.at.offset);
        }
    }

    /// Writes the ledger down as of what is durable now; where that fails, a start reads more.
    fn checkpoint(&mut self) {
        self.tried = self.at;
        let ledger = self.ledger.lock().unwrap_or_else(|p| p.into_inner()).clone();
        match Checkpoint::new(self.at, ledger).store(&self.folder.dir, &self.key) {
            Ok(()) => self.noted = self.at,
            Err(error) => {
                tracing::warn!(reason = %error, "audit spool: no checkpoint, a start reads from the last one")
            }
        }
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        if self.renumber {
            if self.next_seq > 1 {
                self.ended = (self.epoch, self.next_seq - 1);
            }
            (self.epoch, self.next_seq, self.renumber) = (self.folder.count_epoch(self.epoch)?, 1, false);
        }
        let number = self.at.segment + 1;
        let (file, rung, capacity) = self.folder.begin(number, self.needed())?;
        self.current = Some(Current { file, capacity, rung });
        self.at = Position { segment: number, offset: 0 };
        if rung == Rung::Primary {
            self.folder.hold_reserve();
        }
        self.tell.send_replace(self.at);
        Ok(())
    }

    fn report(&mut self) {
        let rung = self.current.as_ref().map(|c| c.rung);
        let before = *self.status.borrow();
        // Walking the folder for every group would cost more than the group.
        let needed = self.needed();
        let walk = before.segment != self.at.segment || rung.is_none() || needed != self.needed;
        self.needed = needed;
        let level = if walk { self.folder.level(rung, needed) } else { before.level };
        let used = if walk { self.folder.used() } else { before.used };
        if level > before.level {
            match level {
                SpoolLevel::Free => {}
                SpoolLevel::Warning => {
                    tracing::warn!(used, "audit spool: what is not acknowledged takes 70 % of its space")
                }
                _ => tracing::error!(used, level = ?level, "audit spool runs out of space"),
            }
        }
        let (segment, last_seq) = (self.at.segment, self.next_seq - 1);
        let (epoch, groups, given_up) = (self.epoch, self.groups, self.folder.given_up());
        let status = Status { level, used, segment, epoch, last_seq, groups, given_up };
        self.status.send_replace(status);
    }

    /// What no disk takes is in the log at least, encrypted as in the spool; the record is also held in memory.
    fn last_copy(&mut self, item: &Item) {
        let sealed = item.to_bytes().ok().and_then(|plain| frame::seal(&self.key, &plain).ok());
        if let Some(sealed) = sealed {
            self.unstored.keep(STANDARD.encode(sealed));
        }
    }
}

fn say(line: &Line) {
    let Line { reason, refused, copies } = line;
    tracing::error!(reason, refused, last_copies = copies, "audit records not stored");
}
