//! The durable spool: group commit, torn tails cut, damage passed over, exchanges that never ended found again.

pub(crate) mod apart;
mod cursor;
mod folder;
mod ledger;
mod lock;
mod packed;
mod reader;
mod unstored;
mod writer;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

pub use apart::SetApart;
pub(crate) use cursor::{Cursor, Reach};
pub(crate) use folder::Folder;
pub use folder::{SpoolLevel, SpoolLimits};
use ledger::Checkpoint;
pub(crate) use ledger::Ledger;
pub use lock::lock;
pub(crate) use reader::{Outgoing, Reader};

use crate::AuditError;
use crate::event::{Decision, Intent};
use crate::frame::{self, Key, Next};
use crate::message::AuditRecord;

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
        /// In the first records of an epoch: the epoch before and its last number. Who has less lost its tail.
        #[serde(default)]
        ended: (u64, u64),
    },
}

impl Item {
    /// Messages that have no numbers yet.
    pub(crate) fn records(closes: Option<String>, records: Vec<AuditRecord>) -> Self {
        Self::Records { closes, epoch: 0, first_seq: 0, records, ended: (0, 0) }
    }

    /// Notes what lies at a place, or not before it.
    fn note(&self, at: Position, ledger: &mut Ledger) {
        match self {
            Self::Intent(intent) => ledger.begin(&intent.exchange_id, at),
            Self::Decision { .. } => {}
            Self::Records { closes, epoch, first_seq, records, .. } => {
                let at = records.first().map_or(0, |r| r.event_time_us);
                ledger.record(*epoch, *first_seq, records.len(), at);
                closes.iter().for_each(|id| ledger.close(id));
            }
        }
    }
}

/// A write that is waited for.
pub(crate) struct Job {
    pub(crate) item: Item,
    pub(crate) done: oneshot::Sender<Result<(), AuditError>>,
}

/// Where the durable end is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// How the spool is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// How near it is to refusing.
    pub level: SpoolLevel,
    /// Bytes on the primary disk.
    pub used: u64,
    /// The segment that is written.
    pub segment: u64,
    /// Starts so far.
    pub epoch: u64,
    /// Records of this epoch.
    pub last_seq: u64,
    /// Groups made durable since the start; one sync each.
    pub groups: u64,
    /// Acknowledged segments that were removed before their seven days since the start, because space was short.
    pub given_up: u64,
}

/// What a start found.
pub(crate) struct Opened {
    pub(crate) epoch: u64,
    pub(crate) unfinished: Vec<(Intent, Decision)>,
    pub(crate) queue: mpsc::SyncSender<Job>,
    pub(crate) end: watch::Receiver<Position>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
}

/// Opens the folder: keeps other processes out, counts the start, cuts a torn tail, finds exchanges without an end, starts
/// the writer. With `at_once` the log has the last copy of a record that no disk takes as soon as it is refused.
pub(crate) fn open(folder: &Folder, key: &Key, at_once: bool) -> Result<Opened, AuditError> {
    let locks = folder.lock()?;
    let mut segments = folder.segments()?;
    let last = segments.last().map_or(0, |(number, _)| *number);
    // A segment that was begun and never written holds nothing but space.
    segments.retain(|(_, path)| {
        let empty = path.metadata().is_ok_and(|m| m.len() == 0);
        !(empty && std::fs::remove_file(path).is_ok())
    });
    let (ledger, open) = recover(folder, key, &segments)?;
    folder.set_acknowledged(Cursor::least(&folder.dir, Reach { number: ledger.end(), segment: last })?);
    folder.make_room_to_start(folder.acknowledged().min(ledger.first_open()));
    folder.hold_reserve();
    let epoch = folder.count_epoch(ledger.end().0)?;
    let (queue, jobs) = mpsc::sync_channel(4096);
    let (tell, end) = watch::channel(Position { segment: last, offset: 0 });
    let (report, status) = watch::channel(Status { epoch, ..Status::default() });
    let numbers = (epoch, ledger.end());
    let ledger = Arc::new(Mutex::new(ledger));
    let mut writer = writer::Writer::new((folder.clone(), key.clone()), numbers, last, ledger.clone(), tell, report);
    if at_once {
        writer.tell_at_once();
    }
    let work = move || {
        writer.run(&jobs);
        drop(locks);
    };
    std::thread::Builder::new().name("audit-spool".into()).spawn(work)?;
    Ok(Opened { epoch, unfinished: open.into_values().collect(), queue, end, status, ledger })
}

/// Reads from the last checkpoint on, or everything where there is none that fits: what lies where, and which exchanges
/// have no end. Cuts a torn tail, and never what is damaged.
fn recover(folder: &Folder, key: &Key, segments: &[(u64, PathBuf)]) -> Result<(Ledger, Open), AuditError> {
    let length = |at: u64| segments.iter().find(|(number, _)| *number == at).and_then(|(_, path)| path.metadata().ok());
    let checkpoint = Checkpoint::load(&folder.dir, key)
        .filter(|checkpoint| length(checkpoint.at.segment).is_some_and(|m| m.len() >= checkpoint.at.offset));
    let from = checkpoint.as_ref().map_or(Position::default(), Checkpoint::from);
    let (known, mut ledger) = checkpoint.map_or_else(Default::default, |checkpoint| (checkpoint.at, checkpoint.ledger));
    let mut open = Open::new();
    for (index, (number, path)) in segments.iter().enumerate().filter(|(_, (number, _))| *number >= from.segment) {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut at = Position { segment: *number, offset: if *number == from.segment { from.offset } else { 0 } };
        loop {
            match frame::next(&mut file, path, key, at.offset)? {
                Next::Frame(offset, plain, next) => {
                    at.offset = offset;
                    let item = Item::from_bytes(&plain)?;
                    if at >= known {
                        item.note(at, &mut ledger);
                    }
                    replay(&mut open, item);
                    at.offset = next;
                }
                Next::End(end) => {
                    at.offset = end;
                    break;
                }
                Next::Torn(offset) => {
                    tracing::warn!(file = %path.display(), offset, "spool ends in a torn record");
                    break;
                }
            }
        }
        if index + 1 == segments.len() {
            // Cuts a torn record, and gives back the space that a killed process had reserved.
            file.set_len(at.offset)?;
            file.sync_all()?;
        }
    }
    // What cannot be read cannot be closed either, and must hold nothing back.
    ledger.keep_open(|id| open.contains_key(id));
    Ok((ledger, open))
}

/// Exchanges without an end.
type Open = BTreeMap<String, (Intent, Decision)>;

fn replay(open: &mut Open, item: Item) {
    match item {
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
}

/// Everything that lies in a spool, for operators and tests.
#[derive(Debug, Clone, Default)]
pub struct SpoolContent {
    /// Epoch, seq and XML of every record, oldest first.
    pub records: Vec<(u64, u64, String)>,
    /// XML in the `ehdsi` dialect of those that have one.
    pub ehdsi: Vec<String>,
    /// Exchanges without an end.
    pub open: usize,
    /// Segments and bytes.
    pub size: (usize, u64),
    /// Records that a receiver has not acknowledged, by receiver.
    pub waiting: BTreeMap<String, usize>,
    /// Records that a receiver does not take, by receiver.
    pub apart: BTreeMap<String, Vec<SetApart>>,
}

/// Reads a spool that another process may be writing.
///
/// # Errors
/// Folder, key.
pub fn read_spool(options: &crate::SpoolOptions) -> Result<SpoolContent, AuditError> {
    let key = Key::load(&options.key_file)?;
    let folder = Folder::new(&options.dir, &options.limits)?;
    let segments = folder.segments()?;
    let end = Position { segment: u64::MAX, offset: 0 };
    let mut reader = Reader::new(folder, key.clone(), 0);
    let mut open = BTreeMap::new();
    let bytes = segments.iter().filter_map(|(_, path)| path.metadata().ok()).map(|m| m.len()).sum();
    let mut out = SpoolContent { size: (segments.len(), bytes), ..SpoolContent::default() };
    while let Some((_, item)) = reader.next(end)? {
        if let Item::Records { epoch, first_seq, records, .. } = &item {
            out.records.extend(records.iter().enumerate().map(|(i, r)| (*epoch, first_seq + i as u64, r.xml.clone())));
            out.ehdsi.extend(records.iter().filter_map(|r| r.ehdsi.clone()));
        }
        replay(&mut open, item);
    }
    out.open = open.len();
    for receiver in apart::receivers(&options.dir)? {
        let (records, _) = apart::read(&options.dir, &key, &receiver)?;
        out.apart.insert(receiver, records);
    }
    let number = out.records.iter().map(|(epoch, seq, _)| (*epoch, *seq)).max().unwrap_or_default();
    let reach = Reach { number, segment: segments.last().map_or(0, |(number, _)| *number) };
    for receiver in Cursor::receivers(&options.dir)? {
        let cursor = Cursor::load(&options.dir, &receiver, reach);
        let waiting = out.records.iter().filter(|(e, s, _)| (*e, *s) > (cursor.epoch, cursor.seq)).count();
        out.waiting.insert(receiver, waiting);
    }
    Ok(out)
}
