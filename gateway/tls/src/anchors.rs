//! Trust in a certificate that came in a message or in a handshake: path, dates, revocation, use and strength.

use std::path::{Path, PathBuf};

use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509PurposeId, X509Ref, X509StoreContext};

use crate::{TlsError, context, ssl_error};

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signing assertions: digitalSignature, no CA.
    Seal,
    /// TLS client.
    TlsClient,
    /// TLS server.
    TlsServer,
}

/// Anchors of one country for one use. Immutable; a reload makes a new one.
pub struct Anchors {
    store: X509Store,
    intermediates: Stack<X509>,
    purpose: Purpose,
}

impl Anchors {
    /// Loads anchors; self-issued ones are roots, others help to build paths. CRLs, where given, are required for every
    /// certificate of a path.
    ///
    /// # Errors
    /// Unreadable files, what OpenSSL refuses.
    pub fn load(anchors: &Path, crls: Option<&PathBuf>, purpose: Purpose) -> Result<Self, TlsError> {
        let mut store = X509StoreBuilder::new().map_err(ssl_error("trust store"))?;
        let parameters = parameters(purpose, crls.is_some())?;
        store.set_param(&parameters).map_err(ssl_error("trust store"))?;
        let mut intermediates = Stack::new().map_err(ssl_error("trust store"))?;
        for anchor in context::certificates(anchors)? {
            let self_issued = anchor.subject_name().try_cmp(anchor.issuer_name()).is_ok_and(|o| o.is_eq());
            if self_issued {
                store.add_cert(anchor).map_err(ssl_error(anchors.display().to_string()))?;
            } else {
                intermediates.push(anchor).map_err(ssl_error("trust store"))?;
            }
        }
        if let Some(path) = crls {
            let lookup = store.add_lookup(X509Lookup::file()).map_err(ssl_error("crl"))?;
            lookup
                .load_crl_file(path, openssl::ssl::SslFiletype::PEM)
                .map_err(ssl_error(path.display().to_string()))?;
        }
        Ok(Self { store: store.build(), intermediates, purpose })
    }

    /// Builds and checks a path from the certificate, with what the other side sent as helpers.
    ///
    /// # Errors
    /// [`TlsError::Untrusted`] with OpenSSL's reason or ours.
    pub fn verify(&self, certificate: &X509Ref, sent: &[X509]) -> Result<(), TlsError> {
        let mut helpers = Stack::new().map_err(ssl_error("path"))?;
        for link in sent.iter().map(|c| c.as_ref()).chain(self.intermediates.iter()) {
            helpers.push(link.to_owned()).map_err(ssl_error("path"))?;
        }
        let mut store = X509StoreContext::new().map_err(ssl_error("path"))?;
        let reason = store
            .init(&self.store, certificate, &helpers, |context| Ok((context.verify_cert()?, context.error())))
            .map_err(ssl_error("path"))?;
        if !reason.0 {
            return Err(TlsError::Untrusted(reason.1.error_string().to_owned()));
        }
        if self.purpose == Purpose::Seal {
            seal_use(certificate)?;
        }
        strength(certificate)
    }
}

fn parameters(purpose: Purpose, crl_check: bool) -> Result<X509VerifyParam, TlsError> {
    let mut parameters = X509VerifyParam::new().map_err(ssl_error("path"))?;
    let mut flags = X509VerifyFlags::X509_STRICT;
    if crl_check {
        // CRL_CHECK_ALL alone checks nothing.
        flags |= X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL;
    }
    parameters.set_flags(flags).map_err(ssl_error("path"))?;
    parameters.set_depth(4);
    parameters.set_auth_level(2);
    match purpose {
        Purpose::TlsClient => parameters.set_purpose(X509PurposeId::SSL_CLIENT).map_err(ssl_error("path"))?,
        Purpose::TlsServer => parameters.set_purpose(X509PurposeId::SSL_SERVER).map_err(ssl_error("path"))?,
        Purpose::Seal => {}
    }
    Ok(parameters)
}

/// digitalSignature and no CA.
fn seal_use(certificate: &X509Ref) -> Result<(), TlsError> {
    let refuse = |why: &str| Err(TlsError::Untrusted(why.to_owned()));
    match crate::ffi::key_use(certificate) {
        (_, true) => refuse("a CA certificate signs no assertions"),
        (usage, false) if usage & crate::ffi::DIGITAL_SIGNATURE == 0 => refuse("key usage lacks digitalSignature"),
        _ => Ok(()),
    }
}

/// RSA of 2048 bits and more, or P-256 and stronger.
fn strength(certificate: &X509Ref) -> Result<(), TlsError> {
    let key = certificate.public_key().map_err(ssl_error("public key"))?;
    let strong = match key.id() {
        Id::RSA => key.bits() >= 2048,
        Id::EC => {
            let curve = key.ec_key().ok().and_then(|k| k.group().curve_name());
            matches!(curve, Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1))
        }
        _ => false,
    };
    if strong { Ok(()) } else { Err(TlsError::Untrusted("key is too weak or of another kind".to_owned())) }
}
