//! Writing a KOS, deterministic: the same manifest gives the same bytes, since a document's hash must fit at every call.

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::FileMetaTableBuilder;

use super::dicom::{self, KOS, code, put_issuer, reference};
use super::written::Written;
use super::{IssuedId, Manifest, ManifestError, ManifestInstance, ManifestSeries};
use crate::Coded;

const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";

/// Which KOS is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KosDialect {
    /// XDS-I.b (RAD TF-3: 4.68): title 113030, TID 2010, descriptions nowhere.
    XdsI,
    /// Xt-EHR V7e: title 113030, descriptions as attributes in the evidence tree, orders in their sequence only.
    XtEhr,
    /// MADO: series and instances described in an image library (TID 1600).
    Mado(MadoCodes),
}

/// MADO's codes while DICOM CP-2595 is open. The title is the temporary one in both: a final code is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MadoCodes {
    /// Those of the trial implementation text: MADOTEMP002 and on, scheme 99IHE.
    Temporary,
    /// Those of the mapping page: 131561 to 131565, scheme DCM.
    #[default]
    Final,
}

impl MadoCodes {
    /// The code out of (final, temporary).
    fn pick(self, codes: &[&str], meaning: &str) -> Coded {
        let (value, scheme) = match (self, codes) {
            (Self::Temporary, [_, temporary, ..]) => (*temporary, "99IHE"),
            (_, [first, ..]) => (*first, "DCM"),
            (_, []) => ("", ""),
        };
        Coded::new(value, scheme, Some(meaning))
    }
}

impl Manifest {
    /// Writes the manifest as DICOM Part 10.
    ///
    /// # Errors
    /// [`ManifestError::Write`] when dicom-rs refuses.
    pub fn write_kos(&self, dialect: KosDialect) -> Result<Vec<u8>, ManifestError> {
        let mut object = Written::default();
        self.header(&mut object, dialect);
        self.patient_module(&mut object);
        object.put(tags::VALUE_TYPE, VR::CS, Some("CONTAINER"));
        let title = match dialect {
            KosDialect::XdsI | KosDialect::XtEhr => Coded::new("113030", "DCM", Some("Manifest")),
            KosDialect::Mado(_) => Coded::new("MADOTEMP001", "99IHE", Some("Manifest with Description")),
        };
        object.put_items(tags::CONCEPT_NAME_CODE_SEQUENCE, [dicom::code_item(&title)]);
        object.put(tags::CONTINUITY_OF_CONTENT, VR::CS, Some("SEPARATE"));
        let requests = self.requests();
        if !requests.is_empty() {
            object.put_items(tags::REFERENCED_REQUEST_SEQUENCE, requests);
        }
        object.put_items(tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE, [self.evidence(dialect)]);
        let mut template = Written::default();
        template.put(tags::MAPPING_RESOURCE, VR::CS, Some("DCMR"));
        template.put(tags::TEMPLATE_IDENTIFIER, VR::CS, Some("2010"));
        object.put_items(tags::CONTENT_TEMPLATE_SEQUENCE, [template]);
        object.put_items(tags::CONTENT_SEQUENCE, self.content(dialect));

        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(KOS)
            .media_storage_sop_instance_uid(self.sop_instance.as_str())
            .transfer_syntax(EXPLICIT_LE)
            .build();
        meta.ok().and_then(|meta| object.file(&meta)).ok_or(ManifestError::Write)
    }

    fn header(&self, object: &mut Written, dialect: KosDialect) {
        let filled = |value: &Option<String>| value.clone().unwrap_or_default();
        object.put(tags::SPECIFIC_CHARACTER_SET, VR::CS, Some("ISO_IR 192"));
        object.put(tags::SOP_CLASS_UID, VR::UI, Some(KOS));
        object.put(tags::SOP_INSTANCE_UID, VR::UI, Some(self.sop_instance.as_str()));
        object.put(tags::STUDY_DATE, VR::DA, Some(&filled(&self.study_date)));
        object.put(tags::STUDY_TIME, VR::TM, Some(&filled(&self.study_time)));
        let created = filled(&self.created);
        object.put(tags::CONTENT_DATE, VR::DA, created.get(..8));
        object.put(tags::CONTENT_TIME, VR::TM, created.get(8..));
        // V7e wants none at the top, MADO one only where the study has exactly one.
        let own = if dialect == KosDialect::XtEhr { None } else { self.accession.clone() };
        object.put(tags::ACCESSION_NUMBER, VR::SH, Some(&filled(&own)));
        if let Some(own) = own {
            let known = self.requests.iter().filter_map(|r| r.accession.as_ref()).find(|a| a.id == own);
            if let Some(IssuedId { issuer, label, .. }) = known {
                put_issuer(object, tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE, issuer.as_ref(), label.as_deref());
            }
        }
        object.put(tags::MODALITY, VR::CS, Some("KO"));
        object.put(tags::MANUFACTURER, VR::LO, Some(&filled(&self.creator.manufacturer)));
        let institution = self.creator.institution.as_ref().map(dicom::xon);
        object.put(tags::INSTITUTION_NAME, VR::LO, institution.as_deref());
        object.put(tags::MANUFACTURER_MODEL_NAME, VR::LO, self.creator.model.as_deref());
        object.put(tags::REFERRING_PHYSICIAN_NAME, VR::PN, Some(""));
        object.put(tags::TIMEZONE_OFFSET_FROM_UTC, VR::SH, self.timezone.as_deref());
        object.put(tags::STUDY_DESCRIPTION, VR::LO, self.description.as_deref());
        object.put_items(tags::REFERENCED_PERFORMED_PROCEDURE_STEP_SEQUENCE, Vec::new());
        object.put(tags::STUDY_INSTANCE_UID, VR::UI, Some(self.study.as_str()));
        object.put(tags::SERIES_INSTANCE_UID, VR::UI, Some(self.own_series.as_str()));
        object.put(tags::STUDY_ID, VR::SH, Some(""));
        object.put(tags::SERIES_NUMBER, VR::IS, Some("1"));
        object.put(tags::INSTANCE_NUMBER, VR::IS, Some("1"));
        // The templates count instances by series: those of a series that is not listed have their place here.
        object.put_number(tags::NUMBER_OF_STUDY_RELATED_INSTANCES, self.instance_total);
    }

    fn patient_module(&self, object: &mut Written) {
        let patient = &self.patient;
        object.put(tags::PATIENT_NAME, VR::PN, Some(patient.name.as_deref().unwrap_or_default()));
        object.put(tags::PATIENT_BIRTH_DATE, VR::DA, Some(patient.birth_date.as_deref().unwrap_or_default()));
        object.put(tags::PATIENT_SEX, VR::CS, Some(patient.sex.as_deref().unwrap_or_default()));
        let identified = |id: &IssuedId, item: &mut Written| {
            item.put(tags::PATIENT_ID, VR::LO, Some(&id.id));
            item.put(tags::ISSUER_OF_PATIENT_ID, VR::LO, id.label.as_deref());
            put_issuer(item, tags::ISSUER_OF_PATIENT_ID_QUALIFIERS_SEQUENCE, id.issuer.as_ref(), None);
        };
        match patient.ids.first() {
            Some(first) => identified(first, object),
            None => object.put(tags::PATIENT_ID, VR::LO, Some("")),
        }
        let others = patient.ids.iter().map(|id| {
            let mut item = Written::default();
            identified(id, &mut item);
            item.put(tags::TYPE_OF_PATIENT_ID, VR::CS, Some("TEXT"));
            item
        });
        object.put_items(tags::OTHER_PATIENT_I_DS_SEQUENCE, others);
    }

    /// Referenced Request Sequence; a procedure known by words alone is its description.
    fn requests(&self) -> Vec<Written> {
        let words = self.procedures.iter().find(|p| p.code.is_empty()).and_then(|p| p.display.as_deref());
        let codes: Vec<&Coded> = self.procedures.iter().filter(|p| !p.code.is_empty()).collect();
        let item = |accession: Option<&IssuedId>, placer: Option<&IssuedId>| {
            let mut item = Written::default();
            let id = |id: Option<&IssuedId>| id.map(|i| i.id.clone()).unwrap_or_default();
            item.put(tags::ACCESSION_NUMBER, VR::SH, Some(&id(accession)));
            item.put(tags::STUDY_INSTANCE_UID, VR::UI, Some(self.study.as_str()));
            item.put_items(tags::REFERENCED_STUDY_SEQUENCE, Vec::new());
            item.put(tags::REQUESTED_PROCEDURE_DESCRIPTION, VR::LO, Some(words.unwrap_or_default()));
            let codes = codes.iter().map(|c| dicom::code_item(c));
            item.put_items(tags::REQUESTED_PROCEDURE_CODE_SEQUENCE, codes);
            item.put(tags::REQUESTED_PROCEDURE_ID, VR::SH, Some(""));
            item.put(tags::PLACER_ORDER_NUMBER_IMAGING_SERVICE_REQUEST, VR::LO, Some(&id(placer)));
            item.put(tags::FILLER_ORDER_NUMBER_IMAGING_SERVICE_REQUEST, VR::LO, Some(""));
            for (tag, issued) in [
                (tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE, accession),
                (tags::ORDER_PLACER_IDENTIFIER_SEQUENCE, placer),
            ] {
                if let Some(issued) = issued {
                    put_issuer(&mut item, tag, issued.issuer.as_ref(), issued.label.as_deref());
                }
            }
            item
        };
        match self.requests.as_slice() {
            [] if self.accession.is_none() && codes.is_empty() && words.is_none() => Vec::new(),
            [] => {
                let own = self.accession.as_deref().map(|a| IssuedId::new(a, None));
                vec![item(own.as_ref(), None)]
            }
            all => all.iter().map(|r| item(r.accession.as_ref(), r.placer.as_ref())).collect(),
        }
    }

    fn evidence(&self, dialect: KosDialect) -> Written {
        let extended = dialect == KosDialect::XtEhr;
        // Which series a key object note lies in, for the images that it marks.
        let homes: std::collections::BTreeMap<&str, (&ManifestSeries, &ManifestInstance)> = self
            .series
            .iter()
            .flat_map(|s| s.instances.iter().map(move |i| (i.sop_instance.as_str(), (s, i))))
            .collect();
        let series = |s: &ManifestSeries| {
            let mut item = Written::default();
            if extended {
                item.put(tags::SERIES_DATE, VR::DA, s.date.as_deref());
                item.put(tags::SERIES_TIME, VR::TM, s.time.as_deref());
                item.put(tags::MODALITY, VR::CS, s.modality.as_deref());
                item.put(tags::SERIES_DESCRIPTION, VR::LO, Some(s.description.as_deref().unwrap_or_default()));
                item.put_number(tags::SERIES_NUMBER, s.number);
            }
            item.put(tags::RETRIEVE_AE_TITLE, VR::AE, s.ae_title.as_deref());
            let url = s.retrieve_url.as_deref().map(|base| match extended {
                true => format!("{}/studies/{}/series/{}", base.trim_end_matches('/'), self.study, s.series),
                false => base.to_owned(),
            });
            item.put(tags::RETRIEVE_URL, VR::UR, url.as_deref());
            let references = s.instances.iter().map(|i| {
                let mut item = reference(i.sop_class.as_str(), i.sop_instance.as_str());
                if extended {
                    item.put_number(tags::INSTANCE_NUMBER, i.number);
                    item.put_number(tags::NUMBER_OF_FRAMES, i.frames);
                    marks(&mut item, i, &homes);
                }
                item
            });
            item.put_items(tags::REFERENCED_SOP_SEQUENCE, references);
            item.put(tags::SERIES_INSTANCE_UID, VR::UI, Some(s.series.as_str()));
            item.put(dicom::LOCATION, VR::UI, s.location.as_ref().map(crate::Oid::as_str));
            item
        };
        let mut study = Written::default();
        study.put_items(tags::REFERENCED_SERIES_SEQUENCE, self.series.iter().map(series));
        study.put(tags::STUDY_INSTANCE_UID, VR::UI, Some(self.study.as_str()));
        if let (KosDialect::Mado(codes), Some(viewer)) = (dialect, &self.viewer) {
            let (group, creator) = dicom::MADO_PRIVATE;
            match codes {
                MadoCodes::Final => study.put(dicom::DISPLAY_URI, VR::UR, Some(viewer)),
                MadoCodes::Temporary => {
                    study.put(Tag(group, 0x0010), VR::LO, Some(creator));
                    study.put(Tag(group, 0x1001), VR::UR, Some(viewer));
                }
            }
        }
        study
    }

    fn content(&self, dialect: KosDialect) -> impl Iterator<Item = Written> {
        let library = match dialect {
            KosDialect::Mado(codes) => Some(self.image_library(codes)),
            KosDialect::XdsI | KosDialect::XtEhr => None,
        };
        library.into_iter().chain(self.series.iter().flat_map(|s| &s.instances).map(referring))
    }

    fn image_library(&self, codes: MadoCodes) -> Written {
        let mut content: Vec<Written> = self
            .modalities()
            .into_iter()
            .map(|m| code_value(&plain(code::MODALITY, "Modality"), &modality(m)))
            .collect();
        content.extend(self.regions.iter().map(|r| code_value(&plain(code::REGION, "Target Region"), r)));
        let listed = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        let total = self.series_total.unwrap_or(listed);
        content.push(number_value(&codes.pick(code::SERIES, "Number of Study Related Series"), total, "series"));
        let groups = self.series.iter().map(|s| group(s, codes));
        container(&plain(code::IMAGE_LIBRARY, "Image Library"), "CONTAINS", content.into_iter().chain(groups))
    }
}

/// V7e: the notes that mark an image, and the words of a note.
fn marks(
    item: &mut Written,
    instance: &ManifestInstance,
    homes: &std::collections::BTreeMap<&str, (&ManifestSeries, &ManifestInstance)>,
) {
    let related = instance.marked_by.iter().filter_map(|uid| homes.get(uid.as_str())).map(|(series, note)| {
        let mut marked = reference(note.sop_class.as_str(), note.sop_instance.as_str());
        let title = note.key_title.clone().unwrap_or_else(|| Coded::new("113000", "DCM", Some("Of Interest")));
        marked.put_items(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, [dicom::code_item(&title)]);
        let mut item = Written::default();
        item.put_items(tags::REFERENCED_SOP_SEQUENCE, [marked]);
        item.put(tags::SERIES_INSTANCE_UID, VR::UI, Some(series.series.as_str()));
        item
    });
    let related: Vec<Written> = related.collect();
    if !related.is_empty() {
        item.put_items(tags::RELATED_SERIES_SEQUENCE, related);
    }
    if let Some(words) = &instance.key_description {
        let mut content = Written::default();
        content.put(tags::TEXT_VALUE, VR::UT, Some(words));
        item.put_items(tags::CONTENT_SEQUENCE, [content]);
    }
}

/// One series of the image library (TID 1601), its instances' descriptors inside their entries.
fn group(series: &ManifestSeries, codes: MadoCodes) -> Written {
    let mut content = vec![uid_value(&plain(code::SERIES_UID, "Series Instance UID"), series.series.as_str())];
    if let Some(found) = &series.modality {
        content.push(code_value(&plain(code::MODALITY, "Modality"), &modality(found)));
    }
    let date =
        series.date.as_deref().map(|d| (codes.pick(code::SERIES_DATE, "Series Date"), "DATE", tags::DATE, VR::DA, d));
    let time =
        series.time.as_deref().map(|t| (codes.pick(code::SERIES_TIME, "Series Time"), "TIME", tags::TIME, VR::TM, t));
    for (name, kind, tag, vr, value) in date.into_iter().chain(time) {
        let mut item = content_item(kind, "HAS ACQ CONTEXT", &name);
        item.put(tag, vr, Some(value));
        content.push(item);
    }
    if let Some(description) = &series.description {
        content.push(text_value(&codes.pick(code::SERIES_DESCRIPTION, "Series Description"), description));
    }
    if let Some(number) = series.number {
        content.push(text_value(&plain(code::SERIES_NUMBER, "Series Number"), &number.to_string()));
    }
    if let Some(region) = &series.region {
        content.push(code_value(&plain(code::REGION, "Target Region"), region));
    }
    if let Some(side) = &series.laterality {
        content.push(code_value(&plain(code::LATERALITY, "Laterality"), side));
    }
    let listed = u32::try_from(series.instances.len()).unwrap_or(u32::MAX);
    let total = series.total.unwrap_or(listed);
    content.push(number_value(&codes.pick(code::INSTANCES, "Number of Series Related Instances"), total, "instances"));
    let entries = series.instances.iter().map(entry);
    container(&plain(code::GROUP, "Image Library Group"), "CONTAINS", content.into_iter().chain(entries))
}

/// One instance of the image library (TID 1602).
fn entry(instance: &ManifestInstance) -> Written {
    let mut item = referring(instance);
    let mut content = Vec::new();
    if let Some(number) = instance.number {
        content.push(text_value(&plain(code::INSTANCE_NUMBER, "Instance Number"), &number.to_string()));
    }
    if let Some(frames) = instance.frames {
        content.push(number_value(&plain(code::FRAMES, "Number of Frames"), frames, "frames"));
    }
    if let Some(title) = &instance.key_title {
        content.push(code_value(&plain(code::KEY_TITLE, "Document Title"), title));
    }
    if let Some(words) = &instance.key_description {
        content.push(text_value(&plain(code::KEY_DESCRIPTION, "Key Object Description"), words));
    }
    if !content.is_empty() {
        item.put_items(tags::CONTENT_SEQUENCE, content);
    }
    item
}

/// A content item that refers to an instance.
fn referring(instance: &ManifestInstance) -> Written {
    let class = instance.sop_class.as_str();
    let image = class.starts_with("1.2.840.10008.5.1.4.1.1.") && !class.contains(".88.");
    let mut item = Written::default();
    item.put_items(tags::REFERENCED_SOP_SEQUENCE, [reference(class, instance.sop_instance.as_str())]);
    item.put(tags::RELATIONSHIP_TYPE, VR::CS, Some("CONTAINS"));
    item.put(tags::VALUE_TYPE, VR::CS, Some(if image { "IMAGE" } else { "COMPOSITE" }));
    item
}

fn plain(codes: &[&str], meaning: &str) -> Coded {
    Coded::new(codes.first().copied().unwrap_or_default(), "DCM", Some(meaning))
}

fn modality(code: &str) -> Coded {
    Coded::new(code, "DCM", Some(code))
}

fn container(name: &Coded, relationship: &str, content: impl IntoIterator<Item = Written>) -> Written {
    let mut item = content_item("CONTAINER", relationship, name);
    item.put(tags::CONTINUITY_OF_CONTENT, VR::CS, Some("SEPARATE"));
    item.put_items(tags::CONTENT_SEQUENCE, content);
    item
}

fn content_item(kind: &str, relationship: &str, name: &Coded) -> Written {
    let mut item = Written::default();
    item.put(tags::RELATIONSHIP_TYPE, VR::CS, Some(relationship));
    item.put(tags::VALUE_TYPE, VR::CS, Some(kind));
    item.put_items(tags::CONCEPT_NAME_CODE_SEQUENCE, [dicom::code_item(name)]);
    item
}

fn uid_value(name: &Coded, uid: &str) -> Written {
    let mut item = content_item("UIDREF", "HAS ACQ CONTEXT", name);
    item.put(tags::UID, VR::UI, Some(uid));
    item
}

fn text_value(name: &Coded, text: &str) -> Written {
    let mut item = content_item("TEXT", "HAS ACQ CONTEXT", name);
    item.put(tags::TEXT_VALUE, VR::UT, Some(text));
    item
}

fn code_value(name: &Coded, concept: &Coded) -> Written {
    let mut item = content_item("CODE", "HAS ACQ CONTEXT", name);
    item.put_items(tags::CONCEPT_CODE_SEQUENCE, [dicom::code_item(concept)]);
    item
}

fn number_value(name: &Coded, number: u32, unit: &str) -> Written {
    let unit = Coded::new(&format!("{{{unit}}}"), "UCUM", Some(unit));
    let mut measured = Written::default();
    measured.put_items(tags::MEASUREMENT_UNITS_CODE_SEQUENCE, [dicom::code_item(&unit)]);
    measured.put(tags::NUMERIC_VALUE, VR::DS, Some(&number.to_string()));
    let mut item = content_item("NUM", "HAS ACQ CONTEXT", name);
    item.put_items(tags::MEASURED_VALUE_SEQUENCE, [measured]);
    item
}
