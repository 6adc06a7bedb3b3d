//! The memory of one process. A journal beside it ([`Journal`]) lets a restart forget nothing.
//!
//! Nothing that is in force is ever given up for something newer, so the memory can fill. It is divided by peer: nobody
//! holds more than what is free. One peer alone gets half of it, two get a third each, and whatever some of them send,
//! something is free for the first message of another. Who has taken its share is told that we are busy.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use jiff::Timestamp;

use super::journal::{Journal, Kept, RECORD, write_new};
use super::{Binding, Key, ReplayError, digest};

/// Of the memory an entry takes so many bytes: the map just after it grew, and the copy that the journal is written from.
const ENTRY: usize = 256;
/// Of its share a peer may take so much before the log says so, percent.
const WARNED: usize = 70;
/// Between two lines of the log about shares, seconds.
const QUIET_S: i64 = 60;

/// Bindings by key.
pub struct Local {
    inner: Arc<Mutex<Inner>>,
    /// Writes the journal anew.
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    to: [u8; 32],
    owner: u64,
    end: i64,
}

struct Inner {
    entries: HashMap<Key, Bound>,
    /// Entries by owner.
    held: HashMap<u64, usize>,
    capacity: usize,
    /// Seconds in which the last sweep ran and the last line about shares was logged.
    swept: i64,
    said: i64,
    journal: Journal,
}

/// How full the memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Live entries.
    pub entries: usize,
    /// Of what the peer with the most entries may hold, percent.
    pub share: usize,
}

impl Local {
    /// Reads the journal, drops what is over, and writes the rest anew.
    ///
    /// # Errors
    /// The journal cannot be read, or another process has it.
    pub fn within(journal: &Path, bytes: usize) -> Result<Self, String> {
        Self::with_capacity(journal, bytes / ENTRY)
    }

    pub(super) fn with_capacity(journal: &Path, capacity: usize) -> Result<Self, String> {
        let now = Timestamp::now().as_second();
        let mut entries = HashMap::new();
        let journal = Journal::open(journal, now, |Kept { key, to, owner, end }| {
            if end > now {
                entries.entry(key).or_insert(Bound { to, owner, end });
            }
        })?;
        let mut inner = Inner { entries, held: HashMap::new(), capacity, swept: now, said: 0, journal };
        inner.count();
        let path = inner.journal.begin_anew();
        let fresh = write_new(&path, &inner.records());
        inner.journal.replace(fresh);
        Ok(Self { inner: Arc::new(Mutex::new(inner)), writer: Mutex::default() })
    }

    /// Binds all or refuses; for each whether it was new.
    pub(super) fn bind(&self, peer: &str, bindings: &[Binding], now: Timestamp) -> Result<Vec<bool>, ReplayError> {
        let now = now.as_second();
        let mut inner = self.inner();
        // Nothing is noted of a message of which one part is refused.
        inner.fitting(bindings, now)?;
        let new: Vec<bool> = bindings.iter().map(|b| !inner.is_bound(b, now)).collect();
        let owner = owner(peer);
        inner.admit(peer, owner, new.iter().filter(|new| **new).count(), now)?;
        let fresh = bindings.iter().zip(&new).filter(|(_, new)| **new);
        let written = inner.journal.written();
        let fresh: Vec<Kept> =
            fresh.map(|(b, _)| Kept { key: b.key(written), to: b.to, owner, end: b.until.as_second() }).collect();
        // What a restart would not know of is not bound.
        if let Err(error) = inner.journal.append(&fresh, now) {
            tracing::error!(reason = %error, "replay journal cannot be written");
            return Err(ReplayError::Full);
        }
        fresh.iter().for_each(|kept| inner.insert(kept));
        if inner.journal.is_long() {
            self.write_anew(&mut inner, now);
        }
        Ok(new)
    }

    /// Writes the journal anew beside what goes on.
    fn write_anew(&self, inner: &mut Inner, now: i64) {
        inner.sweep(now);
        let (path, records, shared) = (inner.journal.begin_anew(), inner.records(), self.inner.clone());
        let work = move || {
            let fresh = write_new(&path, &records);
            shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).journal.replace(fresh);
        };
        match std::thread::Builder::new().name("replay-journal".into()).spawn(work) {
            Ok(thread) => *self.writer.lock().unwrap_or_else(|p| p.into_inner()) = Some(thread),
            Err(error) => inner.journal.replace(Err(error)),
        }
    }

    /// Waits for a journal that is being written anew.
    pub(super) fn settle(&self) {
        let thread = self.writer.lock().unwrap_or_else(|p| p.into_inner()).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("replay journal: its writer panicked");
        }
    }

    /// Refuses what is bound otherwise here, or is more than the peer may have, and notes nothing.
    pub(super) fn check(&self, peer: &str, bindings: &[Binding], now: Timestamp) -> Result<(), ReplayError> {
        let now = now.as_second();
        let mut inner = self.inner();
        inner.fitting(bindings, now)?;
        let new = bindings.iter().filter(|binding| !inner.is_bound(binding, now)).count();
        inner.admit(peer, owner(peer), new, now)
    }

    /// Whether an id is bound here.
    pub(super) fn knows(&self, binding: &Binding, now: Timestamp) -> bool {
        self.inner().is_bound(binding, now.as_second())
    }

    /// Removes what the last release reads; whether there was something.
    pub(super) fn give_up_the_way_back(&self) -> std::io::Result<bool> {
        self.inner().journal.give_up_the_way_back()
    }

    /// How full the memory is.
    pub fn fill(&self) -> Fill {
        let inner = self.inner();
        let most = inner.held.iter().filter(|(owner, _)| **owner != 0).map(|(_, held)| *held).max().unwrap_or(0);
        Fill { entries: inner.entries.len(), share: percent(most, inner.free()) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Inner {
    /// What an id is bound to. Where it is kept under its issuer, nobody else's use of it counts.
    fn live(&self, binding: &Binding, now: i64) -> Option<&Bound> {
        let keys = [&binding.by_issuer, &binding.by_id];
        keys.into_iter().filter_map(|key| self.entries.get(key)).find(|bound| bound.end > now)
    }

    fn is_bound(&self, binding: &Binding, now: i64) -> bool {
        self.live(binding, now).is_some()
    }

    fn fitting(&self, bindings: &[Binding], now: i64) -> Result<(), ReplayError> {
        let other = |b: &&Binding| self.live(b, now).is_some_and(|bound| bound.to != b.to);
        bindings.iter().find(other).map_or(Ok(()), |binding| Err(binding.refused()))
    }

    /// Refuses new entries of an owner that would then hold more than is free.
    fn admit(&mut self, peer: &str, owner: u64, more: usize, now: i64) -> Result<(), ReplayError> {
        let (mut held, mut free) = self.with(owner, more);
        if percent(held, free) > WARNED && self.swept != now {
            // At most once a second: refusing must stay cheap.
            self.sweep(now);
            (held, free) = self.with(owner, more);
        }
        let share = percent(held, free);
        if share > WARNED && now - self.said >= QUIET_S {
            self.said = now;
            let entries = self.entries.len();
            tracing::warn!(ncp.peer = peer, share, entries, "replay memory: a peer has taken most of its share");
        }
        if more > 0 && held > free { Err(ReplayError::Full) } else { Ok(()) }
    }

    /// With so many more: what an owner holds, and what is free then.
    fn with(&self, owner: u64, more: usize) -> (usize, usize) {
        (self.held.get(&owner).copied().unwrap_or(0) + more, self.free().saturating_sub(more))
    }

    fn free(&self) -> usize {
        self.capacity.saturating_sub(self.entries.len())
    }

    fn insert(&mut self, kept: &Kept) {
        let bound = Bound { to: kept.to, owner: kept.owner, end: kept.end };
        let before = match self.entries.entry(kept.key) {
            Entry::Occupied(mut slot) => Some(slot.insert(bound).owner),
            Entry::Vacant(slot) => {
                slot.insert(bound);
                None
            }
        };
        if let Some(held) = before.and_then(|owner| self.held.get_mut(&owner)) {
            *held = held.saturating_sub(1);
        }
        *self.held.entry(kept.owner).or_default() += 1;
    }

    /// Forgets what is over.
    fn sweep(&mut self, now: i64) {
        self.entries.retain(|_, bound| bound.end > now);
        self.swept = now;
        self.count();
    }

    fn count(&mut self) {
        self.held.clear();
        self.entries.values().for_each(|bound| *self.held.entry(bound.owner).or_default() += 1);
    }

    /// All entries, as the journal holds them.
    fn records(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * RECORD);
        let kept =
            |(key, bound): (&[u8; 32], &Bound)| Kept { key: *key, to: bound.to, owner: bound.owner, end: bound.end };
        self.entries.iter().map(kept).for_each(|kept| kept.write(&mut out));
        out
    }
}

fn percent(part: usize, whole: usize) -> usize {
    part.saturating_mul(100).div_ceil(whole.max(1))
}

/// A peer as the journal names it; 0 is nobody's.
fn owner(peer: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest(&["peer", peer]);
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
}

#[cfg(test)]
#[allow(clippy::print_stdout)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::super::tests::{at, hcp};
    use super::super::{Claims, HcpClaim, Memory, REPLAY_BYTES, ReplaySet, bindings, later};
    use super::*;

    const CAPACITY: usize = REPLAY_BYTES / ENTRY;

    fn opened(journal: &Path) -> Result<Local, String> {
        Local::within(journal, REPLAY_BYTES)
    }

    fn claims<'a>(peer: &'a str, id: &'a str, subject: &'a str, now: Timestamp) -> Claims<'a> {
        let hcp = HcpClaim { issued: now, expires: later(now, 10_000), subject, ..hcp(id) };
        Claims { peer, hcp, trc: None, message: None }
    }

    fn bind(local: &Local, peer: &str, id: &str, subject: &str, now: Timestamp) -> Result<Vec<bool>, ReplayError> {
        local.bind(peer, &bindings(&claims(peer, id, subject, now), now), now)
    }

    fn kept(number: u32, end: i64) -> Kept {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        Kept { key, to: key, owner: 7, end }
    }

    /// How a release writes a record.
    type Form = fn(&Kept) -> Vec<u8>;

    /// What the last release wrote.
    fn bare(kept: &Kept) -> Vec<u8> {
        [&kept.key[..], &kept.to, &kept.end.to_be_bytes()].concat()
    }

    fn record(kept: &Kept) -> Vec<u8> {
        let mut out = Vec::new();
        kept.write(&mut out);
        out
    }

    /// SE-12: 2,000,000 records that are over (144 MB), or 31 bytes of an interrupted write, stand before the live ones.
    #[tokio::test]
    async fn se_12_a_restart_forgets_nothing_whatever_stands_before_it() {
        let now = Timestamp::now();
        let first = claims("FI", "_1", "u1", now);
        let over: Vec<Kept> = (0..2_000_000).map(|n| kept(n, now.as_second() - 1)).collect();
        let live: Vec<Kept> = bindings(&first, now)
            .iter()
            .map(|b| Kept { key: b.by_id, to: b.to, owner: owner("FI"), end: b.until.as_second() })
            .collect();
        let forms: [(&str, Form); 2] = [("replay.journal", bare), ("replay.bindings", record)];
        for (name, form) in forms {
            for before in [over.iter().flat_map(form).collect(), vec![0x4e; 31]] {
                let dir = tempfile::tempdir().expect("a folder");
                let journal = dir.path().join("replay.journal");
                let bytes = [before, live.iter().flat_map(form).collect()].concat();
                std::fs::write(dir.path().join(name), bytes).expect("writes");
                for _ in 0..2 {
                    let set = ReplaySet::open(&Memory::Local(journal.clone())).expect("opens");
                    assert_eq!(set.admit(&claims("FI", "_1", "u2", now), now).await, Err(ReplayError::Rebound));
                    set.admit(&first, now).await.expect("its own use");
                    assert_eq!(set.fill().entries, 1);
                }
                let length = std::fs::metadata(dir.path().join("replay.bindings")).expect("a journal").len();
                let bare = std::fs::metadata(&journal).map_or(0, |file| file.len());
                assert!(
                    length < 1000 && bare == if name == "replay.journal" { 72 } else { 0 },
                    "{name}: {length}, {bare}"
                );
            }
        }
    }

    /// SE-12: the journal is written anew as it grows, and what is bound meanwhile stands in it too.
    #[test]
    fn se_12_the_journal_stays_under_a_bound_and_keeps_the_newest() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("replay.journal");
        let began = Timestamp::now();
        let local = Local::with_capacity(&journal, 100_000).expect("opens");
        let (mut longest, mut last) = (0, String::new());
        for n in 0..600_000_i64 {
            last = format!("_{n}");
            // Each is over after a second of a clock that goes faster than the records come.
            let now = later(began, n / 20);
            let once = HcpClaim { issued: now, expires: later(now, -50), ..hcp(&last) };
            let claims = Claims { peer: "FI", hcp: once, trc: None, message: None };
            local.bind("FI", &bindings(&claims, now), now).expect("has room");
            if n % 10_000 == 0 {
                longest = longest.max(std::fs::metadata(dir.path().join("replay.bindings")).expect("a file").len());
            }
        }
        local.settle();
        assert!(longest < 40 << 20, "{longest} bytes of journal for some hundred live records");
        let now = later(began, 600_000 / 20);
        bind(&local, "FI", "_last", "u1", now).expect("has room");
        drop(local);
        let local = Local::with_capacity(&journal, 100_000).expect("opens");
        assert_eq!(bind(&local, "FI", "_last", "u2", now), Err(ReplayError::Rebound));
        assert!(local.fill().entries > 1, "the clock of this test is ahead, so that {last} is in force");
    }

    /// SE-12: the new file lacks nothing that was bound while it was written.
    #[test]
    fn se_12_what_comes_while_the_journal_is_written_anew_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("replay.journal");
        let now = Timestamp::now();
        let local = opened(&journal).expect("opens");
        bind(&local, "FI", "_before", "u1", now).expect("has room");
        let (path, records) = {
            let mut inner = local.inner();
            (inner.journal.begin_anew(), inner.records())
        };
        bind(&local, "FI", "_while", "u1", now).expect("has room");
        local.inner().journal.replace(write_new(&path, &records));
        bind(&local, "FI", "_after", "u1", now).expect("has room");
        // A file that cannot be written leaves the present one in force.
        local.inner().journal.begin_anew();
        bind(&local, "FI", "_failed", "u1", now).expect("has room");
        local.inner().journal.replace(Err(std::io::ErrorKind::StorageFull.into()));
        drop(local);
        let local = opened(&journal).expect("opens");
        for id in ["_before", "_while", "_after", "_failed"] {
            assert_eq!(bind(&local, "FI", id, "u2", now), Err(ReplayError::Rebound), "{id}");
        }
    }

    const CHILD: &str = "NCP_REPLAY_JOURNAL";

    /// This test program once more, for one test, which finds the journal's path in its environment.
    fn child(program: &str, before: &[&str], test: &str, journal: &Path) -> Command {
        let mut command = Command::new(program);
        let test = format!("responding::replay::local::tests::{test}");
        command.args(before).args(["--exact", test.as_str(), "--nocapture"]).env(CHILD, journal).stdout(Stdio::piped());
        command
    }

    fn own() -> String {
        std::env::current_exe().expect("this program").display().to_string()
    }

    /// Child: has the journal until it is killed.
    #[test]
    fn child_holds_the_journal() {
        let Some(journal) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
        let _local = opened(&journal).expect("opens");
        println!("\nheld");
        std::thread::park();
    }

    #[test]
    fn se_12_two_processes_on_one_journal_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("replay.journal");
        let mut other = child(&own(), &[], "child_holds_the_journal", &journal).spawn().expect("starts");
        let mut lines = BufReader::new(other.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "held"), "the child opens the journal");
        let refused = opened(&journal).err().expect("is refused");
        assert!(refused.contains("in use by another process"), "{refused}");
        other.kill().expect("kills");
        other.wait().expect("ends");
        opened(&journal).expect("opens when it is free");
    }

    /// Child on a small disk: binds until the disk takes no more, and starts again there.
    #[test]
    fn child_fills_its_disk() {
        let Some(journal) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
        let now = Timestamp::now();
        let local = opened(&journal).expect("opens");
        let taken = (0..10_000).take_while(|n| bind(&local, "FI", &format!("_{n}"), "u1", now).is_ok()).count();
        assert!(taken < 10_000, "the disk is never full");
        drop(local);
        let local = opened(&journal).expect("opens on a full disk");
        let lost =
            (0..taken).filter(|n| bind(&local, "FI", &format!("_{n}"), "u2", now) != Err(ReplayError::Rebound)).count();
        assert_eq!(bind(&local, "FI", "_more", "u1", now), Err(ReplayError::Full), "nothing is bound that is not kept");
        println!(
            "\nfault \"replay journal on a full disk, and a start there\" accepted {taken} recorded {taken} lost {lost}"
        );
        assert_eq!(lost, 0);
    }

    /// SE-12: a full disk costs what is new, never what is bound.
    #[test]
    fn se_12_a_full_disk_forgets_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let mount = format!("mount -t tmpfs -o size=256k tmpfs '{}' && exec \"$@\"", dir.path().display());
        let before = ["--mount", "sh", "-c", mount.as_str(), "sh", &own()];
        let journal = dir.path().join("replay.journal");
        let ended = child("unshare", &before, "child_fills_its_disk", &journal).output().expect("unshare (util-linux)");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success() && said.contains("lost 0"), "{said}{}", String::from_utf8_lossy(&ended.stderr));
        print!(
            "{}",
            said.lines()
                .filter(|line| line.starts_with("fault "))
                .fold(String::from("\n"), |all, line| all + line + "\n")
        );
    }

    /// SE-13: one peer sends 500,000 new professionals; a professional of another country comes after.
    #[test]
    fn se_13_who_fills_the_memory_is_busy_and_nobody_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = dir.path().join("replay.journal");
        let now = Timestamp::now();
        let served = |local: &Local, peer: &str, from: usize| {
            (from..CAPACITY).take_while(|n| bind(local, peer, &format!("{peer}{n}"), "u1", now).is_ok()).count()
        };
        let local = opened(&journal).expect("opens");
        assert_eq!(served(&local, "FI", 0), CAPACITY / 2);
        assert_eq!((local.fill().share, local.fill().entries), (100, CAPACITY / 2));
        bind(&local, "FI", "FI0", "u1", now).expect("what is bound is no new entry");
        bind(&local, "SE", "_s", "u1", now).expect("another country's first message");
        // A restart knows whose the entries are.
        drop(local);
        let local = opened(&journal).expect("opens");
        assert_eq!(served(&local, "FI", 300_000), 0);
        assert!(served(&local, "SE", 0) > CAPACITY / 5, "the share of another is its own");
        bind(&local, "DK", "_d", "u1", now).expect("a third country's first message");
        // What is over makes room again.
        let after = later(now, 20_000);
        bind(&local, "FI", "_new", "u1", after).expect("has room");
    }

    /// SK-12: the bound is the memory that is given; at 70 % of its share a peer is named.
    #[test]
    fn sk_12_the_bound_is_the_memory_that_is_given() {
        let dir = tempfile::tempdir().expect("a folder");
        let local = Local::within(&dir.path().join("replay.journal"), 100 * ENTRY).expect("opens");
        let taken = (0..1000).take_while(|n| {
            let taken = bind(&local, "FI", &format!("_{n}"), "u1", at(0)).is_ok();
            let said = local.inner().said != 0;
            let fill = local.fill();
            assert_eq!(said, fill.share > WARNED, "{fill:?}");
            taken
        });
        assert_eq!((taken.count(), local.fill().share), (50, 100));
    }

    /// Refusing costs no sweep: the entries are walked once a second at most.
    #[test]
    fn se_13_refusing_is_cheap() {
        let dir = tempfile::tempdir().expect("a folder");
        let local = Local::with_capacity(&dir.path().join("replay.journal"), 100).expect("opens");
        let swept = |second| {
            let _ = bind(&local, "FI", "_more", "u1", at(second));
            local.inner().swept
        };
        (0..50).for_each(|n| drop(bind(&local, "FI", &format!("{n}"), "u1", at(0)).expect("has room")));
        let (first, again, later) = (swept(1), swept(1), swept(2));
        assert_eq!((first, again, later), (at(1).as_second(), at(1).as_second(), at(2).as_second()));
    }

    /// What the disk does not take is not bound: a restart would not know of it.
    #[test]
    fn se_12_what_cannot_be_written_down_is_not_bound() {
        let dir = tempfile::tempdir().expect("a folder");
        let local = Local::with_capacity(&dir.path().join("replay.journal"), 100).expect("opens");
        local.inner().journal.close_for_writing();
        for _ in 0..2 {
            assert_eq!(bind(&local, "FI", "_1", "u1", at(0)), Err(ReplayError::Full));
        }
        assert_eq!(local.fill().entries, 0);
    }

    proptest! {
        /// Whatever some peers send, something is free for the first message of another, and nobody's entry is given up.
        #[test]
        fn se_13_the_first_message_of_another_peer_is_served(sent in proptest::collection::vec((0..8_u8, 1..40_usize), 1..40)) {
            let dir = tempfile::tempdir().expect("a folder");
            let local = Local::with_capacity(&dir.path().join("replay.journal"), 200).expect("opens");
            let mut taken = Vec::new();
            for (number, (peer, count)) in sent.into_iter().enumerate() {
                for n in 0..count {
                    let (peer, id) = (format!("peer {peer}"), format!("{number} {n}"));
                    if bind(&local, &peer, &id, "u1", at(0)).is_ok() {
                        taken.push((peer, id));
                    }
                }
            }
            prop_assert!(bind(&local, "another", "_1", "u1", at(0)).is_ok());
            prop_assert!(local.fill().entries <= 200);
            for (peer, id) in taken {
                prop_assert_eq!(bind(&local, &peer, &id, "u2", at(0)), Err(ReplayError::Rebound));
            }
        }
    }
}
