//! Reading a TOML file so that every unknown key and every bad value is reported, not the first alone.
//!
//! serde stops at the first bad value. So each top-level table, and each element of an array of tables, is read on its
//! own; inside one of them the value that was refused is taken out and the piece is read again.

use std::fmt;

use toml::{Table, Value};

use super::Config;

/// One thing that is wrong, with the path of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    path: String,
    what: String,
}

impl ConfigProblem {
    pub(super) fn new(path: &str, what: String) -> Self {
        Self { path: path.to_owned(), what }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { write!(f, "{}", self.what) } else { write!(f, "{}: {}", self.path, self.what) }
    }
}

/// As many as are worth listing of one file.
const MOST: usize = 200;

/// Parses the text; on failure lists everything that is wrong with it.
pub(super) fn parse(text: &str) -> Result<Config, Vec<ConfigProblem>> {
    let table: Table = toml::from_str(text).map_err(|error| vec![syntax(text, &error)])?;
    let mut problems = Vec::new();
    let mut rest = Value::Table(table);
    loop {
        let mut unknown = Vec::new();
        let read = {
            let mut on_unknown = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
            let ignoring = serde_ignored::Deserializer::new(rest.clone(), &mut on_unknown);
            serde_path_to_error::deserialize::<_, Config>(ignoring)
        };
        match read {
            Ok(config) => {
                let keys = unknown.into_iter().map(|path| {
                    let path = path.replace(".?", "");
                    ConfigProblem::new(&normalised(&path), "unknown key".into())
                });
                problems.extend(keys);
                problems.dedup();
                return if problems.is_empty() { Ok(config) } else { Err(problems) };
            }
            Err(error) => {
                let path = error.path().to_string();
                let what = error.inner().to_string().trim().to_owned();
                let missing = what.strip_prefix("missing field `").and_then(|r| r.split('`').next());
                let full = match missing {
                    Some(field) if path == "." || path.is_empty() => field.to_owned(),
                    Some(field) => format!("{path}.{field}"),
                    None => path,
                };
                let full = normalised(&full);
                let known = problems.iter().any(|p: &ConfigProblem| p.path == full);
                if !known {
                    let what = if missing.is_some() { "is missing".to_owned() } else { what };
                    problems.push(ConfigProblem::new(&full, what));
                }
                // Put something readable in its place, so that what follows is read too.
                if problems.len() >= MOST || !replace(&mut rest, &full, known) {
                    return Err(with_unknown(problems, &rest));
                }
            }
        }
    }
}

/// When reading had to stop early, keys that no section knows are still worth saying.
fn with_unknown(mut problems: Vec<ConfigProblem>, rest: &Value) -> Vec<ConfigProblem> {
    const SECTIONS: [&str; 15] = [
        "gateway",
        "listener",
        "limits",
        "client",
        "clinician",
        "consumer",
        "seal",
        "translation",
        "audit",
        "policy",
        "replay",
        "rate",
        "national",
        "telemetry",
        "peer",
    ];
    if let Value::Table(table) = rest {
        for key in table.keys().filter(|key| !SECTIONS.contains(&key.as_str())) {
            problems.push(ConfigProblem::new(key, "unknown key".into()));
        }
    }
    problems.dedup();
    problems
}

/// Values that some type or other takes, tried in turn for a key that was refused.
fn stand_ins() -> [Value; 8] {
    [
        Value::String("1s".into()),
        Value::String("1MiB".into()),
        Value::String("127.0.0.1:1".into()),
        Value::String("ZZ".into()),
        Value::String("urn:oid:2.999".into()),
        Value::Integer(1),
        Value::Boolean(true),
        Value::Array(Vec::new()),
    ]
}

/// Replaces the value at `path` by the next stand-in; false when none is left or the path leads nowhere.
fn replace(root: &mut Value, path: &str, again: bool) -> bool {
    let mut at = root;
    let mut parts = path.split(['.', '[', ']']).filter(|p| !p.is_empty()).peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            let Value::Table(table) = at else {
                return replace_element(at, part);
            };
            let next = match table.get(part) {
                Some(old) if again => {
                    let all = stand_ins();
                    match all.iter().position(|v| v == old) {
                        Some(index) => all.into_iter().nth(index + 1),
                        None => all.into_iter().next(),
                    }
                }
                _ => stand_ins().into_iter().next(),
            };
            return match next {
                Some(value) => {
                    table.insert(part.to_owned(), value);
                    true
                }
                None => false,
            };
        }
        at = match at {
            Value::Table(table) => match table.get_mut(part) {
                Some(inner) => inner,
                None => return false,
            },
            Value::Array(items) => match part.parse::<usize>().ok().and_then(|i| items.get_mut(i)) {
                Some(inner) => inner,
                None => return false,
            },
            _ => return false,
        };
    }
    false
}

fn replace_element(at: &mut Value, part: &str) -> bool {
    let Value::Array(items) = at else { return false };
    match part.parse::<usize>() {
        Ok(index) if index < items.len() => {
            items.remove(index);
            true
        }
        _ => false,
    }
}

/// `peer.0.name` and `peer[0].name` are one spelling.
fn normalised(path: &str) -> String {
    let mut out = String::new();
    for part in path.split(['.', '[', ']']).filter(|p| !p.is_empty()) {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(&format!("[{part}]"));
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(part);
        }
    }
    out
}

fn syntax(text: &str, error: &toml::de::Error) -> ConfigProblem {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
    ConfigProblem::new("", format!("line {line}: {}", error.message()))
}
