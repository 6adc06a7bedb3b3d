//! What two manifests, or a manifest and its images, do not have in common; and the loss of a conversion.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use super::dicom::{KOS, first_code, is_manifest_title, key, number, text, uid};
use super::{
    IssuedId, Issuer, KosDialect, MadoCodes, Manifest, ManifestError, ManifestForm, ManifestInstance, ManifestSeries,
};
use crate::dicom::{Begun, PatientClaim, Unsound, patient};
use crate::{Coded, Uid};

/// What of a manifest a difference is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Field {
    SopInstance,
    OwnSeries,
    Study,
    PatientId,
    PatientIdIssuer,
    PatientName,
    BirthDate,
    Sex,
    StudyDate,
    StudyTime,
    Timezone,
    StudyDescription,
    TopAccession,
    Request,
    Region,
    Procedure,
    SeriesTotal,
    StudyInstances,
    Viewer,
    Manufacturer,
    Model,
    Institution,
    InstitutionId,
    Created,
    Series,
    Modality,
    SeriesNumber,
    SeriesDescription,
    SeriesDate,
    SeriesTime,
    BodySite,
    Laterality,
    InstanceTotal,
    LocationUid,
    RetrieveUrl,
    RetrieveAeTitle,
    Instance,
    SopClass,
    InstanceNumber,
    Frames,
    KeyTitle,
    KeyDescription,
    MarkedBy,
}

impl Field {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SopInstance => "manifest's SOP instance UID",
            Self::OwnSeries => "manifest's series instance UID",
            Self::Study => "study instance UID",
            Self::PatientId => "patient id",
            Self::PatientIdIssuer => "name of the issuer of the patient id",
            Self::PatientName => "patient name",
            Self::BirthDate => "birth date",
            Self::Sex => "sex",
            Self::StudyDate => "study date",
            Self::StudyTime => "study time",
            Self::Timezone => "timezone offset",
            Self::StudyDescription => "study description",
            Self::TopAccession => "accession number at the top",
            Self::Request => "order (accession and placer number)",
            Self::Region => "anatomical region",
            Self::Procedure => "procedure",
            Self::SeriesTotal => "number of series",
            Self::StudyInstances => "number of instances of the study",
            Self::Viewer => "viewer address",
            Self::Manufacturer => "creator's manufacturer",
            Self::Model => "creator's model",
            Self::Institution => "creator's institution",
            Self::InstitutionId => "id of the creator's institution",
            Self::Created => "content date and time",
            Self::Series => "series",
            Self::Modality => "modality",
            Self::SeriesNumber => "series number",
            Self::SeriesDescription => "series description",
            Self::SeriesDate => "series date",
            Self::SeriesTime => "series time",
            Self::BodySite => "body site",
            Self::Laterality => "laterality",
            Self::InstanceTotal => "number of instances",
            Self::LocationUid => "retrieve location UID",
            Self::RetrieveUrl => "retrieve URL",
            Self::RetrieveAeTitle => "retrieve AE title",
            Self::Instance => "instance",
            Self::SopClass => "SOP class UID",
            Self::InstanceNumber => "instance number",
            Self::Frames => "number of frames",
            Self::KeyTitle => "key object title",
            Self::KeyDescription => "key object description",
            Self::MarkedBy => "key object note that marks the image",
        }
    }
}

/// Where in a manifest: the study, one of its series, one of its instances.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Series Instance UID.
    pub series: Option<Uid>,
    /// SOP Instance UID.
    pub instance: Option<Uid>,
}

/// One thing that two manifests do not have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub place: Place,
    /// What.
    pub field: Field,
    /// Values of the first that the second has not.
    pub was: Vec<String>,
    /// Values of the second that the first has not.
    pub is: Vec<String>,
}

impl fmt::Display for Difference {
    /// Without values: they may be the patient's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (self.was.is_empty(), self.is.is_empty()) {
            (false, true) => "lost",
            (true, false) => "added",
            _ => "changed",
        };
        write!(f, "{} {how}", self.field.as_str())?;
        match (&self.place.instance, &self.place.series) {
            (Some(instance), _) => write!(f, " (instance {instance})"),
            (None, Some(series)) => write!(f, " (series {series})"),
            (None, None) => Ok(()),
        }
    }
}

/// A manifest in another form.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The document.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub media_type: &'static str,
    /// What does not come back when it is read: what that form cannot say.
    pub losses: Vec<Difference>,
}

impl Manifest {
    /// Writes the manifest in a form and reads it back: what does not come back is lost.
    ///
    /// # Errors
    /// [`ManifestError::Write`], or that of reading what was written.
    pub fn convert(&self, form: ManifestForm, codes: MadoCodes) -> Result<Converted, ManifestError> {
        let bytes = match form {
            ManifestForm::XdsI => self.write_kos(KosDialect::XdsI)?,
            ManifestForm::XtEhr => self.write_kos(KosDialect::XtEhr)?,
            ManifestForm::Mado => self.write_kos(KosDialect::Mado(codes))?,
            ManifestForm::MadoFhir => self.write_fhir()?,
        };
        let (again, _) = Self::read(&bytes)?;
        let losses = self.differences(&again).into_iter().filter(|d| !d.was.is_empty()).collect();
        Ok(Converted { bytes, media_type: form.media_type(), losses })
    }

    /// What this manifest and another do not have in common. Order does not count, nor do title and warnings.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let (mut ours, mut theirs) = (self.facts(), other.facts());
        let mut out = Vec::new();
        let mut keys: BTreeSet<(Place, Field)> = ours.keys().cloned().collect();
        keys.extend(theirs.keys().cloned());
        for key in keys {
            let (ours, theirs) = (ours.remove(&key).unwrap_or_default(), theirs.remove(&key).unwrap_or_default());
            if ours != theirs {
                let was = ours.difference(&theirs).cloned().collect();
                let is = theirs.difference(&ours).cloned().collect();
                out.push(Difference { place: key.0, field: key.1, was, is });
            }
        }
        out
    }

    /// The manifest as statements.
    fn facts(&self) -> Facts {
        let mut out = Facts::new();
        let mut say = |place: &Place, field: Field, value: Option<String>| {
            if let Some(value) = value {
                out.entry((place.clone(), field)).or_default().insert(value);
            }
        };
        let study = Place::default();
        say(&study, Field::SopInstance, Some(self.sop_instance.to_string()));
        say(&study, Field::OwnSeries, Some(self.own_series.to_string()));
        say(&study, Field::Study, Some(self.study.to_string()));
        for id in &self.patient.ids {
            say(&study, Field::PatientId, Some(issued(id)));
            say(&study, Field::PatientIdIssuer, id.label.clone());
        }
        say(&study, Field::PatientName, self.patient.name.clone());
        say(&study, Field::BirthDate, self.patient.birth_date.clone());
        say(&study, Field::Sex, self.patient.sex.clone());
        say(&study, Field::StudyDate, self.study_date.clone());
        say(&study, Field::StudyTime, self.study_time.as_deref().map(clock));
        say(&study, Field::Timezone, self.timezone.clone());
        say(&study, Field::StudyDescription, self.description.clone());
        say(&study, Field::TopAccession, self.accession.clone());
        for request in &self.requests {
            let part = |id: &Option<IssuedId>| id.as_ref().map(issued).unwrap_or_default();
            say(&study, Field::Request, Some(format!("{} {}", part(&request.accession), part(&request.placer))));
        }
        self.regions.iter().for_each(|r| say(&study, Field::Region, Some(coded(r))));
        self.procedures.iter().for_each(|p| say(&study, Field::Procedure, Some(coded(p))));
        say(&study, Field::SeriesTotal, self.series_total.map(|n| n.to_string()));
        say(&study, Field::StudyInstances, self.instance_total.map(|n| n.to_string()));
        say(&study, Field::Viewer, self.viewer.clone());
        say(&study, Field::Manufacturer, self.creator.manufacturer.clone());
        say(&study, Field::Model, self.creator.model.clone());
        let institution = self.creator.institution.as_ref();
        say(&study, Field::Institution, institution.map(|i| i.name.clone()));
        say(&study, Field::InstitutionId, institution.and_then(|i| i.id.as_ref()).map(issued));
        let created = self.created.as_deref().and_then(|c| c.split_at_checked(8));
        say(&study, Field::Created, created.map(|(date, time)| format!("{date} {}", clock(time))));
        for series in &self.series {
            series_facts(series, &mut say);
        }
        out
    }

    /// Where images disagree with their manifest, each kind once with the instances concerned.
    pub fn compare_images(&self, images: &[ImageFacts]) -> Vec<Disagreement> {
        let mut found: BTreeMap<(Field, Option<String>, Option<String>), Vec<Uid>> = BTreeMap::new();
        let mut say = |field: Field, manifest: Option<String>, image: Option<String>, instance: &Uid| {
            found.entry((field, manifest, image)).or_default().push(instance.clone());
        };
        let listed: BTreeMap<&Uid, (&ManifestSeries, &ManifestInstance)> =
            self.series.iter().flat_map(|s| s.instances.iter().map(move |i| (&i.sop_instance, (s, i)))).collect();
        let there: BTreeSet<&Uid> = images.iter().map(|i| &i.sop_instance).collect();
        for uid in listed.keys().filter(|uid| !there.contains(**uid)) {
            say(Field::Instance, Some("listed".into()), None, uid);
        }
        let accessions: Vec<&str> =
            self.requests.iter().filter_map(|r| r.accession.as_ref()).map(|a| a.id.as_str()).collect();
        let ids: Vec<&str> = self.patient.ids.iter().map(|id| id.id.as_str()).collect();
        for image in images {
            let at = &image.sop_instance;
            let mut pair = |field: Field, ours: Option<String>, theirs: Option<String>| {
                if let (Some(_), Some(_)) = (&ours, &theirs)
                    && ours != theirs
                {
                    say(field, ours, theirs, at);
                }
            };
            pair(Field::Study, Some(self.study.to_string()), Some(image.study.to_string()));
            pair(Field::StudyDate, self.study_date.clone(), image.study_date.clone());
            pair(Field::BirthDate, self.patient.birth_date.clone(), given(&image.patient.birth_date));
            let id = given(&image.patient.id);
            let not_among = |known: &[&str], value: &Option<String>| {
                let value = value.as_ref().filter(|v| !known.is_empty() && !known.contains(&v.as_str()))?;
                Some((known.join(", "), value.clone()))
            };
            for (field, known, value) in
                [(Field::Request, &accessions, &image.accession), (Field::PatientId, &ids, &id)]
            {
                if let Some((ours, theirs)) = not_among(known, value) {
                    pair(field, Some(ours), Some(theirs));
                }
            }
            let Some((series, instance)) = listed.get(at) else {
                say(Field::Instance, None, Some("there".into()), at);
                continue;
            };
            pair(Field::Series, Some(series.series.to_string()), Some(image.series.to_string()));
            pair(Field::Modality, series.modality.clone(), image.modality.clone());
            pair(Field::SeriesNumber, text_of(series.number), text_of(image.series_number));
            pair(Field::SeriesDescription, series.description.clone(), image.series_description.clone());
            pair(Field::SeriesDate, series.date.clone(), image.series_date.clone());
            pair(Field::SopClass, Some(instance.sop_class.to_string()), Some(image.sop_class.to_string()));
            pair(Field::InstanceNumber, text_of(instance.number), text_of(image.number));
            pair(Field::Frames, text_of(instance.frames), text_of(image.frames));
        }
        let disagreement = |((field, manifest, images), instances)| Disagreement { field, manifest, images, instances };
        found.into_iter().map(disagreement).collect()
    }
}

type Facts = BTreeMap<(Place, Field), BTreeSet<String>>;

fn series_facts(series: &ManifestSeries, say: &mut impl FnMut(&Place, Field, Option<String>)) {
    let at = Place { series: Some(series.series.clone()), instance: None };
    say(&at, Field::Series, Some(series.series.to_string()));
    say(&at, Field::Modality, series.modality.clone());
    say(&at, Field::SeriesNumber, text_of(series.number));
    say(&at, Field::SeriesDescription, series.description.clone());
    say(&at, Field::SeriesDate, series.date.clone());
    say(&at, Field::SeriesTime, series.time.as_deref().map(clock));
    say(&at, Field::BodySite, series.region.as_ref().map(coded));
    say(&at, Field::Laterality, series.laterality.as_ref().map(coded));
    say(&at, Field::InstanceTotal, text_of(series.total));
    say(&at, Field::LocationUid, series.location.as_ref().map(ToString::to_string));
    say(&at, Field::RetrieveUrl, series.retrieve_url.as_deref().map(|u| u.trim_end_matches('/').to_owned()));
    say(&at, Field::RetrieveAeTitle, series.ae_title.clone());
    for instance in &series.instances {
        let at = Place { series: at.series.clone(), instance: Some(instance.sop_instance.clone()) };
        say(&at, Field::Instance, Some(instance.sop_instance.to_string()));
        say(&at, Field::SopClass, Some(instance.sop_class.to_string()));
        say(&at, Field::InstanceNumber, text_of(instance.number));
        say(&at, Field::Frames, text_of(instance.frames));
        say(&at, Field::KeyTitle, instance.key_title.as_ref().map(coded));
        say(&at, Field::KeyDescription, instance.key_description.clone());
        instance.marked_by.iter().for_each(|note| say(&at, Field::MarkedBy, Some(note.to_string())));
    }
}

/// Codes are the same by code and scheme; text is the same by its words.
fn coded(code: &Coded) -> String {
    match code.code.is_empty() {
        true => code.display.clone().unwrap_or_default(),
        false => format!("{} {}", code.code, code.system),
    }
}

fn issued(id: &IssuedId) -> String {
    match &id.issuer {
        Some(Issuer::Oid(oid)) => format!("{} of {oid}", id.id),
        Some(Issuer::Uri(uri)) => format!("{} of {uri}", id.id),
        None => id.id.clone(),
    }
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn text_of(number: Option<u32>) -> Option<String> {
    number.map(|n| n.to_string())
}

/// A time with seconds and without trailing zeros of its fraction.
fn clock(time: &str) -> String {
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    match fraction.trim_end_matches('0') {
        "" => format!("{whole:0<6}"),
        fraction => format!("{whole:0<6}.{fraction}"),
    }
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// SOP Instance UID.
    pub sop_instance: Uid,
    /// SOP Class UID.
    pub sop_class: Uid,
    /// Study Instance UID.
    pub study: Uid,
    /// Series Instance UID.
    pub series: Uid,
    /// Study Date.
    pub study_date: Option<String>,
    /// Study Time.
    pub study_time: Option<String>,
    /// Study Description.
    pub study_description: Option<String>,
    /// Timezone Offset From UTC.
    pub timezone: Option<String>,
    /// Series Date.
    pub series_date: Option<String>,
    /// Accession Number.
    pub accession: Option<String>,
    /// Modality.
    pub modality: Option<String>,
    /// Series Number.
    pub series_number: Option<u32>,
    /// Series Description.
    pub series_description: Option<String>,
    /// Instance Number.
    pub number: Option<u32>,
    /// Number of Frames.
    pub frames: Option<u32>,
    /// Whose it is.
    pub patient: PatientClaim,
    /// (0002,0010)
    pub transfer_syntax: String,
}

/// What the first bytes of an object are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// An image, or another object that is part of its study.
    Image(Box<ImageFacts>),
    /// A manifest.
    Manifest,
    /// What is read goes on behind these bytes.
    More,
}

/// Bytes of a header that are looked at, first and at most.
const FIRST: u64 = 16 << 10;
const HEADER: u64 = 1 << 20;
/// Number of Frames (0028,0008) is the last of what is read.
const BEHIND_FRAMES: Tag = Tag(0x0028, 0x0009);
/// The document title of a KOS.
const BEHIND_TITLE: Tag = Tag(0x0040, 0xA044);

impl ImageFacts {
    /// Bytes of an object within which all of this stands.
    pub const MOST: usize = HEADER as usize;

    /// Reads the header of a Part 10 object; `None` for a manifest, which is no part of its study.
    ///
    /// # Errors
    /// Not DICOM, beyond bounds, or without UIDs.
    pub fn read(mut object: impl Read) -> Result<Option<Self>, ManifestError> {
        let mut bytes = Vec::new();
        let mut enough = FIRST;
        loop {
            let wanted = enough - bytes.len() as u64;
            let read = object.by_ref().take(wanted).read_to_end(&mut bytes).map_err(|_| ManifestError::NotDicom)?;
            let whole = (read as u64) < wanted;
            match Self::parse(&bytes, whole)? {
                Parsed::Image(facts) => return Ok(Some(*facts)),
                Parsed::Manifest => return Ok(None),
                Parsed::More if !whole && enough < HEADER => enough = (enough * 4).min(HEADER),
                Parsed::More => return Err(ManifestError::Unbounded(Unsound::Ends)),
            }
        }
    }

    /// Reads the first bytes of an object; `whole` when there are no more.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(bytes: &[u8], whole: bool) -> Result<Parsed, ManifestError> {
        let begun = Begun::read(bytes, whole, HEADER as usize).map_err(ManifestError::Unbounded)?;
        let Some(begun) = begun else { return Ok(Parsed::More) };
        let tree = |until: Tag| {
            let wanted = |tag: u32| tag <= key(BEHIND_FRAMES) || tag == key(tags::CONCEPT_NAME_CODE_SEQUENCE);
            begun.tree(key(until), wanted).map_err(ManifestError::Unbounded)
        };
        let Some(object) = tree(BEHIND_FRAMES)? else { return Ok(Parsed::More) };
        let own = |tag| uid(&object, tag).ok_or(ManifestError::Evidence("uid"));
        let sop_class = own(tags::SOP_CLASS_UID)?;
        if sop_class.as_str() == KOS {
            // The title of a manifest lies behind what is read of an image.
            let Some(titled) = tree(BEHIND_TITLE)? else { return Ok(Parsed::More) };
            let title = first_code(&titled, tags::CONCEPT_NAME_CODE_SEQUENCE);
            if title.is_some_and(|t| is_manifest_title(&t.code)) {
                return Ok(Parsed::Manifest);
            }
        }
        Ok(Parsed::Image(Box::new(Self {
            sop_instance: own(tags::SOP_INSTANCE_UID)?,
            sop_class,
            study: own(tags::STUDY_INSTANCE_UID)?,
            series: own(tags::SERIES_INSTANCE_UID)?,
            study_date: text(&object, tags::STUDY_DATE),
            study_time: text(&object, tags::STUDY_TIME),
            study_description: text(&object, tags::STUDY_DESCRIPTION),
            timezone: text(&object, tags::TIMEZONE_OFFSET_FROM_UTC),
            series_date: text(&object, tags::SERIES_DATE),
            accession: text(&object, tags::ACCESSION_NUMBER),
            modality: text(&object, tags::MODALITY),
            series_number: number(&object, tags::SERIES_NUMBER),
            series_description: text(&object, tags::SERIES_DESCRIPTION),
            number: number(&object, tags::INSTANCE_NUMBER),
            frames: number(&object, tags::NUMBER_OF_FRAMES),
            patient: patient(&object).map_err(ManifestError::Unbounded)?,
            transfer_syntax: begun.syntax.clone(),
        })))
    }
}

/// Where images disagree with their manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// In what. [`Field::Instance`]: listed and not there, or there and not listed.
    pub field: Field,
    /// What the manifest says.
    pub manifest: Option<String>,
    /// What the images say.
    pub images: Option<String>,
    /// Which images.
    pub instances: Vec<Uid>,
}

impl fmt::Display for Disagreement {
    /// Without values: they may be the patient's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.instances.len();
        match (self.field, &self.manifest, &self.images) {
            (Field::Instance, Some(_), _) => write!(f, "{count} instances are listed and not there"),
            (Field::Instance, None, _) => write!(f, "{count} instances are there and not listed"),
            (field, ..) => write!(f, "{} differs in {count} instances", field.as_str()),
        }
    }
}
