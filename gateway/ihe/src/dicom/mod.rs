//! Whose object is it, and is it sound? What every reader of DICOM here shares: the walk over an object's structure, the
//! tree of what stands in it, its character sets, and its identifying attributes (PS3.10 7.1).

mod characters;
mod parser;
mod scan;
#[cfg(test)]
mod tests;
mod tree;
mod walk;

use std::borrow::Cow;
use std::fmt;

pub use parser::for_parser;
pub(crate) use parser::unit;
pub use scan::StructureScan;
use tree::{Builder, SPECIFIC_CHARACTER_SET};
pub(crate) use tree::{Entry, Item, Value};
use walk::{Element, Flow, UNDEFINED, Visitor, Walk};

pub(crate) const IMPLICIT_LE: &str = "1.2.840.10008.1.2";
pub(crate) const EXPLICIT_BE: &str = "1.2.840.10008.1.2.2";
/// Deflated Explicit VR Little Endian, JPIP Referenced Deflate, JPIP HTJ2K Referenced Deflate.
const DEFLATED: [&str; 3] = ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"];
/// The longest identifying value that is read.
const VALUE: usize = 1024;
/// What the tree of an object may hold, bytes: of any, and for each byte that was read.
const HELD: usize = 16 << 20;
const PER_BYTE: usize = 4;
/// Inflated bytes that are read for the identifying attributes.
const INFLATED: usize = 1 << 20;

pub(crate) const TRANSFER_SYNTAX: u32 = 0x0002_0010;
const SOP_INSTANCE: u32 = 0x0008_0018;
const PATIENT_NAME: u32 = 0x0010_0010;
const PATIENT_ID: u32 = 0x0010_0020;
const ISSUER: u32 = 0x0010_0021;
const ISSUER_QUALIFIERS: u32 = 0x0010_0024;
const BIRTH_DATE: u32 = 0x0010_0030;
const SEX: u32 = 0x0010_0040;
const OTHER_IDS: u32 = 0x0010_1002;
const STUDY: u32 = 0x0020_000D;
const SERIES: u32 = 0x0020_000E;
const UNIVERSAL_ENTITY_ID: u32 = 0x0040_0032;

fn is_deflated(syntax: &str) -> bool {
    DEFLATED.contains(&syntax)
}

/// Why an object is not taken. Texts of our own, without values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsound {
    /// Not a Part 10 object.
    #[error("no DICM at 128")]
    Prefix,
    /// The file meta information says no transfer syntax.
    #[error("no transfer syntax")]
    Syntax,
    /// A length beyond the bytes or beyond what encloses it, or undefined where it may not be.
    #[error("a length is beyond its bytes")]
    Length,
    /// More than 64 sequences, one in the other.
    #[error("nested too deep")]
    Depth,
    /// More than four million elements.
    #[error("too many elements")]
    Elements,
    /// What stands in it takes more memory than an object of its length may.
    #[error("takes too much memory")]
    Memory,
    /// An item outside a sequence, an element where an item must be.
    #[error("items and sequences are mixed up")]
    Structure,
    /// Not a value representation.
    #[error("no value representation where one must be")]
    Representation,
    /// An identifying attribute stands twice, or behind a greater tag.
    #[error("an identifying attribute stands twice or out of order")]
    Order,
    /// An identifying value is longer than any can be.
    #[error("an identifying value is too long")]
    Value,
    /// The bytes end inside the object.
    #[error("ends before its end")]
    Ends,
    /// What should be deflated is not.
    #[error("cannot be inflated")]
    Deflated,
    /// Inflates to more than 100 times its size, or 2 GiB.
    #[error("inflates to too much")]
    Inflated,
}

/// What identifies an object. Absent attributes are empty.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct DicomHeader {
    /// (0002,0010)
    pub transfer_syntax: String,
    /// (0008,0018)
    pub sop_instance: String,
    /// Whose it is.
    pub patient: PatientClaim,
    /// (0020,000D)
    pub study: String,
    /// (0020,000E)
    pub series: String,
}

/// Whose an object says that it is. Absent attributes are empty.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PatientClaim {
    /// (0010,0020)
    pub id: String,
    /// What the issuer of that id is called: (0010,0021), there and in the items of (0010,1002) that have the same id.
    pub namespaces: Vec<String>,
    /// Its universal identifier: (0040,0032) in (0010,0024), from the same places.
    pub universals: Vec<String>,
    /// (0010,0030)
    pub birth_date: String,
    /// (0010,0010), all groups.
    pub name: String,
    /// (0010,0040)
    pub sex: String,
}

impl fmt::Debug for DicomHeader {
    /// Without the patient: values of this type end up in debug output.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DicomHeader").field("transfer_syntax", &self.transfer_syntax).finish_non_exhaustive()
    }
}

impl fmt::Debug for PatientClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatientClaim").finish_non_exhaustive()
    }
}

/// How far the bytes carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanned {
    /// All that stands before the series has been read.
    Header(Box<DicomHeader>),
    /// The header goes on behind these bytes.
    More,
    /// Not DICOM Part 10, or broken.
    NotDicom(Unsound),
}

impl DicomHeader {
    /// Scans the first bytes of a file; `whole` when there are no more.
    pub fn scan(bytes: &[u8], whole: bool) -> Scanned {
        match scan(bytes, whole) {
            Ok(Some(header)) => Scanned::Header(Box::new(header)),
            Ok(None) => Scanned::More,
            Err(why) => Scanned::NotDicom(why),
        }
    }
}

fn scan(bytes: &[u8], whole: bool) -> Result<Option<DicomHeader>, Unsound> {
    let Some(begun) = Begun::read(bytes, whole, INFLATED)? else { return Ok(None) };
    let wanted = |tag| {
        let of_patient = [PATIENT_NAME, PATIENT_ID, ISSUER, ISSUER_QUALIFIERS, BIRTH_DATE, SEX, OTHER_IDS];
        [SPECIFIC_CHARACTER_SET, SOP_INSTANCE, STUDY, SERIES].contains(&tag) || of_patient.contains(&tag)
    };
    let object = begun.tree(SERIES + 1, wanted)?;
    object.map(|object| identify(&object, &begun.syntax)).transpose()
}

fn identify(object: &Item<'_>, transfer_syntax: &str) -> Result<DicomHeader, Unsound> {
    Ok(DicomHeader {
        transfer_syntax: transfer_syntax.to_owned(),
        sop_instance: text(object, SOP_INSTANCE)?,
        study: text(object, STUDY)?,
        series: text(object, SERIES)?,
        patient: patient(object)?,
    })
}

fn text(item: &Item<'_>, tag: u32) -> Result<String, Unsound> {
    let value = item.text(tag).unwrap_or_default();
    if value.len() > VALUE { Err(Unsound::Value) } else { Ok(value) }
}

/// The items of a sequence that identifies. Bytes that are no items might name another issuer.
fn sequence<'a, 'b>(item: &'a Item<'b>, tag: u32) -> Result<&'a [Item<'b>], Unsound> {
    match item.entry(tag).map(|entry| &entry.value) {
        Some(Value::Items(items)) => Ok(items),
        Some(Value::Bytes(bytes)) if !bytes.is_empty() => Err(Unsound::Structure),
        _ => Ok(&[]),
    }
}

/// Whose an object, given its tree, says that it is.
pub(crate) fn patient(object: &Item<'_>) -> Result<PatientClaim, Unsound> {
    let id = text(object, PATIENT_ID)?;
    let (mut namespaces, mut universals) = (Vec::new(), Vec::new());
    let others = sequence(object, OTHER_IDS)?.iter();
    for item in std::iter::once(object).chain(others) {
        if text(item, PATIENT_ID)? != id {
            continue;
        }
        let add = |list: &mut Vec<String>, value: String| {
            if !value.is_empty() && !list.contains(&value) {
                list.push(value);
            }
        };
        let (namespace, universal) = issuer_parts(&text(item, ISSUER)?);
        add(&mut namespaces, namespace);
        add(&mut universals, universal);
        for qualifier in sequence(item, ISSUER_QUALIFIERS)? {
            add(&mut universals, without_urn(&text(qualifier, UNIVERSAL_ENTITY_ID)?).to_owned());
        }
    }
    Ok(PatientClaim {
        id,
        namespaces,
        universals,
        birth_date: text(object, BIRTH_DATE)?,
        name: text(object, PATIENT_NAME)?,
        sex: text(object, SEX)?,
    })
}

/// Namespace and universal id of an issuer as (0010,0021) says it: mostly the namespace alone, sometimes a whole HL7
/// designator, as `HOSPITAL&2.999.1&ISO`, or what is left of a CX, as `^^^HOSPITAL`.
pub fn issuer_parts(text: &str) -> (String, String) {
    let mut parts = text.trim_start_matches([' ', '^']).split('&').map(str::trim);
    let namespace = without_urn(parts.next().unwrap_or_default()).to_owned();
    (namespace, without_urn(parts.next().unwrap_or_default()).to_owned())
}

fn without_urn(oid: &str) -> &str {
    oid.strip_prefix("urn:oid:").unwrap_or(oid)
}

/// The beginning of an object whose file meta information has been read.
pub(crate) struct Begun<'a> {
    /// (0002,0010)
    pub(crate) syntax: String,
    /// The data set as far as it is there.
    pub(crate) data: Cow<'a, [u8]>,
    /// Where it begins in the object.
    pub(crate) start: usize,
    /// Whether nothing follows it.
    whole: bool,
    /// Bytes of the object that are there.
    given: usize,
}

impl<'a> Begun<'a> {
    /// Reads preamble and group 0002; none when the bytes end before. Of a deflated data set at most `inflated` bytes are
    /// there.
    pub(crate) fn read(bytes: &'a [u8], whole: bool, inflated: usize) -> Result<Option<Self>, Unsound> {
        match bytes.get(128..132) {
            Some(b"DICM") => {}
            None if !whole => return Ok(None),
            _ => return Err(Unsound::Prefix),
        }
        let Some((start, syntax)) = scan::meta(bytes, whole)? else {
            return if whole { Err(Unsound::Ends) } else { Ok(None) };
        };
        let rest = &bytes[start..];
        if is_deflated(&syntax) {
            let (data, all) = scan::inflate(rest, inflated)?;
            // More than its beginning is not asked for, so that it may be cut.
            if whole && !all && data.is_empty() {
                return Err(Unsound::Ends);
            }
            return Ok(Some(Self { syntax, data: Cow::Owned(data), start, whole: all, given: bytes.len() }));
        }
        Ok(Some(Self { syntax, data: Cow::Borrowed(rest), start, whole, given: bytes.len() }))
    }

    fn walk<V: Visitor>(&self, visitor: &mut V) -> Result<Option<Walk>, Unsound> {
        let size = self.whole.then_some(self.data.len() as u64);
        let mut walk = Walk::new(scan::form(&self.syntax), size);
        walk.push(&self.data, visitor)?;
        if walk.stopped().is_none() {
            if !self.whole {
                return Ok(None);
            }
            walk.finish(visitor)?;
        }
        Ok(Some(walk))
    }

    /// How many of the object's bytes hold what stands before `until`; none when that goes on behind them. Of a deflated
    /// object: all that are there.
    pub(crate) fn end(&self, until: u32) -> Result<Option<usize>, Unsound> {
        struct Until(u32);
        impl Visitor for Until {
            fn element(&mut self, element: &Element, _: u64, depth: usize) -> Flow {
                if depth == 0 && element.tag >= self.0 { Flow::Stop } else { Flow::Continue }
            }
        }
        let Some(walk) = self.walk(&mut Until(until))? else { return Ok(None) };
        let within = walk.stopped().and_then(|at| usize::try_from(at).ok());
        Ok(Some(match (within, &self.data) {
            (Some(at), Cow::Borrowed(_)) => self.start + at,
            _ => self.given,
        }))
    }

    /// The wanted elements before `until`; none when the bytes end before they do.
    pub(crate) fn tree(&self, until: u32, wanted: fn(u32) -> bool) -> Result<Option<Item<'_>>, Unsound> {
        let mut builder = Builder::new(&self.data, Some(until), wanted, HELD + PER_BYTE * self.given);
        self.walk(&mut builder)?.map(|_| builder.finish()).transpose()
    }
}
