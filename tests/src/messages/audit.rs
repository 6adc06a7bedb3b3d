//! Rule 12: one audit record per role and community, failures included.

use std::collections::BTreeMap;

use ncp_xml::{Element, Limits};

use super::rules::descendants;
use super::{Finding, Message, Report};

/// Holds the records of one gateway (ATNA messages) against the exchanges that it had with others: as many records of a
/// transaction as requests went over the wire.
pub fn check_audit(messages: &[Message], records: &[String], report: &mut Report) {
    let mut carried: BTreeMap<&str, usize> = BTreeMap::new();
    for transaction in messages.iter().filter(|m| m.is_request()).filter_map(|m| m.transaction) {
        *carried.entry(transaction.name).or_default() += 1;
    }
    let mut recorded: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let Ok(root) = Element::parse(record.as_bytes(), &Limits::ANSWER) else {
            report.findings.push(Finding { message: "audit".into(), rule: 12, what: "a record does not read".into() });
            continue;
        };
        let code = descendants(&root).find(|e| e.local() == "EventTypeCode");
        let code = code.and_then(|c| c.get("csd-code").or_else(|| c.get("code"))).unwrap_or_default();
        *recorded.entry(code.to_owned()).or_default() += 1;
    }
    for (name, count) in carried {
        *report.judged.entry(12).or_default() += 1;
        let found = recorded.get(name).copied().unwrap_or_default();
        if found != count {
            let what = format!("{found} records of {count} exchanges of {name}");
            report.findings.push(Finding { message: "audit".into(), rule: 12, what });
        }
    }
}
