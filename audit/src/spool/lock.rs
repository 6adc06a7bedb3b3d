//! What one process writes no other may write meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

/// Takes the lock of a file for this process, until the answer is dropped or the process ends in whatever way.
///
/// # Errors
/// [`ErrorKind::ResourceBusy`] when another process has it; what the file system says.
pub fn lock(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let folder = path.parent().unwrap_or(path).display();
            Err(Error::new(ErrorKind::ResourceBusy, format!("{folder} is in use by another process")))
        }
        Err(error) => Err(error.into()),
    }
}
