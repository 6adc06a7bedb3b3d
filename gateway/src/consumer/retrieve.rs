//! Retrieve Document Set [ITI-43] and Retrieve Imaging Document Set [RAD-69] of a national consumer, by homeCommunityId, as
//! ITI-39 and RAD-75; what the communities send is one message again, passed on as it comes (ITI TF-2: 3.43, RAD TF-2: 4.69).

use std::sync::Arc;

use futures_util::StreamExt;
use ncp_ihe::{
    DocumentRequest, HomeCommunityId, ImagingRequest, RegistryError, RetrieveRequest, RetrieveResponse, SeriesRequest,
    Severity, StudyRequest,
};

use super::{Asked, Exchange, security};
use crate::app::Peers;
use crate::audit_scope::Trail;
use crate::config::Peer;
use crate::initiating::ask_all;
use crate::initiating::relay::{Portion, Relayed, relay};
use crate::listener::OutParts;
use crate::outcome::GatewayError;
use crate::responding::iti39::status;
use crate::wire::{Answer, Request};

/// Stages 3 to 5.
pub(super) async fn respond(
    exchange: &Exchange,
    asked: Asked,
    request: &Request,
    trail: &mut Trail,
) -> Result<Answer, GatewayError> {
    let body = &request.envelope.body;
    let whole = match asked {
        Asked::Rad69 => Portion::Images(ImagingRequest::read(body)?),
        _ => Portion::Documents(RetrieveRequest::read(body)?),
    };
    match &whole {
        Portion::Documents(request) => trail.document_requests(&request.documents),
        Portion::Images(request) => trail.imaging_wanted(request),
    }
    trail.holds()?;
    let treating = security::authenticate(exchange, request, trail).await?;
    let recorder = trail.recorder();
    let (portions, mut errors) = split(&whole, &exchange.snapshot.peers);
    for (request, study) in whole.units() {
        if request.home.as_ref().is_none_or(|home| exchange.snapshot.peers.by_home(home).is_none()) {
            recorder.failed_unit(study.as_ref(), &request);
        }
    }
    trail.decided().await?;

    let calls: Vec<_> = portions.iter().map(|(peer, _)| treating.call(exchange, peer)).collect();
    let mut waiting = portions.iter().map(|(_, portion)| portion.clone());
    let answers = ask_all(calls, |call| {
        let (portion, recorder) = (waiting.next(), trail.recorder());
        async move {
            let portion = portion.ok_or(GatewayError::Internal("a call without its portion"))?;
            relay(call, portion, recorder).await
        }
    })
    .await;
    let mut documents = Vec::new();
    let mut streams: Vec<OutParts> = Vec::new();
    for ((call, answered), (_, portion)) in answers.into_iter().zip(portions) {
        match answered {
            Ok(relayed) => {
                let Relayed { documents: coming, errors: missing, parts } = relayed;
                for (request, study) in portion.units() {
                    if !coming.iter().any(|document| document.request == request) {
                        recorder.failed_unit(study.as_ref(), &request);
                    }
                }
                documents.extend(coming);
                errors.extend(missing);
                streams.push(parts);
            }
            Err(error) => {
                tracing::info!(country = %call.peer.country, reason = %error, ncp.reference = %exchange.reference, "country did not answer");
                for (request, study) in portion.units() {
                    recorder.failed_unit(study.as_ref(), &request);
                    let location = Some(format!("{} {}", request.document, call.peer.home_community_id));
                    errors.push(error.registry_error(asked.across(), location, &exchange.reference));
                }
            }
        }
    }
    let body = RetrieveResponse { status: status(&documents, &errors), errors, documents }.to_element();
    // One community after the other: the next waits in its connection, not in our memory.
    Ok(Answer::Parts(body, Box::pin(futures_util::stream::iter(streams).flatten())))
}

/// The request by community, in the order in which they are first named, and an error for each unit of none.
fn split(whole: &Portion, peers: &Peers) -> (Vec<(Arc<Peer>, Portion)>, Vec<RegistryError>) {
    let mut communities: Vec<Arc<Peer>> = Vec::new();
    let mut errors = Vec::new();
    for (request, _) in whole.units() {
        match (&request.home, request.home.as_ref().and_then(|home| peers.by_home(home))) {
            (_, Some(peer)) if communities.iter().any(|known| known.country == peer.country) => {}
            (_, Some(peer)) => communities.push(peer.clone()),
            (Some(home), None) => errors.push(unknown_community(home, Some(&request.document))),
            (None, None) => errors.push(RegistryError {
                code: "XDSMissingHomeCommunityId".into(),
                context: "HomeCommunityId is required".into(),
                severity: Severity::Error,
                location: Some(request.document.clone()),
            }),
        }
    }
    let portions = communities.into_iter().map(|peer| {
        let portion = of_community(whole, &peer);
        (peer, portion)
    });
    (portions.collect(), errors)
}

fn of_community(whole: &Portion, peer: &Peer) -> Portion {
    let ours = |request: &&DocumentRequest| request.home.as_ref().is_some_and(|home| peer.is_known_as(home));
    match whole {
        Portion::Documents(request) => {
            Portion::Documents(RetrieveRequest { documents: request.documents.iter().filter(ours).cloned().collect() })
        }
        Portion::Images(request) => {
            let series = |series: &SeriesRequest| {
                let instances: Vec<_> = series.instances.iter().filter(ours).cloned().collect();
                (!instances.is_empty()).then(|| SeriesRequest { series: series.series.clone(), instances })
            };
            let study = |study: &StudyRequest| {
                let all: Vec<_> = study.series.iter().filter_map(series).collect();
                (!all.is_empty()).then(|| StudyRequest { study: study.study.clone(), series: all })
            };
            Portion::Images(ImagingRequest {
                studies: request.studies.iter().filter_map(study).collect(),
                transfer_syntaxes: request.transfer_syntaxes.clone(),
            })
        }
    }
}

/// No country is configured for this community (ITI TF-3: table 4.2.4.1-2).
pub(super) fn unknown_community(home: &HomeCommunityId, document: Option<&str>) -> RegistryError {
    RegistryError {
        code: "XDSUnknownCommunity".into(),
        context: "the community is not known to this gateway".into(),
        severity: Severity::Error,
        location: Some(document.map_or_else(|| home.to_string(), |document| format!("{document} {home}"))),
    }
}
