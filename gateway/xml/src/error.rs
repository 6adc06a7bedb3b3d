//! Why a document was not read. The texts hold nothing of the document.

/// Refusal of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// Not well-formed, truncated, or bytes after the root element.
    #[error("not well-formed")]
    Malformed,
    /// A document type declaration.
    #[error("document type declaration")]
    Doctype,
    /// Neither UTF-8 nor declared as such, or a character that XML 1.0 does not have.
    #[error("encoding is not utf-8")]
    Encoding,
    /// An entity beyond the five.
    #[error("undeclared entity")]
    Entity,
    /// A prefix without declaration, or a reserved one rebound.
    #[error("namespace prefix is not bound")]
    Namespace,
    /// Nested too deep.
    #[error("nested too deep")]
    TooDeep,
    /// Too many attributes or namespace declarations on one element, or one is too long.
    #[error("too many or too long attributes")]
    TooManyAttributes,
    /// Too many elements and text nodes.
    #[error("too many nodes")]
    TooManyNodes,
    /// Too many bytes in all or in one text.
    #[error("too large")]
    TooLarge,
    /// Its tree takes more memory than a document of its length may.
    #[error("takes too much memory")]
    Memory,
    /// The messages that are being read leave no memory for it now. It may be sound.
    #[error("no memory for it now")]
    Busy,
}

impl XmlError {
    /// True when a limit was passed and the document may be well-formed otherwise.
    pub fn is_size(self) -> bool {
        matches!(self, Self::TooDeep | Self::TooManyAttributes | Self::TooManyNodes | Self::TooLarge | Self::Memory)
    }
}
