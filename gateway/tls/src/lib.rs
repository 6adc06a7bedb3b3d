//! TLS over OpenSSL for every process: contexts, certificate facts, trust in signers, the adapters under tonic, hyper and
//! axum; and the check of bearer tokens, which stand for a certificate.

mod accepted;
mod acknowledged;
mod anchors;
mod certificate;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
mod connections;
mod connector;
mod context;
mod counterpart;
mod ffi;
mod flushed;
mod grpc;
mod http;
mod judged;
mod kept;
mod names;
mod ocsp;
mod paced;
mod path;
#[cfg(test)]
mod resumption;
pub mod retry_after;
mod revocation;
mod roots;
mod served;
mod shares;
mod stamp;
mod stream;
mod token;

pub use accepted::{Accepted, Bounds, accept_until};
pub use anchors::{Anchors, Freshness, Purpose, Verdict};
pub use certificate::{CertificateFacts, Country, CountryError};
pub use connections::{GaveWay, OpenConnection};
pub use connector::TlsConnector;
pub use context::{ClientAuth, Material, TlsFiles, anonymous_connector, certificates};
pub use counterpart::Counterpart;
pub use flushed::{Flushed, Flushes};
pub use grpc::{GrpcPeer, GrpcStream, channel, incoming};
pub use http::{HttpClient, HttpsStream, ServerCertificate, ServerOf, TlsConnect, http_builder, http_client};
pub use kept::{SenderKnown, Times};
pub use names::{CertificateName, NameError, Names};
pub use ocsp::{Ocsp, fetch, staple};
pub use openssl::ssl::SslAcceptor;
pub use revocation::{CRL_BYTES, Revocation, accept_crl, latest, parse_crls, read_crls};
pub use roots::{NoPath, no_path, shared_roots};
pub use served::{ShownCertificate, serve_http, serve_plain, serve_routes};
pub use shares::{Shares, network};
pub use stamp::{FileStamp, file_stamp};
pub use stream::{TlsStream, accept, connect, peer_certificate};
pub use token::{Claims, IssuerKeys, Taken, TokenError, TokenIssuer, authorization, scope_covers};

/// Why TLS material or a connection was refused. The texts hold no personal data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// OpenSSL refused what a file holds.
    #[error("{what}: {source}")]
    OpenSsl {
        /// What was tried.
        what: String,
        /// OpenSSL's reasons.
        source: openssl::error::ErrorStack,
    },
    /// Key and certificate do not belong together.
    #[error("key {0} does not fit its certificate")]
    KeyMismatch(String),
    /// A file without certificates.
    #[error("no certificate in {0}")]
    NoCertificate(String),
    /// A chain that does not lead to an anchor.
    #[error("certificate not trusted: {0}")]
    Untrusted(String),
    /// The OCSP responder must be asked first.
    #[error("certificate status is not known yet")]
    StatusNeeded,
    /// Connecting or the handshake took too long.
    #[error("timed out")]
    Timeout,
    /// The network.
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The handshake.
    #[error("tls handshake failed: {0}")]
    Handshake(String),
}

pub(crate) fn ssl_error(what: impl Into<String>) -> impl FnOnce(openssl::error::ErrorStack) -> TlsError {
    let what = what.into();
    move |source| TlsError::OpenSsl { what, source }
}
