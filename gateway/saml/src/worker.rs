//! Worker threads that own keys of libxmlsec1, since those must not move between threads; a key is lent to an operation,
//! never duplicated.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::sync::{Mutex, mpsc};

use bytes::Bytes;
use jiff::Timestamp;
use ncp_tls::{Anchors, CertificateFacts, Country, Material};
use ncp_xml::{Element, Extent, Limits};
use openssl::asn1::Asn1Time;
use openssl::pkey::Id;
use openssl::x509::X509;
use tokio::sync::oneshot;

use crate::AssertionError as E;
use crate::assertion::{HcpAssertion, NextOfKinAssertion, Subject, TrcAssertion, Verified};
use crate::error::Oversize;
use crate::ffi::{self, Key, Signed};
use crate::issue::{
    CERTIFICATE_PLACE, HcpClaims, METHOD_PLACE, NextOfKinClaims, SignedAssertion, TrcClaims, hcp_template,
    nok_template, trc_template,
};
use crate::national::XuaAssertion;
use crate::recent::Recent;
use crate::structure::{self, Kind, Located, Profile, Side};
use crate::token::{TokenKey, TokenSigner};
use crate::trust::{SignerIdentity, SignerTrust};

/// Verification keys that a worker keeps.
const KEYS_PER_WORKER: usize = 64;
/// Signatures that are known to verify, some 4 KiB each: those of the professionals who are at work.
const SIGNATURES: usize = 4096;

/// Longest assertion, bytes: a professional's has some 8 KiB.
const LONGEST: usize = 64 << 10;

/// The verified assertions of a message.
#[derive(Debug, Clone)]
pub struct SecurityHeader {
    /// HCP identity.
    pub hcp: Verified<HcpAssertion>,
    /// Treatment relationship, where there is one.
    pub trc: Option<Verified<TrcAssertion>>,
    /// Who asks for the patient, where somebody does.
    pub nok: Option<Verified<NextOfKinAssertion>>,
}

/// The verified assertions of a national consumer's message.
#[derive(Debug, Clone)]
pub struct NationalHeader {
    /// Who asks.
    pub user: Verified<XuaAssertion>,
    /// Treatment relationship, where there is one.
    pub trc: Option<Verified<TrcAssertion>>,
}

type Job<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Threads with state of their own, fed from one queue.
struct Pool<W> {
    queue: mpsc::SyncSender<Job<W>>,
}

impl<W: 'static> Pool<W> {
    fn start(name: &str, workers: usize, make: impl Fn() -> Result<W, E> + Send + Sync + 'static) -> Result<Self, E> {
        let (queue, jobs) = mpsc::sync_channel::<Job<W>>(1024);
        let jobs = Arc::new(Mutex::new(jobs));
        let make = Arc::new(make);
        for index in 0..workers.max(1) {
            let (jobs, make) = (jobs.clone(), make.clone());
            let (tell, made) = std_mpsc::channel();
            std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || {
                    let mut state = match make() {
                        Ok(state) => {
                            let _ = tell.send(Ok(()));
                            state
                        }
                        Err(error) => {
                            let _ = tell.send(Err(error));
                            return;
                        }
                    };
                    loop {
                        let job = jobs.lock().unwrap_or_else(|p| p.into_inner()).recv();
                        match job {
                            Ok(job) => job(&mut state),
                            Err(_) => return,
                        }
                    }
                })
                .map_err(|_| E::Unavailable("thread"))?;
            made.recv().map_err(|_| E::Unavailable("thread"))??;
        }
        Ok(Self { queue })
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut W) -> Result<T, E> + Send + 'static) -> Result<T, E> {
        let (tell, told) = oneshot::channel();
        let job: Job<W> = Box::new(move |state| {
            let _ = tell.send(work(state));
        });
        self.queue.try_send(job).map_err(|_| E::Unavailable("queue is full"))?;
        told.await.map_err(|_| E::Unavailable("worker"))?
    }
}

/// Where a seal's private key is.
#[derive(Clone)]
enum Private {
    Pem(Arc<zeroize::Zeroizing<Vec<u8>>>),
    Token(Arc<TokenKey>),
}

/// The NCP's seal: key and certificate.
#[derive(Clone)]
pub struct SealKey {
    private: Private,
    certificate: String,
    method: &'static str,
    leaf: X509,
    /// Country of the certificate.
    pub country: Country,
}

impl SealKey {
    /// Loads chain and key.
    ///
    /// # Errors
    /// What is wrong with the files, for operators.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, String> {
        let material = Material::load(certificate, key).map_err(|e| e.to_string())?;
        let pem = material.key().private_key_to_pem_pkcs8().map_err(|e| e.to_string())?;
        Self::of(material.leaf().clone(), Private::Pem(Arc::new(pem.into())))
    }

    /// Loads the chain of a key that stays in its token.
    ///
    /// # Errors
    /// What is wrong with the file, for operators; the token is asked when a [`Signer`] starts.
    pub fn in_token(certificate: &Path, key: &TokenKey) -> Result<Self, String> {
        let chain = ncp_tls::certificates(certificate).map_err(|e| e.to_string())?;
        let leaf = chain.into_iter().next().ok_or("no certificate")?;
        Self::of(leaf, Private::Token(Arc::new(key.clone())))
    }

    fn of(leaf: X509, private: Private) -> Result<Self, String> {
        let public = leaf.public_key().map_err(|e| e.to_string())?;
        let method = match public.id() {
            Id::RSA => "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
            Id::EC => "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256",
            _ => return Err("seal key must be RSA or P-256".to_owned()),
        };
        let country = Country::of_subject(&leaf).map_err(|e| format!("seal certificate: {e}"))?;
        let der = leaf.to_der().map_err(|e| e.to_string())?;
        Ok(Self { private, certificate: openssl::base64::encode_block(&der), method, leaf, country })
    }

    /// Whole days until the certificate ends; negative afterwards.
    pub fn days_left(&self) -> i32 {
        let now = Asn1Time::days_from_now(0);
        now.and_then(|now| now.diff(self.leaf.not_after())).map_or(0, |span| if span.secs < 0 { -1 } else { span.days })
    }

    /// Whether the certificate is within its dates.
    pub fn is_valid_now(&self) -> bool {
        let Ok(now) = Asn1Time::days_from_now(0) else { return false };
        self.leaf.not_before() <= &*now && &*now < self.leaf.not_after()
    }
}

/// What a signing thread signs with.
enum Hand {
    Own(Key),
    Token(Box<TokenSigner>),
}

impl Hand {
    fn of(seal: &SealKey) -> Result<Self, E> {
        match &seal.private {
            Private::Pem(pem) => Key::private(pem).map(Self::Own),
            Private::Token(key) => {
                let public = seal.leaf.public_key().map_err(|_| E::Unavailable("seal certificate"))?;
                let opened = TokenSigner::open(key, public).map_err(E::Token)?;
                Ok(Self::Token(Box::new(opened)))
            }
        }
    }

    fn sign(&mut self, template: &str) -> Result<String, E> {
        match self {
            Self::Own(key) => ffi::sign(template, &[], &[1], key).map(|(signed, _)| signed),
            Self::Token(token) => token.sign(template),
        }
    }
}

/// Signs assertions.
pub struct Signer {
    pool: Pool<Hand>,
    seal: SealKey,
}

impl Signer {
    /// Starts the workers.
    ///
    /// # Errors
    /// When libxmlsec1 does not take the key, or the token has none that fits.
    pub fn start(seal: SealKey, workers: usize) -> Result<Self, E> {
        let held = seal.clone();
        let pool = Pool::start("seal-sign", workers, move || Hand::of(&held))?;
        Ok(Self { pool, seal })
    }

    /// Country of the seal.
    pub fn country(&self) -> Country {
        self.seal.country
    }

    /// Issues an HCP identity assertion.
    ///
    /// # Errors
    /// [`E::Unavailable`].
    pub async fn issue_hcp(
        &self,
        id: &str,
        claims: &HcpClaims,
        issued: Timestamp,
        valid: std::time::Duration,
    ) -> Result<SignedAssertion, E> {
        self.sign(id, hcp_template(id, claims, issued, valid)).await
    }

    /// Issues a TRC assertion; the same facts give the same content.
    ///
    /// # Errors
    /// [`E::Unavailable`].
    pub async fn issue_trc(
        &self,
        id: &str,
        claims: &TrcClaims,
        issued: Timestamp,
        until: Timestamp,
    ) -> Result<SignedAssertion, E> {
        self.sign(id, trc_template(id, claims, issued, until)).await
    }

    /// Issues a next-of-kin assertion.
    ///
    /// # Errors
    /// [`E::Unavailable`].
    pub async fn issue_nok(
        &self,
        id: &str,
        claims: &NextOfKinClaims,
        issued: Timestamp,
        until: Timestamp,
    ) -> Result<SignedAssertion, E> {
        self.sign(id, nok_template(id, claims, issued, until)).await
    }

    /// Signs a template of [`hcp_template`] or [`trc_template`].
    ///
    /// # Errors
    /// [`E::Unavailable`].
    pub async fn sign(&self, id: &str, template: Element) -> Result<SignedAssertion, E> {
        let xml = template.to_xml().replacen(METHOD_PLACE, self.seal.method, 1);
        let xml = xml.replacen(&format!(">{CERTIFICATE_PLACE}<"), &format!(">{}<", self.seal.certificate), 1);
        let id = id.to_owned();
        self.pool.run(move |hand| hand.sign(&xml).map(|xml| SignedAssertion { id, xml })).await
    }
}

/// A signer's certificate as parsed once (OpenSSL 3 takes longer over it than over a signature), and its key.
pub(crate) struct Known {
    pub(crate) certificate: X509,
    key: Key,
}

/// Digested bytes by what they were read from.
type Digested = Recent<[u8; 32], Arc<[u8]>>;

/// What a worker has at hand. Trust in a signer is asked for at every use.
pub(crate) struct Checks {
    signers: Recent<Vec<u8>, Known>,
    verified: Arc<Mutex<Digested>>,
}

impl Checks {
    pub(crate) fn signer(&mut self, der: &[u8]) -> Result<&mut Known, E> {
        if self.signers.get_mut(der).is_none() {
            let certificate = X509::from_der(der).map_err(|_| E::Structure("keyinfo.certificate"))?;
            let key = Key::of_certificate(der)?;
            self.signers.put(der.to_vec(), Known { certificate, key });
        }
        self.signers.get_mut(der).ok_or(E::Unavailable("key"))
    }

    /// The bytes that the signature of a located assertion is over. Whether it verifies depends on nothing but the
    /// element and the start tags around it, its certificate included, so that the same bytes are verified once. Trust,
    /// times and all that the digested bytes say are the caller's to check, each time.
    pub(crate) fn digested(
        &mut self,
        message: &[u8],
        assertion: &Located,
        certificate: &[u8],
        is_national: bool,
    ) -> Result<Arc<[u8]>, E> {
        let extent = ncp_xml::extent(message, &assertion.path).ok_or(E::Structure("path"))?;
        let alone = alone(&extent)?;
        let mut digest = openssl::sha::Sha256::new();
        for piece in extent.around.iter().chain([&extent.element]) {
            digest.update(&(piece.len() as u64).to_be_bytes());
            digest.update(piece.as_bytes());
        }
        // Of a chain each certificate is tried.
        digest.update(certificate);
        let name = digest.finish();
        let verified = self.verified.clone();
        let verified = || verified.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(digested) = verified().get_mut(&name) {
            return Ok(digested.clone());
        }
        let known = self.signer(certificate)?;
        let signed = Signed::Element { path: &vec![0; extent.around.len()], id: &assertion.id, is_national };
        let digested: Arc<[u8]> = ffi::verify(alone.as_bytes(), signed, &mut known.key)?.into();
        verified().put(name, digested.clone());
        Ok(digested)
    }
}

/// An assertion as the only one in the elements around it: what libxml2 parses, however long the message is. Their start
/// tags declare namespaces and nothing else of them bears on what is signed.
fn alone(extent: &Extent<'_>) -> Result<String, E> {
    Oversize::check("assertion", extent.element.as_bytes(), LONGEST)?;
    let mut out = extent.around.concat();
    Oversize::check("start tags around an assertion", out.as_bytes(), LONGEST)?;
    out.push_str(extent.element);
    for tag in extent.around.iter().rev() {
        let name = tag.trim_start_matches('<').split(|c: char| c.is_ascii_whitespace() || c == '>').next();
        out.extend(["</", name.unwrap_or_default(), ">"]);
    }
    Ok(out)
}

/// Verifies the Security header of messages.
pub struct Verifier {
    pool: Pool<Checks>,
}

impl Verifier {
    /// Starts the workers.
    ///
    /// # Errors
    /// When a thread cannot start.
    pub fn start(workers: usize) -> Result<Self, E> {
        let verified = Arc::new(Mutex::new(Digested::new(SIGNATURES)));
        let checks = move || Ok(Checks { signers: Recent::new(KEYS_PER_WORKER), verified: verified.clone() });
        Ok(Self { pool: Pool::start("seal-verify", workers, checks)? })
    }

    /// Verifies the assertions of a whole envelope, given both as bytes and as the tree read from them.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub async fn verify(
        &self,
        message: Bytes,
        trust: Arc<dyn SignerTrust>,
        now: Timestamp,
    ) -> Result<SecurityHeader, E> {
        self.pool.run(move |checks| verify(checks, &message, &*trust, now)).await
    }

    /// Verifies the assertions that a national consumer sends: XUA, and a TRC where the treatment is confirmed by one.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub async fn verify_national(
        &self,
        message: Bytes,
        trust: Arc<dyn SignerTrust>,
        now: Timestamp,
    ) -> Result<NationalHeader, E> {
        self.pool.run(move |checks| verify_national(checks, &message, &*trust, now)).await
    }

    /// Verifies signed service metadata (OASIS BDXR SMP 1.0) and returns the bytes that were digested. Of all that the
    /// anchors vouch for, only the certificate with this common name may sign it.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub async fn verify_metadata(&self, message: Bytes, anchors: Arc<Anchors>, signer: String) -> Result<Vec<u8>, E> {
        self.pool.run(move |checks| verify_metadata(checks, &message, &anchors, &signer)).await
    }
}

fn verify_metadata(checks: &mut Checks, message: &[u8], anchors: &Anchors, signer: &str) -> Result<Vec<u8>, E> {
    let root = Element::parse(message, &Limits::REQUEST).map_err(|_| E::Structure("xml"))?;
    let known = checks.signer(&structure::metadata(&root)?)?;
    anchors.verify(&known.certificate, &[]).map_err(|e| E::Trust(e.to_string()))?;
    let facts = CertificateFacts::of(&known.certificate).map_err(|e| E::Trust(e.to_string()))?;
    if facts.common_name != signer {
        return Err(E::Trust("not the configured signer of service metadata".into()));
    }
    ffi::verify(message, Signed::Document, &mut known.key)
}

fn verify(checks: &mut Checks, message: &[u8], trust: &dyn SignerTrust, now: Timestamp) -> Result<SecurityHeader, E> {
    let audiences = trust.audiences();
    let All { user: hcp, trc, nok } = all(checks, message, trust, now, Profile::CrossBorder, |bytes, country| {
        let value = HcpAssertion::read(bytes, country, now, audiences)?;
        Ok((value.id.clone(), value))
    })?;
    treatment_is_of(&hcp, (&hcp.id, &hcp.subject), trc.as_ref(), nok.as_ref(), trust.kin_by_reference())?;
    if let Some(trc) = &trc
        && trc.organisation_id.is_some()
        && trc.organisation_id != hcp.organisation_id
    {
        return Err(E::TrcBinding("another organisation"));
    }
    Ok(SecurityHeader { hcp, trc, nok })
}

fn verify_national(
    checks: &mut Checks,
    message: &[u8],
    trust: &dyn SignerTrust,
    now: Timestamp,
) -> Result<NationalHeader, E> {
    let All { user, trc, nok } = all(checks, message, trust, now, Profile::National, |bytes, _| {
        let value = XuaAssertion::read(bytes, now, trust.audiences())?;
        Ok((value.id.clone(), value))
    })?;
    treatment_is_of(&user, (&user.id, &user.subject), trc.as_ref(), nok.as_ref(), trust.kin_by_reference())?;
    // An X-User Assertion need not name the organisation.
    let organisations = (trc.as_ref().and_then(|trc| trc.organisation_id.as_ref()), user.organisation_id.as_ref());
    if let (Some(of_treatment), Some(of_user)) = organisations
        && of_treatment != of_user
    {
        return Err(E::TrcBinding("another organisation"));
    }
    Ok(NationalHeader { user, trc })
}

/// What a Security header holds, verified one by one.
struct All<T> {
    user: Verified<T>,
    trc: Option<Verified<TrcAssertion>>,
    nok: Option<Verified<NextOfKinAssertion>>,
}

/// ID that an assertion refers to, its subject where that binds, and its signer.
type Builds<'a> = (&'a str, Option<&'a Subject>, &'a SignerIdentity);

/// The identity assertion and, where there are, TRC and next of kin: structure, trust, signature, then the digested bytes.
fn all<T>(
    checks: &mut Checks,
    message: &[u8],
    trust: &dyn SignerTrust,
    now: Timestamp,
    profile: Profile,
    read: impl Fn(&[u8], Country) -> Result<(String, T), E>,
) -> Result<All<T>, E> {
    let mut seen = structure::Seen::default();
    let envelope =
        Element::outline(message, &Limits::REQUEST, (structure::SOAP, "Header"), &mut |element| seen.see(element))
            .map_err(|_| E::Structure("xml"))?;
    let side = if trust.is_national() { Side::National } else { Side::CrossBorder };
    let located = structure::locate(&envelope, &seen, profile, side, now)?;
    let (mut user, mut trc, mut nok) = (None, None, None);
    for assertion in located {
        let (signer, digested) = checks.signed(message, &assertion, trust)?;
        let digest = hex::encode(openssl::sha::sha256(&digested));
        let country = signer.country;
        let id = match assertion.kind {
            Kind::Hcp => {
                let (id, value) = read(&digested, country)?;
                user = Some(Verified::new(value, signer, digest));
                id
            }
            Kind::Nok => {
                let value = NextOfKinAssertion::read(&digested, country, now, trust.audiences())?;
                let id = value.id.clone();
                nok = Some(Verified::new(value, signer, digest));
                id
            }
            Kind::Trc => {
                let value = TrcAssertion::read(&digested, country, now, trust.audiences())?;
                let id = value.id.clone();
                trc = Some(Verified::new(value, signer, digest));
                id
            }
        };
        if id != assertion.id {
            return Err(E::Structure("id.digested"));
        }
    }
    Ok(All { user: user.ok_or(E::NoHcp)?, trc, nok })
}

/// The treatment and the next of kin build on the identity assertion that came with them.
fn treatment_is_of<T>(
    user: &Verified<T>,
    own: (&str, &Subject),
    trc: Option<&Verified<TrcAssertion>>,
    nok: Option<&Verified<NextOfKinAssertion>>,
    kin_by_reference: bool,
) -> Result<(), E> {
    if let Some(nok) = nok {
        // Some issuers write the same subject into every next-of-kin assertion.
        let subject = (!kin_by_reference).then_some(&nok.subject);
        bound(user, own, (&nok.hcp_id, subject, nok.signer()))?;
    }
    match trc {
        Some(trc) => bound(user, own, (&trc.hcp_id, Some(&trc.subject), trc.signer())),
        None => Ok(()),
    }
}

/// An assertion that builds on an identity assertion: its ID, its subject, its country.
fn bound<T>(
    user: &Verified<T>,
    (own_id, own_subject): (&str, &Subject),
    (id, subject, signer): Builds<'_>,
) -> Result<(), E> {
    if id != own_id {
        return Err(E::TrcBinding("refers to another assertion"));
    }
    if subject.is_some_and(|subject| !subject.is(own_subject)) {
        return Err(E::TrcBinding("another subject"));
    }
    if signer.country != user.signer().country {
        return Err(E::TrcBinding("signed by another country"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn se_07_libxml2_parses_an_assertion_and_no_message() {
        let other = "<x y=\"1\"/>".repeat(100_000);
        let message = format!(
            "<s:E xmlns:s='u'\n><!-- --><s:H><w a='>'>{other}<a ID='1'>2</a>{other}</w></s:H><s:B>{other}</s:B></s:E>"
        );
        let extent = ncp_xml::extent(message.as_bytes(), &[0, 0, 100_000]).expect("an assertion");
        let parsed = alone(&extent).expect("bounded");
        assert_eq!(parsed, "<s:E xmlns:s='u'\n><s:H><w a='>'><a ID='1'>2</a></w></s:H></s:E>");
        let around = "<w a='".to_owned() + &"x".repeat(LONGEST) + "'>";
        let extent = Extent { around: vec![&around], element: "<a/>" };
        assert!(matches!(alone(&extent), Err(E::Oversize(_))));
    }
}
