//! Whom a document of this country must record: what its entry and the country's register know of its patient, merged ids
//! included.

use std::collections::BTreeSet;
use std::sync::Arc;

use ncp_ihe::DocumentEntry;

use super::patients::Patients;
use crate::compare::IsPatient;
use crate::recorded::Known;

/// Compares record targets with what the entry and the country's register know of its patient.
pub(super) fn is_patient(entry: &DocumentEntry, register: &Patients) -> IsPatient {
    let known = known(entry, register);
    Arc::new(move |targets| known.records(targets))
}

fn known(entry: &DocumentEntry, register: &Patients) -> Known {
    let own = [Some(&entry.patient_id), entry.source_patient_id.as_ref()];
    let mut ids: BTreeSet<(String, String)> =
        own.into_iter().flatten().map(|id| (id.root.to_string(), id.extension.clone())).collect();
    ids.extend(register.ids_of(&entry.patient_id));
    let mut authorities: BTreeSet<String> = ids.iter().map(|(root, _)| root.clone()).collect();
    authorities.extend(register.authorities());
    let person = register.get(&entry.patient_id);
    let field = |name: &str| {
        let value = entry.source_patient_info.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('|'));
        value.map(str::trim).filter(|value| !value.is_empty()).map(ToOwned::to_owned)
    };
    let family = || field("PID-5").and_then(|name| name.split('^').next().map(ToOwned::to_owned));
    Known {
        ids,
        authorities,
        family: person.map(|p| p.family.clone()).or_else(family),
        birth_date: person.map(|p| p.birth_date.clone()).or_else(|| field("PID-7")),
        sex: person.map(|p| p.sex.clone()).or_else(|| field("PID-8")),
    }
}
