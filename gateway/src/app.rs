//! Wiring, top to bottom, and the one snapshot of what may change while we run.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ncp_ihe::{HomeCommunityId, Oid};
use ncp_tls::{Anchors, Country};

use crate::config::{Config, Peer};
use crate::national::National;
use crate::policy::Policy;

/// Everything an exchange needs, shared by all of them.
pub struct App {
    /// The file as read at start.
    pub config: Config,
    /// Trust, policy, keys and peers, swapped as one.
    pub snapshot: ArcSwap<Snapshot>,
    /// Verifies assertions; its threads own their keys.
    pub verifier: ncp_saml::Verifier,
    /// Signs assertions; its threads own the seal key.
    pub signer: ncp_saml::Signer,
    /// The audit trail.
    pub audit: ncp_audit::AuditSink,
    /// National systems; absent in a country that only asks.
    pub national: Option<National>,
    /// The translation service.
    pub translator: Option<crate::translate::Translator>,
    /// Assertion bindings and repeated MessageIDs.
    pub replay: crate::responding::replay::ReplaySet,
    /// Counters and durations.
    pub metrics: crate::telemetry::Metrics,
}

/// What is swapped as one when configuration is reloaded: an exchange takes one and keeps it.
pub struct Snapshot {
    /// Peers by homeCommunityId and alias.
    pub peers: Peers,
    /// Who may do what.
    pub policy: Policy,
    /// Trust in signers, per country.
    pub seal_anchors: BTreeMap<Country, Arc<Anchors>>,
    /// TLS towards peers: our client certificate, their anchors.
    pub client_tls: BTreeMap<Country, openssl::ssl::SslConnector>,
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
        self.all.iter().find(|p| p.home_community_id == *home || p.aliases.contains(home))
    }

    /// The countries whose patients carry ids of that assigning authority.
    pub fn by_patient_root(&self, root: &Oid) -> Vec<&Arc<Peer>> {
        self.all.iter().filter(|p| p.patient_roots.contains(root)).collect()
    }
}
