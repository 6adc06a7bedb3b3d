//! A national service in about a hundred lines: one patient, her report, the DICOM files of a folder.
//!
//! It implements the five services of `proto/ncp/national/v1/national.proto`. A country replaces what each
//! method looks up by its own systems; who may see what is the gateway's business, not the service's.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use ncp_ihe::{DicomHeader, Scanned};
use ncp_proto::national as pb;
use pb::query_documents_request::Query;
use tokio::io::AsyncReadExt;
use tonic::{Request, Response, Status};

/// Bytes of one piece.
const PIECE: usize = 256 << 10;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<Answers<T>>, Status>;

/// What the service holds.
pub struct Holdings {
    /// The one person.
    pub patient: pb::Patient,
    /// Ids under which DICOM objects name her (0010,0020).
    pub local_ids: Vec<String>,
    /// Documents with their bytes.
    pub documents: Vec<(pb::DocumentEntry, Vec<u8>)>,
    /// DICOM files with what identifies them.
    pub files: Vec<(DicomHeader, PathBuf)>,
    /// What she has decided.
    pub consent: pb::GetConsentResponse,
}

/// Finds the DICOM files of a folder.
pub fn scan(folder: &std::path::Path) -> Vec<(DicomHeader, PathBuf)> {
    let files = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().filter_map(Result::ok);
    let read = |path: PathBuf| match DicomHeader::scan(&std::fs::read(&path).ok()?, true) {
        Scanned::Header(header) => Some((*header, path)),
        _ => None,
    };
    files.filter_map(|entry| read(entry.into_path())).collect()
}

/// All five services; it is cheap to clone.
#[derive(Clone)]
pub struct Service(pub Arc<Holdings>);

fn answers<T: Send + 'static>(all: Vec<T>) -> Answer<T> {
    Ok(Response::new(Box::pin(stream::iter(all.into_iter().map(Ok)))))
}

#[tonic::async_trait]
impl pb::patient_demographics_supplier_server::PatientDemographicsSupplier for Service {
    type FindPatientsStream = Answers<pb::Patient>;

    async fn find_patients(&self, request: Request<pb::FindPatientsRequest>) -> Answer<pb::Patient> {
        let asked = request.into_inner();
        let patient = &self.0.patient;
        let carries = |id: &pb::PatientId| patient.id.as_ref() == Some(id) || patient.other_ids.contains(id);
        let born = asked.birth_date.is_empty() || asked.birth_date == patient.birth_date;
        answers(if born && asked.ids.iter().any(carries) { vec![patient.clone()] } else { Vec::new() })
    }
}

#[tonic::async_trait]
impl pb::document_registry_server::DocumentRegistry for Service {
    type QueryDocumentsStream = Answers<pb::DocumentEntry>;

    async fn query_documents(&self, request: Request<pb::QueryDocumentsRequest>) -> Answer<pb::DocumentEntry> {
        let query = request.into_inner().query.ok_or_else(|| Status::invalid_argument("query"))?;
        let wanted = |e: &pb::DocumentEntry| match &query {
            Query::OfPatient(of) => of.patient == e.patient_id && of.availability.contains(&e.availability),
            Query::UniqueIds(ids) => ids.unique_id.contains(&e.unique_id),
            Query::EntryUuids(ids) => ids.entry_uuid.contains(&e.entry_uuid),
        };
        answers(self.0.documents.iter().map(|(entry, _)| entry).filter(|e| wanted(e)).cloned().collect())
    }
}

#[tonic::async_trait]
impl pb::document_repository_server::DocumentRepository for Service {
    type RetrieveDocumentStream = Answers<pb::DocumentChunk>;

    async fn retrieve_document(&self, request: Request<pb::RetrieveDocumentRequest>) -> Answer<pb::DocumentChunk> {
        let asked = request.into_inner();
        let found = self.0.documents.iter().find(|(e, _)| e.unique_id == asked.unique_id);
        let (entry, bytes) = found.ok_or_else(|| Status::not_found("document"))?;
        let header = pb::DocumentHeader { media_type: entry.mime_type.clone(), size: bytes.len() as u64 };
        let mut all = vec![pb::DocumentChunk { part: Some(pb::document_chunk::Part::Header(header)) }];
        let data = bytes.chunks(PIECE).map(|piece| pb::document_chunk::Part::Data(piece.to_vec()));
        all.extend(data.map(|part| pb::DocumentChunk { part: Some(part) }));
        answers(all)
    }
}

#[tonic::async_trait]
impl pb::imaging_document_source_server::ImagingDocumentSource for Service {
    type LocateStudiesStream = Answers<pb::LocatedStudy>;
    type RetrieveInstancesStream = Answers<pb::InstanceChunk>;

    async fn locate_studies(&self, request: Request<pb::LocateStudiesRequest>) -> Answer<pb::LocatedStudy> {
        let located = |asked: pb::StudyRef| pb::LocatedStudy {
            instances: self
                .0
                .files
                .iter()
                .filter(|(h, _)| h.study == asked.study)
                .map(|(h, path)| located(h, path))
                .collect(),
            study: asked.study,
            patient: self.0.patient.id.clone(),
            issued_patient_ids: self.0.local_ids.iter().map(|id| issued(id)).collect(),
            birth_date: self.0.patient.birth_date.clone(),
            ..pb::LocatedStudy::default()
        };
        answers(request.into_inner().studies.into_iter().map(located).collect())
    }

    async fn retrieve_instances(&self, request: Request<pb::RetrieveInstancesRequest>) -> Answer<pb::InstanceChunk> {
        use pb::instance_chunk::Part;
        let study = request.into_inner().study.ok_or_else(|| Status::invalid_argument("study"))?;
        let holdings = self.0.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            for sop in study.series.into_iter().flat_map(|s| s.instances).map(|i| i.sop_instance) {
                let path = holdings.files.iter().find(|(h, _)| h.sop_instance == sop).map(|(_, path)| path.clone());
                let file = match path { Some(path) => tokio::fs::File::open(path).await.ok(), None => None };
                let Some(mut file) = file else {
                    yield pb::InstanceChunk { part: Some(Part::Failure(pb::InstanceFailure { sop_instance: sop })) };
                    continue;
                };
                let size = file.metadata().await?.len();
                yield pb::InstanceChunk { part: Some(Part::Header(pb::InstanceHeader { sop_instance: sop, size })) };
                let mut piece = vec![0; PIECE];
                loop {
                    let read = file.read(&mut piece).await?;
                    if read == 0 {
                        break;
                    }
                    yield pb::InstanceChunk { part: Some(Part::Data(piece[..read].to_vec())) };
                }
            }
        })))
    }
}

#[tonic::async_trait]
impl pb::consent_source_server::ConsentSource for Service {
    async fn get_consent(
        &self,
        request: Request<pb::GetConsentRequest>,
    ) -> Result<Response<pb::GetConsentResponse>, Status> {
        let asked = request.into_inner().patient;
        if asked.is_none() || asked != self.0.patient.id {
            return Err(Status::not_found("patient"));
        }
        Ok(Response::new(self.0.consent.clone()))
    }
}

/// A local id with all names of the authority that issues it.
fn issued(id: &str) -> pb::IssuedPatientId {
    pb::IssuedPatientId { id: id.to_owned(), issuers: vec!["HOSPITAL-A".into(), "2.999.47.22".into()] }
}

fn located(header: &DicomHeader, path: &std::path::Path) -> pb::LocatedInstance {
    pb::LocatedInstance {
        sop_instance: header.sop_instance.clone(),
        series: header.series.clone(),
        sop_class: String::new(),
        transfer_syntax: header.transfer_syntax.clone(),
        size: std::fs::metadata(path).map(|m| m.len()).unwrap_or_default(),
    }
}

/// Serves all five over mutual TLS until the program ends.
///
/// # Errors
/// The listener's.
pub async fn serve(
    service: Service,
    listener: tokio::net::TcpListener,
    acceptor: ncp_tls::SslAcceptor,
) -> Result<(), tonic::transport::Error> {
    use pb::consent_source_server::ConsentSourceServer as Consent;
    use pb::document_registry_server::DocumentRegistryServer as Registry;
    use pb::document_repository_server::DocumentRepositoryServer as Repository;
    use pb::imaging_document_source_server::ImagingDocumentSourceServer as Source;
    use pb::patient_demographics_supplier_server::PatientDemographicsSupplierServer as Supplier;
    tonic::transport::Server::builder()
        .add_service(Supplier::new(service.clone()))
        .add_service(Registry::new(service.clone()))
        .add_service(Repository::new(service.clone()))
        .add_service(Source::new(service.clone()))
        .add_service(Consent::new(service))
        .serve_with_incoming(ncp_tls::incoming(listener, acceptor))
        .await
}
