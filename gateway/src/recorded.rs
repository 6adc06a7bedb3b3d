//! Whether the persons whom a CDA records may be the patient of its entry, by the rule that images are held to: an id is
//! compared with its authority, and where no id has an authority that we know, what else is said must not contradict. Both
//! gateways compare so, each with what it knows.

use std::collections::BTreeSet;

use ncp_ihe::cda::RecordTarget;

/// What is known of a patient.
#[derive(Default)]
pub(crate) struct Known {
    /// Authority and id.
    pub(crate) ids: BTreeSet<(String, String)>,
    /// All authorities whose ids would say who somebody is.
    pub(crate) authorities: BTreeSet<String>,
    /// Family name.
    pub(crate) family: Option<String>,
    /// `YYYYMMDD`
    pub(crate) birth_date: Option<String>,
    /// `M`, `F` or another word.
    pub(crate) sex: Option<String>,
}

impl Known {
    /// A document may record several persons; one of them must be the patient.
    pub(crate) fn records(&self, targets: &[RecordTarget]) -> bool {
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
