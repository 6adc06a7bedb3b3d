//! Typed assertions, read from the bytes that were digested and from nothing else.

use jiff::Timestamp;
use ncp_tls::Country;
use ncp_xml::{Element, Limits};

use crate::AssertionError as E;
use crate::issue::{Code, Purpose};
use crate::names::*;
use crate::worker::SignerIdentity;

/// The audience that issuers of the field write.
pub const AUDIENCE: &str = "urn:ehdsi:assertions.audience:x-border";
/// Granted to clocks, seconds.
const SKEW_S: i64 = 60;
pub(crate) const HCP_LIFE_S: i64 = 4 * 3600;
const TRC_LIFE_S: i64 = 2 * 3600;

/// A value of a verified assertion: only the verifier makes one.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    value: T,
    signer: SignerIdentity,
    digest: String,
}

impl<T> Verified<T> {
    pub(crate) fn new(value: T, signer: SignerIdentity, digest: String) -> Self {
        Self { value, signer, digest }
    }

    /// Who signed.
    pub fn signer(&self) -> &SignerIdentity {
        &self.signer
    }

    /// SHA-256 of the digested bytes, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// What both kinds have.
#[derive(Debug, Clone)]
struct Common {
    id: String,
    issuer: String,
    name_id: String,
    alias: Option<String>,
    issued: Timestamp,
    not_on_or_after: Timestamp,
    class: String,
}

/// HCP identity assertion.
#[derive(Debug, Clone)]
pub struct HcpAssertion {
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
    /// Whether the login class is of the accepted two-factor list.
    pub strongly_authenticated: bool,
    /// Name of the professional.
    pub subject_name: String,
    /// Role.
    pub role: Code,
    /// Organisation.
    pub organisation: Option<String>,
    /// Its identifier.
    pub organisation_id: Option<String>,
    /// Facility type.
    pub facility_type: String,
    /// Purpose.
    pub purpose: Purpose,
    /// Point of care.
    pub locality: String,
    /// homeCommunityId, as written.
    pub home_community_id: Option<String>,
    /// Last components of the permissions.
    pub permissions: Vec<String>,
}

/// TRC assertion.
#[derive(Debug, Clone)]
pub struct TrcAssertion {
    /// ID.
    pub id: String,
    /// Issuer text.
    pub issuer: String,
    /// NameID.
    pub name_id: String,
    /// IssueInstant.
    pub issued: Timestamp,
    /// End of life.
    pub not_on_or_after: Timestamp,
    /// ID of the HCP assertion it builds on.
    pub hcp_id: String,
    /// The patient, CX as written.
    pub patient: String,
    /// Purpose, where it says one.
    pub purpose: Option<Purpose>,
    /// Identifier of the organisation, where it says one.
    pub organisation_id: Option<String>,
}

impl HcpAssertion {
    pub(crate) fn read(bytes: &[u8], country: Country, now: Timestamp, audiences: &[String]) -> Result<Self, E> {
        let root = root(bytes)?;
        let common = common(&root, HCP, "urn:idp:", country, now, HCP_LIFE_S, audiences)?;
        let strongly_authenticated = common.class.strip_prefix(AC_CLASSES).is_some_and(|class| STRONG.contains(&class));
        let attributes = Attributes::of(&root)?;
        let role = attributes.coded(ROLE, "Role")?.ok_or(E::Content("role"))?;
        let purpose = attributes.purpose()?.ok_or(E::Content("purpose"))?;
        let facility_type = attributes.text(FACILITY_TYPE)?.unwrap_or_default();
        let known = ["hospital", "resident physician", "pharmacy", "other"];
        if !known.contains(&facility_type.to_lowercase().as_str()) {
            return Err(E::Content("facility type"));
        }
        let prefix = format!("{PERMISSION}:");
        let permissions = attributes.texts(PERMISSION).filter_map(|p| p.strip_prefix(&prefix).map(ToOwned::to_owned));
        Ok(Self {
            permissions: permissions.collect(),
            subject_name: attributes.text(SUBJECT_ID)?.filter(|s| !s.is_empty()).ok_or(E::Content("subject-id"))?,
            locality: attributes.text(LOCALITY)?.filter(|s| !s.is_empty()).ok_or(E::Content("locality"))?,
            organisation: attributes.text(ORGANIZATION)?.filter(|s| !s.is_empty()),
            organisation_id: attributes.text(ORGANIZATION_ID)?.filter(|s| !s.is_empty()),
            home_community_id: attributes.text(HOME)?.filter(|s| !s.is_empty()),
            id: common.id,
            issuer: common.issuer,
            name_id: common.name_id,
            alias: common.alias,
            issued: common.issued,
            not_on_or_after: common.not_on_or_after,
            strongly_authenticated,
            role,
            facility_type,
            purpose,
        })
    }
}

impl TrcAssertion {
    pub(crate) fn read(bytes: &[u8], country: Country, now: Timestamp, audiences: &[String]) -> Result<Self, E> {
        let root = root(bytes)?;
        let common = common(&root, TRC, "urn:initgw:", country, now, TRC_LIFE_S, audiences)?;
        if common.class != PREVIOUS_SESSION {
            return Err(E::Content("authn context"));
        }
        let hcp_id = hcp_reference(&root)?;
        let attributes = Attributes::of(&root)?;
        let patient = attributes.text(SUBJECT_ID)?.filter(|s| !s.is_empty()).ok_or(E::Content("patient"))?;
        Ok(Self {
            hcp_id,
            patient,
            purpose: attributes.purpose()?,
            organisation_id: attributes.text(ORGANIZATION_ID)?.filter(|s| !s.is_empty()),
            id: common.id,
            issuer: common.issuer,
            name_id: common.name_id,
            issued: common.issued,
            not_on_or_after: common.not_on_or_after,
        })
    }
}

/// Next-of-kin assertion (`openncp-wire.md` 2.3): who asks for the patient.
#[derive(Debug, Clone)]
pub struct NextOfKinAssertion {
    /// ID.
    pub id: String,
    /// NameID, that of the HCP assertion.
    pub name_id: String,
    /// ID of the HCP assertion it builds on.
    pub hcp_id: String,
    /// Identifier of the next of kin.
    pub kin_id: String,
    /// Family name.
    pub family_name: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Birth date as written.
    pub birth_date: Option<String>,
}

impl NextOfKinAssertion {
    pub(crate) fn read(bytes: &[u8], country: Country, now: Timestamp, audiences: &[String]) -> Result<Self, E> {
        let root = root(bytes)?;
        let common = common(&root, NOK, "urn:initgw:", country, now, TRC_LIFE_S, audiences)?;
        let hcp_id = hcp_reference(&root)?;
        let attributes = Attributes::of(&root)?;
        let of = |name: &'static str| Ok::<_, E>(attributes.text(name)?.filter(|s| !s.is_empty()));
        Ok(Self {
            hcp_id,
            kin_id: of(NOK_ID)?.ok_or(E::Content("next of kin"))?,
            family_name: of(NOK_FAMILY)?,
            first_name: of(NOK_FIRST)?,
            birth_date: of(NOK_BIRTH)?,
            id: common.id,
            name_id: common.name_id,
        })
    }
}

/// The one AssertionIDRef of the Advice.
fn hcp_reference(root: &Element) -> Result<String, E> {
    let advice = root.child(SAML, "Advice").ok_or(E::TrcBinding("no advice"))?;
    advice.child(SAML, "AssertionIDRef").map(Element::trimmed).ok_or(E::TrcBinding("no reference"))
}

pub(crate) fn root(bytes: &[u8]) -> Result<Element, E> {
    let root = Element::parse(bytes, &Limits::REQUEST).map_err(|_| E::Structure("digested bytes"))?;
    if root.is(SAML, "Assertion") { Ok(root) } else { Err(E::Structure("digested bytes")) }
}

#[allow(clippy::too_many_arguments)]
fn common(
    root: &Element,
    qualifier: &str,
    issuer_prefix: &str,
    country: Country,
    now: Timestamp,
    life: i64,
    audiences: &[String],
) -> Result<Common, E> {
    if root.get("Version") != Some("2.0") {
        return Err(E::Content("version"));
    }
    let issued = instant(root.get("IssueInstant"))?;
    if issued.as_second() > now.as_second() + SKEW_S {
        return Err(E::Time("not yet valid"));
    }
    let issuer = root.child(SAML, "Issuer").ok_or(E::Content("issuer"))?;
    if issuer.get("NameQualifier") != Some(qualifier) {
        return Err(E::Structure("assertion.kind"));
    }
    // The country stands between prefix and ":countryB"; it is that of the signer, not read by search.
    let text = issuer.trimmed();
    let named = text.strip_prefix(issuer_prefix).and_then(|rest| rest.strip_suffix(":countryB"));
    let issuer_country = named.and_then(|c| Country::parse(c).ok()).ok_or(E::Content("issuer"))?;
    if issuer_country != country {
        return Err(E::Trust("issuer text names another country than the signer's certificate".to_owned()));
    }
    let subject = root.child(SAML, "Subject").ok_or(E::Content("subject"))?;
    let name_id = subject.child(SAML, "NameID").ok_or(E::Content("name id"))?;
    if name_id.get("Format").is_none() || name_id.trimmed().is_empty() || name_id.trimmed().len() > 1024 {
        return Err(E::Content("name id"));
    }
    let confirmation = subject.child(SAML, "SubjectConfirmation").ok_or(E::Content("subject confirmation"))?;
    match confirmation.get("Method") {
        Some(SENDER_VOUCHES) => {}
        Some(_) if qualifier == HCP => {}
        _ => return Err(E::Content("subject confirmation")),
    }
    // Issuers of the field write no Recipient; one that is written must be us.
    let recipient = confirmation.child(SAML, "SubjectConfirmationData").and_then(|data| data.get("Recipient"));
    if recipient.is_some_and(|r| r != AUDIENCE && !audiences.iter().any(|a| a == r)) {
        return Err(E::Audience);
    }
    let not_on_or_after = conditions(root, now, life, |audience| audience == AUDIENCE || audiences.contains(audience))?;
    let statement = root.child(SAML, "AuthnStatement").ok_or(E::Content("authn statement"))?;
    // Two logins in one assertion leave open which of them is meant.
    if root.all(SAML, "AuthnStatement").nth(1).is_some() || statement.all(SAML, "AuthnContext").nth(1).is_some() {
        return Err(E::Content("authn statement twice"));
    }
    instant(statement.get("AuthnInstant"))?;
    let class = statement.path(SAML, &["AuthnContext", "AuthnContextClassRef"]).ok_or(E::Content("authn context"))?;
    Ok(Common {
        id: root.get("ID").ok_or(E::Structure("id.missing"))?.to_owned(),
        issuer: text,
        name_id: name_id.trimmed(),
        alias: name_id.get("SPProvidedID").map(ToOwned::to_owned),
        issued,
        not_on_or_after,
        class: class.trimmed(),
    })
}

/// Checks the times and, where audiences are named, that we are among them; the end of life.
pub(crate) fn conditions(
    root: &Element,
    now: Timestamp,
    life: i64,
    ours: impl Fn(&String) -> bool,
) -> Result<Timestamp, E> {
    let conditions = root.child(SAML, "Conditions").ok_or(E::Time("no conditions"))?;
    let not_before = instant(conditions.get("NotBefore"))?;
    let not_on_or_after = instant(conditions.get("NotOnOrAfter"))?;
    let (from, to, now) = (not_before.as_second(), not_on_or_after.as_second(), now.as_second());
    if from >= to {
        return Err(E::Time("ends before it begins"));
    }
    if to - from > life {
        return Err(E::Time("lives too long"));
    }
    if from > now + SKEW_S {
        return Err(E::Time("not yet valid"));
    }
    if to <= now - SKEW_S {
        return Err(E::Time("expired"));
    }
    for restriction in conditions.all(SAML, "AudienceRestriction") {
        let mut named = restriction.all(SAML, "Audience").map(Element::trimmed);
        if !named.any(|audience| ours(&audience)) {
            return Err(E::Audience);
        }
    }
    Ok(not_on_or_after)
}

pub(crate) fn instant(text: Option<&str>) -> Result<Timestamp, E> {
    text.and_then(|t| t.parse().ok()).ok_or(E::Time("instant"))
}

/// Attributes of all statements; values may repeat inside one Attribute and over several.
pub(crate) struct Attributes<'a>(Vec<(&'a str, &'a Element)>);

impl<'a> Attributes<'a> {
    pub(crate) fn of(root: &'a Element) -> Result<Self, E> {
        let statements: Vec<&Element> = root.all(SAML, "AttributeStatement").collect();
        if statements.is_empty() {
            return Err(E::Content("attribute statement"));
        }
        let mut out = Vec::new();
        for attribute in statements.into_iter().flat_map(|s| s.all(SAML, "Attribute")) {
            let name = attribute.get("Name").ok_or(E::Content("attribute name"))?;
            out.extend(attribute.all(SAML, "AttributeValue").map(|value| (name, value)));
        }
        Ok(Self(out))
    }

    fn texts(&self, name: &'a str) -> impl Iterator<Item = String> {
        self.0.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.trimmed())
    }

    /// The one value; two that differ are refused.
    pub(crate) fn text(&self, name: &'a str) -> Result<Option<String>, E> {
        let mut values = self.texts(name);
        let first = values.next();
        if values.any(|other| Some(&other) != first.as_ref()) { Err(E::Content("attribute twice")) } else { Ok(first) }
    }

    pub(crate) fn coded(&self, name: &str, element: &str) -> Result<Option<Code>, E> {
        let mut found = self.0.iter().filter(|(n, _)| *n == name);
        let Some((_, value)) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(E::Content("attribute twice"));
        }
        let coded = value.child(HL7, element).ok_or(E::Content("coded attribute"))?;
        let text = |name: &str| coded.get(name).unwrap_or_default().to_owned();
        Ok(Some(Code {
            code: text("code"),
            system: text("codeSystem"),
            system_name: text("codeSystemName"),
            display: text("displayName"),
        }))
    }

    fn purpose(&self) -> Result<Option<Purpose>, E> {
        match self.coded(PURPOSE, "PurposeOfUse")? {
            None => Ok(None),
            Some(code) => Purpose::parse(&code.code).map(Some).ok_or(E::Content("purpose")),
        }
    }
}
