//! Reading the headers of a folder of DICOM files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use ncp_ihe::{IssuedId, ManifestPatient, Uid};
use walkdir::WalkDir;

use crate::national::manifests::{IndexedInstance, IndexedStudy};
use crate::national::patients::Patients;

/// Reads all headers under the folder.
pub(crate) fn studies(folder: &Path, patients: &Patients) -> Result<BTreeMap<Uid, IndexedStudy>, String> {
    let mut out: BTreeMap<Uid, IndexedStudy> = BTreeMap::new();
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|e| format!("cannot scan {}: {e}", folder.display()))?;
        if !entry.file_type().is_file() || entry.path().extension().is_none_or(|e| e != "dcm") {
            continue;
        }
        let Some(object) = header(entry.path()) else {
            tracing::warn!("a file under dicom/ is no DICOM Part 10 object, left out");
            continue;
        };
        if add(&mut out, &object, entry.path(), patients).is_none() {
            tracing::warn!("a DICOM file lacks a UID or is a manifest, left out");
        }
    }
    for study in out.values_mut() {
        study.sort();
    }
    Ok(out)
}

fn header(path: &Path) -> Option<DefaultDicomObject> {
    OpenFileOptions::new().read_until(tags::PIXEL_DATA).open_file(path).ok()
}

fn text(object: &DefaultDicomObject, tag: dicom_core::Tag) -> Option<String> {
    let value = object.element_opt(tag).ok().flatten()?.to_str().ok()?;
    let value = value.trim_matches(['\0', ' ']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn add(
    out: &mut BTreeMap<Uid, IndexedStudy>,
    object: &DefaultDicomObject,
    path: &Path,
    patients: &Patients,
) -> Option<()> {
    let uid = |tag| text(object, tag).and_then(|v| Uid::parse(&v).ok());
    let number = |tag| text(object, tag).and_then(|v| v.parse().ok());
    let study_uid = uid(tags::STUDY_INSTANCE_UID)?;
    let sop_class = uid(tags::SOP_CLASS_UID)?;
    // A manifest that lies among the images is the archive's own; ours are made here. A key image note stays.
    let title = object.element_opt(tags::CONCEPT_NAME_CODE_SEQUENCE).ok().flatten();
    let title =
        title.and_then(|e| e.items()?.first()?.element(tags::CODE_VALUE).ok()?.to_str().ok().map(|s| s.into_owned()));
    if sop_class.as_str() == "1.2.840.10008.5.1.4.1.1.88.59"
        && title.as_deref().is_some_and(|t| ncp_ihe::imaging::is_manifest_title(t.trim()))
    {
        return None;
    }
    let local = text(object, tags::PATIENT_ID);
    let birth_date = text(object, tags::PATIENT_BIRTH_DATE);
    let known = local.as_deref().and_then(|id| patients.of_local_id(id));
    // The archive's birth date must fit the register's where it is given.
    let fits = known.is_some_and(|(_, p)| birth_date.as_ref().is_none_or(|d| *d == p.birth_date));
    let patient = known.filter(|_| fits).map(|(id, _)| id.clone());
    let study = out.entry(study_uid.clone()).or_insert_with(|| IndexedStudy {
        study: study_uid,
        patient: patient.clone(),
        facts: ManifestPatient {
            ids: known
                .map(|(id, _)| IssuedId::new(&id.extension, Some(id.root.clone())))
                .into_iter()
                .chain(local.as_deref().map(|l| IssuedId::new(l, None)))
                .collect(),
            name: text(object, tags::PATIENT_NAME),
            birth_date: birth_date.clone(),
            sex: text(object, tags::PATIENT_SEX),
        },
        study_date: text(object, tags::STUDY_DATE),
        study_time: text(object, tags::STUDY_TIME),
        timezone: text(object, tags::TIMEZONE_OFFSET_FROM_UTC),
        description: text(object, tags::STUDY_DESCRIPTION),
        accession: text(object, tags::ACCESSION_NUMBER),
        instances: Vec::new(),
        described: OnceLock::new(),
    });
    let withheld = study.patient != patient;
    study.instances.push(IndexedInstance {
        sop_instance: uid(tags::SOP_INSTANCE_UID)?,
        sop_class,
        series: uid(tags::SERIES_INSTANCE_UID)?,
        series_number: number(tags::SERIES_NUMBER),
        series_description: text(object, tags::SERIES_DESCRIPTION),
        modality: text(object, tags::MODALITY),
        number: number(tags::INSTANCE_NUMBER),
        frames: number(tags::NUMBER_OF_FRAMES),
        transfer_syntax: Some(Uid::parse(object.meta().transfer_syntax()).ok()?),
        file: Some((path.to_owned(), std::fs::metadata(path).ok()?.len())),
        withheld,
    });
    Some(())
}
