//! The spool's files and its writer thread: group commit, torn tails cut, exchanges that never ended found again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::AuditError;
use crate::event::{Decision, Intent};
use crate::frame::{self, Found, Key};
use crate::message::AuditRecord;

/// Records of one group at most.
const GROUP: usize = 256;
/// A segment is closed at this size, bytes.
const SEGMENT: u64 = 64 << 20;
/// Acknowledged segments are kept so long.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What lies in a frame.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Item {
    Intent(Intent),
    Decision {
        exchange_id: String,
        decision: Decision,
    },
    /// Messages with their sequence numbers; closes the exchange they are of.
    Records {
        closes: Option<String>,
        epoch: u64,
        first_seq: u64,
        records: Vec<AuditRecord>,
    },
}

/// A write that is waited for.
pub(crate) struct Job {
    pub(crate) item: Item,
    pub(crate) done: oneshot::Sender<Result<(), AuditError>>,
}

/// Where the durable end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// What a start found.
pub(crate) struct Opened {
    pub(crate) epoch: u64,
    pub(crate) unfinished: Vec<(Intent, Decision)>,
    pub(crate) queue: mpsc::SyncSender<Job>,
    pub(crate) end: watch::Receiver<Position>,
    pub(crate) thread: std::thread::JoinHandle<()>,
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:012}.spool"))
}

pub(crate) fn segments(dir: &Path) -> std::io::Result<Vec<u64>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("segment-")).and_then(|n| n.strip_suffix(".spool"));
        out.extend(number.and_then(|n| n.parse::<u64>().ok()));
    }
    out.sort_unstable();
    Ok(out)
}

/// Opens the folder: counts the start, cuts a torn tail, finds exchanges without an end, starts the writer.
pub(crate) fn open(dir: &Path, key: &Key) -> Result<Opened, AuditError> {
    std::fs::create_dir_all(dir)?;
    let numbers = segments(dir)?;
    let mut open: BTreeMap<String, (Intent, Decision)> = BTreeMap::new();
    for (index, number) in numbers.iter().enumerate() {
        let mut file = OpenOptions::new().read(true).write(true).open(segment_path(dir, *number))?;
        let mut offset = 0;
        loop {
            match frame::read_at(&mut file, key, offset)?.map_err(|()| AuditError::OtherKey)? {
                Found::End => break,
                Found::Torn if index + 1 == numbers.len() => {
                    tracing::warn!(offset, "spool ends in a torn record, cut");
                    file.set_len(offset)?;
                    file.sync_all()?;
                    break;
                }
                Found::Torn => {
                    tracing::error!(
                        segment = number,
                        offset,
                        "spool segment is damaged, what follows in it is not read"
                    );
                    break;
                }
                Found::Frame(plain, next) => {
                    match serde_json::from_slice::<Item>(&plain).map_err(std::io::Error::other)? {
                        Item::Intent(intent) => {
                            open.insert(intent.exchange_id.clone(), (intent, Decision::default()));
                        }
                        Item::Decision { exchange_id, decision } => {
                            if let Some((_, slot)) = open.get_mut(&exchange_id) {
                                *slot = decision;
                            }
                        }
                        Item::Records { closes, .. } => {
                            closes.map(|id| open.remove(&id));
                        }
                    }
                    offset = next;
                }
            }
        }
    }
    let epoch = count_start(dir)?;
    let number = numbers.last().map_or(1, |last| last + 1);
    let file = new_segment(dir, number)?;
    let (queue, jobs) = mpsc::sync_channel(4096);
    let (tell, end) = watch::channel(Position { segment: number, offset: 0 });
    let writer = Writer {
        dir: dir.to_owned(),
        key: key.clone(),
        file,
        at: Position { segment: number, offset: 0 },
        epoch,
        next_seq: 1,
        tell,
    };
    let thread = std::thread::Builder::new().name("audit-spool".into()).spawn(move || writer.run(&jobs))?;
    Ok(Opened { epoch, unfinished: open.into_values().collect(), queue, end, thread })
}

/// `epoch` is a counter of starts, durable before it is used.
fn count_start(dir: &Path) -> std::io::Result<u64> {
    let path = dir.join("epoch");
    let last = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0);
    let epoch = last + 1;
    let fresh = dir.join("epoch.new");
    let mut file = File::create(&fresh)?;
    writeln!(file, "{epoch}")?;
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(epoch)
}

fn new_segment(dir: &Path, number: u64) -> std::io::Result<File> {
    let file = OpenOptions::new().create_new(true).append(true).open(segment_path(dir, number))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

struct Writer {
    dir: PathBuf,
    key: Key,
    file: File,
    at: Position,
    epoch: u64,
    next_seq: u64,
    tell: watch::Sender<Position>,
}

impl Writer {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut group = vec![first];
            while group.len() < GROUP {
                match jobs.try_recv() {
                    Ok(job) => group.push(job),
                    Err(_) => break,
                }
            }
            self.commit(group);
        }
    }

    /// Writes a group and makes it durable; on failure nothing of it counts.
    fn commit(&mut self, mut group: Vec<Job>) {
        let before = self.next_seq;
        let mut bytes = Vec::new();
        let mut failed = None;
        for job in &mut group {
            if let Item::Records { epoch, first_seq, records, .. } = &mut job.item {
                (*epoch, *first_seq) = (self.epoch, self.next_seq);
                self.next_seq += records.len() as u64;
            }
            match serde_json::to_vec(&job.item)
                .map_err(std::io::Error::other)
                .and_then(|plain| frame::seal(&self.key, &plain))
            {
                Ok(frame) => bytes.extend_from_slice(&frame),
                Err(error) => failed = Some(error),
            }
        }
        let result = match failed {
            Some(error) => Err(error),
            None => self.file.write_all(&bytes).and_then(|()| self.file.sync_data()),
        };
        match result {
            Ok(()) => {
                self.at.offset += bytes.len() as u64;
                self.tell.send_replace(self.at);
                for job in group {
                    let _ = job.done.send(Ok(()));
                }
                if self.at.offset >= SEGMENT
                    && let Err(error) = self.rotate()
                {
                    tracing::error!(reason = %error, "new spool segment failed, the old one goes on");
                }
            }
            Err(error) => {
                tracing::error!(reason = %error, "audit record not stored");
                self.next_seq = before;
                // Half a write must not stand before the next one.
                let cut = self.file.set_len(self.at.offset);
                for job in group {
                    let _ = job.done.send(Err(AuditError::Io(std::io::Error::from(error.kind()))));
                }
                if cut.is_err() {
                    let _ = self.rotate();
                }
            }
        }
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let number = self.at.segment + 1;
        self.file = new_segment(&self.dir, number)?;
        self.at = Position { segment: number, offset: 0 };
        self.tell.send_replace(self.at);
        Ok(())
    }
}

/// Removes segments that were acknowledged as a whole and are old enough.
pub(crate) fn prune(dir: &Path, acknowledged_before: u64) -> std::io::Result<()> {
    let limit = SystemTime::now().checked_sub(KEPT);
    for number in segments(dir)?.into_iter().filter(|n| *n < acknowledged_before) {
        let path = segment_path(dir, number);
        let modified = std::fs::metadata(&path)?.modified()?;
        if limit.is_some_and(|limit| modified < limit) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Epoch, seq and XML of every record that lies in a spool, oldest first; for operators and tests.
///
/// # Errors
/// Folder, key.
pub fn read_spool(options: &crate::SpoolOptions) -> Result<Vec<(u64, u64, String)>, AuditError> {
    let key = Key::load(&options.key_file)?;
    let mut out = Vec::new();
    for number in segments(&options.dir)? {
        let mut file = File::open(segment_path(&options.dir, number))?;
        let mut offset = 0;
        while let Found::Frame(plain, next) =
            frame::read_at(&mut file, &key, offset)?.map_err(|()| AuditError::OtherKey)?
        {
            let item = serde_json::from_slice(&plain).map_err(std::io::Error::other)?;
            if let Item::Records { epoch, first_seq, records, .. } = item {
                out.extend(records.into_iter().enumerate().map(|(i, r)| (epoch, first_seq + i as u64, r.xml)));
            }
            offset = next;
        }
    }
    Ok(out)
}
