//! Whether a file changed since it was read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a file is known by: inode, length, time of its last change; none where it cannot be looked at.
pub type FileStamp = Option<(u64, u64, i64, i64)>;

/// The stamp of a file now.
pub fn file_stamp(file: &Path) -> FileStamp {
    file.metadata().ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
}
