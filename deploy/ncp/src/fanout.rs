//! `ncp bench fanout`: one query of a national consumer to many countries, one of them slow.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ncp_ihe::{Oid, PatientId, QueryResponse, RegistryObjects, Status, actions};
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS};
use ncp_tests::consumer::Consumer;
use ncp_tests::country::{Country, Reaction};
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::CountryPki;
use ncp_tests::ports::free;
use serde_json::json;
use tokio::process::Command;

use crate::Error;
use crate::check::ensure;
use crate::demo::{program_path, wait_ready};

/// Time that the gateway gives each country.
const DEADLINE: Duration = Duration::from_secs(2);
/// What the slow country takes.
const SLOW: Duration = Duration::from_secs(60);
/// Calls of which the median is told.
const CALLS: usize = 11;
/// With a slow country, fewer than would open its circuit.
const SLOW_CALLS: usize = 3;

pub(crate) async fn run(dir: &Path, sources: &Path) -> Result<(), Error> {
    for countries in [1, 5, 27] {
        fanout(&dir.join(countries.to_string()), sources, countries).await?;
    }
    Ok(())
}

async fn fanout(dir: &Path, sources: &Path, count: usize) -> Result<(), Error> {
    std::fs::create_dir_all(dir)?;
    let asking = Asking::create(dir)?;
    let slow = Arc::new(AtomicBool::new(false));
    let mut all: Vec<(CountryPki, String, Country)> = Vec::new();
    for number in 0..count {
        let letter = |at: usize| char::from(b'A' + (at % 26) as u8);
        let pki = asking.other(&format!("{}{}", letter(number / 26 + 16), letter(number)))?;
        let (is_last, slow) = (number + 1 == count, slow.clone());
        let react = move |_: &ncp_tests::country::Asked| {
            let response = QueryResponse {
                status: Status::Success,
                errors: Vec::new(),
                objects: RegistryObjects::default(),
                object_refs: Vec::new(),
            };
            let answer = Reaction::Simple(actions::ITI38_RESPONSE, response.to_element());
            let late = is_last && slow.load(Ordering::Acquire);
            if late { Reaction::Late(SLOW, Box::new(answer)) } else { answer }
        };
        let country = Country::start(&pki, &asking.pki.path("anchors.pem"), react).await?;
        all.push((pki, format!("2.999.{}", 1000 + number), country));
    }
    let known: Vec<Known<'_>> = all
        .iter()
        .map(|(pki, home, country)| Known { pki, home: home.clone(), country, lines: String::new() })
        .collect();
    let [admin, consumers] = [free().port(), free().port()];
    let policies = std::path::absolute(sources.join("gateway/policies/no"))?;
    let config =
        asking.write([0, admin, consumers], &format!("query = \"{}s\"", DEADLINE.as_secs()), &policies, &known)?;
    let log = std::fs::File::create(dir.join("gateway.log"))?;
    let _gateway = Command::new(program_path("ncp-gateway")?)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
    wait_ready(admin).await?;

    let patient = PatientId::new("4711", Oid::parse(PATIENTS)?)?;
    let anchors = asking.pki.path("anchors.pem");
    let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, consumers)?;
    let claims = Neighbour::new(&asking.pki, "2.999.47", &anchors, "localhost", consumers)?.claims();
    let ask = async || -> Result<(Duration, Status), Error> {
        let assertions = consumer.assertions(&claims, &patient).await?;
        let began = Instant::now();
        let answer = consumer.call(&assertions, Neighbour::find_documents(&patient).to_element()).await?;
        Ok((began.elapsed(), QueryResponse::read(&answer.body)?.0.status))
    };
    let mut fast = Vec::new();
    for _ in 0..CALLS {
        let (took, status) = ask().await?;
        ensure(status == Status::Success, format!("{status:?}"))?;
        fast.push(took);
    }
    let one_by_one = one_after_the_other(&asking, &all, &patient).await?;
    slow.store(true, Ordering::Release);
    let (mut bounded, mut statuses) = (Vec::new(), Vec::new());
    for _ in 0..SLOW_CALLS {
        let (took, status) = ask().await?;
        bounded.push(took);
        statuses.push(status);
    }
    let expected = if count == 1 { Status::Failure } else { Status::PartialSuccess };
    ensure(statuses.iter().all(|s| *s == expected), format!("{statuses:?}"))?;
    let ms = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
    let fast = median(fast);
    println!(
        "{}",
        json!({
            "bench": "fanout", "countries": count, "answer_ms": ms(fast),
            "peer": "the same countries asked one after the other, a connection each", "peer_ms": ms(one_by_one),
            "ratio": (one_by_one.as_secs_f64() / fast.as_secs_f64() * 100.0).round() / 100.0,
            "with_one_slow": { "deadline_ms": ms(DEADLINE), "answer_ms": ms(median(bounded)), "status": format!("{expected:?}") },
        })
    );
    Ok(())
}

/// What a system without a fan-out takes: every country in turn.
async fn one_after_the_other(
    asking: &Asking,
    all: &[(CountryPki, String, Country)],
    patient: &PatientId,
) -> Result<Duration, Error> {
    let mut neighbours = Vec::new();
    for (pki, _, country) in all {
        let port = country.address.port();
        neighbours.push(Neighbour::new(&asking.pki, "2.999.47", &pki.path("anchors.pem"), "127.0.0.1", port)?);
    }
    let mut times = Vec::new();
    for _ in 0..SLOW_CALLS {
        let began = Instant::now();
        for neighbour in &neighbours {
            ensure(neighbour.documents(patient).await?.status == Status::Success, "a country failed")?;
        }
        times.push(began.elapsed());
    }
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
