//! ValueSet: listed codes, whole systems, is-a filters and other value sets. What cannot be resolved here makes the set
//! incomplete: absence then proves nothing.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Lines, parsed};
use crate::build::{Builder, Problem, ValueSetRecord};

#[derive(Deserialize)]
struct ValueSet<'a> {
    url: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    name: String,
    #[serde(borrow)]
    compose: Option<Compose<'a>>,
    #[serde(borrow)]
    expansion: Option<Expansion<'a>>,
}

#[derive(Deserialize)]
struct Compose<'a> {
    #[serde(borrow, default)]
    include: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    exclude: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Expansion<'a> {
    #[serde(borrow, default)]
    contains: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Contains<'a> {
    system: Option<String>,
    code: Option<String>,
    #[serde(default)]
    display: String,
    #[serde(borrow, default)]
    contains: Vec<&'a RawValue>,
}

#[derive(Deserialize, Clone)]
struct Include {
    system: Option<String>,
    #[serde(default)]
    concept: Vec<Listed>,
    #[serde(default)]
    filter: Vec<Filter>,
    #[serde(default, rename = "valueSet")]
    value_set: Vec<String>,
}

#[derive(Deserialize, Clone)]
struct Listed {
    code: String,
    #[serde(default)]
    display: String,
}

#[derive(Deserialize, Clone)]
struct Filter {
    property: String,
    op: String,
    value: String,
}

/// Value sets until all code systems are known.
#[derive(Default)]
pub(in crate::load) struct ValueSets {
    found: Vec<Pending>,
}

struct Pending {
    record: ValueSetRecord,
    include: Vec<Include>,
    exclude: Vec<Include>,
}

impl ValueSets {
    pub(super) fn read(&mut self, builder: &mut Builder, lines: &Lines<'_>, raw: &RawValue) {
        let Some(found) = parsed::<ValueSet<'_>>(builder, lines, raw) else { return };
        let name = if found.title.is_empty() { found.name } else { found.title };
        let mut record =
            ValueSetRecord { url: found.url, version: found.version, name, complete: true, members: Vec::new() };
        let mut stack: Vec<&RawValue> = found.expansion.iter().flat_map(|e| e.contains.iter().copied()).collect();
        let expanded = !stack.is_empty();
        while let Some(raw) = stack.pop() {
            let Some(member) = parsed::<Contains<'_>>(builder, lines, raw) else { continue };
            if let (Some(system), Some(code)) = (&member.system, &member.code) {
                let system = builder.system(system);
                let concept = builder.concept(system, code);
                builder.designation(concept, u32::MAX, "", 3, false, &member.display, "");
                record.members.push(concept);
            }
            stack.extend(member.contains);
        }
        let mut parts = |raw: &[&RawValue]| -> Vec<Include> {
            raw.iter().filter_map(|raw| parsed::<Include>(builder, lines, raw)).collect()
        };
        let (include, exclude) = match &found.compose {
            Some(compose) if !expanded => (parts(&compose.include), parts(&compose.exclude)),
            _ => (Vec::new(), Vec::new()),
        };
        self.found.push(Pending { record, include, exclude });
    }

    pub(in crate::load) fn finish(mut self, builder: &mut Builder) {
        for set in &self.found {
            for include in set.include.iter().chain(&set.exclude) {
                let Some(system) = &include.system else { continue };
                let system = builder.system(system);
                for listed in &include.concept {
                    let concept = builder.concept(system, &listed.code);
                    builder.designation(concept, u32::MAX, "", 3, false, &listed.display, "");
                }
            }
        }
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (child, parent, _) in &builder.parents {
            children.entry(*parent).or_default().push(*child);
        }
        // Sets of sets need the others first; as many rounds as sets suffice, a circle stays incomplete.
        let mut done: HashMap<String, (Vec<u32>, bool)> = HashMap::new();
        let rounds = self.found.len();
        for _ in 0..rounds {
            let mut moved = false;
            for set in &self.found {
                if done.contains_key(&set.record.url) {
                    continue;
                }
                let needs = set.include.iter().chain(&set.exclude).flat_map(|i| &i.value_set);
                let waits = needs.clone().any(|u| {
                    let url = u.split('|').next().unwrap_or_default();
                    !done.contains_key(url) && self.found.iter().any(|s| s.record.url == url)
                });
                if waits {
                    continue;
                }
                let mut complete = true;
                let mut members: HashSet<u32> = set.record.members.iter().copied().collect();
                for include in &set.include {
                    members.extend(resolved(builder, include, &children, &done, &mut complete));
                }
                for exclude in &set.exclude {
                    for concept in resolved(builder, exclude, &children, &done, &mut complete) {
                        members.remove(&concept);
                    }
                }
                done.insert(set.record.url.clone(), (members.into_iter().collect(), complete));
                moved = true;
            }
            if !moved {
                break;
            }
        }
        for set in &mut self.found {
            let mut record = set.record.clone();
            match done.get(&record.url) {
                Some((members, complete)) => {
                    record.members.extend(members);
                    record.complete = *complete;
                }
                None => record.complete = false,
            }
            let twice = builder.value_sets.iter().any(|v| {
                v.url == record.url && v.version == record.version && sorted(&v.members) != sorted(&record.members)
            });
            if twice {
                builder.problems.push(Problem {
                    file: record.url.as_str().into(),
                    line: 0,
                    text: "value set stands twice with different members".into(),
                });
            }
            builder.value_sets.push(record);
        }
    }
}

fn sorted(members: &[u32]) -> Vec<u32> {
    let mut out = members.to_vec();
    out.sort_unstable();
    out.dedup();
    out
}

fn resolved(
    builder: &Builder,
    include: &Include,
    children: &HashMap<u32, Vec<u32>>,
    done: &HashMap<String, (Vec<u32>, bool)>,
    complete: &mut bool,
) -> Vec<u32> {
    let mut out: Option<HashSet<u32>> = None;
    if let Some(name) = &include.system {
        let Some(system) = builder.names.get(crate::build::plain(name)).copied() else {
            *complete = false;
            return Vec::new();
        };
        let listed: HashSet<u32> = if !include.concept.is_empty() {
            include.concept.iter().filter_map(|c| builder.known_concept(system, &c.code)).collect()
        } else {
            if !builder.versions.iter().any(|v| v.system == system && v.complete) {
                *complete = false;
            }
            let all = builder.contents.iter().map(|c| c.concept);
            let mut all: HashSet<u32> = all.filter(|c| builder.concepts[*c as usize].0 == system).collect();
            for filter in &include.filter {
                if filter.property != "concept" || !matches!(filter.op.as_str(), "is-a" | "descendent-of") {
                    *complete = false;
                    continue;
                }
                let Some(root) = builder.known_concept(system, &filter.value) else {
                    all.clear();
                    continue;
                };
                let mut below = HashSet::new();
                let mut stack = vec![root];
                while let Some(at) = stack.pop() {
                    if below.insert(at) {
                        stack.extend(children.get(&at).into_iter().flatten());
                    }
                }
                if filter.op == "descendent-of" {
                    below.remove(&root);
                }
                all.retain(|c| below.contains(c));
            }
            all
        };
        out = Some(listed);
    }
    for url in &include.value_set {
        let url = url.split('|').next().unwrap_or_default();
        let Some((members, whole)) = done.get(url) else {
            *complete = false;
            continue;
        };
        *complete &= *whole;
        let members: HashSet<u32> = members.iter().copied().collect();
        out = Some(match out {
            None => members,
            Some(known) => known.intersection(&members).copied().collect(),
        });
    }
    out.unwrap_or_default().into_iter().collect()
}
