//! Stored queries as ITI-18 and ITI-38 carry them (ITI TF-2: 3.18.4.1.2, 3.38): what is asked.
//!
//! `parameters` holds the syntax of their slots, `select` what of a registry's objects is the answer.

mod parameters;
mod select;
#[cfg(test)]
mod tests;

use ncp_xml::Element;

use super::metadata::{Availability, DocumentEntry, EntryType, Folder, ReferenceId, SubmissionSet};
pub use select::{Forms, like};

use crate::ns::{QUERY, RIM};
use crate::{Coded, Dtm, HomeCommunityId, MessageError, PatientId};

/// returnType.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnType {
    /// Full objects.
    LeafClass,
    /// Ids only.
    ObjectRef,
}

/// A request of ITI-38.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossGatewayQueryRequest {
    /// `AdhocQuery/@home`.
    pub home: Option<HomeCommunityId>,
    /// returnType.
    pub return_type: ReturnType,
    /// The query.
    pub query: StoredQuery,
}

// One per exchange: its size does not matter.
#[allow(clippy::large_enum_variant)]
/// The queries we serve (ITI TF-2: table 3.38.4.1.2.3-1).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StoredQuery {
    /// FindDocuments; FindDocumentsByReferenceId when reference ids are given.
    FindDocuments(FindDocuments),
    /// FindSubmissionSets.
    FindSubmissionSets(FindSubmissionSets),
    /// FindFolders.
    FindFolders(FindFolders),
    /// GetAll.
    GetAll(GetAll),
    /// GetDocuments.
    GetDocuments(ObjectIds),
    /// GetDocumentsAndAssociations.
    GetDocumentsAndAssociations(ObjectIds),
    /// GetRelatedDocuments.
    GetRelatedDocuments {
        /// The one document.
        document: ObjectIds,
        /// By associations of these types.
        association_types: Vec<String>,
        /// Which of the related.
        contents: ContentFilter,
    },
    /// GetFoldersForDocument.
    GetFoldersForDocument(ObjectIds),
    /// GetFolders.
    GetFolders(ObjectIds),
    /// GetFolderAndContents.
    GetFolderAndContents {
        /// The one folder.
        folder: ObjectIds,
        /// Which of its documents.
        contents: ContentFilter,
    },
    /// GetSubmissionSetAndContents.
    GetSubmissionSetAndContents {
        /// The one submission set.
        set: ObjectIds,
        /// Which of its documents.
        contents: ContentFilter,
    },
    /// GetSubmissionSets that hold these documents and folders (entryUUIDs).
    GetSubmissionSets(Vec<String>),
    /// GetAssociations from or to these objects (entryUUIDs).
    GetAssociations(Vec<String>),
}

/// What a list of codes filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtered {
    /// classCode.
    Class,
    /// typeCode.
    Type,
    /// practiceSettingCode.
    PracticeSetting,
    /// healthcareFacilityTypeCode.
    FacilityType,
    /// eventCodeList: procedures, modalities, body regions.
    Event,
    /// confidentialityCode, contentTypeCode, a folder's codes.
    Other,
}

impl StoredQuery {
    /// The query's UUID URN.
    pub fn id(&self) -> &'static str {
        match self {
            Self::FindDocuments(find) if find.reference_ids.is_empty() => parameters::FIND_DOCUMENTS,
            Self::FindDocuments(_) => parameters::FIND_DOCUMENTS_BY_REFERENCE_ID,
            Self::FindSubmissionSets(_) => parameters::FIND_SUBMISSION_SETS,
            Self::FindFolders(_) => parameters::FIND_FOLDERS,
            Self::GetAll(_) => parameters::GET_ALL,
            Self::GetDocuments(_) => parameters::GET_DOCUMENTS,
            Self::GetDocumentsAndAssociations(_) => parameters::GET_DOCUMENTS_AND_ASSOCIATIONS,
            Self::GetRelatedDocuments { .. } => parameters::GET_RELATED_DOCUMENTS,
            Self::GetFoldersForDocument(_) => parameters::GET_FOLDERS_FOR_DOCUMENT,
            Self::GetFolders(_) => parameters::GET_FOLDERS,
            Self::GetFolderAndContents { .. } => parameters::GET_FOLDER_AND_CONTENTS,
            Self::GetSubmissionSetAndContents { .. } => parameters::GET_SUBMISSION_SET_AND_CONTENTS,
            Self::GetSubmissionSets(_) => parameters::GET_SUBMISSION_SETS,
            Self::GetAssociations(_) => parameters::GET_ASSOCIATIONS,
        }
    }

    /// The patient that the query names; `None` for the Get… queries, which must name a homeCommunityId instead.
    pub fn patient_id(&self) -> Option<&PatientId> {
        match self {
            Self::FindDocuments(find) => Some(&find.patient_id),
            Self::FindSubmissionSets(find) => Some(&find.patient_id),
            Self::FindFolders(find) => Some(&find.patient_id),
            Self::GetAll(get) => Some(&get.patient_id),
            _ => None,
        }
    }

    /// The statuses of the entries that must be known to answer. Whether a submission set or folder may be shown
    /// depends on all of its members, so only FindDocuments narrows.
    pub fn statuses(&self) -> Vec<Availability> {
        match self {
            Self::FindDocuments(find) => find.status.clone(),
            _ => vec![Availability::Approved, Availability::Deprecated],
        }
    }

    /// Whether submission sets, folders or associations can be part of the answer.
    pub fn concerns_groups(&self) -> bool {
        !matches!(self, Self::FindDocuments(_) | Self::GetDocuments(_))
    }

    /// The lists of codes that the query filters by, each an "any of". formatCode is none of them: it says how bytes
    /// are read, and stands for no meaning that a country words in its own way.
    pub fn filters_mut(&mut self) -> Vec<(Filtered, &mut Vec<Coded>)> {
        use Filtered as F;
        fn each(what: Filtered, lists: &mut [Vec<Coded>]) -> impl Iterator<Item = (Filtered, &mut Vec<Coded>)> {
            lists.iter_mut().map(move |list| (what, list))
        }
        match self {
            Self::FindDocuments(find) => {
                let single = [
                    (F::Class, &mut find.class_codes),
                    (F::Type, &mut find.type_codes),
                    (F::PracticeSetting, &mut find.practice_settings),
                    (F::FacilityType, &mut find.facility_types),
                ];
                let several = each(F::Event, &mut find.event_codes).chain(each(F::Other, &mut find.confidentiality));
                single.into_iter().chain(several).filter(|(_, list)| !list.is_empty()).collect()
            }
            Self::FindSubmissionSets(find) if !find.content_types.is_empty() => {
                vec![(F::Other, &mut find.content_types)]
            }
            Self::FindFolders(find) => each(F::Other, &mut find.codes).collect(),
            Self::GetAll(GetAll { contents, .. })
            | Self::GetRelatedDocuments { contents, .. }
            | Self::GetFolderAndContents { contents, .. }
            | Self::GetSubmissionSetAndContents { contents, .. } => {
                each(F::Other, &mut contents.confidentiality).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The documents that the query names by id.
    pub fn documents_named(&self) -> Option<ObjectIds> {
        match self {
            Self::GetDocuments(ids) | Self::GetDocumentsAndAssociations(ids) | Self::GetFoldersForDocument(ids) => {
                Some(ids.clone())
            }
            Self::GetRelatedDocuments { document, .. } => Some(document.clone()),
            Self::GetSubmissionSets(uuids) | Self::GetAssociations(uuids) => Some(ObjectIds::EntryUuids(uuids.clone())),
            _ => None,
        }
    }
}

/// `from <= t < to`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// Lower bound.
    pub from: Option<Dtm>,
    /// Upper bound, excluded.
    pub to: Option<Dtm>,
}

/// FindDocuments and FindDocumentsByReferenceId.
#[derive(Debug, Clone, PartialEq)]
pub struct FindDocuments {
    /// Patient.
    pub patient_id: PatientId,
    /// Statuses; at least one.
    pub status: Vec<Availability>,
    /// classCode, any of.
    pub class_codes: Vec<Coded>,
    /// typeCode, any of.
    pub type_codes: Vec<Coded>,
    /// practiceSettingCode, any of.
    pub practice_settings: Vec<Coded>,
    /// healthcareFacilityTypeCode, any of.
    pub facility_types: Vec<Coded>,
    /// formatCode, any of.
    pub format_codes: Vec<Coded>,
    /// eventCodeList: all of any of.
    pub event_codes: Vec<Vec<Coded>>,
    /// confidentialityCode: all of any of.
    pub confidentiality: Vec<Vec<Coded>>,
    /// referenceIdList: all of any of.
    pub reference_ids: Vec<Vec<ReferenceId>>,
    /// creationTime.
    pub creation: TimeRange,
    /// serviceStartTime.
    pub service_start: TimeRange,
    /// serviceStopTime.
    pub service_stop: TimeRange,
    /// Entry types; stable only by default.
    pub entry_types: Vec<EntryType>,
    /// LIKE patterns.
    pub author_person: Vec<String>,
    /// OpenNCP: largest size in bytes.
    pub max_size: Option<u64>,
    /// OpenNCP: created before.
    pub created_before: Option<jiff::Timestamp>,
    /// OpenNCP: created after.
    pub created_after: Option<jiff::Timestamp>,
}

impl FindDocuments {
    /// All approved documents of a patient.
    pub fn of_patient(patient_id: PatientId) -> Self {
        Self {
            patient_id,
            status: vec![Availability::Approved],
            class_codes: Vec::new(),
            type_codes: Vec::new(),
            practice_settings: Vec::new(),
            facility_types: Vec::new(),
            format_codes: Vec::new(),
            event_codes: Vec::new(),
            confidentiality: Vec::new(),
            reference_ids: Vec::new(),
            creation: TimeRange::default(),
            service_start: TimeRange::default(),
            service_stop: TimeRange::default(),
            entry_types: vec![EntryType::Stable],
            author_person: Vec::new(),
            max_size: None,
            created_before: None,
            created_after: None,
        }
    }
}

/// FindSubmissionSets.
#[derive(Debug, Clone, PartialEq)]
pub struct FindSubmissionSets {
    /// Patient.
    pub patient_id: PatientId,
    /// Statuses; at least one.
    pub status: Vec<Availability>,
    /// sourceId, any of.
    pub source_ids: Vec<String>,
    /// submissionTime.
    pub submitted: TimeRange,
    /// LIKE pattern.
    pub author_person: Vec<String>,
    /// contentTypeCode, any of.
    pub content_types: Vec<Coded>,
}

/// FindFolders.
#[derive(Debug, Clone, PartialEq)]
pub struct FindFolders {
    /// Patient.
    pub patient_id: PatientId,
    /// Statuses; at least one.
    pub status: Vec<Availability>,
    /// lastUpdateTime.
    pub updated: TimeRange,
    /// codeList: all of any of.
    pub codes: Vec<Vec<Coded>>,
}

/// GetAll.
#[derive(Debug, Clone, PartialEq)]
pub struct GetAll {
    /// Patient.
    pub patient_id: PatientId,
    /// Statuses of DocumentEntries; at least one.
    pub document_status: Vec<Availability>,
    /// Statuses of SubmissionSets; at least one.
    pub set_status: Vec<Availability>,
    /// Statuses of Folders; at least one.
    pub folder_status: Vec<Availability>,
    /// Which documents.
    pub contents: ContentFilter,
}

/// Which documents of a whole are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentFilter {
    /// formatCode, any of.
    pub format_codes: Vec<Coded>,
    /// confidentialityCode: all of any of.
    pub confidentiality: Vec<Vec<Coded>>,
    /// Entry types; stable only by default.
    pub entry_types: Vec<EntryType>,
}

impl Default for ContentFilter {
    fn default() -> Self {
        Self { format_codes: Vec::new(), confidentiality: Vec::new(), entry_types: vec![EntryType::Stable] }
    }
}

/// Which objects, by exactly one of the two kinds of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectIds {
    /// entryUUIDs.
    EntryUuids(Vec<String>),
    /// uniqueIds.
    UniqueIds(Vec<String>),
}

impl ObjectIds {
    fn hold(&self, entry_uuid: &str, unique_id: &str) -> bool {
        match self {
            Self::EntryUuids(ids) => ids.iter().any(|id| id == entry_uuid),
            Self::UniqueIds(ids) => ids.iter().any(|id| id == unique_id),
        }
    }

    /// Whether they name this entry.
    pub fn name(&self, entry: &DocumentEntry) -> bool {
        self.hold(&entry.entry_uuid, &entry.unique_id)
    }

    fn name_set(&self, set: &SubmissionSet) -> bool {
        self.hold(&set.entry_uuid, &set.unique_id)
    }

    fn name_folder(&self, folder: &Folder) -> bool {
        self.hold(&folder.entry_uuid, &folder.unique_id)
    }
}

impl CrossGatewayQueryRequest {
    /// Reads an AdhocQueryRequest.
    ///
    /// # Errors
    /// Malformed, unknown query, missing, repeated or unreadable parameter.
    pub fn read(body: &Element) -> Result<Self, MessageError> {
        if !body.is(QUERY, "AdhocQueryRequest") {
            return Err(MessageError::Malformed("AdhocQueryRequest"));
        }
        let option = body.child(QUERY, "ResponseOption").ok_or(MessageError::Malformed("ResponseOption"))?;
        let return_type = match option.get("returnType") {
            Some("LeafClass") => ReturnType::LeafClass,
            Some("ObjectRef") => ReturnType::ObjectRef,
            _ => return Err(MessageError::QueryParamInvalid("returnType")),
        };
        let adhoc = body.child(RIM, "AdhocQuery").ok_or(MessageError::Malformed("AdhocQuery"))?;
        let home = match adhoc.get("home").map(str::trim) {
            Some(home) => Some(HomeCommunityId::parse(home).map_err(|_| MessageError::HomeCommunityUnknown)?),
            None => None,
        };
        Ok(Self { home, return_type, query: parameters::read(adhoc)? })
    }

    /// An AdhocQuery as another community takes it: as it was written, a list that is too long for one Value in several.
    ///
    /// # Errors
    /// A text that is too long for a Value and no list.
    pub fn fitting(adhoc: &Element) -> Result<Element, MessageError> {
        parameters::fitting(adhoc)
    }

    /// An AdhocQueryRequest, as it was written, with its class codes in one Value; where the query has none, with these.
    /// A query that is not for documents of a patient stays as it is.
    pub fn with_class_codes(&self, body: Element, otherwise: &[Coded]) -> Element {
        let StoredQuery::FindDocuments(find) = &self.query else { return body };
        let codes = if find.class_codes.is_empty() { otherwise } else { &find.class_codes };
        if codes.is_empty() {
            return body;
        }
        let mut out = Element::new(QUERY, "AdhocQueryRequest");
        for child in body.into_elements() {
            if !child.is(RIM, "AdhocQuery") {
                out.push(child);
                continue;
            }
            let mut adhoc = Element::new(RIM, "AdhocQuery");
            for name in ["id", "home"] {
                if let Some(value) = child.get(name) {
                    adhoc.set_attr("", name, value);
                }
            }
            let is_class = |slot: &Element| slot.get("name") == Some(parameters::CLASS);
            let others = child.into_elements().filter(|slot| !is_class(slot));
            out.push(adhoc.with_all(others).with(parameters::class_codes_in_one_value(codes)));
        }
        out
    }

    /// Writes an AdhocQueryRequest.
    pub fn to_element(&self) -> Element {
        let return_type = match self.return_type {
            ReturnType::LeafClass => "LeafClass",
            ReturnType::ObjectRef => "ObjectRef",
        };
        let option =
            Element::new(QUERY, "ResponseOption").attr("returnComposedObjects", "true").attr("returnType", return_type);
        let mut adhoc = Element::new(RIM, "AdhocQuery").attr("id", self.query.id());
        if let Some(home) = &self.home {
            adhoc.set_attr("", "home", home.to_string());
        }
        Element::new(QUERY, "AdhocQueryRequest").with(option).with(adhoc.with_all(parameters::write(&self.query)))
    }
}
