//! Rows that need a gateway in a certain state: revocation data that are old, a responder, bounds on how often, what a
//! patient has closed, a restart.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::{PatientId, actions};
use ncp_saml::{SealKey, SignedAssertion, Signer};
use ncp_tests::attack::{Finding, INTEGRITY, SERVED, report, verdict};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::{Algorithm, CountryPki, Odd, Use};
use ncp_tls::{Anchors, Purpose, Revocation};

use crate::world::{Gateway, PATIENT, World};

const DAY: i64 = 24 * 3600;

fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

/// One query with these assertions, over Finland's TLS.
pub(crate) async fn ask(world: &World, gateway: &Gateway, assertions: &[SignedAssertion]) -> String {
    let body = Neighbour::find_documents(&patient()).to_element();
    match world.neighbour("fi", gateway).call(actions::ITI38_REQUEST, XCA, assertions, body).await {
        Ok(answer) => verdict(&answer),
        Err(_) => "handshake refused".into(),
    }
}

pub(crate) async fn good(world: &World, gateway: &Gateway) -> Vec<SignedAssertion> {
    world.neighbour("fi", gateway).assertions(&patient()).await.expect("signs")
}

/// Assertions signed by another leaf of Finland.
pub(crate) async fn sealed_by(world: &World, gateway: &Gateway, leaf: &str) -> Vec<SignedAssertion> {
    let pki = world.pki("fi");
    let file = |end: &str| pki.path(&format!("{leaf}.{end}"));
    let signer = Signer::start(SealKey::load(&file("pem"), &file("key")).expect("a seal"), 1).expect("starts");
    let neighbour = world.neighbour("fi", gateway);
    let claims = neighbour.claims();
    let id = format!("_{}", uuid::Uuid::new_v4());
    let hour = Duration::from_secs(3600);
    let hcp = signer.issue_hcp(&id, &claims, Timestamp::now(), hour).await.expect("signs");
    let trc = neighbour.trc(&hcp, &claims, &patient()).await.expect("signs");
    vec![hcp, trc]
}

fn mode(text: String, lines: &str) -> String {
    let home = "home_community_id = \"urn:oid:2.999.246\"\n";
    text.replace(home, &format!("{home}revocation = {{ {lines} }}\n"))
}

fn conclude(name: &str, findings: &[Finding]) {
    let file = crate::report_folder().join(format!("abuse-{name}.md"));
    std::fs::write(&file, report(name, findings)).expect("writes");
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation() {
    let world = World::new();
    let mut findings = Vec::new();
    let gateway = world.start("crl", |text| text).await;
    let got = ask(&world, &gateway, &sealed_by(&world, &gateway, "revoked-seal").await).await;
    findings.push(Finding::new("T-KEY-4", "signer revoked by CRL", &[INTEGRITY], got));
    gateway.stop().await;

    let finland = world.pki("fi");
    for (id, input, age, lines, expected) in [
        ("T-KEY-7", "CRL one hour past nextUpdate, mode grace", 3600, "mode = \"grace\"", SERVED),
        ("T-KEY-7b", "CRL one hour past nextUpdate, mode hard", 3600, "mode = \"hard\"", "handshake refused"),
        ("T-KEY-7c", "CRL 25 h past nextUpdate, grace 24h", 25 * 3600, "grace = \"24h\"", "handshake refused"),
    ] {
        finland.crl("crls.pem", &["revoked-seal"], (-40 * DAY, -age)).expect("CRLs");
        let gateway = world.start(id, |text| mode(text, lines)).await;
        let got = ask(&world, &gateway, &good(&world, &gateway).await).await;
        findings.push(Finding::new(id, input, &[expected], got));
        if expected == SERVED {
            let got = ask(&world, &gateway, &sealed_by(&world, &gateway, "revoked-seal").await).await;
            findings.push(Finding::new("T-KEY-7d", "revoked signer on a CRL within the grace", &[INTEGRITY], got));
        }
        gateway.stop().await;
    }
    finland.crl("crls.pem", &[], (-60, 3600)).expect("CRLs");

    finland.leaf("ocsp-good", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    let responder = Responder::start(&finland, &["ocsp-revoked", "tls-client", "seal", "ocsp-good"]);
    let lines = format!("ocsp_url = \"http://127.0.0.1:{}\", mode = \"hard\"", responder.port);
    let gateway = world.start("ocsp", |text| mode(text, &lines)).await;
    let got = ask(&world, &gateway, &sealed_by(&world, &gateway, "ocsp-good").await).await;
    findings.push(Finding::new("T-KEY-5-good", "OCSP says good of two signers at their first use", &[SERVED], got));
    let got = ask(&world, &gateway, &sealed_by(&world, &gateway, "ocsp-revoked").await).await;
    findings.push(Finding::new("T-KEY-5", "OCSP says revoked", &[INTEGRITY], got));
    finland.leaf("unknown", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    let got = ask(&world, &gateway, &sealed_by(&world, &gateway, "unknown").await).await;
    findings.push(Finding::new("T-KEY-5b", "OCSP does not know the signer", &[INTEGRITY], got));
    drop(responder);
    finland.leaf("later", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    let got = ask(&world, &gateway, &sealed_by(&world, &gateway, "later").await).await;
    findings.push(Finding::new("T-KEY-5c", "responder down, mode hard, never asked before", &[INTEGRITY], got));
    gateway.stop().await;
    conclude("revocation", &findings);
}

/// OpenSSL's own responder over an index of Finland's leaves; the first is revoked.
struct Responder {
    child: Child,
    port: u16,
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Responder {
    fn start(pki: &CountryPki, leaves: &[&str]) -> Self {
        pki.leaf(leaves[0], Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
        let mut index = String::new();
        for (at, leaf) in leaves.iter().enumerate() {
            let pem = std::fs::read(pki.path(&format!("{leaf}.pem"))).expect("reads");
            let certificate = openssl::x509::X509::from_pem(&pem).expect("a certificate");
            let serial =
                certificate.serial_number().to_bn().and_then(|n| n.to_hex_str()).expect("a serial").to_string();
            let (state, revoked) = if at == 0 { ("R", "260101000000Z") } else { ("V", "") };
            index.push_str(&format!("{state}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN={leaf}\n"));
        }
        std::fs::write(pki.path("index.txt"), index).expect("writes");
        let authority = pki.path("authority");
        let mut child = Command::new("openssl")
            .args(["ocsp", "-port", "0", "-text", "-index"])
            .arg(pki.path("index.txt"))
            .arg("-CA")
            .arg(authority.join("intermediate.pem"))
            .arg("-rsigner")
            .arg(authority.join("intermediate.pem"))
            .arg("-rkey")
            .arg(authority.join("intermediate.key"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        // "ACCEPT 0.0.0.0:PORT PID=…" on one of the two.
        use std::io::BufRead;
        let (tell, told) = std::sync::mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("stdout")), Box::new(child.stderr.take().expect("stderr"))];
        for stream in streams {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in std::io::BufReader::new(stream).lines().map_while(Result::ok) {
                    let port = line.strip_prefix("ACCEPT ").and_then(|rest| rest.split_whitespace().next());
                    if let Some(port) = port.and_then(|at| at.rsplit(':').next()).and_then(|p| p.parse().ok()) {
                        let _ = tell.send(port);
                    }
                }
            });
        }
        let port = told.recv_timeout(Duration::from_secs(10)).expect("the responder says its port");
        Self { child, port }
    }
}

/// A certificate of ours that promises a stapled answer is taken with it, and without it is not.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_status_is_stapled() {
    let world = World::new();
    let promises = Odd { must_staple: true, ..Odd::default() };
    world.no.odd_leaf("tls-server", Use::Server, Algorithm::P256, &promises).expect("a leaf");
    let responder = Responder::start(&world.no, &["ocsp-revoked", "tls-server"]);
    let (mut findings, ours) = (Vec::new(), world.no.path("anchors.pem"));
    let anchors = Anchors::load(&ours, Revocation::none(), Purpose::TlsServer).expect("anchors");
    for (id, url, expected) in [
        ("R-OCSP-1", format!("ocsp_url = \"http://127.0.0.1:{}\"\n", responder.port), "taken"),
        ("R-OCSP-1b", String::new(), "refused"),
    ] {
        let gateway = world.start(id, |text| text.replace("[listener]\n", &format!("[listener]\n{url}"))).await;
        let mut got = "refused";
        for _ in 0..if url.is_empty() { 1 } else { 50 } {
            let stream = world.neighbour("fi", &gateway).open().await.expect("connects");
            let (ssl, sent) = (stream.ssl(), stream.ssl().peer_cert_chain());
            let sent: Vec<_> = sent.map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
            let leaf = ssl.peer_certificate().expect("a certificate");
            if anchors.verify_stapled(&leaf, &sent, ssl.ocsp_status()).is_ok() {
                got = "taken";
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        findings.push(Finding::new(id, "our certificate, which promises a stapled answer", &[expected], got.into()));
        gateway.stop().await;
    }
    conclude("stapling", &findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates() {
    let world = World::new();
    let mut findings = Vec::new();
    let code = |what: &str| format!("WARNING_SEC_UNEXPECTED_NUMBER_OF_REQUESTS{what}");
    for (id, bound, expected) in [
        ("T-RATE-1", "patient", code("_FOR_UNIQUE_PATIENT")),
        ("T-RATE-2", "point_of_care", code("_FOR_UNIQUE_POINT_OF_CARE")),
        ("T-RATE-3", "peer", code("")),
        ("T-RATE-4", "professional", code("")),
    ] {
        let gateway = world.start(id, |text| format!("{text}\n[rate]\nwindow = \"10m\"\n{bound} = 3\n")).await;
        let mut got = String::new();
        for number in 1..=5 {
            got = ask(&world, &gateway, &good(&world, &gateway).await).await;
            assert_eq!(got == SERVED, number <= 3, "{id}: request {number} got {got}");
        }
        findings.push(Finding::new(id, &format!("more than {bound} allows"), &[&expected], got));
        gateway.stop().await;
    }
    conclude("rates", &findings);
}

/// What is closed answers as what is not there: the whole answer, byte for byte, but for ids and times.
#[tokio::test(flavor = "multi_thread")]
async fn consent() {
    let world = World::new();
    let mut findings = Vec::new();
    let file = world.path("data/consent.toml");
    let block = |lines: &str| format!("[[block]]\npatient = \"{PATIENT}\"\n{lines}\n");
    let organisation = "requesters = [\"urn:oid:2.999.246.10\"]";
    std::fs::write(&file, "").expect("writes");
    let open = world.start("open", |text| text).await;
    let before = listed(&world, &open).await;
    open.stop().await;
    for name in ["ct", "rg"] {
        std::fs::rename(world.path(&format!("data/reports/{name}.toml")), world.path(name)).expect("moves");
    }
    let empty = world.start("empty", |text| text).await;
    let absent = listed(&world, &empty).await;
    empty.stop().await;
    for name in ["ct", "rg"] {
        std::fs::rename(world.path(name), world.path(&format!("data/reports/{name}.toml"))).expect("moves");
    }
    assert_ne!(before, absent, "there is something to close");
    for (id, input, text) in [
        ("T-CNS-2", "blocked for one country", block("countries = [\"FI\"]")),
        ("T-CNS-3", "blocked for one asking organisation", block(organisation)),
        ("T-CNS-3b", "blocked for one professional", block("professionals = [\"hpr-9144889\"]")),
        ("T-CNS-3c", "blocked by period", block("from = \"19000101\"\nto = \"20991231\"")),
        ("T-CNS-3d", "opted out", format!("[[opt_out]]\npatient = \"{PATIENT}\"\n")),
        (
            "T-CNS-1c",
            "each document blocked",
            [block("document = \"2.999.47.30.1\""), block("document = \"2.999.47.30.2\"")].concat(),
        ),
    ] {
        std::fs::write(&file, text).expect("writes");
        let gateway = world.start(id, |text| text).await;
        let got = if listed(&world, &gateway).await == absent { "as absent" } else { "told apart" };
        findings.push(Finding::new(id, input, &["as absent"], got.into()));
        gateway.stop().await;
    }
    for (id, input, text) in [
        ("T-CNS-2-open", "a block for another country", block("countries = [\"SE\"]")),
        ("T-CNS-3-open", "a block for another organisation", block("requesters = [\"urn:oid:2.999.1\"]")),
    ] {
        std::fs::write(&file, text).expect("writes");
        let gateway = world.start(id, |text| text).await;
        let got = if listed(&world, &gateway).await == before { "listed" } else { "withheld" };
        findings.push(Finding::new(id, input, &["listed"], got.into()));
        gateway.stop().await;
    }
    std::fs::write(&file, format!("[[consent_required]]\npatient = \"{PATIENT}\"\n")).expect("writes");
    let gateway = world.start("required", |text| text).await;
    let got = ask(&world, &gateway, &good(&world, &gateway).await).await;
    findings.push(Finding::new("T-CNS-4", "consent required, absent, and that may be said", &["4701"], got));
    gateway.stop().await;
    conclude("consent", &findings);
}

/// The envelope of an answer with ids, references and times replaced.
async fn listed(world: &World, gateway: &Gateway) -> String {
    let body = Neighbour::find_documents(&patient()).to_element();
    let neighbour = world.neighbour("fi", gateway);
    let assertions = good(world, gateway).await;
    let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
    let text = String::from_utf8(answer.envelope.to_vec()).expect("text");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("urn:uuid:") {
        out.push_str(&rest[..at]);
        out.push_str("UUID");
        rest = rest.get(at + 45..).unwrap_or_default();
    }
    out + rest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_lost_redis() {
    let world = World::new();
    let mut findings = Vec::new();
    let gateway = world.start("restart", |text| text).await;
    let assertions = good(&world, &gateway).await;
    assert_eq!(ask(&world, &gateway, &assertions).await, SERVED);
    let config = gateway.stop().await;
    let gateway = Gateway::start(config).await;
    let other = world.neighbour("se", &gateway);
    let body = Neighbour::find_documents(&patient()).to_element();
    let answer = other.call(actions::ITI38_REQUEST, XCA, &assertions, body).await.expect("an answer");
    let input = "assertions replayed by another country after a restart";
    findings.push(Finding::new("T-TIM-10", input, &[INTEGRITY], verdict(&answer)));
    assert_eq!(ask(&world, &gateway, &assertions).await, SERVED, "their own use goes on");
    gateway.stop().await;
    let socket = world.path("no-redis.sock");
    for (id, on_loss, expected) in [("T-TIM-11", "refuse", "XDSRegistryBusy"), ("T-TIM-11b", "local", SERVED)] {
        let gateway = world
            .start(id, |text| {
                let url = format!("redis+unix://{}", socket.display());
                format!("{text}\n[replay]\nredis = \"{url}\"\nkey_file = \"no/sealing.key\"\non_loss = \"{on_loss}\"\n")
            })
            .await;
        let got = ask(&world, &gateway, &good(&world, &gateway).await).await;
        findings.push(Finding::new(id, &format!("redis down, on_loss = {on_loss}"), &[expected], got));
        gateway.stop().await;
    }
    conclude("replay", &findings);
}
