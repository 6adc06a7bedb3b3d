//! Trust in who signs assertions: the caller's to decide, never that of what came with a signature.

use ncp_tls::Country;
use openssl::x509::{X509, X509Ref};

/// Who signed, as the caller's trust decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerIdentity {
    /// C of the certificate's subject.
    pub country: Country,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// CN of the subject.
    pub common_name: String,
    /// The revocation data were past their time, within the grace that is configured.
    pub stale: bool,
}

/// Trust in signers, decided by the caller and never by KeyInfo.
pub trait SignerTrust: Send + Sync {
    /// Path, dates, revocation, use and strength of the certificate; whose it is.
    ///
    /// # Errors
    /// Why it is not trusted, for operators.
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String>;

    /// The same for a certificate that came with others, which help to build its path.
    ///
    /// # Errors
    /// As [`signer`](Self::signer).
    fn signer_among(&self, certificate: &X509Ref, others: &[X509]) -> Result<SignerIdentity, String> {
        let _ = others;
        self.signer(certificate)
    }

    /// Whether these are the country's own issuers, whose signatures have a profile of their own.
    fn is_national(&self) -> bool {
        false
    }

    /// Audiences that are ours, beside the one of the field.
    fn audiences(&self) -> &[String] {
        &[]
    }

    /// Whether a next-of-kin assertion is bound by its reference and its signer alone: OpenNCP's issuer writes one and the
    /// same subject into each.
    fn kin_by_reference(&self) -> bool {
        false
    }
}
