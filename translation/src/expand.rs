//! Filters of a query: European codes to every national code that may stand for one of them.
//!
//! A missing hit is the clinical hazard. So every row counts, whatever its relationship; where one is not exact, or
//! nothing national is known, the answer says that the result must be filtered again, after translation. A modality or a
//! body region stands for the procedures that have it: "CT" for every national code of a CT.

use std::collections::{BTreeSet, HashSet};

use crate::relationship::Relationship;
use crate::snapshot::{Concept, Row, Snapshot, System};

/// The systems of the words in the tables of facets, in the order of a concept's facets.
const FACETS: [&str; 2] = ["urn:ncp:CodeSystem:modality", "urn:ncp:CodeSystem:region"];

/// A code that may stand for an asked one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alternative {
    /// Which of the asked codes.
    pub asked: usize,
    /// System.
    pub system: String,
    /// Code.
    pub code: String,
}

/// What to ask a national system for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The asked codes themselves, since a national source may hold them too, and what may stand for them.
    pub codes: Vec<Alternative>,
    /// The national codes say exactly what was asked.
    pub exact: bool,
    /// Ask without the filter; zero codes must never mean zero documents.
    pub unrestricted: bool,
}

/// Expands codes into national systems (all, if none are named).
pub fn expand(snapshot: &Snapshot, codes: &[(String, String)], national: &[String]) -> Expansion {
    let words = FACETS.map(|name| snapshot.system(name));
    // However often a system is named, a row is looked up once.
    let wanted: HashSet<System> = national.iter().filter_map(|n| snapshot.system(n)).collect();
    let takes = |row: &Row| {
        let of = snapshot.system_of(row.source);
        snapshot.is_current(row.map)
            && row.word.relationship() != Relationship::NotRelated
            && !words.contains(&Some(of))
            && (national.is_empty() || wanted.contains(&of))
    };
    let mut out = Expansion { exact: true, ..Expansion::default() };
    for (asked, (system, code)) in codes.iter().enumerate() {
        let own = Alternative { asked, system: system.clone(), code: code.clone() };
        let mut found = BTreeSet::new();
        let mut add = |row: &Row| {
            let of = snapshot.system_of(row.source);
            let (system, code) = (snapshot.system_name(of).to_owned(), snapshot.code(row.source).to_owned());
            found.insert(Alternative { asked, system, code });
        };
        if let Some(concept) = snapshot.system(system).and_then(|s| snapshot.find_folded(s, code)) {
            for row in snapshot.rows_to(concept).filter(takes) {
                out.exact &= row.word.relationship() == Relationship::Equivalent;
                add(&row);
            }
            for (facet, word) in words_for(snapshot, concept, &words) {
                for procedure in snapshot.with_facet(facet, snapshot.code(word)) {
                    out.exact = false;
                    snapshot.rows_to(*procedure).filter(takes).for_each(|row| add(&row));
                }
            }
        }
        if found.is_empty() {
            out.unrestricted = true;
            out.exact = false;
        }
        found.remove(&own);
        out.codes.push(own);
        out.codes.extend(found);
    }
    out
}

/// The words of the tables of facets that may stand for a modality or a region, also by its other codes.
fn words_for<'a>(
    snapshot: &'a Snapshot,
    concept: Concept,
    words: &'a [Option<System>; 2],
) -> impl Iterator<Item = (usize, Concept)> + 'a {
    let same = |r: &Row| r.word.relationship() == Relationship::Equivalent && snapshot.is_current(r.map);
    let others = snapshot.rows(concept).filter(same).filter_map(|r| r.target);
    std::iter::once(concept).chain(others).flat_map(|c| snapshot.rows_to(c)).filter_map(|row| {
        let of = snapshot.system_of(row.source);
        let facet = words.iter().position(|w| *w == Some(of))?;
        snapshot.is_current(row.map).then_some((facet, row.source))
    })
}
