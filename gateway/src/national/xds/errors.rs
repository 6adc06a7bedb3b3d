//! What national systems answer instead of data, in terms of the one error table.

use ncp_ihe::{RegistryError, Severity, Status};

use crate::admission::AGAIN;
use crate::national::{Missing, NationalError};
use crate::soap_client::{CallError, code_only};

/// A call that brought no answer.
pub(super) fn of_call(error: CallError) -> NationalError {
    match error {
        CallError::Later(after) => NationalError::Busy(Some(after)),
        CallError::NoMemory => NationalError::Busy(Some(AGAIN)),
        CallError::Http(429 | 503) => NationalError::Busy(None),
        CallError::Timeout
        | CallError::Slow
        | CallError::Unreachable(_)
        | CallError::BrokeOff
        | CallError::Http(500..) => NationalError::down(error.to_string()),
        CallError::Unreadable(what) => NationalError::Unreadable(what),
        other => NationalError::broken(other.to_string()),
    }
}

/// The first error of a response: as the failure of the whole, or beside what did come.
///
/// # Errors
/// A response that failed.
pub(super) fn mapped(status: Status, errors: &[RegistryError]) -> Result<Option<NationalError>, NationalError> {
    let first = errors.iter().find(|e| e.severity == Severity::Error).map(|e| of_code(&e.code));
    match status {
        // An error beside Success contradicts the status, and the answer may not pass as whole.
        Status::Success => Ok(first),
        Status::PartialSuccess => Ok(Some(first.unwrap_or_else(no_code))),
        Status::Failure | Status::Missing => Err(first.unwrap_or_else(no_code)),
    }
}

fn no_code() -> NationalError {
    NationalError::broken("failed without a code")
}

/// Codes of ITI TF-3: table 4.2.4.1-2 and those that systems of the field answer beside them.
fn of_code(code: &str) -> NationalError {
    match code {
        "XDSUnknownPatientId" => NationalError::NoPatient,
        "XDSTooManyResults" => NationalError::TooMany,
        "XDSRegistryBusy" | "XDSRepositoryBusy" | "XDSRegistryOutOfResources" | "XDSRepositoryOutOfResources" => {
            NationalError::Busy(None)
        }
        "XDSDocumentUniqueIdError" | "XDSMissingDocument" => NationalError::UnknownDocument,
        "XDSUnknownRepositoryId" | "XDSIUnknownIdsUid" => NationalError::UnknownRepository,
        "urn:dicom:wado:0007" => NationalError::TransferSyntax,
        "XDSRegistryNotAvailable" | "XDSUnavailableCommunity" => NationalError::down(code),
        other => NationalError::broken(format!("refused with {}", code_only(other))),
    }
}

/// Why an instance does not come: by the error that names it, else by the first that names none.
pub(super) fn why(errors: &[RegistryError], sop_instance: &str) -> Missing {
    let names = |e: &&RegistryError| {
        e.location
            .as_deref()
            .is_some_and(|l| l.split(|c: char| !c.is_ascii_digit() && c != '.').any(|p| p == sop_instance))
    };
    let general = |e: &&RegistryError| e.location.as_deref().is_none_or(|l| l.trim().is_empty());
    let all = || errors.iter().filter(|e| e.severity == Severity::Error);
    let Some(error) = all().find(names).or_else(|| all().find(general)) else { return Missing::Unknown };
    match of_code(&error.code) {
        NationalError::UnknownDocument => Missing::Unknown,
        NationalError::UnknownRepository => Missing::UnknownSource,
        NationalError::TransferSyntax => Missing::TransferSyntax,
        NationalError::Busy(after) => Missing::Busy(after),
        _ => Missing::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, location: Option<&str>) -> RegistryError {
        RegistryError {
            code: code.into(),
            context: "as the national system puts it".into(),
            severity: Severity::Error,
            location: location.map(Into::into),
        }
    }

    #[test]
    fn an_instance_is_missing_for_the_reason_that_names_it() {
        let errors = [
            error("urn:dicom:wado:0007", Some("2.999.1.10")),
            error("XDSMissingDocument", Some("2.999.1.1")),
            error("XDSRepositoryBusy", None),
        ];
        assert_eq!(why(&errors, "2.999.1.1"), Missing::Unknown);
        assert_eq!(why(&errors, "2.999.1.10"), Missing::TransferSyntax);
        assert_eq!(why(&errors, "2.999.1.2"), Missing::Busy(None));
        assert_eq!(why(&errors[..2], "2.999.1.2"), Missing::Unknown);
    }

    #[test]
    fn a_foreign_text_does_not_get_through() {
        let failed = mapped(Status::Failure, &[error("Ola Nordmann <script>", None)]);
        let text = failed.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("OlaNordmannscript") && !text.contains("as the national"), "{text}");
        assert!(matches!(mapped(Status::Success, &[]), Ok(None)));
        let beside = mapped(Status::Success, &[error("XDSRegistryBusy", None)]);
        assert!(matches!(beside, Ok(Some(NationalError::Busy(None)))));
        assert!(mapped(Status::Missing, &[]).is_err());
        let partial = mapped(Status::PartialSuccess, &[error("XDSRegistryBusy", None)]);
        assert!(matches!(partial, Ok(Some(NationalError::Busy(None)))));
    }
}
