//! Bad input of the tables "XML hazards" and "WS-Addressing, HTTP, MIME": one row per id, the answer as data. Beside the
//! answer every row checks that memory stayed within 64 MiB, that nothing was fetched because a message said so, and that
//! the next good request is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ncp_ihe::actions;
use ncp_tests::neighbour::{Neighbour, XCA, XCPD};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Heard, World, http, patient};

const SOAP: &str = "application/soap+xml; charset=UTF-8";
const PACKAGE: &str = "multipart/related; boundary=BOUNDARY; type=\"application/xop+xml\"; start=\"<r>\"; start-info=\"application/soap+xml\"";
/// Growth that a row may cause, KiB.
const GROWTH: u64 = 64 << 10;
const SUCCESS: &str = "ResponseStatusType:Success";
const ENDS: &str = "XML is not well-formed or ends early";
const ENCODING: &str = "encoding is not UTF-8";
const DOCTYPE: &str = "DOCTYPE is not allowed";
const OPTIMISED: &str = "an XOP Include stands outside ihe:Document";

struct Row {
    id: String,
    request: Vec<u8>,
    statuses: &'static [u16],
    contains: &'static str,
}

fn row(id: &str, request: Vec<u8>, statuses: &'static [u16], contains: &'static str) -> Row {
    Row { id: id.into(), request, statuses, contains }
}

/// A place that no message may lead to: counts who comes.
async fn canary() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let visits = Arc::new(AtomicUsize::new(0));
    let count = visits.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (format!("http://{address}/"), visits)
}

/// A good ITI-38; every call has a MessageID of its own.
async fn query(world: &World) -> String {
    let assertions = world.finland.assertions(&patient()).await.expect("signs");
    let body = Neighbour::find_documents(&patient()).to_element();
    String::from_utf8(world.finland.message(actions::ITI38_REQUEST, XCA, &assertions, body)).expect("text")
}

/// An ITI-39 whose requests name their repository by `inner`.
async fn retrieve(world: &World, inner: &str, times: usize) -> String {
    let assertions = world.finland.assertions(&patient()).await.expect("signs");
    let body =
        ncp_xml::Element::new(ncp_ihe::ns::XDSB, "RetrieveDocumentSetRequest").with(ncp_xml::Element::new("", "x"));
    let message = world.finland.message(actions::ITI39_REQUEST, XCA, &assertions, body);
    let one = format!(
        "<DocumentRequest xmlns=\"{}\"><HomeCommunityId>urn:oid:2.999.47</HomeCommunityId><RepositoryUniqueId>{inner}</RepositoryUniqueId><DocumentUniqueId>1</DocumentUniqueId></DocumentRequest>",
        ncp_ihe::ns::XDSB
    );
    let message = String::from_utf8(message).expect("text");
    let at = message.find("<x").expect("the placeholder");
    let end = at + message[at..].find("/>").expect("an empty element") + 2;
    format!("{}{}{}", &message[..at], one.repeat(times), &message[end..])
}

fn include(href: &str) -> String {
    format!("<xop:Include xmlns:xop=\"http://www.w3.org/2004/08/xop/include\" href=\"{href}\"/>")
}

/// A package of a root and parts.
fn package(root: &str, parts: &[(&str, &[u8])], closed: bool) -> Vec<u8> {
    let mut out =
        format!("--BOUNDARY\r\nContent-Type: application/xop+xml\r\nContent-ID: <r>\r\n\r\n{root}").into_bytes();
    for (head, data) in parts {
        out.extend_from_slice(format!("\r\n--BOUNDARY\r\n{head}\r\n\r\n").as_bytes());
        out.extend_from_slice(data);
    }
    out.extend_from_slice(if closed { b"\r\n--BOUNDARY--\r\n" } else { b"\r\n" });
    out
}

async fn xml_rows(world: &World, evil: &str) -> Vec<Row> {
    let post = |body: &[u8]| http(XCA, SOAP, "", body);
    let fault = |id: &str, body: &[u8], why| row(id, post(body), &[400], why);
    let large = |id: &str, body: &[u8]| row(id, post(body), &[413], "");
    let mut out = Vec::new();
    let good = query(world).await;
    let nine: String = (1..9).map(|i| format!("<!ENTITY e{i} \"&e{};&e{};\">", i - 1, i - 1)).collect();
    let quadratic = format!("<!ENTITY e0 \"{}\">", "x".repeat(50_000));
    for (number, doctype) in [
        "<!DOCTYPE a>".to_owned(),
        "<!DOCTYPE a [<!ENTITY e0 SYSTEM \"file:///etc/passwd\">]>".into(),
        format!("<!DOCTYPE a [<!ENTITY e0 SYSTEM \"{evil}\">]>"),
        format!("<!DOCTYPE a [<!ENTITY % p SYSTEM \"{evil}\"> %p;]>"),
        format!("<!DOCTYPE a [<!ENTITY e0 \"lol\">{nine}]>"),
        format!("<!DOCTYPE a [{quadratic}]>"),
        "<!DOCTYPE a [<!ENTITY e0 \"'\">]>".into(),
        "<!DOCTYPE a [<!ENTITY e0 \"&e0;\">]>".into(),
    ]
    .iter()
    .enumerate()
    {
        out.push(fault(&format!("T-XML-{}", number + 1), format!("{doctype}{good}").as_bytes(), DOCTYPE));
    }
    let in_body = |inner: &str| good.replacen("<s:Body>", &format!("<s:Body>{inner}"), 1);
    out.push(large("T-XML-9", in_body(&format!("{}{}", "<a>".repeat(129), "</a>".repeat(129))).as_bytes()));
    let attributes: String = (0..257).map(|i| format!(" a{i}=\"\"")).collect();
    out.push(large("T-XML-10", in_body(&format!("<a{attributes}/>")).as_bytes()));
    let declared: String = (0..257).map(|i| format!(" xmlns:a{i}=\"u\"")).collect();
    out.push(row("T-XML-11", post(in_body(&format!("<a{declared}/>")).as_bytes()), &[400, 413], ""));
    out.push(large("T-XML-12", in_body(&format!("<a b=\"{}\"/>", "x".repeat(65 << 10))).as_bytes()));
    out.push(large("T-XML-13", in_body(&format!("<a>{}</a>", "x".repeat(17 << 20))).as_bytes()));
    out.push(large("T-XML-14", in_body(&"<a/>".repeat(200_001)).as_bytes()));
    let utf16: Vec<u8> = [0xFF, 0xFE].into_iter().chain(good.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    out.push(fault("T-XML-15", &utf16, ENCODING));
    out.push(fault("T-XML-16", format!("<?xml version=\"1.0\" encoding=\"UTF-7\"?>{good}").as_bytes(), ENCODING));
    let spliced = |bytes: &[u8]| {
        let at = good.find("<s:Body>").expect("a body") + "<s:Body>".len();
        [&good.as_bytes()[..at], bytes, &good.as_bytes()[at..]].concat()
    };
    out.push(fault("T-XML-17", &spliced(b"\xC0\xAF"), ENCODING));
    out.push(fault("T-XML-18", &spliced(b"\0"), ENCODING));
    out.push(fault("T-XML-19", &spliced(b"&#xD800;"), ENCODING));
    out.push(fault("T-XML-20", format!("<?xml version=\"1.1\"?>{good}").as_bytes(), ENDS));
    let header = |inner: &str| good.replacen("<s:Header>", &format!("<s:Header>{inner}"), 1);
    let inert = |id: &str, body: String| row(id, post(body.as_bytes()), &[200], SUCCESS);
    out.push(inert(
        "T-XML-21",
        header(&format!("<xi:include xmlns:xi=\"http://www.w3.org/2001/XInclude\" href=\"{evil}\"/>")),
    ));
    let located = format!(
        "<x:y xmlns:x=\"urn:x\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:schemaLocation=\"urn:x {evil}\"/>"
    );
    out.push(inert("T-XML-22", query(world).await.replacen("<s:Header>", &format!("<s:Header>{located}"), 1)));
    let styled = format!("<?xml-stylesheet type=\"text/xsl\" href=\"{evil}\"?>{}", query(world).await);
    out.push(inert("T-XML-23", styled));
    let typed = " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"Other\" returnType=\"LeafClass\"";
    out.push(inert("T-XML-24", query(world).await.replacen(" returnType=\"LeafClass\"", typed, 1)));
    out.push(fault("T-XML-25", &good.as_bytes()[..good.len() - 20], ENDS));
    out.push(fault("T-XML-26", format!("{good}<a/>").as_bytes(), ENDS));
    out.push(fault("T-XML-27", format!("{good}trailing").as_bytes(), ENDS));
    out
}

async fn addressing_rows(world: &World, evil: &str) -> Vec<Row> {
    const ANONYMOUS: &str = "http://www.w3.org/2005/08/addressing/anonymous";
    let post = |body: &str| http(XCA, SOAP, "", body.as_bytes());
    let mut out = Vec::new();
    for (letter, address) in
        ["http://169.254.169.254/", "file:///etc/passwd", "gopher://127.0.0.1/", evil].iter().enumerate()
    {
        let good = query(world).await;
        let refused = "OnlyAnonymousAddressSupported";
        out.push(row(&format!("T-WSA-1 ReplyTo {letter}"), post(&good.replace(ANONYMOUS, address)), &[400], refused));
        let fault_to = format!(
            "<s:Header><w:FaultTo xmlns:w=\"http://www.w3.org/2005/08/addressing\"><w:Address>{address}</w:Address></w:FaultTo>"
        );
        out.push(row(
            &format!("T-WSA-1 FaultTo {letter}"),
            post(&good.replacen("<s:Header>", &fault_to, 1)),
            &[400],
            refused,
        ));
    }
    let good = query(world).await;
    out.push(row(
        "T-WSA-2 body",
        post(&good.replace(actions::ITI38_REQUEST, actions::ITI39_REQUEST)),
        &[400],
        "ActionMismatch",
    ));
    let elsewhere = http(XCPD, SOAP, "", query(world).await.as_bytes());
    out.push(row("T-WSA-2 path", elsewhere, &[400], "ActionNotSupported"));
    let parameter = format!("{SOAP}; action=\"{}\"", actions::ITI39_REQUEST);
    out.push(row("T-WSA-2 parameter", http(XCA, &parameter, "", good.as_bytes()), &[200], SUCCESS));
    let again = query(world).await;
    out.push(row("T-WSA-3 first", post(&again), &[200], SUCCESS));
    out.push(row("T-WSA-3 again", post(&again), &[200], SUCCESS));
    out.push(row(
        "T-WSA-5",
        post(&again.replace("LeafClass", "ObjectRef")),
        &[200],
        "ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED",
    ));
    let unknown = "<s:Header><z:z xmlns:z=\"urn:z\" s:mustUnderstand=\"true\"/>";
    out.push(row("T-WSA-4", post(&query(world).await.replacen("<s:Header>", unknown, 1)), &[500], "MustUnderstand"));
    out
}

async fn mime_rows(world: &World, evil: &str) -> Vec<Row> {
    let post = |body: Vec<u8>| http(XCA, PACKAGE, "", &body);
    let fault = |id: &str, body: Vec<u8>, why| row(id, post(body), &[400], why);
    let part: (&str, &[u8]) = ("Content-ID: <p>", b"1.2");
    let included = async |href: &str| retrieve(world, &include(href), 1).await;
    let mut out = vec![
        fault("T-MIM-1", package(&included("cid:nowhere").await, &[part], true), OPTIMISED),
        fault("T-MIM-2", package(&included("cid:r").await, &[part], true), OPTIMISED),
        fault("T-MIM-3", package(&query(world).await, &[part, part], true), "two parts with one content id"),
        fault("T-MIM-5", package(&query(world).await, &[part], false), "message ends early"),
        fault("T-MIM-6 http", package(&included(evil).await, &[], true), OPTIMISED),
        fault("T-MIM-6 file", package(&included("file:///etc/passwd").await, &[], true), OPTIMISED),
        fault("T-MIM-7", package(&retrieve(world, &include("cid:p"), 900).await, &[part], true), OPTIMISED),
    ];
    let no_start = PACKAGE.replace("<r>", "<z>");
    let body = package(&query(world).await, &[part], true);
    out.push(row("T-MIM-4", http(XCA, &no_start, "", &body), &[400], "part header or boundary is not readable"));
    let many = package(&query(world).await, &vec![("X: y", b"z".as_slice()); 20_000], true);
    out.push(row("T-MIM-8", post(many), &[413], ""));
    let long = format!("X: {}", "y".repeat(300_000));
    out.push(row("T-MIM-9", post(package(&query(world).await, &[(&long, b"z")], true)), &[431], ""));
    let storm = b"\r\n--BOUNDAR".repeat(80_000);
    out.push(row("T-MIM-10", post(package(&query(world).await, &[("X: y", &storm)], true)), &[200], SUCCESS));
    let endless = [format!("POST {XCA} HTTP/1.1\r\nHost: x\r\nContent-Type: {PACKAGE}\r\nTransfer-Encoding: chunked\r\n\r\n4000000\r\n--BOUNDARY\r\nContent-ID: <r>\r\n\r\n").into_bytes(), vec![b'x'; 48 << 20]].concat();
    out.push(row("T-MIM-11 fast", endless, &[413], ""));
    out
}

async fn http_rows(world: &World) -> Vec<Row> {
    let head =
        |more: &str| format!("POST {XCA} HTTP/1.1\r\nHost: x\r\nContent-Type: {SOAP}\r\n{more}\r\n").into_bytes();
    let good = query(world).await;
    let zeros = vec![0; 1 << 20];
    let with_headers = |headers: String| http(XCA, SOAP, &headers, good.as_bytes());
    let package =
        format!("POST {XCA} HTTP/1.1\r\nHost: x\r\nContent-Type: {PACKAGE}\r\nContent-Length: 4294967296\r\n\r\n");
    vec![
        row("T-HTTP-1 simple", head("Content-Length: 4294967296\r\n"), &[413], ""),
        row("T-HTTP-1 package", package.into_bytes(), &[413], ""),
        row("T-HTTP-2", http(XCA, SOAP, "Content-Encoding: gzip\r\n", &zeros), &[415], ""),
        row("T-HTTP-3 33 KiB", with_headers(format!("X: {}\r\n", "y".repeat(33 << 10))), &[431], ""),
        row("T-HTTP-3 1 MiB", with_headers(format!("X: {}\r\n", "y".repeat(1 << 20))), &[431, 0], ""),
        row("T-HTTP-4", with_headers((0..200).map(|i| format!("X{i}: y\r\n")).collect()), &[431], ""),
        row("T-HTTP-8 HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), &[400, 505, 0], ""),
        row("T-HTTP-9 two lengths", head("Content-Length: 5\r\nContent-Length: 6\r\n"), &[400, 0], ""),
    ]
}

/// What a row may not do, whatever it is answered.
async fn check(world: &World, id: &str, heard: &Heard, statuses: &[u16], contains: &str, before: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let grown = world.memory("VmHWM").saturating_sub(before);
    println!("{id}: HTTP {}, {grown} KiB", heard.status);
    if !statuses.contains(&heard.status) || !heard.text.contains(contains) {
        let start: String = heard.text.chars().take(2_000).collect();
        wrong.push(format!("{id}: HTTP {}, expected {statuses:?} with {contains:?}: {start}", heard.status));
    }
    if grown > GROWTH {
        wrong.push(format!("{id}: memory grew by {grown} KiB"));
    }
    if !world.serves().await {
        wrong.push(format!("{id}: the next good request is not served"));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_answered_as_the_table_says() {
    let world = World::start().await;
    let (evil, visits) = canary().await;
    let mut rows = xml_rows(&world, &evil).await;
    rows.extend(addressing_rows(&world, &evil).await);
    rows.extend(mime_rows(&world, &evil).await);
    rows.extend(http_rows(&world).await);
    let before = world.memory("VmRSS");
    let mut wrong = Vec::new();
    for row in rows {
        world.forget_peak();
        let heard = world.raw(&row.request).await;
        wrong.extend(check(&world, &row.id, &heard, row.statuses, row.contains, before).await);
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(visits.load(Ordering::Relaxed), 0, "a message made the gateway fetch something");
}

/// T-WSA-5, SE-13: a MessageID is kept under the peer that sent it, so that Sweden's message under an id of Finland neither
/// blocks Finland's nor is taken for a repeat of it.
#[tokio::test(flavor = "multi_thread")]
async fn t_wsa_5_se_13_a_message_id_of_another_peer() {
    let world = World::start().await;
    let finnish = query(&world).await;
    let id = |message: &str| {
        let at = message.find("urn:uuid:").expect("a MessageID");
        message[at..at + 45].to_owned()
    };
    let assertions = world.sweden.assertions(&patient()).await.expect("signs");
    let body = Neighbour::find_documents(&patient()).to_element();
    let swedish = world.sweden.message(actions::ITI38_REQUEST, XCA, &assertions, body);
    let swedish = String::from_utf8(swedish).expect("text");
    let swedish = swedish.replace(&id(&swedish), &id(&finnish));
    let answer = world.sweden.post(XCA, SOAP, swedish.clone().into_bytes()).await.expect("an answer");
    assert_eq!(answer.status.as_u16(), 200, "Sweden's own");
    let answer = world.raw(&http(XCA, SOAP, "", finnish.as_bytes())).await;
    assert!(answer.status == 200 && answer.text.contains(SUCCESS), "Sweden blocks nothing");
    let other = world.raw(&http(XCA, SOAP, "", finnish.replace("LeafClass", "ObjectRef").as_bytes())).await;
    assert!(other.text.contains("ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED"), "another message of the same peer");
    // The very message of Finland, with its assertions, is not Sweden's to send.
    let stolen = world.sweden.post(XCA, SOAP, finnish.into_bytes()).await.expect("an answer");
    assert!(stolen.fault().is_some(), "Sweden takes faults: {}", stolen.status);
    assert!(world.serves().await);
}

/// Sends a beginning, then one byte at a time for as long as the gateway listens.
async fn slowly(world: &World, beginning: &[u8]) -> Heard {
    let mut stream = world.finland.open().await.expect("a connection");
    stream.write_all(beginning).await.expect("writes");
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    for _ in 0..60 {
        match tokio::time::timeout(Duration::from_millis(500), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(n)) => heard.extend_from_slice(&buffer[..n]),
            Err(_) if heard.is_empty() => {
                let _ = stream.write_all(b"x").await;
                let _ = stream.flush().await;
            }
            Err(_) => break,
        }
    }
    Heard::of(&heard)
}

/// T-MIM-11 and T-HTTP-5, 6: what comes one byte at a time ends at its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_are_ended() {
    let world = World::start().await;
    let before = world.memory("VmRSS");
    let header = format!("POST {XCA} HTTP/1.1\r\nHost: x\r\nX: ");
    let head = |content_type: &str| {
        format!("POST {XCA} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: 1000000\r\n\r\n")
    };
    let (simple, multipart) = (head(SOAP), format!("{}--BOUNDARY\r\nContent-ID: <r>\r\n\r\n", head(PACKAGE)));
    let (header, simple, multipart) = tokio::join!(
        slowly(&world, header.as_bytes()),
        slowly(&world, simple.as_bytes()),
        slowly(&world, multipart.as_bytes())
    );
    let mut wrong = check(&world, "T-HTTP-5", &header, &[408, 0], "", before).await;
    wrong.extend(check(&world, "T-HTTP-6", &simple, &[408], "", before).await);
    wrong.extend(check(&world, "T-MIM-11 slow", &multipart, &[408], "", before).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// T-HTTP-7: a thousand connections that never say a word are ended, and good requests are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn t_http_7_idle_connections() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("more descriptors");
    let world = World::start().await;
    let before = world.memory("VmRSS");
    world.forget_peak();
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(tokio::net::TcpStream::connect(("127.0.0.1", world.port())).await.expect("connects"));
    }
    let meanwhile = Heard { status: 0, text: String::new() };
    let wrong = check(&world, "T-HTTP-7", &meanwhile, &[0], "", before).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut byte = [0];
    for mut stream in idle {
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut byte)).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "an idle connection is ended");
    }
}

/// SE-17: half-open connections of one address, renewed when they are ended, close the port for nobody: another address is
/// served, and those that were there first give way.
#[tokio::test(flavor = "multi_thread")]
async fn se_17_half_open_connections_close_no_port() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("more descriptors");
    let world = World::start().await;
    let mut half_open = Vec::new();
    for _ in 0..2_600 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(std::net::SocketAddr::from(([127, 0, 0, 2], 0))).expect("another address");
        let port = std::net::SocketAddr::from(([127, 0, 0, 1], world.port()));
        half_open.push(socket.connect(port).await.expect("connects"));
    }
    assert!(world.serves().await);
    let mut byte = [0];
    let ended = tokio::time::timeout(Duration::from_secs(5), half_open[0].read(&mut byte)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "the first gave way");
    assert!(world.serves().await);
}

/// T-HTTP-9: a length beside chunks. The chunks count, and what a length would leave over is never another request.
#[tokio::test(flavor = "multi_thread")]
async fn t_http_9_length_and_chunks() {
    let world = World::start().await;
    let good = query(&world).await;
    let chunk = format!("{:x}\r\n{good}\r\n0\r\n\r\n", good.len());
    let request = format!(
        "POST {XCA} HTTP/1.1\r\nHost: x\r\nContent-Type: {SOAP}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{chunk}"
    );
    let heard = world.raw(request.as_bytes()).await;
    assert!(matches!(heard.status, 200 | 400), "{heard:?}");
    assert_eq!(heard.text.matches("HTTP/1.1 ").count(), 1, "one request, one answer");
    assert!(world.serves().await);
}

/// What stands behind the closing boundary is read too, however late it comes: the connection serves the next request, and
/// is not reset under the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_leaves_its_connection_usable() {
    let world = World::start().await;
    let stream = world.finland.open().await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    for _ in 0..2 {
        let pieces = [package(&query(&world).await, &[], true), b"what nobody reads".to_vec()];
        let body = async_stream::stream! {
            for piece in pieces {
                yield Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from(piece)));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let request = ::http::Request::post(XCA).header("host", "x").header("content-type", PACKAGE);
        let request = request.body(http_body_util::StreamBody::new(Box::pin(body))).expect("a request");
        sender.ready().await.expect("still open");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.expect("whole").to_bytes();
        assert!(String::from_utf8_lossy(&bytes).contains(SUCCESS));
    }
}

/// Who is refused before the body was read may send it all the same, and then reads why.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_reaches_who_still_writes() {
    let world = World::start().await;
    let mut stream = world.finland.open().await.expect("a connection");
    let head = format!("POST {XCA} HTTP/1.1\r\nHost: x\r\nContent-Type: {SOAP}\r\nContent-Length: 100000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("writes");
    for _ in 0..64 {
        stream.write_all(&[b'x'; 64 << 10]).await.expect("is still listened to");
        stream.flush().await.expect("is still listened to");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.expect("reads to the end");
    let heard = Heard::of(&heard);
    assert_eq!(heard.status, 413, "{heard:?}");
}
