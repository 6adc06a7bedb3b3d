//! A DICOMweb archive of many studies that behaves well but for one habit, and counts what it is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::synth::Study;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";

/// One request, as a habit sees it.
pub struct Asked<'a> {
    /// `studies`, `series`, `instances`, `metadata`, `instance`.
    pub what: &'static str,
    /// Path below the base.
    pub path: &'a str,
    /// Its parameters.
    pub query: &'a BTreeMap<String, String>,
    /// Study Instance UIDs of what would be answered: of the page.
    pub page: Vec<String>,
    /// The same of all pages.
    pub among: Vec<String>,
    /// How often this path was asked for before.
    pub before: usize,
}

/// What an archive does instead of answering; `None`: it answers.
pub type Habit = Arc<dyn Fn(&Asked<'_>) -> Option<Response> + Send + Sync>;

struct Held {
    study: Study,
    /// Study Date.
    date: String,
    /// Instances that it says it has, where those are others than it lists.
    counted: Option<u32>,
    modality: &'static str,
    files: Vec<PathBuf>,
}

#[derive(Default)]
struct Inside {
    held: Vec<Held>,
    habit: Option<Habit>,
    /// Requests of a study that wait here, by a part of their path.
    gate: Option<(String, Arc<Semaphore>)>,
    asked: Vec<String>,
    headers: Vec<HeaderMap>,
}

/// The archive; clones are the same one.
#[derive(Clone, Default)]
pub struct Archive(Arc<Mutex<Inside>>);

impl Archive {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("not poisoned")
    }

    /// Takes a study, whose files go into the folder; its date follows from its number.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn hold(&self, study: &Study, folder: &Path) {
        self.hold_as(study, folder, "CT");
    }

    /// The same with a modality that a search says of it.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn hold_as(&self, study: &Study, folder: &Path, modality: &'static str) {
        let files = study.write(&folder.join(format!("held-{}", study.number))).expect("writes");
        let date = format!("2026{:02}{:02}", study.number % 12 + 1, study.number % 28 + 1);
        self.inside().held.push(Held { study: study.clone(), date, counted: None, modality, files });
    }

    /// The Study Date of a study is another.
    pub fn dated(&self, number: u32, date: &str) {
        for held in self.inside().held.iter_mut().filter(|h| h.study.number == number) {
            date.clone_into(&mut held.date);
        }
    }

    /// It counts so many instances of a study (0020,1208), whatever it lists.
    pub fn counts(&self, number: u32, instances: u32) {
        for held in self.inside().held.iter_mut().filter(|h| h.study.number == number) {
            held.counted = Some(instances);
        }
    }

    /// One more instance of a study arrives.
    ///
    /// # Panics
    /// When the study is not held, or its files cannot be written.
    pub fn grow(&self, number: u32, folder: &Path) {
        let mut inside = self.inside();
        let held = inside.held.iter_mut().find(|h| h.study.number == number).expect("held");
        held.study.instances += 1;
        held.files = held.study.write(&folder.join(format!("held-{number}"))).expect("writes");
    }

    /// From now on it does this instead of answering.
    pub fn habit(&self, habit: impl Fn(&Asked<'_>) -> Option<Response> + Send + Sync + 'static) {
        self.inside().habit = Some(Arc::new(habit));
    }

    /// It has no habit any more.
    pub fn behaves(&self) {
        let mut inside = self.inside();
        inside.habit = None;
        inside.gate = None;
    }

    /// Requests whose path has this wait until the semaphore gives them way.
    pub fn gate(&self, part: &str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.inside().gate = Some((part.to_owned(), gate.clone()));
        gate
    }

    /// The requests since this was asked last.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.inside().asked)
    }

    /// The header fields of all requests.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.inside().headers.clone()
    }

    /// Serves until the test ends; its base address.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn serve(&self) -> String {
        let routes = Router::new().fallback(answer).with_state(self.clone());
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let base = format!("http://{}/dicom-web", socket.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(socket, routes).await });
        base
    }
}

/// A status without a body, and a header.
///
/// # Panics
/// When it is none.
pub fn status(code: u16, headers: &[(&'static str, &str)]) -> Option<Response> {
    let mut response = StatusCode::from_u16(code).expect("a status").into_response();
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    Some(response)
}

fn value(vr: &str, text: &str) -> Value {
    json!({ "vr": vr, "Value": [text] })
}

async fn answer(State(archive): State<Archive>, request: Request) -> Response {
    let uri = request.uri().clone();
    let path = uri.path().strip_prefix("/dicom-web").unwrap_or_default().to_owned();
    let query: BTreeMap<String, String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), percent_encoding::percent_decode_str(v).decode_utf8_lossy().into_owned()))
        .collect();
    let gate = {
        let mut inside = archive.inside();
        inside.headers.push(request.headers().clone());
        inside.gate.clone().filter(|(part, _)| path.contains(part))
    };
    if let Some((_, gate)) = gate {
        gate.acquire().await.expect("open").forget();
    }
    let inside = archive.inside();
    let before = inside.asked.iter().filter(|a| **a == path).count();
    let steps: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (what, all) = matches(&inside.held, &steps, &query);
    let of = |v: &Value| v["0020000D"]["Value"][0].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| query.get(key).and_then(|v| v.parse::<usize>().ok());
    let (offset, limit) = (number("offset").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
    let page: Vec<Value> = all.iter().skip(offset).take(limit).cloned().collect();
    let asked = Asked {
        what,
        path: &path,
        query: &query,
        page: page.iter().map(of).collect(),
        among: all.iter().map(of).collect(),
        before,
    };
    let odd = inside.habit.as_ref().and_then(|habit| habit(&asked));
    let file = (what == "instance").then(|| file_of(&inside.held, &steps)).flatten();
    drop(inside);
    archive.inside().asked.push(path.clone());
    if let Some(odd) = odd {
        return odd;
    }
    match (what, file) {
        ("instance", Some(file)) => {
            let bytes = std::fs::read(file).expect("reads");
            let head = b"--b\r\nContent-Type: application/dicom\r\n\r\n".to_vec();
            let body = [head, bytes, b"\r\n--b--\r\n".to_vec()].concat();
            ([(header::CONTENT_TYPE, "multipart/related; type=\"application/dicom\"; boundary=b")], Body::from(body))
                .into_response()
        }
        ("instance" | "", _) => StatusCode::NOT_FOUND.into_response(),
        _ => ([(header::CONTENT_TYPE, "application/dicom+json")], Value::from(page).to_string()).into_response(),
    }
}

/// Which resource it is and what it matches.
fn matches(held: &[Held], steps: &[&str], query: &BTreeMap<String, String>) -> (&'static str, Vec<Value>) {
    let one = |uid: &str| held.iter().find(|h| h.study.uid() == uid);
    match steps {
        ["studies"] => {
            let fits = |h: &&Held| {
                let day = query.get("StudyDate").and_then(|range| range.split_once('-'));
                query.get("PatientID").is_none_or(|id| *id == h.study.patient_id)
                    && query.get("StudyInstanceUID").is_none_or(|uid| *uid == h.study.uid())
                    && query.get("ModalitiesInStudy").is_none_or(|m| m == h.modality)
                    && day.is_none_or(|(from, to)| from <= h.date.as_str() && h.date.as_str() <= to)
            };
            ("studies", held.iter().filter(fits).map(study_record).collect())
        }
        ["studies", uid, "series"] => ("series", one(uid).map(series_record).into_iter().collect()),
        ["studies", uid, "instances"] => ("instances", one(uid).map(instance_records).unwrap_or_default()),
        ["studies", uid, "series", _, "instances"] => ("instances", one(uid).map(instance_records).unwrap_or_default()),
        ["studies", _, "series", _, "instances", _] => ("instance", Vec::new()),
        ["studies", uid, "series", _, "instances", sop, "metadata"] => {
            let of = |v: &Value| v["00080018"]["Value"][0].as_str() == Some(*sop);
            ("metadata", one(uid).map(instance_records).unwrap_or_default().into_iter().filter(of).collect())
        }
        _ => ("", Vec::new()),
    }
}

fn study_record(held: &Held) -> Value {
    let study = &held.study;
    json!({
        "00080020": value("DA", &held.date),
        "00100020": value("LO", &study.patient_id),
        "00100030": value("DA", &study.birth_date),
        "0020000D": value("UI", &study.uid()),
        "00201208": { "vr": "IS", "Value": [held.counted.unwrap_or(study.instances)] },
    })
}

fn series_record(held: &Held) -> Value {
    let study = &held.study;
    json!({
        "0020000D": value("UI", &study.uid()),
        "0020000E": value("UI", &study.series()),
        "00080060": value("CS", held.modality),
    })
}

fn instance_records(held: &Held) -> Vec<Value> {
    instances_of(&held.study)
}

/// What a search for the instances of a study answers.
pub fn instances_of(study: &Study) -> Vec<Value> {
    let record = |slice| {
        json!({
            "00080016": value("UI", "1.2.840.10008.5.1.4.1.1.2"),
            "00080018": value("UI", &study.instance(slice)),
            "00083002": value("UI", EXPLICIT_LE),
            "0020000D": value("UI", &study.uid()),
            "0020000E": value("UI", &study.series()),
            "00200013": { "vr": "IS", "Value": [slice] },
        })
    };
    (1..=study.instances).map(record).collect()
}

fn file_of(held: &[Held], steps: &[&str]) -> Option<PathBuf> {
    let ["studies", uid, "series", _, "instances", sop] = steps else { return None };
    let held = held.iter().find(|h| h.study.uid() == **uid)?;
    let slice = (1..=held.study.instances).find(|s| held.study.instance(*s) == **sop)?;
    held.files.get(slice as usize - 1).cloned()
}
