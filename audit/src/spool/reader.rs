//! Reads a spool from a place on and follows its end; and where each receiver stands.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Folder, Item, Position};
use crate::AuditError;
use crate::frame::{self, Found, Key};
use crate::message::AuditRecord;

/// Of longer records fewer are read at once, bytes.
const BATCH: usize = 8 << 20;

/// Of the files that say where receivers stand.
const PREFIX: &str = "delivered-";

/// A record on its way to a receiver.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// Where it lies.
    pub(crate) segment: u64,
    pub(crate) record: AuditRecord,
    /// With the first record of an epoch: the epoch before and its last number.
    pub(crate) ended: (u64, u64),
    /// The receiver takes not even what stands for it.
    pub(crate) left_out: bool,
}

impl Outgoing {
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, seq: self.seq, segment: self.segment }
    }
}

/// Up to where a receiver has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Cursor {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) segment: u64,
}

impl Cursor {
    /// Only a hint: from a stale one records are sent again, which the receiver knows or stores twice.
    pub(crate) fn load(dir: &Path, receiver: &str) -> Self {
        let text = std::fs::read_to_string(file(dir, receiver)).unwrap_or_default();
        let mut numbers = text.split_whitespace().filter_map(|n| n.parse().ok());
        let mut next = || numbers.next().unwrap_or(0);
        Self { epoch: next(), seq: next(), segment: next() }
    }

    /// The first segment that some receiver of this folder still needs; 0 where there is no receiver.
    pub(super) fn least(dir: &Path) -> std::io::Result<u64> {
        let names = std::fs::read_dir(dir)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let cursors =
            names.filter_map(|name| name.strip_prefix(PREFIX).map(|receiver| Self::load(dir, receiver).segment));
        Ok(cursors.min().unwrap_or(0))
    }

    /// Written in its place: so few bytes lie in one sector, and are there or not.
    pub(crate) fn store(self, dir: &Path, receiver: &str) -> std::io::Result<()> {
        let text = format!("{:020} {:020} {:020}\n", self.epoch, self.seq, self.segment);
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(file(dir, receiver))?
            .write_all_at(text.as_bytes(), 0)
    }
}

fn file(dir: &Path, receiver: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{receiver}"))
}

/// Reads frame by frame.
pub(crate) struct Reader {
    folder: Folder,
    key: Key,
    at: Position,
    open: Option<File>,
}

impl Reader {
    /// Begins at the first segment that is not before `segment`.
    pub(crate) fn new(folder: Folder, key: Key, segment: u64) -> Self {
        Self { folder, key, at: Position { segment, offset: 0 }, open: None }
    }

    /// The next item that lies before `until`.
    pub(crate) fn next(&mut self, until: Position) -> Result<Option<(u64, Item)>, AuditError> {
        loop {
            if self.open.is_none() {
                let segments = self.folder.segments()?;
                let next = segments.into_iter().find(|(n, _)| *n >= self.at.segment && *n <= until.segment);
                let Some((number, path)) = next else { return Ok(None) };
                if number != self.at.segment {
                    self.at = Position { segment: number, offset: 0 };
                }
                self.open = Some(File::open(path)?);
            }
            let last = self.at.segment >= until.segment;
            if last && self.at.offset >= until.offset {
                return Ok(None);
            }
            let Some(file) = &mut self.open else { continue };
            match frame::read_at(file, &self.key, self.at.offset)?.map_err(|()| AuditError::OtherKey)? {
                Found::Frame(plain, next) => {
                    self.at.offset = next;
                    let item = Item::from_bytes(&plain)?;
                    return Ok(Some((self.at.segment, item)));
                }
                Found::End | Found::Torn if last => return Ok(None),
                Found::End => {}
                Found::Torn => {
                    let (segment, offset) = (self.at.segment, self.at.offset);
                    tracing::error!(segment, offset, "spool segment is damaged, what follows in it is not read");
                }
            }
            self.open = None;
            self.at = Position { segment: self.at.segment + 1, offset: 0 };
        }
    }

    /// Records after `cursor`, some `most` of them, fewer when they are long.
    pub(crate) fn records(
        &mut self,
        until: Position,
        cursor: Cursor,
        most: usize,
    ) -> Result<Vec<Outgoing>, AuditError> {
        let mut out: Vec<Outgoing> = Vec::new();
        let mut bytes = 0;
        while out.len() < most
            && bytes < BATCH
            && let Some((segment, item)) = self.next(until)?
        {
            let Item::Records { epoch, first_seq, records, ended, .. } = item else { continue };
            let numbered = records.into_iter().enumerate().map(|(index, record)| (first_seq + index as u64, record));
            let fresh = numbered.filter(|(seq, _)| (epoch, *seq) > (cursor.epoch, cursor.seq));
            out.extend(fresh.map(|(seq, record)| {
                bytes += record.xml.len() + record.ehdsi.as_ref().map_or(0, String::len);
                let ended = if seq == 1 { ended } else { (0, 0) };
                Outgoing { epoch, seq, segment, record, ended, left_out: false }
            }));
        }
        Ok(out)
    }
}
