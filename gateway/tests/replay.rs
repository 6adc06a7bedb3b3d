//! The replay set against a real redis-server: shared, lost, frozen, emptied, killed under load. Never open.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_gateway::responding::replay::{
    Claims, HcpClaim, Memory, OnLoss, RedisOptions, ReplayError, ReplaySet, Seen, migrate,
};
use ncp_tests::ports::free;
use rustix::process::{Pid, Signal, kill_process};

struct Redis {
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Redis {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let child = Self::spawn(dir.path());
        Self { dir, child }
    }

    fn spawn(dir: &Path) -> Child {
        let socket = dir.join("redis.sock");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        // The socket is there before the server listens.
        while !Self::cli(dir, &["PING"]).status.success() {
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn cli(dir: &Path, words: &[&str]) -> Output {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(dir.join("redis.sock")).args(words).output().expect("redis-cli")
    }

    fn signal(&self, signal: Signal) {
        stop(&self.child, signal);
    }

    fn again(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Self::spawn(self.dir.path());
    }

    fn command(&self, words: &[&str]) {
        assert!(Self::cli(self.dir.path(), words).status.success());
    }

    fn set(&self, node: &str, on_loss: OnLoss) -> ReplaySet {
        open(self.dir.path(), node, RedisOptions { on_loss, ..self.options() })
    }

    fn options(&self) -> RedisOptions {
        options(format!("redis+unix://{}", self.dir.path().join("redis.sock").display()))
    }

    /// As an operator does when no gateway of 0.1 shares it any more.
    async fn migrate(&self) {
        let memory = Memory::Redis(self.options(), self.dir.path().join("migrate.journal"));
        migrate(&memory).await.expect("is migrated");
    }

    /// Which keys there are, without the epoch and the mark.
    fn keys(&self) -> Vec<String> {
        let keys = String::from_utf8(Self::cli(self.dir.path(), &["KEYS", "*"]).stdout).expect("text");
        let own = |key: &&str| !key.ends_with(":epoch") && !key.ends_with(":issuers");
        keys.lines().filter(own).map(str::to_owned).collect()
    }
}

fn options(url: String) -> RedisOptions {
    let timeout = Duration::from_secs(1);
    RedisOptions { url, tenant: "NO".into(), key: [7; 32], timeout, replicas: 0, on_loss: OnLoss::Refuse }
}

/// The set of a gateway with a journal of its own.
fn open(dir: &Path, node: &str, options: RedisOptions) -> ReplaySet {
    ReplaySet::open(&Memory::Redis(options, dir.join(format!("{node}.journal")))).expect("opens")
}

/// Several servers that know each other, by TCP.
struct Servers {
    dir: tempfile::TempDir,
    running: Vec<(u16, Child)>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        (0..self.running.len()).for_each(|index| self.kill(index));
    }
}

impl Servers {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), running: Vec::new() }
    }

    /// A master, whose port it is, and two replicas.
    fn replicated() -> (Self, String) {
        let mut servers = Self::new();
        let plain = ["--save", "", "--appendonly", "no"];
        let master = servers.add(&[], &plain).to_string();
        let replica = ["--replicaof", "127.0.0.1", &master, "--repl-diskless-sync-delay", "0"];
        for _ in 0..2 {
            servers.add(&[], &[&plain[..], &replica[..]].concat());
        }
        (servers, master)
    }

    fn add(&mut self, first: &[&str], arguments: &[&str]) -> u16 {
        let port = free().port();
        let own = self.dir.path().join(port.to_string());
        std::fs::create_dir(&own).expect("a folder");
        let child = Command::new("redis-server")
            .args(first)
            .args(["--port", &port.to_string()])
            .args(arguments)
            .current_dir(own)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.running.push((port, child));
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        port
    }

    /// How many replicas the first of them has.
    fn replicas(&self) -> usize {
        let asked = ["-p", &self.running[0].0.to_string(), "ROLE"];
        let out = Command::new("redis-cli").args(asked).output().expect("redis-cli");
        String::from_utf8_lossy(&out.stdout).matches("127.0.0.1").count()
    }

    fn freeze(&self, index: usize) {
        stop(&self.running[index].1, Signal::STOP);
    }

    fn kill(&mut self, index: usize) {
        let _ = self.running[index].1.kill();
        let _ = self.running[index].1.wait();
    }

    fn hosts(&self) -> String {
        self.running.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }
}

fn stop(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("signals");
}

/// Asks with fresh assertions until one is served.
async fn served(set: &ReplaySet) {
    let began = std::time::Instant::now();
    for number in 0.. {
        let answer = ask(set, "FI", &format!("_until-{number}"), Timestamp::now()).await;
        if answer.is_ok() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The master dies: nothing is answered until Sentinel has made another, and that one knows what was bound.
#[tokio::test]
async fn a_failover_forgets_nothing() {
    let began = std::time::Instant::now();
    let (mut servers, master) = Servers::replicated();
    let config = servers.dir.path().join("sentinel.conf");
    let monitor = format!(
        "sentinel monitor ncp 127.0.0.1 {master} 1\nsentinel down-after-milliseconds ncp 500\nsentinel failover-timeout ncp 3000\n"
    );
    std::fs::write(&config, monitor).expect("writes");
    let sentinel = servers.add(&[config.to_str().expect("a path"), "--sentinel"], &[]);
    let url = format!("redis+sentinel://127.0.0.1:{sentinel}/ncp");
    let options = RedisOptions { replicas: 1, ..options(url) };
    let [one, two, three] = ["one", "two", "three"].map(|node| open(servers.dir.path(), node, options.clone()));
    served(&one).await;
    // It asks the master who its replicas are every ten seconds, and makes a master of none that it does not know.
    let known = || {
        let asked = ["-p", &sentinel.to_string(), "sentinel", "replicas", "ncp"];
        let out = Command::new("redis-cli").args(asked).output().expect("redis-cli");
        String::from_utf8_lossy(&out.stdout).matches("master-link-status\nok\n").count()
    };
    while known() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "Sentinel knows {} replicas", known());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let issued = Timestamp::now();
    ask(&one, "FI", "_1", issued).await.expect("first use");
    assert_eq!(ask(&two, "SE", "_1", issued).await, Err(ReplayError::Rebound));
    servers.kill(0);
    assert_eq!(ask(&one, "FI", "_2", Timestamp::now()).await, Err(ReplayError::Unreachable));
    served(&two).await;
    served(&three).await;
    assert_eq!(ask(&three, "SE", "_1", issued).await, Err(ReplayError::Rebound), "known to the new master alone");
}

/// A replica that is connected may become the master: what it does not hold is not answered, though another holds it.
#[tokio::test]
async fn every_connected_replica_holds_it() {
    let began = std::time::Instant::now();
    let (mut servers, master) = Servers::replicated();
    let options = RedisOptions { replicas: 1, ..options(format!("redis://127.0.0.1:{master}")) };
    let set = open(servers.dir.path(), "one", options);
    while servers.replicas() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "{} replicas", servers.replicas());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    served(&set).await;
    servers.freeze(2);
    assert_eq!(ask(&set, "FI", "_1", Timestamp::now()).await, Err(ReplayError::Unreachable));
    servers.kill(2);
    served(&set).await;
}

/// Fewer replicas than asked for: what a failover would lose is not answered.
#[tokio::test]
async fn what_no_replica_holds_is_not_answered() {
    let mut servers = Servers::new();
    let port = servers.add(&[], &["--save", ""]);
    let options = options(format!("redis://127.0.0.1:{port}"));
    let alone = open(servers.dir.path(), "alone", options.clone());
    let cautious = open(servers.dir.path(), "cautious", RedisOptions { replicas: 1, ..options });
    served(&alone).await;
    assert_eq!(ask(&cautious, "FI", "_1", Timestamp::now()).await, Err(ReplayError::Unreachable));
}

#[tokio::test]
async fn a_cluster_is_one_memory() {
    let mut servers = Servers::new();
    for _ in 0..6 {
        let bus = free().port().to_string();
        let sync = ["--repl-diskless-sync-delay", "0"];
        servers.add(&[], &[&["--save", "", "--cluster-enabled", "yes", "--cluster-port", &bus], &sync[..]].concat());
    }
    let hosts = servers.hosts();
    let created = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(hosts.split(','))
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .output()
        .expect("redis-cli");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
    let options = RedisOptions { replicas: 1, ..options(format!("redis+cluster://{hosts}")) };
    let [one, two] = ["one", "two"].map(|node| open(servers.dir.path(), node, options.clone()));
    served(&one).await;
    let issued = Timestamp::now();
    ask(&one, "FI", "_1", issued).await.expect("first use");
    served(&two).await;
    ask(&two, "FI", "_1", issued).await.expect("its own use at another replica");
    assert_eq!(ask(&two, "SE", "_1", issued).await, Err(ReplayError::Rebound));
    (0..6).for_each(|index| servers.kill(index));
    assert_eq!(ask(&one, "FI", "_2", Timestamp::now()).await, Err(ReplayError::Unreachable));
}

fn claims<'a>(peer: &'a str, id: &'a str, issued: Timestamp) -> Claims<'a> {
    let expires = issued.checked_add(SignedDuration::from_hours(1)).expect("in range");
    // Finland's, whoever shows it.
    let hcp = HcpClaim { issuer: "FI", id, signer: "ab", subject: "u1", issued, expires, one_time: false };
    Claims { peer, hcp, trc: None, message: None }
}

async fn ask(set: &ReplaySet, peer: &str, id: &str, issued: Timestamp) -> Result<Seen, ReplayError> {
    set.admit(&claims(peer, id, issued), Timestamp::now()).await
}

/// Tells Redis that it was left alone long enough.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(700)).await;
}

#[tokio::test]
async fn replicas_share_one_memory() {
    let redis = Redis::start();
    let (one, two) = (redis.set("one", OnLoss::Refuse), redis.set("two", OnLoss::Refuse));
    let _ = ask(&one, "FI", "_0", Timestamp::now()).await;
    pause().await;
    let issued = Timestamp::now();
    ask(&one, "FI", "_1", issued).await.expect("first use");
    ask(&two, "FI", "_1", issued).await.expect("its own use at another replica");
    assert_eq!(ask(&two, "SE", "_1", issued).await, Err(ReplayError::Rebound));
    let message = Some(("urn:uuid:1", "digest"));
    let now = Timestamp::now();
    let first = Claims { message, ..claims("FI", "_1", issued) };
    assert_eq!(one.admit(&first, now).await, Ok(Seen::First));
    assert_eq!(two.admit(&first, now).await, Ok(Seen::Repeat));
    let other = Claims { message: Some(("urn:uuid:1", "another")), ..first };
    assert_eq!(two.admit(&other, now).await, Err(ReplayError::DuplicateMessageId));
}

/// SE-13: what is refused since its peer has its share is not written into the memory that all replicas share.
#[tokio::test]
async fn se_13_what_is_refused_fills_no_shared_memory() {
    let redis = Redis::start();
    let memory = Memory::Redis(redis.options(), redis.dir.path().join("small.journal"));
    // Eight bindings.
    let set = ReplaySet::within(&memory, 8 * 256).expect("opens");
    let mut taken = usize::from(ask(&set, "FI", "_0", Timestamp::now()).await.is_ok());
    pause().await;
    let issued = Timestamp::now();
    for id in ["_1", "_2", "_3", "_4", "_5", "_6", "_7", "_8"] {
        match ask(&set, "FI", id, issued).await {
            Ok(_) => taken += 1,
            Err(error) => assert_eq!(error, ReplayError::Full),
        }
    }
    assert_eq!((taken, redis.keys().len()), (4, 4));
    ask(&set, "SE", "_9", issued).await.expect("another peer finds its share");
}

/// SE-13: before `migrate` the keys are those of 0.1 byte for byte. Gateways that know of it and others, which do not yet,
/// refuse what either of them bound, and leave an id to its owner.
#[tokio::test]
async fn se_13_a_rolling_change_forgets_nothing() {
    let redis = Redis::start();
    let [one, two, three] = ["one", "two", "three"].map(|node| redis.set(node, OnLoss::Refuse));
    let _ = ask(&one, "FI", "_0", Timestamp::now()).await;
    pause().await;
    let issued = Timestamp::now();
    let admit = async |set: &ReplaySet, of: Claims<'_>| set.admit(&of, Timestamp::now()).await;
    let of = move |issuer: &'static str, id: &'static str, subject: &'static str| Claims {
        hcp: HcpClaim { issuer, subject, ..claims(issuer, id, issued).hcp },
        ..claims(issuer, id, issued)
    };
    assert_eq!(admit(&one, of("FI", "_1", "u1")).await, Ok(Seen::First));
    let by_id = [&9_u64.to_be_bytes()[..], b"assertion", &2_u64.to_be_bytes(), b"_1"].concat();
    let by_id = format!("{{ncp:NO}}:{}", hex::encode(openssl::sha::sha256(&by_id)));
    assert!(redis.keys().contains(&by_id), "what 0.1 looks up");
    assert_eq!(admit(&two, of("SE", "_1", "u9")).await, Err(ReplayError::Rebound), "as in 0.1");

    redis.migrate().await;
    // The first message of each is still under the old key; it brings the mark.
    assert_eq!(admit(&two, of("FI", "_2", "u1")).await, Ok(Seen::First));
    assert_eq!(admit(&two, of("FI", "_3", "u1")).await, Ok(Seen::First));
    let known = redis.keys();
    assert_eq!(admit(&two, of("FI", "_1", "u2")).await, Err(ReplayError::Rebound), "bound under the old key");
    assert_eq!(redis.keys().len(), known.len(), "nothing stays of what was refused");
    admit(&two, of("FI", "_1", "u1")).await.expect("its own use");
    assert_eq!(admit(&two, of("SE", "_3", "u9")).await, Ok(Seen::First), "Sweden's id is its own");
    // Three knows of no mark yet.
    assert_eq!(admit(&three, of("FI", "_3", "u2")).await, Err(ReplayError::Rebound), "bound under the new key");
    admit(&three, of("FI", "_3", "u1")).await.expect("its own use");

    pause().await;
    redis.command(&["FLUSHALL"]);
    let _ = admit(&two, of("FI", "_4", "u1")).await;
    pause().await;
    let issued = Timestamp::now();
    ask(&two, "FI", "_5", issued).await.expect("issued after the loss");
    let swedish = claims("SE", "_5", issued);
    let swedish = Claims { hcp: HcpClaim { issuer: "SE", subject: "u9", ..swedish.hcp }, ..swedish };
    assert_eq!(admit(&two, swedish).await, Ok(Seen::First), "an emptied Redis has the mark again");
}

#[tokio::test]
async fn a_value_that_somebody_wrote_fits_nothing() {
    let redis = Redis::start();
    let set = redis.set("one", OnLoss::Refuse);
    let _ = ask(&set, "FI", "_0", Timestamp::now()).await;
    let issued = Timestamp::now();
    ask(&set, "FI", "_1", issued).await.expect("first use");
    redis.command(&["EVAL", "for _,k in ipairs(redis.call('KEYS','{ncp:NO}:*')) do if not k:find('epoch') then redis.call('SET',k,'00') end end", "0"]);
    let another = redis.set("two", OnLoss::Refuse);
    assert_eq!(ask(&another, "SE", "_1", issued).await, Err(ReplayError::Rebound));
    redis.command(&["SET", "{ncp:NO}:epoch", "1.00"]);
    assert_eq!(ask(&another, "FI", "_9", Timestamp::now()).await, Err(ReplayError::Unreachable));
}

/// Emptied: what was bound before is refused by every replica, what is issued afterwards is served.
#[tokio::test]
async fn emptied_is_not_open() {
    let redis = Redis::start();
    let (one, two) = (redis.set("one", OnLoss::Refuse), redis.set("two", OnLoss::Refuse));
    let _ = ask(&one, "FI", "_0", Timestamp::now()).await;
    pause().await;
    let issued = Timestamp::now();
    ask(&one, "FI", "_1", issued).await.expect("first use");
    pause().await;
    redis.command(&["FLUSHALL"]);
    for _ in 0..2 {
        assert_eq!(ask(&two, "SE", "_1", issued).await, Err(ReplayError::Forgotten));
    }
    assert_eq!(ask(&one, "SE", "_1", issued).await, Err(ReplayError::Rebound), "its own memory remains");
    ask(&one, "FI", "_1", issued).await.expect("its own use, known to this replica");
    pause().await;
    let fresh = Timestamp::now();
    ask(&two, "FI", "_2", fresh).await.expect("issued after the loss");
}

#[tokio::test]
async fn stopped_and_frozen_answer_as_configured() {
    let mut redis = Redis::start();
    let (closed, local) = (redis.set("closed", OnLoss::Refuse), redis.set("local", OnLoss::Local));
    let _ = ask(&closed, "FI", "_0", Timestamp::now()).await;
    pause().await;
    let issued = Timestamp::now();
    ask(&local, "FI", "_1", issued).await.expect("first use");
    for loss in [Signal::STOP, Signal::KILL] {
        redis.signal(loss);
        assert_eq!(ask(&closed, "FI", "_1", issued).await, Err(ReplayError::Unreachable));
        assert!(!closed.is_there().await && local.is_there().await, "SK-09: ready as configured");
        ask(&local, "FI", "_1", issued).await.expect("this process decides");
        assert_eq!(ask(&local, "SE", "_1", issued).await, Err(ReplayError::Rebound));
        if loss == Signal::STOP {
            redis.signal(Signal::CONT);
            pause().await;
            ask(&closed, "FI", "_1", issued).await.expect("after the freeze");
            assert!(closed.is_there().await, "SK-09: ready again");
        }
    }
    redis.again();
    pause().await;
    assert!(ask(&closed, "SE", "_1", issued).await.is_err());
    pause().await;
    // The new memory begins with the first that reaches it.
    let _ = ask(&closed, "FI", "_2", Timestamp::now()).await;
    pause().await;
    ask(&closed, "FI", "_3", Timestamp::now()).await.expect("a new memory serves what is issued from now on");
}

/// Killed and started again under load: no assertion is ever taken from a second peer.
#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_no_replay_is_accepted() {
    let mut redis = Redis::start();
    let sets = [Arc::new(redis.set("one", OnLoss::Refuse)), Arc::new(redis.set("two", OnLoss::Refuse))];
    let _ = ask(&sets[0], "FI", "_0", Timestamp::now()).await;
    pause().await;
    let (going, served, stolen) = (Arc::new(AtomicBool::new(true)), Arc::default(), Arc::<AtomicUsize>::default());
    let mut load = Vec::new();
    for worker in 0..4 {
        let (sets, going, served, stolen): (_, _, Arc<AtomicUsize>, _) =
            (sets.clone(), going.clone(), Arc::clone(&served), stolen.clone());
        load.push(tokio::spawn(async move {
            let mut count = 0;
            while going.load(Ordering::Relaxed) {
                count += 1;
                let (id, issued) = (format!("_{worker}-{count}"), Timestamp::now());
                if ask(&sets[0], "FI", &id, issued).await.is_ok() {
                    served.fetch_add(1, Ordering::Relaxed);
                    for set in &sets {
                        if ask(set, "SE", &id, issued).await.is_ok() {
                            stolen.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }));
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.signal(Signal::KILL);
        tokio::time::sleep(Duration::from_millis(200)).await;
        redis.again();
        pause().await;
    }
    going.store(false, Ordering::Relaxed);
    for worker in load {
        worker.await.expect("ends");
    }
    assert!(served.load(Ordering::Relaxed) > 20, "{} served", served.load(Ordering::Relaxed));
    assert_eq!(stolen.load(Ordering::Relaxed), 0);
}
