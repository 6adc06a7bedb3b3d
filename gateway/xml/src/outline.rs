//! Reading the part of a document that matters, and looking at the rest without holding it.

use crate::XmlError;
use crate::builder::Builder;
use crate::reader::{Limits, Sink, walk};
use crate::tree::{Attribute, Element, Name};

impl Element {
    /// Reads a document and keeps of the children of its element only those called `kept` (namespace, local name), whole.
    /// The others are in the tree without their content, so that positions among child elements are those of the document.
    /// `see` is shown each element when it begins, with its attributes, whether it is kept or not.
    ///
    /// # Errors
    /// As [`crate::scan`].
    pub fn outline(
        bytes: &[u8],
        limits: &Limits,
        kept: (&str, &str),
        see: &mut dyn FnMut(&Self),
    ) -> Result<Self, XmlError> {
        let mut sink = Outline { builder: Builder::new(limits.held.most(bytes.len())), kept, keeps: false, see };
        walk(bytes, limits, &mut sink, None)?;
        sink.builder.root.ok_or(XmlError::Malformed)
    }
}

struct Outline<'a> {
    builder: Builder,
    kept: (&'a str, &'a str),
    /// The child of the root that is open is kept.
    keeps: bool,
    see: &'a mut dyn FnMut(&Element),
}

impl Sink for Outline<'_> {
    fn open(&mut self, name: Name, attributes: Vec<Attribute>) {
        self.builder.open(name, attributes);
        if let Some(begun) = self.builder.innermost() {
            (self.see)(begun);
            if self.builder.depth() == 2 {
                self.keeps = begun.is(self.kept.0, self.kept.1);
            }
        }
    }

    fn text(&mut self, text: &str) {
        if self.keeps || self.builder.depth() < 2 {
            self.builder.text(text);
        }
    }

    fn close(&mut self) {
        match !self.keeps && self.builder.depth() > 2 {
            true => drop(self.builder.take()),
            false => self.builder.close(),
        }
    }

    fn held(&self) -> usize {
        self.builder.held()
    }

    const BUILDS: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_child_is_kept_and_all_are_seen() {
        let xml = "<e xmlns='u'><a><b>1</b></a><h i='2'><c>3<d/></c></h><z><c><d/>4</c></z></e>";
        let mut seen = Vec::new();
        let see = &mut |element: &Element| seen.push(element.local().to_owned());
        let outline = Element::outline(xml.as_bytes(), &Limits::REQUEST, ("u", "h"), see).expect("reads");
        assert_eq!(seen, ["e", "a", "b", "h", "c", "d", "z", "c", "d"]);
        let whole = Element::parse(xml.as_bytes(), &Limits::REQUEST).expect("reads");
        assert_eq!(outline.child("u", "h"), whole.child("u", "h"));
        assert_eq!(outline.elements().map(Element::local).collect::<Vec<_>>(), ["a", "h", "z"]);
        assert!(outline.child("u", "z").is_some_and(|z| z.children().is_empty()));
        assert!(Element::outline(b"<e><h>&x;</h></e>", &Limits::REQUEST, ("", "h"), &mut |_| ()).is_err());
    }
}
