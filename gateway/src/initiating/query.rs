//! Cross Gateway Query [ITI-38], initiating side (ITI TF-2: 3.38).

use ncp_ihe::{
    CrossGatewayQueryRequest, HomeCommunityId, MessageError, RegistryObjects, ReturnType, Severity, Status, StoredQuery,
};
use ncp_xml::Element;

use super::{Call, PeerError, close};
use crate::audit_scope::Recorder;
use crate::identity::TransactionName;
use crate::outcome::GatewayError;

/// Codes by which a country says no more than that there is nothing for this reader: decided there, not told here.
const NOTHING: [&str; 5] = ["4701", "4703", "XDSUnknownPatientId", "XDSUnknownCommunity", "1031"];

/// What a country listed.
#[derive(Debug, Default)]
pub struct Found {
    /// Objects of the patient asked for, and the associations.
    pub objects: RegistryObjects,
    /// References of a query for these alone.
    pub object_refs: Vec<(String, Option<HomeCommunityId>)>,
    /// Technical codes of a partial answer, for the reader.
    pub incomplete: Vec<String>,
    /// Objects that could not be used: malformed, of another patient or another community.
    pub unusable: usize,
}

/// The documents of the patient.
///
/// # Errors
/// [`PeerError`]; the trail.
pub async fn query(call: &Call, query: StoredQuery) -> Result<Found, GatewayError> {
    // FindDocuments goes to the one community that knows the patient; other queries must name it (3.38.4.1.2.1).
    let home = Some(call.peer.home_community_id.clone());
    let request = CrossGatewayQueryRequest { home, return_type: ReturnType::LeafClass, query };
    let body = request.to_element();
    carry(call, &request, body).await
}

/// A national consumer's query as it was asked: parameters that we do not know go on too (3.38.4.1.3).
///
/// # Errors
/// As [`query`].
pub async fn forward(call: &Call, request: &CrossGatewayQueryRequest, asked: &Element) -> Result<Found, GatewayError> {
    let option = asked.child(ncp_ihe::ns::QUERY, "ResponseOption").cloned();
    let mut adhoc =
        asked.child(ncp_ihe::ns::RIM, "AdhocQuery").cloned().ok_or(MessageError::Malformed("AdhocQuery"))?;
    adhoc.set_attr("", "home", call.peer.home_community_id.to_string());
    let body = Element::new(ncp_ihe::ns::QUERY, "AdhocQueryRequest").with_all(option).with(adhoc);
    carry(call, request, body).await
}

async fn carry(call: &Call, request: &CrossGatewayQueryRequest, body: Element) -> Result<Found, GatewayError> {
    let trail = call.begin(TransactionName::Iti38, |trail| trail.stored_query(request, &body)).await?;
    let result = ask(call, body, &trail.recorder()).await;
    close(trail, result).await
}

async fn ask(call: &Call, body: Element, recorder: &Recorder) -> Result<Found, GatewayError> {
    let answer = call.send(TransactionName::Iti38, body, recorder).await?;
    let read = answer.listed.response(&answer.body).map_err(|_| PeerError::Malformed("AdhocQueryResponse"))?;
    let (response, mut unusable) = read;
    match PeerError::refused(response.status, &response.errors) {
        Some(PeerError::Refused(code)) if NOTHING.contains(&code.as_str()) => return Ok(Found::default()),
        Some(error) => return Err(error.into()),
        None => {}
    }
    let patient = call.treatment.as_ref().map(|t| &t.patient);
    let known = |home: &Option<HomeCommunityId>| home.as_ref().is_none_or(|home| call.peer.is_known_as(home));
    let (mut objects, mut object_refs) = (response.objects, response.object_refs);
    let count = |objects: &RegistryObjects, refs: &[_]| objects.len() - objects.associations.len() + refs.len();
    let total = count(&objects, &object_refs);
    objects.entries.retain(|entry| known(&entry.home) && patient == Some(&entry.patient_id));
    objects.submission_sets.retain(|set| known(&set.home) && patient == Some(&set.patient_id));
    objects.folders.retain(|folder| known(&folder.home) && patient == Some(&folder.patient_id));
    object_refs.retain(|(_, home)| known(home));
    unusable += total - count(&objects, &object_refs);
    let incomplete = match response.status {
        Status::PartialSuccess => response
            .errors
            .iter()
            .filter(|e| e.severity == Severity::Error && !NOTHING.contains(&e.code.as_str()))
            .map(|e| super::peers::code_only(&e.code))
            .collect(),
        _ => Vec::new(),
    };
    Ok(Found { objects, object_refs, incomplete, unusable })
}
