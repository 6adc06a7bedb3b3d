//! What a process used of the machine, as the kernel counts it: no clock of the wall is read.

use std::time::Duration;

use crate::pki::Error;

/// Ticks of a second in `/proc/PID/stat` on every Linux that we run on (USER_HZ).
const TICKS: u64 = 100;

/// A process that is watched.
#[derive(Debug, Clone, Copy)]
pub struct Watched(pub u32);

/// What some work cost the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Time on processors, of all threads.
    pub cpu: Duration,
    /// Resident memory at its peak above what it was before, bytes.
    pub grown: u64,
    /// Resident memory at its peak, bytes.
    pub peak: u64,
}

impl Watched {
    /// What some work costs the process.
    ///
    /// # Errors
    /// The process is gone.
    pub async fn cost<T>(self, work: impl Future<Output = T>) -> Result<(T, Cost), Error> {
        let (cpu, resident) = (self.cpu()?, self.memory("VmRSS:")?);
        // The peak is counted from now.
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5")?;
        let out = work.await;
        let peak = self.memory("VmHWM:")?;
        let cpu = self.cpu()?.saturating_sub(cpu);
        Ok((out, Cost { cpu, grown: peak.saturating_sub(resident), peak }))
    }

    /// Time on processors so far.
    fn cpu(self) -> Result<Duration, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name of the program, in parentheses, may hold blanks.
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let mut fields = fields.split_whitespace().skip(11);
        let ticks: u64 =
            fields.next().ok_or("no utime")?.parse::<u64>()? + fields.next().ok_or("no stime")?.parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }

    /// A field of `/proc/PID/status`, bytes.
    fn memory(self, field: &str) -> Result<u64, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
    }
}
