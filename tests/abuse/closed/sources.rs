//! The national sources of consent beside the file: a FHIR server with Consent resources and a country's own service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use ncp_example_national_service::{Holdings, Service, serve};
use ncp_proto::national as pb;
use ncp_tests::pki::{Algorithm, Use};
use ncp_tls::{ClientAuth, Material};
use serde_json::{Value, json};

use crate::world::{PATIENT, World};

/// Where a closing stands.
#[derive(Debug, Clone, Default)]
pub(super) enum Source {
    /// In the consent file, or in another file of the country.
    #[default]
    File,
    /// A FHIR server that has these Consents of the patient, and whether one is required.
    Fhir(Vec<Value>, bool),
    /// The country's own service, which answers this.
    Service(pb::GetConsentResponse),
}

/// The servers, and what the FHIR server has at the moment.
pub(super) struct Sources {
    consents: Arc<Mutex<Vec<Value>>>,
    fhir: String,
    /// Files of the gateway as a client of the service, as the configuration names them.
    tls: String,
    acceptor: ncp_tls::SslAcceptor,
}

impl Sources {
    /// Starts the FHIR server; the country's service is started for each answer.
    pub(super) async fn of(world: &World) -> Self {
        for (name, usage) in [("consent-client", Use::Client), ("consent-server", Use::Server)] {
            world.no.leaf(name, usage, Algorithm::P256, 0, 90).expect("a leaf");
        }
        let path = |name: &str| world.no.path(name);
        let server = Material::load(&path("consent-server.pem"), &path("consent-server.key")).expect("loads");
        let anchors = [path("anchors.pem")];
        let acceptor = server.acceptor(ClientAuth::Required, &anchors, b"\x02h2").expect("tls");
        let consents: Arc<Mutex<Vec<Value>>> = Arc::default();
        let routes =
            axum::Router::new().route("/fhir/Consent", axum::routing::get(search)).with_state(consents.clone());
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let fhir = format!("http://{}/fhir", socket.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(socket, routes).await });
        let tls = format!(
            "tls = {{ certificate = \"{}\", key = \"{}\", anchors = \"{}\" }}",
            path("consent-client.pem").display(),
            path("consent-client.key").display(),
            path("anchors.pem").display()
        );
        Self { consents, fhir, tls, acceptor }
    }

    /// Lets a source say what it says, and the section of the configuration that names it.
    pub(super) async fn section(&self, source: &Source) -> String {
        match source {
            Source::File => String::new(),
            Source::Fhir(consents, required) => {
                self.consents.lock().expect("not poisoned").clone_from(consents);
                format!("[policy.consent]\nurl = \"{}\"\nrequired = {required}\n", self.fhir)
            }
            Source::Service(says) => {
                let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
                let port = socket.local_addr().expect("bound").port();
                tokio::spawn(serve(Service(Arc::new(holdings(says.clone()))), socket, self.acceptor.clone()));
                format!(
                    "[policy.consent_service]\nendpoint = \"https://127.0.0.1:{port}\"\nserver_name = \"localhost\"\n{}\n",
                    self.tls
                )
            }
        }
    }
}

/// Id and authority of the patient.
fn person() -> (&'static str, &'static str) {
    let (id, authority) = PATIENT.split_once("^^^&").expect("a CX");
    (id, authority.trim_end_matches("&ISO"))
}

/// A service that knows the patient and nothing of hers but this.
fn holdings(consent: pb::GetConsentResponse) -> Holdings {
    let (id, authority) = person();
    let id = Some(pb::PatientId { id: id.into(), authority: authority.into() });
    let patient = pb::Patient { id, ..pb::Patient::default() };
    Holdings { patient, local_ids: Vec::new(), documents: Vec::new(), files: Vec::new(), consent }
}

/// `GET Consent`: what there is of the patient who is asked for.
async fn search(
    State(consents): State<Arc<Mutex<Vec<Value>>>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> impl IntoResponse {
    let (id, authority) = person();
    let of_patient = query.get("patient.identifier") == Some(&format!("urn:oid:{authority}|{id}"));
    let found = if of_patient { consents.lock().expect("not poisoned").clone() } else { Vec::new() };
    let entries: Vec<Value> = found.into_iter().map(|consent| json!({ "resource": consent })).collect();
    let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "total": entries.len(), "entry": entries });
    ([(header::CONTENT_TYPE, "application/fhir+json")], bundle.to_string())
}

/// An active Consent of the patient with these elements.
pub(super) fn consent(elements: Value) -> Value {
    let (id, authority) = person();
    let mut out = json!({
        "resourceType": "Consent",
        "status": "active",
        "scope": { "coding": [{ "code": "patient-privacy" }] },
        "patient": { "identifier": { "system": format!("urn:oid:{authority}"), "value": id } },
    });
    let all = out.as_object_mut().expect("an object");
    all.extend(elements.as_object().expect("an object").clone());
    out
}
