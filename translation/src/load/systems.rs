//! `systems.toml`: names of code systems and the languages of their displays.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Source, whole, whole_file};
use crate::build::{Builder, Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Systems {
    /// Names of one system each; the first is the one that answers carry.
    systems: Vec<Vec<String>>,
    /// Language of displays, by system.
    #[serde(default)]
    languages: BTreeMap<String, String>,
    /// Systems into which documents are translated, besides LOINC and SNOMED CT.
    #[serde(default)]
    targets: Vec<String>,
}

pub(super) fn read(builder: &mut Builder, source: &Source) -> Result<(), Problem> {
    let (input, bytes) = whole(builder, source, "systems", 1 << 20)?;
    let text = String::from_utf8(bytes).map_err(|_| whole_file(&source.name, "is not UTF-8"))?;
    let found: Systems = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() as u32 + 1);
        Problem { file: source.name.as_str().into(), line, text: e.message().to_owned() }
    })?;
    for names in &found.systems {
        builder.used(input);
        builder.alias(&names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for (system, language) in &found.languages {
        builder.system_language(system, language);
    }
    for system in &found.targets {
        let system = builder.system(system);
        builder.systems[system as usize].target = true;
    }
    Ok(())
}
