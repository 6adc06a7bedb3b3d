//! Reading the headers of a folder of DICOM files.
//!
//! What is DICOM is said by `DICM` at 128, not by a name (PS3.10 7.1). A file is looked at by the same walk as one that
//! comes over the wire: no more of it is held than its header, and a length beyond the file or too deep a nesting is
//! noticed before anything is made of it. A file that is left out has a line with its path and the reason, and its study
//! says that it is not whole.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ncp_ihe::imaging::{ImageFacts, Parsed};
use ncp_ihe::{ManifestError, ManifestPatient, PatientId, StructureScan, Uid, Unsound};
use walkdir::WalkDir;

use crate::national::Omission;
use crate::national::manifests::{IndexedInstance, IndexedStudy, LeftOut};
use crate::national::patients::{Authority, Patients, Whose};
use crate::telemetry::Metrics;

/// Bytes read at once.
const READ: usize = 64 << 10;

/// A folder while it is read.
pub(crate) struct Scan<'a> {
    pub(crate) connector: &'a str,
    pub(crate) patients: &'a Patients,
    pub(crate) authority: &'a Authority,
    pub(crate) metrics: &'a Metrics,
}

/// What was found in a folder.
#[derive(Default)]
struct Index {
    /// Objects by study.
    found: BTreeMap<Uid, Vec<Found>>,
    /// Where each SOP Instance UID was first met.
    seen: BTreeMap<Uid, Seen>,
    /// What was left out, by study.
    left_out: BTreeMap<Uid, Vec<LeftOut>>,
}

/// An object that can be had.
struct Found {
    facts: ImageFacts,
    patient: Option<PatientId>,
    path: PathBuf,
    size: u64,
}

struct Seen {
    path: PathBuf,
    /// Whether another object has the same UID.
    two: bool,
}

/// Why a file is left out.
enum Cause {
    /// It cannot be read from the disk.
    Unreadable(std::io::ErrorKind),
    /// It is no object, or a broken one; what it is part of, where that could be read.
    Broken(ManifestError, Option<Box<ImageFacts>>),
    /// A manifest of the archive's own: those sent are made here.
    Manifest,
    /// Somebody else's under a known id.
    Stranger(&'static str, Box<ImageFacts>),
    /// Its SOP Instance UID is that of another object.
    TwoUnderOneId(Box<ImageFacts>),
}

impl Cause {
    /// A word for the counter.
    fn class(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Broken(ManifestError::Unbounded(Unsound::Prefix), _) => "no-dicom",
            Self::Broken(..) => "broken",
            Self::Manifest => "manifest",
            Self::Stranger(..) => Omission::OtherPatient.class(),
            Self::TwoUnderOneId(_) => Omission::TwoUnderOneId.class(),
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Unreadable(kind) => format!("cannot be read: {kind}"),
            Self::Broken(error, _) => error.to_string(),
            Self::Manifest => "a manifest of the archive; manifests are made by the gateway".into(),
            Self::Stranger(why, _) => (*why).into(),
            Self::TwoUnderOneId(_) => "two different objects have its SOP Instance UID; neither is available".into(),
        }
    }
}

impl Scan<'_> {
    /// Reads all headers under the folder.
    ///
    /// # Errors
    /// The folder itself cannot be read.
    pub(crate) fn studies(&self, folder: &Path) -> Result<BTreeMap<Uid, IndexedStudy>, String> {
        std::fs::read_dir(folder).map_err(|e| format!("cannot scan {}: {e}", folder.display()))?;
        let mut index = Index::default();
        for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
            match entry {
                Ok(entry) if entry.file_type().is_file() => self.file(&mut index, entry.path()),
                Ok(_) => {}
                Err(error) => {
                    let kind = error.io_error().map_or(std::io::ErrorKind::Other, std::io::Error::kind);
                    self.leave_out(error.path().unwrap_or(folder), &Cause::Unreadable(kind));
                }
            }
        }
        Ok(self.put_together(index))
    }

    fn file(&self, index: &mut Index, path: &Path) {
        match self.read(index, path) {
            Ok(None) => {}
            Ok(Some(found)) => index.found.entry(found.facts.study.clone()).or_default().push(found),
            Err(cause) => {
                self.leave_out(path, &cause);
                if let Cause::Broken(_, Some(facts)) | Cause::Stranger(_, facts) | Cause::TwoUnderOneId(facts) = cause {
                    let left_out = LeftOut { series: facts.series, sop_instance: facts.sop_instance };
                    index.left_out.entry(facts.study).or_default().push(left_out);
                }
            }
        }
    }

    /// Reads a file; none when the same object was read before.
    fn read(&self, index: &mut Index, path: &Path) -> Result<Option<Found>, Cause> {
        let (facts, size) = read(path)?;
        let patient = match self.patients.whose(&facts.patient, self.authority) {
            Whose::Person(id, _) => Some(id.clone()),
            Whose::Nobody => None,
            Whose::Stranger(why) => return Err(Cause::Stranger(why, Box::new(facts))),
        };
        match index.seen.entry(facts.sop_instance.clone()) {
            Entry::Vacant(place) => {
                place.insert(Seen { path: path.to_owned(), two: false });
                Ok(Some(Found { facts, patient, path: path.to_owned(), size }))
            }
            // The same object twice is one; two objects under one UID are none (PS3.5 9).
            Entry::Occupied(seen) if same(&seen.get().path, path).unwrap_or(false) => Ok(None),
            Entry::Occupied(mut seen) => {
                seen.get_mut().two = true;
                Err(Cause::TwoUnderOneId(Box::new(facts)))
            }
        }
    }

    /// The studies, each of the one person whose objects it has.
    fn put_together(&self, Index { found, seen, mut left_out }: Index) -> BTreeMap<Uid, IndexedStudy> {
        let mut out = BTreeMap::new();
        for (uid, mut found) in found {
            let mut left_out = left_out.remove(&uid).unwrap_or_default();
            let is_two = |one: &Found| seen.get(&one.facts.sop_instance).is_some_and(|seen| seen.two);
            for twin in found.extract_if(.., |one| is_two(one)) {
                left_out
                    .push(LeftOut { series: twin.facts.series.clone(), sop_instance: twin.facts.sop_instance.clone() });
                self.leave_out(&twin.path, &Cause::TwoUnderOneId(Box::new(twin.facts)));
            }
            let mut persons: Vec<&PatientId> = found.iter().filter_map(|one| one.patient.as_ref()).collect();
            persons.sort();
            persons.dedup();
            let patient = if let [one] = persons[..] { Some(one.clone()) } else { None };
            let several = persons.len() > 1;
            for one in found.iter().filter(|one| several || patient.is_some() && one.patient != patient) {
                let why = if several {
                    "its study has objects of several persons"
                } else {
                    "it names another patient than its study"
                };
                self.leave_out(&one.path, &Cause::Stranger(why, Box::new(one.facts.clone())));
            }
            if let Some(study) = self.study(found, patient, left_out) {
                out.insert(uid, study);
            }
        }
        out
    }

    fn study(&self, found: Vec<Found>, patient: Option<PatientId>, left_out: Vec<LeftOut>) -> Option<IndexedStudy> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let ImageFacts {
            study, study_date, study_time, timezone, study_description, accession, patient: claim, ..
        } = found.iter().find(|one| one.patient == patient).or(found.first())?.facts.clone();
        let mut out = IndexedStudy {
            study,
            facts: ManifestPatient {
                ids: patient.as_ref().map(|id| self.patients.issued_ids(id, self.authority)).unwrap_or_default(),
                name: given(&claim.name),
                birth_date: given(&claim.birth_date),
                sex: given(&claim.sex),
            },
            study_date,
            study_time,
            timezone,
            description: study_description,
            accession,
            instances: Vec::new(),
            counted: 0,
            left_out,
            patient,
            described: OnceLock::new(),
        };
        for Found { facts, patient, path, size } in found {
            out.instances.push(IndexedInstance {
                sop_instance: facts.sop_instance,
                sop_class: facts.sop_class,
                series: facts.series,
                series_number: facts.series_number,
                series_description: facts.series_description,
                modality: facts.modality,
                number: facts.number,
                frames: facts.frames,
                transfer_syntax: Uid::parse(&facts.transfer_syntax).ok(),
                file: Some((path, size)),
                withheld: out.patient != patient,
            });
        }
        out.sort();
        Some(out)
    }

    fn leave_out(&self, path: &Path, cause: &Cause) {
        self.metrics.left_out(self.connector, cause.class(), 1);
        let (connector, file, reason) = (self.connector, path.display(), cause.reason());
        match cause {
            Cause::Manifest => tracing::info!(connector, %file, reason, "file left out"),
            _ => tracing::warn!(connector, %file, reason, "file left out"),
        }
    }
}

/// Reads a file: what it says of itself, once all of it was found sound.
fn read(path: &Path) -> Result<(ImageFacts, u64), Cause> {
    let unreadable = |error: std::io::Error| Cause::Unreadable(error.kind());
    let mut file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut structure = StructureScan::new(Some(size));
    let (mut head, mut piece) = (Vec::new(), vec![0; READ]);
    let mut facts = None;
    let mut at = 0;
    loop {
        let taken = file.read(&mut piece).map_err(unreadable)?;
        let ended = taken == 0;
        if facts.is_none() {
            head.extend_from_slice(&piece[..taken]);
            match ImageFacts::parse(&head, ended || at + taken as u64 == size) {
                Ok(Parsed::Image(image)) => facts = Some(image),
                Ok(Parsed::Manifest) => return Err(Cause::Manifest),
                Ok(Parsed::More) if !ended && head.len() < ImageFacts::MOST => {}
                Ok(Parsed::More) => return Err(Cause::Broken(ManifestError::Unbounded(Unsound::Ends), None)),
                Err(error) => return Err(Cause::Broken(error, None)),
            }
        }
        let broken = |error| Cause::Broken(ManifestError::Unbounded(error), facts.clone());
        structure.push(&piece[..taken]).map_err(broken)?;
        at += taken as u64;
        if ended {
            structure.finish().map_err(broken)?;
            break;
        }
        // Pixels are not looked at, so they are not read.
        let ahead = structure.ahead();
        if facts.is_some() && ahead > READ as u64 {
            at = file.seek(SeekFrom::Start(at + ahead)).map_err(unreadable)?;
            structure.skip(ahead).map_err(broken)?;
        }
    }
    match facts {
        Some(facts) => Ok((*facts, size)),
        None => Err(Cause::Broken(ManifestError::NotDicom, None)),
    }
}

/// Whether two files have the same bytes.
fn same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; READ], vec![0; READ]);
    loop {
        let taken = one.read(&mut a)?;
        if taken == 0 {
            return Ok(true);
        }
        other.read_exact(&mut b[..taken])?;
        if a[..taken] != b[..taken] {
            return Ok(false);
        }
    }
}
