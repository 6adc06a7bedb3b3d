//! Filters of a query by codes that a country words in its own way.
//!
//! A filter in European codes takes every national code that may stand for one of them, also where the map is not exact:
//! a document that is not found is the clinical hazard. Afterwards what the entry itself says counts: one that names its
//! modalities is not found for another modality because its specialty or procedure might have used it. One that names none
//! is found for those that its specialty may stand for (a CT department for CT).

use std::collections::BTreeSet;

use ncp_ihe::{Coded, DocumentEntry, RegistryObjects, StoredQuery};

use crate::translate::{TranslationError, Translator};

/// Code system of modalities (DICOM CID 29), bare OID and as FHIR names it.
const MODALITIES: [&str; 2] = ["1.2.840.10008.2.16.4", "http://dicom.nema.org/resources/ontology/DCM"];

/// A query whose filters also take what may stand for an asked code.
#[derive(Debug, Clone, PartialEq)]
pub struct Widened {
    query: StoredQuery,
    /// Modalities asked for: all of any of.
    modalities: Vec<Vec<Coded>>,
}

impl Widened {
    /// Asks the service for the national codes; `None` for a query without filters by code.
    ///
    /// # Errors
    /// The service's.
    pub async fn of(translator: &Translator, query: &StoredQuery) -> Result<Option<Self>, TranslationError> {
        let mut query = query.clone();
        let modalities = modalities(&query);
        let mut filters = query.filters_mut();
        let asked: Vec<Coded> = filters.iter().flat_map(|list| list.iter().cloned()).collect();
        if asked.is_empty() {
            return Ok(None);
        }
        let mut found = translator.alternatives(&asked).await?.into_iter();
        for list in &mut filters {
            let more: Vec<Coded> = found.by_ref().take(list.len()).flatten().collect();
            add(list, more);
        }
        Ok(Some(Self { query, modalities }))
    }

    /// What may stand for an asked code when nobody can tell: every code of another system than those asked in.
    pub fn without_service(query: &StoredQuery, objects: &RegistryObjects) -> Option<Self> {
        let mut query = query.clone();
        let modalities = modalities(&query);
        let entries = objects.entries.iter().flat_map(crate::translate::codes);
        let sets = objects.submission_sets.iter().map(|set| &set.content_type);
        let folders = objects.folders.iter().flat_map(|folder| &folder.codes);
        let held: Vec<&Coded> = entries.chain(sets).chain(folders).collect();
        let mut filters = query.filters_mut();
        for list in &mut filters {
            let systems: BTreeSet<String> = list.iter().map(|code| code.system.clone()).collect();
            let unread = held.iter().filter(|code| !systems.contains(&code.system)).map(|code| (*code).clone());
            let more: Vec<Coded> = unread.collect();
            add(list, more);
        }
        let widened = !filters.is_empty();
        widened.then_some(Self { query, modalities })
    }

    /// entryUUIDs of what may be an answer.
    pub fn select(&self, objects: &RegistryObjects) -> BTreeSet<String> {
        if self.modalities.is_empty() {
            return self.query.select(objects);
        }
        let mut hinted = objects.clone();
        for entry in &mut hinted.entries {
            if !entry.event_codes.iter().any(is_modality) {
                entry.event_codes.push(entry.practice_setting.clone());
            }
        }
        let mut out = self.query.select(&hinted);
        for entry in objects.entries.iter().filter(|entry| self.has_other_modalities(entry)) {
            out.remove(&entry.entry_uuid);
        }
        out
    }

    /// The entry names modalities, and none that was asked for.
    fn has_other_modalities(&self, entry: &DocumentEntry) -> bool {
        let named: Vec<&Coded> = entry.event_codes.iter().filter(|c| is_modality(c)).collect();
        let fits = |any_of: &Vec<Coded>| any_of.iter().any(|asked| named.iter().any(|has| asked.code == has.code));
        !named.is_empty() && !self.modalities.iter().all(fits)
    }
}

fn is_modality(code: &Coded) -> bool {
    MODALITIES.contains(&code.system.strip_prefix("urn:oid:").unwrap_or(&code.system))
}

/// The lists of a query that ask for modalities and nothing else.
fn modalities(query: &StoredQuery) -> Vec<Vec<Coded>> {
    let StoredQuery::FindDocuments(find) = query else { return Vec::new() };
    find.event_codes.iter().filter(|list| list.iter().all(is_modality)).cloned().collect()
}

fn add(list: &mut Vec<Coded>, more: impl IntoIterator<Item = Coded>) {
    let mut known: BTreeSet<(String, String)> = list.iter().map(|c| (c.system.clone(), c.code.clone())).collect();
    list.extend(more.into_iter().filter(|c| known.insert((c.system.clone(), c.code.clone()))));
}
