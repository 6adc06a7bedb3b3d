//! The content of an assertion is closed: one thing added, doubled or removed anywhere in a good assertion, which is then
//! signed, is refused, but for what the profile allows. What it allows stands here a second time, with its clause, so that
//! the table of the verifier is not its own judge.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_saml::{
    AUDIENCE, Code, HcpClaims, NextOfKin, NextOfKinClaims, Purpose, SealKey, Signer, SignerIdentity, SignerTrust,
    TrcClaims, Verifier, hcp_template, names, nok_template, trc_template,
};
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tls::{CertificateFacts, Country};
use ncp_xml::{Element, Node};
use openssl::x509::X509Ref;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const WSSE: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const XS: &str = "http://www.w3.org/2001/XMLSchema";
/// Elements of SAML that are put where they do not stand.
const ELEMENTS: &[&str] = &[
    "Issuer",
    "Subject",
    "BaseID",
    "NameID",
    "EncryptedID",
    "SubjectConfirmation",
    "SubjectConfirmationData",
    "Conditions",
    "Condition",
    "AudienceRestriction",
    "Audience",
    "OneTimeUse",
    "ProxyRestriction",
    "Advice",
    "AssertionIDRef",
    "AssertionURIRef",
    "Statement",
    "AuthnStatement",
    "SubjectLocality",
    "AuthnContext",
    "AuthnContextClassRef",
    "AuthnContextDecl",
    "AuthnContextDeclRef",
    "AuthenticatingAuthority",
    "AuthzDecisionStatement",
    "AttributeStatement",
    "Attribute",
    "EncryptedAttribute",
    "AttributeValue",
];
/// Attributes of SAML that are put where they do not stand.
const ATTRIBUTES: &[&str] = &[
    "ID",
    "Version",
    "IssueInstant",
    "NameQualifier",
    "SPNameQualifier",
    "SPProvidedID",
    "Format",
    "Method",
    "NotBefore",
    "NotOnOrAfter",
    "Recipient",
    "InResponseTo",
    "Address",
    "Count",
    "AuthnInstant",
    "SessionIndex",
    "SessionNotOnOrAfter",
    "DNSName",
    "Name",
    "NameFormat",
    "FriendlyName",
    "code",
    "codeSystem",
    "nullFlavor",
    "x",
];

/// What may be done to a good assertion: where, what, in which kinds (all when empty), and why.
const ALLOWED: &[(&str, &str, &[&str], &str)] = &[
    ("Assertion/AttributeStatement", "double", &["xua"], "2.3.3; not one of a name that stands once, see below"),
    ("Assertion", "add AttributeStatement", &[], "see below: an empty one has no Attribute"),
    ("Assertion/Issuer", "attribute Format", &[], "2.2.5: how the name is written; it is compared as text"),
    ("Assertion/Issuer", "attribute NameQualifier", &["xua"], "2.2.5: nationally an assertion needs no mark"),
    (
        "Assertion/Subject/NameID",
        "attribute NameQualifier",
        &["hcp", "xua"],
        "2.2.2: compared where another builds on it",
    ),
    (
        "Assertion/Subject/NameID",
        "attribute SPNameQualifier",
        &["hcp", "xua"],
        "2.2.2: compared where another builds on it",
    ),
    ("Assertion/Subject/NameID", "attribute SPProvidedID", &[], "2.2.2: what the service calls the subject"),
    ("Assertion/Subject/NameID", "remove attribute Format", &["xua"], "2.2.2: optional"),
    ("Assertion/Subject/SubjectConfirmation", "double", &[], "2.4.1.1: any one is sufficient"),
    ("Assertion/Subject", "add SubjectConfirmation", &[], "2.4.1.1: any one is sufficient; this has no Method"),
    ("Assertion/Subject/SubjectConfirmation", "add SubjectConfirmationData", &[], "2.4.1.2: optional"),
    ("Assertion/Conditions/AudienceRestriction", "double", &[], "2.5.1.4: each must hold, and does"),
    (
        "Assertion/Conditions/AudienceRestriction",
        "remove",
        &["hcp", "trc", "nok"],
        "2.5.1: optional; the field leaves it out",
    ),
    ("Assertion/Conditions/AudienceRestriction", "add Audience", &[], "2.5.1.4: any one of them"),
    ("Assertion/Conditions/AudienceRestriction/Audience", "double", &[], "2.5.1.4: any one of them"),
    ("Assertion/Conditions", "add OneTimeUse", &["hcp", "trc", "xua"], "2.5.1.5: kept by the replay set"),
    ("Assertion/AuthnStatement", "add SubjectLocality first", &[], "2.7.2.1: an advice"),
    ("Assertion/AuthnStatement", "attribute SessionIndex", &[], "2.7.2: names the session"),
    ("Assertion/AuthnStatement/AuthnContext", "add AuthenticatingAuthority", &[], "2.7.2.2: who took part"),
    ("Assertion/AttributeStatement/Attribute", "remove attribute NameFormat", &[], "2.7.3.1: unspecified then"),
    ("Assertion/AttributeStatement/Attribute", "remove attribute FriendlyName", &[], "2.7.3.1: for people"),
    ("AttributeValue", "remove attribute type", &[], "2.7.3.1.1: any type"),
    ("PurposeOfUse", "remove attribute codeSystem", &[], "the field writes several; the code is read"),
    ("PurposeOfUse", "remove attribute codeSystemName", &[], "a name of the system"),
    ("PurposeOfUse", "remove attribute displayName", &[], "for people"),
    ("Role", "remove attribute codeSystemName", &[], "a name of the system"),
    ("Role", "remove attribute displayName", &[], "for people; the policy compares it"),
    (
        "Assertion/AttributeStatement",
        "add other Attribute",
        &["hcp", "xua"],
        "2.7.3: a statement that is not used (ITI TF-2: 3.40.4.1.2.2 has some)",
    ),
    ("Assertion/Conditions", "add OneTimeUse first", &["hcp", "trc", "xua"], "2.5.1.5: kept by the replay set"),
    ("Assertion/Conditions/AudienceRestriction", "add Audience first", &[], "2.5.1.4: any one of them"),
];
/// Attributes by name that may be left out, and left without a value (2.7.3.1).
const OPTIONAL: &[(&str, &[&str])] = &[
    (names::HOME, &["hcp", "xua"]),
    (names::ORGANIZATION, &["hcp", "xua"]),
    (names::ORGANIZATION_ID, &["hcp", "xua"]),
    (names::NPI, &["hcp", "xua"]),
    (names::FACILITY_TYPE, &["xua"]),
    (names::LOCALITY, &["xua"]),
    (names::PURPOSE, &["trc"]),
    (names::NOK_FIRST, &["nok"]),
    (names::NOK_FAMILY, &["nok"]),
    (names::NOK_BIRTH, &["nok"]),
    (names::NOK_GENDER, &["nok"]),
    (names::NOK_STREET, &["nok"]),
    (names::NOK_CITY, &["nok"]),
    (names::NOK_POSTAL_CODE, &["nok"]),
    (names::NOK_COUNTRY, &["nok"]),
];

/// Finland as everybody's issuer: trust is not what is tried here.
struct Finland(Vec<String>);

impl SignerTrust for Finland {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        let country = facts.country.ok_or("no country")?;
        Ok(SignerIdentity { country, fingerprint: facts.fingerprint, common_name: facts.common_name, stale: false })
    }

    fn audiences(&self) -> &[String] {
        &self.0
    }
}

/// A change of one element: what it is, and the elements that then stand in its place.
struct Change {
    what: String,
    instead: Vec<Element>,
}

fn emptied(element: &Element) -> Element {
    let bare = Element::new(element.ns(), element.local());
    element.attributes().iter().fold(bare, |e, a| e.attr_in(a.ns(), a.local(), a.value()))
}

/// The element with other children.
fn holding(element: &Element, children: impl IntoIterator<Item = Node>) -> Element {
    children.into_iter().fold(emptied(element), |e, child| match child {
        Node::Element(child) => e.with(child),
        Node::Text(text) => e.text(text),
        Node::Raw(text) => e.raw(text),
        Node::Gap => e,
    })
}

/// Everything that is done to one element.
fn changes(element: &Element, is_root: bool) -> Vec<Change> {
    let mut out = Vec::new();
    let children = || element.children().to_vec();
    let mut instead = |what: String, instead: Vec<Element>| out.push(Change { what, instead });
    if !is_root {
        instead("remove".into(), Vec::new());
        instead("double".into(), vec![element.clone(), element.clone()]);
    }
    for attribute in element.attributes() {
        let others = element.attributes().iter().filter(|a| *a != attribute);
        let bare =
            others.fold(Element::new(element.ns(), element.local()), |e, a| e.attr_in(a.ns(), a.local(), a.value()));
        let changed = holding(&bare, children());
        instead(format!("remove attribute {}", attribute.local()), vec![changed]);
    }
    for name in ATTRIBUTES.iter().filter(|name| element.get(name).is_none()) {
        instead(format!("attribute {name}"), vec![element.clone().attr(name, "2001-01-01T00:00:00Z")]);
    }
    for (of, name) in
        [("urn:x", "x"), ("http://www.w3.org/XML/1998/namespace", "lang"), (XSI, "nil"), (XSI, "schemaLocation")]
    {
        instead(format!("attribute {of} {name}"), vec![element.clone().attr_in(of, name, "true")]);
    }
    if element.elements().next().is_some() {
        instead("text".into(), vec![element.clone().text("x")]);
    }
    for name in ELEMENTS {
        let new = Element::new(names::SAML, name);
        // The Signature stands second, or nothing is signed.
        if !is_root && element.elements().next().is_some() {
            let first = [Node::Element(new.clone())].into_iter().chain(children());
            instead(format!("add {name} first"), vec![holding(element, first)]);
        }
        instead(format!("add {name}"), vec![holding(element, children().into_iter().chain([Node::Element(new)]))]);
    }
    let other =
        Element::new(names::SAML, "Attribute").attr("Name", "urn:x").with(Element::new(names::SAML, "AttributeValue"));
    instead("add other Attribute".into(), vec![holding(element, children().into_iter().chain([Node::Element(other)]))]);
    for (of, name) in [("urn:x", "x"), (names::HL7, "Role"), (names::DSIG, "KeyInfo")] {
        let new = Element::new(of, name).attr("code", "2262").attr("codeSystem", "2.999");
        let first = [Node::Element(new.clone())].into_iter().chain(children());
        instead(format!("add {of} {name} first"), vec![holding(element, first)]);
        instead(format!("add {of} {name}"), vec![holding(element, children().into_iter().chain([Node::Element(new)]))]);
    }
    out
}

/// A place: indexes among child elements, its path by names, and the Attribute that it is in.
type Place = (Vec<usize>, String, Option<String>);

/// All places of an assertion but those of the Signature, which is no part of what it signs.
fn places(element: &Element, at: Vec<usize>, path: String, attribute: Option<String>, out: &mut Vec<Place>) {
    let path = if path.is_empty() { element.local().to_owned() } else { format!("{path}/{}", element.local()) };
    let attribute = attribute.or_else(|| element.get("Name").map(ToOwned::to_owned));
    out.push((at.clone(), path.clone(), attribute.clone()));
    for (index, child) in element.elements().enumerate().filter(|(_, e)| e.ns() != names::DSIG) {
        places(child, [at.clone(), vec![index]].concat(), path.clone(), attribute.clone(), out);
    }
}

fn at<'a>(root: &'a Element, place: &[usize]) -> &'a Element {
    place.iter().fold(root, |e, index| e.elements().nth(*index).expect("a place"))
}

/// The assertion with other elements at a place.
fn replaced(element: &Element, place: &[usize], instead: &[Element]) -> Vec<Element> {
    let Some((first, rest)) = place.split_first() else { return instead.to_vec() };
    let mut index = 0;
    let mut children = Vec::new();
    for node in element.children() {
        match node {
            Node::Element(child) => {
                let all = if index == *first { replaced(child, rest, instead) } else { vec![child.clone()] };
                children.extend(all.into_iter().map(Node::Element));
                index += 1;
            }
            other => children.push(other.clone()),
        }
    }
    vec![holding(element, children)]
}

/// Whether the profile allows the change, and its clause.
fn allowed(kind: &str, path: &str, attribute: Option<&str>, what: &str) -> Option<&'static str> {
    let in_attribute = path.contains("/Attribute");
    let permission = attribute == Some(names::PERMISSION);
    let at_attribute = path.ends_with("/Attribute");
    let at_value = path.ends_with("/AttributeValue");
    if in_attribute && permission && (at_attribute || at_value) && matches!(what, "remove" | "double") {
        return Some("2.7.3: each value is a permission more");
    }
    if at_attribute && permission && what.starts_with("add AttributeValue") {
        return Some("2.7.3: each value is a permission more");
    }
    let optional = OPTIONAL.iter().any(|(name, kinds)| attribute == Some(name) && kinds.contains(&kind));
    if optional && what == "remove" && (at_attribute || at_value) {
        return Some("2.7.3.1: optional, also its value");
    }
    ALLOWED.iter().find_map(|(where_, change, kinds, clause)| {
        let here = path == *where_ || path.rsplit('/').next() == Some(where_);
        (here && what == *change && (kinds.is_empty() || kinds.contains(&kind))).then_some(*clause)
    })
}

/// What is allowed by its place and refused by what stands there then.
const STILL_REFUSED: &[(&str, &str)] = &[
    // Every name of it stands twice.
    ("Assertion/AttributeStatement", "double"),
    // Empty elements that must not be.
    ("Assertion", "add AttributeStatement"),
    ("Assertion/Subject", "add SubjectConfirmation"),
];

struct World {
    signer: Signer,
    verifier: Verifier,
    hcp_id: String,
    user: String,
}

fn country() -> Country {
    Country::parse("FI").expect("FI")
}

fn claims() -> HcpClaims {
    HcpClaims {
        country: country(),
        name_id: "hpr-9144889".into(),
        subject_name: "Radiologist on duty".into(),
        role: Code {
            code: "221".into(),
            system: "2.16.840.1.113883.2.9.6.2.7".into(),
            system_name: "ISCO".into(),
            display: "Medical Doctors".into(),
        },
        organisation: "University hospital".into(),
        organisation_id: "urn:oid:2.999.246.10".into(),
        facility_type: "Hospital".into(),
        purpose: Purpose::Treatment,
        locality: "Emergency department".into(),
        npi: Some("hpr-9144889".into()),
        home_community_id: "urn:oid:2.999.246".into(),
        permissions: ["PRD-003", "PRD-006"].map(Into::into).to_vec(),
        authn_context_class: "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI".into(),
        authn_instant: Timestamp::now(),
    }
}

/// A user's assertion as IHE has it.
fn xua(id: &str) -> Element {
    let hcp = hcp_template(id, &claims(), Timestamp::now(), Duration::from_secs(3600));
    let text =
        hcp.to_xml().replace(" NameQualifier=\"urn:ehdsi:assertions:hcp\"", "").replace("sender-vouches", "bearer");
    Element::parse(text.as_bytes(), &ncp_xml::Limits::REQUEST).expect("XML")
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = CountryPki::create(dir.path(), "FI", Algorithm::P256).expect("a PKI");
        let seal = SealKey::load(&pki.path("seal.pem"), &pki.path("seal.key")).expect("a seal");
        let signer = Signer::start(seal, 1).expect("starts");
        let hcp_id = "_hcp".to_owned();
        let user = signer.issue_hcp(&hcp_id, &claims(), Timestamp::now(), Duration::from_secs(3600)).await;
        let verifier = Verifier::start(1).expect("starts");
        Self { signer, verifier, hcp_id, user: user.expect("signs").xml }
    }

    fn good(&self, kind: &str) -> Element {
        let now = Timestamp::now();
        let until = now + SignedDuration::from_hours(1);
        let (name_id, hcp_id) = (claims().name_id, self.hcp_id.clone());
        match kind {
            "hcp" => hcp_template("_it", &claims(), now, Duration::from_secs(3600)),
            "trc" => {
                let patient = "4711^^^&2.999.1&ISO".into();
                let facts = TrcClaims { country: country(), name_id, hcp_id, patient, purpose: Purpose::Treatment };
                trc_template("_it", &facts, now, until)
            }
            "nok" => {
                let text = |text: &str| text.to_owned();
                let kin = NextOfKin {
                    id: text("kin"),
                    first_name: text("a"),
                    family_name: text("b"),
                    gender: text("F"),
                    birth_date: text("19800229"),
                    street: text("c"),
                    city: text("d"),
                    postal_code: text("e"),
                    country: text("NO"),
                };
                nok_template("_it", &NextOfKinClaims { country: country(), name_id, hcp_id, kin }, now, until)
            }
            _ => xua("_it"),
        }
    }

    /// Signs the assertion as it stands and has it verified as its kind.
    async fn verdict(&self, kind: &str, assertion: Element) -> Result<(), String> {
        let declared = holding(&assertion, assertion.children().to_vec()).declare("xs", XS);
        let signed = self.signer.sign("_it", declared).await.map_err(|e| e.to_string())?;
        let mut security = Element::new(WSSE, "Security");
        if matches!(kind, "trc" | "nok") {
            security = security.raw(self.user.clone());
        }
        let soap = |local: &str| Element::new(SOAP, local);
        let header = soap("Header").with(security.raw(signed.xml));
        let body = soap("Body").with(Element::new("urn:x", "x"));
        let message = soap("Envelope").with(header).with(body).to_xml().into_bytes();
        let trust = Arc::new(Finland(vec![AUDIENCE.to_owned()]));
        let now = Timestamp::now();
        let verified = match kind {
            "xua" => self.verifier.verify_national(message.into(), trust, now).await.map(|_| ()),
            _ => self.verifier.verify(message.into(), trust, now).await.map(|_| ()),
        };
        verified.map_err(|e| e.to_string())
    }
}

#[tokio::test]
async fn se_15_one_thing_more_twice_or_less_is_refused() {
    let world = World::new().await;
    let (mut wrong, mut tried, mut used) = (Vec::new(), 0, BTreeSet::new());
    for kind in ["hcp", "trc", "nok", "xua"] {
        let good = world.good(kind);
        world.verdict(kind, good.clone()).await.unwrap_or_else(|e| panic!("the good {kind}: {e}"));
        let mut all = Vec::new();
        places(&good, Vec::new(), String::new(), None, &mut all);
        for (place, path, attribute) in all {
            let element = at(&good, &place);
            for change in changes(element, place.is_empty()) {
                // The Signature stands second, or nothing is signed: what moves it is tried as text (T-XSW-14b, T-SAM-23).
                if path == "Assertion/Issuer" && matches!(change.what.as_str(), "remove" | "double") {
                    continue;
                }
                let changed = replaced(&good, &place, &change.instead).remove(0);
                let verdict = world.verdict(kind, changed).await;
                tried += 1;
                let clause = allowed(kind, &path, attribute.as_deref(), &change.what);
                let still = STILL_REFUSED.iter().any(|(p, what)| path == *p && change.what == *what);
                let place = format!("{kind}: {path} [{}]: {}", attribute.as_deref().unwrap_or_default(), change.what);
                match (verdict, clause.filter(|_| !still)) {
                    (Ok(()), None) => wrong.push(format!("{place}: taken")),
                    (Err(error), Some(clause)) => {
                        wrong.push(format!("{place}: refused ({error}), allowed by {clause}"))
                    }
                    (Ok(()), Some(clause)) => drop(used.insert(clause)),
                    (Err(_), None) => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 5_000 && used.len() > 15, "{tried} tried, {} exceptions used", used.len());
}

/// The assertion with one element changed.
fn changed(assertion: &Element, path: &str, change: impl Fn(Element) -> Element) -> Element {
    let mut all = Vec::new();
    places(assertion, Vec::new(), String::new(), None, &mut all);
    let (place, ..) = all.iter().find(|(_, at, _)| at == path).expect("a place");
    replaced(assertion, place, &[change(at(assertion, place).clone())]).remove(0)
}

/// The assertion as text, changed.
fn edited(assertion: &Element, from: &str, to: &str) -> Element {
    let text = assertion.to_xml();
    assert!(text.contains(from), "{from}");
    Element::parse(text.replacen(from, to, 1).as_bytes(), &ncp_xml::Limits::REQUEST).expect("XML")
}

/// Absent and unreadable are two outcomes for every optional time.
#[tokio::test]
async fn se_20_an_optional_time_that_cannot_be_read_refuses() {
    let world = World::new().await;
    let good = "2099-01-01T00:00:00.123Z";
    let bad = [
        "",
        " ",
        "0",
        "never",
        "2099-01-01",
        "2099-01-01T00:00:00",
        "2099-01-01 00:00:00Z",
        "2099-01-01T00:00Z",
        "20990101T000000Z",
        "2099-01-01T00:00:00Z[Europe/Oslo]",
        "2099-01-01T00:00:00+01",
        "+2099-01-01T00:00:00Z",
        "2099-13-01T00:00:00Z",
        "2099-01-01T25:00:00Z",
        "2099-01-01T00:00:00,5Z",
        "2099-01-01t00:00:00z",
        "1.8e9",
    ];
    for kind in ["hcp", "trc", "nok", "xua"] {
        let data = |name: &str, value: &str| {
            let data = Element::new(names::SAML, "SubjectConfirmationData").attr(name, value);
            changed(&world.good(kind), "Assertion/Subject/SubjectConfirmation", |e| e.with(data.clone()))
        };
        let session = |value: &str| {
            changed(&world.good(kind), "Assertion/AuthnStatement", |e| e.attr("SessionNotOnOrAfter", value))
        };
        assert_eq!(world.verdict(kind, session(good)).await, Ok(()), "{kind}");
        assert_eq!(world.verdict(kind, data("NotOnOrAfter", good)).await, Ok(()), "{kind}");
        for value in bad {
            for (place, assertion) in [
                ("session", session(value)),
                ("confirmation's end", data("NotOnOrAfter", value)),
                ("confirmation's beginning", data("NotBefore", value)),
            ] {
                let error = world.verdict(kind, assertion).await.expect_err(place);
                assert!(error.contains("instant"), "{kind}: {place} {value:?}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn on_14_the_country_of_the_issuer_is_compared_without_case() {
    let world = World::new().await;
    for kind in ["hcp", "trc", "nok"] {
        for (country, taken) in
            [("fi", true), ("Fi", true), ("se", false), ("FIN", false), ("f", false), ("\u{17f}e", false)]
        {
            let text = world.good(kind);
            let changed = edited(&text, ":FI:countryB", &format!(":{country}:countryB"));
            let verdict = world.verdict(kind, changed).await;
            assert_eq!(verdict.is_ok(), taken, "{kind}: {country}: {verdict:?}");
        }
    }
}
