//! Building a snapshot: what the loaders collect, in the order of their files, before it is checked and written.
//!
//! The same files give the same bytes: nothing here depends on time, place or the order of a hash table.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::format::NONE;
use crate::relationship::Word;

mod validate;
mod write;

pub use write::compare_versions;

/// What is wrong with an input: file, line, reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File, as named in the manifest.
    pub file: Arc<str>,
    /// Line from 1; 0 where the whole file is meant.
    pub line: u32,
    /// Reason.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.text),
            line => write!(f, "{}:{line}: {}", self.file, self.text),
        }
    }
}

/// Problems that are kept; a broken release has one a line.
const MOST_PROBLEMS: usize = 1000;

/// Where something was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Index into the inputs.
    pub input: u32,
    /// Line from 1.
    pub line: u32,
}

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Input {
    /// Path below the folder that was given.
    pub name: Arc<str>,
    /// Loader.
    pub kind: &'static str,
    /// SHA-256.
    pub sha256: [u8; 32],
    /// Size.
    pub bytes: u64,
    /// Records used.
    pub records: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Interner {
    ids: HashMap<Box<str>, u32>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<u32>,
}

impl Interner {
    pub(crate) fn id(&mut self, text: &str) -> u32 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = u32::try_from(self.ends.len()).unwrap_or(NONE);
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(NONE));
        self.ids.insert(text.into(), id);
        id
    }

    pub(crate) fn text(&self, id: u32) -> &str {
        let Some(end) = self.ends.get(id as usize) else { return "" };
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        std::str::from_utf8(&self.bytes[start as usize..*end as usize]).unwrap_or_default()
    }

    pub(crate) fn range(&self, id: u32) -> (u32, u32) {
        let Some(end) = self.ends.get(id as usize) else { return (0, 0) };
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        (start, end - start)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct SystemRecord {
    pub(crate) name: String,
    pub(crate) language: u32,
    pub(crate) target: bool,
    /// First name that is a URL, for FHIR.
    pub(crate) url: String,
}

/// One version of a code system.
#[derive(Debug, Clone, Default)]
pub struct VersionRecord {
    pub(crate) system: u32,
    pub(crate) version: String,
    pub(crate) case_sensitive: bool,
    pub(crate) complete: bool,
    pub(crate) name: String,
    pub(crate) licence: String,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ContentRecord {
    pub(crate) concept: u32,
    pub(crate) version: u32,
    pub(crate) active: bool,
    pub(crate) origin: Origin,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DesignationRecord {
    pub(crate) concept: u32,
    pub(crate) version: u32,
    pub(crate) language: u32,
    /// 0 preferred name, 1 synonym, 2 fully specified name, 3 display in a map.
    pub(crate) usage: u32,
    pub(crate) preferred: bool,
    pub(crate) text: u32,
    pub(crate) refset: u32,
}

#[derive(Clone)]
pub(crate) struct MapRecord {
    pub(crate) url: String,
    pub(crate) version: String,
    pub(crate) status: String,
    pub(crate) source_scope: String,
    pub(crate) target_scope: String,
    pub(crate) hash: openssl::sha::Sha256,
}

/// What a map says about codes without a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmapped {
    /// Nothing.
    None,
    /// R4 provided, R5 use-source-code.
    UseSource,
    /// Always this code, with the word of the map and its display.
    Fixed(String, String, Option<Word>),
    /// Another map, by its canonical.
    OtherMap(String),
}

#[derive(Debug, Clone)]
pub(crate) struct GroupRecord {
    pub(crate) map: u32,
    pub(crate) source: u32,
    pub(crate) source_version: String,
    pub(crate) target: u32,
    pub(crate) target_version: String,
    pub(crate) unmapped: Unmapped,
    pub(crate) origin: Origin,
}

/// A dependency or product of a map row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PropertyRecord {
    pub(crate) name: String,
    pub(crate) system: String,
    pub(crate) value: String,
    pub(crate) display: String,
}

#[derive(Debug, Clone)]
pub(crate) struct RowRecord {
    pub(crate) source: u32,
    pub(crate) target: u32,
    pub(crate) map: u32,
    pub(crate) group: u32,
    pub(crate) word: Word,
    pub(crate) priority: u32,
    pub(crate) depends: Vec<PropertyRecord>,
    pub(crate) products: Vec<PropertyRecord>,
    pub(crate) comment: u32,
    pub(crate) display: u32,
    pub(crate) origin: Origin,
}

#[derive(Debug, Clone)]
pub(crate) struct ValueSetRecord {
    pub(crate) url: String,
    pub(crate) version: String,
    pub(crate) name: String,
    pub(crate) complete: bool,
    pub(crate) members: Vec<u32>,
}

/// Collects what the loaders read.
pub struct Builder {
    pub(crate) inputs: Vec<Input>,
    pub(crate) ignored: u64,
    pub(crate) strings: Interner,
    pub(crate) systems: Vec<SystemRecord>,
    /// Plain name (without `urn:oid:`) to system.
    pub(crate) names: BTreeMap<String, u32>,
    pub(crate) versions: Vec<VersionRecord>,
    pub(crate) concepts: Vec<(u32, u32)>,
    concept_ids: HashMap<(u32, u32), u32>,
    pub(crate) contents: Vec<ContentRecord>,
    pub(crate) designations: Vec<DesignationRecord>,
    pub(crate) parents: Vec<(u32, u32, Origin)>,
    pub(crate) maps: Vec<MapRecord>,
    pub(crate) groups: Vec<GroupRecord>,
    pub(crate) rows: Vec<RowRecord>,
    pub(crate) value_sets: Vec<ValueSetRecord>,
    pub(crate) facets: BTreeMap<u32, [String; 3]>,
    pub(crate) phrases: BTreeMap<(String, String), String>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Default for Builder {
    fn default() -> Self {
        let mut strings = Interner::default();
        strings.id("");
        Self {
            inputs: Vec::new(),
            ignored: 0,
            strings,
            systems: Vec::new(),
            names: BTreeMap::new(),
            versions: Vec::new(),
            concepts: Vec::new(),
            concept_ids: HashMap::new(),
            contents: Vec::new(),
            designations: Vec::new(),
            parents: Vec::new(),
            maps: Vec::new(),
            groups: Vec::new(),
            rows: Vec::new(),
            value_sets: Vec::new(),
            facets: BTreeMap::new(),
            phrases: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// A name of a code system without the prefix of OIDs.
pub fn plain(system: &str) -> &str {
    match system.get(..8) {
        Some(prefix) if prefix.eq_ignore_ascii_case("urn:oid:") => &system[8..],
        _ => system,
    }
}

/// An OID gets its prefix; everything else stays.
pub fn uri(system: &str) -> String {
    let bare = plain(system);
    let oid = bare.contains('.') && bare.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if oid { format!("urn:oid:{bare}") } else { system.to_owned() }
}

impl Builder {
    /// Says that a file is being read; returns its number.
    pub fn input(&mut self, name: &str, kind: &'static str, sha256: [u8; 32], bytes: u64) -> u32 {
        self.inputs.push(Input { name: name.into(), kind, sha256, bytes, records: 0 });
        u32::try_from(self.inputs.len() - 1).unwrap_or(NONE)
    }

    /// Counts a record of a file.
    pub fn used(&mut self, input: u32) {
        if let Some(input) = self.inputs.get_mut(input as usize) {
            input.records += 1;
        }
    }

    /// Reports a problem: no snapshot will be made.
    pub fn problem(&mut self, at: Origin, text: impl Into<String>) {
        if self.problems.len() < MOST_PROBLEMS {
            let problem = self.at(at, text.into());
            self.problems.push(problem);
        }
    }

    /// Reports something that a person should look at.
    pub fn warning(&mut self, at: Origin, text: impl Into<String>) {
        if self.warnings.len() < MOST_PROBLEMS {
            let warning = self.at(at, text.into());
            self.warnings.push(warning);
        }
    }

    fn at(&self, at: Origin, text: String) -> Problem {
        let file = self.inputs.get(at.input as usize).map_or_else(|| "?".into(), |i| i.name.clone());
        Problem { file, line: at.line, text }
    }

    /// All names of a system; the first is the one that answers carry.
    pub fn alias(&mut self, names: &[&str]) {
        let known = names.iter().find_map(|n| self.names.get(plain(n)).copied());
        let Some(first) = names.first() else { return };
        let system = known.unwrap_or_else(|| self.system(first));
        for name in names {
            self.names.entry(plain(name).to_owned()).or_insert(system);
            let record = &mut self.systems[system as usize];
            if record.url.is_empty() && name.starts_with("http") {
                record.url = (*name).to_owned();
            }
        }
    }

    /// The number of a system, by any of its names.
    pub fn system(&mut self, name: &str) -> u32 {
        if let Some(id) = self.names.get(plain(name)) {
            return *id;
        }
        let id = u32::try_from(self.systems.len()).unwrap_or(NONE);
        let first = uri(name);
        let target = matches!(first.as_str(), crate::check_digit::LOINC | crate::check_digit::SNOMED);
        self.names.insert(plain(name).to_owned(), id);
        let url = if first.starts_with("http") { first.clone() } else { String::new() };
        self.systems.push(SystemRecord { name: first, language: 0, target, url });
        id
    }

    /// The language in which displays of a system are written where nothing says so.
    pub fn system_language(&mut self, name: &str, language: &str) {
        let (system, language) = (self.system(name), self.strings.id(language));
        self.systems[system as usize].language = language;
    }

    /// The version of a code system, made if it is new.
    pub fn version(&mut self, record: VersionRecord) -> u32 {
        let same = |v: &VersionRecord| v.system == record.system && v.version == record.version;
        if let Some(index) = self.versions.iter().position(same) {
            let known = &mut self.versions[index];
            known.complete |= record.complete;
            if known.name.is_empty() {
                known.name = record.name;
            }
            return index as u32;
        }
        self.versions.push(record);
        self.versions.len() as u32 - 1
    }

    /// The number of a concept.
    pub fn concept(&mut self, system: u32, code: &str) -> u32 {
        let code = self.strings.id(code);
        let next = self.concepts.len() as u32;
        let id = *self.concept_ids.entry((system, code)).or_insert(next);
        if id == next {
            self.concepts.push((system, code));
        }
        id
    }

    /// A concept that exists already.
    pub fn known_concept(&self, system: u32, code: &str) -> Option<u32> {
        let code = self.strings.ids.get(code)?;
        self.concept_ids.get(&(system, *code)).copied()
    }

    /// A code of a version; its check digit is looked at.
    pub fn content(&mut self, system: u32, code: &str, version: u32, active: bool, origin: Origin) -> u32 {
        if !crate::check_digit::holds(&self.systems[system as usize].name, code) {
            self.problem(origin, format!("{code} has a wrong check digit"));
        }
        let concept = self.concept(system, code);
        self.contents.push(ContentRecord { concept, version, active, origin });
        self.used(origin.input);
        concept
    }

    /// A designation.
    #[allow(clippy::too_many_arguments)]
    pub fn designation(
        &mut self,
        concept: u32,
        version: u32,
        language: &str,
        usage: u32,
        preferred: bool,
        text: &str,
        refset: &str,
    ) -> usize {
        if text.is_empty() {
            return usize::MAX;
        }
        let (language, text, refset) = (self.strings.id(language), self.strings.id(text), self.strings.id(refset));
        self.designations.push(DesignationRecord { concept, version, language, usage, preferred, text, refset });
        self.designations.len() - 1
    }

    /// A map, made if it is new; files of equal url and version are one map.
    pub fn map(&mut self, url: &str, version: &str, status: &str, scopes: [&str; 2], file: &[u8; 32]) -> u32 {
        let at = match self.maps.iter().position(|m| m.url == url && m.version == version) {
            Some(at) => at,
            None => {
                self.maps.push(MapRecord {
                    url: url.to_owned(),
                    version: version.to_owned(),
                    status: status.to_owned(),
                    source_scope: String::new(),
                    target_scope: String::new(),
                    hash: openssl::sha::Sha256::new(),
                });
                self.maps.len() - 1
            }
        };
        let map = &mut self.maps[at];
        map.hash.update(file);
        for (known, scope) in [&mut map.source_scope, &mut map.target_scope].into_iter().zip(scopes) {
            if known.is_empty() {
                *known = scope.to_owned();
            }
        }
        at as u32
    }

    /// A group of a map.
    pub(crate) fn group(&mut self, group: GroupRecord) -> u32 {
        self.groups.push(group);
        self.groups.len() as u32 - 1
    }

    /// A row; the check digit of its target is looked at.
    pub(crate) fn row(&mut self, row: RowRecord) {
        if let Some((system, code)) = self.concepts.get(row.target as usize) {
            let code = self.strings.text(*code);
            if !crate::check_digit::holds(&self.systems[*system as usize].name, code) {
                let text = format!("target {code} has a wrong check digit");
                self.problem(row.origin, text);
            }
        }
        self.used(row.origin.input);
        self.rows.push(row);
    }

    /// Checks everything and writes the words of the snapshot.
    ///
    /// # Errors
    /// All problems, of reading and of content.
    pub fn finish(mut self) -> Result<Built, Vec<Problem>> {
        self.validate();
        if !self.problems.is_empty() {
            self.problems.sort();
            self.problems.dedup();
            return Err(self.problems);
        }
        let warnings = std::mem::take(&mut self.warnings);
        let (words, manifest) = self.write();
        Ok(Built { words, manifest, warnings })
    }
}

/// A finished snapshot.
#[derive(Debug)]
pub struct Built {
    /// Its words.
    pub words: Vec<u32>,
    /// Its manifest, JSON.
    pub manifest: String,
    /// What a person should look at.
    pub warnings: Vec<Problem>,
}

impl Built {
    /// The bytes as they lie in the file.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    /// SHA-256, the snapshot's name.
    pub fn digest(&self) -> [u8; 32] {
        openssl::sha::sha256(self.bytes())
    }

    /// Writes `<digest>.snapshot` and `<digest>.json` into a folder, whole or not at all.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, folder: &std::path::Path) -> std::io::Result<std::path::PathBuf> {
        std::fs::create_dir_all(folder)?;
        let name = hex::encode(self.digest());
        for (extension, bytes) in [("json", self.manifest.as_bytes()), ("snapshot", self.bytes())] {
            let draft = folder.join(format!(".{name}.{extension}"));
            std::fs::write(&draft, bytes)?;
            std::fs::File::open(&draft)?.sync_all()?;
            std::fs::rename(&draft, folder.join(format!("{name}.{extension}")))?;
        }
        Ok(folder.join(format!("{name}.snapshot")))
    }
}
