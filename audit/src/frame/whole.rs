//! What stands behind bytes that are no whole frame: the next whole one, wherever it begins, or nothing more.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;

use super::{HEAD, head};

/// A frame's length begins with so many zeros at most.
const ZEROS: usize = 3;

/// What stands from a place on.
pub(super) enum Behind {
    /// The beginning of one frame, or only zeros.
    Torn,
    /// The next frame whose checksum is right, which begins here.
    Frame(u64),
    /// No whole frame up to the end of the file, which is here.
    Nothing(u64),
}

/// Looks for a whole frame at every byte from `offset` on.
pub(super) fn behind(file: &mut File, offset: u64) -> std::io::Result<Behind> {
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(offset))?;
    let mut sums = Sums::new(file.try_clone()?, offset);
    let (mut at, mut found, mut failed) = (offset, None, None);
    // What the first bytes say, and whether any of them says something.
    let (mut begins, mut empty) = (None, true);
    crate::scan(&*file, HEAD, |bytes| {
        let here = at;
        begins.get_or_insert_with(|| (bytes.len() < HEAD, head(bytes)));
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        if zeros > ZEROS {
            at += (zeros - ZEROS) as u64;
            return zeros - ZEROS;
        }
        empty &= bytes[0] == 0;
        at += 1;
        let Some((length, crc)) = head(bytes) else { return 1 };
        match sums.fits(here + HEAD as u64, length as u64, crc, end) {
            Ok(false) => 1,
            Ok(true) => {
                found = Some(here);
                usize::MAX
            }
            Err(error) => {
                failed = Some(error);
                usize::MAX
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(at) = found {
        return Ok(Behind::Frame(at));
    }
    let torn = match begins {
        None | Some((true, _)) => true,
        Some((false, Some((length, _)))) => offset + (HEAD + length) as u64 > end,
        Some((false, None)) => false,
    };
    Ok(if torn || empty { Behind::Torn } else { Behind::Nothing(end) })
}

/// Checksums of what stands from one place on, so that each question costs the same, however long the frame would be.
struct Sums {
    file: File,
    from: u64,
    /// Of the first so many steps.
    sums: Vec<u32>,
}

impl Sums {
    const STEP: usize = 4096;

    fn new(file: File, from: u64) -> Self {
        Self { file, from, sums: vec![0] }
    }

    /// Whether so many bytes from `at` on have this checksum.
    fn fits(&mut self, at: u64, length: u64, crc: u32, end: u64) -> std::io::Result<bool> {
        if at + length > end {
            return Ok(false);
        }
        let mut sum = Hasher::new_with_initial_len(self.to(at)?, at - self.from);
        sum.combine(&Hasher::new_with_initial_len(crc, length));
        Ok(sum.finalize() == self.to(at + length)?)
    }

    /// The checksum of everything before `end`.
    fn to(&mut self, end: u64) -> std::io::Result<u32> {
        let bytes = end - self.from;
        let step = Self::STEP as u64;
        let (steps, rest) = ((bytes / step) as usize, (bytes % step) as usize);
        let mut buffer = [0; Self::STEP];
        while let Some(last) = self.sums.last().filter(|_| self.sums.len() <= steps) {
            self.file.read_exact_at(&mut buffer, self.from + (self.sums.len() - 1) as u64 * step)?;
            let sum = checksum(*last, &buffer);
            self.sums.push(sum);
        }
        self.file.read_exact_at(&mut buffer[..rest], self.from + steps as u64 * step)?;
        Ok(checksum(self.sums[steps], &buffer[..rest]))
    }
}

fn checksum(before: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(before);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::{Key, Next, next, seal};

    fn key() -> Key {
        Key([7; 32])
    }

    /// The contents that are read, and what the end is.
    fn contents(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<u64>) {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("writes");
        let (mut out, mut at) = (Vec::new(), 0);
        loop {
            match next(&mut file, Path::new("x"), &key(), at).expect("reads") {
                Next::Frame(_, plain, end) => (out, at) = ([out, vec![plain]].concat(), end),
                Next::End(_) => return (out, None),
                Next::Torn(at) => return (out, Some(at)),
            }
        }
    }

    fn frames() -> Vec<Vec<u8>> {
        [3, 0, 5000, 40, 300].map(|length| seal(&key(), &vec![9; length]).expect("seals")).to_vec()
    }

    proptest! {
        /// Cut, repeated, flipped or overwritten at any place: each frame that is still whole is read, and nothing else.
        #[test]
        fn se_12_each_whole_frame_is_read_whatever_happened_to_the_others(
            edits in proptest::collection::vec((0..4_u8, 0..6000_usize, 1..300_usize), 1..5),
        ) {
            let frames = frames();
            let mut bytes = frames.concat();
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
            let (read, torn) = contents(&bytes);
            for (length, frame) in [3, 0, 5000, 40, 300].into_iter().zip(&frames) {
                let whole = bytes.windows(frame.len()).any(|window| window == frame);
                prop_assert_eq!(read.contains(&vec![9; length]), whole, "frame of {}", length);
            }
            prop_assert!(read.iter().all(|plain| plain.iter().all(|byte| *byte == 9)));
            // What may be cut holds no whole frame.
            let cut = torn.map_or(&[][..], |at| &bytes[at as usize..]);
            prop_assert!(frames.iter().all(|frame| !cut.windows(frame.len()).any(|window| window == frame)));
        }

        /// However a write is interrupted, what it left may be cut, and nothing before it.
        #[test]
        fn se_12_a_torn_write_is_told_from_damage(cut in 0..400_usize, zeros in 0..20_000_usize) {
            let frames = frames();
            let whole = frames.concat();
            let torn = &seal(&key(), &vec![9; 400]).expect("seals")[..cut];
            let (read, at) = contents(&[&whole, torn].concat());
            prop_assert_eq!((read.len(), at), (5, Some(whole.len() as u64).filter(|_| cut > 0)));
            let (read, at) = contents(&[whole.clone(), vec![0; zeros]].concat());
            prop_assert_eq!((read.len(), at), (5, Some(whole.len() as u64).filter(|_| zeros > 0)));
        }
    }

    /// A frame whose checksum is wrong is no torn one, also where it is the last.
    #[test]
    fn se_12_a_damaged_frame_at_the_end_is_not_cut() {
        let mut bytes = frames().concat();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!((contents(&bytes).0.len(), contents(&bytes).1), (4, None));
    }

    /// However many frames a damaged stretch seems to hold, what stands behind it is read.
    #[test]
    fn se_12_a_long_damage_is_passed() {
        let noise: Vec<u8> = (0..1_u32 << 15).flat_map(|n| (n.wrapping_mul(0x9e37_79b9) >> 14).to_be_bytes()).collect();
        let bytes = [noise, frames().concat()].concat();
        assert_eq!(contents(&bytes).0.len(), 5);
    }
}
