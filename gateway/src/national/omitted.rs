//! What a connector leaves out of an answer, by name. A unit fails alone, and what is missing is said: in the answer, in
//! the log with its connector, in a counter.

use std::fmt;

use ncp_ihe::Uid;

/// A unit that a connector has, or may have, and that is not in its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Omitted {
    /// The connector, as the configuration names it.
    pub connector: String,
    /// What is left out.
    pub unit: Unit,
    /// Why.
    pub reason: Omission,
}

/// What is left out of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    /// A study.
    Study(Uid),
    /// A registry object, by its entryUUID or uniqueId as it came.
    Object(String),
    /// As many units, whose names could not be had.
    Unnamed(usize),
}

/// Why a unit is left out. Without values, since this reaches logs and peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omission {
    /// The archive fails when it lists it.
    NotListed,
    /// The archive is slow; it is read on, and is there when asked again.
    BeingRead,
    /// The archive lists fewer of its instances than it counts.
    Fewer {
        /// Listed.
        listed: usize,
        /// Counted by the archive, or listed without what an instance needs.
        counted: usize,
    },
    /// Its study date or time cannot be read, and is not told.
    StudyDate,
    /// It names another patient, or the same id of another issuer.
    OtherPatient,
    /// Who issues its patient's id cannot be read, so that nobody knows whose it is.
    Issuer,
    /// It lies in a repository that the configuration does not name.
    UnknownRepository,
    /// A date is no DTM (ITI TF-3: table 4.2.3.1.7-2).
    Date,
    /// Its entryUUID is no UUID, or its uniqueId is empty.
    Name,
    /// Two different objects under one id.
    TwoUnderOneId,
    /// It lacks what a DocumentEntry must have.
    Unusable,
}

impl Omission {
    /// A word for counters.
    pub fn class(self) -> &'static str {
        match self {
            Self::NotListed => "not-listed",
            Self::BeingRead => "being-read",
            Self::Fewer { .. } => "fewer-instances",
            Self::StudyDate => "study-date",
            Self::OtherPatient => "other-patient",
            Self::Issuer => "issuer",
            Self::UnknownRepository => "unknown-repository",
            Self::Date => "date",
            Self::Name => "name",
            Self::TwoUnderOneId => "two-under-one-id",
            Self::Unusable => "unusable",
        }
    }

    /// Whether the unit is in the answer, and only a part of it is not.
    pub fn leaves_the_rest(self) -> bool {
        matches!(self, Self::Fewer { .. } | Self::StudyDate)
    }

    /// Whether what is left out might have described other units of the patient.
    pub fn hides_a_description(self) -> bool {
        self != Self::StudyDate
    }

    /// Whether asking again may help.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::NotListed | Self::BeingRead)
    }
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListed => f.write_str("the archive cannot list it"),
            Self::BeingRead => f.write_str("it is being read; ask again"),
            Self::Fewer { listed, counted } => write!(f, "{listed} of {counted} instances are listed"),
            Self::StudyDate => f.write_str("its study date or time cannot be read"),
            Self::OtherPatient => f.write_str("it names another patient or another issuer of the id"),
            Self::Issuer => f.write_str("who issues its patient's id cannot be read"),
            Self::UnknownRepository => f.write_str("its repository is not known"),
            Self::Date => f.write_str("a date of it cannot be read"),
            Self::Name => f.write_str("its id cannot be read"),
            Self::TwoUnderOneId => f.write_str("two different objects have its id"),
            Self::Unusable => f.write_str("it lacks what it must have"),
        }
    }
}

impl Unit {
    /// Its id, where it has one that may be written into an answer.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Study(uid) => Some(uid.as_str()),
            Self::Object(id) => Some(id),
            Self::Unnamed(_) => None,
        }
    }

    /// How many it is.
    pub fn count(&self) -> usize {
        match self {
            Self::Study(_) | Self::Object(_) => 1,
            Self::Unnamed(count) => *count,
        }
    }

    /// An id as it came, without anything that would spoil a log or an answer.
    pub fn object(id: &str) -> Self {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '^' | '&');
        let id: String = id.chars().filter(plain).take(128).collect();
        if id.is_empty() { Self::Unnamed(1) } else { Self::Object(id) }
    }
}

/// An id as logs have it: whoever holds the unit finds it by the same digest, nobody else does.
pub fn digest(id: &str) -> String {
    let sum = openssl::sha::sha256(id.as_bytes());
    format!("sha256:{}", hex::encode(&sum[..8]))
}

impl Omitted {
    /// One.
    pub fn new(connector: &str, unit: Unit, reason: Omission) -> Self {
        Self { connector: connector.to_owned(), unit, reason }
    }

    /// A line for the operator.
    pub(super) fn log(&self) {
        let unit = self.unit.id().map(digest).unwrap_or_default();
        let (count, reason) = (self.unit.count(), self.reason);
        tracing::warn!(connector = %self.connector, %unit, count, %reason, "left out of a list");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_id_spoils_nothing() {
        assert_eq!(Unit::object("x\n<b>ø").id(), Some("xb"));
        assert_eq!(Unit::object("\n"), Unit::Unnamed(1));
        assert_eq!(Unit::object(&"1".repeat(1000)).id().map(str::len), Some(128));
    }
}
