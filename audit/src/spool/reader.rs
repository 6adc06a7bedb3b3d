//! Reads a spool from a place on and follows its end.

use std::fs::File;
use std::path::PathBuf;

use super::{Cursor, Folder, Item, Position};
use crate::AuditError;
use crate::frame::{self, Key, Next};
use crate::message::AuditRecord;

/// Of longer records fewer are read at once, bytes.
const BATCH: usize = 8 << 20;

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

/// Reads frame by frame.
pub(crate) struct Reader {
    folder: Folder,
    key: Key,
    at: Position,
    open: Option<(PathBuf, File)>,
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
                self.open = Some((path.clone(), File::open(path)?));
            }
            let last = self.at.segment >= until.segment;
            if last && self.at.offset >= until.offset {
                return Ok(None);
            }
            let Some((path, file)) = &mut self.open else { continue };
            match frame::next(file, path, &self.key, self.at.offset)? {
                // What stands beyond is not durable yet.
                Next::Frame(offset, ..) if last && offset >= until.offset => self.at.offset = until.offset,
                Next::Frame(_, plain, next) => {
                    self.at.offset = next;
                    let item = Item::from_bytes(&plain)?;
                    return Ok(Some((self.at.segment, item)));
                }
                Next::End(_) | Next::Torn(_) if last => self.at.offset = until.offset,
                Next::End(_) | Next::Torn(_) => {
                    self.open = None;
                    self.at = Position { segment: self.at.segment + 1, offset: 0 };
                }
            }
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
