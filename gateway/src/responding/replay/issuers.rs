//! SE-13: each id is kept under who issued it, in every form of the memory of one process.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;

use super::journal::{Kept, RECORD};
use super::local::Local;
use super::tests::{hcp, trc};
use super::{Claims, HcpClaim, REPLAY_BYTES, ReplayError, TrcClaim, bindings, later};

/// Ids of a country's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sent {
    peer: &'static str,
    id: &'static str,
}

const PEERS: [&str; 3] = ["FI", "SE", "DK"];
const IDS: [&str; 3] = ["_1", "_2", "_3"];
const SUBJECTS: [&str; 2] = ["u1", "u2"];

fn opened(journal: &Path) -> Local {
    Local::within(journal, REPLAY_BYTES).expect("opens")
}

/// The identity and the treatment have one id each, the message a third.
fn ask(local: &Local, sent: Sent, subject: &str, now: Timestamp) -> Result<bool, ReplayError> {
    let Sent { peer, id } = sent;
    let (of_treatment, message) = (format!("{id} trc"), format!("{id} message"));
    let (issued, expires) = (now, later(now, 10_000));
    let hcp = HcpClaim { issuer: peer, subject, issued, expires, ..hcp(id) };
    let trc = TrcClaim { issuer: peer, patient: subject, issued, expires, ..trc(&of_treatment) };
    let claims = Claims { peer, hcp, trc: Some(trc), message: Some((&message, subject)) };
    local.bind(peer, &bindings(&claims, now), now).map(|new| new.iter().all(|new| *new))
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send(Sent, &'static str),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let send = (0..PEERS.len(), 0..IDS.len(), 0..SUBJECTS.len())
        .prop_map(|(peer, id, subject)| Step::Send(Sent { peer: PEERS[peer], id: IDS[id] }, SUBJECTS[subject]));
    proptest::collection::vec(prop_oneof![9 => send, 1 => Just(Step::Restart)], 1..60)
}

proptest! {
    /// Whatever others bind, an id is free for its own issuer at first use and afterwards bound to what that issuer said.
    #[test]
    fn se_13_nobody_blocks_an_id_of_somebody_else(steps in steps()) {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("replay.journal");
        let now = Timestamp::now();
        let mut local = Some(opened(&journal));
        let mut bound: HashMap<Sent, &str> = HashMap::new();
        for step in steps {
            match step {
                Step::Restart => {
                    drop(local.take());
                    local = Some(opened(&journal));
                }
                Step::Send(sent, subject) => {
                    let first = *bound.entry(sent).or_insert(subject);
                    let answer = ask(local.as_ref().expect("is open"), sent, subject, now);
                    prop_assert_eq!(answer.is_ok(), first == subject, "{:?} {}: {:?}", sent, subject, answer);
                }
            }
        }
    }

    /// While the journal of 0.1 is kept up, over restarts, after `migrate`, and where 0.1 ran once more: no id that was bound
    /// is ever taken with other facts, and its own use goes on.
    #[test]
    fn se_13_no_form_forgets_what_the_other_bound(before in steps(), migrated in steps(), back in steps()) {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("replay.journal");
        let now = Timestamp::now();
        let mut bound: HashMap<Sent, &str> = HashMap::new();
        std::fs::write(&journal, b"").expect("writes");
        let mut local = Some(opened(&journal));
        for (round, steps) in [before, migrated, back].into_iter().enumerate() {
            match round {
                1 => prop_assert!(local.as_ref().expect("is open").give_up_the_way_back().expect("removes it")),
                2 => {
                    drop(local.take());
                    std::fs::write(&journal, b"").expect("writes");
                    local = Some(opened(&journal));
                }
                _ => {}
            }
            for step in steps {
                let Step::Send(sent, subject) = step else {
                    drop(local.take());
                    local = Some(opened(&journal));
                    continue;
                };
                let answer = ask(local.as_ref().expect("is open"), sent, subject, now);
                match bound.get(&sent) {
                    Some(first) => prop_assert_eq!(answer.is_ok(), *first == subject, "{:?}: {:?}", sent, answer),
                    // Another country may stand in the way here, as in 0.1.
                    None if answer.is_ok() => drop(bound.insert(sent, subject)),
                    None => {}
                }
            }
        }
    }
}

/// After `migrate` another country's use of an id is its own, as soon as what 0.1 bound is over.
#[test]
fn se_13_the_last_release_blocks_nobody_for_longer_than_its_bindings() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = dir.path().join("replay.journal");
    let now = Timestamp::now();
    std::fs::write(&journal, b"").expect("writes");
    let (finnish, swedish) = (Sent { peer: "FI", id: "_1" }, Sent { peer: "SE", id: "_1" });
    let local = opened(&journal);
    ask(&local, finnish, "u1", now).expect("first use");
    assert_eq!(ask(&local, swedish, "u1", now), Err(ReplayError::Rebound));
    assert_eq!(local.give_up_the_way_back().ok(), Some(true));
    assert_eq!(ask(&local, swedish, "u1", now), Err(ReplayError::Rebound), "nobody knows whose it was");
    let after = later(now, 10_061);
    assert_eq!(ask(&local, finnish, "u1", after), Ok(true));
    assert_eq!(ask(&local, swedish, "u1", after), Ok(true));
}

/// A journal of the form before this one, whose keys are by id.
#[test]
fn se_13_version_1_of_the_journal_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let now = Timestamp::now();
    let claims =
        Claims { peer: "FI", hcp: HcpClaim { expires: later(now, 100), ..hcp("_1") }, trc: None, message: None };
    let mut bytes = Vec::new();
    for binding in bindings(&claims, now) {
        Kept { key: binding.by_id, to: binding.to, owner: 7, end: binding.until.as_second() }.write(&mut bytes);
    }
    assert_eq!(bytes.len(), RECORD);
    // Version, then the checksum over mark, version and length, and the content.
    bytes[4] = 1;
    let sum = crc32fast::hash(&[&bytes[..7], &bytes[11..]].concat());
    bytes[7..11].copy_from_slice(&sum.to_be_bytes());
    std::fs::write(dir.path().join("replay.bindings"), bytes).expect("writes");
    let local = opened(&dir.path().join("replay.journal"));
    let other = Claims { hcp: HcpClaim { subject: "u2", ..claims.hcp }, ..claims };
    assert_eq!(local.bind("FI", &bindings(&other, now), now), Err(ReplayError::Rebound));
    assert_eq!(local.bind("FI", &bindings(&claims, now), now), Ok(vec![false]));
}
