//! What of a registry's objects a stored query asks for (ITI TF-2: 3.18.4.1.2.3.7).
//!
//! A pure function over objects that may be disclosed: whatever was withheld is not among them, so an answer through a
//! withheld object is the answer without it.

use std::collections::{BTreeSet, HashSet};

use super::{ContentFilter, FindDocuments, FindFolders, FindSubmissionSets, ObjectIds, StoredQuery, TimeRange};
use crate::xds::metadata::{
    Association, Author, Availability, DocumentEntry, EntryType, Folder, ReferenceId, RegistryObjects, SubmissionSet,
};
use crate::{Coded, Dtm, PatientId};

impl StoredQuery {
    /// entryUUIDs of the answer.
    pub fn select(&self, objects: &RegistryObjects) -> BTreeSet<String> {
        let graph = Graph(objects);
        let chosen: HashSet<&str> = match self {
            Self::FindDocuments(find) => graph.entries(|e| find.matches(e)),
            Self::FindSubmissionSets(find) => graph.sets(|s| find.matches(s)),
            Self::FindFolders(find) => graph.folders(|f| find.matches(f)),
            Self::GetDocuments(ids) => graph.entries(|e| ids.name(e)),
            Self::GetFolders(ids) => graph.folders(|f| ids.name_folder(f)),
            Self::GetAll(get) => {
                let mine = |patient: &PatientId, status, wanted: &[Availability]| {
                    *patient == get.patient_id && wanted.contains(&status)
                };
                let mut all = graph
                    .entries(|e| mine(&e.patient_id, e.availability, &get.document_status) && get.contents.matches(e));
                all.extend(graph.sets(|s| mine(&s.patient_id, s.availability, &get.set_status)));
                all.extend(graph.folders(|f| mine(&f.patient_id, f.availability, &get.folder_status)));
                graph.with_inner_associations(all)
            }
            Self::GetDocumentsAndAssociations(ids) => {
                let mut out = graph.entries(|e| ids.name(e));
                let touching = graph.associations(|a| out.contains(&*a.source) || out.contains(&*a.target));
                out.extend(touching.iter().map(|a| a.uuid.as_str()));
                out
            }
            Self::GetAssociations(uuids) => {
                let named: HashSet<&str> = uuids.iter().map(String::as_str).collect();
                let touching = graph.associations(|a| named.contains(&*a.source) || named.contains(&*a.target));
                touching.iter().map(|a| a.uuid.as_str()).collect()
            }
            Self::GetRelatedDocuments { document, association_types, contents } => {
                graph.related(document, association_types, contents)
            }
            Self::GetFoldersForDocument(ids) => {
                let named = graph.entries(|e| ids.name(e));
                let folders = graph.folders(|_| true);
                graph
                    .memberships()
                    .filter(|a| named.contains(&*a.target))
                    .map(|a| &*a.source)
                    .filter(|source| folders.contains(source))
                    .collect()
            }
            Self::GetSubmissionSets(uuids) => {
                let named: HashSet<&str> = uuids.iter().map(String::as_str).collect();
                let sets = graph.sets(|_| true);
                let holding = graph.memberships().filter(|a| named.contains(&*a.target) && sets.contains(&*a.source));
                holding.flat_map(|a| [a.uuid.as_str(), a.source.as_str()]).collect()
            }
            Self::GetFolderAndContents { folder, contents } => {
                graph.with_members(graph.folders(|f| folder.name_folder(f)), contents)
            }
            Self::GetSubmissionSetAndContents { set, contents } => {
                graph.with_members(graph.sets(|s| set.name_set(s)), contents)
            }
        };
        chosen.into_iter().map(ToOwned::to_owned).collect()
    }
}

struct Graph<'a>(&'a RegistryObjects);

impl<'a> Graph<'a> {
    fn entries(&self, wanted: impl Fn(&DocumentEntry) -> bool) -> HashSet<&'a str> {
        self.0.entries.iter().filter(|e| wanted(e)).map(|e| e.entry_uuid.as_str()).collect()
    }

    fn sets(&self, wanted: impl Fn(&SubmissionSet) -> bool) -> HashSet<&'a str> {
        self.0.submission_sets.iter().filter(|s| wanted(s)).map(|s| s.entry_uuid.as_str()).collect()
    }

    fn folders(&self, wanted: impl Fn(&Folder) -> bool) -> HashSet<&'a str> {
        self.0.folders.iter().filter(|f| wanted(f)).map(|f| f.entry_uuid.as_str()).collect()
    }

    fn associations(&self, wanted: impl Fn(&Association) -> bool) -> Vec<&'a Association> {
        self.0.associations.iter().filter(|a| wanted(a)).collect()
    }

    fn memberships(&self) -> impl Iterator<Item = &'a Association> {
        self.0.associations.iter().filter(|a| a.is(Association::HAS_MEMBER))
    }

    /// Adds every association both of whose ends are there; an end may be an association itself.
    fn with_inner_associations(&self, mut chosen: HashSet<&'a str>) -> HashSet<&'a str> {
        loop {
            let inner = self.associations(|a| {
                chosen.contains(&*a.source) && chosen.contains(&*a.target) && !chosen.contains(&*a.uuid)
            });
            let inner: Vec<&str> = inner.iter().map(|a| a.uuid.as_str()).collect();
            if inner.is_empty() {
                return chosen;
            }
            chosen.extend(inner);
        }
    }

    /// A submission set or folder, its members of any kind, and what makes them members.
    fn with_members(&self, mut chosen: HashSet<&'a str>, contents: &ContentFilter) -> HashSet<&'a str> {
        let unwanted = self.entries(|e| !contents.matches(e));
        let held: Vec<&Association> =
            self.memberships().filter(|a| chosen.contains(&*a.source) && !unwanted.contains(&*a.target)).collect();
        chosen.extend(held.iter().flat_map(|a| [a.uuid.as_str(), a.target.as_str()]));
        chosen
    }

    /// The document, what is related to it, and how; nothing when nothing is.
    fn related(&self, document: &ObjectIds, kinds: &[String], contents: &ContentFilter) -> HashSet<&'a str> {
        let named = self.entries(|e| document.name(e));
        let others = self.entries(|e| contents.matches(e));
        let known = |end: &str| named.contains(end) || others.contains(end);
        let relating = self.associations(|a| {
            kinds.iter().any(|kind| a.is(kind))
                && (named.contains(&*a.source) || named.contains(&*a.target))
                && known(&a.source)
                && known(&a.target)
        });
        relating.iter().flat_map(|a| [a.uuid.as_str(), a.source.as_str(), a.target.as_str()]).collect()
    }
}

impl TimeRange {
    /// An object without the time is not excluded (ITI TF-2: 3.18.4.1.2.3.3.1).
    fn holds(&self, at: Option<&Dtm>) -> bool {
        let Some(at) = at.and_then(Dtm::earliest) else { return true };
        let after = self.from.as_ref().and_then(Dtm::earliest).is_none_or(|from| from <= at);
        let before = self.to.as_ref().and_then(Dtm::earliest).is_none_or(|to| at < to);
        after && before
    }
}

fn any(wanted: &[Coded], has: &Coded) -> bool {
    wanted.is_empty() || wanted.iter().any(|w| w.same(has))
}

fn all(wanted: &[Vec<Coded>], has: &[Coded]) -> bool {
    wanted.iter().all(|any_of| any_of.iter().any(|w| has.iter().any(|h| w.same(h))))
}

const SQL: [char; 2] = ['%', '_'];

fn authored(patterns: &[String], authors: &[Author]) -> bool {
    let persons = || authors.iter().filter_map(|a| a.person.as_deref());
    patterns.is_empty() || patterns.iter().any(|pattern| persons().any(|person| like(pattern, person, SQL)))
}

impl FindDocuments {
    /// Whether the entry is an answer.
    pub fn matches(&self, entry: &DocumentEntry) -> bool {
        let created = entry.creation_time.as_ref();
        let stable = entry.entry_type == EntryType::Stable;
        let instant = created.and_then(Dtm::earliest);
        entry.patient_id == self.patient_id
            && (self.status.is_empty() || self.status.contains(&entry.availability))
            && (self.entry_types.is_empty() || self.entry_types.contains(&entry.entry_type))
            && any(&self.class_codes, &entry.class_code)
            && any(&self.type_codes, &entry.type_code)
            && any(&self.practice_settings, &entry.practice_setting)
            && any(&self.facility_types, &entry.facility_type)
            && any(&self.format_codes, &entry.format_code)
            && all(&self.event_codes, &entry.event_codes)
            && all(&self.confidentiality, &entry.confidentiality)
            && self.reference_ids.iter().all(|any_of| any_of.iter().any(|id| refers(entry, id)))
            && (!stable || self.creation.holds(created))
            && self.service_start.holds(entry.service_start.as_ref())
            && self.service_stop.holds(entry.service_stop.as_ref())
            && authored(&self.author_person, &entry.authors)
            && self.max_size.is_none_or(|max| has_room(entry, max))
            && self.created_before.is_none_or(|bound| instant.is_none_or(|at| at < bound))
            && self.created_after.is_none_or(|bound| instant.is_none_or(|at| at > bound))
    }
}

/// A document that is assembled at retrieval announces the size 0, which is none: it does not fit a maximum.
fn has_room(entry: &DocumentEntry, max: u64) -> bool {
    !entry.is_delayed_assembly() && entry.size.is_none_or(|size| size <= max)
}

/// A study's UID is unique by itself: the authority that some writers add does not count.
fn refers(entry: &DocumentEntry, wanted: &ReferenceId) -> bool {
    entry.reference_ids.iter().any(|has| {
        has.id == wanted.id
            && has.kind == wanted.kind
            && (has.kind == ReferenceId::STUDY || has.authority == wanted.authority)
    })
}

impl FindSubmissionSets {
    fn matches(&self, set: &SubmissionSet) -> bool {
        set.patient_id == self.patient_id
            && self.status.contains(&set.availability)
            && (self.source_ids.is_empty() || self.source_ids.contains(&set.source_id))
            && self.submitted.holds(set.submission_time.as_ref())
            && authored(&self.author_person, &set.authors)
            && any(&self.content_types, &set.content_type)
    }
}

impl FindFolders {
    fn matches(&self, folder: &Folder) -> bool {
        folder.patient_id == self.patient_id
            && self.status.contains(&folder.availability)
            && self.updated.holds(folder.last_update.as_ref())
            && all(&self.codes, &folder.codes)
    }
}

impl ContentFilter {
    fn matches(&self, entry: &DocumentEntry) -> bool {
        any(&self.format_codes, &entry.format_code)
            && all(&self.confidentiality, &entry.confidentiality)
            && (self.entry_types.is_empty() || self.entry_types.contains(&entry.entry_type))
    }
}

/// Matches a pattern with a character for any characters and one for one: `%` and `_` of SQL LIKE, `*` and `?` of DICOM. In
/// linear space and without back-tracking beyond the last of the first kind.
pub fn like(pattern: &str, text: &str, [many, one]: [char; 2]) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some(wanted) if *wanted == many => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == one || wanted == c => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, mark)) => {
                    star = Some((at, mark + 1));
                    p = at + 1;
                    t = mark + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_patterns() {
        assert!(like("%Olsen%", "^Olsen^Kari", SQL));
        assert!(like("_b%", "abc", SQL));
        assert!(!like("_b", "abc", SQL));
        assert!(like("%", "", SQL));
        let dicom = ['*', '?'];
        assert!(like("*b*", "abc", dicom) && like("a?c", "abc", dicom) && like("*", "", dicom) && like("", "", dicom));
        assert!(!like("a", "ab", dicom) && !like("?", "", dicom) && !like("*d", "abc", dicom));
        assert!(like("a_", "a_", dicom) && !like("a_", "ab", dicom));
    }
}
