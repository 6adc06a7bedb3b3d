//! `$match`, `$confirm-treatment`, DocumentReference and Binary (`facade.md` 2).

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use ncp_audit::{Event, PeerFacts};
use ncp_ihe::{
    Association, DocumentEntry, DocumentRequest, FindDocuments, HomeCommunityId, Oid, PatientId, PatientMatch,
    PersonName, StoredQuery,
};
use serde_json::{Value, json};

use super::problem::{self, Problem};
use super::resources::{self, Places};
use super::sealed::{Document, Hcp, Person, Sealed, Treated, resource_id};
use super::token::{Bearer, is_emergency};
use super::{Clinic, Context, FHIR_JSON, digest};
use crate::config::Peer;
use crate::initiating::discover::{Sought, discover};
use crate::initiating::query::{Found, query};
use crate::initiating::retrieve::{Retrieved, Wanted, retrieve};
use crate::initiating::{Call, Caller};
use crate::outcome::GatewayError;

/// How long a search may wait for its confirmation.
const UNCONFIRMED: Duration = Duration::from_secs(30 * 60);
/// Emergency access at most (`facade.md` 2.1).
const EMERGENCY: Duration = Duration::from_secs(30 * 60);
/// Documents of one answer.
const DOCUMENTS: usize = 1000;
/// Association of a transformation; the source is the translation.
const XFRM: &str = "urn:ihe:iti:2007:AssociationType:XFRM";

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
    body: Bytes,
) -> Result<Response, Problem> {
    let bearer = clinic.bearer(&context, &headers, &[("ITI-119", "Patient")], "user/Patient.rs").await?;
    let claims = bearer.claims.clone().ok_or(Problem::Role)?;
    let wanted = match_request(&body)?;
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
    let answers = join_all(asked.into_iter().map(|(peer, sought)| {
        let call = clinic.call(peer.clone(), caller.clone(), None);
        async move {
            let found = discover(&call, sought.clone()).await;
            (peer, found.map(|matches| (matches, sought)))
        }
    }))
    .await;
    matches(&clinic, &bearer, &hcp, &wanted, answers, &context)
}

/// One country's part of a `$match`.
type Answered = (Arc<Peer>, Result<(Vec<PatientMatch>, Sought), GatewayError>);

struct MatchRequest {
    sought: Sought,
    only_certain: bool,
    count: usize,
}

/// Parameters with the closed list of PDQm, or the bare Patient.
fn match_request(body: &[u8]) -> Result<MatchRequest, Problem> {
    let malformed = || Problem::Request("match-request", "Expected a Patient or Parameters with a Patient, as JSON.");
    let value: Value = serde_json::from_slice(body).map_err(|_| malformed())?;
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
    Ok(MatchRequest { sought: sought(patient.ok_or_else(malformed)?), only_certain, count })
}

fn sought(patient: &Value) -> Sought {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let list = |key: &str| patient.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let ids = list("identifier").into_iter().filter_map(|identifier| {
        let root = Oid::parse(text(&identifier, "system")?.strip_prefix("urn:oid:")?).ok()?;
        PatientId::new(text(&identifier, "value")?.trim(), root).ok()
    });
    let name = list("name").first().and_then(|name| {
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
    Sought { ids: ids.collect(), name, birth_date, gender }
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
            Ok((matches, sought)) => {
                answered = true;
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
                let mut issue = problem.warning(&context.reference);
                if let Some(map) = issue.as_object_mut() {
                    map.insert("extension".into(), json!([resources::home_extension(&peer.home_community_id)]));
                }
                issues.push(issue);
                failures.push(problem);
            }
        }
    }
    if !answered && let Some(first) = failures.into_iter().next() {
        return Err(first);
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
    Ok(answer(&resources::searchset(None, entries, issues)))
}

fn patient_id(person: &Person) -> String {
    resource_id(&[&person.country, &person.patient])
}

/// `POST /p/{unconfirmed}/fhir/Patient/{id}/$confirm-treatment`: purpose and relationship are stated, the TRC assertion
/// is issued and recorded (EHDSI-92).
pub async fn confirm_treatment(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path((sealed, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let bearer = clinic.bearer(&context, &headers, &[("ITI-119", "Patient")], "user/Patient.rs").await?;
    let Sealed::Unconfirmed(person) = clinic.open(&bearer, &sealed)? else { return Err(Problem::NotFound) };
    if patient_id(&person) != id {
        return Err(Problem::NotFound);
    }
    let confirmed = confirmation(&body)?;
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
    let treated = Treated { person, trc: *uuid::Uuid::new_v4().as_bytes(), issued: now };
    let call = clinic.treatment_call(&bearer, &treated)?;
    let peer = PeerFacts {
        country: call.peer.country.to_string(),
        home_community_id: call.peer.home_community_id.to_string(),
        address: context.address.ip().to_string(),
        ..PeerFacts::default()
    };
    if confirmed.emergency {
        let rule = "emergency access confirmed by a professional".to_owned();
        clinic.record(&Event::SecurityAlert { rule, peer: peer.clone() }, &context).await?;
    }
    let event = Event::TrcIssued {
        user: call.caller.requestor(),
        assertion: super::assertion_id(&treated.trc),
        patient: treated.person.patient.clone(),
        purpose: call.caller.claims.purpose.as_str().to_owned(),
        peer,
    };
    clinic.record(&event, &context).await?;
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

struct Confirmation {
    emergency: bool,
    valid_until: Option<i64>,
}

fn confirmation(body: &[u8]) -> Result<Confirmation, Problem> {
    let malformed =
        || Problem::Request("confirm-request", "Expected Parameters with purpose and relationship, as JSON.");
    let value: Value = serde_json::from_slice(body).map_err(|_| malformed())?;
    let (mut purpose, mut relationship, mut reason, mut valid_until) = (None, false, false, None);
    for parameter in value.get("parameter").and_then(Value::as_array).ok_or_else(malformed)? {
        let text = |key: &str| parameter.get(key).and_then(Value::as_str);
        match parameter.get("name").and_then(Value::as_str) {
            Some("purpose") => purpose = parameter.pointer("/valueCoding/code").and_then(Value::as_str),
            Some("relationship") => relationship = parameter.get("valueBoolean") == Some(&Value::Bool(true)),
            Some("reason") => reason = text("valueString").is_some_and(|t| !t.trim().is_empty()),
            Some("validUntil") => {
                let at: Timestamp = text("valueInstant").and_then(|t| t.parse().ok()).ok_or_else(malformed)?;
                valid_until = Some(at.as_second());
            }
            _ => return Err(malformed()),
        }
    }
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
    if emergency && !reason {
        return Err(Problem::Request("reason-missing", "Emergency access needs a reason."));
    }
    Ok(Confirmation { emergency, valid_until })
}

fn patient_reference(clinic: &Clinic, bearer: &Bearer, treated: &Treated) -> Result<String, Problem> {
    let sealed = clinic.seal(bearer, &Sealed::Confirmed(treated.clone()))?;
    Ok(format!("{}/Patient/{}", clinic.base('p', &sealed, "fhir"), patient_id(&treated.person)))
}

/// `GET /p/{confirmed}/fhir/DocumentReference` (ITI-67): what the patient's country lists.
pub async fn search_documents(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path(sealed): Path<String>,
    RawQuery(parameters): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let covering = [("ITI-67", "DocumentReference")];
    let bearer = clinic.bearer(&context, &headers, &covering, "user/DocumentReference.rs").await?;
    let text = "Confirm the treatment relationship first: POST Patient/{id}/$confirm-treatment.";
    let Sealed::Confirmed(treated) = clinic.open(&bearer, &sealed)? else {
        return Err(Problem::Request("treatment-not-confirmed", text));
    };
    let filter = Filter::read(parameters.as_deref().unwrap_or_default(), &treated)?;
    let call = clinic.treatment_call(&bearer, &treated)?;
    let patient = PatientId::parse_cx(&treated.person.patient).map_err(|_| Problem::NotFound)?;
    let all = StoredQuery::FindDocuments(FindDocuments::of_patient(patient));
    let found = query(&call, all).await.map_err(|error| Problem::Country(call.peer.name.clone(), error))?;
    let own = format!("{}/DocumentReference", clinic.base('p', &sealed, "fhir"));
    documents(&clinic, &bearer, &treated, &call, found, &filter, own, &context)
}

/// What a search narrows to; what is not known is ignored, as MHD says.
#[derive(Default)]
struct Filter {
    types: Vec<String>,
    content_types: Vec<String>,
    study: Option<String>,
}

impl Filter {
    fn read(query: &str, treated: &Treated) -> Result<Self, Problem> {
        let mut out = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "patient" if value.rsplit('/').next() != Some(&patient_id(&treated.person)) => {
                    return Err(Problem::Request("patient", "patient is not the one of this base."));
                }
                "type" => out.types.extend(value.split(',').map(|v| v.rsplit('|').next().unwrap_or(v).to_owned())),
                "contenttype" => out.content_types.extend(value.split(',').map(ToOwned::to_owned)),
                "study-instance-uid" => out.study = Some(value.trim_start_matches("urn:oid:").to_owned()),
                _ => {}
            }
        }
        Ok(out)
    }

    fn takes(&self, entry: &DocumentEntry) -> bool {
        (self.types.is_empty() || self.types.contains(&entry.type_code.code))
            && (self.content_types.is_empty() || self.content_types.contains(&entry.mime_type))
            && self
                .study
                .as_ref()
                .is_none_or(|study| entry.study_instance_uid().is_some_and(|uid| uid.as_str() == study))
    }
}

#[allow(clippy::too_many_arguments)]
fn documents(
    clinic: &Clinic,
    bearer: &Bearer,
    treated: &Treated,
    call: &Call,
    found: Found,
    filter: &Filter,
    own: String,
    context: &Context,
) -> Result<Response, Problem> {
    let issue = |code: &str, detail: &str, text: String| {
        problem::outcome_issue("warning", code, detail, &text, &context.reference)
    };
    let mut issues = Vec::new();
    if !found.incomplete.is_empty() {
        issues.push(issue("incomplete", "country-partial", format!("{} could not list everything.", call.peer.name)));
    }
    if found.unusable > 0 {
        let text = format!("{} entries of {} could not be used.", found.unusable, call.peer.name);
        issues.push(issue("incomplete", "entries-unusable", text));
    }
    let mut lines = lines(&found.entries, &found.associations);
    lines.retain(|(shown, _)| filter.takes(shown));
    if lines.len() > DOCUMENTS {
        return Err(Problem::TooLarge);
    }
    lines.sort_by(|(a, _), (b, _)| b.service_start.cmp(&a.service_start).then_with(|| a.unique_id.cmp(&b.unique_id)));
    let patient = patient_reference(clinic, bearer, treated)?;
    let home = &call.peer.home_community_id;
    let mut entries = Vec::with_capacity(lines.len());
    for (shown, original) in lines {
        let original_facts = original.map(|o| sealed_document(o, None));
        let original_url = match &original_facts {
            Some(facts) => Some(binary_url(clinic, bearer, treated, facts)?),
            None => None,
        };
        let facts = sealed_document(shown, original_facts.map(Box::new));
        let content = binary_url(clinic, bearer, treated, &facts)?;
        let study = match (&facts.study, shown.is_manifest()) {
            (Some(_), true) => {
                let sealed = clinic.seal(bearer, &Sealed::Document(treated.clone(), facts.clone()))?;
                Some(clinic.base('s', &sealed, "dicomweb"))
            }
            _ => None,
        };
        let id = document_id(treated, &facts);
        let places = Places {
            id: &id,
            patient: &patient,
            content: &content,
            original: original_url.as_deref(),
            dicomweb: study.as_deref(),
        };
        let resource = resources::document_reference(shown, home, &places);
        entries.push(json!({
            "fullUrl": format!("{own}/{id}"),
            "resource": resource,
            "search": { "mode": "match" },
        }));
    }
    Ok(answer(&resources::searchset(Some(own), entries, issues)))
}

/// One line for a document: its translation with the original behind it, where there is one.
fn lines<'a>(
    entries: &'a [DocumentEntry],
    associations: &[Association],
) -> Vec<(&'a DocumentEntry, Option<&'a DocumentEntry>)> {
    let by_uuid = |uuid: &str| entries.iter().find(|e| e.entry_uuid == uuid);
    let pairs: Vec<(&str, &str)> = associations
        .iter()
        .filter(|a| a.kind == XFRM && by_uuid(&a.source).is_some() && by_uuid(&a.target).is_some())
        .map(|a| (a.source.as_str(), a.target.as_str()))
        .collect();
    let hidden = |entry: &&DocumentEntry| !pairs.iter().any(|(_, original)| *original == entry.entry_uuid);
    let original_of =
        |entry: &DocumentEntry| pairs.iter().find(|(t, _)| *t == entry.entry_uuid).and_then(|p| by_uuid(p.1));
    entries.iter().filter(hidden).map(|entry| (entry, original_of(entry))).collect()
}

fn sealed_document(entry: &DocumentEntry, original: Option<Box<Document>>) -> Document {
    let announced = !entry.is_delayed_assembly();
    let hash = entry.hash.as_deref().and_then(|h| hex::decode(h).ok()).and_then(|h| <[u8; 20]>::try_from(h).ok());
    Document {
        repository: entry.repository_unique_id.to_string(),
        unique_id: entry.unique_id.clone(),
        hash: hash.filter(|_| announced),
        size: entry.size.filter(|_| announced),
        media_type: entry.mime_type.clone(),
        language: entry.language.clone(),
        study: entry.study_instance_uid().map(|uid| uid.to_string()),
        source_patient: entry.source_patient_id.as_ref().map(|id| id.extension.clone()),
        original,
    }
}

fn document_id(treated: &Treated, document: &Document) -> String {
    resource_id(&[&treated.person.country, &document.repository, &document.unique_id])
}

fn binary_url(clinic: &Clinic, bearer: &Bearer, treated: &Treated, document: &Document) -> Result<String, Problem> {
    let sealed = clinic.seal(bearer, &Sealed::Document(treated.clone(), document.clone()))?;
    Ok(format!("{}/Binary/{}", clinic.base('p', &sealed, "fhir"), document_id(treated, document)))
}

/// `GET /p/{document}/fhir/Binary/{id}` (ITI-68): one document by ITI-39.
pub async fn read_binary(
    State(clinic): State<Arc<Clinic>>,
    Extension(context): Extension<Context>,
    Path((sealed, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bearer = clinic.bearer(&context, &headers, &[("ITI-68", "Binary")], "user/Binary.r").await?;
    let Sealed::Document(treated, document) = clinic.open(&bearer, &sealed)? else {
        return Err(Problem::NotFound);
    };
    if document_id(&treated, &document) != id {
        return Err(Problem::NotFound);
    }
    let as_resource = headers.get(header::ACCEPT).is_some_and(|v| v.as_bytes().starts_with(b"application/fhir+json"));
    if !as_resource && !accepts(&headers, &[&document.media_type]) {
        return Err(Problem::NotAcceptable);
    }
    let call = clinic.treatment_call(&bearer, &treated)?;
    let fetched = fetch(&call, &document).await.map_err(|error| Problem::Country(call.peer.name.clone(), error))?;
    if as_resource {
        let data = base64::engine::general_purpose::STANDARD.encode(&fetched.bytes);
        return Ok(answer(&json!({
            "resourceType": "Binary", "id": id, "contentType": document.media_type, "data": data,
        })));
    }
    let original = match &document.original {
        Some(original) => Some(binary_url(&clinic, &bearer, &treated, original)?),
        None => None,
    };
    Ok(content(&document, fetched.bytes, original.as_deref()))
}

/// The document by ITI-39, checked against what was sealed of its metadata.
pub(super) async fn fetch(call: &Call, document: &Document) -> Result<Retrieved, GatewayError> {
    let wanted = Wanted {
        request: DocumentRequest {
            home: Some(HomeCommunityId(call.peer.home_community_id.0.clone())),
            repository: Oid::parse(&document.repository)?,
            document: document.unique_id.clone(),
        },
        hash: document.hash.map(hex::encode),
        size: document.size,
    };
    retrieve(call, &wanted).await
}

/// A document as an answer: never run by a browser, with its digest, with the way to its original.
fn content(document: &Document, bytes: Bytes, original: Option<&str>) -> Response {
    let digest = openssl::sha::sha256(&bytes);
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: String| {
        headers.extend(HeaderValue::try_from(value).ok().map(|v| (HeaderName::from_static(name), v)));
    };
    set("content-type", document.media_type.clone());
    set("content-language", document.language.clone());
    set("repr-digest", format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest)));
    match original {
        Some(url) => set("link", format!("<{url}>; rel=\"original\"")),
        None => set("x-ncp-original-digest", hex::encode(digest)),
    }
    set("content-security-policy", "sandbox".into());
    if ["html", "xml", "svg"].iter().any(|kind| document.media_type.contains(kind)) {
        set("content-disposition", "attachment".into());
    }
    response
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

fn answer(body: &Value) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, FHIR_JSON)], Body::from(body.to_string())).into_response()
}

#[cfg(test)]
mod tests {
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
