//! What is allowed and still worth a second look by the operator: trust that is wider than its use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ncp_tls::CertificateFacts;

use super::pin::Pin;
use super::{Config, Connector};

impl Config {
    /// One sentence for each. Files that cannot be read are reported elsewhere.
    pub fn warnings(&self) -> Vec<String> {
        self.unpinned().into_iter().chain(self.shared_roots()).collect()
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

    /// Roots that vouch for more than one use: then names alone keep the uses apart.
    fn shared_roots(&self) -> Vec<String> {
        let mut roots: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
        for (vouches_for, file) in self.anchor_files() {
            for root in ncp_tls::certificates(file).unwrap_or_default() {
                let self_issued = root.subject_name().try_cmp(root.issuer_name()).is_ok_and(|order| order.is_eq());
                let Some(facts) = CertificateFacts::of(&root).ok().filter(|_| self_issued) else { continue };
                let (_, uses) = roots.entry(facts.fingerprint).or_insert((facts.common_name, BTreeSet::new()));
                uses.insert(vouches_for.clone());
            }
        }
        let shared = roots.into_values().filter(|(_, uses)| uses.len() > 1);
        let sentence = |(name, uses): (String, BTreeSet<String>)| {
            let uses: Vec<String> = uses.into_iter().collect();
            format!("the root {name:?} serves several uses: {}; give each use a root of its own", uses.join(", "))
        };
        shared.map(sentence).collect()
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
