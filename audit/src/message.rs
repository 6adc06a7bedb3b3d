//! The ATNA message, strict `ihe` dialect (DICOM PS3.15 A.5, 2017c), by the table of `audit.md` 1.6.

use jiff::Timestamp;
use ncp_proto::audit::Facts;
use ncp_xml::Element;
use serde::{Deserialize, Serialize};

use crate::event::{
    Decision, DocumentObject, Event, HumanRequestor, Intent, Outcome, OutcomeIndicator, PeerFacts, Role, StudyObject,
    Transaction,
};

/// Who writes the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// AuditSourceID.
    pub source: String,
    /// AuditEnterpriseSiteID.
    pub enterprise_site: String,
}

/// A message before it has a sequence number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When.
    pub event_time_us: i64,
    /// The XML.
    pub xml: String,
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

/// One row of `audit.md` 1.6: event, action, transaction code and name.
struct RowOf {
    event: (&'static str, &'static str),
    action: &'static str,
    code: &'static str,
    name: &'static str,
    retrieve: bool,
}

fn row(transaction: Transaction, role: Role) -> RowOf {
    let query = ("110112", "Query");
    let make = |event, action, code, name, retrieve| RowOf { event, action, code, name, retrieve };
    match (transaction, role) {
        (Transaction::Iti55, _) => make(query, "E", "ITI-55", "Cross Gateway Patient Discovery", false),
        (Transaction::Iti38, _) => make(query, "E", "ITI-38", "Cross Gateway Query", false),
        (Transaction::Iti39, Role::Initiator) => {
            make(("110107", "Import"), "C", "ITI-39", "Cross Gateway Retrieve", true)
        }
        (Transaction::Iti39, Role::Responder) => {
            make(("110106", "Export"), "R", "ITI-39", "Cross Gateway Retrieve", true)
        }
        (Transaction::Rad75, Role::Initiator) => {
            let name = "Cross Gateway Retrieve Imaging Document Set";
            make(("110103", "DICOM Instances Accessed"), "C", "RAD-75", name, true)
        }
        (Transaction::Rad75, Role::Responder) => {
            let name = "Cross Gateway Retrieve Imaging Document Set";
            make(("110104", "DICOM Instances Transferred"), "R", "RAD-75", name, true)
        }
        (Transaction::Iti18, _) => make(query, "E", "ITI-18", "Registry Stored Query", false),
        (Transaction::Iti43, Role::Initiator) => {
            make(("110107", "Import"), "C", "ITI-43", "Retrieve Document Set", true)
        }
        (Transaction::Iti43, Role::Responder) => {
            make(("110106", "Export"), "R", "ITI-43", "Retrieve Document Set", true)
        }
        (Transaction::Rad69, Role::Initiator) => {
            make(("110103", "DICOM Instances Accessed"), "C", "RAD-69", "Retrieve Imaging Document Set", true)
        }
        (Transaction::Rad69, Role::Responder) => {
            make(("110104", "DICOM Instances Transferred"), "R", "RAD-69", "Retrieve Imaging Document Set", true)
        }
        (Transaction::Unknown, _) => {
            make(("110113", "Security Alert"), "E", "NCP-REFUSED", "Refused before dispatch", false)
        }
    }
}

/// The messages of an exchange: one, or two when a retrieve partly failed, and the alerts.
pub(crate) fn of_exchange(site: &Site, intent: &Intent, decision: &Decision, outcome: &Outcome) -> Vec<AuditRecord> {
    let partly = !outcome.failed_documents.is_empty() || !outcome.failed_studies.is_empty();
    let went = !outcome.documents.is_empty() || !outcome.studies.is_empty();
    let mut out = Vec::new();
    if partly {
        if went {
            let whole = (outcome.documents.as_slice(), outcome.studies.as_slice());
            out.push(transaction(site, intent, decision, outcome.indicator, &outcome.description, whole));
        }
        let indicator =
            if outcome.indicator == OutcomeIndicator::Success { OutcomeIndicator::Minor } else { outcome.indicator };
        let failed = (outcome.failed_documents.as_slice(), outcome.failed_studies.as_slice());
        out.push(transaction(site, intent, decision, indicator, "not all of what was asked for was delivered", failed));
    } else {
        let whole = if went || outcome.indicator == OutcomeIndicator::Success {
            (outcome.documents.as_slice(), outcome.studies.as_slice())
        } else {
            (decision.documents.as_slice(), decision.studies.as_slice())
        };
        out.push(transaction(site, intent, decision, outcome.indicator, &outcome.description, whole));
    }
    out.extend(outcome.alerts.iter().map(|event| of_event(site, event, &intent.exchange_id, Timestamp::now())));
    out
}

fn transaction(
    site: &Site,
    intent: &Intent,
    decision: &Decision,
    indicator: OutcomeIndicator,
    description: &str,
    (documents, studies): (&[DocumentObject], &[StudyObject]),
) -> AuditRecord {
    let kind = decision.transaction.unwrap_or(intent.transaction);
    let row = row(kind, intent.role);
    let mut event = identification(row.event, row.action, intent.began, indicator)
        .with(coded("EventTypeCode", row.code, "IHE Transactions", row.name))
        .with_all((!description.is_empty()).then(|| Element::new("", "EventOutcomeDescription").text(description)));
    if !decision.purpose.is_empty() {
        event.push(coded("PurposeOfUse", &decision.purpose, "urn:oasis:names:tc:xspa:1.0", &decision.purpose));
    }
    let (ours, theirs) = (own_participant(intent), their_participant(intent));
    // In queries the initiator is the source, in retrieves the responder.
    let (initiator, responder) = match intent.role {
        Role::Initiator => (ours, theirs),
        Role::Responder => (theirs, ours),
    };
    let initiator = initiator.attr("UserIsRequestor", "true");
    let responder = responder.attr("UserIsRequestor", "false");
    let (source, destination) = if row.retrieve { (responder, initiator) } else { (initiator, responder) };
    let mut message = Element::new("", "AuditMessage")
        .with(event)
        .with(source.with(coded("RoleIDCode", "110153", "DCM", "Source Role ID")))
        .with(destination.with(coded("RoleIDCode", "110152", "DCM", "Destination Role ID")))
        .with_all(decision.user.as_ref().map(human).unwrap_or_default())
        .with(source_identification(site));
    // ITI-55: the patient stands in the responder's message only.
    let patient = decision.patient.as_ref().filter(|_| kind != Transaction::Iti55 || intent.role == Role::Responder);
    message = message.with_all(patient.map(|id| patient_object(id)));
    let shared = |object: Element| {
        object
            .with(detail("ncp:exchange-id", &intent.exchange_id))
            .with_all((!decision.message_id.is_empty()).then(|| detail("wsa:MessageID", &decision.message_id)))
    };
    if let Some(query) = &decision.query {
        let home = match kind {
            Transaction::Iti55 => "ihe:homeCommunityID",
            _ => "urn:ihe:iti:xca:2010:homeCommunityId",
        };
        let object = object("2", "24", &query.id)
            .with(coded("ParticipantObjectIDTypeCode", row.code, "IHE Transactions", row.name))
            .with(Element::new("", "ParticipantObjectQuery").text(openssl::base64::encode_block(&query.bytes)));
        let object = object.with_all(
            matches!(kind, Transaction::Iti18 | Transaction::Iti38).then(|| detail("QueryEncoding", "UTF-8")),
        );
        message.push(shared(object).with(detail(home, &community(intent))));
    }
    for document in documents {
        let object = object("2", "3", &document.unique_id).with(coded(
            "ParticipantObjectIDTypeCode",
            "9",
            "RFC-3881",
            "Report Number",
        ));
        let object = shared(object)
            .with(detail("Repository Unique Id", &document.repository))
            .with(detail("ihe:homeCommunityID", &document.home))
            .with(detail("ncp:bytes", &document.bytes.to_string()))
            .with_all((!document.sha256.is_empty()).then(|| detail("ncp:sha-256", &document.sha256)))
            .with_all((!document.snapshot.is_empty()).then(|| detail("ncp:terminology-snapshot", &document.snapshot)));
        message.push(object);
    }
    for study in studies {
        let object = object("2", "3", &study.study).with(coded(
            "ParticipantObjectIDTypeCode",
            "110180",
            "DCM",
            "Study Instance UID",
        ));
        let object = shared(object)
            .with_all(study.series.iter().map(|uid| detail("Series Instance Unique Id", uid)))
            .with(detail("Repository Unique Id", &study.repository))
            .with(detail("urn:ihe:iti:xca:2010:homeCommunityId", &study.home))
            .with(detail("NumberOfInstances", &study.instances.to_string()))
            .with(detail("ncp:bytes", &study.bytes.to_string()))
            .with_all((!study.sha256.is_empty()).then(|| detail("ncp:sha-256", &study.sha256)));
        message.push(object);
    }
    if message.elements().all(|e| !e.is("", "ParticipantObjectIdentification")) {
        let object = object("2", "26", &intent.exchange_id).with(coded(
            "ParticipantObjectIDTypeCode",
            "ncp-exchange",
            "NCP",
            "Exchange id",
        ));
        message.push(object);
    }
    let user = decision.user.clone().unwrap_or_default();
    AuditRecord {
        event_time_us: intent.began.as_microsecond(),
        xml: message.to_xml(),
        exchange_id: intent.exchange_id.clone(),
        transaction: row.code.to_owned(),
        role: if intent.role == Role::Initiator { "initiator" } else { "responder" }.to_owned(),
        outcome: indicator.code(),
        patient: decision.patient.clone().unwrap_or_default(),
        user: user.user_name,
        organisation: user.organisation,
        country: intent.peer.country.clone(),
        purpose: decision.purpose.clone(),
        studies: studies.iter().map(|s| s.study.clone()).collect(),
    }
}

fn community(intent: &Intent) -> String {
    intent.peer.home_community_id.clone()
}

/// The message of an event that stands alone.
pub(crate) fn of_event(site: &Site, event: &Event, exchange_id: &str, at: Timestamp) -> AuditRecord {
    use OutcomeIndicator as O;
    let alert = ("110113", "Security Alert");
    let (kind, action, outcome, code, rule, peer, user, patient, purpose) = match event {
        Event::ApplicationStart => (
            ("110100", "Application Activity"),
            "E",
            O::Success,
            ("110120", "DCM", "Application Start"),
            "",
            None,
            None,
            "",
            "",
        ),
        Event::ApplicationStop => (
            ("110100", "Application Activity"),
            "E",
            O::Success,
            ("110121", "DCM", "Application Stop"),
            "",
            None,
            None,
            "",
            "",
        ),
        Event::UserAuthenticationFailed { rule, peer } => {
            let kind = ("110114", "User Authentication");
            (kind, "E", O::Serious, ("110122", "DCM", "Login"), rule.as_str(), Some(peer), None, "", "")
        }
        Event::NodeAuthenticationFailed { rule, peer } => {
            (alert, "E", O::Serious, ("110126", "DCM", "Node Authentication"), rule.as_str(), Some(peer), None, "", "")
        }
        Event::RestrictedFunction { rule, peer } => (
            alert,
            "E",
            O::Minor,
            ("110132", "DCM", "Use of Restricted Function"),
            rule.as_str(),
            Some(peer),
            None,
            "",
            "",
        ),
        Event::SecurityAlert { rule, peer } => {
            (alert, "E", O::Serious, ("NCP-ALERT", "NCP", "Message integrity"), rule.as_str(), Some(peer), None, "", "")
        }
        Event::HcpIssued { user, assertion } => {
            let kind = ("110112", "Query");
            let code = ("ITI-40", "IHE Transactions", "Provide X-User Assertion");
            (kind, "E", O::Success, code, assertion.as_str(), None, Some(user), "", "")
        }
        Event::TrcIssued { user, assertion, patient, purpose, peer } => {
            let code = ("EHDSI-92", "eHealth DSI", "ncp::TrcAssertion");
            let (patient, purpose) = (patient.as_str(), purpose.as_str());
            (("110112", "Query"), "E", O::Success, code, assertion.as_str(), Some(peer), Some(user), patient, purpose)
        }
        Event::AuditLogUsed { user: _, query } => (
            ("110101", "Audit Log Used"),
            "R",
            O::Success,
            ("NCP-SEARCH", "NCP", "Search"),
            query.as_str(),
            None,
            None,
            "",
            "",
        ),
    };
    let mut identified = identification(kind, action, at, outcome).with(coded("EventTypeCode", code.0, code.1, code.2));
    if !rule.is_empty() && outcome != O::Success {
        identified.push(Element::new("", "EventOutcomeDescription").text(rule));
    }
    if !purpose.is_empty() {
        identified.push(coded("PurposeOfUse", purpose, "urn:oasis:names:tc:xspa:1.0", purpose));
    }
    let application = Element::new("", "ActiveParticipant")
        .attr("UserID", site.source.as_str())
        .attr("AlternativeUserID", std::process::id().to_string())
        .attr("UserIsRequestor", "false")
        .with(coded("RoleIDCode", "110150", "DCM", "Application"));
    let reader = match event {
        Event::AuditLogUsed { user, .. } => {
            Some(Element::new("", "ActiveParticipant").attr("UserID", user.as_str()).attr("UserIsRequestor", "true"))
        }
        _ => None,
    };
    let peer_participant = peer.map(|peer| participant(peer).attr("UserIsRequestor", "true"));
    let mut message = Element::new("", "AuditMessage")
        .with(identified)
        .with(application)
        .with_all(peer_participant)
        .with_all(user.map(human).unwrap_or_default())
        .with_all(reader)
        .with(source_identification(site));
    if !patient.is_empty() {
        message.push(patient_object(patient));
    }
    let (object_id, object_code) = match event {
        Event::HcpIssued { assertion, .. } | Event::TrcIssued { assertion, .. } => {
            (assertion.as_str(), coded("ParticipantObjectIDTypeCode", "ITI-40", "IHE Transactions", "Assertion ID"))
        }
        Event::AuditLogUsed { .. } => ("audit trail", coded("ParticipantObjectIDTypeCode", "12", "RFC-3881", "URI")),
        _ => (exchange_id, coded("ParticipantObjectIDTypeCode", "ncp-exchange", "NCP", "Exchange id")),
    };
    if !object_id.is_empty() {
        let role = if matches!(event, Event::AuditLogUsed { .. }) { "13" } else { "26" };
        let mut object = object("2", role, object_id).with(object_code);
        if let Event::AuditLogUsed { query, .. } = event {
            object.push(detail("ncp:search", query));
        }
        message.push(object);
    }
    let user = user.cloned().unwrap_or_default();
    AuditRecord {
        event_time_us: at.as_microsecond(),
        xml: message.to_xml(),
        exchange_id: exchange_id.to_owned(),
        transaction: code.0.to_owned(),
        role: "application".into(),
        outcome: outcome.code(),
        patient: patient.to_owned(),
        user: user.user_name,
        organisation: user.organisation,
        country: peer.map(|p| p.country.clone()).unwrap_or_default(),
        purpose: purpose.to_owned(),
        studies: Vec::new(),
    }
}

fn identification((code, name): (&str, &str), action: &str, at: Timestamp, outcome: OutcomeIndicator) -> Element {
    Element::new("", "EventIdentification")
        .attr("EventActionCode", action)
        .attr("EventDateTime", at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
        .attr("EventOutcomeIndicator", outcome.code().to_string())
        .with(coded("EventID", code, "DCM", name))
}

fn coded(element: &str, code: &str, system: &str, text: &str) -> Element {
    Element::new("", element).attr("csd-code", code).attr("codeSystemName", system).attr("originalText", text)
}

fn source_identification(site: &Site) -> Element {
    Element::new("", "AuditSourceIdentification")
        .attr("AuditEnterpriseSiteID", site.enterprise_site.as_str())
        .attr("AuditSourceID", site.source.as_str())
        .with(coded("AuditSourceTypeCode", "4", "DCM", "Application Server Process"))
}

fn own_participant(intent: &Intent) -> Element {
    let own = Element::new("", "ActiveParticipant")
        .attr("UserID", intent.own_endpoint.as_str())
        .attr("AlternativeUserID", std::process::id().to_string());
    at_address(own, &intent.own_address)
}

/// Where a participant is on the network: 2 is an address, 1 a name.
fn at_address(mut participant: Element, address: &str) -> Element {
    if !address.is_empty() {
        let kind = if address.parse::<std::net::IpAddr>().is_ok() { "2" } else { "1" };
        participant.set_attr("", "NetworkAccessPointID", address);
        participant.set_attr("", "NetworkAccessPointTypeCode", kind);
    }
    participant
}

fn their_participant(intent: &Intent) -> Element {
    participant(&intent.peer)
}

fn participant(peer: &PeerFacts) -> Element {
    let user = [&peer.endpoint, &peer.certificate_name, &peer.address].into_iter().find(|s| !s.is_empty());
    let mut out = Element::new("", "ActiveParticipant").attr("UserID", user.map_or("unknown", String::as_str));
    if !peer.certificate_name.is_empty() {
        out.set_attr("", "UserName", peer.certificate_name.as_str());
    }
    at_address(out, &peer.address)
}

/// The professional and, where one is named, her organisation.
fn human(user: &HumanRequestor) -> Vec<Element> {
    // `alias<user@issuer>` (ITI TF-2: 3.40.4.2): the user alone identifies within the issuer.
    let id = user.user_name.split_once('<').and_then(|(_, rest)| rest.split(['@', '>']).next());
    let professional = Element::new("", "ActiveParticipant")
        .attr("UserID", id.filter(|id| !id.is_empty()).unwrap_or(&user.user_name))
        .attr("AlternativeUserID", user.display.as_str())
        .attr("UserName", user.user_name.as_str())
        .attr("UserIsRequestor", "true")
        .with(coded("RoleIDCode", &user.role.0, &user.role.1, &user.role.2));
    let organisation = (!user.organisation.is_empty()).then(|| {
        Element::new("", "ActiveParticipant")
            .attr("UserID", user.organisation.as_str())
            .attr("UserIsRequestor", "false")
            .with(coded("RoleIDCode", "1.3.6.1.4.1.12559.11.10.1.3.2.2.2", "eHealth DSI", "Point of Care"))
    });
    std::iter::once(professional).chain(organisation).collect()
}

fn object(kind: &str, role: &str, id: &str) -> Element {
    Element::new("", "ParticipantObjectIdentification")
        .attr("ParticipantObjectID", id)
        .attr("ParticipantObjectTypeCode", kind)
        .attr("ParticipantObjectTypeCodeRole", role)
}

fn patient_object(cx: &str) -> Element {
    object("1", "1", cx).with(coded("ParticipantObjectIDTypeCode", "2", "RFC-3881", "Patient Number"))
}

fn detail(kind: &str, value: &str) -> Element {
    Element::new("", "ParticipantObjectDetail")
        .attr("type", kind)
        .attr("value", openssl::base64::encode_block(value.as_bytes()))
}
