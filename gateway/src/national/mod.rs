//! NCP-A towards its own national systems: one trait per IHE actor that we call.
//!
//! A connector never decides who may see what: it is handed an [`Authorised`] look-up or disclosure, which only
//! [`crate::policy`] can make. Look-ups return facts (patients, metadata, where instances lie); bytes are returned for
//! a [`Disclose`] alone, so code that fetches before the release decision does not compile.
//!
//! ```compile_fail
//! # use ncp_gateway::national::{National, PatientObjects};
//! async fn looks_up_without_a_decision(national: &National, of: &PatientObjects) {
//!     let _ = national.registered(of).await; // expects &Authorised<LookUp<PatientObjects>>
//! }
//! ```
//! ```compile_fail
//! # use ncp_gateway::national::{National, DocumentRepository};
//! # use ncp_ihe::DocumentEntry;
//! async fn fetches_without_a_release(national: &National, entry: DocumentEntry) {
//!     let _ = national.retrieve(entry).await; // expects Authorised<Disclose<DocumentEntry>>
//! }
//! ```

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use ncp_ihe::{
    Availability, DocumentEntry, DocumentRequest, ImagingRequest, ObjectIds, PatientId, PatientQuery, PatientRecord,
    StudyRequest, Uid,
};

use crate::compare::Misfit;
use crate::instance::{Expected, Foreign};
use crate::lists::{NoRoom, Share};
use crate::patient_key::{PatientKey, Person};
use crate::policy::{Authorised, Disclose, LookUp};
use crate::retry_after;
use crate::whole::NotHeld;

pub mod dicomweb;
pub mod directory;
pub mod embedded;
pub mod grpc;
mod incoming;
mod manifests;
pub mod narrow;
pub mod omitted;
pub mod patients;
mod recorded;
mod setbacks;
mod sound;
mod usable;
mod way;
pub mod xds;

pub use directory::{Located, National, Registered};
pub(crate) use manifests::UNDATED;
pub use omitted::{Omission, Omitted, Unit};

/// Bytes of one document or instance, in order, as they come.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, NationalError>> + Send>>;
/// The instances of a study, one after the other, each a stream.
pub type InstanceStream = Pin<Box<dyn Stream<Item = Result<Instance, NationalError>> + Send>>;

/// Patient Demographics Supplier: who is this person in the national registers?
pub trait PatientDemographicsSupplier {
    /// Finds the persons that carry one of the queried national identifiers. Demographics narrow, never widen.
    fn find(
        &self,
        query: &Authorised<LookUp<PatientQuery>>,
    ) -> impl Future<Output = Result<Vec<PatientRecord>, NationalError>> + Send;
}

/// What a Document Registry is asked for: everything of one patient. Stored queries are evaluated by the Responding
/// Gateway ([`ncp_ihe::StoredQuery::select`]), after release and in national and European codes alike.
#[derive(Debug, Clone)]
pub struct PatientObjects {
    /// Whose.
    pub patient: PatientId,
    /// In one of these statuses.
    pub status: Vec<Availability>,
    /// Whether submission sets, folders and associations are needed beside the entries.
    pub groups: bool,
    /// The memory of what is listed: it stays taken while whoever asks keeps this.
    pub share: Share,
}

/// Document Registry: metadata only. `home` is left empty; the Responding Gateway stamps its own.
pub trait DocumentRegistry {
    /// All registry objects of a patient: entries, and where the registry has them submission sets, folders and the
    /// associations between them; and what of them is missing. More than was asked for does no harm.
    fn registered(
        &self,
        of: &Authorised<LookUp<PatientObjects>>,
    ) -> impl Future<Output = Result<Registered, NationalError>> + Send;

    /// The entries that carry these ids, whosever they are; release decides afterwards. A registry that can only look
    /// up by patient may answer those of the patient under treatment alone.
    fn entries(
        &self,
        ids: &Authorised<LookUp<ObjectIds>>,
    ) -> impl Future<Output = Result<Vec<DocumentEntry>, NationalError>> + Send;
}

/// Document Repository: the bytes of one released document.
pub trait DocumentRepository {
    /// Fetches a document whose entry was released.
    fn retrieve(
        &self,
        entry: Authorised<Disclose<DocumentEntry>>,
    ) -> impl Future<Output = Result<Document, NationalError>> + Send;
}

/// Imaging Document Source: studies and their instances.
pub trait ImagingDocumentSource {
    /// Resolves a request against the source's index: whose study it is and which instances are there. No pixels move.
    fn locate(
        &self,
        request: &Authorised<LookUp<ImagingRequest>>,
    ) -> impl Future<Output = Result<Vec<LocatedStudy>, NationalError>> + Send;

    /// Opens the instances of a released study, byte for byte as stored. When this returns the source has said which
    /// of them will not come; the others are promised.
    ///
    /// Dropping the stream cancels the work within a second. An instance that was promised and cannot be had is one
    /// whose content fails, so that it is known which; an error of the stream itself ends it.
    fn retrieve_instances(
        &self,
        study: Authorised<Disclose<LocatedStudy>>,
    ) -> impl Future<Output = Result<Retrieval, NationalError>> + Send;
}

/// One document as its repository holds it.
pub struct Document {
    /// Media type of the bytes, as in the entry's mimeType.
    pub media_type: String,
    /// Length in bytes where the repository says it beforehand.
    pub size: Option<u64>,
    /// Instances that a study has got since this manifest of it was listed.
    pub newer: usize,
    /// The content.
    pub content: ByteStream,
}

/// The instances of a study on their way out.
pub struct Retrieval {
    /// Listed, and yet not to be had.
    pub missing: Vec<(DocumentRequest, Missing)>,
    /// Why of those some are withheld: each raises an alert.
    pub foreign: Vec<Foreign>,
    /// The others, in any order.
    pub instances: InstanceStream,
}

impl Retrieval {
    /// What a source sends, of which nothing is known to be missing.
    pub(crate) fn of(instances: InstanceStream) -> Self {
        Self { missing: Vec::new(), foreign: Vec::new(), instances }
    }
}

/// One DICOM Part-10 object on its way out.
pub struct Instance {
    /// The request it answers; its document is the SOP Instance UID.
    pub request: DocumentRequest,
    /// Length in bytes where known.
    pub size: Option<u64>,
    /// Part-10 bytes.
    pub content: ByteStream,
}

/// A study as an Imaging Document Source knows it.
#[derive(Debug, Clone)]
pub struct LocatedStudy {
    /// Study Instance UID.
    pub study: Uid,
    /// The national patient whose study it is; `None` when the archive's id fits nobody.
    pub patient: Option<PatientId>,
    /// What the source lists of the requested instances, in request order.
    pub instances: Vec<LocatedInstance>,
    /// Requested, not to be had.
    pub missing: Vec<(DocumentRequest, Missing)>,
    /// Modalities (0008,0060) of the requested series.
    pub modalities: Vec<String>,
    /// Study Date (0008,0020), YYYYMMDD, local to the source.
    pub study_date: Option<String>,
    /// Entries of its manifests that the source knows: those that it makes, and those it read to find the study.
    pub manifests: Vec<DocumentEntry>,
    /// Ids under which its objects may name the patient.
    pub patient_ids: Vec<PatientKey>,
    /// What else is known of the patient.
    pub person: Person,
    /// Transfer syntaxes that the requester takes.
    pub transfer_syntaxes: Vec<Uid>,
}

impl LocatedStudy {
    /// A study of which its source cannot say whose it is nor what it has.
    pub(crate) fn unreached(study: &StudyRequest, error: &NationalError, syntaxes: &[Uid]) -> Self {
        let why = Missing::of(error);
        Self {
            study: study.study.clone(),
            patient: None,
            instances: Vec::new(),
            missing: study.series.iter().flat_map(|s| &s.instances).map(|i| (i.clone(), why)).collect(),
            modalities: Vec::new(),
            study_date: None,
            manifests: Vec::new(),
            patient_ids: Vec::new(),
            person: Person::default(),
            transfer_syntaxes: syntaxes.to_vec(),
        }
    }

    /// Adds what another source has of the same study.
    pub(crate) fn join(&mut self, other: Self) {
        self.instances.extend(other.instances);
        self.missing.extend(other.missing);
        self.patient_ids.extend(other.patient_ids);
        self.manifests.extend(other.manifests);
        for modality in other.modalities {
            if !self.modalities.contains(&modality) {
                self.modalities.push(modality);
            }
        }
    }

    /// What each of its instances must agree with.
    pub(crate) fn expected(&self) -> Expected {
        Expected {
            study: self.study.clone(),
            patient_ids: Some(self.patient_ids.clone()),
            person: self.person.clone(),
            transfer_syntaxes: self.transfer_syntaxes.iter().map(ToString::to_string).collect(),
        }
    }
}

/// One instance that a source promises.
#[derive(Debug, Clone)]
pub struct LocatedInstance {
    /// The request it answers.
    pub request: DocumentRequest,
    /// Series Instance UID (0020,000E).
    pub series: Uid,
    /// SOP Class UID (0008,0016) where the index has it.
    pub sop_class: Option<Uid>,
    /// Stored transfer syntax (0002,0010) where the index has it.
    pub transfer_syntax: Option<Uid>,
    /// Length in bytes where known.
    pub size: Option<u64>,
}

/// Why an instance will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No such instance in that study, or the source does not answer for that Retrieve Location UID's study.
    Unknown,
    /// No source is configured for the Retrieve Location UID.
    UnknownSource,
    /// Stored in a transfer syntax that the requester did not list.
    TransferSyntax,
    /// The object names another patient than the study's; it is withheld.
    Mismatch,
    /// The source says it has it and could not send it.
    Failed,
    /// The source is busy, and says for how long, if it does.
    Busy(Option<Duration>),
}

impl Missing {
    /// What a failure means for the instances that it keeps away.
    pub fn of(error: &NationalError) -> Self {
        match error {
            NationalError::Foreign(Foreign::OtherSyntax) | NationalError::TransferSyntax => Self::TransferSyntax,
            NationalError::Foreign(_) => Self::Mismatch,
            NationalError::UnknownDocument => Self::Unknown,
            NationalError::UnknownRepository => Self::UnknownSource,
            NationalError::Busy(after) => Self::Busy(*after),
            _ => Self::Failed,
        }
    }
}

/// What a national system may answer instead of data.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NationalError {
    /// The person is not in the national registers.
    #[error("no such patient")]
    NoPatient,
    /// More than one person fits.
    #[error("more than one patient fits")]
    Ambiguous,
    /// The registry would answer more entries than the limit.
    #[error("too many results")]
    TooMany,
    /// No repository or source carries that unique id.
    #[error("unknown repository or source")]
    UnknownRepository,
    /// The document or instance is not there (any more).
    #[error("unknown document")]
    UnknownDocument,
    /// The study has another manifest now, and the one that was listed is not kept any more.
    #[error("document was replaced")]
    Replaced,
    /// The system does not answer or answered nonsense.
    #[error("national system failed: {reason}")]
    Down {
        /// Operator's reason, free of personal data.
        reason: String,
        /// Whether asking again may help.
        retry: bool,
    },
    /// It answered in a coding or charset that is not known, or not in the one that it declares: which one.
    #[error("national system's answer cannot be read: {0}")]
    Unreadable(String),
    /// The system asks to come back later, and says when, if it does.
    #[error("national system is busy{}", .0.map(|after| format!(" for {} s", retry_after::seconds(after))).unwrap_or_default())]
    Busy(Option<Duration>),
    /// The object differs from what the index promised.
    #[error("object does not fit its index entry: {0}")]
    Mismatch(&'static str),
    /// The document cannot be shown rightly in the form that was asked for; the text says why and is told to the peer.
    #[error("{0}")]
    NotShown(&'static str),
    /// The instance is another's than was asked for.
    #[error("{}", .0.rule())]
    Foreign(Foreign),
    /// None of the requested transfer syntaxes can be had.
    #[error("none of the requested transfer syntaxes")]
    TransferSyntax,
}

/// It is this gateway that has no memory for the list.
impl From<NoRoom> for NationalError {
    fn from(none: NoRoom) -> Self {
        match none {
            NoRoom::Busy => Self::Busy(Some(crate::admission::AGAIN)),
            NoRoom::TooLong => Self::TooMany,
        }
    }
}

impl From<NotHeld> for NationalError {
    fn from(why: NotHeld) -> Self {
        match why {
            NotHeld::Busy => Self::Busy(Some(crate::admission::AGAIN)),
            NotHeld::TooLarge => Self::broken("document is larger than one that may be held"),
        }
    }
}

impl From<Misfit> for NationalError {
    fn from(misfit: Misfit) -> Self {
        Self::Mismatch(misfit.rule())
    }
}

impl NationalError {
    /// A failure that may pass.
    pub fn down(reason: impl Into<String>) -> Self {
        Self::Down { reason: reason.into(), retry: true }
    }

    /// A failure that stays until somebody mends it.
    pub fn broken(reason: impl Into<String>) -> Self {
        Self::Down { reason: reason.into(), retry: false }
    }

    /// Why an instance is withheld, where it is.
    pub(crate) fn foreign(&self) -> Option<Foreign> {
        match self {
            Self::Foreign(foreign) => Some(*foreign),
            _ => None,
        }
    }

    /// A word for counters.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NoPatient => "no-patient",
            Self::Ambiguous => "ambiguous",
            Self::TooMany => "too-many",
            Self::UnknownRepository => "unknown-repository",
            Self::UnknownDocument => "not-there",
            Self::Replaced => "replaced",
            Self::Down { .. } => "failed",
            Self::Unreadable(_) => "unreadable",
            Self::Busy(_) => "busy",
            Self::Mismatch(_) => "mismatch",
            Self::Foreign(_) => "withheld",
            Self::TransferSyntax => "transfer-syntax",
            Self::NotShown(_) => "not-shown",
        }
    }

    /// Whether asking again may help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Down { retry: true, .. })
    }
}

/// A report with one event code, for tests of what lists make of entries.
#[cfg(test)]
pub(crate) fn with_event(event: &ncp_ihe::Coded) -> DocumentEntry {
    let read = |text: &str| ncp_ihe::Oid::parse(text).expect("an OID");
    let code = || ncp_ihe::Coded::new("1", "2.999.3", None);
    let unique_id = format!("2.999.1^{}", event.code);
    DocumentEntry {
        entry_uuid: manifests::entry_uuid(&unique_id),
        unique_id,
        home: None,
        repository_unique_id: read("2.999.7"),
        availability: Availability::Approved,
        entry_type: ncp_ihe::EntryType::Stable,
        patient_id: PatientId::new("1", read("2.999.2")).expect("an id"),
        source_patient_id: None,
        source_patient_info: Vec::new(),
        class_code: code(),
        type_code: code(),
        format_code: code(),
        practice_setting: code(),
        facility_type: code(),
        confidentiality: Vec::new(),
        event_codes: vec![event.clone()],
        language: "en".into(),
        mime_type: "text/xml".into(),
        title: None,
        comments: None,
        creation_time: None,
        service_start: None,
        service_stop: None,
        hash: None,
        size: Some(1),
        reference_ids: Vec::new(),
        authors: Vec::new(),
        legal_authenticator: None,
        extra_slots: Vec::new(),
    }
}
