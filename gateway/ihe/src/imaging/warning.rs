//! What real manifests get wrong and is read nevertheless.

use std::fmt;

use crate::Uid;

/// An error of a manifest that was tolerated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestWarning {
    /// The document title is not that of a manifest: it may be meant as a key object note.
    Title,
    /// MADO's codes stand one level too deep, under a container that repeats the title.
    NestedRoot,
    /// More than one study; the first was taken.
    SeveralStudies,
    /// The study named at the top or in a request is not that of the evidence.
    StudyDiffers,
    /// No Retrieve Location UID: the series cannot be asked for by RAD-69 or RAD-75.
    NoLocation(Uid),
    /// Retrieve Location UID that is no OID.
    LocationNotOid(Uid),
    /// Neither Retrieve URL nor Retrieve Location UID.
    NoAddress(Uid),
    /// An instance listed more than once in its series.
    Repeated(Uid),
    /// A series listed more than once; its instances were put together.
    SeriesRepeated(Uid),
    /// A series without usable instances.
    EmptySeries(Uid),
    /// A reference whose UIDs are none was left out.
    ReferenceUnusable,
    /// The series says another number of instances than it lists.
    Count(Uid),
    /// The study says another number of series than are listed.
    SeriesCount,
    /// A number that is written as text around it.
    NumberAsText(Uid),
    /// Patient ID without an issuer.
    PatientIdWithoutIssuer,
    /// Patient ID is missing.
    NoPatientId,
    /// Dates and times without an offset from UTC.
    NoTimezone,
    /// A SNOMED CT region under another scheme, or a superseded code of it.
    RegionCode,
    /// Described in the SR content, absent from the evidence.
    DescribedOnly(Uid),
    /// The document's identifier is not a UID; one was derived from it.
    IdentifierNotUid,
    /// A FHIR document of another type than `document`.
    BundleType,
    /// A date or time that is none.
    DateTime,
}

impl ManifestWarning {
    /// Whether something of the study may be missing, beside what the counts say.
    pub fn leaves_out(&self) -> bool {
        matches!(self, Self::SeveralStudies | Self::EmptySeries(_) | Self::ReferenceUnusable | Self::DescribedOnly(_))
    }

    /// Its name, without the UIDs that it is about.
    pub fn class(&self) -> String {
        let mut name = format!("{self:?}");
        name.truncate(name.find('(').unwrap_or(name.len()));
        name
    }
}

impl fmt::Display for ManifestWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Title => write!(f, "document title is not that of a manifest"),
            Self::NestedRoot => write!(f, "content stands under a second root container"),
            Self::SeveralStudies => write!(f, "more than one study, the first is used"),
            Self::StudyDiffers => {
                write!(f, "study instance uid differs inside the manifest, that of the evidence is used")
            }
            Self::NoLocation(series) => write!(f, "no retrieve location uid in series {series}"),
            Self::LocationNotOid(series) => write!(f, "retrieve location uid is no oid in series {series}"),
            Self::NoAddress(series) => write!(f, "neither retrieve url nor location uid in series {series}"),
            Self::Repeated(instance) => write!(f, "instance {instance} is listed more than once"),
            Self::SeriesRepeated(series) => write!(f, "series {series} is listed more than once"),
            Self::EmptySeries(series) => write!(f, "no usable instance in series {series}"),
            Self::ReferenceUnusable => write!(f, "a reference without usable uids was left out"),
            Self::Count(series) => write!(f, "number of instances differs from those listed in series {series}"),
            Self::SeriesCount => write!(f, "number of series differs from those listed"),
            Self::NumberAsText(series) => write!(f, "number written as text in series {series}"),
            Self::PatientIdWithoutIssuer => write!(f, "patient id without issuer"),
            Self::NoPatientId => write!(f, "no patient id"),
            Self::NoTimezone => write!(f, "no timezone offset"),
            Self::RegionCode => write!(f, "region code under another scheme, or superseded"),
            Self::DescribedOnly(series) => write!(f, "series {series} is described, but not in the evidence"),
            Self::IdentifierNotUid => write!(f, "document identifier is no uid, one was derived"),
            Self::BundleType => write!(f, "bundle is no document"),
            Self::DateTime => write!(f, "a date or time is unusable"),
        }
    }
}
