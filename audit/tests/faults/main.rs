//! What goes wrong, counted: every exchange whose outcome was accepted, and every one that disclosed something, must be in
//! the repository in the end. `NCP_FAULTS=long` runs the long form (`tests/faults.sh`).
#![allow(clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod disks;
mod halts;
mod stores;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Pki;
use common::process::{Count, Kept, Namespace, Recovery, Said, Sender, Server, count, until, write};
use common::relay::{Relay, Way};
use ncp_audit::server::{Config, Database, Engine, Sqlite};
use ncp_audit::*;

fn long() -> bool {
    std::env::var("NCP_FAULTS").is_ok_and(|form| form == "long")
}

/// How soon it is to go on; the short form runs beside other tests, on whatever machine, and finds what takes minutes.
fn within(recovery: &Recovery, said: Duration) {
    let allowed = if long() { said } else { said * 20 };
    assert!(recovery.longest() < allowed, "went on after {:?}; {said:?} is said", recovery.longest());
}

/// Spread evenly, the same in every run.
fn spread(round: u64, most: u64) -> u64 {
    (round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % most.max(1)
}

fn limits(dir: &Path) -> SpoolLimits {
    if dir.join("shipped").exists() {
        return SpoolLimits::default();
    }
    match dir.join("small-disk").exists() {
        // The bound is that of the disk, so that what is acknowledged makes room.
        true => SpoolLimits { segment: 256 << 10, reserve: 256 << 10, most: 2 << 20, second: Some(dir.join("second")) },
        false => SpoolLimits { segment: 4 << 20, reserve: 1 << 20, ..SpoolLimits::default() },
    }
}

fn options(dir: &Path) -> SpoolOptions {
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ..Site::default() };
    SpoolOptions { limits: limits(dir), ..SpoolOptions::new(dir.join("spool"), common_key(dir), site) }
}

fn common_key(dir: &Path) -> PathBuf {
    let path = dir.join("key");
    if path.exists() { path } else { common::key_file(dir) }
}

fn intent(id: String, began: jiff::Timestamp) -> Intent {
    Intent {
        exchange_id: id,
        transaction: Transaction::Iti39,
        role: Role::Responder,
        peer: PeerFacts { country: "FI".into(), address: "192.0.2.1".into(), ..PeerFacts::default() },
        own_endpoint: "https://no.example/".into(),
        own_address: "192.0.2.2".into(),
        trace: String::new(),
        began,
    }
}

fn decision() -> Decision {
    let document = DocumentObject { unique_id: "2.999.1".into(), ..DocumentObject::default() };
    Decision { purpose: "TREATMENT".into(), documents: vec![document], ..Decision::default() }
}

async fn connected(dir: &Path, port: u16) -> AuditSink {
    let sink = AuditSink::open(&options(dir)).await.expect("opens");
    let tls = ncp_tls::TlsFiles {
        cert_chain: dir.join("pki/ncp-no.pem"),
        key: dir.join("pki/ncp-no.key"),
        anchors: dir.join("pki/ca.pem"),
        crls: None,
    };
    let connector = tls.connector(b"\x02h2").expect("connector");
    let endpoint = format!("https://127.0.0.1:{port}");
    let channel = ncp_tls::channel(&endpoint, "localhost", connector).expect("channel");
    tokio::spawn(feed(sink.clone(), channel));
    sink
}

/// Child of the tests: exchanges by eight at once, each with intent, decision, disclosure, outcome; told to stop by a file,
/// it ends when everything is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_sends_until_killed() {
    let Some(dir) = std::env::var_os("NCP_FAULTS_SENDER").map(PathBuf::from) else { return };
    let port = std::env::var("NCP_FAULTS_PORT").ok().and_then(|p| p.parse().ok()).expect("a port");
    println!();
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let sink = connected(&dir, port).await;
    let (stop, steady, paced) = (dir.join("stop"), dir.join("steady"), dir.join("paced").exists());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (sink, stop, steady) = (sink.clone(), stop.clone(), steady.clone());
        tasks.spawn(async move {
            let mut n = 0u64;
            while !stop.exists() {
                n += 1;
                if paced {
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                // No faster than the repository takes them.
                while steady.exists() && sink.deliveries().iter().any(|d| d.waiting > 200) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let id = format!("e{}-{task}-{n}", sink.epoch());
                let Ok(mut exchange) = sink.intent(intent(id.clone(), jiff::Timestamp::now())).await else {
                    println!("refused {id}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                if exchange.decided(decision()).await.is_err() {
                    println!("refused {id}");
                    continue;
                }
                println!("disclosed {id}");
                let documents = decision().documents;
                let outcome = Outcome { documents, ..Outcome::new(OutcomeIndicator::Success, "") };
                if exchange.finish(outcome).await.is_ok() {
                    println!("accepted {id}");
                }
            }
        });
    }
    let (mut level, mut waiting) = (SpoolLevel::Free, 0);
    loop {
        let now = sink.deliveries().iter().map(|delivery| delivery.waiting).sum();
        if now != waiting {
            waiting = now;
            println!("waiting {waiting}");
        }
        if sink.status().level != level {
            level = sink.status().level;
            println!("level {level:?}");
        }
        let idle = stop.exists() && tasks.try_join_next().is_none() && tasks.is_empty();
        // What the disk did not take is in memory: the next record takes it along.
        if idle && sink.event(&Event::Heartbeat, "").await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while sink.deliveries().iter().any(|d| d.waiting > 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("drained {}", sink.epoch());
    std::future::pending::<()>().await;
}

/// A PKI, a repository's configuration, a sender's folder.
struct World {
    dir: tempfile::TempDir,
    config: Config,
    file: PathBuf,
    said: Arc<Mutex<Said>>,
}

impl World {
    fn new() -> Self {
        Self::with(Engine::Files)
    }

    fn with(engine: Engine) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::create(&dir.path().join("pki"));
        pki.leaf("ncp-no");
        pki.leaf("tool");
        let postgres_url_file = match &engine {
            Engine::Postgres(url) => Some(common::secret(&dir.path().join("postgres"), url)),
            _ => None,
        };
        let config = common::config(dir.path(), &pki, engine);
        let config = Config { syslog: None, fhir: None, postgres_url_file, ..config };
        let file = write(&config, &dir.path().join("audit.toml"));
        Self { dir, config, file, said: Arc::default() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn sender(&self, port: u16, within: Option<&Namespace>) -> Sender {
        Sender::start(self.path(), port, &self.said, within)
    }

    fn server(&self) -> Server {
        Server::start(&self.file, None)
    }

    fn accepted(&self) -> usize {
        self.said.lock().expect("no panic").accepted.len()
    }

    /// Waits until so many more exchanges were accepted.
    fn more(&self, exchanges: usize) {
        let wanted = self.accepted() + exchanges;
        until("exchanges are accepted", 60, || self.accepted() >= wanted);
    }

    /// Waits until the receiver has acknowledged something more.
    fn acknowledged(&self) -> impl FnMut() -> bool {
        let cursor = self.path().join("spool/delivered-feed");
        // Epoch and number of the last record that was acknowledged, in digits of one length.
        let acknowledged = move || std::fs::read_to_string(&cursor).unwrap_or_default();
        let before = acknowledged();
        move || acknowledged() > before
    }

    /// Waits until the sender could disclose something more.
    fn goes_on(&self) -> impl FnMut() -> bool {
        let before = self.accepted();
        move || self.accepted() > before
    }

    /// Lets the sender finish and compares.
    fn finish(&self, fault: &str, sender: Sender, server: Server, kept: Kept<'_>, recovery: &Recovery) -> Count {
        std::fs::write(self.path().join("stop"), "").expect("writes");
        until("everything is acknowledged", 240, || self.said.lock().expect("no panic").drained);
        sender.kill();
        server.kill();
        let count = count(fault, &self.said, kept, recovery);
        assert_eq!((count.lost, count.twice, count.missing_numbers), (0, 0, 0), "{fault}: {count:?}");
        assert!(count.accepted > 100, "{fault}: the sender wrote something");
        count
    }

    fn index(&self) -> PathBuf {
        self.config.data_dir.join("index.sqlite")
    }
}

/// SIGKILL of sender and repository at all sorts of points, under load.
#[test]
fn killed_under_load() {
    let world = World::new();
    let port = world.config.feed.port();
    let (mut server, mut sender) = (world.server(), world.sender(port, None));
    world.more(20);
    for round in 0..if long() { 100 } else { 10 } {
        std::thread::sleep(Duration::from_millis(20 + spread(round, 200)));
        sender.kill();
        sender = world.sender(port, None);
        world.more(1);
        std::thread::sleep(Duration::from_millis(spread(round + 1000, 200)));
        server.kill();
        server = world.server();
    }
    let index = world.index();
    world.finish("sender and repository killed under load", sender, server, Kept::File(&index), &Recovery::default());
}

/// The way between them is cut inside frames, stalls and is slow.
#[test]
fn cut_stalled_and_slow() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let relay = runtime.block_on(Relay::before(world.config.feed));
    let (server, sender) = (world.server(), world.sender(relay.port, None));
    world.more(20);
    let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
    for round in 0..if long() { 60 } else { 5 } {
        relay.set(Way::CutAfter(5_000 + spread(round, 60_000)));
        pause(400);
        relay.set(Way::Stalls);
        // A way that stands still holds up nobody who discloses.
        world.more(50);
        pause(200);
        relay.set(Way::Slow(64 << 10));
        world.more(50);
        pause(200);
        relay.set(Way::Passes);
        pause(200);
    }
    assert!(relay.cuts.load(std::sync::atomic::Ordering::Relaxed) > 0, "nothing was cut");
    let index = world.index();
    let kept = Kept::File(&index);
    world.finish("connection cut inside frames, stalled, slow", sender, server, kept, &Recovery::default());
}

/// The repository is away for hours: records queue, then all come in their order.
#[test]
fn queued_through_an_outage() {
    let world = World::new();
    let wanted: usize = if long() { 576_000 } else { 20_000 };
    let port = world.config.feed.port();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (server, took, fed) = runtime.block_on(async {
        let sink = connected(world.path(), port).await;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..64 {
            let (sink, said) = (sink.clone(), world.said.clone());
            tasks.spawn(async move {
                for n in (task..wanted).step_by(64) {
                    let id = format!("q{n}");
                    let event = Event::SecurityAlert { rule: String::new(), peer: PeerFacts::default() };
                    sink.event(&event, &id).await.expect("stored");
                    said.lock().expect("no panic").accepted.insert(id);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("writes");
        }
        let delivery = sink.deliveries().pop().expect("the feed");
        assert_eq!(delivery.waiting as usize, wanted, "{delivery:?}");
        assert!(delivery.oldest.is_some());
        let (server, began) = (world.server(), Instant::now());
        while sink.deliveries().iter().any(|d| d.waiting > 0) {
            assert!(began.elapsed() < Duration::from_secs(900), "{:?}", sink.deliveries());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (server, began.elapsed(), sink.epoch())
    });
    server.kill();
    let index = world.index();
    let none = Recovery::default();
    let count = count("repository away while records queue", &world.said, Kept::File(&index), &none);
    println!("{} records a second drained", (wanted as f64 / took.as_secs_f64()).round());
    assert_eq!((count.lost, count.twice, count.missing_numbers, count.accepted), (0, 0, 0, wanted));
    let mut database = Sqlite::open(&world.index()).expect("opens");
    let order = "SELECT count(*) FROM (SELECT seq, lag(seq, 1, 0) OVER (ORDER BY id) AS before FROM record
                 WHERE source = 'ncp-no' AND epoch = $1) t WHERE seq <> before + 1";
    let disordered = database.rows(order, &[(fed as i64).into()]).expect("reads");
    assert_eq!(disordered[0][0].int(), 0, "the order of the source is kept");
}

/// Clocks that are five minutes off: everything is kept, and the operator sees it.
#[test]
fn clocks_five_minutes_off() {
    for (minutes, ahead) in [(5, true), (-5, false)] {
        let world = World::new();
        let server = world.server();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let sink = connected(world.path(), world.config.feed.port()).await;
            for n in 0..50 {
                let id = format!("c{n}");
                let at = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
                let exchange = sink.intent(intent(id.clone(), at)).await.expect("stored");
                exchange.finish(Outcome::new(OutcomeIndicator::Success, "")).await.expect("stored");
                world.said.lock().expect("no panic").accepted.insert(id);
            }
            while sink.deliveries().iter().any(|d| d.waiting > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let tls = ncp_tls::TlsFiles {
                cert_chain: world.path().join("pki/tool.pem"),
                key: world.path().join("pki/tool.key"),
                anchors: world.path().join("pki/ca.pem"),
                crls: None,
            };
            let endpoint = format!("https://127.0.0.1:{}", world.config.query.port());
            let channel = ncp_tls::channel(&endpoint, "localhost", tls.connector(b"\x02h2").expect("connector"));
            let state = gaps(channel.expect("channel")).await.expect("answers");
            let source = state.sources.iter().find(|s| s.source == "ncp-no").expect("the source");
            let off = if ahead { source.ahead_us } else { source.behind_us };
            assert!((290_000_000..310_000_000).contains(&off), "{source:?}");
        });
        server.kill();
        let (fault, index, none) = (format!("clock {minutes} minutes off"), world.index(), Recovery::default());
        let count = count(&fault, &world.said, Kept::File(&index), &none);
        assert_eq!((count.lost, count.accepted, count.missing_numbers), (0, 50, 0));
    }
}
