//! The spool's files: segments of reserved space, and the ladder that is climbed when space runs out.
//!
//! Primary folder, up to its bound or as far as its disk goes; then the reserve, a file whose space was taken at the start;
//! then a second folder on another disk. Only when all three fail is a record refused.
//!
//! What every receiver acknowledged is kept for seven days, so that a repository that lost it gets it again. Nobody needs
//! it: when space runs short it goes, oldest first, before the reserve is touched or a record refused.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::lock::lock;

/// Acknowledged segments are kept so long.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// A segment and the reserve take at most this part of the disk each.
const PART_OF_DISK: u64 = 8;
/// However small the disk is, a segment is no smaller, bytes.
const LEAST: u64 = 64 << 10;

/// Bounds of a spool. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolLimits {
    /// A segment; its space is reserved when it is begun. At most an eighth of the disk.
    pub segment: u64,
    /// Space held back for the day when the disk is full, at most an eighth of the disk; 0: none.
    pub reserve: u64,
    /// All segments of the primary folder; where its disk is smaller, the disk is the bound.
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
    /// What is not acknowledged takes 70 % of the bound or of the disk: look at the delivery.
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
    /// Segments before this number are acknowledged by every receiver.
    acknowledged: Arc<AtomicU64>,
    /// Acknowledged segments that went before their seven days were over.
    given_up: Arc<AtomicU64>,
}

impl Folder {
    pub(crate) fn new(dir: &Path, limits: &SpoolLimits) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        if let Some(second) = &limits.second {
            // A second disk that is not there is no reason not to start.
            let _ = std::fs::create_dir_all(second);
        }
        let (acknowledged, given_up) = Default::default();
        Ok(Self { dir: dir.to_owned(), limits: limits.clone(), acknowledged, given_up })
    }

    /// Keeps other processes from the folders while the answer lives.
    pub(super) fn lock(&self) -> std::io::Result<Vec<File>> {
        let mut locks = vec![lock(&self.dir.join("lock"))?];
        if let Some(second) = &self.limits.second {
            match lock(&second.join("lock")) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => return Err(error),
                // A second disk that is not there is no reason not to start.
                second => locks.extend(second.ok()),
            }
        }
        Ok(locks)
    }

    /// The first segment that some receiver still needs.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    pub(crate) fn set_acknowledged(&self, before: u64) {
        self.acknowledged.store(before, Ordering::Release);
    }

    /// How many acknowledged segments went before their time.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
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
        self.used_from(0)
    }

    fn used_from(&self, first: u64) -> u64 {
        let segments = self.of(&self.dir).into_iter().filter(|(number, _)| *number >= first);
        segments.filter_map(|(_, path)| path.metadata().ok()).map(|m| m.blocks() * 512).sum()
    }

    /// The segments of one folder, oldest first.
    fn of(&self, dir: &Path) -> Vec<(u64, PathBuf)> {
        let mut segments = self.segments().unwrap_or_default();
        segments.retain(|(_, path)| path.parent() == Some(dir));
        segments
    }

    /// How full the primary folder is: what is needed, from the segment `needed` on, by the bound or by what the disk gives.
    pub(crate) fn level(&self, rung: Option<Rung>, needed: u64) -> SpoolLevel {
        match rung {
            None => SpoolLevel::Full,
            Some(Rung::Second) => SpoolLevel::Second,
            Some(Rung::Reserve) => SpoolLevel::Reserve,
            Some(Rung::Primary) => {
                let bound = self.limits.most.min(self.used().saturating_add(available(&self.dir)));
                match self.used_from(needed).saturating_mul(100) / bound.max(1) {
                    0..70 => SpoolLevel::Free,
                    70..90 => SpoolLevel::Warning,
                    _ => SpoolLevel::Critical,
                }
            }
        }
    }

    /// Begins a segment on the lowest rung that has room; those before `needed` make room.
    pub(crate) fn begin(&self, number: u64, needed: u64) -> std::io::Result<(File, Rung, u64)> {
        let size = part_of_disk(&self.dir, self.limits.segment);
        self.make_room(&self.dir, size, needed);
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
        if let Ok(held) = reserve.metadata() {
            let path = segment(&self.dir, number);
            let taken = std::fs::rename(&reserve, &path).and_then(|()| sync(&self.dir));
            if let Ok(file) = taken.and_then(|()| OpenOptions::new().append(true).open(&path)) {
                tracing::error!(reason = %error, "audit spool: the reserve is in use");
                return Ok((file, Rung::Reserve, held.blocks() * 512));
            }
        }
        let Some(second) = &self.limits.second else { return Err(error) };
        let size = part_of_disk(second, self.limits.segment);
        self.make_room(second, size, needed);
        let file = reserved(&segment(second, number), size)?;
        sync(second)?;
        tracing::error!(reason = %error, "audit spool: the second folder is in use");
        Ok((file, Rung::Second, size))
    }

    /// Takes the reserve's space, at the start and when there is room again.
    pub(crate) fn hold_reserve(&self) {
        let path = self.dir.join("reserve");
        let (size, segment) = (self.limits.reserve, part_of_disk(&self.dir, self.limits.segment));
        let full = self.used() + segment > self.limits.most;
        if size == 0 || full || path.exists() {
            return;
        }
        if let Err(error) = reserved(&path, part_of_disk(&self.dir, size)) {
            tracing::warn!(reason = %error, "audit spool: no room for the reserve");
        }
    }

    /// Removes segments before `needed` that are old enough.
    pub(crate) fn prune(&self, needed: u64) -> std::io::Result<()> {
        let limit = SystemTime::now().checked_sub(KEPT);
        for (_, path) in self.segments()?.into_iter().filter(|(n, _)| *n < needed) {
            let modified = std::fs::metadata(&path)?.modified()?;
            if limit.is_some_and(|limit| modified < limit) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Gives up segments before `needed`, oldest first, until a new one of this size has room under the bound, and the disk
    /// keeps as much again and the reserve for what else is written there.
    fn make_room(&self, dir: &Path, size: u64, needed: u64) {
        let primary = dir == self.dir;
        let mut rest = self.of(dir).into_iter().filter(|(number, _)| *number < needed);
        loop {
            let missing = primary && !dir.join("reserve").exists();
            let reserve = if missing { part_of_disk(dir, self.limits.reserve) } else { 0 };
            let over = primary && self.used() + size > self.limits.most;
            if !over && available(dir) >= size.saturating_mul(2).saturating_add(reserve) {
                return;
            }
            let Some((number, path)) = rest.next() else { return };
            match std::fs::remove_file(path) {
                Ok(()) => {
                    self.given_up.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(
                        segment = number,
                        "audit spool: space is short, an acknowledged segment was removed"
                    );
                }
                Err(error) => tracing::warn!(reason = %error, "audit spool: a segment cannot be removed"),
            }
        }
    }

    /// Before a start writes anything, segments before `needed` make room.
    pub(super) fn make_room_to_start(&self, needed: u64) {
        self.make_room(&self.dir, part_of_disk(&self.dir, self.limits.segment), needed);
    }

    /// `epoch` is a counter of starts, durable before it is used, and never behind the records. It is written in its place,
    /// which takes no space of a disk that is full: so few bytes lie in one sector, and are there or not.
    pub(crate) fn count_epoch(&self, recorded: u64) -> std::io::Result<u64> {
        let path = self.dir.join("epoch");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let epoch = text.trim().parse::<u64>().unwrap_or(0).max(recorded) + 1;
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        file.write_all_at(format!("{epoch:020}\n").as_bytes(), 0)?;
        file.sync_all()?;
        sync(&self.dir)?;
        Ok(epoch)
    }
}

/// Bytes that a disk still gives, and all of it; without end where it does not tell.
fn disk(dir: &Path) -> (u64, u64) {
    let known = statvfs(dir).ok().filter(|disk| disk.f_blocks > 0);
    known.map_or((u64::MAX, u64::MAX), |disk| {
        (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize))
    })
}

fn available(dir: &Path) -> u64 {
    disk(dir).0
}

/// As much as is wanted, or the part of a small disk that one file may take.
fn part_of_disk(dir: &Path, wanted: u64) -> u64 {
    wanted.min((disk(dir).1 / PART_OF_DISK).max(LEAST))
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
