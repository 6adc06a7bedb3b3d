//! PRPA_IN201305UV02.

use jiff::Timestamp;
use ncp_xml::Element;

use super::{ALTERNATIVES, IDENTIFIERS, PersonName};
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
    /// livingSubjectName: one of them fits.
    pub names: Vec<PersonName>,
    /// livingSubjectBirthTime, `YYYY[MM[DD]]`: one of them fits.
    pub birth_dates: Vec<String>,
    /// livingSubjectAdministrativeGender: one of them fits.
    pub genders: Vec<String>,
    /// Whether a parameter has values of which none can be read: nobody fits it.
    pub has_unreadable: bool,
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

/// The values of a parameter, which are alternatives (HL7 v3 PRPA_MT201306UV02). One that says that it says nothing is
/// none; where none of the others can be read, nobody fits.
///
/// # Errors
/// Malformed: more values than are read.
fn alternatives<T: PartialEq, Read: IntoIterator<Item = T>>(
    list: &Element,
    parameter: &'static str,
    has_unreadable: &mut bool,
    read: impl Fn(&Element) -> Read,
) -> Result<Vec<T>, MessageError> {
    let (mut found, mut stated) = (Vec::new(), 0);
    for value in values(list, parameter).filter(|value| value.get("nullFlavor").is_none()) {
        stated += 1;
        if stated > ALTERNATIVES {
            return Err(MessageError::Malformed(parameter));
        }
        for alternative in read(value) {
            if !found.contains(&alternative) {
                found.push(alternative);
            }
        }
    }
    *has_unreadable |= found.is_empty() && stated > 0;
    Ok(found)
}

/// What a name says, each with the given names. The parts of a family name are one name, of which a record may have the first
/// alone; a birth name beside it (HL7 v3 EntityNamePartQualifier BR) is another, and was maybe recorded with it.
fn names_of(value: &Element) -> Vec<PersonName> {
    let parts = |local| value.all(HL7V3, local).filter(|part| !part.trimmed().is_empty());
    let is_birth =
        |part: &&Element| part.get("qualifier").is_some_and(|q| q.split_ascii_whitespace().any(|q| q == "BR"));
    let joined = |parts: &[&Element]| parts.iter().map(|part| part.trimmed()).collect::<Vec<_>>().join(" ");
    let all: Vec<&Element> = parts("family").collect();
    let (birth, present): (Vec<&Element>, Vec<&Element>) = all.iter().copied().partition(is_birth);
    let given: Vec<String> = parts("given").map(Element::trimmed).collect();
    let first = present.get(..1).unwrap_or_default();
    let families = [joined(&present), joined(first), joined(&birth), joined(&all)].into_iter();
    let named: Vec<PersonName> = families
        .filter(|family| !family.is_empty())
        .map(|family| PersonName { family, given: given.clone() })
        .collect();
    if named.is_empty() && !given.is_empty() { vec![PersonName { given, ..PersonName::default() }] } else { named }
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
            names: name.into_iter().collect(),
            birth_dates: birth_date.into_iter().collect(),
            genders: gender.into_iter().collect(),
            has_unreadable: false,
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
        let mut has_unreadable = false;
        let names = alternatives(list, "livingSubjectName", &mut has_unreadable, names_of)?;
        let birth_dates = alternatives(list, "livingSubjectBirthTime", &mut has_unreadable, |value| {
            let date: String = value.get("value")?.trim().chars().take(8).collect();
            let is_date = matches!(date.len(), 4 | 6 | 8) && date.bytes().all(|b| b.is_ascii_digit());
            is_date.then_some(date)
        })?;
        let genders = alternatives(list, "livingSubjectAdministrativeGender", &mut has_unreadable, |value| {
            value.get("code").map(str::trim).filter(|code| !code.is_empty()).map(ToOwned::to_owned)
        })?;
        Ok(Self {
            message_id: (root.to_owned(), id.get("extension").map(ToOwned::to_owned)),
            sender: community("sender")?,
            // The device id is what OpenNCP compares; both name the same community.
            receiver: community("receiver")?,
            ids,
            names,
            birth_dates,
            genders,
            has_unreadable,
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
        for gender in &self.genders {
            let value = hl7("value").attr("code", gender.as_str());
            list.push(parameter("livingSubjectAdministrativeGender", value, "LivingSubject.administrativeGender"));
        }
        for date in &self.birth_dates {
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
        for name in &self.names {
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
