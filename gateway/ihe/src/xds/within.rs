//! Which associations lie within a set of objects. An end may be an association itself (ITI TF-3: 4.2.2), so that one that is
//! within may bring others in.

use std::collections::{HashMap, HashSet};

use super::metadata::Association;

/// The associations both of whose ends are known, in the order in which they become so; their own entryUUIDs are known then.
/// Each is looked at once for each of its ends, however long the chains are.
pub fn within<'a>(
    known: &mut HashSet<String>,
    associations: impl IntoIterator<Item = &'a Association>,
) -> Vec<&'a Association> {
    closed(known, associations, &mut 0)
}

/// The same; `looked` counts how often an end was looked up.
fn closed<'a>(
    known: &mut HashSet<String>,
    associations: impl IntoIterator<Item = &'a Association>,
    looked: &mut usize,
) -> Vec<&'a Association> {
    let mut out: Vec<&Association> = Vec::new();
    let mut waiting: HashMap<&str, Vec<&Association>> = HashMap::new();
    let mut missing = |association: &'a Association, known: &HashSet<String>| {
        let mut ends = [&association.source, &association.target].into_iter().inspect(|_| *looked += 1);
        ends.find(|end| !known.contains(*end)).map(String::as_str)
    };
    for association in associations {
        match missing(association, known) {
            Some(end) => waiting.entry(end).or_default().push(association),
            None => out.push(association),
        }
    }
    let mut next = 0;
    while let Some(association) = out.get(next).copied() {
        next += 1;
        known.insert(association.uuid.clone());
        for waited in waiting.remove(association.uuid.as_str()).unwrap_or_default() {
            match missing(waited, known) {
                Some(end) => waiting.entry(end).or_default().push(waited),
                None => out.push(waited),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn association(uuid: usize, source: usize, target: usize) -> Association {
        let name = |n: usize| format!("urn:{n}");
        Association {
            uuid: name(uuid),
            kind: Association::HAS_MEMBER.into(),
            source: name(source),
            target: name(target),
            submission_set_status: None,
        }
    }

    /// By definition: again and again, until nothing comes in.
    fn slowly(known: &mut HashSet<String>, all: &[Association]) -> HashSet<String> {
        loop {
            let more = all.iter().filter(|a| known.contains(&a.source) && known.contains(&a.target));
            let more: Vec<String> = more.map(|a| a.uuid.clone()).filter(|uuid| !known.contains(uuid)).collect();
            if more.is_empty() {
                return known.clone();
            }
            known.extend(more);
        }
    }

    proptest! {
        /// SE-05: whatever refers to whatever, each association is looked at once for each of its ends, and once at first.
        #[test]
        fn se_05_associations_cost_what_they_are(
            ends in prop::collection::vec((0usize..60, 0usize..60, 0usize..60), 0..60),
        ) {
            let all: Vec<Association> = ends.into_iter().map(|(a, b, c)| association(a, b, c)).collect();
            let start: HashSet<String> = (0..6).map(|n| format!("urn:{n}")).collect();
            let (mut known, mut looked) = (start.clone(), 0);
            closed(&mut known, &all, &mut looked);
            prop_assert_eq!(&known, &slowly(&mut start.clone(), &all));
            prop_assert!(looked <= 6 * all.len(), "{} of {}", looked, all.len());
        }
    }

    #[test]
    fn se_05_a_chain_twice_as_long_costs_twice_as_much() {
        let cost = |length: usize| {
            // The last names the one before it, and so on: what comes in first stands last.
            let all: Vec<_> = (1..=length).rev().map(|n| association(n, n - 1, 0)).collect();
            let (mut known, mut looked) = (HashSet::from(["urn:0".to_owned()]), 0);
            assert_eq!(closed(&mut known, &all, &mut looked).len(), length);
            looked
        };
        assert!(cost(8_000) <= 2 * cost(4_000) + 2, "the first one has no chain behind it");
    }
}
