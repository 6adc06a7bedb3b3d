//! The slots of an AdhocQuery with the value syntax of ITI TF-2: 3.18.4.1.2.3.5 and the variants of the field.

use std::collections::HashSet;

use ncp_xml::Element;

use super::{ContentFilter, FindDocuments, FindFolders, FindSubmissionSets, GetAll, ObjectIds, StoredQuery, TimeRange};
use crate::ns::RIM;
use crate::xds::ebrim;
use crate::xds::metadata::{Availability, EntryType, ReferenceId};
use crate::{Coded, Dtm, MessageError, PatientId};

pub(super) const FIND_DOCUMENTS: &str = "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d";
pub(super) const FIND_DOCUMENTS_BY_REFERENCE_ID: &str = "urn:uuid:12941a89-e02e-4be5-967c-ce4bfc8fe492";
pub(super) const FIND_SUBMISSION_SETS: &str = "urn:uuid:f26abbcb-ac74-4422-8a30-edb644bbc1a9";
pub(super) const FIND_FOLDERS: &str = "urn:uuid:958f3006-baad-4929-a4de-ff1114824431";
pub(super) const GET_ALL: &str = "urn:uuid:10b545ea-725c-446d-9b95-8aeb444eddf3";
pub(super) const GET_DOCUMENTS: &str = "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4";
pub(super) const GET_FOLDERS: &str = "urn:uuid:5737b14c-8a1a-4539-b659-e03a34a5e1e4";
pub(super) const GET_ASSOCIATIONS: &str = "urn:uuid:a7ae438b-4bc2-4642-93e9-be891f7bb155";
pub(super) const GET_DOCUMENTS_AND_ASSOCIATIONS: &str = "urn:uuid:bab9529a-4a10-40b3-a01f-f68a615d247a";
pub(super) const GET_SUBMISSION_SETS: &str = "urn:uuid:51224314-5390-4169-9b91-b1980040715a";
pub(super) const GET_SUBMISSION_SET_AND_CONTENTS: &str = "urn:uuid:e8e3cb2c-e39c-46b9-99e4-c12f57260b83";
pub(super) const GET_FOLDER_AND_CONTENTS: &str = "urn:uuid:b909a503-523d-4517-8acf-8e5834dfc4c7";
pub(super) const GET_FOLDERS_FOR_DOCUMENT: &str = "urn:uuid:10cae35a-c7f9-4cf5-b61e-fc3278ffb578";
pub(super) const GET_RELATED_DOCUMENTS: &str = "urn:uuid:d90e5407-b356-4d91-a89f-873917b4b0e6";

/// A Value is at most 256 characters.
const VALUE_LENGTH: usize = 256;
const LONG: MessageError = MessageError::Malformed("a Value of more than 256 characters");
/// OpenNCP puts whole lists into one Value, which may pass the length of the specification.
const VALUE_LENGTH_READ: usize = VALUE_LENGTH * 64;
/// Ids or codes of one parameter.
const VALUES: usize = 1_000;
/// Letters of all patterns of names of one query: each may be compared with each letter of each author.
const PATTERN_LETTERS: usize = VALUE_LENGTH * 20;
/// Lists of codes of one parameter, of each of which a document must have one: each is widened for itself.
const GROUPS: usize = 20;

type Named = (&'static str, &'static str);
const DOCUMENT: Named = ("$XDSDocumentEntryEntryUUID", "$XDSDocumentEntryUniqueId");
const FOLDER: Named = ("$XDSFolderEntryUUID", "$XDSFolderUniqueId");
const SET: Named = ("$XDSSubmissionSetEntryUUID", "$XDSSubmissionSetUniqueId");
const PATIENT: &str = "$XDSDocumentEntryPatientId";
const STATUS: &str = "$XDSDocumentEntryStatus";
pub(super) const CLASS: &str = "$XDSDocumentEntryClassCode";
const FORMAT: &str = "$XDSDocumentEntryFormatCode";
const CONFIDENTIALITY: &str = "$XDSDocumentEntryConfidentialityCode";
const TYPE: &str = "$XDSDocumentEntryType";
const REFERENCES: &str = "$XDSDocumentEntryReferenceIdList";

/// Reads the query of an AdhocQuery.
///
/// # Errors
/// Unknown query, missing, repeated or unreadable parameter.
pub(super) fn read(adhoc: &Element) -> Result<StoredQuery, MessageError> {
    let p = Parameters(adhoc);
    let id = adhoc.get("id").map(str::trim).unwrap_or_default();
    Ok(match id {
        FIND_DOCUMENTS => StoredQuery::FindDocuments(find_documents(&p)?),
        FIND_DOCUMENTS_BY_REFERENCE_ID => {
            let groups = p.groups(REFERENCES)?;
            let read = |text: &String| ReferenceId::parse(text).ok_or(MessageError::QueryParamInvalid(REFERENCES));
            let groups = groups.iter().map(|group| group.iter().map(read).collect::<Result<Vec<_>, _>>());
            let reference_ids: Vec<Vec<ReferenceId>> = groups.collect::<Result<_, _>>()?;
            if reference_ids.iter().flatten().next().is_none() {
                return Err(MessageError::QueryMissingParam(REFERENCES));
            }
            StoredQuery::FindDocuments(FindDocuments { reference_ids, ..find_documents(&p)? })
        }
        FIND_SUBMISSION_SETS => StoredQuery::FindSubmissionSets(FindSubmissionSets {
            patient_id: p.patient("$XDSSubmissionSetPatientId")?,
            status: p.statuses("$XDSSubmissionSetStatus")?,
            source_ids: p.many("$XDSSubmissionSetSourceId")?,
            submitted: p.range("$XDSSubmissionSetSubmissionTimeFrom", "$XDSSubmissionSetSubmissionTimeTo")?,
            author_person: p.patterns("$XDSSubmissionSetAuthorPerson")?,
            content_types: p.codes("$XDSSubmissionSetContentType")?,
        }),
        FIND_FOLDERS => StoredQuery::FindFolders(FindFolders {
            patient_id: p.patient("$XDSFolderPatientId")?,
            status: p.statuses("$XDSFolderStatus")?,
            updated: p.range("$XDSFolderLastUpdateTimeFrom", "$XDSFolderLastUpdateTimeTo")?,
            codes: p.code_groups("$XDSFolderCodeList")?,
        }),
        GET_ALL => StoredQuery::GetAll(GetAll {
            patient_id: p.patient("$patientId")?,
            document_status: p.statuses(STATUS)?,
            set_status: p.statuses("$XDSSubmissionSetStatus")?,
            folder_status: p.statuses("$XDSFolderStatus")?,
            contents: p.contents()?,
        }),
        GET_DOCUMENTS => StoredQuery::GetDocuments(p.ids(DOCUMENT)?),
        GET_DOCUMENTS_AND_ASSOCIATIONS => StoredQuery::GetDocumentsAndAssociations(p.ids(DOCUMENT)?),
        GET_RELATED_DOCUMENTS => StoredQuery::GetRelatedDocuments {
            document: p.id(DOCUMENT)?,
            association_types: p.required("$AssociationTypes")?,
            contents: p.contents()?,
        },
        GET_FOLDERS_FOR_DOCUMENT => StoredQuery::GetFoldersForDocument(p.id(DOCUMENT)?),
        GET_FOLDERS => StoredQuery::GetFolders(p.ids(FOLDER)?),
        GET_FOLDER_AND_CONTENTS => StoredQuery::GetFolderAndContents { folder: p.id(FOLDER)?, contents: p.contents()? },
        GET_SUBMISSION_SET_AND_CONTENTS => {
            StoredQuery::GetSubmissionSetAndContents { set: p.id(SET)?, contents: p.contents()? }
        }
        GET_SUBMISSION_SETS => StoredQuery::GetSubmissionSets(p.required("$uuid")?),
        GET_ASSOCIATIONS => StoredQuery::GetAssociations(p.required("$uuid")?),
        _ => return Err(MessageError::QueryUnknown),
    })
}

fn find_documents(p: &Parameters<'_>) -> Result<FindDocuments, MessageError> {
    let patient_id = p.patient(PATIENT)?;
    let contents = p.contents()?;
    Ok(FindDocuments {
        status: p.statuses(STATUS)?,
        class_codes: p.codes(CLASS)?,
        type_codes: p.codes("$XDSDocumentEntryTypeCode")?,
        practice_settings: p.codes("$XDSDocumentEntryPracticeSettingCode")?,
        facility_types: p.codes("$XDSDocumentEntryHealthcareFacilityTypeCode")?,
        format_codes: contents.format_codes,
        event_codes: p.code_groups("$XDSDocumentEntryEventCodeList")?,
        confidentiality: contents.confidentiality,
        creation: p.range("$XDSDocumentEntryCreationTimeFrom", "$XDSDocumentEntryCreationTimeTo")?,
        service_start: p.range("$XDSDocumentEntryServiceStartTimeFrom", "$XDSDocumentEntryServiceStartTimeTo")?,
        service_stop: p.range("$XDSDocumentEntryServiceStopTimeFrom", "$XDSDocumentEntryServiceStopTimeTo")?,
        entry_types: contents.entry_types,
        author_person: p.patterns("$XDSDocumentEntryAuthorPerson")?,
        max_size: p.filter("$XDSDocumentEntryFilterMaximumSize", |v| v.parse().ok())?,
        created_before: p.filter("$XDSDocumentEntryFilterCreatedBefore", instant)?,
        created_after: p.filter("$XDSDocumentEntryFilterCreatedAfter", instant)?,
        ..FindDocuments::of_patient(patient_id)
    })
}

/// OpenNCP writes ISO instants where XDS has DTM.
fn instant(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok().or_else(|| Dtm::parse(text).ok()?.earliest())
}

struct Parameters<'a>(&'a Element);

impl Parameters<'_> {
    /// Values of each occurrence of the slot.
    fn groups(&self, name: &'static str) -> Result<Vec<Vec<String>>, MessageError> {
        let slots = self.0.all(RIM, "Slot").filter(|s| s.get("name") == Some(name));
        let mut count = 0;
        slots
            .map(|slot| {
                let mut out = Vec::new();
                for value in ebrim::values_of(slot) {
                    if value.len() > VALUE_LENGTH_READ {
                        return Err(MessageError::QueryParamNumber(name));
                    }
                    let texts = split_value(&value).ok_or(MessageError::QueryParamInvalid(name))?;
                    // Of all occurrences together, an empty list as one.
                    count += texts.len().max(1);
                    if count > VALUES {
                        return Err(MessageError::QueryParamNumber(name));
                    }
                    out.extend(texts);
                }
                Ok(out)
            })
            .collect()
    }

    /// A multi-valued parameter of a single-valued attribute: a second slot would mean AND, which nothing can fit.
    fn many(&self, name: &'static str) -> Result<Vec<String>, MessageError> {
        let mut groups = self.groups(name)?;
        if groups.len() > 1 {
            return Err(MessageError::QueryParamNumber(name));
        }
        Ok(groups.pop().unwrap_or_default())
    }

    /// LIKE patterns of names, each as long as a Value may be.
    fn patterns(&self, name: &'static str) -> Result<Vec<String>, MessageError> {
        let patterns = self.many(name)?;
        if patterns.iter().any(is_long) {
            return Err(LONG);
        }
        if patterns.iter().map(|pattern| pattern.chars().count()).sum::<usize>() > PATTERN_LETTERS {
            return Err(MessageError::QueryParamNumber(name));
        }
        Ok(patterns)
    }

    fn required(&self, name: &'static str) -> Result<Vec<String>, MessageError> {
        let values = self.many(name)?;
        if values.is_empty() { Err(MessageError::QueryMissingParam(name)) } else { Ok(values) }
    }

    fn one(&self, name: &'static str) -> Result<Option<String>, MessageError> {
        let mut values = self.many(name)?;
        if values.len() > 1 {
            return Err(MessageError::QueryParamNumber(name));
        }
        Ok(values.pop().filter(|v| !v.is_empty()))
    }

    fn filter<T>(&self, name: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, MessageError> {
        self.one(name)?.map(|v| read(&v).ok_or(MessageError::QueryParamInvalid(name))).transpose()
    }

    fn patient(&self, name: &'static str) -> Result<PatientId, MessageError> {
        let text = self.one(name)?.ok_or(MessageError::QueryMissingParam(name))?;
        PatientId::parse_cx(&text).map_err(|_| MessageError::QueryParamInvalid(name))
    }

    /// Unknown statuses are ignored; if none remains the parameter counts as missing.
    fn statuses(&self, name: &'static str) -> Result<Vec<Availability>, MessageError> {
        let read = |s: &String| match s.rsplit(':').next() {
            Some("Approved") => Some(Availability::Approved),
            Some("Deprecated") => Some(Availability::Deprecated),
            _ => None,
        };
        let statuses: Vec<Availability> = self.many(name)?.iter().filter_map(read).collect();
        if statuses.is_empty() { Err(MessageError::QueryMissingParam(name)) } else { Ok(statuses) }
    }

    fn codes(&self, name: &'static str) -> Result<Vec<Coded>, MessageError> {
        let texts = self.many(name)?;
        codes(&texts).ok_or(MessageError::QueryParamInvalid(name))
    }

    fn code_groups(&self, name: &'static str) -> Result<Vec<Vec<Coded>>, MessageError> {
        let groups = self.groups(name)?;
        if groups.len() > GROUPS {
            return Err(MessageError::QueryParamNumber(name));
        }
        let read = groups.iter().map(|group| codes(group).ok_or(MessageError::QueryParamInvalid(name)));
        read.filter(|group| !matches!(group, Ok(codes) if codes.is_empty())).collect()
    }

    fn range(&self, from: &'static str, to: &'static str) -> Result<TimeRange, MessageError> {
        let dtm = |text: &str| Dtm::parse(text).ok();
        Ok(TimeRange { from: self.filter(from, dtm)?, to: self.filter(to, dtm)? })
    }

    fn contents(&self) -> Result<ContentFilter, MessageError> {
        let types = self.many(TYPE)?;
        let known = [EntryType::Stable, EntryType::OnDemand].into_iter();
        let mut entry_types: Vec<EntryType> = known.filter(|t| types.iter().any(|u| u == t.urn())).collect();
        if entry_types.is_empty() {
            entry_types.push(EntryType::Stable);
        }
        Ok(ContentFilter {
            format_codes: self.codes(FORMAT)?,
            confidentiality: self.code_groups(CONFIDENTIALITY)?,
            entry_types,
        })
    }

    /// Exactly one of entryUUID and uniqueId.
    fn ids(&self, (uuid, unique): Named) -> Result<ObjectIds, MessageError> {
        let (uuids, uniques) = (self.many(uuid)?, self.many(unique)?);
        match (uuids.is_empty(), uniques.is_empty()) {
            (false, false) => Err(MessageError::QueryParamNumber(unique)),
            (true, true) => Err(MessageError::QueryMissingParam(unique)),
            (false, true) => Ok(ObjectIds::EntryUuids(uuids)),
            (true, false) => Ok(ObjectIds::UniqueIds(uniques)),
        }
    }

    /// As [`ids`](Self::ids), of one object.
    fn id(&self, (uuid, unique): Named) -> Result<ObjectIds, MessageError> {
        match self.ids((uuid, unique))? {
            ObjectIds::EntryUuids(ids) if ids.len() > 1 => Err(MessageError::QueryParamNumber(uuid)),
            ObjectIds::UniqueIds(ids) if ids.len() > 1 => Err(MessageError::QueryParamNumber(unique)),
            one => Ok(one),
        }
    }
}

/// `code^^scheme`; `'a^^s,b^^s'` in one string is OpenNCP's list. A code that stands twice is one: each is widened.
fn codes(texts: &[String]) -> Option<Vec<Coded>> {
    let mut known = HashSet::new();
    let read = texts.iter().flat_map(|t| t.split(',')).map(|t| code(t.trim()));
    read.filter(|code| code.as_ref().is_none_or(|code| known.insert(code.clone()))).collect()
}

fn code(text: &str) -> Option<Coded> {
    let mut parts = text.splitn(3, '^');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(code), Some(""), Some(system)) if !code.is_empty() && !system.is_empty() => {
            Some(Coded::new(code, system, None))
        }
        _ => None,
    }
}

/// `12`, `'a'`, `('a','b')`, `(a)`: the strings inside.
fn split_value(value: &str) -> Option<Vec<String>> {
    let value = value.trim();
    let inner = match value.strip_prefix('(') {
        Some(rest) => rest.strip_suffix(')')?,
        None => value,
    };
    let mut out = Vec::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let (mut text, mut end, bytes) = (String::new(), None, quoted.as_bytes());
            let mut index = 0;
            let mut start = 0;
            while index < bytes.len() {
                if bytes[index] == b'\'' {
                    text.push_str(&quoted[start..index]);
                    if bytes.get(index + 1) == Some(&b'\'') {
                        text.push('\'');
                        index += 2;
                        start = index;
                        continue;
                    }
                    end = Some(index + 1);
                    break;
                }
                index += 1;
            }
            out.push(text);
            rest = quoted[end?..].trim_start();
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            out.push(rest[..end].trim().to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(out)
}

/// Writes the slots of a query.
pub(super) fn write(query: &StoredQuery) -> Vec<Element> {
    let mut out = Slots::default();
    match query {
        StoredQuery::FindDocuments(find) => out.find_documents(find),
        StoredQuery::FindSubmissionSets(find) => {
            out.one("$XDSSubmissionSetPatientId", Some(quoted(&find.patient_id.to_cx())));
            out.list("$XDSSubmissionSetSourceId", find.source_ids.iter().cloned());
            out.range("$XDSSubmissionSetSubmissionTime", &find.submitted);
            out.list("$XDSSubmissionSetAuthorPerson", find.author_person.iter().cloned());
            out.codes("$XDSSubmissionSetContentType", &find.content_types);
            out.statuses("$XDSSubmissionSetStatus", &find.status);
        }
        StoredQuery::FindFolders(find) => {
            out.one("$XDSFolderPatientId", Some(quoted(&find.patient_id.to_cx())));
            out.range("$XDSFolderLastUpdateTime", &find.updated);
            out.groups("$XDSFolderCodeList", &find.codes);
            out.statuses("$XDSFolderStatus", &find.status);
        }
        StoredQuery::GetAll(get) => {
            out.one("$patientId", Some(quoted(&get.patient_id.to_cx())));
            out.statuses(STATUS, &get.document_status);
            out.statuses("$XDSSubmissionSetStatus", &get.set_status);
            out.statuses("$XDSFolderStatus", &get.folder_status);
            out.contents(&get.contents);
        }
        StoredQuery::GetDocuments(ids) | StoredQuery::GetDocumentsAndAssociations(ids) => out.ids(DOCUMENT, ids),
        StoredQuery::GetRelatedDocuments { document, association_types, contents } => {
            out.id(DOCUMENT, document);
            out.list("$AssociationTypes", association_types.iter().cloned());
            out.contents(contents);
        }
        StoredQuery::GetFoldersForDocument(ids) => out.id(DOCUMENT, ids),
        StoredQuery::GetFolders(ids) => out.ids(FOLDER, ids),
        StoredQuery::GetFolderAndContents { folder, contents } => {
            out.id(FOLDER, folder);
            out.contents(contents);
        }
        StoredQuery::GetSubmissionSetAndContents { set, contents } => {
            out.id(SET, set);
            out.contents(contents);
        }
        StoredQuery::GetSubmissionSets(uuids) | StoredQuery::GetAssociations(uuids) => {
            out.list("$uuid", uuids.iter().cloned());
        }
    }
    out.0
}

/// The class codes of a query in one Value, whatever its length: OpenNCP reads the first Value alone.
pub(super) fn class_codes_in_one_value(codes: &[Coded]) -> Element {
    let codes: Vec<String> = codes.iter().map(|c| quoted(&format!("{}^^{}", c.code, c.system))).collect();
    ebrim::slot(CLASS, [format!("({})", codes.join(","))])
}

/// An AdhocQuery whose lists stand in Values of the length that one may have (ITI TF-2: 3.18.4.1.2.3.5).
///
/// # Errors
/// A text that is longer and no list, or that is so in a list.
pub(super) fn fitting(adhoc: &Element) -> Result<Element, MessageError> {
    let mut out = Element::new(adhoc.ns(), adhoc.local());
    for attribute in adhoc.attributes() {
        out.set_attr(attribute.ns(), attribute.local(), attribute.value());
    }
    for slot in adhoc.elements() {
        out.push(if ebrim::values_of(slot).iter().any(is_long) { divided(slot)? } else { slot.clone() });
    }
    Ok(out)
}

fn is_long(value: impl AsRef<str>) -> bool {
    value.as_ref().chars().count() > VALUE_LENGTH
}

fn divided(slot: &Element) -> Result<Element, MessageError> {
    let mut texts = Vec::new();
    for value in ebrim::values_of(slot) {
        let list = value.trim().starts_with('(').then(|| split_value(&value)).flatten();
        texts
            .extend(list.filter(|texts| !texts.iter().any(|text| is_long(format!("({})", quoted(text))))).ok_or(LONG)?);
    }
    let mut out = Slots::default();
    out.list(slot.get("name").unwrap_or_default(), texts);
    out.0.pop().ok_or(LONG)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[derive(Default)]
struct Slots(Vec<Element>);

impl Slots {
    fn one(&mut self, name: &str, value: Option<String>) {
        self.0.extend(value.map(|value| ebrim::slot(name, [value])));
    }

    /// A list in one Value, which OpenNCP needs, unless it would pass the length that a Value may have.
    fn list(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        let mut lists: Vec<String> = Vec::new();
        for value in values {
            let value = quoted(&value);
            match lists.last_mut().filter(|list| list.len() + value.len() + 3 <= VALUE_LENGTH) {
                Some(list) => {
                    list.push(',');
                    list.push_str(&value);
                }
                None => lists.push(value),
            }
        }
        if !lists.is_empty() {
            self.0.push(ebrim::slot(name, lists.into_iter().map(|list| format!("({list})"))));
        }
    }

    fn statuses(&mut self, name: &str, statuses: &[Availability]) {
        self.list(name, statuses.iter().map(|s| s.urn().to_owned()));
    }

    fn codes(&mut self, name: &str, codes: &[Coded]) {
        self.list(name, codes.iter().map(|c| format!("{}^^{}", c.code, c.system)));
    }

    fn groups(&mut self, name: &str, groups: &[Vec<Coded>]) {
        groups.iter().for_each(|any_of| self.codes(name, any_of));
    }

    fn range(&mut self, name: &str, range: &TimeRange) {
        self.one(&format!("{name}From"), range.from.as_ref().map(ToString::to_string));
        self.one(&format!("{name}To"), range.to.as_ref().map(ToString::to_string));
    }

    fn contents(&mut self, contents: &ContentFilter) {
        self.codes(FORMAT, &contents.format_codes);
        self.groups(CONFIDENTIALITY, &contents.confidentiality);
        self.entry_types(&contents.entry_types);
    }

    fn entry_types(&mut self, types: &[EntryType]) {
        if types != [EntryType::Stable] {
            self.list(TYPE, types.iter().map(|t| t.urn().to_owned()));
        }
    }

    fn ids(&mut self, (uuid, unique): Named, ids: &ObjectIds) {
        match ids {
            ObjectIds::EntryUuids(ids) => self.list(uuid, ids.iter().cloned()),
            ObjectIds::UniqueIds(ids) => self.list(unique, ids.iter().cloned()),
        }
    }

    /// A single-valued parameter has no parentheses.
    fn id(&mut self, (uuid, unique): Named, ids: &ObjectIds) {
        let (name, ids) = match ids {
            ObjectIds::EntryUuids(ids) => (uuid, ids),
            ObjectIds::UniqueIds(ids) => (unique, ids),
        };
        self.one(name, ids.first().map(|id| quoted(id)));
    }

    /// Patient, status and class code first and in this order, as OpenNCP sends them.
    fn find_documents(&mut self, find: &FindDocuments) {
        self.one(PATIENT, Some(quoted(&find.patient_id.to_cx())));
        self.statuses(STATUS, &find.status);
        self.codes(CLASS, &find.class_codes);
        self.codes("$XDSDocumentEntryTypeCode", &find.type_codes);
        self.codes("$XDSDocumentEntryPracticeSettingCode", &find.practice_settings);
        self.codes("$XDSDocumentEntryHealthcareFacilityTypeCode", &find.facility_types);
        self.codes(FORMAT, &find.format_codes);
        self.groups("$XDSDocumentEntryEventCodeList", &find.event_codes);
        self.groups(CONFIDENTIALITY, &find.confidentiality);
        for any_of in &find.reference_ids {
            self.list(REFERENCES, any_of.iter().map(ReferenceId::to_cxi));
        }
        self.range("$XDSDocumentEntryCreationTime", &find.creation);
        self.range("$XDSDocumentEntryServiceStartTime", &find.service_start);
        self.range("$XDSDocumentEntryServiceStopTime", &find.service_stop);
        self.list("$XDSDocumentEntryAuthorPerson", find.author_person.iter().cloned());
        self.entry_types(&find.entry_types);
        self.one("$XDSDocumentEntryFilterMaximumSize", find.max_size.map(|size| size.to_string()));
        self.one("$XDSDocumentEntryFilterCreatedBefore", find.created_before.map(|at| at.to_string()));
        self.one("$XDSDocumentEntryFilterCreatedAfter", find.created_after.map(|at| at.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Whatever a consumer lists, no Value that crosses the border is too long, and no text is lost or another.
        #[test]
        fn no_value_is_too_long(
            lists in proptest::collection::vec(proptest::collection::vec("[a-z,()' ]{0,300}", 1..40), 1..4),
        ) {
            let written = |texts: &Vec<String>| format!("({})", texts.iter().map(|t| quoted(t)).collect::<Vec<_>>().join(","));
            let slot = ebrim::slot("$x", lists.iter().map(written));
            let adhoc = Element::new(RIM, "AdhocQuery").attr("id", "x").with(slot);
            match fitting(&adhoc) {
                Ok(out) => {
                    let values = ebrim::slot_values(&out, "$x");
                    proptest::prop_assert!(!values.iter().any(is_long));
                    let read: Vec<String> = values.iter().filter_map(|value| split_value(value)).flatten().collect();
                    proptest::prop_assert_eq!((read, out.get("id")), (lists.concat(), Some("x")));
                }
                Err(_) => proptest::prop_assert!(lists.concat().iter().any(|text| quoted(text).len() > VALUE_LENGTH - 2)),
            }
        }
    }

    #[test]
    fn a_long_text_is_no_list() {
        for (text, fits) in
            [("x".repeat(256), true), ("x".repeat(257), false), (format!("('{}')", "x".repeat(253)), false)]
        {
            let adhoc = Element::new(RIM, "AdhocQuery").with(ebrim::slot("$x", [text]));
            assert_eq!(fitting(&adhoc).is_ok(), fits);
        }
    }

    #[test]
    fn values_have_many_spellings() {
        let split = |v| split_value(v).expect("a value");
        assert_eq!(split("12"), ["12"]);
        assert_eq!(split("'Children''s'"), ["Children's"]);
        assert_eq!(split("('a','b, c')"), ["a", "b, c"]);
        assert_eq!(split("( 'a' , 'b' )"), ["a", "b"]);
        assert!(split("()").is_empty());
        for bad in ["('a'", "'a", "'a'b"] {
            assert!(split_value(bad).is_none(), "{bad}");
        }
    }
}
