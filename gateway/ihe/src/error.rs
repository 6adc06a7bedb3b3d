//! What is wrong with the body of a message.

/// Refusal of a body; the texts hold nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not the shape of the transaction.
    #[error("malformed body: {0}")]
    Malformed(&'static str),
    /// homeCommunityId is required and absent.
    #[error("home community id is missing")]
    HomeCommunityMissing,
    /// homeCommunityId is not the receiver's.
    #[error("home community id is not ours")]
    HomeCommunityUnknown,
    /// RepositoryUniqueId is no OID, so nobody's.
    #[error("repository is not known")]
    RepositoryUnknown,
    /// A stored query that is not served.
    #[error("stored query is not served")]
    QueryUnknown,
    /// A required parameter is absent.
    #[error("query parameter {0} is missing")]
    QueryMissingParam(&'static str),
    /// A parameter has more values than it may.
    #[error("query parameter {0} has too many values")]
    QueryParamNumber(&'static str),
    /// A parameter cannot be read.
    #[error("query parameter {0} cannot be read")]
    QueryParamInvalid(&'static str),
    /// ITI-55 with demographics alone.
    #[error("demographics only")]
    DemographicsOnly,
    /// ITI-55 with a deferred response.
    #[error("deferred response is not supported")]
    DeferredUnsupported,
    /// No patient identifier.
    #[error("no patient identifier")]
    NoPatientId,
}
