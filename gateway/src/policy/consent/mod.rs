//! Consent and blocks: what a patient has decided, and where that is kept.
//!
//! A source answers one question, [`ConsentSource::directives`], once an exchange; everything else is decided here from
//! its answer, with work that does not depend on what the answer says.

use std::path::PathBuf;

use jiff::Timestamp;
use ncp_ihe::PatientId;
use ncp_tls::Country;

mod fhir;
mod file;
mod grpc;

pub use fhir::FhirConsent;
pub use file::ConsentFile;
pub use grpc::GrpcConsent;

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
    pub countries: Vec<String>,
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
        // Every block is looked at, whatever those before it said.
        let closed = self.blocks.iter().filter(|block| block.closes(facts, keys, identity, now)).count();
        (self.service == ServiceConsent::OptedOut) | (closed > 0)
    }
}

impl Block {
    /// A fact that nobody told fits every condition that asks for it: what cannot be told apart is closed.
    fn closes(&self, facts: &Facts, keys: &[String], identity: &Identity, now: Timestamp) -> bool {
        let listed = |all: &[String], one: &[Option<&str>]| {
            all.is_empty() || all.iter().any(|a| one.iter().flatten().any(|o| a == o))
        };
        let author = |wanted: &String| facts.may_have(facts.author_organisations.as_ref(), wanted);
        let confidential = |wanted: &String| facts.may_have(facts.confidentiality.as_ref(), wanted);
        let checks = [
            self.unit.as_ref().is_none_or(|unit_id| keys.contains(unit_id)),
            self.author_organisation.as_ref().is_none_or(author),
            self.period.as_ref().is_none_or(|(from, to)| facts.may_be_within(from, to)),
            self.confidentiality.as_ref().is_none_or(confidential),
            !self.imaging || matches!(facts.kind, "manifest" | "study"),
            listed(&self.countries, &[Some(identity.country.as_str())]),
            listed(&self.requesters, &[identity.organisation_id.as_deref(), identity.organisation.as_deref()]),
            listed(&self.professionals, &[Some(&identity.user)]),
            self.valid.0.is_none_or(|from| from <= now),
            self.valid.1.is_none_or(|to| now < to),
        ];
        checks.iter().fold(true, |all, one| all & one)
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
    /// The server did not answer, or not as a FHIR server does.
    #[error("consent server: {0}")]
    Server(String),
}

/// The implementations, chosen in configuration.
pub enum ConsentSource {
    /// A TOML file, read when the snapshot is loaded.
    File(ConsentFile),
    /// A FHIR R4 server with Consent resources, beside a file of what is closed by law.
    Fhir(Box<FhirConsent>, ConsentFile),
    /// A country's own service, beside the same file.
    Grpc(Box<GrpcConsent>, ConsentFile),
}

impl ConsentSource {
    /// Makes the source that is configured.
    ///
    /// # Errors
    /// The file's path and what is wrong with it; what is wrong with the server's address or anchors.
    pub fn load(config: &crate::config::Policy) -> Result<Self, ConsentError> {
        let file = ConsentFile::load(&config.consent_file)?;
        match (&config.consent, &config.consent_service) {
            (Some(server), _) => Ok(Self::Fhir(Box::new(FhirConsent::new(server)?), file)),
            (None, Some(service)) => Ok(Self::Grpc(Box::new(GrpcConsent::new(service)?), file)),
            (None, None) => Ok(Self::File(file)),
        }
    }

    /// What the patient has decided.
    ///
    /// # Errors
    /// When the source cannot say; the caller refuses.
    pub async fn directives(&self, patient: &PatientId, to: &Country) -> Result<Directives, ConsentError> {
        let (mut directives, file) = match self {
            Self::File(file) => return Ok(file.directives(patient, to)),
            Self::Fhir(server, file) => (server.directives(patient).await?, file),
            Self::Grpc(service, file) => (service.directives(patient, to).await?, file),
        };
        let by_file = file.directives(patient, to);
        if by_file.service == ServiceConsent::OptedOut {
            directives.service = ServiceConsent::OptedOut;
        }
        directives.blocks.extend(by_file.blocks);
        Ok(directives)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::policy::facts::Description;

    fn report() -> (Facts, Vec<String>) {
        let description = Description { service_date: Some("20260102101500".into()), ..Description::none() };
        let facts = Facts {
            kind: "manifest",
            confidentiality: Some(vec!["N".into(), "NORS".into()]),
            author_organisations: Some(vec!["2.999.9".into()]),
            descriptions: vec![description],
            ..Facts::default()
        };
        (facts, vec!["2.999.1".into(), "2.999.2".into()])
    }

    /// Each condition closes when it fits, opens when it does not, and all must fit.
    #[test]
    fn every_condition_counts() {
        let identity = crate::policy::engine::tests::radiologist();
        let now: Timestamp = "2026-11-01T00:00:00Z".parse().expect("a time");
        let closes = |block: Block| {
            let directives = Directives { blocks: vec![block], ..Directives::default() };
            let (facts, keys) = report();
            directives.closes(&facts, &keys, &identity, now)
        };
        let one = Block::default;
        let period = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        let past = Some("2026-10-01T00:00:00Z".parse().expect("a time"));
        assert!(closes(one()));
        for block in [
            Block { unit: Some("2.999.2".into()), ..one() },
            Block { author_organisation: Some("2.999.9".into()), ..one() },
            Block { period: period("20260101", "20260102"), ..one() },
            Block { confidentiality: Some("NORS".into()), ..one() },
            Block { imaging: true, ..one() },
            Block { countries: vec!["SE".into(), "FI".into()], ..one() },
            Block { requesters: vec!["Hospital".into()], ..one() },
            Block { professionals: vec!["u1".into()], ..one() },
            Block { valid: (past, None), ..one() },
        ] {
            assert!(closes(block.clone()), "{block:?}");
        }
        for block in [
            Block { unit: Some("2.999.3".into()), ..one() },
            Block { author_organisation: Some("2.999.8".into()), ..one() },
            Block { period: period("20260103", "20261231"), ..one() },
            Block { confidentiality: Some("R".into()), ..one() },
            Block { countries: vec!["SE".into()], ..one() },
            Block { requesters: vec!["Clinic".into()], ..one() },
            Block { professionals: vec!["u2".into()], ..one() },
            Block { valid: (None, past), ..one() },
            Block { unit: Some("2.999.2".into()), countries: vec!["SE".into()], ..one() },
        ] {
            assert!(!closes(block.clone()), "{block:?}");
        }
        let (facts, keys) = report();
        let opted_out = Directives { service: ServiceConsent::OptedOut, ..Directives::default() };
        assert!(opted_out.closes(&facts, &keys, &identity, now));
        assert!(!Directives::default().closes(&facts, &keys, &identity, now));
    }

    /// A condition that asks for what nobody told closes.
    #[test]
    fn se_02_an_unknown_fact_closes() {
        let identity = crate::policy::engine::tests::radiologist();
        let now: Timestamp = "2026-11-01T00:00:00Z".parse().expect("a time");
        let asks = [
            Block { period: Some(("19000101".into(), "19001231".into())), ..Block::default() },
            Block { confidentiality: Some("R".into()), ..Block::default() },
            Block { author_organisation: Some("2.999.8".into()), ..Block::default() },
        ];
        let undated = Description { service_date: None, ..Description::none() };
        let unknown =
            Facts { confidentiality: None, author_organisations: None, descriptions: vec![undated], ..report().0 };
        let partial = Facts { incomplete: true, ..report().0 };
        for block in asks {
            let directives = Directives { blocks: vec![block.clone()], ..Directives::default() };
            let closes = |facts: &Facts| directives.closes(facts, &report().1, &identity, now);
            assert!(!closes(&report().0), "{block:?}");
            assert!(closes(&unknown), "{block:?}");
            assert!(closes(&partial), "a registry that is down may have the fact: {block:?}");
        }
    }
}
