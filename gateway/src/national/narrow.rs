//! Demographics narrow whoever answers: the country's file, ITI-47, ITI-119 or a service (ITI TF-2: 3.55.4.1.2.1).

use ncp_ihe::{PatientQuery, PatientRecord};

/// How much of what was asked was compared and fits, in percent; the identifier counts as one. `None` when something
/// contradicts. What the record does not tell is not compared.
pub fn degree(query: &PatientQuery, record: &PatientRecord) -> Option<u8> {
    let family = query.name.as_ref().map(|name| name.family.trim().to_lowercase()).filter(|family| !family.is_empty());
    let told = |text: &str| Some(text.trim().to_lowercase()).filter(|text| !text.is_empty());
    let asked_date = query.birth_date.as_deref().map(|date| date.get(..8).unwrap_or(date)).filter(|d| !d.is_empty());
    let own_date = record.birth_date.as_deref().filter(|date| !date.is_empty());
    let pairs = [
        family.map(|asked| told(&record.name.family).map(|own| own == asked)),
        asked_date.map(|asked| own_date.map(|own| own.starts_with(asked) || asked.starts_with(own))),
        query.gender.as_deref().map(|asked| record.gender.as_deref().map(|own| own.eq_ignore_ascii_case(asked))),
    ];
    let asked = pairs.iter().flatten();
    if asked.clone().any(|compared| *compared == Some(false)) {
        return None;
    }
    let (all, fitting) = (1 + asked.clone().count(), 1 + asked.filter(|compared| compared.is_some()).count());
    u8::try_from(100 * fitting / all).ok()
}

#[cfg(test)]
mod tests {
    use ncp_ihe::{Oid, PatientId, PersonName};

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
}
