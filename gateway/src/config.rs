//! The one typed configuration (`gateway.toml`). Every key is documented in `deploy/config/gateway.toml`.
//!
//! Loading reports every problem of the file at once ([`load`]); nothing binds before the whole file is valid. Secrets
//! are named by path only. No key switches a verification off.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ncp_ihe::HomeCommunityId;
use ncp_tls::{Country, Names, TlsConnector, TlsError, TlsFiles};
use serde::Deserialize;

mod audit;
mod collect;
mod consumer;
mod initiating;
mod national;
mod peer;
mod pin;
mod trust;
mod twice;
mod values;
mod warnings;

pub use audit::{Audit, AuditFeed, AuditFhir, AuditSyslog};
pub use collect::ConfigProblem;
pub use consumer::{Confirmation, Consumer};
pub use initiating::{Client, Clinician, Organisation, Role};
pub use national::{
    Addressed, DicomWeb, Embedded, Grpc, National, NationalConnector as Connector, PatientTransaction, Xds,
    XdsPatients, Xua,
};
pub use peer::{Asynchronous, Peer, PeerKind, SecurityErrors};
pub use pin::{ConsumerNames, PeerNames, Pin};
pub use trust::{Rate, Replay, RevocationSources, Smp};
use values::{country, duration, home, size};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// Where it was read from.
    #[serde(skip)]
    pub source: PathBuf,
    /// Who we are.
    pub gateway: Gateway,
    /// Where we listen.
    pub listener: Listener,
    /// Bounds on what comes from outside.
    #[serde(default)]
    pub limits: Limits,
    /// How we show ourselves to other countries (NCP-B).
    pub client: Option<Client>,
    /// Our own health professionals (NCP-B).
    pub clinician: Option<Clinician>,
    /// National XDS consumers (NCP-B).
    pub consumer: Option<Consumer>,
    /// The NCP's seal, which signs HCP identity and TRC assertions.
    pub seal: Seal,
    /// The translation service; without it originals are passed on with a warning.
    pub translation: Option<Translation>,
    /// The audit trail.
    pub audit: Audit,
    /// Policies and consent (NCP-A).
    pub policy: Policy,
    /// Assertion bindings and repeated MessageIDs (NCP-A).
    #[serde(default)]
    pub replay: Replay,
    /// Where peers publish their addresses.
    pub smp: Option<Smp>,
    /// How often one country, point of care, professional may ask, and about one patient (NCP-A).
    #[serde(default)]
    pub rate: Rate,
    /// National systems (NCP-A).
    pub national: Option<National>,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// The other countries.
    #[serde(default)]
    pub peer: Vec<Peer>,
}

/// `[gateway]`
#[derive(Debug, Clone, Deserialize)]
pub struct Gateway {
    /// Two letters.
    #[serde(deserialize_with = "country")]
    pub country: Country,
    /// Our homeCommunityId, `urn:oid:…`.
    #[serde(deserialize_with = "home")]
    pub home_community_id: HomeCommunityId,
    /// What people call this gateway.
    pub name: String,
    /// How long open exchanges may take after SIGTERM.
    #[serde(default = "default_grace", deserialize_with = "duration")]
    pub shutdown_grace: Duration,
}

/// `[listener]`
#[derive(Debug, Clone, Deserialize)]
pub struct Listener {
    /// Peers, mutual TLS.
    pub peers: SocketAddr,
    /// Health and metrics, plain HTTP; keep it on loopback.
    pub admin: SocketAddr,
    /// Server certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// OCSP responder, `http://…`, whose answer about our certificate is stapled to handshakes.
    pub ocsp_url: Option<String>,
    /// Addresses by which peers know us: a message whose `wsa:To` is another is for somebody else. None: it is not compared,
    /// since only the operator knows by which names we are reached.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Paths of XCPD (ITI-55).
    #[serde(default = "xcpd_paths")]
    pub xcpd_paths: Vec<String>,
    /// Paths of XCA (ITI-38, ITI-39).
    #[serde(default = "xca_paths")]
    pub xca_paths: Vec<String>,
    /// Paths of XCA-I (RAD-75).
    #[serde(default = "xcai_paths")]
    pub xcai_paths: Vec<String>,
    /// Paths to which peers post the answers of an asynchronous exchange.
    #[serde(default = "reply_paths")]
    pub reply_paths: Vec<String>,
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// XML part of a request.
    #[serde(deserialize_with = "size")]
    pub message_bytes: usize,
    /// One document (not images).
    #[serde(deserialize_with = "size")]
    pub document_bytes: usize,
    /// Memory for documents that wait to be compared with hash and size, all exchanges together.
    #[serde(deserialize_with = "size")]
    pub compare_bytes: usize,
    /// Memory for requests that are being read, all exchanges together, as much for answers to our own, and as much for
    /// documents that are held as one until their last byte has gone. One sender, and one professional for whom documents are
    /// held, has `peer_share_percent` of each. What finds none left is answered as busy.
    #[serde(deserialize_with = "size")]
    pub reading_bytes: usize,
    /// Memory for what registries and countries list of patients, until it was written, all lists together; those of one
    /// country take `peer_share_percent` of it at most. A list that finds none left is answered as busy.
    #[serde(deserialize_with = "size")]
    pub list_bytes: usize,
    /// XML part of a peer's answer.
    #[serde(deserialize_with = "size")]
    pub answer_bytes: usize,
    /// Time for a peer's answer to ITI-55.
    #[serde(deserialize_with = "duration")]
    pub discovery: Duration,
    /// Time for a peer's answer to ITI-38.
    #[serde(deserialize_with = "duration")]
    pub query: Duration,
    /// Time until the first byte of a peer's answer to ITI-39 or RAD-75, and until the receiver of an answer that we post has
    /// confirmed it.
    #[serde(deserialize_with = "duration")]
    pub first_byte: Duration,
    /// Exchanges carried at once, all peers together.
    pub concurrency: usize,
    /// Share of them that one peer may take, percent, and one national consumer; nine tenths as many calls may be open
    /// towards a peer.
    pub peer_share_percent: u8,
    /// Failures in a row after which a country is not asked for a while.
    pub circuit_failures: u32,
    /// How long a circuit stays open at first. The pause doubles after each call that fails then, up to 15 s. A country that
    /// takes no calls is looked for meanwhile: each second for two minutes, then every 15 s, and not after five minutes
    /// without a call.
    #[serde(deserialize_with = "duration")]
    pub circuit_pause: Duration,
    /// Time for the TLS handshake and for the headers.
    #[serde(deserialize_with = "duration")]
    pub handshake: Duration,
    /// How long a connection is kept between requests once it carried one whose sender is authenticated: longer than the
    /// pools of common clients, and of load balancers, keep theirs. Before that it is kept as long as a handshake may take.
    #[serde(deserialize_with = "duration")]
    pub kept: Duration,
    /// Connections that one network (an address of IPv4, a /64 of IPv6) may have open at once at a listener.
    pub connections_of_network: usize,
    /// The longest time that 64 KiB of a body are waited for, and that another system may let so much wait of what we send: a
    /// caller of its answer, a country or a national XDS system of our request or of an answer that we post.
    #[serde(deserialize_with = "duration")]
    pub idle: Duration,
    /// Time for a whole request, however steadily it comes.
    #[serde(deserialize_with = "duration")]
    pub request: Duration,
    /// Documents or studies in one answer.
    pub results: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 16 << 20,
            document_bytes: 64 << 20,
            compare_bytes: 128 << 20,
            reading_bytes: 384 << 20,
            list_bytes: 128 << 20,
            answer_bytes: 64 << 20,
            discovery: Duration::from_secs(10),
            query: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            concurrency: 256,
            peer_share_percent: 40,
            circuit_failures: 5,
            circuit_pause: Duration::from_secs(2),
            handshake: Duration::from_secs(10),
            kept: Duration::from_secs(75),
            connections_of_network: ncp_tls::Bounds::default().of_network,
            idle: Duration::from_secs(30),
            request: Duration::from_secs(120),
            results: 10_000,
        }
    }
}

impl Limits {
    /// What each listener bears.
    pub(crate) fn bounds(&self) -> ncp_tls::Bounds {
        ncp_tls::Bounds { handshake: self.handshake, of_network: self.connections_of_network }
    }

    /// Times of connections without a request under way.
    pub(crate) fn times(&self) -> ncp_tls::Times {
        ncp_tls::Times { unknown: self.handshake, known: self.kept, head: self.handshake }
    }
}

/// `[seal]`
#[derive(Debug, Clone, Deserialize)]
pub struct Seal {
    /// Certificate chain, PEM, leaf first; subject C is our country.
    pub certificate: PathBuf,
    /// RSA (2048 or more) or P-256 key, PEM; none: it is in a token.
    pub key: Option<PathBuf>,
    /// The key in a PKCS#11 token.
    pub pkcs11: Option<Token>,
    /// The seal that follows: taken by itself when the present certificate has less than a day to live.
    pub next: Option<NextSeal>,
    /// Signing and verifying threads, each with keys of its own.
    #[serde(default = "two")]
    pub workers: usize,
}

/// `[seal.next]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextSeal {
    /// Certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM; none: it is in a token.
    pub key: Option<PathBuf>,
    /// Its key in a PKCS#11 token.
    pub pkcs11: Option<Token>,
}

/// `pkcs11` of a seal: a key that signs in its token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The PKCS#11 module, a shared library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the private key.
    pub label: String,
    /// File with the user PIN, mode 0600.
    pub pin_file: PathBuf,
}

/// `[translation]`
#[derive(Debug, Clone, Deserialize)]
pub struct Translation {
    /// `https://host:port`.
    pub endpoint: String,
    /// Name in the service's certificate.
    pub server_name: String,
    /// Mutual TLS towards our own services.
    pub tls: InternalTls,
    /// Deadline for metadata.
    #[serde(default = "two_seconds", deserialize_with = "duration")]
    pub deadline: Duration,
    /// Deadline for a document.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub document_deadline: Duration,
    /// Language of our health professionals, BCP 47, for calls without Accept-Language.
    #[serde(default = "english")]
    pub reader_language: String,
}

/// Mutual TLS between our own processes.
#[derive(Debug, Clone, Deserialize)]
pub struct InternalTls {
    /// Client certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Anchors of our own services.
    pub anchors: PathBuf,
    /// CRLs of the other end, PEM; read again when the file changes.
    pub crls: Option<PathBuf>,
    /// Names of the certificate at the other end; none: every one under the anchors that has the host's name.
    pub names: Option<Names>,
}

impl InternalTls {
    /// Its files by their keys.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let needed: [(&'static str, &Path); 3] =
            [("certificate", &self.certificate), ("key", &self.key), ("anchors", &self.anchors)];
        needed.into_iter().chain(self.crls.as_deref().map(|crls| ("crls", crls)))
    }

    /// As `ncp-tls` wants it.
    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert_chain: self.certificate.clone(),
            key: self.key.clone(),
            anchors: self.anchors.clone(),
            crls: self.crls.clone(),
        }
    }

    /// A client context towards the other end.
    ///
    /// # Errors
    /// Files, OpenSSL.
    pub fn connector(&self, alpn: &'static [u8]) -> Result<TlsConnector, TlsError> {
        self.files().connector_to(self.names.clone(), alpn)
    }

    /// Its files, to be taken from the configuration's folder.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.certificate, &mut self.key, &mut self.anchors].into_iter().chain(&mut self.crls)
    }
}

/// `[policy]`
#[derive(Debug, Clone, Deserialize)]
pub struct Policy {
    /// Folder of `*.cedar`.
    pub folder: PathBuf,
    /// Opt-outs and blocks.
    pub consent_file: PathBuf,
    /// How long the file may be unreadable before everything is closed.
    #[serde(default = "ten_minutes", deserialize_with = "duration")]
    pub consent_max_age: Duration,
    /// A FHIR server with Consent resources, asked besides.
    pub consent: Option<ConsentServer>,
    /// A service of `ncp.national.v1.ConsentSource`, asked besides.
    pub consent_service: Option<ConsentService>,
}

/// `[policy.consent_service]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentService {
    /// `https://host:port`.
    pub endpoint: String,
    /// Name in its certificate.
    pub server_name: String,
    /// Mutual TLS.
    pub tls: InternalTls,
    /// Longest wait; without an answer the request is refused.
    #[serde(default = "two_seconds", deserialize_with = "duration")]
    pub deadline: Duration,
}

/// `[policy.consent]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentServer {
    /// Base of the server, `http(s)://host:port/path`.
    pub url: String,
    /// Anchors of its certificate, PEM; needed for https.
    pub anchors: Option<PathBuf>,
    /// File with a bearer token, mode 0600.
    pub token_file: Option<PathBuf>,
    /// Whether a patient without an active Consent has not consented (and is answered `4701`).
    #[serde(default)]
    pub required: bool,
}

/// `[telemetry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// Filter of log lines, as `info` or `ncp_gateway=debug`.
    pub log: String,
    /// OTLP endpoint (gRPC) for traces; none: no traces.
    pub otlp_endpoint: Option<String>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: "info".into(), otlp_endpoint: None }
    }
}

/// Reads and checks a configuration file: syntax, keys, values, then what values say of each other.
///
/// Relative paths are taken from the file's folder.
///
/// # Errors
/// Every problem found, in file order.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigProblem>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![ConfigProblem::new("", format!("cannot read {}: {error}", path.display()))])?;
    let mut config = collect::parse(&text)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    config.resolve_paths(folder);
    config.source = path.to_owned();
    let problems = config.check();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

impl Config {
    fn resolve_paths(&mut self, folder: &Path) {
        let mut all: Vec<&mut PathBuf> = vec![
            &mut self.listener.certificate,
            &mut self.listener.key,
            &mut self.seal.certificate,
            &mut self.policy.folder,
            &mut self.policy.consent_file,
        ];
        if let Some(translation) = &mut self.translation {
            all.extend(translation.tls.paths());
        }
        all.extend(self.audit.paths());
        all.extend(self.national.iter_mut().flat_map(National::paths));
        for peer in &mut self.peer {
            all.extend([&mut peer.tls_anchors, &mut peer.seal_anchors]);
            all.extend(peer.crls.iter_mut().chain(&mut peer.revocation.cache));
        }
        if let Some(server) = &mut self.policy.consent {
            all.extend(server.anchors.iter_mut().chain(&mut server.token_file));
        }
        if let Some(service) = &mut self.policy.consent_service {
            all.extend(service.tls.paths());
        }
        all.extend(self.replay.paths());
        all.extend(self.smp.iter_mut().flat_map(Smp::paths));
        let mut keys = vec![(&mut self.seal.key, &mut self.seal.pkcs11)];
        if let Some(next) = &mut self.seal.next {
            all.push(&mut next.certificate);
            keys.push((&mut next.key, &mut next.pkcs11));
        }
        for (key, token) in keys {
            all.extend(key);
            all.extend(token.iter_mut().flat_map(|token| [&mut token.module, &mut token.pin_file]));
        }
        all.extend(Self::initiating_paths(&mut self.client, &mut self.clinician));
        all.extend(Self::consumer_paths(&mut self.consumer));
        for path in all {
            if path.is_relative() {
                *path = folder.join(&*path);
            }
        }
    }

    /// What single values cannot show: files that must exist, names that collide, listeners without their section.
    fn check(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut say = |path: &str, what: String| problems.push(ConfigProblem::new(path, what));
        let file = |path: &Path| path.is_file();
        for (key, path) in [
            ("listener.certificate", &self.listener.certificate),
            ("listener.key", &self.listener.key),
            ("seal.certificate", &self.seal.certificate),
            ("audit.spool_key_file", &self.audit.spool_key_file),
            ("policy.consent_file", &self.policy.consent_file),
        ] {
            if !file(path) {
                say(key, format!("no such file: {}", path.display()));
            }
        }
        if !self.policy.folder.is_dir() {
            say("policy.folder", format!("no such folder: {}", self.policy.folder.display()));
        }
        if self.limits.circuit_failures == 0 {
            say("limits.circuit_failures", "at least 1".into());
        }
        if self.seal.workers == 0 || self.seal.workers > 64 {
            say("seal.workers", "between 1 and 64".into());
        }
        if self.peer.is_empty() {
            say("peer", "no country is configured: add a [[peer]]".into());
        }
        for (index, peer) in self.peer.iter().enumerate() {
            let at = |key: &str| format!("peer[{index}].{key}");
            for home in std::iter::once(&peer.home_community_id).chain(&peer.aliases) {
                if *home == self.gateway.home_community_id {
                    say(&at("home_community_id"), format!("{home} is our own"));
                }
            }
            for (key, path) in [("tls_anchors", &peer.tls_anchors), ("seal_anchors", &peer.seal_anchors)] {
                if !file(path) {
                    say(&at(key), format!("no such file: {}", path.display()));
                }
            }
        }
        problems.extend(self.check_twice());
        problems.extend(self.check_national());
        problems.extend(self.check_trust());
        problems.extend(self.check_initiating());
        problems.extend(self.check_consumer());
        problems
    }
}

fn default_grace() -> Duration {
    Duration::from_secs(30)
}
fn two() -> usize {
    2
}
fn english() -> String {
    "en".into()
}
fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}
fn two_seconds() -> Duration {
    Duration::from_secs(2)
}
fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}
fn xcpd_paths() -> Vec<String> {
    vec!["/openncp-ws-server/services/XCPD_Service".into()]
}
fn xca_paths() -> Vec<String> {
    vec!["/openncp-ws-server/services/XCA_Service".into()]
}
fn reply_paths() -> Vec<String> {
    vec!["/wsa/reply".into()]
}
fn xcai_paths() -> Vec<String> {
    vec!["/xcai/retrieve".into()]
}
