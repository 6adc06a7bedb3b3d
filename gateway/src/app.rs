//! Wiring, top to bottom.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ncp_audit::{AuditSink, Event};
use ncp_saml::Verifier;
use ncp_tls::{CertificateFacts, Material};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::admission::Capacity;
use crate::clinician::{self, Clinic};
use crate::compare::Budget;
use crate::config::Config;
use crate::consumer::{self, Consumers};
use crate::initiating::announced::Remembered;
use crate::initiating::guard::Guards;
use crate::lists::LISTS;
use crate::national::National;
use crate::pending::Pending;
use crate::reload;
use crate::responding::rate::Limiter;
use crate::responding::replay::{self, Memory, RedisOptions, ReplaySet};
use crate::shutdown::{self, Drain};
use crate::smp::{Services, Source};
pub use crate::snapshot::{Learned, Peers, Snapshot};
use crate::telemetry::Metrics;
use crate::translate::Translator;
use crate::{health, listener};

/// Everything an exchange needs, shared by all of them.
pub struct App {
    /// The file as read at start.
    pub config: Config,
    /// Trust, policy, keys and peers, swapped as one.
    pub snapshot: ArcSwap<Snapshot>,
    /// What the SMP told: a snapshot has the addresses, this their age.
    pub services: ArcSwap<Services>,
    /// Verifies assertions; its threads own their keys.
    pub verifier: Verifier,
    /// The audit trail.
    pub audit: AuditSink,
    /// National systems; absent in a country that only asks.
    pub national: Option<National>,
    /// Memory for documents that wait to be compared, of all exchanges.
    pub compare: Budget,
    /// What other countries announced of their documents.
    pub announced: Remembered,
    /// The translation service.
    pub translator: Option<Translator>,
    /// Assertion bindings and repeated MessageIDs.
    pub replay: ReplaySet,
    /// How often somebody asks.
    pub rate: Limiter,
    /// Counters and durations.
    pub metrics: Metrics,
    /// Circuit breakers and bulkheads towards other countries.
    pub guards: Arc<Guards>,
    /// Requests whose answers come over another connection.
    pub pending: Arc<Pending>,
    /// Permits of answers that we post to other countries, apart from those of what is answered on its connection.
    pub replies: Capacity,
    /// What is open, and whether we stop.
    pub drain: Drain,
}

/// Builds everything, top to bottom. Nothing is bound yet.
///
/// # Errors
/// Everything that is wrong, for operators.
pub async fn build(config: Config) -> Result<Arc<App>, Vec<String>> {
    let one = |what: String| vec![what];
    let verifier = Verifier::start(config.seal.workers).map_err(|e| one(format!("seal: {e}")))?;
    let mut learned = Learned::default();
    if let Some(section) = &config.smp {
        learned.services = Source::new(section).map_err(one)?.kept(&config.peer, &verifier).await;
    }
    let snapshot = Snapshot::load(&config, &learned)?;
    let replay = ReplaySet::within(&memory(&config).map_err(one)?, config.replay.bytes).map_err(one)?;
    let rate = Limiter::new(&config.rate);
    let signer = &snapshot.signer;
    let metrics = Metrics::default();
    let compare = Budget::new(config.limits.compare_bytes, config.limits.document_bytes);
    let start = |n| National::start(&config, n, signer, compare.clone(), metrics.clone());
    let national = config.national.as_ref().map(start).transpose().map_err(one)?;
    let translator =
        config.translation.as_ref().map(Translator::new).transpose().map_err(|e| one(format!("translation: {e}")))?;
    let own = Material::load(&config.listener.certificate, &config.listener.key)
        .and_then(|material| CertificateFacts::of(material.leaf()));
    let node = own.map_err(|e| one(format!("listener: {e}")))?.common_name;
    // Without a certificate to ask with, nothing is asked.
    let client = config.client.as_ref().map(|client| {
        Material::load(&client.certificate, &client.key).and_then(|material| CertificateFacts::of(material.leaf()))
    });
    let client = client.transpose().map_err(|e| one(format!("client: {e}")))?.map_or(String::new(), |c| c.common_name);
    let spool = config.audit.spool_of(node, client, config.gateway.home_community_id.to_string());
    let audit = AuditSink::open(&spool).await.map_err(|e| one(format!("audit: {e}")))?;
    deliver(&config, &audit).map_err(one)?;
    let replies = listener::reply_capacity(&config.limits);
    let guards = Arc::new(Guards::new(&config.limits, metrics.clone()));
    Ok(Arc::new(App {
        config,
        services: ArcSwap::from_pointee(learned.services),
        snapshot: ArcSwap::from_pointee(snapshot),
        verifier,
        audit,
        national,
        compare,
        announced: Remembered::default(),
        translator,
        replay,
        rate,
        metrics,
        guards,
        pending: Arc::default(),
        replies,
        drain: Drain::default(),
    }))
}

/// Starts what takes records from the spool to repositories.
fn deliver(config: &Config, audit: &AuditSink) -> Result<(), String> {
    if let Some(feed) = &config.audit.feed {
        let connector = feed.tls.connector(b"\x02h2").map_err(|e| format!("audit.feed: {e}"))?;
        let channel =
            ncp_tls::channel(&feed.endpoint, &feed.server_name, connector).map_err(|e| format!("audit.feed: {e}"))?;
        tokio::spawn(ncp_audit::feed(audit.clone(), channel));
    }
    for target in config.audit.syslog_targets()? {
        tokio::spawn(ncp_audit::syslog(audit.clone(), target));
    }
    for target in config.audit.fhir_targets()? {
        tokio::spawn(ncp_audit::fhir_feed(audit.clone(), target));
    }
    tokio::spawn(ncp_audit::heartbeat(audit.clone()));
    Ok(())
}

/// Gives up the way back to the last release; what was done, for operators.
///
/// # Errors
/// The replay journal cannot be read or written, or a gateway runs; Redis does not answer.
pub async fn migrate(config: &Config) -> Result<String, String> {
    let memory = memory(config)?;
    let (bindings, was_there) = replay::migrate(&memory).await?;
    let form = if was_there { "the form of the last release is removed" } else { "there was no other form" };
    let shared = if matches!(memory, Memory::Redis(..)) { "; redis: keys name the issuer from now on" } else { "" };
    Ok(format!("replay journal: {bindings} bindings, {form}{shared}"))
}

fn memory(config: &Config) -> Result<Memory, String> {
    let journal = config.audit.spool_dir.join("replay.journal");
    let (Some(url), Some(file)) = (&config.replay.redis, &config.replay.key_file) else {
        return Ok(Memory::Local(journal));
    };
    let options = RedisOptions {
        url: url.clone(),
        tenant: config.gateway.country.to_string(),
        key: crate::clinician::sealed::read_key(file)?,
        timeout: config.replay.timeout,
        replicas: config.replay.replicas(),
        on_loss: config.replay.on_loss,
    };
    Ok(Memory::Redis(options, journal))
}

/// The program with its sockets bound.
pub struct Bound {
    app: Arc<App>,
    peers: TcpListener,
    admin: TcpListener,
    clinic: Option<(Arc<Clinic>, TcpListener)>,
    consumers: Option<(Arc<Consumers>, TcpListener)>,
}

/// Binds all listeners.
///
/// # Errors
/// Addresses that cannot be bound, what a side's files lack.
pub async fn bind(app: Arc<App>) -> Result<Bound, String> {
    let config = &app.config;
    let share = config.limits.peer_share_percent.into();
    for budget in [&ncp_xml::REQUESTS, &ncp_xml::ANSWERS, &crate::whole::WHOLE] {
        budget.set(config.limits.reading_bytes, share);
    }
    LISTS.set(config.limits.list_bytes, share);
    let bind = |address: SocketAddr| async move {
        TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))
    };
    let clinic = match &config.clinician {
        None => None,
        Some(side) => {
            let clinic = Clinic::new(app.clone(), side)?;
            Some((Arc::new(clinic), bind(side.listen).await?))
        }
    };
    let consumers = match &config.consumer {
        None => None,
        Some(side) => {
            let consumers = Consumers::new(app.clone(), side);
            Some((Arc::new(consumers), bind(side.listen).await?))
        }
    };
    let (peers, admin) = (bind(config.listener.peers).await?, bind(config.listener.admin).await?);
    Ok(Bound { app, peers, admin, clinic, consumers })
}

impl Bound {
    /// Where peers reach us.
    pub fn peers_address(&self) -> Option<SocketAddr> {
        self.peers.local_addr().ok()
    }

    /// Where the admin listener answers.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.local_addr().ok()
    }

    /// Where national consumers reach us.
    pub fn consumers_address(&self) -> Option<SocketAddr> {
        self.consumers.as_ref().and_then(|(_, listener)| listener.local_addr().ok())
    }

    /// Where clinicians' systems reach us.
    pub fn clinicians_address(&self) -> Option<SocketAddr> {
        self.clinic.as_ref().and_then(|(_, listener)| listener.local_addr().ok())
    }

    /// Serves until a signal, drains.
    ///
    /// # Errors
    /// Signals, the trail.
    pub async fn serve(self) -> Result<(), String> {
        let signal = shutdown::signal().map_err(|e| e.to_string())?;
        self.serve_until(signal).await
    }

    /// Serves until `stop` resolves, drains.
    ///
    /// # Errors
    /// The trail.
    pub async fn serve_until(self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let Self { app, peers, admin, clinic, consumers } = self;
        let (config, drain) = (&app.config, &app.drain);
        let trail = |e: ncp_audit::AuditError| format!("audit: {e}");
        app.audit.event(&Event::ApplicationStart, "").await.map_err(trail)?;

        let mut serving = JoinSet::new();
        serving.spawn(listener::serve_peers(app.clone(), peers));
        if let Some((clinic, listener)) = clinic {
            serving.spawn(clinician::serve(clinic, listener));
        }
        if let Some((consumers, listener)) = consumers {
            serving.spawn(consumer::serve(consumers, listener));
        }
        let watching = tokio::spawn(reload::watch(app.clone()));
        let consent = tokio::spawn(reload::watch_consent(app.clone()));
        let times = config.limits.times();
        let admin = tokio::spawn(ncp_tls::serve_plain(admin, health::routes(app.clone()), times, pending()));
        drain.set_ready();
        tracing::info!(peers = %config.listener.peers, country = %config.gateway.country, "gateway is ready");
        stop.await;

        tracing::info!(open = drain.open(), grace = ?config.gateway.shutdown_grace, "draining");
        drain.stop();
        watching.abort();
        consent.abort();
        while serving.join_next().await.is_some() {}
        if !drain.drained(config.gateway.shutdown_grace).await {
            tracing::warn!(open = drain.open(), "grace period over, closing what is open");
        }
        admin.abort();
        app.audit.event(&Event::ApplicationStop, "").await.map_err(trail)
    }
}

/// Listens, serves until a signal, drains.
///
/// # Errors
/// Addresses that cannot be bound, signals, the trail.
pub async fn run(app: Arc<App>) -> Result<(), String> {
    bind(app).await?.serve().await
}
