//! WS-Addressing 1.0, as Appendix V of ITI TF-2 uses it.

use ncp_xml::Element;

use crate::ns::{SOAP, WSA};
use crate::{Envelope, SoapError};

/// The anonymous reply address.
const ANONYMOUS: &str = "http://www.w3.org/2005/08/addressing/anonymous";

/// What the headers say. OpenNCP's second set of headers, in a namespace that does not exist, is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addressing {
    /// `wsa:Action`.
    pub action: String,
    /// `wsa:MessageID`.
    pub message_id: Option<String>,
    /// `wsa:To`.
    pub to: Option<String>,
    /// `wsa:RelatesTo`.
    pub relates_to: Option<String>,
    /// Whether a ReplyTo is written.
    pub reply_anonymous: bool,
}

impl Addressing {
    /// Reads the headers. Reply addresses come from configuration only: any but the anonymous one is refused.
    ///
    /// # Errors
    /// [`SoapError::Action`] without Action, [`SoapError::Addressing`] for a header twice or too long,
    /// [`SoapError::AddressRefused`] for a reply address.
    pub fn read(envelope: &Envelope) -> Result<Self, SoapError> {
        let one = |local: &str| -> Result<Option<&Element>, SoapError> {
            let mut found = envelope.headers.iter().filter(|h| h.is(WSA, local));
            let first = found.next();
            if found.next().is_some() { Err(SoapError::Addressing) } else { Ok(first) }
        };
        let value = |local: &str| -> Result<Option<String>, SoapError> {
            match one(local)?.map(Element::trimmed) {
                Some(text) if text.is_empty() || text.len() > 2048 => Err(SoapError::Addressing),
                other => Ok(other),
            }
        };
        for reply in ["ReplyTo", "FaultTo"] {
            if let Some(endpoint) = one(reply)? {
                let address = endpoint.child(WSA, "Address").ok_or(SoapError::Addressing)?;
                if address.trimmed() != ANONYMOUS {
                    return Err(SoapError::AddressRefused);
                }
            }
        }
        Ok(Self {
            action: value("Action")?.ok_or(SoapError::Action)?,
            message_id: value("MessageID")?,
            to: value("To")?,
            relates_to: value("RelatesTo")?,
            reply_anonymous: one("ReplyTo")?.is_some(),
        })
    }

    /// Headers of a request: new MessageID, anonymous ReplyTo.
    pub fn request(action: &str, to: &str) -> Self {
        Self {
            action: action.to_owned(),
            message_id: Some(uuid::Uuid::new_v4().urn().to_string()),
            to: Some(to.to_owned()),
            relates_to: None,
            reply_anonymous: true,
        }
    }

    /// Headers of a response to the message with that id.
    pub fn response(action: &str, relates_to: Option<&str>) -> Self {
        Self {
            action: action.to_owned(),
            message_id: Some(uuid::Uuid::new_v4().urn().to_string()),
            to: None,
            relates_to: relates_to.map(ToOwned::to_owned),
            reply_anonymous: false,
        }
    }

    /// As header blocks; Action and To carry mustUnderstand.
    pub fn to_headers(&self) -> Vec<Element> {
        let block = |local: &str, text: &str| Element::new(WSA, local).text(text);
        let must = |element: Element| element.attr_in(SOAP, "mustUnderstand", "1");
        let mut headers = vec![must(block("Action", &self.action))];
        headers.extend(self.message_id.as_deref().map(|id| block("MessageID", id)));
        headers.extend(self.relates_to.as_deref().map(|id| block("RelatesTo", id)));
        headers.extend(self.to.as_deref().map(|to| must(block("To", to))));
        if self.reply_anonymous {
            headers.push(Element::new(WSA, "ReplyTo").with(block("Address", ANONYMOUS)));
        }
        headers
    }
}
