//! SAML assertions.
