//! `tests/bench.sh audit`: the append path, the way into the repository, and searches, each with a peer of the same run.
//! One JSON line each. `--full`: ten million index rows.
#![allow(clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use common::Pki;
use common::process::{Server, write};
use ncp_audit::server::{Config, Engine, Entry, Place, Search, engines};
use ncp_audit::*;
use ncp_proto::audit::{Facts, Found, Record};
use serde_json::json;
use tokio::io::AsyncWriteExt;

type Error = Box<dyn std::error::Error + Send + Sync>;

const RECORDS: usize = 20_000;

fn main() -> Result<(), Error> {
    let full = std::env::args().any(|a| a == "--full");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(append())?;
    for rate in [20, 2_000] {
        runtime.block_on(latency(rate))?;
    }
    runtime.block_on(ingest())?;
    search(if full { 10_000_000 } else { 100_000 })
}

fn rate(count: usize, took: Duration) -> f64 {
    (count as f64 / took.as_secs_f64()).round()
}

fn ratio(ours: f64, theirs: f64) -> f64 {
    (ours / theirs * 100.0).round() / 100.0
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
    (at.copied().unwrap_or_default().as_secs_f64() * 1e5).round() / 100.0
}

fn options(dir: &Path) -> SpoolOptions {
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ..Site::default() };
    let key = dir.join("key");
    let key = if key.exists() { key } else { common::key_file(dir) };
    SpoolOptions::new(dir.join("spool"), key, site)
}

/// An event whose message has some 2 KB.
fn event(n: usize) -> Event {
    let user = HumanRequestor {
        user_name: "<dr.4711@urn:idp:FI:countryB>".into(),
        display: "Physician on duty".into(),
        role: ("221".into(), "2.16.840.1.113883.2.9.6.2.7".into(), "Medical Doctors".into()),
        organisation: "University hospital".into(),
    };
    let peer = PeerFacts {
        country: "FI".into(),
        home_community_id: "urn:oid:2.999.246".into(),
        certificate_name: "ncp.fi.example".into(),
        address: "192.0.2.1".into(),
        endpoint: String::new(),
    };
    Event::AssertionChecked {
        kind: AssertionKind::Trc,
        user,
        assertion: format!("_{n:032x}"),
        patient: format!("{}^^^&2.16.578.1.12.4.1.4.1&ISO", n % 1000),
        peer,
    }
}

fn message(n: usize) -> String {
    of_event(&options_site(), &event(n), &format!("x{n}"), jiff::Timestamp::now()).xml
}

fn options_site() -> Site {
    Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ..Site::default() }
}

async fn fill(sink: &AuditSink, clients: usize, records: usize) -> Result<Duration, Error> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let sink = sink.clone();
        tasks.spawn(async move {
            for n in (client..records).step_by(clients) {
                sink.event(&event(n), &format!("x{n}")).await?;
            }
            Ok::<(), AuditError>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(began.elapsed())
}

/// Durable records a second, against a bare loop that writes and syncs as many bytes in groups of the size that ours had;
/// in turns, because a shared disk is not the same from one second to the next.
async fn append() -> Result<(), Error> {
    const CLIENTS: usize = 256;
    const ROUNDS: usize = 5;
    let dir = tempfile::tempdir()?;
    let options = options(dir.path());
    let sink = AuditSink::open(&options).await?;
    let (mut ours, mut bare, mut groups) = (Duration::ZERO, Duration::ZERO, 0);
    let mut bytes_before = 0;
    for round in 0..ROUNDS {
        let groups_before = sink.status().groups;
        ours += fill(&sink, CLIENTS, RECORDS / ROUNDS).await?;
        let made = sink.status().groups - groups_before;
        groups += made;
        let bytes = read_spool(&options)?.size.1;
        let block = vec![7u8; usize::try_from((bytes - bytes_before) / made)?];
        bytes_before = bytes;
        let mut file = std::fs::File::create(dir.path().join(format!("bare-{round}")))?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, made * block.len() as u64)?;
        let began = Instant::now();
        for _ in 0..made {
            file.write_all(&block)?;
            file.sync_data()?;
        }
        bare += began.elapsed();
    }
    let (ours, bare) = (rate(RECORDS, ours), rate(RECORDS, bare));
    println!(
        "{}",
        json!({ "bench": "audit-append", "clients": CLIENTS, "message_bytes": message(1).len(),
            "bytes_a_record": bytes_before / RECORDS as u64, "records_a_group": RECORDS as u64 / groups,
            "durable_records_per_second": ours, "peer": "bare group commit of the same groups and bytes, in turns",
            "peer_per_second": bare, "ratio": ratio(ours, bare) })
    );
    Ok(())
}

/// What a durable record adds to an exchange.
async fn latency(per_second: u64) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let sink = AuditSink::open(&options(dir.path())).await?;
    let count = (per_second * 5) as usize;
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / per_second));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        tick.tick().await;
        let sink = sink.clone();
        tasks.spawn(async move {
            let began = Instant::now();
            sink.event(&event(n), "x").await.map(|()| began.elapsed())
        });
    }
    let mut times = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        times.push(done??);
    }
    times.sort();
    println!(
        "{}",
        json!({ "bench": "audit-latency", "per_second": per_second, "records": count,
            "p50_ms": percentile(&times, 50), "p99_ms": percentile(&times, 99) })
    );
    Ok(())
}

/// Spool to repository, acknowledged and indexed, against rsyslog that gets the same messages over TLS.
async fn ingest() -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let pki = Pki::create(&dir.path().join("pki"));
    let config = Config { syslog: None, fhir: None, ..common::config(dir.path(), &pki, Engine::Files) };
    let sink = AuditSink::open(&options(dir.path())).await?;
    fill(&sink, 64, RECORDS).await?;
    let server = Server::start(&write(&config, &dir.path().join("audit.toml")), None);
    while tokio::net::TcpStream::connect(config.admin).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let connector = pki.leaf("ncp-no").connector(b"\x02h2")?;
    let channel = ncp_tls::channel(&format!("https://127.0.0.1:{}", config.feed.port()), "localhost", connector)?;
    let began = Instant::now();
    tokio::spawn(feed(sink.clone(), channel));
    tokio::time::sleep(Duration::from_millis(5)).await;
    loop {
        let deliveries = sink.deliveries();
        if !deliveries.is_empty() && deliveries.iter().all(|d| d.waiting == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ours = rate(RECORDS, began.elapsed());
    let peak = memory(server.id())?;
    server.kill();
    let batches = rsyslog(dir.path(), &pki, "sync", RECORDS).await?;
    let durable = rsyslog(dir.path(), &pki, "queue", 1_000).await?;
    println!(
        "{}",
        json!({ "bench": "audit-ingest", "records": RECORDS, "acknowledged_and_indexed_per_second": ours,
            "repository_peak_rss_mib": peak,
            "peer": "rsyslog over TLS, fsync per batch", "peer_per_second": batches, "ratio": ratio(ours, batches),
            "durable_peer": "rsyslog over TLS, disk queue with syncQueueFiles", "durable_peer_per_second": durable,
            "durable_ratio": ratio(ours, durable) })
    );
    Ok(())
}

fn memory(pid: u32) -> Result<u64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).ok_or("no peak")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse::<u64>()? / 1024)
}

/// Messages a second from the first byte until they stand in rsyslog's file.
async fn rsyslog(dir: &Path, pki: &Pki, kind: &str, records: usize) -> Result<f64, Error> {
    let own = dir.join(kind);
    std::fs::create_dir_all(&own)?;
    let (server, port) = (pki.leaf("arr"), common::free().port());
    let queue = match kind {
        "queue" => {
            r#" queue.type="Disk" queue.filename="q" queue.syncQueueFiles="on" queue.checkpointInterval="1" queue.maxDiskSpace="1g""#
        }
        _ => "",
    };
    let configuration = format!(
        r#"global(maxMessageSize="64k" workDirectory="{work}" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}"
  parser.escapeControlCharactersOnReceive="off")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/name" PermittedPeer=["ncp-no"])
template(name="raw" type="string" string="%rawmsg%\n")
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="arr")
ruleset(name="arr"{queue}) {{ action(type="omfile" file="{out}" template="raw" sync="on" flushOnTXEnd="on") }}
"#,
        work = own.display(),
        ca = server.anchors.display(),
        cert = server.cert_chain.display(),
        key = server.key.display(),
        out = own.join("out").display(),
    );
    std::fs::write(own.join("rsyslog.conf"), configuration)?;
    let program = ["/usr/sbin/rsyslogd", "/sbin/rsyslogd"].into_iter().find(|p| Path::new(p).exists());
    let mut child = std::process::Command::new(program.ok_or("rsyslog is not installed")?)
        .args(["-n", "-f"])
        .arg(own.join("rsyslog.conf"))
        .arg("-i")
        .arg(own.join("pid"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let connector = pki.leaf("ncp-no").connector(b"")?;
    let mut stream = loop {
        match ncp_tls::connect(&connector, "127.0.0.1", port, "localhost", Duration::from_secs(10)).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let frames: Vec<u8> = (0..records)
        .flat_map(|n| {
            let text = format!("<85>1 2026-11-23T09:14:11Z host app 1 IHE+RFC-3881 - {}", message(n));
            format!("{} {text}", text.len()).into_bytes()
        })
        .collect();
    let began = Instant::now();
    stream.write_all(&frames).await?;
    stream.flush().await?;
    let (mut counted, mut at) = (0, 0u64);
    while counted < records && began.elapsed() < Duration::from_secs(60) {
        use std::io::{Read, Seek};
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Ok(mut file) = std::fs::File::open(own.join("out")) else { continue };
        file.seek(std::io::SeekFrom::Start(at))?;
        let mut fresh = Vec::new();
        at += file.read_to_end(&mut fresh)? as u64;
        counted += fresh.iter().filter(|b| **b == b'\n').count();
    }
    let took = began.elapsed();
    child.kill()?;
    child.wait()?;
    Ok(rate(counted, took))
}

/// Timelines of patients and searches over so many index rows.
fn search(rows: usize) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let pki = Pki::create(&dir.path().join("pki"));
    let config = common::config(dir.path(), &pki, Engine::Files);
    let (_, mut index) = engines(&config)?;
    let hash = |text: &str| hex::encode(&openssl::sha::sha256(text.as_bytes())[..]);
    let people = (rows / 50).max(1);
    let began = Instant::now();
    let text = message(1).into_bytes();
    for first in (0..rows).step_by(4096) {
        let entries: Vec<Entry> = (first..rows.min(first + 4096))
            .map(|n| {
                let facts = Facts {
                    exchange_id: format!("x{n}"),
                    transaction: ["ITI-55", "ITI-38", "ITI-39", "RAD-75"][n % 4].into(),
                    role: "responder".into(),
                    patient: format!("{}^^^&2.999.1&ISO", n % people),
                    user: format!("u{}", n % 1009),
                    organisation: format!("o{}", n % 101),
                    country: ["FI", "SE", "DK"][n % 3].into(),
                    purpose: "TREATMENT".into(),
                    studies: vec![format!("2.999.{}", n / 4)],
                    ..Facts::default()
                };
                let us = 1_790_000_000_000_000 + n as i64 * 1_000_000;
                let record = Record {
                    epoch: 1,
                    seq: n as u64 + 1,
                    event_time_us: us,
                    media_type: "application/xml".into(),
                    message: text.clone(),
                    facts: Some(facts),
                    ..Record::default()
                };
                let place = Place { segment: 1, offset: n as u64 * 2048 };
                let found = Found { source: "ncp-no".into(), record: Some(record), received_us: us };
                Entry::new(place, found, &hash)
            })
            .collect();
        index.add(&entries)?;
    }
    let indexed = rate(rows, began.elapsed());
    let mut measured = serde_json::Map::new();
    for (name, goal) in [("patient timeline", 50.0), ("user in a month", 200.0), ("study", 200.0), ("failed", 200.0)] {
        let mut times = Vec::new();
        for n in 0..300usize {
            let pick = n.wrapping_mul(7919);
            let mut search = Search { limit: 50, ..Search::default() };
            match name {
                "patient timeline" => {
                    let patient = hash(&format!("{}^^^&2.999.1&ISO", pick % people));
                    search.columns.push(("patient", patient.as_str().into()));
                }
                "user in a month" => {
                    search.columns.push(("actor", format!("u{}", pick % 1009).as_str().into()));
                    search.event_us = (1_790_000_000_000_000, 1_790_000_000_000_000 + 30 * 86_400_000_000);
                }
                "study" => search.tokens.push(("study", vec![format!("2.999.{}", pick % (rows / 4))])),
                _ => {
                    search.columns.push(("kind", "ITI-38".into()));
                    search.columns.push(("outcome", 8i64.into()));
                }
            }
            let began = Instant::now();
            let found = index.search(&search)?;
            times.push(began.elapsed());
            if found.is_empty() && name != "failed" {
                return Err(format!("{name}: nothing found").into());
            }
        }
        times.sort();
        let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
        measured.insert(name.into(), json!({ "p50_ms": p50, "p99_ms": p99, "goal_ms": goal, "holds": p99 < goal }));
    }
    let bytes = std::fs::metadata(config.data_dir.join("index.sqlite"))?.len();
    println!(
        "{}",
        json!({ "bench": "audit-search", "rows": rows, "indexed_per_second": indexed, "index_mib": bytes >> 20,
            "searches": measured })
    );
    Ok(())
}
