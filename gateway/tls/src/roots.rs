//! Roots that vouch for more than one use: names alone keep those uses apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::{CertificateFacts, certificates};

/// One sentence for each root that stands in the anchors of more than one use. Each file comes with its use; files that
/// cannot be read are left out, because they are reported elsewhere.
pub fn shared_roots<'a>(files: impl IntoIterator<Item = (String, &'a Path)>) -> Vec<String> {
    let mut roots: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for (vouches_for, file) in files {
        for root in certificates(file).unwrap_or_default() {
            let self_issued = root.subject_name().try_cmp(root.issuer_name()).is_ok_and(|order| order.is_eq());
            let Some(facts) = CertificateFacts::of(&root).ok().filter(|_| self_issued) else { continue };
            let (_, uses) = roots.entry(facts.fingerprint).or_insert((facts.common_name, BTreeSet::new()));
            uses.insert(vouches_for.clone());
        }
    }
    let shared = roots.into_values().filter(|(_, uses)| uses.len() > 1);
    let sentence = |(name, uses): (String, BTreeSet<String>)| {
        let uses: Vec<String> = uses.into_iter().collect();
        format!("the root {name:?} serves several uses: {}; give each use a root of its own", uses.join(", "))
    };
    shared.map(sentence).collect()
}
