//! Processes that stand still, and a country that is gone for a while.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::Error;
use crate::check::ensure;
use crate::demo::Demo;
use crate::faults_load::{Clinician, Load, Told};
use crate::kill::started;

/// SK-03: how soon after a country's return its first good answer comes.
const SOON: Duration = Duration::from_secs(2);

/// SIGSTOP of each process for a while, then SIGCONT; who depends on it is served again.
pub(crate) async fn stopped(demo: &Demo, long: bool) -> Result<bool, Error> {
    let pause = Duration::from_secs(if long { 20 } else { 3 });
    let (load, clinician) = (Load::start(demo).await?, Clinician::start(demo).await?);
    let mut recovered = serde_json::Map::new();
    for (country, program) in [
        ("no", "ncp-gateway"),
        ("no", "ncp-audit"),
        ("no", "ncp-translation"),
        ("no", "orthanc"),
        ("fi", "ncp-gateway"),
        ("fi", "ncp-audit"),
    ] {
        demo.signal(country, program, Signal::STOP)?;
        tokio::time::sleep(pause).await;
        demo.signal(country, program, Signal::CONT)?;
        let soon = load.goes_on().await?.max(clinician.goes_on().await?);
        recovered.insert(format!("{country}/{program}"), json!(soon.as_millis()));
        if (country, program) == ("no", "ncp-gateway") {
            is_soon(soon, long)?;
        }
    }
    let facts = json!({ "seconds": pause.as_secs(), "recovered_ms": recovered });
    load.end(demo, "each process stopped by SIGSTOP", facts).await
}

/// SK-03: the other country's gateway restarts within two seconds, and is away for longer. Clinicians are told that it was
/// not tried and when it will be, and are served within two seconds of its return.
pub(crate) async fn restarted_and_away(demo: &mut Demo, long: bool) -> Result<bool, Error> {
    let mut good = true;
    for (fault, seconds) in [("other gateway restarts", 2), ("other gateway away", if long { 110 } else { 8 })] {
        let (load, clinician) = (Load::start(demo).await?, Clinician::start(demo).await?);
        let gone = Instant::now();
        demo.kill("no/ncp-gateway").await?;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        started(demo, "ncp-gateway").await?;
        let back = Instant::now();
        let found = |told: &Told| told.status == 200;
        let soon = match clinician.since(gone).iter().filter(|told| found(told)).find(|told| told.at > back) {
            Some(told) => told.at.duration_since(back),
            None => clinician.goes_on().await?,
        };
        load.goes_on().await?;
        let told = clinician.since(gone);
        let not_tried = told.iter().filter(|told| told.code == "country-not-tried").count();
        for told in told.iter().filter(|told| !found(told)) {
            well_told(told)?;
        }
        ensure(not_tried > 0 || seconds < 3, "nobody was told that the country was not tried")?;
        is_soon(soon, long)?;
        let facts = json!({
            "seconds": seconds, "recovered_ms": soon.as_millis(), "said_ms": SOON.as_millis(), "refused": told.iter().filter(|t| !found(t)).count(),
            "not_tried": not_tried,
        });
        drop(clinician);
        good &= load.end(demo, fault, facts).await?;
    }
    Ok(good)
}

/// The short form runs on whatever machine, and finds what takes minutes.
fn is_soon(soon: Duration, long: bool) -> Result<(), Error> {
    let allowed = if long { SOON } else { SOON * 20 };
    ensure(soon < allowed, format!("the first good call came {soon:?} after the return"))
}

/// The country cannot be reached, or was not tried, and then in how many seconds it will be.
fn well_told(told: &Told) -> Result<(), Error> {
    let fits = match (told.status, told.code.as_str()) {
        (502, "country-unreachable" | "country-incomplete") => true,
        (503, "country-not-tried") => {
            told.retry_after.is_some_and(|after| told.text.contains(&format!("was not tried; again in {after} s")))
        }
        _ => false,
    };
    ensure(fits, format!("a clinician was told {told:?}"))
}
