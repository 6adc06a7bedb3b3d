//! CRLs from distribution points, over a real HTTP server: fetched before anything is trusted, renewed, and the last good one
//! kept whatever the server does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ncp_tests::attack::{Finding, INTEGRITY, SERVED, report};
use ncp_tests::pki::{Algorithm, CountryPki, Use};
use ncp_tls::{Anchors, Purpose, Revocation};
use tokio::net::TcpListener;

use crate::smp::until;
use crate::states::{ask, good, sealed_by};
use crate::world::{Gateway, World};

const HOUR: i64 = 3600;
const REFUSED: &str = "handshake refused";

/// What a distribution point does.
#[derive(Clone)]
enum Does {
    /// Answers with the CRLs of root and intermediate, each at its own path.
    Give([Bytes; 2]),
    Redirect(SocketAddr),
    Fail,
    /// Sends more than is read.
    Flood,
}

/// A distribution point that counts who comes.
struct Point {
    at: SocketAddr,
    does: Arc<Mutex<(Does, usize)>>,
}

impl Point {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let at = listener.local_addr().expect("an address");
        let does = Arc::new(Mutex::new((does, 0)));
        let state = does.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let state = state.clone();
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let mut state = state.lock().expect("not poisoned");
                    state.1 += 1;
                    let answer = answer(&state.0, request.uri().path());
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(tcp), service));
            }
        });
        Self { at, does }
    }

    fn becomes(&self, does: Does) {
        self.does.lock().expect("not poisoned").0 = does;
    }

    fn visits(&self) -> usize {
        self.does.lock().expect("not poisoned").1
    }

    /// Waits until it was asked for both CRLs again.
    async fn asked_again(&self) {
        let before = self.visits();
        until("another round", || self.visits() >= before + 4).await;
    }
}

fn answer(does: &Does, path: &str) -> Response<Full<Bytes>> {
    let with = |status: StatusCode, body: Bytes| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response
    };
    match does {
        Does::Give(crls) => with(StatusCode::OK, crls[usize::from(path == "/intermediate.crl")].clone()),
        Does::Fail => with(StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
        Does::Flood => with(StatusCode::OK, vec![b'0'; ncp_tls::CRL_BYTES + 1].into()),
        Does::Redirect(to) => {
            let mut response = with(StatusCode::FOUND, Bytes::new());
            let location = format!("http://{to}{path}").parse().expect("a header");
            response.headers_mut().insert("location", location);
            response
        }
    }
}

/// The country's CRLs, DER as authorities publish them.
fn crls(pki: &CountryPki, revoked: &[&str], times: (i64, i64)) -> Does {
    let file = pki.crl("published.pem", revoked, times).expect("CRLs");
    let all = ncp_tls::read_crls(&file).expect("reads");
    let der: Vec<Bytes> = all.iter().map(|crl| crl.to_der().expect("DER").into()).collect();
    Does::Give(der.try_into().expect("two"))
}

/// Finland's CRLs from there instead of from a file.
async fn start(world: &World, name: &str, at: SocketAddr, mode: &str) -> Gateway {
    let lines = format!(
        "revocation = {{ crl_urls = [\"http://{at}/root.crl\", \"http://{at}/intermediate.crl\"], cache = \"cache-{name}\", \
         refresh = \"1s\", mode = \"{mode}\" }}\n"
    );
    world.start(name, |text| text.replace("crls = \"fi/crls.pem\"\n", &lines)).await
}

async fn served(world: &World, gateway: &Gateway) -> String {
    ask(world, gateway, &good(world, gateway).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn distribution_points() {
    let world = World::new();
    let finland = world.pki("fi");
    finland.leaf("later", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    let mut findings = Vec::new();
    let mut note = |id: &str, input: &str, expected: &str, got: String| {
        findings.push(Finding::new(id, input, &[expected], got));
    };
    let generation = |gateway: &Gateway| gateway.app.snapshot.load().generation;
    let point = Point::start(Does::Fail).await;
    let gateway = start(&world, "crl-url", point.at, "hard").await;
    point.asked_again().await;
    note("R-CRL-1", "distribution point down, never fetched", REFUSED, served(&world, &gateway).await);
    let before = generation(&gateway);
    point.becomes(crls(&finland, &["revoked-seal"], (-HOUR, HOUR)));
    until("the first CRLs", || generation(&gateway) > before).await;
    note("R-CRL-1b", "the same once it answers", SERVED, served(&world, &gateway).await);
    let revoked = sealed_by(&world, &gateway, "revoked-seal").await;
    note("R-CRL-2", "a signer on the fetched CRL", INTEGRITY, ask(&world, &gateway, &revoked).await);
    let later = sealed_by(&world, &gateway, "later").await;
    note("R-CRL-3", "a signer that is not on it", SERVED, ask(&world, &gateway, &later).await);

    // What is no newer CRL of this country leaves the last good one, which still knows the revoked signer.
    let elsewhere = Point::start(crls(&finland, &[], (-60, HOUR))).await;
    let sweden = crls(&world.pki("se"), &[], (-60, HOUR));
    for (id, input, does) in [
        ("R-CRL-4", "a redirect to another server", Does::Redirect(elsewhere.at)),
        ("R-CRL-5", "more bytes than are read", Does::Flood),
        ("R-CRL-6", "CRLs of another country", sweden),
        ("R-CRL-7", "an older CRL without the entry", crls(&finland, &[], (-2 * HOUR, HOUR))),
        ("R-CRL-8", "a CRL past its nextUpdate, without the entry", crls(&finland, &[], (-60, -1))),
        ("R-CRL-9", "no CRL", Does::Give([Bytes::from_static(b"<html>"), Bytes::new()])),
        ("R-CRL-10", "HTTP 503", Does::Fail),
    ] {
        point.becomes(does);
        point.asked_again().await;
        note(id, input, INTEGRITY, ask(&world, &gateway, &revoked).await);
        note(&format!("{id}-good"), "a good request then", SERVED, served(&world, &gateway).await);
    }
    note("R-CRL-4b", "visits at the server of the redirect", "0", elsewhere.visits().to_string());

    let before = generation(&gateway);
    point.becomes(crls(&finland, &["revoked-seal", "later"], (-60, HOUR)));
    until("a newer CRL", || generation(&gateway) > before).await;
    note("R-CRL-3b", "the signer on the newer CRL", INTEGRITY, ask(&world, &gateway, &later).await);
    let config = gateway.stop().await;

    // A start has the last good ones.
    point.becomes(Does::Fail);
    let gateway = Gateway::start(config).await;
    note("R-CRL-11", "a good request after a restart, point down", SERVED, served(&world, &gateway).await);
    note("R-CRL-11b", "the revoked signer then", INTEGRITY, ask(&world, &gateway, &later).await);
    gateway.stop().await;

    // CRLs that grow old while the point is down.
    for (mode, expected) in [("hard", REFUSED), ("grace", SERVED)] {
        point.becomes(crls(&finland, &["revoked-seal"], (-HOUR, 12)));
        let gateway = start(&world, &format!("crl-{mode}"), point.at, mode).await;
        let mut got = String::new();
        for _ in 0..20 {
            got = served(&world, &gateway).await;
            if got == SERVED {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        note(&format!("R-CRL-12-{mode}"), "CRLs in time", SERVED, got);
        point.becomes(Does::Fail);
        tokio::time::sleep(Duration::from_secs(13)).await;
        let got = served(&world, &gateway).await;
        note(&format!("R-CRL-13-{mode}"), &format!("CRLs past nextUpdate, mode {mode}"), expected, got);
        if expected == SERVED {
            let revoked = sealed_by(&world, &gateway, "revoked-seal").await;
            note("R-CRL-14", "a revoked signer within the grace", INTEGRITY, ask(&world, &gateway, &revoked).await);
        }
        gateway.stop().await;
    }
    std::fs::write(crate::report_folder().join("abuse-crl.md"), report("distribution points", &findings))
        .expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A path that held is asked for again when a CRL behind it ends.
#[tokio::test]
async fn what_is_known_ends_with_its_crl() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = CountryPki::create(dir.path(), "FI", Algorithm::P256).expect("a PKI");
    let file = pki.crl("crls.pem", &[], (-60, 3)).expect("CRLs");
    let crls = Arc::new(ncp_tls::read_crls(&file).expect("reads"));
    let revocation = Revocation { crls, ..Revocation::none() };
    let anchors = Anchors::load(&pki.path("anchors.pem"), revocation, Purpose::Seal).expect("anchors");
    let leaf = std::fs::read(pki.path("seal.pem")).expect("reads");
    let leaf = openssl::x509::X509::from_pem(&leaf).expect("a certificate");
    for _ in 0..2 {
        anchors.verify(&leaf, &[]).expect("in time");
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    anchors.verify(&leaf, &[]).expect_err("the CRL has ended");
}
