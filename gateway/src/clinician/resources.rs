//! FHIR R4 resources out of XCPD and XDS (MHD and PDQm mappings, `facade.md` 2.2 and 2.4).

use ncp_ihe::{Coded, DocumentEntry, Dtm, HomeCommunityId, PatientId, PatientRecord, ReferenceId};
use serde_json::{Value, json};

const HOME: &str = "https://profiles.ihe.net/ITI/MHD/StructureDefinition/ihe-HomeCommunityId";
const MATCH_GRADE: &str = "http://hl7.org/fhir/StructureDefinition/match-grade";
const DICOMWEB_ROOT: &str = "urn:ncp:fhir:StructureDefinition:dicomweb-root";
const ORIGINAL: &str = "urn:ncp:fhir:StructureDefinition:original";
const DCM: &str = "http://dicom.nema.org/resources/ontology/DCM";

/// Where the things of one DocumentReference are.
pub struct Places<'a> {
    /// Its own id.
    pub id: &'a str,
    /// Absolute reference to the patient.
    pub patient: &'a str,
    /// Absolute URL of the content.
    pub content: &'a str,
    /// Absolute URL of the original of a translation.
    pub original: Option<&'a str>,
    /// DICOMweb root of a manifest's study.
    pub dicomweb: Option<&'a str>,
}

/// The home community of a resource, as MHD says it.
pub fn home_extension(home: &HomeCommunityId) -> Value {
    json!({ "url": HOME, "valueOid": home.to_string() })
}

/// A Patient as another country told it.
pub fn patient(id: &str, record: &PatientRecord, home: &HomeCommunityId) -> Value {
    let identifiers: Vec<Value> = std::iter::once(&record.id).chain(&record.other_ids).map(identifier).collect();
    let mut out = json!({
        "resourceType": "Patient",
        "id": id,
        "extension": [home_extension(home)],
        "identifier": identifiers,
        "active": true,
        "name": [{ "family": record.name.family, "given": record.name.given }],
    });
    let gender = match record.gender.as_deref() {
        Some("M") => Some("male"),
        Some("F") => Some("female"),
        Some("UN") => Some("other"),
        _ => None,
    };
    set(&mut out, "gender", gender);
    set(&mut out, "birthDate", record.birth_date.as_deref().and_then(date));
    out
}

fn identifier(id: &PatientId) -> Value {
    json!({ "system": id.root.urn(), "value": id.extension })
}

/// An entry of a `$match` answer.
pub fn match_entry(full_url: &str, resource: Value, certain: bool) -> Value {
    let (grade, score) = if certain { ("certain", 1.0) } else { ("probable", 0.8) };
    json!({
        "fullUrl": full_url,
        "resource": resource,
        "search": {
            "extension": [{ "url": MATCH_GRADE, "valueCode": grade }],
            "mode": "match",
            "score": score,
        },
    })
}

/// A searchset. `total` is left out when something is missing.
pub fn searchset(links: &[(&str, String)], total: usize, entries: Vec<Value>, issues: Vec<Value>) -> Value {
    let mut out = json!({ "resourceType": "Bundle", "type": "searchset" });
    if issues.iter().all(|issue| issue["severity"] == "information") {
        set(&mut out, "total", Some(total));
    }
    let links: Vec<Value> = links.iter().map(|(relation, url)| json!({ "relation": relation, "url": url })).collect();
    set(&mut out, "link", (!links.is_empty()).then_some(links));
    let mut entries = entries;
    if !issues.is_empty() {
        let outcome = super::problem::outcome(issues);
        entries.push(json!({ "resource": outcome, "search": { "mode": "outcome" } }));
    }
    if !entries.is_empty() {
        set(&mut out, "entry", Some(entries));
    }
    out
}

/// A DocumentReference (MHD Comprehensive, with what MADO adds).
pub fn document_reference(entry: &DocumentEntry, home: &HomeCommunityId, places: &Places<'_>) -> Value {
    let mut extensions = vec![home_extension(home)];
    extensions.extend(modalities(entry));
    extensions.extend(places.dicomweb.map(|url| json!({ "url": DICOMWEB_ROOT, "valueUrl": url })));
    extensions.extend(places.original.map(|url| json!({ "url": ORIGINAL, "valueUrl": url })));
    let unique = json!({ "system": "urn:ietf:rfc:3986", "value": uri(&entry.unique_id) });
    let mut attachment = json!({
        "contentType": entry.mime_type,
        "language": entry.language,
        "url": places.content,
    });
    if !entry.is_delayed_assembly() {
        set(&mut attachment, "size", entry.size);
    }
    set(&mut attachment, "title", entry.title.clone());
    set(&mut attachment, "creation", entry.creation_time.as_ref().and_then(instant));
    let mut contents = vec![json!({ "attachment": attachment, "format": coding(&entry.format_code) })];
    // The picture or PDF that a neighbour put into a CDA, from the same place by its own media type.
    contents.extend(ncp_ihe::orcd::held_media_type(entry).map(
        |held| json!({ "attachment": { "contentType": held, "language": entry.language, "url": places.content } }),
    ));
    let mut context = json!({
        "facilityType": concept(&entry.facility_type),
        "practiceSetting": concept(&entry.practice_setting),
        "related": entry.reference_ids.iter().filter_map(related).collect::<Vec<_>>(),
    });
    if !entry.event_codes.is_empty() {
        set(&mut context, "event", Some(entry.event_codes.iter().map(concept).collect::<Vec<_>>()));
    }
    let mut period = json!({});
    set(&mut period, "start", entry.service_start.as_ref().and_then(instant));
    set(&mut period, "end", entry.service_stop.as_ref().and_then(instant));
    if period.as_object().is_some_and(|p| !p.is_empty()) {
        set(&mut context, "period", Some(period));
    }
    let mut out = json!({
        "resourceType": "DocumentReference",
        "id": places.id,
        "extension": extensions,
        "masterIdentifier": unique,
        "identifier": [unique],
        "status": match entry.availability {
            ncp_ihe::Availability::Approved => "current",
            _ => "superseded",
        },
        "type": concept(&entry.type_code),
        "category": [concept(&entry.class_code)],
        "subject": { "reference": places.patient },
        "securityLabel": entry.confidentiality.iter().map(concept).collect::<Vec<_>>(),
        "content": contents,
        "context": context,
    });
    set(&mut out, "date", entry.creation_time.as_ref().and_then(instant));
    let authors: Vec<Value> = entry
        .authors
        .iter()
        .flat_map(|a| a.institutions.iter().map(String::as_str).chain(a.person.as_deref()))
        .map(|text| json!({ "display": plain_name(text) }))
        .collect();
    if !authors.is_empty() {
        set(&mut out, "author", Some(authors));
    }
    out
}

fn modalities(entry: &DocumentEntry) -> impl Iterator<Item = Value> {
    let codes = entry.event_codes.iter().filter(|c| c.is_modality());
    codes.map(|code| {
        json!({
            "url": "http://hl7.org/fhir/5.0/StructureDefinition/extension-DocumentReference.modality",
            "valueCodeableConcept": { "coding": [{ "system": DCM, "code": code.code }] },
        })
    })
}

fn related(reference: &ReferenceId) -> Option<Value> {
    if reference.kind == ReferenceId::STUDY {
        return Some(json!({
            "type": "ImagingStudy",
            "identifier": { "system": "urn:dicom:uid", "value": format!("urn:oid:{}", reference.id) },
        }));
    }
    (reference.kind == ReferenceId::ACCESSION).then(|| {
        let mut identifier = json!({
            "type": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN" }] },
            "value": reference.id,
        });
        set(&mut identifier, "system", reference.authority.as_ref().map(ncp_ihe::Oid::urn));
        json!({ "type": "ServiceRequest", "identifier": identifier })
    })
}

/// A CodeableConcept of one code.
fn concept(code: &Coded) -> Value {
    json!({ "coding": [coding(code)] })
}

fn coding(code: &Coded) -> Value {
    let mut out = json!({ "system": system(&code.system), "code": code.code });
    set(&mut out, "display", code.display.clone());
    out
}

/// The URI that FHIR has for a code system.
fn system(system: &str) -> String {
    let bare = system.strip_prefix("urn:oid:").unwrap_or(system);
    match bare {
        "2.16.840.1.113883.6.1" => "http://loinc.org".into(),
        "2.16.840.1.113883.6.96" => "http://snomed.info/sct".into(),
        Coded::MODALITIES => DCM.into(),
        "2.16.840.1.113883.5.25" => "http://terminology.hl7.org/CodeSystem/v3-Confidentiality".into(),
        other => uri(other),
    }
}

/// OIDs as URN, anything else as it is.
fn uri(text: &str) -> String {
    if ncp_ihe::Oid::parse(text).is_ok() { format!("urn:oid:{text}") } else { text.to_owned() }
}

/// The name in an XCN or XON.
fn plain_name(text: &str) -> String {
    let parts: Vec<&str> = text.split('^').collect();
    match parts.as_slice() {
        [_, family, given, ..] if !family.is_empty() => format!("{given} {family}").trim().to_owned(),
        [first, ..] => (*first).to_owned(),
        [] => String::new(),
    }
}

/// `YYYYMMDD` to `YYYY-MM-DD`, shorter forms as they are.
fn date(text: &str) -> Option<String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.len() {
        8 if digits => Some(format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..])),
        6 if digits => Some(format!("{}-{}", &text[..4], &text[4..])),
        4 if digits => Some(text.to_owned()),
        _ => None,
    }
}

/// A DTM (UTC) as dateTime of its own precision.
fn instant(dtm: &Dtm) -> Option<String> {
    match dtm.as_str().len() {
        4 | 6 | 8 => date(dtm.as_str()),
        _ => dtm.earliest().map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    }
}

fn set(object: &mut Value, key: &str, value: Option<impl serde::Serialize>) {
    if let (Some(map), Some(value)) = (object.as_object_mut(), value.and_then(|v| serde_json::to_value(v).ok())) {
        map.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_precision() {
        let read = |text| instant(&Dtm::parse(text).expect("dtm"));
        assert_eq!(read("2024").as_deref(), Some("2024"));
        assert_eq!(read("20240314").as_deref(), Some("2024-03-14"));
        assert_eq!(read("20240314101500").as_deref(), Some("2024-03-14T10:15:00Z"));
    }

    #[test]
    fn names_are_read_out_of_xcn_and_xon() {
        assert_eq!(plain_name("17^Nordmann^Kari^^^"), "Kari Nordmann");
        assert_eq!(plain_name("Testsykehuset^^^^^&2.999&ISO^^^^1"), "Testsykehuset");
    }
}
