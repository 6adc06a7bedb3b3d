//! What the trail says, from what the gateway knows.

use ncp_audit::{DocumentObject, OutcomeIndicator, StudyObject, Transaction};
use ncp_ihe::{DocumentRequest, StoredQuery};
use opentelemetry::trace::TraceContextExt;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::identity::TransactionName;
use crate::national::LocatedStudy;
use crate::outcome::Indicator;

impl From<TransactionName> for Transaction {
    fn from(name: TransactionName) -> Self {
        match name {
            TransactionName::Iti55 => Self::Iti55,
            TransactionName::Iti38 => Self::Iti38,
            TransactionName::Iti39 => Self::Iti39,
            TransactionName::Rad75 => Self::Rad75,
        }
    }
}

impl From<Indicator> for OutcomeIndicator {
    fn from(indicator: Indicator) -> Self {
        match indicator {
            Indicator::Success => Self::Success,
            Indicator::Minor => Self::Minor,
            Indicator::Serious => Self::Serious,
            Indicator::Major => Self::Major,
        }
    }
}

pub(super) fn document_object(request: &DocumentRequest) -> DocumentObject {
    DocumentObject {
        unique_id: request.document.clone(),
        repository: request.repository.to_string(),
        home: request.home.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..DocumentObject::default()
    }
}

pub(super) fn study_object(study: &LocatedStudy) -> StudyObject {
    let mut series: Vec<String> = study.instances.iter().map(|i| i.series.to_string()).collect();
    series.dedup();
    let mut sop_classes: Vec<(String, u64)> = Vec::new();
    for class in study.instances.iter().filter_map(|i| i.sop_class.as_ref()).map(ToString::to_string) {
        match sop_classes.iter_mut().find(|(uid, _)| *uid == class) {
            Some((_, count)) => *count += 1,
            None => sop_classes.push((class, 1)),
        }
    }
    let first = study.instances.first();
    StudyObject {
        sop_classes,
        study: study.study.to_string(),
        series,
        repository: first.map(|i| i.request.repository.to_string()).unwrap_or_default(),
        home: first.and_then(|i| i.request.home.as_ref()).map(ToString::to_string).unwrap_or_default(),
        ..StudyObject::default()
    }
}

/// Class codes of a FindDocuments, as `code^^system`.
pub(super) fn class_codes(query: &StoredQuery) -> Vec<String> {
    match query {
        StoredQuery::FindDocuments(find) => {
            find.class_codes.iter().map(|c| format!("{}^^{}", c.code, c.system)).collect()
        }
        _ => Vec::new(),
    }
}

/// The W3C `traceparent` of the current span, empty when it is not traced.
pub(super) fn trace_context() -> String {
    let context = tracing::Span::current().context();
    let span = context.span().span_context().clone();
    if !span.is_valid() {
        return String::new();
    }
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8())
}
