//! Scan and tree reader, both over the same loop of events.

use std::collections::HashSet;

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{PrefixDeclaration, ResolveResult};
use quick_xml::{NsReader, XmlVersion};

use crate::XmlError;
use crate::tree::{Attribute, Element, Name, Node, intern};

/// Bounds on one document. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The whole document.
    pub bytes: usize,
    /// Nested elements.
    pub depth: u32,
    /// Attributes and, counted apart, namespace declarations on one element.
    pub attributes: u32,
    /// One attribute value.
    pub attribute_bytes: usize,
    /// One text node.
    pub text_bytes: usize,
    /// Elements and text nodes.
    pub nodes: u32,
}

impl Limits {
    /// For what peers ask of us.
    pub const REQUEST: Self = Self {
        bytes: 16 << 20,
        depth: 128,
        attributes: 256,
        attribute_bytes: 64 << 10,
        text_bytes: 16 << 20,
        nodes: 200_000,
    };
    /// For what peers answer.
    pub const ANSWER: Self = Self { bytes: 64 << 20, text_bytes: 64 << 20, nodes: 2_000_000, ..Self::REQUEST };
}

/// Checks a document against the limits without building anything.
///
/// Refused besides: a DOCTYPE, entities beyond the five, encodings other than UTF-8, XML 1.1, unbound prefixes, a second
/// root, bytes after the root. Processing instructions and comments are counted and ignored.
///
/// # Errors
/// The first thing that is wrong.
pub fn scan(bytes: &[u8], limits: &Limits) -> Result<(), XmlError> {
    walk(bytes, limits, &mut Nothing)
}

pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Element, XmlError> {
    let mut builder = Builder::default();
    walk(bytes, limits, &mut builder)?;
    builder.root.ok_or(XmlError::Malformed)
}

/// What the loop tells.
trait Sink {
    fn open(&mut self, name: Name, attributes: Vec<Attribute>);
    fn text(&mut self, text: &str);
    fn close(&mut self);
    /// Whether names and values are wanted at all.
    const BUILDS: bool;
}

struct Nothing;

impl Sink for Nothing {
    fn open(&mut self, _: Name, _: Vec<Attribute>) {}
    fn text(&mut self, _: &str) {}
    fn close(&mut self) {}
    const BUILDS: bool = false;
}

#[derive(Default)]
struct Builder {
    open: Vec<Element>,
    root: Option<Element>,
}

impl Sink for Builder {
    fn open(&mut self, name: Name, attributes: Vec<Attribute>) {
        self.open.push(Element { name, attributes, children: Vec::new(), declared: Vec::new() });
    }

    fn text(&mut self, text: &str) {
        let Some(parent) = self.open.last_mut() else { return };
        // Text around a comment or a CDATA section is one text.
        if let Some(Node::Text(before)) = parent.children.last_mut() {
            before.push_str(text);
        } else {
            parent.children.push(Node::Text(text.to_owned()));
        }
    }

    fn close(&mut self) {
        let Some(done) = self.open.pop() else { return };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(Node::Element(done)),
            None => self.root = Some(done),
        }
    }

    const BUILDS: bool = true;
}

fn walk<S: Sink>(bytes: &[u8], limits: &Limits, sink: &mut S) -> Result<(), XmlError> {
    if bytes.len() > limits.bytes {
        return Err(XmlError::TooLarge);
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Encoding)?;
    if text.chars().any(|c| !is_xml_char(c)) {
        return Err(XmlError::Encoding);
    }
    let mut reader = NsReader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut depth: u32 = 0;
    let mut nodes: u32 = 0;
    let mut text_run: usize = 0;
    let mut seen_root = false;
    let mut first = true;
    loop {
        let event = reader.read_event().map_err(|_| XmlError::Malformed)?;
        match event {
            Event::Start(start) => {
                (depth, nodes, text_run) = (depth + 1, nodes + 1, 0);
                if depth > limits.depth {
                    return Err(XmlError::TooDeep);
                }
                if depth == 1 && std::mem::replace(&mut seen_root, true) {
                    return Err(XmlError::Malformed);
                }
                element(&reader, &start, limits, sink)?;
            }
            Event::Empty(start) => {
                (nodes, text_run) = (nodes + 1, 0);
                if depth + 1 > limits.depth {
                    return Err(XmlError::TooDeep);
                }
                if depth == 0 && std::mem::replace(&mut seen_root, true) {
                    return Err(XmlError::Malformed);
                }
                element(&reader, &start, limits, sink)?;
                sink.close();
            }
            Event::End(_) => {
                depth = depth.checked_sub(1).ok_or(XmlError::Malformed)?;
                text_run = 0;
                sink.close();
            }
            Event::Text(content) => {
                let content = content.xml_content(XmlVersion::Implicit1_0);
                if depth == 0 {
                    if !content.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
                        return Err(XmlError::Malformed);
                    }
                } else {
                    if content.contains("]]>") {
                        return Err(XmlError::Malformed);
                    }
                    run(&mut text_run, &mut nodes, content.len(), limits)?;
                    sink.text(&content);
                }
            }
            Event::CData(content) => {
                if depth == 0 {
                    return Err(XmlError::Malformed);
                }
                let content = content.xml_content(XmlVersion::Implicit1_0);
                run(&mut text_run, &mut nodes, content.len(), limits)?;
                sink.text(&content);
            }
            Event::GeneralRef(reference) => {
                if depth == 0 {
                    return Err(XmlError::Malformed);
                }
                let character = entity(&reference)?;
                run(&mut text_run, &mut nodes, character.len_utf8(), limits)?;
                sink.text(character.encode_utf8(&mut [0; 4]));
            }
            Event::Decl(declaration) => {
                if !first {
                    return Err(XmlError::Malformed);
                }
                let version = declaration.version().map_err(|_| XmlError::Malformed)?;
                if version.as_ref() != "1.0" {
                    return Err(XmlError::Malformed);
                }
                if let Some(encoding) = declaration.encoding() {
                    let encoding = encoding.map_err(|_| XmlError::Malformed)?;
                    if !encoding.eq_ignore_ascii_case("utf-8") && !encoding.eq_ignore_ascii_case("us-ascii") {
                        return Err(XmlError::Encoding);
                    }
                }
            }
            Event::DocType(_) => return Err(XmlError::Doctype),
            Event::Comment(_) | Event::PI(_) => {
                nodes += 1;
            }
            Event::Eof => break,
        }
        first = false;
        if nodes > limits.nodes {
            return Err(XmlError::TooManyNodes);
        }
    }
    if depth == 0 && seen_root { Ok(()) } else { Err(XmlError::Malformed) }
}

fn run(text_run: &mut usize, nodes: &mut u32, more: usize, limits: &Limits) -> Result<(), XmlError> {
    if *text_run == 0 {
        *nodes += 1;
    }
    *text_run += more.max(1);
    if *text_run > limits.text_bytes { Err(XmlError::TooLarge) } else { Ok(()) }
}

fn element<S: Sink>(
    reader: &NsReader<&[u8]>,
    start: &BytesStart<'_>,
    limits: &Limits,
    sink: &mut S,
) -> Result<(), XmlError> {
    let (mut attributes, mut declarations) = (0u32, 0u32);
    let mut out = Vec::new();
    let mut names = HashSet::new();
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute.map_err(|_| XmlError::Malformed)?;
        if attribute.value.len() > limits.attribute_bytes {
            return Err(XmlError::TooManyAttributes);
        }
        if attribute.value.contains('<') {
            return Err(XmlError::Malformed);
        }
        let declaration = attribute.key.as_namespace_binding();
        if declaration.is_some() {
            declarations += 1
        } else {
            attributes += 1
        }
        if attributes > limits.attributes || declarations > limits.attributes {
            return Err(XmlError::TooManyAttributes);
        }
        let value = unescaped(&attribute.value)?;
        match declaration {
            Some(PrefixDeclaration::Named(prefix)) => {
                if !names.insert((None, attribute.key.into_inner())) || prefix == "xmlns" || value.is_empty() {
                    return Err(XmlError::Namespace);
                }
                if (prefix == "xml") != (value == XML) {
                    return Err(XmlError::Namespace);
                }
            }
            Some(PrefixDeclaration::Default) => {
                if !names.insert((None, attribute.key.into_inner())) || value == XML || value == XMLNS {
                    return Err(XmlError::Namespace);
                }
            }
            None => {
                let (resolved, local) = reader.resolver().resolve_attribute(attribute.key);
                let namespace = match resolved {
                    ResolveResult::Bound(namespace) => Some(namespace.0),
                    ResolveResult::Unbound => None,
                    ResolveResult::Unknown(_) => return Err(XmlError::Namespace),
                };
                // The same expanded name twice is not well-formed, whatever the prefixes.
                if !names.insert((Some(namespace), local.into_inner())) {
                    return Err(XmlError::Malformed);
                }
                if S::BUILDS {
                    let name =
                        Name { namespace: intern(namespace.unwrap_or_default()), local: intern(local.into_inner()) };
                    out.push(Attribute { name, value });
                }
            }
        }
    }
    let (resolved, local) = reader.resolver().resolve_element(start.name());
    let namespace = match resolved {
        ResolveResult::Bound(namespace) => namespace.0,
        ResolveResult::Unbound => "",
        ResolveResult::Unknown(_) => return Err(XmlError::Namespace),
    };
    let local = local.into_inner();
    if local.is_empty() || local.contains(':') || start.name().as_ref().starts_with(':') {
        return Err(XmlError::Malformed);
    }
    if S::BUILDS {
        sink.open(Name { namespace: intern(namespace), local: intern(local) }, out);
    }
    Ok(())
}

const XML: &str = "http://www.w3.org/XML/1998/namespace";
const XMLNS: &str = "http://www.w3.org/2000/xmlns/";

/// Attribute-value normalisation of XML 1.0 3.3.3 for CDATA attributes: white space becomes a blank, references stand.
fn unescaped(value: &str) -> Result<String, XmlError> {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(position) = rest.find(['&', '\t', '\n', '\r']) {
        let (before, found) = rest.split_at(position);
        out.push_str(before);
        if let Some(reference) = found.strip_prefix('&') {
            let end = reference.find(';').ok_or(XmlError::Malformed)?;
            out.push(entity(&reference[..end])?);
            rest = &reference[end + 1..];
        } else {
            out.push(' ');
            rest = found.strip_prefix("\r\n").unwrap_or(&found[1..]);
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn entity(name: &str) -> Result<char, XmlError> {
    let number = |digits: &str, radix| {
        let valid = !digits.is_empty() && digits.len() <= 8 && digits.chars().all(|c| c.is_digit(radix));
        let code = valid.then(|| u32::from_str_radix(digits, radix).ok()).flatten().ok_or(XmlError::Malformed)?;
        char::from_u32(code).filter(|c| is_xml_char(*c)).ok_or(XmlError::Encoding)
    };
    match name {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => match name.strip_prefix('#') {
            Some(code) => match code.strip_prefix('x') {
                Some(hex) => number(hex, 16),
                None => number(code, 10),
            },
            None => Err(XmlError::Entity),
        },
    }
}

/// Char of XML 1.0.
pub(crate) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}
