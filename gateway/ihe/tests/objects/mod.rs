//! Objects as archives hold them: what one reader takes every reader takes.

use std::path::{Path, PathBuf};

use ncp_ihe::imaging::{ImageFacts, MetadataView, PIXELS, Parsed, header_end, metadata};
use ncp_ihe::{DicomHeader, Scanned, StructureScan};
use proptest::prelude::*;
use serde_json::{Value, json};

const VIEW: MetadataView<'static> = MetadataView { retrieve_url: None, patient_id: None };

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cases/imaging")
}

fn case(name: &str) -> Vec<u8> {
    std::fs::read(cases().join(name)).expect("a case")
}

fn is_sound(bytes: &[u8]) -> bool {
    let mut scan = StructureScan::new(None);
    bytes.chunks(100).all(|piece| scan.push(piece).is_ok()) && scan.finish().is_ok()
}

fn is_identified(bytes: &[u8]) -> bool {
    matches!(DicomHeader::scan(bytes, true), Scanned::Header(_))
}

/// What `/metadata` says of an object that is read as it passes, its beginning held and no more.
fn told(bytes: &[u8]) -> Option<Value> {
    for held in (0..bytes.len()).step_by(64).chain([bytes.len()]) {
        if let Some(end) = header_end(&bytes[..held], PIXELS, held == bytes.len()).ok()? {
            return metadata(&bytes[..end], &VIEW).ok().and_then(|text| serde_json::from_slice(&text).ok());
        }
    }
    None
}

#[test]
fn im_03_to_im_06_metadata_has_what_can_be_had() {
    for name in ["IM-03/un.dcm", "IM-03/good1.dcm", "IM-05/nogl.dcm", "IM-06/wgl.dcm"] {
        let bytes = case(name);
        assert!(is_sound(&bytes) && is_identified(&bytes), "{name}");
        assert!(matches!(ImageFacts::parse(&bytes, true), Ok(Parsed::Image(_))), "{name}");
        let told = told(&bytes).expect("metadata");
        assert_eq!(told["00100020"]["Value"], json!(["UV59569735"]), "{name}");
    }
}

#[test]
fn im_23_a_name_has_three_groups() {
    let told = told(&case("IM-23/p1.dcm")).expect("metadata");
    let name = json!([{ "Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう" }]);
    assert_eq!(told["00100010"]["Value"], name);
    let Scanned::Header(header) = DicomHeader::scan(&case("IM-23/p1.dcm"), true) else { panic!("a header") };
    assert_eq!(header.patient.name, "Yamada^Tarou=山田^太郎=やまだ^たろう");
}

/// Names and texts are those that an independent reader decodes, for every character set of PS3.3 C.12.1.1.2.
#[test]
fn p9_texts_are_what_an_independent_reader_decodes() {
    let decoded: Value = serde_json::from_slice(&case("P9/decoded.json")).expect("JSON");
    let all = decoded.as_array().expect("a list");
    assert_eq!(all.len(), 23);
    for one in all {
        let file = one["file"].as_str().expect("a name");
        let bytes = case(&format!("P9/{file}.dcm"));
        let told = told(&bytes).expect("metadata");
        assert_eq!(told["00100010"]["Value"][0], one["name"], "{file}");
        assert_eq!(told["00104000"]["Value"][0], one["comments"], "{file}");
        let Scanned::Header(header) = DicomHeader::scan(&bytes, true) else { panic!("{file}") };
        assert_eq!(ncp_ihe::imaging::person_name(&header.patient.name), one["name"], "{file}");
    }
}

/// An element stored as UN is told with the value representation that the dictionary has for it (PS3.5 6.2.2).
#[test]
fn p11_what_the_dictionary_knows_is_not_unknown() {
    let good = case("IM-03/good1.dcm");
    let at = good.windows(6).position(|w| w == b"\x20\x00\x0D\x00UI").expect("the study");
    let unknown = |tag: [u8; 4], value: &[u8]| {
        let length = u32::try_from(value.len()).expect("short").to_le_bytes();
        [&tag[..], b"UN\0\0", &length, value].concat()
    };
    let item = [&[0xFE, 0xFF, 0, 0xE0, 12, 0, 0, 0, 8, 0, 0, 1, 4, 0, 0, 0][..], b"CODE"].concat();
    let elements = [unknown([0x18, 0, 0x12, 0], &item), unknown([0x18, 0, 0x60, 0], b"120 ")];
    let told = told(&[&good[..at], &elements.concat(), &good[at..]].concat()).expect("metadata");
    assert_eq!(told["00180060"], json!({ "vr": "DS", "Value": [120.0] }));
    assert_eq!(told["00180012"], json!({ "vr": "SQ", "Value": [{ "00080100": { "vr": "SH", "Value": ["CODE"] } }] }));
}

/// A good file with bytes of its headers changed: in group 0002, in lengths, value representations, private elements.
fn odd() -> impl Strategy<Value = Vec<u8>> {
    const FILES: [&str; 6] =
        ["IM-03/un.dcm", "IM-05/nogl.dcm", "IM-06/wgl.dcm", "IM-23/p1.dcm", "P9/h31.dcm", "IM-01/o1.dcm"];
    let change = (any::<prop::sample::Index>(), prop_oneof![Just(0), Just(0xFF), any::<u8>()], 0u8..6);
    (prop::sample::select(FILES.as_slice()), prop::collection::vec(change, 0..6), any::<bool>()).prop_map(
        |(file, changes, private)| {
            let mut bytes = case(file);
            if private {
                let at = bytes.windows(6).position(|w| w == b"\x10\x00\x10\x00PN").expect("the patient");
                let sequence = b"\x09\x00\x10\x00LO\x04\x00TEST\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\
                                 \x0c\0\0\0\x09\x00\x01\x10\x04\0\0\0ABCD\xfe\xff\xdd\xe0\0\0\0\0";
                bytes.splice(at..at, sequence.iter().copied());
            }
            for (at, value, how) in changes {
                let at = 128 + at.index(bytes.len().saturating_sub(128).max(1));
                match how {
                    0 if at < bytes.len() => drop(bytes.remove(at)),
                    1 => bytes.insert(at.min(bytes.len()), value),
                    _ => bytes.get_mut(at).into_iter().for_each(|byte| *byte = value),
                }
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// P1: whatever is delivered has its element in `/metadata`, and the folder's scan takes it or says which UID it lacks.
    #[test]
    fn p1_what_is_delivered_is_told(bytes in odd()) {
        if is_sound(&bytes) && is_identified(&bytes) {
            prop_assert!(told(&bytes).is_some());
            prop_assert!(metadata(&bytes, &VIEW).is_ok());
            let known = !matches!(ImageFacts::parse(&bytes, true), Err(ncp_ihe::ManifestError::Unbounded(_)));
            prop_assert!(known);
        }
    }

    /// However the bytes are cut, the verdict is the same.
    #[test]
    fn p1_a_scan_does_not_depend_on_the_pieces(bytes in odd(), size in 1usize..300) {
        let verdict = |mut scan: StructureScan, size: usize| {
            bytes.chunks(size).try_for_each(|piece| scan.push(piece)).and_then(|()| scan.finish())
        };
        let whole = verdict(StructureScan::new(None), bytes.len());
        prop_assert_eq!(verdict(StructureScan::new(None), size), whole);
        prop_assert_eq!(verdict(StructureScan::new(Some(bytes.len() as u64)), size).is_ok(), whole.is_ok());
    }
}
