//! Whose instance is it? Read from its header before a byte of it goes on.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use ncp_ihe::Uid;
use ncp_soap::Parts;

use super::PeerError;

/// Header bytes tried first, and at most.
const FIRST: usize = 8 << 10;
const MOST: usize = 1 << 20;
/// The header is read up to here: patient, study and series lie before it.
const BEHIND_SERIES: Tag = Tag(0x0020, 0x0010);

/// What every instance of a study must agree with.
#[derive(Clone)]
pub struct Expected {
    /// Study Instance UID.
    pub study: Uid,
    /// Patient IDs under which the archive may know the person; `None` where the request tells no more than study and
    /// instance (RAD-69).
    pub patient_ids: Option<Vec<String>>,
    /// Birth date of the person that was found, `YYYYMMDD`.
    pub birth_date: Option<String>,
}

/// Why an instance is withheld. Without values, since this reaches logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    NotDicom,
    OtherInstance,
    OtherStudy,
    OtherPatient,
}

impl Foreign {
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::NotDicom => "instance is not readable as DICOM",
            Self::OtherInstance => "instance is another than its part says",
            Self::OtherStudy => "instance is of another study",
            Self::OtherPatient => "instance names another patient than its study",
        }
    }
}

/// Takes as much of the current part as its header needs. The bytes are returned, to be sent on first.
pub(super) async fn header<B>(
    parts: &mut Parts<B>,
    sop_instance: &str,
    expected: &Expected,
) -> Result<(Bytes, Result<(), Foreign>), PeerError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<ncp_soap::BoxError>,
{
    let mut held = BytesMut::new();
    let mut enough = FIRST;
    loop {
        let mut ended = false;
        while held.len() < enough {
            match parts.chunk().await? {
                Some(chunk) => held.extend_from_slice(&chunk),
                None => {
                    ended = true;
                    break;
                }
            }
        }
        match read(&held) {
            Some(object) => return Ok((held.freeze(), check(&object, sop_instance, expected))),
            None if ended || held.len() >= MOST => return Ok((held.freeze(), Err(Foreign::NotDicom))),
            None => enough = (held.len() * 2).min(MOST),
        }
    }
}

/// The same for an instance that is there already.
pub(super) fn whole(bytes: &[u8], sop_instance: &str, expected: &Expected) -> Result<(), Foreign> {
    check(&read(bytes).ok_or(Foreign::NotDicom)?, sop_instance, expected)
}

fn read(bytes: &[u8]) -> Option<DefaultDicomObject> {
    // The parser reserves what lengths declare and recurses as deep as items nest.
    ncp_ihe::imaging::check_header_bounds(bytes, BEHIND_SERIES).ok()?;
    let object = OpenFileOptions::new().read_until(BEHIND_SERIES).from_reader(Cursor::new(bytes)).ok()?;
    // A cut header may read as a short one; the series comes last of what is needed.
    object.element_opt(tags::SERIES_INSTANCE_UID).ok().flatten()?;
    Some(object)
}

fn check(object: &DefaultDicomObject, sop_instance: &str, expected: &Expected) -> Result<(), Foreign> {
    let text = |tag| {
        let value = object.element_opt(tag).ok().flatten().and_then(|e| e.to_str().ok());
        value.map(|v| v.trim_matches(['\0', ' ']).to_owned()).unwrap_or_default()
    };
    if text(tags::SOP_INSTANCE_UID) != sop_instance {
        return Err(Foreign::OtherInstance);
    }
    if text(tags::STUDY_INSTANCE_UID) != expected.study.as_str() {
        return Err(Foreign::OtherStudy);
    }
    let Some(patient_ids) = &expected.patient_ids else { return Ok(()) };
    let (patient, birth) = (text(tags::PATIENT_ID), text(tags::PATIENT_BIRTH_DATE));
    let same_birth = expected.birth_date.as_deref().map(|date| date == birth);
    let known = if patient.is_empty() { same_birth == Some(true) } else { patient_ids.contains(&patient) };
    if !known || (!birth.is_empty() && same_birth == Some(false)) {
        return Err(Foreign::OtherPatient);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small object that would take gigabytes of memory, and one that would take the stack.
    #[test]
    fn a_header_is_bounded_before_it_is_parsed() {
        let file = |data_set: &[u8]| {
            let syntax = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0";
            [&[0; 128][..], b"DICM", syntax, data_set].concat()
        };
        assert!(read(&file(b"\x08\x00\x05\x00OB\0\0\xF0\xFF\xFF\xFF")).is_none());
        let level = b"\x08\x00\x40\x11SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF";
        assert!(read(&file(&level.repeat(40_000))).is_none());
    }
}
