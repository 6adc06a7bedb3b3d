//! The closed content of an assertion: which element may hold which children, how often, in which order, and which
//! attributes. What is not in the table refuses the assertion, since a reader that passes over what it does not know reads
//! a permission in part.
//!
//! One table for the four kinds, one walker. Where the table is wider than one of each, the clause stands beside the row.
//! Values are the business of who reads them (`assertion.rs`, `national.rs`).

use ncp_xml::{Element, Node};

use crate::AssertionError as E;
use crate::error::FormFault;
use crate::names::*;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Types under which HL7 codes are written.
const CODED: &[&str] = &["CE", "CV", "CD"];

/// A set of kinds of assertions.
#[derive(Clone, Copy)]
pub(crate) struct Kinds(u8);

pub(crate) const OF_HCP: Kinds = Kinds(1);
pub(crate) const OF_TRC: Kinds = Kinds(2);
pub(crate) const OF_NOK: Kinds = Kinds(4);
pub(crate) const OF_XUA: Kinds = Kinds(8);
const ALL: Kinds = Kinds(31);
/// Signatures that cross a border.
const ACROSS: Kinds = Kinds(15);
/// Signatures of national issuers.
const NATIONAL: Kinds = Kinds(16);
/// What confirms a relation, and therefore builds on an identity assertion.
const BUILT: Kinds = Kinds(2 | 4);
/// Who asks.
const IDENTITY: Kinds = Kinds(1 | 8);
/// What crosses a border.
const CROSSING: Kinds = Kinds(1 | 2 | 4);
/// Who asks, and whom she treats.
const ASKING: Kinds = Kinds(1 | 2 | 8);

impl Kinds {
    fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }
}

/// How often something stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    One,
    Optional,
    Many,
    AtLeastOne,
}
use Times::{AtLeastOne, Many, One, Optional};

impl Times {
    fn holds(self, count: usize) -> bool {
        match self {
            One => count == 1,
            Optional => count <= 1,
            Many => true,
            AtLeastOne => count >= 1,
        }
    }
}

/// A child of a row: namespace, name, number, place in the order (equal places mix), kinds that may have it.
struct Child(&'static str, &'static str, Times, u8, Kinds);

/// An attribute of a row: namespace, name, whether it must stand, kinds that may have it.
struct Attribute(&'static str, &'static str, Times, Kinds);

/// A row: an element, its attributes, its children; an element with text has no children.
struct Row {
    ns: &'static str,
    name: &'static str,
    attributes: &'static [Attribute],
    holds: Holds,
}

enum Holds {
    Children(&'static [Child]),
    Text,
    /// Judged where it is read: what the method of confirmation does not allow satisfies nothing.
    Anything,
    /// AttributeValue: judged by the name of its Attribute ([`NAMES`]).
    ByName,
}
use Holds::{Anything, ByName, Children, Text};

/// As many children as a row has.
const CHILDREN: usize = 8;

/// The table (SAML core 2.0 and the assertions of the eHDSI SAML profile; clauses are of the core).
const TABLE: &[Row] = &[
    Row {
        ns: SAML,
        name: "Assertion",
        attributes: &[
            Attribute("", "ID", One, ALL),
            Attribute("", "IssueInstant", One, ALL),
            Attribute("", "Version", One, ALL),
        ],
        holds: Children(&[
            Child(SAML, "Issuer", One, 0, ALL),
            Child(SAML, "Subject", One, 1, ALL),
            Child(SAML, "Conditions", One, 2, ALL),
            Child(SAML, "Advice", One, 3, BUILT),
            Child(SAML, "AuthnStatement", One, 4, ALL),
            // 2.3.3: several statements say as much as one; eHDSI writes one.
            Child(SAML, "AttributeStatement", One, 4, CROSSING),
            Child(SAML, "AttributeStatement", AtLeastOne, 4, OF_XUA),
        ]),
    },
    Row {
        ns: SAML,
        name: "Issuer",
        attributes: &[
            Attribute("", "NameQualifier", One, CROSSING),
            Attribute("", "NameQualifier", Optional, OF_XUA),
            Attribute("", "Format", Optional, ALL),
        ],
        holds: Text,
    },
    Row {
        ns: SAML,
        name: "Subject",
        attributes: &[],
        holds: Children(&[
            Child(SAML, "NameID", One, 0, ALL),
            // 2.4.1: any number; one that is satisfied is enough.
            Child(SAML, "SubjectConfirmation", AtLeastOne, 1, ALL),
        ]),
    },
    Row {
        ns: SAML,
        name: "NameID",
        attributes: &[
            Attribute("", "Format", One, CROSSING),
            Attribute("", "Format", Optional, OF_XUA),
            // 2.2.2: they are a part of the name and compared with it.
            Attribute("", "NameQualifier", Optional, ALL),
            Attribute("", "SPNameQualifier", Optional, ALL),
            Attribute("", "SPProvidedID", Optional, ALL),
        ],
        holds: Text,
    },
    Row {
        ns: SAML,
        name: "SubjectConfirmation",
        attributes: &[Attribute("", "Method", One, ALL)],
        holds: Children(&[
            // 2.4.1.1: who may confirm; such a confirmation is not satisfied here.
            Child(SAML, "NameID", Optional, 0, ALL),
            Child(SAML, "SubjectConfirmationData", Optional, 1, ALL),
        ]),
    },
    Row {
        ns: SAML,
        name: "SubjectConfirmationData",
        attributes: &[
            Attribute("", "NotBefore", Optional, ALL),
            Attribute("", "NotOnOrAfter", Optional, ALL),
            Attribute("", "Recipient", Optional, ALL),
            // 2.4.1.2: they limit who may present it; such a confirmation is not satisfied here.
            Attribute("", "InResponseTo", Optional, ALL),
            Attribute("", "Address", Optional, ALL),
            Attribute(XSI, "type", Optional, ALL),
        ],
        holds: Anything,
    },
    Row {
        ns: SAML,
        name: "Conditions",
        attributes: &[Attribute("", "NotBefore", One, ALL), Attribute("", "NotOnOrAfter", One, ALL)],
        holds: Children(&[
            // 2.5.1.4: any number, each must hold. Issuers of the field leave it out.
            Child(SAML, "AudienceRestriction", Many, 0, CROSSING),
            Child(SAML, "AudienceRestriction", AtLeastOne, 0, OF_XUA),
            // 2.5.1.5: kept by the replay set.
            Child(SAML, "OneTimeUse", Optional, 0, ASKING),
        ]),
    },
    Row {
        ns: SAML,
        name: "AudienceRestriction",
        attributes: &[],
        // 2.5.1.4: any one of them.
        holds: Children(&[Child(SAML, "Audience", AtLeastOne, 0, ALL)]),
    },
    Row { ns: SAML, name: "Audience", attributes: &[], holds: Text },
    Row { ns: SAML, name: "OneTimeUse", attributes: &[], holds: Children(&[]) },
    Row {
        ns: SAML,
        name: "Advice",
        attributes: &[],
        // 2.6.1 allows any number; here the reference is the binding.
        holds: Children(&[Child(SAML, "AssertionIDRef", One, 0, BUILT)]),
    },
    Row { ns: SAML, name: "AssertionIDRef", attributes: &[], holds: Text },
    Row {
        ns: SAML,
        name: "AuthnStatement",
        attributes: &[
            Attribute("", "AuthnInstant", One, ALL),
            Attribute("", "SessionNotOnOrAfter", Optional, ALL),
            // 2.7.2: names the session between issuer and subject.
            Attribute("", "SessionIndex", Optional, ALL),
        ],
        holds: Children(&[
            // 2.7.2.1: where the subject was, an advice.
            Child(SAML, "SubjectLocality", Optional, 0, ALL),
            Child(SAML, "AuthnContext", One, 1, ALL),
        ]),
    },
    Row {
        ns: SAML,
        name: "SubjectLocality",
        attributes: &[Attribute("", "Address", Optional, ALL), Attribute("", "DNSName", Optional, ALL)],
        holds: Children(&[]),
    },
    Row {
        ns: SAML,
        name: "AuthnContext",
        attributes: &[],
        holds: Children(&[
            Child(SAML, "AuthnContextClassRef", One, 0, ALL),
            // 2.7.2.2: who else took part in the login.
            Child(SAML, "AuthenticatingAuthority", Many, 1, ALL),
        ]),
    },
    Row { ns: SAML, name: "AuthnContextClassRef", attributes: &[], holds: Text },
    Row { ns: SAML, name: "AuthenticatingAuthority", attributes: &[], holds: Text },
    Row {
        ns: SAML,
        name: "AttributeStatement",
        attributes: &[],
        holds: Children(&[Child(SAML, "Attribute", AtLeastOne, 0, ALL)]),
    },
    Row {
        ns: SAML,
        name: "Attribute",
        attributes: &[
            Attribute("", "Name", One, ALL),
            Attribute("", "NameFormat", Optional, ALL),
            Attribute("", "FriendlyName", Optional, ALL),
        ],
        // The number of values is that of the name ([`NAMES`]).
        holds: Children(&[Child(SAML, "AttributeValue", Many, 0, ALL)]),
    },
    Row { ns: SAML, name: "AttributeValue", attributes: &[Attribute(XSI, "type", Optional, ALL)], holds: ByName },
    Row { ns: HL7, name: "Role", attributes: CODE, holds: Children(&[]) },
    Row { ns: HL7, name: "PurposeOfUse", attributes: PURPOSE_CODE, holds: Children(&[]) },
    // What libxmlsec1 is given; its children are judged one by one before (`structure.rs`). An Id names a thing for other
    // signatures (XMLDSIG 4.2).
    Row {
        ns: DSIG,
        name: "Signature",
        attributes: &[Attribute("", "Id", Optional, ALL)],
        holds: Children(&[
            Child(DSIG, "SignedInfo", One, 0, ALL),
            Child(DSIG, "SignatureValue", One, 1, ALL),
            Child(DSIG, "KeyInfo", One, 2, ALL),
        ]),
    },
    Row {
        ns: DSIG,
        name: "SignedInfo",
        attributes: &[Attribute("", "Id", Optional, ALL)],
        holds: Children(&[
            Child(DSIG, "CanonicalizationMethod", One, 0, ALL),
            Child(DSIG, "SignatureMethod", One, 1, ALL),
            Child(DSIG, "Reference", One, 2, ALL),
        ]),
    },
    Row { ns: DSIG, name: "CanonicalizationMethod", attributes: ALGORITHM, holds: Children(PREFIXES) },
    Row { ns: DSIG, name: "SignatureMethod", attributes: ALGORITHM, holds: Children(&[]) },
    Row {
        ns: DSIG,
        name: "Reference",
        attributes: &[Attribute("", "URI", One, ALL), Attribute("", "Id", Optional, ALL)],
        holds: Children(&[
            Child(DSIG, "Transforms", One, 0, ALL),
            Child(DSIG, "DigestMethod", One, 1, ALL),
            Child(DSIG, "DigestValue", One, 2, ALL),
        ]),
    },
    Row {
        ns: DSIG,
        name: "Transforms",
        attributes: &[],
        holds: Children(&[Child(DSIG, "Transform", AtLeastOne, 0, ALL)]),
    },
    Row { ns: DSIG, name: "Transform", attributes: ALGORITHM, holds: Children(PREFIXES) },
    Row {
        ns: EXC_C14N,
        name: "InclusiveNamespaces",
        attributes: &[Attribute("", "PrefixList", One, ALL)],
        holds: Children(&[]),
    },
    Row { ns: DSIG, name: "DigestMethod", attributes: ALGORITHM, holds: Children(&[]) },
    Row { ns: DSIG, name: "DigestValue", attributes: &[], holds: Text },
    Row { ns: DSIG, name: "SignatureValue", attributes: &[Attribute("", "Id", Optional, ALL)], holds: Text },
    Row {
        ns: DSIG,
        name: "KeyInfo",
        attributes: &[Attribute("", "Id", Optional, ALL)],
        // SAML core 5.4.5 restricts nothing; of names and bare keys nothing is taken.
        holds: Children(&[
            Child(DSIG, "X509Data", One, 0, ACROSS),
            Child(DSIG, "X509Data", AtLeastOne, 0, NATIONAL),
            Child(DSIG, "KeyName", Many, 0, NATIONAL),
            Child(DSIG, "KeyValue", Optional, 0, NATIONAL),
        ]),
    },
    Row { ns: DSIG, name: "KeyName", attributes: &[], holds: Text },
    Row { ns: DSIG, name: "KeyValue", attributes: &[], holds: Anything },
    Row {
        ns: DSIG,
        name: "X509Data",
        attributes: &[],
        holds: Children(&[
            Child(DSIG, "X509Certificate", One, 0, ACROSS),
            Child(DSIG, "X509Certificate", Many, 0, NATIONAL),
            Child(DSIG, "X509SubjectName", Many, 0, NATIONAL),
            Child(DSIG, "X509IssuerSerial", Many, 0, NATIONAL),
            Child(DSIG, "X509SKI", Many, 0, NATIONAL),
        ]),
    },
    Row { ns: DSIG, name: "X509SubjectName", attributes: &[], holds: Text },
    Row { ns: DSIG, name: "X509IssuerSerial", attributes: &[], holds: Anything },
    Row { ns: DSIG, name: "X509SKI", attributes: &[], holds: Text },
    Row { ns: DSIG, name: "X509Certificate", attributes: &[], holds: Text },
];

const _: () = {
    let mut at = 0;
    while at < TABLE.len() {
        if let Children(allowed) = TABLE[at].holds {
            assert!(allowed.len() <= CHILDREN, "a row has more children than are counted");
        }
        at += 1;
    }
};

const ALGORITHM: &[Attribute] = &[Attribute("", "Algorithm", One, ALL)];
const PREFIXES: &[Child] = &[Child(EXC_C14N, "InclusiveNamespaces", Optional, 0, ALL)];
/// A code without its system is a number.
const CODE: &[Attribute] = &[
    Attribute("", "code", One, ALL),
    Attribute("", "codeSystem", One, ALL),
    Attribute("", "codeSystemName", Optional, ALL),
    Attribute("", "displayName", Optional, ALL),
    Attribute(XSI, "type", Optional, ALL),
];
/// The code system of purposes varies in the field; the code alone is read.
const PURPOSE_CODE: &[Attribute] = &[
    Attribute("", "code", One, ALL),
    Attribute("", "codeSystem", Optional, ALL),
    Attribute("", "codeSystemName", Optional, ALL),
    Attribute("", "displayName", Optional, ALL),
    Attribute(XSI, "type", Optional, ALL),
];

/// The form of an attribute's values.
#[derive(Clone, Copy)]
enum Value {
    Plain,
    /// One HL7 element of that name and nothing beside it.
    Coded(&'static str),
}

/// An attribute by its name: form and number of its values over the whole assertion, kinds that may have it.
struct Named(&'static str, Value, Times, Kinds);

/// What the profile knows by name. Other names are statements about the subject that are not used (2.7.3); an identity
/// assertion may have them (Authz-Consent of ITI TF-2: 3.40.4.1.2.2 among them), TRC and next of kin may not.
const NAMES: &[Named] = &[
    Named(SUBJECT_ID, Value::Plain, One, ASKING),
    Named(ROLE, Value::Coded("Role"), One, IDENTITY),
    Named(PURPOSE, Value::Coded("PurposeOfUse"), One, IDENTITY),
    Named(PURPOSE, Value::Coded("PurposeOfUse"), Optional, OF_TRC),
    Named(FACILITY_TYPE, Value::Plain, One, OF_HCP),
    Named(FACILITY_TYPE, Value::Plain, Optional, OF_XUA),
    Named(LOCALITY, Value::Plain, One, OF_HCP),
    Named(LOCALITY, Value::Plain, Optional, OF_XUA),
    Named(HOME, Value::Plain, Optional, ASKING),
    Named(ORGANIZATION, Value::Plain, Optional, ASKING),
    Named(ORGANIZATION_ID, Value::Plain, Optional, ASKING),
    Named(NPI, Value::Plain, Optional, IDENTITY),
    Named(RESOURCE_ID, Value::Plain, Optional, IDENTITY),
    // Each value is a permission more.
    Named(PERMISSION, Value::Plain, Many, IDENTITY),
    Named("urn:ehdsi:names:document:document-id:dispensationPinCode", Value::Plain, Optional, OF_TRC),
    Named("urn:ehdsi:names:document:document-id:prescriptionId", Value::Plain, Optional, OF_TRC),
    Named(NOK_ID, Value::Plain, One, OF_NOK),
    Named(NOK_FIRST, Value::Plain, Optional, OF_NOK),
    Named(NOK_FAMILY, Value::Plain, Optional, OF_NOK),
    Named(NOK_BIRTH, Value::Plain, Optional, OF_NOK),
    Named(NOK_GENDER, Value::Plain, Optional, OF_NOK),
    Named(NOK_STREET, Value::Plain, Optional, OF_NOK),
    Named(NOK_CITY, Value::Plain, Optional, OF_NOK),
    Named(NOK_POSTAL_CODE, Value::Plain, Optional, OF_NOK),
    Named(NOK_COUNTRY, Value::Plain, Optional, OF_NOK),
];

/// Walks an assertion, as it was digested, along the table.
///
/// # Errors
/// The first thing that is not in it.
pub(crate) fn check(assertion: &Element, kind: Kinds) -> Result<(), E> {
    walk(assertion, kind)?;
    named(assertion, kind)
}

/// Walks a Signature along the table; it is no part of what it digests.
///
/// # Errors
/// The first thing that is not in it.
pub(crate) fn check_signature(signature: &Element, is_national: bool) -> Result<(), E> {
    walk(signature, if is_national { NATIONAL } else { ACROSS })
}

fn walk(element: &Element, kind: Kinds) -> Result<(), E> {
    let row = TABLE.iter().find(|row| element.is(row.ns, row.name)).ok_or(E::Structure("element"))?;
    let wrong = |fault| Err(refused(row.name, fault));
    for attribute in element.attributes() {
        let known = |a: &&Attribute| attribute.is(a.0, a.1) && a.3.has(kind);
        if !row.attributes.iter().any(|a| known(&a)) {
            return wrong(FormFault::Attribute);
        }
    }
    for Attribute(ns, name, times, _) in row.attributes.iter().filter(|a| a.3.has(kind)) {
        if *times == One && element.get_in(ns, name).is_none() {
            return wrong(FormFault::Missing(name));
        }
    }
    match row.holds {
        Anything | ByName => Ok(()),
        Text if element.elements().next().is_some() => wrong(FormFault::Child),
        Text => Ok(()),
        Children(allowed) => {
            if has_text(element) {
                return wrong(FormFault::Text);
            }
            let (mut place, mut counted) = (0, [0; CHILDREN]);
            for child in element.elements() {
                let found = allowed.iter().position(|c| child.is(c.0, c.1) && c.4.has(kind));
                let Some(found) = found else { return wrong(FormFault::Child) };
                let Child(_, name, _, at, _) = allowed[found];
                if at < place {
                    return wrong(FormFault::Order(name));
                }
                place = at;
                counted[found] += 1;
                walk(child, kind)?;
            }
            for (Child(_, name, times, ..), count) in allowed.iter().zip(counted).filter(|(c, _)| c.4.has(kind)) {
                if !times.holds(count) {
                    let fault = if count == 0 { FormFault::Missing(name) } else { FormFault::Twice(name) };
                    return wrong(fault);
                }
            }
            Ok(())
        }
    }
}

/// The attributes of all statements by name: number and form of their values.
fn named(assertion: &Element, kind: Kinds) -> Result<(), E> {
    // How often each name stands, and how many values it has.
    let mut counted = [(0, 0); NAMES.len()];
    for attribute in assertion.all(SAML, "AttributeStatement").flat_map(|s| s.all(SAML, "Attribute")) {
        let name = attribute.get("Name").unwrap_or_default();
        let Some(at) = NAMES.iter().position(|n| n.0 == name && n.3.has(kind)) else {
            if BUILT.has(kind) {
                return Err(refused("AttributeStatement", FormFault::Child));
            }
            continue;
        };
        let (stands, values) = &mut counted[at];
        *stands += 1;
        for value in attribute.all(SAML, "AttributeValue") {
            *values += 1;
            value_form(value, NAMES[at].1, kind)?;
        }
    }
    for (Named(name, _, times, kinds), (stands, values)) in NAMES.iter().zip(counted) {
        // An attribute that stands twice is said twice, also where one of the two has no value (2.7.3.1).
        let twice = *times != Many && stands > 1;
        if kinds.has(kind) && (!times.holds(values) || twice) {
            let what = name.rsplit(':').next().unwrap_or(name);
            let fault = if values == 0 { FormFault::Missing(what) } else { FormFault::Twice(what) };
            return Err(refused("AttributeStatement", fault));
        }
    }
    Ok(())
}

fn value_form(value: &Element, form: Value, kind: Kinds) -> Result<(), E> {
    let wrong = |fault| Err(refused("AttributeValue", fault));
    match form {
        Value::Plain if value.elements().next().is_some() => wrong(FormFault::Child),
        Value::Plain => Ok(()),
        Value::Coded(_) if has_text(value) => wrong(FormFault::Text),
        Value::Coded(name) => {
            let mut children = value.elements();
            let Some(coded) = children.next() else { return wrong(FormFault::Missing(name)) };
            if children.next().is_some() {
                return wrong(FormFault::Twice(name));
            }
            if !coded.is(HL7, name) {
                return wrong(FormFault::Child);
            }
            let local = |qname: &str| qname.rsplit(':').next().is_some_and(|local| CODED.contains(&local));
            if coded.get_in(XSI, "type").is_some_and(|qname| !local(qname)) {
                return Err(refused(name, FormFault::Attribute));
            }
            walk(coded, kind)
        }
    }
}

fn has_text(element: &Element) -> bool {
    element.children().iter().any(|node| matches!(node, Node::Text(text) if !text.trim().is_empty()))
}

/// The reference to the identity assertion is what binds; its faults are faults of the binding.
fn refused(element: &'static str, fault: FormFault) -> E {
    match (element, fault) {
        ("Assertion", FormFault::Missing("Advice")) => E::TrcBinding("no advice"),
        ("Assertion", FormFault::Twice("Advice")) => E::TrcBinding("several advices"),
        ("Advice", FormFault::Missing(_)) => E::TrcBinding("no reference"),
        ("Advice" | "AssertionIDRef", _) => E::TrcBinding("not one reference"),
        _ => E::Form { element, fault },
    }
}
