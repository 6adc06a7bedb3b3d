//! Reading beside the writer: connections of their own with a time limit, some at once and fewer for one caller, so that a
//! search that takes long keeps nobody else waiting.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use ncp_proto::audit::{Found, Gap, GapsReply, RejectedMessage};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::config::{Config, Engine};
use super::database::{Database, Postgres, Sqlite};
use super::index::{Index, Search};
use super::store::{Place, RecordReader, SegmentReader, TableReader};
use crate::AuditError;
use crate::frame::Key;

/// Readers at work at once.
const READERS: usize = 4;
/// Of them for one caller.
const SHARE: usize = 2;
/// The longest that one query of the index may take.
const LONGEST: Duration = Duration::from_secs(5);
/// The longest that counting may take, which goes through all records.
const COUNTING: Duration = Duration::from_secs(600);
/// How long a reader is waited for.
const WAIT: Duration = Duration::from_secs(2);
/// A source that sends nothing for so long is silent, µs.
const SILENT: i64 = 5 * 60 * 1_000_000;

/// Index and store, for reading.
pub(super) struct Reader {
    index: Index,
    store: Box<dyn RecordReader>,
    /// The repository's own name as a source.
    own: String,
}

impl Reader {
    /// Opens what a repository wrote or is writing.
    ///
    /// # Errors
    /// Folder, key, database.
    fn open(config: &Config, limit: Duration) -> Result<Self, AuditError> {
        let key = Key::load(&config.key_file)?;
        let (index, store): (Box<dyn Database>, Box<dyn RecordReader>) = match &config.engine {
            Engine::Files => {
                let index = Sqlite::reader(&config.data_dir.join("index.sqlite"), limit)?;
                (Box::new(index), Box::new(SegmentReader { dir: config.data_dir.clone(), key }))
            }
            Engine::Postgres(url) => {
                let database = || Postgres::reader(url, limit);
                (Box::new(database()?), Box::new(TableReader { db: Box::new(database()?), key }))
            }
        };
        Ok(Self { index: Index::beside(index), store, own: config.source.clone() })
    }

    /// Where what fits lies. The reading is on the trail before.
    ///
    /// # Errors
    /// The database's.
    pub(super) fn search(&mut self, search: &Search) -> Result<Vec<Place>, AuditError> {
        self.index.search(search)
    }

    /// The next records of a search: they end with the one by which their messages pass so many bytes.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn next_of(&mut self, places: &mut VecDeque<Place>, bytes: usize) -> Result<Vec<Found>, AuditError> {
        let (mut out, mut taken) = (Vec::new(), 0);
        while taken < bytes {
            let Some(place) = places.pop_front() else { break };
            let found = self.store.read(place)?;
            taken += size(&found);
            out.push(found);
        }
        Ok(out)
    }

    /// A page of a search: it ends before the record with which its messages would pass so many bytes, and says whether it
    /// did. It has one record at least.
    ///
    /// # Errors
    /// Store or database.
    pub(super) fn page(
        &mut self,
        search: &Search,
        mut bytes: usize,
    ) -> Result<(Vec<(Place, Found)>, bool), AuditError> {
        let mut out = Vec::new();
        for place in self.index.search(search)? {
            let found = self.store.read(place)?;
            let size = size(&found);
            if size > bytes && !out.is_empty() {
                return Ok((out, true));
            }
            bytes = bytes.saturating_sub(size);
            out.push((place, found));
        }
        Ok((out, false))
    }

    /// How many fit, on all pages.
    ///
    /// # Errors
    /// The database's.
    pub(super) fn count(&mut self, search: &Search) -> Result<u64, AuditError> {
        self.index.count(search)
    }

    /// A record, or a refused message as it came.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn read(&mut self, place: Place) -> Result<Found, AuditError> {
        self.store.read(place)
    }

    /// Sources, gaps, and what was refused.
    ///
    /// # Errors
    /// The database's.
    pub(super) fn state(&mut self) -> Result<GapsReply, AuditError> {
        let now = Timestamp::now().as_microsecond();
        let sources = self.index.sources()?;
        let newest: BTreeMap<&str, i64> = sources.iter().map(|s| (s.source.as_str(), s.last_received_us)).collect();
        let numbered = |name: &str| sources.iter().any(|s| s.source == name && s.epoch > 0);
        let silent = newest
            .iter()
            .filter(|(name, last)| **name != self.own && numbered(name) && now - **last > SILENT)
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let rejected = self.index.rejected(100)?;
        let rejected = rejected
            .into_iter()
            .map(|r| RejectedMessage {
                source: r.source,
                received_us: r.received_us,
                reason: r.reason,
                segment: r.place.segment,
                offset: r.place.offset,
            })
            .collect();
        Ok(GapsReply { gaps: self.index.gaps()?, silent, rejected, sources })
    }

    /// Numbers that never came.
    ///
    /// # Errors
    /// The database's.
    pub(super) fn gaps(&mut self) -> Result<Vec<Gap>, AuditError> {
        self.index.gaps()
    }

    /// Records, missing numbers, refused messages.
    ///
    /// # Errors
    /// The database's.
    pub(super) fn counts(&mut self) -> Result<(u64, u64, u64), AuditError> {
        let records = self.index.sources()?.iter().map(|s| s.records).sum();
        let missing = self.index.gaps()?.iter().map(|g| g.last_seq - g.first_seq + 1).sum();
        Ok((records, missing, self.index.rejected_count()?))
    }
}

/// Bytes of a record's message.
fn size(found: &Found) -> usize {
    found.record.as_ref().map_or(0, |record| record.message.len())
}

/// The readers, opened when they are needed.
pub(super) struct Readers {
    open: Box<dyn Fn() -> Result<Reader, AuditError> + Send + Sync>,
    idle: Mutex<Vec<Reader>>,
    free: Arc<Semaphore>,
    /// Each caller's share of them.
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// How long who begins to read waits for both.
    pub(super) wait: Duration,
}

/// Callers that are remembered while they read nothing.
const REMEMBERED: usize = 256;

impl Readers {
    /// Those of who searches.
    pub(super) fn searching(config: Config) -> Self {
        Self::new(move || Reader::open(&config, LONGEST))
    }

    /// Those that count and look for gaps, over all records.
    pub(super) fn counting(config: Config) -> Self {
        Self::new(move || Reader::open(&config, COUNTING))
    }

    pub(super) fn new(open: impl Fn() -> Result<Reader, AuditError> + Send + Sync + 'static) -> Self {
        let free = Arc::new(Semaphore::new(READERS));
        Self { open: Box::new(open), idle: Mutex::default(), free, shares: Mutex::default(), wait: WAIT }
    }

    /// Runs `work` with a reader, where it may block.
    ///
    /// # Errors
    /// Its own; [`AuditError::Busy`] where `caller` has its share or no reader comes free.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        caller: &str,
        work: impl FnOnce(&mut Reader) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, AuditError> {
        let turn = tokio::time::timeout(self.wait, self.turn(caller)).await.map_err(|_| AuditError::Busy)??;
        self.with(turn, work).await
    }

    /// The same for somebody whose reading has begun, who waits for as long as it takes: each of those before him has its time
    /// limit, and a reading that broke off would have to begin anew.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) async fn go_on<T: Send + 'static>(
        self: &Arc<Self>,
        caller: &str,
        work: impl FnOnce(&mut Reader) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, AuditError> {
        let turn = self.turn(caller).await?;
        self.with(turn, work).await
    }

    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        turn: Turn,
        work: impl FnOnce(&mut Reader) -> Result<T, AuditError> + Send + 'static,
    ) -> Result<T, AuditError> {
        let readers = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let idle = locked(&readers.idle).pop();
            let mut reader = idle.map_or_else(|| (readers.open)(), Ok)?;
            let done = work(&mut reader);
            // One whose connection may be broken is opened again.
            if matches!(done, Ok(_) | Err(AuditError::TooCostly)) {
                locked(&readers.idle).push(reader);
            }
            done
        });
        done.await.map_err(|_| AuditError::Stopped)?
    }

    /// Waits for one of the caller's share and then for a reader.
    pub(super) async fn turn(&self, caller: &str) -> Result<Turn, AuditError> {
        let own = {
            let mut shares = locked(&self.shares);
            if shares.len() > REMEMBERED {
                shares.retain(|_, share| Arc::strong_count(share) > 1 || share.available_permits() < SHARE);
            }
            shares.entry(caller.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(SHARE))).clone()
        };
        let both =
            async { Ok::<_, AcquireError>((own.acquire_owned().await?, self.free.clone().acquire_owned().await?)) };
        let (own, reader) = both.await.map_err(|_| AuditError::Stopped)?;
        Ok(Turn { _own: own, _reader: reader })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|p| p.into_inner())
}

/// One reader at work, of its caller's share.
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _reader: OwnedSemaphorePermit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn se_05_one_caller_leaves_readers_to_the_others() {
        let readers = Readers { wait: Duration::ZERO, ..Readers::new(|| Err(AuditError::Stopped)) };
        let readers = Arc::new(readers);
        let is_busy = async |caller| matches!(readers.run(caller, |_| Ok(())).await, Err(AuditError::Busy));
        let one = [readers.turn("one").await, readers.turn("one").await];
        assert!(one.iter().all(Result::is_ok));
        assert!(is_busy("one").await);
        let others = [readers.turn("other").await, readers.turn("third").await];
        assert!(others.iter().all(Result::is_ok));
        assert!(is_busy("fourth").await, "all are at work");
        drop(one);
        assert!(readers.turn("one").await.is_ok());
        for n in 0..2 * REMEMBERED {
            assert!(readers.turn(&n.to_string()).await.is_ok());
        }
        assert!(locked(&readers.shares).len() <= REMEMBERED + 2);
    }

    #[test]
    fn se_05_a_query_has_a_time_limit_and_cannot_write() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("index.sqlite");
        let mut writer = Sqlite::open(&path).expect("opens");
        writer.batch("CREATE TABLE n (n BIGINT)").expect("a table");
        let mut reader = Sqlite::reader(&path, Duration::from_millis(50)).expect("opens");
        let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
        assert!(matches!(reader.rows(endless, &[]), Err(AuditError::TooCostly)));
        assert!(reader.execute("INSERT INTO n VALUES (1)", &[]).is_err());
        // While a reader is at work the writer goes on, and the reader is not spoilt.
        writer.execute("INSERT INTO n VALUES (1)", &[]).expect("writes");
        assert_eq!(reader.rows("SELECT n FROM n", &[]).expect("reads").len(), 1);
    }
}
