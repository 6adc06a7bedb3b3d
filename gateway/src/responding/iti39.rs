//! Cross Gateway Retrieve [ITI-39], responding side (ITI TF-2: 3.39).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use ncp_ihe::{
    Content, DocumentEntry, DocumentRequest, DocumentResponse, MessageError, ObjectIds, Oid, RegistryError,
    RetrieveRequest, RetrieveResponse, Severity, Status,
};
use ncp_proto::translation::Direction;
use ncp_soap::{BoxError, OutPart};
use ncp_xml::Element;
use tokio::sync::OnceCell;
use tracing::Instrument;

use super::orcd;
use super::pipeline::{self, Answer, Exchange, Message};
use super::pivot::{self, Form};
use crate::audit_scope::{Recorder, Trail};
use crate::identity::TransactionName;
use crate::listener::OutParts;
use crate::national::{ByteStream, DocumentRepository, NationalError};
use crate::outcome::{GatewayError, NEWER};
use crate::policy::{Authorised, Describing, Disclose, LookUp};
use crate::translate::collect;

/// Stages 3 to 8. Every document is decided for itself; the answer is whole, partial or a failure.
pub async fn respond(exchange: &Exchange, message: &Message, trail: &mut Trail) -> Result<Answer, GatewayError> {
    let request = RetrieveRequest::read(&message.request.envelope.body)?;
    trail.document_requests(&request.documents);
    let request = pipeline::authenticate(exchange, message, request, trail).await?;
    if request.body().documents.iter().any(|d| d.home.is_none()) {
        return Err(MessageError::HomeCommunityMissing.into());
    }
    let ours = &exchange.app.config.gateway.home_community_id;
    if request.body().documents.iter().all(|d| d.home.as_ref() != Some(ours)) {
        return Err(MessageError::HomeCommunityUnknown.into());
    }

    let patient = request.identity().trc_patient.clone();
    let span = tracing::info_span!("policy", ncp.transaction = "ITI-39");
    let policy = &exchange.snapshot.policy;
    let asked = policy.admit(request, TransactionName::Iti39, patient.as_ref()).instrument(span).await?;

    let entries = entries(exchange, &asked).await?;
    let documents_known = OnceCell::new();
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    let mut held = 0;
    for wanted in &asked.get().documents {
        match document(exchange, &asked, wanted, (&entries, &documents_known), held, trail).await {
            Ok(content) => {
                held += content.held;
                documents.push((wanted.clone(), content));
            }
            Err(error) => {
                trail.document_failed(wanted, &error);
                let location = Some(format!("{} {ours}", wanted.document));
                errors.push(error.registry_error(TransactionName::Iti39, location, &exchange.reference));
            }
        }
    }
    trail.documents_decided(documents.iter().map(|(wanted, content)| (wanted, content.size)));
    trail.decided().await?;

    let recorder = trail.recorder();
    let mut parts = Vec::new();
    let mut responses = Vec::new();
    for (index, (wanted, content)) in documents.into_iter().enumerate() {
        let content_id = format!("document{index}.{}@ncp", exchange.reference);
        errors.extend(content.warning);
        responses.push(DocumentResponse {
            request: wanted.clone(),
            new_document: None,
            media_type: content.media_type.clone(),
            content: Content::Include(content_id.clone()),
        });
        parts.push(trail.document_part(
            wanted,
            OutPart {
                content_id,
                media_type: content.media_type,
                data: Box::pin(content.bytes.map(broken_off(recorder.clone()))),
            },
        ));
    }
    let body = RetrieveResponse { status: status(&responses, &errors), errors, documents: responses }.to_element();
    let parts: OutParts = Box::pin(futures_util::stream::iter(parts.into_iter().map(Ok)));
    Ok(Answer::Parts(body, parts))
}

/// A document that turns out to be another than announced after its first bytes went out raises an alert.
fn broken_off(recorder: Recorder) -> impl Fn(Result<Bytes, NationalError>) -> Result<Bytes, BoxError> {
    move |chunk| {
        if let Err(error @ NationalError::Mismatch(_)) = &chunk {
            recorder.alert(&error.to_string());
        }
        chunk.map_err(Into::into)
    }
}

/// One document on its way out.
struct Outgoing {
    media_type: String,
    size: Option<u64>,
    bytes: ByteStream,
    warning: Option<RegistryError>,
    /// Bytes of it that are in memory.
    held: usize,
}

/// Metadata of what is asked for, by repository; a repository that fails fails its own documents.
type Entries = BTreeMap<Oid, Result<Vec<DocumentEntry>, NationalError>>;

/// One look-up for each repository of our community that the request names.
async fn entries(exchange: &Exchange, asked: &Authorised<LookUp<RetrieveRequest>>) -> Result<Entries, GatewayError> {
    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let ours = &exchange.app.config.gateway.home_community_id;
    let mut wanted: BTreeMap<Oid, Vec<String>> = BTreeMap::new();
    for document in asked.get().documents.iter().filter(|d| d.home.as_ref() == Some(ours)) {
        let original = pivot::split(&document.document).0.to_owned();
        wanted.entry(document.repository.clone()).or_default().push(original);
    }
    let look_ups = wanted.into_iter().map(|(repository, ids)| async {
        let found = national.entries_at(&repository, &asked.derive(ObjectIds::UniqueIds(ids))).await;
        (repository, found)
    });
    let span = tracing::info_span!("national", ncp.transaction = "ITI-39");
    Ok(join_all(look_ups).instrument(span).await.into_iter().collect())
}

/// Release, bytes, and for a pivot the translation of one document.
async fn document(
    exchange: &Exchange,
    asked: &Authorised<LookUp<RetrieveRequest>>,
    wanted: &DocumentRequest,
    (entries, describing): (&Entries, &OnceCell<Arc<Describing>>),
    held: usize,
    trail: &mut Trail,
) -> Result<Outgoing, GatewayError> {
    if wanted.home.as_ref() != Some(&exchange.app.config.gateway.home_community_id) {
        return Err(MessageError::HomeCommunityUnknown.into());
    }
    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let (unique_id, form) = pivot::split(&wanted.document);
    let entries = match entries.get(&wanted.repository) {
        Some(Ok(entries)) => entries,
        Some(Err(error)) => return Err(error.clone().into()),
        None => return Err(NationalError::UnknownRepository.into()),
    };
    let policy = &exchange.snapshot.policy;
    // What describes studies is looked up for a manifest and for what is not given out, whichever reason that has.
    let describing = || async { describing.get_or_init(|| national.describing(asked)).await.clone() };
    let not_given = |documents: &Describing| match documents.is_incomplete() {
        true => NationalError::down("a registry did not answer"),
        false => NationalError::UnknownDocument,
    };
    let Some(entry) = entries.iter().find(|e| e.unique_id == unique_id).cloned() else {
        policy.absent(asked, TransactionName::Iti39);
        return Err(not_given(&*describing().await).into());
    };
    let offered = match form {
        None => true,
        Some(Form::Pivot) => pivot::has_pivot(&entry),
        Some(Form::Orcd) => exchange.connection.peer.as_ref().is_some_and(|p| p.orcd()) && orcd::kind(&entry).is_some(),
    };
    if !offered {
        return Err(NationalError::UnknownDocument.into());
    }
    // Documents that must be held to be made: what is too much for one answer is asked for in another.
    if form.is_some() && held >= exchange.app.config.limits.document_bytes {
        return Err(NationalError::Busy(None).into());
    }
    let documents = match entry.is_manifest() {
        true => describing().await,
        false => Arc::new(Describing::of([], true)),
    };
    let released = match policy.release(asked, TransactionName::Iti39, entry, &documents).await {
        Ok(released) => released,
        Err(refusal) => {
            trail.withheld(&refusal);
            return Err(not_given(&*describing().await).into());
        }
    };
    let span = tracing::info_span!("national", ncp.transaction = "ITI-39");
    match form {
        None => {
            let document = national.retrieve(released).instrument(span).await?;
            Ok(Outgoing {
                media_type: document.media_type,
                size: document.size,
                bytes: document.content,
                warning: (document.newer > 0).then(|| newer(exchange, wanted, document.newer)),
                held: 0,
            })
        }
        Some(Form::Pivot) => transcoded(exchange, wanted, released, trail).instrument(span).await,
        Some(Form::Orcd) => {
            let cda = orcd::make(exchange, asked, released, trail).instrument(span).await?;
            Ok(whole("text/xml".into(), cda, None))
        }
    }
}

/// What a manifest shows is not all that its study has by now (ITI TF-3: 4.2.2.2.3).
fn newer(exchange: &Exchange, wanted: &DocumentRequest, instances: usize) -> RegistryError {
    RegistryError {
        code: format!("{NEWER}{instances}"),
        context: format!("{instances} more instances arrived, search again (reference {})", exchange.reference),
        severity: Severity::Warning,
        location: Some(format!("{} {}", wanted.document, exchange.app.config.gateway.home_community_id)),
    }
}

/// The pivot: the whole document goes through the translation service, bounded, since it is edited as one.
async fn transcoded(
    exchange: &Exchange,
    wanted: &DocumentRequest,
    released: Authorised<Disclose<DocumentEntry>>,
    trail: &mut Trail,
) -> Result<Outgoing, GatewayError> {
    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let Some(translator) = &exchange.app.translator else {
        return Err(NationalError::UnknownDocument.into());
    };
    let holder = released.identity().holder();
    let document = national.retrieve(released).await?;
    let bytes = collect(document.content, exchange.app.config.limits.document_bytes, &holder).await?;
    match translator.document(&document.media_type, bytes.clone(), Direction::NationalToPivot, ("", &holder)).await {
        Ok(pivot) => {
            trail.transcoded(wanted, &pivot);
            Ok(whole(document.media_type, pivot.bytes, None))
        }
        // The service is slow or gone: the original goes out, said so; the document stays retrievable.
        Err(error) => {
            tracing::warn!(reason = %error, "document not transcoded");
            let warning = RegistryError {
                code: "WARNING_ORCD_GENERIC".into(),
                context: format!("not transcoded, original codes (reference {})", exchange.reference),
                severity: Severity::Warning,
                location: Some(exchange.app.config.gateway.home_community_id.to_string()),
            };
            Ok(whole(document.media_type, bytes, Some(warning)))
        }
    }
}

fn whole(media_type: String, bytes: bytes::Bytes, warning: Option<RegistryError>) -> Outgoing {
    let held = bytes.len();
    let bytes = Box::pin(futures_util::stream::iter([Ok(bytes)]));
    Outgoing { media_type, size: Some(held as u64), bytes, warning, held }
}

/// Status and error list agree (ITI TF-3: 4.2.4): no document is a failure, some with an error a partial success.
pub fn status(documents: &[DocumentResponse], errors: &[RegistryError]) -> Status {
    let failed = errors.iter().any(|e| e.severity == Severity::Error);
    match (documents.is_empty(), failed) {
        (_, false) => Status::Success,
        (true, true) => Status::Failure,
        (false, true) => Status::PartialSuccess,
    }
}

/// The refusal in the form that ITI-39 and RAD-75 share.
pub fn refusal(exchange: &Exchange, transaction: TransactionName, error: &GatewayError) -> Option<Element> {
    let location = Some(exchange.app.config.gateway.home_community_id.to_string());
    let errors = vec![error.registry_error(transaction, location, &exchange.reference)];
    Some(RetrieveResponse { status: Status::Failure, errors, documents: Vec::new() }.to_element())
}
