//! What a clinician's system can send to the gateway of its own country: calls of FHIR and DICOMweb that lead elsewhere or
//! never end, addresses of somebody else, and the tokens of [`super::tokens`].

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use ncp_ihe::PatientId;
use ncp_tls::{HttpClient, TlsConnector};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Finding, tokens};
use crate::issuer::Issuer;
use crate::neighbour::server_name;
use crate::pki::Error;

/// Refused by the path or the body.
pub(super) const BAD: &str = "HTTP 400";
/// Not there, or not for this caller.
const ABSENT: &str = "HTTP 404";
/// The call ends before its token.
const UNSEEN: &str = "HTTP 401 invalid_token";
/// A good answer.
pub(super) const GOOD: &str = "HTTP 200";
const FHIR: &str = "application/fhir+json";
const SEARCH: &str = "/fhir/Patient/$match";

/// A clinician's system, and what is known of the gateway that it calls.
pub struct Clinician<'a> {
    /// Signs tokens that the gateway takes.
    pub issuer: &'a Issuer,
    /// `iss` of its tokens.
    pub name: String,
    /// The gateway's base, which is `aud` of the tokens too: `https://host`, as it stands in the addresses that it hands out.
    pub base: String,
    /// A patient of another country, who has a document there.
    pub patient: PatientId,
    connector: TlsConnector,
    http: HttpClient<Full<Bytes>>,
    host: String,
    port: u16,
}

/// One call and what may be answered.
pub struct Call {
    /// Id of the threat table.
    pub id: String,
    /// What is sent.
    pub input: String,
    /// Any of these answers is right.
    pub expected: Vec<&'static str>,
    /// The bytes of the whole request, as they are sent.
    pub message: Vec<u8>,
}

/// The addresses that the gateway handed out for the patient.
pub struct KnownUrls {
    /// The match, before a treatment is confirmed.
    pub found: String,
    /// Base of the confirmed treatment.
    pub base: String,
    /// A document.
    pub document: String,
    /// DICOMweb root, study and series, where the patient has a study.
    pub images: Option<(String, String, String)>,
}

/// The parts of one call.
pub(super) struct Asked<'a> {
    pub(super) authorization: String,
    pub(super) url: &'a str,
    pub(super) header: (&'a str, &'a str),
    pub(super) body: Option<String>,
}

impl<'a> Clinician<'a> {
    /// A system that calls a gateway on `host:port`.
    ///
    /// # Errors
    /// Files, OpenSSL.
    pub fn new(
        issuer: &'a Issuer,
        (name, base): (&str, &str),
        anchors: &Path,
        (host, port): (&str, u16),
        patient: PatientId,
    ) -> Result<Self, Error> {
        let connector = || ncp_tls::anonymous_connector(&[anchors.to_owned()], b"\x08http/1.1");
        let http = ncp_tls::http_client(connector()?, None, Duration::from_secs(30));
        let (name, base, host) = (name.to_owned(), base.to_owned(), host.to_owned());
        Ok(Self { issuer, name, base, patient, connector: connector()?, http, host, port })
    }

    /// The claims of a good token.
    pub(super) fn claims(&self, subject: &str) -> Value {
        let mut claims = Issuer::claims(subject);
        claims["iss"] = json!(self.name);
        claims["aud"] = json!(self.base);
        claims
    }

    pub(super) fn bearer(&self, subject: &str) -> Result<String, Error> {
        Ok(format!("Bearer {}", self.issuer.sign(&self.claims(subject), Some("at+jwt"))?))
    }

    /// The resource by which the patient is searched for.
    pub(super) fn person(&self) -> Value {
        let identifier = json!({ "system": self.patient.root.urn(), "value": self.patient.extension });
        json!({ "resourceType": "Patient", "identifier": [identifier] })
    }

    /// Walks the good way once: search, treatment, list, study.
    ///
    /// # Errors
    /// A gateway that does not serve it.
    pub async fn learn(&self) -> Result<KnownUrls, Error> {
        let found = self.good(SEARCH, Some(&self.person())).await?;
        let entries = found["entry"].as_array().into_iter().flatten();
        let mut matches = entries.filter(|entry| entry["resource"]["resourceType"] == "Patient");
        let found = matches.find_map(|entry| entry["fullUrl"].as_str()).ok_or("the patient is not found")?.to_owned();
        let confirmed = self.good(&format!("{found}/$confirm-treatment"), Some(&treatment("TREAT", true, &[]))).await?;
        let reference = confirmed.pointer("/parameter/0/valueReference/reference").and_then(Value::as_str);
        let (base, _) = reference.and_then(|url| url.split_once("/Patient/")).ok_or("no base of a treatment")?;
        let listed = self.good(&format!("{base}/DocumentReference"), None).await?;
        let resources: Vec<&Value> =
            listed["entry"].as_array().into_iter().flatten().map(|entry| &entry["resource"]).collect();
        let document = resources.iter().find_map(|r| r.pointer("/content/0/attachment/url")?.as_str());
        let urls = resources.iter().filter_map(|r| r["extension"].as_array()).flatten();
        let root = urls.filter_map(|e| e["valueUrl"].as_str()).find(|url| url.ends_with("/dicomweb"));
        let images = match root {
            Some(root) => Some(self.study(root).await?),
            None => None,
        };
        let document = document.ok_or("the patient has no document")?.to_owned();
        Ok(KnownUrls { found, base: base.to_owned(), document, images })
    }

    async fn study(&self, root: &str) -> Result<(String, String, String), Error> {
        let of = |list: &Value, tag: &str| {
            list[0][tag]["Value"][0].as_str().map(ToOwned::to_owned).ok_or_else(|| format!("no {tag} in QIDO-RS"))
        };
        let study = of(&self.good(&format!("{root}/studies"), None).await?, "0020000D")?;
        let series = of(&self.good(&format!("{root}/studies/{study}/series"), None).await?, "0020000E")?;
        Ok((root.to_owned(), study, series))
    }

    async fn good(&self, url: &str, body: Option<&Value>) -> Result<Value, Error> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}:{}{}", server_name(&self.host), self.port, self.path(url)))
            .header("authorization", self.bearer("hpr-1")?)
            .header("content-type", FHIR)
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))?;
        let response = self.http.request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("{method} of a good call: {status}").into());
        }
        Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
    }

    fn path<'u>(&self, url: &'u str) -> &'u str {
        url.strip_prefix(&self.base).unwrap_or(url)
    }

    /// All rows.
    ///
    /// # Errors
    /// Signing.
    pub fn rows(&self, known: &KnownUrls) -> Result<Vec<Call>, Error> {
        let mut rows = Rows { of: self, known, good: self.bearer("hpr-1")?, out: Vec::new() };
        tokens::rows(&mut rows)?;
        rows.bodies();
        rows.references();
        rows.searches();
        rows.addresses()?;
        rows.treatments();
        rows.paths();
        Ok(rows.out)
    }

    /// Sends a row, byte for byte as it stands, and says what came back.
    pub async fn run(&self, row: &Call) -> Finding {
        let got = match self.send(&row.message).await {
            Ok(heard) => verdict(&String::from_utf8_lossy(&heard)),
            Err(error) => format!("no answer: {error}"),
        };
        Finding::new(&row.id, &row.input, &row.expected, got)
    }

    /// Sends bytes and hears what comes until the connection ends.
    ///
    /// # Errors
    /// The connection or its TLS handshake fails.
    pub async fn send(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let limit = Duration::from_secs(10);
        let name = server_name(&self.host);
        let mut stream = ncp_tls::connect(&self.connector, &self.host, self.port, name, limit).await?;
        // What is refused early is not read to its end.
        let _ = stream.write_all(message).await;
        let _ = stream.flush().await;
        let mut heard = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut heard)).await;
        Ok(heard)
    }
}

/// One word for an answer: its status, the code of its challenge, and whether it gives a script back.
fn verdict(heard: &str) -> String {
    let (head, body) = heard.split_once("\r\n\r\n").unwrap_or((heard, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or("nothing");
    let challenge = head.lines().find(|line| line.to_ascii_lowercase().starts_with("www-authenticate:"));
    let error = challenge.and_then(|line| line.split("error=\"").nth(1)?.split('"').next());
    let script = if body.contains("<script") { " with the script" } else { "" };
    match error {
        Some(error) => format!("HTTP {status} {error}{script}"),
        None => format!("HTTP {status}{script}"),
    }
}

fn treatment(purpose: &str, relationship: bool, also: &[&str]) -> Value {
    let mut parameters = vec![
        json!({ "name": "purpose", "valueCoding": { "code": purpose } }),
        json!({ "name": "relationship", "valueBoolean": relationship }),
    ];
    parameters.extend(also.iter().map(|url| json!({ "name": "also", "valueReference": { "reference": url } })));
    json!({ "resourceType": "Parameters", "parameter": parameters })
}

/// The rows while they are made.
pub(super) struct Rows<'a> {
    pub(super) of: &'a Clinician<'a>,
    pub(super) known: &'a KnownUrls,
    good: String,
    out: Vec<Call>,
}

impl Rows<'_> {
    pub(super) fn push(&mut self, id: &str, input: &str, expected: &[&'static str], asked: &Asked<'_>) {
        let (method, body) = match &asked.body {
            Some(body) => ("POST", body.as_str()),
            None => ("GET", ""),
        };
        let Asked { authorization, url, header: (name, value), .. } = asked;
        let message = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\n{name}: {value}\r\nAuthorization: {authorization}\r\n\
             Content-Type: {FHIR}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.of.path(url),
            self.of.host,
            body.len()
        );
        let (id, input, expected, message) = (id.into(), input.into(), expected.to_vec(), message.into_bytes());
        self.out.push(Call { id, input, expected, message });
    }

    /// The search for the patient with this token.
    pub(super) fn search(&mut self, id: &str, input: &str, expected: &'static str, authorization: String) {
        let body = Some(self.of.person().to_string());
        self.push(id, input, &[expected], &Asked { authorization, url: SEARCH, header: NONE, body });
    }

    fn post(&mut self, id: &str, input: &str, expected: &[&'static str], url: &str, body: String) {
        let asked = Asked { authorization: self.good.clone(), url, header: NONE, body: Some(body) };
        self.push(id, input, expected, &asked);
    }

    fn get(&mut self, id: &str, input: &str, expected: &[&'static str], url: &str, header: (&str, &str)) {
        self.push(id, input, expected, &Asked { authorization: self.good.clone(), url, header, body: None });
    }

    fn bodies(&mut self) {
        let deep = format!("{{\"resourceType\":\"Patient\",\"contact\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let many = format!("{{\"resourceType\":\"Bundle\",\"entry\":[{}null]}}", "{},".repeat(20_000));
        self.post("T-FHR-5", "JSON nested 10,000 deep", &[BAD], SEARCH, deep);
        self.post("T-FHR-4", "a bundle of 20,000 entries in the place of a patient", &[BAD], SEARCH, many);
        let mut person = self.of.person();
        let script = "<div xmlns='http://www.w3.org/1999/xhtml'><script>alert(1)</script></div>";
        person["text"] = json!({ "status": "generated", "div": script });
        // A narrative is not taken over, whatever stands in it.
        self.post("T-FHR-3", "a script in the narrative", &[BAD, GOOD], SEARCH, person.to_string());
    }

    /// References that leave the base lead nowhere.
    fn references(&mut self) {
        let found = self.known.found.clone();
        let other = "y".repeat(43);
        for (id, reference) in [
            ("T-FHR-1", format!("{found}/../../../fhir/Patient/{other}")),
            ("T-FHR-1", "../Patient/1".into()),
            ("T-FHR-2", format!("https://elsewhere.example/p/x/fhir/Patient/{other}")),
            ("T-FHR-2", "file:///etc/passwd".into()),
        ] {
            let body = treatment("TREAT", true, &[&reference]).to_string();
            let input = format!("a treatment also in {}", reference.replace(&found, "the match"));
            self.post(id, &input, &[BAD, ABSENT], &format!("{found}/$confirm-treatment"), body);
        }
    }

    fn searches(&mut self) {
        let list = format!("{}/DocumentReference", self.known.base);
        let storm = format!("{list}?{}", "_include=DocumentReference:subject&_revinclude=*&".repeat(200));
        self.get("T-FHR-4", "400 includes, where the caller takes less", &[GOOD], &storm, NONE);
        self.get("T-FHR-4", "400 includes, where the caller does not", &[BAD], &storm, ("Prefer", "handling=strict"));
        for (id, query) in [
            ("T-FHR-6", "_count=0"),
            ("T-FHR-6", "_count=x"),
            ("T-FHR-6", "_page=1"),
            ("T-FHR-6", "_page=x.y"),
            ("T-FHR-7", "patient=somebody"),
        ] {
            self.get(id, &format!("a list by {query}"), &[BAD], &format!("{list}?{query}"), NONE);
        }
    }

    /// An address is for the professional to whom it was handed out, as it was handed out.
    fn addresses(&mut self) -> Result<(), Error> {
        let KnownUrls { found, base, document, images } = self.known;
        let list = format!("{base}/DocumentReference");
        let colleague = self.of.bearer("hpr-2")?;
        let mut foreign = vec![("list", list.clone()), ("document", document.clone())];
        foreign.extend(images.iter().map(|(root, ..)| ("studies", format!("{root}/studies"))));
        for (what, url) in foreign {
            let asked = Asked { authorization: colleague.clone(), url: &url, header: NONE, body: None };
            self.push("T-SEA-1", &format!("{what} of a colleague"), &[ABSENT], &asked);
        }
        for (input, changed) in [
            ("a changed address", list.replacen("/p/", "/p/A", 1)),
            ("an address that is cut", list.replacen("/fhir/", "x/fhir/", 1)),
            ("no address", list.replacen(base.as_str(), &format!("{}/p//fhir", self.of.base), 1)),
        ] {
            self.get("T-SEA-2", input, &[ABSENT], &changed, NONE);
        }
        let unconfirmed = found.split_once("/Patient/").map_or(found.as_str(), |(base, _)| base);
        let unconfirmed = format!("{unconfirmed}/DocumentReference");
        self.get("T-SEA-3", "a list without a confirmed treatment", &[BAD], &unconfirmed, NONE);
        Ok(())
    }

    fn treatments(&mut self) {
        let confirm = format!("{}/$confirm-treatment", self.known.found);
        for (id, input, purpose, relationship) in [
            ("T-TRT-1", "a treatment without a relationship", "TREAT", false),
            ("T-TRT-2", "an emergency without a reason", "BTG", true),
            ("T-TRT-3", "a purpose that is no treatment", "HRESCH", true),
        ] {
            self.post(id, input, &[BAD], &confirm, treatment(purpose, relationship, &[]).to_string());
        }
        let nobody = json!({ "system": "urn:oid:2.999.9", "value": "1" });
        let nobody = json!({ "resourceType": "Patient", "identifier": [nobody] }).to_string();
        self.post("T-TRT-4", "a patient of an authority that no country has", &["HTTP 422"], SEARCH, nobody);
    }

    fn paths(&mut self) {
        let Some((root, study, series)) = &self.known.images else { return };
        let long = format!("1.{}", "2".repeat(64));
        for (id, input, path) in [
            ("T-WEB-1", "a step up", format!("{root}/studies/..")),
            ("T-WEB-1", "a step up inside", format!("{root}/studies/{study}/series/../metadata")),
            ("T-WEB-2", "a coded slash", format!("{root}/studies/{study}%2f..%2f")),
            ("T-WEB-2", "a coded slash before a name", format!("{root}/studies/{study}/series/{series}%2Finstances")),
            ("T-WEB-3", "a study of 66 characters", format!("{root}/studies/{long}")),
            ("T-WEB-3", "a series of 66 characters", format!("{root}/studies/{study}/series/{long}/instances")),
            ("T-WEB-4", "letters in a UID", format!("{root}/studies/{study}/series/1.2.x")),
            ("T-WEB-4", "a NUL in a UID", format!("{root}/studies/{study}/series/{series}/instances/1.2.%00/metadata")),
        ] {
            self.get(id, input, &[BAD], &path, NONE);
        }
        // A header that goes on in another line is two headers or none, and never a second answer.
        for accept in ["application/dicom+json\r\n\r\nGET / HTTP/1.1", "application/dicom+json\x01", "a\r\n b"] {
            let input = format!("Accept: {}", accept.escape_default());
            self.get("T-WEB-5", &input, &[BAD, UNSEEN], &format!("{root}/studies"), ("Accept", accept));
        }
    }
}

/// No header beside those of every call.
pub(super) const NONE: (&str, &str) = ("X-None", "");
