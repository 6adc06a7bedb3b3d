//! A folder as Document Registry, Document Repository and Imaging Document Source: for pilots, demo and tests.
//!
//! `dicom/` holds Part 10 files in any layout, `reports/` a TOML beside each document, `manifest.toml` the codes of the
//! manifests that are made on the fly. The index is built at start; pixel data is not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::{DocumentEntry, DocumentIds, DocumentRequest, ImagingRequest, KosDialect, Oid, StoredQuery, Uid};
use tokio::io::AsyncReadExt;

use super::patients::Patients;
use super::{
    ByteStream, Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, Instance, InstanceStream,
    LocatedInstance, LocatedStudy, Missing, NationalError,
};
use crate::config::Embedded;
use crate::policy::{Authorised, Disclose, LookUp};

mod reports;
mod scan;

pub(crate) use scan::{IndexedInstance, IndexedStudy};

/// Bytes read at once.
const READ: usize = 256 << 10;

/// The folder's index.
pub struct EmbeddedSource {
    repository: Oid,
    locations: Vec<Oid>,
    studies: BTreeMap<Uid, IndexedStudy>,
    documents: Vec<Held>,
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
    pub fn scan(config: &Embedded, language: &str, patients: Arc<Patients>) -> Result<Self, String> {
        let zone =
            jiff::tz::TimeZone::get(&config.time_zone).map_err(|e| format!("{}: time_zone: {e}", config.name))?;
        let studies = scan::studies(&config.folder.join("dicom"), &patients)?;
        let mut documents = reports::load(&config.folder.join("reports"), config, &zone)?;
        let codes = reports::ManifestCodes::load(&config.folder.join("manifest.toml"))?;
        for study in studies.values() {
            // A study of nobody gets no manifest.
            let Some(patient) = study.patient.clone() else { continue };
            let manifest = scan::manifest(study, config)?;
            let bytes = manifest.write_kos(KosDialect::Mado).map_err(|e| format!("manifest: {e}"))?;
            let entry = reports::manifest_entry((study, patient), &manifest, &bytes, &codes, config, language, &zone);
            documents.push(Held { entry, bytes: bytes.into() });
        }
        tracing::info!(connector = %config.name, studies = studies.len(), documents = documents.len(), "folder scanned");
        Ok(Self {
            repository: config.repository_unique_id.clone(),
            locations: config.location_uids.clone(),
            studies,
            documents,
        })
    }

    /// RepositoryUniqueId of its documents.
    pub fn repository(&self) -> &Oid {
        &self.repository
    }

    /// Retrieve Location UIDs it serves.
    pub fn locations(&self) -> &[Oid] {
        &self.locations
    }

    fn locate_one(&self, study: &ncp_ihe::StudyRequest, syntaxes: &[Uid]) -> LocatedStudy {
        let indexed = self.studies.get(&study.study);
        let mut out = LocatedStudy {
            study: study.study.clone(),
            patient: indexed.and_then(|s| s.patient.clone()),
            instances: Vec::new(),
            missing: Vec::new(),
            modalities: indexed.map(|s| s.modalities()).unwrap_or_default(),
            study_date: indexed.and_then(|s| s.study_date.clone()),
        };
        for series in &study.series {
            for request in &series.instances {
                let found = indexed.and_then(|s| s.instance(&request.document)).filter(|i| i.series == series.series);
                match found {
                    None => out.missing.push((request.clone(), Missing::Unknown)),
                    Some(instance) if instance.withheld => out.missing.push((request.clone(), Missing::Mismatch)),
                    Some(instance) if !syntaxes.contains(&instance.transfer_syntax) => {
                        out.missing.push((request.clone(), Missing::TransferSyntax));
                    }
                    Some(instance) => out.instances.push(located(request, instance)),
                }
            }
        }
        out
    }
}

fn located(request: &DocumentRequest, instance: &IndexedInstance) -> LocatedInstance {
    LocatedInstance {
        request: request.clone(),
        series: instance.series.clone(),
        sop_class: Some(instance.sop_class.clone()),
        transfer_syntax: Some(instance.transfer_syntax.clone()),
        size: Some(instance.size),
    }
}

impl DocumentRegistry for EmbeddedSource {
    async fn query(&self, query: &Authorised<LookUp<StoredQuery>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let wanted = |entry: &DocumentEntry| match query.get() {
            StoredQuery::FindDocuments(find) => find.matches(entry),
            StoredQuery::GetDocuments(get) => match &get.ids {
                DocumentIds::UniqueIds(ids) => ids.contains(&entry.unique_id),
                DocumentIds::EntryUuids(ids) => ids.contains(&entry.entry_uuid),
            },
            _ => false,
        };
        Ok(self.documents.iter().map(|d| &d.entry).filter(|e| wanted(e)).cloned().collect())
    }
}

impl DocumentRepository for EmbeddedSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let held = self.documents.iter().find(|d| d.entry.unique_id == entry.get().unique_id);
        let held = held.ok_or(NationalError::UnknownDocument)?;
        let bytes = held.bytes.clone();
        Ok(Document {
            media_type: held.entry.mime_type.clone(),
            size: Some(bytes.len() as u64),
            content: Box::pin(futures_util::stream::iter([Ok(bytes)])),
        })
    }
}

impl ImagingDocumentSource for EmbeddedSource {
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let request = request.get();
        Ok(request.studies.iter().map(|study| self.locate_one(study, &request.transfer_syntaxes)).collect())
    }

    async fn retrieve_instances(
        &self,
        study: Authorised<Disclose<LocatedStudy>>,
    ) -> Result<InstanceStream, NationalError> {
        let study = study.into_inner();
        let indexed = self.studies.get(&study.study).ok_or(NationalError::UnknownDocument)?;
        let mut files: Vec<(DocumentRequest, PathBuf, u64)> = Vec::new();
        for instance in study.instances {
            let found = indexed.instance(&instance.request.document).ok_or(NationalError::UnknownDocument)?;
            files.push((instance.request, found.path.clone(), found.size));
        }
        let stream = futures_util::stream::iter(files)
            .map(|(request, path, size)| Ok(Instance { request, size: Some(size), content: file_content(path, size) }));
        Ok(Box::pin(stream))
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
            left = left.checked_sub(read as u64).ok_or(NationalError::Mismatch("file is longer than it was"))?;
            yield buffer.freeze();
        }
    })
}

/// The operator reads the kind of the failure; file names may hold identifiers.
fn unreadable(_: &Path, error: &std::io::Error) -> NationalError {
    NationalError::Down { reason: format!("instance file cannot be read: {}", error.kind()), retry: false }
}
