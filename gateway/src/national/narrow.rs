//! Demographics narrow whoever answers: the country's file, ITI-47, ITI-119 or a service (ITI TF-2: 3.55.4.1.2.1).

use ncp_ihe::{PatientQuery, PatientRecord, PersonName};

/// How much of what was asked was compared and fits, in percent; the identifier counts as one. `None` when something
/// contradicts, or was said so that it cannot be compared. What the record does not tell is not compared. Of a parameter with
/// several values one must fit: their order says nothing, and one more removes no match.
pub fn degree(query: &PatientQuery, record: &PatientRecord) -> Option<u8> {
    if query.has_unreadable {
        return None;
    }
    let own_date = record.birth_date.as_deref().filter(|date| !date.is_empty());
    let own_gender = record.gender.as_deref().filter(|gender| !gender.is_empty());
    let pairs = [
        one_fits(&query.names, |asked| fits_name(asked, &record.name)),
        one_fits(&query.birth_dates, |asked| own_date.map(|own| fits_date(asked, own))),
        one_fits(&query.genders, |asked| own_gender.map(|own| own.eq_ignore_ascii_case(asked))),
    ];
    let asked = pairs.iter().flatten();
    if asked.clone().any(|compared| *compared == Some(false)) {
        return None;
    }
    let (all, fitting) = (1 + asked.clone().count(), 1 + asked.filter(|compared| compared.is_some()).count());
    u8::try_from(100 * fitting / all).ok()
}

/// The value of a parameter for a supplier whose query has one place for it: with several the supplier answers by the
/// identifier, and [`degree`] narrows.
pub fn only<T>(alternatives: &[T]) -> Option<&T> {
    if let [only] = alternatives { Some(only) } else { None }
}

/// Whether one of the alternatives fits; `Some(None)` where none does and one could not be compared.
fn one_fits<T>(alternatives: &[T], fits: impl Fn(&T) -> Option<bool>) -> Option<Option<bool>> {
    let compared: Vec<Option<bool>> = alternatives.iter().map(fits).collect();
    match compared.as_slice() {
        [] => None,
        all if all.contains(&Some(true)) => Some(Some(true)),
        all if all.contains(&None) => Some(None),
        _ => Some(Some(false)),
    }
}

/// By the family name, or by the given names where a query says no other.
fn fits_name(asked: &PersonName, own: &PersonName) -> Option<bool> {
    let plain = |text: &str| Some(text.trim().to_lowercase()).filter(|text| !text.is_empty());
    if let Some(family) = plain(&asked.family) {
        return plain(&own.family).map(|own| own == family);
    }
    let known: Vec<String> = own.given.iter().filter_map(|given| plain(given)).collect();
    let fits = || asked.given.iter().filter_map(|given| plain(given)).all(|given| known.contains(&given));
    (!known.is_empty()).then(fits)
}

/// A year, a month or a day against another.
fn fits_date(asked: &str, own: &str) -> bool {
    let asked = asked.get(..8).unwrap_or(asked);
    let is_date = asked.len() >= 4 && asked.bytes().all(|b| b.is_ascii_digit());
    is_date && (own.starts_with(asked) || asked.starts_with(own))
}

#[cfg(test)]
mod tests {
    use ncp_ihe::{Oid, PatientId};

    use super::*;

    #[test]
    fn co_05_demographics_narrow_whoever_answers() {
        let oid = |text: &str| Oid::parse(text).expect("an OID");
        let id = PatientId::parse_cx("1^^^&2.999.1&ISO").expect("a CX");
        let query = |family: Option<&str>, born: Option<&str>, gender: Option<&str>| {
            let name = family.map(|family| PersonName { family: family.into(), given: Vec::new() });
            let text = |text: Option<&str>| text.map(ToOwned::to_owned);
            PatientQuery::new(oid("2.999.246"), oid("2.999.47"), vec![id.clone()], name, text(born), text(gender))
        };
        let record = |family: &str, born: Option<&str>, gender: Option<&str>| PatientRecord {
            id: id.clone(),
            other_ids: Vec::new(),
            name: PersonName { family: family.into(), given: Vec::new() },
            birth_date: born.map(ToOwned::to_owned),
            gender: gender.map(ToOwned::to_owned),
            address: None,
        };
        let whole = record("Testesen", Some("19770530"), Some("M"));
        for (asked, expected) in [
            (query(None, None, None), Some(100)),
            (query(Some("testesen"), Some("19770530"), Some("M")), Some(100)),
            (query(None, Some("1977"), None), Some(100)),
            (query(Some("Nordmann"), None, None), None),
            (query(None, Some("19770531"), None), None),
            (query(None, None, Some("F")), None),
        ] {
            assert_eq!(degree(&asked, &whole), expected);
        }
        let asked = query(Some("Testesen"), Some("19770530"), Some("M"));
        assert_eq!(degree(&asked, &record("", None, None)), Some(25), "nothing but the identifier was compared");
        assert_eq!(degree(&asked, &record("Testesen", None, Some("M"))), Some(75));
        assert_eq!(degree(&asked, &record("Testesen", None, Some("F"))), None);
    }
    /// WI-05.
    #[test]
    fn wi_05_one_alternative_more_removes_no_match() {
        let oid = |text: &str| Oid::parse(text).expect("an OID");
        let id = PatientId::parse_cx("1^^^&2.999.1&ISO").expect("a CX");
        let name = |family: &str, given: &[&str]| PersonName {
            family: family.into(),
            given: given.iter().map(ToString::to_string).collect(),
        };
        let record = PatientRecord {
            id: id.clone(),
            other_ids: Vec::new(),
            name: name("Testesen", &["Kari", "Anne"]),
            birth_date: Some("19770530".into()),
            gender: Some("F".into()),
            address: None,
        };
        let plain = PatientQuery::new(oid("2.999.246"), oid("2.999.47"), vec![id], None, None, None);
        let with = |names: &[PersonName], dates: &[&str], genders: &[&str]| PatientQuery {
            names: names.to_vec(),
            birth_dates: dates.iter().map(ToString::to_string).collect(),
            genders: genders.iter().map(ToString::to_string).collect(),
            ..plain.clone()
        };
        let (right, wrong) = (name("TESTESEN", &[]), name("Nordmann", &["Kari"]));
        for fitting in [
            with(&[right.clone(), wrong.clone()], &[], &[]),
            with(&[wrong.clone(), right.clone()], &[], &[]),
            with(&[name("", &["anne"])], &[], &[]),
            with(&[], &["19770531", "1977"], &["M", "f"]),
            with(&[], &["1977", "19770531"], &["f", "M"]),
        ] {
            assert_eq!(degree(&fitting, &record), Some(100), "{fitting:?}");
        }
        for other in [
            with(&[wrong.clone(), name("Hansen", &[])], &[], &[]),
            with(&[name("", &["Ola"])], &[], &[]),
            with(&[], &["19770531", "1978"], &[]),
            // What is no date fits nobody: every date begins with nothing.
            with(&[], &[""], &[]),
            with(&[], &["19"], &[]),
            with(&[], &[], &["M", "UN"]),
            PatientQuery { has_unreadable: true, ..plain.clone() },
        ] {
            assert_eq!(degree(&other, &record), None, "{other:?}");
        }
        assert_eq!((only(&[1, 2]), only(&[1]), only::<u8>(&[])), (None, Some(&1), None));
    }
}
