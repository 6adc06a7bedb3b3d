//! A data set as it stands in its bytes: where its elements and items are, and the texts that are asked for. A manifest of
//! twenty thousand instances has a hundred thousand items; as objects of dicom-rs they take eight times the memory.

use dicom_core::Tag;
use dicom_core::VR;
use dicom_dictionary_std::tags;
use dicom_encoding::text::{SpecificCharacterSet, TextCodec};
use dicom_object::InMemDicomObject;

/// What is read of a data set, however it is held.
pub(super) trait DataSet: Sized {
    /// Whether the element is there.
    fn has(&self, tag: Tag) -> bool;
    /// Its value as text, padding included.
    fn raw_text(&self, tag: Tag) -> Option<String>;
    /// The items of a sequence; none where it is none.
    fn items(&self, tag: Tag) -> &[Self];
}

impl DataSet for InMemDicomObject {
    fn has(&self, tag: Tag) -> bool {
        self.get(tag).is_some()
    }

    fn raw_text(&self, tag: Tag) -> Option<String> {
        self.get(tag)?.to_str().ok().map(std::borrow::Cow::into_owned)
    }

    fn items(&self, tag: Tag) -> &[Self] {
        match self.get(tag) {
            Some(found) if found.vr() == VR::SQ => found.items().unwrap_or_default(),
            _ => &[],
        }
    }
}

/// The data set of an object, or an item of one of its sequences.
pub(super) struct Item<'a> {
    elements: Vec<(Tag, Value<'a>)>,
    characters: SpecificCharacterSet,
}

enum Value<'a> {
    Bytes(&'a [u8]),
    Items(Vec<Item<'a>>),
}

impl<'a> Item<'a> {
    fn new(characters: SpecificCharacterSet) -> Self {
        Self { elements: Vec::new(), characters }
    }

    /// Of an element that stands twice the last counts.
    fn value(&self, tag: Tag) -> Option<&Value<'a>> {
        self.elements.iter().rfind(|(own, _)| *own == tag).map(|(_, value)| value)
    }
}

impl DataSet for Item<'_> {
    fn has(&self, tag: Tag) -> bool {
        self.value(tag).is_some()
    }

    fn raw_text(&self, tag: Tag) -> Option<String> {
        match self.value(tag)? {
            Value::Bytes(bytes) => self.characters.decode(bytes).ok(),
            Value::Items(_) => None,
        }
    }

    fn items(&self, tag: Tag) -> &[Self] {
        match self.value(tag) {
            Some(Value::Items(items)) => items,
            _ => &[],
        }
    }
}

/// Puts a data set together while its structure is walked.
pub(super) struct Builder<'a> {
    open: Vec<Open<'a>>,
}

enum Open<'a> {
    Item(Item<'a>),
    Sequence(Tag, Vec<Item<'a>>),
}

impl<'a> Builder<'a> {
    pub(super) fn new() -> Self {
        Self { open: vec![Open::Item(Item::new(SpecificCharacterSet::default()))] }
    }

    fn characters(&self) -> SpecificCharacterSet {
        let of = |open: &Open<'a>| match open {
            Open::Item(item) => Some(item.characters.clone()),
            Open::Sequence(..) => None,
        };
        self.open.iter().rev().find_map(of).unwrap_or_default()
    }

    pub(super) fn value(&mut self, tag: Tag, bytes: &'a [u8]) {
        let Some(Open::Item(item)) = self.open.last_mut() else { return };
        if tag == tags::SPECIFIC_CHARACTER_SET {
            let first = bytes.split(|b| *b == b'\\').next().and_then(|code| std::str::from_utf8(code).ok());
            if let Some(known) = first.and_then(SpecificCharacterSet::from_code) {
                item.characters = known;
            }
        }
        item.elements.push((tag, Value::Bytes(bytes)));
    }

    pub(super) fn open(&mut self, sequence: Option<Tag>) {
        let opened = match sequence {
            Some(tag) => Open::Sequence(tag, Vec::new()),
            None => Open::Item(Item::new(self.characters())),
        };
        self.open.push(opened);
    }

    pub(super) fn close(&mut self) {
        match (self.open.pop(), self.open.last_mut()) {
            (Some(Open::Item(mut item)), Some(Open::Sequence(_, items))) => {
                item.elements.shrink_to_fit();
                items.push(item);
            }
            (Some(Open::Sequence(tag, mut items)), Some(Open::Item(item))) => {
                items.shrink_to_fit();
                item.elements.push((tag, Value::Items(items)));
            }
            _ => {}
        }
    }

    /// The whole, once the walk has come to its end.
    pub(super) fn finish(mut self) -> Option<Item<'a>> {
        match self.open.pop() {
            Some(Open::Item(item)) if self.open.is_empty() => Some(item),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dicom_core::{DataElement, PrimitiveValue};

    use super::*;
    use crate::imaging::bounds;

    /// Every text and every item that dicom-rs finds; how many texts those were.
    fn same(ours: &Item<'_>, theirs: &InMemDicomObject) -> usize {
        let mut texts = 0;
        for element in theirs {
            let tag = element.header().tag;
            assert!(ours.has(tag), "{tag}");
            assert_eq!(ours.items(tag).len(), theirs.items(tag).len(), "{tag}");
            texts += ours.items(tag).iter().zip(theirs.items(tag)).map(|(a, b)| same(a, b)).sum::<usize>();
            // Bytes under UN are numbers to dicom-rs, and the text that they are to us.
            if !matches!(element.vr(), VR::SQ | VR::UN) {
                let trimmed = |text: Option<String>| text.unwrap_or_default().trim_matches(['\0', ' ']).to_owned();
                assert_eq!(trimmed(ours.raw_text(tag)), trimmed(theirs.raw_text(tag)), "{tag}");
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
        assert!(same(&bounds::read(&bytes).expect("sound"), &read(&bytes)) > 500);
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
            let ours = bounds::read(&written).expect("sound");
            assert!(same(&ours, &read(&written)) > 500, "{syntax}");
            assert_eq!(ours.raw_text(tags::PATIENT_NAME).as_deref(), Some("Bj\u{f8}rn^\u{c5}se "), "{syntax}");
        }
    }
}
