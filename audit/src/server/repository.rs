//! Store and index behind one lock: one sequencer. Durable first, then the index, then the acknowledgement. Readers are
//! apart from it.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use jiff::Timestamp;
use ncp_proto::audit::{Facts, Found, Record};
use tokio::sync::broadcast;

use super::access::Access;
use super::config::{Config, Engine};
use super::database::{Database, Postgres, Sqlite};
use super::index::{Entry, Index};
use super::store::{Place, RecordStore, Segments, Table};
use crate::AuditError;
use crate::event::Event;
use crate::frame::Key;
use crate::message::{self, Message, Site};

/// A message without number that comes again within this time is a duplicate, µs.
const REPEATED: i64 = 7 * 24 * 3600 * 1_000_000;
/// What a refused message that is kept apart takes beside its bytes: its frame, its reason and its row.
const APART: usize = 512;
/// Of the messages that come together, refused ones of so many bytes are kept apart, and twice what came.
const KEPT_APART: usize = 16 << 10;

/// What became of a message of a foreign sender, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A new record.
    Stored(Place),
    /// It was there already; one of the same group has no place yet.
    Duplicate(Option<Place>),
    /// No audit message.
    Rejected {
        /// Why.
        why: String,
        /// Its bytes are kept apart.
        apart: bool,
    },
}

/// The repository.
pub struct Repository {
    store: Box<dyn RecordStore>,
    index: Index,
    key: Key,
    site: Site,
    access: Access,
    /// Numbers of the repository's own records.
    own: (u64, u64),
    /// Arrival counts of foreign senders.
    arrivals: BTreeMap<String, u64>,
    /// What refused messages of each of them may still take.
    refused: BTreeMap<String, Quota>,
    /// The index lacks something that the store has.
    behind: bool,
    /// Everything that is kept, for who watches.
    kept: broadcast::Sender<Arc<Found>>,
    /// Keeps other processes from the folder.
    _lock: File,
}

/// Opens store and index as configured.
///
/// # Errors
/// Folder, key, database.
pub fn engines(config: &Config) -> Result<(Box<dyn RecordStore>, Index), AuditError> {
    std::fs::create_dir_all(&config.data_dir)?;
    Ok(match &config.engine {
        Engine::Files => {
            let index = Index::open(Box::new(Sqlite::open(&config.data_dir.join("index.sqlite"))?))?;
            (Box::new(Segments::open(&config.data_dir, &config.key_file)?), index)
        }
        Engine::Postgres(url) => {
            let database = || Ok::<Box<dyn Database>, AuditError>(Box::new(Postgres::open(url)?));
            (Box::new(Table::open(database()?, &config.key_file)?), Index::open(database()?)?)
        }
    })
}

/// Records that are kept in memory for somebody who watches and does not read on; one that falls further behind is told so.
const WATCHED: usize = 64;

impl Repository {
    /// Opens the repository and indexes what the index lacks. A second one on the same folder would write over the first
    /// one's places, and is refused.
    ///
    /// # Errors
    /// Folder, key, database; another process has the folder.
    pub fn open(config: &Config) -> Result<Self, AuditError> {
        std::fs::create_dir_all(&config.data_dir)?;
        let lock = crate::lock(&config.data_dir.join("lock")).map_err(|e| AuditError::Repository(e.to_string()))?;
        let (store, index) = engines(config)?;
        let site =
            Site { source: config.source.clone(), enterprise_site: config.enterprise_site.clone(), ..Site::default() };
        let key = Key::load(&config.key_file)?;
        let (kept, _) = broadcast::channel(WATCHED);
        let (arrivals, refused) = (BTreeMap::new(), BTreeMap::new());
        let access = Access::new(config);
        let mut repository =
            Self { store, index, key, site, access, own: (0, 0), arrivals, refused, behind: true, kept, _lock: lock };
        repository.catch_up()?;
        let own = repository.index.last_of(&config.source)?;
        repository.own = (own.0 + 1, 0);
        Ok(repository)
    }

    /// Makes the index again from the store; returns how many records it has.
    ///
    /// # Errors
    /// Store or database.
    pub fn reindex(&mut self) -> Result<u64, AuditError> {
        self.index.clear()?;
        self.behind = true;
        self.catch_up()
    }

    /// The rows of the index, for comparison.
    ///
    /// # Errors
    /// The database's.
    pub fn dump(&mut self) -> Result<Vec<String>, AuditError> {
        self.index.dump()
    }

    /// Indexes what lies in the store after the last place that is indexed. A record that is in the store twice, since its
    /// first acknowledgement was lost with a connection, is indexed once.
    fn catch_up(&mut self) -> Result<u64, AuditError> {
        if !self.behind {
            return Ok(0);
        }
        let after = self.index.last_place()?;
        let (index, key, access) = (&mut self.index, self.key.clone(), &self.access);
        let hash = move |id: &str| patient_hash(&key, id);
        let mut group: Vec<Entry> = Vec::new();
        let mut count = 0;
        let mut seen = std::collections::HashSet::new();
        self.store.walk(after, &mut |place, found| {
            let record = found.record.as_ref();
            let number = record.map_or((0, 0), |r| (r.epoch, r.seq));
            if record.is_some_and(|r| r.rejected.is_empty())
                && (!seen.insert((found.source.clone(), number))
                    || (after.is_some() && index.digest_of(&found.source, number.0, number.1)?.is_some()))
            {
                return Ok(());
            }
            count += 1;
            group.push(Entry::new(place, found, &hash).found_under(|found, claim| access.audit_source(found, claim)));
            if group.len() >= 1024 {
                index.add(&std::mem::take(&mut group))?;
            }
            Ok(())
        })?;
        index.add(&group)?;
        self.behind = false;
        Ok(count)
    }

    /// Keeps numbered records of one of our own sources. The facts that are indexed are made of the message; what comes
    /// beside it only adds what the message leaves out by specification.
    ///
    /// # Errors
    /// Nothing of the group counts then, and nothing is acknowledged.
    pub fn keep(&mut self, source: &str, records: Vec<Record>) -> Result<(), AuditError> {
        self.catch_up()?;
        let last = self.index.last_of(source)?;
        let mut fresh = Vec::with_capacity(records.len());
        let mut here: BTreeMap<(u64, u64), String> = BTreeMap::new();
        for mut record in records {
            // What is kept apart is so by our own judgement.
            record.rejected.clear();
            let number = (record.epoch, record.seq);
            let digest = hex::encode(openssl::sha::sha256(&record.message));
            // Beyond the last it is new; before it may be the one that was missing.
            let known = match here.get(&number) {
                Some(known) => Some(known.clone()),
                None if number > last => None,
                None => self.index.digest_of(source, record.epoch, record.seq)?,
            };
            match known {
                Some(known) if known == digest => continue,
                // A source that lost its counter gives numbers twice: its records must not pass for old ones.
                Some(_) => {
                    let (epoch, seq) = number;
                    tracing::error!(source, epoch, seq, "number of an audit record was given twice");
                    record.rejected = format!("epoch {epoch} seq {seq} was given to another record before");
                }
                None => drop(here.insert(number, digest)),
            }
            index_by_message(source, &mut record);
            // Only what comes by another port has a transport.
            record.transport.clear();
            fresh.push(record);
        }
        self.append(source, fresh).map(drop)
    }

    fn append(&mut self, source: &str, records: Vec<Record>) -> Result<Vec<Place>, AuditError> {
        let received_us = Timestamp::now().as_microsecond();
        let found = |record| Found { source: source.to_owned(), record: Some(record), received_us };
        let found: Vec<Found> = records.into_iter().map(found).collect();
        // Until both are done the index may lack what the store has.
        self.behind = true;
        let places = self.store.append(&found)?;
        let key = &self.key;
        let hash = |id: &str| patient_hash(key, id);
        let entry = |(place, found): (&Place, &Found)| {
            Entry::new(*place, found.clone(), &hash).found_under(|found, claim| self.access.audit_source(found, claim))
        };
        let entries: Vec<Entry> = places.iter().zip(&found).map(entry).collect();
        self.index.add(&entries)?;
        self.behind = false;
        for found in found {
            // Nobody may be watching.
            let _ = self.kept.send(Arc::new(found));
        }
        Ok(places)
    }

    /// Keeps messages of a foreign sender that came together: `source` is the name in its certificate. What is no audit
    /// message is kept apart, with the reason, as it came, for as long as there is room for what this source sends amiss;
    /// the log has one line for all of them.
    ///
    /// # Errors
    /// Store or database.
    pub(crate) fn keep_foreign(
        &mut self,
        source: &str,
        transport: &str,
        messages: Vec<Incoming>,
    ) -> Result<Vec<Kept>, AuditError> {
        self.catch_up()?;
        let now = Timestamp::now().as_microsecond();
        let mut records = Vec::new();
        // For each message what became of it; a new one has its place when it is stored.
        let mut out: Vec<Option<Kept>> = Vec::new();
        let mut here = std::collections::HashSet::new();
        let came: usize = messages.iter().map(Incoming::len).sum();
        let quota = self.refused.entry(source.to_owned()).or_insert_with(|| Quota::new(now));
        let given = quota.room(now, came);
        let (mut room, mut refused, mut first) = (given, (0_u32, 0_u32), String::new());
        for incoming in messages {
            let Incoming { media_type, content } = incoming;
            let mut record = Record {
                media_type: media_type.to_owned(),
                transport: transport.to_owned(),
                event_time_us: now,
                ..Record::default()
            };
            let message = match content {
                Ok(bytes) => {
                    record.message = bytes;
                    Message::of_record(&record).ok_or_else(|| reason(media_type, &record.message))
                }
                Err((bytes, reason)) => {
                    record.message = bytes;
                    Err(reason)
                }
            };
            // Who is authenticated by another certificate does not speak for one of our own programs.
            let message = message.and_then(|message| match self.access.is_ours(&message.source) {
                true => Err("AuditSourceID is that of one of our own programs".to_owned()),
                false => Ok(message),
            });
            match message {
                Ok(message) => {
                    let digest = hex::encode(openssl::sha::sha256(&record.message));
                    if !here.insert((message.source.clone(), digest.clone())) {
                        out.push(Some(Kept::Duplicate(None)));
                        continue;
                    }
                    if let Some(place) = self.index.repeated(&message.source, &digest, now - REPEATED)? {
                        out.push(Some(Kept::Duplicate(Some(place))));
                        continue;
                    }
                    record.event_time_us = message.at.as_microsecond();
                    record.facts = Some(message.facts());
                    record.seq = self.arrival(source)?;
                    out.push(None);
                }
                Err(why) => {
                    if first.is_empty() {
                        first.clone_from(&why);
                    }
                    record.rejected.clone_from(&why);
                    let needed = record.message.len() + why.len() + APART;
                    let apart = needed <= room;
                    refused = (refused.0 + 1, refused.1 + u32::from(!apart));
                    out.push(Some(Kept::Rejected { why, apart }));
                    if !apart {
                        continue;
                    }
                    room -= needed;
                }
            }
            records.push(record);
        }
        let told = self.refused.get_mut(source).and_then(|quota| {
            quota.take(given - room);
            quota.tell(now, refused)
        });
        if let Some((count, lost)) = told {
            tracing::warn!(
                source,
                count,
                lost,
                reason = first,
                "audit messages refused; all but the lost are kept apart"
            );
        }
        let rejected: Vec<bool> = records.iter().map(|r| !r.rejected.is_empty()).collect();
        let places = self.append(source, records)?;
        let mut stored = places.into_iter().zip(rejected).filter(|(_, rejected)| !rejected).map(|(place, _)| place);
        let kept = out.into_iter().map(|kept| kept.or_else(|| stored.next().map(Kept::Stored)));
        kept.map(|kept| kept.ok_or(AuditError::Stopped)).collect()
    }

    /// The next arrival count of a foreign sender.
    fn arrival(&mut self, source: &str) -> Result<u64, AuditError> {
        if !self.arrivals.contains_key(source) {
            let last = self.index.arrivals(source)?;
            self.arrivals.insert(source.to_owned(), last);
        }
        let count = self.arrivals.entry(source.to_owned()).or_default();
        *count += 1;
        Ok(*count)
    }

    /// The repository's own records go the same way as all others.
    ///
    /// # Errors
    /// Store or database.
    pub(crate) fn own_event(&mut self, event: &Event) -> Result<(), AuditError> {
        self.own.1 += 1;
        let made = message::of_event(&self.site, event, "", Timestamp::now());
        let record = Record {
            epoch: self.own.0,
            seq: self.own.1,
            event_time_us: made.event_time_us,
            media_type: "application/xml".into(),
            facts: Some(made.facts()),
            message: made.xml.into_bytes(),
            ..Record::default()
        };
        let source = self.site.source.clone();
        self.keep(&source, vec![record])
    }

    /// Whether records can be stored now.
    ///
    /// # Errors
    /// Store or database.
    pub(crate) fn check(&mut self) -> Result<(), AuditError> {
        self.store.check()?;
        self.index.check()
    }

    /// All that is kept from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<Found>> {
        self.kept.subscribe()
    }

    /// The patient's identifier as the index knows it.
    pub fn patient_hash(&self, patient: &str) -> String {
        patient_hash(&self.key, patient)
    }
}

/// Makes what the index takes of a record of our own feed from its message.
fn index_by_message(source: &str, record: &mut Record) {
    let envelope = record.facts.take().unwrap_or_default();
    let Some(message) = Message::of_record(record) else {
        let (epoch, seq) = (record.epoch, record.seq);
        tracing::error!(source, epoch, seq, "a record of the feed is no audit message: it is kept without facts");
        record.facts = Some(Facts::default());
        return;
    };
    record.event_time_us = message.at.as_microsecond();
    record.facts = Some(message.facts_beside(&envelope));
}

fn patient_hash(key: &Key, patient: &str) -> String {
    if patient.is_empty() { String::new() } else { key.hmac(&format!("patient:{patient}")) }
}

/// A message of a foreign sender, or the bytes that were none and why.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) media_type: &'static str,
    pub(crate) content: Result<Vec<u8>, (Vec<u8>, String)>,
}

impl Incoming {
    fn len(&self) -> usize {
        match &self.content {
            Ok(bytes) | Err((bytes, _)) => bytes.len(),
        }
    }
}

/// What the refused messages of one source may take. Bytes: so many at once, and as many again within a day; of what came, twice
/// its bytes and a small amount besides, which comes again within a minute, however many messages and connections it came in.
/// Lines of the log: one a second, with all that were refused since the last.
struct Quota {
    left: usize,
    filled_us: i64,
    besides: usize,
    besides_us: i64,
    /// What is not in the log yet: refused, and of those not kept.
    untold: (u32, u32),
    told_us: Option<i64>,
}

impl Quota {
    const MOST: usize = 64 << 20;
    const DAY_US: i64 = 24 * 3600 * 1_000_000;
    const MINUTE_US: i64 = 60 * 1_000_000;
    const SECOND_US: i64 = 1_000_000;

    fn new(now_us: i64) -> Self {
        let (left, besides) = (Self::MOST, KEPT_APART);
        Self { left, filled_us: now_us, besides, besides_us: now_us, untold: (0, 0), told_us: None }
    }

    /// Bytes that what is refused of so many bytes may take now.
    fn room(&mut self, now_us: i64, came: usize) -> usize {
        let passed = i128::from((now_us - self.besides_us).clamp(0, Self::MINUTE_US));
        let more = usize::try_from(passed * KEPT_APART as i128 / i128::from(Self::MINUTE_US)).unwrap_or_default();
        // A clock that was put back begins anew.
        if more > 0 || now_us < self.besides_us {
            self.besides_us = now_us;
        }
        self.besides = (self.besides + more).min(KEPT_APART) + 2 * came;
        self.left(now_us).min(self.besides)
    }

    /// What the log says now of what was refused.
    fn tell(&mut self, now_us: i64, (refused, lost): (u32, u32)) -> Option<(u32, u32)> {
        self.untold = (self.untold.0.saturating_add(refused), self.untold.1.saturating_add(lost));
        let silent = self.told_us.is_some_and(|told| (0..Self::SECOND_US).contains(&(now_us - told)));
        if self.untold.0 == 0 || silent {
            return None;
        }
        self.told_us = Some(now_us);
        Some(std::mem::take(&mut self.untold))
    }

    fn left(&mut self, now_us: i64) -> usize {
        // A clock that went back says nothing of the time that passed.
        self.filled_us = self.filled_us.min(now_us);
        let passed = i128::from((now_us - self.filled_us).clamp(0, Self::DAY_US));
        let more = passed * Self::MOST as i128 / i128::from(Self::DAY_US);
        // What is less than a byte is counted the next time.
        if more > 0 {
            self.filled_us = now_us;
            self.left = Self::MOST.min(self.left + usize::try_from(more).unwrap_or(Self::MOST));
        }
        self.left
    }

    fn take(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
        self.besides = self.besides.saturating_sub(bytes);
    }
}

fn reason(media_type: &str, bytes: &[u8]) -> String {
    let why = match media_type {
        "application/xml" => message::Message::read(bytes).err().map(|e| e.to_string()),
        _ => ncp_xml::json::read_last(bytes)
            .map_err(ToOwned::to_owned)
            .and_then(|value| crate::fhir::from_audit_event(&value).map_err(|e| e.to_string()))
            .err(),
    };
    why.unwrap_or_else(|| "no audit message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SE-05: what a source may send amiss comes back within a day also where the clock was wrong for a while.
    #[test]
    fn se_05_a_clock_that_goes_back_freezes_no_quota() {
        let now = 1_800_000_000_000_000;
        let mut quota = Quota::new(now);
        let ahead = now + 1000 * Quota::DAY_US;
        let room = quota.left(ahead);
        quota.take(room);
        assert_eq!(quota.left(now), 0, "going back gives nothing");
        assert_eq!(quota.left(now + Quota::DAY_US / 2), Quota::MOST / 2);
        assert_eq!(quota.left(now + 2 * Quota::DAY_US), Quota::MOST);
    }
}
