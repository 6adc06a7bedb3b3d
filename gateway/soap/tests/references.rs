//! Includes and the parts that they name, and what a refused message is told (WI-06, WI-07, WI-11, CO-07).

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::Full;
use ncp_soap::{Envelope, MessageLimits, SizeLimit, SoapError, ns, read_message};
use ncp_xml::{Element, Limits, REQUESTS, XmlError};
use proptest::prelude::*;

/// The names under which the parts of a package are asked for, where an Include has each of these references.
fn called(hrefs: &[&str], ids: &[&str]) -> Result<Vec<String>, SoapError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let mut package = "--B\r\nContent-ID: <r>\r\n\r\n<r/>".to_owned();
        ids.iter().for_each(|id| package.push_str(&format!("\r\n--B\r\nContent-ID: <{id}>\r\n\r\nx")));
        package.push_str("\r\n--B--");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("multipart/related; boundary=B; start=\"<r>\""));
        let body = Full::new(Bytes::from(package));
        let mut message = read_message(&headers, body, &MessageLimits::default(), REQUESTS.charge("")).await?;
        let include = |href: &&str| Element::new(ns::XOP, "Include").attr("href", format!("cid:{href}"));
        message.parts.refer(&Element::new("", "Body").with_all(hrefs.iter().map(include))).expect("few");
        let mut out = Vec::new();
        while let Some(head) = message.parts.next().await? {
            out.push(head.content_id);
        }
        Ok::<_, SoapError>(out)
    })
}

#[test]
fn wi_06_both_spellings_of_a_reference_are_read() {
    let one = |href: &str, id: &str| called(&[href], &[id]).expect("reads").remove(0);
    assert_eq!(one("0%40urn%3Aihe", "0@urn:ihe"), "0@urn:ihe", "decoded against the id (RFC 2392 2)");
    assert_eq!(one("0%40urn%3Aihe", "0%40urn%3Aihe"), "0@urn:ihe", "both coded");
    assert_eq!(one("0%40urn%3aihe", "0%40urn%3Aihe"), "0@urn:ihe", "%3a is %3A (RFC 3986 2.1)");
    assert_eq!(one("0%40urn%3Aihe", "0@urn%3Aihe"), "0@urn:ihe", "@ coded in the reference alone");
    assert_eq!(one("a%2541", "a%41"), "a%41", "an id that holds a percent sign, coded as it should be");
    // What the specification calls different does not meet.
    assert_eq!(one("aA", "a%41"), "a%41");
    assert_eq!(one("0@urn:ihe", "0%40urn%3Aihe"), "0%40urn%3Aihe");
}

#[test]
fn wi_06_two_parts_that_could_both_be_meant_are_refused() {
    for ids in [["0@urn:ihe", "0%40urn%3Aihe"], ["0%40urn%3Aihe", "0@urn:ihe"]] {
        assert!(matches!(called(&["0%40urn%3Aihe"], &ids), Err(SoapError::UnresolvedInclude)), "{ids:?}");
    }
    // One part, two references that mean it in different ways.
    assert!(matches!(called(&["a%2541", "a%41"], &["a%41"]), Err(SoapError::UnresolvedInclude)));
}

proptest! {
    /// Ids that differ are never called the same, and an id that is coded as RFC 2392 says is always found.
    #[test]
    fn wi_06_ids_that_differ_never_meet(ids in proptest::collection::btree_set("[a-c%3A@:4]{1,8}", 1..4)) {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let coded = |id: &&str| id.replace('%', "%25").replace('@', "%40").replace(':', "%3A");
        let hrefs: Vec<String> = ids.iter().map(coded).collect();
        let hrefs: Vec<&str> = hrefs.iter().map(String::as_str).collect();
        // A coded reference may spell another part's id: then the message is refused.
        if let Ok(names) = called(&hrefs, &ids) {
            prop_assert_eq!(names, ids);
        }
    }
}

fn envelope(header: &str, body: &str) -> Result<Envelope, SoapError> {
    let xml = format!(
        "<s:Envelope xmlns:s=\"{}\" xmlns:x=\"{}\" xmlns:d=\"{}\"><s:Header>{header}</s:Header><s:Body>{body}</s:Body>\
         </s:Envelope>",
        ns::SOAP,
        ns::XOP,
        ns::XDSB
    );
    Envelope::read(xml.as_bytes(), &Limits::REQUEST)
}

#[test]
fn wi_07_an_include_outside_a_document_is_refused_under_its_name() {
    let include = "<x:Include href=\"cid:p\"/>";
    assert!(envelope("", &format!("<d:R><d:Document>{include}</d:Document></d:R>")).is_ok());
    for header in
        [include.to_owned(), format!("<d:Document>{include}</d:Document>"), format!("<a><b>{include}</b></a>")]
    {
        let refused = envelope(&header, "<d:R/>").expect_err("in a header");
        assert_eq!(refused.to_string(), "assertions must not be XOP-optimised");
        assert!(refused.fault("77").reason.contains("assertions must not be XOP-optimised (reference 77)"));
    }
    for body in [format!("<d:R>{include}</d:R>"), format!("<Document>{include}</Document>"), include.to_owned()] {
        let refused = envelope("", &body).expect_err("not in a document");
        assert_eq!(refused.to_string(), "an XOP Include stands outside ihe:Document");
    }
}

#[test]
fn wi_11_each_cause_has_a_text_of_its_own_and_the_fault_says_it() {
    use SoapError as E;
    let all = [
        E::Xml(XmlError::Malformed),
        E::Xml(XmlError::Doctype),
        E::Xml(XmlError::Encoding),
        E::Xml(XmlError::Entity),
        E::Xml(XmlError::Namespace),
        E::Xml(XmlError::TooDeep),
        E::Xml(XmlError::TooManyAttributes),
        E::Xml(XmlError::TooManyNodes),
        E::Xml(XmlError::TooLarge),
        E::Envelope,
        E::EmptyBody,
        E::Version,
        E::MediaType,
        E::Mime,
        E::TransferEncoding("x".into()),
        E::Undecodable("base64"),
        E::ContentEncoding("gzip".into()),
        E::Charset("x".into()),
        E::TooLarge(SizeLimit::Body),
        E::Timeout,
        E::Truncated,
        E::DuplicateContentId,
        E::Optimised("x"),
        E::UnresolvedInclude,
        E::HeaderAttribute,
        E::Late,
        E::Connection,
    ];
    let logged: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    let told: BTreeSet<String> = all.iter().map(|error| error.fault("77").reason).collect();
    assert_eq!((logged.len(), told.len()), (all.len(), all.len()));
    assert!(told.iter().all(|text| text.contains("77")));
    let of = |bytes: &[u8]| Envelope::read(bytes, &Limits::REQUEST).expect_err("not read").to_string();
    assert_eq!(of(b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xe4</a>"), "encoding is not UTF-8");
    assert_eq!(of(b"<!DOCTYPE a><a/>"), "DOCTYPE is not allowed");
    assert_eq!(of(b"<a><b>"), "XML is not well-formed or ends early");
}

#[test]
fn co_07_an_empty_body_acknowledges() {
    let read = |body: &str| {
        let xml = format!("<s:Envelope xmlns:s=\"{}\"><s:Header/>{body}</s:Envelope>", ns::SOAP);
        Envelope::read(xml.as_bytes(), &Limits::ANSWER)
    };
    assert!(matches!(read("<s:Body/>"), Err(SoapError::EmptyBody)));
    assert!(matches!(read("<s:Body>\n</s:Body>"), Err(SoapError::EmptyBody)));
    assert!(read("<s:Body><a/></s:Body>").is_ok());
    assert!(matches!(read(""), Err(SoapError::Envelope)), "no Body");
}
