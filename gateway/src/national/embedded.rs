//! A folder as Document Registry, Document Repository and Imaging Document Source: for pilots, demo and tests.
//!
//! `dicom/` holds Part 10 files in any layout and with any names, `reports/` a TOML beside each document, `manifest.toml`
//! the codes of the manifests that are made on the fly, `registry.toml` submission sets, folders and associations where
//! there are any. The index is built at start and anew at SIGHUP; pixel data is not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::{DocumentEntry, DocumentRequest, ImagingRequest, ObjectIds, Oid, PatientId, RegistryObjects, Uid};
use tokio::io::AsyncReadExt;

use super::manifests::{IndexedStudy, ManifestCodes, ManifestSite};
use super::omitted::digest;
use super::patients::{Authority, Patients};
use super::{
    ByteStream, Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, Instance, LocatedStudy,
    NationalError, Omission, Omitted, PatientObjects, Registered, Retrieval, Unit,
};
use crate::config::Embedded;
use crate::instance;
use crate::lists::Share;
use crate::policy::{Authorised, Disclose, LookUp};
use crate::telemetry::Metrics;

mod registry;
mod reports;
mod scan;
#[cfg(test)]
mod tests;

/// Bytes read at once.
const READ: usize = 256 << 10;

/// One folder.
pub struct EmbeddedSource {
    config: Embedded,
    language: String,
    patients: Arc<Patients>,
    metrics: Metrics,
    index: ArcSwap<Index>,
    /// Entries of one answer.
    results: usize,
}

/// What is in the folder.
struct Index {
    studies: BTreeMap<Uid, IndexedStudy>,
    documents: Vec<Held>,
    /// Submission sets, folders, associations.
    groups: RegistryObjects,
}

/// A document and where its bytes are.
struct Held {
    entry: DocumentEntry,
    bytes: Bytes,
}

impl EmbeddedSource {
    /// Scans the folder.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn scan(config: &Embedded, language: &str, patients: Arc<Patients>, metrics: &Metrics) -> Result<Self, String> {
        let index = Index::scan(config, language, &patients, metrics)?;
        Ok(Self {
            config: config.clone(),
            language: language.to_owned(),
            patients,
            metrics: metrics.clone(),
            index: ArcSwap::from_pointee(index),
            results: usize::MAX,
        })
    }

    /// The same, with at most so many entries in an answer.
    #[must_use]
    pub fn at_most(self, results: usize) -> Self {
        Self { results, ..self }
    }

    /// Scans the folder anew. What cannot be read leaves the former index in place; what was opened goes on.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn rescan(&self) -> Result<(), String> {
        let index = Index::scan(&self.config, &self.language, &self.patients, &self.metrics)?;
        self.index.store(Arc::new(index));
        Ok(())
    }

    /// RepositoryUniqueId of its documents.
    pub fn repository(&self) -> &Oid {
        &self.config.repository_unique_id
    }

    /// Retrieve Location UIDs it serves.
    pub fn locations(&self) -> &[Oid] {
        &self.config.location_uids
    }
}

impl Index {
    fn scan(config: &Embedded, language: &str, patients: &Patients, metrics: &Metrics) -> Result<Self, String> {
        let authority = Authority(config.patient_id_authority.clone());
        let scan = scan::Scan { connector: &config.name, patients, authority: &authority, metrics };
        let studies = scan.studies(&config.folder.join("dicom"))?;
        let mut documents = reports::load(&config.folder.join("reports"), config)?;
        let site = ManifestSite {
            name: config.name.clone(),
            repository: config.repository_unique_id.clone(),
            location: config.location_uids.first().ok_or("no location_uids")?.clone(),
            uid_root: config.uid_root.clone(),
            zone: jiff::tz::TimeZone::get(&config.time_zone).map_err(|e| format!("{}: time_zone: {e}", config.name))?,
            language: language.to_owned(),
            codes: ManifestCodes::load(&config.folder.join("manifest.toml"))?,
        };
        for study in studies.values() {
            // A study of nobody gets no manifest, nor does one of which nothing can be had.
            let Some(patient) = study.patient.clone().filter(|_| study.is_available()) else { continue };
            match site.document(study, patient) {
                Ok((entry, bytes)) => documents.push(Held { entry, bytes }),
                Err(reason) => {
                    metrics.left_out(&config.name, Omission::Unusable.class(), 1);
                    tracing::warn!(connector = %config.name, unit = %digest(study.study.as_str()), reason, "study left out");
                }
            }
        }
        tracing::info!(connector = %config.name, studies = studies.len(), documents = documents.len(), "folder scanned");
        Ok(Self { studies, documents, groups: registry::load(&config.folder.join("registry.toml"))? })
    }
}

impl DocumentRegistry for EmbeddedSource {
    /// The patient's objects, and her studies that are not whole.
    async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        let (of, index) = (of.get(), self.index.load());
        let wanted = |entry: &&DocumentEntry| entry.patient_id == of.patient && of.status.contains(&entry.availability);
        let of_patient = |id: &PatientId| *id == of.patient;
        // Counted before anything is copied.
        let entries = || index.documents.iter().map(|d| &d.entry).filter(wanted);
        if entries().nth(self.results).is_some() {
            return Err(NationalError::TooMany);
        }
        of.share.grown(entries().map(Share::of).sum()).await?;
        let objects = RegistryObjects {
            entries: entries().cloned().collect(),
            submission_sets: index
                .groups
                .submission_sets
                .iter()
                .filter(|s| of_patient(&s.patient_id))
                .cloned()
                .collect(),
            folders: index.groups.folders.iter().filter(|f| of_patient(&f.patient_id)).cloned().collect(),
            // Those of other patients have no end here, and release leaves them out.
            associations: index.groups.associations.clone(),
        };
        let theirs = index.studies.values().filter(|study| study.patient.as_ref() == Some(&of.patient));
        let omitted = theirs.flat_map(|study| {
            let reasons = study.fewer().into_iter().chain(study.undated());
            reasons.map(|reason| Omitted::new(&self.config.name, Unit::Study(study.study.clone()), reason))
        });
        Ok(Registered { objects, omitted: omitted.collect(), ..Registered::default() })
    }

    async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        Ok(self.index.load().documents.iter().map(|d| &d.entry).filter(|e| ids.get().name(e)).cloned().collect())
    }
}

impl DocumentRepository for EmbeddedSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let index = self.index.load();
        let held = index.documents.iter().find(|d| d.entry.unique_id == entry.get().unique_id);
        let held = held.ok_or(NationalError::UnknownDocument)?;
        let bytes = held.bytes.clone();
        Ok(Document {
            media_type: held.entry.mime_type.clone(),
            size: Some(bytes.len() as u64),
            newer: 0,
            content: Box::pin(futures_util::stream::iter([Ok(bytes)])),
        })
    }
}

impl ImagingDocumentSource for EmbeddedSource {
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let (request, index) = (request.get(), self.index.load());
        let locate = |study: &ncp_ihe::StudyRequest| {
            IndexedStudy::locate(index.studies.get(&study.study), study, &request.transfer_syntaxes)
        };
        Ok(request.studies.iter().map(locate).collect())
    }

    async fn retrieve_instances(&self, study: Authorised<Disclose<LocatedStudy>>) -> Result<Retrieval, NationalError> {
        let (study, index) = (study.into_inner(), self.index.load());
        let indexed = index.studies.get(&study.study).ok_or(NationalError::UnknownDocument)?;
        let mut files: Vec<(DocumentRequest, PathBuf, u64)> = Vec::new();
        for instance in study.instances {
            let found = indexed.instance(&instance.request.document).ok_or(NationalError::UnknownDocument)?;
            let (path, size) = found.file.clone().ok_or(NationalError::UnknownDocument)?;
            files.push((instance.request, path, size));
        }
        let stream = futures_util::stream::iter(files)
            .map(|(request, path, size)| Ok(Instance { request, size: Some(size), content: file_content(path, size) }));
        Ok(Retrieval::of(Box::pin(stream)))
    }
}

/// The file's bytes; a file that is shorter or longer than the index says ends the stream with an error.
fn file_content(path: PathBuf, size: u64) -> ByteStream {
    Box::pin(async_stream::try_stream! {
        let mut file = tokio::fs::File::open(&path).await.map_err(|e| unreadable(&path, &e))?;
        file.set_max_buf_size(READ);
        let mut left = size;
        while left > 0 {
            let mut buffer = bytes::BytesMut::with_capacity(usize::try_from(left).unwrap_or(READ).min(READ));
            let read = file.read_buf(&mut buffer).await.map_err(|e| unreadable(&path, &e))?;
            if read == 0 {
                Err(NationalError::Mismatch("file is shorter than it was"))?;
            }
            if left == size {
                instance::disarm(&mut buffer);
            }
            left = left.checked_sub(read as u64).ok_or(NationalError::Mismatch("file is longer than it was"))?;
            yield buffer.freeze();
        }
    })
}

/// The operator reads the kind of the failure; file names may hold identifiers.
fn unreadable(_: &Path, error: &std::io::Error) -> NationalError {
    NationalError::Down { reason: format!("instance file cannot be read: {}", error.kind()), retry: false }
}
