//! Connections while they are open: the other end is judged again, and an idle one ends in order.

mod common;

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use common::{Kind, Pair, crl};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, http::Response};
use ncp_tls::{
    ClientAuth, HttpClient, Material, Times, TlsFiles, TlsStream, anonymous_connector, serve_http, serve_plain,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(20);
/// Longer than the time between two judgements.
const A_WHILE: Duration = Duration::from_secs(15);

/// Two programs of one root, which publishes a CRL.
struct World {
    folder: tempfile::TempDir,
    root: Pair,
    server: Pair,
    client: Pair,
}

impl World {
    fn new() -> Self {
        let root = Pair::new("Root", Kind::Authority, None);
        let (server, client) =
            (Pair::new("server", Kind::Server, Some(&root)), Pair::new("client", Kind::Client, Some(&root)));
        let world = Self { folder: tempfile::tempdir().expect("a folder"), root, server, client };
        world.write("anchors.pem", &world.root.pem());
        for (name, pair) in [("server", &world.server), ("client", &world.client)] {
            world.write(&format!("{name}.pem"), &pair.pem());
            world.write(&format!("{name}.key"), &pair.key.private_key_to_pem_pkcs8().expect("PEM"));
        }
        world.revoke(&[]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("writes");
    }

    fn revoke(&self, revoked: &[&Pair]) {
        self.write("crls.pem", &crl(&self.root, (-3600, 86_400), revoked));
    }

    fn files(&self, name: &str) -> TlsFiles {
        let file = |end: &str| self.path(&format!("{name}.{end}"));
        let (anchors, crls) = (self.path("anchors.pem"), Some(self.path("crls.pem")));
        TlsFiles { cert_chain: file("pem"), key: file("key"), anchors, crls }
    }

    /// Both ends of a connection.
    async fn connected(&self) -> [TlsStream; 2] {
        let acceptor = self.files("server").mutual_acceptor(b"\x08http/1.1").expect("an acceptor");
        let connector = self.files("client").connector(b"\x08http/1.1").expect("a connector");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let accepting = async { ncp_tls::accept(&acceptor, listener.accept().await.expect("accepts").0, LIMIT).await };
        let (near, far) = tokio::join!(accepting, ncp_tls::connect(&connector, "127.0.0.1", port, "localhost", LIMIT));
        [near.expect("a handshake"), far.expect("a handshake")]
    }
}

/// Whether bytes go from one end to the other.
async fn carries([from, to]: [&mut TlsStream; 2]) -> bool {
    let mut byte = [0];
    from.write_all(b"?").await.expect("writes");
    from.flush().await.expect("writes");
    to.read_exact(&mut byte).await.is_ok()
}

/// CO-06, open connections of our own programs: the audit feed, its queries, the terminology service.
#[tokio::test]
async fn co_06_an_open_connection_ends_with_the_certificate_of_the_other_end() {
    for of_client in [true, false] {
        let world = World::new();
        let [mut server, mut client] = world.connected().await;
        tokio::time::pause();
        let silent = async |stream: &mut TlsStream| tokio::time::timeout(A_WHILE * 4, stream.read_u8()).await.is_err();
        assert!(silent(&mut server).await && silent(&mut client).await, "nothing changed");
        assert!(carries([&mut client, &mut server]).await && carries([&mut server, &mut client]).await);
        world.revoke(&[if of_client { &world.client } else { &world.server }]);
        let [mut judging, mut judged] = if of_client { [server, client] } else { [client, server] };
        let read = tokio::time::timeout(A_WHILE * 4, judging.read_u8()).await.expect("in time");
        let error = read.expect_err("is no longer good");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(silent(&mut judged).await, "who is good is not given up");
        tokio::time::resume();
    }
}

/// SK-10: what is closed for being idle is closed with `close_notify`, whether or not it carried a request.
#[tokio::test]
async fn sk_10_an_idle_connection_ends_with_close_notify() {
    let world = World::new();
    let material = Material::load(&world.path("server.pem"), &world.path("server.key")).expect("material");
    let acceptor = material.acceptor(ClientAuth::None, &[], b"\x08http/1.1").expect("an acceptor");
    let connector = anonymous_connector(&[world.path("anchors.pem")], b"\x08http/1.1").expect("a connector");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let times = Times { unknown: Duration::from_millis(100), ..Times::default() };
        let answer =
            |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))) };
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = ncp_tls::accept(&acceptor, tcp, LIMIT).await.expect("a handshake");
                let open = stream.connection();
                serve_http((stream, open), service_fn(answer), times, std::future::pending()).await;
            });
        }
    });
    for asks in [false, true] {
        let mut client = ncp_tls::connect(&connector, "127.0.0.1", port, "localhost", LIMIT).await.expect("connects");
        if asks {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("writes");
            client.flush().await.expect("writes");
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("ends in order");
        assert!(client.notified() && answer.ends_with(b"ok") == asks);
    }
}

/// SE-04: pages without TLS have the limits of every server: a head that does not come, one that comes slowly, one that is too
/// long.
#[tokio::test]
async fn se_04_pages_without_tls_take_no_slow_heads() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let routes = axum::Router::new().route("/livez", axum::routing::get(|| async { "live" }));
    let times = Times::default();
    tokio::spawn(serve_plain(listener, routes, times, std::future::pending()));
    let open = async || tokio::net::TcpStream::connect(address).await.expect("connects");
    let mut good = open().await;
    good.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("writes");
    let mut answer = String::new();
    good.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("live"), "{answer}");
    let mut long = open().await;
    let fields: String = (0..101).map(|n| format!("X-{n}: a\r\n")).collect();
    long.write_all(format!("GET /livez HTTP/1.1\r\n{fields}\r\n").as_bytes()).await.expect("writes");
    let mut answer = [0; 12];
    long.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer.as_slice(), b"HTTP/1.1 431");
    tokio::time::pause();
    for head in ["", "GET /livez HTTP/1.1\r\nX-Long: "] {
        let (mut reader, mut writer) = open().await.into_split();
        let began = tokio::time::Instant::now();
        let slowly = tokio::spawn(async move {
            let mut sent = writer.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                sent = writer.write_all(if head.is_empty() { b"" } else { b"a" }).await;
            }
        });
        // A connection that is closed over bytes that nobody read is reset.
        let _ = reader.read_to_end(&mut Vec::new()).await;
        slowly.abort();
        let (time, limit) = (began.elapsed(), times.head);
        assert!(time >= limit && time <= limit + Duration::from_secs(2), "{time:?} for {head:?}");
    }
}

/// SE-11: a server that does not read our request is let go after the time that was given.
#[tokio::test]
async fn se_11_a_request_that_nobody_reads_ends() {
    const IDLE: Duration = Duration::from_secs(5);
    let world = World::new();
    let acceptor = world.files("server").mutual_acceptor(b"\x08http/1.1").expect("an acceptor");
    let connector = world.files("client").connector(b"\x08http/1.1").expect("a connector");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let _open = ncp_tls::accept(&acceptor, listener.accept().await.expect("accepts").0, LIMIT).await;
        std::future::pending::<()>().await;
    });
    let client: HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, LIMIT).paced(IDLE);
    let request = Request::post(format!("https://localhost:{port}/")).body(Full::new(Bytes::from(vec![7; 64 << 20])));
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    client.request(request.expect("a request")).await.expect_err("is not read");
    let time = began.elapsed();
    assert!(time >= IDLE && time <= IDLE * 2, "{time:?}");
}
