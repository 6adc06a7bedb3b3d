//! Answers that their peer does not read.

use std::time::Duration;

use ncp_ihe::{DocumentRequest, HomeCommunityId, ImagingRequest, Oid, RetrieveRequest, Uid, actions};
use ncp_tests::neighbour::{Neighbour, XCA, XCAI};
use ncp_tests::synth::Study;
use ncp_xml::Element;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::trail::detail;
use crate::transactions::instances;
use crate::world::{HOME, SOURCES, World, patient, study};

/// A document that is longer than what the kernels of both ends take.
const REPORT: &str = "2.999.47.30.7";
const REPORT_BYTES: usize = 24 << 20;
const SLICES: u32 = 120;

/// SE-11: a peer that asks for images and does not read them holds places of its own alone, and for as long as it may. The
/// trail says of each what went out.
#[tokio::test(flavor = "multi_thread")]
async fn se_11_images_that_a_peer_does_not_read_take_no_others_share() {
    let large = Study { instances: SLICES, side: 256, ..study(13) };
    let world = World::start_limited(LIMITS, async |pki| {
        let folder = pki.path("anchors.pem").ancestors().nth(2).expect("a folder").join("data/dicom/13");
        large.write(&folder).expect("a study");
        String::new()
    })
    .await;
    let slices: Vec<u32> = (1..=SLICES).collect();
    let transfer_syntaxes = vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")];
    let request = ImagingRequest { studies: vec![instances(13, SOURCES[0], &slices)], transfer_syntaxes };
    let wanted = || sent(&world.finland, actions::RAD75_REQUEST, XCAI, request.to_element());
    let whole = u64::from(SLICES) * 256 * 256;
    stalled(&world, "RAD-75", wanted, whole).await;
}

/// SE-11: the same for documents.
#[tokio::test(flavor = "multi_thread")]
async fn se_11_documents_that_a_peer_does_not_read_take_no_others_share() {
    let world = World::start_limited(LIMITS, async |pki| {
        let folder = pki.path("anchors.pem").ancestors().nth(2).expect("a folder").join("data/reports");
        let described = std::fs::read_to_string(folder.join("ct.toml")).expect("a report");
        let described = described.replace("ct.xml", "long.pdf").replace("text/xml", "application/pdf");
        std::fs::write(folder.join("long.toml"), described.replace("2.999.47.30.1", REPORT)).expect("writes");
        std::fs::write(folder.join("long.pdf"), [b"%PDF-1.7\n".as_slice(), &vec![b' '; REPORT_BYTES]].concat())
            .expect("writes");
        String::new()
    })
    .await;
    let document = DocumentRequest {
        home: HomeCommunityId::parse(HOME).ok(),
        repository: Oid::parse(SOURCES[0]).expect("an OID"),
        document: REPORT.into(),
    };
    let request = RetrieveRequest { documents: vec![document] };
    let wanted = || sent(&world.finland, actions::ITI39_REQUEST, XCA, request.to_element());
    stalled(&world, "ITI-39", wanted, REPORT_BYTES as u64).await;
}

const LIMITS: &str = "idle = \"10s\"\nconcurrency = 10";

/// Six requests whose answers, each of more than so many bytes, are not read.
async fn stalled<F: Future<Output = Vec<u8>>>(world: &World, transaction: &str, wanted: impl Fn() -> F, whole: u64) {
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let mut stream = world.finland.open().await.expect("a connection");
        stream.write_all(&wanted().await).await.expect("sends");
        stream.flush().await.expect("sends");
        stalled.push(stream);
    }
    let mut statuses = Vec::new();
    for stream in &mut stalled {
        let mut heard = [0; 12];
        stream.read_exact(&mut heard).await.expect("an answer");
        statuses.push(String::from_utf8_lossy(&heard[9..]).into_owned());
    }
    statuses.sort_unstable();
    assert_eq!(
        statuses,
        ["200", "200", "200", "200", "503", "503"],
        "four of ten places are one peer's\n{}",
        world.log()
    );
    world.sweden.documents(&patient()).await.expect("another peer is served");
    let again = async { while world.finland.documents(&patient()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(120), again).await.expect("the places are given back");
    // Their receiver is there still: it is they who were cut.
    let cut = async {
        loop {
            let trail = world.trail().ihe;
            let mut of: Vec<_> = trail.into_iter().filter(|m| m.types.iter().any(|t| t.code == transaction)).collect();
            of.retain(|message| message.description.contains("receiver or source went away"));
            if of.len() == 4 {
                return of;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let cut = tokio::time::timeout(Duration::from_secs(60), cut).await;
    for message in cut.unwrap_or_else(|_| panic!("a record of each\n{}", world.log())) {
        let bytes: u64 = detail(&message, "ncp:bytes").and_then(|bytes| bytes.parse().ok()).expect("what went out");
        assert!((1..whole).contains(&bytes) && message.outcome != 0, "{bytes} of {whole}, {}", message.outcome);
    }
    drop(stalled);
}

/// A request as bytes.
async fn sent(neighbour: &Neighbour, action: &str, path: &str, body: Element) -> Vec<u8> {
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let message = neighbour.message(action, path, &assertions, body);
    let (content_type, body) = ncp_soap::mtom_request(message);
    let body = http_body_util::BodyExt::collect(body).await.expect("a body").to_bytes();
    let content_type = content_type.to_str().expect("text");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
