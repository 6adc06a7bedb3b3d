//! `ncp bench`: figures against something real in the same run, one JSON line each.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::header::HeaderValue;
use ncp_gateway::policy::PolicyEngine;
use ncp_gateway::policy::cases::Cases;
use ncp_ihe::{PatientId, actions};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::synth::Study;
use ncp_tls::HttpClient;
use serde_json::json;
use tokio::process::Command;

use crate::Error;
use crate::bench_load::{load, unlimited};
use crate::check::{ensure, neighbour};
use crate::clinician::{Client, Piece};
use crate::demo::{Demo, FINLAND, NORWAY, offset, wait_ready};
use crate::issuer::Token;

/// Instances asked for in one RAD-75.
pub(crate) const BATCH: usize = 64;
const PEER_PORT: u16 = 27460;
const NGINX: &str = "/usr/sbin/nginx";
/// Clients of the query benchmark.
const CLIENTS: usize = 32;

#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// A study from a clinician's client through both gateways, against a chain of two nginx over the same TLS.
    Rad75 {
        /// Sizes in MiB.
        #[arg(long, value_delimiter = ',', default_value = "10,100,1024")]
        sizes: Vec<u32>,
        /// Also through an IPF gateway in the place of NCP-B; NCP_IPF_CLASSPATH names its classes.
        #[arg(long)]
        java: bool,
        /// Where deploy/demo and tests/fixtures lie.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// Queries with signed assertions per second, durable audit, and what each process spends on one.
    Iti38 {
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Where deploy/demo and tests/fixtures lie.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// Documents of 50 kB and 5 MB through NCP-A, beside the bare cost of comparing one.
    Iti39 {
        /// How long, for each size.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Where deploy/demo and tests/fixtures lie.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// Terminology: look-ups, gRPC, documents, start.
    Terminology {
        /// SNOMED CT and LOINC of full size, synthetic, beside the million rows.
        #[arg(long)]
        full: bool,
        /// Where translation/maps lies.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// One query to 1, 5 and 27 countries, then with one of them slow.
    Fanout {
        /// Where gateway/policies lies.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// Policy decisions per second, one core: every case of a country's folder in turn.
    Policy {
        /// Where gateway/policies lies.
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
        Bench::Iti38 { seconds, sources } => iti38(dir.path(), &sources, seconds).await,
        Bench::Iti39 { seconds, sources } => crate::bench_documents::run(dir.path(), &sources, seconds).await,
        Bench::Fanout { sources } => crate::fanout::run(dir.path(), &sources).await,
        Bench::Policy { sources } => policy(&sources.join("gateway/policies/no")),
        Bench::Start { sources } => start(dir.path(), &sources).await,
        Bench::Terminology { full, sources } => crate::bench_terminology::run(&sources, full, dir.path()).await,
        Bench::Rad75 { sizes, java, sources } => {
            for mib in sizes {
                rad75(&dir.path().join(mib.to_string()), &sources, mib, java).await?;
            }
            Ok(())
        }
    }
}

fn policy(folder: &Path) -> Result<(), Error> {
    let engine = PolicyEngine::load(folder)?;
    let asked = Cases::load(&folder.join("cases.toml"))?.case;
    let asked = asked.iter().map(|case| case.question()).collect::<Result<Vec<_>, _>>()?;
    let (began, mut count) = (Instant::now(), 0u32);
    while began.elapsed() < Duration::from_secs(2) {
        for question in &asked {
            std::hint::black_box(question.ask(&engine));
            count += 1;
        }
    }
    let per_second = f64::from(count) / began.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "bench": "policy", "cases": asked.len(), "decisions_per_second": per_second.round(),
            "us_each": (1e7 / per_second).round() / 10.0 })
    );
    Ok(())
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

async fn rad75(dir: &Path, sources: &Path, mib: u32, java: bool) -> Result<(), Error> {
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
    demo.start().await?;
    let gateways = [demo.pid("fi", "ncp-gateway")?, demo.pid("no", "ncp-gateway")?];
    let figures = |of: &dyn Fn(u32) -> Result<f64, Error>| -> Result<[f64; 2], Error> {
        Ok([of(gateways[0])?, of(gateways[1])?])
    };
    let peak = |pid| memory(pid, "VmHWM:").map(|kib| kib as f64 / 1024.0);
    let (client, root) = study_root(&demo, &study).await?;
    let (idle, cpu) = (figures(&peak)?, figures(&processor_seconds)?);
    let (mut bytes, began) = (0u64, Instant::now());
    let instances = client
        .study(&root, &study.uid(), |piece| {
            if let Piece::Chunk(chunk) = piece {
                bytes += chunk.len() as u64;
            }
            Ok(())
        })
        .await?;
    let ours = rate(bytes, began.elapsed());
    ensure(instances == files.len(), format!("{instances} of {} instances", files.len()))?;
    let (top, after) = (figures(&peak)?, figures(&processor_seconds)?);
    let per_gb = |at: usize| ((after[at] - cpu[at]) / (bytes as f64 / 1e9) * 100.0).round() / 100.0;
    if java {
        let theirs = crate::bench_java::through(&demo, dir, &study).await?;
        let line = json!({
            "bench": "rad75", "mib": mib, "instances": instances, "way": "client, NCP-B, NCP-A, archive folder",
            "mb_per_second": ours.round(), "cpu_seconds_per_gb": per_gb(0), "peak_rss_mib": top[0].round(),
            "peer": "client, IPF relay, NCP-A, archive folder", "peer_mb_per_second": theirs.mb_per_second.round(),
            "peer_cpu_seconds_per_gb": (theirs.cpu_seconds_per_gb * 100.0).round() / 100.0,
            "peer_peak_rss_mib": theirs.peak_rss_mib.round(),
            "ratio": (ours / theirs.mb_per_second * 100.0).round() / 100.0,
        });
        println!("{line}");
    }
    demo.stop_gateways().await?;
    let chain = nginx_chain(&demo, dir, &files).await?;
    for (peer, theirs) in [
        ("nginx chain, same 64-instance bodies", chain.map(|c| c.0)),
        ("nginx chain, one request a file", chain.map(|c| c.1)),
    ] {
        let line = json!({
            "bench": "rad75", "mib": mib, "instances": instances, "way": "client, NCP-B, NCP-A, archive folder",
            "mb_per_second": ours.round(), "peer": peer, "peer_mb_per_second": theirs.map(f64::round),
            "ratio": theirs.map(|theirs| (ours / theirs * 100.0).round() / 100.0),
            "cpu_seconds_per_gb": { "ncp_b": per_gb(0), "ncp_a": per_gb(1), "sha256_of_it": sha256_seconds_per_gb() },
            "peak_rss_mib": { "ncp_b": top[0].round(), "ncp_a": top[1].round() },
            "growth_mib": { "ncp_b": (top[0] - idle[0]).round(), "ncp_a": (top[1] - idle[1]).round() },
        });
        println!("{line}");
    }
    demo.stop().await
}

pub(crate) fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

/// What one gateway spends on the digests of a gigabyte, measured here.
fn sha256_seconds_per_gb() -> f64 {
    let (block, began) = (vec![7u8; 64 << 20], Instant::now());
    std::hint::black_box(openssl::sha::sha256(&block));
    let took = began.elapsed().as_secs_f64();
    (took / (block.len() as f64 / 1e9) * 100.0).round() / 100.0
}

/// A professional's way to the study's DICOMweb root.
async fn study_root(demo: &Demo, study: &Study) -> Result<(Client, String), Error> {
    let client = Client::demo(&demo.dir, "fi", &Token::default())?;
    let (found, _) = client.find(&PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?).await?;
    let base = client.confirm(found.first().ok_or("no patient")?).await?;
    let lines = client.documents(&base).await?;
    let line = lines.into_iter().find(|l| l.study.as_deref() == Some(&study.uid()));
    let root = line.and_then(|l| l.dicomweb).ok_or("the study was not listed")?;
    Ok((client, root))
}

/// Two nginx processes with the demonstration's certificates: the first takes the client, the second asks for a client
/// certificate and serves the batches and the files. Rates of both; `None` when nginx is not installed.
async fn nginx_chain(demo: &Demo, dir: &Path, files: &[PathBuf]) -> Result<Option<(f64, f64)>, Error> {
    if !Path::new(NGINX).exists() {
        return Ok(None);
    }
    let www = dir.join("www");
    std::fs::create_dir_all(www.join("file"))?;
    let mut batches = Vec::new();
    for (number, batch) in files.chunks(BATCH).enumerate() {
        let mut joined = std::fs::File::create(www.join(format!("batch{number}")))?;
        for file in batch {
            std::io::copy(&mut std::fs::File::open(file)?, &mut joined)?;
        }
        batches.push(format!("batch{number}"));
    }
    let mut singles = Vec::new();
    for (number, file) in files.iter().enumerate() {
        std::fs::hard_link(file, www.join(format!("file/{number}")))?;
        singles.push(format!("file/{number}"));
    }
    let (no, fi) = (demo.no.dir.display(), demo.fi.dir.display());
    let source = format!(
        "server {{ listen 127.0.0.1:{} ssl; ssl_certificate {no}/tls-server.pem; ssl_certificate_key {no}/tls-server.key; \
         ssl_client_certificate {fi}/anchors.pem; ssl_verify_client on; ssl_verify_depth 3; root {}; }}",
        PEER_PORT + 1,
        www.display(),
    );
    let front = format!(
        "upstream source {{ server 127.0.0.1:{}; keepalive 4; }}\n\
         server {{ listen 127.0.0.1:{PEER_PORT} ssl; ssl_certificate {fi}/tls-server.pem; ssl_certificate_key {fi}/tls-server.key; \
         location / {{ proxy_pass https://source; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_max_temp_file_size 0; proxy_buffers 16 64k; proxy_buffer_size 64k; \
         proxy_ssl_certificate {fi}/tls-client.pem; proxy_ssl_certificate_key {fi}/tls-client.key; \
         proxy_ssl_trusted_certificate {no}/anchors.pem; proxy_ssl_verify on; proxy_ssl_verify_depth 3; \
         proxy_ssl_name localhost; }} }}",
        PEER_PORT + 1,
    );
    let _second = nginx(&dir.join("nginx-source"), &source)?;
    let _first = nginx(&dir.join("nginx-front"), &front)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let connector = ncp_tls::anonymous_connector(&[demo.fi.path("anchors.pem")], b"\x08http/1.1")?;
    let http: HttpClient<Empty<Bytes>> = ncp_tls::http_client(connector, None, Duration::from_secs(10));
    Ok(Some((fetch_all(&http, &batches).await?, fetch_all(&http, &singles).await?)))
}

async fn fetch_all(http: &HttpClient<Empty<Bytes>>, names: &[String]) -> Result<f64, Error> {
    let (began, mut bytes) = (Instant::now(), 0);
    for name in names {
        let response = http.get(format!("https://localhost:{PEER_PORT}/{name}").parse()?).await?;
        ensure(response.status() == 200, format!("nginx: HTTP {}", response.status()))?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len) as u64;
        }
    }
    Ok(rate(bytes, began.elapsed()))
}

/// One nginx process without a master, so that ending it ends all of it.
fn nginx(root: &Path, servers: &str) -> Result<tokio::process::Child, Error> {
    std::fs::create_dir_all(root)?;
    let at = root.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\nevents {{}}\n\
         http {{ access_log off; proxy_temp_path {at}/proxy; client_body_temp_path {at}/body; {servers} }}\n"
    );
    std::fs::write(root.join("nginx.conf"), config)?;
    let path = root.join("nginx.conf");
    Ok(Command::new(NGINX).arg("-c").arg(path).stderr(Stdio::null()).kill_on_drop(true).spawn()?)
}

/// ITI-38 with signed assertions over kept connections, all cores, durable audit.
async fn iti38(dir: &Path, sources: &Path, seconds: u64) -> Result<(), Error> {
    let mut demo = unlimited(dir, sources)?;
    demo.start().await?;
    let programs = ["ncp-gateway", "ncp-translation", "ncp-audit"];
    let cpu = |demo: &Demo| -> Result<Vec<f64>, Error> {
        programs.iter().map(|program| processor_seconds(demo.pid("no", program)?)).collect()
    };
    let patient = PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let neighbour = Arc::new(neighbour(&demo, &FINLAND, &NORWAY)?);
    let assertions = neighbour.assertions(&patient).await?;
    let message = move || {
        let body = Neighbour::find_documents(&patient).to_element();
        let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
        async move { Ok((HeaderValue::from_static("application/soap+xml; charset=UTF-8"), Bytes::from(message))) }
    };
    let answered = |answer: &[u8]| match memchr::memmem::find(answer, b"ResponseStatusType:Success") {
        Some(_) => Ok(()),
        None => Err(format!("no success: {}", error_codes(answer)).into()),
    };
    let (before, stages_before) = (cpu(&demo)?, processor_seconds_by_stage(demo.pid("no", "ncp-gateway")?)?);
    let (done, took) = load(&demo, (CLIENTS, seconds), message, answered).await?;
    let spent: serde_json::Map<String, serde_json::Value> = programs
        .iter()
        .zip(before)
        .zip(cpu(&demo)?)
        .map(|((program, before), after)| ((*program).to_owned(), json!(((after - before) / done * 1e6).round())))
        .collect();
    let stages: serde_json::Map<String, serde_json::Value> =
        processor_seconds_by_stage(demo.pid("no", "ncp-gateway")?)?
            .into_iter()
            .map(|(stage, after)| {
                let spent = after - stages_before.get(stage).copied().unwrap_or(0.0);
                (stage.to_owned(), json!((spent / done * 1e6).round()))
            })
            .collect();
    let bare = bare_verifications_per_second(&demo.fi.path("seal.key"))?;
    println!(
        "{}",
        json!({
            "bench": "iti38", "clients": CLIENTS, "seconds": seconds, "queries_per_second": (done / took).round(),
            "cpu_us_per_query": spent, "gateway_cpu_us_by_stage": stages, "peer": "two bare OpenSSL verifications (P-256), one core",
            "peer_per_second": (bare / 2.0).round(),
            "ratio": ((done / took) / (bare / 2.0) * 1000.0).round() / 1000.0,
            "note": "the clients share the machine's cores",
        })
    );
    demo.stop().await
}

/// The codes of an answer that is no success, and their context.
fn error_codes(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let after =
        |name: &str| text.split(name).skip(1).filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>().join("; ");
    format!("{} ({})", after("errorCode=\""), after("codeContext=\""))
}

/// The signature operation alone, one core, with a key like the seal's.
fn bare_verifications_per_second(key: &Path) -> Result<f64, Error> {
    let key = openssl::pkey::PKey::private_key_from_pem(&std::fs::read(key)?)?;
    let digest = openssl::sha::sha256(b"bench");
    let mut signer = openssl::pkey_ctx::PkeyCtx::new(&key)?;
    signer.sign_init()?;
    let mut signature = Vec::new();
    signer.sign_to_vec(&digest, &mut signature)?;
    let (began, mut count) = (Instant::now(), 0u32);
    while began.elapsed() < Duration::from_secs(1) {
        let mut verifier = openssl::pkey_ctx::PkeyCtx::new(&key)?;
        verifier.verify_init()?;
        ensure(verifier.verify(&digest, &signature)?, "bare verification failed")?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// A memory figure of a process, KiB.
pub(crate) fn memory(pid: u32, field: &str) -> Result<u64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}

/// User and system time of a process.
pub(crate) fn processor_seconds(pid: u32) -> Result<f64, Error> {
    Ok(ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?))
}

/// The same by what its threads are for: assertions and the audit spool have threads of their own; TLS, SOAP, policy,
/// look-ups and translation share the rest.
fn processor_seconds_by_stage(pid: u32) -> Result<std::collections::BTreeMap<&'static str, f64>, Error> {
    let mut out = std::collections::BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?;
        let stage = match name.trim() {
            n if n.starts_with("seal-verify") => "assertions verified",
            n if n.starts_with("seal-sign") => "assertions issued",
            n if n.starts_with("audit-spool") => "audit durable",
            _ => "tls, soap, policy, look-up, translation",
        };
        *out.entry(stage).or_insert(0.0) += ticks(&std::fs::read_to_string(task.join("stat"))?);
    }
    Ok(out)
}

/// utime and stime of a stat line, in seconds; USER_HZ is 100 on Linux.
fn ticks(stat: &str) -> f64 {
    let after = stat.rsplit(')').next().unwrap_or_default();
    after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}
