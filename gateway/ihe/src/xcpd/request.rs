//! PRPA_IN201305UV02.

use jiff::Timestamp;
use ncp_xml::Element;

use super::{IDENTIFIERS, PersonName};
use crate::ns::HL7V3;
use crate::{MessageError, Oid, PatientId};

/// A patient discovery request.
#[derive(Debug, Clone, PartialEq)]
pub struct PatientQuery {
    /// id of the message: root and extension.
    pub message_id: (String, Option<String>),
    /// Community that asks.
    pub sender: Oid,
    /// Community that is asked.
    pub receiver: Oid,
    /// livingSubjectId.
    pub ids: Vec<PatientId>,
    /// livingSubjectName.
    pub name: Option<PersonName>,
    /// livingSubjectBirthTime, `YYYYMMDD`.
    pub birth_date: Option<String>,
    /// livingSubjectAdministrativeGender.
    pub gender: Option<String>,
    /// queryByParameter as received, echoed in the answer.
    pub query: Element,
}

/// Which results of a query are wanted next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Number of the first, from 1.
    pub start: usize,
    /// How many.
    pub quantity: usize,
}

pub(super) fn hl7(local: &str) -> Element {
    Element::new(HL7V3, local)
}

fn values<'a>(list: &'a Element, parameter: &'a str) -> impl Iterator<Item = &'a Element> {
    list.all(HL7V3, parameter).flat_map(|p| p.all(HL7V3, "value"))
}

impl PatientQuery {
    /// A request by identifier, with demographics that narrow.
    pub fn new(
        sender: Oid,
        receiver: Oid,
        ids: Vec<PatientId>,
        name: Option<PersonName>,
        birth_date: Option<String>,
        gender: Option<String>,
    ) -> Self {
        let mut out = Self {
            message_id: (uuid::Uuid::new_v4().to_string(), None),
            sender,
            receiver,
            ids,
            name,
            birth_date,
            gender,
            query: hl7("queryByParameter"),
        };
        out.query = out.parameters();
        out
    }

    /// Reads a request.
    ///
    /// # Errors
    /// Malformed: no message id, no sender or receiver, no parameters.
    pub fn read(body: &Element) -> Result<Self, MessageError> {
        if !body.is(HL7V3, "PRPA_IN201305UV02") {
            return Err(MessageError::Malformed("PRPA_IN201305UV02"));
        }
        let id = body.child(HL7V3, "id").ok_or(MessageError::Malformed("id"))?;
        let root = id.get("root").filter(|r| r.len() <= 128).ok_or(MessageError::Malformed("id"))?;
        let community = |party: &str| -> Result<Oid, MessageError> {
            let device = body.path(HL7V3, &[party, "device"]).ok_or(MessageError::Malformed("device"))?;
            let organisation = device.path(HL7V3, &["asAgent", "representedOrganization", "id"]);
            let id = organisation.or_else(|| device.child(HL7V3, "id")).and_then(|id| id.get("root"));
            Oid::parse(id.ok_or(MessageError::Malformed("device id"))?)
        };
        let query = body
            .path(HL7V3, &["controlActProcess", "queryByParameter"])
            .ok_or(MessageError::Malformed("queryByParameter"))?;
        let list = query.child(HL7V3, "parameterList").ok_or(MessageError::Malformed("parameterList"))?;
        // An identifier that is none is as good as absent: without any, the answer asks for one.
        let id_of = |value: &Element| {
            let root = Oid::parse(value.get("root")?).ok()?;
            PatientId::new(value.get("extension")?, root).ok()
        };
        let ids: Vec<PatientId> = values(list, "livingSubjectId").filter_map(id_of).take(IDENTIFIERS + 1).collect();
        if ids.len() > IDENTIFIERS {
            return Err(MessageError::Malformed("livingSubjectId"));
        }
        let name = values(list, "livingSubjectName").next().map(|v| PersonName {
            family: v.child(HL7V3, "family").map(Element::trimmed).unwrap_or_default(),
            given: v.all(HL7V3, "given").map(Element::trimmed).collect(),
        });
        let date = values(list, "livingSubjectBirthTime").next().and_then(|v| v.get("value"));
        let gender = values(list, "livingSubjectAdministrativeGender").next().and_then(|v| v.get("code"));
        Ok(Self {
            message_id: (root.to_owned(), id.get("extension").map(ToOwned::to_owned)),
            sender: community("sender")?,
            // The device id is what OpenNCP compares; both name the same community.
            receiver: community("receiver")?,
            ids,
            name,
            birth_date: date.map(|d| d.chars().take(8).collect()),
            gender: gender.map(ToOwned::to_owned),
            query: query.clone(),
        })
    }

    /// Writes the request.
    pub fn to_element(&self, now: Timestamp) -> Element {
        let process = hl7("controlActProcess")
            .attr("classCode", "CACT")
            .attr("moodCode", "EVN")
            .with(hl7("code").attr("code", "PRPA_TE201305UV02").attr("codeSystem", "2.16.840.1.113883.1.6"))
            .with(hl7("authorOrPerformer").attr("typeCode", "AUT").with(
                hl7("assignedDevice").attr("classCode", "ASSIGNED").with(hl7("id").attr("root", self.sender.as_str())),
            ))
            .with(self.query.clone());
        wrapper("PRPA_IN201305UV02", (&self.message_id.0, self.message_id.1.as_deref()), now, "AL")
            .with(device("receiver", "RCV", &self.receiver))
            .with(device("sender", "SND", &self.sender))
            .with(process)
    }

    /// Asks for the next results of the query that was answered by message `answer` (ITI TF-2: 3.47.4.3,
    /// QUQI_IN000003UV01); without a quantity it says that no more are wanted.
    pub fn continuation(&self, answer: &Element, wanted: Option<Page>, now: Timestamp) -> Element {
        let (name, status) = match wanted {
            Some(_) => ("QUQI_IN000003UV01", "waitContinuedQueryResponse"),
            None => ("QUQI_IN000003UV01_Cancel", "aborted"),
        };
        let number = |local: &str, value: usize| hl7(local).attr("value", value.to_string());
        let continuation = hl7("queryContinuation")
            .with_all(self.query.child(HL7V3, "queryId").cloned())
            .with_all(wanted.map(|page| number("startResultNumber", page.start)))
            .with(number("continuationQuantity", wanted.map_or(0, |page| page.quantity)))
            .with(hl7("statusCode").attr("code", status));
        let process = hl7("controlActProcess")
            .attr("classCode", "CACT")
            .attr("moodCode", "EVN")
            .with(hl7("code").attr("code", "QUQI_TE000003UV01").attr("codeSystem", "2.16.840.1.113883.1.6"))
            .with(continuation);
        let acknowledgement = hl7("acknowledgement")
            .with(hl7("typeCode").attr("code", "AA"))
            .with(hl7("targetMessage").with_all(answer.child(HL7V3, "id").cloned()));
        wrapper(name, (&uuid::Uuid::new_v4().to_string(), None), now, "AL")
            .with(device("receiver", "RCV", &self.receiver))
            .with(device("sender", "SND", &self.sender))
            .with(acknowledgement)
            .with(process)
    }

    fn parameters(&self) -> Element {
        let parameter =
            |local: &str, value: Element, text: &str| hl7(local).with(value).with(hl7("semanticsText").text(text));
        let mut list = hl7("parameterList");
        if let Some(gender) = &self.gender {
            let value = hl7("value").attr("code", gender.as_str());
            list.push(parameter("livingSubjectAdministrativeGender", value, "LivingSubject.administrativeGender"));
        }
        if let Some(date) = &self.birth_date {
            list.push(parameter(
                "livingSubjectBirthTime",
                hl7("value").attr("value", date.as_str()),
                "LivingSubject.birthTime",
            ));
        }
        for id in &self.ids {
            let value = hl7("value").attr("root", id.root.as_str()).attr("extension", id.extension.as_str());
            list.push(parameter("livingSubjectId", value, "LivingSubject.id"));
        }
        if let Some(name) = &self.name {
            let value = hl7("value")
                .with_all((!name.family.is_empty()).then(|| hl7("family").text(name.family.as_str())))
                .with_all(name.given.iter().map(|g| hl7("given").text(g.as_str())));
            list.push(parameter("livingSubjectName", value, "LivingSubject.name"));
        }
        hl7("queryByParameter")
            .with(hl7("queryId").attr("root", uuid::Uuid::new_v4().to_string()))
            .with(hl7("statusCode").attr("code", "new"))
            .with(hl7("responseModalityCode").attr("code", "R"))
            .with(hl7("responsePriorityCode").attr("code", "I"))
            .with(list)
    }
}

/// The transmission wrapper up to acceptAckCode.
pub(super) fn wrapper(name: &str, (root, extension): (&str, Option<&str>), now: Timestamp, ack: &str) -> Element {
    let mut id = hl7("id").attr("root", root);
    if let Some(extension) = extension {
        id.set_attr("", "extension", extension);
    }
    hl7(name)
        .attr("ITSVersion", "XML_1.0")
        .with(id)
        .with(hl7("creationTime").attr("value", now.strftime("%Y%m%d%H%M%S").to_string()))
        .with(hl7("interactionId").attr("root", "2.16.840.1.113883.1.6").attr("extension", name))
        .with(hl7("processingCode").attr("code", "P"))
        .with(hl7("processingModeCode").attr("code", "T"))
        .with(hl7("acceptAckCode").attr("code", ack))
}

/// receiver or sender; OpenNCP reads `asAgent` of the sender without looking whether it is there.
pub(super) fn device(local: &str, kind: &str, community: &Oid) -> Element {
    let id = || hl7("id").attr("root", community.as_str());
    let organisation =
        hl7("representedOrganization").attr("classCode", "ORG").attr("determinerCode", "INSTANCE").with(id());
    let device = hl7("device")
        .attr("classCode", "DEV")
        .attr("determinerCode", "INSTANCE")
        .with(id())
        .with(hl7("asAgent").attr("classCode", "AGNT").with(organisation));
    hl7(local).attr("typeCode", kind).with(device)
}
