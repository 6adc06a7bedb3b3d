//! A DICOMweb archive that does what archives of the field do wrong, one fault at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::StreamExt;
use ncp_tests::synth::Study;
use serde_json::{Value, json};

/// What it holds and how it misbehaves.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) study: Option<Study>,
    pub(crate) files: BTreeMap<String, PathBuf>,
    /// Matches in one answer, whatever was asked for; the rest is announced by a warning.
    pub(crate) page: Option<usize>,
    /// Every page is the first one.
    pub(crate) ignores_offset: bool,
    /// Searches lack SOP class and transfer syntax.
    pub(crate) bare: bool,
    /// Requests that are answered with 503 first.
    pub(crate) busy: usize,
    /// Everything fails.
    pub(crate) down: bool,
    /// Nothing is ever answered.
    pub(crate) silent: bool,
    /// How often the body of an instance is cut after so many bytes.
    pub(crate) cut: BTreeMap<String, (usize, usize)>,
    /// After a cut another object is sent.
    pub(crate) changes: bool,
    /// Instances come as they are, not as multipart.
    pub(crate) single_part: bool,
    /// The wildcard transfer syntax is not known.
    pub(crate) no_wildcard: bool,
    /// An instance is sent under another media type.
    pub(crate) media_type: Option<&'static str>,
    /// Requests that came.
    pub(crate) asked: Vec<String>,
}

#[derive(Clone, Default)]
pub(crate) struct Archive(Arc<Mutex<Faults>>);

type Answer = Result<Response, StatusCode>;

impl Archive {
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.0.lock().expect("not poisoned")
    }

    /// Serves until the test ends; its base address.
    pub(crate) async fn serve(&self) -> String {
        let routes = Router::new()
            .route("/studies", get(studies))
            .route("/studies/{study}/series", get(series))
            .route("/studies/{study}/instances", get(instances))
            .route("/studies/{study}/series/{series}/instances/{sop}/metadata", get(metadata))
            .route("/studies/{study}/series/{series}/instances/{sop}", get(instance))
            .with_state(self.clone());
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let base = format!("http://{}", socket.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(socket, routes).await });
        base
    }

    async fn begin(&self, what: &str) -> Result<Study, StatusCode> {
        let silent = {
            let mut faults = self.faults();
            faults.asked.push(what.to_owned());
            if faults.down {
                return Err(StatusCode::INTERNAL_SERVER_ERROR);
            }
            if faults.busy > 0 {
                faults.busy -= 1;
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            faults.silent
        };
        if silent {
            std::future::pending::<()>().await;
        }
        self.faults().study.clone().ok_or(StatusCode::NOT_FOUND)
    }

    /// One page of matches.
    fn page(&self, all: Vec<Value>, query: &BTreeMap<String, String>) -> Response {
        let faults = self.faults();
        let number = |key: &str| query.get(key).and_then(|v| v.parse::<usize>().ok());
        let offset = if faults.ignores_offset { 0 } else { number("offset").unwrap_or(0) };
        let limit = number("limit").unwrap_or(usize::MAX).min(faults.page.unwrap_or(usize::MAX));
        let left = all.len().saturating_sub(offset.saturating_add(limit));
        let page: Vec<Value> = all.into_iter().skip(offset).take(limit).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/dicom+json".parse().expect("a value"));
        if left > 0 {
            let text = format!("299 archive \"There are {left} additional results that can be requested\"");
            headers.insert(header::WARNING, text.parse().expect("a value"));
        }
        (headers, Value::from(page).to_string()).into_response()
    }
}

fn value(vr: &str, text: &str) -> Value {
    json!({ "vr": vr, "Value": [text] })
}

async fn studies(State(archive): State<Archive>, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    let study = archive.begin("studies").await?;
    let by_patient = query.get("PatientID").is_none_or(|id| *id == study.patient_id);
    let by_study = query.get("StudyInstanceUID").is_none_or(|uid| *uid == study.uid());
    let found = json!({
        "00080020": value("DA", "20260102"),
        "00100020": value("LO", &study.patient_id),
        "00100030": value("DA", &study.birth_date),
        "0020000D": value("UI", &study.uid()),
        "00201208": { "vr": "IS", "Value": [study.instances] },
    });
    Ok(archive.page(if by_patient && by_study { vec![found] } else { Vec::new() }, &query))
}

async fn series(State(archive): State<Archive>, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    let study = archive.begin("series").await?;
    let found = json!({ "0020000E": value("UI", &study.series()), "00080060": value("CS", "CT") });
    Ok(archive.page(vec![found], &query))
}

fn attributes(study: &Study, slice: u32, bare: bool) -> Value {
    let mut out = json!({
        "00080018": value("UI", &study.instance(slice)),
        "0020000E": value("UI", &study.series()),
        "00200013": { "vr": "IS", "Value": [slice] },
    });
    if !bare {
        out["00080016"] = value("UI", "1.2.840.10008.5.1.4.1.1.2");
        out["00083002"] = value("UI", crate::EXPLICIT_LE);
    }
    out
}

async fn instances(State(archive): State<Archive>, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    let study = archive.begin("instances").await?;
    let bare = archive.faults().bare;
    let all = (1..=study.instances).map(|slice| attributes(&study, slice, bare)).collect();
    Ok(archive.page(all, &query))
}

async fn metadata(State(archive): State<Archive>, Path((_, _, sop)): Path<(String, String, String)>) -> Answer {
    let study = archive.begin("metadata").await?;
    let slice = (1..=study.instances).find(|s| study.instance(*s) == sop).ok_or(StatusCode::NOT_FOUND)?;
    Ok(archive.page(vec![attributes(&study, slice, false)], &BTreeMap::new()))
}

async fn instance(
    State(archive): State<Archive>,
    Path((_, _, sop)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Answer {
    archive.begin("instance").await?;
    let mut faults = archive.faults();
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if faults.no_wildcard && accept.contains("transfer-syntax=*") {
        return Err(StatusCode::NOT_ACCEPTABLE);
    }
    let mut bytes = std::fs::read(faults.files.get(&sop).ok_or(StatusCode::NOT_FOUND)?).expect("reads");
    let changes = faults.changes;
    let cut = match faults.cut.get_mut(&sop) {
        Some((times, at)) if *times > 0 => {
            *times -= 1;
            Some(*at)
        }
        Some(_) if changes => {
            // A bit before the place where the first answer was cut.
            bytes[9_000] ^= 1;
            None
        }
        _ => None,
    };
    let kind = faults.media_type.unwrap_or("application/dicom");
    let body = if faults.single_part {
        bytes
    } else {
        [format!("--b\r\nContent-Type: {kind}\r\n\r\n").into_bytes(), bytes, b"\r\n--b--\r\n".to_vec()].concat()
    };
    let content_type = if faults.single_part {
        kind.to_owned()
    } else {
        "multipart/related; type=\"application/dicom\"; boundary=b".to_owned()
    };
    let body = match cut {
        None => Body::from(body),
        Some(at) => {
            let first = Bytes::from(body[..at].to_vec());
            Body::from_stream(
                futures_util::stream::once(async { Ok::<_, std::io::Error>(first) }).chain(crate::harness::broken()),
            )
        }
    };
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}
