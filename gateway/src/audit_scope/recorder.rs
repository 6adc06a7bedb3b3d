//! Counts and digests what really goes out or comes in, while it does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ncp_audit::bounds::{EVIDENCE, TEXT, told_bytes};
use ncp_audit::{DocumentObject, Evidence, Outcome, OutcomeIndicator, StudyObject};
use ncp_ihe::DocumentRequest;
use ncp_soap::BoxError;
use ncp_xml::Element;
use openssl::sha::Sha256;

use super::objects::{document_object, evidence};
use super::sop_class;
use crate::outcome::Indicator;

/// Messages of one exchange that are kept as evidence.
const MESSAGES: usize = 64;

/// Counts what really goes out or comes in, while it does; once for several trails where an exchange passes through.
#[derive(Clone)]
pub struct Recorder(Vec<Arc<Mutex<Progress>>>);

impl Default for Recorder {
    fn default() -> Self {
        Self(vec![Arc::default()])
    }
}

#[derive(Default)]
pub(super) struct Progress {
    failed: BTreeMap<String, StudyObject>,
    failed_documents: Vec<DocumentObject>,
    alerts: Vec<String>,
    documents: Vec<DocumentObject>,
    studies: BTreeMap<String, (StudyObject, Sha256Of)>,
    snapshot: String,
    reported: Option<(Indicator, String)>,
    requests: Vec<Evidence>,
    responses: Vec<Evidence>,
    server: String,
}

/// SHA-256 over the digests of whole instances.
struct Sha256Of(Sha256);

impl Default for Sha256Of {
    fn default() -> Self {
        Self(Sha256::new())
    }
}

type Data = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

impl Recorder {
    /// Counts for both trails at once, with one digest.
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }

    pub(super) fn each(&self, mut change: impl FnMut(&mut Progress)) {
        for progress in &self.0 {
            change(&mut progress.lock().unwrap_or_else(|p| p.into_inner()));
        }
    }

    /// Begins to count a study.
    pub fn begin_study(&self, study: StudyObject) {
        self.each(|progress| {
            // What was promised is the decision's; what passes is counted from nothing, by class too.
            let study = StudyObject { instances: 0, sop_classes: Vec::new(), ..study.clone() };
            progress.studies.insert(study.study.clone(), (study, Sha256Of::default()));
        });
    }

    /// Counts and digests an instance while it passes.
    pub fn follow_instance(&self, study: &str, data: Data) -> Data {
        let (recorder, study) = (self.clone(), study.to_owned());
        let (on_chunk, for_end) = (recorder.clone(), study.clone());
        let head = Arc::new(Mutex::new(Vec::new()));
        let of_end = head.clone();
        digested(
            data,
            move |chunk| {
                let mut head = head.lock().unwrap_or_else(|p| p.into_inner());
                let room = sop_class::HEAD.saturating_sub(head.len()).min(chunk.len());
                head.extend_from_slice(&chunk[..room]);
                on_chunk.each(|progress| {
                    if let Some((object, _)) = progress.studies.get_mut(&study) {
                        object.bytes += chunk.len() as u64;
                    }
                });
            },
            move |digest| {
                let class = sop_class::of(&of_end.lock().unwrap_or_else(|p| p.into_inner()));
                recorder.each(|progress| {
                    if let Some((object, all)) = progress.studies.get_mut(&for_end) {
                        object.instances += 1;
                        all.0.update(&digest);
                        let Some(class) = &class else { return };
                        match object.sop_classes.iter_mut().find(|(uid, _)| uid == class) {
                            Some((_, count)) => *count += 1,
                            None => object.sop_classes.push((class.clone(), 1)),
                        }
                    }
                });
            },
        )
    }

    /// Counts and digests a document while it passes.
    pub fn follow_document(&self, object: DocumentObject, data: Data) -> Data {
        let mut places = Vec::with_capacity(self.0.len());
        self.each(|progress| {
            places.push(progress.documents.len());
            progress.documents.push(object.clone());
        });
        let (on_chunk, on_end, for_end) = (self.clone(), self.clone(), places.clone());
        digested(
            data,
            move |chunk| {
                let mut places = places.iter();
                on_chunk.each(|progress| {
                    if let Some(object) = places.next().and_then(|place| progress.documents.get_mut(*place)) {
                        object.bytes += chunk.len() as u64;
                    }
                });
            },
            move |digest| {
                let mut places = for_end.iter();
                on_end.each(|progress| {
                    if let Some(object) = places.next().and_then(|place| progress.documents.get_mut(*place)) {
                        object.sha256 = hex::encode(digest);
                    }
                });
            },
        )
    }

    /// Counts and digests the document that was asked for.
    pub fn follow_request(&self, request: &DocumentRequest, data: Data) -> Data {
        self.follow_document(document_object(request), data)
    }

    /// A document that came whole.
    pub(super) fn document(&self, object: &DocumentObject) {
        self.each(|progress| progress.documents.push(object.clone()));
    }

    pub(super) fn snapshot(&self, snapshot: &str) {
        self.each(|progress| snapshot.clone_into(&mut progress.snapshot));
    }

    /// A request as it left. Those that follow carry the same assertions, so that their IDs are enough.
    pub fn sent(&self, message_id: &str, envelope: &[u8]) {
        let header = evidence(envelope);
        self.each(|progress| {
            let header = if progress.requests.is_empty() { &header } else { "" };
            keep(&mut progress.requests, message_id, header);
        });
    }

    /// Who answered, by the certificate that was shown.
    pub fn server(&self, name: &str) {
        self.each(|progress| name.clone_into(&mut progress.server));
    }

    /// A response as it came, or as it will leave.
    pub fn answered(&self, message_id: &str, headers: Vec<Element>) {
        let header = Element::new(ncp_soap::ns::SOAP, "Header").with_all(headers).to_xml();
        self.each(|progress| keep(&mut progress.responses, message_id, &header));
    }

    /// One document that did not come.
    pub fn failed_document(&self, request: &DocumentRequest) {
        self.each(|progress| progress.failed_documents.push(document_object(request)));
    }

    /// One instance that did not come.
    pub fn failed_instance(&self, study: &str, request: &DocumentRequest) {
        self.each(|progress| {
            let object = progress.failed.entry(study.to_owned()).or_insert_with(|| StudyObject {
                study: study.to_owned(),
                repository: request.repository.to_string(),
                home: request.home.as_ref().map(ToString::to_string).unwrap_or_default(),
                ..StudyObject::default()
            });
            object.instances += 1;
        });
    }

    /// A security alert that goes with the exchange; one of a kind is enough.
    pub fn alert(&self, rule: &str) {
        self.each(|progress| {
            if !progress.alerts.iter().any(|known| known == rule) {
                progress.alerts.push(rule.to_owned());
            }
        });
    }

    /// Units of an answer failed, or the whole, although the exchange ends in order: the outcome says so, with the code.
    /// The first of the gravest counts.
    pub fn reported(&self, indicator: Indicator, code: &str) {
        self.each(|progress| {
            if progress.reported.as_ref().is_none_or(|(known, _)| (*known as u8) < indicator as u8) {
                progress.reported = Some((indicator, code.to_owned()));
            }
        });
    }

    /// All that was counted, as an outcome that still lacks its indicator; counting starts at nothing.
    pub(super) fn take(&self, outcome: &mut Outcome) -> Vec<String> {
        let mut alerts = Vec::new();
        self.each(|progress| {
            let progress = std::mem::take(progress);
            let snapshot = progress.snapshot;
            if let (Some((indicator, code)), OutcomeIndicator::Success) = (progress.reported, outcome.indicator) {
                (outcome.indicator, outcome.error_code) = (indicator.into(), code);
            }
            outcome.snapshot.clone_from(&snapshot);
            let mut failed_documents = progress.failed_documents;
            // Of a document that broke off the bytes that went are told with its failure.
            let (broken, whole): (Vec<_>, Vec<_>) = progress.documents.into_iter().partition(|document| {
                document.sha256.is_empty() && failed_documents.iter().any(|failed| same_document(failed, document))
            });
            for document in broken {
                if let Some(failed) = failed_documents.iter_mut().find(|failed| same_document(failed, &document)) {
                    failed.bytes += document.bytes;
                }
            }
            let documents = whole.into_iter();
            outcome.documents.extend(documents.map(|d| DocumentObject { snapshot: snapshot.clone(), ..d }));
            let studies = progress.studies.into_values();
            // A study of which nothing came is among the failed ones.
            let studies = studies.filter(|(study, _)| {
                study.instances > 0 || study.bytes > 0 || !progress.failed.contains_key(&study.study)
            });
            outcome
                .studies
                .extend(studies.map(|(study, all)| StudyObject { sha256: hex::encode(all.0.finish()), ..study }));
            outcome.failed_studies.extend(progress.failed.into_values());
            outcome.failed_documents.extend(failed_documents);
            outcome.peer_certificate.clone_from(&progress.server);
            outcome.requests.extend(progress.requests);
            outcome.responses.extend(progress.responses);
            alerts.extend(progress.alerts);
        });
        alerts
    }
}

fn same_document(one: &DocumentObject, other: &DocumentObject) -> bool {
    (&one.home, &one.repository, &one.unique_id) == (&other.home, &other.repository, &other.unique_id)
}

fn keep(messages: &mut Vec<Evidence>, message_id: &str, header: &str) {
    if messages.len() < MESSAGES && !message_id.is_empty() {
        let room = EVIDENCE.saturating_sub(messages.iter().map(|kept| kept.header.len()).sum());
        // Of a header for which there is no room its length and digest.
        let header = if header.len() <= room { header.to_owned() } else { told_bytes(header.as_bytes()) };
        let message_id =
            if message_id.len() <= TEXT { message_id.to_owned() } else { told_bytes(message_id.as_bytes()) };
        messages.push(Evidence { message_id, header });
    }
}

fn digested(data: Data, count: impl Fn(&Bytes) + Send + 'static, end: impl FnOnce([u8; 32]) + Send + 'static) -> Data {
    let mut data = data;
    Box::pin(async_stream::stream! {
        let mut digest = Sha256::new();
        while let Some(chunk) = data.next().await {
            match chunk {
                Ok(bytes) => {
                    digest.update(&bytes);
                    count(&bytes);
                    yield Ok(bytes);
                }
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        }
        end(digest.finish());
    })
}
