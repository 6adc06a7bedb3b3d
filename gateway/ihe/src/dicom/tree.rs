//! A data set as it stands in its bytes: where its elements and items are, and the values that are asked for. A manifest of
//! twenty thousand instances has a hundred thousand items; as objects of dicom-rs they take eight times the memory.

use std::ops::Range;

use dicom_core::VR;

use super::Unsound;
use super::characters::{Characters, Delimiters};
use super::walk::{Element, Flow, Form, Visitor, Walk};

/// Elements and items that are kept of one object.
const ELEMENTS: usize = 4_000_000;
/// A list of more is not shrunk when it is whole.
const SHRUNK: usize = 1024;
pub(super) const SPECIFIC_CHARACTER_SET: u32 = 0x0008_0005;

/// The data set of an object, or an item of one of its sequences.
pub(crate) struct Item<'a> {
    entries: Vec<Entry<'a>>,
    characters: Characters,
}

/// An element with what it holds.
pub(crate) struct Entry<'a> {
    pub(crate) tag: u32,
    /// As it is written.
    vr: Option<[u8; 2]>,
    form: Form,
    pub(crate) value: Value<'a>,
}

pub(crate) enum Value<'a> {
    Bytes(&'a [u8]),
    Items(Vec<Item<'a>>),
}

impl Entry<'_> {
    pub(crate) fn vr(&self) -> VR {
        Element { tag: self.tag, vr: self.vr, length: 0, form: self.form }.vr()
    }

    /// Whether numbers in it are big endian. What was written as UN never is (PS3.5 6.2.2).
    pub(crate) fn big_endian(&self) -> bool {
        self.form.big && self.vr != Some(*b"UN")
    }
}

impl<'a> Item<'a> {
    /// Elements in the order of their tags; of one that stands twice the last.
    pub(crate) fn entries(&self) -> Vec<&Entry<'a>> {
        let mut out: Vec<&Entry<'a>> = self.entries.iter().rev().collect();
        out.sort_by_key(|entry| entry.tag);
        out.dedup_by_key(|entry| entry.tag);
        out
    }

    pub(crate) fn entry(&self, tag: u32) -> Option<&Entry<'a>> {
        self.entries.iter().rfind(|entry| entry.tag == tag)
    }

    pub(crate) fn items(&self, tag: u32) -> &[Self] {
        match self.entry(tag) {
            Some(Entry { value: Value::Items(items), .. }) => items,
            _ => &[],
        }
    }

    /// The text of an element as Unicode, padding included.
    pub(crate) fn decoded(&self, entry: &Entry<'_>) -> Option<String> {
        let Value::Bytes(bytes) = entry.value else { return None };
        Some(match entry.vr() {
            VR::PN => self.characters.decode(bytes, Delimiters::Names),
            VR::LT | VR::ST | VR::UT => self.characters.decode(bytes, Delimiters::Lines),
            _ => self.characters.decode(bytes, Delimiters::Values),
        })
    }

    /// The text of an element without padding; none where it is empty.
    pub(crate) fn text(&self, tag: u32) -> Option<String> {
        let value = self.decoded(self.entry(tag)?)?;
        let value = value.trim_matches(['\0', ' ']);
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// Puts a data set together while its structure is walked: what was checked is what is read.
pub(crate) struct Builder<'a> {
    data: &'a [u8],
    open: Vec<Open<'a>>,
    /// The first tag at the top level that is not wanted.
    until: Option<u32>,
    /// Which elements at the top level are wanted.
    wanted: fn(u32) -> bool,
    /// Sequences and items open inside one that is not wanted.
    ignored: usize,
    count: usize,
    /// Bytes that the tree holds, and that it may hold.
    held: usize,
    most: usize,
    beyond: Option<Unsound>,
}

enum Open<'a> {
    Item(Item<'a>),
    Sequence(Element, Vec<Item<'a>>),
}

impl<'a> Builder<'a> {
    /// Builds from `data`, in which positions of the walk count.
    pub(crate) fn new(data: &'a [u8], until: Option<u32>, wanted: fn(u32) -> bool, most: usize) -> Self {
        let root = Item { entries: Vec::new(), characters: Characters::default() };
        Self { data, open: vec![Open::Item(root)], until, wanted, ignored: 0, count: 0, held: 0, most, beyond: None }
    }

    /// Appends within what the tree may hold.
    fn push<T>((held, most): (&mut usize, usize), list: &mut Vec<T>, one: T) -> Result<(), Unsound> {
        let before = list.capacity();
        if list.len() == before {
            let grown = (2 * before).max(4);
            // While a vector grows there are two of it.
            if *held + grown * size_of::<T>() > most {
                return Err(Unsound::Memory);
            }
            list.reserve_exact(grown - before);
            *held += (list.capacity() - before) * size_of::<T>();
        }
        list.push(one);
        Ok(())
    }

    /// Gives back what a list that is whole does not need. A long one stays as it is: for a moment there would be two.
    fn shrink<T>(held: &mut usize, list: &mut Vec<T>) {
        if list.len() < SHRUNK {
            *held -= (list.capacity() - list.len()) * size_of::<T>();
            list.shrink_to_fit();
        }
    }

    fn characters(&self) -> Characters {
        let of = |open: &Open<'a>| match open {
            Open::Item(item) => Some(item.characters),
            Open::Sequence(..) => None,
        };
        self.open.iter().rev().find_map(of).unwrap_or_default()
    }

    fn count(&mut self) -> Result<(), Unsound> {
        self.count += 1;
        if self.count > ELEMENTS { Err(Unsound::Elements) } else { Ok(()) }
    }

    fn is_wanted(&self, tag: u32) -> bool {
        self.ignored == 0 && (self.open.len() > 1 || (self.wanted)(tag))
    }

    fn keep(&mut self, element: &Element, value: Value<'a>) {
        let Some(Open::Item(item)) = self.open.last_mut() else { return };
        if let (SPECIFIC_CHARACTER_SET, Value::Bytes(bytes)) = (element.tag, &value)
            && let Some(known) = Characters::read(bytes)
        {
            item.characters = known;
        }
        let entry = Entry { tag: element.tag, vr: element.vr, form: element.form, value };
        if let Err(beyond) = Self::push((&mut self.held, self.most), &mut item.entries, entry) {
            self.beyond = Some(beyond);
        }
    }

    /// The items of a sequence that was written as UN of defined length; none where its bytes are no items.
    fn items_in(&mut self, value: &'a [u8]) -> Option<Vec<Item<'a>>> {
        let mut inner = Builder::new(value, None, |_| true, self.most);
        (inner.held, inner.count) = (self.held, self.count);
        let sequence = Element { tag: 0, vr: None, length: 0, form: Form::IMPLICIT };
        inner.open = vec![
            Open::Item(Item { entries: Vec::new(), characters: self.characters() }),
            Open::Sequence(sequence, Vec::new()),
        ];
        let mut walk = Walk::in_sequence(Form::IMPLICIT, value.len() as u64);
        let walked = walk.push(value, &mut inner).and_then(|()| walk.finish(&mut inner));
        self.count = inner.count;
        if let Some(beyond) = inner.beyond.or(walked.err().filter(|e| matches!(e, Unsound::Elements | Unsound::Memory)))
        {
            self.beyond = Some(beyond);
            return None;
        }
        walked.ok()?;
        match inner.open.pop() {
            Some(Open::Sequence(_, items)) if inner.open.len() == 1 => {
                self.held = inner.held;
                Some(items)
            }
            _ => None,
        }
    }

    /// The whole, once the walk has come to its end or was stopped.
    pub(crate) fn finish(mut self) -> Result<Item<'a>, Unsound> {
        if let Some(beyond) = self.beyond {
            return Err(beyond);
        }
        match self.open.pop() {
            Some(Open::Item(item)) if self.open.is_empty() => Ok(item),
            _ => Err(Unsound::Ends),
        }
    }
}

impl Visitor for Builder<'_> {
    fn element(&mut self, element: &Element, _: u64, depth: usize) -> Flow {
        let behind = depth == 0 && self.until.is_some_and(|until| element.tag >= until);
        if behind || self.beyond.is_some() { Flow::Stop } else { Flow::Continue }
    }

    fn value(&mut self, element: &Element, range: Range<u64>) {
        if !self.is_wanted(element.tag) {
            return;
        }
        if let Err(beyond) = self.count() {
            self.beyond = Some(beyond);
            return;
        }
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end)) else { return };
        let Some(bytes) = self.data.get(start..end) else { return };
        let sequence = element.vr == Some(*b"UN") && element.vr() == VR::SQ;
        let value = sequence.then(|| self.items_in(bytes)).flatten().map_or(Value::Bytes(bytes), Value::Items);
        self.keep(element, value);
    }

    fn open(&mut self, sequence: Option<&Element>) -> Result<(), Unsound> {
        if self.ignored > 0 || sequence.is_some_and(|element| !self.is_wanted(element.tag)) {
            self.ignored += 1;
            return Ok(());
        }
        self.count()?;
        let opened = match sequence {
            Some(element) => Open::Sequence(*element, Vec::new()),
            None => Open::Item(Item { entries: Vec::new(), characters: self.characters() }),
        };
        self.open.push(opened);
        Ok(())
    }

    fn close(&mut self) {
        if self.ignored > 0 {
            self.ignored -= 1;
            return;
        }
        match (self.open.pop(), self.open.last_mut()) {
            (Some(Open::Item(mut item)), Some(Open::Sequence(_, items))) => {
                Self::shrink(&mut self.held, &mut item.entries);
                if let Err(beyond) = Self::push((&mut self.held, self.most), items, item) {
                    self.beyond = Some(beyond);
                }
            }
            (Some(Open::Sequence(element, mut items)), Some(Open::Item(_))) => {
                Self::shrink(&mut self.held, &mut items);
                self.keep(&element, Value::Items(items));
            }
            _ => {}
        }
    }
}
