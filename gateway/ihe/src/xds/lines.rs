//! How a list of documents is shown: a line for each, a translation and its original as one.

use std::collections::HashMap;

use super::metadata::{Association, DocumentEntry, RegistryObjects};

/// A document that is shown, and the original that is reached from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line<'a> {
    /// The document.
    pub shown: &'a DocumentEntry,
    /// What it was made of.
    pub original: Option<&'a DocumentEntry>,
}

impl RegistryObjects {
    /// The lines of those entries that are wanted. An XFRM of another country says what it was made to say, so it hides
    /// an entry only behind a line that is itself shown: every wanted entry is shown, or is the original of a line.
    ///
    /// An association of an entry with itself says nothing (OpenNCP gives one to each entry). A manifest and a report are
    /// no two forms of one document, so neither hides the other.
    pub fn lines(&self, wanted: impl Fn(&DocumentEntry) -> bool) -> Vec<Line<'_>> {
        let entries = &self.entries;
        let mut places: HashMap<&str, Option<usize>> = HashMap::with_capacity(entries.len());
        for (place, entry) in entries.iter().enumerate() {
            // An entryUUID that is given twice names nobody.
            places.entry(&entry.entry_uuid).and_modify(|known| *known = None).or_insert(Some(place));
        }
        let place = |uuid: &str| places.get(uuid).copied().flatten();
        let mut original_of = vec![None; entries.len()];
        let mut is_original = vec![false; entries.len()];
        for association in self.associations.iter().filter(|a| a.is(Association::XFRM)) {
            let ends = place(&association.source).zip(place(&association.target));
            let Some((made, original)) = ends.filter(|(made, original)| made != original) else { continue };
            if entries[made].is_manifest() || entries[original].is_manifest() {
                continue;
            }
            original_of[made].get_or_insert(original);
            is_original[original] = true;
        }
        // What is an original itself is no line to hide behind: of a chain or a cycle everything is shown.
        let original_of = |made: usize| original_of[made].filter(|_| !is_original[made]);
        let mut hidden = vec![false; entries.len()];
        for (made, _) in entries.iter().enumerate().filter(|(_, entry)| wanted(entry)) {
            if let Some(original) = original_of(made) {
                hidden[original] = true;
            }
        }
        let shown = entries.iter().enumerate().filter(|(place, entry)| !hidden[*place] && wanted(entry));
        shown.map(|(place, shown)| Line { shown, original: original_of(place).map(|at| &entries[at]) }).collect()
    }
}
