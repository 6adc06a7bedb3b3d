//! The replay set against a real redis-server: shared, lost, frozen, emptied, killed under load. Never open.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_gateway::responding::replay::{Claims, HcpClaim, Memory, OnLoss, RedisOptions, ReplayError, ReplaySet, Seen};
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
        while !socket.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signals");
    }

    fn again(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Self::spawn(self.dir.path());
    }

    fn command(&self, words: &[&str]) {
        let mut command = Command::new("redis-cli");
        let done = command.arg("-s").arg(self.dir.path().join("redis.sock")).args(words).output().expect("redis-cli");
        assert!(done.status.success());
    }

    fn set(&self, node: &str, on_loss: OnLoss) -> ReplaySet {
        let options = RedisOptions {
            url: format!("redis+unix://{}", self.dir.path().join("redis.sock").display()),
            tenant: "NO".into(),
            key: [7; 32],
            timeout: Duration::from_millis(300),
            on_loss,
        };
        ReplaySet::open(&Memory::Redis(options, self.journal(node))).expect("opens")
    }

    fn journal(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("{node}.journal"))
    }
}

fn claims<'a>(peer: &'a str, id: &'a str, issued: Timestamp) -> Claims<'a> {
    let expires = issued.checked_add(SignedDuration::from_hours(1)).expect("in range");
    let hcp = HcpClaim { id, signer: "ab", subject: "u1", issued, expires };
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
        ask(&local, "FI", "_1", issued).await.expect("this process decides");
        assert_eq!(ask(&local, "SE", "_1", issued).await, Err(ReplayError::Rebound));
        if loss == Signal::STOP {
            redis.signal(Signal::CONT);
            pause().await;
            ask(&closed, "FI", "_1", issued).await.expect("after the freeze");
        }
    }
    redis.again();
    pause().await;
    assert!(ask(&closed, "SE", "_1", issued).await.is_err());
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
