//! FHIR R4 ConceptMaps as one immutable snapshot, named by its digest. Key is (system, code), never code alone.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

/// How the target relates to the source, read from the R4 word, which describes the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relationship {
    /// equal, equivalent
    Equivalent,
    /// wider, subsumes
    TargetWider,
    /// narrower, specializes
    TargetNarrower,
    /// relatedto, inexact
    Related,
    /// unmatched, disjoint
    NotRelated,
}

impl Relationship {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "equal" | "equivalent" => Self::Equivalent,
            "wider" | "subsumes" => Self::TargetWider,
            "narrower" | "specializes" => Self::TargetNarrower,
            "relatedto" | "inexact" => Self::Related,
            "unmatched" | "disjoint" => Self::NotRelated,
            _ => return None,
        })
    }
}

/// One target of a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// System, in its first name.
    pub system: String,
    /// Code.
    pub code: String,
    /// Display, where the map may carry one.
    pub display: Option<String>,
    /// Relation.
    pub relationship: Relationship,
    /// The word of the map.
    pub word: String,
    /// Index into [`Snapshot::maps`].
    pub map: usize,
}

/// A map that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapInfo {
    /// Canonical URL.
    pub url: String,
    /// Business version.
    pub version: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// First source system.
    pub source: String,
    /// First target system.
    pub target: String,
    /// Rows with a target.
    pub rows: u32,
    /// Elements without one.
    pub unmatched: u32,
}

/// Everything that one answer is made from.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// SHA-256 over the digests of all files, in name order.
    pub digest: [u8; 32],
    /// Maps in name order.
    pub maps: Vec<MapInfo>,
    targets: HashMap<(String, String), Vec<Target>>,
    names: HashMap<String, String>,
    displays: HashMap<(String, String), String>,
}

#[derive(Deserialize)]
struct ConceptMap {
    #[serde(rename = "resourceType")]
    resource_type: String,
    url: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    group: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    source: String,
    target: String,
    #[serde(default)]
    element: Vec<Element>,
}

#[derive(Deserialize)]
struct Element {
    code: String,
    display: Option<String>,
    #[serde(default)]
    target: Vec<ElementTarget>,
}

#[derive(Deserialize)]
struct ElementTarget {
    code: Option<String>,
    display: Option<String>,
    equivalence: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Systems {
    systems: Vec<Vec<String>>,
}

impl Snapshot {
    /// Loads a folder.
    ///
    /// # Errors
    /// Every file that cannot be used, with place and reason.
    pub fn load(folder: &Path) -> Result<Self, Vec<String>> {
        let mut out = Self::default();
        let mut problems = Vec::new();
        let systems = folder.join("systems.toml");
        let mut all = openssl::sha::Sha256::new();
        match std::fs::read_to_string(&systems).map_err(|e| e.to_string()).and_then(|t| {
            all.update(t.as_bytes());
            toml::from_str::<Systems>(&t).map_err(|e| e.message().to_owned())
        }) {
            Ok(found) => {
                for names in found.systems {
                    let Some(first) = names.first().cloned() else { continue };
                    for name in names {
                        out.names.insert(plain(&name).to_owned(), first.clone());
                    }
                }
            }
            Err(error) => problems.push(format!("{}: {error}", systems.display())),
        }
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .map_err(|e| vec![format!("{}: {e}", folder.display())])?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .collect();
        files.sort();
        for file in files {
            let bytes = match std::fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error) => {
                    problems.push(format!("{}: {error}", file.display()));
                    continue;
                }
            };
            let digest = openssl::sha::sha256(&bytes);
            all.update(&digest);
            match serde_json::from_slice::<ConceptMap>(&bytes) {
                Ok(map) => {
                    problems.extend(out.add(map, digest).into_iter().map(|p| format!("{}: {p}", file.display())))
                }
                Err(error) => problems.push(format!("{}: line {}: {error}", file.display(), error.line())),
            }
        }
        if out.maps.is_empty() {
            problems.push(format!("{}: no ConceptMap", folder.display()));
        }
        out.digest = all.finish();
        if problems.is_empty() { Ok(out) } else { Err(problems) }
    }

    fn add(&mut self, map: ConceptMap, digest: [u8; 32]) -> Vec<String> {
        let mut problems = Vec::new();
        if map.resource_type != "ConceptMap" {
            return vec!["is no ConceptMap".to_owned()];
        }
        let index = self.maps.len();
        let first = map.group.first();
        let mut info = MapInfo {
            url: map.url,
            version: map.version,
            digest,
            source: first.map(|g| self.canonical(&g.source)).unwrap_or_default(),
            target: first.map(|g| self.canonical(&g.target)).unwrap_or_default(),
            rows: 0,
            unmatched: 0,
        };
        for (g, group) in map.group.into_iter().enumerate() {
            let (source, target_system) = (self.canonical(&group.source), self.canonical(&group.target));
            for (e, element) in group.element.into_iter().enumerate() {
                if let Some(display) = &element.display {
                    self.displays.entry((source.clone(), element.code.clone())).or_insert_with(|| display.clone());
                }
                for (t, target) in element.target.into_iter().enumerate() {
                    let at = format!("group[{g}].element[{e}].target[{t}]");
                    let Some(relationship) = Relationship::parse(&target.equivalence) else {
                        problems.push(format!("{at}: unknown equivalence"));
                        continue;
                    };
                    let Some(code) = target.code.filter(|_| relationship != Relationship::NotRelated) else {
                        info.unmatched += 1;
                        continue;
                    };
                    if !check_digit(&target_system, &code) {
                        problems.push(format!("{at}: {code} has a wrong check digit"));
                        continue;
                    }
                    info.rows += 1;
                    let targets = self.targets.entry((source.clone(), element.code.clone())).or_default();
                    targets.push(Target {
                        system: target_system.clone(),
                        code,
                        display: target.display,
                        relationship,
                        word: target.equivalence,
                        map: index,
                    });
                    // Equivalent first, then as the maps say.
                    targets.sort_by_key(|t| t.relationship);
                }
            }
        }
        self.maps.push(info);
        problems
    }

    /// The first name of a system; an unknown one stays, with the prefix of OIDs.
    pub fn canonical(&self, system: &str) -> String {
        if let Some(name) = self.names.get(plain(system)) {
            return name.clone();
        }
        let bare = plain(system);
        let oid = bare.contains('.') && bare.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if oid { format!("urn:oid:{bare}") } else { system.to_owned() }
    }

    /// Targets of a code, best first.
    pub fn targets(&self, system: &str, code: &str) -> &[Target] {
        self.targets.get(&(self.canonical(system), code.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Whether some map leads to that system: a code of it needs no translation.
    pub fn is_target(&self, system: &str) -> bool {
        let system = self.canonical(system);
        matches!(system.as_str(), "urn:oid:2.16.840.1.113883.6.1" | "urn:oid:2.16.840.1.113883.6.96")
    }

    /// The national name of a code.
    pub fn display(&self, system: &str, code: &str) -> Option<&str> {
        self.displays.get(&(self.canonical(system), code.to_owned())).map(String::as_str)
    }
}

fn plain(system: &str) -> &str {
    match system.get(..8) {
        Some(prefix) if prefix.eq_ignore_ascii_case("urn:oid:") => &system[8..],
        _ => system,
    }
}

/// LOINC mod 10 and SNOMED CT Verhoeff; other systems have none.
fn check_digit(system: &str, code: &str) -> bool {
    match system {
        "urn:oid:2.16.840.1.113883.6.1" => loinc(code),
        "urn:oid:2.16.840.1.113883.6.96" => verhoeff(code),
        _ => true,
    }
}

fn loinc(code: &str) -> bool {
    let Some((number, check)) = code.split_once('-') else { return false };
    let (Ok(_), Ok(check)) = (number.parse::<u64>(), check.parse::<u32>()) else { return false };
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let digit = u32::from(b - b'0');
            if i % 2 == 0 { digit * 2 / 10 + digit * 2 % 10 } else { digit }
        })
        .sum();
    (10 - sum % 10) % 10 == check
}

fn verhoeff(code: &str) -> bool {
    const D: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const P: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    if code.len() < 6 || code.len() > 18 || !code.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let digits = code.bytes().rev().enumerate();
    digits.fold(0u8, |c, (i, b)| D[usize::from(c)][usize::from(P[i % 8][usize::from(b - b'0')])]) == 0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn shipped() -> Snapshot {
        Snapshot::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("maps")).expect("the shipped maps load")
    }

    #[test]
    fn check_digits_of_the_notice() {
        assert!(loinc("24627-2") && loinc("18748-4") && !loinc("79073-5"));
        assert!(verhoeff("169069000") && verhoeff("394914008") && !verhoeff("419394000"));
    }

    #[test]
    fn one_code_has_all_its_targets_under_every_name_of_its_system() {
        let snapshot = shipped();
        for system in [
            "2.16.578.1.12.4.1.1.7270",
            "urn:oid:2.16.578.1.12.4.1.1.7270",
            "http://ehelse.no/fhir/CodeSystem/no-kodeverk-7270-ncrp",
        ] {
            let codes: Vec<&str> = snapshot.targets(system, "SSC0AD").iter().map(|t| t.code.as_str()).collect();
            assert!(codes.contains(&"24627-2") && codes.contains(&"169069000"), "{codes:?}");
        }
        assert!(snapshot.targets("2.16.578.1.12.4.1.1.7270", "NOSUCH").is_empty());
        assert!(snapshot.targets("2.16.578.1.12.4.1.1.9999", "SSC0AD").is_empty(), "never by code alone");
    }

    #[test]
    fn the_same_files_give_the_same_digest() {
        assert_eq!(shipped().digest, shipped().digest);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(
            folder.path().join("systems.toml"),
            "systems = [[\"urn:oid:2.16.840.1.113883.6.1\", \"http://loinc.org\"]]",
        )
        .expect("writes");
        let map = r#"{"resourceType":"ConceptMap","url":"u","group":[{"source":"urn:oid:2.999.1","target":"http://loinc.org","element":[{"code":"a","target":[{"code":"79073-5","equivalence":"equivalent"}]}]}]}"#;
        std::fs::write(folder.path().join("m.json"), map).expect("writes");
        let problems = Snapshot::load(folder.path()).expect_err("a wrong check digit");
        assert!(problems[0].contains("group[0].element[0].target[0]"), "{problems:?}");
    }
}
