//! `$match` and `$confirm-treatment`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use ncp_audit::{Event, PeerFacts};
use ncp_ihe::{Oid, PatientId, PersonName};
use serde_json::{Value, json};

use super::prefer::Preferences;
use super::problem::{self, Problem};
use super::resources;
use super::sealed::{Also, Hcp, Person, Sealed, Treated, resource_id};
use super::token::{Bearer, is_emergency};
use super::{Clinic, Context, FHIR_JSON, bounded, digest};
use crate::config::Peer;
use crate::initiating::Caller;
use crate::initiating::discover::{Discovered, Sought, discover};
use crate::outcome::GatewayError;

/// How long a search may wait for its confirmation.
const UNCONFIRMED: Duration = Duration::from_secs(30 * 60);
/// Emergency access at most.
const EMERGENCY: Duration = Duration::from_secs(30 * 60);
/// Further countries of one confirmation, so that the sealed base stays as short as URLs must be.
const ALSO: usize = 4;

/// `GET /fhir/metadata`: what is there, without a token.
pub async fn metadata(State(clinic): State<Arc<Clinic>>) -> Response {
    let interaction = |code: &str| json!([{ "code": code }]);
    let body = json!({
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-24",
        "kind": "instance",
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "software": { "name": "ncp-gateway", "version": env!("CARGO_PKG_VERSION") },
        "implementation": { "description": clinic.app.config.gateway.name, "url": format!("{}/fhir", clinic.config.base_url) },
        "rest": [{
            "mode": "server",
            "security": { "description": "Bearer token (IUA ITI-72), JWT" },
            "resource": [
                { "type": "Patient", "operation": [
                    { "name": "match", "definition": "http://hl7.org/fhir/OperationDefinition/Patient-match" },
                    { "name": "confirm-treatment", "definition": "urn:ncp:fhir:OperationDefinition:confirm-treatment" },
                ] },
                { "type": "DocumentReference", "interaction": interaction("search-type") },
                { "type": "Binary", "interaction": interaction("read") },
            ],
        }],
    });
    answer(&body)
}

/// `POST /fhir/Patient/$match` (ITI-119): the countries that own the identifiers are asked in parallel.
pub async fn search_patient(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bearer = clinic.bearer(&context, &headers, (&[("ITI-119", "Patient")], 's'), "user/Patient.rs").await?;
    let claims = bearer.claims.clone().ok_or(Problem::Role)?;
    let wanted = match_request(&bounded::body(body).await?)?;
    let asked = countries(&clinic, &wanted.sought);
    if asked.is_empty() {
        return Err(Problem::MatchInput);
    }
    let hcp = Hcp {
        id: *uuid::Uuid::new_v4().as_bytes(),
        issued: Timestamp::now().as_second(),
        login: claims.authn_instant.as_second(),
        emergency: claims.purpose == ncp_saml::Purpose::Emergency,
        claims: digest(&claims),
    };
    let caller = clinic.caller(&bearer, &hcp)?;
    issued(&clinic, &context, &caller).await?;
    let preferences = Preferences::read(&headers);
    let answers = join_all(asked.into_iter().map(|(peer, sought)| {
        let mut call = clinic.call(peer.clone(), caller.clone(), None);
        call.wait = preferences.wait;
        async move {
            let found = discover(&call, sought.clone()).await;
            (peer, found.map(|found| (found, sought)))
        }
    }))
    .await;
    matches(&clinic, &bearer, &hcp, &wanted, answers, &context)
}

/// One country's part of a `$match`.
type Answered = (Arc<Peer>, Result<(Discovered, Sought), GatewayError>);

struct MatchRequest {
    sought: Sought,
    only_certain: bool,
    count: usize,
}

/// Parameters with the closed list of PDQm, or the bare Patient.
fn match_request(body: &[u8]) -> Result<MatchRequest, Problem> {
    let malformed = || Problem::Request("match-request", "Expected a Patient or Parameters with a Patient, as JSON.");
    let value = ncp_xml::json::read_last(body).map_err(|_| malformed())?;
    let (mut patient, mut only_certain, mut count) = (None, false, usize::MAX);
    match value.get("resourceType").and_then(Value::as_str) {
        Some("Patient") => patient = Some(&value),
        Some("Parameters") => {
            for parameter in value.get("parameter").and_then(Value::as_array).ok_or_else(malformed)? {
                match parameter.get("name").and_then(Value::as_str) {
                    Some("resource") => patient = parameter.get("resource"),
                    Some("onlyCertainMatches") => {
                        only_certain = parameter.get("valueBoolean").and_then(Value::as_bool).ok_or_else(malformed)?;
                    }
                    Some("count") => {
                        let given = parameter.get("valueInteger").and_then(Value::as_u64).ok_or_else(malformed)?;
                        count = usize::try_from(given).unwrap_or(usize::MAX);
                    }
                    _ => return Err(malformed()),
                }
            }
        }
        _ => return Err(malformed()),
    }
    let patient = patient.filter(|p| p.get("resourceType").and_then(Value::as_str) == Some("Patient"));
    Ok(MatchRequest { sought: bounded(sought(patient.ok_or_else(malformed)?)?)?, only_certain, count })
}

/// Identifiers and given names of one person. What we send for a caller is bounded by what the caller sent, and is nothing
/// that our own entry would refuse.
const IDENTIFIERS: usize = ncp_ihe::xcpd::IDENTIFIERS;
const GIVEN: usize = 20;

fn bounded(mut sought: Sought) -> Result<Sought, Problem> {
    bounded::each_once(&mut sought.ids);
    let given = sought.name.as_ref().map_or(0, |name| name.given.len());
    if sought.ids.len() > IDENTIFIERS || given > GIVEN {
        return Err(Problem::Request("match-request", "The person has too many identifiers or names."));
    }
    Ok(sought)
}

fn sought(patient: &Value) -> Result<Sought, Problem> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let list = |key: &str| patient.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let (identifiers, names) = (list("identifier"), list("name"));
    let given = names.iter().filter_map(|name| name.get("given")?.as_array()).flatten();
    let asked = identifiers.iter().filter_map(|id| id.get("value")).chain(names.iter().filter_map(|n| n.get("family")));
    let asked = asked.chain(given).chain([&patient["gender"], &patient["birthDate"]]);
    bounded::texts(asked.filter_map(Value::as_str))?;
    let ids = identifiers.into_iter().filter_map(|identifier| {
        let root = Oid::parse(text(&identifier, "system")?.strip_prefix("urn:oid:")?).ok()?;
        PatientId::new(text(&identifier, "value")?.trim(), root).ok()
    });
    let name = names.first().and_then(|name| {
        let given = name.get("given").and_then(Value::as_array).cloned().unwrap_or_default();
        let given = given.iter().filter_map(|g| g.as_str().map(ToOwned::to_owned)).collect();
        Some(PersonName { family: text(name, "family")?, given })
    });
    let gender = match text(patient, "gender").as_deref() {
        Some("male") => Some("M".to_owned()),
        Some("female") => Some("F".to_owned()),
        Some("other") => Some("UN".to_owned()),
        _ => None,
    };
    let birth_date = text(patient, "birthDate").map(|date| date.replace('-', ""));
    Ok(Sought { ids: ids.collect(), name, birth_date, gender })
}

/// The countries that own the identifiers; nobody is asked by demographics alone.
fn countries(clinic: &Clinic, sought: &Sought) -> Vec<(Arc<Peer>, Sought)> {
    let snapshot = clinic.app.snapshot.load();
    let asked = snapshot.peers.iter().filter_map(|peer| {
        let ids: Vec<_> = sought.ids.iter().filter(|id| peer.patient_roots.contains(&id.root)).cloned().collect();
        (!ids.is_empty()).then(|| (peer.clone(), Sought { ids, ..sought.clone() }))
    });
    asked.collect()
}

async fn issued(clinic: &Clinic, context: &Context, caller: &Caller) -> Result<(), Problem> {
    let event = Event::HcpIssued { user: caller.requestor(), assertion: caller.hcp_id.clone() };
    clinic.record(&event, context).await
}

fn matches(
    clinic: &Clinic,
    bearer: &Bearer,
    hcp: &Hcp,
    wanted: &MatchRequest,
    answers: Vec<Answered>,
    context: &Context,
) -> Result<Response, Problem> {
    let (mut found, mut issues, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    let mut answered = false;
    for (peer, result) in answers {
        match result {
            Ok((Discovered { matches, reported, unusable }, sought)) => {
                answered = true;
                let mut say = |detail, text: String| {
                    let issue = problem::outcome_issue("warning", "incomplete", detail, &text, &context.reference);
                    issues.push(problem::of_community(issue, &peer.home_community_id));
                };
                if !reported.is_empty() {
                    let text = format!("{} could not say everything ({}).", peer.name, reported.join(", "));
                    say("country-partial", text);
                }
                if unusable > 0 {
                    say("entries-unusable", format!("{unusable} persons of {} could not be used.", peer.name));
                }
                // One person under a given identifier is certain; several ask the caller to choose.
                let certain = matches.len() == 1;
                found.extend(matches.into_iter().map(|m| {
                    let named = sought.ids.iter().any(|id| *id == m.record.id || m.record.other_ids.contains(id));
                    (peer.clone(), m, certain && named)
                }));
            }
            Err(error) => {
                tracing::info!(country = %peer.country, reason = %error, ncp.reference = %context.reference, "country did not answer");
                let problem = Problem::Country(peer.name.clone(), error);
                issues.push(problem.warning(&peer.home_community_id, &context.reference));
                failures.push(problem);
            }
        }
    }
    if !answered {
        return Err(problem::of_all(failures));
    }
    if wanted.only_certain && (found.len() != 1 || !found[0].2) {
        found.clear();
    }
    found.sort_by_key(|(peer, _, certain)| (!certain, peer.country));
    let expires = Timestamp::now().as_second() + UNCONFIRMED.as_secs() as i64;
    let mut entries = Vec::new();
    for (peer, found, certain) in found.into_iter().take(wanted.count) {
        let person = Person {
            country: peer.country.to_string(),
            patient: found.record.id.to_cx(),
            birth_date: found.record.birth_date.clone(),
            hcp: hcp.clone(),
            expires,
        };
        let id = patient_id(&person);
        let sealed = clinic.seal(bearer, &Sealed::Unconfirmed(person))?;
        let url = format!("{}/Patient/{id}", clinic.base('p', &sealed, "fhir"));
        entries.push(resources::match_entry(&url, resources::patient(&id, &found.record, &found.home), certain));
    }
    Ok(answer(&resources::searchset(&[], entries.len(), entries, issues)))
}

pub(super) fn patient_id(person: &Person) -> String {
    resource_id(&[&person.country, &person.patient])
}

/// `POST /p/{unconfirmed}/fhir/Patient/{id}/$confirm-treatment`: purpose and relationship are stated, the TRC assertion
/// is issued and recorded (EHDSI-92).
pub async fn confirm_treatment(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path((sealed, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let bearer = clinic.bearer(&context, &headers, (&[("ITI-119", "Patient")], 'r'), "user/Patient.rs").await?;
    let Sealed::Unconfirmed(person) = clinic.open(&bearer, &sealed)? else { return Err(Problem::NotFound) };
    if patient_id(&person) != id {
        return Err(Problem::NotFound);
    }
    let confirmed = confirmation(&bounded::body(body).await?)?;
    let also = elsewhere(&clinic, &bearer, &person, &confirmed.also)?;
    let now = Timestamp::now().as_second();
    let longest = if confirmed.emergency { EMERGENCY.min(clinic.config.treatment) } else { clinic.config.treatment };
    let until = now + longest.as_secs() as i64;
    let until = confirmed.valid_until.map_or(until, |wish| wish.min(until));
    if until <= now {
        return Err(Problem::Request("valid-until", "validUntil lies in the past."));
    }
    // Another purpose is another identity assertion: TRC and HCP must state the same.
    let mut hcp = person.hcp.clone();
    if hcp.emergency != confirmed.emergency {
        hcp = Hcp { id: *uuid::Uuid::new_v4().as_bytes(), issued: now, emergency: confirmed.emergency, ..hcp };
        issued(&clinic, &context, &clinic.caller(&bearer, &hcp)?).await?;
    }
    let person = Person { hcp, expires: until, ..person };
    let treated = Treated { person, trc: *uuid::Uuid::new_v4().as_bytes(), issued: now, also };
    for one in treated.each() {
        record_treatment(&clinic, &bearer, &context, &one, &confirmed).await?;
    }
    let reference = patient_reference(&clinic, &bearer, &treated)?;
    let expires = Timestamp::from_second(until).map_err(|_| Problem::Internal)?;
    Ok(answer(&json!({
        "resourceType": "Parameters",
        "parameter": [
            { "name": "patient", "valueReference": { "reference": reference } },
            { "name": "expires", "valueInstant": expires.to_string() },
        ],
    })))
}

/// The alarm of an emergency and the TRC assertion, for one country.
async fn record_treatment(
    clinic: &Clinic,
    bearer: &Bearer,
    context: &Context,
    treated: &Treated,
    confirmed: &Confirmation,
) -> Result<(), Problem> {
    let call = clinic.treatment_call(bearer, treated)?;
    let peer = PeerFacts {
        country: call.peer.country.to_string(),
        home_community_id: call.peer.home_community_id.to_string(),
        address: context.address.ip().to_string(),
        ..PeerFacts::default()
    };
    if confirmed.emergency {
        let event = Event::EmergencyStarted {
            user: call.caller.requestor(),
            patient: treated.person.patient.clone(),
            rule: "emergency access confirmed by a professional".to_owned(),
            justification: confirmed.reason.clone(),
            peer: peer.clone(),
        };
        clinic.record(&event, context).await?;
    }
    let event = Event::TrcIssued {
        user: call.caller.requestor(),
        assertion: super::assertion_id(&treated.trc),
        patient: treated.person.patient.clone(),
        purpose: call.caller.claims.purpose.as_str().to_owned(),
        peer,
    };
    clinic.record(&event, context).await
}

/// The same patient in further countries, as `$match` found her there. Persons with different birth dates are not one.
fn elsewhere(clinic: &Clinic, bearer: &Bearer, person: &Person, references: &[String]) -> Result<Vec<Also>, Problem> {
    let mut out: Vec<Also> = Vec::with_capacity(references.len());
    for reference in references {
        let path = reference.strip_prefix(&clinic.config.base_url).and_then(|path| path.strip_prefix("/p/"));
        let (sealed, id) = path.and_then(|path| path.split_once("/fhir/Patient/")).ok_or(Problem::NotFound)?;
        let Sealed::Unconfirmed(other) = clinic.open(bearer, sealed)? else { return Err(Problem::NotFound) };
        if patient_id(&other) != id {
            return Err(Problem::NotFound);
        }
        if other.country == person.country || out.iter().any(|known| known.country == other.country) {
            return Err(Problem::Request("also-same-country", "One person of each country can be confirmed at once."));
        }
        if person.birth_date.is_some() && other.birth_date.is_some() && person.birth_date != other.birth_date {
            return Err(Problem::Request("also-other-person", "The birth dates differ: this is another person."));
        }
        let Person { country, patient, birth_date, .. } = other;
        out.push(Also { country, patient, birth_date, trc: *uuid::Uuid::new_v4().as_bytes() });
    }
    Ok(out)
}

struct Confirmation {
    emergency: bool,
    /// Why an emergency; kept on the trail.
    reason: String,
    valid_until: Option<i64>,
    /// The same person in further countries: `fullUrl` of their entries.
    also: Vec<String>,
}

fn confirmation(body: &[u8]) -> Result<Confirmation, Problem> {
    let malformed =
        || Problem::Request("confirm-request", "Expected Parameters with purpose and relationship, as JSON.");
    let value = ncp_xml::json::read_last(body).map_err(|_| malformed())?;
    let (mut purpose, mut relationship, mut reason, mut valid_until) = (None, false, String::new(), None);
    let mut also = Vec::new();
    for parameter in value.get("parameter").and_then(Value::as_array).ok_or_else(malformed)? {
        let text = |key: &str| parameter.get(key).and_then(Value::as_str);
        match parameter.get("name").and_then(Value::as_str) {
            Some("purpose") => purpose = parameter.pointer("/valueCoding/code").and_then(Value::as_str),
            Some("relationship") => relationship = parameter.get("valueBoolean") == Some(&Value::Bool(true)),
            Some("reason") => reason = text("valueString").unwrap_or_default().trim().to_owned(),
            Some("also") if also.len() < ALSO => {
                let reference = parameter.pointer("/valueReference/reference").and_then(Value::as_str);
                also.push(reference.ok_or_else(malformed)?.to_owned());
            }
            Some("validUntil") => {
                let at: Timestamp = text("valueInstant").and_then(|t| t.parse().ok()).ok_or_else(malformed)?;
                valid_until = Some(at.as_second());
            }
            _ => return Err(malformed()),
        }
    }
    bounded::texts([reason.as_str()])?;
    let emergency = match purpose {
        Some("TREAT") => false,
        Some(code) if is_emergency(code) => true,
        _ => return Err(Problem::Request("purpose", "purpose must be TREAT, ETREAT or BTG.")),
    };
    if !relationship {
        return Err(Problem::Request(
            "relationship-missing",
            "relationship must be true: the patient is under treatment.",
        ));
    }
    if emergency && reason.is_empty() {
        return Err(Problem::Request("reason-missing", "Emergency access needs a reason."));
    }
    Ok(Confirmation { emergency, reason, valid_until, also })
}

pub(super) fn patient_reference(clinic: &Clinic, bearer: &Bearer, treated: &Treated) -> Result<String, Problem> {
    let sealed = clinic.seal(bearer, &Sealed::Confirmed(treated.clone()))?;
    Ok(format!("{}/Patient/{}", clinic.base('p', &sealed, "fhir"), patient_id(&treated.person)))
}

/// Whether one of the media types may be sent; a missing header takes all.
pub(super) fn accepts(headers: &HeaderMap, types: &[&str]) -> bool {
    let mut ranges = headers.get_all(header::ACCEPT).iter().peekable();
    if ranges.peek().is_none() {
        return true;
    }
    ranges.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|range| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        essence == "*/*"
            || types.iter().any(|t| {
                let kind = t.split('/').next().unwrap_or_default();
                t.eq_ignore_ascii_case(essence) || essence.strip_suffix("/*") == Some(kind)
            })
    })
}

pub(super) fn answer(body: &Value) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, FHIR_JSON)], Body::from(body.to_string())).into_response()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn match_takes_a_patient_or_the_closed_list() {
        let patient = r#"{"resourceType":"Patient","identifier":[{"system":"urn:oid:2.999.1","value":"17"},{"system":"https://x","value":"1"}],"birthDate":"1977-05-30","gender":"male"}"#;
        let bare = match_request(patient.as_bytes()).expect("bare");
        assert_eq!((bare.sought.ids.len(), bare.sought.birth_date.as_deref()), (1, Some("19770530")));
        let with = |extra: &str| {
            let text = format!(
                r#"{{"resourceType":"Parameters","parameter":[{{"name":"resource","resource":{patient}}}{extra}]}}"#
            );
            match_request(text.as_bytes())
        };
        assert!(with(r#",{"name":"onlyCertainMatches","valueBoolean":true}"#).expect("options").only_certain);
        assert!(with(r#",{"name":"surprise","valueBoolean":true}"#).is_err());
        assert!(match_request(b"[]").is_err());
        assert!(match_request(&[b'['; 4096]).is_err());
    }

    #[test]
    fn a_confirmation_states_purpose_and_relationship() {
        let body = |rest: &str| {
            format!(
                r#"{{"resourceType":"Parameters","parameter":[{{"name":"relationship","valueBoolean":true}}{rest}]}}"#
            )
        };
        let purpose = |code: &str| format!(r#",{{"name":"purpose","valueCoding":{{"code":"{code}"}}}}"#);
        assert!(!confirmation(body(&purpose("TREAT")).as_bytes()).expect("treatment").emergency);
        assert!(confirmation(body(&purpose("BTG")).as_bytes()).is_err(), "emergency without reason");
        let reason = r#",{"name":"reason","valueString":"unconscious"}"#;
        let given = body(&format!("{}{reason}", purpose("ETREAT")));
        assert!(confirmation(given.as_bytes()).expect("emergency").emergency);
        assert!(confirmation(body("").as_bytes()).is_err(), "no purpose");
        let refused = body(&purpose("TREAT")).replace("true", "false");
        assert!(confirmation(refused.as_bytes()).is_err(), "no relationship");
    }

    #[test]
    fn accept_is_honoured() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            accepts(&headers, &["text/xml"])
        };
        assert!(accepts(&HeaderMap::new(), &["text/xml"]));
        assert!(with("*/*") && with("text/*;q=0.5") && with("image/png, text/xml"));
        assert!(!with("image/png"));
    }
}
