//! Directives in a TOML file: `[[opt_out]]`, `[[consent_required]]` and `[[block]]` tables.

use std::path::Path;

use ncp_ihe::PatientId;
use ncp_tls::Country;
use serde::Deserialize;

use super::{Block, ConsentError, Directives, ServiceConsent};

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentFile {
    #[serde(default)]
    opt_out: Vec<OptOut>,
    #[serde(default)]
    consent_required: Vec<OptOut>,
    #[serde(default)]
    block: Vec<BlockRow>,
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
struct BlockRow {
    patient: String,
    document: Option<String>,
    study: Option<String>,
    author_organisation: Option<String>,
    /// `YYYYMMDD`
    from: Option<String>,
    /// `YYYYMMDD`
    to: Option<String>,
    confidentiality: Option<String>,
    #[serde(default)]
    imaging: bool,
    #[serde(default)]
    countries: Vec<String>,
    #[serde(default)]
    requesters: Vec<String>,
    #[serde(default)]
    professionals: Vec<String>,
    valid_from: Option<jiff::Timestamp>,
    valid_until: Option<jiff::Timestamp>,
}

impl ConsentFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Its path and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConsentError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConsentError::Read { path: path.to_owned(), source })?;
        let parse = |message: String| ConsentError::Parse { path: path.to_owned(), message };
        let file: Self = toml::from_str(&text).map_err(|error| parse(error.message().to_owned()))?;
        let day = |day: &String| day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit());
        if !file.block.iter().flat_map(|b| [&b.from, &b.to]).flatten().all(day) {
            return Err(parse("from and to are days, as \"20260131\"".into()));
        }
        if file.block.iter().any(|b| b.document.is_some() && b.study.is_some()) {
            return Err(parse("a block names a document or a study, not both".into()));
        }
        Ok(file)
    }

    pub(super) fn directives(&self, patient: &PatientId, to: &Country) -> Directives {
        let cx = patient.to_cx();
        let named = |rows: &[OptOut]| {
            rows.iter()
                .any(|o| o.patient == cx && (o.countries.is_empty() || o.countries.iter().any(|c| c == to.as_str())))
        };
        let service = match (named(&self.opt_out), named(&self.consent_required)) {
            (true, _) => ServiceConsent::OptedOut,
            (false, true) => ServiceConsent::MissingAndSaid,
            (false, false) => ServiceConsent::Given,
        };
        let blocks = self.block.iter().filter(|row| row.patient == cx).map(BlockRow::block).collect();
        Directives { service, blocks }
    }
}

impl BlockRow {
    fn block(&self) -> Block {
        let period = match (&self.from, &self.to) {
            (None, None) => None,
            (from, to) => Some((
                from.clone().unwrap_or_else(|| "00000000".into()),
                to.clone().unwrap_or_else(|| "99999999".into()),
            )),
        };
        Block {
            unit: self.document.clone().or_else(|| self.study.clone()),
            author_organisation: self.author_organisation.clone(),
            period,
            confidentiality: self.confidentiality.clone(),
            imaging: self.imaging,
            countries: self.countries.clone(),
            requesters: self.requesters.clone(),
            professionals: self.professionals.clone(),
            valid: (self.valid_from, self.valid_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_as_directives() {
        let file: ConsentFile = toml::from_str(
            "[[block]]\npatient = \"1^^^&2.999.1&ISO\"\ndocument = \"2.999.9\"\ncountries = [\"SE\"]\nfrom = \"20260101\"\n\
             [[opt_out]]\npatient = \"2^^^&2.999.1&ISO\"\ncountries = [\"FI\"]\n\
             [[consent_required]]\npatient = \"3^^^&2.999.1&ISO\"\n",
        )
        .expect("valid file");
        let of = |id: &str, country: &str| {
            let patient = PatientId::parse_cx(&format!("{id}^^^&2.999.1&ISO")).expect("a CX");
            file.directives(&patient, &Country::parse(country).expect("a country"))
        };
        let one = of("1", "FI");
        assert_eq!(one.service, ServiceConsent::Given);
        assert_eq!(one.blocks.len(), 1);
        assert_eq!(one.blocks[0].unit.as_deref(), Some("2.999.9"));
        assert_eq!(one.blocks[0].period, Some(("20260101".into(), "99999999".into())));
        assert_eq!(of("2", "FI").service, ServiceConsent::OptedOut);
        assert_eq!(of("2", "SE").service, ServiceConsent::Given);
        assert_eq!(of("3", "SE").service, ServiceConsent::MissingAndSaid);
        assert_eq!(of("4", "SE"), Directives::default());
    }
}
