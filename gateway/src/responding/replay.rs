//! Assertion bindings and repeated MessageIDs, in process (a single node).
//!
//! At first use an HCP assertion id is bound to TLS peer, signer and subject, a TRC id to TLS peer, HCP id, patient and
//! purpose. Reuse within the binding is normal traffic; outside it is refused. A MessageID that comes again from the
//! same peer with the same body is carried out again and recorded as a repeat (OpenNCP resends so); with another body,
//! or from another peer, it is refused. When the set is full of live entries, new ones are refused: never open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;

use jiff::Timestamp;

/// How long a MessageID is remembered, in seconds.
const MESSAGE_WINDOW_S: i64 = 15 * 60;
/// Live entries kept; about 100 bytes each.
const CAPACITY: usize = 500_000;
/// Skew granted to assertions, in seconds; a binding outlives its assertion by it.
const SKEW_S: i64 = 60;

/// The set. Its methods are async so that a shared store fits the same seam.
#[derive(Debug, Default)]
pub struct ReplaySet {
    entries: Mutex<HashMap<Key, Bound>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Assertion(String),
    Message(String),
}

#[derive(Debug)]
struct Bound {
    to: String,
    until: Timestamp,
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
    /// The set is full.
    #[error("replay set is full")]
    Full,
}

impl ReplaySet {
    /// Binds an HCP assertion at first use, checks the binding afterwards.
    ///
    /// # Errors
    /// [`ReplayError::Rebound`] when peer, signer or subject differ.
    pub async fn bind_hcp(
        &self,
        id: &str,
        facts: &HcpBinding<'_>,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), ReplayError> {
        let to = joined(&["hcp", facts.peer, facts.signer, facts.subject]);
        self.bind(Key::Assertion(id.to_owned()), to, expires, now).map(|_| ())
    }

    /// Binds a TRC assertion at first use, checks the binding afterwards.
    ///
    /// # Errors
    /// [`ReplayError::Rebound`] when peer, HCP assertion, patient or purpose differ.
    pub async fn bind_trc(
        &self,
        id: &str,
        facts: &TrcBinding<'_>,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), ReplayError> {
        let to = joined(&["trc", facts.peer, facts.hcp_id, facts.patient, facts.purpose]);
        self.bind(Key::Assertion(id.to_owned()), to, expires, now).map(|_| ())
    }

    /// Notes a MessageID with the digest of its body.
    ///
    /// # Errors
    /// [`ReplayError::DuplicateMessageId`] when it was used for another message or by another peer.
    pub async fn message(
        &self,
        peer: &str,
        message_id: &str,
        body_digest: &str,
        now: Timestamp,
    ) -> Result<Seen, ReplayError> {
        let to = joined(&[peer, body_digest]);
        let until = later(now, MESSAGE_WINDOW_S);
        let key = Key::Message(message_id.to_owned());
        match self.bind(key, to, until, now) {
            Ok(true) => Ok(Seen::First),
            Ok(false) => Ok(Seen::Repeat),
            Err(ReplayError::Rebound) => Err(ReplayError::DuplicateMessageId),
            Err(other) => Err(other),
        }
    }

    /// True when the key was new.
    fn bind(&self, key: Key, to: String, expires: Timestamp, now: Timestamp) -> Result<bool, ReplayError> {
        let mut entries = self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if entries.len() >= CAPACITY && !entries.contains_key(&key) {
            entries.retain(|_, bound| bound.until > now);
            if entries.len() >= CAPACITY {
                return Err(ReplayError::Full);
            }
        }
        match entries.entry(key) {
            Entry::Vacant(slot) => {
                slot.insert(Bound { to, until: later(expires, SKEW_S) });
                Ok(true)
            }
            Entry::Occupied(mut slot) if slot.get().until <= now => {
                slot.insert(Bound { to, until: later(expires, SKEW_S) });
                Ok(true)
            }
            Entry::Occupied(slot) if slot.get().to == to => Ok(false),
            Entry::Occupied(_) => Err(ReplayError::Rebound),
        }
    }
}

/// What an HCP assertion is bound to.
#[derive(Debug, Clone, Copy)]
pub struct HcpBinding<'a> {
    /// Country of the TLS peer.
    pub peer: &'a str,
    /// Fingerprint of the signer's certificate.
    pub signer: &'a str,
    /// NameID.
    pub subject: &'a str,
}

/// What a TRC assertion is bound to.
#[derive(Debug, Clone, Copy)]
pub struct TrcBinding<'a> {
    /// Country of the TLS peer.
    pub peer: &'a str,
    /// ID of the HCP assertion.
    pub hcp_id: &'a str,
    /// CX of the patient.
    pub patient: &'a str,
    /// Purpose of use.
    pub purpose: &'a str,
}

/// One string that no other parts give: lengths first.
fn joined(parts: &[&str]) -> String {
    parts.iter().map(|part| format!("{}:{part};", part.len())).collect()
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }

    #[tokio::test]
    async fn an_assertion_keeps_its_first_facts() {
        let set = ReplaySet::default();
        let fi = HcpBinding { peer: "FI", signer: "ab", subject: "u1" };
        set.bind_hcp("_1", &fi, at(100), at(0)).await.expect("first use");
        set.bind_hcp("_1", &fi, at(100), at(50)).await.expect("reuse by the same peer");
        let se = HcpBinding { peer: "SE", ..fi };
        assert_eq!(set.bind_hcp("_1", &se, at(100), at(50)).await, Err(ReplayError::Rebound));
        let trc = TrcBinding { peer: "FI", hcp_id: "_1", patient: "p", purpose: "TREATMENT" };
        set.bind_trc("_2", &trc, at(100), at(0)).await.expect("first use");
        let other = TrcBinding { patient: "q", ..trc };
        assert_eq!(set.bind_trc("_2", &other, at(100), at(0)).await, Err(ReplayError::Rebound));
    }

    #[tokio::test]
    async fn a_repeated_message_is_told_from_a_replayed_one() {
        let set = ReplaySet::default();
        assert_eq!(set.message("FI", "urn:uuid:1", "d1", at(0)).await, Ok(Seen::First));
        assert_eq!(set.message("FI", "urn:uuid:1", "d1", at(1)).await, Ok(Seen::Repeat));
        assert_eq!(set.message("FI", "urn:uuid:1", "d2", at(1)).await, Err(ReplayError::DuplicateMessageId));
        assert_eq!(set.message("SE", "urn:uuid:1", "d1", at(1)).await, Err(ReplayError::DuplicateMessageId));
        assert_eq!(set.message("SE", "urn:uuid:1", "d1", at(2_000)).await, Ok(Seen::First));
    }
}
