//! A DICOMweb archive over HTTP: answers in DICOM JSON, instances as streams that are taken up again when they break.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use ncp_ihe::Uid;
use ncp_soap::mime::{MediaType, MimeLimits, MultipartReader};
use ncp_soap::{Pace, SoapError};
use tokio::time::Instant;

use super::http::{Failure, Http};
use super::json::{self, Found};
use crate::config::DicomWeb;
use crate::instance::{self, Expected};
use crate::national::way::Way;
use crate::national::{ByteStream, NationalError};

/// One answer in DICOM JSON.
const ANSWER_BYTES: usize = 32 << 20;
/// Studies of one patient, instances of one study.
pub(super) const RESULTS: usize = 50_000;
/// Between two attempts at the rest of an instance; times their number.
const PAUSE: Duration = Duration::from_millis(250);
const DICOM: &str = "application/dicom";

/// Where it is and how it is asked.
#[derive(Clone)]
pub(super) struct Archive {
    pub(super) http: Http,
    idle: Duration,
    first_byte: Duration,
    retries: u32,
    /// How long a busy archive is waited for with one instance.
    wait: Duration,
    pub(super) page: usize,
}

/// One instance that is wanted.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) study: Uid,
    pub(super) series: Uid,
    pub(super) sop_instance: Uid,
    /// In which it is stored, where that is known.
    pub(super) transfer_syntax: Option<Uid>,
}

impl Archive {
    pub(super) fn new(config: &DicomWeb, way: Way) -> Result<Self, String> {
        Ok(Self {
            http: Http::new(config, way)?,
            idle: config.idle,
            first_byte: config.first_byte,
            retries: config.retries,
            wait: config.wait,
            page: config.page,
        })
    }

    /// The attributes of one instance, where a search does not return them.
    pub(super) async fn metadata(
        &self,
        study: &Uid,
        series: &Uid,
        sop: &Uid,
        until: Instant,
    ) -> Result<Option<Found>, Failure> {
        let path = format!("/studies/{study}/series/{series}/instances/{sop}/metadata");
        let attempt =
            || async { self.objects(self.http.get(&path, "application/dicom+json", study.as_str()).await?).await };
        Ok(self.http.again(until, attempt).await?.into_iter().next())
    }

    pub(super) async fn objects(&self, response: http::Response<Incoming>) -> Result<Vec<Found>, Failure> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
        let read = tokio::time::timeout(self.first_byte.max(self.idle), body).await;
        let bytes = read
            .map_err(|_| Failure::BrokeOff("archive stopped in an answer"))?
            .map_err(|_| Failure::BrokeOff("archive's answer broke off or is too large"))?
            .to_bytes();
        json::read(&bytes, RESULTS).map_err(|_| Failure::Unreadable("archive sent no DICOM JSON"))
    }

    /// One instance by WADO-RS in its stored form. Its header has been checked when this returns; a body that breaks
    /// is taken up again where it broke.
    pub(super) async fn instance(&self, wanted: Wanted, expected: &Expected) -> Result<ByteStream, NationalError> {
        let (mut part, held) = self.checked(&wanted, expected).await?;
        let archive = self.clone();
        Ok(Box::pin(async_stream::try_stream! {
            let mut sent = Sent::default();
            sent.add(&held);
            yield held;
            let mut attempts = 0;
            loop {
                match instance::Chunks::chunk(&mut part).await {
                    Ok(Some(chunk)) => {
                        sent.add(&chunk);
                        yield chunk;
                    }
                    Ok(None) => break,
                    Err(error) if error.may_pass() && attempts < archive.retries => {
                        attempts += 1;
                        tokio::time::sleep(PAUSE * attempts).await;
                        part = archive.resume(&wanted, &sent).await?;
                    }
                    Err(error) => Err(error)?,
                }
            }
        }))
    }

    /// An instance whose header says that it is the one that is wanted. One whose body ends inside its header is asked
    /// for again as one that was not answered.
    async fn checked(&self, wanted: &Wanted, expected: &Expected) -> Result<(Part, Bytes), NationalError> {
        let mut attempts = 0;
        loop {
            let mut part = self.open(wanted).await?;
            match instance::header(&mut part, wanted.sop_instance.as_str(), expected).await {
                Ok((held, Ok(()))) => return Ok((part, held)),
                Ok((_, Err(foreign))) => return Err(NationalError::Foreign(foreign)),
                Err(error) if error.may_pass() && attempts < self.retries => {
                    attempts += 1;
                    tokio::time::sleep(PAUSE * attempts).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens an instance again and reads what went on already; it must be the same.
    async fn resume(&self, wanted: &Wanted, sent: &Sent) -> Result<Part, NationalError> {
        let mut part = self.open(wanted).await?;
        let mut read = Sent::default();
        while read.bytes < sent.bytes {
            let mut chunk = instance::Chunks::chunk(&mut part).await?.ok_or(OTHER)?;
            let left = usize::try_from(sent.bytes - read.bytes).unwrap_or(usize::MAX);
            read.add(&chunk[..chunk.len().min(left)]);
            if chunk.len() > left {
                chunk.advance(left);
                part.pending = Some(chunk);
            }
        }
        if read.digest.clone().finalize() == sent.digest.clone().finalize() { Ok(part) } else { Err(OTHER) }
    }

    async fn open(&self, wanted: &Wanted) -> Result<Part, NationalError> {
        let until = Instant::now() + self.wait;
        let Wanted { study, series, sop_instance, transfer_syntax } = wanted;
        let path = format!("/studies/{study}/series/{series}/instances/{sop_instance}");
        let accept = |syntax: &str| format!("multipart/related; type=\"{DICOM}\"; transfer-syntax={syntax}");
        let get = |syntax: &str| {
            let accept = accept(syntax);
            let path = &path;
            async move { self.http.again(until, || self.http.get(path, &accept, study.as_str())).await }
        };
        let response = match (get("*").await, transfer_syntax) {
            // An archive that does not know the wildcard is asked for the form in which it says it has it.
            (Err(Failure::Status(406)), Some(stored)) => get(stored.as_str()).await?,
            (other, _) => other?,
        };
        if response.status() != StatusCode::OK {
            return Err(NationalError::UnknownDocument);
        }
        Part::begin(response, self.idle).await
    }
}

const OTHER: NationalError = NationalError::Mismatch("archive sends another object than before");

/// What of an instance went on.
#[derive(Default)]
struct Sent {
    bytes: u64,
    digest: crc32fast::Hasher,
}

impl Sent {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.digest.update(chunk);
    }
}

/// The body of an instance: the one part of a multipart, or the object alone.
struct Part {
    body: Body,
    pending: Option<Bytes>,
}

enum Body {
    Multipart(Box<MultipartReader<Incoming>>),
    Single(Incoming, Pace),
}

/// Why the multipart body of an instance cannot be read on, in our own words.
fn broken(error: SoapError) -> NationalError {
    match error {
        SoapError::Timeout => NationalError::down("archive stopped in an instance"),
        SoapError::Connection => NationalError::down("archive broke off in an instance"),
        SoapError::Truncated => NationalError::down("archive's instance ended before its closing delimiter"),
        declared if declared.is_of_part() => NationalError::Unreadable(declared.to_string()),
        _ => NationalError::broken("archive's multipart body is malformed: line ends, delimiter or header of a part"),
    }
}

impl Part {
    async fn begin(response: http::Response<Incoming>, idle: Duration) -> Result<Self, NationalError> {
        let (head, body) = response.into_parts();
        let announced = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = MediaType::parse(announced);
        let body = match media_type.essence.as_str() {
            "multipart/related" => {
                let boundary = media_type.parameter("boundary").ok_or_else(|| broken(SoapError::Mime))?;
                let limits = MimeLimits { parts: 2, idle, ..MimeLimits::default() };
                let mut reader = MultipartReader::new(body, boundary, limits).map_err(broken)?;
                let part = reader.next_part().await.map_err(broken)?.ok_or(NationalError::UnknownDocument)?;
                if part.media_type().is_some_and(|t| t != DICOM) {
                    return Err(NationalError::broken("archive sent a part that is no DICOM"));
                }
                Body::Multipart(Box::new(reader))
            }
            DICOM if framed(&head.headers) => Body::Single(body, Pace::new(idle)),
            DICOM => return Err(NationalError::broken("archive sent an object whose end cannot be told")),
            _ => return Err(NationalError::broken("archive sent another media type")),
        };
        Ok(Self { body, pending: None })
    }
}

/// A body that just ends when the connection does cannot be told from one that was cut.
fn framed(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

impl instance::Chunks for Part {
    type Error = NationalError;

    async fn chunk(&mut self) -> Result<Option<Bytes>, NationalError> {
        if let Some(chunk) = self.pending.take() {
            return Ok(Some(chunk));
        }
        match &mut self.body {
            Body::Multipart(reader) => {
                if let Some(chunk) = reader.next_chunk().await.map_err(broken)? {
                    return Ok(Some(chunk));
                }
                // The closing boundary must have come, or the instance may be cut.
                match reader.next_part().await.map_err(broken)? {
                    None => Ok(None),
                    Some(_) => Err(NationalError::Mismatch("archive sent more than one instance")),
                }
            }
            Body::Single(body, pace) => loop {
                match pace.data(body).await.map_err(broken)? {
                    Some(data) if data.is_empty() => {}
                    other => return Ok(other),
                }
            },
        }
    }
}
