//! Cross Gateway Retrieve Imaging Document Set [RAD-75], responding side (RAD TF-2: 4.75).
//!
//! The root part names its parts before they are read, so the request is resolved against the source's index first and
//! only what the source lists is promised. An instance that then fails leaves the others whole: they follow, and the message
//! ends without its closing boundary.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use ncp_ihe::{
    Content, DocumentRequest, DocumentResponse, ImagingRequest, MessageError, RegistryError, RetrieveResponse,
    Severity, Uid,
};
use ncp_soap::{BoxError, OutPart};
use tracing::Instrument;

use super::iti39::status;
use super::pipeline::{self, Answer, Exchange, Message};
use crate::audit_scope::{Recorder, Trail};
use crate::identity::TransactionName;
use crate::listener::OutParts;
use crate::national::{Instance, InstanceStream, LocatedStudy, Missing, NationalError, Retrieval};
use crate::outcome::GatewayError;
use crate::passing::{Incomplete, until_failure};
use crate::retry_after;

const DICOM: &str = "application/dicom";

/// Stages 3 to 8.
pub async fn respond(exchange: &Exchange, message: &Message, trail: &mut Trail) -> Result<Answer, GatewayError> {
    let request = ImagingRequest::read(&message.request.envelope.body)?;
    trail.imaging_request(&request);
    let request = pipeline::authenticate(exchange, message, request, trail).await?;
    check_home(exchange, request.body())?;

    let patient = request.identity().trc_patient.clone();
    let policy = &exchange.snapshot.policy;
    let span = tracing::info_span!("policy", ncp.transaction = "RAD-75");
    let asked = policy.admit(request, TransactionName::Rad75, patient.as_ref()).instrument(span).await?;

    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let span = tracing::info_span!("national", ncp.transaction = "RAD-75");
    let looked_up = async { tokio::join!(national.locate(&asked), national.describing(&asked)) };
    let (found, documents) = looked_up.instrument(span).await;
    // What a silent registry may have closed is not there for now; so is what does not exist, lest the two differ.
    let unreleased = |why: Missing| match why {
        Missing::Unknown if documents.is_incomplete() => Missing::Failed,
        why => why,
    };

    let mut errors: Vec<RegistryError> = Vec::new();
    let mut absent = |study: &Uid, missing: &[(DocumentRequest, Missing)], trail: &mut Trail| {
        errors.extend(missing.iter().map(|(request, why)| missing_error(exchange, request, *why)));
        trail.instances_missing(study.as_str(), missing);
    };
    for (study, missing) in &found.unreached {
        absent(study, missing, trail);
    }
    let mut released = Vec::new();
    for study in found.studies {
        let (study, missing) = split_missing(study);
        let uid = study.study.clone();
        if study.instances.is_empty() && study.patient.is_none() {
            // Nobody's, and nothing of it is there: absent, not withheld.
            policy.absent(&asked, TransactionName::Rad75);
            let missing: Vec<_> = missing.into_iter().map(|(request, why)| (request, unreleased(why))).collect();
            absent(&uid, &missing, trail);
            continue;
        }
        let all: Vec<DocumentRequest> = study.instances.iter().map(|i| i.request.clone()).collect();
        match policy.release(&asked, TransactionName::Rad75, study, &documents).await {
            Ok(study) => {
                absent(&uid, &missing, trail);
                released.push(study);
            }
            // Another patient's or a blocked study answers instance by instance as an absent one.
            Err(refusal) => {
                trail.withheld(&refusal);
                let requests = all.into_iter().chain(missing.into_iter().map(|(request, _)| request));
                let missing: Vec<_> = requests.map(|request| (request, unreleased(Missing::Unknown))).collect();
                absent(&uid, &missing, trail);
            }
        }
    }
    let mut documents = Vec::new();
    let mut streams: Vec<InstanceStream> = Vec::new();
    let mut promised: Vec<LocatedStudy> = Vec::new();
    for study in released {
        let mut facts = study.get().clone();
        let span = tracing::info_span!("national", ncp.transaction = "RAD-75");
        let opened = national.retrieve_instances(study).instrument(span).await;
        let missing = match opened {
            Ok(Retrieval { missing, foreign, instances }) => {
                foreign.iter().for_each(|foreign| trail.recorder().alert(foreign.rule()));
                streams.push(instances);
                missing
            }
            Err(error) => {
                tracing::warn!(reason = %error, "an imaging document source did not open a study");
                let why = Missing::of(&error);
                streams.push(Box::pin(futures_util::stream::empty()));
                facts.instances.iter().map(|i| (i.request.clone(), why)).collect()
            }
        };
        let refused: BTreeSet<&DocumentRequest> = missing.iter().map(|(request, _)| request).collect();
        facts.instances.retain(|i| !refused.contains(&i.request));
        absent(&facts.study, &missing, trail);
        documents.extend(facts.instances.iter().map(|instance| DocumentResponse {
            request: instance.request.clone(),
            new_document: None,
            media_type: DICOM.into(),
            content: Content::Include(content_id(&instance.request, &exchange.reference)),
        }));
        promised.push(facts);
    }
    trail.studies_decided(promised.iter());
    trail.decided().await?;
    let body = RetrieveResponse { status: status(&documents, &errors), errors, documents }.to_element();

    let sources = promised.into_iter().zip(streams).collect();
    let parts = parts(sources, exchange.reference.clone(), trail.recorder());
    Ok(Answer::Parts(body, parts))
}

/// An instance that fails ends, or does not begin; it is named on the trail, the others follow, and the message has no closing
/// boundary (FO-08, CO-18).
fn parts(sources: Vec<(LocatedStudy, InstanceStream)>, reference: String, recorder: Recorder) -> OutParts {
    Box::pin(async_stream::try_stream! {
        let total = sources.iter().map(|(study, _)| study.instances.len()).sum();
        let mut lost = 0;
        for (study, mut instances) in sources {
            let uid = study.study.to_string();
            let mut open: BTreeSet<DocumentRequest> = study.instances.into_iter().map(|i| i.request).collect();
            // A source that ends leaves the rest of its instances open.
            while let Some(Ok(Instance { request, mut content, .. })) = instances.next().await {
                open.remove(&request);
                // What fails before its first byte has no part.
                let ended = match content.next().await {
                    Some(Ok(first)) => {
                        let content = futures_util::stream::once(async { Ok(first) }).chain(content);
                        let content = Box::pin(content.map(|chunk| chunk.map_err(boxed)));
                        let (data, fate) = until_failure(recorder.follow_instance(&uid, content));
                        yield OutPart { content_id: content_id(&request, &reference), media_type: DICOM.into(), data };
                        fate.ended()
                    }
                    Some(Err(error)) => Err(boxed(error)),
                    None => Err(boxed(NationalError::Mismatch("instance is empty"))),
                };
                if let Err(error) = ended {
                    if let Some(NationalError::Foreign(foreign)) = error.downcast_ref() {
                        recorder.alert(foreign.rule());
                    }
                    recorder.failed_instance(&uid, &request);
                    lost += 1;
                }
            }
            for request in open {
                recorder.failed_instance(&uid, &request);
                lost += 1;
            }
        }
        if lost > 0 {
            let incomplete: BoxError = Box::new(Incomplete { lost, total });
            Err(incomplete)?;
        }
    })
}

fn boxed(error: NationalError) -> BoxError {
    Box::new(error)
}

fn content_id(request: &DocumentRequest, reference: &str) -> String {
    // One instance may lie in two sources.
    format!("{}.{}.{reference}@ncp", request.document, request.repository)
}

/// Every DocumentRequest names a homeCommunityId, and it is ours (RAD TF-2: 4.75).
fn check_home(exchange: &Exchange, request: &ImagingRequest) -> Result<(), GatewayError> {
    let ours = &exchange.app.config.gateway.home_community_id;
    for instance in request.studies.iter().flat_map(|s| &s.series).flat_map(|s| &s.instances) {
        match &instance.home {
            None => return Err(MessageError::HomeCommunityMissing.into()),
            Some(home) if home != ours => return Err(MessageError::HomeCommunityUnknown.into()),
            Some(_) => {}
        }
    }
    Ok(())
}

fn split_missing(mut study: LocatedStudy) -> (LocatedStudy, Vec<(DocumentRequest, Missing)>) {
    let missing = std::mem::take(&mut study.missing);
    (study, missing)
}

fn missing_error(exchange: &Exchange, request: &DocumentRequest, why: Missing) -> RegistryError {
    let (code, text) = match why {
        Missing::Unknown | Missing::Mismatch => ("XDSDocumentUniqueIdError", "instance is not available"),
        Missing::UnknownSource => ("XDSUnknownRepositoryId", "source is not known"),
        Missing::Failed => ("XDSRepositoryError", "instance could not be fetched"),
        Missing::Busy(_) => ("XDSRepositoryBusy", "busy, try again later"),
        Missing::TransferSyntax => ("XDSRepositoryError", "stored in none of the requested transfer syntaxes"),
    };
    let text = match why {
        Missing::Busy(Some(after)) => retry_after::told(after),
        _ => text.to_owned(),
    };
    RegistryError {
        code: code.into(),
        context: format!("{text} (reference {})", exchange.reference),
        severity: Severity::Error,
        location: Some(format!("{} {}", request.document, exchange.app.config.gateway.home_community_id)),
    }
}
