//! Release of what the registries hold of a patient: only what may be disclosed goes on to the evaluation of a query.
//!
//! Every entry, submission set and folder passes [`Policy::release`]. A submission set or folder all of whose members are
//! withheld is withheld too, and an association only stays between objects that stay: an answer must be the one that
//! would be given if the withheld objects did not exist.

use std::collections::{HashMap, HashSet};

use ncp_ihe::{Association, CrossGatewayQueryRequest, Folder, PatientId, RegistryObjects, SubmissionSet};

use crate::audit_scope::Trail;
use crate::identity::TransactionName;
use crate::national::{Omitted, Unit};
use crate::policy::{Authorised, Describing, Facts, LookUp, Policy, Resource};

/// Decisions after which others have their turn.
const TURN: usize = 64;

type Asked = Authorised<LookUp<CrossGatewayQueryRequest>>;

/// What of the objects may be disclosed; `documents` are those of them that describe studies.
pub async fn release(
    policy: &Policy,
    asked: &Asked,
    held: RegistryObjects,
    documents: &Describing,
    trail: &mut Trail,
) -> RegistryObjects {
    let members = Members::of(&held.associations);
    let mut out = RegistryObjects::default();
    let mut withheld = HashSet::new();
    let mut stays = HashSet::new();
    for (n, entry) in held.entries.into_iter().enumerate() {
        // Thousands of decisions leave other exchanges their turn.
        if n % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let uuid = entry.entry_uuid.clone();
        if let Some(entry) = released(policy, asked, entry, documents, trail).await {
            stays.insert(uuid);
            out.entries.push(entry);
        } else {
            withheld.insert(uuid);
        }
    }
    for folder in held.folders {
        let uuid = folder.entry_uuid.clone();
        let empty = members.only_withheld(&uuid, &withheld, &stays);
        match released(policy, asked, folder, documents, trail).await {
            Some(folder) if !empty => {
                stays.insert(uuid);
                out.folders.push(folder);
            }
            _ => {
                withheld.insert(uuid);
            }
        }
    }
    for set in held.submission_sets {
        let uuid = set.entry_uuid.clone();
        let empty = members.only_withheld(&uuid, &withheld, &stays);
        match released(policy, asked, set, documents, trail).await {
            Some(set) if !empty => {
                stays.insert(uuid);
                out.submission_sets.push(set);
            }
            _ => {}
        }
    }
    out.associations = between(&held.associations, stays);
    out
}

async fn released<R: Resource>(
    policy: &Policy,
    asked: &Asked,
    object: R,
    documents: &Describing,
    trail: &mut Trail,
) -> Option<R> {
    match policy.release(asked, TransactionName::Iti38, object, documents).await {
        Ok(object) => Some(object.into_inner()),
        Err(refusal) => {
            trail.withheld(&refusal);
            None
        }
    }
}

/// What of the omitted units may be named: what would be withheld if it were there is not told to be missing either.
pub async fn may_be_named(
    policy: &Policy,
    asked: &Asked,
    patient: &PatientId,
    omitted: Vec<Omitted>,
    documents: &Describing,
    trail: &mut Trail,
) -> Vec<Omitted> {
    let mut out = Vec::new();
    for unit in omitted {
        let unread = Unread { unit, patient: patient.clone() };
        let named = released(policy, asked, unread, documents, trail).await;
        out.extend(named.map(|named| named.unit));
    }
    out
}

/// A unit of a patient of which nothing but its id could be read, or not all of it.
struct Unread {
    unit: Omitted,
    patient: PatientId,
}

impl Resource for Unread {
    fn patient(&self) -> Option<&PatientId> {
        Some(&self.patient)
    }

    /// What is missing of a study that is listed may be told to whom its manifest is. Of a unit that is not listed a block
    /// that asks for an attribute closes; policies see none, or no omission could ever be told.
    fn described(&self, documents: &Describing) -> (Facts, Vec<String>) {
        if let (Unit::Study(study), true) = (&self.unit.unit, self.unit.reason.leaves_the_rest()) {
            let (facts, mut keys) = documents.of_study(study, &[]).with_archive(&[], None);
            keys.push(study.to_string());
            return (Facts { kind: "manifest", ..facts }, keys);
        }
        let facts = Facts { kind: "document", incomplete: true, ..Facts::default() };
        (facts, self.unit.unit.id().map(ToOwned::to_owned).into_iter().collect())
    }
}

/// Members of submission sets and folders.
struct Members(HashMap<String, Vec<String>>);

impl Members {
    fn of(associations: &[Association]) -> Self {
        let mut out: HashMap<String, Vec<String>> = HashMap::new();
        for association in associations.iter().filter(|a| a.is(Association::HAS_MEMBER)) {
            out.entry(association.source.clone()).or_default().push(association.target.clone());
        }
        Self(out)
    }

    /// Whether the holder has members that are withheld, and none that stays.
    fn only_withheld(&self, holder: &str, withheld: &HashSet<String>, stays: &HashSet<String>) -> bool {
        let members = self.0.get(holder).map(Vec::as_slice).unwrap_or_default();
        members.iter().any(|m| withheld.contains(m)) && !members.iter().any(|m| stays.contains(m))
    }
}

/// The associations both of whose ends stay; an end may be an association.
fn between(associations: &[Association], mut stays: HashSet<String>) -> Vec<Association> {
    ncp_ihe::within(&mut stays, associations).into_iter().cloned().collect()
}

impl Resource for SubmissionSet {
    fn patient(&self) -> Option<&PatientId> {
        Some(&self.patient_id)
    }

    fn described(&self, _: &Describing) -> (Facts, Vec<String>) {
        (Facts::of_group("submission-set", &self.content_type.code), vec![self.unique_id.clone()])
    }
}

impl Resource for Folder {
    fn patient(&self) -> Option<&PatientId> {
        Some(&self.patient_id)
    }

    fn described(&self, _: &Describing) -> (Facts, Vec<String>) {
        (Facts::of_group("folder", ""), vec![self.unique_id.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn association(uuid: &str, source: &str, target: &str) -> Association {
        Association {
            uuid: uuid.into(),
            kind: Association::HAS_MEMBER.into(),
            source: source.into(),
            target: target.into(),
            submission_set_status: None,
        }
    }

    #[test]
    fn an_association_stays_with_both_ends() {
        let all = vec![
            association("set-has-link", "set", "link"),
            association("link", "folder", "document"),
            association("hidden", "set", "withheld"),
            association("of-hidden", "set", "hidden"),
        ];
        let stays = ["set", "folder", "document"].map(String::from).into_iter().collect();
        let kept: Vec<String> = between(&all, stays).into_iter().map(|a| a.uuid).collect();
        assert_eq!(kept, ["link", "set-has-link"]);
    }

    #[test]
    fn a_holder_of_withheld_members_alone_is_empty() {
        let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<HashSet<_>>();
        let members = Members::of(&[association("1", "set", "a"), association("2", "set", "b")]);
        assert!(members.only_withheld("set", &of(&["a", "b"]), &of(&[])));
        assert!(!members.only_withheld("set", &of(&["a"]), &of(&["b"])));
        assert!(!members.only_withheld("other", &of(&["a", "b"]), &of(&[])));
    }
}
