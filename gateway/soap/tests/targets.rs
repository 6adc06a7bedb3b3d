//! Every attribute by which a header block says for whom it is, or what it means, is read or refuses (SE-23).

use ncp_soap::{Addressing, Envelope, SoapError, ns};
use ncp_xml::{Element, Limits};
use proptest::prelude::*;

const NEXT: &str = "http://www.w3.org/2003/05/soap-envelope/role/next";
const LAST: &str = "http://www.w3.org/2003/05/soap-envelope/role/ultimateReceiver";

fn request() -> Vec<Element> {
    let mut headers = Addressing::request("urn:action", "https://ncp.example.no/x").to_headers();
    headers.push(Element::new(ns::WSSE, "Security"));
    headers
}

fn sent(headers: Vec<Element>) -> Result<Envelope, SoapError> {
    let envelope = Envelope { headers, body: Element::new("urn:x", "x") };
    Envelope::read(&envelope.write(), &Limits::REQUEST)
}

/// The request with an attribute on its block of that number.
fn with(number: usize, of: &str, name: &str, value: &str) -> Result<Envelope, SoapError> {
    let change = |(i, block): (usize, Element)| if i == number { block.attr_in(of, name, value) } else { block };
    sent(request().into_iter().enumerate().map(change).collect())
}

proptest! {
    /// A block for whoever else is as if it were not there, also when it must be understood.
    #[test]
    fn se_23_a_block_for_somebody_else_is_not_there(
        number in 0..request().len(),
        of in prop::sample::select(vec![ns::SOAP, ns::SOAP11, ""]),
        name in prop::sample::select(vec!["role", "actor"]),
        value in "[a-z]{1,8}(:[a-z/.]{1,20})?",
    ) {
        let local = request()[number].local().to_owned();
        let read = with(number, of, name, &value).expect("an envelope");
        prop_assert_eq!(read.headers.len(), request().len() - 1);
        prop_assert!(read.headers.iter().all(|block| block.local() != local));
        prop_assert!(read.check_must_understand(&[(ns::WSA, "Action"), (ns::WSA, "To")]).is_ok());
        if local == "Action" {
            prop_assert!(matches!(Addressing::read(&read), Err(SoapError::Action)));
        }
    }

    /// One that need perhaps be understood, or is coded in another way, cannot be read.
    #[test]
    fn se_23_what_a_block_says_of_itself_is_read(number in 0..request().len(), value in "[2-9a-eg-su-z]{1,8}") {
        for name in ["mustUnderstand", "encodingStyle"] {
            let refused = matches!(with(number, ns::SOAP, name, &value), Err(SoapError::HeaderAttribute));
            prop_assert!(refused, "{name}={value}");
        }
        let parameter = with(number, ns::WSA, "IsReferenceParameter", &value);
        prop_assert!(matches!(parameter, Err(SoapError::Addressing)));
    }
}

#[test]
fn se_23_what_is_for_us_is_read() {
    for number in 0..request().len() {
        for value in ["", NEXT, LAST] {
            let read = with(number, ns::SOAP, "role", value).expect("an envelope");
            assert_eq!(read.headers.len(), request().len(), "{number} {value}");
        }
    }
    // A role of something that is neither SOAP's nor decides who asks is no role.
    let other = Element::new("urn:x", "block").attr("role", "doctor").attr_in(ns::SOAP, "mustUnderstand", "1");
    let read = sent(request().into_iter().chain([other]).collect()).expect("an envelope");
    let known = [(ns::WSA, "Action"), (ns::WSA, "To")];
    assert!(matches!(read.check_must_understand(&known), Err(SoapError::MustUnderstand)));
}

#[test]
fn se_23_what_would_have_to_go_back_is_refused() {
    let endpoint = |inner: Element| {
        let address = Element::new(ns::WSA, "Address").text("http://www.w3.org/2005/08/addressing/anonymous");
        Element::new(ns::WSA, "ReplyTo").with(address).with(inner)
    };
    let parameters = |inner: Option<Element>| Element::new(ns::WSA, "ReferenceParameters").with_all(inner);
    let read = |block: Element| {
        let others = request().into_iter().filter(|b| b.local() != block.local());
        Addressing::read(&sent(others.chain([block.clone()]).collect()).expect("an envelope"))
    };
    assert!(read(endpoint(parameters(None))).is_ok(), "an empty one asks for nothing");
    let refused = read(endpoint(parameters(Some(Element::new("urn:x", "x")))));
    assert!(matches!(refused, Err(SoapError::AddressRefused)), "{refused:?}");
    let twice = read(endpoint(Element::new(ns::WSA, "Address").text("https://elsewhere.example")));
    assert!(matches!(twice, Err(SoapError::Addressing)), "{twice:?}");
    let relation = Element::new(ns::WSA, "RelatesTo").attr("RelationshipType", "urn:x").text("urn:uuid:1");
    assert!(matches!(read(relation), Err(SoapError::Addressing)));
}
