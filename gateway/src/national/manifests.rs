//! Manifests made on the fly out of what an archive lists: deterministic, since `hash` must fit at every call.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use ncp_ihe::{
    Availability, Coded, DocumentEntry, DocumentRequest, Dtm, EntryType, KosDialect, MadoCodes, Manifest,
    ManifestInstance, ManifestPatient, ManifestSeries, Oid, PatientId, ReferenceId, StudyRequest, Uid,
};
use serde::Deserialize;

use super::{LocatedInstance, LocatedStudy, Missing, Omission};
use crate::patient_key::Person;

/// A study as its archive lists it.
pub(crate) struct IndexedStudy {
    pub(crate) study: Uid,
    /// The national patient; `None` when the archive's id fits nobody.
    pub(crate) patient: Option<PatientId>,
    pub(crate) facts: ManifestPatient,
    /// As the archive writes it, which may be no date.
    pub(crate) study_date: Option<String>,
    /// Likewise.
    pub(crate) study_time: Option<String>,
    pub(crate) timezone: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) accession: Option<String>,
    /// Sorted by SOP Instance UID.
    pub(crate) instances: Vec<IndexedInstance>,
    /// Instances that the archive itself counts (0020,1208), listed or not; 0 where it does not.
    pub(crate) counted: usize,
    /// The entry of the manifest that is made of it, without hash and size, once it was asked for.
    pub(crate) described: OnceLock<Option<DocumentEntry>>,
    /// Instances that the archive has and that cannot be had here.
    pub(crate) left_out: Vec<LeftOut>,
}

/// An instance that is there and is not available.
pub(crate) struct LeftOut {
    pub(crate) series: Uid,
    pub(crate) sop_instance: Uid,
}

/// An instance as its archive lists it.
pub(crate) struct IndexedInstance {
    pub(crate) sop_instance: Uid,
    pub(crate) sop_class: Uid,
    pub(crate) series: Uid,
    pub(crate) series_number: Option<u32>,
    pub(crate) series_description: Option<String>,
    pub(crate) modality: Option<String>,
    pub(crate) number: Option<u32>,
    pub(crate) frames: Option<u32>,
    /// Where the archive says it.
    pub(crate) transfer_syntax: Option<Uid>,
    /// File and its bytes, where the archive is a folder.
    pub(crate) file: Option<(PathBuf, u64)>,
    /// Names another patient than its study: never served.
    pub(crate) withheld: bool,
}

impl IndexedStudy {
    pub(crate) fn instance(&self, sop_instance: &str) -> Option<&IndexedInstance> {
        let found = self.instances.binary_search_by(|i| i.sop_instance.as_str().cmp(sop_instance)).ok()?;
        self.instances.get(found)
    }

    pub(crate) fn sort(&mut self) {
        self.instances.sort_by(|a, b| a.sop_instance.cmp(&b.sop_instance));
    }

    /// Whether any of its instances can be had.
    pub(crate) fn is_available(&self) -> bool {
        self.instances.iter().any(|i| !i.withheld)
    }

    /// How many of its instances are listed, and how many there are; none where that is the same.
    pub(crate) fn fewer(&self) -> Option<Omission> {
        let listed = self.instances.iter().filter(|i| !i.withheld).count();
        let counted = self.total();
        (listed < counted).then_some(Omission::Fewer { listed, counted })
    }

    /// Its date, where the archive tells one that can be read.
    fn day(&self) -> Option<Dtm> {
        self.study_date.as_deref().and_then(Dtm::of_dicom_date)
    }

    /// Its time, likewise.
    fn time(&self) -> Option<&str> {
        self.study_time.as_deref().filter(|time| is_time(time))
    }

    /// Whether the archive tells a date or a time that cannot be read.
    pub(crate) fn undated(&self) -> Option<Omission> {
        let no_date = self.study_date.is_some() && self.day().is_none();
        let no_time = self.study_time.is_some() && self.time().is_none();
        (no_date || no_time).then_some(Omission::StudyDate)
    }

    /// Instances that exist, as far as anybody says.
    fn total(&self) -> usize {
        self.counted.max(self.instances.len() + self.left_out.len())
    }

    /// Instances of a series that exist, available or not.
    fn count_of(&self, series: &Uid) -> usize {
        let listed = self.instances.iter().filter(|i| i.series == *series).count();
        listed + self.left_out.iter().filter(|l| l.series == *series).count()
    }

    fn count_of_series(&self) -> usize {
        let left_out = self.left_out.iter().map(|l| &l.series);
        self.instances.iter().map(|i| &i.series).chain(left_out).collect::<BTreeSet<_>>().len()
    }

    /// By series, number, UID: the order of a manifest.
    fn in_order(&self) -> Vec<&IndexedInstance> {
        let mut out: Vec<&IndexedInstance> = self.instances.iter().collect();
        out.sort_by_key(|&i| (i.series_number, &i.series, i.number, &i.sop_instance));
        out
    }

    /// What of a request the archive has.
    pub(crate) fn locate(indexed: Option<&Self>, study: &StudyRequest, syntaxes: &[Uid]) -> LocatedStudy {
        let mut out = LocatedStudy {
            study: study.study.clone(),
            patient: indexed.and_then(|s| s.patient.clone()),
            instances: Vec::new(),
            missing: Vec::new(),
            modalities: indexed.map(|s| s.modalities()).unwrap_or_default(),
            study_date: indexed.and_then(|s| s.study_date.clone()),
            manifests: Vec::new(),
            patient_ids: Vec::new(),
            person: Person::default(),
            transfer_syntaxes: syntaxes.to_vec(),
        };
        for series in &study.series {
            for request in &series.instances {
                let found = indexed.and_then(|s| s.instance(&request.document)).filter(|i| i.series == series.series);
                match found {
                    None => out.missing.push((request.clone(), Missing::Unknown)),
                    Some(instance) if instance.withheld => out.missing.push((request.clone(), Missing::Mismatch)),
                    Some(instance) if instance.transfer_syntax.as_ref().is_some_and(|s| !syntaxes.contains(s)) => {
                        out.missing.push((request.clone(), Missing::TransferSyntax));
                    }
                    Some(instance) => out.instances.push(located(request, instance)),
                }
            }
        }
        out
    }

    pub(crate) fn modalities(&self) -> Vec<String> {
        let mut out: Vec<String> = self.instances.iter().filter_map(|i| i.modality.clone()).collect();
        out.sort();
        out.dedup();
        out
    }
}

fn located(request: &DocumentRequest, instance: &IndexedInstance) -> LocatedInstance {
    LocatedInstance {
        request: request.clone(),
        series: instance.series.clone(),
        sop_class: Some(instance.sop_class.clone()),
        transfer_syntax: instance.transfer_syntax.clone(),
        size: instance.file.as_ref().map(|(_, size)| *size),
    }
}

/// A code in a TOML file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Code {
    code: String,
    system: String,
    display: Option<String>,
}

impl From<&Code> for Coded {
    fn from(code: &Code) -> Self {
        Self::new(&code.code, &code.system, code.display.as_deref())
    }
}

/// `manifest.toml`: the codes of manifests made here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestCodes {
    class: Code,
    #[serde(rename = "type")]
    kind: Code,
    practice_setting: Code,
    facility_type: Code,
    confidentiality: Vec<Code>,
}

impl ManifestCodes {
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        toml::from_str(&text).map_err(|e| format!("{}: {}", path.display(), e.message()))
    }
}

/// Whether a time of day is one (PS3.5 6.2, TM); what is none goes into no manifest.
fn is_time(text: &str) -> bool {
    let digits = text.split('.').next().unwrap_or_default().trim_end();
    matches!(digits.len(), 2 | 4 | 6) && Dtm::parse(&format!("20000101{digits}")).is_ok()
}

/// What the manifests of an archive say of it.
pub(crate) struct ManifestSite {
    /// What people call the archive.
    pub(crate) name: String,
    /// repositoryUniqueId of its manifests.
    pub(crate) repository: Oid,
    /// Retrieve Location UID of its series.
    pub(crate) location: Oid,
    /// Root of UIDs made here.
    pub(crate) uid_root: Oid,
    /// Zone of dates without an offset.
    pub(crate) zone: TimeZone,
    /// Language of the country's documents.
    pub(crate) language: String,
    /// Codes of the entries.
    pub(crate) codes: ManifestCodes,
}

impl ManifestSite {
    /// The manifest of a study and its entry; the same at every call.
    pub(crate) fn document(&self, study: &IndexedStudy, patient: PatientId) -> Result<(DocumentEntry, Bytes), String> {
        let manifest = self.manifest(study)?;
        let bytes = manifest
            .write_kos(KosDialect::Mado(MadoCodes::default()))
            .map_err(|e| format!("{}: manifest: {e}", self.name))?;
        Ok((self.entry(study, patient, &manifest, &bytes), bytes.into()))
    }

    /// What the entry of a study's manifest tells of the study; `None` of a study of nobody, which has no manifest.
    pub(crate) fn description<'a>(&self, study: &'a IndexedStudy) -> Option<&'a DocumentEntry> {
        let described = || {
            let (patient, manifest) = (study.patient.clone()?, self.manifest(study).ok()?);
            Some(self.entry(study, patient, &manifest, &[]))
        };
        study.described.get_or_init(described).as_ref()
    }

    fn manifest(&self, study: &IndexedStudy) -> Result<Manifest, String> {
        let mut series: Vec<ManifestSeries> = Vec::new();
        let listed = study.in_order();
        for instance in listed.iter().filter(|i| !i.withheld) {
            let one = ManifestInstance {
                number: instance.number,
                frames: instance.frames,
                ..ManifestInstance::new(instance.sop_class.clone(), instance.sop_instance.clone())
            };
            match series.iter_mut().find(|s| s.series == instance.series) {
                Some(known) => known.instances.push(one),
                None => series.push(ManifestSeries {
                    modality: instance.modality.clone(),
                    number: instance.series_number,
                    description: instance.series_description.clone(),
                    location: Some(self.location.clone()),
                    instances: vec![one],
                    ..ManifestSeries::new(instance.series.clone())
                }),
            }
        }
        // What is there and not available is counted, so that whoever reads the manifest knows that it is not whole.
        let whole = study.fewer().is_none();
        for one in series.iter_mut().filter(|_| !whole) {
            one.total = u32::try_from(study.count_of(&one.series)).ok();
        }
        let started = started(study, &self.zone);
        // Required by MADO: the images' own, else the zone's at that instant.
        let at = started.clone().unwrap_or_else(|| Timestamp::UNIX_EPOCH.to_zoned(self.zone.clone()));
        let timezone = at.strftime("%z").to_string();
        let mut content: Vec<&str> = listed.iter().map(|i| i.sop_instance.as_str()).collect();
        content.extend(study.left_out.iter().map(|l| l.sop_instance.as_str()));
        let withheld = listed.iter().filter(|i| i.withheld).map(|i| i.sop_instance.as_str());
        content.extend(withheld);
        let total = study.total();
        // What the archive counts and does not list is a part of what the manifest says.
        let unlisted = (total > study.instances.len() + study.left_out.len()).then(|| total.to_string());
        content.extend(unlisted.as_deref());
        let ids =
            study.facts.ids.iter().map(|issued| format!("{}^{}", issued.id, issued.label.as_deref().unwrap_or("")));
        let ids = ids.collect::<Vec<_>>().join(" ");
        let own = |what: &str| self.derived_uid(&[study.study.as_str(), what, &content.join(" "), &timezone, &ids]);
        let (sop_instance, own_series) = (own("manifest")?, own("series")?);
        Ok(Manifest {
            timezone: Some(timezone),
            patient: study.facts.clone(),
            study_date: study.day().map(|day| day.to_string()),
            study_time: study.time().map(ToOwned::to_owned),
            description: study.description.clone(),
            accession: study.accession.clone(),
            created: started.map(|at| at.strftime("%Y%m%d%H%M%S").to_string()),
            series_total: if whole { None } else { u32::try_from(study.count_of_series()).ok() },
            instance_total: if whole { None } else { u32::try_from(total).ok() },
            series,
            ..Manifest::new(sop_instance, own_series, study.study.clone())
        })
    }

    /// A UID under the configured root, from a digest. The first part, the study, can be told from it ([`Self::is_of`]), so
    /// that opening a manifest asks about its own study only.
    fn derived_uid(&self, parts: &[&str]) -> Result<Uid, String> {
        let study = number(parts.first().copied().unwrap_or_default()) >> CONTENT_BITS;
        let content = number(&parts.join("/")) & ((1 << CONTENT_BITS) - 1);
        let text = format!("{}.{}", self.uid_root, study << CONTENT_BITS | content);
        Uid::parse(&text).map_err(|_| format!("{}: uid_root leaves no room for UIDs", self.name))
    }

    /// Whether a manifest of that study may have this uniqueId, whatever the study held when it was made.
    pub(crate) fn is_of(&self, unique_id: &str, study: &Uid) -> bool {
        let digits = unique_id.strip_prefix(self.uid_root.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let found = digits.and_then(|digits| digits.parse::<u64>().ok());
        found.is_some_and(|found| found >> CONTENT_BITS == number(study.as_str()) >> CONTENT_BITS)
    }

    /// DocumentEntry of a KOS.
    fn entry(&self, study: &IndexedStudy, patient_id: PatientId, manifest: &Manifest, bytes: &[u8]) -> DocumentEntry {
        let codes = &self.codes;
        let started = started(study, &self.zone).map(|at| Dtm::of(at.timestamp()));
        let mut reference_ids = vec![ReferenceId::study(&study.study)];
        reference_ids
            .extend(study.accession.as_ref().map(|a| ReferenceId::accession(a, Some(self.repository.clone()))));
        DocumentEntry {
            entry_uuid: entry_uuid(manifest.sop_instance.as_str()),
            unique_id: manifest.sop_instance.to_string(),
            home: None,
            repository_unique_id: self.repository.clone(),
            availability: Availability::Approved,
            entry_type: EntryType::Stable,
            source_patient_id: Some(patient_id.clone()),
            patient_id,
            source_patient_info: Vec::new(),
            class_code: (&codes.class).into(),
            type_code: (&codes.kind).into(),
            format_code: Coded::new(
                "1.2.840.10008.5.1.4.1.1.88.59",
                "1.2.840.10008.2.6.1",
                Some("Key Object Selection Document"),
            ),
            practice_setting: (&codes.practice_setting).into(),
            facility_type: (&codes.facility_type).into(),
            confidentiality: codes.confidentiality.iter().map(Into::into).collect(),
            event_codes: study
                .modalities()
                .into_iter()
                .filter(|m| !matches!(m.as_str(), "KO" | "PR"))
                .map(|m| Coded::new(&m, Coded::MODALITIES, Some(&m)))
                .collect(),
            language: self.language.clone(),
            mime_type: "application/dicom".into(),
            title: study.description.clone(),
            comments: None,
            creation_time: started.clone().or_else(|| Dtm::parse(UNDATED).ok()),
            service_start: started,
            service_stop: None,
            hash: Some(hex::encode(openssl::sha::sha1(bytes))),
            size: Some(bytes.len() as u64),
            reference_ids,
            authors: Vec::new(),
            legal_authenticator: None,
            extra_slots: Vec::new(),
        }
    }
}

/// What an entry says that must have a creationTime (ITI TF-3: table 4.2.3.2-1) of which nobody knows any.
pub(crate) const UNDATED: &str = "1970";

/// Of the number in a UID made here, the part that stands for what a study holds; the part above stands for the study.
const CONTENT_BITS: u32 = 44;

/// Eight bytes of a digest.
fn number(text: &str) -> u64 {
    let digest = openssl::sha::sha256(text.as_bytes());
    digest[..8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Study Date and Time: by the object's own offset, else by the archive's zone.
fn started(study: &IndexedStudy, zone: &TimeZone) -> Option<Zoned> {
    let date = study.day()?;
    let time: String = study.time().unwrap_or_default().chars().take_while(char::is_ascii_digit).take(6).collect();
    let local = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", format!("{date}{time:0<6}")).ok()?;
    let zone = match study.timezone.as_deref().and_then(offset) {
        Some(offset) => TimeZone::fixed(offset),
        None => zone.clone(),
    };
    local.to_zoned(zone).ok()
}

/// `+0200`
fn offset(text: &str) -> Option<jiff::tz::Offset> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, text.get(1..)?),
        b'-' => (-1, text.get(1..)?),
        _ => return None,
    };
    let hours: i32 = digits.get(..2)?.parse().ok()?;
    let minutes: i32 = digits.get(2..4)?.parse().ok()?;
    jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// The same entryUUID at every start.
pub(crate) fn entry_uuid(unique_id: &str) -> String {
    let digest = openssl::sha::sha256(unique_id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().urn().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive that counts more instances than it lists has a manifest that says so, and is another object than one that
    /// is whole.
    #[test]
    fn im_08_what_is_counted_and_not_listed_is_in_the_manifest() {
        let made = |counted| of_study(&IndexedStudy { counted, ..study(Some("20260115"), None) });
        let (whole, fewer, more) = (made(1), made(3), made(0));
        assert_eq!((whole.instance_total, more.instance_total, fewer.instance_total), (None, None, Some(3)));
        assert_eq!(fewer.announced_count(), 3);
        assert_eq!(whole.sop_instance, more.sop_instance);
        assert_ne!(whole.sop_instance, fewer.sop_instance);
    }

    /// What is told and cannot be read is said; what is not told is not.
    #[test]
    fn im_08_a_date_that_cannot_be_read_is_named() {
        for (date, time, right) in [
            (Some("20260115"), Some("093000.5"), None),
            (Some("2026.01.15"), None, None),
            (None, None, None),
            (Some("2026-01-15"), Some("093000"), Some(Omission::StudyDate)),
            (Some("20261301"), None, Some(Omission::StudyDate)),
            (Some("20260115"), Some("9:30"), Some(Omission::StudyDate)),
        ] {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let study = IndexedStudy { study_date: own(date), study_time: own(time), ..study(None, None) };
            assert_eq!(study.undated(), right, "{date:?} {time:?}");
        }
    }

    fn manifest(date: Option<&str>, timezone: Option<&str>) -> Manifest {
        of_study(&study(date, timezone))
    }

    fn of_study(study: &IndexedStudy) -> Manifest {
        let code = || Code { code: "1".into(), system: "2.999.1".into(), display: None };
        let site = ManifestSite {
            name: "archive".into(),
            repository: Oid::parse("2.999.47.21.1").expect("an OID"),
            location: Oid::parse("2.999.47.21.1").expect("an OID"),
            uid_root: Oid::parse("2.999.47.31").expect("an OID"),
            zone: TimeZone::get("Europe/Oslo").expect("a zone"),
            language: "nb-NO".into(),
            codes: ManifestCodes {
                class: code(),
                kind: code(),
                practice_setting: code(),
                facility_type: code(),
                confidentiality: vec![code()],
            },
        };
        let patient = PatientId::parse_cx("1^^^&2.999.2&ISO").expect("a CX");
        let (entry, bytes) = site.document(study, patient).expect("a manifest");
        let (again, _) = site.document(study, entry.patient_id.clone()).expect("a manifest");
        assert_eq!(again.hash, entry.hash);
        let manifest = Manifest::read_kos(&bytes).expect("a KOS");
        if let (Some(start), Some(offset), Some(date)) = (&entry.service_start, &manifest.timezone, study.day()) {
            let local = format!("{date}093000{offset}");
            let at = jiff::Zoned::strptime("%Y%m%d%H%M%S%z", &local).expect("an instant");
            assert_eq!(*start, Dtm::of(at.timestamp()));
        }
        manifest
    }

    fn study(date: Option<&str>, timezone: Option<&str>) -> IndexedStudy {
        let uid = |text: &str| Uid::parse(text).expect("a UID");
        IndexedStudy {
            study: uid("2.999.1"),
            patient: None,
            facts: ManifestPatient::default(),
            study_date: date.map(str::to_owned),
            study_time: Some("093000.5".into()),
            timezone: timezone.map(str::to_owned),
            description: None,
            accession: None,
            left_out: Vec::new(),
            counted: 0,
            instances: vec![IndexedInstance {
                sop_instance: uid("2.999.1.1.1"),
                sop_class: uid("1.2.840.10008.5.1.4.1.1.2"),
                series: uid("2.999.1.1"),
                series_number: None,
                series_description: None,
                modality: None,
                number: None,
                frames: None,
                transfer_syntax: None,
                file: None,
                withheld: false,
            }],
            described: OnceLock::new(),
        }
    }

    #[test]
    fn every_manifest_says_its_offset() {
        let of = |date, timezone| manifest(date, timezone).timezone;
        assert_eq!(of(Some("20260115"), None).as_deref(), Some("+0100"));
        assert_eq!(of(Some("20260715"), None).as_deref(), Some("+0200"));
        assert_eq!(of(Some("20260115"), Some("-0530")).as_deref(), Some("-0530"));
        assert_eq!(of(Some("20260115"), Some("local")).as_deref(), Some("+0100"));
        assert_eq!(of(None, None).as_deref(), Some("+0100"));
        let of = |date| manifest(Some(date), None).study_date;
        assert_eq!((of("2026.01.15").as_deref(), of("2026-01-15")), (Some("20260115"), None));
        // With another offset it is another object.
        let uid = |timezone| manifest(Some("20260115"), timezone).sop_instance;
        assert_ne!(uid(Some("+0200")), uid(None));
    }
}
