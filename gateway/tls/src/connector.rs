//! A client's context: whom we connect to, and what we show.

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslVerifyMode};
use openssl::x509::verify::X509CheckFlags;

/// Connects to servers whose certificate leads to the given anchors and holds their name.
///
/// `openssl::ssl::SslConnector` reads the certificates that the system trusts before it is told others (36 ms for each
/// connector, measured); nobody here trusts them, so that a context of our own stands in its place.
#[derive(Clone)]
pub struct TlsConnector(SslContext);

impl TlsConnector {
    /// A context that trusts nobody yet and verifies the server.
    ///
    /// # Errors
    /// What OpenSSL refuses.
    pub fn builder() -> Result<SslContextBuilder, ErrorStack> {
        let mut builder = SslContextBuilder::new(SslMethod::tls_client())?;
        builder.set_options(SslOptions::ALL | SslOptions::NO_SSLV2 | SslOptions::NO_SSLV3);
        builder.set_mode(SslMode::AUTO_RETRY | SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::ENABLE_PARTIAL_WRITE);
        builder.set_verify(SslVerifyMode::PEER);
        Ok(builder)
    }

    /// The connector of a context that is ready.
    pub fn of(builder: SslContextBuilder) -> Self {
        Self(builder.build())
    }

    /// A session with the server of this name or address, which its certificate must hold (RFC 6125 6.4, without partial
    /// wildcards).
    ///
    /// # Errors
    /// What OpenSSL refuses.
    pub fn session(&self, server_name: &str) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.0)?;
        let address = server_name.parse();
        if address.is_err() {
            ssl.set_hostname(server_name)?;
        }
        let expected = ssl.param_mut();
        expected.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        match address {
            Ok(address) => expected.set_ip(address)?,
            Err(_) => expected.set_host(server_name)?,
        }
        Ok(ssl)
    }
}
