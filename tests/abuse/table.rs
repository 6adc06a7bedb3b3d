//! The rows: id, message, and a word of the rule that must refuse it.

use ncp_soap::ns;

use super::{element, envelope, security};

pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) message: Vec<u8>,
    pub(crate) expected: &'static str,
}

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";

pub(crate) fn rows(hcp: &str, trc: &str) -> Vec<Row> {
    let mut out = Vec::new();
    let mut row = |id, message, expected| out.push(Row { id, message, expected });
    let forged = |xml: &str| xml.replace("Radiologist on duty", "Somebody else");
    let signature = part(hcp, "<ds:Signature ", "</ds:Signature>");
    let original = hcp.replace(&signature, "");
    let renamed = |xml: &str| xml.replacen(" ID=\"_", " ID=\"_evil", 1);
    let into_signature =
        |xml: &str, inner: &str| xml.replacen("</ds:Signature>", &format!("{inner}</ds:Signature>"), 1);
    let before_end =
        |xml: &str, inner: &str| xml.replacen("</saml:Assertion>", &format!("{inner}</saml:Assertion>"), 1);
    let extensions = |inner: &str| format!("<Extensions>{inner}</Extensions>");

    // Wrapping shapes 1 to 8, the part of the SAML Response played by wsse:Security.
    row("T-XSW-1", security(&[&into_signature(&renamed(&forged(hcp)), &original), trc]), "structure");
    row("T-XSW-2", security(&[&original, &signature, &renamed(&forged(&original)), trc]), "structure");
    row("T-XSW-3", security(&[&renamed(&forged(&original)), hcp, trc]), "structure");
    row("T-XSW-4", security(&[&before_end(&renamed(&forged(&original)), hcp), trc]), "structure");
    row("T-XSW-5", security(&[&renamed(&forged(hcp)), &original, trc]), "structure");
    row("T-XSW-6", security(&[&into_signature(&renamed(&forged(hcp)), &original), trc]), "structure");
    row("T-XSW-7", security(&[&extensions(&forged(hcp)), hcp, trc]), "structure");
    row(
        "T-XSW-8",
        security(&[&into_signature(&renamed(&forged(hcp)), &element(DSIG, "Object", &original)), trc]),
        "structure",
    );
    let only = |assertions: &[&str]| String::from_utf8(security(assertions)).expect("text");
    let moved = only(&[&renamed(&forged(&original)), trc]).replace("<x/>", hcp);
    row("T-XSW-9", moved.into_bytes(), "structure");
    let beside = only(&[hcp, trc]).replacen("<s:Header>", &format!("<s:Header>{}", forged(hcp)), 1);
    row("T-XSW-10", beside.into_bytes(), "structure");
    let one = element(ns::WSSE, "Security", hcp);
    row("T-XSW-11", envelope(&format!("{one}{}", element(ns::WSSE, "Security", trc)), "<x/>"), "structure");
    row("T-XSW-12", security(&[hcp, hcp, trc]), "structure");
    let id = attribute(hcp, "ID");
    for (number, name) in [("T-XSW-13a", "xml:id"), ("T-XSW-13b", "Id"), ("T-XSW-13c", "id"), ("T-XSW-13d", "ID")] {
        row(
            number,
            envelope(&element(ns::WSSE, "Security", &format!("{hcp}{trc}")), &format!("<x {name}=\"{id}\"/>")),
            "structure",
        );
    }
    let issuer = part(hcp, "<saml:Issuer ", "</saml:Issuer>");
    row(
        "T-XSW-14",
        security(&[&hcp.replace(&issuer, "").replacen(&signature, &format!("{signature}{issuer}"), 1), trc]),
        "structure",
    );

    // Signatures.
    row("T-SIG-1", security(&[&original, trc]), "signature.missing");
    let trc_signature = part(trc, "<ds:Signature ", "</ds:Signature>");
    row("T-SIG-2", security(&[hcp, &trc.replace(&trc_signature, "")]), "signature.missing");
    row("T-SIG-3", security(&[&emptied(hcp, "ds:SignatureValue"), trc]), "signature.value");
    let reference = part(hcp, "<ds:Reference ", "</ds:Reference>");
    row("T-SIG-4", security(&[&hcp.replace(&reference, ""), trc]), "signedinfo");
    row("T-SIG-5", security(&[&forged(hcp), trc]), "signature: does not verify");
    row("T-SIG-5b", security(&[hcp, &trc.replace("1^^^", "2^^^")]), "signature: does not verify");
    row(
        "T-SIG-6",
        security(&[&hcp.replacen(&signature, &format!("{signature}{signature}"), 1), trc]),
        "signature.twice",
    );
    let info = part(hcp, "<ds:SignedInfo>", "</ds:SignedInfo>");
    row("T-SIG-7", security(&[&hcp.replacen(&info, &format!("{info}{info}"), 1), trc]), "signature.children");

    // References.
    for (number, uri) in [
        ("T-REF-1", ""),
        ("T-REF-2", "#"),
        ("T-REF-3", "#_dangling"),
        ("T-REF-4", "#xpointer(/)"),
        ("T-REF-5", "#xpointer(id('x'))"),
        ("T-REF-6", "http://127.0.0.1:1/"),
        ("T-REF-7", "file:///etc/passwd"),
        ("T-REF-8", "cid:x@y"),
    ] {
        row(
            number,
            security(&[&hcp.replacen(&format!("URI=\"#{id}\""), &format!("URI=\"{uri}\""), 1), trc]),
            "reference.uri",
        );
    }

    // Transforms and algorithms.
    let exclusive = "Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"";
    let transforms = part(hcp, "<ds:Transforms>", "</ds:Transforms>");
    let with_transforms = |new: String| hcp.replacen(&transforms, &new, 1);
    for (number, algorithm) in [
        ("T-TRF-1", "http://www.w3.org/TR/1999/REC-xslt-19991116"),
        ("T-TRF-2", "http://www.w3.org/TR/1999/REC-xpath-19991116"),
        ("T-TRF-3", "http://www.w3.org/2002/06/xmldsig-filter2"),
        ("T-TRF-6", "http://www.w3.org/2000/09/xmldsig#base64"),
        ("T-TRF-7", "http://www.w3.org/2000/09/xmldsig#enveloped-signature"),
        ("T-TRF-8", "http://www.w3.org/2001/10/xml-exc-c14n#WithComments"),
    ] {
        row(
            number,
            security(&[
                &with_transforms(transforms.replacen(exclusive, &format!("Algorithm=\"{algorithm}\""), 1)),
                trc,
            ]),
            "algorithm",
        );
    }
    row("T-TRF-4", security(&[&hcp.replacen(&reference, &reference.repeat(301), 1), trc]), "reference.twice");
    let many = transforms.replacen(
        "</ds:Transforms>",
        &format!("{}</ds:Transforms>", format!("<ds:Transform {exclusive}/>").repeat(200)),
        1,
    );
    row("T-TRF-5", security(&[&with_transforms(many), trc]), "transforms.number");
    let inclusive = hcp.replacen(
        &format!("<ds:CanonicalizationMethod {exclusive}/>"),
        "<ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/>",
        1,
    );
    row("T-TRF-9", security(&[&inclusive, trc]), "algorithm: c14n");
    let prefixes: String = (0..10_000).map(|i| format!("p{i} ")).collect();
    row(
        "T-TRF-10",
        security(&[&hcp.replacen("PrefixList=\"xs\"", &format!("PrefixList=\"{prefixes}\""), 1), trc]),
        "c14n.prefixes",
    );
    let method = attribute(&part(hcp, "<ds:SignatureMethod ", "/>"), "Algorithm");
    for (number, algorithm) in [
        ("T-ALG-1", "http://www.w3.org/2000/09/xmldsig#rsa-sha1"),
        ("T-ALG-3", "http://www.w3.org/2001/04/xmldsig-more#rsa-md5"),
        ("T-ALG-4", "http://www.w3.org/2000/09/xmldsig#dsa-sha1"),
        ("T-KEY-19", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"),
    ] {
        row(number, security(&[&hcp.replacen(&method, algorithm, 1), trc]), "algorithm: signature");
    }
    row(
        "T-ALG-2",
        security(&[
            &hcp.replacen("http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2000/09/xmldsig#sha1", 1),
            trc,
        ]),
        "algorithm: digest",
    );
    row(
        "T-ALG-9",
        security(&[hcp, trc, "<EncryptedAssertion xmlns=\"urn:oasis:names:tc:SAML:2.0:assertion\"/>"]),
        "structure",
    );

    // Keys.
    let data = part(hcp, "<ds:X509Data>", "</ds:X509Data>");
    for (number, key) in [
        ("T-KEY-13", "<ds:KeyValue/>".to_owned()),
        ("T-KEY-14", "<ds:KeyName>x</ds:KeyName>".to_owned()),
        ("T-KEY-15", "<ds:RetrievalMethod URI=\"http://127.0.0.1:1/\"/>".to_owned()),
        ("T-KEY-17", String::new()),
        ("T-KEY-18", data.repeat(50)),
    ] {
        row(number, security(&[&hcp.replacen(&data, &key, 1), trc]), "keyinfo");
    }

    // Nothing at all, and the wrong things.
    row("no-hcp", security(&[trc]), "no hcp");
    row("no-security", envelope("", "<x/>"), "no hcp");
    row("unknown-kind", security(&[&hcp.replacen("urn:ehdsi:assertions:hcp", "urn:other", 1), trc]), "assertion.kind");
    row("doctype", [b"<!DOCTYPE a>".as_slice(), &security(&[hcp, trc])].concat(), "structure: xml");
    out
}

fn part(xml: &str, from: &str, to: &str) -> String {
    let begin = xml.find(from).unwrap_or_else(|| panic!("{from} is in the template"));
    let end = xml[begin..].find(to).unwrap_or_else(|| panic!("{to} is in the template"));
    xml[begin..begin + end + to.len()].to_owned()
}

fn attribute(xml: &str, name: &str) -> String {
    let from = format!(" {name}=\"");
    let rest = &xml[xml.find(&from).unwrap_or_default() + from.len()..];
    rest.split('"').next().unwrap_or_default().to_owned()
}

fn emptied(xml: &str, name: &str) -> String {
    let whole = part(xml, &format!("<{name}>"), &format!("</{name}>"));
    xml.replacen(&whole, &format!("<{name}></{name}>"), 1)
}
