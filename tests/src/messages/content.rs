//! Rules on documents and instances: 8 to 11 of `ihe-transactions.md` 14.

use std::collections::BTreeMap;

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject, OpenFileOptions};
use ncp_ihe::ns::QUERY;
use ncp_ihe::{Content, DocumentEntry, EntryType, ImagingRequest, Manifest, QueryResponse};

use super::rules::pairs;
use super::{Message, Part, Report, times};
use crate::neighbour::retrieve_response;

const KOS: &str = "1.2.840.10008.5.1.4.1.1.88.59";
/// Titles of a manifest: DCM "Manifest", and MADO's while CP-2595 is open.
const TITLES: &[&str] = &["113030", "MADOTEMP001"];
/// TID 2010 Key Object Selection; MADO adds a library by TID 1600.
const TEMPLATES: &[&str] = &["2010", "1600"];

pub(super) fn check(messages: &[Message], report: &mut Report) {
    let mut entries: BTreeMap<String, DocumentEntry> = BTreeMap::new();
    for message in messages.iter().filter(|m| m.body.is(QUERY, "AdhocQueryResponse")) {
        if let Ok((response, _)) = QueryResponse::read(&message.body) {
            entries
                .extend(response.objects.entries.into_iter().map(|e| (key(&e.repository_unique_id, &e.unique_id), e)));
        }
    }
    let mut locations: BTreeMap<String, String> = BTreeMap::new();
    let mut images = Vec::new();
    for (request, response) in pairs(messages) {
        let Ok(root) = retrieve_response(&response.body) else { continue };
        let imaging = ImagingRequest::read(&request.body).ok();
        for document in &root.documents {
            let Content::Include(content_id) = &document.content else { continue };
            let Some(part) = response.part(content_id) else { continue };
            match &imaging {
                Some(imaging) => images.push((response, document.request.clone(), imaging.clone(), part)),
                None => {
                    let entry = entries.get(&key(&document.request.repository, &document.request.document));
                    stored(response, entry, &part, report);
                    dated(response, entry, &part, report);
                    manifest(response, &part, report, &mut locations);
                }
            }
        }
    }
    for (response, asked, imaging, part) in images {
        report.judge(8, response, instance(&asked, &imaging, &part, &locations));
    }
}

fn key(repository: &ncp_ihe::Oid, document: &str) -> String {
    format!("{repository} {document}")
}

/// Rule 10: hash and size are those of the metadata unless the document is assembled at retrieval.
fn stored(response: &Message, entry: Option<&DocumentEntry>, part: &Part, report: &mut Report) {
    let Some(entry) = entry.filter(|e| part.whole && !e.is_delayed_assembly()) else { return };
    let hash = hex::encode(openssl::sha::sha1(&part.bytes));
    let fits = entry.hash.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(&hash))
        && entry.size == Some(part.bytes.len() as u64);
    report.judge(10, response, (!fits).then(|| "hash or size differ from the metadata".into()));
}

/// Rule 11: a CDA and a manifest say of their times what the metadata say.
fn dated(response: &Message, entry: Option<&DocumentEntry>, part: &Part, report: &mut Report) {
    let Some(entry) = entry.filter(|e| part.whole && e.entry_type == EntryType::Stable) else { return };
    let manifest = || {
        let object = dicom(&part.bytes).filter(|o| text(o, tags::SOP_CLASS_UID).as_deref() == Some(KOS))?;
        Some(times::manifest(&object, entry))
    };
    if let Some(judged) = times::cda(&part.bytes, entry).or_else(manifest) {
        report.judge(11, response, judged.err());
    }
}

/// Rule 9, and what the manifest says of locations for rule 8.
fn manifest(response: &Message, part: &Part, report: &mut Report, locations: &mut BTreeMap<String, String>) {
    let Some(object) = part.whole.then(|| dicom(&part.bytes)).flatten() else { return };
    if text(&object, tags::SOP_CLASS_UID).as_deref() != Some(KOS) {
        return;
    }
    let title = item(&object, tags::CONCEPT_NAME_CODE_SEQUENCE).and_then(|i| text(&i, tags::CODE_VALUE));
    let template = item(&object, tags::CONTENT_TEMPLATE_SEQUENCE).and_then(|i| text(&i, tags::TEMPLATE_IDENTIFIER));
    let broken = match Manifest::read_kos(&part.bytes) {
        Err(error) => Some(error.to_string()),
        Ok(manifest) => {
            for series in &manifest.series {
                let Some(location) = &series.location else { continue };
                let known = series.instances.iter().map(|i| (i.sop_instance.to_string(), location.to_string()));
                locations.extend(known);
            }
            if !title.as_deref().is_some_and(|t| TITLES.contains(&t)) {
                Some(format!("title {title:?}"))
            } else if !template.as_deref().is_some_and(|t| TEMPLATES.contains(&t)) {
                Some(format!("template {template:?}"))
            } else if manifest.series.iter().any(|s| s.location.is_none()) {
                Some("a series without Retrieve Location UID".into())
            } else {
                let evidence = object.element_opt(tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE).ok().flatten();
                let studies = evidence.and_then(|e| e.items().map(<[_]>::len)).unwrap_or_default();
                (studies != 1).then(|| format!("{studies} studies"))
            }
        }
    };
    report.judge(9, response, broken);
}

/// Rule 8: the instance is the one asked for, in its study and series, in a syntax of the list, from the place that the
/// manifest names.
fn instance(
    asked: &ncp_ihe::DocumentRequest,
    imaging: &ImagingRequest,
    part: &Part,
    locations: &BTreeMap<String, String>,
) -> Option<String> {
    if locations.get(&asked.document).is_some_and(|location| *location != asked.repository.to_string()) {
        return Some("RepositoryUniqueId is not the manifest's Retrieve Location UID".into());
    }
    let Some(object) = dicom(&part.bytes) else { return Some("no DICOM object".into()) };
    let syntax = object.meta().transfer_syntax().trim_end_matches('\0').to_owned();
    if !imaging.transfer_syntaxes.iter().any(|s| s.as_str() == syntax) {
        return Some("transfer syntax is not in the list".into());
    }
    let place = imaging.studies.iter().find_map(|study| {
        let series = study.series.iter().find(|s| s.instances.iter().any(|i| i.document == asked.document))?;
        Some((study.study.to_string(), series.series.to_string()))
    });
    let own = (text(&object, tags::STUDY_INSTANCE_UID), text(&object, tags::SERIES_INSTANCE_UID));
    if text(&object, tags::SOP_INSTANCE_UID).as_deref() != Some(asked.document.as_str()) {
        return Some("another SOP Instance UID".into());
    }
    let fits = place.is_some_and(|(study, series)| own == (Some(study), Some(series)));
    (!fits).then(|| "another study or series".into())
}

/// The header of an object; its end may be missing.
pub(super) fn dicom(bytes: &[u8]) -> Option<DefaultDicomObject> {
    OpenFileOptions::new().read_until(tags::PIXEL_DATA).from_reader(bytes).ok()
}

pub(super) fn text(object: &InMemDicomObject, tag: dicom_core::Tag) -> Option<String> {
    let value = object.element_opt(tag).ok().flatten()?.to_str().ok()?;
    Some(value.trim_matches(['\0', ' ']).to_owned())
}

fn item(object: &InMemDicomObject, tag: dicom_core::Tag) -> Option<InMemDicomObject> {
    object.element_opt(tag).ok().flatten()?.items()?.first().cloned()
}
