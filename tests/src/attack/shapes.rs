//! Rows that change the text of good assertions: wrapping, signature shape, references, transforms, canonical form,
//! KeyInfo, algorithms, comments.

use ncp_soap::ns;
use ncp_xml::Element;

use super::{Attacker, INTEGRITY, MALFORMED, Row, SERVED};

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const REFUSED: &[&str] = &[INTEGRITY];
const REFUSED_OR_MALFORMED: &[&str] = &[INTEGRITY, MALFORMED];
const MALFORMED_ONLY: &[&str] = &[MALFORMED];
/// The text tricks that change nothing: the full text is used, or the message is refused.
const SAME_OR_REFUSED: &[&str] = &[SERVED, INTEGRITY];

struct Rows<'a> {
    attacker: &'a Attacker,
    out: Vec<Row>,
}

impl Rows<'_> {
    fn bytes(&mut self, id: &str, input: &str, expected: &[&'static str], rule: &'static str, bytes: Vec<u8>) {
        let messages = vec![self.attacker.changed(bytes)];
        self.out.push(Row { id: id.into(), input: input.into(), expected: expected.to_vec(), rule, messages });
    }

    /// Assertions in one Security header; refused by `rule`.
    fn row(&mut self, id: &str, input: &str, rule: &'static str, assertions: &[&str]) {
        let bytes = self.attacker.query(&assertions.concat());
        self.bytes(id, input, REFUSED, rule, bytes);
    }
}

pub(super) fn rows(attacker: &Attacker, hcp: &str, trc: &str) -> Vec<Row> {
    let mut rows = Rows { attacker, out: Vec::new() };
    wrapping(&mut rows, hcp, trc);
    signatures(&mut rows, hcp, trc);
    references(&mut rows, hcp, trc);
    canonical(&mut rows, hcp, trc);
    keys(&mut rows, hcp, trc);
    comments(&mut rows, hcp, trc);
    rows.out
}

fn forged(xml: &str) -> String {
    xml.replace("Radiologist on duty", "Somebody else")
}

fn renamed(xml: &str) -> String {
    xml.replacen(" ID=\"_", " ID=\"_evil", 1)
}

fn element(namespace: &str, local: &str, inner: &str) -> String {
    Element::new(namespace, local).raw(inner).to_xml()
}

fn wrapping(rows: &mut Rows<'_>, hcp: &str, trc: &str) {
    let signature = part(hcp, "<ds:Signature ", "</ds:Signature>");
    let original = hcp.replace(&signature, "");
    let into_signature =
        |xml: &str, inner: &str| xml.replacen("</ds:Signature>", &format!("{inner}</ds:Signature>"), 1);
    let before_end =
        |xml: &str, inner: &str| xml.replacen("</saml:Assertion>", &format!("{inner}</saml:Assertion>"), 1);
    let s = "structure";
    let evil = renamed(&forged(hcp));
    let unsigned = renamed(&forged(&original));
    rows.row(
        "T-XSW-1",
        "forged root holds the signature, the original inside it",
        s,
        &[&into_signature(&evil, &original), trc],
    );
    rows.row(
        "T-XSW-2",
        "original and detached signature before the forged root",
        s,
        &[&original, &signature, &unsigned, trc],
    );
    rows.row("T-XSW-3", "forged unsigned assertion before the signed original", s, &[&unsigned, hcp, trc]);
    rows.row("T-XSW-4", "signed original inside the forged one", s, &[&before_end(&unsigned, hcp), trc]);
    rows.row("T-XSW-5", "forged one holds the signature, the original without it follows", s, &[&evil, &original, trc]);
    let nested = into_signature(&evil, &element(DSIG, "Object", &format!("<x xmlns=\"\">{original}</x>")));
    rows.row("T-XSW-6", "as 5, the original nested in the signature", s, &[&nested, trc]);
    let extensions = format!("<Extensions xmlns=\"\">{}</Extensions>", forged(hcp));
    rows.row("T-XSW-7", "forged copy with the same ID in an Extensions element first", s, &[&extensions, hcp, trc]);
    rows.row(
        "T-XSW-8",
        "original in ds:Object of the forged one's signature",
        s,
        &[&into_signature(&evil, &element(DSIG, "Object", &original)), trc],
    );
    for (id, copy, what) in [("T-XSW-9", hcp.to_owned(), "same"), ("T-XSW-9b", renamed(hcp), "another")] {
        let bytes = into_body(rows.attacker.query(&[unsigned.as_str(), trc].concat()), &copy);
        let input = format!("signed original in the Body ({what} ID), forged one in Security");
        rows.bytes(id, &input, REFUSED_OR_MALFORMED, s, bytes);
    }
    let security = |inner: &str| element(ns::WSSE, "Security", inner);
    let outside = rows.attacker.envelope(&format!("{hcp}{}", security(&[unsigned.as_str(), trc].concat())));
    rows.bytes("T-XSW-10", "signed original in the Header outside Security, forged one in it", REFUSED, s, outside);
    let two = rows.attacker.envelope(&format!("{}{}", security(hcp), security(trc)));
    rows.bytes("T-XSW-11", "two Security headers", REFUSED, "security.twice", two);
    rows.row("T-XSW-12", "two HCP assertions", s, &[hcp, hcp, trc]);
    rows.row("T-XSW-12b", "two TRC assertions", "assertion.twice", &[hcp, trc, &renamed(trc)]);
    let id = attribute(hcp, "ID");
    for (row, name) in [("T-XSW-13", "xml:id"), ("T-XSW-13b", "Id"), ("T-XSW-13c", "id"), ("T-XSW-13d", "ID")] {
        let other = format!("<x xmlns=\"urn:x\" {name}=\"{id}\"/>");
        let bytes = into_body(rows.attacker.query(&[hcp, trc].concat()), &other);
        let input = format!("another element has the value in {name}");
        rows.bytes(row, &input, REFUSED_OR_MALFORMED, s, bytes);
    }
    let wsu = "xmlns:wsu=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd\"";
    let bytes =
        into_body(rows.attacker.query(&[hcp, trc].concat()), &format!("<x xmlns=\"urn:x\" {wsu} wsu:Id=\"{id}\"/>"));
    rows.bytes("T-XSW-13e", "another element has the value in wsu:Id", REFUSED_OR_MALFORMED, s, bytes);
    let third = into_body(rows.attacker.query(&[hcp, trc].concat()), &renamed(hcp));
    let input = "one more in the Body, beside good ones";
    rows.bytes("T-XSW-12c", input, REFUSED_OR_MALFORMED, "assertion.elsewhere", third);
    let issuer = part(hcp, "<saml:Issuer ", "</saml:Issuer>");
    let swapped = hcp.replace(&issuer, "").replacen(&signature, &format!("{signature}{issuer}"), 1);
    rows.row("T-XSW-14", "Signature before Issuer", s, &[&swapped, trc]);
}

fn signatures(rows: &mut Rows<'_>, hcp: &str, trc: &str) {
    let signature = part(hcp, "<ds:Signature ", "</ds:Signature>");
    let trc_signature = part(trc, "<ds:Signature ", "</ds:Signature>");
    rows.row("T-SIG-1", "HCP without signature", "signature.missing", &[&hcp.replace(&signature, ""), trc]);
    rows.row("T-SIG-2", "TRC without signature", "signature.missing", &[hcp, &trc.replace(&trc_signature, "")]);
    rows.row("T-SIG-3", "empty SignatureValue", "signature.value", &[&emptied(hcp, "ds:SignatureValue"), trc]);
    let reference = part(hcp, "<ds:Reference ", "</ds:Reference>");
    rows.row("T-SIG-4", "SignedInfo without Reference", "signedinfo", &[&hcp.replace(&reference, ""), trc]);
    let broken = "signature: does not verify";
    rows.row("T-SIG-5", "name changed after signing", broken, &[&forged(hcp), trc]);
    rows.row("T-SIG-5b", "patient changed after signing", broken, &[hcp, &trc.replace("^^^&amp;", "9^^^&amp;")]);
    rows.row("T-SIG-5c", "NameID changed after signing", broken, &[&hcp.replace("hpr-9144889", "hpr-1"), trc]);
    let until = attribute(hcp, "NotOnOrAfter");
    let moved = hcp.replace(&format!("NotOnOrAfter=\"{until}\""), "NotOnOrAfter=\"2099-01-01T00:00:00.000Z\"");
    rows.row("T-SIG-5d", "Conditions changed after signing", broken, &[&moved, trc]);
    rows.row(
        "T-SIG-6",
        "two Signatures",
        "signature.twice",
        &[&hcp.replacen(&signature, &format!("{signature}{signature}"), 1), trc],
    );
    let info = part(hcp, "<ds:SignedInfo>", "</ds:SignedInfo>");
    rows.row(
        "T-SIG-7",
        "two SignedInfo",
        "signature.children",
        &[&hcp.replacen(&info, &format!("{info}{info}"), 1), trc],
    );
    for (id, name) in
        [("T-SIG-8", "ds:DigestValue"), ("T-SIG-8b", "ds:SignatureValue"), ("T-SIG-8c", "ds:X509Certificate")]
    {
        let whole = part(hcp, &format!("<{name}>"), &format!("</{name}>"));
        let (head, tail) = whole.split_at(name.len() + 12);
        let bytes = rows.attacker.query(&[&hcp.replacen(&whole, &format!("{head}<!-- x -->{tail}"), 1), trc].concat());
        rows.bytes(id, &format!("comment in {name}"), SAME_OR_REFUSED, "", bytes);
    }
}

fn references(rows: &mut Rows<'_>, hcp: &str, trc: &str) {
    let id = attribute(hcp, "ID");
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
        let changed = hcp.replacen(&format!("URI=\"#{id}\""), &format!("URI=\"{uri}\""), 1);
        rows.row(number, &format!("Reference URI {uri:?}"), "reference.uri", &[&changed, trc]);
    }
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
        let changed = with_transforms(transforms.replacen(exclusive, &format!("Algorithm=\"{algorithm}\""), 1));
        rows.row(number, &format!("Transform {algorithm}"), "algorithm", &[&changed, trc]);
    }
    let enveloped = "Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"";
    let changed = with_transforms(transforms.replacen(enveloped, exclusive, 1));
    rows.row("T-TRF-7b", "no enveloped-signature among the transforms", "transform.enveloped", &[&changed, trc]);
    let reference = part(hcp, "<ds:Reference ", "</ds:Reference>");
    rows.row(
        "T-TRF-4",
        "301 References",
        "reference.twice",
        &[&hcp.replacen(&reference, &reference.repeat(301), 1), trc],
    );
    let many = format!("{}</ds:Transforms>", format!("<ds:Transform {exclusive}/>").repeat(200));
    let many = with_transforms(transforms.replacen("</ds:Transforms>", &many, 1));
    rows.row("T-TRF-5", "200 Transforms", "transforms.number", &[&many, trc]);
    let inclusive = hcp.replacen(
        &format!("<ds:CanonicalizationMethod {exclusive}/>"),
        "<ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/>",
        1,
    );
    rows.row("T-TRF-9", "inclusive c14n in SignedInfo", "algorithm: c14n", &[&inclusive, trc]);
    let prefixes: String = (0..10_000).map(|i| format!("p{i} ")).collect();
    let listed = hcp.replacen("PrefixList=\"xs\"", &format!("PrefixList=\"{prefixes}\""), 1);
    rows.row("T-TRF-10", "PrefixList of 10000 names", "c14n.prefixes", &[&listed, trc]);
}

/// What makes canonicalisation fail or differ between readers.
fn canonical(rows: &mut Rows<'_>, hcp: &str, trc: &str) {
    let subject = |with: &str| hcp.replacen("<saml:Subject>", &format!("<saml:Subject {with}>"), 1);
    let relative = subject("xmlns:r=\"relative/uri\" r:a=\"1\"");
    let bytes = rows.attacker.query(&[&relative, trc].concat());
    rows.bytes("T-C14-1", "relative namespace URI: c14n fails", REFUSED_OR_MALFORMED, "", bytes);
    for (id, input, with) in [
        ("T-C14-2", "attribute twice", "a=\"1\" a=\"2\""),
        ("T-C14-2b", "attribute twice by two prefixes", "xmlns:p=\"urn:p\" xmlns:q=\"urn:p\" p:a=\"1\" q:a=\"2\""),
        ("T-C14-3", "namespace declared twice", "xmlns:p=\"urn:p\" xmlns:p=\"urn:q\""),
        ("T-C14-4", "undeclared prefix", "undeclared:a=\"1\""),
        ("T-C14-5", "xmlns:xml bound to another namespace", "xmlns:xml=\"urn:x\""),
        ("T-C14-5b", "xmlns bound as a prefix", "xmlns:xmlns=\"urn:x\""),
    ] {
        let bytes = rows.attacker.query(&[&subject(with), trc].concat());
        rows.bytes(id, input, REFUSED_OR_MALFORMED, "", bytes);
    }
    let doctype = [b"<!DOCTYPE a>".as_slice(), &rows.attacker.query(&[hcp, trc].concat())].concat();
    rows.bytes("T-C14-doctype", "DOCTYPE before a good message", MALFORMED_ONLY, "structure: xml", doctype);
}

fn keys(rows: &mut Rows<'_>, hcp: &str, trc: &str) {
    let data = part(hcp, "<ds:X509Data>", "</ds:X509Data>");
    let loops = "<dsig11:KeyInfoReference xmlns:dsig11=\"http://www.w3.org/2009/xmldsig11#\" URI=\"#k\"/>";
    for (number, input, key) in [
        ("T-KEY-13", "KeyValue only", "<ds:KeyValue/>".to_owned()),
        ("T-KEY-14", "KeyName only", "<ds:KeyName>x</ds:KeyName>".to_owned()),
        ("T-KEY-15", "RetrievalMethod", "<ds:RetrievalMethod URI=\"http://127.0.0.1:1/\"/>".to_owned()),
        ("T-KEY-16", "KeyInfoReference to itself", loops.to_owned()),
        ("T-KEY-17", "empty KeyInfo", String::new()),
        ("T-KEY-18", "50 certificates", data.repeat(50)),
    ] {
        rows.row(number, &format!("KeyInfo: {input}"), "keyinfo", &[&hcp.replacen(&data, &key, 1), trc]);
    }
    let method = attribute(&part(hcp, "<ds:SignatureMethod ", "/>"), "Algorithm");
    for (number, algorithm) in [
        ("T-ALG-1", "http://www.w3.org/2000/09/xmldsig#rsa-sha1"),
        ("T-ALG-3", "http://www.w3.org/2001/04/xmldsig-more#rsa-md5"),
        ("T-ALG-4", "http://www.w3.org/2000/09/xmldsig#dsa-sha1"),
        ("T-KEY-19", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"),
    ] {
        let changed = hcp.replacen(&method, algorithm, 1);
        rows.row(number, &format!("SignatureMethod {algorithm}"), "algorithm: signature", &[&changed, trc]);
    }
    let element = part(hcp, "<ds:SignatureMethod ", "/>");
    for (id, bits) in [("T-KEY-20", 1), ("T-KEY-20b", 40)] {
        let long = format!(
            "<ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#hmac-sha256\"><ds:HMACOutputLength>{bits}</ds:HMACOutputLength></ds:SignatureMethod>"
        );
        let changed = hcp.replacen(&element, &long, 1);
        rows.row(id, &format!("HMACOutputLength {bits}"), "algorithm: signature", &[&changed, trc]);
    }
    let sha1 = hcp.replacen("http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2000/09/xmldsig#sha1", 1);
    rows.row("T-ALG-2", "SHA-1 digest", "algorithm: digest", &[&sha1, trc]);
    let encrypted = "<EncryptedAssertion xmlns=\"urn:oasis:names:tc:SAML:2.0:assertion\"><xenc:EncryptedData xmlns:xenc=\"http://www.w3.org/2001/04/xmlenc#\"><xenc:EncryptionMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#rsa-1_5\"/></xenc:EncryptedData></EncryptedAssertion>";
    rows.row("T-ALG-9", "EncryptedAssertion with RSA 1.5", "structure", &[hcp, trc, encrypted]);
    let value = part(hcp, "<ds:SignatureValue>", "</ds:SignatureValue>");
    let padding = format!("<ds:SignatureValue>{}</ds:SignatureValue>", "AAEC".repeat(86));
    let rule = "signature";
    rows.row("T-ALG-8", "SignatureValue without the padding", rule, &[&hcp.replacen(&value, &padding, 1), trc]);
}

/// Comments lie outside the signed bytes under exclusive c14n: the joined text is what is used.
fn comments(rows: &mut Rows<'_>, hcp: &str, trc: &str) {
    let mut row = |id: &str, input: &str, hcp: &str, trc: &str| {
        let bytes = rows.attacker.query(&[hcp, trc].concat());
        rows.bytes(id, input, SAME_OR_REFUSED, "", bytes);
    };
    let both = |with: &str| {
        let split = format!("hpr-{with}9144889");
        (hcp.replace("hpr-9144889", &split), trc.replace("hpr-9144889", &split))
    };
    let (h, t) = both("<!-- x -->");
    row("T-CMT-1", "comment splits NameID", &h, &t);
    let (h, t) = both("<?x y?>");
    row("T-CMT-1b", "processing instruction splits NameID", &h, &t);
    let patient = trc.replacen("^^^&amp;", "<!-- x -->^^^&amp;", 1);
    row("T-CMT-2", "comment splits the patient id of the TRC", hcp, &patient);
    let role = hcp.replacen("<Role ", "<!-- x --><Role ", 1);
    row("T-CMT-3", "comment before the role", &role, trc);
    let issuer = hcp.replacen(":countryB", ":country<!-- x -->B", 1);
    row("T-CMT-4", "comment splits the issuer", &issuer, trc);
    let audience = hcp.replacen("assertions.audience", "assertions<!-- x -->.audience", 1);
    row("T-CMT-5", "comment splits the audience", &audience, trc);
    let (h, t) = (hcp.replace(">hpr-9144889<", "><![CDATA[hpr-9144889]]><"), trc.to_owned());
    row("T-CMT-1c", "CDATA around NameID", &h, &t);
}

/// Puts XML inside the query of a message.
fn into_body(message: Vec<u8>, inner: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&message).into_owned();
    let end = text.rfind("AdhocQueryRequest>").and_then(|at| text[..at].rfind("</")).unwrap_or_default();
    format!("{}{inner}{}", &text[..end], &text[end..]).into_bytes()
}

pub(super) fn part(xml: &str, from: &str, to: &str) -> String {
    let begin = xml.find(from).unwrap_or_else(|| panic!("{from} is in the template"));
    let end = xml[begin..].find(to).unwrap_or_else(|| panic!("{to} is in the template"));
    xml[begin..begin + end + to.len()].to_owned()
}

pub(super) fn attribute(xml: &str, name: &str) -> String {
    let from = format!(" {name}=\"");
    let rest = &xml[xml.find(&from).unwrap_or_default() + from.len()..];
    rest.split('"').next().unwrap_or_default().to_owned()
}

fn emptied(xml: &str, name: &str) -> String {
    let whole = part(xml, &format!("<{name}>"), &format!("</{name}>"));
    xml.replacen(&whole, &format!("<{name}></{name}>"), 1)
}
