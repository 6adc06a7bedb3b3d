//! Receivers that take everything, nothing, or all but one record, for each way of delivery: stand-ins with manners of their
//! own, and our own repository. What was accepted, recorded, set apart and lost is counted.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ncp_audit::server::{Config, Engine};
use ncp_audit::*;
use ncp_proto::audit::audit_feed_server::{AuditFeed, AuditFeedServer};
use ncp_proto::audit::{Ack, Record, Refusal};
use ncp_tls::{ClientAuth, Material};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

use super::Pki;

pub fn options(dir: &Path) -> SpoolOptions {
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ..Site::default() };
    let limits = SpoolLimits { segment: 1 << 20, reserve: 0, ..SpoolLimits::default() };
    SpoolOptions { limits, ..SpoolOptions::new(dir.join("spool"), super::key_file(dir), site) }
}

/// An exchange that begins.
pub fn intent(id: &str) -> Intent {
    Intent {
        exchange_id: id.into(),
        transaction: Transaction::Iti38,
        role: Role::Responder,
        peer: PeerFacts::default(),
        own_endpoint: String::new(),
        own_address: String::new(),
        trace: String::new(),
        began: jiff::Timestamp::now(),
    }
}

/// Events with a rule of their own each, which is how they are found again.
pub async fn write(sink: &AuditSink, rules: std::ops::Range<usize>) {
    for n in rules {
        let event = Event::SecurityAlert { rule: format!("rule {n}."), peer: PeerFacts::default() };
        sink.event(&event, &format!("x{n}")).await.expect("stored");
    }
}

pub fn rules(text: &str) -> BTreeSet<usize> {
    text.split("rule ").skip(1).filter_map(|rest| rest.split('.').next()?.parse().ok()).collect()
}

pub async fn until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

pub fn delivery(sink: &AuditSink) -> Delivery {
    sink.deliveries().pop().expect("one receiver")
}

pub async fn delivered(sink: &AuditSink) {
    until("everything is delivered or set apart", 60, || {
        sink.deliveries().first().is_some_and(|delivery| delivery.waiting == 0)
    })
    .await;
}

/// One line of the fault list; nothing is lost.
pub fn count(fault: &str, accepted: usize, recorded: &BTreeSet<usize>, apart: &[SetApart]) {
    let kept: BTreeSet<usize> = apart.iter().flat_map(|one| rules(&one.xml)).collect();
    let lost = (0..accepted).filter(|n| !recorded.contains(n) && !kept.contains(n)).count();
    println!(
        "\nfault \"{fault}\" accepted {accepted} recorded {} set apart {} lost {lost}",
        recorded.len(),
        apart.len()
    );
    assert_eq!(lost, 0, "{fault}");
}

pub fn apart(dir: &Path, receiver: &str) -> Vec<SetApart> {
    read_spool(&options(dir)).expect("is read").apart.remove(receiver).unwrap_or_default()
}

/// What a receiver of ours does with the record that it does not take, or with all.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Manner {
    /// Names it.
    Names,
    /// Ends without a word, as releases before 0.2 did.
    Ends,
    /// Fails.
    Fails,
    /// Takes nothing, for so many tries.
    Down(usize),
    /// Takes nothing but at every third try.
    Third,
}

/// A repository of manners; it keeps the rules of what it took.
#[derive(Clone)]
pub struct StandIn {
    pub manner: Manner,
    taken: Arc<Mutex<String>>,
    pub tries: Arc<AtomicUsize>,
}

impl StandIn {
    pub fn new(manner: Manner) -> Self {
        Self { manner, taken: Arc::default(), tries: Arc::default() }
    }

    pub fn rules(&self) -> BTreeSet<usize> {
        rules(&self.taken.lock().expect("no panic"))
    }

    pub fn text(&self) -> String {
        self.taken.lock().expect("no panic").clone()
    }

    /// Keeps it, or does not take it.
    pub fn take(&self, message: &str) -> bool {
        let takes = match self.manner {
            Manner::Down(tries) => self.tries.load(Ordering::Relaxed) > tries,
            Manner::Third => self.tries.load(Ordering::Relaxed).is_multiple_of(3),
            _ => !message.contains("rule 7."),
        };
        if takes {
            self.taken.lock().expect("no panic").push_str(message);
        }
        takes
    }

    pub fn acceptor(pki: &Pki, alpn: &'static [u8]) -> ncp_tls::SslAcceptor {
        let server = pki.leaf("arr");
        let material = Material::load(&server.cert_chain, &server.key).expect("material");
        material.acceptor(ClientAuth::Required, &[server.anchors], alpn).expect("acceptor")
    }

    pub async fn feed(&self, pki: &Pki) -> u16 {
        let acceptor = Self::acceptor(pki, b"\x02h2");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let service = AuditFeedServer::new(self.clone()).max_decoding_message_size(32 << 20);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(ncp_tls::incoming(listener, acceptor)));
        port
    }

    /// Syslog: a connection with a frame that is not taken is reset.
    pub async fn syslog(&self, pki: &Pki) -> u16 {
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
    pub async fn fhir(&self, pki: &Pki) -> u16 {
        let receiver = self.clone();
        let answer = move |body: &str| {
            receiver.tries.fetch_add(1, Ordering::Relaxed);
            match (receiver.take(body), receiver.manner) {
                (true, _) => (201, 0),
                (false, Manner::Names) => (422, 0),
                (false, Manner::Down(_)) => (503, 1),
                (false, _) => (500, 0),
            }
        };
        fhir_repository(pki, answer).await.0
    }
}

/// An AuditEvent as it was posted, and how it was answered.
#[derive(Clone, Debug)]
pub struct Posted {
    pub at: Instant,
    pub status: u16,
    pub body: String,
}

/// A FHIR repository that answers each POST with a status and, where it is not 0, Retry-After in seconds; it keeps what came.
pub async fn fhir_repository(
    pki: &Pki,
    answer: impl Fn(&str) -> (u16, u64) + Send + Sync + 'static,
) -> (u16, Arc<Mutex<Vec<Posted>>>) {
    let acceptor = StandIn::acceptor(pki, b"\x08http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let posted: Arc<Mutex<Vec<Posted>>> = Arc::default();
    let (kept, answer) = (posted.clone(), Arc::new(answer));
    let create = move |body: String| {
        let (kept, answer) = (kept.clone(), answer.clone());
        async move {
            let at = Instant::now();
            let (status, after) = answer(&body);
            kept.lock().expect("no panic").push(Posted { at, status, body });
            let after = (after > 0).then(|| [("retry-after", after.to_string())]);
            (http::StatusCode::from_u16(status).expect("a status"), after.map(axum::response::AppendHeaders), ())
        }
    };
    let routes = axum::Router::new().route("/fhir/AuditEvent", axum::routing::post(create));
    let times = ncp_tls::Times::default();
    tokio::spawn(ncp_tls::serve_routes(listener, acceptor, routes, times, std::future::pending()));
    (port, posted)
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
pub fn config(dir: &Path, pki: &Pki, engine: Engine, by: By) -> Config {
    let config = super::config(dir, pki, engine);
    match by {
        By::Feed => config,
        // The name of a gateway on the feed is nobody else's.
        By::Syslog | By::Fhir => Config { writers: Default::default(), senders: super::names(&["ncp-no"]), ..config },
    }
}

/// Our own repository in this process.
pub struct Ours {
    pub config: Config,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Ours {
    pub fn start(config: Config) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let for_serve = config.clone();
        let served = tokio::spawn(async move {
            server::serve(&for_serve, async { drop(stopped.await) }).await.expect("serves");
        });
        Self { config, stop, served }
    }

    /// Where records come in this way.
    pub fn port(&self, by: By) -> u16 {
        match by {
            By::Feed => self.config.feed.port(),
            By::Syslog => self.config.syslog.expect("an address").port(),
            By::Fhir => self.config.fhir.expect("an address").port(),
        }
    }

    pub async fn stop(self) {
        self.stop.send(()).expect("stops");
        self.served.await.expect("ends");
    }

    pub fn query(&self, pki: &Pki) -> tonic::transport::Channel {
        channel(pki, "auditor", self.config.query.port())
    }

    pub async fn found(&self, pki: &Pki, filter: Filter) -> Vec<String> {
        let filter = Filter { limit: 1000, reason: "test".into(), ..filter };
        let found =
            search(self.query(pki), filter).await.expect("answers").into_iter().filter_map(|found| found.record);
        found.map(|record| String::from_utf8_lossy(&record.message).into_owned()).collect()
    }

    /// What `/readyz` answers.
    pub async fn readiness(&self) -> u16 {
        let mut tcp = tokio::net::TcpStream::connect(self.config.admin).await.expect("connects");
        tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("writes");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.expect("an answer");
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }
}

pub fn channel(pki: &Pki, name: &str, port: u16) -> tonic::transport::Channel {
    let connector = pki.leaf(name).connector(b"\x02h2").expect("connector");
    ncp_tls::channel(&format!("https://127.0.0.1:{port}"), "localhost", connector).expect("channel")
}

pub fn to_syslog(pki: &Pki, port: u16) -> SyslogTarget {
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

pub fn to_fhir(pki: &Pki, port: u16, path: &str) -> FhirTarget {
    let connector = pki.leaf("ncp-no").connector(b"\x08http/1.1").expect("connector");
    FhirTarget {
        name: "arr".into(),
        base: format!("https://localhost:{port}{path}"),
        client: ncp_tls::http_client(connector, None, Duration::from_secs(10)),
        max_record_bytes: FEED_BYTES,
    }
}

#[derive(Clone, Copy, Debug)]
pub enum By {
    Feed,
    Syslog,
    Fhir,
}

impl By {
    pub const ALL: [Self; 3] = [Self::Feed, Self::Syslog, Self::Fhir];

    pub fn receiver(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Syslog => "syslog-arr",
            Self::Fhir => "fhir-arr",
        }
    }

    pub fn spawn(self, sink: &AuditSink, pki: &Pki, port: u16, base: &str) -> tokio::task::JoinHandle<()> {
        match self {
            Self::Feed => tokio::spawn(feed(sink.clone(), channel(pki, "ncp-no", port))),
            Self::Syslog => tokio::spawn(syslog(sink.clone(), to_syslog(pki, port))),
            Self::Fhir => tokio::spawn(fhir_feed(sink.clone(), to_fhir(pki, port, base))),
        }
    }

    pub async fn of(self, stand_in: &StandIn, pki: &Pki) -> u16 {
        match self {
            Self::Feed => stand_in.feed(pki).await,
            Self::Syslog => stand_in.syslog(pki).await,
            Self::Fhir => stand_in.fhir(pki).await,
        }
    }
}
