//! ITI-39 and RAD-75 for a national consumer: what one community sends is passed on as it comes, in bounded memory.
//!
//! Documents are compared with what the community announced of them, and as many units as fit into memory are read before
//! the root is written, so that one that fails is named there. What fails later leaves the others whole: they follow, and
//! the consumer's message has no closing boundary.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::{
    Content as Carried, DocumentRequest, DocumentResponse, ImagingRequest, RegistryError, RetrieveRequest, Severity,
    Uid,
};
use ncp_soap::{OutPart, Parts};
use tokio::sync::Mutex;

use super::peers::code_only;
use super::told::Reports;
use super::{Call, Held, PeerError, boxed, retrieve};
use crate::audit_scope::Recorder;
use crate::compare::{Announced, Budget, Compared, Content, Expected, IsPatient, compare};
use crate::identity::TransactionName;
use crate::instance;
use crate::listener::OutParts;
use crate::outcome::GatewayError;
use crate::passing::{Data, Fate, Incomplete, until_failure};
use crate::patient_key::Person;
use crate::soap_client::AnswerBody;

/// Bytes of images that are read before the root is written.
const AHEAD: usize = 256 << 10;

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
    /// What the community announced of a document.
    announced: Announced,
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
            for (request, study) in portion.units() {
                study.iter().for_each(|study| recorder.failed_instance(study.as_str(), &request));
            }
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
        let is_asked = open.get(&key).is_some_and(|(request, _)| retrieve::is_asked_for(call, request, &document));
        let Some((request, study)) = is_asked.then(|| open.remove(&key)).flatten() else {
            own.alert("peer sent something that was not asked for");
            continue;
        };
        let content_id = format!("{number}.{reference}@ncp");
        let media_type = safe_media_type(&document.media_type);
        documents.push(DocumentResponse {
            request: request.clone(),
            new_document: document.new_document.filter(|id| id.len() <= 256),
            media_type: media_type.clone(),
            content: Carried::Include(content_id.clone()),
        });
        let announced = match call.peer.verify_hash() {
            true => call.app.announced.of(call.peer.country, &request),
            false => Announced::default(),
        };
        let promised = Promised { content_id, media_type, request, study, announced };
        match document.content {
            Carried::Include(id) => {
                by_part.insert(id, promised);
            }
            Carried::Inline(bytes) => inline.push((promised, bytes)),
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
    let ahead = Budget::new(AHEAD, AHEAD);
    let syntaxes = match portion {
        Portion::Images(request) => request.transfer_syntaxes.iter().map(ToString::to_string).collect(),
        Portion::Documents(_) => Vec::new(),
    };
    let budget = if matches!(portion, Portion::Images(_)) { ahead } else { call.app.compare.clone() };
    let (parts, is_patient) = (Arc::new(Mutex::new(answer.parts)), retrieve::is_patient(call, None, None));
    let mut coming = Coming { promised: by_part, parts, budget, syntaxes, is_patient };
    let beginning = coming.beginning(inline).await;
    if beginning.ready.is_empty()
        && beginning.passing.is_none()
        && let Some(error) = beginning.broken
    {
        return Err(error.into());
    }
    let mut errors = errors(call, portion, &response.errors, open.into_values(), own);
    for (unit, error) in beginning.failed {
        documents.retain(|document| document.request != unit.request);
        unit.failed(own, &error);
        let home = &call.peer.home_community_id;
        let error = GatewayError::from(error);
        tracing::warn!(country = %call.peer.country, reason = %error, "a unit cannot be handed on");
        let location = Some(format!("{} {home}", unit.request.document));
        errors.push(error.registry_error(portion.transaction(), location, &reference.to_string()));
    }
    let parts = stream(beginning.ready, beginning.passing, coming, answer.held, both);
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
        own.failed_unit(study.as_ref(), request);
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

impl Promised {
    /// Names it on the trail.
    fn failed(&self, recorder: &Recorder, error: &PeerError) {
        recorder.failed_unit(self.study.as_ref(), &self.request);
        if let PeerError::Withheld(rule) = error {
            recorder.alert(rule);
        }
    }

    /// What an instance must be. The request alone says it: no manifest was seen.
    fn expected_instance(&self, syntaxes: &[String]) -> Option<instance::Expected> {
        let study = self.study.clone()?;
        let transfer_syntaxes = syntaxes.to_vec();
        Some(instance::Expected { study, patient_ids: None, person: Person::default(), transfer_syntaxes })
    }
}

/// The parts that are still to come.
struct Coming {
    promised: BTreeMap<String, Promised>,
    parts: Arc<Mutex<Parts<AnswerBody>>>,
    /// Memory for what is read before it is passed on.
    budget: Budget,
    /// Transfer syntaxes that the consumer takes.
    syntaxes: Vec<String>,
    /// Whom a CDA may record.
    is_patient: Option<IsPatient>,
}

/// What was read before the root is written.
#[derive(Default)]
struct Beginning {
    /// Whole units.
    ready: Vec<(Promised, Content<PeerError>)>,
    /// The unit that is larger than what may be kept, at which the reading stopped.
    passing: Option<(Promised, Content<PeerError>)>,
    failed: Vec<(Promised, PeerError)>,
    /// Why nothing more comes.
    broken: Option<PeerError>,
}

impl Coming {
    /// Reads units as far as they fit into memory.
    async fn beginning(&mut self, inline: Vec<(Promised, Bytes)>) -> Beginning {
        let mut out = Beginning::default();
        for (unit, bytes) in inline {
            let once = Box::pin(futures_util::stream::once(async { Ok(bytes) }));
            let begun = self.begin(&unit, once).await;
            out.add(unit, begun);
        }
        while out.passing.is_none() {
            match self.next().await {
                Ok(Some((unit, begun))) => out.add(unit, begun),
                Ok(None) => {
                    out.lacks(std::mem::take(&mut self.promised), || {
                        PeerError::Malformed("a promised part did not come")
                    });
                    break;
                }
                Err(error) => {
                    out.lacks(std::mem::take(&mut self.promised), || PeerError::BrokeOff);
                    out.broken = Some(error);
                    break;
                }
            }
        }
        out
    }

    /// The next unit that was promised; an error when the message ends.
    async fn next(&mut self) -> Result<Option<(Promised, Result<Compared<PeerError>, PeerError>)>, PeerError> {
        loop {
            let Some(head) = self.parts.lock().await.next().await? else { return Ok(None) };
            let Some(unit) = self.promised.remove(&head.content_id) else { continue };
            let parts = self.parts.clone();
            let content = Box::pin(async_stream::try_stream! {
                while let Some(chunk) = parts.lock().await.chunk().await? {
                    yield chunk;
                }
            });
            let begun = self.begin(&unit, content).await;
            return Ok(Some((unit, begun)));
        }
    }

    /// Reads a unit until it is known that it may go on.
    async fn begin(&self, unit: &Promised, content: Content<PeerError>) -> Result<Compared<PeerError>, PeerError> {
        let Some(expected) = unit.expected_instance(&self.syntaxes) else {
            let expected = Expected { announced: unit.announced, is_patient: self.is_patient.clone() };
            return compare(content, expected, &self.budget).await;
        };
        let mut content = Whole(content);
        let (held, verdict) = instance::header(&mut content, &unit.request.document, &expected).await?;
        verdict.map_err(|foreign| PeerError::Withheld(foreign.rule()))?;
        let whole = futures_util::stream::once(async { Ok(held) }).chain(content.0);
        let sound = instance::sound(Box::pin(whole), None, |foreign| PeerError::Withheld(foreign.rule()));
        compare(Box::pin(sound), Expected::default(), &self.budget).await
    }
}

/// A stream as an object whose header is read.
struct Whole(Content<PeerError>);

impl instance::Chunks for Whole {
    type Error = PeerError;
    async fn chunk(&mut self) -> Result<Option<Bytes>, PeerError> {
        self.0.next().await.transpose()
    }
}

impl Beginning {
    fn add(&mut self, unit: Promised, begun: Result<Compared<PeerError>, PeerError>) {
        match begun {
            Ok(Compared::Whole(_, content)) => self.ready.push((unit, content)),
            Ok(Compared::Passing(content)) => self.passing = Some((unit, content)),
            Err(error) => self.failed.push((unit, error)),
        }
    }

    fn lacks(&mut self, units: BTreeMap<String, Promised>, why: impl Fn() -> PeerError) {
        self.failed.extend(units.into_values().map(|unit| (unit, why())));
    }
}

/// What is ready, then the rest as it comes. A unit that fails leaves the others whole, and an error at the end.
fn stream(
    ready: Vec<(Promised, Content<PeerError>)>,
    passing: Option<(Promised, Content<PeerError>)>,
    mut coming: Coming,
    held: Held,
    recorder: Recorder,
) -> OutParts {
    Box::pin(async_stream::try_stream! {
        let _held = held;
        let total = ready.len() + usize::from(passing.is_some()) + coming.promised.len();
        let mut lost = 0;
        let mut waiting: VecDeque<_> = ready.into_iter().chain(passing).collect();
        loop {
            let (unit, content) = match waiting.pop_front() {
                Some(unit) => unit,
                None => match coming.next().await {
                    Ok(Some((unit, Ok(Compared::Whole(_, content) | Compared::Passing(content))))) => (unit, content),
                    Ok(Some((unit, Err(error)))) => {
                        lost += 1;
                        unit.failed(&recorder, &error);
                        continue;
                    }
                    Ok(None) | Err(_) => break,
                },
            };
            let (part, fate, unit) = out(unit, &recorder, content);
            yield part;
            if let Err(error) = fate.ended() {
                lost += 1;
                unit.failed(&recorder, error.downcast_ref().unwrap_or(&PeerError::BrokeOff));
            }
        }
        for unit in std::mem::take(&mut coming.promised).into_values() {
            lost += 1;
            unit.failed(&recorder, &PeerError::BrokeOff);
        }
        if lost > 0 {
            Err(boxed(Incomplete { lost, total }))?;
        }
    })
}

fn out(unit: Promised, recorder: &Recorder, content: Content<PeerError>) -> (OutPart, Fate, Promised) {
    let data: Data = Box::pin(content.map(|chunk| chunk.map_err(boxed)));
    let data = match &unit.study {
        Some(study) => recorder.follow_instance(study.as_str(), data),
        None => recorder.follow_request(&unit.request, data),
    };
    let (data, fate) = until_failure(data);
    (OutPart { content_id: unit.content_id.clone(), media_type: unit.media_type.clone(), data }, fate, unit)
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
