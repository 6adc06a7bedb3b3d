//! What three programs that others wrote say of the signatures (xmlsec1, signxml, pybergshamra): they take what we issue,
//! and of what we refuse for its signature they take nothing but what `kinder.toml` names. Where we refuse for another
//! reason (trust, time, content) they have no say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ncp_ihe::{PatientId, actions};
use ncp_saml::{Code, NextOfKin, NextOfKinClaims, SealKey, SignedAssertion, Signer, Verifier, XuaClaims, xua_template};
use ncp_soap::{Envelope, ns};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_xml::Element;

use crate::world::{self, Gateway, World};
use crate::{report_folder, trust};

/// Refusals for which a signature is the reason.
const OF_SIGNATURES: [&str; 3] = ["structure:", "algorithm:", "signature:"];

/// By judge: rows that it takes and we refuse, with our reason; rows that it refuses and we take, with theirs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    kinder: BTreeMap<String, String>,
    stricter: BTreeSet<String>,
}

type ByJudge = BTreeMap<String, Differences>;

fn expected() -> ByJudge {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("abuse/kinder.toml");
    let text = std::fs::read_to_string(&file).expect("reads");
    let table: BTreeMap<String, toml::Table> = toml::from_str(&text).expect("a table");
    let of = |(judge, rows): (String, toml::Table)| {
        let text = |v: &toml::Value| v.as_str().expect("text").to_owned();
        let kinder = rows["kinder"].as_table().expect("a table").iter().map(|(id, v)| (id.clone(), text(v))).collect();
        let stricter = rows["stricter"].as_table().expect("a table").keys().cloned().collect();
        (judge, Differences { kinder, stricter })
    };
    table.into_iter().map(of).collect()
}

/// A judge's verdict on a file: whether it takes it, and what it says.
type Verdicts = BTreeMap<(String, String), (bool, String)>;

/// The verdicts of all judges on files.
fn ask(python: &Path, files: &[PathBuf]) -> (String, Verdicts) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("abuse/judges.py");
    let out = Command::new(python).arg(script).args(files).output().expect("python");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let (programs, verdicts) = said.split_once('\n').expect("names of the programs");
    let line = |line: &str| {
        let mut parts = line.split('\t');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (file, judge, verdict, why) = (next(), next(), next(), next());
        ((file.rsplit('/').next().unwrap_or_default().to_owned(), judge), (verdict == "taken", why))
    };
    let verdicts: Verdicts = verdicts.lines().map(line).collect();
    assert_eq!(verdicts.len(), files.len() * 3, "three judges");
    (programs.to_owned(), verdicts)
}

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("NCP_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: needs NCP_PYTHON with signxml and pybergshamra (tests/run.sh sets it)");
    }
    python
}

#[tokio::test]
async fn three_programs_judge_every_row() {
    let Some(python) = python() else { return };
    let world = World::new();
    let gateway = world.start("judges", |text| text).await;
    let verifier = Verifier::start(1).expect("starts");
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ours, mut files) = (BTreeMap::new(), Vec::new());
    for row in world.attacker(&gateway).rows().await.expect("rows") {
        for (number, message) in row.messages.iter().enumerate() {
            let name = format!("{}.{number}.xml", row.id.replace(' ', "-"));
            let file = dir.path().join(&name);
            std::fs::write(&file, &message.bytes).expect("writes");
            files.push(file);
            // A third country's TLS makes no difference to who signed.
            let got = verifier.verify(message.bytes.clone().into(), trust(&world, "fi"), Timestamp::now()).await;
            ours.insert(name, (row.id.replace(' ', "-"), got.map(|_| ()).map_err(|error| error.to_string())));
        }
    }
    gateway.stop().await;
    let (programs, verdicts) = ask(&python, &files);
    let mut found = ByJudge::new();
    let (mut both, mut neither, mut report) = (0, 0, String::new());
    for ((file, judge), (taken, why)) in &verdicts {
        let (id, verdict) = &ours[file];
        let differences = found.entry(judge.clone()).or_default();
        match (verdict, taken) {
            (Ok(()), true) => both += 1,
            (Ok(()), false) => {
                differences.stricter.insert(id.clone());
                report += &format!("| {id} | {judge} | taken | refused: {why} |\n");
            }
            (Err(reason), true) if OF_SIGNATURES.iter().any(|of| reason.starts_with(of)) => {
                differences.kinder.insert(id.clone(), reason.clone());
                report += &format!("| {id} | {judge} | {reason} | taken |\n");
            }
            (Err(_), true) => {}
            (Err(_), false) => neither += 1,
        }
    }
    let report = format!(
        "# Three programs on every row\n\n{programs}\n\nMessages: {}. Verdicts: taken by us and a judge {both}, refused by both {neither}. Where they differ:\n\n| row | judge | we | they |\n|---|---|---|---|\n{report}",
        ours.len()
    );
    std::fs::write(report_folder().join("abuse-judges.md"), &report).expect("writes");
    println!("{programs}: {both} taken by both, {neither} refused by both");
    for (judge, found) in &found {
        assert!(found.kinder.values().all(|reason| !reason.starts_with("signature:")), "{judge}: {found:#?}");
    }
    assert_eq!(found, expected(), "{report}");
    assert!(both > 60, "{both} taken verdicts are no check");
}

/// All that we issue, in the header in which it would go out.
async fn issued(world: &World, gateway: &Gateway, code: &str) -> Vec<(String, Vec<u8>)> {
    let patient = PatientId::parse_cx(world::PATIENT).expect("a CX");
    let neighbour = world.neighbour(code, gateway);
    let pki = world.pki(code);
    let seal = SealKey::load(&pki.path("seal.pem"), &pki.path("seal.key")).expect("a seal");
    let signer = Signer::start(seal, 1).expect("starts");
    let now = Timestamp::now();
    let mut treated = neighbour.assertions(&patient).await.expect("signs");
    let kin = NextOfKin { id: "kin-1".into(), family_name: "Å & <B>".into(), ..NextOfKin::default() };
    let (country, name_id) = (neighbour.country, neighbour.claims().name_id);
    let kin = NextOfKinClaims { country, name_id: name_id.clone(), hcp_id: treated[0].id.clone(), kin };
    let nok = signer.issue_nok("_kin", &kin, now, now + SignedDuration::from_hours(1)).await.expect("signs");
    treated.insert(0, nok);
    let text = |text: &str| text.to_owned();
    let code_of =
        |code: &str| Code { code: text(code), system: text("2.999"), system_name: text("s"), display: text("d") };
    let claims = |typed_codes| XuaClaims {
        issuer: text("urn:oid:2.999.47"),
        audience: text("urn:oid:2.999.47.5"),
        name_id: name_id.clone(),
        subject_name: text("Radiologist on duty"),
        role: code_of("221"),
        organisation: Some(text("University hospital")),
        organisation_id: None,
        home_community_id: text("urn:oid:2.999.246"),
        purpose: code_of("TREAT"),
        patient: Some(patient.to_cx()),
        authn_context_class: text("urn:oasis:names:tc:SAML:2.0:ac:classes:PreviousSession"),
        typed_codes,
    };
    let body = || Neighbour::find_documents(&patient).to_element();
    let mut out = vec![(text("treated"), neighbour.message(actions::ITI38_REQUEST, XCA, &treated, body()))];
    for (name, typed) in [("xua", false), ("xua-typed", true)] {
        let template = xua_template("_xua", &claims(typed), now, Duration::from_secs(300));
        let SignedAssertion { xml, .. } = signer.sign("_xua", template).await.expect("signs");
        let headers = vec![Element::new(ns::WSSE, "Security").raw(xml)];
        out.push((text(name), Envelope { headers, body: body() }.write()));
    }
    out
}

/// HCP, TRC, next of kin and XUA by RSA and by P-256.
#[tokio::test]
async fn three_programs_take_what_we_issue() {
    let Some(python) = python() else { return };
    let world = World::new();
    let gateway = world.start("issued", |text| text).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for code in ["fi", "se"] {
        for (name, bytes) in issued(&world, &gateway, code).await {
            let file = dir.path().join(format!("{code}-{name}.xml"));
            std::fs::write(&file, bytes).expect("writes");
            files.push(file);
        }
    }
    gateway.stop().await;
    let (programs, verdicts) = ask(&python, &files);
    let refused: Vec<_> = verdicts.iter().filter(|(_, (taken, _))| !taken).collect();
    assert!(refused.is_empty(), "{programs}: {refused:#?}");
    assert_eq!(verdicts.len(), 18);
}

/// OpenSAML's schemas, signature profile and signature check, as OpenNCP's receivers use them, in both versions of the field
/// (ON-01).
#[tokio::test]
async fn on_01_opensaml_takes_what_crosses_a_border() {
    let Some(classpaths) = std::env::var("NCP_JUDGES_CLASSPATHS").ok() else {
        println!("skipped: needs NCP_JUDGES_CLASSPATHS (tests/run.sh --interop sets it)");
        return;
    };
    let world = World::new();
    let gateway = world.start("opensaml", |text| text).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut expected = BTreeMap::new();
    for code in ["fi", "se"] {
        for (name, bytes) in issued(&world, &gateway, code).await {
            // What a registry may ask for is not valid by the schemas of SAML: the judge is no kind one.
            let verdict = match name.as_str() {
                "treated" => "taken\t3",
                "xua" => "taken\t1",
                _ => "refused\tschema:",
            };
            let mut variants = vec![(format!("{code}-{name}.xml"), bytes.clone(), verdict)];
            if name == "treated" {
                let changed = String::from_utf8(bytes).expect("text").replace("Radiologist on duty", "Somebody else");
                variants.push((format!("{code}-changed.xml"), changed.into_bytes(), "refused\tsignature:"));
            }
            for (name, bytes, verdict) in variants {
                std::fs::write(dir.path().join(&name), bytes).expect("writes");
                expected.insert(name, verdict);
            }
        }
    }
    gateway.stop().await;
    for classpath in classpaths.split(' ') {
        let mut run = Command::new("java");
        run.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classpath, "judges.OpenSaml"]);
        let out = run.args(expected.keys()).current_dir(dir.path()).output().expect("java");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let said: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once('\t')).collect();
        for (name, verdict) in &expected {
            let got = said.get(name.as_str()).copied().unwrap_or("nothing");
            assert!(got.starts_with(verdict), "{name}: {got}, expected {verdict}");
        }
    }
}
