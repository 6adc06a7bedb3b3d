//! A record in the spool: the query, which stands in both dialects as base64, is stored once, as it is.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::AuditRecord;

/// Where the query is left out; no XML has this character.
const MARK: &str = "\u{1}";
const OPEN: &str = "<ParticipantObjectQuery>";
const CLOSE: &str = "</ParticipantObjectQuery>";
/// A shorter query stays where it is, characters of base64.
const SHORT: usize = 1 << 10;

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    event_time_us: i64,
    xml: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ehdsi: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<Cow<'a, str>>,
    exchange_id: Cow<'a, str>,
    transaction: Cow<'a, str>,
    role: Cow<'a, str>,
    outcome: i32,
    patient: Cow<'a, str>,
    user: Cow<'a, str>,
    organisation: Cow<'a, str>,
    country: Cow<'a, str>,
    purpose: Cow<'a, str>,
    studies: Cow<'a, [String]>,
}

impl Serialize for AuditRecord {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let query = query_of(&self.xml).and_then(decoded);
        let encoded = query.as_ref().map(|(encoded, _)| encoded.as_str());
        Stored {
            event_time_us: self.event_time_us,
            xml: without(&self.xml, encoded),
            ehdsi: self.ehdsi.as_ref().map(|xml| without(xml, encoded)),
            query: query.as_ref().map(|(_, query)| Cow::Borrowed(query.as_str())),
            exchange_id: Cow::Borrowed(&self.exchange_id),
            transaction: Cow::Borrowed(&self.transaction),
            role: Cow::Borrowed(&self.role),
            outcome: self.outcome,
            patient: Cow::Borrowed(&self.patient),
            user: Cow::Borrowed(&self.user),
            organisation: Cow::Borrowed(&self.organisation),
            country: Cow::Borrowed(&self.country),
            purpose: Cow::Borrowed(&self.purpose),
            studies: Cow::Borrowed(&self.studies),
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for AuditRecord {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(from)?;
        let encoded = stored.query.map(|query| openssl::base64::encode_block(query.as_bytes()));
        let whole = |xml: Cow<'_, str>| match &encoded {
            Some(encoded) => xml.replacen(MARK, encoded, 1),
            None => xml.into_owned(),
        };
        Ok(Self {
            event_time_us: stored.event_time_us,
            xml: whole(stored.xml),
            ehdsi: stored.ehdsi.map(whole),
            exchange_id: stored.exchange_id.into_owned(),
            transaction: stored.transaction.into_owned(),
            role: stored.role.into_owned(),
            outcome: stored.outcome,
            patient: stored.patient.into_owned(),
            user: stored.user.into_owned(),
            organisation: stored.organisation.into_owned(),
            country: stored.country.into_owned(),
            purpose: stored.purpose.into_owned(),
            studies: stored.studies.into_owned(),
        })
    }
}

/// A message without its query, where it has this one.
fn without<'a>(xml: &'a str, encoded: Option<&str>) -> Cow<'a, str> {
    match encoded.filter(|encoded| query_of(xml) == Some(encoded)) {
        Some(encoded) => Cow::Owned(xml.replacen(encoded, MARK, 1)),
        None => Cow::Borrowed(xml),
    }
}

fn query_of(xml: &str) -> Option<&str> {
    let (_, rest) = xml.split_once(OPEN)?;
    rest.split_once(CLOSE).map(|(query, _)| query).filter(|query| query.len() >= SHORT)
}

/// The base64 and what it stands for, where it can be made again from that.
fn decoded(encoded: &str) -> Option<(String, String)> {
    let query = String::from_utf8(openssl::base64::decode_block(encoded).ok()?).ok()?;
    (openssl::base64::encode_block(query.as_bytes()) == encoded).then(|| (encoded.to_owned(), query))
}
