//! An audit message as a FHIR R4 AuditEvent, shaped as the IHE Basic Audit Log Patterns ask, and back.
//!
//! The mapping loses what AuditEvent has no place for, so that the message stays the record and this is a view.

use names::{from_system, identifier, to_system};
use serde_json::{Map, Value, json};

use ncp_proto::audit::Found;

use crate::message::{Coded, Message, Object, Participant, ReadError};

const ENTITY_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
const ENTITY_ROLE: &str = "http://terminology.hl7.org/CodeSystem/object-role";
const LIFE_CYCLE: &str = "http://terminology.hl7.org/CodeSystem/dicom-audit-lifecycle";
const SOURCE_TYPE: &str = "http://terminology.hl7.org/CodeSystem/security-source-type";
const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";

/// The name in the certificate that brought a record; `source.observer` is what the record says of itself.
const SENDER: &str = "urn:ncp:audit:authenticated-sender";

/// A record as it is shown: its AuditEvent, with the authenticated sender beside the claimed source.
pub fn shown(found: &Found) -> Option<Value> {
    let mut event = to_audit_event(&Message::of_record(found.record.as_ref()?)?);
    event["source"]["extension"] = json!([{ "url": SENDER, "valueString": found.source }]);
    Some(event)
}

/// Code systems and identifiers as FHIR writes them.
mod names {
    use serde_json::{Value, json};

    const SYSTEMS: [(&str, &str); 4] = [
        ("DCM", "http://dicom.nema.org/resources/ontology/DCM"),
        ("IHE Transactions", "urn:ihe:event-type-code"),
        ("RFC-3881", "urn:ietf:rfc:3881"),
        ("urn:oasis:names:tc:xspa:1.0", "urn:oasis:names:tc:xspa:1.0"),
    ];

    pub(super) fn to_system(name: &str) -> String {
        if let Some((_, uri)) = SYSTEMS.iter().find(|(known, _)| *known == name) {
            return (*uri).to_owned();
        }
        let oid = !name.is_empty() && name.chars().all(|c| c.is_ascii_digit() || c == '.');
        match name {
            _ if oid => format!("urn:oid:{name}"),
            _ if name.contains(':') => name.replace(' ', "-"),
            _ => format!("urn:ncp:code-system:{}", name.replace(' ', "-")),
        }
    }

    pub(super) fn from_system(uri: &str) -> String {
        if let Some((name, _)) = SYSTEMS.iter().find(|(_, known)| *known == uri) {
            return (*name).to_owned();
        }
        let name = uri.strip_prefix("urn:oid:").or_else(|| uri.strip_prefix("urn:ncp:code-system:"));
        name.unwrap_or(uri).to_owned()
    }

    /// A CX as an identifier with system, anything else as a bare value.
    pub(super) fn identifier(id: &str) -> Value {
        let mut parts = id.split("^^^");
        match (parts.next(), parts.next().and_then(|rest| rest.split('&').nth(1))) {
            (Some(value), Some(oid)) if !oid.is_empty() => {
                json!({ "system": format!("urn:oid:{oid}"), "value": value })
            }
            _ => json!({ "value": id }),
        }
    }
}

fn coding(coded: &Coded) -> Value {
    let display = if coded.text.is_empty() { &coded.display } else { &coded.text };
    json!({ "system": to_system(&coded.system), "code": coded.code, "display": display })
}

fn purpose(coded: &Coded) -> Value {
    let code = match coded.code.as_str() {
        "TREATMENT" => "TREAT",
        "EMERGENCY" => "ETREAT",
        "PAYMENT" => "HPAYMT",
        "OPERATIONS" => "HOPERAT",
        "RESEARCH" => "HRESCH",
        "PUBLICHEALTH" => "PUBHLTH",
        _ => return json!({ "coding": [coding(coded)] }),
    };
    json!({ "coding": [{ "system": ACT_REASON, "code": code }] })
}

/// A value without empty texts, lists and objects, which FHIR does not know.
fn full(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then(|| text.into()),
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().filter_map(full).collect();
            (!items.is_empty()).then(|| items.into())
        }
        Value::Object(members) => {
            let members: Map<String, Value> =
                members.into_iter().filter_map(|(name, value)| Some((name, full(value)?))).collect();
            (!members.is_empty()).then(|| members.into())
        }
        other => Some(other),
    }
}

fn put(object: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(value) = full(value) {
        object.insert(name.to_owned(), value);
    }
}

/// The AuditEvent of a message, without `id`.
pub fn to_audit_event(message: &Message) -> Value {
    let mut event = Map::new();
    put(&mut event, "resourceType", "AuditEvent".into());
    put(&mut event, "type", coding(&message.event));
    put(&mut event, "subtype", message.types.iter().map(coding).collect());
    put(&mut event, "action", message.action.clone().into());
    put(&mut event, "recorded", message.at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into());
    put(&mut event, "outcome", message.outcome.to_string().into());
    put(&mut event, "outcomeDesc", message.description.clone().into());
    put(&mut event, "purposeOfEvent", message.purposes.iter().map(purpose).collect());
    put(&mut event, "agent", message.participants.iter().map(agent).collect());
    let mut source = Map::new();
    put(&mut source, "site", message.enterprise_site.clone().into());
    put(&mut source, "observer", json!({ "identifier": { "value": message.source }, "display": message.source }));
    let kinds = message.source_types.iter().filter(|c| !c.code.is_empty());
    put(&mut source, "type", kinds.map(|c| json!({ "system": SOURCE_TYPE, "code": c.code })).collect());
    put(&mut event, "source", source.into());
    put(&mut event, "entity", message.objects.iter().map(entity).collect());
    event.into()
}

fn agent(participant: &Participant) -> Value {
    let mut out = Map::new();
    if let Some(first) = participant.roles.first() {
        put(&mut out, "type", json!({ "coding": [coding(first)] }));
    }
    let roles = participant.roles.iter().skip(1);
    put(&mut out, "role", roles.map(|role| json!({ "coding": [coding(role)] })).collect());
    put(&mut out, "who", json!({ "identifier": { "value": participant.user_id } }));
    put(&mut out, "altId", participant.alternative.clone().into());
    put(&mut out, "name", participant.name.clone().into());
    put(&mut out, "requestor", participant.requestor.into());
    if !participant.address.is_empty() {
        let kind = if participant.address.parse::<std::net::IpAddr>().is_ok() { "2" } else { "1" };
        put(&mut out, "network", json!({ "address": participant.address, "type": kind }));
    }
    out.into()
}

fn entity(object: &Object) -> Value {
    let mut out = Map::new();
    put(&mut out, "what", json!({ "identifier": identifier(&object.id) }));
    let code = |system: &str, code: &str| match code {
        "" => Value::Null,
        code => json!({ "system": system, "code": code }),
    };
    put(&mut out, "type", code(ENTITY_TYPE, &object.kind));
    put(&mut out, "role", code(ENTITY_ROLE, &object.role));
    put(&mut out, "lifecycle", code(LIFE_CYCLE, &object.life_cycle));
    match &object.query {
        Some(query) => put(&mut out, "query", openssl::base64::encode_block(query).into()),
        None => put(&mut out, "name", object.name.clone().into()),
    }
    let mut details: Vec<Value> = Vec::new();
    // Of which kind the identifier is has no place of its own.
    if !object.id_type.code.is_empty() {
        let id_type = format!("{}^{}^{}", object.id_type.code, object.id_type.text, object.id_type.system);
        details.push(json!({ "type": "ParticipantObjectIDTypeCode", "valueString": id_type }));
    }
    details.extend(
        object
            .details
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(kind, value)| json!({ "type": kind, "valueBase64Binary": openssl::base64::encode_block(value) })),
    );
    if let Some(dicom) = &object.dicom {
        let text = |kind: &str, value: &str| json!({ "type": kind, "valueString": value });
        details.extend(dicom.accessions.iter().map(|number| text("Accession", number)));
        details.extend(dicom.sop_classes.iter().map(|(uid, count)| text("SOPClass", &format!("{uid} {count}"))));
        details.extend(dicom.instances.iter().map(|uid| text("Instance", uid)));
        details.extend(dicom.studies.iter().map(|uid| text("ContainsStudy", uid)));
    }
    put(&mut out, "detail", details.into());
    out.into()
}

/// The message that an AuditEvent tells of, for the index.
///
/// # Errors
/// What a resource lacks that every record must have.
pub fn from_audit_event(event: &Value) -> Result<Message, ReadError> {
    if event.get("resourceType").and_then(Value::as_str) != Some("AuditEvent") {
        return Err(ReadError::Missing("resourceType AuditEvent"));
    }
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let code = |value: &Value| {
        Coded::new(&text(value, "/code"), &from_system(&text(value, "/system")), &text(value, "/display"))
    };
    let recorded = text(event, "/recorded");
    let outcome = text(event, "/outcome");
    let kind = event.get("type").map(code).filter(|c| !c.code.is_empty()).ok_or(ReadError::Missing("type"))?;
    let observer = ["/source/observer/identifier/value", "/source/observer/display", "/source/observer/reference"];
    let source = observer.into_iter().map(|path| text(event, path)).find(|t| !t.is_empty());
    let purposes = list(event, "purposeOfEvent").into_iter().flat_map(|p| list(&p, "coding")).map(|c| {
        let coded = code(&c);
        match coded.code.as_str() {
            "TREAT" => Coded::new("TREATMENT", "urn:oasis:names:tc:xspa:1.0", "Healthcare Treatment"),
            "ETREAT" | "BTG" => Coded::new("EMERGENCY", "urn:oasis:names:tc:xspa:1.0", "Emergency Treatment"),
            _ => coded,
        }
    });
    // FHIR R4: agent 1..*. Who did it is what the trail is for.
    let agents = list(event, "agent");
    if agents.is_empty() {
        return Err(ReadError::Missing("agent"));
    }
    Ok(Message {
        event: kind,
        action: text(event, "/action"),
        at: recorded.parse().map_err(|_| ReadError::Value("recorded"))?,
        outcome: if outcome.is_empty() { 0 } else { outcome.parse().map_err(|_| ReadError::Value("outcome"))? },
        types: list(event, "subtype").iter().map(code).collect(),
        description: text(event, "/outcomeDesc"),
        purposes: purposes.collect(),
        participants: agents
            .iter()
            .map(|agent| {
                let kinds = agent.get("type").map(|t| list(t, "coding")).unwrap_or_default();
                let roles = list(agent, "role").into_iter().flat_map(|r| list(&r, "coding"));
                let who = ["/who/identifier/value", "/who/reference", "/who/display"];
                Participant {
                    user_id: who.into_iter().map(|p| text(agent, p)).find(|t| !t.is_empty()).unwrap_or_default(),
                    alternative: text(agent, "/altId"),
                    name: text(agent, "/name"),
                    requestor: agent.get("requestor").and_then(Value::as_bool).unwrap_or(false),
                    address: text(agent, "/network/address"),
                    roles: kinds.into_iter().chain(roles).map(|c| code(&c)).collect(),
                }
            })
            .collect(),
        enterprise_site: text(event, "/source/site"),
        source: source.ok_or(ReadError::Missing("source.observer"))?,
        source_types: Vec::new(),
        objects: list(event, "entity").iter().map(|entity| from_entity(entity, &text, &list)).collect(),
    })
}

fn from_entity(
    entity: &Value,
    text: &impl Fn(&Value, &str) -> String,
    list: &impl Fn(&Value, &str) -> Vec<Value>,
) -> Object {
    let (system, value) = (text(entity, "/what/identifier/system"), text(entity, "/what/identifier/value"));
    let id = match system.strip_prefix("urn:oid:") {
        Some(oid) => format!("{value}^^^&{oid}&ISO"),
        None if value.is_empty() => text(entity, "/what/reference"),
        None => value,
    };
    let mut object = Object::new(&text(entity, "/type/code"), &text(entity, "/role/code"), &id, Coded::default());
    object.life_cycle = text(entity, "/lifecycle/code");
    object.name = text(entity, "/name");
    let binary = |value: String| openssl::base64::decode_block(&value).unwrap_or_else(|_| value.into_bytes());
    object.query = Some(text(entity, "/query")).filter(|q| !q.is_empty()).map(binary);
    for detail in list(entity, "detail") {
        let (kind, plain) = (text(&detail, "/type"), text(&detail, "/valueString"));
        if kind == "ParticipantObjectIDTypeCode" {
            let mut parts = plain.splitn(3, '^');
            let mut next = || parts.next().unwrap_or_default();
            let (code, text, system) = (next(), next(), next());
            object.id_type = Coded::new(code, system, text);
        } else {
            let value = if plain.is_empty() { binary(text(&detail, "/valueBase64Binary")) } else { plain.into_bytes() };
            object.details.push((kind, value));
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every empty text, list and object.
    fn hollow(value: &Value) -> usize {
        match value {
            Value::Null => 1,
            Value::String(text) => usize::from(text.is_empty()),
            Value::Array(items) => usize::from(items.is_empty()) + items.iter().map(hollow).sum::<usize>(),
            Value::Object(members) => usize::from(members.is_empty()) + members.values().map(hollow).sum::<usize>(),
            Value::Bool(_) | Value::Number(_) => 0,
        }
    }

    #[test]
    fn nothing_in_an_audit_event_is_empty() {
        let mut message = Message::read(
            br#"<AuditMessage><EventIdentification EventOutcomeIndicator="0" EventDateTime="2026-11-23T09:14:11Z"><EventID
             csd-code="110110" codeSystemName="DCM" originalText=""/></EventIdentification><ActiveParticipant UserID=""
             UserIsRequestor="true"/><AuditSourceIdentification AuditSourceID="s"/></AuditMessage>"#,
        )
        .expect("reads");
        let mut object = Object::new("2", "", "", Coded::default());
        object.details = vec![("a".into(), Vec::new()), ("b".into(), b"c".to_vec())];
        message.objects.push(object);
        let event = to_audit_event(&message);
        assert_eq!(hollow(&event), 0, "{event}");
        assert_eq!(event["agent"], json!([{ "requestor": true }]));
        assert_eq!(event["entity"][0]["detail"], json!([{ "type": "b", "valueBase64Binary": "Yw==" }]));
    }
}
