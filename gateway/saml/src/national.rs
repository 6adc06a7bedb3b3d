//! Identity assertions of national issuers: Provide X-User Assertion [ITI-40] (ITI TF-2: 3.40.4.1.2).

use jiff::Timestamp;
use ncp_xml::Element;

use crate::AssertionError as E;
use crate::assertion::{Attributes, HCP_LIFE_S, conditions, instant, root};
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
    /// IssueInstant.
    pub issued: Timestamp,
    /// End of life.
    pub not_on_or_after: Timestamp,
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
}

impl XuaAssertion {
    /// Exactly one AuthnStatement with one class, one role and one purpose; an audience is required and is ours.
    pub(crate) fn read(bytes: &[u8], now: Timestamp, audiences: &[String]) -> Result<Self, E> {
        let root = root(bytes)?;
        if root.get("Version") != Some("2.0") {
            return Err(E::Content("version"));
        }
        let issued = instant(root.get("IssueInstant"))?;
        let issuer = root.child(SAML, "Issuer").map(Element::trimmed).filter(|i| !i.is_empty() && i.len() <= 1024);
        let subject = root.child(SAML, "Subject").ok_or(E::Content("subject"))?;
        let name_id = subject.child(SAML, "NameID").ok_or(E::Content("name id"))?;
        let name = name_id.trimmed();
        if name.is_empty() || name.len() > 1024 {
            return Err(E::Content("name id"));
        }
        if subject.child(SAML, "SubjectConfirmation").and_then(|c| c.get("Method")).is_none() {
            return Err(E::Content("subject confirmation"));
        }
        let not_on_or_after = conditions(&root, now, HCP_LIFE_S, |audience| audiences.contains(audience))?;
        if root.path(SAML, &["Conditions", "AudienceRestriction"]).is_none() {
            return Err(E::Audience);
        }
        let (authn_class, authn_instant) = authentication(&root)?;
        let attributes = Attributes::of(&root)?;
        let text = |name| attributes.text(name).map(|t| t.filter(|t| !t.is_empty() && t.len() <= 512));
        let purpose = attributes.coded(PURPOSE, "PurposeOfUse")?.ok_or(E::Content("purpose"))?;
        Ok(Self {
            issuer: issuer.ok_or(E::Content("issuer"))?,
            alias: name_id.get("SPProvidedID").map(ToOwned::to_owned),
            subject_name: text(SUBJECT_ID)?.ok_or(E::Content("subject-id"))?,
            role: attributes.coded(ROLE, "Role")?.ok_or(E::Content("role"))?,
            organisation: text(ORGANIZATION)?,
            organisation_id: text(ORGANIZATION_ID)?,
            locality: text(LOCALITY)?,
            npi: text(NPI)?,
            purpose: purpose_of(&purpose.code).ok_or(E::Content("purpose"))?,
            patient: text(RESOURCE_ID)?,
            id: root.get("ID").ok_or(E::Structure("id.missing"))?.to_owned(),
            name_id: name,
            issued,
            not_on_or_after,
            authn_class,
            authn_instant,
        })
    }
}

fn authentication(root: &Element) -> Result<(String, Timestamp), E> {
    fn one<'a>(parent: &'a Element, local: &'static str) -> Option<&'a Element> {
        let mut found = parent.all(SAML, local);
        let first = found.next();
        if found.next().is_some() { None } else { first }
    }
    let statement = one(root, "AuthnStatement").ok_or(E::Content("authn statement"))?;
    let context = one(statement, "AuthnContext").ok_or(E::Content("authn context"))?;
    let class = one(context, "AuthnContextClassRef").map(Element::trimmed).filter(|c| !c.is_empty());
    Ok((class.ok_or(E::Content("authn context"))?, instant(statement.get("AuthnInstant"))?))
}

/// Codes of HL7 v3 ActReason and of XSPA; only treatment crosses the border.
fn purpose_of(code: &str) -> Option<Purpose> {
    match code {
        "TREAT" => Some(Purpose::Treatment),
        "ETREAT" | "BTG" => Some(Purpose::Emergency),
        other => Purpose::parse(other),
    }
}
