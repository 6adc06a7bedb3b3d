//! Sender and repository as processes of their own, which can be killed, and what they said.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ncp_audit::server::{Config, Database, Index, Sqlite};

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
    /// Everything is acknowledged.
    pub drained: bool,
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
            .stderr(Stdio::null())
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
                    Some(("drained", _)) => said.drained = true,
                    _ => {}
                }
            }
        });
        Self { child, reader: Some(reader) }
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
        let log = std::fs::OpenOptions::new().create(true).append(true).open(config.with_extension("log"));
        let log = log.expect("a log");
        let child = command.args(["serve", "--config"]).arg(config).stdout(Stdio::null()).stderr(log).spawn();
        Self(child.expect("starts"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
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

/// The configuration as a file.
pub fn write(config: &Config, path: &Path) -> PathBuf {
    let text = format!(
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

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "-t", &self.0.id().to_string(), "--"]).arg(program);
        command
    }

    /// A path of the namespace as the outside reaches it.
    pub fn path(&self, inside: &Path) -> PathBuf {
        Path::new("/proc").join(self.0.id().to_string()).join("root").join(inside.strip_prefix("/").unwrap_or(inside))
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
pub fn count(fault: &str, said: &Arc<Mutex<Said>>, index: &Path) -> Count {
    let said = said.lock().expect("no panic");
    // A copy: SQLite would follow the link into another mount namespace to the wrong file.
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["index.sqlite", "index.sqlite-wal"] {
        let _ = std::fs::copy(index.with_file_name(name), copy.path().join(name));
    }
    let mut database = Sqlite::open(&copy.path().join("index.sqlite")).expect("opens");
    let rows = database.rows("SELECT exchange, count(*) FROM record WHERE exchange <> '' GROUP BY exchange", &[]);
    let rows = rows.expect("reads");
    let recorded: BTreeSet<&str> = rows.iter().map(|row| row[0].text()).collect();
    let everything: BTreeSet<&String> = said.accepted.union(&said.disclosed).collect();
    let missing = Index::open(Box::new(database)).expect("opens").gaps().expect("reads");
    let count = Count {
        accepted: said.accepted.len(),
        disclosed: said.disclosed.len(),
        recorded: recorded.len(),
        lost: everything.iter().filter(|id| !recorded.contains(id.as_str())).count(),
        twice: rows.iter().filter(|row| row[1].int() > 1).count(),
        missing_numbers: missing.iter().map(|gap| gap.last_seq - gap.first_seq + 1).sum(),
    };
    let Count { accepted, disclosed, recorded, lost, twice, missing_numbers } = count;
    println!(
        "\nfault {fault:?} accepted {accepted} disclosed {disclosed} recorded {recorded} lost {lost} \
         refused {} recorded_twice {twice} missing_numbers {missing_numbers}",
        said.refused
    );
    count
}
