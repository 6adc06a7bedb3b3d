//! What can be wrong with a message on its way in, and the fault that says so.

use ncp_xml::{Busy, XmlError};

use crate::Fault;

/// Error of a body or part stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which bound was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeLimit {
    /// Body or part: HTTP 413.
    Body,
    /// Header fields: HTTP 431.
    Headers,
}

/// Refusal of a message. The texts hold nothing of the message but a declared coding or charset.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SoapError {
    /// Unreadable XML.
    #[error("{}", of_xml(.0))]
    Xml(XmlError),
    /// The messages that are being read leave no memory for this one: it is to be sent again.
    #[error("no memory for the message now")]
    Busy,
    /// Not an envelope with one body element.
    #[error("not a SOAP envelope with one body element")]
    Envelope,
    /// An envelope with nothing in its Body: a request is none; to one whose answer goes elsewhere it says that it was taken.
    #[error("the body of the SOAP envelope is empty")]
    EmptyBody,
    /// SOAP 1.1.
    #[error("soap 1.1 envelope")]
    Version,
    /// Media type is none of ours.
    #[error("media type not supported")]
    MediaType,
    /// multipart without boundary, broken part headers, no part named by `start`.
    #[error("part header or boundary is not readable")]
    Mime,
    /// A part in a Content-Transfer-Encoding that is not known (RFC 2045 6.4). The value holds characters of a token only.
    #[error("Content-Transfer-Encoding {0} is not known")]
    TransferEncoding(String),
    /// A part that is not in the Content-Transfer-Encoding that it declares.
    #[error("part is not the {0} that its Content-Transfer-Encoding says")]
    Undecodable(&'static str),
    /// The message, or a part, is compressed; the value as in [`TransferEncoding`](Self::TransferEncoding).
    #[error("Content-Encoding {0} is not taken")]
    ContentEncoding(String),
    /// XML in a charset that is not read; the value as in [`TransferEncoding`](Self::TransferEncoding).
    #[error("charset {0} is not read")]
    Charset(String),
    /// A limit was passed.
    #[error("message too large")]
    TooLarge(SizeLimit),
    /// Nothing came for too long.
    #[error("message came too slowly")]
    Timeout,
    /// The stream ended before the closing boundary.
    #[error("message ends early")]
    Truncated,
    /// Two parts with one Content-ID.
    #[error("two parts with one content id")]
    DuplicateContentId,
    /// An Include stands where the content of a document is not: where.
    #[error("{0}")]
    Optimised(&'static str),
    /// An Include names no part, the root, the same part twice, or something outside the message.
    #[error("include cannot be resolved")]
    UnresolvedInclude,
    /// Action missing or unknown.
    #[error("action not supported")]
    Action,
    /// Action does not fit the body.
    #[error("action does not fit the body")]
    ActionMismatch,
    /// A header with mustUnderstand that we do not know.
    #[error("header must be understood")]
    MustUnderstand,
    /// What a block says of its encoding, or of whether it must be understood, cannot be read.
    #[error("attribute of a header cannot be read")]
    HeaderAttribute,
    /// An addressing header twice or malformed.
    #[error("invalid addressing header")]
    Addressing,
    /// ReplyTo or FaultTo is not anonymous and not configured.
    #[error("reply address refused")]
    AddressRefused,
    /// The answer to a request that was answered or given up.
    #[error("nobody waits for this answer any more")]
    Late,
    /// `wsa:To` is somebody else's address.
    #[error("message is addressed to somebody else")]
    Destination,
    /// MessageID was used for another message.
    #[error("message id was used before")]
    DuplicateMessageId,
    /// The connection failed.
    #[error("connection failed")]
    Connection,
}

impl From<XmlError> for SoapError {
    fn from(error: XmlError) -> Self {
        if error == XmlError::Busy { Self::Busy } else { Self::Xml(error) }
    }
}

impl From<Busy> for SoapError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl SoapError {
    /// Whether only the present part is concerned: the parts behind it can still be read. The text tells the sender what to
    /// change: a declaration of content and its value.
    pub fn is_of_part(&self) -> bool {
        use SoapError::{Charset, ContentEncoding, TransferEncoding, Undecodable};
        matches!(self, TransferEncoding(_) | Undecodable(_) | ContentEncoding(_) | Charset(_))
    }

    /// HTTP status of the fault: SOAP 1.2 Part 2 table 20, and 413, 415, 431, 408 for what never became a message.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::TooLarge(SizeLimit::Headers) => 431,
            Self::TooLarge(SizeLimit::Body) => 413,
            Self::Xml(error) if error.is_size() => 413,
            Self::Busy => 503,
            Self::Timeout => 408,
            Self::MediaType | Self::ContentEncoding(_) | Self::Charset(_) => 415,
            Self::Version | Self::MustUnderstand => 500,
            _ => 400,
        }
    }

    /// The fault; its text is fixed and carries the reference.
    pub fn fault(&self, reference: &str) -> Fault {
        let text = |what: &str| format!("{what} (reference {reference})");
        match self {
            Self::Version => Fault::new("VersionMismatch", "", "", &text("SOAP 1.2 is required")),
            Self::MustUnderstand => Fault::new("MustUnderstand", "", "", &text("a header was not understood")),
            Self::Busy => Fault::receiver(&text("busy, try again in 5 s")),
            Self::Action => Fault::sender("wsa:ActionNotSupported", &text("action not supported")),
            Self::ActionMismatch => Fault::new(
                "Sender",
                "wsa:InvalidAddressingHeader",
                "wsa:ActionMismatch",
                &text("action does not fit the body"),
            ),
            Self::Addressing => Fault::new(
                "Sender",
                "wsa:InvalidAddressingHeader",
                "wsa:InvalidCardinality",
                &text("invalid addressing"),
            ),
            Self::AddressRefused => Fault::new(
                "Sender",
                "wsa:InvalidAddressingHeader",
                "wsa:OnlyAnonymousAddressSupported",
                &text("only the anonymous reply address is supported"),
            ),
            Self::Destination => Fault::sender("wsa:DestinationUnreachable", &text("not our address")),
            Self::DuplicateMessageId => Fault::new(
                "Sender",
                "wsa:InvalidAddressingHeader",
                "wsa:DuplicateMessageID",
                &text("message id was used before"),
            ),
            other => Fault::sender("", &text(&other.to_string())),
        }
    }
}

/// Why XML cannot be read, from a closed list: nothing of the message and none of the parser's words.
fn of_xml(error: &XmlError) -> &'static str {
    match error {
        XmlError::Malformed => "XML is not well-formed or ends early",
        XmlError::Doctype => "DOCTYPE is not allowed",
        XmlError::Encoding => "encoding is not UTF-8",
        XmlError::Entity => "an entity of XML is not declared",
        XmlError::Namespace => "a namespace prefix is not bound",
        XmlError::TooDeep => "XML is nested too deep",
        XmlError::TooManyAttributes => "too many or too long attributes",
        XmlError::TooManyNodes => "too many elements and texts",
        XmlError::TooLarge => "XML is too large",
        XmlError::Memory => "XML takes more memory than its length allows",
        _ => "XML cannot be read",
    }
}
