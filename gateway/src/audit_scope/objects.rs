//! What the trail says, from what the gateway knows.

use ncp_audit::bounds::{EVIDENCE, told_bytes};
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

/// The SOAP header as evidence; of one that is too long its length and digest.
pub(super) fn evidence(envelope: &[u8]) -> String {
    let header = header_of(envelope).unwrap_or_default();
    if header.len() > EVIDENCE { told_bytes(header) } else { String::from_utf8_lossy(header).into_owned() }
}

/// The bytes of the SOAP header, from its first tag to its last, in an envelope that was parsed already.
pub(super) fn header_of(envelope: &[u8]) -> Option<&[u8]> {
    let named = memchr::memmem::find_iter(envelope, b"Header").find_map(|at| {
        let start = memchr::memrchr(b'<', envelope.get(..at)?)?;
        let prefix = envelope.get(start + 1..at)?;
        let is_prefix = prefix.is_empty() || (prefix.ends_with(b":") && !prefix.iter().any(u8::is_ascii_whitespace));
        let follows = envelope.get(at + 6).is_some_and(|b| b" \t\r\n>".contains(b));
        (is_prefix && !prefix.starts_with(b"/") && follows).then_some((start, prefix))
    });
    let (start, prefix) = named?;
    let close = [b"</", prefix, b"Header"].concat();
    let end = memchr::memmem::rfind(envelope, &close)?;
    let after = end + close.len() + memchr::memchr(b'>', envelope.get(end + close.len()..)?)? + 1;
    envelope.get(start..after)
}

#[cfg(test)]
mod tests {
    use super::header_of;

    #[test]
    fn the_header_is_kept_byte_for_byte() {
        let envelope = b"<s:Envelope xmlns:s='x'><s:Header  a='1'><w:HeaderX/><w:Security>&amp;</w:Security></s:Header ><s:Body/></s:Envelope>";
        let header = header_of(envelope).map(String::from_utf8_lossy);
        assert_eq!(header.as_deref(), Some("<s:Header  a='1'><w:HeaderX/><w:Security>&amp;</w:Security></s:Header >"));
        assert_eq!(header_of(b"<Envelope><Header>x</Header><Body/></Envelope>"), Some(&b"<Header>x</Header>"[..]));
        assert_eq!(header_of(b"<Envelope><Body/></Envelope>"), None);
        assert_eq!(header_of(b"Header <s:Header"), None);
    }
}
