//! Eight of the largest messages at once: the gateway's memory at its peak, as a peer's requests and another country's answers
//! make it.

use std::path::Path;

use bytes::Bytes;
use futures_util::future::join_all;
use ncp_ihe::{
    Content, DocumentRequest, DocumentResponse, HomeCommunityId, Oid, PatientId, RetrieveRequest, RetrieveResponse,
    Status, actions,
};
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS};
use ncp_tests::attack::with_slot;
use ncp_tests::cases::Recorded;
use ncp_tests::consumer::Consumer;
use ncp_tests::country::{Country, Reaction};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::usage::Cost;

use super::apart::Apart;
use super::{SOAP, elements, with_elements};
use crate::world::{PATIENT, World};

/// The gateway at its peak.
const PEAK: u64 = 512 << 20;

/// Eight of a message at once, and what they cost.
async fn eight(gateway: &Apart, neighbour: &Neighbour, what: &str, message: Vec<u8>) -> Cost {
    let message = Bytes::from(message);
    let posts = (0..8).map(|_| neighbour.post(XCA, SOAP, message.clone()));
    let (answers, cost) = gateway.watched().cost(join_all(posts)).await.expect("runs");
    drop(answers);
    println!("eight times {what}: {} MB at its peak, {} ms of processors", cost.peak >> 20, cost.cpu.as_millis());
    cost
}

#[tokio::test(flavor = "multi_thread")]
async fn se_07_eight_of_the_largest_requests_at_once() {
    let world = World::new();
    let gateway = Apart::start(&world.config("eight", |text| text), "spool-eight");
    let neighbour = world.neighbour_of("fi", gateway.peers);
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let assertions = neighbour.assertions(&patient).await.expect("signs");
    let slot = |value: &str| {
        let body = with_slot(Neighbour::find_documents(&patient).to_element(), value);
        neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body)
    };
    let list: Vec<String> = (0..4000).map(|n| format!("'urn:uuid:6a3f2f6e-1f5e-4a4e-9d53-{n:012}'")).collect();
    for (what, message) in [
        ("a slot of 15 MiB", slot(&"x".repeat(15 << 20))),
        ("a list of 4,000 identifiers", slot(&format!("({})", list.join(",")))),
        ("11,000 elements of 200 attributes", with_elements(&neighbour, &elements(11_000, 200)).await),
        ("190,000 empty elements", with_elements(&neighbour, &elements(190_000, 0)).await),
    ] {
        let cost = eight(&gateway, &neighbour, what, message).await;
        assert!(cost.peak <= PEAK, "{what}: {} MB", cost.peak >> 20);
    }
    neighbour.documents(&patient).await.expect("served as before");
}

/// As many entries as a country lists of documents, half of them of documents that are made when they are retrieved; fewer
/// where the build is without optimisation.
const ENTRIES: usize = if cfg!(debug_assertions) { 2_000 } else { 10_000 };

/// A list of so many entries: the first of a recorded one, again and again.
fn longest_list(recorded: &str) -> Recorded {
    let (begin, rest) = recorded.split_at(recorded.find("<rim:ExtrinsicObject").expect("an entry"));
    let end = rest.find("</rim:ExtrinsicObject>").expect("its end") + "</rim:ExtrinsicObject>".len();
    let made = rest[..end]
        .replace("a2fe7169fb829e1076a776cbf7ea25290dc1a202", "da39a3ee5e6b4b0d3255bfef95601890afd80709")
        .replace(">972<", ">0<");
    let entry = |n: usize| {
        let sample = if n.is_multiple_of(2) { &made } else { &rest[..end] };
        sample
            .replace("115fd9ce-a125-5e1f-a08f-b10e4c1632d3", &format!("6a3f2f6e-1f5e-4a4e-9d53-{n:012}"))
            .replace("\"2.999.752.30.1\"", &format!("\"2.999.752.30.{n}\""))
    };
    let entries: String = (0..ENTRIES).map(entry).collect();
    let body = begin.split_once("?>").map_or(begin, |(_, body)| body);
    let body = format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"http://www.w3.org/2005/08/addressing\"><s:Header>\
         <a:Action>{}</a:Action></s:Header><s:Body>{body}{entries}</rim:RegistryObjectList></query:AdhocQueryResponse></s:Body>\
         </s:Envelope>",
        actions::ITI38_RESPONSE,
    );
    Recorded { content_type: SOAP.to_owned(), body: body.into_bytes() }
}

#[tokio::test(flavor = "multi_thread")]
async fn se_07_eight_of_the_largest_answers_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let asking = Asking::create(dir.path()).expect("a PKI");
    let (other, anchors) = (asking.other("DK").expect("a PKI"), asking.pki.path("anchors.pem"));
    let treated = PatientId::parse_cx(&format!("191212121212^^^&{PATIENTS}&ISO")).expect("a CX");
    let recorded = Recorded::load("foreign/FO-01-iti38-self-association.xml", Some(SOAP))
        .with("2.999.752.1&amp;", &format!("{PATIENTS}&amp;"));
    let list = longest_list(std::str::from_utf8(&recorded.body).expect("text"));
    let document = Bytes::from(vec![b'x'; 63 << 20]);
    let wanted = DocumentRequest {
        home: HomeCommunityId::parse("2.999.752").ok(),
        repository: Oid::parse("2.999.752.20").expect("an OID"),
        document: "2.999.752.50.1".into(),
    };
    let request = wanted.clone();
    let country = Country::start(&other, &anchors, move |asked| {
        if asked.action == actions::ITI38_REQUEST {
            return Reaction::Recorded(list.clone());
        }
        let content = Content::Include("1@x".into());
        let one =
            DocumentResponse { request: request.clone(), new_document: None, media_type: "text/plain".into(), content };
        let body = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![one] }.to_element();
        Reaction::Parts(actions::ITI39_RESPONSE, body, vec![("1@x".into(), "text/plain", document.clone())])
    });
    let country = country.await.expect("starts");
    let known = Known { pki: &other, home: "2.999.752".into(), country: &country, lines: String::new() };
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no");
    let limits = "query = \"120s\"\nfirst_byte = \"120s\"\n";
    let config = asking.write([0; 3], limits, &policies, &[known]).expect("writes");
    let gateway = Apart::start(&config, "spool");
    let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, gateway.consumers).expect("a consumer");
    let claims = ncp_saml::HcpClaims {
        country: ncp_tls::Country::parse("NO").expect("NO"),
        home_community_id: "urn:oid:2.999.47".into(),
        ..Neighbour::new(&other, "2.999.752", &anchors, "127.0.0.1", gateway.peers).expect("a neighbour").claims()
    };
    let assertions = consumer.assertions(&claims, &treated).await.expect("signs");

    let asked = async || {
        let answer = consumer.call(&assertions, Neighbour::find_documents(&treated).to_element()).await;
        answer.map(|answer| answer.codes()).map_err(|error| error.to_string())
    };
    let (told, cost) = gateway.watched().cost(join_all((0..8).map(|_| asked()))).await.expect("runs");
    println!(
        "eight times {ENTRIES} entries: {} MB at its peak, {} ms of processors",
        cost.peak >> 20,
        cost.cpu.as_millis()
    );
    let whole = |codes: &Result<Vec<String>, String>| codes.as_ref().is_ok_and(Vec::is_empty);
    let busy = |codes: &Result<Vec<String>, String>| {
        codes.as_ref().is_ok_and(|codes| codes.iter().all(|code| code == "XDSRegistryBusy"))
    };
    assert!(told.iter().any(whole) && told.iter().all(|told| whole(told) || busy(told)), "{told:?}");
    assert!(cost.peak <= PEAK, "{} MB", cost.peak >> 20);

    let fetched = async || {
        let body = RetrieveRequest { documents: vec![wanted.clone()] }.to_element();
        let mut answer = consumer.call(&assertions, body).await.map_err(|error| error.to_string())?;
        let mut length = 0;
        while answer.parts.next().await.map_err(|error| error.to_string())?.is_some() {
            while let Some(chunk) = answer.parts.chunk().await.map_err(|error| error.to_string())? {
                length += chunk.len();
            }
        }
        Ok::<usize, String>(length)
    };
    let (lengths, cost) = gateway.watched().cost(join_all((0..8).map(|_| fetched()))).await.expect("runs");
    println!(
        "eight documents of 63 MiB: {} MB at its peak, {} ms of processors",
        cost.peak >> 20,
        cost.cpu.as_millis()
    );
    assert!(lengths.iter().all(|length| *length == Ok(63 << 20)), "{lengths:?}");
    assert!(cost.peak <= PEAK, "{} MB", cost.peak >> 20);
}
