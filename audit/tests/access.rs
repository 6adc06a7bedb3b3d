//! Who reads, writes and speaks for whom: by the name in the certificate, on every port.

#![allow(clippy::print_stdout)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::Pki;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use ncp_audit::Message;
use ncp_audit::server::{Config, Engine, load};
use ncp_proto::audit::audit_feed_client::AuditFeedClient;
use ncp_proto::audit::audit_query_client::AuditQueryClient;
use ncp_proto::audit::{Facts, Found, GapsRequest, Record, RejectedRequest, SearchRequest, WatchRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

/// Every certificate of one authority: of a person, our gateway, two ATNA sources, a portal, and of services that have
/// nothing to do with the trail.
const CERTIFICATES: [&str; 7] = ["auditor", "ncp-no", "hospital", "opennc", "portal", "consumer", "xua"];

struct Running {
    pki: Pki,
    config: Config,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::create(&dir.path().join("pki"));
        let jwks = dir.path().join("jwks.json");
        let key = josekit::jwk::Jwk::generate_ec_key(josekit::jwk::alg::ec::EcCurve::P256).expect("a key");
        std::fs::write(&jwks, json!({ "keys": [key.to_public_key().expect("public")] }).to_string()).expect("writes");
        let config = Config {
            token_issuer: Some("https://idp.example".into()),
            token_audience: Some("https://audit.example".into()),
            jwks_file: Some(jwks),
            ..common::config(dir.path(), &pki, Engine::Files)
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let for_serve = config.clone();
        let serving = tokio::spawn(async move {
            ncp_audit::server::serve(&for_serve, async { drop(stopped.await) }).await.expect("serves");
        });
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(config.admin).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { pki, config, stop, serving, _dir: dir }
    }

    async fn end(self) {
        self.stop.send(()).expect("stops");
        self.serving.await.expect("ends");
    }

    fn channel(&self, name: &str, port: u16) -> tonic::transport::Channel {
        let connector = self.pki.leaf(name).connector(b"\x02h2").expect("connector");
        ncp_tls::channel(&format!("https://127.0.0.1:{port}"), "localhost", connector).expect("channel")
    }

    async fn search(&self, name: &str, filter: SearchRequest) -> Result<Vec<Found>, tonic::Status> {
        let mut stream =
            AuditQueryClient::new(self.channel(name, self.config.query.port())).search(filter).await?.into_inner();
        let mut found = Vec::new();
        while let Some(one) = stream.message().await? {
            found.push(one);
        }
        Ok(found)
    }

    /// Appends records of one source on one stream.
    async fn append_all(&self, name: &str, records: Vec<Record>) {
        let last = records.last().map_or(0, |record| record.seq);
        let mut client = AuditFeedClient::new(self.channel(name, self.config.feed.port()));
        let mut acks = client.append(tokio_stream::iter(records)).await.expect("answers").into_inner();
        while acks.message().await.expect("acknowledges").expect("goes on").durable_seq < last {}
    }

    async fn append(&self, name: &str, record: Record) -> Result<(), tonic::Status> {
        let mut client = AuditFeedClient::new(self.channel(name, self.config.feed.port()));
        let mut acks = client.append(tokio_stream::iter([record])).await?.into_inner();
        acks.message().await?.map(drop).ok_or_else(|| tonic::Status::aborted("not acknowledged"))
    }

    async fn fhir(&self, name: &str, method: Method, path: &str, body: &Value, token: bool) -> (StatusCode, Value) {
        let header = if token { ("authorization", "Bearer a.b.c") } else { ("x-audit-reason", "review") };
        self.asked(name, method, path, body, Some(header)).await
    }

    async fn asked(
        &self,
        name: &str,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&str, &str)>,
    ) -> (StatusCode, Value) {
        let connector = self.pki.leaf(name).connector(b"\x08http/1.1").expect("connector");
        let client = ncp_tls::http_client(connector, None, Duration::from_secs(10));
        let port = self.config.fhir.expect("an address").port();
        let mut request = Request::builder().method(method).uri(format!("https://localhost:{port}{path}"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let answer = client.request(request.body(Full::new(body)).expect("a request")).await.expect("an answer");
        let status = answer.status();
        let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Sends a message by syslog; whether a record of the name is there afterwards.
    async fn syslog(&self, name: &str, message: &[u8]) -> bool {
        let head = b"<85>1 2026-11-23T09:14:11Z ncp-no ncp-no 1 IHE+RFC-3881 - ";
        let frame = [format!("{} ", head.len() + message.len()).as_bytes(), head, message].concat();
        let connector = self.pki.leaf(name).connector(b"").expect("connector");
        let port = self.config.syslog.expect("an address").port();
        let stream = ncp_tls::connect(&connector, "127.0.0.1", port, "localhost", Duration::from_secs(10)).await;
        let mut stream = stream.expect("connects");
        // Who is refused may see the connection break at any of these.
        let _ = stream.write_all(&frame).await;
        let _ = stream.shutdown().await;
        let _ = stream.read(&mut [0; 16]).await;
        let filter = SearchRequest { source: name.into(), ..common::search() };
        let by_syslog =
            |found: &Found| found.source == name && found.record.as_ref().is_some_and(|r| r.transport == "syslog");
        self.search("auditor", filter).await.expect("answers").iter().any(by_syslog)
    }
}

fn event(source: &str, patient: u64) -> Value {
    let message = common::message(source, "x", patient, "2.999.7", "TREATMENT");
    ncp_audit::to_audit_event(&Message::read(&message).expect("reads"))
}

fn record(seq: u64, message: Vec<u8>, facts: Facts) -> Record {
    let media_type = "application/xml".into();
    Record { epoch: 1, seq, event_time_us: 1, media_type, message, facts: Some(facts), ..Record::default() }
}

fn refused(result: Result<(), tonic::Status>) -> bool {
    result.is_err_and(|status| status.code() == Code::PermissionDenied)
}

/// Every certificate at every port for every use; each use has its names, and nobody else passes.
#[tokio::test(flavor = "multi_thread")]
async fn se_08_only_named_certificates_pass_each_port() {
    let running = Running::start().await;
    println!("{:<10} feed  search gaps  watch rejected fhir-read fhir-send token syslog", "");
    for (number, name) in CERTIFICATES.into_iter().enumerate() {
        let message =
            common::message(if name == "ncp-no" { "ncp-no" } else { "elsewhere" }, name, 7, "2.999.7", "TREATMENT");
        let query = || AuditQueryClient::new(running.channel(name, running.config.query.port()));
        let get = running.fhir(name, Method::GET, "/AuditEvent?date=ge2026-01-01", &Value::Null, false).await.0;
        let post = running.fhir(name, Method::POST, "/AuditEvent", &event("elsewhere", number as u64), false).await.0;
        let token = running.fhir(name, Method::GET, "/AuditEvent", &Value::Null, true).await.0;
        let passes = [
            !refused(running.append(name, record(1, message.clone(), Facts::default())).await),
            !refused(running.search(name, common::search()).await.map(drop)),
            !refused(query().gaps(GapsRequest {}).await.map(drop)),
            !refused(query().watch(WatchRequest { reason: "review".into() }).await.map(drop)),
            !refused(
                query()
                    .rejected(RejectedRequest { reason: "review".into(), ..RejectedRequest::default() })
                    .await
                    .map(drop),
            ),
            get == StatusCode::OK,
            post == StatusCode::CREATED,
            // A portal's certificate gets as far as its token, which does not hold.
            token == StatusCode::UNAUTHORIZED,
            running.syslog(name, &message).await,
        ];
        println!("{name:<10} {}", passes.map(|passes| if passes { "yes   " } else { "-     " }).concat());
        let (reads, sends) = (name == "auditor", matches!(name, "hospital" | "opennc"));
        let named = [name == "ncp-no", reads, reads, reads, reads, reads, sends, name == "portal", sends];
        assert_eq!(passes, named, "{name}");
        for (status, passes) in [(get, passes[5]), (post, passes[6]), (token, passes[7])] {
            assert!(passes || status == StatusCode::FORBIDDEN, "{name}: {status}");
        }
    }
    // What was refused is on the trail, with the certificate's name.
    let filter = SearchRequest { transaction: "110126".into(), ..common::search() };
    let told = running.search("auditor", filter).await.expect("answers");
    let message =
        |found: &Found| String::from_utf8_lossy(&found.record.clone().expect("a record").message).into_owned();
    for name in ["consumer", "hospital"] {
        assert!(told.iter().any(|found| message(found).contains(name)), "the refusal of {name}: {}", told.len());
    }
    running.end().await;
}

/// A person alone reads nothing: each reading has a reason, which stands on the trail with the person's name.
#[tokio::test(flavor = "multi_thread")]
async fn se_08_reading_needs_a_reason() {
    let running = Running::start().await;
    let query = || AuditQueryClient::new(running.channel("auditor", running.config.query.port()));
    for reason in ["", "  ", &"x".repeat(4097)] {
        let filter = SearchRequest { reason: reason.into(), ..SearchRequest::default() };
        let searched = query().search(filter).await.map(drop);
        let watched = query().watch(WatchRequest { reason: reason.into() }).await.map(drop);
        let rejected = RejectedRequest { reason: reason.into(), ..RejectedRequest::default() };
        let read = query().rejected(rejected).await.map(drop);
        for refusal in [searched, watched, read] {
            let status = refusal.expect_err("without a reason");
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains("reason"), "{status}");
        }
    }
    for path in ["/AuditEvent?date=ge2026-01-01", "/AuditEvent/0-0"] {
        let (status, answer) = running.asked("auditor", Method::GET, path, &Value::Null, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        assert_eq!(answer.pointer("/issue/0/code"), Some(&json!("required")), "{answer}");
    }
    let told = || async {
        let filter = SearchRequest { transaction: "110101".into(), limit: 100, ..common::search() };
        let found = running.search("auditor", filter).await.expect("answers");
        let message = |found: Found| Message::read(&found.record.expect("a record").message).expect("reads");
        let query = |message: Message| message.objects.into_iter().find_map(|object| object.query).unwrap_or_default();
        found.into_iter().map(|found| String::from_utf8(query(message(found))).expect("text")).collect::<Vec<_>>()
    };
    assert!(told().await.iter().all(|query| query.ends_with("reason=review")), "what was refused is no reading");
    let case = ("x-audit-reason", "case 17/26");
    let (status, _) =
        running.asked("auditor", Method::GET, "/AuditEvent?date=ge2026-01-01", &Value::Null, Some(case)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(told().await.iter().any(|query| query.ends_with("reason=case 17/26")), "{:?}", told().await);
    running.end().await;
}

/// What is found is what the message says; the envelope adds the side and the country, which a message leaves out.
#[tokio::test(flavor = "multi_thread")]
async fn se_08_facts_are_made_of_the_message() {
    let running = Running::start().await;
    let lies = Facts {
        exchange_id: "lie".into(),
        transaction: "ITI-38".into(),
        role: "initiator".into(),
        outcome: 12,
        patient: "999^^^&2.999.1&ISO".into(),
        user: "lie".into(),
        organisation: "lie".into(),
        country: "FI".into(),
        purpose: "EMERGENCY".into(),
        studies: vec!["2.999.999".into()],
        emergency: true,
    };
    let message = common::message("ncp-no", "x1", 7, "2.999.7", "TREATMENT");
    running.append("ncp-no", record(1, message, lies.clone())).await.expect("takes");
    let filter = SearchRequest { source: "ncp-no".into(), ..common::search() };
    let found = running.search("auditor", filter).await.expect("answers");
    let facts = found[0].record.clone().and_then(|r| r.facts).expect("facts");
    let said = Facts {
        exchange_id: "x1".into(),
        transaction: "RAD-75".into(),
        role: "responder".into(),
        patient: "7^^^&2.999.1&ISO".into(),
        user: "u".into(),
        country: "FI".into(),
        purpose: "TREATMENT".into(),
        studies: vec!["2.999.7".into()],
        ..Facts::default()
    };
    assert_eq!(facts, said);
    let of = |patient: &str| SearchRequest { patient: patient.into(), ..common::search() };
    assert_eq!(running.search("auditor", of("7^^^&2.999.1&ISO")).await.expect("answers").len(), 1);
    assert!(running.search("auditor", of("999^^^&2.999.1&ISO")).await.expect("answers").is_empty());

    // ITI-55 at NCP-B: the message leaves the patient out (ITI TF-2: 3.55.5.1), so that the envelope tells the index.
    let text = r#"<AuditMessage><EventIdentification EventDateTime="2026-11-23T09:14:11Z" EventOutcomeIndicator="0"><EventID csd-code="110112"/><EventTypeCode csd-code="TYPE"/></EventIdentification><AuditSourceIdentification AuditSourceID="ncp-no"/></AuditMessage>"#;
    let cases = [("ITI-55", "initiator", true), ("ITI-55", "responder", false), ("ITI-38", "initiator", false)];
    for (seq, (transaction, role, taken)) in (2..).zip(cases) {
        let facts = Facts { patient: format!("{seq}^^^&2.999.2&ISO"), role: role.into(), ..lies.clone() };
        let message = text.replace("TYPE", transaction).into_bytes();
        running.append("ncp-no", record(seq, message, facts)).await.expect("takes");
        let found = running.search("auditor", of(&format!("{seq}^^^&2.999.2&ISO"))).await.expect("answers");
        assert_eq!(found.len() == 1, taken, "{transaction} {role}");
    }
    running.end().await;
}

/// A hospital's record does not stand under the name of one of our own programs, and every record is shown with the name
/// in the certificate that brought it.
#[tokio::test(flavor = "multi_thread")]
async fn se_09_the_authenticated_sender_stands_beside_the_claim() {
    let running = Running::start().await;
    for ours in ["ncp-no", "ncp-audit"] {
        let (status, answer) = running.fhir("hospital", Method::POST, "/AuditEvent", &event(ours, 7), false).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{ours}: {answer}");
        assert!(answer.to_string().contains("one of our own programs"), "{answer}");
        let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": [{ "resource": event(ours, 7) }] });
        let (_, answer) = running.fhir("hospital", Method::POST, "/", &bundle, false).await;
        assert_eq!(answer.pointer("/entry/0/response/status"), Some(&"422".into()), "{answer}");
        let message = common::message(ours, "x", 7, "2.999.7", "TREATMENT");
        assert!(!running.syslog("opennc", &message).await, "{ours} by syslog");
    }
    let state = AuditQueryClient::new(running.channel("auditor", running.config.query.port()));
    let rejected = { state }.gaps(GapsRequest {}).await.expect("answers").into_inner().rejected;
    assert_eq!(rejected.len(), 6, "kept apart, with who sent it: {rejected:?}");
    assert!(rejected.iter().all(|r| matches!(r.source.as_str(), "hospital" | "opennc")), "{rejected:?}");

    let (status, _) = running.fhir("hospital", Method::POST, "/AuditEvent", &event("another-hospital", 7), false).await;
    assert_eq!(status, StatusCode::CREATED);
    running
        .append("ncp-no", record(1, common::message("renamed", "x", 7, "2.999.7", "TREATMENT"), Facts::default()))
        .await
        .expect("takes");
    let patient = "urn:oid:2.999.1%7C7";
    let path = format!("/AuditEvent?date=ge2026-01-01&patient.identifier={patient}");
    let (_, bundle) = running.fhir("auditor", Method::GET, &path, &Value::Null, false).await;
    let shown: Vec<(String, String)> = bundle["entry"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| {
            let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            assert_eq!(text("/resource/source/extension/0/url"), "urn:ncp:audit:authenticated-sender");
            (text("/resource/source/extension/0/valueString"), text("/resource/source/observer/identifier/value"))
        })
        .collect();
    let both = [("hospital", "another-hospital"), ("ncp-no", "renamed")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert!(shown.len() == 2 && both.iter().all(|pair| shown.contains(pair)), "{shown:?}");
    // Our own program is found under the AuditSourceID of its certificate, not under what a message claims.
    for (source, records) in [("ncp-no", 1), ("renamed", 0), ("another-hospital", 1), ("hospital", 1)] {
        let path = format!("/AuditEvent?date=ge2026-01-01&patient.identifier={patient}&source={source}");
        let (_, bundle) = running.fhir("auditor", Method::GET, &path, &Value::Null, false).await;
        assert_eq!(bundle["entry"].as_array().map_or(0, Vec::len), records, "{source}");
    }
    running.end().await;
}

/// A configuration of before certificates were named says what to add; a service that reads is refused.
#[test]
fn se_08_a_configuration_without_names_says_what_to_add() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let config = common::config(dir.path(), &pki, Engine::Files);
    let file = common::process::write(&config, &dir.path().join("audit.toml"));
    let good = std::fs::read_to_string(&file).expect("reads");
    assert!(load(&file).is_ok(), "{:?}", load(&file).err());
    let problems = |text: String| {
        std::fs::write(&file, text).expect("writes");
        load(&file).err().unwrap_or_default()
    };
    let (before, _) = good.split_once("readers").expect("readers");
    let ports = "syslog = \"127.0.0.1:1\"\nfhir = \"127.0.0.1:2\"\nreaders = [\"auditor\"]\n";
    let said = problems(format!("{before}{ports}"));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("writers = { "), "{said:?}");
    assert!(said[1].contains("senders = ["), "{said:?}");
    let said = problems(format!("{before}readers = [\"CN=ncp-no,C=NO\"]\nwriters = {{ ncp-no = \"ncp-no\" }}\n"));
    assert!(said.len() == 1 && said[0].contains("one of the writers"), "{said:?}");
    let said = problems(format!("{before}readers = [\"sha256:12\"]\nwriters = {{ ncp-no = \"ncp-no\" }}\n"));
    assert!(said.len() == 1 && said[0].contains("sha256"), "{said:?}");
}

/// A search holds some of its records at a time: what was not taken was not read, and a record that cannot be read ends the
/// stream with an error, never as if there were no more.
#[tokio::test]
async fn a_search_is_read_on_as_it_is_taken() {
    const RECORDS: u64 = 60;
    let running = Running::start().await;
    let record = |seq| {
        let mut message = common::message("ncp-no", &format!("x{seq}"), 1, "2.999.1", "TREATMENT");
        message.resize(message.len() + 200_000, b' ');
        let facts = Some(Facts::default());
        let (epoch, event_time_us, media_type) = (1, seq as i64, "application/xml".into());
        Record { epoch, seq, event_time_us, media_type, message, facts, ..Record::default() }
    };
    running.append_all("ncp-no", (1..=RECORDS).map(record).collect()).await;
    let all = || SearchRequest { source: "ncp-no".into(), limit: 1000, ..common::search() };
    let channel = running.channel("auditor", running.config.query.port());
    let mut found = AuditQueryClient::new(channel).search(all()).await.expect("answers").into_inner();
    let seq = |found: Found| found.record.expect("a record").seq;
    assert_eq!(found.message().await.expect("reads").map(seq), Some(RECORDS), "newest first");
    let (stored, away) =
        (running.config.data_dir.join("records-000000000001.log"), running.config.data_dir.join("away"));
    std::fs::rename(&stored, &away).expect("moves");
    let (mut read, mut ended) = (1, None);
    while ended.is_none() {
        match found.message().await {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("{read} records, as if there were no more"),
            Err(status) => ended = Some(status.code()),
        }
    }
    assert_eq!(ended, Some(Code::Unavailable));
    assert!(read < RECORDS / 2, "{read} of {RECORDS} had been read");
    std::fs::rename(&away, &stored).expect("moves back");
    let whole: Vec<u64> = running.search("auditor", all()).await.expect("answers").into_iter().map(seq).collect();
    assert_eq!(whole, (1..=RECORDS).rev().collect::<Vec<_>>());
    running.end().await;
}

/// SE-04: a feed that brings no record for three minutes is ended; one with a heartbeat a minute goes on.
#[tokio::test]
async fn se_04_a_feed_that_never_sends_is_ended() {
    let running = Running::start().await;
    let record =
        |seq| record(seq, common::message("ncp-no", &format!("x{seq}"), 1, "2.999.1", "TREATMENT"), Facts::default());
    let mut client = AuditFeedClient::new(running.channel("ncp-no", running.config.feed.port()));
    // Its connection is there when the clock is stopped.
    let mut first = client.append(tokio_stream::iter([record(1)])).await.expect("answers").into_inner();
    assert_eq!(first.message().await.expect("acknowledges").expect("goes on").durable_seq, 1);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut silent = client.append(tokio_stream::pending()).await.expect("answers").into_inner();
    assert_eq!(silent.message().await.expect_err("is silent").code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(200));
    let beats = tokio_stream::iter((2..=6).map(record));
    let beats = tokio_stream::StreamExt::throttle(beats, Duration::from_secs(60));
    let mut acks = client.append(beats).await.expect("answers").into_inner();
    for seq in 2..=6 {
        assert_eq!(acks.message().await.expect("acknowledges").expect("goes on").durable_seq, seq);
    }
    tokio::time::resume();
    running.end().await;
}
