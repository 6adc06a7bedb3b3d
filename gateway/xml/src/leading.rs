//! Reading what stands at the beginning of a long document, without the rest of it.

use quick_xml::NsReader;
use quick_xml::events::Event;

use crate::XmlError;
use crate::builder::Builder;
use crate::reader::{Limits, Progress, Sink, is_xml_char, unread};
use crate::tree::{Attribute, Element, Name};

/// The beginning of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leading {
    /// The document's element, with its attributes and without its children.
    pub root: Element,
    /// Those of its children that were sought.
    pub found: Vec<Element>,
    /// Whether more of them can follow: the text ended before another child stood behind one of them.
    pub open: bool,
}

impl Element {
    /// Reads a document as far as the children of its root that are called `sought` (namespace, local name) and follow each
    /// other. The text may end anywhere behind the root's start tag.
    ///
    /// # Errors
    /// As [`crate::scan`], of what was read.
    pub fn leading(text: &str, limits: &Limits, sought: (&str, &str)) -> Result<Leading, XmlError> {
        let mut reader = NsReader::from_str(text);
        reader.config_mut().check_end_names = true;
        let mut progress = Progress::of(text.len());
        let mut sink = Children {
            builder: Builder::new(limits.held.most(text.len())),
            sought,
            found: Vec::new(),
            held: 0,
            ended: false,
        };
        while !sink.ended {
            let event = match reader.read_event() {
                Ok(Event::Eof) | Err(quick_xml::Error::Syntax(_)) => break,
                Err(quick_xml::Error::IllFormed(quick_xml::errors::IllFormedError::MissingEndTag(_))) => break,
                Err(error) => return Err(unread(&error)),
                Ok(event) => event,
            };
            if !event.chars().all(is_xml_char) {
                return Err(XmlError::Encoding);
            }
            progress.event(event, reader.resolver(), limits, &mut sink)?;
            progress.budget(limits, &sink, None)?;
        }
        let Children { builder, found, ended, .. } = sink;
        Ok(Leading { root: builder.into_root().ok_or(XmlError::Malformed)?, found, open: !ended })
    }
}

/// Keeps the children that are sought and forgets the others.
struct Children<'a> {
    builder: Builder,
    sought: (&'a str, &'a str),
    found: Vec<Element>,
    /// What those hold.
    held: usize,
    ended: bool,
}

impl Sink for Children<'_> {
    fn open(&mut self, name: Name, attributes: Vec<Attribute>) {
        let depth = self.builder.depth();
        self.builder.open(name, attributes);
        let is_sought = self.builder.innermost().is_some_and(|child| child.is(self.sought.0, self.sought.1));
        self.ended = depth == 1 && !is_sought && !self.found.is_empty();
    }

    fn text(&mut self, text: &str) {
        if self.builder.depth() > 1 {
            self.builder.text(text);
        }
    }

    fn close(&mut self) {
        if self.builder.depth() == 2 {
            let whole = self.builder.held();
            let child = self.builder.take().filter(|child| child.is(self.sought.0, self.sought.1));
            if let Some(child) = child {
                self.held += size_of::<Element>() + whole - self.builder.held();
                self.found.push(child);
            }
        } else {
            self.ended |= self.builder.depth() == 1;
            self.builder.close();
        }
    }

    fn held(&self) -> usize {
        self.held + self.builder.held()
    }

    const BUILDS: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str =
        "<?xml version='1.0'?><d xmlns='u' a='1'>t<x><y>1</y></x><y>2<x/></y><y/><z><y>3</y></z><y>4</y></d>";

    #[test]
    fn what_leads_is_read_and_nothing_behind_it() {
        let read = |text: &str| Element::leading(text, &Limits::REQUEST, ("u", "y"));
        let whole = read(DOCUMENT).expect("reads");
        assert_eq!((whole.found.len(), whole.open, whole.root.get("a")), (2, false, Some("1")));
        assert_eq!(whole.found[0].content(), "2");
        let behind = DOCUMENT.find("<z>").expect("a place") + 3;
        assert_eq!(read(&format!("{}<broken &", &DOCUMENT[..behind])), Ok(whole.clone()));
        for end in 0..=DOCUMENT.len() {
            match read(&DOCUMENT[..end]) {
                Ok(cut) => assert!(cut.open || cut == whole, "{end}"),
                Err(error) => assert!(end < DOCUMENT.find('t').expect("a place"), "{end}: {error}"),
            }
        }
        assert!(read("<!DOCTYPE d><d xmlns='u'><y/></d>").is_err());
        assert_eq!(read("<d xmlns='u'><x/></d>").map(|d| (d.found.len(), d.open)), Ok((0, false)));
    }
}
