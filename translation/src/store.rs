//! Which snapshot answers: one serves, the one before it is kept, others can be asked for by digest while they are here.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::snapshot::{Snapshot, SnapshotError};
use crate::translate::{Outcome, Query, translate};

/// The snapshot that serves and the one before.
#[derive(Debug)]
struct Loaded {
    serving: Arc<Snapshot>,
    before: Option<Arc<Snapshot>>,
}

/// Snapshots of a running service; a request takes one `Arc` for its whole life.
#[derive(Debug, Clone)]
pub struct Store {
    loaded: Arc<ArcSwap<Loaded>>,
}

/// Why a snapshot is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// It cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It does not answer for its own maps.
    #[error("self-test failed: {0}")]
    SelfTest(String),
}

impl Store {
    /// Starts with a snapshot that has passed its self-test.
    ///
    /// # Errors
    /// [`SwapError::SelfTest`]
    pub fn new(snapshot: Snapshot) -> Result<Self, SwapError> {
        self_test(&snapshot)?;
        let loaded = Loaded { serving: Arc::new(snapshot), before: None };
        Ok(Self { loaded: Arc::new(ArcSwap::from_pointee(loaded)) })
    }

    /// The one that serves.
    pub fn serving(&self) -> Arc<Snapshot> {
        self.loaded.load().serving.clone()
    }

    /// The one with that digest; an empty digest means the one that serves.
    pub fn pinned(&self, digest: &[u8]) -> Option<Arc<Snapshot>> {
        let loaded = self.loaded.load();
        if digest.is_empty() {
            return Some(loaded.serving.clone());
        }
        [Some(&loaded.serving), loaded.before.as_ref()].into_iter().flatten().find(|s| s.digest() == digest).cloned()
    }

    /// Digests that can be asked for.
    pub fn digests(&self) -> Vec<[u8; 32]> {
        let loaded = self.loaded.load();
        [Some(&loaded.serving), loaded.before.as_ref()].into_iter().flatten().map(|s| *s.digest()).collect()
    }

    /// Puts another snapshot in place, after its self-test; the old one goes on serving if that fails.
    ///
    /// # Errors
    /// [`SwapError::SelfTest`]
    pub fn swap(&self, snapshot: Snapshot) -> Result<(), SwapError> {
        self_test(&snapshot)?;
        let loaded = self.loaded.load();
        if loaded.serving.digest() == snapshot.digest() {
            return Ok(());
        }
        let before = Some(loaded.serving.clone());
        self.loaded.store(Arc::new(Loaded { serving: Arc::new(snapshot), before }));
        Ok(())
    }

    /// Opens `<digest>.snapshot` and puts it in place.
    ///
    /// # Errors
    /// A damaged file or a failed self-test; the old snapshot goes on serving.
    pub fn swap_file(&self, path: &Path) -> Result<(), SwapError> {
        self.swap(Snapshot::open(path)?)
    }
}

/// One row of each map must come out by the ordinary way.
///
/// # Errors
/// The map that does not answer.
pub fn self_test(snapshot: &Snapshot) -> Result<(), SwapError> {
    let mut tested = std::collections::HashSet::new();
    for row in snapshot.all_rows() {
        if row.target.is_none()
            || !snapshot.is_current(row.map)
            || snapshot.depends(&row).next().is_some()
            || !tested.insert(row.map)
        {
            continue;
        }
        let info = snapshot.map(row.map);
        let canonical =
            if info.version.is_empty() { info.url.to_owned() } else { format!("{}|{}", info.url, info.version) };
        let query = Query {
            system: snapshot.system_name(snapshot.system_of(row.source)),
            version: "",
            code: snapshot.code(row.source),
            target_system: "",
            map: &canonical,
            context: &[],
            allowed: crate::relationship::Allowed::ALL,
        };
        let answered = translate(snapshot, &query).is_ok_and(|a| {
            !matches!(a.outcome, Outcome::AlreadyTarget)
                && a.matches.iter().chain(&a.rejected).any(|m| m.concept == row.target)
        });
        if !answered {
            return Err(SwapError::SelfTest(canonical));
        }
    }
    Ok(())
}
