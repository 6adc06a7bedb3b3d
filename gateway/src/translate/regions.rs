//! The coarse body regions by which imaging is sought (CID IHE-MADO1). Who orders a study knows its region, not the
//! modality that made it: a national procedure code says it, and a manifest has it from the report of its study.

use std::collections::{BTreeMap, HashMap};

use ncp_ihe::{Coded, DocumentEntry};

/// Code system of the regions.
const SNOMED: &str = "2.16.840.1.113883.6.96";
/// MADO 6.X.6.4.
const REGIONS: [(&str, &str); 10] = [
    ("63337009", "Lower trunk"),
    ("38266002", "Entire body"),
    ("53120007", "Upper limb"),
    ("61685007", "Lower limb"),
    ("67734004", "Upper trunk"),
    ("774007", "Head and neck"),
    ("113257007", "Cardiovascular system"),
    ("80891009", "Heart"),
    ("76752008", "Breast"),
    ("1141981001", "Vertebral column"),
];

/// All regions.
pub(super) fn all() -> Vec<Coded> {
    REGIONS.iter().map(|(code, name)| Coded::new(code, SNOMED, Some(name))).collect()
}

/// What national codes say of regions, by one snapshot.
pub(super) struct Regions {
    /// Its digest, hex.
    pub(super) snapshot: String,
    of: HashMap<(String, String), Vec<Coded>>,
}

impl Regions {
    /// From the national codes that may stand for each of [`all`].
    pub(super) fn new(snapshot: String, found: Vec<Vec<Coded>>) -> Self {
        let mut of: HashMap<(String, String), Vec<Coded>> = HashMap::new();
        for (region, codes) in all().into_iter().zip(found) {
            for code in codes.into_iter().filter(|code| !code.same(&region)) {
                of.entry((code.system, code.code)).or_default().push(region.clone());
            }
        }
        Self { snapshot, of }
    }

    /// Names the regions of entries that name none: by their own procedures, else by those of the same study.
    pub(super) fn name(&self, entries: &mut [DocumentEntry]) {
        let of = |entry: &DocumentEntry| -> Vec<Coded> {
            let codes = entry.event_codes.iter().map(|c| (c.system.clone(), c.code.clone()));
            codes.filter_map(|key| self.of.get(&key)).flatten().cloned().collect()
        };
        let mut by_study: BTreeMap<String, Vec<Coded>> = BTreeMap::new();
        for entry in entries.iter() {
            if let Some(study) = entry.study_instance_uid() {
                by_study.entry(study.to_string()).or_default().extend(of(entry));
            }
        }
        for entry in entries {
            let named = |code: &Coded| code.system == SNOMED && REGIONS.iter().any(|(region, _)| *region == code.code);
            if entry.event_codes.iter().any(named) {
                continue;
            }
            let mut found = of(entry);
            if found.is_empty()
                && let Some(study) = entry.study_instance_uid()
            {
                found = by_study.get(study.as_str()).cloned().unwrap_or_default();
            }
            let before = entry.event_codes.len();
            for region in found {
                if !entry.event_codes.iter().any(|known| known.same(&region)) {
                    entry.event_codes.push(region);
                }
            }
            let slot = "urn:ncp:terminology-snapshot";
            if entry.event_codes.len() > before && !entry.extra_slots.iter().any(|(name, _)| name == slot) {
                entry.extra_slots.push((slot.to_owned(), vec![self.snapshot.clone()]));
            }
        }
    }
}
