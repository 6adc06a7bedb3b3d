//! Cross Gateway Patient Discovery [ITI-55] bodies (ITI TF-2: 3.55).

mod request;
mod response;

use crate::{HomeCommunityId, PatientId};

pub use request::{Page, PatientQuery};
pub use response::PatientResponse;

/// Identifiers of one person that a query may name.
pub const IDENTIFIERS: usize = 16;

/// Values of one parameter that a query may have.
pub const ALTERNATIVES: usize = 16;

/// A name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PersonName {
    /// Family name.
    pub family: String,
    /// Given names.
    pub given: Vec<String>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Address {
    /// Street.
    pub street: Option<String>,
    /// City.
    pub city: Option<String>,
    /// Postal code.
    pub postal_code: Option<String>,
    /// Country.
    pub country: Option<String>,
}

/// A person as the national side knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatientRecord {
    /// The identifier to be used in ITI-38.
    pub id: PatientId,
    /// Further ones.
    pub other_ids: Vec<PatientId>,
    /// Name.
    pub name: PersonName,
    /// `YYYYMMDD`.
    pub birth_date: Option<String>,
    /// `M`, `F` or `UN`.
    pub gender: Option<String>,
    /// Address.
    pub address: Option<Address>,
}

/// A match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatientMatch {
    /// The person.
    pub record: PatientRecord,
    /// Community that holds the documents.
    pub home: HomeCommunityId,
    /// 0 to 100.
    pub degree: u8,
}

/// The cases of ITI TF-2: 3.55.4.2.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatientAnswer {
    /// Cases 1 and 2.
    Matches(Vec<PatientMatch>),
    /// Case 4; OpenNCP peers also expect a reason.
    NoMatch {
        /// Whether the eHDSI reason is added.
        ehdsi_reason: bool,
    },
    /// Case 3, case 5 and the eHDSI refusals.
    Refused(Refusal),
}

/// What stands beside the persons that an answer names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beside {
    /// Codes of acknowledgement details that are errors.
    pub errors: Vec<String>,
    /// Codes of those that are warnings.
    pub warnings: Vec<String>,
    /// Persons that could not be read.
    pub unusable: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    /// Reason code; empty for none.
    pub reason: String,
    /// Its code system.
    pub system: String,
    /// acknowledgementDetail code.
    pub detail: String,
    /// acknowledgementDetail text.
    pub text: String,
    /// Attributes that would narrow the search, as codes of [`Refusal::ATTRIBUTES`].
    pub attributes: Vec<String>,
}

impl Refusal {
    /// Code system of the attributes that may be asked for (ITI TF-2: 3.55.4.2.2.6).
    pub const ATTRIBUTES: &str = "1.3.6.1.4.1.19376.1.2.27.1";

    /// Whether it is for overload, and passes (ITI TF-2: 3.55.4.2.3, case 5).
    pub fn is_busy(&self) -> bool {
        self.reason == "ResponderBusy"
    }

    /// Codes that ask for more go under `triggerFor`, all others under `mitigatedBy`.
    pub fn asks_for_more(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "AdditionalDemographicsRequested"
                | "DemographicsQueryNotAllowed"
                | "EHICDataRequested"
                | "PatientAuthenticationRequired"
        ) || self.reason.ends_with("Requested")
            || !self.attributes.is_empty()
    }
}

impl PatientAnswer {
    /// A refusal.
    pub fn refused(reason: &str, system: &str, detail: &str, text: &str) -> Self {
        Self::Refused(Refusal {
            reason: reason.into(),
            system: system.into(),
            detail: detail.into(),
            text: text.into(),
            attributes: Vec::new(),
        })
    }
}
