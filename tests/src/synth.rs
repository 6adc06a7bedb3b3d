//! The one generator of synthetic studies: any number of instances and bytes, deterministic UIDs under 2.999.

use std::io::Write;
use std::path::{Path, PathBuf};

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use crate::pki::Error;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";

/// What is generated.
#[derive(Debug, Clone)]
pub struct Study {
    /// Number in the UIDs.
    pub number: u32,
    /// (0010,0020)
    pub patient_id: String,
    /// (0010,0010)
    pub patient_name: String,
    /// (0010,0030)
    pub birth_date: String,
    /// (0010,0040)
    pub sex: String,
    /// (0008,1030)
    pub description: String,
    /// Slices.
    pub instances: u32,
    /// Rows and columns; a slice has 2 × side × side bytes of pixels.
    pub side: u16,
}

impl Study {
    /// Study Instance UID.
    pub fn uid(&self) -> String {
        format!("2.999.47.99.{}", self.number)
    }

    /// Series Instance UID.
    pub fn series(&self) -> String {
        format!("{}.1", self.uid())
    }

    /// SOP Instance UID of a slice, from 1.
    pub fn instance(&self, slice: u32) -> String {
        format!("{}.{slice}", self.series())
    }

    /// Writes the study under a folder; returns the files in order.
    ///
    /// # Errors
    /// dicom-rs, files.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        std::fs::create_dir_all(folder)?;
        let pixels = usize::from(self.side) * usize::from(self.side);
        // One noisy slice, shifted from slice to slice: incompressible enough, and fast to make.
        let mut state: u32 = 0x9E37_79B9 ^ self.number;
        let base: Vec<u8> = (0..pixels * 2)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let mut files = Vec::new();
        for slice in 1..=self.instances {
            let mut data = base.clone();
            let shift = (slice as usize * 97) % data.len().max(1);
            data.rotate_left(shift);
            let path = folder.join(format!("{slice:06}.dcm"));
            self.object(slice, data)?.write_to_file(&path)?;
            files.push(path);
        }
        Ok(files)
    }

    fn object(&self, slice: u32, data: Vec<u8>) -> Result<dicom_object::DefaultDicomObject, Error> {
        let mut object = InMemDicomObject::new_empty();
        let mut text = |tag, vr, value: &str| {
            object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
        };
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192");
        text(tags::SOP_CLASS_UID, VR::UI, CT);
        text(tags::SOP_INSTANCE_UID, VR::UI, &self.instance(slice));
        text(tags::STUDY_DATE, VR::DA, "20260102");
        text(tags::STUDY_TIME, VR::TM, "101500");
        text(tags::ACCESSION_NUMBER, VR::SH, &format!("SYN{}", self.number));
        text(tags::MODALITY, VR::CS, "CT");
        text(tags::STUDY_DESCRIPTION, VR::LO, &self.description);
        text(tags::PATIENT_NAME, VR::PN, &self.patient_name);
        text(tags::PATIENT_ID, VR::LO, &self.patient_id);
        text(tags::PATIENT_BIRTH_DATE, VR::DA, &self.birth_date);
        text(tags::PATIENT_SEX, VR::CS, &self.sex);
        text(tags::STUDY_INSTANCE_UID, VR::UI, &self.uid());
        text(tags::SERIES_INSTANCE_UID, VR::UI, &self.series());
        text(tags::SERIES_NUMBER, VR::IS, "1");
        text(tags::INSTANCE_NUMBER, VR::IS, &slice.to_string());
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
        for (tag, value) in [
            (tags::SAMPLES_PER_PIXEL, 1),
            (tags::ROWS, self.side),
            (tags::COLUMNS, self.side),
            (tags::BITS_ALLOCATED, 16),
            (tags::BITS_STORED, 16),
            (tags::HIGH_BIT, 15),
            (tags::PIXEL_REPRESENTATION, 0),
        ] {
            object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        }
        // As bytes: writing word by word takes minutes in an unoptimised build.
        object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U8(data.into())));
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(CT)
            .media_storage_sop_instance_uid(self.instance(slice))
            .transfer_syntax(EXPLICIT_LE);
        Ok(object.with_meta(meta)?)
    }
}

/// The same object deflated (PS3.5 A.5), with so many zeros behind its pixels that it inflates to far more than a hundred times
/// what it is sent as: a case of FO-04.
///
/// # Panics
/// When the object is none of ours.
pub fn bomb(good: &[u8]) -> Vec<u8> {
    const PLAIN: &[u8] = b"1.2.840.10008.1.2.1\0";
    const DEFLATED: &[u8] = b"1.2.840.10008.1.2.1.99";
    let group = u32::from_le_bytes(good[140..144].try_into().expect("four bytes"));
    let begin = 144 + group as usize;
    let mut out = good[..begin].to_vec();
    let at = out.windows(PLAIN.len()).position(|window| window == PLAIN).expect("explicit little endian");
    out.splice(at..at + PLAIN.len(), DEFLATED.iter().copied());
    out[at - 2..at].copy_from_slice(&22u16.to_le_bytes());
    out[140..144].copy_from_slice(&(group + 2).to_le_bytes());
    let zeros = u32::try_from(150 * good.len()).expect("small");
    let mut data = [&good[begin..], b"\xe1\x7f\x10\0LO\x04\0NCP \xe1\x7f\x01\x10OB\0\0"].concat();
    data.extend_from_slice(&zeros.to_le_bytes());
    let mut deflating = flate2::write::DeflateEncoder::new(out, flate2::Compression::best());
    let zeros = vec![0; zeros as usize];
    deflating.write_all(&data).and_then(|()| deflating.write_all(&zeros)).expect("writes");
    deflating.finish().expect("writes")
}

/// So many zeros as gzip.
///
/// # Panics
/// Never: it is written to memory.
pub fn gzipped(zeros: usize) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(&vec![0; zeros]).expect("writes");
    out.finish().expect("writes")
}
