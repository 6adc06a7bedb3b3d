//! SK-07: a patient with thousands of reports. What the gateway holds for an answer follows from a budget, not from the number of
//! requests; an answer is counted before it is made; what is made of a report counts with it.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use ncp_ihe::{PatientId, actions};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::CountryPki;

use crate::common::terminology::serving;
use crate::world::{World, other_patient, patient};

/// Growth that one request may cause, and sixteen at once, KiB.
const ONE: u64 = 64_000_000 >> 10;
const SIXTEEN: u64 = 256_000_000 >> 10;

/// Writes so many reports of a patient beside those that are there.
fn reports(folder: &std::path::Path, patient: &PatientId, root: &str, count: usize) {
    let sample = std::fs::read_to_string(folder.join("ct.toml")).expect("a report");
    std::fs::write(folder.join("short.xml"), "<ClinicalDocument xmlns=\"urn:hl7-org:v3\"/>").expect("writes");
    let field = |line: &str, n: usize| match line.split(" = ").next() {
        Some("file") => Some("file = \"short.xml\"".to_owned()),
        Some("unique_id") => Some(format!("unique_id = \"{root}.{n}\"")),
        Some("patient") => Some(format!("patient = \"{}\"", patient.to_cx())),
        // What does not describe a study is known for itself.
        Some("study" | "accession") => None,
        _ => Some(line.to_owned()),
    };
    for n in 0..count {
        let text: Vec<String> = sample.lines().filter_map(|line| field(line, n)).collect();
        std::fs::write(folder.join(format!("{root}-{n}.toml")), text.join("\n")).expect("writes");
    }
}

/// What came of a query: entries that were listed, or the error.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Entries(usize),
    Error(String),
}

/// A connection on which a query can be sent, and the query for all documents of a patient.
async fn ready(neighbour: &Neighbour, patient: &PatientId) -> (SendRequest<Full<Bytes>>, Request<Full<Bytes>>) {
    let assertions = neighbour.assertions(patient).await.expect("signs");
    let body = Neighbour::find_documents(patient).to_element();
    let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
    let request = Request::post(XCA)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/soap+xml; charset=UTF-8")
        .body(Full::new(Bytes::from(message)))
        .expect("a request");
    let stream = neighbour.open().await.expect("a connection");
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    (sender, request)
}

/// Asks, and counts what comes without holding it.
async fn listed((mut sender, request): (SendRequest<Full<Bytes>>, Request<Full<Bytes>>)) -> Told {
    const ENTRY: &[u8] = b"ExtrinsicObject ";
    let mut answer = sender.send_request(request).await.expect("an answer").into_body();
    let (mut entries, mut seen, mut first) = (0, Vec::new(), Vec::new());
    while let Some(frame) = answer.frame().await {
        seen.extend_from_slice(&frame.expect("whole").into_data().expect("data"));
        if first.len() < 4096 {
            first.extend_from_slice(&seen);
        }
        entries += memchr::memmem::find_iter(&seen, ENTRY).count();
        // A name that begins here ends in the next frame.
        seen.drain(..seen.len() - seen.len().min(ENTRY.len() - 1));
    }
    let first = String::from_utf8_lossy(&first);
    match first.split_once("errorCode=\"") {
        Some((_, rest)) => Told::Error(rest.split('"').next().unwrap_or_default().to_owned()),
        None => Told::Entries(entries),
    }
}

/// What the work makes the gateway grow, KiB.
async fn grown<T>(world: &World, work: impl Future<Output = T>) -> (T, u64) {
    let before = world.memory("VmRSS:");
    world.forget_peak();
    let out = work.await;
    (out, world.memory("VmHWM:").saturating_sub(before))
}

#[tokio::test(flavor = "multi_thread")]
async fn sk_07_a_patient_with_thousands_of_reports() {
    let of_limit = PatientId::parse_cx("05819012345^^^&2.16.578.1.12.4.1.4.1&ISO").expect("a CX");
    let prepared = async |pki: &CountryPki| {
        let folder = pki.path("../data/reports");
        reports(&folder, &patient(), "2.999.47.61", 9_990);
        reports(&folder, &other_patient(), "2.999.47.62", 4_900);
        reports(&folder, &of_limit, "2.999.47.63", 10_001);
        serving(pki).await
    };
    let world = World::start_with(prepared).await;

    let asked = ready(&world.finland, &of_limit).await;
    let (told, growth) = grown(&world, listed(asked)).await;
    assert_eq!(told, Told::Error("XDSTooManyResults".into()));
    assert!(growth < 8 << 10, "refused before anything is made: {growth} KiB");

    // A report and its pivot are two lines and one document.
    for (patient, documents) in [(other_patient(), 4_900), (patient(), 9_990)] {
        let asked = ready(&world.finland, &patient).await;
        let (told, growth) = grown(&world, listed(asked)).await;
        let Told::Entries(entries) = told else { panic!("{documents}: {told:?}") };
        assert!(entries >= 2 * documents, "{entries} of {documents}");
        println!("{documents} reports, {entries} entries, one request: {} MB", growth >> 10);
        assert!(growth <= ONE, "{documents} reports: {growth} KiB");
    }

    let patient = patient();
    let all = futures_util::future::join_all((0..16).map(|_| ready(&world.finland, &patient))).await;
    let (told, growth) = grown(&world, futures_util::future::join_all(all.into_iter().map(listed))).await;
    let whole = told.iter().filter(|told| matches!(told, Told::Entries(entries) if *entries >= 2 * 9_990)).count();
    let busy = told.iter().filter(|told| **told == Told::Error("XDSRegistryBusy".into())).count();
    println!("sixteen at once: {whole} whole, {busy} told busy, {} MB", growth >> 10);
    assert!(whole > 0 && whole + busy == 16, "{told:?}");
    assert!(growth <= SIXTEEN, "sixteen at once: {growth} KiB");
}
