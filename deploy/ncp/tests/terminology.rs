//! `ncp terminology` as an operator runs it: built, compared, put in place, counted.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn ncp(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ncp")).arg("terminology").args(arguments).output().expect("runs")
}

fn good(arguments: &[&str]) -> String {
    let output = ncp(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name")
}

fn maps(into: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../translation/maps");
    std::fs::create_dir_all(into).expect("a folder");
    for file in std::fs::read_dir(from).expect("the shipped maps") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), into.join(file.file_name())).expect("copies");
    }
    into.to_owned()
}

#[test]
fn a_snapshot_is_built_compared_put_in_place_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (sources, out) = (maps(&folder.path().join("maps")), folder.path().join("snapshots"));
    let first = good(&["build", text(&sources), "--out", text(&out), "--use"]);
    let again = good(&["build", text(&sources), "--out", text(&out)]);
    assert_eq!(first, again, "the same inputs give the same digest");
    let first = PathBuf::from(first.trim());
    let digest = first.file_stem().expect("a digest").to_string_lossy().into_owned();
    let current = || std::fs::read_to_string(out.join("current")).expect("a file named current");
    assert_eq!(current().trim(), digest);

    let map = sources.join("ConceptMap-no-modality.json");
    let changed = std::fs::read_to_string(&map).expect("reads").replace("\"code\": \"B04\"", "\"code\": \"B07\"");
    std::fs::write(&map, changed).expect("writes");
    let second = PathBuf::from(good(&["build", text(&sources), "--out", text(&out)]).trim());
    assert_ne!(first, second);
    assert_eq!(current().trim(), digest, "a build alone puts nothing in place");
    let differences = good(&["diff", text(&first), text(&second)]);
    assert!(differences.contains("B04") && differences.contains("B07"), "{differences}");
    assert!(!differences.ends_with("\n0 differences\n"), "{differences}");
    assert!(good(&["diff", text(&first), text(&first)]).ends_with("0 differences\n"));
    good(&["use", text(&second)]);
    assert_eq!(current().trim(), second.file_stem().expect("a digest").to_string_lossy());

    let page = folder.path().join("coverage.html");
    let counted = good(&["coverage", text(&second), "--html", text(&page)]);
    assert!(counted.contains("2.16.578.1.12.4.1.1.7270"), "{counted}");
    assert!(std::fs::read_to_string(page).expect("a page").contains("2.16.578.1.12.4.1.1.7270"));

    // One wrong bit: it is not put in place, the old one stays.
    let mut bytes = std::fs::read(&first).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&first, bytes).expect("writes");
    assert!(!ncp(&["use", text(&first)]).status.success());
    assert_eq!(current().trim(), second.file_stem().expect("a digest").to_string_lossy());
}

#[test]
fn synthetic_releases_build_and_a_fault_is_told_with_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let (sources, out) = (folder.path().join("synthetic"), folder.path().join("snapshots"));
    good(&["synthetic", text(&sources)]);
    good(&["build", text(&sources), "--out", text(&out)]);
    let loinc = sources.join("Loinc_Synthetic/LoincTable/Loinc.csv");
    let broken = std::fs::read_to_string(&loinc).expect("reads").replacen("-", "-9", 1);
    std::fs::write(&loinc, broken).expect("writes");
    let output = ncp(&["build", text(&sources), "--out", text(&folder.path().join("none"))]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("Loinc.csv:2"), "{told}");
    assert!(!folder.path().join("none").exists(), "nothing was written");
}

/// One request over a connection that shows a certificate, or none.
async fn asked(connector: &ncp_tls::TlsConnector, port: u16) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let limit = std::time::Duration::from_secs(10);
    let mut stream = ncp_tls::connect(connector, "127.0.0.1", port, "localhost", limit).await.ok()?;
    let request = "GET /r4/ConceptMap/$translate?code=SSC0AD&system=urn:oid:2.16.578.1.12.4.1.1.7270 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    (!text.is_empty()).then_some(text)
}

#[tokio::test]
async fn the_fhir_facade_answers_clients_with_a_certificate_only() {
    use ncp_tests::pki::{Algorithm, CountryPki};
    use ncp_tls::{ClientAuth, Material, Times};
    use ncp_translation::{facade, load, snapshot::Snapshot, store::Store};
    let folder = tempfile::tempdir().expect("a folder");
    let pki = CountryPki::create(&folder.path().join("pki"), "NO", Algorithm::P256).expect("a PKI");
    let other = CountryPki::create(&folder.path().join("other"), "FI", Algorithm::P256).expect("a PKI");
    let files = |pki: &CountryPki, name: &str| ncp_tls::TlsFiles {
        cert_chain: pki.path(&format!("{name}.pem")),
        key: pki.path(&format!("{name}.key")),
        anchors: folder.path().join("pki/anchors.pem"),
        crls: None,
    };
    let built = load::build(&[maps(&folder.path().join("maps"))]).expect("builds");
    let store = Store::new(Snapshot::built(built).expect("a snapshot")).expect("passes");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = files(&pki, "internal-server").mutual_acceptor(b"\x08http/1.1").expect("tls");
    let routes = facade::routes(store.clone());
    tokio::spawn(ncp_tls::serve_routes(listener, acceptor, routes, Times::default(), std::future::pending()));
    let own = files(&pki, "internal-client").connector(b"\x08http/1.1").expect("tls");
    let answer = asked(&own, port).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("169069000"), "{answer}");
    let foreign = files(&other, "internal-client").connector(b"\x08http/1.1").expect("tls");
    assert_eq!(asked(&foreign, port).await, None, "a certificate of another country");
    let none = ncp_tls::anonymous_connector(&[pki.path("anchors.pem")], b"\x08http/1.1").expect("tls");
    assert_eq!(asked(&none, port).await, None, "no certificate");

    // Where tokens are taken, who shows no certificate is heard, and needs one.
    let key = josekit::jwk::Jwk::generate_ec_key(josekit::jwk::alg::ec::EcCurve::P256).expect("a key");
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, format!("{{\"keys\":[{}]}}", key.to_public_key().expect("public"))).expect("writes");
    let bearers =
        facade::Bearers::load("https://idp.example", "https://terms.example", &jwks, ncp_tls::Taken::default())
            .expect("loads");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = files(&pki, "internal-server");
    let material = Material::load(&server.cert_chain, &server.key).expect("loads");
    let acceptor = material.acceptor(ClientAuth::Optional, &[server.anchors], b"\x08http/1.1").expect("tls");
    let routes = facade::routes_for(store, bearers);
    tokio::spawn(ncp_tls::serve_routes(listener, acceptor, routes, Times::default(), std::future::pending()));
    assert!(asked(&own, port).await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    assert!(asked(&none, port).await.is_some_and(|answer| answer.starts_with("HTTP/1.1 401")));
    assert_eq!(asked(&foreign, port).await, None, "a certificate of another country is no certificate less");
}
