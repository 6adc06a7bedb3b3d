//! What may change while we run: keys, chains, trust, revocation, policies, token keys, peers. Swapped as one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::HomeCommunityId;
use ncp_saml::{SealKey, Signer, TokenKey};
use ncp_tls::{Anchors, ClientAuth, Country, FileStamp, Freshness, Material, Purpose, Revocation, SslAcceptor};
use openssl::asn1::Asn1Time;
use openssl::x509::X509;

use crate::clinician::token::Tokens;
use crate::config::{self, Config, Peer, Token};
use crate::initiating::peers::{self, Route};
use crate::policy::consent::ConsentSource;
use crate::policy::{Policy, PolicyEngine};
use crate::smp;

mod trust;

pub use trust::crl_file;
use trust::{Source, Trust, stamped};

/// An exchange takes one and keeps it.
pub struct Snapshot {
    /// Counts up with every snapshot of this process.
    pub generation: u64,
    /// Peers by homeCommunityId and alias.
    pub peers: Peers,
    /// Who may do what.
    pub policy: Policy,
    /// Trust in signers, per country.
    pub seal_anchors: BTreeMap<Country, Arc<Anchors>>,
    /// Trust in TLS client certificates, per country.
    pub tls_anchors: BTreeMap<Country, Arc<Anchors>>,
    /// Trust in TLS server certificates, per country.
    pub server_anchors: BTreeMap<Country, Arc<Anchors>>,
    /// Clients towards the countries; empty in a gateway that only responds.
    pub routes: BTreeMap<Country, Route>,
    /// Issues assertions for our own health professionals.
    pub signer: Arc<Signer>,
    /// TLS towards peers.
    pub peer_acceptor: SslAcceptor,
    /// TLS towards clinicians' systems.
    pub clinician_acceptor: Option<SslAcceptor>,
    /// Trust in national consumers.
    pub consumers: Option<ConsumerTrust>,
    /// Keys of the token issuer.
    pub tokens: Option<Tokens>,
    /// Our own certificates and those of the peers' authorities, for expiry metrics.
    pub certificates: Vec<NamedCertificate>,
    /// What the trust in each peer was made from.
    sources: BTreeMap<Country, Arc<Source>>,
    /// What the routes were made from besides that trust.
    client: Option<ClientSource>,
    /// What the peers' acceptor was made from.
    listener: ListenerSource,
}

/// A certificate that somebody must renew.
pub struct NamedCertificate {
    /// Configuration key, as `listener.certificate` or `peer FI tls_anchors`.
    pub name: String,
    /// The certificate.
    pub certificate: X509,
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

/// What a snapshot takes from the one before it, since it was learned and not configured.
#[derive(Clone, Default)]
pub struct Learned {
    /// The OCSP answer about our own server certificate.
    pub staple: Option<Vec<u8>>,
    /// What the SMP told.
    pub services: smp::Services,
    /// The snapshot in use: parts that cannot be loaded anew stay as they are there, each for itself.
    pub before: Option<Arc<Snapshot>>,
    /// Whether parts whose files did not change are loaded anew too, and what they learned is forgotten.
    pub anew: bool,
}

impl Snapshot {
    /// Loads policy, trust, keys and TLS of all peers.
    ///
    /// # Errors
    /// Everything that is wrong, for operators.
    pub fn load(config: &Config, learned: &Learned) -> Result<Self, Vec<String>> {
        let (snapshot, problems) = Self::load_parts(config, learned)?;
        if problems.is_empty() { Ok(snapshot) } else { Err(problems) }
    }

    /// The same for a gateway that runs: policies, consent and the trust in each peer never hold each other back. What
    /// cannot be loaded of them stays as it was and is named.
    ///
    /// # Errors
    /// Everything that is wrong, when another part is.
    pub fn load_parts(config: &Config, learned: &Learned) -> Result<(Self, Vec<String>), Vec<String>> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let before = learned.before.as_deref();
        let unchanged = before.filter(|_| !learned.anew);
        // Of these the former one stays.
        let mut stayed = Vec::new();
        let mut problems = Vec::new();
        let mut keep = |what: String, has_former: bool| match has_former {
            true => stayed.push(what),
            false => problems.push(what),
        };
        let engine = match PolicyEngine::load(&config.policy.folder) {
            Ok(engine) => Some(Arc::new(engine)),
            Err(error) => {
                keep(format!("policy: {error}"), before.is_some());
                before.map(|before| before.policy.engine().clone())
            }
        };
        // The file is read by a task of its own; here only another source is taken.
        let former = before.map(|before| before.policy.consent().clone());
        let consent = match former {
            Some(former) if former.fits(&config.policy) => Some(former),
            former => match ConsentSource::load(&config.policy) {
                Ok(source) => Some(Arc::new(source)),
                Err(error) => {
                    keep(error.to_string(), former.is_some());
                    former
                }
            },
        };
        let mut trust = Trust::default();
        for peer in &config.peer {
            if let Err(error) = trust.add(peer, unchanged) {
                let has_former = before.is_some_and(|before| trust.take(peer.country, before));
                keep(format!("peer {}: {error}", peer.name), has_former);
            }
        }
        let mut keep = |what: String| problems.push(what);
        let with_addresses = smp::applied(&config.peer, config.smp.as_ref(), &learned.services);
        let signer = signer(config).map_err(|e| keep(format!("seal: {e}"))).ok();
        let listener = ListenerSource::of(config, learned);
        let acceptor = match unchanged.filter(|before| before.listener == listener) {
            Some(before) => Ok(before.peer_acceptor.clone()),
            None => peer_acceptor(config, &trust, learned),
        };
        let acceptor = acceptor.map_err(|e| keep(format!("listener: {e}"))).ok();
        let (mut clinician_acceptor, mut tokens) = (None, None);
        if let Some(side) = &config.clinician {
            let client = if side.client_anchors.is_some() { ClientAuth::Optional } else { ClientAuth::None };
            match Material::load(&side.certificate, &side.key)
                .and_then(|material| material.acceptor(client, side.client_anchors.as_slice(), b"\x08http/1.1"))
            {
                Ok(acceptor) => clinician_acceptor = Some(acceptor),
                Err(error) => keep(format!("clinician: {error}")),
            }
            let taken = ncp_tls::Taken { longest_life: side.token_life, untyped: side.untyped_tokens };
            match Tokens::load(&side.jwks_file, taken) {
                Ok(loaded) => tokens = Some(loaded),
                Err(error) => keep(format!("clinician.jwks_file: {error}")),
            }
        }
        let consumers = config.consumer.as_ref().and_then(|side| ConsumerTrust::load(side).map_err(&mut keep).ok());
        let certificates = named(config, &trust);
        let client = config.client.as_ref().map(|client| ClientSource::of(client, config.limits.handshake));
        let same_client = unchanged.filter(|before| before.client == client);
        let routes = match &config.client {
            None => BTreeMap::new(),
            Some(client) => {
                let known = |country: &Country| {
                    let before = same_client?;
                    let same = Arc::ptr_eq(before.server_anchors.get(country)?, trust.servers.get(country)?);
                    before.routes.get(country).filter(|_| same).cloned()
                };
                let made = peers::routes(client, &with_addresses, &config.limits, &trust.servers, known);
                made.unwrap_or_else(|found| {
                    problems.extend(found);
                    BTreeMap::new()
                })
            }
        };
        match (engine, consent, signer, acceptor) {
            (Some(engine), Some(consent), Some(signer), Some(peer_acceptor)) if problems.is_empty() => Ok((
                Self {
                    generation: GENERATION.fetch_add(1, Ordering::Relaxed),
                    peers: Peers::new(&with_addresses),
                    policy: Policy::new(engine, consent),
                    seal_anchors: trust.seals,
                    tls_anchors: trust.clients,
                    server_anchors: trust.servers,
                    routes,
                    signer,
                    peer_acceptor,
                    clinician_acceptor,
                    consumers,
                    tokens,
                    certificates,
                    sources: trust.sources,
                    client,
                    listener,
                },
                stayed,
            )),
            _ => {
                problems.extend(stayed);
                Err(problems)
            }
        }
    }

    /// What of it is past its time for every exchange: our own certificates towards other countries, or the CRLs of all.
    pub fn unusable(&self, now: Timestamp) -> Vec<&'static str> {
        let mut out = Vec::new();
        let in_time = |certificate: &X509| {
            let now = Asn1Time::from_unix(now.as_second());
            now.is_ok_and(|now| *certificate.not_before() <= now && now <= *certificate.not_after())
        };
        let mut own = self
            .certificates
            .iter()
            .filter(|c| ["listener.certificate", "client.certificate"].contains(&c.name.as_str()));
        if !own.all(|c| in_time(&c.certificate)) {
            out.push("its own TLS certificate is out of date");
        }
        // The next seal signs when the present one ends.
        let mut seals = self.certificates.iter().filter(|c| c.name.starts_with("seal."));
        if !seals.any(|c| in_time(&c.certificate)) {
            out.push("its seal is out of date");
        }
        if !self.tls_anchors.is_empty()
            && !self.tls_anchors.values().any(|a| a.revocation().is_believed(now.as_second()))
        {
            out.push("no country has CRLs that are believed");
        }
        out
    }

    /// Whether the certificate that a client presents leads to the anchors of that very peer and is not revoked.
    pub async fn issued_for(&self, peer: &Peer, leaf: &X509, sent: &[X509]) -> Option<Freshness> {
        match self.tls_anchors.get(&peer.country)?.verify_online(leaf, sent, None).await {
            Ok(freshness) => Some(freshness),
            Err(error) => {
                tracing::info!(country = %peer.country, reason = %error, "client certificate refused");
                None
            }
        }
    }
}

/// Trust in national consumers, and TLS towards them.
pub struct ConsumerTrust {
    /// TLS.
    pub acceptor: SslAcceptor,
    /// In their TLS certificates.
    pub clients: Anchors,
    /// In who signs their assertions.
    pub assertions: Arc<Anchors>,
}

impl ConsumerTrust {
    fn load(side: &config::Consumer) -> Result<Self, String> {
        let wrong = |key: &'static str| move |e: ncp_tls::TlsError| format!("consumer.{key}: {e}");
        let material = Material::load(&side.certificate, &side.key).map_err(wrong("certificate"))?;
        let acceptor =
            material.acceptor(ClientAuth::Required, std::slice::from_ref(&side.tls_anchors), b"\x08http/1.1");
        let crls = side.crls.as_ref().map(|file| ncp_tls::read_crls(file)).transpose().map_err(wrong("crls"))?;
        let crls = Arc::new(crls.unwrap_or_default());
        let revocation = Revocation { crls, ..Revocation::none() };
        let clients = Anchors::load(&side.tls_anchors, revocation.clone(), Purpose::TlsClient);
        let assertions = Anchors::load(&side.assertion_anchors, revocation, Purpose::Seal);
        Ok(Self {
            acceptor: acceptor.map_err(wrong("tls_anchors"))?,
            clients: clients.map_err(wrong("tls_anchors"))?.pinned(side.pin.of(|names| &names.tls_client)),
            assertions: Arc::new(
                assertions.map_err(wrong("assertion_anchors"))?.pinned(side.pin.of(|names| &names.seal)),
            ),
        })
    }
}

/// What the routes to the peers are made from, besides the trust in each.
#[derive(PartialEq)]
struct ClientSource {
    files: Vec<(PathBuf, FileStamp)>,
    handshake: Duration,
}

impl ClientSource {
    fn of(client: &config::Client, handshake: Duration) -> Self {
        Self { files: stamped([client.certificate.clone(), client.key.clone()]), handshake }
    }
}

/// What the peers' acceptor is made from.
#[derive(PartialEq)]
struct ListenerSource {
    files: Vec<(PathBuf, FileStamp)>,
    staple: Option<Vec<u8>>,
}

impl ListenerSource {
    fn of(config: &Config, learned: &Learned) -> Self {
        let own = [&config.listener.certificate, &config.listener.key];
        let files = own.into_iter().chain(config.peer.iter().map(|peer| &peer.tls_anchors)).cloned();
        Self { files: stamped(files), staple: learned.staple.clone() }
    }
}

/// The seal in use: the next one as soon as the present one has less than a day to live.
fn signer(config: &Config) -> Result<Arc<Signer>, String> {
    let seal = &config.seal;
    let mut key = seal_key(&seal.certificate, seal.key.as_deref(), seal.pkcs11.as_ref())?;
    if let Some(next) = &seal.next {
        let following = seal_key(&next.certificate, next.key.as_deref(), next.pkcs11.as_ref());
        let following = following.map_err(|e| format!("next: {e}"))?;
        if key.days_left() < 1 && following.is_valid_now() {
            key = following;
        }
    }
    if key.country != config.gateway.country {
        return Err(format!("certificate is of {}, gateway is {}", key.country, config.gateway.country));
    }
    Signer::start(key, seal.workers).map(Arc::new).map_err(|e| e.to_string())
}

fn seal_key(certificate: &Path, key: Option<&Path>, token: Option<&Token>) -> Result<SealKey, String> {
    match (key, token) {
        (Some(key), _) => SealKey::load(certificate, key),
        (None, Some(Token { module, token, label, pin_file })) => {
            let (module, token) = (module.clone(), token.clone());
            let key = TokenKey { module, token, key: label.clone(), pin_file: pin_file.clone() };
            SealKey::in_token(certificate, &key)
        }
        (None, None) => Err("no key".into()),
    }
}

fn peer_acceptor(config: &Config, trust: &Trust, learned: &Learned) -> Result<SslAcceptor, ncp_tls::TlsError> {
    let material = Material::load(&config.listener.certificate, &config.listener.key)?;
    let anchors = trust.clients.values().flat_map(|anchors| anchors.authorities()).cloned();
    material.acceptor_stapling(ClientAuth::Required, anchors, b"\x08http/1.1", learned.staple.clone())
}

fn named(config: &Config, trust: &Trust) -> Vec<NamedCertificate> {
    let mut files = vec![
        ("listener.certificate".to_owned(), &config.listener.certificate),
        ("seal.certificate".to_owned(), &config.seal.certificate),
    ];
    files.extend(config.client.iter().map(|c| ("client.certificate".to_owned(), &c.certificate)));
    files.extend(config.clinician.iter().map(|c| ("clinician.certificate".to_owned(), &c.certificate)));
    files.extend(config.seal.next.iter().map(|n| ("seal.next.certificate".to_owned(), &n.certificate)));
    let read = |path: &PathBuf| std::fs::read(path).ok().and_then(|pem| X509::from_pem(&pem).ok());
    let mut out: Vec<NamedCertificate> = files
        .into_iter()
        .filter_map(|(name, path)| read(path).map(|certificate| NamedCertificate { name, certificate }))
        .collect();
    for (uses, what) in [(&trust.clients, "tls_anchors"), (&trust.seals, "seal_anchors")] {
        for (country, anchors) in uses {
            out.extend(anchors.authorities().map(|certificate| NamedCertificate {
                name: format!("peer {country} {what}"),
                certificate: certificate.clone(),
            }));
        }
    }
    out
}
