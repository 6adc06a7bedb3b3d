//! Revocation and replay: what is asked for whether something is still valid, and what happens when it does not answer.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::values::{duration, size};
use super::{Config, ConfigProblem};
use crate::responding::replay::{OnLoss, REPLAY_BYTES};

/// Longest grace that may be configured.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// `[peer.revocation]`: sources of revocation beside `crls`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RevocationSources {
    /// Distribution points of CRLs, `http://…`: fetched by us, never because a certificate says so.
    pub crl_urls: Vec<String>,
    /// Folder in which fetched CRLs are kept, so that a start has the last good ones.
    pub cache: Option<PathBuf>,
    /// How often they are fetched.
    #[serde(deserialize_with = "duration")]
    pub refresh: Duration,
    /// The OCSP responder, `http://…`.
    pub ocsp_url: Option<String>,
    /// `hard` refuses as soon as data are past their time, `grace` accepts for a while with an alert.
    pub mode: Mode,
    /// How long in mode `grace`.
    #[serde(deserialize_with = "duration")]
    pub grace: Duration,
}

/// What stale revocation data mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refuse.
    Hard,
    /// Accept within the grace, with an alert.
    #[default]
    Grace,
}

impl Default for RevocationSources {
    fn default() -> Self {
        Self {
            crl_urls: Vec::new(),
            cache: None,
            refresh: Duration::from_secs(3600),
            ocsp_url: None,
            mode: Mode::Grace,
            grace: Duration::from_secs(24 * 3600),
        }
    }
}

impl RevocationSources {
    /// The grace that holds.
    pub fn grace(&self) -> Duration {
        if self.mode == Mode::Hard { Duration::ZERO } else { self.grace }
    }
}

/// `[smp]`: where peers with `smp = true` publish their addresses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smp {
    /// Base of the SMP, `http(s)://host/…`; nothing else is ever asked.
    pub url: String,
    /// Anchors of its TLS certificate, PEM; needed for https.
    pub tls_anchors: Option<PathBuf>,
    /// Anchors of who signs metadata, PEM.
    pub signer_anchors: PathBuf,
    /// CRLs of the signer, PEM.
    pub crls: Option<PathBuf>,
    /// CN of the one certificate that may sign.
    pub signer: String,
    /// Folder of the last good copies.
    pub cache: PathBuf,
    /// How often it is asked.
    #[serde(default = "an_hour", deserialize_with = "duration")]
    pub refresh: Duration,
    /// How long a copy may be used that cannot be renewed.
    #[serde(default = "three_days", deserialize_with = "duration")]
    pub max_age: Duration,
    /// Document identifier under which countries publish RAD-75; none: that is configured only.
    pub imaging_document: Option<String>,
}

fn an_hour() -> Duration {
    Duration::from_secs(3600)
}
fn three_days() -> Duration {
    Duration::from_secs(72 * 3600)
}

impl Smp {
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.signer_anchors, &mut self.cache].into_iter().chain(&mut self.tls_anchors).chain(&mut self.crls)
    }
}

/// `[rate]`: requests within the window before a country is answered busy; zero: no bound.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    /// The window.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// For one patient.
    pub patient: u32,
    /// From one point of care.
    pub point_of_care: u32,
    /// From one professional (HCP assertion).
    pub professional: u32,
    /// From one country.
    pub peer: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(600),
            patient: 1_000,
            point_of_care: 20_000,
            professional: 5_000,
            peer: 600_000,
        }
    }
}

/// `[replay]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Redis shared by the replicas: `redis://…`, `rediss://…`, `redis+sentinel://host:port,…/master`,
    /// `redis+cluster://host:port,…`; none: this process alone.
    pub redis: Option<String>,
    /// 32 bytes in hex, mode 0600: authenticates what is kept in Redis; the same in all replicas.
    pub key_file: Option<PathBuf>,
    /// Longest wait for Redis.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// With one or more, all connected replicas, and no fewer than these, must hold a binding before an answer; none: 1
    /// with Sentinel and Cluster, otherwise 0.
    pub replicas: Option<u32>,
    /// Without Redis: `refuse`, or `local` (this process alone decides).
    pub on_loss: OnLoss,
    /// Memory for what is remembered in this process. Half of it is the most that one peer may take.
    #[serde(deserialize_with = "size")]
    pub bytes: usize,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            redis: None,
            key_file: None,
            timeout: Duration::from_millis(500),
            replicas: None,
            on_loss: OnLoss::Refuse,
            bytes: REPLAY_BYTES,
        }
    }
}

impl Replay {
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.key_file.iter_mut()
    }

    /// Replicas that must hold a binding: where a failover is possible, one that forgets would let a replay in.
    pub fn replicas(&self) -> u32 {
        let fails_over = |url: &String| url.starts_with("redis+sentinel://") || url.starts_with("redis+cluster://");
        self.replicas.unwrap_or_else(|| u32::from(self.redis.as_ref().is_some_and(fails_over)))
    }
}

impl Config {
    /// The files that a reload reads again: whatever a snapshot is made of, and the configuration itself.
    pub fn trust_files(&self) -> Vec<PathBuf> {
        let mut all = vec![
            self.source.clone(),
            self.listener.certificate.clone(),
            self.listener.key.clone(),
            self.seal.certificate.clone(),
        ];
        all.extend(self.seal.key.clone());
        all.extend(
            self.seal.next.iter().flat_map(|next| std::iter::once(next.certificate.clone()).chain(next.key.clone())),
        );
        all.extend(self.client.iter().flat_map(|client| [client.certificate.clone(), client.key.clone()]));
        all.extend(self.clinician.iter().flat_map(|c| [c.certificate.clone(), c.key.clone(), c.jwks_file.clone()]));
        all.extend(self.clinician.iter().flat_map(|c| c.client_anchors.clone()));
        all.extend(
            self.consumer.iter().flat_map(|c| {
                [c.certificate.clone(), c.key.clone(), c.tls_anchors.clone(), c.assertion_anchors.clone()]
            }),
        );
        all.extend(self.consumer.iter().flat_map(|c| c.crls.clone()));
        all.extend(self.smp.iter().flat_map(|smp| {
            [Some(&smp.signer_anchors), smp.crls.as_ref(), smp.tls_anchors.as_ref()].into_iter().flatten().cloned()
        }));
        for peer in &self.peer {
            all.extend([peer.tls_anchors.clone(), peer.seal_anchors.clone()]);
            all.extend(peer.crls.clone());
        }
        all
    }

    pub(super) fn check_trust(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut say = |path: &str, what: &str| problems.push(ConfigProblem::new(path, what.to_owned()));
        if self.replay.redis.is_some() && self.replay.key_file.as_ref().is_none_or(|file| !file.is_file()) {
            say("replay.key_file", "is needed with redis: 32 bytes in hex, mode 0600");
        }
        let next = self.seal.next.as_ref().map(|next| ("seal.next.key", &next.key, &next.pkcs11));
        let seals = std::iter::once(("seal.key", &self.seal.key, &self.seal.pkcs11)).chain(next);
        for (at, key, token) in seals {
            match (key, token) {
                (Some(key), None) if !key.is_file() => say(at, &format!("no such file: {}", key.display())),
                (Some(_), None) | (None, Some(_)) => {}
                _ => say(at, "expected a file or pkcs11, one of them"),
            }
        }
        if self.policy.consent.is_some() && self.policy.consent_service.is_some() {
            say("policy.consent_service", "expected consent or consent_service, not both");
        }
        if let Some(server) = &self.policy.consent {
            let secret = server.url.starts_with("https://");
            if !(secret || server.url.starts_with("http://")) || secret != server.anchors.is_some() {
                say("policy.consent.url", "expected http://… without anchors, or https://… with anchors");
            }
        }
        if let Some(smp) = &self.smp {
            let secret = smp.url.starts_with("https://");
            if !(secret || smp.url.starts_with("http://")) || secret != smp.tls_anchors.is_some() {
                say("smp.url", "expected http://… without tls_anchors, or https://… with tls_anchors");
            }
            if !smp.signer_anchors.is_file() {
                say("smp.signer_anchors", &format!("no such file: {}", smp.signer_anchors.display()));
            }
        }
        for (index, peer) in self.peer.iter().enumerate() {
            if peer.smp && self.smp.is_none() {
                say(&format!("peer[{index}].smp"), "needs a section [smp]");
            }
            if let Some(problem) = peer.pin_problem(self.client.is_some()) {
                say(&format!("peer[{index}].pin"), &problem);
            }
            let sources = &peer.revocation;
            let at = |key: &str| format!("peer[{index}].revocation.{key}");
            if sources.crl_urls.iter().chain(&sources.ocsp_url).any(|url| !url.starts_with("http://")) {
                say(&at("crl_urls"), "expected http addresses (what they serve is signed)");
            }
            if !sources.crl_urls.is_empty() && sources.cache.is_none() {
                say(&at("cache"), "a folder is needed for fetched CRLs");
            }
            if sources.grace > GRACE {
                say(&at("grace"), "at most 7 days");
            }
        }
        problems
    }
}
