//! Studies as their archive lists them now. Each study is read for itself: one that fails is named, one that is slow is
//! named as being read, goes on being read, and is there when it is asked for again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, StreamExt};
use ncp_ihe::{ManifestPatient, PatientClaim, PatientId, Uid};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::archive::Archive;
use super::http::Failure;
use super::json::{self, Found};
use super::search::{Matches, Search};
use crate::national::manifests::{IndexedInstance, IndexedStudy};
use crate::national::patients::{Authority, Patients, Whose};
use crate::national::{NationalError, Omission, Omitted, Unit};
use crate::recent::Recent;

/// All but the unreserved characters of RFC 3986; Orthanc does not decode what needs no encoding.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Attributes that QIDO need not return unless asked. Those of the patient's id say whose id it is (PS3.3 C.2.2).
const STUDY_FIELDS: &str = "00080005,00080020,00080030,00080050,00080201,00081030,00100010,00100020,00100021,00100024,00100030,00100040,00101002,00201208";
const SERIES_FIELDS: &str = "00080060,0008103E,00200011";
const INSTANCE_FIELDS: &str = "00080016,00080018,00080060,0008103E,00083002,00100020,00100021,00100024,00100030,00101002,\
                               0020000E,00200011,00200013,00280008";
/// Instances whose attributes are asked for one by one when the search lacks them.
const COMPLETED: usize = 1000;
/// Studies that are being read at once, slow ones among them.
const READING: usize = 512;
/// The longest that a study is read.
const LONGEST: Duration = Duration::from_secs(300);
/// How long a slow study is used without being read again, as long as the archive counts as many instances.
const SLOW_LIFE: Duration = Duration::from_secs(1800);

/// A study as its archive lists it.
pub(super) struct Listed {
    pub(super) study: IndexedStudy,
    /// What the archive says of the study.
    facts: Found,
}

type Read = Result<Option<Arc<Listed>>, NationalError>;
type Reading = Shared<BoxFuture<'static, Read>>;

/// Reads one archive.
pub(super) struct Reader {
    pub(super) archive: Archive,
    pub(super) patients: Arc<Patients>,
    pub(super) authority: Authority,
    /// Requests at once for one study; studies read at once.
    pub(super) parallel: usize,
    /// Time in which a list must be there.
    patience: Duration,
    /// A study is asked for in batches, so its list is kept for as long as that takes.
    recent: Recent<Uid, Listed>,
    /// Studies that took long.
    slow: Recent<Uid, Listed>,
    reading: Mutex<HashMap<Uid, Reading>>,
    /// A study is read in a lane of the first kind for its share of the time, then in one of the second: the slow do
    /// not stand in the way of the others.
    lanes: Semaphore,
    slow_lanes: Semaphore,
}

/// The studies of a patient.
#[derive(Default)]
pub(super) struct Studies {
    pub(super) listed: Vec<Arc<Listed>>,
    pub(super) omitted: Vec<Omitted>,
    pub(super) failed: Vec<NationalError>,
}

impl Reader {
    pub(super) fn new(
        archive: Archive,
        (patients, authority): (Arc<Patients>, Authority),
        parallel: usize,
        patience: Duration,
    ) -> Self {
        Self {
            archive,
            patients,
            authority,
            parallel,
            // What is not there in time is said in time.
            patience: patience.mul_f32(0.8),
            recent: Recent::default(),
            slow: Recent::lasting(SLOW_LIFE),
            reading: Mutex::default(),
            lanes: Semaphore::new(parallel),
            slow_lanes: Semaphore::new(parallel),
        }
    }

    pub(super) fn connector(&self) -> &str {
        self.archive.http.way().connector()
    }

    /// When an answer that begins now must be there.
    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Studies of a person, under all ids by which the archive may know her.
    pub(super) async fn studies_of(self: &Arc<Self>, patient: &PatientId) -> Studies {
        let until = self.deadline();
        let mut out = Studies::default();
        let Some(known) = self.patients.get(patient) else { return out };
        let mut facts: HashMap<Uid, Found> = HashMap::new();
        let locals: BTreeSet<&str> = known.local_ids.iter().map(|local| local.id.as_str()).collect();
        let searches = locals.iter().map(|local| self.search_of(local, until));
        for (local, found) in locals.iter().zip(futures_util::future::join_all(searches).await) {
            match found {
                Ok(Matches { found, unlisted }) => {
                    if unlisted > 0 {
                        out.omitted.push(Omitted::new(self.connector(), Unit::Unnamed(unlisted), Omission::NotListed));
                    }
                    // A wildcard in an id, or an archive that matches loosely, must not widen the search.
                    let theirs = found.into_iter().filter(|f| f.patient_id.get() == Some(*local));
                    facts.extend(theirs.filter_map(|f| Some((f.study.uid()?, f))));
                }
                Err(error) => out.failed.push(error),
            }
        }
        self.read_all(facts, until, &mut out).await;
        out
    }

    async fn search_of(&self, local: &str, until: Instant) -> Result<Matches, NationalError> {
        let id = percent_encoding::utf8_percent_encode(local, RESERVED);
        let resource = format!("/studies?PatientID={id}");
        let search = Search { resource, fields: STUDY_FIELDS, about: local, absent_is_none: true, until, once: false };
        let found = timeout_at(until, self.archive.studies(&search)).await;
        Ok(found.map_err(|_| Failure::Unreachable("archive did not list the studies in time"))??)
    }

    /// Reads studies at the same time, each for itself.
    async fn read_all(self: &Arc<Self>, facts: HashMap<Uid, Found>, until: Instant, out: &mut Studies) {
        let omitted = |uid, reason| Omitted::new(self.connector(), Unit::Study(uid), reason);
        let mut pending = futures_util::stream::FuturesUnordered::new();
        for (uid, facts) in facts {
            if let Some(known) = self.known_slow(&uid, &facts) {
                out.take(known, self.connector());
                continue;
            }
            match self.reading(facts) {
                Some(reading) => pending.push(async move { (uid, timeout_at(until, reading).await) }),
                None => out.omitted.push(omitted(uid, Omission::BeingRead)),
            }
        }
        while let Some((uid, read)) = pending.next().await {
            match read {
                Ok(Ok(Some(listed))) => out.take(listed, self.connector()),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    let (connector, host) = (self.connector(), self.archive.http.host());
                    let unit = crate::national::omitted::digest(uid.as_str());
                    tracing::warn!(connector, host, unit, reason = %error, "archive cannot list a study");
                    out.omitted.push(omitted(uid, Omission::NotListed));
                }
                Err(_) => out.omitted.push(omitted(uid, Omission::BeingRead)),
            }
        }
        // The order of an answer does not depend on how fast each study was.
        out.listed.sort_by(|a, b| a.study.study.cmp(&b.study.study));
    }

    /// The study of a person that is meant, of those that the archive lists for her: nothing but the list is asked for.
    pub(super) async fn study_among(
        &self,
        patient: &PatientId,
        is_meant: impl Fn(&Uid) -> bool,
    ) -> Result<Option<Found>, NationalError> {
        let Some(known) = self.patients.get(patient) else { return Ok(None) };
        let until = self.deadline();
        let locals: BTreeSet<&str> = known.local_ids.iter().map(|local| local.id.as_str()).collect();
        for local in locals {
            let found = self.search_of(local, until).await?.found;
            let theirs = found.into_iter().filter(|f| f.patient_id.get() == Some(local));
            let mut meant = theirs.filter(|f| f.study.uid().is_some_and(|uid| is_meant(&uid)));
            if let Some(facts) = meant.next() {
                return Ok(Some(facts));
            }
        }
        Ok(None)
    }

    /// A study as it was listed a moment ago, or is now.
    pub(super) async fn study(self: &Arc<Self>, study: &Uid) -> Read {
        let until = self.deadline();
        if let Some(known) = self.recently(study) {
            return Ok(Some(known));
        }
        let resource = format!("/studies?StudyInstanceUID={study}");
        let about = study.as_str();
        let search = Search { resource, fields: STUDY_FIELDS, about, absent_is_none: true, until, once: false };
        let slow = || NationalError::down("archive did not list the study in time");
        let found = timeout_at(until, self.archive.studies(&search)).await.map_err(|_| slow())??.found;
        let Some(facts) = found.into_iter().find(|f| f.study.uid().as_ref() == Some(study)) else { return Ok(None) };
        self.study_of(facts, until).await
    }

    /// A study as it was listed a moment ago.
    pub(super) fn recently(&self, study: &Uid) -> Option<Arc<Listed>> {
        self.recent.get(study)
    }

    /// The study of which the archive says this, read now if it must be.
    pub(super) async fn read_now(self: &Arc<Self>, facts: Found) -> Read {
        match facts.study.uid().and_then(|uid| self.recently(&uid)) {
            Some(known) => Ok(Some(known)),
            None => self.study_of(facts, self.deadline()).await,
        }
    }

    async fn study_of(self: &Arc<Self>, facts: Found, until: Instant) -> Read {
        let slow = || NationalError::down("archive did not list the study in time");
        let Some(study) = facts.study.uid() else { return Ok(None) };
        if let Some(known) = self.known_slow(&study, &facts) {
            return Ok(Some(known));
        }
        let reading = self.reading(facts).ok_or(NationalError::Busy(None))?;
        timeout_at(until, reading).await.map_err(|_| slow())?
    }

    /// A study that took long, as long as the archive says the same of it and counts its instances.
    fn known_slow(&self, study: &Uid, facts: &Found) -> Option<Arc<Listed>> {
        self.slow.get(study).filter(|known| known.facts == *facts && facts.study_instances.number().is_some())
    }

    /// Joins the reading of a study, or begins it; `None` when too many are being read.
    fn reading(self: &Arc<Self>, facts: Found) -> Option<Reading> {
        let uid = facts.study.uid()?;
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = reading.get(&uid) {
            return Some(known.clone());
        }
        if reading.len() >= READING {
            return None;
        }
        let (reader, own) = (self.clone(), uid.clone());
        // The task ends its own place in the list, which it cannot before the place is taken: the lock is held.
        let task = tokio::spawn(async move {
            let place = Place { reader: &reader, uid: own };
            let read = reader.read(facts).await;
            drop(place);
            read
        });
        let ended = |_| Err(NationalError::down("reading a study ended early"));
        let shared = task.map(move |read| read.unwrap_or_else(ended)).boxed().shared();
        reading.insert(uid, shared.clone());
        Some(shared)
    }

    /// Reads a study for its share of the time, and on beside the others when it is slow.
    async fn read(&self, facts: Found) -> Read {
        let began = Instant::now();
        let until = began + LONGEST;
        let share = self.patience / 4;
        let ended = |_| NationalError::down("reading a study ended early");
        let mut work = Box::pin(self.listed(facts, until));
        let lane = self.lanes.acquire().await.map_err(ended)?;
        let read = match timeout(share, &mut work).await {
            Ok(read) => read,
            Err(_) => {
                drop(lane);
                let _lane = self.slow_lanes.acquire().await.map_err(ended)?;
                let late = |_| NationalError::down("archive did not list a study in time");
                timeout_at(until, work).await.map_err(late)?
            }
        };
        if let Ok(Some(listed)) = &read {
            let (uid, units) = (listed.study.study.clone(), listed.study.instances.len());
            self.recent.put(uid.clone(), listed.clone(), units);
            if began.elapsed() > share {
                self.slow.put(uid, listed.clone(), units);
            }
        }
        read
    }

    /// A study with its instances. One that names no patient is nobody's and is not served.
    async fn listed(&self, facts: Found, until: Instant) -> Read {
        let Some(study) = facts.study.uid().filter(|_| facts.patient_id.get().is_some()) else { return Ok(None) };
        let mut out = self.whose(&facts, study.clone());
        let series = self.series_of(&study, until).await?;
        let counted = facts.study_instances.number().unwrap_or(0) as usize;
        let (instances, mut left_out) = self.instances_of(&study, &series, counted, until).await?;
        for one in instances {
            let of = series.iter().find(|s| s.series.uid().is_some() && s.series == one.series);
            match instance(&one, of, |claim| self.is_of(&out, claim, &facts)) {
                Some(instance) => out.instances.push(instance),
                None => left_out += 1,
            }
        }
        // Instances and series that it listed without what they need, or failed to list, are counted as well.
        out.counted = counted.max(out.instances.len() + left_out);
        if out.instances.is_empty() && out.counted > 0 {
            return Err(Failure::Unreadable("archive lists no instance of a study that can be asked for").into());
        }
        out.sort();
        Ok(Some(Arc::new(Listed { study: out, facts })))
    }

    /// The study and its patient, without instances.
    fn whose(&self, facts: &Found, study: Uid) -> IndexedStudy {
        let patient = match facts.claim() {
            Some(claim) => self.patient_of(&claim).map_err(|reason| (Omission::OtherPatient, reason.to_owned())),
            None => Err((Omission::Issuer, Omission::Issuer.to_string())),
        };
        let patient = patient.unwrap_or_else(|(omission, reason)| {
            let (connector, unit) = (self.connector(), crate::national::omitted::digest(study.as_str()));
            self.archive.http.way().left_out(omission);
            tracing::warn!(connector, unit, reason, "study left out");
            None
        });
        IndexedStudy {
            study,
            facts: ManifestPatient {
                // Objects keep the ids that they had before the archive merged patients.
                ids: patient.as_ref().map(|id| self.patients.issued_ids(id, &self.authority)).unwrap_or_default(),
                name: facts.patient_name.owned(),
                birth_date: facts.birth_date.owned(),
                sex: facts.sex.owned(),
            },
            study_date: facts.study_date.one(),
            study_time: facts.study_time.one(),
            timezone: facts.timezone.owned(),
            description: facts.study_description.owned(),
            accession: facts.accession.owned(),
            instances: Vec::new(),
            counted: 0,
            described: OnceLock::new(),
            left_out: Vec::new(),
            patient,
        }
    }

    /// Whether an instance is of its study's patient. One that says no issuer has that of the study; one whose issuer cannot
    /// be read is nobody's.
    fn is_of(&self, study: &IndexedStudy, claim: Option<PatientClaim>, facts: &Found) -> bool {
        let Some((claim, of_study)) = claim.zip(facts.claim()) else { return false };
        let says_none = claim.namespaces.is_empty() && claim.universals.is_empty();
        let claim = if says_none && claim.id == of_study.id { of_study } else { claim };
        self.patient_of(&claim).is_ok_and(|patient| patient == study.patient)
    }

    /// The person of the register whom an answer means, if any; why it is somebody else's.
    fn patient_of(&self, claim: &PatientClaim) -> Result<Option<PatientId>, &'static str> {
        match self.patients.whose(claim, &self.authority) {
            Whose::Person(id, _) => Ok(Some(id.clone())),
            Whose::Nobody => Ok(None),
            Whose::Stranger(why) => Err(why),
        }
    }

    /// The series of a study; none when the archive has no such resource, since its instances name theirs.
    async fn series_of(&self, study: &Uid, until: Instant) -> Result<Vec<Found>, Failure> {
        let search = Search {
            resource: format!("/studies/{study}/series"),
            fields: SERIES_FIELDS,
            about: study.as_str(),
            absent_is_none: true,
            until,
            once: false,
        };
        match self.archive.search(&search, |f| &f.series, 0).await {
            Err(failure) if failure.is_an_answer() => {
                let (connector, host) = (self.connector(), self.archive.http.host());
                tracing::warn!(connector, host, reason = %failure, "archive does not list the series of a study");
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// What the archive lists of a study, series by series when the study's list is not there or does not say the series
    /// (each search resource is supported by itself, PS3.18 10.6.1), and with the attributes that the list lacks. A series
    /// that cannot be listed is counted.
    async fn instances_of(
        &self,
        study: &Uid,
        series: &[Found],
        expected: usize,
        until: Instant,
    ) -> Result<(Vec<Found>, usize), Failure> {
        let search = |resource, absent_is_none| Search {
            resource,
            fields: INSTANCE_FIELDS,
            about: study.as_str(),
            absent_is_none,
            until,
            once: false,
        };
        let whole = search(format!("/studies/{study}/instances"), false);
        let whole = self.archive.search(&whole, |f| &f.sop_instance, expected).await;
        let (mut found, mut left_out) = (Vec::new(), 0);
        match whole {
            Ok(listed) if !listed.is_empty() && listed.iter().all(|f| f.series.uid().is_some()) => found = listed,
            Err(failure) if !failure.is_an_answer() => return Err(failure),
            whole => {
                let mut failed = whole.err();
                let mut any = false;
                for one in series.iter().filter_map(|s| s.series.uid()) {
                    let of_series = search(format!("/studies/{study}/series/{one}/instances"), true);
                    match self.archive.search(&of_series, |f| &f.sop_instance, 0).await {
                        Ok(listed) => {
                            any = true;
                            found.extend(listed.into_iter().map(|f| Found { series: one.as_str().into(), ..f }));
                        }
                        Err(failure) if failure.is_an_answer() => {
                            left_out += 1;
                            failed = Some(failure);
                        }
                        Err(failure) => return Err(failure),
                    }
                }
                if let Some(failure) = failed.filter(|_| !any) {
                    return Err(failure);
                }
            }
        }
        self.complete(study, &mut found, until).await?;
        Ok((found, left_out))
    }

    /// Asks for the attributes that a list lacks, instance by instance. One that cannot be had stays as it is listed.
    async fn complete(&self, study: &Uid, found: &mut [Found], until: Instant) -> Result<(), Failure> {
        let lacking = found.iter().enumerate().filter(|(_, f)| f.sop_class.uid().is_none()).take(COMPLETED);
        let lacking: Vec<(usize, Uid, Uid)> =
            lacking.filter_map(|(i, f)| Some((i, f.series.uid()?, f.sop_instance.uid()?))).collect();
        let mut answers = futures_util::stream::iter(lacking)
            .map(|(i, series, sop)| async move { (i, self.archive.metadata(study, &series, &sop, until).await) })
            .buffered(self.parallel);
        while let Some((index, full)) = answers.next().await {
            match full {
                Ok(Some(full)) => {
                    let listed = &found[index];
                    let (transfer_syntax, series) = (listed.transfer_syntax.clone(), listed.series.clone());
                    found[index] = Found { transfer_syntax, series, ..full };
                }
                Ok(None) => {}
                Err(failure) if failure.is_an_answer() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// A study's place among those that are being read; it ends with the reading, however that ends.
struct Place<'a> {
    reader: &'a Reader,
    uid: Uid,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.reader.reading.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

impl Studies {
    fn take(&mut self, listed: Arc<Listed>, connector: &str) {
        let unit = || Unit::Study(listed.study.study.clone());
        let reasons = listed.study.fewer().into_iter().chain(listed.study.undated());
        self.omitted.extend(reasons.map(|reason| Omitted::new(connector, unit(), reason)));
        self.listed.push(listed);
    }
}

/// One instance; what names another patient than its study is withheld.
fn instance(
    found: &Found,
    series: Option<&Found>,
    theirs: impl Fn(Option<PatientClaim>) -> bool,
) -> Option<IndexedInstance> {
    let number = |of: fn(&Found) -> &json::Text| series.and_then(|s| of(s).number()).or_else(|| of(found).number());
    let text = |of: fn(&Found) -> &json::Text| series.and_then(|s| of(s).owned()).or_else(|| of(found).owned());
    Some(IndexedInstance {
        sop_instance: found.sop_instance.uid()?,
        sop_class: found.sop_class.uid()?,
        series: found.series.uid()?,
        series_number: number(|f| &f.series_number),
        series_description: text(|f| &f.series_description),
        modality: text(|f| &f.modality),
        number: found.instance_number.number(),
        frames: found.frames.number(),
        transfer_syntax: found.transfer_syntax.uid(),
        file: None,
        withheld: found.patient_id.get().is_some() && !theirs(found.claim()),
    })
}
