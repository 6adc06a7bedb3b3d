//! The ATNA messages (DICOM PS3.15 A.5): one model, two dialects, the rows of each transaction and event as tables.

mod exchange;
mod model;
mod read;
mod stand_alone;
mod stand_in;
mod stored;
mod table;

pub use exchange::of_exchange;
pub use model::{Coded, Dialect, DicomData, Message, Object, Participant};
pub use read::ReadError;
pub(crate) use stand_alone::HEARTBEAT;
pub use stand_alone::of_event;
pub use table::ImagingEvent;

use ncp_proto::audit::Facts;

use crate::event::{HumanRequestor, PeerFacts};

/// Who writes the trail, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Site {
    /// AuditSourceID.
    pub source: String,
    /// AuditEnterpriseSiteID.
    pub enterprise_site: String,
    /// CN of our own TLS certificate as a server: how the `ehdsi` dialect names us where we answer. Empty: the source.
    pub node: String,
    /// CN of our own TLS certificate as a client: how it names us where we ask. Empty: as where we answer.
    pub client: String,
    /// Our homeCommunityId.
    pub home: String,
    /// Whether a receiver takes the `ehdsi` dialect, so that it is written too.
    pub ehdsi: bool,
    /// Which event a retrieve of images is.
    pub imaging: ImagingEvent,
}

/// A message before it has a sequence number. As `Debug` it shows which it is and nothing of whom it speaks.
#[derive(Clone, PartialEq)]
pub struct AuditRecord {
    /// When.
    pub event_time_us: i64,
    /// The XML, `ihe` dialect.
    pub xml: String,
    /// The XML in the `ehdsi` dialect, where a receiver takes it.
    pub ehdsi: Option<String>,
    /// For the index.
    pub exchange_id: String,
    /// `ITI-55` and so on.
    pub transaction: String,
    /// `initiator`, `responder`, `application`.
    pub role: String,
    /// 0, 4, 8, 12.
    pub outcome: i32,
    /// CX, empty when none.
    pub patient: String,
    /// User name.
    pub user: String,
    /// Organisation.
    pub organisation: String,
    /// The other country.
    pub country: String,
    /// Purpose.
    pub purpose: String,
    /// Study Instance UIDs.
    pub studies: Vec<String>,
}

impl std::fmt::Debug for AuditRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { exchange_id, transaction, role, outcome, xml, .. } = self;
        write!(f, "AuditRecord({exchange_id} {transaction} {role} {outcome} xml[{}])", xml.len())
    }
}

impl AuditRecord {
    /// As the feed carries it.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            exchange_id: self.exchange_id.clone(),
            transaction: self.transaction.clone(),
            role: self.role.clone(),
            outcome: self.outcome,
            patient: self.patient.clone(),
            user: self.user.clone(),
            organisation: self.organisation.clone(),
            country: self.country.clone(),
            purpose: self.purpose.clone(),
            studies: self.studies.clone(),
            emergency: self.purpose == "EMERGENCY",
        }
    }
}

/// A role of the eHealth DSI.
fn ehdsi_role(code: &str, text: &str) -> Coded {
    Coded::new(code, "eHealth DSI", text).shown(text)
}

fn point_of_care(organisation: &str) -> Option<Participant> {
    let role = Coded::new("1.3.6.1.4.1.12559.11.10.1.3.2.2.2", "eHealth DSI", "Point of Care");
    (!organisation.is_empty()).then(|| Participant {
        user_id: organisation.to_owned(),
        roles: vec![role],
        ..Participant::default()
    })
}

/// The professional, with her true role.
fn human(user: &HumanRequestor) -> Participant {
    // `alias<user@issuer>` (ITI TF-2: 3.40.4.2): the user alone identifies within the issuer.
    let id = user.user_name.split_once('<').and_then(|(_, rest)| rest.split(['@', '>']).next());
    Participant {
        user_id: id.filter(|id| !id.is_empty()).unwrap_or(&user.user_name).to_owned(),
        alternative: user.display.clone(),
        name: user.user_name.clone(),
        requestor: true,
        roles: vec![Coded::new(&user.role.0, &user.role.1, &user.role.2)],
        ..Participant::default()
    }
}

/// The other end, by the best name we have for it.
fn remote(peer: &PeerFacts) -> Participant {
    let known = [&peer.endpoint, &peer.certificate_name, &peer.address].into_iter().find(|s| !s.is_empty());
    Participant {
        user_id: known.map_or("unknown", String::as_str).to_owned(),
        name: peer.certificate_name.clone(),
        address: peer.address.clone(),
        ..Participant::default()
    }
}

fn purpose(code: &str) -> Option<Coded> {
    (!code.is_empty()).then(|| Coded::new(code, "urn:oasis:names:tc:xspa:1.0", table::purpose_text(code)))
}

fn application_server() -> Coded {
    Coded::new("4", "DCM", "Application Server process or thread")
}
