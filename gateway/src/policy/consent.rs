//! Where consent and blocks come from.

use std::path::{Path, PathBuf};

use ncp_ihe::PatientId;
use ncp_tls::Country;
use serde::Deserialize;

/// Whether a patient takes part in the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceConsent {
    /// Takes part.
    Given,
    /// Has opted out: answers as a patient without documents.
    OptedOut,
    /// The country requires a consent, it is absent, and that may be said (`4701`).
    MissingAndSaid,
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
}

/// The implementations, chosen in configuration. A file now; FHIR Consent and gRPC fit the same two questions.
pub enum ConsentSource {
    /// A TOML file, read when the snapshot is loaded.
    File(ConsentFile),
}

impl ConsentSource {
    /// Loads the file form.
    ///
    /// # Errors
    /// The file's path and what is wrong with it.
    pub fn from_file(path: &Path) -> Result<Self, ConsentError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConsentError::Read { path: path.to_owned(), source })?;
        let file: ConsentFile = toml::from_str(&text)
            .map_err(|error| ConsentError::Parse { path: path.to_owned(), message: error.message().to_owned() })?;
        Ok(Self::File(file))
    }

    /// Whether the patient takes part in the service towards that country.
    ///
    /// # Errors
    /// When the source cannot say; the caller refuses.
    pub async fn service_consent(&self, patient: &PatientId, to: &Country) -> Result<ServiceConsent, ConsentError> {
        match self {
            Self::File(file) => Ok(file.service_consent(patient, to)),
        }
    }

    /// The unique ids and study UIDs that the patient has blocked towards that country and organisation.
    ///
    /// # Errors
    /// As [`service_consent`](Self::service_consent).
    pub async fn blocked_keys(&self, patient: &PatientId, to: &Country) -> Result<Vec<String>, ConsentError> {
        match self {
            Self::File(file) => Ok(file.blocked_keys(patient, to)),
        }
    }
}

/// The file: `[[opt_out]]` and `[[block]]` tables.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentFile {
    #[serde(default)]
    opt_out: Vec<OptOut>,
    #[serde(default)]
    block: Vec<Block>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptOut {
    /// CX of the patient.
    patient: String,
    /// Countries; empty means all.
    #[serde(default)]
    countries: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    /// CX of the patient.
    patient: String,
    /// Document unique id.
    document: Option<String>,
    /// Study Instance UID: its manifest, its reports by reference and its instances.
    study: Option<String>,
    /// Countries; empty means all.
    #[serde(default)]
    countries: Vec<String>,
}

impl ConsentFile {
    fn service_consent(&self, patient: &PatientId, to: &Country) -> ServiceConsent {
        let cx = patient.to_cx();
        let out = self.opt_out.iter().any(|o| o.patient == cx && names(&o.countries, to));
        if out { ServiceConsent::OptedOut } else { ServiceConsent::Given }
    }

    fn blocked_keys(&self, patient: &PatientId, to: &Country) -> Vec<String> {
        let cx = patient.to_cx();
        self.block
            .iter()
            .filter(|block| block.patient == cx && names(&block.countries, to))
            .flat_map(|block| block.document.iter().chain(block.study.iter()).cloned())
            .collect()
    }
}

fn names(countries: &[String], to: &Country) -> bool {
    countries.is_empty() || countries.iter().any(|c| c == to.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_countries() {
        let file: ConsentFile = toml::from_str(
            "[[block]]\npatient = \"1^^^&2.999.1&ISO\"\ndocument = \"2.999.9\"\ncountries = [\"SE\"]\n\
             [[opt_out]]\npatient = \"2^^^&2.999.1&ISO\"\n",
        )
        .expect("valid file");
        let one = PatientId::parse_cx("1^^^&2.999.1&ISO").expect("a CX");
        let two = PatientId::parse_cx("2^^^&2.999.1&ISO").expect("a CX");
        let (se, fi) = (Country::parse("SE").expect("SE"), Country::parse("FI").expect("FI"));
        assert_eq!(file.blocked_keys(&one, &se), ["2.999.9"]);
        assert!(file.blocked_keys(&one, &fi).is_empty());
        assert_eq!(file.service_consent(&two, &fi), ServiceConsent::OptedOut);
        assert_eq!(file.service_consent(&one, &fi), ServiceConsent::Given);
    }
}
