//! Cross Gateway Retrieve Imaging Document Set [RAD-75], responding side (RAD TF-2: 4.75).
//!
//! The root part names its parts before they are read, so the request is resolved against the source's index first and
//! only what the source lists is promised. An instance that then fails ends the message without its closing boundary.

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
use crate::audit_scope::Trail;
use crate::identity::TransactionName;
use crate::listener::OutParts;
use crate::national::{LocatedStudy, Missing, NationalError, Retrieval};
use crate::outcome::GatewayError;

const DICOM: &str = "application/dicom";

/// Stages 3 to 8.
pub async fn respond(exchange: &Exchange, message: &Message, trail: &mut Trail) -> Result<Answer, GatewayError> {
    let request = ImagingRequest::read(&message.envelope.body)?;
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
    let mut sources = Vec::new();
    let mut promised: Vec<LocatedStudy> = Vec::new();
    for study in released {
        let mut facts = study.get().clone();
        let span = tracing::info_span!("national", ncp.transaction = "RAD-75");
        let opened = national.retrieve_instances(study).instrument(span).await;
        let missing = match opened {
            Ok(Retrieval { missing, foreign, instances }) => {
                foreign.iter().for_each(|foreign| trail.recorder().alert(foreign.rule()));
                sources.push((facts.study.to_string(), instances));
                missing
            }
            Err(error) => {
                tracing::warn!(reason = %error, "an imaging document source did not open a study");
                let why = Missing::of(&error);
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

    let reference = exchange.reference.clone();
    let recorder = trail.recorder();
    let parts: OutParts = Box::pin(async_stream::try_stream! {
        for (uid, mut instances) in sources {
            while let Some(instance) = instances.next().await {
                let instance = instance.map_err(boxed)?;
                let alerts = recorder.clone();
                let content = instance.content.map(move |chunk| chunk.map_err(|error| {
                    if let NationalError::Foreign(foreign) = &error {
                        alerts.alert(foreign.rule());
                    }
                    boxed(error)
                }));
                let data = recorder.follow_instance(&uid, Box::pin(content));
                yield OutPart { content_id: content_id(&instance.request, &reference), media_type: DICOM.into(), data };
            }
        }
    });
    Ok(Answer::Parts(body, parts))
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
        Missing::Busy => ("XDSRepositoryBusy", "busy, try again later"),
        Missing::TransferSyntax => ("XDSRepositoryError", "stored in none of the requested transfer syntaxes"),
    };
    RegistryError {
        code: code.into(),
        context: format!("{text} (reference {})", exchange.reference),
        severity: Severity::Error,
        location: Some(format!("{} {}", request.document, exchange.app.config.gateway.home_community_id)),
    }
}
