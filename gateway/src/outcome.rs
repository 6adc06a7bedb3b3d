//! The one error table: every layer's error to what the peer is told, what the operator reads and what the trail says.
//!
//! Codes: as IPF's ErrorCode and OpenNCP's OpenNCPErrorCode have them; fault codes SOAP 1.2 Part 2 table 20. The peer's
//! text comes from this table, never from `Display` of an error. A unit test walks every row.

use std::time::Duration;

use ncp_ihe::{MessageError, RegistryError, Severity};
use ncp_saml::AssertionError;
use ncp_soap::SoapError;

use crate::admission::AGAIN;
use crate::identity::TransactionName;
use crate::initiating::PeerError;
use crate::national::NationalError;
use crate::policy::PolicyError;
use crate::responding::rate::RateError;
use crate::responding::replay::ReplayError;
use crate::retry_after;

/// Code system of the XCPD reasons that IHE defines.
const IHE_REASONS: &str = "1.3.6.1.4.1.19376.1.2.27.3";
/// Code system of the XCPD reasons that eHDSI defines.
const EHDSI_REASONS: &str = "1.3.6.1.4.1.12559.11.10.1.3.2.2.1";

/// What another system sent is in a coding that is not known, or is not what it declares.
const UNREADABLE: &str = "the answer of the source cannot be read";

/// Whatever ends an exchange without its answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// Envelope, addressing or MIME.
    #[error("soap: {0}")]
    Soap(#[from] SoapError),
    /// Assertions.
    #[error("assertion: {0}")]
    Assertion(#[from] AssertionError),
    /// The country of TLS, signer, Issuer text and registration differ.
    #[error("identity: {0}")]
    Identity(String),
    /// TRC does not fit the HCP assertion.
    #[error("trc binding: {0}")]
    TrcBinding(&'static str),
    /// The request itself names another patient than the TRC.
    #[error("request names another patient than the trc")]
    PatientBinding,
    /// Replay set.
    #[error("replay: {0}")]
    Replay(#[from] ReplayError),
    /// Asked too often.
    #[error("rate: {0}")]
    Rate(#[from] RateError),
    /// Body of the message.
    #[error("message: {0}")]
    Message(#[from] MessageError),
    /// Policy.
    #[error("policy: {0}")]
    Policy(#[from] PolicyError),
    /// National systems.
    #[error("national: {0}")]
    National(#[from] NationalError),
    /// Another country, where we ask (NCP-B).
    #[error("peer: {0}")]
    Peer(#[from] PeerError),
    /// A code that the receiver requires has no mapping.
    #[error("translation: a required code has no mapping")]
    TranslationRequired,
    /// The audit record could not be stored.
    #[error("audit: {0}")]
    Audit(String),
    /// A text or a list is longer than the trail holds.
    #[error("{0}")]
    TooLong(#[from] ncp_audit::TooLong),
    /// Too much at once.
    #[error("busy")]
    Busy,
    /// Our fault.
    #[error("internal: {0}")]
    Internal(&'static str),
}

/// EventOutcomeIndicator of PS3.15 A.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indicator {
    /// 0
    Success,
    /// 4
    Minor,
    /// 8
    Serious,
    /// 12
    Major,
}

/// The alert that a refusal raises beside the transaction's own record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// 110114 / 110122: an assertion failed (ITI TF-2: 3.40.4.1.3).
    UserAuthentication,
    /// 110113: wrapping, binding, replay, XML hazard.
    Security,
    /// 110113 / 110132: role or purpose may not.
    RestrictedFunction,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Answered as a SOAP fault whatever the transaction.
    pub as_fault: bool,
    /// XCPD reason, with its code system; empty: no reason element (no match).
    pub xcpd_reason: (&'static str, &'static str),
    /// XCPD acknowledgementDetail code.
    pub xcpd_detail: &'static str,
    /// errorCode in ITI-38.
    pub query: &'static str,
    /// errorCode in ITI-39 and RAD-75.
    pub retrieve: &'static str,
    /// codeContext and acknowledgementDetail text.
    pub text: &'static str,
    /// WS-Security subcode where the peer wants faults.
    pub wss: &'static str,
    /// Trail.
    pub indicator: Indicator,
    /// Besides.
    pub alert: Option<Alert>,
}

/// Our own code of a manifest that is not kept any more, because its study has another one. It is told to those alone who
/// may see the study.
pub const REPLACED: &str = "urn:ncp:replaced";
/// Our own code of a warning beside a manifest: so many instances, the last component, came to its study since.
pub const NEWER: &str = "urn:ncp:newer:";

impl GatewayError {
    /// The row of this error.
    pub fn row(&self) -> Row {
        use AssertionError as A;
        match self {
            // Nothing is wrong with the message: there is no memory to read it now.
            Self::Soap(SoapError::Busy) => Row { as_fault: true, ..Self::Busy.row() },
            Self::Soap(error) => Row { as_fault: true, ..fault_row(error) },
            Self::Assertion(A::NoHcp) => {
                let code = "ERROR_HPI_AUTHENTICATION_NOT_RECEIVED";
                rights(code, code, "no identity assertion of the health professional", "wsse:InvalidSecurity")
                    .serious(Some(Alert::UserAuthentication))
            }
            Self::Assertion(A::NoTrc) => {
                rights("ERROR_SEC_GENERIC", "1001", "no treatment relationship assertion", "wsse:InvalidSecurity")
                    .serious(Some(Alert::UserAuthentication))
            }
            Self::Assertion(A::TrcBinding(_)) | Self::TrcBinding(_) => rights(
                "ERROR_SEC_GENERIC",
                "1002",
                "the treatment relationship does not fit the identity assertion",
                "wsse:FailedCheck",
            )
            .serious(Some(Alert::Security)),
            Self::Assertion(A::PatientBinding) | Self::PatientBinding => rights(
                "ERROR_PI_GENERIC",
                "4206",
                "the patient is not that of the treatment relationship",
                "wsse:FailedCheck",
            )
            .serious(Some(Alert::Security)),
            Self::Assertion(A::Oversize(_)) => {
                Row { text: "a text of the assertions is too long", ..integrity() }.serious(Some(Alert::Security))
            }
            Self::Assertion(A::WeakAuthentication) | Self::Policy(PolicyError::WeakAuthentication) => rights(
                "ERROR_SEC_GENERIC",
                "4702",
                "the login is too weak: its AuthnContextClassRef is none that is taken from this country",
                "wsse:FailedAuthentication",
            )
            .minor(Some(Alert::RestrictedFunction)),
            Self::Assertion(_) | Self::Identity(_) => integrity().serious(Some(Alert::UserAuthentication)),
            Self::Replay(ReplayError::Full | ReplayError::Unreachable) | Self::Busy => Row {
                xcpd_reason: ("ResponderBusy", IHE_REASONS),
                xcpd_detail: "ERROR_PI_GENERIC",
                query: "XDSRegistryBusy",
                retrieve: "XDSRepositoryBusy",
                text: "busy, try again later",
                ..failed()
            },
            Self::Rate(error) => Row {
                xcpd_reason: ("ResponderBusy", IHE_REASONS),
                xcpd_detail: error.code(),
                query: error.code(),
                retrieve: error.code(),
                text: "asked too often, try again later",
                ..failed()
            }
            .minor(Some(Alert::RestrictedFunction)),
            Self::Replay(_) => integrity().serious(Some(Alert::Security)),
            Self::TooLong(found) => Row {
                as_fault: true,
                text: found.what,
                indicator: Indicator::Minor,
                alert: Some(Alert::Security),
                ..failed()
            },
            Self::Message(error) => message_row(error),
            Self::Policy(PolicyError::Forbidden(_)) => {
                rights("ERROR_SEC_GENERIC", "4703", "not permitted", "wsse:FailedCheck")
                    .minor(Some(Alert::RestrictedFunction))
            }
            Self::Policy(PolicyError::NoConsent) => {
                rights("ERROR_PI_GENERIC", "4701", "no consent", "wsse:FailedCheck").minor(None)
            }
            // That consent or a policy could not be looked up is no fact of the caller, and passes.
            Self::Policy(PolicyError::Failed(_)) => Self::Busy.row().serious(Some(Alert::Security)),
            Self::National(error) => national_row(error),
            Self::Peer(PeerError::Mismatch | PeerError::Withheld(_)) => failed().serious(Some(Alert::Security)),
            Self::Peer(PeerError::Busy | PeerError::NoMemory | PeerError::Later(_) | PeerError::Http(429 | 503)) => {
                Self::Busy.row()
            }
            Self::Peer(error @ (PeerError::Http(_) | PeerError::Fault)) if !error.is_of_the_way() => {
                unavailable("the community answered with an error")
            }
            Self::Peer(PeerError::Slow) => unavailable("the answer of the community came too slowly"),
            Self::Peer(error) if error.is_unavailable() => unavailable("the community gave no answer"),
            Self::Peer(PeerError::Refused(_)) => Row { text: "the community answered with an error", ..failed() },
            Self::Peer(PeerError::Unreadable(_)) => Row { text: UNREADABLE, ..failed() },
            Self::Peer(_) => failed(),
            Self::TranslationRequired => {
                Row { query: "4203", retrieve: "4203", text: "a required code could not be transcoded", ..failed() }
            }
            Self::Audit(_) | Self::Internal(_) => Row { indicator: Indicator::Major, ..failed() },
        }
    }

    /// The RegistryError of this error, with the reference that the trail has too.
    pub fn registry_error(
        &self,
        transaction: TransactionName,
        location: Option<String>,
        reference: &str,
    ) -> RegistryError {
        let row = self.row();
        let text = self.told();
        let code = match transaction {
            TransactionName::Iti39 | TransactionName::Rad75 => row.retrieve,
            TransactionName::Iti38 | TransactionName::Iti55 => row.query,
        };
        let declared = self.declared().map(|what| format!(": {what}")).unwrap_or_default();
        let code = match self {
            // A national consumer is told the country's own code.
            Self::Peer(PeerError::Refused(code)) => code.as_str(),
            _ => code,
        };
        RegistryError {
            code: code.to_owned(),
            context: format!("{text}{declared} (reference {reference})"),
            severity: Severity::Error,
            location,
        }
    }

    /// The text of an answer: when to ask again, where somebody said so.
    pub fn told(&self) -> String {
        use MessageError as M;
        match (self, self.retry_after()) {
            // Names of our own list: whoever asked can change what they name.
            (
                Self::Message(named @ (M::QueryMissingParam(_) | M::QueryParamInvalid(_) | M::QueryParamNumber(_))),
                _,
            ) => named.to_string(),
            (Self::Peer(PeerError::Open(_)), Some(after)) => {
                let again = retry_after::seconds(after);
                format!("the community could not be reached a moment ago and was not tried, again in {again} s")
            }
            (_, Some(after)) => retry_after::told(after),
            (_, None) => self.row().text.to_owned(),
        }
    }

    /// The coding or charset that could not be read, so that whoever sent it can change it.
    fn declared(&self) -> Option<&str> {
        match self {
            Self::National(NationalError::Unreadable(what)) | Self::Peer(PeerError::Unreadable(what)) => Some(what),
            _ => None,
        }
    }

    /// When to ask again, where somebody said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::National(NationalError::Busy(after)) => *after,
            Self::Peer(PeerError::Later(after) | PeerError::Open(after)) => Some(*after),
            Self::Peer(PeerError::Http(429 | 503)) => Some(retry_after::UNSAID),
            Self::Peer(PeerError::Busy | PeerError::NoMemory)
            | Self::Busy
            | Self::Replay(ReplayError::Full | ReplayError::Unreachable) => Some(AGAIN),
            _ => None,
        }
    }

    /// A short name for metrics and the trail's outcome text; no content of the message.
    pub fn class(&self) -> &'static str {
        match self.row().indicator {
            Indicator::Success => "success",
            Indicator::Minor => "refused",
            Indicator::Serious
                if matches!(
                    self,
                    Self::Soap(SoapError::Busy)
                        | Self::National(_)
                        | Self::Peer(_)
                        | Self::Busy
                        | Self::TranslationRequired
                ) =>
            {
                "failed"
            }
            Indicator::Serious => "refused",
            Indicator::Major => "failed",
        }
    }
}

impl Row {
    fn serious(self, alert: Option<Alert>) -> Self {
        Self { indicator: Indicator::Serious, alert, ..self }
    }

    fn minor(self, alert: Option<Alert>) -> Self {
        Self { indicator: Indicator::Minor, alert, ..self }
    }
}

/// Another country gave no answer that can be used (ITI TF-3 4.2.4.1).
fn unavailable(text: &'static str) -> Row {
    Row { query: "XDSUnavailableCommunity", retrieve: "XDSUnavailableCommunity", text, ..failed() }
}

fn failed() -> Row {
    Row {
        as_fault: false,
        xcpd_reason: ("InternalError", IHE_REASONS),
        xcpd_detail: "ERROR_PI_GENERIC",
        query: "XDSRegistryError",
        retrieve: "XDSRepositoryError",
        text: "the request could not be carried out",
        wss: "",
        indicator: Indicator::Serious,
        alert: None,
    }
}

fn rights(detail: &'static str, code: &'static str, text: &'static str, wss: &'static str) -> Row {
    Row {
        xcpd_reason: ("InsufficientRights", EHDSI_REASONS),
        xcpd_detail: detail,
        query: code,
        retrieve: code,
        text,
        wss,
        ..failed()
    }
}

fn integrity() -> Row {
    let code = "ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED";
    rights(code, code, "the assertions could not be verified", "wsse:InvalidSecurityToken")
}

fn fault_row(_: &SoapError) -> Row {
    Row { text: "malformed message", indicator: Indicator::Minor, alert: Some(Alert::Security), ..failed() }
}

fn message_row(error: &MessageError) -> Row {
    use MessageError as M;
    let row = Row { indicator: Indicator::Minor, ..failed() };
    let same = |code: &'static str, text: &'static str| Row { query: code, retrieve: code, text, ..row };
    match error {
        M::HomeCommunityMissing => same("XDSMissingHomeCommunityId", "homeCommunityId is required"),
        M::HomeCommunityUnknown => Row {
            xcpd_reason: ("AnswerNotAvailable", IHE_REASONS),
            alert: Some(Alert::Security),
            ..same("XDSUnknownCommunity", "homeCommunityId is not ours")
        },
        M::RepositoryUnknown => Row { retrieve: "XDSUnknownRepositoryId", text: "repository is not known", ..row },
        M::DemographicsOnly | M::NoPatientId => Row {
            xcpd_reason: ("DemographicsQueryNotAllowed", EHDSI_REASONS),
            ..same("XDSStoredQueryMissingParam", "a patient identifier is required")
        },
        M::DeferredUnsupported => same("XDSRegistryError", "deferred response is not supported"),
        M::QueryUnknown => same("XDSUnknownStoredQuery", "stored query is not served"),
        M::QueryMissingParam(_) => same("XDSStoredQueryMissingParam", "a parameter is missing"),
        M::QueryParamInvalid(_) => same("XDSRegistryError", "a parameter cannot be read"),
        M::QueryParamNumber(_) => same("XDSStoredQueryParamNumber", "a parameter has too many values"),
        _ => Row { as_fault: true, text: "malformed message", alert: Some(Alert::Security), ..row },
    }
}

fn national_row(error: &NationalError) -> Row {
    use NationalError as N;
    let row = failed();
    let minor = Row { indicator: Indicator::Minor, ..row };
    match error {
        N::NoPatient => Row {
            xcpd_reason: ("", ""),
            xcpd_detail: "ERROR_PI_NO_MATCH",
            query: "XDSUnknownPatientId",
            retrieve: "XDSUnknownPatientId",
            text: "no such patient",
            ..minor
        },
        N::Ambiguous => Row {
            xcpd_reason: ("AdditionalDemographicsRequested", EHDSI_REASONS),
            xcpd_detail: "ERROR_PI_MULTIPLE_MATCHES",
            text: "more than one patient fits",
            ..minor
        },
        N::TooMany => Row { query: "XDSTooManyResults", text: "too many results, narrow the query", ..minor },
        N::UnknownRepository => Row { retrieve: "XDSUnknownRepositoryId", text: "repository is not known", ..minor },
        N::Replaced => {
            Row { retrieve: REPLACED, text: "the study has changed since it was listed, search again", ..minor }
        }
        N::UnknownDocument => Row { retrieve: "XDSDocumentUniqueIdError", text: "document is not available", ..minor },
        N::Busy(_) => Row {
            xcpd_reason: ("ResponderBusy", IHE_REASONS),
            query: "XDSRegistryBusy",
            retrieve: "XDSRepositoryBusy",
            text: "busy, try again later",
            ..row
        },
        N::TransferSyntax => Row { text: "stored in none of the requested transfer syntaxes", ..minor },
        N::NotShown(reason) => Row { text: reason, ..minor },
        N::Foreign(_) | N::Mismatch(_) => Row { alert: Some(Alert::Security), ..row },
        N::Unreadable(_) => Row { text: UNREADABLE, ..row },
        N::Down { .. } => row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Foreign;

    /// The table: error, XCPD reason, ITI-38 code, ITI-39 and RAD-75 code, outcome.
    #[test]
    fn every_row_is_as_decided() {
        let integrity = "ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED";
        let no_hcp = "ERROR_HPI_AUTHENTICATION_NOT_RECEIVED";
        let rights = "InsufficientRights";
        let table: Vec<(GatewayError, &str, &str, &str, Indicator)> = vec![
            (AssertionError::NoHcp.into(), rights, no_hcp, no_hcp, Indicator::Serious),
            (AssertionError::NoTrc.into(), rights, "1001", "1001", Indicator::Serious),
            (GatewayError::Identity("x".into()), rights, integrity, integrity, Indicator::Serious),
            (ReplayError::Rebound.into(), rights, integrity, integrity, Indicator::Serious),
            (GatewayError::TrcBinding("x"), rights, "1002", "1002", Indicator::Serious),
            (GatewayError::PatientBinding, rights, "4206", "4206", Indicator::Serious),
            (ReplayError::Forgotten.into(), rights, integrity, integrity, Indicator::Serious),
            (
                ReplayError::Unreachable.into(),
                "ResponderBusy",
                "XDSRegistryBusy",
                "XDSRepositoryBusy",
                Indicator::Serious,
            ),
            (
                RateError::Patient.into(),
                "ResponderBusy",
                RateError::Patient.code(),
                RateError::Patient.code(),
                Indicator::Minor,
            ),
            (PolicyError::WeakAuthentication.into(), rights, "4702", "4702", Indicator::Minor),
            (PolicyError::Forbidden("x".into()).into(), rights, "4703", "4703", Indicator::Minor),
            (
                PolicyError::Failed("x".into()).into(),
                "ResponderBusy",
                "XDSRegistryBusy",
                "XDSRepositoryBusy",
                Indicator::Serious,
            ),
            (PolicyError::NoConsent.into(), rights, "4701", "4701", Indicator::Minor),
            (
                MessageError::HomeCommunityMissing.into(),
                "InternalError",
                "XDSMissingHomeCommunityId",
                "XDSMissingHomeCommunityId",
                Indicator::Minor,
            ),
            (
                MessageError::HomeCommunityUnknown.into(),
                "AnswerNotAvailable",
                "XDSUnknownCommunity",
                "XDSUnknownCommunity",
                Indicator::Minor,
            ),
            (NationalError::NoPatient.into(), "", "XDSUnknownPatientId", "XDSUnknownPatientId", Indicator::Minor),
            (
                NationalError::TooMany.into(),
                "InternalError",
                "XDSTooManyResults",
                "XDSRepositoryError",
                Indicator::Minor,
            ),
            (
                NationalError::UnknownRepository.into(),
                "InternalError",
                "XDSRegistryError",
                "XDSUnknownRepositoryId",
                Indicator::Minor,
            ),
            (
                NationalError::UnknownDocument.into(),
                "InternalError",
                "XDSRegistryError",
                "XDSDocumentUniqueIdError",
                Indicator::Minor,
            ),
            (
                NationalError::down("x").into(),
                "InternalError",
                "XDSRegistryError",
                "XDSRepositoryError",
                Indicator::Serious,
            ),
            (
                NationalError::Foreign(Foreign::OtherPatient).into(),
                "InternalError",
                "XDSRegistryError",
                "XDSRepositoryError",
                Indicator::Serious,
            ),
            (
                NationalError::TransferSyntax.into(),
                "InternalError",
                "XDSRegistryError",
                "XDSRepositoryError",
                Indicator::Minor,
            ),
            (
                NationalError::Busy(None).into(),
                "ResponderBusy",
                "XDSRegistryBusy",
                "XDSRepositoryBusy",
                Indicator::Serious,
            ),
            (
                PeerError::Timeout.into(),
                "InternalError",
                "XDSUnavailableCommunity",
                "XDSUnavailableCommunity",
                Indicator::Serious,
            ),
            (
                PeerError::Slow.into(),
                "InternalError",
                "XDSUnavailableCommunity",
                "XDSUnavailableCommunity",
                Indicator::Serious,
            ),
            (
                PeerError::Malformed("x").into(),
                "InternalError",
                "XDSRegistryError",
                "XDSRepositoryError",
                Indicator::Serious,
            ),
            (
                ncp_audit::TooLong::of("the query is longer than 256 KiB", b"x").into(),
                "InternalError",
                "XDSRegistryError",
                "XDSRepositoryError",
                Indicator::Minor,
            ),
            (GatewayError::TranslationRequired, "InternalError", "4203", "4203", Indicator::Serious),
            (
                GatewayError::Audit("x".into()),
                "InternalError",
                "XDSRegistryError",
                "XDSRepositoryError",
                Indicator::Major,
            ),
            (GatewayError::Internal("x"), "InternalError", "XDSRegistryError", "XDSRepositoryError", Indicator::Major),
        ];
        for (error, xcpd, query, retrieve, indicator) in table {
            let row = error.row();
            assert_eq!((row.xcpd_reason.0, row.query, row.retrieve), (xcpd, query, retrieve), "{error}");
            assert_eq!(row.indicator, indicator, "{error}");
            let told = error.registry_error(TransactionName::Iti38, None, "r");
            assert!(!told.context.contains(&error.to_string()), "the peer must not read our error text: {error}");
        }
    }
}
