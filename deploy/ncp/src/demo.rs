//! Two countries on one machine: PKI, data, configuration, processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use ncp_tests::pki::{Algorithm, CountryPki, Use};
use ncp_tests::synth::Study;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::Error;
use crate::templates::{audit_toml, gateway_toml, translation_toml};
use crate::token_endpoint::Endpoint;

/// Facts of a country of the demonstration.
pub(crate) struct Country {
    pub(crate) code: &'static str,
    pub(crate) name: &'static str,
    pub(crate) home: &'static str,
    pub(crate) language: &'static str,
    pub(crate) zone: &'static str,
    pub(crate) seal: Algorithm,
    /// Assigning authority of its patients.
    pub(crate) patients: &'static str,
}

pub(crate) const NORWAY: Country = Country {
    code: "no",
    name: "Norway",
    home: "2.999.47",
    language: "nb-NO",
    zone: "Europe/Oslo",
    seal: Algorithm::Rsa2048,
    patients: "2.16.578.1.12.4.1.4.1",
};
pub(crate) const FINLAND: Country = Country {
    code: "fi",
    name: "Finland",
    home: "2.999.246",
    language: "fi-FI",
    zone: "Europe/Helsinki",
    seal: Algorithm::P256,
    patients: "1.2.246.21",
};

/// First port of a country: peers +443, clinicians +444, admin +445, translation +446, audit feed +447, audit query +448, consumers +449, audit admin +450,
/// translation admin +451, Orthanc +452, audit FHIR +453, token issuer +454, audit syslog +455. Below 32768, where Linux takes the
/// ports of outgoing connections from.
pub(crate) fn offset(country: &str) -> u16 {
    if country == "fi" { 26000 } else { 27000 }
}

pub(crate) fn data_dir(dir: Option<PathBuf>) -> Result<PathBuf, Error> {
    if let Some(dir) = dir.or_else(|| std::env::var_os("NCP_DEMO_DIR").map(PathBuf::from)) {
        return Ok(std::path::absolute(dir)?);
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set; give --dir")?;
    Ok(PathBuf::from(home).join(".ncp-demo"))
}

/// The running demonstration; its processes are killed when it is dropped.
pub(crate) struct Demo {
    pub(crate) dir: PathBuf,
    pub(crate) no: CountryPki,
    pub(crate) fi: CountryPki,
    processes: Vec<(String, Child)>,
    issuers: JoinSet<()>,
}

/// The generated second study of the Norwegian patient.
pub(crate) fn second_study() -> Study {
    Study {
        number: 2,
        patient_id: "UV59569735".into(),
        patient_name: "DOE^John".into(),
        birth_date: "19770530".into(),
        sex: "M".into(),
        description: "Generated study".into(),
        instances: 4,
        side: 256,
    }
}

/// A large generated study of the second Norwegian patient, for the restart step: 256 MiB.
pub(crate) fn large_study() -> Study {
    Study {
        number: 3,
        patient_id: "IIG-DEPT1011".into(),
        patient_name: "Alpha^A".into(),
        birth_date: "19780201".into(),
        sex: "M".into(),
        description: "Generated large study".into(),
        instances: 128,
        side: 1024,
    }
}

/// The study that lies in Norway's second archive, a real Orthanc.
pub(crate) const ORTHANC_STUDY: &str = "nist/rig-5421";
const ORTHANC: &str = "/usr/sbin/Orthanc";
const ORTHANC_DICOMWEB: &str = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so";

impl Demo {
    /// Prepares folders, PKI, data and configuration. Nothing runs yet.
    pub(crate) fn prepare(dir: PathBuf, sources: &Path) -> Result<Self, Error> {
        if dir.exists() {
            if !dir.join("no/gateway.toml").exists() && std::fs::read_dir(&dir)?.next().is_some() {
                return Err(
                    format!("{} exists and is no demonstration folder; give another --dir", dir.display()).into()
                );
            }
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let no = CountryPki::create_apart(&dir.join("no/pki"), "NO", NORWAY.seal)?;
        let fi = CountryPki::create_apart(&dir.join("fi/pki"), "FI", FINLAND.seal)?;
        for country in [&NORWAY, &FINLAND] {
            crate::issuer::create(&dir.join(country.code).join("pki"))?;
        }
        for pki in [&no, &fi] {
            pki.leaf("consumer", Use::Client, Algorithm::P256, 0, 90)?;
            pki.leaf("xua", Use::Seal, Algorithm::P256, 0, 90)?;
        }
        let fixtures = sources.join("tests/fixtures/dicom");
        for (country, studies) in [
            (&NORWAY, vec!["study-b/Series_B_1", "study-b/Series_B_2", "nist/iig-5401"]),
            (&FINLAND, vec!["nist/rig-5429"]),
        ] {
            let own = dir.join(country.code);
            let data = own.join("data");
            copy(&sources.join("deploy/demo").join(country.code), &data)?;
            for study in studies {
                copy(&fixtures.join(study), &data.join("dicom").join(study))?;
            }
            copy(&sources.join("gateway/policies").join(country.code), &own.join("policies"))?;
            let other = if country.code == "no" { &FINLAND } else { &NORWAY };
            std::fs::write(own.join("gateway.toml"), gateway_toml(country, other))?;
            std::fs::write(own.join("audit.toml"), audit_toml(country))?;
            std::fs::write(own.join("translation.toml"), translation_toml(country))?;
            copy(&sources.join("translation/maps"), &own.join("maps"))?;
        }
        copy(&fixtures.join(ORTHANC_STUDY), &dir.join("no/orthanc-import"))?;
        second_study().write(&dir.join("no/data/dicom/generated"))?;
        large_study().write(&dir.join("no/data/dicom/large"))?;
        Ok(Self { dir, no, fi, processes: Vec::new(), issuers: JoinSet::new() })
    }

    /// Starts all processes and waits until they are ready.
    pub(crate) async fn start(&mut self) -> Result<(), Error> {
        for port in ["no", "fi"].into_iter().flat_map(|country| offset(country) + 443..=offset(country) + 455) {
            std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|error| {
                format!("the demonstration needs port {port}: {error}; `ss -ltnp` names the program that has it")
            })?;
        }
        self.start_orthanc().await?;
        for country in [&NORWAY, &FINLAND] {
            self.start_one(country.code, "ncp-audit")?;
            self.start_one(country.code, "ncp-translation")?;
        }
        for country in [&NORWAY, &FINLAND] {
            self.start_gateway(country.code)?;
            let issuer = Endpoint::load(&self.dir.join(country.code).join("pki"), country.code)?;
            self.issuers.spawn(issuer.bound().await?);
        }
        for country in [&NORWAY, &FINLAND] {
            wait_ready(offset(country.code) + 450).await?;
            wait_ready(offset(country.code) + 451).await?;
            wait_ready(offset(country.code) + 445).await?;
        }
        Ok(())
    }

    /// Norway's second archive: Orthanc from Debian with one study, spoken to by DICOMweb.
    async fn start_orthanc(&mut self) -> Result<(), Error> {
        let own = self.dir.join("no");
        let port = orthanc_port();
        let config = serde_json::json!({
            "Name": "demo",
            "StorageDirectory": own.join("orthanc"),
            "IndexDirectory": own.join("orthanc"),
            "HttpPort": port,
            "RemoteAccessAllowed": false,
            "AuthenticationEnabled": false,
            "DicomServerEnabled": false,
            "Plugins": [ORTHANC_DICOMWEB],
            "DicomWeb": { "Enable": true, "Root": "/dicom-web/" },
        });
        std::fs::create_dir_all(own.join("log"))?;
        let path = own.join("orthanc.json");
        std::fs::write(&path, config.to_string())?;
        let log = std::fs::File::create(own.join("log/orthanc.log"))?;
        let child = Command::new(ORTHANC)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("cannot start {ORTHANC}: {e}; install the packages orthanc and orthanc-dicomweb"))?;
        self.processes.push(("no/orthanc".into(), child));
        let http: Http = Client::builder(TokioExecutor::new()).build_http();
        let until = Instant::now() + Duration::from_secs(30);
        let system = format!("http://127.0.0.1:{port}/dicom-web/studies");
        while !matches!(http.get(system.parse()?).await, Ok(answer) if answer.status().is_success()) {
            if Instant::now() > until {
                return Err(format!("Orthanc does not answer on port {port}; see no/log/orthanc.log").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for entry in walkdir::WalkDir::new(own.join("orthanc-import")) {
            let entry = entry?;
            if entry.file_type().is_file() && entry.path().extension().is_some_and(|e| e == "dcm") {
                let body = Full::new(Bytes::from(std::fs::read(entry.path())?));
                let request = hyper::Request::post(format!("http://127.0.0.1:{port}/instances")).body(body)?;
                let status = http.request(request).await?.status();
                if !status.is_success() {
                    return Err(format!("Orthanc refused an instance: {status}").into());
                }
            }
        }
        Ok(())
    }

    /// Starts a country's gateway.
    pub(crate) fn start_gateway(&mut self, country: &str) -> Result<(), Error> {
        self.start_one(country, "ncp-gateway")
    }

    /// Starts one process of a country.
    pub(crate) fn start_one(&mut self, country: &str, program: &str) -> Result<(), Error> {
        match program {
            "ncp-audit" => self.spawn(country, program, &["serve", "--config"], "audit.toml"),
            "ncp-translation" => self.spawn(country, program, &["serve", "--config"], "translation.toml"),
            _ => self.spawn(country, program, &["--config"], "gateway.toml"),
        }
    }

    /// Process id of a running process.
    pub(crate) fn pid(&self, country: &str, program: &str) -> Result<u32, Error> {
        let name = format!("{country}/{program}");
        let found = self.processes.iter().find(|(n, _)| *n == name).and_then(|(_, child)| child.id());
        found.ok_or_else(|| format!("{name} does not run").into())
    }

    fn spawn(&mut self, country: &str, program: &str, arguments: &[&str], config: &str) -> Result<(), Error> {
        let own = self.dir.join(country);
        std::fs::create_dir_all(own.join("log"))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(own.join("log").join(format!("{program}.log")))?;
        let path = program_path(program)?;
        let child = Command::new(&path)
            .args(arguments)
            .arg(own.join(config))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}; build it first or set NCP_BIN_DIR", path.display()))?;
        self.processes.push((format!("{country}/{program}"), child));
        Ok(())
    }

    /// Runs a program of a country to its end.
    pub(crate) async fn once(
        &self,
        country: &str,
        program: &str,
        arguments: &[&str],
        config: &str,
    ) -> Result<(), Error> {
        let own = self.dir.join(country);
        let done = Command::new(program_path(program)?)
            .args(arguments)
            .arg(own.join(config))
            .stdin(Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&done.stderr);
        if done.status.success() { Ok(()) } else { Err(format!("{program} ended with {}: {said}", done.status).into()) }
    }

    /// Sends SIGTERM to a process.
    pub(crate) async fn terminate(&mut self, country: &str, program: &str) -> Result<(), Error> {
        self.signal(country, program, Signal::TERM)
    }

    /// Sends a signal to a process.
    pub(crate) fn signal(&self, country: &str, program: &str, signal: Signal) -> Result<(), Error> {
        Ok(send(self.pid(country, program)?, signal)?)
    }

    /// Waits for a process that was told to end.
    pub(crate) async fn ended(&mut self, name: &str) -> Result<(), Error> {
        let at = self.processes.iter().position(|(n, _)| n == name).ok_or("no such process")?;
        let (_, mut child) = self.processes.remove(at);
        let status = tokio::time::timeout(Duration::from_secs(30), child.wait()).await??;
        if status.success() { Ok(()) } else { Err(format!("{name} ended with {status}").into()) }
    }

    /// Ends both gateways, so that a benchmark's peer has the machine for itself.
    pub(crate) async fn stop_gateways(&mut self) -> Result<(), Error> {
        for country in ["no", "fi"] {
            self.terminate(country, "ncp-gateway").await?;
            self.ended(&format!("{country}/ncp-gateway")).await?;
        }
        Ok(())
    }

    /// Kills a process with SIGKILL.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<(), Error> {
        let at = self.processes.iter().position(|(n, _)| n == name).ok_or("no such process")?;
        let (_, mut child) = self.processes.remove(at);
        child.kill().await?;
        Ok(())
    }

    /// Stops all with SIGTERM and waits.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        for (_, child) in self.processes.iter_mut().rev() {
            let Some(id) = child.id() else { continue };
            let _ = send(id, Signal::TERM);
            let _ = tokio::time::timeout(Duration::from_secs(40), child.wait()).await;
        }
        self.issuers.shutdown().await;
        Ok(())
    }
}

/// Sends a signal; a system call, since a minimal Debian has no `kill` program.
pub(crate) fn send(id: u32, signal: Signal) -> std::io::Result<()> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, signal)?)
}

type Http = Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

/// Where Norway's Orthanc answers.
pub(crate) fn orthanc_port() -> u16 {
    offset("no") + 452
}

pub(crate) fn program_path(program: &str) -> Result<PathBuf, Error> {
    if let Some(dir) = std::env::var_os("NCP_BIN_DIR") {
        return Ok(PathBuf::from(dir).join(program));
    }
    Ok(std::env::current_exe()?.with_file_name(program))
}

/// The answer of a plain listener on loopback, head and body; `None` when nobody listens.
pub(crate) async fn plain(port: u16, path: &str) -> Result<Option<String>, Error> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut tcp) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else { return Ok(None) };
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    tcp.read_to_string(&mut text).await?;
    Ok(Some(text))
}

/// Waits until `/readyz` answers 200.
pub(crate) async fn wait_ready(port: u16) -> Result<(), Error> {
    let until = Instant::now() + Duration::from_secs(30);
    while !plain(port, "/readyz").await?.is_some_and(|text| text.starts_with("HTTP/1.1 200")) {
        if Instant::now() > until {
            return Err(
                format!("no process is ready on port {port}; see the logs under the demonstration's folder").into()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.map_err(|e| format!("{e}; run from the project's folder or give --sources"))?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target)?;
        } else {
            std::fs::write(&target, std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// Runs until Ctrl-C.
pub(crate) async fn run(dir: Option<PathBuf>, sources: &Path) -> Result<(), Error> {
    let mut demo = Demo::prepare(data_dir(dir)?, sources)?;
    demo.start().await?;
    let dir = demo.dir.display();
    println!(
        "Norway   clinicians https://localhost:27444  peers https://localhost:27443  health http://127.0.0.1:27445/readyz"
    );
    println!(
        "Finland  clinicians https://localhost:26444  peers https://localhost:26443  health http://127.0.0.1:26445/readyz"
    );
    println!("Folder   {dir}");
    println!("Try, in another terminal, with `ncp` from target/release:");
    println!("  curl --cacert {dir}/fi/pki/anchors.pem https://localhost:26444/fhir/metadata");
    println!("  ncp find --dir {dir} --patient '30857710106^^^&2.16.578.1.12.4.1.4.1&ISO'");
    println!(
        "  ncp fetch --dir {dir} --patient '30857710106^^^&2.16.578.1.12.4.1.4.1&ISO' --confirm-treatment --out images"
    );
    println!("  ncp audit list --dir {dir} --country no --reason 'a first look'");
    println!("Ctrl-C stops both countries.");
    // A script that started the demonstration ends it by SIGTERM: in the background there is no Ctrl-C.
    let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! { pressed = tokio::signal::ctrl_c() => pressed?, _ = told.recv() => {} }
    demo.stop().await
}
