//! Answers that their peer does not read.

use ncp_ihe::{ImagingRequest, Uid, actions};
use ncp_tests::neighbour::{Neighbour, XCAI};
use ncp_tests::synth::Study;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::transactions::instances;
use crate::world::{SOURCES, World, patient, study};

/// SE-11: a peer that asks for images and does not read them holds places of its own alone, and for as long as it may.
#[tokio::test(flavor = "multi_thread")]
async fn se_11_answers_that_a_peer_does_not_read_take_no_others_share() {
    let large = Study { instances: 120, side: 256, ..study(13) };
    let world = World::start_limited("idle = \"10s\"\nconcurrency = 10", async |pki| {
        let folder = pki.path("anchors.pem").ancestors().nth(2).expect("a folder").join("data/dicom/13");
        large.write(&folder).expect("a study");
        String::new()
    })
    .await;
    let slices: Vec<u32> = (1..=120).collect();
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let mut stream = world.finland.open().await.expect("a connection");
        stream.write_all(&wanted(&world.finland, &slices).await).await.expect("sends");
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
    tokio::time::timeout(std::time::Duration::from_secs(120), again).await.expect("the places are given back");
    drop(stalled);
}

/// A request for slices of the large study, as bytes.
async fn wanted(neighbour: &Neighbour, slices: &[u32]) -> Vec<u8> {
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let transfer_syntaxes = vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")];
    let request = ImagingRequest { studies: vec![instances(13, SOURCES[0], slices)], transfer_syntaxes };
    let message = neighbour.message(actions::RAD75_REQUEST, XCAI, &assertions, request.to_element());
    let (content_type, body) = ncp_soap::mtom_request(message);
    let body = http_body_util::BodyExt::collect(body).await.expect("a body").to_bytes();
    let content_type = content_type.to_str().expect("text");
    let head = format!(
        "POST {XCAI} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
