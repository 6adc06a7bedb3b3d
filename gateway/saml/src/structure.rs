//! The closed signature profile, checked on structure before any cryptography.
//!
//! One Security header; in it one HCP assertion, at most one TRC and one next-of-kin assertion. Each has one Signature, directly
//! after Issuer, with one SignedInfo and one Reference to the assertion's own ID, the transforms enveloped-signature and
//! exclusive c14n, and one X509Certificate. Nothing else in the message carries that ID. A national issuer may send a chain and
//! name its key, and sign with RSA and SHA-384 or SHA-512, or with ECDSA on P-384 and SHA-384.

use base64::Engine;
use jiff::Timestamp;
use ncp_xml::{Element, Node, is_for_us};

use crate::AssertionError as E;
use crate::assertion::{SKEW_S, instant};
use crate::content;
use crate::error::Oversize;
use crate::names::{DSIG, EXC_C14N, HCP, NOK, SAML, SMP, TRC};

pub(crate) const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const WSSE: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const WSU: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
/// What may stand in a Security header beside assertions: of a signature over the message nothing is taken.
const BESIDE: &[(&str, &str)] =
    &[(WSU, "Timestamp"), (WSSE, "BinarySecurityToken"), (WSSE, "SecurityTokenReference"), (DSIG, "Signature")];
/// Longest text of an assertion, and longest attribute of an element of it, bytes: each may be named in several records.
const LONGEST_TEXT: usize = 4096;
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const INCLUSIVE_C14N: &str = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315";
const SHA256: &str = "http://www.w3.org/2001/04/xmlenc#sha256";
const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
const ECDSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256";
/// What national issuers use besides (RFC 9231 2.3.3, 2.3.4, 2.3.6; XML Encryption 1.1 5.8).
const NATIONAL_METHODS: [&str; 2] =
    ["http://www.w3.org/2001/04/xmldsig-more#rsa-sha384", "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512"];
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const NATIONAL_DIGESTS: [&str; 2] =
    ["http://www.w3.org/2001/04/xmldsig-more#sha384", "http://www.w3.org/2001/04/xmlenc#sha512"];
/// Certificates of a chain at most.
const CHAIN: usize = 8;
/// Prefixes that an InclusiveNamespaces list may name; OpenNCP names one.
const PREFIXES: usize = 16;

/// What an assertion claims to be, by `Issuer/@NameQualifier` (nationally, an identity assertion needs none). Trusted only after verification, which reads it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Hcp,
    Trc,
    Nok,
}

/// An assertion whose structure holds.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) kind: Kind,
    /// Indexes among child elements, from the root.
    pub(crate) path: Vec<usize>,
    pub(crate) id: String,
    /// One; of a national issuer the whole chain, in any order.
    pub(crate) certificates: Vec<Vec<u8>>,
    /// Signed with ECDSA and SHA-384: the key is on P-384.
    pub(crate) is_p384: bool,
}

/// Whose signatures are expected: the profile of one side is never that of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Another country's NCP, and service metadata.
    CrossBorder,
    /// The country's own issuers.
    National,
}

/// Whose assertions are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Another country's NCP: identity assertions are marked as the eHDSI profile says.
    CrossBorder,
    /// A national issuer (XUA): what is no TRC is the identity assertion.
    National,
}

/// What was seen of a whole message while its Header was read.
#[derive(Default)]
pub(crate) struct Seen {
    assertions: usize,
    /// Values of the attributes that some reader takes for an ID.
    ids: Vec<String>,
}

impl Seen {
    /// Takes note of an element.
    pub(crate) fn see(&mut self, element: &Element) {
        self.assertions += usize::from(element.is(SAML, "Assertion") || element.is(SAML, "EncryptedAssertion"));
        let ids = element.attributes().iter().filter(|attribute| attribute.local().eq_ignore_ascii_case("id"));
        self.ids.extend(ids.map(|id| id.value().to_owned()));
    }
}

/// Finds the assertions by fixed path and checks their structure. A Security header for another node is not ours. Of the
/// envelope only its Header is needed; in the whole message, as it was seen, no other element may carry the ID of an
/// assertion.
pub(crate) fn locate(
    envelope: &Element,
    seen: &Seen,
    expected: Profile,
    side: Side,
    now: Timestamp,
) -> Result<Vec<Located>, E> {
    if !envelope.is(SOAP, "Envelope") {
        return Err(E::Structure("envelope"));
    }
    let Some((header_at, header)) = envelope.elements().enumerate().find(|(_, e)| e.is(SOAP, "Header")) else {
        return Err(E::NoHcp);
    };
    let mut securities = header.elements().enumerate().filter(|(_, e)| e.is(WSSE, "Security") && is_for_us(e));
    let Some((security_at, security)) = securities.next() else { return Err(E::NoHcp) };
    if securities.next().is_some() {
        return Err(E::Structure("security.twice"));
    }
    let mut found: Vec<Located> = Vec::new();
    for (at, assertion) in security.elements().enumerate() {
        if !assertion.is(SAML, "Assertion") {
            continue;
        }
        let qualifier = assertion.child(SAML, "Issuer").and_then(|i| i.get("NameQualifier")).unwrap_or_default();
        let kind = match qualifier {
            HCP => Kind::Hcp,
            TRC => Kind::Trc,
            NOK => Kind::Nok,
            _ if expected == Profile::National => Kind::Hcp,
            _ => return Err(E::Structure("assertion.kind")),
        };
        if found.iter().any(|other| other.kind == kind) {
            return Err(E::Structure("assertion.twice"));
        }
        let (id, key) = profile(assertion, side)?;
        found.push(Located {
            kind,
            path: vec![header_at, security_at, at],
            id,
            certificates: key.certificates,
            is_p384: key.is_p384,
        });
    }
    let carry = |known: &Located| seen.ids.iter().filter(|id| **id == known.id).count();
    if found.iter().any(|known| carry(known) != 1) {
        return Err(E::Structure("id.twice"));
    }
    if seen.assertions != security.elements().filter(|e| e.is(SAML, "Assertion")).count() {
        return Err(E::Structure("assertion.elsewhere"));
    }
    if found.iter().all(|f| f.kind != Kind::Hcp) {
        return Err(E::NoHcp);
    }
    beside(security, now)?;
    Ok(found)
}

/// What else the Security header holds: nothing that is not known, and one Timestamp that is within its time.
fn beside(security: &Element, now: Timestamp) -> Result<(), E> {
    let known = |e: &Element| e.is(SAML, "Assertion") || BESIDE.iter().any(|(ns, local)| e.is(ns, local));
    if !security.elements().all(known) {
        return Err(E::Structure("security.child"));
    }
    let mut stamps = security.all(WSU, "Timestamp");
    let Some(stamp) = stamps.next() else { return Ok(()) };
    let at = |local: &str| {
        let mut found = stamp.all(WSU, local);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(only), None) => instant(Some(&only.trimmed())).map(|at| Some(at.as_second())),
            _ => Err(E::Structure("security.timestamp")),
        }
    };
    let (created, expires) = (at("Created")?, at("Expires")?);
    let only = stamp.elements().all(|e| e.is(WSU, "Created") || e.is(WSU, "Expires"));
    if stamps.next().is_some() || !only {
        return Err(E::Structure("security.timestamp"));
    }
    let now = now.as_second();
    if created.is_some_and(|at| at > now + SKEW_S) || expires.is_some_and(|at| at <= now - SKEW_S) {
        return Err(E::Time("message is over or not yet"));
    }
    Ok(())
}

/// No text of an assertion is longer than what every record takes; the Signature has bounds of its own.
fn bounded(element: &Element) -> Result<(), E> {
    for attribute in element.attributes() {
        Oversize::check("attribute in an assertion", attribute.value().as_bytes(), LONGEST_TEXT)?;
    }
    let texts =
        element.children().iter().filter_map(|node| if let Node::Text(text) = node { Some(text) } else { None });
    if texts.map(String::len).sum::<usize>() > LONGEST_TEXT {
        Oversize::check("text in an assertion", element.content().as_bytes(), LONGEST_TEXT)?;
    }
    element.elements().filter(|e| !e.is(DSIG, "Signature")).try_for_each(bounded)
}

/// What a Signature says of its key.
struct SignedBy {
    certificates: Vec<Vec<u8>>,
    is_p384: bool,
}

/// The profile of one assertion: its ID and the key.
fn profile(assertion: &Element, side: Side) -> Result<(String, SignedBy), E> {
    let id = assertion.get("ID").filter(|id| !id.is_empty() && id.len() <= 256).ok_or(E::Structure("id.missing"))?;
    if id.chars().any(|c| c.is_whitespace() || matches!(c, '\'' | '"' | '(' | ')' | '#' | '<' | '&')) {
        return Err(E::Structure("id.characters"));
    }
    let children: Vec<&Element> = assertion.elements().collect();
    let signatures = children.iter().filter(|e| e.is(DSIG, "Signature")).count();
    if signatures == 0 {
        return Err(E::Structure("signature.missing"));
    }
    if signatures > 1 || count(assertion, DSIG, "Signature") > 1 {
        return Err(E::Structure("signature.twice"));
    }
    if !children.first().is_some_and(|e| e.is(SAML, "Issuer"))
        || !children.get(1).is_some_and(|e| e.is(DSIG, "Signature"))
    {
        return Err(E::Structure("signature.place"));
    }
    let key = signature(children[1], Over::Element(id), side)?;
    content::check_signature(children[1], side == Side::National)?;
    bounded(assertion)?;
    Ok((id.to_owned(), key))
}

/// The profile of signed service metadata (OASIS BDXR SMP 1.0, 2.3.6): one Signature behind the ServiceMetadata, over the
/// whole document. What an Extension holds, also a signature of its own, is content.
pub(crate) fn metadata(root: &Element) -> Result<Vec<u8>, E> {
    if !root.is(SMP, "SignedServiceMetadata") {
        return Err(E::Structure("metadata.root"));
    }
    if root.elements().filter(|e| e.is(DSIG, "Signature")).count() == 0 {
        return Err(E::Structure("signature.missing"));
    }
    let [_, found] =
        exactly(root, [(SMP, "ServiceMetadata"), (DSIG, "Signature")]).ok_or(E::Structure("metadata.children"))?;
    let [certificate] = <[Vec<u8>; 1]>::try_from(signature(found, Over::Document, Side::CrossBorder)?.certificates)
        .map_err(|_| E::Structure("keyinfo.certificates"))?;
    Ok(certificate)
}

/// What a signature is over.
#[derive(Clone, Copy)]
enum Over<'a> {
    Element(&'a str),
    Document,
}

impl Over<'_> {
    fn takes_c14n(self, algorithm: Option<&str>) -> bool {
        algorithm == Some(EXC_C14N) || matches!(self, Self::Document) && algorithm == Some(INCLUSIVE_C14N)
    }
}

/// The closed profile of one Signature.
fn signature(signature: &Element, over: Over<'_>, side: Side) -> Result<SignedBy, E> {
    let [info, value, key] = exactly(signature, [(DSIG, "SignedInfo"), (DSIG, "SignatureValue"), (DSIG, "KeyInfo")])
        .ok_or(E::Structure("signature.children"))?;
    if value.elements().next().is_some() || value.trimmed().is_empty() {
        return Err(E::Structure("signature.value"));
    }
    let is_p384 = signed_info(info, over, side)?;
    let certificates = match side {
        Side::CrossBorder => vec![key_info(key, over)?],
        Side::National => chain(key)?,
    };
    Ok(SignedBy { certificates, is_p384 })
}

/// Whether the method asks for a key on P-384.
fn signed_info(info: &Element, over: Over<'_>, side: Side) -> Result<bool, E> {
    let children: Vec<&Element> = info.elements().collect();
    if children.len() > 3 && children[3..].iter().all(|e| e.is(DSIG, "Reference")) {
        return Err(E::Structure("reference.twice"));
    }
    let [c14n, method, reference] =
        exactly(info, [(DSIG, "CanonicalizationMethod"), (DSIG, "SignatureMethod"), (DSIG, "Reference")])
            .ok_or(E::Structure("signedinfo.children"))?;
    if !over.takes_c14n(c14n.get("Algorithm")) {
        return Err(E::Algorithm("c14n"));
    }
    inclusive_namespaces(c14n)?;
    let algorithm = method.get("Algorithm").unwrap_or_default();
    let of_nation = NATIONAL_METHODS.contains(&algorithm) || algorithm == ECDSA_SHA384;
    let taken = matches!(algorithm, RSA_SHA256 | ECDSA_SHA256) || side == Side::National && of_nation;
    if !taken || method.elements().next().is_some() {
        return Err(E::Algorithm("signature"));
    }
    let fits = match over {
        Over::Element(id) => reference.get("URI").and_then(|uri| uri.strip_prefix('#')) == Some(id),
        Over::Document => reference.get("URI") == Some(""),
    };
    if !fits {
        return Err(E::Structure("reference.uri"));
    }
    let [transforms, digest, value] =
        exactly(reference, [(DSIG, "Transforms"), (DSIG, "DigestMethod"), (DSIG, "DigestValue")])
            .ok_or(E::Structure("reference.children"))?;
    let (enveloped, canonical) = match (exactly(transforms, [(DSIG, "Transform"); 2]), over) {
        (Some([enveloped, canonical]), _) => (enveloped, Some(canonical)),
        // Canonicalization is then the default one, inclusive (XMLDSIG 4.4.3.2).
        (None, Over::Document) => {
            (exactly(transforms, [(DSIG, "Transform")]).ok_or(E::Structure("transforms.number"))?[0], None)
        }
        (None, Over::Element(_)) => return Err(E::Structure("transforms.number")),
    };
    if enveloped.get("Algorithm") != Some(ENVELOPED) || enveloped.elements().next().is_some() {
        return Err(E::Algorithm("transform.enveloped"));
    }
    if let Some(canonical) = canonical {
        if !over.takes_c14n(canonical.get("Algorithm")) {
            return Err(E::Algorithm("transform.c14n"));
        }
        inclusive_namespaces(canonical)?;
    }
    let by = digest.get("Algorithm").unwrap_or_default();
    let taken = by == SHA256 || side == Side::National && NATIONAL_DIGESTS.contains(&by);
    if !taken || digest.elements().next().is_some() {
        return Err(E::Algorithm("digest"));
    }
    if value.elements().next().is_some() || value.trimmed().is_empty() {
        return Err(E::Structure("digest.value"));
    }
    Ok(algorithm == ECDSA_SHA384)
}

/// At most one InclusiveNamespaces with a short PrefixList, nothing else.
fn inclusive_namespaces(holder: &Element) -> Result<(), E> {
    let mut children = holder.elements();
    let Some(only) = children.next() else { return Ok(()) };
    let list = only.get("PrefixList").unwrap_or_default();
    let fits = only.is(EXC_C14N, "InclusiveNamespaces")
        && children.next().is_none()
        && list.split_ascii_whitespace().count() <= PREFIXES
        && list.len() <= 512;
    if fits { Ok(()) } else { Err(E::Algorithm("c14n.prefixes")) }
}

fn key_info(key: &Element, over: Over<'_>) -> Result<Vec<u8>, E> {
    let [data] = exactly(key, [(DSIG, "X509Data")]).ok_or(E::Structure("keyinfo"))?;
    let named =
        exactly(data, [(DSIG, "X509SubjectName"), (DSIG, "X509Certificate")]).map(|[_, certificate]| certificate);
    let certificate = match (exactly(data, [(DSIG, "X509Certificate")]), over) {
        (Some([certificate]), _) => certificate,
        // SMPs name the subject besides; the name is not used.
        (None, Over::Document) => named.ok_or(E::Structure("keyinfo.certificates"))?,
        (None, Over::Element(_)) => return Err(E::Structure("keyinfo.certificates")),
    };
    decoded(certificate)
}

/// The certificates of a national issuer's KeyInfo. What else it says of the key is not used.
fn chain(key: &Element) -> Result<Vec<Vec<u8>>, E> {
    let data = key.elements().filter(|e| e.is(DSIG, "X509Data"));
    let certificates: Vec<&Element> =
        data.flat_map(Element::elements).filter(|e| e.is(DSIG, "X509Certificate")).take(CHAIN + 1).collect();
    if certificates.is_empty() || certificates.len() > CHAIN {
        return Err(E::Structure("keyinfo.certificates"));
    }
    certificates.into_iter().map(decoded).collect()
}

fn decoded(certificate: &Element) -> Result<Vec<u8>, E> {
    if certificate.elements().next().is_some() {
        return Err(E::Structure("keyinfo.certificates"));
    }
    let compact: String = certificate.content().chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if compact.len() > 16 << 10 {
        return Err(E::Structure("keyinfo.certificates"));
    }
    base64::engine::general_purpose::STANDARD.decode(compact).map_err(|_| E::Structure("keyinfo.base64"))
}

/// The child elements when they are exactly these, in this order.
fn exactly<'a, const N: usize>(parent: &'a Element, names: [(&str, &str); N]) -> Option<[&'a Element; N]> {
    let children: Vec<&Element> = parent.elements().collect();
    let children: [&Element; N] = children.try_into().ok()?;
    children.iter().zip(names).all(|(e, (ns, local))| e.is(ns, local)).then_some(children)
}

/// Goes through an element and all in it.
pub(crate) fn descendants<'a>(root: &'a Element, visit: &mut dyn FnMut(&'a Element)) {
    let mut stack = vec![root];
    while let Some(element) = stack.pop() {
        visit(element);
        stack.extend(element.children().iter().filter_map(|n| if let Node::Element(e) = n { Some(e) } else { None }));
    }
}

fn count(root: &Element, ns: &str, local: &str) -> usize {
    let mut n = 0;
    descendants(root, &mut |e| n += usize::from(e.is(ns, local)));
    n
}
