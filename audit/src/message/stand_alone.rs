//! The messages of events that stand alone.

use jiff::Timestamp;

use super::exchange::exchange_object;
use super::model::clean;
use super::{
    AuditRecord, Coded, Dialect, Message, Object, Participant, Site, application_server, ehdsi_role, human,
    point_of_care, purpose, remote,
};
use crate::event::{AssertionKind, Event, HumanRequestor, OutcomeIndicator as O, PeerFacts, Role, Transcoding};

/// `transaction` of a heartbeat.
pub(crate) const HEARTBEAT: &str = "NCP-HEARTBEAT";

const ACTIVITY: (&str, &str) = ("110100", "Application Activity");
const ALERT: (&str, &str) = ("110113", "Security Alert");
const QUERY: (&str, &str) = ("110112", "Query");
const IHE: &str = "IHE Transactions";

/// What the row of an event says; who and what come from the event itself.
struct Row<'a> {
    event: Coded,
    code: Coded,
    outcome: O,
    description: String,
    user: Option<&'a HumanRequestor>,
    peer: Option<&'a PeerFacts>,
    patient: &'a str,
    purpose: &'a str,
    objects: Vec<Object>,
}

impl<'a> Row<'a> {
    fn new(event: (&str, &str), code: (&str, &str, &str)) -> Self {
        Self {
            event: Coded::new(event.0, "DCM", event.1),
            code: Coded::new(code.0, code.1, code.2),
            outcome: O::Success,
            description: String::new(),
            user: None,
            peer: None,
            patient: "",
            purpose: "",
            objects: Vec::new(),
        }
    }

    /// An eHDSI service: its name is also the display name.
    fn service(code: &str, name: &str) -> Self {
        let row = Self::new(QUERY, (code, IHE, name));
        Self { event: row.event.shown(name), code: row.code.shown(name), ..row }
    }

    fn failed(self, outcome: O, rule: &str, peer: &'a PeerFacts) -> Self {
        Self { outcome, description: rule.to_owned(), peer: Some(peer), ..self }
    }

    fn by(self, user: &'a HumanRequestor, patient: &'a str) -> Self {
        Self { user: Some(user), patient, ..self }
    }

    fn with(mut self, object: Object) -> Self {
        self.objects.push(object);
        self
    }
}

fn assertion<'a>(kind: AssertionKind, id: &str) -> Row<'a> {
    let (code, name, object, text) = match kind {
        AssertionKind::Hcp => ("ITI-40", "identityProvider::HPAuthentication", "IdA", "HCP Identity Assertion"),
        AssertionKind::Trc => ("EHDSI-92", "ncp::TrcAssertion", "TrcA", "TRC Assertion"),
        AssertionKind::Nok => ("EHDSI-96", "ncp::NokAssertion", "NokA", "NoK Assertion"),
    };
    let id_type = Coded::new(object, "eHealth DSI Security", text).shown(text);
    let row = Row::service(code, name).with(Object::new("2", "", id, id_type));
    match kind {
        // The one service whose message has a name of IHE.
        AssertionKind::Hcp => Row { code: Coded { text: "XUA::ProvideX-UserAssertion".into(), ..row.code }, ..row },
        AssertionKind::Trc | AssertionKind::Nok => row,
    }
}

fn alert_object(id: &str, details: &[(&str, &str)]) -> Object {
    let object = Object::new("2", "13", id, Coded::new("12", "RFC-3881", "URI"));
    details.iter().fold(object, |object, (kind, value)| object.detail(kind, value))
}

fn translated<'a>(transcoding: &'a Transcoding) -> Row<'a> {
    let side = |code: &str, text: &str, (id, sha256): &(String, String)| {
        let id_type = Coded::new(code, "eHealth DSI Translation", text).shown(text);
        let object = Object { life_cycle: "5".into(), ..Object::new("4", "", id, id_type) };
        object.detail("ncp:sha-256", sha256)
    };
    let output = side("out", "Output Data", &transcoding.output)
        .detail("ncp:terminology-snapshot", &transcoding.maps)
        .detail("unmapped-codes", &transcoding.unmapped.to_string());
    let unmapped = transcoding.unmapped > 0;
    Row {
        patient: &transcoding.patient,
        outcome: if unmapped { O::Minor } else { O::Success },
        description: if unmapped { format!("{} codes had no target", transcoding.unmapped) } else { String::new() },
        ..Row::service("EHDSI-94", "ncpTransformationMgr::Translate")
    }
    .with(side("in", "Input Data", &transcoding.input))
    .with(output)
}

fn row<'a>(event: &'a Event, exchange_id: &str) -> Row<'a> {
    let activity = |code: &str, text: &str| Row::new(ACTIVITY, (code, "DCM", text));
    match event {
        Event::ApplicationStart => activity("110120", "Application Start"),
        Event::ApplicationStop => activity("110121", "Application Stop"),
        Event::RecordingStarted => activity("110134", "Audit Recording Started"),
        Event::RecordingStopped => activity("110133", "Audit Recording Stopped"),
        Event::Heartbeat => Row::new(ACTIVITY, (HEARTBEAT, "NCP", "Heartbeat")),
        Event::UserAuthenticationFailed { rule, peer } => {
            Row::new(("110114", "User Authentication"), ("110122", "DCM", "Login")).failed(O::Serious, rule, peer)
        }
        Event::NodeAuthenticationFailed { rule, peer } => {
            let id_type = Coded::new("110182", "DCM", "Node ID");
            Row::new(ALERT, ("110126", "DCM", "Node Authentication"))
                .failed(O::Serious, rule, peer)
                .with(Object::new("2", "13", &remote(peer).user_id, id_type).detail("Alert Description", rule))
        }
        Event::RestrictedFunction { rule, peer } => Row::new(ALERT, ("110132", "DCM", "Use of Restricted Function"))
            .failed(O::Minor, rule, peer)
            .with(alert_object(exchange_id, &[("Alert Description", rule)])),
        Event::SecurityAlert { rule, peer } => Row::new(ALERT, ("NCP-ALERT", "NCP", "Message integrity"))
            .failed(O::Serious, rule, peer)
            .with(alert_object(exchange_id, &[("Alert Description", rule)])),
        Event::Suppressed { rule, count, since } => {
            let many = Row::new(("110114", "User Authentication"), ("110122", "DCM", "Login"));
            Row { outcome: O::Serious, description: format!("{count} more refused since {since:.0}: {rule}"), ..many }
        }
        Event::HcpIssued { user, assertion: id } => assertion(AssertionKind::Hcp, id).by(user, ""),
        Event::TrcIssued { user, assertion: id, patient, purpose, peer } => {
            Row { peer: Some(peer), purpose, ..assertion(AssertionKind::Trc, id).by(user, patient) }
        }
        Event::NokIssued { user, assertion: id, patient, guarantor, peer } => {
            let id_type = Coded::new("7", "RFC-3881", "Guarantor Number");
            Row { peer: Some(peer), ..assertion(AssertionKind::Nok, id).by(user, patient) }
                .with(Object::new("1", "10", guarantor, id_type))
        }
        Event::AssertionChecked { kind, user, assertion: id, patient, peer } => {
            Row { peer: Some(peer), ..assertion(*kind, id).by(user, patient) }
        }
        Event::Translated(transcoding) => translated(transcoding),
        Event::SmpQueried { peer, query } => {
            let row = Row::service("EHDSI-193", "SMP::Query");
            let id_type = Coded::new("SMP", "eHealth DSI Security", "SignedServiceMetadata");
            let event = Coded::new("SMP", "EHDSI-193", "SMP::Query").shown("SMP::Query");
            Row { event, peer: Some(peer), ..row }.with(Object::new(
                "2",
                "",
                query,
                id_type.shown("SignedServiceMetadata"),
            ))
        }
        Event::NamesTranslated { patient, entries, maps } => {
            let side = |code: &str, text: &str| {
                let id_type = Coded::new(code, "eHealth DSI Translation", text).shown(text);
                Object { life_cycle: "5".into(), ..Object::new("4", "", exchange_id, id_type) }
            };
            let input = side("in", "Input Data").detail("ncp:document-entries", &entries.to_string());
            let output = side("out", "Output Data").detail("ncp:terminology-snapshot", maps);
            Row { patient, ..Row::service("EHDSI-94", "ncpTransformationMgr::Translate") }.with(input).with(output)
        }
        Event::CommunicationFailed { rule, user, patient, peer, .. } => {
            let id_type = Coded::new("9", "eHealth DSI Security", "Error Code");
            let row = Row::service("EHDSI-CF", "epsosCommunicationFailure");
            Row { user: user.as_ref(), patient, ..row }
                .failed(O::Major, rule, peer)
                .with(Object::new("2", "3", "communication", id_type).detail("errormsg", rule))
        }
        Event::EmergencyStarted { user, patient, rule, justification, peer } => {
            let details = [("Alert Description", rule.as_str()), ("justification", justification)];
            let row = Row::new(ALERT, ("110127", "DCM", "Emergency Override Started")).by(user, patient);
            Row { peer: Some(peer), purpose: "EMERGENCY", description: rule.clone(), ..row }
                .with(alert_object(exchange_id, &details))
        }
        Event::EmergencyStopped { user, patient, rule, peer } => {
            let row = Row::new(ALERT, ("110138", "DCM", "Emergency Override Stopped")).by(user, patient);
            Row { peer: Some(peer), purpose: "EMERGENCY", ..row }
                .with(alert_object(exchange_id, &[("Alert Description", rule)]))
        }
        Event::AuditLogUsed { query, .. } => {
            let trail = Object::new("2", "13", "audit trail", Coded::new("12", "RFC-3881", "URI"));
            Row::new(("110101", "Audit Log Used"), ("ITI-81", IHE, "Retrieve ATNA Audit Event"))
                .with(Object { query: Some(query.as_bytes().to_vec()), ..trail })
        }
    }
}

/// The message of an event that stands alone.
pub fn of_event(site: &Site, event: &Event, exchange_id: &str, at: Timestamp) -> AuditRecord {
    let row = row(event, exchange_id);
    let used = matches!(event, Event::AuditLogUsed { .. });
    let mut application = Participant {
        user_id: site.source.clone(),
        alternative: std::process::id().to_string(),
        roles: vec![Coded::new("110150", "DCM", "Application")],
        ..Participant::default()
    };
    let mut participants = Vec::new();
    if let Event::AuditLogUsed { user, .. } = event {
        let roles = vec![Coded::new("110153", "DCM", "Source Role ID")];
        participants.push(Participant { user_id: user.clone(), requestor: true, roles, ..Participant::default() });
        application.roles = vec![Coded::new("110152", "DCM", "Destination Role ID")];
    }
    let calls = matches!(event, Event::SmpQueried { .. } | Event::CommunicationFailed { role: Role::Initiator, .. });
    participants.extend(row.user.map(human));
    participants.extend(row.user.and_then(|user| point_of_care(&user.organisation)));
    match event {
        // Who calls is ours, the service is the other's; in what is checked it is the other way round.
        _ if calls => {
            application.requestor = true;
            application.roles.push(ehdsi_role("ServiceConsumer", "Service Consumer"));
        }
        Event::Translated(_) | Event::NamesTranslated { .. } => {
            application.roles = vec![ehdsi_role("ServiceProvider", "Service Provider")]
        }
        Event::AssertionChecked { .. }
        | Event::HcpIssued { .. }
        | Event::TrcIssued { .. }
        | Event::NokIssued { .. }
        | Event::CommunicationFailed { .. } => {
            application.roles.push(ehdsi_role("ServiceProvider", "Service Provider"));
        }
        _ => {}
    }
    participants.push(application);
    participants.extend(row.peer.map(|peer| {
        let role = match event {
            _ if calls => Some(ehdsi_role("ServiceProvider", "Service Provider")),
            Event::CommunicationFailed { .. } => Some(ehdsi_role("ServiceConsumer", "Service Consumer")),
            _ => None,
        };
        Participant { requestor: !calls, roles: role.into_iter().collect(), ..remote(peer) }
    }));
    let mut objects: Vec<Object> = Vec::new();
    if !row.patient.is_empty() {
        objects.push(Object::patient(row.patient, "RFC-3881"));
    }
    objects.extend(row.objects);
    let mut message = Message {
        event: row.event,
        action: if used { "R" } else { "E" }.to_owned(),
        at,
        outcome: row.outcome.code(),
        types: vec![row.code],
        description: row.description,
        purposes: purpose(row.purpose).into_iter().collect(),
        participants,
        enterprise_site: site.enterprise_site.clone(),
        source: site.source.clone(),
        source_types: vec![application_server()],
        objects,
    };
    // No role beyond 24 there: the exchange goes into a detail.
    let ehdsi = site.ehdsi.then(|| {
        let mut message = message.clone();
        if let Some(first) = message.objects.first_mut() {
            *first = std::mem::take(first).detail("ncp:exchange-id", exchange_id);
        }
        message.to_xml(Dialect::Ehdsi)
    });
    if !exchange_id.is_empty() {
        message.objects.push(exchange_object(exchange_id));
    }
    let user = row.user.cloned().unwrap_or_default();
    AuditRecord {
        event_time_us: at.as_microsecond(),
        xml: message.to_xml(Dialect::Ihe),
        ehdsi,
        exchange_id: exchange_id.to_owned(),
        transaction: match &message.types[0].code {
            code if code == "ITI-81" => "110101".to_owned(),
            code => code.clone(),
        },
        role: "application".into(),
        outcome: row.outcome.code(),
        patient: clean(row.patient),
        user: clean(if let Event::AuditLogUsed { user, .. } = event { user } else { &user.user_name }),
        organisation: clean(&user.organisation),
        country: clean(row.peer.map_or("", |p| p.country.as_str())),
        purpose: clean(row.purpose),
        studies: Vec::new(),
    }
}
