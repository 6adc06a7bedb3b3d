//! IPF (oehf/ipf) as client and as server opposite our gateway; `tests/run.sh --interop` builds `tests/interop/ipf` and
//! names its classes in `NCP_IPF_CLASSPATH`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::{Oid, PatientId, PatientQuery};
use ncp_saml::SignedAssertion;
use ncp_tests::pki::{Algorithm, CountryPki, Error};
use ncp_tests::synth::Study;
use ncp_xml::Element;
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
    let run = Command::new("java")
        .args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classpath, "interop.Main", mode])
        .arg(settings)
        .kill_on_drop(true)
        .output();
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
    let mut images = Vec::new();
    for slice in 1..=world.study.instances {
        let bytes = std::fs::read(node.dir.join(format!("data/dicom/{slice:06}.dcm")))?;
        let digest = hex::encode(openssl::sha::sha256(&bytes));
        images.push(format!("{}/{}/{digest}", world.study.series(), world.study.instance(slice)));
    }
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
        ("images", images.join(",")),
    ] {
        let _ = writeln!(text, "{key}={value}");
    }
    let path = dir.join("client.properties");
    std::fs::write(&path, text)?;
    Ok(path)
}
