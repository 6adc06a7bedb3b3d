//! The memory of what was used: two processes, a damaged and a full journal, Redis that is frozen and emptied. Nothing is
//! taken twice.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ncp_ihe::PatientId;
use rustix::process::Signal;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::Error;
use crate::check::{ensure, neighbour};
use crate::demo::{Demo, FINLAND, NORWAY, program_path, send};
use crate::faults_load::{Load, PATIENT};
use crate::kill::{again, started};

/// A second gateway with the same folder is refused with the reason, and the first goes on.
pub(crate) async fn second_process(demo: &Demo) -> Result<bool, Error> {
    let load = Load::start(demo).await?;
    let config = demo.dir.join("no/gateway.toml");
    let second = Command::new(program_path("ncp-gateway")?).arg("--config").arg(config).kill_on_drop(true).output();
    let second = tokio::time::timeout(Duration::from_secs(20), second).await??;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure(!second.status.success() && said.contains("is in use by another process"), format!("it says {said}"))?;
    let soon = load.goes_on().await?;
    load.end(demo, "a second gateway on one folder", json!({ "recovered_ms": soon.as_millis() })).await
}

fn journal(demo: &Demo, end: &str) -> PathBuf {
    demo.dir.join("no/spool/replay").with_extension(end)
}

/// The gateway is killed, its journal torn and damaged, and the gateway started: what was bound is.
pub(crate) async fn torn(demo: &mut Demo) -> Result<bool, Error> {
    let load = Load::start(demo).await?;
    demo.kill("no/ncp-gateway").await?;
    let path = journal(demo, "bindings");
    let bytes = std::fs::read(&path)?;
    // An interrupted write at the beginning and one at the end.
    let torn = bytes.get(..40).ok_or("the journal is empty")?;
    std::fs::write(&path, [&[0x4e; 31][..], &bytes, torn].concat())?;
    started(demo, "ncp-gateway").await?;
    let soon = load.goes_on().await?;
    let twice = load.replayed().await?;
    let facts = json!({ "recovered_ms": soon.as_millis(), "taken_twice": twice });
    Ok(load.end(demo, "torn replay journal", facts).await? && twice == 0)
}

/// A small memory is full of nobody's bindings, which end in some seconds: everybody is told busy until then.
pub(crate) async fn full(demo: &mut Demo) -> Result<bool, Error> {
    const BINDINGS: u32 = 33_000;
    let path = demo.dir.join("no/gateway.toml");
    let config = std::fs::read_to_string(&path)?;
    demo.kill("no/ncp-gateway").await?;
    std::fs::write(&path, format!("{config}\n[replay]\nbytes = \"8MiB\"\n"))?;
    std::fs::remove_file(journal(demo, "bindings"))?;
    started(demo, "ncp-gateway").await?;
    let load = Load::start(demo).await?;
    demo.kill("no/ncp-gateway").await?;
    let over = jiff::Timestamp::now().as_second() + 10;
    let mut bytes = Vec::new();
    for number in 0..BINDINGS {
        let key = openssl::sha::sha256(&number.to_be_bytes());
        bytes.extend([&key[..], &key, &over.to_be_bytes()].concat());
    }
    let journal = journal(demo, "journal");
    std::fs::write(&journal, bytes)?;
    started(demo, "ncp-gateway").await?;
    let (began, so_far) = (Instant::now(), load.whole());
    while jiff::Timestamp::now().as_second() < over - 1 {
        ensure(load.whole() == so_far, "a full memory takes more")?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let full = began.elapsed();
    ensure(full > Duration::from_secs(1), "the start took so long that nothing was seen")?;
    while jiff::Timestamp::now().as_second() < over {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let soon = load.goes_on().await?;
    let twice = load.replayed().await?;
    let facts = json!({
        "seconds": full.as_secs(), "recovered_ms": soon.as_millis(), "taken_twice": twice,
    });
    let good = load.end(demo, "full replay memory", facts).await? && twice == 0;
    std::fs::write(&path, config)?;
    again(demo, "ncp-gateway").await?;
    Ok(good)
}

/// A Redis of its own on a socket.
struct Redis(Child, PathBuf);

impl Redis {
    async fn start(dir: &std::path::Path) -> Result<Self, Error> {
        let socket = dir.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir)
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("cannot start redis-server: {e}; install the package redis-server"))?;
        let began = Instant::now();
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            ensure(began.elapsed() < Duration::from_secs(10), "Redis does not answer")?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self(child, socket))
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        Ok(send(self.0.id().ok_or("Redis has ended")?, signal)?)
    }

    /// One command and the first line of its answer.
    async fn command(&self, words: &[&str]) -> Result<String, Error> {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut stream = BufReader::new(tokio::net::UnixStream::connect(&self.1).await?);
        stream.write_all(format!("{}\r\n", words.join(" ")).as_bytes()).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        Ok(line)
    }
}

/// Norway's gateway keeps its memory in Redis, which is frozen in two ways and emptied under load: closed while it is
/// frozen, nothing is taken twice, and served again soon after.
pub(crate) async fn redis(demo: &mut Demo, long: bool) -> Result<bool, Error> {
    let redis = Redis::start(&demo.dir).await?;
    let key = demo.dir.join("no/pki/replay.key");
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&key)?;
    file.write_all("5a".repeat(32).as_bytes())?;
    let mut config = std::fs::OpenOptions::new().append(true).open(demo.dir.join("no/gateway.toml"))?;
    let url = format!("redis+unix://{}", redis.1.display());
    write!(config, "\n[replay]\nredis = {url:?}\nkey_file = \"pki/replay.key\"\n")?;
    again(demo, "ncp-gateway").await?;
    // The memory begins with the first message; what was issued before is nobody's, and times are whole seconds.
    let patient = PatientId::parse_cx(PATIENT)?;
    let _ = neighbour(demo, &FINLAND, &NORWAY)?.documents(&patient).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let load = Load::start(demo).await?;
    let pause = Duration::from_secs(if long { 20 } else { 3 });
    let (mut soon, mut twice, mut while_frozen) = (Duration::ZERO, 0, 0);
    for round in 0..if long { 5 } else { 1 } {
        for frozen in ["SIGSTOP", "CLIENT PAUSE"] {
            if frozen == "SIGSTOP" {
                redis.signal(Signal::STOP)?;
            } else {
                redis.command(&["CLIENT", "PAUSE", &pause.as_millis().to_string()]).await?;
            }
            let began = Instant::now();
            // What was under way has its answer by now.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let so_far = load.whole();
            tokio::time::sleep((pause - Duration::from_millis(200)).saturating_sub(began.elapsed())).await;
            while_frozen += load.whole() - so_far;
            tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
            if frozen == "SIGSTOP" {
                redis.signal(Signal::CONT)?;
            }
            soon = soon.max(load.goes_on().await?);
            twice += load.replayed().await?;
        }
        let emptied = redis.command(&["FLUSHALL"]).await?;
        ensure(emptied.starts_with("+OK"), format!("round {round}: FLUSHALL: {emptied}"))?;
        soon = soon.max(load.goes_on().await?);
        twice += load.replayed().await?;
    }
    ensure(while_frozen == 0, format!("{while_frozen} answers without the memory"))?;
    let facts = json!({
        "seconds": pause.as_secs(), "recovered_ms": soon.as_millis(), "taken_twice": twice,
        "answered_while_frozen": while_frozen,
    });
    Ok(load.end(demo, "Redis frozen and emptied", facts).await? && twice == 0)
}
