//! The SOAP 1.2 envelope.

use ncp_xml::{Charge, Element, Limits, is_for_us, must_be_understood};

use crate::SoapError;
use crate::ns::{SOAP, SOAP11, WSA, WSSE, XDSB, XOP};

const OPTIMISED_HEADER: &str = "assertions must not be XOP-optimised";
const OPTIMISED_BODY: &str = "an XOP Include stands outside ihe:Document";

/// Header blocks and the one body element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Header blocks in order; of an envelope that was read those that are for us (SOAP 1.2 part 1: 2.6).
    pub headers: Vec<Element>,
    /// The child of Body.
    pub body: Element,
}

impl Envelope {
    /// Reads an envelope within the limits.
    ///
    /// # Errors
    /// XML errors, SOAP 1.1, or a shape that is no envelope with exactly one body element; [`SoapError::EmptyBody`].
    pub fn read(bytes: &[u8], limits: &Limits) -> Result<Self, SoapError> {
        Self::from_element(Element::parse(bytes, limits)?)
    }

    /// The same of a message; what it holds is taken from the budget of its charge.
    ///
    /// # Errors
    /// As [`Self::read`]; [`SoapError::Busy`].
    pub fn read_charged(bytes: &[u8], limits: &Limits, charge: &mut Charge) -> Result<Self, SoapError> {
        Self::from_element(Element::parse_charged(bytes, limits, charge)?)
    }

    /// The same of a tree that was read.
    pub(crate) fn from_element(root: Element) -> Result<Self, SoapError> {
        if root.is(SOAP11, "Envelope") {
            return Err(SoapError::Version);
        }
        if !root.is(SOAP, "Envelope") {
            return Err(SoapError::Envelope);
        }
        let body = root.elements().find(|child| child.is(SOAP, "Body"));
        if body.is_some_and(|body| body.elements().next().is_none()) {
            return Err(SoapError::EmptyBody);
        }
        optimised(&root)?;
        let mut children = root.into_elements();
        let mut next = children.next().ok_or(SoapError::Envelope)?;
        let mut headers = Vec::new();
        if next.is(SOAP, "Header") {
            headers = next.into_elements().filter(is_for_us).collect();
            headers.iter().try_for_each(readable)?;
            next = children.next().ok_or(SoapError::Envelope)?;
        }
        if !next.is(SOAP, "Body") || children.next().is_some() {
            return Err(SoapError::Envelope);
        }
        let mut bodies = next.into_elements();
        let body = bodies.next().ok_or(SoapError::Envelope)?;
        if bodies.next().is_some() {
            return Err(SoapError::Envelope);
        }
        must_be_understood(&body).ok_or(SoapError::HeaderAttribute)?;
        Ok(Self { headers, body })
    }

    /// Writes it.
    pub fn write(self) -> Vec<u8> {
        self.into_element().to_xml().into_bytes()
    }

    /// Writes it in two pieces around the gap in its body, [`Element::to_xml_around`].
    pub fn write_around(self) -> (String, String) {
        self.into_element().to_xml_around()
    }

    fn into_element(self) -> Element {
        let envelope = Element::new(SOAP, "Envelope").declare("s", SOAP);
        let envelope = if self.headers.is_empty() {
            envelope
        } else {
            envelope.with(Element::new(SOAP, "Header").with_all(self.headers))
        };
        envelope.with(Element::new(SOAP, "Body").with(self.body))
    }

    /// Refuses a header block with mustUnderstand that is not among the known ones.
    ///
    /// # Errors
    /// [`SoapError::MustUnderstand`].
    pub fn check_must_understand(&self, known: &[(&str, &str)]) -> Result<(), SoapError> {
        let must = |header: &&Element| must_be_understood(header) != Some(false);
        let unknown = |header: &Element| !known.iter().any(|(ns, local)| header.is(ns, local));
        if self.headers.iter().filter(must).any(unknown) { Err(SoapError::MustUnderstand) } else { Ok(()) }
    }
}

/// Only the content of a document may be a part of the package. Bytes of an assertion that were moved out are not put back:
/// what was signed would have to be rebuilt before it is verified (XOP 1.0 3.2).
fn optimised(envelope: &Element) -> Result<(), SoapError> {
    let mut open = vec![(envelope, false)];
    while let Some((element, in_header)) = open.pop() {
        for child in element.elements() {
            if child.is(XOP, "Include") && (in_header || !element.is(XDSB, "Document")) {
                return Err(SoapError::Optimised(if in_header { OPTIMISED_HEADER } else { OPTIMISED_BODY }));
            }
            open.push((child, in_header || child.is(SOAP, "Header")));
        }
    }
    Ok(())
}

/// Whether what a block says of itself can be read. A block of ours that stands there as another's reference parameter was
/// put there by who wrote that reference, not by the sender (WS-Addressing SOAP binding 3.3).
fn readable(block: &Element) -> Result<(), SoapError> {
    must_be_understood(block).ok_or(SoapError::HeaderAttribute)?;
    let ours = matches!(block.ns(), WSA | WSSE);
    if ours && block.get_in(WSA, "IsReferenceParameter").is_some() {
        return Err(SoapError::Addressing);
    }
    Ok(())
}
