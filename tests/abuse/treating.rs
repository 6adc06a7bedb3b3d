//! Finland as the country of treatment: its gateway asks Norway's, for clinicians' systems (FHIR, DICOMweb) and for national
//! consumers (ITI-18, ITI-43, RAD-69).

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use ncp_tests::base::Base;
use ncp_tests::consumer::Consumer;
use ncp_tests::issuer::{BASE, Issuer};
use ncp_tests::neighbour::{XCA, XCAI, XCPD};
use ncp_tests::pki::{Algorithm, Use, peer_pin};
use serde_json::{Value, json};

use crate::world::{Gateway, HOME, PATIENT, World};

/// Name of the gateway in its users' assertions.
const AUDIENCE: &str = "https://ncp.example";

/// The configuration, which outlives its gateways: what one of them sealed the next one opens.
pub(crate) struct Treating {
    config: PathBuf,
    anchors: PathBuf,
    issuer: Issuer,
}

/// Its gateway, which has kept nothing yet.
pub(crate) struct Asker<'a> {
    treating: &'a Treating,
    pub(crate) gateway: Gateway,
    pub(crate) consumer: Consumer,
}

impl Treating {
    /// Norway listens on this port.
    pub(crate) fn new(world: &World, port: u16) -> Self {
        let pki = world.pki("fi");
        pki.leaf("consumer", Use::Client, Algorithm::P256, 0, 90).expect("a leaf");
        pki.leaf("xua", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
        let issuer = Issuer::create(world.dir.path()).expect("an issuer");
        std::fs::write(world.path("fi-consent.toml"), "").expect("writes");
        let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/fi");
        let at = |path: &str| format!("https://localhost:{port}{path}");
        let base = Base {
            country: "FI",
            home: "2.999.246",
            name: "Finland",
            ports: [0, 0],
            pki: "fi",
            spool: "spool-treating",
            source: "treating",
            policies: &policies.display().to_string(),
            consent: "fi-consent.toml",
        };
        let sides = format!(
            r#"[consumer]
listen = "127.0.0.1:0"
certificate = "fi/tls-server.pem"
key = "fi/tls-server.key"
tls_anchors = "fi/anchors.pem"
assertion_anchors = "fi/anchors.pem"
pin = {{ tls_client = ["consumer.ncp.fi"], seal = ["xua.ncp.fi"] }}
audiences = ["{AUDIENCE}"]
organisation = {{ name = "University hospital", id = "urn:oid:2.999.246.10", locality = "Radiology" }}
[consumer.roles."221"]
code = "221"
display = "Medical Doctors"
permissions = ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"]
{clinician}
[[peer]]
country = "NO"
name = "Norway"
home_community_id = "urn:oid:{HOME}"
xcpd = "{xcpd}"
xca = "{xca}"
xcai = "{xcai}"
patient_roots = ["2.16.578.1.12.4.1.4.1"]
tls_anchors = "no/anchors.pem"
seal_anchors = "no/anchors.pem"
{pin}"#,
            clinician = Issuer::section("fi"),
            xcpd = at(XCPD),
            xca = at(XCA),
            xcai = at(XCAI),
            pin = peer_pin("NO"),
        );
        let config = world.path("treating.toml");
        std::fs::write(&config, base.toml() + &sides).expect("writes");
        Self { config, anchors: pki.path("anchors.pem"), issuer }
    }

    /// Starts the gateway.
    pub(crate) async fn start(&self, world: &World) -> Asker<'_> {
        let gateway = Gateway::start(self.config.clone()).await;
        let port = gateway.consumers.expect("a consumers' side").port();
        let consumer = Consumer::new(&world.pki("fi"), &self.anchors, AUDIENCE, port).expect("a consumer");
        Asker { treating: self, gateway, consumer }
    }

    /// The configuration, for a gateway in a process of its own.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    pub(crate) fn issuer(&self) -> &Issuer {
        &self.issuer
    }
}

/// What a clinician's system knows of a study from the time when it was open.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The base of the treatment.
    pub(crate) base: String,
    /// Where the manifest's bytes are.
    pub(crate) document: String,
    /// The DICOMweb root of the study.
    pub(crate) root: String,
}

impl Asker<'_> {
    /// One call with a token: status, and the body if it came whole. `url` is one that the gateway handed out, or a path.
    pub(crate) async fn call(&self, token: &str, url: &str, body: Option<&Value>) -> (u16, Option<Bytes>) {
        let address = self.gateway.clinic.expect("a clinicians' side");
        let anchors = std::slice::from_ref(&self.treating.anchors);
        let connector = ncp_tls::anonymous_connector(anchors, b"\x08http/1.1").expect("a connector");
        let http: ncp_tls::HttpClient<Full<Bytes>> =
            ncp_tls::http_client(connector, None, std::time::Duration::from_secs(30));
        let path = url.strip_prefix(BASE).unwrap_or(url);
        let request = Request::builder()
            .method(if body.is_some() { "POST" } else { "GET" })
            .uri(format!("https://localhost:{}{path}", address.port()))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/fhir+json")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .expect("a request");
        let response = http.request(request).await.expect("answers");
        (response.status().as_u16(), response.into_body().collect().await.ok().map(|whole| whole.to_bytes()))
    }

    async fn json(&self, token: &str, url: &str, body: Option<&Value>) -> Result<Value, u16> {
        let (status, bytes) = self.call(token, url, body).await;
        let read = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if status == 200 { read.ok_or(status) } else { Err(status) }
    }

    /// Finds the patient and confirms the treatment: the base, or nothing where nobody is found.
    ///
    /// # Errors
    /// The status of a refusal.
    pub(crate) async fn treat(&self, token: &str) -> Result<Option<String>, u16> {
        let (id, authority) = PATIENT.split_once("^^^&").expect("a CX");
        let system = format!("urn:oid:{}", authority.trim_end_matches("&ISO"));
        let person = json!({ "resourceType": "Patient", "identifier": [{ "system": system, "value": id }] });
        let found = self.json(token, "/fhir/Patient/$match", Some(&person)).await?;
        let entries = found["entry"].as_array().into_iter().flatten();
        let mut matches = entries.filter(|e| e["resource"]["resourceType"] == "Patient");
        let Some(url) = matches.find_map(|e| e["fullUrl"].as_str()) else { return Ok(None) };
        let confirmed = json!({ "resourceType": "Parameters", "parameter": [
            { "name": "purpose", "valueCoding": { "code": "TREAT" } },
            { "name": "relationship", "valueBoolean": true },
        ] });
        let confirmed = self.json(token, &format!("{url}/$confirm-treatment"), Some(&confirmed)).await?;
        let reference = confirmed.pointer("/parameter/0/valueReference/reference").and_then(Value::as_str);
        let base = reference.and_then(|reference| reference.split_once("/Patient/")).map(|(base, _)| base.to_owned());
        Ok(Some(base.expect("a base")))
    }

    /// Learns where the manifest of this id and its study are.
    pub(crate) async fn learn(&self, token: &str, manifest: &str) -> Known {
        let base = self.treat(token).await.expect("no refusal").expect("the patient");
        let listed = self.json(token, &format!("{base}/DocumentReference"), None).await.expect("a list");
        let entries = listed["entry"].as_array().expect("entries").iter().map(|entry| &entry["resource"]);
        let id = Value::from(format!("urn:oid:{manifest}"));
        let entry = entries.into_iter().find(|entry| entry["masterIdentifier"]["value"] == id).expect("the manifest");
        let urls = entry["extension"].as_array().expect("extensions").iter().filter_map(|e| e["valueUrl"].as_str());
        let root = urls.into_iter().find(|url| url.ends_with("/dicomweb")).expect("a root").to_owned();
        let document = entry.pointer("/content/0/attachment/url").and_then(Value::as_str).expect("an address");
        Known { base, document: document.to_owned(), root }
    }
}
