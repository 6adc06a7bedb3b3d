//! Directives from Consent resources of a FHIR R4 server (`GET Consent?status=active&patient.identifier=…`).
//!
//! Read are provisions of type `deny`: without conditions, an opt-out; with `data`, a block of documents or studies by
//! identifier; with `dataPeriod`, of a period; with `securityLabel`, of confidentiality codes; with an actor of role
//! `AUT` or `CST`, of an author's organisation; with an actor of role `IRCP` or `PRCP`, towards a country (identifier
//! of system `urn:iso:std:iso:3166`), an organisation or a professional. A `permit` inside a `deny` is not read: it
//! would open what the patient closed, so the whole Consent then closes more, never less.

use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::PatientId;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Block, ConsentError, Directives, ServiceConsent};
use crate::config::ConsentServer;
use crate::http_get::HttpGet;

/// Largest page.
const PAGE_BYTES: usize = 4 << 20;
/// Pages of one patient.
const PAGES: usize = 16;
/// Longest wait for a page.
const PATIENCE: Duration = Duration::from_secs(3);
/// Provisions inside provisions.
const DEPTH: usize = 8;
const COUNTRIES: &str = "urn:iso:std:iso:3166";

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
        let mut consents = Vec::new();
        for _ in 0..PAGES {
            let Some(url) = next.take() else { break };
            let bundle = self.page(&url).await?;
            next = self.next(&bundle)?;
            if let Some(Value::Array(entries)) = bundle.get("entry") {
                consents.extend(entries.iter().filter_map(|e| e.get("resource")).cloned());
            }
        }
        if next.is_some() {
            return Err(ConsentError::Server("more pages than are read".into()));
        }
        read(&consents, self.requires)
    }

    async fn page(&self, url: &str) -> Result<Value, ConsentError> {
        let authorization = self.authorization.as_deref();
        let body = self.http.get(url, "application/fhir+json", authorization, PAGE_BYTES, PATIENCE).await;
        let body = body.map_err(ConsentError::Server)?;
        let bundle: Value = serde_json::from_slice(&body).map_err(|_| ConsentError::Server("no JSON".into()))?;
        match bundle.get("resourceType").and_then(Value::as_str) {
            Some("Bundle") => Ok(bundle),
            _ => Err(ConsentError::Server("no Bundle".into())),
        }
    }

    /// The next page, at the same server only.
    fn next(&self, bundle: &Value) -> Result<Option<String>, ConsentError> {
        let links = bundle.get("link").and_then(Value::as_array);
        let next = links.into_iter().flatten().find(|l| l.get("relation").and_then(Value::as_str) == Some("next"));
        match next.and_then(|l| l.get("url")).and_then(Value::as_str) {
            None => Ok(None),
            Some(url) if url.strip_prefix(&self.base).is_some_and(|rest| rest.starts_with(['/', '?'])) => {
                Ok(Some(url.to_owned()))
            }
            Some(_) => Err(ConsentError::Server("next page is elsewhere".into())),
        }
    }
}

/// Directives out of Consent resources. With `required`, a patient without an active Consent has not consented.
fn read(consents: &[Value], required: bool) -> Result<Directives, ConsentError> {
    let mut directives = Directives::default();
    let active = |c: &&Value| {
        c.get("resourceType").and_then(Value::as_str) == Some("Consent")
            && c.get("status").and_then(Value::as_str) == Some("active")
    };
    let mut any = false;
    for consent in consents.iter().filter(active) {
        any = true;
        if let Some(provision) = consent.get("provision") {
            provisions(provision, &Block::default(), &mut directives, 0)?;
        }
    }
    if required && !any && directives.service == ServiceConsent::Given {
        directives.service = ServiceConsent::MissingAndSaid;
    }
    Ok(directives)
}

fn provisions(provision: &Value, above: &Block, out: &mut Directives, depth: usize) -> Result<(), ConsentError> {
    if depth > DEPTH {
        return Err(ConsentError::Server("provisions are nested too deeply".into()));
    }
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let all = |name: &str| provision.get(name).and_then(Value::as_array).into_iter().flatten();
    if text(provision, "type").as_deref() == Some("deny") {
        let mut block = above.clone();
        if let Some(period) = provision.get("period") {
            block.valid = (instant(text(period, "start"), false)?, instant(text(period, "end"), true)?);
        }
        if let Some(period) = provision.get("dataPeriod") {
            let day = |text: Option<String>, or: &str| text.map_or(or.to_owned(), |t| digits(&t, or));
            block.period = Some((day(text(period, "start"), "00000000"), day(text(period, "end"), "99999999")));
        }
        let mut organisations: Vec<Option<String>> = Vec::new();
        for actor in all("actor") {
            let role = actor.pointer("/role/coding/0/code").and_then(Value::as_str).unwrap_or_default();
            let identifier = actor.pointer("/reference/identifier");
            let value = identifier.and_then(|i| text(i, "value"));
            let name = value.ok_or_else(|| ConsentError::Server("actor without identifier".into()))?;
            let system = identifier.and_then(|i| text(i, "system")).unwrap_or_default();
            let kind = actor.pointer("/reference/type").and_then(Value::as_str).unwrap_or_default();
            match role {
                "AUT" | "CST" => organisations.push(Some(name)),
                _ if system == COUNTRIES => block.countries.push(name),
                _ if kind.starts_with("Practitioner") => block.professionals.push(name),
                _ => block.requesters.push(name),
            }
        }
        block.imaging |= all("class").any(|c| text(c, "code").is_some_and(|c| c == "18748-4" || c == "ImagingStudy"));
        let units: Vec<Option<String>> = all("data")
            .map(|data| data.pointer("/reference/identifier/value").and_then(Value::as_str))
            .map(|id| id.map(|id| Some(id.strip_prefix("urn:oid:").unwrap_or(id).to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| ConsentError::Server("data without identifier".into()))?;
        let labels = all("securityLabel").map(|label| text(label, "code")).collect();
        for unit in or_any(units) {
            for organisation in or_any(organisations.clone()) {
                for label in or_any(Vec::clone(&labels)) {
                    let block = Block {
                        unit: unit.clone().or_else(|| block.unit.clone()),
                        author_organisation: organisation.clone().or_else(|| block.author_organisation.clone()),
                        confidentiality: label.clone().or_else(|| block.confidentiality.clone()),
                        ..block.clone()
                    };
                    if block == Block::default() {
                        out.service = ServiceConsent::OptedOut;
                    } else {
                        out.blocks.push(block);
                    }
                }
            }
        }
    }
    for inner in all("provision") {
        // An inner provision narrows a permit; under a deny everything is closed already.
        provisions(inner, above, out, depth + 1)?;
    }
    Ok(())
}

fn or_any(some: Vec<Option<String>>) -> Vec<Option<String>> {
    if some.is_empty() { vec![None] } else { some }
}

fn digits(date: &str, or: &str) -> String {
    let mut day: String = date.chars().take_while(|c| *c != 'T').filter(char::is_ascii_digit).take(8).collect();
    day.push_str(or.get(day.len()..).unwrap_or_default());
    day
}

/// A FHIR dateTime; a day counts whole.
fn instant(text: Option<String>, end: bool) -> Result<Option<Timestamp>, ConsentError> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || ConsentError::Server("period".into());
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(Some(instant));
    }
    let mut date: jiff::civil::Date = text.parse().map_err(|_| wrong())?;
    if end {
        date = date.tomorrow().map_err(|_| wrong())?;
    }
    let zoned = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?;
    Ok(Some(zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn consent(provision: Value) -> Value {
        json!({ "resourceType": "Consent", "status": "active", "provision": provision })
    }

    #[test]
    fn provisions_read_as_directives() {
        let only = |provision: Value| read(&[consent(provision)], false).expect("reads");
        assert_eq!(only(json!({ "type": "deny" })).service, ServiceConsent::OptedOut);
        assert_eq!(only(json!({ "type": "permit" })), Directives::default());
        let documents = only(json!({ "type": "permit", "provision": [{ "type": "deny", "data": [
            { "meaning": "instance", "reference": { "identifier": { "value": "urn:oid:2.999.1" } } },
            { "meaning": "instance", "reference": { "identifier": { "value": "2.999.2" } } },
        ] }] }));
        let units: Vec<_> = documents.blocks.iter().filter_map(|b| b.unit.as_deref()).collect();
        assert_eq!(units, ["2.999.1", "2.999.2"]);
        let several = only(json!({ "type": "deny",
            "dataPeriod": { "start": "2026-01-01", "end": "2026" },
            "period": { "start": "2026-02-01", "end": "2026-02-03" },
            "securityLabel": [{ "code": "NORS" }],
            "actor": [
                { "role": { "coding": [{ "code": "IRCP" }] },
                  "reference": { "identifier": { "system": "urn:iso:std:iso:3166", "value": "FI" } } },
                { "role": { "coding": [{ "code": "AUT" }] }, "reference": { "identifier": { "value": "2.999.9" } } },
            ] }));
        let block = &several.blocks[0];
        assert_eq!(several.blocks.len(), 1);
        assert_eq!(block.period, Some(("20260101".into(), "20269999".into())));
        assert_eq!(block.confidentiality.as_deref(), Some("NORS"));
        assert_eq!(block.countries, ["FI"]);
        assert_eq!(block.author_organisation.as_deref(), Some("2.999.9"));
        assert_eq!(block.valid.1.expect("ends").to_string(), "2026-02-04T00:00:00Z");
        assert_eq!(read(&[], true).expect("reads").service, ServiceConsent::MissingAndSaid);
        let draft = json!({ "resourceType": "Consent", "status": "draft", "provision": { "type": "deny" } });
        assert_eq!(read(&[draft], false).expect("reads"), Directives::default());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_never_open() {
        for provision in [
            json!({ "type": "deny", "data": [{ "reference": { "reference": "DocumentReference/1" } }] }),
            json!({ "type": "deny", "actor": [{ "reference": { "reference": "Organization/1" } }] }),
            json!({ "type": "deny", "period": { "start": "yesterday" } }),
        ] {
            assert!(read(&[consent(provision.clone())], false).is_err(), "{provision}");
        }
        let mut deep = json!({ "type": "permit" });
        for _ in 0..20 {
            deep = json!({ "type": "permit", "provision": [deep] });
        }
        assert!(read(&[consent(deep)], false).is_err());
    }
}
