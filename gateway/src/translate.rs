//! Client of the terminology service. The gateway never edits a document itself, and it never waits longer than the
//! deadline: without an answer the originals go on, said so.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use ncp_ihe::{Coded, DocumentEntry};
use ncp_proto::translation::translation_client::TranslationClient;
use ncp_proto::translation::{
    Direction, DocumentChunk, DocumentHeader, DocumentSummary, Outcome, TranslateBatchRequest, document_chunk,
    document_event,
};
use ncp_tls::TlsError;
use tonic::transport::Channel;

use crate::config;
use crate::national::{ByteStream, NationalError};

const H2: &[u8] = b"\x02h2";
/// Bytes of one chunk.
const CHUNK: usize = 64 << 10;

/// The service did not answer as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TranslationError {
    /// gRPC.
    #[error("terminology service: {0}")]
    Status(tonic::Code),
    /// No answer in time.
    #[error("terminology service did not answer in time")]
    Deadline,
    /// An answer that does not fit the question.
    #[error("terminology service answered out of shape")]
    Shape,
    /// A document that is not transcoded: its reason.
    #[error("document is not transcoded: {0}")]
    Skipped(String),
}

impl From<tonic::Status> for TranslationError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(status.code())
    }
}

/// A document after the service.
#[derive(Debug, Clone)]
pub struct Transcoded {
    /// Its bytes.
    pub bytes: Bytes,
    /// Digest of the snapshot that was used, hex.
    pub snapshot: String,
    /// What happened to its coded elements.
    pub summary: DocumentSummary,
}

/// The client; connects when first used.
#[derive(Clone)]
pub struct Translator {
    channel: Channel,
    deadline: Duration,
    document_deadline: Duration,
}

impl Translator {
    /// Prepares the channel.
    ///
    /// # Errors
    /// TLS material, endpoint.
    pub fn new(config: &config::Translation) -> Result<Self, TlsError> {
        let connector = config.tls.files().connector(H2)?;
        let channel = ncp_tls::channel(&config.endpoint, &config.server_name, connector)?;
        Ok(Self { channel, deadline: config.deadline, document_deadline: config.document_deadline })
    }

    /// The entries with their metadata in European codes. Unmapped codes stay; eventCodeList keeps the national ones
    /// beside the European, a single-valued code moves to an extra slot.
    ///
    /// # Errors
    /// The service's.
    pub async fn entries_to_pivot(&self, entries: &[DocumentEntry]) -> Result<Vec<DocumentEntry>, TranslationError> {
        let mut request = TranslateBatchRequest { language: "en".into(), ..TranslateBatchRequest::default() };
        let mut seen: Vec<Coded> = Vec::new();
        for code in entries.iter().flat_map(codes) {
            if !code.code.is_empty() && !seen.iter().any(|s| s.same(code)) {
                let system = match request.systems.iter().position(|s| *s == code.system) {
                    Some(index) => index,
                    None => {
                        request.systems.push(code.system.clone());
                        request.systems.len() - 1
                    }
                };
                request.system.push(system as u32);
                request.code.push(code.code.clone());
                seen.push(code.clone());
            }
        }
        let mut client = TranslationClient::new(self.channel.clone());
        let call = client.translate_batch(request);
        let answer =
            tokio::time::timeout(self.deadline, call).await.map_err(|_| TranslationError::Deadline)??.into_inner();
        let columns =
            [answer.target_code.len(), answer.target_system.len(), answer.display.len(), answer.outcome.len()];
        if columns.iter().any(|n| *n != seen.len()) {
            return Err(TranslationError::Shape);
        }
        let target = |code: &Coded| -> Option<Coded> {
            let at = seen.iter().position(|s| s.same(code))?;
            let mapped = [Outcome::Mapped as i32, Outcome::MappedApproximate as i32].contains(&answer.outcome[at]);
            let system = answer.target_systems.get(answer.target_system[at] as usize)?;
            let display = Some(answer.display[at].as_str()).filter(|d| !d.is_empty());
            let system = system.strip_prefix("urn:oid:").unwrap_or(system);
            mapped.then(|| Coded::new(&answer.target_code[at], system, display.or(code.display.as_deref())))
        };
        Ok(entries.iter().map(|entry| with_targets(entry, &target)).collect())
    }

    /// A whole document: national codes to the pivot, or the pivot with designations in a reader's languages.
    ///
    /// # Errors
    /// The service's, or [`TranslationError::Skipped`] for a document that must not be edited.
    pub async fn document(
        &self,
        media_type: &str,
        bytes: Bytes,
        direction: Direction,
        language: &str,
    ) -> Result<Transcoded, TranslationError> {
        let header = DocumentHeader {
            media_type: media_type.to_owned(),
            direction: direction as i32,
            language: language.to_owned(),
            size: bytes.len() as u64,
            sha256: openssl::sha::sha256(&bytes).to_vec(),
            ..DocumentHeader::default()
        };
        let mut chunks = vec![DocumentChunk { part: Some(document_chunk::Part::Header(header)) }];
        let mut rest = bytes;
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(CHUNK));
            chunks.push(DocumentChunk { part: Some(document_chunk::Part::Data(chunk.to_vec())) });
        }
        let mut client = TranslationClient::new(self.channel.clone());
        let work = async {
            let mut events = client.transcode_document(tokio_stream::iter(chunks)).await?.into_inner();
            let mut out = BytesMut::new();
            let mut summary = None;
            while let Some(event) = events.message().await? {
                match event.part {
                    Some(document_event::Part::Data(data)) => out.extend_from_slice(&data),
                    Some(document_event::Part::Summary(found)) => summary = Some(found),
                    _ => {}
                }
            }
            let summary = summary.ok_or(TranslationError::Shape)?;
            if !summary.skipped_because.is_empty() {
                return Err(TranslationError::Skipped(summary.skipped_because));
            }
            if openssl::sha::sha256(&out).as_slice() != summary.sha256_out {
                return Err(TranslationError::Shape);
            }
            Ok(Transcoded { bytes: out.freeze(), snapshot: hex::encode(&summary.snapshot), summary })
        };
        tokio::time::timeout(self.document_deadline, work).await.map_err(|_| TranslationError::Deadline)?
    }
}

/// Languages of a reader, first choice first, as the service wants them: the Accept-Language header by weight, then the
/// country's own, then English.
pub fn reader_languages(accept: Option<&str>, own: &str) -> String {
    let mut asked: Vec<(u16, &str)> = accept
        .unwrap_or_default()
        .split(',')
        .take(10)
        .filter_map(|part| {
            let (tag, weight) = part.split_once(';').unwrap_or((part, "q=1"));
            let weight: f32 = weight.trim().strip_prefix("q=")?.trim().parse().ok()?;
            let tag = tag.trim();
            let plain =
                !tag.is_empty() && tag.len() <= 35 && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            (plain && weight > 0.0).then_some(((weight.min(1.0) * 1000.0) as u16, tag))
        })
        .collect();
    asked.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let mut out: Vec<&str> = Vec::new();
    for tag in asked.into_iter().map(|(_, tag)| tag).chain([own, "en"]) {
        if !tag.is_empty() && !out.contains(&tag) {
            out.push(tag);
        }
    }
    out.join(",")
}

fn codes(entry: &DocumentEntry) -> impl Iterator<Item = &Coded> {
    let single =
        [&entry.class_code, &entry.type_code, &entry.practice_setting, &entry.facility_type, &entry.format_code];
    single.into_iter().chain(&entry.event_codes).chain(&entry.confidentiality)
}

fn with_targets(entry: &DocumentEntry, target: &impl Fn(&Coded) -> Option<Coded>) -> DocumentEntry {
    let mut out = entry.clone();
    let mut kept = Vec::new();
    let names = ["classCode", "typeCode", "practiceSettingCode", "healthcareFacilityTypeCode", "formatCode"];
    let singles = [
        &mut out.class_code,
        &mut out.type_code,
        &mut out.practice_setting,
        &mut out.facility_type,
        &mut out.format_code,
    ];
    for (name, code) in names.into_iter().zip(singles) {
        if let Some(new) = target(code) {
            kept.push((format!("urn:ncp:national:{name}"), vec![format!("{}^^{}", code.code, code.system)]));
            *code = new;
        }
    }
    out.extra_slots.extend(kept);
    let events: Vec<Coded> = entry.event_codes.iter().filter_map(target).collect();
    for code in events {
        if !out.event_codes.iter().any(|c| c.same(&code)) {
            out.event_codes.push(code);
        }
    }
    for code in &mut out.confidentiality {
        if let Some(new) = target(code) {
            *code = new;
        }
    }
    out
}

/// A document's bytes, bounded.
///
/// # Errors
/// The source's, or [`NationalError::Down`] beyond the limit.
pub async fn collect(mut content: ByteStream, limit: usize) -> Result<Bytes, NationalError> {
    let mut out = BytesMut::new();
    while let Some(chunk) = content.next().await {
        let chunk = chunk?;
        if out.len() + chunk.len() > limit {
            return Err(NationalError::Down {
                reason: "document is larger than limits.document_bytes".into(),
                retry: false,
            });
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::reader_languages;

    #[test]
    fn languages_of_a_reader_by_weight_then_the_countrys_then_english() {
        assert_eq!(reader_languages(Some("sv;q=0.5, fi-FI, *, en;q=0"), "fi"), "fi-FI,sv,fi,en");
        assert_eq!(reader_languages(None, "nb-NO"), "nb-NO,en");
        assert_eq!(reader_languages(Some("x;q=NaN,\u{e9},;,"), "en"), "en");
    }
}
