//! Parameters of an operation, from the query of a GET or the Parameters resource of a POST.

use serde_json::Value;

use super::Refused;

/// Parameters at most.
const MOST: usize = 1000;

/// Names and values.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    list: Vec<(String, Value)>,
}

impl Parameters {
    pub(super) fn of_query(query: &str) -> Result<Self, Refused> {
        let mut out = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()).take(MOST) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |t: &str| decoded(&t.replace('+', " ")).ok_or_else(|| Refused::invalid("query is not UTF-8"));
            out.list.push((decode(name)?, Value::String(decode(value)?)));
        }
        Ok(out)
    }

    pub(super) fn of_body(body: &[u8]) -> Result<Self, Refused> {
        let value = ncp_xml::json::read_last(body).map_err(|_| Refused::invalid("body is no JSON"))?;
        if value["resourceType"] != "Parameters" {
            return Err(Refused::invalid("a Parameters resource is expected"));
        }
        let mut out = Self::default();
        for parameter in value["parameter"].as_array().into_iter().flatten().take(MOST) {
            let Some(name) = parameter["name"].as_str() else { continue };
            let value = parameter.as_object().into_iter().flatten().find(|(k, _)| k.starts_with("value"));
            let value = match value {
                Some((_, value)) => value.clone(),
                None => parameter.get("part").or_else(|| parameter.get("resource")).cloned().unwrap_or_default(),
            };
            out.list.push((name.to_owned(), value));
        }
        Ok(out)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.list.iter().any(|(n, _)| n == name)
    }

    fn value(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|name| self.list.iter().find(|(n, _)| n == name)).map(|(_, v)| v)
    }

    /// The text of the first of the names that is given.
    pub(super) fn first(&self, names: &[&str]) -> Option<String> {
        let value = self.value(names)?;
        value.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(&[name]).is_some_and(|v| v == &Value::Bool(true) || v == "true")
    }

    /// System, version and code of a coding, or of the first coding of a concept. In a query a coding is
    /// `system|code`.
    pub(super) fn coding(&self, codings: &[&str], concepts: &[&str]) -> Option<(String, String, String)> {
        let value = match self.value(codings) {
            Some(value) => Some(value),
            None => self.value(concepts).and_then(|c| c["coding"].as_array()?.first()),
        }?;
        if let Some((system, code)) = value.as_str().and_then(|t| t.split_once('|')) {
            return Some((system.to_owned(), String::new(), code.to_owned()));
        }
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let found = (text("system"), text("version"), text("code"));
        (!found.0.is_empty() && !found.2.is_empty()).then_some(found)
    }

    pub(super) fn code(&self, code: &[&str], system: &[&str], version: &[&str]) -> Option<(String, String, String)> {
        Some((self.first(system)?, self.first(version).unwrap_or_default(), self.first(code)?))
    }

    /// dependency: element or attribute, and its value.
    pub(super) fn dependencies(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for (_, parts) in self.list.iter().filter(|(n, _)| n == "dependency") {
            let part = |names: &[&str]| {
                let found = parts.as_array()?.iter().find(|p| names.iter().any(|n| p["name"] == *n))?;
                found.as_object()?.iter().find(|(k, _)| k.starts_with("value")).map(|(_, v)| v.clone())
            };
            let name = part(&["element", "attribute"]).and_then(|v| v.as_str().map(str::to_owned));
            let value = part(&["concept", "value"]).map(|v| {
                let coding = v["coding"][0]["code"].as_str().or(v["code"].as_str()).or(v.as_str());
                coding.map_or_else(|| v.to_string(), str::to_owned)
            });
            if let (Some(name), Some(value)) = (name, value) {
                out.push((name, value));
            }
        }
        out
    }
}

/// Percent-decoding.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = text.get(at + 1..at + 3)?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                at += 3;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}
