//! What `/metrics` tells of the audit spool and of its way to a repository that is away, and comes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use ncp_audit::SpoolOptions;
use ncp_audit::server::{Config, Engine};
use ncp_ihe::{PatientId, actions};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::ports::free;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Gateway, PATIENT, World};

/// Name of each series of the audit, with its labels, and its value.
async fn metrics(gateway: &Gateway) -> BTreeMap<String, u64> {
    let mut stream = tokio::net::TcpStream::connect(gateway.admin).await.expect("connects");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await.expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("reads");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("application/openmetrics-text"), "{text}");
    let series = text.lines().filter(|line| line.starts_with("ncp_audit_"));
    let read = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    series.map(|line| read(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

async fn ask(world: &World, gateway: &Gateway) {
    let neighbour = world.neighbour("fi", gateway);
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let body = Neighbour::find_documents(&patient).to_element();
    neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
}

/// Space of the segments in a folder.
fn taken(spool: &Path) -> u64 {
    let files = std::fs::read_dir(spool).expect("a folder").map(|entry| entry.expect("a file").path());
    let segments = files.filter(|path| path.extension().is_some_and(|end| end == "spool"));
    segments.map(|path| path.metadata().expect("a file").blocks() * 512).sum()
}

fn repository(world: &World, feed: SocketAddr) -> Config {
    let file = |name: &str| world.no.path(name);
    Config {
        feed,
        query: free(),
        admin: free(),
        syslog: None,
        fhir: None,
        fhir_base: None,
        readers: ncp_tls::Names::default(),
        writers: [("internal-client.ncp.no".to_owned(), "test".to_owned())].into(),
        senders: ncp_tls::Names::default(),
        portals: ncp_tls::Names::default(),
        token_issuer: None,
        token_audience: None,
        jwks_file: None,
        token_life_seconds: None,
        untyped_tokens: false,
        certificate: file("internal-server.pem"),
        key: file("internal-server.key"),
        anchors: file("anchors.pem"),
        crls: None,
        source_anchors: None,
        source_crls: None,
        data_dir: world.path("audit"),
        key_file: file("audit.key"),
        postgres_url_file: None,
        engine: Engine::Files,
        source: "repository".into(),
        enterprise_site: "NO".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_metrics_are_true() {
    let world = World::new();
    let feed = free();
    let lines = format!(
        "[audit.feed]\nendpoint = \"https://{feed}\"\nserver_name = \"localhost\"\n\
         tls = {{ certificate = \"no/internal-client.pem\", key = \"no/internal-client.key\", anchors = \"no/anchors.pem\" }}\n"
    );
    let gateway = world.start("metrics", |text| text.replace("[policy]\n", &format!("{lines}[policy]\n"))).await;
    let waiting = "ncp_audit_waiting_records{receiver=\"feed\"}";
    let oldest = "ncp_audit_oldest_waiting_seconds{receiver=\"feed\"}";
    let (level, bytes, records) = ("ncp_audit_spool_level", "ncp_audit_spool_bytes", "ncp_audit_spool_records");

    // Nobody takes anything: every record waits, and grows old.
    let before = metrics(&gateway).await;
    assert_eq!((before[level], before[waiting]), (0, before[records]), "{before:?}");
    for _ in 0..3 {
        ask(&world, &gateway).await;
    }
    let asked = std::time::Instant::now();
    let after = metrics(&gateway).await;
    assert!(after[records] >= before[records] + 3, "a record for each exchange: {before:?} {after:?}");
    assert_eq!(after[waiting], after[records], "{after:?}");
    let options =
        SpoolOptions::new(world.path("spool-metrics"), world.no.path("spool.key"), ncp_audit::Site::default());
    let content = ncp_audit::read_spool(&options).expect("reads");
    assert_eq!(after[records], content.records.len() as u64, "as `ncp audit spool` counts");
    assert_eq!(after[bytes], taken(&world.path("spool-metrics")), "what the segments take of the disk");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let aged = metrics(&gateway).await;
    assert!(aged[oldest] >= asked.elapsed().as_secs(), "{aged:?}");

    // The repository comes, and takes everything.
    let config = repository(&world, feed);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(async move { ncp_audit::server::serve(&config, async { drop(stopped.await) }).await });
    let mut drained = metrics(&gateway).await;
    for _ in 0..300 {
        if drained[waiting] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        drained = metrics(&gateway).await;
    }
    assert_eq!((drained[waiting], drained[oldest], drained[level]), (0, 0, 0), "{drained:?}");
    assert_eq!(drained[records], after[records], "what was delivered is still counted: {drained:?}");
    gateway.stop().await;
    drop(stop);
    served.await.expect("ends").expect("serves");
}
