//! A small element tree: names with their namespace, attributes, children in order.

use std::fmt;
use std::sync::Arc;

use crate::budget::Charge;
use crate::reader::{self, Limits};
use crate::{XmlError, writer};

/// A name that is shared or static.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interned {
    Static(&'static str),
    Shared(Arc<str>),
}

impl std::ops::Deref for Interned {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Static(s) => s,
            Self::Shared(s) => s,
        }
    }
}

/// Names that big answers repeat ten thousand times cost nothing each; shortest first.
const COMMON: &[&str] = &[
    "",
    "ID",
    "id",
    "lid",
    "Name",
    "Slot",
    "Type",
    "code",
    "home",
    "href",
    "lang",
    "name",
    "root",
    "type",
    "Value",
    "value",
    "Format",
    "Issuer",
    "UserID",
    "status",
    "Include",
    "charset",
    "Document",
    "csd-code",
    "mimeType",
    "Algorithm",
    "Assertion",
    "Attribute",
    "ValueList",
    "extension",
    "NameFormat",
    "RoleIDCode",
    "codeSystem",
    "objectType",
    "displayName",
    "versionName",
    "AuditMessage",
    "FriendlyName",
    "originalText",
    "AttributeValue",
    "Classification",
    "codeSystemName",
    "registryObject",
    "urn:hl7-org:v3",
    "DocumentRequest",
    "ExtrinsicObject",
    "HomeCommunityId",
    "LocalizedString",
    "UserIsRequestor",
    "DocumentResponse",
    "DocumentUniqueId",
    "classifiedObject",
    "ActiveParticipant",
    "AlternativeUserID",
    "ExternalIdentifier",
    "RepositoryUniqueId",
    "nodeRepresentation",
    "NetworkAccessPointID",
    "classificationScheme",
    "identificationScheme",
    "urn:ihe:iti:xds-b:2007",
    "ParticipantObjectDetail",
    "NetworkAccessPointTypeCode",
    "ParticipantObjectIdentification",
    "http://www.w3.org/2000/09/xmldsig#",
    "http://www.w3.org/2005/08/addressing",
    "urn:oasis:names:tc:SAML:2.0:assertion",
    "http://www.w3.org/2003/05/soap-envelope",
    "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0",
];

/// Where the names of a length begin in [`COMMON`]; those of the next length end them.
const BEGIN: [usize; 66] = {
    let mut begin = [0; 66];
    let (mut length, mut at) = (0, 0);
    while length < begin.len() {
        while at < COMMON.len() && COMMON[at].len() < length {
            at += 1;
        }
        begin[length] = at;
        length += 1;
    }
    assert!(at == COMMON.len(), "a name is longer than the table");
    begin
};

/// Whether two names are equal. Names of one length mostly differ in their last byte, and each element is compared with many.
fn same(one: &str, other: &str) -> bool {
    let last = |name: &str| name.as_bytes().last().copied();
    one.len() == other.len() && last(one) == last(other) && one == other
}

pub(crate) fn intern(text: &str) -> Interned {
    let same_length = match BEGIN.get(text.len()..text.len() + 2) {
        Some(&[begin, end]) => &COMMON[begin..end],
        _ => &[],
    };
    match same_length.iter().find(|known| same(known, text)) {
        Some(known) => Interned::Static(known),
        None => Interned::Shared(text.into()),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) namespace: Interned,
    pub(crate) local: Interned,
}

impl Name {
    fn is(&self, namespace: &str, local: &str) -> bool {
        same(&self.local, local) && same(&self.namespace, namespace)
    }
}

/// An attribute; namespace declarations are not among them.
#[derive(Clone, PartialEq, Eq)]
pub struct Attribute {
    pub(crate) name: Name,
    pub(crate) value: String,
}

impl Attribute {
    /// Namespace, empty when none.
    pub fn ns(&self) -> &str {
        &self.name.namespace
    }
    /// Local name.
    pub fn local(&self) -> &str {
        &self.name.local
    }
    /// Whether it has this name.
    pub fn is(&self, namespace: &str, local: &str) -> bool {
        self.name.is(namespace, local)
    }
    /// Normalised value.
    pub fn value(&self) -> &str {
        &self.value
    }
}

/// A child.
#[derive(Clone, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text; comments and CDATA borders are gone.
    Text(String),
    /// For writing only: well-formed XML that stands for itself, such as a signed assertion, verbatim.
    Raw(String),
    /// For writing only: where a list stands that is written apart.
    Gap,
}

/// An element. As `Debug` it and what it holds show names and lengths alone, because messages hold personal data.
#[derive(Clone, PartialEq, Eq)]
pub struct Element {
    pub(crate) name: Name,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) children: Vec<Node>,
    /// Prefixes to declare when written.
    pub(crate) declared: Vec<(String, String)>,
}

impl fmt::Debug for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.local(), self.value.len())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Element(element) => element.fmt(f),
            Self::Text(text) => write!(f, "Text[{}]", text.len()),
            Self::Raw(xml) => write!(f, "Raw[{}]", xml.len()),
            Self::Gap => f.write_str("Gap"),
        }
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_tuple(self.local());
        for attribute in &self.attributes {
            out.field(attribute);
        }
        for child in &self.children {
            out.field(child);
        }
        out.finish()
    }
}

impl Element {
    /// Reads a document within the limits.
    ///
    /// # Errors
    /// As [`crate::scan`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, XmlError> {
        reader::parse(bytes, limits, None)
    }

    /// The same of a message; what its tree holds is taken from the budget of its charge.
    ///
    /// # Errors
    /// As [`crate::scan`]; [`XmlError::Busy`] where other messages have the memory.
    pub fn parse_charged(bytes: &[u8], limits: &Limits, charge: &mut Charge) -> Result<Self, XmlError> {
        reader::parse(bytes, limits, Some(charge))
    }

    /// An empty element.
    pub fn new(namespace: &str, local: &str) -> Self {
        Self {
            name: Name { namespace: intern(namespace), local: intern(local) },
            attributes: Vec::new(),
            children: Vec::new(),
            declared: Vec::new(),
        }
    }

    /// Adds an attribute without namespace.
    #[must_use]
    pub fn attr(self, name: &str, value: impl Into<String>) -> Self {
        self.attr_in("", name, value)
    }

    /// Adds an attribute in a namespace.
    #[must_use]
    pub fn attr_in(mut self, namespace: &str, name: &str, value: impl Into<String>) -> Self {
        self.set_attr(namespace, name, value);
        self
    }

    /// Sets or replaces an attribute.
    pub fn set_attr(&mut self, namespace: &str, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.attributes.iter_mut().find(|a| a.ns() == namespace && a.local() == name) {
            Some(attribute) => attribute.value = value,
            None => self
                .attributes
                .push(Attribute { name: Name { namespace: intern(namespace), local: intern(name) }, value }),
        }
    }

    /// Adds a child element.
    #[must_use]
    pub fn with(mut self, child: Self) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// Adds child elements.
    #[must_use]
    pub fn with_all(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }

    /// Adds text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.children.push(Node::Text(text.into()));
        self
    }

    /// Adds well-formed XML verbatim.
    #[must_use]
    pub fn raw(mut self, xml: impl Into<String>) -> Self {
        self.children.push(Node::Raw(xml.into()));
        self
    }

    /// Leaves a place for a list that is written apart: [`Self::to_xml_around`].
    #[must_use]
    pub fn gap(mut self) -> Self {
        self.children.push(Node::Gap);
        self
    }

    /// Declares a prefix here, for QNames in values and for the names below.
    #[must_use]
    pub fn declare(mut self, prefix: &str, namespace: &str) -> Self {
        self.declared.push((prefix.to_owned(), namespace.to_owned()));
        self
    }

    /// Appends a child.
    pub fn push(&mut self, child: Self) {
        self.children.push(Node::Element(child));
    }

    /// Namespace, empty when none.
    pub fn ns(&self) -> &str {
        &self.name.namespace
    }

    /// Local name.
    pub fn local(&self) -> &str {
        &self.name.local
    }

    /// Whether it has that expanded name.
    pub fn is(&self, namespace: &str, local: &str) -> bool {
        self.name.is(namespace, local)
    }

    /// Attributes in document order.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Children in document order.
    pub fn children(&self) -> &[Node] {
        &self.children
    }

    /// Value of an attribute without namespace.
    pub fn get(&self, local: &str) -> Option<&str> {
        self.get_in("", local)
    }

    /// Value of an attribute in a namespace.
    pub fn get_in(&self, namespace: &str, local: &str) -> Option<&str> {
        self.attributes.iter().find(|a| a.is(namespace, local)).map(|a| a.value.as_str())
    }

    /// Child elements in order.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// Child elements in order, out of the tree.
    pub fn into_elements(self) -> impl Iterator<Item = Self> {
        self.children.into_iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// Child elements of that name.
    pub fn all<'a>(&'a self, namespace: &'a str, local: &'a str) -> impl Iterator<Item = &'a Self> {
        self.elements().filter(move |e| e.is(namespace, local))
    }

    /// First child element of that name.
    pub fn child(&self, namespace: &str, local: &str) -> Option<&Self> {
        self.elements().find(|e| e.is(namespace, local))
    }

    /// Follows first children of one namespace.
    pub fn path(&self, namespace: &str, locals: &[&str]) -> Option<&Self> {
        locals.iter().try_fold(self, |at, local| at.child(namespace, local))
    }

    /// Text directly inside, joined.
    pub fn content(&self) -> String {
        let mut out = String::new();
        for node in &self.children {
            if let Node::Text(text) = node {
                out.push_str(text);
            }
        }
        out
    }

    /// Text directly inside, without surrounding white space.
    pub fn trimmed(&self) -> String {
        self.content().trim().to_owned()
    }

    /// Writes it as a document of its own, without an XML declaration.
    pub fn to_xml(&self) -> String {
        writer::write(self).0
    }

    /// How many bytes [`Self::to_xml`] writes; nothing is written.
    pub fn written_len(&self) -> usize {
        writer::length(self)
    }

    /// Writes it as [`Self::to_xml`] does, in two pieces: up to its gap and from there; without a gap all is the first.
    pub fn to_xml_around(&self) -> (String, String) {
        let (mut before, gap) = writer::write(self);
        let after = gap.map(|at| before.split_off(at)).unwrap_or_default();
        (before, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_are_shared_and_others_kept() {
        assert!(COMMON.is_sorted_by_key(|name| name.len()));
        for name in COMMON {
            assert!(matches!(intern(name), Interned::Static(found) if found == *name), "{name}");
        }
        for name in ["x", "Slof", "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.1", &"long".repeat(40)] {
            assert_eq!(intern(name), Interned::Shared(name.into()));
        }
    }

    #[test]
    fn debug_shows_names_and_lengths_alone() {
        let tree = Element::new("urn:a", "person")
            .attr("id", "4711")
            .text("Ada")
            .with(Element::new("urn:a", "name").raw("<given>Grace</given>"));
        assert_eq!(format!("{tree:?}"), "person(id[4], Text[3], name(Raw[20]))");
        let all = format!("{tree:#?}{:?}{:?}", tree.attributes(), tree.children());
        assert!(["4711", "Ada", "Grace"].iter().all(|value| !all.contains(value)), "{all}");
    }
}
