//! `Index`: what searches ask, in a relational database. It holds no patient identifier, only its keyed hash, and can be
//! made again from the store.

use std::borrow::Cow;

use ncp_proto::audit::{Facts, Found, Gap, SourceState};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::database::{Database, Value, month, partition, transaction};
use super::store::{Place, rows_of};
use crate::AuditError;
use crate::message::Message;

mod query;

pub use query::Search;
use query::fitting;

/// Entries of one search at most.
pub(crate) const MOST: u32 = 1000;

const COLUMNS: usize = 21;

/// A longer text is indexed by its beginning and its digest, bytes: PostgreSQL indexes no row over 2,704.
const INDEXED: usize = 1 << 10;

/// A text as the index has it.
fn indexed(text: &str) -> Cow<'_, str> {
    if text.len() <= INDEXED {
        return Cow::Borrowed(text);
    }
    let begin = &text[..text.floor_char_boundary(INDEXED - 65)];
    Cow::Owned(format!("{begin}#{}", hex::encode(openssl::sha::sha256(text.as_bytes()))))
}

/// One row to be, with its tokens.
#[derive(Debug, Clone)]
pub struct Entry {
    place: Place,
    found: Found,
    /// Keyed hash of the patient, empty when none.
    patient: String,
    /// SHA-256 of the message, hex; for what comes without a number.
    digest: String,
    /// AuditSourceID as the message has it.
    sender: String,
    tokens: Vec<(&'static str, String)>,
}

/// Text as it is searched for: without case, accents and other marks (FHIR R4 search, string).
pub(super) fn folded(text: &str) -> String {
    text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}

impl Entry {
    /// Reads what is searched for. `hash` is the store's keyed hash of identifiers of persons.
    pub fn new(place: Place, found: Found, hash: &dyn Fn(&str) -> String) -> Self {
        let record = found.record.clone().unwrap_or_default();
        let facts = record.facts.clone().unwrap_or_default();
        let mut tokens: Vec<(&'static str, String)> = facts.studies.iter().map(|s| ("study", s.clone())).collect();
        let message = Message::of_record(&record);
        tokens.push(("outcome", facts.outcome.to_string()));
        if let Some(message) = &message {
            tokens.push(("type", message.event.code.clone()));
            tokens.push(("action", message.action.clone()));
            tokens.push(("site", message.enterprise_site.clone()));
            tokens.extend(message.types.iter().map(|c| ("subtype", c.code.clone())));
            for participant in &message.participants {
                tokens.push(("agent", participant.user_id.clone()));
                tokens.push(("altid", participant.alternative.clone()));
                tokens.push(("agent-name", folded(&participant.name)));
                tokens.push(("address", folded(&participant.address)));
                tokens.extend(participant.roles.iter().map(|c| ("agent-role", c.code.clone())));
            }
            for object in &message.objects {
                // Persons are known by their keyed hash only.
                let id = if object.kind == "1" { hash(&object.id) } else { object.id.clone() };
                tokens.push(("entity", id));
                if object.kind != "1" {
                    tokens.push(("entity-name", folded(&object.name)));
                }
                tokens.push(("entity-type", object.kind.clone()));
                tokens.push(("entity-role", object.role.clone()));
            }
        }
        tokens.retain(|(_, value)| !value.is_empty());
        tokens.iter_mut().for_each(|(_, value)| *value = indexed(value).into_owned());
        tokens.sort();
        tokens.dedup();
        Self {
            place,
            patient: hash(&facts.patient),
            digest: hex::encode(openssl::sha::sha256(&record.message)),
            sender: message.map(|m| indexed(&m.source).into_owned()).unwrap_or_default(),
            tokens,
            found,
        }
    }

    /// The same with what no database refuses: number, times, patient. The record itself is whole in the store.
    fn reduced(&self) -> Self {
        let plain = |text: &str| text.chars().filter(char::is_ascii_graphic).take(64).collect::<String>();
        let mut found = self.found.clone();
        if let Some(record) = &mut found.record
            && let Some(facts) = record.facts.take()
        {
            let transaction = plain(&facts.transaction);
            record.facts =
                Some(Facts { transaction, outcome: facts.outcome, emergency: facts.emergency, ..Facts::default() });
        }
        Self { found, tokens: Vec::new(), sender: plain(&self.sender), ..self.clone() }
    }

    /// The same, found under the AuditSourceID that `source_of` makes of the record and of what its message claims.
    pub(super) fn found_under(self, source_of: impl Fn(&Found, &str) -> String) -> Self {
        let sender = indexed(&source_of(&self.found, &self.sender)).into_owned();
        Self { sender, ..self }
    }
}

/// A message that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Who sent it, by certificate.
    pub source: String,
    /// When, µs.
    pub received_us: i64,
    /// Why.
    pub reason: String,
    /// Where its bytes lie.
    pub place: Place,
}

/// The index over a database.
pub struct Index {
    db: Box<dyn Database>,
    next: i64,
    month: String,
}

impl Index {
    /// Opens or makes the tables.
    ///
    /// # Errors
    /// The database's.
    pub fn open(mut db: Box<dyn Database>) -> Result<Self, AuditError> {
        let collation = db.by_bytes();
        let by = if db.partitioned() { " PARTITION BY RANGE (received_us)" } else { "" };
        db.batch(&format!(
            "CREATE TABLE IF NOT EXISTS record (
               id BIGINT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL, seq BIGINT NOT NULL, sender TEXT NOT NULL,
               segment BIGINT NOT NULL, place BIGINT NOT NULL, event_us BIGINT NOT NULL, received_us BIGINT NOT NULL,
               exchange TEXT NOT NULL, kind TEXT NOT NULL, role TEXT NOT NULL, outcome BIGINT NOT NULL,
               patient TEXT NOT NULL, actor TEXT NOT NULL, organisation TEXT NOT NULL, country TEXT NOT NULL,
               purpose TEXT NOT NULL, emergency BIGINT NOT NULL, digest TEXT NOT NULL, transport TEXT NOT NULL,
               PRIMARY KEY (id, received_us)){by};
             CREATE TABLE IF NOT EXISTS token (record BIGINT NOT NULL, name TEXT NOT NULL,
               value TEXT COLLATE {collation} NOT NULL, received_us BIGINT NOT NULL){by};
             CREATE TABLE IF NOT EXISTS duplicate (record BIGINT NOT NULL PRIMARY KEY, times BIGINT NOT NULL);
             CREATE TABLE IF NOT EXISTS rejected (source TEXT NOT NULL, received_us BIGINT NOT NULL, reason TEXT NOT NULL,
               segment BIGINT NOT NULL, place BIGINT NOT NULL, PRIMARY KEY (segment, place));
             CREATE TABLE IF NOT EXISTS ending (source TEXT NOT NULL, epoch BIGINT NOT NULL, seq BIGINT NOT NULL,
               seen_us BIGINT NOT NULL, PRIMARY KEY (source, epoch));
             CREATE INDEX IF NOT EXISTS by_number ON record (source, epoch, seq);
             CREATE INDEX IF NOT EXISTS by_digest ON record (sender, digest);
             CREATE INDEX IF NOT EXISTS by_patient ON record (patient, event_us);
             CREATE INDEX IF NOT EXISTS by_actor ON record (actor, event_us);
             CREATE INDEX IF NOT EXISTS by_organisation ON record (organisation, event_us);
             CREATE INDEX IF NOT EXISTS by_country ON record (country, event_us);
             CREATE INDEX IF NOT EXISTS by_kind ON record (kind, outcome, event_us);
             CREATE INDEX IF NOT EXISTS by_exchange ON record (exchange);
             CREATE INDEX IF NOT EXISTS by_emergency ON record (event_us) WHERE emergency = 1;
             CREATE INDEX IF NOT EXISTS by_time ON record (event_us);
             CREATE INDEX IF NOT EXISTS by_place ON record (segment, place);
             CREATE INDEX IF NOT EXISTS by_token ON token (name, value, record);"
        ))?;
        let last = db.rows("SELECT max(id) FROM record", &[])?;
        let next = last.first().and_then(|row| row.first()).map_or(0, Value::int) + 1;
        Ok(Self { db, next, month: String::new() })
    }

    /// The tables, which somebody else made and writes, for reading.
    pub(super) fn beside(db: Box<dyn Database>) -> Self {
        Self { db, next: 0, month: String::new() }
    }

    /// The last place that is indexed.
    ///
    /// # Errors
    /// The database's.
    pub fn last_place(&mut self) -> Result<Option<Place>, AuditError> {
        let mut last = None;
        for table in ["record", "rejected"] {
            let sql = format!("SELECT segment, place FROM {table} ORDER BY segment DESC, place DESC LIMIT 1");
            let rows = self.db.rows(&sql, &[])?;
            last = last.max(rows.first().map(|row| place(&row[0], &row[1])));
        }
        Ok(last)
    }

    /// The highest (epoch, seq) of a source.
    ///
    /// # Errors
    /// The database's.
    pub fn last_of(&mut self, source: &str) -> Result<(u64, u64), AuditError> {
        let sql = "SELECT epoch, seq FROM record WHERE source = $1 ORDER BY epoch DESC, seq DESC LIMIT 1";
        let rows = self.db.rows(sql, &[text(source)])?;
        Ok(rows.first().map_or((0, 0), |row| (row[0].int() as u64, row[1].int() as u64)))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// The database's.
    pub fn check(&mut self) -> Result<(), AuditError> {
        self.db.rows("SELECT 1", &[]).map(drop)
    }

    /// How many records without number came from a source.
    ///
    /// # Errors
    /// The database's.
    pub fn arrivals(&mut self, source: &str) -> Result<u64, AuditError> {
        let sql = "SELECT seq FROM record WHERE source = $1 AND epoch = 0 ORDER BY seq DESC LIMIT 1";
        Ok(self.db.rows(sql, &[text(source)])?.first().map_or(0, |row| row[0].int() as u64))
    }

    /// The digest of the record with this number, if there is one.
    ///
    /// # Errors
    /// The database's.
    pub fn digest_of(&mut self, source: &str, epoch: u64, seq: u64) -> Result<Option<String>, AuditError> {
        let sql = "SELECT digest FROM record WHERE source = $1 AND epoch = $2 AND seq = $3";
        let rows = self.db.rows(sql, &[text(source), (epoch as i64).into(), (seq as i64).into()])?;
        Ok(rows.first().map(|row| row[0].text().to_owned()))
    }

    /// Where a message without number lies that came before since `since_us`; if so it is counted as a duplicate.
    ///
    /// # Errors
    /// The database's.
    pub fn repeated(&mut self, sender: &str, digest: &str, since_us: i64) -> Result<Option<Place>, AuditError> {
        let sql = "SELECT id, segment, place FROM record WHERE sender = $1 AND digest = $2 AND epoch = 0 AND received_us >= $3 LIMIT 1";
        let rows = self.db.rows(sql, &[text(sender), digest.into(), since_us.into()])?;
        let Some(row) = rows.first() else { return Ok(None) };
        let sql = "INSERT INTO duplicate VALUES ($1, 1) ON CONFLICT (record) DO UPDATE SET times = duplicate.times + 1";
        self.db.execute(sql, std::slice::from_ref(&row[0]))?;
        Ok(Some(place(&row[1], &row[2])))
    }

    /// Adds records in one transaction. One that the database does not take is found and added with what it does take:
    /// nothing that was stored may hold up what comes after.
    ///
    /// # Errors
    /// The database's.
    pub fn add(&mut self, entries: &[Entry]) -> Result<(), AuditError> {
        match self.add_all(entries) {
            Err(AuditError::Unfit(_)) if entries.len() > 1 => {
                let (first, rest) = entries.split_at(entries.len() / 2);
                self.add(first)?;
                self.add(rest)
            }
            Err(AuditError::Unfit(reason)) => {
                tracing::error!(reason, "ALARM: audit record is stored, but indexed by number, time and patient alone");
                self.add_all(&entries.iter().map(Entry::reduced).collect::<Vec<_>>())
            }
            done => done,
        }
    }

    fn add_all(&mut self, entries: &[Entry]) -> Result<(), AuditError> {
        if self.db.partitioned() {
            for entry in entries {
                let (name, ..) = month(entry.found.received_us);
                if name != self.month {
                    for table in ["record", "token"] {
                        partition(self.db.as_mut(), table, entry.found.received_us)?;
                    }
                    self.month = name;
                }
            }
        }
        let mut next = self.next;
        transaction(self.db.as_mut(), |db| {
            let rejected = |e: &&Entry| e.found.record.as_ref().is_some_and(|r| !r.rejected.is_empty());
            for entry in entries.iter().filter(rejected) {
                let reason = entry.found.record.as_ref().map(|r| r.rejected.as_str()).unwrap_or_default();
                let at = [Value::Int(entry.place.segment as i64), Value::Int(entry.place.offset as i64)];
                let values = [text(&entry.found.source), entry.found.received_us.into(), text(reason)];
                db.execute("INSERT INTO rejected VALUES ($1,$2,$3,$4,$5)", &[values.as_slice(), &at].concat())?;
            }
            let kept: Vec<&Entry> = entries.iter().filter(|e| !rejected(e)).collect();
            let mut tokens = Vec::new();
            for chunk in kept.chunks(64) {
                let mut values = Vec::with_capacity(chunk.len() * COLUMNS);
                for entry in chunk {
                    values.extend(columns(entry, next));
                    let received = Value::Int(entry.found.received_us);
                    tokens.extend(entry.tokens.iter().map(|(name, value)| {
                        [Value::Int(next), (*name).into(), value.as_str().into(), received.clone()]
                    }));
                    next += 1;
                }
                db.execute(&format!("INSERT INTO record VALUES {}", rows_of(chunk.len(), COLUMNS)), &values)?;
            }
            for entry in kept {
                let record = entry.found.record.as_ref();
                let Some(record) = record.filter(|r| r.ended_epoch > 0) else { continue };
                let values = [
                    text(&entry.found.source),
                    (record.ended_epoch as i64).into(),
                    (record.ended_seq as i64).into(),
                    entry.found.received_us.into(),
                ];
                let sql = "INSERT INTO ending VALUES ($1,$2,$3,$4) ON CONFLICT (source, epoch) DO NOTHING";
                db.execute(sql, &values)?;
            }
            // Whole chunks share one prepared statement.
            for chunk in tokens.chunks(128) {
                let sql = format!("INSERT INTO token VALUES {}", rows_of(chunk.len(), 4));
                db.execute(&sql, &chunk.concat())?;
            }
            Ok(())
        })?;
        self.next = next;
        Ok(())
    }

    /// Places of what fits, newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn search(&mut self, search: &Search) -> Result<Vec<Place>, AuditError> {
        let (mut sql, values) = fitting("segment, place", search, self.db.by_bytes());
        let order = if search.ascending { "ASC" } else { "DESC" };
        let (limit, skip) = (search.limit, search.skip);
        sql.push_str(&format!(" ORDER BY event_us {order}, id {order} LIMIT {limit} OFFSET {skip}"));
        let rows = self.db.rows(&sql, &values)?;
        Ok(rows.iter().map(|row| place(&row[0], &row[1])).collect())
    }

    /// How many fit, on all pages.
    ///
    /// # Errors
    /// The database's.
    pub fn count(&mut self, search: &Search) -> Result<u64, AuditError> {
        let (sql, values) = fitting("count(*)", search, self.db.by_bytes());
        let rows = self.db.rows(&sql, &values)?;
        Ok(rows.first().and_then(|row| row.first()).map_or(0, Value::int) as u64)
    }

    /// Each source and epoch: its numbers, when it was last heard, how far its clock is ahead, duplicates.
    ///
    /// # Errors
    /// The database's.
    pub fn sources(&mut self) -> Result<Vec<SourceState>, AuditError> {
        let sql = "SELECT source, epoch, min(seq), max(seq), count(*), max(received_us), max(event_us - received_us),
                   min(received_us - event_us),
                   (SELECT count(*) FROM record r JOIN duplicate d ON d.record = r.id
                    WHERE r.source = record.source AND r.epoch = record.epoch)
                   FROM record GROUP BY source, epoch ORDER BY source, epoch";
        let rows = self.db.rows(sql, &[])?;
        let state = |row: &Vec<Value>| SourceState {
            source: row[0].text().to_owned(),
            epoch: row[1].int() as u64,
            first_seq: row[2].int() as u64,
            last_seq: row[3].int() as u64,
            records: row[4].int() as u64,
            last_received_us: row[5].int(),
            ahead_us: row[6].int().max(0),
            behind_us: row[7].int().max(0),
            duplicated: row[8].int() as u64,
        };
        Ok(rows.iter().map(state).collect())
    }

    /// Numbers that a source gave and that never came: between others, or at the end of an epoch, of which the next one
    /// says where it ended.
    ///
    /// # Errors
    /// The database's.
    pub fn gaps(&mut self) -> Result<Vec<Gap>, AuditError> {
        let sql = "SELECT source, epoch, before_seq, seq, received_us FROM (
                     SELECT source, epoch, seq, received_us,
                       lag(seq, 1, 0) OVER (PARTITION BY source, epoch ORDER BY seq) AS before_seq
                     FROM record WHERE epoch > 0) numbered
                   WHERE seq > before_seq + 1
                   UNION ALL SELECT source, epoch, last, seq + 1, seen_us FROM (
                     SELECT source, epoch, seq, seen_us,
                       (SELECT coalesce(max(r.seq), 0) FROM record r
                        WHERE r.source = ending.source AND r.epoch = ending.epoch) AS last
                     FROM ending) ended
                   WHERE seq > last ORDER BY source, epoch, seq LIMIT 1000";
        let rows = self.db.rows(sql, &[])?;
        let gap = |row: &Vec<Value>| Gap {
            source: row[0].text().to_owned(),
            epoch: row[1].int() as u64,
            first_seq: row[2].int() as u64 + 1,
            last_seq: row[3].int() as u64 - 1,
            seen_us: row[4].int(),
        };
        Ok(rows.iter().map(gap).collect())
    }

    /// What was refused, newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn rejected(&mut self, limit: u32) -> Result<Vec<Rejected>, AuditError> {
        let limit = limit.min(MOST);
        let sql = format!(
            "SELECT source, received_us, reason, segment, place FROM rejected ORDER BY received_us DESC, place DESC LIMIT {limit}"
        );
        let rows = self.db.rows(&sql, &[])?;
        let rejected = |row: &Vec<Value>| Rejected {
            source: row[0].text().to_owned(),
            received_us: row[1].int(),
            reason: row[2].text().to_owned(),
            place: place(&row[3], &row[4]),
        };
        Ok(rows.iter().map(rejected).collect())
    }

    /// How many were refused.
    ///
    /// # Errors
    /// The database's.
    pub fn rejected_count(&mut self) -> Result<u64, AuditError> {
        let rows = self.db.rows("SELECT count(*) FROM rejected", &[])?;
        Ok(rows.first().map_or(0, |row| row[0].int() as u64))
    }

    /// All rows as text, for comparison after `reindex`. Repetitions are counted in the index only and left out.
    ///
    /// # Errors
    /// The database's.
    pub fn dump(&mut self) -> Result<Vec<String>, AuditError> {
        let mut out = Vec::new();
        for sql in [
            "SELECT source, epoch, seq, sender, segment, place, event_us, received_us, exchange, kind, role, outcome, patient,
             actor, organisation, country, purpose, emergency, digest, transport FROM record ORDER BY segment, place",
            "SELECT r.segment, r.place, t.name, t.value FROM token t JOIN record r ON r.id = t.record",
            "SELECT source, received_us, reason, segment, place FROM rejected ORDER BY segment, place",
            "SELECT source, epoch, seq, seen_us FROM ending ORDER BY source, epoch",
        ] {
            let mut rows: Vec<String> = self.db.rows(sql, &[])?.iter().map(|row| format!("{row:?}")).collect();
            // Two databases sort texts differently.
            rows.sort();
            out.extend(rows);
        }
        Ok(out)
    }

    /// Forgets everything, before it is made again.
    ///
    /// # Errors
    /// The database's.
    pub fn clear(&mut self) -> Result<(), AuditError> {
        self.next = 1;
        self.db.batch(
            "DELETE FROM token; DELETE FROM record; DELETE FROM rejected; DELETE FROM duplicate; DELETE FROM ending",
        )
    }
}

/// A text as a column holds it.
fn text(value: &str) -> Value {
    indexed(value).as_ref().into()
}

fn place(segment: &Value, offset: &Value) -> Place {
    Place { segment: segment.int() as u64, offset: offset.int() as u64 }
}

fn columns(entry: &Entry, id: i64) -> [Value; COLUMNS] {
    let record = entry.found.record.clone().unwrap_or_default();
    let facts = record.facts.unwrap_or_default();
    [
        id.into(),
        text(&entry.found.source),
        (record.epoch as i64).into(),
        (record.seq as i64).into(),
        entry.sender.as_str().into(),
        (entry.place.segment as i64).into(),
        (entry.place.offset as i64).into(),
        record.event_time_us.into(),
        entry.found.received_us.into(),
        text(&facts.exchange_id),
        text(&facts.transaction),
        text(&facts.role),
        i64::from(facts.outcome).into(),
        entry.patient.as_str().into(),
        text(&facts.user),
        text(&facts.organisation),
        text(&facts.country),
        text(&facts.purpose),
        i64::from(facts.emergency).into(),
        entry.digest.as_str().into(),
        text(&record.transport),
    ]
}
