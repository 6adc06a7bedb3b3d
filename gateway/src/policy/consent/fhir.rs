//! Directives from Consent resources of a FHIR server, R4 or R5 (`GET Consent?status=active&patient.identifier=…`). What
//! they say is read in `resource.rs`; here is the search.

use std::time::Duration;

use ncp_ihe::PatientId;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{ConsentError, Directives, resource};
use crate::config::ConsentServer;
use crate::http_get::HttpGet;
use crate::json;

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
        let mut consents = Vec::new();
        for _ in 0..PAGES {
            let Some(url) = next.take() else { break };
            let authorization = self.authorization.as_deref();
            let body = self.http.get(&url, "application/fhir+json", authorization, PAGE_BYTES, PATIENCE).await;
            let bundle = bundle(&body.map_err(ConsentError::Server)?)?;
            next = self.next(&bundle)?;
            resources(&bundle, &mut consents)?;
            // A search that found more than it shows hides a permission that was withdrawn.
            let found = bundle.get("total").and_then(Value::as_u64).unwrap_or(0);
            if next.is_none() && found > consents.len() as u64 {
                return Err(ConsentError::Server("fewer resources than the server counts".into()));
            }
        }
        if next.is_some() {
            return Err(ConsentError::Server("more pages than are read".into()));
        }
        read(&consents, patient, self.requires)
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

/// A page of a search.
fn bundle(body: &[u8]) -> Result<Value, ConsentError> {
    let bundle = json::read(body).map_err(|why| ConsentError::Server(why.into()))?;
    let says = |name: &str, value: &str| bundle.get(name).and_then(Value::as_str) == Some(value);
    if says("resourceType", "Bundle") && says("type", "searchset") {
        Ok(bundle)
    } else {
        Err(ConsentError::Server("no Bundle of a search".into()))
    }
}

/// What a page found; included resources of other kinds are no permission.
fn resources(bundle: &Value, out: &mut Vec<Value>) -> Result<(), ConsentError> {
    let entries = match bundle.get("entry") {
        None => return Ok(()),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(ConsentError::Server("entries of a Bundle".into())),
    };
    for entry in entries {
        let resource = entry.get("resource").ok_or_else(|| ConsentError::Server("an entry without resource".into()))?;
        let is_consent = resource.get("resourceType").and_then(Value::as_str) == Some("Consent");
        if is_consent || entry.pointer("/search/mode").and_then(Value::as_str) != Some("include") {
            out.push(resource.clone());
        }
    }
    Ok(())
}

/// Directives out of a page, as [`FhirConsent`] reads it.
///
/// # Errors
/// What is not understood.
pub fn read_page(body: &[u8], patient: &PatientId, required: bool) -> Result<Directives, ConsentError> {
    let mut consents = Vec::new();
    resources(&bundle(body)?, &mut consents)?;
    read(&consents, patient, required)
}

/// Directives out of Consent resources. With `required`, nothing is open without a permit that fits.
fn read(consents: &[Value], patient: &PatientId, required: bool) -> Result<Directives, ConsentError> {
    let rules =
        resource::read(consents, patient).map_err(|what| ConsentError::Server(format!("not understood: {what}")))?;
    Ok(Directives { rules, permit_needed: required, ..Directives::default() })
}
