//! WS-Addressing 1.0, as Appendix V of ITI TF-2 uses it.

use ncp_xml::Element;

use crate::ns::{SOAP, WSA};
use crate::{Envelope, SoapError};

/// The anonymous reply address: the answer comes back on the connection.
const ANONYMOUS: &str = "http://www.w3.org/2005/08/addressing/anonymous";

/// What RelatesTo means unless it says otherwise.
const REPLY: &str = "http://www.w3.org/2005/08/addressing/reply";

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
    /// Address of `wsa:ReplyTo`. Never called as it stands: see [`reply_address`](Self::reply_address).
    pub reply_to: Option<String>,
    /// Address of `wsa:FaultTo`.
    pub fault_to: Option<String>,
    /// The header carries no `wsa:Action`; it was taken from elsewhere, and the answer carries no addressing either.
    pub is_implied: bool,
}

impl Addressing {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`SoapError::Action`] without Action, [`SoapError::Addressing`] for a header twice, too long or without address.
    pub fn read(envelope: &Envelope) -> Result<Self, SoapError> {
        Self::read_or(envelope, || None)
    }

    /// Reads the headers of a sender that may leave `wsa:Action` out; `implied` says which action the message has then.
    ///
    /// # Errors
    /// As [`read`](Self::read), [`SoapError::Action`] when nothing says the action.
    pub fn read_or(envelope: &Envelope, implied: impl FnOnce() -> Option<String>) -> Result<Self, SoapError> {
        let one = |local: &str| -> Result<Option<&Element>, SoapError> {
            let mut found = envelope.headers.iter().filter(|h| h.is(WSA, local));
            let first = found.next();
            if found.next().is_some() { Err(SoapError::Addressing) } else { Ok(first) }
        };
        let bounded = |text: String| match text.len() {
            1..=2048 => Ok(text),
            _ => Err(SoapError::Addressing),
        };
        // An attribute of theirs says that something else is meant, as RelationshipType does of what is no reply.
        let plain = |header: &Element| match header.get("RelationshipType").unwrap_or(REPLY) {
            REPLY if header.elements().next().is_none() => Ok(header.trimmed()),
            _ => Err(SoapError::Addressing),
        };
        let value = |local: &str| one(local)?.map(plain).transpose()?.map(bounded).transpose();
        let address = |local: &str| match one(local)? {
            Some(endpoint) => {
                let mut addresses = endpoint.all(WSA, "Address");
                let (Some(address), None) = (addresses.next(), addresses.next()) else {
                    return Err(SoapError::Addressing);
                };
                // They would have to go back with the answer (WS-Addressing core 3.4).
                let parameters = |e: &Element| e.is(WSA, "ReferenceParameters") && e.elements().next().is_some();
                if endpoint.elements().any(parameters) {
                    return Err(SoapError::AddressRefused);
                }
                bounded(address.trimmed()).map(Some)
            }
            None => Ok(None),
        };
        let stated = value("Action")?;
        Ok(Self {
            is_implied: stated.is_none(),
            action: stated.or_else(implied).ok_or(SoapError::Action)?,
            message_id: value("MessageID")?,
            to: value("To")?,
            relates_to: value("RelatesTo")?,
            reply_to: address("ReplyTo")?,
            fault_to: address("FaultTo")?,
        })
    }

    /// Where the answer goes: `None` back on the connection, or `configured` when the message names exactly that address.
    ///
    /// # Errors
    /// [`SoapError::AddressRefused`] for any other reply or fault address: a message decides no address that we call.
    pub fn reply_address<'a>(&self, configured: Option<&'a str>) -> Result<Option<&'a str>, SoapError> {
        let goes_to = |address: &Option<String>| match address.as_deref() {
            None | Some(ANONYMOUS) => Ok(None),
            named if named == configured => Ok(configured),
            Some(_) => Err(SoapError::AddressRefused),
        };
        let (reply, fault) = (goes_to(&self.reply_to)?, goes_to(&self.fault_to)?);
        // A fault address of its own beside answers on the connection is not served.
        if reply.is_none() && fault.is_some() { Err(SoapError::AddressRefused) } else { Ok(reply) }
    }

    /// Whether the message is for one of these addresses, or names none but that of the connection.
    ///
    /// # Errors
    /// [`SoapError::Destination`].
    pub fn check_destination(&self, ours: &[String]) -> Result<(), SoapError> {
        let Some(to) = self.to.as_deref().filter(|to| *to != ANONYMOUS) else { return Ok(()) };
        let same = |address: &String| address.trim_end_matches('/').eq_ignore_ascii_case(to.trim_end_matches('/'));
        if ours.iter().any(same) { Ok(()) } else { Err(SoapError::Destination) }
    }

    /// Headers of a request: new MessageID, anonymous ReplyTo.
    pub fn request(action: &str, to: &str) -> Self {
        Self {
            action: action.to_owned(),
            message_id: Some(uuid::Uuid::new_v4().urn().to_string()),
            to: Some(to.to_owned()),
            reply_to: Some(ANONYMOUS.to_owned()),
            ..Self::default()
        }
    }

    /// The same, answered at an address of ours (WS-Addressing asynchronous exchange).
    #[must_use]
    pub fn answered_at(self, address: &str) -> Self {
        Self { reply_to: Some(address.to_owned()), ..self }
    }

    /// Headers of a response to the message with that id.
    pub fn response(action: &str, relates_to: Option<&str>) -> Self {
        Self {
            action: action.to_owned(),
            message_id: Some(uuid::Uuid::new_v4().urn().to_string()),
            relates_to: relates_to.map(ToOwned::to_owned),
            ..Self::default()
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
        let endpoint = |local: &str, address: &String| Element::new(WSA, local).with(block("Address", address));
        headers.extend(self.reply_to.as_ref().map(|address| endpoint("ReplyTo", address)));
        headers.extend(self.fault_to.as_ref().map(|address| endpoint("FaultTo", address)));
        headers
    }
}
