//! Images of the definitions: the originals where they are at hand, else images generated to their UIDs.

use std::path::{Path, PathBuf};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, InMemDicomObject, open_file};
use ncp_ihe::{ImagingRequest, Uid};
use ncp_tests::pki::Error;

const CR: &str = "1.2.840.10008.5.1.4.1.1.1";
const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";

/// An original image.
pub(crate) struct Original {
    path: PathBuf,
    sop_instance: String,
    syntax: String,
}

/// The patient that the images of a test name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) local_id: String,
    pub(crate) name: String,
    pub(crate) birth_date: String,
    pub(crate) sex: String,
}

impl Default for Person {
    fn default() -> Self {
        let text = |t: &str| t.to_owned();
        Self {
            local_id: text("NIST-GENERATED"),
            name: text("Generated^A"),
            birth_date: text("19780201"),
            sex: text("M"),
        }
    }
}

/// An image put where a source finds it.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) sop_instance: String,
    pub(crate) path: PathBuf,
    /// Whether it is NIST's own, unaltered.
    pub(crate) original: bool,
}

/// The images of `tests/fixtures/dicom/nist`.
pub(crate) fn originals() -> Result<Vec<Original>, Error> {
    let mut out = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dicom/nist");
    for folder in std::fs::read_dir(root)? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(folder)? {
            let path = file?.path();
            let object = open_file(&path)?;
            out.push(Original {
                sop_instance: text(&object, tags::SOP_INSTANCE_UID),
                syntax: object.meta().transfer_syntax().trim_end_matches('\0').to_owned(),
                path,
            });
        }
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

/// Puts what a request names and the definition has under `folder/<repository>/dicom`: `wanted` says which of the
/// instances exist. All name one person, whom the caller registers.
pub(crate) fn place(
    originals: &[Original],
    request: &ImagingRequest,
    wanted: impl Fn(&str) -> bool,
    folder: &Path,
) -> Result<(Vec<Placed>, Person), Error> {
    let mut person: Option<Person> = None;
    let mut out = Vec::new();
    for study in &request.studies {
        for series in &study.series {
            for instance in &series.instances {
                let known = original(originals, &instance.document, &request.transfer_syntaxes);
                if known.is_none() && !wanted(&instance.document) {
                    continue;
                }
                let into = folder.join(instance.repository.as_str()).join("dicom");
                std::fs::create_dir_all(&into)?;
                let path = into.join(format!("{}.dcm", instance.document));
                let mut unaltered = false;
                match known {
                    Some(original) => {
                        let mut object = open_file(&original.path)?;
                        let own = Person {
                            local_id: text(&object, tags::PATIENT_ID),
                            name: text(&object, tags::PATIENT_NAME),
                            birth_date: text(&object, tags::PATIENT_BIRTH_DATE),
                            sex: text(&object, tags::PATIENT_SEX),
                        };
                        let first = person.get_or_insert_with(|| own.clone());
                        if *first == own {
                            std::fs::copy(&original.path, &path)?;
                            unaltered = true;
                        } else {
                            identify(&mut object, first);
                            object.write_to_file(&path)?;
                        }
                    }
                    None => {
                        let person = person.get_or_insert_with(Person::default);
                        let uids = (study.study.as_str(), series.series.as_str(), instance.document.as_str());
                        generated(uids, person)?.write_to_file(&path)?;
                    }
                }
                out.push(Placed { sop_instance: instance.document.clone(), path, original: unaltered });
            }
        }
    }
    Ok((out, person.unwrap_or_default()))
}

/// The original in a requested syntax; else in any, for definitions that ask for a syntax the source has not.
fn original<'a>(originals: &'a [Original], sop_instance: &str, syntaxes: &[Uid]) -> Option<&'a Original> {
    let mut all = originals.iter().filter(|o| o.sop_instance == sop_instance);
    let listed = |o: &&Original| syntaxes.iter().any(|s| s.as_str() == o.syntax);
    all.clone().find(listed).or_else(|| all.find(|o| o.syntax == EXPLICIT_LE))
}

fn identify(object: &mut InMemDicomObject, person: &Person) {
    for (tag, vr, value) in [
        (tags::PATIENT_ID, VR::LO, &person.local_id),
        (tags::PATIENT_NAME, VR::PN, &person.name),
        (tags::PATIENT_BIRTH_DATE, VR::DA, &person.birth_date),
        (tags::PATIENT_SEX, VR::CS, &person.sex),
    ] {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value.as_str())));
    }
}

/// A small CR image with these UIDs.
fn generated((study, series, instance): (&str, &str, &str), person: &Person) -> Result<DefaultDicomObject, Error> {
    let mut object = InMemDicomObject::new_empty();
    identify(&mut object, person);
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, CR),
        (tags::SOP_INSTANCE_UID, VR::UI, instance),
        (tags::STUDY_INSTANCE_UID, VR::UI, study),
        (tags::SERIES_INSTANCE_UID, VR::UI, series),
        (tags::STUDY_DATE, VR::DA, "20150201"),
        (tags::STUDY_TIME, VR::TM, "101500"),
        (tags::MODALITY, VR::CS, "CR"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
    ] {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1_u16),
        (tags::ROWS, 8),
        (tags::COLUMNS, 8),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(vec![7; 64].into())));
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(CR)
        .media_storage_sop_instance_uid(instance)
        .transfer_syntax(EXPLICIT_LE);
    Ok(object.with_meta(meta)?)
}

/// Transfer syntax of a file.
pub(crate) fn syntax(path: &Path) -> String {
    let object = dicom_object::OpenFileOptions::new().read_until(tags::PIXEL_DATA).open_file(path);
    object.map(|o| o.meta().transfer_syntax().trim_end_matches('\0').to_owned()).unwrap_or_default()
}

/// A value as text, without padding.
pub(crate) fn text(object: &InMemDicomObject, tag: dicom_core::Tag) -> String {
    let value = object.element_opt(tag).ok().flatten().and_then(|e| e.to_str().ok());
    value.map(|v| v.trim_matches(['\0', ' ']).to_owned()).unwrap_or_default()
}
