//! FHIR R4 and R5 resources in JSON: a target is a further `coding` beside the source, which is marked `userSelected`;
//! `text`, `display` and all other bytes stay. A designation is a translation extension of `display`, with its language.

use serde_json::json;

use super::json::{Insertions, Kind, Node, parse};
use super::{Decision, Direction, DocumentError, ELEMENTS, Element, Fate, Report, Task, Translated, decide};
use crate::snapshot::Snapshot;
use crate::translate::Match;

/// Extension of a coding that a map made: the map and how the coding relates to its source.
pub const TRANSLATED_BY: &str = "urn:ncp:StructureDefinition:translated-by";
/// Extension of a single coding: its translation.
pub const TRANSLATION: &str = "urn:ncp:StructureDefinition:coding-translation";
const DISPLAY: &str = "http://hl7.org/fhir/StructureDefinition/translation";

/// Translates a resource; a signed one stays as it is.
///
/// # Errors
/// As [`super::translate()`].
pub fn translate(bytes: &[u8], task: &Task, snapshot: &Snapshot) -> Result<Translated, DocumentError> {
    let text = std::str::from_utf8(bytes).map_err(|e| DocumentError::Json(e.valid_up_to()))?;
    let root = parse(text)?;
    if root.string("resourceType").is_empty() {
        return Ok(Translated::untouched(bytes, Vec::new(), "not a FHIR resource"));
    }
    let mut walk = Walk { task, snapshot, reports: Vec::new(), insertions: Insertions::default(), signed: false };
    walk.signed = root.get("signature").is_some();
    walk.node(&root, "", "")?;
    if walk.signed {
        let mut reports = walk.reports;
        for report in &mut reports {
            if matches!(report.fate, Fate::Mapped | Fate::Approximate) {
                report.fate = Fate::Refused;
            }
        }
        return Ok(Translated::untouched(bytes, reports, "signed"));
    }
    let bytes = walk.insertions.apply(text).into_bytes();
    Ok(Translated { bytes, reports: walk.reports, skipped: None })
}

struct Walk<'a> {
    task: &'a Task,
    snapshot: &'a Snapshot,
    reports: Vec<Report>,
    insertions: Insertions,
    signed: bool,
}

impl Walk<'_> {
    /// The path is that of the nearest resource.
    fn node(&mut self, node: &Node<'_>, path: &str, key: &str) -> Result<(), DocumentError> {
        match &node.kind {
            Kind::Array(items) => {
                for item in items {
                    self.node(item, path, key)?;
                }
            }
            Kind::Object(members) => {
                let kind = node.string("resourceType");
                let path = if kind.is_empty() { path.to_owned() } else { kind.clone() };
                if kind == "Provenance" && node.get("signature").is_some() {
                    self.signed = true;
                }
                if let Some(Node { kind: Kind::Array(codings), .. }) = node.get("coding") {
                    self.concept(codings, &path)?;
                } else if key != "extension"
                    && node.get("code").and_then(Node::text).is_some()
                    && node.get("system").is_some()
                {
                    self.single(node, &path)?;
                }
                for (name, value) in members {
                    if *name != "coding" && !name.starts_with('_') {
                        self.node(value, &format!("{path}.{name}"), name)?;
                    }
                }
            }
            _ => {}
        }
        if self.reports.len() > ELEMENTS {
            return Err(DocumentError::TooMany);
        }
        Ok(())
    }

    fn element(&self, coding: &Node<'_>, path: &str) -> Element {
        Element {
            dangerous: path.ends_with("laterality")
                || path.contains("AllergyIntolerance")
                || path.ends_with("interpretation"),
            path: path.to_owned(),
            system: coding.string("system"),
            version: coding.string("version"),
            code: coding.string("code"),
            display: coding.string("display"),
            section: String::new(),
        }
    }

    /// A CodeableConcept: targets that it does not have yet are added behind its last coding.
    fn concept(&mut self, codings: &[Node<'_>], path: &str) -> Result<(), DocumentError> {
        let same =
            |a: &str, b: &str| a == b || self.snapshot.system(a).is_some_and(|s| self.snapshot.system(b) == Some(s));
        let mut added: Vec<(String, String)> = Vec::new();
        let mut insertions = Vec::new();
        for coding in codings {
            if coding.get("code").is_none() {
                continue;
            }
            let made = made_by_us(coding);
            let element = self.element(coding, path);
            let (decision, mut report) = decide(&element, self.task, self.snapshot)?;
            if self.task.direction == Direction::ToPivot && made {
                report.fate = Fate::AlreadyTarget;
                self.reports.push(report);
                continue;
            }
            let has = |m: &Match| {
                added.iter().any(|(s, c)| same(s, &m.system) && *c == m.code)
                    || codings.iter().any(|c| c.string("code") == m.code && same(&c.string("system"), &m.system))
            };
            let new: Vec<&Match> = decision.targets.iter().filter(|m| !has(m)).collect();
            if !decision.targets.is_empty() && new.is_empty() {
                report.fate = Fate::AlreadyTarget;
            }
            for m in &new {
                insertions.push(self.coding(m));
            }
            added.extend(new.iter().map(|m| (m.system.clone(), m.code.clone())));
            if !new.is_empty() && coding.get("userSelected").is_none() {
                self.insertions.add(coding.end - 1, ",\"userSelected\":true".into());
            }
            self.display(coding, &decision, &mut report);
            self.reports.push(report);
        }
        if let Some(last) = codings.last().filter(|_| !insertions.is_empty()) {
            self.insertions.add(last.end, format!(",{}", insertions.join(",")));
        }
        Ok(())
    }

    /// A Coding alone: a second one would say something else, so its translation is an extension.
    fn single(&mut self, coding: &Node<'_>, path: &str) -> Result<(), DocumentError> {
        let element = self.element(coding, path);
        let (decision, mut report) = decide(&element, self.task, self.snapshot)?;
        if coding.get("value").is_some() {
            // A quantity: its unit is coded, in UCUM.
            report.fate = Fate::AlreadyTarget;
        } else if let Some(best) = decision.targets.first() {
            if coding.get("extension").is_some() {
                report.fate = Fate::AlreadyTarget;
            } else {
                let extension =
                    format!(",\"extension\":[{{\"url\":\"{TRANSLATION}\",\"valueCoding\":{}}}]", self.coding(best));
                self.insertions.add(coding.end - 1, extension);
            }
        } else {
            self.display(coding, &decision, &mut report);
        }
        self.reports.push(report);
        Ok(())
    }

    fn display(&mut self, coding: &Node<'_>, decision: &Decision, report: &mut Report) {
        let Some(display) = &decision.display else { return };
        if coding.get("_display").is_some() {
            report.fate = Fate::AlreadyTarget;
            return;
        }
        let extension = json!({"extension": [{"url": DISPLAY, "extension": [
            {"url": "lang", "valueCode": display.language}, {"url": "content", "valueString": display.text}]}]});
        self.insertions.add(coding.end - 1, format!(",\"_display\":{extension}"));
    }

    fn coding(&self, m: &Match) -> String {
        let system = self.snapshot.system(&m.system).map_or(m.system.as_str(), |s| self.snapshot.system_url(s));
        let map = m.via.last().map(|v| self.snapshot.map(*v));
        let canonical = map.map(|map| format!("{}|{}", map.url, map.version)).unwrap_or_default();
        let mut out = json!({
            "extension": [{"url": TRANSLATED_BY, "extension": [
                {"url": "map", "valueCanonical": canonical.trim_end_matches('|')},
                {"url": "relationship", "valueCode": m.relationship.r5()}]}],
            "system": system, "code": m.code});
        if !m.display.is_empty()
            && let Some(members) = out.as_object_mut()
        {
            members.insert("display".into(), m.display.clone().into());
        }
        out.to_string()
    }
}

fn made_by_us(coding: &Node<'_>) -> bool {
    coding.get("extension").is_some_and(|e| e.items().iter().any(|e| e.string("url") == TRANSLATED_BY))
}

#[cfg(test)]
mod tests;
