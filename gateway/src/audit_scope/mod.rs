//! The guard that guarantees a record: an intent at the start, the decision before the first byte, the outcome on every
//! way out, also when the other side goes away or we crash.

mod events;
mod follow;
mod objects;
mod recorder;
mod sop_class;

pub use events::{WayBack, transcoding};
pub use follow::Streamed;
pub use recorder::Recorder;

use jiff::Timestamp;
use ncp_audit::{
    Decision, DocumentObject, Event, HumanRequestor, Intent, Outcome, OutcomeIndicator, PeerFacts, QueryObject, Role,
    StudyObject, TooLong, Transaction,
};
use ncp_ihe::{CrossGatewayQueryRequest, DocumentRequest, ImagingRequest, PatientId, PatientQuery};
use ncp_soap::{Addressing, OutPart};
use ncp_xml::Element;

use crate::app::App;
use crate::bounds;
use crate::config::Peer;
use crate::identity::{Identity, TransactionName};
use crate::listener::{OutParts, PeerConnection};
use crate::national::{LocatedStudy, Missing};
use crate::outcome::{Alert, GatewayError};
use crate::policy::Refusal;
use crate::responding::pipeline::Exchange;
use crate::shutdown::Held;
use crate::wire::Back;

use objects::{document_object, study_object};

/// The trail of one exchange.
pub struct Trail {
    exchange: Option<ncp_audit::Exchange>,
    exchange_id: String,
    peer: PeerFacts,
    decision: Decision,
    progress: Recorder,
    alerts: Vec<Event>,
    /// What of the request is longer than its record holds.
    too_long: Option<TooLong>,
    /// The gateway does not end before the outcome is on the trail.
    _open: Held,
}

impl Trail {
    /// Stage 0 of a responding exchange: the intent is on disk when this returns.
    ///
    /// # Errors
    /// The record could not be stored; nothing may be done then.
    pub async fn responding(
        exchange: &Exchange,
        path: &str,
        expected: Option<TransactionName>,
    ) -> Result<Self, GatewayError> {
        let connection = &exchange.connection;
        let configured = connection.peer.as_ref();
        let peer = PeerFacts {
            country: configured.map(|p| p.country.to_string()).unwrap_or_default(),
            home_community_id: configured.map(|p| p.home_community_id.to_string()).unwrap_or_default(),
            certificate_name: connection.certificate.common_name.clone(),
            address: connection.address.ip().to_string(),
            endpoint: String::new(),
        };
        let own = (format!("https://{}{path}", connection.own), connection.own.ip().to_string());
        let transaction = expected.map_or(Transaction::Unknown, Transaction::from);
        Self::open(&exchange.app, &exchange.reference, transaction, Role::Responder, peer, own).await
    }

    /// Stage 0 of an exchange with a national consumer; the intent is on disk when this returns.
    ///
    /// # Errors
    /// As [`responding`](Self::responding).
    pub async fn consumer(
        app: &App,
        reference: &str,
        transaction: Transaction,
        (connection, path): (&PeerConnection, &str),
    ) -> Result<Self, GatewayError> {
        let own = &app.config.gateway;
        let peer = PeerFacts {
            country: own.country.to_string(),
            home_community_id: own.home_community_id.to_string(),
            certificate_name: connection.certificate.common_name.clone(),
            address: connection.address.ip().to_string(),
            endpoint: String::new(),
        };
        let end = (format!("https://{}{path}", connection.own), connection.own.ip().to_string());
        Self::open(app, reference, transaction, Role::Responder, peer, end).await
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
            trace: objects::trace_context(),
            began: Timestamp::now(),
        };
        let exchange = app.audit.intent(intent).await.map_err(|e| GatewayError::Audit(e.to_string()))?;
        Ok(Self {
            exchange: Some(exchange),
            exchange_id: exchange_id.to_owned(),
            peer,
            decision: Decision::default(),
            progress: Recorder::default(),
            alerts: Vec::new(),
            too_long: None,
            _open: app.drain.hold(),
        })
    }

    /// The message was read.
    pub fn message(&mut self, transaction: impl Into<Transaction>, addressing: &Addressing) {
        self.decision.transaction = Some(transaction.into());
        // A message without a MessageID goes by the exchange's own id.
        let own = || format!("urn:uuid:{}", self.exchange_id);
        self.decision.message_id = addressing.message_id.clone().unwrap_or_else(own);
    }

    /// Whether the message came before (R-ID-1): its record is then one of a repeat.
    pub fn repeats(&mut self, repeat: bool) {
        self.decision.repeat = repeat;
    }

    /// The request's SOAP header, where the trail keeps it as evidence.
    pub fn evidence(&mut self, app: &App, envelope: &[u8]) {
        if app.audit.keeps_evidence() {
            self.decision.request_header = objects::evidence(envelope);
        }
    }

    /// The SOAP header of the answer, where the trail keeps evidence.
    pub fn answered(&self, app: &App, action: &str, back: Back<'_>) {
        if app.audit.keeps_evidence() {
            self.progress.answered(back.message_id.unwrap_or_default(), back.headers(action));
        }
    }

    /// The answer's metadata are in the codes of these maps, hex.
    pub fn metadata_translated(&self, snapshot: &str) {
        self.progress.snapshot(snapshot);
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
        self.checked(identity);
    }

    /// Who asks, and why. Emergency access stands out in every record.
    pub fn asked_by(&mut self, user: HumanRequestor, purpose: &str) {
        self.decision.user = Some(user);
        self.decision.purpose = purpose.to_owned();
    }

    /// About whom.
    pub fn patient(&mut self, patient: &PatientId) {
        self.decision.patient = Some(patient.to_cx());
    }

    /// The query of ITI-55.
    pub fn patient_query(&mut self, query: &PatientQuery) {
        let id =
            query.query.child(ncp_ihe::ns::HL7V3, "queryId").and_then(|q| q.get("root")).unwrap_or("ITI-55").to_owned();
        let bytes = query.query.to_xml().into_bytes();
        self.too_long = bounds::texts(&query.query).err();
        self.decision.query = Some(QueryObject { id, bytes, class_codes: Vec::new() });
    }

    /// A person that the answer names.
    pub fn found_patient(&mut self, patient: &PatientId) {
        self.patient(patient);
    }

    /// The query of ITI-38.
    pub fn stored_query(&mut self, request: &CrossGatewayQueryRequest, body: &Element) {
        self.too_long = bounds::texts(body).err();
        self.decision.query = Some(QueryObject {
            id: request.query.id().to_owned(),
            bytes: body.to_xml().into_bytes(),
            class_codes: objects::class_codes(&request.query),
        });
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
    pub fn document_failed(&mut self, request: &DocumentRequest, error: &GatewayError) {
        self.progress.failed_document(request);
        if error.row().alert == Some(Alert::Security) {
            self.progress.alert(&error.to_string());
        }
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

    /// The studies that another country is asked for, or that a national consumer asks for; counting starts at nothing.
    pub fn imaging_wanted(&mut self, request: &ImagingRequest) {
        self.imaging_request(request);
        self.decision.studies.iter().for_each(|study| self.progress.begin_study(study));
    }

    /// The study that another country is asked for; counting starts at nothing.
    pub fn study_wanted(&mut self, study: StudyObject) {
        self.progress.begin_study(&study);
        self.decision.studies = vec![study];
    }

    /// A document that came.
    pub fn document_received(&self, request: &DocumentRequest, bytes: &[u8]) {
        self.progress.document(&DocumentObject {
            bytes: bytes.len() as u64,
            sha256: hex::encode(openssl::sha::sha256(bytes)),
            ..document_object(request)
        });
    }

    /// The studies that will leave; counting starts at nothing.
    pub fn studies_decided<'a>(&mut self, studies: impl Iterator<Item = &'a LocatedStudy>) {
        self.decision.studies = studies
            .map(|study| StudyObject { instances: study.instances.len() as u64, ..study_object(study) })
            .collect();
        self.decision.studies.iter().for_each(|study| self.progress.begin_study(study));
    }

    /// Instances of a study that will not come.
    pub fn instances_missing(&mut self, study: &str, missing: &[(DocumentRequest, Missing)]) {
        for (request, why) in missing {
            self.progress.failed_instance(study, request);
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
            Refusal::OptedOut => "person who opted out of the service was asked for",
            Refusal::Forbidden(_) => "unit withheld by policy",
            Refusal::Failed(_) => "policy could not be evaluated",
        };
        self.alerts.push(Event::SecurityAlert { rule: rule.to_owned(), peer: self.peer.clone() });
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

    /// Whether a record holds what was asked, before any of it is looked at.
    ///
    /// # Errors
    /// What is too long.
    pub fn holds(&mut self) -> Result<(), GatewayError> {
        self.too_long.take().map_or(Ok(()), Err)?;
        Ok(self.decision.check()?)
    }

    /// The decision is on disk when this returns; no byte may leave before.
    ///
    /// # Errors
    /// The record could not be stored, or the request is longer than a record holds; nothing may be disclosed then.
    pub async fn decided(&mut self) -> Result<(), GatewayError> {
        self.holds()?;
        let Some(exchange) = &mut self.exchange else { return Err(GatewayError::Audit("closed".into())) };
        exchange.decided(self.decision.clone()).await.map_err(|e| GatewayError::Audit(e.to_string()))
    }

    /// Ended as decided.
    pub async fn finish(self) {
        self.close(Outcome::new(OutcomeIndicator::Success, "")).await;
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
        self.way_failed(error);
        if let Some(exchange) = &mut self.exchange
            && let Err(error) = exchange.decided(self.decision.clone()).await
        {
            tracing::error!(reason = %error, "decision not stored");
        }
        let code = if row.retrieve.is_empty() { row.query } else { row.retrieve };
        self.close(Outcome { error_code: code.to_owned(), ..Outcome::new(row.indicator.into(), &rule) }).await;
    }

    /// Broke off on its way.
    pub async fn broke_off(self, why: &str) {
        self.close(Outcome::new(OutcomeIndicator::Serious, why)).await;
    }

    async fn close(mut self, mut outcome: Outcome) {
        let Some(exchange) = self.exchange.take() else { return };
        let rules = self.progress.take(&mut outcome);
        let peer = &self.peer;
        self.alerts.extend(rules.into_iter().map(|rule| Event::SecurityAlert { rule, peer: peer.clone() }));
        self.alerts.extend(self.emergency());
        outcome.alerts = std::mem::take(&mut self.alerts);
        if let Err(error) = exchange.finish(outcome).await {
            tracing::error!(reason = %error, ncp.reference = %self.exchange_id, "outcome not stored");
        }
    }

    /// Emergency access stands out: it begins and ends with its exchange (110127, 110138).
    fn emergency(&self) -> Vec<Event> {
        let (Some(user), "EMERGENCY") = (&self.decision.user, self.decision.purpose.as_str()) else {
            return Vec::new();
        };
        let patient = self.decision.patient.clone().unwrap_or_default();
        let (rule, peer) = ("emergency access: blocks of the patient are overridden".to_owned(), self.peer.clone());
        vec![
            Event::EmergencyStarted {
                user: user.clone(),
                patient: patient.clone(),
                rule: rule.clone(),
                justification: String::new(),
                peer: peer.clone(),
            },
            Event::EmergencyStopped { user: user.clone(), patient, rule, peer },
        ]
    }

    /// Goes with the parts of an answer and closes when they end, break or are dropped.
    pub fn follow(self, parts: OutParts) -> OutParts {
        follow::follow(self, parts)
    }

    /// The same for an answer that is posted: what the receiver says of it is its end.
    pub fn follow_back(self, parts: OutParts) -> (OutParts, tokio::sync::oneshot::Receiver<Streamed>) {
        follow::follow_back(self, parts)
    }
}
