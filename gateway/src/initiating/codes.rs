//! Codes by which countries say why something is not there: one table for what each is about and for the time series that
//! it has, so that no word of ours is counted as one that nobody knows.

use std::borrow::Cow;
use std::fmt;

use crate::soap_client::code_only;

/// What a code is about, and so what its reader is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The country shows nothing of the patient, or no more: an unknown person, no consent, an absent document. All are
    /// told by one sentence, so that the sentence does not say which.
    Nothing,
    /// The caller may not ask: strength of the login, role, purpose, permission.
    Caller,
    /// Everything else.
    Technical,
}

/// A code: one of the table, one of our own words, or one that no specification lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code(Cow<'static, str>);

/// The codes of ITI TF-3: table 4.2.4.1-2, of ITI-55 and of eHDSI.
const KNOWN: [(&str, About); 40] = [
    ("1001", About::Technical),
    ("1002", About::Technical),
    ("1031", About::Technical),
    ("1100", About::Nothing),
    ("1101", About::Nothing),
    ("1102", About::Nothing),
    ("1103", About::Nothing),
    ("1104", About::Nothing),
    ("4103", About::Technical),
    ("4203", About::Technical),
    ("4206", About::Technical),
    ("4701", About::Nothing),
    ("4702", About::Caller),
    ("4703", About::Caller),
    ("AnswerNotAvailable", About::Technical),
    ("ERROR_GENERIC_SERVICE_SIGNIFIER_UNKNOWN", About::Technical),
    ("ERROR_HPI_AUTHENTICATION_NOT_RECEIVED", About::Technical),
    ("ERROR_ORCD_GENERIC", About::Technical),
    ("ERROR_PI_GENERIC", About::Technical),
    ("ERROR_PI_NO_MATCH", About::Nothing),
    ("ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED", About::Technical),
    ("ERROR_SEC_GENERIC", About::Technical),
    ("InsufficientRights", About::Technical),
    ("InternalError", About::Technical),
    ("ResponderBusy", About::Technical),
    ("WARNING_ORCD_GENERIC", About::Technical),
    ("WARNING_ORCD_MISSING_MANDATORY_METADATA", About::Technical),
    ("XDSDocumentUniqueIdError", About::Nothing),
    ("XDSMissingDocument", About::Nothing),
    ("XDSMissingHomeCommunityId", About::Technical),
    ("XDSRegistryBusy", About::Technical),
    ("XDSRegistryError", About::Technical),
    ("XDSRepositoryBusy", About::Technical),
    ("XDSRepositoryError", About::Technical),
    ("XDSStoredQueryMissingParam", About::Technical),
    ("XDSTooManyResults", About::Technical),
    ("XDSUnavailableCommunity", About::Technical),
    ("XDSUnknownCommunity", About::Technical),
    ("XDSUnknownPatientId", About::Nothing),
    ("XDSUnknownRepositoryId", About::Technical),
];

impl Code {
    /// An answer that did not succeed gives no reason, or an error has no code.
    pub const NONE: Self = Self(Cow::Borrowed("no code"));
    /// An answer has no status.
    pub const NO_STATUS: Self = Self(Cow::Borrowed("no status"));
    /// A long number is no code that anybody defines; it may be an identifier of a person.
    pub const NUMBER: Self = Self(Cow::Borrowed("unknown code"));

    /// The code that a country sent, without anything else that it might have put into it.
    pub fn of(text: &str) -> Self {
        let code = code_only(text);
        match KNOWN.iter().find(|(known, _)| *known == code) {
            Some((known, _)) => Self(Cow::Borrowed(known)),
            None if code.is_empty() => Self::NONE,
            None if code.len() > 6 && code.bytes().all(|b| b.is_ascii_digit()) => Self::NUMBER,
            None => Self(Cow::Owned(code)),
        }
    }

    /// What it is about.
    pub fn about(&self) -> About {
        KNOWN.iter().find(|(known, _)| *known == self.as_str()).map_or(About::Technical, |(_, about)| *about)
    }

    /// The code of a time series. A country makes up none: whatever it may say beyond the table is one series.
    pub fn series(&self) -> &'static str {
        match &self.0 {
            Cow::Borrowed(own) => own,
            Cow::Owned(_) => "other",
        }
    }

    /// As it is told.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_ours_has_its_own_series_and_no_other_has() {
        for (known, about) in KNOWN {
            let code = Code::of(known);
            assert_eq!((code.as_str(), code.series(), code.about()), (known, known, about));
        }
        for own in [Code::NONE, Code::NO_STATUS, Code::NUMBER] {
            assert_eq!((own.series(), own.about()), (own.as_str(), About::Technical));
        }
        assert_eq!((Code::of(""), Code::of(" <>")), (Code::NONE, Code::NONE));
        assert_eq!(Code::of("191212121212"), Code::NUMBER);
        for made_up in ["no code", "E1", "Tolvan Exempel", "1105", "other"] {
            assert_eq!(Code::of(made_up).series(), "other", "{made_up}");
        }
    }
}
