//! Writing. Element namespaces are declared as default where they change, unless a declared prefix is in scope; so HL7
//! names stay unprefixed, which OpenNCP needs.

use crate::reader::is_xml_char;
use crate::tree::{Element, Node};

/// Prefixes for attributes in namespaces that we write.
const KNOWN: &[(&str, &str)] = &[
    ("xsi", "http://www.w3.org/2001/XMLSchema-instance"),
    ("s", "http://www.w3.org/2003/05/soap-envelope"),
    ("wsu", "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"),
    ("xml", "http://www.w3.org/XML/1998/namespace"),
];

/// The document, and where its gap is.
pub(crate) fn write(root: &Element) -> (String, Option<usize>) {
    let (mut out, mut gap) = (String::new(), None);
    element(root, &mut Vec::new(), &mut out, &mut gap);
    (out, gap)
}

/// In-scope declarations, innermost last; an empty prefix is the default namespace.
type Scope = Vec<(String, String)>;

fn element(element_: &Element, scope: &mut Scope, out: &mut String, gap: &mut Option<usize>) {
    let outer = scope.len();
    let mut declarations: Vec<(String, String)> = element_.declared.clone();
    scope.extend(declarations.iter().cloned());

    let prefix = prefix_for_element(element_.ns(), scope);
    let prefix = match prefix {
        Some(prefix) => prefix,
        None => {
            declare("", element_.ns(), scope, &mut declarations);
            String::new()
        }
    };
    let name = qualified(&prefix, element_.local());
    let mut attributes = Vec::new();
    for attribute in element_.attributes() {
        let prefix = if attribute.ns().is_empty() {
            String::new()
        } else {
            match bound(attribute.ns(), scope) {
                Some(prefix) => prefix,
                None => {
                    let known = KNOWN.iter().find(|(_, ns)| *ns == attribute.ns()).map(|(p, _)| (*p).to_owned());
                    let prefix = known.unwrap_or_else(|| format!("ns{}", scope.len()));
                    if prefix != "xml" {
                        declare(&prefix, attribute.ns(), scope, &mut declarations);
                    }
                    prefix
                }
            }
        };
        attributes.push((qualified(&prefix, attribute.local()), attribute.value()));
    }

    out.push('<');
    out.push_str(&name);
    for (prefix, namespace) in &declarations {
        out.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
        out.push_str(prefix);
        out.push_str("=\"");
        escape(namespace, true, out);
        out.push('"');
    }
    for (name, value) in attributes {
        out.push(' ');
        out.push_str(&name);
        out.push_str("=\"");
        escape(value, true, out);
        out.push('"');
    }
    if element_.children().is_empty() {
        out.push_str("/>");
    } else {
        out.push('>');
        for child in element_.children() {
            match child {
                Node::Element(child) => element(child, scope, out, gap),
                Node::Text(text) => escape(text, false, out),
                Node::Raw(xml) => out.push_str(xml),
                Node::Gap => *gap = Some(out.len()),
            }
        }
        out.push_str("</");
        out.push_str(&name);
        out.push('>');
    }
    scope.truncate(outer);
}

fn declare(prefix: &str, namespace: &str, scope: &mut Scope, declarations: &mut Scope) {
    let entry = (prefix.to_owned(), namespace.to_owned());
    scope.push(entry.clone());
    declarations.push(entry);
}

fn qualified(prefix: &str, local: &str) -> String {
    if prefix.is_empty() { local.to_owned() } else { format!("{prefix}:{local}") }
}

/// A prefix in scope for an element: a declared one first, else the default if it is that namespace.
fn prefix_for_element(namespace: &str, scope: &Scope) -> Option<String> {
    let default = scope.iter().rev().find(|(p, _)| p.is_empty()).map_or("", |(_, n)| n.as_str());
    if default == namespace {
        return Some(String::new());
    }
    if namespace.is_empty() { None } else { bound(namespace, scope) }
}

/// A non-empty prefix that stands for the namespace here and is not hidden by an inner one.
fn bound(namespace: &str, scope: &Scope) -> Option<String> {
    scope
        .iter()
        .rev()
        .filter(|(prefix, bound)| !prefix.is_empty() && bound == namespace)
        .map(|(prefix, _)| prefix)
        .find(|prefix| scope.iter().rev().find(|(p, _)| p == *prefix).is_some_and(|(_, n)| n == namespace))
        .cloned()
}

/// Escapes; characters that XML 1.0 does not have become U+FFFD.
fn escape(text: &str, attribute: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' if attribute => out.push_str("&quot;"),
            '\t' if attribute => out.push_str("&#9;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            c if is_xml_char(c) => out.push(c),
            _ => out.push('\u{FFFD}'),
        }
    }
}
