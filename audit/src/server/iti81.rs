//! The parameters of ITI-81 (Add RESTful ATNA), in the plain and in the `.identifier` form.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::database::Value;
use super::index::{MOST, Search, folded};
use super::store::Place;

/// What is understood, and its FHIR type.
pub(super) const PARAMETERS: [(&str, &str); 22] = [
    ("_id", "token"),
    ("date", "date"),
    ("address", "string"),
    ("agent", "reference"),
    ("agent.identifier", "token"),
    ("agent-name", "string"),
    ("agent-role", "token"),
    ("altid", "token"),
    ("patient", "reference"),
    ("patient.identifier", "token"),
    ("entity", "reference"),
    ("entity.identifier", "token"),
    ("entity-name", "string"),
    ("entity-type", "token"),
    ("entity-role", "token"),
    ("site", "token"),
    ("source", "reference"),
    ("source.identifier", "token"),
    ("type", "token"),
    ("subtype", "token"),
    ("outcome", "token"),
    ("action", "token"),
];

/// The names and values of a query may be so long, bytes: the links of its answer repeat them twice, escaped.
pub(super) const LONGEST: usize = 16 << 10;
/// Parameters of a query, each of which is a search of its own, and their values all together.
const PARAMETERS_AT_MOST: usize = 32;
const VALUES_AT_MOST: usize = 256;

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("The parameter date is required, as date=ge2026-11-01.")]
    NoDate,
    #[error("The parameter {0} is not supported.")]
    Unknown(String),
    #[error("The value of {0} cannot be read.")]
    Value(&'static str),
    #[error("Too many values.")]
    TooMany,
    #[error("The token is for another patient.")]
    OtherPatient,
}

impl QueryError {
    /// IssueType.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NoDate => "required",
            Self::Unknown(_) => "not-supported",
            Self::Value(_) => "value",
            Self::TooMany => "too-costly",
            Self::OtherPatient => "forbidden",
        }
    }
}

/// A query that was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Parameters {
    /// As it came, without paging.
    query: Vec<(String, String)>,
    tokens: Vec<(&'static str, Vec<String>)>,
    strings: Vec<(&'static str, Vec<String>)>,
    sources: Vec<String>,
    /// CX of each parameter's alternatives.
    patients: Vec<Vec<String>>,
    entities: Vec<Vec<String>>,
    from_us: i64,
    to_us: i64,
    ascending: bool,
    /// Records asked for by `_id`.
    ids: Option<Vec<Place>>,
    /// The patient whose own trail is read.
    own: Option<String>,
    received_before: i64,
    /// Entries before this page.
    pub(super) skip: u32,
    /// Entries of a page.
    pub(super) count: u32,
    /// How many there are on all pages is asked for.
    pub(super) total: bool,
    /// And nothing else.
    pub(super) total_alone: bool,
}

impl Parameters {
    /// Reads the query of a URL; of a patient who reads her own trail, CX, nothing else is shown, and no date is needed.
    pub(super) fn read(query: &str, own: Option<&str>) -> Result<Self, QueryError> {
        let mut out = Self {
            own: own.map(str::to_owned),
            count: 50,
            received_before: Timestamp::now().as_microsecond() + 1,
            from_us: i64::MIN,
            to_us: i64::MAX,
            ..Self::default()
        };
        let (mut dated, mut valued, mut bytes) = (false, 0, 0);
        for (name, value) in pairs(query) {
            // FHIR R4 asks for a reference by identifier with a modifier, ITI-81 with a chained parameter.
            let name = name.replace(":identifier", ".identifier");
            // Which page of a search it is belongs to no search.
            if name != "_page" {
                (valued, bytes) = (valued + 1 + value.matches(',').count(), bytes + name.len() + value.len());
                let many = out.query.len() >= PARAMETERS_AT_MOST || valued > VALUES_AT_MOST;
                if many || bytes > LONGEST {
                    return Err(QueryError::TooMany);
                }
            }
            if value.len() > 4096 {
                return Err(QueryError::TooMany);
            }
            // A parameter without a value says nothing (FHIR R4 3.1.1.2).
            if value.is_empty() {
                continue;
            }
            let values = || value.split(',').filter(|v| !v.is_empty()).map(bare).collect::<Vec<String>>();
            match name.as_str() {
                "date" => {
                    dated = true;
                    let (from, to) = dates(&value).ok_or(QueryError::Value("date"))?;
                    (out.from_us, out.to_us) = (out.from_us.max(from), out.to_us.min(to));
                }
                "address" => out.strings.push(("address", strings(&value))),
                "agent" | "agent.identifier" => out.tokens.push(("agent", values())),
                "agent-name" => out.strings.push(("agent-name", strings(&value))),
                "agent-role" => out.tokens.push(("agent-role", values())),
                "altid" => out.tokens.push(("altid", values())),
                "entity-name" => out.strings.push(("entity-name", strings(&value))),
                "site" => out.tokens.push(("site", values())),
                "entity-type" => out.tokens.push(("entity-type", values())),
                "entity-role" => out.tokens.push(("entity-role", values())),
                "type" => out.tokens.push(("type", values())),
                "subtype" => out.tokens.push(("subtype", values())),
                "action" => out.tokens.push(("action", values())),
                "patient" | "patient.identifier" => {
                    let any = value.split(',').map(|v| cx(v).ok_or(QueryError::Value("patient")));
                    out.patients.push(any.collect::<Result<_, _>>()?);
                }
                "entity" | "entity.identifier" => out.entities.push(value.split(',').map(str::to_owned).collect()),
                "source" | "source.identifier" => out.sources.extend(values()),
                "outcome" => out.tokens.push(("outcome", values())),
                "_sort" => match value.as_str() {
                    "date" => out.ascending = true,
                    "-date" => out.ascending = false,
                    _ => return Err(QueryError::Value("_sort")),
                },
                "_count" => {
                    let count: u32 = value.parse().map_err(|_| QueryError::Value("_count"))?;
                    out.total_alone |= count == 0;
                    out.count = count.clamp(1, MOST - 1);
                }
                "_id" => {
                    let any = value.split(',').filter_map(Place::of_id);
                    out.ids = Some(match out.ids.take() {
                        Some(before) => any.filter(|place| before.contains(place)).collect(),
                        None => any.collect(),
                    });
                }
                "_total" => match value.as_str() {
                    "none" => {}
                    "estimate" | "accurate" => out.total = true,
                    _ => return Err(QueryError::Value("_total")),
                },
                // What is shorter than the whole is a server's to give; the whole is never wrong.
                "_summary" => match value.as_str() {
                    "count" => out.total_alone = true,
                    "true" | "text" | "data" | "false" => {}
                    _ => return Err(QueryError::Value("_summary")),
                },
                "_page" => {
                    let (before, skip) = value.split_once('.').ok_or(QueryError::Value("_page"))?;
                    out.received_before = before.parse().map_err(|_| QueryError::Value("_page"))?;
                    out.skip = skip.parse().map_err(|_| QueryError::Value("_page"))?;
                }
                "_format" if value.contains("json") => {}
                // Nothing that an AuditEvent of ours refers to is a resource here.
                "_include" => {}
                _ => return Err(QueryError::Unknown(name.chars().filter(char::is_ascii_graphic).take(64).collect())),
            }
            if name != "_page" {
                out.query.push((name, value));
            }
        }
        match own {
            Some(own) if out.patients.iter().flatten().any(|patient| patient != own) => Err(QueryError::OtherPatient),
            None if !dated && out.ids.is_none() => Err(QueryError::NoDate),
            _ => Ok(out),
        }
    }

    /// What was asked, without identifiers of persons.
    pub(super) fn told(&self) -> String {
        let shown = self.query.iter().map(|(name, value)| match name.as_str() {
            "patient" | "patient.identifier" | "entity" | "entity.identifier" => format!("{name}=*"),
            _ => format!("{name}={value}"),
        });
        shown.collect::<Vec<_>>().join("&")
    }

    /// As the index takes it; `hash` is the store's of identifiers of persons.
    pub(super) fn search(&self, hash: &dyn Fn(&str) -> String) -> Search {
        let own = self.own.iter().map(|patient| ("patient", hash(patient).as_str().into()));
        let columns: Vec<(&'static str, Value)> =
            self.sources.iter().map(|s| ("source", s.as_str().into())).chain(own).collect();
        let mut tokens = self.tokens.clone();
        tokens.extend(self.patients.iter().map(|any| ("entity", any.iter().map(|p| hash(p)).collect())));
        for any in &self.entities {
            let both = any.iter().flat_map(|value| [Some(bare(value)), cx(value).map(|cx| hash(&cx))]);
            tokens.push(("entity", both.flatten().collect()));
        }
        let open = |us: i64| if us == i64::MIN || us == i64::MAX { 0 } else { us };
        Search {
            columns,
            tokens,
            strings: self.strings.clone(),
            places: self.ids.clone(),
            event_us: (open(self.from_us), open(self.to_us)),
            received_before: self.received_before,
            limit: self.count,
            skip: self.skip,
            ascending: self.ascending,
        }
    }

    /// The query of another page.
    pub(super) fn link(&self, skip: u32) -> String {
        let mut out: String =
            self.query.iter().map(|(name, value)| format!("{}={}&", encode(name), encode(value))).collect();
        out.push_str(&format!("_page={}.{skip}", self.received_before));
        out
    }
}

/// The alternatives of a string: a value fits that begins with one, whatever its case and accents (FHIR R4 search, string).
fn strings(value: &str) -> Vec<String> {
    value.split(',').filter(|v| !v.is_empty()).map(folded).collect()
}

/// `system|code` and `Type/id` without what stands before.
fn bare(value: &str) -> String {
    value.rsplit('|').next().unwrap_or_default().to_owned()
}

/// `urn:oid:1.2|id` as CX.
fn cx(value: &str) -> Option<String> {
    let (system, id) = value.split_once('|')?;
    let oid = system.strip_prefix("urn:oid:")?;
    Some(format!("{id}^^^&{oid}&ISO"))
}

/// From (inclusive) and to (exclusive) of `ge2026-11-01` and the like, µs.
fn dates(value: &str) -> Option<(i64, i64)> {
    let (prefix, text) = match value.get(..2)? {
        "ge" | "gt" | "le" | "lt" | "eq" => value.split_at(2),
        _ => ("eq", value),
    };
    let (first, after) = span(text)?;
    Some(match prefix {
        "ge" => (first, i64::MAX),
        "gt" => (after, i64::MAX),
        "le" => (i64::MIN, after),
        "lt" => (i64::MIN, first),
        _ => (first, after),
    })
}

/// The time that a date of any precision covers.
fn span(text: &str) -> Option<(i64, i64)> {
    let utc = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp().as_microsecond());
    let day = |text: &str| text.parse::<Date>().ok();
    match text.len() {
        4 => {
            let first = day(&format!("{text}-01-01"))?;
            Some((utc(first)?, utc(first.last_of_year().tomorrow().ok()?)?))
        }
        7 => {
            let first = day(&format!("{text}-01"))?;
            Some((utc(first)?, utc(first.last_of_month().tomorrow().ok()?)?))
        }
        10 => {
            let first = day(text)?;
            Some((utc(first)?, utc(first.tomorrow().ok()?)?))
        }
        _ => {
            let at: Timestamp = text.parse().ok()?;
            // A second is a second long; with a fraction the instant is meant to the millisecond.
            let length = if text.contains('.') { 1_000 } else { 1_000_000 };
            Some((at.as_microsecond(), at.as_microsecond() + length))
        }
    }
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped =
            bytes.get(index + 1..index + 3).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match (bytes[index], escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                index += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_any_precision() {
        let of = |text: &str| dates(text).expect(text);
        let us = |text: &str| text.parse::<Timestamp>().expect(text).as_microsecond();
        assert_eq!(of("2026-11"), (us("2026-11-01T00:00:00Z"), us("2026-12-01T00:00:00Z")));
        assert_eq!(of("ge2026-11-23"), (us("2026-11-23T00:00:00Z"), i64::MAX));
        assert_eq!(of("le2026-11-23"), (i64::MIN, us("2026-11-24T00:00:00Z")));
        assert_eq!(of("gt2026-11-23T10:00:00Z").0, us("2026-11-23T10:00:01Z"));
        for bad in ["", "x", "ge", "2026-13", "yesterday", "ge2026-11-23T99:00:00Z", "åå"] {
            assert_eq!(dates(bad), None, "{bad}");
        }
    }

    #[test]
    fn se_05_values_and_parameters_have_a_bound() {
        let query = |values: usize, times: usize| {
            let values = vec!["x"; values].join(",");
            format!("date=ge2026{}", format!("&type={values}").repeat(times))
        };
        assert!(Parameters::read(&query(255, 1), None).is_ok());
        assert!(Parameters::read(&query(1, 31), None).is_ok());
        // The link of a page is read where its search was.
        for longest in [query(255, 1), query(7, 31)] {
            let link = Parameters::read(&longest, None).expect("reads").link(0);
            assert!(Parameters::read(&link, None).is_ok(), "{link}");
        }
        // As the case has it: 16 times 2040 values; and the same number in other shapes.
        for (values, times) in [(2040, 16), (256, 1), (128, 2), (1, 32), (9, 30)] {
            let read = Parameters::read(&query(values, times), None);
            assert_eq!(read, Err(QueryError::TooMany), "{times} of {values}");
        }
        let long = format!("date=ge2026{}", format!("&type={}", "x".repeat(4000)).repeat(5));
        assert_eq!(Parameters::read(&long, None), Err(QueryError::TooMany));
    }

    #[test]
    fn a_query_needs_a_date_and_nothing_unknown() {
        assert_eq!(Parameters::read("", None), Err(QueryError::NoDate));
        assert_eq!(Parameters::read("date=ge2026&name=x", None), Err(QueryError::Unknown("name".into())));
        let read = Parameters::read(
            "date=ge2026-11-01&date=le2026-11-30&patient.identifier=urn%3Aoid%3A1.2%7C7&outcome=8&_count=2",
            None,
        );
        let read = read.expect("reads");
        assert!(!read.told().contains("1.2"), "{}", read.told());
        let search = read.search(&|cx| format!("hash of {cx}"));
        let tokens = [("outcome", vec!["8".to_owned()]), ("entity", vec!["hash of 7^^^&1.2&ISO".to_owned()])];
        assert_eq!(search.tokens, tokens);
        let next = Parameters::read(&read.link(2), None).expect("reads its own links");
        assert_eq!((next.skip, next.count, next.received_before), (2, 2, read.received_before));
    }
}
