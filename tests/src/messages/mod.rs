//! The one checker of messages: whatever a gateway or a neighbour put on the wire is kept in a folder ([`Capture`]) and
//! the folder is judged ([`check`]): schema of the whole envelope, and the twelve rules of the IHE transactions that no
//! schema knows.
//!
//! A folder holds `<id>.soap.xml` or `<id>.xop.xml` (the packaging) for each message and `<id>.parts/` with its parts,
//! `<Content-ID>.part` whole or `<Content-ID>.head` cut after [`HEAD`] bytes. `<id>.given.….xml` is a message that a test
//! was given by others: it is not judged itself, its answer is. `audit/<homeCommunityId>/` holds the audit records of a
//! gateway that took part. Requests and responses find each other by `wsa:RelatesTo`.

mod audit;
mod capture;
mod content;
mod load;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod times;

use std::collections::BTreeMap;
use std::path::Path;

pub use audit::{Trail, check_answered, check_asked};
pub use capture::{Capture, HEAD, Origin, RecordedParts};
pub use load::{Message, Part, Transaction, load};

use crate::pki::Error;

/// What a message breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The message's file.
    pub message: String,
    /// 1 to 12, or 0 for the schema.
    pub rule: u8,
    /// What is wrong; no content of the message.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rule {
            0 => write!(f, "{}: schema: {}", self.message, self.what),
            rule => write!(f, "{}: rule {rule}: {}", self.message, self.what),
        }
    }
}

/// What was judged and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Messages.
    pub messages: usize,
    /// Whether the schemas were there.
    pub schema: bool,
    /// How often each rule had something to judge.
    pub judged: BTreeMap<u8, usize>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn judge(&mut self, rule: u8, message: &Message, broken: Option<String>) {
        *self.judged.entry(rule).or_default() += 1;
        self.findings.extend(broken.map(|what| Finding { message: message.name.clone(), rule, what }));
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let rules: Vec<String> = self.judged.iter().map(|(rule, count)| format!("{rule}: {count}")).collect();
        let schema = if self.schema { "validated" } else { "not validated (needs NCP_SHARED_DATA)" };
        format!(
            "{} messages, {schema}; judged by rule {{{}}}; {} findings",
            self.messages,
            rules.join(", "),
            self.findings.len()
        )
    }
}

/// Judges a folder. The schema is that of [`schema_path`], where it is at hand.
///
/// # Errors
/// Files, xmllint.
pub fn check(folder: &Path) -> Result<Report, Error> {
    let messages = load(folder)?;
    let ours: Vec<&Message> = messages.iter().filter(|m| m.origin != Origin::Given).collect();
    let mut report = Report { messages: ours.len(), ..Report::default() };
    if let Some(schema) = schema_path() {
        report.schema = true;
        schema::check(&ours, &schema, &mut report)?;
    }
    rules::check(&messages, &mut report);
    content::check(&messages, &mut report);
    audit::check(folder, &messages, &mut report)?;
    Ok(report)
}

/// Judges a folder and panics with all findings, for tests.
///
/// # Panics
/// On any finding, on an unreadable folder, and when fewer than `least` messages were kept.
#[allow(clippy::print_stdout)]
pub fn assert_clean(folder: &Path, least: usize) {
    let report = check(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    println!("{}", report.summary());
    let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(report.messages >= least, "only {} messages were kept", report.messages);
}

/// The folder of reference data that may not be copied into the project, where there is one.
pub fn shared_data() -> Option<std::path::PathBuf> {
    let folder = match std::env::var_os("NCP_SHARED_DATA") {
        Some(folder) => std::path::PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    folder.is_dir().then_some(folder)
}

/// The schema of whole envelopes.
pub fn schema_path() -> Option<std::path::PathBuf> {
    shared_data().map(|data| data.join("ihe/xsd/envelope-all.xsd")).filter(|schema| schema.is_file())
}
