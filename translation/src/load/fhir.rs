//! FHIR CodeSystem, ConceptMap, ValueSet and NamingSystem, R4 and R5, JSON; single resources, Bundles, and the resources
//! of a package.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{JSON, Source, whole, whole_file};
use crate::build::{Builder, GroupRecord, Origin, Problem, PropertyRecord, RowRecord, Unmapped, VersionRecord};
use crate::format::NONE;
use crate::relationship::{Relationship, Word};

mod value_set;

pub(super) use value_set::ValueSets;

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "resourceType")]
    resource_type: Option<String>,
}

/// Names of systems before content, content before value sets and maps.
pub(super) fn order(path: &std::path::Path) -> Option<u8> {
    let bytes = std::fs::read(path).ok()?;
    // What cannot be read is reported by the reader, with its line.
    let Ok(head) = serde_json::from_slice::<Head>(strip(&bytes)) else { return Some(9) };
    Some(match head.resource_type?.as_str() {
        "NamingSystem" => 0,
        "CodeSystem" => 1,
        "ValueSet" => 2,
        "ConceptMap" => 3,
        "Bundle" => 4,
        _ => return None,
    })
}

fn strip(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Lines of a JSON file: where each raw value begins.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    input: u32,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str, input: u32) -> Self {
        let starts = std::iter::once(0).chain(memchr_newlines(text)).collect();
        Self { text, starts, input }
    }

    fn of(&self, raw: &RawValue) -> Origin {
        let offset = (raw.get().as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let line = if offset <= self.text.len() { self.starts.partition_point(|s| *s <= offset) } else { 0 };
        Origin { input: self.input, line: line as u32 }
    }
}

fn memchr_newlines(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)
}

pub(super) fn read(builder: &mut Builder, sets: &mut ValueSets, source: &Source) -> Result<(), Problem> {
    let (input, bytes) = whole(builder, source, "FHIR", JSON)?;
    let digest = openssl::sha::sha256(&bytes);
    let text = std::str::from_utf8(strip(&bytes)).map_err(|_| whole_file(&source.name, "is not UTF-8"))?;
    let lines = Lines::new(text, input);
    let raw: &RawValue = serde_json::from_str(text).map_err(|e| Problem {
        file: source.name.as_str().into(),
        line: e.line() as u32,
        text: e.to_string(),
    })?;
    resource(builder, sets, &lines, raw, &digest);
    Ok(())
}

fn parsed<'a, T: Deserialize<'a>>(builder: &mut Builder, lines: &Lines<'_>, raw: &'a RawValue) -> Option<T> {
    match serde_json::from_str(raw.get()) {
        Ok(found) => Some(found),
        Err(error) => {
            let mut at = lines.of(raw);
            at.line += (error.line() as u32).saturating_sub(1);
            builder.problem(at, error.to_string());
            None
        }
    }
}

#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(borrow, default)]
    entry: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
}

fn resource(builder: &mut Builder, sets: &mut ValueSets, lines: &Lines<'_>, raw: &RawValue, digest: &[u8; 32]) {
    let Some(head) = parsed::<Head>(builder, lines, raw) else { return };
    builder.used(lines.input);
    match head.resource_type.as_deref() {
        Some("NamingSystem") => naming_system(builder, lines, raw),
        Some("CodeSystem") => code_system(builder, lines, raw),
        Some("ValueSet") => sets.read(builder, lines, raw),
        Some("ConceptMap") => concept_map(builder, lines, raw, digest),
        Some("Bundle") => {
            let Some(bundle) = parsed::<Bundle<'_>>(builder, lines, raw) else { return };
            // Names of systems first, as among files.
            let mut entries: Vec<&RawValue> = bundle.entry.iter().filter_map(|e| e.resource).collect();
            let rank = |raw: &RawValue| {
                let kinds = ["NamingSystem", "CodeSystem", "ValueSet", "ConceptMap"];
                let head: Option<Head> = serde_json::from_str(raw.get()).ok();
                kinds.iter().position(|k| head.as_ref().and_then(|h| h.resource_type.as_deref()) == Some(k))
            };
            entries.sort_by_key(|raw| rank(raw).unwrap_or(9));
            for entry in entries {
                if rank(entry).is_some() {
                    resource(builder, sets, lines, entry, digest);
                }
            }
        }
        _ => {}
    }
}

#[derive(Deserialize)]
struct NamingSystem {
    #[serde(default, rename = "uniqueId")]
    unique_id: Vec<UniqueId>,
}

#[derive(Deserialize)]
struct UniqueId {
    value: String,
    #[serde(default)]
    preferred: bool,
}

fn naming_system(builder: &mut Builder, lines: &Lines<'_>, raw: &RawValue) {
    let Some(mut found) = parsed::<NamingSystem>(builder, lines, raw) else { return };
    found.unique_id.sort_by_key(|u| !u.preferred);
    builder.alias(&found.unique_id.iter().map(|u| u.value.as_str()).collect::<Vec<_>>());
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CodeSystem<'a> {
    url: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    language: String,
    #[serde(default)]
    content: String,
    #[serde(default = "yes")]
    case_sensitive: bool,
    #[serde(default)]
    copyright: String,
    #[serde(default)]
    identifier: Vec<Identifier>,
    #[serde(borrow, default)]
    concept: Vec<&'a RawValue>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Identifier {
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Concept<'a> {
    code: String,
    #[serde(default)]
    display: String,
    #[serde(default)]
    designation: Vec<Designation>,
    #[serde(borrow, default)]
    property: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    concept: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Designation {
    #[serde(default)]
    language: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConceptProperty {
    code: String,
    value_code: Option<String>,
    value_boolean: Option<bool>,
}

fn code_system(builder: &mut Builder, lines: &Lines<'_>, raw: &RawValue) {
    let Some(found) = parsed::<CodeSystem<'_>>(builder, lines, raw) else { return };
    let mut names = vec![found.url.as_str()];
    names.extend(found.identifier.iter().map(|i| i.value.as_str()).filter(|v| v.starts_with("urn:oid:")));
    builder.alias(&names);
    let system = builder.system(&found.url);
    if found.content == "not-present" {
        return;
    }
    if !found.language.is_empty() && found.content != "supplement" {
        builder.system_language(&found.url, &found.language);
    }
    let version = builder.version(VersionRecord {
        system,
        version: found.version,
        case_sensitive: found.case_sensitive,
        complete: found.content == "complete",
        name: found.title,
        licence: found.copyright,
    });
    // With the parent of each.
    let mut stack: Vec<(&RawValue, Option<u32>)> = found.concept.iter().rev().map(|c| (*c, None)).collect();
    while let Some((raw, parent)) = stack.pop() {
        let origin = lines.of(raw);
        let Some(concept) = parsed::<Concept<'_>>(builder, lines, raw) else { continue };
        let mut active = true;
        let mut parents = Vec::new();
        for property in &concept.property {
            let Ok(property) = serde_json::from_str::<ConceptProperty>(property.get()) else { continue };
            match (property.code.as_str(), property.value_code.as_deref(), property.value_boolean) {
                ("inactive", _, Some(true)) | ("status", Some("retired" | "inactive" | "deprecated"), _) => {
                    active = false
                }
                ("parent" | "subsumedBy", Some(code), _) => parents.push(code.to_owned()),
                _ => {}
            }
        }
        let id = builder.content(system, &concept.code, version, active, origin);
        builder.designation(id, version, &found.language, 0, true, &concept.display, "");
        for d in &concept.designation {
            builder.designation(id, version, &d.language, 1, false, &d.value, "");
        }
        for code in parents {
            let parent = builder.concept(system, &code);
            builder.parents.push((id, parent, origin));
        }
        if let Some(parent) = parent {
            builder.parents.push((id, parent, origin));
        }
        stack.extend(concept.concept.iter().rev().map(|c| (*c, Some(id))));
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConceptMap<'a> {
    url: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    status: String,
    source_uri: Option<String>,
    source_canonical: Option<String>,
    source_scope_uri: Option<String>,
    source_scope_canonical: Option<String>,
    target_uri: Option<String>,
    target_canonical: Option<String>,
    target_scope_uri: Option<String>,
    target_scope_canonical: Option<String>,
    #[serde(borrow, default)]
    group: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group<'a> {
    #[serde(default)]
    source: String,
    #[serde(default)]
    source_version: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    target_version: String,
    #[serde(borrow, default)]
    element: Vec<&'a RawValue>,
    unmapped: Option<GroupUnmapped>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupUnmapped {
    mode: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    display: String,
    relationship: Option<String>,
    url: Option<String>,
    other_map: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Element<'a> {
    #[serde(default)]
    code: String,
    #[serde(default)]
    display: String,
    value_set: Option<String>,
    #[serde(default)]
    no_map: bool,
    #[serde(borrow, default)]
    target: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    code: Option<String>,
    #[serde(default)]
    display: String,
    equivalence: Option<String>,
    relationship: Option<String>,
    #[serde(default)]
    comment: String,
    #[serde(borrow, default)]
    depends_on: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    product: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OtherElement {
    property: Option<String>,
    attribute: Option<String>,
    #[serde(default)]
    system: String,
    #[serde(default)]
    display: String,
    value: Option<String>,
    value_code: Option<String>,
    value_string: Option<String>,
    value_boolean: Option<bool>,
    value_coding: Option<Coding>,
}

#[derive(Deserialize)]
struct Coding {
    #[serde(default)]
    system: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    display: String,
}

fn properties(builder: &mut Builder, lines: &Lines<'_>, raw: &[&RawValue]) -> Vec<PropertyRecord> {
    let mut out = Vec::new();
    for raw in raw {
        let Some(found) = parsed::<OtherElement>(builder, lines, raw) else { continue };
        let name = found.property.or(found.attribute).unwrap_or_default();
        let (system, value, display) = match found.value_coding {
            Some(coding) => (coding.system, coding.code, coding.display),
            None => {
                let value = found.value.or(found.value_code).or(found.value_string);
                let value = value.or_else(|| found.value_boolean.map(|b| b.to_string()));
                (found.system, value.unwrap_or_default(), found.display)
            }
        };
        out.push(PropertyRecord { name, system, value, display });
    }
    out
}

/// `url|version` in R5, or a version of its own in R4.
fn versioned(system: &str, version: &str) -> (String, String) {
    let (url, behind) = system.split_once('|').unwrap_or((system, ""));
    (url.to_owned(), if version.is_empty() { behind } else { version }.to_owned())
}

fn concept_map(builder: &mut Builder, lines: &Lines<'_>, raw: &RawValue, digest: &[u8; 32]) {
    let Some(found) = parsed::<ConceptMap<'_>>(builder, lines, raw) else { return };
    let source_scope =
        found.source_scope_uri.or(found.source_scope_canonical).or(found.source_uri).or(found.source_canonical);
    let target_scope =
        found.target_scope_uri.or(found.target_scope_canonical).or(found.target_uri).or(found.target_canonical);
    let scopes = [source_scope.unwrap_or_default(), target_scope.unwrap_or_default()];
    let map = builder.map(&found.url, &found.version, &found.status, [&scopes[0], &scopes[1]], digest);
    for raw in &found.group {
        let origin = lines.of(raw);
        let Some(group) = parsed::<Group<'_>>(builder, lines, raw) else { continue };
        if group.source.is_empty() {
            builder.problem(origin, "group has no source system");
            continue;
        }
        let (source, source_version) = versioned(&group.source, &group.source_version);
        let (target, target_version) = versioned(&group.target, &group.target_version);
        let (source, target) = (builder.system(&source), builder.system(&target));
        let unmapped = match &group.unmapped {
            None => Unmapped::None,
            Some(u) => match u.mode.as_str() {
                "provided" | "use-source-code" => Unmapped::UseSource,
                "fixed" => {
                    Unmapped::Fixed(u.code.clone(), u.display.clone(), u.relationship.as_deref().and_then(Word::parse))
                }
                "other-map" => match u.url.as_ref().or(u.other_map.as_ref()) {
                    Some(url) => Unmapped::OtherMap(url.clone()),
                    None => {
                        builder.problem(origin, "unmapped: other-map without its url");
                        Unmapped::None
                    }
                },
                other => {
                    builder.problem(origin, format!("unmapped: unknown mode {other}"));
                    Unmapped::None
                }
            },
        };
        let record = GroupRecord { map, source, source_version, target, target_version, unmapped, origin };
        let number = builder.group(record);
        for raw in &group.element {
            element(builder, lines, raw, (map, number), (source, target));
        }
    }
}

fn element(builder: &mut Builder, lines: &Lines<'_>, raw: &RawValue, at: (u32, u32), systems: (u32, u32)) {
    let origin = lines.of(raw);
    let Some(element) = parsed::<Element<'_>>(builder, lines, raw) else { return };
    if element.code.is_empty() {
        let why = if element.value_set.is_some() { "maps a value set, which is not read" } else { "has no code" };
        builder.problem(origin, format!("element {why}"));
        return;
    }
    if element.code.trim() != element.code {
        builder.warning(origin, format!("code {:?} has blanks at its end, they are kept", element.code));
    }
    let source = builder.concept(systems.0, &element.code);
    let language = builder.systems[systems.0 as usize].language;
    let language = builder.strings.text(language).to_owned();
    builder.designation(source, u32::MAX, &language, 3, false, &element.display, "");
    let row = |target, word, comment, display, depends, products, origin| RowRecord {
        source,
        target,
        map: at.0,
        group: at.1,
        word,
        priority: 0,
        depends,
        products,
        comment,
        display,
        origin,
    };
    if element.no_map
        && let Some(word) = Word::parse("unmatched")
    {
        builder.row(row(NONE, word, 0, 0, Vec::new(), Vec::new(), origin));
    }
    for raw in &element.target {
        let origin = lines.of(raw);
        let Some(target) = parsed::<Target<'_>>(builder, lines, raw) else { continue };
        let word = target.relationship.as_deref().or(target.equivalence.as_deref()).unwrap_or("relatedto");
        let Some(word) = Word::parse(word) else {
            builder.problem(origin, format!("unknown equivalence {word:?}"));
            continue;
        };
        let code = target.code.as_deref().filter(|c| !c.is_empty());
        if code.is_none() && word.relationship() != Relationship::NotRelated {
            builder.problem(origin, "target has no code");
            continue;
        }
        let number = code.map_or(NONE, |code| builder.concept(systems.1, code));
        let depends = properties(builder, lines, &target.depends_on);
        let products = properties(builder, lines, &target.product);
        let comment = builder.strings.id(&target.comment);
        let display = builder.strings.id(&target.display);
        if number != NONE {
            let language = builder.systems[systems.1 as usize].language;
            let language = builder.strings.text(language).to_owned();
            builder.designation(number, u32::MAX, &language, 3, false, &target.display, "");
        }
        builder.row(row(number, word, comment, display, depends, products, origin));
    }
}
