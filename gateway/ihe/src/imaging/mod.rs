//! The imaging manifest: one study, its series and instances, and where they can be had.
//!
//! One [`Manifest`] for the four forms that travel: KOS as XDS-I.b (RAD TF-3: 4.68), Xt-EHR V7e and MADO write it, and
//! MADO's FHIR document. [`Manifest::read`] takes any of them, [`Manifest::convert`] writes any and says what was lost,
//! [`Manifest::compare_images`] says where manifest and images disagree.

mod compare;
mod dicom;
mod fhir_read;
mod fhir_write;
mod json;
mod kos_read;
mod kos_write;
mod warning;
mod written;

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::dicom::Unsound;
use crate::{Coded, Oid, Uid};

pub use compare::{Converted, Difference, Disagreement, Field, ImageFacts, Parsed, Place};
pub use dicom::is_manifest_title;
pub use json::{MetadataView, PIXELS, header_end, metadata, person_name};
pub use kos_write::{KosDialect, MadoCodes};
pub use warning::ManifestWarning;

/// References in one manifest.
pub const MOST_REFERENCES: usize = 100_000;
/// Bytes of one manifest: the references of [`MOST_REFERENCES`] with their descriptors.
pub const MOST_BYTES: usize = 64 << 20;

/// Why an object is no usable manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not DICOM Part 10, or broken inside.
    #[error("not a dicom part 10 object")]
    NotDicom,
    /// Lengths or nesting beyond what an honest object has.
    #[error("not a sound dicom object: {0}")]
    Unbounded(Unsound),
    /// Another SOP class.
    #[error("not a key object selection document")]
    NotKos,
    /// Neither DICOM nor a FHIR Bundle with an ImagingStudy.
    #[error("neither a dicom object nor a fhir document with an imaging study")]
    UnknownForm,
    /// Without evidence tree, or with UIDs that are none.
    #[error("no usable evidence: {0}")]
    Evidence(&'static str),
    /// More references or bytes than the limit.
    #[error("too many references")]
    TooMany,
    /// Writing failed.
    #[error("cannot be written")]
    Write,
}

/// The forms in which manifests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestForm {
    /// KOS of XDS-I.b: evidence tree only.
    XdsI,
    /// KOS of the Xt-EHR draft V7e: descriptors as attributes inside the evidence tree.
    XtEhr,
    /// KOS of MADO: descriptors as SR content, TID 1600.
    Mado,
    /// FHIR document of MADO.
    MadoFhir,
}

impl ManifestForm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::XdsI, Self::XtEhr, Self::Mado, Self::MadoFhir];

    /// The name on a command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::XdsI => "xds-i",
            Self::XtEhr => "xt-ehr",
            Self::Mado => "mado",
            Self::MadoFhir => "mado-fhir",
        }
    }

    /// Media type of a document in this form.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::MadoFhir => "application/fhir+json",
            _ => "application/dicom",
        }
    }
}

impl FromStr for ManifestForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|form| form.as_str() == text);
        known.ok_or_else(|| "expected xds-i, xt-ehr, mado or mado-fhir".to_owned())
    }
}

/// A manifest, whatever its form.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// SOP Instance UID of the KOS; identifier of the FHIR document.
    pub sop_instance: Uid,
    /// Series Instance UID of the KOS itself.
    pub own_series: Uid,
    /// The study.
    pub study: Uid,
    /// The patient as the source names it.
    pub patient: ManifestPatient,
    /// (0008,0020), `YYYYMMDD`
    pub study_date: Option<String>,
    /// (0008,0030), `HHMMSS.F`
    pub study_time: Option<String>,
    /// (0008,0201), `+hhmm`, of all dates and times
    pub timezone: Option<String>,
    /// (0008,1030)
    pub description: Option<String>,
    /// (0008,0050): only where the study has exactly one.
    pub accession: Option<String>,
    /// Referenced Request Sequence (0040,A370): orders that the study fulfils.
    pub requests: Vec<ManifestRequest>,
    /// Target regions of the study, designator `SCT`.
    pub regions: Vec<Coded>,
    /// What was done; a code without system and code is text.
    pub procedures: Vec<Coded>,
    /// Series of the study where the manifest says so; more than listed when some are withheld.
    pub series_total: Option<u32>,
    /// (0020,1208): instances of the study where the manifest counts more than its series do.
    pub instance_total: Option<u32>,
    /// A viewer's address: the other country's, never followed.
    pub viewer: Option<String>,
    /// What made the manifest.
    pub creator: ManifestCreator,
    /// Content date and time, `YYYYMMDDhhmmss.F`.
    pub created: Option<String>,
    /// Document title.
    pub title: Option<Coded>,
    /// Series.
    pub series: Vec<ManifestSeries>,
    /// What was odd.
    pub warnings: Vec<ManifestWarning>,
}

/// An identifier and who gave it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IssuedId {
    /// The identifier.
    pub id: String,
    /// Its authority.
    pub issuer: Option<Issuer>,
    /// What people call the authority: (0010,0021), (0040,0031).
    pub label: Option<String>,
}

impl std::fmt::Debug for IssuedId {
    /// Never the identifier: values of this type end up in error and debug output.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedId").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl IssuedId {
    /// An identifier under an OID.
    pub fn new(id: &str, issuer: Option<Oid>) -> Self {
        Self { id: id.to_owned(), issuer: issuer.map(Issuer::Oid), label: None }
    }

    /// The authority where it is an OID.
    pub fn oid(&self) -> Option<&Oid> {
        match &self.issuer {
            Some(Issuer::Oid(oid)) => Some(oid),
            _ => None,
        }
    }
}

/// Who gives identifiers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Issuer {
    /// (0040,0033) `ISO`
    Oid(Oid),
    /// (0040,0033) `URI`
    Uri(String),
}

impl Issuer {
    /// Reads an OID with or without prefix, else takes it for a URI.
    pub fn parse(text: &str) -> Self {
        Oid::parse(text).map_or_else(|_| Self::Uri(text.to_owned()), Self::Oid)
    }

    /// The OID or URI.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Oid(oid) => oid.as_str(),
            Self::Uri(uri) => uri,
        }
    }
}

/// The patient in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManifestPatient {
    /// (0010,0020), then (0010,1002).
    pub ids: Vec<IssuedId>,
    /// (0010,0010)
    pub name: Option<String>,
    /// (0010,0030)
    pub birth_date: Option<String>,
    /// (0010,0040)
    pub sex: Option<String>,
}

/// An order that the study fulfils.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ManifestRequest {
    /// (0008,0050) with (0008,0051)
    pub accession: Option<IssuedId>,
    /// (0040,2016) with (0040,0026)
    pub placer: Option<IssuedId>,
}

/// What made a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManifestCreator {
    /// (0008,0070)
    pub manufacturer: Option<String>,
    /// (0008,1090)
    pub model: Option<String>,
    /// (0008,0080) with its id, where that is XON.
    pub institution: Option<IssuedName>,
}

/// An organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedName {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub id: Option<IssuedId>,
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
    /// Series Date (0008,0021).
    pub date: Option<String>,
    /// Series Time (0008,0031).
    pub time: Option<String>,
    /// Target region or body site.
    pub region: Option<Coded>,
    /// Laterality, CID 244.
    pub laterality: Option<Coded>,
    /// Instances of the series where the manifest says so; more than listed when some are withheld.
    pub total: Option<u32>,
    /// Retrieve Location UID (0040,E011).
    pub location: Option<Oid>,
    /// Base of Retrieve URLs (0008,1190): the other country's address, never followed.
    pub retrieve_url: Option<String>,
    /// Retrieve AE Title (0008,0054).
    pub ae_title: Option<String>,
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
    /// Of a key object note: its title, CID 7010.
    pub key_title: Option<Coded>,
    /// Of a key object note: its description.
    pub key_description: Option<String>,
    /// Of an image: the key object notes that mark it.
    pub marked_by: Vec<Uid>,
}

impl Manifest {
    /// A manifest of a study that nothing is known of yet.
    pub fn new(sop_instance: Uid, own_series: Uid, study: Uid) -> Self {
        Self {
            sop_instance,
            own_series,
            study,
            patient: ManifestPatient::default(),
            study_date: None,
            study_time: None,
            timezone: None,
            description: None,
            accession: None,
            requests: Vec::new(),
            regions: Vec::new(),
            procedures: Vec::new(),
            series_total: None,
            instance_total: None,
            viewer: None,
            creator: ManifestCreator::default(),
            created: None,
            title: None,
            series: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads a manifest of any form.
    ///
    /// # Errors
    /// As [`Manifest::read_kos`] and [`Manifest::read_fhir`]; [`ManifestError::UnknownForm`] when it is neither.
    pub fn read(bytes: &[u8]) -> Result<(Self, ManifestForm), ManifestError> {
        if bytes.get(128..132) == Some(b"DICM") {
            let (manifest, dialect) = kos_read::read(bytes)?;
            return Ok((manifest, dialect));
        }
        let start = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
        match start.first() {
            Some(b'{') => Ok((Self::read_fhir(start)?, ManifestForm::MadoFhir)),
            _ => Err(ManifestError::UnknownForm),
        }
    }

    /// Instances in all.
    pub fn instance_count(&self) -> usize {
        self.series.iter().map(|s| s.instances.len()).sum()
    }

    /// Instances of the study by what the manifest says: more than are listed where some are not available. Of a series
    /// that is counted and not listed no more is known than that it has one, unless the study's instances are counted too.
    pub fn announced_count(&self) -> usize {
        let unlisted = self.series_total.map_or(0, |total| (total as usize).saturating_sub(self.series.len()));
        (self.counted() + unlisted).max(self.instance_total.map_or(0, |total| total as usize))
    }

    /// Instances of the series that it lists.
    fn counted(&self) -> usize {
        self.series.iter().map(ManifestSeries::announced_count).sum()
    }

    /// A count of the study's instances as far as it says more than the series do.
    fn counts(&mut self, instances: Option<u32>) {
        self.instance_total = instances.filter(|total| *total as usize > self.counted());
    }

    /// What its reader warned of, each kind once and without the UIDs that it is about.
    pub fn oddities(&self) -> BTreeSet<String> {
        self.warnings.iter().map(ManifestWarning::class).collect()
    }

    /// The same as one text.
    pub fn odd(&self) -> String {
        self.oddities().into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Modalities of the series, sorted.
    pub fn modalities(&self) -> Vec<&str> {
        let mut out: Vec<&str> = self.series.iter().filter_map(|s| s.modality.as_deref()).collect();
        out.sort_unstable();
        out.dedup();
        out
    }
}

impl ManifestSeries {
    /// Instances by what the manifest says, or those that it lists.
    pub fn announced_count(&self) -> usize {
        self.total.map_or(0, |total| total as usize).max(self.instances.len())
    }

    /// A series without instances yet.
    pub fn new(series: Uid) -> Self {
        Self {
            series,
            modality: None,
            number: None,
            description: None,
            date: None,
            time: None,
            region: None,
            laterality: None,
            total: None,
            location: None,
            retrieve_url: None,
            ae_title: None,
            instances: Vec::new(),
        }
    }
}

impl ManifestInstance {
    /// An instance.
    pub fn new(sop_class: Uid, sop_instance: Uid) -> Self {
        Self {
            sop_class,
            sop_instance,
            number: None,
            frames: None,
            key_title: None,
            key_description: None,
            marked_by: Vec::new(),
        }
    }
}
