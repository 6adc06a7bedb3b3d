//! OrCD documents of MyHealth@EU: a CDA without coded content around a PDF or a picture.

use base64::Engine;
use bytes::Bytes;
use ncp_xml::{ANSWERS, Busy, Charge, Element, Limits, Node, XmlError};

use crate::DocumentEntry;
use crate::ns::HL7V3;

mod narrative;
mod report;
mod write;

pub use narrative::{Line, Run};
pub use report::{Person, Report, ReportError};
pub use write::{OrcdDocument, OrcdKind};

const PDF_FORMAT: &str = "urn:eHDSI:orcd:pdf:2021";
const PNG_FORMAT: &str = "urn:eHDSI:orcd:png:2021";
/// formatCodes and what such a document holds.
const HELD: [(&str, &str); 3] =
    [(PDF_FORMAT, "application/pdf"), (PNG_FORMAT, "image/png"), ("urn:eHDSI:orcd:jpeg:2021", "image/jpeg")];

/// Media type of what the document of this entry holds, by its formatCode; `None` for other documents.
pub fn held_media_type(entry: &DocumentEntry) -> Option<&'static str> {
    HELD.iter().find(|(format, _)| *format == entry.format_code.code).map(|(_, held)| *held)
}

/// The PDF or picture in a CDA's nonXMLBody: its media type and its bytes.
///
/// `None`: no CDA, a structured one, content by reference, another media type, or content whose first bytes are not those of
/// its media type: a browser would guess.
///
/// # Errors
/// The messages that are being read leave no memory for it now.
pub fn held(cda: &[u8]) -> Result<Option<(&'static str, Bytes)>, Busy> {
    Ok(held_with_person(cda)?.map(|(_, media_type, bytes)| (media_type, bytes)))
}

/// As [`held`], with whom the document is about.
///
/// # Errors
/// As [`held`].
pub fn held_with_person(cda: &[u8]) -> Result<Option<(Person, &'static str, Bytes)>, Busy> {
    let mut charge = ANSWERS.charge(DOCUMENTS);
    let Some(document) = document(cda, &mut charge)? else { return Ok(None) };
    held_in(&document, &mut charge)
}

/// The share of the documents of this country that are being read, among all answers.
const DOCUMENTS: &str = "documents";

/// The tree of a CDA, whose memory is that of the messages that are being read; `None`: it is none.
fn document(cda: &[u8], charge: &mut Charge) -> Result<Option<Element>, Busy> {
    match Element::parse_charged(cda, &Limits::ANSWER.of(cda.len()), charge) {
        Ok(root) => Ok(Some(root).filter(|root| root.is(HL7V3, "ClinicalDocument"))),
        Err(XmlError::Busy) => Err(Busy),
        Err(_) => Ok(None),
    }
}

/// The element that holds something, and the media type that it says.
fn holder(document: &Element) -> Option<(&Element, &'static str)> {
    let text = document.path(HL7V3, &["component", "nonXMLBody", "text"])?;
    if text.get("representation") != Some("B64") || text.elements().next().is_some() {
        return None;
    }
    let named = text.get("mediaType").map(|m| m.trim().to_ascii_lowercase())?;
    HELD.iter().find(|(_, held)| *held == named).map(|(_, media_type)| (text, *media_type))
}

fn held_in(document: &Element, charge: &mut Charge) -> Result<Option<(Person, &'static str, Bytes)>, Busy> {
    let Some((text, media_type)) = holder(document) else { return Ok(None) };
    // Its text is copied without its spaces; what it holds is its caller's.
    let length = text.children().iter().map(|node| if let Node::Text(text) = node { text.len() } else { 0 }).sum();
    charge.grow(length)?;
    let mut encoded = text.content();
    encoded.retain(|c| !c.is_ascii_whitespace());
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(encoded) else { return Ok(None) };
    let begins: &[u8] = match media_type {
        "application/pdf" => b"%PDF-",
        "image/png" => b"\x89PNG\r\n\x1a\n",
        _ => b"\xFF\xD8\xFF",
    };
    Ok(bytes.starts_with(begins).then(|| (report::person(document), media_type, bytes.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cda(media_type: &str, representation: &str, content: &str) -> String {
        format!(
            "<ClinicalDocument xmlns='urn:hl7-org:v3'><component><nonXMLBody><text mediaType='{media_type}' \
             representation='{representation}'>{content}</text></nonXMLBody></component></ClinicalDocument>"
        )
    }

    #[test]
    fn the_picture_is_taken_out() {
        let png = b"\x89PNG\r\n\x1a\n and more";
        let encoded = base64::engine::general_purpose::STANDARD.encode(png);
        let broken_into_lines = format!("\n  {}\r\n{} ", &encoded[..8], &encoded[8..]);
        let found = held(cda("image/png", "B64", &broken_into_lines).as_bytes());
        assert_eq!(found, Ok(Some(("image/png", Bytes::from_static(png)))));
        for (media_type, representation, content) in [
            ("image/png", "TXT", encoded.as_str()),
            ("text/html", "B64", &encoded),
            ("image/jpeg", "B64", &encoded),
            ("image/png", "B64", "!!!"),
            ("image/png", "B64", "<reference value='http://elsewhere.example/'/>"),
        ] {
            assert_eq!(held(cda(media_type, representation, content).as_bytes()), Ok(None), "{media_type} {content}");
        }
        assert_eq!(held(b"<ClinicalDocument/>"), Ok(None));
        assert_eq!(held(png), Ok(None));
    }
}
