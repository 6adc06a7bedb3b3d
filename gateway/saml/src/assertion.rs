//! Typed assertions, read from the bytes that were digested and from nothing else.

use jiff::Timestamp;
use ncp_tls::Country;
use ncp_xml::{Element, Limits};

use crate::AssertionError as E;
use crate::content::{self, Kinds, OF_HCP, OF_NOK, OF_TRC};
use crate::issue::{Code, Purpose};
use crate::names::*;
use crate::trust::SignerIdentity;

/// The audience that issuers of the field write.
pub const AUDIENCE: &str = "urn:ehdsi:assertions.audience:x-border";
/// Granted to clocks, seconds.
pub(crate) const SKEW_S: i64 = 60;
pub(crate) const HCP_LIFE_S: i64 = 4 * 3600;
const TRC_LIFE_S: i64 = 2 * 3600;
/// Longest name of an issuer or a subject, bytes.
const LONGEST_NAME: usize = 1024;
/// Methods by which who asks may be confirmed. The holder of a key is not asked to prove that she has it, so that nothing
/// is confirmed by it (SAML profiles 3.1).
pub(crate) const OF_USERS: &[&str] = &[SENDER_VOUCHES, BEARER];
const OF_RELATIONS: &[&str] = &[SENDER_VOUCHES];

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

/// What all kinds have.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) id: String,
    pub(crate) issuer: String,
    pub(crate) subject: Subject,
    pub(crate) issued: Timestamp,
    pub(crate) not_on_or_after: Timestamp,
    pub(crate) class: String,
    pub(crate) authn_instant: Timestamp,
    pub(crate) one_time: bool,
}

/// A NameID: the name is one within its qualifiers (SAML core 2.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The name.
    pub name: String,
    /// NameQualifier and SPNameQualifier.
    pub qualifiers: [Option<String>; 2],
    /// SPProvidedID.
    pub alias: Option<String>,
}

impl Subject {
    /// Whether both name the same: the alias is what a service calls it.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.qualifiers == other.qualifiers
    }
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
    pub(crate) subject: Subject,
    /// IssueInstant.
    pub issued: Timestamp,
    /// End of life.
    pub not_on_or_after: Timestamp,
    /// It serves one message (SAML core 2.5.1.5): the replay set keeps it.
    pub one_time: bool,
    /// AuthnContextClassRef.
    pub authn_class: String,
    /// When the professional logged in.
    pub authn_instant: Timestamp,
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
    /// `resource-id`: the patient whose records are asked for, CX, where it says one.
    pub patient: Option<String>,
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
    pub(crate) subject: Subject,
    /// IssueInstant.
    pub issued: Timestamp,
    /// End of life.
    pub not_on_or_after: Timestamp,
    /// It serves one message (SAML core 2.5.1.5): the replay set keeps it.
    pub one_time: bool,
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
        let profile = Profile { qualifier: HCP, issuer: "urn:idp:", of: OF_HCP, life: HCP_LIFE_S, methods: OF_USERS };
        let common = profile.read(&root, country, now, audiences)?;
        let attributes = Attributes::of(&root);
        let role = attributes.coded(ROLE, "Role").ok_or(E::Content("role"))?;
        let purpose = attributes.purpose()?.ok_or(E::Content("purpose"))?;
        let facility_type = attributes.text(FACILITY_TYPE).unwrap_or_default();
        let known = ["hospital", "resident physician", "pharmacy", "other"];
        if !known.contains(&facility_type.to_lowercase().as_str()) {
            return Err(E::Content("facility type"));
        }
        Ok(Self {
            permissions: attributes.permissions().unwrap_or_default(),
            subject_name: attributes.text(SUBJECT_ID).ok_or(E::Content("subject-id"))?,
            locality: attributes.text(LOCALITY).ok_or(E::Content("locality"))?,
            organisation: attributes.text(ORGANIZATION),
            organisation_id: attributes.text(ORGANIZATION_ID),
            home_community_id: attributes.text(HOME),
            patient: attributes.text(RESOURCE_ID),
            id: common.id,
            issuer: common.issuer,
            name_id: common.subject.name.clone(),
            alias: common.subject.alias.clone(),
            subject: common.subject,
            issued: common.issued,
            not_on_or_after: common.not_on_or_after,
            one_time: common.one_time,
            strongly_authenticated: is_strong(&common.class),
            authn_class: common.class,
            authn_instant: common.authn_instant,
            role,
            facility_type,
            purpose,
        })
    }
}

impl TrcAssertion {
    pub(crate) fn read(bytes: &[u8], country: Country, now: Timestamp, audiences: &[String]) -> Result<Self, E> {
        let root = root(bytes)?;
        let profile = Profile::of_relation(TRC, OF_TRC);
        let common = profile.read(&root, country, now, audiences)?;
        if common.class != PREVIOUS_SESSION {
            return Err(E::Content("authn context"));
        }
        let hcp_id = hcp_reference(&root)?;
        let attributes = Attributes::of(&root);
        let patient = attributes.text(SUBJECT_ID).ok_or(E::Content("patient"))?;
        Ok(Self {
            hcp_id,
            patient,
            purpose: attributes.purpose()?,
            organisation_id: attributes.text(ORGANIZATION_ID),
            id: common.id,
            issuer: common.issuer,
            name_id: common.subject.name.clone(),
            subject: common.subject,
            issued: common.issued,
            not_on_or_after: common.not_on_or_after,
            one_time: common.one_time,
        })
    }
}

/// Next-of-kin assertion: who asks for the patient.
#[derive(Debug, Clone)]
pub struct NextOfKinAssertion {
    /// ID.
    pub id: String,
    /// NameID, as a rule that of the HCP assertion.
    pub name_id: String,
    pub(crate) subject: Subject,
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
        let common = Profile::of_relation(NOK, OF_NOK).read(&root, country, now, audiences)?;
        let hcp_id = hcp_reference(&root)?;
        let attributes = Attributes::of(&root);
        let of = |name: &str| attributes.text(name);
        Ok(Self {
            hcp_id,
            kin_id: of(NOK_ID).ok_or(E::Content("next of kin"))?,
            family_name: of(NOK_FAMILY),
            first_name: of(NOK_FIRST),
            birth_date: of(NOK_BIRTH),
            id: common.id,
            name_id: common.subject.name.clone(),
            subject: common.subject,
        })
    }
}

/// Whether a class of login is of the accepted two-factor list.
pub fn is_strong(class: &str) -> bool {
    class.strip_prefix(AC_CLASSES).is_some_and(|class| STRONG.contains(&class))
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

/// What is asked of a kind of the eHDSI profile.
struct Profile {
    /// `Issuer/@NameQualifier`.
    qualifier: &'static str,
    /// Of the Issuer text, before the country.
    issuer: &'static str,
    of: Kinds,
    life: i64,
    methods: &'static [&'static str],
}

impl Profile {
    /// A kind that confirms a relation of the professional.
    fn of_relation(qualifier: &'static str, of: Kinds) -> Self {
        Self { qualifier, issuer: "urn:initgw:", of, life: TRC_LIFE_S, methods: OF_RELATIONS }
    }

    fn read(&self, root: &Element, country: Country, now: Timestamp, audiences: &[String]) -> Result<Common, E> {
        if root.child(SAML, "Issuer").and_then(|i| i.get("NameQualifier")) != Some(self.qualifier) {
            return Err(E::Structure("assertion.kind"));
        }
        let common = common(root, self.of, now, self.life, self.methods, &ours(audiences))?;
        // The country stands between prefix and ":countryB"; it is that of the signer, not read by search.
        let named = common.issuer.strip_prefix(self.issuer).and_then(|rest| rest.strip_suffix(":countryB"));
        let named = named.and_then(|c| Country::parse(&c.to_ascii_uppercase()).ok());
        let issuer_country = named.ok_or(E::Content("issuer"))?;
        if issuer_country != country {
            return Err(E::Trust("issuer text names another country than the signer's certificate".to_owned()));
        }
        Ok(common)
    }
}

/// Whether an audience is ours: one answer for whoever reads assertions.
pub(crate) fn ours(audiences: &[String]) -> impl Fn(&str) -> bool {
    move |audience| audience == AUDIENCE || audiences.iter().any(|a| a == audience)
}

/// What is read of every kind. The closed content first: whatever is read afterwards stands there once.
pub(crate) fn common(
    root: &Element,
    of: Kinds,
    now: Timestamp,
    life: i64,
    methods: &[&str],
    ours: &impl Fn(&str) -> bool,
) -> Result<Common, E> {
    if root.get("Version") != Some("2.0") {
        return Err(E::Content("version"));
    }
    content::check(root, of)?;
    let issued = instant(root.get("IssueInstant"))?;
    if issued.as_second() > now.as_second() + SKEW_S {
        return Err(E::Time("not yet valid"));
    }
    let issuer = root.child(SAML, "Issuer").map(Element::trimmed).unwrap_or_default();
    if issuer.is_empty() || issuer.len() > LONGEST_NAME {
        return Err(E::Content("issuer"));
    }
    let subject = root.child(SAML, "Subject").ok_or(E::Content("subject"))?;
    let name_id = subject.child(SAML, "NameID").ok_or(E::Content("name id"))?;
    let name = name_id.trimmed();
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(E::Content("name id"));
    }
    let (not_on_or_after, one_time) = conditions(root, now, life, ours)?;
    confirmed(subject, methods, now, ours)?;
    let statement = root.child(SAML, "AuthnStatement").ok_or(E::Content("authn statement"))?;
    let authn_instant = instant(statement.get("AuthnInstant"))?;
    if authn_instant.as_second() > now.as_second() + SKEW_S {
        return Err(E::Time("login is not yet"));
    }
    if ended(statement.get("SessionNotOnOrAfter"), now)? {
        return Err(E::Time("session ended"));
    }
    let class = statement.path(SAML, &["AuthnContext", "AuthnContextClassRef"]).map(Element::trimmed);
    let text = |name: &str| name_id.get(name).map(ToOwned::to_owned);
    Ok(Common {
        id: root.get("ID").ok_or(E::Structure("id.missing"))?.to_owned(),
        issuer,
        subject: Subject {
            name,
            qualifiers: [text("NameQualifier"), text("SPNameQualifier")],
            alias: text("SPProvidedID"),
        },
        issued,
        not_on_or_after,
        class: class.filter(|c| !c.is_empty()).ok_or(E::Content("authn context"))?,
        authn_instant,
        one_time,
    })
}

/// Any one confirmation that is satisfied is enough (SAML core 2.4.1.1); none is a refusal for what the first one lacks.
fn confirmed(subject: &Element, methods: &[&str], now: Timestamp, ours: &impl Fn(&str) -> bool) -> Result<(), E> {
    let mut lacking = None;
    let mut satisfied = false;
    for confirmation in subject.all(SAML, "SubjectConfirmation") {
        match lacks(confirmation, methods, now, ours)? {
            None => satisfied = true,
            Some(what) => lacking = lacking.or(Some(what)),
        }
    }
    if satisfied { Ok(()) } else { Err(lacking.unwrap_or(E::Content("subject confirmation"))) }
}

/// What a confirmation lacks. A time that cannot be read is no confirmation that is merely not satisfied.
fn lacks(
    confirmation: &Element,
    methods: &[&str],
    now: Timestamp,
    ours: &impl Fn(&str) -> bool,
) -> Result<Option<E>, E> {
    let unknown = Some(E::Content("subject confirmation"));
    let known = confirmation.get("Method").is_some_and(|method| methods.contains(&method));
    let of_somebody = confirmation.child(SAML, "NameID").is_some();
    let Some(data) = confirmation.child(SAML, "SubjectConfirmationData") else {
        return Ok(if known && !of_somebody { None } else { unknown });
    };
    let (early, late) = (begins(data.get("NotBefore"), now)?, ended(data.get("NotOnOrAfter"), now)?);
    // Who presents it, and in answer to what, is not ours to see; a type says that more is in it.
    let more = data.children().iter().any(|node| !matches!(node, ncp_xml::Node::Text(text) if text.trim().is_empty()));
    let limited = data.attributes().iter().any(|a| !matches!(a.local(), "NotBefore" | "NotOnOrAfter" | "Recipient"));
    if !known || of_somebody || more || limited {
        return Ok(unknown);
    }
    // Issuers of the field write no Recipient; one that is written must be us.
    let recipient = data.get("Recipient");
    if recipient.is_some_and(|r| !ours(r)) {
        return Ok(Some(E::Audience));
    }
    Ok(if early || late { Some(E::Time("confirmation is over or not yet")) } else { None })
}

/// Whether an optional end has passed.
fn ended(text: Option<&str>, now: Timestamp) -> Result<bool, E> {
    let end = text.map(|text| instant(Some(text))).transpose()?;
    Ok(end.is_some_and(|end| end.as_second() <= now.as_second() - SKEW_S))
}

/// Whether an optional beginning is still to come.
fn begins(text: Option<&str>, now: Timestamp) -> Result<bool, E> {
    let begin = text.map(|text| instant(Some(text))).transpose()?;
    Ok(begin.is_some_and(|begin| begin.as_second() > now.as_second() + SKEW_S))
}

/// Checks the times and, where audiences are named, that we are among them; the end of life, and whether it serves once.
fn conditions(root: &Element, now: Timestamp, life: i64, ours: &impl Fn(&str) -> bool) -> Result<(Timestamp, bool), E> {
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
    Ok((not_on_or_after, conditions.child(SAML, "OneTimeUse").is_some()))
}

/// An instant as xs:dateTime with a zone; other forms that a parser of dates may know are none.
pub(crate) fn instant(text: Option<&str>) -> Result<Timestamp, E> {
    let form = |t: &&str| {
        let digits = |part: &str, separator: char, lengths: &[usize]| {
            let parts: Vec<&str> = part.split(separator).collect();
            let fits =
                |(part, length): (&&str, &usize)| part.len() == *length && part.bytes().all(|b| b.is_ascii_digit());
            parts.len() == lengths.len() && parts.iter().zip(lengths).all(fits)
        };
        let Some((date, rest)) = t.split_once('T') else { return false };
        let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
        let (time, zone) = rest.split_at(zone);
        let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
        digits(date, '-', &[4, 2, 2])
            && digits(whole, ':', &[2, 2, 2])
            && !fraction.is_empty()
            && fraction.bytes().all(|b| b.is_ascii_digit())
            && (zone == "Z" || zone.get(1..).is_some_and(|z| digits(z, ':', &[2, 2])))
    };
    text.filter(form).and_then(|t| t.parse().ok()).ok_or(E::Time("instant"))
}

/// Attributes of all statements. How often a name stands and in which form was checked with the closed content.
pub(crate) struct Attributes<'a>(Vec<(&'a str, &'a Element)>);

impl<'a> Attributes<'a> {
    pub(crate) fn of(root: &'a Element) -> Self {
        let attributes = root.all(SAML, "AttributeStatement").flat_map(|s| s.all(SAML, "Attribute"));
        let values = |attribute: &'a Element| {
            let name = attribute.get("Name").unwrap_or_default();
            attribute.all(SAML, "AttributeValue").map(move |value| (name, value))
        };
        Self(attributes.flat_map(values).collect())
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a Element> {
        self.0.iter().filter(move |(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// Last components of the permissions; none where the attribute is missing.
    pub(crate) fn permissions(&self) -> Option<Vec<String>> {
        self.values(PERMISSION).next()?;
        let prefix = format!("{PERMISSION}:");
        let named = self.values(PERMISSION).map(Element::trimmed);
        Some(named.filter_map(|text| text.strip_prefix(&prefix).map(ToOwned::to_owned)).collect())
    }

    /// The value, where there is one and it says something.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.values(name).next().map(Element::trimmed).filter(|text| !text.is_empty())
    }

    pub(crate) fn coded(&self, name: &str, element: &str) -> Option<Code> {
        let coded = self.values(name).next()?.child(HL7, element)?;
        let text = |name: &str| coded.get(name).unwrap_or_default().to_owned();
        Some(Code {
            code: text("code"),
            system: text("codeSystem"),
            system_name: text("codeSystemName"),
            display: text("displayName"),
        })
    }

    fn purpose(&self) -> Result<Option<Purpose>, E> {
        match self.coded(PURPOSE, "PurposeOfUse") {
            None => Ok(None),
            Some(code) => Purpose::parse(&code.code).map(Some).ok_or(E::Content("purpose")),
        }
    }
}
