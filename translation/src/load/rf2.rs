//! SNOMED CT Release Format 2, snapshot files: tab separated, no quoting, LF or CRLF.
//!
//! Read are concepts, descriptions, text definitions, relationships (is-a), and reference sets: language, simple,
//! simple map, extended and complex map, map with correlation and origin, association. The layout of a reference set is
//! taken from its header.

use std::collections::{BTreeMap, HashMap};

use super::{Source, lines, whole_file};
use crate::build::{Builder, GroupRecord, Origin, Problem, PropertyRecord, RowRecord, Unmapped, VersionRecord};
use crate::check_digit::{self, SNOMED};
use crate::format::NONE;
use crate::relationship::Word;

const FSN: &str = "900000000000003001";
const PREFERRED: &str = "900000000000548007";
const IS_A: &str = "116680003";
const CORE: [&str; 2] = ["900000000000207008", "900000000000012004"];

/// Concepts first, then descriptions, then what refers to them.
pub(super) fn order(name: &str) -> Option<u8> {
    if !name.contains("Snapshot") {
        return None;
    }
    let is = |part: &str| name.contains(part);
    Some(match () {
        () if is("_Concept_") => 0,
        () if is("_Description_") => 1,
        () if is("_TextDefinition_") => 2,
        () if is("_Relationship_") => 3,
        () if is("LanguageSnapshot") => 4,
        () if is("Refset_") => 5,
        () => return None,
    })
}

/// What is known of the release while its files are read.
#[derive(Debug, Default)]
pub(super) struct Release {
    version: u32,
    begun: bool,
    /// Description identifier to its designation.
    descriptions: HashMap<u64, usize>,
    /// Groups of maps made from reference sets.
    groups: HashMap<String, (u32, u32)>,
}

struct Columns {
    names: Vec<String>,
}

impl Columns {
    fn at(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n.eq_ignore_ascii_case(name))
    }
}

fn split(line: &[u8]) -> Option<Vec<&str>> {
    std::str::from_utf8(line).ok().map(|l| l.split('\t').collect())
}

impl Release {
    pub(super) fn read(&mut self, builder: &mut Builder, source: &Source) -> Result<(), Problem> {
        let name = source.file_name().to_owned();
        let order = order(&name).unwrap_or(5);
        if !self.begun {
            self.begin(builder, source)?;
        }
        let language = name.split("Snapshot-").nth(1).and_then(|r| r.split('_').next()).unwrap_or("en").to_owned();
        let mut columns: Option<Columns> = None;
        let input = lines(builder, source, "SNOMED CT RF2", true, |builder, origin, line| {
            let Some(fields) = split(line) else {
                builder.problem(origin, "is not UTF-8");
                return;
            };
            let Some(header) = &columns else {
                columns = Some(Columns { names: fields.iter().map(|f| (*f).to_owned()).collect() });
                if fields.first() != Some(&"id") || fields.len() < 5 {
                    builder.problem(origin, "is no RF2 header");
                }
                return;
            };
            if fields.len() != header.names.len() {
                builder.problem(origin, format!("has {} columns, the header has {}", fields.len(), header.names.len()));
                return;
            }
            match order {
                0 => self.concept(builder, origin, &fields),
                1 | 2 => self.description(builder, origin, header, &fields),
                3 => relationship(builder, origin, header, &fields),
                4 => self.language(builder, header, &fields, &language),
                _ => self.refset(builder, origin, header, &fields),
            }
        })?;
        if columns.is_none() {
            builder.problem(Origin { input, line: 0 }, "is empty");
        }
        Ok(())
    }

    /// The edition: `http://snomed.info/sct/<module>/version/<date>`, from the modules of the concept file.
    fn begin(&mut self, builder: &mut Builder, source: &Source) -> Result<(), Problem> {
        builder.alias(&[SNOMED, "http://snomed.info/sct"]);
        let system = builder.system(SNOMED);
        builder.system_language(SNOMED, "en");
        let text = std::fs::File::open(&source.path).map_err(|e| whole_file(&source.name, e.to_string()))?;
        let (mut modules, mut newest) = (BTreeMap::<String, u64>::new(), String::new());
        for line in std::io::BufRead::lines(std::io::BufReader::new(text)).skip(1).take(5_000_000) {
            let Ok(line) = line else { break };
            let mut fields = line.split('\t');
            let (date, module) = (fields.nth(1).unwrap_or_default(), fields.nth(1).unwrap_or_default());
            if date > newest.as_str() && date.len() == 8 {
                newest = date.to_owned();
            }
            *modules.entry(module.to_owned()).or_default() += 1;
        }
        let own = modules.iter().filter(|(m, _)| !CORE.contains(&m.as_str())).max_by_key(|(_, n)| **n);
        let module = own.map_or(CORE[0], |(m, _)| m.as_str());
        self.version = builder.version(VersionRecord {
            system,
            version: format!("http://snomed.info/sct/{module}/version/{newest}"),
            case_sensitive: true,
            complete: true,
            name: "SNOMED CT".into(),
            licence: "SNOMED International member or affiliate licence".into(),
        });
        self.begun = true;
        Ok(())
    }

    fn concept(&mut self, builder: &mut Builder, origin: Origin, fields: &[&str]) {
        let system = builder.system(SNOMED);
        builder.content(system, fields[0], self.version, fields[2] == "1", origin);
    }

    fn description(&mut self, builder: &mut Builder, origin: Origin, header: &Columns, fields: &[&str]) {
        let at = |name: &str| header.at(name).and_then(|i| fields.get(i)).copied().unwrap_or_default();
        if fields[2] != "1" {
            return;
        }
        if !check_digit::sctid(fields[0]) {
            builder.problem(origin, format!("description {} has a wrong check digit", fields[0]));
            return;
        }
        let system = builder.system(SNOMED);
        let Some(concept) = builder.known_concept(system, at("conceptId")) else {
            builder.problem(origin, format!("description of unknown concept {}", at("conceptId")));
            return;
        };
        let usage = if at("typeId") == FSN { 2 } else { 1 };
        let index = builder.designation(concept, self.version, at("languageCode"), usage, false, at("term"), "");
        if let Ok(id) = fields[0].parse() {
            self.descriptions.insert(id, index);
        }
        builder.used(origin.input);
    }

    /// A preferred synonym becomes the name of its concept in that language reference set.
    fn language(&mut self, builder: &mut Builder, header: &Columns, fields: &[&str], language: &str) {
        let at = |name: &str| header.at(name).and_then(|i| fields.get(i)).copied().unwrap_or_default();
        if fields[2] != "1" || at("acceptabilityId") != PREFERRED {
            return;
        }
        let known = at("referencedComponentId").parse().ok().and_then(|id: u64| self.descriptions.get(&id).copied());
        let Some(mut record) = known.and_then(|i| builder.designations.get(i).copied()) else { return };
        if record.usage == 2 {
            return;
        }
        let refset = at("refsetId");
        // The two English reference sets name a dialect; others keep the language of the description.
        let dialect = match refset {
            "900000000000509007" => "en-US",
            "900000000000508004" => "en-GB",
            _ if builder.strings.text(record.language).is_empty() => language,
            _ => "",
        };
        if !dialect.is_empty() {
            record.language = builder.strings.id(dialect);
        }
        record.usage = 0;
        record.preferred = true;
        record.refset = builder.strings.id(refset);
        builder.designations.push(record);
    }

    fn refset(&mut self, builder: &mut Builder, origin: Origin, header: &Columns, fields: &[&str]) {
        let at = |name: &str| header.at(name).and_then(|i| fields.get(i)).copied().unwrap_or_default();
        if fields[2] != "1" {
            return;
        }
        let (refset, component) = (at("refsetId"), at("referencedComponentId"));
        let system = builder.system(SNOMED);
        let (map_target, association) = (header.at("mapTarget"), header.at("targetComponentId"));
        if map_target.is_none() && association.is_none() {
            if header.names.len() == 6 {
                self.member(builder, refset, component);
            }
            return;
        }
        let Some(source) = builder.known_concept(system, component) else {
            // Descriptions are members of some sets too.
            if self.descriptions.contains_key(&component.parse().unwrap_or_default()) {
                return;
            }
            builder.problem(origin, format!("unknown concept {component}"));
            return;
        };
        let target_system = match association {
            Some(_) => SNOMED.to_owned(),
            None => target_of(refset),
        };
        let (map, group) = self.group(builder, refset, &target_system, origin);
        let code = if association.is_some() { at("targetComponentId") } else { at("mapTarget") };
        let word = match at("correlationId") {
            "447557004" => "equivalent",
            "447558009" => "wider",
            "447559001" => "narrower",
            _ if association.is_some() => "equivalent",
            _ if header.at("mapRule").is_some() => "relatedto",
            _ => "equivalent",
        };
        // SAME AS and REPLACED BY say the same; other associations only relate.
        let word = match refset {
            "900000000000526001" | "900000000000527005" => "equivalent",
            _ if association.is_some() => "relatedto",
            _ => word,
        };
        let rule = at("mapRule");
        let depends = if rule.is_empty() || rule == "TRUE" || rule == "OTHERWISE TRUE" {
            Vec::new()
        } else {
            vec![PropertyRecord {
                name: "mapRule".into(),
                system: String::new(),
                value: rule.into(),
                display: String::new(),
            }]
        };
        let priority = at("mapGroup").parse().unwrap_or(0u32) * 1000 + at("mapPriority").parse().unwrap_or(0u32);
        let target_number = builder.system(&target_system);
        let target = if code.is_empty() { NONE } else { builder.concept(target_number, code) };
        let Some(word) = Word::parse(if target == NONE { "unmatched" } else { word }) else { return };
        let comment = builder.strings.id(at("mapAdvice"));
        builder.row(RowRecord {
            source,
            target,
            map,
            group,
            word,
            priority,
            depends,
            products: Vec::new(),
            comment,
            display: 0,
            origin,
        });
    }

    fn group(&mut self, builder: &mut Builder, refset: &str, target: &str, origin: Origin) -> (u32, u32) {
        if let Some(known) = self.groups.get(refset) {
            return *known;
        }
        let url = format!("http://snomed.info/sct?fhir_cm={refset}");
        let version = builder.versions.get(self.version as usize).map(|v| v.version.clone()).unwrap_or_default();
        let map = builder.map(&url, &version, "active", ["", ""], &openssl::sha::sha256(url.as_bytes()));
        let (source, target) = (builder.system(SNOMED), builder.system(target));
        let record = GroupRecord {
            map,
            source,
            source_version: String::new(),
            target,
            target_version: String::new(),
            unmapped: Unmapped::None,
            origin,
        };
        let group = builder.group(record);
        self.groups.insert(refset.to_owned(), (map, group));
        (map, group)
    }

    fn member(&mut self, builder: &mut Builder, refset: &str, component: &str) {
        let system = builder.system(SNOMED);
        let Some(concept) = builder.known_concept(system, component) else { return };
        let url = format!("http://snomed.info/sct?fhir_vs=refset/{refset}");
        let at = match builder.value_sets.iter().position(|v| v.url == url) {
            Some(at) => at,
            None => {
                builder.value_sets.push(crate::build::ValueSetRecord {
                    url,
                    version: String::new(),
                    name: format!("reference set {refset}"),
                    complete: true,
                    members: Vec::new(),
                });
                builder.value_sets.len() - 1
            }
        };
        builder.value_sets[at].members.push(concept);
    }
}

/// Where the map of a reference set leads. Unknown ones keep a name of their own, so that no code is taken for another
/// system's.
fn target_of(refset: &str) -> String {
    match refset {
        "447562003" => "http://hl7.org/fhir/sid/icd-10".into(),
        "446608001" => "http://terminology.hl7.org/CodeSystem/icd-o-3".into(),
        "705112009" => check_digit::LOINC.into(),
        other => format!("http://snomed.info/id/{other}"),
    }
}

fn relationship(builder: &mut Builder, origin: Origin, header: &Columns, fields: &[&str]) {
    let at = |name: &str| header.at(name).and_then(|i| fields.get(i)).copied().unwrap_or_default();
    if fields[2] != "1" || at("typeId") != IS_A {
        return;
    }
    let system = builder.system(SNOMED);
    let (child, parent) = (at("sourceId"), at("destinationId"));
    match (builder.known_concept(system, child), builder.known_concept(system, parent)) {
        (Some(child), Some(parent)) => {
            builder.parents.push((child, parent, origin));
            builder.used(origin.input);
        }
        _ => builder.problem(origin, format!("relationship of unknown concepts {child} and {parent}")),
    }
}
