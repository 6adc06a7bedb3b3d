//! The gRPC face. "Not mapped" is an outcome, not an error; a request sees one snapshot for its whole life.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use ncp_proto::translation as pb;
use ncp_proto::translation::translation_server::{Translation, TranslationServer};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::cache::Cache;
use crate::counters::Counters;
use crate::document::profile::Profiles;
use crate::relationship::Relationship;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::translate::{self as codes, Query, issues};
use crate::{coverage, designation, expand};

mod convert;
mod document;
pub mod errors;

use convert::{allowed, issue, map_ref, relationship, response};
use errors::{invalid, status};

/// Items of one batch.
pub const BATCH: usize = 1000;
/// Bytes of a code, a system, a language tag or a map's URL at most.
const TEXT: usize = 1024;
/// Deadline of a document that brings none.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(10);
/// A stream that brings no code for so long is ended.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest deadline.
const CAP: Duration = Duration::from_secs(30);

/// The service.
#[derive(Clone)]
pub struct Service {
    store: Store,
    counters: Counters,
    cache: Cache,
    profiles: Profiles,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// Serves what the store holds.
    pub fn new(store: Store, counters: Counters, cache: Cache) -> Self {
        Self { store, counters, cache, profiles: Profiles::default() }
    }

    /// With these lists of coded elements.
    #[must_use]
    pub fn with_profiles(self, profiles: Profiles) -> Self {
        Self { profiles, ..self }
    }

    /// As a service of gRPC, with the bounds of its messages.
    pub fn server(self) -> TranslationServer<Self> {
        TranslationServer::new(self)
            .max_decoding_message_size(pb::REQUEST_BYTES)
            .max_encoding_message_size(pb::ANSWER_BYTES)
    }

    fn snapshot(&self, pinned: &[u8]) -> Result<Arc<Snapshot>, Status> {
        self.store.pinned(pinned).ok_or_else(|| {
            let message = "the pinned snapshot is not loaded";
            status(Code::FailedPrecondition, "SNAPSHOT_NOT_LOADED", "4500", message, "snapshot")
        })
    }

    fn one(&self, snapshot: &Snapshot, request: pb::TranslateRequest) -> Result<pb::TranslateResponse, Status> {
        let source = request.source.filter(|s| !s.system.is_empty() && !s.code.is_empty());
        let source = source.ok_or_else(|| invalid("source", "source needs a system and a code"))?;
        let texts = [&source.system, &source.code, &source.version, &request.target_system, &request.map_url];
        if texts.iter().any(|t| t.len() > TEXT) || request.languages.len() > 10 || request.context.len() > 100 {
            return Err(status(Code::ResourceExhausted, "TOO_LARGE", "4500", "a field is longer than its limit", ""));
        }
        let map = match (request.map_url.as_str(), request.map_version.as_str()) {
            (url, "") => url.to_owned(),
            (url, version) => format!("{url}|{version}"),
        };
        let value = |p: &pb::Property| p.code.as_ref().map_or_else(|| p.text.clone(), |c| c.code.clone());
        let context: Vec<(String, String)> = request.context.iter().map(|p| (p.name.clone(), value(p))).collect();
        let query = Query {
            system: &source.system,
            version: &source.version,
            code: &source.code,
            target_system: &request.target_system,
            map: &map,
            context: &context,
            allowed: allowed(request.policy),
        };
        let answer =
            if request.reverse { codes::reverse(snapshot, &query) } else { codes::translate(snapshot, &query) };
        let answer = answer.map_err(convert::unknown)?;
        if answer.matches.is_empty() && answer.outcome != codes::Outcome::AlreadyTarget && !request.reverse {
            self.counters.unmapped(&source.system, &source.code);
        }
        Ok(response(snapshot, source.clone(), &answer, &request.languages, request.correlation_id))
    }
}

/// The caller's deadline, within the cap; ours if there is none.
fn deadline<T>(request: &Request<T>, ours: Duration) -> Duration {
    let header = request.metadata().get("grpc-timeout").and_then(|v| v.to_str().ok());
    let asked = header.and_then(|text| {
        let (digits, unit) = text.split_at(text.len().checked_sub(1)?);
        let number: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(number.checked_mul(3600)?),
            "M" => Duration::from_secs(number.checked_mul(60)?),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    });
    asked.unwrap_or(ours).min(CAP)
}

fn late() -> Status {
    status(Code::DeadlineExceeded, "DEADLINE", "4500", "the deadline has passed", "")
}

#[tonic::async_trait]
impl Translation for Service {
    async fn translate(
        &self,
        request: Request<pb::TranslateRequest>,
    ) -> Result<Response<pb::TranslateResponse>, Status> {
        let request = request.into_inner();
        let snapshot = self.snapshot(&request.snapshot)?;
        self.one(&snapshot, request).map(Response::new)
    }

    async fn translate_batch(
        &self,
        request: Request<pb::TranslateBatchRequest>,
    ) -> Result<Response<pb::TranslateBatchResponse>, Status> {
        let request = request.into_inner();
        let snapshot = self.snapshot(&request.snapshot)?;
        batch(&snapshot, &self.counters, &request).map(Response::new)
    }

    type TranslateStreamStream = Answers<pb::TranslateResponse>;

    async fn translate_stream(
        &self,
        request: Request<Streaming<pb::TranslateRequest>>,
    ) -> Result<Response<Self::TranslateStreamStream>, Status> {
        let service = self.clone();
        // One snapshot for the whole stream, so that its answers never mix two.
        let serving = self.store.serving();
        let requests = tokio_stream::StreamExt::timeout(request.into_inner(), SILENCE);
        let answers = requests.map(move |item| {
            let item = item.map_err(|_| late())??;
            if item.snapshot.is_empty() {
                return service.one(&serving, item);
            }
            let pinned = service.snapshot(&item.snapshot)?;
            service.one(&pinned, item)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lookup(&self, request: Request<pb::LookupRequest>) -> Result<Response<pb::LookupResponse>, Status> {
        let request = request.into_inner();
        let code = request.code.filter(|c| !c.system.is_empty() && !c.code.is_empty());
        let code = code.ok_or_else(|| invalid("code", "a code needs a system and a code"))?;
        let snapshot = self.snapshot(&request.snapshot)?;
        let system = snapshot.system(&code.system).ok_or_else(|| convert::unknown(codes::Unknown::System))?;
        let mut out = pb::LookupResponse { snapshot: snapshot.digest().to_vec(), ..pb::LookupResponse::default() };
        let Some(concept) = snapshot.find_folded(system, &code.code) else {
            out.issues.push(issue(&issues::CONCEPT, ""));
            return Ok(Response::new(out));
        };
        let asked = [String::from("en")];
        let languages = if request.languages.is_empty() { &asked[..] } else { &request.languages };
        let content = snapshot.contents(concept).find(|c| code.version.is_empty() || c.version == code.version);
        let complete = snapshot.versions(system).any(|v| v.complete);
        out.found = content.is_some() || !complete;
        out.active = content.is_none_or(|c| c.active);
        out.version = content.map(|c| c.version.to_owned()).unwrap_or_default();
        out.designation = designation::choose(&snapshot, concept, languages).map(convert::designation);
        out.designations = snapshot
            .names(concept)
            .map(|n| pb::Designation { text: n.text.into(), language: n.language.into(), ..pb::Designation::default() })
            .collect();
        if out.designation.is_none() {
            out.issues.push(issue(&issues::DESIGNATION, ""));
        }
        if !out.active {
            out.issues.push(issue(&issues::INACTIVE, ""));
        }
        Ok(Response::new(out))
    }

    async fn validate_code(
        &self,
        request: Request<pb::ValidateCodeRequest>,
    ) -> Result<Response<pb::ValidateCodeResponse>, Status> {
        let request = request.into_inner();
        let code = request.code.ok_or_else(|| invalid("code", "a code is required"))?;
        let snapshot = self.snapshot(&request.snapshot)?;
        let found = validate(&snapshot, &code.system, &code.version, &code.code, &request.value_set);
        let found = found.ok_or_else(|| {
            status(Code::NotFound, "VALUE_SET_NOT_FOUND", "4500", "unknown value set or code system", "value_set")
        })?;
        Ok(Response::new(pb::ValidateCodeResponse {
            valid: found.valid,
            message: found.message,
            snapshot: snapshot.digest().to_vec(),
            issues: found.issues.iter().map(|i| issue(i, "")).collect(),
            display: found.display,
        }))
    }

    async fn list_maps(&self, request: Request<pb::ListMapsRequest>) -> Result<Response<pb::ListMapsResponse>, Status> {
        let url = request.into_inner().url;
        let snapshot = self.store.serving();
        let wanted = (0u32..).zip(snapshot.maps()).filter(|(_, m)| url.is_empty() || m.url == url);
        let maps = wanted
            .map(|(index, info)| pb::MapSummary {
                map: Some(map_ref(&snapshot, index)),
                source_system: info.source.to_owned(),
                target_system: info.target.to_owned(),
                rows: info.rows,
                unmatched: info.unmatched,
                status: info.status.to_owned(),
                current: info.current,
            })
            .collect();
        Ok(Response::new(pb::ListMapsResponse {
            maps,
            snapshot: snapshot.digest().to_vec(),
            loaded: self.store.digests().iter().map(|d| d.to_vec()).collect(),
            manifest: snapshot.manifest().to_owned(),
        }))
    }

    async fn expand_filter(
        &self,
        request: Request<pb::ExpandFilterRequest>,
    ) -> Result<Response<pb::ExpandFilterResponse>, Status> {
        let request = request.into_inner();
        if request.codes.len() > BATCH {
            return Err(status(Code::ResourceExhausted, "TOO_MANY", "4500", "at most 1000 codes", "codes"));
        }
        let snapshot = self.store.serving();
        let asked: Vec<(String, String)> = request.codes.into_iter().map(|c| (c.system, c.code)).collect();
        let found = expand::expand(&snapshot, &asked, &request.national_systems);
        Ok(Response::new(pb::ExpandFilterResponse {
            exact: found.exact,
            unrestricted: found.unrestricted,
            snapshot: snapshot.digest().to_vec(),
            asked: found.codes.iter().map(|c| c.asked as u32).collect(),
            codes: found
                .codes
                .into_iter()
                .map(|c| pb::Code { system: c.system, code: c.code, ..pb::Code::default() })
                .collect(),
        }))
    }

    async fn coverage(&self, request: Request<pb::CoverageRequest>) -> Result<Response<pb::CoverageResponse>, Status> {
        let most = request.into_inner().most.clamp(1, 1000) as usize;
        let (snapshot, counters) = (self.store.serving(), self.counters.clone());
        let work = tokio::task::spawn_blocking(move || coverage::count(&snapshot, Some(&counters), most));
        let found = work.await.map_err(|_| Status::internal("counting stopped"))?;
        let code = |(system, code)| pb::Code { system, code, ..pb::Code::default() };
        Ok(Response::new(pb::CoverageResponse {
            gaps: found
                .gaps
                .into_iter()
                .map(|g| pb::Gap {
                    system: g.system,
                    code: g.code,
                    count: g.count,
                    candidates: g.candidates.into_iter().map(code).collect(),
                })
                .collect(),
            systems: found
                .systems
                .into_iter()
                .map(|s| pb::SystemCoverage {
                    system: s.system,
                    codes: s.codes,
                    exact: s.exact,
                    approximate: s.approximate,
                    unmapped: s.unmapped,
                })
                .collect(),
            snapshot: self.store.serving().digest().to_vec(),
        }))
    }

    type TranscodeDocumentStream = Answers<pb::DocumentEvent>;

    async fn transcode_document(
        &self,
        request: Request<Streaming<pb::DocumentChunk>>,
    ) -> Result<Response<Self::TranscodeDocumentStream>, Status> {
        let within = deadline(&request, DOCUMENT_DEADLINE);
        let work = async {
            let (header, bytes) = document::received(request.into_inner()).await?;
            let snapshot = self.snapshot(&header.snapshot)?;
            document::events(header, bytes, snapshot, &self.counters, &self.cache, &self.profiles).await
        };
        let events = tokio::time::timeout(within, work).await.map_err(|_| late())??;
        Ok(Response::new(Box::pin(tokio_stream::iter(events.into_iter().map(Ok)))))
    }
}

/// Columns in, columns out.
pub fn batch(
    snapshot: &Snapshot,
    counters: &Counters,
    request: &pb::TranslateBatchRequest,
) -> Result<pb::TranslateBatchResponse, Status> {
    if request.system.len() != request.code.len() {
        return Err(invalid("system", "columns differ in length"));
    }
    if request.code.len() > BATCH {
        return Err(status(Code::ResourceExhausted, "TOO_MANY", "4500", "at most 1000 items in a batch", "code"));
    }
    let allowed = allowed(request.policy);
    let wanted = match request.target_system.as_str() {
        "" => None,
        name => Some(snapshot.system(name).ok_or_else(|| convert::unknown(codes::Unknown::TargetSystem))?),
    };
    let mut languages: Vec<String> =
        request.language.split(',').map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).take(10).collect();
    if languages.is_empty() {
        languages.push("en".to_owned());
    }
    let systems: Vec<_> = request.systems.iter().map(|name| snapshot.system(name)).collect();
    let mut targets: Vec<crate::snapshot::System> = Vec::new();
    let mut maps: Vec<u32> = Vec::new();
    let mut out =
        pb::TranslateBatchResponse { snapshot: snapshot.digest().to_vec(), ..pb::TranslateBatchResponse::default() };
    let count = request.code.len();
    for column in [&mut out.outcome, &mut out.relationship] {
        column.reserve_exact(count);
    }
    for column in [&mut out.target_system, &mut out.map] {
        column.reserve_exact(count);
    }
    for column in [&mut out.target_code, &mut out.display] {
        column.reserve_exact(count);
    }
    let index = |list: &mut Vec<u32>, item: u32| match list.iter().position(|i| *i == item) {
        Some(at) => at,
        None => {
            list.push(item);
            list.len() - 1
        }
    };
    for (at, code) in request.system.iter().zip(&request.code) {
        let system = systems.get(*at as usize).ok_or_else(|| invalid("system", "no such system in the table"))?;
        let concept = system.and_then(|s| snapshot.find_folded(s, code));
        let best = concept.and_then(|c| {
            snapshot.rows(c).find(|r| {
                r.target.is_some()
                    && allowed.takes(r.word.relationship())
                    && snapshot.is_current(r.map)
                    && wanted.is_none_or(|w| snapshot.group(r.group).target == w)
                    && snapshot.depends(r).next().is_none()
            })
        });
        let Some((row, target)) = best.and_then(|r| Some((r, r.target?))) else {
            let already = system.is_some_and(|s| wanted.map_or_else(|| snapshot.is_target(s), |w| w == s));
            if !already {
                counters.unmapped(request.systems.get(*at as usize).map_or("", String::as_str), code);
            }
            let outcome = if already { pb::Outcome::AlreadyTarget } else { pb::Outcome::Unmapped };
            out.outcome.push(outcome as i32);
            out.target_system.push(0);
            out.target_code.push(String::new());
            out.relationship.push(pb::Relationship::Unspecified as i32);
            // A reader's word for a code that needs no other code.
            let named = concept.filter(|_| already).and_then(|c| designation::find(snapshot, c, &languages));
            let named = named.filter(|d| d.origin != designation::Origin::Phrase);
            out.display.push(named.map(|d| d.text.into_owned()).unwrap_or_default());
            out.map.push(u32::MAX);
            continue;
        };
        let found = row.word.relationship();
        let outcome =
            if found == Relationship::Equivalent { pb::Outcome::Mapped } else { pb::Outcome::MappedApproximate };
        out.outcome.push(outcome as i32);
        let (system, target_code) = snapshot.row_target(&row).unwrap_or((snapshot.system_of(target), ""));
        let position = targets.iter().position(|s| *s == system).unwrap_or_else(|| {
            targets.push(system);
            targets.len() - 1
        });
        out.target_system.push(position as u32);
        out.target_code.push(target_code.to_owned());
        out.relationship.push(relationship(found) as i32);
        // Our own phrase is no name of the code, and a column has no place to say so.
        let named = designation::find(snapshot, target, &languages);
        let named = named.filter(|d| d.origin != designation::Origin::Phrase).map(|d| d.text);
        out.display.push(named.unwrap_or_else(|| snapshot.row_display(&row).into()).into_owned());
        out.map.push(index(&mut maps, row.map) as u32);
    }
    out.target_systems = targets.iter().map(|s| snapshot.system_name(*s).to_owned()).collect();
    out.maps = maps.iter().map(|m| map_ref(snapshot, *m)).collect();
    Ok(out)
}

/// Whether a code is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// It is.
    pub valid: bool,
    /// Why not.
    pub message: String,
    /// Its display.
    pub display: String,
    /// Remarks.
    pub issues: Vec<codes::Issue>,
}

/// Validates a code in its system, or in a value set; `None` for an unknown system or value set.
pub fn validate(snapshot: &Snapshot, system: &str, version: &str, code: &str, value_set: &str) -> Option<Validation> {
    let set = if value_set.is_empty() { None } else { Some(snapshot.value_set(value_set)?) };
    let number = snapshot.system(system);
    if set.is_none() && number.is_none() {
        return None;
    }
    let no = |message: &str, issue| Validation {
        valid: false,
        message: message.to_owned(),
        display: String::new(),
        issues: vec![issue],
    };
    let Some(concept) = number.and_then(|s| snapshot.find_folded(s, code)) else {
        return Some(no("the code is not known in its code system", issues::CONCEPT));
    };
    let display = snapshot.names(concept).next().map(|n| n.text.to_owned()).unwrap_or_default();
    if let Some(set) = set
        && !set.contains(concept)
    {
        let why =
            if set.complete { "the code is not in the value set" } else { "the code is not among the known members" };
        return Some(Validation { display, ..no(why, issues::VALUE_SET) });
    }
    let content = snapshot.contents(concept).find(|c| version.is_empty() || c.version == version);
    if content.is_none() && set.is_none() {
        return Some(Validation { display, ..no("the code is not in that version", issues::CONCEPT) });
    }
    let active = content.is_none_or(|c| c.active);
    Some(Validation {
        valid: active,
        message: if active { String::new() } else { "the code is inactive".to_owned() },
        display,
        issues: if active { Vec::new() } else { vec![issues::INACTIVE] },
    })
}

#[cfg(test)]
pub(crate) mod tests;
