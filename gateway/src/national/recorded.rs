//! Whether the persons whom a CDA records may be the patient of its entry, by the rule that images are held to: an id is
//! compared with its authority, and where no id has an authority that we know, what else is said must not contradict.

use std::collections::BTreeSet;
use std::sync::Arc;

use ncp_ihe::DocumentEntry;
use ncp_ihe::cda::RecordTarget;

use super::patients::Patients;
use crate::compare::IsPatient;

/// What is known of a patient.
struct Known {
    /// Authority and id.
    ids: BTreeSet<(String, String)>,
    /// All authorities whose ids would say who somebody is.
    authorities: BTreeSet<String>,
    family: Option<String>,
    birth_date: Option<String>,
    sex: Option<String>,
}

/// Compares record targets with what the entry and the country's register know of its patient.
pub(super) fn is_patient(entry: &DocumentEntry, register: &Patients) -> IsPatient {
    let known = Known::of(entry, register);
    Arc::new(move |targets| known.records(targets))
}

impl Known {
    fn of(entry: &DocumentEntry, register: &Patients) -> Self {
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
        Self {
            ids,
            authorities,
            family: person.map(|p| p.family.clone()).or_else(family),
            birth_date: person.map(|p| p.birth_date.clone()).or_else(|| field("PID-7")),
            sex: person.map(|p| p.sex.clone()).or_else(|| field("PID-8")),
        }
    }

    /// A document may record several persons; one of them must be the patient.
    fn records(&self, targets: &[RecordTarget]) -> bool {
        let ids = || targets.iter().flat_map(|target| &target.ids);
        if ids().any(|id| self.ids.contains(id)) {
            return true;
        }
        if ids().any(|(root, _)| self.authorities.contains(root)) {
            return false;
        }
        targets.iter().any(|target| !self.contradicts(target))
    }

    fn contradicts(&self, target: &RecordTarget) -> bool {
        let differs = |known: &Option<String>, told: &Option<String>, differ: fn(&str, &str) -> bool| {
            known.as_deref().zip(told.as_deref()).is_some_and(|(known, told)| differ(known, told))
        };
        let family = self.family.as_ref().is_some_and(|known| {
            let known = folded(known);
            !target.family.is_empty() && !target.family.iter().any(|told| folded(told) == known)
        });
        family
            || differs(&self.birth_date, &target.birth_date, other_day)
            || differs(
                &self.sex,
                &target.sex,
                |known, told| matches!((sex(known), sex(told)), (Some(known), Some(told)) if known != told),
            )
    }
}

/// Letters alone, in one case: how a name is cut and spaced differs between systems.
fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Dates of different precision are the same day as far as both go.
fn other_day(one: &str, other: &str) -> bool {
    let digits = |date: &str| date.chars().take(8).take_while(char::is_ascii_digit).collect::<String>();
    let (one, other) = (digits(one), digits(other));
    let common = one.len().min(other.len());
    common >= 4 && one[..common] != other[..common]
}

fn sex(code: &str) -> Option<char> {
    code.chars().next().map(|c| c.to_ascii_uppercase()).filter(|c| matches!(c, 'F' | 'M'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let id = |root: &str, extension: &str| (root.to_owned(), extension.to_owned());
        let ids: BTreeSet<_> = [id("2.999.1", "4711"), id("2.999.2", "L1"), id("2.999.2", "OLD")].into();
        let authorities = ["2.999.1", "2.999.2"].map(ToOwned::to_owned).into();
        let text = |text: &str| Some(text.to_owned());
        Known { ids, authorities, family: text("Pr\u{f8}ve"), birth_date: text("19770530"), sex: text("M") }
    }

    fn target(ids: &[(&str, &str)], family: &str, birth: &str, sex: &str) -> RecordTarget {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        RecordTarget {
            ids: ids.iter().map(|(root, id)| ((*root).to_owned(), (*id).to_owned())).collect(),
            family: text(family).into_iter().collect(),
            birth_date: text(birth),
            sex: text(sex),
        }
    }

    /// CO-01 with IM-01 and IM-09: by id and authority, merged ids included, else by what does not contradict.
    #[test]
    fn co_01_the_recorded_patient() {
        let known = known();
        for (ids, family, birth, sex, expected) in [
            (&[("2.999.1", "4711")][..], "Other", "", "", true),
            (&[("2.999.9", "x"), ("2.999.2", "OLD")], "", "", "", true),
            (&[("2.999.1", "4712")], "Pr\u{f8}ve", "19770530", "M", false),
            (&[("2.999.2", "4711")], "", "", "", false),
            (&[("2.999.9", "4711")], "PR\u{d8}VE", "197705", "UN", true),
            (&[], "", "", "", true),
            (&[], "Testesen", "19770530", "M", false),
            (&[], "", "19770531", "M", false),
            (&[], "", "19770530120000+0100", "F", false),
            (&[("2.999.9", "x")], "Pr\u{f8}ve", "19770530", "M", true),
        ] {
            assert_eq!(known.records(&[target(ids, family, birth, sex)]), expected, "{ids:?} {family} {birth} {sex}");
        }
        let group = [target(&[("2.999.1", "4712")], "", "", ""), target(&[("2.999.1", "4711")], "", "", "")];
        assert!(known.records(&group));
        assert!(!known.records(&[]));
    }
}
