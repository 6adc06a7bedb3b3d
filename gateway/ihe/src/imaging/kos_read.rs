//! Reading a KOS of any of the three dialects (`imaging-content.md` 2.4).

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::mem::InMemElement;
use dicom_object::{DefaultDicomObject, InMemDicomObject};

use super::{MOST_REFERENCES, Manifest, ManifestError, ManifestInstance, ManifestPatient, ManifestSeries};
use crate::{Coded, Oid, Uid};

const KOS: &str = "1.2.840.10008.5.1.4.1.1.88.59";
/// Retrieve Location UID.
const LOCATION: Tag = Tag(0x0040, 0xE011);
/// Titles of manifests: XDS-I, MADO's temporary one.
const TITLES: &[&str] = &["113030", "MADOTEMP001"];

impl Manifest {
    /// Reads a KOS. The evidence tree is the source of truth; titles and missing extras are warned about.
    ///
    /// # Errors
    /// Not DICOM, another SOP class, no usable evidence, too many references.
    pub fn read_kos(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.get(128..132) != Some(b"DICM") {
            return Err(ManifestError::NotDicom);
        }
        let object = dicom_object::from_reader(&bytes[128..]).map_err(|_| ManifestError::NotDicom)?;
        read(&object)
    }
}

fn read(object: &DefaultDicomObject) -> Result<Manifest, ManifestError> {
    if text(object, tags::SOP_CLASS_UID).as_deref() != Some(KOS) {
        return Err(ManifestError::NotKos);
    }
    let mut warnings = Vec::new();
    let title = items(object, tags::CONCEPT_NAME_CODE_SEQUENCE).first().map(|item| {
        let part = |tag| text(item, tag).unwrap_or_default();
        Coded::new(
            &part(tags::CODE_VALUE),
            &part(tags::CODING_SCHEME_DESIGNATOR),
            text(item, tags::CODE_MEANING).as_deref(),
        )
    });
    if !title.as_ref().is_some_and(|t| TITLES.contains(&t.code.as_str())) {
        warnings.push("document title is not that of a manifest".to_owned());
    }
    let studies = items(object, tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE);
    let study = match studies {
        [] => return Err(ManifestError::Evidence("no study")),
        [one] => one,
        [first, ..] => {
            warnings.push("more than one study, the first is used".to_owned());
            first
        }
    };
    let mut total = 0;
    let mut series = Vec::new();
    for item in items(study, tags::REFERENCED_SERIES_SEQUENCE) {
        let mut instances = Vec::new();
        for reference in items(item, tags::REFERENCED_SOP_SEQUENCE) {
            total += 1;
            if total > MOST_REFERENCES {
                return Err(ManifestError::TooMany);
            }
            instances.push(ManifestInstance {
                sop_class: uid(reference, tags::REFERENCED_SOP_CLASS_UID)?,
                sop_instance: uid(reference, tags::REFERENCED_SOP_INSTANCE_UID)?,
                number: number(reference, tags::INSTANCE_NUMBER),
                frames: number(reference, tags::NUMBER_OF_FRAMES),
            });
        }
        let location = text(item, LOCATION).and_then(|v| Oid::parse(&v).ok());
        if location.is_none() {
            warnings.push("a series has no usable retrieve location uid".to_owned());
        }
        series.push(ManifestSeries {
            series: uid(item, tags::SERIES_INSTANCE_UID)?,
            modality: text(item, tags::MODALITY),
            number: number(item, tags::SERIES_NUMBER),
            description: text(item, tags::SERIES_DESCRIPTION),
            location,
            retrieve_url: text(item, tags::RETRIEVE_URL),
            instances,
        });
    }
    if total == 0 {
        return Err(ManifestError::Evidence("no instance"));
    }
    image_library(object, &mut series);
    Ok(Manifest {
        sop_instance: uid(object, tags::SOP_INSTANCE_UID)?,
        own_series: uid(object, tags::SERIES_INSTANCE_UID)?,
        study: uid(study, tags::STUDY_INSTANCE_UID)?,
        patient: patient(object),
        study_date: text(object, tags::STUDY_DATE),
        study_time: text(object, tags::STUDY_TIME),
        timezone: text(object, tags::TIMEZONE_OFFSET_FROM_UTC),
        description: text(object, tags::STUDY_DESCRIPTION),
        accession: text(object, tags::ACCESSION_NUMBER),
        created: text(object, tags::CONTENT_DATE)
            .map(|d| format!("{d}{}", text(object, tags::CONTENT_TIME).unwrap_or_default())),
        title,
        series,
        warnings,
    })
}

/// MADO keeps the series' descriptions in SR content: image library (111028) > groups (126200).
fn image_library(object: &InMemDicomObject, series: &mut [ManifestSeries]) {
    let coded = |item: &InMemDicomObject| {
        items(item, tags::CONCEPT_NAME_CODE_SEQUENCE)
            .first()
            .and_then(|c| text(c, tags::CODE_VALUE))
            .unwrap_or_default()
    };
    let libraries = items(object, tags::CONTENT_SEQUENCE).iter().filter(|i| coded(i) == "111028");
    for group in libraries.flat_map(|l| items(l, tags::CONTENT_SEQUENCE)).filter(|g| coded(g) == "126200") {
        let content = items(group, tags::CONTENT_SEQUENCE);
        let value = |codes: &[&str]| {
            let item = content.iter().find(|i| codes.contains(&coded(i).as_str()))?;
            let numeric = items(item, tags::MEASURED_VALUE_SEQUENCE).first().and_then(|m| text(m, tags::NUMERIC_VALUE));
            let code = items(item, tags::CONCEPT_CODE_SEQUENCE).first().and_then(|c| text(c, tags::CODE_VALUE));
            text(item, tags::TEXT_VALUE).or_else(|| text(item, tags::UID)).or(numeric).or(code)
        };
        let Some(id) = value(&["112002"]) else { continue };
        let Some(found) = series.iter_mut().find(|s| s.series.as_str() == id.trim_end_matches('\0')) else { continue };
        found.modality = found.modality.take().or_else(|| value(&["121139"]));
        found.description = found.description.take().or_else(|| value(&["131563", "MADOTEMP002"]));
        found.number = found.number.or_else(|| value(&["113607"]).and_then(|n| n.parse().ok()));
    }
}

fn patient(object: &InMemDicomObject) -> ManifestPatient {
    let with_issuer = |item: &InMemDicomObject| {
        let id = text(item, tags::PATIENT_ID)?;
        let qualifiers = items(item, tags::ISSUER_OF_PATIENT_ID_QUALIFIERS_SEQUENCE);
        let issuer =
            qualifiers.first().and_then(|q| text(q, tags::UNIVERSAL_ENTITY_ID)).and_then(|o| Oid::parse(&o).ok());
        Some((id, issuer))
    };
    let mut ids: Vec<_> = with_issuer(object).into_iter().collect();
    for other in items(object, tags::OTHER_PATIENT_I_DS_SEQUENCE).iter().filter_map(with_issuer) {
        if !ids.contains(&other) {
            ids.push(other);
        }
    }
    ManifestPatient {
        ids,
        name: text(object, tags::PATIENT_NAME),
        birth_date: text(object, tags::PATIENT_BIRTH_DATE),
        sex: text(object, tags::PATIENT_SEX),
    }
}

fn element(object: &InMemDicomObject, tag: Tag) -> Option<&InMemElement> {
    object.element_opt(tag).ok().flatten()
}

fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = element(object, tag)?.to_str().ok()?;
    let value = value.trim_matches(['\0', ' ']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn number(object: &InMemDicomObject, tag: Tag) -> Option<u32> {
    text(object, tag)?.parse().ok()
}

fn uid(object: &InMemDicomObject, tag: Tag) -> Result<Uid, ManifestError> {
    text(object, tag).and_then(|v| Uid::parse(&v).ok()).ok_or(ManifestError::Evidence("uid"))
}

fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    match element(object, tag) {
        Some(found) if found.vr() == dicom_core::VR::SQ => found.items().unwrap_or_default(),
        _ => &[],
    }
}
