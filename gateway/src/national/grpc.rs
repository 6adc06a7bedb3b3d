//! A country's own service behind `proto/ncp/national/v1` as any of the four actors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::TryStreamExt;
use ncp_ihe::{
    Availability, DocumentEntry, DocumentRequest, ImagingRequest, ObjectIds, Oid, PatientQuery, PatientRecord,
    RegistryObjects, StudyRequest,
};
use ncp_proto::national as pb;
use ncp_soap::Pace;
use pb::document_registry_client::DocumentRegistryClient;
use pb::document_repository_client::DocumentRepositoryClient;
use pb::imaging_document_source_client::ImagingDocumentSourceClient;
use pb::patient_demographics_supplier_client::PatientDemographicsSupplierClient;
use pb::query_documents_request::{EntryUuids, OfPatient, Query, UniqueIds};
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::incoming::{Incoming, instances};
use super::narrow::only;
use super::way::Way;
use super::{
    Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, LocatedStudy, Missing, NationalError,
    Omission, Omitted, PatientDemographicsSupplier, PatientObjects, Registered, Retrieval, Unit,
};
use crate::config::Grpc;
use crate::lists::{LISTS, Share};
use crate::policy::{Authorised, Disclose, LookUp};

mod convert;

/// Memory of an answer and of what is made of it, for each of its bytes.
const PER_BYTE: usize = 5;

use convert::{patient_id, requestor};

/// A client of one of the services, with the bounds of both directions.
macro_rules! client {
    ($client:ident, $source:expr) => {
        $client::new($source.channel.clone())
            .max_decoding_message_size(pb::MESSAGE_BYTES)
            .max_encoding_message_size(pb::MESSAGE_BYTES)
    };
}

/// A country's service.
pub struct GrpcSource {
    channel: Channel,
    way: Way,
    config: Grpc,
}

impl GrpcSource {
    /// Prepares the channel; it connects when a request comes.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub(super) fn new(config: &Grpc, way: Way) -> Result<Self, String> {
        let wrong = |e: ncp_tls::TlsError| format!("{}: {e}", config.name);
        let connector = config.tls.connector(b"\x02h2").map_err(wrong)?;
        let channel = ncp_tls::channel(&config.endpoint, &config.server_name, connector).map_err(wrong)?;
        Ok(Self { channel, way, config: config.clone() })
    }

    /// RepositoryUniqueIds whose documents it holds.
    pub fn repositories(&self) -> &[Oid] {
        &self.config.repository_unique_ids
    }

    /// Retrieve Location UIDs it serves.
    pub fn locations(&self) -> &[Oid] {
        &self.config.location_uids
    }

    /// Whether it answers for patients.
    pub fn knows_patients(&self) -> bool {
        self.config.patients
    }

    /// A look-up with its deadline.
    fn look_up<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.config.deadline);
        request
    }

    /// Collects the answers of a look-up, at most as many as are worth having and as there is memory for, with what is made
    /// of them.
    async fn collected<T: Message>(&self, answers: Streaming<T>, share: &Share) -> Result<Vec<T>, NationalError> {
        let most = self.config.results;
        let collect = answers.map_err(failed).try_fold(Vec::new(), |mut all, one| async move {
            if all.len() == most {
                return Err(NationalError::TooMany);
            }
            share.grow(PER_BYTE * one.encoded_len() + size_of::<T>() + size_of::<DocumentEntry>())?;
            all.push(one);
            Ok(all)
        });
        tokio::time::timeout(self.config.deadline, collect).await.map_err(|_| slow())?
    }

    /// What a query finds, and how many of its entries cannot be used.
    async fn entries_of(
        &self,
        requestor: pb::Requestor,
        query: Query,
        share: &Share,
    ) -> Result<(Vec<DocumentEntry>, usize), NationalError> {
        let mut client = client!(DocumentRegistryClient, self);
        let unit = requestor.trc_assertion_id.clone();
        let request = pb::QueryDocumentsRequest { requestor: Some(requestor), query: Some(query) };
        let asked = async {
            let answers = client.query_documents(self.look_up(request)).await.map_err(failed)?;
            self.collected(answers.into_inner(), share).await
        };
        let found = self.way.call(&unit, asked).await;
        let found = match found {
            // Nobody, or nothing of hers.
            Err(NationalError::UnknownDocument) => return Ok((Vec::new(), 0)),
            other => other?,
        };
        let count = found.len();
        let entries: Vec<DocumentEntry> = found.into_iter().filter_map(convert::entry).collect();
        let unusable = count - entries.len();
        Ok((entries, unusable))
    }
}

/// What a status means. Its text stays out: it may name people.
fn failed(status: Status) -> NationalError {
    // gRPC A6: the server's own word for when to come back.
    let pushback = status.metadata().get("grpc-retry-pushback-ms").and_then(|v| v.to_str().ok()?.parse().ok());
    match status.code() {
        Code::NotFound => NationalError::UnknownDocument,
        Code::ResourceExhausted => NationalError::Busy(pushback.map(Duration::from_millis)),
        Code::OutOfRange => NationalError::TooMany,
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => {
            NationalError::down(format!("service answered {:?}", status.code()))
        }
        code => NationalError::broken(format!("service answered {code:?}")),
    }
}

fn slow() -> NationalError {
    NationalError::down("service did not answer in time")
}

/// The next message, or an error when they come too slowly.
async fn next<T: Message>(stream: &mut Streaming<T>, pace: &mut Pace) -> Result<Option<T>, NationalError> {
    let length = |read: &Result<Option<T>, _>| read.as_ref().ok().and_then(Option::as_ref).map_or(0, T::encoded_len);
    pace.next(stream.message(), length).await.ok_or_else(slow)?.map_err(failed)
}

impl PatientDemographicsSupplier for GrpcSource {
    async fn find(&self, query: &Authorised<LookUp<PatientQuery>>) -> Result<Vec<PatientRecord>, NationalError> {
        let wanted = query.get();
        let request = pb::FindPatientsRequest {
            requestor: Some(requestor(query.identity())),
            ids: wanted.ids.iter().map(patient_id).collect(),
            family: only(&wanted.names).map(|n| n.family.clone()).unwrap_or_default(),
            given: only(&wanted.names).map(|n| n.given.clone()).unwrap_or_default(),
            birth_date: only(&wanted.birth_dates).cloned().unwrap_or_default(),
            gender: only(&wanted.genders).cloned().unwrap_or_default(),
        };
        let share = LISTS.for_country(query.identity().country);
        let mut client = client!(PatientDemographicsSupplierClient, self);
        let asked = async {
            let answers = client.find_patients(self.look_up(request)).await.map_err(failed)?;
            self.collected(answers.into_inner(), &share).await
        };
        let unit = wanted.ids.first().map(|id| id.extension.as_str()).unwrap_or_default();
        let found = self.way.call(unit, asked).await;
        match found {
            Err(NationalError::UnknownDocument) => Err(NationalError::NoPatient),
            Err(error) => Err(error),
            Ok(found) => Ok(found.into_iter().filter_map(convert::record).collect()),
        }
    }
}

impl DocumentRegistry for GrpcSource {
    /// All entries of a patient, and what of them cannot be used.
    async fn registered(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<Registered, NationalError> {
        let status = |s: &Availability| match s {
            Availability::Approved => pb::Availability::Approved.into(),
            Availability::Deprecated => pb::Availability::Deprecated.into(),
        };
        let query = Query::OfPatient(OfPatient {
            patient: Some(patient_id(&of.get().patient)),
            availability: of.get().status.iter().map(status).collect(),
        });
        let (entries, unusable) = self.entries_of(requestor(of.identity()), query, &of.get().share).await?;
        let omitted = Omitted::new(&self.config.name, Unit::Unnamed(unusable), Omission::Unusable);
        let omitted = (unusable > 0).then_some(omitted).into_iter().collect();
        let objects = RegistryObjects::of_entries(entries);
        Ok(Registered { objects, failed: Vec::new(), omitted })
    }

    async fn entries(&self, ids: &Authorised<LookUp<ObjectIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let query = match ids.get() {
            ObjectIds::UniqueIds(ids) => Query::UniqueIds(UniqueIds { unique_id: ids.clone() }),
            ObjectIds::EntryUuids(ids) => Query::EntryUuids(EntryUuids { entry_uuid: ids.clone() }),
        };
        let share = LISTS.for_country(ids.identity().country);
        let (found, _) = self.entries_of(requestor(ids.identity()), query, &share).await?;
        Ok(found.into_iter().filter(|e| ids.get().name(e)).collect())
    }
}

impl DocumentRepository for GrpcSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let wanted = entry.get();
        let request = pb::RetrieveDocumentRequest {
            requestor: Some(requestor(entry.identity())),
            repository_unique_id: wanted.repository_unique_id.to_string(),
            unique_id: wanted.unique_id.clone(),
            patient: Some(patient_id(&wanted.patient_id)),
        };
        let mut client = client!(DocumentRepositoryClient, self);
        let mut pace = Pace::new(self.config.idle);
        let asked = async {
            let asked = tokio::time::timeout(self.config.deadline, client.retrieve_document(request));
            Ok(asked.await.map_err(|_| slow())?.map_err(failed)?.into_inner())
        };
        let mut chunks = self.way.call(&wanted.unique_id, asked).await?;
        let Some(pb::document_chunk::Part::Header(header)) = next(&mut chunks, &mut pace).await?.and_then(|c| c.part)
        else {
            return Err(NationalError::broken("service sent no header before the document"));
        };
        let announced = (header.size > 0).then_some(header.size);
        let content = async_stream::try_stream! {
            let mut sent = 0;
            while let Some(chunk) = next(&mut chunks, &mut pace).await? {
                let Some(pb::document_chunk::Part::Data(data)) = chunk.part else {
                    Err(NationalError::broken("service sent another header inside a document"))?;
                    return;
                };
                sent += data.len() as u64;
                yield bytes::Bytes::from(data);
            }
            if announced.is_some_and(|size| size != sent) {
                Err(NationalError::Mismatch("document is not as long as announced"))?;
            }
        };
        Ok(Document { media_type: header.media_type, size: announced, newer: 0, content: Box::pin(content) })
    }
}

impl ImagingDocumentSource for GrpcSource {
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let wanted = request.get();
        let message = pb::LocateStudiesRequest {
            requestor: Some(requestor(request.identity())),
            studies: wanted.studies.iter().map(convert::study_ref).collect(),
            transfer_syntaxes: wanted.transfer_syntaxes.iter().map(ToString::to_string).collect(),
            patient: request.identity().trc_patient.as_ref().map(patient_id),
        };
        let share = LISTS.for_country(request.identity().country);
        let mut client = client!(ImagingDocumentSourceClient, self);
        let asked = async {
            let answers = client.locate_studies(self.look_up(message)).await.map_err(failed)?;
            self.collected(answers.into_inner(), &share).await
        };
        let unit = wanted.studies.first().map(|study| study.study.as_str()).unwrap_or_default();
        let found = self.way.call(unit, asked).await;
        let found = match found {
            Err(NationalError::UnknownDocument) => Vec::new(),
            other => other?,
        };
        let located = |study: &StudyRequest| {
            let answer = found.iter().find(|f| f.study == study.study.as_str());
            convert::located(study, answer, &wanted.transfer_syntaxes)
        };
        Ok(wanted.studies.iter().map(located).collect())
    }

    async fn retrieve_instances(&self, study: Authorised<Disclose<LocatedStudy>>) -> Result<Retrieval, NationalError> {
        let wanted = study.get();
        let request = pb::RetrieveInstancesRequest {
            requestor: Some(requestor(study.identity())),
            study: Some(convert::located_ref(wanted)),
            patient: wanted.patient.as_ref().map(patient_id),
            transfer_syntaxes: wanted.transfer_syntaxes.iter().map(ToString::to_string).collect(),
        };
        let mut client = client!(ImagingDocumentSourceClient, self);
        let asked = async {
            let asked = tokio::time::timeout(self.config.deadline, client.retrieve_instances(request));
            Ok(asked.await.map_err(|_| slow())?.map_err(failed)?.into_inner())
        };
        let chunks = self.way.call(wanted.study.as_str(), asked).await?;
        let promised: BTreeSet<DocumentRequest> = wanted.instances.iter().map(|i| i.request.clone()).collect();
        let by_sop = promised.iter().map(|request| (request.document.clone(), request.clone())).collect();
        let sequence =
            Sequence { chunks, pace: Pace::new(self.config.idle), by_sop, head: None, left: None, failed: false };
        Ok(Retrieval::of(instances(sequence, promised, wanted.expected())))
    }
}

/// Headers and data of instances as the service sends them.
struct Sequence {
    chunks: Streaming<pb::InstanceChunk>,
    pace: Pace,
    by_sop: BTreeMap<String, DocumentRequest>,
    /// A header or failure that ended the instance before it.
    head: Option<pb::instance_chunk::Part>,
    /// Bytes that are still to come of the present instance, where its length was announced.
    left: Option<u64>,
    /// The present instance is a failure.
    failed: bool,
}

impl Incoming for Sequence {
    async fn next(&mut self) -> Result<Option<DocumentRequest>, NationalError> {
        use pb::instance_chunk::Part;
        loop {
            let part = match self.head.take() {
                Some(part) => Some(part),
                None => match next(&mut self.chunks, &mut self.pace).await? {
                    None => return Ok(None),
                    Some(chunk) => chunk.part,
                },
            };
            let (sop, left, failed) = match part {
                Some(Part::Header(h)) => (h.sop_instance, (h.size > 0).then_some(h.size), false),
                Some(Part::Failure(f)) => (f.sop_instance, None, true),
                Some(Part::Data(_)) | None => continue,
            };
            if let Some(request) = self.by_sop.get(&sop) {
                (self.left, self.failed) = (left, failed);
                return Ok(Some(request.clone()));
            }
        }
    }

    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, NationalError> {
        use pb::instance_chunk::Part;
        if self.failed {
            return Err(NationalError::down("service could not send an instance"));
        }
        if self.head.is_none() {
            match next(&mut self.chunks, &mut self.pace).await?.map(|chunk| chunk.part) {
                Some(Some(Part::Data(data))) => {
                    if let Some(left) = &mut self.left {
                        let longer = NationalError::Mismatch("instance is longer than announced");
                        *left = left.checked_sub(data.len() as u64).ok_or(longer)?;
                    }
                    return Ok(Some(data.into()));
                }
                Some(None) => return Err(NationalError::broken("service sent an empty piece")),
                Some(head) => self.head = head,
                None => {}
            }
        }
        match self.left {
            Some(left) if left > 0 => Err(NationalError::Mismatch("instance is shorter than announced")),
            _ => Ok(None),
        }
    }
}

/// Why an instance is not there, as the service says it.
fn missing(reason: pb::missing_instance::Reason) -> Missing {
    match reason {
        pb::missing_instance::Reason::TransferSyntax => Missing::TransferSyntax,
        pb::missing_instance::Reason::Mismatch => Missing::Mismatch,
        pb::missing_instance::Reason::Unknown | pb::missing_instance::Reason::Unspecified => Missing::Unknown,
    }
}
