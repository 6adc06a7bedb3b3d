//! Counts and digests what really goes out or comes in, while it does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use ncp_audit::bounds::{EVIDENCE, LOST, TEXT, told_bytes, told_more};
use ncp_audit::{DocumentObject, Evidence, Outcome, OutcomeIndicator, StudyObject};
use ncp_ihe::{DocumentRequest, Uid};
use ncp_xml::Element;
use openssl::sha::Sha256;

use super::objects::{document_object, evidence};
use super::sop_class;
use crate::outcome::Indicator;
use crate::passing::Data;

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
    failed: BTreeMap<String, Failed>,
    /// Bytes of the UIDs of instances that are listed as failed.
    listed: usize,
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

/// A study with instances that did not come.
#[derive(Default)]
struct Failed {
    study: StudyObject,
    /// Those for whose UIDs there was no room, and the digest of these, each ended by a line feed.
    more: u64,
    digest: Sha256Of,
}

impl Failed {
    fn told(self) -> StudyObject {
        let Self { study, more, digest } = self;
        let lost_more = if more > 0 { told_more(more, &digest.0.finish()) } else { String::new() };
        StudyObject { lost_more, ..study }
    }
}

/// A SHA-256 in the making: over the digests of whole instances, or over the UIDs of those that did not come.
struct Sha256Of(Sha256);

impl Default for Sha256Of {
    fn default() -> Self {
        Self(Sha256::new())
    }
}

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
    pub fn begin_study(&self, study: &StudyObject) {
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

    /// A request as it left, by its MessageID, which the trail of the other country has too; and its envelope where the trail
    /// keeps evidence. Those that follow carry the same assertions, so that their IDs are enough.
    pub fn sent(&self, message_id: &str, envelope: Option<&[u8]>) {
        let header = envelope.map(evidence).unwrap_or_default();
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

    /// One unit that did not come: an instance of this study, else a document.
    pub fn failed_unit(&self, study: Option<&Uid>, request: &DocumentRequest) {
        match study {
            Some(study) => self.failed_instance(study.as_str(), request),
            None => self.failed_document(request),
        }
    }

    /// One instance that did not come.
    pub fn failed_instance(&self, study: &str, request: &DocumentRequest) {
        self.failed_objects(study, request, 1);
    }

    /// So many objects under one UID that did not come.
    pub fn failed_objects(&self, study: &str, request: &DocumentRequest, objects: usize) {
        self.each(|progress| {
            let failed = progress.failed.entry(study.to_owned()).or_insert_with(|| Failed {
                study: StudyObject {
                    study: study.to_owned(),
                    repository: request.repository.to_string(),
                    home: request.home.as_ref().map(ToString::to_string).unwrap_or_default(),
                    ..StudyObject::default()
                },
                ..Failed::default()
            });
            failed.study.instances += objects as u64;
            let uid = &request.document;
            let takes = uid.len() + 16;
            if progress.listed + takes <= LOST {
                progress.listed += takes;
                failed.study.lost.push(uid.clone());
            } else {
                failed.more += objects as u64;
                failed.digest.0.update(uid.as_bytes());
                failed.digest.0.update(b"\n");
            }
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
            outcome.failed_studies.extend(progress.failed.into_values().map(Failed::told));
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

/// What is longer goes out in pieces of so many bytes, so that what is counted is about what was taken.
const PIECE: usize = 256 << 10;

fn digested(data: Data, count: impl Fn(&Bytes) + Send + 'static, end: impl FnOnce([u8; 32]) + Send + 'static) -> Data {
    let mut data = data;
    Box::pin(async_stream::stream! {
        let mut digest = Sha256::new();
        while let Some(chunk) = data.next().await {
            match chunk {
                Ok(mut bytes) => loop {
                    let piece = bytes.split_to(bytes.len().min(PIECE));
                    digest.update(&piece);
                    count(&piece);
                    yield Ok(piece);
                    if bytes.is_empty() {
                        break;
                    }
                },
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        }
        end(digest.finish());
    })
}

#[cfg(test)]
mod tests {
    use ncp_ihe::Oid;

    use super::*;

    /// FO-08: instances that did not come are listed one by one within the bound, and counted and digested beyond it.
    #[test]
    fn fo_08_lost_instances_are_listed_within_a_bound() {
        let uid = |number: usize| format!("2.999.{number:06}.{}", "1".repeat(45));
        let repository = Oid::parse("2.999.21").expect("an OID");
        for count in [3, 10_000] {
            let recorder = Recorder::default();
            for number in 0..count {
                let request = DocumentRequest { home: None, repository: repository.clone(), document: uid(number) };
                recorder.failed_instance(if number % 2 == 0 { "2.999.1" } else { "2.999.2" }, &request);
            }
            let request = DocumentRequest { home: None, repository: repository.clone(), document: "2.999.9".into() };
            recorder.failed_objects("2.999.1", &request, 2);
            let mut outcome = Outcome::new(OutcomeIndicator::Success, "");
            recorder.take(&mut outcome);
            let listed: usize = outcome.failed_studies.iter().map(|s| s.lost.len()).sum();
            let bytes: usize = outcome.failed_studies.iter().flat_map(|s| &s.lost).map(String::len).sum();
            assert!(bytes <= LOST, "{bytes} bytes");
            assert_eq!(outcome.failed_studies.iter().map(|s| s.instances).sum::<u64>(), count as u64 + 2);
            if count == 3 {
                assert_eq!(outcome.failed_studies[0].lost, [uid(0), uid(2), "2.999.9".into()]);
                assert!(outcome.failed_studies.iter().all(|s| s.lost_more.is_empty()));
                continue;
            }
            // Without its own digest of those that are not listed nobody could say later which they were.
            let second = &outcome.failed_studies[1];
            let rest = (0..count).filter(|n| n % 2 == 1).map(uid).skip(second.lost.len());
            let lines: String = rest.map(|uid| uid + "\n").collect();
            let more = told_more(second.instances - second.lost.len() as u64, &openssl::sha::sha256(lines.as_bytes()));
            assert!(listed > 3000 && second.lost_more == more, "{listed}, {}", second.lost_more);
        }
    }
}
