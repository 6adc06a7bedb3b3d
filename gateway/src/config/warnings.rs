//! What is allowed and still worth a second look by the operator: trust that is wider than its use.

use std::path::Path;

use ncp_tls::{NoPath, no_path, shared_roots};

use super::pin::Pin;
use super::{Config, Connector};

/// Roots alone, where a handshake brings the rest.
const HANDSHAKE: &str = "only roots are in it: what an intermediate issued is taken only where the other side sends the \
                         intermediate in every handshake; add the intermediates";
/// Where a signature has one certificate, as across the border.
const ONE: &str = "only roots are in it: what an intermediate issued is refused, because a signature has one certificate; add \
                   the intermediates";
/// Where a signature may have a chain.
const KEY_INFO: &str = "only roots are in it: what an intermediate issued is taken only where KeyInfo holds the intermediate; \
                        add the intermediates";

impl Config {
    /// One sentence for each. Files that cannot be read are reported elsewhere.
    pub fn warnings(&self) -> Vec<String> {
        let more = shared_roots(self.anchor_files()).into_iter().chain(self.without_path());
        self.unpinned().into_iter().chain(more).collect()
    }

    /// Anchors of other parties that depend on what those send each time, or lead nowhere (WI-04).
    fn without_path(&self) -> Vec<String> {
        let peers = self.peer.iter().enumerate().flat_map(|(index, peer)| {
            let at = move |key: &str| format!("peer[{index}].{key}");
            [(at("tls_anchors"), &peer.tls_anchors, HANDSHAKE), (at("seal_anchors"), &peer.seal_anchors, ONE)]
        });
        let consumers = self.consumer.iter().flat_map(|consumer| {
            [
                ("consumer.tls_anchors".to_owned(), &consumer.tls_anchors, HANDSHAKE),
                ("consumer.assertion_anchors".to_owned(), &consumer.assertion_anchors, KEY_INFO),
            ]
        });
        let sentence = |(key, file, alone): (String, &std::path::PathBuf, &str)| {
            let what = match no_path(file)? {
                NoPath::NoRoot => "no root is in it, so that no certificate is accepted",
                NoPath::Stray => "an intermediate in it leads to none of its roots, so that what it issued is refused",
                NoPath::RootsAlone => alone,
            };
            Some(format!("{key}: {what}"))
        };
        peers.chain(consumers).filter_map(sentence).collect()
    }

    fn unpinned(&self) -> Vec<String> {
        let peers = self.peer.iter().enumerate().filter(|(_, peer)| peer.pin == Pin::Anchor).map(|(index, peer)| {
            format!("peer[{index}].pin: every certificate under the anchors of {} counts as its NCP", peer.country)
        });
        let consumers = self.consumer.iter().filter(|consumer| consumer.pin == Pin::Anchor);
        let consumers = consumers.map(|_| {
            "consumer.pin: every certificate under the anchors counts as a consumer, and as a signer of assertions"
                .into()
        });
        peers.chain(consumers).collect()
    }

    /// Each file of anchors with the use that it serves.
    fn anchor_files(&self) -> Vec<(String, &Path)> {
        let mut files: Vec<(String, &Path)> = Vec::new();
        for peer in &self.peer {
            files.push((format!("TLS of {}", peer.country), &peer.tls_anchors));
            files.push((format!("seal of {}", peer.country), &peer.seal_anchors));
        }
        if let Some(consumer) = &self.consumer {
            files.push(("TLS of national consumers".into(), &consumer.tls_anchors));
            files.push(("assertions of national consumers".into(), &consumer.assertion_anchors));
        }
        let clinicians = self.clinician.iter().filter_map(|side| side.client_anchors.as_deref());
        files.extend(clinicians.map(|file| ("TLS of clinicians' systems".to_owned(), file)));
        let own =
            self.translation.iter().map(|service| &service.tls).chain(self.audit.feed.iter().map(|feed| &feed.tls));
        files.extend(own.map(|tls| ("our own services".to_owned(), tls.anchors.as_path())));
        let consent = self.policy.consent_service.iter().map(|service| &service.tls);
        let connectors = self.national.iter().flat_map(|national| &national.connector);
        let systems = connectors.filter_map(|connector| match connector {
            Connector::Grpc(system) => Some(&system.tls),
            Connector::Xds(system) => Some(&system.tls),
            Connector::DicomWeb(_) | Connector::Embedded(_) => None,
        });
        files.extend(consent.chain(systems).map(|tls| ("national systems".to_owned(), tls.anchors.as_path())));
        if let Some(smp) = &self.smp {
            files.push(("signer of service metadata".into(), &smp.signer_anchors));
        }
        files
    }
}
