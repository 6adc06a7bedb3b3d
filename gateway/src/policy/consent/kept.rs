//! The consent file of a running gateway: read again by itself when it changes, apart from peers, policies and keys.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ncp_ihe::PatientId;
use ncp_tls::{Country, FileStamp, file_stamp};

use super::file::{ConsentFile, WrongRow};
use super::{ConsentError, Directives};

/// How often the file is looked at. A file that still changes is read one look later.
pub const LOOK: Duration = Duration::from_secs(1);

/// The file and what it said when it could last be read.
pub struct KeptFile {
    path: PathBuf,
    /// How long it may be unreadable before everything is closed.
    max_age: Duration,
    kept: ArcSwap<Kept>,
    began: Instant,
    /// When it was last seen to be what is in force, in milliseconds since `began`.
    seen: AtomicU64,
    looks: Mutex<Looks>,
}

struct Kept {
    file: ConsentFile,
    wrong: Vec<WrongRow>,
}

#[derive(Default)]
struct Looks {
    read: FileStamp,
    last: FileStamp,
}

/// What a look found.
#[derive(Debug)]
pub enum Look {
    /// Nothing new.
    Same,
    /// Read; rows that are wrong are named.
    Read(Vec<WrongRow>),
    /// It cannot be read, and what it said stays for now.
    Failed(ConsentError),
}

impl KeptFile {
    /// Reads the file; it must be right as a whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &Path, max_age: Duration) -> Result<Self, ConsentError> {
        let stamp = file_stamp(path);
        let file = ConsentFile::load(path)?;
        Ok(Self {
            path: path.to_owned(),
            max_age,
            kept: ArcSwap::from_pointee(Kept { file, wrong: Vec::new() }),
            began: Instant::now(),
            seen: AtomicU64::new(0),
            looks: Mutex::new(Looks { read: stamp, last: stamp }),
        })
    }

    /// Looks whether it changed, and reads it when it is quiet.
    pub fn look(&self) -> Look {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = file_stamp(&self.path);
        let quiet = now == looks.last;
        looks.last = now;
        if now.is_some() && now == looks.read {
            self.seen();
            return Look::Same;
        }
        if now.is_some() && !quiet {
            return Look::Same;
        }
        match ConsentFile::load_rows(&self.path, &self.kept.load().file) {
            Ok((file, wrong)) => {
                self.kept.store(Arc::new(Kept { file, wrong: wrong.clone() }));
                looks.read = now;
                self.seen();
                Look::Read(wrong)
            }
            Err(error) => Look::Failed(error),
        }
    }

    fn seen(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.seen.store(since, Ordering::Relaxed);
    }

    /// How long ago the file was seen to be what is in force.
    pub fn age(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.seen.load(Ordering::Relaxed)))
    }

    /// Rows that could not be read.
    pub fn wrong_rows(&self) -> Vec<WrongRow> {
        self.kept.load().wrong.clone()
    }

    /// What it says of a patient.
    ///
    /// # Errors
    /// It could not be read for too long.
    pub fn directives(&self, patient: &PatientId, to: &Country) -> Result<Directives, ConsentError> {
        if self.age() > self.max_age {
            return Err(ConsentError::Old);
        }
        Ok(self.kept.load().file.directives(patient, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::consent::ServiceConsent;

    fn opted_out(kept: &KeptFile, id: u32) -> bool {
        let patient = PatientId::parse_cx(&format!("{id}^^^&2.999.1&ISO")).expect("a CX");
        let to = Country::parse("FI").expect("a country");
        kept.directives(&patient, &to).expect("young enough").service == ServiceConsent::OptedOut
    }

    /// SE-14.10, the life of the file: changed, with a slip, unreadable, gone.
    #[test]
    fn se_14_10_the_file_is_read_again_by_itself() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("consent.toml");
        let write = |text: &str| std::fs::write(&path, text).expect("writes");
        let row = |id: u32| format!("[[opt_out]]\npatient = \"{id}^^^&2.999.1&ISO\"\n");
        write(&row(1));
        let kept = KeptFile::open(&path, Duration::from_secs(3600)).expect("a good file");
        let old = KeptFile::open(&path, Duration::ZERO).expect("a good file");
        assert!(opted_out(&kept, 1) && !opted_out(&kept, 2));
        write(&[row(1), row(2), "[[block]]\npatient = \"x\"\n".into()].concat());
        assert!(matches!(kept.look(), Look::Same), "it may still be being written");
        assert!(matches!(kept.look(), Look::Read(wrong) if wrong.len() == 1));
        assert!(opted_out(&kept, 1) && opted_out(&kept, 2));
        write("[[opt_out");
        kept.look();
        assert!(matches!(kept.look(), Look::Failed(_)));
        assert!(opted_out(&kept, 2), "what was in force stays for a while");
        std::thread::sleep(Duration::from_millis(5));
        let patient = PatientId::parse_cx("9^^^&2.999.1&ISO").expect("a CX");
        let to = Country::parse("FI").expect("a country");
        assert!(matches!(old.directives(&patient, &to), Err(ConsentError::Old)), "then nobody is told anything");
        std::fs::remove_file(&path).expect("removes");
        assert!(matches!(kept.look(), Look::Failed(_) | Look::Same));
        write(&row(1));
        kept.look();
        assert!(matches!(kept.look(), Look::Read(_)));
        assert!(opted_out(&kept, 1) && !opted_out(&kept, 2));
    }
}
