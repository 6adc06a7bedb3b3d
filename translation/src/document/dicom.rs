//! Coded attributes of DICOM as a view in DICOM JSON (PS3.18 F). A code item gets an Equivalent Code Sequence (0008,0121).
//! An object itself is never rewritten: what comes as Part 10 goes out as the JSON of its attributes before the pixels.

use ncp_ihe::imaging::{MetadataView, metadata};
use serde_json::{Value, json};

use super::json::{Insertions, Kind, Node, parse};
use super::{Direction, DocumentError, ELEMENTS, Element, Fate, Task, Translated, decide};
use crate::snapshot::Snapshot;

const CODE_VALUE: &str = "00080100";
const SCHEME: &str = "00080102";
const SCHEME_VERSION: &str = "00080103";
const MEANING: &str = "00080104";
const SCHEME_UID: &str = "0008010C";
const EQUIVALENT: &str = "00080121";
/// Coded strings: their values are defined terms of the standard.
const STRINGS: [&str; 4] = ["00080060", "00180015", "00200060", "00200062"];

/// Coding scheme designators, PS3.16 table 8-1.
const SCHEMES: [(&str, &str); 4] = [
    ("SCT", crate::check_digit::SNOMED),
    ("LN", crate::check_digit::LOINC),
    ("DCM", "urn:oid:1.2.840.10008.2.16.4"),
    ("UCUM", "urn:oid:2.16.840.1.113883.6.8"),
];

/// The view of a Part 10 object: a manifest, a report, or an image whose pixels nobody looks at.
///
/// # Errors
/// No such object, or beyond bounds; as [`view`].
pub fn view_of_object(bytes: &[u8], task: &Task, snapshot: &Snapshot) -> Result<Translated, DocumentError> {
    let read = metadata(bytes, &MetadataView { retrieve_url: None, patient_id: None });
    let attributes = read.map_err(|e| DocumentError::Dicom(e.to_string()))?;
    view(&attributes, task, snapshot)
}

/// Adds equivalent codes to code items.
///
/// # Errors
/// As [`super::translate()`].
pub fn view(bytes: &[u8], task: &Task, snapshot: &Snapshot) -> Result<Translated, DocumentError> {
    let text = std::str::from_utf8(bytes).map_err(|e| DocumentError::Json(e.valid_up_to()))?;
    let root = parse(text)?;
    let mut reports = Vec::new();
    let mut insertions = Insertions::default();
    let mut stack: Vec<(&Node<'_>, String)> = vec![(&root, String::new())];
    while let Some((node, path)) = stack.pop() {
        if let Kind::Array(items) = &node.kind {
            stack.extend(items.iter().rev().map(|i| (i, path.clone())));
            continue;
        }
        if node.get(CODE_VALUE).is_some() {
            let element = element(node, &path, snapshot);
            let (decision, mut report) = decide(&element, task, snapshot)?;
            let made = equivalents(&decision, &task.direction, &element, snapshot);
            if node.get(EQUIVALENT).is_some() && report.fate != Fate::Unmapped {
                report.fate = Fate::AlreadyTarget;
            } else if let Some(made) = made {
                insertions.add(node.end - 1, format!(",\"{EQUIVALENT}\":{made}"));
            }
            reports.push(report);
        }
        for (tag, attribute) in node.members() {
            if STRINGS.contains(tag) {
                let value = attribute.get("Value").and_then(|v| v.items().first()).and_then(Node::text);
                let element = Element {
                    path: format!("{path}/{tag}"),
                    system: "urn:oid:1.2.840.10008.2.16.4".into(),
                    code: value.unwrap_or_default(),
                    ..Element::default()
                };
                let (_, mut report) =
                    decide(&element, &Task { direction: Direction::ToPivot, ..task.clone() }, snapshot)?;
                report.fate = Fate::AlreadyTarget;
                reports.push(report);
            } else if *tag != EQUIVALENT
                && let Some(value) = attribute.get("Value")
            {
                stack.push((value, format!("{path}/{tag}")));
            }
        }
        if reports.len() > ELEMENTS {
            return Err(DocumentError::TooMany);
        }
    }
    Ok(Translated { bytes: insertions.apply(text).into_bytes(), reports, skipped: None })
}

fn first(node: &Node<'_>, tag: &str) -> String {
    node.get(tag).and_then(|a| a.get("Value")).and_then(|v| v.items().first()).and_then(Node::text).unwrap_or_default()
}

fn element(node: &Node<'_>, path: &str, snapshot: &Snapshot) -> Element {
    let (scheme, uid) = (first(node, SCHEME), first(node, SCHEME_UID));
    let known = SCHEMES.iter().find(|(s, _)| *s == scheme).map(|(_, system)| (*system).to_owned());
    let system = known
        .or_else(|| (!uid.is_empty()).then(|| format!("urn:oid:{uid}")))
        .or_else(|| snapshot.system(&scheme).map(|s| snapshot.system_name(s).to_owned()));
    Element {
        path: path.to_owned(),
        system: system.unwrap_or_default(),
        version: first(node, SCHEME_VERSION),
        code: first(node, CODE_VALUE),
        display: first(node, MEANING),
        section: String::new(),
        dangerous: path.ends_with("00200060") || path.ends_with("00082230"),
    }
}

fn equivalents(
    decision: &super::Decision,
    direction: &Direction,
    element: &Element,
    snapshot: &Snapshot,
) -> Option<Value> {
    let item = |code: &str, scheme: &str, meaning: &str| {
        json!({
            CODE_VALUE: {"vr": "SH", "Value": [code]},
            SCHEME: {"vr": "SH", "Value": [scheme]},
            MEANING: {"vr": "LO", "Value": [meaning]},
        })
    };
    let scheme = |system: &str| {
        let of = snapshot.system(system).map(|s| snapshot.system_name(s).to_owned()).unwrap_or_default();
        SCHEMES.iter().find(|(_, s)| *s == of).map(|(d, _)| (*d).to_owned())
    };
    let items: Vec<Value> = match direction {
        Direction::ToPivot => {
            let known =
                decision.targets.iter().filter_map(|m| scheme(&m.system).map(|s| item(&m.code, &s, &m.display)));
            known.collect()
        }
        Direction::ToLanguage(_) => {
            let display = decision.display.as_ref()?;
            vec![item(&element.code, &scheme(&element.system)?, &display.text)]
        }
    };
    (!items.is_empty()).then(|| json!({"vr": "SQ", "Value": items}))
}

#[cfg(test)]
mod tests;
