//! A Responding Gateway as a process of its own, two neighbours, and what goes over the wire as bytes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ncp_ihe::{Oid, PatientAnswer, PatientId};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{Algorithm, CountryPki};
use ncp_tests::ports::free;
use ncp_tests::synth::Study;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const HOME: &str = "2.999.47";
/// Repository and Retrieve Location UID of the two sources.
pub(crate) const SOURCES: [&str; 2] = ["2.999.47.21.1", "2.999.47.21.2"];
/// The slice of study 11 that a key object note marks.
pub(crate) const MARKED: u32 = 3;
const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";
const OTHER: &str = "01827812345^^^&2.16.578.1.12.4.1.4.1&ISO";

pub(crate) struct World {
    dir: tempfile::TempDir,
    gateway: Child,
    port: u16,
    /// Takes security refusals in the body.
    pub(crate) finland: Neighbour,
    /// Takes them as faults.
    pub(crate) sweden: Neighbour,
    /// Runs OpenNCP: is offered OrCD views.
    pub(crate) denmark: Neighbour,
}

pub(crate) fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

pub(crate) fn other_patient() -> PatientId {
    PatientId::parse_cx(OTHER).expect("a CX")
}

/// Study `number` of the patient, in the source of its number.
pub(crate) fn study(number: u32) -> Study {
    Study {
        number,
        patient_id: "UV59569735".into(),
        // Another spelling than the register's: what we write names the patient as the register does (CO-15).
        patient_name: "DOE^John".into(),
        birth_date: "19770530".into(),
        sex: "M".into(),
        description: "synthetic".into(),
        instances: 3,
        side: 16,
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

const REGISTRY: &str = r#"
[[folder]]
unique_id = "2.999.47.41.1"
patient = "PATIENT"
codes = [{ code = "imaging", system = "2.999.47.50" }]
updated = "2026-01-03T10:00:00Z"
members = ["2.999.47.30.1", "2.999.47.30.2"]

[[submission_set]]
unique_id = "2.999.47.40.1"
patient = "PATIENT"
source_id = "2.999.47.42"
content_type = { code = "18748-4", system = "2.16.840.1.113883.6.1" }
submitted = "2026-01-03T10:00:00Z"
members = ["2.999.47.30.1", "2.999.47.41.1"]

# Of the blocked document alone: nobody may see it.
[[submission_set]]
unique_id = "2.999.47.40.2"
patient = "PATIENT"
source_id = "2.999.47.42"
content_type = { code = "18748-4", system = "2.16.840.1.113883.6.1" }
submitted = "2026-01-03T10:00:00Z"
title = "of the blocked document"
members = ["2.999.47.30.2"]

[[association]]
kind = "APND"
source = "2.999.47.30.1"
target = "2.999.47.30.2"
"#;

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(async |_| String::new()).await
    }

    /// With further sections of the configuration, by the country's PKI.
    pub(crate) async fn start_with(more: impl AsyncFnOnce(&CountryPki) -> String) -> Self {
        Self::start_limited("handshake = \"2s\"\nidle = \"2s\"\nrequest = \"4s\"", more).await
    }

    /// The same with these limits.
    pub(crate) async fn start_limited(limits: &str, more: impl AsyncFnOnce(&CountryPki) -> String) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let pki =
            |name: &str, country: &str, seal| CountryPki::create(&dir.path().join(name), country, seal).expect("a PKI");
        let no = pki("pki", "NO", Algorithm::P256);
        let (fi, se) = (pki("fi", "FI", Algorithm::P256), pki("se", "SE", Algorithm::P256));
        let dk = pki("dk", "DK", Algorithm::P256);
        copy(&root.join("deploy/demo/no"), &dir.path().join("data"));
        copy(&root.join("gateway/policies/no"), &dir.path().join("policies"));
        let second = dir.path().join("second");
        std::fs::create_dir_all(&second).expect("a folder");
        std::fs::copy(root.join("deploy/demo/no/manifest.toml"), second.join("manifest.toml")).expect("copies");
        std::fs::write(dir.path().join("data/registry.toml"), REGISTRY.replace("PATIENT", PATIENT)).expect("writes");
        let files = study(11).write(&dir.path().join("data/dicom/11")).expect("a study");
        crate::orcd::note(&study(11), MARKED, &files[0], &dir.path().join("data/dicom/11/note.dcm"));
        study(12).write(&second.join("dicom/12")).expect("a study");
        let [port, admin] = [free().port(), free().port()];
        let config = config(port, admin, limits) + &more(&no).await;
        std::fs::write(dir.path().join("gateway.toml"), config).expect("writes");
        let log = std::fs::File::create(dir.path().join("gateway.log")).expect("a log");
        let gateway = Command::new(env!("CARGO_BIN_EXE_ncp-gateway"))
            .arg("--config")
            .arg(dir.path().join("gateway.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("starts");
        let neighbour = |pki: &CountryPki, home| {
            Neighbour::new(pki, home, &no.path("anchors.pem"), "127.0.0.1", port).expect("a neighbour")
        };
        let (finland, sweden) = (neighbour(&fi, "2.999.246"), neighbour(&se, "2.999.752"));
        let denmark = neighbour(&dk, "2.999.208");
        let mut world = Self { dir, gateway, port, finland, sweden, denmark };
        let until = Instant::now() + Duration::from_secs(60);
        while !world.serves().await {
            let ended = world.gateway.try_wait().expect("a child").is_some();
            assert!(!ended && Instant::now() < until, "the gateway does not answer:\n{}", world.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world
    }

    /// The certificates in a folder of the world.
    pub(crate) fn pki(&self, folder: &str, country: &str) -> CountryPki {
        CountryPki::open(&self.dir.path().join(folder), country).expect("a PKI")
    }

    /// The file of a slice.
    pub(crate) fn slice(&self, folder: &str, slice: u32) -> Vec<u8> {
        std::fs::read(self.dir.path().join(folder).join(format!("{slice:06}.dcm"))).expect("a slice")
    }

    /// The log, for messages of failed tests.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("gateway.log")).unwrap_or_default()
    }

    /// The audit messages so far.
    pub(crate) fn trail(&self) -> crate::common::trail::Records {
        crate::common::trail::read(self.dir.path())
    }

    /// Bytes of the replay journal.
    pub(crate) fn remembered(&self) -> u64 {
        std::fs::metadata(self.dir.path().join("spool/replay.bindings")).expect("a journal").len()
    }

    /// Where peers are served.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether a good request is served.
    pub(crate) async fn serves(&self) -> bool {
        let found = self.finland.find(&Oid::parse(HOME).expect("an OID"), &patient()).await;
        matches!(found, Ok(PatientAnswer::Matches(_)))
    }

    fn process(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.gateway.id()))
    }

    /// Resident memory in KiB: now, or at its peak since the last [`forget_peak`](Self::forget_peak).
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(self.process().join("status")).expect("the process lives");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }

    pub(crate) fn forget_peak(&self) {
        std::fs::write(self.process().join("clear_refs"), "5").expect("the process lives");
    }

    /// Sends bytes over TLS and reads what comes until the connection ends; nothing at all is status 0.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Heard {
        let stream = self.finland.open().await.expect("a connection");
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut heard = Vec::new();
        // The gateway may refuse before it has read all; what it says is heard nevertheless.
        let send = async {
            let _ = writer.write_all(bytes).await;
            let _ = writer.flush().await;
            std::future::pending::<()>().await;
        };
        let hear = async {
            let mut buffer = [0; 16 << 10];
            while let Ok(n @ 1..) = reader.read(&mut buffer).await {
                heard.extend_from_slice(&buffer[..n]);
            }
        };
        let wait = tokio::time::sleep(Duration::from_secs(60));
        tokio::select! { () = send => {}, () = hear => {}, () = wait => {} }
        Heard::of(&heard)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

/// An answer as bytes.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Heard {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|s| s.parse().ok());
        Self { status: status.unwrap_or(0), text }
    }
}

/// A request of one message, closed afterwards.
pub(crate) fn http(path: &str, content_type: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn config(peers: u16, admin: u16, limits: &str) -> String {
    let connector = |name: &str, folder: &str, id: &str, root: u32| {
        format!(
            "[[national.connector]]\nkind = \"embedded\"\nname = \"{name}\"\nfolder = \"{folder}\"\nrepository_unique_id = \"{id}\"\nlocation_uids = [\"{id}\"]\ntime_zone = \"Europe/Oslo\"\nuid_root = \"2.999.47.{root}\"\n"
        )
    };
    let peer = |country: &str, home: &str, folder: &str, more: &str| {
        format!(
            "[[peer]]\ncountry = \"{country}\"\nname = \"{country}\"\nhome_community_id = \"urn:oid:{home}\"\ntls_anchors = \"{folder}/anchors.pem\"\nseal_anchors = \"{folder}/anchors.pem\"\n{pin}{more}",
            pin = ncp_tests::pki::peer_pin(country),
        )
    };
    format!(
        r#"[gateway]
country = "NO"
home_community_id = "urn:oid:{HOME}"
name = "Norway"
shutdown_grace = "1s"
[listener]
peers = "127.0.0.1:{peers}"
admin = "127.0.0.1:{admin}"
certificate = "pki/tls-server.pem"
key = "pki/tls-server.key"
[limits]
{limits}
[seal]
certificate = "pki/seal.pem"
key = "pki/seal.key"
[audit]
spool_dir = "spool"
spool_key_file = "pki/spool.key"
spool_segment_bytes = 4194304
spool_reserve_bytes = 4194304
source = "ncp-gateway-no"
enterprise_site = "NO"
[policy]
folder = "policies"
consent_file = "data/consent.toml"
[national]
patients_file = "data/patients.toml"
custodian = "Eksempel HF"
language = "nb-NO"
{first}{second}{fi}{se}{dk}"#,
        first = connector("archive", "data", SOURCES[0], 31),
        second = connector("second", "second", SOURCES[1], 32),
        fi = peer("FI", "2.999.246", "fi", ""),
        dk = peer("DK", "2.999.208", "dk", "kind = \"openncp\"\n"),
        se = peer("SE", "2.999.752", "se", "security_errors = \"fault\"\n"),
    )
}
