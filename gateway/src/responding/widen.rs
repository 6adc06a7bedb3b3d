//! Filters of a query by codes that a country words in its own way.
//!
//! A filter in European codes takes every national code that may stand for one of them, also where the map is not exact:
//! a document that is not found is the clinical hazard. What is left out is known to be something else; a code of which
//! the maps know nothing, or not enough, may fit and stays. Afterwards what the entry itself says counts: one that names
//! its modalities is not found for another modality because its specialty or procedure might have used it. One that names
//! none is found for those that its specialty may stand for (a CT department for CT).

use std::collections::BTreeSet;

use ncp_ihe::{Coded, DocumentEntry, Filtered, Forms, RegistryObjects, StoredQuery};

use crate::translate::facets::{SNOMED, is_region};
use crate::translate::{Known, TranslationError, Translator};

/// A query whose filters also take what may stand for an asked code.
#[derive(Debug, Clone, PartialEq)]
pub struct Widened {
    query: StoredQuery,
    /// Modalities asked for: all of any of.
    modalities: Vec<Vec<Coded>>,
}

/// For each asked code of a query, in order, the national ones that may stand for it, itself among them.
pub type Alternatives = Vec<Vec<Coded>>;

/// What a list of asked codes is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Modality,
    Region,
    Procedure,
    /// Another attribute than eventCodeList.
    Other,
}

impl Widened {
    /// Asks the service for the national codes; `None` for a query without filters by code.
    ///
    /// # Errors
    /// The service's.
    pub async fn alternatives(
        translator: &Translator,
        query: &StoredQuery,
    ) -> Result<Option<Alternatives>, TranslationError> {
        let mut query = query.clone();
        let asked: Vec<Coded> = query.filters_mut().iter().flat_map(|(_, list)| list.iter().cloned()).collect();
        if asked.is_empty() { Ok(None) } else { translator.alternatives(&asked).await.map(Some) }
    }

    /// The query with what may stand for its codes, and with what of the codes held nobody knows to be something else.
    pub fn of(query: &StoredQuery, found: Alternatives, held: &RegistryObjects, known: &Known) -> Self {
        let mut query = query.clone();
        let modalities = modalities(&query);
        let mut found = found.into_iter();
        for (what, list) in query.filters_mut() {
            let each: Vec<Vec<Coded>> = found.by_ref().take(list.len()).collect();
            let asked = Asked::new(what, list.clone(), &each);
            let open = codes_of(what, held).filter(|code| asked.may_be(code, known)).cloned();
            let more: Vec<Coded> = each.into_iter().flatten().chain(open).collect();
            add(list, more);
        }
        Self { query, modalities }
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
        for (_, list) in &mut filters {
            let systems: BTreeSet<String> = list.iter().map(|code| code.system.clone()).collect();
            let unread = held.iter().filter(|code| !systems.contains(&code.system)).map(|code| (*code).clone());
            let more: Vec<Coded> = unread.collect();
            add(list, more);
        }
        let widened = !filters.is_empty();
        widened.then_some(Self { query, modalities })
    }

    /// entryUUIDs of what may be an answer.
    pub fn select(&self, objects: &RegistryObjects, forms: &Forms<'_>) -> BTreeSet<String> {
        if self.modalities.is_empty() {
            return self.query.select_forms(objects, forms);
        }
        let hinted = |entry: &DocumentEntry, see: &mut dyn FnMut(&DocumentEntry)| {
            forms(entry, &mut |form| {
                if form.event_codes.iter().any(Coded::is_modality) {
                    return see(form);
                }
                let mut hinted = form.clone();
                hinted.event_codes.push(form.practice_setting.clone());
                see(&hinted);
            });
        };
        let mut out = self.query.select_forms(objects, &hinted);
        for entry in &objects.entries {
            forms(entry, &mut |form| {
                if self.has_other_modalities(form) {
                    out.remove(&form.entry_uuid);
                }
            });
        }
        out
    }

    /// The entry names modalities, and none that was asked for.
    fn has_other_modalities(&self, entry: &DocumentEntry) -> bool {
        let named: Vec<&Coded> = entry.event_codes.iter().filter(|c| c.is_modality()).collect();
        let fits = |any_of: &Vec<Coded>| any_of.iter().any(|asked| named.iter().any(|has| asked.code == has.code));
        !named.is_empty() && !self.modalities.iter().all(fits)
    }
}

/// The codes of one filter.
struct Asked {
    subject: Subject,
    codes: Vec<Coded>,
    /// Of one of them nothing national is known: the answer cannot be narrowed by it.
    unrestricted: bool,
}

impl Asked {
    fn new(what: Filtered, codes: Vec<Coded>, found: &[Vec<Coded>]) -> Self {
        let subject = match what {
            Filtered::Event if codes.iter().all(Coded::is_modality) => Subject::Modality,
            Filtered::Event if codes.iter().all(is_region) => Subject::Region,
            Filtered::Event => Subject::Procedure,
            _ => Subject::Other,
        };
        let alone = |(asked, found): (&Coded, &Vec<Coded>)| found.iter().all(|code| code.same(asked));
        let unrestricted = codes.iter().zip(found).any(alone);
        Self { subject, codes, unrestricted }
    }

    /// Whether a code that an entry holds is not known to be something else than all of these.
    fn may_be(&self, code: &Coded, known: &Known) -> bool {
        // A code in a system that was asked in says itself what it is, and so does a modality or a region.
        if self.codes.iter().any(|asked| asked.system == code.system) {
            return false;
        }
        let says_itself = code.is_modality() || is_region(code);
        match self.subject {
            _ if says_itself && self.subject != Subject::Other => false,
            Subject::Modality => !known.is_exact(code) || !known.facets.is_of_another_modality(code, &self.codes),
            // Regions lie within each other: what is known to be of one may be of another of which nothing is known.
            Subject::Region => self.unrestricted || !known.is_exact(code) || !known.facets.has_region(code),
            // SNOMED CT names procedures and body structures: a code of it of which nothing is known narrows nothing.
            Subject::Procedure => {
                let narrows = !self.unrestricted || self.codes.iter().all(|asked| asked.system != SNOMED);
                !narrows || !known.is_exact(code)
            }
            Subject::Other => !known.is_mapped(code),
        }
    }
}

/// The codes that objects hold in what a list filters.
fn codes_of(what: Filtered, held: &RegistryObjects) -> impl Iterator<Item = &Coded> {
    let entries = held.entries.iter().flat_map(move |entry| match what {
        Filtered::Class => std::slice::from_ref(&entry.class_code),
        Filtered::Type => std::slice::from_ref(&entry.type_code),
        Filtered::PracticeSetting => std::slice::from_ref(&entry.practice_setting),
        Filtered::FacilityType => std::slice::from_ref(&entry.facility_type),
        Filtered::Event => entry.event_codes.as_slice(),
        Filtered::Other => entry.confidentiality.as_slice(),
    });
    let other = what == Filtered::Other;
    let sets = held.submission_sets.iter().filter(move |_| other).map(|set| &set.content_type);
    let folders = held.folders.iter().filter(move |_| other).flat_map(|folder| &folder.codes);
    entries.chain(sets).chain(folders)
}

/// The lists of a query that ask for modalities and nothing else.
fn modalities(query: &StoredQuery) -> Vec<Vec<Coded>> {
    let StoredQuery::FindDocuments(find) = query else { return Vec::new() };
    find.event_codes.iter().filter(|list| list.iter().all(Coded::is_modality)).cloned().collect()
}

fn add(list: &mut Vec<Coded>, more: impl IntoIterator<Item = Coded>) {
    let mut known: BTreeSet<(String, String)> = list.iter().map(|c| (c.system.clone(), c.code.clone())).collect();
    list.extend(more.into_iter().filter(|c| known.insert((c.system.clone(), c.code.clone()))));
}

#[cfg(test)]
mod tests {
    use ncp_ihe::FindDocuments;
    use proptest::prelude::*;

    use super::*;

    const NATIONAL: &str = "2.999.50";
    const LOINC: &str = "2.16.840.1.113883.6.1";

    fn national(code: &str) -> Coded {
        Coded::new(code, NATIONAL, None)
    }

    fn held(codes: &[Coded]) -> RegistryObjects {
        RegistryObjects::of_entries(codes.iter().map(crate::national::with_event).collect())
    }

    fn selected(asked: &Coded, found: Vec<Coded>, codes: &[Coded], known: &Known) -> BTreeSet<usize> {
        let patient = held(codes).entries[0].patient_id.clone();
        let event_codes = vec![vec![asked.clone()]];
        let query = StoredQuery::FindDocuments(FindDocuments { event_codes, ..FindDocuments::of_patient(patient) });
        let objects = held(codes);
        let chosen = Widened::of(&query, vec![found], &objects, known).select(&objects, &|entry, see| see(entry));
        (0..codes.len()).filter(|at| chosen.contains(&objects.entries[*at].entry_uuid)).collect()
    }

    #[test]
    fn tc_02_a_code_of_which_nothing_is_known_may_fit() {
        let codes = [national("known"), national("unknown"), national("near")];
        let known = Known::default().with(&codes[0], true).with(&codes[2], false);
        for asked in [Coded::new("24627-2", LOINC, None), Coded::new("MR", Coded::MODALITIES, None)] {
            let chosen = selected(&asked, vec![asked.clone()], &codes, &known);
            assert!(chosen.is_superset(&[1, 2].into()), "{asked:?}: {chosen:?}");
        }
        let asked = Coded::new("24627-2", LOINC, None);
        assert!(!selected(&asked, vec![asked.clone()], &codes, &known).contains(&0), "known to be another procedure");
        // Nothing is known of the asked code itself, which may be a part of the body.
        let knee = Coded::new("72696002", SNOMED, None);
        assert_eq!(selected(&knee, vec![knee.clone()], &codes, &known).len(), 3);
    }

    proptest! {
        /// More maps never remove what is not known to be something else.
        #[test]
        fn tc_02_more_maps_hide_nothing_that_is_not_known_to_differ(
            rows in prop::collection::vec((0usize..6, any::<bool>()), 0..8),
            more in prop::collection::vec((0usize..6, any::<bool>()), 0..8),
            stands in prop::collection::btree_set(0usize..6, 0..4),
        ) {
            let codes: Vec<Coded> = (0..6).map(|n| national(&format!("C{n}"))).collect();
            let asked = Coded::new("24627-2", LOINC, None);
            let found: Vec<Coded> = std::iter::once(asked.clone()).chain(stands.iter().map(|n| codes[*n].clone())).collect();
            let with = |known: Known, rows: &[(usize, bool)]| {
                rows.iter().fold(known, |known, (n, exact)| known.with(&codes[*n], *exact))
            };
            let few = with(Known::default(), &rows);
            let many = with(few.clone(), &more);
            let (before, after) = (selected(&asked, found.clone(), &codes, &few), selected(&asked, found, &codes, &many));
            for lost in before.difference(&after) {
                prop_assert!(many.is_exact(&codes[*lost]) && !stands.contains(lost));
            }
            prop_assert!(stands.is_subset(&after));
        }
    }
}
