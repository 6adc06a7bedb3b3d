//! Translating one code: maps, chains of maps, reverse, dependencies, rules for unmapped codes, policy.
//!
//! "Not mapped" is an outcome. What a policy does not take is returned beside the matches, never dropped.

use crate::relationship::{Allowed, Relationship};
use crate::snapshot::{Concept, Row, Snapshot, System, UnmappedRule};

/// Steps of a chain of maps at most.
const HOPS: usize = 4;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Any name of the code system.
    pub system: &'a str,
    /// Its version, or empty.
    pub version: &'a str,
    /// Code.
    pub code: &'a str,
    /// Wanted system; empty for any.
    pub target_system: &'a str,
    /// Map by its canonical; empty for all current ones.
    pub map: &'a str,
    /// What is known of the context, as name and value, for maps with dependencies.
    pub context: &'a [(String, String)],
    /// Policy.
    pub allowed: Allowed,
}

/// What became of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Equivalent target.
    Mapped,
    /// A target that is not equivalent and that the policy takes.
    MappedApproximate,
    /// Already of the wanted system.
    AlreadyTarget,
    /// No target.
    Unmapped,
    /// A target by a map's rule for codes without a row.
    Fallback,
    /// A row needs to know more.
    NeedsContext,
    /// Not a code of its system.
    UnknownCode,
    /// A code that is no longer valid, without a target.
    InactiveCode,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Its system, by first name.
    pub system: String,
    /// Version of its system, where the map states one.
    pub version: String,
    /// Code.
    pub code: String,
    /// Display in the map.
    pub display: String,
    /// Its concept, unless a rule for unmapped codes made it up.
    pub concept: Option<Concept>,
    /// How it relates to the source.
    pub relationship: Relationship,
    /// The word of the (last) map.
    pub word: &'static str,
    /// Maps that were passed, first to last.
    pub via: Vec<u32>,
    /// The (last) row.
    pub row: Option<Row>,
    /// By a rule for unmapped codes: the source is not mapped.
    pub fallback: bool,
    /// Active, as far as loaded.
    pub active: bool,
}

/// Something that a person should know about an answer, with the number OpenNCP has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issue {
    /// Stable word.
    pub reason: &'static str,
    /// OpenNCP's number.
    pub legacy: &'static str,
    /// Whether it is more than a warning.
    pub error: bool,
}

/// Issues by their numbers in OpenNCP.
pub mod issues {
    use super::Issue;

    /// Unknown code system.
    pub const SYSTEM: Issue = Issue { reason: "CODE_SYSTEM_NOT_FOUND", legacy: "4501", error: true };
    /// Version that is not loaded.
    pub const VERSION: Issue = Issue { reason: "CODE_SYSTEM_VERSION_NOT_FOUND", legacy: "4502", error: false };
    /// Unknown code.
    pub const CONCEPT: Issue = Issue { reason: "CONCEPT_NOT_FOUND", legacy: "4503", error: true };
    /// No target.
    pub const TARGET: Issue = Issue { reason: "TARGET_CONCEPT_NOT_FOUND", legacy: "4504", error: false };
    /// No designation in any language that was asked for.
    pub const DESIGNATION: Issue = Issue { reason: "DESIGNATION_NOT_FOUND", legacy: "4505", error: false };
    /// Several designations, none preferred.
    pub const SEVERAL: Issue = Issue { reason: "SEVERAL_DESIGNATIONS", legacy: "2506", error: false };
    /// Not in the value set that is bound to the element.
    pub const VALUE_SET: Issue = Issue { reason: "VALUE_SET_MISMATCH", legacy: "2507", error: false };
    /// Code that is not current.
    pub const INACTIVE: Issue = Issue { reason: "CONCEPT_NOT_CURRENT", legacy: "2509", error: false };
    /// Code with blanks at an end.
    pub const BLANKS: Issue = Issue { reason: "CODE_HAS_BLANKS", legacy: "2503", error: false };
    /// A row needs context.
    pub const CONTEXT: Issue = Issue { reason: "NEEDS_CONTEXT", legacy: "2502", error: false };
    /// Targets that the policy refuses.
    pub const POLICY: Issue = Issue { reason: "REFUSED_BY_POLICY", legacy: "2502", error: false };
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Outcome.
    pub outcome: Outcome,
    /// The concept, where known.
    pub source: Option<Concept>,
    /// Targets that the policy takes: equivalent first, then by map, then as the map has them.
    pub matches: Vec<Match>,
    /// Targets that it does not take, and those said not to be related.
    pub rejected: Vec<Match>,
    /// Remarks.
    pub issues: Vec<Issue>,
}

/// What cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// No such code system.
    #[error("unknown code system")]
    System,
    /// No such target system.
    #[error("unknown target system")]
    TargetSystem,
    /// No such map or version of it.
    #[error("unknown map")]
    Map,
}

/// Translates.
///
/// # Errors
/// Systems and maps that the snapshot does not know.
pub fn translate(snapshot: &Snapshot, query: &Query<'_>) -> Result<Answer, Unknown> {
    let system = snapshot.system(query.system).ok_or(Unknown::System)?;
    let wanted = match query.target_system {
        "" => None,
        name => Some(snapshot.system(name).ok_or(Unknown::TargetSystem)?),
    };
    let map = match query.map {
        "" => None,
        canonical => Some(snapshot.find_map(canonical).ok_or(Unknown::Map)?),
    };
    let mut issues = Vec::new();
    if query.code.trim() != query.code {
        issues.push(issues::BLANKS);
    }
    let state = state(snapshot, system, query, &mut issues);
    let search = Search { snapshot, query, map, wanted };
    let mut needs_context = false;
    let mut found = match state.concept {
        Some(concept) => search.rows(concept, &mut needs_context),
        None => Vec::new(),
    };
    if let (Some(concept), Some(wanted)) = (state.concept, wanted)
        && found.is_empty()
        && map.is_none()
    {
        found = search.chain(concept, wanted, &mut needs_context);
    }
    let positive = found.iter().any(|m| m.relationship != Relationship::NotRelated);
    if !positive && !needs_context {
        found.extend(search.unmapped(system, state.concept, query.code, map, &mut Vec::new()));
    }
    found.sort_by_key(|m| (m.fallback, m.relationship, m.via.len()));
    let takes = |m: &Match| if m.fallback { query.allowed.fallback } else { query.allowed.takes(m.relationship) };
    let (matches, rejected): (Vec<Match>, Vec<Match>) = found.into_iter().partition(takes);
    let already = match wanted {
        Some(wanted) => wanted == system,
        None => snapshot.is_target(system),
    };
    let outcome = match matches.first() {
        Some(m) if m.fallback => Outcome::Fallback,
        Some(m) if m.relationship == Relationship::Equivalent => Outcome::Mapped,
        Some(_) => Outcome::MappedApproximate,
        None if needs_context => Outcome::NeedsContext,
        None if state.unknown => Outcome::UnknownCode,
        None if already && !state.inactive => Outcome::AlreadyTarget,
        None if state.inactive => Outcome::InactiveCode,
        None => Outcome::Unmapped,
    };
    match outcome {
        Outcome::NeedsContext => issues.push(issues::CONTEXT),
        Outcome::Unmapped if rejected.iter().any(|m| m.relationship != Relationship::NotRelated) => {
            issues.push(issues::POLICY);
        }
        Outcome::Unmapped | Outcome::InactiveCode => issues.push(issues::TARGET),
        _ => {}
    }
    Ok(Answer { outcome, source: state.concept, matches, rejected, issues })
}

struct State {
    concept: Option<Concept>,
    unknown: bool,
    inactive: bool,
}

/// Whether the code is known and valid, in the version that was asked for.
fn state(snapshot: &Snapshot, system: System, query: &Query<'_>, issues: &mut Vec<Issue>) -> State {
    let concept = snapshot.find_folded(system, query.code);
    let whole = snapshot.versions(system).any(|v| v.complete);
    let loaded = query.version.is_empty()
        || snapshot.versions(system).next().is_none()
        || snapshot.versions(system).any(|v| version_fits(v.version, query.version));
    if !loaded {
        issues.push(issues::VERSION);
    }
    let content = concept.and_then(|c| {
        let mut all = snapshot.contents(c);
        all.find(|c| !loaded || query.version.is_empty() || version_fits(c.version, query.version))
    });
    let unknown = whole && content.is_none();
    let inactive = content.is_some_and(|c| !c.active);
    if unknown {
        issues.push(issues::CONCEPT);
    }
    if inactive {
        issues.push(issues::INACTIVE);
    }
    State { concept, unknown, inactive }
}

/// A version, or a SNOMED CT edition without its date.
fn version_fits(loaded: &str, asked: &str) -> bool {
    loaded == asked || loaded.strip_prefix(asked).is_some_and(|rest| rest.starts_with("/version/"))
}

struct Search<'a> {
    snapshot: &'a Snapshot,
    query: &'a Query<'a>,
    map: Option<u32>,
    wanted: Option<System>,
}

enum Applies {
    Yes,
    No,
    NeedsMore,
}

impl Search<'_> {
    fn usable(&self, row: &Row) -> bool {
        match self.map {
            Some(map) => row.map == map,
            None => self.snapshot.is_current(row.map),
        }
    }

    /// A row with dependencies applies only if every one is given and equal.
    fn applies(&self, row: &Row) -> Applies {
        let group = self.snapshot.group(row.group);
        let asked = self.query.version;
        if !asked.is_empty() && !group.source_version.is_empty() && !version_fits(group.source_version, asked) {
            return Applies::No;
        }
        for needed in self.snapshot.depends(row) {
            match self.query.context.iter().find(|(name, _)| name == needed.name) {
                None => return Applies::NeedsMore,
                Some((_, value)) if value != needed.value => return Applies::No,
                Some(_) => {}
            }
        }
        Applies::Yes
    }

    fn as_match(&self, row: Row, before: Relationship, mut via: Vec<u32>) -> Option<Match> {
        let target = row.target?;
        via.push(row.map);
        let system = self.snapshot.system_of(target);
        Some(Match {
            system: self.snapshot.system_name(system).to_owned(),
            version: self.snapshot.group(row.group).target_version.to_owned(),
            code: self.snapshot.code(target).to_owned(),
            display: self.snapshot.row_display(&row).to_owned(),
            concept: Some(target),
            relationship: before.then(row.word.relationship()),
            word: row.word.text(),
            via,
            row: Some(row),
            fallback: false,
            active: self.snapshot.contents(target).next().is_none_or(|c| c.active),
        })
    }

    /// Direct rows into the wanted system.
    fn rows(&self, concept: Concept, needs_context: &mut bool) -> Vec<Match> {
        let mut out = Vec::new();
        for row in self.snapshot.rows(concept).filter(|r| self.usable(r)) {
            if self.wanted.is_some_and(|w| self.snapshot.group(row.group).target != w) {
                continue;
            }
            match self.applies(&row) {
                Applies::Yes => out.extend(self.as_match(row, Relationship::Equivalent, Vec::new())),
                Applies::NeedsMore => *needs_context = true,
                Applies::No => {}
            }
        }
        out
    }

    /// Over other systems, breadth first, each concept once, at most [`HOPS`] maps.
    fn chain(&self, from: Concept, wanted: System, needs_context: &mut bool) -> Vec<Match> {
        let mut seen = std::collections::HashSet::from([from]);
        let mut front = vec![(from, Relationship::Equivalent, Vec::<u32>::new())];
        for _ in 0..HOPS {
            let (mut next, mut out) = (Vec::new(), Vec::new());
            for (concept, before, via) in front {
                for row in self.snapshot.rows(concept).filter(|r| self.usable(r)) {
                    match self.applies(&row) {
                        Applies::Yes => {}
                        Applies::NeedsMore => {
                            *needs_context = true;
                            continue;
                        }
                        Applies::No => continue,
                    }
                    let Some(target) = row.target else { continue };
                    if row.word.relationship() == Relationship::NotRelated {
                        continue;
                    }
                    if self.snapshot.system_of(target) == wanted {
                        out.extend(self.as_match(row, before, via.clone()));
                    } else if seen.insert(target) {
                        let mut via = via.clone();
                        via.push(row.map);
                        next.push((target, before.then(row.word.relationship()), via));
                    }
                }
            }
            if !out.is_empty() || next.is_empty() {
                return out;
            }
            front = next;
        }
        Vec::new()
    }

    /// The rules of groups that have no row for the code.
    fn unmapped(
        &self,
        system: System,
        concept: Option<Concept>,
        code: &str,
        map: Option<u32>,
        visited: &mut Vec<u32>,
    ) -> Vec<Match> {
        let mut out = Vec::new();
        for index in 0..self.snapshot.maps().len() as u32 {
            let asked = map.map_or_else(|| self.snapshot.is_current(index), |m| m == index);
            if !asked || visited.contains(&index) {
                continue;
            }
            for group in self.snapshot.groups(index) {
                let wanted = self.wanted.is_none_or(|w| w == group.target);
                let has_row = concept.is_some_and(|c| {
                    self.snapshot.rows(c).any(|r| r.map == index && self.snapshot.group(r.group).target == group.target)
                });
                if group.source != system || !wanted || has_row {
                    continue;
                }
                let made = |code: &str, system: System, relationship, word| Match {
                    system: self.snapshot.system_name(system).to_owned(),
                    version: String::new(),
                    code: code.to_owned(),
                    display: String::new(),
                    concept: self.snapshot.find(system, code),
                    relationship,
                    word,
                    via: vec![index],
                    row: None,
                    fallback: true,
                    active: true,
                };
                match group.unmapped {
                    UnmappedRule::None => {}
                    UnmappedRule::UseSource => {
                        out.push(made(code, system, Relationship::Related, "unmapped"));
                    }
                    UnmappedRule::Fixed(fixed, word) => {
                        let relationship = word.map_or(Relationship::Related, |w| w.relationship());
                        out.push(made(fixed, group.target, relationship, "unmapped"));
                    }
                    UnmappedRule::OtherMap(url) => {
                        visited.push(index);
                        let Some(other) = self.snapshot.find_map(url).filter(|_| visited.len() <= HOPS) else {
                            continue;
                        };
                        let search = Search { map: Some(other), ..*self };
                        let mut ignored = false;
                        let mut found = concept.map(|c| search.rows(c, &mut ignored)).unwrap_or_default();
                        if found.is_empty() {
                            found = search.unmapped(system, concept, code, Some(other), visited);
                        }
                        for m in &mut found {
                            m.via.insert(0, index);
                        }
                        out.extend(found);
                    }
                }
            }
        }
        out
    }
}

/// Every source of a code, relationships swapped; rules for unmapped codes do not apply.
///
/// # Errors
/// Systems and maps that the snapshot does not know.
pub fn reverse(snapshot: &Snapshot, query: &Query<'_>) -> Result<Answer, Unknown> {
    let system = snapshot.system(query.system).ok_or(Unknown::System)?;
    let wanted = match query.target_system {
        "" => None,
        name => Some(snapshot.system(name).ok_or(Unknown::TargetSystem)?),
    };
    let map = match query.map {
        "" => None,
        canonical => Some(snapshot.find_map(canonical).ok_or(Unknown::Map)?),
    };
    let concept = snapshot.find_folded(system, query.code);
    let mut found = Vec::new();
    for row in concept.into_iter().flat_map(|c| snapshot.rows_to(c)) {
        let of = snapshot.system_of(row.source);
        let usable = map.map_or_else(|| snapshot.is_current(row.map), |m| m == row.map);
        if !usable || wanted.is_some_and(|w| w != of) {
            continue;
        }
        found.push(Match {
            system: snapshot.system_name(of).to_owned(),
            version: snapshot.group(row.group).source_version.to_owned(),
            code: snapshot.code(row.source).to_owned(),
            display: snapshot.names(row.source).next().map(|n| n.text.to_owned()).unwrap_or_default(),
            concept: Some(row.source),
            relationship: row.word.relationship().reversed(),
            word: row.word.text(),
            via: vec![row.map],
            row: Some(row),
            fallback: false,
            active: snapshot.contents(row.source).next().is_none_or(|c| c.active),
        });
    }
    found.sort_by_key(|m| m.relationship);
    let (matches, rejected): (Vec<Match>, Vec<Match>) =
        found.into_iter().partition(|m| query.allowed.takes(m.relationship));
    let outcome = match matches.first() {
        Some(m) if m.relationship == Relationship::Equivalent => Outcome::Mapped,
        Some(_) => Outcome::MappedApproximate,
        None if wanted == Some(system) => Outcome::AlreadyTarget,
        None => Outcome::Unmapped,
    };
    let issues = if outcome == Outcome::Unmapped { vec![issues::TARGET] } else { Vec::new() };
    Ok(Answer { outcome, source: concept, matches, rejected, issues })
}

#[cfg(test)]
mod tests;
