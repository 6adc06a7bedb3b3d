//! The audit trail: event model, ATNA message, durable spool and acknowledged feed; behind the feature `server` the
//! Audit Record Repository.
//!
//! A gateway opens a spool ([`AuditSink::open`]), writes an *intent* for every exchange, the *decision* before the first
//! byte of its answer and the *outcome* after the last. Each call resolves when the record is on disk. The audit message
//! is made from the three; an intent without an outcome becomes one with outcome 12 at the next start.

mod as_text;
pub mod bounds;
mod client;
mod delivery;
mod event;
mod fhir;
mod frame;
mod message;
mod scan;
mod sink;
mod spool;
mod throttle;

#[cfg(feature = "server")]
pub mod server;

pub use bounds::TooLong;
pub use client::{Filter, gaps, search, watch};
pub use delivery::{FEED_BYTES, FhirTarget, SYSLOG_BYTES, SyslogTarget, feed, fhir_feed, syslog};
pub use event::{
    AssertionKind, Decision, DocumentObject, Event, Evidence, HumanRequestor, Intent, Outcome, OutcomeIndicator,
    PeerFacts, QueryObject, Role, StudyObject, Transaction, Transcoding,
};
pub use fhir::{from_audit_event, shown, to_audit_event};
pub use frame::KeyFileError;
pub use message::{
    AuditRecord, Coded, Dialect, DicomData, ImagingEvent, Message, Object, Participant, ReadError, Site, of_event,
    of_exchange,
};
pub use scan::scan;
pub use sink::{AuditSink, Delivery, Exchange, OnFailure, SpoolOptions, heartbeat};
pub use spool::{SetApart, SpoolContent, SpoolLevel, SpoolLimits, Status, lock, read_spool};

/// The record could not be stored; nothing may be disclosed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The disk.
    #[error("spool: {0}")]
    Io(#[from] std::io::Error),
    /// The key.
    #[error("spool key: {0}")]
    Key(#[from] KeyFileError),
    /// The writer is gone.
    #[error("spool writer stopped")]
    Stopped,
    /// What lies in the spool cannot be read with this key.
    #[error("spool holds records of another key")]
    OtherKey,
    /// A record is damaged on disk.
    #[error("{0}: damaged at byte {1}")]
    Damaged(String, u64),
    /// The repository.
    #[error("audit record repository: {0}")]
    Repository(String),
    /// A record that a database will never take as it is, however often it is tried.
    #[error("unfit for the database: {0}")]
    Unfit(String),
    /// A search took longer than any may.
    #[error("the search takes too long")]
    TooCostly,
    /// All readers of the repository are at work, or as many as one caller may have.
    #[error("too many searches at once")]
    Busy,
}
