//! What the processes of the demonstration use while the load runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Error;
use crate::bench::{memory, processor_seconds};
use crate::demo::{Demo, offset, plain};

const PROGRAMS: [&str; 3] = ["ncp-gateway", "ncp-audit", "ncp-translation"];

/// One look at a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Minutes since the load began.
    pub(crate) at: f64,
    pub(crate) rss_kib: u64,
    /// Live replay entries; 0 where the process has none.
    pub(crate) replay: u64,
    pub(crate) cpu_s: f64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

/// A process and its samples.
pub(crate) struct Process {
    /// `no/ncp-gateway`
    pub(crate) name: String,
    pid: u32,
    /// Admin port of a gateway.
    metrics: Option<u16>,
    pub(crate) samples: Vec<Sample>,
}

impl Process {
    async fn look(&mut self, began: Instant) -> Result<(), Error> {
        let count = |what: &str| -> Result<usize, Error> {
            Ok(std::fs::read_dir(format!("/proc/{}/{what}", self.pid))?.count())
        };
        let replay = match self.metrics {
            Some(port) => entries(&plain(port, "/metrics").await?.unwrap_or_default()),
            None => 0,
        };
        self.samples.push(Sample {
            at: began.elapsed().as_secs_f64() / 60.0,
            rss_kib: memory(self.pid, "VmRSS:")?,
            replay,
            cpu_s: processor_seconds(self.pid)?,
            descriptors: count("fd")?,
            threads: count("task")?,
        });
        Ok(())
    }

    /// The samples after the warm-up.
    pub(crate) fn warm(&self, warm_up: f64) -> &[Sample] {
        let from = self.samples.partition_point(|sample| sample.at < warm_up);
        &self.samples[from..]
    }
}

/// The processes of both countries.
pub(crate) fn processes(demo: &Demo) -> Result<Vec<Process>, Error> {
    let mut out = Vec::new();
    for country in ["no", "fi"] {
        for program in PROGRAMS {
            let metrics = (program == "ncp-gateway").then(|| offset(country) + 445);
            let (name, pid) = (format!("{country}/{program}"), demo.pid(country, program)?);
            out.push(Process { name, pid, metrics, samples: Vec::new() });
        }
    }
    Ok(out)
}

/// Looks at all of them at the beginning, at every interval, and at the end.
pub(crate) async fn watch(
    mut processes: Vec<Process>,
    every: Duration,
    enough: Arc<AtomicBool>,
) -> Result<Vec<Process>, Error> {
    let began = Instant::now();
    loop {
        let last = enough.load(Ordering::Acquire);
        for process in &mut processes {
            process.look(began).await?;
        }
        if last {
            return Ok(processes);
        }
        tokio::time::sleep(every).await;
    }
}

/// `ncp_replay_entries` of a page of metrics.
fn entries(page: &str) -> u64 {
    let line = page.lines().find(|line| line.starts_with("ncp_replay_entries") && !line.starts_with('#'));
    line.and_then(|line| line.split_whitespace().last()?.parse::<f64>().ok()).unwrap_or_default() as u64
}

/// KiB of the table of so many replay entries: a power of two of places of 81 bytes, at most seven eighths of them taken.
fn table(entries: u64) -> u64 {
    if entries == 0 { 0 } else { (entries * 8 / 7).next_power_of_two() * 81 / 1024 }
}

/// MiB that a process gains in a minute, by least squares, without the table of its replay entries. 0 where there is nothing to
/// fit.
pub(crate) fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let value = |sample: &Sample| (sample.rss_kib as f64 - table(sample.replay) as f64) / 1024.0;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (at, mib) = (mean(&|sample| sample.at), mean(&value));
    let (mut over, mut under) = (0.0, 0.0);
    for sample in samples {
        over += (sample.at - at) * (value(sample) - mib);
        under += (sample.at - at).powi(2);
    }
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, rss_kib: u64, replay: u64) -> Sample {
        Sample { at, rss_kib, replay, cpu_s: 0.0, descriptors: 0, threads: 0 }
    }

    #[test]
    fn growth_is_found_and_replay_entries_are_set_apart() {
        let grows: Vec<Sample> = (0..60).map(|n| sample(f64::from(n) / 4.0, 100_000 + n as u64 * 512, 0)).collect();
        assert!((slope(&grows) - 2.0).abs() < 1e-6, "{}", slope(&grows));
        let table_alone: Vec<Sample> =
            (0..60).map(|n| sample(f64::from(n), 50_000 + table(n as u64 * 900), n as u64 * 900)).collect();
        assert!(slope(&table_alone).abs() < 1e-9);
        assert!(slope(&[]).abs() < f64::EPSILON && slope(&grows[..1]).abs() < f64::EPSILON);
        let page = "# HELP ncp_replay_entries x\n# TYPE ncp_replay_entries gauge\nncp_replay_entries 1234\n";
        assert_eq!(entries(page), 1234);
    }
}
