//! A DICOMweb archive (QIDO-RS, WADO-RS) as Document Registry, Document Repository and Imaging Document Source.
//!
//! Nothing is indexed: studies of a patient are looked up when they are asked for, manifests are made of what QIDO lists,
//! instances are passed on as WADO-RS sends them, in the form in which they are stored.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ncp_ihe::{Availability, DocumentEntry, ImagingRequest, ObjectIds, Oid, RegistryObjects, Uid};

use super::incoming::failing;
use super::manifests::{IndexedStudy, ManifestCodes, ManifestSite};
use super::patients::Patients;
use super::way::Way;
use super::{
    Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, Instance, LocatedStudy, NationalError,
    Omission, Omitted, PatientObjects, Registered, Retrieval, Unit,
};
use crate::config::DicomWeb;
use crate::policy::{Authorised, Disclose, LookUp};

mod archive;
mod http;
mod json;
mod listing;
mod search;

use archive::{Archive, Wanted};
use listing::{Listed, Reader, Studies};

/// One archive.
pub struct DicomWebSource {
    reader: Arc<Reader>,
    locations: Vec<Oid>,
    site: ManifestSite,
    patients: Arc<Patients>,
    /// Requests at once for one study.
    parallel: usize,
}

impl DicomWebSource {
    /// Prepares the client; the archive is asked when a request comes. What is not there within the patience is said.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub(super) fn new(
        config: &DicomWeb,
        language: &str,
        patients: Arc<Patients>,
        (way, patience): (Way, Duration),
    ) -> Result<Self, String> {
        let site = ManifestSite {
            name: config.name.clone(),
            repository: config.repository_unique_id.clone(),
            location: config.location_uids.first().ok_or("no location_uids")?.clone(),
            uid_root: config.uid_root.clone(),
            zone: jiff::tz::TimeZone::get(&config.time_zone).map_err(|e| format!("{}: {e}", config.name))?,
            language: language.to_owned(),
            codes: ManifestCodes::load(&config.manifest_codes)?,
        };
        let archive = Archive::new(config, way)?;
        Ok(Self {
            reader: Arc::new(Reader::new(archive, patients.clone(), config.parallel, patience)),
            locations: config.location_uids.clone(),
            site,
            patients,
            parallel: config.parallel,
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

    /// Manifests of a person's studies, and what of them is missing by name.
    ///
    /// # Errors
    /// When nothing can be had.
    pub async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        let PatientObjects { patient, status, .. } = of.get();
        if !status.contains(&Availability::Approved) {
            return Ok(Registered::default());
        }
        let Studies { listed, mut omitted, mut failed } = self.reader.studies_of(patient).await;
        if listed.is_empty()
            && omitted.is_empty()
            && let Some(error) = failed.pop()
        {
            return Err(error);
        }
        let mut entries = Vec::with_capacity(listed.len());
        for one in listed.iter().filter(|l| l.study.patient.as_ref() == Some(patient)) {
            match self.site.document(&one.study, patient.clone()) {
                Ok((entry, _)) => entries.push(entry),
                Err(reason) => {
                    tracing::warn!(reason, "no manifest can be made of a study");
                    let unit = Unit::Study(one.study.study.clone());
                    omitted.push(Omitted::new(&self.site.name, unit, Omission::Unusable));
                }
            }
        }
        Ok(Registered { objects: RegistryObjects::of_entries(entries), failed, omitted })
    }

    /// The study, when it is one of this patient.
    async fn study(&self, study: &Uid) -> Result<Option<Arc<Listed>>, NationalError> {
        self.reader.study(study).await
    }
}

impl DocumentRegistry for DicomWebSource {
    async fn objects(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<RegistryObjects, NationalError> {
        Ok(self.registered(of).await?.objects)
    }

    // A manifest that does not exist yet is found again by the patient under treatment.
    async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let Some(patient) = ids.identity().trc_patient.clone() else { return Ok(Vec::new()) };
        let of = PatientObjects { patient, status: vec![Availability::Approved], groups: false };
        let registered = self.registered(&ids.derive(of)).await?;
        Ok(registered.objects.entries.into_iter().filter(|e| ids.get().name(e)).collect())
    }
}

impl DocumentRepository for DicomWebSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let entry = entry.into_inner();
        let study = entry.study_instance_uid().ok_or(NationalError::UnknownDocument)?;
        let study = self.study(&study).await?.ok_or(NationalError::UnknownDocument)?;
        let patient = study.study.patient.clone().filter(|p| *p == entry.patient_id);
        let patient = patient.ok_or(NationalError::UnknownDocument)?;
        let (made, bytes) = self.site.document(&study.study, patient).map_err(NationalError::broken)?;
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
        let located = request.studies.iter().map(|study| async {
            let indexed = match self.study(&study.study).await {
                Ok(indexed) => indexed,
                // Nothing is known of whose it is; the other studies are located.
                Err(error) if request.studies.len() > 1 => {
                    let connector = &self.site.name;
                    tracing::warn!(%connector, reason = %error, "archive did not list a study");
                    return Ok(LocatedStudy::unreached(study, &error, &request.transfer_syntaxes));
                }
                Err(error) => return Err(error),
            };
            let study = IndexedStudy::locate(indexed.as_deref().map(|l| &l.study), study, &request.transfer_syntaxes);
            Ok(study)
        });
        let located = futures_util::future::join_all(located).await.into_iter();
        let mut located = located.collect::<Result<Vec<LocatedStudy>, NationalError>>()?;
        located.iter_mut().for_each(|study| self.patients.identify(study));
        Ok(located)
    }

    /// Some instances are opened ahead, so that the archive's latency does not add up; they are sent in order.
    async fn retrieve_instances(&self, study: Authorised<Disclose<LocatedStudy>>) -> Result<Retrieval, NationalError> {
        let expected = study.get().expected();
        let LocatedStudy { study, instances, .. } = study.into_inner();
        let archive = self.reader.archive.clone();
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
        Ok(Retrieval::of(Box::pin(stream)))
    }
}
