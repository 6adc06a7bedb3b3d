//! Whose object is it? The identifying attributes of a DICOM Part 10 file, read from its first bytes (PS3.10 7.1).
//!
//! A scan, not a parser: values that are not wanted are stepped over without being copied, sequences are walked with a
//! counter instead of recursion, nothing is allocated by a length that the bytes announce.

use std::io::Read;

const IMPLICIT_LE: &str = "1.2.840.10008.1.2";
const EXPLICIT_BE: &str = "1.2.840.10008.1.2.2";
/// Deflated Explicit VR Little Endian, JPIP Referenced Deflate, JPIP HTJ2K Referenced Deflate.
const DEFLATED: [&str; 3] = ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"];
/// The longest value that is read.
const VALUE: usize = 1024;
/// Sequences and items open at once.
const DEPTH: usize = 128;
/// Inflated bytes looked at, and how much larger than what was deflated they may be.
const INFLATED: usize = 1 << 20;
const RATIO: usize = 100;

const TRANSFER_SYNTAX: u32 = 0x0002_0010;
const SOP_INSTANCE: u32 = 0x0008_0018;
const PATIENT_ID: u32 = 0x0010_0020;
const BIRTH_DATE: u32 = 0x0010_0030;
const STUDY: u32 = 0x0020_000D;
const SERIES: u32 = 0x0020_000E;
const ITEM: u32 = 0xFFFE_E000;
const ITEM_END: u32 = 0xFFFE_E00D;
const SEQUENCE_END: u32 = 0xFFFE_E0DD;
const UNDEFINED: u32 = u32::MAX;

/// What identifies an object. Absent attributes are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DicomHeader {
    /// (0002,0010)
    pub transfer_syntax: String,
    /// (0008,0018)
    pub sop_instance: String,
    /// (0010,0020)
    pub patient_id: String,
    /// (0010,0030)
    pub birth_date: String,
    /// (0020,000D)
    pub study: String,
    /// (0020,000E)
    pub series: String,
}

/// How far the bytes carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanned {
    /// All that stands before the series has been read.
    Header(Box<DicomHeader>),
    /// The header goes on behind these bytes.
    More,
    /// Not DICOM Part 10, or broken.
    NotDicom(&'static str),
}

impl DicomHeader {
    /// Scans the first bytes of a file; `whole` when there are no more.
    pub fn scan(bytes: &[u8], whole: bool) -> Scanned {
        match scan(bytes, whole) {
            Ok(header) => Scanned::Header(Box::new(header)),
            Err(Stop::More) => Scanned::More,
            Err(Stop::Broken(why)) => Scanned::NotDicom(why),
        }
    }
}

enum Stop {
    More,
    Broken(&'static str),
}

fn scan(bytes: &[u8], whole: bool) -> Result<DicomHeader, Stop> {
    let ended = || if whole { Stop::Broken("ends in its header") } else { Stop::More };
    match bytes.get(128..132) {
        Some(b"DICM") => {}
        Some(_) => return Err(Stop::Broken("no DICM")),
        None => return Err(ended()),
    }
    let mut header = DicomHeader::default();
    let mut meta = Cursor { bytes, at: 132, form: Form { implicit: false, big: false } };
    // What follows the group has another form, so its end is known by the group's number alone.
    while *bytes.get(meta.at..meta.at + 2).ok_or_else(ended)? == [2, 0] {
        let element = match meta.element() {
            Ok(element) => element,
            Err(Stop::More) => return Err(ended()),
            Err(other) => return Err(other),
        };
        if element.length == UNDEFINED {
            return Err(Stop::Broken("undefined length in the file meta information"));
        }
        let value = meta.value(&element).map_err(|stop| if whole { ended() } else { stop })?;
        if element.tag == TRANSFER_SYNTAX {
            header.transfer_syntax = text(value)?;
        }
    }
    let rest = &bytes[meta.at..];
    let form = Form { implicit: header.transfer_syntax == IMPLICIT_LE, big: header.transfer_syntax == EXPLICIT_BE };
    if header.transfer_syntax.is_empty() {
        return Err(Stop::Broken("no transfer syntax"));
    }
    if DEFLATED.contains(&header.transfer_syntax.as_str()) {
        let (inflated, bounded) = inflate(rest);
        return identify(header, &inflated, form, whole && !bounded);
    }
    identify(header, rest, form, whole)
}

/// The beginning of a deflated data set; whether a bound stopped it.
fn inflate(deflated: &[u8]) -> (Vec<u8>, bool) {
    let most = INFLATED.min(deflated.len().saturating_mul(RATIO));
    let mut out = Vec::new();
    // A stream that is cut or broken gives what came before; the scan then asks for more or refuses.
    let read = flate2::read::DeflateDecoder::new(deflated).take(most as u64).read_to_end(&mut out);
    (out, read.is_ok_and(|n| n == most))
}

fn identify(mut header: DicomHeader, bytes: &[u8], form: Form, whole: bool) -> Result<DicomHeader, Stop> {
    let mut cursor = Cursor { bytes, at: 0, form };
    loop {
        let element = match cursor.element() {
            Ok(element) => element,
            Err(Stop::More) if whole && cursor.at == bytes.len() => return Ok(header),
            Err(Stop::More) if whole => return Err(Stop::Broken("ends in its header")),
            Err(other) => return Err(other),
        };
        if element.tag > SERIES {
            return Ok(header);
        }
        let skipped = if element.length == UNDEFINED { cursor.skip_sequence(&element) } else { Ok(()) };
        skipped.map_err(|stop| if whole { Stop::Broken("ends in a sequence") } else { stop })?;
        if element.length == UNDEFINED {
            continue;
        }
        let value = match cursor.value(&element) {
            Err(Stop::More) if whole => return Err(Stop::Broken("ends in a value")),
            other => other?,
        };
        let place = match element.tag {
            SOP_INSTANCE => &mut header.sop_instance,
            PATIENT_ID => &mut header.patient_id,
            BIRTH_DATE => &mut header.birth_date,
            STUDY => &mut header.study,
            SERIES => &mut header.series,
            _ => continue,
        };
        // Two values would let one reader see another object than the next.
        if !place.is_empty() {
            return Err(Stop::Broken("an identifying attribute stands twice"));
        }
        *place = text(value)?;
        if element.tag == SERIES {
            return Ok(header);
        }
    }
}

/// A value without padding. Other encodings than UTF-8 are read as ISO 8859-1, which identifiers do not need.
fn text(value: &[u8]) -> Result<String, Stop> {
    if value.len() > VALUE {
        return Err(Stop::Broken("an identifying value is too long"));
    }
    let text = match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|byte| char::from(*byte)).collect(),
    };
    Ok(text.trim_matches(['\0', ' ']).to_owned())
}

#[derive(Clone, Copy)]
struct Form {
    implicit: bool,
    big: bool,
}

struct Element {
    tag: u32,
    length: u32,
    /// UN of undefined length holds items in implicit form (PS3.5 6.2.2).
    unknown: bool,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    form: Form,
}

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let end = self.at.checked_add(N).ok_or(Stop::More)?;
        let found = self.bytes.get(self.at..end).and_then(|b| b.try_into().ok()).ok_or(Stop::More)?;
        self.at = end;
        Ok(found)
    }

    fn number16(&mut self) -> Result<u16, Stop> {
        let bytes = self.take::<2>()?;
        Ok(if self.form.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn number32(&mut self) -> Result<u32, Stop> {
        let bytes = self.take::<4>()?;
        Ok(if self.form.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// Tag, VR and length; stands behind them. When bytes are missing the place is as before.
    fn element(&mut self) -> Result<Element, Stop> {
        let start = self.at;
        let read = self.head();
        if read.is_err() {
            self.at = start;
        }
        read
    }

    fn head(&mut self) -> Result<Element, Stop> {
        let tag = u32::from(self.number16()?) << 16 | u32::from(self.number16()?);
        if self.form.implicit || tag >> 16 == 0xFFFE {
            return Ok(Element { tag, length: self.number32()?, unknown: false });
        }
        let vr = self.take::<2>()?;
        let length = match &vr {
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV" => {
                self.take::<2>()?;
                self.number32()?
            }
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => u32::from(self.number16()?),
            _ => return Err(Stop::Broken("no value representation where one must be")),
        };
        Ok(Element { tag, length, unknown: &vr == b"UN" })
    }

    /// The value of an element of defined length.
    fn value(&mut self, element: &Element) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(element.length as usize).ok_or(Stop::More)?;
        let value = self.bytes.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(value)
    }

    /// Steps over a sequence of undefined length.
    fn skip_sequence(&mut self, element: &Element) -> Result<(), Stop> {
        let outer = self.form;
        // The forms of the sequences and items that are open.
        let mut open = vec![outer];
        if element.unknown {
            self.form = Form { implicit: true, big: false };
        }
        while !open.is_empty() {
            let next = self.element()?;
            match next.tag {
                SEQUENCE_END | ITEM_END => self.form = open.pop().unwrap_or(outer),
                _ if next.length == UNDEFINED => {
                    if open.len() >= DEPTH {
                        return Err(Stop::Broken("nested too deeply"));
                    }
                    open.push(self.form);
                    if next.unknown && next.tag != ITEM {
                        self.form = Form { implicit: true, big: false };
                    }
                }
                _ => drop(self.value(&next)?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Preamble, DICM and a transfer syntax.
    fn meta(syntax: &str) -> Vec<u8> {
        let mut out = vec![0; 128];
        out.extend_from_slice(b"DICM");
        explicit(&mut out, TRANSFER_SYNTAX, b"UI", syntax.as_bytes());
        out
    }

    fn explicit(out: &mut Vec<u8>, tag: u32, vr: &[u8; 2], value: &[u8]) {
        tag_le(out, tag);
        out.extend_from_slice(vr);
        out.extend_from_slice(&u16::try_from(value.len()).expect("short").to_le_bytes());
        out.extend_from_slice(value);
    }

    fn tag_le(out: &mut Vec<u8>, tag: u32) {
        out.extend_from_slice(&u16::try_from(tag >> 16).expect("16 bits").to_le_bytes());
        out.extend_from_slice(&u16::try_from(tag & 0xFFFF).expect("16 bits").to_le_bytes());
    }

    fn identifying(out: &mut Vec<u8>) {
        explicit(out, SOP_INSTANCE, b"UI", b"2.999.3\0");
        explicit(out, PATIENT_ID, b"LO", b"P1 ");
        explicit(out, BIRTH_DATE, b"DA", b"19770530");
        explicit(out, STUDY, b"UI", b"2.999.1");
        explicit(out, SERIES, b"UI", b"2.999.2");
    }

    fn found(bytes: &[u8]) -> DicomHeader {
        match DicomHeader::scan(bytes, true) {
            Scanned::Header(header) => *header,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn identifying_attributes_are_found_in_every_encoding() {
        let mut plain = meta("1.2.840.10008.1.2.1");
        identifying(&mut plain);
        let header = found(&plain);
        assert_eq!((header.sop_instance.as_str(), header.patient_id.as_str()), ("2.999.3", "P1"));
        assert_eq!((header.study.as_str(), header.series.as_str()), ("2.999.1", "2.999.2"));

        let mut data = Vec::new();
        identifying(&mut data);
        let mut deflated = meta(DEFLATED[0]);
        let mut encoder = flate2::write::DeflateEncoder::new(&mut deflated, flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, &data).expect("deflates");
        encoder.finish().expect("deflates");
        assert_eq!(found(&deflated).study, "2.999.1");

        let mut implicit = meta(IMPLICIT_LE);
        for (tag, value) in [(SOP_INSTANCE, "2.999.3"), (PATIENT_ID, "P1"), (STUDY, "2.999.1"), (SERIES, "2.999.2")] {
            tag_le(&mut implicit, tag);
            implicit.extend_from_slice(&u32::try_from(value.len()).expect("short").to_le_bytes());
            implicit.extend_from_slice(value.as_bytes());
        }
        assert_eq!(found(&implicit).series, "2.999.2");
    }

    #[test]
    fn a_cut_header_asks_for_more_and_never_lies() {
        let mut plain = meta("1.2.840.10008.1.2.1");
        identifying(&mut plain);
        plain.extend_from_slice(&[0; 64]);
        let whole = found(&plain);
        for cut in 0..plain.len() {
            match DicomHeader::scan(&plain[..cut], false) {
                Scanned::Header(header) => assert_eq!(*header, whole, "cut at {cut}"),
                Scanned::More => {}
                Scanned::NotDicom(why) => panic!("cut at {cut}: {why}"),
            }
        }
    }

    /// T-DCM-1 to T-DCM-8: each is refused or read, in bounded memory and without recursion.
    #[test]
    fn broken_headers_are_refused() {
        let refused = |id: &str, bytes: &[u8]| match DicomHeader::scan(bytes, true) {
            Scanned::NotDicom(_) => {}
            other => panic!("{id}: {other:?}"),
        };
        refused("T-DCM-1 no DICM", &[0; 4096]);
        refused("T-DCM-1 empty", &[]);
        let mut truncated = meta("1.2.840.10008.1.2.1");
        identifying(&mut truncated);
        truncated.truncate(truncated.len() - 3);
        refused("T-DCM-2 truncated", &truncated);
        let mut group = vec![0; 128];
        group.extend_from_slice(b"DICM");
        explicit(&mut group, 0x0002_0000, b"UL", &u32::MAX.to_le_bytes());
        explicit(&mut group, TRANSFER_SYNTAX, b"UI", b"1.2.840.10008.1.2.1");
        identifying(&mut group);
        // The group length is not used: the file reads, or would be refused.
        assert_eq!(found(&group).study, "2.999.1", "T-DCM-3 group length past the end");
        let mut huge = meta("1.2.840.10008.1.2.1");
        tag_le(&mut huge, 0x0008_0005);
        huge.extend_from_slice(b"UT\0\0");
        huge.extend_from_slice(&(u32::MAX - 1).to_le_bytes());
        refused("T-DCM-4 length of 4 GB", &huge);
        let mut nested = meta("1.2.840.10008.1.2.1");
        for _ in 0..20_000 {
            tag_le(&mut nested, 0x0008_1140);
            nested.extend_from_slice(b"SQ\0\0");
            nested.extend_from_slice(&UNDEFINED.to_le_bytes());
            tag_le(&mut nested, ITEM);
            nested.extend_from_slice(&UNDEFINED.to_le_bytes());
        }
        refused("T-DCM-5 nested sequences", &nested);
        let mut odd = meta("1.2.840.10008.1.2.1");
        identifying(&mut odd);
        assert_eq!(found(&odd).study.len() % 2, 1, "T-DCM-6 odd lengths are read");
        let mut bomb = meta(DEFLATED[0]);
        let mut encoder = flate2::write::DeflateEncoder::new(&mut bomb, flate2::Compression::best());
        let mut filler = Vec::new();
        tag_le(&mut filler, 0x0008_0005);
        filler.extend_from_slice(b"UT\0\0");
        filler.extend_from_slice(&(64u32 << 20).to_le_bytes());
        filler.resize(64 << 20, b' ');
        std::io::Write::write_all(&mut encoder, &filler).expect("deflates");
        encoder.finish().expect("deflates");
        match DicomHeader::scan(&bomb, true) {
            Scanned::Header(_) => panic!("T-DCM-7 deflate bomb"),
            Scanned::More | Scanned::NotDicom(_) => {}
        }
        refused("T-DCM-8 value representation of no kind", &{
            let mut bytes = meta("1.2.840.10008.1.2.1");
            bytes.extend_from_slice(&[8, 0, 5, 0, 0xFF, 0xFE, 0, 0]);
            bytes
        });
    }

    #[test]
    fn a_nested_sequence_is_stepped_over() {
        let mut out = meta("1.2.840.10008.1.2.1");
        tag_le(&mut out, 0x0008_1140);
        out.extend_from_slice(b"SQ\0\0");
        out.extend_from_slice(&UNDEFINED.to_le_bytes());
        tag_le(&mut out, ITEM);
        out.extend_from_slice(&UNDEFINED.to_le_bytes());
        // A patient id inside an item is not the object's.
        explicit(&mut out, PATIENT_ID, b"LO", b"OTHER");
        tag_le(&mut out, ITEM_END);
        out.extend_from_slice(&[0; 4]);
        tag_le(&mut out, SEQUENCE_END);
        out.extend_from_slice(&[0; 4]);
        identifying(&mut out);
        assert_eq!(found(&out).patient_id, "P1");
    }
}
