//! Trust in the peers, loaded peer by peer. A peer whose files and settings are as they were keeps the trust that is in use.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ncp_tls::{Anchors, Country, FileStamp, Ocsp, Purpose, Revocation, certificates, file_stamp};
use openssl::x509::X509;

use super::Snapshot;
use crate::config::{Peer, PeerNames, Pin, RevocationSources};

/// What the trust in one peer is made from, as it was just before it was read.
#[derive(PartialEq)]
pub(super) struct Source {
    pin: Pin<PeerNames>,
    revocation: RevocationSources,
    files: Vec<(PathBuf, FileStamp)>,
}

impl Source {
    fn of(peer: &Peer) -> Self {
        let files = [&peer.tls_anchors, &peer.seal_anchors].into_iter().chain(&peer.crls).cloned().chain(fetched(peer));
        Self { pin: peer.pin.clone(), revocation: peer.revocation.clone(), files: stamped(files) }
    }
}

/// Files with their stamps.
pub(super) fn stamped(files: impl IntoIterator<Item = PathBuf>) -> Vec<(PathBuf, FileStamp)> {
    let stamped = |file: PathBuf| {
        let stamp = file_stamp(&file);
        (file, stamp)
    };
    files.into_iter().map(stamped).collect()
}

/// Anchors by use and country.
#[derive(Default)]
pub(super) struct Trust {
    pub(super) seals: BTreeMap<Country, Arc<Anchors>>,
    pub(super) clients: BTreeMap<Country, Arc<Anchors>>,
    pub(super) servers: BTreeMap<Country, Arc<Anchors>>,
    pub(super) sources: BTreeMap<Country, Arc<Source>>,
}

impl Trust {
    /// Takes what is in use for a country; false where there is none.
    pub(super) fn take(&mut self, country: Country, before: &Snapshot) -> bool {
        let (Some(seal), Some(client), Some(server), Some(source)) = (
            before.seal_anchors.get(&country),
            before.tls_anchors.get(&country),
            before.server_anchors.get(&country),
            before.sources.get(&country),
        ) else {
            return false;
        };
        self.seals.insert(country, seal.clone());
        self.clients.insert(country, client.clone());
        self.servers.insert(country, server.clone());
        self.sources.insert(country, source.clone());
        true
    }

    /// Loads the trust in a peer; where nothing changed since `before`, it is taken from there, with the verdicts and
    /// statuses that it learned and that end by themselves.
    pub(super) fn add(&mut self, peer: &Peer, before: Option<&Snapshot>) -> Result<(), ncp_tls::TlsError> {
        let source = Arc::new(Source::of(peer));
        if let Some(before) = before
            && before.sources.get(&peer.country) == Some(&source)
            && self.take(peer.country, before)
        {
            return Ok(());
        }
        let sources = &peer.revocation;
        let mut crls = Vec::new();
        for file in peer.crls.iter().cloned().chain(fetched(peer)) {
            crls.extend(ncp_tls::read_crls(&file)?);
        }
        let ocsp = sources.ocsp_url.as_deref().map(|url| Arc::new(Ocsp::new(url)));
        let crl_needed = peer.crls.is_some() || !sources.crl_urls.is_empty();
        let revocation = Revocation { crls: Arc::new(ncp_tls::latest(crls)), crl_needed, grace: sources.grace(), ocsp };
        let of = |anchors: &[X509], purpose, names| {
            Anchors::of(anchors.to_vec(), revocation.clone(), purpose).map(|anchors| Arc::new(anchors.pinned(names)))
        };
        let (seals, tls) = (certificates(&peer.seal_anchors)?, certificates(&peer.tls_anchors)?);
        let seal = of(&seals, Purpose::Seal, peer.pin.of(|names| &names.seal))?;
        let client = of(&tls, Purpose::TlsClient, peer.pin.of(|names| &names.tls_client))?;
        let server = of(&tls, Purpose::TlsServer, peer.pin.of(|names| &names.tls_server))?;
        self.seals.insert(peer.country, seal);
        self.clients.insert(peer.country, client);
        self.servers.insert(peer.country, server);
        self.sources.insert(peer.country, source);
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
