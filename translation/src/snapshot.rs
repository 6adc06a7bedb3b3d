//! A snapshot as it is read: lookups over mapped words. Never by code alone; the key is (system, code).
//!
//! Nothing here panics on a damaged file: numbers out of range read as "none". A file whose bytes do not have the
//! digest of its name is refused before that.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use crate::build::{Built, plain, uri};
use crate::format::{self, ACTIVE, CASE_SENSITIVE, COMPLETE, MAGIC, NONE, SECTIONS, Section, concept, map, row};
use crate::mapped::{Cut, Words};
use crate::relationship::{Relationship, Word};

mod records;

pub use records::{Concept, Content, Group, MapInfo, Name, Property, Row, System, UnmappedRule, ValueSet, Version};

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// File system.
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] std::io::Error),
    /// Not the bytes it is named after.
    #[error("snapshot is damaged: its SHA-256 is {found}, its name says {named}")]
    Digest {
        /// Of the bytes.
        found: String,
        /// Of the name.
        named: String,
    },
    /// Not a snapshot of this format.
    #[error("not a snapshot of this format")]
    Format,
}

/// Everything that one answer is made from.
#[derive(Debug)]
pub struct Snapshot {
    sections: Cut<SECTIONS>,
    digest: [u8; 32],
    /// Bits of an index slot that hold a concept.
    id_bits: u32,
    names: HashMap<String, u32>,
    by_facet: OnceLock<[HashMap<String, Vec<Concept>>; 3]>,
}

impl Snapshot {
    /// Opens `<digest>.snapshot`.
    ///
    /// # Errors
    /// [`SnapshotError::Digest`] if one bit differs from what the name promises.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let (words, digest) = Words::open(path)?;
        let named = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let found = hex::encode(digest);
        if found != named {
            return Err(SnapshotError::Digest { found, named });
        }
        Self::read(words, digest)
    }

    /// A snapshot that was built in this process.
    ///
    /// # Errors
    /// [`SnapshotError::Format`]
    pub fn built(built: Built) -> Result<Self, SnapshotError> {
        let digest = built.digest();
        Self::read(Words::built(built.words), digest)
    }

    fn read(words: Words, digest: [u8; 32]) -> Result<Self, SnapshotError> {
        let all = words.words();
        let head = all.get(..3 + SECTIONS * 2).ok_or(SnapshotError::Format)?;
        if head[..2] != MAGIC || head[2] as usize != SECTIONS {
            return Err(SnapshotError::Format);
        }
        let mut sections = [(0, 0); SECTIONS];
        for (section, range) in sections.iter_mut().zip(head[3..].chunks_exact(2)) {
            *section = (range[0] as usize, range[1] as usize);
        }
        let sections = words.cut(&sections).ok_or(SnapshotError::Format)?;
        let mut out = Self { sections, digest, id_bits: 0, names: HashMap::new(), by_facet: OnceLock::new() };
        let (slots, concepts) = (out.section(Section::Index).len(), out.count::<{ concept::WORDS }>(Section::Concepts));
        if !slots.is_power_of_two() || concepts as usize >= slots {
            return Err(SnapshotError::Format);
        }
        out.id_bits = format::id_bits(concepts as usize);
        let names: HashMap<String, u32> =
            out.section(Section::Names).chunks_exact(2).map(|w| (out.text(w[0]).to_owned(), w[1])).collect();
        out.names = names;
        Ok(out)
    }

    /// SHA-256 of the whole.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    #[inline]
    fn section(&self, section: Section) -> &[u32] {
        self.sections.part(section as usize)
    }

    #[inline]
    fn record<const N: usize>(&self, section: Section, index: u32) -> &[u32; N] {
        let at = index as usize * N;
        self.section(section).get(at..at + N).and_then(|w| w.try_into().ok()).unwrap_or(&[0; N])
    }

    fn count<const N: usize>(&self, section: Section) -> u32 {
        (self.section(section).len() / N) as u32
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.section(Section::Strings))
    }

    pub(crate) fn text(&self, id: u32) -> &str {
        let ends = self.section(Section::StringEnds);
        let Some(end) = ends.get(id as usize) else { return "" };
        let start = if id == 0 { 0 } else { ends[id as usize - 1] };
        let bytes = self.bytes().get(start as usize..*end as usize).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The manifest, JSON.
    pub fn manifest(&self) -> &str {
        std::str::from_utf8(bytemuck::cast_slice(self.section(Section::Manifest))).unwrap_or_default().trim_end()
    }

    /// A system by any of its names; without a version behind `|`.
    #[inline]
    pub fn system(&self, name: &str) -> Option<System> {
        self.names.get(plain(name)).copied().map(System)
    }

    /// How many systems there are.
    pub fn systems(&self) -> impl Iterator<Item = System> {
        (0..self.count::<4>(Section::Systems)).map(System)
    }

    /// The first name of a system.
    pub fn system_name(&self, system: System) -> &str {
        self.text(self.record::<4>(Section::Systems, system.0)[0])
    }

    /// The name of a system in FHIR: a URL where it has one.
    pub fn system_url(&self, system: System) -> &str {
        match self.text(self.record::<4>(Section::Systems, system.0)[3]) {
            "" => self.system_name(system),
            url => url,
        }
    }

    /// Every name of a system.
    pub fn system_names(&self, system: System) -> impl Iterator<Item = String> + '_ {
        let of = self.section(Section::Names).chunks_exact(2).filter(move |w| w[1] == system.0);
        of.map(|w| uri(self.text(w[0])))
    }

    /// The language of displays that do not say theirs.
    pub fn system_language(&self, system: System) -> &str {
        self.text(self.record::<4>(Section::Systems, system.0)[1])
    }

    /// Whether documents are translated into that system: a code of it stays.
    pub fn is_target(&self, system: System) -> bool {
        self.record::<4>(Section::Systems, system.0)[2] != 0
    }

    /// A code of a system.
    #[inline]
    pub fn find(&self, system: System, code: &str) -> Option<Concept> {
        let index = self.section(Section::Index);
        let mask = index.len().wrapping_sub(1);
        let hash = format::hash(system.0, code);
        let tag = format::tag(hash, self.id_bits);
        for step in 0..=mask {
            let slot = *index.get((hash as usize).wrapping_add(step) & mask)?;
            if slot == 0 {
                return None;
            }
            // The low bits hold the concept + 1, the others tell most of the wrong ones apart.
            let differs = slot ^ tag;
            if differs >> self.id_bits == 0 {
                let id = differs.checked_sub(1)?;
                let record = self.record::<{ concept::WORDS }>(Section::Concepts, id);
                if record[concept::SYSTEM] == system.0 && self.code_bytes(record) == code.as_bytes() {
                    return Some(Concept(id));
                }
            }
        }
        None
    }

    #[inline]
    fn code_bytes<'a>(&'a self, record: &'a [u32; concept::WORDS]) -> &'a [u8] {
        let len = record[concept::CODE_LEN] as usize;
        if len <= concept::CODE_BYTES {
            return bytemuck::cast_slice(&record[concept::CODE..]).get(..len).unwrap_or_default();
        }
        let start = record[concept::CODE] as usize;
        self.bytes().get(start..start + len).unwrap_or_default()
    }

    /// A code, as its system tells codes apart: by exact match, else without regard to case where no version minds it.
    pub fn find_folded(&self, system: System, code: &str) -> Option<Concept> {
        if let Some(found) = self.find(system, code) {
            return Some(found);
        }
        let folds =
            self.versions(system).any(|v| !v.case_sensitive) && !self.versions(system).any(|v| v.case_sensitive);
        if !folds {
            return None;
        }
        [code.to_uppercase(), code.to_lowercase()].iter().find_map(|c| self.find(system, c))
    }

    /// All concepts.
    pub fn concepts(&self) -> impl Iterator<Item = Concept> {
        (0..self.count::<{ concept::WORDS }>(Section::Concepts)).map(Concept)
    }

    /// System of a concept.
    #[inline]
    pub fn system_of(&self, concept: Concept) -> System {
        System(self.record::<{ concept::WORDS }>(Section::Concepts, concept.0)[concept::SYSTEM])
    }

    /// Code of a concept.
    #[inline]
    pub fn code(&self, concept: Concept) -> &str {
        let record = self.record::<{ concept::WORDS }>(Section::Concepts, concept.0);
        std::str::from_utf8(self.code_bytes(record)).unwrap_or_default()
    }

    #[inline]
    fn range(&self, concept: Concept, at: usize) -> std::ops::Range<u32> {
        let record = self.record::<{ concept::WORDS }>(Section::Concepts, concept.0);
        record[at]..record[at].saturating_add(record[at + 1])
    }

    /// Records of a section that lie in the order of their concepts.
    fn between<const N: usize>(&self, concept: Concept, at: usize, section: Section) -> std::ops::Range<u32> {
        let start = self.record::<{ concept::WORDS }>(Section::Concepts, concept.0)[at];
        let next = concept.0 + 1;
        let end = if next < self.count::<{ concept::WORDS }>(Section::Concepts) {
            self.record::<{ concept::WORDS }>(Section::Concepts, next)[at]
        } else {
            self.count::<N>(section)
        };
        start..end
    }

    /// Rows from a concept, best first.
    #[inline]
    pub fn rows(&self, concept: Concept) -> impl Iterator<Item = Row> + '_ {
        self.range(concept, concept::ROWS).map(|r| self.row(r))
    }

    /// Rows to a concept, best first.
    pub fn rows_to(&self, concept: Concept) -> impl Iterator<Item = Row> + '_ {
        let reverse = self.section(Section::Reverse);
        self.range(concept, concept::REVERSE).filter_map(|i| reverse.get(i as usize)).map(|r| self.row(*r))
    }

    /// All rows.
    pub fn all_rows(&self) -> impl Iterator<Item = Row> + '_ {
        (0..self.count::<{ row::WORDS }>(Section::Rows)).map(|r| self.row(r))
    }

    #[inline]
    fn row(&self, index: u32) -> Row {
        let words = self.record::<{ row::WORDS }>(Section::Rows, index);
        Row {
            source: Concept(words[row::SOURCE]),
            target: (words[row::TARGET] != NONE).then_some(Concept(words[row::TARGET])),
            map: words[row::MAP],
            group: words[row::GROUP],
            word: Word::from_number(words[row::WORD] as u8),
            words: index,
        }
    }

    /// System and code of a row's target, without touching the target's concept where the code is short.
    #[inline]
    pub fn row_target(&self, row: &Row) -> Option<(System, &str)> {
        let target = row.target?;
        let words = self.record::<{ row::WORDS }>(Section::Rows, row.words);
        let len = words[row::CODE_LEN] as usize;
        let code = match bytemuck::cast_slice::<u32, u8>(&words[row::CODE..]).get(..len) {
            Some(bytes) if len > 0 => std::str::from_utf8(bytes).unwrap_or_default(),
            _ => self.code(target),
        };
        let system = System(self.record::<10>(Section::Groups, row.group)[3]);
        Some((system, code))
    }

    /// Comment of a row.
    pub fn comment(&self, row: &Row) -> &str {
        self.text(self.record::<{ row::WORDS }>(Section::Rows, row.words)[row::COMMENT])
    }

    /// Display of the target as the map has it.
    pub fn row_display(&self, row: &Row) -> &str {
        self.text(self.record::<{ row::WORDS }>(Section::Rows, row.words)[row::DISPLAY])
    }

    /// What a row depends on.
    pub fn depends(&self, row: &Row) -> impl Iterator<Item = Property<'_>> {
        self.row_properties(row, row::DEPENDS)
    }

    /// What a row yields besides its target.
    pub fn products(&self, row: &Row) -> impl Iterator<Item = Property<'_>> {
        self.row_properties(row, row::PRODUCTS)
    }

    fn row_properties(&self, row: &Row, at: usize) -> impl Iterator<Item = Property<'_>> {
        let words = self.record::<{ row::WORDS }>(Section::Rows, row.words);
        (words[at]..words[at].saturating_add(words[at + 1])).map(|p| {
            let words = self.record::<4>(Section::Properties, p);
            Property {
                name: self.text(words[0]),
                system: self.text(words[1]),
                value: self.text(words[2]),
                display: self.text(words[3]),
            }
        })
    }

    /// Designations of a concept: preferred names first.
    pub fn names(&self, concept: Concept) -> impl Iterator<Item = Name<'_>> {
        self.between::<6>(concept, concept::DESIGNATIONS, Section::Designations).map(|d| {
            let words = self.record::<6>(Section::Designations, d);
            Name {
                text: self.text(words[4]),
                language: self.text(words[1]),
                preferred: words[3] != 0,
                usage: words[2],
                refset: self.text(words[5]),
            }
        })
    }

    /// Versions in which a concept stands, newest first.
    pub fn contents(&self, concept: Concept) -> impl Iterator<Item = Content<'_>> {
        self.between::<2>(concept, concept::CONTENTS, Section::Contents).map(|c| {
            let words = self.record::<2>(Section::Contents, c);
            Content {
                version: self.text(self.record::<6>(Section::Versions, words[0])[1]),
                active: words[1] & ACTIVE != 0,
            }
        })
    }

    /// Direct parents.
    pub fn parents(&self, concept: Concept) -> impl Iterator<Item = Concept> + '_ {
        let parents = self.section(Section::Parents);
        self.between::<1>(concept, concept::PARENTS, Section::Parents)
            .filter_map(|p| parents.get(p as usize))
            .map(|p| Concept(*p))
    }

    /// Whether `ancestor` stands above `concept` in the hierarchy, or is the same.
    pub fn subsumes(&self, ancestor: Concept, concept: Concept) -> bool {
        let mut stack = vec![concept];
        let mut seen = std::collections::HashSet::new();
        while let Some(at) = stack.pop() {
            if at == ancestor {
                return true;
            }
            if seen.insert(at) {
                stack.extend(self.parents(at));
            }
        }
        false
    }

    /// Versions of a system.
    pub fn versions(&self, system: System) -> impl Iterator<Item = Version<'_>> {
        self.all_versions().filter(move |v| v.system == system)
    }

    /// Versions of all systems.
    pub fn all_versions(&self) -> impl Iterator<Item = Version<'_>> {
        (0..self.count::<6>(Section::Versions)).map(|v| {
            let words = self.record::<6>(Section::Versions, v);
            Version {
                system: System(words[0]),
                version: self.text(words[1]),
                name: self.text(words[3]),
                case_sensitive: words[2] & CASE_SENSITIVE != 0,
                complete: words[2] & COMPLETE != 0,
                concepts: words[4],
            }
        })
    }

    /// Maps.
    pub fn maps(&self) -> impl ExactSizeIterator<Item = MapInfo<'_>> {
        (0..self.count::<{ map::WORDS }>(Section::Maps)).map(|m| self.map(m))
    }

    /// One map.
    pub fn map(&self, index: u32) -> MapInfo<'_> {
        let words = self.record::<{ map::WORDS }>(Section::Maps, index);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(&words[map::DIGEST..]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let group = self.group(words[map::GROUPS]);
        MapInfo {
            url: self.text(words[map::URL]),
            version: self.text(words[map::VERSION]),
            status: self.text(words[map::STATUS]),
            current: words[map::CURRENT] != 0,
            digest,
            rows: words[map::MAPPED],
            unmatched: words[map::UNMATCHED],
            source: self.system_name(group.source),
            target: self.system_name(group.target),
            scopes: [self.text(words[map::SOURCE_SCOPE]), self.text(words[map::TARGET_SCOPE])],
        }
    }

    /// Whether a map answers when no version is asked for.
    #[inline]
    pub fn is_current(&self, map: u32) -> bool {
        self.record::<{ map::WORDS }>(Section::Maps, map)[map::CURRENT] != 0
    }

    /// A map by its canonical, `url` or `url|version`; without a version the current one.
    pub fn find_map(&self, canonical: &str) -> Option<u32> {
        let (url, version) = canonical.split_once('|').unwrap_or((canonical, ""));
        let mut all = (0u32..).zip(self.maps());
        all.find(|(_, m)| m.url == url && if version.is_empty() { m.current } else { m.version == version })
            .map(|(index, _)| index)
    }

    /// Groups of a map.
    pub fn groups(&self, map: u32) -> impl Iterator<Item = Group<'_>> {
        let words = self.record::<{ map::WORDS }>(Section::Maps, map);
        (words[map::GROUPS]..words[map::GROUPS].saturating_add(words[map::GROUPS + 1])).map(|g| self.group(g))
    }

    /// One group.
    pub fn group(&self, index: u32) -> Group<'_> {
        let words = self.record::<10>(Section::Groups, index);
        let code = self.text(words[6]);
        Group {
            map: words[0],
            source: System(words[1]),
            source_version: self.text(words[2]),
            target: System(words[3]),
            target_version: self.text(words[4]),
            unmapped: match words[5] {
                1 => UnmappedRule::UseSource,
                2 => UnmappedRule::Fixed(code, (words[7] != NONE).then(|| Word::from_number(words[7] as u8))),
                3 => UnmappedRule::OtherMap(self.text(words[8])),
                _ => UnmappedRule::None,
            },
        }
    }

    /// Value sets.
    pub fn value_sets(&self) -> impl Iterator<Item = ValueSet<'_>> {
        let members = self.section(Section::Members);
        (0..self.count::<6>(Section::ValueSets)).map(move |v| {
            let words = self.record::<6>(Section::ValueSets, v);
            let first = words[3] as usize;
            ValueSet {
                url: self.text(words[0]),
                version: self.text(words[1]),
                name: self.text(words[2]),
                complete: words[5] != 0,
                members: members.get(first..first + words[4] as usize).unwrap_or_default(),
            }
        })
    }

    /// A value set by URL or OID, `|version` if one is meant; without it the newest.
    pub fn value_set(&self, canonical: &str) -> Option<ValueSet<'_>> {
        let (url, version) = canonical.split_once('|').unwrap_or((canonical, ""));
        self.value_sets()
            .filter(|v| plain(v.url) == plain(url) && (version.is_empty() || v.version == version))
            .max_by(|a, b| crate::build::compare_versions(a.version, b.version))
    }

    /// Modality, region and side of a concept.
    pub fn facets(&self, concept: Concept) -> Option<[&str; 3]> {
        let at = self.record::<{ concept::WORDS }>(Section::Concepts, concept.0)[concept::FACETS].checked_sub(1)?;
        let words = self.record::<3>(Section::Facets, at);
        Some([self.text(words[0]), self.text(words[1]), self.text(words[2])])
    }

    /// Concepts that have this word as facet: 0 modality, 1 region, 2 side. The index is made when first asked for.
    pub fn with_facet(&self, facet: usize, word: &str) -> &[Concept] {
        let index = self.by_facet.get_or_init(|| {
            let mut out: [HashMap<String, Vec<Concept>>; 3] = Default::default();
            for concept in self.concepts() {
                for (words, word) in out.iter_mut().zip(self.facets(concept).unwrap_or_default()) {
                    if !word.is_empty() {
                        words.entry(word.to_owned()).or_default().push(concept);
                    }
                }
            }
            out
        });
        index.get(facet).and_then(|words| words.get(word)).map(Vec::as_slice).unwrap_or_default()
    }

    /// A word of our own table of phrases.
    pub fn phrase(&self, key: &str, language: &str) -> Option<&str> {
        // They lie by key and language.
        let (mut low, mut high) = (0, self.count::<3>(Section::Phrases));
        while low < high {
            let middle = low.midpoint(high);
            let words = self.record::<3>(Section::Phrases, middle);
            match (self.text(words[0]), self.text(words[1])).cmp(&(key, language)) {
                std::cmp::Ordering::Equal => return Some(self.text(words[2])),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The best row from a code into a system that the policy takes, by current maps.
    #[inline]
    pub fn best(&self, system: System, code: &str, allowed: crate::relationship::Allowed) -> Option<Row> {
        let concept = self.find(system, code)?;
        self.rows(concept).find(|r| {
            r.target.is_some()
                && allowed.takes(r.word.relationship())
                && r.word.relationship() != Relationship::NotRelated
                && self.is_current(r.map)
        })
    }
}
