//! Why assertions were refused. The peer is told one code for all but a few; the rule is for the operator.

/// Refusal. The rule names the check, as `signature.reference.uri`; it holds nothing of the assertion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssertionError {
    /// No HCP assertion in the Security header.
    #[error("no hcp assertion")]
    NoHcp,
    /// No TRC assertion where one is needed.
    #[error("no trc assertion")]
    NoTrc,
    /// Shape of the Security header, the assertion or its signature.
    #[error("structure: {0}")]
    Structure(&'static str),
    /// Algorithm or transform outside the closed profile.
    #[error("algorithm: {0}")]
    Algorithm(&'static str),
    /// The signature does not verify.
    #[error("signature: {0}")]
    Signature(&'static str),
    /// The signer is not trusted.
    #[error("signer not trusted: {0}")]
    Trust(String),
    /// Outside its time, or living too long.
    #[error("time: {0}")]
    Time(&'static str),
    /// A required element or value is missing or wrong.
    #[error("content: {0}")]
    Content(&'static str),
    /// For another audience.
    #[error("audience")]
    Audience,
    /// The TRC does not fit the HCP assertion.
    #[error("trc binding: {0}")]
    TrcBinding(&'static str),
    /// Another patient than the TRC's.
    #[error("patient binding")]
    PatientBinding,
    /// Login class is no two-factor one.
    #[error("authentication is too weak")]
    WeakAuthentication,
    /// The seal's token, for operators.
    #[error("seal token: {0}")]
    Token(String),
    /// The workers are gone or the library failed.
    #[error("verification is not available: {0}")]
    Unavailable(&'static str),
}
