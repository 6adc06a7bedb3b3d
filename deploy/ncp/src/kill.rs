//! `ncp faults`: the gateway and its repository are killed again and again while another country asks; every answer that
//! left must be on the trail in the end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use ncp_audit::{Filter, Message};
use ncp_ihe::{PatientId, actions};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tls::HttpClient;
use serde_json::json;

use crate::check::{ensure, neighbour};
use crate::demo::{Demo, FINLAND, NORWAY, offset, wait_ready};
use crate::trail::{message_id, message_ids};
use crate::{Error, audit};

/// Who ask at once.
const CLIENTS: usize = 4;
/// Entries of one search.
const PAGE: u32 = 1000;

/// MessageIDs of what was asked.
#[derive(Default)]
struct Asked {
    /// Of whose answer an entry left.
    disclosed: Mutex<BTreeSet<String>>,
    /// Whose answer came whole.
    whole: AtomicU64,
    enough: AtomicBool,
}

pub(crate) async fn run(rounds: u64, sources: &Path) -> Result<bool, Error> {
    let dir = tempfile::tempdir()?;
    let mut demo = Demo::prepare(dir.path().join("demo"), sources)?;
    demo.start().await?;
    let patient = PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let neighbour = Arc::new(neighbour(&demo, &FINLAND, &NORWAY)?);
    let assertions = Arc::new(neighbour.assertions(&patient).await?);
    let material = ncp_tls::Material::load(&demo.fi.path("tls-client.pem"), &demo.fi.path("tls-client.key"))?;
    let connector = material.connector(&[demo.no.path("anchors.pem")], b"\x08http/1.1")?;
    let http: HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, Duration::from_secs(10));
    let asked = Arc::new(Asked::default());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (http, neighbour, assertions) = (http.clone(), neighbour.clone(), assertions.clone());
        let (patient, asked) = (patient.clone(), asked.clone());
        clients.spawn(async move {
            while !asked.enough.load(Ordering::Acquire) {
                let body = Neighbour::find_documents(&patient).to_element();
                let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
                if ask(&http, message, &asked).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(50 + round * 37 % 250)).await;
        demo.kill("no/ncp-gateway").await?;
        demo.start_gateway("no")?;
        wait_ready(offset("no") + 445).await?;
        tokio::time::sleep(Duration::from_millis(round * 53 % 150)).await;
        demo.kill("no/ncp-audit").await?;
        demo.start_one("no", "ncp-audit")?;
        wait_ready(offset("no") + 450).await?;
    }
    asked.enough.store(true, Ordering::Release);
    while clients.join_next().await.is_some() {}

    let disclosed = asked.disclosed.lock().unwrap_or_else(|p| p.into_inner()).clone();
    let until = Instant::now() + Duration::from_secs(120);
    let recorded = loop {
        let recorded = recorded(&demo).await?;
        if disclosed.is_subset(&recorded) || Instant::now() > until {
            break recorded;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let lost = disclosed.difference(&recorded).count();
    let missing = audit::missing(&demo.dir, "no").await?;
    println!(
        "{}",
        json!({
            "fault": "gateway and repository killed under load", "rounds": rounds,
            "accepted": asked.whole.load(Ordering::Acquire), "disclosed": disclosed.len(),
            "recorded": recorded.len(), "lost": lost, "missing_numbers": missing,
        })
    );
    demo.stop().await?;
    ensure(!disclosed.is_empty(), "nothing was disclosed")?;
    Ok(lost == 0 && missing == 0)
}

/// One query; what of its answer came counts, also when it breaks off.
async fn ask(http: &HttpClient<Full<Bytes>>, message: Vec<u8>, asked: &Asked) -> Result<(), Error> {
    let id = message_id(&message).ok_or("a message without id")?;
    let request = Request::post(format!("https://localhost:{}{XCA}", offset("no") + 443))
        .header("content-type", "application/soap+xml; charset=UTF-8")
        .body(Full::new(Bytes::from(message)))?;
    let mut body = http.request(request).await?.into_body();
    let (mut bytes, mut broken) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend(frame.data_ref().map(|data| data.to_vec()).unwrap_or_default()),
            Err(error) => broken = Some(error),
        }
    }
    if memchr::memmem::find(&bytes, b"ExtrinsicObject").is_some() {
        asked.disclosed.lock().unwrap_or_else(|p| p.into_inner()).insert(id);
        asked.whole.fetch_add(u64::from(broken.is_none()), Ordering::AcqRel);
    }
    broken.map_or(Ok(()), |error| Err(error.into()))
}

/// MessageIDs of the queries that the trail has.
async fn recorded(demo: &Demo) -> Result<BTreeSet<String>, Error> {
    let mut out = BTreeSet::new();
    for page in 0.. {
        let filter = Filter { transaction: "ITI-38".into(), limit: PAGE, skip: page * PAGE, ..Filter::default() };
        let found = audit::search(&demo.dir, "no", filter).await?;
        for record in found.iter().filter_map(|f| f.record.as_ref()) {
            out.extend(message_ids(Message::read(&record.message).map_err(|e| e.to_string())?));
        }
        if found.len() < PAGE as usize {
            break;
        }
    }
    Ok(out)
}
