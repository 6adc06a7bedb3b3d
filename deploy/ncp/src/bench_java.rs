//! The same study through a relay written with IPF (Java) in the place of NCP-B, which asks the same NCP-A.

use std::process::Stdio;
use std::time::Instant;

use ncp_ihe::{DocumentRequest, HomeCommunityId, ImagingRequest, Oid, PatientId, SeriesRequest, StudyRequest, Uid};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::synth::Study;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::Error;
use crate::bench::{BATCH, memory, processor_seconds, rate};
use crate::check::ensure;
use crate::demo::{Demo, FINLAND, NORWAY, offset};

const PORT: u16 = 47462;
const PATIENT: &str = "01827812345^^^&2.16.578.1.12.4.1.4.1&ISO";

/// One JSON line. The relay gets the batches that NCP-B asks for; it neither lists, nor checks an instance, nor writes a
/// trail.
pub(crate) async fn relay(
    demo: &Demo,
    classpath: &str,
    study: &Study,
    whole: u64,
    ours: f64,
    peak_mib: [f64; 2],
) -> Result<Value, Error> {
    let anchors = demo.dir.join("both-anchors.pem");
    let both = [demo.fi.path("anchors.pem"), demo.no.path("anchors.pem")].map(std::fs::read_to_string);
    std::fs::write(&anchors, both.into_iter().collect::<Result<String, _>>()?)?;
    let settings = demo.dir.join("relay.properties");
    let (fi, no) = (demo.fi.dir.display(), demo.no.dir.display());
    let text = format!(
        "port={PORT}\ntarget=https://localhost:{}/xcai/retrieve\ntls.anchors={}\n\
         tls.certificate={fi}/tls-client.pem\ntls.key={fi}/tls-client.key\n\
         server.certificate={no}/tls-server.pem\nserver.key={no}/tls-server.key\n",
        offset(NORWAY.code) + 443,
        anchors.display(),
    );
    std::fs::write(&settings, text)?;
    let mut java = Command::new("java");
    java.args(["-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classpath, "interop.Main", "relay"]);
    let mut java = java.arg(&settings).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let lines = java.stdout.take().ok_or("no output of the relay")?;
    ensure(BufReader::new(lines).lines().next_line().await?.is_some(), "the relay did not start")?;
    let pid = java.id().ok_or("the relay ended")?;

    let neighbour = Neighbour::new(&demo.fi, FINLAND.home, &demo.no.path("anchors.pem"), "127.0.0.1", PORT)?;
    let patient = PatientId::parse_cx(PATIENT)?;
    // The virtual machine compiles what it runs often; it gets a first round that is not timed.
    fetch(&neighbour, &patient, study, study.instances.min(256)).await?;
    let (cpu, began) = (processor_seconds(pid)?, Instant::now());
    let bytes = fetch(&neighbour, &patient, study, study.instances).await?;
    let theirs = rate(bytes, began.elapsed());
    ensure(bytes == whole, format!("{bytes} bytes by the relay, {whole} by NCP-B"))?;
    let cpu = (processor_seconds(pid)? - cpu) / (bytes as f64 / 1e9);
    Ok(json!({
        "bench": "rad75", "mib": bytes >> 20, "instances": study.instances, "way": "client, NCP-B, NCP-A, archive folder",
        "mb_per_second": ours.round(), "peer": "IPF relay in the place of NCP-B", "peer_mb_per_second": theirs.round(),
        "ratio": (ours / theirs * 100.0).round() / 100.0, "peer_cpu_seconds_per_gb": (cpu * 100.0).round() / 100.0,
        "peak_rss_mib": { "ncp_b": peak_mib[0].round(), "peer": memory(pid, "VmHWM:")? / 1024 },
    }))
}

/// Bytes of the first instances of a study, asked for in batches.
async fn fetch(neighbour: &Neighbour, patient: &PatientId, study: &Study, instances: u32) -> Result<u64, Error> {
    let slices: Vec<u32> = (1..=instances).collect();
    let mut bytes = 0;
    for batch in slices.chunks(BATCH) {
        let (response, mut answer) = neighbour.images(patient, &request(study, batch)?).await?;
        ensure(response.documents.len() == batch.len(), format!("{:?}", response.errors))?;
        while answer.parts.next().await?.is_some() {
            while let Some(chunk) = answer.parts.chunk().await? {
                bytes += chunk.len() as u64;
            }
        }
    }
    Ok(bytes)
}

fn request(study: &Study, slices: &[u32]) -> Result<ImagingRequest, Error> {
    let home = HomeCommunityId::parse(NORWAY.home)?;
    let source = Oid::parse(&format!("{}.21.1", NORWAY.home))?;
    let instance = |slice: &u32| DocumentRequest {
        home: Some(home.clone()),
        repository: source.clone(),
        document: study.instance(*slice),
    };
    let series =
        SeriesRequest { series: Uid::parse(&study.series())?, instances: slices.iter().map(instance).collect() };
    let study = StudyRequest { study: Uid::parse(&study.uid())?, series: vec![series] };
    Ok(ImagingRequest { studies: vec![study], transfer_syntaxes: vec![Uid::parse("1.2.840.10008.1.2.1")?] })
}
