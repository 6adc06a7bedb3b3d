//! Assertion bindings and repeated MessageIDs.
//!
//! An assertion with OneTimeUse serves one message (SAML core 2.5.1.5), and no repeat of it.
//!
//! At first use an HCP assertion id is bound to TLS peer, signer and subject, a TRC id to TLS peer, HCP id, patient and
//! purpose. Reuse within the binding is normal traffic; outside it is refused. A MessageID that comes again from the
//! same peer with the same body is carried out again and recorded as a repeat (OpenNCP resends so); with another body
//! it is refused.
//!
//! Each id is kept under who issued it: an assertion's under its verified issuer, a MessageID under the authenticated peer,
//! so that nobody blocks an id of somebody else. Releases before 0.2 kept ids without an issuer. Both keys are always
//! looked up. The key of those releases is written as long as one of them may read it: a process while their journal is
//! there, Redis until [`migrate`] has said that none of them shares it.
//!
//! The memory is this process (`local.rs`, with a journal that survives a restart, `journal.rs`) or Redis shared by the
//! replicas (`redis.rs`). It is never open: what cannot be looked up is refused, or, where configured, looked up in this process
//! alone.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use openssl::sha::Sha256;

mod bare;
#[cfg(test)]
mod issuers;
mod journal;
mod local;
mod once;
mod redis;

pub use local::{Fill, Local};
pub use once::Once;
pub use redis::{OnLoss, RedisOptions, RedisSet};

/// How long a MessageID is remembered, in seconds.
const MESSAGE_WINDOW_S: i64 = 15 * 60;
/// Skew granted to assertions, in seconds; a binding outlives its assertion by it.
const SKEW_S: i64 = 60;

/// Memory for the bindings of one process, bytes, unless configured.
pub const REPLAY_BYTES: usize = 128 << 20;

/// Where the bindings are kept.
#[derive(Debug, Clone)]
pub enum Memory {
    /// In this process, with a journal.
    Local(PathBuf),
    /// In Redis, and in this process besides.
    Redis(RedisOptions, PathBuf),
}

/// The set of bindings.
pub enum ReplaySet {
    /// A single node.
    Local(Local),
    /// Replicas.
    Redis(Box<RedisSet>),
}

/// What a MessageID was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// New.
    First,
    /// The same message from the same peer.
    Repeat,
}

/// Refused by the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An assertion id was used with other facts than at first.
    #[error("assertion id is bound to other facts")]
    Rebound,
    /// A MessageID was used for another message.
    #[error("message id was used for another message")]
    DuplicateMessageId,
    /// The peer has taken its share of the set, or what was bound cannot be written down.
    #[error("replay set takes no more of this peer")]
    Full,
    /// The shared memory does not answer and the configuration says to refuse then.
    #[error("replay set is not reachable")]
    Unreachable,
    /// The shared memory was emptied after the assertion was issued: nobody knows what it was bound to.
    #[error("replay set lost its memory after the assertion was issued")]
    Forgotten,
}

/// What one message claims.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// Country of the TLS peer.
    pub peer: &'a str,
    /// The HCP assertion.
    pub hcp: HcpClaim<'a>,
    /// The TRC assertion.
    pub trc: Option<TrcClaim<'a>>,
    /// MessageID and digest of the message.
    pub message: Option<(&'a str, &'a str)>,
}

/// An HCP assertion and what it is bound to.
#[derive(Debug, Clone, Copy)]
pub struct HcpClaim<'a> {
    /// Who issued it, as the signature proves it.
    pub issuer: &'a str,
    /// ID.
    pub id: &'a str,
    /// Fingerprint of the signer's certificate.
    pub signer: &'a str,
    /// NameID.
    pub subject: &'a str,
    /// IssueInstant.
    pub issued: Timestamp,
    /// NotOnOrAfter.
    pub expires: Timestamp,
    /// It serves one message.
    pub one_time: bool,
}

/// A TRC assertion and what it is bound to.
#[derive(Debug, Clone, Copy)]
pub struct TrcClaim<'a> {
    /// Who issued it, as the signature proves it.
    pub issuer: &'a str,
    /// ID.
    pub id: &'a str,
    /// CX of the patient.
    pub patient: &'a str,
    /// Purpose of use.
    pub purpose: &'a str,
    /// IssueInstant.
    pub issued: Timestamp,
    /// NotOnOrAfter.
    pub expires: Timestamp,
    /// It serves one message.
    pub one_time: bool,
}

/// The id of a binding as a digest: no memory holds an id or a person.
type Key = [u8; 32];

/// Which key a binding is written under. Both are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Written {
    /// The id alone, as releases before 0.2 read it.
    #[default]
    ById,
    /// The id and who issued it.
    ByIssuer,
}

impl Written {
    fn other(self) -> Self {
        match self {
            Self::ById => Self::ByIssuer,
            Self::ByIssuer => Self::ById,
        }
    }
}

/// An id and what it must be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Binding {
    by_issuer: Key,
    by_id: Key,
    to: [u8; 32],
    /// Forgotten after.
    until: Timestamp,
    /// None for a MessageID.
    issued: Option<Timestamp>,
}

impl Binding {
    fn key(&self, written: Written) -> Key {
        match written {
            Written::ById => self.by_id,
            Written::ByIssuer => self.by_issuer,
        }
    }

    fn refused(&self) -> ReplayError {
        if self.issued.is_some() { ReplayError::Rebound } else { ReplayError::DuplicateMessageId }
    }
}

impl ReplaySet {
    /// Opens the memory; Redis is connected to when first needed.
    ///
    /// # Errors
    /// A journal that cannot be read or written, a Redis address that is none.
    pub fn open(memory: &Memory) -> Result<Self, String> {
        Self::within(memory, REPLAY_BYTES)
    }

    /// Opens it with so many bytes for the bindings of this process.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn within(memory: &Memory, bytes: usize) -> Result<Self, String> {
        match memory {
            Memory::Local(journal) => Ok(Self::Local(Local::within(journal, bytes)?)),
            Memory::Redis(options, journal) => {
                Ok(Self::Redis(Box::new(RedisSet::new(options, Local::within(journal, bytes)?)?)))
            }
        }
    }

    /// How full the memory of this process is.
    pub fn fill(&self) -> Fill {
        match self {
            Self::Local(local) => local.fill(),
            Self::Redis(redis) => redis.fill(),
        }
    }

    /// Whether messages can be admitted: false while a shared memory is gone and the configuration says to refuse then.
    pub async fn is_there(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Redis(redis) => redis.is_there().await,
        }
    }

    /// Binds at first use, checks the binding afterwards.
    ///
    /// # Errors
    /// [`ReplayError`]; nothing is carried out then.
    pub async fn admit(&self, claims: &Claims<'_>, now: Timestamp) -> Result<Seen, ReplayError> {
        let bindings = bindings(claims, now);
        let new = match self {
            Self::Local(local) => local.bind(claims.peer, &bindings, now)?,
            Self::Redis(redis) => redis.bind(claims.peer, &bindings, now).await?,
        };
        // The message, where there is one, is the last.
        match (claims.message, new.last()) {
            (Some(_), Some(false)) => Ok(Seen::Repeat),
            _ => Ok(Seen::First),
        }
    }
}

/// Gives up the way back to the last release: from here on the journal, and Redis where it is configured, get keys of the
/// new form alone. How many bindings the journal holds, and whether there was another form.
///
/// # Errors
/// The journal cannot be read or written, or another process has it; Redis does not answer.
pub async fn migrate(memory: &Memory) -> Result<(usize, bool), String> {
    let (Memory::Local(journal) | Memory::Redis(_, journal)) = memory;
    let local = Local::within(journal, REPLAY_BYTES)?;
    let removed = local.give_up_the_way_back().map_err(|e| format!("replay journal {}: {e}", journal.display()))?;
    let entries = local.fill().entries;
    if let Memory::Redis(options, _) = memory {
        RedisSet::new(options, local)?.give_up_the_way_back().await?;
    }
    Ok((entries, removed))
}

fn bindings(claims: &Claims<'_>, now: Timestamp) -> Vec<Binding> {
    let (peer, hcp) = (claims.peer, &claims.hcp);
    let binding = |kind: &str, issuer: &str, id: &str, to: &[&str]| Binding {
        by_issuer: digest(&[kind, issuer, id]),
        by_id: digest(&[kind, id]),
        to: digest(to),
        until: later(now, MESSAGE_WINDOW_S),
        issued: None,
    };
    let hcp_binding = |kind: &str, to: &[&str]| Binding {
        until: later(hcp.expires, SKEW_S),
        issued: Some(hcp.issued),
        ..binding(kind, hcp.issuer, hcp.id, to)
    };
    let trc_binding = |trc: &TrcClaim<'_>, kind: &str, to: &[&str]| Binding {
        until: later(trc.expires, SKEW_S),
        issued: Some(trc.issued),
        ..binding(kind, trc.issuer, trc.id, to)
    };
    // Bound to nothing that could come again.
    let never = uuid::Uuid::new_v4().to_string();
    let once = ["once", never.as_str()];
    let mut out = vec![hcp_binding("assertion", &["hcp", peer, hcp.signer, hcp.subject])];
    if let Some(trc) = &claims.trc {
        out.push(trc_binding(trc, "assertion", &["trc", peer, hcp.id, trc.patient, trc.purpose]));
    }
    out.extend(hcp.one_time.then(|| hcp_binding("once", &once)));
    out.extend(claims.trc.filter(|trc| trc.one_time).map(|trc| trc_binding(&trc, "once", &once)));
    out.extend(claims.message.map(|(id, body)| binding("message", peer, id, &[peer, body])));
    out
}

/// One digest that no other parts give: lengths first.
fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finish()
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Time until an instant, for the expiry of a shared entry.
fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default().max(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }

    pub(super) fn hcp(id: &str) -> HcpClaim<'_> {
        HcpClaim { issuer: "FI", id, signer: "ab", subject: "u1", issued: at(0), expires: at(100), one_time: false }
    }

    pub(super) fn trc(id: &str) -> TrcClaim<'_> {
        let (issued, expires) = (at(0), at(100));
        TrcClaim { issuer: "FI", id, patient: "p", purpose: "TREATMENT", issued, expires, one_time: false }
    }

    #[tokio::test]
    async fn an_assertion_keeps_its_first_facts() {
        let dir = tempfile::tempdir().expect("a folder");
        let set = ReplaySet::open(&Memory::Local(dir.path().join("replay"))).expect("opens");
        let fi = Claims { peer: "FI", hcp: hcp("_1"), trc: None, message: None };
        set.admit(&fi, at(0)).await.expect("first use");
        set.admit(&fi, at(50)).await.expect("reuse by the same peer");
        assert_eq!(set.admit(&Claims { peer: "SE", ..fi }, at(50)).await, Err(ReplayError::Rebound));
        let signer = HcpClaim { signer: "cd", ..hcp("_1") };
        assert_eq!(set.admit(&Claims { hcp: signer, ..fi }, at(50)).await, Err(ReplayError::Rebound));
        let subject = HcpClaim { subject: "u2", ..hcp("_1") };
        assert_eq!(set.admit(&Claims { hcp: subject, ..fi }, at(50)).await, Err(ReplayError::Rebound));
        let trc = trc("_2");
        set.admit(&Claims { trc: Some(trc), ..fi }, at(0)).await.expect("first use");
        for other in [TrcClaim { patient: "q", ..trc }, TrcClaim { purpose: "EMERGENCY", ..trc }] {
            assert_eq!(set.admit(&Claims { trc: Some(other), ..fi }, at(0)).await, Err(ReplayError::Rebound));
        }
        let other = Claims { hcp: hcp("_3"), trc: Some(trc), ..fi };
        assert_eq!(set.admit(&other, at(0)).await, Err(ReplayError::Rebound));
    }

    #[tokio::test]
    async fn a_repeated_message_is_told_from_a_replayed_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let set = ReplaySet::open(&Memory::Local(dir.path().join("replay"))).expect("opens");
        let of = |peer, id, body| Claims { peer, hcp: hcp(id), trc: None, message: Some(("urn:uuid:1", body)) };
        assert_eq!(set.admit(&of("FI", "_1", "d1"), at(0)).await, Ok(Seen::First));
        assert_eq!(set.admit(&of("FI", "_1", "d1"), at(1)).await, Ok(Seen::Repeat));
        assert_eq!(set.admit(&of("FI", "_1", "d2"), at(1)).await, Err(ReplayError::DuplicateMessageId));
        assert_eq!(set.admit(&of("SE", "_9", "d2"), at(1)).await, Ok(Seen::First), "another peer's id is its own");
        assert_eq!(set.admit(&of("FI", "_1", "d1"), at(2)).await, Ok(Seen::Repeat), "and takes nothing from Finland's");
        assert_eq!(set.admit(&of("FI", "_1", "d2"), at(2_000)).await, Ok(Seen::First));
    }

    #[tokio::test]
    async fn se_15_15_what_serves_once_serves_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = Memory::Local(dir.path().join("replay"));
        let now = Timestamp::now();
        let hcp = HcpClaim { issued: now, expires: later(now, 100), ..hcp("_1") };
        let trc = TrcClaim { issued: now, expires: later(now, 100), one_time: true, ..trc("_2") };
        let many = Claims { peer: "FI", hcp, trc: None, message: None };
        let of_user = Claims { hcp: HcpClaim { one_time: true, ..hcp }, message: Some(("urn:uuid:1", "d1")), ..many };
        let of_treatment = Claims { trc: Some(trc), ..many };
        {
            let set = ReplaySet::open(&memory).expect("opens");
            set.admit(&many, now).await.expect("an assertion without the condition");
            assert_eq!(set.admit(&of_user, now).await, Ok(Seen::First));
            assert_eq!(set.admit(&of_user, now).await, Err(ReplayError::Rebound), "the very same message");
            set.admit(&of_treatment, now).await.expect("first use");
            assert_eq!(set.admit(&of_treatment, now).await, Err(ReplayError::Rebound));
        }
        let set = ReplaySet::open(&memory).expect("opens");
        for again in [&of_user, &of_treatment] {
            assert_eq!(set.admit(again, now).await, Err(ReplayError::Rebound), "after a restart");
        }
    }

    #[tokio::test]
    async fn a_restart_forgets_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = Memory::Local(dir.path().join("replay"));
        let now = Timestamp::now();
        let hcp = HcpClaim { issued: now, expires: later(now, 100), ..hcp("_1") };
        let fi = Claims { peer: "FI", hcp, trc: None, message: None };
        for _ in 0..2 {
            let set = ReplaySet::open(&memory).expect("opens");
            set.admit(&fi, now).await.expect("its own use");
        }
        let set = ReplaySet::open(&memory).expect("opens");
        assert_eq!(set.admit(&Claims { peer: "SE", ..fi }, now).await, Err(ReplayError::Rebound));
    }
}
