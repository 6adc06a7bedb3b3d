//! A batch of the FHIR feed (ITI-20, ATX: FHIR Feed), read and answered entry by entry: what one entry costs is bounded,
//! and so is their number.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Entries of a batch at most.
pub(super) const MOST: usize = 1000;
/// Bytes of an answer that say why entries were refused; those behind them have their status.
const REASONS: usize = 16 << 10;

/// Why a batch is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    NotBundle,
    TooMany,
}

/// The resources of a batch as they are written; none for an entry without one.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Option<&str>>, Unread> {
    let bundle: Bundle<'_> = serde_json::from_slice(bytes).map_err(|_| Unread::NotBundle)?;
    if bundle.resource_type != "Bundle" {
        return Err(Unread::NotBundle);
    }
    if bundle.entry.more {
        return Err(Unread::TooMany);
    }
    Ok(bundle.entry.resources)
}

#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(rename = "resourceType", borrow)]
    resource_type: Cow<'a, str>,
    #[serde(borrow)]
    entry: Entries<'a>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
}

struct Entries<'a> {
    resources: Vec<Option<&'a str>>,
    more: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("entries")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut out = Entries { resources: Vec::new(), more: false };
                while out.resources.len() < MOST {
                    let Some(entry) = seq.next_element::<&RawValue>()? else { return Ok(out) };
                    // One that cannot be read is answered for itself.
                    let resource = serde_json::from_str::<Entry<'de>>(entry.get()).ok().and_then(|e| e.resource);
                    out.resources.push(resource.map(RawValue::get));
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    out.more = true;
                }
                Ok(out)
            }
        }
        deserializer.deserialize_seq(Each)
    }
}

/// What became of an entry.
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// Why it was refused; empty where it was not.
    pub(super) why: String,
}

/// The batch-response.
pub(super) fn answer(entries: impl Iterator<Item = Told>) -> String {
    let mut out = String::from("{\"resourceType\":\"Bundle\",\"type\":\"batch-response\",\"entry\":[");
    let mut room = REASONS;
    for (n, told) in entries.enumerate() {
        let separator = if n == 0 { "" } else { "," };
        out.push_str(&format!("{separator}{{\"response\":{{\"status\":\"{}\"", told.status));
        if let Some(url) = told.location {
            out.push_str(&format!(",\"location\":{}", serde_json::Value::from(url)));
        }
        if !told.why.is_empty() {
            let outcome = super::fhir_api::outcome("invalid", &told.why).to_string();
            if outcome.len() <= room {
                room -= outcome.len();
                out.push_str(&format!(",\"outcome\":{outcome}"));
            }
        }
        out.push_str("}}");
    }
    out + "]}"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &str) -> String {
        format!("{{\"entry\":[{entries}],\"type\":\"batch\",\"resourceType\":\"Bundle\"}}")
    }

    #[test]
    fn se_06_entries_are_read_one_by_one_and_have_a_bound() {
        let mixed = of("{},7,{\"resource\":null},{\"fullUrl\":\"x\",\"resource\": {\"a\" : 1}},{\"resource\":[]}");
        assert_eq!(read(mixed.as_bytes()), Ok(vec![None, None, None, Some("{\"a\" : 1}"), Some("[]")]));
        let many = |n: usize| of(&vec!["{}"; n].join(","));
        assert_eq!(read(many(MOST).as_bytes()).map(|e| e.len()), Ok(MOST));
        assert_eq!(read(many(MOST + 1).as_bytes()), Err(Unread::TooMany));
        for wrong in ["", "7", "{}", "[]", "{\"resourceType\":\"Bundle\"}", "{\"resourceType\":\"List\",\"entry\":[]}"]
        {
            assert_eq!(read(wrong.as_bytes()), Err(Unread::NotBundle), "{wrong}");
        }
    }

    #[test]
    fn se_06_an_answer_does_not_outgrow_what_was_sent() {
        let refused = || Told { status: 422, location: None, why: "x".repeat(300) };
        let told = answer(std::iter::repeat_with(refused).take(MOST));
        let value: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(value["entry"][0]["response"]["outcome"]["resourceType"], "OperationOutcome");
        assert_eq!(value["entry"][MOST - 1]["response"]["status"], "422");
        assert!(told.len() <= 4 * of(&vec!["{}"; MOST].join(",")).len() + (64 << 10), "{}", told.len());
    }
}
