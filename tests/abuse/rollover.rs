//! Revoke, expire, roll over, reload, under load: connections stay, good requests are served, what ended is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::{PatientId, actions};
use ncp_saml::{SealKey, SignedAssertion, Signer};
use ncp_tests::attack::{Finding, INTEGRITY, SERVED, report, verdict};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::{Algorithm, CountryPki, Odd, Use};

use crate::blocked::Line;
use crate::smp::until;
use crate::world::{Gateway, PATIENT, World};

/// Connections that ask without pause.
const LINES: usize = 6;

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

/// Assertions of Finland, both signed with this leaf.
async fn sealed(world: &World, gateway: &Gateway, pki: &CountryPki, leaf: &str) -> Vec<SignedAssertion> {
    let file = |end: &str| pki.path(&format!("{leaf}.{end}"));
    let signer = Signer::start(SealKey::load(&file("pem"), &file("key")).expect("a seal"), 1).expect("starts");
    let claims = world.neighbour("fi", gateway).claims();
    let (now, hour) = (Timestamp::now(), Duration::from_secs(3600));
    let hcp = signer.issue_hcp(&format!("_{}", uuid::Uuid::new_v4()), &claims, now, hour).await.expect("signs");
    let trc = ncp_saml::TrcClaims {
        country: claims.country,
        name_id: claims.name_id.clone(),
        hcp_id: hcp.id.clone(),
        patient: patient().to_cx(),
        purpose: claims.purpose,
    };
    let until = now + jiff::SignedDuration::from_hours(1);
    let trc = signer.issue_trc(&format!("_{}", uuid::Uuid::new_v4()), &trc, now, until).await.expect("signs");
    vec![hcp, trc]
}

async fn ask(world: &World, gateway: &Gateway, assertions: &[SignedAssertion]) -> String {
    let body = Neighbour::find_documents(&patient()).to_element();
    match world.neighbour("fi", gateway).call(actions::ITI38_REQUEST, XCA, assertions, body).await {
        Ok(answer) => verdict(&answer),
        Err(_) => "handshake refused".into(),
    }
}

/// The certificate that a new connection is shown.
async fn shown(world: &World, gateway: &Gateway) -> String {
    let stream = world.neighbour("fi", gateway).open().await.expect("connects");
    ncp_tls::peer_certificate(&stream).expect("a certificate").fingerprint
}

/// Does something and waits until a new state is in force.
async fn reloaded(gateway: &Gateway, change: impl FnOnce()) {
    let before = gateway.app.snapshot.load().generation;
    change();
    until("a reload", || gateway.app.snapshot.load().generation > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_expire_roll_over_and_reload_under_load() {
    let world = World::new();
    let (finland, norway) = (world.pki("fi"), &world.no);
    for leaf in ["seal-2", "to-revoke"] {
        finland.leaf(leaf, Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    }
    let past = Odd { from_days: -90, to_days: 0, ..Odd::default() };
    finland.odd_leaf("expired", Use::Seal, Algorithm::P256, &past).expect("a leaf");
    let gateway = world.start("rollover", |text| format!("{text}\n[rate]\npatient = 0\nprofessional = 0\n")).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut lines = Vec::new();
    for number in 0..LINES {
        // Two signer certificates at once: half of the load comes with each.
        let assertions = sealed(&world, &gateway, &finland, if number % 2 == 0 { "seal" } else { "seal-2" }).await;
        let (neighbour, stop, served) = (world.neighbour("fi", &gateway), stop.clone(), served.clone());
        let mut line = Line::open(&neighbour).await;
        lines.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let body = Neighbour::find_documents(&patient()).to_element();
                let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
                let (_, answer) = line.ask(XCA, "application/soap+xml; charset=UTF-8", message).await;
                let answer = String::from_utf8_lossy(&answer);
                assert!(answer.contains("ResponseStatusType:Success"), "a good request failed: {answer}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut findings = Vec::new();
    let mut note = |id: &str, input: &str, expected: &str, got: String| {
        findings.push(Finding::new(id, input, &[expected], got));
    };

    let revoked = sealed(&world, &gateway, &finland, "to-revoke").await;
    note("R-CRT-1", "a signer before it is revoked", SERVED, ask(&world, &gateway, &revoked).await);
    let expired = sealed(&world, &gateway, &finland, "expired").await;
    note("R-CRT-2", "an expired signer", INTEGRITY, ask(&world, &gateway, &expired).await);
    reloaded(&gateway, || {
        finland.crl("crls.pem", &["to-revoke"], (-60, 3600)).expect("CRLs");
    })
    .await;
    note("R-CRT-1b", "the same signer on the new CRL", INTEGRITY, ask(&world, &gateway, &revoked).await);

    // A second authority of Finland beside the first.
    let second = CountryPki::create(&world.path("fi-2"), "FI", Algorithm::P256).expect("a PKI");
    let of_second = sealed(&world, &gateway, &second, "seal").await;
    note(
        "R-CRT-3",
        "a seal of an authority that is not trusted yet",
        INTEGRITY,
        ask(&world, &gateway, &of_second).await,
    );
    let append = |name: &str, more: &std::path::Path| {
        let file = world.path(name);
        let both = [std::fs::read(&file).expect("reads"), std::fs::read(more).expect("reads")].concat();
        std::fs::write(&file, both).expect("writes");
    };
    reloaded(&gateway, || {
        append("fi/crls.pem", &second.crl("crls.pem", &[], (-60, 3600)).expect("CRLs"));
        append("fi/anchors.pem", &second.path("anchors.pem"));
    })
    .await;
    note("R-CRT-3b", "the same once it is on the trust list", SERVED, ask(&world, &gateway, &of_second).await);

    // Our own TLS certificate and our own seal.
    let before = shown(&world, &gateway).await;
    reloaded(&gateway, || {
        norway.leaf("tls-server", Use::Server, Algorithm::P256, 0, 60).expect("a leaf");
        norway.leaf("seal", Use::Seal, Algorithm::P256, 0, 60).expect("a leaf");
    })
    .await;
    let new = if shown(&world, &gateway).await == before { "old" } else { "new" };
    note("R-CRT-4", "certificate that a new connection is shown after the roll-over", "new", new.into());
    let signer = gateway.app.snapshot.load().signer.clone();
    let claims = world.neighbour("fi", &gateway).claims();
    let issued = signer.issue_hcp("_own", &claims, Timestamp::now(), Duration::from_secs(60)).await.expect("signs");
    let seal = std::fs::read(norway.path("seal.pem")).expect("reads");
    let seal = openssl::x509::X509::from_pem(&seal).and_then(|c| c.to_der()).expect("a certificate");
    let own = if issued.xml.contains(&openssl::base64::encode_block(&seal)) { "new" } else { "old" };
    note("R-CRT-4b", "seal that signs after the roll-over", "new", own.into());

    // A file that is wrong leaves the state as it was.
    let failures = gateway.app.metrics.reload_failures.get();
    let consent = std::fs::read(world.path("data/consent.toml")).expect("reads");
    std::fs::write(world.path("data/consent.toml"), "[[block").expect("writes");
    until("a refused reload", || gateway.app.metrics.reload_failures.get() > failures).await;
    let good = sealed(&world, &gateway, &finland, "seal-2").await;
    note("R-CRT-5", "a good request after a reload that failed", SERVED, ask(&world, &gateway, &good).await);
    note("R-CRT-5b", "the revoked signer after it", INTEGRITY, ask(&world, &gateway, &revoked).await);
    reloaded(&gateway, || std::fs::write(world.path("data/consent.toml"), consent).expect("writes")).await;

    stop.store(true, Ordering::Relaxed);
    for line in lines {
        line.await.expect("a connection ended, or a good request failed");
    }
    let served = served.load(Ordering::Relaxed);
    assert!(served > LINES as u64 * 10, "{served} requests are no load");
    gateway.stop().await;
    std::fs::write(crate::report_folder().join("abuse-rollover.md"), report("roll-over under load", &findings))
        .expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
