//! What a part declares about its bytes: Content-Transfer-Encoding is undone while the part passes (RFC 2045 6), a charset
//! is compared with what can be read. What is not known, or is not what it is declared to be, is an error of that part.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};

use crate::SoapError;
use crate::mime::MediaType;

/// White space that may stand before a line end of quoted-printable, bytes: a line of mail has at most 998 (RFC 5322).
const PADDING: usize = 998;

/// How the bytes of one part become its content.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// `7bit`, `8bit` and `binary`: as they are.
    Identity,
    /// `base64`, RFC 2045 6.8.
    Base64(Base64),
    /// `quoted-printable`, RFC 2045 6.7.
    QuotedPrintable(QuotedPrintable),
    /// Nothing that is known: the part has no readable content.
    Refused(SoapError),
}

impl Decoder {
    /// The decoder of a Content-Transfer-Encoding; without one a part is `7bit`, and read as it is. MIME has no
    /// Content-Encoding of a part, and a sender that declares one means it.
    pub(crate) fn of(declared: Option<&str>, content_encoding: Option<&str>) -> Self {
        if let Some(coding) = content_encoding.filter(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
            return Self::Refused(SoapError::ContentEncoding(safe(coding)));
        }
        let Some(declared) = declared else { return Self::Identity };
        match declared.trim().to_ascii_lowercase().as_str() {
            "7bit" | "8bit" | "binary" => Self::Identity,
            "base64" => Self::Base64(Base64::default()),
            "quoted-printable" => Self::QuotedPrintable(QuotedPrintable::default()),
            other => Self::Refused(SoapError::TransferEncoding(safe(other))),
        }
    }

    /// The content of the next bytes; it may be empty, and some bytes may wait for those that follow.
    pub(crate) fn decode(&mut self, chunk: Bytes) -> Result<Bytes, SoapError> {
        match self {
            Self::Identity => Ok(chunk),
            Self::Base64(decoder) => decoder.decode(&chunk),
            Self::QuotedPrintable(decoder) => decoder.decode(&chunk),
            Self::Refused(error) => Err(error.clone()),
        }
    }

    /// The part has ended.
    pub(crate) fn end(&mut self) -> Result<(), SoapError> {
        match self {
            Self::Identity => Ok(()),
            Self::Base64(decoder) if decoder.held.is_empty() => Ok(()),
            Self::Base64(_) => Err(BASE64),
            Self::QuotedPrintable(decoder) => decoder.end(),
            Self::Refused(error) => Err(error.clone()),
        }
    }
}

const BASE64: SoapError = SoapError::Undecodable("base64");
const QUOTED: SoapError = SoapError::Undecodable("quoted-printable");

/// Base64 in any line length. Groups of four that are not complete wait.
#[derive(Debug, Default)]
pub(crate) struct Base64 {
    held: Vec<u8>,
    padded: bool,
}

impl Base64 {
    fn decode(&mut self, chunk: &[u8]) -> Result<Bytes, SoapError> {
        let before = self.held.len();
        self.held.extend(chunk.iter().filter(|byte| !byte.is_ascii_whitespace()));
        if self.padded && self.held.len() > before {
            return Err(BASE64);
        }
        let whole = self.held.len() / 4 * 4;
        let decoded = STANDARD.decode(&self.held[..whole]).map_err(|_| BASE64)?;
        self.padded |= self.held[..whole].ends_with(b"=");
        self.held.drain(..whole);
        if self.padded && !self.held.is_empty() { Err(BASE64) } else { Ok(decoded.into()) }
    }
}

/// Quoted-printable. An escape or a line end that is not complete waits, and white space until it is known whether the
/// line ends behind it.
#[derive(Debug, Default)]
pub(crate) struct QuotedPrintable {
    held: Vec<u8>,
}

impl QuotedPrintable {
    fn decode(&mut self, chunk: &[u8]) -> Result<Bytes, SoapError> {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(chunk);
        let mut out = BytesMut::with_capacity(input.len());
        let mut at = 0;
        while let Some((length, piece)) = quoted(&input[at..])? {
            match piece {
                Quoted::Content => out.extend_from_slice(&input[at..at + length]),
                Quoted::Octet(octet) => out.extend_from_slice(&[octet]),
                Quoted::Nothing => {}
            }
            at += length;
        }
        self.held = input.split_off(at);
        Ok(out.freeze())
    }

    /// White space before the end is no content; an escape that is not complete was cut off.
    fn end(&mut self) -> Result<(), SoapError> {
        if self.held.iter().all(|byte| matches!(byte, b' ' | b'\t')) { Ok(()) } else { Err(QUOTED) }
    }
}

/// What a piece of quoted-printable text means.
enum Quoted {
    /// Its bytes stand for themselves.
    Content,
    /// `=XX`, or a line end. A line end stands for that of the text, which an encoder writes as CR LF whatever it was; one
    /// that keeps a CR writes it as `=0D`.
    Octet(u8),
    /// A soft line break, or white space at the end of a line.
    Nothing,
}

/// The length and the meaning of the next piece; `None` when more bytes are needed to know it.
fn quoted(input: &[u8]) -> Result<Option<(usize, Quoted)>, SoapError> {
    let printable = input.iter().take_while(|byte| matches!(byte, b'!'..=b'<' | b'>'..=b'~')).count();
    if printable > 0 {
        return Ok(Some((printable, Quoted::Content)));
    }
    let Some(first) = input.first() else { return Ok(None) };
    let escape = usize::from(*first == b'=');
    let blank = input[escape..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    if blank > PADDING {
        return Err(QUOTED);
    }
    match (first, &input[escape + blank..]) {
        (b'=' | b' ' | b'\t', [] | [b'\r']) | (b'\r', [b'\r']) => Ok(None),
        (b'=', [b'\r', b'\n', ..]) => Ok(Some((1 + blank + 2, Quoted::Nothing))),
        (b'=', [_]) if blank == 0 => Ok(None),
        (b'=', [high, low, ..]) if blank == 0 => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => Ok(Some((3, Quoted::Octet(high << 4 | low)))),
            _ => Err(QUOTED),
        },
        (b' ' | b'\t', [b'\r', b'\n', ..]) => Ok(Some((blank, Quoted::Nothing))),
        (b' ' | b'\t', [next, ..]) if *next != b'\r' => Ok(Some((blank, Quoted::Content))),
        (b'\r', [b'\r', b'\n', ..]) => Ok(Some((2, Quoted::Octet(b'\n')))),
        _ => Err(QUOTED),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A declared value that may be named in a log and in an answer: what a token of MIME holds, and not much of it.
pub(crate) fn safe(value: &str) -> String {
    let token = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | ':');
    let out: String = value.chars().take(40).filter(token).collect();
    if out.is_empty() { "without a readable value".to_owned() } else { out }
}

/// Charsets in which an envelope is read.
const ENVELOPE: [&str; 2] = ["utf-8", "us-ascii"];
/// Charsets of XML that goes on as it is, by the beginning of their names (IANA): a reader of XML knows them.
const DOCUMENT: [&str; 16] = [
    "utf-8",
    "utf-16",
    "utf-32",
    "us-ascii",
    "ascii",
    "iso-8859-",
    "iso_8859-",
    "latin",
    "windows-125",
    "koi8-",
    "gb",
    "big5",
    "shift_jis",
    "euc-",
    "iso-2022-",
    "tis-620",
];

/// Whether an envelope's charset can be read.
///
/// # Errors
/// [`SoapError::Charset`] with its name.
pub(crate) fn charset_of_envelope(declared: Option<&str>) -> Result<(), SoapError> {
    let unknown = declared.filter(|name| !ENVELOPE.iter().any(|known| name.trim().eq_ignore_ascii_case(known)));
    unknown.map_or(Ok(()), |name| Err(SoapError::Charset(safe(name))))
}

/// Whether somebody can know the charset of a part that is XML.
///
/// # Errors
/// [`SoapError::Charset`] with its name.
pub(crate) fn charset_of_part(content_type: &MediaType) -> Result<(), SoapError> {
    let essence = content_type.essence.as_str();
    let is_xml = matches!(essence, "text/xml" | "application/xml") || essence.ends_with("+xml");
    let Some(name) = content_type.parameter("charset").filter(|_| is_xml) else { return Ok(()) };
    let lower = name.trim().to_ascii_lowercase();
    let known = DOCUMENT.iter().any(|known| lower.starts_with(known));
    if known { Ok(()) } else { Err(SoapError::Charset(safe(name))) }
}
