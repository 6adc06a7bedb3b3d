//! `ncp bench iti39`: documents of 50 kB and 5 MB from a repository through NCP-A, and in the same run what comparing one
//! costs bare: its hash, and reading whom a CDA records.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use ncp_ihe::cda::{CdaBeginning, beginning};
use ncp_ihe::{DocumentRequest, HomeCommunityId, Oid, PatientId, RetrieveRequest, actions};
use ncp_tests::neighbour::XCA;
use serde_json::json;

use crate::Error;
use crate::bench::processor_seconds;
use crate::bench_load::{load, unlimited};
use crate::check::{ensure, neighbour};
use crate::demo::{Demo, FINLAND, NORWAY};

const CLIENTS: usize = 4;
const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";
/// Bytes, and unique id.
const DOCUMENTS: [(usize, &str); 2] = [(50_000, "2.999.47.30.50"), (5_000_000, "2.999.47.30.5000")];

/// Each size in turn.
///
/// # Errors
/// The demonstration's; an answer that is none.
pub(crate) async fn run(dir: &Path, sources: &Path, seconds: u64) -> Result<(), Error> {
    let mut demo = unlimited(dir, sources)?;
    let reports = sources.join("deploy/demo/no/reports");
    let like = std::fs::read_to_string(reports.join("ct.toml"))?;
    for (size, unique_id) in DOCUMENTS {
        let held = demo.dir.join("no/data/reports");
        std::fs::write(held.join(format!("{size}.xml")), document(size)?)?;
        let entry = like.replace("ct.xml", &format!("{size}.xml")).replace("2.999.47.30.1", unique_id);
        std::fs::write(held.join(format!("{size}.toml")), entry)?;
    }
    demo.start().await?;
    for (size, unique_id) in DOCUMENTS {
        one(&demo, size, unique_id, seconds).await?;
    }
    demo.stop().await
}

/// A CDA of the patient, filled up to a size.
fn document(size: usize) -> Result<Vec<u8>, Error> {
    let patient = PatientId::parse_cx(PATIENT)?;
    let head = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ClinicalDocument xmlns=\"urn:hl7-org:v3\"><recordTarget><patientRole>\
         <id root=\"{}\" extension=\"{}\"/></patientRole></recordTarget><author/><component><nonXMLBody><text>",
        patient.root, patient.extension
    );
    let tail = "</text></nonXMLBody></component></ClinicalDocument>";
    let filler = "Normalt funn. ".repeat(size / 14 + 1);
    Ok([head.as_bytes(), &filler.as_bytes()[..size - head.len() - tail.len()], tail.as_bytes()].concat())
}

async fn one(demo: &Demo, size: usize, unique_id: &str, seconds: u64) -> Result<(), Error> {
    let patient = PatientId::parse_cx(PATIENT)?;
    let neighbour = neighbour(demo, &FINLAND, &NORWAY)?;
    let listed = neighbour.documents(&patient).await?;
    let entry = listed.objects.entries.into_iter().find(|entry| entry.unique_id == unique_id).ok_or("not listed")?;
    let request = DocumentRequest {
        home: Some(HomeCommunityId(Oid::parse(NORWAY.home)?)),
        repository: entry.repository_unique_id,
        document: unique_id.to_owned(),
    };
    let assertions = neighbour.assertions(&patient).await?;
    let neighbour = Arc::new(neighbour);
    let message = move || {
        let body = RetrieveRequest { documents: vec![request.clone()] }.to_element();
        let message = neighbour.message(actions::ITI39_REQUEST, XCA, &assertions, body);
        async move {
            let (content_type, body) = ncp_soap::mtom_request(message);
            Ok((content_type, body.collect().await?.to_bytes()))
        }
    };
    let answered = move |answer: &[u8]| ensure(answer.len() > size, format!("{} bytes of {size}", answer.len()));
    let before = processor_seconds(demo.pid("no", "ncp-gateway")?)?;
    let (done, took) = load(demo, (CLIENTS, seconds), message, answered).await?;
    let spent = processor_seconds(demo.pid("no", "ncp-gateway")?)? - before;
    let (hash, header) = bare(&document(size)?);
    println!(
        "{}",
        json!({
            "bench": "iti39", "bytes": size, "clients": CLIENTS, "seconds": seconds,
            "documents_per_second": (done / took).round(),
            "gateway_cpu_us_per_document": (spent / done * 1e6).round(),
            "bare_hash_us": hash, "bare_cda_header_us": header,
            "note": "the clients share the machine's cores",
        })
    );
    Ok(())
}

/// Copies of a document that are read in turn, bytes: no cache of a processor holds them, as it holds no patient's document.
const COPIES: usize = 128 << 20;

/// Microseconds of the hash and of reading the record target, one core.
fn bare(document: &[u8]) -> (f64, f64) {
    let copies = vec![document.to_vec(); COPIES.div_ceil(document.len())];
    let timed = |work: &dyn Fn(&[u8])| {
        let (began, mut count) = (Instant::now(), 0u32);
        for copy in copies.iter().cycle() {
            work(copy);
            count += 1;
            if began.elapsed() >= Duration::from_millis(500) {
                break;
            }
        }
        (began.elapsed().as_secs_f64() / f64::from(count) * 1e7).round() / 10.0
    };
    let hash = timed(&|document| {
        std::hint::black_box(openssl::sha::sha1(document));
    });
    let header = timed(&|document| {
        let beginning = beginning(&document[..document.len().min(256 << 10)], false);
        assert!(matches!(std::hint::black_box(beginning), CdaBeginning::Of(_)), "a CDA");
    });
    (hash, header)
}
