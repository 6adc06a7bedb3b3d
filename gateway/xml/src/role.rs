//! Whom a SOAP header block is for. Who reads the envelope and who verifies what stands in it ask here, so that a block is
//! ours for both or for neither.

use crate::Element;

const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const SOAP11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// Namespaces of WS-Addressing and WS-Security.
const DECIDING: &[&str] = &[
    "http://www.w3.org/2005/08/addressing",
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
];
/// Roles that this node plays (SOAP 1.2 part 1: 2.2); a block without one is for the ultimate receiver. SOAP 1.1 calls the
/// role actor.
const OURS: &[&str] = &[
    "",
    "http://www.w3.org/2003/05/soap-envelope/role/next",
    "http://www.w3.org/2003/05/soap-envelope/role/ultimateReceiver",
    "http://schemas.xmlsoap.org/soap/actor/next",
];
/// The one that says that contents are not coded in another way (SOAP 1.2 part 1: 5.1.1).
const NOT_ENCODED: &str = "http://www.w3.org/2003/05/soap-envelope/encoding/none";

/// Whether a header block is targeted at this node (SOAP 1.2 part 1: 2.6); one for somebody else is not processed. On the
/// blocks that decide who asks for what, a role counts in whichever namespace it stands.
pub fn is_for_us(block: &Element) -> bool {
    let decides = DECIDING.contains(&block.ns());
    let mut roles = block
        .attributes()
        .iter()
        .filter(|a| matches!(a.local(), "role" | "actor") && (decides || matches!(a.ns(), SOAP | SOAP11)));
    roles.all(|role| OURS.contains(&role.value().trim()))
}

/// Whether a header block must be understood; `None` when what it says of that, or of its encoding, cannot be read.
pub fn must_be_understood(block: &Element) -> Option<bool> {
    if block.get_in(SOAP, "encodingStyle").is_some_and(|style| style.trim() != NOT_ENCODED) {
        return None;
    }
    match block.get_in(SOAP, "mustUnderstand").map(str::trim) {
        None | Some("0" | "false") => Some(false),
        Some("1" | "true") => Some(true),
        Some(_) => None,
    }
}
