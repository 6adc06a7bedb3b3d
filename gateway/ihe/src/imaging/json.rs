//! The attributes of an object in the DICOM JSON Model (PS3.18 F), from the bytes before its pixel data.

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
/// What the model of an object may hold, bytes: of any, and for each byte that was read. An object of thousands of frames
/// has a hundred thousand attributes of some bytes each.
const MODEL: usize = 128 << 20;
const PER_BYTE: usize = 8;
/// What an attribute holds in the model beside its values, and what a value does beside its text.
const ATTRIBUTE: usize = 1024;
const VALUE: usize = 128;

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

/// All attributes of an object, given as many of its bytes as [`header_end`] says, or all of them. Left out are private
/// attributes and binary values of more than 1 KiB, for which there is no address; text is UTF-8 whatever it was.
///
/// # Errors
/// [`Unsound`]
pub fn metadata(header: &[u8], view: &MetadataView<'_>) -> Result<Value, Unsound> {
    let begun = Begun::read(header, true, INFLATED)?.ok_or(Unsound::Ends)?;
    let object = begun.tree(dicom::key(PIXELS), |_| true)?.ok_or(Unsound::Ends)?;
    let mut out = attributes(&object, &mut Room(MODEL + PER_BYTE * header.len()))?;
    for tag in [tags::RETRIEVE_AE_TITLE, tags::RETRIEVE_URL, dicom::LOCATION] {
        out.remove(&key(dicom::key(tag)));
    }
    let mut set = |tag, vr: &str, value: &str| out.insert(key(dicom::key(tag)), json!({ "vr": vr, "Value": [value] }));
    set(tags::SPECIFIC_CHARACTER_SET, "CS", "ISO_IR 192");
    set(tags::AVAILABLE_TRANSFER_SYNTAX_UID, "UI", &begun.syntax);
    if let Some(url) = view.retrieve_url {
        set(tags::RETRIEVE_URL, "UR", url);
    }
    if let Some(id) = view.patient_id {
        set(tags::PATIENT_ID, "LO", id);
    }
    Ok(Value::Object(out))
}

fn key(tag: u32) -> String {
    format!("{tag:08X}")
}

/// Bytes that the model may still take.
struct Room(usize);

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), Unsound> {
        self.0 = self.0.checked_sub(bytes).ok_or(Unsound::Memory)?;
        Ok(())
    }
}

/// The walk bounded the nesting.
fn attributes(object: &Item<'_>, room: &mut Room) -> Result<Map<String, Value>, Unsound> {
    let mut out = Map::new();
    for entry in object.entries() {
        let tag = entry.tag;
        // Private groups, and lengths of groups.
        if (tag >> 16) % 2 == 1 || tag & 0xFFFF == 0 || tag >= dicom::key(PIXELS) {
            continue;
        }
        let vr = entry.vr();
        room.take(ATTRIBUTE)?;
        let mut attribute = Map::new();
        // A sequence whose items cannot be read is passed on as it is, as what is unknown.
        let told = match (&entry.value, vr) {
            (Held::Items(_), _) => VR::SQ,
            (Held::Bytes(_), VR::SQ) => VR::UN,
            _ => vr,
        };
        attribute.insert("vr".into(), told.to_string().into());
        match &entry.value {
            Held::Items(items) => {
                room.take(VALUE.saturating_mul(items.len()))?;
                let model = |item| attributes(item, room).map(Value::Object);
                let items: Vec<Value> = items.iter().map(model).collect::<Result<_, _>>()?;
                if !items.is_empty() {
                    attribute.insert("Value".into(), items.into());
                }
            }
            Held::Bytes(bytes) if is_binary(vr) => {
                if bytes.len() > INLINE {
                    continue;
                }
                if !bytes.is_empty() {
                    let bytes = little_endian(bytes, vr, entry.big_endian());
                    attribute.insert("InlineBinary".into(), STANDARD.encode(bytes).into());
                }
            }
            Held::Bytes(bytes) => {
                let values = match unit(vr) {
                    1 => 1 + bytes.iter().filter(|byte| **byte == b'\\').count(),
                    unit => bytes.len() / unit as usize,
                };
                room.take(VALUE.saturating_mul(values).saturating_add(4 * bytes.len()))?;
                let values = match vr {
                    VR::US | VR::SS | VR::UL | VR::SL | VR::SV | VR::UV | VR::FL | VR::FD | VR::AT => {
                        numbers(bytes, vr, entry.big_endian())
                    }
                    _ => texts(object, entry, vr),
                };
                if values.iter().any(|v| !v.is_null()) {
                    attribute.insert("Value".into(), values.into());
                }
            }
        }
        out.insert(key(tag), Value::Object(attribute));
    }
    Ok(out)
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
fn numbers(bytes: &[u8], vr: VR, big: bool) -> Vec<Value> {
    let word = |bytes: &[u8]| {
        let shift = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if big { bytes.iter().fold(0, shift) } else { bytes.iter().rev().fold(0, shift) }
    };
    // A number that JSON has none for is told as text.
    let float = |value: f64, text: String| Number::from_f64(value).map_or(Value::from(text), Value::from);
    let one = |bytes: &[u8]| -> Value {
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
    bytes.chunks_exact(unit(vr) as usize).map(one).collect()
}

/// The values of an attribute of text; an empty one among several is null.
fn texts(object: &Item<'_>, entry: &Entry<'_>, vr: VR) -> Vec<Value> {
    let whole = object.decoded(entry).unwrap_or_default();
    if whole.is_empty() {
        return Vec::new();
    }
    let values: Vec<&str> = match vr {
        // One value, in which the delimiter is a character like others.
        VR::LT | VR::ST | VR::UT | VR::UR => vec![&whole],
        _ => whole.split('\\').collect(),
    };
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
    values.into_iter().map(one).collect()
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
