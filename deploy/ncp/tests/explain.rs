//! `ncp explain` and `ncp cert doctor` as an operator runs them: what they print of a request and of a peer, and with which
//! exit code they end.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use ncp_ihe::{PatientId, actions};
use ncp_saml::{HcpClaims, Purpose};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::{Algorithm, CountryPki, peer_pin};
use ncp_tls::{CertificateFacts, ClientAuth, Material};

const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";
const OTHER: &str = "01827812345^^^&2.16.578.1.12.4.1.4.1&ISO";

/// Norway's configuration and the keys of both countries.
struct World {
    dir: tempfile::TempDir,
    fi: CountryPki,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        CountryPki::create_apart(&dir.path().join("no"), "NO", Algorithm::P256).expect("a PKI");
        let fi = CountryPki::create_apart(&dir.path().join("fi"), "FI", Algorithm::P256).expect("a PKI");
        let consent = format!("[[opt_out]]\npatient = \"{OTHER}\"\n");
        std::fs::write(dir.path().join("consent.toml"), consent).expect("writes");
        let world = Self { dir, fi };
        world.configure(1, &peer_pin("FI"), "");
        world
    }

    /// Writes the configuration with a port of Finland's, its pins, and further lines about it.
    fn configure(&self, port: u16, pin: &str, more: &str) {
        let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway/policies/no");
        let text = format!(
            r#"[gateway]
country = "NO"
home_community_id = "urn:oid:2.999.47"
name = "Norway"
[listener]
peers = "127.0.0.1:0"
admin = "127.0.0.1:0"
certificate = "no/tls-server.pem"
key = "no/tls-server.key"
[client]
certificate = "no/tls-client.pem"
key = "no/tls-client.key"
[seal]
certificate = "no/seal.pem"
key = "no/seal.key"
[audit]
spool_dir = "spool"
spool_key_file = "no/spool.key"
source = "test"
enterprise_site = "NO"
[policy]
folder = "{policies}"
consent_file = "consent.toml"
[[peer]]
country = "FI"
name = "Finland"
home_community_id = "urn:oid:2.999.246"
xca = "https://localhost:{port}/xca"
tls_anchors = "fi/tls-anchors.pem"
seal_anchors = "fi/seal-anchors.pem"
{pin}{more}"#,
            policies = policies.display(),
        );
        std::fs::write(self.dir.path().join("gateway.toml"), text).expect("writes");
    }

    /// What a command prints, with `…` for instants, and how it ends.
    fn said(&self, arguments: &[&str]) -> (bool, Vec<String>) {
        let config = self.dir.path().join("gateway.toml");
        let output = Command::new(env!("CARGO_BIN_EXE_ncp")).args(arguments).arg("--config").arg(&config).output();
        let output = output.expect("runs");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let text =
            String::from_utf8(output.stdout).expect("text").replace(&config.display().to_string(), "gateway.toml");
        let line = |line: &str| match line.split_once(" until ") {
            Some((before, rest)) => {
                let (_, place) =
                    rest.split_once("   ").map_or(("", String::new()), |(at, place)| (at, format!("   {place}")));
                format!("{before} until …{place}")
            }
            None => line.to_owned(),
        };
        (output.status.success(), text.lines().map(line).collect())
    }

    /// What `ncp explain` says of a message.
    fn explained(&self, message: &[u8]) -> (bool, Vec<String>) {
        let file = self.dir.path().join("message.xml");
        std::fs::write(&file, message).expect("writes");
        self.said(&["explain", &file.display().to_string()])
    }

    fn neighbour(&self) -> Neighbour {
        let anchors = self.dir.path().join("no/tls-anchors.pem");
        Neighbour::new(&self.fi, "2.999.246", &anchors, "localhost", 1).expect("a neighbour")
    }

    /// A query of documents with these claims, and with those of the treatment.
    async fn query(&self, claims: &HcpClaims, treatment: &HcpClaims, patient: &str) -> Vec<u8> {
        let neighbour = self.neighbour();
        let patient = PatientId::parse_cx(patient).expect("a CX");
        let hcp = neighbour.hcp(claims, Timestamp::now()).await.expect("an assertion");
        let trc = neighbour.trc(&hcp, treatment, &patient).await.expect("an assertion");
        let body = Neighbour::find_documents(&PatientId::parse_cx(PATIENT).expect("a CX")).to_element();
        neighbour.message(actions::ITI38_REQUEST, XCA, &[hcp, trc], body)
    }

    /// Where a line of the configuration stands, as the command says it.
    fn place(&self, begins: &str) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("gateway.toml")).expect("reads");
        // The last, because the peer comes last.
        let number =
            text.lines().count() - text.lines().rev().position(|line| line.starts_with(begins)).expect("a line");
        format!("   (gateway.toml:{number})")
    }
}

const SIGNATURE: &str =
    "signature profile, signer's path and revocation, signature, times, audience, content, TRC's link";
const SMARTCARD: &str = "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI";
const PASSWORD: &str = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password";

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_each_check_with_its_place() {
    let world = World::new();
    let claims = world.neighbour().claims();
    let message = world.query(&claims, &claims, PATIENT).await;
    let place = |begins: &str| world.place(begins);
    let expected = [
        format!("ok       envelope within limits, no DOCTYPE: {} bytes", message.len()),
        format!("ok       WS-Addressing: {}", actions::ITI38_REQUEST),
        format!("ok       the country is a peer: Finland (FI){}", place("country")),
        format!("ok       {SIGNATURE}: signed by seal.ncp.fi of FI, until …{}", place("seal_anchors")),
        format!("ok       one identity: homeCommunityId: urn:oid:2.999.246{}", place("home_community_id")),
        format!("ok       class of the login (4702): {SMARTCARD}"),
        "ok       TRC: until …".into(),
        "ok       patient binding: the query names no other patient".into(),
        "ok       purpose: TREATMENT".into(),
        "ok       role is of the list (4703): 221 Medical Doctors".into(),
        format!("ok       policy: permit by iti-38-professionals{}", place("folder")),
        format!("ok       consent and blocks (applied to each document): Given, 0 blocks{}", place("consent_file")),
        "ADMITTED: documents and studies are then decided one by one".into(),
    ];
    assert_eq!(world.explained(&message), (true, expected.to_vec()));

    // What is wrong with the message itself.
    let text = String::from_utf8(message.clone()).expect("text");
    let forged = text.replacen("Radiologist on duty", "Radiologist off duty", 1);
    let refused = |begins: &str, (admitted, said): (bool, Vec<String>)| {
        let last = said.last().cloned().unwrap_or_default();
        assert!(!admitted && last.starts_with(&format!("REFUSED  {begins}")), "{begins}: {said:?}");
        last
    };
    refused("envelope within limits, no DOCTYPE: ", world.explained(format!("<!DOCTYPE a>{text}").as_bytes()));
    let said = refused(&format!("{SIGNATURE}: "), world.explained(forged.as_bytes()));
    assert!(said.ends_with(&place("seal_anchors")), "{said}");
    let file = world.dir.path().join("message.xml").display().to_string();
    std::fs::write(&file, &message).expect("writes");
    let said = refused("the country is a peer: ", world.said(&["explain", &file, "--peer", "SE"]));
    assert_eq!(said, "REFUSED  the country is a peer: no configured country");
    let said = refused(&format!("{SIGNATURE}: "), world.said(&["explain", &file, "--at", "2020-01-01T00:00:00Z"]));
    assert!(said.ends_with(&place("seal_anchors")), "{said}");
}

/// What the assertions say, and the line of the configuration that would take it.
#[tokio::test(flavor = "multi_thread")]
async fn explain_says_which_login_identity_purpose_and_patient_count() {
    let world = World::new();
    let claims = || world.neighbour().claims();
    let last = |(_, said): (bool, Vec<String>)| said.last().cloned().unwrap_or_default();
    let holds = |(admitted, said): (bool, Vec<String>), line: &str| {
        assert!(admitted && said.iter().any(|one| one == line), "{line}: {said:?}");
    };

    let weak = HcpClaims { authn_context_class: PASSWORD.into(), ..claims() };
    let message = world.query(&weak, &weak, PATIENT).await;
    let refused = "is no two-factor class: where the country vouches for it, list it under authn_classes";
    assert_eq!(last(world.explained(&message)), format!("REFUSED  class of the login (4702): {PASSWORD} {refused}"));
    world.configure(1, &peer_pin("FI"), &format!("authn_classes = [\"{PASSWORD}\"]\n"));
    let place = world.place("authn_classes");
    holds(world.explained(&message), &format!("ok       class of the login (4702): {PASSWORD}{place}"));

    let renamed = HcpClaims { home_community_id: "urn:oid:2.999.2460".into(), ..claims() };
    let message = world.query(&renamed, &renamed, PATIENT).await;
    world.configure(1, &peer_pin("FI"), "");
    let place = world.place("home_community_id");
    let rule = "one identity: homeCommunityId";
    let refused = "urn:oid:2.999.2460 is not the peer's: where it is, list it under its aliases";
    assert_eq!(last(world.explained(&message)), format!("REFUSED  {rule}: {refused}{place}"));
    world.configure(1, &peer_pin("FI"), "aliases = [\"urn:oid:2.999.2460\"]\n");
    holds(world.explained(&message), &format!("ok       {rule}: urn:oid:2.999.246{place}"));

    let (treatment, emergency) = (claims(), HcpClaims { purpose: Purpose::Emergency, ..claims() });
    let refused = "REFUSED  purpose: the treatment's is less specific than the login's (1002)";
    assert_eq!(last(world.explained(&world.query(&emergency, &treatment, PATIENT).await)), refused);
    let message = world.query(&treatment, &emergency, PATIENT).await;
    holds(world.explained(&message), "ok       purpose: EMERGENCY");

    let message = world.query(&treatment, &treatment, OTHER).await;
    let refused = "REFUSED  patient binding: the query names another patient than the TRC (4206)";
    assert_eq!(last(world.explained(&message)), refused);
}

/// A server with Finland's certificate that completes handshakes.
async fn server(world: &World) -> u16 {
    let material =
        Material::load(&world.fi.path("tls-server.pem"), &world.fi.path("tls-server.key")).expect("material");
    let anchors = world.dir.path().join("no/tls-anchors.pem");
    let acceptor = material.acceptor(ClientAuth::Required, &[anchors], b"\x08http/1.1").expect("an acceptor");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            held.extend(ncp_tls::accept(&acceptor, tcp, Duration::from_secs(10)).await);
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_a_peer_shows_and_whether_its_pin_names_it() {
    let world = World::new();
    let port = server(&world).await;
    world.configure(
        port,
        &peer_pin("FI"),
        &format!("authn_classes = [\"{PASSWORD}\"]\naliases = [\"urn:oid:2.999.2460\"]\n"),
    );
    let material =
        Material::load(&world.fi.path("tls-server.pem"), &world.fi.path("tls-server.key")).expect("material");
    let digest = CertificateFacts::of(material.leaf()).expect("facts").fingerprint;
    let names = material.leaf().subject_alt_names().expect("names");
    let names = names.iter().filter_map(|name| name.dnsname()).map(|name| format!("    answers to {name}"));
    let ours = |key: &str, name: &str, task: &str| {
        format!("  {key}: {name}.ncp.no issued by Demonstration {task} intermediate NO, 89 days left")
    };
    let authority = |task: &str, name: &str| {
        format!(
            "  peer FI {task}_anchors: Demonstration {task} {name} FI issued by Demonstration {task} root FI, 364 days left"
        )
    };
    let mut expected = vec![
        "Ours, as other countries see them".to_owned(),
        ours("listener.certificate", "tls-server", "tls"),
        ours("seal.certificate", "seal", "seal"),
        ours("client.certificate", "tls-client", "tls"),
        String::new(),
        "Finland (FI)".into(),
        authority("tls", "root"),
        authority("tls", "intermediate"),
        authority("seal", "root"),
        authority("seal", "intermediate"),
        "  its assertions: homeCommunityId urn:oid:2.999.246 or urn:oid:2.999.2460 (more: aliases)".into(),
        format!("  its logins: two-factor classes of SAML, {PASSWORD} (more: authn_classes)"),
        format!("  call to localhost:{port}: TLSv1.3 with TLS_AES_128_GCM_SHA256"),
        "  its certificate: tls-server.ncp.fi issued by Demonstration tls intermediate FI, 89 days left".into(),
    ];
    expected.extend(names);
    expected.extend([
        "    stapled OCSP answer: no".to_owned(),
        format!("    its names for pin.tls_server: \"tls-server.ncp.fi\" or \"sha256:{digest}\""),
        "    pin.tls_server names it".into(),
        "    chain of 2 leads to an anchor; revocation NOT CHECKED: no crls, no ocsp_url".into(),
    ]);
    assert_eq!(world.said(&["cert", "doctor", "FI"]), (true, expected.clone()));
    assert_eq!(world.said(&["cert", "doctor"]), (true, expected), "it is the only one");

    let said = |pin: &str| {
        world.configure(port, pin, "");
        world.said(&["cert", "doctor", "FI"])
    };
    let (well, lines) = said("pin = \"anchor\"\n");
    let anchor = "    pin = \"anchor\": every certificate under tls_anchors would do; name this one";
    assert!(well && lines.iter().any(|line| line == anchor), "{lines:?}");
    let (well, lines) = said(&peer_pin("FI").replace("tls-server", "another"));
    let wrong = "    WRONG: pin.tls_server does not name it: calls are refused";
    assert!(!well && lines.iter().any(|line| line == wrong), "{lines:?}");
    world.configure(1, &peer_pin("FI"), "");
    let (well, lines) = world.said(&["cert", "doctor", "FI"]);
    assert!(!well && lines[lines.len() - 2].starts_with("  call to localhost:1: FAILED: "), "{lines:?}");
    assert_eq!(lines[lines.len() - 1], "    nothing listens there: check address, firewall and the peer's state");
}
