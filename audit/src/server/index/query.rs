//! A search of the index and the SQL that finds its rows.

use ncp_proto::audit::SearchRequest;

use super::super::database::Value;
use super::super::store::Place;
use super::{INDEXED, MOST, text};

/// What is searched: columns, tokens, bounds.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Column and value.
    pub columns: Vec<(&'static str, Value)>,
    /// Token and its values, any of.
    pub tokens: Vec<(&'static str, Vec<String>)>,
    /// Token and what its value begins with, any of; folded.
    pub strings: Vec<(&'static str, Vec<String>)>,
    /// Records themselves, any of.
    pub places: Option<Vec<Place>>,
    /// Event times from (inclusive) and to (exclusive), µs; 0: open.
    pub event_us: (i64, i64),
    /// Received before, µs; 0: open. Pages of one search share it, so that they do not shift.
    pub received_before: i64,
    /// Entries of a page.
    pub limit: u32,
    /// Entries before it.
    pub skip: u32,
    /// Oldest first.
    pub ascending: bool,
}

impl Search {
    /// As the gRPC query has it; `patient` is the keyed hash.
    pub(crate) fn of(filter: &SearchRequest, patient: &str) -> Self {
        let texts = [
            ("patient", patient),
            ("actor", filter.user.as_str()),
            ("purpose", filter.purpose.as_str()),
            ("kind", filter.transaction.as_str()),
            ("role", filter.role.as_str()),
            ("exchange", filter.exchange_id.as_str()),
            ("source", filter.source.as_str()),
            ("country", filter.country.as_str()),
            ("organisation", filter.organisation.as_str()),
        ];
        let mut columns: Vec<(&'static str, Value)> =
            texts.into_iter().filter(|(_, v)| !v.is_empty()).map(|(c, v)| (c, v.into())).collect();
        columns.extend(filter.emergency.then_some(("emergency", Value::Int(1))));
        columns.extend(filter.outcome.map(|outcome| ("outcome", Value::Int(outcome.into()))));
        let study = (!filter.study.is_empty()).then(|| ("study", vec![filter.study.clone()]));
        Self {
            columns,
            tokens: study.into_iter().collect(),
            event_us: (filter.from_us, filter.to_us),
            limit: if filter.limit == 0 { 100 } else { filter.limit.min(MOST) },
            skip: filter.skip,
            ..Self::default()
        }
    }
}

/// The rows that fit, of which `what` is selected.
pub(super) fn fitting(what: &str, search: &Search, collation: &str) -> (String, Vec<Value>) {
    let mut sql = format!("SELECT {what} FROM record WHERE 1 = 1");
    let mut values: Vec<Value> = Vec::new();
    let mut bind = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    for (column, value) in &search.columns {
        let value = if let Value::Text(value) = value { text(value) } else { value.clone() };
        let place = bind(value.clone());
        // Both the certificate's name and what the message says of itself are a source to who searches.
        sql.push_str(&match *column {
            "source" => {
                let again = bind(value.clone());
                format!(" AND (source = {place} OR sender = {again})")
            }
            column => format!(" AND {column} = {place}"),
        });
    }
    for (name, any) in &search.tokens {
        let name = bind((*name).into());
        let any: Vec<String> = any.iter().map(|v| bind(text(v))).collect();
        let any = any.join(",");
        sql.push_str(&format!(" AND id IN (SELECT record FROM token WHERE name = {name} AND value IN ({any}))"));
    }
    for (name, any) in &search.strings {
        let name = bind((*name).into());
        let begins = |text: &String| {
            // What is longer than the index has is compared as far as it has it.
            let text = &text[..text.floor_char_boundary(INDEXED - 65)];
            let (first, after) = (bind(text.into()), bind(format!("{text}{}", char::MAX).as_str().into()));
            // Said again, for a table that was made before its column had it.
            format!("(value COLLATE {collation} >= {first} AND value COLLATE {collation} < {after})")
        };
        let any = any.iter().map(begins).collect::<Vec<_>>().join(" OR ");
        sql.push_str(&format!(" AND id IN (SELECT record FROM token WHERE name = {name} AND ({any}))"));
    }
    let bounds = [
        ("event_us >=", search.event_us.0),
        ("event_us <", search.event_us.1),
        ("received_us <", search.received_before),
    ];
    for (operator, bound) in bounds.into_iter().filter(|(_, bound)| *bound != 0) {
        let place = bind(bound.into());
        sql.push_str(&format!(" AND {operator} {place}"));
    }
    if let Some(places) = &search.places {
        let any: Vec<String> = places
            .iter()
            .map(|at| {
                let (segment, place) = (bind((at.segment as i64).into()), bind((at.offset as i64).into()));
                format!("(segment = {segment} AND place = {place})")
            })
            .collect();
        sql.push_str(&format!(" AND ({})", if any.is_empty() { "1 = 0".to_owned() } else { any.join(" OR ") }));
    }
    (sql, values)
}
