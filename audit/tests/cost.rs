//! SE-06: what a request costs follows from its bytes. The test is alone in its process, since its allocator counts for the
//! whole of it.

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::Pki;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use ncp_audit::Message;
use ncp_audit::server::{Config, Engine};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes of log lines.
static LOGGED: AtomicUsize = AtomicUsize::new(0);

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes of records, accepted and refused.
fn stored(data: &Path) -> usize {
    let files = std::fs::read_dir(data).expect("a folder").flatten();
    let records = files.filter(|file| file.file_name().to_string_lossy().starts_with("records-"));
    records.map(|file| file.metadata().map_or(0, |m| m.len() as usize)).sum()
}

/// What a sender may put into a Bundle, repeated.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Empty,
    Nothing,
    Number,
    Object,
    /// An AuditEvent by its name only.
    Hollow,
    /// One that is taken.
    Sound,
    Long,
}

impl Entry {
    fn any() -> impl Strategy<Value = Self> {
        use Entry::{Empty, Hollow, Long, Nothing, Number, Object, Sound};
        prop::sample::select(vec![Empty, Nothing, Number, Object, Hollow, Sound, Long])
    }

    /// `n` makes it differ from all others.
    fn json(self, n: usize) -> String {
        match self {
            Self::Empty => "{}".to_owned(),
            Self::Nothing => "{\"resource\":null}".to_owned(),
            Self::Number => format!("{{\"resource\":{n}}}"),
            Self::Object => format!("{{\"resource\":{{\"n\":{n}}}}}"),
            Self::Hollow => format!("{{\"resource\":{{\"resourceType\":\"AuditEvent\",\"id\":\"{n}\"}}}}"),
            Self::Sound => {
                let file =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/audit/ihe/iti-55-responder.xml");
                let message = Message::read(&std::fs::read(file).expect("an example")).expect("reads");
                let mut event = ncp_audit::to_audit_event(&message);
                event["agent"][0]["name"] = n.to_string().into();
                json!({ "resource": event }).to_string()
            }
            Self::Long => format!("{{\"resource\":{{\"n\":\"{n}{}\"}}}}", "x".repeat(2000)),
        }
    }
}

fn bundle(entries: &str) -> Vec<u8> {
    format!("{{\"resourceType\":\"Bundle\",\"type\":\"batch\",\"entry\":[{entries}]}}").into_bytes()
}

struct Client {
    pki: Pki,
    config: Config,
}

impl Client {
    async fn post(&self, name: &str, path: &str, media_type: &str, body: Vec<u8>) -> (StatusCode, usize) {
        let connector = self.pki.leaf(name).connector(b"\x08http/1.1").expect("connector");
        let client = ncp_tls::http_client(connector, None, Duration::from_secs(60));
        let address = self.config.fhir.expect("an address");
        let request = Request::post(format!("https://localhost:{}{path}", address.port()))
            .header("content-type", media_type)
            .header("x-audit-reason", "review")
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        let answer = client.request(request).await.expect("an answer");
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("a body").to_bytes().len())
    }

    /// Sends frames in pieces and waits until the repository has ended the connection.
    async fn syslog(&self, frames: &[u8], piece: usize) {
        let connector = self.pki.leaf("hospital").connector(b"").expect("connector");
        let port = self.config.syslog.expect("an address").port();
        let stream = ncp_tls::connect(&connector, "127.0.0.1", port, "localhost", Duration::from_secs(60));
        let (mut reader, mut writer) = tokio::io::split(stream.await.expect("a connection"));
        for piece in frames.chunks(piece) {
            writer.write_all(piece).await.expect("writes");
            writer.flush().await.expect("writes");
        }
        let mut said = Vec::new();
        let _ = reader.read_to_end(&mut said).await;
    }

    /// Sends and holds the cost against the bytes.
    async fn costs(&self, name: &str, path: &str, media_type: &str, body: Vec<u8>) -> StatusCode {
        let sent = body.len();
        let before = (LOGGED.load(Ordering::Relaxed), stored(&self.config.data_dir), ALLOCATOR.current_usage());
        ALLOCATOR.reset_peak_usage();
        let (status, answered) = self.post(name, path, media_type, body).await;
        let held = ALLOCATOR.peak_usage().saturating_sub(before.2);
        let left = LOGGED.load(Ordering::Relaxed) - before.0 + stored(&self.config.data_dir) - before.1;
        let most = 4 * sent + (64 << 10);
        assert!(left <= most, "{status}: {left} bytes logged and stored of {most}");
        assert!(answered <= most, "{status}: {answered} bytes answered of {most}");
        assert!(held <= 64_000_000 + 8 * sent, "{status}: {held} bytes held, {sent} sent");
        status
    }
}

async fn started(dir: &Path) -> Client {
    let pki = Pki::create(&dir.join("pki"));
    let config = common::config(dir, &pki, Engine::Files);
    let for_serve = config.clone();
    tokio::spawn(async move {
        ncp_audit::server::serve(&for_serve, std::future::pending()).await.expect("serves");
    });
    while tokio::net::TcpStream::connect(config.fhir.expect("an address")).await.is_err() {
        tokio::task::yield_now().await;
    }
    Client { pki, config }
}

#[tokio::test(flavor = "multi_thread")]
async fn se_06_log_store_and_answer_follow_from_the_request() {
    tracing_subscriber::fmt().with_writer(|| Log).init();
    let dir = tempfile::tempdir().expect("a folder");
    let client = started(dir.path()).await;
    let feed = |body: Vec<u8>| client.costs("hospital", "/", "application/fhir+json", body);
    let mut runner = TestRunner::deterministic();
    let shapes = (Entry::any(), Entry::any(), prop::sample::select(vec![1_usize, 30, 300, 500]));
    for round in 0..24 {
        let (one, other, count) = shapes.new_tree(&mut runner).expect("a shape").current();
        let entries = (0..count).flat_map(|n| [one, other].map(|entry| entry.json(round * 10_000 + n)));
        let status = feed(bundle(&entries.collect::<Vec<_>>().join(","))).await;
        assert_eq!(status, StatusCode::OK, "{one:?} {other:?} {count}");
    }
    // As the case has it, and the longest.
    for count in [20_000, 400_000, 5_500_000] {
        assert_eq!(feed(bundle(&vec!["{}"; count].join(","))).await, StatusCode::PAYLOAD_TOO_LARGE, "{count}");
    }
    se_05_a_search_costs_what_it_says(&client).await;
    se_06_frames_of_nothing(&client).await;
}

/// By syslog a sender ends no request: all that a connection brings follows from its bytes, in large pieces and frame by frame,
/// and so does what several bring.
async fn se_06_frames_of_nothing(client: &Client) {
    let (mut sent, before) = (0, (LOGGED.load(Ordering::Relaxed), stored(&client.config.data_dir)));
    for (frame, count, piece) in
        [("1 x", 20_000, 16_000), ("1 x", 300, 3), ("9 <85>1 a b", 5_000, 1_000), ("3 abc", 300, 5)]
    {
        let frames = frame.repeat(count) + "no count";
        sent += frames.len();
        client.syslog(frames.as_bytes(), piece).await;
    }
    let left = LOGGED.load(Ordering::Relaxed) - before.0 + stored(&client.config.data_dir) - before.1;
    assert!(left <= 4 * sent + (64 << 10), "{left} bytes logged and stored, {sent} sent");
}

async fn se_05_a_search_costs_what_it_says(client: &Client) {
    let search = |form: String| {
        client.costs("auditor", "/AuditEvent/_search", "application/x-www-form-urlencoded", form.into_bytes())
    };
    let values = |count: usize, times: usize| {
        format!("date=ge2026-11-01&_count=1{}", format!("&type={}", vec!["x"; count].join(",")).repeat(times))
    };
    assert_eq!(search(values(2040, 16)).await, StatusCode::BAD_REQUEST);
    assert_eq!(search(values(8, 29)).await, StatusCode::OK, "the most that is taken");
    assert_eq!(search(values(2040, 64)).await, StatusCode::PAYLOAD_TOO_LARGE);
    let escaped = format!("date=ge2026&_count=1&type={}", "%7C".repeat(4000));
    assert_eq!(search(escaped).await, StatusCode::OK);
}
