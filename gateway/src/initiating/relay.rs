//! ITI-39 and RAD-75 for a national consumer: what one community sends is passed on as it comes, in constant memory.
//!
//! The root says what the community promised. A part that then fails, does not come, or is another instance than it
//! should be, ends the stream with an error, so that the consumer's message has no closing boundary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Incoming;
use ncp_ihe::{
    Content, DocumentRequest, DocumentResponse, ImagingRequest, RegistryError, RetrieveRequest, Severity, Uid,
};
use ncp_soap::{BoxError, OutPart, Parts};
use tokio::sync::Mutex;

use super::peers::code_only;
use super::told::Reports;
use super::{Call, Held, PeerError, boxed, retrieve};
use crate::audit_scope::Recorder;
use crate::identity::TransactionName;
use crate::instance::{self, Expected};
use crate::listener::OutParts;
use crate::outcome::GatewayError;
use crate::patient_key::Person;

/// What one community is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Portion {
    /// ITI-39.
    Documents(RetrieveRequest),
    /// RAD-75, with the nesting and the transfer syntaxes of the whole request.
    Images(ImagingRequest),
}

impl Portion {
    /// The cross gateway transaction.
    pub fn transaction(&self) -> TransactionName {
        match self {
            Self::Documents(_) => TransactionName::Iti39,
            Self::Images(_) => TransactionName::Rad75,
        }
    }

    /// All units asked for; an instance with its study.
    pub fn units(&self) -> Vec<(DocumentRequest, Option<Uid>)> {
        match self {
            Self::Documents(request) => request.documents.iter().map(|d| (d.clone(), None)).collect(),
            Self::Images(request) => {
                let of_study = |study: &ncp_ihe::StudyRequest| {
                    let uid = study.study.clone();
                    let instances = study.series.iter().flat_map(|series| series.instances.clone());
                    instances.map(|one| (one, Some(uid.clone()))).collect::<Vec<_>>()
                };
                request.studies.iter().flat_map(of_study).collect()
            }
        }
    }
}

/// What one community sends.
pub struct Relayed {
    /// What comes, with the Content-IDs under which it is passed on, in any order.
    pub documents: Vec<DocumentResponse>,
    /// What does not come.
    pub errors: Vec<RegistryError>,
    /// The parts.
    pub parts: OutParts,
}

/// One unit that was promised.
struct Promised {
    content_id: String,
    media_type: String,
    request: DocumentRequest,
    study: Option<Uid>,
}

/// Asks one community; the root of its answer has been read when this returns. `consumer` counts for the other trail.
///
/// # Errors
/// [`PeerError`] when nothing comes; the trail.
pub async fn relay(call: Arc<Call>, portion: Portion, consumer: Recorder) -> Result<Relayed, GatewayError> {
    let describe = |trail: &mut crate::audit_scope::Trail| match &portion {
        Portion::Documents(request) => trail.document_requests(&request.documents),
        Portion::Images(request) => trail.imaging_wanted(request),
    };
    let trail = call.begin(portion.transaction(), describe).await?;
    let recorder = trail.recorder();
    match ask(&call, &portion, &recorder, recorder.and(&consumer)).await {
        Ok(relayed) => Ok(Relayed { parts: trail.follow(relayed.parts), ..relayed }),
        Err(error) => {
            trail.refused(&error).await;
            Err(error)
        }
    }
}

async fn ask(call: &Call, portion: &Portion, own: &Recorder, both: Recorder) -> Result<Relayed, GatewayError> {
    let body = match portion {
        Portion::Documents(request) => request.to_element(),
        Portion::Images(request) => request.to_element(),
    };
    let answer = call.send(portion.transaction(), body, own).await?;
    let response = retrieve::read_response(&answer.body)?;
    let mut open: BTreeMap<(String, String), (DocumentRequest, Option<Uid>)> = BTreeMap::new();
    for (request, study) in portion.units() {
        open.insert((request.repository.to_string(), request.document.clone()), (request, study));
    }
    let reference = uuid::Uuid::new_v4();
    let (mut documents, mut by_part, mut inline) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (number, document) in response.documents.into_iter().enumerate() {
        let key = (document.request.repository.to_string(), document.request.document.clone());
        // What was not asked for, or comes twice, is not taken.
        let asked = open.get(&key).is_some_and(|(request, _)| retrieve::is_asked_for(call, request, &document));
        let Some((request, study)) = open.remove(&key).filter(|_| asked) else {
            own.alert("peer sent something that was not asked for");
            continue;
        };
        let content_id = format!("{number}.{reference}@ncp");
        let media_type = safe_media_type(&document.media_type);
        documents.push(DocumentResponse {
            request: request.clone(),
            new_document: document.new_document.filter(|id| id.len() <= 256),
            media_type: media_type.clone(),
            content: Content::Include(content_id.clone()),
        });
        let promised = Promised { content_id, media_type, request, study };
        match document.content {
            Content::Include(id) => {
                by_part.insert(id, promised);
            }
            Content::Inline(bytes) => inline.push((promised, bytes)),
        }
    }
    let reports = Reports::read(response.status, &response.errors);
    call.reported(portion.transaction(), &reports);
    if documents.is_empty()
        && response.errors.is_empty()
        && let Some(error) = reports.refusal(response.status)
    {
        return Err(error.into());
    }
    let errors = errors(call, portion, &response.errors, open.into_values(), own);
    let parts = stream(by_part, inline, answer.parts, answer.held, both);
    Ok(Relayed { documents, errors, parts })
}

/// The errors of the community in our words, and one for each unit that it left out without a word.
fn errors(
    call: &Call,
    portion: &Portion,
    told: &[RegistryError],
    missing: impl Iterator<Item = (DocumentRequest, Option<Uid>)>,
    own: &Recorder,
) -> Vec<RegistryError> {
    let home = &call.peer.home_community_id;
    let context = format!("reported by {home}");
    let mut missing: BTreeMap<String, (DocumentRequest, Option<Uid>)> =
        missing.map(|(request, study)| (request.document.clone(), (request, study))).collect();
    for (request, study) in missing.values() {
        match study {
            Some(study) => own.failed_instance(study.as_str(), request),
            None => own.failed_document(request),
        }
    }
    let asked = portion.units();
    let mut out = Vec::new();
    for error in told {
        let named = error.location.as_deref().unwrap_or_default();
        let unit = asked.iter().find(|(r, _)| named.split([' ', ';', ',']).any(|word| word == r.document));
        if error.severity == Severity::Error
            && let Some((request, _)) = unit
        {
            missing.remove(&request.document);
        }
        let location = unit.map_or_else(|| home.to_string(), |(request, _)| format!("{} {home}", request.document));
        let code = code_only(&error.code);
        out.push(RegistryError { code, context: context.clone(), severity: error.severity, location: Some(location) });
    }
    out.extend(missing.into_values().map(|(request, _)| RegistryError {
        code: "XDSDocumentUniqueIdError".into(),
        context: format!("not sent by {home}"),
        severity: Severity::Error,
        location: Some(format!("{} {home}", request.document)),
    }));
    out
}

fn stream(
    mut promised: BTreeMap<String, Promised>,
    inline: Vec<(Promised, Bytes)>,
    parts: Parts<Incoming>,
    held: Held,
    recorder: Recorder,
) -> OutParts {
    Box::pin(async_stream::try_stream! {
        let _held = held;
        for (unit, bytes) in inline {
            let bytes = match expected(&unit) {
                None => bytes,
                Some(expected) => {
                    let checked = instance::whole(bytes, &unit.request.document, &expected);
                    checked.map_err(|foreign| withheld(&recorder, foreign))?
                }
            };
            let once = futures_util::stream::once(async { Ok::<_, BoxError>(bytes) }).boxed();
            yield out(unit, &recorder, once);
        }
        let parts = Arc::new(Mutex::new(parts));
        while let Some(head) = { parts.lock().await.next().await.map_err(boxed)? } {
            let Some(unit) = promised.remove(&head.content_id) else { continue };
            let held = match expected(&unit) {
                None => Bytes::new(),
                Some(expected) => {
                    let mut parts = parts.lock().await;
                    let header = instance::header(&mut *parts, &unit.request.document, &expected).await;
                    let (held, verdict) = header.map_err(boxed)?;
                    verdict.map_err(|foreign| withheld(&recorder, foreign))?;
                    held
                }
            };
            let whole = Arc::new(AtomicBool::new(false));
            let (source, done) = (parts.clone(), whole.clone());
            let data = async_stream::try_stream! {
                if !held.is_empty() {
                    yield held;
                }
                while let Some(chunk) = source.lock().await.chunk().await.map_err(boxed)? {
                    yield chunk;
                }
                done.store(true, Ordering::Release);
            };
            yield out(unit, &recorder, Box::pin(data));
            if !whole.load(Ordering::Acquire) {
                Err(boxed(PeerError::BrokeOff))?;
            }
        }
        if !promised.is_empty() {
            Err(boxed(PeerError::Malformed("a promised part did not come")))?;
        }
    })
}

fn out(
    unit: Promised,
    recorder: &Recorder,
    data: std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, BoxError>> + Send>>,
) -> OutPart {
    let data = match &unit.study {
        Some(study) => recorder.follow_instance(study.as_str(), data),
        None => recorder.follow_request(&unit.request, data),
    };
    OutPart { content_id: unit.content_id, media_type: unit.media_type, data }
}

/// The request alone says what an instance must be: no manifest was seen.
fn expected(unit: &Promised) -> Option<Expected> {
    let study = unit.study.clone()?;
    Some(Expected { study, patient_ids: None, person: Person::default(), transfer_syntaxes: Vec::new() })
}

fn withheld(recorder: &Recorder, foreign: instance::Foreign) -> BoxError {
    recorder.alert(foreign.rule());
    boxed(PeerError::Mismatch)
}

/// A media type that may stand in a part's header.
fn safe_media_type(text: &str) -> String {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-' | b'_'))
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    match essence.split_once('/') {
        Some((kind, sub)) if essence.len() <= 127 && token(kind) && token(sub) => essence.to_owned(),
        _ => "application/octet-stream".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_cannot_break_a_header() {
        assert_eq!(safe_media_type("text/xml; charset=UTF-8"), "text/xml");
        assert_eq!(safe_media_type("application/dicom"), "application/dicom");
        for bad in ["", "text", "text/", "a/b\r\nX-Header: 1", "a b/c", "text/xml\u{0}"] {
            assert_eq!(safe_media_type(bad), "application/octet-stream", "{bad:?}");
        }
    }
}
