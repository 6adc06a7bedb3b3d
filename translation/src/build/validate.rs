//! What must hold of a snapshot as a whole: targets known and active, no contradictions, no cycles.

use std::collections::{HashMap, HashSet};

use super::{Builder, Origin, Unmapped};
use crate::format::NONE;
use crate::relationship::Relationship;

impl Builder {
    pub(super) fn validate(&mut self) {
        self.contents_twice();
        self.targets();
        self.contradictions();
        self.hierarchy();
        self.other_maps();
        self.replacements();
    }

    /// A code twice in one version with different status.
    fn contents_twice(&mut self) {
        let mut seen: HashMap<(u32, u32), bool> = HashMap::with_capacity(self.contents.len());
        let mut wrong = Vec::new();
        for content in &self.contents {
            if let Some(active) = seen.insert((content.concept, content.version), content.active)
                && active != content.active
            {
                wrong.push((content.origin, content.concept));
            }
        }
        for (origin, concept) in wrong {
            let code = self.strings.text(self.concepts[concept as usize].1).to_owned();
            self.problem(origin, format!("{code} stands twice in this version, active and inactive"));
        }
        let mut kept = HashSet::with_capacity(self.contents.len());
        self.contents.retain(|c| kept.insert((c.concept, c.version)));
    }

    /// Targets must exist and be active where their system is loaded whole.
    fn targets(&mut self) {
        let whole: HashSet<u32> = self.versions.iter().filter(|v| v.complete).map(|v| v.system).collect();
        if whole.is_empty() {
            return;
        }
        let mut state: HashMap<u32, bool> = HashMap::new();
        for content in &self.contents {
            *state.entry(content.concept).or_default() |= content.active;
        }
        let mut wrong: Vec<(Origin, u32, &'static str)> = Vec::new();
        for row in &self.rows {
            let Some((system, _)) = self.concepts.get(row.target as usize) else { continue };
            if !whole.contains(system) || row.word.relationship() == Relationship::NotRelated {
                continue;
            }
            match state.get(&row.target) {
                None => wrong.push((row.origin, row.target, "is unknown in its code system")),
                Some(false) => wrong.push((row.origin, row.target, "is inactive")),
                Some(true) => {}
            }
        }
        for (origin, concept, why) in wrong {
            let code = self.strings.text(self.concepts[concept as usize].1).to_owned();
            self.problem(origin, format!("target {code} {why}"));
        }
    }

    /// The same row twice is one; rows that contradict each other within one (map, group, code) are a problem.
    fn contradictions(&mut self) {
        let mut seen: HashMap<(u32, u32, u32, u32, Vec<super::PropertyRecord>), usize> = HashMap::new();
        let mut unmatched: HashMap<(u32, u32, u32), Origin> = HashMap::new();
        let mut wrong = Vec::new();
        let mut again = HashSet::new();
        for (index, row) in self.rows.iter().enumerate() {
            let group = &self.groups[row.group as usize];
            let key = (row.map, row.source, group.target, row.target, row.depends.clone());
            match seen.get(&key) {
                Some(first) if self.rows[*first].word.relationship() != row.word.relationship() => {
                    wrong.push((row.origin, row.source, "has the same target twice, with different relationships"));
                }
                Some(_) => {
                    again.insert(index);
                }
                None => {
                    seen.insert(key, index);
                }
            }
            if row.target == NONE {
                unmatched.insert((row.map, row.source, group.target), row.origin);
            }
        }
        for row in &self.rows {
            let group = &self.groups[row.group as usize];
            if row.target != NONE
                && row.word.relationship() != Relationship::NotRelated
                && unmatched.contains_key(&(row.map, row.source, group.target))
            {
                wrong.push((row.origin, row.source, "has a target and is said to have none"));
            }
        }
        for index in &again {
            let (origin, source) = (self.rows[*index].origin, self.rows[*index].source);
            let code = self.strings.text(self.concepts[source as usize].1).to_owned();
            self.warning(origin, format!("{code}: the same row again"));
        }
        for (origin, source, why) in wrong {
            let code = self.strings.text(self.concepts[source as usize].1).to_owned();
            self.problem(origin, format!("{code} {why}"));
        }
        let mut index = 0;
        self.rows.retain(|_| {
            index += 1;
            !again.contains(&(index - 1))
        });
    }

    fn hierarchy(&mut self) {
        let edges: Vec<(u32, u32, Origin)> = self.parents.clone();
        self.cycle(&edges, "is its own ancestor");
    }

    /// Concepts that replace each other in a circle.
    fn replacements(&mut self) {
        let replacing: HashSet<u32> = (0..self.maps.len() as u32)
            .filter(|m| self.maps[*m as usize].url.ends_with("?fhir_cm=900000000000526001"))
            .collect();
        let edges: Vec<(u32, u32, Origin)> = self
            .rows
            .iter()
            .filter(|r| replacing.contains(&r.map) && r.target != NONE)
            .map(|r| (r.source, r.target, r.origin))
            .collect();
        self.cycle(&edges, "is replaced by itself over other concepts");
    }

    /// Depth-first with three colours, without recursion.
    fn cycle(&mut self, edges: &[(u32, u32, Origin)], why: &str) {
        let count = self.concepts.len();
        let mut first = vec![0u32; count + 1];
        for (from, _, _) in edges {
            first[*from as usize + 1] += 1;
        }
        for i in 0..count {
            first[i + 1] += first[i];
        }
        let mut next = first.clone();
        let mut sorted = vec![(0u32, Origin { input: 0, line: 0 }); edges.len()];
        for (from, to, origin) in edges {
            sorted[next[*from as usize] as usize] = (*to, *origin);
            next[*from as usize] += 1;
        }
        let mut colour = vec![0u8; count];
        let mut found = Vec::new();
        for start in 0..count {
            if colour[start] != 0 {
                continue;
            }
            let mut stack = vec![(start, first[start])];
            colour[start] = 1;
            while let Some((node, edge)) = stack.last_mut() {
                if *edge == first[*node + 1] {
                    colour[*node] = 2;
                    stack.pop();
                    continue;
                }
                let (to, origin) = sorted[*edge as usize];
                *edge += 1;
                match colour[to as usize] {
                    0 => {
                        colour[to as usize] = 1;
                        stack.push((to as usize, first[to as usize]));
                    }
                    1 => found.push((to, origin)),
                    _ => {}
                }
            }
        }
        for (concept, origin) in found {
            let code = self.strings.text(self.concepts[concept as usize].1).to_owned();
            self.problem(origin, format!("{code} {why}"));
        }
    }

    /// Maps that hand unmapped codes to each other in a circle, or to a map that is not here.
    fn other_maps(&mut self) {
        let find = |url: &str| {
            let (url, version) = url.split_once('|').unwrap_or((url, ""));
            self.maps.iter().position(|m| m.url == url && (version.is_empty() || m.version == version))
        };
        let mut wrong = Vec::new();
        for group in &self.groups {
            let Unmapped::OtherMap(url) = &group.unmapped else { continue };
            let mut at = find(url);
            if at.is_none() {
                wrong.push((group.origin, format!("other-map {url} is not among the inputs")));
            }
            let mut visited = HashSet::from([group.map as usize]);
            while let Some(map) = at {
                if !visited.insert(map) {
                    wrong.push((group.origin, format!("other-map {url} leads back to its own map")));
                    break;
                }
                at = self.groups.iter().filter(|g| g.map as usize == map).find_map(|g| match &g.unmapped {
                    Unmapped::OtherMap(next) => find(next),
                    _ => None,
                });
            }
        }
        for (origin, text) in wrong {
            self.problem(origin, text);
        }
    }
}
