//! What a decision may know of a unit, and the one set of facts that a study, its manifests and its images share.
//!
//! A patient's block or a country's policy names attributes of documents: confidentiality, author, class, type, period.
//! An archive knows none of them of its images. The facts of a study are therefore the union over its manifests and the
//! reports that name it by Study Instance UID or accession number, and they decide about the manifests and the images
//! alike, on every path. An attribute that no document tells is unknown: a block that asks for it closes, and so does a
//! policy.

use std::collections::HashMap;

use ncp_ihe::{Coded, DocumentEntry, Dtm, ReferenceId, Uid};

use super::calendar;
use crate::national::UNDATED;

/// What a policy and a block may know about a unit. `None` is an attribute that the unit has and whose value nobody
/// told; an empty list is an attribute that the unit does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `document`, `manifest`, `study`, `submission-set`, `folder`, or empty when nothing was looked up yet.
    pub kind: &'static str,
    /// confidentialityCodes.
    pub confidentiality: Option<Vec<String>>,
    /// Modalities of a study.
    pub modalities: Option<Vec<String>>,
    /// Names and identifiers of the organisations that wrote it.
    pub author_organisations: Option<Vec<String>>,
    /// Class, type and date: one of a document, as many as documents describe it of a study.
    pub descriptions: Vec<Description>,
    /// A registry did not answer, so that there may be more than is known here.
    pub incomplete: bool,
}

/// Class, type and date that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Description {
    /// classCode.
    pub class_code: Option<String>,
    /// typeCode.
    pub type_code: Option<String>,
    /// Beginning of the service, `YYYYMMDD…`.
    pub service_date: Option<String>,
}

impl Description {
    /// Of a unit that has neither class, nor type, nor date.
    pub fn none() -> Self {
        Self { class_code: Some(String::new()), type_code: Some(String::new()), service_date: Some(String::new()) }
    }

    /// Of a unit that must have them and of which nobody told any.
    fn unknown() -> Self {
        Self { class_code: None, type_code: None, service_date: None }
    }
}

impl Default for Facts {
    /// A unit without any of these attributes: a person, or a request before the look-up.
    fn default() -> Self {
        Self {
            kind: "",
            confidentiality: Some(Vec::new()),
            modalities: Some(Vec::new()),
            author_organisations: Some(Vec::new()),
            descriptions: vec![Description::none()],
            incomplete: false,
        }
    }
}

impl Facts {
    /// A unit of which nobody told anything; a document has no modality of its own.
    pub fn unknown(kind: &'static str) -> Self {
        Self {
            kind,
            confidentiality: None,
            modalities: (kind == "document").then(Vec::new),
            author_organisations: None,
            descriptions: vec![Description::unknown()],
            incomplete: false,
        }
    }

    /// A submission set or folder: its members carry the attributes, and a block of a period closes what has no date.
    pub fn of_group(kind: &'static str, class_code: &str) -> Self {
        let description =
            Description { class_code: Some(class_code.into()), service_date: None, ..Description::none() };
        Self { kind, descriptions: vec![description], ..Self::default() }
    }

    /// What one entry says.
    pub fn of_entry(entry: &DocumentEntry) -> Self {
        let manifest = entry.is_manifest();
        let given = |list: Vec<String>| {
            let list: Vec<String> = list.into_iter().filter(|item| !item.is_empty()).collect();
            (!list.is_empty()).then_some(list)
        };
        let code = |coded: &Coded| Some(coded.code.clone()).filter(|code| !code.is_empty());
        let modalities = entry.event_codes.iter().filter(|c| c.is_modality()).map(|c| c.code.clone());
        let modalities = given(modalities.collect());
        let organisations = entry.authors.iter().flat_map(|a| &a.institutions).flat_map(|i| organisation(i));
        let date = entry.service_start.as_ref().or(entry.creation_time.as_ref());
        let date = date.filter(|date| date.as_str() != UNDATED);
        Self {
            kind: if manifest { "manifest" } else { "document" },
            confidentiality: given(entry.confidentiality.iter().map(|c| c.code.clone()).collect()),
            // A report has none of its own.
            modalities: if manifest { modalities } else { modalities.or(Some(Vec::new())) },
            author_organisations: given(organisations.collect()),
            descriptions: dates(date)
                .into_iter()
                .map(|service_date| Description {
                    class_code: code(&entry.class_code),
                    type_code: code(&entry.type_code),
                    service_date,
                })
                .collect(),
            incomplete: false,
        }
    }

    /// Whether a value is told by one of the sets, or might be.
    pub(super) fn may_have(&self, list: Option<&Vec<String>>, wanted: &str) -> bool {
        self.incomplete || list.is_none_or(|list| list.iter().any(|item| item == wanted))
    }

    /// Whether its date lies in a period of days, or might.
    pub(super) fn may_be_within(&self, from: &str, to: &str) -> bool {
        let within = |description: &Description| {
            let day = description.service_date.as_deref().and_then(|date| date.get(..8));
            day.is_none_or(|day| from <= day && day <= to)
        };
        self.incomplete || self.descriptions.iter().any(within)
    }

    fn add(&mut self, other: &Self) {
        union(&mut self.confidentiality, other.confidentiality.as_ref());
        union(&mut self.modalities, other.modalities.as_ref());
        union(&mut self.author_organisations, other.author_organisations.as_ref());
        self.descriptions.extend(other.descriptions.iter().cloned());
        self.incomplete |= other.incomplete;
    }
}

/// The date of a document, and the other day that it may be where it was written. Times of XDS are UTC (ITI TF-3: 4.2.3.1.7),
/// while the days of a directive are those of the patient's calendar.
fn dates(date: Option<&Dtm>) -> Vec<Option<String>> {
    let told = date.map(ToString::to_string);
    // A date without a time is the day that was meant.
    let at = date.filter(|date| date.as_str().len() >= "YYYYMMDDhh".len()).and_then(Dtm::earliest);
    let around = at.into_iter().flat_map(calendar::days).map(|day| day.strftime("%Y%m%d").to_string());
    let other = around.filter(|day| !told.as_ref().is_some_and(|told| told.starts_with(day.as_str()))).map(Some);
    std::iter::once(told.clone()).chain(other.collect::<Vec<_>>()).collect()
}

fn union(all: &mut Option<Vec<String>>, more: Option<&Vec<String>>) {
    // What a report does not have tells nothing of the study.
    let Some(more) = more.filter(|list| !list.is_empty()) else { return };
    let all = all.get_or_insert_default();
    for item in more {
        if !all.contains(item) {
            all.push(item.clone());
        }
    }
}

/// Name and identifier of an XON.
fn organisation(xon: &str) -> Vec<String> {
    let parts: Vec<&str> = xon.split('^').collect();
    [parts.first(), parts.get(9)].into_iter().flatten().filter(|p| !p.is_empty()).map(|p| (*p).to_owned()).collect()
}

/// The documents of one patient that describe studies: manifests, and reports that name one.
#[derive(Debug, Clone)]
pub struct Describing {
    documents: Vec<Document>,
    by_study: HashMap<String, Vec<usize>>,
    by_accession: HashMap<String, Vec<usize>>,
    /// Manifests that name no study: each may be of any.
    unplaced: Vec<usize>,
    /// A registry did not answer.
    silent: bool,
    /// An entry could not be read.
    unread: bool,
}

#[derive(Debug, Clone)]
struct Document {
    unique_id: String,
    manifest: bool,
    studies: Vec<String>,
    accessions: Vec<String>,
    facts: Facts,
}

/// What is known of one study.
#[derive(Debug, Clone)]
pub struct StudyFacts {
    facts: Facts,
    manifests: Vec<String>,
}

impl Describing {
    /// Reads what the registries answered for a patient; `answered` when each of them did.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a DocumentEntry>, answered: bool) -> Self {
        let mut out = Self {
            documents: Vec::new(),
            by_study: HashMap::new(),
            by_accession: HashMap::new(),
            unplaced: Vec::new(),
            silent: !answered,
            unread: false,
        };
        entries.into_iter().for_each(|entry| out.add(entry));
        out
    }

    /// The same when entries could not be read: each of them might describe any study.
    pub fn with_unread(self, unread: bool) -> Self {
        Self { unread, ..self }
    }

    /// Whether a registry did not answer.
    pub fn is_incomplete(&self) -> bool {
        self.silent
    }

    /// How many documents are known.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    fn add(&mut self, entry: &DocumentEntry) {
        // What was replaced describes what was, and its successor stands here too.
        if entry.availability != ncp_ihe::Availability::Approved {
            return;
        }
        let document = Document::of(entry);
        if !document.manifest && document.studies.is_empty() && document.accessions.is_empty() {
            return;
        }
        let at = self.documents.len();
        if document.studies.is_empty() && document.manifest {
            self.unplaced.push(at);
        }
        for study in &document.studies {
            self.by_study.entry(study.clone()).or_default().push(at);
        }
        for accession in &document.accessions {
            self.by_accession.entry(accession.clone()).or_default().push(at);
        }
        self.documents.push(document);
    }

    /// The union over the documents that name a study, and those that the study's source knows to be its manifests.
    pub(crate) fn of_study(&self, study: &Uid, known: &[DocumentEntry]) -> StudyFacts {
        let known: Vec<Document> = known.iter().map(Document::of).collect();
        let mut found = self.by_study.get(study.as_str()).cloned().unwrap_or_default();
        let is_known = |document: &Document| known.iter().any(|entry| document.is(entry));
        found.extend(self.documents.iter().enumerate().filter(|(_, d)| is_known(d)).map(|(at, _)| at));
        // A source that read its manifests knows which of those without a study are of this one.
        if known.is_empty() {
            found.extend(&self.unplaced);
        }
        // An accession number stands for a study where a manifest carries it, or a report about this study alone.
        let direct = found.iter().filter_map(|at| self.documents.get(*at)).chain(&known);
        let own = direct.filter(|d| d.manifest || d.studies.len() == 1).flat_map(|d| &d.accessions);
        let others: Vec<usize> = own.filter_map(|number| self.by_accession.get(number)).flatten().copied().collect();
        found.extend(others);
        found.sort_unstable();
        found.dedup();
        let listed = found.iter().filter_map(|at| self.documents.get(*at));
        // A report without a study number may have the accession number; a manifest of another study has its own.
        let listed =
            listed.filter(|d| !d.manifest || d.studies.is_empty() || d.studies.iter().any(|s| s == study.as_str()));
        let unlisted = known.iter().filter(|k| !self.documents.iter().any(|d| d.is(k)));
        StudyFacts::of(listed.chain(unlisted), self.silent || self.unread)
    }

    /// What decides about an entry: of a manifest the facts of its study, of any other document its own.
    pub(crate) fn of_entry(&self, entry: &DocumentEntry) -> (Facts, Vec<String>) {
        let own = Document::of(entry);
        let mut keys = vec![own.unique_id.clone()];
        keys.extend(own.studies.iter().cloned());
        let mut facts = own.facts;
        for study in own.studies.iter().filter(|_| own.manifest).filter_map(|study| Uid::parse(study).ok()) {
            let of_study = self.of_study(&study, std::slice::from_ref(entry));
            facts.add(&of_study.facts);
            keys.extend(of_study.manifests);
        }
        facts.descriptions.sort();
        facts.descriptions.dedup();
        (facts, keys)
    }
}

impl Document {
    fn of(entry: &DocumentEntry) -> Self {
        let of_kind = |kind: &'static str| {
            entry.reference_ids.iter().filter(move |r| r.kind == kind).map(|r| r.id.clone()).filter(|id| !id.is_empty())
        };
        Self {
            unique_id: entry.unique_id.clone(),
            manifest: entry.is_manifest(),
            studies: of_kind(ReferenceId::STUDY).collect(),
            accessions: of_kind(ReferenceId::ACCESSION).collect(),
            facts: Facts::of_entry(entry),
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.unique_id == other.unique_id
    }
}

impl StudyFacts {
    fn of<'a>(documents: impl Iterator<Item = &'a Document>, incomplete: bool) -> Self {
        let mut facts = Facts { descriptions: Vec::new(), incomplete, ..Facts::unknown("study") };
        let mut manifests = Vec::new();
        for document in documents {
            facts.add(&document.facts);
            if document.manifest {
                manifests.push(document.unique_id.clone());
            }
        }
        Self { facts, manifests }
    }

    /// Adds what the archive itself tells, and ends the collection.
    pub(crate) fn with_archive(mut self, modalities: &[String], study_date: Option<&str>) -> (Facts, Vec<String>) {
        union(&mut self.facts.modalities, Some(&modalities.to_vec()));
        let known: Vec<&str> =
            self.facts.descriptions.iter().filter_map(|d| d.service_date.as_deref()?.get(..8)).collect();
        // A date that is told and cannot be read may be any.
        let service_date = study_date.map(|told| Dtm::of_dicom_date(told).map(|day| day.to_string()));
        if let Some(service_date) = service_date.filter(|date| date.as_deref().is_none_or(|day| !known.contains(&day)))
        {
            let like = self.facts.descriptions.first().cloned().unwrap_or_else(Description::unknown);
            self.facts.descriptions.push(Description { service_date, ..like });
        }
        if self.facts.descriptions.is_empty() {
            self.facts.descriptions.push(Description::unknown());
        }
        self.facts.descriptions.sort();
        self.facts.descriptions.dedup();
        (self.facts, self.manifests)
    }
}

#[cfg(test)]
mod tests {
    use ncp_ihe::{Author, Availability, Dtm, EntryType, Oid, PatientId};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::consent::{Block, Directives};
    use crate::policy::engine::tests::radiologist;

    const STUDY: &str = "2.999.7";
    const ACCESSION: &str = "A1";

    /// One document: manifest or report, its reference, and values that may be missing.
    #[derive(Debug, Clone)]
    struct Made {
        manifest: bool,
        by_accession: bool,
        code: Option<&'static str>,
        institution: Option<&'static str>,
        date: Option<&'static str>,
    }

    /// A time of XDS may be on another day where the document was written; a date is the day that it says.
    #[test]
    fn se_02_a_time_near_midnight_may_be_on_either_day() {
        let of = |text: &str| dates(Dtm::parse(text).ok().as_ref()).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(of("20260101230000"), ["20260101230000", "20260102"]);
        assert_eq!(of("20260102013000"), ["20260102013000", "20260101"]);
        assert_eq!(of("20260102101500"), ["20260102101500"]);
        assert_eq!(of("2026010223"), ["2026010223", "20260103"]);
        assert_eq!((of("20260102"), of("2026")), (vec!["20260102".to_owned()], vec!["2026".to_owned()]));
        assert_eq!(dates(None), [None]);
    }

    fn made() -> impl Strategy<Value = Made> {
        let one = |values: [&'static str; 2]| prop::option::of(prop::sample::select(values.to_vec()));
        (any::<bool>(), any::<bool>(), one(["N", "R"]), one(["a", "b"]), one(["20260101", "20260301"])).prop_map(
            |(manifest, by_accession, code, institution, date)| Made {
                manifest,
                by_accession,
                code,
                institution,
                date,
            },
        )
    }

    fn entry(index: usize, made: &Made) -> DocumentEntry {
        let study = ReferenceId::study(&Uid::parse(STUDY).expect("a UID"));
        let accession = ReferenceId::accession(ACCESSION, None);
        let reference_ids = match (made.manifest, made.by_accession) {
            (true, _) => vec![study, accession],
            (false, true) => vec![accession],
            (false, false) => vec![study],
        };
        let patient_id = PatientId::parse_cx("1^^^&2.999.1&ISO").expect("a CX");
        let coded = |code: &str| Coded::new(code, "2.999.2", None);
        DocumentEntry {
            entry_uuid: format!("urn:uuid:{index}"),
            unique_id: format!("2.999.8.{index}"),
            home: None,
            repository_unique_id: Oid::parse("2.999.3").expect("an OID"),
            availability: Availability::Approved,
            entry_type: EntryType::Stable,
            source_patient_id: None,
            patient_id,
            source_patient_info: Vec::new(),
            class_code: coded("class"),
            type_code: coded("type"),
            format_code: coded("format"),
            practice_setting: coded("setting"),
            facility_type: coded("facility"),
            confidentiality: made.code.map(coded).into_iter().collect(),
            event_codes: Vec::new(),
            language: "nb-NO".into(),
            mime_type: if made.manifest { "application/dicom" } else { "text/xml" }.into(),
            title: None,
            comments: None,
            creation_time: None,
            service_start: made.date.and_then(|d| Dtm::parse(d).ok()),
            service_stop: None,
            hash: None,
            size: None,
            reference_ids,
            authors: vec![Author {
                institutions: made.institution.iter().map(|i| (*i).to_owned()).collect(),
                ..Author::default()
            }],
            legal_authenticator: None,
            extra_slots: Vec::new(),
        }
    }

    proptest! {
        /// A manifest and the images of its study are closed by the same blocks, whatever the documents tell and do not
        /// tell; and a block of what no document tells closes.
        #[test]
        fn se_02_manifest_and_images_have_one_verdict(
            documents in prop::collection::vec(made(), 1..5),
            code in prop::option::of(prop::sample::select(vec!["N", "R", "X"])),
            author in prop::option::of(prop::sample::select(vec!["a", "b", "c"])),
            period in prop::option::of(prop::sample::select(vec![("20260101", "20260102"), ("20260301", "20260301"), ("19000101", "19001231")])),
        ) {
            let mut documents = documents;
            documents[0].manifest = true;
            let entries: Vec<DocumentEntry> = documents.iter().enumerate().map(|(i, m)| entry(i, m)).collect();
            let describing = Describing::of(&entries, true);
            let block = Block {
                confidentiality: code.map(Into::into),
                author_organisation: author.map(Into::into),
                period: period.map(|(from, to)| (from.into(), to.into())),
                imaging: true,
                ..Block::default()
            };
            let directives = Directives { blocks: vec![block], ..Directives::default() };
            let closes = |(facts, keys): &(Facts, Vec<String>)| {
                directives.closes(facts, keys, &radiologist(), jiff::Timestamp::UNIX_EPOCH)
            };
            let study = Uid::parse(STUDY).expect("a UID");
            let images = closes(&describing.of_study(&study, &[]).with_archive(&[], None));
            for (entry, made) in entries.iter().zip(&documents).filter(|(_, m)| m.manifest) {
                prop_assert_eq!(closes(&describing.of_entry(entry)), images, "{:?}", made);
            }
            let told = |of: fn(&Made) -> Option<&'static str>, wanted: Option<&str>| {
                let told: Vec<&str> = documents.iter().filter_map(of).collect();
                wanted.is_none_or(|w| told.is_empty() || told.contains(&w))
            };
            let within = period.is_none_or(|(from, to)| {
                documents.iter().any(|d| d.date.is_none_or(|date| from <= date && date <= to))
            });
            prop_assert_eq!(images, told(|m| m.code, code) && told(|m| m.institution, author) && within);
        }
    }

    /// The archive tells a date in no form of DICOM, and a manifest that must say a time says one that nobody knows: either
    /// may be any day, whatever day a report tells.
    #[test]
    fn se_02_a_date_that_cannot_be_read_may_be_any() {
        let dated = Made { manifest: true, by_accession: false, code: None, institution: None, date: Some("20260101") };
        let describing = Describing::of(&[entry(0, &dated)], true);
        let period = Some(("20300101".to_owned(), "20300101".to_owned()));
        let block = Block { period, ..Block::default() };
        let directives = Directives { blocks: vec![block], ..Directives::default() };
        let closes = |facts: &Facts| directives.closes(facts, &[], &radiologist(), jiff::Timestamp::UNIX_EPOCH);
        for (told, closed) in [
            (None, false),
            (Some("20260102"), false),
            (Some("2026.01.02"), false),
            (Some("20300101"), true),
            (Some("2 Jan 2026"), true),
            (Some("2026-01-02"), true),
        ] {
            let (facts, _) = describing.of_study(&Uid::parse(STUDY).expect("a UID"), &[]).with_archive(&[], told);
            assert_eq!(closes(&facts), closed, "{told:?}");
        }
        let undated =
            DocumentEntry { creation_time: Dtm::parse(UNDATED).ok(), ..entry(0, &Made { date: None, ..dated }) };
        assert!(closes(&Facts::of_entry(&undated)));
        assert_eq!(Facts::of_entry(&undated).descriptions[0].service_date, None, "policies see none");
    }

    #[test]
    fn se_02_a_manifest_that_names_no_study_may_be_of_any() {
        let made = Made { manifest: true, by_accession: false, code: Some("R"), institution: None, date: None };
        let unplaced = DocumentEntry { reference_ids: Vec::new(), ..entry(0, &made) };
        let describing = Describing::of(&[unplaced], true);
        let (facts, _) = describing.of_study(&Uid::parse(STUDY).expect("a UID"), &[]).with_archive(&[], None);
        assert_eq!(facts.confidentiality, Some(vec!["R".into()]));
    }

    #[test]
    fn a_replaced_report_describes_nothing() {
        let secret = Made { manifest: false, by_accession: false, code: Some("R"), institution: None, date: None };
        let manifest = Made { manifest: true, code: Some("N"), ..secret.clone() };
        let replaced = DocumentEntry { availability: Availability::Deprecated, ..entry(1, &secret) };
        let describing = Describing::of(&[entry(0, &manifest), replaced], true);
        let (facts, _) = describing.of_study(&Uid::parse(STUDY).expect("a UID"), &[]).with_archive(&[], None);
        assert_eq!(facts.confidentiality, Some(vec!["N".into()]));
    }
}
