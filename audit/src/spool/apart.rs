//! What a receiver does not take: kept in the spool's folder, a file for each receiver, encrypted as the spool is.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::AuditError;
use crate::frame::{self, Found, Key};

const PREFIX: &str = "dead-letters-";

/// A record that was set apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetApart {
    /// Its number; 0 where a release before 0.2 set it apart.
    pub epoch: u64,
    /// Its number within the epoch.
    pub seq: u64,
    /// When it was set apart.
    pub at: Timestamp,
    /// Why, in words that hold nothing of it.
    pub reason: String,
    /// The message as this receiver would have had it.
    pub xml: String,
}

impl SetApart {
    fn read(plain: Vec<u8>) -> Self {
        serde_json::from_slice(&plain).unwrap_or_else(|_| Self {
            epoch: 0,
            seq: 0,
            at: Timestamp::UNIX_EPOCH,
            reason: String::new(),
            xml: String::from_utf8_lossy(&plain).into_owned(),
        })
    }
}

fn path(dir: &Path, receiver: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{receiver}"))
}

/// Receivers that have set something apart.
pub(crate) fn receivers(dir: &Path) -> std::io::Result<Vec<String>> {
    let names = std::fs::read_dir(dir)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut out: Vec<String> = names.filter_map(|name| name.strip_prefix(PREFIX).map(str::to_owned)).collect();
    out.sort();
    Ok(out)
}

/// All that was set apart for a receiver, oldest first, and where the last whole frame ends.
pub(crate) fn read(dir: &Path, key: &Key, receiver: &str) -> Result<(Vec<SetApart>, u64), AuditError> {
    let mut file = match File::open(path(dir, receiver)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        file => file?,
    };
    let (mut out, mut offset) = (Vec::new(), 0);
    while let Found::Frame(plain, next) = frame::read_at(&mut file, key, offset)?.map_err(|()| AuditError::OtherKey)? {
        out.push(SetApart::read(plain));
        offset = next;
    }
    Ok((out, offset))
}

/// Adds one; durable when this returns.
pub(crate) fn add(dir: &Path, key: &Key, receiver: &str, one: &SetApart) -> Result<(), AuditError> {
    // A frame behind a torn one would never be read.
    let (_, end) = read(dir, key, receiver)?;
    let sealed = frame::seal(key, &serde_json::to_vec(one).map_err(std::io::Error::other)?)?;
    let mut file = OpenOptions::new().create(true).append(true).open(path(dir, receiver))?;
    file.set_len(end)?;
    file.write_all(&sealed)?;
    file.sync_data()?;
    File::open(dir)?.sync_all()?;
    Ok(())
}
