//! Records as they came, appended to encrypted segment files.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use ncp_proto::audit::{Found, Record};
use prost::Message;

use crate::AuditError;
use crate::frame::{self, Key};

const SEGMENT: u64 = 256 << 20;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Segment number.
    pub segment: u64,
    /// Byte offset.
    pub offset: u64,
}

/// Append-only: the truth from which an index can be made again.
pub struct RecordStore {
    dir: PathBuf,
    key: Key,
    file: File,
    at: Stored,
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("records-{number:012}.log"))
}

impl RecordStore {
    /// Opens the folder; a torn tail is cut.
    ///
    /// # Errors
    /// Folder, key.
    pub fn open(dir: &Path, key_file: &Path) -> Result<Self, AuditError> {
        std::fs::create_dir_all(dir)?;
        let key = Key::load(key_file)?;
        let number = Self::numbers(dir)?.last().copied().unwrap_or(1);
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path(dir, number))?;
        let mut offset = 0;
        loop {
            match frame::read_at(&mut file, &key, offset)?.map_err(|()| AuditError::OtherKey)? {
                frame::Found::Frame(_, next) => offset = next,
                frame::Found::End => break,
                frame::Found::Torn => {
                    file.set_len(offset)?;
                    file.sync_all()?;
                    break;
                }
            }
        }
        File::open(dir)?.sync_all()?;
        Ok(Self { dir: dir.to_owned(), key, file, at: Stored { segment: number, offset } })
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

    /// Appends records and makes them durable as one group.
    ///
    /// # Errors
    /// The disk; nothing of the group counts then.
    pub fn append(&mut self, source: &str, records: &[Record], received_us: i64) -> Result<Vec<Stored>, AuditError> {
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        for record in records {
            let found = Found { source: source.to_owned(), record: Some(record.clone()), received_us };
            places.push(Stored { segment: self.at.segment, offset: self.at.offset + bytes.len() as u64 });
            bytes.extend(frame::seal(&self.key, &found.encode_to_vec())?);
        }
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            self.file.set_len(self.at.offset)?;
            return Err(error.into());
        }
        self.at.offset += bytes.len() as u64;
        if self.at.offset >= SEGMENT {
            let number = self.at.segment + 1;
            self.file = OpenOptions::new().create_new(true).append(true).read(true).open(path(&self.dir, number))?;
            File::open(&self.dir)?.sync_all()?;
            self.at = Stored { segment: number, offset: 0 };
        }
        Ok(places)
    }

    /// Reads one record.
    ///
    /// # Errors
    /// The disk, or no record there.
    pub fn read(&self, place: Stored) -> Result<Found, AuditError> {
        let mut file = File::open(path(&self.dir, place.segment))?;
        match frame::read_at(&mut file, &self.key, place.offset)? {
            Ok(frame::Found::Frame(plain, _)) => {
                Found::decode(plain.as_slice()).map_err(|e| AuditError::Repository(e.to_string()))
            }
            _ => Err(AuditError::OtherKey),
        }
    }

    /// Goes through all records, oldest first.
    ///
    /// # Errors
    /// The disk, another key, or the visitor's.
    pub fn walk(&self, mut visit: impl FnMut(Stored, Found) -> Result<(), AuditError>) -> Result<(), AuditError> {
        for segment in Self::numbers(&self.dir)? {
            let mut file = File::open(path(&self.dir, segment))?;
            let mut offset = 0;
            while let frame::Found::Frame(plain, next) =
                frame::read_at(&mut file, &self.key, offset)?.map_err(|()| AuditError::OtherKey)?
            {
                let found = Found::decode(plain.as_slice()).map_err(|e| AuditError::Repository(e.to_string()))?;
                visit(Stored { segment, offset }, found)?;
                offset = next;
            }
        }
        Ok(())
    }

    /// The patient's identifier as the index knows it.
    pub fn patient_hash(&self, patient: &str) -> String {
        if patient.is_empty() { String::new() } else { self.key.hmac(&format!("patient:{patient}")) }
    }
}
