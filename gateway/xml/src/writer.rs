//! Writing. Element namespaces are declared as default where they change, unless a declared prefix is in scope; so HL7
//! names stay unprefixed, which OpenNCP needs.

use std::borrow::Cow;

use crate::reader::is_xml_char;
use crate::tree::{Element, Node};

/// Prefixes for attributes in namespaces that we write.
const KNOWN: &[(&str, &str)] = &[
    ("xsi", "http://www.w3.org/2001/XMLSchema-instance"),
    ("s", "http://www.w3.org/2003/05/soap-envelope"),
    ("wsu", "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"),
];
/// Bound to `xml` without a declaration.
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// The document, and where its gap is.
pub(crate) fn write(root: &Element) -> (String, Option<usize>) {
    let (mut out, mut gap) = (String::new(), None);
    element(root, &mut Vec::new(), &mut out, &mut gap);
    (out, gap)
}

/// How long the document is when it is written.
pub(crate) fn length(root: &Element) -> usize {
    let mut out = Length(0);
    element(root, &mut Vec::new(), &mut out, &mut None);
    out.0
}

/// Where a document goes as it is written.
trait Out {
    fn push_str(&mut self, text: &str);
    fn len(&self) -> usize;
}

impl Out for String {
    fn push_str(&mut self, text: &str) {
        self.push_str(text);
    }

    fn len(&self) -> usize {
        self.len()
    }
}

/// Counts bytes and keeps none.
struct Length(usize);

impl Out for Length {
    fn push_str(&mut self, text: &str) {
        self.0 += text.len();
    }

    fn len(&self) -> usize {
        self.0
    }
}

/// In-scope declarations, innermost last; an empty prefix is the default namespace.
type Scope<'a> = Vec<(Cow<'a, str>, &'a str)>;

fn element<'a>(element_: &'a Element, scope: &mut Scope<'a>, out: &mut impl Out, gap: &mut Option<usize>) {
    let outer = scope.len();
    scope.extend(element_.declared.iter().map(|(prefix, namespace)| (Cow::from(prefix), namespace.as_str())));
    let prefix = prefix_for_element(element_.ns(), scope).unwrap_or_else(|| {
        scope.push((Cow::from(""), element_.ns()));
        Cow::from("")
    });
    for attribute in element_.attributes() {
        let foreign = !attribute.ns().is_empty() && attribute.ns() != XML;
        if foreign && bound(attribute.ns(), scope).is_none() {
            let known = KNOWN.iter().find(|(_, ns)| *ns == attribute.ns()).map(|(prefix, _)| Cow::from(*prefix));
            let prefix = known.unwrap_or_else(|| Cow::from(format!("ns{}", scope.len())));
            scope.push((prefix, attribute.ns()));
        }
    }

    out.push_str("<");
    push_name(&prefix, element_.local(), out);
    for (prefix, namespace) in &scope[outer..] {
        out.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
        out.push_str(prefix);
        push_value(namespace, out);
    }
    for attribute in element_.attributes() {
        let prefix = match attribute.ns() {
            "" => None,
            XML => Some(Cow::from("xml")),
            namespace => bound(namespace, scope),
        };
        out.push_str(" ");
        push_name(&prefix.unwrap_or_default(), attribute.local(), out);
        push_value(attribute.value(), out);
    }
    if element_.children().is_empty() {
        out.push_str("/>");
    } else {
        out.push_str(">");
        for child in element_.children() {
            match child {
                Node::Element(child) => element(child, scope, out, gap),
                Node::Text(text) => escape(text, false, out),
                Node::Raw(xml) => out.push_str(xml),
                Node::Gap => *gap = Some(out.len()),
            }
        }
        out.push_str("</");
        push_name(&prefix, element_.local(), out);
        out.push_str(">");
    }
    scope.truncate(outer);
}

fn push_name(prefix: &str, local: &str, out: &mut impl Out) {
    if !prefix.is_empty() {
        out.push_str(prefix);
        out.push_str(":");
    }
    out.push_str(local);
}

fn push_value(value: &str, out: &mut impl Out) {
    out.push_str("=\"");
    escape(value, true, out);
    out.push_str("\"");
}

/// A prefix in scope for an element: a declared one first, else the default if it is that namespace.
fn prefix_for_element<'a>(namespace: &str, scope: &Scope<'a>) -> Option<Cow<'a, str>> {
    let default = scope.iter().rev().find(|(p, _)| p.is_empty()).map_or("", |(_, n)| n);
    if default == namespace {
        return Some(Cow::from(""));
    }
    if namespace.is_empty() { None } else { bound(namespace, scope) }
}

/// A non-empty prefix that stands for the namespace here and is not hidden by an inner one.
fn bound<'a>(namespace: &str, scope: &Scope<'a>) -> Option<Cow<'a, str>> {
    scope
        .iter()
        .rev()
        .filter(|(prefix, bound)| !prefix.is_empty() && *bound == namespace)
        .map(|(prefix, _)| prefix)
        .find(|prefix| scope.iter().rev().find(|(p, _)| p == *prefix).is_some_and(|(_, n)| *n == namespace))
        .cloned()
}

/// Escapes; characters that XML 1.0 does not have become U+FFFD.
fn escape(text: &str, attribute: bool, out: &mut impl Out) {
    let mut written = 0;
    for (at, c) in text.char_indices() {
        let instead = match c {
            '<' => "&lt;",
            '>' => "&gt;",
            '&' => "&amp;",
            '"' if attribute => "&quot;",
            '\t' if attribute => "&#9;",
            '\n' if attribute => "&#10;",
            '\r' => "&#13;",
            c if is_xml_char(c) => continue,
            _ => "\u{FFFD}",
        };
        out.push_str(&text[written..at]);
        out.push_str(instead);
        written = at + c.len_utf8();
    }
    out.push_str(&text[written..]);
}
