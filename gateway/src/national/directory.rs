//! The national connectors of this country and how a request finds its connector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt;
use ncp_ihe::{
    DocumentEntry, DocumentIds, ImagingRequest, Oid, PatientQuery, PatientRecord, RegistryObjects, SeriesRequest,
    StudyRequest,
};

use super::dicomweb::DicomWebSource;
use super::embedded::EmbeddedSource;
use super::patients::Patients;
use super::{
    Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, InstanceStream, LocatedStudy, Missing,
    NationalError, PatientDemographicsSupplier, PatientObjects,
};
use crate::config;
use crate::policy::{Authorised, Disclose, LookUp};

/// All national systems behind the four actors.
pub struct National {
    patients: Arc<Patients>,
    connectors: Vec<Connector>,
}

/// One system. A new kind is a new variant.
enum Connector {
    Embedded(EmbeddedSource),
    DicomWeb(Box<DicomWebSource>),
}

impl Connector {
    fn repository(&self) -> &Oid {
        match self {
            Self::Embedded(source) => source.repository(),
            Self::DicomWeb(source) => source.repository(),
        }
    }

    fn locations(&self) -> &[Oid] {
        match self {
            Self::Embedded(source) => source.locations(),
            Self::DicomWeb(source) => source.locations(),
        }
    }

    async fn objects(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<RegistryObjects, NationalError> {
        match self {
            Self::Embedded(source) => source.objects(of).await,
            Self::DicomWeb(source) => source.objects(of).await,
        }
    }

    async fn entries(&self, ids: &Authorised<LookUp<DocumentIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        match self {
            Self::Embedded(source) => source.entries(ids).await,
            Self::DicomWeb(source) => source.entries(ids).await,
        }
    }

    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        match self {
            Self::Embedded(source) => source.retrieve(entry).await,
            Self::DicomWeb(source) => source.retrieve(entry).await,
        }
    }

    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        match self {
            Self::Embedded(source) => source.locate(request).await,
            Self::DicomWeb(source) => source.locate(request).await,
        }
    }

    async fn retrieve_instances(
        &self,
        study: Authorised<Disclose<LocatedStudy>>,
    ) -> Result<InstanceStream, NationalError> {
        match self {
            Self::Embedded(source) => source.retrieve_instances(study).await,
            Self::DicomWeb(source) => source.retrieve_instances(study).await,
        }
    }
}

impl National {
    /// Builds the connectors; folders are scanned now.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn start(config: &config::National) -> Result<Self, String> {
        let patients = Arc::new(Patients::load(&config.patients_file)?);
        let mut connectors = Vec::new();
        for connector in &config.connector {
            let language = &config.language;
            connectors.push(match connector {
                config::Connector::Embedded(folder) => {
                    Connector::Embedded(EmbeddedSource::scan(folder, language, patients.clone())?)
                }
                config::Connector::DicomWeb(archive) => {
                    Connector::DicomWeb(Box::new(DicomWebSource::new(archive, language, patients.clone())?))
                }
            });
        }
        Ok(Self { patients, connectors })
    }

    /// Whether some connector answers for that RepositoryUniqueId.
    pub fn has_repository(&self, repository: &Oid) -> bool {
        self.connectors.iter().any(|c| c.repository() == repository)
    }

    fn at_location(&self, location: &Oid) -> Option<&Connector> {
        self.connectors.iter().find(|c| c.locations().contains(location))
    }
}

impl PatientDemographicsSupplier for National {
    async fn find(&self, query: &Authorised<LookUp<PatientQuery>>) -> Result<Vec<PatientRecord>, NationalError> {
        self.patients.find(query.get())
    }
}

impl DocumentRegistry for National {
    async fn objects(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<RegistryObjects, NationalError> {
        let mut out = RegistryObjects::default();
        for connector in &self.connectors {
            out.extend(connector.objects(of).await?);
        }
        Ok(out)
    }

    async fn entries(&self, ids: &Authorised<LookUp<DocumentIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let mut out = Vec::new();
        for connector in &self.connectors {
            out.extend(connector.entries(ids).await?);
        }
        Ok(out)
    }
}

impl DocumentRepository for National {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let connector = self.connectors.iter().find(|c| *c.repository() == entry.get().repository_unique_id);
        connector.ok_or(NationalError::UnknownRepository)?.retrieve(entry).await
    }
}

impl ImagingDocumentSource for National {
    /// Splits the request by Retrieve Location UID, asks each source, and puts the answers together by study.
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let mut found: Vec<LocatedStudy> = Vec::new();
        let locations: BTreeSet<&Oid> = instances(request.get()).map(|i| &i.repository).collect();
        for location in locations {
            let part = request.derive(at_location(request.get(), location));
            let located = match self.at_location(location) {
                Some(connector) => connector.locate(&part).await?,
                None => unknown_source(part.get()),
            };
            for study in located {
                match found.iter_mut().find(|s| s.study == study.study && s.patient == study.patient) {
                    Some(known) => {
                        known.instances.extend(study.instances);
                        known.missing.extend(study.missing);
                    }
                    None => found.push(study),
                }
            }
        }
        Ok(found)
    }

    async fn retrieve_instances(
        &self,
        study: Authorised<Disclose<LocatedStudy>>,
    ) -> Result<InstanceStream, NationalError> {
        let mut streams = Vec::new();
        for (location, part) in study.split_by(|instance| instance.request.repository.clone()) {
            let connector = self.at_location(&location).ok_or(NationalError::UnknownRepository)?;
            streams.push(connector.retrieve_instances(part).await?);
        }
        Ok(Box::pin(futures_util::stream::iter(streams).flatten()))
    }
}

fn instances(request: &ImagingRequest) -> impl Iterator<Item = &ncp_ihe::DocumentRequest> {
    request.studies.iter().flat_map(|s| &s.series).flat_map(|s| &s.instances)
}

fn at_location(request: &ImagingRequest, location: &Oid) -> ImagingRequest {
    let mut studies = Vec::new();
    for study in &request.studies {
        let mut series = Vec::new();
        for one in &study.series {
            let instances: Vec<_> = one.instances.iter().filter(|i| i.repository == *location).cloned().collect();
            if !instances.is_empty() {
                series.push(SeriesRequest { series: one.series.clone(), instances });
            }
        }
        if !series.is_empty() {
            studies.push(StudyRequest { study: study.study.clone(), series });
        }
    }
    ImagingRequest { studies, transfer_syntaxes: request.transfer_syntaxes.clone() }
}

/// Studies of nobody: release withholds them, each instance answers that its source is not known.
fn unknown_source(request: &ImagingRequest) -> Vec<LocatedStudy> {
    let mut by_study: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for study in &request.studies {
        let requests = study.series.iter().flat_map(|s| &s.instances).map(|i| (i.clone(), Missing::UnknownSource));
        by_study.entry(study.study.clone()).or_default().extend(requests);
    }
    by_study
        .into_iter()
        .map(|(study, missing)| LocatedStudy {
            study,
            patient: None,
            instances: Vec::new(),
            missing,
            modalities: Vec::new(),
            study_date: None,
        })
        .collect()
}
