//! What a run of the load found, as Markdown and as one line.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::journal::{Act, Ended, figures};
use super::samples::{Process, slope};
use super::trails::Compared;
use super::{GAIN, LEAST, LONG, Load};
use crate::Error;

/// Failures and records that are named one by one; the rest is counted.
const NAMED: usize = 20;

pub(super) struct Report<'a> {
    pub(super) load: &'a Load,
    pub(super) took: Duration,
    pub(super) acts: &'a [Act],
    pub(super) processes: &'a [Process],
    pub(super) compared: &'a Compared,
    /// Numbered records that never came to a repository.
    pub(super) missing: u64,
}

impl Report<'_> {
    /// Minutes until growth is measured: a quarter of the load.
    fn warm_up(&self) -> f64 {
        self.took.as_secs_f64() / 60.0 / 4.0
    }

    fn count(&self, wanted: impl Fn(&Ended) -> bool) -> usize {
        self.acts.iter().filter(|act| wanted(&act.ended)).count()
    }

    /// What must not be.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut out = Vec::new();
        let acts = self.acts.iter().filter_map(|act| match &act.ended {
            Ended::Failed(why) => Some(format!("{} of patient {}: {why}", act.kind.name(), act.patient)),
            _ => None,
        });
        out.extend(acts.take(NAMED));
        out.extend(self.compared.lost.iter().take(NAMED).map(|what| format!("not on the trail: {what}")));
        out.extend(self.compared.too_many.iter().take(NAMED).map(|what| format!("on the trail unasked: {what}")));
        if self.missing > 0 {
            out.push(format!("{} numbered records are missing", self.missing));
        }
        if self.load.seconds >= LONG {
            let least = LEAST * self.load.seconds as f64;
            // Who is told busy is not served: a load that is refused as a whole is no success.
            let served = self.acts.len() - self.count(|ended| matches!(ended, Ended::Busy));
            if (served as f64) < least {
                out.push(format!("{served} acts that were not told busy, {least:.0} expected"));
            }
            for process in self.processes {
                let gain = slope(process.warm(self.warm_up()));
                if gain >= GAIN {
                    out.push(format!("{} gains {gain:.2} MiB a minute", process.name));
                }
            }
        }
        out
    }

    /// The totals, as the other commands print theirs.
    pub(super) fn line(&self) -> Value {
        json!({ "load": "mixed", "seconds": self.took.as_secs(), "acts": self.acts.len(),
            "failed": self.count(|e| matches!(e, Ended::Failed(_))), "told_busy": self.count(|e| *e == Ended::Busy),
            "disclosed": self.compared.disclosed, "lost": self.compared.lost.len(),
            "too_many": self.compared.too_many.len(), "missing_numbers": self.missing })
    }

    pub(super) fn text(&self) -> Result<String, Error> {
        let mut out = String::new();
        let cores = std::thread::available_parallelism()?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let build = if cfg!(debug_assertions) { "dev build: no figures to compare with" } else { "release build" };
        let (callers, minutes) = (self.load.callers, self.took.as_secs_f64() / 60.0);
        writeln!(out, "# Load\n")?;
        writeln!(
            out,
            "`tests/load.sh`, {}: two countries of the demonstration, {callers} clinicians of Finland that ask Norway through \
             both gateways and {callers} callers of a neighbour of Norway, {minutes:.1} minutes, {} acts a second begun at \
             most. {cores} cores, Linux {}, {build}.\n",
            jiff::Timestamp::now().strftime("%Y-%m-%d"),
            self.load.rate,
            kernel.trim(),
        )?;
        self.acts_table(&mut out)?;
        self.trail(&mut out)?;
        self.processes_table(&mut out)?;
        let failures = self.failures();
        if !failures.is_empty() {
            writeln!(out, "\n## Failed\n")?;
            failures.iter().try_for_each(|failure| writeln!(out, "- {failure}"))?;
        }
        Ok(out)
    }

    fn acts_table(&self, out: &mut String) -> Result<(), Error> {
        writeln!(out, "| Act | Acts | Failed | Told busy | p50 ms | p99 ms | Longest ms |")?;
        writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        let ms = |us: i64| us as f64 / 1000.0;
        for (kind, of) in figures(self.acts) {
            let (name, acts, failed, busy) = (kind.name(), of.acts, of.failed, of.busy);
            let (p50, p99, most) = (ms(of.p50), ms(of.p99), ms(of.most));
            writeln!(out, "| {name} | {acts} | {failed} | {busy} | {p50:.1} | {p99:.1} | {most:.1} |")?;
        }
        let (failed, busy) = (self.count(|e| matches!(e, Ended::Failed(_))), self.count(|e| *e == Ended::Busy));
        Ok(writeln!(out, "| All | {} | {failed} | {busy} | | | |\n", self.acts.len())?)
    }

    fn trail(&self, out: &mut String) -> Result<(), Error> {
        let compared = self.compared;
        Ok(writeln!(
            out,
            "Trails: {} acts disclosed; {} records of the asking country, {} of the giving one. Not on the trail: {}. \
             Nobody's: {}. Numbers missing in the repositories: {}.\n",
            compared.disclosed,
            compared.asking,
            compared.giving,
            compared.lost.len(),
            compared.too_many.len(),
            self.missing
        )?)
    }

    fn processes_table(&self, out: &mut String) -> Result<(), Error> {
        writeln!(
            out,
            "After a warm-up of {:.1} minutes. The slope is the least-squares line through all samples, without the table of \
             the replay entries.\n",
            self.warm_up()
        )?;
        writeln!(
            out,
            "| Process | CPU s | % of a core | RSS MiB at the end of the warm-up | at the end | most | MiB/min | replay \
             entries | Descriptors, first and last | most | Threads, first and last |"
        )?;
        writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for process in self.processes {
            let warm = process.warm(self.warm_up());
            let (Some(begin), Some(first), Some(last)) = (process.samples.first(), warm.first(), warm.last()) else {
                continue;
            };
            let cpu = last.cpu_s - begin.cpu_s;
            let mib = |kib: u64| kib as f64 / 1024.0;
            let most = process.samples.iter().map(|s| s.rss_kib).max().unwrap_or_default();
            let descriptors = process.samples.iter().map(|s| s.descriptors).max().unwrap_or_default();
            writeln!(
                out,
                "| {} | {cpu:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {} | {}, {} | {descriptors} | {}, {} |",
                process.name,
                cpu / self.took.as_secs_f64() * 100.0,
                mib(first.rss_kib),
                mib(last.rss_kib),
                mib(most),
                slope(warm),
                last.replay,
                first.descriptors,
                last.descriptors,
                first.threads,
                last.threads,
            )?;
        }
        Ok(())
    }
}
