//! OrCD views for OpenNCP neighbours: a report as PDF, the key image of a study as PNG, each in a CDA.
//!
//! They are listed from the metadata alone and made when they are retrieved, from the same content and under the same
//! decisions: a report's view needs the release of the report, a picture that of the manifest and of the study.

use bytes::Bytes;
use ncp_ihe::orcd::{self, OrcdDocument, OrcdKind, Person, Report};
use ncp_ihe::{DocumentEntry, RegistryError, RetrieveRequest, Severity, StoredQuery};

use super::pipeline::Exchange;
use super::pivot::{self, Form};
use crate::audit_scope::Trail;
use crate::national::{DocumentRepository, NationalError};
use crate::outcome::GatewayError;
use crate::policy::{Authorised, Disclose, LookUp};
use crate::translate::collect;

pub mod draw;
mod page;
mod picture;

/// Modalities without pictures (PS3.16 CID 29).
const WITHOUT_PICTURES: [&str; 9] = ["SR", "KO", "PR", "DOC", "AU", "ECG", "PLAN", "RTPLAN", "RTSTRUCT"];

/// Which view there is of a document; `None` when there is none.
pub fn kind(entry: &DocumentEntry) -> Option<OrcdKind> {
    if pivot::split(&entry.unique_id).1.is_some() {
        return None;
    }
    if entry.is_manifest() {
        let mut modalities = entry.event_codes.iter().filter(|c| c.system == "1.2.840.10008.2.16.4").peekable();
        let pictures = modalities.peek().is_none() || modalities.any(|m| !WITHOUT_PICTURES.contains(&m.code.as_str()));
        return pictures.then_some(OrcdKind::Picture);
    }
    let readable = matches!(entry.mime_type.as_str(), "text/xml" | "application/pdf" | "text/plain");
    readable.then_some(OrcdKind::Report)
}

/// The views beside translated entries. Of documents that are no manifests those of imaging reports: by their European
/// code, or since they refer to a study.
pub fn views(entries: &[DocumentEntry]) -> Vec<DocumentEntry> {
    let report = OrcdKind::Report.class_code().code;
    let of_imaging = |entry: &DocumentEntry| {
        entry.is_manifest()
            || [&entry.class_code, &entry.type_code].iter().any(|c| c.code == report)
            || entry.study_instance_uid().is_some()
    };
    let view = |entry: &DocumentEntry| {
        let kind = kind(entry).filter(|_| of_imaging(entry))?;
        Some(DocumentEntry {
            class_code: kind.class_code(),
            type_code: kind.class_code(),
            format_code: kind.format_code(),
            mime_type: "text/xml".into(),
            ..pivot::made_of(entry, Form::Orcd)
        })
    };
    entries.iter().filter_map(view).collect()
}

/// What OpenNCP says when a query for OrCD documents finds none (`openncp-wire.md` 1.4.4).
pub fn nothing_found(exchange: &Exchange, query: &StoredQuery) -> Option<RegistryError> {
    let StoredQuery::FindDocuments(find) = query else { return None };
    let classes = [OrcdKind::Report, OrcdKind::Picture].map(|kind| kind.class_code().code);
    let asked = find.class_codes.iter().any(|coded| classes.contains(&coded.code));
    asked.then(|| RegistryError {
        code: "1104".into(),
        context: format!("no original clinical documents (reference {})", exchange.reference),
        severity: Severity::Warning,
        location: Some(exchange.app.config.gateway.home_community_id.to_string()),
    })
}

/// Makes the view of a released document; the same bytes at every call.
///
/// # Errors
/// The national system's; content that cannot be shown is an unknown document.
pub async fn make(
    exchange: &Exchange,
    asked: &Authorised<LookUp<RetrieveRequest>>,
    released: Authorised<Disclose<DocumentEntry>>,
    trail: &mut Trail,
) -> Result<Bytes, GatewayError> {
    let Some(national) = &exchange.app.national else {
        return Err(NationalError::UnknownRepository.into());
    };
    let entry = released.get().clone();
    let kind = kind(&entry).ok_or(NationalError::UnknownDocument)?;
    let document = national.retrieve(released).await?;
    let bytes = collect(document.content, exchange.app.config.limits.document_bytes).await?;
    let (person, content) = match kind {
        OrcdKind::Report => report(&entry, bytes).await?,
        OrcdKind::Picture => picture::of_manifest(exchange, asked, &bytes, trail).await?,
    };
    let unique_id = Form::Orcd.of(&entry.unique_id);
    let view = OrcdDocument { kind, original: &entry, unique_id: &unique_id, person: &person, content: &content };
    Ok(view.write().into())
}

/// The PDF of a report: its own, the one inside, or its text on pages.
async fn report(entry: &DocumentEntry, bytes: Bytes) -> Result<(Person, Bytes), GatewayError> {
    if bytes.starts_with(b"%PDF-") {
        return Ok((Person::default(), bytes));
    }
    if let Some((person, "application/pdf", pdf)) = orcd::held_with_person(&bytes) {
        return Ok((person, pdf));
    }
    let entry = entry.clone();
    // Laying out pages takes longer than a thread of the runtime should be held.
    let made = tokio::task::spawn_blocking(move || {
        let report = match entry.mime_type.as_str() {
            "text/plain" => Some(Report::of_text(std::str::from_utf8(&bytes).ok()?)),
            _ => Report::of_cda(&bytes),
        }?;
        let pdf = page::pdf(&entry, &report)?;
        Some((report.person, Bytes::from(pdf)))
    });
    match made.await {
        Ok(Some(made)) => Ok(made),
        Ok(None) => Err(NationalError::Mismatch("report cannot be shown as pages").into()),
        Err(_) => Err(GatewayError::Internal("report could not be laid out")),
    }
}
