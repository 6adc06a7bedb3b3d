//! What is good once in this process and the next one, in a memory like that of the bindings: a journal survives a restart,
//! and nobody holds more of it than what is free.

use std::path::Path;

use jiff::Timestamp;

use super::{Binding, Local, ReplayError, digest};

/// Ids that were used.
pub struct Once(Local);

impl Once {
    /// Opens the journal, with so many bytes of memory.
    ///
    /// # Errors
    /// The journal cannot be read, or another process has it.
    pub fn open(journal: &Path, bytes: usize) -> Result<Self, String> {
        Ok(Self(Local::within(journal, bytes)?))
    }

    #[cfg(test)]
    pub(crate) fn with_capacity(journal: &Path, capacity: usize) -> Result<Self, String> {
        Ok(Self(Local::with_capacity(journal, capacity)?))
    }

    /// Uses an id, which is remembered until then, in the share of whoever uses it.
    ///
    /// # Errors
    /// [`ReplayError::DuplicateMessageId`]: it was used before. [`ReplayError::Full`]: the share is taken, or the journal
    /// cannot be written.
    pub fn take(&self, of: &str, id: &[&str], until: Timestamp, now: Timestamp) -> Result<(), ReplayError> {
        // Bound to nothing that could come again. The log names shares, and no persons.
        let to = digest(&[&uuid::Uuid::new_v4().to_string()]);
        let key = digest(id);
        let binding = Binding { by_issuer: key, by_id: key, to, until, issued: None };
        self.0.bind(&hex::encode(&digest(&["share", of])[..4]), &[binding], now).map(drop)
    }
}
