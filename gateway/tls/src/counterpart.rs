//! Who may be at the other end of a connection between our own programs, and with national systems: beside the path to an
//! anchor its revocation, as at the border, and its name.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use openssl::x509::{X509, X509StoreContextRef};

use crate::{Anchors, CertificateFacts, Freshness, Names, Purpose, Revocation, TlsError, read_crls};

/// How long a CRL is believed after its `nextUpdate`, as at the border where nothing else is configured.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// The check of a certificate in the handshake, after OpenSSL built its path to an anchor.
#[derive(Clone)]
pub struct Counterpart(Arc<Inner>);

struct Inner {
    anchors: PathBuf,
    crls: Option<PathBuf>,
    names: Option<Names>,
    purpose: Purpose,
    revocation: Option<Mutex<Read>>,
}

/// The CRLs as they were read last.
struct Read {
    stamps: Stamps,
    anchors: Arc<Anchors>,
}

/// When the files of anchors and CRLs were written, and their sizes.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl Counterpart {
    /// Reads the files: without CRLs only the name is checked, without names only revocation.
    ///
    /// # Errors
    /// Unreadable files.
    pub fn load(anchors: &Path, crls: Option<&Path>, names: Option<Names>, purpose: Purpose) -> Result<Self, TlsError> {
        let (anchors, crls) = (anchors.to_owned(), crls.map(Path::to_owned));
        let mut inner = Inner { anchors, crls, names, purpose, revocation: None };
        inner.revocation = inner.read()?.map(Mutex::new);
        Ok(Self(Arc::new(inner)))
    }

    /// Where the path must end.
    pub fn anchors(&self) -> &Path {
        &self.0.anchors
    }

    /// Called by OpenSSL for each certificate of a path, the leaf last.
    pub(crate) fn in_handshake(&self, good: bool, context: &mut X509StoreContextRef) -> bool {
        if !good || context.error_depth() != 0 {
            return good;
        }
        let Some(leaf) = context.current_cert().map(ToOwned::to_owned) else { return false };
        let chain: Vec<X509> =
            context.chain().map(|chain| chain.iter().skip(1).map(ToOwned::to_owned).collect()).unwrap_or_default();
        match self.verdict(&leaf, &chain) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(reason = %error, "certificate refused between our own programs");
                false
            }
        }
    }
}

impl Counterpart {
    /// Whether a certificate is admitted now, by the files as they are.
    pub(crate) fn verdict(&self, leaf: &X509, chain: &[X509]) -> Result<(), TlsError> {
        self.0.verdict(leaf, chain)
    }
}

impl Inner {
    fn verdict(&self, leaf: &X509, chain: &[X509]) -> Result<(), TlsError> {
        if let Some(names) = &self.names {
            let facts = CertificateFacts::of(leaf)?;
            if !names.admit(&facts) {
                let reason = format!("certificate sha256:{} is not among the names of this port", facts.fingerprint);
                return Err(TlsError::Untrusted(reason));
            }
        }
        let Some(anchors) = self.current() else { return Ok(()) };
        if anchors.verify(leaf, chain)? == Freshness::Stale {
            tracing::warn!("CRLs between our own programs are past their time, within the grace");
        }
        Ok(())
    }

    /// Trust by the files as they are now. What cannot be read leaves what was read before in force.
    fn current(&self) -> Option<Arc<Anchors>> {
        let mut kept = self.revocation.as_ref()?.lock().unwrap_or_else(|p| p.into_inner());
        if kept.stamps != self.stamps() {
            match self.read() {
                Ok(Some(read)) => *kept = read,
                Ok(None) => {}
                Err(error) => tracing::error!(reason = %error, "CRLs cannot be read again, the old ones are in force"),
            }
        }
        Some(kept.anchors.clone())
    }

    fn read(&self) -> Result<Option<Read>, TlsError> {
        let Some(file) = &self.crls else { return Ok(None) };
        // A file that is written while it is read is read again for its later stamp.
        let stamps = self.stamps();
        let crls = Arc::new(read_crls(file)?);
        let revocation = Revocation { crls, crl_needed: true, grace: GRACE, ocsp: None };
        let anchors = Arc::new(Anchors::load(&self.anchors, revocation, self.purpose)?);
        Ok(Some(Read { stamps, anchors }))
    }

    fn stamps(&self) -> Stamps {
        let stamp = |path: &Path| {
            let facts = std::fs::metadata(path).ok()?;
            Some((facts.modified().ok()?, facts.len()))
        };
        [stamp(&self.anchors), self.crls.as_deref().and_then(stamp)]
    }
}
