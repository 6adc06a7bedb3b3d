//! Trust in a certificate that came in a message or in a handshake: path, dates, revocation, use and strength.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509PurposeId, X509Ref, X509VerifyResult};

use crate::ocsp::{AtHand, Status, Told};
use crate::path::{alternatives, path_through};
use crate::revocation::{now, unix};
use crate::{CertificateFacts, Names, Revocation, TlsError, context, ssl_error};

/// X509_V_ERR_UNABLE_TO_GET_CRL of OpenSSL's x509_vfy.h.
const NO_CRL: i32 = 3;
/// X509_V_ERR_CRL_HAS_EXPIRED.
const CRL_EXPIRED: i32 = 12;

/// Certificates remembered.
const HELD: usize = 1024;

/// A verdict on data that are past their time, or that could not be had, is asked for again after so long, seconds.
const AGAIN_S: i64 = 30;

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signing assertions: digitalSignature, no CA, no EKU that forbids it.
    Seal,
    /// TLS client.
    TlsClient,
    /// TLS server.
    TlsServer,
}

/// How current the revocation data behind a good verdict are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// In time, or none is configured.
    Current,
    /// Past `nextUpdate`, within the grace: accepted, and an alert.
    Stale,
}

/// A good verdict on a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How current the revocation data are.
    pub freshness: Freshness,
    /// When it ends: the first end of a certificate of the path, a CRL or a status; seconds since 1970.
    pub(crate) until: i64,
}

impl Verdict {
    fn new(freshness: Freshness, until: i64) -> Self {
        Self { freshness, until }
    }

    /// A verdict that rests on data past their time, or on a responder that does not answer.
    fn for_now(freshness: Freshness) -> Self {
        Self::new(freshness, now() + AGAIN_S)
    }

    fn at_most(self, until: i64) -> Self {
        Self { until: self.until.min(until), ..self }
    }
}

/// Anchors of one country for one use. Immutable but for the statuses that its responder told; a reload makes a new one.
pub struct Anchors {
    roots: Vec<X509>,
    intermediates: Vec<X509>,
    /// Path, dates, purpose.
    path: X509Store,
    /// The same without a purpose, for the signers of OCSP answers.
    responders: Arc<X509Store>,
    /// The same with CRLs.
    strict: Option<X509Store>,
    /// The same with CRLs past their time: of an issuer's the one that was issued last. OpenSSL has one instant for all, at which
    /// another issuer's CRL may not have been issued yet, so that it looks at no dates here.
    stale: Option<X509Store>,
    /// Certificates whose path held, and since when and until when it does.
    held: Mutex<HashMap<String, (i64, Verdict)>>,
    revocation: Revocation,
    purpose: Purpose,
    /// The certificates that have this use; none: all under the anchors.
    names: Option<Names>,
}

impl Anchors {
    /// Loads anchors; self-issued ones are roots, others help to build paths.
    ///
    /// # Errors
    /// Unreadable files, what OpenSSL refuses.
    pub fn load(anchors: &Path, revocation: Revocation, purpose: Purpose) -> Result<Self, TlsError> {
        Self::of(context::certificates(anchors)?, revocation, purpose)
    }

    /// The same of certificates that were read: reading one takes longer than everything else here.
    ///
    /// # Errors
    /// What OpenSSL refuses.
    pub fn of(all: Vec<X509>, revocation: Revocation, purpose: Purpose) -> Result<Self, TlsError> {
        let (roots, intermediates): (Vec<X509>, Vec<X509>) = all.into_iter().partition(crate::roots::is_self_issued);
        let path = store(&roots, None, purpose, false)?;
        // OpenSSL keeps a store's purpose when it verifies an answer's signer, who is no TLS client.
        let responders = Arc::new(store(&roots, None, Purpose::Seal, false)?);
        let with_crls = |timeless| store(&roots, Some(revocation.crls.as_slice()), purpose, timeless);
        let (strict, stale) = match revocation.crls.is_empty() && !revocation.crl_needed {
            true => (None, None),
            false => (Some(with_crls(false)?), Some(with_crls(true)?)),
        };
        Ok(Self {
            roots,
            intermediates,
            path,
            responders,
            strict,
            stale,
            held: Mutex::default(),
            revocation,
            purpose,
            names: None,
        })
    }

    /// The same for the certificates of these names alone, where names are given.
    #[must_use]
    pub fn pinned(self, names: Option<Names>) -> Self {
        Self { names, held: Mutex::default(), ..self }
    }

    /// Every certificate of the files.
    pub fn authorities(&self) -> impl Iterator<Item = &X509> {
        self.roots.iter().chain(&self.intermediates)
    }

    /// What is known of revocation.
    pub fn revocation(&self) -> &Revocation {
        &self.revocation
    }

    /// Builds and checks a path from the certificate, with what the other side sent as helpers.
    ///
    /// # Errors
    /// [`TlsError::Untrusted`] with OpenSSL's reason or ours; [`TlsError::StatusNeeded`] when the responder must be asked.
    pub fn verify(&self, certificate: &X509Ref, sent: &[X509]) -> Result<Freshness, TlsError> {
        self.verify_stapled(certificate, sent, None)
    }

    /// As [`verify`](Self::verify), with the OCSP answer that came with the handshake.
    ///
    /// # Errors
    /// As [`verify`](Self::verify); a certificate that promises a stapled answer and has none.
    pub fn verify_stapled(
        &self,
        certificate: &X509Ref,
        sent: &[X509],
        staple: Option<&[u8]>,
    ) -> Result<Freshness, TlsError> {
        self.judge(certificate, sent, staple).map(|verdict| verdict.freshness)
    }

    /// The verdict is that of the certificate: a path that held once holds until it ends, whatever is sent with the
    /// certificate at another time.
    fn judge(&self, certificate: &X509Ref, sent: &[X509], staple: Option<&[u8]>) -> Result<Verdict, TlsError> {
        let name = fingerprint(certificate)?;
        let (path, stapled) = match self.held(&name) {
            Some(path) if staple.is_none() => (path, None),
            _ => {
                let at = now();
                let (crl, chain) = self.path_and_crl(certificate, sent)?;
                let path = match crl {
                    Freshness::Current => Verdict::new(crl, self.end_of(&chain, at)),
                    Freshness::Stale => Verdict::for_now(crl).at_most(self.end_of_grace()),
                };
                self.hold(name.clone(), path, at);
                (path, self.stapled(certificate, &chain, staple))
            }
        };
        let at_hand = self.revocation.ocsp.as_ref().map(|ocsp| ocsp.at_hand(&name));
        let revoked_elsewhere = matches!(at_hand, Some(AtHand::Fresh(told)) if told.status == Status::Revoked);
        match stapled {
            _ if revoked_elsewhere => return Err(revoked()),
            Some(Told { status: Status::Good, until, .. }) => return Ok(path.at_most(until)),
            Some(_) => return Err(revoked()),
            None if self.purpose == Purpose::TlsServer && crate::ffi::must_staple(certificate) => {
                return Err(TlsError::Untrusted(
                    "certificate promises a stapled answer and none came that holds".into(),
                ));
            }
            None => {}
        }
        match at_hand {
            None => Ok(path),
            Some(AtHand::Fresh(Told { status: Status::Good, until, .. })) => Ok(path.at_most(until)),
            Some(AtHand::Fresh(_)) => Err(revoked()),
            Some(AtHand::Nothing) => Err(TlsError::StatusNeeded),
            Some(AtHand::Failing(last)) => self.without_status(path, last),
            // Who waited for a responder that failed the last time would wait for its time limit again and again.
            Some(AtHand::Due(last)) => match self.without_status(path, last) {
                Ok(verdict) => {
                    self.ask_beside(certificate, sent, &name);
                    Ok(verdict)
                }
                Err(_) => Err(TlsError::StatusNeeded),
            },
        }
    }

    /// The verdict while the responder fails, by what it said last and how long that has been past its end.
    fn without_status(&self, path: Verdict, last: Option<(Status, i64)>) -> Result<Verdict, TlsError> {
        let grace = self.grace();
        match last {
            Some((Status::Revoked | Status::Unknown, _)) => Err(revoked()),
            // The CRL alone answers for as long as the responder does not, if there is one in time.
            _ if self.strict.is_some() && path.freshness == Freshness::Current && grace > 0 => {
                Ok(Verdict::for_now(path.freshness).at_most(path.until))
            }
            Some((Status::Good, past)) if grace > 0 && past <= grace => {
                Ok(Verdict::for_now(Freshness::Stale).at_most(path.until))
            }
            _ => Err(TlsError::Untrusted("status is not to be had from the responder".into())),
        }
    }

    fn grace(&self) -> i64 {
        i64::try_from(self.revocation.grace.as_secs()).unwrap_or(i64::MAX)
    }

    /// What a stapled answer says. One that does not hold (another signer, past its time, about another certificate) is no
    /// answer: it turns no good certificate into a bad one.
    fn stapled(&self, certificate: &X509Ref, chain: &[X509], staple: Option<&[u8]>) -> Option<Told> {
        let (staple, issuer) = (staple?, chain.get(1)?);
        crate::ocsp::read(staple, certificate, issuer, &self.responders)
            .inspect_err(|error| tracing::info!(reason = %error, "a stapled answer is not used"))
            .ok()
    }

    /// As [`verify_stapled`](Self::verify_stapled), asking the responder where that is needed.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), without `StatusNeeded`.
    pub async fn verify_online(
        &self,
        certificate: &X509Ref,
        sent: &[X509],
        staple: Option<&[u8]>,
    ) -> Result<Freshness, TlsError> {
        self.judge_online(certificate, sent, staple).await.map(|verdict| verdict.freshness)
    }

    /// As [`verify_online`](Self::verify_online), with the end of the verdict.
    ///
    /// # Errors
    /// As [`verify_online`](Self::verify_online).
    pub async fn judge_online(
        &self,
        certificate: &X509Ref,
        sent: &[X509],
        staple: Option<&[u8]>,
    ) -> Result<Verdict, TlsError> {
        match self.judge(certificate, sent, staple) {
            Err(TlsError::StatusNeeded) => {
                self.ask(certificate, sent).await?;
                self.judge(certificate, sent, staple)
            }
            other => other,
        }
    }

    /// Asks the responder about a certificate whose path holds.
    ///
    /// # Errors
    /// The path does not hold.
    pub async fn ask(&self, certificate: &X509Ref, sent: &[X509]) -> Result<(), TlsError> {
        let chain = self.path_of(&self.path, certificate, sent).map_err(untrusted)?;
        if let (Some(ocsp), Some(issuer)) = (&self.revocation.ocsp, chain.get(1)) {
            ocsp.ask(certificate, issuer, &self.responders, &fingerprint(certificate)?).await;
        }
        Ok(())
    }

    /// Asks the responder about a certificate whose path holds, while nobody waits for it.
    fn ask_beside(&self, certificate: &X509Ref, sent: &[X509], name: &str) {
        let Some(ocsp) = &self.revocation.ocsp else { return };
        let issuer = || self.path_of(&self.path, certificate, sent).ok()?.get(1).cloned();
        ocsp.ask_beside(certificate, issuer, &self.responders, name);
    }

    fn path_and_crl(&self, certificate: &X509Ref, sent: &[X509]) -> Result<(Freshness, Vec<X509>), TlsError> {
        let chain = self.path_of(&self.path, certificate, sent).map_err(untrusted)?;
        if self.purpose == Purpose::Seal {
            seal_use(certificate)?;
        }
        strength(certificate)?;
        let freshness = self.crl_status(certificate, sent)?;
        self.named(certificate)?;
        Ok((freshness, chain))
    }

    /// The digest in the reason is what an operator may put on the list.
    fn named(&self, certificate: &X509Ref) -> Result<(), TlsError> {
        let Some(names) = &self.names else { return Ok(()) };
        let facts = CertificateFacts::of(certificate)?;
        let reason = || format!("certificate sha256:{} is not among the names of this use", facts.fingerprint);
        if names.admit(&facts) { Ok(()) } else { Err(TlsError::Untrusted(reason())) }
    }

    /// What this certificate's path was found to be, where that holds still: neither anchors nor CRLs change here, only the
    /// time does. Before the instant at which it was found, which the clock went back behind, it says nothing.
    fn held(&self, name: &str) -> Option<Verdict> {
        let held = self.held.lock().unwrap_or_else(|p| p.into_inner());
        let (since, verdict) = held.get(name)?;
        (*since..verdict.until).contains(&now()).then_some(*verdict)
    }

    /// Remembers what a path was found to be.
    fn hold(&self, name: String, verdict: Verdict, since: i64) {
        let mut held = self.held.lock().unwrap_or_else(|p| p.into_inner());
        if held.len() >= HELD {
            held.clear();
        }
        held.insert(name, (since, verdict));
    }

    /// When a path that held `at` an instant must be built anew: at the first end of its certificates, and of the CRLs that
    /// were in time then. Others have no part in it.
    fn end_of(&self, chain: &[X509], at: i64) -> i64 {
        let crls = self.revocation.crls.iter().filter_map(|crl| crl.next_update()).map(unix);
        let crls = crls.filter(|end| end.is_none_or(|end| end > at));
        let ends = chain.iter().map(|link| unix(link.not_after())).chain(crls);
        // An end that cannot be read is now.
        ends.map(|end| end.unwrap_or(at)).min().unwrap_or(at)
    }

    fn crl_status(&self, certificate: &X509Ref, sent: &[X509]) -> Result<Freshness, TlsError> {
        let Some(strict) = &self.strict else { return Ok(Freshness::Current) };
        match self.path_of(strict, certificate, sent) {
            Ok(_) => Ok(Freshness::Current),
            Err(reason) if matches!(reason.as_raw(), CRL_EXPIRED | NO_CRL) => {
                let is_within_grace = self.first_past().is_some_and(|first| now() - first <= self.grace());
                let stale = self.stale.as_ref().filter(|_| is_within_grace).ok_or_else(|| untrusted(reason))?;
                let path = self.path_of(stale, certificate, sent).map_err(untrusted)?;
                // No dates were looked at.
                if path.iter().all(|link| is_in_time(link)) { Ok(Freshness::Stale) } else { Err(untrusted(reason)) }
            }
            Err(reason) => Err(untrusted(reason)),
        }
    }

    /// The end of the CRL that has been past its time longest.
    fn first_past(&self) -> Option<i64> {
        let ends = self.revocation.crls.iter().filter_map(|crl| crl.next_update().and_then(unix));
        ends.filter(|end| *end <= now()).min()
    }

    /// When CRLs past their time are believed no longer.
    fn end_of_grace(&self) -> i64 {
        self.first_past().map_or(i64::MAX, |first| first.saturating_add(self.grace()).saturating_add(1))
    }

    /// The first path that holds. OpenSSL follows one issuer and does not come back where it leads nowhere, so that one
    /// more certificate of the other side could hide a good path: our own intermediates are tried alone, then all, then
    /// each path on its own.
    fn path_of(&self, store: &X509Store, certificate: &X509Ref, sent: &[X509]) -> Result<Vec<X509>, X509VerifyResult> {
        let all: Vec<X509> = sent.iter().chain(&self.intermediates).cloned().collect();
        if !sent.is_empty()
            && let Ok(path) = path_through(store, certificate, &self.intermediates)
        {
            return Ok(path);
        }
        let first = path_through(store, certificate, &all);
        let Err(reason) = first else { return first };
        let others = alternatives(certificate, &all);
        if others.len() < 2 {
            return Err(reason);
        }
        others.iter().find_map(|links| path_through(store, certificate, links).ok()).ok_or(reason)
    }
}

fn untrusted(reason: X509VerifyResult) -> TlsError {
    TlsError::Untrusted(reason.error_string().to_owned())
}

fn revoked() -> TlsError {
    TlsError::Untrusted("certificate revoked".to_owned())
}

fn fingerprint(certificate: &X509Ref) -> Result<String, TlsError> {
    Ok(hex::encode(certificate.digest(MessageDigest::sha256()).map_err(ssl_error("certificate"))?))
}

/// With CRLs, if only none yet, every certificate of a path must be covered by one.
fn store(
    roots: &[X509],
    crls: Option<&[openssl::x509::X509Crl]>,
    purpose: Purpose,
    timeless: bool,
) -> Result<X509Store, TlsError> {
    let mut store = X509StoreBuilder::new().map_err(ssl_error("trust store"))?;
    let mut parameters = parameters(purpose, crls.is_some())?;
    if timeless {
        parameters.set_flags(X509VerifyFlags::NO_CHECK_TIME).map_err(ssl_error("trust store"))?;
    }
    store.set_param(&parameters).map_err(ssl_error("trust store"))?;
    for root in roots {
        store.add_cert(root.clone()).map_err(ssl_error("trust store"))?;
    }
    for crl in crls.unwrap_or_default() {
        crate::ffi::add_crl(&mut store, crl).map_err(ssl_error("crl"))?;
    }
    Ok(store.build())
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

/// Whether a certificate's dates hold now; one that cannot be read does not.
fn is_in_time(certificate: &X509Ref) -> bool {
    let time = unix(certificate.not_before()).zip(unix(certificate.not_after()));
    time.is_some_and(|(begins, ends)| (begins..=ends).contains(&now()))
}

/// digitalSignature, no CA, and not a certificate whose extended use is TLS alone.
fn seal_use(certificate: &X509Ref) -> Result<(), TlsError> {
    let refuse = |why: &str| Err(TlsError::Untrusted(why.to_owned()));
    match crate::ffi::key_use(certificate) {
        (_, true) => refuse("a CA certificate signs no assertions"),
        (usage, false) if usage & crate::ffi::DIGITAL_SIGNATURE == 0 => refuse("key usage lacks digitalSignature"),
        _ if crate::ffi::tls_only(certificate) => refuse("extended key usage is that of tls"),
        _ => Ok(()),
    }
}

/// RSA of 2048 bits and more with an exponent of 65537 and more, or P-256 and stronger.
fn strength(certificate: &X509Ref) -> Result<(), TlsError> {
    let key = certificate.public_key().map_err(ssl_error("public key"))?;
    let strong = match key.id() {
        Id::RSA => key.bits() >= 2048 && key.rsa().is_ok_and(|rsa| rsa.e().num_bits() > 16),
        Id::EC => {
            let curve = key.ec_key().ok().and_then(|k| k.group().curve_name());
            matches!(curve, Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1))
        }
        _ => false,
    };
    if strong { Ok(()) } else { Err(TlsError::Untrusted("key is too weak or of another kind".to_owned())) }
}
