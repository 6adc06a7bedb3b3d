//! A DICOMweb archive (QIDO-RS, WADO-RS) as Document Registry, Document Repository and Imaging Document Source.
//!
//! Nothing is indexed: studies of a patient are looked up when they are asked for, manifests are made of what QIDO lists,
//! instances are passed on as WADO-RS sends them, in the form in which they are stored.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use ncp_ihe::{
    Availability, DocumentEntry, ImagingRequest, IssuedId, ManifestPatient, ObjectIds, Oid, PatientId, RegistryObjects,
    Uid,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use super::incoming::failing;
use super::manifests::{IndexedInstance, IndexedStudy, ManifestCodes, ManifestSite};
use super::patients::Patients;
use super::{
    Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, Instance, LocatedStudy, NationalError,
    PatientObjects, Retrieval,
};
use crate::config::DicomWeb;
use crate::policy::{Authorised, Disclose, LookUp};
use crate::recent::Recent;

mod archive;
mod json;

use archive::{Archive, Wanted};
use json::Found;

/// All but the unreserved characters of RFC 3986; Orthanc does not decode what needs no encoding.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Attributes that QIDO need not return unless asked.
const STUDY_FIELDS: &str =
    "00080005,00080020,00080030,00080050,00080201,00081030,00100010,00100020,00100030,00100040,00201208";
const SERIES_FIELDS: &str = "00080060,0008103E,00200011";
const INSTANCE_FIELDS: &str =
    "00080016,00080018,00080060,0008103E,00083002,00100020,00100030,0020000E,00200011,00200013,00280008";
/// Instances whose attributes are asked for one by one when the search lacks them.
const COMPLETED: usize = 1000;

/// One archive.
pub struct DicomWebSource {
    archive: Archive,
    locations: Vec<Oid>,
    site: ManifestSite,
    patients: Arc<Patients>,
    /// Requests at once for one study.
    parallel: usize,
    /// A study is asked for in batches, so its list is kept for as long as that takes.
    recent: Recent<Uid, IndexedStudy>,
}

impl DicomWebSource {
    /// Prepares the client; the archive is asked when a request comes.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn new(config: &DicomWeb, language: &str, patients: Arc<Patients>) -> Result<Self, String> {
        let site = ManifestSite {
            name: config.name.clone(),
            repository: config.repository_unique_id.clone(),
            location: config.location_uids.first().ok_or("no location_uids")?.clone(),
            uid_root: config.uid_root.clone(),
            zone: jiff::tz::TimeZone::get(&config.time_zone).map_err(|e| format!("{}: {e}", config.name))?,
            language: language.to_owned(),
            codes: ManifestCodes::load(&config.manifest_codes)?,
        };
        Ok(Self {
            archive: Archive::new(config)?,
            locations: config.location_uids.clone(),
            site,
            patients,
            parallel: config.parallel,
            recent: Recent::default(),
        })
    }

    /// RepositoryUniqueId of its manifests.
    pub fn repository(&self) -> &Oid {
        &self.site.repository
    }

    /// Retrieve Location UIDs it serves.
    pub fn locations(&self) -> &[Oid] {
        &self.locations
    }

    /// Studies of a person, under all ids by which the archive may know her.
    async fn studies_of(&self, patient: &PatientId) -> Result<Vec<Arc<IndexedStudy>>, NationalError> {
        let Some(known) = self.patients.get(patient) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for local in &known.local_ids {
            let id = percent_encoding::utf8_percent_encode(local, RESERVED);
            let path = format!("/studies?PatientID={id}&includefield={STUDY_FIELDS}");
            let found = self.archive.search(&path, |f| &f.study, 0).await?;
            // A wildcard in an id, or an archive that matches loosely, must not widen the search.
            let theirs = found.into_iter().filter(|f| f.patient_id.get() == Some(local));
            let listed = futures_util::stream::iter(theirs).map(|facts| self.listed(facts)).buffered(self.parallel);
            let studies: Vec<_> = listed.try_collect().await?;
            out.extend(studies.into_iter().flatten());
        }
        Ok(out)
    }

    /// Manifests of a person's studies.
    async fn entries_of(&self, patient: &PatientId) -> Result<Vec<DocumentEntry>, NationalError> {
        let mut out = Vec::new();
        for study in self.studies_of(patient).await? {
            let Some(patient) = study.patient.clone() else { continue };
            out.push(self.site.document(&study, patient).map_err(NationalError::broken)?.0);
        }
        Ok(out)
    }

    /// A study as it was listed a moment ago, or is now.
    async fn study(&self, study: &Uid) -> Result<Option<Arc<IndexedStudy>>, NationalError> {
        if let Some(known) = self.recent.get(study) {
            return Ok(Some(known));
        }
        let path = format!("/studies?StudyInstanceUID={study}&includefield={STUDY_FIELDS}");
        let found = self.archive.search(&path, |f| &f.study, 0).await?;
        match found.into_iter().find(|f| f.study.uid().as_ref() == Some(study)) {
            Some(facts) => self.listed(facts).await,
            None => Ok(None),
        }
    }

    /// A study with its instances. One that names no patient is nobody's and is not served.
    async fn listed(&self, facts: Found) -> Result<Option<Arc<IndexedStudy>>, NationalError> {
        let (Some(study), Some(local)) = (facts.study.uid(), facts.patient_id.owned()) else { return Ok(None) };
        let birth_date = facts.birth_date.owned();
        let known = self.patients.of_local_id(&local);
        let fits = known.is_some_and(|(_, p)| birth_date.as_ref().is_none_or(|d| *d == p.birth_date));
        let mut out = IndexedStudy {
            study: study.clone(),
            patient: known.filter(|_| fits).map(|(id, _)| id.clone()),
            facts: ManifestPatient {
                ids: known
                    .map(|(id, _)| IssuedId::new(&id.extension, Some(id.root.clone())))
                    .into_iter()
                    .chain([IssuedId::new(&local, None)])
                    .collect(),
                name: facts.patient_name.owned(),
                birth_date,
                sex: facts.sex.owned(),
            },
            study_date: facts.study_date.owned(),
            study_time: facts.study_time.owned(),
            timezone: facts.timezone.owned(),
            description: facts.study_description.owned(),
            accession: facts.accession.owned(),
            instances: Vec::new(),
        };
        let path = format!("/studies/{study}/series?includefield={SERIES_FIELDS}");
        let series = self.archive.search(&path, |f| &f.series, 0).await?;
        let expected = facts.study_instances.number().unwrap_or(0) as usize;
        let mut left_out = 0;
        for one in self.instances_of(&study, &series, expected).await? {
            let of = series.iter().find(|s| s.series.uid().is_some() && s.series == one.series);
            match instance(&one, of, &local) {
                Some(instance) => out.instances.push(instance),
                None => left_out += 1,
            }
        }
        if left_out > 0 {
            tracing::warn!(connector = %self.site.name, left_out, "instances without SOP class or UIDs are not listed");
        }
        if out.instances.len() < expected {
            let (listed, counted) = (out.instances.len(), expected);
            tracing::warn!(connector = %self.site.name, listed, counted, "archive lists fewer instances than it counts");
        }
        out.sort();
        let out = Arc::new(out);
        self.recent.put(study, out.clone(), out.instances.len());
        Ok(Some(out))
    }

    /// What the archive lists of a study, series by series when the study's list does not say the series, and with the
    /// attributes that the list lacks.
    async fn instances_of(&self, study: &Uid, series: &[Found], expected: usize) -> Result<Vec<Found>, NationalError> {
        let path = format!("/studies/{study}/instances?includefield={INSTANCE_FIELDS}");
        let mut found = self.archive.search(&path, |f| &f.sop_instance, expected).await?;
        if found.is_empty() || found.iter().any(|f| f.series.uid().is_none()) {
            found = Vec::new();
            for one in series.iter().filter_map(|s| s.series.uid()) {
                let path = format!("/studies/{study}/series/{one}/instances?includefield={INSTANCE_FIELDS}");
                let listed = self.archive.search(&path, |f| &f.sop_instance, 0).await?;
                found.extend(listed.into_iter().map(|f| Found { series: one.as_str().into(), ..f }));
            }
        }
        let lacking = found.iter().enumerate().filter(|(_, f)| f.sop_class.uid().is_none()).take(COMPLETED);
        let lacking: Vec<(usize, Uid, Uid)> =
            lacking.filter_map(|(i, f)| Some((i, f.series.uid()?, f.sop_instance.uid()?))).collect();
        let answers = futures_util::stream::iter(lacking)
            .map(|(i, series, sop)| async move { Ok((i, self.archive.metadata(study, &series, &sop).await?)) })
            .buffered(self.parallel);
        let answers: Result<Vec<(usize, Option<Found>)>, NationalError> = answers.try_collect().await;
        for (index, full) in answers? {
            let Some(full) = full else { continue };
            let listed = &found[index];
            found[index] =
                Found { transfer_syntax: listed.transfer_syntax.clone(), series: listed.series.clone(), ..full };
        }
        Ok(found)
    }
}

/// One instance; what names another patient than its study is withheld.
fn instance(found: &Found, series: Option<&Found>, local: &str) -> Option<IndexedInstance> {
    let number = |of: fn(&Found) -> &json::Text| series.and_then(|s| of(s).number()).or_else(|| of(found).number());
    let text = |of: fn(&Found) -> &json::Text| series.and_then(|s| of(s).owned()).or_else(|| of(found).owned());
    Some(IndexedInstance {
        sop_instance: found.sop_instance.uid()?,
        sop_class: found.sop_class.uid()?,
        series: found.series.uid()?,
        series_number: number(|f| &f.series_number),
        series_description: text(|f| &f.series_description),
        modality: text(|f| &f.modality),
        number: found.instance_number.number(),
        frames: found.frames.number(),
        transfer_syntax: found.transfer_syntax.uid(),
        file: None,
        withheld: found.patient_id.get().is_some_and(|id| id != local),
    })
}

impl DocumentRegistry for DicomWebSource {
    async fn objects(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<RegistryObjects, NationalError> {
        if !of.get().status.contains(&Availability::Approved) {
            return Ok(RegistryObjects::default());
        }
        Ok(RegistryObjects::of_entries(self.entries_of(&of.get().patient).await?))
    }

    // A manifest that does not exist yet is found again by the patient under treatment.
    async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let Some(patient) = ids.identity().trc_patient.as_ref() else { return Ok(Vec::new()) };
        Ok(self.entries_of(patient).await?.into_iter().filter(|e| ids.get().name(e)).collect())
    }
}

impl DocumentRepository for DicomWebSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let entry = entry.into_inner();
        let study = entry.study_instance_uid().ok_or(NationalError::UnknownDocument)?;
        let study = self.study(&study).await?.ok_or(NationalError::UnknownDocument)?;
        let patient = study.patient.clone().filter(|p| *p == entry.patient_id).ok_or(NationalError::UnknownDocument)?;
        let (made, bytes) = self.site.document(&study, patient).map_err(NationalError::broken)?;
        // The archive changed since the entry was listed: it is another manifest now.
        if made.unique_id != entry.unique_id {
            return Err(NationalError::UnknownDocument);
        }
        Ok(Document {
            media_type: made.mime_type,
            size: Some(bytes.len() as u64),
            content: Box::pin(futures_util::stream::iter([Ok(bytes)])),
        })
    }
}

impl ImagingDocumentSource for DicomWebSource {
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let request = request.get();
        let mut out = Vec::new();
        for study in &request.studies {
            let indexed = self.study(&study.study).await?;
            let mut located = IndexedStudy::locate(indexed.as_deref(), study, &request.transfer_syntaxes);
            self.patients.identify(&mut located);
            out.push(located);
        }
        Ok(out)
    }

    /// Some instances are opened ahead, so that the archive's latency does not add up; they are sent in order.
    async fn retrieve_instances(&self, study: Authorised<Disclose<LocatedStudy>>) -> Result<Retrieval, NationalError> {
        let expected = study.get().expected();
        let LocatedStudy { study, instances, .. } = study.into_inner();
        let archive = self.archive.clone();
        let stream = futures_util::stream::iter(instances)
            .map(move |instance| {
                let (archive, expected, study) = (archive.clone(), expected.clone(), study.clone());
                async move {
                    let request = instance.request;
                    let opened = match Uid::parse(&request.document) {
                        Ok(sop_instance) => {
                            let transfer_syntax = instance.transfer_syntax;
                            let wanted = Wanted { study, series: instance.series, sop_instance, transfer_syntax };
                            archive.instance(wanted, &expected).await
                        }
                        Err(_) => Err(NationalError::UnknownDocument),
                    };
                    Ok(Instance { request, size: None, content: opened.unwrap_or_else(failing) })
                }
            })
            .buffered(self.parallel);
        Ok(Retrieval { missing: Vec::new(), instances: Box::pin(stream) })
    }
}
