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
    #[inline]
    pub(crate) fn words(&self) -> &[u32] {
        match &self.kind {
            Kind::Built(words) => words,
            Kind::File(map) => bytemuck::try_cast_slice(map).unwrap_or_default(),
        }
    }
}
