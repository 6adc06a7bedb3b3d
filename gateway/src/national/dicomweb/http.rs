//! HTTP towards one archive: what it may answer, in closed words.
//!
//! An archive that is busy says when to come back and is waited for within the deadline; a redirect is followed within the
//! archive's own address alone; a content coding that was not asked for is named. What fails is told by connector, host
//! and reason.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use ncp_tls::HttpClient;
use tokio::time::Instant;

use crate::config::DicomWeb;
use crate::http_get::{IDENTITY, coding};
use crate::national::NationalError;
use crate::national::way::Way;
use crate::retry_after;

const CONNECT: Duration = Duration::from_secs(10);
/// Between two attempts; times their number.
const PAUSE: Duration = Duration::from_millis(250);
/// Redirects of one request.
const REDIRECTS: usize = 3;

/// Why an archive gave no usable answer. No word of the archive's own is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Connection, TLS, or no answer in time.
    Unreachable(&'static str),
    /// It failed too often of late and is not asked for a while.
    Resting,
    /// Come back later (202, 429, 503), and when, if it says so.
    Later(u16, Option<Duration>),
    /// Another status.
    Status(u16),
    /// A redirect away from its own address: to which host.
    Redirects(String),
    /// A content coding that was not asked for.
    Coding(String),
    /// The answer ended early or stalled.
    BrokeOff(&'static str),
    /// The answer is not what was asked for.
    Unreadable(&'static str),
    /// More than we take.
    TooMany,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::BrokeOff(why) | Self::Unreadable(why) => f.write_str(why),
            Self::Resting => f.write_str("archive is not asked for a while after its failures"),
            Self::Later(status, None) => write!(f, "archive is busy (HTTP {status})"),
            Self::Later(status, Some(after)) => {
                write!(f, "archive is busy (HTTP {status}) for {} s", retry_after::seconds(*after))
            }
            Self::Status(status) => write!(f, "archive answered HTTP {status}"),
            Self::Redirects(host) => write!(f, "archive redirects to {host}, not followed"),
            Self::Coding(name) => write!(f, "archive answered in the content coding {name}, which was not asked for"),
            Self::TooMany => f.write_str("archive answered more than is taken"),
        }
    }
}

impl From<Failure> for NationalError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Later(_, after) => Self::Busy(after),
            Failure::Status(404 | 410) => Self::UnknownDocument,
            Failure::Status(406) => Self::TransferSyntax,
            Failure::TooMany => Self::TooMany,
            Failure::Unreachable(_) | Failure::Resting | Failure::BrokeOff(_) | Failure::Status(500..) => {
                Self::down(failure.to_string())
            }
            other => Self::broken(other.to_string()),
        }
    }
}

impl Failure {
    /// The archive was reached and answered this request so: another request may be answered.
    pub(super) fn is_an_answer(&self) -> bool {
        match self {
            Self::Status(status) => !matches!(status, 401 | 403 | 407),
            Self::Unreadable(_) | Self::TooMany | Self::BrokeOff(_) => true,
            Self::Unreachable(_) | Self::Resting | Self::Later(..) | Self::Redirects(_) | Self::Coding(_) => false,
        }
    }

    /// Whether the archive as a whole does not answer: what its circuit counts.
    fn opens_a_circuit(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Later(503, None) => true,
            Self::Status(status) => *status >= 500,
            _ => false,
        }
    }

    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Later(..) | Self::BrokeOff(_) => true,
            // What is not implemented will not be a moment later.
            Self::Status(status) => *status >= 500 && *status != 501,
            _ => false,
        }
    }
}

/// A client of one archive.
#[derive(Clone)]
pub(super) struct Http {
    client: Inner,
    way: Way,
    /// `http(s)://host:port`.
    origin: String,
    /// The path below which everything of the archive lies.
    path: String,
    authorization: Option<HeaderValue>,
    first_byte: Duration,
    retries: u32,
}

#[derive(Clone)]
enum Inner {
    Plain(Box<Client<HttpConnector, Empty<Bytes>>>),
    Tls(HttpClient<Empty<Bytes>>),
}

impl Http {
    pub(super) fn new(config: &DicomWeb, way: Way) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", config.name);
        let client = match &config.anchors {
            None => {
                let mut connector = HttpConnector::new();
                connector.set_connect_timeout(Some(CONNECT));
                connector.set_nodelay(true);
                Inner::Plain(Box::new(ncp_tls::http_builder().build(connector)))
            }
            Some(anchors) => {
                let connector = ncp_tls::anonymous_connector(std::slice::from_ref(anchors), b"\x08http/1.1");
                Inner::Tls(ncp_tls::http_client(connector.map_err(|e| wrong(&e))?, None, CONNECT))
            }
        };
        let password = match &config.password_file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| wrong(&e))?.trim().to_owned(),
            None => String::new(),
        };
        let authorization = config.user.as_ref().map(|user| {
            let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            HeaderValue::try_from(format!("Basic {text}"))
        });
        let base: Uri = config.url.parse().map_err(|_| wrong(&"url cannot be read"))?;
        let (Some(scheme), Some(authority)) = (base.scheme_str(), base.authority()) else {
            return Err(wrong(&"url names no host"));
        };
        Ok(Self {
            client,
            way,
            origin: format!("{scheme}://{authority}"),
            path: base.path().trim_end_matches('/').to_owned(),
            authorization: authorization.transpose().map_err(|_| wrong(&"user"))?,
            first_byte: config.first_byte,
            retries: config.retries,
        })
    }

    /// Host and port, for the operator.
    pub(super) fn host(&self) -> &str {
        let authority = self.origin.split_once("://").map_or(self.origin.as_str(), |(_, host)| host);
        authority.rsplit('@').next().unwrap_or_default()
    }

    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// One answer with a status of success. `unit` is what the request is about, for the circuit.
    pub(super) async fn get(&self, path: &str, accept: &str, unit: &str) -> Result<http::Response<Incoming>, Failure> {
        let going = self.way.enter(unit).ok_or(Failure::Resting)?;
        let answer = self.followed(path, accept).await;
        going.tell(!answer.as_ref().is_err_and(Failure::opens_a_circuit));
        answer
    }

    /// Follows redirects within the archive's own address.
    async fn followed(&self, path: &str, accept: &str) -> Result<http::Response<Incoming>, Failure> {
        let mut path = format!("{}{path}", self.path);
        for _ in 0..=REDIRECTS {
            let response = self.once(&path, accept).await?;
            match response.status() {
                StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT => {
                    return coding(response.headers()).map_or(Ok(response), |name| Err(Failure::Coding(name)));
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => path = self.redirected(&path, response.headers())?,
                StatusCode::ACCEPTED | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    return Err(Failure::Later(response.status().as_u16(), retry_after::read(response.headers())));
                }
                status => return Err(Failure::Status(status.as_u16())),
            }
        }
        Err(Failure::Redirects("itself again and again".into()))
    }

    async fn once(&self, path: &str, accept: &str) -> Result<http::Response<Incoming>, Failure> {
        let mut request = Request::get(format!("{}{path}", self.origin))
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, IDENTITY);
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|_| Failure::Unreadable("address of the archive"))?;
        let asked = async {
            match &self.client {
                Inner::Plain(client) => client.request(request).await,
                Inner::Tls(client) => client.request(request).await,
            }
        };
        let answered = tokio::time::timeout(self.first_byte, asked).await;
        answered
            .map_err(|_| Failure::Unreachable("archive did not answer in time"))?
            .map_err(|_| Failure::Unreachable("archive cannot be reached"))
    }

    /// Where a redirect leads, when that is below the archive's own address: nobody else gets to see what is asked, nor
    /// the credentials.
    fn redirected(&self, from: &str, headers: &HeaderMap) -> Result<String, Failure> {
        let location = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default().trim();
        let elsewhere = |host: &str| {
            let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '[' | ']');
            Failure::Redirects(host.chars().filter(plain).take(100).collect())
        };
        let path = match location.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                if !format!("{scheme}://{authority}").eq_ignore_ascii_case(&self.origin) {
                    return Err(elsewhere(authority));
                }
                path.to_owned()
            }
            None if location.starts_with("//") => return Err(elsewhere(location)),
            None if location.starts_with('/') => location.to_owned(),
            None if location.starts_with('?') => format!("{}{location}", from.split('?').next().unwrap_or(from)),
            None => {
                let folder = from.split('?').next().and_then(|p| p.rsplit_once('/')).map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            }
        };
        let path = path.split('#').next().unwrap_or_default().to_owned();
        let named = path.split('?').next().unwrap_or_default();
        let climbs = percent_encoding::percent_decode_str(named)
            .decode_utf8_lossy()
            .split(['/', '\\'])
            .any(|step| matches!(step, "." | ".."));
        let below = named.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.starts_with('/'));
        if location.is_empty() || climbs || !below {
            return Err(Failure::Redirects("another path".into()));
        }
        Ok(path)
    }

    /// Does it, and does it again when the failure may pass: after the time that the archive says, until the deadline;
    /// else a few times.
    pub(super) async fn again<T, F>(&self, until: Instant, attempt: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut made = 0;
        loop {
            let failure = match attempt().await {
                Err(failure) if failure.may_pass() => failure,
                other => return other,
            };
            let pause = match failure {
                Failure::Later(_, Some(after)) => after.max(PAUSE),
                _ if made < self.retries => {
                    made += 1;
                    PAUSE * made
                }
                _ => return Err(failure),
            };
            if Instant::now() + pause > until {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::telemetry::Metrics;

    fn redirected(location: &str) -> Result<String, Failure> {
        let http = Http {
            client: Inner::Plain(Box::new(ncp_tls::http_builder().build(HttpConnector::new()))),
            way: Way::new("archive", &Limits::default(), Metrics::default()),
            origin: "http://pacs.example:8042".into(),
            path: "/dicom-web".into(),
            authorization: None,
            first_byte: CONNECT,
            retries: 0,
        };
        let location = HeaderValue::from_bytes(location.as_bytes()).expect("a value");
        http.redirected("/dicom-web/studies/1?a=b", &HeaderMap::from_iter([(header::LOCATION, location)]))
    }

    #[test]
    fn im_19_a_redirect_is_followed_below_the_own_address_alone() {
        for (location, path) in [
            ("http://pacs.example:8042/dicom-web/studies/1?key=2", "/dicom-web/studies/1?key=2"),
            ("HTTP://PACS.example:8042/dicom-web/x#part", "/dicom-web/x"),
            ("/dicom-web/cache/7", "/dicom-web/cache/7"),
            ("?token=3", "/dicom-web/studies/1?token=3"),
            ("2", "/dicom-web/studies/2"),
        ] {
            assert_eq!(redirected(location).as_deref(), Ok(path), "{location}");
        }
        for (location, named) in [
            ("http://elsewhere.example/dicom-web/1", "elsewhere.example"),
            ("https://pacs.example:8042/dicom-web/1", "pacs.example:8042"),
            ("http://pacs.example:8042@evil.example/dicom-web/1", "pacs.example:8042evil.example"),
            ("//evil.example/dicom-web/1", "evil.exampledicom-web1"),
            ("/admin", "another path"),
            ("/dicom-web-2/x", "another path"),
            ("/dicom-web/../admin", "another path"),
            ("/dicom-web/%2e%2e/admin", "another path"),
            ("", "another path"),
        ] {
            assert_eq!(redirected(location), Err(Failure::Redirects(named.into())), "{location}");
        }
    }
}
