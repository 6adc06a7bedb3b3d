//! XML hazards of the threat table (ids T-XML-…) and round trips.

use ncp_xml::{Element, LiftError, Limits, REQUESTS, XmlError, scan};
use proptest::prelude::*;

fn check(xml: &str) -> Result<(), XmlError> {
    scanned(xml.as_bytes(), &Limits::REQUEST)
}

/// By the scan; a document that is read as it comes must fare the same.
fn scanned(bytes: &[u8], limits: &Limits) -> Result<(), XmlError> {
    let whole = scan(bytes, limits);
    let apart = apart(bytes, limits, ("", "")).map(|_| ());
    // What is wrong first can differ where a whole document is looked at before its first tag.
    assert_eq!(whole.is_ok(), apart.is_ok(), "{whole:?} {apart:?}");
    whole
}

/// Read in pieces of three bytes: the tree, and what was lifted out of it.
fn apart(bytes: &[u8], limits: &Limits, lifted: (&str, &str)) -> Result<(Element, Vec<Element>), XmlError> {
    let source = tokio::io::BufReader::with_capacity(3, bytes);
    let mut taken = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let take = &mut |element| taken.push(element);
    let tree = runtime.block_on(Element::parse_lifting(source, limits, lifted, take, &mut REQUESTS.charge("")));
    match tree {
        Ok(tree) => Ok((tree, taken)),
        Err(LiftError::Xml(error)) => Err(error),
        Err(LiftError::Source(error)) => panic!("bytes in memory failed: {error}"),
    }
}

#[test]
fn a_list_is_read_apart_and_written_around() {
    let xml = "<l:list xmlns:l=\"u\" kind=\"long\"><l:head/><item n=\"1\">one</item><l:item>not &lt;this&gt;</l:item><item n=\"2\"/></l:list>";
    let (rest, items) = apart(xml.as_bytes(), &Limits::REQUEST, ("", "item")).expect("well-formed");
    assert_eq!(
        items.iter().map(|i| (i.get("n"), i.content())).collect::<Vec<_>>(),
        [(Some("1"), "one".to_owned()), (Some("2"), String::new())]
    );
    assert_eq!(rest.elements().map(Element::local).collect::<Vec<_>>(), ["head", "item"]);

    let shell = Element::new("u", "list").declare("l", "u").with(Element::new("u", "head")).gap();
    let (before, after) = shell.to_xml_around();
    let written = items.iter().fold(before, |text, item| text + &item.to_xml()) + &after;
    let (_, again) = apart(written.as_bytes(), &Limits::REQUEST, ("", "item")).expect("well-formed");
    assert_eq!(again, items);
    let whole = Element::new("u", "list").to_xml_around();
    assert_eq!((whole.0.as_str(), whole.1.as_str()), ("<list xmlns=\"u\"/>", ""));
}

#[test]
fn a_list_is_bounded_by_event_and_in_all() {
    let limits = Limits { text_bytes: 1000, bytes: 5000, ..Limits::REQUEST };
    let long = format!("<a b=\"{}\"/>", "x".repeat(2000));
    assert_eq!(apart(long.as_bytes(), &limits, ("", "i")).err(), Some(XmlError::TooLarge));
    let open = format!("<a><!-- {}", "x".repeat(2000));
    assert_eq!(apart(open.as_bytes(), &limits, ("", "i")).err(), Some(XmlError::TooLarge));
    let many = format!("<a>{}</a>", "<i/>".repeat(1250));
    assert_eq!(apart(many.as_bytes(), &limits, ("", "i")).err(), Some(XmlError::TooLarge));
}

#[test]
fn t_xml_1_to_8_doctype_and_entities() {
    for xml in [
        "<!DOCTYPE a><a/>",
        "<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>",
        "<!DOCTYPE a [<!ENTITY x SYSTEM \"http://127.0.0.1/\">]><a>&x;</a>",
        "<!DOCTYPE a [<!ENTITY % p SYSTEM \"http://127.0.0.1/\"> %p;]><a/>",
        "<!DOCTYPE a [<!ENTITY b \"c\"><!ENTITY d \"&b;&b;\">]><a>&d;</a>",
    ] {
        assert_eq!(check(xml), Err(XmlError::Doctype), "{xml}");
    }
    assert_eq!(check("<a>&x;</a>"), Err(XmlError::Entity));
    assert_eq!(check("<a b=\"&x;\"/>"), Err(XmlError::Entity));
}

#[test]
fn t_xml_9_to_14_sizes() {
    let deep = "<a>".repeat(10_000);
    assert_eq!(check(&deep), Err(XmlError::TooDeep));
    let wide: String = (0..60_000).map(|i| format!(" a{i}=\"\"")).collect();
    assert_eq!(check(&format!("<a{wide}/>")), Err(XmlError::TooManyAttributes));
    let declared: String = (0..120).map(|i| format!(" xmlns:a{i}=\"u\"")).collect();
    let few = Limits { attributes: 100, ..Limits::REQUEST };
    assert_eq!(scanned(format!("<a{declared}/>").as_bytes(), &few), Err(XmlError::TooManyAttributes));
    assert_eq!(check(&format!("<a b=\"{}\"/>", "x".repeat(70_000))), Err(XmlError::TooManyAttributes));
    assert_eq!(check(&format!("<a>{}</a>", "<b/>".repeat(200_001))), Err(XmlError::TooManyNodes));
    let limits = Limits { text_bytes: 10, ..Limits::REQUEST };
    assert_eq!(scanned(b"<a>0123456789<![CDATA[x]]></a>", &limits), Err(XmlError::TooLarge));
    assert_eq!(scanned(&[b' '; 100], &Limits { bytes: 99, ..limits }), Err(XmlError::TooLarge));
}

#[test]
fn se_07_namespaces_in_scope_have_an_end() {
    let declared = |depth: usize, each: usize| {
        let names = |at: usize| (0..each).map(|i| format!(" xmlns:p{at}x{i}='u'")).collect::<String>();
        let open: String = (0..depth).map(|at| format!("<a{}>", names(at))).collect();
        format!("<r>{open}{}<b xmlns='u'/></r>", "</a>".repeat(depth))
    };
    assert_eq!(check(&declared(2, 64)), Ok(()));
    assert_eq!(check(&declared(3, 64)), Err(XmlError::TooManyAttributes));
    // What is out of scope counts no longer.
    check(&format!("<r>{}</r>", "<a xmlns:p='u'/>".repeat(2000))).expect("one at a time");
}

#[test]
fn t_xml_15_to_20_encodings() {
    assert_eq!(check("<?xml version=\"1.1\"?><a/>"), Err(XmlError::Malformed));
    assert_eq!(check("<?xml version=\"1.0\" encoding=\"utf-16\"?><a/>"), Err(XmlError::Encoding));
    assert_eq!(check("<a>\u{0}</a>"), Err(XmlError::Encoding));
    assert_eq!(check("<a>&#0;</a>"), Err(XmlError::Encoding));
    assert_eq!(check("<a>&#xD800;</a>"), Err(XmlError::Encoding));
    assert_eq!(scanned(b"<a>\xC0\xAF</a>", &Limits::REQUEST), Err(XmlError::Encoding));
    let utf16: Vec<u8> = "<a/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(scanned(&utf16, &Limits::REQUEST).is_err());
}

#[test]
fn t_xml_25_to_27_shape() {
    for xml in [
        "",
        " ",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a/>x",
        "<a/>&amp;",
        "x<a/>",
        "<a b='1' b='2'/>",
        "<a",
        "<p:a/>",
        "</a>",
    ] {
        assert!(check(xml).is_err(), "{xml:?}");
    }
    assert_eq!(check("<a xmlns:p='u' xmlns:q='u' p:b='' q:b=''/>"), Err(XmlError::Malformed));
    assert!(check("<a xmlns:xml='u'/>").is_err());
    check("<?xml version='1.0' encoding='UTF-8'?>\n<!-- c --><a><?pi x?></a>\n<!-- d -->").expect("well-formed");
}

#[test]
fn text_around_comments_is_one_text() {
    let a = Element::parse(b"<a>on<!-- x -->e<![CDATA[ & ]]>t&lt;o</a>", &Limits::REQUEST).expect("well-formed");
    assert_eq!(a.content(), "one & t<o");
}

#[test]
fn names_are_written_as_declared() {
    let role = Element::new("urn:hl7-org:v3", "Role").attr("code", "221");
    let holder = Element::new("urn:oasis:names:tc:SAML:2.0:assertion", "AttributeValue")
        .attr_in("http://www.w3.org/2001/XMLSchema-instance", "type", "CE")
        .with(role);
    let xml = holder.to_xml();
    assert!(xml.contains("<Role xmlns=\"urn:hl7-org:v3\" code=\"221\"/>"), "{xml}");
    assert!(xml.contains("xsi:type=\"CE\""), "{xml}");
    let prefixed = Element::new("urn:s", "E").declare("s", "urn:s").with(Element::new("urn:s", "F").text("s:Sender"));
    assert_eq!(prefixed.to_xml(), "<s:E xmlns:s=\"urn:s\"><s:F>s:Sender</s:F></s:E>");
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let scanned = scanned(&bytes, &Limits::REQUEST).is_ok();
        prop_assert_eq!(scanned, Element::parse(&bytes, &Limits::REQUEST).is_ok());
    }

    #[test]
    fn markup_like_bytes_do_no_harm(xml in "[<>/a:b= '\"&;#x!\\[\\]\\-?0-9\n]{0,60}") {
        let scanned = scanned(xml.as_bytes(), &Limits::REQUEST).is_ok();
        let parsed = Element::parse(xml.as_bytes(), &Limits::REQUEST);
        prop_assert_eq!(scanned, parsed.is_ok());
        if let Ok(tree) = parsed {
            prop_assert_eq!(tree.written_len(), tree.to_xml().len());
        }
    }

    #[test]
    fn what_is_written_reads_back(text in "[^\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}\u{fffe}\u{ffff}]{1,40}", ns in "[a-z:]{0,8}", inner in "[a-z:]{0,8}") {
        let tree = Element::new(&ns, "a").attr("x", text.clone()).attr_in("urn:attr", "y", text.clone())
            .with(Element::new(&inner, "b").text(text.clone()).with(Element::new(&ns, "c")));
        let read = Element::parse(tree.to_xml().as_bytes(), &Limits::REQUEST).expect("our own XML");
        prop_assert_eq!(&read, &tree);
        let odd = tree.declare("p", &inner).raw("<r/>").gap();
        for tree in [odd, read] {
            prop_assert_eq!(tree.written_len(), tree.to_xml().len());
        }
    }
}
