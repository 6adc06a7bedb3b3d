//! Reads a message of any dialect: DICOM PS3.15 A.5 in all editions, OpenATNA's, and RFC 3881 with `code` for `csd-code`.
//! Nothing of it is trusted; it is what the sender says.

use jiff::Timestamp;
use ncp_proto::audit::{Facts, Record};
use ncp_xml::{Element, Limits};

use super::{Coded, DicomData, Message, Object, Participant};

/// Why bytes are no audit message. The text holds nothing of the message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// No XML, or XML that we do not read: a DOCTYPE, entities, too deep, not UTF-8.
    #[error("xml: {0}")]
    Xml(String),
    /// Another root element.
    #[error("root element is not AuditMessage")]
    Root,
    /// What every message must have.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value of no meaning.
    #[error("{0} cannot be read")]
    Value(&'static str),
}

/// The listeners bound a record. What they take is not refused here by its size, wherever in the record its octets are:
/// evidence stands in one attribute, a list of studies in thousands of elements with line ends between them.
const LIMITS: Limits =
    Limits { bytes: 16 << 20, depth: 32, attribute_bytes: 16 << 20, held: Limits::ANSWER.held, ..Limits::REQUEST };

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let root = Element::parse(bytes, &LIMITS).map_err(|e| ReadError::Xml(e.to_string()))?;
        if root.local() != "AuditMessage" {
            return Err(ReadError::Root);
        }
        let event = child(&root, "EventIdentification").ok_or(ReadError::Missing("EventIdentification"))?;
        let at = event.get("EventDateTime").ok_or(ReadError::Missing("EventDateTime"))?;
        let outcome = event.get("EventOutcomeIndicator").ok_or(ReadError::Missing("EventOutcomeIndicator"))?;
        let source =
            child(&root, "AuditSourceIdentification").ok_or(ReadError::Missing("AuditSourceIdentification"))?;
        let text = |of: &Element, name: &str| of.get(name).unwrap_or_default().to_owned();
        Ok(Self {
            event: child(event, "EventID").map(coded).ok_or(ReadError::Missing("EventID"))?,
            action: text(event, "EventActionCode"),
            at: instant(at).ok_or(ReadError::Value("EventDateTime"))?,
            outcome: outcome.trim().parse().map_err(|_| ReadError::Value("EventOutcomeIndicator"))?,
            types: children(event, "EventTypeCode").map(coded).collect(),
            description: child(event, "EventOutcomeDescription").map(Element::content).unwrap_or_default(),
            purposes: children(event, "PurposeOfUse").map(coded).collect(),
            participants: children(&root, "ActiveParticipant").map(participant).collect(),
            enterprise_site: text(source, "AuditEnterpriseSiteID"),
            source: source.get("AuditSourceID").map(str::to_owned).ok_or(ReadError::Missing("AuditSourceID"))?,
            source_types: children(source, "AuditSourceTypeCode").map(coded).collect(),
            objects: children(&root, "ParticipantObjectIdentification").map(object).collect(),
        })
    }

    /// The message of a record, whatever its form.
    pub fn of_record(record: &Record) -> Option<Self> {
        match record.media_type.as_str() {
            "application/xml" => Self::read(&record.message).ok(),
            "application/fhir+json" => {
                crate::fhir::from_audit_event(&ncp_xml::json::read_last(&record.message).ok()?).ok()
            }
            _ => None,
        }
    }

    /// What the index takes from a message of one of our own gateways. Everything that the message says is taken from it;
    /// the envelope beside it adds what a message leaves out by specification: the side of the exchange and the other
    /// country, and at NCP-B the patient of ITI-55.
    pub fn facts_beside(&self, envelope: &Facts) -> Facts {
        let said = self.facts();
        let silent = |said: String, beside: &str| if said.is_empty() { beside.to_owned() } else { said };
        let used = self.event.code == "110101";
        let asked = self.types.iter().any(|c| c.code == "ITI-55") && envelope.role == "initiator";
        // A person of our own messages has a role; without one the requestor is a machine.
        let person = self.participants.iter().find(|p| p.requestor && p.is_person() && (used || !p.roles.is_empty()));
        Facts {
            transaction: if used { self.event.code.clone() } else { said.transaction },
            role: silent(said.role, &envelope.role),
            country: silent(said.country, &envelope.country),
            patient: if asked { silent(said.patient, &envelope.patient) } else { said.patient },
            user: person.map(Participant::shown_name).unwrap_or_default(),
            ..said
        }
    }

    /// What the index takes from a message that came without facts.
    pub fn facts(&self) -> Facts {
        let human = self.participants.iter().find(|p| p.requestor && p.is_person());
        let human = human.or_else(|| self.participants.iter().find(|p| p.requestor));
        let care =
            |c: &Coded| c.text == "1.3.6.1.4.1.12559.11.10.1.3.2.2.2" || c.code == "1.3.6.1.4.1.12559.11.10.1.3.2.2.2";
        let organisation = self.participants.iter().find(|p| p.roles.iter().any(care));
        let kind = self.types.first().filter(|c| !c.code.is_empty()).unwrap_or(&self.event);
        let purpose = self.purposes.first().map(|c| c.code.clone()).unwrap_or_default();
        let detail = |name: &str| {
            let mut all = self.objects.iter().flat_map(|o| &o.details);
            all.find(|(kind, _)| kind == name).map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let of_type = |code: &str| self.objects.iter().find(|o| o.id_type.code == code).map(|o| o.id.clone());
        let exchange = || of_type("ncp-exchange").or_else(|| of_type("traceparent"));
        let mut studies: Vec<String> =
            self.objects.iter().filter(|o| o.id_type.code == "110180").map(|o| o.id.clone()).collect();
        studies.dedup();
        for uid in self.objects.iter().filter_map(|o| o.dicom.as_ref()).flat_map(|d| &d.studies) {
            if !studies.contains(uid) {
                studies.push(uid.clone());
            }
        }
        Facts {
            exchange_id: detail("ncp:exchange-id").or_else(exchange).unwrap_or_default(),
            transaction: kind.code.clone(),
            role: match self.event.code.as_str() {
                "110107" | "110103" => "initiator",
                "110106" | "110104" => "responder",
                _ => "",
            }
            .to_owned(),
            outcome: self.outcome,
            patient: self.patient().to_owned(),
            user: human.map(Participant::shown_name).unwrap_or_default(),
            organisation: organisation.map(|p| p.user_id.clone()).unwrap_or_default(),
            country: String::new(),
            emergency: purpose == "EMERGENCY" || self.types.iter().any(|c| c.code == "110127"),
            purpose,
            studies,
        }
    }
}

impl Participant {
    /// Whether no role says that it is a program or a system.
    fn is_person(&self) -> bool {
        self.roles.iter().all(|r| !matches!(r.code.as_str(), "110150" | "110152" | "ServiceConsumer"))
    }

    fn shown_name(&self) -> String {
        if self.name.is_empty() { self.user_id.clone() } else { self.name.clone() }
    }
}

fn child<'a>(element: &'a Element, name: &str) -> Option<&'a Element> {
    element.elements().find(|e| e.local() == name)
}

fn children<'a>(element: &'a Element, name: &'a str) -> impl Iterator<Item = &'a Element> {
    element.elements().filter(move |e| e.local() == name)
}

/// xs:dateTime. RFC 3881 senders leave the offset out; UTC is then the least wrong.
fn instant(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
    })
}

fn coded(element: &Element) -> Coded {
    let text = |names: &[&str]| names.iter().find_map(|n| element.get(n)).unwrap_or_default().to_owned();
    let code = text(&["csd-code", "code"]);
    Coded {
        // The 2016a edition writes AuditSourceTypeCode as text.
        code: if code.is_empty() { element.trimmed() } else { code },
        system: text(&["codeSystemName", "codeSystem"]),
        text: text(&["originalText", "displayName"]),
        display: text(&["displayName"]),
    }
}

fn participant(element: &Element) -> Participant {
    let text = |name: &str| element.get(name).unwrap_or_default().to_owned();
    Participant {
        user_id: text("UserID"),
        alternative: text("AlternativeUserID"),
        name: text("UserName"),
        // RFC 3881: true unless said otherwise.
        requestor: element.get("UserIsRequestor").is_none_or(|v| matches!(v.trim(), "true" | "1")),
        address: text("NetworkAccessPointID"),
        roles: children(element, "RoleIDCode").map(coded).collect(),
    }
}

fn object(element: &Element) -> Object {
    let text = |name: &str| element.get(name).unwrap_or_default().to_owned();
    let base64 = |value: &str| {
        let compact: String = value.split_ascii_whitespace().collect();
        // What is no base64 is kept as it came: old senders write plain text.
        openssl::base64::decode_block(&compact).unwrap_or_else(|_| value.as_bytes().to_vec())
    };
    let description = child(element, "ParticipantObjectDescription");
    let holders = || description.into_iter().chain([element]);
    let uid = |e: &Element, name: &str| e.get(name).unwrap_or_default().to_owned();
    let dicom = DicomData {
        accessions: holders().flat_map(|h| children(h, "Accession")).map(|e| uid(e, "Number")).collect(),
        sop_classes: holders()
            .flat_map(|h| children(h, "SOPClass"))
            .map(|e| (uid(e, "UID"), e.get("NumberOfInstances").and_then(|n| n.trim().parse().ok()).unwrap_or(0)))
            .collect(),
        instances: holders()
            .flat_map(|h| children(h, "SOPClass"))
            .flat_map(|class| children(class, "Instance"))
            .map(|e| uid(e, "UID"))
            .collect(),
        studies: holders()
            .filter_map(|h| child(h, "ParticipantObjectContainsStudy"))
            .flat_map(|c| children(c, "StudyIDs"))
            .map(|e| uid(e, "UID"))
            .collect(),
    };
    Object {
        id: text("ParticipantObjectID"),
        kind: text("ParticipantObjectTypeCode"),
        role: text("ParticipantObjectTypeCodeRole"),
        life_cycle: text("ParticipantObjectDataLifeCycle"),
        id_type: child(element, "ParticipantObjectIDTypeCode").map(coded).unwrap_or_default(),
        name: child(element, "ParticipantObjectName").map(Element::content).unwrap_or_default(),
        query: child(element, "ParticipantObjectQuery").map(|q| base64(&q.content())),
        details: children(element, "ParticipantObjectDetail")
            .map(|d| (text_of(d, "type"), base64(&text_of(d, "value"))))
            .collect(),
        dicom: (dicom != DicomData::default()).then_some(dicom),
    }
}

fn text_of(element: &Element, name: &str) -> String {
    element.get(name).unwrap_or_default().to_owned()
}
