//! What goes on while things fail: another country's queries and a clinician's searches, and what the trail must have of
//! them in the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use ncp_audit::{Filter, Message};
use ncp_ihe::{CrossGatewayQueryRequest, PatientId, ReturnType, actions};
use ncp_saml::SignedAssertion;
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tls::HttpClient;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::check::{ensure, neighbour};
use crate::clinician::Client;
use crate::demo::{Demo, FINLAND, NORWAY, offset};
use crate::issuer::{self, Token};
use crate::trail::{message_id, message_ids};
use crate::{Error, audit};

/// Who ask at once.
const CLIENTS: usize = 4;
/// Between two queries of one of them.
const PACE: Duration = Duration::from_millis(5);
/// Whose documents are asked for.
pub(crate) const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";

/// Finland's queries to Norway's gateway.
pub(crate) struct Load {
    asker: Arc<Asker>,
    clients: JoinSet<()>,
    began: jiff::Timestamp,
}

/// Who asks, and what came of it.
struct Asker {
    http: HttpClient<Full<Bytes>>,
    neighbour: Neighbour,
    assertions: Vec<SignedAssertion>,
    patient: PatientId,
    /// MessageIDs of whose answer an entry left.
    disclosed: Mutex<BTreeSet<String>>,
    /// Those of [`Load::replayed`]'s own queries, which come again as they were.
    probed: Mutex<BTreeSet<String>>,
    /// Whose answer came whole.
    whole: AtomicU64,
    enough: AtomicBool,
}

impl Load {
    pub(crate) async fn start(demo: &Demo) -> Result<Self, Error> {
        let patient = PatientId::parse_cx(PATIENT)?;
        let neighbour = neighbour(demo, &FINLAND, &NORWAY)?;
        let assertions = neighbour.assertions(&patient).await?;
        let material = ncp_tls::Material::load(&demo.fi.path("tls-client.pem"), &demo.fi.path("tls-client.key"))?;
        let connector = material.connector(&[demo.no.path("anchors.pem")], b"\x08http/1.1")?;
        let http = ncp_tls::http_client(connector, None, Duration::from_secs(10));
        let (disclosed, probed, whole, enough) = Default::default();
        let asker = Arc::new(Asker { http, neighbour, assertions, patient, disclosed, probed, whole, enough });
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let asker = asker.clone();
            clients.spawn(async move {
                while !asker.enough.load(Ordering::Acquire) {
                    // What fails here is the fault that is looked at.
                    let _ = asker.ask(asker.query()).await;
                    tokio::time::sleep(PACE).await;
                }
            });
        }
        let load = Self { asker, clients, began: jiff::Timestamp::now() };
        load.goes_on().await?;
        Ok(load)
    }

    /// Answers that came whole so far.
    pub(crate) fn whole(&self) -> u64 {
        self.asker.whole.load(Ordering::Acquire)
    }

    /// Waits for the next answer that comes whole.
    pub(crate) async fn goes_on(&self) -> Result<Duration, Error> {
        let before = self.whole();
        next("an answer to a neighbour", || self.whole() > before).await
    }

    /// Sends the MessageIDs of some answers that left again, over another query; how many of them are answered. One with an
    /// id of its own is, so that it is the id that is refused.
    pub(crate) async fn replayed(&self) -> Result<usize, Error> {
        let another = self.asker.another();
        ensure(self.asker.ask(another.clone()).await?, "another query is not served")?;
        let probed = {
            let mut probed = self.asker.probed.lock().unwrap_or_else(|p| p.into_inner());
            probed.insert(another.0.clone());
            probed.clone()
        };
        let known: Vec<String> = self.asker.disclosed().difference(&probed).take(20).cloned().collect();
        ensure(!known.is_empty(), "nothing was disclosed")?;
        let mut served = 0;
        for id in &known {
            let message = String::from_utf8(another.1.clone())?.replace(&another.0, id);
            served += usize::from(self.asker.ask((id.clone(), message.into_bytes())).await?);
        }
        Ok(served)
    }

    /// Ends it, waits until the trail has what left, and prints what was lost; whether nothing was.
    pub(crate) async fn end(mut self, demo: &Demo, fault: &str, facts: Value) -> Result<bool, Error> {
        self.asker.enough.store(true, Ordering::Release);
        while self.clients.join_next().await.is_some() {}
        let disclosed = self.asker.disclosed().clone();
        let until = Instant::now() + Duration::from_secs(120);
        let recorded = loop {
            let recorded = recorded(demo, self.began).await?;
            if disclosed.is_subset(&recorded) || Instant::now() > until {
                break recorded;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let lost = disclosed.difference(&recorded).count();
        let missing = audit::missing(&demo.dir, "no").await?;
        let mut line = json!({
            "fault": fault, "accepted": self.whole(), "disclosed": disclosed.len(), "recorded": recorded.len(),
            "lost": lost, "missing_numbers": missing,
        });
        if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
            line.extend(facts);
        }
        println!("{line}");
        ensure(!disclosed.is_empty(), "nothing was disclosed")?;
        Ok(lost == 0 && missing == 0)
    }
}

impl Asker {
    fn disclosed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.disclosed.lock().unwrap_or_else(|p| p.into_inner())
    }

    fn query(&self) -> (String, Vec<u8>) {
        self.message(Neighbour::find_documents(&self.patient))
    }

    /// A query that asks for something else.
    fn another(&self) -> (String, Vec<u8>) {
        self.message(CrossGatewayQueryRequest {
            return_type: ReturnType::ObjectRef,
            ..Neighbour::find_documents(&self.patient)
        })
    }

    /// MessageID and bytes.
    fn message(&self, query: CrossGatewayQueryRequest) -> (String, Vec<u8>) {
        let message = self.neighbour.message(actions::ITI38_REQUEST, XCA, &self.assertions, query.to_element());
        (message_id(&message).unwrap_or_default(), message)
    }

    /// One query; whether something was disclosed. What came counts, also when it breaks off.
    async fn ask(&self, (id, message): (String, Vec<u8>)) -> Result<bool, Error> {
        let request = Request::post(format!("https://localhost:{}{XCA}", offset("no") + 443))
            .header("content-type", "application/soap+xml; charset=UTF-8")
            .body(Full::new(Bytes::from(message)))?;
        let mut body = self.http.request(request).await?.into_body();
        let (mut bytes, mut broken) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend(frame.data_ref().map(|data| data.to_vec()).unwrap_or_default()),
                Err(error) => broken = Some(error),
            }
        }
        let contains = |name: &[u8]| memchr::memmem::find(&bytes, name).is_some();
        let disclosed = contains(b"ExtrinsicObject") || contains(b"ObjectRef");
        if disclosed {
            self.disclosed().insert(id);
            self.whole.fetch_add(u64::from(broken.is_none()), Ordering::AcqRel);
        }
        broken.map_or(Ok(disclosed), |error| Err(error.into()))
    }
}

/// MessageIDs of the queries that the trail has.
async fn recorded(demo: &Demo, since: jiff::Timestamp) -> Result<BTreeSet<String>, Error> {
    let from_us = since.as_microsecond() - 60_000_000;
    let filter = Filter { transaction: "ITI-38".into(), from_us, ..Filter::default() };
    let mut out = BTreeSet::new();
    for record in audit::every(&demo.dir, "no", &filter).await?.into_iter().filter_map(|found| found.record) {
        out.extend(message_ids(Message::read(&record.message).map_err(|e| e.to_string())?));
    }
    Ok(out)
}

/// What a clinician is told.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) at: Instant,
    pub(crate) status: u16,
    /// Code of the issue; empty where something was found.
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) retry_after: Option<u64>,
}

/// A clinician in Finland who looks for a patient of Norway's, again and again.
pub(crate) struct Clinician {
    told: Arc<Mutex<Vec<Told>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Clinician {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Clinician {
    pub(crate) async fn start(demo: &Demo) -> Result<Self, Error> {
        let client = Client::demo(&demo.dir, "fi", &Token::default())?;
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let noted = told.clone();
        let task = tokio::spawn(async move {
            loop {
                // A gateway that does not answer is no word of it.
                if let Ok(told) = look(&client).await {
                    noted.lock().unwrap_or_else(|p| p.into_inner()).push(told);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let clinician = Self { told, task };
        clinician.goes_on().await?;
        Ok(clinician)
    }

    /// Everything since an instant.
    pub(crate) fn since(&self, at: Instant) -> Vec<Told> {
        let told = self.told.lock().unwrap_or_else(|p| p.into_inner());
        told.iter().filter(|told| told.at >= at).cloned().collect()
    }

    /// Waits until the patient is found again.
    pub(crate) async fn goes_on(&self) -> Result<Duration, Error> {
        let began = Instant::now();
        next("an answer to a clinician", || self.since(began).iter().any(|told| told.status == 200)).await
    }
}

async fn look(client: &Client) -> Result<Told, Error> {
    let patient = PatientId::parse_cx(PATIENT)?;
    let identifier = json!({ "system": patient.root.urn(), "value": patient.extension });
    let body = json!({ "resourceType": "Patient", "identifier": [identifier] });
    let url = format!("{}/fhir/Patient/$match", issuer::audience("fi"));
    let at = Instant::now();
    let answer = client.call(Method::POST, &url, Some(&body)).await?;
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
    let value: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
    let of = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (code, text) = (of("/issue/0/details/coding/0/code"), of("/issue/0/details/text"));
    Ok(Told { at, status, code, text, retry_after })
}

async fn next(what: &str, holds: impl Fn() -> bool) -> Result<Duration, Error> {
    let began = Instant::now();
    while !holds() {
        ensure(began.elapsed() < Duration::from_secs(60), format!("{what} does not come"))?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(began.elapsed())
}
