//! An asynchronous answer of NCP-A of which one instance fails: FO-08 over a connection of our own.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ncp_ihe::actions;
use ncp_soap::{Addressing, Envelope, ns};
use ncp_tests::neighbour::XCAI;
use ncp_tests::synth::Study;
use ncp_tls::{ClientAuth, Material};
use ncp_xml::Element;

use crate::habits::{LOCATION, connector};
use crate::harness::World;
use crate::{images, patient, study};
use ncp_tests::archive::Archive;

/// What came, and whether the connection ended.
type Heard = Arc<Mutex<(Vec<u8>, bool)>>;

/// A reply address of Finland that takes nothing for a while, so that much waits in front of it, and answers so. Its port.
async fn slow_receiver(world: &World, heard: Heard, status: u16) -> u16 {
    let material = Material::load(&world.fi.path("tls-server.pem"), &world.fi.path("tls-server.key")).expect("loads");
    let anchors = [world.no.path("anchors.pem")];
    let acceptor = material.acceptor(ClientAuth::Required, &anchors, b"\x08http/1.1").expect("tls");
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = socket.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let (tcp, _) = socket.accept().await.expect("accepts");
        let stream = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(5)).await.expect("tls");
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let heard = heard.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(700)).await;
                let mut body = request.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    if let Ok(data) = frame.into_data() {
                        heard.lock().expect("not poisoned").0.extend_from_slice(&data);
                    }
                }
                heard.lock().expect("not poisoned").1 = true;
                let answer = http::Response::builder().status(status).body(Full::new(bytes::Bytes::new()));
                Ok::<_, Infallible>(answer.expect("an answer"))
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        heard.lock().expect("not poisoned").1 = true;
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn fo_08_an_asynchronous_answer_loses_nothing_before_what_failed() {
    let world = World::new();
    let archive = Archive::default();
    let study = Study { side: 1024, ..study(1, 3) };
    archive.hold(&study, world.dir.path());
    let file = |slice: u32| world.dir.path().join("held-1").join(format!("{slice:06}.dcm"));
    // The second ends before its structure does, which shows when most of it went.
    let second = std::fs::read(file(2)).expect("reads");
    std::fs::write(file(2), &second[..second.len() - 100]).expect("writes");
    let heard = Heard::default();
    let address = format!("https://localhost:{}/reply", slow_receiver(&world, heard.clone(), 200).await);
    ask_elsewhere(&world, &archive, &study, &address).await;
    for _ in 0..400 {
        if heard.lock().expect("not poisoned").1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (came, ended) = std::mem::take(&mut *heard.lock().expect("not poisoned"));
    assert!(ended, "{} bytes came", came.len());
    for slice in [1, 3] {
        let whole = std::fs::read(file(slice)).expect("reads");
        assert!(memchr_in(&came, &whole[128..]), "slice {slice} did not come whole, {} bytes did", came.len());
    }
    let boundary = came.split(|byte| *byte == b'\r').next().expect("a delimiter").to_vec();
    assert!(!memchr_in(&came, &[boundary.as_slice(), b"--"].concat()), "closed although an instance is missing");
    let trail = world.trail().await;
    let named = format!("<Instance UID=\"{}\"", study.instance(2));
    assert!(trail.iter().any(|xml| xml.contains(&named)), "what failed is on the trail");
    assert!(trail.iter().any(|xml| xml.contains("EHDSI-CF")), "and that the answer did not end in order");
}

/// Finland asks for the three instances of a study and wants them at an address.
async fn ask_elsewhere(world: &World, archive: &Archive, study: &Study, address: &str) {
    let client = "[client]\ncertificate = \"no/tls-client.pem\"\nkey = \"no/tls-client.key\"\n";
    let of_peer = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}\n{client}");
    let neighbour = world.gateway_for(true, &connector(&archive.serve().await, LOCATION), &of_peer).await;
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let mut headers =
        Addressing::request(actions::RAD75_REQUEST, "https://localhost/").answered_at(address).to_headers();
    let security = Element::new(ns::WSSE, "Security");
    headers.push(assertions.iter().fold(security, |all, one| all.raw(one.xml.clone())));
    let body = images(study, LOCATION, 1..=3).to_element();
    let message = Envelope { headers, body }.write();
    let taken = neighbour.post(XCAI, "application/soap+xml", message).await.err().map(|error| error.to_string());
    assert!(taken.as_ref().is_some_and(|text| text.contains("202")), "{taken:?}");
}

/// CO-08: images that the receiver refused are not delivered, though every byte of them left.
#[tokio::test(flavor = "multi_thread")]
async fn co_08_the_outcome_of_posted_images_is_what_their_receiver_says() {
    for (status, expected) in [(200, "0"), (500, "8")] {
        let world = World::new();
        let archive = Archive::default();
        let study = study(1, 3);
        archive.hold(&study, world.dir.path());
        let heard = Heard::default();
        let address = format!("https://localhost:{}/reply", slow_receiver(&world, heard.clone(), status).await);
        ask_elsewhere(&world, &archive, &study, &address).await;
        let of_images = |xml: &String| xml.contains("csd-code=\"RAD-75\"");
        let mut got = None;
        for _ in 0..400 {
            let trail = world.trail().await;
            let record = trail.iter().rfind(|xml| of_images(xml));
            let indicator = record.and_then(|xml| xml.split("EventOutcomeIndicator=\"").nth(1)?.split('"').next());
            got = indicator.map(str::to_owned);
            if got.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(got.as_deref(), Some(expected), "HTTP {status}");
    }
}

fn memchr_in(bytes: &[u8], wanted: &[u8]) -> bool {
    let first = &wanted[..wanted.len().min(600)];
    bytes.windows(first.len()).enumerate().any(|(at, window)| window == first && bytes[at..].starts_with(wanted))
}
