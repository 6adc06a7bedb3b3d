//! PRPA_IN201306UV02.

use jiff::Timestamp;
use ncp_xml::Element;

use super::request::{device, hl7, wrapper};
use super::{Address, Beside, PatientAnswer, PatientMatch, PatientQuery, PatientRecord, PersonName, Refusal};
use crate::ns::HL7V3;
use crate::{HomeCommunityId, MessageError, Oid, PatientId};

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Writes and reads the response.
pub struct PatientResponse;

impl PatientResponse {
    /// The response to a query.
    pub fn element(query: &PatientQuery, answer: &PatientAnswer, own: &Oid, now: Timestamp) -> Element {
        let (ack, code) = match answer {
            PatientAnswer::Matches(_) => ("AA", "OK"),
            PatientAnswer::NoMatch { .. } => ("AA", "NF"),
            PatientAnswer::Refused(refusal) if refusal.asks_for_more() => ("AA", "OK"),
            PatientAnswer::Refused(_) => ("AE", "AE"),
        };
        let detail = match answer {
            PatientAnswer::Refused(refusal) => Some((refusal.detail.as_str(), refusal.text.as_str())),
            PatientAnswer::NoMatch { ehdsi_reason: true } => Some(("ERROR_PI_NO_MATCH", "No patient found.")),
            _ => None,
        };
        let detail = detail.filter(|(code, _)| !code.is_empty()).map(|(code, text)| {
            let kind = if ack == "AE" { "E" } else { "W" };
            hl7("acknowledgementDetail")
                .attr("typeCode", kind)
                .with(hl7("code").attr("code", code))
                .with(hl7("text").text(text))
        });
        let acknowledgement = hl7("acknowledgement")
            .with(hl7("typeCode").attr("code", ack))
            .with(hl7("targetMessage").with(target(query)))
            .with_all(detail);
        let subjects: Vec<Element> = match answer {
            PatientAnswer::Matches(matches) => matches.iter().map(subject).collect(),
            _ => Vec::new(),
        };
        let asks = matches!(answer, PatientAnswer::Refused(refusal) if refusal.asks_for_more());
        let reasons: Vec<Element> = match answer {
            PatientAnswer::Refused(refusal) => {
                let own = (!refusal.reason.is_empty()).then(|| reason(&refusal.reason, &refusal.system, asks));
                let attribute = |code: &String| reason(code, Refusal::ATTRIBUTES, true);
                own.into_iter().chain(refusal.attributes.iter().map(attribute)).collect()
            }
            PatientAnswer::NoMatch { ehdsi_reason: true } => {
                vec![reason("AnswerNotAvailable", "1.3.6.1.4.1.19376.1.2.27.3", false)]
            }
            _ => Vec::new(),
        };
        let query_id =
            query.query.child(HL7V3, "queryId").cloned().unwrap_or_else(|| hl7("queryId").attr("nullFlavor", "NI"));
        let process = hl7("controlActProcess")
            .attr("classCode", "CACT")
            .attr("moodCode", "EVN")
            .with(hl7("code").attr("code", "PRPA_TE201306UV02").attr("codeSystem", "2.16.840.1.113883.1.6"))
            .with_all(subjects)
            .with_all(reasons)
            .with(
                hl7("queryAck")
                    .with(query_id)
                    .with(hl7("statusCode").attr("code", "deliveredResponse"))
                    .with(hl7("queryResponseCode").attr("code", code)),
            )
            .with(query.query.clone());
        wrapper("PRPA_IN201306UV02", (&uuid::Uuid::new_v4().to_string(), None), now, "NE")
            .with(device("receiver", "RCV", &query.sender))
            .with(device("sender", "SND", own))
            .with(acknowledgement)
            .with(process)
    }

    /// The answer to a request whose priority is deferred (ITI TF-2: 3.55.4.2.3): the mode is not supported.
    pub fn deferred_refused(query: &PatientQuery, own: &Oid, now: Timestamp) -> Element {
        let detail = hl7("acknowledgementDetail")
            .attr("typeCode", "E")
            .with(hl7("code").attr("code", "NS250").attr("displayName", "Unsupported processing mode"))
            .with(hl7("text").text("Deferred Response not supported."));
        let acknowledgement = hl7("acknowledgement")
            .with(hl7("typeCode").attr("code", "AE"))
            .with(hl7("targetMessage").with(target(query)))
            .with(detail);
        wrapper("MCCI_IN000002UV01", (&uuid::Uuid::new_v4().to_string(), None), now, "NE")
            .with(device("receiver", "RCV", &query.sender))
            .with(device("sender", "SND", own))
            .with(acknowledgement)
    }

    /// Reads a response. A match is decided by a `subject`, whatever the codes say: OpenNCP 7.1 sends `AE` on a match.
    ///
    /// # Errors
    /// Malformed.
    pub fn read(body: &Element) -> Result<PatientAnswer, MessageError> {
        Self::read_from(body, None)
    }

    /// Reads the answer of a national Patient Demographics Supplier [ITI-47], which names no custodian: its matches
    /// count as those of `community`.
    ///
    /// # Errors
    /// Malformed.
    pub fn read_supplier(body: &Element, community: &HomeCommunityId) -> Result<PatientAnswer, MessageError> {
        Self::read_from(body, Some(community))
    }

    /// What stands beside the persons that an answer names: they are shown, and this is told.
    pub fn beside(body: &Element) -> Beside {
        let mut out = Beside::default();
        let details = body.all(HL7V3, "acknowledgement").flat_map(|a| a.all(HL7V3, "acknowledgementDetail"));
        for detail in details {
            let code = detail.child(HL7V3, "code").and_then(|c| c.get("code")).unwrap_or_default().to_owned();
            match detail.get("typeCode") {
                Some("I") => {}
                Some("W") => out.warnings.push(code),
                _ => out.errors.push(code),
            }
        }
        let process = body.child(HL7V3, "controlActProcess");
        let subjects = process.into_iter().flat_map(|process| process.all(HL7V3, "subject"));
        out.unusable = subjects.filter(|s| !is_in_use(s) || read_subject(s, None).is_err()).count();
        out
    }

    /// How many results a supplier holds back until it is asked to continue; 0 when it answered them all.
    pub fn remaining(body: &Element) -> usize {
        let quantity = body.path(HL7V3, &["controlActProcess", "queryAck", "resultRemainingQuantity"]);
        quantity.and_then(|q| q.get("value")).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    }

    fn read_from(body: &Element, community: Option<&HomeCommunityId>) -> Result<PatientAnswer, MessageError> {
        if !body.is(HL7V3, "PRPA_IN201306UV02") {
            return Err(MessageError::Malformed("PRPA_IN201306UV02"));
        }
        let process = body.child(HL7V3, "controlActProcess").ok_or(MessageError::Malformed("controlActProcess"))?;
        let in_use = process.all(HL7V3, "subject").filter(|subject| is_in_use(subject));
        let subjects = in_use.map(|subject| read_subject(subject, community));
        let (matches, unusable): (Vec<_>, Vec<_>) = subjects.partition(Result::is_ok);
        if !matches.is_empty() {
            return Ok(PatientAnswer::Matches(matches.into_iter().flatten().collect()));
        }
        if let Some(error) = unusable.into_iter().find_map(Result::err) {
            return Err(error);
        }
        let code =
            process.path(HL7V3, &["queryAck", "queryResponseCode"]).and_then(|c| c.get("code")).unwrap_or_default();
        let details = body.all(HL7V3, "acknowledgement").flat_map(|a| a.all(HL7V3, "acknowledgementDetail"));
        let detail = details.filter_map(|d| {
            let code = d.child(HL7V3, "code").and_then(|c| c.get("code"))?;
            Some((code.to_owned(), d.child(HL7V3, "text").map(Element::trimmed).unwrap_or_default()))
        });
        let (detail, text) = detail.into_iter().next().unwrap_or_default();
        let events = process.all(HL7V3, "reasonOf").filter_map(|r| r.child(HL7V3, "detectedIssueEvent"));
        let codes = events.filter_map(|e| {
            let code = e
                .path(HL7V3, &["mitigatedBy", "detectedIssueManagement", "code"])
                .or_else(|| e.path(HL7V3, &["triggerFor", "actOrderRequired", "code"]))?;
            Some((code.get("code")?.to_owned(), code.get("codeSystem").unwrap_or_default().to_owned()))
        });
        let (attributes, reasons): (Vec<_>, Vec<_>) = codes.partition(|(_, system)| system == Refusal::ATTRIBUTES);
        let attributes: Vec<String> = attributes.into_iter().map(|(code, _)| code).collect();
        let reason = reasons.into_iter().next();
        let wants = !attributes.is_empty();
        if code == "NF" || detail == "ERROR_PI_NO_MATCH" || (code == "OK" && reason.is_none() && !wants) {
            return Ok(PatientAnswer::NoMatch { ehdsi_reason: reason.is_some() });
        }
        let (reason, system) = reason.unwrap_or_default();
        Ok(PatientAnswer::Refused(Refusal { reason, system, detail, text, attributes }))
    }
}

/// id of the message that is answered.
fn target(query: &PatientQuery) -> Element {
    let mut target = hl7("id").attr("root", query.message_id.0.as_str());
    if let Some(extension) = &query.message_id.1 {
        target.set_attr("", "extension", extension.as_str());
    }
    target
}

fn subject(found: &PatientMatch) -> Element {
    let record = &found.record;
    let name = hl7("name")
        .with(hl7("family").text(record.name.family.as_str()))
        .with_all(record.name.given.iter().map(|g| hl7("given").text(g.as_str())));
    let address = record.address.as_ref().map(|a| {
        let part = |local: &str, value: &Option<String>| value.as_ref().map(|v| hl7(local).text(v.as_str()));
        hl7("addr")
            .with_all(part("streetAddressLine", &a.street))
            .with_all(part("city", &a.city))
            .with_all(part("postalCode", &a.postal_code))
            .with_all(part("country", &a.country))
    });
    let others = record.other_ids.iter().map(|id| {
        let scope = hl7("scopingOrganization")
            .attr("classCode", "ORG")
            .attr("determinerCode", "INSTANCE")
            .with(hl7("id").attr("root", id.root.as_str()));
        hl7("asOtherIDs").attr("classCode", "PAT").with(ii(id)).with(scope)
    });
    let person = hl7("patientPerson")
        .attr("classCode", "PSN")
        .attr("determinerCode", "INSTANCE")
        .with(name)
        .with_all(record.gender.as_ref().map(|g| {
            hl7("administrativeGenderCode").attr("code", g.as_str()).attr("codeSystem", "2.16.840.1.113883.5.1")
        }))
        .with_all(record.birth_date.as_ref().map(|d| hl7("birthTime").attr("value", d.as_str())))
        .with_all(address)
        .with_all(others);
    let observation = hl7("queryMatchObservation")
        .attr("classCode", "OBS")
        .attr("moodCode", "EVN")
        .with(hl7("code").attr("code", "IHE_PDQ").attr("codeSystem", "2.16.840.1.113883.1.11.19914"))
        .with(hl7("value").attr_in(XSI, "type", "INT").attr("value", found.degree.to_string()));
    let provider = hl7("providerOrganization")
        .attr("classCode", "ORG")
        .attr("determinerCode", "INSTANCE")
        .with(hl7("id").attr("root", found.home.0.as_str()))
        .with(hl7("contactParty").attr("classCode", "CON"));
    let patient = hl7("patient")
        .attr("classCode", "PAT")
        .with(ii(&record.id))
        .with(hl7("statusCode").attr("code", "active"))
        .with(person)
        .with(provider)
        .with(hl7("subjectOf1").with(observation));
    let custodian = hl7("assignedEntity")
        .attr("classCode", "ASSIGNED")
        .with(hl7("id").attr("root", found.home.0.as_str()))
        .with(hl7("code").attr("code", "NotHealthDataLocator").attr("codeSystem", "1.3.6.1.4.1.19376.1.2.27.2"));
    let event = hl7("registrationEvent")
        .attr("classCode", "REG")
        .attr("moodCode", "EVN")
        .with(hl7("id").attr("nullFlavor", "NA"))
        .with(hl7("statusCode").attr("code", "active"))
        .with(hl7("subject1").attr("typeCode", "SBJ").with(patient))
        .with(hl7("custodian").attr("typeCode", "CST").with(custodian));
    hl7("subject").attr("typeCode", "SUBJ").attr("contextConductionInd", "false").with(event)
}

fn ii(id: &PatientId) -> Element {
    hl7("id").attr("root", id.root.as_str()).attr("extension", id.extension.as_str())
}

/// A reason: what would be needed under `triggerFor`, all else under `mitigatedBy`.
fn reason(code: &str, system: &str, asks: bool) -> Element {
    let code = hl7("code").attr("code", code).attr("codeSystem", system);
    let cause = if asks {
        let order = hl7("actOrderRequired").attr("classCode", "ACT").attr("moodCode", "RQO").with(code);
        hl7("triggerFor").attr("typeCode", "TRIG").with(order)
    } else {
        let management = hl7("detectedIssueManagement").attr("classCode", "ACT").attr("moodCode", "EVN").with(code);
        hl7("mitigatedBy").attr("typeCode", "MITGT").with(management)
    };
    let event = hl7("detectedIssueEvent")
        .attr("classCode", "ALRT")
        .attr("moodCode", "EVN")
        .with(
            hl7("code")
                .attr("code", "_ActAdministrativeDetectedIssueManagementCode")
                .attr("codeSystem", "2.16.840.1.113883.5.4"),
        )
        .with(cause);
    hl7("reasonOf").attr("typeCode", "RSON").with(event)
}

/// Whether a record is in use: `active`, where its registration and its patient have a status. One that was merged into
/// another, nullified or ended is nobody's any more, whatever the word for it.
fn is_in_use(subject: &Element) -> bool {
    let event = subject.child(HL7V3, "registrationEvent");
    let patient = event.and_then(|event| event.path(HL7V3, &["subject1", "patient"]));
    let statuses = event.into_iter().chain(patient).flat_map(|holder| holder.all(HL7V3, "statusCode"));
    let mut codes = statuses.map(|status| status.get("code").unwrap_or_default());
    // `normal` is the state above `active` (HL7 RoleStatus, ActStatus).
    codes.all(|code| matches!(code, "active" | "normal"))
}

fn read_subject(subject: &Element, community: Option<&HomeCommunityId>) -> Result<PatientMatch, MessageError> {
    let malformed = || MessageError::Malformed("registrationEvent");
    let event = subject.child(HL7V3, "registrationEvent").ok_or_else(malformed)?;
    let patient = event.path(HL7V3, &["subject1", "patient"]).ok_or_else(malformed)?;
    let read_ii = |e: &Element| -> Result<PatientId, MessageError> {
        PatientId::new(e.get("extension").unwrap_or_default(), Oid::parse(e.get("root").unwrap_or_default())?)
    };
    let mut ids = patient.all(HL7V3, "id").filter_map(|e| read_ii(e).ok());
    let id = ids.next().ok_or(MessageError::NoPatientId)?;
    let mut other_ids: Vec<PatientId> = ids.collect();
    let person = patient.child(HL7V3, "patientPerson").ok_or_else(malformed)?;
    let others = person.all(HL7V3, "asOtherIDs").flat_map(|o| o.all(HL7V3, "id"));
    other_ids.extend(others.filter_map(|e| read_ii(e).ok()));
    let name = person.child(HL7V3, "name");
    let text = |holder: &Element, local: &str| holder.child(HL7V3, local).map(Element::trimmed);
    let custodian = event.path(HL7V3, &["custodian", "assignedEntity", "id"]).and_then(|i| i.get("root"));
    let home = match community {
        Some(community) => community.clone(),
        None => HomeCommunityId::parse(custodian.ok_or_else(malformed)?)?,
    };
    let degree = patient.path(HL7V3, &["subjectOf1", "queryMatchObservation", "value"]).and_then(|v| v.get("value"));
    Ok(PatientMatch {
        record: PatientRecord {
            id,
            other_ids,
            name: PersonName {
                family: name.and_then(|n| text(n, "family")).unwrap_or_default(),
                given: name.map(|n| n.all(HL7V3, "given").map(Element::trimmed).collect()).unwrap_or_default(),
            },
            birth_date: person
                .child(HL7V3, "birthTime")
                .and_then(|b| b.get("value"))
                .map(|d| d.chars().take(8).collect()),
            gender: person.child(HL7V3, "administrativeGenderCode").and_then(|g| g.get("code")).map(ToOwned::to_owned),
            address: person.child(HL7V3, "addr").map(|a| Address {
                street: text(a, "streetAddressLine"),
                city: text(a, "city"),
                postal_code: text(a, "postalCode"),
                country: text(a, "country"),
            }),
        },
        home,
        degree: degree.and_then(|d| d.parse().ok()).unwrap_or(0),
    })
}
