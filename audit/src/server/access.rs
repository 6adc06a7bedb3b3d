//! Who may do what with the trail, by the name in the certificate. An authority that issued a certificate vouches for its
//! name and for nothing else.

use std::collections::BTreeMap;

use ncp_proto::audit::Found;
use ncp_tls::{CertificateFacts, Names};

use super::Config;

/// The access rules of the configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    readers: Names,
    writers: BTreeMap<String, String>,
    senders: Names,
    portals: Names,
    /// AuditSourceID of the repository's own records.
    own: String,
}

impl Access {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            readers: config.readers.clone(),
            writers: config.writers.clone(),
            senders: config.senders.clone(),
            portals: config.portals.clone(),
            own: config.source.clone(),
        }
    }

    /// Whether the certificate may search the whole trail, by gRPC and by FHIR.
    pub(super) fn may_read(&self, certificate: &CertificateFacts) -> bool {
        self.readers.admit(certificate)
    }

    /// The AuditSourceID of the gateway whose certificate this is; none: it may not use the feed.
    pub(super) fn writer(&self, certificate: &CertificateFacts) -> Option<&str> {
        let only = certificate.subject.iter().filter(|(kind, _)| kind == "CN").count() == 1;
        self.writers.get(&certificate.common_name).filter(|_| only).map(String::as_str)
    }

    /// Whether the certificate may send messages by syslog and FHIR.
    pub(super) fn may_send(&self, certificate: &CertificateFacts) -> bool {
        // The name under which records of our own programs are kept is nobody else's.
        let ours = self.writers.contains_key(&certificate.common_name) || certificate.common_name == self.own;
        !ours && self.senders.admit(certificate)
    }

    /// Whether the certificate may bring the tokens of patients.
    pub(super) fn may_bring_tokens(&self, certificate: &CertificateFacts) -> bool {
        self.portals.admit(certificate)
    }

    /// Whether an AuditSourceID is that of one of our own programs, which no other sender may use.
    pub(super) fn is_ours(&self, audit_source: &str) -> bool {
        audit_source == self.own || self.writers.values().any(|own| own == audit_source)
    }

    /// The AuditSourceID under which a record is found, if its message claims `claim`: for our own programs the one of
    /// their certificate, for others what they claim unless it is one of ours.
    pub(super) fn audit_source(&self, found: &Found, claim: &str) -> String {
        let fed = found.record.as_ref().is_some_and(|record| record.transport.is_empty());
        let source = match fed {
            true => self.writers.get(&found.source).map_or(claim, String::as_str),
            false if self.is_ours(claim) => "",
            false => claim,
        };
        source.to_owned()
    }
}
