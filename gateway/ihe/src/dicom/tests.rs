//! What the readers of DICOM share, over objects made here.

use std::path::Path;

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::characters::{Characters, Delimiters};
use super::walk::DEPTH;
use super::*;

const ITEM: u32 = 0xFFFE_E000;
const ITEM_END: u32 = 0xFFFE_E00D;
const SEQUENCE_END: u32 = 0xFFFE_E0DD;
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
    assert_eq!((header.sop_instance.as_str(), header.patient.id.as_str()), ("2.999.3", "P1"));
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

/// IM-01: what stands in the place of the issuers and holds no items might name another one.
#[test]
fn im_01_issuers_that_are_no_items_make_an_object_nobodys() {
    let object = |tag, vr: &[u8; 2], value: &[u8]| {
        let mut out = meta("1.2.840.10008.1.2.1");
        explicit(&mut out, SOP_INSTANCE, b"UI", b"2.999.3\0");
        explicit(&mut out, PATIENT_ID, b"LO", b"P1 ");
        explicit(&mut out, tag, vr, value);
        explicit(&mut out, STUDY, b"UI", b"2.999.1");
        explicit(&mut out, SERIES, b"UI", b"2.999.2");
        out
    };
    for tag in [ISSUER_QUALIFIERS, OTHER_IDS] {
        assert_eq!(found(&object(tag, b"LO", b"")).patient.id, "P1", "nothing is said");
        let odd = DicomHeader::scan(&object(tag, b"LO", b"2.999.99"), true);
        assert_eq!(odd, Scanned::NotDicom(Unsound::Structure));
    }
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
    refused("T-DCM-3 group length past the end", &group);
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
    tag_le(&mut out, 0x0008_0006);
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
    assert_eq!(found(&out).patient.id, "P1");
}

fn sound(bytes: &[u8]) -> Result<(), Unsound> {
    let whole = StructureScan::new(Some(bytes.len() as u64));
    let by_one = StructureScan::new(None);
    let verdict = |mut scan: StructureScan, size: usize| {
        for piece in bytes.chunks(size) {
            scan.push(piece)?;
        }
        scan.finish()
    };
    let at_once = verdict(whole, bytes.len().max(1));
    let piecewise = verdict(by_one, 1);
    assert_eq!(at_once.is_ok(), piecewise.is_ok(), "{at_once:?} {piecewise:?}");
    at_once
}

fn object(data_set: &[u8]) -> Vec<u8> {
    [meta("1.2.840.10008.1.2.1"), data_set.to_vec()].concat()
}

/// A sequence in a sequence, so many times, around nothing.
fn nested(depth: usize, vr: &[u8; 2]) -> Vec<u8> {
    let begin = [&[8, 0, 0x15, 0x11][..], vr, &[0, 0], &[0xFF; 4], &[0xFE, 0xFF, 0, 0xE0], &[0xFF; 4]].concat();
    let end = [0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];
    object(&[begin.repeat(depth), end.repeat(depth)].concat())
}

#[test]
fn fo_04_lengths_lie_within_the_object() {
    let pixels = |length: u32| {
        let mut out = meta("1.2.840.10008.1.2.1");
        identifying(&mut out);
        out.extend_from_slice(&[0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0]);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[7; 8]);
        out
    };
    assert_eq!(sound(&pixels(8)), Ok(()));
    for length in [4, 10, 0x4000_0000, 0xFFFF_FFF0] {
        assert!(sound(&pixels(length)).is_err(), "{length}");
    }
    let group = |length: u32| {
        let mut out = vec![0; 128];
        out.extend_from_slice(b"DICM");
        explicit(&mut out, 0x0002_0000, b"UL", &length.to_le_bytes());
        explicit(&mut out, TRANSFER_SYNTAX, b"UI", b"1.2.840.10008.1.2.1\0");
        identifying(&mut out);
        out
    };
    for within in [0, 20, 28, 36] {
        assert_eq!(sound(&group(within)), Ok(()), "IM-06: the length of the group adds no fact");
    }
    for beyond in [4096, u32::MAX] {
        assert_eq!(sound(&group(beyond)), Err(Unsound::Length), "{beyond}");
    }
    assert_eq!(sound(b"nothing"), Err(Unsound::Prefix));
}

#[test]
fn fo_02_nesting_has_an_end() {
    assert_eq!(sound(&nested(DEPTH, b"SQ")), Ok(()));
    assert_eq!(sound(&nested(DEPTH + 1, b"SQ")), Err(Unsound::Depth));
    assert_eq!(sound(&nested(20_000, b"SQ")), Err(Unsound::Depth));
    // Inside of UN there are no value representations, so that the next level cannot be read as one.
    assert!(sound(&nested(2, b"UN")).is_err());
}

#[test]
fn fo_04_what_inflates_to_too_much_is_refused() {
    let deflated = |blank: usize| {
        let mut data = Vec::new();
        identifying(&mut data);
        data.extend_from_slice(&[0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0]);
        data.extend_from_slice(&u32::try_from(blank).expect("short").to_le_bytes());
        data.resize(data.len() + blank, 0);
        let mut out = meta(DEFLATED[0]);
        let mut encoder = flate2::write::DeflateEncoder::new(&mut out, flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &data).expect("deflates");
        encoder.finish().expect("deflates");
        out
    };
    assert_eq!(sound(&deflated(4 << 10)), Ok(()));
    assert_eq!(sound(&deflated(1 << 20)), Err(Unsound::Inflated));
    assert_eq!(sound(&deflated(64 << 20)), Err(Unsound::Inflated));
    let cut = deflated(4 << 10);
    assert!(sound(&cut[..cut.len() - 3]).is_err());
}

#[test]
fn items_stay_within_sequences() {
    let item = [0xFE, 0xFF, 0, 0xE0, 0, 0, 0, 0];
    assert_eq!(sound(&object(&item)), Err(Unsound::Structure));
    // An item longer than its sequence.
    let long = [0x40, 0, 0x30, 0xA7, b'S', b'Q', 0, 0, 8, 0, 0, 0, 0xFE, 0xFF, 0, 0xE0, 4, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(sound(&object(&long)), Err(Unsound::Length));
}

#[test]
fn an_identifying_attribute_stands_once_and_in_order() {
    let mut twice = meta("1.2.840.10008.1.2.1");
    identifying(&mut twice);
    let first = twice.clone();
    explicit(&mut twice, PATIENT_ID, b"LO", b"P2");
    assert_eq!(sound(&twice), Err(Unsound::Order));
    assert_eq!(sound(&first), Ok(()));
}

/// Every text and every item that dicom-rs finds; how many texts those were.
fn same(ours: &Item<'_>, theirs: &InMemDicomObject) -> usize {
    let mut texts = 0;
    for element in theirs {
        let tag = element.header().tag;
        let key = u32::from(tag.0) << 16 | u32::from(tag.1);
        assert!(ours.entry(key).is_some(), "{tag}");
        let items = element.items().unwrap_or_default();
        assert_eq!(ours.items(key).len(), items.len(), "{tag}");
        texts += ours.items(key).iter().zip(items).map(|(a, b)| same(a, b)).sum::<usize>();
        // Bytes under UN are numbers to dicom-rs, and the text that they are to us.
        let binary = matches!(element.vr(), VR::SQ | VR::UN | VR::US | VR::UL | VR::OB | VR::FD | VR::FL | VR::AT);
        if !binary {
            let theirs = element.to_str().unwrap_or_default().trim_matches(['\0', ' ']).to_owned();
            assert_eq!(ours.text(key).unwrap_or_default(), theirs, "{tag}");
            texts += 1;
        }
    }
    texts
}

#[test]
fn what_dicom_rs_reads_is_read() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dicom/study-b/MADO_KOS_B.dcm");
    let read = |bytes: &[u8]| dicom_object::from_reader(&bytes[128..]).expect("reads");
    let bytes = std::fs::read(sample).expect("a file");
    let compare = |bytes: &[u8]| {
        let begun = Begun::read(bytes, true, 0).expect("sound").expect("whole");
        let tree = begun.tree(u32::MAX, |_| true).expect("sound").expect("whole");
        assert!(same(&tree, &read(bytes)) > 500);
        tree.text(PATIENT_NAME)
    };
    compare(&bytes);
    for (syntax, characters) in [
        ("1.2.840.10008.1.2", "ISO_IR 100"),
        ("1.2.840.10008.1.2.1", "ISO_IR 192"),
        ("1.2.840.10008.1.2.2", "ISO_IR 100"),
    ] {
        let mut object = read(&bytes);
        object.put(DataElement::new(tags::SPECIFIC_CHARACTER_SET, VR::CS, PrimitiveValue::from(characters)));
        object.put(DataElement::new(tags::PATIENT_NAME, VR::PN, PrimitiveValue::from("Bj\u{f8}rn^\u{c5}se")));
        object.update_meta(|meta| meta.transfer_syntax = syntax.to_owned());
        let mut written = Vec::new();
        object.write_all(&mut written).expect("writes");
        assert_eq!(compare(&written).as_deref(), Some("Bj\u{f8}rn^\u{c5}se"), "{syntax}");
    }
}

/// IM-03: dicom-rs reserves what such a sequence seems to declare; what it is given has none.
#[test]
fn im_03_a_parser_sees_what_it_reads_as_it_is_written() {
    let mut data = Vec::new();
    identifying(&mut data);
    let plain = object(&data);
    data.extend_from_slice(&[0x28, 0, 0x10, 0, b'U', b'S', 3, 0, 1, 2, 3]);
    data.extend_from_slice(&[1, 0x20, 0x10, 0, b'L', b'O', 4, 0, b'T', b'E', b'S', b'T']);
    data.extend_from_slice(&[1, 0x20, 0x5F, 0x10, b'U', b'N', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    data.extend_from_slice(&[0xFE, 0xFF, 0, 0xE0, 12, 0, 0, 0, 1, 0x20, 1, 0x10, 4, 0, 0, 0, b'A', b'B', b'C', b'D']);
    data.extend_from_slice(&[0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]);
    let odd = object(&data);
    assert_eq!(sound(&odd), Ok(()));
    let clean = for_parser(&odd).expect("sound");
    assert_eq!(clean, for_parser(&plain).expect("sound"));
    assert_eq!(&clean[132..144], [2, 0, 0, 0, b'U', b'L', 4, 0, 27, 0, 0, 0]);
    assert!(for_parser(&meta(DEFLATED[0])).is_err());
}

/// P9: PS3.5 6.1.2.5.3.
#[test]
fn p9_delimiters_set_back_the_character_set() {
    let characters = Characters::read(b"ISO 2022 IR 100\\ISO 2022 IR 144").expect("known");
    let decode = |bytes: &[u8], delimiters| characters.decode(bytes, delimiters);
    assert_eq!(decode(b"\x1b-L\xbb^\xe9", Delimiters::Names), "\u{41b}^\u{e9}");
    assert_eq!(decode(b"\x1b-L\xbb^\xe9", Delimiters::Values), "\u{41b}^\u{449}");
    assert_eq!(decode(b"\x1b-L\xbb\\\xe9", Delimiters::Values), "\u{41b}\\\u{e9}");
    assert_eq!(decode(b"\x1b-L\xbb\\\xe9", Delimiters::Lines), "\u{41b}\\\u{449}");
    assert_eq!(decode(b"\x1b-L\xbb\r\n\xe9", Delimiters::Lines), "\u{41b}\r\n\u{e9}");
    assert_eq!(Characters::read(b"ISO_IR 999").is_none(), Characters::read(b"nothing").is_none());
}
