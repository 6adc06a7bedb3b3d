//! SE-12: a damaged byte costs the record that it is in, and nothing else.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::Pki;
use common::receivers::{By, Manner, StandIn, options, rules, until, write};
use ncp_audit::server::{Config, Engine, Repository};
use ncp_audit::*;
use ncp_proto::audit::{Facts, Record};
use proptest::prelude::*;

/// Records of each file.
const RECORDS: usize = 20;

fn segment(dir: &Path) -> PathBuf {
    dir.join("spool/segment-000000000001.spool")
}

/// The rules of all records in a spool.
fn kept(dir: &Path) -> BTreeSet<usize> {
    let records = read_spool(&options(dir)).expect("reads").records;
    records.iter().flat_map(|(_, _, xml)| rules(xml)).collect()
}

/// A folder with a spool of some records, and its segment.
async fn spool() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a folder");
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    write(&sink, 0..RECORDS).await;
    drop(sink);
    let bytes = std::fs::read(segment(dir.path())).expect("reads");
    (dir, bytes)
}

fn record(seq: u64) -> Record {
    let message = common::message("ncp-no", &format!("exchange-{seq}."), seq, "2.999.1", "TREATMENT");
    let facts = Some(Facts { role: "responder".into(), ..Facts::default() });
    Record { epoch: 1, seq, media_type: "application/xml".into(), message, facts, ..Record::default() }
}

fn log(config: &Config) -> PathBuf {
    config.data_dir.join("records-000000000001.log")
}

/// The numbers of the records that a repository has.
fn numbers(repository: &mut Repository) -> Vec<usize> {
    let rows = repository.dump().expect("dumps");
    let of_row = |row: &String| row.split("exchange-").nth(1)?.split('.').next()?.parse().ok();
    rows.iter().filter_map(of_row).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Which of the others are missing when this byte is damaged: one, or none where nothing was changed.
fn only_one_lacks(found: &[usize], all: std::ops::Range<usize>, same: bool) -> bool {
    let missing = all.filter(|number| !found.contains(number)).count();
    missing == usize::from(!same)
}

/// Nothing that stands behind a damaged byte is cut away; the last record alone may look like an interrupted write.
fn nothing_is_cut(path: &Path, damaged: &[u8], place: usize, last: usize) -> bool {
    let now = std::fs::read(path).expect("reads");
    place >= last || now.starts_with(damaged)
}

/// Where the last frame begins.
fn last_frame(bytes: &[u8]) -> usize {
    let (mut at, mut last) = (0, 0);
    while at < bytes.len() {
        last = at;
        let length = bytes[at..at + 4].try_into().expect("four bytes");
        at += 8 + u32::from_be_bytes(length) as usize;
    }
    last
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever byte of a segment is changed: every other record is there, what comes is kept behind it, and a further
    /// start changes nothing.
    #[test]
    fn se_12_any_byte_of_a_spool_costs_one_record(place: prop::sample::Index, byte: u8) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (dir, whole) = runtime.block_on(spool());
        let place = place.index(whole.len());
        let mut damaged = whole.clone();
        damaged[place] = byte;
        std::fs::write(segment(dir.path()), &damaged).expect("writes");
        std::fs::remove_file(dir.path().join("spool/ledger")).expect("removes");
        for start in 0..2 {
            let sink = runtime.block_on(AuditSink::open(&options(dir.path()))).expect("opens");
            runtime.block_on(write(&sink, RECORDS + start..RECORDS + start + 1));
            drop(sink);
            let found: Vec<usize> = kept(dir.path()).into_iter().collect();
            prop_assert!(only_one_lacks(&found, 0..RECORDS + start + 1, damaged == whole), "{:?}", found);
            prop_assert!(nothing_is_cut(&segment(dir.path()), &damaged, place, last_frame(&whole)));
        }
    }
}

/// Whatever byte of the log is changed: every other record is found, what comes is kept behind it, and the index made again
/// has the same.
#[test]
fn se_12_any_byte_of_the_log_costs_one_record() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let config = common::config(dir.path(), &pki, Engine::Files);
    let mut repository = Repository::open(&config).expect("opens");
    repository.keep("ncp-no", (0..RECORDS as u64).map(record).collect()).expect("keeps");
    drop(repository);
    let whole = std::fs::read(log(&config)).expect("reads");
    let last = last_frame(&whole);
    proptest!(ProptestConfig::with_cases(40), |(place: prop::sample::Index, byte: u8)| {
        let case = tempfile::tempdir().expect("a folder");
        let config = Config { data_dir: case.path().to_owned(), ..config.clone() };
        let place = place.index(whole.len());
        let mut damaged = whole.clone();
        damaged[place] = byte;
        std::fs::write(log(&config), &damaged).expect("writes");
        let mut repository = Repository::open(&config).expect("opens");
        prop_assert!(only_one_lacks(&numbers(&mut repository), 0..RECORDS, damaged == whole));
        repository.keep("ncp-no", vec![record(RECORDS as u64)]).expect("keeps");
        drop(repository);
        let mut repository = Repository::open(&config).expect("opens");
        repository.reindex().expect("reindexes");
        prop_assert!(only_one_lacks(&numbers(&mut repository), 0..RECORDS + 1, damaged == whole));
        prop_assert!(nothing_is_cut(&log(&config), &damaged, place, last));
    });
}

/// A segment with three damaged bytes, and a cursor of which one bit is: everything that is whole is delivered, and what
/// was written behind it too.
#[tokio::test(flavor = "multi_thread")]
async fn se_12_what_stands_behind_damage_is_delivered() {
    let (dir, whole) = spool().await;
    let mut damaged = whole.clone();
    for part in [2, 9, 16] {
        damaged[whole.len() * part / RECORDS] ^= 1;
    }
    std::fs::write(segment(dir.path()), damaged).expect("writes");
    std::fs::remove_file(dir.path().join("spool/ledger")).expect("removes");
    // As the last release wrote it, and then with one bit of the epoch changed.
    let cursor = format!("{:020} {:020} {:020}\n", 9, RECORDS, 1);
    std::fs::write(dir.path().join("spool/delivered-feed"), cursor).expect("writes");
    let pki = Pki::create(&dir.path().join("pki"));
    let receiver = StandIn::new(Manner::Down(0));
    let port = By::Feed.of(&receiver, &pki).await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let sending = By::Feed.spawn(&sink, &pki, port, "");
    write(&sink, RECORDS..RECORDS + 5).await;
    let all = kept(dir.path());
    assert_eq!(all.len(), RECORDS + 5 - 3);
    until("everything is delivered", 60, || receiver.rules() == all).await;
    sending.abort();
}
