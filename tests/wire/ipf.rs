//! IPF (oehf/ipf) as client and as server opposite our gateway; `tests/run.sh --interop` builds `tests/interop/ipf` and
//! names its classes in `NCP_IPF_CLASSPATH`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::{Oid, PatientId, PatientQuery};
use ncp_saml::SignedAssertion;
use ncp_tests::asking::{AUDIENCE, Asking, PATIENTS};
use ncp_tests::consumer::{self, Consumer};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::{Algorithm, CountryPki, Error};
use ncp_tests::synth::Study;
use ncp_xml::Element;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::node::{Node, Setup, asking_peer, sources};

const HOME: &str = "2.999.47";
const ASKING: &str = "2.999.246";
const PATIENT: &str = "IPF1^^^&2.999.47.9&ISO";
const REPOSITORY: &str = "2.999.47.21.1";
const REPORT: &str = "2.999.47.72.1";

fn classpath() -> Option<String> {
    let given = std::env::var("NCP_IPF_CLASSPATH").ok();
    if given.is_none() {
        println!("skipped: needs NCP_IPF_CLASSPATH (tests/run.sh --interop sets it)");
    }
    given
}

struct World {
    dir: tempfile::TempDir,
    own: CountryPki,
    asking: CountryPki,
    study: Study,
}

impl World {
    fn new() -> Result<Self, Error> {
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
        let peers = asking_peer(&self.asking, ASKING, security_errors);
        Node::start(&Setup { dir: &dir, pki: &self.own, home: HOME, national, peers, more: String::new() }).await
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
fn security(path: &Path, assertions: &[&SignedAssertion]) -> Result<PathBuf, Error> {
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

fn lines(text: &str) -> Vec<(String, bool, String)> {
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

fn assert_legs(legs: &[(String, bool, String)], expected: &[&str]) {
    let failed: Vec<_> = legs.iter().filter(|(_, ok, _)| !ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let ran: BTreeSet<&str> = legs.iter().map(|(leg, _, _)| leg.as_str()).collect();
    let missing: Vec<_> = expected.iter().filter(|leg| !ran.contains(*leg)).collect();
    assert!(missing.is_empty(), "legs that did not run: {missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipf_asks_our_responding_gateways() {
    let Some(classpath) = classpath() else { return };
    let world = World::new().expect("PKI");
    let node = world.gateway("body", "body").await.expect("a gateway");
    let strict = world.gateway("fault", "fault").await.expect("a gateway");
    let settings = settings(&world, &node, &strict).await.expect("settings");
    let legs = run(&classpath, "client", &settings).await.expect("IPF runs");
    assert_legs(
        &legs,
        &[
            "ITI-55",
            "ITI-38 FindDocuments",
            "ITI-38 GetDocuments",
            "ITI-38 without home",
            "ITI-39",
            "ITI-39 partial",
            "RAD-75",
            "RAD-75 partial",
            "fault",
        ],
    );
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

fn java(classpath: &str, mode: &str, settings: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classpath, "interop.Main", mode])
        .arg(settings)
        .kill_on_drop(true);
    command
}

/// ITI-18, ITI-43 and RAD-69 by IPF into our gateway, ITI-38, ITI-39 and RAD-75 out of it to IPF.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipf_asks_our_initiating_gateways_which_ask_ipf() {
    let Some(classpath) = classpath() else { return };
    let world = World::new().expect("PKI");
    let dir = world.dir.path().join("asking");
    std::fs::create_dir_all(&dir).expect("a folder");
    let asking = Asking::create(&dir).expect("a PKI");
    let finland = asking.other("FI").expect("a PKI");
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a port").port();
    let images = world.dir.path().join("images");
    world.study.write(&images).expect("a study");

    let server = server_settings(&world, &asking, &finland, port, &images).expect("settings");
    let counterpart = Counterpart::start(&classpath, &server).await.expect("IPF starts");
    let path = asking.write([0; 3], "", &sources().join("gateway/policies/no"), &[]).expect("written");
    let peer = format!(
        r#"
[[peer]]
country = "FI"
name = "Finland"
home_community_id = "urn:oid:{ASKING}"
xcpd = "https://localhost:{port}/services/iti55"
xca = "https://localhost:{port}/xca"
xcai = "https://localhost:{port}/services/rad75"
patient_roots = ["{PATIENTS}"]
tls_anchors = "{anchors}"
seal_anchors = "{anchors}"
"#,
        anchors = finland.path("anchors.pem").display()
    );
    let text = std::fs::read_to_string(&path).expect("read") + &peer;
    std::fs::write(&path, text).expect("written");
    let config = ncp_gateway::config::load(&path).expect("a configuration");
    let app = ncp_gateway::app::build(config).await.expect("builds");
    let bound = ncp_gateway::app::bind(app).await.expect("binds");
    let consumers = bound.consumers_address().expect("an address").port();
    let serving = tokio::spawn(bound.serve());

    let client = consumer_settings(&world, &asking, consumers, &images).await.expect("settings");
    let legs = run(&classpath, "client", &client).await.expect("IPF runs");
    serving.abort();
    let judged = counterpart.legs().await;
    assert_legs(
        &legs,
        &[
            "ITI-18 FindDocuments",
            "ITI-18 GetDocuments",
            "ITI-18 without home",
            "ITI-43",
            "ITI-43 partial",
            "RAD-69",
            "RAD-69 partial",
        ],
    );
    assert_legs(&judged, &["iti38", "iti39", "rad75"]);
}

fn server_settings(
    world: &World,
    asking: &Asking,
    finland: &CountryPki,
    port: u16,
    images: &Path,
) -> Result<PathBuf, Error> {
    let dir = world.dir.path();
    std::fs::write(dir.join("report.txt"), "report")?;
    let mut text = String::new();
    for (key, value) in [
        ("port", port.to_string()),
        ("tls.certificate", finland.path("tls-server.pem").display().to_string()),
        ("tls.key", finland.path("tls-server.key").display().to_string()),
        ("tls.anchors", asking.pki.path("anchors.pem").display().to_string()),
        ("home", format!("urn:oid:{ASKING}")),
        ("repository", format!("{ASKING}.21.1")),
        ("patient.id", "IPF1".into()),
        ("patient.authority", PATIENTS.into()),
        ("documents", "report".into()),
        ("document.report.file", dir.join("report.txt").display().to_string()),
        ("document.report.uuid", "urn:uuid:5f1ae6f0-3c1c-4a4e-9c1e-1d0c6a3b0001".into()),
        ("document.report.unique_id", REPORT.into()),
        ("document.report.media_type", "text/plain".into()),
        ("document.report.format", "1.2.840.10008.5.1.4.1.1.104.1".into()),
    ] {
        let _ = writeln!(text, "{key}={value}");
    }
    for slice in 1..=world.study.instances {
        let file = images.join(format!("{slice:06}.dcm"));
        let _ = writeln!(text, "image.{}={}", world.study.instance(slice), file.display());
    }
    let path = dir.join("server.properties");
    std::fs::write(&path, text)?;
    Ok(path)
}

async fn consumer_settings(world: &World, asking: &Asking, port: u16, images: &Path) -> Result<PathBuf, Error> {
    let dir = world.dir.path();
    let anchors = asking.pki.path("anchors.pem");
    let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, port)?;
    let claims = Neighbour::new(&asking.pki, HOME, &anchors, "localhost", port)?.claims();
    let patient = PatientId::new("IPF1", Oid::parse(PATIENTS)?)?;
    let both = consumer.assertions(&claims, &patient).await?;
    let url = |path: &str| format!("https://localhost:{port}{path}");
    let mut text = String::new();
    for (key, value) in [
        ("tls.certificate", asking.pki.path("consumer.pem").display().to_string()),
        ("tls.key", asking.pki.path("consumer.key").display().to_string()),
        ("tls.anchors", anchors.display().to_string()),
        ("security", security(&dir.join("consumer.xml"), &[&both[0], &both[1]])?.display().to_string()),
        ("iti18.url", url(consumer::REGISTRY)),
        ("iti43.url", url(consumer::REPOSITORY)),
        ("rad69.url", url(consumer::SOURCE)),
        ("home", format!("urn:oid:{ASKING}")),
        ("patient.id", "IPF1".into()),
        ("patient.authority", PATIENTS.into()),
        ("entries", "1".into()),
        ("repository", format!("{ASKING}.21.1")),
        ("location", format!("{ASKING}.21.1")),
        ("document", REPORT.into()),
        ("document.sha256", hex::encode(openssl::sha::sha256(b"report"))),
        ("study", world.study.uid()),
        ("images", listed(&world.study, images)?),
    ] {
        let _ = writeln!(text, "{key}={value}");
    }
    let path = dir.join("consumer.properties");
    std::fs::write(&path, text)?;
    Ok(path)
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

async fn settings(world: &World, node: &Node, strict: &Node) -> Result<PathBuf, Error> {
    let dir = world.dir.path();
    let neighbour = node.asked_by(&world.asking, ASKING, &world.own, None)?;
    let patient = PatientId::parse_cx(PATIENT)?;
    let both = neighbour.assertions(&patient).await?;
    let query = PatientQuery::new(Oid::parse(ASKING)?, Oid::parse(HOME)?, vec![patient], None, None, None);
    let request = dir.join("iti55-request.xml");
    std::fs::write(&request, query.to_element(Timestamp::now()).to_xml())?;
    let unsigned = {
        let (before, rest) = both[0].xml.split_once("<ds:Signature").ok_or("no signature")?;
        let (_, after) = rest.split_once("</ds:Signature>").ok_or("no signature")?;
        SignedAssertion { id: both[0].id.clone(), xml: format!("{before}{after}") }
    };
    let url = |node: &Node, path: &str| format!("https://localhost:{}{path}", node.port);
    let xca = url(node, ncp_tests::neighbour::XCA);
    let mut text = String::new();
    for (key, value) in [
        ("tls.certificate", world.asking.path("tls-client.pem").display().to_string()),
        ("tls.key", world.asking.path("tls-client.key").display().to_string()),
        ("tls.anchors", world.own.path("anchors.pem").display().to_string()),
        ("security", security(&dir.join("security.xml"), &[&both[0], &both[1]])?.display().to_string()),
        ("iti55.security", security(&dir.join("hcp.xml"), &[&both[0]])?.display().to_string()),
        ("iti55.url", url(node, ncp_tests::neighbour::XCPD)),
        ("iti55.request", request.display().to_string()),
        ("iti38.url", xca.clone()),
        ("iti39.url", xca),
        ("rad75.url", url(node, ncp_tests::neighbour::XCAI)),
        ("fault.url", url(strict, ncp_tests::neighbour::XCA)),
        ("fault.security", security(&dir.join("unsigned.xml"), &[&unsigned, &both[1]])?.display().to_string()),
        ("home", format!("urn:oid:{HOME}")),
        ("patient.id", "IPF1".into()),
        ("patient.authority", "2.999.47.9".into()),
        ("entries", "2".into()),
        ("repository", REPOSITORY.into()),
        ("location", REPOSITORY.into()),
        ("document", REPORT.into()),
        ("document.sha256", hex::encode(openssl::sha::sha256(b"report"))),
        ("study", world.study.uid()),
        ("images", listed(&world.study, &node.dir.join("data/dicom"))?),
    ] {
        let _ = writeln!(text, "{key}={value}");
    }
    let path = dir.join("client.properties");
    std::fs::write(&path, text)?;
    Ok(path)
}
