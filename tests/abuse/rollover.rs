//! Revoke, expire, roll over, reload, under load: connections stay, good requests are served, what ended is refused.
//! What changes: revocation, trust lists, certificates, seals, peers, policies and the keys of the token issuer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jws::{ES256, JwsHeader};
use josekit::jwt::{self, JwtPayload};
use ncp_ihe::{PatientId, actions};
use ncp_saml::{HcpClaims, SealKey, SignedAssertion, Signer};
use ncp_tests::attack::{Finding, INTEGRITY, SERVED, report, verdict};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::{Algorithm, CountryPki, Odd, Use};
use ncp_tls::Material;
use serde_json::json;

use crate::blocked::Line;
use crate::smp::until;
use crate::world::{Gateway, PATIENT, World, peer};

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

/// An HCP assertion of our own gateway.
async fn own(gateway: &Gateway, claims: &HcpClaims) -> SignedAssertion {
    let signer = gateway.app.snapshot.load().signer.clone();
    let claims = HcpClaims { country: signer.country(), ..claims.clone() };
    let id = format!("_{}", uuid::Uuid::new_v4());
    signer.issue_hcp(&id, &claims, Timestamp::now(), Duration::from_secs(600)).await.expect("signs")
}

/// The leaf of the folder that signed.
fn by(pki: &CountryPki, assertion: &SignedAssertion) -> String {
    let shown = |name: &&&str| {
        let pem = std::fs::read(pki.path(&format!("{name}.pem"))).unwrap_or_default();
        let der = openssl::x509::X509::from_pem(&pem).and_then(|c| c.to_der()).unwrap_or_default();
        !der.is_empty() && assertion.xml.contains(&openssl::base64::encode_block(&der))
    };
    ["seal", "seal-next"].iter().find(shown).map_or("another", |name| name).to_owned()
}

/// Whether a neighbour that trusts our anchors takes the assertion.
async fn taken_by_a_neighbour(world: &World, assertion: &SignedAssertion) -> bool {
    let mut headers = ncp_soap::Addressing::request("urn:x", "urn:y").to_headers();
    headers.push(ncp_xml::Element::new(ncp_soap::ns::WSSE, "Security").raw(assertion.xml.clone()));
    let message = ncp_soap::Envelope { headers, body: ncp_xml::Element::new("urn:x", "x") }.write();
    let verifier = ncp_saml::Verifier::start(1).expect("starts");
    verifier.verify(message.into(), crate::trust(world, "no"), Timestamp::now()).await.is_ok()
}

/// What a country gets that asks as itself.
async fn as_neighbour(world: &World, gateway: &Gateway, code: &str) -> String {
    let neighbour = world.neighbour(code, gateway);
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let body = Neighbour::find_documents(&patient()).to_element();
    match neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, body).await {
        Ok(answer) => verdict(&answer),
        Err(_) => "handshake refused".into(),
    }
}

type Client = SendRequest<Empty<Bytes>>;

/// An open connection with this client certificate.
async fn client(world: &World, gateway: &Gateway, code: &str, leaf: &str) -> Client {
    let file = |end: &str| world.pki(code).path(&format!("{leaf}.{end}"));
    let material = Material::load(&file("pem"), &file("key")).expect("material");
    let connector = material.connector(&[world.no.path("anchors.pem")], b"\x08http/1.1").expect("a connector");
    let port = gateway.address.port();
    let stream = ncp_tls::connect(&connector, "127.0.0.1", port, "localhost", Duration::from_secs(10)).await;
    let (sender, connection) = handshake(TokioIo::new(stream.expect("connects"))).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

/// A request that says only whether who asks is still somebody.
async fn get(client: &mut Client) -> String {
    let request = Request::get(XCA).header("host", "localhost").body(Empty::new()).expect("a request");
    let answer = client.send_request(request).await.expect("an answer");
    format!("HTTP {}", answer.status().as_u16())
}

/// Changes the configuration file and waits until it is in force.
async fn edit(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(&gateway.config).expect("reads");
    let changed = change(text.clone());
    assert_ne!(text, changed, "nothing was changed");
    reloaded(gateway, || std::fs::write(&gateway.config, changed).expect("writes")).await;
}

/// The country's policies in a folder of their own.
fn copy_policies(world: &World) {
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/policies/no/transactions.cedar");
    std::fs::create_dir_all(world.path("policies")).expect("a folder");
    std::fs::copy(from, world.path("policies/transactions.cedar")).expect("copies");
}

/// Without rate limits, with its own policies, and with a side for professionals.
fn configured(world: &World, text: &str) -> String {
    let (before, folder) = text.split_once("[policy]\nfolder = \"").expect("policies");
    let rest = folder.split_once('"').expect("a folder").1;
    format!(
        r#"{before}[policy]
folder = "{folder}"{rest}
[rate]
patient = 0
point_of_care = 0
professional = 0
peer = 0
[clinician]
listen = "127.0.0.1:0"
base_url = "{BASE}"
certificate = "no/tls-server.pem"
key = "no/tls-server.key"
issuer = "{ISSUER}"
audience = "{BASE}"
jwks_file = "jwks.json"
sealing_key_file = "no/sealing.key"
organisation = {{ name = "University hospital", id = "urn:oid:2.999.47.10", locality = "Radiology" }}
acr = {{ two-factor = "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI" }}
[clinician.roles."221"]
code = "221"
display = "Medical Doctors"
permissions = ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"]
"#,
        folder = world.path("policies").display()
    )
}

const BASE: &str = "https://clinic.example";
const ISSUER: &str = "https://idp.example";
const TAKEN: &str = "taken";

/// A key of the token issuer.
struct IssuerKey(Jwk);

impl IssuerKey {
    fn new(number: u8) -> Self {
        let mut key = Jwk::generate_ec_key(EcCurve::P256).expect("a key");
        key.set_key_id(number.to_string());
        key.set_algorithm("ES256");
        Self(key)
    }

    fn token(&self) -> String {
        let now = Timestamp::now().as_second();
        let claims = json!({
            "iss": ISSUER, "sub": "hpr-1", "client_id": "ris", "aud": BASE, "jti": uuid::Uuid::new_v4().to_string(),
            "iat": now - 10, "exp": now + 600, "auth_time": now - 60, "acr": "two-factor", "scope": "user/Patient.rs",
            "extensions": { "ihe_iua": {
                "subject_name": "Radiologist on duty",
                "subject_role": [{ "system": "urn:oid:2.16.840.1.113883.2.9.6.2.7", "code": "221" }],
                "purpose_of_use": [{ "code": "TREAT" }],
            } },
        });
        let payload = JwtPayload::from_map(claims.as_object().expect("an object").clone()).expect("claims");
        let mut header = JwsHeader::new();
        header.set_key_id(self.0.key_id().expect("an id"));
        header.set_token_type("at+jwt");
        jwt::encode_with_signer(&payload, &header, &ES256.signer_from_jwk(&self.0).expect("a signer")).expect("signs")
    }
}

/// Publishes these keys.
fn keys(world: &World, keys: &[&IssuerKey]) {
    let public = keys.iter().map(|key| {
        let mut public = key.0.to_public_key().expect("a key");
        public.set_key_id(key.0.key_id().expect("an id"));
        public.set_algorithm("ES256");
        public
    });
    let set = json!({ "keys": public.collect::<Vec<_>>() });
    std::fs::write(world.path("jwks.json"), set.to_string()).expect("writes");
}

/// What a professional's system gets that asks for a patient of no country's: once the token is taken, just that.
async fn professional(anchors: &std::path::Path, at: SocketAddr, token: &str) -> String {
    let connector = ncp_tls::anonymous_connector(&[anchors.to_owned()], b"\x08http/1.1").expect("a connector");
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, Duration::from_secs(10));
    let identifier = json!({ "system": "urn:oid:2.999.9", "value": "1" });
    let person = json!({ "resourceType": "Patient", "identifier": [identifier] }).to_string();
    let request = Request::post(format!("https://localhost:{}/fhir/Patient/$match", at.port()))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/fhir+json")
        .body(Full::new(Bytes::from(person)))
        .expect("a request");
    match http.request(request).await.expect("an answer").status().as_u16() {
        422 => TAKEN.into(),
        status => format!("HTTP {status}"),
    }
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
    finland.leaf("client-2", Use::Client, Algorithm::P256, 0, 90).expect("a leaf");
    copy_policies(&world);
    let [leaving, staying, coming] = [1, 2, 3].map(IssuerKey::new);
    keys(&world, &[&leaving, &staying]);
    let gateway = world.start("rollover", |text| configured(&world, &text)).await;
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
    // A professional's system at our own side, with the key that stays.
    let clinic = {
        let (anchors, at) = (norway.path("anchors.pem"), gateway.clinic.expect("a clinicians' side"));
        let (stop, served) = (stop.clone(), served.clone());
        let token = staying.token();
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(professional(&anchors, at, &token).await, TAKEN, "a good request failed");
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    lines.push(clinic);
    let mut findings = Vec::new();
    let mut note = |id: &str, input: &str, expected: &str, got: String| {
        findings.push(Finding::new(id, input, &[expected], got));
    };

    let revoked = sealed(&world, &gateway, &finland, "to-revoke").await;
    note("R-CRT-1", "a signer before it is revoked", SERVED, ask(&world, &gateway, &revoked).await);
    let life = Duration::from_secs(6);
    let short = Odd { to_seconds: Some(life.as_secs() as i64), ..Odd::default() };
    finland.odd_leaf("short", Use::Seal, Algorithm::P256, &short).expect("a leaf");
    let expiring = sealed(&world, &gateway, &finland, "short").await;
    note("R-CRT-2", "a signer in the last seconds of its life", SERVED, ask(&world, &gateway, &expiring).await);
    tokio::time::sleep(life + Duration::from_secs(1)).await;
    note("R-CRT-2b", "the same signer after its end", INTEGRITY, ask(&world, &gateway, &expiring).await);
    let mut second = client(&world, &gateway, "fi", "client-2").await;
    note("R-CRT-6", "an open connection before its certificate is revoked", "HTTP 405", get(&mut second).await);
    reloaded(&gateway, || {
        finland.crl("crls.pem", &["to-revoke", "client-2"], (-60, 3600)).expect("CRLs");
    })
    .await;
    note("R-CRT-1b", "the same signer on the new CRL", INTEGRITY, ask(&world, &gateway, &revoked).await);
    note("R-CRT-6b", "the open connection after it", "HTTP 403", get(&mut second).await);

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
    let claims = world.neighbour("fi", &gateway).claims();
    note("R-CRT-4b", "seal that signs after the roll-over", "seal", by(norway, &own(&gateway, &claims).await));

    // The next seal signs when the present one has less than a day to live; the neighbour takes both.
    norway.leaf("seal-next", Use::Seal, Algorithm::P256, 0, 60).expect("a leaf");
    let next = "certificate = \"no/seal.pem\"\nkey = \"no/seal.key\"\n[seal.next]\ncertificate = \"no/seal-next.pem\"\nkey = \"no/seal-next.key\"\n";
    edit(&gateway, |text| text.replace("certificate = \"no/seal.pem\"\nkey = \"no/seal.key\"\n", next)).await;
    let before = own(&gateway, &claims).await;
    note("R-CRT-7", "seal that signs while the next one waits", "seal", by(norway, &before));
    reloaded(&gateway, || norway.leaf("seal", Use::Seal, Algorithm::P256, 0, 1).expect("a leaf")).await;
    let after = own(&gateway, &claims).await;
    note("R-CRT-7b", "seal that signs in the last day of the present one", "seal-next", by(norway, &after));
    for (id, assertion) in [("R-CRT-7c", &before), ("R-CRT-7d", &after)] {
        let got = if taken_by_a_neighbour(&world, assertion).await { TAKEN } else { "refused" };
        note(id, "our assertion at a neighbour", TAKEN, got.into());
    }

    // Peers: one comes, one goes.
    let denmark = CountryPki::create(&world.path("dk"), "DK", Algorithm::P256).expect("a PKI");
    denmark.crl("crls.pem", &[], (-60, 3600)).expect("CRLs");
    let swedish = as_neighbour(&world, &gateway, "se").await;
    let mut sweden = client(&world, &gateway, "se", "tls-client").await;
    note("R-PEER-1", "a peer that is there", SERVED, swedish);
    note("R-PEER-2", "a country that is no peer", "handshake refused", as_neighbour(&world, &gateway, "dk").await);
    edit(&gateway, |text| {
        let sweden = peer("se", "SE", "2.999.752");
        assert!(text.contains(&sweden));
        text.replace(&sweden, &peer("dk", "DK", "2.999.208"))
    })
    .await;
    note(
        "R-PEER-1b",
        "the same after it was taken out",
        "handshake refused",
        as_neighbour(&world, &gateway, "se").await,
    );
    note("R-PEER-1c", "its open connection", "HTTP 403", get(&mut sweden).await);
    note("R-PEER-2b", "the other after it was put in", SERVED, as_neighbour(&world, &gateway, "dk").await);

    // Policies: one more forbids nurses.
    let nurse = async || {
        let neighbour = world.neighbour("fi", &gateway);
        let mut claims = neighbour.claims();
        (claims.role.code, claims.role.display) = ("2221".into(), "Nursing professionals".into());
        let hcp = neighbour.hcp(&claims, Timestamp::now()).await.expect("signs");
        let trc = neighbour.trc(&hcp, &claims, &patient()).await.expect("signs");
        ask(&world, &gateway, &[hcp, trc]).await
    };
    note("R-POL-1", "a nurse under the old policies", SERVED, nurse().await);
    reloaded(&gateway, || {
        let forbid = "@id(\"no-nurses\")\nforbid (principal, action, resource) when { principal.role == \"2221\" };\n";
        std::fs::write(world.path("policies/nurses.cedar"), forbid).expect("writes");
    })
    .await;
    note("R-POL-1b", "a nurse under the new ones", "4703", nurse().await);

    // The issuer of our professionals' tokens: a key comes, and later another goes.
    let (anchors, at) = (norway.path("anchors.pem"), gateway.clinic.expect("a clinicians' side"));
    let with = async |key: &IssuerKey| professional(&anchors, at, &key.token()).await;
    note("R-JWK-1", "a token of a key that is not published", "HTTP 401", with(&coming).await);
    reloaded(&gateway, || keys(&world, &[&leaving, &staying, &coming])).await;
    note("R-JWK-1b", "the same once it is", TAKEN, with(&coming).await);
    note("R-JWK-2", "a token of the key that leaves, before", TAKEN, with(&leaving).await);
    reloaded(&gateway, || keys(&world, &[&staying, &coming])).await;
    note("R-JWK-2b", "a token of the key that left", "HTTP 401", with(&leaving).await);
    note("R-JWK-1c", "a token of the new key then", TAKEN, with(&coming).await);

    // A file that is wrong leaves the state as it was.
    let failures = gateway.app.metrics.reload_failures.get();
    std::fs::write(world.path("policies/broken.cedar"), "permit (").expect("writes");
    until("a refused reload", || gateway.app.metrics.reload_failures.get() > failures).await;
    let good = sealed(&world, &gateway, &finland, "seal-2").await;
    note("R-CRT-5", "a good request after a reload that failed", SERVED, ask(&world, &gateway, &good).await);
    note("R-CRT-5b", "the revoked signer after it", INTEGRITY, ask(&world, &gateway, &revoked).await);
    note("R-POL-2", "a nurse under the former policies", "4703", nurse().await);
    reloaded(&gateway, || std::fs::remove_file(world.path("policies/broken.cedar")).expect("removes")).await;

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
