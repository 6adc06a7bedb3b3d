//! The two decisions and the types that prove them.
//!
//! The constructors are private to this module and to [`crate::responding::security`]: nothing else can make an
//! [`Authenticated`] or an [`Authorised`].
//!
//! ```compile_fail
//! use std::sync::Arc;
//! use ncp_gateway::identity::Identity;
//! use ncp_gateway::policy::{Authorised, LookUp};
//! fn forged(identity: Arc<Identity>) -> Authorised<LookUp<u8>> {
//!     Authorised { subject: LookUp(1), identity } // private fields
//! }
//! ```
//! ```compile_fail
//! use ncp_gateway::policy::{Authorised, Disclose, LookUp};
//! // A look-up decision is not a disclosure decision.
//! fn escalate(found: Authorised<LookUp<u8>>) -> Authorised<Disclose<u8>> {
//!     found
//! }
//! ```

use std::sync::Arc;

use jiff::Timestamp;
use ncp_ihe::{DocumentEntry, PatientId};

use super::consent::{ConsentSource, Directives, ServiceConsent};
use super::engine::{PolicyEngine, Stage, Verdict};
use super::facts::{Describing, Description, Facts};
use crate::identity::{Identity, TransactionName};
use crate::national::LocatedStudy;

/// A request whose sender was authenticated: TLS peer, assertions, binding and replay were checked.
#[derive(Debug)]
pub struct Authenticated<T> {
    body: T,
    identity: Arc<Identity>,
}

impl<T> Authenticated<T> {
    /// Only the security stage calls this, after all its checks held.
    pub(crate) fn after_security_checks(body: T, identity: Arc<Identity>) -> Self {
        Self { body, identity }
    }

    /// Who asks.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What is asked.
    pub fn body(&self) -> &T {
        &self.body
    }
}

/// May be looked up: role, purpose, country and service consent hold; no document fact was used.
#[derive(Debug, Clone)]
pub struct LookUp<T>(T);

/// May leave the gateway.
#[derive(Debug, Clone)]
pub struct Disclose<T>(T);

/// A decision that was made. Fields are private: see the module's examples.
#[derive(Debug, Clone)]
pub struct Authorised<S> {
    subject: S,
    identity: Arc<Identity>,
    /// What the patient had decided when the request was admitted: one answer for all of its units.
    directives: Arc<Directives>,
}

impl<S> Authorised<S> {
    /// Who asks.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
}

impl<T> Authorised<LookUp<T>> {
    /// What may be looked up.
    pub fn get(&self) -> &T {
        &self.subject.0
    }

    /// A look-up that follows from this one, such as the metadata of the documents that a retrieve names.
    pub fn derive<U>(&self, body: U) -> Authorised<LookUp<U>> {
        Authorised { subject: LookUp(body), identity: self.identity.clone(), directives: self.directives.clone() }
    }
}

impl<T> Authorised<Disclose<T>> {
    /// What may be disclosed.
    pub fn get(&self) -> &T {
        &self.subject.0
    }

    /// Takes the released value out, at the very end of its way.
    pub fn into_inner(self) -> T {
        self.subject.0
    }
}

impl Authorised<Disclose<LocatedStudy>> {
    /// Splits a released study by the source that will serve it; the parts hold no instance that was not released.
    pub fn split_by<K: Ord + Clone>(
        self,
        key: impl Fn(&crate::national::LocatedInstance) -> K,
    ) -> Vec<(K, Authorised<Disclose<LocatedStudy>>)> {
        let (identity, directives) = (self.identity, self.directives);
        let study = self.subject.0;
        let mut parts: Vec<(K, LocatedStudy)> = Vec::new();
        for instance in study.instances.iter() {
            let k = key(instance);
            match parts.last_mut() {
                Some((last, part)) if *last == k => part.instances.push(instance.clone()),
                _ => parts.push((
                    k,
                    LocatedStudy { instances: vec![instance.clone()], missing: Vec::new(), ..study.clone_facts() },
                )),
            }
        }
        parts
            .into_iter()
            .map(|(k, part)| {
                let subject = Disclose(part);
                (k, Authorised { subject, identity: identity.clone(), directives: directives.clone() })
            })
            .collect()
    }
}

impl LocatedStudy {
    fn clone_facts(&self) -> Self {
        Self {
            study: self.study.clone(),
            patient: self.patient.clone(),
            instances: Vec::new(),
            missing: Vec::new(),
            modalities: self.modalities.clone(),
            study_date: self.study_date.clone(),
            manifests: Vec::new(),
            patient_ids: self.patient_ids.clone(),
            person: self.person.clone(),
            transfer_syntaxes: self.transfer_syntaxes.clone(),
        }
    }
}

/// Why policy did not let a request or a unit through.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[non_exhaustive]
pub enum PolicyError {
    /// Login too weak for cross-border use.
    #[error("authentication is too weak")]
    WeakAuthentication,
    /// Role, purpose, permission or a rule forbids.
    #[error("forbidden by policy: {0}")]
    Forbidden(String),
    /// The patient opted out of the service, and the country lets that be said.
    #[error("consent is missing")]
    NoConsent,
    /// The policy set or the consent source failed; that is a refusal.
    #[error("policy could not be evaluated: {0}")]
    Failed(String),
}

/// Why one document or study is withheld. For the outside each of these is "does not exist".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It belongs to another patient than the TRC's: also a security alert.
    OtherPatient,
    /// The patient blocked it.
    Blocked,
    /// The person opted out of the service.
    OptedOut,
    /// A rule on its class, confidentiality or origin withholds it.
    Forbidden(String),
    /// Policy or consent source failed.
    Failed(String),
}

/// The policy decision point: Cedar with the country's policies, consent and blocks.
pub struct Policy {
    engine: Arc<PolicyEngine>,
    consent: Arc<ConsentSource>,
}

/// What a decision about one unit needs to know of it.
pub trait Resource {
    /// The patient whose unit it is; `None` when nobody's.
    fn patient(&self) -> Option<&PatientId>;
    /// Facts for the policy, with what the patient's documents tell of the study that it belongs to; and the keys under
    /// which a block may name it: unique id, Study Instance UID.
    fn described(&self, documents: &Describing) -> (Facts, Vec<String>);
}

impl Policy {
    /// Puts the decision point together.
    pub fn new(engine: impl Into<Arc<PolicyEngine>>, consent: impl Into<Arc<ConsentSource>>) -> Self {
        Self { engine: engine.into(), consent: consent.into() }
    }

    /// The policies.
    pub fn engine(&self) -> &Arc<PolicyEngine> {
        &self.engine
    }

    /// Where consent is kept.
    pub fn consent(&self) -> &Arc<ConsentSource> {
        &self.consent
    }

    /// What a patient has decided, for tools that explain.
    ///
    /// # Errors
    /// When the source cannot say.
    pub async fn directives(
        &self,
        patient: &PatientId,
        to: &ncp_tls::Country,
    ) -> Result<Directives, super::consent::ConsentError> {
        self.consent.directives(patient, to).await
    }

    /// Decides whether the request may be looked up at all: no document fact is used.
    ///
    /// # Errors
    /// Every failure is a refusal, also one of the policy engine itself.
    pub async fn admit<T>(
        &self,
        request: Authenticated<T>,
        transaction: TransactionName,
        patient: Option<&PatientId>,
    ) -> Result<Authorised<LookUp<T>>, PolicyError> {
        let identity = request.identity;
        // A code of another system, or with the name of another role, is nobody's role here.
        if !super::roles::is_known(&identity.role_system, &identity.role, &identity.role_display) {
            return Err(PolicyError::Forbidden("role".into()));
        }
        match self.engine.decide(&identity, transaction, Stage::LookUp, &Facts::default()) {
            Verdict::Permit => {}
            Verdict::Deny(rule) if rule.weak => return Err(PolicyError::WeakAuthentication),
            Verdict::Deny(rule) => return Err(PolicyError::Forbidden(rule.names)),
            Verdict::Failed(why) => return Err(PolicyError::Failed(why)),
        }
        let mut directives = Directives::default();
        if let Some(patient) = patient {
            directives = self
                .consent
                .directives(patient, &identity.country)
                .await
                .map_err(|error| PolicyError::Failed(error.to_string()))?;
            // Opted out looks like a patient without documents: the look-up goes on and release withholds all.
            let participation = directives.participation(&identity, Timestamp::now());
            if participation == ServiceConsent::MissingAndSaid {
                return Err(PolicyError::NoConsent);
            }
        }
        Ok(Authorised { subject: LookUp(request.body), identity, directives: Arc::new(directives) })
    }

    /// Decides about one document or study: patient binding, service consent, blocks, then Cedar on its metadata. A
    /// study's facts are in the patient's `documents`; every path hands them in, so that all come to one verdict.
    ///
    /// # Errors
    /// Says why for the audit trail; the peer is told the same in every case, that it does not exist.
    pub async fn release<T, R: Resource>(
        &self,
        asked: &Authorised<LookUp<T>>,
        transaction: TransactionName,
        resource: R,
        documents: &Describing,
    ) -> Result<Authorised<Disclose<R>>, Refusal> {
        let identity = &asked.identity;
        let trc_patient = identity.trc_patient.as_ref();
        if resource.patient().is_none() || resource.patient() != trc_patient {
            return Err(Refusal::OtherPatient);
        }
        let (facts, keys) = resource.described(documents);
        let blocked = asked.directives.closes(&facts, &keys, identity, Timestamp::now());
        match self.engine.decide(identity, transaction, Stage::Disclose, &facts) {
            Verdict::Permit if blocked => Err(Refusal::Blocked),
            Verdict::Permit => Ok(Authorised {
                subject: Disclose(resource),
                identity: identity.clone(),
                directives: asked.directives.clone(),
            }),
            Verdict::Deny(rule) => Err(Refusal::Forbidden(rule.names)),
            Verdict::Failed(why) => Err(Refusal::Failed(why)),
        }
    }

    /// The work of [`release`](Self::release) for what does not exist, so that the time of an answer does not tell it from
    /// what is withheld.
    pub fn absent<T>(&self, asked: &Authorised<LookUp<T>>, transaction: TransactionName) {
        let (facts, keys) = absent();
        let blocked = asked.directives.closes(&facts, &keys, &asked.identity, Timestamp::now());
        let verdict = self.engine.decide(&asked.identity, transaction, Stage::Disclose, &facts);
        std::hint::black_box((blocked, verdict));
    }

    /// Releases what identifies a person (ITI-55): there is no TRC yet, so role, purpose and participation decide.
    ///
    /// # Errors
    /// As [`release`](Self::release), without the patient binding.
    pub async fn release_identity(
        &self,
        asked: &Authorised<LookUp<ncp_ihe::PatientQuery>>,
        record: ncp_ihe::PatientRecord,
    ) -> Result<Authorised<Disclose<ncp_ihe::PatientRecord>>, Refusal> {
        // A record may be disclosed only if it carries an identifier that the query named.
        let named = asked.get().ids.iter().any(|id| *id == record.id || record.other_ids.contains(id));
        if !named {
            return Err(Refusal::OtherPatient);
        }
        let patient = record.id.clone();
        self.release_person(asked, &patient).await?;
        Ok(Authorised {
            subject: Disclose(record),
            identity: asked.identity.clone(),
            directives: asked.directives.clone(),
        })
    }

    /// The work of [`release_identity`](Self::release_identity) for a person who is not known.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when consent cannot be looked up, as for somebody who is known.
    pub async fn absent_person(&self, asked: &Authorised<LookUp<ncp_ihe::PatientQuery>>) -> Result<(), Refusal> {
        let Some(named) = asked.get().ids.first() else { return Ok(()) };
        match self.release_person(asked, named).await {
            Err(Refusal::Failed(why)) => Err(Refusal::Failed(why)),
            _ => Ok(()),
        }
    }

    /// Somebody who opted out of the service is not found, in an emergency neither unless a policy says so.
    async fn release_person<T>(&self, asked: &Authorised<LookUp<T>>, patient: &PatientId) -> Result<(), Refusal> {
        let identity = &asked.identity;
        let directives = self.consent.directives(patient, &identity.country).await;
        let directives = directives.map_err(|error| Refusal::Failed(error.to_string()))?;
        let opted_out = directives.participation(identity, Timestamp::now()) == ServiceConsent::OptedOut;
        let facts = Facts::default();
        match self.engine.decide(identity, TransactionName::Iti55, Stage::Disclose, &facts) {
            Verdict::Permit if opted_out && !self.engine.opens_opted_out(identity, TransactionName::Iti55) => {
                Err(Refusal::OptedOut)
            }
            Verdict::Permit => Ok(()),
            Verdict::Deny(rule) => Err(Refusal::Forbidden(rule.names)),
            Verdict::Failed(why) => Err(Refusal::Failed(why)),
        }
    }
}

/// What does not exist, with as many facts as a document has.
fn absent() -> (Facts, Vec<String>) {
    let description = Description {
        class_code: Some("E01-2".into()),
        type_code: Some("18748-4".into()),
        service_date: Some("20260101120000".into()),
    };
    let facts = Facts {
        kind: "document",
        confidentiality: Some(vec!["N".into()]),
        author_organisations: Some(vec!["Hospital".into(), "2.999.1".into()]),
        descriptions: vec![description],
        ..Facts::default()
    };
    (facts, vec!["2.999.1".into()])
}

impl Resource for DocumentEntry {
    fn patient(&self) -> Option<&PatientId> {
        Some(&self.patient_id)
    }

    fn described(&self, documents: &Describing) -> (Facts, Vec<String>) {
        documents.of_entry(self)
    }
}

impl Resource for LocatedStudy {
    fn patient(&self) -> Option<&PatientId> {
        self.patient.as_ref()
    }

    fn described(&self, documents: &Describing) -> (Facts, Vec<String>) {
        let of_study = documents.of_study(&self.study, &self.manifests);
        let (facts, manifests) = of_study.with_archive(&self.modalities, self.study_date.as_deref());
        let keys = std::iter::once(self.study.to_string()).chain(manifests).collect();
        (facts, keys)
    }
}
