//! Codes that had no target, counted: (system, code) only, never a patient, never a metric label.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Different codes that are counted; more are counted together under an empty code.
const MOST: usize = 100_000;

/// Counts in memory, written to `state_dir` now and then.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    counts: Arc<Mutex<HashMap<(String, String), u64>>>,
}

impl Counters {
    /// Counts one. Codes longer than 64 bytes are no codes and are not kept.
    pub fn unmapped(&self, system: &str, code: &str) {
        let Ok(mut counts) = self.counts.lock() else { return };
        let key =
            (system.to_owned(), if code.len() > 64 || system.len() > 256 { String::new() } else { code.to_owned() });
        let key = if counts.len() >= MOST && !counts.contains_key(&key) { (String::new(), String::new()) } else { key };
        *counts.entry(key).or_default() += 1;
    }

    /// The most frequent.
    pub fn most(&self, count: usize) -> Vec<(String, String, u64)> {
        let Ok(counts) = self.counts.lock() else { return Vec::new() };
        let mut all: Vec<_> = counts.iter().map(|((s, c), n)| (s.clone(), c.clone(), *n)).collect();
        all.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| (&a.0, &a.1).cmp(&(&b.0, &b.1))));
        all.truncate(count);
        all
    }

    /// Reads what was written before.
    pub fn load(&self, folder: &Path) {
        let Ok(text) = std::fs::read_to_string(folder.join("unmapped.tsv")) else { return };
        let Ok(mut counts) = self.counts.lock() else { return };
        for line in text.lines().take(MOST) {
            let mut fields = line.split('\t');
            let (Some(system), Some(code), Some(Ok(n))) =
                (fields.next(), fields.next(), fields.next().map(str::parse::<u64>))
            else {
                continue;
            };
            *counts.entry((system.to_owned(), code.to_owned())).or_default() += n;
        }
    }

    /// Writes them, whole or not at all.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, folder: &Path) -> std::io::Result<()> {
        let clean = |t: &str| t.replace(['\t', '\n', '\r'], " ");
        let lines: String =
            self.most(MOST).iter().map(|(s, c, n)| format!("{}\t{}\t{n}\n", clean(s), clean(c))).collect();
        std::fs::create_dir_all(folder)?;
        let draft = folder.join(".unmapped.tsv");
        std::fs::write(&draft, lines)?;
        std::fs::rename(draft, folder.join("unmapped.tsv"))
    }
}
