//! Cross Gateway Retrieve Imaging Document Set [RAD-75], initiating side (RAD TF-2: 4.75).
//!
//! The manifest says what there is. Instances are asked for in batches, checked one by one, and passed on as they come;
//! what was promised and did not come is asked for once more. One that cannot be had takes no other with it: it is named, in
//! the answer when that is known before its first byte, and else by an error after all others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use ncp_audit::StudyObject;
use ncp_ihe::imaging::ManifestWarning;
use ncp_ihe::{
    Content, DocumentRequest, HomeCommunityId, ImagingRequest, Manifest, ManifestInstance, ManifestSeries, Oid,
    SeriesRequest, Status, StudyRequest, Uid,
};
use ncp_soap::{OutPart, Parts};
use tokio::sync::Mutex;

use super::told::Reports;
use super::{Call, Held, PeerError, retrieve};
use crate::audit_scope::Recorder;
use crate::identity::TransactionName;
use crate::instance::Expected;
use crate::listener::OutParts;
use crate::outcome::{GatewayError, Indicator};
use crate::passing::{quiet, read_ahead};
use crate::soap_client::AnswerBody;

mod losses;
mod stream;

pub use losses::{Losses, Watch, Why};
use stream::Fetch;

/// Bytes of a study that are read before its answer begins, so that what fails in them is still told in it.
const LOOK: usize = 256 << 10;

/// Batches that may fail before one is answered.
const FAILING: usize = 3;

/// Transfer syntaxes of stored images (PS3.6 table A-1): an archive's original form, whatever it is.
pub const ANY_SYNTAX: [&str; 25] = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.92",
    "1.2.840.10008.1.2.4.93",
    "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.2.4.101",
    "1.2.840.10008.1.2.4.102",
    "1.2.840.10008.1.2.4.103",
    "1.2.840.10008.1.2.4.104",
    "1.2.840.10008.1.2.4.107",
    "1.2.840.10008.1.2.4.108",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.5",
];

/// What of a manifest is asked for: all, a series, an instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Part<'a> {
    /// Series Instance UID.
    pub series: Option<&'a str>,
    /// SOP Instance UID.
    pub instance: Option<&'a str>,
}

impl Part<'_> {
    /// The instances of a series that belong to it.
    fn of(self, series: &ManifestSeries) -> impl Iterator<Item = &ManifestInstance> {
        let whole = self.series.is_none_or(|uid| uid == series.series.as_str());
        series.instances.iter().filter(move |i| whole && self.instance.is_none_or(|uid| uid == i.sop_instance.as_str()))
    }

    /// How many of its instances the manifest counts and does not list.
    fn unlisted(self, manifest: &Manifest) -> usize {
        match (self.series, self.instance) {
            (None, None) => manifest.announced_count() - manifest.instance_count(),
            (Some(uid), None) => {
                let named = manifest.series.iter().filter(|series| series.series.as_str() == uid);
                named.map(|series| series.announced_count() - series.instances.len()).sum()
            }
            _ => 0,
        }
    }

    /// Whether the manifest has anything of it.
    pub fn is_in(self, manifest: &Manifest) -> bool {
        manifest.series.iter().any(|series| self.of(series).next().is_some())
    }
}

/// A study on its way.
pub struct Images {
    /// Instances that the manifest lists, of what is asked for.
    pub total: usize,
    /// Those that it counts and does not list, so that they cannot be asked for.
    pub unlisted: usize,
    /// Those that do not come, as far as that is known.
    pub losses: Losses,
    /// Codes that the source reported of no instance in particular, with the first batch.
    pub reported: Vec<String>,
    /// The instances, each with its SOP Instance UID as Content-ID; an error at the end when more were lost than the
    /// beginning of the answer named.
    pub parts: OutParts,
}

/// One instance of the manifest. There may be tens of thousands, each in several lists: clones share what they say.
#[derive(Debug, Clone)]
struct Wanted {
    series: Arc<Located>,
    instance: Arc<str>,
}

/// Where the instances of a series are.
#[derive(Debug)]
struct Located {
    series: Uid,
    home: HomeCommunityId,
    repository: Oid,
}

impl Wanted {
    fn request(&self) -> DocumentRequest {
        let Located { home, repository, .. } = &*self.series;
        let (home, repository) = (Some(home.clone()), repository.clone());
        DocumentRequest { home, repository, document: self.instance.to_string() }
    }
}

/// Asks for the instances of a manifest, or of a part of it. The first answer's root has been read when this returns, and as
/// much of what follows as is looked at before an answer begins.
///
/// # Errors
/// [`PeerError`] when nothing comes; a manifest without any location; the trail.
pub async fn images(
    call: Arc<Call>,
    manifest: &Manifest,
    part: Part<'_>,
    expected: Expected,
    watch: Watch,
) -> Result<Images, GatewayError> {
    let Asked { wanted, twice } = asked(&call, manifest, part)?;
    let total = wanted.len() + twice.iter().map(|(_, times)| times).sum::<usize>();
    let trail = call.begin(TransactionName::Rad75, |trail| {
        trail.study_wanted(study_object(&call, manifest, &wanted, total));
    });
    let trail = trail.await?;
    let (recorder, country) = (trail.recorder(), call.peer.country.to_string());
    let study = expected.study.to_string();
    let place = wanted.first().map(Wanted::request).ok_or(PeerError::Malformed("manifest without instances"))?;
    let losses = Losses::new(&study, place, &country, recorder.clone(), watch);
    for (one, times) in &twice {
        losses.add_times(&one.request(), Why::TwoObjects, *times);
    }
    let mut batches: VecDeque<Vec<Wanted>> = wanted.chunks(call.peer.batch).map(<[_]>::to_vec).collect();
    let source = Source { call, study: expected.study.clone(), recorder: recorder.clone() };
    let first = match source.first(&mut batches).await {
        Ok(first) => first,
        Err(error) => {
            losses.all(wanted.iter().map(Wanted::request), Why::of(&error));
            trail.refused(&error).await;
            return Err(error);
        }
    };
    // What the other country has and does not list is not there either.
    let unlisted = part.unlisted(manifest);
    if unlisted > 0 || manifest.warnings.iter().any(ManifestWarning::leaves_out) {
        recorder.reported(Indicator::Minor, "manifest is not whole");
    }
    let reported = first.answer.reported.clone();
    let fetch = Fetch::new(source, expected, losses.clone());
    let (units, ended) = read_ahead(fetch.stream(first, batches), LOOK).await;
    losses.name_all();
    if ended && losses.count() >= total {
        let error = GatewayError::from(losses.error().unwrap_or(PeerError::BrokeOff));
        trail.refused(&error).await;
        return Err(error);
    }
    let passed = units.map(move |unit| {
        let OutPart { content_id, media_type, data } = unit?;
        let data = quiet(recorder.follow_instance(&study, data));
        Ok(OutPart { content_id, media_type, data })
    });
    let parts = trail.follow(Box::pin(passed));
    Ok(Images { total, unlisted, losses, reported, parts })
}

/// What of a manifest is asked for.
struct Asked {
    /// The instances with the location of their series.
    wanted: Vec<Wanted>,
    /// UIDs that two objects have, and how many: nobody can tell which would come (PS3.5 9).
    twice: Vec<(Wanted, usize)>,
}

fn asked(call: &Call, manifest: &Manifest, part: Part<'_>) -> Result<Asked, PeerError> {
    let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for series in &manifest.series {
        for instance in &series.instances {
            places.entry(instance.sop_instance.as_str()).or_default().insert(series.series.as_str());
        }
    }
    let (mut wanted, mut twice, mut seen) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for series in &manifest.series {
        let mut instances = part.of(series).peekable();
        if instances.peek().is_none() {
            continue;
        }
        let repository = series.location.clone().ok_or(PeerError::Malformed("series without Retrieve Location UID"))?;
        let home = call.peer.home_community_id.clone();
        let located = Arc::new(Located { series: series.series.clone(), home, repository });
        for instance in instances {
            let uid = instance.sop_instance.as_str();
            // The same object listed twice is one.
            if !seen.insert((series.series.as_str(), uid)) {
                continue;
            }
            let one = Wanted { series: located.clone(), instance: uid.into() };
            if places.get(uid).is_some_and(|series| series.len() > 1) {
                twice.entry(uid).or_insert((one, 0)).1 += 1;
            } else {
                wanted.push(one);
            }
        }
    }
    let twice: Vec<_> = twice.into_values().collect();
    match wanted.is_empty() {
        true if twice.is_empty() => Err(PeerError::Malformed("manifest without instances")),
        true => Err(Why::TwoObjects.error()),
        false => Ok(Asked { wanted, twice }),
    }
}

fn study_object(call: &Call, manifest: &Manifest, wanted: &[Wanted], total: usize) -> StudyObject {
    let mut series: Vec<&Arc<Located>> = wanted.iter().map(|w| &w.series).collect();
    series.dedup_by(|a, b| Arc::ptr_eq(a, b));
    StudyObject {
        study: manifest.study.to_string(),
        series: series.iter().map(|s| s.series.to_string()).collect(),
        repository: wanted.first().map(|w| w.series.repository.to_string()).unwrap_or_default(),
        home: call.peer.home_community_id.to_string(),
        instances: total as u64,
        odd: manifest.odd(),
        ..StudyObject::default()
    }
}

/// Whom to ask for which study.
#[derive(Clone)]
struct Source {
    call: Arc<Call>,
    study: Uid,
    recorder: Recorder,
}

/// An answer's promises (Content-ID to instance) and its parts.
struct Batch {
    promised: BTreeMap<String, DocumentRequest>,
    /// Instances that the source says it has not.
    refused: Vec<(String, Why)>,
    /// Codes that the source reported of no instance in particular.
    reported: Vec<String>,
    parts: Arc<Mutex<Parts<AnswerBody>>>,
    inline: Vec<(DocumentRequest, Bytes)>,
    _held: Held,
}

/// The batch that was answered first.
struct First {
    answer: Batch,
    /// What it asked for.
    wanted: Vec<Wanted>,
    /// Batches that were asked for before it in vain; they are missing, not the end.
    failed: Vec<Wanted>,
}

impl Source {
    /// Asks for batches until one is answered. An answer that breaks off before its root is asked for once more.
    async fn first(&self, batches: &mut VecDeque<Vec<Wanted>>) -> Result<First, GatewayError> {
        let (mut failed, mut first_error, mut failures) = (Vec::new(), None, 0);
        while let Some(wanted) = batches.pop_front() {
            let mut answer = self.ask(&wanted).await;
            let broke = |error: &GatewayError| {
                matches!(error, GatewayError::Peer(PeerError::BrokeOff | PeerError::Unreachable(_)))
            };
            if failures == 0 && answer.as_ref().is_err_and(broke) {
                answer = self.ask(&wanted).await;
            }
            match answer {
                Ok(answer) => return Ok(First { answer, wanted, failed }),
                Err(error) => {
                    failures += 1;
                    failed.extend(wanted);
                    let answers = matches!(&error, GatewayError::Peer(PeerError::Refused(_) | PeerError::BrokeOff));
                    first_error.get_or_insert(error);
                    if !answers || failures == FAILING {
                        break;
                    }
                }
            }
        }
        Err(first_error.unwrap_or(GatewayError::Internal("no batch to ask for")))
    }

    /// Asks for one batch and reads the root of the answer.
    async fn ask(&self, wanted: &[Wanted]) -> Result<Batch, GatewayError> {
        let body = request(&self.study, wanted)?.to_element();
        let answer = self.call.send(TransactionName::Rad75, body, &self.recorder).await?;
        let response = retrieve::read_response(&answer.body)?;
        let reports = Reports::read(response.status, &response.errors);
        self.call.reported(TransactionName::Rad75, &reports);
        let asked: BTreeMap<&str, &Wanted> = wanted.iter().map(|w| (&*w.instance, w)).collect();
        let (mut promised, mut inline) = (BTreeMap::new(), Vec::new());
        for document in response.documents {
            // What was not asked for is not taken.
            let wanted = asked.get(document.request.document.as_str());
            if !wanted.is_some_and(|wanted| retrieve::is_asked_for(&self.call, &wanted.request(), &document)) {
                self.recorder.alert("peer sent an instance that was not asked for");
                continue;
            }
            match document.content {
                Content::Include(id) => drop(promised.insert(id, document.request)),
                Content::Inline(bytes) => inline.push((document.request, bytes)),
            }
        }
        let coming: BTreeSet<&str> =
            promised.values().chain(inline.iter().map(|(r, _)| r)).map(|r| r.document.as_str()).collect();
        if coming.is_empty()
            && let Some(error) = reports.refusal(response.status)
        {
            return Err(error.into());
        }
        let (mut refused, mut general) = (Vec::new(), Vec::new());
        for error in &response.errors {
            let named = error.location.as_deref().unwrap_or_default();
            match named.split(' ').next().filter(|uid| asked.contains_key(uid)) {
                Some(instance) if !coming.contains(instance) => {
                    refused.push((instance.to_owned(), Why::told(error)));
                }
                _ => general.push(error.clone()),
            }
        }
        // What names an instance is told by its absence; the rest is told by its code.
        let general = Reports::read(Status::Success, &general);
        if let Some((indicator, code)) = general.outcome(Status::Success) {
            self.recorder.reported(indicator, code);
        }
        let reported = [general.errors(Status::Success), general.warnings()].concat();
        let parts = Arc::new(Mutex::new(answer.parts));
        Ok(Batch { promised, refused, reported, parts, inline, _held: answer.held })
    }
}

fn request(study: &Uid, wanted: &[Wanted]) -> Result<ImagingRequest, GatewayError> {
    let mut series: Vec<SeriesRequest> = Vec::new();
    for one in wanted {
        match series.last_mut() {
            Some(last) if last.series == one.series.series => last.instances.push(one.request()),
            _ => series.push(SeriesRequest { series: one.series.series.clone(), instances: vec![one.request()] }),
        }
    }
    let syntaxes = ANY_SYNTAX.iter().map(|uid| Uid::parse(uid)).collect::<Result<_, _>>()?;
    Ok(ImagingRequest { studies: vec![StudyRequest { study: study.clone(), series }], transfer_syntaxes: syntaxes })
}
