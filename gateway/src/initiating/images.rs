//! Cross Gateway Retrieve Imaging Document Set [RAD-75], initiating side (RAD TF-2: 4.75).
//!
//! The manifest says what there is. Instances are asked for in batches, checked one by one, and passed on as they come;
//! what was promised and did not come is asked for once more. A study that is not whole ends with an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Incoming;
use ncp_audit::StudyObject;
use ncp_ihe::{
    Content, DocumentRequest, HomeCommunityId, ImagingRequest, Manifest, ManifestInstance, ManifestSeries, Oid,
    SeriesRequest, Status, StudyRequest, Uid,
};
use ncp_soap::{BoxError, OutPart, Parts};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::told::Reports;
use super::{Call, Held, PeerError, boxed, retrieve};
use crate::audit_scope::Recorder;
use crate::identity::TransactionName;
use crate::instance::{self, Expected};
use crate::listener::OutParts;
use crate::outcome::GatewayError;

const DICOM: &str = "application/dicom";

/// Instances of a batch that are still to come when the next batch is asked for. Few, so that an answer does not wait
/// long for a slow reader.
const AHEAD: usize = 8;

/// Transfer syntaxes of stored images (PS3.6 table A-1): an archive's original form, whatever it is.
const ANY_SYNTAX: [&str; 25] = [
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

    /// Whether the manifest has anything of it.
    pub fn is_in(self, manifest: &Manifest) -> bool {
        manifest.series.iter().any(|series| self.of(series).next().is_some())
    }
}

/// A study on its way.
pub struct Images {
    /// Instances of the manifest.
    pub total: usize,
    /// How many the source already said it has not; known when all were asked for in one batch.
    pub refused: usize,
    /// Codes that the source reported of no instance in particular, with the first batch.
    pub reported: Vec<String>,
    /// The instances.
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

/// Asks for the instances of a manifest, or of a part of it. The first answer's root has been read when this returns.
///
/// # Errors
/// [`PeerError`] of the first batch; a manifest without any location; the trail.
pub async fn images(
    call: Arc<Call>,
    manifest: &Manifest,
    part: Part<'_>,
    expected: Expected,
) -> Result<Images, GatewayError> {
    let wanted = wanted(&call, manifest, part)?;
    let total = wanted.len();
    let study = study_object(&call, manifest, &wanted);
    let trail = call.begin(TransactionName::Rad75, |trail| trail.study_wanted(study)).await?;
    let recorder = trail.recorder();
    let mut batches: Vec<Vec<Wanted>> = wanted.chunks(call.peer.batch).map(<[_]>::to_vec).collect();
    let source = Source { call, study: expected.study.clone(), recorder };
    let first = match source.ask(&batches[0]).await {
        Ok(answer) => answer,
        Err(error) => {
            trail.refused(&error).await;
            return Err(error);
        }
    };
    let refused = if batches.len() == 1 { first.refused.len() } else { 0 };
    let reported = first.reported.clone();
    let fetch = Fetch { source, expected, done: BTreeSet::new(), refused: BTreeSet::new() };
    let rest = batches.split_off(1);
    let head = batches.remove(0);
    let parts = trail.follow(fetch.stream(head, first, rest, refused));
    Ok(Images { total, refused, reported, parts })
}

/// The instances with the location of their series.
fn wanted(call: &Call, manifest: &Manifest, part: Part<'_>) -> Result<Vec<Wanted>, PeerError> {
    let mut out = Vec::new();
    for series in &manifest.series {
        let mut instances = part.of(series).peekable();
        if instances.peek().is_none() {
            continue;
        }
        let repository = series.location.clone().ok_or(PeerError::Malformed("series without Retrieve Location UID"))?;
        let home = call.peer.home_community_id.clone();
        let located = Arc::new(Located { series: series.series.clone(), home, repository });
        out.extend(
            instances
                .map(|instance| Wanted { series: located.clone(), instance: instance.sop_instance.as_str().into() }),
        );
    }
    if out.is_empty() { Err(PeerError::Malformed("manifest without instances")) } else { Ok(out) }
}

fn study_object(call: &Call, manifest: &Manifest, wanted: &[Wanted]) -> StudyObject {
    let mut series: Vec<&Arc<Located>> = wanted.iter().map(|w| &w.series).collect();
    series.dedup_by(|a, b| Arc::ptr_eq(a, b));
    StudyObject {
        study: manifest.study.to_string(),
        series: series.iter().map(|s| s.series.to_string()).collect(),
        repository: wanted.first().map(|w| w.series.repository.to_string()).unwrap_or_default(),
        home: call.peer.home_community_id.to_string(),
        instances: wanted.len() as u64,
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

/// The state of one study's retrieval.
struct Fetch {
    source: Source,
    expected: Expected,
    /// Instances that went on whole, or were withheld.
    done: BTreeSet<String>,
    /// Instances that the source says it has not.
    refused: BTreeSet<String>,
}

/// An answer's promises (Content-ID to instance) and its parts.
struct Batch {
    promised: BTreeMap<String, DocumentRequest>,
    /// Instances that the source says it has not.
    refused: Vec<String>,
    /// Codes that the source reported of no instance in particular.
    reported: Vec<String>,
    parts: Arc<Mutex<Parts<Incoming>>>,
    inline: Vec<(DocumentRequest, Bytes)>,
    _held: Held,
}

impl Source {
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
                Some(instance) if !coming.contains(instance) => refused.push(instance.to_owned()),
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

impl Fetch {
    /// All batches, then once more what is missing. While the last instances of a batch go on the next is asked for, so
    /// that the way to the other country is not idle between two batches; the second asking takes one after the other.
    fn stream(mut self, head: Vec<Wanted>, first: Batch, rest: Vec<Vec<Wanted>>, announced: usize) -> OutParts {
        Box::pin(async_stream::try_stream! {
            let mut all: Vec<Wanted> = head.clone();
            let mut next = Some(first);
            let mut queue = std::collections::VecDeque::from(rest);
            let mut ahead = JoinSet::new();
            let mut again = true;
            loop {
                if let Some(mut batch) = next.take() {
                    self.refused.extend(std::mem::take(&mut batch.refused));
                    for (request, bytes) in std::mem::take(&mut batch.inline) {
                        if let Some(part) = self.inline(&request, bytes).await? {
                            yield part;
                        }
                    }
                    // A batch that breaks between two instances leaves the rest for the second asking.
                    while let Ok(Some((request, held))) = self.next(&mut batch).await {
                        if again && ahead.is_empty() && batch.promised.len() < AHEAD
                            && let Some(wanted) = queue.pop_front()
                        {
                            all.extend(wanted.iter().cloned());
                            let source = self.source.clone();
                            ahead.spawn(async move { source.ask(&wanted).await });
                        }
                        let whole = Arc::new(AtomicBool::new(false));
                        yield self.part(&batch, held, whole.clone());
                        if !whole.load(Ordering::Acquire) {
                            Err(boxed(PeerError::BrokeOff))?;
                        }
                        self.done.insert(request.document);
                    }
                }
                // A batch that is refused as a whole is missing, not the end: the others may come.
                if let Some(asked) = ahead.join_next().await {
                    next = asked.ok().and_then(Result::ok);
                    continue;
                }
                let wanted = match queue.pop_front() {
                    Some(wanted) => {
                        all.extend(wanted.iter().cloned());
                        wanted
                    }
                    None if std::mem::take(&mut again) => {
                        let missing = self.missing(&all);
                        queue.extend(missing.chunks(self.source.call.peer.batch).map(<[_]>::to_vec));
                        all.retain(|w| self.done.contains(&*w.instance) || self.refused.contains(&*w.instance));
                        continue;
                    }
                    None => break,
                };
                next = self.source.ask(&wanted).await.ok();
            }
            let lost = all.iter().filter(|w| !self.done.contains(&*w.instance)).collect::<Vec<_>>();
            for one in &lost {
                self.source.recorder.failed_instance(self.expected.study.as_str(), &one.request());
            }
            if lost.len() > announced {
                Err(boxed(PeerError::Refused(format!("{} of {} instances are missing", lost.len(), all.len()))))?;
            }
        })
    }

    fn missing(&self, all: &[Wanted]) -> Vec<Wanted> {
        let open = |w: &&Wanted| !self.done.contains(&*w.instance) && !self.refused.contains(&*w.instance);
        all.iter().filter(open).cloned().collect()
    }

    /// The next instance that is what it should be, with the bytes of its header.
    async fn next(&mut self, batch: &mut Batch) -> Result<Option<(DocumentRequest, Bytes)>, PeerError> {
        let mut parts = batch.parts.lock().await;
        while let Some(head) = parts.next().await? {
            let Some(request) = batch.promised.remove(&head.content_id) else { continue };
            let (held, verdict) = instance::header(&mut *parts, &request.document, &self.expected).await?;
            match verdict {
                Ok(()) => return Ok(Some((request, held))),
                Err(foreign) => self.withhold(&request, foreign),
            }
        }
        Ok(None)
    }

    fn withhold(&mut self, request: &DocumentRequest, foreign: instance::Foreign) {
        tracing::warn!(country = %self.source.call.peer.country, reason = foreign.rule(), "instance withheld");
        self.source.recorder.alert(foreign.rule());
        self.refused.insert(request.document.clone());
    }

    /// The part that goes on: the header's bytes, then what is left of it.
    fn part(&self, batch: &Batch, held: Bytes, whole: Arc<AtomicBool>) -> OutPart {
        let parts = batch.parts.clone();
        let rest = async_stream::try_stream! {
            yield held;
            while let Some(chunk) = parts.lock().await.chunk().await.map_err(boxed)? {
                yield chunk;
            }
            whole.store(true, Ordering::Release);
        };
        let data = self.source.recorder.follow_instance(self.expected.study.as_str(), Box::pin(rest));
        OutPart { content_id: String::new(), media_type: DICOM.into(), data }
    }

    /// An instance that came inside the XML; it is bounded by the answer's limit.
    async fn inline(&mut self, request: &DocumentRequest, bytes: Bytes) -> Result<Option<OutPart>, BoxError> {
        let bytes = match instance::whole(bytes, &request.document, &self.expected) {
            Ok(bytes) => bytes,
            Err(foreign) => {
                self.withhold(request, foreign);
                return Ok(None);
            }
        };
        self.done.insert(request.document.clone());
        let once = futures_util::stream::once(async { Ok::<_, BoxError>(bytes) }).boxed();
        let data = self.source.recorder.follow_instance(self.expected.study.as_str(), once);
        Ok(Some(OutPart { content_id: String::new(), media_type: DICOM.into(), data }))
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
