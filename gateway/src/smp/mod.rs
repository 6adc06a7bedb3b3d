//! Signed service metadata (OASIS BDXR SMP 1.0) as a source of other countries' addresses. Trust stays what the
//! configuration says: metadata move an endpoint, never an anchor.
//!
//! Asked is the configured SMP alone: no DNS of the SML, no redirect, no address that a message names. What was fetched is
//! kept as signed, and verified again when it is read from the cache; what does not hold leaves the last good copy in
//! force until it is older than `max_age`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use ncp_saml::{AssertionError, Verifier};
use ncp_tls::{Anchors, Country, Purpose, Revocation};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::{Peer, Smp};
use crate::http_get::HttpGet;

mod metadata;

const PARTICIPANT_SCHEME: &str = "ehealth-participantid-qns";
const DOCUMENT_SCHEME: &str = "ehealth-resid-qns";
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a country serves at an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// ITI-55.
    Xcpd,
    /// ITI-38 and ITI-39.
    Xca,
    /// RAD-75: by the document identifier that countries agreed on.
    Xcai,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Xcpd, Self::Xca, Self::Xcai];

    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xcpd => "xcpd",
            Self::Xca => "xca",
            Self::Xcai => "xcai",
        }
    }

    /// Its document identifier.
    fn document(self, config: &Smp) -> Option<&str> {
        match self {
            Self::Xcpd => {
                Some("urn:ehealth:PatientIdentificationAndAuthentication::XCPD::CrossGatewayPatientDiscovery##ITI-55")
            }
            Self::Xca => Some("urn:ehealth:RequestOfData::XCA::CrossGatewayQuery##ITI-38"),
            Self::Xcai => config.imaging_document.as_deref(),
        }
    }
}

/// Why metadata are not used. Texts are fixed, for operators.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SmpError {
    /// The SMP.
    #[error("not fetched: {0}")]
    Fetch(String),
    /// The cache.
    #[error("cache: {0}")]
    Cache(#[from] std::io::Error),
    /// Structure, trust, signature.
    #[error("{0}")]
    Signature(#[from] AssertionError),
    /// Not what the schema says.
    #[error("metadata: {0}")]
    Content(&'static str),
    /// About another country or service.
    #[error("metadata are of another: {0}")]
    OfAnother(&'static str),
    /// No endpoint is in its time.
    #[error("no endpoint is in its time")]
    OutOfTime,
    /// The endpoint's certificate.
    #[error("certificate of the endpoint: {0}")]
    Certificate(String),
}

/// An address with the age of what says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// `https://…`
    pub endpoint: String,
    /// When the SMP last said so.
    pub at: SystemTime,
}

/// What the SMP told, by country and service.
pub type Services = BTreeMap<(Country, Service), Known>;

/// The configured SMP.
pub struct Source {
    config: Smp,
    http: HttpGet,
    signers: Arc<Anchors>,
}

impl Source {
    /// Reads anchors; nothing is asked.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn new(config: &Smp) -> Result<Self, String> {
        let crls = config.crls.as_ref().map(|file| ncp_tls::read_crls(file)).transpose();
        let crls = Arc::new(crls.map_err(|e| format!("smp.crls: {e}"))?.unwrap_or_default());
        let revocation = Revocation { crls, ..Revocation::none() };
        let signers = Anchors::load(&config.signer_anchors, revocation, Purpose::Seal);
        let signers = Arc::new(signers.map_err(|e| format!("smp.signer_anchors: {e}"))?);
        let http =
            HttpGet::new(config.tls_anchors.as_deref(), PATIENCE).map_err(|e| format!("smp.tls_anchors: {e}"))?;
        Ok(Self { config: config.clone(), http, signers })
    }

    /// The services that are looked up for a country.
    pub fn services(&self, peer: &Peer) -> impl Iterator<Item = Service> {
        let asked = peer.smp;
        Service::ALL.into_iter().filter(move |service| asked && service.document(&self.config).is_some())
    }

    /// How often.
    pub fn refresh(&self) -> Duration {
        self.config.refresh
    }

    /// What was kept, verified anew. What does not hold any more is as if it had not been kept.
    pub async fn kept(&self, peers: &[Peer], verifier: &Verifier) -> Services {
        let mut known = Services::new();
        for peer in peers {
            for service in self.services(peer) {
                let file = self.file(peer, service);
                let Ok(at) = std::fs::metadata(&file).and_then(|facts| facts.modified()) else { continue };
                let read = match std::fs::read(&file) {
                    Ok(bytes) => self.read(bytes.into(), peer, service, verifier).await,
                    Err(error) => Err(error.into()),
                };
                match read {
                    Ok(endpoint) => {
                        known.insert((peer.country, service), Known { endpoint, at });
                    }
                    Err(error) => {
                        tracing::warn!(country = %peer.country, reason = %error, "kept service metadata do not hold");
                    }
                }
            }
        }
        known
    }

    /// Asks for one service and keeps nothing: the metadata and the address in them.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub async fn ask(&self, peer: &Peer, service: Service, verifier: &Verifier) -> Result<(Bytes, String), SmpError> {
        let url = self.url(peer, service).ok_or(SmpError::Content("service"))?;
        let bytes = self.http.get(&url, "application/xml", None, metadata::BYTES, PATIENCE).await;
        let bytes = bytes.map_err(SmpError::Fetch)?;
        let endpoint = self.read(bytes.clone(), peer, service, verifier).await?;
        Ok((bytes, endpoint))
    }

    /// Asks for one service; what holds is kept.
    ///
    /// # Errors
    /// The first check that does not hold; what was kept stays.
    pub async fn fetch(&self, peer: &Peer, service: Service, verifier: &Verifier) -> Result<Known, SmpError> {
        let (bytes, endpoint) = self.ask(peer, service, verifier).await?;
        let file = self.file(peer, service);
        let fresh = file.with_extension("new");
        std::fs::create_dir_all(&self.config.cache)?;
        std::fs::write(&fresh, &bytes)?;
        std::fs::rename(&fresh, &file)?;
        Ok(Known { endpoint, at: SystemTime::now() })
    }

    /// What is asked, as the audit trail says it: participant and document type.
    pub fn query(&self, peer: &Peer, service: Service) -> String {
        format!("{}::{}", participant(peer), service.document(&self.config).unwrap_or_default())
    }

    /// Structure, signer, signature; then content from the digested bytes alone.
    async fn read(&self, bytes: Bytes, peer: &Peer, service: Service, verifier: &Verifier) -> Result<String, SmpError> {
        let digested = verifier.verify_metadata(bytes, self.signers.clone(), self.config.signer.clone()).await?;
        let document = service.document(&self.config).ok_or(SmpError::Content("service"))?;
        let anchors = Anchors::load(&peer.tls_anchors, Revocation::none(), Purpose::TlsServer);
        let anchors = anchors.map_err(|e| SmpError::Certificate(e.to_string()))?;
        // The announced certificate must be one that the configuration names, as the one that is met there must be.
        let anchors = anchors.pinned(peer.pin.of(|names| &names.tls_server));
        metadata::endpoint(&digested, &participant(peer), document, (peer.country, &anchors), Timestamp::now())
    }

    /// `{base}/{participant}/services/{document}` (OASIS BDXR SMP 1.0, 2.4), identifiers percent-encoded.
    fn url(&self, peer: &Peer, service: Service) -> Option<String> {
        let encoded = |scheme: &str, id: &str| utf8_percent_encode(&format!("{scheme}::{id}"), UNRESERVED).to_string();
        let participant = encoded(PARTICIPANT_SCHEME, &participant(peer));
        let document = encoded(DOCUMENT_SCHEME, service.document(&self.config)?);
        Some(format!("{}/{participant}/services/{document}", self.config.url.trim_end_matches('/')))
    }

    fn file(&self, peer: &Peer, service: Service) -> PathBuf {
        Path::new(&self.config.cache).join(format!("{}-{}.xml", peer.country, service.as_str()))
    }
}

fn participant(peer: &Peer) -> String {
    format!("urn:ehealth:{}:ncp-idp", peer.country.as_str().to_lowercase())
}

/// The peers with the addresses that metadata give them. What the configuration says itself stays, what is older than
/// `max_age` is not used.
pub fn applied(peers: &[Peer], config: Option<&Smp>, known: &Services) -> Vec<Peer> {
    let mut peers = peers.to_vec();
    let Some(config) = config else { return peers };
    for peer in peers.iter_mut().filter(|peer| peer.smp) {
        let country = peer.country;
        let found = |service| known.get(&(country, service)).filter(|known| known.age() <= config.max_age);
        for (service, address) in
            [(Service::Xcpd, &mut peer.xcpd), (Service::Xca, &mut peer.xca), (Service::Xcai, &mut peer.xcai)]
        {
            if address.is_none() {
                *address = found(service).map(|known| known.endpoint.clone());
            }
        }
    }
    peers
}

impl Known {
    /// How long ago the SMP said so.
    pub fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.at).unwrap_or_default()
    }
}
