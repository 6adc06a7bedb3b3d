//! Every connection of a client with a certificate is a full handshake (WI-04): the intermediates are there each time, and a
//! reload or a revocation is noticed by the next connection.
#![allow(clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::pkcs12::Pkcs12;
use openssl::ssl::{
    Ssl, SslAcceptor, SslConnector, SslFiletype, SslMethod, SslSession, SslSessionCacheMode, SslVersion,
};
use openssl::stack::Stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Kind, Pair};
use crate::{ClientAuth, Material, TlsFiles, ffi};

const LIMIT: Duration = Duration::from_secs(20);

struct World(tempfile::TempDir);

impl World {
    /// The server has the root alone; clients send leaf and intermediate.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Pair::new("Root", Kind::Authority, None);
        let intermediate = Pair::new("Intermediate", Kind::Authority, Some(&root));
        let world = Self(folder);
        world.write("anchors.pem", &root.pem());
        for (name, kind) in [("server", Kind::Server), ("client", Kind::Client)] {
            let leaf = Pair::new(name, kind, Some(&intermediate));
            world.write(&format!("{name}.pem"), &[leaf.pem(), intermediate.pem()].concat());
            world.write(&format!("{name}.key"), &leaf.key.private_key_to_pem_pkcs8().expect("PEM"));
            let mut chain = Stack::new().expect("a stack");
            chain.push(intermediate.certificate.clone()).expect("a stack");
            let mut store = Pkcs12::builder();
            store.name(name).pkey(&leaf.key).cert(&leaf.certificate).ca(chain);
            let store = store.build2("changeit").expect("PKCS #12");
            world.write(&format!("{name}.p12"), &store.to_der().expect("DER"));
        }
        world
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("writes");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn files(&self) -> TlsFiles {
        let (cert_chain, key) = (self.path("server.pem"), self.path("server.key"));
        TlsFiles { cert_chain, key, anchors: self.path("anchors.pem"), crls: None }
    }

    /// The listeners of peers and consumers, and that of our own programs.
    fn acceptors(&self) -> [SslAcceptor; 3] {
        let material = Material::load(&self.path("server.pem"), &self.path("server.key")).expect("material");
        let with =
            |client| material.acceptor(client, &[self.path("anchors.pem")], b"\x08http/1.1").expect("an acceptor");
        let internal = self.files().mutual_acceptor(b"\x08http/1.1").expect("an acceptor");
        [with(ClientAuth::Required), with(ClientAuth::Optional), internal]
    }
}

/// What the server saw of one connection: whether it was resumed, and how many certificates came.
type Seen = Arc<Mutex<Vec<(bool, usize)>>>;

/// Answers one byte with one byte.
async fn serve(acceptor: SslAcceptor) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let seen = Seen::default();
    let noted = seen.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, noted) = (acceptor.clone(), noted.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = crate::accept(&acceptor, tcp, LIMIT).await else { return };
                let sent = stream.ssl().peer_cert_chain().map_or(0, |chain| chain.len());
                noted.lock().expect("not poisoned").push((stream.ssl().session_reused(), sent));
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() {
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.flush().await;
                }
            });
        }
    });
    (port, seen)
}

/// Connects so often with one context that offers every session it was given.
async fn connect(world: &World, port: u16, version: SslVersion, times: usize) {
    let kept: Arc<Mutex<Option<SslSession>>> = Arc::default();
    let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("a connector");
    builder.set_ca_file(world.path("anchors.pem")).expect("anchors");
    builder.set_certificate_chain_file(world.path("client.pem")).expect("a chain");
    builder.set_private_key_file(world.path("client.key"), SslFiletype::PEM).expect("a key");
    builder.set_min_proto_version(Some(version)).expect("a version");
    builder.set_max_proto_version(Some(version)).expect("a version");
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
    let session = kept.clone();
    builder.set_new_session_callback(move |_, new| *session.lock().expect("not poisoned") = Some(new));
    let connector = builder.build();
    for n in 0..times {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        let mut ssl: Ssl = connector.configure().expect("a session").into_ssl("localhost").expect("a session");
        if let Some(session) = kept.lock().expect("not poisoned").as_ref() {
            ffi::offer(&mut ssl, session).expect("a session");
        }
        let mut stream = tokio_openssl::SslStream::new(ssl, tcp).expect("a stream");
        Pin::new(&mut stream).connect().await.unwrap_or_else(|e| panic!("{version:?}, connection {n}: {e}"));
        stream.write_all(b"?").await.expect("writes");
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap_or_else(|e| panic!("{version:?}, connection {n}: {e}"));
        stream.shutdown().await.expect("ends");
    }
}

#[tokio::test]
async fn wi_04_who_presents_a_certificate_gets_a_full_handshake_each_time() {
    let world = World::new();
    for acceptor in world.acceptors() {
        let (port, seen) = serve(acceptor).await;
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            connect(&world, port, version, 4).await;
        }
        let seen = seen.lock().expect("not poisoned").clone();
        assert_eq!(seen.len(), 8);
        assert!(seen.iter().all(|(reused, sent)| !reused && *sent == 1), "{seen:?}");
    }
}

/// Where nothing is decided by a certificate, sessions are resumed as before.
#[tokio::test]
async fn wi_04_without_certificates_sessions_are_resumed() {
    let world = World::new();
    let material = Material::load(&world.path("server.pem"), &world.path("server.key")).expect("material");
    let (port, seen) = serve(material.acceptor(ClientAuth::None, &[], b"\x08http/1.1").expect("an acceptor")).await;
    connect(&world, port, SslVersion::TLS1_3, 3).await;
    assert!(seen.lock().expect("not poisoned").iter().skip(1).all(|(reused, _)| *reused));
}

fn at_hand(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("{program} is not installed: left out");
    }
    found
}

async fn output(program: &str, args: Vec<String>) -> String {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT * 6, command.output()).await.expect("ends").expect("runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// As `openssl s_client -reconnect`, which makes five more connections and offers the session of the first.
#[tokio::test(flavor = "multi_thread")]
async fn wi_04_s_client_reconnects() {
    if !at_hand("openssl") {
        return;
    }
    let world = World::new();
    for acceptor in world.acceptors() {
        let (port, seen) = serve(acceptor).await;
        let path = |name: &str| world.path(name).display().to_string();
        let connect = format!("localhost:{port}");
        let args = ["s_client", "-reconnect", "-tls1_2", "-connect", &connect, "-servername", "localhost", "-CAfile"];
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        args.extend([
            path("anchors.pem"),
            "-cert".into(),
            path("client.pem"),
            "-cert_chain".into(),
            path("client.pem"),
        ]);
        args.extend(["-key".into(), path("client.key"), "-verify_return_error".into()]);
        let said = output("openssl", args).await;
        assert!(!said.contains("Reused, TLS"), "{said}");
        let seen = seen.lock().expect("not poisoned").clone();
        assert_eq!(seen.len(), 6, "{said}");
        assert!(seen.iter().all(|(reused, sent)| !reused && *sent > 0), "{seen:?}");
    }
}

/// A Java client with the settings of the platform offers its sessions by itself.
#[tokio::test(flavor = "multi_thread")]
async fn wi_04_a_java_client_is_served_each_time() {
    if !at_hand("java") {
        return;
    }
    let world = World::new();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/jsse/Peer.java");
    let [acceptor, ..] = world.acceptors();
    let (port, seen) = serve(acceptor).await;
    let path = |name: &str| world.path(name).display().to_string();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let args = [program.display().to_string(), "connect".into(), path("client.p12"), path("anchors.pem")];
        let said = output("java", [args.as_slice(), &[port.to_string(), version.into(), "6".into()]].concat()).await;
        assert_eq!(said.matches('!').count(), 6, "{version}: {said}");
    }
    assert_eq!(seen.lock().expect("not poisoned").clone(), vec![(false, 1); 12]);
}
