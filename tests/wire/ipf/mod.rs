//! IPF (oehf/ipf) as client and as server opposite our gateway; `tests/run.sh --interop` builds `tests/interop/ipf` and
//! names its classes in `NCP_IPF_CLASSPATH`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::{Oid, PatientAnswer, PatientId, PatientQuery, PatientRecord, PatientResponse, PersonName};
use ncp_saml::SignedAssertion;
use ncp_tests::pki::{Algorithm, CountryPki, Error};
use ncp_tests::synth::Study;
use ncp_xml::Element;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::node::{Node, Setup, asking_peer, sources};

mod client;
mod national;
mod relay;

pub(crate) const HOME: &str = "2.999.47";
pub(crate) const ASKING: &str = "2.999.246";
pub(crate) const PATIENT: &str = "IPF1^^^&2.999.47.9&ISO";
pub(crate) const REPOSITORY: &str = "2.999.47.21.1";
pub(crate) const REPORT: &str = "2.999.47.72.1";
/// Who sits inside the answers of IPF: `PATIENT` without its authority.
const LOCAL: &str = "IPF1";

pub(crate) fn classpath() -> Option<String> {
    let given = std::env::var("NCP_IPF_CLASSPATH").ok();
    if given.is_none() {
        println!("skipped: needs NCP_IPF_CLASSPATH (tests/run.sh --interop sets it)");
    }
    given
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) own: CountryPki,
    pub(crate) asking: CountryPki,
    study: Study,
}

impl World {
    pub(crate) fn new() -> Result<Self, Error> {
        let dir = tempfile::tempdir()?;
        let own = CountryPki::create(&dir.path().join("own"), "NO", Algorithm::Rsa2048)?;
        let asking = CountryPki::create(&dir.path().join("asking"), "FI", Algorithm::P256)?;
        let study = Study {
            number: 9,
            patient_id: "IPF-LOCAL".into(),
            patient_name: "Ipf^A".into(),
            birth_date: "19800101".into(),
            sex: "F".into(),
            description: "Generated study".into(),
            instances: 3,
            side: 64,
        };
        Ok(Self { dir, own, asking, study })
    }

    /// A gateway over one report and one study.
    async fn gateway(&self, name: &str, security_errors: &str) -> Result<Node, Error> {
        self.gateway_for(name, asking_peer(&self.asking, ASKING, security_errors)).await
    }

    /// The same for these peers.
    pub(crate) async fn gateway_for(&self, name: &str, peers: String) -> Result<Node, Error> {
        self.gateway_with(name, peers, String::new()).await
    }

    /// The same with further sections.
    pub(crate) async fn gateway_with(&self, name: &str, peers: String, more: String) -> Result<Node, Error> {
        let dir = self.dir.path().join(name);
        let data = dir.join("data");
        std::fs::create_dir_all(data.join("reports"))?;
        std::fs::copy(sources().join("deploy/demo/no/manifest.toml"), data.join("manifest.toml"))?;
        self.study.write(&data.join("dicom"))?;
        std::fs::write(data.join("reports/report.txt"), "report")?;
        std::fs::write(data.join("reports/report.toml"), report())?;
        std::fs::write(
            dir.join("patients.toml"),
            format!(
                "[[patient]]\nnational_id = \"{PATIENT}\"\nlocal_ids = [\"IPF-LOCAL\"]\nfamily = \"Ipf\"\ngiven = [\"A\"]\n\
                 birth_date = \"19800101\"\nsex = \"F\"\n"
            ),
        )?;
        let national = format!(
            r#"[national]
patients_file = "patients.toml"
[[national.connector]]
kind = "embedded"
name = "archive"
folder = "{}"
repository_unique_id = "{REPOSITORY}"
location_uids = ["{REPOSITORY}"]
uid_root = "2.999.47.31"
"#,
            data.display()
        );
        Node::start(&Setup { dir: &dir, pki: &self.own, home: HOME, national, peers, listener: String::new(), more })
            .await
    }
}

fn report() -> String {
    let code =
        |code: &str, system: &str| format!("{{ code = \"{code}\", system = \"{system}\", display = \"{code}\" }}");
    format!(
        r#"file = "report.txt"
media_type = "text/plain"
unique_id = "{REPORT}"
patient = "{PATIENT}"
title = "Report"
language = "nb-NO"
created = "2026-01-02T10:00:00Z"
service_start = "2026-01-02T09:00:00Z"
author = "^Nilsen^Nina^^^"
institution = "University hospital"
class = {loinc}
type = {loinc}
format = {format}
practice_setting = {practice}
facility_type = {facility}
confidentiality = [{confidentiality}]
"#,
        loinc = code("18748-4", "2.16.840.1.113883.6.1"),
        format = code("urn:ihe:iti:xds-sd:text:2008", "1.3.6.1.4.1.19376.1.2.3"),
        practice = code("394914008", "2.16.840.1.113883.6.96"),
        facility = code("22232009", "2.16.840.1.113883.6.96"),
        confidentiality = code("N", "2.16.840.1.113883.5.25"),
    )
}

/// A Security header in a file.
pub(crate) fn security(path: &Path, assertions: &[&SignedAssertion]) -> Result<PathBuf, Error> {
    let mut header = Element::new(ncp_soap::ns::WSSE, "Security");
    for assertion in assertions {
        header = header.raw(assertion.xml.clone());
    }
    std::fs::write(path, header.to_xml())?;
    Ok(path.to_owned())
}

/// Runs IPF and reads its lines: (leg, ok, facts).
async fn run(classpath: &str, mode: &str, settings: &Path) -> Result<Vec<(String, bool, String)>, Error> {
    let run = java(classpath, mode, settings).output();
    let out = tokio::time::timeout(Duration::from_secs(180), run).await.map_err(|_| "IPF did not end")??;
    let legs = lines(&String::from_utf8_lossy(&out.stdout));
    if legs.is_empty() {
        return Err(format!("IPF said nothing: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    for (leg, ok, facts) in &legs {
        println!("ipf {mode} {leg}: {} {facts}", if *ok { "ok" } else { "FAILED" });
    }
    Ok(legs)
}

pub(crate) fn lines(text: &str) -> Vec<(String, bool, String)> {
    let field = |line: &str, name: &str| {
        line.split(&format!("\"{name}\":"))
            .nth(1)
            .map(|rest| rest.trim_start_matches('"').split(['"', ',', '}']).next().unwrap_or_default().to_owned())
    };
    text.lines()
        .filter_map(|line| {
            let facts = line.split("\"facts\":\"").nth(1).and_then(|f| f.strip_suffix("\"}")).unwrap_or_default();
            Some((field(line, "leg")?, field(line, "ok")? == "true", facts.to_owned()))
        })
        .collect()
}

pub(crate) fn assert_legs(legs: &[(String, bool, String)], expected: &[&str]) {
    let failed: Vec<_> = legs.iter().filter(|(_, ok, _)| !ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let ran: BTreeSet<&str> = legs.iter().map(|(leg, _, _)| leg.as_str()).collect();
    let missing: Vec<_> = expected.iter().filter(|leg| !ran.contains(*leg)).collect();
    assert!(missing.is_empty(), "legs that did not run: {missing:?}");
}

/// IPF as another country's gateways, until it is dropped.
struct Counterpart {
    child: tokio::process::Child,
    told: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Counterpart {
    async fn start(classpath: &str, settings: &Path) -> Result<Self, Error> {
        let mut child = java(classpath, "server", settings)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        let told: std::sync::Arc<std::sync::Mutex<String>> = std::sync::Arc::default();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let into = told.clone();
        tokio::spawn(async move {
            let mut ready = Some(ready);
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("\"ready\":true")
                    && let Some(ready) = ready.take()
                {
                    let _ = ready.send(());
                }
                let mut text = into.lock().unwrap_or_else(|p| p.into_inner());
                text.push_str(&line);
                text.push('\n');
            }
        });
        tokio::time::timeout(Duration::from_secs(120), is_ready).await.map_err(|_| "IPF did not start")??;
        Ok(Self { child, told })
    }

    /// What its validators said of each request.
    async fn legs(mut self) -> Vec<(String, bool, String)> {
        drop(self.child.stdin.take());
        let _ = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        let legs = lines(&self.told.lock().unwrap_or_else(|p| p.into_inner()));
        for (leg, ok, facts) in &legs {
            println!("ipf server {leg}: {} {facts}", if *ok { "ok" } else { "FAILED" });
        }
        legs
    }
}

pub(crate) fn java(classpath: &str, mode: &str, settings: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
        // What Java leaves behind goes with the folder of the settings.
        .arg(format!("-Djava.io.tmpdir={}", settings.parent().unwrap_or(settings).display()))
        .args(["-cp", classpath, "interop.Main", mode])
        .arg(settings)
        .kill_on_drop(true);
    command
}

/// `series/instance/sha256`, as the client has it.
fn listed(study: &Study, folder: &Path) -> Result<String, Error> {
    let mut images = Vec::new();
    for slice in 1..=study.instances {
        let bytes = std::fs::read(folder.join(format!("{slice:06}.dcm")))?;
        images.push(format!(
            "{}/{}/{}",
            study.series(),
            study.instance(slice),
            hex::encode(openssl::sha::sha256(&bytes))
        ));
    }
    Ok(images.join(","))
}

/// `key=value` lines in a file.
pub(crate) fn properties(path: PathBuf, of: &[(&str, String)]) -> Result<PathBuf, Error> {
    let text = of.iter().fold(String::new(), |mut text, (key, value)| {
        let _ = writeln!(text, "{key}={value}");
        text
    });
    std::fs::write(&path, text)?;
    Ok(path)
}

/// What IPF holds as another country's gateways, or as national systems.
struct Served<'a> {
    /// Certificate, key, and the anchors of those who ask.
    tls: [PathBuf; 3],
    home: &'a str,
    repository: &'a str,
    /// Assigning authority of its patient.
    authority: &'a str,
    /// Name, media type, format code, uniqueId, bytes.
    documents: Vec<(&'a str, &'a str, &'a str, &'a str, Vec<u8>)>,
    /// The study of the world in this folder.
    images: &'a Path,
    /// PRPA_IN201306UV02 for its patient and for anybody else.
    patients: Option<[Element; 2]>,
}

impl Served<'_> {
    /// The report of all these tests.
    const REPORT: (&'static str, &'static str, &'static str) = ("report", "text/plain", "urn:ihe:iti:xds-sd:text:2008");

    /// Starts IPF; the port.
    async fn start(&self, classpath: &str, world: &World) -> Result<(Counterpart, u16), Error> {
        let port = ncp_tests::ports::free().port();
        let dir = tempfile::tempdir_in(world.dir.path())?.keep();
        let [certificate, key, anchors] = &self.tls;
        let shown = |path: &Path| path.display().to_string();
        let names: Vec<_> = self.documents.iter().map(|d| d.0).collect();
        let mut text = vec![
            ("port".to_owned(), port.to_string()),
            ("tls.certificate".into(), shown(certificate)),
            ("tls.key".into(), shown(key)),
            ("tls.anchors".into(), shown(anchors)),
            ("home".into(), format!("urn:oid:{}", self.home)),
            ("repository".into(), self.repository.into()),
            ("patient.id".into(), LOCAL.into()),
            ("patient.authority".into(), self.authority.into()),
            ("documents".into(), names.join(",")),
        ];
        for (index, (name, media_type, format, unique_id, bytes)) in self.documents.iter().enumerate() {
            let file = dir.join(name);
            std::fs::write(&file, bytes)?;
            let uuid = format!("urn:uuid:5f1ae6f0-3c1c-4a4e-9c1e-1d0c6a3b{index:04}");
            for (key, value) in [
                ("file", shown(&file)),
                ("uuid", uuid),
                ("unique_id", (*unique_id).into()),
                ("media_type", (*media_type).into()),
                ("format", (*format).into()),
            ] {
                text.push((format!("document.{name}.{key}"), value));
            }
        }
        for slice in 1..=world.study.instances {
            let file = self.images.join(format!("{slice:06}.dcm"));
            text.push((format!("image.{}", world.study.instance(slice)), shown(&file)));
        }
        for (key, element) in ["match", "nomatch"].into_iter().zip(self.patients.iter().flatten()) {
            let file = dir.join(key);
            std::fs::write(&file, element.to_xml())?;
            text.push((key.to_owned(), shown(&file)));
        }
        let pairs: Vec<_> = text.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let settings = properties(dir.join("server.properties"), &pairs)?;
        Ok((Counterpart::start(classpath, &settings).await?, port))
    }
}

/// The person of these tests under an identifier.
fn person(id: PatientId) -> PatientRecord {
    PatientRecord {
        id,
        other_ids: Vec::new(),
        name: PersonName { family: "Ipf".into(), given: vec!["A".into()] },
        birth_date: Some("19800101".into()),
        gender: Some("F".into()),
        address: None,
    }
}

/// Answers to any query: IPF puts that query into them.
fn answers(found: PatientAnswer, own: &Oid) -> Result<[Element; 2], Error> {
    let query =
        PatientQuery::new(Oid::parse(HOME)?, own.clone(), vec![PatientId::parse_cx(PATIENT)?], None, None, None);
    let element = |answer| PatientResponse::element(&query, &answer, own, Timestamp::now());
    Ok([element(found), element(PatientAnswer::NoMatch { ehdsi_reason: false })])
}
