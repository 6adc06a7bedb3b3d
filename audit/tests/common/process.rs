//! Sender and repository as processes of their own, which can be killed, and what they said.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ncp_audit::server::{Config, Database, Index, Postgres, Sqlite};
use rustix::process::{Pid, Signal, kill_process};

/// What a sender said: identifiers of exchanges.
#[derive(Default)]
pub struct Said {
    /// Whose outcome was durable.
    pub accepted: BTreeSet<String>,
    /// Whose decision was durable, so that something was disclosed.
    pub disclosed: BTreeSet<String>,
    /// Intents and decisions that no disk took.
    pub refused: u64,
    /// Levels of the spool, as they came.
    pub levels: Vec<String>,
    /// Records that the receiver has not acknowledged, as last heard.
    pub waiting: u64,
    /// Everything is acknowledged.
    pub drained: bool,
}

/// Where the repository keeps its index.
#[derive(Clone, Copy)]
pub enum Kept<'a> {
    /// In a file of SQLite.
    File(&'a Path),
    /// In PostgreSQL.
    Postgres(&'a str),
}

/// How soon it went on after a fault, each time.
#[derive(Default)]
pub struct Recovery(Vec<Duration>);

impl Recovery {
    /// Waits until it goes on.
    pub fn wait(&mut self, what: &str, seconds: u64, holds: impl FnMut() -> bool) {
        let began = Instant::now();
        until(what, seconds, holds);
        self.0.push(began.elapsed());
    }

    pub fn longest(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }
}

/// What happened to it.
#[derive(Debug)]
pub struct Count {
    pub accepted: usize,
    pub disclosed: usize,
    pub recorded: usize,
    pub lost: usize,
    pub twice: usize,
    pub missing_numbers: u64,
}

/// The child test that writes exchanges until it is killed or told to stop.
pub struct Sender {
    child: Child,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Sender {
    /// Starts it, with its spool in `dir`, in a mount namespace if there is one.
    pub fn start(dir: &Path, port: u16, said: &Arc<Mutex<Said>>, within: Option<&Namespace>) -> Self {
        let program = std::env::current_exe().expect("this binary");
        let mut command = within.map_or_else(|| Command::new(&program), |namespace| namespace.command(&program));
        let mut child = command
            .args(["--exact", "child_sends_until_killed", "--nocapture"])
            .env("NCP_FAULTS_SENDER", dir)
            .env("NCP_FAULTS_PORT", port.to_string())
            .stdout(Stdio::piped())
            .stderr(appended(&dir.join("sender.log")))
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let said = said.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut said = said.lock().expect("no panic");
                match line.split_once(' ') {
                    Some(("accepted", id)) => drop(said.accepted.insert(id.to_owned())),
                    Some(("disclosed", id)) => drop(said.disclosed.insert(id.to_owned())),
                    Some(("refused", _)) => said.refused += 1,
                    Some(("level", level)) => said.levels.push(level.to_owned()),
                    Some(("waiting", records)) => said.waiting = records.parse().expect("a number"),
                    Some(("drained", _)) => said.drained = true,
                    _ => {}
                }
            }
        });
        Self { child, reader: Some(reader) }
    }

    /// Sends a signal to the process itself, which another one may have started for us.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// SIGKILL, and all that it had said is heard.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reads");
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end();
    }
}

/// `ncp-audit serve`.
pub struct Server(Child);

impl Server {
    pub fn start(config: &Path, within: Option<&Namespace>) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_ncp-audit"));
        let mut command = within.map_or_else(|| Command::new(program), |namespace| namespace.command(program));
        let log = appended(&config.with_extension("log"));
        let child = command.args(["serve", "--config"]).arg(config).stdout(Stdio::null()).stderr(log).spawn();
        Self(child.expect("starts"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.0.id(), signal);
    }

    pub fn kill(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn appended(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a log")
}

pub fn send(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("signals");
}

/// The configuration as a file.
pub fn write(config: &Config, path: &Path) -> PathBuf {
    let engine = config.postgres_url_file.as_ref().map(|file| format!("postgres_url_file = {file:?}\n"));
    let mut text = format!(
        "feed = \"{}\"\nquery = \"{}\"\nadmin = \"{}\"\ncertificate = {:?}\nkey = {:?}\nanchors = {:?}\n\
         data_dir = {:?}\nkey_file = {:?}\nsource = \"{}\"\nenterprise_site = \"{}\"\n\
         readers = [\"auditor\", \"tool\"]\nwriters = {{ ncp-no = \"ncp-no\" }}\n",
        config.feed,
        config.query,
        config.admin,
        config.certificate,
        config.key,
        config.anchors,
        config.data_dir,
        config.key_file,
        config.source,
        config.enterprise_site
    );
    text.extend(engine);
    std::fs::write(path, text).expect("writes");
    path.to_owned()
}

/// A mount namespace with small disks of its own; they live as long as this.
pub struct Namespace(Child);

impl Namespace {
    /// Mounts a tmpfs of so many KiB on each folder.
    pub fn with(disks: &[(&Path, u32)]) -> Self {
        let mounts: String = disks
            .iter()
            .map(|(dir, kib)| {
                std::fs::create_dir_all(dir).expect("a folder");
                format!("mount -t tmpfs -o size={kib}k,mode=700 tmpfs '{}' && ", dir.display())
            })
            .collect();
        let script = format!("{mounts}echo mounted && exec sleep 3600");
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there (util-linux)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
        assert_eq!(line.trim(), "mounted", "a small tmpfs needs the right to mount; run as root");
        Self(child)
    }

    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "-t", &self.0.id().to_string(), "--"]).arg(program);
        command
    }

    /// A path of the namespace as the outside reaches it.
    pub fn path(&self, inside: &Path) -> PathBuf {
        Path::new("/proc").join(self.0.id().to_string()).join("root").join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Lets a file grow to so many KiB, or by what the disk gives; whether it has them.
    pub fn grow(&self, file: &Path, kib: u64) -> bool {
        use std::io::Write;
        let mut filler = appended(&self.path(file));
        let size = || filler.metadata().expect("a size").len() >> 10;
        let missing = kib.saturating_sub(size());
        (0..missing.div_ceil(4)).all(|_| filler.write_all(&[0; 4096]).is_ok())
    }

    /// Fills a disk with a file so that `left` KiB remain.
    pub fn fill(&self, file: &Path, left: u64) {
        use std::io::Write;
        let path = self.path(file);
        let mut filler = std::fs::File::create(&path).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
        let size = filler.metadata().expect("a size").len();
        filler.set_len(size.saturating_sub(left << 10)).expect("frees");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `holds`.
pub fn until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Compares what was said with what the repository's index has, and prints it as one line.
pub fn count(fault: &str, said: &Arc<Mutex<Said>>, kept: Kept<'_>, recovery: &Recovery) -> Count {
    let said = said.lock().expect("no panic");
    // A copy: SQLite would follow the link into another mount namespace to the wrong file.
    let copy = tempfile::tempdir().expect("a folder");
    let mut database: Box<dyn Database> = match kept {
        Kept::Postgres(url) => Box::new(Postgres::open(url).expect("connects")),
        Kept::File(index) => {
            for name in ["index.sqlite", "index.sqlite-wal"] {
                let _ = std::fs::copy(index.with_file_name(name), copy.path().join(name));
            }
            Box::new(Sqlite::open(&copy.path().join("index.sqlite")).expect("opens"))
        }
    };
    let rows = database.rows("SELECT exchange, count(*) FROM record WHERE exchange <> '' GROUP BY exchange", &[]);
    let rows = rows.expect("reads");
    let recorded: BTreeSet<&str> = rows.iter().map(|row| row[0].text()).collect();
    let everything: BTreeSet<&String> = said.accepted.union(&said.disclosed).collect();
    let missing = Index::open(database).expect("opens").gaps().expect("reads");
    let count = Count {
        accepted: said.accepted.len(),
        disclosed: said.disclosed.len(),
        recorded: recorded.len(),
        lost: everything.iter().filter(|id| !recorded.contains(id.as_str())).count(),
        twice: rows.iter().filter(|row| row[1].int() > 1).count(),
        missing_numbers: missing.iter().map(|gap| gap.last_seq - gap.first_seq + 1).sum(),
    };
    let Count { accepted, disclosed, recorded, lost, twice, missing_numbers } = count;
    let recovered = match recovery.0.len() {
        0 => String::new(),
        times => format!(" recovered_ms {} at most, of {times}", recovery.longest().as_millis()),
    };
    println!(
        "\nfault {fault:?} accepted {accepted} disclosed {disclosed} recorded {recorded} lost {lost} \
         refused {} recorded_twice {twice} missing_numbers {missing_numbers}{recovered}",
        said.refused
    );
    count
}
