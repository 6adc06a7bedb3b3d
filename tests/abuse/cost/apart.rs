//! A gateway in a process of its own, so that the kernel counts its processors and its memory and nothing of who attacks.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ncp_tests::usage::Watched;

use crate::world::Gateway;

/// The configuration of the process, where it is one.
const CONFIG: &str = "NCP_ABUSE_GATEWAY";

/// A gateway in a process of its own; it is killed when it is dropped.
pub(super) struct Apart {
    process: Child,
    /// Where its log and its records are.
    log: PathBuf,
    spool: PathBuf,
    /// Ports of peers, national consumers and clinicians' systems; 0 of a side that is not served.
    pub(super) peers: u16,
    pub(super) consumers: u16,
    pub(super) clinic: u16,
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Apart {
    /// Starts this very program as a gateway, with its spool in a folder beside its configuration, and waits until it says
    /// where it listens.
    pub(super) fn start(config: &Path, spool: &str) -> Self {
        let log = config.with_extension("log");
        let program = std::env::current_exe().expect("a program");
        let mut process = Command::new(program)
            .args(["--exact", "cost::apart::a_process_of_its_own", "--nocapture"])
            .env(CONFIG, config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("starts");
        let said = BufReader::new(process.stdout.take().expect("an output"));
        let ports = said.lines().map_while(Result::ok).find_map(|line| {
            let (_, ports) = line.split_once("ready ")?;
            ports.split(' ').map(|port| port.parse().ok()).collect::<Option<Vec<u16>>>()?.try_into().ok()
        });
        let [peers, consumers, clinic] = ports.expect("the gateway says where it listens");
        Self { process, log, spool: config.with_file_name(spool), peers, consumers, clinic }
    }

    /// Bytes of the log and of the records so far.
    pub(super) fn kept(&self) -> u64 {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let records = std::fs::read_dir(&self.spool).expect("a spool").flatten();
        length(&self.log) + records.map(|entry| length(&entry.path())).sum::<u64>()
    }

    pub(super) fn watched(&self) -> Watched {
        Watched(self.process.id())
    }
}

/// The other side of [`Apart::start`]; nothing where nobody started it.
#[test]
fn a_process_of_its_own() {
    let Some(config) = std::env::var_os(CONFIG).map(PathBuf::from) else { return };
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let gateway = Gateway::start(config).await;
        let port = |address: Option<std::net::SocketAddr>| address.map_or(0, |address| address.port());
        println!("ready {} {} {}", gateway.address.port(), port(gateway.consumers), port(gateway.clinic));
        std::future::pending::<()>().await;
    });
}
