//! A walk over the structure of a DICOM object before a parser that recurses and allocates by declared lengths sees it.
//!
//! dicom-rs reserves what an element declares and calls itself for each nested item: eight bytes may ask for four
//! gigabytes, and a small file of nested sequences would end the process. This walk keeps a stack of its own and looks
//! at headers only.

use dicom_core::Tag;
use dicom_core::VR;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_dictionary_std::StandardDataDictionary;

use super::item::{Builder, Item};

/// Nested sequences; manifests need seven.
const DEPTH: usize = 32;
/// Elements and items in all.
const ELEMENTS: usize = 4_000_000;
/// Declared length of a value that lies beyond the bytes at hand, when only a header is at hand.
const BEYOND: usize = 1 << 20;
const UNDEFINED: u32 = u32::MAX;
const ITEM: (u16, u16) = (0xFFFE, 0xE000);
const ITEM_END: (u16, u16) = (0xFFFE, 0xE00D);
const SEQUENCE_END: (u16, u16) = (0xFFFE, 0xE0DD);
const IMPLICIT_LE: &[u8] = b"1.2.840.10008.1.2";
const EXPLICIT_BE: &[u8] = b"1.2.840.10008.1.2.2";
const DEFLATED: &[u8] = b"1.2.840.10008.1.2.1.99";

/// What is beyond bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BoundsError {
    /// No preamble and prefix.
    #[error("no preamble")]
    Preamble,
    /// A length beyond the bytes or the enclosing sequence, or none that its values have.
    #[error("a length is beyond its bytes")]
    Length,
    /// Deeper than 32.
    #[error("nested too deep")]
    Depth,
    /// More elements than four million.
    #[error("too many elements")]
    Elements,
    /// An item outside a sequence, an element where an item must be.
    #[error("items and sequences are mixed up")]
    Structure,
    /// Compressed as a whole: its bounds cannot be seen.
    #[error("deflated")]
    Deflated,
}

/// Walks a whole Part 10 object: every declared length must lie within the bytes.
///
/// # Errors
/// [`BoundsError`]
pub fn check_bounds(bytes: &[u8]) -> Result<(), BoundsError> {
    walk(bytes, None, None).map(drop)
}

/// Walks the beginning of a Part 10 object up to the first element from `until` on; the bytes may end anywhere. A parser
/// that is given these bytes must stop there too.
///
/// # Errors
/// [`BoundsError`]
pub fn check_header_bounds(bytes: &[u8], until: Tag) -> Result<(), BoundsError> {
    walk(bytes, Some(until), Some(BEYOND)).map(drop)
}

/// Walks a Part 10 object up to the first element from `until` on, or to its end: what lies before must be whole.
///
/// # Errors
/// [`BoundsError`]
pub fn check_bounds_until(bytes: &[u8], until: Tag) -> Result<(), BoundsError> {
    walk(bytes, Some(until), None).map(drop)
}

/// Where the first element from `until` on begins; none while the bytes end before it. A value may lie so far `beyond`
/// the bytes at hand.
///
/// # Errors
/// [`BoundsError`]
pub fn header_end(bytes: &[u8], until: Tag, beyond: usize) -> Result<Option<usize>, BoundsError> {
    walk(bytes, Some(until), Some(beyond))
}

/// The data set of a whole Part 10 object, put together by the walk itself: what was checked is what is read.
///
/// # Errors
/// [`BoundsError`]
pub(super) fn read(bytes: &[u8]) -> Result<Item<'_>, BoundsError> {
    let mut walk = Walk::begin(bytes, None, None)?;
    walk.seen = Some(Builder::new());
    walk.run()?;
    walk.seen.and_then(Builder::finish).ok_or(BoundsError::Structure)
}

fn walk(bytes: &[u8], until: Option<Tag>, beyond: Option<usize>) -> Result<Option<usize>, BoundsError> {
    Walk::begin(bytes, until, beyond)?.run()
}

/// What encloses the position.
#[derive(Clone, Copy)]
struct Frame {
    /// First byte behind it, where its length is defined.
    end: Option<usize>,
    /// A sequence holds items, an item holds elements.
    sequence: bool,
    /// Encapsulated pixel data: its items hold bytes.
    fragments: bool,
    /// Elements without VR.
    implicit: bool,
}

struct Header {
    tag: (u16, u16),
    vr: Option<[u8; 2]>,
    length: u32,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    whole: bool,
    until: Option<(u16, u16)>,
    beyond: usize,
    big_endian: bool,
    count: usize,
    /// Gets what is walked past, where somebody reads it.
    seen: Option<Builder<'a>>,
}

impl<'a> Walk<'a> {
    fn begin(bytes: &'a [u8], until: Option<Tag>, beyond: Option<usize>) -> Result<Self, BoundsError> {
        if bytes.get(128..132) != Some(b"DICM") {
            return Err(BoundsError::Preamble);
        }
        let until = until.map(|tag| (tag.0, tag.1));
        let (whole, beyond) = (beyond.is_none(), beyond.unwrap_or(0));
        Ok(Self { bytes, at: 132, whole, until, beyond, big_endian: false, count: 0, seen: None })
    }

    fn run(&mut self) -> Result<Option<usize>, BoundsError> {
        let Some(syntax) = self.meta()? else { return Ok(None) };
        if syntax == DEFLATED {
            return Err(BoundsError::Deflated);
        }
        self.big_endian = syntax == EXPLICIT_BE;
        self.data_set(syntax == IMPLICIT_LE)
    }

    fn open(&mut self, stack: &mut Vec<Frame>, frame: Frame, sequence: Option<(u16, u16)>) -> Result<(), BoundsError> {
        if stack.len() > DEPTH {
            return Err(BoundsError::Depth);
        }
        stack.push(frame);
        if let Some(seen) = &mut self.seen {
            seen.open(sequence.map(|(group, element)| Tag(group, element)));
        }
        Ok(())
    }

    fn close(&mut self, stack: &mut Vec<Frame>) {
        stack.pop();
        if let Some(seen) = &mut self.seen {
            seen.close();
        }
    }

    /// Reads group 0002 and returns the transfer syntax; none when the bytes end before.
    fn meta(&mut self) -> Result<Option<&'a [u8]>, BoundsError> {
        let mut syntax: &[u8] = b"";
        let mut announced = None;
        loop {
            let Some(group) = self.bytes.get(self.at..self.at + 2) else { return self.ended(Some(syntax)) };
            if group != [2, 0] {
                // A parser finds the data set by the length of the group, which must lead to the same place.
                return if announced == Some(self.at) { Ok(Some(syntax)) } else { Err(BoundsError::Length) };
            }
            let Some(header) = self.header(false)? else { return self.ended(None) };
            if header.length == UNDEFINED {
                return Err(BoundsError::Length);
            }
            let start = self.at;
            if !self.skip(header.length, None)? {
                return Ok(None);
            }
            if header.tag == (2, 0)
                && let Ok(length) = <[u8; 4]>::try_from(&self.bytes[start..self.at])
            {
                announced = usize::try_from(u32::from_le_bytes(length)).ok().and_then(|n| self.at.checked_add(n));
            }
            if header.tag == (2, 0x10) {
                syntax = self.bytes[start..self.at].trim_ascii_end();
                syntax = syntax.strip_suffix(b"\0").unwrap_or(syntax);
            }
        }
    }

    fn data_set(&mut self, implicit: bool) -> Result<Option<usize>, BoundsError> {
        let mut stack = vec![Frame { end: None, sequence: false, fragments: false, implicit }];
        while let Some(frame) = stack.last().copied() {
            if frame.end == Some(self.at) && stack.len() > 1 {
                self.close(&mut stack);
                continue;
            }
            if frame.end.is_some_and(|end| self.at > end) {
                return Err(BoundsError::Length);
            }
            if self.at == self.bytes.len() {
                // The data set ends with its bytes; sequences of undefined length must have ended before.
                return if stack.len() == 1 || !self.whole { Ok(None) } else { Err(BoundsError::Length) };
            }
            let start = self.at;
            let Some(header) = self.header(frame.implicit)? else { return self.ended(None) };
            if stack.len() == 1 && self.until.is_some_and(|until| header.tag >= until) {
                return Ok(Some(start));
            }
            self.count += 1;
            if self.count > ELEMENTS {
                return Err(BoundsError::Elements);
            }
            match header.tag {
                ITEM if frame.sequence && frame.fragments => {
                    if header.length == UNDEFINED {
                        return Err(BoundsError::Length);
                    }
                    if !self.skip(header.length, frame.end)? {
                        return Ok(None);
                    }
                }
                ITEM if frame.sequence => {
                    let inner = self.enter(header.length, &frame, false)?;
                    self.open(&mut stack, inner, None)?;
                }
                SEQUENCE_END if frame.sequence && frame.end.is_none() => self.close(&mut stack),
                ITEM_END if !frame.sequence && frame.end.is_none() && stack.len() > 1 => self.close(&mut stack),
                (0xFFFE, _) => return Err(BoundsError::Structure),
                // Its content has no VRs (PS3.5 6.2.2), and dicom-rs reads it as if it had.
                _ if header.vr == Some(*b"UN") && header.length == UNDEFINED => return Err(BoundsError::Structure),
                _ if frame.sequence => return Err(BoundsError::Structure),
                _ => match self.nested(&header) {
                    Some((fragments, implicit)) => {
                        let mut inner = self.enter(header.length, &frame, true)?;
                        inner.fragments = fragments;
                        inner.implicit |= implicit;
                        self.open(&mut stack, inner, Some(header.tag))?;
                    }
                    None => {
                        // A parser that reads whole values only would go on in the middle of the last.
                        if !header.length.is_multiple_of(unit(&header)) {
                            return Err(BoundsError::Length);
                        }
                        let value = self.at;
                        if !self.skip(header.length, frame.end)? {
                            return Ok(None);
                        }
                        let bytes = &self.bytes[value..self.at];
                        if let Some(seen) = &mut self.seen {
                            seen.value(Tag(header.tag.0, header.tag.1), bytes);
                        }
                    }
                },
            }
        }
        Ok(None)
    }

    /// Whether an element holds items: (encapsulated pixel data, content without VR).
    fn nested(&self, header: &Header) -> Option<(bool, bool)> {
        let undefined = header.length == UNDEFINED;
        match header.vr {
            Some(vr) if &vr == b"SQ" => Some((false, false)),
            Some(_) if undefined => Some((header.tag == (0x7FE0, 0x0010), false)),
            Some(_) => None,
            None if undefined => Some((header.tag == (0x7FE0, 0x0010), true)),
            None => {
                let entry = StandardDataDictionary.by_tag(Tag(header.tag.0, header.tag.1));
                matches!(entry.map(|e| e.vr()), Some(VirtualVr::Exact(VR::SQ))).then_some((false, true))
            }
        }
    }

    fn enter(&self, length: u32, outer: &Frame, sequence: bool) -> Result<Frame, BoundsError> {
        let end = (length != UNDEFINED).then(|| self.end_of(length, outer.end)).transpose()?;
        Ok(Frame { end, sequence, fragments: false, implicit: outer.implicit })
    }

    fn end_of(&self, length: u32, limit: Option<usize>) -> Result<usize, BoundsError> {
        let length = usize::try_from(length).map_err(|_| BoundsError::Length)?;
        let end = self.at.checked_add(length).ok_or(BoundsError::Length)?;
        let within_outer = limit.is_none_or(|limit| end <= limit);
        let within_bytes = end <= self.bytes.len() || !self.whole;
        if within_outer && within_bytes { Ok(end) } else { Err(BoundsError::Length) }
    }

    /// Steps over a value; false when the bytes at hand end inside it.
    fn skip(&mut self, length: u32, limit: Option<usize>) -> Result<bool, BoundsError> {
        if length == UNDEFINED {
            return Err(BoundsError::Length);
        }
        let end = self.end_of(length, limit)?;
        if end > self.bytes.len() {
            // A parser would reserve this much for bytes that may never come.
            return if end - self.at <= self.beyond { Ok(false) } else { Err(BoundsError::Length) };
        }
        self.at = end;
        Ok(true)
    }

    /// The next element's header; none when the bytes end inside it.
    fn header(&mut self, implicit: bool) -> Result<Option<Header>, BoundsError> {
        let Some(head) = self.bytes.get(self.at..self.at + 8) else { return Ok(None) };
        let tag = (self.u16([head[0], head[1]]), self.u16([head[2], head[3]]));
        let short = self.u16([head[6], head[7]]);
        let long = self.u32([head[4], head[5], head[6], head[7]]);
        if implicit || tag.0 == 0xFFFE {
            self.at += 8;
            return Ok(Some(Header { tag, vr: None, length: long }));
        }
        let vr = [head[4], head[5]];
        if is_short(vr) {
            self.at += 8;
            return Ok(Some(Header { tag, vr: Some(vr), length: u32::from(short) }));
        }
        let Some(rest) = self.bytes.get(self.at + 8..self.at + 12) else { return Ok(None) };
        let length = self.u32([rest[0], rest[1], rest[2], rest[3]]);
        self.at += 12;
        Ok(Some(Header { tag, vr: Some(vr), length }))
    }

    fn u16(&self, bytes: [u8; 2]) -> u16 {
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn u32(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// The bytes end inside a header: broken when they are all there are.
    fn ended<T>(&self, value: T) -> Result<T, BoundsError> {
        if self.whole { Err(BoundsError::Length) } else { Ok(value) }
    }
}

/// Bytes of one value, where values have a size.
fn unit(header: &Header) -> u32 {
    let vr = match header.vr {
        Some(vr) => std::str::from_utf8(&vr).ok().and_then(|vr| vr.parse::<VR>().ok()),
        None => StandardDataDictionary.by_tag(Tag(header.tag.0, header.tag.1)).map(|e| e.vr().relaxed()),
    };
    match vr {
        Some(VR::US | VR::SS | VR::OW) => 2,
        Some(VR::UL | VR::SL | VR::FL | VR::AT | VR::OL | VR::OF) => 4,
        Some(VR::FD | VR::OD | VR::OV | VR::SV | VR::UV) => 8,
        _ => 1,
    }
}

/// VRs whose length has two bytes (PS3.5 table 7.1-2); all others, known or not, have four.
fn is_short(vr: [u8; 2]) -> bool {
    const SHORT: [&[u8; 2]; 20] = [
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
        b"ST", b"TM", b"UI", b"UL",
    ];
    SHORT.contains(&&vr) || &vr == b"US"
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: Tag = Tag(0x7FE0, 0x0010);

    fn object(data_set: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 128];
        out.extend_from_slice(b"DICM");
        let uid = b"1.2.840.10008.1.2.1\0";
        out.extend_from_slice(&[2, 0, 0, 0, b'U', b'L', 4, 0, 28, 0, 0, 0]);
        out.extend_from_slice(&[2, 0, 0x10, 0, b'U', b'I', 20, 0]);
        out.extend_from_slice(uid);
        out.extend_from_slice(data_set);
        out
    }

    #[test]
    fn a_declared_length_is_not_believed() {
        let huge = [8, 0, 5, 0, b'O', b'B', 0, 0, 0xF0, 0xFF, 0xFF, 0xFF, 1, 2];
        assert_eq!(check_bounds(&object(&huge)), Err(BoundsError::Length));
        assert_eq!(check_header_bounds(&object(&huge), UNTIL), Err(BoundsError::Length));
        // What lies behind the header is not looked at.
        assert_eq!(check_header_bounds(&object(&huge), Tag(8, 5)), Ok(()));
        let near = [8, 0, 5, 0, b'O', b'B', 0, 0, 16, 0, 0, 0, 1, 2];
        assert_eq!(check_bounds(&object(&near)), Err(BoundsError::Length));
        assert_eq!(check_header_bounds(&object(&near), UNTIL), Ok(()));
        assert_eq!(check_bounds_until(&object(&near), UNTIL), Err(BoundsError::Length));
    }

    /// dicom-rs reads whole values and goes on behind the last; it finds the data set by the length of the meta group.
    #[test]
    fn a_parser_sees_the_elements_that_were_walked() {
        let rows = |length: u8| [&[0x28, 0, 0x10, 0, b'U', b'S', length, 0][..], &vec![0; length.into()]].concat();
        assert_eq!(check_bounds(&object(&rows(2))), Ok(()));
        assert_eq!(check_bounds(&object(&rows(3))), Err(BoundsError::Length));
        assert_eq!(check_header_bounds(&object(&rows(3)), UNTIL), Err(BoundsError::Length));
        for lie in [0, 27, 36] {
            let mut bytes = object(&rows(2));
            bytes[140] = lie;
            assert_eq!(check_bounds(&bytes), Err(BoundsError::Length), "{lie}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let level = [
            0x40, 0, 0x30, 0xA7, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF,
        ];
        assert_eq!(check_header_bounds(&object(&level.repeat(10)), UNTIL), Ok(()));
        assert_eq!(check_bounds(&object(&level.repeat(10))), Err(BoundsError::Length));
        assert_eq!(check_header_bounds(&object(&level.repeat(100_000)), UNTIL), Err(BoundsError::Depth));
        // A private sequence under UN.
        let unknown = level.map(|b| {
            if b == b'S' {
                b'U'
            } else if b == b'Q' {
                b'N'
            } else {
                b
            }
        });
        assert_eq!(check_header_bounds(&object(&unknown), UNTIL), Err(BoundsError::Structure));
    }

    #[test]
    fn items_stay_within_sequences() {
        let item = [0xFE, 0xFF, 0, 0xE0, 0, 0, 0, 0];
        assert_eq!(check_bounds(&object(&item)), Err(BoundsError::Structure));
        // An item longer than its sequence.
        let long = [0x40, 0, 0x30, 0xA7, b'S', b'Q', 0, 0, 8, 0, 0, 0, 0xFE, 0xFF, 0, 0xE0, 4, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(check_bounds(&object(&long)), Err(BoundsError::Length));
        assert_eq!(check_bounds(b"nothing"), Err(BoundsError::Preamble));
    }
}
