//! Cross Gateway Query [ITI-38], initiating side (ITI TF-2: 3.38).

use ncp_ihe::{
    Association, CrossGatewayQueryRequest, DocumentEntry, QueryResponse, ReturnType, Severity, Status, StoredQuery,
};

use super::{Call, PeerError, close};
use crate::identity::TransactionName;
use crate::outcome::GatewayError;

/// Codes by which a country says no more than that there is nothing for this reader: decided there, not told here.
const NOTHING: [&str; 5] = ["4701", "4703", "XDSUnknownPatientId", "XDSUnknownCommunity", "1031"];

/// What a country listed.
#[derive(Debug, Default)]
pub struct Found {
    /// Entries of the patient asked for.
    pub entries: Vec<DocumentEntry>,
    /// Associations between them.
    pub associations: Vec<Association>,
    /// Technical codes of a partial answer, for the reader.
    pub incomplete: Vec<String>,
    /// Entries that could not be used: malformed, of another patient or another community.
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
    let trail = call.begin(TransactionName::Iti38, |trail| trail.stored_query(&request, &body)).await?;
    let result = ask(call, body).await;
    close(trail, result).await
}

async fn ask(call: &Call, body: ncp_xml::Element) -> Result<Found, GatewayError> {
    let answer = call.send(TransactionName::Iti38, body).await?;
    let read = QueryResponse::read(&answer.body).map_err(|_| PeerError::Malformed("AdhocQueryResponse"))?;
    let (response, mut unusable) = read;
    match PeerError::refused(response.status, &response.errors) {
        Some(PeerError::Refused(code)) if NOTHING.contains(&code.as_str()) => return Ok(Found::default()),
        Some(error) => return Err(error.into()),
        None => {}
    }
    let patient = call.treatment.as_ref().map(|t| &t.patient);
    let ours = |entry: &DocumentEntry| {
        let known =
            |home: &ncp_ihe::HomeCommunityId| *home == call.peer.home_community_id || call.peer.aliases.contains(home);
        entry.home.as_ref().is_none_or(known) && patient == Some(&entry.patient_id)
    };
    let total = response.objects.entries.len();
    let entries: Vec<DocumentEntry> = response.objects.entries.into_iter().filter(ours).collect();
    unusable += total - entries.len();
    let incomplete = match response.status {
        Status::PartialSuccess => response
            .errors
            .iter()
            .filter(|e| e.severity == Severity::Error && !NOTHING.contains(&e.code.as_str()))
            .map(|e| super::peers::code_only(&e.code))
            .collect(),
        _ => Vec::new(),
    };
    Ok(Found { entries, associations: response.objects.associations, incomplete, unusable })
}
