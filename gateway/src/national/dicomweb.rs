//! A DICOMweb archive (QIDO-RS, WADO-RS) as Document Registry, Document Repository and Imaging Document Source.
//!
//! Nothing is indexed: studies of a patient are looked up when they are asked for, manifests are made of what QIDO lists,
//! instances are passed on as WADO-RS sends them, in the form in which they are stored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::{
    Association, Availability, DocumentEntry, ImagingRequest, ObjectIds, Oid, PatientId, RegistryObjects, Uid,
};

use super::incoming::failing;
use super::manifests::{IndexedStudy, ManifestCodes, ManifestSite, entry_uuid};
use super::patients::{Authority, Patients};
use super::way::Way;
use super::{
    Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, Instance, LocatedStudy, NationalError,
    Omission, Omitted, PatientObjects, Registered, Retrieval, Unit,
};
use crate::config::DicomWeb;
use crate::lists::Share;
use crate::policy::{Authorised, Disclose, LookUp};

mod archive;
mod http;
mod issuers;
mod json;
mod listing;
mod promised;
mod search;

use archive::{Archive, Wanted};
use listing::{Listed, Reader, Studies};
use promised::{Form, Promised};

/// One archive.
pub struct DicomWebSource {
    reader: Arc<Reader>,
    locations: Vec<Oid>,
    site: ManifestSite,
    /// What was listed, as it was then.
    promised: Promised,
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
        let register = (patients, Authority(config.patient_id_authority.clone()));
        Ok(Self {
            reader: Arc::new(Reader::new(archive, register, config.parallel, patience)),
            locations: config.location_uids.clone(),
            site,
            promised: Promised::default(),
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

    /// The manifest of a study as it is listed now, and those that it replaces.
    fn forms(&self, listed: Arc<Listed>, patient: &PatientId) -> Result<RegistryObjects, NationalError> {
        let (entry, _) = self.made(&listed, patient)?;
        let former = self.promised.keep(&entry.unique_id, &listed);
        let mut replacing = entry.entry_uuid.clone();
        let mut out = RegistryObjects::of_entries(vec![entry]);
        for form in former.iter().rev() {
            let Ok((mut old, _)) = self.made(&form.listed, patient) else { continue };
            old.availability = Availability::Deprecated;
            out.associations.push(Association {
                uuid: entry_uuid(&format!("{replacing} {}", old.entry_uuid)),
                kind: Association::RPLC.to_owned(),
                source: replacing,
                target: old.entry_uuid.clone(),
                submission_set_status: None,
            });
            replacing = old.entry_uuid.clone();
            out.entries.push(old);
        }
        Ok(out)
    }

    /// The manifest of a study of this patient.
    fn made(&self, listed: &Listed, patient: &PatientId) -> Result<(DocumentEntry, Bytes), NationalError> {
        let study = &listed.study;
        if study.patient.as_ref() != Some(patient) {
            return Err(NationalError::UnknownDocument);
        }
        self.site.document(study, patient.clone()).map_err(NationalError::broken)
    }

    /// The entry with this id of a patient, by what is known of its own study alone.
    async fn entry(&self, id: &str, patient: &PatientId) -> Result<Option<DocumentEntry>, NationalError> {
        let (promised, now) = match self.promised.find(id) {
            Some(form) => {
                // What was promised does not need the archive.
                let now = self.reader.study(&form.listed.study.study).await.ok().flatten();
                (Some(form), now)
            }
            // Listed long ago, or by another gateway of this country: the id says which study it may be.
            None => match self.reader.study_among(patient, |study| self.site.is_of(id, study)).await? {
                Some(facts) => (None, self.reader.read_now(facts).await?),
                None => return Ok(None),
            },
        };
        let forms = now.map(|listed| self.forms(listed, patient)).transpose();
        let forms = match forms {
            Err(NationalError::UnknownDocument) => return Ok(None),
            other => other?.unwrap_or_default(),
        };
        if let Some(entry) = forms.entries.iter().find(|e| e.unique_id == id || e.entry_uuid == id) {
            return Ok(Some(entry.clone()));
        }
        match (promised, forms.entries.first()) {
            (Some(form), _) => Ok(self.made(&form.listed, patient).ok().map(|(entry, _)| entry)),
            // A form that is not kept any more: whoever may see the study hears that it was replaced.
            (None, Some(present)) => Ok(Some(DocumentEntry {
                unique_id: id.to_owned(),
                entry_uuid: entry_uuid(id),
                availability: Availability::Deprecated,
                ..present.clone()
            })),
            _ => Ok(None),
        }
    }

    /// How many instances the archive listed a moment ago that a form does not.
    fn arrived(&self, form: &Listed) -> usize {
        let Some(now) = self.reader.recently(&form.study.study) else { return 0 };
        now.study.instances.iter().filter(|i| form.study.instance(i.sop_instance.as_str()).is_none()).count()
    }
}

impl DocumentRegistry for DicomWebSource {
    /// Manifests of a person's studies, and what of them is missing by name. The former manifests of a study that changed
    /// are deprecated, and replaced by the present one.
    async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        let PatientObjects { patient, status, share, .. } = of.get();
        let Studies { listed, mut omitted, mut failed } = self.reader.studies_of(patient).await;
        if listed.is_empty()
            && omitted.is_empty()
            && let Some(error) = failed.pop()
        {
            return Err(error);
        }
        let mut objects = RegistryObjects::default();
        for one in listed {
            let study = one.study.study.clone();
            match self.forms(one, patient) {
                Ok(forms) => {
                    share.grow(forms.entries.iter().map(Share::of).sum())?;
                    objects.extend(forms);
                }
                Err(NationalError::UnknownDocument) => {}
                Err(reason) => {
                    tracing::warn!(connector = %self.site.name, %reason, "no manifest can be made of a study");
                    omitted.push(Omitted::new(&self.site.name, Unit::Study(study), Omission::Unusable));
                }
            }
        }
        objects.entries.retain(|entry| status.contains(&entry.availability));
        Ok(Registered { objects, failed, omitted })
    }

    // A manifest that does not exist yet is found again by the patient under treatment.
    async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let Some(patient) = &ids.identity().trc_patient else { return Ok(Vec::new()) };
        let (ObjectIds::UniqueIds(wanted) | ObjectIds::EntryUuids(wanted)) = ids.get();
        let mut asked = Vec::with_capacity(wanted.len());
        for id in wanted {
            asked.push(self.entry(id, patient));
        }
        let (mut found, mut failed) = (Vec::new(), None);
        for entry in futures_util::future::join_all(asked).await {
            match entry {
                Ok(entry) => found.extend(entry),
                Err(error) => {
                    tracing::warn!(connector = %self.site.name, reason = %error, "archive did not list a study");
                    failed = Some(error);
                }
            }
        }
        failed.filter(|_| found.is_empty()).map_or(Ok(found), Err)
    }
}

impl DocumentRepository for DicomWebSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let entry = entry.into_inner();
        let form = match self.promised.find(&entry.unique_id) {
            Some(form) => form,
            None => {
                let study = entry.study_instance_uid().ok_or(NationalError::UnknownDocument)?;
                let listed = self.reader.study(&study).await?.ok_or(NationalError::UnknownDocument)?;
                Form { unique_id: self.made(&listed, &entry.patient_id)?.0.unique_id, listed }
            }
        };
        // The study changed since the entry was listed, and how it was is not known any more.
        if form.unique_id != entry.unique_id {
            return Err(NationalError::Replaced);
        }
        let (made, bytes) = self.made(&form.listed, &entry.patient_id)?;
        Ok(Document {
            media_type: made.mime_type,
            size: Some(bytes.len() as u64),
            newer: self.arrived(&form.listed),
            content: Box::pin(futures_util::stream::iter([Ok(bytes)])),
        })
    }
}

impl ImagingDocumentSource for DicomWebSource {
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let request = request.get();
        let located = request.studies.iter().map(|study| async {
            let indexed = match self.reader.study(&study.study).await {
                Ok(indexed) => indexed,
                // Nothing is known of whose it is; the other studies are located.
                Err(error) if request.studies.len() > 1 => {
                    let connector = &self.site.name;
                    tracing::warn!(%connector, reason = %error, "archive did not list a study");
                    return Ok(LocatedStudy::unreached(study, &error, &request.transfer_syntaxes));
                }
                Err(error) => return Err(error),
            };
            let indexed = indexed.as_deref().map(|listed| &listed.study);
            let mut located = IndexedStudy::locate(indexed, study, &request.transfer_syntaxes);
            located.manifests.extend(indexed.and_then(|study| self.site.description(study)).cloned());
            Ok(located)
        });
        let located = futures_util::future::join_all(located).await.into_iter();
        let mut located = located.collect::<Result<Vec<LocatedStudy>, NationalError>>()?;
        let Reader { patients, authority, .. } = &*self.reader;
        located.iter_mut().for_each(|study| patients.identify(study, authority));
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
            .buffered(self.reader.parallel);
        Ok(Retrieval::of(Box::pin(stream)))
    }
}
