//! Messages validate, the spool keeps what it accepted, the repository finds it again.
#![allow(clippy::print_stdout)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ncp_audit::*;

fn key_file(dir: &Path) -> PathBuf {
    let path = dir.join("key");
    if !path.exists() {
        std::fs::write(&path, "ab".repeat(32)).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    path
}

/// Small segments, so that tests turn over many.
fn small() -> SpoolLimits {
    SpoolLimits { segment: 1 << 20, reserve: 1 << 20, ..SpoolLimits::default() }
}

fn options(dir: &Path) -> SpoolOptions {
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ..Site::default() };
    SpoolOptions { limits: small(), ..SpoolOptions::new(dir.join("spool"), key_file(dir), site) }
}

fn intent(id: &str, transaction: Transaction, role: Role) -> Intent {
    let peer = PeerFacts {
        country: "FI".into(),
        home_community_id: "urn:oid:2.999.246".into(),
        certificate_name: "ncp.fi".into(),
        address: "127.0.0.1".into(),
        endpoint: "https://fi.example/XCA_Service".into(),
    };
    Intent {
        exchange_id: id.into(),
        transaction,
        role,
        peer,
        own_endpoint: "https://no.example/".into(),
        own_address: "192.0.2.1".into(),
        trace: String::new(),
        began: jiff::Timestamp::now(),
    }
}

fn decision() -> Decision {
    Decision {
        message_id: "urn:uuid:1".into(),
        user: Some(HumanRequestor {
            user_name: "A<u1@urn:idp:FI:countryB>".into(),
            display: "Dr <Ä> \"X\"".into(),
            role: ("221".into(), "ISCO".into(), "Medical Doctors".into()),
            organisation: "Hospital".into(),
        }),
        patient: Some("1^^^&2.999.1&ISO".into()),
        purpose: "TREATMENT".into(),
        query: Some(QueryObject {
            id: "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d".into(),
            bytes: b"<q/>".to_vec(),
            class_codes: Vec::new(),
        }),
        ..Decision::default()
    }
}

fn whole() -> Outcome {
    let document = DocumentObject {
        unique_id: "2.999.1^1".into(),
        repository: "2.999.21".into(),
        home: "urn:oid:2.999.47".into(),
        bytes: 12,
        sha256: "ab".into(),
        snapshot: "cd".into(),
    };
    let study = StudyObject {
        study: "2.999.5".into(),
        series: vec!["2.999.5.1".into()],
        repository: "2.999.21".into(),
        home: "urn:oid:2.999.47".into(),
        instances: 3,
        bytes: 99,
        sha256: "ef".into(),
        ..StudyObject::default()
    };
    Outcome { documents: vec![document], studies: vec![study], ..Outcome::new(OutcomeIndicator::Success, "") }
}

/// Epoch, seq and XML of every record in a spool.
async fn records(dir: &Path) -> Vec<(u64, u64, String)> {
    ncp_audit::read_spool(&options(dir)).expect("reads").records
}

#[tokio::test]
async fn what_never_ended_is_recorded_as_unknown() {
    let dir = tempfile::tempdir().expect("a folder");
    {
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        let mut exchange = sink.intent(intent("lost", Transaction::Rad75, Role::Responder)).await.expect("intent");
        exchange.decided(Decision { studies: whole().studies, ..decision() }).await.expect("decision");
        std::mem::forget(exchange);
    }
    let tail = std::fs::read_dir(dir.path().join("spool")).expect("lists").flatten().map(|e| e.path());
    let segment = tail.filter(|p| p.extension().is_some_and(|e| e == "spool")).max().expect("a segment");
    let mut torn = std::fs::read(&segment).expect("reads");
    torn.extend_from_slice(&[0, 0, 1, 0, 1, 2, 3]);
    std::fs::write(&segment, torn).expect("writes");
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens over a torn tail");
    assert_eq!(sink.epoch(), 2);
    let all = records(dir.path()).await;
    assert_eq!(all.len(), 1);
    assert!(all[0].2.contains("EventOutcomeIndicator=\"12\"") && all[0].2.contains("2.999.5"), "{}", all[0].2);
    let again = AuditSink::open(&options(dir.path())).await.expect("opens");
    drop(again);
    assert_eq!(records(dir.path()).await.len(), 1, "closed once");
}

/// A task that is cancelled or panics drops its exchange: the record is written all the same, with what was decided.
#[tokio::test]
async fn a_dropped_exchange_is_closed_with_outcome_12() {
    let dir = tempfile::tempdir().expect("a folder");
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let mut exchange = sink.intent(intent("dropped", Transaction::Iti39, Role::Responder)).await.expect("intent");
    exchange.decided(Decision { documents: whole().documents, ..decision() }).await.expect("decision");
    let cancelled = tokio::spawn(async move {
        let _held = exchange;
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    cancelled.abort();
    assert!(cancelled.await.is_err_and(|e| e.is_cancelled()));
    // The queue keeps its order: once this event is on disk, so is the outcome.
    sink.event(&Event::ApplicationStop, "").await.expect("stored");
    let all = records(dir.path()).await;
    assert_eq!(all.len(), 2);
    assert!(all[0].2.contains("EventOutcomeIndicator=\"12\"") && all[0].2.contains("1^^^&amp;2.999.1&amp;ISO"));
    drop(sink);
    let again = AuditSink::open(&options(dir.path())).await.expect("opens");
    drop(again);
    assert_eq!(records(dir.path()).await.len(), 2, "recovery closes nothing twice");
}

/// The ladder: primary folder, reserve, second folder; then nothing is taken, and nothing that was taken is lost.
#[tokio::test]
async fn a_full_spool_climbs_its_ladder_and_then_refuses() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = SpoolLimits { segment: 256 << 10, reserve: 256 << 10, most: 600 << 10, second: None };
    let full = SpoolOptions { limits: limits.clone(), ..options(dir.path()) };
    let sink = AuditSink::open(&full).await.expect("opens");
    let (mut accepted, mut levels) = (0, Vec::new());
    let refused = loop {
        let exchange = match sink.intent(intent(&format!("full-{accepted}"), Transaction::Iti38, Role::Responder)).await
        {
            Ok(exchange) => exchange,
            Err(error) => break error,
        };
        let finished = exchange.finish(Outcome::new(OutcomeIndicator::Success, "")).await;
        if let Err(error) = finished {
            break error;
        }
        accepted += 1;
        if levels.last() != Some(&sink.status().level) {
            levels.push(sink.status().level);
        }
        assert!(accepted < 5000, "never refused");
    };
    assert!(matches!(refused, AuditError::Io(_)), "{refused}");
    assert!(levels.contains(&SpoolLevel::Reserve), "{levels:?}");
    assert_eq!(sink.status().level, SpoolLevel::Full);
    let all = ncp_audit::read_spool(&full).expect("reads").records;
    let has = |n: &usize| all.iter().any(|(_, _, xml)| xml.contains(&format!("\"full-{n}\"")));
    let lost = (0..accepted).filter(|n| !has(n)).count();
    println!("accepted {accepted} recorded {} lost {lost}", all.len());
    assert_eq!(lost, 0);
    drop(sink);
    // Room on another disk: what was left open is closed, and records are taken again.
    let second = SpoolLimits { second: Some(dir.path().join("second")), ..limits };
    let freed = SpoolOptions { limits: second, ..options(dir.path()) };
    let sink = AuditSink::open(&freed).await.expect("opens");
    let exchange = sink.intent(intent("again", Transaction::Iti38, Role::Responder)).await.expect("takes");
    exchange.finish(Outcome::new(OutcomeIndicator::Success, "")).await.expect("takes");
    assert_eq!(sink.status().level, SpoolLevel::Second);
    assert!(ncp_audit::read_spool(&freed).expect("reads").records.len() > accepted);
}

/// `on_audit_failure = allow_and_alarm`: with nothing to write on, emergency access goes on, everything else does not; the
/// emergency's record is held and stands in the spool as soon as a disk takes it.
#[tokio::test]
async fn emergency_goes_on_without_a_disk_where_a_country_wants_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = SpoolLimits { segment: 128 << 10, reserve: 0, most: 300 << 10, second: None };
    let options = SpoolOptions { limits, on_failure: OnFailure::AllowAndAlarm, ..options(dir.path()) };
    let sink = AuditSink::open(&options).await.expect("opens");
    let mut n = 0;
    while sink.event(&Event::Heartbeat, "").await.is_ok() {
        n += 1;
        assert!(n < 5000, "never full");
    }
    let ask = async |id: &str, purpose: &str| {
        let mut exchange = sink.intent(intent(id, Transaction::Iti39, Role::Responder)).await.expect("not known yet");
        let decided = exchange.decided(Decision { purpose: purpose.into(), ..decision() }).await;
        (decided.is_ok(), exchange)
    };
    let (allowed, ordinary) = ask("ordinary", "TREATMENT").await;
    assert!(!allowed, "treatment is not disclosed without a record");
    let (allowed, emergency) = ask("emergency", "EMERGENCY").await;
    assert!(allowed, "emergency is");
    for exchange in [ordinary, emergency] {
        let finished = exchange.finish(Outcome::new(OutcomeIndicator::Success, "")).await;
        assert!(finished.is_err(), "told that it is held only");
    }
    assert_eq!(sink.status().level, SpoolLevel::Full);
    let oldest = dir.path().join("spool/segment-000000000001.spool");
    std::fs::remove_file(oldest).expect("room");
    sink.event(&Event::Heartbeat, "").await.expect("there is room");
    let all = records(dir.path()).await;
    for id in ["ordinary", "emergency"] {
        let of = |(_, _, xml): &&(u64, u64, String)| xml.contains(&format!("ParticipantObjectID=\"{id}\""));
        assert_eq!(all.iter().filter(of).count(), 1, "{id}");
    }
    assert!(all.iter().any(|(_, _, xml)| xml.contains("csd-code=\"EMERGENCY\"")));
}
