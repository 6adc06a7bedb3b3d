//! What of a connector's list can be answered: nothing invalid goes out, nothing is listed that cannot be fetched, and what
//! is left out for that is named.

use std::collections::{BTreeMap, HashSet};

use ncp_ihe::{DocumentEntry, Oid};

use super::Registered;
use super::omitted::{Omission, Omitted, Unit};

impl Registered {
    /// Leaves the objects that can be answered; `repositories` are those of the connector.
    pub(super) fn usable(mut self, connector: &str, repositories: &[Oid]) -> Self {
        let (entries, omitted) = usable(self.objects.entries, repositories);
        self.objects.entries = entries;
        let name = |(unit, reason)| Omitted::new(connector, unit, reason);
        self.omitted.extend(omitted.into_iter().map(name));
        let mut drop = |uuid: &str, id: &str| {
            let named = is_urn(uuid);
            if !named {
                self.omitted.push(Omitted::new(connector, Unit::object(id), Omission::Name));
            }
            named
        };
        self.objects.submission_sets.retain(|set| drop(&set.entry_uuid, &set.unique_id));
        self.objects.folders.retain(|folder| drop(&folder.entry_uuid, &folder.unique_id));
        self
    }
}

/// The entries that can be answered, each once, and the others.
pub(super) fn usable(entries: Vec<DocumentEntry>, repositories: &[Oid]) -> (Vec<DocumentEntry>, Vec<(Unit, Omission)>) {
    let (mut kept, mut omitted): (Vec<DocumentEntry>, Vec<_>) = (Vec::with_capacity(entries.len()), Vec::new());
    let mut places: BTreeMap<(Oid, String), usize> = BTreeMap::new();
    let mut uuids: BTreeMap<String, usize> = BTreeMap::new();
    let mut ambiguous = HashSet::new();
    for entry in entries {
        let reason = match () {
            () if !is_urn(&entry.entry_uuid) => Some(Omission::Name),
            () if !repositories.contains(&entry.repository_unique_id) => Some(Omission::UnknownRepository),
            () if entry.extra_slots.iter().any(|(name, _)| DocumentEntry::DATES.contains(&name.as_str())) => {
                Some(Omission::Date)
            }
            () => None,
        };
        if let Some(reason) = reason {
            omitted.push((Unit::object(&entry.unique_id), reason));
            continue;
        }
        let key = (entry.repository_unique_id.clone(), entry.unique_id.clone());
        match places.get(&key).or_else(|| uuids.get(&entry.entry_uuid)).copied() {
            // Named twice: one line.
            Some(at) if kept[at] == entry => {}
            // Which of the two a retrieval would bring is not known, and one may be closed to the reader.
            Some(at) => {
                ambiguous.insert(at);
                omitted.push((Unit::object(&entry.unique_id), Omission::TwoUnderOneId));
            }
            None => {
                places.insert(key, kept.len());
                uuids.insert(entry.entry_uuid.clone(), kept.len());
                kept.push(entry);
            }
        }
    }
    for at in &ambiguous {
        omitted.push((Unit::object(&kept[*at].unique_id), Omission::TwoUnderOneId));
    }
    let kept = kept.into_iter().enumerate().filter(|(at, _)| !ambiguous.contains(at)).map(|(_, entry)| entry);
    (kept.collect(), omitted)
}

fn is_urn(uuid: &str) -> bool {
    uuid.strip_prefix("urn:uuid:").is_some_and(|uuid| uuid::Uuid::try_parse(uuid).is_ok())
}
