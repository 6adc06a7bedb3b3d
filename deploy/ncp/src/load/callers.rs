//! Who asks: clinicians' systems of Finland, and a neighbour of Norway. Both learn first what they will ask for, so that each
//! answer can be compared with what the archive has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use ncp_ihe::{
    DocumentRequest, ImagingRequest, Oid, PatientAnswer, PatientId, PatientQuery, PatientResponse, QueryResponse,
    RetrieveRequest, Status, actions,
};
use ncp_saml::SignedAssertion;
use ncp_tests::neighbour::{Answer, Neighbour, ToldBusy, XCA, XCAI, XCPD, retrieve_response};
use ncp_xml::Element;
use openssl::sha::Sha256;
use serde_json::Value;

use super::journal::{Ended, Kind};
use super::{Caller, SUBJECT};
use crate::Error;
use crate::check::{archive, compared, ensure, imaging_request, manifest, neighbour, wanted};
use crate::clinician::{Client, Line, Piece, match_request};
use crate::demo::{Demo, FINLAND, NORWAY, large_study};
use crate::issuer::Token;
use crate::trail::message_id;

/// Patients of the test by their numbers; the third one's studies lie in Orthanc.
const PATIENTS: [&str; 3] = [
    "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO",
    "01827812345^^^&2.16.578.1.12.4.1.4.1&ISO",
    "01827854321^^^&2.16.578.1.12.4.1.4.1&ISO",
];
/// A token outlives the load by so many seconds.
const SPARE: u64 = 900;

/// What a call came to: the value, or how it ended instead.
type Got<T> = Result<T, Ended>;

fn failed(error: impl std::fmt::Display) -> Ended {
    Ended::Failed(error.to_string())
}

/// An end from an error: a peer that answered with 503 and when to come again is busy.
pub(super) fn of_error(error: &Error) -> Ended {
    if error.downcast_ref::<ToldBusy>().is_some() { Ended::Busy } else { failed(error) }
}

fn ended(got: Got<()>) -> Ended {
    got.err().unwrap_or(Ended::Whole)
}

/// What Norway has of a patient, as a neighbour asks for it.
struct Record {
    patient: PatientId,
    entries: usize,
    document: DocumentRequest,
    digest: Option<String>,
    study: ImagingRequest,
    /// Study Instance UID and number of instances.
    instances: (String, usize),
}

/// A neighbour of Norway and what it may ask for.
pub(super) struct Norway {
    neighbour: Neighbour,
    /// SHA-256 by SOP Instance UID.
    archive: BTreeMap<String, String>,
    records: Vec<Record>,
}

impl Norway {
    pub(super) async fn learn(demo: &Demo) -> Result<Self, Error> {
        let neighbour = neighbour(demo, &FINLAND, &NORWAY)?;
        let mut archive = archive(&demo.dir.join("no/data/dicom"))?;
        archive.extend(crate::check::archive(&demo.dir.join("no/orthanc-import"))?);
        let mut records = Vec::new();
        for patient in PATIENTS {
            let patient = PatientId::parse_cx(patient)?;
            let entries = neighbour.documents(&patient).await?.objects.entries;
            let large = large_study().uid();
            let of_large = |uid: &str| uid == large;
            let one = entries
                .iter()
                .filter(|e| e.is_manifest())
                .find(|e| e.study_instance_uid().is_some_and(|uid| !of_large(uid.as_str())));
            let one = one.ok_or("no study was listed")?;
            let listed = manifest(&neighbour, &patient, one).await?;
            let instances = (listed.study.to_string(), listed.series.iter().map(|s| s.instances.len()).sum());
            let report = entries.iter().find(|e| e.mime_type == "text/xml" && !e.is_delayed_assembly());
            let document = report.unwrap_or(one);
            records.push(Record {
                patient,
                entries: entries.len(),
                document: wanted(document),
                digest: document.hash.clone(),
                study: imaging_request(&listed, one.home.as_ref().ok_or("no home")?)?,
                instances,
            });
        }
        Ok(Self { neighbour, archive, records })
    }

    /// The MessageID of a request with assertions of its own, and its answer.
    async fn request(&self, kind: Kind, record: &Record) -> Got<(String, Result<Answer, Error>)> {
        let assertions = self.neighbour.assertions(&record.patient).await.map_err(|e| failed(&e))?;
        let (action, path, assertions, body) = self.message(kind, record, &assertions).map_err(|e| failed(&e))?;
        let message = self.neighbour.message(action, path, assertions, body);
        let id = message_id(&message).ok_or_else(|| failed("a message without id"))?;
        Ok((id, self.neighbour.send(action, path, message).await))
    }

    fn message<'a>(
        &self,
        kind: Kind,
        record: &Record,
        assertions: &'a [SignedAssertion],
    ) -> Result<(&'static str, &'static str, &'a [SignedAssertion], Element), Error> {
        let find = || -> Result<Element, Error> {
            let (own, receiver) = (self.neighbour.home.0.clone(), Oid::parse(NORWAY.home)?);
            let query = PatientQuery::new(own, receiver, vec![record.patient.clone()], None, None, None);
            Ok(query.to_element(jiff::Timestamp::now()))
        };
        Ok(match kind {
            Kind::Iti55 => (actions::ITI55_REQUEST, XCPD, &assertions[..1], find()?),
            Kind::Iti38 => {
                (actions::ITI38_REQUEST, XCA, assertions, Neighbour::find_documents(&record.patient).to_element())
            }
            Kind::Iti39 => {
                let request = RetrieveRequest { documents: vec![record.document.clone()] };
                (actions::ITI39_REQUEST, XCA, assertions, request.to_element())
            }
            _ => (actions::RAD75_REQUEST, XCAI, assertions, record.study.to_element()),
        })
    }

    /// Whether an answer is what the archive has.
    async fn whole(&self, kind: Kind, record: &Record, answer: Result<Answer, Error>) -> Got<()> {
        let answer = answer.map_err(|error| of_error(&error))?;
        if answer.is_busy() {
            return Err(Ended::Busy);
        }
        let codes = format!("HTTP {} {:?}", answer.status, answer.codes());
        let same = match kind {
            Kind::Iti55 => self.found(record, &answer),
            Kind::Iti38 => Self::listed(record, &answer),
            Kind::Iti39 => Self::document(record, answer).await,
            _ => match compared(answer, &self.archive).await {
                Ok((instances, _)) => ensure(instances == record.instances.1, format!("{instances} instances")),
                Err(error) => Err(error),
            },
        };
        same.map_err(|error| failed(format!("{error} ({codes})")))
    }

    fn found(&self, record: &Record, answer: &Answer) -> Result<(), Error> {
        let right = match PatientResponse::read(&answer.body)? {
            PatientAnswer::Matches(matches) => matches.len() == 1 && matches[0].record.id == record.patient,
            _ => false,
        };
        ensure(right, "not the one patient")
    }

    fn listed(record: &Record, answer: &Answer) -> Result<(), Error> {
        let response = QueryResponse::read(&answer.body)?.0;
        let count = response.objects.entries.len();
        ensure(response.status == Status::Success && count == record.entries, format!("{count} entries"))
    }

    async fn document(record: &Record, mut answer: Answer) -> Result<(), Error> {
        let response = retrieve_response(&answer.body)?;
        ensure(response.status == Status::Success, "no success")?;
        let mut digest = openssl::sha::Sha1::new();
        while answer.parts.next().await?.is_some() {
            while let Some(chunk) = answer.parts.chunk().await? {
                digest.update(&chunk);
            }
        }
        let digest = hex::encode(digest.finish());
        ensure(record.digest.as_ref().is_none_or(|known| *known == digest), "another document than was listed")
    }
}

impl Caller for Norway {
    const KINDS: &[Kind] = &Kind::NEIGHBOUR;

    fn patients(&self) -> usize {
        self.records.len()
    }

    async fn act(&self, kind: Kind, patient: usize) -> (Option<String>, Ended) {
        let record = &self.records[patient];
        match self.request(kind, record).await {
            Ok((message, answer)) => (Some(message), ended(self.whole(kind, record, answer).await)),
            Err(end) => (None, end),
        }
    }
}

/// What a clinician has found of a patient.
struct Confirmed {
    patient: PatientId,
    base: String,
    lines: usize,
    document: String,
    root: String,
    study: String,
    instances: usize,
}

/// A clinician's system with one professional.
pub(super) struct Clinician {
    client: Client,
    norway: Arc<Norway>,
    patients: Vec<Confirmed>,
}

impl Clinician {
    pub(super) async fn learn(demo: &Demo, norway: &Arc<Norway>, number: usize, seconds: u64) -> Result<Self, Error> {
        let client = professional(demo, number, seconds)?;
        let mut patients = Vec::new();
        for record in &norway.records {
            let (found, _) = client.find(&record.patient).await?;
            let base = client.confirm(found.first().ok_or("no patient")?).await?;
            let lines = client.documents(&base).await?;
            let (study, instances) = &record.instances;
            let of_study = |line: &&Line| line.study.as_ref() == Some(study) && line.dicomweb.is_some();
            let line = lines.iter().find(of_study).ok_or("the study was not listed")?;
            let root = line.dicomweb.clone().ok_or("no DICOMweb root")?;
            let report = lines.iter().find(|line| line.original.is_some()).unwrap_or(line);
            let (patient, document) = (record.patient.clone(), report.url.clone());
            let (study, instances, lines) = (study.clone(), *instances, lines.len());
            patients.push(Confirmed { patient, base, lines, document, root, study, instances });
        }
        Ok(Self { client, norway: norway.clone(), patients })
    }

    async fn find(&self, known: &Confirmed) -> Got<()> {
        let url = format!("{}/fhir/Patient/$match", self.client.base());
        let bundle = json(&self.client, Method::POST, &url, Some(&match_request(&known.patient))).await?;
        let value = bundle.pointer("/entry/0/resource/identifier/0/value").and_then(Value::as_str);
        let right = value == Some(&known.patient.extension) && bundle.pointer("/entry/1").is_none();
        ensure(right, "not the one patient").map_err(|e| failed(&e))
    }

    async fn list(&self, known: &Confirmed) -> Got<()> {
        let url = format!("{}/DocumentReference?status=current", known.base);
        let bundle = json(&self.client, Method::GET, &url, None).await?;
        let lines = crate::clinician::lines(&bundle).len();
        ensure(lines == known.lines, format!("{lines} of {} documents", known.lines)).map_err(|e| failed(&e))
    }

    async fn document(&self, known: &Confirmed) -> Got<()> {
        let response = answered(&self.client, Method::GET, &known.document, None).await?;
        let announced = response.headers().get("repr-digest").and_then(|v| v.to_str().ok()).map(ToOwned::to_owned);
        let bytes = response.into_body().collect().await.map_err(failed)?.to_bytes();
        let digest = format!("sha-256=:{}:", openssl::base64::encode_block(&openssl::sha::sha256(&bytes)));
        ensure(announced == Some(digest), "another document than announced").map_err(|e| failed(&e))
    }

    async fn search(&self, known: &Confirmed) -> Got<()> {
        let url = format!("{}/studies/{}/instances", known.root, known.study);
        let found = json(&self.client, Method::GET, &url, None).await?;
        let count = found.as_array().map_or(0, Vec::len);
        ensure(count == known.instances, format!("{count} of {} instances", known.instances)).map_err(|e| failed(&e))
    }
}

impl Caller for Clinician {
    const KINDS: &[Kind] = &Kind::CLINICIAN;

    fn patients(&self) -> usize {
        self.patients.len()
    }

    async fn act(&self, kind: Kind, patient: usize) -> (Option<String>, Ended) {
        let known = &self.patients[patient];
        let got = match kind {
            Kind::Match => self.find(known).await,
            Kind::List => self.list(known).await,
            Kind::Document => self.document(known).await,
            Kind::Search => self.search(known).await,
            _ => study(&self.client, (&known.root, &known.study), known.instances, &self.norway.archive).await,
        };
        (None, ended(got))
    }
}

/// The client of a professional whose subject has the number.
pub(super) fn professional(demo: &Demo, number: usize, seconds: u64) -> Result<Client, Error> {
    let subject = format!("{SUBJECT}{number:04}");
    let life = i64::try_from(seconds + SPARE)?;
    Client::demo(&demo.dir, FINLAND.code, &Token { subject: &subject, life, ..Token::default() })
}

/// A study by WADO-RS, each instance compared with the archive's.
pub(super) async fn study(
    client: &Client,
    (root, study): (&str, &str),
    instances: usize,
    archive: &BTreeMap<String, String>,
) -> Got<()> {
    let response = answered(client, Method::GET, &format!("{root}/studies/{study}"), None).await?;
    let known: BTreeSet<&String> = archive.values().collect();
    let mut digest = Sha256::new();
    let each = |piece: Piece<'_>| {
        match piece {
            Piece::Begin(_) => {}
            Piece::Warning(text) => return Err(text.into()),
            Piece::Chunk(chunk) => digest.update(chunk),
            Piece::End => {
                let whole = hex::encode(std::mem::replace(&mut digest, Sha256::new()).finish());
                ensure(known.contains(&whole), "an instance differs from the archive's")?;
            }
        }
        Ok(())
    };
    let got = Client::pieces(response, each).await.map_err(|e| failed(&e))?;
    ensure(got == instances, format!("{got} of {instances} instances")).map_err(|e| failed(&e))
}

/// An answer that is no refusal.
async fn answered(client: &Client, method: Method, url: &str, body: Option<&Value>) -> Got<Response<Incoming>> {
    let response = client.call(method, url, body).await.map_err(|e| failed(&e))?;
    let status = response.status();
    if status == StatusCode::SERVICE_UNAVAILABLE && ncp_tls::retry_after::read(response.headers()).is_some() {
        return Err(Ended::Busy);
    }
    if status.is_success() {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await.map_err(failed)?.to_bytes();
    let told: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = told.pointer("/issue/0/details/text").and_then(Value::as_str).unwrap_or_default();
    Err(failed(format!("HTTP {status}: {text}")))
}

async fn json(client: &Client, method: Method, url: &str, body: Option<&Value>) -> Got<Value> {
    let response = answered(client, method, url, body).await?;
    let bytes = response.into_body().collect().await.map_err(failed)?.to_bytes();
    serde_json::from_slice(&bytes).map_err(failed)
}
