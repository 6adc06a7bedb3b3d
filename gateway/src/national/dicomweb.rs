//! A DICOMweb archive (QIDO-RS, WADO-RS) as Document Registry, Document Repository and Imaging Document Source.
//!
//! Nothing is indexed: studies of a patient are looked up when they are asked for, manifests are made of what QIDO lists,
//! instances are passed on as WADO-RS sends them, in the form in which they are stored.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ncp_ihe::{
    Availability, DocumentEntry, DocumentIds, ImagingRequest, IssuedId, ManifestPatient, Oid, PatientId,
    RegistryObjects, Uid,
};
use ncp_soap::mime::{MediaType, MimeLimits, MultipartReader};
use ncp_tls::HttpClient;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde_json::Value;

use super::manifests::{IndexedInstance, IndexedStudy, ManifestCodes, ManifestSite};
use super::patients::Patients;
use super::{
    ByteStream, Document, DocumentRegistry, DocumentRepository, ImagingDocumentSource, Instance, InstanceStream,
    LocatedInstance, LocatedStudy, NationalError, PatientObjects,
};
use crate::config::DicomWeb;
use crate::policy::{Authorised, Disclose, LookUp};

/// A QIDO answer.
const ANSWER_BYTES: usize = 64 << 20;
/// Studies of one patient, instances of one study.
const RESULTS: usize = 50_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// All but the unreserved characters of RFC 3986; Orthanc does not decode what needs no encoding.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Attributes that QIDO need not return unless asked.
const STUDY_FIELDS: &str = "00080005,00080020,00080030,00080050,00080201,00081030,00100010,00100020,00100030,00100040";
const INSTANCE_FIELDS: &str =
    "00080016,00080018,00080060,0008103E,00083002,00100020,00100030,0020000E,00200011,00200013,00280008";

/// One archive.
pub struct DicomWebSource {
    archive: Archive,
    locations: Vec<Oid>,
    site: ManifestSite,
    patients: Arc<Patients>,
}

/// Where it is and how it is asked.
#[derive(Clone)]
struct Archive {
    http: Http,
    base: String,
    authorization: Option<String>,
}

#[derive(Clone)]
enum Http {
    Plain(Client<HttpConnector, Empty<Bytes>>),
    Tls(HttpClient<Empty<Bytes>>),
}

impl DicomWebSource {
    /// Prepares the client; the archive is asked when a request comes.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn new(config: &DicomWeb, language: &str, patients: Arc<Patients>) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", config.name);
        let http = match &config.anchors {
            None => Http::Plain(Client::builder(TokioExecutor::new()).build(HttpConnector::new())),
            Some(anchors) => {
                let connector = ncp_tls::anonymous_connector(std::slice::from_ref(anchors), b"\x08http/1.1");
                Http::Tls(ncp_tls::http_client(connector.map_err(|e| wrong(&e))?, None, PATIENCE))
            }
        };
        let password = match &config.password_file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| wrong(&e))?.trim().to_owned(),
            None => String::new(),
        };
        let authorization = config.user.as_ref().map(|user| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
        });
        let site = ManifestSite {
            name: config.name.clone(),
            repository: config.repository_unique_id.clone(),
            location: config.location_uids.first().ok_or("no location_uids")?.clone(),
            uid_root: config.uid_root.clone(),
            zone: jiff::tz::TimeZone::get(&config.time_zone).map_err(|e| wrong(&e))?,
            language: language.to_owned(),
            codes: ManifestCodes::load(&config.manifest_codes)?,
        };
        let base = config.url.trim_end_matches('/').to_owned();
        Ok(Self {
            archive: Archive { http, base, authorization },
            locations: config.location_uids.clone(),
            site,
            patients,
        })
    }

    /// RepositoryUniqueId of its manifests.
    pub fn repository(&self) -> &Oid {
        &self.site.repository
    }

    /// Retrieve Location UIDs it serves.
    pub fn locations(&self) -> &[Oid] {
        &self.locations
    }

    /// Studies of a person, under all ids by which the archive may know her.
    async fn studies_of(&self, patient: &PatientId) -> Result<Vec<IndexedStudy>, NationalError> {
        let Some(known) = self.patients.get(patient) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for local in &known.local_ids {
            let id = percent_encoding::utf8_percent_encode(local, RESERVED);
            let path = format!("/studies?PatientID={id}&includefield={STUDY_FIELDS}&limit={RESULTS}");
            for study in self.archive.search(&path).await? {
                // A wildcard in an id, or an archive that matches loosely, must not widen the search.
                if text(&study, "00100020").as_deref() == Some(local)
                    && let Some(uid) = uid(&study, "0020000D")
                {
                    out.extend(self.study_with(&study, &uid).await?);
                }
            }
        }
        Ok(out)
    }

    /// Manifests of a person's studies.
    async fn entries_of(&self, patient: &PatientId) -> Result<Vec<DocumentEntry>, NationalError> {
        let mut out = Vec::new();
        for study in self.studies_of(patient).await? {
            let Some(patient) = study.patient.clone() else { continue };
            out.push(self.site.document(&study, patient).map_err(NationalError::down)?.0);
        }
        Ok(out)
    }

    async fn study(&self, study: &Uid) -> Result<Option<IndexedStudy>, NationalError> {
        let path = format!("/studies?StudyInstanceUID={study}&includefield={STUDY_FIELDS}");
        let found = self.archive.search(&path).await?;
        let of_study = found.iter().find(|s| uid(s, "0020000D").as_ref() == Some(study));
        match of_study {
            Some(facts) => self.study_with(facts, study).await,
            None => Ok(None),
        }
    }

    /// A study with its instances.
    async fn study_with(&self, facts: &Value, study: &Uid) -> Result<Option<IndexedStudy>, NationalError> {
        let Some(local) = text(facts, "00100020") else { return Ok(None) };
        let birth_date = text(facts, "00100030");
        let known = self.patients.of_local_id(&local);
        let fits = known.is_some_and(|(_, p)| birth_date.as_ref().is_none_or(|d| *d == p.birth_date));
        let mut out = IndexedStudy {
            study: study.clone(),
            patient: known.filter(|_| fits).map(|(id, _)| id.clone()),
            facts: ManifestPatient {
                ids: known
                    .map(|(id, _)| IssuedId::new(&id.extension, Some(id.root.clone())))
                    .into_iter()
                    .chain([IssuedId::new(&local, None)])
                    .collect(),
                name: name(facts, "00100010"),
                birth_date,
                sex: text(facts, "00100040"),
            },
            study_date: text(facts, "00080020"),
            study_time: text(facts, "00080030"),
            timezone: text(facts, "00080201"),
            description: text(facts, "00081030"),
            accession: text(facts, "00080050"),
            instances: Vec::new(),
        };
        let series =
            self.archive.search(&format!("/studies/{study}/series?includefield=00080060,0008103E,00200011")).await?;
        let path = format!("/studies/{study}/instances?includefield={INSTANCE_FIELDS}&limit={RESULTS}");
        for one in self.archive.search(&path).await? {
            let of =
                uid(&one, "0020000E").and_then(|u| series.iter().find(|s| uid(s, "0020000E").as_ref() == Some(&u)));
            out.instances.extend(instance(&one, of, &local));
        }
        out.sort();
        Ok(Some(out))
    }
}

impl Archive {
    async fn get(&self, path: &str, accept: &str) -> Result<http::Response<Incoming>, NationalError> {
        let mut request = Request::get(format!("{}{path}", self.base)).header(header::ACCEPT, accept);
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|_| NationalError::down("archive address"))?;
        let asked = async {
            match &self.http {
                Http::Plain(client) => client.request(request).await,
                Http::Tls(client) => client.request(request).await,
            }
        };
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        let response = answered
            .map_err(|_| NationalError::down("archive did not answer in time"))?
            .map_err(|_| NationalError::down("archive cannot be reached"))?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(NationalError::UnknownDocument),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Err(NationalError::Busy),
            status => Err(NationalError::down(format!("archive answered HTTP {}", status.as_u16()))),
        }
    }

    /// A QIDO search: the matches.
    async fn search(&self, path: &str) -> Result<Vec<Value>, NationalError> {
        let response = match self.get(path, "application/dicom+json").await {
            Err(NationalError::UnknownDocument) => return Ok(Vec::new()),
            other => other?,
        };
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Vec::new());
        }
        let read = tokio::time::timeout(PATIENCE, Limited::new(response.into_body(), ANSWER_BYTES).collect()).await;
        let bytes = read
            .map_err(|_| NationalError::down("archive stopped in an answer"))?
            .map_err(|_| NationalError::down("archive's answer broke off or is too large"))?
            .to_bytes();
        let found: Vec<Value> =
            serde_json::from_slice(&bytes).map_err(|_| NationalError::down("archive: no DICOM JSON"))?;
        if found.len() >= RESULTS { Err(NationalError::TooMany) } else { Ok(found) }
    }

    /// One instance by WADO-RS in its stored form, as a stream; exactly one part is taken.
    async fn instance(&self, study: &Uid, instance: LocatedInstance) -> Result<Instance, NationalError> {
        let (series, request) = (&instance.series, instance.request);
        let sop = Uid::parse(&request.document).map_err(|_| NationalError::UnknownDocument)?;
        let path = format!("/studies/{study}/series/{series}/instances/{sop}");
        let response = self.get(&path, "multipart/related; type=\"application/dicom\"; transfer-syntax=*").await?;
        let announced = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let boundary = MediaType::parse(announced).parameter("boundary").map(ToOwned::to_owned);
        let boundary = boundary.ok_or_else(|| NationalError::down("archive: answer is not multipart"))?;
        let limits = MimeLimits { parts: 2, ..MimeLimits::default() };
        let broken = |_| NationalError::down("archive broke off or sent malformed MIME");
        let mut reader = MultipartReader::new(response.into_body(), &boundary, limits).map_err(broken)?;
        let content: ByteStream = Box::pin(async_stream::try_stream! {
            if reader.next_part().await.map_err(broken)?.is_none() {
                Err(NationalError::UnknownDocument)?;
            }
            while let Some(chunk) = reader.next_chunk().await.map_err(broken)? {
                yield chunk;
            }
            // The closing boundary must have come, or the instance may be cut.
            if reader.next_part().await.map_err(broken)?.is_some() {
                Err(NationalError::Mismatch("archive sent more than one instance"))?;
            }
        });
        Ok(Instance { request, size: None, content })
    }
}

/// One instance; what names another patient than its study is withheld.
fn instance(found: &Value, series: Option<&Value>, local: &str) -> Option<IndexedInstance> {
    let of_series = |tag: &str| series.and_then(|s| text(s, tag)).or_else(|| text(found, tag));
    Some(IndexedInstance {
        sop_instance: uid(found, "00080018")?,
        sop_class: uid(found, "00080016")?,
        series: uid(found, "0020000E")?,
        series_number: of_series("00200011").and_then(|n| n.parse().ok()),
        series_description: of_series("0008103E"),
        modality: of_series("00080060"),
        number: text(found, "00200013").and_then(|n| n.parse().ok()),
        frames: text(found, "00280008").and_then(|n| n.parse().ok()),
        transfer_syntax: uid(found, "00083002"),
        file: None,
        withheld: text(found, "00100020").is_some_and(|id| id != local),
    })
}

/// First value of an attribute in DICOM JSON (PS3.18 F.2), as text.
fn text(object: &Value, tag: &str) -> Option<String> {
    let value = match object.get(tag)?.get("Value")?.get(0)? {
        Value::String(text) => text.trim_matches(['\0', ' ']).to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!value.is_empty() && value.len() <= 1024).then_some(value)
}

fn name(object: &Value, tag: &str) -> Option<String> {
    let value = object.get(tag)?.get("Value")?.get(0)?.get("Alphabetic")?.as_str()?;
    (value.len() <= 1024).then(|| value.to_owned())
}

fn uid(object: &Value, tag: &str) -> Option<Uid> {
    Uid::parse(&text(object, tag)?).ok()
}

impl DocumentRegistry for DicomWebSource {
    async fn objects(&self, of: &Authorised<LookUp<PatientObjects>>) -> Result<RegistryObjects, NationalError> {
        if !of.get().status.contains(&Availability::Approved) {
            return Ok(RegistryObjects::default());
        }
        Ok(RegistryObjects::of_entries(self.entries_of(&of.get().patient).await?))
    }

    // A manifest that does not exist yet is found again by the patient under treatment.
    async fn entries(&self, ids: &Authorised<LookUp<DocumentIds>>) -> Result<Vec<DocumentEntry>, NationalError> {
        let Some(patient) = ids.identity().trc_patient.as_ref() else { return Ok(Vec::new()) };
        Ok(self.entries_of(patient).await?.into_iter().filter(|e| ids.get().name(e)).collect())
    }
}

impl DocumentRepository for DicomWebSource {
    async fn retrieve(&self, entry: Authorised<Disclose<DocumentEntry>>) -> Result<Document, NationalError> {
        let entry = entry.into_inner();
        let study = entry.study_instance_uid().ok_or(NationalError::UnknownDocument)?;
        let study = self.study(&study).await?.ok_or(NationalError::UnknownDocument)?;
        let patient = study.patient.clone().filter(|p| *p == entry.patient_id).ok_or(NationalError::UnknownDocument)?;
        let (made, bytes) = self.site.document(&study, patient).map_err(NationalError::down)?;
        // The archive changed since the entry was listed: it is another manifest now.
        if made.unique_id != entry.unique_id {
            return Err(NationalError::UnknownDocument);
        }
        Ok(Document {
            media_type: made.mime_type,
            size: Some(bytes.len() as u64),
            content: Box::pin(futures_util::stream::iter([Ok(bytes)])),
        })
    }
}

impl ImagingDocumentSource for DicomWebSource {
    async fn locate(&self, request: &Authorised<LookUp<ImagingRequest>>) -> Result<Vec<LocatedStudy>, NationalError> {
        let request = request.get();
        let mut out = Vec::new();
        for study in &request.studies {
            let indexed = self.study(&study.study).await?;
            out.push(IndexedStudy::locate(indexed.as_ref(), study, &request.transfer_syntaxes));
        }
        Ok(out)
    }

    async fn retrieve_instances(
        &self,
        study: Authorised<Disclose<LocatedStudy>>,
    ) -> Result<InstanceStream, NationalError> {
        let study = study.into_inner();
        let archive = self.archive.clone();
        let stream = futures_util::stream::iter(study.instances).then(move |instance| {
            let (archive, uid) = (archive.clone(), study.study.clone());
            async move { archive.instance(&uid, instance).await }
        });
        Ok(Box::pin(stream))
    }
}
