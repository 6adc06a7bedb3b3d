//! Builds the tree and counts what it holds.

use std::mem::size_of;

use crate::reader::Sink;
use crate::tree::{Attribute, Element, Interned, Name, Node};

/// A vector of more children is not shrunk when its element closes: for a moment there would be two of it.
const SHRUNK: usize = 1024;

/// The tree while it grows.
pub(crate) struct Builder {
    /// Elements that are open, outermost first.
    open: Vec<Open>,
    /// The document's element when it is closed.
    pub(crate) root: Option<Element>,
    /// Bytes that the tree holds.
    held: usize,
    /// Bytes that it may hold.
    pub(crate) most: usize,
    /// It would have held more.
    beyond: bool,
}

struct Open {
    element: Element,
    /// What was held when it began.
    before: usize,
}

impl Builder {
    /// A tree that may hold so many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { open: Vec::new(), root: None, held: 0, most, beyond: false }
    }

    /// Elements that are open.
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// The innermost of them.
    pub(crate) fn innermost(&self) -> Option<&Element> {
        self.open.last().map(|open| &open.element)
    }

    /// Takes the innermost open element out of the tree, with all that is in it; it counts no longer.
    pub(crate) fn take(&mut self) -> Option<Element> {
        let open = self.open.pop()?;
        self.held = open.before;
        Some(open.element)
    }

    /// The document's element, closed or not.
    pub(crate) fn into_root(mut self) -> Option<Element> {
        if self.open.is_empty() { self.root } else { Some(self.open.swap_remove(0).element) }
    }

    /// Appends to the innermost element. Most have one child, for which a vector would reserve four.
    fn push(&mut self, node: Node) {
        let Some(Open { element, .. }) = self.open.last_mut() else { return };
        let children = &mut element.children;
        let before = children.capacity();
        if children.len() == before {
            let grown = if before == 0 { 1 } else { (2 * before).max(4) };
            // While a vector grows there are two of it.
            if self.held + grown * size_of::<Node>() > self.most {
                self.beyond = true;
                return;
            }
            children.reserve_exact(grown - before);
        }
        children.push(node);
        self.held += (children.capacity() - before) * size_of::<Node>();
    }
}

impl Sink for Builder {
    fn open(&mut self, name: Name, attributes: Vec<Attribute>) {
        let before = self.held;
        self.held += of_name(&name) + attributes.capacity() * size_of::<Attribute>();
        self.held += attributes.iter().map(|a| of_name(&a.name) + a.value.capacity()).sum::<usize>();
        let element = Element { name, attributes, children: Vec::new(), declared: Vec::new() };
        self.open.push(Open { element, before });
    }

    fn text(&mut self, text: &str) {
        let Some(Open { element, .. }) = self.open.last_mut() else { return };
        // Text around a comment or a CDATA section is one text.
        if let Some(Node::Text(whole)) = element.children.last_mut() {
            let before = whole.capacity();
            whole.push_str(text);
            self.held += whole.capacity() - before;
        } else {
            self.held += text.len();
            self.push(Node::Text(text.to_owned()));
        }
    }

    fn close(&mut self) {
        let Some(Open { mut element, .. }) = self.open.pop() else { return };
        let spare = element.children.capacity() - element.children.len();
        if spare > 0 && element.children.len() < SHRUNK {
            element.children.shrink_to_fit();
            self.held -= spare * size_of::<Node>();
        }
        match self.open.is_empty() {
            false => self.push(Node::Element(element)),
            true => self.root = Some(element),
        }
    }

    fn held(&self) -> usize {
        if self.beyond { usize::MAX } else { self.held }
    }

    const BUILDS: bool = true;
}

/// What a name allocates: nothing where it is a common one.
fn of_name(name: &Name) -> usize {
    let of = |part: &Interned| match part {
        Interned::Static(_) => 0,
        // Two counters, and the text up to a word.
        Interned::Shared(text) => (2 * size_of::<usize>() + text.len()).next_multiple_of(size_of::<usize>()),
    };
    of(&name.namespace) + of(&name.local)
}
