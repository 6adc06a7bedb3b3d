//! Filters of a query: European codes to every national code that may stand for one of them.
//!
//! A missing hit is the clinical hazard. So every row counts, whatever its relationship; where one is not exact, or
//! nothing national is known, the answer says that the result must be filtered again, after translation.

use crate::relationship::Relationship;
use crate::snapshot::{Snapshot, System};

/// What to ask a national system for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// System and code.
    pub codes: Vec<(String, String)>,
    /// The national codes say exactly what was asked.
    pub exact: bool,
    /// Ask without the filter; zero codes must never mean zero documents.
    pub unrestricted: bool,
}

/// Expands codes into national systems (all, if none are named). The asked codes themselves stay in the list, since a
/// national source may hold them too.
pub fn expand(snapshot: &Snapshot, codes: &[(String, String)], national: &[String]) -> Expansion {
    let wanted: Vec<System> = national.iter().filter_map(|n| snapshot.system(n)).collect();
    let mut out = Expansion { exact: true, ..Expansion::default() };
    for (system, code) in codes {
        let asked = (system.clone(), code.clone());
        if !out.codes.contains(&asked) {
            out.codes.push(asked);
        }
        let concept = snapshot.system(system).and_then(|s| snapshot.find_folded(s, code));
        let mut found = false;
        for row in concept.into_iter().flat_map(|c| snapshot.rows_to(c)) {
            let of = snapshot.system_of(row.source);
            let relationship = row.word.relationship();
            if !snapshot.is_current(row.map) || relationship == Relationship::NotRelated {
                continue;
            }
            if !national.is_empty() && !wanted.contains(&of) {
                continue;
            }
            found = true;
            out.exact &= relationship == Relationship::Equivalent;
            let code = (snapshot.system_name(of).to_owned(), snapshot.code(row.source).to_owned());
            if !out.codes.contains(&code) {
                out.codes.push(code);
            }
        }
        if !found {
            out.unrestricted = true;
            out.exact = false;
        }
    }
    out
}
