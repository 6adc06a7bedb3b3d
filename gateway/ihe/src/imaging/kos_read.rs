//! Reading a KOS of any of the three dialects.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use dicom_core::Tag;
use dicom_dictionary_std::tags;

use super::dicom::{self, KOS, code, coded, concept, first_code, is_manifest_title, issuer, items, number, text, uid};
use super::{
    IssuedId, MOST_BYTES, MOST_REFERENCES, Manifest, ManifestCreator, ManifestError, ManifestForm, ManifestInstance,
    ManifestPatient, ManifestRequest, ManifestSeries, ManifestWarning as Warning,
};
use crate::dicom::{Begun, Item, Unsound};
use crate::{Coded, Uid};

/// Orders, identifiers, procedures, regions: the lists that are compared one by one.
const MOST_LISTED: usize = 256;

impl Manifest {
    /// Reads a KOS. The evidence tree is the source of truth; what is odd elsewhere is warned about.
    ///
    /// # Errors
    /// Not DICOM, beyond bounds, another SOP class, no usable evidence, too many references.
    pub fn read_kos(bytes: &[u8]) -> Result<Self, ManifestError> {
        read(bytes).map(|(manifest, _)| manifest)
    }
}

/// Inflated bytes of a manifest that are read: it is held beside its tree.
const INFLATED: usize = 16 << 20;

pub(super) fn read(bytes: &[u8]) -> Result<(Manifest, ManifestForm), ManifestError> {
    if bytes.get(128..132) != Some(b"DICM") {
        return Err(ManifestError::NotDicom);
    }
    if bytes.len() > MOST_BYTES {
        return Err(ManifestError::TooMany);
    }
    let begun = Begun::read(bytes, true, INFLATED).and_then(|begun| begun.ok_or(Unsound::Ends));
    let begun = begun.map_err(ManifestError::Unbounded)?;
    let object = begun.tree(u32::MAX, |_| true).and_then(|object| object.ok_or(Unsound::Ends));
    read_object(&object.map_err(ManifestError::Unbounded)?)
}

fn read_object(object: &Item<'_>) -> Result<(Manifest, ManifestForm), ManifestError> {
    if text(object, tags::SOP_CLASS_UID).as_deref() != Some(KOS) {
        return Err(ManifestError::NotKos);
    }
    let mut warnings = Vec::new();
    let studies = items(object, tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE);
    let study_item = studies.first().ok_or(ManifestError::Evidence("no study"))?;
    if studies.len() > 1 {
        warnings.push(Warning::SeveralStudies);
    }
    let study = uid(study_item, tags::STUDY_INSTANCE_UID).ok_or(ManifestError::Evidence("study uid"))?;
    let own = |tag| uid(object, tag).ok_or(ManifestError::Evidence("own uid"));
    let mut manifest = Manifest::new(own(tags::SOP_INSTANCE_UID)?, own(tags::SERIES_INSTANCE_UID)?, study);
    manifest.title = first_code(object, tags::CONCEPT_NAME_CODE_SEQUENCE);
    if !manifest.title.as_ref().is_some_and(|t| is_manifest_title(&t.code)) {
        warnings.push(Warning::Title);
    }
    header(object, &mut manifest, &mut warnings);
    requests(object, &mut manifest, &mut warnings);
    manifest.series = evidence(study_item, &manifest.study, &mut warnings)?;
    manifest.viewer = text(study_item, dicom::DISPLAY_URI).or_else(|| private_viewer(study_item));
    let described = Content { object, warnings: &mut warnings }.describe(&mut manifest);
    manifest.counts(text(object, tags::NUMBER_OF_STUDY_RELATED_INSTANCES).and_then(|n| n.trim().parse().ok()));
    let form = form(&manifest, study_item, described);
    manifest.warnings = warnings;
    Ok((manifest, form))
}

/// Patient, study, equipment, times.
fn header(object: &Item<'_>, manifest: &mut Manifest, warnings: &mut Vec<Warning>) {
    manifest.patient = patient(object, warnings);
    manifest.study_date = date(text(object, tags::STUDY_DATE), warnings);
    manifest.study_time = time(text(object, tags::STUDY_TIME), warnings);
    manifest.timezone = text(object, tags::TIMEZONE_OFFSET_FROM_UTC);
    if manifest.timezone.is_none() {
        warnings.push(Warning::NoTimezone);
    }
    manifest.description = text(object, tags::STUDY_DESCRIPTION);
    manifest.accession = text(object, tags::ACCESSION_NUMBER);
    manifest.created = date(text(object, tags::CONTENT_DATE), warnings)
        .map(|d| d + &time(text(object, tags::CONTENT_TIME), warnings).unwrap_or_default());
    manifest.creator = ManifestCreator {
        manufacturer: text(object, tags::MANUFACTURER),
        model: text(object, tags::MANUFACTURER_MODEL_NAME),
        institution: text(object, tags::INSTITUTION_NAME).map(|value| dicom::institution(&value)),
    };
    if uid(object, tags::STUDY_INSTANCE_UID).is_some_and(|study| study != manifest.study) {
        warnings.push(Warning::StudyDiffers);
    }
}

fn patient(object: &Item<'_>, warnings: &mut Vec<Warning>) -> ManifestPatient {
    let identified = |item: &Item<'_>| {
        Some(IssuedId {
            id: text(item, tags::PATIENT_ID)?,
            issuer: issuer(item, tags::ISSUER_OF_PATIENT_ID_QUALIFIERS_SEQUENCE),
            label: text(item, tags::ISSUER_OF_PATIENT_ID),
        })
    };
    let mut ids: Vec<IssuedId> = identified(object).into_iter().collect();
    if ids.is_empty() {
        warnings.push(Warning::NoPatientId);
    }
    for other in items(object, tags::OTHER_PATIENT_I_DS_SEQUENCE).iter().take(MOST_LISTED).filter_map(identified) {
        if !ids.contains(&other) {
            ids.push(other);
        }
    }
    if ids.iter().any(|id| id.issuer.is_none()) {
        warnings.push(Warning::PatientIdWithoutIssuer);
    }
    ManifestPatient {
        ids,
        name: text(object, tags::PATIENT_NAME),
        birth_date: date(text(object, tags::PATIENT_BIRTH_DATE), warnings),
        sex: text(object, tags::PATIENT_SEX),
    }
}

/// Orders: those of the sequence, else the accession number at the top.
fn requests(object: &Item<'_>, manifest: &mut Manifest, warnings: &mut Vec<Warning>) {
    for item in items(object, tags::REFERENCED_REQUEST_SEQUENCE).iter().take(MOST_LISTED) {
        if uid(item, tags::STUDY_INSTANCE_UID).is_some_and(|study| study != manifest.study) {
            warnings.push(Warning::StudyDiffers);
        }
        let issued = |tag, by| {
            let id = text(item, tag)?;
            Some(IssuedId { id, issuer: issuer(item, by), label: dicom::local_namespace(item, by) })
        };
        let request = ManifestRequest {
            accession: issued(tags::ACCESSION_NUMBER, tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE),
            placer: issued(tags::PLACER_ORDER_NUMBER_IMAGING_SERVICE_REQUEST, tags::ORDER_PLACER_IDENTIFIER_SEQUENCE),
        };
        for procedure in items(item, tags::REQUESTED_PROCEDURE_CODE_SEQUENCE).iter().take(MOST_LISTED).filter_map(coded)
        {
            push_new(&mut manifest.procedures, procedure);
        }
        if let Some(words) = text(item, tags::REQUESTED_PROCEDURE_DESCRIPTION) {
            push_new(&mut manifest.procedures, Coded::new("", "", Some(&words)));
        }
        if request != ManifestRequest::default() && !manifest.requests.contains(&request) {
            manifest.requests.push(request);
        }
    }
    if manifest.requests.is_empty()
        && let Some(id) = manifest.accession.clone()
    {
        let by = tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE;
        let accession = IssuedId { id, issuer: issuer(object, by), label: dicom::local_namespace(object, by) };
        manifest.requests.push(ManifestRequest { accession: Some(accession), placer: None });
    }
}

fn evidence(
    study_item: &Item<'_>,
    study: &Uid,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<ManifestSeries>, ManifestError> {
    let mut out: Vec<ManifestSeries> = Vec::new();
    // Position of a series, and the instances that it lists already.
    let mut known: BTreeMap<Uid, (usize, BTreeSet<Uid>)> = BTreeMap::new();
    let mut titles: BTreeMap<Uid, Coded> = BTreeMap::new();
    let mut repeated = BTreeSet::new();
    let (mut total, mut unusable) = (0, false);
    for item in items(study_item, tags::REFERENCED_SERIES_SEQUENCE) {
        let own = uid(item, tags::SERIES_INSTANCE_UID).ok_or(ManifestError::Evidence("series uid"))?;
        let (at, listed) = match known.entry(own.clone()) {
            Entry::Occupied(entry) => {
                warnings.push(Warning::SeriesRepeated(own));
                entry.into_mut()
            }
            Entry::Vacant(entry) => {
                out.push(series(item, own, study, warnings));
                entry.insert((out.len() - 1, BTreeSet::new()))
            }
        };
        let Some(series) = out.get_mut(*at) else { continue };
        for reference in items(item, tags::REFERENCED_SOP_SEQUENCE) {
            total += 1;
            if total > MOST_REFERENCES {
                return Err(ManifestError::TooMany);
            }
            match instance(reference, &mut titles) {
                None => unusable = true,
                Some(instance) if listed.insert(instance.sop_instance.clone()) => series.instances.push(instance),
                Some(instance) => _ = repeated.insert(instance.sop_instance),
            }
        }
    }
    warnings.extend(repeated.into_iter().map(Warning::Repeated));
    warnings.extend(unusable.then_some(Warning::ReferenceUnusable));
    for series in &mut out {
        if series.instances.is_empty() {
            warnings.push(Warning::EmptySeries(series.series.clone()));
        }
        for instance in &mut series.instances {
            instance.key_title = instance.key_title.take().or_else(|| titles.get(&instance.sop_instance).cloned());
        }
    }
    if out.iter().all(|s| s.instances.is_empty()) {
        return Err(ManifestError::Evidence("no instance"));
    }
    Ok(out)
}

/// A series with what V7e puts beside its references.
fn series(item: &Item<'_>, own: Uid, study: &Uid, warnings: &mut Vec<Warning>) -> ManifestSeries {
    let mut series = ManifestSeries::new(own.clone());
    series.modality = text(item, tags::MODALITY);
    series.number = number(item, tags::SERIES_NUMBER);
    series.description = text(item, tags::SERIES_DESCRIPTION);
    series.date = date(text(item, tags::SERIES_DATE), warnings);
    series.time = time(text(item, tags::SERIES_TIME), warnings);
    let location = text(item, dicom::LOCATION);
    series.location = dicom::location(location.as_deref());
    series.retrieve_url = text(item, tags::RETRIEVE_URL).map(|url| dicom::base_url(&url, study));
    series.ae_title = text(item, tags::RETRIEVE_AE_TITLE);
    match (&location, &series.location, &series.retrieve_url) {
        (Some(_), None, _) => warnings.push(Warning::LocationNotOid(own)),
        (None, _, None) => warnings.push(Warning::NoAddress(own)),
        (None, _, _) => warnings.push(Warning::NoLocation(own)),
        _ => {}
    }
    series
}

/// A reference with what V7e puts beside it; `titles` collects what images say of the notes that mark them.
fn instance(reference: &Item<'_>, titles: &mut BTreeMap<Uid, Coded>) -> Option<ManifestInstance> {
    let mut out = ManifestInstance::new(
        uid(reference, tags::REFERENCED_SOP_CLASS_UID)?,
        uid(reference, tags::REFERENCED_SOP_INSTANCE_UID)?,
    );
    out.number = number(reference, tags::INSTANCE_NUMBER);
    out.frames = number(reference, tags::NUMBER_OF_FRAMES);
    out.key_description =
        items(reference, tags::CONTENT_SEQUENCE).first().and_then(|content| text(content, tags::TEXT_VALUE));
    let notes = items(reference, tags::RELATED_SERIES_SEQUENCE).iter();
    for note in notes.flat_map(|series| items(series, tags::REFERENCED_SOP_SEQUENCE)) {
        let Some(marked_by) = uid(note, tags::REFERENCED_SOP_INSTANCE_UID) else { continue };
        if let Some(title) = first_code(note, tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE) {
            titles.entry(marked_by.clone()).or_insert(title);
        }
        out.marked_by.push(marked_by);
    }
    Some(out)
}

/// MADO's viewer address in its private block.
fn private_viewer(study: &Item<'_>) -> Option<String> {
    let (group, creator) = dicom::MADO_PRIVATE;
    let block = (0x10..=0xFF_u16).find(|b| text(study, Tag(group, *b)).as_deref() == Some(creator))?;
    text(study, Tag(group, block << 8 | 0x01))
}

/// The SR content: MADO's descriptions of study, series and instances.
struct Content<'a> {
    object: &'a Item<'a>,
    warnings: &'a mut Vec<Warning>,
}

impl Content<'_> {
    /// Fills in what the image library says; false without one.
    fn describe(&mut self, manifest: &mut Manifest) -> bool {
        let mut roots = items(self.object, tags::CONTENT_SEQUENCE);
        let nested = roots.iter().find(|r| is_manifest_title(&concept(r)));
        if let Some(inner) = nested.filter(|r| !items(r, tags::CONTENT_SEQUENCE).is_empty()) {
            self.warnings.push(Warning::NestedRoot);
            roots = items(inner, tags::CONTENT_SEQUENCE);
        }
        let libraries: Vec<&Item<'_>> =
            roots.iter().filter(|i| code::IMAGE_LIBRARY.contains(&concept(i).as_str())).collect();
        let of_study = || roots.iter().chain(libraries.iter().flat_map(|l| items(l, tags::CONTENT_SEQUENCE)));
        for item in of_study() {
            let name = concept(item);
            if code::PROCEDURE.contains(&name.as_str()) {
                if let Some(found) = first_code(item, tags::CONCEPT_CODE_SEQUENCE) {
                    push_new(&mut manifest.procedures, found);
                }
            } else if code::REGION.contains(&name.as_str()) {
                if let Some(found) = self.region(item) {
                    push_new(&mut manifest.regions, found);
                }
            } else if code::SERIES.contains(&name.as_str()) {
                manifest.series_total = count(item).map(|(n, _)| n);
            }
        }
        if manifest.series_total.is_some_and(|n| n as usize != manifest.series.len()) {
            self.warnings.push(Warning::SeriesCount);
        }
        let places: BTreeMap<Uid, usize> =
            manifest.series.iter().enumerate().map(|(at, s)| (s.series.clone(), at)).collect();
        let groups = libraries.iter().flat_map(|l| items(l, tags::CONTENT_SEQUENCE));
        for group in groups.filter(|g| code::GROUP.contains(&concept(g).as_str())) {
            self.group(items(group, tags::CONTENT_SEQUENCE), manifest, &places);
        }
        !libraries.is_empty()
    }

    fn region(&mut self, item: &Item<'_>) -> Option<Coded> {
        let (region, odd) = dicom::region(first_code(item, tags::CONCEPT_CODE_SEQUENCE)?);
        if odd && !self.warnings.contains(&Warning::RegionCode) {
            self.warnings.push(Warning::RegionCode);
        }
        Some(region)
    }

    /// One series. Descriptors of an instance stand before it or inside it: both are in circulation.
    fn group(&mut self, content: &[Item<'_>], manifest: &mut Manifest, places: &BTreeMap<Uid, usize>) {
        let named = |codes: &[&str]| content.iter().find(|i| codes.contains(&concept(i).as_str()));
        let Some(id) = named(code::SERIES_UID).and_then(|i| uid(i, tags::UID)) else { return };
        let Some(series) = places.get(&id).and_then(|at| manifest.series.get_mut(*at)) else {
            self.warnings.push(Warning::DescribedOnly(id));
            return;
        };
        let words = |codes: &[&str], tag| named(codes).and_then(|i| text(i, tag));
        let set = |to: &mut Option<String>, value: Option<String>| {
            if to.is_none() {
                *to = value;
            }
        };
        let modality = named(code::MODALITY).and_then(|i| first_code(i, tags::CONCEPT_CODE_SEQUENCE));
        set(&mut series.modality, modality.map(|c| c.code));
        set(&mut series.description, words(code::SERIES_DESCRIPTION, tags::TEXT_VALUE));
        set(&mut series.date, date(words(code::SERIES_DATE, tags::DATE), self.warnings));
        set(&mut series.time, time(words(code::SERIES_TIME, tags::TIME), self.warnings));
        series.number = series.number.or_else(|| named(code::SERIES_NUMBER).and_then(count).map(|(n, _)| n));
        series.laterality = named(code::LATERALITY).and_then(|i| first_code(i, tags::CONCEPT_CODE_SEQUENCE));
        if let Some((total, clean)) = named(code::INSTANCES).and_then(count) {
            series.total = Some(total);
            if !clean {
                self.warnings.push(Warning::NumberAsText(id.clone()));
            }
            if total as usize != series.instances.len() {
                self.warnings.push(Warning::Count(id.clone()));
            }
        }
        let region = named(code::REGION).and_then(|i| self.region(i));
        series.region = region;
        let mut instances: BTreeMap<Uid, &mut ManifestInstance> =
            series.instances.iter_mut().map(|i| (i.sop_instance.clone(), i)).collect();
        let mut before: Vec<&Item<'_>> = Vec::new();
        for item in content {
            let referenced = items(item, tags::REFERENCED_SOP_SEQUENCE).first();
            let Some(referenced) = referenced.and_then(|r| uid(r, tags::REFERENCED_SOP_INSTANCE_UID)) else {
                before.push(item);
                continue;
            };
            if let Some(instance) = instances.get_mut(&referenced) {
                for descriptor in before.iter().copied().chain(items(item, tags::CONTENT_SEQUENCE)) {
                    describe_instance(instance, descriptor);
                }
            }
            before.clear();
        }
    }
}

fn describe_instance(instance: &mut ManifestInstance, item: &Item<'_>) {
    let name = concept(item);
    let name = name.as_str();
    if code::INSTANCE_NUMBER.contains(&name) {
        instance.number = instance.number.or_else(|| count(item).map(|(n, _)| n));
    } else if code::FRAMES.contains(&name) {
        instance.frames = instance.frames.or_else(|| count(item).map(|(n, _)| n));
    } else if code::KEY_TITLE.contains(&name) {
        instance.key_title = first_code(item, tags::CONCEPT_CODE_SEQUENCE);
    } else if code::KEY_DESCRIPTION.contains(&name) {
        instance.key_description = text(item, tags::TEXT_VALUE);
    }
}

/// A number as NUM or TEXT, and whether it stood alone: `(20, UCUM, "instances")` is in circulation.
fn count(item: &Item<'_>) -> Option<(u32, bool)> {
    let measured = items(item, tags::MEASURED_VALUE_SEQUENCE).first().and_then(|m| text(m, tags::NUMERIC_VALUE));
    let value = measured.or_else(|| text(item, tags::TEXT_VALUE))?;
    if let Ok(number) = value.parse() {
        return Some((number, true));
    }
    let digits: String =
        value.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).take(10).collect();
    digits.parse().ok().map(|number| (number, false))
}

/// Title and descriptions tell the dialects apart.
fn form(manifest: &Manifest, study: &Item<'_>, described: bool) -> ManifestForm {
    let title = manifest.title.as_ref().map(|t| t.code.as_str());
    if described || matches!(title, Some("MADOTEMP001" | "ddd001")) {
        return ManifestForm::Mado;
    }
    let attributes = |series: &Item<'_>| {
        let told = [tags::MODALITY, tags::SERIES_DESCRIPTION, tags::SERIES_DATE, tags::SERIES_NUMBER];
        told.into_iter().any(|tag| series.entry(dicom::key(tag)).is_some())
    };
    match items(study, tags::REFERENCED_SERIES_SEQUENCE).iter().any(attributes) {
        true => ManifestForm::XtEhr,
        false => ManifestForm::XdsI,
    }
}

/// `YYYYMMDD`, also when written with points or hyphens.
fn date(value: Option<String>, warnings: &mut Vec<Warning>) -> Option<String> {
    let digits: String = value?.chars().filter(|c| !matches!(c, '.' | '-')).collect();
    let valid = jiff::civil::Date::strptime("%Y%m%d", &digits).is_ok() && digits.len() == 8;
    if !valid {
        warnings.push(Warning::DateTime);
    }
    valid.then_some(digits)
}

/// `HH[MM[SS[.F]]]`, also when written with colons.
fn time(value: Option<String>, warnings: &mut Vec<Warning>) -> Option<String> {
    let digits: String = value?.chars().filter(|c| *c != ':').collect();
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let number = |at: usize| whole.get(at..at + 2).map(|p| p.parse::<u8>().ok());
    let within = |part: Option<Option<u8>>, most: u8| part.is_none_or(|p| p.is_some_and(|p| p <= most));
    let valid = matches!(whole.len(), 2 | 4 | 6)
        && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
        && within(number(0), 23)
        && within(number(2), 59)
        && within(number(4), 60)
        && fraction.len() <= 6;
    if !valid {
        warnings.push(Warning::DateTime);
    }
    valid.then_some(digits)
}

fn push_new(all: &mut Vec<Coded>, one: Coded) {
    if all.len() < MOST_LISTED && !all.contains(&one) {
        all.push(one);
    }
}
