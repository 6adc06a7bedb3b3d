//! HCP identity and TRC assertions as OpenNCP expects them: issued and verified.
//!
//! Verification order: closed signature profile on structure (`structure.rs`), trust in the signer (the caller's
//! [`SignerTrust`]), libxmlsec1 (`ffi.rs`), then the *digested bytes* are parsed again and only that value is used:
//! along the table of the closed content (`content.rs`), then value by value (`assertion.rs`).

mod assertion;
mod chain;
mod content;
mod error;
mod ffi;
mod issue;
mod national;
mod recent;
mod structure;
mod token;
mod trust;
mod worker;
mod xua;

pub use assertion::{AUDIENCE, HcpAssertion, NextOfKinAssertion, Subject, TrcAssertion, Verified, is_strong};
pub use error::{AssertionError, FormFault, Oversize};
pub use issue::{
    Code, HcpClaims, NextOfKin, NextOfKinClaims, Purpose, SignedAssertion, TrcClaims, hcp_template, nok_template,
    trc_template,
};
pub use national::XuaAssertion;
pub use token::TokenKey;
pub use trust::{SignerIdentity, SignerTrust};
pub use worker::{NationalHeader, SealKey, SecurityHeader, Signer, Verifier};
pub use xua::{XuaClaims, xua_template};

/// Checks the structure of the assertions in an envelope and says how many there are: no cryptography, no trust. What
/// [`Verifier`] does first with any bytes.
///
/// # Errors
/// [`AssertionError`].
pub fn check_structure(envelope: &ncp_xml::Element) -> Result<usize, AssertionError> {
    let mut seen = structure::Seen::default();
    structure::descendants(envelope, &mut |element| seen.see(element));
    let (profile, side) = (structure::Profile::CrossBorder, structure::Side::CrossBorder);
    let found = structure::locate(envelope, &seen, profile, side, jiff::Timestamp::now())?;
    Ok(found.len())
}

/// Names of SAML and of the eHDSI profile.
pub mod names {
    /// SAML 2.0 assertions.
    pub const SAML: &str = "urn:oasis:names:tc:SAML:2.0:assertion";
    /// XML Signature.
    pub const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
    /// Service metadata (OASIS BDXR SMP 1.0).
    pub const SMP: &str = "http://docs.oasis-open.org/bdxr/ns/SMP/2016/05";
    /// Exclusive canonicalization.
    pub const EXC_C14N: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";
    /// NameQualifier of an HCP identity assertion.
    pub const HCP: &str = "urn:ehdsi:assertions:hcp";
    /// NameQualifier of a TRC assertion.
    pub const TRC: &str = "urn:ehdsi:assertions:trc";
    /// NameQualifier of a next-of-kin assertion.
    pub const NOK: &str = "urn:ehdsi:assertions:nok";
    /// Method of subject confirmation.
    pub const SENDER_VOUCHES: &str = "urn:oasis:names:tc:SAML:2.0:cm:sender-vouches";
    /// Method of subject confirmation of user assertions.
    pub const BEARER: &str = "urn:oasis:names:tc:SAML:2.0:cm:bearer";
    /// AuthnContextClassRef of a TRC.
    pub const PREVIOUS_SESSION: &str = "urn:oasis:names:tc:SAML:2.0:ac:classes:PreviousSession";
    /// `subject-id`: the professional's name in an HCP assertion, the patient's CX in a TRC.
    pub const SUBJECT_ID: &str = "urn:oasis:names:tc:xspa:1.0:subject:subject-id";
    /// `role`.
    pub const ROLE: &str = "urn:oasis:names:tc:xacml:2.0:subject:role";
    /// `purposeofuse`.
    pub const PURPOSE: &str = "urn:oasis:names:tc:xspa:1.0:subject:purposeofuse";
    /// `organization`.
    pub const ORGANIZATION: &str = "urn:oasis:names:tc:xspa:1.0:subject:organization";
    /// `organization-id`.
    pub const ORGANIZATION_ID: &str = "urn:oasis:names:tc:xspa:1.0:subject:organization-id";
    /// Facility type.
    pub const FACILITY_TYPE: &str = "urn:ehdsi:names:subject:healthcare-facility-type";
    /// Point of care.
    pub const LOCALITY: &str = "urn:oasis:names:tc:xspa:1.0:environment:locality";
    /// Identifier of the professional.
    pub const NPI: &str = "urn:oasis:names:tc:xspa:1.0:subject:npi";
    /// Identifier of the next of kin.
    pub const NOK_ID: &str = "urn:ehdsi:names:subject:nextofkin:id";
    /// First name of the next of kin.
    pub const NOK_FIRST: &str = "urn:ehdsi:names:subject:nextofkin:firstname";
    /// Family name of the next of kin.
    pub const NOK_FAMILY: &str = "urn:ehdsi:names:subject:nextofkin:familyname";
    /// Birth date of the next of kin.
    pub const NOK_BIRTH: &str = "urn:ehdsi:names:subject:nextofkin:birthdate";
    /// Gender of the next of kin.
    pub const NOK_GENDER: &str = "urn:ehdsi:names:subject:nextofkin:gender";
    /// Street of the next of kin.
    pub const NOK_STREET: &str = "urn:ehdsi:names:subject:nextofkin:address:street";
    /// City of the next of kin.
    pub const NOK_CITY: &str = "urn:ehdsi:names:subject:nextofkin:address:city";
    /// Postal code of the next of kin.
    pub const NOK_POSTAL_CODE: &str = "urn:ehdsi:names:subject:nextofkin:address:postalcode";
    /// Country of the next of kin's address.
    pub const NOK_COUNTRY: &str = "urn:ehdsi:names:subject:nextofkin:address:country";
    /// homeCommunityId of the asking community.
    pub const HOME: &str = "urn:ihe:iti:xca:2010:homeCommunityId";
    /// The patient whose records are asked for, CX (ITI TF-2: 3.40.4.1.2.2.1).
    pub const RESOURCE_ID: &str = "urn:oasis:names:tc:xacml:2.0:resource:resource-id";
    /// HL7 permissions.
    pub const PERMISSION: &str = "urn:oasis:names:tc:xspa:1.0:subject:hl7:permission";
    /// HL7 v3.
    pub const HL7: &str = "urn:hl7-org:v3";
    /// Prefix of the AuthnContext classes.
    pub const AC_CLASSES: &str = "urn:oasis:names:tc:SAML:2.0:ac:classes:";
    /// Two-factor classes that OpenNCP accepts.
    pub const STRONG: &[&str] = &[
        "MobileTwoFactorUnregistered",
        "MobileTwoFactorContract",
        "X509",
        "SPKI",
        "SmartcardPKI",
        "SoftwarePKI",
        "TLSClient",
    ];
}
