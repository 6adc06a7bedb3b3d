//! The repository's listeners: gRPC feed and query, syslog, FHIR, admin.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::{Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use ncp_proto::audit::audit_feed_server::{AuditFeed, AuditFeedServer};
use ncp_proto::audit::audit_query_server::{AuditQuery, AuditQueryServer};
use ncp_proto::audit::{Ack, Found, GapsReply, GapsRequest, Record, Refusal, SearchRequest, WatchRequest};
use ncp_tls::{CertificateFacts, GrpcPeer, Times};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use super::access::Access;
use super::index::Search;
use super::reader::{Reader, Readers};
use super::repository::{Incoming, Kept, Repository};
use super::store::Place;
use super::{Config, fhir_api, syslog};
use crate::AuditError;
use crate::bounds::TEXT;
use crate::client::{FOUND_BYTES, QUERY_BYTES};
use crate::delivery::{ACK_BYTES, FEED_BYTES};
use crate::event::{Event, PeerFacts};
use crate::throttle::Throttle;

/// Records made durable together at most.
const GROUP: usize = 256;
/// Bytes of messages of one search that are held at a time, and one record beyond them.
const HELD: usize = 1 << 20;
const H2: &[u8] = b"\x02h2";
/// A feed that brings no record for so long is ended: each gateway sends a heartbeat a minute.
const SILENCE: Duration = Duration::from_secs(180);
/// A number that is missing for so long is a loss, not a delay, µs.
const MISSING: i64 = 5 * 60 * 1_000_000;

/// The repository and the rules of access to it, shared by the listeners.
#[derive(Clone)]
pub(super) struct Shared {
    repository: Arc<Mutex<Repository>>,
    readers: Arc<Readers>,
    counters: Arc<Readers>,
    access: Arc<Access>,
    refusals: Arc<Throttle>,
    /// The last records could not be stored.
    failing: Arc<AtomicBool>,
}

impl Shared {
    fn new(repository: Repository, config: &Config) -> Self {
        let access = Arc::new(Access::new(config));
        let readers = Arc::new(Readers::searching(config.clone()));
        let counters = Arc::new(Readers::counting(config.clone()));
        let (refusals, failing) = Default::default();
        Self { repository: Arc::new(Mutex::new(repository)), readers, counters, access, refusals, failing }
    }

    /// Who reads, apart from the one who writes.
    pub(super) fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Repository> {
        self.repository.lock().unwrap_or_else(|p| p.into_inner())
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Records that a certificate was refused, up to a rate.
    pub(super) async fn refused(&self, certificate: &CertificateFacts, rule: &'static str) {
        let name = certificate.common_name.clone();
        tracing::warn!(certificate = name, sha256 = certificate.fingerprint, rule, "refused");
        if !self.refusals.admit(&name) {
            return;
        }
        let suppressed = self.refusals.take();
        let peer = PeerFacts { certificate_name: name, ..PeerFacts::default() };
        let recorded = self.blocking(move |repository| {
            if let Some((count, since)) = suppressed {
                repository.own_event(&Event::Suppressed { rule: rule.to_owned(), count, since })?;
            }
            repository.own_event(&Event::NodeAuthenticationFailed { rule: rule.to_owned(), peer })
        });
        if let Err(error) = recorded.await {
            tracing::error!(reason = %error, "a refused certificate cannot be recorded");
        }
    }

    /// Runs `work` where it may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Repository) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, AuditError> {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || work(&mut shared.lock())).await.map_err(|_| AuditError::Stopped)?
    }

    /// Runs what stores; whether the last could is what readiness says.
    async fn storing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Repository) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, AuditError> {
        let stored = self.blocking(work).await;
        self.failing.store(stored.is_err(), Ordering::Relaxed);
        stored
    }

    /// Whether records can be stored: the last was, and store and index answer.
    async fn ready(&self) -> bool {
        !self.failing.load(Ordering::Relaxed) && self.blocking(Repository::check).await.is_ok()
    }

    pub(super) async fn keep_foreign(
        &self,
        source: String,
        transport: &'static str,
        messages: Vec<Incoming>,
    ) -> Result<Vec<Kept>, AuditError> {
        let kept = self.storing(move |repository| repository.keep_foreign(&source, transport, messages)).await;
        kept.inspect_err(|error| tracing::error!(reason = %error, "records cannot be stored"))
    }
}

#[derive(Clone)]
struct Service(Shared, watch::Receiver<bool>);

/// Serves until `stop` resolves.
///
/// # Errors
/// TLS material, addresses, folder, database.
pub async fn serve(config: &Config, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), AuditError> {
    let other = |e: ncp_tls::TlsError| AuditError::Repository(e.to_string());
    let sources = |alpn: &'static [u8]| config.source_tls().mutual_acceptor(alpn).map_err(other);
    let internal = config.tls().mutual_acceptor(H2).map_err(other)?;
    let for_open = config.clone();
    let opened = tokio::task::spawn_blocking(move || Repository::open(&for_open));
    let shared = Shared::new(opened.await.map_err(|_| AuditError::Stopped)??, config);
    let (tell, told) = watch::channel(false);
    // Who cannot serve leaves nothing on the trail.
    let feed = TcpListener::bind(config.feed).await?;
    let query = TcpListener::bind(config.query).await?;
    let admin = TcpListener::bind(config.admin).await?;
    let of_syslog = match config.syslog {
        Some(address) => Some((TcpListener::bind(address).await?, sources(b"")?)),
        None => None,
    };
    let of_fhir = match config.fhir {
        Some(address) => {
            let (listener, acceptor) = (TcpListener::bind(address).await?, sources(b"\x08http/1.1")?);
            Some((fhir_api::Api::new(shared.clone(), config, address)?, listener, acceptor))
        }
        None => None,
    };
    shared
        .blocking(|r| r.own_event(&Event::ApplicationStart).and_then(|()| r.own_event(&Event::RecordingStarted)))
        .await?;

    let mut listeners = tokio::task::JoinSet::new();
    if let Some((listener, acceptor)) = of_syslog {
        listeners.spawn(syslog::serve(shared.clone(), listener, acceptor, told.clone()));
    }
    if let Some((api, listener, acceptor)) = of_fhir {
        listeners.spawn(fhir_api::serve(api, listener, acceptor, told.clone()));
    }
    let service = Service(shared.clone(), told.clone());
    let stopped = |mut told: watch::Receiver<bool>| async move {
        let _ = told.wait_for(|stop| *stop).await;
    };
    let feed_server = tonic::transport::Server::builder()
        .initial_stream_window_size(1 << 20)
        .add_service(
            AuditFeedServer::new(service.clone())
                .max_decoding_message_size(FEED_BYTES)
                .max_encoding_message_size(ACK_BYTES),
        )
        .serve_with_incoming_shutdown(ncp_tls::incoming(feed, internal.clone()), stopped(told.clone()));
    let query_server = tonic::transport::Server::builder()
        .add_service(
            AuditQueryServer::new(service.clone())
                .max_decoding_message_size(QUERY_BYTES)
                .max_encoding_message_size(FOUND_BYTES),
        )
        .serve_with_incoming_shutdown(ncp_tls::incoming(query, internal), stopped(told.clone()));
    let (metrics, health) = (shared.clone(), shared.clone());
    let routes = axum::Router::new()
        .route("/livez", axum::routing::get(|| async { "live\n" }))
        .route("/readyz", axum::routing::get(move || readiness(health.clone())))
        .route("/metrics", axum::routing::get(move || render(metrics.clone())));
    let admin_server = ncp_tls::serve_plain(admin, routes, Times::default(), stopped(told.clone()));
    listeners.spawn(look_for_gaps(shared.clone(), told));
    tokio::spawn(async move {
        stop.await;
        tell.send_replace(true);
    });
    tracing::info!(feed = %config.feed, query = %config.query, "audit record repository is ready");
    let transport = |e: tonic::transport::Error| AuditError::Repository(e.to_string());
    let (feed, query, ()) = tokio::join!(feed_server, query_server, admin_server);
    while listeners.join_next().await.is_some() {}
    feed.map_err(transport)?;
    query.map_err(transport)?;
    shared.blocking(|r| r.own_event(&Event::RecordingStopped).and_then(|()| r.own_event(&Event::ApplicationStop))).await
}

/// A loss that nobody sees is the worst: what is missing is said once a minute.
async fn look_for_gaps(shared: Shared, mut told: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
            _ = told.wait_for(|stop| *stop) => return,
        }
        let now = Timestamp::now().as_microsecond();
        let gaps = shared.counters.run("gaps", |r| r.gaps()).await;
        let gaps = gaps.inspect_err(|error| tracing::error!(reason = %error, "missing records cannot be looked for"));
        let Ok(gaps) = gaps else { continue };
        for gap in gaps.into_iter().filter(|gap| now - gap.seen_us > MISSING) {
            let (source, epoch) = (gap.source, gap.epoch);
            tracing::error!(source, epoch, first = gap.first_seq, last = gap.last_seq, "audit records are missing");
        }
    }
}

/// A repository that cannot store is not ready: nobody should send to it.
async fn readiness(shared: Shared) -> (StatusCode, &'static str) {
    match shared.ready().await {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "records cannot be stored\n"),
    }
}

async fn render(shared: Shared) -> String {
    let counted = shared.counters.run("metrics", |r| r.counts()).await;
    let Ok((records, missing, rejected)) = counted else { return "# EOF\n".to_owned() };
    format!(
        "# TYPE ncp_audit_records gauge\nncp_audit_records {records}\n\
         # TYPE ncp_audit_missing_records gauge\nncp_audit_missing_records {missing}\n\
         # TYPE ncp_audit_rejected_messages gauge\nncp_audit_rejected_messages {rejected}\n# EOF\n"
    )
}

fn certificate<T>(request: &Request<T>) -> Result<Arc<CertificateFacts>, Status> {
    let known = request.extensions().get::<GrpcPeer>().and_then(|peer| peer.0.clone());
    known
        .filter(|certificate| !certificate.common_name.is_empty())
        .ok_or_else(|| Status::unauthenticated("a client certificate with a name is required"))
}

impl Service {
    /// The name of who calls, if the configuration lists it among the readers.
    async fn reader<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let certificate = certificate(request)?;
        if !self.0.access().may_read(&certificate) {
            self.0.refused(&certificate, "certificate may not read the trail").await;
            return Err(Status::permission_denied("this certificate may not read the trail"));
        }
        Ok(certificate.common_name.clone())
    }

    /// The name of who calls, if the configuration lists it among the writers.
    async fn writer<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let certificate = certificate(request)?;
        if self.0.access().writer(&certificate).is_none() {
            self.0.refused(&certificate, "certificate may not write the trail").await;
            return Err(Status::permission_denied("this certificate may not write the trail"));
        }
        Ok(certificate.common_name.clone())
    }
}

fn internal(error: &AuditError) -> Status {
    match error {
        AuditError::TooCostly => return Status::resource_exhausted("the search takes too long: narrow it"),
        AuditError::Busy => return Status::unavailable("too many searches at once, try again in 2 s"),
        _ => {}
    }
    tracing::error!(reason = %error, "repository failed");
    Status::unavailable("records cannot be stored or read now")
}

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AuditFeed for Service {
    type AppendStream = Stream_<Ack>;

    async fn append(&self, request: Request<Streaming<Record>>) -> Result<Response<Self::AppendStream>, Status> {
        let source = self.writer(&request).await?;
        let shared = self.0.clone();
        let mut stop = self.1.clone();
        let mut records = request.into_inner().ready_chunks(GROUP);
        // The number of the last record that could be read on this stream.
        let mut read = (0, 0);
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                // A feed is open for as long as its gateway runs and brings records; told to stop, we end it between two groups, so that
                // what was taken is kept and acknowledged and the gateway sends the rest again later.
                let group = tokio::select! {
                    group = tokio::time::timeout(SILENCE, records.next()) => group,
                    () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                        let _ = sender.send(Err(Status::unavailable("the repository is stopping"))).await;
                        return;
                    }
                };
                let Ok(group) = group else {
                    let silent = Status::deadline_exceeded("no record for three minutes, not even a heartbeat");
                    let _ = sender.send(Err(silent)).await;
                    return;
                };
                let Some(group) = group else { return };
                let (mut taken, mut broken) = (Vec::with_capacity(group.len()), None);
                for record in group {
                    match record {
                        Ok(record) => taken.push(record),
                        Err(status) => {
                            broken = Some(status);
                            break;
                        }
                    }
                }
                let last = taken.iter().map(|r| (r.epoch, r.seq)).max();
                read = last.map_or(read, |last| last.max(read));
                if let Some(last) = last {
                    let source = source.clone();
                    let answer = match shared.storing(move |repository| repository.keep(&source, taken)).await {
                        Ok(()) => Ok(Ack { epoch: last.0, durable_seq: last.1, ..Ack::default() }),
                        Err(error) => Err(internal(&error)),
                    };
                    let failed = answer.is_err();
                    if sender.send(answer).await.is_err() || failed {
                        return;
                    }
                }
                if let Some(status) = broken {
                    // Nothing can be read behind it on this stream: it is named, and the source goes on behind it.
                    if let Some(reason) = unreadable(&status) {
                        tracing::error!(
                            reason,
                            epoch = read.0,
                            seq = read.1,
                            "audit record after this one cannot be read"
                        );
                        let refused = Some(Refusal { epoch: read.0, seq: read.1, next: true, reason: reason.into() });
                        let ack = Ack { epoch: read.0, durable_seq: read.1, checkpoint_seq: 0, refused };
                        let _ = sender.send(Ok(ack)).await;
                    }
                    let _ = sender.send(Err(status)).await;
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}

/// Why a record can never be read; none: the connection failed.
fn unreadable(status: &Status) -> Option<&'static str> {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Some("longer than the repository reads"),
        Code::Internal if status.message().starts_with("failed to decode Protobuf message") => Some("no audit record"),
        _ => None,
    }
}

/// The records of a search, read as fast as they are taken: no more than some are held at a time. One that cannot be read
/// ends the stream with an error. Between two groups a reader may be lent to others, and is waited for.
fn read_on(
    readers: Arc<Readers>,
    user: String,
    places: VecDeque<Place>,
) -> impl Stream<Item = Result<Found, Status>> + Send {
    let groups = futures_util::stream::try_unfold((readers, places), move |(readers, mut places)| {
        let user = user.clone();
        async move {
            if places.is_empty() {
                return Ok::<_, Status>(None);
            }
            let work = move |reader: &mut Reader| Ok((reader.next_of(&mut places, HELD)?, places));
            let (found, places) = readers.go_on(&user, work).await.map_err(|error| internal(&error))?;
            Ok(Some((futures_util::stream::iter(found.into_iter().map(Ok)), (readers, places))))
        }
    });
    groups.try_flatten()
}

/// Why somebody reads the trail: the reading needs it, and its record holds it.
pub(super) fn reason(text: &str) -> Result<&str, &'static str> {
    match text.trim() {
        "" => Err("a reason is required: say why the trail is read"),
        text if text.len() > TEXT => Err("the reason is longer than 4 KiB"),
        text => Ok(text),
    }
}

/// What a search was for, without the patient's identifier.
fn told(filter: &SearchRequest) -> String {
    format!(
        "user={} purpose={} study={} transaction={} patient={} reason={}",
        !filter.user.is_empty(),
        filter.purpose,
        filter.study,
        filter.transaction,
        !filter.patient.is_empty(),
        filter.reason
    )
}

#[tonic::async_trait]
impl AuditQuery for Service {
    type SearchStream = Stream_<Found>;
    type WatchStream = Stream_<Found>;

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<Self::SearchStream>, Status> {
        let user = self.reader(&request).await?;
        let filter = request.into_inner();
        reason(&filter.reason).map_err(Status::invalid_argument)?;
        if [&filter.purpose, &filter.study, &filter.transaction].into_iter().any(|text| text.len() > TEXT) {
            return Err(Status::invalid_argument("a text of the search is longer than 4 KiB"));
        }
        let by = user.clone();
        // The reading is on the trail before anything is read.
        let noted = self.0.blocking(move |repository: &mut Repository| {
            repository.own_event(&Event::AuditLogUsed { user: by, query: told(&filter) })?;
            Ok(Search::of(&filter, &repository.patient_hash(&filter.patient)))
        });
        let search = noted.await.map_err(|error| internal(&error))?;
        let places = self.0.readers().run(&user, move |reader| reader.search(&search)).await;
        let places = places.map_err(|error| internal(&error))?;
        Ok(Response::new(Box::pin(read_on(self.0.readers().clone(), user, places.into()))))
    }

    async fn gaps(&self, request: Request<GapsRequest>) -> Result<Response<GapsReply>, Status> {
        let user = self.reader(&request).await?;
        let used = Event::AuditLogUsed { user: user.clone(), query: "sources and gaps".into() };
        self.0.blocking(move |r| r.own_event(&used)).await.map_err(|error| internal(&error))?;
        let state = self.0.counters.run(&user, |reader| reader.state()).await;
        state.map(Response::new).map_err(|error| internal(&error))
    }

    async fn rejected(&self, request: Request<ncp_proto::audit::RejectedRequest>) -> Result<Response<Found>, Status> {
        let user = self.reader(&request).await?;
        let at = request.into_inner();
        let place = Place { segment: at.segment, offset: at.offset };
        let query = format!("refused message reason={}", reason(&at.reason).map_err(Status::invalid_argument)?);
        let used = Event::AuditLogUsed { user: user.clone(), query };
        self.0.blocking(move |r| r.own_event(&used)).await.map_err(|error| internal(&error))?;
        let read = self.0.readers().run(&user, move |reader| reader.read(place)).await;
        read.map(Response::new).map_err(|error| match error {
            AuditError::Busy => internal(&error),
            _ => Status::not_found("no record there"),
        })
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let user = self.reader(&request).await?;
        let query = format!("watch reason={}", reason(&request.into_inner().reason).map_err(Status::invalid_argument)?);
        let begin = move |r: &mut Repository| {
            r.own_event(&Event::AuditLogUsed { user, query })?;
            Ok(r.watch())
        };
        let kept = self.0.blocking(begin).await.map_err(|error| internal(&error))?;
        let stream = tokio_stream::wrappers::BroadcastStream::new(kept).map(|kept| {
            kept.map(|found| (*found).clone()).map_err(|_| Status::data_loss("too slow: search for the rest"))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SE-05: an export that has begun waits while all readers are at work for others, and goes on.
    #[tokio::test]
    async fn se_05_an_export_does_not_break_off_while_others_read() {
        // What a reader that was waited for is told by here.
        let mut readers = Readers::new(|| Err(AuditError::Stopped));
        readers.wait = Duration::ZERO;
        let readers = Arc::new(readers);
        let mut others = Vec::new();
        for n in 0..4 {
            others.push(readers.turn(&format!("other {n}")).await.expect("a reader"));
        }
        let begins = readers.run("export", |_| Ok(())).await;
        assert!(matches!(begins, Err(AuditError::Busy)), "who begins is told");
        let place = Place { segment: 1, offset: 0 };
        let mut export = std::pin::pin!(read_on(readers, "export".into(), VecDeque::from([place])));
        let group = tokio::time::timeout(Duration::from_millis(50), export.next()).await;
        assert!(group.is_err(), "it waits: {group:?}");
        drop(others);
        let group = export.next().await.expect("a group").expect_err("its reader cannot be opened");
        assert_eq!(group.message(), internal(&AuditError::Stopped).message());
    }
}
