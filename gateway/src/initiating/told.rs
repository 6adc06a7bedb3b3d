//! What a country reports beside, or in place of, what it was asked for: one reading of the error list for ITI-38, ITI-39,
//! RAD-75 and ITI-55. The list counts, whatever the status says of the whole.

use std::time::Duration;

use ncp_ihe::{RegistryError, Severity, Status};

use super::codes::{About, Code};
use super::{Call, PeerError};
use crate::identity::TransactionName;
use crate::outcome::Indicator;
use crate::retry_after;

/// Codes of one answer that are kept.
const MOST: usize = 16;

/// One entry of an error list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its code, and nothing else of its text.
    pub code: Code,
    /// Its severity.
    pub severity: Severity,
    /// When a busy country wants to be asked again, where it says so.
    pub after: Option<Duration>,
}

/// The error list of an answer, each code once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports(Vec<Report>);

impl Reports {
    /// Reads an error list. An answer that did not succeed and gives no reason has a code of ours.
    pub fn read(status: Status, errors: &[RegistryError]) -> Self {
        let mut out = Self::default();
        for error in errors {
            out.take(&error.code, error.severity, retry_after::of_text(&error.context));
        }
        if status != Status::Success && out.0.is_empty() {
            let code = if status == Status::Missing { Code::NO_STATUS } else { Code::NONE };
            out.0.push(Report { code, severity: Severity::Error, after: None });
        }
        out
    }

    /// Adds a code.
    pub fn add(&mut self, code: &str, severity: Severity) {
        self.take(code, severity, None);
    }

    fn take(&mut self, code: &str, severity: Severity, after: Option<Duration>) {
        let report = Report { code: Code::of(code), severity, after };
        if self.0.len() < MOST && !self.0.contains(&report) {
            self.0.push(report);
        }
    }

    /// Why an answer without any content is no answer; none when it says that there is nothing.
    pub fn refusal(&self, status: Status) -> Option<PeerError> {
        let counts = |r: &&Report| r.severity == Severity::Error || status != Status::Success;
        let about = |about| self.0.iter().filter(counts).find(|r| r.code.about() == about);
        let first = about(About::Caller).or_else(|| about(About::Technical))?;
        if matches!(first.code.as_str(), "XDSRepositoryBusy" | "XDSRegistryBusy") {
            return Some(PeerError::Later(first.after.unwrap_or(retry_after::UNSAID)));
        }
        Some(PeerError::Refused(first.code.to_string()))
    }

    /// Codes by which an answer with content is not whole. A status that says so without any error counts as well.
    pub fn errors(&self, status: Status) -> Vec<String> {
        let errors = self.codes(|r| r.severity == Severity::Error);
        if errors.is_empty() && status != Status::Success {
            return vec![Code::NONE.to_string()];
        }
        errors.into_iter().filter(|code| code != "4701").collect()
    }

    /// Codes of technical warnings. That one class of documents is empty is no news beside those of another.
    pub fn warnings(&self) -> Vec<String> {
        self.codes(|r| r.severity == Severity::Warning && r.code.about() != About::Nothing)
    }

    /// Whether a part is withheld for want of consent.
    pub fn withholds(&self) -> bool {
        self.0.iter().any(|r| r.code.as_str() == "4701")
    }

    /// What the trail says of an exchange whose answer had this list: 8 for a failure, 4 for a part that failed.
    pub fn outcome(&self, status: Status) -> Option<(Indicator, &str)> {
        let error = self.0.iter().find(|r| r.severity == Severity::Error);
        match (status, error) {
            (Status::Failure | Status::Missing, _) => {
                Some((Indicator::Serious, error.or(self.0.first()).map_or(Code::NONE.series(), |r| r.code.as_str())))
            }
            (_, Some(error)) => Some((Indicator::Minor, error.code.as_str())),
            (Status::PartialSuccess, None) => Some((Indicator::Minor, Code::NONE.series())),
            (Status::Success, None) => None,
        }
    }

    fn codes(&self, which: impl Fn(&Report) -> bool) -> Vec<String> {
        self.0.iter().filter(|r| which(r)).map(|r| r.code.to_string()).collect()
    }
}

impl Call {
    /// Puts what a country reported into the log and the metrics.
    pub(super) fn reported(&self, transaction: TransactionName, reports: &Reports) {
        for Report { code, severity, .. } in &reports.0 {
            let severity = if *severity == Severity::Error { "error" } else { "warning" };
            let (country, of) = (self.peer.country, transaction.as_str());
            match code.about() {
                About::Nothing => {
                    tracing::info!(%country, ncp.transaction = of, %code, severity, "country shows nothing")
                }
                _ => tracing::warn!(%country, ncp.transaction = of, %code, severity, "country reported a failure"),
            }
            self.app.metrics.peer_report(country, transaction, code.series(), severity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soap_client::code_only;

    fn error(code: &str, severity: Severity) -> RegistryError {
        RegistryError { code: code.into(), context: "a person's name".into(), severity, location: None }
    }

    fn read(status: Status, codes: &[(&str, Severity)]) -> Reports {
        Reports::read(status, &codes.iter().map(|(code, severity)| error(code, *severity)).collect::<Vec<_>>())
    }

    fn refused(status: Status, codes: &[(&str, Severity)]) -> Option<String> {
        match read(status, codes).refusal(status) {
            Some(PeerError::Refused(code)) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn the_list_counts_whatever_the_status_says() {
        use Severity::{Error, Warning};
        for status in [Status::Success, Status::PartialSuccess, Status::Failure, Status::Missing] {
            for code in ["1002", "ERROR_ORCD_GENERIC", "4702", "4703", "XDSUnknownCommunity", "a b'<c>"] {
                let expected = code_only(code);
                assert_eq!(refused(status, &[(code, Error)]), Some(expected.clone()), "{status:?} {code}");
                assert_eq!(read(status, &[(code, Error)]).errors(status), [expected]);
            }
            for code in ["4701", "XDSUnknownPatientId"] {
                assert_eq!(refused(status, &[(code, Error)]), None, "{status:?} {code}");
            }
            assert_eq!(refused(status, &[("4701", Error), ("1002", Error)]).as_deref(), Some("1002"));
        }
        assert_eq!(refused(Status::Success, &[]), None);
        assert_eq!(refused(Status::Failure, &[]).as_deref(), Some("no code"));
        assert_eq!(refused(Status::Missing, &[]).as_deref(), Some("no status"));
        assert_eq!(refused(Status::Failure, &[("1101", Warning)]), None);
        assert_eq!(refused(Status::Failure, &[("4103", Warning)]).as_deref(), Some("4103"));
        assert_eq!(refused(Status::Success, &[("WARNING_ORCD_GENERIC", Warning)]), None);
    }

    #[test]
    fn a_code_is_no_place_for_a_person() {
        let reports = read(Status::Failure, &[("191212121212", Severity::Error)]);
        assert_eq!(reports.errors(Status::Failure), ["unknown code"]);
        let many: Vec<RegistryError> = (0..1000).map(|n| error(&format!("E{n}"), Severity::Error)).collect();
        assert_eq!(Reports::read(Status::Success, &many).errors(Status::Success).len(), MOST);
    }
}
