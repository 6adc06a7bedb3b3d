//! The RESTful feed (ITI-20, ATX: FHIR Feed): one AuditEvent a POST, so that every record has a status of its own.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use ncp_tls::HttpClient;

use super::courier::Later;
use super::{Delivered, Failure, Receiver};
use crate::AuditError;
use crate::fhir::to_audit_event;
use crate::message::{Dialect, Message};
use crate::sink::AuditSink;
use crate::spool::Outgoing;

const CALL: Duration = Duration::from_secs(30);
/// So long at most a receiver is left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// What is read of an answer.
const ANSWER: usize = 64 << 10;

/// A foreign repository.
#[derive(Clone)]
pub struct FhirTarget {
    /// Name in configuration.
    pub name: String,
    /// `https://host:port/base`.
    pub base: String,
    /// How it is reached.
    pub client: HttpClient<Full<Bytes>>,
    /// Bytes of one record at most.
    pub max_record_bytes: usize,
}

/// Sends the spool's records until the process ends.
pub fn fhir_feed(sink: AuditSink, target: FhirTarget) -> impl Future<Output = ()> + Send {
    super::deliver(sink, target)
}

impl Receiver for FhirTarget {
    const BATCH: usize = 1;

    fn name(&self) -> String {
        format!("fhir-{}", self.name)
    }

    fn most(&self) -> usize {
        self.max_record_bytes
    }

    fn form<'a>(&self, outgoing: &'a Outgoing) -> Option<&'a str> {
        outgoing.message(Dialect::Ihe)
    }

    async fn deliver(&self, batch: &[Outgoing]) -> Delivered {
        for (taken, outgoing) in batch.iter().enumerate() {
            if let Some(xml) = self.form(outgoing)
                && let Err(failure) = self.send(xml).await
            {
                return Delivered { taken, end: Err(failure) };
            }
        }
        Delivered { taken: batch.len(), end: Ok(()) }
    }
}

impl FhirTarget {
    async fn send(&self, xml: &str) -> Result<(), Failure> {
        let message = Message::read(xml.as_bytes()).map_err(|e| Failure::Refused(format!("is no AuditEvent: {e}")))?;
        let body =
            serde_json::to_vec(&to_audit_event(&message)).map_err(|e| AuditError::from(std::io::Error::other(e)))?;
        if body.len() > self.max_record_bytes {
            return Err(Failure::Refused(format!("{} bytes as AuditEvent, more than the receiver takes", body.len())));
        }
        let (status, after) = post(self, body).await?;
        if status.is_success() {
            Ok(())
        } else if status.is_client_error() && !of_the_way(status) {
            // It would say the same tomorrow; what follows must not wait for it.
            Err(Failure::Refused(format!("receiver answers {}", status.as_u16())))
        } else {
            let error = AuditError::Repository(format!("receiver answers {status}"));
            Err(Failure::Later(Later { error, after }))
        }
    }
}

/// Whether a status says something of the way, the address or the moment and nothing of the record.
fn of_the_way(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 405 | 407 | 408 | 421 | 425 | 429)
}

/// For how long the receiver asks to be left alone, an hour at most.
fn asked_wait(headers: &http::HeaderMap) -> Option<Duration> {
    ncp_tls::retry_after::read(headers).map(|wait| wait.min(LONGEST_WAIT))
}

async fn post(target: &FhirTarget, body: Vec<u8>) -> Result<(StatusCode, Option<Duration>), AuditError> {
    let failed = |what: String| AuditError::Repository(what);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}/AuditEvent", target.base.trim_end_matches('/')))
        .header(header::CONTENT_TYPE, "application/fhir+json")
        .header(header::ACCEPT, "application/fhir+json")
        .header(header::ACCEPT_ENCODING, "identity")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| failed(e.to_string()))?;
    let call = async {
        let answer = target.client.request(request).await.map_err(|e| failed(e.to_string()))?;
        let (parts, body) = answer.into_parts();
        // Read to the end, so that the connection serves the next record.
        let _ = Limited::new(body, ANSWER).collect().await;
        Ok((parts.status, asked_wait(&parts.headers)))
    };
    tokio::time::timeout(CALL, call).await.map_err(|_| failed("receiver does not answer".into()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn co_17_an_hour_is_waited_at_most() {
        let wait = |text: &str| {
            let headers = [(header::RETRY_AFTER, text.parse().expect("a value"))].into_iter().collect();
            asked_wait(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Mon, 30 Nov 1992 07:00:00 GMT"), Some(0));
        assert_eq!(wait("999999999"), Some(3600));
        assert_eq!(wait("soon"), None);
        assert_eq!(asked_wait(&http::HeaderMap::new()), None);
    }
}
