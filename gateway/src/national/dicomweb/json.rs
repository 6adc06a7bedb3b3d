//! What QIDO-RS and WADO-RS metadata say, in DICOM JSON (PS3.18 F.2): the attributes that are used, nothing else is kept.

use std::fmt;

use ncp_ihe::{PatientClaim, Uid, issuer_parts};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::issuers::{OtherIds, Qualifiers, Texts};

/// The longest value that is kept.
pub(super) const VALUE: usize = 1024;

/// One match of a search, or one object of a metadata answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Found {
    #[serde(rename = "00080016")]
    pub(super) sop_class: Text,
    #[serde(rename = "00080018")]
    pub(super) sop_instance: Text,
    #[serde(rename = "00080020")]
    pub(super) study_date: Texts,
    #[serde(rename = "00080030")]
    pub(super) study_time: Texts,
    #[serde(rename = "00080050")]
    pub(super) accession: Text,
    #[serde(rename = "00080060")]
    pub(super) modality: Text,
    #[serde(rename = "00080201")]
    pub(super) timezone: Text,
    #[serde(rename = "00081030")]
    pub(super) study_description: Text,
    #[serde(rename = "0008103E")]
    pub(super) series_description: Text,
    #[serde(rename = "00083002")]
    pub(super) transfer_syntax: Text,
    #[serde(rename = "00100010")]
    pub(super) patient_name: Text,
    #[serde(rename = "00100020")]
    pub(super) patient_id: Text,
    /// Issuer of Patient ID.
    #[serde(rename = "00100021")]
    pub(super) issuer: Texts,
    #[serde(rename = "00100024")]
    pub(super) issuer_universal: Qualifiers,
    #[serde(rename = "00100030")]
    pub(super) birth_date: Text,
    #[serde(rename = "00100040")]
    pub(super) sex: Text,
    #[serde(rename = "00101002")]
    pub(super) other_ids: OtherIds,
    #[serde(rename = "0020000D")]
    pub(super) study: Text,
    #[serde(rename = "0020000E")]
    pub(super) series: Text,
    #[serde(rename = "00200011")]
    pub(super) series_number: Text,
    #[serde(rename = "00200013")]
    pub(super) instance_number: Text,
    #[serde(rename = "00201208")]
    pub(super) study_instances: Text,
    #[serde(rename = "00280008")]
    pub(super) frames: Text,
}

impl Found {
    /// Whose it says that it is. Other issuers of the same id count as its own: both cannot be meant. None where an issuer
    /// cannot be read: nobody knows whose it is.
    pub(super) fn claim(&self) -> Option<PatientClaim> {
        let text = |text: &Text| text.owned().unwrap_or_default();
        let id = text(&self.patient_id);
        let (mut namespaces, mut universals) = (Vec::new(), Vec::new());
        if self.other_ids.unread {
            return None;
        }
        let own = (&self.issuer, &self.issuer_universal);
        let others = self.other_ids.all.iter().filter(|other| other.may_be(&id));
        for (issuer, Qualifiers(by)) in
            std::iter::once(own).chain(others.map(|other| (&other.issuer, &other.issuer_universal)))
        {
            for issuer in issuer.get()? {
                let (namespace, universal) = issuer_parts(issuer);
                namespaces.push(namespace);
                universals.push(universal);
            }
            // Without a prefix, as in an object.
            universals.extend(by.get()?.iter().map(|by| issuer_parts(by).0));
        }
        let list = |names: Vec<String>| names.into_iter().filter(|name| !name.is_empty()).collect();
        Some(PatientClaim {
            id,
            namespaces: list(namespaces),
            universals: list(universals),
            birth_date: text(&self.birth_date),
            name: text(&self.patient_name),
            sex: text(&self.sex),
        })
    }
}

/// A value without padding; none of one that is empty, too long, or has control characters.
pub(super) fn kept(text: &str) -> Option<&str> {
    let text = text.trim_matches(['\0', ' ']);
    let kept = !text.is_empty() && text.len() <= VALUE && !text.chars().any(char::is_control);
    kept.then_some(text)
}

/// First value of an attribute as text; a person name with all its component groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text(Option<Box<str>>);

impl Text {
    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    pub(super) fn owned(&self) -> Option<String> {
        self.get().map(ToOwned::to_owned)
    }

    pub(super) fn uid(&self) -> Option<Uid> {
        Uid::parse(self.get()?).ok()
    }

    pub(super) fn number(&self) -> Option<u32> {
        self.get()?.parse().ok()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Some(text.into()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Attribute {
            #[serde(rename = "Value", default)]
            value: First,
        }
        Ok(Attribute::deserialize(deserializer)?.value.0)
    }
}

#[derive(Default)]
struct First(Text);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = First;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the values of an attribute")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<First, A::Error> {
                let first = values.next_element::<Scalar>()?.map(|s| s.0).unwrap_or_default();
                while values.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
            fn visit_unit<E: Error>(self) -> Result<First, E> {
                Ok(First::default())
            }
        }
        deserializer.deserialize_any(Values)
    }
}

#[derive(Default)]
struct Scalar(Text);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> Visitor<'de> for Value {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(Text(kept(text).map(Into::into))))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_bool<E: Error>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar::default())
            }
            fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
                Ok(Scalar::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Scalar, A::Error> {
                while values.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                let mut groups: [Text; 3] = Default::default();
                while let Some(key) = map.next_key::<Box<str>>()? {
                    let group = ["Alphabetic", "Ideographic", "Phonetic"].iter().position(|group| **group == *key);
                    if let Some(group) = group {
                        groups[group] = map.next_value::<Scalar>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                let name = groups.map(|group| group.owned().unwrap_or_default()).join("=");
                match name.trim_end_matches('=') {
                    "" => Ok(Scalar::default()),
                    name => Ok(Scalar(name.into())),
                }
            }
        }
        deserializer.deserialize_any(Value)
    }
}

/// An object of an answer: nothing else is taken for one.
struct Object(Found);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a DICOM JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object, A::Error> {
                Found::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The objects of an answer, at most `most` of them.
///
/// # Errors
/// No DICOM JSON; more objects.
pub(super) fn read(bytes: &[u8], most: usize) -> Result<Vec<Found>, serde_json::Error> {
    struct Matches(usize);
    impl<'de> Visitor<'de> for Matches {
        type Value = Vec<Found>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of DICOM JSON objects")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut objects: A) -> Result<Vec<Found>, A::Error> {
            let mut out = Vec::new();
            while let Some(Object(object)) = objects.next_element()? {
                if out.len() == self.0 {
                    return Err(A::Error::custom("more objects than the limit"));
                }
                out.push(object);
            }
            Ok(out)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let found = reader.deserialize_seq(Matches(most))?;
    reader.end()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::national::dicomweb::issuers::OTHER_IDS;

    #[test]
    fn values_of_every_form_are_read() {
        let answer = r#"[{
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Hansen^Ola", "Ideographic": "x"}]},
            "00100020": {"vr": "LO", "Value": ["P1 "]},
            "00100021": {"vr": "LO", "Value": ["HOSPITAL-A"]},
            "00100024": {"vr": "SQ", "Value": [{
                "00400032": {"vr": "UT", "Value": ["2.999.1"]}, "00400033": {"vr": "CS", "Value": ["ISO"]}
            }]},
            "00200013": {"vr": "IS", "Value": [7]},
            "00280008": {"vr": "IS", "Value": ["12"]},
            "00080050": {"vr": "SH"},
            "00080060": {"vr": "CS", "Value": []},
            "00081030": {"vr": "LO", "Value": [null, "second"]},
            "00081140": {"vr": "SQ", "Value": [{"00081150": {"vr": "UI", "Value": ["1.2"]}}]},
            "0020000D": {"vr": "UI", "Value": ["not a uid"]}
        }]"#;
        let found = read(answer.as_bytes(), 10).expect("reads").remove(0);
        assert_eq!(found.patient_name.get(), Some("Hansen^Ola=x"));
        assert_eq!(found.patient_id.get(), Some("P1"));
        let told = found.claim().expect("read");
        assert_eq!((told.namespaces, told.universals), (vec!["HOSPITAL-A".to_owned()], vec!["2.999.1".to_owned()]));
        let urn = answer.replace("\"2.999.1\"", "\"urn:oid:2.999.1\"");
        let urn = read(urn.as_bytes(), 10).expect("reads").remove(0);
        assert_eq!(urn.claim(), found.claim(), "IM-01");
        assert_eq!((found.instance_number.number(), found.frames.number()), (Some(7), Some(12)));
        for absent in [&found.accession, &found.modality, &found.study_description, &found.sop_class] {
            assert_eq!(absent.get(), None);
        }
        assert_eq!(found.study.uid(), None);
    }

    /// IM-01: for the id at hand the items of (0010,1002) name issuers too; those of other ids say nothing of it.
    #[test]
    fn im_01_other_issuers_of_the_same_id_are_claimed() {
        let other = |id: &str, issuer: &str, universal: &str| {
            format!(
                r#"{{"00100020":{{"vr":"LO","Value":["{id}"]}},"00100021":{{"vr":"LO","Value":["{issuer}"]}},"00100024":
                {{"vr":"SQ","Value":[{{"00400032":{{"vr":"UT","Value":["{universal}"]}}}}]}}}}"#
            )
        };
        let answer = |others: &str| {
            let text =
                format!(r#"[{{"00100020":{{"vr":"LO","Value":["P1"]}},"00101002":{{"vr":"SQ","Value":[{others}]}}}}]"#);
            read(text.as_bytes(), 10)
        };
        let read_claim = |others: &str| answer(others).expect("reads").remove(0).claim();
        let claim = |others: &str| read_claim(others).expect("read");
        let told = claim(&[other("P1", "HOSPITAL-B", "2.999.2"), other("P2", "C", "2.999.3"), "null".into()].join(","));
        assert_eq!((told.namespaces, told.universals), (vec!["HOSPITAL-B".to_owned()], vec!["2.999.2".to_owned()]));
        assert_eq!(claim(""), PatientClaim { id: "P1".into(), ..PatientClaim::default() });
        // Of an id that cannot be read it may be this one; what of another id cannot be read says nothing.
        let unread = |id: &str| {
            read_claim(&format!(
                r#"{{"00100020":{{"vr":"LO","Value":[{id}]}},"00100024":{{"vr":"SQ","Value":["2.999.3"]}}}}"#
            ))
        };
        assert_eq!((unread("\"P1\""), unread("{}"), unread("\"P2\"").is_some()), (None, None, true));
        assert_eq!(read_claim("7"), None);
        let many = |count: usize| answer(&vec![other("P2", "C", ""); count].join(","));
        assert!(many(OTHER_IDS).is_ok() && many(OTHER_IDS + 1).is_err());
        let empty = br#"[{"00101002":{"vr":"SQ"}},{"00101002":{"vr":"SQ","Value":null}}]"#;
        assert_eq!(read(empty, 10).map(|found| found.len()).ok(), Some(2));
    }

    #[test]
    fn an_answer_is_bounded_and_an_array() {
        assert!(read(b"[{},{},{}]", 2).is_err());
        assert!(read(b"{}", 2).is_err());
        assert!(read(b"[[]]", 2).is_err() && read(b"[[[[]]]]", 2).is_err() && read(b"[null]", 2).is_err());
        assert!(read(b"[{}] x", 2).is_err());
        assert!(read(b"[{", 2).is_err());
        // What is not wanted is stepped over without recursion.
        let deep = format!("[{{\"00081140\": {}1{}}}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(deep.as_bytes(), 2).map(|found| found.len()).ok(), Some(1));
    }
}
