//! Reading the trail of a repository.

use ncp_proto::audit::audit_query_client::AuditQueryClient;
use ncp_proto::audit::{Found, GapsReply, GapsRequest, SearchRequest, WatchRequest};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::AuditError;

/// What is searched; empty fields do not restrict.
pub type Filter = SearchRequest;

fn repository(status: tonic::Status) -> AuditError {
    AuditError::Repository(status.message().to_owned())
}

/// Bytes of a search's message.
pub(crate) const QUERY_BYTES: usize = 1 << 20;
/// Bytes of a message that shows a record; also records of releases before 0.2, which had no bound, can be shown.
pub(crate) const FOUND_BYTES: usize = 64 << 20;

fn client(channel: Channel) -> AuditQueryClient<Channel> {
    AuditQueryClient::new(channel).max_decoding_message_size(FOUND_BYTES).max_encoding_message_size(QUERY_BYTES)
}

/// Searches and returns what was found, newest first.
///
/// # Errors
/// The repository did not answer.
pub async fn search(channel: Channel, filter: Filter) -> Result<Vec<Found>, AuditError> {
    let mut stream = client(channel).search(filter).await.map_err(repository)?.into_inner();
    let mut out = Vec::new();
    while let Some(found) = stream.message().await.map_err(repository)? {
        out.push(found);
    }
    Ok(out)
}

/// What each source sent, what is missing, who is silent, what was refused.
///
/// # Errors
/// The repository did not answer.
pub async fn gaps(channel: Channel) -> Result<GapsReply, AuditError> {
    Ok(client(channel).gaps(GapsRequest {}).await.map_err(repository)?.into_inner())
}

/// Everything that the repository keeps from now on.
///
/// # Errors
/// The repository did not answer.
pub async fn watch(channel: Channel, reason: String) -> Result<Streaming<Found>, AuditError> {
    Ok(client(channel).watch(WatchRequest { reason }).await.map_err(repository)?.into_inner())
}
