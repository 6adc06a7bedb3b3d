//! What is odd about files of anchors: roots that vouch for more than one use, which names alone keep apart, and files that
//! alone give no path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use openssl::x509::{X509, X509VerifyResult};

use crate::{CertificateFacts, certificates};

/// Why a file of anchors alone gives no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPath {
    /// It has no self-issued certificate: nothing ever leads to it.
    NoRoot,
    /// An intermediate of it was issued by none of its certificates.
    Stray,
    /// It has roots alone: what an intermediate issued needs the intermediate each time.
    RootsAlone,
}

/// Whether certificates that an intermediate issued have a path by this file alone; a file that cannot be read is reported
/// elsewhere.
pub fn no_path(file: &Path) -> Option<NoPath> {
    let all = certificates(file).ok()?;
    let (mut reached, mut rest): (Vec<X509>, Vec<X509>) = all.into_iter().partition(is_self_issued);
    if reached.is_empty() {
        return Some(NoPath::NoRoot);
    }
    if rest.is_empty() {
        return Some(NoPath::RootsAlone);
    }
    loop {
        let is_issued = |one: &X509| reached.iter().any(|issuer| issuer.issued(one) == X509VerifyResult::OK);
        let (issued, others): (Vec<X509>, Vec<X509>) = rest.into_iter().partition(is_issued);
        match (issued.is_empty(), others.is_empty()) {
            (_, true) => return None,
            (true, false) => return Some(NoPath::Stray),
            (false, false) => {}
        }
        reached.extend(issued);
        rest = others;
    }
}

pub(crate) fn is_self_issued(certificate: &X509) -> bool {
    certificate.subject_name().try_cmp(certificate.issuer_name()).is_ok_and(|order| order.is_eq())
}

/// One sentence for each root that stands in the anchors of more than one use. Each file comes with its use; files that
/// cannot be read are left out, because they are reported elsewhere.
pub fn shared_roots<'a>(files: impl IntoIterator<Item = (String, &'a Path)>) -> Vec<String> {
    let mut roots: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for (vouches_for, file) in files {
        for root in certificates(file).unwrap_or_default() {
            let Some(facts) = CertificateFacts::of(&root).ok().filter(|_| is_self_issued(&root)) else { continue };
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
