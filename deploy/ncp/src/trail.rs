//! The records of a story, walked by the table of audit messages (strict `ihe` dialect, DICOM PS3.15 A.5).

use std::time::Duration;

use ncp_audit::{Filter, Message};
use ncp_ihe::PatientId;
use ncp_proto::audit::{Facts, Found};
use ncp_xml::{Element, Limits};
use serde_json::{Value, json};

use crate::check::ensure;
use crate::demo::{Country, Demo};
use crate::{Error, audit};

/// One row: what the message of a transaction at one side must say.
struct Row {
    transaction: &'static str,
    role: &'static str,
    event: &'static str,
    action: &'static str,
    /// The responder is the source of what is retrieved, the initiator that of a query.
    source_is_responder: bool,
    /// At NCP-B the patient does not stand in the message of ITI-55.
    patient: bool,
    /// ParticipantObjectTypeCodeRole and ParticipantObjectIDTypeCode of its object, and the details it must have.
    object: (&'static str, &'static str, &'static [&'static str]),
}

const QUERY_HOME: &str = "urn:ihe:iti:xca:2010:homeCommunityId";

const fn row(
    (transaction, role): (&'static str, &'static str),
    (event, action): (&'static str, &'static str),
    source_is_responder: bool,
    patient: bool,
    object: (&'static str, &'static str, &'static [&'static str]),
) -> Row {
    Row { transaction, role, event, action, source_is_responder, patient, object }
}

const DISCOVERY: (&str, &str, &[&str]) = ("24", "ITI-55", &["ihe:homeCommunityID"]);
const QUERY: (&str, &str, &[&str]) = ("24", "ITI-38", &["QueryEncoding", QUERY_HOME]);
const DOCUMENT: (&str, &str, &[&str]) = ("3", "9", &["Repository Unique Id", "ihe:homeCommunityID", "ncp:sha-256"]);
const STUDY: (&str, &str, &[&str]) = (
    "3",
    "110180",
    &["Series Instance Unique Id", "Repository Unique Id", QUERY_HOME, "NumberOfInstances", "ncp:sha-256"],
);

const ROWS: [Row; 8] = [
    row(("ITI-55", "initiator"), ("110112", "E"), false, false, DISCOVERY),
    row(("ITI-55", "responder"), ("110112", "E"), false, true, DISCOVERY),
    row(("ITI-38", "initiator"), ("110112", "E"), false, true, QUERY),
    row(("ITI-38", "responder"), ("110112", "E"), false, true, QUERY),
    row(("ITI-39", "initiator"), ("110107", "C"), true, true, DOCUMENT),
    row(("ITI-39", "responder"), ("110106", "R"), true, true, DOCUMENT),
    row(("RAD-75", "initiator"), ("110103", "C"), true, true, STUDY),
    row(("RAD-75", "responder"), ("110104", "R"), true, true, STUDY),
];

/// Every record of the patient in one country and role, and that each is found by patient, user, purpose and study.
pub(crate) async fn walk(demo: &Demo, country: &Country, role: &str, patient: &PatientId) -> Result<Value, Error> {
    let by_patient = || Filter { patient: patient.to_cx(), limit: 1000, ..Filter::default() };
    let mut found = Vec::new();
    for _ in 0..50 {
        found = audit::search(&demo.dir, country.code, by_patient()).await?;
        if ROWS.iter().filter(|r| r.role == role).all(|row| found.iter().any(|f| is_of(f, row))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut walked = 0;
    let (mut user, mut study) = (String::new(), String::new());
    for row in ROWS.iter().filter(|r| r.role == role) {
        let mut exchanges = std::collections::BTreeSet::new();
        for one in found.iter().filter(|f| is_of(f, row)) {
            let facts = facts(one).ok_or("no facts")?;
            // Refused and partly failed exchanges have rows of their own; here every exchange has one message.
            if facts.outcome != 0 {
                continue;
            }
            ensure(
                exchanges.insert(facts.exchange_id.clone()),
                format!("{}: two messages of one exchange", row.transaction),
            )?;
            fields(one, row, country, patient).map_err(|e| format!("{} {}: {e}", row.transaction, row.role))?;
            user = facts.user.clone();
            study = facts.studies.first().cloned().unwrap_or(study);
            walked += 1;
        }
        ensure(!exchanges.is_empty(), format!("{}: no record of {} as {role}", country.name, row.transaction))?;
    }
    besides(demo, country, patient).await?;
    let queries = [
        Filter { user, ..Filter::default() },
        Filter { purpose: "TREATMENT".into(), ..Filter::default() },
        Filter { study, ..Filter::default() },
    ];
    for filter in queries {
        let found = audit::search(&demo.dir, country.code, filter).await?;
        ensure(!found.is_empty(), "not found by user, purpose or study")?;
    }
    Ok(json!({ "records": walked }))
}

/// What the trail holds beside the exchanges: assertions issued or checked, documents transcoded.
async fn besides(demo: &Demo, country: &Country, patient: &PatientId) -> Result<(), Error> {
    // Transaction, whether it names the patient, and the kinds of objects it must have.
    let rows: [(&str, bool, &[&str]); 3] =
        [("ITI-40", false, &["IdA"]), ("EHDSI-92", true, &["TrcA"]), ("EHDSI-94", true, &["in", "out"])];
    for (transaction, named, kinds) in rows {
        let patient = if named { patient.to_cx() } else { String::new() };
        let filter = Filter { patient, transaction: transaction.into(), limit: 1000, ..Filter::default() };
        let found = audit::search(&demo.dir, country.code, filter).await?;
        ensure(!found.is_empty(), format!("{}: no record of {transaction}", country.name))?;
        for one in &found {
            let bytes = one.record.as_ref().map(|r| r.message.as_slice()).unwrap_or_default();
            let message = Message::read(bytes).map_err(|e| e.to_string())?;
            let human = message.participants.iter().any(|p| p.requestor && p.name.contains("hpr-9144889"));
            ensure(human || transaction == "EHDSI-94", format!("{transaction}: no professional"))?;
            for kind in kinds {
                let object = message.objects.iter().find(|o| o.id_type.code == *kind);
                let object = object.ok_or_else(|| format!("{transaction}: no object {kind}"))?;
                ensure(!object.id.is_empty(), format!("{transaction}: {kind} has no id"))?;
                let detail = |name: &str| object.details.iter().find(|(n, _)| n == name).map(|(_, v)| v.len());
                // Metadata are counted, a document is digested.
                let listed = message.objects.iter().flat_map(|o| &o.details).any(|(n, _)| n == "ncp:document-entries");
                let digested = listed || detail("ncp:sha-256") == Some(64);
                let digests = match *kind {
                    "in" => digested,
                    "out" => digested && detail("ncp:terminology-snapshot") == Some(64),
                    _ => object.id.starts_with('_'),
                };
                ensure(digests, format!("{transaction}: {kind} says too little"))?;
            }
        }
    }
    Ok(())
}

fn is_of(found: &Found, row: &Row) -> bool {
    facts(found).is_some_and(|f| f.transaction == row.transaction && f.role == row.role)
}

/// MessageIDs that a record names.
pub(crate) fn message_ids(message: Message) -> impl Iterator<Item = String> {
    let details = message.objects.into_iter().flat_map(|object| object.details);
    let ids = details.filter(|(kind, _)| kind == "wsa:MessageID");
    ids.map(|(_, value)| String::from_utf8_lossy(&value).into_owned())
}

/// MessageID of a request that is sent.
pub(crate) fn message_id(request: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(request);
    let (_, rest) = text.split_once("MessageID")?.1.split_once('>')?;
    Some(rest.split('<').next()?.trim().to_owned())
}

pub(crate) fn facts(found: &Found) -> Option<&Facts> {
    found.record.as_ref()?.facts.as_ref()
}

/// The fields of one message.
fn fields(found: &Found, row: &Row, country: &Country, patient: &PatientId) -> Result<(), Error> {
    let bytes = found.record.as_ref().map(|r| r.message.as_slice()).unwrap_or_default();
    let message = Element::parse(bytes, &Limits::REQUEST).map_err(|e| format!("message is no XML: {e}"))?;
    let event = message.child("", "EventIdentification").ok_or("no EventIdentification")?;
    let code =
        |of: &Element, name: &str| of.child("", name).and_then(|c| c.get("csd-code")).unwrap_or_default().to_owned();
    for (what, is, expected) in [
        ("EventID", code(event, "EventID"), row.event),
        ("EventTypeCode", code(event, "EventTypeCode"), row.transaction),
        ("PurposeOfUse", code(event, "PurposeOfUse"), "TREATMENT"),
        ("EventActionCode", event.get("EventActionCode").unwrap_or_default().to_owned(), row.action),
        ("EventOutcomeIndicator", event.get("EventOutcomeIndicator").unwrap_or_default().to_owned(), "0"),
    ] {
        ensure(is == expected, format!("{what} is {is}, not {expected}"))?;
    }
    let participant = |role: &str| message.all("", "ActiveParticipant").find(|p| code(p, "RoleIDCode") == role);
    let source = participant("110153").ok_or("no source")?;
    let destination = participant("110152").ok_or("no destination")?;
    let responder = if row.source_is_responder { source } else { destination };
    ensure(
        responder.get("UserID").is_some_and(|id| id.starts_with("https://")),
        "source and destination are the wrong way round",
    )?;
    for one in [source, destination] {
        ensure(one.get("NetworkAccessPointID").is_some_and(|id| !id.is_empty()), "a participant without address")?;
    }
    let human = participant("221").ok_or("no human requestor with her role")?;
    ensure(human.get("UserIsRequestor") == Some("true"), "the human is not the requestor")?;
    ensure(human.get("UserName").or(human.get("UserID")).is_some_and(|n| n.contains("hpr-9144889")), "another user")?;
    let site = message.child("", "AuditSourceIdentification").ok_or("no AuditSourceIdentification")?;
    ensure(site.get("AuditSourceID") == Some(&format!("ncp-gateway-{}", country.code)), "AuditSourceID")?;
    ensure(site.get("AuditEnterpriseSiteID") == Some(&country.code.to_uppercase()), "AuditEnterpriseSiteID")?;

    let objects: Vec<&Element> = message.all("", "ParticipantObjectIdentification").collect();
    let with_role =
        |role: &'static str| objects.iter().filter(move |o| o.get("ParticipantObjectTypeCodeRole") == Some(role));
    let person = with_role("1").next();
    match (row.patient, person) {
        (true, Some(person)) => {
            ensure(person.get("ParticipantObjectID") == Some(&patient.to_cx()), "another patient")?;
            ensure(person.get("ParticipantObjectTypeCode") == Some("1"), "patient is no person")?;
        }
        (true, None) => return Err("no patient".into()),
        (false, Some(_)) => return Err("the patient stands in the initiator's ITI-55".into()),
        (false, None) => {}
    }
    let (object_role, kind, details) = row.object;
    let object = with_role(object_role).next().ok_or("no object")?;
    ensure(code(object, "ParticipantObjectIDTypeCode") == kind, "ParticipantObjectIDTypeCode")?;
    ensure(object.get("ParticipantObjectTypeCode") == Some("2"), "ParticipantObjectTypeCode")?;
    ensure(object_role != "24" || object.child("", "ParticipantObjectQuery").is_some(), "no ParticipantObjectQuery")?;
    for wanted in details {
        let has = object.all("", "ParticipantObjectDetail").any(|d| d.get("type") == Some(wanted));
        ensure(has, format!("no detail {wanted}"))?;
    }
    Ok(())
}
