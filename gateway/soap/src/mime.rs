//! multipart/related as streams (RFC 2046, RFC 2387): chunks are slices of what the connection delivered, nothing is
//! collected, and the next chunk is asked for only when the last was taken. A Content-Transfer-Encoding is undone while a
//! part passes (RFC 2045 6).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};

use crate::coding::{Decoder, charset_of_part};
use crate::{BoxError, OutPart, Pace, SizeLimit, SoapError};

/// Longest time for what stands behind the closing boundary.
const EPILOGUE: Duration = Duration::from_secs(1);

/// Bounds on the structure; the sizes of parts are the caller's.
#[derive(Debug, Clone, Copy)]
pub struct MimeLimits {
    /// Header fields of one part, bytes.
    pub header_bytes: usize,
    /// Parts in one message.
    pub parts: usize,
    /// The longest time that 64 KiB are waited for; after it the message counts as stopped.
    pub idle: Duration,
}

impl Default for MimeLimits {
    fn default() -> Self {
        Self { header_bytes: 16 << 10, parts: 16_384, idle: Duration::from_secs(30) }
    }
}

/// Header fields of a part, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHeaders(Vec<(String, String)>);

impl PartHeaders {
    /// Value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Content-ID without angle brackets.
    pub fn content_id(&self) -> Option<&str> {
        self.get("content-id").map(|id| id.trim().trim_start_matches('<').trim_end_matches('>'))
    }

    /// Media type without parameters, in lower case.
    pub fn media_type(&self) -> Option<String> {
        self.content_type().map(|value| value.essence)
    }

    /// Media type with its parameters.
    pub fn content_type(&self) -> Option<MediaType> {
        self.get("content-type").map(MediaType::parse)
    }
}

/// A media type and its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MediaType {
    /// `type/subtype`, lower case.
    pub essence: String,
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Reads a Content-Type value: parameters in any order and case, quoted or not. Never fails; nonsense has no essence.
    pub fn parse(value: &str) -> Self {
        let mut pieces = split_outside_quotes(value).into_iter();
        let essence = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
        let parameters = pieces
            .filter_map(|piece| {
                let (name, value) = piece.split_once('=')?;
                Some((name.trim().to_ascii_lowercase(), unquoted(value.trim())))
            })
            .collect();
        Self { essence, parameters }
    }

    /// Value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

fn split_outside_quotes(value: &str) -> Vec<&str> {
    let (mut out, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (index, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                out.push(&value[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    out.push(&value[start..]);
    out
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// Where the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Preamble,
    InPart,
    /// At a delimiter that was not yet consumed.
    AtDelimiter,
    Done,
}

/// Reads a multipart body part by part.
pub struct MultipartReader<B> {
    body: B,
    limits: MimeLimits,
    pace: Pace,
    /// CR LF, two hyphens, the boundary.
    delimiter: Vec<u8>,
    buffer: Bytes,
    ended: bool,
    state: State,
    parts: usize,
    /// Bytes of their headers.
    headers_read: usize,
    decoder: Decoder,
}

impl<B> MultipartReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Begins to read.
    ///
    /// # Errors
    /// [`SoapError::Mime`] when the boundary is not one of RFC 2046.
    pub fn new(body: B, boundary: &str, limits: MimeLimits) -> Result<Self, SoapError> {
        if boundary.is_empty() || boundary.len() > 70 || !boundary.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(SoapError::Mime);
        }
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter may stand at the very start: a line end before it makes it like the others.
        let buffer = Bytes::from_static(b"\r\n");
        Ok(Self {
            body,
            limits,
            pace: Pace::new(limits.idle),
            delimiter,
            buffer,
            ended: false,
            state: State::Preamble,
            parts: 0,
            headers_read: 0,
            decoder: Decoder::Identity,
        })
    }

    /// Bytes of the parts' headers so far.
    pub fn headers_read(&self) -> usize {
        self.headers_read
    }

    /// Goes to the next part, leaving out what is left of the present one; `None` after the closing boundary.
    ///
    /// # Errors
    /// [`SoapError::Truncated`] when the body ends without its closing boundary, limits, the connection's failure.
    pub async fn next_part(&mut self) -> Result<Option<PartHeaders>, SoapError> {
        let mut preamble = 0;
        while !matches!(self.state, State::AtDelimiter | State::Done) {
            let passed = self.until_delimiter().await?;
            if self.state == State::Preamble {
                preamble += passed.map_or(0, |bytes| bytes.len());
                if preamble > self.limits.header_bytes {
                    return Err(SoapError::TooLarge(SizeLimit::Headers));
                }
            }
        }
        if self.state == State::Done {
            return Ok(None);
        }
        self.fill(self.delimiter.len() + 2).await?;
        let after = self.delimiter.len();
        if self.buffer[after..].starts_with(b"--") {
            self.state = State::Done;
            self.epilogue().await;
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > self.limits.parts {
            return Err(SoapError::TooLarge(SizeLimit::Body));
        }
        let _ = self.buffer.split_to(after);
        let headers = self.headers().await?;
        self.decoder = match headers.content_type().map_or(Ok(()), |declared| charset_of_part(&declared)) {
            Ok(()) => Decoder::of(headers.get("content-transfer-encoding"), headers.get("content-encoding")),
            Err(error) => Decoder::Refused(error),
        };
        Ok(Some(headers))
    }

    /// The next bytes of the content of the present part; `None` at its end.
    ///
    /// # Errors
    /// As [`next_part`](Self::next_part). After an error [of the part](SoapError::is_of_part) the next part can be read.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, SoapError> {
        while let Some(coded) = self.next_coded().await? {
            match self.decoder.decode(coded) {
                Ok(content) if content.is_empty() => {}
                Ok(content) => return Ok(Some(content)),
                Err(error) => {
                    self.decoder = Decoder::Refused(error.clone());
                    return Err(error);
                }
            }
        }
        self.decoder.end()?;
        Ok(None)
    }

    /// The next bytes of the present part as they were sent, for a caller that needs their number only.
    ///
    /// # Errors
    /// As [`next_part`](Self::next_part).
    pub async fn next_coded(&mut self) -> Result<Option<Bytes>, SoapError> {
        if self.state != State::InPart {
            return Ok(None);
        }
        self.until_delimiter().await
    }

    /// Bytes up to the next delimiter, at most one frame at a time; `None` when standing at the delimiter.
    async fn until_delimiter(&mut self) -> Result<Option<Bytes>, SoapError> {
        loop {
            if let Some(found) = memchr::memmem::find(&self.buffer, &self.delimiter) {
                if found == 0 {
                    self.state = State::AtDelimiter;
                    return Ok(None);
                }
                return Ok(Some(self.buffer.split_to(found)));
            }
            let kept = possible_start(&self.buffer, &self.delimiter);
            let free = self.buffer.len() - kept;
            if free > 0 {
                return Ok(Some(self.buffer.split_to(free)));
            }
            self.more().await?;
        }
    }

    /// What follows the closing boundary means nothing (RFC 2046 5.1.1), and the message is whole without it. It is read
    /// because a connection with bytes that nobody read cannot be used again: it is closed, and the reset that this causes
    /// takes the end of an answer away from a peer that reads slowly.
    async fn epilogue(&mut self) {
        let limit = self.limits.header_bytes;
        let _ = tokio::time::timeout(EPILOGUE, async {
            let mut length = 0;
            while length <= limit {
                length += self.buffer.len();
                self.buffer = Bytes::new();
                if self.more().await.is_err() {
                    return;
                }
            }
        })
        .await;
    }

    /// Reads until `wanted` bytes stand in the buffer.
    async fn fill(&mut self, wanted: usize) -> Result<(), SoapError> {
        while self.buffer.len() < wanted {
            self.more().await?;
        }
        Ok(())
    }

    /// Appends one frame.
    async fn more(&mut self) -> Result<(), SoapError> {
        let Some(data) = self.pace.data(&mut self.body).await? else {
            self.ended = true;
            return Err(SoapError::Truncated);
        };
        if self.buffer.is_empty() {
            self.buffer = data;
        } else {
            // What nobody else reads grows in its place: of a header that comes byte by byte no byte is copied each time.
            let joined = std::mem::take(&mut self.buffer).try_into_mut();
            let mut joined = joined.unwrap_or_else(|shared| {
                let mut own = BytesMut::with_capacity(2 * (shared.len() + data.len()));
                own.extend_from_slice(&shared);
                own
            });
            joined.extend_from_slice(&data);
            self.buffer = joined.freeze();
        }
        Ok(())
    }

    /// Reads the header fields. They end at an empty line or, since the body of a part is optional, at a delimiter: the
    /// line end of that empty line may be the delimiter's own (RFC 2046 5.1.1), and then the part has no bytes.
    async fn headers(&mut self) -> Result<PartHeaders, SoapError> {
        let limit = self.limits.header_bytes;
        let (mut seen, mut padding): (usize, usize) = (0, 0);
        let (end, has_body) = loop {
            let empty_line = memchr::memmem::find(&self.buffer[seen.saturating_sub(3)..], b"\r\n\r\n");
            let empty_line = empty_line.map(|at| at + seen.saturating_sub(3));
            let from = seen.saturating_sub(self.delimiter.len() - 1);
            let delimiter = memchr::memmem::find(&self.buffer[from..], &self.delimiter).map(|at| at + from);
            // A delimiter's line ends with CR LF (RFC 2046 5.1.1): without it the end of no header would be found.
            padding += self.buffer[padding..].iter().take_while(|byte| PADDING.contains(byte)).count();
            if self.buffer.get(padding).is_some_and(|byte| *byte != b'\r') {
                return Err(SoapError::Mime);
            }
            match (empty_line, delimiter) {
                (Some(line), Some(at)) if at < line => break (at, false),
                (None, Some(at)) => break (at, false),
                (Some(line), _) => break (line, true),
                (None, None) => {}
            }
            seen = self.buffer.len();
            // The end may have begun among the last bytes.
            if seen > limit + self.delimiter.len() {
                return Err(SoapError::TooLarge(SizeLimit::Headers));
            }
            self.more().await?;
        };
        if end > limit {
            return Err(SoapError::TooLarge(SizeLimit::Headers));
        }
        self.headers_read += end;
        let headers = parse_headers(&self.buffer.split_to(end))?;
        self.state = State::AtDelimiter;
        if has_body {
            // The buffer begins with the line end of the last field, then the empty line's, which may be the delimiter's.
            let _ = self.buffer.split_to(2);
            while self.buffer.len() < self.delimiter.len() && self.delimiter.starts_with(&self.buffer) {
                self.more().await?;
            }
            if !self.buffer.starts_with(&self.delimiter) {
                let _ = self.buffer.split_to(2);
                self.state = State::InPart;
            }
        }
        Ok(headers)
    }
}

/// Length of the longest end of `data` that begins `delimiter`.
fn possible_start(data: &[u8], delimiter: &[u8]) -> usize {
    let longest = data.len().min(delimiter.len() - 1);
    let tail = &data[data.len() - longest..];
    // A delimiter starts with CR, so only those places count.
    memchr::memchr_iter(b'\r', tail).find(|at| delimiter.starts_with(&tail[*at..])).map_or(0, |at| longest - at)
}

/// What may stand behind a boundary on its line (RFC 2046 5.1.1).
const PADDING: [u8; 2] = *b" \t";
/// Fields that say what a part is: one of them twice would leave open which is meant.
const ONCE: [&str; 4] = ["content-id", "content-type", "content-transfer-encoding", "content-encoding"];

fn parse_headers(block: &[u8]) -> Result<PartHeaders, SoapError> {
    let text = std::str::from_utf8(block).map_err(|_| SoapError::Mime)?;
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut lines = text.split("\r\n");
    if lines.next().unwrap_or_default().bytes().any(|byte| !PADDING.contains(&byte)) {
        return Err(SoapError::Mime);
    }
    for line in lines.filter(|line| !line.is_empty()) {
        // A line that ends otherwise would be part of the field before it, and what it declares would not be seen.
        if line.contains(['\r', '\n']) {
            return Err(SoapError::Mime);
        }
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().ok_or(SoapError::Mime)?;
            value.push(' ');
            value.push_str(line.trim());
        } else {
            let (name, value) = line.split_once(':').ok_or(SoapError::Mime)?;
            let name = name.trim().to_ascii_lowercase();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(SoapError::Mime);
            }
            if ONCE.contains(&name.as_str()) && fields.iter().any(|(known, _)| *known == name) {
                return Err(SoapError::Mime);
            }
            fields.push((name, value.trim().to_owned()));
        }
    }
    Ok(PartHeaders(fields))
}

/// Body of a multipart message on its way out.
pub type MultipartBody = UnsyncBoxBody<Bytes, BoxError>;

/// Writes a first part and then parts as they come. When a part fails the body ends with an error and without closing
/// boundary, so that the receiver cannot take it for whole. An error between two parts comes behind a delimiter: the part
/// before it has ended, and its receiver can know that.
pub fn write_multipart<S>(boundary: &str, first: Option<(String, Bytes)>, parts: S) -> MultipartBody
where
    S: Stream<Item = Result<OutPart, BoxError>> + Send + 'static,
{
    let boundary = boundary.to_owned();
    let stream = async_stream::try_stream! {
        let mut begun = false;
        let mut start = |headers: &str| {
            let before = if std::mem::replace(&mut begun, true) { "\r\n--" } else { "--" };
            Bytes::from(format!("{before}{boundary}\r\n{headers}\r\n"))
        };
        if let Some((headers, bytes)) = first {
            yield start(&headers);
            yield bytes;
        }
        let mut parts = Box::pin(parts);
        while let Some(part) = parts.next().await {
            let part = match part {
                Ok(part) => part,
                Err(error) => {
                    yield start("");
                    Err(error)?;
                    return;
                }
            };
            let OutPart { content_id, media_type, data } = part;
            let id = if content_id.is_empty() { String::new() } else { format!("Content-ID: <{content_id}>\r\n") };
            let encoding = "Content-Transfer-Encoding: binary\r\n";
            yield start(&format!("Content-Type: {media_type}\r\n{encoding}{id}"));
            let mut data = data;
            while let Some(chunk) = data.next().await {
                yield chunk?;
            }
        }
        yield if begun { Bytes::from(format!("\r\n--{boundary}--\r\n")) } else { Bytes::from(format!("--{boundary}--\r\n")) };
    };
    let frames = stream.map(|chunk: Result<Bytes, BoxError>| chunk.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// A boundary that content will not contain: 122 random bits.
pub fn boundary() -> String {
    format!("ncp-{}", uuid::Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    /// SE-05: a header that comes byte by byte is copied as often as its buffer doubles, not with each byte.
    #[test]
    fn se_05_a_header_that_comes_byte_by_byte_is_rarely_copied() {
        let copied = |bytes: usize| {
            let frames = (0..bytes).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"a"))));
            let body = StreamBody::new(stream::iter(frames));
            let mut reader = MultipartReader::new(body, "b", MimeLimits::default()).expect("a boundary");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (mut at, mut copied) = (reader.buffer.as_ptr(), 0);
            for _ in 0..bytes {
                runtime.block_on(reader.more()).expect("a byte");
                if reader.buffer.as_ptr() != at {
                    (at, copied) = (reader.buffer.as_ptr(), copied + reader.buffer.len());
                }
            }
            copied
        };
        assert!(copied(16_000) <= 2 * copied(8_000) + 16_000 && copied(16_000) <= 4 * 16_000);
    }
}
