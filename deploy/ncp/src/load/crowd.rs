//! SK-06: a crowd of clinicians fetches 20 MB each while 64 callers of a neighbour ask for the same; a third country asks
//! beside them. Everybody gets the whole study or is told "busy, again in N s"; nobody is told that Norway cannot be
//! reached, and the third country is served as before.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ncp_ihe::{PatientId, QueryResponse, Status, actions};
use ncp_tests::neighbour::{Neighbour, XCA, XCAI};
use ncp_tests::pki::{Algorithm, CountryPki, peer_pin};
use ncp_tests::synth::Study;
use serde_json::json;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::callers::{of_error, professional, study};
use super::journal::{Ended, percentile};
use crate::Error;
use crate::bench_load::unlimited;
use crate::check::{archive, compared, ensure, imaging_request, manifest, neighbour};
use crate::demo::{Demo, FINLAND, NORWAY, offset};

/// Callers of the neighbour.
const NEIGHBOURS: usize = 64;
/// Calls of the third country before the crowd comes.
const CALLS: usize = 20;
/// Its homeCommunityId.
const THIRD: &str = "2.999.752";
const PATIENT: &str = "01827812345^^^&2.16.578.1.12.4.1.4.1&ISO";

/// 20 MiB of the second Norwegian patient.
fn twenty() -> Study {
    let large = crate::demo::large_study();
    Study { number: 4, description: "Generated study of 20 MiB".into(), instances: 10, ..large }
}

/// How many ended how, and one reason of those that failed.
#[derive(Default)]
struct Count {
    whole: usize,
    busy: usize,
    failed: Vec<String>,
}

impl Count {
    fn add(&mut self, ended: Ended) {
        match ended {
            Ended::Whole => self.whole += 1,
            Ended::Busy => self.busy += 1,
            Ended::Failed(why) => self.failed.push(why),
        }
    }
}

/// True when nobody failed and the third country was served.
pub(super) async fn run(dir: &Path, sources: &Path, clinicians: usize) -> Result<bool, Error> {
    let mut demo = unlimited(dir, sources)?;
    twenty().write(&demo.dir.join("no/data/dicom/twenty"))?;
    let third = Arc::new(third_country(&demo)?);
    demo.start().await?;
    let patient = PatientId::parse_cx(PATIENT)?;
    let archive = Arc::new(archive(&demo.dir.join("no/data/dicom/twenty"))?);
    let asking = Arc::new(neighbour(&demo, &FINLAND, &NORWAY)?);
    let entries = asking.documents(&patient).await?.objects.entries;
    let uid = twenty().uid();
    let entry = entries.iter().find(|e| e.study_instance_uid().is_some_and(|u| u.as_str() == uid));
    let entry = entry.ok_or("the study was not listed")?;
    let listed = manifest(&asking, &patient, entry).await?;
    let request = Arc::new(imaging_request(&listed, entry.home.as_ref().ok_or("no home")?)?);
    let instances = archive.len();

    let alone = apart(&third, &patient, |calls| calls == CALLS).await?;
    give_way(&demo)?;
    let barrier = Arc::new(Barrier::new(clinicians + NEIGHBOURS + 1));
    let (mut fetching, mut retrieving) = (JoinSet::new(), JoinSet::new());
    for number in 0..clinicians {
        let client = professional(&demo, number, 600)?;
        let (found, _) = client.find(&patient).await?;
        let base = client.confirm(found.first().ok_or("no patient")?).await?;
        let lines = client.documents(&base).await?;
        let line = lines.into_iter().find(|line| line.study.as_ref() == Some(&uid));
        let root = line.and_then(|line| line.dicomweb).ok_or("the study was not listed")?;
        let (barrier, archive, uid) = (barrier.clone(), archive.clone(), uid.clone());
        fetching.spawn(async move {
            barrier.wait().await;
            study(&client, (&root, &uid), instances, &archive).await.err().unwrap_or(Ended::Whole)
        });
    }
    for _ in 0..NEIGHBOURS {
        let (asking, request, patient) = (asking.clone(), request.clone(), patient.clone());
        let (barrier, archive) = (barrier.clone(), archive.clone());
        retrieving.spawn(async move {
            barrier.wait().await;
            retrieve(&asking, &patient, &request, &archive, instances).await
        });
    }
    let enough = Arc::new(AtomicBool::new(false));
    let beside = {
        let (enough, patient) = (enough.clone(), patient.clone());
        tokio::spawn(async move { apart(&third, &patient, move |_| enough.load(Ordering::Acquire)).await })
    };
    barrier.wait().await;
    let began = Instant::now();
    let (mut clinic, mut peers) = (Count::default(), Count::default());
    while let Some(ended) = retrieving.join_next().await {
        peers.add(ended?);
    }
    while let Some(ended) = fetching.join_next().await {
        clinic.add(ended?);
    }
    enough.store(true, Ordering::Release);
    let beside = beside.await?;
    let seconds = began.elapsed().as_secs();
    demo.stop().await?;

    let ms = |mut took: Vec<i64>, percent| {
        took.sort_unstable();
        percentile(&took, percent) / 1000
    };
    let told = |count: &Count| json!({ "whole": count.whole, "told_busy": count.busy, "failed": count.failed.len(), "first": count.failed.first() });
    let third = match &beside {
        Ok(took) => json!({ "calls": took.len(), "p50_ms_alone": ms(alone.clone(), 50), "p50_ms": ms(took.clone(), 50),
            "p99_ms_alone": ms(alone, 99), "p99_ms": ms(took.clone(), 99) }),
        Err(error) => json!({ "failed": error.to_string() }),
    };
    let good = clinic.failed.is_empty() && peers.failed.is_empty() && beside.is_ok();
    println!(
        "{}",
        json!({ "load": "crowd", "clinicians": clinicians, "neighbours": NEIGHBOURS, "mib_each": 20, "seconds": seconds,
            "of_clinicians": told(&clinic), "of_neighbours": told(&peers), "third_country": third })
    );
    ensure(clinic.whole > 0 && peers.whole > 0, "nobody got the study")?;
    Ok(good)
}

/// Lets the processes that are other machines in the field (the crowd's clients, the archive, Finland's gateway) give way to
/// Norway's gateway, so that the times of the third country tell how that gateway shares itself out and not how the two cores
/// are shared out between machines.
fn give_way(demo: &Demo) -> Result<(), Error> {
    let others = [std::process::id(), demo.pid("no", "orthanc")?, demo.pid("fi", "ncp-gateway")?];
    let mut renice = std::process::Command::new("renice");
    renice.args(["-n", "15", "-p"]).stdout(std::process::Stdio::null());
    for process in others {
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            renice.arg(thread?.file_name());
        }
    }
    ensure(renice.status()?.success(), "renice failed")
}

/// Another peer of Norway, which only asks.
fn third_country(demo: &Demo) -> Result<Neighbour, Error> {
    let pki = CountryPki::create_apart(&demo.dir.join("se/pki"), "SE", Algorithm::P256)?;
    let config = demo.dir.join("no/gateway.toml");
    let peer = format!(
        "\n[[peer]]\ncountry = \"SE\"\nname = \"Sweden\"\nhome_community_id = \"urn:oid:{THIRD}\"\n\
         tls_anchors = \"../se/pki/tls-anchors.pem\"\nseal_anchors = \"../se/pki/seal-anchors.pem\"\n{}",
        peer_pin("SE")
    );
    std::fs::write(&config, std::fs::read_to_string(&config)? + &peer)?;
    Neighbour::new(&pki, THIRD, &demo.no.path("anchors.pem"), "127.0.0.1", offset(NORWAY.code) + 443)
}

/// Queries of the third country until `enough` says so, by their number: how long each took, microseconds. They have a thread
/// of their own, as this country has a machine of its own, so that the times do not contain those of the crowd's clients.
async fn apart(
    third: &Arc<Neighbour>,
    patient: &PatientId,
    enough: impl Fn(usize) -> bool + Send + 'static,
) -> Result<Vec<i64>, Error> {
    let (third, patient) = (third.clone(), patient.clone());
    tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut took = Vec::new();
            while !enough(took.len()) {
                took.push(query(&third, &patient).await?);
            }
            Ok(took)
        })
    })
    .await?
}

/// A query of the third country: how long it took, microseconds.
async fn query(third: &Neighbour, patient: &PatientId) -> Result<i64, Error> {
    let began = Instant::now();
    let assertions = third.assertions(patient).await?;
    let body = Neighbour::find_documents(patient).to_element();
    let answer = third.call(actions::ITI38_REQUEST, XCA, &assertions, body).await?;
    let status = QueryResponse::read(&answer.body)?.0.status;
    ensure(status == Status::Success, format!("the third country: {status:?} {:?}", answer.codes()))?;
    Ok(i64::try_from(began.elapsed().as_micros())?)
}

async fn retrieve(
    asking: &Neighbour,
    patient: &PatientId,
    request: &ncp_ihe::ImagingRequest,
    archive: &std::collections::BTreeMap<String, String>,
    instances: usize,
) -> Ended {
    let got = async {
        let assertions = asking.assertions(patient).await?;
        let answer = asking.call(actions::RAD75_REQUEST, XCAI, &assertions, request.to_element()).await?;
        if answer.is_busy() {
            return Ok(Ended::Busy);
        }
        let (came, _) = compared(answer, archive).await?;
        ensure(came == instances, format!("{came} of {instances} instances"))?;
        Ok::<_, Error>(Ended::Whole)
    };
    got.await.unwrap_or_else(|error| of_error(&error))
}
