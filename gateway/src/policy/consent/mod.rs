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

use super::decide::Resource;
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
    /// Whether a unit is closed to whoever asks.
    pub fn closes(&self, resource: &impl Resource, identity: &Identity, now: Timestamp) -> bool {
        let unit = Unit { keys: resource.block_keys(), facts: resource.facts() };
        // Every block is looked at, whatever those before it said.
        let closed = self.blocks.iter().filter(|block| block.closes(&unit, identity, now)).count();
        (self.service == ServiceConsent::OptedOut) | (closed > 0)
    }
}

struct Unit {
    keys: Vec<String>,
    facts: super::engine::Facts,
}

impl Block {
    fn closes(&self, unit: &Unit, identity: &Identity, now: Timestamp) -> bool {
        let facts = &unit.facts;
        let listed = |all: &[String], one: &[Option<&str>]| {
            all.is_empty() || all.iter().any(|a| one.iter().flatten().any(|o| a == o))
        };
        let day = facts.service_date.get(..8);
        let checks = [
            self.unit.as_ref().is_none_or(|unit_id| unit.keys.contains(unit_id)),
            self.author_organisation.as_ref().is_none_or(|wanted| facts.author_organisations.contains(wanted)),
            // A unit without a date is inside every period: what cannot be told apart is closed.
            self.period.as_ref().is_none_or(|(from, to)| day.is_none_or(|d| from.as_str() <= d && d <= to.as_str())),
            self.confidentiality.as_ref().is_none_or(|wanted| facts.confidentiality.contains(wanted)),
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
    use crate::policy::engine::Facts;

    pub(crate) struct Report(pub(crate) Facts, pub(crate) Vec<String>);

    impl Resource for Report {
        fn patient(&self) -> Option<&PatientId> {
            None
        }
        fn facts(&self) -> Facts {
            self.0.clone()
        }
        fn block_keys(&self) -> Vec<String> {
            self.1.clone()
        }
    }

    fn report() -> Report {
        let facts = Facts {
            kind: "manifest",
            confidentiality: vec!["N".into(), "NORS".into()],
            author_organisations: vec!["2.999.9".into()],
            service_date: "20260102101500".into(),
            ..Facts::default()
        };
        Report(facts, vec!["2.999.1".into(), "2.999.2".into()])
    }

    /// Each condition closes when it fits, opens when it does not, and all must fit.
    #[test]
    fn every_condition_counts() {
        let identity = crate::policy::engine::tests::radiologist();
        let now: Timestamp = "2026-11-01T00:00:00Z".parse().expect("a time");
        let closes = |block: Block| {
            let directives = Directives { blocks: vec![block], ..Directives::default() };
            directives.closes(&report(), &identity, now)
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
        let opted_out = Directives { service: ServiceConsent::OptedOut, ..Directives::default() };
        assert!(opted_out.closes(&report(), &identity, now));
        assert!(!Directives::default().closes(&report(), &identity, now));
        let undated = Report(Facts { service_date: String::new(), ..report().0 }, Vec::new());
        let old = Directives {
            blocks: vec![Block { period: period("19000101", "19001231"), ..one() }],
            ..Directives::default()
        };
        assert!(old.closes(&undated, &identity, now), "without a date it is inside every period");
    }
}
