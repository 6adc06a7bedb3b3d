//! What the maps cover, by content: of each code system that is mapped from, how many codes have an exact target, an
//! approximate one, or none; of each value set, how many members are reached.

use crate::counters::Counters;
use crate::relationship::Relationship;
use crate::snapshot::{Concept, Snapshot, System};

/// Figures of one code system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemCoverage {
    /// First name.
    pub system: String,
    /// Codes: those of the loaded versions, else those that a map names.
    pub codes: u32,
    /// With an equivalent target.
    pub exact: u32,
    /// With another target.
    pub approximate: u32,
    /// Without.
    pub unmapped: u32,
}

/// Figures of one value set: how many of its members some national code leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetCoverage {
    /// URL.
    pub url: String,
    /// Members.
    pub members: u32,
    /// Members that an equivalent row leads to.
    pub exact: u32,
    /// Members that only another row leads to.
    pub approximate: u32,
}

/// A code that traffic asked for and that has no target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// System as asked.
    pub system: String,
    /// Code.
    pub code: String,
    /// How often.
    pub count: u64,
    /// Targets of the nearest mapped code of the same system, as a start for the person who maps: system and code.
    pub candidates: Vec<(String, String)>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Digest of the snapshot.
    pub snapshot: String,
    /// By code system.
    pub systems: Vec<SystemCoverage>,
    /// By value set.
    pub sets: Vec<SetCoverage>,
    /// By traffic.
    pub gaps: Vec<Gap>,
}

fn best(rows: impl Iterator<Item = crate::snapshot::Row>, snapshot: &Snapshot) -> Option<Relationship> {
    rows.filter(|r| r.target.is_some() && snapshot.is_current(r.map))
        .map(|r| r.word.relationship())
        .filter(|r| *r != Relationship::NotRelated)
        .min()
}

/// Counts.
pub fn count(snapshot: &Snapshot, counters: Option<&Counters>, most: usize) -> Coverage {
    let mut systems: Vec<SystemCoverage> = snapshot
        .systems()
        .map(|s| SystemCoverage {
            system: snapshot.system_name(s).to_owned(),
            codes: 0,
            exact: 0,
            approximate: 0,
            unmapped: 0,
        })
        .collect();
    let mut mapped_from = vec![false; systems.len()];
    for concept in snapshot.concepts() {
        let at = snapshot.system_of(concept).0 as usize;
        let Some(counts) = systems.get_mut(at) else { continue };
        let has_rows = snapshot.rows(concept).next().is_some();
        mapped_from[at] |= has_rows;
        if !has_rows && snapshot.contents(concept).next().is_none() {
            continue;
        }
        counts.codes += 1;
        match best(snapshot.rows(concept), snapshot) {
            Some(Relationship::Equivalent) => counts.exact += 1,
            Some(_) => counts.approximate += 1,
            None => counts.unmapped += 1,
        }
    }
    let systems = systems.into_iter().zip(mapped_from).filter(|(_, from)| *from).map(|(s, _)| s).collect();
    let sets = snapshot
        .value_sets()
        .map(|set| {
            let mut out = SetCoverage { url: set.url.to_owned(), members: 0, exact: 0, approximate: 0 };
            for member in set.members() {
                out.members += 1;
                match best(snapshot.rows_to(member), snapshot) {
                    Some(Relationship::Equivalent) => out.exact += 1,
                    Some(_) => out.approximate += 1,
                    None => {}
                }
            }
            out
        })
        .collect();
    let gaps = counters
        .map(|c| c.most(most))
        .unwrap_or_default()
        .into_iter()
        .map(|(system, code, count)| {
            let candidates = snapshot.system(&system).map(|s| candidates(snapshot, s, &code)).unwrap_or_default();
            Gap { system, code, count, candidates }
        })
        .collect();
    Coverage { snapshot: hex::encode(snapshot.digest()), systems, sets, gaps }
}

/// Targets of the mapped code that shares the longest beginning, at least three letters. For a person to judge; nothing
/// is derived from it.
fn candidates(snapshot: &Snapshot, system: System, code: &str) -> Vec<(String, String)> {
    let shared = |other: &str| code.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let mut near: Option<(usize, Concept)> = None;
    for concept in snapshot.concepts().filter(|c| snapshot.system_of(*c) == system) {
        let length = shared(snapshot.code(concept));
        if length >= 3
            && best(snapshot.rows(concept), snapshot).is_some()
            && near.is_none_or(|(known, _)| known < length)
        {
            near = Some((length, concept));
        }
    }
    let Some((_, concept)) = near else { return Vec::new() };
    let targets = snapshot.rows(concept).filter_map(|r| r.target);
    let named = targets.map(|t| (snapshot.system_name(snapshot.system_of(t)).to_owned(), snapshot.code(t).to_owned()));
    named.take(3).collect()
}

/// The page: static, without scripts.
pub fn page(coverage: &Coverage) -> String {
    let cell = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let share = |part: u32, whole: u32| if whole == 0 { 0.0 } else { 100.0 * f64::from(part) / f64::from(whole) };
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Terminology coverage</title>\
         <style>body{font-family:sans-serif;margin:2rem;max-width:70rem}table{border-collapse:collapse;margin:1rem 0}\
         th,td{border:1px solid #767676;padding:.3rem .6rem;text-align:left}td.n{text-align:right}</style></head><body>\
         <h1>Terminology coverage</h1>",
    );
    out.push_str(&format!("<p>Snapshot <code>{}</code></p>", cell(&coverage.snapshot)));
    out.push_str("<h2>By code system</h2><table><tr><th>System</th><th>Codes</th><th>Exact</th><th>Approximate</th><th>Unmapped</th><th>Covered</th></tr>");
    for s in &coverage.systems {
        out.push_str(&format!(
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{:.0} %</td></tr>",
            cell(&s.system), s.codes, s.exact, s.approximate, s.unmapped, share(s.exact + s.approximate, s.codes)
        ));
    }
    out.push_str("</table><h2>By value set</h2><table><tr><th>Value set</th><th>Members</th><th>Exact</th><th>Approximate</th></tr>");
    for s in &coverage.sets {
        out.push_str(&format!(
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td></tr>",
            cell(&s.url),
            s.members,
            s.exact,
            s.approximate
        ));
    }
    out.push_str("</table><h2>By traffic: codes without a target</h2><table><tr><th>System</th><th>Code</th><th>Times</th><th>Targets of the nearest code</th></tr>");
    for g in &coverage.gaps {
        let near: Vec<String> = g.candidates.iter().map(|(s, c)| cell(&format!("{s} {c}"))).collect();
        out.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td class=n>{}</td><td>{}</td></tr>",
            cell(&g.system),
            cell(&g.code),
            g.count,
            near.join("<br>")
        ));
    }
    out.push_str("</table></body></html>\n");
    out
}
