//! What groups and relates the documents of a folder: `registry.toml`, which need not be there.
//!
//! Members and ends of associations are named by uniqueId, of a document or of a folder written before.

use std::path::Path;

use ncp_ihe::{Association, Availability, Coded, Dtm, Folder, PatientId, RegistryObjects, SubmissionSet};
use serde::Deserialize;

use crate::national::manifests::{Code, entry_uuid};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    submission_set: Vec<Set>,
    #[serde(default)]
    folder: Vec<Group>,
    #[serde(default)]
    association: Vec<Link>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    unique_id: String,
    patient: String,
    source_id: String,
    content_type: Code,
    submitted: jiff::Timestamp,
    title: Option<String>,
    members: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    unique_id: String,
    patient: String,
    codes: Vec<Code>,
    updated: jiff::Timestamp,
    title: Option<String>,
    members: Vec<String>,
}

/// `kind` is `RPLC`, `APND`, `XFRM`, `XFRM_RPLC` or `signs` (ITI TF-3: table 4.2.2-1).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    kind: String,
    source: String,
    target: String,
}

pub(super) fn load(path: &Path) -> Result<RegistryObjects, String> {
    if !path.is_file() {
        return Ok(RegistryObjects::default());
    }
    let wrong = |what: &str| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e.to_string()))?;
    let file: File = toml::from_str(&text).map_err(|e| wrong(e.message()))?;
    let patient = |cx: &str| PatientId::parse_cx(cx).map_err(|_| wrong("patient is no CX"));
    let mut out = RegistryObjects::default();
    for group in &file.folder {
        out.folders.push(Folder {
            entry_uuid: entry_uuid(&group.unique_id),
            unique_id: group.unique_id.clone(),
            home: None,
            availability: Availability::Approved,
            patient_id: patient(&group.patient)?,
            codes: group.codes.iter().map(Coded::from).collect(),
            last_update: Some(Dtm::of(group.updated)),
            title: group.title.clone(),
            comments: None,
            extra_slots: Vec::new(),
        });
        out.associations.extend(group.members.iter().map(|member| membership(&group.unique_id, member, None)));
    }
    for set in &file.submission_set {
        out.submission_sets.push(SubmissionSet {
            entry_uuid: entry_uuid(&set.unique_id),
            unique_id: set.unique_id.clone(),
            home: None,
            availability: Availability::Approved,
            patient_id: patient(&set.patient)?,
            source_id: set.source_id.clone(),
            content_type: (&set.content_type).into(),
            submission_time: Some(Dtm::of(set.submitted)),
            intended_recipients: Vec::new(),
            title: set.title.clone(),
            comments: None,
            authors: Vec::new(),
            extra_slots: Vec::new(),
        });
        out.associations.extend(set.members.iter().map(|member| membership(&set.unique_id, member, Some("Original"))));
    }
    for link in &file.association {
        if !matches!(link.kind.as_str(), "RPLC" | "APND" | "XFRM" | "XFRM_RPLC" | "signs") {
            return Err(wrong("association.kind is none of RPLC, APND, XFRM, XFRM_RPLC, signs"));
        }
        let kind = format!("urn:ihe:iti:2007:AssociationType:{}", link.kind);
        out.associations.push(association(&kind, &link.source, &link.target, None));
    }
    Ok(out)
}

fn membership(holder: &str, member: &str, status: Option<&str>) -> Association {
    association(Association::HAS_MEMBER, holder, member, status)
}

fn association(kind: &str, source: &str, target: &str, status: Option<&str>) -> Association {
    Association {
        uuid: entry_uuid(&format!("{kind} {source} {target}")),
        kind: kind.to_owned(),
        source: entry_uuid(source),
        target: entry_uuid(target),
        submission_set_status: status.map(ToOwned::to_owned),
    }
}
