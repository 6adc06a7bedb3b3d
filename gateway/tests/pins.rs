//! Which certificate has which use: of everything that two countries' authorities issued, the named leaf alone (SE-10).

#![allow(clippy::print_stdout)]

use std::path::Path;

use ncp_gateway::app::{Learned, Snapshot};
use ncp_gateway::config::{self, Config};
use ncp_tests::asking::{Asking, Known};
use ncp_tests::country::{Country, Reaction};
use ncp_tests::pki::{Algorithm, CountryPki, Use};
use ncp_tls::{Anchors, CertificateFacts, ClientAuth, Names, SslAcceptor, TlsConnector, TlsFiles};
use openssl::x509::X509;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A gateway of Norway that knows Finland; both countries have certificates for every purpose.
async fn norway(dir: &Path) -> (Asking, CountryPki, std::path::PathBuf) {
    let asking = Asking::create(dir).expect("a PKI");
    let finland = asking.other("FI").expect("a PKI");
    finland.leaf("consumer", Use::Client, Algorithm::P256, 0, 90).expect("a leaf");
    finland.leaf("xua", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    for pki in [&asking.pki, &finland] {
        // As what a certificate says it is for is one thing and who it is another: the right use under other names.
        pki.leaf("other-client", Use::Client, Algorithm::P256, 0, 90).expect("a leaf");
        pki.leaf("other-server", Use::Server, Algorithm::P256, 0, 90).expect("a leaf");
        pki.leaf("other-seal", Use::Seal, Algorithm::P256, 0, 90).expect("a leaf");
    }
    let country = Country::start(&finland, &asking.pki.path("anchors.pem"), |_| Reaction::Status(500)).await;
    let country = country.expect("starts");
    let known = Known { pki: &finland, home: "2.999.246".into(), country: &country, lines: String::new() };
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/no");
    let file = asking.write([0; 3], "", &policies, &[known]).expect("writes");
    (asking, finland, file)
}

fn loaded(file: &Path) -> Config {
    config::load(file).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Every certificate of a PKI by country and file name.
fn leaves(pki: &CountryPki) -> Vec<(String, X509)> {
    let files = std::fs::read_dir(&pki.dir).expect("a folder").map(|entry| entry.expect("a file").path());
    let leaf = |path: std::path::PathBuf| {
        let name = path.file_stem()?.to_str()?.to_owned();
        let key = path.with_extension("key").is_file() && path.extension().is_some_and(|end| end == "pem");
        let pem = std::fs::read(&path).ok().filter(|_| key)?;
        Some((format!("{} {name}", pki.country), X509::from_pem(&pem).ok()?))
    };
    let mut all: Vec<_> = files.filter_map(leaf).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn se_10_only_the_named_leaf_has_a_use() {
    let dir = tempfile::tempdir().expect("a folder");
    let (asking, finland, file) = norway(dir.path()).await;
    let snapshot = Snapshot::load(&loaded(&file), &Learned::default()).unwrap_or_else(|e| panic!("{e:?}"));
    let fi = ncp_tls::Country::parse("FI").expect("a country");
    let consumers = snapshot.consumers.as_ref().expect("consumers");
    let uses: [(&str, &Anchors, &str); 5] = [
        ("peer FI connects", &snapshot.tls_anchors[&fi], "FI tls-client"),
        ("peer FI answers", &snapshot.server_anchors[&fi], "FI tls-server"),
        ("peer FI signs", &snapshot.seal_anchors[&fi], "FI seal"),
        ("consumer connects", &consumers.clients, "NO consumer"),
        ("consumer's signer", &consumers.assertions, "NO xua"),
    ];
    let all: Vec<_> = [&asking.pki, &finland].into_iter().flat_map(leaves).collect();
    assert!(all.len() > 16, "{} certificates", all.len());
    println!("{:<20} {}", "", uses.map(|(name, ..)| format!("{name:<18}")).concat());
    for (name, certificate) in &all {
        let passes = uses.map(|(_, anchors, named)| {
            let passes = anchors.verify(certificate, &[]).is_ok();
            // A verdict that is remembered is the same verdict.
            assert_eq!(anchors.verify(certificate, &[]).is_ok(), passes);
            assert_eq!(passes, name == named, "{name}");
            passes
        });
        println!("{name:<20} {}", passes.map(|passes| format!("{:<18}", if passes { "yes" } else { "-" })).concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn se_10_names_overlap_while_keys_change_and_anchors_alone_warn() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_, finland, file) = norway(dir.path()).await;
    let text = std::fs::read_to_string(&file).expect("reads");
    let line = text.lines().find(|line| line.contains("tls-client.ncp.fi")).expect("the pin").to_owned();
    let fi = ncp_tls::Country::parse("FI").expect("a country");
    let certificate = |name: &str| {
        X509::from_pem(&std::fs::read(finland.path(&format!("{name}.pem"))).expect("reads")).expect("a certificate")
    };
    let fingerprint = CertificateFacts::of(&certificate("other-seal")).expect("facts").fingerprint;
    let written = |pin: &str| std::fs::write(&file, text.replace(&line, pin)).expect("writes");
    let signs = |name: &str| {
        let snapshot = Snapshot::load(&loaded(&file), &Learned::default()).unwrap_or_else(|e| panic!("{e:?}"));
        snapshot.seal_anchors[&fi].verify(&certificate(name), &[]).is_ok()
    };
    let pin = |seal: &str| format!("pin = {{ tls_client = [\"a\"], tls_server = [\"a\"], seal = [{seal}] }}");
    written(&pin(&format!("\"CN=seal.ncp.fi,O=Demonstration NCP,C=FI\", \"sha256:{fingerprint}\"")));
    assert!(signs("seal") && signs("other-seal") && !signs("xua"), "the old and the new one");
    written(&pin(&format!("\"sha256:{fingerprint}\"")));
    assert!(!signs("seal") && signs("other-seal"), "the new one alone");

    assert!(loaded(&file).warnings().is_empty(), "names under roots apart are no reason to warn");
    std::fs::write(&file, text.replace("seal-anchors.pem", "anchors.pem")).expect("writes");
    let warnings = loaded(&file).warnings();
    let shared = warnings.iter().any(|said| said.contains("several uses: TLS of FI, seal of FI"));
    assert!(warnings.len() == 1 && shared, "{warnings:?}");
    written("pin = \"anchor\"");
    assert!(signs("seal") && signs("other-seal"), "anchors alone, by the operator's word");
    let warnings = loaded(&file).warnings();
    assert!(warnings.iter().any(|said| said.starts_with("peer[0].pin: ")), "{warnings:?}");

    for (wrong, said) in [
        ("", "peer[0].pin: is missing: the names of its certificates, as pin = { tls_client"),
        ("pin = \"anchors\"", "peer[0].pin: expected \"anchor\" or a table"),
        ("pin = { seals = [\"a\"] }", "peer[0].pin"),
        ("pin = { seal = [\"a\"], tls_server = [\"a\"] }", "peer[0].pin: tls_client and seal go together"),
        ("pin = { seal = [\"a\"], tls_client = [\"a\"] }", "peer[0].pin: tls_server is needed"),
        ("pin = { seal = [\"sha256:ab\"], tls_client = [\"a\"], tls_server = [\"a\"] }", "peer[0].pin"),
        ("pin = {}", "peer[0].pin: names nobody"),
    ] {
        written(wrong);
        let problems = config::load(&file).expect_err(wrong);
        assert!(problems.iter().any(|problem| problem.to_string().starts_with(said)), "{wrong}: {problems:?}");
    }
}

/// Whether a call between our own programs gets through, and which end refused it otherwise.
async fn called(server: &TlsFiles, callers: Option<Names>, client: &TlsFiles, servers: Option<Names>) -> bool {
    let acceptor = server.acceptor_of(ClientAuth::Required, callers, b"\x02h2").expect("tls");
    let connector = client.connector_to(servers, b"\x02h2").expect("tls");
    exchanged(&acceptor, &connector).await
}

async fn exchanged(acceptor: &SslAcceptor, connector: &TlsConnector) -> bool {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let limit = std::time::Duration::from_secs(10);
    let answering = async {
        let (tcp, _) = listener.accept().await.expect("accepts");
        let mut stream = ncp_tls::accept(acceptor, tcp, limit).await.ok()?;
        stream.write_all(b"x").await.ok()?;
        stream.flush().await.ok()
    };
    let asking = async {
        let mut stream = ncp_tls::connect(connector, "127.0.0.1", port, "localhost", limit).await.ok()?;
        // With TLS 1.3 a client learns of its refusal at its first read.
        stream.read_exact(&mut [0]).await.ok()
    };
    tokio::join!(answering, asking).1.is_some()
}

/// Between our own programs revocation is checked as at the border, with CRLs that are read again when they change.
#[tokio::test(flavor = "multi_thread")]
async fn se_08_revocation_and_names_hold_between_our_own_programs() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = CountryPki::create(dir.path(), "NO", Algorithm::P256).expect("a PKI");
    pki.leaf("second-client", Use::Client, Algorithm::P256, 0, 90).expect("a leaf");
    let crls = pki.crl("internal-crls.pem", &[], (-60, 3600)).expect("CRLs");
    let files = |name: &str| TlsFiles {
        cert_chain: pki.path(&format!("{name}.pem")),
        key: pki.path(&format!("{name}.key")),
        anchors: pki.path("anchors.pem"),
        crls: Some(crls.clone()),
    };
    let [server, client, second] = ["internal-server", "internal-client", "second-client"].map(files);
    let named = |name: &str| Some([name.parse().expect("a name")].into_iter().collect::<Names>());
    assert!(called(&server, None, &client, None).await);
    for (caller, passes) in [(&client, true), (&second, false)] {
        assert_eq!(called(&server, named("internal-client.ncp.no"), caller, None).await, passes);
    }
    assert!(called(&server, None, &client, named("dns:localhost")).await);
    assert!(
        !called(&server, None, &client, named("another.ncp.no")).await,
        "another server than the one that is named"
    );

    // One context each, made before anything was revoked: as a program that goes on running.
    let acceptor = server.mutual_acceptor(b"\x02h2").expect("tls");
    let [first, other] = [&client, &second].map(|files| files.connector(b"\x02h2").expect("tls"));
    assert!(exchanged(&acceptor, &first).await && exchanged(&acceptor, &other).await);
    pki.crl("internal-crls.pem", &["internal-client"], (-50, 3600)).expect("CRLs");
    assert!(!exchanged(&acceptor, &first).await, "a revoked caller");
    assert!(exchanged(&acceptor, &other).await, "the others go on");
    pki.crl("internal-crls.pem", &["internal-server"], (-40, 3600)).expect("CRLs");
    assert!(!exchanged(&acceptor, &first).await, "a revoked server");
    // A file that holds no CRL leaves the last good ones in force.
    std::fs::write(&crls, "no CRL").expect("writes");
    assert!(!exchanged(&acceptor, &first).await);
    // Past nextUpdate it is believed within the grace, and no longer.
    pki.crl("internal-crls.pem", &[], (-7200, -3600)).expect("CRLs");
    assert!(exchanged(&acceptor, &first).await, "within the grace");
    pki.crl("internal-crls.pem", &[], (-900_000, -800_000)).expect("CRLs");
    assert!(!exchanged(&acceptor, &first).await, "beyond the grace");
}
