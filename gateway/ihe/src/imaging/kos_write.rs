//! Writing a KOS, deterministic: the same manifest gives the same bytes, since a document's hash must fit at every call.

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use super::{Manifest, ManifestError, ManifestSeries};
use crate::Coded;

const KOS: &str = "1.2.840.10008.5.1.4.1.1.88.59";
const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";
const LOCATION: Tag = Tag(0x0040, 0xE011);

/// Which manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KosDialect {
    /// XDS-I: title 113030, TID 2010.
    XdsI,
    /// MADO: title MADOTEMP001, series described in an image library (TID 1600).
    Mado,
}

impl Manifest {
    /// Writes the manifest as DICOM Part 10.
    ///
    /// # Errors
    /// [`ManifestError::Write`] when dicom-rs refuses.
    pub fn write_kos(&self, dialect: KosDialect) -> Result<Vec<u8>, ManifestError> {
        let mut object = InMemDicomObject::new_empty();
        put(&mut object, tags::SPECIFIC_CHARACTER_SET, VR::CS, Some("ISO_IR 192"));
        put(&mut object, tags::SOP_CLASS_UID, VR::UI, Some(KOS));
        put(&mut object, tags::SOP_INSTANCE_UID, VR::UI, Some(self.sop_instance.as_str()));
        put(&mut object, tags::STUDY_DATE, VR::DA, Some(self.study_date.as_deref().unwrap_or_default()));
        put(&mut object, tags::STUDY_TIME, VR::TM, Some(self.study_time.as_deref().unwrap_or_default()));
        let created = self.created.as_deref().unwrap_or_default();
        put(&mut object, tags::CONTENT_DATE, VR::DA, created.get(..8));
        put(&mut object, tags::CONTENT_TIME, VR::TM, created.get(8..));
        put(&mut object, tags::ACCESSION_NUMBER, VR::SH, Some(self.accession.as_deref().unwrap_or_default()));
        put(&mut object, tags::MODALITY, VR::CS, Some("KO"));
        put(&mut object, tags::MANUFACTURER, VR::LO, Some(""));
        put(&mut object, tags::REFERRING_PHYSICIAN_NAME, VR::PN, Some(""));
        put(&mut object, tags::TIMEZONE_OFFSET_FROM_UTC, VR::SH, self.timezone.as_deref());
        put(&mut object, tags::STUDY_DESCRIPTION, VR::LO, self.description.as_deref());
        put_items(&mut object, tags::REFERENCED_PERFORMED_PROCEDURE_STEP_SEQUENCE, Vec::new());
        put(&mut object, tags::PATIENT_NAME, VR::PN, Some(self.patient.name.as_deref().unwrap_or_default()));
        put(
            &mut object,
            tags::PATIENT_BIRTH_DATE,
            VR::DA,
            Some(self.patient.birth_date.as_deref().unwrap_or_default()),
        );
        put(&mut object, tags::PATIENT_SEX, VR::CS, Some(self.patient.sex.as_deref().unwrap_or_default()));
        let identified = |(id, issuer): &(String, Option<crate::Oid>)| {
            let mut item = InMemDicomObject::new_empty();
            put(&mut item, tags::PATIENT_ID, VR::LO, Some(id));
            if let Some(issuer) = issuer {
                let mut qualifier = InMemDicomObject::new_empty();
                put(&mut qualifier, tags::UNIVERSAL_ENTITY_ID, VR::UT, Some(issuer.as_str()));
                put(&mut qualifier, tags::UNIVERSAL_ENTITY_ID_TYPE, VR::CS, Some("ISO"));
                put_items(&mut item, tags::ISSUER_OF_PATIENT_ID_QUALIFIERS_SEQUENCE, vec![qualifier]);
            }
            item
        };
        let ids: Vec<InMemDicomObject> = self.patient.ids.iter().map(identified).collect();
        match ids.first() {
            Some(first) => {
                for element in first.clone() {
                    object.put(element);
                }
            }
            None => put(&mut object, tags::PATIENT_ID, VR::LO, Some("")),
        }
        put_items(&mut object, tags::OTHER_PATIENT_I_DS_SEQUENCE, ids);
        put(&mut object, tags::STUDY_INSTANCE_UID, VR::UI, Some(self.study.as_str()));
        put(&mut object, tags::SERIES_INSTANCE_UID, VR::UI, Some(self.own_series.as_str()));
        put(&mut object, tags::STUDY_ID, VR::SH, Some(""));
        put(&mut object, tags::SERIES_NUMBER, VR::IS, Some("1"));
        put(&mut object, tags::INSTANCE_NUMBER, VR::IS, Some("1"));
        put(&mut object, tags::VALUE_TYPE, VR::CS, Some("CONTAINER"));
        let title = match dialect {
            KosDialect::XdsI => Coded::new("113030", "DCM", Some("Manifest")),
            KosDialect::Mado => Coded::new("MADOTEMP001", "99IHE", Some("Manifest with Description")),
        };
        put_items(&mut object, tags::CONCEPT_NAME_CODE_SEQUENCE, vec![code(&title)]);
        put(&mut object, tags::CONTINUITY_OF_CONTENT, VR::CS, Some("SEPARATE"));
        put_items(&mut object, tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE, vec![self.evidence(dialect)]);
        let mut template = InMemDicomObject::new_empty();
        put(&mut template, tags::MAPPING_RESOURCE, VR::CS, Some("DCMR"));
        put(&mut template, tags::TEMPLATE_IDENTIFIER, VR::CS, Some("2010"));
        put_items(&mut object, tags::CONTENT_TEMPLATE_SEQUENCE, vec![template]);
        put_items(&mut object, tags::CONTENT_SEQUENCE, self.content(dialect));

        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(KOS)
            .media_storage_sop_instance_uid(self.sop_instance.as_str())
            .transfer_syntax(EXPLICIT_LE);
        let file = object.with_meta(meta).map_err(|_| ManifestError::Write)?;
        let mut out = Vec::new();
        file.write_all(&mut out).map_err(|_| ManifestError::Write)?;
        Ok(out)
    }

    fn evidence(&self, dialect: KosDialect) -> InMemDicomObject {
        let series = |s: &ManifestSeries| {
            let mut item = InMemDicomObject::new_empty();
            if dialect == KosDialect::XdsI {
                put(&mut item, tags::MODALITY, VR::CS, s.modality.as_deref());
                put(&mut item, tags::SERIES_DESCRIPTION, VR::LO, s.description.as_deref());
            }
            let references = s.instances.iter().map(|i| {
                let mut reference = InMemDicomObject::new_empty();
                put(&mut reference, tags::REFERENCED_SOP_CLASS_UID, VR::UI, Some(i.sop_class.as_str()));
                put(&mut reference, tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, Some(i.sop_instance.as_str()));
                let text = |n: Option<u32>| n.map(|n| n.to_string());
                put(&mut reference, tags::INSTANCE_NUMBER, VR::IS, text(i.number).as_deref());
                put(&mut reference, tags::NUMBER_OF_FRAMES, VR::IS, text(i.frames).as_deref());
                reference
            });
            put_items(&mut item, tags::REFERENCED_SOP_SEQUENCE, references.collect());
            put(&mut item, tags::SERIES_INSTANCE_UID, VR::UI, Some(s.series.as_str()));
            put(&mut item, LOCATION, VR::UI, s.location.as_ref().map(crate::Oid::as_str));
            item
        };
        let mut study = InMemDicomObject::new_empty();
        put_items(&mut study, tags::REFERENCED_SERIES_SEQUENCE, self.series.iter().map(series).collect());
        put(&mut study, tags::STUDY_INSTANCE_UID, VR::UI, Some(self.study.as_str()));
        study
    }

    fn content(&self, dialect: KosDialect) -> Vec<InMemDicomObject> {
        let instances = self.series.iter().flat_map(|s| &s.instances);
        let mut out: Vec<InMemDicomObject> = instances
            .map(|i| {
                let mut reference = InMemDicomObject::new_empty();
                put(&mut reference, tags::REFERENCED_SOP_CLASS_UID, VR::UI, Some(i.sop_class.as_str()));
                put(&mut reference, tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, Some(i.sop_instance.as_str()));
                let image = i.sop_class.as_str().starts_with("1.2.840.10008.5.1.4.1.1.")
                    && !i.sop_class.as_str().contains(".88.");
                let mut item = InMemDicomObject::new_empty();
                put_items(&mut item, tags::REFERENCED_SOP_SEQUENCE, vec![reference]);
                put(&mut item, tags::RELATIONSHIP_TYPE, VR::CS, Some("CONTAINS"));
                put(&mut item, tags::VALUE_TYPE, VR::CS, Some(if image { "IMAGE" } else { "COMPOSITE" }));
                item
            })
            .collect();
        if dialect == KosDialect::Mado {
            out.push(self.image_library());
        }
        out
    }

    fn image_library(&self) -> InMemDicomObject {
        let groups = self.series.iter().map(|s| {
            let mut content = vec![uid_item("112002", "Series Instance UID", s.series.as_str())];
            if let Some(modality) = &s.modality {
                content.push(code_item("121139", "DCM", "Modality", &Coded::new(modality, "DCM", Some(modality))));
            }
            if let Some(description) = &s.description {
                content.push(text_item(("131563", "DCM", "Series Description"), description));
            }
            if let Some(number) = s.number {
                content.push(text_item(("113607", "DCM", "Series Number"), &number.to_string()));
            }
            container("126200", "Image Library Group", content)
        });
        container("111028", "Image Library", groups.collect())
    }
}

fn container(value: &str, meaning: &str, content: Vec<InMemDicomObject>) -> InMemDicomObject {
    let mut item = content_item("CONTAINER", &Coded::new(value, "DCM", Some(meaning)));
    put(&mut item, tags::CONTINUITY_OF_CONTENT, VR::CS, Some("SEPARATE"));
    put_items(&mut item, tags::CONTENT_SEQUENCE, content);
    item
}

fn content_item(kind: &str, name: &Coded) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put(&mut item, tags::RELATIONSHIP_TYPE, VR::CS, Some("CONTAINS"));
    put(&mut item, tags::VALUE_TYPE, VR::CS, Some(kind));
    put_items(&mut item, tags::CONCEPT_NAME_CODE_SEQUENCE, vec![code(name)]);
    item
}

fn uid_item(value: &str, meaning: &str, uid: &str) -> InMemDicomObject {
    let mut item = content_item("UIDREF", &Coded::new(value, "DCM", Some(meaning)));
    put(&mut item, tags::UID, VR::UI, Some(uid));
    item
}

fn text_item((value, scheme, meaning): (&str, &str, &str), text: &str) -> InMemDicomObject {
    let mut item = content_item("TEXT", &Coded::new(value, scheme, Some(meaning)));
    put(&mut item, tags::TEXT_VALUE, VR::UT, Some(text));
    item
}

fn code_item(value: &str, scheme: &str, meaning: &str, concept: &Coded) -> InMemDicomObject {
    let mut item = content_item("CODE", &Coded::new(value, scheme, Some(meaning)));
    put_items(&mut item, tags::CONCEPT_CODE_SEQUENCE, vec![code(concept)]);
    item
}

fn code(coded: &Coded) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put(&mut item, tags::CODE_VALUE, VR::SH, Some(&coded.code));
    put(&mut item, tags::CODING_SCHEME_DESIGNATOR, VR::SH, Some(&coded.system));
    put(&mut item, tags::CODE_MEANING, VR::LO, Some(coded.display.as_deref().unwrap_or(&coded.code)));
    item
}

fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: Option<&str>) {
    if let Some(value) = value {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }
}

fn put_items(object: &mut InMemDicomObject, tag: Tag, items: Vec<InMemDicomObject>) {
    object.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
}
