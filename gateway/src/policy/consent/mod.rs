//! Consent and blocks: what a patient has decided, and where that is kept.
//!
//! A source answers one question, [`ConsentSource::directives`], once an exchange; everything else is decided here from
//! its answer, with work that does not depend on what the answer says.

use std::path::PathBuf;

use jiff::Timestamp;
use ncp_ihe::PatientId;
use ncp_tls::Country;

mod country;
mod element;
mod fhir;
mod file;
mod grpc;
mod kept;
mod period;
mod resource;
mod rule;
#[cfg(test)]
mod tests;

pub use fhir::{FhirConsent, read_page};
pub use file::{ConsentFile, WrongRow};
pub use grpc::GrpcConsent;
pub use kept::{KeptFile, LOOK, Look};
use rule::{About, Asking, same_id};
pub use rule::{Decision, Rule};

use super::calendar;
use super::facts::Facts;
use crate::identity::Identity;

/// Whether a patient takes part in the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceConsent {
    /// Takes part.
    #[default]
    Given,
    /// Has opted out: answers as a patient without documents.
    OptedOut,
    /// The country requires a consent, it is absent, and that may be said (`4701`).
    MissingAndSaid,
}

/// What a patient has decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// Participation in the whole service.
    pub service: ServiceConsent,
    /// What is closed.
    pub blocks: Vec<Block>,
    /// Permissions as the patient gave or refused them; of several one that denies wins.
    pub rules: Vec<Rule>,
    /// Nothing is open unless one of the rules permits it.
    pub permit_needed: bool,
}

/// One thing that is closed. Every condition that is given must hold; one without any closes everything, which is how an
/// opt-out for one country, one organisation or one period is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// Unique id of a document, or Study Instance UID: its manifest, its reports by reference and its instances.
    pub unit: Option<String>,
    /// Organisation that wrote it: identifier or name.
    pub author_organisation: Option<String>,
    /// First and last day of the service, `YYYYMMDD`.
    pub period: Option<(String, String)>,
    /// Confidentiality code.
    pub confidentiality: Option<String>,
    /// Images and their manifests alone.
    pub imaging: bool,
    /// Countries that it is closed to; empty: all.
    pub countries: Vec<Country>,
    /// Asking organisations that it is closed to, by identifier or name; empty: all.
    pub requesters: Vec<String>,
    /// Asking professionals (NameID); empty: all.
    pub professionals: Vec<String>,
    /// When it begins and ends to hold.
    pub valid: (Option<Timestamp>, Option<Timestamp>),
}

impl Directives {
    /// Whether a unit with these facts and under these keys is closed to whoever asks.
    pub fn closes(&self, facts: &Facts, keys: &[String], identity: &Identity, now: Timestamp) -> bool {
        // Every block and rule is looked at, whatever those before it said.
        let closed = self.blocks.iter().filter(|block| block.closes(facts, keys, identity, now)).count();
        let (denied, _, permitted) = self.said(identity, now, About::Unit(facts, keys));
        (self.service == ServiceConsent::OptedOut) | (closed > 0) | denied | (self.permit_needed & !permitted)
    }

    /// Whether the patient takes part for whoever asks: whether anything can be open at all.
    pub fn participation(&self, identity: &Identity, now: Timestamp) -> ServiceConsent {
        let (denied, refused, permitted) = self.said(identity, now, About::Anything);
        let everything = self.blocks.iter().any(|block| block.is_everything() && block.holds(identity, now));
        match self.service {
            ServiceConsent::Given if refused || everything => ServiceConsent::OptedOut,
            ServiceConsent::Given if self.permit_needed && !permitted => ServiceConsent::MissingAndSaid,
            ServiceConsent::Given if denied => ServiceConsent::OptedOut,
            told => told,
        }
    }

    /// Whether a rule denies, whether one that somebody stated does, and whether one permits. Around midnight it may be one
    /// day or the next where the patient lives: what is denied on one of them is denied, what is permitted on both permitted.
    fn said(&self, identity: &Identity, now: Timestamp, about: About<'_>) -> (bool, bool, bool) {
        let (mut denied, mut refused, mut permitted) = (false, false, true);
        for today in calendar::days(now) {
            let mut permitted_today = false;
            for rule in &self.rules {
                let said = rule.says(Asking { identity, now, today }, about);
                denied |= said == Some(Decision::Deny);
                refused |= said == Some(Decision::Deny) && !rule.implied;
                permitted_today |= said == Some(Decision::Permit);
            }
            permitted &= permitted_today;
        }
        (denied, refused, permitted)
    }
}

impl Block {
    /// A fact that nobody told fits every condition that asks for it: what cannot be told apart is closed.
    fn closes(&self, facts: &Facts, keys: &[String], identity: &Identity, now: Timestamp) -> bool {
        let written = facts.author_organisations.as_ref().filter(|_| !facts.incomplete);
        let author = |wanted: &String| written.is_none_or(|written| written.iter().any(|w| same_id(w, wanted)));
        let confidential = |wanted: &String| facts.may_have(facts.confidentiality.as_ref(), wanted);
        let checks = [
            self.unit.as_ref().is_none_or(|unit_id| keys.iter().any(|key| same_id(key, unit_id))),
            self.author_organisation.as_ref().is_none_or(author),
            self.period.as_ref().is_none_or(|(from, to)| facts.may_be_within(from, to)),
            self.confidentiality.as_ref().is_none_or(confidential),
            !self.imaging || matches!(facts.kind, "manifest" | "study"),
            self.holds(identity, now),
        ];
        checks.iter().fold(true, |all, one| all & one)
    }

    /// Whether it holds now for whoever asks.
    fn holds(&self, identity: &Identity, now: Timestamp) -> bool {
        let listed = |all: &[String], one: &[Option<&str>]| {
            all.is_empty() || all.iter().any(|a| one.iter().flatten().any(|o| same_id(a, o)))
        };
        let checks = [
            self.countries.is_empty() || self.countries.contains(&identity.country),
            listed(&self.requesters, &[identity.organisation_id.as_deref(), identity.organisation.as_deref()]),
            listed(&self.professionals, &[Some(&identity.user)]),
            self.valid.0.is_none_or(|from| from <= now),
            self.valid.1.is_none_or(|to| now < to),
        ];
        checks.iter().fold(true, |all, one| all & one)
    }

    /// Whether it closes every unit.
    fn is_everything(&self) -> bool {
        let named = self.unit.is_some() || self.author_organisation.is_some() || self.period.is_some();
        !named && self.confidentiality.is_none() && !self.imaging
    }
}

impl std::fmt::Display for Block {
    /// What is closed, to whom and when, for operators.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let countries: Vec<&str> = self.countries.iter().map(Country::as_str).collect();
        let from = self.valid.0.map(|at| format!("from {at}"));
        let until = self.valid.1.map(|at| format!("until {at}"));
        let listed =
            |who: &str, names: &[String]| (!names.is_empty()).then(|| format!("to {who} {}", names.join(", ")));
        let parts = [
            self.unit.as_ref().map(|id| format!("document or study {id}")),
            self.imaging.then(|| "images and their manifests".to_owned()),
            self.author_organisation.as_ref().map(|author| format!("written by {author}")),
            self.confidentiality.as_ref().map(|code| format!("confidentiality {code}")),
            self.period.as_ref().map(|(first, last)| format!("of days {first} to {last}")),
            self.is_everything().then(|| "everything".to_owned()),
            (!countries.is_empty()).then(|| format!("to {}", countries.join(", "))),
            listed("organisation", &self.requesters),
            listed("professional", &self.professionals),
            from,
            until,
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

/// A consent source that failed; the answer is then a refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsentError {
    /// The file could not be read.
    #[error("cannot read consent file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("consent file {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Position and reason.
        message: String,
    },
    /// The file could not be read for longer than is allowed.
    #[error("consent file: what it said is too old")]
    Old,
    /// The server did not answer, or not as a FHIR server does.
    #[error("consent server: {0}")]
    Server(String),
}

/// A file, and beside it what else is configured.
pub struct ConsentSource {
    file: KeptFile,
    beside: Beside,
    /// The configuration that it was made of.
    made_of: String,
}

/// What is asked beside the file.
pub enum Beside {
    /// Nothing.
    Nothing,
    /// A FHIR server with Consent resources.
    Fhir(Box<FhirConsent>),
    /// A country's own service.
    Grpc(Box<GrpcConsent>),
}

impl ConsentSource {
    /// Makes the source that is configured.
    ///
    /// # Errors
    /// The file's path and what is wrong with it; what is wrong with the server's address or anchors.
    pub fn load(config: &crate::config::Policy) -> Result<Self, ConsentError> {
        let beside = match (&config.consent, &config.consent_service) {
            (Some(server), _) => Beside::Fhir(Box::new(FhirConsent::new(server)?)),
            (None, Some(service)) => Beside::Grpc(Box::new(GrpcConsent::new(service)?)),
            (None, None) => Beside::Nothing,
        };
        let file = KeptFile::open(&config.consent_file, config.consent_max_age)?;
        Ok(Self { file, beside, made_of: made_of(config) })
    }

    /// A source of these parts.
    pub fn of(file: KeptFile, beside: Beside) -> Self {
        Self { file, beside, made_of: String::new() }
    }

    /// Whether it is still what the configuration asks for.
    pub fn fits(&self, config: &crate::config::Policy) -> bool {
        self.made_of == made_of(config)
    }

    /// The file.
    pub fn file(&self) -> &KeptFile {
        &self.file
    }

    /// What the patient has decided.
    ///
    /// # Errors
    /// When the source cannot say; the caller refuses.
    pub async fn directives(&self, patient: &PatientId, to: &Country) -> Result<Directives, ConsentError> {
        let by_file = self.file.directives(patient, to)?;
        let mut directives = match &self.beside {
            Beside::Nothing => return Ok(by_file),
            Beside::Fhir(server) => server.directives(patient).await?,
            Beside::Grpc(service) => service.directives(patient, to).await?,
        };
        match by_file.service {
            ServiceConsent::Given => {}
            ServiceConsent::OptedOut => directives.service = ServiceConsent::OptedOut,
            // A permit at the server is the consent that the file asks for; a service that knows no permits gives none.
            ServiceConsent::MissingAndSaid if matches!(self.beside, Beside::Fhir(_)) => directives.permit_needed = true,
            ServiceConsent::MissingAndSaid if directives.service == ServiceConsent::OptedOut => {}
            ServiceConsent::MissingAndSaid => directives.service = ServiceConsent::MissingAndSaid,
        }
        directives.blocks.extend(by_file.blocks);
        Ok(directives)
    }
}

/// Every setting that a source is made of.
fn made_of(config: &crate::config::Policy) -> String {
    let crate::config::Policy { consent_file, consent_max_age, consent, consent_service, .. } = config;
    format!("{consent_file:?} {consent_max_age:?} {consent:?} {consent_service:?}")
}
