//! The attributes of an object in the DICOM JSON Model (PS3.18 F), from the bytes before its pixel data.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use serde_json::{Map, Number, Value, json};

use super::dicom;
use crate::dicom::{Begun, Entry, Item, Unsound, Value as Held, unit};

/// What stands from here on is pixel data and what follows it.
pub const PIXELS: Tag = Tag(0x7FE0, 0);

/// The longest binary value that stands inside.
const INLINE: usize = 1024;
/// Inflated bytes that are read for the attributes of one object.
const INFLATED: usize = 8 << 20;
/// Text of the model of an object, bytes: of any, and quarters of a byte for each byte that was read. Beside the tree, which
/// takes 16 MiB and four times the bytes, and what was inflated, no reader holds more than 64 MB and eight times what it read.
const MODEL: usize = 12 << 20;
const QUARTERS: usize = 7;

/// What of an object is told in another way than its bytes say (PS3.18 10.4).
#[derive(Debug, Clone, Copy)]
pub struct MetadataView<'a> {
    /// Retrieve URL (0008,1190) of the instance here, if it can be had; where the source would have it fetched is left out.
    pub retrieve_url: Option<&'a str>,
    /// The one Patient ID (0010,0020) of all instances of a study.
    pub patient_id: Option<&'a str>,
}

/// How many of an object's first bytes hold its attributes before `until`; none while more of them are needed. `whole`
/// when no more follow.
///
/// # Errors
/// [`Unsound`]
pub fn header_end(bytes: &[u8], until: Tag, whole: bool) -> Result<Option<usize>, Unsound> {
    let Some(begun) = Begun::read(bytes, whole, INFLATED)? else { return Ok(None) };
    begun.end(dicom::key(until))
}

/// All attributes of an object as JSON, given as many of its bytes as [`header_end`] says, or all of them. Left out are private
/// attributes and binary values of more than 1 KiB, for which there is no address; text is UTF-8 whatever it was.
///
/// # Errors
/// [`Unsound`]
pub fn metadata(header: &[u8], view: &MetadataView<'_>) -> Result<Vec<u8>, Unsound> {
    let begun = Begun::read(header, true, INFLATED)?.ok_or(Unsound::Ends)?;
    let object = begun.tree(dicom::key(PIXELS), |_| true)?.ok_or(Unsound::Ends)?;
    let set = |tag, vr: &str, value: &str| (dicom::key(tag), Some(json!({ "vr": vr, "Value": [value] })));
    let mut told = BTreeMap::from([
        (dicom::key(tags::RETRIEVE_AE_TITLE), None),
        (dicom::key(tags::RETRIEVE_URL), None),
        (dicom::key(dicom::LOCATION), None),
        set(tags::SPECIFIC_CHARACTER_SET, "CS", "ISO_IR 192"),
        set(tags::AVAILABLE_TRANSFER_SYNTAX_UID, "UI", &begun.syntax),
    ]);
    told.extend(view.retrieve_url.map(|url| set(tags::RETRIEVE_URL, "UR", url)));
    told.extend(view.patient_id.map(|id| set(tags::PATIENT_ID, "LO", id)));
    let mut out = Text { out: Vec::new(), most: MODEL + header.len().saturating_mul(QUARTERS) / 4 };
    attributes(&object, told, &mut out)?;
    Ok(out.out)
}

/// JSON that grows by a quarter at a time, up to a bound: doubling would need thrice its length.
struct Text {
    out: Vec<u8>,
    most: usize,
}

impl Text {
    fn push(&mut self, text: &str) -> Result<(), Unsound> {
        self.bytes(text.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Unsound> {
        let length = self.out.len() + bytes.len();
        if length > self.most {
            return Err(Unsound::Memory);
        }
        if length > self.out.capacity() {
            self.out.reserve_exact(bytes.len() + self.out.len() / 4 + 1024);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn value(&mut self, value: &Value) -> Result<(), Unsound> {
        serde_json::to_writer(self, value).map_err(|_| Unsound::Memory)
    }

    /// A comma before all but the first.
    fn next(&mut self, first: &mut bool) -> Result<(), Unsound> {
        if std::mem::take(first) { Ok(()) } else { self.push(",") }
    }

    /// The values of an attribute.
    fn values(&mut self, values: impl Iterator<Item = Value>) -> Result<(), Unsound> {
        self.push(",\"Value\":[")?;
        let mut first = true;
        for value in values {
            self.next(&mut first)?;
            self.value(&value)?;
        }
        self.push("]")
    }
}

impl std::io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes(bytes).map_err(|_| std::io::Error::other("the bound of the model"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Attributes that are told in another way than they stand, or not at all, by tag.
type Told = BTreeMap<u32, Option<Value>>;

/// Writes an object in the order of its tags. The walk bounded the nesting.
fn attributes(object: &Item<'_>, mut told: Told, out: &mut Text) -> Result<(), Unsound> {
    let mut first = true;
    let instead = |told: Told, out: &mut Text, first: &mut bool| {
        for (tag, value) in told.into_iter().filter_map(|(tag, value)| Some((tag, value?))) {
            out.next(first)?;
            out.push(&format!("\"{tag:08X}\":"))?;
            out.value(&value)?;
        }
        Ok(())
    };
    out.push("{")?;
    for entry in object.entries() {
        let tag = entry.tag;
        // Private groups, and lengths of groups.
        if (tag >> 16) % 2 == 1 || tag & 0xFFFF == 0 || tag >= dicom::key(PIXELS) {
            continue;
        }
        let later = told.split_off(&tag);
        instead(std::mem::replace(&mut told, later), out, &mut first)?;
        if !told.contains_key(&tag) {
            attribute(object, entry, &mut first, out)?;
        }
    }
    instead(told, out, &mut first)?;
    out.push("}")
}

fn attribute(object: &Item<'_>, entry: &Entry<'_>, first: &mut bool, out: &mut Text) -> Result<(), Unsound> {
    let vr = entry.vr();
    // A sequence whose items cannot be read is passed on as it is, as what is unknown.
    let name = match (&entry.value, vr) {
        (Held::Items(_), _) => VR::SQ,
        (Held::Bytes(_), VR::SQ) => VR::UN,
        _ => vr,
    };
    if matches!(&entry.value, Held::Bytes(bytes) if is_binary(vr) && bytes.len() > INLINE) {
        return Ok(());
    }
    out.next(first)?;
    out.push(&format!("\"{:08X}\":{{\"vr\":\"{name}\"", entry.tag))?;
    match &entry.value {
        Held::Items(items) if items.is_empty() => {}
        Held::Items(items) => {
            out.push(",\"Value\":[")?;
            let mut first = true;
            for item in items {
                out.next(&mut first)?;
                attributes(item, Told::new(), out)?;
            }
            out.push("]")?;
        }
        Held::Bytes([]) => {}
        Held::Bytes(bytes) if is_binary(vr) => {
            let bytes = little_endian(bytes, vr, entry.big_endian());
            out.push(&format!(",\"InlineBinary\":\"{}\"", STANDARD.encode(bytes)))?;
        }
        Held::Bytes(bytes) => match vr {
            VR::US | VR::SS | VR::UL | VR::SL | VR::SV | VR::UV | VR::FL | VR::FD | VR::AT => {
                if bytes.len() >= unit(vr) as usize {
                    out.values(numbers(bytes, vr, entry.big_endian()))?;
                }
            }
            _ => texts(object, entry, vr, out)?,
        },
    }
    out.push("}")
}

fn is_binary(vr: VR) -> bool {
    matches!(vr, VR::OB | VR::OD | VR::OF | VR::OL | VR::OV | VR::OW | VR::UN | VR::SQ)
}

/// The model has binary values in little endian order (PS3.18 F.2.7).
fn little_endian(bytes: &[u8], vr: VR, big: bool) -> Vec<u8> {
    let unit = unit(vr) as usize;
    match big && unit > 1 {
        true => bytes.chunks(unit).flat_map(|one| one.iter().rev().copied()).collect(),
        false => bytes.to_vec(),
    }
}

/// The values of an attribute of numbers. Bytes behind the last whole one are no value.
fn numbers(bytes: &[u8], vr: VR, big: bool) -> impl Iterator<Item = Value> + '_ {
    let word = move |bytes: &[u8]| {
        let shift = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if big { bytes.iter().fold(0, shift) } else { bytes.iter().rev().fold(0, shift) }
    };
    // A number that JSON has none for is told as text.
    let float = move |value: f64, text: String| Number::from_f64(value).map_or(Value::from(text), Value::from);
    let one = move |bytes: &[u8]| -> Value {
        let raw = word(bytes);
        match vr {
            VR::SS => (raw as u16 as i16).into(),
            VR::SL => (raw as u32 as i32).into(),
            VR::SV => (raw as i64).into(),
            VR::FL => {
                let value = f32::from_bits(raw as u32);
                // The shortest decimal of the value, not that of its wider form.
                let text = value.to_string();
                float(text.parse().unwrap_or(f64::NAN), text)
            }
            VR::FD => float(f64::from_bits(raw), f64::from_bits(raw).to_string()),
            VR::AT => {
                let halves = [word(&bytes[..2]), word(&bytes[2..])];
                format!("{:04X}{:04X}", halves[0], halves[1]).into()
            }
            VR::UV => i64::try_from(raw).map_or_else(|_| raw.to_string().into(), Value::from),
            _ => raw.into(),
        }
    };
    bytes.chunks_exact(unit(vr) as usize).map(one)
}

/// The values of an attribute of text; an empty one among several is null, and where all are there is none.
fn texts(object: &Item<'_>, entry: &Entry<'_>, vr: VR, out: &mut Text) -> Result<(), Unsound> {
    let whole = object.decoded(entry).unwrap_or_default();
    if whole.trim_matches(['\0', ' ', '\\']).is_empty() {
        return Ok(());
    }
    // One value, in which the delimiter is a character like others.
    let is_one = matches!(vr, VR::LT | VR::ST | VR::UT | VR::UR);
    let values = whole.split(|c| c == '\\' && !is_one);
    let or_null = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let one = |value: &str| {
        let text = value.trim_matches(['\0', ' ']);
        match vr {
            VR::PN if text.is_empty() => Value::Null,
            VR::PN => person_name(text),
            VR::IS => text.parse::<i64>().map_or_else(|_| or_null(text), Value::from),
            VR::DS => match text.parse::<f64>().ok().and_then(Number::from_f64) {
                Some(number) => number.into(),
                None => or_null(text),
            },
            _ => or_null(text),
        }
    };
    out.values(values.map(one))
}

/// A person's name in the model: up to three groups (PS3.18 F.2.2, PS3.5 6.2.1).
pub fn person_name(text: &str) -> Value {
    let mut out = Map::new();
    for (group, part) in ["Alphabetic", "Ideographic", "Phonetic"].into_iter().zip(text.split('=')) {
        let part = part.trim_end_matches(['^', ' ']);
        if !part.is_empty() {
            out.insert(group.into(), part.into());
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use dicom_core::smallvec::smallvec;
    use dicom_core::value::{DataSetSequence, PrimitiveValue};
    use dicom_core::{DataElement, dicom_value};
    use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

    use super::*;

    fn object(private: bool) -> Vec<u8> {
        let mut object = InMemDicomObject::new_empty();
        let mut put = |tag, vr, value: PrimitiveValue| drop(object.put(DataElement::new(tag, vr, value)));
        put(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100".into());
        put(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.2".into());
        put(tags::SOP_INSTANCE_UID, VR::UI, "2.999.1".into());
        put(tags::IMAGE_TYPE, VR::CS, PrimitiveValue::Strs(smallvec!["ORIGINAL".into(), "".into(), "AXIAL".into()]));
        put(tags::PATIENT_NAME, VR::PN, "Bj\u{f8}rk^Jon^^^=x".into());
        put(tags::PATIENT_ID, VR::LO, "other".into());
        put(tags::PATIENT_COMMENTS, VR::LT, "a\\b".into());
        put(tags::RETRIEVE_AE_TITLE, VR::AE, "PACS".into());
        put(tags::PIXEL_SPACING, VR::DS, PrimitiveValue::Strs(smallvec!["0.5".into(), "0.25".into()]));
        put(tags::INSTANCE_NUMBER, VR::IS, "7".into());
        put(tags::ROWS, VR::US, dicom_value!(U16, [16]));
        put(tags::FRAME_INCREMENT_POINTER, VR::AT, PrimitiveValue::Tags(smallvec![Tag(0x18, 0x1063)]));
        put(tags::ICC_PROFILE, VR::OB, PrimitiveValue::from(vec![1u8, 2, 3, 4]));
        put(tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA, VR::OW, PrimitiveValue::U16(smallvec![0; 2000]));
        put(tags::STUDY_DATE, VR::DA, PrimitiveValue::Empty);
        if private {
            put(Tag(0x29, 0x10), VR::LO, "VENDOR".into());
        }
        put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::from(vec![0u8; 512]));
        let mut item = InMemDicomObject::new_empty();
        item.put(DataElement::new(tags::CODE_VALUE, VR::SH, "1"));
        object.put(DataElement::new(tags::PROCEDURE_CODE_SEQUENCE, VR::SQ, DataSetSequence::from(vec![item])));
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.2")
            .media_storage_sop_instance_uid("2.999.1")
            .transfer_syntax("1.2.840.10008.1.2.1");
        let mut out = Vec::new();
        object.with_meta(meta).expect("meta").write_all(&mut out).expect("writes");
        out
    }

    #[test]
    fn every_attribute_before_the_pixels() {
        let bytes = object(true);
        let end = header_end(&bytes, PIXELS, false).expect("sound").expect("pixels");
        for short in 0..end {
            assert!(matches!(header_end(&bytes[..short], PIXELS, false), Ok(None) | Err(_)), "{short}");
        }
        let view = MetadataView { retrieve_url: Some("https://x/1"), patient_id: Some("one") };
        let told = metadata(&bytes[..end], &view).expect("metadata");
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        let expected = json!({
            "00080005": { "vr": "CS", "Value": ["ISO_IR 192"] },
            "00080008": { "vr": "CS", "Value": ["ORIGINAL", null, "AXIAL"] },
            "00080016": { "vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"] },
            "00080018": { "vr": "UI", "Value": ["2.999.1"] },
            "00080020": { "vr": "DA" },
            "00081032": { "vr": "SQ", "Value": [{ "00080100": { "vr": "SH", "Value": ["1"] } }] },
            "00081190": { "vr": "UR", "Value": ["https://x/1"] },
            "00083002": { "vr": "UI", "Value": ["1.2.840.10008.1.2.1"] },
            "00100010": { "vr": "PN", "Value": [{ "Alphabetic": "Bj\u{f8}rk^Jon", "Ideographic": "x" }] },
            "00100020": { "vr": "LO", "Value": ["one"] },
            "00104000": { "vr": "LT", "Value": ["a\\b"] },
            "00200013": { "vr": "IS", "Value": [7] },
            "00280009": { "vr": "AT", "Value": ["00181063"] },
            "00280010": { "vr": "US", "Value": [16] },
            "00280030": { "vr": "DS", "Value": [0.5, 0.25] },
            "00282000": { "vr": "OB", "InlineBinary": "AQIDBA==" },
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn hostile_headers_are_refused() {
        let view = MetadataView { retrieve_url: None, patient_id: None };
        assert!(metadata(b"", &view).is_err());
        assert!(metadata(&[0; 200], &view).is_err());
        let mut bytes = object(false);
        // A value that claims four gigabytes.
        let at = bytes.windows(8).position(|w| w.starts_with(&[0x28, 0, 0, 0x20])).expect("the profile");
        bytes[at + 8..at + 12].copy_from_slice(&[0xFE; 4]);
        assert!(metadata(&bytes, &view).is_err());
        assert!(header_end(&bytes, PIXELS, true).is_err());
    }
}
