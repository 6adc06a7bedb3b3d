//! Up to where a receiver has everything: a file for each in the spool's folder.
//!
//! A cursor that is behind only makes records come twice; one that is ahead would hide them for ever. It holds where its
//! checksum is right and the spool reaches so far; else the receiver gets everything that the spool still has.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "delivered-";

/// Up to where a receiver has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Cursor {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) segment: u64,
}

/// How far the spool goes: its last number and its last segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    pub(crate) number: (u64, u64),
    pub(crate) segment: u64,
}

impl Cursor {
    /// The beginning where there is none, and, with an error in the log, where it cannot be believed.
    pub(crate) fn load(dir: &Path, receiver: &str, reach: Reach) -> Self {
        let file = file(dir, receiver);
        let (cursor, reason) = match std::fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::default(),
            Err(error) => (None, error.to_string()),
            Ok(text) => (Self::read(&text), "damaged".to_owned()),
        };
        let Some(cursor) = cursor else {
            tracing::error!(receiver, file = %file.display(), reason, "what a receiver has is not known: all is sent");
            return Self::default();
        };
        if !cursor.is_within(reach) {
            let Self { epoch, seq, segment } = cursor;
            let reason = "it is beyond the end of the spool";
            tracing::error!(receiver, file = %file.display(), epoch, seq, segment, reason, "all is sent again");
            return Self::default();
        }
        cursor
    }

    fn is_within(self, reach: Reach) -> bool {
        (self.epoch, self.seq) <= reach.number && self.segment <= reach.segment
    }

    /// The names of the receivers of this folder.
    pub(super) fn receivers(dir: &Path) -> std::io::Result<Vec<String>> {
        let names = std::fs::read_dir(dir)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let receivers = names.filter_map(|name| name.strip_prefix(PREFIX).map(str::to_owned));
        Ok(receivers.filter(|receiver| !receiver.ends_with(".new")).collect())
    }

    /// The first segment that some receiver of this folder still needs; 0 where there is no receiver.
    pub(super) fn least(dir: &Path, reach: Reach) -> std::io::Result<u64> {
        let cursors = Self::receivers(dir)?.into_iter().map(|receiver| Self::load(dir, &receiver, reach).segment);
        Ok(cursors.min().unwrap_or(0))
    }

    /// Written in its place: so few bytes lie in one sector, and are there or not.
    pub(crate) fn store(self, dir: &Path, receiver: &str) -> std::io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).open(file(dir, receiver))?;
        file.write_all_at(self.line().as_bytes(), 0)
    }

    /// Three numbers, as releases before 0.2 read them too, and their checksum.
    fn line(self) -> String {
        let numbers = format!("{:020} {:020} {:020}", self.epoch, self.seq, self.segment);
        format!("{numbers} {:08x}\n", crc32fast::hash(numbers.as_bytes()))
    }

    /// A release before 0.2 wrote no checksum, and its line may stand over ours. Every number has twenty digits: a line of ours
    /// that a damaged byte ends early is none of that release.
    fn read(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&text[..end]).ok()?;
        let is_number = |text: &str| text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &str| is_number(text).then(|| text.parse().ok())?;
        let parts: Vec<&str> = line.split(' ').collect();
        let [epoch, seq, segment, checksum @ ..] = parts.as_slice() else { return None };
        let cursor = Self { epoch: number(epoch)?, seq: number(seq)?, segment: number(segment)? };
        (checksum.is_empty() || text == cursor.line().as_bytes()).then_some(cursor)
    }
}

fn file(dir: &Path, receiver: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{receiver}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REACH: Reach = Reach { number: (12, 1320), segment: 7 };

    fn loaded(text: &[u8]) -> Cursor {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("delivered-feed"), text).expect("writes");
        Cursor::load(dir.path(), "feed", REACH)
    }

    proptest! {
        /// Whatever becomes of any byte, and wherever it is cut: the place that was written, or everything is sent.
        #[test]
        fn se_12_a_damaged_cursor_hides_nothing(
            epoch in 1..=12_u64, seq in 1..=1320_u64, segment in 1..=7_u64, place in 0..72_usize, byte: u8, cut in 0..72_usize,
        ) {
            let cursor = Cursor { epoch, seq, segment };
            let line = cursor.line();
            prop_assert_eq!(loaded(line.as_bytes()), cursor);
            let mut damaged = line.clone().into_bytes();
            damaged[place] = byte;
            let read = loaded(&damaged);
            prop_assert!(read == cursor || read == Cursor::default(), "{:?}", read);
            let read = loaded(&line.as_bytes()[..cut]);
            prop_assert!(read == cursor || read == Cursor::default(), "{:?}", read);
        }
    }

    /// The line of the last release holds where the spool reaches so far, also where it was written over a line of ours.
    #[test]
    fn se_12_the_cursor_of_the_last_release_is_read() {
        let of_0_1 = |epoch: u64| format!("{epoch:020} {:020} {:020}\n", 1320, 2);
        let cursor = Cursor { epoch: 1, seq: 1320, segment: 2 };
        assert_eq!(loaded(of_0_1(1).as_bytes()), cursor);
        let ours = Cursor { epoch: 1, seq: 900, segment: 1 }.line();
        assert_eq!(loaded(&[of_0_1(1).as_bytes(), &ours.as_bytes()[63..]].concat()), cursor);
        // Our line, ended within its third number; one bit of the epoch; a character that is no digit.
        let mut early = ours.clone().into_bytes();
        early[43] = b'\n';
        assert_eq!(loaded(&early), Cursor::default());
        assert_eq!(loaded(of_0_1(19).as_bytes()), Cursor::default());
        assert_eq!(loaded(of_0_1(1).replacen('1', "x", 1).as_bytes()), Cursor::default());
        // Where it goes back, the numbers are read from our line.
        let numbers: Vec<u64> = ours.split_whitespace().filter_map(|n| n.parse().ok()).take(3).collect();
        assert_eq!(numbers, [1, 900, 1]);
    }

    #[test]
    fn se_12_a_cursor_beyond_the_end_of_the_spool_is_not_believed() {
        for (epoch, seq, segment) in [(13, 1, 7), (12, 1321, 7), (12, 1320, 8)] {
            assert_eq!(loaded(Cursor { epoch, seq, segment }.line().as_bytes()), Cursor::default());
        }
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Cursor::load(dir.path(), "feed", REACH), Cursor::default(), "there is none yet");
    }
}
