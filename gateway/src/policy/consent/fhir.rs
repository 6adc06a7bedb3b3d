//! Directives from Consent resources of a FHIR server, R4 or R5 (`GET Consent?status=active&patient.identifier=…`). What
//! they say is read in `resource.rs`; here is the search.

use std::collections::HashSet;
use std::time::Duration;

use ncp_ihe::PatientId;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{ConsentError, Directives, resource};
use crate::config::ConsentServer;
use crate::http_get::HttpGet;

/// Largest page.
const PAGE_BYTES: usize = 4 << 20;
/// Pages of one patient.
const PAGES: usize = 16;
/// Longest wait for a page.
const PATIENCE: Duration = Duration::from_secs(3);

/// The server.
pub struct FhirConsent {
    http: HttpGet,
    base: String,
    authorization: Option<String>,
    requires: bool,
}

impl FhirConsent {
    /// Prepares the client; the server is asked when a request comes.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn new(config: &ConsentServer) -> Result<Self, ConsentError> {
        let wrong = |what: String| ConsentError::Server(what);
        let http = HttpGet::new(config.anchors.as_deref(), PATIENCE).map_err(wrong)?;
        let token = config.token_file.as_ref().map(std::fs::read_to_string).transpose();
        let token = token.map_err(|e| wrong(format!("token file: {e}")))?;
        Ok(Self {
            http,
            base: config.url.trim_end_matches('/').to_owned(),
            authorization: token.map(|t| format!("Bearer {}", t.trim())),
            requires: config.required,
        })
    }

    pub(super) async fn directives(&self, patient: &PatientId) -> Result<Directives, ConsentError> {
        let token = format!("urn:oid:{}|{}", patient.root, patient.extension);
        let token = utf8_percent_encode(&token, NON_ALPHANUMERIC);
        let mut next = Some(format!("{}/Consent?status=active&_count=200&patient.identifier={token}", self.base));
        let mut found = Found::default();
        for _ in 0..PAGES {
            let Some(url) = next.take() else { break };
            let authorization = self.authorization.as_deref();
            let body = self.http.get(&url, "application/fhir+json", authorization, PAGE_BYTES, PATIENCE).await;
            next = match found.add(&bundle(&body.map_err(ConsentError::Server)?)?)? {
                Some(url) if !self.is_here(&url) => return Err(server("next page is elsewhere")),
                next => next,
            };
        }
        if next.is_some() {
            return Err(server("more pages than are read"));
        }
        read(&found.whole()?, patient, self.requires)
    }

    /// Whether an address is at the same server.
    fn is_here(&self, url: &str) -> bool {
        url.strip_prefix(&self.base).is_some_and(|rest| rest.starts_with(['/', '?']))
    }
}

fn server(what: &str) -> ConsentError {
    ConsentError::Server(what.into())
}

/// A page of a search.
fn bundle(body: &[u8]) -> Result<Value, ConsentError> {
    let bundle = ncp_xml::json::read(body).map_err(|why| ConsentError::Server(why.into()))?;
    let says = |name: &str, value: &str| bundle.get(name).and_then(Value::as_str) == Some(value);
    if says("resourceType", "Bundle") && says("type", "searchset") {
        Ok(bundle)
    } else {
        Err(server("no Bundle of a search"))
    }
}

/// What the pages of a search found so far.
#[derive(Default)]
struct Found {
    resources: Vec<Value>,
    /// Matches, and of those that have an id each once: a page that moved while it was read repeats some and hides others.
    matches: u64,
    ids: HashSet<String>,
    /// How many the server counts.
    total: u64,
}

impl Found {
    /// Reads a page and tells where the next is; included resources of other kinds are no permission.
    fn add(&mut self, bundle: &Value) -> Result<Option<String>, ConsentError> {
        let array = |name: &str, what: &str| match bundle.get(name) {
            None => Ok(&[][..]),
            Some(Value::Array(items)) => Ok(items.as_slice()),
            Some(_) => Err(server(what)),
        };
        match bundle.get("total").map(Value::as_u64) {
            None => {}
            Some(Some(total)) => self.total = self.total.max(total),
            Some(None) => return Err(server("total of a Bundle")),
        }
        for entry in array("entry", "entries of a Bundle")? {
            let resource = entry.get("resource").ok_or_else(|| server("an entry without resource"))?;
            let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
            let is_consent = resource.get("resourceType").and_then(Value::as_str) == Some("Consent");
            let is_included = entry.pointer("/search/mode").and_then(Value::as_str) == Some("include");
            if is_consent && !is_included {
                let id = text(resource.get("id")).or_else(|| text(entry.get("fullUrl")));
                self.matches += u64::from(id.is_none_or(|id| self.ids.insert(id)));
            }
            if is_consent || !is_included {
                self.resources.push(resource.clone());
            }
        }
        let mut next = None;
        for link in array("link", "links of a Bundle")? {
            let text = |name: &str| link.get(name).and_then(Value::as_str);
            match text("relation").zip(text("url")).ok_or_else(|| server("a link without relation or address"))? {
                ("next", url) if next.is_none() => next = Some(url.to_owned()),
                ("next", _) => return Err(server("two next pages")),
                // The parameters that the server used: one that it does not know it leaves out (R4 search, "self").
                ("self", url) if !["patient", "subject"].iter().any(|of| url.contains(of)) => {
                    return Err(server("the search was not made for the patient"));
                }
                _ => {}
            }
        }
        Ok(next)
    }

    /// All of them: a search that found more than it shows hides a permission that was withdrawn.
    fn whole(self) -> Result<Vec<Value>, ConsentError> {
        if self.total > self.matches {
            return Err(server("fewer resources than the server counts"));
        }
        Ok(self.resources)
    }
}

/// Directives out of the only page of a search, as [`FhirConsent`] reads it.
///
/// # Errors
/// What is not understood.
pub fn read_page(body: &[u8], patient: &PatientId, required: bool) -> Result<Directives, ConsentError> {
    let mut found = Found::default();
    if found.add(&bundle(body)?)?.is_some() {
        return Err(server("there is a next page"));
    }
    read(&found.whole()?, patient, required)
}

/// Directives out of Consent resources. With `required`, nothing is open without a permit that fits.
fn read(consents: &[Value], patient: &PatientId, required: bool) -> Result<Directives, ConsentError> {
    let rules =
        resource::read(consents, patient).map_err(|what| ConsentError::Server(format!("not understood: {what}")))?;
    Ok(Directives { rules, permit_needed: required, ..Directives::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A page that does not show all that the server found hides a permission that was withdrawn.
    #[test]
    fn se_03_a_search_is_read_whole() {
        let consent = |id: &str| json!({ "resource": { "resourceType": "Consent", "id": id } });
        let outcome = json!({ "resource": { "resourceType": "OperationOutcome" }, "search": { "mode": "outcome" } });
        let included = json!({ "resource": { "resourceType": "Consent" }, "search": { "mode": "include" } });
        let whole = |pages: &[Value]| {
            let mut found = Found::default();
            let next = pages.iter().try_fold(None, |_, page| found.add(page))?;
            found.whole().map(|resources| (resources.len(), next))
        };
        let page = |total: Value, entries: &[&Value]| json!({ "total": total, "entry": entries });
        let (a, b) = (consent("a"), consent("b"));
        assert_eq!(whole(&[page(json!(2), &[&a]), page(json!(2), &[&b, &outcome, &included])]).ok(), Some((4, None)));
        assert!(whole(&[page(json!(1), &[&outcome])]).is_err(), "an outcome is no match");
        assert!(whole(&[page(json!(1), &[&included])]).is_err());
        assert!(whole(&[page(json!(2), &[&a]), page(json!(2), &[&a])]).is_err(), "one twice, and the other not at all");
        assert!(whole(&[page(json!(2), &[&a]), json!({})]).is_err(), "the first page counted");
        for total in [json!("0"), json!(-1), json!(0.5), json!(null), json!([1])] {
            assert!(whole(&[page(total.clone(), &[&a])]).is_err(), "{total}");
        }
        let linked = |links: Value| whole(&[json!({ "link": links })]);
        let link = |relation: &str, url: &str| json!({ "relation": relation, "url": url });
        let next = link("next", "https://a.example/fhir?page=2");
        let (_, url) =
            linked(json!([link("self", "https://a.example/fhir/Consent?patient.identifier=1"), next])).expect("read");
        assert_eq!(url.as_deref(), Some("https://a.example/fhir?page=2"));
        for links in [
            next.clone(),
            json!([next, next]),
            json!([{ "relation": "next" }]),
            json!(["next"]),
            json!([link("self", "https://a.example/fhir/Consent?status=active&_count=200")]),
        ] {
            assert!(linked(links.clone()).is_err(), "{links}");
        }
        let page = json!({ "resourceType": "Bundle", "type": "searchset", "link": [next] }).to_string();
        let patient = PatientId::parse_cx("1^^^&2.999.1&ISO").expect("a CX");
        assert!(read_page(page.as_bytes(), &patient, false).is_err(), "one page of several");
    }
}
