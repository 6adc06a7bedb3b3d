//! `ncp audit spool` and `ncp audit apart` as an operator runs them on the spool of a gateway, one of whose records a receiver
//! does not take (SE-01, CO-17).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ncp_audit::{AuditSink, Event, FhirTarget, PeerFacts, Site, SpoolOptions, fhir_feed, read_spool};
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tls::TlsFiles;

/// Bytes that the receiver takes of a record: more than a note has, less than the long record.
const MOST: usize = 3000;

fn options(dir: &Path) -> SpoolOptions {
    let key = dir.join("spool.key");
    std::fs::write(&key, "ab".repeat(32)).expect("writes");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ..Site::default() };
    SpoolOptions::new(dir.join("spool"), key, site)
}

/// Three records, of which the second is too long for the receiver; nobody listens where it should be.
async fn spool(dir: &Path) -> SpoolOptions {
    let options = options(dir);
    let sink = AuditSink::open(&options).await.expect("opens");
    for rule in ["first".to_owned(), "x".repeat(MOST), "third".to_owned()] {
        sink.event(&Event::SecurityAlert { rule, peer: PeerFacts::default() }, "").await.expect("stored");
    }
    let pki = CountryPki::create(&dir.join("pki"), "NO", Algorithm::P256).expect("a PKI");
    let files = TlsFiles {
        cert_chain: pki.path("internal-client.pem"),
        key: pki.path("internal-client.key"),
        anchors: pki.path("anchors.pem"),
        crls: None,
    };
    let connector = files.connector(b"\x08http/1.1").expect("a connector");
    let target = FhirTarget {
        name: "arr".into(),
        base: "https://localhost:9/fhir".into(),
        client: ncp_tls::http_client(connector, None, Duration::from_secs(1)),
        max_record_bytes: MOST,
    };
    let sending = tokio::spawn(fhir_feed(sink.clone(), target));
    let end = Instant::now() + Duration::from_secs(30);
    while !sink.deliveries().iter().any(|delivery| delivery.apart == 1) {
        assert!(Instant::now() < end, "{:?}", sink.deliveries());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sending.abort();
    options
}

fn ncp(command: &str, options: &SpoolOptions, more: &[&str]) -> Output {
    let mut ncp = Command::new(env!("CARGO_BIN_EXE_ncp"));
    ncp.args(["audit", command, "--spool"]).arg(&options.dir).arg("--key").arg(&options.key_file);
    ncp.args(more).output().expect("runs")
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stdout.clone()).expect("text"))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn co_17_what_was_set_apart_is_listed_and_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = spool(dir.path()).await;
    let content = read_spool(&options).expect("is read");
    let one = &content.apart["fhir-arr"][0];
    let (bytes, digest) = (one.xml.len(), hex::encode(openssl::sha::sha256(one.xml.as_bytes())));

    let (segments, size) = content.size;
    let spool = format!(
        "3 records in {segments} segments, {size} bytes; 0 exchanges without an end\n\
         fhir-arr: 3 records not acknowledged, 1 set apart\n"
    );
    assert_eq!(said(&ncp("spool", &options, &[])), (Some(0), spool));

    let line = format!(
        "fhir-arr epoch 1 seq 2 at {} {bytes} bytes SHA-256 {digest}: {bytes} bytes, more than the {MOST} that the receiver takes\n",
        one.at
    );
    // A finding: exit code 1.
    assert_eq!(said(&ncp("apart", &options, &[])), (Some(1), line.clone()));
    assert_eq!(said(&ncp("apart", &options, &["--receiver", "fhir-arr"])), (Some(1), line.clone()));
    assert_eq!(said(&ncp("apart", &options, &["--receiver", "feed"])), (Some(0), String::new()));

    let out = dir.path().join("out");
    assert_eq!(said(&ncp("apart", &options, &["--out", &out.display().to_string()])), (Some(1), line));
    assert_eq!(files(&out), [out.join("fhir-arr-0000-1-2.xml")]);
    let written = std::fs::read_to_string(&files(&out)[0]).expect("is read");
    assert_eq!(written, one.xml);
    assert!(written.contains(&"x".repeat(MOST)), "the record as it is, not its note");

    // With another key nothing is read and nothing is said to be empty.
    let other = dir.path().join("other.key");
    std::fs::write(&other, "cd".repeat(32)).expect("writes");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let output = ncp("apart", &SpoolOptions { key_file: other, ..options }, &[]);
    assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("ncp: "));
}
