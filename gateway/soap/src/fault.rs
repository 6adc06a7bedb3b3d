//! SOAP 1.2 faults.

use ncp_xml::Element;

use crate::ns::{SOAP, WSA, WSSE, WSU};
use crate::{Addressing, Envelope};

/// Action of a fault message (WS-Addressing SOAP Binding 6).
pub const FAULT_ACTION: &str = "http://www.w3.org/2005/08/addressing/soap/fault";

/// A fault: code, subcodes as QNames with the prefixes `wsa`, `wsse`, `wsu`, and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `Sender`, `Receiver`, `MustUnderstand`, `VersionMismatch`.
    pub code: String,
    /// Subcode, empty when none.
    pub subcode: String,
    /// Subcode of the subcode.
    pub subsubcode: String,
    /// Reason text.
    pub reason: String,
}

impl Fault {
    /// A fault.
    pub fn new(code: &str, subcode: &str, subsubcode: &str, reason: &str) -> Self {
        Self { code: code.into(), subcode: subcode.into(), subsubcode: subsubcode.into(), reason: reason.into() }
    }

    /// The other side's fault.
    pub fn sender(subcode: &str, reason: &str) -> Self {
        Self::new("Sender", subcode, "", reason)
    }

    /// Ours.
    pub fn receiver(reason: &str) -> Self {
        Self::new("Receiver", "", "", reason)
    }

    /// The fault element.
    pub fn to_element(&self) -> Element {
        let value = |text: String| Element::new(SOAP, "Value").text(text);
        let subcode = |code: &str, inner: Option<Element>| {
            Element::new(SOAP, "Subcode").with(value(code.to_owned())).with_all(inner)
        };
        let inner = (!self.subsubcode.is_empty()).then(|| subcode(&self.subsubcode, None));
        let outer = (!self.subcode.is_empty()).then(|| subcode(&self.subcode, inner));
        let text = Element::new(SOAP, "Text").attr_in("http://www.w3.org/XML/1998/namespace", "lang", "en");
        Element::new(SOAP, "Fault")
            .declare("s", SOAP)
            .declare("wsa", WSA)
            .declare("wsse", WSSE)
            .declare("wsu", WSU)
            .with(Element::new(SOAP, "Code").with(value(format!("s:{}", self.code))).with_all(outer))
            .with(Element::new(SOAP, "Reason").with(text.text(self.reason.clone())))
    }

    /// The whole message.
    pub fn envelope(&self, relates_to: Option<&str>) -> Envelope {
        Envelope { headers: Addressing::response(FAULT_ACTION, relates_to).to_headers(), body: self.to_element() }
    }

    /// Reads a fault from a body element; `None` when it is none.
    pub fn read(body: &Element) -> Option<Self> {
        if !body.is(SOAP, "Fault") {
            return None;
        }
        let local = |text: String| text.rsplit(':').next().unwrap_or_default().to_owned();
        let code = body.path(SOAP, &["Code", "Value"]).map(Element::trimmed).unwrap_or_default();
        let subcode = body.path(SOAP, &["Code", "Subcode", "Value"]).map(Element::trimmed).unwrap_or_default();
        let inner = body.path(SOAP, &["Code", "Subcode", "Subcode", "Value"]).map(Element::trimmed).unwrap_or_default();
        let reason = body.path(SOAP, &["Reason", "Text"]).map(Element::trimmed).unwrap_or_default();
        Some(Self { code: local(code), subcode, subsubcode: inner, reason })
    }
}
