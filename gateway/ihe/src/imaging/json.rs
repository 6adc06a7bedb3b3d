//! The attributes of an object in the DICOM JSON Model (PS3.18 F), from the bytes before its pixel data.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dicom_core::value::{PrimitiveValue, Value as Held};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, OpenFileOptions};
use serde_json::{Map, Number, Value, json};

use super::{ManifestError, check_bounds_until, dicom};

/// What stands from here on is pixel data and what follows it.
pub const PIXELS: Tag = Tag(0x7FE0, 0);

/// The longest binary value that stands inside.
const INLINE: usize = 1024;

/// What of an object is told in another way than its bytes say (PS3.18 10.4).
#[derive(Debug, Clone, Copy)]
pub struct MetadataView<'a> {
    /// Retrieve URL (0008,1190) of the instance here, if it can be had; where the source would have it fetched is left out.
    pub retrieve_url: Option<&'a str>,
    /// The one Patient ID (0010,0020) of all instances of a study.
    pub patient_id: Option<&'a str>,
}

/// All attributes of an object, given its bytes up to [`PIXELS`]. Left out are private attributes and binary values of more
/// than 1 KiB, for which there is no address; text is UTF-8 whatever it was.
///
/// # Errors
/// Not DICOM, or beyond bounds.
pub fn metadata(header: &[u8], view: &MetadataView<'_>) -> Result<Value, ManifestError> {
    check_bounds_until(header, PIXELS).map_err(ManifestError::Unbounded)?;
    let options = OpenFileOptions::new().read_until(PIXELS);
    let object = options.from_reader(Cursor::new(header)).map_err(|_| ManifestError::NotDicom)?;
    let mut out = attributes(&object);
    for tag in [tags::RETRIEVE_AE_TITLE, tags::RETRIEVE_URL, dicom::LOCATION] {
        out.remove(&key(tag));
    }
    let syntax = object.meta().transfer_syntax().trim_end_matches('\0');
    let mut set = |tag, vr: &str, value: &str| out.insert(key(tag), json!({ "vr": vr, "Value": [value] }));
    set(tags::SPECIFIC_CHARACTER_SET, "CS", "ISO_IR 192");
    set(tags::AVAILABLE_TRANSFER_SYNTAX_UID, "UI", syntax);
    if let Some(url) = view.retrieve_url {
        set(tags::RETRIEVE_URL, "UR", url);
    }
    if let Some(id) = view.patient_id {
        set(tags::PATIENT_ID, "LO", id);
    }
    Ok(Value::Object(out))
}

fn key(tag: Tag) -> String {
    format!("{:04X}{:04X}", tag.0, tag.1)
}

/// The bounds were checked: nesting is shallow.
fn attributes(object: &InMemDicomObject) -> Map<String, Value> {
    let mut out = Map::new();
    for element in object {
        let tag = element.header().tag;
        // Private groups, and lengths of groups.
        if tag.0 % 2 == 1 || tag.1 == 0 || tag >= PIXELS {
            continue;
        }
        let vr = element.header().vr;
        let mut attribute = Map::new();
        attribute.insert("vr".into(), vr.to_string().into());
        match (element.value(), vr) {
            (Held::Sequence(items), _) => {
                let items: Vec<Value> = items.items().iter().map(|i| Value::Object(attributes(i))).collect();
                if !items.is_empty() {
                    attribute.insert("Value".into(), items.into());
                }
            }
            (Held::Primitive(value), VR::OB | VR::OD | VR::OF | VR::OL | VR::OV | VR::OW | VR::UN) => {
                let bytes = value.to_bytes();
                if bytes.len() > INLINE {
                    continue;
                }
                if !bytes.is_empty() {
                    attribute.insert("InlineBinary".into(), STANDARD.encode(bytes).into());
                }
            }
            (Held::Primitive(value), vr) => {
                let values = values(value, vr);
                if values.iter().any(|v| !v.is_null()) {
                    attribute.insert("Value".into(), values.into());
                }
            }
            (Held::PixelSequence(_), _) => continue,
        }
        out.insert(key(tag), Value::Object(attribute));
    }
    out
}

/// The values of an attribute; an empty one among several is null.
fn values(value: &PrimitiveValue, vr: VR) -> Vec<Value> {
    let texts = || -> Vec<String> {
        match vr {
            // One value, in which the delimiter is a character like others.
            VR::LT | VR::ST | VR::UT | VR::UR => vec![value.to_str().into_owned()],
            _ => value.to_multi_str().iter().cloned().collect(),
        }
    };
    let trimmed = || texts().into_iter().map(|text| text.trim_matches(['\0', ' ']).to_owned());
    let or_null = |text: String| if text.is_empty() { Value::Null } else { text.into() };
    match (vr, value) {
        (VR::AT, PrimitiveValue::Tags(all)) => all.iter().map(|tag| key(*tag).into()).collect(),
        (VR::PN, _) => trimmed().map(|text| if text.is_empty() { Value::Null } else { name(&text) }).collect(),
        (VR::IS | VR::SL | VR::SS | VR::SV | VR::UL | VR::US | VR::UV, _) => {
            trimmed().map(|text| text.parse::<i64>().map_or_else(|_| or_null(text), Value::from)).collect()
        }
        (VR::DS | VR::FD | VR::FL, _) => trimmed()
            .map(|text| match text.parse::<f64>().ok().and_then(Number::from_f64) {
                Some(number) => number.into(),
                None => or_null(text),
            })
            .collect(),
        _ => trimmed().map(or_null).collect(),
    }
}

/// Up to three groups of a person's name.
fn name(text: &str) -> Value {
    let mut out = Map::new();
    for (group, part) in ["Alphabetic", "Ideographic", "Phonetic"].into_iter().zip(text.split('=')) {
        let part = part.trim_end_matches('^');
        if !part.is_empty() {
            out.insert(group.into(), part.into());
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use dicom_core::smallvec::smallvec;
    use dicom_core::value::DataSetSequence;
    use dicom_core::{DataElement, dicom_value};
    use dicom_object::FileMetaTableBuilder;

    use super::super::header_end;
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
        let end = header_end(&bytes, PIXELS, 1 << 20).expect("sound").expect("pixels");
        for short in 0..end {
            assert!(matches!(header_end(&bytes[..short], PIXELS, 1 << 20), Ok(None) | Err(_)), "{short}");
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
        assert!(header_end(&bytes, PIXELS, 1 << 20).is_err());
    }
}
