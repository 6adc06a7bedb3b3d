//! Whole documents over the wire: a header, bytes in chunks, and back bytes, a report for each coded element, a summary.

use std::sync::Arc;
use std::time::SystemTime;

use ncp_proto::translation::{self as pb, document_chunk, document_event};
use tonic::{Code, Status, Streaming};

use super::convert::{issue, map_ref, relationship, task};
use super::errors::{invalid, status};
use crate::cache::{Cache, Key};
use crate::counters::Counters;
use crate::document::profile::Profiles;
use crate::document::{self, BYTES, DocumentError, Fate, Report, Translated};
use crate::snapshot::Snapshot;

/// Bytes of one answer chunk.
const CHUNK: usize = 64 << 10;

/// Header and bytes, bounded; size and digest must be those of the header, where it gives them.
pub(super) async fn received(
    mut chunks: Streaming<pb::DocumentChunk>,
) -> Result<(pb::DocumentHeader, Vec<u8>), Status> {
    let mut header: Option<pb::DocumentHeader> = None;
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        match chunk.part {
            Some(document_chunk::Part::Header(found)) if header.is_none() && bytes.is_empty() => header = Some(found),
            Some(document_chunk::Part::Data(data)) if header.is_some() => {
                if bytes.len() + data.len() > BYTES {
                    let message = "document is larger than 64 MiB";
                    return Err(status(Code::ResourceExhausted, "DOCUMENT_TOO_LARGE", "4500", message, ""));
                }
                bytes.extend_from_slice(&data);
            }
            _ => return Err(invalid("", "one header, then data")),
        }
    }
    let header = header.ok_or_else(|| invalid("header", "a header comes first"))?;
    if header.size != 0 && header.size != bytes.len() as u64 {
        return Err(status(Code::DataLoss, "SIZE_MISMATCH", "4500", "the document is not as long as announced", ""));
    }
    if !header.sha256.is_empty() && header.sha256 != openssl::sha::sha256(&bytes) {
        return Err(status(Code::DataLoss, "DIGEST_MISMATCH", "4500", "the document is not the one announced", ""));
    }
    Ok((header, bytes))
}

/// Translates, or takes the answer of the same question from the cache.
pub(super) async fn events(
    header: pb::DocumentHeader,
    bytes: Vec<u8>,
    snapshot: Arc<Snapshot>,
    counters: &Counters,
    cache: &Cache,
    profiles: &Profiles,
) -> Result<Vec<pb::DocumentEvent>, Status> {
    let task = task(&header, profiles)?;
    let key = Key::new(&bytes, &header.media_type, snapshot.digest(), &task);
    if let Some(events) = cache.get(&key).await {
        return Ok(events);
    }
    let counters = counters.clone();
    let work = tokio::task::spawn_blocking(move || {
        let done = document::translate(&bytes, &header.media_type, &task, &snapshot).map_err(failed)?;
        for report in &done.reports {
            if matches!(report.fate, Fate::Unmapped) && !report.system.is_empty() {
                counters.unmapped(&report.system, &report.code);
            }
        }
        Ok::<_, Status>(told(&bytes, &done, &snapshot))
    });
    let events = work.await.map_err(|_| Status::internal("transcoding stopped"))??;
    cache.put(&key, &events).await;
    Ok(events)
}

fn failed(error: DocumentError) -> Status {
    let text = error.to_string();
    match error {
        DocumentError::TooMany => status(Code::ResourceExhausted, "TOO_MANY_ELEMENTS", "4500", &text, ""),
        DocumentError::Xml(ncp_xml::XmlError::Busy) => status(Code::Unavailable, "BUSY", "4500", &text, ""),
        DocumentError::Xml(ncp_xml::XmlError::TooLarge) | DocumentError::TooDeep => {
            status(Code::ResourceExhausted, "DOCUMENT_TOO_LARGE", "4500", &text, "")
        }
        DocumentError::Required(path) => status(
            Code::FailedPrecondition,
            "REQUIRED_ELEMENT_UNMAPPED",
            "4504",
            "a required element has no target",
            &path,
        ),
        DocumentError::MediaType => status(Code::InvalidArgument, "MEDIA_TYPE", "4500", &text, "header.media_type"),
        _ => status(Code::InvalidArgument, "MALFORMED", "4500", &text, ""),
    }
}

fn element(report: &Report, snapshot: &Snapshot) -> pb::ElementReport {
    let outcome = match report.fate {
        Fate::Mapped => pb::Outcome::Mapped,
        Fate::Approximate => pb::Outcome::MappedApproximate,
        Fate::AlreadyTarget => pb::Outcome::AlreadyTarget,
        _ => pb::Outcome::Unmapped,
    };
    let named = report.designation.as_ref().map(|(text, language, fallback)| pb::Designation {
        text: text.clone(),
        language: language.clone(),
        fallback: *fallback,
        own_phrase: false,
    });
    let target = report.target.as_ref();
    let matches = (target.is_some() || named.is_some()).then(|| pb::Match {
        target: target.map(|(system, code, _)| pb::Code {
            system: system.clone(),
            code: code.clone(),
            ..pb::Code::default()
        }),
        relationship: target.map_or(pb::Relationship::Equivalent, |t| relationship(t.2)) as i32,
        via: report.maps.iter().map(|m| map_ref(snapshot, *m)).collect(),
        designation: named,
        active: true,
        ..pb::Match::default()
    });
    let source = pb::Code { system: report.system.clone(), code: report.code.clone(), ..pb::Code::default() };
    pb::ElementReport {
        path: report.path.clone(),
        result: Some(pb::TranslateResponse {
            outcome: outcome as i32,
            source: Some(source),
            matches: matches.into_iter().collect(),
            issues: report.issues.iter().map(|i| issue(i, &report.path)).collect(),
            ..pb::TranslateResponse::default()
        }),
        written: matches!(report.fate, Fate::Mapped | Fate::Approximate | Fate::Nulled),
        required: report.required,
        fate: report.fate.word().to_owned(),
    }
}

fn told(bytes: &[u8], done: &Translated, snapshot: &Snapshot) -> Vec<pb::DocumentEvent> {
    let count = |fates: &[Fate]| done.reports.iter().filter(|r| fates.contains(&r.fate)).count() as u32;
    let mut maps: Vec<u32> = done.reports.iter().flat_map(|r| r.maps.iter().copied()).collect();
    maps.sort_unstable();
    maps.dedup();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let summary = pb::DocumentSummary {
        seen: done.reports.len() as u32,
        mapped: count(&[Fate::Mapped]),
        approximate: count(&[Fate::Approximate]),
        unmapped: count(&[Fate::Unmapped, Fate::Refused, Fate::NoSystem]),
        skipped: count(&[Fate::AlreadyTarget, Fate::Null, Fate::Kept]),
        sha256_in: openssl::sha::sha256(bytes).to_vec(),
        sha256_out: openssl::sha::sha256(&done.bytes).to_vec(),
        snapshot: snapshot.digest().to_vec(),
        skipped_because: done.skipped.unwrap_or_default().to_owned(),
        failed: count(&[Fate::Nulled]),
        maps: maps.iter().map(|m| map_ref(snapshot, *m)).collect(),
        service_version: env!("CARGO_PKG_VERSION").to_owned(),
        translated_at: i64::try_from(now).unwrap_or(i64::MAX),
        issues: Vec::new(),
    };
    let event = |part| pb::DocumentEvent { part: Some(part) };
    let data = done.bytes.chunks(CHUNK).map(|c| event(document_event::Part::Data(c.to_vec())));
    let elements = done.reports.iter().map(|r| event(document_event::Part::Element(element(r, snapshot))));
    let mut out: Vec<pb::DocumentEvent> = data.chain(elements).collect();
    out.push(event(document_event::Part::Summary(summary)));
    out
}
