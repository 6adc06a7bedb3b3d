//! The words of a snapshot: a file mapped into memory, or built in this process. The only place with `unsafe`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use memmap2::Mmap;

/// Little-endian 32-bit words of a snapshot; immutable.
#[derive(Debug)]
pub(crate) struct Words {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(Mmap),
    Built(Vec<u32>),
}

impl Words {
    /// Takes words that were built in this process.
    pub(crate) fn built(words: Vec<u32>) -> Self {
        Self { kind: Kind::Built(words) }
    }

    /// Hashes a file, then maps the same open file. Returns the words and their SHA-256.
    ///
    /// The hash is made by reading, not through the mapping, so that a large snapshot does not become resident.
    ///
    /// # Errors
    /// Of the file system; a length that is no multiple of four is invalid data.
    pub(crate) fn open(path: &Path) -> std::io::Result<(Self, [u8; 32])> {
        let mut file = File::open(path)?;
        let mut hash = openssl::sha::Sha256::new();
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        // SAFETY: the mapping is private and read-only, and its bytes are only read as integers, for which every bit
        // pattern is valid; text is checked when it is read. Snapshots are written once under the name of their digest
        // and never changed; a file that is cut short by force would end the process, not corrupt it.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file)? };
        if bytemuck::try_cast_slice::<u8, u32>(&map).is_err() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "length is no multiple of four"));
        }
        Ok((Self { kind: Kind::File(map) }, hash.finish()))
    }

    /// The words.
    pub(crate) fn words(&self) -> &[u32] {
        match &self.kind {
            Kind::Built(words) => words,
            Kind::File(map) => bytemuck::try_cast_slice(map).unwrap_or_default(),
        }
    }

    /// Finds these ranges, as first word and count, once and for all; `None` if one lies outside.
    pub(crate) fn cut<const N: usize>(self, ranges: &[(usize, usize); N]) -> Option<Cut<N>> {
        let mut parts = [std::ptr::from_ref::<[u32]>(&[]); N];
        for (part, (first, count)) in parts.iter_mut().zip(ranges) {
            *part = std::ptr::from_ref(self.words().get(*first..first.checked_add(*count)?)?);
        }
        Some(Cut { _words: self, parts })
    }
}

/// Words that were cut into parts, so that a look-up need not find them again.
#[derive(Debug)]
pub(crate) struct Cut<const N: usize> {
    /// Kept alive, never handed out.
    _words: Words,
    /// Parts of it.
    parts: [*const [u32]; N],
}

impl<const N: usize> Cut<N> {
    /// One part.
    #[inline]
    pub(crate) fn part(&self, index: usize) -> &[u32] {
        // SAFETY: the parts were taken from slices of `_words`, which is owned by `self` and neither changed nor dropped
        // before it. Its bytes do not move with it: they lie on the heap or in the mapping. The reference lives as long as
        // the borrow of `self`.
        #[allow(unsafe_code)]
        unsafe {
            &*self.parts[index]
        }
    }
}

// SAFETY: a shared view of immutable memory that `Words` owns; `Words` itself is `Send` and `Sync`.
#[allow(unsafe_code)]
unsafe impl<const N: usize> Send for Cut<N> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<const N: usize> Sync for Cut<N> {}
