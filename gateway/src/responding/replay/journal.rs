//! The journal of one process's bindings, from which a restart takes them up again.
//!
//! `"ncpr" | version u8 | length u16 | crc32 u32 | content`, big-endian, one record after another. A record that is torn or
//! damaged makes only itself unreadable: behind it the reader looks for the next whole one at every byte. Records are
//! written without waiting for the disk: they survive the process, and all but the last moments survive the machine.
//! The file is written anew without what is over, at start and as it grows, so that its length has a bound.
//!
//! Version 1 knows keys by id alone; in version 2 a key may name the issuer too, which a reader of version 1 would look up in
//! vain. Releases before 0.2 wrote another file; where it is there it is read and kept up too ([`Bare`]).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::bare::Bare;
use super::{Key, Written};

const MARK: [u8; 4] = *b"ncpr";
const VERSION: u8 = 2;
/// Mark, version, length, checksum.
const HEAD: usize = 11;
/// Key, value, owner, end in seconds.
const CONTENT: usize = 80;
/// A record of this version.
pub(super) const RECORD: usize = HEAD + CONTENT;
/// Content of a record of any version at most.
const LONGEST: usize = 1024;
/// By so much the file grows beyond twice its live records before it is written anew, bytes.
const GROWTH: u64 = 16 << 20;
/// Read at once.
const CHUNK: usize = 1 << 20;

/// A binding as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) key: Key,
    pub(super) to: [u8; 32],
    /// Whose share it takes; 0 where a release before 0.2 wrote it.
    pub(super) owner: u64,
    /// Second after which it is forgotten.
    pub(super) end: i64,
}

impl Kept {
    /// Appends the record.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&MARK);
        out.push(VERSION);
        out.extend_from_slice(&(CONTENT as u16).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.to);
        out.extend_from_slice(&self.owner.to_be_bytes());
        out.extend_from_slice(&self.end.to_be_bytes());
        let checksum = checksum(&out[begin..begin + 7], &out[begin + HEAD..]);
        out[begin + 7..begin + HEAD].copy_from_slice(&checksum.to_be_bytes());
    }

    fn read(content: &[u8]) -> Option<Self> {
        let (key, rest) = content.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (owner, rest) = rest.split_first_chunk()?;
        let (key, to, owner) = (*key, *to, u64::from_be_bytes(*owner));
        Some(Self { key, to, owner, end: i64::from_be_bytes(rest.try_into().ok()?) })
    }
}

/// The file that is written, and the lock that keeps a second process from it.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// From this length on it is to be written anew.
    limit: u64,
    /// While another thread writes it anew: the records that came since, as they also stand in the present file.
    since: Option<Vec<u8>>,
    /// What the last release reads.
    bare: Option<Bare>,
    /// Everything that was read at the start stands in the file.
    is_whole: bool,
    _lock: File,
}

impl Journal {
    /// Locks the journal, hands every whole record to `keep`, and opens it for more.
    ///
    /// # Errors
    /// Another process has it; it cannot be read; it holds records of a later release.
    pub(super) fn open(journal: &Path, now: i64, mut keep: impl FnMut(Kept)) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("replay journal {}: {e}", journal.display());
        if let Some(folder) = journal.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let lock = ncp_audit::lock(&journal.with_extension("lock")).map_err(failed)?;
        let path = journal.with_extension("bindings");
        // This form first: it knows whose the bindings are.
        if let Some(file) = present(&path).map_err(failed)? {
            read(file, &mut keep).map_err(failed)?;
        }
        let bare = Bare::open(journal, now, keep).map_err(failed)?;
        let file = options().append(true).open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Self { path, file, bytes, limit: 0, since: None, bare, is_whole: false, _lock: lock })
    }

    /// Adds bindings; on failure none of them counts.
    pub(super) fn append(&mut self, bindings: &[Kept], now: i64) -> std::io::Result<()> {
        if let Some(bare) = &mut self.bare {
            bare.append(bindings, now)?;
        }
        let mut records = Vec::new();
        bindings.iter().for_each(|kept| kept.write(&mut records));
        if let Err(error) = self.file.write_all(&records) {
            // Where the cut fails too, a torn record remains, which the reader passes over.
            let _ = self.file.set_len(self.bytes);
            if let Some(bare) = &mut self.bare {
                bare.take_back(bindings.len());
            }
            return Err(error);
        }
        self.bytes += records.len() as u64;
        if let Some(since) = &mut self.since {
            since.extend_from_slice(&records);
        }
        Ok(())
    }

    /// Which keys it is to get: those of the last release while that may read them.
    pub(super) fn written(&self) -> Written {
        if self.bare.is_some() { Written::ById } else { Written::ByIssuer }
    }

    /// Removes what the last release reads; whether there was something.
    pub(super) fn give_up_the_way_back(&mut self) -> std::io::Result<bool> {
        if !self.is_whole {
            return Err(std::io::Error::other("its bindings cannot be written into the new form"));
        }
        self.bare.take().map_or(Ok(false), |bare| bare.remove().map(|()| true))
    }

    /// Makes every write fail, as a full disk does.
    #[cfg(test)]
    pub(super) fn close_for_writing(&mut self) {
        self.file = File::open(&self.path).expect("opens");
    }

    /// Whether so much of it is over that it is to be written anew; once said, it waits for [`Self::replace`].
    pub(super) fn is_long(&self) -> bool {
        self.since.is_none() && self.bytes > self.limit
    }

    /// From here on [`Self::append`] also notes what comes, until [`Self::replace`]. Returns where the live records are to
    /// be written.
    pub(super) fn begin_anew(&mut self) -> PathBuf {
        self.since = Some(Vec::new());
        self.path.with_extension("new")
    }

    /// Puts a file that [`write_new`] made, and what came since, in the place of this one. When that fails, the present
    /// file goes on, which lacks nothing.
    pub(super) fn replace(&mut self, fresh: std::io::Result<File>) {
        let since = self.since.take().unwrap_or_default();
        let replaced = fresh.and_then(|mut file| {
            file.write_all(&since)?;
            let bytes = file.metadata()?.len();
            std::fs::rename(self.path.with_extension("new"), &self.path)?;
            Ok((file, bytes))
        });
        match replaced {
            Ok((file, bytes)) => {
                (self.file, self.bytes, self.limit, self.is_whole) = (file, bytes, bytes * 2 + GROWTH, true);
            }
            Err(error) => {
                self.limit = self.bytes + GROWTH;
                tracing::warn!(reason = %error, bytes = self.bytes, "replay journal cannot be shortened");
            }
        }
    }
}

/// Writes records into a new file that is to become the journal; durable when this returns.
pub(super) fn write_new(path: &Path, records: &[u8]) -> std::io::Result<File> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let written = options().append(true).open(path).and_then(|mut file| {
        file.write_all(records)?;
        file.sync_all()?;
        Ok(file)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).mode(0o600);
    options
}

pub(super) fn present(path: &Path) -> std::io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

fn checksum(head: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(content);
    hasher.finalize()
}

/// The record that begins here, if it is whole: its version and its content.
fn whole(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let [a, b, c, d, version, high, low, sum @ ..] = *head;
    if [a, b, c, d] != MARK {
        return None;
    }
    let content = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    (content.len() <= LONGEST && u32::from_be_bytes(sum) == checksum(&head[..7], content)).then_some((version, content))
}

fn read(file: File, mut keep: impl FnMut(Kept)) -> std::io::Result<()> {
    let (mut later, mut unread) = (false, 0_u64);
    scan(file, HEAD + LONGEST, |bytes| match whole(bytes) {
        Some((1..=VERSION, content)) if content.len() == CONTENT => {
            Kept::read(content).into_iter().for_each(&mut keep);
            HEAD + CONTENT
        }
        Some(_) => {
            later = true;
            bytes.len()
        }
        None => {
            unread += 1;
            1
        }
    })?;
    if later {
        return Err(std::io::Error::other("it holds records of a later release"));
    }
    if unread > 0 {
        tracing::error!(bytes = unread, "replay journal is damaged; all its whole records are in force");
    }
    Ok(())
}

/// Shows a file piece by piece: `step` sees at least `least` bytes, fewer only at the end, and says how many it is done
/// with.
pub(super) fn scan(mut file: impl Read, least: usize, mut step: impl FnMut(&[u8]) -> usize) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let more = file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
        let mut at = 0;
        while at < buffer.len() && (more == 0 || buffer.len() - at >= least) {
            at += step(&buffer[at..]).max(1);
        }
        buffer.drain(..at.min(buffer.len()));
        if more == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(number: u8) -> Kept {
        Kept { key: [number; 32], to: [number ^ 0x5a; 32], owner: u64::from(number), end: 4_000_000_000 }
    }

    fn found(bytes: &[u8]) -> Vec<u8> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("writes");
        std::io::Seek::rewind(&mut file).expect("rewinds");
        let mut out = Vec::new();
        read(file, |found| {
            assert_eq!(found, kept(found.key[0]), "nothing is read that was not written");
            out.push(found.key[0]);
        })
        .expect("reads");
        out
    }

    fn contains(bytes: &[u8], record: &[u8]) -> bool {
        bytes.windows(record.len()).any(|window| window == record)
    }

    proptest! {
        /// Cut, repeated, flipped or overwritten at any place: each record that is still whole is read, and nothing else.
        #[test]
        fn se_12_each_whole_record_is_read_whatever_happened_to_the_others(
            edits in proptest::collection::vec((0..4_u8, 0..2000_usize, 1..300_usize), 1..6),
        ) {
            let records: Vec<Vec<u8>> = (1..=20).map(|number| {
                let mut out = Vec::new();
                kept(number).write(&mut out);
                out
            }).collect();
            let mut bytes = records.concat();
            for (kind, at, length) in edits {
                let at = at % bytes.len().max(1);
                let end = bytes.len().min(at + length);
                match kind {
                    0 => drop(bytes.drain(at..end)),
                    1 => {
                        let again = bytes[at..end].to_vec();
                        bytes.splice(end..end, again);
                    }
                    2 => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << (length % 8)),
                    _ => bytes[at..end].fill(length as u8),
                }
            }
            let found = found(&bytes);
            for (number, record) in (1..).zip(&records) {
                prop_assert_eq!(found.contains(&number), contains(&bytes, record), "record {}", number);
            }
        }
    }

    #[test]
    fn a_record_of_a_later_release_is_not_passed_over() {
        let mut bytes = Vec::new();
        kept(1).write(&mut bytes);
        bytes[4] = VERSION + 1;
        let sum = checksum(&bytes[..7], &bytes[HEAD..]);
        bytes[7..HEAD].copy_from_slice(&sum.to_be_bytes());
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("replay.bindings"), bytes).expect("writes");
        let opened = Journal::open(&dir.path().join("replay.journal"), 0, drop);
        assert!(opened.is_err_and(|error| error.contains("later release")));
    }
}
