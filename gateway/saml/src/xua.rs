//! X-User Assertions towards the national domain (ITI TF-2: 3.40): who asks from abroad, said by our own seal.

use std::time::Duration;

use jiff::Timestamp;
use ncp_xml::Element;

use crate::issue::{Code, XS, XSI, coded, coded_attribute, instant_text, later, signature, text_attribute};
use crate::names::*;

/// What an X-User Assertion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XuaClaims {
    /// Issuer.
    pub issuer: String,
    /// The X-Service Provider or its affinity domain.
    pub audience: String,
    /// NameID of the professional in the country of treatment.
    pub name_id: String,
    /// Name of the professional.
    pub subject_name: String,
    /// Role.
    pub role: Code,
    /// Organisation.
    pub organisation: Option<String>,
    /// Its identifier.
    pub organisation_id: Option<String>,
    /// Community of treatment, `urn:oid:…`
    pub home_community_id: String,
    /// Purpose of use.
    pub purpose: Code,
    /// The patient, CX; none when a patient is looked for.
    pub patient: Option<String>,
    /// AuthnContextClassRef.
    pub authn_context_class: String,
    /// Whether role and purpose carry `xsi:type="CE"`, as the examples of ITI TF-2: 3.40 do. Such an assertion is not valid
    /// by the schemas of SAML alone.
    pub typed_codes: bool,
}

/// An X-User Assertion, unsigned, with the place of its signature.
pub fn xua_template(id: &str, claims: &XuaClaims, issued: Timestamp, valid: Duration) -> Element {
    let saml = |local: &str| Element::new(SAML, local);
    let until = instant_text(later(issued, valid));
    let optional = |friendly: &str, name: &str, value: &Option<String>| {
        value.as_deref().map(|value| text_attribute(friendly, name, value))
    };
    let code = |friendly: &str, name: &str, element: &str, code: &Code| {
        let coded = coded(element, code);
        coded_attribute(friendly, name, if claims.typed_codes { coded.attr_in(XSI, "type", "CE") } else { coded })
    };
    let attributes = saml("AttributeStatement")
        .with(text_attribute("XSPA Subject", SUBJECT_ID, &claims.subject_name))
        .with_all(optional("XSPA Organization", ORGANIZATION, &claims.organisation))
        .with_all(optional("XSPA Organization ID", ORGANIZATION_ID, &claims.organisation_id))
        .with(text_attribute("HomeCommunityId", HOME, &claims.home_community_id))
        .with(code("XSPA Role", ROLE, "Role", &claims.role))
        .with(code("XSPA Purpose Of Use", PURPOSE, "PurposeOfUse", &claims.purpose))
        .with_all(optional("Resource ID", RESOURCE_ID, &claims.patient));
    let confirmation = saml("SubjectConfirmation")
        .attr("Method", BEARER)
        .with(saml("SubjectConfirmationData").attr("NotOnOrAfter", until.as_str()));
    saml("Assertion")
        .declare("saml", SAML)
        .declare("xs", XS)
        .declare("xsi", XSI)
        .attr("ID", id)
        .attr("IssueInstant", instant_text(issued))
        .attr("Version", "2.0")
        .with(saml("Issuer").text(claims.issuer.as_str()))
        .with(signature(id))
        .with(saml("Subject").with(saml("NameID").text(claims.name_id.as_str())).with(confirmation))
        .with(
            saml("Conditions")
                .attr("NotBefore", instant_text(issued))
                .attr("NotOnOrAfter", until.as_str())
                .with(saml("AudienceRestriction").with(saml("Audience").text(claims.audience.as_str()))),
        )
        .with(
            saml("AuthnStatement").attr("AuthnInstant", instant_text(issued)).with(
                saml("AuthnContext").with(saml("AuthnContextClassRef").text(claims.authn_context_class.as_str())),
            ),
        )
        .with(attributes)
}
