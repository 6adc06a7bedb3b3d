//! The spool's files: segments of reserved space, and the ladder that is climbed when space runs out.
//!
//! Primary folder, up to its bound; then the reserve, a file whose space was taken at the start; then a second folder on
//! another disk. Only when all three fail is a record refused.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, fallocate};

/// Acknowledged segments are kept so long.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bounds of a spool. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolLimits {
    /// A segment; its space is reserved when it is begun.
    pub segment: u64,
    /// Space held back for the day when the disk is full; 0: none.
    pub reserve: u64,
    /// All segments of the primary folder.
    pub most: u64,
    /// A folder on another disk, used when the first takes nothing more.
    pub second: Option<PathBuf>,
}

impl Default for SpoolLimits {
    /// 64 MiB, 256 MiB, 16 GiB (72 hours at twenty exchanges a second), no second folder.
    fn default() -> Self {
        Self { segment: 64 << 20, reserve: 256 << 20, most: 16 << 30, second: None }
    }
}

/// Where a segment's space came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rung {
    Primary,
    Reserve,
    Second,
}

/// How near the spool is to refusing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SpoolLevel {
    /// Room.
    #[default]
    Free,
    /// 70 % of the bound: look at the delivery.
    Warning,
    /// 90 %: call somebody.
    Critical,
    /// The reserve is in use.
    Reserve,
    /// The second folder is in use.
    Second,
    /// Nothing is taken: nothing is disclosed.
    Full,
}

/// The folders.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    pub(crate) limits: SpoolLimits,
}

impl Folder {
    pub(crate) fn new(dir: &Path, limits: &SpoolLimits) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        if let Some(second) = &limits.second {
            // A second disk that is not there is no reason not to start.
            let _ = std::fs::create_dir_all(second);
        }
        Ok(Self { dir: dir.to_owned(), limits: limits.clone() })
    }

    /// Numbers and paths of all segments, oldest first.
    pub(crate) fn segments(&self) -> std::io::Result<Vec<(u64, PathBuf)>> {
        let mut out = Vec::new();
        for dir in std::iter::once(&self.dir).chain(&self.limits.second) {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            for entry in entries {
                let path = entry?.path();
                let number = path.file_name().and_then(|n| n.to_str()).and_then(number_of);
                out.extend(number.map(|number| (number, path)));
            }
        }
        out.sort();
        Ok(out)
    }

    /// Bytes that the segments of the primary folder hold on disk.
    pub(crate) fn used(&self) -> u64 {
        let Ok(segments) = self.segments() else { return 0 };
        let primary = segments.iter().filter(|(_, path)| path.parent() == Some(self.dir.as_path()));
        primary.filter_map(|(_, path)| path.metadata().ok()).map(|m| m.blocks() * 512).sum()
    }

    /// How full the primary folder is, by its bound.
    pub(crate) fn level(&self, rung: Option<Rung>) -> SpoolLevel {
        match rung {
            None => SpoolLevel::Full,
            Some(Rung::Second) => SpoolLevel::Second,
            Some(Rung::Reserve) => SpoolLevel::Reserve,
            Some(Rung::Primary) => match self.used().saturating_mul(100) / self.limits.most.max(1) {
                0..70 => SpoolLevel::Free,
                70..90 => SpoolLevel::Warning,
                _ => SpoolLevel::Critical,
            },
        }
    }

    /// Begins a segment on the lowest rung that has room.
    pub(crate) fn begin(&self, number: u64) -> std::io::Result<(File, Rung, u64)> {
        let size = self.limits.segment;
        let primary = if self.used() + size > self.limits.most {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        } else {
            reserved(&segment(&self.dir, number), size)
        };
        let error = match primary {
            Ok(file) => {
                sync(&self.dir)?;
                return Ok((file, Rung::Primary, size));
            }
            Err(error) => error,
        };
        let reserve = self.dir.join("reserve");
        if reserve.exists() {
            let path = segment(&self.dir, number);
            let taken = std::fs::rename(&reserve, &path).and_then(|()| sync(&self.dir));
            if let Ok(file) = taken.and_then(|()| OpenOptions::new().append(true).open(&path)) {
                tracing::error!(reason = %error, "audit spool: the reserve is in use");
                return Ok((file, Rung::Reserve, self.limits.reserve));
            }
        }
        let Some(second) = &self.limits.second else { return Err(error) };
        let file = reserved(&segment(second, number), size)?;
        sync(second)?;
        tracing::error!(reason = %error, "audit spool: the second folder is in use");
        Ok((file, Rung::Second, size))
    }

    /// Takes the reserve's space, at the start and when there is room again.
    pub(crate) fn hold_reserve(&self) {
        let path = self.dir.join("reserve");
        let full = self.used() + self.limits.segment > self.limits.most;
        if self.limits.reserve == 0 || full || path.exists() {
            return;
        }
        if let Err(error) = reserved(&path, self.limits.reserve) {
            tracing::warn!(reason = %error, "audit spool: no room for the reserve");
        }
    }

    /// Removes segments that every receiver acknowledged as a whole and that are old enough; when space runs out, also
    /// younger ones.
    pub(crate) fn prune(&self, acknowledged_before: u64) -> std::io::Result<()> {
        let pressed = self.level(Some(Rung::Primary)) >= SpoolLevel::Critical;
        let limit = SystemTime::now().checked_sub(KEPT);
        for (_, path) in self.segments()?.into_iter().filter(|(n, _)| *n < acknowledged_before) {
            let modified = std::fs::metadata(&path)?.modified()?;
            if pressed || limit.is_some_and(|limit| modified < limit) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// `epoch` is a counter of starts, durable before it is used.
    pub(crate) fn count_epoch(&self) -> std::io::Result<u64> {
        let path = self.dir.join("epoch");
        let last = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0);
        let epoch = last + 1;
        let fresh = self.dir.join("epoch.new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        sync(&self.dir)?;
        Ok(epoch)
    }
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:012}.spool"))
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.strip_suffix(".spool")?.parse().ok()
}

fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A new file whose space is taken although its length is 0; without leftovers when there is none.
fn reserved(path: &Path, size: u64) -> std::io::Result<File> {
    let file = OpenOptions::new().create_new(true).append(true).open(path)?;
    match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size) {
        // A file system that cannot reserve fails later, when it is written.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(file),
        Err(error) => {
            let _ = std::fs::remove_file(path);
            Err(error.into())
        }
    }
}
