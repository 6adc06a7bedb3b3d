//! Reports beside their metadata.

use std::path::Path;

use ncp_ihe::{Author, Availability, DocumentEntry, Dtm, EntryType, PatientId, ReferenceId, Uid};
use serde::Deserialize;

use super::Held;
use crate::config::Embedded;
use crate::national::manifests::{Code, entry_uuid};

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
    /// Replaced by another: found only when asked for.
    #[serde(default)]
    deprecated: bool,
}

pub(super) fn load(folder: &Path, config: &Embedded) -> Result<Vec<Held>, String> {
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
            availability: if report.deprecated { Availability::Deprecated } else { Availability::Approved },
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
