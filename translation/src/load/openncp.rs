//! OpenNCP's tables of its master value set and translation catalogues (MVC, MTC), exported as CSV with semicolons:
//! `codeSystem`, `codeSystemVersion`, `codeSystemConcept`, `designation`, `transcodingAssociation`, `valueSet`,
//! `valueSetVersion`, `conceptValueSet`.
//!
//! An association whose status is not `valid` is left out, and so is what is not current.

use std::collections::{BTreeMap, HashMap};

use super::loinc::{bytes_of, csv};
use super::{Source, whole_file};
use crate::build::{Builder, GroupRecord, Origin, Problem, RowRecord, Unmapped, VersionRecord};
use crate::relationship::Word;

const FILES: [&str; 8] = [
    "codesystem.csv",
    "codesystemversion.csv",
    "codesystemconcept.csv",
    "designation.csv",
    "transcodingassociation.csv",
    "valueset.csv",
    "valuesetversion.csv",
    "conceptvalueset.csv",
];

pub(super) fn order(name: &str) -> Option<u8> {
    let plain = name.to_lowercase().replace('_', "").replace("xconceptvalueset", "conceptvalueset");
    FILES.iter().position(|f| *f == plain).and_then(|i| u8::try_from(i).ok())
}

/// Rows by their database identifiers, until all tables are read.
#[derive(Debug, Default)]
pub(super) struct Tables {
    systems: HashMap<String, u32>,
    versions: HashMap<String, (u32, u32, bool)>,
    concepts: HashMap<String, u32>,
    associations: Vec<(String, String, String, Origin)>,
    sets: HashMap<String, (String, String)>,
    set_versions: BTreeMap<String, (String, String)>,
    members: Vec<(String, String)>,
    digest: [u8; 32],
}

impl Tables {
    pub(super) fn read(&mut self, builder: &mut Builder, source: &Source) -> Result<(), Problem> {
        let order = order(source.file_name()).unwrap_or_default();
        let mut bytes = bytes_of(source)?;
        if std::str::from_utf8(&bytes).is_err() {
            // Exports of several countries are in their code page; `encoding.txt` beside the tables names it.
            let label = std::fs::read_to_string(source.path.with_file_name("encoding.txt")).unwrap_or_default();
            let Some(encoding) = encoding_rs::Encoding::for_label(label.trim().as_bytes()) else {
                let line = bytes.split(|b| *b == b'\n').position(|l| std::str::from_utf8(l).is_err()).unwrap_or(0);
                return Err(Problem {
                    file: source.name.as_str().into(),
                    line: line as u32 + 1,
                    text: "is not UTF-8; name its encoding in encoding.txt beside the tables".into(),
                });
            };
            bytes = encoding.decode_without_bom_handling(&bytes).0.into_owned().into_bytes();
        }
        let required: &[&str] = match order {
            0 | 5 => &["ID", "OID"],
            1 => &["ID", "CODE_SYSTEM_ID", "LOCAL_NAME"],
            2 => &["ID", "CODE", "CODE_SYSTEM_VERSION_ID"],
            3 => &["DESIGNATION", "CODE_SYSTEM_CONCEPT_ID", "LANGUAGE_CODE"],
            4 => &["SOURCE_CONCEPT_ID", "TARGET_CONCEPT_ID", "STATUS"],
            6 => &["ID", "VALUE_SET_ID"],
            _ => &["CODE_SYSTEM_CONCEPT_ID", "VALUE_SET_VERSION_ID"],
        };
        if order == 4 {
            self.digest = openssl::sha::sha256(&bytes);
        }
        let delimiter =
            if bytes.split(|b| *b == b'\n').next().is_some_and(|l| l.contains(&b';')) { b';' } else { b',' };
        csv(builder, source, "OpenNCP tables", delimiter, bytes, required, |builder, origin, get| {
            builder.used(origin.input);
            self.record(builder, origin, order, get);
        })?;
        Ok(())
    }

    fn record(&mut self, builder: &mut Builder, origin: Origin, order: u8, get: &dyn Fn(&str) -> String) {
        match order {
            0 => {
                let system = builder.system(&format!("urn:oid:{}", get("OID")));
                self.systems.insert(get("ID"), system);
            }
            1 => {
                let Some(system) = self.systems.get(&get("CODE_SYSTEM_ID")) else {
                    builder.problem(origin, format!("unknown code system {}", get("CODE_SYSTEM_ID")));
                    return;
                };
                let version = builder.version(VersionRecord {
                    system: *system,
                    version: get("LOCAL_NAME"),
                    case_sensitive: true,
                    complete: false,
                    name: get("FULL_NAME"),
                    licence: get("COPYRIGHT"),
                });
                let current = get("STATUS").eq_ignore_ascii_case("current");
                self.versions.insert(get("ID"), (*system, version, current));
            }
            2 => {
                let Some((system, version, current)) = self.versions.get(&get("CODE_SYSTEM_VERSION_ID")).copied()
                else {
                    builder.problem(origin, format!("unknown version {}", get("CODE_SYSTEM_VERSION_ID")));
                    return;
                };
                let status = get("STATUS");
                let active = current && (status.is_empty() || status.eq_ignore_ascii_case("current"));
                let concept = builder.content(system, &get("CODE"), version, active, origin);
                self.concepts.insert(get("ID"), concept);
            }
            3 => {
                let Some(concept) = self.concepts.get(&get("CODE_SYSTEM_CONCEPT_ID")).copied() else {
                    builder.problem(origin, format!("unknown concept {}", get("CODE_SYSTEM_CONCEPT_ID")));
                    return;
                };
                let status = get("STATUS");
                if !status.is_empty() && !status.eq_ignore_ascii_case("current") {
                    return;
                }
                let preferred = matches!(get("IS_PREFERRED").to_lowercase().as_str(), "yes" | "true" | "1");
                let usage = u32::from(!preferred);
                let (language, text) = (get("LANGUAGE_CODE"), get("DESIGNATION"));
                builder.designation(concept, u32::MAX, &language, usage, preferred, text.trim(), "");
            }
            4 => {
                // What is not valid is no map; OpenNCP falls back on it, this service never does.
                if get("STATUS").eq_ignore_ascii_case("valid") {
                    let quality = get("QUALITY");
                    self.associations.push((get("SOURCE_CONCEPT_ID"), get("TARGET_CONCEPT_ID"), quality, origin));
                }
            }
            5 => {
                self.sets.insert(get("ID"), (get("OID"), get("EPSOS_NAME")));
            }
            6 => {
                self.set_versions.insert(get("ID"), (get("VALUE_SET_ID"), get("VERSION_NAME")));
            }
            _ => self.members.push((get("CODE_SYSTEM_CONCEPT_ID"), get("VALUE_SET_VERSION_ID"))),
        }
    }

    /// Maps and value sets, when every table is known.
    pub(super) fn finish(self, builder: &mut Builder) {
        let mut groups: HashMap<(u32, u32), u32> = HashMap::new();
        let mut map = None;
        for (from, to, quality, origin) in &self.associations {
            let (Some(source), Some(target)) = (self.concepts.get(from), self.concepts.get(to)) else {
                builder.problem(*origin, format!("association of unknown concepts {from} and {to}"));
                continue;
            };
            let url = "urn:openncp:transcoding-association";
            let map = *map.get_or_insert_with(|| builder.map(url, "", "active", ["", ""], &self.digest));
            let systems = (builder.concepts[*source as usize].0, builder.concepts[*target as usize].0);
            let group = *groups.entry(systems).or_insert_with(|| {
                builder.group(GroupRecord {
                    map,
                    source: systems.0,
                    source_version: String::new(),
                    target: systems.1,
                    target_version: String::new(),
                    unmapped: Unmapped::None,
                    origin: *origin,
                })
            });
            // QUALITY is free text in the field; without a known word the map does not claim to be exact.
            let word = Word::parse(&quality.to_lowercase()).or_else(|| Word::parse("relatedto"));
            let Some(word) = word else { continue };
            builder.row(RowRecord {
                source: *source,
                target: *target,
                map,
                group,
                word,
                priority: 0,
                depends: Vec::new(),
                products: Vec::new(),
                comment: 0,
                display: 0,
                origin: *origin,
            });
        }
        let mut members: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (concept, version) in &self.members {
            match self.concepts.get(concept) {
                Some(concept) => members.entry(version).or_default().push(*concept),
                None => builder.problems.push(whole_file("conceptValueSet", format!("unknown concept {concept}"))),
            }
        }
        for (id, (set, version)) in &self.set_versions {
            let Some((oid, name)) = self.sets.get(set) else { continue };
            let listed = members.remove(id.as_str());
            builder.value_sets.push(crate::build::ValueSetRecord {
                url: format!("urn:oid:{oid}"),
                version: version.clone(),
                name: name.clone(),
                complete: listed.is_some(),
                members: listed.unwrap_or_default(),
            });
        }
    }
}
