//! A terminology service that answers, keeps silent, or is gone, as a section of `gateway.toml`.

use ncp_tests::pki::CountryPki;
use ncp_tls::TlsFiles;
use ncp_translation::cache::Cache;
use ncp_translation::counters::Counters;
use ncp_translation::service::Service;
use ncp_translation::snapshot::Snapshot;
use ncp_translation::store::Store;
use tokio::net::TcpListener;

fn section(pki: &CountryPki, port: u16) -> String {
    let path = |name: &str| pki.path(name).display().to_string();
    format!(
        "\n[translation]\nendpoint = \"https://127.0.0.1:{port}\"\nserver_name = \"localhost\"\ndeadline = \"1s\"\ndocument_deadline = \"1s\"\ntls = {{ certificate = \"{}\", key = \"{}\", anchors = \"{}\" }}\n",
        path("internal-client.pem"),
        path("internal-client.key"),
        path("anchors.pem")
    )
}

/// The service with the shipped maps, in this process.
pub(crate) async fn serving(pki: &CountryPki) -> String {
    let maps = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../translation/maps");
    let built = ncp_translation::load::build(&[maps]).expect("the shipped maps build");
    let store = Store::new(Snapshot::built(built).expect("a snapshot")).expect("passes its self-test");
    let files = TlsFiles {
        cert_chain: pki.path("internal-server.pem"),
        key: pki.path("internal-server.key"),
        anchors: pki.path("anchors.pem"),
        crls: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let incoming = ncp_tls::incoming(listener, files.mutual_acceptor(b"\x02h2").expect("tls"));
    let service = Service::new(store, Counters::default(), Cache::none()).server();
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    section(pki, port)
}

/// A service that takes connections and never says a word.
pub(crate) async fn silent(pki: &CountryPki) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    section(pki, port)
}

/// A service that is not there.
pub(crate) async fn gone(pki: &CountryPki) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    section(pki, listener.local_addr().expect("an address").port())
}
