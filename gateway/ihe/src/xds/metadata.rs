//! DocumentEntry and its kin (ITI TF-3: 4.2).

use crate::{Coded, Dtm, HomeCommunityId, Oid, PatientId, Uid};

/// formatCode of a KOS manifest: the SOP Class.
pub(super) const KOS_FORMAT: &str = "1.2.840.10008.5.1.4.1.1.88.59";

/// availabilityStatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Approved.
    Approved,
    /// Deprecated.
    Deprecated,
}

impl Availability {
    /// The URN.
    pub fn urn(self) -> &'static str {
        match self {
            Self::Approved => "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved",
            Self::Deprecated => "urn:oasis:names:tc:ebxml-regrep:StatusType:Deprecated",
        }
    }
}

/// objectType.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// Stable.
    Stable,
    /// On demand.
    OnDemand,
}

impl EntryType {
    /// The UUID URN.
    pub fn urn(self) -> &'static str {
        match self {
            Self::Stable => "urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1",
            Self::OnDemand => "urn:uuid:34268e47-fdf5-41a6-ba33-82133c465248",
        }
    }
}

/// An author.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Author {
    /// XCN.
    pub person: Option<String>,
    /// XON.
    pub institutions: Vec<String>,
    /// Text or coded string.
    pub roles: Vec<String>,
    /// Text or coded string.
    pub specialties: Vec<String>,
}

/// An entry of referenceIdList: CXi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceId {
    /// CXi.1
    pub id: String,
    /// CXi.4, the OID of its authority.
    pub authority: Option<Oid>,
    /// CXi.5
    pub kind: String,
}

impl ReferenceId {
    /// Kind of a Study Instance UID.
    pub const STUDY: &str = "urn:ihe:iti:xds:2016:studyInstanceUID";
    /// Kind of an accession number.
    pub const ACCESSION: &str = "urn:ihe:iti:xds:2013:accession";

    /// A study. Only components 1 and 5 are written.
    pub fn study(uid: &Uid) -> Self {
        Self { id: uid.to_string(), authority: None, kind: Self::STUDY.into() }
    }

    /// An accession number with its issuer.
    pub fn accession(number: &str, issuer: Option<Oid>) -> Self {
        Self { id: number.to_owned(), authority: issuer, kind: Self::ACCESSION.into() }
    }

    /// Reads a CXi.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('^').collect();
        let (id, authority, kind) = (parts.first()?, parts.get(3)?, parts.get(4)?);
        let authority = authority.split('&').nth(1).and_then(|oid| Oid::parse(oid).ok());
        Some(Self { id: (*id).to_owned(), authority, kind: (*kind).to_owned() })
    }

    /// Writes it.
    pub fn to_cxi(&self) -> String {
        let authority = self.authority.as_ref().map(|oid| format!("&{oid}&ISO")).unwrap_or_default();
        format!("{}^^^{authority}^{}", self.id, self.kind)
    }
}

/// A document's metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentEntry {
    /// entryUUID.
    pub entry_uuid: String,
    /// uniqueId.
    pub unique_id: String,
    /// homeCommunityId.
    pub home: Option<HomeCommunityId>,
    /// repositoryUniqueId.
    pub repository_unique_id: Oid,
    /// availabilityStatus.
    pub availability: Availability,
    /// objectType.
    pub entry_type: EntryType,
    /// patientId.
    pub patient_id: PatientId,
    /// sourcePatientId.
    pub source_patient_id: Option<PatientId>,
    /// sourcePatientInfo, `PID-3|…`.
    pub source_patient_info: Vec<String>,
    /// classCode.
    pub class_code: Coded,
    /// typeCode.
    pub type_code: Coded,
    /// formatCode.
    pub format_code: Coded,
    /// practiceSettingCode.
    pub practice_setting: Coded,
    /// healthcareFacilityTypeCode.
    pub facility_type: Coded,
    /// confidentialityCode.
    pub confidentiality: Vec<Coded>,
    /// eventCodeList.
    pub event_codes: Vec<Coded>,
    /// languageCode.
    pub language: String,
    /// mimeType.
    pub mime_type: String,
    /// title.
    pub title: Option<String>,
    /// comments.
    pub comments: Option<String>,
    /// creationTime.
    pub creation_time: Option<Dtm>,
    /// serviceStartTime.
    pub service_start: Option<Dtm>,
    /// serviceStopTime.
    pub service_stop: Option<Dtm>,
    /// SHA-1, hex.
    pub hash: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// referenceIdList.
    pub reference_ids: Vec<ReferenceId>,
    /// authors.
    pub authors: Vec<Author>,
    /// legalAuthenticator, XCN.
    pub legal_authenticator: Option<String>,
    /// Slots that the profile does not know.
    pub extra_slots: Vec<(String, Vec<String>)>,
}

impl DocumentEntry {
    /// Slots that hold a DTM. One that cannot be read stays among the slots that the profile does not know.
    pub const DATES: [&str; 3] = ["creationTime", "serviceStartTime", "serviceStopTime"];

    /// Whether it is an imaging manifest in DICOM form.
    pub fn is_manifest(&self) -> bool {
        self.format_code.code == KOS_FORMAT || self.mime_type == "application/dicom"
    }

    /// The pair that says: assembled at retrieval, do not verify.
    pub fn is_delayed_assembly(&self) -> bool {
        self.size == Some(0) && self.hash.as_deref() == Some("da39a3ee5e6b4b0d3255bfef95601890afd80709")
    }

    /// Bytes of memory that it takes, with those that an allocation takes for itself.
    pub fn memory(&self) -> usize {
        const ALLOCATION: usize = 16;
        let text = |text: &str| if text.is_empty() { 0 } else { ALLOCATION + text.len() };
        let optional = |value: Option<&str>| value.map_or(0, text);
        let id = |id: &PatientId| text(&id.extension) + text(id.root.as_str());
        let coded = |code: &Coded| text(&code.code) + text(&code.system) + optional(code.display.as_deref());
        let texts = |all: &[String]| all.iter().map(|one| size_of::<String>() + text(one)).sum::<usize>();
        let codes = |all: &[Coded]| all.iter().map(|one| size_of::<Coded>() + coded(one)).sum::<usize>();
        let author = |author: &Author| {
            let lists = texts(&author.institutions) + texts(&author.roles) + texts(&author.specialties);
            size_of::<Author>() + optional(author.person.as_deref()) + lists
        };
        let reference = |reference: &ReferenceId| {
            let authority = optional(reference.authority.as_ref().map(Oid::as_str));
            size_of::<ReferenceId>() + text(&reference.id) + text(&reference.kind) + authority
        };
        let singles =
            [&self.class_code, &self.type_code, &self.format_code, &self.practice_setting, &self.facility_type];
        let plain = [&self.entry_uuid, &self.unique_id, &self.language, &self.mime_type];
        let further = [&self.title, &self.comments, &self.hash, &self.legal_authenticator];
        let times = [&self.creation_time, &self.service_start, &self.service_stop];
        size_of::<Self>()
            + plain.into_iter().map(|one| text(one)).sum::<usize>()
            + further.into_iter().map(|one| optional(one.as_deref())).sum::<usize>()
            + times.into_iter().map(|one| optional(one.as_ref().map(Dtm::as_str))).sum::<usize>()
            + optional(self.home.as_ref().map(|home| home.0.as_str()))
            + text(self.repository_unique_id.as_str())
            + id(&self.patient_id)
            + self.source_patient_id.as_ref().map_or(0, id)
            + texts(&self.source_patient_info)
            + singles.into_iter().map(coded).sum::<usize>()
            + codes(&self.confidentiality)
            + codes(&self.event_codes)
            + self.reference_ids.iter().map(reference).sum::<usize>()
            + self.authors.iter().map(author).sum::<usize>()
            + self.extra_slots.iter().map(|(name, values)| 2 * ALLOCATION + text(name) + texts(values)).sum::<usize>()
    }

    /// The study it refers to.
    pub fn study_instance_uid(&self) -> Option<Uid> {
        let reference = self.reference_ids.iter().find(|r| r.kind == ReferenceId::STUDY)?;
        Uid::parse(&reference.id).ok()
    }
}

/// A submission set's metadata (ITI TF-3: 4.2.3.3).
#[derive(Debug, Clone, PartialEq)]
pub struct SubmissionSet {
    /// entryUUID.
    pub entry_uuid: String,
    /// uniqueId.
    pub unique_id: String,
    /// homeCommunityId.
    pub home: Option<HomeCommunityId>,
    /// availabilityStatus.
    pub availability: Availability,
    /// patientId.
    pub patient_id: PatientId,
    /// sourceId.
    pub source_id: String,
    /// contentTypeCode.
    pub content_type: Coded,
    /// submissionTime.
    pub submission_time: Option<Dtm>,
    /// intendedRecipient.
    pub intended_recipients: Vec<String>,
    /// title.
    pub title: Option<String>,
    /// comments.
    pub comments: Option<String>,
    /// authors.
    pub authors: Vec<Author>,
    /// Slots that the profile does not know.
    pub extra_slots: Vec<(String, Vec<String>)>,
}

/// A folder's metadata (ITI TF-3: 4.2.3.4).
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// entryUUID.
    pub entry_uuid: String,
    /// uniqueId.
    pub unique_id: String,
    /// homeCommunityId.
    pub home: Option<HomeCommunityId>,
    /// availabilityStatus.
    pub availability: Availability,
    /// patientId.
    pub patient_id: PatientId,
    /// codeList.
    pub codes: Vec<Coded>,
    /// lastUpdateTime.
    pub last_update: Option<Dtm>,
    /// title.
    pub title: Option<String>,
    /// comments.
    pub comments: Option<String>,
    /// Slots that the profile does not know.
    pub extra_slots: Vec<(String, Vec<String>)>,
}

/// An association between two registry objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// entryUUID.
    pub uuid: String,
    /// associationType.
    pub kind: String,
    /// sourceObject.
    pub source: String,
    /// targetObject.
    pub target: String,
    /// SubmissionSetStatus of a HasMember: `Original` or `Reference`.
    pub submission_set_status: Option<String>,
}

impl Association {
    /// A submission set or folder has a member.
    pub const HAS_MEMBER: &str = "urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember";
    /// A document is a transformation of another.
    pub const XFRM: &str = "urn:ihe:iti:2007:AssociationType:XFRM";

    /// A document replaces another.
    pub const RPLC: &str = "urn:ihe:iti:2007:AssociationType:RPLC";

    /// Whether it is of that type. Peers shorten the URN: the last component decides.
    pub fn is(&self, kind: &str) -> bool {
        self.kind.rsplit(':').next() == kind.rsplit(':').next()
    }
}

/// What a registry holds or answers: entries, what they were submitted in, what groups them, how they relate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegistryObjects {
    /// DocumentEntries.
    pub entries: Vec<DocumentEntry>,
    /// SubmissionSets.
    pub submission_sets: Vec<SubmissionSet>,
    /// Folders.
    pub folders: Vec<Folder>,
    /// Associations.
    pub associations: Vec<Association>,
}

impl RegistryObjects {
    /// Entries alone.
    pub fn of_entries(entries: Vec<DocumentEntry>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// Adds what another registry holds.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.submission_sets.extend(other.submission_sets);
        self.folders.extend(other.folders);
        self.associations.extend(other.associations);
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.entries.len() + self.submission_sets.len() + self.folders.len() + self.associations.len()
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the objects whose entryUUID is wanted.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.entries.retain(|e| wanted(&e.entry_uuid));
        self.submission_sets.retain(|s| wanted(&s.entry_uuid));
        self.folders.retain(|f| wanted(&f.entry_uuid));
        self.associations.retain(|a| wanted(&a.uuid));
    }

    /// Names the community that holds them.
    pub fn set_home(&mut self, home: &HomeCommunityId) {
        let homes = self.entries.iter_mut().map(|e| &mut e.home);
        let homes = homes.chain(self.submission_sets.iter_mut().map(|s| &mut s.home));
        for own in homes.chain(self.folders.iter_mut().map(|f| &mut f.home)) {
            *own = Some(home.clone());
        }
    }

    /// entryUUIDs in the order of the lists.
    pub fn uuids(&self) -> impl Iterator<Item = &str> {
        let entries = self.entries.iter().map(|e| e.entry_uuid.as_str());
        let sets = self.submission_sets.iter().map(|s| s.entry_uuid.as_str());
        let folders = self.folders.iter().map(|f| f.entry_uuid.as_str());
        entries.chain(sets).chain(folders).chain(self.associations.iter().map(|a| a.uuid.as_str()))
    }
}
