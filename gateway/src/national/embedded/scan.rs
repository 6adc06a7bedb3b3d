//! Reading the headers of a folder of DICOM files, and the manifest of a study.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use ncp_ihe::{Manifest, ManifestInstance, ManifestPatient, ManifestSeries, PatientId, Uid};
use walkdir::WalkDir;

use crate::config::Embedded;
use crate::national::patients::Patients;

/// A study in the folder.
pub(crate) struct IndexedStudy {
    pub(crate) study: Uid,
    /// The national patient; `None` when the archive's id fits nobody.
    pub(crate) patient: Option<PatientId>,
    pub(crate) facts: ManifestPatient,
    pub(crate) study_date: Option<String>,
    pub(crate) study_time: Option<String>,
    pub(crate) timezone: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) accession: Option<String>,
    /// Sorted by series, number, UID.
    pub(crate) instances: Vec<IndexedInstance>,
}

/// An instance in the folder.
pub(crate) struct IndexedInstance {
    pub(crate) sop_instance: Uid,
    pub(crate) sop_class: Uid,
    pub(crate) series: Uid,
    pub(crate) series_number: Option<u32>,
    pub(crate) series_description: Option<String>,
    pub(crate) modality: Option<String>,
    pub(crate) number: Option<u32>,
    pub(crate) frames: Option<u32>,
    pub(crate) transfer_syntax: Uid,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// Names another patient than its study: never served.
    pub(crate) withheld: bool,
}

impl IndexedStudy {
    pub(crate) fn instance(&self, sop_instance: &str) -> Option<&IndexedInstance> {
        self.instances.iter().find(|i| i.sop_instance.as_str() == sop_instance)
    }

    pub(crate) fn modalities(&self) -> Vec<String> {
        let mut out: Vec<String> = self.instances.iter().filter_map(|i| i.modality.clone()).collect();
        out.sort();
        out.dedup();
        out
    }
}

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
        study.instances.sort_by(|a, b| {
            (a.series_number, &a.series, a.number, &a.sop_instance).cmp(&(
                b.series_number,
                &b.series,
                b.number,
                &b.sop_instance,
            ))
        });
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
        && matches!(title.as_deref().map(str::trim), Some("113030" | "MADOTEMP001"))
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
                .map(|(id, _)| (id.extension.clone(), Some(id.root.clone())))
                .into_iter()
                .chain(local.clone().map(|l| (l, None)))
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
        transfer_syntax: Uid::parse(object.meta().transfer_syntax()).ok()?,
        path: path.to_owned(),
        size: std::fs::metadata(path).ok()?.len(),
        withheld,
    });
    Some(())
}

/// The manifest of a study: the same UIDs and bytes at every call.
pub(crate) fn manifest(study: &IndexedStudy, config: &Embedded) -> Result<Manifest, String> {
    let mut series: Vec<ManifestSeries> = Vec::new();
    for instance in study.instances.iter().filter(|i| !i.withheld) {
        let one = ManifestInstance {
            sop_class: instance.sop_class.clone(),
            sop_instance: instance.sop_instance.clone(),
            number: instance.number,
            frames: instance.frames,
        };
        match series.iter_mut().find(|s| s.series == instance.series) {
            Some(known) => known.instances.push(one),
            None => series.push(ManifestSeries {
                series: instance.series.clone(),
                modality: instance.modality.clone(),
                number: instance.series_number,
                description: instance.series_description.clone(),
                location: config.location_uids.first().cloned(),
                retrieve_url: None,
                instances: vec![one],
            }),
        }
    }
    let date = study.study_date.clone().unwrap_or_default();
    let time: String = study.study_time.clone().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    let content: Vec<&str> = study.instances.iter().map(|i| i.sop_instance.as_str()).collect();
    let own = |what: &str| derived_uid(config, &[study.study.as_str(), what, &content.join(" ")]);
    Ok(Manifest {
        sop_instance: own("manifest")?,
        own_series: own("series")?,
        study: study.study.clone(),
        patient: study.facts.clone(),
        study_date: study.study_date.clone(),
        study_time: study.study_time.clone(),
        timezone: study.timezone.clone(),
        description: study.description.clone(),
        accession: study.accession.clone(),
        created: (date.len() == 8).then(|| format!("{date}{time:0<6}")),
        title: None,
        series,
        warnings: Vec::new(),
    })
}

/// A UID under the configured root, from a digest.
fn derived_uid(config: &Embedded, parts: &[&str]) -> Result<Uid, String> {
    let digest = openssl::sha::sha256(parts.join("/").as_bytes());
    let number = digest[..8].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let text = format!("{}.{number}", config.uid_root);
    Uid::parse(&text).map_err(|_| format!("{}: uid_root leaves no room for UIDs", config.name))
}
