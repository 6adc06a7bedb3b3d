//! What the repository asks of a relational database, and the two that answer: SQLite and PostgreSQL.
//!
//! Statements are written once, with `$1` placeholders in order of appearance, which both understand.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::AuditError;

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// BIGINT.
    Int(i64),
    /// TEXT.
    Text(String),
    /// BLOB, BYTEA.
    Bytes(Vec<u8>),
}

impl Value {
    /// A number, 0 for anything else.
    pub fn int(&self) -> i64 {
        if let Self::Int(n) = self { *n } else { 0 }
    }

    /// A text, empty for anything else.
    pub fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        // PostgreSQL has no NUL in text; none of ours means anything.
        Self::Text(text.replace('\0', ""))
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

/// A connection to a database.
pub trait Database: Send {
    /// Runs statements without parameters.
    ///
    /// # Errors
    /// The database's.
    fn batch(&mut self, sql: &str) -> Result<(), AuditError>;

    /// Runs one statement.
    ///
    /// # Errors
    /// The database's.
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<(), AuditError>;

    /// Runs one query.
    ///
    /// # Errors
    /// The database's.
    fn rows(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Vec<Value>>, AuditError>;

    /// Whether tables are partitioned by month.
    fn partitioned(&self) -> bool;

    /// The collation that orders text by its bytes.
    fn by_bytes(&self) -> &'static str;
}

fn failed(error: impl std::fmt::Display) -> AuditError {
    AuditError::Repository(format!("database: {error}"))
}

/// A value that this database cannot hold (SQLSTATE classes 22 and 54) is no failure of the database.
fn of_postgres(error: postgres::Error) -> AuditError {
    if error.code() == Some(&postgres::error::SqlState::QUERY_CANCELED) {
        return AuditError::TooCostly;
    }
    let class = error.code().map(|state| state.code().get(..2).unwrap_or_default().to_owned());
    match class.as_deref() {
        Some("22" | "54") => AuditError::Unfit(error.to_string()),
        _ => failed(error),
    }
}

fn of_sqlite(error: rusqlite::Error) -> AuditError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::OperationInterrupted) => AuditError::TooCostly,
        _ => failed(error),
    }
}

/// SQLite in WAL mode.
pub struct Sqlite {
    db: rusqlite::Connection,
    /// The longest that one query may take.
    limit: Option<Duration>,
}

impl Sqlite {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let db = rusqlite::Connection::open(path).map_err(failed)?;
        // NORMAL: what a power cut takes from the index is found again in the store at the next start. The kernel keeps the
        // file's pages too, so that a large cache of our own (KiB) would hold them twice.
        db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096;")
            .map_err(failed)?;
        db.set_prepared_statement_cache_capacity(64);
        Ok(Self { db, limit: None })
    }

    /// Opens the file for reading beside the one that writes. A query that takes longer than `limit` ends with
    /// [`AuditError::TooCostly`].
    ///
    /// # Errors
    /// SQLite's.
    pub fn reader(path: &Path, limit: Duration) -> Result<Self, AuditError> {
        let reader = Self::open(path)?;
        reader.db.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -512;").map_err(failed)?;
        Ok(Self { limit: Some(limit), ..reader })
    }

    fn read(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Vec<Value>>, AuditError> {
        use rusqlite::types::ValueRef;
        let mut statement = self.db.prepare_cached(sql).map_err(failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(values)).map_err(of_sqlite)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(of_sqlite)? {
            let value = |index| {
                Ok(match row.get_ref(index).map_err(failed)? {
                    ValueRef::Integer(n) => Value::Int(n),
                    ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                    ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
                    _ => Value::Int(0),
                })
            };
            out.push((0..columns).map(value).collect::<Result<_, AuditError>>()?);
        }
        Ok(out)
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(n) => ValueRef::Integer(*n),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Database for Sqlite {
    fn batch(&mut self, sql: &str) -> Result<(), AuditError> {
        self.db.execute_batch(sql).map_err(failed)
    }

    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<(), AuditError> {
        let mut statement = self.db.prepare_cached(sql).map_err(failed)?;
        statement.execute(rusqlite::params_from_iter(values)).map(drop).map_err(failed)
    }

    fn rows(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Vec<Value>>, AuditError> {
        let Some(limit) = self.limit else { return self.read(sql, values) };
        let running = self.db.get_interrupt_handle();
        let (done, over) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                    running.interrupt();
                }
            });
            let rows = self.read(sql, values);
            drop(done);
            rows
        })
    }

    fn partitioned(&self) -> bool {
        false
    }

    fn by_bytes(&self) -> &'static str {
        "BINARY"
    }
}

/// PostgreSQL. A connection that broke, as when the server restarts, is made again for the next statement outside a
/// transaction; what was under way fails as a whole and is not acknowledged.
pub struct Postgres {
    url: String,
    client: Option<postgres::Client>,
    prepared: std::collections::HashMap<String, postgres::Statement>,
    in_transaction: bool,
    /// The longest that one query may take.
    limit: Option<Duration>,
}

impl Postgres {
    /// Connects. TLS is asked for by `sslmode` in the URL.
    ///
    /// # Errors
    /// The server's.
    pub fn open(url: &str) -> Result<Self, AuditError> {
        Self::within(url, None)
    }

    /// Connects for reading beside the one that writes. A query that takes longer than `limit` ends with
    /// [`AuditError::TooCostly`].
    ///
    /// # Errors
    /// The server's.
    pub fn reader(url: &str, limit: Duration) -> Result<Self, AuditError> {
        Self::within(url, Some(limit))
    }

    fn within(url: &str, limit: Option<Duration>) -> Result<Self, AuditError> {
        let (prepared, in_transaction) = (Default::default(), false);
        let mut out = Self { url: url.to_owned(), client: None, prepared, in_transaction, limit };
        out.connected()?;
        Ok(out)
    }

    fn connected(&mut self) -> Result<&mut postgres::Client, AuditError> {
        let broken = self.client.as_ref().is_none_or(postgres::Client::is_closed);
        if broken {
            if std::mem::take(&mut self.in_transaction) {
                return Err(failed("connection broke inside a transaction"));
            }
            self.prepared.clear();
            self.client = None;
            let builder = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls_client()).map_err(failed)?;
            let tls = postgres_openssl::MakeTlsConnector::new(builder.build());
            // The error of a failed connection may name the URL's user; only its kind goes on.
            let mut client = postgres::Client::connect(&self.url, tls).map_err(|_| failed("cannot connect"))?;
            if let Some(limit) = self.limit {
                let limits =
                    format!("SET statement_timeout = {}; SET default_transaction_read_only = on", limit.as_millis());
                client.batch_execute(&limits).map_err(failed)?;
            }
            self.client = Some(client);
        }
        self.client.as_mut().ok_or_else(|| failed("cannot connect"))
    }

    fn statement(&mut self, sql: &str) -> Result<postgres::Statement, AuditError> {
        self.connected()?;
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        let made = self.connected()?.prepare(sql).map_err(failed)?;
        if self.prepared.len() < 64 {
            self.prepared.insert(sql.to_owned(), made.clone());
        }
        Ok(made)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Saying goodbye to the server blocks, which no thread of a runtime may do.
        if let Some(client) = self.client.take() {
            let _ = std::thread::spawn(move || drop(client)).join();
        }
    }
}

impl postgres::types::ToSql for Value {
    fn to_sql(
        &self,
        kind: &postgres::types::Type,
        out: &mut postgres::types::private::BytesMut,
    ) -> Result<postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Int(n) => n.to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(_: &postgres::types::Type) -> bool {
        true
    }

    postgres::types::to_sql_checked!();
}

impl Database for Postgres {
    fn batch(&mut self, sql: &str) -> Result<(), AuditError> {
        let ends = matches!(sql, "COMMIT" | "ROLLBACK");
        let result = self.connected().and_then(|client| client.batch_execute(sql).map_err(failed));
        self.in_transaction = (sql == "BEGIN" && result.is_ok()) || (self.in_transaction && !ends);
        result
    }

    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<(), AuditError> {
        let statement = self.statement(sql)?;
        let parameters: Vec<_> = values.iter().map(|v| v as &(dyn postgres::types::ToSql + Sync)).collect();
        self.connected()?.execute(&statement, &parameters).map(drop).map_err(of_postgres)
    }

    fn rows(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Vec<Value>>, AuditError> {
        let statement = self.statement(sql)?;
        let parameters: Vec<_> = values.iter().map(|v| v as &(dyn postgres::types::ToSql + Sync)).collect();
        let rows = self.connected()?.query(&statement, &parameters).map_err(of_postgres)?;
        let value = |row: &postgres::Row, index: usize| {
            use postgres::types::Type;
            let kind = row.columns()[index].type_();
            Ok(match *kind {
                Type::INT8 => Value::Int(row.try_get::<_, Option<i64>>(index).map_err(failed)?.unwrap_or(0)),
                Type::INT4 => Value::Int(row.try_get::<_, Option<i32>>(index).map_err(failed)?.unwrap_or(0).into()),
                Type::BYTEA => {
                    Value::Bytes(row.try_get::<_, Option<Vec<u8>>>(index).map_err(failed)?.unwrap_or_default())
                }
                _ => Value::Text(row.try_get::<_, Option<String>>(index).map_err(failed)?.unwrap_or_default()),
            })
        };
        rows.iter().map(|row| (0..row.len()).map(|i| value(row, i)).collect()).collect()
    }

    fn partitioned(&self) -> bool {
        true
    }

    fn by_bytes(&self) -> &'static str {
        "\"C\""
    }
}

/// Runs `work` in one transaction.
///
/// # Errors
/// Its own or the database's; nothing of it counts then.
pub(crate) fn transaction<T>(
    db: &mut dyn Database,
    work: impl FnOnce(&mut dyn Database) -> Result<T, AuditError>,
) -> Result<T, AuditError> {
    db.batch("BEGIN")?;
    match work(db) {
        Ok(out) => {
            db.batch("COMMIT")?;
            Ok(out)
        }
        Err(error) => {
            let _ = db.batch("ROLLBACK");
            Err(error)
        }
    }
}

/// The month of an instant as a partition: its name, its first microsecond and that of the next.
pub(crate) fn month(us: i64) -> (String, i64, i64) {
    let at = jiff::Timestamp::from_microsecond(us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let day = at.to_zoned(jiff::tz::TimeZone::UTC).date();
    let first = day.first_of_month();
    let next = day.last_of_month().tomorrow().unwrap_or(first);
    let us = |date: jiff::civil::Date| {
        date.to_zoned(jiff::tz::TimeZone::UTC).map_or(0, |zoned| zoned.timestamp().as_microsecond())
    };
    (first.strftime("%Y%m").to_string(), us(first), us(next))
}

/// Makes the partition of a table that an instant falls into.
pub(crate) fn partition(db: &mut dyn Database, table: &str, us: i64) -> Result<(), AuditError> {
    let (name, from, to) = month(us);
    db.batch(&format!(
        "CREATE TABLE IF NOT EXISTS {table}_{name} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to})"
    ))
}
