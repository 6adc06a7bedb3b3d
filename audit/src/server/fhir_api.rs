//! FHIR over mutual TLS: the RESTful feed (ITI-20, ATX: FHIR Feed) and the search of audit events (ITI-81).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use ncp_proto::audit::Found;
use ncp_tls::{CertificateFacts, ShownCertificate, SslAcceptor, Times};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Config;
use super::bundle::{self, Told, Unread};
use super::iti81::{self, Parameters, QueryError};
use super::repository::{Incoming, Kept};
use super::service::{Shared, reason};
use super::store::Place;
use super::token::{Issuer, Refused};
use crate::AuditError;

/// Header in which a person says why the trail is read; a patient who reads her own says nothing.
const REASON: &str = "x-audit-reason";
const BODY: Duration = Duration::from_secs(30);
/// Messages of one page of a search, bytes; what does not fit is on the next one.
const PAGE: usize = 16 << 20;
/// A Bundle may be so long, bytes.
const LONGEST: usize = 16 << 20;
/// A form of search parameters may be so long, bytes: a query with every byte escaped.
const FORM: usize = 4 * iti81::LONGEST;

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Api {
    shared: Shared,
    tokens: Option<Arc<Issuer>>,
    base: Arc<str>,
}

/// Who reads.
#[derive(Clone)]
enum Reader {
    /// A person whose certificate the configuration lists, with a reason: the whole trail.
    Auditor { name: String, reason: String },
    /// A patient by a token, brought by who has this certificate: her own trail.
    Patient { by: String, patient: String },
}

impl Reader {
    /// As the trail names who read; a patient's identifier stands in the index only as a hash.
    fn shown(&self) -> String {
        match self {
            Self::Auditor { name, .. } => name.clone(),
            Self::Patient { by, .. } => format!("patient by {by}"),
        }
    }

    /// Whose share of the readers it takes.
    fn name(&self) -> String {
        match self {
            Self::Auditor { name, .. } => name.clone(),
            Self::Patient { patient, .. } => format!("patient {patient}"),
        }
    }

    /// As the trail says what was read and why.
    fn told(&self, query: &str) -> String {
        match self {
            Self::Auditor { reason, .. } => format!("{query} reason={reason}"),
            Self::Patient { .. } => query.to_owned(),
        }
    }

    /// The only patient whose records are shown.
    fn only(&self) -> Option<&str> {
        match self {
            Self::Auditor { .. } => None,
            Self::Patient { patient, .. } => Some(patient),
        }
    }
}

impl Api {
    /// # Errors
    /// The keys of the patients' issuer.
    pub(super) fn new(shared: Shared, config: &Config, address: SocketAddr) -> Result<Self, AuditError> {
        let tokens = match (&config.token_issuer, &config.token_audience, &config.jwks_file) {
            (Some(issuer), Some(audience), Some(file)) => {
                let taken = ncp_tls::Taken::configured(config.token_life_seconds, config.untyped_tokens);
                Some(Arc::new(Issuer::load(issuer, audience, file, taken).map_err(AuditError::Repository)?))
            }
            _ => None,
        };
        let base = config.fhir_base.clone().unwrap_or_else(|| format!("https://{address}"));
        Ok(Self { shared, tokens, base: base.trim_end_matches('/').into() })
    }
}

impl Api {
    /// The name of a caller's certificate, if `may` admits it; otherwise the refusal is recorded.
    async fn admitted(
        &self,
        caller: &ShownCertificate,
        may: impl Fn(&CertificateFacts) -> bool,
        rule: &'static str,
    ) -> Result<String, Response> {
        let refusal = || problem(StatusCode::FORBIDDEN, "forbidden", &format!("This {rule}."));
        let certificate = caller.0.as_ref().filter(|c| !c.common_name.is_empty()).ok_or_else(refusal)?;
        if may(certificate) {
            return Ok(certificate.common_name.clone());
        }
        self.shared.refused(certificate, rule).await;
        Err(refusal())
    }
}

/// Serves until told to stop.
pub(super) async fn serve(api: Api, listener: TcpListener, acceptor: SslAcceptor, mut stop: watch::Receiver<bool>) {
    let routes = axum::Router::new()
        .route("/", post(bundle))
        .route("/AuditEvent", post(create).get(search))
        .route("/AuditEvent/_search", post(search_by_post))
        .route("/AuditEvent/{id}", get(read))
        .route("/metadata", get(metadata))
        .fallback(async || problem(StatusCode::NOT_FOUND, "not-found", "Here are AuditEvent and metadata only."))
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "not-supported", "Records are neither changed nor deleted.")
        })
        .with_state(api);
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    ncp_tls::serve_routes(listener, acceptor, routes, Times::default(), stopped).await;
}

fn fhir(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/fhir+json"), (header::CACHE_CONTROL, "no-store")],
        Json(body).0.to_string(),
    )
        .into_response()
}

pub(super) fn outcome(code: &str, text: &str) -> Value {
    let issue = json!({ "severity": "error", "code": code, "diagnostics": text });
    json!({ "resourceType": "OperationOutcome", "issue": [issue] })
}

fn problem(status: StatusCode, code: &str, text: &str) -> Response {
    fhir(status, &outcome(code, text))
}

fn unavailable() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "transient", "Records cannot be stored or read now.")
}

/// Why nothing was read.
fn unread(error: &AuditError) -> Response {
    match error {
        AuditError::TooCostly => problem(
            StatusCode::BAD_REQUEST,
            "too-costly",
            "The search takes too long: ask for less time or for fewer values.",
        ),
        AuditError::Busy => {
            let mut busy = problem(StatusCode::SERVICE_UNAVAILABLE, "throttled", "Too many searches at once.");
            busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            busy
        }
        _ => unavailable(),
    }
}

async fn body_of(body: Body, longest: usize) -> Result<Vec<u8>, Response> {
    let read = tokio::time::timeout(BODY, to_bytes(body, longest)).await;
    match read {
        Err(_) => Err(problem(StatusCode::REQUEST_TIMEOUT, "timeout", "The body did not come.")),
        Ok(Err(_)) => Err(problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-long",
            &format!("The body is longer than {} KiB.", longest >> 10),
        )),
        Ok(Ok(bytes)) => Ok(bytes.into()),
    }
}

impl Api {
    /// Where a resource can be read.
    fn url(&self, place: Place) -> String {
        format!("{}/AuditEvent/{}", self.base, place.id())
    }

    /// Status, place and reason of what was sent.
    fn told(&self, kept: Kept) -> (StatusCode, Option<String>, String) {
        match kept {
            Kept::Stored(place) => (StatusCode::CREATED, Some(self.url(place)), String::new()),
            Kept::Duplicate(place) => (StatusCode::OK, place.map(|place| self.url(place)), String::new()),
            Kept::Rejected { why, apart } => {
                let kept = if apart { "was" } else { "was not" };
                let text = format!("The body was not taken as an AuditEvent ({why}); it {kept} kept apart.");
                (StatusCode::UNPROCESSABLE_ENTITY, None, text)
            }
        }
    }
}

/// Refused before the body is read.
async fn sender(api: &Api, caller: &ShownCertificate) -> Result<String, Response> {
    let may = |certificate: &CertificateFacts| api.shared.access().may_send(certificate);
    api.admitted(caller, may, "certificate may not send audit events").await
}

async fn keep(api: &Api, source: String, resources: Vec<Vec<u8>>) -> Result<Vec<Kept>, Response> {
    let incoming = |bytes| Incoming { media_type: "application/fhir+json", content: Ok(bytes) };
    let messages = resources.into_iter().map(incoming).collect();
    api.shared.keep_foreign(source, "fhir", messages).await.map_err(|_| unavailable())
}

/// One AuditEvent.
async fn create(State(api): State<Api>, Extension(caller): Extension<ShownCertificate>, body: Body) -> Response {
    let source = match sender(&api, &caller).await {
        Ok(source) => source,
        Err(response) => return response,
    };
    let kept = match body_of(body, LONGEST).await {
        Ok(bytes) => keep(&api, source, vec![bytes]).await,
        Err(response) => return response,
    };
    let (status, location, problems) = match kept.map(|mut kept| kept.pop()) {
        Err(response) => return response,
        Ok(None) => return unavailable(),
        Ok(Some(kept)) => api.told(kept),
    };
    if !problems.is_empty() {
        return problem(status, "invalid", &problems);
    }
    let mut response = status.into_response();
    let location = location.and_then(|url| HeaderValue::from_str(&url).ok());
    response.headers_mut().extend(location.map(|url| (header::LOCATION, url)));
    response
}

/// Several, as a batch Bundle; each entry has a status of its own.
async fn bundle(State(api): State<Api>, Extension(caller): Extension<ShownCertificate>, body: Body) -> Response {
    let source = match sender(&api, &caller).await {
        Ok(source) => source,
        Err(response) => return response,
    };
    let bytes = match body_of(body, LONGEST).await {
        Ok(bytes) => bytes,
        Err(response) => return response,
    };
    let entries = match bundle::read(&bytes) {
        Ok(entries) => entries,
        Err(Unread::NotBundle) => {
            return problem(StatusCode::BAD_REQUEST, "invalid", "Expected a Bundle of AuditEvent resources.");
        }
        Err(Unread::TooMany) => {
            let text = format!("A Bundle has at most {} entries.", bundle::MOST);
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "too-long", &text);
        }
    };
    let resources = entries.iter().flatten().map(|resource| resource.as_bytes().to_vec()).collect();
    let mut kept = match keep(&api, source, resources).await {
        Ok(kept) => kept.into_iter(),
        Err(response) => return response,
    };
    let told = entries.iter().map(|entry| {
        let told = entry.and_then(|_| kept.next()).map(|kept| api.told(kept));
        // An entry that holds no resource is answered and nothing of it is kept.
        let nothing = || (StatusCode::UNPROCESSABLE_ENTITY, None, "The entry holds no resource.".to_owned());
        let (status, location, why) = told.unwrap_or_else(nothing);
        Told { status: status.as_u16(), location, why }
    });
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/fhir+json"), (header::CACHE_CONTROL, "no-store")],
        bundle::answer(told),
    )
        .into_response()
}

/// Who may read one event (`r`) or search (`s`); a token, where there is one, decides.
async fn reader(api: &Api, caller: &ShownCertificate, headers: &HeaderMap, right: char) -> Result<Reader, Response> {
    let access = api.shared.access();
    if !headers.contains_key(header::AUTHORIZATION) {
        let reads = |certificate: &CertificateFacts| access.may_read(certificate);
        let name = api.admitted(caller, reads, "certificate may not read the trail").await?;
        let given = headers.get(REASON).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
        return match reason(&given) {
            Ok(reason) => Ok(Reader::Auditor { name, reason: reason.to_owned() }),
            Err(why) => Err(problem(StatusCode::BAD_REQUEST, "required", &format!("{REASON}: {why}"))),
        };
    }
    let brings = |certificate: &CertificateFacts| access.may_bring_tokens(certificate);
    let by = api.admitted(caller, brings, "certificate may not bring tokens of patients").await?;
    let patient = ncp_tls::authorization(headers).zip(api.tokens.as_ref());
    let patient =
        patient.map_or(Err(Refused::Token), |(header, issuer)| issuer.patient(header, right, Timestamp::now()));
    patient.map(|patient| Reader::Patient { by, patient }).map_err(|refused| {
        let (status, code, text, challenge) = match refused {
            Refused::Token => {
                (StatusCode::UNAUTHORIZED, "login", "The token does not hold.", "Bearer error=\"invalid_token\"")
            }
            Refused::Scope => (
                StatusCode::FORBIDDEN,
                "forbidden",
                "The token's scope does not cover this.",
                "Bearer error=\"insufficient_scope\", scope=\"patient/AuditEvent.rs\"",
            ),
        };
        let mut refusal = problem(status, code, text);
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        refusal
    })
}

fn resource(place: Place, found: &Found) -> Value {
    let mut event = crate::fhir::shown(found).unwrap_or_else(|| json!({ "resourceType": "AuditEvent" }));
    event["id"] = place.id().into();
    event
}

/// ITI-81.
async fn search(
    State(api): State<Api>,
    Extension(caller): Extension<ShownCertificate>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    match reader(&api, &caller, &headers, 's').await {
        Ok(reader) => page(&api, reader, &query.unwrap_or_default()).await,
        Err(response) => response,
    }
}

/// ITI-81 with its parameters in a form, so that no identifier of a person stands in a URL.
async fn search_by_post(
    State(api): State<Api>,
    Extension(caller): Extension<ShownCertificate>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    let reader = match reader(&api, &caller, &headers, 's').await {
        Ok(reader) => reader,
        Err(response) => return response,
    };
    let form = "application/x-www-form-urlencoded";
    if !headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(form.as_bytes())) {
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-supported", &format!("Expected {form}."));
    }
    match body_of(body, FORM).await {
        Ok(body) => {
            let query = format!("{}&{}", query.unwrap_or_default(), String::from_utf8_lossy(&body));
            page(&api, reader, &query).await
        }
        Err(response) => response,
    }
}

/// One page of what was found.
async fn page(api: &Api, reader: Reader, query: &str) -> Response {
    let parameters = match Parameters::read(query, reader.only()) {
        Ok(parameters) => parameters,
        Err(QueryError::OtherPatient) => {
            return problem(StatusCode::FORBIDDEN, "forbidden", "The token is for another patient.");
        }
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.code(), &error.to_string()),
    };
    let query = reader.told(&parameters.told());
    let (by, asked) = (reader.shown(), parameters.clone());
    // The reading is on the trail before anything is read.
    let noted = api.shared.blocking(move |repository| {
        repository.own_event(&crate::Event::AuditLogUsed { user: by, query })?;
        Ok(asked.search(&|cx| repository.patient_hash(cx)))
    });
    let Ok(mut search) = noted.await else { return unavailable() };
    let (alone, counted, name) = (parameters.total_alone, parameters.total, reader.name());
    // One more than shown tells whether there is another page.
    search.limit = if alone { 0 } else { search.limit + 1 };
    let searched = api.shared.readers().run(&name, move |reader| {
        let (found, cut) = reader.page(&search, PAGE)?;
        let total = (alone || counted).then(|| reader.count(&search)).transpose()?;
        Ok((found, cut, total))
    });
    let (mut found, cut, total) = match searched.await {
        Ok(searched) => searched,
        Err(error) => return unread(&error),
    };
    let more = cut || found.len() > parameters.count as usize;
    found.truncate(parameters.count as usize);
    // The last page knows it without counting, unless it is beyond the end.
    let seen = u64::from(parameters.skip) + found.len() as u64;
    let total = total.or_else(|| (!more && (parameters.skip == 0 || !found.is_empty())).then_some(seen));
    let mut links = vec![
        json!({ "relation": "self", "url": format!("{}/AuditEvent?{}", api.base, parameters.link(parameters.skip)) }),
    ];
    if more {
        let next = parameters.link(parameters.skip + found.len() as u32);
        links.push(json!({ "relation": "next", "url": format!("{}/AuditEvent?{next}", api.base) }));
    }
    let entry = |(place, found): &(Place, Found)| json!({ "fullUrl": api.url(*place), "resource": resource(*place, found), "search": { "mode": "match" } });
    let entries: Vec<Value> = found.iter().map(entry).collect();
    let mut bundle = json!({ "resourceType": "Bundle", "type": "searchset" });
    if let Some(total) = total {
        bundle["total"] = total.into();
    }
    bundle["link"] = links.into();
    if !entries.is_empty() {
        bundle["entry"] = entries.into();
    }
    fhir(StatusCode::OK, &bundle)
}

async fn read(
    State(api): State<Api>,
    Extension(caller): Extension<ShownCertificate>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    let reader = match reader(&api, &caller, &headers, 'r').await {
        Ok(reader) => reader,
        Err(response) => return response,
    };
    let only = reader.only().map(str::to_owned);
    let place = Place::of_id(&id);
    let missing = || problem(StatusCode::NOT_FOUND, "not-found", "No such AuditEvent.");
    let Some(place) = place else { return missing() };
    let (name, user) = (reader.name(), reader.shown());
    let query = reader.told(&format!("AuditEvent/{}", place.id()));
    let noted = api.shared.blocking(move |r| r.own_event(&crate::Event::AuditLogUsed { user, query })).await;
    if noted.is_err() {
        return unavailable();
    }
    match api.shared.readers().run(&name, move |reader| reader.read(place)).await {
        Err(AuditError::Busy) => unread(&AuditError::Busy),
        Ok(found) if found.record.as_ref().is_some_and(|r| r.rejected.is_empty()) && is_of(&found, only.as_deref()) => {
            fhir(StatusCode::OK, &resource(place, &found))
        }
        _ => missing(),
    }
}

/// Whether a record is of the only patient that may be shown.
fn is_of(found: &Found, only: Option<&str>) -> bool {
    let patient = found.record.as_ref().and_then(|r| r.facts.as_ref()).map(|f| f.patient.as_str());
    only.is_none_or(|only| patient == Some(only))
}

async fn metadata(State(api): State<Api>) -> Response {
    let parameters: Vec<Value> =
        iti81::PARAMETERS.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect();
    let resource = json!({
        "type": "AuditEvent",
        "interaction": [{ "code": "create" }, { "code": "read" }, { "code": "search-type" }],
        "searchParam": parameters,
    });
    let documentation =
        format!("A person who reads the trail says why in the header {REASON}; a patient with a token does not.");
    let statement = json!({
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-24",
        "kind": "instance",
        "software": { "name": "ncp-audit", "version": env!("CARGO_PKG_VERSION") },
        "implementation": { "description": "Audit Record Repository", "url": &*api.base },
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json"],
        "rest": [{ "mode": "server", "documentation": documentation, "resource": [resource], "interaction": [{ "code": "batch" }] }],
    });
    fhir(StatusCode::OK, &statement)
}
