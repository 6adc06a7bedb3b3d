//! The journal as releases before 0.2 read and write it: 72 bytes a record, without version and checksum.
//!
//! Where there is one it is kept up beside the new journal, so that a way back to such a release forgets nothing, and what
//! that release adds is read here when this one comes again. [`migrate`](super::migrate) removes it; then there is no way
//! back.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::journal::{Kept, present, scan, write_new};

/// Key, value, end in seconds.
const RECORD: usize = 72;
/// What those releases wrote as an end, seconds since 1970.
const ENDS: std::ops::Range<i64> = 1_600_000_000..1 << 33;
/// By so much the file grows beyond twice its live records before it is written anew, bytes; those releases read 144 MB.
const GROWTH: u64 = 16 << 20;

pub(super) struct Bare {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// From this length on it is to be written anew.
    limit: u64,
}

impl Bare {
    /// Hands every record to `keep` and opens the file for more; none where there is none.
    pub(super) fn open(path: &Path, now: i64, mut keep: impl FnMut(Kept)) -> std::io::Result<Option<Self>> {
        let Some(file) = present(path)? else { return Ok(None) };
        let mut live = Vec::new();
        read(file, &mut |kept| {
            add(&mut live, &kept, now);
            keep(kept);
        })?;
        let file = OpenOptions::new().append(true).open(path)?;
        let bytes = file.metadata()?.len();
        let mut bare = Self { path: path.to_owned(), file, bytes, limit: 0 };
        bare.replace(Ok(live));
        Ok(Some(bare))
    }

    /// Adds records; on failure none of them counts.
    pub(super) fn append(&mut self, records: &[Kept], now: i64) -> std::io::Result<()> {
        if self.bytes > self.limit {
            self.write_anew(now);
        }
        let bytes: Vec<u8> = records.iter().flat_map(record).collect();
        if let Err(error) = self.file.write_all(&bytes) {
            self.cut();
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// The last records do not count after all.
    pub(super) fn take_back(&mut self, records: usize) {
        self.bytes = self.bytes.saturating_sub((records * RECORD) as u64);
        self.cut();
    }

    fn cut(&self) {
        if let Err(error) = self.file.set_len(self.bytes) {
            tracing::warn!(reason = %error, "replay journal of the last release cannot be cut");
        }
    }

    fn write_anew(&mut self, now: i64) {
        let mut live = Vec::new();
        let reading = File::open(&self.path).and_then(|file| read(file, &mut |kept| add(&mut live, &kept, now)));
        self.replace(reading.map(|()| live));
    }

    /// Writes what is in force into a new file; when that fails, the present one goes on, which lacks nothing.
    fn replace(&mut self, live: std::io::Result<Vec<u8>>) {
        let fresh = self.path.with_extension("journal-new");
        let replaced = live.and_then(|live| {
            let file = write_new(&fresh, &live)?;
            std::fs::rename(&fresh, &self.path)?;
            Ok((file, live.len() as u64))
        });
        match replaced {
            Ok((file, bytes)) => (self.file, self.bytes, self.limit) = (file, bytes, bytes * 2 + GROWTH),
            Err(error) => {
                self.limit = self.bytes + GROWTH;
                tracing::warn!(reason = %error, "replay journal of the last release cannot be shortened");
            }
        }
    }

    pub(super) fn remove(self) -> std::io::Result<()> {
        std::fs::remove_file(self.path)
    }
}

fn record(kept: &Kept) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..32].copy_from_slice(&kept.key);
    out[32..64].copy_from_slice(&kept.to);
    out[64..].copy_from_slice(&kept.end.to_be_bytes());
    out
}

/// Adds what is in force.
fn add(live: &mut Vec<u8>, kept: &Kept, now: i64) {
    if kept.end > now {
        live.extend_from_slice(&record(kept));
    }
}

/// The records have no checksum: what shows one is an end that can be one.
fn read(file: File, keep: &mut impl FnMut(Kept)) -> std::io::Result<()> {
    let record = |bytes: &[u8]| {
        let (key, rest) = bytes.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (end, _) = rest.split_first_chunk()?;
        let end = i64::from_be_bytes(*end);
        ENDS.contains(&end).then_some(Kept { key: *key, to: *to, owner: 0, end })
    };
    scan(file, RECORD, |bytes| {
        record(bytes).map_or(1, |kept| {
            keep(kept);
            RECORD
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jiff::Timestamp;

    use super::super::journal::Journal;
    use super::super::tests::hcp;
    use super::super::{Claims, HcpClaim, Memory, ReplayError, ReplaySet, Seen, migrate};
    use super::*;

    /// Five professionals' bindings as 0.1 wrote them; they end in the year 2096.
    const RECORDED: &[u8] = include_bytes!("../../../../tests/fixtures/releases/replay-0.1.journal");

    type Entries = HashMap<[u8; 32], ([u8; 32], i64)>;

    /// How 0.1 reads its journal at the start.
    fn read_by_0_1(journal: &Path, now: i64) -> Entries {
        const CAPACITY: usize = 500_000;
        let mut bytes = std::fs::read(journal).unwrap_or_default();
        bytes.truncate(CAPACITY * RECORD * 4);
        let mut entries = HashMap::new();
        for record in bytes.as_chunks::<RECORD>().0 {
            let end = i64::from_be_bytes(record[64..].try_into().expect("8 bytes"));
            if end > now && entries.len() < CAPACITY {
                let (key, to) = (record[..32].try_into(), record[32..64].try_into());
                entries.entry(key.expect("32 bytes")).or_insert((to.expect("32 bytes"), end));
            }
        }
        entries
    }

    async fn ask(set: &ReplaySet, id: &str, subject: &str) -> Result<Seen, ReplayError> {
        let now = Timestamp::now();
        let expires = Timestamp::from_second(4_000_000_000).expect("in range");
        let hcp = HcpClaim { issued: now, expires, subject, ..hcp(id) };
        set.admit(&Claims { peer: "FI", hcp, trc: None, message: None }, now).await
    }

    /// From 0.1 here, back, and here again: each release knows what the other bound. After [`migrate`] there is the new form
    /// alone, which lacks nothing.
    #[tokio::test]
    async fn se_12_the_way_from_the_last_release_and_back_forgets_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("replay.journal");
        let memory = Memory::Local(journal.clone());
        let now = Timestamp::now().as_second();
        std::fs::write(&journal, RECORDED).expect("writes");
        let before = read_by_0_1(&journal, now);
        assert_eq!(before.len(), 5);
        let set = ReplaySet::open(&memory).expect("opens");
        for id in ["_1", "_2", "_3", "_4", "_5"] {
            assert_eq!(ask(&set, id, "u2").await, Err(ReplayError::Rebound), "{id} was bound by 0.1");
            ask(&set, id, "u1").await.expect("its own use");
        }
        ask(&set, "_here", "u1").await.expect("first use");
        drop(set);
        let back = read_by_0_1(&journal, now);
        assert!(back.len() == 6 && before.iter().all(|entry| back.get(entry.0) == Some(entry.1)));
        // What 0.1 binds meanwhile, and a write that was interrupted.
        let there = kept(9);
        let written = [std::fs::read(&journal).expect("reads"), record(&there).to_vec(), vec![7; 31]].concat();
        std::fs::write(&journal, written).expect("writes");

        let set = ReplaySet::open(&memory).expect("opens");
        for id in ["_1", "_here"] {
            assert_eq!(ask(&set, id, "u2").await, Err(ReplayError::Rebound), "{id}");
        }
        ask(&set, "_again", "u1").await.expect("first use");
        assert_eq!(set.fill().entries, 8);
        drop(set);
        assert_eq!(read_by_0_1(&journal, now).get(&there.key), Some(&(there.to, there.end)));
        assert_eq!(read_by_0_1(&journal, now).len(), 8);

        assert_eq!(migrate(&memory).await, Ok((8, true)));
        assert!(!journal.exists(), "one form");
        assert_eq!(migrate(&memory).await, Ok((8, false)));
        let set = ReplaySet::open(&memory).expect("opens");
        for id in ["_1", "_here", "_again"] {
            assert_eq!(ask(&set, id, "u2").await, Err(ReplayError::Rebound), "{id}");
        }
        drop(set);
        assert!(!journal.exists(), "the old form does not come back");
    }

    fn kept(number: u8) -> Kept {
        Kept { key: [number; 32], to: [number ^ 0x5a; 32], owner: 0, end: 4_000_000_000 }
    }

    fn found(bytes: &[u8]) -> Vec<Kept> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("replay.journal");
        std::fs::write(&path, bytes).expect("writes");
        let mut out = Vec::new();
        Bare::open(&path, 0, |kept| out.push(kept)).expect("opens");
        out
    }

    /// The form has no marks; it is read behind a torn record all the same.
    #[test]
    fn se_12_the_form_of_the_last_release_is_read_behind_a_torn_record() {
        let of = |number| record(&kept(number)).to_vec();
        let torn = [of(1), vec![7; 31], of(2), of(3), vec![9; 40]].concat();
        assert_eq!(found(&torn), [1, 2, 3].map(kept));
    }

    /// It is written anew as it grows, and keeps what is in force.
    #[test]
    fn se_12_the_form_of_the_last_release_stays_under_a_bound() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("replay.journal");
        std::fs::write(&path, record(&kept(1))).expect("writes");
        let mut bare = Bare::open(&path, 0, drop).expect("opens").expect("is there");
        let over = vec![Kept { end: 1_700_000_000, ..kept(2) }; 10_000];
        let mut longest = 0;
        for _ in 0..60 {
            bare.append(&over, 1_700_000_001).expect("writes");
            longest = longest.max(std::fs::metadata(&path).expect("a file").len());
        }
        assert!(longest < 20 << 20, "{longest} bytes");
        let live = read_by_0_1(&path, 1_700_000_001);
        assert_eq!(live.into_keys().collect::<Vec<_>>(), [kept(1).key]);
    }

    /// What does not count in the one journal does not in the other.
    #[test]
    fn se_12_what_one_form_does_not_take_the_other_does_not_have() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("replay.journal");
        std::fs::write(&path, RECORDED).expect("writes");
        let mut journal = Journal::open(&path, 0, drop).expect("opens");
        journal.append(&[kept(3)], 0).expect("writes");
        journal.close_for_writing();
        assert!(journal.append(&[kept(4)], 0).is_err());
        let live = read_by_0_1(&path, 0);
        assert!(live.len() == 6 && live.contains_key(&kept(3).key), "{} bindings", live.len());
    }
}
