//! Why assertions were refused. The peer is told one code for all but a few; the rule is for the operator.

/// What of an element is not in the table of the closed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormFault {
    /// A child that it may not have.
    #[error("a child that it may not have")]
    Child,
    /// An attribute that it may not have.
    #[error("an attribute that it may not have")]
    Attribute,
    /// Text where only elements may stand.
    #[error("text among its children")]
    Text,
    /// Something that must stand there does not.
    #[error("no {0}")]
    Missing(&'static str),
    /// Something stands there more often than it may.
    #[error("{0} stands too often")]
    Twice(&'static str),
    /// A child stands behind one that it must precede.
    #[error("{0} out of its order")]
    Order(&'static str),
}

/// A text that is too long to be recorded wherever it is named. The text itself is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {bytes} bytes, at most {most} (sha-256 {sha256})")]
pub struct Oversize {
    /// What it is.
    pub what: &'static str,
    /// Its length.
    pub bytes: usize,
    /// The most that is taken.
    pub most: usize,
    /// Its SHA-256, hex.
    pub sha256: String,
}

impl Oversize {
    /// Judges a text by its length.
    ///
    /// # Errors
    /// It is longer than `most`.
    pub fn check(what: &'static str, text: &[u8], most: usize) -> Result<(), Self> {
        if text.len() <= most {
            return Ok(());
        }
        Err(Self { what, bytes: text.len(), most, sha256: hex::encode(openssl::sha::sha256(text)) })
    }
}

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
    /// The content has something that is not in its closed table, or lacks something.
    #[error("form: {element}: {fault}")]
    Form {
        /// Element whose row it is.
        element: &'static str,
        /// What is wrong.
        fault: FormFault,
    },
    /// A text is too long.
    #[error("too long: {0}")]
    Oversize(#[from] Oversize),
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
