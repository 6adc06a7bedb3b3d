//! From records to the words of a snapshot.

use std::cmp::Ordering;

use serde_json::json;

use super::{Builder, PropertyRecord, Unmapped};
use crate::format::{self, ACTIVE, CASE_SENSITIVE, COMPLETE, MAGIC, NONE, SECTIONS, Section, concept, map, row};

/// Versions by their numbers, then by their letters: 2.9 before 2.81, 2024-02 before 2026-11.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let parts = |v: &str| -> Vec<(u64, String)> {
        v.split(['.', '-', '/', '_', ' ']).map(|p| (p.parse().unwrap_or(0), p.to_owned())).collect()
    };
    parts(a).cmp(&parts(b))
}

/// Ranges of consecutive records with the same owner: first and count by owner.
fn ranges(count: usize, owners: impl Iterator<Item = u32>) -> Vec<[u32; 2]> {
    let mut out = vec![[0u32; 2]; count];
    for (index, owner) in owners.enumerate() {
        if let Some(range) = out.get_mut(owner as usize) {
            if range[1] == 0 {
                range[0] = index as u32;
            }
            range[1] += 1;
        }
    }
    out
}

/// Where the consecutive records of each owner begin.
fn starts(count: usize, owners: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut out = vec![0u32; count];
    for owner in owners {
        if let Some(next) = out.get_mut(owner as usize + 1) {
            *next += 1;
        }
    }
    for index in 1..count {
        out[index] += out[index - 1];
    }
    out
}

fn properties(list: &[PropertyRecord], strings: &mut super::Interner, out: &mut Vec<u32>) -> [u32; 2] {
    let first = (out.len() / 4) as u32;
    for p in list {
        for text in [&p.name, &p.system, &p.value, &p.display] {
            out.push(strings.id(text));
        }
    }
    [first, list.len() as u32]
}

impl Builder {
    pub(super) fn write(mut self) -> (Vec<u32>, String) {
        let mut sections: Vec<Vec<u32>> = vec![Vec::new(); SECTIONS];
        let count = self.concepts.len();
        self.sort();

        let current = self.current_maps();
        let mut digests = Vec::new();
        for (index, record) in self.maps.iter_mut().enumerate() {
            let digest = std::mem::replace(&mut record.hash, openssl::sha::Sha256::new()).finish();
            digests.push(digest);
            let id = index as u32;
            let mine = self.rows.iter().filter(|r| r.map == id);
            let (mapped, without) =
                mine.fold((0, 0), |(m, u), r| if r.target == NONE { (m, u + 1) } else { (m + 1, u) });
            let mut words = [0u32; map::WORDS];
            words[map::URL] = self.strings.id(&record.url);
            words[map::VERSION] = self.strings.id(&record.version);
            words[map::STATUS] = self.strings.id(&record.status);
            words[map::CURRENT] = u32::from(current[index]);
            words[map::SOURCE_SCOPE] = self.strings.id(&record.source_scope);
            words[map::TARGET_SCOPE] = self.strings.id(&record.target_scope);
            words[map::MAPPED] = mapped;
            words[map::UNMATCHED] = without;
            for (word, bytes) in words[map::DIGEST..].iter_mut().zip(digest.chunks_exact(4)) {
                *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            let first = self.groups.iter().position(|g| g.map == id).unwrap_or(0) as u32;
            words[map::GROUPS] = first;
            words[map::GROUPS + 1] = self.groups.iter().filter(|g| g.map == id).count() as u32;
            sections[Section::Maps as usize].extend(words);
        }
        for group in &self.groups {
            let (mode, code, display, word, other) = match &group.unmapped {
                Unmapped::None => (0, "", "", None, ""),
                Unmapped::UseSource => (1, "", "", None, ""),
                Unmapped::Fixed(code, display, word) => (2, code.as_str(), display.as_str(), *word, ""),
                Unmapped::OtherMap(url) => (3, "", "", None, url.as_str()),
            };
            let strings = &mut self.strings;
            sections[Section::Groups as usize].extend([
                group.map,
                group.source,
                strings.id(&group.source_version),
                group.target,
                strings.id(&group.target_version),
                mode,
                strings.id(code),
                word.map_or(NONE, |w| u32::from(w.number())),
                strings.id(other),
                strings.id(display),
            ]);
        }
        for r in &self.rows {
            let props = &mut sections[Section::Properties as usize];
            let depends = properties(&r.depends, &mut self.strings, props);
            let products = properties(&r.products, &mut self.strings, props);
            let mut words = [0u32; row::WORDS];
            words[row::SOURCE] = r.source;
            words[row::TARGET] = r.target;
            words[row::MAP] = r.map;
            words[row::GROUP] = r.group;
            words[row::WORD] = u32::from(r.word.number());
            words[row::DEPENDS..row::DEPENDS + 2].copy_from_slice(&depends);
            words[row::PRODUCTS..row::PRODUCTS + 2].copy_from_slice(&products);
            words[row::COMMENT] = r.comment;
            words[row::DISPLAY] = r.display;
            let target = self.concepts.get(r.target as usize).map_or("", |(_, code)| self.strings.text(*code));
            if target.len() <= row::CODE_BYTES {
                words[row::CODE_LEN] = target.len() as u32;
                in_place(&mut words[row::CODE..], target);
            }
            sections[Section::Rows as usize].extend(words);
        }
        let mut reverse: Vec<u32> =
            (0..self.rows.len() as u32).filter(|r| self.rows[*r as usize].target != NONE).collect();
        reverse.sort_by_key(|r| (self.rows[*r as usize].target, self.rows[*r as usize].word.relationship(), *r));
        let row_ranges = ranges(count, self.rows.iter().map(|r| r.source));
        let reverse_ranges = ranges(count, reverse.iter().map(|r| self.rows[*r as usize].target));
        sections[Section::Reverse as usize] = reverse;

        let content_starts = starts(count, self.contents.iter().map(|c| c.concept));
        for c in &self.contents {
            sections[Section::Contents as usize].extend([c.version, if c.active { ACTIVE } else { 0 }]);
        }
        let designation_starts = starts(count, self.designations.iter().map(|d| d.concept));
        for d in &self.designations {
            sections[Section::Designations as usize].extend([
                d.version,
                d.language,
                d.usage,
                u32::from(d.preferred),
                d.text,
                d.refset,
            ]);
        }
        let parent_starts = starts(count, self.parents.iter().map(|p| p.0));
        sections[Section::Parents as usize].extend(self.parents.iter().map(|p| p.1));

        let mut facet_of = vec![0u32; count];
        for (index, (concept, facets)) in self.facets.iter().enumerate() {
            facet_of[*concept as usize] = index as u32 + 1;
            for text in facets {
                let id = self.strings.id(text);
                sections[Section::Facets as usize].push(id);
            }
        }
        for ((key, language), text) in &self.phrases {
            let strings = &mut self.strings;
            let words = [strings.id(key), strings.id(language), strings.id(text)];
            sections[Section::Phrases as usize].extend(words);
        }
        for (index, (system, code)) in self.concepts.iter().enumerate() {
            let (start, len) = self.strings.range(*code);
            let mut words = [0u32; concept::WORDS];
            words[concept::SYSTEM] = *system;
            words[concept::CODE_LEN] = len;
            words[concept::FACETS] = facet_of[index];
            words[concept::ROWS..concept::ROWS + 2].copy_from_slice(&row_ranges[index]);
            words[concept::REVERSE..concept::REVERSE + 2].copy_from_slice(&reverse_ranges[index]);
            words[concept::CONTENTS] = content_starts[index];
            words[concept::DESIGNATIONS] = designation_starts[index];
            words[concept::PARENTS] = parent_starts[index];
            let code = self.strings.text(*code);
            if code.len() <= concept::CODE_BYTES {
                in_place(&mut words[concept::CODE..], code);
            } else {
                words[concept::CODE] = start;
            }
            sections[Section::Concepts as usize].extend(words);
        }
        sections[Section::Index as usize] = self.index();
        self.names_and_versions(&mut sections);
        for set in &mut self.value_sets {
            set.members.sort_unstable();
            set.members.dedup();
            let first = sections[Section::Members as usize].len() as u32;
            let strings = &mut self.strings;
            let words = [
                strings.id(&set.url),
                strings.id(&set.version),
                strings.id(&set.name),
                first,
                set.members.len() as u32,
                u32::from(set.complete),
            ];
            sections[Section::ValueSets as usize].extend(words);
            sections[Section::Members as usize].extend(&set.members);
        }
        let manifest = self.manifest(&digests);
        sections[Section::Strings as usize] = padded(&self.strings.bytes, 0);
        sections[Section::StringEnds as usize] = std::mem::take(&mut self.strings.ends);
        sections[Section::Manifest as usize] = padded(manifest.as_bytes(), b' ');
        (assembled(&sections), manifest)
    }

    /// Records by their owner, and within one owner in the order of answers.
    fn sort(&mut self) {
        let versions = &self.versions;
        self.contents.sort_by(|a, b| {
            let newer = compare_versions(&versions[b.version as usize].version, &versions[a.version as usize].version);
            a.concept.cmp(&b.concept).then(newer)
        });
        self.designations.sort_by_key(|d| (d.concept, d.usage, !d.preferred));
        self.designations.dedup_by_key(|d| (d.concept, d.version, d.language, d.usage, d.preferred, d.text, d.refset));
        self.parents.sort_by_key(|p| (p.0, p.1));
        self.parents.dedup_by_key(|p| (p.0, p.1));
        self.rows.sort_by_key(|r| (r.source, r.word.relationship(), r.map, r.priority));
        // Groups of one map must lie together.
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.sort_by_key(|g| (self.groups[*g].map, *g));
        let mut moved = vec![0u32; order.len()];
        for (new, old) in order.iter().enumerate() {
            moved[*old] = new as u32;
        }
        self.groups = order.iter().map(|g| self.groups[*g].clone()).collect();
        for row in &mut self.rows {
            row.group = moved[row.group as usize];
        }
    }

    /// For each URL the newest version, an active one before others; a retired one never answers unasked.
    fn current_maps(&self) -> Vec<bool> {
        let rank = |m: &super::MapRecord| u8::from(m.status == "active");
        (0..self.maps.len())
            .map(|i| {
                let mine = &self.maps[i];
                mine.status != "retired"
                    && self.maps.iter().enumerate().all(|(j, other)| {
                        i == j
                            || other.url != mine.url
                            || other.status == "retired"
                            || rank(mine)
                                .cmp(&rank(other))
                                .then_with(|| compare_versions(&mine.version, &other.version))
                                .is_gt()
                    })
            })
            .collect()
    }

    fn index(&self) -> Vec<u32> {
        // At most two thirds are taken: small, so that it stays in the processor's cache.
        let slots = (self.concepts.len() * 3 / 2 + 1).next_power_of_two().max(8);
        let id_bits = format::id_bits(self.concepts.len());
        let mut out = vec![0u32; slots];
        for (index, (system, code)) in self.concepts.iter().enumerate() {
            let hash = format::hash(*system, self.strings.text(*code));
            let mut slot = hash as usize & (slots - 1);
            while out[slot] != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            out[slot] = format::tag(hash, id_bits) | (index as u32 + 1);
        }
        out
    }

    fn names_and_versions(&mut self, sections: &mut [Vec<u32>]) {
        for system in &self.systems {
            let words = [
                self.strings.id(&system.name),
                system.language,
                u32::from(system.target),
                self.strings.id(&system.url),
            ];
            sections[Section::Systems as usize].extend(words);
        }
        for (name, system) in &self.names {
            sections[Section::Names as usize].extend([self.strings.id(name), *system]);
        }
        let mut counts = vec![0u32; self.versions.len()];
        for content in &self.contents {
            counts[content.version as usize] += 1;
        }
        for (version, count) in self.versions.iter().zip(counts) {
            let flags =
                if version.case_sensitive { CASE_SENSITIVE } else { 0 } | if version.complete { COMPLETE } else { 0 };
            let words = [
                version.system,
                self.strings.id(&version.version),
                flags,
                self.strings.id(&version.name),
                count,
                self.strings.id(&version.licence),
            ];
            sections[Section::Versions as usize].extend(words);
        }
    }

    fn manifest(&self, digests: &[[u8; 32]]) -> String {
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .map(|i| {
                json!({"file": &*i.name, "kind": i.kind, "sha256": hex::encode(i.sha256), "bytes": i.bytes, "records": i.records})
            })
            .collect();
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|v| {
                json!({"system": self.systems[v.system as usize].name, "version": v.version, "name": v.name,
                    "complete": v.complete, "licence": v.licence})
            })
            .collect();
        let maps: Vec<_> = self
            .maps
            .iter()
            .zip(digests)
            .map(|(m, digest)| {
                json!({"url": m.url, "version": m.version, "status": m.status, "sha256": hex::encode(digest)})
            })
            .collect();
        let manifest = json!({
            "format": "NCPTERM2",
            "inputs": inputs,
            "ignored_files": self.ignored,
            "code_systems": versions,
            "maps": maps,
            "counts": {
                "concepts": self.concepts.len(), "contents": self.contents.len(),
                "designations": self.designations.len(), "parents": self.parents.len(),
                "rows": self.rows.len(), "value_sets": self.value_sets.len(),
            },
        });
        format!("{manifest:#}\n")
    }
}

/// A code in its record.
fn in_place(words: &mut [u32], code: &str) {
    for (word, bytes) in words.iter_mut().zip(padded(code.as_bytes(), 0)) {
        *word = bytes;
    }
}

fn padded(bytes: &[u8], with: u8) -> Vec<u32> {
    let word = |chunk: &[u8]| {
        let mut word = [with; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

fn assembled(sections: &[Vec<u32>]) -> Vec<u32> {
    let head = 3 + SECTIONS * 2;
    // Records of 16 words begin on a cache line.
    let aligned = |at: usize| at.next_multiple_of(16);
    let mut at = aligned(head);
    let mut out = vec![MAGIC[0], MAGIC[1], SECTIONS as u32];
    for section in sections {
        out.extend([at as u32, section.len() as u32]);
        at = aligned(at + section.len());
    }
    for section in sections {
        out.resize(aligned(out.len()), 0);
        out.extend(section);
    }
    out.resize(aligned(out.len()), 0);
    out
}
