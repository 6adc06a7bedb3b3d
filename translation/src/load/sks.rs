//! The Danish SKS register: fixed width, one line per code version, ISO 8859-1 or UTF-8.
//!
//! Offsets from 0: record type 0, code 3 (20), from 23 (8), changed 31 (8), to 39 (8), text 47 (120). Of a code with
//! several lines the one with the latest end counts. Read are imaging codes and what else the file holds.

use std::collections::BTreeMap;

use super::{Source, lines};
use crate::build::{Builder, Origin, Problem, VersionRecord};

/// SKS.
pub(super) const SKS: &str = "urn:oid:1.2.208.176.2.4";

struct Entry {
    to: String,
    text: String,
    origin: Origin,
}

pub(super) fn read(builder: &mut Builder, source: &Source) -> Result<(), Problem> {
    let system = builder.system(SKS);
    builder.system_language(SKS, "da");
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut newest = String::new();
    lines(builder, source, "SKS", true, |builder, origin, line| {
        if line.is_empty() {
            return;
        }
        // Character positions; the register is published in ISO 8859-1, where a byte is a character.
        let text: Vec<char> = match std::str::from_utf8(line) {
            Ok(text) => text.chars().collect(),
            Err(_) => line.iter().map(|b| char::from(*b)).collect(),
        };
        let field = |from: usize, len: usize| -> String {
            text.iter().skip(from).take(len).collect::<String>().trim().to_owned()
        };
        let (code, from, changed, to) = (field(3, 20), field(23, 8), field(31, 8), field(39, 8));
        let dates = [&from, &to].iter().all(|d| d.len() == 8 && d.bytes().all(|b| b.is_ascii_digit()));
        if text.len() < 48 || code.is_empty() || !dates {
            builder.problem(origin, "is no SKS line: record type, code, dates and text at 0, 3, 23, 47");
            return;
        }
        if !code.bytes().all(|b| b.is_ascii_alphanumeric()) {
            builder
                .problem(origin, format!("code {code:?} has characters that look like others or do not belong there"));
            return;
        }
        newest = newest.clone().max(changed);
        let entry = Entry { to, text: field(47, 120), origin };
        if entries.get(&code).is_none_or(|known| known.to <= entry.to) {
            entries.insert(code, entry);
        }
    })?;
    let version = builder.version(VersionRecord {
        system,
        version: newest.clone(),
        case_sensitive: true,
        complete: true,
        name: "SKS".into(),
        licence: "public, Sundhedsdatastyrelsen".into(),
    });
    for (code, entry) in entries {
        let active = entry.to.as_str() >= newest.as_str();
        let concept = builder.content(system, &code, version, active, entry.origin);
        builder.designation(concept, version, "da", 0, true, &entry.text, "");
    }
    Ok(())
}
