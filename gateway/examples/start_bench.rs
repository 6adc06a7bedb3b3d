//! What a start costs: trust in many peers with anchors and CRLs of their own, loaded, loaded again with nothing changed and
//! with one changed; a spool that keeps much, opened; and both in a gateway that starts, until it listens. One JSON line each,
//! wall time and processor time. `start_bench [peers] [MiB of spool]`.
//!
//! A peer is a country of two letters, so that there are no more than 673; what they cost is also said for 1,000.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ncp_audit::{AuditSink, Event, PeerFacts};
use ncp_gateway::app::{Learned, Snapshot};
use ncp_gateway::{app, config};
use ncp_tests::asking::Asking;
use ncp_tests::pki::CountryPki;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let peers = arguments.next().unwrap_or(1000);
    let spool_mib = arguments.next().unwrap_or(2048);
    let dir = tempfile::tempdir()?;
    let asking = Asking::create(dir.path())?;
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/no");
    let file = asking.write([0, 0, 0], "", &policies, &[])?;
    let mut text = std::fs::read_to_string(&file)?;
    let known: Vec<CountryPki> = codes().take(peers).map(|code| with_crl(&asking, &code)).collect::<Result<_, _>>()?;
    known.iter().enumerate().for_each(|(index, pki)| text.push_str(&peer(index, pki)));
    std::fs::write(&file, text)?;
    trust(&file, &known)?;
    let kept = spool(&file, spool_mib).await?;
    ready(&file, known.len(), kept).await
}

/// Processor time of this process so far, in steps of 10 ms (utime and stime of proc(5), hundredths of a second).
fn busy_ms() -> Result<u64, Error> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|field| field.parse::<u64>().ok()));
    Ok(user.zip(system).map(|(user, system)| (user + system) * 10).ok_or("no time")?)
}

/// Every country code but our own and the two that stand for others.
fn codes() -> impl Iterator<Item = String> {
    let letters = || 'A'..='Z';
    let all = letters().flat_map(move |first| letters().map(move |second| format!("{first}{second}")));
    all.filter(|code| !["NO", "EL", "UK"].contains(&code.as_str()))
}

fn with_crl(asking: &Asking, code: &str) -> Result<CountryPki, ncp_tests::pki::Error> {
    let pki = asking.other(code)?;
    pki.crl("crls.pem", &[], (-60, 3600))?;
    Ok(pki)
}

fn peer(index: usize, pki: &CountryPki) -> String {
    format!(
        "[[peer]]\ncountry = \"{code}\"\nname = \"{code}\"\nhome_community_id = \"urn:oid:2.999.1000.{index}\"\n\
         xca = \"https://localhost/{code}\"\ntls_anchors = {:?}\nseal_anchors = {:?}\ncrls = {:?}\n{}\n",
        pki.path("tls-anchors.pem"),
        pki.path("seal-anchors.pem"),
        pki.path("crls.pem"),
        ncp_tests::pki::peer_pin(&pki.country),
        code = pki.country,
    )
}

fn trust(file: &Path, known: &[CountryPki]) -> Result<(), Error> {
    let mut before: Option<Arc<Snapshot>> = None;
    let mut load = |what: &str, anew: bool| -> Result<(), Error> {
        let (began, busy) = (Instant::now(), busy_ms()?);
        let config = config::load(file).map_err(|problems| format!("{problems:?}"))?;
        let read = began.elapsed();
        let learned = Learned { before: before.take(), anew, ..Learned::default() };
        let (snapshot, _) = Snapshot::load_parts(&config, &learned).map_err(|problems| problems.join("; "))?;
        let all = began.elapsed();
        println!(
            "{{\"bench\":\"trust\",\"what\":\"{what}\",\"peers\":{},\"configuration_ms\":{},\"all_ms\":{},\"cpu_ms\":{},\"of_1000_ms\":{}}}",
            known.len(),
            read.as_millis(),
            all.as_millis(),
            busy_ms()? - busy,
            all.as_millis() * 1000 / known.len().max(1) as u128
        );
        before = Some(Arc::new(snapshot));
        Ok(())
    };
    load("start", false)?;
    load("nothing changed", false)?;
    if let Some(one) = known.first() {
        one.crl("crls.pem", &[], (-30, 3600))?;
    }
    load("one CRL changed", false)?;
    load("all anew, as at SIGHUP", true)
}

/// The MiB that it keeps.
async fn spool(file: &Path, mib: usize) -> Result<u64, Error> {
    let config = config::load(file).map_err(|problems| format!("{problems:?}"))?;
    let options = config.audit.spool_of("node".into(), "client".into(), "urn:oid:2.999.47".into());
    let sink = AuditSink::open(&options).await?;
    while bytes(&options.dir)? < (mib as u64) << 20 {
        let event = || Event::SmpQueried { peer: PeerFacts::default(), query: "x".repeat(48 << 10) };
        let events: Vec<Event> = (0..64).map(|_| event()).collect();
        futures_util::future::try_join_all(events.iter().map(|event| sink.event(event, ""))).await?;
    }
    drop(sink);
    let again = || async {
        loop {
            let (began, busy) = (Instant::now(), busy_ms()?);
            match AuditSink::open(&options).await {
                Ok(sink) => return Ok::<_, Error>((sink, began.elapsed(), busy_ms()? - busy)),
                // The thread of the one before has not ended yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let (_sink, took, cpu) = again().await?;
    let (kept, ms) = (bytes(&options.dir)? >> 20, took.as_millis());
    println!("{{\"bench\":\"spool\",\"kept_mib\":{kept},\"open_ms\":{ms},\"cpu_ms\":{cpu}}}");
    Ok(kept)
}

/// A gateway from its configuration until it listens.
async fn ready(file: &Path, peers: usize, kept: u64) -> Result<(), Error> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let (began, busy) = (Instant::now(), busy_ms()?);
        let config = config::load(file).map_err(|problems| format!("{problems:?}"))?;
        match app::build(config).await {
            Ok(built) => {
                let _bound = app::bind(built).await?;
                let (ms, cpu) = (began.elapsed().as_millis(), busy_ms()? - busy);
                println!("{{\"bench\":\"ready\",\"peers\":{peers},\"kept_mib\":{kept},\"ms\":{ms},\"cpu_ms\":{cpu}}}");
                return Ok(());
            }
            // The thread of the spool that was open has not ended yet.
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(problems) => return Err(format!("{problems:?}").into()),
        }
    }
}

fn bytes(dir: &Path) -> Result<u64, Error> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let name = entry.as_ref().map(|entry| entry.file_name().to_string_lossy().into_owned());
        if name.is_ok_and(|name| name.starts_with("segment-")) {
            sum += entry?.metadata()?.len();
        }
    }
    Ok(sum)
}
