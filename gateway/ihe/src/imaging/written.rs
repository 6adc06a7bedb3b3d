//! A data set as its bytes while it is written: explicit VR little endian in UTF-8, sequences and items of undefined length.
//! An item is bytes as soon as it is whole, so that a manifest takes its own size and not ten times that.

use std::collections::BTreeMap;

use dicom_core::{Tag, VR};
use dicom_object::FileMetaTable;

const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// Elements by tag, each with its header.
#[derive(Default)]
pub(super) struct Written(BTreeMap<Tag, Vec<u8>>);

impl Written {
    /// A text, padded to even length. What is too long for its VR's 16 bits of length is UN (PS3.5 6.2.2).
    pub(super) fn put(&mut self, tag: Tag, vr: VR, value: Option<&str>) {
        let Some(value) = value else { return };
        let padding = match vr {
            VR::UI => b'\0',
            _ => b' ',
        };
        let odd = value.len() % 2;
        let length = value.len() + odd;
        let vr = if length > usize::from(u16::MAX) && !is_long(vr) { VR::UN } else { vr };
        let mut element = header(tag, vr, u32::try_from(length).unwrap_or(UNDEFINED - 1), length);
        element.extend_from_slice(value.as_bytes());
        element.extend(std::iter::repeat_n(padding, odd));
        self.0.insert(tag, element);
    }

    /// A number as text.
    pub(super) fn put_number(&mut self, tag: Tag, value: Option<u32>) {
        self.put(tag, VR::IS, value.map(|n| n.to_string()).as_deref());
    }

    /// A sequence.
    pub(super) fn put_items(&mut self, tag: Tag, items: impl IntoIterator<Item = Self>) {
        let mut element = header(tag, VR::SQ, UNDEFINED, 0);
        for item in items {
            mark(&mut element, ITEM, UNDEFINED);
            item.elements().for_each(|own| element.extend_from_slice(own));
            mark(&mut element, ITEM_END, 0);
        }
        mark(&mut element, SEQUENCE_END, 0);
        self.0.insert(tag, element);
    }

    fn elements(&self) -> impl Iterator<Item = &[u8]> {
        self.0.values().map(Vec::as_slice)
    }

    /// A Part 10 file.
    ///
    /// # Errors
    /// dicom-rs refuses the file meta information.
    pub(super) fn file(&self, meta: &FileMetaTable) -> Option<Vec<u8>> {
        let mut out = vec![0; 128];
        out.extend_from_slice(b"DICM");
        meta.write(&mut out).ok()?;
        out.reserve_exact(self.elements().map(<[u8]>::len).sum());
        self.elements().for_each(|own| out.extend_from_slice(own));
        Some(out)
    }
}

/// Whether the VR has 32 bits of length (PS3.5 table 7.1-1); of those that are written here.
fn is_long(vr: VR) -> bool {
    matches!(vr, VR::SQ | VR::UC | VR::UN | VR::UR | VR::UT)
}

fn header(tag: Tag, vr: VR, length: u32, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + room);
    out.extend_from_slice(&tag.group().to_le_bytes());
    out.extend_from_slice(&tag.element().to_le_bytes());
    out.extend_from_slice(&vr.to_bytes());
    match u16::try_from(length) {
        Ok(short) if !is_long(vr) => out.extend_from_slice(&short.to_le_bytes()),
        _ => {
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&length.to_le_bytes());
        }
    }
    out
}

fn mark(out: &mut Vec<u8>, tag: Tag, length: u32) {
    out.extend_from_slice(&tag.group().to_le_bytes());
    out.extend_from_slice(&tag.element().to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::dicom::Begun;
    use crate::imaging::dicom::text;
    use crate::{KosDialect, MadoCodes, Manifest};

    /// dicom-rs reads what is written here, and makes the same bytes of it.
    #[test]
    fn dicom_rs_writes_the_same() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dicom/study-b/MADO_KOS_B.dcm");
        let mut manifest = Manifest::read_kos(&std::fs::read(sample).expect("a file")).expect("a KOS");
        manifest.patient.name = Some("Bj\u{f8}rn^\u{c5}se".into());
        let mado = [MadoCodes::Final, MadoCodes::Temporary].map(KosDialect::Mado);
        for dialect in mado.into_iter().chain([KosDialect::XdsI, KosDialect::XtEhr]) {
            let bytes = manifest.write_kos(dialect).expect("writes");
            let read = dicom_object::from_reader(&bytes[128..]).expect("reads");
            let mut again = Vec::new();
            read.write_all(&mut again).expect("writes");
            assert!(again == bytes, "{dialect:?}");
        }
    }

    #[test]
    fn a_text_too_long_for_its_vr_is_kept() {
        let tag = dicom_dictionary_std::tags::STUDY_DESCRIPTION;
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dicom/study-b/MADO_KOS_B.dcm");
        let mut manifest = Manifest::read_kos(&std::fs::read(sample).expect("a file")).expect("a KOS");
        for length in [65_533, 65_534, 65_535, 70_001] {
            manifest.description = Some("x".repeat(length));
            let bytes = manifest.write_kos(KosDialect::XdsI).expect("writes");
            let begun = Begun::read(&bytes, true, 0).expect("sound").expect("whole");
            let read = begun.tree(u32::MAX, |_| true).expect("sound").expect("whole");
            assert_eq!(text(&read, tag).map(|t| t.len()), Some(length));
        }
    }
}
