//! One identity per exchange: what TLS, the assertions and the peer's registration agree on.

use ncp_ihe::{HomeCommunityId, PatientId};
use ncp_tls::Country;

use crate::whole::Holder;

/// The transactions that policy, audit, metrics and spans name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransactionName {
    /// Cross Gateway Patient Discovery.
    Iti55,
    /// Cross Gateway Query.
    Iti38,
    /// Cross Gateway Retrieve.
    Iti39,
    /// Cross Gateway Retrieve Imaging Document Set.
    Rad75,
}

impl TransactionName {
    /// `ITI-55` and so on.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iti55 => "ITI-55",
            Self::Iti38 => "ITI-38",
            Self::Iti39 => "ITI-39",
            Self::Rad75 => "RAD-75",
        }
    }
}

/// Who asks, read from verified bytes only.
///
/// Country is the one on which the TLS certificate, the assertions' signer, the SAML Issuer text and the registration
/// of the peer agree (`responding::security` refuses when they do not).
#[derive(Debug, Clone)]
pub struct Identity {
    /// Country of treatment.
    pub country: Country,
    /// The peer's homeCommunityId as registered.
    pub home_community_id: HomeCommunityId,
    /// Configured name of the peer.
    pub peer_name: String,
    /// ID of the HCP assertion.
    pub hcp_id: String,
    /// ID of the TRC assertion, absent in ITI-55.
    pub trc_id: Option<String>,
    /// The patient the TRC was issued for.
    pub trc_patient: Option<PatientId>,
    /// NameID of the professional.
    pub user: String,
    /// `alias<user@issuer>` of ITI TF-2: 3.40.4.2.
    pub user_name: String,
    /// Display name of the professional.
    pub subject_name: String,
    /// Role code (ISCO, 2.16.840.1.113883.2.9.6.2.7).
    pub role: String,
    /// Display of the role.
    pub role_display: String,
    /// Code system of the role, as written.
    pub role_system: String,
    /// Whether the signer was accepted on revocation data past their time, within the grace: an alert goes on the trail.
    pub revocation_stale: bool,
    /// ID of the next-of-kin assertion, where there is one.
    pub nok_id: Option<String>,
    /// Whether a next-of-kin assertion says that somebody asks for the patient.
    pub next_of_kin: bool,
    /// Organisation of the professional.
    pub organisation: Option<String>,
    /// Its identifier.
    pub organisation_id: Option<String>,
    /// Point of care.
    pub locality: String,
    /// TREATMENT or EMERGENCY: what the TRC says where it is more specific than the login.
    pub purpose: String,
    /// What the HCP assertion says.
    pub login_purpose: String,
    /// HL7 permission codes, last component (`PRD-006`).
    pub permissions: Vec<String>,
    /// Whether the login class is a two-factor one of the accepted list.
    pub strongly_authenticated: bool,
}

impl Identity {
    /// For whom documents are held that the professional asks for.
    pub fn holder(&self) -> Holder {
        Holder::new(format_args!("for {}", self.country), &format!("{} {}", self.country, self.user))
    }

    /// Emergency access stands out in every record.
    pub fn is_emergency(&self) -> bool {
        self.purpose == "EMERGENCY"
    }
}
