//! Reports beside their metadata, and the DocumentEntry of a manifest.

use std::path::Path;

use jiff::tz::TimeZone;
use ncp_ihe::{Author, Availability, Coded, DocumentEntry, Dtm, EntryType, Manifest, PatientId, ReferenceId, Uid};
use serde::Deserialize;

use super::Held;
use super::scan::IndexedStudy;
use crate::config::Embedded;

/// A code in a TOML file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    code: String,
    system: String,
    display: Option<String>,
}

impl From<&Code> for Coded {
    fn from(code: &Code) -> Self {
        Self::new(&code.code, &code.system, code.display.as_deref())
    }
}

/// `reports/*.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    file: String,
    media_type: String,
    unique_id: String,
    patient: String,
    title: String,
    language: String,
    created: jiff::Timestamp,
    service_start: Option<jiff::Timestamp>,
    study: Option<String>,
    accession: Option<String>,
    author: Option<String>,
    institution: Option<String>,
    class: Code,
    #[serde(rename = "type")]
    kind: Code,
    format: Code,
    practice_setting: Code,
    facility_type: Code,
    confidentiality: Vec<Code>,
    #[serde(default)]
    event: Vec<Code>,
}

/// `manifest.toml`: the codes of manifests made here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManifestCodes {
    class: Code,
    #[serde(rename = "type")]
    kind: Code,
    practice_setting: Code,
    facility_type: Code,
    confidentiality: Vec<Code>,
}

impl ManifestCodes {
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        toml::from_str(&text).map_err(|e| format!("{}: {}", path.display(), e.message()))
    }
}

pub(super) fn load(folder: &Path, config: &Embedded, _: &TimeZone) -> Result<Vec<Held>, String> {
    let mut out = Vec::new();
    if !folder.is_dir() {
        return Ok(out);
    }
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map_err(|e| format!("cannot read {}: {e}", folder.display()))?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    for path in files {
        let wrong = |what: String| format!("{}: {what}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        let report: Report = toml::from_str(&text).map_err(|e| wrong(e.message().to_owned()))?;
        let bytes = std::fs::read(folder.join(&report.file)).map_err(|e| wrong(format!("{}: {e}", report.file)))?;
        let patient = PatientId::parse_cx(&report.patient).map_err(|_| wrong("patient is no CX".into()))?;
        let mut reference_ids = Vec::new();
        if let Some(study) = &report.study {
            reference_ids.push(ReferenceId::study(&Uid::parse(study).map_err(|_| wrong("study is no UID".into()))?));
        }
        reference_ids.extend(
            report.accession.as_ref().map(|a| ReferenceId::accession(a, Some(config.repository_unique_id.clone()))),
        );
        let entry = DocumentEntry {
            entry_uuid: entry_uuid(&report.unique_id),
            unique_id: report.unique_id.clone(),
            home: None,
            repository_unique_id: config.repository_unique_id.clone(),
            availability: Availability::Approved,
            entry_type: EntryType::Stable,
            source_patient_id: Some(patient.clone()),
            patient_id: patient,
            source_patient_info: Vec::new(),
            class_code: (&report.class).into(),
            type_code: (&report.kind).into(),
            format_code: (&report.format).into(),
            practice_setting: (&report.practice_setting).into(),
            facility_type: (&report.facility_type).into(),
            confidentiality: report.confidentiality.iter().map(Into::into).collect(),
            event_codes: report.event.iter().map(Into::into).collect(),
            language: report.language.clone(),
            mime_type: report.media_type.clone(),
            title: Some(report.title.clone()),
            comments: None,
            creation_time: Some(Dtm::of(report.created)),
            service_start: report.service_start.map(Dtm::of),
            service_stop: None,
            hash: Some(hex::encode(openssl::sha::sha1(&bytes))),
            size: Some(bytes.len() as u64),
            reference_ids,
            authors: vec![Author {
                person: report.author.clone(),
                institutions: report.institution.iter().cloned().collect(),
                ..Author::default()
            }],
            legal_authenticator: None,
            extra_slots: Vec::new(),
        };
        out.push(Held { entry, bytes: bytes.into() });
    }
    Ok(out)
}

/// DocumentEntry of a KOS (`ihe-transactions.md` 7.2).
pub(super) fn manifest_entry(
    (study, patient_id): (&IndexedStudy, PatientId),
    manifest: &Manifest,
    bytes: &[u8],
    codes: &ManifestCodes,
    config: &Embedded,
    language: &str,
    zone: &TimeZone,
) -> DocumentEntry {
    let started = utc(study, zone);
    let mut reference_ids = vec![ReferenceId::study(&study.study)];
    reference_ids
        .extend(study.accession.as_ref().map(|a| ReferenceId::accession(a, Some(config.repository_unique_id.clone()))));
    DocumentEntry {
        entry_uuid: entry_uuid(manifest.sop_instance.as_str()),
        unique_id: manifest.sop_instance.to_string(),
        home: None,
        repository_unique_id: config.repository_unique_id.clone(),
        availability: Availability::Approved,
        entry_type: EntryType::Stable,
        source_patient_id: Some(patient_id.clone()),
        patient_id,
        source_patient_info: Vec::new(),
        class_code: (&codes.class).into(),
        type_code: (&codes.kind).into(),
        format_code: Coded::new(
            "1.2.840.10008.5.1.4.1.1.88.59",
            "1.2.840.10008.2.6.1",
            Some("Key Object Selection Document"),
        ),
        practice_setting: (&codes.practice_setting).into(),
        facility_type: (&codes.facility_type).into(),
        confidentiality: codes.confidentiality.iter().map(Into::into).collect(),
        event_codes: study
            .modalities()
            .into_iter()
            .filter(|m| !matches!(m.as_str(), "KO" | "PR"))
            .map(|m| Coded::new(&m, "1.2.840.10008.2.16.4", Some(&m)))
            .collect(),
        language: language.to_owned(),
        mime_type: "application/dicom".into(),
        title: study.description.clone(),
        comments: None,
        creation_time: started.clone().or_else(|| Dtm::parse("1970").ok()),
        service_start: started,
        service_stop: None,
        hash: Some(hex::encode(openssl::sha::sha1(bytes))),
        size: Some(bytes.len() as u64),
        reference_ids,
        authors: Vec::new(),
        legal_authenticator: None,
        extra_slots: Vec::new(),
    }
}

/// Study Date and Time as UTC: by the object's own offset, else by the archive's zone.
fn utc(study: &IndexedStudy, zone: &TimeZone) -> Option<Dtm> {
    let date = study.study_date.as_deref().filter(|d| d.len() == 8)?;
    let time: String =
        study.study_time.clone().unwrap_or_default().chars().take_while(char::is_ascii_digit).take(6).collect();
    let local = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", format!("{date}{time:0<6}")).ok()?;
    let zone = match study.timezone.as_deref().and_then(offset) {
        Some(offset) => TimeZone::fixed(offset),
        None => zone.clone(),
    };
    Some(Dtm::of(local.to_zoned(zone).ok()?.timestamp()))
}

/// `+0200`
fn offset(text: &str) -> Option<jiff::tz::Offset> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, text.get(1..)?),
        b'-' => (-1, text.get(1..)?),
        _ => return None,
    };
    let hours: i32 = digits.get(..2)?.parse().ok()?;
    let minutes: i32 = digits.get(2..4)?.parse().ok()?;
    jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// The same entryUUID at every start.
fn entry_uuid(unique_id: &str) -> String {
    let digest = openssl::sha::sha256(unique_id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().urn().to_string()
}
