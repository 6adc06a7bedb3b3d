//! A clinician's system: `ncp find` and `ncp fetch`, clients of the gateway's FHIR and DICOMweb side.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use indicatif::{ProgressBar, ProgressStyle};
use ncp_ihe::PatientId;
use ncp_soap::mime::{MediaType, MimeLimits, MultipartReader};
use ncp_tls::HttpClient;
use serde_json::{Value, json};

use crate::{Error, issuer};

/// Which gateway, and as whom.
#[derive(clap::Args)]
pub(crate) struct Gateway {
    /// Country of the running demonstration that asks: fi or no. Gives address, anchors and token.
    #[arg(long, default_value = "fi")]
    country: String,
    /// Folder of the demonstration; default NCP_DEMO_DIR or ~/.ncp-demo.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Another gateway: its origin, as `https://ncp.example.org`.
    #[arg(long, requires_all = ["token_file", "anchors"])]
    url: Option<String>,
    /// File with the bearer token.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Anchors of the gateway's certificate, PEM.
    #[arg(long)]
    anchors: Option<PathBuf>,
}

/// What to look for.
#[derive(clap::Args)]
pub(crate) struct Find {
    #[command(flatten)]
    gateway: Gateway,
    /// Patient, as id^^^&OID&ISO: the country that owns the OID is asked.
    #[arg(long)]
    patient: String,
}

/// What to fetch.
#[derive(clap::Args)]
pub(crate) struct Fetch {
    #[command(flatten)]
    find: Find,
    /// Folder for reports and DICOM files; made if missing.
    #[arg(long)]
    out: PathBuf,
    /// Only this Study Instance UID.
    #[arg(long)]
    study: Option<String>,
    /// The patient is under treatment here: confirms the relationship.
    #[arg(long)]
    confirm_treatment: bool,
}

/// A client of one gateway.
pub(crate) struct Client {
    http: HttpClient<Full<Bytes>>,
    base: String,
    token: String,
}

/// One line of a document search.
pub(crate) struct Line {
    pub(crate) title: String,
    pub(crate) date: String,
    pub(crate) media_type: String,
    /// What a CDA holds (OrCD).
    pub(crate) held: Option<String>,
    pub(crate) url: String,
    pub(crate) original: Option<String>,
    pub(crate) dicomweb: Option<String>,
    pub(crate) study: Option<String>,
}

impl Client {
    pub(crate) fn new(base: &str, anchors: &Path, token: String) -> Result<Self, Error> {
        let connector = ncp_tls::anonymous_connector(&[anchors.to_owned()], b"\x08http/1.1")?;
        Ok(Self { http: ncp_tls::http_client(connector, None, Duration::from_secs(10)), base: base.to_owned(), token })
    }

    /// The gateway's origin.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn of(gateway: &Gateway) -> Result<Self, Error> {
        if let (Some(url), Some(token), Some(anchors)) = (&gateway.url, &gateway.token_file, &gateway.anchors) {
            return Self::new(url.trim_end_matches('/'), anchors, std::fs::read_to_string(token)?.trim().to_owned());
        }
        let dir = crate::demo::data_dir(gateway.dir.clone())?;
        Self::demo(&dir, &gateway.country, &issuer::Token::default())
    }

    /// A professional of a country of the demonstration.
    pub(crate) fn demo(dir: &Path, country: &str, token: &issuer::Token<'_>) -> Result<Self, Error> {
        let pki = dir.join(country).join("pki");
        let token = issuer::token(&pki, country, token)?;
        Self::new(&issuer::audience(country), &pki.join("anchors.pem"), token)
    }

    /// One call; the body of the answer is still to come.
    pub(crate) async fn call(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Error> {
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/fhir+json")
            .body(Full::new(bytes))?;
        Ok(self.http.request(request).await?)
    }

    /// A document's bytes in one media type; the status when it is another than 200.
    pub(crate) async fn binary_as(&self, url: &str, accept: &str) -> Result<Result<Bytes, StatusCode>, Error> {
        let request = Request::get(url)
            .header("authorization", format!("Bearer {}", self.token))
            .header("accept", accept)
            .body(Full::default())?;
        let response = self.http.request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(if status.is_success() { Ok(bytes) } else { Err(status) })
    }

    /// One call and its JSON.
    pub(crate) async fn json(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Error> {
        let response = self.call(method, url, body).await?;
        let status = response.status();
        Ok((status, serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?))
    }

    async fn good(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Value, Error> {
        let (status, value) = self.json(method, url, body).await?;
        if status.is_success() {
            return Ok(value);
        }
        let text = value.pointer("/issue/0/details/text").and_then(Value::as_str).unwrap_or_default();
        let reference = value.pointer("/issue/0/diagnostics").and_then(Value::as_str).unwrap_or_default();
        Err(format!("the gateway answered {status}: {text} ({reference})").into())
    }

    /// `$match`: the entries of the answer, and what is missing.
    pub(crate) async fn find(&self, patient: &PatientId) -> Result<(Vec<Value>, Vec<String>), Error> {
        let body = match_request(patient);
        let bundle = self.good(Method::POST, &format!("{}/fhir/Patient/$match", self.base), Some(&body)).await?;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for entry in bundle.get("entry").and_then(Value::as_array).cloned().unwrap_or_default() {
            match entry.pointer("/search/mode").and_then(Value::as_str) {
                Some("match") => found.push(entry),
                _ => missing.extend(texts(&entry)),
            }
        }
        Ok((found, missing))
    }

    /// `$confirm-treatment`: the base of the confirmed patient.
    pub(crate) async fn confirm(&self, entry: &Value) -> Result<String, Error> {
        let url = entry.get("fullUrl").and_then(Value::as_str).ok_or("entry without fullUrl")?;
        let body = json!({ "resourceType": "Parameters", "parameter": [
            { "name": "purpose", "valueCoding": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT" } },
            { "name": "relationship", "valueBoolean": true },
        ] });
        let answer = self.good(Method::POST, &format!("{url}/$confirm-treatment"), Some(&body)).await?;
        let reference = answer.pointer("/parameter/0/valueReference/reference").and_then(Value::as_str);
        let (base, _) = reference.and_then(|r| r.split_once("/Patient/")).ok_or("answer without patient")?;
        Ok(base.to_owned())
    }

    /// DocumentReferences of a confirmed patient.
    pub(crate) async fn documents(&self, base: &str) -> Result<Vec<Line>, Error> {
        let bundle = self.good(Method::GET, &format!("{base}/DocumentReference?status=current"), None).await?;
        Ok(lines(&bundle))
    }

    /// A document's bytes.
    pub(crate) async fn binary(&self, url: &str) -> Result<(Response<()>, Bytes), Error> {
        let response = self.call(Method::GET, url, None).await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        if !parts.status.is_success() {
            return Err(format!("the gateway answered {} to a document", parts.status).into());
        }
        Ok((Response::from_parts(parts, ()), bytes))
    }

    /// A study's instances as they come: `begin` is told the count, `chunk` each piece, `end` after each instance.
    pub(crate) async fn study(
        &self,
        root: &str,
        study: &str,
        each: impl FnMut(Piece<'_>) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let response = self.call(Method::GET, &format!("{root}/studies/{study}"), None).await?;
        if !response.status().is_success() {
            return Err(format!("the gateway answered {} to a study", response.status()).into());
        }
        Self::pieces(response, each).await
    }

    /// The instances of a good answer, as [`study`](Self::study) tells them.
    pub(crate) async fn pieces(
        response: Response<Incoming>,
        mut each: impl FnMut(Piece<'_>) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        each(Piece::Begin(header("x-ncp-instances").parse().unwrap_or(0)))?;
        if !header("warning").is_empty() {
            each(Piece::Warning(header("warning")))?;
        }
        let media_type = MediaType::parse(header("content-type"));
        let boundary = media_type.parameter("boundary").ok_or("answer without boundary")?.to_owned();
        let limits = MimeLimits { parts: 1_000_000, ..MimeLimits::default() };
        let mut reader = MultipartReader::new(response.into_body(), &boundary, limits)?;
        let mut instances = 0;
        while reader.next_part().await?.is_some() {
            while let Some(chunk) = reader.next_chunk().await? {
                each(Piece::Chunk(&chunk))?;
            }
            each(Piece::End)?;
            instances += 1;
        }
        Ok(instances)
    }
}

/// What a study's retrieval brings.
pub(crate) enum Piece<'a> {
    Begin(u64),
    Warning(&'a str),
    Chunk(&'a [u8]),
    End,
}

/// The Patient that `$match` is sent.
pub(crate) fn match_request(patient: &PatientId) -> Value {
    let identifier = json!({ "system": patient.root.urn(), "value": patient.extension });
    json!({ "resourceType": "Patient", "identifier": [identifier] })
}

/// The lines of a Bundle of DocumentReferences.
pub(crate) fn lines(bundle: &Value) -> Vec<Line> {
    let entries = bundle.get("entry").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(|e| e.get("resource")).filter_map(line).collect()
}

fn texts(entry: &Value) -> Vec<String> {
    let issues = entry.pointer("/resource/issue").and_then(Value::as_array).cloned().unwrap_or_default();
    issues.iter().filter_map(|i| i.pointer("/details/text")?.as_str().map(ToOwned::to_owned)).collect()
}

fn line(resource: &Value) -> Option<Line> {
    let text = |path: &str| resource.pointer(path).and_then(Value::as_str).map(ToOwned::to_owned);
    let extension = |ending: &str| {
        let all = resource.get("extension")?.as_array()?;
        let found = all.iter().find(|e| e.get("url").and_then(Value::as_str).is_some_and(|u| u.ends_with(ending)))?;
        found.get("valueUrl")?.as_str().map(ToOwned::to_owned)
    };
    let related = resource.pointer("/context/related").and_then(Value::as_array).cloned().unwrap_or_default();
    let study = related.iter().find(|r| r.get("type").and_then(Value::as_str) == Some("ImagingStudy"));
    Some(Line {
        title: text("/content/0/attachment/title").or_else(|| text("/type/coding/0/display")).unwrap_or_default(),
        date: text("/context/period/start").or_else(|| text("/date")).unwrap_or_default(),
        media_type: text("/content/0/attachment/contentType")?,
        held: text("/content/1/attachment/contentType"),
        url: text("/content/0/attachment/url")?,
        original: extension("original"),
        dicomweb: extension("dicomweb-root"),
        study: study.and_then(|s| {
            s.pointer("/identifier/value")?.as_str().map(|v| v.trim_start_matches("urn:oid:").to_owned())
        }),
    })
}

/// `ncp find`
pub(crate) async fn find(command: Find) -> Result<(), Error> {
    let client = Client::of(&command.gateway)?;
    let (found, missing) = client.find(&PatientId::parse_cx(&command.patient)?).await?;
    for text in missing {
        eprintln!("{text}");
    }
    for entry in &found {
        let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        println!(
            "{} {}  born {}  {}  {}",
            text("/resource/name/0/given/0"),
            text("/resource/name/0/family"),
            text("/resource/birthDate"),
            text("/search/extension/0/valueCode"),
            text("/resource/extension/0/valueOid"),
        );
    }
    println!("{} found; `ncp fetch --confirm-treatment --out DIR` fetches documents and images", found.len());
    Ok(())
}

/// `ncp fetch`
pub(crate) async fn fetch(command: Fetch) -> Result<(), Error> {
    if !command.confirm_treatment {
        return Err("say --confirm-treatment: documents are for professionals who treat the patient".into());
    }
    let client = Client::of(&command.find.gateway)?;
    let (found, _) = client.find(&PatientId::parse_cx(&command.find.patient)?).await?;
    let [entry] = found.as_slice() else {
        return Err(format!("{} patients found, one is needed", found.len()).into());
    };
    let base = client.confirm(entry).await?;
    std::fs::create_dir_all(&command.out)?;
    for (number, line) in client.documents(&base).await?.iter().enumerate() {
        let wanted = command.study.is_none() || line.study == command.study;
        match (&line.dicomweb, &line.study) {
            _ if !wanted => {}
            (Some(root), Some(study)) => images(&client, root, study, &command.out).await?,
            _ => {
                let (_, bytes) = client.binary(&line.url).await?;
                let kind = if line.media_type == "text/xml" { "xml" } else { "bin" };
                let path = command.out.join(format!("document-{}.{kind}", number + 1));
                std::fs::write(&path, &bytes)?;
                println!("{}  {}  {}  {} bytes", path.display(), line.date, line.title, bytes.len());
            }
        }
    }
    Ok(())
}

/// One file an instance, written as it comes; a study that breaks off is said to be incomplete.
async fn images(client: &Client, root: &str, study: &str, out: &Path) -> Result<(), Error> {
    use std::io::Write;
    let folder = out.join(study);
    std::fs::create_dir_all(&folder)?;
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} images, {elapsed}")?;
    let bar = ProgressBar::new(0).with_style(style).with_message("fetching");
    let mut file: Option<std::fs::File> = None;
    let mut number = 0;
    let done = client
        .study(root, study, |piece| {
            match piece {
                Piece::Begin(count) => bar.set_length(count),
                Piece::Warning(text) => bar.println(text),
                Piece::Chunk(bytes) => {
                    let open = match &mut file {
                        Some(open) => open,
                        None => {
                            number += 1;
                            file.insert(std::fs::File::create(folder.join(format!("{number:05}.dcm")))?)
                        }
                    };
                    open.write_all(bytes)?;
                }
                Piece::End => {
                    file = None;
                    bar.inc(1);
                }
            }
            Ok(())
        })
        .await;
    bar.finish_and_clear();
    let instances = done.map_err(|e| format!("study {study} is incomplete in {}: {e}", folder.display()))?;
    println!("{}  {instances} images", folder.display());
    Ok(())
}
