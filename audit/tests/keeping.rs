//! SK-02: what the spool keeps stops nothing: a start reads only what it needs, and two processes on one folder are refused.
#![allow(clippy::print_stdout)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Pki;
use common::receivers::{By, count, delivery, intent, options, write};
use ncp_audit::*;

fn small(dir: &Path) -> SpoolOptions {
    let limits = SpoolLimits { segment: 64 << 10, reserve: 0, ..SpoolLimits::default() };
    SpoolOptions { limits, ..options(dir) }
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("spool/segment-{number:012}.spool"))
}

/// SK-01: how far a receiver was that is no longer configured holds nothing back once the deliveries have been started: a
/// spool that is full of what the others have takes records at once.
#[tokio::test(flavor = "multi_thread")]
async fn sk_01_a_receiver_that_is_no_longer_configured_stops_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = SpoolLimits { segment: 64 << 10, reserve: 0, most: 512 << 10, ..SpoolLimits::default() };
    let spool = SpoolOptions { limits, ..options(dir.path()) };
    let sink = AuditSink::open(&spool).await.expect("opens");
    let record = Event::SecurityAlert { rule: "a".repeat(512), peer: PeerFacts::default() };
    while sink.event(&record, "x").await.is_ok() {}
    drop(sink);
    // `feed` has everything, `syslog-former` nothing.
    let last = (1..).take_while(|number| segment(dir.path(), *number).exists()).last().expect("segments");
    assert!(last > 4, "many segments");
    let stands = |receiver: &str, (seq, segment): (u64, u64)| {
        let text = format!("{:020} {seq:020} {segment:020}\n", 1);
        std::fs::write(dir.path().join(format!("spool/delivered-{receiver}")), text).expect("writes");
    };
    let (_, seq, _) = read_spool(&spool).expect("reads").records.pop().expect("records");
    stands("feed", (seq, last));
    stands("syslog-former", (0, 0));

    let sink = AuditSink::open(&spool).await.expect("opens");
    let nowhere = tonic::transport::Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
    let _feed = feed(sink.clone(), nowhere);
    assert!(futures_util::FutureExt::now_or_never(heartbeat(sink.clone())).is_none(), "goes on");
    sink.event(&record, "x").await.expect("there is room");
}

/// SK-02: whatever is kept, a start reads what came after the last checkpoint and what an open exchange needs. The first
/// segment is of another key here: a start that read it would refuse.
#[tokio::test(flavor = "multi_thread")]
async fn sk_02_a_start_reads_only_what_came_after_the_checkpoint() {
    let dir = tempfile::tempdir().expect("a folder");
    let other = tempfile::tempdir().expect("a folder");
    let spool = small(dir.path());
    let sink = AuditSink::open(&spool).await.expect("opens");
    write(&sink, 0..200).await;
    // Open when the checkpoint is written, and still when the process ends.
    let exchange = sink.intent(intent("open-for-long")).await.expect("stored");
    write(&sink, 200..400).await;
    assert!(segment(dir.path(), 5).exists(), "many segments");
    std::mem::forget(exchange);
    drop(sink);
    let foreign = SpoolOptions { key_file: other_key(other.path()), ..small(other.path()) };
    let stranger = AuditSink::open(&foreign).await.expect("opens");
    write(&stranger, 0..1).await;
    let (kept, foreign) = (segment(dir.path(), 1), segment(other.path(), 1));
    let first = std::fs::read(&kept).expect("reads");
    std::fs::copy(foreign, &kept).expect("copies");

    let sink = AuditSink::open(&spool).await.expect("the first segment is not read");
    assert_eq!(sink.epoch(), 2);
    std::fs::write(&kept, &first).expect("writes");
    let content = read_spool(&spool).expect("reads");
    assert_eq!(content.open, 0, "the exchange that was open is closed");
    let closed = content.records.iter().filter(|(.., xml)| xml.contains("open-for-long")).collect::<Vec<_>>();
    assert!(closed.len() == 1 && closed[0].2.contains("EventOutcomeIndicator=\"12\""), "{closed:?}");
    // Who has acknowledged nothing lacks everything, also what was not read.
    let pki = Pki::create(&dir.path().join("pki"));
    let sending = By::Feed.spawn(&sink, &pki, 1, "");
    assert_eq!(delivery(&sink).waiting, 401);
    sending.abort();

    // Without the checkpoint everything is read.
    std::fs::copy(segment(other.path(), 1), &kept).expect("copies");
    std::fs::remove_file(dir.path().join("spool/ledger")).expect("removes");
    let refused = AuditSink::open(&spool).await.err();
    assert!(matches!(refused, Some(AuditError::OtherKey)), "{refused:?}");
}

fn other_key(dir: &Path) -> PathBuf {
    let key = dir.join("other-key");
    std::fs::rename(common::key_file(dir), &key).expect("renames");
    std::fs::write(&key, "cd".repeat(32)).expect("writes");
    key
}

/// SK-02: a checkpoint that is cut or damaged at any place, or is of another time, costs a longer start and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn sk_02_a_damaged_checkpoint_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let spool = small(dir.path());
    let ledger = dir.path().join("spool/ledger");
    let sink = AuditSink::open(&spool).await.expect("opens");
    write(&sink, 0..100).await;
    let early = std::fs::read(&ledger).expect("a checkpoint");
    std::mem::forget(sink.intent(intent("open")).await.expect("stored"));
    write(&sink, 100..200).await;
    drop(sink);
    let whole = std::fs::read(&ledger).expect("a checkpoint");
    assert_ne!(early, whole);
    let mut damaged = vec![early, Vec::new()];
    for place in (0..whole.len()).step_by(whole.len() / 9) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        damaged.extend([flipped, whole[..place].to_vec()]);
    }
    let copy = tempfile::tempdir().expect("a folder");
    for (number, bytes) in damaged.into_iter().enumerate() {
        let at = copy.path().join(number.to_string());
        std::fs::create_dir_all(at.join("spool")).expect("a folder");
        for entry in std::fs::read_dir(dir.path().join("spool")).expect("a folder").flatten() {
            std::fs::copy(entry.path(), at.join("spool").join(entry.file_name())).expect("copies");
        }
        std::fs::write(at.join("spool/ledger"), bytes).expect("writes");
        let sink = AuditSink::open(&small(&at)).await.expect("opens");
        let content = read_spool(&small(&at)).expect("reads");
        assert_eq!((content.open, content.records.len()), (0, 201), "damage {number}");
        assert_eq!((sink.epoch(), sink.status().epoch), (2, 2));
    }
}

/// Child of the test below: has the spool until it is killed.
#[tokio::test]
async fn child_holds_the_spool() {
    let Some(dir) = std::env::var_os("NCP_HELD_SPOOL").map(PathBuf::from) else { return };
    let _sink = AuditSink::open(&options(&dir)).await.expect("opens");
    println!("\nheld");
    std::future::pending::<()>().await;
}

/// Two processes would give the same numbers twice: the second is refused with the reason, and is let in when the first is
/// gone, however it ended.
#[tokio::test]
async fn sk_02_two_processes_on_one_spool_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let spool = options(dir.path());
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child_holds_the_spool", "--nocapture"])
        .env("NCP_HELD_SPOOL", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "held"), "the child opens the spool");
    let refused = AuditSink::open(&spool).await.err().expect("is refused").to_string();
    assert!(refused.contains("spool is in use by another process"), "{refused}");
    let epoch = std::fs::read_to_string(dir.path().join("spool/epoch")).expect("reads");
    assert_eq!(epoch.trim().parse(), Ok(1), "the refused start changed nothing");
    assert_eq!(read_spool(&spool).expect("an operator may look").records.len(), 0);
    child.kill().expect("kills");
    child.wait().expect("ends");
    let sink = AuditSink::open(&spool).await.expect("opens");
    assert_eq!(sink.epoch(), 2);
    count("two processes on one spool", 0, &Default::default(), &[]);
}
