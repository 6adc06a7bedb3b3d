//! WS-Addressing asynchronous exchange, both roles.

use std::sync::atomic::{AtomicUsize, Ordering};

use ncp_ihe::{QueryResponse, Status, actions};
use ncp_soap::{Addressing, Envelope, Fault, ns};
use ncp_tests::cases::Recorded;
use ncp_tests::country::{Country, Reaction};
use ncp_tests::neighbour::{Neighbour, XCA, retrieve_response};
use ncp_xml::Element;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::trail::evidence;
use crate::consumers::ask;
use crate::{Held, Others, World, entry, images, listed, parts, patient, second};

/// A port that nobody listens on now.
fn port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("binds");
    listener.local_addr().expect("an address").port()
}

#[tokio::test]
async fn answers_come_over_the_countrys_own_connection() {
    let port = port();
    let held = Held::new(1, "2.999.101", 3);
    let (study, files) = (held.request(), held.files.clone());
    let address = format!("https://localhost:{port}/wsa/reply");
    let lines = format!("asynchronous = {{ own_reply_to = \"{address}\", wait = \"5s\" }}");
    let (world, countries) = Others::none()
        .with("AA", "2.999.101", move |asked| {
            let answer = match asked.action.as_str() {
                actions::RAD75_REQUEST => held.sent(),
                _ => listed(vec![entry("2.999.101", 1)]),
            };
            Reaction::Elsewhere(Box::new(answer))
        })
        .await
        // Answers on the connection although an address was named: that is an answer too.
        .with("BB", "2.999.102", |_| listed(vec![entry("2.999.102", 1)]))
        .await
        // Takes the message and never answers.
        .with("CC", "2.999.103", |_| Reaction::Status(202))
        .await
        .peers(port, lines)
        .world("")
        .await;
    let answer = ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
    let (response, _) = QueryResponse::read(&answer.body).expect("a response");
    assert_eq!((response.status, response.objects.entries.len()), (Status::PartialSuccess, 2), "{:?}", answer.codes());
    assert_eq!(response.errors[0].location.as_deref(), Some("urn:oid:2.999.103"));
    assert!(countries.iter().all(|c| c.asked()[0].reply_to.as_deref() == Some(&address)));

    let mut answer = ask(&world, images(vec![study]).to_element()).await;
    assert_eq!(retrieve_response(&answer.body).expect("a response").status, Status::Success, "{:?}", answer.codes());
    assert_eq!(parts(&mut answer).await.expect("whole"), files);

    // A message that nobody waits for, and one of another country.
    let intruder =
        Neighbour::new(&world.others[1], "2.999.102", &world.anchors, "localhost", world.port).expect("a neighbour");
    let stolen = countries[2].asked()[0].message_id.clone();
    for relates in [Some("urn:uuid:00000000-0000-4000-8000-000000000000"), stolen.as_deref(), None] {
        let Reaction::Simple(action, body) = listed(Vec::new()) else { panic!("not simple") };
        let message = Envelope { headers: Addressing::response(action, relates).to_headers(), body }.write();
        let answer = intruder.post("/wsa/reply", "application/soap+xml", message).await.expect("answers");
        assert_eq!((answer.status.as_u16(), answer.fault().is_some()), (400, true));
    }
}

/// CO-07: whatever acknowledges a request, its answer is taken where it comes.
#[tokio::test]
async fn co_07_an_empty_acknowledgement_ends_no_exchange() {
    let envelope = |body: &str| Recorded {
        content_type: "application/soap+xml; charset=UTF-8".into(),
        body: format!("<s:Envelope xmlns:s=\"{}\"><s:Header/>{body}</s:Envelope>", ns::SOAP).into_bytes(),
    };
    let text = |text: &str| Recorded { content_type: "text/plain".into(), body: text.into() };
    let empty = [Some(envelope("<s:Body/>")), Some(envelope("<s:Body>\n</s:Body>")), Some(text(""))];
    for acknowledgement in empty.into_iter().chain([None, Some(text("Accepted"))]) {
        let port = port();
        let address = format!("https://localhost:{port}/wsa/reply");
        let lines = format!("asynchronous = {{ own_reply_to = \"{address}\", wait = \"5s\" }}");
        let what = format!("{acknowledgement:?}");
        let react =
            move |_: &_| Reaction::Acknowledged(acknowledgement.clone(), Box::new(listed(vec![entry("2.999.101", 1)])));
        let (world, _countries) =
            Others::none().with("AA", "2.999.101", react).await.peers(port, lines).world("").await;
        let answer = ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
        let (response, _) = QueryResponse::read(&answer.body).expect("a response");
        assert_eq!((response.status, response.objects.entries.len()), (Status::Success, 1), "{what}");
        assert!(world.records().iter().all(|xml| !xml.contains("csd-code=\"110113\"")), "{what}: an alert");
    }
}

/// CO-08: an answer to a request of ours that waits no more is late, and no attack; to any other it is one.
#[tokio::test]
async fn co_08_a_late_answer_is_told_as_late() {
    let port = port();
    let address = format!("https://localhost:{port}/wsa/reply");
    let lines = format!("asynchronous = {{ own_reply_to = \"{address}\", wait = \"1s\" }}");
    let others = Others::none().with("AA", "2.999.101", |_| Reaction::Status(202)).await;
    let others = others.with("BB", "2.999.102", |_| listed(Vec::new())).await;
    let (world, countries) = others.peers(port, lines).world("").await;
    ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
    let of = countries[0].asked()[0].message_id.clone();
    let message = || {
        let Reaction::Simple(action, body) = listed(Vec::new()) else { panic!("not simple") };
        Envelope { headers: Addressing::response(action, of.as_deref()).to_headers(), body }.write()
    };
    let country = |number: usize, home: &str| {
        Neighbour::new(&world.others[number], home, &world.anchors, "localhost", world.port).expect("a neighbour")
    };
    let late = country(0, "2.999.101");
    for _ in 0..2 {
        let answer = late.post("/wsa/reply", "application/soap+xml", message()).await.expect("answers");
        let Fault { reason, .. } = answer.fault().expect("a fault");
        assert!(reason.starts_with("nobody waits for this answer any more"), "{reason}");
    }
    let alerts = || world.records().iter().filter(|xml| xml.contains("csd-code=\"110113\"")).count();
    assert_eq!(alerts(), 0, "a late answer is no attack");
    let intruder = country(1, "2.999.102");
    let answer = intruder.post("/wsa/reply", "application/soap+xml", message()).await.expect("answers");
    assert_eq!((answer.status.as_u16(), alerts()), (400, 1), "the same from another country is one");
}

/// A reply address that breaks off so many connections before it passes on what comes. Its port.
async fn restarting(to: std::net::SocketAddr, mut times: usize) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            if times > 0 {
                times -= 1;
                continue;
            }
            tokio::spawn(async move {
                let mut on = tokio::net::TcpStream::connect(to).await.expect("connects");
                let _ = tokio::io::copy_bidirectional(&mut tcp, &mut on).await;
            });
        }
    });
    port
}

/// CO-08: the receiver of our answers restarts, and they are not lost.
#[tokio::test]
async fn co_08_an_answer_waits_for_a_receiver_that_restarts() {
    let taking = Others::none().with("AA", "2.999.101", |_| Reaction::Status(202)).await;
    let address = format!("https://localhost:{}/reply", restarting(taking.running[0].2.address, 3).await);
    let lines = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}");
    let (world, countries) = taking.peers(0, lines).world("").await;
    let neighbour =
        Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port).expect("a neighbour");
    let (message, id) = query(&neighbour, &address).await;
    neighbour.post(XCA, "application/soap+xml", message).await.err().expect("202 has no body");
    assert_eq!(arrived(&countries[0]).await.relates_to, Some(id));
    assert!(world.trail().ihe.iter().all(|m| m.types[0].code != "EHDSI-CF"), "nothing failed");
}

/// CO-08: one that is behind a proxy, whose gateway restarts, has them too.
#[tokio::test]
async fn co_08_an_answer_waits_for_a_receiver_behind_a_proxy() {
    let times = AtomicUsize::new(0);
    let proxy = move |_: &_| match times.fetch_add(1, Ordering::AcqRel) {
        0 => Reaction::Status(503),
        1 => Reaction::Status(502),
        _ => Reaction::Status(202),
    };
    let taking = Others::none().with("AA", "2.999.101", proxy).await;
    let address = taking.running[0].2.url("/reply");
    let lines = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}");
    let (world, countries) = taking.peers(0, lines).world("").await;
    let neighbour =
        Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port).expect("a neighbour");
    let (message, id) = query(&neighbour, &address).await;
    neighbour.post(XCA, "application/soap+xml", message).await.err().expect("202 has no body");
    while countries[0].asked().len() < 3 {
        tokio::time::sleep(second() / 20).await;
    }
    assert!(countries[0].asked().iter().all(|asked| asked.relates_to.as_deref() == Some(&id)));
    assert!(world.trail().ihe.iter().all(|m| m.types[0].code != "EHDSI-CF"), "nothing failed");
}

/// CO-08: one that is busy for a moment has them after it; one that is for longer is on the trail as busy.
#[tokio::test]
async fn co_08_an_answer_waits_for_a_receiver_that_is_busy() {
    for (first, told) in [(0, None), (600, Some("answer could not be delivered: peer is busy"))] {
        let times = AtomicUsize::new(0);
        let busy = move |_: &_| match times.fetch_add(1, Ordering::AcqRel) {
            0 => Reaction::Busy(first),
            _ => Reaction::Status(202),
        };
        let taking = Others::none().with("AA", "2.999.101", busy).await;
        let address = taking.running[0].2.url("/reply");
        let lines = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}");
        let (world, countries) = taking.peers(0, lines).world("").await;
        let neighbour = Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port)
            .expect("a neighbour");
        let (message, id) = query(&neighbour, &address).await;
        neighbour.post(XCA, "application/soap+xml", message).await.err().expect("202 has no body");
        let mut failed = Vec::new();
        while countries[0].asked().len() + failed.len() < 2 {
            tokio::time::sleep(second() / 20).await;
            failed = world.trail().ihe.into_iter().filter(|m| m.types[0].code == "EHDSI-CF").collect();
        }
        assert!(failed.iter().all(|record| told.is_some_and(|told| record.description.contains(told))), "{failed:?}");
        assert_eq!(failed.len(), usize::from(told.is_some()));
        let asked = countries[0].asked();
        assert!(asked.iter().all(|asked| asked.relates_to.as_deref() == Some(&id)));
        assert!(asked.iter().all(|again| again.envelope == asked[0].envelope), "the same answer");
    }
}

/// CO-08: an answer that does not come whole, or too slowly, is no attack.
#[tokio::test]
async fn co_08_an_answer_that_breaks_off_is_no_attack() {
    let lines = "asynchronous = { own_reply_to = \"https://localhost/wsa/reply\", wait = \"5s\" }".to_owned();
    let others = Others::none().with("AA", "2.999.101", |_| listed(Vec::new())).await;
    let (world, _countries) = others.peers(0, lines).world("idle = \"1s\"").await;
    let country =
        Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port).expect("a neighbour");
    let head = "POST /wsa/reply HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/soap+xml\r\nContent-Length: 5000\r\n\r\n<a>";
    let mut slow = country.open().await.expect("connects");
    slow.write_all(head.as_bytes()).await.expect("sends");
    slow.flush().await.expect("sends");
    let mut told = [0; 12];
    slow.read_exact(&mut told).await.expect("an answer");
    assert_eq!(&told, b"HTTP/1.1 408");
    assert!(world.records().iter().all(|xml| !xml.contains("csd-code=\"110113\"")), "an alert");
}

/// CO-22: a receiver that takes our answers and never says so holds places of answers that are posted, and none of what is
/// answered on its connection.
#[tokio::test]
async fn co_22_a_stalled_receiver_leaves_synchronous_requests_their_places() {
    let stalls = |_: &_| Reaction::Late(second() * 3600, Box::new(Reaction::Status(202)));
    let taking = Others::none().with("AA", "2.999.101", stalls).await;
    let address = taking.running[0].2.url("/reply");
    let lines = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}");
    let (world, _countries) = taking.peers(0, lines).world("concurrency = 10\nfirst_byte = \"1h\"").await;
    let neighbour =
        Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port).expect("a neighbour");
    let mut told = Vec::new();
    for _ in 0..5 {
        let (message, _) = query(&neighbour, &address).await;
        told.push(match neighbour.post(XCA, "application/soap+xml", message).await {
            Ok(answer) => answer.status.as_u16(),
            Err(error) => error.to_string().contains("202").then_some(202).expect("taken"),
        });
    }
    // Of ten places, two are for the answers that one country waits for elsewhere, and four for those on its connections.
    assert_eq!(told, [202, 202, 503, 503, 503]);
    for _ in 0..5 {
        neighbour.documents(&patient()).await.expect("is served");
    }
}

/// CO-22: a receiver that has all of an answer and does not say so in time is let go, which is on the trail.
#[tokio::test]
async fn co_22_a_stalled_receiver_is_let_go() {
    let stalls = |_: &_| Reaction::Late(second() * 3600, Box::new(Reaction::Status(202)));
    let taking = Others::none().with("AA", "2.999.101", stalls).await;
    let address = taking.running[0].2.url("/reply");
    let lines = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}");
    let (world, _countries) = taking.peers(0, lines).world("first_byte = \"1s\"").await;
    let neighbour =
        Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port).expect("a neighbour");
    let (message, _) = query(&neighbour, &address).await;
    neighbour.post(XCA, "application/soap+xml", message).await.err().expect("202 has no body");
    let record = undelivered(&world).await;
    assert!(record.description.contains("answer could not be delivered: peer did not answer in time"));
}

/// The record of the answer that was not delivered.
async fn undelivered(world: &World) -> ncp_audit::Message {
    for _ in 0..400 {
        let mut failed: Vec<_> = world.trail().ihe.into_iter().filter(|m| m.types[0].code == "EHDSI-CF").collect();
        assert!(failed.len() <= 1, "{} records", failed.len());
        if let Some(record) = failed.pop() {
            return record;
        }
        tokio::time::sleep(second() / 20).await;
    }
    panic!("no record");
}

/// A query of a neighbour that wants its answer at an address.
async fn query(neighbour: &Neighbour, reply_to: &str) -> (Vec<u8>, String) {
    let addressing = Addressing::request(actions::ITI38_REQUEST, "https://localhost/").answered_at(reply_to);
    let id = addressing.message_id.clone().expect("an id");
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let security = Element::new(ns::WSSE, "Security");
    let mut headers = addressing.to_headers();
    headers.push(assertions.iter().fold(security, |all, one| all.raw(one.xml.clone())));
    (Envelope { headers, body: Neighbour::find_documents(&patient()).to_element() }.write(), id)
}

#[tokio::test]
async fn an_answer_goes_to_the_configured_address_and_to_no_other() {
    let taking = Others::none().with("AA", "2.999.101", |_| Reaction::Status(202)).await;
    let address = taking.running[0].2.url("/reply");
    let lines = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}");
    let (world, countries) = taking.peers(0, lines).world("").await;
    let neighbour =
        Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port).expect("a neighbour");

    for refused in ["http://169.254.169.254/", "file:///etc/passwd", &address.replace("/reply", "/other")] {
        let (message, _) = query(&neighbour, refused).await;
        let answer = neighbour.post(XCA, "application/soap+xml", message).await.expect("answers");
        let Fault { subsubcode, .. } = answer.fault().expect("a fault");
        assert_eq!(subsubcode, "wsa:OnlyAnonymousAddressSupported", "{refused}");
    }
    assert!(countries[0].asked().is_empty(), "an address out of a message was called");

    let (message, id) = query(&neighbour, &address).await;
    // 202 has no body, so there is no SOAP to read.
    let taken = neighbour.post(XCA, "application/soap+xml", message).await.err().map(|e| e.to_string());
    assert!(taken.is_some_and(|t| t.contains("202")));
    let answer = arrived(&countries[0]).await;
    assert_eq!((answer.action.as_str(), answer.relates_to), (actions::ITI38_RESPONSE, Some(id)));
    let (response, _) = QueryResponse::read(&answer.body).expect("a response");
    // This gateway has no national side; that is what its answer says.
    assert_eq!(response.status, Status::Failure);
}

#[tokio::test]
async fn an_answer_that_cannot_be_delivered_is_on_the_trail() {
    let address = format!("https://localhost:{}/reply", port());
    let lines = format!("asynchronous = {{ peer_reply_to = \"{address}\" }}");
    let taking = Others::none().with("AA", "2.999.101", |_| Reaction::Status(202)).await;
    let (world, _countries) = taking.peers(0, lines).world("").await;
    let neighbour =
        Neighbour::new(&world.others[0], "2.999.101", &world.anchors, "localhost", world.port).expect("a neighbour");
    let (message, _) = query(&neighbour, &address).await;
    let taken = neighbour.post(XCA, "application/soap+xml", message).await.err().map(|e| e.to_string());
    assert!(taken.is_some_and(|t| t.contains("202")));
    // The receiver is tried again for some seconds.
    let record = undelivered(&world).await;
    assert_eq!((record.outcome, record.patient()), (12, patient().to_cx().as_str()));
    let told = "answer could not be delivered: peer cannot be reached";
    assert!(record.description.contains(told), "the reason is named: {}", record.description);
    let role = |code: &str| record.participants.iter().find(|p| p.roles.iter().any(|r| r.code == code));
    assert!(role("ServiceConsumer").is_some_and(|p| p.requestor), "who asked is the other country");
    assert!(role("ServiceProvider").is_some_and(|p| !p.requestor && p.user_id == "ncp-gateway-no"));
    let exchange =
        |m: &ncp_audit::Message| m.objects.iter().find(|o| o.id_type.code == "ncp-exchange").map(|o| o.id.clone());
    let query = world.trail().ihe.into_iter().find(|m| m.types[0].code == "ITI-38").expect("the query's own record");
    assert_eq!(exchange(&query), exchange(&record));
}

#[tokio::test]
async fn what_is_sent_and_what_comes_back_is_kept_as_evidence() {
    let others = Others::none()
        .section(async |pki| crate::common::trail::ehdsi_receiver(pki))
        .await
        .with("AA", "2.999.101", |_| listed(vec![entry("2.999.101", 1)]))
        .await;
    let (world, countries) = others.world("").await;
    ask(&world, Neighbour::find_documents(&patient()).to_element()).await;
    let trail = world.trail();
    let of = |code: &str| trail.ehdsi.iter().find(|m| m.types[0].code == code).expect("a record");
    // Towards the other country: what it saw, with the assertions that we issued.
    let asked = &countries[0].asked()[0];
    let (requests, responses) = (evidence(of("ITI-38"), "req"), evidence(of("ITI-38"), "rsp"));
    let [(id, header)] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert_eq!(Some(id), asked.message_id.as_ref());
    assert!(String::from_utf8_lossy(&asked.envelope).contains(header.as_str()), "byte for byte");
    assert_eq!(header.matches(":Assertion ").count(), 2, "{header}");
    assert!(responses.iter().all(|(answer, header)| header.contains(id.as_str()) && answer != id), "{responses:?}");
    assert_eq!(responses.len(), 1);
    // Towards the national consumer.
    let (requests, responses) = (evidence(of("ITI-18"), "req"), evidence(of("ITI-18"), "rsp"));
    assert!(requests.len() == 1 && requests[0].1.contains("Assertion"), "{requests:?}");
    assert!(responses.len() == 1 && responses[0].1.contains(&requests[0].0), "{responses:?}");
}

async fn arrived(country: &Country) -> ncp_tests::country::Asked {
    for _ in 0..400 {
        if let Some(asked) = country.asked().pop() {
            return asked;
        }
        tokio::time::sleep(second() / 20).await;
    }
    panic!("no answer came");
}
