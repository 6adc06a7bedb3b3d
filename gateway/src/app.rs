//! Wiring, top to bottom, and the one snapshot of what may change while we run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ncp_audit::{AuditSink, Event};
use ncp_ihe::HomeCommunityId;
use ncp_saml::{SealKey, Signer, Verifier};
use ncp_tls::{Anchors, CertificateFacts, ClientAuth, Country, Material, Purpose, SslAcceptor};
use openssl::ssl::SslRef;
use openssl::x509::X509;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clinician::{self, Clinic};
use crate::config::{Config, Peer};
use crate::consumer::{self, Consumers};
use crate::initiating::guard::Guards;
use crate::initiating::peers::{self, Route};
use crate::national::National;
use crate::pending::Pending;
use crate::policy::consent::ConsentSource;
use crate::policy::{Policy, PolicyEngine};
use crate::responding::replay::ReplaySet;
use crate::shutdown::{self, Drain};
use crate::telemetry::Metrics;
use crate::translate::Translator;
use crate::{health, listener};

/// Everything an exchange needs, shared by all of them.
pub struct App {
    /// The file as read at start.
    pub config: Config,
    /// Trust, policy, keys and peers, swapped as one.
    pub snapshot: ArcSwap<Snapshot>,
    /// Verifies assertions; its threads own their keys.
    pub verifier: Verifier,
    /// Issues assertions for our own health professionals.
    pub signer: Arc<Signer>,
    /// The audit trail.
    pub audit: AuditSink,
    /// National systems; absent in a country that only asks.
    pub national: Option<National>,
    /// The translation service.
    pub translator: Option<Translator>,
    /// Assertion bindings and repeated MessageIDs.
    pub replay: ReplaySet,
    /// Counters and durations.
    pub metrics: Metrics,
    /// Circuit breakers and bulkheads towards other countries.
    pub guards: Arc<Guards>,
    /// Requests whose answers come over another connection.
    pub pending: Arc<Pending>,
}

/// What is swapped as one when configuration is reloaded: an exchange takes one and keeps it.
pub struct Snapshot {
    /// Peers by homeCommunityId and alias.
    pub peers: Peers,
    /// Who may do what.
    pub policy: Policy,
    /// Trust in signers, per country.
    pub seal_anchors: BTreeMap<Country, Arc<Anchors>>,
    /// Trust in TLS client certificates, per country.
    pub tls_anchors: BTreeMap<Country, Arc<Anchors>>,
    /// Clients towards the countries; empty in a gateway that only responds.
    pub routes: BTreeMap<Country, Route>,
}

/// The configured countries.
#[derive(Default)]
pub struct Peers {
    all: Vec<Arc<Peer>>,
}

impl Peers {
    /// Takes the list of the configuration.
    pub fn new(peers: &[Peer]) -> Self {
        Self { all: peers.iter().cloned().map(Arc::new).collect() }
    }

    /// All of them, in file order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.all.iter()
    }

    /// The country whose TLS certificate was shown.
    pub fn by_country(&self, country: Country) -> Option<&Arc<Peer>> {
        self.all.iter().find(|p| p.country == country)
    }

    /// By homeCommunityId or alias.
    pub fn by_home(&self, home: &HomeCommunityId) -> Option<&Arc<Peer>> {
        self.all.iter().find(|p| p.is_known_as(home))
    }
}

impl Snapshot {
    /// Loads policy, trust and TLS of all peers.
    ///
    /// # Errors
    /// Everything that is wrong, for operators.
    pub fn load(config: &Config) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut keep = |what: String| problems.push(what);
        let engine = PolicyEngine::load(&config.policy.folder).map_err(|e| keep(format!("policy: {e}"))).ok();
        let consent = ConsentSource::from_file(&config.policy.consent_file).map_err(|e| keep(e.to_string())).ok();
        let (mut seal_anchors, mut tls_anchors) = (BTreeMap::new(), BTreeMap::new());
        for peer in &config.peer {
            let crls = peer.crls.as_ref();
            match Anchors::load(&peer.seal_anchors, crls, Purpose::Seal) {
                Ok(anchors) => drop(seal_anchors.insert(peer.country, Arc::new(anchors))),
                Err(error) => keep(format!("peer {}: {error}", peer.name)),
            }
            match Anchors::load(&peer.tls_anchors, crls, Purpose::TlsClient) {
                Ok(anchors) => drop(tls_anchors.insert(peer.country, Arc::new(anchors))),
                Err(error) => keep(format!("peer {}: {error}", peer.name)),
            }
        }
        let routes = match &config.client {
            None => BTreeMap::new(),
            Some(client) => peers::routes(client, &config.peer, &config.limits).unwrap_or_else(|found| {
                problems.extend(found);
                BTreeMap::new()
            }),
        };
        match (engine, consent) {
            (Some(engine), Some(consent)) if problems.is_empty() => Ok(Self {
                peers: Peers::new(&config.peer),
                policy: Policy::new(engine, consent),
                seal_anchors,
                tls_anchors,
                routes,
            }),
            _ => Err(problems),
        }
    }

    /// Whether the certificate shown in this handshake leads to the anchors of that very peer.
    pub fn issued_for(&self, peer: &Peer, ssl: &SslRef) -> bool {
        let Some(anchors) = self.tls_anchors.get(&peer.country) else { return false };
        let Some(leaf) = ssl.peer_certificate() else { return false };
        let sent: Vec<X509> =
            ssl.peer_cert_chain().map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
        anchors.verify(&leaf, &sent).is_ok()
    }
}

/// Builds everything, top to bottom. Nothing is bound yet.
///
/// # Errors
/// Everything that is wrong, for operators.
pub async fn build(config: Config) -> Result<Arc<App>, Vec<String>> {
    let one = |what: String| vec![what];
    let snapshot = Snapshot::load(&config)?;
    let seal = SealKey::load(&config.seal.certificate, &config.seal.key).map_err(|e| one(format!("seal: {e}")))?;
    if seal.country != config.gateway.country {
        return Err(one(format!("seal: certificate is of {}, gateway is {}", seal.country, config.gateway.country)));
    }
    let signer = Arc::new(Signer::start(seal, config.seal.workers).map_err(|e| one(format!("seal: {e}")))?);
    let verifier = Verifier::start(config.seal.workers).map_err(|e| one(format!("seal: {e}")))?;
    let national = config.national.as_ref().map(|n| National::start(&config, n, &signer)).transpose().map_err(one)?;
    let translator =
        config.translation.as_ref().map(Translator::new).transpose().map_err(|e| one(format!("translation: {e}")))?;
    let own = Material::load(&config.listener.certificate, &config.listener.key)
        .and_then(|material| CertificateFacts::of(material.leaf()));
    let node = own.map_err(|e| one(format!("listener: {e}")))?.common_name;
    let audit = AuditSink::open(&config.audit.spool_options(node)).await.map_err(|e| one(format!("audit: {e}")))?;
    deliver(&config, &audit).map_err(one)?;
    let metrics = Metrics::default();
    let guards = Arc::new(Guards::new(&config.limits, metrics.clone()));
    Ok(Arc::new(App {
        config,
        snapshot: ArcSwap::from_pointee(snapshot),
        verifier,
        signer,
        audit,
        national,
        translator,
        replay: ReplaySet::default(),
        metrics,
        guards,
        pending: Arc::default(),
    }))
}

/// Starts what takes records from the spool to repositories.
fn deliver(config: &Config, audit: &AuditSink) -> Result<(), String> {
    tokio::spawn(ncp_audit::heartbeat(audit.clone()));
    if let Some(feed) = &config.audit.feed {
        let connector = feed.tls.files().connector(b"\x02h2").map_err(|e| format!("audit.feed: {e}"))?;
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
    Ok(())
}

/// Listens, serves until a signal, drains.
///
/// # Errors
/// Addresses that cannot be bound, TLS material, the trail.
pub async fn run(app: Arc<App>) -> Result<(), String> {
    bind(app).await?.serve().await
}

/// A gateway that listens and does not serve yet.
pub struct Bound {
    app: Arc<App>,
    drain: Drain,
    peers: (TcpListener, SslAcceptor),
    admin: TcpListener,
    clinic: Option<(Arc<Clinic>, TcpListener, SslAcceptor)>,
    consumers: Option<(Arc<Consumers>, TcpListener, SslAcceptor)>,
}

/// Binds all listeners.
///
/// # Errors
/// Addresses that cannot be bound, TLS material.
pub async fn bind(app: Arc<App>) -> Result<Bound, String> {
    let config = &app.config;
    let material =
        Material::load(&config.listener.certificate, &config.listener.key).map_err(|e| format!("listener: {e}"))?;
    let anchors: Vec<PathBuf> = config.peer.iter().map(|p| p.tls_anchors.clone()).collect();
    let acceptor =
        material.acceptor(ClientAuth::Required, &anchors, b"\x08http/1.1").map_err(|e| format!("listener: {e}"))?;
    let bind = |address: SocketAddr| async move {
        TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))
    };
    let peers = (bind(config.listener.peers).await?, acceptor);
    let admin = bind(config.listener.admin).await?;
    let drain = Drain::default();
    let clinic = match &config.clinician {
        None => None,
        Some(side) => {
            let clinic = Clinic::new(app.clone(), side, drain.clone())?;
            let material = Material::load(&side.certificate, &side.key).map_err(|e| format!("clinician: {e}"))?;
            let acceptor =
                material.acceptor(ClientAuth::None, &[], b"\x08http/1.1").map_err(|e| format!("clinician: {e}"))?;
            Some((Arc::new(clinic), bind(side.listen).await?, acceptor))
        }
    };
    let consumers = match &config.consumer {
        None => None,
        Some(side) => {
            let consumers = Consumers::new(app.clone(), side, drain.clone())?;
            let material = Material::load(&side.certificate, &side.key).map_err(|e| format!("consumer: {e}"))?;
            let anchors = std::slice::from_ref(&side.tls_anchors);
            let acceptor = material
                .acceptor(ClientAuth::Required, anchors, b"\x08http/1.1")
                .map_err(|e| format!("consumer: {e}"))?;
            Some((Arc::new(consumers), bind(side.listen).await?, acceptor))
        }
    };
    Ok(Bound { app, drain, peers, admin, clinic, consumers })
}

impl Bound {
    /// Where peers reach us.
    pub fn peers_address(&self) -> Option<SocketAddr> {
        self.peers.0.local_addr().ok()
    }

    /// Where national consumers reach us.
    pub fn consumers_address(&self) -> Option<SocketAddr> {
        self.consumers.as_ref().and_then(|(_, listener, _)| listener.local_addr().ok())
    }

    /// Serves until a signal, drains.
    ///
    /// # Errors
    /// The trail.
    pub async fn serve(self) -> Result<(), String> {
        let Self { app, drain, peers, admin, clinic, consumers } = self;
        let config = &app.config;
        let trail = |e: ncp_audit::AuditError| format!("audit: {e}");
        app.audit.event(&Event::ApplicationStart, "").await.map_err(trail)?;

        let mut serving = JoinSet::new();
        serving.spawn(listener::serve_peers(app.clone(), peers.0, peers.1, drain.clone()));
        if let Some((clinic, listener, acceptor)) = clinic {
            serving.spawn(clinician::serve(clinic, listener, acceptor));
        }
        if let Some((consumers, listener, acceptor)) = consumers {
            serving.spawn(consumer::serve(consumers, listener, acceptor));
        }
        let admin = tokio::spawn(async_serve(admin, health::routes(app.clone(), drain.clone())));
        drain.set_ready();
        tracing::info!(peers = %config.listener.peers, country = %config.gateway.country, "gateway is ready");
        shutdown::signal().await.map_err(|e| e.to_string())?;

        tracing::info!(open = drain.open(), grace = ?config.gateway.shutdown_grace, "draining");
        drain.stop();
        while serving.join_next().await.is_some() {}
        if !drain.drained(config.gateway.shutdown_grace).await {
            tracing::warn!(open = drain.open(), "grace period over, closing open exchanges");
        }
        admin.abort();
        app.audit.event(&Event::ApplicationStop, "").await.map_err(trail)
    }
}

async fn async_serve(listener: TcpListener, routes: axum::Router) {
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(reason = %error, "admin listener ended");
    }
}
