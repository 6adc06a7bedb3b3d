//! The load's own log: every act with its time, its kind, the patient as a number of the test, and how it ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::json;

use crate::Error;

/// What a caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// FHIR `$match`.
    Match,
    /// Search for DocumentReferences.
    List,
    /// A report by its Binary.
    Document,
    /// QIDO-RS: the instances of a study.
    Search,
    /// WADO-RS: a study.
    Study,
    /// Patient discovery by a neighbour.
    Iti55,
    /// Query by a neighbour.
    Iti38,
    /// Document retrieve by a neighbour.
    Iti39,
    /// Image retrieve by a neighbour.
    Rad75,
}

impl Kind {
    /// What a clinician's system does, one after the other.
    pub(crate) const CLINICIAN: [Self; 5] = [Self::Match, Self::List, Self::Document, Self::Search, Self::Study];
    /// What a neighbour does, one after the other.
    pub(crate) const NEIGHBOUR: [Self; 4] = [Self::Iti55, Self::Iti38, Self::Iti39, Self::Rad75];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Match => "$match",
            Self::List => "DocumentReference",
            Self::Document => "Binary",
            Self::Search => "QIDO-RS",
            Self::Study => "WADO-RS study",
            Self::Iti55 => "ITI-55",
            Self::Iti38 => "ITI-38",
            Self::Iti39 => "ITI-39",
            Self::Rad75 => "RAD-75",
        }
    }

    /// The transaction that an act discloses by, exactly once when it comes whole. A search by QIDO-RS is answered from a
    /// manifest, which is remembered for a while, so that it has none.
    pub(crate) fn discloses(self) -> Option<&'static str> {
        match self {
            Self::Match | Self::Iti55 => Some("ITI-55"),
            Self::List | Self::Iti38 => Some("ITI-38"),
            Self::Document | Self::Iti39 => Some("ITI-39"),
            Self::Search => None,
            Self::Study | Self::Rad75 => Some("RAD-75"),
        }
    }

    /// The transaction that may come beside it, once: the manifest of a study that is not remembered any more.
    pub(crate) fn beside(self) -> Option<&'static str> {
        matches!(self, Self::Search | Self::Study).then_some("ITI-39")
    }
}

/// How an act ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything came and is what the archive has.
    Whole,
    /// The gateway said that it is busy and when to come again.
    Busy,
    /// Anything else.
    Failed(String),
}

/// One act.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) kind: Kind,
    /// Number of the caller.
    pub(crate) caller: usize,
    /// Number of the patient.
    pub(crate) patient: usize,
    /// Microseconds since 1970.
    pub(crate) began: i64,
    pub(crate) took: i64,
    /// MessageID of a neighbour's request.
    pub(crate) message: Option<String>,
    pub(crate) ended: Ended,
}

/// Acts in the order in which they ended, in memory and in a file.
pub(crate) struct Journal {
    inner: Mutex<(Vec<Act>, BufWriter<File>)>,
}

impl Journal {
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(Self { inner: Mutex::new((Vec::new(), BufWriter::new(File::create(path)?))) })
    }

    pub(crate) fn add(&self, act: Act) -> Result<(), Error> {
        let (ended, why) = match &act.ended {
            Ended::Whole => ("whole", None),
            Ended::Busy => ("told busy", None),
            Ended::Failed(why) => ("failed", Some(why)),
        };
        let at = Timestamp::from_microsecond(act.began)?.to_string();
        let line = json!({ "at": at, "kind": act.kind.name(), "caller": act.caller, "patient": act.patient,
            "ms": act.took as f64 / 1000.0, "outcome": ended, "why": why, "message": act.message });
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(inner.1, "{line}")?;
        inner.0.push(act);
        Ok(())
    }

    /// Writes the rest of the file and gives the acts.
    pub(crate) fn close(self) -> Result<Vec<Act>, Error> {
        let (acts, mut file) = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        file.flush()?;
        Ok(acts)
    }
}

/// Figures of the acts of one kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) acts: usize,
    pub(crate) busy: usize,
    pub(crate) failed: usize,
    /// Latencies of what came whole, microseconds: p50, p99 and the longest.
    pub(crate) p50: i64,
    pub(crate) p99: i64,
    pub(crate) most: i64,
}

/// Figures by kind.
pub(crate) fn figures(acts: &[Act]) -> BTreeMap<Kind, Figures> {
    let mut by_kind: BTreeMap<Kind, Vec<&Act>> = BTreeMap::new();
    for act in acts {
        by_kind.entry(act.kind).or_default().push(act);
    }
    by_kind.into_iter().map(|(kind, acts)| (kind, of_kind(&acts))).collect()
}

fn of_kind(acts: &[&Act]) -> Figures {
    let whole = acts.iter().filter(|act| act.ended == Ended::Whole);
    let mut took: Vec<i64> = whole.map(|act| act.took).collect();
    took.sort_unstable();
    Figures {
        acts: acts.len(),
        busy: acts.iter().filter(|act| act.ended == Ended::Busy).count(),
        failed: acts.iter().filter(|act| matches!(act.ended, Ended::Failed(_))).count(),
        p50: percentile(&took, 50),
        p99: percentile(&took, 99),
        most: took.last().copied().unwrap_or_default(),
    }
}

/// The smallest value that so many percent of the sorted values do not exceed; 0 of none.
pub(crate) fn percentile(sorted: &[i64], percent: usize) -> i64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
