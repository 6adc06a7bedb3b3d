//! Under which ids, of which issuers, the objects of a person may stand. NCP-A and NCP-B compare by the same keys: A with
//! those of its register, B with those that the manifest tells.

use std::collections::BTreeSet;

use ncp_ihe::{IssuedId, PatientClaim, PatientId, issuer_parts};

/// A Patient ID (0010,0020) with what its issuer may be called.
#[derive(Clone, PartialEq, Eq)]
pub struct PatientKey {
    /// The id.
    pub id: String,
    /// What (0010,0021) may say; `None` where no name is known, so that none contradicts.
    pub namespaces: Option<Vec<String>>,
    /// What (0010,0024) may say; likewise.
    pub universals: Option<Vec<String>>,
    /// Whether an object that says no issuer means this one.
    pub implied: bool,
}

impl std::fmt::Debug for PatientKey {
    /// Never the id: values of this type end up in debug output.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatientKey").field("implied", &self.implied).finish_non_exhaustive()
    }
}

impl PatientKey {
    /// An id of which the issuer is not known.
    pub fn unissued(id: &str) -> Self {
        Self { id: id.to_owned(), namespaces: None, universals: None, implied: true }
    }

    /// The keys of the ids that a manifest tells. One id may stand there several times: objects may say each of the
    /// issuers that are told for it. Where none of a kind is told for an id, there is nothing that could contradict.
    pub fn told(ids: &[IssuedId]) -> Vec<Self> {
        let different: BTreeSet<&str> = ids.iter().map(|issued| issued.id.as_str()).collect();
        let of = |id: &str| {
            let (mut namespaces, mut universals) = (Vec::new(), Vec::new());
            for issued in ids.iter().filter(|issued| issued.id == id) {
                let (namespace, universal) = issuer_parts(issued.label.as_deref().unwrap_or_default());
                namespaces.push(namespace);
                universals.push(universal);
                universals.extend(issued.issuer.as_ref().map(|issuer| issuer.as_str().to_owned()));
            }
            let some = |mut list: Vec<String>| {
                list.retain(|name| !name.is_empty());
                (!list.is_empty()).then_some(list)
            };
            Self { id: id.to_owned(), namespaces: some(namespaces), universals: some(universals), implied: true }
        };
        different.into_iter().map(of).collect()
    }

    /// The key of an id in a document's metadata (CX): its authority is an OID.
    pub fn of(id: &PatientId) -> Self {
        let universals = Some(vec![id.root.to_string()]);
        Self { universals, ..Self::unissued(&id.extension) }
    }

    /// Whether an id that a manifest tells means the person of the key.
    pub fn is(&self, issued: &IssuedId) -> bool {
        let (namespace, universal) = issuer_parts(issued.label.as_deref().unwrap_or_default());
        let issuer = issued.issuer.as_ref().map(|issuer| issuer.as_str().to_owned());
        let list = |names: Vec<String>| names.into_iter().filter(|name| !name.is_empty()).collect();
        self.accepts(&PatientClaim {
            id: issued.id.clone(),
            namespaces: list(vec![namespace]),
            universals: list(std::iter::once(universal).chain(issuer).collect()),
            ..PatientClaim::default()
        })
    }

    /// Whether an object that claims this patient means the person of the key.
    pub fn accepts(&self, claim: &PatientClaim) -> bool {
        let known = |names: &Option<Vec<String>>, said: &[String]| {
            names.as_ref().is_none_or(|names| said.iter().all(|name| names.contains(name)))
        };
        let says_none = claim.namespaces.is_empty() && claim.universals.is_empty();
        claim.id == self.id
            && (self.implied || !says_none)
            && known(&self.namespaces, &claim.namespaces)
            && known(&self.universals, &claim.universals)
    }
}

/// What is known of a person beside her ids.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// `YYYYMMDD`
    pub birth_date: Option<String>,
    /// `M`, `F` or another word.
    pub sex: Option<String>,
    /// Family name.
    pub family: Option<String>,
}

impl std::fmt::Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Person").finish_non_exhaustive()
    }
}

impl Person {
    /// Why an object whose id fits is somebody else's. A birth date decides; where the object says neither that nor an
    /// issuer, sex and family name must not differ. A name alone hides nothing: names are written in many ways.
    pub fn contradicted(&self, claim: &PatientClaim) -> Option<&'static str> {
        if !claim.birth_date.is_empty() {
            let differs = self.birth_date.as_ref().is_some_and(|date| day(date) != day(&claim.birth_date));
            return differs.then_some("its birth date is another than the register's");
        }
        if !claim.namespaces.is_empty() || !claim.universals.is_empty() {
            return None;
        }
        let sexes = (self.sex.as_deref(), claim.sex.as_str());
        if matches!(sexes, (Some("M"), "F") | (Some("F"), "M")) {
            return Some("it says no issuer and no birth date, and another sex");
        }
        let family = |name: &str| name.split('^').next().unwrap_or_default().trim().to_lowercase();
        let mut groups = claim.name.split('=').map(family).filter(|family| !family.is_empty()).peekable();
        let own = self.family.as_deref().map(|name| name.trim().to_lowercase());
        let differs = groups.peek().is_some() && own.is_some_and(|own| groups.all(|family| family != own));
        differs.then_some("it says no issuer and no birth date, and another family name")
    }
}

/// A day as DICOM, HL7 v2 and FHIR write it: `19770530`, `1977.05.30` as before DICOM 3.0, with a time behind it, `1977-05-30`.
fn day(date: &str) -> String {
    date.chars().filter(|c| !matches!(c, '.' | '-')).take(8).collect()
}

#[cfg(test)]
mod tests {
    use ncp_ihe::Oid;

    use super::*;

    fn claim(id: &str, namespace: &str, universal: &str) -> PatientClaim {
        let list = |text: &str| text.split(' ').filter(|t| !t.is_empty()).map(str::to_owned).collect();
        PatientClaim {
            id: id.into(),
            namespaces: list(namespace),
            universals: list(universal),
            ..PatientClaim::default()
        }
    }

    #[test]
    fn im_01_an_id_is_one_within_its_issuer() {
        let names = Some(vec!["A".to_owned(), "2.999.1".to_owned()]);
        let own = PatientKey { id: "1".into(), namespaces: names.clone(), universals: names, implied: true };
        for fits in [claim("1", "", ""), claim("1", "A", ""), claim("1", "", "2.999.1"), claim("1", "A", "2.999.1")] {
            assert!(own.accepts(&fits));
        }
        for (text, right) in [
            ("A", ("A", "")),
            ("urn:oid:2.999.1", ("2.999.1", "")),
            ("^^^A&2.999.1&ISO", ("A", "2.999.1")),
            ("&urn:oid:2.999.1&ISO", ("", "2.999.1")),
        ] {
            let (namespace, universal) = issuer_parts(text);
            assert_eq!((namespace.as_str(), universal.as_str()), right, "{text}");
            assert!(own.accepts(&claim("1", &namespace, &universal)), "{text}");
        }
        for other in [claim("2", "A", ""), claim("1", "B", ""), claim("1", "A", "2.999.2"), claim("1", "A B", "")] {
            assert!(!own.accepts(&other));
        }
        let elsewhere = PatientKey { implied: false, ..own };
        assert!(!elsewhere.accepts(&claim("1", "", "")) && elsewhere.accepts(&claim("1", "A", "")));
    }

    #[test]
    fn im_01_a_birth_date_is_a_day_however_it_is_written() {
        let person = |date: &str| Person { birth_date: Some(date.into()), ..Person::default() };
        let born = |date: &str| PatientClaim { birth_date: date.into(), ..PatientClaim::default() };
        for (register, object) in [("19770530", "1977.05.30"), ("1977-05-30", "19770530"), ("197705301200", "19770530")]
        {
            assert_eq!(person(register).contradicted(&born(object)), None, "{register} {object}");
        }
        for object in ["19770531", "1977.05.03", "00000000", "1977"] {
            assert!(person("19770530").contradicted(&born(object)).is_some(), "{object}");
        }
    }

    /// IM-09: what the manifest tells of an id is compared, what it does not tell contradicts nothing.
    #[test]
    fn im_09_keys_are_those_of_the_manifest() {
        let issued = |id: &str, label: Option<&str>, oid: Option<&str>| IssuedId {
            label: label.map(str::to_owned),
            ..IssuedId::new(id, oid.map(|oid| Oid::parse(oid).expect("an OID")))
        };
        let keys = PatientKey::told(&[
            issued("N", None, Some("2.999.9")),
            issued("1", None, None),
            issued("1", Some("A"), None),
            issued("1", Some("A-OLD&2.999.3&ISO"), None),
            issued("OLD", None, None),
        ]);
        let accepted = |claim: &PatientClaim| keys.iter().any(|key| key.accepts(claim));
        for fits in [("1", "", ""), ("1", "A", ""), ("1", "A-OLD", "2.999.3"), ("OLD", "B", ""), ("N", "x", "2.999.9")]
        {
            assert!(accepted(&claim(fits.0, fits.1, fits.2)), "{fits:?}");
        }
        for other in [("1", "B", ""), ("1", "A", "2.999.4"), ("N", "", "2.999.8"), ("3", "", "")] {
            assert!(!accepted(&claim(other.0, other.1, other.2)), "{other:?}");
        }
    }

    #[test]
    fn im_01_without_issuer_and_birth_date_sex_and_family_decide() {
        let person =
            Person { birth_date: Some("19770530".into()), sex: Some("M".into()), family: Some("Testesen".into()) };
        let says = |birth: &str, sex: &str, name: &str, issuer: &str| {
            let (birth_date, sex, name) = (birth.into(), sex.into(), name.into());
            person.contradicted(&PatientClaim { birth_date, sex, name, ..claim("1", issuer, "") })
        };
        assert_eq!(says("19770530", "F", "DOE^John", ""), None);
        assert_eq!(says("", "F", "SMITH^Jane", "A"), None);
        assert_eq!(says("", "O", "TESTESEN^J", ""), None);
        assert_eq!(says("", "", "", ""), None);
        assert_eq!(says("", "M", "Yamada^Tarou=testesen^x", ""), None);
        assert!(says("19770531", "M", "Testesen^Jon", "A").is_some());
        assert!(says("", "F", "", "").is_some());
        assert!(says("", "M", "SMITH^Jane", "").is_some());
    }
}
