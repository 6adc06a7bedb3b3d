//! What a new snapshot changes, for a person to sign: maps, rows, codes that became inactive, versions.

use std::collections::BTreeMap;

use crate::snapshot::Snapshot;

/// Differences, one line each, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Lines beginning with `+`, `-` or `~`.
    pub lines: Vec<String>,
}

type Rows = BTreeMap<(String, String, String, String), String>;

/// Rows by map, source and target, with their words; targets that are not mapped as `(none)`.
fn rows(snapshot: &Snapshot) -> Rows {
    let named = |c| {
        let system = snapshot.system_of(c);
        format!("{} {}", snapshot.system_name(system), snapshot.code(c))
    };
    let mut out = Rows::new();
    for row in snapshot.all_rows() {
        let map = snapshot.map(row.map);
        let target = row.target.map_or_else(|| "(none)".to_owned(), named);
        let depends: Vec<String> = snapshot.depends(&row).map(|p| format!("{}={}", p.name, p.value)).collect();
        out.insert((map.url.to_owned(), named(row.source), target, depends.join(",")), row.word.text().to_owned());
    }
    out
}

fn compare<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    lines: &mut Vec<String>,
    tell: impl Fn(&K, Option<&V>, Option<&V>) -> String,
) {
    for (key, before) in old {
        match new.get(key) {
            None => lines.push(format!("- {}", tell(key, Some(before), None))),
            Some(after) if after != before => lines.push(format!("~ {}", tell(key, Some(before), Some(after)))),
            Some(_) => {}
        }
    }
    for (key, after) in new.iter().filter(|(k, _)| !old.contains_key(k)) {
        lines.push(format!("+ {}", tell(key, None, Some(after))));
    }
}

/// Compares two snapshots.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Difference {
    let mut lines = Vec::new();
    let maps = |s: &Snapshot| -> BTreeMap<String, String> {
        s.maps().filter(|m| m.current).map(|m| (m.url.to_owned(), format!("{} ({})", m.version, m.status))).collect()
    };
    let change = |a: Option<&String>, b: Option<&String>| match (a, b) {
        (Some(a), Some(b)) => format!("{a} -> {b}"),
        (a, b) => a.or(b).cloned().unwrap_or_default(),
    };
    compare(&maps(old), &maps(new), &mut lines, |url, a, b| format!("map {url} {}", change(a, b)));
    let versions = |s: &Snapshot| -> BTreeMap<String, u32> {
        s.all_versions().map(|v| (format!("{} {}", s.system_name(v.system), v.version), v.concepts)).collect()
    };
    compare(&versions(old), &versions(new), &mut lines, |version, a, b| {
        let count = |n: Option<&u32>| n.map_or_else(|| "-".to_owned(), u32::to_string);
        format!("code system {version}: {} -> {} codes", count(a), count(b))
    });
    compare(&rows(old), &rows(new), &mut lines, |(map, source, target, depends), a, b| {
        let condition = if depends.is_empty() { String::new() } else { format!(" if {depends}") };
        format!("row {map}: {source} -> {target}{condition} {}", change(a, b))
    });
    let inactive = |s: &Snapshot| -> BTreeMap<String, bool> {
        let state = |c| s.contents(c).next().map(|content| content.active);
        let dead =
            s.concepts().filter(|c| state(*c) == Some(false) && s.rows(*c).chain(s.rows_to(*c)).next().is_some());
        dead.map(|c| (format!("{} {}", s.system_name(s.system_of(c)), s.code(c)), true)).collect()
    };
    compare(&inactive(old), &inactive(new), &mut lines, |code, _, after| {
        format!("code {code} in a map is {}", if after.is_some() { "inactive now" } else { "no longer inactive" })
    });
    Difference { lines }
}

#[cfg(test)]
mod tests {
    use crate::load::tests::{shipped, snapshot};

    #[test]
    fn changed_rows_versions_and_maps_are_told() {
        let map = |version: &str, word: &str, extra: &str| {
            format!(
                r#"{{"resourceType":"ConceptMap","url":"u","version":"{version}","status":"active","group":[{{"source":"urn:oid:2.999.1","target":"urn:oid:2.999.2","element":[{{"code":"a","target":[{{"code":"b","equivalence":"{word}"}}]}}{extra}]}}]}}"#
            )
        };
        let old = snapshot(&[("m.json", &map("1", "equal", ""))]);
        let new =
            snapshot(&[("m.json", &map("2", "wider", r#",{"code":"c","target":[{"equivalence":"unmatched"}]}"#))]);
        let found = super::diff(&old, &new).lines;
        assert_eq!(
            found,
            [
                "~ map u 1 (active) -> 2 (active)",
                "~ row u: urn:oid:2.999.1 a -> urn:oid:2.999.2 b equal -> wider",
                "+ row u: urn:oid:2.999.1 c -> (none) unmatched",
            ]
        );
        assert!(super::diff(&shipped(), &shipped()).lines.is_empty());
    }
}
