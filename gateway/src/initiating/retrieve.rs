//! Cross Gateway Retrieve [ITI-39], initiating side (ITI TF-2: 3.39): one document, checked against its metadata.

use std::sync::Arc;

use bytes::Bytes;
use ncp_ihe::{Content, DocumentRequest, DocumentResponse, PatientId, RetrieveRequest, RetrieveResponse, Status};

use super::told::Reports;
use super::{Call, PeerError, close};
use crate::audit_scope::Recorder;
use crate::compare::{Announced, Expected, IsPatient};
use crate::identity::TransactionName;
use crate::outcome::GatewayError;
use crate::recorded::Known;
use crate::soap_client::AnswerBody;
use crate::whole::Gathering;

/// A document to fetch, with what is known of it.
pub struct Wanted {
    /// Which.
    pub request: DocumentRequest,
    /// Hash and size as its metadata announced them, and whom a CDA may record.
    pub expected: Expected,
}

/// Whom a CDA must record (CO-01): the patient of the call, by the id under which the other country knows her, by the one in
/// the document's metadata, or, where it says no id of that authority, by the birth date. Which ids of other authorities were
/// merged only the other country knows, and one that names nobody contradicts nothing.
pub fn is_patient(call: &Call, source: Option<&PatientId>, birth_date: Option<String>) -> Option<IsPatient> {
    let patient = &call.treatment.as_ref()?.patient;
    let id = |id: &PatientId| (id.root.to_string(), id.extension.clone());
    let ids = std::iter::once(patient).chain(source).map(id).collect();
    let known = Known { ids, authorities: [patient.root.to_string()].into(), birth_date, ..Known::default() };
    Some(Arc::new(move |targets| targets.is_empty() || known.records(targets)))
}

/// A document as it came. As `Debug` it shows its length alone.
#[derive(Clone)]
pub struct Retrieved {
    /// Media type.
    pub media_type: String,
    /// Its bytes, with their part of the memory for documents that are held.
    pub bytes: Bytes,
    /// Codes that the country reported beside it.
    pub reported: Vec<String>,
}

impl std::fmt::Debug for Retrieved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Retrieved({} [{}] {:?})", self.media_type, self.bytes.len(), self.reported)
    }
}

/// Fetches one document.
///
/// # Errors
/// [`PeerError`]; the trail.
pub async fn retrieve(call: &Call, wanted: &Wanted) -> Result<Retrieved, GatewayError> {
    let request = RetrieveRequest { documents: vec![wanted.request.clone()] };
    let trail = call.begin(TransactionName::Iti39, |trail| trail.document_requests(&request.documents)).await?;
    let result = fetch(call, request, wanted, &trail.recorder()).await;
    if let Ok(document) = &result {
        trail.document_received(&wanted.request, &document.bytes);
    }
    close(trail, result).await
}

async fn fetch(
    call: &Call,
    request: RetrieveRequest,
    wanted: &Wanted,
    recorder: &Recorder,
) -> Result<Retrieved, GatewayError> {
    let mut answer = call.send(TransactionName::Iti39, request.to_element(), recorder).await?;
    let response = read_response(&answer.body)?;
    // The errors are read before the documents: they say why there is none.
    let reports = Reports::read(response.status, &response.errors);
    call.reported(TransactionName::Iti39, &reports);
    let sent = !response.documents.is_empty();
    let document = response.documents.into_iter().find(|document| is_asked_for(call, &wanted.request, document));
    let is_foreign = sent && document.is_none();
    let Some(document) = document.filter(|_| response.status != Status::Failure) else {
        if is_foreign {
            recorder.alert("peer sent something that was not asked for");
        }
        // A country that reports nothing and sends nothing has no such document.
        let absent =
            || if is_foreign { PeerError::Mismatch } else { PeerError::Refused("XDSDocumentUniqueIdError".into()) };
        return Err(reports.refusal(Status::Failure).unwrap_or_else(absent).into());
    };
    if let Some((indicator, code)) = reports.outcome(response.status) {
        recorder.reported(indicator, code);
    }
    let limit = call.app.config.limits.document_bytes;
    let mut gathering = call.holder().gather(limit);
    let announced = if call.peer.verify_hash() { wanted.expected.announced } else { Announced::default() };
    let size = announced.size.and_then(|size| usize::try_from(size).ok());
    gathering.expect(size.unwrap_or_default()).map_err(PeerError::from)?;
    match &document.content {
        Content::Inline(bytes) => gathering.push(bytes).map_err(PeerError::from)?,
        Content::Include(id) => part(&mut answer.parts, id, limit, &mut gathering).await?,
    }
    let bytes = gathering.end();
    Expected { announced, ..wanted.expected.clone() }.fits(&bytes).map_err(PeerError::from)?;
    let reported = [reports.errors(response.status), reports.warnings()].concat();
    Ok(Retrieved { media_type: document.media_type, bytes, reported })
}

/// Whether a DocumentResponse is the unit asked for: community, repository and document together name it (3.39.4.1.3).
pub(super) fn is_asked_for(call: &Call, wanted: &DocumentRequest, sent: &DocumentResponse) -> bool {
    let got = &sent.request;
    got.document == wanted.document
        && got.repository == wanted.repository
        && got.home.as_ref().is_some_and(|home| call.peer.is_known_as(home))
}

/// Reads a retrieve's root.
///
/// # Errors
/// Malformed.
pub(super) fn read_response(body: &ncp_xml::Element) -> Result<RetrieveResponse, PeerError> {
    Ok(crate::soap_client::read_retrieve(body)?)
}

/// One part, whole.
async fn part(
    parts: &mut ncp_soap::Parts<AnswerBody>,
    id: &str,
    limit: usize,
    gathering: &mut Gathering,
) -> Result<(), PeerError> {
    while let Some(head) = parts.next().await? {
        if head.content_id != id {
            continue;
        }
        while let Some(chunk) = parts.chunk().await? {
            gathering.push(&chunk)?;
        }
        // The package must come to its end, or it may have been cut.
        parts.drain(limit).await?;
        return Ok(());
    }
    Err(PeerError::Malformed("XOP Include to nowhere"))
}
