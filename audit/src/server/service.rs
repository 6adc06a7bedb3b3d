//! The two gRPC services and the admin routes.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use ncp_proto::audit::audit_feed_server::{AuditFeed, AuditFeedServer};
use ncp_proto::audit::audit_query_server::{AuditQuery, AuditQueryServer};
use ncp_proto::audit::{Ack, Found, Record, SearchRequest};
use ncp_tls::{GrpcPeer, TlsFiles};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::{Config, Index, RecordStore};
use crate::AuditError;
use crate::event::Event;
use crate::message::{self, Site};

/// Records made durable together at most.
const GROUP: usize = 256;
const H2: &[u8] = b"\x02h2";

/// Store and index behind one lock: one sequencer.
struct Repository {
    store: RecordStore,
    index: Index,
    site: Site,
    /// Numbers of the repository's own records.
    own: (u64, u64),
}

/// The repository, and whether it is told to stop.
#[derive(Clone)]
struct Service(Arc<Mutex<Repository>>, watch::Receiver<bool>);

/// Serves until `stop` resolves.
///
/// # Errors
/// TLS material, addresses, folder.
pub async fn serve(config: &Config, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), AuditError> {
    let other = |e: ncp_tls::TlsError| AuditError::Repository(e.to_string());
    let files = TlsFiles {
        cert_chain: config.certificate.clone(),
        key: config.key.clone(),
        anchors: config.anchors.clone(),
        crls: None,
    };
    let acceptor = files.mutual_acceptor(H2).map_err(other)?;
    let store = RecordStore::open(&config.data_dir, &config.key_file)?;
    let index = Index::open(&config.data_dir.join("index.sqlite"))?;
    let site =
        Site { source: config.source.clone(), enterprise_site: config.enterprise_site.clone(), ..Site::default() };
    let own = index.last_of(&config.source)?;
    let (tell, told) = watch::channel(false);
    let service = Service(Arc::new(Mutex::new(Repository { store, index, site, own: (own.0 + 1, 0) })), told);
    service.own_event(&Event::ApplicationStart)?;

    let feed = TcpListener::bind(config.feed).await?;
    let query = TcpListener::bind(config.query).await?;
    let admin = TcpListener::bind(config.admin).await?;
    let stopped = |mut told: watch::Receiver<bool>| async move {
        let _ = told.wait_for(|stop| *stop).await;
    };
    let feed_server = tonic::transport::Server::builder()
        .initial_stream_window_size(1 << 20)
        .add_service(AuditFeedServer::new(service.clone()).max_decoding_message_size(16 << 20))
        .serve_with_incoming_shutdown(ncp_tls::incoming(feed, acceptor.clone()), stopped(tell.subscribe()));
    let query_server = tonic::transport::Server::builder()
        .add_service(AuditQueryServer::new(service.clone()))
        .serve_with_incoming_shutdown(ncp_tls::incoming(query, acceptor), stopped(tell.subscribe()));
    let routes = axum::Router::new()
        .route("/livez", axum::routing::get(|| async { "live\n" }))
        .route("/readyz", axum::routing::get(|| async { "ready\n" }));
    let admin_server = axum::serve(admin, routes).with_graceful_shutdown(stopped(tell.subscribe()));
    tokio::spawn(async move {
        stop.await;
        tell.send_replace(true);
    });
    tracing::info!(feed = %config.feed, query = %config.query, "audit record repository is ready");
    let transport = |e: tonic::transport::Error| AuditError::Repository(e.to_string());
    let (feed, query, admin) = tokio::join!(feed_server, query_server, async { admin_server.await });
    feed.map_err(transport)?;
    query.map_err(transport)?;
    admin?;
    service.own_event(&Event::ApplicationStop)
}

impl Service {
    fn lock(&self) -> std::sync::MutexGuard<'_, Repository> {
        self.0.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// The repository's own records go the same way as all others.
    fn own_event(&self, event: &Event) -> Result<(), AuditError> {
        let mut repository = self.lock();
        repository.own.1 += 1;
        let made = message::of_event(&repository.site, event, "", Timestamp::now());
        let record = Record {
            epoch: repository.own.0,
            seq: repository.own.1,
            event_time_us: made.event_time_us,
            media_type: "application/xml".into(),
            facts: Some(made.facts()),
            message: made.xml.into_bytes(),
        };
        let source = repository.site.source.clone();
        repository.keep(&source, vec![record])
    }

    async fn keep(&self, source: String, records: Vec<Record>) -> Result<(), AuditError> {
        let service = self.clone();
        tokio::task::spawn_blocking(move || service.lock().keep(&source, records))
            .await
            .map_err(|_| AuditError::Stopped)?
    }
}

impl Repository {
    /// Durable first, then the index, then the acknowledgement.
    fn keep(&mut self, source: &str, mut records: Vec<Record>) -> Result<(), AuditError> {
        let last = self.index.last_of(source)?;
        records.retain(|r| (r.epoch, r.seq) > last);
        let received_us = Timestamp::now().as_microsecond();
        let places = self.store.append(source, &records, received_us)?;
        let entries: Vec<_> = places
            .into_iter()
            .zip(records)
            .map(|(place, record)| {
                let patient = record.facts.as_ref().map(|f| f.patient.clone()).unwrap_or_default();
                let patient = self.store.patient_hash(&patient);
                (place, Found { source: source.to_owned(), record: Some(record), received_us }, patient)
            })
            .collect();
        self.index.add(&entries)
    }
}

fn peer<T>(request: &Request<T>) -> Result<String, Status> {
    let known = request.extensions().get::<GrpcPeer>().and_then(|p| p.0.as_ref().map(|c| c.common_name.clone()));
    known
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Status::unauthenticated("a client certificate with a name is required"))
}

fn internal(error: &AuditError) -> Status {
    tracing::error!(reason = %error, "repository failed");
    Status::unavailable("records cannot be stored or read now")
}

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AuditFeed for Service {
    type AppendStream = Stream_<Ack>;

    async fn append(&self, request: Request<Streaming<Record>>) -> Result<Response<Self::AppendStream>, Status> {
        let source = peer(&request)?;
        let service = self.clone();
        let mut records = request.into_inner().ready_chunks(GROUP);
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut stop = service.1.clone();
            loop {
                // A feed is open for as long as its gateway runs; told to stop, we end it between two groups, so that
                // what was taken is kept and acknowledged and the gateway sends the rest again later.
                let group = tokio::select! {
                    group = records.next() => group,
                    () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                        let _ = sender.send(Err(Status::unavailable("the repository is stopping"))).await;
                        return;
                    }
                };
                let Some(group) = group else { return };
                let group: Result<Vec<Record>, Status> = group.into_iter().collect();
                let Ok(group) = group else { return };
                let Some(last) = group.last().map(|r| (r.epoch, r.seq)) else { continue };
                let answer = match service.keep(source.clone(), group).await {
                    Ok(()) => Ok(Ack { epoch: last.0, durable_seq: last.1, checkpoint_seq: 0 }),
                    Err(error) => Err(internal(&error)),
                };
                let failed = answer.is_err();
                if sender.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl AuditQuery for Service {
    type SearchStream = Stream_<Found>;

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<Self::SearchStream>, Status> {
        let user = peer(&request)?;
        let filter = request.into_inner();
        let service = self.clone();
        let found = tokio::task::spawn_blocking(move || {
            // The reading is on the trail before anything is shown.
            let query = format!(
                "user={} purpose={} study={} transaction={} patient={} reason={}",
                !filter.user.is_empty(),
                filter.purpose,
                filter.study,
                filter.transaction,
                !filter.patient.is_empty(),
                filter.reason
            );
            service.own_event(&Event::AuditLogUsed { user, query })?;
            let repository = service.lock();
            let patient = repository.store.patient_hash(&filter.patient);
            let places = repository.index.search(&filter, &patient)?;
            places.into_iter().map(|place| repository.store.read(place)).collect::<Result<Vec<Found>, AuditError>>()
        })
        .await
        .map_err(|_| Status::internal("search stopped"))?
        .map_err(|error| internal(&error))?;
        Ok(Response::new(Box::pin(futures_util::stream::iter(found.into_iter().map(Ok)))))
    }
}
