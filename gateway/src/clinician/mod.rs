//! NCP-B towards its own health professionals: FHIR and DICOMweb, with a bearer token and without a session.
//!
//! ```text
//! token     who calls, from a verified JWT
//! authenticated  the caller's proof, and the permit that is made from it
//! sealed    what an earlier call found, from the base URL
//! fhir      $match, $confirm-treatment                          => initiating
//! search    DocumentReference                                  => initiating
//! documents Binary                                              => initiating
//! dicomweb  a study, a series, an instance, their metadata      => initiating
//! qido      what the manifest lists
//! resources FHIR resources out of XDS metadata
//! bounded   bodies and texts of calls
//! problem   every error to status and OperationOutcome
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use ncp_audit::Event;
use ncp_ihe::PatientId;
use ncp_saml::Purpose;
use ncp_tls::{OpenConnection, SenderKnown};
use openssl::hash::MessageDigest;
use tokio::net::TcpListener;

use self::status::Statuses;
use crate::admission::Capacity;
use crate::app::App;
use crate::config::{Clinician, Peer};
use crate::initiating::{Call, Caller, Treatment};
use crate::listener::serve_connection;
use crate::recent::Recent;

mod authenticated;
mod bounded;
pub mod dicomweb;
pub mod documents;
pub mod dpop;
pub mod fhir;
pub mod prefer;
pub mod problem;
pub mod qido;
pub mod reader;
pub mod resources;
pub mod sealed;
pub mod search;
mod status;
pub mod token;

pub use authenticated::Authenticated;

use authenticated::Admitted;
use dpop::Proofs;
use problem::Problem;
use sealed::{Hcp, Sealed, Sealer, Treated};
use token::Bearer;

/// Media type of FHIR.
pub const FHIR_JSON: &str = "application/fhir+json; charset=utf-8";
/// Header fields of a request, bytes, as on the other listeners (T-HTTP-3).
const HEADER_BYTES: usize = 32 << 10;
/// Calls carried at once: in all, for one professional, and for one network.
const CALLS: (usize, usize, usize) = (256, 32, 192);

/// The clinicians' side.
pub struct Clinic {
    /// The program.
    pub app: Arc<App>,
    /// `[clinician]`
    pub config: Clinician,
    sealer: Sealer,
    proofs: Proofs,
    /// Manifests by the sealed base that leads to them: a viewer asks for one study many times.
    manifests: Recent<String, dicomweb::Shown>,
    /// What became of the instances of studies that were shown.
    statuses: Statuses,
    capacity: Capacity,
}

/// Where a call came from and under which reference the trail, the log and the caller know it.
#[derive(Debug, Clone)]
pub struct Context {
    /// The other end.
    pub address: SocketAddr,
    /// `X-Request-Id`.
    pub reference: String,
    /// Method and path of the call, which a proof of possession names.
    pub called: (Method, String),
    /// The client certificate of the connection.
    certificate: Certificate,
    connection: OpenConnection,
    admitted: Admitted,
}

/// SHA-256 of the client certificate that a connection shows, base64url; none when it shows none.
#[derive(Debug, Clone, Default)]
struct Certificate(Option<String>);

impl Clinic {
    /// Reads keys; nothing is bound.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn new(app: Arc<App>, config: &Clinician) -> Result<Self, String> {
        let sealer = Sealer::load(&config.sealing_key_file).map_err(|e| format!("clinician.sealing_key_file: {e}"))?;
        let proofs = Proofs::open(&app.config.audit.spool_dir.join("proofs.journal"))?;
        Ok(Self {
            app,
            config: config.clone(),
            sealer,
            proofs,
            manifests: Recent::default(),
            statuses: Statuses::default(),
            capacity: Capacity::new(CALLS.0, CALLS.1, CALLS.2),
        })
    }

    async fn record(&self, event: &Event, context: &Context) -> Result<(), Problem> {
        self.app.audit.event(event, &context.reference).await.map_err(|error| {
            tracing::error!(reason = %error, "event not stored");
            Problem::Internal
        })
    }

    fn seal(&self, bearer: &Bearer, facts: &Sealed) -> Result<String, Problem> {
        self.sealer.seal(&bearer.subject, facts).ok_or(Problem::Internal)
    }

    /// The facts of a base URL, if it is this caller's, with these claims, and not expired.
    fn open(&self, bearer: &Bearer, text: &str) -> Result<Sealed, Problem> {
        let facts = self.sealer.open(&bearer.subject, text).ok_or(Problem::NotFound)?;
        let person = match &facts {
            Sealed::Unconfirmed(person) => person,
            Sealed::Confirmed(treated) | Sealed::Document(treated, _) => &treated.person,
        };
        let claims = bearer.claims.as_ref().ok_or(Problem::Role)?;
        if person.hcp.claims != digest(claims) {
            return Err(Problem::NotFound);
        }
        match (&facts, person.expires > Timestamp::now().as_second()) {
            (_, true) => Ok(facts),
            (Sealed::Unconfirmed(_), false) => Err(Problem::Conflict),
            (_, false) => Err(Problem::NotFound),
        }
    }

    /// The exchange that a confirmed treatment allows.
    fn treatment_call(&self, bearer: &Bearer, treated: &Treated) -> Result<Call, Problem> {
        let person = &treated.person;
        let patient = PatientId::parse_cx(&person.patient).map_err(|_| Problem::NotFound)?;
        let instant = |seconds| Timestamp::from_second(seconds).map_err(|_| Problem::NotFound);
        let treatment = Treatment {
            patient,
            trc_id: assertion_id(&treated.trc),
            issued: instant(treated.issued)?,
            until: instant(person.expires)?,
        };
        let peer = self.peer(&person.country)?;
        Ok(self.call(peer, self.caller(bearer, &person.hcp)?, Some(treatment)))
    }

    fn call(&self, peer: Arc<Peer>, caller: Caller, treatment: Option<Treatment>) -> Call {
        Call { app: self.app.clone(), snapshot: self.app.snapshot.load_full(), peer, caller, treatment, wait: None }
    }

    fn peer(&self, country: &str) -> Result<Arc<Peer>, Problem> {
        let snapshot = self.app.snapshot.load();
        snapshot.peers.iter().find(|p| p.country.as_str() == country).cloned().ok_or(Problem::NotFound)
    }

    /// The professional again as at the first call.
    fn caller(&self, bearer: &Bearer, hcp: &Hcp) -> Result<Caller, Problem> {
        let mut claims = bearer.claims.clone().ok_or(Problem::Role)?;
        claims.purpose = if hcp.emergency { Purpose::Emergency } else { Purpose::Treatment };
        claims.authn_instant = Timestamp::from_second(hcp.login).map_err(|_| Problem::NotFound)?;
        let issued = Timestamp::from_second(hcp.issued).map_err(|_| Problem::NotFound)?;
        Ok(Caller { share: bearer.subject.clone(), claims, hcp_id: assertion_id(&hcp.id), issued })
    }

    fn base(&self, kind: char, sealed: &str, interface: &str) -> String {
        format!("{}/{kind}/{sealed}/{interface}", self.config.base_url)
    }
}

fn assertion_id(bytes: &[u8; 16]) -> String {
    format!("_{}", uuid::Uuid::from_bytes(*bytes))
}

/// What makes the professional another one: everything that other countries are told, without login time and purpose.
fn digest(claims: &ncp_saml::HcpClaims) -> [u8; 16] {
    let mut parts: Vec<&str> = vec![
        &claims.name_id,
        &claims.subject_name,
        &claims.role.code,
        &claims.organisation,
        &claims.organisation_id,
        &claims.locality,
        claims.npi.as_deref().unwrap_or_default(),
        &claims.authn_context_class,
    ];
    parts.extend(claims.permissions.iter().map(String::as_str));
    let mut hasher = openssl::sha::Sha256::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finish()[..16]);
    out
}

/// The routes.
pub fn routes(clinic: Arc<Clinic>) -> Router {
    Router::new()
        .route("/fhir/metadata", get(fhir::metadata))
        .route("/fhir/Patient/$match", post(fhir::search_patient))
        .route("/p/{sealed}/fhir/Patient/{id}/$confirm-treatment", post(fhir::confirm_treatment))
        .route("/p/{sealed}/fhir/DocumentReference", get(search::search_documents))
        .route("/p/{sealed}/fhir/DocumentReference/_search", post(search::post_search))
        .route("/p/{sealed}/fhir/Binary/{id}", get(documents::read_binary))
        .nest("/s/{sealed}/dicomweb", dicomweb_routes())
        .fallback(|| async { Problem::NotFound })
        .method_not_allowed_fallback(|| async { Problem::Method })
        .layer(middleware::from_fn_with_state(clinic.clone(), around))
        .with_state(clinic)
}

fn dicomweb_routes() -> Router<Arc<Clinic>> {
    Router::new()
        .route("/studies", get(qido::search_studies))
        .route("/status", get(status::status))
        .route("/studies/{study}", get(dicomweb::retrieve))
        .route("/studies/{study}/metadata", get(dicomweb::metadata))
        .route("/studies/{study}/series", get(qido::search_series))
        .route("/studies/{study}/instances", get(qido::search_instances))
        .route("/studies/{study}/series/{series}", get(dicomweb::retrieve))
        .route("/studies/{study}/series/{series}/metadata", get(dicomweb::metadata))
        .route("/studies/{study}/series/{series}/instances", get(qido::search_instances))
        .route("/studies/{study}/series/{series}/instances/{instance}", get(dicomweb::retrieve))
        .route("/studies/{study}/series/{series}/instances/{instance}/metadata", get(dicomweb::metadata))
}

/// Around every call: its reference, and the headers of every answer. A call has a permit once its caller is known.
async fn around(State(clinic): State<Arc<Clinic>>, mut request: Request, next: Next) -> Response {
    let reference = uuid::Uuid::new_v4().to_string();
    let address = request.extensions().get::<SocketAddr>().copied().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let called = (request.method().clone(), request.uri().path().to_owned());
    let certificate = request.extensions().get::<Certificate>().cloned().unwrap_or_default();
    let connection = request.extensions().get::<OpenConnection>().cloned().unwrap_or_default();
    let admitted = Admitted::default();
    let context =
        Context { address, reference: reference.clone(), called, certificate, connection, admitted: admitted.clone() };
    request.extensions_mut().insert(context.clone());
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let response = if header_bytes > HEADER_BYTES {
        tracing::info!(ncp.reference = %reference, reason = ?Problem::Headers, "refused");
        Problem::Headers.response(&reference)
    } else {
        let response = next.run(request).await;
        let mut response = match response.extensions().get::<Arc<Problem>>() {
            Some(problem) => {
                // Of a token that was refused the log has the rule already.
                if !matches!(**problem, Problem::Token | Problem::Scope(_)) {
                    tracing::info!(ncp.reference = %reference, reason = ?problem, "refused");
                }
                clinic.recorded(problem.clone(), &context).await.response(&reference)
            }
            None => response,
        };
        if admitted.is_some() {
            response.extensions_mut().insert(SenderKnown);
        }
        // The call has its permit until the last byte has gone.
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &admitted;
                frame
            }))
        })
    };
    with_headers(response, &reference)
}

fn with_headers(mut response: Response, reference: &str) -> Response {
    const FIXED: [(&str, &str); 4] = [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
    ];
    let headers = response.headers_mut();
    for (name, value) in FIXED {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.extend(HeaderValue::try_from(reference).ok().map(|v| (HeaderName::from_static("x-request-id"), v)));
    response
}

impl IntoResponse for Problem {
    /// Carries the problem to `around`, which knows the reference.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Accepts clinicians' systems until the drain begins.
pub async fn serve(clinic: Arc<Clinic>, listener: TcpListener) {
    let (routes, drain, app) = (routes(clinic.clone()), clinic.app.drain.clone(), clinic.app.clone());
    let (bounds, serving) = (app.config.limits.bounds(), app.clone());
    let acceptor = move || app.snapshot.load().clinician_acceptor.clone();
    ncp_tls::accept_until(listener, acceptor, bounds, drain.stopping(), move |accepted, address| {
        let (routes, app) = (routes.clone(), serving.clone());
        async move {
            match accepted {
                Ok(stream) => {
                    let shown = stream.ssl().peer_certificate().and_then(|c| c.digest(MessageDigest::sha256()).ok());
                    let shown = Certificate(shown.map(|digest| URL_SAFE_NO_PAD.encode(digest)));
                    let service = routes.layer(axum::Extension(address)).layer(axum::Extension(shown));
                    serve_connection(stream, TowerToHyperService::new(service), &app).await;
                }
                Err(error) => tracing::debug!(reason = %error, "handshake with a clinician's system failed"),
            }
        }
    })
    .await;
}
