//! What the target does with any bytes.

use ncp_xml::{Element, Limits};

/// The structure of assertions in an envelope: before any cryptography.
pub fn structure(data: &[u8]) {
    if let Ok(envelope) = Element::parse(data, &Limits::REQUEST) {
        let _ = ncp_saml::check_structure(&envelope);
    }
}
