//! JSON with places: a tree whose nodes know where they stand, so that a document is edited without writing it anew.

use super::{DEPTH, DocumentError};

/// Nodes of one document at most.
const NODES: usize = 4_000_000;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) kind: Kind<'a>,
    /// Byte behind the last.
    pub(super) end: usize,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    Object(Vec<(&'a str, Node<'a>)>),
    Array(Vec<Node<'a>>),
    /// As written, between the quotes.
    Text(&'a str),
    Other,
}

impl<'a> Node<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&Node<'a>> {
        match &self.kind {
            Kind::Object(members) => members.iter().find(|(k, _)| *k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub(super) fn items(&self) -> &[Node<'a>] {
        match &self.kind {
            Kind::Array(items) => items,
            _ => &[],
        }
    }

    pub(super) fn members(&self) -> &[(&'a str, Node<'a>)] {
        match &self.kind {
            Kind::Object(members) => members,
            _ => &[],
        }
    }

    /// The text of a string, escapes resolved.
    pub(super) fn text(&self) -> Option<String> {
        match self.kind {
            Kind::Text(raw) if raw.contains('\\') => serde_json::from_str(&format!("\"{raw}\"")).ok(),
            Kind::Text(raw) => Some(raw.to_owned()),
            _ => None,
        }
    }

    /// A member's text, or nothing.
    pub(super) fn string(&self, key: &str) -> String {
        self.get(key).and_then(Node::text).unwrap_or_default()
    }
}

/// Reads a document.
///
/// # Errors
/// Not well-formed, nested too deeply, too many nodes.
pub(super) fn parse(text: &str) -> Result<Node<'_>, DocumentError> {
    // The grammar, with its escapes and numbers, is checked by the ordinary reader first.
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| {
        let line: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
        if e.to_string().starts_with("recursion") {
            DocumentError::TooDeep
        } else {
            DocumentError::Json(line + e.column())
        }
    })?;
    let mut parser = Parser { text, at: 0, nodes: 0 };
    parser.value(0)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    nodes: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn wrong<T>(&self) -> Result<T, DocumentError> {
        Err(DocumentError::Json(self.at))
    }

    fn string(&mut self) -> Result<&'a str, DocumentError> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut at = start;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => return self.wrong(),
            }
        }
        self.at = at + 1;
        self.text.get(start..at).map_or_else(|| self.wrong(), Ok)
    }

    fn value(&mut self, depth: u32) -> Result<Node<'a>, DocumentError> {
        if depth > DEPTH {
            return Err(DocumentError::TooDeep);
        }
        self.nodes += 1;
        if self.nodes > NODES {
            return Err(DocumentError::TooMany);
        }
        self.blanks();
        let kind = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Kind::Text(self.string()?),
            Some(_) => {
                while !matches!(self.peek(), None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
                    self.at += 1;
                }
                Kind::Other
            }
            None => return self.wrong(),
        };
        Ok(Node { kind, end: self.at })
    }

    fn object(&mut self, depth: u32) -> Result<Kind<'a>, DocumentError> {
        self.at += 1;
        let mut members = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Kind::Object(members));
                }
                Some(b',') => self.at += 1,
                Some(b'"') => {
                    let key = self.string()?;
                    self.blanks();
                    if self.peek() != Some(b':') {
                        return self.wrong();
                    }
                    self.at += 1;
                    members.push((key, self.value(depth + 1)?));
                }
                _ => return self.wrong(),
            }
        }
    }

    fn array(&mut self, depth: u32) -> Result<Kind<'a>, DocumentError> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Kind::Array(items));
                }
                Some(b',') => self.at += 1,
                Some(_) => items.push(self.value(depth + 1)?),
                None => return self.wrong(),
            }
        }
    }
}

/// Insertions into a document, made in the order of their places.
#[derive(Debug, Default)]
pub(super) struct Insertions(Vec<(usize, String)>);

impl Insertions {
    pub(super) fn add(&mut self, at: usize, text: String) {
        self.0.push((at, text));
    }

    /// The document with them.
    pub(super) fn apply(mut self, text: &str) -> String {
        self.0.sort_by_key(|(at, _)| *at);
        let mut out = String::with_capacity(text.len() + self.0.iter().map(|(_, t)| t.len()).sum::<usize>());
        let mut from = 0;
        for (at, insertion) in &self.0 {
            out.push_str(text.get(from..*at).unwrap_or_default());
            out.push_str(insertion);
            from = *at;
        }
        out.push_str(text.get(from..).unwrap_or_default());
        out
    }
}
