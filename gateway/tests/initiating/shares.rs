//! What all callers share is taken by nobody alone: not by who has no token, not by one professional, not by a country that is
//! busy or away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use ncp_gateway::whole::{Holder, WHOLE};
use ncp_ihe::{
    Content, DocumentEntry, DocumentRequest, DocumentResponse, QueryResponse, RetrieveResponse, Status, actions,
};
use ncp_soap::{FAULT_ACTION, Fault};
use ncp_tests::asking::PATIENTS;
use ncp_tests::country::{Asked, Country, Reaction};
use ncp_tests::issuer::BASE;
use ncp_tests::neighbour::Neighbour;
use ncp_tls::TlsStream;
use ncp_xml::ANSWERS;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clinicians::{call, code, documents, knowing, knows, matches, sent, sent_by};
use crate::consumers::ask;
use crate::dicomweb::{manifest, root, showing};
use crate::{Held, Others, World, entry, listed, patient, second};

const SE: &str = "2.999.752";
const OF: &str = "2.999.101";

async fn sweden(limits: &str) -> (World, Vec<Country>) {
    let country = Others::none().with("SE", SE, knows(SE, "19800101", || listed(Vec::new()))).await;
    country.clinicians().world(limits).await
}

/// Connections with the head of a search for a person whose body does not come.
async fn half_requests(world: &World, number: usize, token: Option<&str>) -> Vec<TlsStream> {
    let clinic = world.clinic.as_ref().expect("a clinicians' side");
    let connector = ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1");
    let connector = connector.expect("a connector");
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /fhir/Patient/$match HTTP/1.1\r\nHost: localhost\r\n{token}Content-Type: application/fhir+json\r\nContent-Length: 60000\r\n\r\n{{"
    );
    let mut half = Vec::new();
    for _ in 0..number {
        let stream = ncp_tls::connect(&connector, "localhost", clinic.0.port(), "localhost", second() * 20).await;
        let mut stream = stream.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("sends");
        stream.flush().await.expect("sends");
        half.push(stream);
    }
    half
}

/// The head of its answer.
async fn head_of(mut stream: TlsStream) -> String {
    let mut head = Vec::new();
    let reading = async {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
    };
    tokio::time::timeout(second() * 60, reading).await.expect("in time");
    String::from_utf8_lossy(&head).to_ascii_lowercase()
}

/// SE-04: half requests without a token are refused by their heads, and keep nobody out.
#[tokio::test(flavor = "multi_thread")]
async fn se_04_half_requests_without_a_token_take_nothing() {
    let (world, _countries) = sweden("").await;
    let half = half_requests(&world, 260, None).await;
    assert_eq!(matches(&world).await.len(), 1);
    for stream in half {
        let head = head_of(stream).await;
        assert!(head.starts_with("http/1.1 401"), "{head}");
    }
}

/// SE-04, SE-11: of one professional's half requests some have a permit until their time is over, the others are told "busy";
/// another's call is served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn se_04_one_professional_takes_no_others_share() {
    let (world, _countries) = sweden("").await;
    let token = world.clinic.as_ref().expect("a clinicians' side").1.token("hpr-9").expect("signs");
    let half = half_requests(&world, 40, Some(&token)).await;
    assert_eq!(matches(&world).await.len(), 1);
    for head in futures_util::future::join_all(half.into_iter().map(head_of)).await {
        let is_busy = head.starts_with("http/1.1 503") && head.contains("retry-after: 5");
        assert!(is_busy || head.starts_with("http/1.1 408"), "{head}");
    }
}

/// The head of the answer to a request without a body.
async fn get(mut stream: TlsStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.expect("sends");
    stream.flush().await.expect("sends");
    head_of(stream).await
}

/// SK-10: each listener says how long it keeps a connection, longer than the pools of clients once it carried an
/// authenticated request; and a body that nobody reads ends it, which is said.
#[tokio::test(flavor = "multi_thread")]
async fn sk_10_each_listener_says_how_long_it_keeps_a_connection() {
    let (world, _countries) = sweden("").await;
    let clinic = world.clinic.as_ref().expect("a clinicians' side").0.port();
    let connector = ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1");
    let connector = connector.expect("a connector");
    let anybody = ncp_tls::connect(&connector, "localhost", clinic, "localhost", second() * 20).await;
    assert!(get(anybody.expect("connects"), "/").await.contains("keep-alive: timeout=9\r\n"));
    let half = half_requests(&world, 1, None).await.remove(0);
    assert!(head_of(half).await.contains("connection: close\r\n"));
    let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
    let person = json!({ "resourceType": "Patient", "identifier": [identifier] });
    let (head, _) = sent_by(&world, "hpr-1", "/fhir/Patient/$match", ("prefer", ""), Some(&person)).await;
    assert_eq!(head.headers["keep-alive"], "timeout=69");
    let peer = Neighbour::new(&world.others[0], SE, &world.anchors, "localhost", world.port).expect("a neighbour");
    for known in [peer.open().await, world.consumer.open().await] {
        let head = get(known.expect("connects"), "/").await;
        assert!(head.starts_with("http/1.1 405") && head.contains("keep-alive: timeout=69\r\n"), "{head}");
    }
}

/// So many downloads of one professional that begin and are not read; whether each was begun.
async fn stalled(world: &World, url: &str, token: &str, number: usize) -> Vec<(TlsStream, bool)> {
    let clinic = world.clinic.as_ref().expect("a clinicians' side");
    let connector = ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1");
    let (connector, path) = (connector.expect("a connector"), url.strip_prefix(BASE).expect("ours"));
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut downloads = Vec::new();
    for _ in 0..number {
        let stream = ncp_tls::connect(&connector, "localhost", clinic.0.port(), "localhost", second() * 60).await;
        let mut stream = stream.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("sends");
        stream.flush().await.expect("sends");
        downloads.push(stream);
    }
    let begun = async |mut stream: TlsStream| {
        let mut heard = [0; 200];
        stream.read_exact(&mut heard).await.expect("an answer");
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.starts_with("HTTP/1.1 200") || heard.starts_with("HTTP/1.1 503"), "{heard}");
        (stream, heard.starts_with("HTTP/1.1 200"))
    };
    futures_util::future::join_all(downloads.into_iter().map(begun)).await
}

/// SE-11: of one professional's downloads that nobody reads some hold their places until their time is over, the others are
/// told "busy", and another's call is served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn se_11_downloads_that_nobody_reads_take_no_others_share() {
    let held = Held::new(1, OF, 120);
    let (study, series, instance) = (held.study.uid(), held.study.series(), held.study.instance(1));
    let kos = manifest(&held);
    let (world, _countries) = showing(study.clone(), kos, "idle = \"20s\"", move || held.sent()).await;
    let place = format!("{}/studies/{study}", root(&world).await);
    let issuer = &world.clinic.as_ref().expect("a clinicians' side").1;
    let stalled = stalled(&world, &place, &issuer.token("hpr-1").expect("signs"), 110).await;
    let begun = stalled.iter().filter(|(_, begun)| *begun).count();
    assert!((1..=32).contains(&begun), "{begun} of one professional at once");
    assert_eq!(searched_by(&world, "hpr-2").await.0, 200, "another's call");
    // Nobody reads them, and they end: the professional is served again.
    let again = async {
        while call(&world, &format!("{place}/series/{series}/instances/{instance}/metadata"), "", None).await.0 != 200 {
        }
    };
    tokio::time::timeout(second() * 120, again).await.expect("the places are given back");
    drop(stalled);
}

/// A search for the patient: status, Retry-After, the code and text.
async fn searched(world: &World) -> (u16, String, String, String) {
    searched_by(world, "hpr-1").await
}

/// The same by another professional.
async fn searched_by(world: &World, subject: &str) -> (u16, String, String, String) {
    let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
    let person = json!({ "resourceType": "Patient", "identifier": [identifier] });
    let (head, body) = sent_by(world, subject, "/fhir/Patient/$match", ("prefer", ""), Some(&person)).await;
    let after = head.headers.get("retry-after").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let text = body["issue"][0]["details"]["text"].as_str().unwrap_or_default().to_owned();
    (head.status.as_u16(), after, code(&body["issue"][0]).to_owned(), text)
}

/// SK-06: a neighbour that is busy for a moment is waited for; its load is no outage.
#[tokio::test]
async fn sk_06_a_busy_neighbour_is_waited_for() {
    let (asked, found) = (Arc::new(AtomicUsize::new(0)), knows(SE, "19800101", || listed(Vec::new())));
    let times = asked.clone();
    let react = move |message: &Asked| match times.fetch_add(1, Ordering::AcqRel) % 2 {
        0 => Reaction::Busy(0),
        _ => found(message),
    };
    let (world, _countries) = Others::none().with("SE", SE, react).await.clinicians().world("").await;
    for _ in 0..3 {
        assert_eq!(matches(&world).await.len(), 1);
    }
    assert_eq!(asked.load(Ordering::Acquire), 6);
}

/// SK-06: one that says so in a fault, as a gateway without memory for the request does, is waited for alike.
#[tokio::test]
async fn sk_06_a_neighbour_that_says_busy_in_a_fault_is_waited_for() {
    let (asked, found) = (Arc::new(AtomicUsize::new(0)), knows(SE, "19800101", || listed(Vec::new())));
    let times = asked.clone();
    let fault = || Reaction::Simple(FAULT_ACTION, Fault::receiver("busy, try again in 5 s").to_element());
    let react = move |message: &Asked| match times.fetch_add(1, Ordering::AcqRel) % 2 {
        0 => Reaction::Under(503, Some(0), Box::new(fault())),
        _ => found(message),
    };
    let (world, _countries) = Others::none().with("SE", SE, react).await.clinicians().world("").await;
    assert_eq!(matches(&world).await.len(), 1);
    assert_eq!(asked.load(Ordering::Acquire), 2);
}

/// SE-07: where we have no memory for a country's answer, it is not asked again, and it is we who are told as busy.
#[tokio::test]
async fn se_07_no_memory_of_ours_is_told_as_ours() {
    let react = knows("2.999.470", "19800101", || listed(Vec::new()));
    // A country that no other test has.
    let (world, countries) = Others::none().with("MT", "2.999.470", react).await.clinicians().world("").await;
    let mut held = ANSWERS.charge("MT");
    while held.grow(64 << 10).is_ok() {}
    assert!(held.used() < 160 << 20, "one country has a share of it");
    let (status, after, code, text) = searched(&world).await;
    assert_eq!((status, after.as_str(), code.as_str(), text.as_str()), (503, "5", "busy", "Busy; try again in 5 s."));
    assert_eq!(countries[0].asked().len(), 1, "what was asked for was carried out");
    drop(held);
    assert_eq!(matches(&world).await.len(), 1);
}

/// SE-07: documents that nobody reads are held within the share of who asked for them, and of their country; beyond it the
/// caller is told "busy", and all comes back when the readers go. One is written as a FHIR Binary without a second in memory.
#[tokio::test(flavor = "multi_thread")]
async fn se_07_documents_that_nobody_reads_are_held_within_a_share() {
    // A country that no other test has.
    let of = "2.999.442";
    let document = Bytes::from((0..WHOLE.share() / 3 - (1 << 20)).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let mut listed_as = entry(of, 1);
    listed_as.mime_type = "application/pdf".into();
    listed_as.hash = Some(hex::encode(openssl::sha::sha1(&document)));
    listed_as.size = Some(document.len() as u64);
    let DocumentEntry { home, repository_unique_id: repository, unique_id, .. } = listed_as.clone();
    let request = DocumentRequest { home, repository, document: unique_id };
    let sent_of = document.clone();
    let react = knowing(of, "19800101", move |asked| match asked.action.as_str() {
        actions::ITI39_REQUEST => {
            let content = Content::Include("1@lu".into());
            let media_type = "application/pdf".to_owned();
            let document = DocumentResponse { request: request.clone(), new_document: None, media_type, content };
            let response = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![document] };
            let part = ("1@lu".to_owned(), "application/pdf", sent_of.clone());
            Reaction::Parts(actions::ITI39_RESPONSE, response.to_element(), vec![part])
        }
        _ => listed(vec![listed_as.clone()]),
    });
    let (world, _countries) = Others::none().with("LU", of, react).await.clinicians().world("idle = \"1h\"").await;
    let bundle = documents(&world, "").await;
    let url = bundle.pointer("/entry/0/resource/content/0/attachment/url").and_then(Value::as_str);
    let url = url.unwrap_or_else(|| panic!("{bundle}"));
    let url = if url.starts_with(BASE) { url.to_owned() } else { format!("{BASE}{url}") };
    let token = world.clinic.as_ref().expect("a clinicians' side").1.token("hpr-1").expect("signs");
    let stalled = stalled(&world, &url, &token, 8).await;
    assert_eq!(stalled.iter().filter(|(_, begun)| *begun).count(), 3, "what the share has place for");
    let (head, body) = sent(&world, &url, ("accept", "application/fhir+json"), None).await;
    let told: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((head.status.as_u16(), code(&told["issue"][0])), (503, "busy"));
    assert_eq!(head.headers["retry-after"], "5");
    assert!(Holder::new("SE", "another").room(64 << 20).is_ok(), "another finds memory");
    drop(stalled);
    let whole = async {
        loop {
            let (head, body) = sent(&world, &url, ("accept", "application/fhir+json"), None).await;
            if head.status.as_u16() == 200 {
                return (head, body);
            }
        }
    };
    let (head, body) = tokio::time::timeout(second() * 60, whole).await.expect("comes back");
    assert_eq!(head.headers["content-length"], body.len().to_string());
    let resource: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        (resource["resourceType"].as_str(), resource["contentType"].as_str()),
        (Some("Binary"), Some("application/pdf"))
    );
    let data = STANDARD.decode(resource["data"].as_str().expect("data")).expect("base64");
    assert!(data == document, "the same bytes");
    assert!(sent(&world, &url, ("accept", "application/pdf"), None).await.1 == document);
}

/// SK-06: for longer the caller is told when to come again, clinician and consumer, and the circuit stays as it is.
#[tokio::test]
async fn sk_06_a_busy_neighbour_is_told_as_busy() {
    let (world, countries) =
        Others::none().with("SE", SE, |_| Reaction::Busy(600)).await.clinicians().world("circuit_failures = 2").await;
    for times in 1..=6 {
        let (status, after, code, text) = searched(&world).await;
        assert_eq!((status, after.as_str(), code.as_str()), (503, "600", "country-busy"));
        assert!(text.contains("busy; try again in 600 s"), "{text}");
        assert_eq!(countries[0].asked().len(), times, "is asked each time, and once");
    }
    let answer = ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
    assert_eq!(QueryResponse::read(&answer.body).expect("a response").0.status, Status::Failure);
    assert_eq!(answer.codes(), ["XDSRegistryBusy"]);
}

/// SK-06: one that says no time is told as busy too, and never as one that cannot be reached.
#[tokio::test]
async fn sk_06_a_busy_neighbour_that_says_no_time_is_told_as_busy() {
    for status in [429, 503] {
        let others = Others::none().with("SE", SE, move |_| Reaction::Status(status)).await;
        let (world, _countries) = others.clinicians().world("").await;
        let (told, after, code, text) = searched(&world).await;
        assert_eq!((told, after.as_str(), code.as_str()), (503, "30", "country-busy"), "{status}");
        assert!(text.contains("busy; try again in 30 s"), "{text}");
        let answer = ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
        assert_eq!(answer.codes(), ["XDSRegistryBusy"], "{status}");
    }
}

/// SK-03: a neighbour that is away is not tried for a moment, which is told with its end, and is asked again when it is back.
#[tokio::test]
async fn sk_03_a_neighbour_that_is_back_is_asked() {
    let (world, mut countries) = sweden("circuit_pause = \"1h\"").await;
    let gone = countries.remove(0);
    let port = gone.address.port();
    // Its port is closed once the task has ended.
    drop(gone);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let refused = loop {
        let (status, after, code, text) = searched(&world).await;
        assert_ne!(status, 200);
        if status == 503 {
            break (after, code, text);
        }
        assert_eq!((status, code.as_str()), (502, "country-unreachable"));
    };
    assert!(matches!(refused.0.as_str(), "1" | "2"), "{refused:?}");
    assert_eq!(refused.1, "country-not-tried");
    assert!(refused.2.contains("was not tried; again in"), "{refused:?}");
    let react = knows(SE, "19800101", || listed(Vec::new()));
    let _back = Country::start_at(port, &world.others[0], &world.anchors, react).await.expect("is back");
    let served = async {
        while searched(&world).await.0 != 200 {
            tokio::time::sleep(second() / 10).await;
        }
    };
    tokio::time::timeout(second() * 10, served).await.expect("is asked again");
}

/// SE-04: connections of a network that carry no token give way to a caller of the same network, oldest first, and the
/// caller's own connection to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn se_04_connections_without_a_token_give_way() {
    let (asked, found) = (AtomicUsize::new(0), knows(SE, "19800101", || listed(Vec::new())));
    let react = move |message: &Asked| match asked.fetch_add(1, Ordering::AcqRel) {
        1 => Reaction::Late(second() * 5, Box::new(found(message))),
        _ => found(message),
    };
    let country = Others::none().with("SE", SE, react).await;
    let (world, countries) =
        country.clinicians().world("handshake = \"10m\"\ndiscovery = \"60s\"\nconnections_of_network = 20").await;
    let clinic = world.clinic.as_ref().expect("a clinicians' side");
    let connector = ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1");
    let connector = connector.expect("a connector");
    let open = async || {
        let stream = ncp_tls::connect(&connector, "localhost", clinic.0.port(), "localhost", second() * 20).await;
        stream.expect("connects")
    };
    let token = clinic.1.token("hpr-9").expect("signs");
    let identifier = json!({ "system": format!("urn:oid:{PATIENTS}"), "value": patient().extension });
    let person = json!({ "resourceType": "Patient", "identifier": [identifier] }).to_string();
    let sender = async || {
        let stream = hyper_util::rt::TokioIo::new(open().await);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("HTTP");
        tokio::spawn(connection);
        sender
    };
    let request = || {
        http::Request::post("/fhir/Patient/$match")
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/fhir+json")
            .body(Full::new(Bytes::from(person.clone())))
            .expect("a request")
    };
    let (mut known, mut slow) = (sender().await, sender().await);
    let mut call = async || {
        let reply = known.send_request(request()).await.expect("the connection is open");
        let status = reply.status().as_u16();
        reply.into_body().collect().await.expect("a body");
        status
    };
    assert_eq!(call().await, 200);
    // Its country takes its time.
    let slow = tokio::spawn(slow.send_request(request()));
    while countries[0].asked().len() < 2 {
        tokio::task::yield_now().await;
    }
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(open().await);
    }
    assert_eq!(matches(&world).await.len(), 1, "another caller's call");
    let mut byte = [0];
    let ended = tokio::time::timeout(second() * 20, strangers[0].read(&mut byte)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "the first gave way");
    let last = tokio::time::timeout(second() / 10, strangers[39].read(&mut byte)).await;
    assert!(last.is_err(), "the last did not");
    assert_eq!(call().await, 200, "a caller's own connection");
    let answered = slow.await.expect("runs").expect("a call that is under way gives no way");
    assert_eq!(answered.status().as_u16(), 200);
    let gave_way = ncp_tls::GaveWay::so_far();
    assert!(gave_way.unknown >= 20 && gave_way.refused == 0, "{gave_way:?}");
}
