//! Who issues the ids of a patient, as an archive says it in DICOM JSON (PS3.18 F.2): every value and every item is read,
//! or nobody knows whose the id is. In what is passed over another issuer might stand.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::json::kept;

/// Further ids of one patient.
pub(super) const OTHER_IDS: usize = 256;
/// Values of one attribute.
const VALUES: usize = 256;

/// All values of an attribute of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Texts {
    all: Vec<Box<str>>,
    /// There is something that is no text, or more than is read.
    unread: bool,
}

impl Texts {
    /// The values; none when there is anything that cannot be read.
    pub(super) fn get(&self) -> Option<&[Box<str>]> {
        (!self.unread).then_some(&self.all)
    }

    /// What the attribute says where it should have one value: a text that is no such value where it has several, or one
    /// that cannot be read.
    pub(super) fn one(&self) -> Option<String> {
        match self.get() {
            None => Some("?".into()),
            Some([]) => None,
            Some(all) => Some(all.join("\\")),
        }
    }

    fn of(attribute: &Value) -> Self {
        let mut out = Self::default();
        match values(attribute) {
            Some(values) => values.iter().for_each(|value| out.add(value)),
            None => out.unread = true,
        }
        out
    }

    fn add(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) => match kept(text) {
                Some(text) if self.all.len() < VALUES => self.all.push(text.into()),
                None if text.trim_matches(['\0', ' ']).is_empty() => {}
                _ => self.unread = true,
            },
            Value::Number(number) => self.add(&Value::String(number.to_string())),
            _ => self.unread = true,
        }
    }

    fn extend(&mut self, other: Self) {
        self.unread |= other.unread || self.all.len() + other.all.len() > VALUES;
        self.all.extend(other.all.into_iter().take(VALUES));
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|attribute| Self::of(&attribute))
    }
}

/// Universal Entity IDs (0040,0032) of an Issuer of Patient ID Qualifiers Sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Qualifiers(pub(super) Texts);

impl<'de> Deserialize<'de> for Qualifiers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let attribute = Value::deserialize(deserializer)?;
        let mut out = Texts::default();
        let Some(items) = values(&attribute) else { return Ok(Self(Texts { unread: true, ..out })) };
        for item in items {
            match item {
                Value::Null => {}
                Value::Object(item) => {
                    let id = item.get("00400032").map(Texts::of);
                    id.into_iter().for_each(|id| out.extend(id));
                }
                _ => out.unread = true,
            }
        }
        Ok(Self(out))
    }
}

/// Items of the Other Patient IDs Sequence (0010,1002).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OtherIds {
    pub(super) all: Vec<OtherId>,
    /// There is something that is no item.
    pub(super) unread: bool,
}

/// One of them: an id and its issuer, in the same attributes as the patient's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct OtherId {
    #[serde(rename = "00100020")]
    pub(super) id: Texts,
    #[serde(rename = "00100021")]
    pub(super) issuer: Texts,
    #[serde(rename = "00100024")]
    pub(super) issuer_universal: Qualifiers,
}

impl OtherId {
    /// Whether it is this id, or may be.
    pub(super) fn may_be(&self, id: &str) -> bool {
        self.id.get().is_none_or(|all| all.iter().any(|one| **one == *id))
    }
}

impl<'de> Deserialize<'de> for OtherIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let attribute = Value::deserialize(deserializer)?;
        let Some(items) = values(&attribute) else { return Ok(Self { unread: true, ..Self::default() }) };
        // One that is not looked at might name another issuer.
        if items.len() > OTHER_IDS {
            return Err(D::Error::custom("more ids of one patient than the limit"));
        }
        let mut out = Self::default();
        for item in items.iter().filter(|item| !item.is_null()) {
            match OtherId::deserialize(item) {
                Ok(other) => out.all.push(other),
                Err(_) => out.unread = true,
            }
        }
        Ok(out)
    }
}

/// The values of an attribute; none where they stand elsewhere (PS3.18 F.2.2), or are no list.
fn values(attribute: &Value) -> Option<&[Value]> {
    let attribute = attribute.as_object()?;
    match attribute.get("Value") {
        Some(Value::Array(values)) => Some(values),
        Some(Value::Null) => Some(&[]),
        Some(_) => None,
        None if ["BulkDataURI", "InlineBinary"].iter().any(|name| attribute.contains_key(*name)) => None,
        None => Some(&[]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::national::dicomweb::json::VALUE;

    fn texts(attribute: Value) -> Option<Vec<String>> {
        let texts = Texts::deserialize(&attribute).expect("read");
        texts.get().map(|all| all.iter().map(ToString::to_string).collect())
    }

    fn qualifiers(attribute: Value) -> Option<Vec<String>> {
        let Qualifiers(texts) = Qualifiers::deserialize(&attribute).expect("read");
        texts.get().map(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn im_01_every_value_is_read_or_none() {
        for (attribute, right) in [
            (json!({ "vr": "LO" }), Some(vec![])),
            (json!({ "vr": "LO", "Value": [] }), Some(vec![])),
            (json!({ "vr": "LO", "Value": null }), Some(vec![])),
            (json!({ "vr": "LO", "Value": [null, " A ", "", "B", 7] }), Some(vec!["A", "B", "7"])),
            (json!({ "vr": "LO", "Value": "A" }), None),
            (json!({ "vr": "LO", "Value": ["A", { "Alphabetic": "B" }] }), None),
            (json!({ "vr": "LO", "Value": ["A", ["B"]] }), None),
            (json!({ "vr": "LO", "Value": ["A", true] }), None),
            (json!({ "vr": "LO", "Value": ["A", "B\n"] }), None),
            (json!({ "vr": "LO", "Value": ["A".repeat(VALUE + 1)] }), None),
            (json!({ "vr": "LO", "Value": vec!["A"; VALUES + 1] }), None),
            (json!({ "vr": "LO", "BulkDataURI": "https://a.example/b" }), None),
            (json!({ "vr": "UN", "InlineBinary": "QQ==" }), None),
            (json!("A"), None),
        ] {
            let right: Option<Vec<String>> = right.map(|all| all.into_iter().map(str::to_owned).collect());
            assert_eq!(texts(attribute.clone()), right, "{attribute}");
        }
        let item = |universal: Value| json!({ "00400032": { "vr": "UT", "Value": [universal] } });
        let of = |items: &[Value]| json!({ "vr": "SQ", "Value": items });
        let own = |all: &[&str]| Some(all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        let facility = json!({ "00400035": { "vr": "CS", "Value": ["PI"] } });
        assert_eq!(qualifiers(of(&[item(json!("1.2")), facility, Value::Null])), own(&["1.2"]));
        assert_eq!(qualifiers(of(&[item(json!("1.2")), item(json!("1.3"))])), own(&["1.2", "1.3"]));
        for wrong in [json!("1.3"), json!([]), item(json!({})), item(json!(["1.3"]))] {
            assert_eq!(qualifiers(of(&[item(json!("1.2")), wrong.clone()])), None, "{wrong}");
        }
        assert_eq!(qualifiers(json!({ "vr": "SQ", "Value": { "00400032": 1 } })), None);
    }

    #[test]
    fn im_08_of_several_values_none_is_the_one() {
        let one = |values: Value| Texts::of(&json!({ "Value": values })).one();
        assert_eq!(one(json!([])), None);
        assert_eq!(one(json!(["20260102"])).as_deref(), Some("20260102"));
        assert_eq!(one(json!([20_260_102])).as_deref(), Some("20260102"));
        assert_eq!(one(json!(["20260102", "20270102"])).as_deref(), Some("20260102\\20270102"));
        assert_eq!(one(json!([{}])).as_deref(), Some("?"));
    }
}
