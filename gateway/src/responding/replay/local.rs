//! The memory of one process. A journal beside it lets a restart forget nothing: 72 bytes an entry, written without
//! waiting for the disk, read and shortened at start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;

use super::{Binding, ReplayError};

/// Live entries kept.
const CAPACITY: usize = 500_000;
/// Key, value, end in seconds.
const RECORD: usize = 72;

/// Bindings by key.
pub struct Local {
    inner: Mutex<Inner>,
}

type Entries = HashMap<[u8; 32], ([u8; 32], i64)>;

struct Inner {
    entries: Entries,
    journal: File,
}

impl Local {
    /// Reads the journal, drops what is over, and writes the rest anew.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub fn open(journal: &Path) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("replay journal {}: {e}", journal.display());
        let now = Timestamp::now().as_second();
        if let Some(folder) = journal.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let mut bytes = Vec::new();
        match File::open(journal) {
            Ok(file) => drop(file.take((CAPACITY * RECORD * 4) as u64).read_to_end(&mut bytes).map_err(failed)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let mut entries = HashMap::new();
        for record in bytes.as_chunks::<RECORD>().0 {
            let (Ok(key), Ok(to), Ok(end)) =
                (record[..32].try_into(), record[32..64].try_into(), record[64..].try_into())
            else {
                continue;
            };
            let end = i64::from_be_bytes(end);
            if end > now && entries.len() < CAPACITY {
                entries.entry(key).or_insert((to, end));
            }
        }
        let fresh = journal.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
        let all: Vec<u8> = entries.iter().flat_map(|(key, (to, end))| record(key, to, *end)).collect();
        file.write_all(&all).map_err(failed)?;
        std::fs::rename(&fresh, journal).map_err(failed)?;
        Ok(Self { inner: Mutex::new(Inner { entries, journal: file }) })
    }

    /// Binds all or refuses; for each whether it was new.
    pub(super) fn bind(&self, bindings: &[Binding], now: Timestamp) -> Result<Vec<bool>, ReplayError> {
        let now = now.as_second();
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Inner { entries, journal } = &mut *inner;
        // Nothing is noted of a message of which one part is refused.
        fitting(entries, bindings, now)?;
        if entries.len() + bindings.len() > CAPACITY {
            entries.retain(|_, (_, end)| *end > now);
            if entries.len() + bindings.len() > CAPACITY {
                return Err(ReplayError::Full);
            }
        }
        let (mut new, mut written) = (Vec::with_capacity(bindings.len()), Vec::new());
        for binding in bindings {
            let end = binding.until.as_second();
            let fresh = match entries.entry(binding.key) {
                Entry::Occupied(slot) if slot.get().1 > now => false,
                Entry::Occupied(mut slot) => {
                    slot.insert((binding.to, end));
                    true
                }
                Entry::Vacant(slot) => {
                    slot.insert((binding.to, end));
                    true
                }
            };
            if fresh {
                written.extend_from_slice(&record(&binding.key, &binding.to, end));
            }
            new.push(fresh);
        }
        if !written.is_empty()
            && let Err(error) = journal.write_all(&written)
        {
            tracing::error!(reason = %error, "replay journal cannot be written");
            return Err(ReplayError::Full);
        }
        Ok(new)
    }

    /// Refuses what is bound otherwise here, and notes nothing.
    pub(super) fn check(&self, bindings: &[Binding], now: Timestamp) -> Result<(), ReplayError> {
        let inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        fitting(&inner.entries, bindings, now.as_second())
    }

    /// Whether a key is bound here.
    pub(super) fn knows(&self, binding: &Binding, now: Timestamp) -> bool {
        let inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inner.entries.get(&binding.key).is_some_and(|(_, end)| *end > now.as_second())
    }
}

fn fitting(entries: &Entries, bindings: &[Binding], now: i64) -> Result<(), ReplayError> {
    let other = |b: &&Binding| entries.get(&b.key).is_some_and(|(to, end)| *end > now && *to != b.to);
    bindings.iter().find(other).map_or(Ok(()), |binding| Err(binding.refused()))
}

fn record(key: &[u8; 32], to: &[u8; 32], end: i64) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..32].copy_from_slice(key);
    out[32..64].copy_from_slice(to);
    out[64..].copy_from_slice(&end.to_be_bytes());
    out
}
