//! What national codes are known to be: which modality, which body region. Who orders a study knows its region, not the
//! modality that made it: a national procedure code says it, and a manifest has it from the report of its study.

use std::collections::{BTreeMap, HashMap, HashSet};

use ncp_ihe::{Coded, DocumentEntry};

/// Code system of the regions.
pub const SNOMED: &str = "2.16.840.1.113883.6.96";
/// The coarse body regions by which imaging is sought (CID IHE-MADO1; MADO 6.X.6.4).
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
/// Modalities that acquire images (PS3.16 CID 29).
const MODALITIES: [&str; 14] = ["BMD", "CR", "CT", "DX", "MG", "MR", "NM", "PT", "RF", "RG", "US", "XA", "IO", "PX"];
/// Projection X-ray: what a country files as one of these may be stored as another.
const PROJECTION: [&str; 8] = ["CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"];

/// Everything that is asked for: regions, then modalities.
pub(super) fn all() -> Vec<Coded> {
    let modalities = MODALITIES.iter().map(|code| Coded::new(code, Coded::MODALITIES, Some(code)));
    regions().chain(modalities).collect()
}

fn regions() -> impl Iterator<Item = Coded> {
    REGIONS.iter().map(|(code, name)| Coded::new(code, SNOMED, Some(name)))
}

/// Whether it is one of the regions.
pub fn is_region(code: &Coded) -> bool {
    code.system == SNOMED && REGIONS.iter().any(|(region, _)| *region == code.code)
}

type Key = (String, String);

/// What one snapshot says of modalities and regions.
#[derive(Debug, Default)]
pub struct Facets {
    /// Its digest, hex.
    pub(super) snapshot: String,
    regions: HashMap<Key, Vec<Coded>>,
    modalities: HashMap<Key, HashSet<String>>,
}

/// The regions that the procedures of a study's documents say, by study.
#[derive(Debug, Default)]
pub(super) struct Regions(BTreeMap<String, Vec<Coded>>);

impl Facets {
    /// From the national codes that may stand for each of [`all`].
    pub(super) fn new(snapshot: String, found: Vec<Vec<Coded>>) -> Self {
        let mut out = Self { snapshot, ..Self::default() };
        for (asked, codes) in all().into_iter().zip(found) {
            for code in codes.into_iter().filter(|code| !code.same(&asked)) {
                let key = (code.system, code.code);
                if asked.is_modality() {
                    out.modalities.entry(key).or_default().insert(asked.code.clone());
                } else {
                    out.regions.entry(key).or_default().push(asked.clone());
                }
            }
        }
        out
    }

    /// Whether a code is known to be of a modality, and of none that may be stored as one of the asked.
    pub fn is_of_another_modality(&self, code: &Coded, asked: &[Coded]) -> bool {
        let Some(known) = self.modalities.get(&(code.system.clone(), code.code.clone())) else { return false };
        let projection = |modality: &str| PROJECTION.contains(&modality);
        let fits = |modality: &String| {
            asked.iter().any(|a| a.code == *modality || (projection(&a.code) && projection(modality)))
        };
        !known.iter().any(fits)
    }

    /// Whether a code is known to be of a region.
    pub fn has_region(&self, code: &Coded) -> bool {
        self.regions.contains_key(&(code.system.clone(), code.code.clone()))
    }

    /// Learns of an entry which regions its procedures say of its study.
    pub(super) fn learn(&self, entry: &DocumentEntry, regions: &mut Regions) {
        let found = self.regions_of(entry);
        if let Some(study) = entry.study_instance_uid().filter(|_| !found.is_empty()) {
            let known = regions.0.entry(study.to_string()).or_default();
            for region in found {
                if !known.iter().any(|one| one.same(&region)) {
                    known.push(region);
                }
            }
        }
    }

    /// Names the regions of an entry that names none: by its own procedures, else by those of the same study.
    pub(super) fn name(&self, entry: &mut DocumentEntry, regions: &Regions) {
        if entry.event_codes.iter().any(is_region) {
            return;
        }
        let mut found = self.regions_of(entry);
        if found.is_empty()
            && let Some(study) = entry.study_instance_uid()
        {
            found = regions.0.get(study.as_str()).cloned().unwrap_or_default();
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

    fn regions_of(&self, entry: &DocumentEntry) -> Vec<Coded> {
        let codes = entry.event_codes.iter().map(|c| (c.system.clone(), c.code.clone()));
        codes.filter_map(|key| self.regions.get(&key)).flatten().cloned().collect()
    }
}
