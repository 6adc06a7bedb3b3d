//! Part 10 in, a view in DICOM JSON out.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::{DocumentError, Fate, Task, translate};
use crate::load::tests::shipped;

const KIND: &str = "application/dicom";

fn element(group: u16, number: u16, vr: &str, value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    if value.len() % 2 == 1 {
        value.push(if vr == "UI" { 0 } else { b' ' });
    }
    let mut out = [group.to_le_bytes(), number.to_le_bytes()].concat();
    out.extend(vr.as_bytes());
    if matches!(vr, "SQ" | "OB" | "OW") {
        out.extend([0, 0]);
        out.extend((value.len() as u32).to_le_bytes());
    } else {
        out.extend((value.len() as u16).to_le_bytes());
    }
    [out, value].concat()
}

/// An image with one national procedure code, explicit VR little endian.
fn object() -> Vec<u8> {
    let meta = [
        element(2, 1, "OB", &[0, 1]),
        element(2, 2, "UI", b"1.2.840.10008.5.1.4.1.1.2"),
        element(2, 3, "UI", b"2.999.1.2"),
        element(2, 0x10, "UI", b"1.2.840.10008.1.2.1"),
        element(2, 0x12, "UI", b"2.999.9"),
    ]
    .concat();
    let code = [
        element(8, 0x100, "SH", b"SSC0AD"),
        element(8, 0x102, "SH", b"99NCRP"),
        element(8, 0x104, "LO", b"CT toraks"),
        element(8, 0x10c, "UI", b"2.16.578.1.12.4.1.1.7270"),
    ]
    .concat();
    let mut item = vec![0xfe, 0xff, 0x00, 0xe0];
    item.extend((code.len() as u32).to_le_bytes());
    item.extend(code);
    [
        vec![0; 128],
        b"DICM".to_vec(),
        element(2, 0, "UL", &(meta.len() as u32).to_le_bytes()),
        meta,
        element(8, 0x18, "UI", b"2.999.1.2"),
        element(8, 0x60, "CS", b"CT"),
        element(8, 0x1032, "SQ", &item),
        element(0x7fe0, 0x10, "OW", &[7; 64]),
    ]
    .concat()
}

#[test]
fn an_object_is_viewed_with_equivalent_codes_and_never_rewritten() {
    let source = object();
    let done = translate(&source, KIND, &Task::to_pivot(), &shipped()).expect("a view");
    let view: Value = serde_json::from_slice(&done.bytes).expect("DICOM JSON");
    let item = &view["00081032"]["Value"][0];
    assert_eq!(item["00080100"]["Value"][0], "SSC0AD", "the source stays");
    let equivalent: Vec<&str> = item["00080121"]["Value"]
        .as_array()
        .expect("equivalent codes")
        .iter()
        .filter_map(|code| code["00080100"]["Value"][0].as_str())
        .collect();
    assert_eq!(equivalent, ["24627-2", "169069000"]);
    assert!(view.get("7FE00010").is_none() && view.get("00081190").is_none());
    let fates: Vec<(&str, Fate)> = done.reports.iter().map(|r| (r.code.as_str(), r.fate)).collect();
    assert_eq!(fates, [("CT", Fate::AlreadyTarget), ("SSC0AD", Fate::Mapped)]);
    // The view of the view is the same.
    let again = translate(&done.bytes, "application/dicom+json", &Task::to_pivot(), &shipped()).expect("a view");
    assert_eq!(again.bytes, done.bytes);
}

#[test]
fn manifests_of_others_are_viewed_with_every_code_accounted_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/manifests");
    let mut seen = 0;
    for under in ["elga", "mado", "nist"] {
        let files: Vec<PathBuf> =
            std::fs::read_dir(folder.join(under)).expect("fixtures").flatten().map(|e| e.path()).collect();
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "dcm")) {
            let bytes = std::fs::read(file).expect("a manifest");
            let done =
                translate(&bytes, KIND, &Task::to_pivot(), &shipped()).unwrap_or_else(|e| panic!("{file:?}: {e}"));
            let view: Value = serde_json::from_slice(&done.bytes).expect("DICOM JSON");
            // A key object selection names its kind by a code.
            let title = view["0040A043"]["Value"][0]["00080100"]["Value"][0].as_str().expect("a title");
            assert!(done.reports.iter().any(|r| r.code == title), "{file:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 9);
}

#[test]
fn hostile_objects_are_refused() {
    let whole = object();
    let mut long = whole.clone();
    let at = long.windows(6).position(|w| w == b"SSC0AD").expect("the code") - 2;
    long[at..at + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    for bad in [&whole[..100], &whole[..200], b"DICM", &long, b""] {
        let refused = translate(bad, KIND, &Task::to_pivot(), &shipped());
        assert!(matches!(refused, Err(DocumentError::Dicom(_))), "{refused:?}");
    }
}
