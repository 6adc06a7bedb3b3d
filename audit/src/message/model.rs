//! The audit message as a value (DICOM PS3.15 A.5): free of dialect until it is written.

use std::borrow::Cow;

use jiff::Timestamp;
use ncp_xml::Element;

use crate::bounds;

/// Under which OpenNCP keeps the header of a message.
const SECURITY_HEADER: &str = "securityheader";

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The 2017c schema: DICOM data of an object inside `ParticipantObjectDescription`, roles up to 26.
    Ihe,
    /// What OpenATNA accepts: SOP class and study directly in the object, roles up to 24.
    Ehdsi,
}

/// A coded value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coded {
    /// `csd-code`, in RFC 3881 `code`.
    pub code: String,
    /// `codeSystemName`.
    pub system: String,
    /// `originalText`.
    pub text: String,
    /// `displayName`, empty when none.
    pub display: String,
}

impl Coded {
    /// A code with its text.
    pub fn new(code: &str, system: &str, text: &str) -> Self {
        Self { code: code.to_owned(), system: system.to_owned(), text: text.to_owned(), display: String::new() }
    }

    /// The same with a display name.
    pub fn shown(self, display: &str) -> Self {
        Self { display: display.to_owned(), ..self }
    }

    /// As the dialect names it: `ehdsi` always shows a name, the code's own text where it has no other.
    fn named(&self, dialect: Dialect) -> Cow<'_, Self> {
        match dialect == Dialect::Ehdsi && self.display.is_empty() {
            true => Cow::Owned(self.clone().shown(&self.text)),
            false => Cow::Borrowed(self),
        }
    }

    fn element(&self, name: &str) -> Element {
        let mut out = Element::new("", name)
            .attr("csd-code", clean(&self.code))
            .attr("codeSystemName", clean(&self.system))
            .attr("originalText", clean(&self.text));
        if !self.display.is_empty() {
            out.set_attr("", "displayName", clean(&self.display));
        }
        out
    }
}

/// `ActiveParticipant`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Participant {
    /// `UserID`.
    pub user_id: String,
    /// `AlternativeUserID`, empty when none.
    pub alternative: String,
    /// `UserName`, empty when none.
    pub name: String,
    /// `UserIsRequestor`.
    pub requestor: bool,
    /// `NetworkAccessPointID`, empty when none.
    pub address: String,
    /// `RoleIDCode`.
    pub roles: Vec<Coded>,
}

/// What an object says in DICOM's own terms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DicomData {
    /// Accession numbers.
    pub accessions: Vec<String>,
    /// SOP Class UID, empty when not known, and its number of instances.
    pub sop_classes: Vec<(String, u64)>,
    /// SOP Instance UIDs, where single instances are meant; of which class each is, is not known.
    pub instances: Vec<String>,
    /// Study Instance UIDs.
    pub studies: Vec<String>,
}

/// `ParticipantObjectIdentification`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object {
    /// `ParticipantObjectID`.
    pub id: String,
    /// `ParticipantObjectTypeCode`: 1 person, 2 system, 3 organisation, 4 other; empty when none.
    pub kind: String,
    /// `ParticipantObjectTypeCodeRole`, empty when none.
    pub role: String,
    /// `ParticipantObjectDataLifeCycle`, empty when none.
    pub life_cycle: String,
    /// `ParticipantObjectIDTypeCode`.
    pub id_type: Coded,
    /// `ParticipantObjectName`, empty when none.
    pub name: String,
    /// `ParticipantObjectQuery`, decoded.
    pub query: Option<Vec<u8>>,
    /// `ParticipantObjectDetail`: type and decoded value.
    pub details: Vec<(String, Vec<u8>)>,
    /// DICOM data.
    pub dicom: Option<DicomData>,
}

impl Object {
    /// An object of kind, role and identifier.
    pub fn new(kind: &str, role: &str, id: &str, id_type: Coded) -> Self {
        Self { kind: kind.to_owned(), role: role.to_owned(), id: id.to_owned(), id_type, ..Self::default() }
    }

    /// The patient.
    pub fn patient(cx: &str, system: &str) -> Self {
        Self::new("1", "1", cx, Coded::new("2", system, "Patient Number"))
    }

    /// One more detail; an empty value says nothing and is left out.
    pub fn detail(mut self, kind: &str, value: &str) -> Self {
        if !value.is_empty() {
            let value = bounds::told(value).unwrap_or_else(|| value.to_owned());
            self.details.push((kind.to_owned(), value.into_bytes()));
        }
        self
    }

    /// A SOAP header as a detail, which may be longer than a text.
    pub(super) fn header(mut self, header: &str) -> Self {
        if !header.is_empty() && header.len() <= bounds::EVIDENCE {
            self.details.push((SECURITY_HEADER.to_owned(), header.as_bytes().to_vec()));
            return self;
        }
        self.detail(SECURITY_HEADER, header)
    }
}

/// `AuditMessage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `EventID`.
    pub event: Coded,
    /// `EventActionCode`: C, R, U, D, E, or empty.
    pub action: String,
    /// `EventDateTime`.
    pub at: Timestamp,
    /// `EventOutcomeIndicator`.
    pub outcome: i32,
    /// `EventTypeCode`.
    pub types: Vec<Coded>,
    /// `EventOutcomeDescription`, empty when none.
    pub description: String,
    /// `PurposeOfUse`.
    pub purposes: Vec<Coded>,
    /// Who took part.
    pub participants: Vec<Participant>,
    /// `AuditEnterpriseSiteID`, empty when none.
    pub enterprise_site: String,
    /// `AuditSourceID`.
    pub source: String,
    /// `AuditSourceTypeCode`.
    pub source_types: Vec<Coded>,
    /// What it was about.
    pub objects: Vec<Object>,
}

impl Message {
    /// The message in one dialect, without XML declaration.
    pub fn to_xml(&self, dialect: Dialect) -> String {
        let mut event = Element::new("", "EventIdentification");
        set(&mut event, "EventActionCode", &self.action);
        event.set_attr("", "EventDateTime", self.at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string());
        event.set_attr("", "EventOutcomeIndicator", self.outcome.to_string());
        event.push(self.event.named(dialect).element("EventID"));
        let described = (!self.description.is_empty())
            .then(|| Element::new("", "EventOutcomeDescription").text(clean(&self.description)));
        let event = event
            .with_all(self.types.iter().map(|c| c.named(dialect).element("EventTypeCode")))
            .with_all(described)
            .with_all(self.purposes.iter().map(|c| c.element("PurposeOfUse")));
        let mut source = Element::new("", "AuditSourceIdentification");
        set(&mut source, "AuditEnterpriseSiteID", &self.enterprise_site);
        source.set_attr("", "AuditSourceID", clean(&self.source));
        Element::new("", "AuditMessage")
            .with(event)
            .with_all(self.participants.iter().map(participant))
            .with(source.with_all(self.source_types.iter().map(|c| c.element("AuditSourceTypeCode"))))
            .with_all(self.objects.iter().flat_map(|o| objects(o, dialect)))
            .to_xml()
    }

    /// The patient's identifier, empty when the message has none.
    pub fn patient(&self) -> &str {
        self.objects.iter().find(|o| o.kind == "1" && o.role == "1").map_or("", |o| o.id.as_str())
    }
}

fn set(element: &mut Element, name: &str, value: &str) {
    if !value.is_empty() {
        element.set_attr("", name, clean(value));
    }
}

fn participant(participant: &Participant) -> Element {
    let mut out = Element::new("", "ActiveParticipant").attr("UserID", clean(&participant.user_id));
    set(&mut out, "AlternativeUserID", &participant.alternative);
    set(&mut out, "UserName", &participant.name);
    out.set_attr("", "UserIsRequestor", participant.requestor.to_string());
    if !participant.address.is_empty() {
        // 2 is an address, 1 a name.
        let kind = if participant.address.parse::<std::net::IpAddr>().is_ok() { "2" } else { "1" };
        set(&mut out, "NetworkAccessPointID", &participant.address);
        out.set_attr("", "NetworkAccessPointTypeCode", kind);
    }
    out.with_all(participant.roles.iter().map(|c| c.element("RoleIDCode")))
}

/// An object as its elements: one, or in `ehdsi`, whose schema has room for one SOP class in an object, one for each class.
fn objects(object: &Object, dialect: Dialect) -> Vec<Element> {
    let classes = object.dicom.as_ref().map_or(0, |dicom| dicom.sop_classes.len());
    if dialect == Dialect::Ihe || classes <= 1 {
        return vec![element_of(object, dialect)];
    }
    let of_class = |index: usize| {
        let mut one = object.clone();
        if let Some(dicom) = &mut one.dicom {
            dicom.sop_classes = dicom.sop_classes.get(index..=index).unwrap_or_default().to_vec();
            // What is said of the whole study is said once.
            if index > 0 {
                dicom.instances.clear();
            }
        }
        if index > 0 {
            one.details.clear();
        }
        element_of(&one, dialect)
    };
    (0..classes).map(of_class).collect()
}

/// The last role that OpenATNA's schema has.
const LAST_ROLE: u8 = 24;

fn element_of(object: &Object, dialect: Dialect) -> Element {
    let mut out = Element::new("", "ParticipantObjectIdentification").attr("ParticipantObjectID", clean(&object.id));
    set(&mut out, "ParticipantObjectTypeCode", &object.kind);
    let known = dialect == Dialect::Ihe || object.role.parse::<u8>().is_ok_and(|role| role <= LAST_ROLE);
    set(&mut out, "ParticipantObjectTypeCodeRole", if known { &object.role } else { "" });
    set(&mut out, "ParticipantObjectDataLifeCycle", &object.life_cycle);
    out.push(object.id_type.element("ParticipantObjectIDTypeCode"));
    if let Some(query) = &object.query {
        let query = match query.len() > bounds::QUERY {
            true => Cow::Owned(bounds::told_bytes(query).into_bytes()),
            false => Cow::Borrowed(query),
        };
        out.push(Element::new("", "ParticipantObjectQuery").text(openssl::base64::encode_block(&query)));
    } else if !object.name.is_empty() {
        out.push(Element::new("", "ParticipantObjectName").text(clean(&object.name)));
    }
    for (kind, value) in &object.details {
        let detail = Element::new("", "ParticipantObjectDetail").attr("type", clean(kind));
        out.push(detail.attr("value", openssl::base64::encode_block(value)));
    }
    let Some(dicom) = &object.dicom else { return out };
    let accessions = dicom.accessions.iter().map(|n| Element::new("", "Accession").attr("Number", clean(n)));
    let studies = dicom.studies.iter().map(|uid| Element::new("", "StudyIDs").attr("UID", clean(uid)));
    let contains = Element::new("", "ParticipantObjectContainsStudy").with_all(studies);
    let encrypted = Element::new("", "Encrypted").text("true");
    // Single instances stand in the first class (PS3.15 A.5.2: Instance is a child of SOPClass).
    let instances = || dicom.instances.iter().map(|uid| Element::new("", "Instance").attr("UID", clean(uid)));
    match dialect {
        Dialect::Ihe => {
            let classes = dicom
                .sop_classes
                .iter()
                .enumerate()
                .map(|(number, (uid, count))| sop_class(uid, *count).with_all(instances().filter(|_| number == 0)));
            let description = Element::new("", "ParticipantObjectDescription").with_all(accessions).with_all(classes);
            out.with(description.with(contains).with(encrypted))
        }
        Dialect::Ehdsi => {
            let (uid, count) = dicom.sop_classes.first().map_or(("", 0), |(uid, count)| (uid.as_str(), *count));
            let class = sop_class(uid, count).with_all(instances());
            out.with_all(accessions).with(class).with(contains).with(encrypted)
        }
    }
}

fn sop_class(uid: &str, count: u64) -> Element {
    let mut out = Element::new("", "SOPClass");
    set(&mut out, "UID", uid);
    out.attr("NumberOfInstances", count.to_string())
}

/// Text that no terminal, log or page can take for a command: control characters and the marks that turn the direction
/// of writing are written as `\u{..}`. A request with a text over the bound is refused; what is too long here, as a code
/// that another country answered, stands as its length and digest.
pub(super) fn clean(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
    };
    if let Some(told) = bounds::told(text) {
        return told;
    }
    if !text.contains(hostile) {
        return text.to_owned();
    }
    text.chars().map(|c| if hostile(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}
