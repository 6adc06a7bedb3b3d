//! The index in SQLite. It holds no patient identifier, only its keyed hash, and can be made again from the store.

use std::path::Path;

use ncp_proto::audit::{Found, SearchRequest};
use rusqlite::{Connection, params, params_from_iter, types::Value};

use super::store::Stored;
use crate::AuditError;

/// Entries of one search at most.
const MOST: u32 = 1000;

/// The index.
pub struct Index(Connection);

fn failed(error: rusqlite::Error) -> AuditError {
    AuditError::Repository(format!("index: {error}"))
}

impl Index {
    /// Opens or makes the index.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let db = Connection::open(path).map_err(failed)?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS record (
               id INTEGER PRIMARY KEY, source TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
               segment INTEGER NOT NULL, offset INTEGER NOT NULL, event_us INTEGER NOT NULL, received_us INTEGER NOT NULL,
               exchange TEXT NOT NULL, kind TEXT NOT NULL, role TEXT NOT NULL, outcome INTEGER NOT NULL,
               patient TEXT NOT NULL, user TEXT NOT NULL, organisation TEXT NOT NULL, country TEXT NOT NULL,
               purpose TEXT NOT NULL, emergency INTEGER NOT NULL, UNIQUE (source, epoch, seq));
             CREATE TABLE IF NOT EXISTS study (record INTEGER NOT NULL, uid TEXT NOT NULL);
             CREATE INDEX IF NOT EXISTS by_patient ON record (patient, event_us);
             CREATE INDEX IF NOT EXISTS by_user ON record (user, event_us);
             CREATE INDEX IF NOT EXISTS by_organisation ON record (organisation, event_us);
             CREATE INDEX IF NOT EXISTS by_country ON record (country, event_us);
             CREATE INDEX IF NOT EXISTS by_kind ON record (kind, outcome, event_us);
             CREATE INDEX IF NOT EXISTS by_exchange ON record (exchange);
             CREATE INDEX IF NOT EXISTS by_emergency ON record (event_us) WHERE emergency = 1;
             CREATE INDEX IF NOT EXISTS by_time ON record (event_us);
             CREATE INDEX IF NOT EXISTS by_study ON study (uid);",
        )
        .map_err(failed)?;
        Ok(Self(db))
    }

    /// The highest (epoch, seq) of a source.
    ///
    /// # Errors
    /// SQLite's.
    pub fn last_of(&self, source: &str) -> Result<(u64, u64), AuditError> {
        let sql = "SELECT epoch, seq FROM record WHERE source = ?1 ORDER BY epoch DESC, seq DESC LIMIT 1";
        let row = self.0.query_row(sql, params![source], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        match row {
            Ok((epoch, seq)) => Ok((epoch as u64, seq as u64)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok((0, 0)),
            Err(error) => Err(failed(error)),
        }
    }

    /// Adds records in one transaction; those it has already are left as they are.
    ///
    /// # Errors
    /// SQLite's.
    pub fn add(&mut self, entries: &[(Stored, Found, String)]) -> Result<(), AuditError> {
        let transaction = self.0.transaction().map_err(failed)?;
        for (place, found, patient) in entries {
            let Some(record) = &found.record else { continue };
            let facts = record.facts.clone().unwrap_or_default();
            let added = transaction
                .prepare_cached(
                    "INSERT OR IGNORE INTO record (source, epoch, seq, segment, offset, event_us, received_us, exchange, kind,
                     role, outcome, patient, user, organisation, country, purpose, emergency)
                     VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)",
                )
                .and_then(|mut statement| {
                    statement.execute(params![
                        found.source, record.epoch as i64, record.seq as i64, place.segment as i64, place.offset as i64,
                        record.event_time_us, found.received_us, facts.exchange_id, facts.transaction, facts.role,
                        facts.outcome, patient, facts.user, facts.organisation, facts.country, facts.purpose, facts.emergency
                    ])
                })
                .map_err(failed)?;
            if added == 1 {
                let id = transaction.last_insert_rowid();
                for study in &facts.studies {
                    transaction
                        .execute("INSERT INTO study (record, uid) VALUES (?1, ?2)", params![id, study])
                        .map_err(failed)?;
                }
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Places of what fits, newest first. `patient` is the keyed hash.
    ///
    /// # Errors
    /// SQLite's.
    pub fn search(&self, filter: &SearchRequest, patient: &str) -> Result<Vec<Stored>, AuditError> {
        let mut sql = "SELECT segment, offset FROM record WHERE 1 = 1".to_owned();
        let mut values: Vec<Value> = Vec::new();
        let texts = [
            ("patient", patient),
            ("user", filter.user.as_str()),
            ("purpose", filter.purpose.as_str()),
            ("kind", filter.transaction.as_str()),
            ("role", filter.role.as_str()),
            ("exchange", filter.exchange_id.as_str()),
        ];
        for (column, value) in texts.into_iter().filter(|(_, value)| !value.is_empty()) {
            values.push(Value::Text(value.to_owned()));
            sql.push_str(&format!(" AND {column} = ?{}", values.len()));
        }
        if !filter.study.is_empty() {
            values.push(Value::Text(filter.study.clone()));
            sql.push_str(&format!(" AND id IN (SELECT record FROM study WHERE uid = ?{})", values.len()));
        }
        for (operator, bound) in [(">=", filter.from_us), ("<", filter.to_us)] {
            if bound != 0 {
                values.push(Value::Integer(bound));
                sql.push_str(&format!(" AND event_us {operator} ?{}", values.len()));
            }
        }
        let limit = if filter.limit == 0 { 100 } else { filter.limit.min(MOST) };
        sql.push_str(&format!(" ORDER BY event_us DESC, id DESC LIMIT {limit}"));
        let mut statement = self.0.prepare(&sql).map_err(failed)?;
        let rows = statement
            .query_map(params_from_iter(values), |row| {
                Ok(Stored { segment: row.get::<_, i64>(0)? as u64, offset: row.get::<_, i64>(1)? as u64 })
            })
            .map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// All rows as text, for comparison after `reindex`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn dump(&self) -> Result<Vec<String>, AuditError> {
        let sql = "SELECT source || epoch || '/' || seq || segment || ',' || offset || event_us || exchange || kind || role || outcome
                   || patient || user || (SELECT coalesce(group_concat(uid), '') FROM study WHERE study.record = record.id)
                   FROM record ORDER BY source, epoch, seq";
        let mut statement = self.0.prepare(sql).map_err(failed)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}
