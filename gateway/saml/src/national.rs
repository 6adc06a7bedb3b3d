//! Identity assertions of national issuers: Provide X-User Assertion [ITI-40] (ITI TF-2: 3.40.4.1.2).

use jiff::Timestamp;

use crate::AssertionError as E;
use crate::assertion::{Attributes, HCP_LIFE_S, OF_USERS, Subject, common, ours, root};
use crate::content::OF_XUA;
use crate::issue::{Code, Purpose};
use crate::names::*;

/// The user of a national consumer, read from the digested bytes.
#[derive(Debug, Clone)]
pub struct XuaAssertion {
    /// ID.
    pub id: String,
    /// Issuer text.
    pub issuer: String,
    /// NameID.
    pub name_id: String,
    /// SPProvidedID.
    pub alias: Option<String>,
    pub(crate) subject: Subject,
    /// IssueInstant.
    pub issued: Timestamp,
    /// End of life.
    pub not_on_or_after: Timestamp,
    /// It serves one message (SAML core 2.5.1.5): the replay set keeps it.
    pub one_time: bool,
    /// AuthnContextClassRef.
    pub authn_class: String,
    /// When the user logged in.
    pub authn_instant: Timestamp,
    /// Name of the user.
    pub subject_name: String,
    /// Role.
    pub role: Code,
    /// Organisation.
    pub organisation: Option<String>,
    /// Its identifier.
    pub organisation_id: Option<String>,
    /// Point of care.
    pub locality: Option<String>,
    /// Identifier of the professional.
    pub npi: Option<String>,
    /// Purpose.
    pub purpose: Purpose,
    /// `resource-id`: the patient whose records are asked for, CX.
    pub patient: Option<String>,
    /// Last components of the permissions, where the assertion names some: the user has no others.
    pub permissions: Option<Vec<String>>,
}

/// Longest text of an attribute, bytes.
const LONGEST: usize = 512;

impl XuaAssertion {
    /// The closed content requires an audience, which must be ours; the one of the cross-border profile is, as for the
    /// identity assertions from which treatments are confirmed.
    pub(crate) fn read(bytes: &[u8], now: Timestamp, audiences: &[String]) -> Result<Self, E> {
        let root = root(bytes)?;
        let common = common(&root, OF_XUA, now, HCP_LIFE_S, OF_USERS, &ours(audiences))?;
        let attributes = Attributes::of(&root);
        let text = |name| match attributes.text(name) {
            Some(text) if text.len() > LONGEST => Err(E::Content("attribute too long")),
            other => Ok(other),
        };
        let purpose = attributes.coded(PURPOSE, "PurposeOfUse").ok_or(E::Content("purpose"))?;
        Ok(Self {
            alias: common.subject.alias.clone(),
            subject_name: text(SUBJECT_ID)?.ok_or(E::Content("subject-id"))?,
            role: attributes.coded(ROLE, "Role").ok_or(E::Content("role"))?,
            organisation: text(ORGANIZATION)?,
            organisation_id: text(ORGANIZATION_ID)?,
            locality: text(LOCALITY)?,
            npi: text(NPI)?,
            purpose: purpose_of(&purpose.code).ok_or(E::Content("purpose"))?,
            patient: text(RESOURCE_ID)?,
            permissions: attributes.permissions(),
            id: common.id,
            issuer: common.issuer,
            name_id: common.subject.name.clone(),
            subject: common.subject,
            issued: common.issued,
            not_on_or_after: common.not_on_or_after,
            one_time: common.one_time,
            authn_class: common.class,
            authn_instant: common.authn_instant,
        })
    }
}

/// Codes of HL7 v3 ActReason and of XSPA; only treatment crosses the border.
fn purpose_of(code: &str) -> Option<Purpose> {
    match code {
        "TREAT" => Some(Purpose::Treatment),
        "ETREAT" | "BTG" => Some(Purpose::Emergency),
        other => Purpose::parse(other),
    }
}
