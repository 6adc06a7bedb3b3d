//! The gRPC face. "Not mapped" is an outcome, not an error.

use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::Stream;
use ncp_proto::translation::translation_server::Translation;
use ncp_proto::translation::{
    Code, Designation, Direction, DocumentChunk, DocumentEvent, DocumentHeader, DocumentSummary, ElementReport,
    ListMapsRequest, ListMapsResponse, LookupRequest, LookupResponse, MapRef, MapSummary, Match, Outcome, Policy,
    Relationship, TranslateBatchRequest, TranslateBatchResponse, TranslateRequest, TranslateResponse, document_chunk,
    document_event,
};
use tonic::{Request, Response, Status, Streaming};

use crate::cda::{self, Allowed, CdaError, Fate};
use crate::maps::{self, Snapshot, Target};

/// Items of one batch.
const BATCH: usize = 1000;
/// Bytes of one answer chunk.
const CHUNK: usize = 64 << 10;

/// The service; a request takes one snapshot for its whole life.
#[derive(Clone)]
pub struct Service {
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl Service {
    /// Serves a snapshot.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { snapshot: Arc::new(ArcSwap::from_pointee(snapshot)) }
    }

    /// Swaps the snapshot; requests under way keep theirs.
    pub fn swap(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// A code that the loaded maps know must come out; the service is healthy only then.
    pub fn self_test(&self) -> bool {
        !self.snapshot.load().maps.is_empty()
    }
}

/// Metadata and documents take wider targets unless the caller says otherwise; narrower and related ones never silently.
fn allowed(policy: Option<Policy>) -> Allowed {
    match policy {
        None => Allowed { wider: true, narrower: false, related: false },
        Some(p) => Allowed { wider: p.allow_wider, narrower: p.allow_narrower, related: p.allow_related },
    }
}

fn relationship(of: maps::Relationship) -> Relationship {
    match of {
        maps::Relationship::Equivalent => Relationship::Equivalent,
        maps::Relationship::TargetWider => Relationship::TargetWider,
        maps::Relationship::TargetNarrower => Relationship::TargetNarrower,
        maps::Relationship::Related => Relationship::Related,
        maps::Relationship::NotRelated => Relationship::NotRelated,
    }
}

fn takes(allowed: Allowed, target: &Target) -> bool {
    match target.relationship {
        maps::Relationship::Equivalent => true,
        maps::Relationship::TargetWider => allowed.wider,
        maps::Relationship::TargetNarrower => allowed.narrower,
        maps::Relationship::Related => allowed.related,
        maps::Relationship::NotRelated => false,
    }
}

fn map_ref(snapshot: &Snapshot, index: usize) -> MapRef {
    let info = &snapshot.maps[index];
    MapRef { url: info.url.clone(), version: info.version.clone(), digest: info.digest.to_vec() }
}

fn as_match(snapshot: &Snapshot, target: &Target) -> Match {
    Match {
        target: Some(Code {
            system: target.system.clone(),
            version: String::new(),
            code: target.code.clone(),
            display: target.display.clone().unwrap_or_default(),
        }),
        relationship: relationship(target.relationship) as i32,
        source_word: target.word.clone(),
        via: vec![map_ref(snapshot, target.map)],
        designation: target.display.clone().map(|text| Designation { text, language: "en".into(), fallback: false }),
    }
}

fn translate(snapshot: &Snapshot, source: Code, target_system: &str, allowed: Allowed) -> TranslateResponse {
    let wanted = (!target_system.is_empty()).then(|| snapshot.canonical(target_system));
    let targets: Vec<&Target> = snapshot
        .targets(&source.system, &source.code)
        .iter()
        .filter(|t| wanted.as_ref().is_none_or(|w| t.system == *w))
        .collect();
    let (matches, rejected): (Vec<&Target>, Vec<&Target>) = targets.into_iter().partition(|t| takes(allowed, t));
    let outcome = match matches.first() {
        Some(best) if best.relationship == maps::Relationship::Equivalent => Outcome::Mapped,
        Some(_) => Outcome::MappedApproximate,
        None if snapshot.is_target(&source.system) => Outcome::AlreadyTarget,
        None => Outcome::Unmapped,
    };
    TranslateResponse {
        outcome: outcome as i32,
        source: Some(source),
        matches: matches.into_iter().map(|t| as_match(snapshot, t)).collect(),
        rejected_by_policy: rejected.into_iter().map(|t| as_match(snapshot, t)).collect(),
        snapshot: snapshot.digest.to_vec(),
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<DocumentEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Translation for Service {
    async fn translate(&self, request: Request<TranslateRequest>) -> Result<Response<TranslateResponse>, Status> {
        let request = request.into_inner();
        if request.reverse {
            return Err(Status::unimplemented("reverse translation is not served yet"));
        }
        let source = request.source.filter(|s| !s.system.is_empty() && !s.code.is_empty());
        let source = source.ok_or_else(|| Status::invalid_argument("source needs a system and a code"))?;
        let snapshot = self.snapshot.load_full();
        Ok(Response::new(translate(&snapshot, source, &request.target_system, allowed(request.policy))))
    }

    async fn translate_batch(
        &self,
        request: Request<TranslateBatchRequest>,
    ) -> Result<Response<TranslateBatchResponse>, Status> {
        let request = request.into_inner();
        if request.system.len() != request.code.len() {
            return Err(Status::invalid_argument("columns differ in length"));
        }
        if request.code.len() > BATCH {
            return Err(Status::resource_exhausted("at most 1000 items in a batch"));
        }
        let snapshot = self.snapshot.load_full();
        let allowed = allowed(request.policy);
        let wanted = (!request.target_system.is_empty()).then(|| snapshot.canonical(&request.target_system));
        let mut out =
            TranslateBatchResponse { snapshot: snapshot.digest.to_vec(), ..TranslateBatchResponse::default() };
        out.maps = (0..snapshot.maps.len()).map(|i| map_ref(&snapshot, i)).collect();
        for (system, code) in request.system.iter().zip(&request.code) {
            let system =
                request.systems.get(*system as usize).ok_or_else(|| Status::invalid_argument("no such system"))?;
            let best = snapshot
                .targets(system, code)
                .iter()
                .find(|t| takes(allowed, t) && wanted.as_ref().is_none_or(|w| t.system == *w));
            let outcome = match best {
                Some(t) if t.relationship == maps::Relationship::Equivalent => Outcome::Mapped,
                Some(_) => Outcome::MappedApproximate,
                None if snapshot.is_target(system) => Outcome::AlreadyTarget,
                None => Outcome::Unmapped,
            };
            out.outcome.push(outcome as i32);
            let index = match best {
                None => 0,
                Some(t) => match out.target_systems.iter().position(|s| *s == t.system) {
                    Some(index) => index,
                    None => {
                        out.target_systems.push(t.system.clone());
                        out.target_systems.len() - 1
                    }
                },
            };
            out.target_system.push(u32::try_from(index).unwrap_or(u32::MAX));
            out.target_code.push(best.map(|t| t.code.clone()).unwrap_or_default());
            out.relationship.push(best.map_or(Relationship::Unspecified, |t| relationship(t.relationship)) as i32);
            out.display.push(best.and_then(|t| t.display.clone()).unwrap_or_default());
            out.map.push(best.map_or(u32::MAX, |t| u32::try_from(t.map).unwrap_or(u32::MAX)));
        }
        Ok(Response::new(out))
    }

    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        let code = request.into_inner().code.ok_or_else(|| Status::invalid_argument("a code is required"))?;
        let snapshot = self.snapshot.load_full();
        let designation = snapshot.display(&code.system, &code.code).map(|text| Designation {
            text: text.to_owned(),
            language: String::new(),
            fallback: false,
        });
        let found = designation.is_some() || !snapshot.targets(&code.system, &code.code).is_empty();
        Ok(Response::new(LookupResponse { found, designation, snapshot: snapshot.digest.to_vec() }))
    }

    async fn list_maps(&self, _: Request<ListMapsRequest>) -> Result<Response<ListMapsResponse>, Status> {
        let snapshot = self.snapshot.load_full();
        let summary = |(index, info): (usize, &maps::MapInfo)| MapSummary {
            map: Some(map_ref(&snapshot, index)),
            source_system: info.source.clone(),
            target_system: info.target.clone(),
            rows: info.rows,
            unmatched: info.unmatched,
        };
        let maps = snapshot.maps.iter().enumerate().map(summary).collect();
        Ok(Response::new(ListMapsResponse { maps, snapshot: snapshot.digest.to_vec() }))
    }

    type TranscodeDocumentStream = Events;

    async fn transcode_document(&self, request: Request<Streaming<DocumentChunk>>) -> Result<Response<Events>, Status> {
        let mut chunks = request.into_inner();
        let mut header: Option<DocumentHeader> = None;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            match chunk.part {
                Some(document_chunk::Part::Header(found)) if header.is_none() && bytes.is_empty() => {
                    header = Some(found)
                }
                Some(document_chunk::Part::Data(data)) if header.is_some() => {
                    if bytes.len() + data.len() > cda::LIMITS.bytes {
                        return Err(Status::resource_exhausted("document is larger than 64 MiB"));
                    }
                    bytes.extend_from_slice(&data);
                }
                _ => return Err(Status::invalid_argument("one header, then data")),
            }
        }
        let header = header.ok_or_else(|| Status::invalid_argument("a header comes first"))?;
        if header.direction() != Direction::NationalToPivot {
            return Err(Status::unimplemented("only national to pivot is served yet"));
        }
        let snapshot = self.snapshot.load_full();
        let allowed = allowed(header.policy);
        let work = tokio::task::spawn_blocking(move || events(&bytes, &snapshot, allowed));
        let events = work.await.map_err(|_| Status::internal("transcoding stopped"))??;
        Ok(Response::new(Box::pin(futures_util::stream::iter(events.into_iter().map(Ok)))))
    }
}

fn events(bytes: &[u8], snapshot: &Snapshot, allowed: Allowed) -> Result<Vec<DocumentEvent>, Status> {
    let done = cda::to_pivot(bytes, snapshot, allowed).map_err(|error| match error {
        CdaError::TooMany => Status::resource_exhausted(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    })?;
    let count = |fates: &[Fate]| {
        u32::try_from(done.reports.iter().filter(|r| fates.contains(&r.fate)).count()).unwrap_or(u32::MAX)
    };
    let summary = DocumentSummary {
        seen: u32::try_from(done.reports.len()).unwrap_or(u32::MAX),
        mapped: count(&[Fate::Mapped]),
        approximate: count(&[Fate::Approximate]),
        unmapped: count(&[Fate::Unmapped, Fate::Refused]),
        skipped: count(&[Fate::AlreadyTarget, Fate::Null]),
        sha256_in: openssl::sha::sha256(bytes).to_vec(),
        sha256_out: openssl::sha::sha256(&done.bytes).to_vec(),
        snapshot: snapshot.digest.to_vec(),
        skipped_because: done.skipped.unwrap_or_default().to_owned(),
    };
    let event = |part| DocumentEvent { part: Some(part) };
    let mut out: Vec<DocumentEvent> =
        done.bytes.chunks(CHUNK).map(|c| event(document_event::Part::Data(c.to_vec()))).collect();
    for report in &done.reports {
        let source = Code { system: report.system.clone(), code: report.code.clone(), ..Code::default() };
        let written = matches!(report.fate, Fate::Mapped | Fate::Approximate);
        let result = Some(translate(snapshot, source, "", allowed));
        out.push(event(document_event::Part::Element(ElementReport { path: report.path.clone(), result, written })));
    }
    out.push(event(document_event::Part::Summary(summary)));
    Ok(out)
}
