//! A DICOMweb archive over HTTP: searches page by page, instances as streams that are taken up again when they break.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ncp_ihe::Uid;
use ncp_soap::mime::{MediaType, MimeLimits, MultipartReader};
use ncp_tls::HttpClient;

use super::json::{self, Found, Text};
use crate::config::DicomWeb;
use crate::instance::{self, Expected};
use crate::national::{ByteStream, NationalError};

/// One page of a search.
const ANSWER_BYTES: usize = 32 << 20;
/// Studies of one patient, instances of one study.
pub(super) const RESULTS: usize = 50_000;
const CONNECT: Duration = Duration::from_secs(10);
/// Between two attempts; times their number.
const PAUSE: Duration = Duration::from_millis(250);
const DICOM: &str = "application/dicom";

/// Where it is and how it is asked.
#[derive(Clone)]
pub(super) struct Archive {
    http: Http,
    base: String,
    authorization: Option<String>,
    first_byte: Duration,
    idle: Duration,
    retries: u32,
    page: usize,
}

#[derive(Clone)]
enum Http {
    Plain(Client<HttpConnector, Empty<Bytes>>),
    Tls(HttpClient<Empty<Bytes>>),
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
    pub(super) fn new(config: &DicomWeb) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", config.name);
        let http = match &config.anchors {
            None => {
                let mut connector = HttpConnector::new();
                connector.set_connect_timeout(Some(CONNECT));
                connector.set_nodelay(true);
                let mut client = Client::builder(TokioExecutor::new());
                Http::Plain(client.pool_timer(TokioTimer::new()).build(connector))
            }
            Some(anchors) => {
                let connector = ncp_tls::anonymous_connector(std::slice::from_ref(anchors), b"\x08http/1.1");
                Http::Tls(ncp_tls::http_client(connector.map_err(|e| wrong(&e))?, None, CONNECT))
            }
        };
        let password = match &config.password_file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| wrong(&e))?.trim().to_owned(),
            None => String::new(),
        };
        let authorization = config.user.as_ref().map(|user| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
        });
        Ok(Self {
            http,
            base: config.url.trim_end_matches('/').to_owned(),
            authorization,
            first_byte: config.first_byte,
            idle: config.idle,
            retries: config.retries,
            page: config.page,
        })
    }

    async fn get(&self, path: &str, accept: &str) -> Result<http::Response<Incoming>, NationalError> {
        let mut request = Request::get(format!("{}{path}", self.base)).header(header::ACCEPT, accept);
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|_| NationalError::broken("archive address"))?;
        let asked = async {
            match &self.http {
                Http::Plain(client) => client.request(request).await,
                Http::Tls(client) => client.request(request).await,
            }
        };
        let answered = tokio::time::timeout(self.first_byte, asked).await;
        let response = answered
            .map_err(|_| NationalError::down("archive did not answer in time"))?
            .map_err(|_| NationalError::down("archive cannot be reached"))?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(NationalError::UnknownDocument),
            StatusCode::NOT_ACCEPTABLE => Err(NationalError::TransferSyntax),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Err(NationalError::Busy),
            status if status.is_server_error() => {
                Err(NationalError::down(format!("archive answered HTTP {}", status.as_u16())))
            }
            status => Err(NationalError::broken(format!("archive answered HTTP {}", status.as_u16()))),
        }
    }

    /// All matches of a search, page by page. `key` tells them apart, `at_least` is how many the archive itself counts.
    ///
    /// An archive that ignores `offset` or `limit` sends what is known already: that ends the search.
    pub(super) async fn search(
        &self,
        path: &str,
        key: fn(&Found) -> &Text,
        at_least: usize,
    ) -> Result<Vec<Found>, NationalError> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut out: Vec<Found> = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let url = format!("{path}{join}limit={}&offset={}", self.page, out.len());
            let (page, more) = self.again(|| self.page_of(&url)).await?;
            let (length, before) = (page.len(), out.len());
            out.extend(page.into_iter().filter(|f| seen.insert(key(f).clone())));
            if out.len() > RESULTS {
                return Err(NationalError::TooMany);
            }
            let full = length >= self.page || more || out.len() < at_least;
            if !full || out.len() == before {
                return Ok(out);
            }
        }
    }

    /// One page; whether the archive says that there is more.
    async fn page_of(&self, path: &str) -> Result<(Vec<Found>, bool), NationalError> {
        let response = match self.get(path, "application/dicom+json").await {
            Err(NationalError::UnknownDocument) => return Ok((Vec::new(), false)),
            other => other?,
        };
        if response.status() == StatusCode::NO_CONTENT {
            return Ok((Vec::new(), false));
        }
        // PS3.18 8.3.4.4: the warning of results that are left.
        let warns = |value: &http::HeaderValue| value.as_bytes().starts_with(b"299");
        let more = response.status() == StatusCode::PARTIAL_CONTENT
            || response.headers().get_all(header::WARNING).iter().any(warns);
        Ok((self.objects(response).await?, more))
    }

    /// The attributes of one instance, where a search does not return them.
    pub(super) async fn metadata(&self, study: &Uid, series: &Uid, sop: &Uid) -> Result<Option<Found>, NationalError> {
        let path = format!("/studies/{study}/series/{series}/instances/{sop}/metadata");
        let read = self.again(|| async { self.objects(self.get(&path, "application/dicom+json").await?).await }).await;
        match read {
            Ok(objects) => Ok(objects.into_iter().next()),
            Err(NationalError::UnknownDocument) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn objects(&self, response: http::Response<Incoming>) -> Result<Vec<Found>, NationalError> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
        let read = tokio::time::timeout(self.first_byte.max(self.idle), body).await;
        let bytes = read
            .map_err(|_| NationalError::down("archive stopped in an answer"))?
            .map_err(|_| NationalError::down("archive's answer broke off or is too large"))?
            .to_bytes();
        json::read(&bytes, RESULTS).map_err(|_| NationalError::broken("archive sent no DICOM JSON"))
    }

    /// Does it, and does it again when the failure may pass.
    async fn again<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, NationalError>
    where
        F: Future<Output = Result<T, NationalError>>,
    {
        let mut made = 0;
        loop {
            match attempt().await {
                Err(error) if error.may_pass() && made < self.retries => {
                    made += 1;
                    tokio::time::sleep(PAUSE * made).await;
                }
                other => return other,
            }
        }
    }

    /// One instance by WADO-RS in its stored form. Its header has been checked when this returns; a body that breaks
    /// is taken up again where it broke.
    pub(super) async fn instance(&self, wanted: Wanted, expected: &Expected) -> Result<ByteStream, NationalError> {
        let opened = self.again(|| async {
            let mut part = self.open(&wanted).await?;
            let (held, verdict) = instance::header(&mut part, wanted.sop_instance.as_str(), expected).await?;
            verdict.map_err(NationalError::Foreign)?;
            Ok((part, held))
        });
        let (mut part, held) = opened.await?;
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
                        part = archive.again(|| archive.resume(&wanted, &sent)).await?;
                    }
                    Err(error) => Err(error)?,
                }
            }
        }))
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
        let Wanted { study, series, sop_instance, transfer_syntax } = wanted;
        let path = format!("/studies/{study}/series/{series}/instances/{sop_instance}");
        let accept = |syntax: &str| format!("multipart/related; type=\"{DICOM}\"; transfer-syntax={syntax}");
        let response = match (self.get(&path, &accept("*")).await, transfer_syntax) {
            // An archive that does not know the wildcard is asked for the form in which it says it has it.
            (Err(NationalError::TransferSyntax), Some(stored)) => self.get(&path, &accept(stored.as_str())).await?,
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
    Single(Incoming, Duration),
}

fn broken<E>(_: E) -> NationalError {
    NationalError::down("archive broke off or sent malformed MIME")
}

impl Part {
    async fn begin(response: http::Response<Incoming>, idle: Duration) -> Result<Self, NationalError> {
        let (head, body) = response.into_parts();
        let announced = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = MediaType::parse(announced);
        let body = match media_type.essence.as_str() {
            "multipart/related" => {
                let boundary = media_type.parameter("boundary").ok_or_else(|| broken(()))?;
                let limits = MimeLimits { parts: 2, idle, ..MimeLimits::default() };
                let mut reader = MultipartReader::new(body, boundary, limits).map_err(broken)?;
                let part = reader.next_part().await.map_err(broken)?.ok_or(NationalError::UnknownDocument)?;
                if part.media_type().is_some_and(|t| t != DICOM) {
                    return Err(NationalError::broken("archive sent a part that is no DICOM"));
                }
                Body::Multipart(Box::new(reader))
            }
            DICOM if framed(&head.headers) => Body::Single(body, idle),
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
            Body::Single(body, idle) => loop {
                let frame = tokio::time::timeout(*idle, body.frame()).await.map_err(broken)?;
                match frame {
                    None => return Ok(None),
                    Some(frame) => match frame.map_err(broken)?.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        _ => {}
                    },
                }
            },
        }
    }
}
