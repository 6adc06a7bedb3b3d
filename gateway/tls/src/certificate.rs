//! Facts of a certificate, from its parsed structure; never by text search in a printed name.

use std::fmt;

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::{X509, X509NameRef, X509Ref};

/// A country, ISO 3166-1 alpha-2. EL reads as GR, UK as GB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

/// No country, or not exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a country of two upper-case letters")]
pub struct CountryError;

impl Country {
    /// Reads two upper-case letters.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, CountryError> {
        match text.as_bytes() {
            b"EL" => Ok(Self(*b"GR")),
            b"UK" => Ok(Self(*b"GB")),
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([*a, *b])),
            _ => Err(CountryError),
        }
    }

    /// The two letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }

    /// The one C of a certificate's subject.
    ///
    /// # Errors
    /// None, two, one that is no country, or a name of which a part has several values.
    pub fn of_subject(certificate: &X509Ref) -> Result<Self, CountryError> {
        if !single_valued(certificate.subject_name()) {
            return Err(CountryError);
        }
        let mut entries = certificate.subject_name().entries_by_nid(Nid::COUNTRYNAME);
        let (Some(only), None) = (entries.next(), entries.next()) else { return Err(CountryError) };
        Self::parse(std::str::from_utf8(only.data().as_slice()).map_err(|_| CountryError)?)
    }
}

/// Whether every RDN of a name has one value: as many SETs as values.
fn single_valued(name: &X509NameRef) -> bool {
    let Ok(der) = name.to_der() else { return false };
    let Some((0x30, mut rest, [])) = element(&der) else { return false };
    let mut sets = 0;
    while let Some((0x31, _, next)) = element(rest) {
        (sets, rest) = (sets + 1, next);
    }
    rest.is_empty() && sets == name.entries().count()
}

/// Tag, content and what follows of the first DER element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, first, rest) = (*der.first()?, *der.get(1)?, der.get(2..)?);
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), rest.get(2..)?),
        _ => return None,
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What we read of a certificate once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// DER.
    pub der: Vec<u8>,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
    /// First CN of the subject.
    pub common_name: String,
    /// C of the subject, where there is exactly one.
    pub country: Option<Country>,
    /// Issuer, one line, for operators.
    pub issuer: String,
    /// Attributes of the subject by OpenSSL's short names, sorted.
    pub subject: Vec<(String, String)>,
    /// DNS names among the alternative names, lower case.
    pub dns_names: Vec<String>,
}

impl CertificateFacts {
    /// Reads the facts.
    ///
    /// # Errors
    /// When OpenSSL cannot write the certificate.
    pub fn of(certificate: &X509Ref) -> Result<Self, crate::TlsError> {
        let der = certificate.to_der().map_err(crate::ssl_error("certificate"))?;
        let digest = certificate.digest(MessageDigest::sha256()).map_err(crate::ssl_error("certificate"))?;
        let name = |name: &openssl::x509::X509NameRef| {
            let cn = name.entries_by_nid(Nid::COMMONNAME).next();
            cn.map(|e| String::from_utf8_lossy(e.data().as_slice()).into_owned()).unwrap_or_default()
        };
        Ok(Self {
            der,
            fingerprint: hex::encode(digest),
            common_name: name(certificate.subject_name()),
            country: Country::of_subject(certificate).ok(),
            issuer: name(certificate.issuer_name()),
            subject: crate::names::subject_of(certificate),
            dns_names: crate::names::dns_names_of(certificate),
        })
    }

    /// The certificate again.
    pub fn x509(&self) -> Option<X509> {
        X509::from_der(&self.der).ok()
    }
}
