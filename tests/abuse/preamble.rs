//! T-DCM-12: a program or script in the 128 bytes before a DICOM object goes no further, in either role.

use bytes::Bytes;
use ncp_gateway::{app, config};
use ncp_ihe::{
    Content, DocumentRequest, DocumentResponse, HomeCommunityId, ImagingRequest, Oid, PatientId, RetrieveResponse,
    SeriesRequest, Status, StudyRequest, Uid, actions,
};
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS};
use ncp_tests::attack::{Finding, report};
use ncp_tests::consumer::Consumer;
use ncp_tests::country::{Country, Reaction};
use ncp_tests::neighbour::{Answer, Neighbour};
use ncp_tests::synth::Study;

use crate::world::{HOME, PATIENT, REPOSITORY, World};

/// Beginnings that systems run, and one that viewers of other formats take for theirs.
const BEGINNINGS: [(&str, &[u8]); 4] = [
    ("a Windows program", b"MZ\x90\0\x03\0\0\0"),
    ("a shell script", b"#!/bin/sh\nrm -rf /\n"),
    ("a page with a script", b"<html><script>alert(1)</script>"),
    ("a TIFF header", b"II*\0\x08\0\0\0"),
];

fn study(number: u32) -> Study {
    crate::world::study(number, 1)
}

/// The study's only instance, written with this beginning; and as it should go on.
fn armed(folder: &std::path::Path, study: &Study, beginning: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let file = study.write(folder).expect("a study").remove(0);
    let good = std::fs::read(&file).expect("reads");
    assert!(good[..128].iter().all(|b| *b == 0));
    let mut bytes = good.clone();
    bytes[..beginning.len()].copy_from_slice(beginning);
    std::fs::write(&file, &bytes).expect("writes");
    (bytes, good)
}

fn request(study: &Study, home: &str) -> ImagingRequest {
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let wanted = DocumentRequest {
        home: HomeCommunityId::parse(home).ok(),
        repository: Oid::parse(REPOSITORY).expect("an OID"),
        document: study.instance(1),
    };
    ImagingRequest {
        studies: vec![StudyRequest {
            study: uid(&study.uid()),
            series: vec![SeriesRequest { series: uid(&study.series()), instances: vec![wanted] }],
        }],
        transfer_syntaxes: vec![uid("1.2.840.10008.1.2.1")],
    }
}

/// The media type and bytes of the only part.
async fn part(answer: &mut Answer) -> (String, Vec<u8>) {
    let mut out = Vec::new();
    let head = answer.parts.next().await.expect("reads").expect("a part");
    while let Some(chunk) = answer.parts.chunk().await.expect("a piece") {
        out.extend_from_slice(&chunk);
    }
    (head.media_type, out)
}

fn judged((media_type, got): (String, Vec<u8>), good: &[u8]) -> String {
    match got == good {
        true => format!("zeroed, {media_type}"),
        false => format!("begins with {:?}, {media_type}", &got[..8.min(got.len())]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t_dcm_12_what_stands_before_an_instance_goes_no_further() {
    let (world, patient) = (World::new(), PatientId::parse_cx(PATIENT).expect("a CX"));
    let mut findings = Vec::new();
    let mut record = |input: String, got: String| {
        findings.push(Finding::new("T-DCM-12", &input, &["zeroed, application/dicom"], got));
    };
    // From an archive of our own.
    let good: Vec<Vec<u8>> = (1..)
        .zip(BEGINNINGS)
        .map(|(number, (_, beginning))| {
            armed(&world.path(&format!("data/dicom/{number}")), &study(number), beginning).1
        })
        .collect();
    let gateway = world.start("preamble", |text| text).await;
    for ((number, (name, _)), good) in (1..).zip(BEGINNINGS).zip(&good) {
        let (response, mut answer) =
            world.neighbour("fi", &gateway).images(&patient, &request(&study(number), HOME)).await.expect("an answer");
        assert_eq!(response.status, Status::Success);
        record(format!("{name} before an instance of the archive"), judged(part(&mut answer).await, good));
    }
    gateway.stop().await;

    // From another country, as a part and inside the XML.
    for (number, (name, beginning)) in (11..).zip(BEGINNINGS) {
        for inline in [false, true] {
            let dir = tempfile::tempdir().expect("a folder");
            let (bytes, good) = armed(&dir.path().join("study"), &study(number), beginning);
            let asking = Asking::create(dir.path()).expect("a PKI");
            let (other, anchors) = (asking.other("DK").expect("a PKI"), asking.pki.path("anchors.pem"));
            let wanted = request(&study(number), "2.999.45");
            let named = wanted.studies[0].series[0].instances[0].clone();
            let country = Country::start(&other, &anchors, move |_| {
                let (content, parts) = match inline {
                    true => (Content::Inline(bytes.clone().into()), Vec::new()),
                    false => {
                        let part = ("i@dk".to_owned(), "application/dicom", Bytes::from(bytes.clone()));
                        (Content::Include("i@dk".into()), vec![part])
                    }
                };
                let media_type = "application/dicom".into();
                let document = DocumentResponse { request: named.clone(), new_document: None, media_type, content };
                let body = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![document] };
                Reaction::Parts(actions::RAD75_RESPONSE, body.to_element(), parts)
            });
            let country = country.await.expect("starts");
            let known = Known { pki: &other, home: "2.999.45".into(), country: &country, lines: String::new() };
            let policies = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no");
            let path = asking.write([0; 3], "", &policies, &[known]).expect("writes");
            let config = config::load(&path).expect("a configuration");
            let bound = app::bind(app::build(config).await.expect("builds")).await.expect("binds");
            let port = bound.consumers_address().expect("an address").port();
            let task = tokio::spawn(bound.serve());
            let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, port).expect("a consumer");
            let claims = Neighbour::new(&asking.pki, HOME, &anchors, "localhost", port).expect("claims").claims();
            let treated = PatientId::parse_cx(&format!("1^^^&{PATIENTS}&ISO")).expect("a CX");
            let assertions = consumer.assertions(&claims, &treated).await.expect("signs");
            let mut answer = consumer.call(&assertions, wanted.to_element()).await.expect("an answer");
            let how = if inline { "inside the answer" } else { "in a part" };
            record(format!("{name} before another country's instance, {how}"), judged(part(&mut answer).await, &good));
            task.abort();
        }
    }
    std::fs::write(crate::report_folder().join("abuse-preamble.md"), report("both roles", &findings)).expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
