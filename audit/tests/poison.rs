//! SE-01, CO-03: a record that a receiver does not take is set apart and the next is delivered; a receiver that takes nothing
//! gets everything later. Each case counts what was accepted, recorded, set apart and lost, over every way of delivery.

#![allow(clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Cluster, Pki};
use futures_util::StreamExt;
use ncp_audit::server::{Config, Engine};
use ncp_audit::*;
use ncp_proto::audit::audit_feed_client::AuditFeedClient;
use ncp_proto::audit::audit_feed_server::{AuditFeed, AuditFeedServer};
use ncp_proto::audit::{Ack, Record, Refusal};
use ncp_tls::{ClientAuth, Material};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";

fn options(dir: &Path) -> SpoolOptions {
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ..Site::default() };
    let limits = SpoolLimits { segment: 1 << 20, reserve: 0, ..SpoolLimits::default() };
    SpoolOptions { limits, ..SpoolOptions::new(dir.join("spool"), common::key_file(dir), site) }
}

/// Events with a rule of their own each, which is how they are found again.
async fn write(sink: &AuditSink, rules: std::ops::Range<usize>) {
    for n in rules {
        let event = Event::SecurityAlert { rule: format!("rule {n}."), peer: PeerFacts::default() };
        sink.event(&event, &format!("x{n}")).await.expect("stored");
    }
}

fn rules(text: &str) -> BTreeSet<usize> {
    text.split("rule ").skip(1).filter_map(|rest| rest.split('.').next()?.parse().ok()).collect()
}

async fn until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn delivery(sink: &AuditSink) -> Delivery {
    sink.deliveries().pop().expect("one receiver")
}

async fn delivered(sink: &AuditSink) {
    until("everything is delivered or set apart", 60, || {
        sink.deliveries().first().is_some_and(|delivery| delivery.waiting == 0)
    })
    .await;
}

/// One line of the fault list; nothing is lost.
fn count(fault: &str, accepted: usize, recorded: &BTreeSet<usize>, apart: &[SetApart]) {
    let kept: BTreeSet<usize> = apart.iter().flat_map(|one| rules(&one.xml)).collect();
    let lost = (0..accepted).filter(|n| !recorded.contains(n) && !kept.contains(n)).count();
    println!(
        "\nfault \"{fault}\" accepted {accepted} recorded {} set apart {} lost {lost}",
        recorded.len(),
        apart.len()
    );
    assert_eq!(lost, 0, "{fault}");
}

fn apart(dir: &Path, receiver: &str) -> Vec<SetApart> {
    read_spool(&options(dir)).expect("is read").apart.remove(receiver).unwrap_or_default()
}

// --- receivers ----------------------------------------------------------------------------------------------------------

/// What a receiver of ours does with the record that it does not take, or with all.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Manner {
    /// Names it.
    Names,
    /// Ends without a word, as releases before 0.2 did.
    Ends,
    /// Fails.
    Fails,
    /// Takes nothing, for so many tries.
    Down(usize),
}

/// A repository of manners; it keeps the rules of what it took.
#[derive(Clone)]
struct StandIn {
    manner: Manner,
    taken: Arc<Mutex<String>>,
    tries: Arc<AtomicUsize>,
}

impl StandIn {
    fn new(manner: Manner) -> Self {
        Self { manner, taken: Arc::default(), tries: Arc::default() }
    }

    fn rules(&self) -> BTreeSet<usize> {
        rules(&self.taken.lock().expect("no panic"))
    }

    fn text(&self) -> String {
        self.taken.lock().expect("no panic").clone()
    }

    /// Keeps it, or does not take it.
    fn take(&self, message: &str) -> bool {
        let takes = match self.manner {
            Manner::Down(tries) => self.tries.load(Ordering::Relaxed) > tries,
            _ => !message.contains("rule 7."),
        };
        if takes {
            self.taken.lock().expect("no panic").push_str(message);
        }
        takes
    }

    fn acceptor(pki: &Pki, alpn: &'static [u8]) -> ncp_tls::SslAcceptor {
        let server = pki.leaf("arr");
        let material = Material::load(&server.cert_chain, &server.key).expect("material");
        material.acceptor(ClientAuth::Required, &[server.anchors], alpn).expect("acceptor")
    }

    async fn feed(&self, pki: &Pki) -> u16 {
        let acceptor = Self::acceptor(pki, b"\x02h2");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let service = AuditFeedServer::new(self.clone()).max_decoding_message_size(32 << 20);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(ncp_tls::incoming(listener, acceptor)));
        port
    }

    /// Syslog: a connection with a frame that is not taken is reset.
    async fn syslog(&self, pki: &Pki) -> u16 {
        let acceptor = Self::acceptor(pki, b"");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let receiver = self.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(10)).await else { continue };
                receiver.tries.fetch_add(1, Ordering::Relaxed);
                let mut all = Vec::new();
                let read = stream.read_to_end(&mut all).await;
                if read.is_ok() && receiver.take(&String::from_utf8_lossy(&all)) {
                    let _ = stream.shutdown().await;
                } else if receiver.manner == Manner::Ends {
                    // A polite end of TCP, and of TLS not a word.
                    drop(stream);
                } else {
                    stream.reset();
                }
            }
        });
        port
    }

    /// FHIR: 500 for what is not taken, 503 with Retry-After where nothing is.
    async fn fhir(&self, pki: &Pki) -> u16 {
        let acceptor = Self::acceptor(pki, b"\x08http/1.1");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let receiver = self.clone();
        let create = move |body: String| {
            let receiver = receiver.clone();
            async move {
                receiver.tries.fetch_add(1, Ordering::Relaxed);
                let status = match (receiver.take(&body), receiver.manner) {
                    (true, _) => http::StatusCode::CREATED,
                    (false, Manner::Names) => http::StatusCode::UNPROCESSABLE_ENTITY,
                    (false, Manner::Down(_)) => http::StatusCode::SERVICE_UNAVAILABLE,
                    (false, _) => http::StatusCode::INTERNAL_SERVER_ERROR,
                };
                (status, [("retry-after", "1")])
            }
        };
        let routes = axum::Router::new().route("/fhir/AuditEvent", axum::routing::post(create));
        tokio::spawn(async move { axum::serve(ncp_tls::Accepted::new(listener, acceptor), routes).await });
        port
    }
}

#[tonic::async_trait]
impl AuditFeed for StandIn {
    type AppendStream = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Ack, Status>> + Send>>;

    async fn append(&self, request: Request<Streaming<Record>>) -> Result<Response<Self::AppendStream>, Status> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        let receiver = self.clone();
        let acks = request.into_inner().map(move |record| {
            let record = record?;
            if receiver.take(&String::from_utf8_lossy(&record.message)) {
                return Ok(Ack { epoch: record.epoch, durable_seq: record.seq, ..Ack::default() });
            }
            match receiver.manner {
                Manner::Names => {
                    let refused =
                        Refusal { epoch: record.epoch, seq: record.seq, next: false, reason: "not this one".into() };
                    Ok(Ack { refused: Some(refused), ..Ack::default() })
                }
                Manner::Ends => Err(Status::ok("")),
                _ => Err(Status::unavailable("not now")),
            }
        });
        // An end without a status: the rest of the stream is not looked at.
        let acks = acks.scan(false, |ended, ack| {
            let end = *ended || matches!(&ack, Err(status) if status.code() == tonic::Code::Ok);
            *ended |= ack.is_err();
            std::future::ready((!end).then_some(ack))
        });
        Ok(Response::new(Box::pin(acks)))
    }
}

/// A repository's configuration for a source that comes this way.
fn config(dir: &Path, pki: &Pki, engine: Engine, by: By) -> Config {
    let config = common::config(dir, pki, engine);
    match by {
        By::Feed => config,
        // The name of a gateway on the feed is nobody else's.
        By::Syslog | By::Fhir => Config { writers: Default::default(), senders: common::names(&["ncp-no"]), ..config },
    }
}

/// Our own repository in this process.
struct Ours {
    config: Config,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Ours {
    fn start(config: Config) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let for_serve = config.clone();
        let served = tokio::spawn(async move {
            server::serve(&for_serve, async { drop(stopped.await) }).await.expect("serves");
        });
        Self { config, stop, served }
    }

    async fn stop(self) {
        self.stop.send(()).expect("stops");
        self.served.await.expect("ends");
    }

    fn query(&self, pki: &Pki) -> tonic::transport::Channel {
        channel(pki, "auditor", self.config.query.port())
    }

    async fn found(&self, pki: &Pki, filter: Filter) -> Vec<String> {
        let filter = Filter { limit: 1000, reason: "test".into(), ..filter };
        let found =
            search(self.query(pki), filter).await.expect("answers").into_iter().filter_map(|found| found.record);
        found.map(|record| String::from_utf8_lossy(&record.message).into_owned()).collect()
    }

    /// What `/readyz` answers.
    async fn readiness(&self) -> u16 {
        let mut tcp = tokio::net::TcpStream::connect(self.config.admin).await.expect("connects");
        tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("writes");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.expect("an answer");
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }
}

fn channel(pki: &Pki, name: &str, port: u16) -> tonic::transport::Channel {
    let connector = pki.leaf(name).connector(b"\x02h2").expect("connector");
    ncp_tls::channel(&format!("https://127.0.0.1:{port}"), "localhost", connector).expect("channel")
}

fn to_syslog(pki: &Pki, port: u16) -> SyslogTarget {
    SyslogTarget {
        name: "arr".into(),
        address: ("127.0.0.1".into(), port),
        server_name: "localhost".into(),
        connector: pki.leaf("ncp-no").connector(b"").expect("connector"),
        dialect: Dialect::Ihe,
        bom: false,
        structured_data: false,
        hostname: "ncp-no".into(),
        source: "ncp-no".into(),
        ends_without_notify: false,
        max_record_bytes: SYSLOG_BYTES,
    }
}

fn to_fhir(pki: &Pki, port: u16, path: &str) -> FhirTarget {
    let connector = pki.leaf("ncp-no").connector(b"\x08http/1.1").expect("connector");
    FhirTarget {
        name: "arr".into(),
        base: format!("https://localhost:{port}{path}"),
        client: ncp_tls::http_client(connector, None, Duration::from_secs(10)),
        max_record_bytes: FEED_BYTES,
    }
}

#[derive(Clone, Copy, Debug)]
enum By {
    Feed,
    Syslog,
    Fhir,
}

impl By {
    const ALL: [Self; 3] = [Self::Feed, Self::Syslog, Self::Fhir];

    fn receiver(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Syslog => "syslog-arr",
            Self::Fhir => "fhir-arr",
        }
    }

    fn spawn(self, sink: &AuditSink, pki: &Pki, port: u16, base: &str) -> tokio::task::JoinHandle<()> {
        match self {
            Self::Feed => tokio::spawn(feed(sink.clone(), channel(pki, "ncp-no", port))),
            Self::Syslog => tokio::spawn(syslog(sink.clone(), to_syslog(pki, port))),
            Self::Fhir => tokio::spawn(fhir_feed(sink.clone(), to_fhir(pki, port, base))),
        }
    }

    async fn of(self, stand_in: &StandIn, pki: &Pki) -> u16 {
        match self {
            Self::Feed => stand_in.feed(pki).await,
            Self::Syslog => stand_in.syslog(pki).await,
            Self::Fhir => stand_in.fhir(pki).await,
        }
    }
}

// --- one record -------------------------------------------------------------------------------------------------------

/// One record of twenty is not taken: by name, without a word, or with a failure that looks like any other.
async fn refuses_one(by: By, manner: Manner) {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let receiver = StandIn::new(manner);
    let port = by.of(&receiver, &pki).await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    write(&sink, 0..20).await;
    let sending = by.spawn(&sink, &pki, port, "/fhir");
    let began = Instant::now();
    delivered(&sink).await;
    assert!(began.elapsed() < Duration::from_secs(20), "the next is delivered within seconds");
    let tries = receiver.tries.load(Ordering::Relaxed);
    assert!(tries < 60, "{tries} tries: a hot loop");
    let set_apart = apart(dir.path(), by.receiver());
    assert_eq!((set_apart.len(), delivery(&sink).apart), (1, 1), "{set_apart:?}");
    assert_eq!(rules(&set_apart[0].xml), [7].into());
    assert_eq!((set_apart[0].epoch, set_apart[0].seq), (1, 8));
    assert!(receiver.text().contains("NCP-APART"), "a note goes in its place");
    // What comes after goes on as if nothing had been.
    write(&sink, 20..25).await;
    delivered(&sink).await;
    let expected: BTreeSet<usize> = (0..25).filter(|n| *n != 7).collect();
    assert_eq!(receiver.rules(), expected);
    count(&format!("a repository refuses one record ({by:?}, {manner:?})"), 25, &receiver.rules(), &set_apart);
    sending.abort();
    drop(sink);
    // A restart neither sends it again nor forgets it.
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let sending = by.spawn(&sink, &pki, port, "/fhir");
    write(&sink, 25..27).await;
    delivered(&sink).await;
    assert_eq!(delivery(&sink).apart, 1);
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn se_01_a_refused_record_is_set_apart_and_the_next_is_delivered() {
    for by in By::ALL {
        for manner in [Manner::Names, Manner::Ends, Manner::Fails] {
            refuses_one(by, manner).await;
        }
    }
}

/// A receiver that takes nothing for a while: nothing is set apart, everything comes.
#[tokio::test(flavor = "multi_thread")]
async fn co_03_a_receiver_that_cannot_store_gets_everything_later() {
    for by in By::ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::create(&dir.path().join("pki"));
        let receiver = StandIn::new(Manner::Down(12));
        let port = by.of(&receiver, &pki).await;
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        write(&sink, 0..20).await;
        let sending = by.spawn(&sink, &pki, port, "/fhir");
        tokio::time::sleep(Duration::from_millis(300)).await;
        write(&sink, 20..40).await;
        until("everything is delivered", 60, || receiver.rules().len() == 40 && delivery(&sink).waiting == 0).await;
        let set_apart = apart(dir.path(), by.receiver());
        assert!(set_apart.is_empty(), "{by:?}: {set_apart:?}");
        count(&format!("a repository cannot store ({by:?})"), 40, &receiver.rules(), &[]);
        sending.abort();
    }
}

// --- the poison of earlier releases ---------------------------------------------------------------------------------------

/// A spool as releases before 0.2 wrote it: three records, of which the second holds 24 MB.
fn old_spool(dir: &Path) {
    let message = |n: usize, more: &str| {
        format!(
            "<AuditMessage><EventIdentification EventActionCode=\"E\" EventDateTime=\"2026-11-23T09:14:11.950Z\" \
             EventOutcomeIndicator=\"8\"><EventID csd-code=\"110112\" codeSystemName=\"DCM\" originalText=\"Query\"/>\
             <EventOutcomeDescription>rule {n}.</EventOutcomeDescription></EventIdentification><ActiveParticipant UserID=\"x\" \
             UserIsRequestor=\"true\"/><AuditSourceIdentification AuditSourceID=\"ncp-no\"/>{more}</AuditMessage>"
        )
    };
    let poison = format!(
        "<ParticipantObjectIdentification ParticipantObjectID=\"q\" ParticipantObjectTypeCode=\"2\" \
         ParticipantObjectTypeCodeRole=\"24\"><ParticipantObjectIDTypeCode csd-code=\"ITI-38\" codeSystemName=\"IHE Transactions\" \
         originalText=\"Cross Gateway Query\"/><ParticipantObjectQuery>{}</ParticipantObjectQuery></ParticipantObjectIdentification>",
        "eHh4".repeat(6 << 20)
    );
    let record = |n: usize, more: &str| {
        serde_json::json!({
            "event_time_us": 1_795_425_251_950_000_i64, "xml": message(n, more), "exchange_id": format!("x{n}"),
            "transaction": "ITI-38", "role": "responder", "outcome": 8, "patient": PATIENT, "user": "dr",
            "organisation": "x".repeat(if n == 1 { 3 << 20 } else { 3 }), "country": "FI", "purpose": "TREATMENT", "studies": [],
        })
    };
    let spool = dir.join("spool");
    std::fs::create_dir_all(&spool).expect("a folder");
    std::fs::write(spool.join("epoch"), "1\n").expect("writes");
    let mut file = std::fs::File::create(spool.join("segment-000000000001.spool")).expect("a file");
    for (n, more) in [(0, ""), (1, poison.as_str()), (2, "")] {
        let records = serde_json::json!({ "closes": null, "epoch": 1, "first_seq": n + 1, "records": [record(n, more)], "ended": [0, 0] });
        let plain = serde_json::json!({ "Records": records }).to_string();
        file.write_all(&sealed(plain.as_bytes())).expect("writes");
    }
}

/// A frame: `length | crc32 | nonce | ciphertext | tag`.
fn sealed(plain: &[u8]) -> Vec<u8> {
    let (nonce, mut tag) = ([7; 12], [0; 16]);
    let cipher = openssl::symm::Cipher::aes_256_gcm();
    let cipher = openssl::symm::encrypt_aead(cipher, &[0xab; 32], Some(&nonce), &[], plain, &mut tag).expect("seals");
    let body = [nonce.as_slice(), &cipher, &tag].concat();
    let length = u32::try_from(body.len()).expect("short");
    [length.to_be_bytes().as_slice(), &crc32fast::hash(&body).to_be_bytes(), &body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn se_01_a_restart_gets_past_the_record_that_an_earlier_release_left() {
    for by in By::ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::create(&dir.path().join("pki"));
        let ours = Ours::start(config(dir.path(), &pki, Engine::Files, by));
        old_spool(dir.path());
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        write(&sink, 3..6).await;
        let port = match by {
            By::Feed => ours.config.feed.port(),
            By::Syslog => ours.config.syslog.expect("an address").port(),
            By::Fhir => ours.config.fhir.expect("an address").port(),
        };
        let sending = by.spawn(&sink, &pki, port, "");
        delivered(&sink).await;
        let set_apart = apart(dir.path(), by.receiver());
        assert_eq!((set_apart.len(), delivery(&sink).apart), (1, 1));
        assert!(set_apart[0].reason.contains("more than the"), "{}", set_apart[0].reason);
        assert!(set_apart[0].xml.len() > 20 << 20, "it is kept whole");
        let all = ours.found(&pki, Filter::default()).await.concat();
        count(&format!("a poison record in an old spool ({by:?})"), 6, &rules(&all), &set_apart);
        // The patient's trail shows that there was something, under its own number.
        let hers = ours.found(&pki, Filter { patient: PATIENT.into(), ..Filter::default() }).await;
        assert!(hers.iter().any(|xml| xml.contains("NCP-APART")), "{hers:?}");
        let state = gaps(ours.query(&pki)).await.expect("answers");
        assert!(state.gaps.is_empty(), "{:?}", state.gaps);
        sending.abort();
        ours.stop().await;
    }
}

// --- our own repository ----------------------------------------------------------------------------------------------------

/// What the feed cannot read is named; what came before it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn se_01_our_repository_names_what_it_cannot_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let ours = Ours::start(config(dir.path(), &pki, Engine::Files, By::Feed));
    until("it listens", 20, || std::net::TcpStream::connect(ours.config.feed).is_ok()).await;
    let record = |seq, bytes: usize| Record { epoch: 1, seq, message: vec![b'x'; bytes], ..Record::default() };
    let mut client = AuditFeedClient::new(channel(&pki, "ncp-no", ours.config.feed.port()));
    let records = vec![record(1, 10), record(2, 10), record(3, 17 << 20), record(4, 10)];
    let mut acks = client.append(tokio_stream::iter(records)).await.expect("a stream").into_inner();
    let mut seen = Vec::new();
    let end = loop {
        match acks.message().await {
            Ok(Some(ack)) => seen.push(ack),
            end => break end,
        }
    };
    let refused = seen.iter().find_map(|ack| ack.refused.clone()).expect("named");
    assert_eq!((refused.epoch, refused.seq, refused.next), (1, 2, true), "the one after the second");
    assert!(end.is_err(), "no end that could be taken for success");
    let state = gaps(ours.query(&pki)).await.expect("answers");
    let source = state.sources.iter().find(|s| s.source == "ncp-no").expect("the source");
    assert_eq!((source.records, source.last_seq), (2, 2));
    ours.stop().await;
}

/// A text that PostgreSQL does not index, and a batch around it: all is stored, and found by what is long.
#[tokio::test(flavor = "multi_thread")]
async fn se_01_long_names_pass_postgresql() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start();
    let pki = Pki::create(&dir.path().join("pki"));
    let ours = Ours::start(config(dir.path(), &pki, Engine::Postgres(cluster.url()), By::Feed));
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    // Nothing that compresses: an index row is at most a third of a page.
    let mut state = 1u64;
    let mut long = || -> String {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (state >> 40) as u8 % 26)
        };
        (0..4096).map(|_| next()).collect()
    };
    let (user_name, organisation) = (long(), long());
    let user = HumanRequestor {
        user_name: user_name.clone(),
        organisation: organisation.clone(),
        ..HumanRequestor::default()
    };
    write(&sink, 0..3).await;
    let assertion = "_a\u{0}b".to_owned();
    sink.event(&Event::HcpIssued { user, assertion }, "x").await.expect("stored");
    write(&sink, 3..6).await;
    let sending = By::Feed.spawn(&sink, &pki, ours.config.feed.port(), "");
    delivered(&sink).await;
    assert_eq!(delivery(&sink).apart, 0);
    assert_eq!(rules(&ours.found(&pki, Filter::default()).await.concat()), (0..6).collect());
    for filter in [Filter { organisation, ..Filter::default() }, Filter { user: user_name, ..Filter::default() }] {
        assert_eq!(ours.found(&pki, filter).await.len(), 1);
    }
    sending.abort();
    ours.stop().await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.expect("stops");
}

/// PostgreSQL stops and comes back under every way of delivery: the repository says that it is not ready, takes nothing for
/// delivered, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn co_03_nothing_is_lost_while_postgresql_is_away() {
    for by in By::ALL {
        let dir = tempfile::tempdir().expect("a folder");
        let cluster = Arc::new(Cluster::start());
        let pki = Pki::create(&dir.path().join("pki"));
        let ours = Ours::start(config(dir.path(), &pki, Engine::Postgres(cluster.url()), by));
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        let port = match by {
            By::Feed => ours.config.feed.port(),
            By::Syslog => ours.config.syslog.expect("an address").port(),
            By::Fhir => ours.config.fhir.expect("an address").port(),
        };
        let sending = by.spawn(&sink, &pki, port, "");
        write(&sink, 0..20).await;
        delivered(&sink).await;
        assert_eq!(ours.readiness().await, 200);
        control(&cluster, "stop").await;
        write(&sink, 20..40).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(delivery(&sink).waiting, 20, "{by:?}: what cannot be stored was taken for delivered");
        assert_eq!(ours.readiness().await, 503);
        control(&cluster, "start").await;
        until("everything is delivered", 60, || delivery(&sink).waiting == 0).await;
        assert_eq!(ours.readiness().await, 200);
        let all = rules(&ours.found(&pki, Filter::default()).await.concat());
        count(&format!("PostgreSQL away ({by:?})"), 40, &all, &[]);
        assert_eq!(all, (0..40).collect());
        sending.abort();
        ours.stop().await;
        tokio::task::spawn_blocking(move || drop(cluster)).await.expect("stops");
    }
}

async fn control(cluster: &Arc<Cluster>, what: &'static str) {
    let cluster = cluster.clone();
    tokio::task::spawn_blocking(move || cluster.control(what)).await.expect("runs");
}

/// A syslog receiver that is told to stop takes nothing for received that it has not read.
#[tokio::test(flavor = "multi_thread")]
async fn co_03_a_repository_that_stops_takes_nothing_unread_for_received() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let config = config(dir.path(), &pki, Engine::Files, By::Syslog);
    let mut ours = Ours::start(config.clone());
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let sending = By::Syslog.spawn(&sink, &pki, config.syslog.expect("an address").port(), "");
    for round in 0..4 {
        write(&sink, round * 100..(round + 1) * 100).await;
        ours.stop().await;
        ours = Ours::start(config.clone());
    }
    delivered(&sink).await;
    let all = rules(&ours.found(&pki, Filter { limit: 1000, ..Filter::default() }).await.concat());
    count("a repository stops and starts while syslog comes", 400, &all, &[]);
    sending.abort();
    ours.stop().await;
}
