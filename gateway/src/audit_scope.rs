//! The guard that guarantees a record: an intent at the start, the decision before the first byte, the outcome on every
//! way out, also when the other side goes away or we crash.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use ncp_audit::{
    Decision, DocumentObject, Event, HumanRequestor, Intent, Outcome, OutcomeIndicator, PeerFacts, QueryObject, Role,
    StudyObject, Transaction,
};
use ncp_ihe::{CrossGatewayQueryRequest, DocumentRequest, ImagingRequest, PatientId, PatientQuery};
use ncp_soap::{BoxError, OutPart};
use ncp_xml::Element;
use openssl::sha::Sha256;

use crate::app::App;
use crate::config::Peer;
use crate::identity::{Identity, TransactionName};
use crate::listener::OutParts;
use crate::national::{LocatedStudy, Missing};
use crate::outcome::{Alert, GatewayError, Indicator};
use crate::policy::Refusal;
use crate::responding::pipeline::{Exchange, Message};

/// The trail of one exchange.
pub struct Trail {
    exchange: Option<ncp_audit::Exchange>,
    exchange_id: String,
    peer: PeerFacts,
    decision: Decision,
    progress: Recorder,
    failed_documents: Vec<DocumentObject>,
    alerts: Vec<Event>,
}

/// Counts what really goes out or comes in, while it does.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Progress>>);

#[derive(Default)]
struct Progress {
    failed: BTreeMap<String, StudyObject>,
    alerts: Vec<String>,
    documents: Vec<DocumentObject>,
    studies: BTreeMap<String, (StudyObject, Sha256Of)>,
    snapshot: String,
}

/// SHA-256 over the digests of whole instances.
struct Sha256Of(Sha256);

impl Default for Sha256Of {
    fn default() -> Self {
        Self(Sha256::new())
    }
}

type Data = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

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

impl Trail {
    /// Stage 0 of a responding exchange: the intent is on disk when this returns.
    ///
    /// # Errors
    /// The record could not be stored; nothing may be done then.
    pub async fn responding(exchange: &Exchange, expected: Option<TransactionName>) -> Result<Self, GatewayError> {
        let connection = &exchange.connection;
        let configured = connection.peer.as_ref();
        let peer = PeerFacts {
            country: configured.map(|p| p.country.to_string()).unwrap_or_default(),
            home_community_id: configured.map(|p| p.home_community_id.to_string()).unwrap_or_default(),
            certificate_name: connection.certificate.common_name.clone(),
            address: connection.address.ip().to_string(),
            endpoint: String::new(),
        };
        let own = (format!("https://{}", connection.own), connection.own.ip().to_string());
        let transaction = expected.map_or(Transaction::Unknown, Transaction::from);
        Self::open(&exchange.app, &exchange.reference, transaction, Role::Responder, peer, own).await
    }

    /// The intent of an initiating exchange; it is on disk when this returns.
    ///
    /// # Errors
    /// As [`responding`](Self::responding).
    pub async fn initiating(
        app: &App,
        transaction: TransactionName,
        peer: &Peer,
        endpoint: &str,
    ) -> Result<Self, GatewayError> {
        let host = endpoint.strip_prefix("https://").and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
        let peer = PeerFacts {
            country: peer.country.to_string(),
            home_community_id: peer.home_community_id.to_string(),
            certificate_name: String::new(),
            address: host.to_owned(),
            endpoint: endpoint.to_owned(),
        };
        // The connection's own end is not known yet; the name under which the country's users know us is.
        let name = app.config.clinician.as_ref().and_then(|c| c.base_url.strip_prefix("https://"));
        let name = name.and_then(|host| host.split(':').next()).unwrap_or_default();
        let own = ("http://www.w3.org/2005/08/addressing/anonymous".to_owned(), name.to_owned());
        let id = uuid::Uuid::new_v4().to_string();
        Self::open(app, &id, transaction.into(), Role::Initiator, peer, own).await
    }

    async fn open(
        app: &App,
        exchange_id: &str,
        transaction: Transaction,
        role: Role,
        peer: PeerFacts,
        (own_endpoint, own_address): (String, String),
    ) -> Result<Self, GatewayError> {
        let intent = Intent {
            exchange_id: exchange_id.to_owned(),
            transaction,
            role,
            peer: peer.clone(),
            own_endpoint,
            own_address,
            began: Timestamp::now(),
        };
        let exchange = app.audit.intent(intent).await.map_err(|e| GatewayError::Audit(e.to_string()))?;
        Ok(Self {
            exchange: Some(exchange),
            exchange_id: exchange_id.to_owned(),
            peer,
            decision: Decision::default(),
            progress: Recorder::default(),
            failed_documents: Vec::new(),
            alerts: Vec::new(),
        })
    }

    /// The message was read.
    pub fn message(&mut self, message: &Message) {
        self.decision.transaction = Some(message.transaction.into());
        self.decision.message_id = message.addressing.message_id.clone().unwrap_or_default();
    }

    /// Who asks, from verified assertions.
    pub fn identified(&mut self, identity: &Identity) {
        let user = HumanRequestor {
            user_name: identity.user_name.clone(),
            display: identity.subject_name.clone(),
            role: (identity.role.clone(), "2.16.840.1.113883.2.9.6.2.7".into(), identity.role_display.clone()),
            organisation: identity.organisation.clone().unwrap_or_default(),
        };
        self.asked_by(user, &identity.purpose);
        if let Some(patient) = &identity.trc_patient {
            self.patient(patient);
        }
    }

    /// Who asks, and why. Emergency access stands out in every record.
    pub fn asked_by(&mut self, user: HumanRequestor, purpose: &str) {
        self.decision.user = Some(user);
        self.decision.purpose = purpose.to_owned();
        if purpose == "EMERGENCY" {
            let rule = "emergency access".to_owned();
            self.alerts.push(Event::SecurityAlert { rule, peer: self.peer.clone() });
        }
    }

    /// About whom.
    pub fn patient(&mut self, patient: &PatientId) {
        self.decision.patient = Some(patient.to_cx());
    }

    /// The query of ITI-55.
    pub fn patient_query(&mut self, query: &PatientQuery) {
        let id =
            query.query.child(ncp_ihe::ns::HL7V3, "queryId").and_then(|q| q.get("root")).unwrap_or("ITI-55").to_owned();
        self.decision.query = Some(QueryObject { id, bytes: query.query.to_xml().into_bytes() });
    }

    /// A person that the answer names.
    pub fn found_patient(&mut self, patient: &PatientId) {
        self.patient(patient);
    }

    /// The query of ITI-38.
    pub fn stored_query(&mut self, request: &CrossGatewayQueryRequest, body: &Element) {
        self.decision.query =
            Some(QueryObject { id: request.query.id().to_owned(), bytes: body.to_xml().into_bytes() });
    }

    /// The documents asked for.
    pub fn document_requests(&mut self, requests: &[DocumentRequest]) {
        self.decision.documents = requests.iter().map(document_object).collect();
    }

    /// The documents that will leave.
    pub fn documents_decided<'a>(&mut self, documents: impl Iterator<Item = (&'a DocumentRequest, Option<u64>)>) {
        self.decision.documents = documents
            .map(|(request, size)| DocumentObject { bytes: size.unwrap_or(0), ..document_object(request) })
            .collect();
    }

    /// A document that will not.
    pub fn document_failed(&mut self, request: &DocumentRequest, _: &GatewayError) {
        self.failed_documents.push(document_object(request));
    }

    /// The studies asked for.
    pub fn imaging_request(&mut self, request: &ImagingRequest) {
        self.decision.studies = request
            .studies
            .iter()
            .map(|study| {
                let first = study.series.first().and_then(|s| s.instances.first());
                StudyObject {
                    study: study.study.to_string(),
                    series: study.series.iter().map(|s| s.series.to_string()).collect(),
                    repository: first.map(|i| i.repository.to_string()).unwrap_or_default(),
                    home: first.and_then(|i| i.home.as_ref()).map(ToString::to_string).unwrap_or_default(),
                    instances: study.series.iter().map(|s| s.instances.len() as u64).sum(),
                    ..StudyObject::default()
                }
            })
            .collect();
    }

    /// The study that another country is asked for; counting starts at nothing.
    pub fn study_wanted(&mut self, study: StudyObject) {
        self.progress.begin_study(StudyObject { instances: 0, ..study.clone() });
        self.decision.studies = vec![study];
    }

    /// A document that came.
    pub fn document_received(&self, request: &DocumentRequest, bytes: &[u8]) {
        self.progress.lock().documents.push(DocumentObject {
            bytes: bytes.len() as u64,
            sha256: hex::encode(openssl::sha::sha256(bytes)),
            ..document_object(request)
        });
    }

    /// The studies that will leave; counting starts at nothing.
    pub fn studies_decided<'a>(&mut self, studies: impl Iterator<Item = &'a LocatedStudy>) {
        self.decision.studies = studies
            .map(|study| {
                let mut object = study_object(study);
                object.instances = study.instances.len() as u64;
                object
            })
            .collect();
        for study in self.decision.studies.clone() {
            self.progress.begin_study(StudyObject { instances: 0, ..study });
        }
    }

    /// Instances that will not come.
    pub fn instances_missing(&mut self, missing: &[(DocumentRequest, Missing)]) {
        for (request, why) in missing {
            let study = self.decision.studies.first().map(|s| s.study.clone()).unwrap_or_default();
            self.progress.failed_instance(&study, request);
            if *why == Missing::Mismatch {
                let rule = "instance names another patient than its study".to_owned();
                self.alerts.push(Event::SecurityAlert { rule, peer: self.peer.clone() });
            }
        }
    }

    /// A unit that policy withheld. Blocked and absent look the same outside; here the difference stands.
    pub fn withheld(&mut self, refusal: &Refusal) {
        let rule = match refusal {
            Refusal::OtherPatient => "unit of another patient was asked for",
            Refusal::Blocked => "blocked unit was asked for",
            Refusal::Forbidden(_) => "unit withheld by policy",
            Refusal::Failed(_) => "policy could not be evaluated",
        };
        self.alerts.push(Event::SecurityAlert { rule: rule.to_owned(), peer: self.peer.clone() });
    }

    /// A document went through the terminology service with this snapshot.
    pub fn translated(&mut self, snapshot: &str) {
        self.progress.lock().snapshot = snapshot.to_owned();
    }

    /// Counts and digests a document while it leaves.
    pub fn document_part(&self, request: DocumentRequest, part: OutPart) -> OutPart {
        let object = document_object(&request);
        OutPart { data: self.progress.follow_document(object, part.data), ..part }
    }

    /// Counts instances.
    pub fn recorder(&self) -> Recorder {
        self.progress.clone()
    }

    /// The decision is on disk when this returns; no byte may leave before.
    ///
    /// # Errors
    /// The record could not be stored; nothing may be disclosed then.
    pub async fn decided(&mut self) -> Result<(), GatewayError> {
        let Some(exchange) = &mut self.exchange else { return Err(GatewayError::Audit("closed".into())) };
        exchange.decided(self.decision.clone()).await.map_err(|e| GatewayError::Audit(e.to_string()))
    }

    /// Ended as decided.
    pub async fn finish(self) {
        self.close(OutcomeIndicator::Success, String::new()).await;
    }

    /// Ended with an error: the record, and the alert that its row asks for.
    pub async fn refused(mut self, error: &GatewayError) {
        let row = error.row();
        let rule = error.to_string();
        let peer = self.peer.clone();
        self.alerts.extend(row.alert.map(|alert| match alert {
            Alert::UserAuthentication => Event::UserAuthenticationFailed { rule: rule.clone(), peer },
            Alert::Security => Event::SecurityAlert { rule: rule.clone(), peer },
            Alert::RestrictedFunction => Event::RestrictedFunction { rule: rule.clone(), peer },
        }));
        if let Some(exchange) = &mut self.exchange
            && let Err(error) = exchange.decided(self.decision.clone()).await
        {
            tracing::error!(reason = %error, "decision not stored");
        }
        self.close(row.indicator.into(), rule).await;
    }

    /// Broke off on its way.
    pub async fn broke_off(self, why: &str) {
        self.close(OutcomeIndicator::Serious, why.to_owned()).await;
    }

    async fn close(mut self, indicator: OutcomeIndicator, description: String) {
        let Some(exchange) = self.exchange.take() else { return };
        let (documents, studies) = self.progress.take();
        let (failed, rules) = self.progress.take_failed();
        let peer = &self.peer;
        self.alerts.extend(rules.into_iter().map(|rule| Event::SecurityAlert { rule, peer: peer.clone() }));
        let outcome = Outcome {
            documents,
            studies,
            failed_documents: std::mem::take(&mut self.failed_documents),
            failed_studies: failed,
            alerts: std::mem::take(&mut self.alerts),
            ..Outcome::new(indicator, &description)
        };
        if let Err(error) = exchange.finish(outcome).await {
            tracing::error!(reason = %error, ncp.reference = %self.exchange_id, "outcome not stored");
        }
    }

    /// Goes with the parts of an answer and closes when they end, break or are dropped.
    pub fn follow(self, parts: OutParts) -> OutParts {
        Box::pin(Followed { parts, trail: Some(self) })
    }
}

struct Followed {
    parts: OutParts,
    trail: Option<Trail>,
}

impl Stream for Followed {
    type Item = Result<OutPart, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.parts.as_mut().poll_next(cx);
        match &next {
            Poll::Ready(None) => close_later(self.trail.take(), None),
            Poll::Ready(Some(Err(_))) => close_later(self.trail.take(), Some("source broke off")),
            _ => {}
        }
        next
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        close_later(self.trail.take(), Some("receiver or source went away"));
    }
}

fn close_later(trail: Option<Trail>, broken: Option<&'static str>) {
    let (Some(trail), Ok(runtime)) = (trail, tokio::runtime::Handle::try_current()) else { return };
    runtime.spawn(async move {
        match broken {
            None => trail.finish().await,
            Some(why) => trail.broke_off(why).await,
        }
    });
}

fn document_object(request: &DocumentRequest) -> DocumentObject {
    DocumentObject {
        unique_id: request.document.clone(),
        repository: request.repository.to_string(),
        home: request.home.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..DocumentObject::default()
    }
}

fn study_object(study: &LocatedStudy) -> StudyObject {
    let mut series: Vec<String> = study.instances.iter().map(|i| i.series.to_string()).collect();
    series.dedup();
    let first = study.instances.first();
    StudyObject {
        study: study.study.to_string(),
        series,
        repository: first.map(|i| i.request.repository.to_string()).unwrap_or_default(),
        home: first.and_then(|i| i.request.home.as_ref()).map(ToString::to_string).unwrap_or_default(),
        ..StudyObject::default()
    }
}

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Begins to count a study.
    pub fn begin_study(&self, study: StudyObject) {
        self.lock().studies.insert(study.study.clone(), (study, Sha256Of::default()));
    }

    /// Counts and digests an instance while it passes.
    pub fn follow_instance(&self, study: &str, data: Data) -> Data {
        let (recorder, study) = (self.clone(), study.to_owned());
        let (on_chunk, for_end) = (recorder.clone(), study.clone());
        digested(
            data,
            move |bytes| {
                if let Some((object, _)) = on_chunk.lock().studies.get_mut(&study) {
                    object.bytes += bytes;
                }
            },
            move |digest| {
                if let Some((object, all)) = recorder.lock().studies.get_mut(&for_end) {
                    object.instances += 1;
                    all.0.update(&digest);
                }
            },
        )
    }

    /// Counts and digests a document while it passes.
    pub fn follow_document(&self, object: DocumentObject, data: Data) -> Data {
        let index = {
            let mut progress = self.lock();
            progress.documents.push(object);
            progress.documents.len() - 1
        };
        let (on_chunk, on_end) = (self.clone(), self.clone());
        digested(
            data,
            move |bytes| {
                if let Some(object) = on_chunk.lock().documents.get_mut(index) {
                    object.bytes += bytes;
                }
            },
            move |digest| {
                if let Some(object) = on_end.lock().documents.get_mut(index) {
                    object.sha256 = hex::encode(digest);
                }
            },
        )
    }

    /// One instance that did not come.
    pub fn failed_instance(&self, study: &str, request: &DocumentRequest) {
        let mut progress = self.lock();
        let object = progress.failed.entry(study.to_owned()).or_insert_with(|| StudyObject {
            study: study.to_owned(),
            repository: request.repository.to_string(),
            home: request.home.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..StudyObject::default()
        });
        object.instances += 1;
    }

    /// A security alert that goes with the exchange; one of a kind is enough.
    pub fn alert(&self, rule: &str) {
        let mut progress = self.lock();
        if !progress.alerts.iter().any(|known| known == rule) {
            progress.alerts.push(rule.to_owned());
        }
    }

    fn take_failed(&self) -> (Vec<StudyObject>, Vec<String>) {
        let mut progress = self.lock();
        (std::mem::take(&mut progress.failed).into_values().collect(), std::mem::take(&mut progress.alerts))
    }

    fn take(&self) -> (Vec<DocumentObject>, Vec<StudyObject>) {
        let mut progress = self.lock();
        let snapshot = std::mem::take(&mut progress.snapshot);
        let documents = std::mem::take(&mut progress.documents)
            .into_iter()
            .map(|d| DocumentObject { snapshot: snapshot.clone(), ..d })
            .collect();
        let studies = std::mem::take(&mut progress.studies)
            .into_values()
            .map(|(study, all)| StudyObject { sha256: hex::encode(all.0.finish()), ..study })
            .collect();
        (documents, studies)
    }
}

fn digested(data: Data, count: impl Fn(u64) + Send + 'static, end: impl FnOnce([u8; 32]) + Send + 'static) -> Data {
    let mut data = data;
    Box::pin(async_stream::stream! {
        let mut digest = Sha256::new();
        while let Some(chunk) = data.next().await {
            match chunk {
                Ok(bytes) => {
                    digest.update(&bytes);
                    count(bytes.len() as u64);
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
