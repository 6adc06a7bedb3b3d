//! Server and client contexts: TLS 1.2 and 1.3 with AEAD suites, certificates always verified.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    AlpnError, SslAcceptor, SslAcceptorBuilder, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
    SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

use crate::judged::judge_by;
use crate::{Counterpart, Names, Purpose, TlsConnector, TlsError, ssl_error};

/// Where TLS material lies.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain, PEM, leaf first.
    pub cert_chain: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Anchors of the other side, PEM.
    pub anchors: PathBuf,
    /// CRLs of the other side, PEM.
    pub crls: Option<PathBuf>,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// It must, and it leads to an anchor.
    Required,
    /// It may, and one that is shown leads to an anchor.
    Optional,
    /// The callers authenticate otherwise (bearer tokens).
    None,
}

impl ClientAuth {
    fn mode(self) -> SslVerifyMode {
        match self {
            Self::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            Self::Optional => SslVerifyMode::PEER,
            Self::None => SslVerifyMode::NONE,
        }
    }
}

/// Our own certificate chain and key.
#[derive(Clone)]
pub struct Material {
    chain: Vec<X509>,
    key: PKey<Private>,
}

impl Material {
    /// Loads chain and key and checks that they fit.
    ///
    /// # Errors
    /// Unreadable files, what OpenSSL refuses, a key of another certificate.
    pub fn load(cert_chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(cert_chain)?;
        let pem = read(key)?;
        let private = PKey::private_key_from_pem(&pem).map_err(ssl_error(format!("key {}", key.display())))?;
        let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate(cert_chain.display().to_string()))?;
        let public = leaf.public_key().map_err(ssl_error(cert_chain.display().to_string()))?;
        if !public.public_eq(&private) {
            return Err(TlsError::KeyMismatch(key.display().to_string()));
        }
        Ok(Self { chain, key: private })
    }

    /// The leaf.
    pub fn leaf(&self) -> &X509 {
        &self.chain[0]
    }

    /// Leaf and what follows it.
    pub fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// The key, to be lent.
    pub fn key(&self) -> &PKey<Private> {
        &self.key
    }

    /// A server's context. Where clients present certificates, no session is resumed.
    ///
    /// # Errors
    /// Unreadable anchors, what OpenSSL refuses.
    pub fn acceptor(
        &self,
        client: ClientAuth,
        anchors: &[PathBuf],
        alpn: &'static [u8],
    ) -> Result<SslAcceptor, TlsError> {
        self.acceptor_stapling(client, read_all(anchors)?, alpn, None)
    }

    /// As [`acceptor`](Self::acceptor) with anchors that were read, handing an OCSP answer about our certificate to clients
    /// that ask for one.
    ///
    /// # Errors
    /// What OpenSSL refuses.
    pub fn acceptor_stapling(
        &self,
        client: ClientAuth,
        anchors: impl IntoIterator<Item = X509>,
        alpn: &'static [u8],
        staple: Option<Vec<u8>>,
    ) -> Result<SslAcceptor, TlsError> {
        let mut builder = self.server_builder(anchors, alpn)?;
        builder.set_verify(client.mode());
        if client != ClientAuth::None {
            without_resumption(&mut builder)?;
        }
        if let Some(staple) = staple {
            let callback = move |ssl: &mut SslRef| ssl.set_ocsp_status(&staple).map(|()| true);
            builder.set_status_callback(callback).map_err(ssl_error("tls"))?;
        }
        Ok(builder.build())
    }

    /// A client's context that shows our certificate.
    ///
    /// # Errors
    /// As [`acceptor`](Self::acceptor).
    pub fn connector(&self, anchors: &[PathBuf], alpn: &'static [u8]) -> Result<TlsConnector, TlsError> {
        self.connector_trusting(read_all(anchors)?, alpn)
    }

    /// The same with anchors that were read.
    ///
    /// # Errors
    /// What OpenSSL refuses.
    pub fn connector_trusting(
        &self,
        anchors: impl IntoIterator<Item = X509>,
        alpn: &'static [u8],
    ) -> Result<TlsConnector, TlsError> {
        let mut builder = client_builder(anchors, alpn)?;
        self.present(&mut builder)?;
        Ok(TlsConnector::of(builder))
    }

    /// A server's context for callers whom `counterpart` admits.
    ///
    /// # Errors
    /// As [`acceptor`](Self::acceptor).
    pub fn acceptor_for(
        &self,
        client: ClientAuth,
        counterpart: Counterpart,
        alpn: &'static [u8],
    ) -> Result<SslAcceptor, TlsError> {
        let mut builder = self.server_builder(certificates(counterpart.anchors())?, alpn)?;
        judge_by(&mut builder, counterpart.clone())?;
        builder.set_verify_callback(client.mode(), move |good, context| counterpart.in_handshake(good, context));
        without_resumption(&mut builder)?;
        Ok(builder.build())
    }

    /// A client's context that shows our certificate to a server whom `counterpart` admits.
    ///
    /// # Errors
    /// As [`acceptor`](Self::acceptor).
    pub fn connector_to(&self, counterpart: Counterpart, alpn: &'static [u8]) -> Result<TlsConnector, TlsError> {
        let mut builder = client_builder(certificates(counterpart.anchors())?, alpn)?;
        self.present(&mut builder)?;
        judge_by(&mut builder, counterpart.clone())?;
        builder.set_verify_callback(SslVerifyMode::PEER, move |good, context| counterpart.in_handshake(good, context));
        Ok(TlsConnector::of(builder))
    }

    fn server_builder(
        &self,
        anchors: impl IntoIterator<Item = X509>,
        alpn: &'static [u8],
    ) -> Result<SslAcceptorBuilder, TlsError> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).map_err(ssl_error("tls"))?;
        bounds(&mut builder)?;
        builder.set_cert_store(store(anchors)?.build());
        self.present(&mut builder)?;
        builder.set_session_id_context(b"ncp").map_err(ssl_error("tls"))?;
        builder.set_alpn_select_callback(move |_, offered| {
            openssl::ssl::select_next_proto(alpn, offered).ok_or(AlpnError::NOACK)
        });
        Ok(builder)
    }

    /// Our certificate and its key.
    fn present(&self, builder: &mut SslContextBuilder) -> Result<(), TlsError> {
        builder.set_certificate(self.leaf()).map_err(ssl_error("certificate"))?;
        for link in &self.chain[1..] {
            builder.add_extra_chain_cert(link.clone()).map_err(ssl_error("certificate chain"))?;
        }
        builder.set_private_key(&self.key).map_err(ssl_error("key"))
    }
}

/// A client's context without a certificate of its own, as towards a national archive or a token issuer.
///
/// # Errors
/// What OpenSSL refuses.
fn client_builder(anchors: impl IntoIterator<Item = X509>, alpn: &[u8]) -> Result<SslContextBuilder, TlsError> {
    let mut builder = TlsConnector::builder().map_err(ssl_error("tls"))?;
    bounds(&mut builder)?;
    builder.set_cert_store(store(anchors)?.build());
    if !alpn.is_empty() {
        builder.set_alpn_protos(alpn).map_err(ssl_error("alpn"))?;
    }
    Ok(builder)
}

impl TlsFiles {
    /// Material, then a mutual server context; with CRLs a revoked caller is refused.
    ///
    /// # Errors
    /// As [`Material::acceptor_for`].
    pub fn mutual_acceptor(&self, alpn: &'static [u8]) -> Result<SslAcceptor, TlsError> {
        self.acceptor_of(ClientAuth::Required, None, alpn)
    }

    /// The same for callers of these names, where names are given.
    ///
    /// # Errors
    /// As [`Material::acceptor_for`].
    pub fn acceptor_of(
        &self,
        client: ClientAuth,
        names: Option<Names>,
        alpn: &'static [u8],
    ) -> Result<SslAcceptor, TlsError> {
        let counterpart = Counterpart::load(&self.anchors, self.crls.as_deref(), names, Purpose::TlsClient)?;
        Material::load(&self.cert_chain, &self.key)?.acceptor_for(client, counterpart, alpn)
    }

    /// Material, then a client context; with CRLs a revoked server is refused.
    ///
    /// # Errors
    /// As [`Material::connector_to`].
    pub fn connector(&self, alpn: &'static [u8]) -> Result<TlsConnector, TlsError> {
        self.connector_to(None, alpn)
    }

    /// The same towards a server of these names, where names are given.
    ///
    /// # Errors
    /// As [`Material::connector_to`].
    pub fn connector_to(&self, names: Option<Names>, alpn: &'static [u8]) -> Result<TlsConnector, TlsError> {
        let counterpart = Counterpart::load(&self.anchors, self.crls.as_deref(), names, Purpose::TlsServer)?;
        Material::load(&self.cert_chain, &self.key)?.connector_to(counterpart, alpn)
    }
}

/// A client context that shows no certificate.
///
/// # Errors
/// Unreadable anchors, what OpenSSL refuses.
pub fn anonymous_connector(anchors: &[PathBuf], alpn: &[u8]) -> Result<TlsConnector, TlsError> {
    Ok(TlsConnector::of(client_builder(read_all(anchors)?, alpn)?))
}

fn bounds(builder: &mut SslContextBuilder) -> Result<(), TlsError> {
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(ssl_error("tls"))?;
    builder.set_cipher_list("ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL:!DSS").map_err(ssl_error("cipher suites"))?;
    builder
        .set_options(SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION | SslOptions::CIPHER_SERVER_PREFERENCE);
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    Ok(())
}

/// Every connection gets a full handshake. A resumed session holds neither the intermediates that the client sent nor a
/// verdict of the present trust and revocation data (RFC 5246 F.1.4); RFC 8446 4.6.1 lets a server issue no tickets. Clients
/// that offer a session of an earlier connection, as Java does by default, fall back to the full handshake by themselves.
fn without_resumption(builder: &mut SslContextBuilder) -> Result<(), TlsError> {
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_num_tickets(0).map_err(ssl_error("tls"))?;
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    Ok(())
}

fn store(anchors: impl IntoIterator<Item = X509>) -> Result<X509StoreBuilder, TlsError> {
    let mut store = X509StoreBuilder::new().map_err(ssl_error("trust store"))?;
    let mut seen = BTreeSet::new();
    for anchor in anchors {
        if seen.insert(anchor.to_der().map_err(ssl_error("anchor"))?) {
            store.add_cert(anchor).map_err(ssl_error("trust store"))?;
        }
    }
    Ok(store)
}

fn read_all(files: &[PathBuf]) -> Result<Vec<X509>, TlsError> {
    let each = files.iter().map(|file| certificates(file)).collect::<Result<Vec<_>, _>>()?;
    Ok(each.concat())
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// Unreadable, or without a certificate.
pub fn certificates(path: &Path) -> Result<Vec<X509>, TlsError> {
    let stack = X509::stack_from_pem(&read(path)?).map_err(ssl_error(path.display().to_string()))?;
    if stack.is_empty() { Err(TlsError::NoCertificate(path.display().to_string())) } else { Ok(stack) }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.display().to_string(), source })
}
