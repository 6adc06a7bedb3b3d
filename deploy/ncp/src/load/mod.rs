//! `ncp load`: clinicians of one country and neighbours of the other ask for a while; every act is in a log of its own and
//! compared with both trails, and the processes are watched. Or a crowd asks at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::bench_load::unlimited;
use crate::check::ensure;
use crate::{Error, audit};

mod callers;
mod crowd;
mod journal;
mod report;
mod samples;
mod trails;

use callers::{Clinician, Norway};
use journal::{Act, Ended, Journal, Kind};

/// How the callers' subjects begin; their number follows.
const SUBJECT: &str = "load-";
/// What is counted as a long run, whose figures are judged.
const LONG: u64 = 600;
/// Acts a second of a long run, and MiB a minute that a process may gain.
const LEAST: f64 = 25.0;
const GAIN: f64 = 0.1;

/// How much load, for how long, and where it is written down.
#[derive(Args)]
pub(crate) struct Load {
    /// How long, seconds; from ten minutes on the rate and the growth of the processes are judged too.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Acts a second that all callers together begin.
    #[arg(long, default_value_t = 30)]
    rate: u32,
    /// Clinicians, and as many callers of neighbours.
    #[arg(long, default_value_t = 8)]
    callers: usize,
    /// Instead of the mixed load: so many clinicians fetch 20 MB each while 64 neighbours ask, all at once.
    #[arg(long)]
    crowd: Option<usize>,
    /// The report, Markdown; the figures of a crowd are printed.
    #[arg(long, default_value = "target/load.md")]
    report: PathBuf,
    /// The log of all acts, one JSON line each.
    #[arg(long, default_value = "target/load-acts.jsonl")]
    log: PathBuf,
    /// Where deploy/demo and tests/fixtures lie.
    #[arg(long, default_value = ".")]
    sources: PathBuf,
}

/// True when nothing failed, everything is on both trails, and a long run did enough.
pub(crate) async fn run(load: Load) -> Result<bool, Error> {
    let dir = tempfile::tempdir()?;
    match load.crowd {
        Some(clinicians) => crowd::run(dir.path(), &load.sources, clinicians).await,
        None => mixed(dir.path(), &load).await,
    }
}

async fn mixed(dir: &Path, load: &Load) -> Result<bool, Error> {
    let mut demo = unlimited(dir, &load.sources)?;
    demo.start().await?;
    let norway = Arc::new(Norway::learn(&demo).await?);
    let mut clinicians = Vec::new();
    for number in 0..load.callers {
        clinicians.push(Clinician::learn(&demo, &norway, number, load.seconds).await?);
    }
    let journal = Arc::new(Journal::create(&load.log)?);
    let enough = Arc::new(AtomicBool::new(false));
    let every = Duration::from_secs((load.seconds / 240).max(1));
    let watching = tokio::spawn(samples::watch(samples::processes(&demo)?, every, enough.clone()));

    let (from, began) = (Timestamp::now().as_microsecond(), Instant::now());
    let pace = Pace {
        until: began + Duration::from_secs(load.seconds),
        every: Duration::from_secs(1) * u32::try_from(load.callers * 2)? / load.rate.max(1),
    };
    let mut running = JoinSet::new();
    for (number, clinician) in clinicians.into_iter().enumerate() {
        let (journal, pace) = (journal.clone(), pace.begun(number));
        running.spawn(async move { one_by_one(&clinician, number, &journal, pace).await });
    }
    for number in load.callers..load.callers * 2 {
        let (norway, journal, pace) = (norway.clone(), journal.clone(), pace.begun(number));
        running.spawn(async move { one_by_one(&*norway, number, &journal, pace).await });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let took = began.elapsed();
    enough.store(true, Ordering::Release);
    let processes = watching.await??;
    let to = Timestamp::now().as_microsecond() + 1;
    let acts = Arc::into_inner(journal).ok_or("a caller still writes")?.close()?;
    let compared = trails::read_and_compare(&demo.dir, &acts, (from, to)).await?;
    let mut missing = 0;
    for country in ["no", "fi"] {
        missing += audit::missing(&demo.dir, country).await?;
    }
    demo.stop().await?;

    let whole = report::Report { load, took, acts: &acts, processes: &processes, compared: &compared, missing };
    if let Some(folder) = load.report.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&load.report, whole.text()?)?;
    println!("{}", whole.line());
    whole.failures().iter().for_each(|failure| println!("FAILED  {failure}"));
    ensure(!acts.is_empty(), "nothing was asked")?;
    Ok(whole.failures().is_empty())
}

/// When a caller begins its acts.
#[derive(Clone, Copy)]
struct Pace {
    until: Instant,
    every: Duration,
}

impl Pace {
    /// The same for one caller: they do not begin together.
    fn begun(self, number: usize) -> (Self, Instant) {
        let late = self.every * u32::try_from(number % 16).unwrap_or_default() / 16;
        (self, Instant::now() + late)
    }
}

/// Somebody who asks.
trait Caller {
    /// What is done, one after the other.
    const KINDS: &[Kind];

    /// How many patients are known.
    fn patients(&self) -> usize;

    /// Does an act about the patient of a number: the MessageID of a neighbour's request, and how it ended.
    fn act(&self, kind: Kind, patient: usize) -> impl Future<Output = (Option<String>, Ended)> + Send;
}

/// Does the acts of a caller, each at its time or when the one before has ended.
async fn one_by_one<C: Caller>(
    caller: &C,
    number: usize,
    journal: &Journal,
    (pace, first): (Pace, Instant),
) -> Result<(), Error> {
    let mut next = first;
    for count in 0.. {
        tokio::time::sleep_until(next.into()).await;
        if Instant::now() >= pace.until {
            break;
        }
        next = Instant::now().max(next + pace.every);
        let kind = C::KINDS[count % C::KINDS.len()];
        let patient = (number + count / C::KINDS.len()) % caller.patients();
        let (began, started) = (Timestamp::now().as_microsecond(), Instant::now());
        let (message, ended) = caller.act(kind, patient).await;
        let took = i64::try_from(started.elapsed().as_micros())?.max(Timestamp::now().as_microsecond() - began);
        journal.add(Act { kind, caller: number, patient, began, took, message, ended })?;
    }
    Ok(())
}
