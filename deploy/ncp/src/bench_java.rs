//! `ncp bench rad75 --java`: the same study through an IPF gateway (Camel, CXF, Tomcat) in the place of NCP-B. It passes
//! assertions and images on and does nothing else: no verification, no digest, no audit.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ncp_ihe::{HomeCommunityId, ImagingRequest, PatientId, SeriesRequest, Status, StudyRequest, actions};
use ncp_saml::SignedAssertion;
use ncp_tests::neighbour::{Neighbour, retrieve_response};
use ncp_tests::synth::Study;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Error;
use crate::bench::{BATCH, memory, processor_seconds, rate};
use crate::check::{ensure, imaging_request, manifest, neighbour};
use crate::demo::{Demo, FINLAND, NORWAY, offset};

const PATH: &str = "/services/rad75";
const PORT: u16 = 27463;
/// Batches before the clock runs: a virtual machine compiles what it has run.
const WARM: usize = 4;

/// What the relay did and took.
pub(crate) struct Figures {
    pub(crate) mb_per_second: f64,
    pub(crate) cpu_seconds_per_gb: f64,
    pub(crate) peak_rss_mib: f64,
}

/// Fetches the study through the relay, in the batches that our own gateway asks for.
///
/// # Errors
/// No classes of IPF, an answer that is not whole.
pub(crate) async fn through(demo: &Demo, dir: &Path, study: &Study) -> Result<Figures, Error> {
    let patient = PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let direct = neighbour(demo, &FINLAND, &NORWAY)?;
    let entries = direct.documents(&patient).await?.objects.entries;
    let of_study = |uid: Option<ncp_ihe::Uid>| uid.is_some_and(|uid| uid.as_str() == study.uid());
    let entry = entries.iter().find(|e| e.is_manifest() && of_study(e.study_instance_uid()));
    let entry = entry.ok_or("the study was not listed")?;
    let home = HomeCommunityId::parse(&format!("urn:oid:{}", NORWAY.home))?;
    let whole = imaging_request(&manifest(&direct, &patient, entry).await?, &home)?;
    let batches = batches(&whole);

    let log = dir.join("relay.log");
    let relay = start(demo, dir, &log).await?;
    let pid = relay.id().ok_or("IPF has ended")?;
    measure(demo, &patient, &batches, pid).await.map_err(|error| {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(20).collect();
        format!("{error}; IPF's last words:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n")).into()
    })
}

async fn measure(demo: &Demo, patient: &PatientId, batches: &[ImagingRequest], pid: u32) -> Result<Figures, Error> {
    let asked = Neighbour::new(&demo.fi, FINLAND.home, &demo.fi.path("anchors.pem"), "127.0.0.1", PORT)?;
    let assertions = asked.assertions(patient).await?;
    for batch in batches.iter().take(WARM) {
        fetch(&asked, &assertions, batch).await?;
    }
    let (mut bytes, cpu, began) = (0, processor_seconds(pid)?, Instant::now());
    for batch in batches {
        bytes += fetch(&asked, &assertions, batch).await?;
    }
    let took = began.elapsed();
    Ok(Figures {
        mb_per_second: rate(bytes, took),
        cpu_seconds_per_gb: (processor_seconds(pid)? - cpu) / (bytes as f64 / 1e9),
        peak_rss_mib: memory(pid, "VmHWM:")? as f64 / 1024.0,
    })
}

fn batches(whole: &ImagingRequest) -> Vec<ImagingRequest> {
    let mut out = Vec::new();
    for study in &whole.studies {
        for series in &study.series {
            for instances in series.instances.chunks(BATCH) {
                let series = SeriesRequest { series: series.series.clone(), instances: instances.to_vec() };
                let studies = vec![StudyRequest { study: study.study.clone(), series: vec![series] }];
                out.push(ImagingRequest { studies, transfer_syntaxes: whole.transfer_syntaxes.clone() });
            }
        }
    }
    out
}

async fn fetch(asked: &Neighbour, assertions: &[SignedAssertion], batch: &ImagingRequest) -> Result<u64, Error> {
    let mut answer = asked.call(actions::RAD75_REQUEST, PATH, assertions, batch.to_element()).await?;
    let response = retrieve_response(&answer.body)?;
    let wanted: usize = batch.studies.iter().flat_map(|study| &study.series).map(|series| series.instances.len()).sum();
    ensure(response.status == Status::Success, format!("{:?}: {:?}", response.status, answer.codes()))?;
    let (mut bytes, mut count) = (0, 0usize);
    while answer.parts.next().await?.is_some() {
        count += 1;
        while let Some(chunk) = answer.parts.chunk().await? {
            bytes += chunk.len() as u64;
        }
    }
    ensure(count == wanted, format!("{count} of {wanted} instances"))?;
    Ok(bytes)
}

/// Starts the relay; it ends with the handle.
async fn start(demo: &Demo, dir: &Path, log: &Path) -> Result<Child, Error> {
    let classes = std::env::var_os("NCP_IPF_CLASSPATH")
        .ok_or("NCP_IPF_CLASSPATH is not set; `tests/bench.sh rad75 --java` builds IPF's classes and sets it")?;
    let anchors = dir.join("relay-anchors.pem");
    let both = [&demo.fi, &demo.no].map(|pki| std::fs::read_to_string(pki.path("anchors.pem")));
    std::fs::write(&anchors, both.into_iter().collect::<Result<String, _>>()?)?;
    let settings = dir.join("relay.properties");
    let file = |name: &str| demo.fi.path(name).display().to_string();
    std::fs::write(
        &settings,
        format!(
            "port={PORT}\ntls.certificate={}\ntls.key={}\nserver.certificate={}\nserver.key={}\ntls.anchors={}\n\
             rad75.url=https://localhost:{}/xcai/retrieve\n",
            file("tls-client.pem"),
            file("tls-client.key"),
            file("tls-server.pem"),
            file("tls-server.key"),
            anchors.display(),
            offset(NORWAY.code) + 443,
        ),
    )?;
    let mut child = Command::new("java")
        .arg("-cp")
        .arg(classes)
        .args(["interop.Main", "relay"])
        .arg(&settings)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(log)?)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot start java: {e}; install openjdk-17-jdk-headless"))?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("\"ready\"") {
                return Ok(());
            }
        }
        Err(Error::from("IPF ended before it was ready"))
    };
    tokio::time::timeout(Duration::from_secs(120), ready).await.map_err(|_| "IPF does not get ready")??;
    Ok(child)
}
