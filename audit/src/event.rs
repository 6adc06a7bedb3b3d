//! What happened, typed. Serialised into the spool, never into logs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The transactions that are audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transaction {
    /// Cross Gateway Patient Discovery.
    Iti55,
    /// Cross Gateway Query.
    Iti38,
    /// Cross Gateway Retrieve.
    Iti39,
    /// Cross Gateway Retrieve Imaging Document Set.
    Rad75,
    /// Registry Stored Query.
    Iti18,
    /// Retrieve Document Set.
    Iti43,
    /// Retrieve Imaging Document Set.
    Rad69,
    /// Mobile Patient Demographics Query.
    Iti78,
    /// Mobile Patient Identifier Cross-reference Query.
    Iti83,
    /// Patient Demographics Match.
    Iti119,
    /// Find Document References.
    Iti67,
    /// Retrieve Document.
    Iti68,
    /// QIDO-RS Query.
    Rad129,
    /// WADO-RS Retrieve.
    Rad107,
    /// WADO-RS across communities, as the imaging manifest profile names it.
    Rad160,
    /// Refused before it was known.
    Unknown,
}

impl Transaction {
    /// All that have a row of their own.
    pub const ALL: [Self; 16] = [
        Self::Iti55,
        Self::Iti38,
        Self::Iti39,
        Self::Rad75,
        Self::Iti18,
        Self::Iti43,
        Self::Rad69,
        Self::Iti78,
        Self::Iti83,
        Self::Iti119,
        Self::Iti67,
        Self::Iti68,
        Self::Rad129,
        Self::Rad107,
        Self::Rad160,
        Self::Unknown,
    ];
}

/// Which side we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// NCP-B.
    Initiator,
    /// NCP-A.
    Responder,
}

/// EventOutcomeIndicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutcomeIndicator {
    /// 0
    Success,
    /// 4
    Minor,
    /// 8
    Serious,
    /// 12
    Major,
}

impl OutcomeIndicator {
    /// The number on the wire.
    pub fn code(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Minor => 4,
            Self::Serious => 8,
            Self::Major => 12,
        }
    }
}

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Two letters, empty when unknown.
    pub country: String,
    /// homeCommunityId, empty when unknown.
    pub home_community_id: String,
    /// CN of its TLS certificate.
    pub certificate_name: String,
    /// IP address.
    pub address: String,
    /// Its endpoint, where we call it.
    pub endpoint: String,
}

/// Written before anything is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Ties the records of one exchange together.
    pub exchange_id: String,
    /// As far as known.
    pub transaction: Transaction,
    /// Which side we are.
    pub role: Role,
    /// The other end.
    pub peer: PeerFacts,
    /// Our endpoint.
    pub own_endpoint: String,
    /// Our address or name on the network; empty when not known.
    #[serde(default)]
    pub own_address: String,
    /// W3C trace context; empty when the exchange is not traced.
    #[serde(default)]
    pub trace: String,
    /// When it began.
    pub began: Timestamp,
}

/// The professional, from verified assertions or a verified token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HumanRequestor {
    /// `alias<user@issuer>`
    pub user_name: String,
    /// Display name.
    pub display: String,
    /// Role code, system, display.
    pub role: (String, String, String),
    /// Organisation.
    pub organisation: String,
}

/// A query object (2/24).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueryObject {
    /// Stored query id, or the id of the patient query.
    pub id: String,
    /// The query itself.
    #[serde(with = "crate::as_text")]
    pub bytes: Vec<u8>,
    /// Class codes asked for, as `code^^system`.
    #[serde(default)]
    pub class_codes: Vec<String>,
}

/// A document object (2/3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DocumentObject {
    /// uniqueId.
    pub unique_id: String,
    /// RepositoryUniqueId.
    pub repository: String,
    /// homeCommunityId.
    pub home: String,
    /// Bytes sent or received.
    pub bytes: u64,
    /// SHA-256, hex, empty when not whole.
    pub sha256: String,
    /// Digest of the maps that transcoded it, hex, empty when none did.
    pub snapshot: String,
}

/// A study object (2/3, 110180).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StudyObject {
    /// Study Instance UID.
    pub study: String,
    /// Series Instance UIDs.
    pub series: Vec<String>,
    /// Retrieve Location UID.
    pub repository: String,
    /// homeCommunityId.
    pub home: String,
    /// Accession Number (0008,0050), empty when not known.
    #[serde(default)]
    pub accession: String,
    /// SOP Class UIDs and how many instances each has, where the index knows them.
    #[serde(default)]
    pub sop_classes: Vec<(String, u64)>,
    /// Whole instances.
    pub instances: u64,
    /// Bytes, also of an instance that broke off.
    pub bytes: u64,
    /// SHA-256 over the SHA-256 of the whole instances, in order, hex.
    pub sha256: String,
    /// SOP Instance UIDs of those that did not come, within [`LOST`](crate::bounds::LOST).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// What was odd about its manifest, by names of our own; empty when nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub odd: String,
    /// How many more did not come, with the digest of their UIDs; empty when all are listed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lost_more: String,
}

/// Written before the first byte of the answer leaves, or before the request goes out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Decision {
    /// The transaction, now known.
    pub transaction: Option<Transaction>,
    /// wsa:MessageID.
    pub message_id: String,
    /// The same message came before and was carried out then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeat: bool,
    /// SOAP header of the request, byte for byte: evidence that goes into the `ehdsi` dialect. Empty where no receiver
    /// takes that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_header: String,
    /// Who.
    pub user: Option<HumanRequestor>,
    /// CX.
    pub patient: Option<String>,
    /// TREATMENT, EMERGENCY.
    pub purpose: String,
    /// What was asked.
    pub query: Option<QueryObject>,
    /// Documents that will be disclosed.
    pub documents: Vec<DocumentObject>,
    /// Studies that will be disclosed.
    pub studies: Vec<StudyObject>,
}

/// Written after the last byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub indicator: OutcomeIndicator,
    /// In words, without personal data.
    pub description: String,
    /// The error code that the other side was told, empty when none.
    #[serde(default)]
    pub error_code: String,
    /// Documents that went.
    pub documents: Vec<DocumentObject>,
    /// Studies that went.
    pub studies: Vec<StudyObject>,
    /// Documents and instances that did not: a second message says so.
    pub failed_documents: Vec<DocumentObject>,
    /// Studies with instances that did not.
    pub failed_studies: Vec<StudyObject>,
    /// Digest of the maps that translated the answer's metadata, hex; empty when none did.
    #[serde(default)]
    pub snapshot: String,
    /// Requests that we sent: evidence, as [`Decision::request_header`] is of one that came.
    #[serde(default)]
    pub requests: Vec<Evidence>,
    /// Responses that came or that we sent.
    #[serde(default)]
    pub responses: Vec<Evidence>,
    /// CN of the certificate that the other end showed, where we asked it; empty when none was seen.
    #[serde(default)]
    pub peer_certificate: String,
    /// Raised besides.
    pub alerts: Vec<Event>,
}

/// A message by its ID, and its header where the `ehdsi` dialect keeps it for proof.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// wsa:MessageID.
    pub message_id: String,
    /// Its SOAP header; empty where none is kept, or another message of the exchange has the same assertions.
    pub header: String,
}

impl Outcome {
    /// An outcome without objects.
    pub fn new(indicator: OutcomeIndicator, description: &str) -> Self {
        Self {
            indicator,
            description: description.to_owned(),
            error_code: String::new(),
            documents: Vec::new(),
            studies: Vec::new(),
            failed_documents: Vec::new(),
            failed_studies: Vec::new(),
            snapshot: String::new(),
            requests: Vec::new(),
            responses: Vec::new(),
            peer_certificate: String::new(),
            alerts: Vec::new(),
        }
    }
}

/// The assertions of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssertionKind {
    /// HCP identity (EHDSI-91).
    Hcp,
    /// Treatment relationship confirmation (EHDSI-92).
    Trc,
    /// Next of kin (EHDSI-96).
    Nok,
}

/// A document that the terminology service transcoded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Transcoding {
    /// uniqueId and SHA-256 (hex) of what went in.
    pub input: (String, String),
    /// uniqueId and SHA-256 (hex) of what came out.
    pub output: (String, String),
    /// CX of the patient whose document it is, empty when none.
    pub patient: String,
    /// Digest of the maps, hex.
    pub maps: String,
    /// Codes that had no target.
    pub unmapped: u64,
}

/// Events that stand alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// 110100 / 110120.
    ApplicationStart,
    /// 110100 / 110121.
    ApplicationStop,
    /// 110114 / 110122: assertions or token did not authenticate the user (ITI TF-2: 3.40.4.1.3).
    UserAuthenticationFailed {
        /// Rule that failed, for operators.
        rule: String,
        /// The other end.
        peer: PeerFacts,
    },
    /// 110113 / 110126: TLS.
    NodeAuthenticationFailed {
        /// Reason.
        rule: String,
        /// The other end.
        peer: PeerFacts,
    },
    /// 110113 / 110132: role or purpose may not.
    RestrictedFunction {
        /// Rule.
        rule: String,
        /// The other end.
        peer: PeerFacts,
    },
    /// 110113 with a code of ours: wrapping, binding, replay, XML hazard.
    SecurityAlert {
        /// Rule.
        rule: String,
        /// The other end.
        peer: PeerFacts,
    },
    /// ITI-40: HCP identity assertion issued (EHDSI-91).
    HcpIssued {
        /// Who.
        user: HumanRequestor,
        /// Assertion ID.
        assertion: String,
    },
    /// EHDSI-92: TRC assertion issued.
    TrcIssued {
        /// Who.
        user: HumanRequestor,
        /// Assertion ID.
        assertion: String,
        /// CX.
        patient: String,
        /// Purpose.
        purpose: String,
        /// The other country.
        peer: PeerFacts,
    },
    /// An assertion that came was checked and holds (EHDSI-91, 92, 96).
    AssertionChecked {
        /// Which.
        kind: AssertionKind,
        /// Who.
        user: HumanRequestor,
        /// Assertion ID.
        assertion: String,
        /// CX, empty for HCP.
        patient: String,
        /// The other country.
        peer: PeerFacts,
    },
    /// EHDSI-96: next-of-kin assertion issued.
    NokIssued {
        /// Who.
        user: HumanRequestor,
        /// Assertion ID.
        assertion: String,
        /// CX of the patient.
        patient: String,
        /// The next of kin, as guarantor.
        guarantor: String,
        /// The other country.
        peer: PeerFacts,
    },
    /// EHDSI-94: a document went through the terminology service.
    Translated(Transcoding),
    /// EHDSI-94: names of codes in a list of documents were put into the words of their reader.
    NamesTranslated {
        /// CX of the patient whose documents they are.
        patient: String,
        /// DocumentEntries of the list.
        entries: u64,
        /// Digest of the maps, hex.
        maps: String,
    },
    /// EHDSI-193: the capabilities of a country were looked up.
    SmpQueried {
        /// The service asked.
        peer: PeerFacts,
        /// What was asked for: participant and document type.
        query: String,
    },
    /// EHDSI-CF: the other country could not be reached, by a request or by an asynchronous answer.
    CommunicationFailed {
        /// Which side we are.
        role: Role,
        /// Why.
        rule: String,
        /// On whose behalf it was called.
        user: Option<HumanRequestor>,
        /// CX, empty when none.
        patient: String,
        /// The other end.
        peer: PeerFacts,
    },
    /// 110113 / 110127: a professional overrides what would bar her.
    EmergencyStarted {
        /// Who.
        user: HumanRequestor,
        /// CX.
        patient: String,
        /// What is overridden.
        rule: String,
        /// What she stated.
        justification: String,
        /// The other country.
        peer: PeerFacts,
    },
    /// 110113 / 110138: the override ended.
    EmergencyStopped {
        /// Who.
        user: HumanRequestor,
        /// CX.
        patient: String,
        /// What was overridden.
        rule: String,
        /// The other country.
        peer: PeerFacts,
    },
    /// 110100 / 110134: the repository records.
    RecordingStarted,
    /// 110100 / 110133: the repository stops recording.
    RecordingStopped,
    /// Silence of a source can be told from a loss: one a minute. Stays in our own repository.
    Heartbeat,
    /// Refused calls beyond what the limit lets through one by one.
    Suppressed {
        /// Of which kind.
        rule: String,
        /// How many.
        count: u64,
        /// Since when.
        since: Timestamp,
    },
    /// 110101: the trail was read.
    AuditLogUsed {
        /// Who, by certificate name.
        user: String,
        /// What was searched, without the patient's identifier.
        query: String,
    },
}
