//! `ncp bench`: figures against something real in the same run, one JSON line each.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use ncp_ihe::{
    DocumentRequest, HomeCommunityId, ImagingRequest, Oid, PatientId, SeriesRequest, Status, StudyRequest, Uid,
};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::synth::Study;
use serde_json::json;
use tokio::process::Command;

use crate::Error;
use crate::check::{ensure, neighbour};
use crate::demo::{Demo, FINLAND, NORWAY, offset, wait_ready};

/// Instances asked for in one RAD-75.
const BATCH: usize = 64;
const PEER_PORT: u16 = 47460;

#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// A study through the Responding Imaging Gateway, against nginx serving the same bytes over the same TLS.
    Rad75 {
        /// Sizes in MiB.
        #[arg(long, value_delimiter = ',', default_value = "10,100,1024")]
        sizes: Vec<u32>,
        /// Where deploy/demo and tests/fixtures lie.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// Time to ready and idle memory of each process.
    Start {
        /// Where deploy/demo and tests/fixtures lie.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
}

pub(crate) async fn run(bench: Bench) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    match bench {
        Bench::Start { sources } => start(dir.path(), &sources).await,
        Bench::Rad75 { sizes, sources } => {
            for mib in sizes {
                rad75(&dir.path().join(mib.to_string()), &sources, mib).await?;
            }
            Ok(())
        }
    }
}

async fn start(dir: &Path, sources: &Path) -> Result<(), Error> {
    let mut demo = Demo::prepare(dir.join("demo"), sources)?;
    for (program, port) in [("ncp-audit", 450), ("ncp-translation", 451), ("ncp-gateway", 445)] {
        let began = Instant::now();
        demo.start_one("no", program)?;
        wait_ready(offset("no") + port).await?;
        let ms = began.elapsed().as_millis();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let rss = memory(demo.pid("no", program)?, "VmRSS:")?;
        println!(
            "{}",
            json!({ "bench": "start", "process": program, "ready_ms": u64::try_from(ms)?, "idle_rss_mib": rss / 1024 })
        );
    }
    demo.stop().await
}

async fn rad75(dir: &Path, sources: &Path, mib: u32) -> Result<(), Error> {
    let mut demo = Demo::prepare(dir.join("demo"), sources)?;
    let study = Study {
        number: 9,
        patient_id: "IIG-DEPT1011".into(),
        patient_name: "Alpha^A".into(),
        birth_date: "19780201".into(),
        sex: "M".into(),
        description: "Benchmark".into(),
        instances: mib * 2,
        side: 512,
    };
    let files = study.write(&demo.dir.join("no/data/dicom/bench"))?;
    demo.start_one("no", "ncp-audit")?;
    demo.start_one("no", "ncp-gateway")?;
    wait_ready(offset("no") + 445).await?;
    let pid = demo.pid("no", "ncp-gateway")?;
    let idle = memory(pid, "VmHWM:")?;
    let reader = neighbour(&demo, &FINLAND, &NORWAY)?;
    let cpu = processor_seconds(pid)?;
    let (ours_bytes, ours) = through_gateway(&reader, &study).await?;
    let cpu = processor_seconds(pid)? - cpu;
    let peak = memory(pid, "VmHWM:")?;
    let nginx = nginx(&demo, dir, &files).await?;
    let ours_rate = rate(ours_bytes, ours);
    let line = json!({
        "bench": "rad75", "mib": mib, "instances": study.instances, "mb_per_second": ours_rate.round(),
        "peer": "nginx, one hop, same batches", "peer_mb_per_second": nginx.map(f64::round),
        "ratio": nginx.map(|peer| (ours_rate / peer * 100.0).round() / 100.0),
        "gateway_cpu_seconds_per_gb": (cpu / (ours_bytes as f64 / 1e9) * 100.0).round() / 100.0,
        "gateway_peak_rss_mib": peak / 1024, "growth_mib": (peak.saturating_sub(idle)) / 1024,
    });
    println!("{line}");
    demo.stop().await
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

async fn through_gateway(reader: &Neighbour, study: &Study) -> Result<(u64, Duration), Error> {
    let patient = PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let home = HomeCommunityId::parse(NORWAY.home)?;
    let repository = Oid::parse("2.999.47.21.1")?;
    let slices: Vec<u32> = (1..=study.instances).collect();
    let began = Instant::now();
    let mut bytes = 0;
    for batch in slices.chunks(BATCH) {
        let instances = batch.iter().map(|slice| DocumentRequest {
            home: Some(home.clone()),
            repository: repository.clone(),
            document: study.instance(*slice),
        });
        let series = SeriesRequest { series: Uid::parse(&study.series())?, instances: instances.collect() };
        let request = ImagingRequest {
            studies: vec![StudyRequest { study: Uid::parse(&study.uid())?, series: vec![series] }],
            transfer_syntaxes: vec![Uid::parse("1.2.840.10008.1.2.1")?],
        };
        let (response, mut answer) = reader.images(&patient, &request).await?;
        ensure(response.status == Status::Success, format!("{:?}", answer.codes()))?;
        while answer.parts.next().await?.is_some() {
            while let Some(chunk) = answer.parts.chunk().await? {
                bytes += chunk.len() as u64;
            }
        }
    }
    Ok((bytes, began.elapsed()))
}

/// nginx with the same certificate and client check serves the batches as files; `None` when it is not installed.
async fn nginx(demo: &Demo, dir: &Path, files: &[PathBuf]) -> Result<Option<f64>, Error> {
    let program = Path::new("/usr/sbin/nginx");
    if !program.exists() {
        return Ok(None);
    }
    let root = dir.join("nginx");
    std::fs::create_dir_all(root.join("www"))?;
    let mut batches = 0;
    for batch in files.chunks(BATCH) {
        let mut joined = std::fs::File::create(root.join(format!("www/{batches}")))?;
        for file in batch {
            std::io::copy(&mut std::fs::File::open(file)?, &mut joined)?;
        }
        batches += 1;
    }
    let (pki, other) = (demo.no.dir.display(), demo.fi.path("anchors.pem"));
    let config = format!(
        "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\nevents {{}}\nhttp {{ access_log off; \
         server {{ listen 127.0.0.1:{PEER_PORT} ssl; ssl_certificate {pki}/tls-server.pem; ssl_certificate_key {pki}/tls-server.key; \
         ssl_client_certificate {other}; ssl_verify_client on; ssl_verify_depth 3; root {root}/www; }} }}\n",
        root = root.display(),
        other = other.display(),
    );
    std::fs::write(root.join("nginx.conf"), config)?;
    let mut child = Command::new(program)
        .arg("-c")
        .arg(root.join("nginx.conf"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let material = ncp_tls::Material::load(&demo.fi.path("tls-client.pem"), &demo.fi.path("tls-client.key"))?;
    let connector = material.connector(&[demo.no.path("anchors.pem")], b"\x08http/1.1")?;
    let (began, mut bytes) = (Instant::now(), 0);
    for batch in 0..batches {
        let limit = Duration::from_secs(10);
        let stream = ncp_tls::connect(&connector, "127.0.0.1", PEER_PORT, "localhost", limit).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request =
            Request::get(format!("/{batch}")).header("Host", "localhost").body(Empty::<bytes::Bytes>::new())?;
        let response = sender.send_request(request).await?;
        ensure(response.status() == 200, format!("nginx: HTTP {}", response.status()))?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, bytes::Bytes::len) as u64;
        }
    }
    let took = began.elapsed();
    child.kill().await?;
    Ok(Some(rate(bytes, took)))
}

/// A memory figure of a process, KiB.
fn memory(pid: u32, field: &str) -> Result<u64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}

/// User and system time of a process.
fn processor_seconds(pid: u32) -> Result<f64, Error> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    // USER_HZ is 100 on Linux.
    Ok(ticks / 100.0)
}
