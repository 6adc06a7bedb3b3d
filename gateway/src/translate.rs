//! Client of the terminology service. The gateway never edits a document itself, and it never waits longer than the
//! deadline: without an answer the originals go on, said so.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::{Coded, DocumentEntry};
use ncp_proto::translation::translation_client::TranslationClient;
use ncp_proto::translation::{
    ANSWER_BYTES, Code, Direction, DocumentChunk, DocumentHeader, DocumentSummary, ExpandFilterRequest, Outcome,
    REQUEST_BYTES, TranslateBatchRequest, TranslateBatchResponse, document_chunk, document_event,
};
use ncp_tls::TlsError;
use tonic::Request;
use tonic::transport::Channel;

use crate::config;
use crate::national::{ByteStream, NationalError};
use crate::whole::{Holder, NotHeld};

pub mod facets;
mod guard;

use facets::{Facets, Regions};
use guard::Guard;

const H2: &[u8] = b"\x02h2";
/// Bytes of one chunk.
const CHUNK: usize = 64 << 10;
/// Codes of one batch, as the service takes them.
const BATCH: usize = 1000;

/// The service did not answer as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TranslationError {
    /// gRPC.
    #[error("terminology service: {0}")]
    Status(tonic::Code),
    /// No answer in time.
    #[error("terminology service did not answer in time")]
    Deadline,
    /// It did not answer several calls, and is not asked until it answers again.
    #[error("terminology service is not asked, because it did not answer several times")]
    NotAsked,
    /// An answer that does not fit the question.
    #[error("terminology service answered out of shape")]
    Shape,
    /// A document that is not transcoded: its reason.
    #[error("document is not transcoded: {0}")]
    Skipped(String),
    /// Other documents that are held leave no memory for what it becomes.
    #[error("no memory for the document now")]
    NoMemory,
}

impl From<NotHeld> for TranslationError {
    fn from(_: NotHeld) -> Self {
        Self::NoMemory
    }
}

impl From<tonic::Status> for TranslationError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(status.code())
    }
}

/// A document after the service. As `Debug` it shows its length alone.
#[derive(Clone)]
pub struct Transcoded {
    /// Its bytes.
    pub bytes: Bytes,
    /// Digest of the snapshot that was used, hex.
    pub snapshot: String,
    /// What happened to its coded elements.
    pub summary: DocumentSummary,
}

impl std::fmt::Debug for Transcoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transcoded([{}] {})", self.bytes.len(), self.snapshot)
    }
}

/// What the service knows of codes that a country words in its own way.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Codes that have a target, by system and code; those whose target says exactly the same.
    mapped: HashMap<(String, String), bool>,
    /// Modalities and regions; nothing when the service did not say them.
    pub facets: Arc<Facets>,
}

impl Known {
    /// Whether the service has a target for the code.
    pub fn is_mapped(&self, code: &Coded) -> bool {
        self.mapped.contains_key(&(code.system.clone(), code.code.clone()))
    }

    /// Whether it has one that says exactly the same.
    pub fn is_exact(&self, code: &Coded) -> bool {
        self.mapped.get(&(code.system.clone(), code.code.clone())).is_some_and(|exact| *exact)
    }

    /// With another code, for tests.
    #[cfg(test)]
    pub(crate) fn with(mut self, code: &Coded, exact: bool) -> Self {
        self.mapped.insert((code.system.clone(), code.code.clone()), exact);
        self
    }
}

/// What the service says of the codes of a list of entries.
pub struct Pivot {
    answers: Answers,
    regions: Regions,
    /// What it knows of the codes.
    pub known: Known,
}

impl Pivot {
    /// Digest of the snapshot that was used, hex; empty when there was no code to ask for.
    pub fn snapshot(&self) -> &str {
        &self.answers.snapshot
    }

    /// One of the entries with its metadata in European codes. Unmapped codes stay; eventCodeList keeps the national ones
    /// beside the European, a single-valued code moves to an extra slot, and one more slot names the snapshot. Body regions
    /// that the procedures say are named in eventCodeList, in a manifest too.
    pub fn entry(&self, entry: &DocumentEntry) -> DocumentEntry {
        let mut out = with_targets(entry, &self.answers);
        self.known.facets.name(&mut out, &self.regions);
        out
    }
}

/// The client; connects when first used.
#[derive(Clone)]
pub struct Translator {
    channel: Channel,
    deadline: Duration,
    document_deadline: Duration,
    /// Of the snapshot that answered last.
    facets: Arc<ArcSwapOption<Facets>>,
    guard: Arc<Guard>,
}

impl Translator {
    /// Prepares the channel.
    ///
    /// # Errors
    /// TLS material, endpoint.
    pub fn new(config: &config::Translation) -> Result<Self, TlsError> {
        let connector = config.tls.connector(H2)?;
        let channel = ncp_tls::channel(&config.endpoint, &config.server_name, connector)?;
        Ok(Self {
            channel,
            deadline: config.deadline,
            document_deadline: config.document_deadline,
            facets: Arc::default(),
            guard: Arc::default(),
        })
    }

    /// Makes a call unless the service hangs; it is looked for with a batch of no codes.
    async fn guarded<T>(&self, work: impl Future<Output = Result<T, TranslationError>>) -> Result<T, TranslationError> {
        let this = self.clone();
        let look = move || {
            let (mut client, deadline) = (this.client(), this.deadline);
            async move {
                let nothing = TranslateBatchRequest::default();
                within(deadline, nothing, |request| client.translate_batch(request)).await.map(drop)
            }
        };
        self.guard.call(work, look).await
    }

    fn client(&self) -> TranslationClient<Channel> {
        TranslationClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES)
            .max_encoding_message_size(REQUEST_BYTES)
    }

    /// What the codes of entries are in European codes, for each entry to be written with them.
    ///
    /// # Errors
    /// The service's.
    pub async fn to_pivot(&self, entries: &[DocumentEntry]) -> Result<Pivot, TranslationError> {
        let answers = self.codes(entries, "en").await?;
        let mut known = Known { mapped: answers.mapped(), facets: Arc::default() };
        match self.facets(&answers.snapshot).await {
            Ok(facets) => known.facets = facets,
            // A list without regions is one all the same.
            Err(error) => tracing::warn!(reason = %error, "body regions are not named"),
        }
        let mut regions = Regions::default();
        for entry in entries {
            known.facets.learn(&with_targets(entry, &answers), &mut regions);
        }
        Ok(Pivot { answers, regions, known })
    }

    /// What procedures say of modalities and body regions; asked for once a snapshot.
    async fn facets(&self, snapshot: &str) -> Result<Arc<Facets>, TranslationError> {
        if let Some(known) = self.facets.load_full().filter(|known| known.snapshot == snapshot) {
            return Ok(known);
        }
        let found = Arc::new(Facets::new(snapshot.to_owned(), self.alternatives(&facets::all()).await?));
        self.facets.store(Some(found.clone()));
        Ok(found)
    }

    /// What the codes of entries are called in the first of a reader's languages in which the service has a name of the
    /// code.
    ///
    /// # Errors
    /// The service's.
    pub async fn names(&self, entries: &[DocumentEntry], languages: &str) -> Result<Names, TranslationError> {
        self.codes(entries, languages).await.map(Names)
    }

    /// Every code of the entries, once, in batches that see one snapshot.
    async fn codes(&self, entries: &[DocumentEntry], language: &str) -> Result<Answers, TranslationError> {
        let all = entries.iter().flat_map(codes).filter(|c| !c.code.is_empty());
        let distinct: BTreeSet<(&str, &str)> = all.map(|c| (c.system.as_str(), c.code.as_str())).collect();
        let distinct: Vec<(&str, &str)> = distinct.into_iter().collect();
        let mut client = self.client();
        let mut out = Answers { snapshot: String::new(), codes: HashMap::new() };
        let mut pinned = Vec::new();
        let until = Instant::now() + self.deadline;
        for batch in distinct.chunks(BATCH) {
            let mut request = TranslateBatchRequest {
                language: language.to_owned(),
                snapshot: pinned.clone(),
                ..TranslateBatchRequest::default()
            };
            for (system, code) in batch {
                // Sorted, so that a system's codes stand together.
                if request.systems.last().is_none_or(|last| last != system) {
                    request.systems.push((*system).to_owned());
                }
                request.system.push(request.systems.len() as u32 - 1);
                request.code.push((*code).to_owned());
            }
            let left = until.saturating_duration_since(Instant::now());
            let answer = self.guarded(within(left, request, |request| client.translate_batch(request))).await?;
            out.take(batch, &answer)?;
            pinned = answer.snapshot;
        }
        out.snapshot = hex::encode(pinned);
        Ok(out)
    }

    /// For each of the codes, the national ones that may stand for it, itself among them.
    ///
    /// # Errors
    /// The service's.
    pub async fn alternatives(&self, codes: &[Coded]) -> Result<Vec<Vec<Coded>>, TranslationError> {
        let mut out = vec![Vec::new(); codes.len()];
        let mut client = self.client();
        let until = Instant::now() + self.deadline;
        for (first, batch) in (0..).step_by(BATCH).zip(codes.chunks(BATCH)) {
            let code = |c: &Coded| Code { system: c.system.clone(), code: c.code.clone(), ..Code::default() };
            let request =
                ExpandFilterRequest { codes: batch.iter().map(code).collect(), ..ExpandFilterRequest::default() };
            let left = until.saturating_duration_since(Instant::now());
            let answer = self.guarded(within(left, request, |request| client.expand_filter(request))).await?;
            if answer.asked.len() != answer.codes.len() {
                return Err(TranslationError::Shape);
            }
            for (asked, code) in answer.asked.iter().zip(answer.codes) {
                let list = out.get_mut(first + *asked as usize).ok_or(TranslationError::Shape)?;
                list.push(Coded::new(&code.code, bare(&code.system), None));
            }
        }
        Ok(out)
    }

    /// A whole document: national codes to the pivot, or the pivot with designations in a reader's languages.
    ///
    /// # Errors
    /// The service's, or [`TranslationError::Skipped`] for a document that must not be edited.
    pub async fn document(
        &self,
        media_type: &str,
        bytes: Bytes,
        direction: Direction,
        (language, holder): (&str, &Holder),
    ) -> Result<Transcoded, TranslationError> {
        let header = DocumentHeader {
            media_type: media_type.to_owned(),
            direction: direction as i32,
            language: language.to_owned(),
            size: bytes.len() as u64,
            sha256: openssl::sha::sha256(&bytes).to_vec(),
            ..DocumentHeader::default()
        };
        // What comes back is mostly as long as what went, and a little longer.
        let mut out = holder.gather(usize::MAX);
        out.expect(bytes.len() + bytes.len() / 8)?;
        let first = DocumentChunk { part: Some(document_chunk::Part::Header(header)) };
        let mut rest = bytes;
        // Copied as they go, not before.
        let data = std::iter::from_fn(move || {
            let chunk = rest.split_to(rest.len().min(CHUNK));
            let data = || DocumentChunk { part: Some(document_chunk::Part::Data(chunk.to_vec())) };
            (!chunk.is_empty()).then(data)
        });
        let chunks = std::iter::once(first).chain(data);
        let mut client = self.client();
        let work = async {
            let mut request = Request::new(tokio_stream::iter(chunks));
            request.set_timeout(self.document_deadline);
            let mut events = client.transcode_document(request).await?.into_inner();
            let mut summary = None;
            while let Some(event) = events.message().await? {
                match event.part {
                    Some(document_event::Part::Data(data)) => out.push(&data)?,
                    Some(document_event::Part::Summary(found)) => summary = Some(found),
                    _ => {}
                }
            }
            let summary = summary.ok_or(TranslationError::Shape)?;
            if !summary.skipped_because.is_empty() {
                return Err(TranslationError::Skipped(summary.skipped_because));
            }
            let bytes = out.end();
            if openssl::sha::sha256(&bytes).as_slice() != summary.sha256_out {
                return Err(TranslationError::Shape);
            }
            Ok(Transcoded { bytes, snapshot: hex::encode(&summary.snapshot), summary })
        };
        let within_time =
            async { tokio::time::timeout(self.document_deadline, work).await.map_err(|_| TranslationError::Deadline)? };
        self.guarded(within_time).await
    }
}

/// Languages of a reader, first choice first, as the service wants them: the Accept-Language header by weight, then the
/// country's own, then English.
pub fn reader_languages(accept: Option<&str>, own: &str) -> String {
    let mut asked: Vec<(u16, &str)> = accept
        .unwrap_or_default()
        .split(',')
        .take(10)
        .filter_map(|part| {
            let (tag, weight) = part.split_once(';').unwrap_or((part, "q=1"));
            let weight: f32 = weight.trim().strip_prefix("q=")?.trim().parse().ok()?;
            let tag = tag.trim();
            let plain =
                !tag.is_empty() && tag.len() <= 35 && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            (plain && weight > 0.0).then_some(((weight.min(1.0) * 1000.0) as u16, tag))
        })
        .collect();
    asked.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let mut out: Vec<&str> = Vec::new();
    for tag in asked.into_iter().map(|(_, tag)| tag).chain([own, "en"]) {
        if !tag.is_empty() && !out.contains(&tag) {
            out.push(tag);
        }
    }
    out.join(",")
}

/// One call whose deadline the service knows too.
async fn within<T, A, F>(left: Duration, request: T, call: impl FnOnce(Request<T>) -> F) -> Result<A, TranslationError>
where
    F: Future<Output = Result<tonic::Response<A>, tonic::Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(left);
    let answer = tokio::time::timeout(left, call(request)).await.map_err(|_| TranslationError::Deadline)?;
    Ok(answer?.into_inner())
}

/// XDS writes OIDs bare.
fn bare(system: &str) -> &str {
    system.strip_prefix("urn:oid:").unwrap_or(system)
}

/// What the service says of a code.
struct Answer {
    target: Option<Coded>,
    /// The target says exactly the same.
    exact: bool,
    display: String,
}

/// Names of the codes of entries.
pub struct Names(Answers);

impl Names {
    /// Digest of the snapshot that was used, hex; empty when there was no code to ask for.
    pub fn snapshot(&self) -> &str {
        &self.0.snapshot
    }

    /// Gives the codes of entries their names. Codes stay.
    pub fn give(&self, entries: &mut [DocumentEntry]) {
        for code in entries.iter_mut().flat_map(codes_mut) {
            if let Some(display) = self.0.display(code) {
                code.display = Some(display);
            }
        }
    }
}

/// What the service says of the codes of entries, by system and code.
struct Answers {
    codes: HashMap<(String, String), Answer>,
    snapshot: String,
}

impl Answers {
    /// The columns of one batch.
    fn take(&mut self, asked: &[(&str, &str)], answer: &TranslateBatchResponse) -> Result<(), TranslationError> {
        let columns =
            [answer.target_code.len(), answer.target_system.len(), answer.display.len(), answer.outcome.len()];
        if columns.iter().any(|n| *n != asked.len()) {
            return Err(TranslationError::Shape);
        }
        for (at, (system, code)) in asked.iter().enumerate() {
            let mapped = [Outcome::Mapped as i32, Outcome::MappedApproximate as i32].contains(&answer.outcome[at]);
            let target = match answer.target_systems.get(answer.target_system[at] as usize) {
                Some(system) if mapped => Some(Coded::new(&answer.target_code[at], bare(system), None)),
                None if mapped => return Err(TranslationError::Shape),
                _ => None,
            };
            let display = answer.display[at].clone();
            let exact = answer.outcome[at] == Outcome::Mapped as i32;
            self.codes.insert(((*system).to_owned(), (*code).to_owned()), Answer { target, exact, display });
        }
        Ok(())
    }

    /// The codes that have a target, and whether that says exactly the same.
    fn mapped(&self) -> HashMap<(String, String), bool> {
        self.codes.iter().filter(|(_, a)| a.target.is_some()).map(|(key, a)| (key.clone(), a.exact)).collect()
    }

    fn of(&self, code: &Coded) -> Option<&Answer> {
        self.codes.get(&(code.system.clone(), code.code.clone()))
    }

    fn target(&self, code: &Coded) -> Option<Coded> {
        let answer = self.of(code)?;
        let display = Some(&answer.display).filter(|d| !d.is_empty()).or(code.display.as_ref()).cloned();
        answer.target.clone().map(|target| Coded { display, ..target })
    }

    /// A name of the code itself; what a target is called does not name the code.
    fn display(&self, code: &Coded) -> Option<String> {
        self.of(code).filter(|a| a.target.is_none() && !a.display.is_empty()).map(|a| a.display.clone())
    }
}

fn codes_mut(entry: &mut DocumentEntry) -> impl Iterator<Item = &mut Coded> {
    let single = [
        &mut entry.class_code,
        &mut entry.type_code,
        &mut entry.practice_setting,
        &mut entry.facility_type,
        &mut entry.format_code,
    ];
    single.into_iter().chain(&mut entry.event_codes).chain(&mut entry.confidentiality)
}

/// Every code of an entry that a country may word in its own way.
pub fn codes(entry: &DocumentEntry) -> impl Iterator<Item = &Coded> {
    let single =
        [&entry.class_code, &entry.type_code, &entry.practice_setting, &entry.facility_type, &entry.format_code];
    single.into_iter().chain(&entry.event_codes).chain(&entry.confidentiality)
}

fn with_targets(entry: &DocumentEntry, found: &Answers) -> DocumentEntry {
    let target = |code: &Coded| found.target(code);
    let mut out = entry.clone();
    let mut kept = Vec::new();
    let names = ["classCode", "typeCode", "practiceSettingCode", "healthcareFacilityTypeCode", "formatCode"];
    let singles = [
        &mut out.class_code,
        &mut out.type_code,
        &mut out.practice_setting,
        &mut out.facility_type,
        &mut out.format_code,
    ];
    for (name, code) in names.into_iter().zip(singles) {
        if let Some(new) = target(code) {
            kept.push((format!("urn:ncp:national:{name}"), vec![format!("{}^^{}", code.code, code.system)]));
            *code = new;
        }
    }
    let events: Vec<Coded> = entry.event_codes.iter().filter_map(target).collect();
    let mut changed = !kept.is_empty() || !events.is_empty();
    for code in events {
        if !out.event_codes.iter().any(|c| c.same(&code)) {
            out.event_codes.push(code);
        }
    }
    for code in &mut out.confidentiality {
        if let Some(new) = target(code) {
            *code = new;
            changed = true;
        }
    }
    if changed {
        kept.push(("urn:ncp:terminology-snapshot".to_owned(), vec![found.snapshot.clone()]));
    }
    out.extra_slots.extend(kept);
    out
}

/// A document's bytes, bounded, with their part of the memory for documents that are held.
///
/// # Errors
/// The source's; [`NationalError::Down`] beyond the limit, [`NationalError::Busy`] without memory.
pub async fn collect(mut content: ByteStream, limit: usize, holder: &Holder) -> Result<Bytes, NationalError> {
    let mut out = holder.gather(limit);
    while let Some(chunk) = content.next().await {
        out.push(&chunk?)?;
    }
    Ok(out.end())
}

#[cfg(test)]
mod tests {
    use super::reader_languages;

    #[test]
    fn languages_of_a_reader_by_weight_then_the_countrys_then_english() {
        assert_eq!(reader_languages(Some("sv;q=0.5, fi-FI, *, en;q=0"), "fi"), "fi-FI,sv,fi,en");
        assert_eq!(reader_languages(None, "nb-NO"), "nb-NO,en");
        assert_eq!(reader_languages(Some("x;q=NaN,\u{e9},;,"), "en"), "en");
    }
}
