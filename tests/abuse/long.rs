//! SE-01 and SE-21 against a gateway: one message, however long, is refused with its reason, leaves one record with its
//! length and digest, and the next good request is served.

use jiff::Timestamp;
use ncp_audit::SpoolContent;
use ncp_gateway::{app, config};
use ncp_ihe::{PatientId, actions};
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS};
use ncp_tests::attack::{TOO_LONG, verdict, with_slot};
use ncp_tests::consumer::Consumer;
use ncp_tests::country::{Country, Reaction};
use ncp_tests::neighbour::{Neighbour, XCA};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Gateway, PATIENT, World};

const SOAP: &str = "application/soap+xml; charset=UTF-8";

fn spool(gateway: &Gateway) -> SpoolContent {
    ncp_audit::read_spool(&gateway.app.config.audit.spool_options("test".into())).expect("is read")
}

/// By how much the spool may grow where nothing is recorded whole.
const LITTLE: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn se_01_one_long_message_is_refused_by_size_and_the_trail_goes_on() {
    let world = World::new();
    let gateway = world.start("long", |text| text).await;
    let neighbour = world.neighbour("fi", &gateway);
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    // No Security header at all.
    let body = with_slot(Neighbour::find_documents(&patient).to_element(), &"x".repeat(13 << 20));
    let message = neighbour.message(actions::ITI38_REQUEST, XCA, &[], body);
    let digest = hex::encode(openssl::sha::sha256(&message));
    let length = message.len();
    let before = spool(&gateway).size.1;
    let answer = neighbour.post(XCA, SOAP, message).await.expect("an answer");
    assert_eq!(verdict(&answer), TOO_LONG);
    let fault = answer.fault().expect("a fault");
    assert!(fault.reason.starts_with("the query is longer than 256 KiB"), "{}", fault.reason);
    let after = spool(&gateway);
    assert!(after.size.1 - before <= LITTLE, "grown by {} bytes", after.size.1 - before);
    let told = format!("the query is longer than 256 KiB ({length} bytes, SHA-256 {digest})");
    assert!(after.records.iter().any(|(_, _, xml)| xml.contains(&told)), "the record names length and digest");
    assert_eq!(neighbour.documents(&patient).await.expect("served").status, ncp_ihe::Status::Success);
    gateway.stop().await;
}

/// A list of thousands of identifiers is recorded whole.
#[tokio::test(flavor = "multi_thread")]
async fn se_01_a_long_query_within_the_bound_is_recorded_whole() {
    let world = World::new();
    let gateway = world.start("whole", |text| text).await;
    let neighbour = world.neighbour("fi", &gateway);
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let list: Vec<String> = (0..4000).map(|n| format!("'urn:uuid:6a3f2f6e-1f5e-4a4e-9d53-{n:012}'")).collect();
    let body = with_slot(Neighbour::find_documents(&patient).to_element(), &format!("({})", list.join(",")));
    let before = spool(&gateway).size.1;
    let assertions = neighbour.assertions(&patient).await.expect("assertions");
    let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
    assert_eq!(verdict(&answer), "served");
    let after = spool(&gateway);
    let query = list.join(",").len() as u64;
    assert!(after.size.1 - before <= LITTLE + 2 * query, "grown by {} bytes", after.size.1 - before);
    let whole = after.records.iter().filter_map(|(_, _, xml)| ncp_audit::Message::read(xml.as_bytes()).ok());
    let queries: Vec<Vec<u8>> = whole.flat_map(|message| message.objects).filter_map(|object| object.query).collect();
    assert!(queries.iter().any(|q| String::from_utf8_lossy(q).contains(&list[3999])), "the last of the list is there");
    gateway.stop().await;
}

/// A message over `limits.message_bytes`: of one that announces its length nothing is read; of one that does not the record
/// has the digest of what was read.
#[tokio::test(flavor = "multi_thread")]
async fn se_01_a_message_over_the_limit_leaves_its_length_or_the_digest_of_what_was_read() {
    const LIMIT: usize = 64 << 10;
    let world = World::new();
    let gateway = world.start("limit", |text| text + "[limits]\nmessage_bytes = \"64KiB\"\n").await;
    let neighbour = world.neighbour("fi", &gateway);
    let message = vec![b'x'; 3 * LIMIT];
    let answer = neighbour.post(XCA, SOAP, message.clone()).await.expect("an answer");
    assert_eq!(verdict(&answer), TOO_LONG);
    let mut stream = neighbour.open().await.expect("connects");
    let head = format!("POST {XCA} HTTP/1.1\r\nHost: x\r\nContent-Type: {SOAP}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("writes");
    for chunk in message.chunks(10_000) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.expect("writes");
        stream.write_all(chunk).await.expect("writes");
        stream.write_all(b"\r\n").await.expect("writes");
    }
    stream.write_all(b"0\r\n\r\n").await.expect("writes");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.expect("reads to the end");
    assert!(heard.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&heard));
    let records: Vec<String> = spool(&gateway).records.into_iter().map(|(_, _, xml)| xml).collect();
    let digest = hex::encode(openssl::sha::sha256(&message[..LIMIT]));
    for told in [
        format!("the message is longer than is read ({} bytes announced, none read)", message.len()),
        format!(
            "the message is longer than is read (more than {LIMIT} bytes, SHA-256 of the first {LIMIT} bytes {digest})"
        ),
    ] {
        let about = records.iter().filter(|xml| xml.contains(&told)).count();
        assert_eq!(about, 2, "the exchange and its alert: {told}");
    }
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    assert_eq!(neighbour.documents(&patient).await.expect("served").status, ncp_ihe::Status::Success);
    gateway.stop().await;
}

/// Texts of assertions: refused, and stored nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn se_21_long_texts_of_an_assertion_are_refused_and_not_stored() {
    let world = World::new();
    let gateway = world.start("texts", |text| text).await;
    let neighbour = world.neighbour("fi", &gateway);
    let patient = PatientId::parse_cx(PATIENT).expect("a CX");
    let long = |bytes: usize| "x".repeat(bytes);
    let claims = || neighbour.claims();
    for (what, claims) in [
        ("subject-id", ncp_saml::HcpClaims { subject_name: long(1 << 20), ..claims() }),
        ("NameID", ncp_saml::HcpClaims { name_id: long(1 << 20), ..claims() }),
        ("organisation", ncp_saml::HcpClaims { organisation: long(3 << 20), ..claims() }),
        ("locality", ncp_saml::HcpClaims { locality: long(3 << 20), ..claims() }),
    ] {
        let hcp = neighbour.hcp(&claims, Timestamp::now()).await.expect("an assertion");
        let trc = neighbour.trc(&hcp, &claims, &patient).await.expect("an assertion");
        let body = Neighbour::find_documents(&patient).to_element();
        let before = spool(&gateway);
        let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &[hcp, trc], body).await.expect("an answer");
        assert_ne!(verdict(&answer), "served", "{what}");
        let after = spool(&gateway);
        let grown = after.size.1 - before.size.1;
        assert!(grown <= LITTLE, "{what}: grown by {grown} bytes");
        assert!(after.records.len() > before.records.len(), "{what}: there is a record");
    }
    // What would be a command to who reads the trail is written out.
    let claims = ncp_saml::HcpClaims { subject_name: "A\r\n<85>1 forged\u{9b}31m\u{202e}B".into(), ..claims() };
    let hcp = neighbour.hcp(&claims, Timestamp::now()).await.expect("an assertion");
    let trc = neighbour.trc(&hcp, &claims, &patient).await.expect("an assertion");
    let body = Neighbour::find_documents(&patient).to_element();
    neighbour.call(actions::ITI38_REQUEST, XCA, &[hcp, trc], body).await.expect("an answer");
    let records = spool(&gateway).records;
    assert!(records.iter().any(|(_, _, xml)| xml.contains("forged")));
    for (_, _, xml) in records {
        assert!(!xml.chars().any(|c| c.is_control() || c == '\u{202e}'), "{xml}");
    }
    gateway.stop().await;
}

/// The same from a national consumer.
#[tokio::test(flavor = "multi_thread")]
async fn se_01_a_consumers_long_query_is_refused_by_size() {
    let dir = tempfile::tempdir().expect("a folder");
    let asking = Asking::create(dir.path()).expect("a PKI");
    let (other, anchors) = (asking.other("DK").expect("a PKI"), asking.pki.path("anchors.pem"));
    let country = Country::start(&other, &anchors, |_| Reaction::Status(404)).await.expect("starts");
    let known = Known { pki: &other, home: "2.999.45".into(), country: &country, lines: String::new() };
    let policies = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no");
    let path = asking.write([0; 3], "", &policies, &[known]).expect("writes");
    let config = config::load(&path).expect("a configuration");
    let app = app::build(config).await.expect("builds");
    let bound = app::bind(app.clone()).await.expect("binds");
    let port = bound.consumers_address().expect("an address").port();
    let task = tokio::spawn(bound.serve());
    let consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, port).expect("a consumer");
    let treated = PatientId::parse_cx(&format!("1^^^&{PATIENTS}&ISO")).expect("a CX");
    let body = with_slot(Neighbour::find_documents(&treated).to_element(), &"x".repeat(13 << 20));
    let read = || ncp_audit::read_spool(&app.config.audit.spool_options("test".into())).expect("is read");
    let before = read().size.1;
    let answer = consumer.call(&[], body).await.expect("an answer");
    assert_eq!(verdict(&answer), TOO_LONG);
    assert!(read().size.1 - before <= LITTLE);
    assert!(country.asked().is_empty(), "nothing left");
    task.abort();
}
