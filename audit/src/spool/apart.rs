//! What a receiver does not take: kept in the spool's folder, a file for each receiver, encrypted as the spool is.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::AuditError;
use crate::frame::{self, Key, Next};

const PREFIX: &str = "dead-letters-";

/// A record that was set apart. As `Debug` it shows nothing of its message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetApart {
    /// Its number; 0 where a release before 0.2 set it apart.
    pub epoch: u64,
    /// Its number within the epoch.
    pub seq: u64,
    /// When it was set apart.
    pub at: Timestamp,
    /// Why, in words that hold nothing of it.
    pub reason: String,
    /// The message as this receiver would have had it.
    pub xml: String,
}

impl std::fmt::Debug for SetApart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { epoch, seq, at, reason, xml } = self;
        write!(f, "SetApart({epoch}/{seq} {at} {reason} xml[{}])", xml.len())
    }
}

impl SetApart {
    fn read(plain: Vec<u8>) -> Self {
        serde_json::from_slice(&plain).unwrap_or_else(|_| Self {
            epoch: 0,
            seq: 0,
            at: Timestamp::UNIX_EPOCH,
            reason: String::new(),
            xml: String::from_utf8_lossy(&plain).into_owned(),
        })
    }
}

fn path(dir: &Path, receiver: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{receiver}"))
}

/// Receivers that have set something apart.
pub(crate) fn receivers(dir: &Path) -> std::io::Result<Vec<String>> {
    let names = std::fs::read_dir(dir)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut out: Vec<String> = names.filter_map(|name| name.strip_prefix(PREFIX).map(str::to_owned)).collect();
    out.sort();
    Ok(out)
}

/// All that was set apart for a receiver, oldest first, and where the next may be written.
pub(crate) fn read(dir: &Path, key: &Key, receiver: &str) -> Result<(Vec<SetApart>, u64), AuditError> {
    let path = path(dir, receiver);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        file => file?,
    };
    let (mut out, mut offset) = (Vec::new(), 0);
    loop {
        match frame::next(&mut file, &path, key, offset)? {
            Next::Frame(_, plain, next) => {
                out.push(SetApart::read(plain));
                offset = next;
            }
            Next::End(end) | Next::Torn(end) => return Ok((out, end)),
        }
    }
}

/// Adds one behind the others, which end at `end` as far as the caller knows; durable when this returns. The answer is
/// where it ends.
pub(crate) fn add(dir: &Path, key: &Key, receiver: &str, one: &SetApart, end: u64) -> Result<u64, AuditError> {
    let mut file = OpenOptions::new().create(true).append(true).open(path(dir, receiver))?;
    let mut end = end;
    // What another start, a torn write or an operator left is looked at; else nothing of the file is read.
    if file.metadata()?.len() != end {
        end = read(dir, key, receiver)?.1;
        file.set_len(end)?;
    }
    let sealed = frame::seal(key, &serde_json::to_vec(one).map_err(std::io::Error::other)?)?;
    if let Err(error) = file.write_all(&sealed).and_then(|()| file.sync_data()) {
        // A frame behind a torn one would never be read; where the cut fails too, the next one looks.
        let _ = file.set_len(end);
        return Err(error.into());
    }
    if end == 0 {
        File::open(dir)?.sync_all()?;
    }
    Ok(end + sealed.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    struct Folder(tempfile::TempDir, Key);

    impl Folder {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let file = dir.path().join("key");
            let mut key = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).expect("a file");
            key.write_all("07".repeat(32).as_bytes()).expect("writes");
            let key = Key::load(&file).expect("a key");
            Self(dir, key)
        }

        fn add(&self, seq: u64, end: u64) -> u64 {
            let (at, reason, xml) = (Timestamp::UNIX_EPOCH, "why".into(), "<AuditMessage/>".into());
            let one = SetApart { epoch: 1, seq, at, reason, xml };
            add(self.0.path(), &self.1, "feed", &one, end).expect("adds")
        }

        fn seqs(&self) -> Vec<u64> {
            let (all, _) = read(self.0.path(), &self.1, "feed").expect("reads");
            all.iter().map(|one| one.seq).collect()
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(path(self.0.path(), "feed")).expect("reads")
        }

        fn write(&self, bytes: &[u8]) {
            std::fs::write(path(self.0.path(), "feed"), bytes).expect("writes");
        }
    }

    /// A thousand letters are a thousand frames written; what stands before them is not read again.
    #[test]
    fn a_letter_is_appended_and_nothing_before_it_is_read() {
        let folder = Folder::new();
        let first = folder.add(1, 0);
        let end = folder.add(2, first);
        let (whole, mut bytes) = (folder.bytes(), folder.bytes());
        assert_eq!((folder.seqs(), bytes.len() as u64), (vec![1, 2], end));
        // Whoever read the last frame again would find it torn, and cut it.
        bytes[first as usize] = 1;
        folder.write(&bytes);
        let after = folder.add(3, end);
        let third = folder.bytes().split_off(end as usize);
        folder.write(&[whole, third].concat());
        assert_eq!(folder.seqs(), [1, 2, 3]);
        assert_eq!(folder.bytes().len() as u64, after);
    }

    /// After a start, a torn write, or an operator's hand the file is looked at first, and no letter is lost.
    #[test]
    fn what_stands_there_is_kept_whatever_became_of_it() {
        let folder = Folder::new();
        let end = folder.add(2, folder.add(1, 0));
        let whole = folder.bytes();
        // Another start, that knows nothing yet.
        folder.add(3, 0);
        assert_eq!(folder.seqs(), [1, 2, 3]);
        folder.write(&[&whole[..], &[0, 0, 1]].concat());
        folder.add(4, end);
        assert_eq!(folder.seqs(), [1, 2, 4], "a torn tail is cut");
        std::fs::remove_file(path(folder.0.path(), "feed")).expect("removes");
        let one = folder.add(5, end);
        assert_eq!(folder.seqs(), [5], "an operator took the file");
        // One byte of the first is damaged: of its length, of its content.
        for place in [1, 20] {
            let mut damaged = [folder.bytes(), whole.clone()].concat();
            damaged[place] ^= 1;
            folder.write(&damaged);
            folder.add(6, one);
            assert_eq!(folder.seqs().split_off(folder.seqs().len() - 3), [1, 2, 6], "what is whole stays");
            assert_eq!(folder.bytes()[..damaged.len()], damaged, "nothing is cut");
        }
    }
}
