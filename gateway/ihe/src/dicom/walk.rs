//! The structure of a data set (PS3.5 7), walked as its bytes arrive: the one reading of lengths, items and nesting for
//! every reader of DICOM here.
//!
//! Nothing is allocated by a declared length, nothing recurses, and the bytes may be cut anywhere. A visitor learns where
//! elements begin and where their values stand; a visitor that holds the bytes can read them there.

use std::ops::Range;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use super::Unsound;

/// Sequences that may be open at once (threat table, T-DCM-5).
pub(super) const DEPTH: usize = 64;
pub(crate) const UNDEFINED: u32 = u32::MAX;
const ITEM: u32 = 0xFFFE_E000;
const ITEM_END: u32 = 0xFFFE_E00D;
const SEQUENCE_END: u32 = 0xFFFE_E0DD;
const PIXEL_DATA: u32 = 0x7FE0_0010;

/// Attributes that say what an object is and whose. Each stands at most once and in its order, so that a reader that
/// stops early and one that reads to the end see the same object.
const IDENTIFYING: [u32; 13] = [
    0x0008_0005,
    0x0008_0016,
    0x0008_0018,
    0x0010_0010,
    0x0010_0020,
    0x0010_0021,
    0x0010_0024,
    0x0010_0030,
    0x0010_0040,
    0x0010_1002,
    0x0020_000D,
    0x0020_000E,
    0x0040_A043,
];

/// How the elements of a data set are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// Without value representations (Implicit VR Little Endian).
    pub(crate) implicit: bool,
    /// Big endian.
    pub(crate) big: bool,
}

impl Form {
    /// Explicit VR Little Endian.
    pub(crate) const EXPLICIT: Self = Self { implicit: false, big: false };
    /// Implicit VR Little Endian.
    pub(crate) const IMPLICIT: Self = Self { implicit: true, big: false };
}

/// The header of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) tag: u32,
    /// As it is written; none in the implicit form.
    pub(crate) vr: Option<[u8; 2]>,
    pub(crate) length: u32,
    pub(crate) form: Form,
}

impl Element {
    /// The value representation: the written one, else that of the dictionary. An element written as UN has that of the
    /// dictionary too, where it is known (PS3.5 6.2.2).
    pub(crate) fn vr(&self) -> VR {
        let written = self.vr.and_then(|vr| std::str::from_utf8(&vr).ok()?.parse::<VR>().ok());
        written.filter(|vr| *vr != VR::UN).unwrap_or_else(|| known(self.tag).unwrap_or(VR::UN))
    }
}

/// The dictionary's value representation of an element. Private creators are LO (PS3.5 7.8.1).
fn known(tag: u32) -> Option<VR> {
    let (group, element) = ((tag >> 16) as u16, (tag & 0xFFFF) as u16);
    if group % 2 == 1 {
        return (0x10..=0xFF).contains(&element).then_some(VR::LO);
    }
    StandardDataDictionary.by_tag(Tag(group, element)).map(|entry| entry.vr().relaxed())
}

fn is_known_sequence(tag: u32) -> bool {
    let entry = StandardDataDictionary.by_tag(Tag((tag >> 16) as u16, (tag & 0xFFFF) as u16));
    matches!(entry.map(|e| e.vr()), Some(VirtualVr::Exact(VR::SQ)))
}

/// Whether the walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    /// The element whose header was just read is not wanted, nor is what follows.
    Stop,
}

/// What is told of a data set while it is walked. Positions count from the first byte of the data set.
pub(crate) trait Visitor {
    /// An element's header, `at` its first byte; `depth` sequences are open around it.
    fn element(&mut self, _: &Element, _at: u64, _depth: usize) -> Flow {
        Flow::Continue
    }
    /// A value has passed.
    fn value(&mut self, _: &Element, _: Range<u64>) {}
    /// A sequence begins, or an item of one.
    fn open(&mut self, _sequence: Option<&Element>) -> Result<(), Unsound> {
        Ok(())
    }
    /// The innermost sequence or item ends.
    fn close(&mut self) {}
}

/// A visitor that wants to know nothing.
impl Visitor for () {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Root,
    Sequence,
    /// Encapsulated pixel data: its items hold bytes.
    Fragments,
    Item,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    inside: Inside,
    /// First byte behind it, where its length is defined.
    end: Option<u64>,
    /// First byte that nothing in it may reach beyond: its own end, or that of what encloses it.
    limit: u64,
    form: Form,
}

/// A walk over one data set.
pub(crate) struct Walk {
    at: u64,
    /// The beginning of a header that is not complete yet.
    head: [u8; 12],
    held: usize,
    /// What is being stepped over, and whose value it is; a fragment of encapsulated pixel data is nobody's.
    passing: Option<(Option<Element>, Range<u64>)>,
    stack: Vec<Frame>,
    depth: usize,
    /// Whether zeros follow, with which media fill their blocks.
    padding: bool,
    /// The greatest tag so far at the top level.
    greatest: Option<u32>,
    stopped: Option<u64>,
}

impl Walk {
    /// Begins in front of a data set; `size` is its length where that is known.
    pub(crate) fn new(form: Form, size: Option<u64>) -> Self {
        let limit = size.unwrap_or(u64::MAX);
        Self::inside(Frame { inside: Inside::Root, end: None, limit, form })
    }

    /// Begins in front of the items of a sequence that has these many bytes.
    pub(crate) fn in_sequence(form: Form, size: u64) -> Self {
        Self::inside(Frame { inside: Inside::Sequence, end: None, limit: size, form })
    }

    fn inside(frame: Frame) -> Self {
        let stack = vec![frame];
        Self {
            at: 0,
            head: [0; 12],
            held: 0,
            passing: None,
            stack,
            depth: 0,
            padding: false,
            greatest: None,
            stopped: None,
        }
    }

    /// Where the visitor stopped it: the first byte of the element that was not wanted.
    pub(crate) fn stopped(&self) -> Option<u64> {
        self.stopped
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Unsound`], from which nothing leads back.
    pub(crate) fn push(&mut self, mut bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), Unsound> {
        while self.stopped.is_none() {
            if self.padding {
                self.at += bytes.len() as u64;
                return if bytes.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(Unsound::Structure) };
            }
            self.close_ended(visitor);
            if let Some((of, range)) = self.passing.take() {
                let step = (range.end - self.at).min(bytes.len() as u64);
                self.at += step;
                bytes = &bytes[usize::try_from(step).unwrap_or(bytes.len())..];
                if self.at < range.end {
                    self.passing = Some((of, range));
                    return Ok(());
                }
                if let Some(element) = of {
                    visitor.value(&element, range);
                }
                continue;
            }
            let Some((element, start)) = self.header(&mut bytes)? else {
                if self.padding {
                    continue;
                }
                return Ok(());
            };
            if visitor.element(&element, start, self.depth) == Flow::Stop {
                self.stopped = Some(start);
                return Ok(());
            }
            self.enter(element, visitor)?;
        }
        Ok(())
    }

    /// How many of the bytes that follow are not looked at.
    pub(crate) fn ahead(&self) -> u64 {
        self.passing.as_ref().map_or(0, |(_, range)| range.end - self.at)
    }

    /// Passes over bytes that are not looked at, at most [`Self::ahead`].
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(crate) fn skip(&mut self, bytes: u64, visitor: &mut impl Visitor) -> Result<(), Unsound> {
        self.at += bytes.min(self.ahead());
        self.push(&[], visitor)
    }

    /// Says that no bytes follow.
    ///
    /// # Errors
    /// [`Unsound::Ends`] where the data set was cut.
    pub(crate) fn finish(&mut self, visitor: &mut impl Visitor) -> Result<(), Unsound> {
        self.close_ended(visitor);
        let filled = self.head[..self.held].iter().all(|byte| *byte == 0);
        let whole = self.passing.is_none() && filled && self.stack.len() == 1;
        if whole || self.stopped.is_some() { Ok(()) } else { Err(Unsound::Ends) }
    }

    /// Leaves the items and sequences whose defined length is used up.
    fn close_ended(&mut self, visitor: &mut impl Visitor) {
        while self.held == 0
            && self.passing.is_none()
            && self.stack.len() > 1
            && self.stack.last().is_some_and(|frame| frame.end == Some(self.at))
        {
            self.leave(visitor);
        }
    }

    fn leave(&mut self, visitor: &mut impl Visitor) {
        let Some(frame) = self.stack.pop() else { return };
        match frame.inside {
            Inside::Sequence => {
                self.depth -= 1;
                visitor.close();
            }
            Inside::Item => visitor.close(),
            Inside::Fragments | Inside::Root => {}
        }
    }

    fn top(&self) -> Result<Frame, Unsound> {
        self.stack.last().copied().ok_or(Unsound::Structure)
    }

    /// The next header and its first byte; none when the bytes end inside it.
    fn header(&mut self, bytes: &mut &[u8]) -> Result<Option<(Element, u64)>, Unsound> {
        let frame = self.top()?;
        if !self.fill(8, bytes) {
            return Ok(None);
        }
        if frame.inside == Inside::Root && self.head[..8] == [0; 8] {
            (self.held, self.padding) = (0, true);
            return Ok(None);
        }
        let number16 = |at: usize| {
            let pair = [self.head[at], self.head[at + 1]];
            if frame.form.big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
        };
        let tag = u32::from(number16(0)) << 16 | u32::from(number16(2));
        let without_vr = frame.form.implicit || tag >> 16 == 0xFFFE;
        let vr = [self.head[4], self.head[5]];
        let (vr, length) = if without_vr {
            (None, self.number32(4, frame.form))
        } else if is_short(vr) {
            (Some(vr), u32::from(number16(6)))
        } else if vr.iter().all(u8::is_ascii_uppercase) {
            if !self.fill(12, bytes) {
                return Ok(None);
            }
            (Some(vr), self.number32(8, frame.form))
        } else {
            return Err(Unsound::Representation);
        };
        let start = self.at - self.held as u64;
        self.held = 0;
        if self.at > frame.limit {
            return Err(Unsound::Length);
        }
        Ok(Some((Element { tag, vr, length, form: frame.form }, start)))
    }

    fn number32(&self, at: usize, form: Form) -> u32 {
        let four = [self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]];
        if form.big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    }

    fn fill(&mut self, wanted: usize, bytes: &mut &[u8]) -> bool {
        let step = wanted.saturating_sub(self.held).min(bytes.len());
        self.head[self.held..self.held + step].copy_from_slice(&bytes[..step]);
        self.held += step;
        self.at += step as u64;
        *bytes = &bytes[step..];
        self.held >= wanted
    }

    fn enter(&mut self, element: Element, visitor: &mut impl Visitor) -> Result<(), Unsound> {
        let frame = self.top()?;
        match (element.tag, frame.inside) {
            (ITEM, Inside::Fragments) => {
                let end = self.end_of(&element, &frame)?.ok_or(Unsound::Length)?;
                self.passing = Some((None, self.at..end));
            }
            (ITEM, Inside::Sequence) => {
                visitor.open(None)?;
                self.open(Inside::Item, &element, &frame, frame.form)?;
            }
            (SEQUENCE_END, Inside::Sequence | Inside::Fragments) if frame.end.is_none() && self.stack.len() > 1 => {
                self.leave(visitor);
            }
            (ITEM_END, Inside::Item) if frame.end.is_none() => self.leave(visitor),
            (_, Inside::Sequence | Inside::Fragments) => return Err(Unsound::Structure),
            _ if element.tag >> 16 == 0xFFFE => return Err(Unsound::Structure),
            _ => {
                if frame.inside == Inside::Root {
                    self.in_order(element.tag)?;
                }
                match nested(&element)? {
                    Some((Inside::Fragments, form)) => self.open(Inside::Fragments, &element, &frame, form)?,
                    Some((inside, form)) => {
                        if self.depth == DEPTH {
                            return Err(Unsound::Depth);
                        }
                        self.depth += 1;
                        visitor.open(Some(&element))?;
                        self.open(inside, &element, &frame, form)?;
                    }
                    None => {
                        let end = self.end_of(&element, &frame)?.ok_or(Unsound::Length)?;
                        self.passing = Some((Some(element), self.at..end));
                    }
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, inside: Inside, element: &Element, outer: &Frame, form: Form) -> Result<(), Unsound> {
        let end = self.end_of(element, outer)?;
        self.stack.push(Frame { inside, end, limit: end.unwrap_or(outer.limit), form });
        Ok(())
    }

    /// First byte behind a value, where its length is defined.
    fn end_of(&self, element: &Element, outer: &Frame) -> Result<Option<u64>, Unsound> {
        if element.length == UNDEFINED {
            return Ok(None);
        }
        let end = self.at + u64::from(element.length);
        if end <= outer.limit { Ok(Some(end)) } else { Err(Unsound::Length) }
    }

    fn in_order(&mut self, tag: u32) -> Result<(), Unsound> {
        let misplaced = self.greatest.is_some_and(|greatest| tag <= greatest) && IDENTIFYING.contains(&tag);
        self.greatest = self.greatest.max(Some(tag));
        if misplaced { Err(Unsound::Order) } else { Ok(()) }
    }
}

/// Whether an element holds items, and in which form they are written.
fn nested(element: &Element) -> Result<Option<(Inside, Form)>, Unsound> {
    let undefined = element.length == UNDEFINED;
    Ok(match element.vr.as_ref() {
        Some(b"SQ") => Some((Inside::Sequence, element.form)),
        // The content was written without value representations, whatever is around it (PS3.5 6.2.2).
        Some(b"UN") if undefined => Some((Inside::Sequence, Form::IMPLICIT)),
        Some(b"OB" | b"OW") if undefined => Some((Inside::Fragments, element.form)),
        Some(_) if undefined => return Err(Unsound::Length),
        Some(_) => None,
        None if undefined && element.tag == PIXEL_DATA => Some((Inside::Fragments, element.form)),
        None if undefined || is_known_sequence(element.tag) => Some((Inside::Sequence, element.form)),
        None => None,
    })
}

/// Value representations whose length has two bytes (PS3.5 table 7.1-2); all others, known or not, have four.
pub(super) fn is_short(vr: [u8; 2]) -> bool {
    const SHORT: [&[u8; 2]; 21] = [
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
        b"ST", b"TM", b"UI", b"UL", b"US",
    ];
    SHORT.contains(&&vr)
}
