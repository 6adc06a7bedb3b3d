//! What happened, typed. Serialised into the spool, never into logs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The transactions that are audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transaction {
    /// ITI-55.
    Iti55,
    /// ITI-38.
    Iti38,
    /// ITI-39.
    Iti39,
    /// RAD-75.
    Rad75,
    /// Refused before it was known.
    Unknown,
    /// ITI-18.
    Iti18,
    /// ITI-43.
    Iti43,
    /// RAD-69.
    Rad69,
}

/// Which side we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    pub bytes: Vec<u8>,
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
    /// Whole instances.
    pub instances: u64,
    /// Bytes, also of an instance that broke off.
    pub bytes: u64,
    /// SHA-256 over the SHA-256 of the whole instances, in order, hex.
    pub sha256: String,
}

/// Written before the first byte of the answer leaves, or before the request goes out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Decision {
    /// The transaction, now known.
    pub transaction: Option<Transaction>,
    /// wsa:MessageID.
    pub message_id: String,
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
    /// Documents that went.
    pub documents: Vec<DocumentObject>,
    /// Studies that went.
    pub studies: Vec<StudyObject>,
    /// Documents and instances that did not: a second message says so.
    pub failed_documents: Vec<DocumentObject>,
    /// Studies with instances that did not.
    pub failed_studies: Vec<StudyObject>,
    /// Raised besides.
    pub alerts: Vec<Event>,
}

impl Outcome {
    /// An outcome without objects.
    pub fn new(indicator: OutcomeIndicator, description: &str) -> Self {
        Self {
            indicator,
            description: description.to_owned(),
            documents: Vec::new(),
            studies: Vec::new(),
            failed_documents: Vec::new(),
            failed_studies: Vec::new(),
            alerts: Vec::new(),
        }
    }
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
    /// 110101: the trail was read.
    AuditLogUsed {
        /// Who, by certificate name.
        user: String,
        /// What was searched, without the patient's identifier.
        query: String,
    },
}
