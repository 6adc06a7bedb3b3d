//! `ncp bench terminology`: the service as a process of its own with a large snapshot: time to ready, memory, and a
//! snapshot that takes the place of another under load.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ncp_proto::translation as pb;
use ncp_proto::translation::translation_client::TranslationClient;
use ncp_tests::pki::CountryPki;
use ncp_tests::ports::free;
use ncp_tls::TlsFiles;
use ncp_translation::snapshot::Snapshot;
use serde_json::json;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::Error;
use crate::bench::memory;
use crate::demo::{program_path, wait_ready};

/// Codes of one call, and callers at once.
const BATCH: usize = 100;
const CALLERS: u64 = 8;
/// A process of this size may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A code that is asked for, and what must come.
type Pair = (String, String);

/// What the callers saw.
#[derive(Default)]
struct Seen {
    requests: u64,
    failed: u64,
    /// Answers that are not those of the snapshot that they name.
    wrong: u64,
    /// Answers of the first and of the second snapshot.
    by: [u64; 2],
}

/// Starts the service with the first snapshot of a folder and swaps it for the second.
pub(crate) async fn run(dir: &Path, snapshots: &Path, files: [&Path; 2], full: bool) -> Result<(), Error> {
    let digests = files.map(|f| f.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default());
    let pairs = Arc::new(pairs(&Snapshot::open(files[0])?));
    let (system, pairs) = (pairs.0.clone(), Arc::new(pairs.1.clone()));
    std::fs::write(snapshots.join("current"), &digests[0])?;
    let pki = dir.join("pki-service");
    CountryPki::create(&pki, "NO", ncp_tests::pki::Algorithm::Rsa2048)?;
    let [listen, admin] = [free(), free()];
    let config = dir.join("translation.toml");
    let path = |name: &str| pki.join(name).display().to_string();
    std::fs::write(
        &config,
        format!(
            "listen = \"{listen}\"\nadmin = \"{admin}\"\ncertificate = \"{}\"\nkey = \"{}\"\nanchors = \"{}\"\nsnapshots = \"{}\"\nclients = [\"internal-client.ncp.no\"]\n",
            path("internal-server.pem"),
            path("internal-server.key"),
            path("anchors.pem"),
            snapshots.display()
        ),
    )?;
    let began = Instant::now();
    let service = spawned(&config)?;
    wait_ready(admin.port()).await?;
    let ready_ms = began.elapsed().as_millis() as u64;
    let pid = service.id().ok_or("the terminology service ended")?;
    // Pages of the mapped file count.
    let idle = memory(pid, "VmRSS:")?;
    let client = TlsFiles {
        cert_chain: pki.join("internal-client.pem"),
        key: pki.join("internal-client.key"),
        anchors: pki.join("anchors.pem"),
        crls: None,
    };
    let channel = ncp_tls::channel(&format!("https://{listen}"), "localhost", client.connector(b"\x02h2")?)?;

    // Every page that a look-up needs is read once before the load.
    let mut asking = TranslationClient::new(channel.clone());
    for chunk in pairs.chunks(BATCH) {
        asking.translate_batch(request(&system, chunk)).await?;
    }
    let warm = memory(pid, "VmRSS:")?;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let client = TranslationClient::new(channel.clone());
            let digests = digests.clone().map(|d| hex::decode(d).unwrap_or_default());
            tokio::spawn(calling(client, system.clone(), pairs.clone(), digests, number, stop.clone()))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let swapped = Instant::now();
    std::fs::write(snapshots.join("current"), &digests[1])?;
    let second = hex::decode(&digests[1])?;
    let mut asking = TranslationClient::new(channel.clone());
    while asking.translate_batch(request(&system, &pairs[..1])).await?.into_inner().snapshot != second {
        if swapped.elapsed() > PATIENCE {
            return Err("the second snapshot did not take its place".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let in_place = swapped.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Seen::default();
    for caller in callers {
        let seen = caller.await?;
        all.requests += seen.requests;
        all.failed += seen.failed;
        all.wrong += seen.wrong;
        all.by = [all.by[0] + seen.by[0], all.by[1] + seen.by[1]];
    }
    // The one before is kept for who has begun with it.
    let pinned = pb::TranslateBatchRequest { snapshot: hex::decode(&digests[0])?, ..request(&system, &pairs[..1]) };
    let kept = asking.translate_batch(pinned).await.is_ok();
    let line = json!({"bench": "terminology", "what": "service as a process", "full_size": full,
        "snapshot_bytes": std::fs::metadata(files[0])?.len(), "ready_ms": ready_ms,
        "rss_kib": {"ready": idle, "all_codes_asked": warm, "peak_with_two": memory(pid, "VmHWM:")?},
        "swap": {"requests": all.requests, "failed": all.failed, "wrong": all.wrong, "by_old": all.by[0], "by_new": all.by[1],
            "in_place_ms": in_place.as_millis() as u64, "looked_for_every_ms": 5000, "previous_kept": kept}});
    println!("{line}");
    if all.failed + all.wrong > 0 || all.by.contains(&0) || !kept {
        return Err("the swap was seen by callers".into());
    }
    Ok(())
}

fn spawned(config: &Path) -> Result<Child, Error> {
    let mut command = Command::new(program_path("ncp-translation")?);
    command.arg("serve").arg("--config").arg(config).kill_on_drop(true);
    Ok(command.stderr(Stdio::null()).spawn()?)
}

/// One source system, and its codes with their targets.
fn pairs(snapshot: &Snapshot) -> (String, Vec<Pair>) {
    let mut system = None;
    let mut out: Vec<Pair> = Vec::new();
    for row in snapshot.all_rows() {
        let of = snapshot.system_of(row.source);
        if *system.get_or_insert(of) == of
            && let Some((_, target)) = snapshot.row_target(&row)
            && out.last().is_none_or(|(code, _)| code != snapshot.code(row.source))
        {
            out.push((snapshot.code(row.source).to_owned(), target.to_owned()));
        }
    }
    (system.map(|s| snapshot.system_name(s).to_owned()).unwrap_or_default(), out)
}

fn request(system: &str, pairs: &[Pair]) -> pb::TranslateBatchRequest {
    pb::TranslateBatchRequest {
        systems: vec![system.to_owned()],
        system: vec![0; pairs.len()],
        code: pairs.iter().map(|(code, _)| code.clone()).collect(),
        ..pb::TranslateBatchRequest::default()
    }
}

async fn calling(
    mut client: TranslationClient<Channel>,
    system: String,
    pairs: Arc<Vec<Pair>>,
    digests: [Vec<u8>; 2],
    number: u64,
    stop: Arc<AtomicBool>,
) -> Seen {
    let mut seen = Seen::default();
    let chunks: Vec<&[Pair]> = pairs.chunks(BATCH).collect();
    let mut at = number as usize;
    while !stop.load(Ordering::Relaxed) {
        at = (at + 7_919) % chunks.len();
        seen.requests += 1;
        let Ok(answer) = client.translate_batch(request(&system, chunks[at])).await else {
            seen.failed += 1;
            continue;
        };
        let answer = answer.into_inner();
        match digests.iter().position(|digest| *digest == answer.snapshot) {
            Some(which) => seen.by[which] += 1,
            None => seen.wrong += 1,
        }
        let right = answer.target_code.iter().zip(chunks[at]).filter(|(found, (_, target))| *found == target).count();
        seen.wrong += u64::from(right != chunks[at].len());
    }
    seen
}
