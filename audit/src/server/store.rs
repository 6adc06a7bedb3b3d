//! `RecordStore`: the append-only truth. Segment files by default, an insert-only table by configuration; both hold the
//! same encrypted frames.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use ncp_proto::audit::Found;
use prost::Message;

use super::database::{Database, Value, month, partition, transaction};
use crate::AuditError;
use crate::frame::{self, Key, Next};

/// Where a record lies: segment and byte offset, or month and number of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Segment number or YYYYMM.
    pub segment: u64,
    /// Byte offset or row.
    pub offset: u64,
}

impl Place {
    /// As a FHIR id.
    pub(super) fn id(self) -> String {
        format!("{}-{}", self.segment, self.offset)
    }

    /// The place that a FHIR id names.
    pub(super) fn of_id(id: &str) -> Option<Self> {
        let (segment, offset) = id.split_once('-')?;
        Some(Self { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
    }
}

/// Takes each record of a walk.
pub(super) type Visitor<'a> = &'a mut dyn FnMut(Place, Found) -> Result<(), AuditError>;

/// Append-only: the truth from which an index can be made again.
pub trait RecordStore: Send {
    /// Appends records and makes them durable as one group.
    ///
    /// # Errors
    /// The disk or the server; nothing of the group counts then.
    fn append(&mut self, records: &[Found]) -> Result<Vec<Place>, AuditError>;

    /// Whether records can be stored now, as far as can be told without storing one.
    ///
    /// # Errors
    /// The disk or the server.
    fn check(&mut self) -> Result<(), AuditError>;

    /// Goes through all records after `after`, oldest first.
    ///
    /// # Errors
    /// The disk, another key, or the visitor's.
    fn walk(&mut self, after: Option<Place>, visit: Visitor<'_>) -> Result<(), AuditError>;
}

/// Reads records beside the one who appends.
pub(super) trait RecordReader: Send {
    /// Reads one record.
    ///
    /// # Errors
    /// The disk or the server, or no record there.
    fn read(&mut self, place: Place) -> Result<Found, AuditError>;
}

/// Segment files, for reading.
pub(super) struct SegmentReader {
    pub(super) dir: PathBuf,
    pub(super) key: Key,
}

impl RecordReader for SegmentReader {
    fn read(&mut self, place: Place) -> Result<Found, AuditError> {
        let path = path(&self.dir, place.segment);
        match frame::read_at(&mut File::open(&path)?, &self.key, place.offset)? {
            Ok(frame::Found::Frame(plain, _)) => decode(&plain),
            Ok(_) => Err(AuditError::Damaged(path.display().to_string(), place.offset)),
            Err(()) => Err(AuditError::OtherKey),
        }
    }
}

/// The table of records, for reading.
pub(super) struct TableReader {
    pub(super) db: Box<dyn Database>,
    pub(super) key: Key,
}

impl RecordReader for TableReader {
    fn read(&mut self, place: Place) -> Result<Found, AuditError> {
        let rows = self.db.rows("SELECT frame FROM stored WHERE id = $1", &[Value::Int(place.offset as i64)])?;
        let Some(Value::Bytes(bytes)) = rows.first().and_then(|row| row.first()) else {
            return Err(AuditError::Repository("no such record".into()));
        };
        decode(&frame::open(&self.key, bytes)?)
    }
}

fn decode(plain: &[u8]) -> Result<Found, AuditError> {
    Found::decode(plain).map_err(|e| AuditError::Repository(e.to_string()))
}

/// Encrypted segment files.
pub struct Segments {
    dir: PathBuf,
    key: Key,
    file: File,
    at: Place,
    size: u64,
}

/// A segment is closed at this size, bytes.
const SEGMENT: u64 = 256 << 20;

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("records-{number:012}.log"))
}

impl Segments {
    /// Opens the folder; a torn tail is cut, and what is damaged stays as it is.
    ///
    /// # Errors
    /// Folder, key.
    pub fn open(dir: &Path, key_file: &Path) -> Result<Self, AuditError> {
        std::fs::create_dir_all(dir)?;
        let key = Key::load(key_file)?;
        let number = Self::numbers(dir)?.last().copied().unwrap_or(1);
        let path = path(dir, number);
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        let mut offset = 0;
        loop {
            match frame::next(&mut file, &path, &key, offset)? {
                Next::Frame(_, _, next) => offset = next,
                Next::End(end) => {
                    offset = end;
                    break;
                }
                Next::Torn(end) => {
                    tracing::warn!(offset, "records end in a torn one, which was never acknowledged: cut");
                    file.set_len(end)?;
                    file.sync_all()?;
                    break;
                }
            }
        }
        File::open(dir)?.sync_all()?;
        Ok(Self { dir: dir.to_owned(), key, file, at: Place { segment: number, offset }, size: SEGMENT })
    }

    fn numbers(dir: &Path) -> std::io::Result<Vec<u64>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix("records-")).and_then(|n| n.strip_suffix(".log"));
            out.extend(number.and_then(|n| n.parse::<u64>().ok()));
        }
        out.sort_unstable();
        Ok(out)
    }

    fn next_segment(&mut self) -> std::io::Result<()> {
        let number = self.at.segment + 1;
        self.file = OpenOptions::new().create_new(true).append(true).read(true).open(path(&self.dir, number))?;
        File::open(&self.dir)?.sync_all()?;
        self.at = Place { segment: number, offset: 0 };
        Ok(())
    }
}

impl RecordStore for Segments {
    fn append(&mut self, records: &[Found]) -> Result<Vec<Place>, AuditError> {
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        for found in records {
            places.push(Place { segment: self.at.segment, offset: self.at.offset + bytes.len() as u64 });
            bytes.extend(frame::seal(&self.key, &found.encode_to_vec())?);
        }
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            // A file whose sync failed is not trusted again, and half a group must not stand.
            let cut = self.file.set_len(self.at.offset).and_then(|()| self.file.sync_data());
            if cut.is_err() {
                self.next_segment()?;
            }
            return Err(error.into());
        }
        self.at.offset += bytes.len() as u64;
        if self.at.offset >= self.size {
            self.next_segment()?;
        }
        Ok(places)
    }

    fn check(&mut self) -> Result<(), AuditError> {
        Ok(self.file.sync_data()?)
    }

    fn walk(&mut self, after: Option<Place>, visit: Visitor<'_>) -> Result<(), AuditError> {
        let first = after.map_or(0, |p| p.segment);
        for segment in Self::numbers(&self.dir)?.into_iter().filter(|n| *n >= first) {
            let path = path(&self.dir, segment);
            let mut file = File::open(&path)?;
            let mut offset = after.filter(|p| p.segment == segment).map_or(0, |p| p.offset);
            loop {
                match frame::next(&mut file, &path, &self.key, offset)? {
                    Next::Frame(at, plain, next) => {
                        let place = Place { segment, offset: at };
                        if after != Some(place) {
                            visit(place, decode(&plain)?)?;
                        }
                        offset = next;
                    }
                    Next::End(_) => break,
                    Next::Torn(offset) => {
                        tracing::warn!(file = %path.display(), offset, "ends in a torn record, never acknowledged");
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// An insert-only table, partitioned by the month of receipt where the database can.
pub struct Table {
    db: Box<dyn Database>,
    key: Key,
    next: i64,
    month: String,
    /// A commit whose answer was lost may have taken the last numbers.
    uncertain: bool,
}

impl Table {
    /// Opens or makes the table.
    ///
    /// # Errors
    /// The database's, the key.
    pub fn open(mut db: Box<dyn Database>, key_file: &Path) -> Result<Self, AuditError> {
        let (binary, by) = match db.partitioned() {
            true => ("BYTEA", " PARTITION BY RANGE (received_us)"),
            false => ("BLOB", ""),
        };
        db.batch(&format!(
            "CREATE TABLE IF NOT EXISTS stored (id BIGINT NOT NULL, received_us BIGINT NOT NULL, frame {binary} NOT NULL,
             PRIMARY KEY (id, received_us)){by}"
        ))?;
        let key = Key::load(key_file)?;
        let mut table = Self { db, key, next: 1, month: String::new(), uncertain: true };
        table.count()?;
        Ok(table)
    }

    fn count(&mut self) -> Result<(), AuditError> {
        if self.uncertain {
            let last = self.db.rows("SELECT max(id) FROM stored", &[])?;
            self.next = last.first().and_then(|row| row.first()).map_or(0, Value::int) + 1;
            self.uncertain = false;
        }
        Ok(())
    }
}

impl RecordStore for Table {
    fn append(&mut self, records: &[Found]) -> Result<Vec<Place>, AuditError> {
        self.count()?;
        let mut places = Vec::new();
        let (key, first, partitioned) = (self.key.clone(), self.next, self.db.partitioned());
        for found in records {
            let (name, ..) = month(found.received_us);
            if partitioned && name != self.month {
                partition(self.db.as_mut(), "stored", found.received_us)?;
                self.month = name;
            }
        }
        self.uncertain = true;
        transaction(self.db.as_mut(), |db| {
            for chunk in records.chunks(128) {
                let mut values = Vec::new();
                for found in chunk {
                    let id = first + places.len() as i64;
                    let (name, ..) = month(found.received_us);
                    places.push(Place { segment: name.parse().unwrap_or(0), offset: id as u64 });
                    values.extend([Value::Int(id), Value::Int(found.received_us)]);
                    values.push(Value::Bytes(frame::seal(&key, &found.encode_to_vec())?));
                }
                db.execute(&format!("INSERT INTO stored VALUES {}", rows_of(chunk.len(), 3)), &values)?;
            }
            Ok(())
        })?;
        self.next += records.len() as i64;
        self.uncertain = false;
        Ok(places)
    }

    fn check(&mut self) -> Result<(), AuditError> {
        self.db.rows("SELECT 1", &[]).map(drop)
    }

    fn walk(&mut self, after: Option<Place>, visit: Visitor<'_>) -> Result<(), AuditError> {
        let mut last = after.map_or(0, |p| p.offset as i64);
        loop {
            let sql = "SELECT id, received_us, frame FROM stored WHERE id > $1 ORDER BY id LIMIT 256";
            let rows = self.db.rows(sql, &[Value::Int(last)])?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let [id, received, Value::Bytes(bytes)] = row.as_slice() else { continue };
                last = id.int();
                let (name, ..) = month(received.int());
                let place = Place { segment: name.parse().unwrap_or(0), offset: last as u64 };
                visit(place, decode(&frame::open(&self.key, bytes)?)?)?;
            }
        }
    }
}

/// `($1,$2),($3,$4)` for so many rows and columns.
pub(crate) fn rows_of(rows: usize, columns: usize) -> String {
    let row = |r: usize| {
        let cells: Vec<String> = (1..=columns).map(|c| format!("${}", r * columns + c)).collect();
        format!("({})", cells.join(","))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(",")
}
