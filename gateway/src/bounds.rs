//! What a request may be so long that its record still passes every receiver: refused here, where it comes in, and never
//! cut afterwards. What it is that is too long is said; the record has its length and digest.

use ncp_audit::TooLong;
use ncp_audit::bounds::{QUERY, TEXT};
use ncp_xml::{Element, Node};

const TEXT_TOO_LONG: &str = "a text of the request is longer than 4 KiB";
const QUERY_TOO_LONG: &str = "the query is longer than 256 KiB";
const QUERY_GROWS: &str = "the query is more than four times as long when it is written anew";
/// Nothing that is sent for a caller is so many times longer than what the caller sent.
const GROWTH: usize = 4;

/// Elements that are checked and bounded where they are read: assertions and what is signed.
const ELSEWHERE: [&str; 3] =
    ["urn:oasis:names:tc:SAML:2.0:assertion", "http://www.w3.org/2000/09/xmldsig#", ncp_soap::ns::WSSE];

/// Checks the body of a request; `message` is the envelope as it came.
///
/// # Errors
/// A query over 256 KiB, or one that grows; a text over 4 KiB that is no list of a query.
pub fn check(body: &Element, message: &[u8]) -> Result<(), TooLong> {
    let query = body.is(ncp_ihe::ns::QUERY, "AdhocQueryRequest") || body.ns() == ncp_ihe::ns::HL7V3;
    // The record and what goes on have the query as we write it: it may repeat what the message declares once, and writes
    // characters of CDATA sections as entities.
    if query {
        let written = body.written_len();
        if written > QUERY {
            return Err(TooLong::of(QUERY_TOO_LONG, message));
        }
        if written > message.len().saturating_mul(GROWTH) {
            return Err(TooLong::of(QUERY_GROWS, message));
        }
    }
    texts(body)
}

/// Checks a query of ours before it is sent.
///
/// # Errors
/// As [`check`]; it is its own message.
pub fn check_own(query: &Element) -> Result<(), TooLong> {
    if query.written_len() > QUERY {
        return Err(TooLong::of(QUERY_TOO_LONG, query.to_xml().as_bytes()));
    }
    texts(query)
}

/// Checks every text of an element and of what it holds.
///
/// # Errors
/// The first that is longer than 4 KiB.
pub fn texts(element: &Element) -> Result<(), TooLong> {
    if ELSEWHERE.contains(&element.ns()) {
        return Ok(());
    }
    for attribute in element.attributes() {
        one(attribute.value())?;
    }
    // A parameter of a stored query may list thousands of identifiers in one text: each is one.
    let list = element.is(ncp_ihe::ns::RIM, "Value");
    for child in element.children() {
        match child {
            Node::Element(child) => texts(child)?,
            Node::Text(text) if list => text.split(',').try_for_each(one)?,
            Node::Text(text) => one(text)?,
            Node::Raw(_) | Node::Gap => {}
        }
    }
    Ok(())
}

fn one(text: &str) -> Result<(), TooLong> {
    if text.len() > TEXT { Err(TooLong::of(TEXT_TOO_LONG, text.as_bytes())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use ncp_xml::Limits;
    use proptest::prelude::*;

    use super::*;

    fn parsed(xml: &str) -> Element {
        Element::parse(xml.as_bytes(), &Limits::REQUEST).expect("xml")
    }

    #[test]
    fn a_text_of_4_kib_passes_and_one_more_does_not() {
        for (bytes, passes) in [(TEXT, true), (TEXT + 1, false)] {
            let long = "x".repeat(bytes);
            for xml in
                [format!("<a><b>{long}</b></a>"), format!("<a b='{long}'/>"), format!("<a><b><c d='{long}'/></b></a>")]
            {
                assert_eq!(texts(&parsed(&xml)).is_ok(), passes, "{bytes}");
            }
        }
        // A comment between two texts makes no longer one of them.
        let half = "x".repeat(TEXT / 2 + 1);
        assert!(texts(&parsed(&format!("<a>{half}<!-- -->{half}</a>"))).is_err());
    }

    #[test]
    fn se_22_a_query_that_grows_ends_here() {
        let of = |value: &str| {
            format!(
                "<q:AdhocQueryRequest xmlns:q=\"{}\" xmlns=\"{}\"><AdhocQuery><Slot name=\"$a\"><ValueList><Value>{value}</Value>\
                 </ValueList></Slot></AdhocQuery></q:AdhocQueryRequest>",
                ncp_ihe::ns::QUERY,
                ncp_ihe::ns::RIM
            )
        };
        let check_of = |xml: &str| check(&parsed(xml), xml.as_bytes());
        let signs = |texts: usize| vec!["&".repeat(1000); texts].join(",");
        // As every caller writes it, it goes on as it came.
        assert_eq!(check_of(&of(&signs(20).replace('&', "&amp;"))), Ok(()));
        let told = check_of(&of(&format!("<![CDATA[{}]]>", signs(20)))).expect_err("five times as long");
        assert!(told.to_string().starts_with(QUERY_GROWS), "{told}");
        let told = check_of(&of(&format!("<![CDATA[{}]]>", signs(60)))).expect_err("60 kB that become 300");
        assert!(told.to_string().starts_with(QUERY_TOO_LONG), "{told}");
    }

    proptest! {
        /// What passes fits its record and has not grown, whatever way it was written: CDATA sections, references, white
        /// space in attributes, a namespace that is declared once and used by many.
        #[test]
        fn se_22_what_passes_fits(
            pieces in proptest::collection::vec((0..5_u8, 1..3000_usize), 0..40),
            declared in 0..60_usize,
        ) {
            let mut list = String::new();
            for (kind, length) in pieces {
                list.push_str(&match kind {
                    0 => "x".repeat(length),
                    1 => format!("<![CDATA[{}]]>,", "&".repeat(length)),
                    2 => "&#x26;".repeat(length),
                    3 => format!("<w z:a='\t'/>{},", "'".repeat(length)),
                    _ => format!("{}&amp;", "<w/>".repeat(length)),
                });
            }
            let prefixes: String = (0..declared).map(|n| format!(" xmlns:n{n}='urn:{}'", "n".repeat(n * 20))).collect();
            let xml = format!(
                "<q:AdhocQueryRequest xmlns:q=\"{}\" xmlns=\"{}\" xmlns:z=\"urn:z\"{prefixes}><Value>{list}</Value>\
                 </q:AdhocQueryRequest>",
                ncp_ihe::ns::QUERY,
                ncp_ihe::ns::RIM
            );
            let body = parsed(&xml);
            if check(&body, xml.as_bytes()).is_ok() {
                let written = body.to_xml().len();
                prop_assert!(written <= QUERY && written <= xml.len() * GROWTH, "{written} of {}", xml.len());
            }
        }
    }

    #[test]
    fn a_list_of_a_query_may_be_as_long_as_the_query() {
        let uuids = vec!["'urn:uuid:6a3f2f6e-1f5e-4a4e-9d53-8b1d3d1b9f10'"; 4000].join(",");
        let query = |value: &str| {
            parsed(&format!(
                "<q:AdhocQueryRequest xmlns:q=\"{}\" xmlns=\"{}\"><AdhocQuery><Slot name=\"$a\"><ValueList><Value>({value})</Value>\
                 </ValueList></Slot></AdhocQuery></q:AdhocQueryRequest>",
                ncp_ihe::ns::QUERY,
                ncp_ihe::ns::RIM
            ))
        };
        let body = query(&uuids);
        assert_eq!(check(&body, body.to_xml().as_bytes()), Ok(()));
        let body = query(&format!("'{}'", "x".repeat(TEXT)));
        assert!(check(&body, body.to_xml().as_bytes()).is_err(), "no list");
        let body = query(&[uuids.as_str(); 2].join(","));
        let told = check(&body, body.to_xml().as_bytes()).expect_err("over 256 KiB");
        assert!(told.to_string().starts_with("the query is longer than 256 KiB ("), "{told}");
    }
}
