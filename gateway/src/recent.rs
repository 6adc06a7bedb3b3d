//! What was looked up a moment ago: a study is asked for in batches, and each would otherwise list it anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer may be used: longer than between two batches, too short to hide a change for long.
const LIFE: Duration = Duration::from_secs(60);
/// Entries, and units (instances) in all of them.
const ENTRIES: usize = 64;
const UNITS: usize = 200_000;

/// A small store of recent answers, newest last.
pub(crate) struct Recent<K, V> {
    life: Duration,
    entries: Mutex<VecDeque<Entry<K, V>>>,
}

struct Entry<K, V> {
    key: K,
    value: Arc<V>,
    units: usize,
    at: Instant,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self::lasting(LIFE)
    }
}

impl<K, V> Recent<K, V> {
    /// Of answers that may be used for so long.
    pub(crate) fn lasting(life: Duration) -> Self {
        Self { life, entries: Mutex::default() }
    }
}

impl<K: PartialEq, V> Recent<K, V> {
    /// An answer that is young enough.
    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries.iter().find(|e| e.key == *key && e.at.elapsed() < self.life)?;
        Some(found.value.clone())
    }

    /// Keeps an answer of that many units; the oldest go when there are too many.
    pub(crate) fn put(&self, key: K, value: Arc<V>, units: usize) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|e| e.key != key && e.at.elapsed() < self.life);
        entries.push_back(Entry { key, value, units, at: Instant::now() });
        while entries.len() > ENTRIES || entries.iter().map(|e| e.units).sum::<usize>() > UNITS {
            entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let recent = Recent::default();
        for key in 0..=ENTRIES {
            recent.put(key, Arc::new(key), 1);
        }
        assert_eq!(recent.get(&0), None);
        assert_eq!(recent.get(&ENTRIES), Some(Arc::new(ENTRIES)));
        recent.put(1000, Arc::new(1000), UNITS + 1);
        assert_eq!(recent.get(&1000), None);
        assert_eq!(recent.get(&ENTRIES), None);
    }
}
