//! A status ends when its issuer says so, on kept connections too (CO-06).

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Kind, Pair, Says, answer};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use ncp_tls::{
    Anchors, ClientAuth, Country, Freshness, Material, Ocsp, Purpose, Revocation, ServerOf, anonymous_connector,
    http_client,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A responder whose answers are past their `nextUpdate`, within the difference of clocks: each is believed for a second.
struct Responder {
    url: String,
    says: watch::Sender<Says>,
    asked: Arc<AtomicUsize>,
}

impl Responder {
    async fn start(signer: Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (says, asked) = (watch::Sender::new(Says::Good), Arc::new(AtomicUsize::new(0)));
        let state = (says.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (signer, state) = (signer.clone(), state.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (signer, state) = (signer.clone(), state.clone());
                    async move {
                        let asked = request.into_body().collect().await?.to_bytes();
                        state.1.fetch_add(1, Ordering::AcqRel);
                        let says = state.0.subscribe().wait_for(|says| *says != Says::Nothing).await.map(|says| *says);
                        let says = says.expect("its sender is here");
                        if says == Says::Garbage {
                            return Ok(Response::new(Full::new(Bytes::from("no answer"))));
                        }
                        let told = answer(&asked, &signer, says, Some(-60));
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(told))))
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        Self { url, says, asked }
    }

    fn revokes(&self) {
        self.says.send_replace(Says::Revoked);
    }
}

/// Tries until it is refused, which a status that ends after a second brings about.
async fn until_refused<F: Future<Output = bool>>(served: impl Fn() -> F) {
    let refused = async {
        while served().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refused).await.expect("a revocation is noticed");
}

struct World {
    folder: tempfile::TempDir,
    leaf: Pair,
    intermediate: Pair,
    responder: Responder,
    anchors: Arc<Anchors>,
}

impl World {
    async fn new(kind: Kind, purpose: Purpose) -> Self {
        Self::with_grace(kind, purpose, Duration::ZERO).await
    }

    /// The responder is asked again at once after it failed.
    async fn with_grace(kind: Kind, purpose: Purpose, grace: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Pair::new("Root", Kind::Authority, None);
        let intermediate = Pair::new("Intermediate", Kind::Authority, Some(&root));
        let leaf = Pair::new("localhost", kind, Some(&intermediate));
        let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.path().join(name), bytes).expect("writes");
        write("anchors.pem", root.pem());
        write("chain.pem", [leaf.pem(), intermediate.pem()].concat());
        write("leaf.key", leaf.key.private_key_to_pem_pkcs8().expect("PEM"));
        let responder = Responder::start(intermediate.clone()).await;
        let ocsp = Some(Arc::new(Ocsp::new(&responder.url).pausing(Duration::ZERO)));
        let revocation = Revocation { ocsp, grace, ..Revocation::none() };
        let anchors = Anchors::load(&folder.path().join("anchors.pem"), revocation, purpose).expect("anchors");
        Self { folder, leaf, intermediate, responder, anchors: Arc::new(anchors) }
    }
}

#[tokio::test]
async fn co_06_a_client_is_asked_about_again_when_its_status_ends() {
    let world = World::new(Kind::Client, Purpose::TlsClient).await;
    let sent = [world.intermediate.certificate.clone()];
    let good = async || world.anchors.verify_online(&world.leaf.certificate, &sent, None).await.is_ok();
    assert!(good().await);
    assert_eq!(world.responder.asked.load(Ordering::Acquire), 1);
    world.responder.revokes();
    until_refused(good).await;
}

/// CO-06: while the last status serves, nobody waits for a responder that does not answer, and its answer is noticed.
#[tokio::test]
async fn co_06_nobody_waits_for_a_responder_that_failed() {
    let world = World::with_grace(Kind::Client, Purpose::TlsClient, Duration::from_secs(3600)).await;
    let sent = [world.intermediate.certificate.clone()];
    let judged = async || world.anchors.verify_online(&world.leaf.certificate, &sent, None).await;
    assert_eq!(judged().await.expect("a status"), Freshness::Current);
    world.responder.says.send_replace(Says::Garbage);
    let failed = async {
        while judged().await.expect("within the grace") == Freshness::Current {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), failed).await.expect("the status ends");
    world.responder.says.send_replace(Says::Nothing);
    let asked = world.responder.asked.load(Ordering::Acquire);
    for _ in 0..10 {
        let at_once = futures_util::FutureExt::now_or_never(judged()).expect("waits for nobody");
        assert_eq!(at_once.expect("within the grace"), Freshness::Stale);
        // As a thread that verifies signatures asks, which has no runtime.
        let at_once = std::thread::scope(|scope| {
            scope.spawn(|| world.anchors.verify(&world.leaf.certificate, &sent)).join().expect("ends")
        });
        assert_eq!(at_once.expect("within the grace"), Freshness::Stale);
        tokio::task::yield_now().await;
    }
    world.responder.revokes();
    until_refused(async || judged().await.is_ok()).await;
    assert!(world.responder.asked.load(Ordering::Acquire) <= asked + 3, "one question at a time");
}

#[tokio::test]
async fn co_06_connections_whose_status_ends_together_ask_once() {
    let world = World::new(Kind::Client, Purpose::TlsClient).await;
    let sent = [world.intermediate.certificate.clone()];
    let asks = (0..50).map(|_| world.anchors.ask(&world.leaf.certificate, &sent));
    for asked in futures_util::future::join_all(asks).await {
        asked.expect("a path");
    }
    let asked = world.responder.asked.load(Ordering::Acquire);
    assert!(asked <= 2, "asked {asked} times");
}

#[tokio::test]
async fn co_06_a_kept_connection_is_not_used_after_the_end_of_the_status() {
    let world = World::new(Kind::Server, Purpose::TlsServer).await;
    let path = |name: &str| world.folder.path().join(name);
    let material = Material::load(&path("chain.pem"), &path("leaf.key")).expect("material");
    let acceptor = material.acceptor(ClientAuth::None, &[], b"\x08http/1.1").expect("an acceptor");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let mut accepted = ncp_tls::Accepted::new(listener, acceptor);
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Some((stream, _)) = accepted.next().await {
            counted.fetch_add(1, Ordering::AcqRel);
            let service =
                service_fn(async |_: Request<Incoming>| Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new())));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let connector = anonymous_connector(&[path("anchors.pem")], b"\x08http/1.1").expect("a connector");
    let server = ServerOf { country: Country::parse("BE").expect("a country"), anchors: world.anchors.clone() };
    let http = http_client::<Empty<Bytes>>(connector, Some(server), Duration::from_secs(10));
    let call = async || {
        let request = Request::get(format!("https://localhost:{port}/")).body(Empty::new()).expect("a request");
        match http.request(request).await {
            Ok(answer) => answer.into_body().collect().await.is_ok(),
            Err(_) => false,
        }
    };
    assert!(call().await);
    world.responder.revokes();
    until_refused(call).await;
    let before = connections.load(Ordering::Acquire);
    assert!(!call().await, "and stays refused");
    let counted = async {
        while connections.load(Ordering::Acquire) <= before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted).await.expect("in a new handshake each time");
}
