//! Searching the trail of a repository.

use ncp_proto::audit::audit_query_client::AuditQueryClient;
use ncp_proto::audit::{Found, SearchRequest};
use tonic::transport::Channel;

use crate::AuditError;

/// What is searched; empty fields do not restrict.
pub type Filter = SearchRequest;

/// Searches and returns what was found, newest first.
///
/// # Errors
/// The repository did not answer.
pub async fn search(channel: Channel, filter: Filter) -> Result<Vec<Found>, AuditError> {
    let repository = |status: tonic::Status| AuditError::Repository(status.message().to_owned());
    let mut stream = AuditQueryClient::new(channel).search(filter).await.map_err(repository)?.into_inner();
    let mut out = Vec::new();
    while let Some(found) = stream.message().await.map_err(repository)? {
        out.push(found);
    }
    Ok(out)
}
