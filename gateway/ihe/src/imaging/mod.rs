//! The imaging manifest: one study, its series and instances, and where they can be had.

mod kos_read;
mod kos_write;

use crate::{Coded, Oid, Uid};

pub use kos_write::KosDialect;

/// References in one manifest.
pub const MOST_REFERENCES: usize = 100_000;

/// Why an object is no usable manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not DICOM Part 10, or broken inside.
    #[error("not a dicom part 10 object")]
    NotDicom,
    /// Another SOP class.
    #[error("not a key object selection document")]
    NotKos,
    /// Without evidence tree, or with UIDs that are none.
    #[error("no usable evidence: {0}")]
    Evidence(&'static str),
    /// More references than the limit.
    #[error("too many references")]
    TooMany,
    /// Writing failed.
    #[error("cannot be written")]
    Write,
}

/// A manifest, whatever its dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// SOP Instance UID of the KOS.
    pub sop_instance: Uid,
    /// Series Instance UID of the KOS itself.
    pub own_series: Uid,
    /// The study.
    pub study: Uid,
    /// The patient as the source names it.
    pub patient: ManifestPatient,
    /// (0008,0020)
    pub study_date: Option<String>,
    /// (0008,0030)
    pub study_time: Option<String>,
    /// (0008,0201)
    pub timezone: Option<String>,
    /// (0008,1030)
    pub description: Option<String>,
    /// (0008,0050)
    pub accession: Option<String>,
    /// Content date and time, `YYYYMMDDhhmmss`.
    pub created: Option<String>,
    /// Document title.
    pub title: Option<Coded>,
    /// Series.
    pub series: Vec<ManifestSeries>,
    /// What was odd.
    pub warnings: Vec<String>,
}

/// The patient in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManifestPatient {
    /// (0010,0020) with its issuer, then (0010,1002).
    pub ids: Vec<(String, Option<Oid>)>,
    /// (0010,0010)
    pub name: Option<String>,
    /// (0010,0030)
    pub birth_date: Option<String>,
    /// (0010,0040)
    pub sex: Option<String>,
}

/// A series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestSeries {
    /// Series Instance UID.
    pub series: Uid,
    /// Modality.
    pub modality: Option<String>,
    /// Number.
    pub number: Option<u32>,
    /// Description.
    pub description: Option<String>,
    /// Retrieve Location UID (0040,E011).
    pub location: Option<Oid>,
    /// Retrieve URL (0008,1190): the other country's address, never followed.
    pub retrieve_url: Option<String>,
    /// Instances.
    pub instances: Vec<ManifestInstance>,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestInstance {
    /// SOP Class UID.
    pub sop_class: Uid,
    /// SOP Instance UID.
    pub sop_instance: Uid,
    /// Instance number.
    pub number: Option<u32>,
    /// Number of frames.
    pub frames: Option<u32>,
}

impl Manifest {
    /// Instances in all.
    pub fn instance_count(&self) -> usize {
        self.series.iter().map(|s| s.instances.len()).sum()
    }
}
