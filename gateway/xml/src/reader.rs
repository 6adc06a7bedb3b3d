//! Scan and tree reader, both over the same loop of events.

use std::collections::HashSet;

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{NamespaceError, NamespaceResolver, PrefixDeclaration, ResolveResult};
use quick_xml::{NsReader, XmlVersion};

use crate::XmlError;
use crate::budget::{Charge, Held};
use crate::builder::Builder;
use crate::tree::{Attribute, Element, Name, intern};

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
    /// Memory of the tree.
    pub held: Held,
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
        held: Held { base: 24 << 20, per_byte: 2 },
    };
    /// For what peers answer.
    pub const ANSWER: Self = Self {
        bytes: 64 << 20,
        text_bytes: 64 << 20,
        nodes: 2_000_000,
        held: Held { base: 40 << 20, per_byte: 6 },
        ..Self::REQUEST
    };
    /// The same for documents of at most so many bytes, wherever in them the bytes are: what was let in by its length is not
    /// refused by it afterwards.
    #[must_use]
    pub const fn of(self, bytes: usize) -> Self {
        Self { bytes, text_bytes: bytes, ..self }
    }

    /// For long lists that are read with [`Element::parse_lifting`]: what bounds them is the caller's count.
    pub const LISTED: Self = Self { bytes: 1 << 30, text_bytes: 1 << 20, nodes: 8_000_000, ..Self::REQUEST };
}

/// Checks a document against the limits without building anything.
///
/// Refused besides: a DOCTYPE, entities beyond the five, encodings other than UTF-8, XML 1.1, unbound prefixes, a second
/// root, bytes after the root. Processing instructions and comments are counted and ignored.
///
/// # Errors
/// The first thing that is wrong.
pub fn scan(bytes: &[u8], limits: &Limits) -> Result<(), XmlError> {
    walk(bytes, limits, &mut Nothing, None)
}

pub(crate) fn parse(bytes: &[u8], limits: &Limits, charge: Option<&mut Charge>) -> Result<Element, XmlError> {
    let mut builder = Builder::new(limits.held.most(bytes.len()));
    walk(bytes, limits, &mut builder, charge)?;
    builder.root.ok_or(XmlError::Malformed)
}

/// What a document's events tell.
pub(crate) trait Sink {
    fn open(&mut self, name: Name, attributes: Vec<Attribute>);
    fn text(&mut self, text: &str);
    fn close(&mut self);
    /// Bytes that it holds.
    fn held(&self) -> usize;
    /// Whether names and values are wanted at all.
    const BUILDS: bool;
}

struct Nothing;

impl Sink for Nothing {
    fn open(&mut self, _: Name, _: Vec<Attribute>) {}
    fn text(&mut self, _: &str) {}
    fn close(&mut self) {}
    fn held(&self) -> usize {
        0
    }
    const BUILDS: bool = false;
}

pub(crate) fn walk<S: Sink>(
    bytes: &[u8],
    limits: &Limits,
    sink: &mut S,
    mut charge: Option<&mut Charge>,
) -> Result<(), XmlError> {
    if bytes.len() > limits.bytes {
        return Err(XmlError::TooLarge);
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Encoding)?;
    if !text.chars().all(is_xml_char) {
        return Err(XmlError::Encoding);
    }
    let mut reader = NsReader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut progress = Progress::of(bytes.len());
    loop {
        match reader.read_event().map_err(|error| unread(&error))? {
            Event::Eof => return progress.end(),
            event => progress.event(event, reader.resolver(), limits, sink)?,
        }
        progress.budget(limits, sink, charge.as_deref_mut())?;
    }
}

/// Where a document stands, event by event.
#[derive(Default)]
pub(crate) struct Progress {
    depth: u32,
    nodes: u32,
    /// Bytes of the text that is being read.
    text_run: usize,
    seen_root: bool,
    begun: bool,
    /// Bytes of the document that were read.
    pub(crate) read: usize,
    /// Declarations that are in scope, and what they hold, of each open element.
    scopes: Vec<Scope>,
    scope: Scope,
    /// What the message held before its tree grew.
    before: Option<usize>,
}

/// Namespace declarations in scope: the bytes that resolving them holds.
#[derive(Debug, Clone, Copy, Default)]
struct Scope {
    bytes: usize,
}

impl Progress {
    /// Of a document of so many bytes.
    pub(crate) fn of(read: usize) -> Self {
        Self { read, ..Self::default() }
    }

    /// Checks what the tree holds by now, and takes it from what all messages may hold.
    pub(crate) fn budget<S: Sink>(
        &mut self,
        limits: &Limits,
        sink: &S,
        charge: Option<&mut Charge>,
    ) -> Result<(), XmlError> {
        let held = sink.held().saturating_add(self.scope.bytes);
        if held > limits.held.most(self.read) {
            return Err(XmlError::Memory);
        }
        let Some(charge) = charge else { return Ok(()) };
        let before = *self.before.get_or_insert(charge.used());
        Ok(charge.cover(before + held)?)
    }

    /// Checks one event and tells it. The characters of a document are checked by whoever has its bytes.
    pub(crate) fn event<S: Sink>(
        &mut self,
        event: Event<'_>,
        names: &NamespaceResolver,
        limits: &Limits,
        sink: &mut S,
    ) -> Result<(), XmlError> {
        match event {
            Event::Start(start) => {
                self.open(limits)?;
                self.depth += 1;
                self.scopes.push(self.scope);
                self.scope = element(names, &start, (limits, self.scope), sink)?;
            }
            Event::Empty(start) => {
                self.open(limits)?;
                element(names, &start, (limits, self.scope), sink)?;
                sink.close();
            }
            Event::End(_) => {
                self.depth = self.depth.checked_sub(1).ok_or(XmlError::Malformed)?;
                self.text_run = 0;
                self.scope = self.scopes.pop().unwrap_or_default();
                sink.close();
            }
            Event::Text(content) => {
                let content = content.xml_content(XmlVersion::Implicit1_0);
                if self.depth == 0 {
                    if !content.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
                        return Err(XmlError::Malformed);
                    }
                } else {
                    if content.contains("]]>") {
                        return Err(XmlError::Malformed);
                    }
                    self.text(&content, limits, sink)?;
                }
            }
            Event::CData(content) => self.text(&content.xml_content(XmlVersion::Implicit1_0), limits, sink)?,
            Event::GeneralRef(reference) => {
                self.text(entity(&reference)?.encode_utf8(&mut [0; 4]), limits, sink)?;
            }
            Event::Decl(declaration) => {
                if self.begun {
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
            Event::Comment(_) | Event::PI(_) => self.nodes += 1,
            Event::Eof => {}
        }
        self.begun = true;
        if self.nodes > limits.nodes { Err(XmlError::TooManyNodes) } else { Ok(()) }
    }

    fn open(&mut self, limits: &Limits) -> Result<(), XmlError> {
        (self.nodes, self.text_run) = (self.nodes + 1, 0);
        if self.depth + 1 > limits.depth {
            return Err(XmlError::TooDeep);
        }
        if self.depth == 0 && std::mem::replace(&mut self.seen_root, true) {
            return Err(XmlError::Malformed);
        }
        Ok(())
    }

    /// A piece of a text inside an element.
    fn text<S: Sink>(&mut self, piece: &str, limits: &Limits, sink: &mut S) -> Result<(), XmlError> {
        if self.depth == 0 {
            return Err(XmlError::Malformed);
        }
        if self.text_run == 0 {
            self.nodes += 1;
        }
        self.text_run += piece.len().max(1);
        if self.text_run > limits.text_bytes {
            return Err(XmlError::TooLarge);
        }
        sink.text(piece);
        Ok(())
    }

    /// The document is whole.
    pub(crate) fn end(&self) -> Result<(), XmlError> {
        if self.depth == 0 && self.seen_root { Ok(()) } else { Err(XmlError::Malformed) }
    }
}

fn element<S: Sink>(
    resolver: &NamespaceResolver,
    start: &BytesStart<'_>,
    (limits, mut scope): (&Limits, Scope),
    sink: &mut S,
) -> Result<Scope, XmlError> {
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
        if declaration.is_some() {
            // Two vectors that may have grown to twice what they need.
            scope.bytes += 2 * (attribute.key.as_ref().len() + attribute.value.len() + DECLARATION);
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
                let (resolved, local) = resolver.resolve_attribute(attribute.key);
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
                    // Most elements have one, for which a vector would reserve four.
                    if out.is_empty() {
                        out.reserve_exact(1);
                    }
                    out.push(Attribute { name, value });
                }
            }
        }
    }
    let (resolved, local) = resolver.resolve_element(start.name());
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
        out.shrink_to_fit();
        sink.open(Name { namespace: intern(namespace), local: intern(local) }, out);
    }
    Ok(scope)
}

/// What the parser refused. It looks for each prefix among all declarations in scope, of which it takes 128.
pub(crate) fn unread(error: &quick_xml::Error) -> XmlError {
    match error {
        quick_xml::Error::Namespace(NamespaceError::TooManyBindings(_)) => XmlError::TooManyAttributes,
        _ => XmlError::Malformed,
    }
}

/// What resolving a declaration takes beside its bytes.
const DECLARATION: usize = 32;

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
