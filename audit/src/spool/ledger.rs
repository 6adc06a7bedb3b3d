//! What lies where in the spool, without reading it: how many records a receiver lacks, how old the oldest is, what is open.
//!
//! The ledger is written down now and then and with each segment that is closed ([`Checkpoint`]), so that a start reads
//! only what came after, and the exchanges that were open then, whatever the spool keeps.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Cursor, Position};
use crate::frame::{self, Found, Key};

/// Marks that are kept; when there are more, every second one goes.
const MARKS: usize = 4096;
/// Between two marks, µs.
const APART: i64 = 1_000_000;

/// The last number of each epoch, and when records were made, to the second; coarser when they span hours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    ends: BTreeMap<u64, u64>,
    marks: VecDeque<((u64, u64), i64)>,
    /// Exchanges without an end, and no later than where they began.
    open: BTreeMap<String, Position>,
}

/// The ledger as of a place in the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    version: u32,
    pub(super) at: Position,
    pub(super) ledger: Ledger,
}

impl Checkpoint {
    const VERSION: u32 = 1;
    const NAME: &str = "ledger";

    pub(super) fn new(at: Position, ledger: Ledger) -> Self {
        Self { version: Self::VERSION, at, ledger }
    }

    /// From here on a start must read: what came after, and the exchanges that were open.
    pub(super) fn from(&self) -> Position {
        self.ledger.open.values().copied().min().map_or(self.at, |open| open.min(self.at))
    }

    /// Encrypted as the spool is; a checkpoint that is lost costs a longer start and nothing else.
    pub(super) fn store(&self, dir: &Path, key: &Key) -> std::io::Result<()> {
        let fresh = dir.join("ledger.new");
        let written = std::fs::write(&fresh, frame::seal(key, &serde_json::to_vec(self)?)?)
            .and_then(|()| std::fs::rename(&fresh, dir.join(Self::NAME)));
        if written.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
        written
    }

    /// None where there is none, or none that this release reads.
    pub(super) fn load(dir: &Path, key: &Key) -> Option<Self> {
        let mut file = File::open(dir.join(Self::NAME)).ok()?;
        let Ok(Ok(Found::Frame(plain, _))) = frame::read_at(&mut file, key, 0) else { return None };
        serde_json::from_slice(&plain).ok().filter(|checkpoint: &Self| checkpoint.version == Self::VERSION)
    }
}

impl Ledger {
    /// So many records of an epoch from this number on are in the spool.
    pub(super) fn record(&mut self, epoch: u64, first: u64, count: usize, at_us: i64) {
        let Some(last) = (first + count as u64).checked_sub(1).filter(|_| count > 0) else { return };
        let end = self.ends.entry(epoch).or_default();
        *end = (*end).max(last);
        if self.marks.back().is_none_or(|(_, before)| at_us - before >= APART) {
            self.marks.push_back(((epoch, first), at_us));
        }
        if self.marks.len() > MARKS {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    pub(super) fn begin(&mut self, exchange_id: &str, at: Position) {
        self.open.insert(exchange_id.to_owned(), at);
    }

    pub(super) fn close(&mut self, exchange_id: &str) {
        self.open.remove(exchange_id);
    }

    pub(super) fn keep_open(&mut self, keep: impl Fn(&str) -> bool) {
        self.open.retain(|id, _| keep(id));
    }

    /// The first segment that holds the beginning of an exchange without an end: recovery needs it.
    pub(crate) fn first_open(&self) -> u64 {
        self.open.values().map(|at| at.segment).min().unwrap_or(u64::MAX)
    }

    /// The last epoch that has records, and its last number; zeroes when there is none.
    pub(crate) fn end(&self) -> (u64, u64) {
        self.ends.last_key_value().map_or((0, 0), |(epoch, seq)| (*epoch, *seq))
    }

    /// How many records come after a place, and when the oldest of them was made, µs.
    pub(crate) fn after(&self, cursor: Cursor) -> (u64, Option<i64>) {
        let of_epoch = |(epoch, end): (&u64, &u64)| {
            if *epoch == cursor.epoch { end.saturating_sub(cursor.seq) } else { *end }
        };
        let waiting = self.ends.range(cursor.epoch..).map(of_epoch).sum();
        // Before the first mark beyond the place lie records of the same second as the mark before it.
        let beyond = self.marks.partition_point(|(number, _)| *number <= (cursor.epoch, cursor.seq));
        let mark = self.marks.get(beyond).or(self.marks.back());
        (waiting, mark.map(|(_, at)| *at).filter(|_| waiting > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_records_are_counted_over_epochs_and_marks_stay_few() {
        let mut ledger = Ledger::default();
        for n in 0..10_000u64 {
            ledger.record(1, n + 1, 1, n as i64 * APART);
        }
        ledger.record(3, 1, 5, 20_000 * APART);
        assert!(ledger.marks.len() <= MARKS);
        let cursor = |epoch, seq| Cursor { epoch, seq, segment: 0 };
        assert_eq!(ledger.after(cursor(0, 0)), (10_005, Some(0)));
        let (waiting, oldest) = ledger.after(cursor(1, 9_000));
        assert_eq!(waiting, 1_005);
        let oldest = oldest.expect("something waits") / APART;
        assert!((9_000..9_010).contains(&oldest), "{oldest}");
        assert_eq!(ledger.after(cursor(3, 4)), (1, Some(20_000 * APART)));
        assert_eq!(ledger.after(cursor(3, 5)), (0, None));
        assert_eq!(ledger.end(), (3, 5));
    }
}
