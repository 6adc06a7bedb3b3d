//! The RESTful feed (ITI-20, ATX: FHIR Feed): one AuditEvent a POST, so that every record has a status of its own.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use ncp_tls::HttpClient;

use super::Receiver;
use crate::AuditError;
use crate::fhir::to_audit_event;
use crate::message::{Dialect, Message};
use crate::sink::AuditSink;
use crate::spool::{Cursor, Outgoing};

const CALL: Duration = Duration::from_secs(30);
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
}

/// Sends the spool's records until the process ends.
pub async fn fhir_feed(sink: AuditSink, target: FhirTarget) {
    super::deliver(sink, target).await;
}

impl Receiver for FhirTarget {
    const BATCH: usize = 64;

    fn name(&self) -> String {
        format!("fhir-{}", self.name)
    }

    async fn deliver(&self, sink: &AuditSink, batch: &[Outgoing]) -> Result<Cursor, AuditError> {
        for outgoing in batch {
            if let Some(xml) = outgoing.message(Dialect::Ihe) {
                self.send(sink, outgoing, xml).await?;
            }
            sink.delivered(&self.name(), outgoing.cursor())?;
        }
        batch.last().map(Outgoing::cursor).ok_or(AuditError::Stopped)
    }
}

impl FhirTarget {
    async fn send(&self, sink: &AuditSink, outgoing: &Outgoing, xml: &str) -> Result<(), AuditError> {
        let message = Message::read(xml.as_bytes()).map_err(|e| AuditError::Repository(e.to_string()))?;
        let status = post(self, serde_json::to_vec(&to_audit_event(&message)).map_err(std::io::Error::other)?).await?;
        let later = [StatusCode::UNAUTHORIZED, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        if status.is_success() {
            Ok(())
        } else if status.is_client_error() && !later.contains(&status) {
            // It would say the same tomorrow; what follows must not wait for it.
            let (epoch, seq) = (outgoing.epoch, outgoing.seq);
            tracing::error!(receiver = self.name(), %status, epoch, seq, "audit record refused, kept as a dead letter");
            Ok(sink.dead_letter(&self.name(), xml)?)
        } else {
            Err(AuditError::Repository(format!("receiver answers {status}")))
        }
    }
}

async fn post(target: &FhirTarget, body: Vec<u8>) -> Result<StatusCode, AuditError> {
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
        Ok(parts.status)
    };
    tokio::time::timeout(CALL, call).await.map_err(|_| failed("receiver does not answer".into()))?
}
