//! Hot reload: at SIGHUP and when a file changes, a new snapshot is loaded and swapped in; what is wrong leaves the old
//! one in place. Connections and exchanges go on; each exchange keeps the snapshot that it began with, and a client
//! certificate is asked about again under the new one.
//!
//! Of the configuration file itself a reload takes peers, policies, seal, certificates and token keys; addresses, limits
//! and national connectors need a restart. SIGHUP also scans the folders of embedded connectors anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ncp_audit::{Event, PeerFacts};
use ncp_tls::{Country, FileStamp, Material, file_stamp};
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, Learned, Snapshot};
use crate::config::{self, Config, Peer};
use crate::national::National;
use crate::policy::consent::{LOOK, Look};
use crate::smp::{Known, Service, Source};
use crate::snapshot::crl_file;

mod fetching;

use fetching::{Failed, Fetching};

/// How often files are looked at.
const POLL: Duration = Duration::from_secs(2);
/// Time for a CRL from its distribution point.
const CRL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a seal that has a next one is looked at: the next signs when the present one nears its end.
const SEAL: Duration = Duration::from_secs(3600);
/// How often our own OCSP answer is fetched.
const STAPLE: Duration = Duration::from_secs(3600);

/// Watches until it is aborted.
pub async fn watch(app: Arc<App>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let learned = Learned { services: (**app.services.load()).clone(), ..Learned::default() };
    let config = Arc::new(app.config.clone());
    let mut watched = Watched { config, learned, fetching: Fetching::new(), old: BTreeSet::new() };
    watched.fetch(&app).await;
    // What changed while the start read.
    let (mut seen, mut changed) = watched.reload(&app, "start").await;
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(POLL) => false,
        };
        let fetched = watched.fetch(&app).await;
        let now = watched.files().await;
        let differs = now != seen;
        seen = now;
        // A file that is still being written changes again: the swap waits for one quiet look.
        if asked || fetched || (changed && !differs) {
            watched.learned.anew = asked;
            (seen, changed) = watched.reload(&app, if asked { "signal" } else { "files" }).await;
            if asked {
                let app = app.clone();
                tokio::task::spawn_blocking(move || app.national.iter().for_each(National::rescan));
            }
        } else {
            changed |= differs;
        }
    }
}

/// Looks at the consent file until it is aborted. Nothing else that may be wrong holds a patient's decision back.
pub async fn watch_consent(app: Arc<App>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let source = app.snapshot.load().policy.consent().clone();
        // A file may lie on a disk that hangs.
        let Ok(look) = tokio::task::spawn_blocking(move || source.file().look()).await else { return };
        match look {
            Look::Same => {}
            Look::Read(wrong) => {
                failing = false;
                tracing::info!(wrong = wrong.len(), "consent file read");
                for row in wrong {
                    tracing::error!(%row, "a row of the consent file cannot be read");
                }
            }
            Look::Failed(error) if !failing => {
                failing = true;
                tracing::error!(reason = %error, "consent file cannot be read, what it said stays for now");
            }
            Look::Failed(_) => {}
        }
    }
}

/// Every file that a snapshot is made of, with its stamp.
type Files = BTreeMap<PathBuf, FileStamp>;

/// What a fetch brought.
enum Fetched {
    /// A CRL lies in its file; whether it is another than the one before.
    Crl(bool),
    /// Our own OCSP answer, DER.
    Staple(Vec<u8>),
    /// The address of a peer's service.
    Service((Country, Service), Known),
}

struct Watched {
    config: Arc<Config>,
    learned: Learned,
    fetching: Fetching<Fetched>,
    /// Service metadata past their `max_age`, which the snapshot is without.
    old: BTreeSet<(Country, Service)>,
}

impl Watched {
    /// Loads, and returns the files as they are then, and whether they were others before: what was read may be of before.
    async fn reload(&mut self, app: &App, why: &str) -> (Files, bool) {
        let before = self.files().await;
        self.load(app, why).await;
        let after = self.files().await;
        let changed = before != after;
        (after, changed)
    }

    /// Loads on a thread that answers no requests: it takes long with many peers, and a disk may hang.
    async fn load(&mut self, app: &App, why: &str) {
        let learned = Learned { before: Some(app.snapshot.load_full()), ..self.learned.clone() };
        let source = self.config.source.clone();
        let load = move || {
            config::load(&source)
                .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())
                .and_then(|config| Snapshot::load_parts(&config, &learned).map(|loaded| (config, loaded)))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.unwrap_or_else(|_| Err(vec!["loading ended early".to_owned()]));
        match loaded {
            Ok((config, (snapshot, stayed))) => {
                tracing::info!(why, generation = snapshot.generation, "reloaded");
                if !stayed.is_empty() {
                    app.metrics.reload_failures.inc();
                }
                for problem in stayed {
                    tracing::error!(why, reason = %problem, "a part not reloaded, its former state stays");
                }
                self.config = Arc::new(config);
                app.snapshot.store(Arc::new(snapshot));
                app.metrics.reloads.inc();
            }
            Err(problems) => {
                app.metrics.reload_failures.inc();
                for problem in problems {
                    tracing::error!(why, reason = %problem, "not reloaded, the former state stays");
                }
            }
        }
    }

    async fn files(&self) -> Files {
        let config = self.config.clone();
        let look = move || {
            let mut files = config.trust_files();
            if let Ok(entries) = std::fs::read_dir(&config.policy.folder) {
                files.extend(entries.filter_map(|e| e.ok().map(|e| e.path())));
            }
            files.into_iter().map(|file| (file.clone(), file_stamp(&file))).collect()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    /// Begins to fetch what is due and takes what has come; true when something new did.
    async fn fetch(&mut self, app: &Arc<App>) -> bool {
        self.begin(app);
        let mut new = self.config.seal.next.is_some() && self.fetching.is_due_again("seal", SEAL);
        for fetched in self.fetching.ended() {
            new |= match fetched {
                Fetched::Crl(is_new) => is_new,
                Fetched::Staple(answer) => {
                    self.learned.staple = Some(answer);
                    true
                }
                Fetched::Service(key, known) => {
                    let before = self.learned.services.insert(key, known.clone());
                    before.is_none_or(|before| before.endpoint != known.endpoint)
                }
            };
        }
        let Some(section) = &self.config.smp else { return new };
        let services = &self.learned.services;
        let old = services.iter().filter(|(_, known)| known.age() > section.max_age).map(|(key, _)| *key).collect();
        new |= old != self.old;
        self.old = old;
        app.services.store(Arc::new(services.clone()));
        new
    }

    fn begin(&mut self, app: &Arc<App>) {
        let config = self.config.clone();
        for peer in &config.peer {
            for url in &peer.revocation.crl_urls {
                let fetch = || {
                    let (peer, url) = (peer.clone(), url.clone());
                    async move { fetch_crl(&peer, &url).await.map(Fetched::Crl) }
                };
                self.fetching.begin(format!("{} {url}", peer.country), peer.revocation.refresh, fetch);
            }
        }
        let listener = &config.listener;
        if let Some(url) = listener.ocsp_url.clone() {
            let (certificate, key) = (listener.certificate.clone(), listener.key.clone());
            let fetch = || async move {
                let stapled = match Material::load(&certificate, &key) {
                    Ok(material) => ncp_tls::staple(&url, material.chain()).await,
                    Err(error) => Err(error),
                };
                stapled.map(Fetched::Staple).map_err(|error| {
                    tracing::warn!(reason = %error, "no ocsp answer to staple");
                    Failed
                })
            };
            self.fetching.begin("staple".into(), STAPLE, fetch);
        }
        self.begin_services(app);
    }

    /// Asks the SMP for what is due.
    fn begin_services(&mut self, app: &Arc<App>) {
        let config = self.config.clone();
        let Some(section) = &config.smp else { return };
        let source = match Source::new(section) {
            Ok(source) => Arc::new(source),
            Err(error) => {
                tracing::error!(reason = %error, "smp not asked");
                return;
            }
        };
        for peer in &config.peer {
            for service in source.services(peer) {
                let what = format!("smp {} {}", peer.country, service.as_str());
                let fetch = || fetch_service(app.clone(), source.clone(), peer.clone(), service, section.url.clone());
                self.fetching.begin(what, source.refresh(), fetch);
            }
        }
    }
}

/// Asks the SMP for the address of one service, and records that it was asked.
async fn fetch_service(
    app: Arc<App>,
    source: Arc<Source>,
    peer: Peer,
    service: Service,
    url: String,
) -> Result<Fetched, Failed> {
    let fetched = source.fetch(&peer, service, &app.verifier).await;
    let facts = PeerFacts { endpoint: url, ..PeerFacts::default() };
    let event = match &fetched {
        Ok(_) => Event::SmpQueried { peer: facts, query: source.query(&peer, service) },
        Err(error) => {
            tracing::warn!(country = %peer.country, service = service.as_str(), reason = %error,
                "service metadata not taken, the last good copy stays");
            app.metrics.smp_failures.inc();
            Event::SecurityAlert { rule: format!("smp: {error}"), peer: facts }
        }
    };
    if let Err(error) = app.audit.event(&event, "").await {
        tracing::error!(reason = %error, "smp query not recorded");
    }
    fetched.map(|known| Fetched::Service((peer.country, service), known)).map_err(|_| Failed)
}

/// Fetches one CRL; the last good one stays when this fails. True when it is another than that.
async fn fetch_crl(peer: &Peer, url: &str) -> Result<bool, Failed> {
    let Some(file) = crl_file(peer, url) else { return Ok(false) };
    let taken = async {
        let bytes = ncp_tls::fetch(url, None, ncp_tls::CRL_BYTES, CRL_TIMEOUT).await?;
        let held = ncp_tls::read_crls(&file).ok().and_then(|all| all.into_iter().next());
        let authorities = authorities(peer)?;
        let crl = ncp_tls::accept_crl(&bytes, &authorities, held.as_deref())?;
        let pem = crl.to_pem().unwrap_or_default();
        if std::fs::read(&file).is_ok_and(|old| old == pem) {
            return Ok(false);
        }
        let fresh = file.with_extension("new");
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(&fresh, &pem)?;
        std::fs::rename(&fresh, &file)?;
        Ok::<_, ncp_tls::TlsError>(true)
    };
    taken.await.map_err(|error| {
        tracing::warn!(country = %peer.country, reason = %error, "crl not fetched, the last good one stays");
        Failed
    })
}

fn authorities(peer: &Peer) -> Result<Vec<openssl::x509::X509>, ncp_tls::TlsError> {
    let mut all = ncp_tls::certificates(&peer.tls_anchors)?;
    all.extend(ncp_tls::certificates(&peer.seal_anchors)?);
    Ok(all)
}
