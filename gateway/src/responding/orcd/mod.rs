//! OrCD views for OpenNCP neighbours: a report as PDF, the key image of a study as PNG, each in a CDA.
//!
//! They are listed from the metadata alone and made when they are retrieved, from the same content and under the same
//! decisions: a report's view needs the release of the report, a picture that of the manifest and of the study.

use bytes::Bytes;
use ncp_ihe::orcd::{OrcdDocument, OrcdKind, Person, Report, ReportError};
use ncp_ihe::{DocumentEntry, PatientQuery, PatientRecord, RegistryError, RetrieveRequest, Severity, StoredQuery};

use super::pipeline::Exchange;
use super::pivot::{self, Form};
use crate::admission::AGAIN;
use crate::audit_scope::Trail;
use crate::national::{DocumentRepository, National, NationalError, PatientDemographicsSupplier};
use crate::outcome::GatewayError;
use crate::policy::{Authorised, Disclose, LookUp};
use crate::translate::collect;
use crate::whole::Holder;

pub mod confined;
pub mod draw;
mod fonts;
pub mod page;
mod picture;

/// Modalities without pictures (PS3.16 CID 29).
const WITHOUT_PICTURES: [&str; 9] = ["SR", "KO", "PR", "DOC", "AU", "ECG", "PLAN", "RTPLAN", "RTSTRUCT"];

/// Which view there is of a document; `None` when there is none.
pub fn kind(entry: &DocumentEntry) -> Option<OrcdKind> {
    if pivot::split(&entry.unique_id).1.is_some() {
        return None;
    }
    if entry.is_manifest() {
        let mut modalities = entry.event_codes.iter().filter(|c| c.is_modality()).peekable();
        let pictures = modalities.peek().is_none() || modalities.any(|m| !WITHOUT_PICTURES.contains(&m.code.as_str()));
        return pictures.then_some(OrcdKind::Picture);
    }
    let readable = matches!(entry.mime_type.as_str(), "text/xml" | "application/pdf" | "text/plain");
    readable.then_some(OrcdKind::Report)
}

/// The view beside a translated entry. Of documents that are no manifests those of imaging reports have one: by their
/// European code, or since they refer to a study.
pub fn view(entry: &DocumentEntry) -> Option<DocumentEntry> {
    let report = OrcdKind::Report.class_code().code;
    let kind = kind(entry)?;
    let is_of_imaging = entry.is_manifest()
        || [&entry.class_code, &entry.type_code].iter().any(|c| c.code == report)
        || entry.study_instance_uid().is_some();
    is_of_imaging.then(|| DocumentEntry {
        class_code: kind.class_code(),
        type_code: kind.class_code(),
        format_code: kind.format_code(),
        mime_type: "text/xml".into(),
        ..pivot::made_of(entry, Form::Orcd)
    })
}

/// What OpenNCP says when a query for OrCD documents finds none.
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
    let holder = released.identity().holder();
    let document = national.retrieve(released).await?;
    let bytes = collect(document.content, exchange.app.config.limits.document_bytes, &holder).await?;
    let registered = registered(exchange, national, asked, &entry).await;
    let (person, content) = match kind {
        OrcdKind::Report => report(&entry, bytes, registered, &holder).await?,
        OrcdKind::Picture => {
            (registered.unwrap_or_default(), picture::of_manifest(exchange, asked, &bytes, trail).await?)
        }
    };
    let unique_id = Form::Orcd.of(&entry.unique_id);
    let custodian = exchange.app.config.national.as_ref().and_then(|national| national.custodian.as_deref());
    let view =
        OrcdDocument { kind, original: &entry, unique_id: &unique_id, person: &person, custodian, content: &content };
    let room = holder.room(view.most()).map_err(NationalError::from)?;
    Ok(room.keep(view.write()))
}

/// The patient as the national register knows her: name and id of a view come from one source. `None`: the register does
/// not answer, and a report then speaks for itself.
async fn registered(
    exchange: &Exchange,
    national: &National,
    asked: &Authorised<LookUp<RetrieveRequest>>,
    entry: &DocumentEntry,
) -> Option<Person> {
    let own = &exchange.app.config.gateway.home_community_id.0;
    let query = PatientQuery::new(own.clone(), own.clone(), vec![entry.patient_id.clone()], None, None, None);
    let found = national.find(&asked.derive(query)).await.ok()?;
    let of_id = |record: &&PatientRecord| record.id == entry.patient_id || record.other_ids.contains(&entry.patient_id);
    found.iter().find(of_id).map(Person::from)
}

/// The PDF of a report: its own, the one inside, or its text on pages.
async fn report(
    entry: &DocumentEntry,
    bytes: Bytes,
    registered: Option<Person>,
    holder: &Holder,
) -> Result<(Person, Bytes), GatewayError> {
    if bytes.starts_with(b"%PDF-") {
        return Ok((registered.unwrap_or_default(), bytes));
    }
    if let Some((person, "application/pdf", pdf)) = holder.inside(&bytes).map_err(NationalError::from)? {
        return Ok((registered.unwrap_or(person), pdf));
    }
    let entry = entry.clone();
    // Laying out pages takes longer than a thread of the runtime should be held.
    let made = tokio::task::spawn_blocking(move || {
        let mut report = match entry.mime_type.as_str() {
            "text/plain" => Report::of_text(std::str::from_utf8(&bytes).map_err(|_| ReportError::Form)?),
            _ => Report::of_cda(&bytes),
        }?;
        if let Some(registered) = registered {
            report.person = registered;
        }
        let pdf = page::pdf(&entry, &report)?;
        Ok((report.person, pdf))
    });
    match made.await {
        Ok(Ok((person, pdf))) => Ok((person, holder.room(pdf.len()).map_err(NationalError::from)?.keep(pdf))),
        Ok(Err(reason)) => Err(not_shown(reason).into()),
        Err(_) => Err(GatewayError::Internal("report could not be laid out")),
    }
}

fn not_shown(reason: ReportError) -> NationalError {
    tracing::warn!(reason = reason.text(), "a report could not be shown as pages");
    match reason {
        ReportError::Busy => NationalError::Busy(Some(AGAIN)),
        ReportError::Form | ReportError::TooLong => NationalError::NotShown(reason.text()),
    }
}
