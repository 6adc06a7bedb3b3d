//! Registry objects as ebRIM (ITI TF-3: 4.2.3).

use ncp_xml::Element;

use super::metadata::{Association, Author, Availability, DocumentEntry, EntryType, ReferenceId};
use crate::ns::RIM;
use crate::{Coded, Dtm, HomeCommunityId, MessageError, Oid, PatientId};

const AUTHOR: &str = "urn:uuid:93606bcf-9494-43ec-9b4e-a7748d1a838d";
const CLASS: &str = "urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a";
const CONFIDENTIALITY: &str = "urn:uuid:f4f85eac-e6cb-4883-b524-f2705394840f";
const EVENT: &str = "urn:uuid:2c6b8cb7-8b2a-4051-b291-b1ae6a575ef4";
const FORMAT: &str = "urn:uuid:a09d5840-386c-46f2-b5ad-9c3699a4309d";
const FACILITY: &str = "urn:uuid:f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1";
const PRACTICE: &str = "urn:uuid:cccf5598-8b07-4b77-a05e-ae952c785ead";
const TYPE: &str = "urn:uuid:f0306f51-975f-434e-a61c-c59651d33983";
const PATIENT_ID: (&str, &str) = ("urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427", "XDSDocumentEntry.patientId");
const UNIQUE_ID: (&str, &str) = ("urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab", "XDSDocumentEntry.uniqueId");
const REFERENCE_IDS: &str = "urn:ihe:iti:xds:2013:referenceIdList";

pub(super) fn rim(local: &str) -> Element {
    Element::new(RIM, local)
}

pub(super) fn slot(name: &str, values: impl IntoIterator<Item = String>) -> Element {
    let list = rim("ValueList").with_all(values.into_iter().map(|v| rim("Value").text(v)));
    rim("Slot").attr("name", name).with(list)
}

pub(super) fn localized(local: &str, text: &str) -> Element {
    rim(local).with(rim("LocalizedString").attr("value", text))
}

/// Collects without spare room: an answer may hold ten thousand entries with ten short lists each.
fn kept<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut out: Vec<T> = items.collect();
    out.shrink_to_fit();
    out
}

/// Values of a slot of that name, all occurrences.
pub(super) fn slot_values(holder: &Element, name: &str) -> Vec<String> {
    let slots = holder.all(RIM, "Slot").filter(|s| s.get("name") == Some(name));
    kept(slots.flat_map(values_of))
}

pub(super) fn values_of(slot: &Element) -> Vec<String> {
    slot.all(RIM, "ValueList").flat_map(|l| l.all(RIM, "Value").map(Element::trimmed)).collect()
}

/// Writes a DocumentEntry.
pub(super) fn write_entry(entry: &DocumentEntry) -> Element {
    let text = |name: &str, value: &Option<String>| value.as_ref().map(|v| slot(name, [v.clone()]));
    let dtm = |name: &str, value: &Option<Dtm>| value.as_ref().map(|v| slot(name, [v.to_string()]));
    let mut out = rim("ExtrinsicObject")
        .attr("id", entry.entry_uuid.as_str())
        .attr("lid", entry.entry_uuid.as_str())
        .attr("mimeType", entry.mime_type.as_str())
        .attr("objectType", entry.entry_type.urn())
        .attr("status", entry.availability.urn());
    if let Some(home) = &entry.home {
        out.set_attr("", "home", home.to_string());
    }
    let out = out
        .with_all(dtm("creationTime", &entry.creation_time))
        .with_all(text("hash", &entry.hash))
        .with(slot("languageCode", [entry.language.clone()]))
        .with_all(text("legalAuthenticator", &entry.legal_authenticator))
        .with_all(many(REFERENCE_IDS, &entry.reference_ids.iter().map(ReferenceId::to_cxi).collect::<Vec<_>>()))
        .with(slot("repositoryUniqueId", [entry.repository_unique_id.to_string()]))
        .with_all(dtm("serviceStartTime", &entry.service_start))
        .with_all(dtm("serviceStopTime", &entry.service_stop))
        .with_all(entry.size.map(|size| slot("size", [size.to_string()])))
        .with_all(entry.source_patient_id.as_ref().map(|id| slot("sourcePatientId", [id.to_cx()])))
        .with_all(many("sourcePatientInfo", &entry.source_patient_info))
        .with_all(entry.extra_slots.iter().map(|(name, values)| slot(name, values.clone())))
        .with_all(entry.title.as_ref().map(|title| localized("Name", title)))
        .with_all(entry.comments.as_ref().map(|comments| localized("Description", comments)))
        .with(rim("VersionInfo").attr("versionName", "1"));
    let mut number = 0;
    let mut classify = |scheme: &str, code: &Coded| {
        number += 1;
        coded(&entry.entry_uuid, number, scheme, code)
    };
    let mut classifications = vec![
        classify(CLASS, &entry.class_code),
        classify(TYPE, &entry.type_code),
        classify(FORMAT, &entry.format_code),
        classify(FACILITY, &entry.facility_type),
        classify(PRACTICE, &entry.practice_setting),
    ];
    classifications.extend(entry.confidentiality.iter().map(|c| classify(CONFIDENTIALITY, c)));
    classifications.extend(entry.event_codes.iter().map(|c| classify(EVENT, c)));
    classifications.extend(write_authors(&entry.entry_uuid, AUTHOR, &entry.authors));
    out.with_all(classifications)
        .with(external_id(&entry.entry_uuid, "p", PATIENT_ID, &entry.patient_id.to_cx()))
        .with(external_id(&entry.entry_uuid, "u", UNIQUE_ID, &entry.unique_id))
}

pub(super) fn many(name: &str, values: &[String]) -> Option<Element> {
    (!values.is_empty()).then(|| slot(name, values.iter().cloned()))
}

pub(super) fn write_authors(object: &str, scheme: &str, authors: &[Author]) -> Vec<Element> {
    let write = |(index, author): (usize, &Author)| {
        classification(object, 1000 + index, scheme, "")
            .with_all(author.person.iter().map(|p| slot("authorPerson", [p.clone()])))
            .with_all(many("authorInstitution", &author.institutions))
            .with_all(many("authorRole", &author.roles))
            .with_all(many("authorSpecialty", &author.specialties))
    };
    // An author of whom nothing is known is left out: a Classification without a Slot says nothing.
    let is_known = |author: &&Author| **author != Author::default();
    authors.iter().filter(is_known).enumerate().map(write).collect()
}

pub(super) fn coded(object: &str, number: usize, scheme: &str, code: &Coded) -> Element {
    classification(object, number, scheme, &code.code)
        .with(slot("codingScheme", [code.system.clone()]))
        .with(localized("Name", code.display.as_deref().unwrap_or(&code.code)))
}

fn classification(object: &str, number: usize, scheme: &str, code: &str) -> Element {
    rim("Classification")
        .attr("id", derived_id(object, &format!("c{number}")))
        .attr("classificationScheme", scheme)
        .attr("classifiedObject", object)
        .attr("nodeRepresentation", code)
        .attr("objectType", "urn:oasis:names:tc:ebxml-regrep:ObjectType:RegistryObject:Classification")
}

pub(super) fn external_id(object: &str, number: &str, (scheme, name): (&str, &str), value: &str) -> Element {
    rim("ExternalIdentifier")
        .attr("id", derived_id(object, number))
        .attr("identificationScheme", scheme)
        .attr("registryObject", object)
        .attr("objectType", "urn:oasis:names:tc:ebxml-regrep:ObjectType:RegistryObject:ExternalIdentifier")
        .attr("value", value)
        .with(localized("Name", name))
}

/// A UUID URN that is the same at every answer.
pub(super) fn derived_id(entry: &str, what: &str) -> String {
    let digest = openssl::sha::sha256(format!("{entry}/{what}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().urn().to_string()
}

/// Reads a DocumentEntry. What peers of the field leave out or misplace is tolerated; what identifies it is required.
pub(super) fn read_entry(object: &Element) -> Result<DocumentEntry, MessageError> {
    let one = |name: &str| slot_values(object, name).into_iter().find(|v| !v.is_empty());
    let dtm = |name: &str| one(name).and_then(|v| Dtm::received(&v).ok());
    let missing = MessageError::Malformed;
    let identifier = |of| read_identifier(object, of);
    let codes = |scheme: &str| read_codes(object, scheme);
    let code = |scheme: &str| codes(scheme).into_iter().next().unwrap_or_default();
    let known = [
        "creationTime",
        "hash",
        "languageCode",
        "legalAuthenticator",
        REFERENCE_IDS,
        "repositoryUniqueId",
        "serviceStartTime",
        "serviceStopTime",
        "size",
        "sourcePatientId",
        "sourcePatientInfo",
    ];
    Ok(DocumentEntry {
        entry_uuid: object.get("id").filter(|id| !id.is_empty()).ok_or(missing("entry uuid"))?.to_owned(),
        unique_id: identifier(UNIQUE_ID).filter(|id| !id.is_empty()).ok_or(missing("unique id"))?,
        home: object.get("home").and_then(|h| HomeCommunityId::parse(h).ok()),
        repository_unique_id: Oid::parse(&one("repositoryUniqueId").ok_or(missing("repository unique id"))?)?,
        availability: read_availability(object),
        entry_type: match object.get("objectType") {
            Some(kind) if kind == EntryType::OnDemand.urn() => EntryType::OnDemand,
            _ => EntryType::Stable,
        },
        patient_id: PatientId::parse_cx(&identifier(PATIENT_ID).ok_or(missing("patient id"))?)?,
        source_patient_id: one("sourcePatientId").and_then(|v| PatientId::parse_cx(&v).ok()),
        source_patient_info: slot_values(object, "sourcePatientInfo"),
        class_code: code(CLASS),
        type_code: code(TYPE),
        format_code: code(FORMAT),
        practice_setting: code(PRACTICE),
        facility_type: code(FACILITY),
        confidentiality: codes(CONFIDENTIALITY),
        event_codes: codes(EVENT),
        language: one("languageCode").unwrap_or_default(),
        mime_type: object.get("mimeType").unwrap_or_default().to_owned(),
        title: localized_value(object, "Name"),
        comments: localized_value(object, "Description"),
        creation_time: dtm("creationTime"),
        service_start: dtm("serviceStartTime"),
        service_stop: dtm("serviceStopTime"),
        hash: one("hash").map(|h| h.to_ascii_lowercase()),
        size: one("size").and_then(|v| v.parse().ok()),
        reference_ids: kept(slot_values(object, REFERENCE_IDS).iter().filter_map(|v| ReferenceId::parse(v))),
        authors: read_authors(object, AUTHOR),
        legal_authenticator: one("legalAuthenticator"),
        extra_slots: [read_extra_slots(object, &known), unread_dates(object)].concat(),
    })
}

pub(super) fn read_availability(object: &Element) -> Availability {
    match object.get("status") {
        Some(status) if status.ends_with(":Deprecated") => Availability::Deprecated,
        _ => Availability::Approved,
    }
}

/// Value of an external identifier, by scheme or by its Name.
pub(super) fn read_identifier(object: &Element, (scheme, name): (&str, &str)) -> Option<String> {
    let mut ids = object.all(RIM, "ExternalIdentifier");
    let found = ids
        .find(|e| e.get("identificationScheme") == Some(scheme) || localized_value(e, "Name").as_deref() == Some(name));
    found.and_then(|e| e.get("value")).map(|v| v.trim().to_owned())
}

fn classified<'a>(object: &'a Element, scheme: &'a str) -> impl Iterator<Item = &'a Element> {
    object.all(RIM, "Classification").filter(move |c| c.get("classificationScheme") == Some(scheme))
}

pub(super) fn read_codes(object: &Element, scheme: &str) -> Vec<Coded> {
    kept(classified(object, scheme).map(read_code))
}

pub(super) fn read_authors(object: &Element, scheme: &str) -> Vec<Author> {
    let read = |a: &Element| Author {
        person: slot_values(a, "authorPerson").into_iter().next(),
        institutions: slot_values(a, "authorInstitution"),
        roles: slot_values(a, "authorRole"),
        specialties: slot_values(a, "authorSpecialty"),
    };
    kept(classified(object, scheme).map(read))
}

/// Dates that are no DTM, as they came: whoever has them must not take the entry for one without.
fn unread_dates(object: &Element) -> Vec<(String, Vec<String>)> {
    let unread = |name: &&str| {
        let values = slot_values(object, name);
        values.iter().find(|v| !v.is_empty()).filter(|v| Dtm::received(v).is_err()).cloned()
    };
    kept(DocumentEntry::DATES.iter().filter_map(|name| Some(((*name).to_owned(), vec![unread(name)?]))))
}

pub(super) fn read_extra_slots(object: &Element, known: &[&str]) -> Vec<(String, Vec<String>)> {
    let extra = object.all(RIM, "Slot").filter(|s| !known.contains(&s.get("name").unwrap_or_default()));
    kept(extra.map(|s| (s.get("name").unwrap_or_default().to_owned(), values_of(s))))
}

fn read_code(classification: &Element) -> Coded {
    Coded {
        code: classification.get("nodeRepresentation").unwrap_or_default().to_owned(),
        system: slot_values(classification, "codingScheme").into_iter().next().unwrap_or_default(),
        display: localized_value(classification, "Name"),
    }
}

pub(super) fn localized_value(holder: &Element, local: &str) -> Option<String> {
    let value = holder.child(RIM, local)?.child(RIM, "LocalizedString")?.get("value")?;
    Some(value.to_owned())
}

/// Writes an association.
pub(super) fn write_association(association: &Association) -> Element {
    rim("Association")
        .attr("id", association.uuid.as_str())
        .attr("associationType", association.kind.as_str())
        .attr("sourceObject", association.source.as_str())
        .attr("targetObject", association.target.as_str())
        .attr("objectType", "urn:oasis:names:tc:ebxml-regrep:ObjectType:RegistryObject:Association")
        .with_all(
            association.submission_set_status.as_ref().map(|status| slot("SubmissionSetStatus", [status.clone()])),
        )
}

/// Reads an association.
pub(super) fn read_association(object: &Element) -> Option<Association> {
    let get = |name: &str| object.get(name).map(ToOwned::to_owned);
    Some(Association {
        uuid: get("id").unwrap_or_default(),
        kind: get("associationType")?,
        source: get("sourceObject")?,
        target: get("targetObject")?,
        submission_set_status: slot_values(object, "SubmissionSetStatus").into_iter().next(),
    })
}
