//! Assertions as OpenNCP expects them: templates that [`crate::Signer`] signs.

use std::time::Duration;

use jiff::Timestamp;
use ncp_tls::Country;
use ncp_xml::Element;

use crate::assertion::AUDIENCE;
use crate::names::*;

const URI_FORMAT: &str = "urn:oasis:names:tc:SAML:2.0:attrname-format:uri";
pub(crate) const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
pub(crate) const XS: &str = "http://www.w3.org/2001/XMLSchema";

/// A code with its system, as HL7 CE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// Code.
    pub code: String,
    /// OID or UUID of the system.
    pub system: String,
    /// Its name.
    pub system_name: String,
    /// Display.
    pub display: String,
}

/// Purpose of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// TREATMENT
    Treatment,
    /// EMERGENCY
    Emergency,
}

impl Purpose {
    /// The code on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Treatment => "TREATMENT",
            Self::Emergency => "EMERGENCY",
        }
    }

    /// What a treatment relationship makes of the purpose of the login: it may be more specific, never less. `None`: it is
    /// less.
    #[must_use]
    pub fn narrowed(self, by: Option<Self>) -> Option<Self> {
        match (self, by) {
            (purpose, None) => Some(purpose),
            (Self::Emergency, Some(Self::Treatment)) => None,
            (_, Some(purpose)) => Some(purpose),
        }
    }

    /// Reads the code; the code system varies in the field and is not compared.
    pub fn parse(code: &str) -> Option<Self> {
        match code {
            "TREATMENT" => Some(Self::Treatment),
            "EMERGENCY" => Some(Self::Emergency),
            _ => None,
        }
    }
}

/// What an HCP identity assertion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HcpClaims {
    /// Country in the Issuer text; that of the seal.
    pub country: Country,
    /// NameID.
    pub name_id: String,
    /// Name of the professional.
    pub subject_name: String,
    /// ISCO role with its exact display.
    pub role: Code,
    /// Organisation.
    pub organisation: String,
    /// Its identifier, `urn:oid:…` or `urn:hl7ii:…`.
    pub organisation_id: String,
    /// `Hospital` and so on.
    pub facility_type: String,
    /// Purpose.
    pub purpose: Purpose,
    /// Point of care.
    pub locality: String,
    /// Identifier of the professional.
    pub npi: Option<String>,
    /// `urn:oid:…`
    pub home_community_id: String,
    /// Last components, as `PRD-006`.
    pub permissions: Vec<String>,
    /// Full AuthnContextClassRef.
    pub authn_context_class: String,
    /// When the professional logged in.
    pub authn_instant: Timestamp,
}

/// What a TRC assertion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrcClaims {
    /// Country in the Issuer text.
    pub country: Country,
    /// NameID, as in the HCP assertion.
    pub name_id: String,
    /// ID of the HCP assertion.
    pub hcp_id: String,
    /// The patient, CX.
    pub patient: String,
    /// Purpose.
    pub purpose: Purpose,
}

/// What a next-of-kin assertion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextOfKinClaims {
    /// Country in the Issuer text.
    pub country: Country,
    /// NameID, as in the HCP assertion.
    pub name_id: String,
    /// ID of the HCP assertion.
    pub hcp_id: String,
    /// Who asks for the patient.
    pub kin: NextOfKin,
}

/// A next of kin; what is empty is not said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NextOfKin {
    /// Identifier.
    pub id: String,
    /// First name.
    pub first_name: String,
    /// Family name.
    pub family_name: String,
    /// Gender code.
    pub gender: String,
    /// Birth date, `YYYYMMDD`.
    pub birth_date: String,
    /// Street of the address.
    pub street: String,
    /// City.
    pub city: String,
    /// Postal code.
    pub postal_code: String,
    /// Country of the address.
    pub country: String,
}

/// A signed assertion as text that stands for itself. As `Debug` it shows no XML: with it somebody could ask.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedAssertion {
    /// Its ID.
    pub id: String,
    /// The XML; goes verbatim into the Security header.
    pub xml: String,
}

impl std::fmt::Debug for SignedAssertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignedAssertion({} xml[{}])", self.id, self.xml.len())
    }
}

/// An HCP identity assertion, unsigned, with the place of its signature.
pub fn hcp_template(id: &str, claims: &HcpClaims, issued: Timestamp, valid: Duration) -> Element {
    let until = later(issued, valid);
    let issuer = format!("urn:idp:{}:countryB", claims.country);
    let mut attributes = vec![
        text_attribute("HCI Identifier", HOME, &claims.home_community_id),
        text_attribute("XSPA Subject", SUBJECT_ID, &claims.subject_name),
        coded_attribute("XSPA Role", ROLE, coded("Role", &claims.role)),
        text_attribute("XSPA Organization", ORGANIZATION, &claims.organisation),
        text_attribute("XSPA Organization ID", ORGANIZATION_ID, &claims.organisation_id),
        text_attribute("eHealth DSI Healthcare Facility Type", FACILITY_TYPE, &claims.facility_type),
        purpose_attribute(claims.purpose),
        text_attribute("XSPA Locality", LOCALITY, &claims.locality),
    ];
    attributes.extend(claims.npi.as_deref().map(|npi| text_attribute("NPI Identifier", NPI, npi)));
    let mut permissions = attribute("Hl7 Permissions", PERMISSION);
    for permission in &claims.permissions {
        permissions.push(string_value(&format!("{PERMISSION}:{permission}")));
    }
    attributes.push(permissions);
    let subject = (claims.name_id.as_str(), None);
    assertion(
        id,
        (HCP, &issuer),
        issued,
        until,
        subject,
        (&claims.authn_context_class, claims.authn_instant),
        attributes,
    )
}

/// A TRC assertion, unsigned. The same facts give the same assertion.
pub fn trc_template(id: &str, claims: &TrcClaims, issued: Timestamp, until: Timestamp) -> Element {
    let issuer = format!("urn:initgw:{}:countryB", claims.country);
    let attributes =
        vec![text_attribute("XSPA Subject", SUBJECT_ID, &claims.patient), purpose_attribute(claims.purpose)];
    let subject = (claims.name_id.as_str(), Some(claims.hcp_id.as_str()));
    assertion(id, (TRC, &issuer), issued, until, subject, (PREVIOUS_SESSION, issued), attributes)
}

/// A next-of-kin assertion, unsigned.
pub fn nok_template(id: &str, claims: &NextOfKinClaims, issued: Timestamp, until: Timestamp) -> Element {
    let issuer = format!("urn:initgw:{}:countryB", claims.country);
    let kin = &claims.kin;
    let attributes = [
        ("NextOfKinId", NOK_ID, &kin.id),
        ("NextOfKinFirstName", NOK_FIRST, &kin.first_name),
        ("NextOfKinFamilyName", NOK_FAMILY, &kin.family_name),
        ("NextOfKinGender", NOK_GENDER, &kin.gender),
        ("NextOfKinBirthDate", NOK_BIRTH, &kin.birth_date),
        ("NextOfKinAddressStreet", NOK_STREET, &kin.street),
        ("NextOfKinAddressCity", NOK_CITY, &kin.city),
        ("NextOfKinAddressPostalCode", NOK_POSTAL_CODE, &kin.postal_code),
        ("NextOfKinAddressCountry", NOK_COUNTRY, &kin.country),
    ];
    let attributes = attributes.into_iter().filter(|(_, _, value)| !value.is_empty());
    let attributes = attributes.map(|(friendly, name, value)| text_attribute(friendly, name, value)).collect();
    let subject = (claims.name_id.as_str(), Some(claims.hcp_id.as_str()));
    assertion(id, (NOK, &issuer), issued, until, subject, (PREVIOUS_SESSION, issued), attributes)
}

#[allow(clippy::too_many_arguments)]
fn assertion(
    id: &str,
    (qualifier, issuer): (&str, &str),
    issued: Timestamp,
    until: Timestamp,
    (name_id, advice): (&str, Option<&str>),
    (class, instant): (&str, Timestamp),
    attributes: Vec<Element>,
) -> Element {
    let saml = |local: &str| Element::new(SAML, local);
    let conditions = saml("Conditions")
        .attr("NotBefore", instant_text(issued))
        .attr("NotOnOrAfter", instant_text(until))
        .with(saml("AudienceRestriction").with(saml("Audience").text(AUDIENCE)));
    let advice = advice.map(|hcp| saml("Advice").with(saml("AssertionIDRef").text(hcp)));
    saml("Assertion")
        .declare("saml", SAML)
        .declare("xs", XS)
        .declare("xsi", XSI)
        .attr("ID", id)
        .attr("IssueInstant", instant_text(issued))
        .attr("Version", "2.0")
        // Without Format, as issuers of the field write it: the one that is meant allows no NameQualifier beside its name
        // (SAML core 8.3.6).
        .with(saml("Issuer").attr("NameQualifier", qualifier).text(issuer))
        .with(signature(id))
        .with(
            saml("Subject")
                .with(
                    saml("NameID")
                        .attr("Format", "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified")
                        .text(name_id),
                )
                .with(saml("SubjectConfirmation").attr("Method", SENDER_VOUCHES)),
        )
        .with(conditions)
        .with_all(advice)
        .with(
            saml("AuthnStatement")
                .attr("AuthnInstant", instant_text(instant))
                .with(saml("AuthnContext").with(saml("AuthnContextClassRef").text(class))),
        )
        .with(saml("AttributeStatement").with_all(attributes))
}

/// Placeholders that [`crate::Signer`] fills: method, certificate.
pub(crate) const METHOD_PLACE: &str = "urn:ncp:signature-method";
pub(crate) const CERTIFICATE_PLACE: &str = "CERTIFICATE";

pub(crate) fn signature(id: &str) -> Element {
    let ds = |local: &str| Element::new(DSIG, local);
    let algorithm = |local: &str, uri: &str| ds(local).attr("Algorithm", uri);
    let prefixes = || Element::new(EXC_C14N, "InclusiveNamespaces").declare("ec", EXC_C14N).attr("PrefixList", "xs");
    let transforms = ds("Transforms")
        .with(algorithm("Transform", "http://www.w3.org/2000/09/xmldsig#enveloped-signature"))
        .with(algorithm("Transform", EXC_C14N).with(prefixes()));
    let reference = ds("Reference")
        .attr("URI", format!("#{id}"))
        .with(transforms)
        .with(algorithm("DigestMethod", "http://www.w3.org/2001/04/xmlenc#sha256"))
        .with(ds("DigestValue"));
    ds("Signature")
        .declare("ds", DSIG)
        .with(
            ds("SignedInfo")
                .with(algorithm("CanonicalizationMethod", EXC_C14N))
                .with(algorithm("SignatureMethod", METHOD_PLACE))
                .with(reference),
        )
        .with(ds("SignatureValue"))
        .with(ds("KeyInfo").with(ds("X509Data").with(ds("X509Certificate").text(CERTIFICATE_PLACE))))
}

fn attribute(friendly: &str, name: &str) -> Element {
    Element::new(SAML, "Attribute").attr("FriendlyName", friendly).attr("Name", name).attr("NameFormat", URI_FORMAT)
}

fn string_value(text: &str) -> Element {
    Element::new(SAML, "AttributeValue").attr_in(XSI, "type", "xs:string").text(text)
}

pub(crate) fn text_attribute(friendly: &str, name: &str, text: &str) -> Element {
    attribute(friendly, name).with(string_value(text))
}

/// The HL7 element stands unprefixed: OpenNCP looks it up by its qualified name. It has no `xsi:type`: who validates with
/// the schemas of SAML alone (OpenNCP does) knows no type CE, and refuses the assertion for it.
pub(crate) fn coded(element: &str, code: &Code) -> Element {
    Element::new(HL7, element)
        .attr("code", code.code.as_str())
        .attr("codeSystem", code.system.as_str())
        .attr("codeSystemName", code.system_name.as_str())
        .attr("displayName", code.display.as_str())
}

pub(crate) fn coded_attribute(friendly: &str, name: &str, coded: Element) -> Element {
    attribute(friendly, name).with(Element::new(SAML, "AttributeValue").with(coded))
}

fn purpose_attribute(purpose: Purpose) -> Element {
    let code = Code {
        code: purpose.as_str().to_owned(),
        system: "3bc18518-d305-46c2-a8d6-94bd59856e9e".to_owned(),
        system_name: "eHDSI XSPA PurposeOfUse".to_owned(),
        display: purpose.as_str().to_owned(),
    };
    coded_attribute("XSPA Purpose Of Use", PURPOSE, coded("PurposeOfUse", &code))
}

pub(crate) fn instant_text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(by).ok().and_then(|d| at.checked_add(d).ok()).unwrap_or(at)
}
