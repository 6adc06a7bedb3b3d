//! What may change while we run: keys, chains, trust, revocation, policies, token keys, peers. Swapped as one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ncp_ihe::HomeCommunityId;
use ncp_saml::{SealKey, Signer, TokenKey};
use ncp_tls::{Anchors, ClientAuth, Country, Freshness, Material, Ocsp, Purpose, Revocation, SslAcceptor};
use openssl::x509::X509;

use crate::clinician::token::Tokens;
use crate::config::{self, Config, Peer, Token};
use crate::initiating::peers::{self, Route};
use crate::policy::consent::ConsentSource;
use crate::policy::{Policy, PolicyEngine};
use crate::smp;

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
#[derive(Default)]
pub struct Learned {
    /// The OCSP answer about our own server certificate.
    pub staple: Option<Vec<u8>>,
    /// What the SMP told.
    pub services: smp::Services,
    /// The snapshot in use: parts that cannot be loaded anew stay as they are there, each for itself.
    pub before: Option<Arc<Snapshot>>,
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
            if let Err(error) = trust.add(peer) {
                let has_former = before.is_some_and(|before| trust.take(peer.country, before));
                keep(format!("peer {}: {error}", peer.name), has_former);
            }
        }
        let mut keep = |what: String| problems.push(what);
        let with_addresses = smp::applied(&config.peer, config.smp.as_ref(), &learned.services);
        let signer = signer(config).map_err(|e| keep(format!("seal: {e}"))).ok();
        let acceptor = peer_acceptor(config, learned).map_err(|e| keep(format!("listener: {e}"))).ok();
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
        let routes = match &config.client {
            None => BTreeMap::new(),
            Some(client) => {
                peers::routes(client, &with_addresses, &config.limits, &trust.servers).unwrap_or_else(|found| {
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
                },
                stayed,
            )),
            _ => {
                problems.extend(stayed);
                Err(problems)
            }
        }
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

/// Anchors by use and country.
#[derive(Default)]
struct Trust {
    seals: BTreeMap<Country, Arc<Anchors>>,
    clients: BTreeMap<Country, Arc<Anchors>>,
    servers: BTreeMap<Country, Arc<Anchors>>,
}

impl Trust {
    /// Takes what is in use for a country; false where there is none.
    fn take(&mut self, country: Country, before: &Snapshot) -> bool {
        let taken = [
            (&mut self.seals, &before.seal_anchors),
            (&mut self.clients, &before.tls_anchors),
            (&mut self.servers, &before.server_anchors),
        ];
        taken.into_iter().all(|(into, from)| match from.get(&country) {
            Some(anchors) => {
                into.insert(country, anchors.clone());
                true
            }
            None => false,
        })
    }

    fn add(&mut self, peer: &Peer) -> Result<(), ncp_tls::TlsError> {
        let sources = &peer.revocation;
        let mut crls = Vec::new();
        for file in peer.crls.iter().cloned().chain(fetched(peer)) {
            crls.extend(ncp_tls::read_crls(&file)?);
        }
        let ocsp = sources.ocsp_url.as_deref().map(|url| Arc::new(Ocsp::new(url)));
        let crl_needed = peer.crls.is_some() || !sources.crl_urls.is_empty();
        let revocation = Revocation { crls: Arc::new(crls), crl_needed, grace: sources.grace(), ocsp };
        for (map, anchors, purpose, names) in [
            (&mut self.seals, &peer.seal_anchors, Purpose::Seal, peer.pin.of(|names| &names.seal)),
            (&mut self.clients, &peer.tls_anchors, Purpose::TlsClient, peer.pin.of(|names| &names.tls_client)),
            (&mut self.servers, &peer.tls_anchors, Purpose::TlsServer, peer.pin.of(|names| &names.tls_server)),
        ] {
            let anchors = Anchors::load(anchors, revocation.clone(), purpose)?.pinned(names);
            map.insert(peer.country, Arc::new(anchors));
        }
        Ok(())
    }
}

/// Where the CRL of a distribution point is kept.
pub fn crl_file(peer: &Peer, url: &str) -> Option<PathBuf> {
    let name = hex::encode(&openssl::sha::sha256(url.as_bytes())[..8]);
    peer.revocation.cache.as_ref().map(|folder| folder.join(format!("{}-{name}.crl", peer.country)))
}

/// The CRLs fetched so far. With a distribution point configured OpenSSL wants a CRL for every certificate of a path, so
/// that nothing is taken before the first has come.
fn fetched(peer: &Peer) -> impl Iterator<Item = PathBuf> {
    peer.revocation.crl_urls.iter().filter_map(|url| crl_file(peer, url)).filter(|file| file.is_file())
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

fn peer_acceptor(config: &Config, learned: &Learned) -> Result<SslAcceptor, ncp_tls::TlsError> {
    let material = Material::load(&config.listener.certificate, &config.listener.key)?;
    let anchors: Vec<PathBuf> = config.peer.iter().map(|p| p.tls_anchors.clone()).collect();
    material.acceptor_stapling(ClientAuth::Required, &anchors, b"\x08http/1.1", learned.staple.clone())
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
