//! The threat table of the documents and the rows of the tests have the same ids.

use std::collections::BTreeSet;
use std::path::Path;

/// Where rows are written.
const SOURCES: [&str; 4] = ["gateway", "tests", "deploy", "audit"];

/// An id without its letter: family and number.
type Id = (String, u32);

/// A number in front of a text, and what is behind it.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A family and the numbers of `T-SAM-2, 5, 11 to 13`.
fn listed(cell: &str) -> Option<Vec<Id>> {
    let (family, numbers) = cell.trim().strip_prefix("T-")?.split_once('-')?;
    let range = |one: &str| {
        let (first, rest) = number(one.trim()).unwrap_or_else(|| panic!("{cell}: numbers"));
        let last = rest.trim().strip_prefix("to ").map_or(first, |last| last.parse().expect("a number"));
        first..=last
    };
    Some(numbers.split(',').flat_map(range).map(|number| (family.to_owned(), number)).collect())
}

/// Ids of rows in a source: as texts, and in the names of tests (`t_xml_1_to_8_…`, `t_kos_1_2_…`).
fn rows(source: &str, out: &mut BTreeSet<Id>) {
    for line in source.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        // Ids are in what stands between quotes.
        for text in line.split('"').skip(1).step_by(2) {
            for (at, _) in text.match_indices("T-") {
                let begins = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
                let Some((family, rest)) = text[at + 2..].split_once('-').filter(|_| begins) else { continue };
                let is_family = family.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
                if let (true, Some((number, _))) = (is_family && !family.is_empty(), number(rest)) {
                    out.insert((family.to_owned(), number));
                }
            }
        }
        let Some((_, name)) = line.split_once("fn t_") else { continue };
        let mut words = name.split(['_', '(']);
        let Some(family) = words.next().map(str::to_uppercase) else { continue };
        let mut last = None;
        let mut to = false;
        for word in words {
            match (word.parse::<u32>(), last) {
                (Ok(number), Some(from)) if to => out.extend((from..=number).map(|n| (family.clone(), n))),
                (Ok(number), _) => drop(out.insert((family.clone(), number))),
                (Err(_), _) if word == "to" => {}
                (Err(_), _) => break,
            }
            to = word == "to";
            last = word.parse().ok().or(last);
        }
    }
}

fn sources(folder: &Path, out: &mut BTreeSet<Id>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, out);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("abuse/threats.rs") {
            rows(&std::fs::read_to_string(&path).expect("reads"), out);
        }
    }
}

#[test]
fn every_threat_has_a_row_and_every_row_a_threat() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("docs/threats.md")).expect("the table");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let threats: Vec<Id> = cells.filter_map(listed).flatten().collect();
    let mut found = BTreeSet::new();
    SOURCES.iter().for_each(|folder| sources(&root.join(folder), &mut found));
    let named: BTreeSet<Id> = threats.iter().cloned().collect();
    assert_eq!(named.len(), threats.len(), "an id stands in one line");
    let without_row: Vec<_> = named.difference(&found).collect();
    let without_threat: Vec<_> = found.difference(&named).collect();
    assert!(without_row.is_empty() && without_threat.is_empty(), "{without_row:?} {without_threat:?}");
    assert!(named.len() > 250, "{}", named.len());
}
