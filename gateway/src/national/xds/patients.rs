//! Patient look-up in the national domain: Patient Demographics Query HL7 V3 [ITI-47] or Patient Demographics Match
//! [ITI-119].

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use jiff::Timestamp;
use ncp_ihe::xcpd::Page;
use ncp_ihe::{
    Address, HomeCommunityId, Oid, PatientAnswer, PatientId, PatientQuery, PatientRecord, PatientResponse, PersonName,
    actions,
};
use ncp_tls::{HttpClient, TlsConnector};
use ncp_xml::Element;
use serde_json::{Value, json};

use super::XdsSource;
use super::errors::of_call;
use crate::config::{PatientTransaction, XdsPatients};
use crate::http_get::{IDENTITY, coding};
use crate::national::NationalError;
use crate::national::narrow::only;
use crate::policy::{Authorised, LookUp};
use crate::retry_after;
use crate::soap_client::{CallError, Packaging};

const ANSWER_BYTES: usize = 4 << 20;
/// Persons of one query, over all its pages; an identifier has few.
const MOST_PERSONS: usize = 256;
const FHIR: &str = "application/fhir+json";

/// The Patient Demographics Supplier of the national domain.
pub(super) struct Supplier {
    config: XdsPatients,
    own: Oid,
    http: HttpClient<Full<Bytes>>,
}

impl Supplier {
    pub(super) fn new(config: &XdsPatients, own: Oid, connector: TlsConnector) -> Self {
        let http = ncp_tls::http_client(connector, None, std::time::Duration::from_secs(10));
        Self { config: config.clone(), own, http }
    }

    /// Persons that carry one of the queried identifiers; what the supplier answers beyond that is left out.
    pub(super) async fn find(
        &self,
        source: &XdsSource,
        query: &Authorised<LookUp<PatientQuery>>,
    ) -> Result<Vec<PatientRecord>, NationalError> {
        let wanted = query.get();
        let found = match self.config.transaction {
            PatientTransaction::Iti47 => self.iti47(source, query).await?,
            PatientTransaction::Iti119 => {
                let asked = self.iti119(wanted);
                let limit = source.config.deadline;
                tokio::time::timeout(limit, asked).await.map_err(|_| of_call(CallError::Timeout))??
            }
        };
        let carries = |r: &PatientRecord| wanted.ids.iter().any(|id| *id == r.id || r.other_ids.contains(id));
        let found: Vec<PatientRecord> =
            found.into_iter().filter(carries).map(|record| self.known_as(wanted, record)).collect();
        if found.is_empty() { Err(NationalError::NoPatient) } else { Ok(found) }
    }

    /// Puts the identifier first under which documents are registered: that of the configured authority, else the
    /// one that was asked for.
    fn known_as(&self, wanted: &PatientQuery, mut record: PatientRecord) -> PatientRecord {
        let mut all = vec![record.id];
        all.append(&mut record.other_ids);
        let domain = all.iter().position(|id| Some(&id.root) == self.config.domain.as_ref());
        let first = domain.or_else(|| all.iter().position(|id| wanted.ids.contains(id))).unwrap_or(0);
        record.id = all.remove(first);
        record.other_ids = all;
        record
    }

    async fn iti47(
        &self,
        source: &XdsSource,
        query: &Authorised<LookUp<PatientQuery>>,
    ) -> Result<Vec<PatientRecord>, NationalError> {
        let wanted = query.get();
        let receiver = self.config.receiver.clone().unwrap_or_else(|| self.own.clone());
        let request = PatientQuery::new(
            self.own.clone(),
            receiver.clone(),
            wanted.ids.clone(),
            only(&wanted.names).cloned(),
            only(&wanted.birth_dates).cloned(),
            only(&wanted.genders).cloned(),
        );
        let community = HomeCommunityId(receiver);
        let call = async |action, body| {
            let transaction = (action, Packaging::Simple);
            source.call(transaction, &self.config.endpoint, query.identity(), body, None).await
        };
        let mut answer = call(actions::ITI47_REQUEST, request.to_element(Timestamp::now())).await?.body;
        let mut found = persons(&answer, &community)?;
        loop {
            let remaining = PatientResponse::remaining(&answer);
            if remaining == 0 {
                return Ok(found);
            }
            let quantity = remaining.min(MOST_PERSONS.saturating_sub(found.len()));
            if quantity == 0 {
                // Best effort: a supplier that is not told forgets the query by itself.
                let cancel = request.continuation(&answer, None, Timestamp::now());
                let _ = call(actions::ITI47_CANCEL, cancel).await;
                return Err(NationalError::Ambiguous);
            }
            let page = Page { start: found.len() + 1, quantity };
            let next = request.continuation(&answer, Some(page), Timestamp::now());
            answer = call(actions::ITI47_CONTINUE, next).await?.body;
            let more = persons(&answer, &community)?;
            if more.is_empty() {
                return Err(NationalError::broken("supplier holds back persons and does not continue"));
            }
            found.extend(more);
        }
    }

    async fn iti119(&self, wanted: &PatientQuery) -> Result<Vec<PatientRecord>, NationalError> {
        let url = format!("{}/Patient/$match", self.config.endpoint.trim_end_matches('/'));
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, FHIR)
            .header(header::ACCEPT, FHIR)
            .header(header::ACCEPT_ENCODING, IDENTITY)
            .body(Full::new(Bytes::from(parameters(wanted).to_string())))
            .map_err(|_| NationalError::broken("supplier's address"))?;
        let unreachable = |_| NationalError::down("supplier cannot be reached");
        let response = self.http.request(request).await.map_err(unreachable)?;
        let status = response.status();
        if let Some(after) = retry_after::of_overload(status, response.headers()) {
            return Err(of_call(CallError::Later(after)));
        }
        if let Some(coding) = coding(response.headers()) {
            return Err(NationalError::broken(format!("supplier answered in the content coding {coding}")));
        }
        if !status.is_success() {
            return match status {
                StatusCode::NOT_FOUND => Ok(Vec::new()),
                other => Err(of_call(CallError::Http(other.as_u16()))),
            };
        }
        let read = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let bytes = read.map_err(|_| NationalError::down("supplier's answer broke off or is too large"))?.to_bytes();
        let bundle: Value =
            ncp_xml::json::read_last(&bytes).map_err(|_| NationalError::broken("supplier sent no JSON"))?;
        if bundle.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
            return Err(NationalError::broken("supplier sent no Bundle"));
        }
        let entries = bundle.get("entry").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        persons_of(entries)
    }
}

/// The persons of a searchset. An OperationOutcome among them that reports an error says that the answer is not whole, so
/// that a supplier which found nobody and failed has not answered.
fn persons_of(entries: &[Value]) -> Result<Vec<PatientRecord>, NationalError> {
    let resources = || entries.iter().filter_map(|entry| entry.get("resource"));
    let matches = entries.iter().filter(|entry| is_match(entry)).filter_map(|entry| entry.get("resource"));
    let found: Vec<PatientRecord> = matches.filter_map(record).collect();
    let outcomes = resources().filter(|r| r.get("resourceType").and_then(Value::as_str) == Some("OperationOutcome"));
    let mut issues = outcomes.filter_map(|outcome| outcome.get("issue")?.as_array()).flatten();
    let failed = issues.any(|issue| matches!(issue.get("severity").and_then(Value::as_str), Some("error" | "fatal")));
    if failed && found.is_empty() {
        return Err(NationalError::broken("supplier reported an error"));
    }
    if failed {
        tracing::warn!("supplier reported an error beside the persons that it found");
    }
    Ok(found)
}

/// The persons of one answer of ITI-47.
fn persons(body: &Element, community: &HomeCommunityId) -> Result<Vec<PatientRecord>, NationalError> {
    match PatientResponse::read_supplier(body, community) {
        Ok(PatientAnswer::Matches(matches)) => Ok(matches.into_iter().map(|m| m.record).collect()),
        Ok(PatientAnswer::NoMatch { .. }) => Ok(Vec::new()),
        Ok(PatientAnswer::Refused(refusal)) if refusal.is_busy() => {
            Err(NationalError::Busy(retry_after::of_text(&refusal.text)))
        }
        Ok(PatientAnswer::Refused(refusal)) if refusal.asks_for_more() => Err(NationalError::Ambiguous),
        Ok(PatientAnswer::Refused(_)) => Err(NationalError::broken("supplier refused the query")),
        Err(_) => Err(NationalError::broken("supplier's answer is no PRPA_IN201306UV02")),
    }
}

fn parameters(wanted: &PatientQuery) -> Value {
    let identifier = |id: &PatientId| json!({ "system": id.root.urn(), "value": id.extension });
    let mut patient = json!({
        "resourceType": "Patient",
        "identifier": wanted.ids.iter().map(identifier).collect::<Vec<_>>(),
    });
    if let Some(name) = only(&wanted.names) {
        patient["name"] = json!([{ "family": name.family, "given": name.given }]);
    }
    if let Some(date) = only(&wanted.birth_dates).and_then(|date| dashed(date)) {
        patient["birthDate"] = json!(date);
    }
    if let Some(gender) = only(&wanted.genders).and_then(|gender| fhir_gender(gender)) {
        patient["gender"] = json!(gender);
    }
    json!({
        "resourceType": "Parameters",
        "parameter": [
            { "name": "resource", "resource": patient },
            { "name": "onlyCertainMatches", "valueBoolean": true },
        ],
    })
}

/// `YYYYMMDD` as FHIR writes it.
fn dashed(date: &str) -> Option<String> {
    Some(format!("{}-{}-{}", date.get(..4)?, date.get(4..6)?, date.get(6..8)?))
}

fn fhir_gender(code: &str) -> Option<&'static str> {
    match code {
        "M" => Some("male"),
        "F" => Some("female"),
        "UN" => Some("other"),
        _ => None,
    }
}

/// Whether the supplier vouches for it: a match that is merely possible is none, and a record that is out of use or was
/// replaced by another is nobody's any more.
fn is_match(entry: &Value) -> bool {
    const GRADE: &str = "http://hl7.org/fhir/StructureDefinition/match-grade";
    let all = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let grade = all(entry.pointer("/search/extension"))
        .into_iter()
        .find(|extension| extension.get("url").and_then(Value::as_str) == Some(GRADE))
        .map(|extension| extension.get("valueCode").and_then(Value::as_str).map(ToOwned::to_owned));
    let graded = grade.is_none_or(|grade| matches!(grade.as_deref(), Some("certain" | "probable")));
    let patient = entry.get("resource");
    let active = patient.and_then(|p| p.get("active")).is_none_or(|active| *active == Value::Bool(true));
    let replaced = all(patient.and_then(|p| p.get("link")))
        .iter()
        .any(|link| link.get("type").and_then(Value::as_str) == Some("replaced-by"));
    graded && active && !replaced
}

/// A Patient resource; only identifiers of authorities with an OID can be used on the wire.
fn record(patient: &Value) -> Option<PatientRecord> {
    if patient.get("resourceType")?.as_str()? != "Patient" {
        return None;
    }
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let identifiers = patient.get("identifier")?.as_array()?.iter().take(64);
    let mut ids = identifiers.filter_map(|i| {
        let root = Oid::parse(i.get("system")?.as_str()?.strip_prefix("urn:oid:")?).ok()?;
        PatientId::new(i.get("value")?.as_str()?, root).ok()
    });
    let id = ids.next()?;
    let name = patient.get("name").and_then(|n| n.get(0));
    let given = name.and_then(|n| n.get("given")).and_then(Value::as_array);
    let address = patient.get("address").and_then(|a| a.get(0)).map(|a| Address {
        street: a.get("line").and_then(|l| l.get(0)).and_then(Value::as_str).map(ToOwned::to_owned),
        city: text(a, "city"),
        postal_code: text(a, "postalCode"),
        country: text(a, "country"),
    });
    Some(PatientRecord {
        id,
        other_ids: ids.collect(),
        name: PersonName {
            family: name.and_then(|n| text(n, "family")).unwrap_or_default(),
            given: given
                .map(|g| g.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect())
                .unwrap_or_default(),
        },
        birth_date: text(patient, "birthDate").map(|d| d.replace('-', "")),
        gender: text(patient, "gender").and_then(|g| match g.as_str() {
            "male" => Some("M".to_owned()),
            "female" => Some("F".to_owned()),
            "other" => Some("UN".to_owned()),
            // Not known is nothing to compare.
            _ => None,
        }),
        address,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fo_03_an_outcome_beside_persons_says_that_the_answer_is_not_whole() {
        let outcome = |severity: &str| json!({ "resource": { "resourceType": "OperationOutcome", "issue": [{ "severity": severity }] } });
        let identifier = json!({ "system": "urn:oid:2.999.1", "value": "1" });
        let person = json!({ "resource": { "resourceType": "Patient", "identifier": [identifier] } });
        let found = |entries: &[Value]| persons_of(entries).map(|found| found.len()).ok();
        assert_eq!(found(&[]), Some(0));
        assert_eq!(found(&[outcome("error")]), None);
        assert_eq!(found(&[outcome("warning")]), Some(0));
        assert_eq!(found(&[person, outcome("fatal")]), Some(1));
    }

    #[test]
    fn co_05_what_is_out_of_use_or_merely_possible_is_no_match() {
        let entry = |patient: Value, grade: Option<&str>| {
            let url = "http://hl7.org/fhir/StructureDefinition/match-grade";
            let extension = grade.map(|g| json!([{ "url": url, "valueCode": g }])).unwrap_or(json!([]));
            json!({ "resource": patient, "search": { "mode": "match", "score": 0.3, "extension": extension } })
        };
        for (patient, grade, expected) in [
            (json!({}), None, true),
            (json!({ "active": true }), Some("certain"), true),
            (json!({}), Some("probable"), true),
            (json!({}), Some("possible"), false),
            (json!({}), Some("certainly-not"), false),
            (json!({}), Some("unheard-of"), false),
            (json!({ "active": false }), Some("certain"), false),
            (json!({ "active": "yes" }), None, false),
            (json!({ "link": [{ "type": "replaced-by" }] }), None, false),
            (json!({ "link": [{ "type": "replaces" }] }), None, true),
        ] {
            assert_eq!(is_match(&entry(patient.clone(), grade)), expected, "{patient} {grade:?}");
        }
    }
}
