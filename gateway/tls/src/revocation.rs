//! CRLs of one country: from files and from configured distribution points, and how stale they may be.

use std::path::Path;
use std::time::Duration;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::nid::Nid;
use openssl::x509::{X509, X509Crl, X509CrlRef};

use crate::{TlsError, context, ssl_error};

/// Largest CRL taken from a distribution point.
pub const CRL_BYTES: usize = 16 << 20;

/// What is known of a country's revoked certificates.
#[derive(Clone, Default)]
pub struct Revocation {
    /// CRLs. When there is one, every certificate of a path must be covered by one.
    pub crls: std::sync::Arc<Vec<X509Crl>>,
    /// Whether there must be one: until the first has come, nothing is covered.
    pub crl_needed: bool,
    /// How long a CRL or an OCSP answer is believed after its `nextUpdate`; zero is the hard mode.
    pub grace: Duration,
    /// The configured responder.
    pub ocsp: Option<std::sync::Arc<crate::Ocsp>>,
}

impl Revocation {
    /// Nothing is known and nothing is required.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether the CRLs are in time, or no longer past it than the grace; where none is needed they are. Seconds since 1970.
    pub fn is_believed(&self, now: i64) -> bool {
        let grace = i64::try_from(self.grace.as_secs()).unwrap_or(i64::MAX);
        let end = |crl: &X509Crl| crl.next_update().and_then(unix);
        let has_all = !(self.crl_needed && self.crls.is_empty());
        has_all && self.crls.iter().all(|crl| end(crl).is_some_and(|end| now <= end.saturating_add(grace)))
    }

    /// Whether any source is configured.
    pub fn is_configured(&self) -> bool {
        !self.crls.is_empty() || self.crl_needed || self.ocsp.is_some()
    }
}

/// The CRLs without those that a later one replaces, such as the CRL of a file beside the one that was fetched since: an old CRL
/// must not end a verdict that rests on the newer one, nor revoke what the newer one no longer lists.
pub fn latest(mut crls: Vec<X509Crl>) -> Vec<X509Crl> {
    let replaced: Vec<bool> = crls.iter().map(|old| crls.iter().any(|new| replaces(new, old))).collect();
    let mut replaced = replaced.into_iter();
    crls.retain(|_| !replaced.next().unwrap_or(false));
    crls
}

/// Whether one CRL was issued after another of the same issuer, key and scope (RFC 5280 5.2.1, 5.2.4, 5.2.5), and ends no
/// sooner.
fn replaces(new: &X509CrlRef, old: &X509CrlRef) -> bool {
    const SCOPE: [Nid; 3] = [Nid::AUTHORITY_KEY_IDENTIFIER, Nid::DELTA_CRL, Nid::ISSUING_DISTRIBUTION_POINT];
    let ends = |crl: &X509CrlRef| crl.next_update().and_then(unix);
    new.last_update() > old.last_update()
        && ends(new).zip(ends(old)).is_some_and(|(new, old)| new >= old)
        && new.issuer_name().try_cmp(old.issuer_name()).is_ok_and(|order| order.is_eq())
        && SCOPE.iter().all(|kind| crate::ffi::crl_extension(new, *kind) == crate::ffi::crl_extension(old, *kind))
}

/// The [`latest`] CRLs of a file: PEM, any number, or one in DER.
///
/// # Errors
/// Unreadable, or holding no CRL.
pub fn read_crls(path: &Path) -> Result<Vec<X509Crl>, TlsError> {
    let crls = parse_crls(&context::read(path)?).map_err(|_| TlsError::NoCertificate(path.display().to_string()))?;
    Ok(latest(crls))
}

/// CRLs of bytes, as [`read_crls`].
///
/// # Errors
/// No CRL in it.
pub fn parse_crls(bytes: &[u8]) -> Result<Vec<X509Crl>, TlsError> {
    const BEGIN: &str = "-----BEGIN X509 CRL-----";
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|t| t.contains(BEGIN)) else {
        return Ok(vec![X509Crl::from_der(bytes).map_err(ssl_error("crl"))?]);
    };
    let one = |rest: &str| X509Crl::from_pem(format!("{BEGIN}{rest}").as_bytes()).map_err(ssl_error("crl"));
    text.split(BEGIN).skip(1).map(one).collect()
}

/// Takes a fetched CRL if one of the authorities signed it, it is not older than what is held, and it is in time.
///
/// # Errors
/// Why it is not taken; what is held stays.
pub fn accept_crl(bytes: &[u8], authorities: &[X509], held: Option<&X509CrlRef>) -> Result<X509Crl, TlsError> {
    let untrusted = |why: &str| TlsError::Untrusted(format!("crl: {why}"));
    let crl = parse_crls(bytes)?.into_iter().next().ok_or_else(|| untrusted("none"))?;
    let signed = authorities.iter().any(|authority| {
        let same = authority.subject_name().try_cmp(crl.issuer_name()).is_ok_and(|o| o.is_eq());
        same && authority.public_key().is_ok_and(|key| crl.verify(&key).unwrap_or(false))
    });
    if !signed {
        return Err(untrusted("not signed by an authority of the country"));
    }
    if held.is_some_and(|held| crl.last_update() < held.last_update()) {
        return Err(untrusted("older than the one held"));
    }
    let next = crl.next_update().and_then(unix).ok_or_else(|| untrusted("without nextUpdate"))?;
    if next <= now() { Err(untrusted("past its nextUpdate")) } else { Ok(crl) }
}

/// Seconds since 1970 of an ASN.1 time.
pub(crate) fn unix(time: &Asn1TimeRef) -> Option<i64> {
    let epoch = Asn1Time::from_unix(0).ok()?;
    let span = epoch.diff(time).ok()?;
    Some(i64::from(span.days) * 86_400 + i64::from(span.secs))
}

pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
