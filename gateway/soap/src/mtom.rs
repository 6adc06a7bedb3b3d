//! XOP packages: a bounded root part with the XML, parts behind it as streams.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use base64::Engine;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Body;
use ncp_xml::{Charge, Element, LiftError, Limits};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio_util::io::StreamReader;

use crate::coding::{charset_of_envelope, safe};
use crate::mime::{MediaType, MimeLimits, MultipartBody, MultipartReader, boundary, write_multipart};
use crate::ns::XOP;
use crate::references::{References, decoded};
use crate::{BoxError, Envelope, Pace, SizeLimit, SoapError};

/// What a part takes beside its names: they are known until the message ends.
const PART: usize = 128;
const SOAP_XML: &str = "application/soap+xml";
const XOP_XML: &str = "application/xop+xml";
/// What a cid URL must escape of what our Content-IDs may hold.
const CID: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'<').add(b'>').add(b'"').add(b'#').add(b'?');

/// Bounds on a message. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MessageLimits {
    /// The XML.
    pub root_bytes: usize,
    /// Parts that come before the root part and must be kept, together.
    pub before_root_bytes: usize,
    /// The longest time that 64 KiB are waited for; after it the message counts as stopped.
    pub idle: Duration,
    /// Parts of the package.
    pub parts: usize,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self { root_bytes: 16 << 20, before_root_bytes: 16 << 20, idle: Duration::from_secs(30), parts: 16_384 }
    }
}

/// A message whose root has been read.
pub struct IncomingMessage<B> {
    /// The XML, not yet parsed.
    pub root: Bytes,
    /// The action that the Content-Type of the message or of its root part declares.
    pub action: Option<String>,
    /// What follows.
    pub parts: Parts<B>,
}

/// A part's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    /// Content-ID without angle brackets.
    pub content_id: String,
    /// Media type without parameters.
    pub media_type: String,
}

/// A part that came before the root, or why it cannot be read.
type EarlyPart = (PartHead, Result<Bytes, SoapError>);

/// The parts behind the root, one after the other.
pub struct Parts<B> {
    reader: Option<MultipartReader<B>>,
    /// Parts that came before the root.
    early: VecDeque<EarlyPart>,
    current: Option<Result<Bytes, SoapError>>,
    root_id: String,
    seen: BTreeSet<String>,
    charge: Charge,
    references: References,
}

/// Reads the root of a message: `application/soap+xml`, or `multipart/related` with a XOP root named by `start`. What the
/// message holds is charged to its sender.
///
/// # Errors
/// Media type, MIME shape, limits, silence, early end.
pub async fn read_message<B>(
    headers: &HeaderMap,
    body: B,
    limits: &MessageLimits,
    charge: Charge,
) -> Result<IncomingMessage<B>, SoapError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut bytes = BytesMut::new();
    let (action, parts) = read_root(headers, body, limits, charge, &mut bytes).await?;
    Ok(IncomingMessage { root: bytes.freeze(), action, parts })
}

/// The same with the root in a buffer of the caller's, which after an error holds what was read of it. Returns the declared
/// action and the parts behind the root.
///
/// # Errors
/// As [`read_message`].
pub async fn read_root<B>(
    headers: &HeaderMap,
    body: B,
    limits: &MessageLimits,
    mut charge: Charge,
    bytes: &mut BytesMut,
) -> Result<(Option<String>, Parts<B>), SoapError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut root = Root::open(headers, body, limits, &mut charge).await?;
    while let Some(chunk) = root.chunk().await? {
        charge.grow(chunk.len())?;
        append(bytes, &chunk, limits.root_bytes)?;
    }
    Ok((root.action.take(), root.into_parts(charge)))
}

/// Reads the root of a message as it comes. Body elements called `lifted` (namespace, local name) go to `take` one by
/// one; the envelope that is returned lacks them.
///
/// # Errors
/// As [`read_message`]; XML, and a shape that is no envelope.
pub async fn read_lifting<B>(
    headers: &HeaderMap,
    body: B,
    (limits, xml): (&MessageLimits, &Limits),
    lifted: (&str, &str),
    take: &mut (dyn FnMut(Element) + Send),
    mut charge: Charge,
) -> Result<(Envelope, Parts<B>), SoapError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut root = Root::open(headers, body, limits, &mut charge).await?;
    let coming = &mut root;
    let chunks = async_stream::stream! {
        while let Some(chunk) = coming.chunk().await.map_err(std::io::Error::other).transpose() {
            yield chunk;
        }
    };
    let tree = Element::parse_lifting(StreamReader::new(Box::pin(chunks)), xml, lifted, take, &mut charge).await;
    let tree = tree.map_err(|error| match error {
        LiftError::Xml(error) => SoapError::from(error),
        LiftError::Source(error) => error.downcast().unwrap_or(SoapError::Connection),
    })?;
    Ok((Envelope::from_element(tree)?, root.into_parts(charge)))
}

/// The root of a message, while it is read.
struct Root<B> {
    source: Source<B>,
    action: Option<String>,
    early: VecDeque<EarlyPart>,
    id: String,
    seen: BTreeSet<String>,
}

enum Source<B> {
    /// Simple SOAP.
    Whole(B, Pace),
    /// A package that stands at its root part.
    Package(MultipartReader<B>),
}

impl<B> Root<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    async fn open(
        headers: &HeaderMap,
        body: B,
        limits: &MessageLimits,
        charge: &mut Charge,
    ) -> Result<Self, SoapError> {
        uncoded(headers)?;
        let announced = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = MediaType::parse(announced);
        match media_type.essence.as_str() {
            SOAP_XML | XOP_XML => {
                charset_of_envelope(media_type.parameter("charset"))?;
                if body.size_hint().lower() > limits.root_bytes as u64 {
                    return Err(SoapError::TooLarge(SizeLimit::Body));
                }
                let source = Source::Whole(body, Pace::new(limits.idle));
                let action = media_type.parameter("action").map(ToOwned::to_owned);
                let (early, id, seen) = (VecDeque::new(), String::new(), BTreeSet::new());
                Ok(Self { source, action, early, id, seen })
            }
            "text/xml" => Err(SoapError::Version),
            "multipart/related" => Self::of_package(&media_type, body, limits, charge).await,
            _ => Err(SoapError::MediaType),
        }
    }

    async fn of_package(
        media_type: &MediaType,
        body: B,
        limits: &MessageLimits,
        charge: &mut Charge,
    ) -> Result<Self, SoapError> {
        let boundary = media_type.parameter("boundary").ok_or(SoapError::Mime)?;
        let start = media_type.parameter("start").map(|s| s.trim_start_matches('<').trim_end_matches('>').to_owned());
        let mime = MimeLimits { parts: limits.parts, idle: limits.idle, ..MimeLimits::default() };
        let mut reader = MultipartReader::new(body, boundary, mime)?;
        let mut early = VecDeque::new();
        let mut early_bytes = 0;
        let mut seen = BTreeSet::new();
        while let Some(part) = reader.next_part().await? {
            let id = part.content_id().unwrap_or_default().to_owned();
            if !id.is_empty() && !seen.insert(id.clone()) {
                return Err(SoapError::DuplicateContentId);
            }
            if start.as_ref().is_none_or(|start| *start == id) {
                let declared = part.content_type();
                charset_of_envelope(declared.as_ref().and_then(|declared| declared.parameter("charset")))?;
                let action = declared_action(media_type, declared.as_ref());
                return Ok(Self { source: Source::Package(reader), action, early, id, seen });
            }
            let mut bytes = BytesMut::new();
            let content = loop {
                match reader.next_chunk().await {
                    Ok(Some(chunk)) => {
                        charge.grow(chunk.len())?;
                        append(&mut bytes, &chunk, limits.before_root_bytes - early_bytes)?;
                    }
                    Ok(None) => break Ok(bytes.freeze()),
                    Err(error) if error.is_of_part() => break Err(error),
                    Err(error) => return Err(error),
                }
            };
            early_bytes += content.as_ref().map_or(0, Bytes::len);
            let head = PartHead { content_id: id, media_type: part.media_type().unwrap_or_default() };
            charge.grow(PART + 2 * head.content_id.len() + head.media_type.len())?;
            early.push_back((head, content));
        }
        Err(SoapError::Mime)
    }

    /// The next bytes of the root; `None` at its end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, SoapError> {
        match &mut self.source {
            Source::Whole(body, pace) => pace.data(body).await,
            Source::Package(reader) => reader.next_chunk().await,
        }
    }

    fn into_parts(self, charge: Charge) -> Parts<B> {
        let Self { source, early, id, seen, .. } = self;
        let reader = match source {
            Source::Whole(..) => None,
            Source::Package(reader) => Some(reader),
        };
        Parts { reader, early, current: None, root_id: id, seen, charge, references: References::default() }
    }
}

/// The action as a parameter of the package, of its `start-info`, of the root part, or of that one's `type` (RFC 3902,
/// SOAP 1.2 part 2 appendix A): stacks differ in where they put it.
fn declared_action(package: &MediaType, root: Option<&MediaType>) -> Option<String> {
    let inner = |holder: Option<&MediaType>, name: &str| {
        let value = holder.and_then(|holder| holder.parameter(name))?;
        MediaType::parse(value).parameter("action").map(ToOwned::to_owned)
    };
    let direct = |holder: Option<&MediaType>| holder.and_then(|h| h.parameter("action")).map(ToOwned::to_owned);
    direct(Some(package))
        .or_else(|| direct(root))
        .or_else(|| inner(Some(package), "start-info"))
        .or_else(|| inner(root, "type"))
        .filter(|action| !action.is_empty())
}

/// HTTP has no Content-Transfer-Encoding (RFC 9112 B.5) and we ask for no Content-Encoding. A sender that declares one
/// means it, so that its message is not taken for what it is without it.
fn uncoded(headers: &HeaderMap) -> Result<(), SoapError> {
    let declared = |name: &str, plain: &[&str]| {
        let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default().trim());
        let mut coded = values.filter(|value| !plain.iter().any(|known| value.eq_ignore_ascii_case(known)));
        coded.next().map(safe)
    };
    if let Some(value) = declared("content-encoding", &["identity"]) {
        return Err(SoapError::ContentEncoding(value));
    }
    match declared("content-transfer-encoding", &["7bit", "8bit", "binary"]) {
        Some(value) => Err(SoapError::TransferEncoding(value)),
        None => Ok(()),
    }
}

fn append(out: &mut BytesMut, data: &[u8], limit: usize) -> Result<(), SoapError> {
    let room = limit.saturating_sub(out.len()).min(data.len());
    out.extend_from_slice(&data[..room]);
    if room < data.len() { Err(SoapError::TooLarge(SizeLimit::Body)) } else { Ok(()) }
}

impl<B> Parts<B> {
    /// Takes the Includes of the root's body: a part is then called as [`included`] calls it, also where its Content-ID is
    /// written percent-coded, as its reference is.
    ///
    /// # Errors
    /// More Includes than any answer has; other messages have the memory.
    pub fn refer(&mut self, body: &Element) -> Result<(), SoapError> {
        self.references = References::of(body, &mut self.charge)?;
        Ok(())
    }

    /// Content-ID of the root; an Include of it is a loop.
    pub fn root_id(&self) -> &str {
        &self.root_id
    }

    /// What the message holds of the budget of all messages; given back when the parts are dropped.
    pub fn charge(&mut self) -> &mut Charge {
        &mut self.charge
    }

    /// The same, where nothing is wanted of the parts.
    pub fn into_charge(self) -> Charge {
        self.charge
    }
}

impl<B> Parts<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Goes to the next part; `None` after the closing boundary.
    ///
    /// # Errors
    /// MIME shape, limits, silence, early end.
    pub async fn next(&mut self) -> Result<Option<PartHead>, SoapError> {
        if let Some((head, bytes)) = self.early.pop_front() {
            self.current = Some(bytes);
            let content_id = self.references.called(head.content_id)?;
            return Ok(Some(PartHead { content_id, ..head }));
        }
        self.current = None;
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let Some(part) = reader.next_part().await? else { return Ok(None) };
        let content_id = part.content_id().unwrap_or_default().to_owned();
        if !content_id.is_empty() && !self.seen.insert(content_id.clone()) {
            return Err(SoapError::DuplicateContentId);
        }
        let media_type = part.media_type().unwrap_or_default();
        self.charge.grow(PART + 2 * content_id.len())?;
        let content_id = self.references.called(content_id)?;
        Ok(Some(PartHead { content_id, media_type }))
    }

    /// The next bytes of the present part; `None` at its end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SoapError> {
        match self.current.take() {
            Some(Ok(bytes)) => {
                self.current = Some(Ok(Bytes::new()));
                return Ok((!bytes.is_empty()).then_some(bytes));
            }
            Some(Err(error)) => {
                self.current = Some(Err(error.clone()));
                return Err(error);
            }
            None => {}
        }
        match &mut self.reader {
            Some(reader) => reader.next_chunk().await,
            None => Ok(None),
        }
    }

    /// Reads the rest of a message that needs no parts, so that its end is known to have come.
    ///
    /// # Errors
    /// As [`next`](Self::next), and [`SoapError::TooLarge`] beyond `limit` bytes, those of the parts' headers among them.
    pub async fn drain(&mut self, limit: usize) -> Result<(), SoapError> {
        let mut left = limit;
        self.early.clear();
        while let Some(reader) = &mut self.reader {
            let headers = reader.headers_read();
            while let Some(coded) = reader.next_coded().await? {
                left = left.checked_sub(coded.len()).ok_or(SoapError::TooLarge(SizeLimit::Body))?;
            }
            if self.next().await?.is_none() {
                break;
            }
            let headers = self.reader.as_ref().map_or(0, MultipartReader::headers_read) - headers;
            left = left.checked_sub(headers).ok_or(SoapError::TooLarge(SizeLimit::Body))?;
        }
        Ok(())
    }
}

/// An Include of a part.
pub fn include(content_id: &str) -> Element {
    let href = format!("cid:{}", utf8_percent_encode(content_id, CID));
    Element::new(XOP, "Include").attr("href", href)
}

/// The Content-ID that an Include inside `holder` names; `None` when there is no Include.
///
/// # Errors
/// [`SoapError::UnresolvedInclude`] when it points outside the message or has company.
pub fn included(holder: &Element) -> Result<Option<String>, SoapError> {
    let mut elements = holder.elements();
    let Some(first) = elements.next() else { return Ok(None) };
    if !first.is(XOP, "Include") || elements.next().is_some() || !holder.trimmed().is_empty() {
        return Err(SoapError::UnresolvedInclude);
    }
    decoded(first).map(Some)
}

/// Inline base64 content, white space allowed.
///
/// # Errors
/// [`SoapError::Mime`] when it is not base64.
pub fn inline_content(holder: &Element) -> Result<Bytes, SoapError> {
    let compact: String = holder.content().chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(compact).map_err(|_| SoapError::Mime)?;
    Ok(bytes.into())
}

/// A part on its way out.
pub struct OutPart {
    /// Content-ID without angle brackets; empty for none.
    pub content_id: String,
    /// Media type.
    pub media_type: String,
    /// Its bytes.
    pub data: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>,
}

/// A XOP package: content type and body.
pub fn mtom_response<S>(root: Vec<u8>, parts: S) -> (HeaderValue, MultipartBody)
where
    S: Stream<Item = Result<OutPart, BoxError>> + Send + 'static,
{
    package_out(root, parts)
}

/// A request whose transaction asks for MTOM; it has no binary part.
pub fn mtom_request(root: Vec<u8>) -> (HeaderValue, MultipartBody) {
    package_out(root, futures_util::stream::empty())
}

fn package_out<S>(root: Vec<u8>, parts: S) -> (HeaderValue, MultipartBody)
where
    S: Stream<Item = Result<OutPart, BoxError>> + Send + 'static,
{
    let boundary = boundary();
    let root_id = format!("root.{boundary}@ncp");
    let content_type = format!(
        "multipart/related; boundary=\"{boundary}\"; type=\"{XOP_XML}\"; start=\"<{root_id}>\"; start-info=\"{SOAP_XML}\""
    );
    let headers = format!(
        "Content-Type: {XOP_XML}; charset=UTF-8; type=\"{SOAP_XML}\"\r\n\
         Content-Transfer-Encoding: binary\r\nContent-ID: <{root_id}>\r\n"
    );
    let body = write_multipart(&boundary, Some((headers, root.into())), parts);
    (header_value(&content_type), body)
}

/// Content type of simple SOAP.
pub fn soap_content_type(action: &str) -> HeaderValue {
    header_value(&format!("{SOAP_XML}; charset=UTF-8; action=\"{action}\""))
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(SOAP_XML))
}
