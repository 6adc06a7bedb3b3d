//! Whom a CDA document records (CDA R2 4.2.2.11, recordTarget), read from its beginning.

use std::borrow::Cow;

use ncp_xml::{Element, Limits};

use crate::ns::HL7V3;

/// One person whom a document records.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RecordTarget {
    /// Root (the authority) and extension of each id.
    pub ids: Vec<(String, String)>,
    /// Family names of all names.
    pub family: Vec<String>,
    /// `YYYYMMDD`, or less of it.
    pub birth_date: Option<String>,
    /// `F`, `M`, `UN`.
    pub sex: Option<String>,
}

/// What the beginning of a document says.
#[derive(Clone, PartialEq, Eq)]
pub enum CdaBeginning {
    /// Another kind of document.
    Other,
    /// A CDA; these are all whom it records.
    Of(Vec<RecordTarget>),
    /// A CDA whose record targets do not end in these bytes.
    More,
    /// A CDA whose beginning cannot be read.
    Unreadable,
}

/// Reads the beginning of a document; `whole` says that there is no more of it.
pub fn beginning(bytes: &[u8], whole: bool) -> CdaBeginning {
    let Some(text) = text_of(bytes) else { return unreadable(bytes) };
    match Element::leading(undeclared(&text), &Limits::ANSWER.of(text.len()), (HL7V3, "recordTarget")) {
        Ok(read) if !read.root.is(HL7V3, "ClinicalDocument") => CdaBeginning::Other,
        Ok(read) if read.open && !whole => CdaBeginning::More,
        Ok(read) if read.open => CdaBeginning::Unreadable,
        Ok(read) => CdaBeginning::Of(read.found.iter().map(record_target).collect()),
        Err(_) if !whole && bytes.len() < 4096 => CdaBeginning::More,
        Err(_) => unreadable(bytes),
    }
}

/// What is no XML is no CDA; what speaks of one and is not readable is not taken for another kind.
fn unreadable(bytes: &[u8]) -> CdaBeginning {
    let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let wanted = b"ClinicalDocument";
    match letters.windows(wanted.len()).any(|window| window == wanted) {
        true => CdaBeginning::Unreadable,
        false => CdaBeginning::Other,
    }
}

fn record_target(target: &Element) -> RecordTarget {
    let mut out = RecordTarget::default();
    for role in target.all(HL7V3, "patientRole") {
        for id in role.all(HL7V3, "id").filter(|id| id.get("nullFlavor").is_none()) {
            let part = |name| id.get(name).unwrap_or_default().trim().to_owned();
            out.ids.push((part("root"), part("extension")));
        }
        for patient in role.all(HL7V3, "patient") {
            let names = patient.all(HL7V3, "name").flat_map(|name| name.all(HL7V3, "family"));
            out.family.extend(names.map(Element::trimmed).filter(|family| !family.is_empty()));
            let value = |local, attribute| {
                let text = patient.child(HL7V3, local).and_then(|e: &Element| e.get(attribute)).map(str::trim);
                text.filter(|text| !text.is_empty()).map(ToOwned::to_owned)
            };
            out.birth_date = out.birth_date.or_else(|| value("birthTime", "value"));
            out.sex = out.sex.or_else(|| value("administrativeGenderCode", "code"));
        }
    }
    out
}

/// The text of a document: UTF-8 as far as its characters are complete, UTF-16 by its byte order mark, or the charset of
/// Western Europe that it declares.
fn text_of(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let wide = |from: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..].chunks_exact(2).map(|pair| from([pair[0], pair[1]])).collect();
        Some(Cow::Owned(String::from_utf16_lossy(&units)))
    };
    match bytes {
        [0xff, 0xfe, ..] => return wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => return wide(u16::from_be_bytes),
        _ => {}
    }
    if let Some(declared) = declared(bytes)
        && ["iso-8859-1", "iso-8859-15", "windows-1252"].iter().any(|known| declared.eq_ignore_ascii_case(known))
    {
        return Some(Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.into()),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok().map(Cow::Borrowed)
        }
        Err(_) => None,
    }
}

/// The encoding of an XML declaration.
fn declared(bytes: &[u8]) -> Option<&str> {
    let begun = bytes.strip_prefix(b"<?xml")?;
    let end = begun.windows(2).position(|window| window == b"?>")?;
    let declaration = std::str::from_utf8(&begun[..end]).ok()?;
    let value = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    value[1..].split(quote).next()
}

/// The text behind its XML declaration, whose encoding was undone.
fn undeclared(text: &str) -> &str {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let behind = text.strip_prefix("<?xml ").and_then(|rest| rest.split_once("?>"));
    behind.map_or(text, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cda(declaration: &str) -> String {
        format!(
            "{declaration}<ClinicalDocument xmlns='urn:hl7-org:v3'><title>r</title><recordTarget><patientRole>\
             <id root='2.999.1' extension=' 4711 '/><id nullFlavor='UNK'/><id root='2.999.2'/><patient><name><given>J</given>\
             <family>Pr\u{f8}ve</family></name><administrativeGenderCode code='M'/><birthTime value='19770530'/></patient>\
             </patientRole></recordTarget><author/><recordTarget/></ClinicalDocument>"
        )
    }

    #[test]
    fn record_targets_of_every_charset() {
        let expected = RecordTarget {
            ids: vec![("2.999.1".into(), "4711".into()), ("2.999.2".into(), String::new())],
            family: vec!["Pr\u{f8}ve".into()],
            birth_date: Some("19770530".into()),
            sex: Some("M".into()),
        };
        let latin = cda("<?xml version='1.0' encoding='ISO-8859-1'?>");
        let latin: Vec<u8> = latin.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let wide: Vec<u8> = std::iter::once(0xfeff).chain(cda("").encode_utf16()).flat_map(u16::to_be_bytes).collect();
        for bytes in
            [cda("").into_bytes(), cda("\u{feff}<?xml version='1.0' encoding=\"UTF-8\"?>").into_bytes(), latin, wide]
        {
            assert!(beginning(&bytes, true) == CdaBeginning::Of(vec![expected.clone()]));
        }
    }

    #[test]
    fn what_is_not_whole_is_not_judged() {
        let text = cda("");
        let author = text.find("<author").expect("a place") + "<author/>".len();
        for end in 0..text.len() {
            let read = beginning(&text.as_bytes()[..end], false);
            assert!(
                if end < author { read == CdaBeginning::More } else { matches!(read, CdaBeginning::Of(_)) },
                "{end}"
            );
        }
        assert!(beginning(&text.as_bytes()[..author - 40], true) == CdaBeginning::Unreadable);
        assert!(beginning(b"<!DOCTYPE x><ClinicalDocument/>", true) == CdaBeginning::Unreadable);
        assert!(beginning(b"%PDF-1.7", true) == CdaBeginning::Other);
        assert!(beginning(b"<html/>", true) == CdaBeginning::Other);
        assert!(beginning(b"", true) == CdaBeginning::Other);
    }
}
