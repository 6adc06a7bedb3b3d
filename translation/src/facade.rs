//! The FHIR face, R4 under `/r4` and R5 under `/r5`, without a prefix by the Accept header's fhirVersion (R4 unless it
//! says 5.0): metadata, ConceptMap/$translate, CodeSystem/$lookup, CodeSystem/$validate-code,
//! ValueSet/$validate-code, ConceptMap?url=.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use ncp_tls::{OpenConnection, SenderKnown, ShownCertificate};
use serde_json::{Value, json};

use crate::relationship::Allowed;
use crate::service::validate;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::translate::{self, Answer, Match, Query};
use crate::{coverage, designation};

mod bearer;
mod parameters;

pub use bearer::Bearers;
use bearer::Who;
use parameters::Parameters;

/// Bytes of a request at most.
const BODY: usize = 1 << 20;
/// Time for them.
const BODY_TIME: Duration = Duration::from_secs(10);

/// FHIR release of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    R4,
    R5,
}

/// What is wrong with a request: HTTP status, issue code, text.
struct Refused(StatusCode, &'static str, String);

impl Refused {
    fn invalid(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, "invalid", text.into())
    }

    fn unknown(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, "not-found", text.into())
    }
}

/// What the handler needs.
#[derive(Clone)]
struct Facade {
    store: Store,
    bearers: Option<Arc<Bearers>>,
}

/// The routes for callers who were authenticated before.
pub fn routes(store: Store) -> Router {
    routed(Facade { store, bearers: None })
}

/// The routes for callers with a certificate, which [`ncp_tls::serve_routes`] shows, or a token.
pub fn routes_for(store: Store, bearers: Bearers) -> Router {
    routed(Facade { store, bearers: Some(Arc::new(bearers)) })
}

fn routed(facade: Facade) -> Router {
    Router::new().route("/{*path}", any(serve)).with_state(facade)
}

async fn serve(
    State(Facade { store, bearers }): State<Facade>,
    (shown, connection): (Option<Extension<ShownCertificate>>, Option<Extension<OpenConnection>>),
    method: Method,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let path = path.strip_prefix("fhir/").unwrap_or(&path);
    let (release, rest) = match path.split_once('/') {
        Some(("r4", rest)) => (Release::R4, rest),
        Some(("r5", rest)) => (Release::R5, rest),
        _ if accept.replace(' ', "").contains("fhirVersion=5.0") => (Release::R5, path),
        _ => (Release::R4, path),
    };
    let snapshot = store.serving();
    let token = ncp_tls::authorization(&headers);
    let certified = shown.is_some_and(|Extension(shown)| shown.0.is_some());
    let admitted = bearers.map_or(Ok(Who::Known), |bearers| bearers.admit(certified, token, rest));
    let is_known = matches!(admitted, Ok(Who::Known));
    if let Some(Extension(connection)) = connection.filter(|_| is_known) {
        connection.authenticated();
    }
    let answered = match (admitted, &method) {
        (Err(refused), _) => Err(refused),
        (Ok(_), &Method::GET) => Parameters::of_query(query.as_deref().unwrap_or_default()),
        (Ok(_), &Method::POST) => posted(body, BODY_TIME).await,
        (Ok(_), _) => Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "not-supported", "GET or POST".into())),
    };
    let answered = answered.and_then(|parameters| answer(&snapshot, release, rest, &method, &parameters));
    let version = if release == Release::R5 { "5.0" } else { "4.0" };
    let kind = format!("application/fhir+json; fhirVersion={version}; charset=utf-8");
    let (status, value) = match answered {
        Ok(value) => (StatusCode::OK, value),
        Err(Refused(status, code, text)) => {
            let issue = json!({"severity": "error", "code": code, "details": {"text": text}});
            (status, json!({"resourceType": "OperationOutcome", "issue": [issue]}))
        }
    };
    let mut response = (status, [(header::CONTENT_TYPE, kind)], value.to_string()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    if is_known {
        response.extensions_mut().insert(SenderKnown);
    }
    response
}

/// The parameters in the body of a caller who was admitted.
async fn posted(body: Body, within: Duration) -> Result<Parameters, Refused> {
    match tokio::time::timeout(within, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Parameters::of_body(&bytes),
        Ok(Err(_)) => Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, "too-long", "the body is longer than 1 MiB".into())),
        Err(_) => Err(Refused(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time".into())),
    }
}

fn answer(
    snapshot: &Snapshot,
    release: Release,
    path: &str,
    method: &Method,
    parameters: &Parameters,
) -> Result<Value, Refused> {
    if parameters.has("tx-resource") {
        return Err(Refused::invalid("tx-resource is not supported: content comes from built snapshots only"));
    }
    match path {
        "metadata" => Ok(capability(release)),
        "ConceptMap/$translate" => translated(snapshot, release, parameters),
        "CodeSystem/$lookup" => looked_up(snapshot, parameters),
        "CodeSystem/$validate-code" | "ValueSet/$validate-code" => validated(snapshot, path, parameters),
        "ConceptMap" if method == Method::GET => Ok(maps(snapshot, release, parameters)),
        _ => Err(Refused(StatusCode::NOT_FOUND, "not-supported", format!("{path} is not served"))),
    }
}

fn capability(release: Release) -> Value {
    let version = if release == Release::R5 { "5.0.0" } else { "4.0.1" };
    let operation = |name: &str, url: &str| json!({"name": name, "definition": format!("http://hl7.org/fhir/OperationDefinition/{url}")});
    json!({
        "resourceType": "CapabilityStatement", "status": "active", "date": "2026-11-24", "kind": "instance",
        "fhirVersion": version, "format": ["application/fhir+json"],
        "software": {"name": "ncp-translation", "version": env!("CARGO_PKG_VERSION")},
        "implementation": {"description": "Terminology service of a National Contact Point"},
        "rest": [{"mode": "server", "resource": [
            {"type": "ConceptMap", "interaction": [{"code": "search-type"}],
             "searchParam": [{"name": "url", "type": "uri"}],
             "operation": [operation("translate", "ConceptMap-translate")]},
            {"type": "CodeSystem", "operation": [
                operation("lookup", "CodeSystem-lookup"), operation("validate-code", "CodeSystem-validate-code")]},
            {"type": "ValueSet", "operation": [operation("validate-code", "ValueSet-validate-code")]},
        ]}],
    })
}

fn translated(snapshot: &Snapshot, release: Release, p: &Parameters) -> Result<Value, Refused> {
    let source = p
        .coding(&["sourceCoding", "coding"], &["sourceCodeableConcept", "codeableConcept"])
        .or_else(|| p.code(&["sourceCode", "code"], &["sourceSystem", "system"], &["sourceVersion", "version"]));
    let target = p
        .coding(&["targetCoding"], &["targetCodeableConcept"])
        .or_else(|| p.code(&["targetCode"], &["targetSystem"], &["targetVersion"]));
    let reverse = p.flag("reverse") || (source.is_none() && target.is_some());
    let map = match (p.first(&["url"]), p.first(&["conceptMapVersion"])) {
        (Some(url), Some(version)) => format!("{url}|{version}"),
        (Some(url), None) => url,
        (None, _) => String::new(),
    };
    let context = p.dependencies();
    let asked = if reverse { target.or(source) } else { source };
    let Some((system, version, code)) = asked else {
        return Err(Refused::invalid("a code with its system, a coding or a codeableConcept is required"));
    };
    let other = if reverse {
        p.first(&["sourceSystem", "targetsystem"])
    } else {
        p.first(&["targetSystem", "targetsystem"]).or_else(|| target_scope(snapshot, p))
    };
    let query = Query {
        system: &system,
        version: &version,
        code: &code,
        target_system: other.as_deref().unwrap_or_default(),
        map: &map,
        context: &context,
        allowed: Allowed::ALL,
    };
    let answer = if reverse { translate::reverse(snapshot, &query) } else { translate::translate(snapshot, &query) };
    let answer = answer.map_err(|e| Refused::unknown(e.to_string()))?;
    let asked = (system.as_str(), code.as_str());
    Ok(matches(snapshot, release, &answer, reverse.then_some(asked), p))
}

/// A scope names a value set; a whole code system behind it serves as its system.
fn target_scope(snapshot: &Snapshot, p: &Parameters) -> Option<String> {
    let scope = p.first(&["targetScope", "target"])?;
    let known = snapshot.maps().find(|m| m.current && m.scopes[1] == scope)?;
    Some(known.target.to_owned())
}

fn matches(
    snapshot: &Snapshot,
    release: Release,
    answer: &Answer,
    reversed: Option<(&str, &str)>,
    p: &Parameters,
) -> Value {
    let coding = |system: &str, code: &str, display: &str| {
        let url = snapshot.system(system).map_or(system, |s| snapshot.system_url(s)).to_owned();
        let mut out = json!({"system": url, "code": code});
        if !display.is_empty() {
            out["display"] = display.into();
        }
        out
    };
    let language = p.first(&["displayLanguage"]);
    let part = |m: &Match| {
        let named = match (&language, m.concept) {
            (Some(language), Some(concept)) => {
                designation::choose(snapshot, concept, std::slice::from_ref(language)).map(|d| d.text)
            }
            _ => None,
        };
        let found = coding(&m.system, &m.code, &named.unwrap_or_else(|| m.display.clone()));
        // The reverse answer names the asked code as concept and what was found as source.
        let (concept, source, relationship) = match reversed {
            Some((system, code)) => (
                coding(system, code, ""),
                Some(json!({"system": found["system"], "code": found["code"]})),
                m.relationship.reversed(),
            ),
            None => (found, None, m.relationship),
        };
        let word = match release {
            Release::R4 => json!({"name": "equivalence", "valueCode": relationship.r4()}),
            Release::R5 => json!({"name": "relationship", "valueCode": relationship.r5()}),
        };
        let mut parts = vec![word, json!({"name": "concept", "valueCoding": concept})];
        if let Some(map) = m.via.last() {
            let info = snapshot.map(*map);
            let canonical = format!("{}|{}", info.url, info.version);
            parts.push(json!({"name": "originMap", "valueCanonical": canonical.trim_end_matches('|')}));
        }
        if let Some(source) = source {
            parts.push(json!({"name": "source", "valueCoding": source}));
        }
        for product in m.row.iter().flat_map(|r| snapshot.products(r).collect::<Vec<_>>()) {
            let name = if release == Release::R4 { "element" } else { "attribute" };
            let value = coding(product.system, product.value, product.display);
            parts.push(json!({"name": "product", "part": [
                {"name": name, "valueUri": product.name},
                {"name": if release == Release::R4 { "concept" } else { "value" }, "valueCoding": value}]}));
        }
        json!({"name": "match", "part": parts})
    };
    let positive = |m: &&Match| m.relationship != crate::relationship::Relationship::NotRelated;
    let result = answer.matches.iter().any(|m| positive(&m));
    let mut parameter = vec![json!({"name": "result", "valueBoolean": result})];
    if !result {
        let why = answer.issues.first().map_or("no map has a target for the code", |i| i.reason);
        parameter.push(json!({"name": "message", "valueString": why}));
    }
    parameter.extend(answer.matches.iter().chain(&answer.rejected).map(part));
    json!({"resourceType": "Parameters", "parameter": parameter})
}

fn asked(p: &Parameters, system: &[&str]) -> Result<(String, String, String), Refused> {
    p.coding(&["coding"], &["codeableConcept"])
        .or_else(|| p.code(&["code"], system, &["version", "systemVersion"]))
        .ok_or_else(|| Refused::invalid("a code with its system is required"))
}

fn looked_up(snapshot: &Snapshot, p: &Parameters) -> Result<Value, Refused> {
    let (system, version, code) = asked(p, &["system"])?;
    let number = snapshot.system(&system).ok_or_else(|| Refused::unknown("unknown code system"))?;
    let concept = snapshot.find_folded(number, &code).ok_or_else(|| Refused::unknown("unknown code"))?;
    let content = snapshot.contents(concept).find(|c| version.is_empty() || c.version == version);
    if !version.is_empty() && content.is_none() {
        return Err(Refused::unknown("unknown version, or the code is not in it"));
    }
    let language = p.first(&["displayLanguage"]).unwrap_or_else(|| "en".into());
    let chosen = designation::choose(snapshot, concept, &[language]).map(|d| d.text);
    let display = chosen.or_else(|| snapshot.names(concept).next().map(|n| n.text.to_owned()));
    let name = snapshot.versions(number).next().map_or_else(|| snapshot.system_name(number), |v| v.name);
    let mut parameter = vec![json!({"name": "name", "valueString": name})];
    if let Some(content) = content {
        parameter.push(json!({"name": "version", "valueString": content.version}));
    }
    parameter.push(json!({"name": "display", "valueString": display.unwrap_or_default()}));
    if content.is_some_and(|c| !c.active) {
        parameter.push(json!({"name": "property", "part": [
            {"name": "code", "valueCode": "inactive"}, {"name": "value", "valueBoolean": true}]}));
    }
    for name in snapshot.names(concept) {
        let mut parts = vec![json!({"name": "value", "valueString": name.text})];
        if !name.language.is_empty() {
            parts.insert(0, json!({"name": "language", "valueCode": name.language}));
        }
        parameter.push(json!({"name": "designation", "part": parts}));
    }
    Ok(json!({"resourceType": "Parameters", "parameter": parameter}))
}

fn validated(snapshot: &Snapshot, path: &str, p: &Parameters) -> Result<Value, Refused> {
    let value_set = path.starts_with("ValueSet");
    let (system, version, code) = asked(p, if value_set { &["system"] } else { &["url", "system"] })?;
    let set = if value_set {
        let url = p.first(&["url"]).ok_or_else(|| Refused::invalid("url of the value set is required"))?;
        p.first(&["valueSetVersion"]).map_or(url.clone(), |v| format!("{url}|{v}"))
    } else {
        String::new()
    };
    let found = validate(snapshot, &system, &version, &code, &set);
    let found = found.ok_or_else(|| Refused::unknown("unknown value set or code system"))?;
    let mut parameter = vec![json!({"name": "result", "valueBoolean": found.valid})];
    if !found.message.is_empty() {
        parameter.push(json!({"name": "message", "valueString": found.message}));
    }
    if !found.display.is_empty() {
        parameter.push(json!({"name": "display", "valueString": found.display}));
    }
    Ok(json!({"resourceType": "Parameters", "parameter": parameter}))
}

/// ConceptMap?url=: the maps without their rows.
fn maps(snapshot: &Snapshot, release: Release, p: &Parameters) -> Value {
    let url = p.first(&["url"]);
    let entries: Vec<Value> = snapshot
        .maps()
        .filter(|m| url.as_deref().is_none_or(|u| u == m.url))
        .map(|m| {
            let words = if release == Release::R5 { ["sourceScopeUri", "targetScopeUri"] } else { ["sourceUri", "targetUri"] };
            let mut map = json!({
                "resourceType": "ConceptMap", "url": m.url, "version": m.version, "status": m.status,
                "meta": {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}]},
            });
            for (word, scope) in words.iter().zip(m.scopes) {
                if !scope.is_empty() {
                    map[*word] = scope.into();
                }
            }
            json!({"resource": map})
        })
        .collect();
    json!({"resourceType": "Bundle", "type": "searchset", "total": entries.len(), "entry": entries})
}

/// The coverage page and its figures as JSON.
pub fn coverage_routes(store: Store, counters: crate::counters::Counters) -> Router {
    let page = |State((store, counters)): State<(Store, crate::counters::Counters)>| async move {
        let counted =
            tokio::task::spawn_blocking(move || coverage::count(&store.serving(), Some(&counters), 100)).await;
        match counted {
            Ok(counted) => axum::response::Html(coverage::page(&counted)).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new().route("/coverage", axum::routing::get(page)).with_state((store, counters))
}

#[cfg(test)]
mod tests;
