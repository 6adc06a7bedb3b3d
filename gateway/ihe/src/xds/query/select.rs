//! What of a registry's objects a stored query asks for (ITI TF-2: 3.18.4.1.2.3.7).
//!
//! A pure function over objects that may be disclosed: whatever was withheld is not among them, so an answer through a
//! withheld object is the answer without it.

use std::collections::{BTreeSet, HashSet};

use super::{ContentFilter, FindDocuments, FindFolders, FindSubmissionSets, ObjectIds, StoredQuery, TimeRange};
use crate::xds::metadata::{
    Association, Author, Availability, DocumentEntry, EntryType, Folder, ReferenceId, RegistryObjects, SubmissionSet,
};
use crate::xds::within::within;
use crate::{Coded, Dtm, Oid, PatientId};

/// Shows each form in which an entry is listed, itself among them if it is. Forms are made to be seen and are not kept: a long
/// list is not held once more for each.
pub type Forms<'a> = dyn Fn(&DocumentEntry, &mut dyn FnMut(&DocumentEntry)) + 'a;

impl StoredQuery {
    /// entryUUIDs of the answer.
    pub fn select(&self, objects: &RegistryObjects) -> BTreeSet<String> {
        self.select_forms(objects, &|entry, see| see(entry))
    }

    /// entryUUIDs of the answer, where each entry stands for its forms.
    pub fn select_forms(&self, objects: &RegistryObjects, forms: &Forms<'_>) -> BTreeSet<String> {
        let graph = Graph { objects, forms };
        let chosen: HashSet<String> = match self {
            Self::FindDocuments(find) => {
                let wanted = Wanted::of(find);
                graph.entries(|e| wanted.matches(e))
            }
            Self::FindSubmissionSets(find) => {
                let types = AnyOf::of(&find.content_types);
                graph.sets(|s| find.matches(s) && types.fits(&s.content_type))
            }
            Self::FindFolders(find) => {
                let codes = AllOf::of(&find.codes);
                graph.folders(|f| find.matches(f) && codes.fit(&f.codes))
            }
            Self::GetDocuments(ids) => {
                let ids = Ids::of(ids);
                graph.entries(|e| ids.name(e))
            }
            Self::GetFolders(ids) => {
                let ids = Ids::of(ids);
                graph.folders(|f| ids.hold(&f.entry_uuid, &f.unique_id))
            }
            Self::GetAll(get) => {
                let mine = |patient: &PatientId, status, wanted: &[Availability]| {
                    *patient == get.patient_id && wanted.contains(&status)
                };
                let contents = Contents::of(&get.contents);
                let mut all =
                    graph.entries(|e| mine(&e.patient_id, e.availability, &get.document_status) && contents.matches(e));
                all.extend(graph.sets(|s| mine(&s.patient_id, s.availability, &get.set_status)));
                all.extend(graph.folders(|f| mine(&f.patient_id, f.availability, &get.folder_status)));
                graph.with_inner_associations(all)
            }
            Self::GetDocumentsAndAssociations(ids) => {
                let ids = Ids::of(ids);
                let mut out = graph.entries(|e| ids.name(e));
                let touching = graph.associations(|a| out.contains(&a.source) || out.contains(&a.target));
                out.extend(touching.into_iter().map(|a| a.uuid.clone()));
                out
            }
            Self::GetAssociations(uuids) => {
                let named: HashSet<&str> = uuids.iter().map(String::as_str).collect();
                let touching = graph.associations(|a| named.contains(&*a.source) || named.contains(&*a.target));
                touching.into_iter().map(|a| a.uuid.clone()).collect()
            }
            Self::GetRelatedDocuments { document, association_types, contents } => {
                graph.related(document, association_types, contents)
            }
            Self::GetFoldersForDocument(ids) => {
                let named = graph.entries(|e| ids.name(e));
                let folders = graph.folders(|_| true);
                graph
                    .memberships()
                    .filter(|a| named.contains(&a.target) && folders.contains(&a.source))
                    .map(|a| a.source.clone())
                    .collect()
            }
            Self::GetSubmissionSets(uuids) => {
                let named: HashSet<&str> = uuids.iter().map(String::as_str).collect();
                let sets = graph.sets(|_| true);
                let holding = graph.memberships().filter(|a| named.contains(&*a.target) && sets.contains(&a.source));
                holding.flat_map(|a| [a.uuid.clone(), a.source.clone()]).collect()
            }
            Self::GetFolderAndContents { folder, contents } => {
                graph.with_members(graph.folders(|f| folder.name_folder(f)), contents)
            }
            Self::GetSubmissionSetAndContents { set, contents } => {
                graph.with_members(graph.sets(|s| set.name_set(s)), contents)
            }
        };
        chosen.into_iter().collect()
    }
}

struct Graph<'a> {
    objects: &'a RegistryObjects,
    forms: &'a Forms<'a>,
}

impl<'a> Graph<'a> {
    fn entries(&self, wanted: impl Fn(&DocumentEntry) -> bool) -> HashSet<String> {
        let mut out = HashSet::new();
        for entry in &self.objects.entries {
            (self.forms)(entry, &mut |form| {
                if wanted(form) {
                    out.insert(form.entry_uuid.clone());
                }
            });
        }
        out
    }

    fn sets(&self, wanted: impl Fn(&SubmissionSet) -> bool) -> HashSet<String> {
        self.objects.submission_sets.iter().filter(|s| wanted(s)).map(|s| s.entry_uuid.clone()).collect()
    }

    fn folders(&self, wanted: impl Fn(&Folder) -> bool) -> HashSet<String> {
        self.objects.folders.iter().filter(|f| wanted(f)).map(|f| f.entry_uuid.clone()).collect()
    }

    fn associations(&self, wanted: impl Fn(&Association) -> bool) -> Vec<&'a Association> {
        self.objects.associations.iter().filter(|a| wanted(a)).collect()
    }

    fn memberships(&self) -> impl Iterator<Item = &'a Association> {
        self.objects.associations.iter().filter(|a| a.is(Association::HAS_MEMBER))
    }

    /// Adds every association both of whose ends are there; an end may be an association itself.
    fn with_inner_associations(&self, mut chosen: HashSet<String>) -> HashSet<String> {
        within(&mut chosen, &self.objects.associations);
        chosen
    }

    /// A submission set or folder, its members of any kind, and what makes them members.
    fn with_members(&self, mut chosen: HashSet<String>, contents: &ContentFilter) -> HashSet<String> {
        let contents = Contents::of(contents);
        let unwanted = self.entries(|e| !contents.matches(e));
        let held: Vec<&Association> =
            self.memberships().filter(|a| chosen.contains(&a.source) && !unwanted.contains(&a.target)).collect();
        chosen.extend(held.into_iter().flat_map(|a| [a.uuid.clone(), a.target.clone()]));
        chosen
    }

    /// The document, what is related to it, and how; nothing when nothing is.
    fn related(&self, document: &ObjectIds, kinds: &[String], contents: &ContentFilter) -> HashSet<String> {
        let named = self.entries(|e| document.name(e));
        let contents = Contents::of(contents);
        let others = self.entries(|e| contents.matches(e));
        let known = |end: &str| named.contains(end) || others.contains(end);
        let relating = self.associations(|a| {
            kinds.iter().any(|kind| a.is(kind))
                && (named.contains(&a.source) || named.contains(&a.target))
                && known(&a.source)
                && known(&a.target)
        });
        relating.into_iter().flat_map(|a| [a.uuid.clone(), a.source.clone(), a.target.clone()]).collect()
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

/// Ids that a query names. They are looked up once for each object: the cost follows from the ids and the objects, not from
/// their product.
struct Ids<'a> {
    ids: HashSet<&'a str>,
    are_unique_ids: bool,
}

impl<'a> Ids<'a> {
    fn of(named: &'a ObjectIds) -> Self {
        let (ObjectIds::EntryUuids(ids) | ObjectIds::UniqueIds(ids)) = named;
        let are_unique_ids = matches!(named, ObjectIds::UniqueIds(_));
        Self { ids: ids.iter().map(String::as_str).collect(), are_unique_ids }
    }

    fn hold(&self, entry_uuid: &str, unique_id: &str) -> bool {
        looked();
        self.ids.contains(if self.are_unique_ids { unique_id } else { entry_uuid })
    }

    fn name(&self, entry: &DocumentEntry) -> bool {
        self.hold(&entry.entry_uuid, &entry.unique_id)
    }
}

/// Codes of which an object must have one, looked up as [`Ids`] are; none: any will do.
struct AnyOf<'a>(HashSet<(&'a str, &'a str)>);

impl<'a> AnyOf<'a> {
    fn of(codes: &'a [Coded]) -> Self {
        Self(codes.iter().map(Coded::key).collect())
    }

    fn has(&self, code: &Coded) -> bool {
        looked();
        self.0.contains(&code.key())
    }

    fn fits(&self, code: &Coded) -> bool {
        self.0.is_empty() || self.has(code)
    }
}

/// Lists of codes, of each of which an object must have one.
struct AllOf<'a>(Vec<AnyOf<'a>>);

impl<'a> AllOf<'a> {
    fn of(lists: &'a [Vec<Coded>]) -> Self {
        Self(lists.iter().map(|list| AnyOf::of(list)).collect())
    }

    fn fit(&self, codes: &[Coded]) -> bool {
        self.0.iter().all(|any_of| codes.iter().any(|code| any_of.has(code)))
    }
}

/// Counts a look-up, so that a test knows what a query costs.
#[cfg(test)]
fn looked() {
    LOOKED.with(|looked| looked.set(looked.get() + 1));
}

#[cfg(not(test))]
fn looked() {}

#[cfg(test)]
thread_local! {
    /// Look-ups of the queries of this thread.
    pub(super) static LOOKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

const SQL: [char; 2] = ['%', '_'];

fn authored(patterns: &[String], authors: &[Author]) -> bool {
    let persons = || authors.iter().filter_map(|a| a.person.as_deref());
    patterns.is_empty() || patterns.iter().any(|pattern| persons().any(|person| like(pattern, person, SQL)))
}

/// FindDocuments with its lists ready to be looked up.
struct Wanted<'a> {
    find: &'a FindDocuments,
    /// classCode, typeCode, practiceSettingCode, healthcareFacilityTypeCode, formatCode.
    single: [AnyOf<'a>; 5],
    event_codes: AllOf<'a>,
    confidentiality: AllOf<'a>,
    reference_ids: Vec<HashSet<Reference<'a>>>,
}

impl<'a> Wanted<'a> {
    fn of(find: &'a FindDocuments) -> Self {
        let single =
            [&find.class_codes, &find.type_codes, &find.practice_settings, &find.facility_types, &find.format_codes];
        Self {
            find,
            single: single.map(|codes| AnyOf::of(codes)),
            event_codes: AllOf::of(&find.event_codes),
            confidentiality: AllOf::of(&find.confidentiality),
            reference_ids: find.reference_ids.iter().map(|list| list.iter().map(reference).collect()).collect(),
        }
    }

    /// Whether the entry is an answer.
    fn matches(&self, entry: &DocumentEntry) -> bool {
        let find = self.find;
        let created = entry.creation_time.as_ref();
        let stable = entry.entry_type == EntryType::Stable;
        let instant = created.and_then(Dtm::earliest);
        let single =
            [&entry.class_code, &entry.type_code, &entry.practice_setting, &entry.facility_type, &entry.format_code];
        entry.patient_id == find.patient_id
            && (find.status.is_empty() || find.status.contains(&entry.availability))
            && (find.entry_types.is_empty() || find.entry_types.contains(&entry.entry_type))
            && self.single.iter().zip(single).all(|(wanted, code)| wanted.fits(code))
            && self.event_codes.fit(&entry.event_codes)
            && self.confidentiality.fit(&entry.confidentiality)
            && self.reference_ids.iter().all(|any_of| refers(entry, any_of))
            && (!stable || find.creation.holds(created))
            && find.service_start.holds(entry.service_start.as_ref())
            && find.service_stop.holds(entry.service_stop.as_ref())
            && authored(&find.author_person, &entry.authors)
            && find.max_size.is_none_or(|max| has_room(entry, max))
            && find.created_before.is_none_or(|bound| instant.is_none_or(|at| at < bound))
            && find.created_after.is_none_or(|bound| instant.is_none_or(|at| at > bound))
    }
}

impl FindDocuments {
    /// Whether the entry is an answer.
    pub fn matches(&self, entry: &DocumentEntry) -> bool {
        Wanted::of(self).matches(entry)
    }
}

/// A document that is assembled at retrieval announces the size 0, which is none: it does not fit a maximum.
fn has_room(entry: &DocumentEntry, max: u64) -> bool {
    !entry.is_delayed_assembly() && entry.size.is_none_or(|size| size <= max)
}

/// Id, kind, and authority.
type Reference<'a> = (&'a str, &'a str, Option<&'a Oid>);

/// A study's UID is unique by itself: the authority that some writers add does not count.
fn reference(id: &ReferenceId) -> Reference<'_> {
    (&id.id, &id.kind, id.authority.as_ref().filter(|_| id.kind != ReferenceId::STUDY))
}

fn refers(entry: &DocumentEntry, wanted: &HashSet<Reference<'_>>) -> bool {
    entry.reference_ids.iter().any(|has| {
        looked();
        wanted.contains(&reference(has))
    })
}

impl FindSubmissionSets {
    fn matches(&self, set: &SubmissionSet) -> bool {
        set.patient_id == self.patient_id
            && self.status.contains(&set.availability)
            && (self.source_ids.is_empty() || self.source_ids.contains(&set.source_id))
            && self.submitted.holds(set.submission_time.as_ref())
            && authored(&self.author_person, &set.authors)
    }
}

impl FindFolders {
    fn matches(&self, folder: &Folder) -> bool {
        folder.patient_id == self.patient_id
            && self.status.contains(&folder.availability)
            && self.updated.holds(folder.last_update.as_ref())
    }
}

/// Which documents of a whole are wanted, with the lists ready to be looked up.
struct Contents<'a> {
    format_codes: AnyOf<'a>,
    confidentiality: AllOf<'a>,
    entry_types: &'a [EntryType],
}

impl<'a> Contents<'a> {
    fn of(filter: &'a ContentFilter) -> Self {
        Self {
            format_codes: AnyOf::of(&filter.format_codes),
            confidentiality: AllOf::of(&filter.confidentiality),
            entry_types: &filter.entry_types,
        }
    }

    fn matches(&self, entry: &DocumentEntry) -> bool {
        self.format_codes.fits(&entry.format_code)
            && self.confidentiality.fit(&entry.confidentiality)
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
