//! Peers of four kinds call one gateway again and again over kept connections, with pauses around the time after which the
//! gateway closes them: the HTTP client of OpenJDK, `openssl s_client`, requests (Python) and IPF. `tests/run.sh --interop`
//! makes twenty calls of each, `tests/peers.sh` as many as it is told.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ncp_ihe::{PatientId, actions};
use ncp_tests::neighbour::{Neighbour, XCA};
use ncp_tests::pki::Error;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::x509::X509;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::ipf::{ASKING, HOME, PATIENT, World, classpath, java, lines, properties, security};
use crate::node::{asking_peer, sources};

/// For how long the gateway keeps a connection here. It tells clients 2 s.
const KEPT: Duration = Duration::from_secs(3);
const MILLI: Duration = Duration::from_millis(1);

/// Calls and failures.
type Counted = (usize, usize);

/// What all of them need.
struct Peers {
    world: World,
    port: u16,
    pauses: Vec<Duration>,
}

impl Peers {
    async fn start(calls: usize) -> Result<(Self, crate::node::Node), Error> {
        let world = World::new()?;
        let more = format!(
            "[limits]\nkept = \"{}s\"\nhandshake = \"2s\"\n[rate]\npatient = 1000000\nprofessional = 1000000\n",
            KEPT.as_secs()
        );
        let peers = asking_peer(&world.asking, ASKING, "body");
        let node = world.gateway_with("kept", peers, more).await?;
        // Four calls at once, then a pause: below and above what the gateway says, and on either side of its limit.
        let around = [KEPT / 2, KEPT * 2 / 3, KEPT - MILLI * 200, KEPT + MILLI * 100, KEPT + MILLI * 2500];
        let pause = |call: usize| if call % 4 == 3 { around[call / 4 % around.len()] } else { Duration::ZERO };
        let peers = Self { world, port: node.port, pauses: (0..calls).map(pause).collect() };
        let neighbour = node.asked_by(&peers.world.asking, ASKING, &peers.world.own, None)?;
        let patient = PatientId::parse_cx(PATIENT)?;
        let assertions = neighbour.assertions(&patient).await?;
        for kind in ["java", "python", "s_client"] {
            std::fs::create_dir_all(peers.path(kind))?;
            for call in 0..calls {
                let body = Neighbour::find_documents(&patient).to_element();
                let message = neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body);
                std::fs::write(peers.path(kind).join(format!("{call}.xml")), message)?;
            }
        }
        security(&peers.path("security.xml"), &[&assertions[0], &assertions[1]])?;
        std::fs::write(peers.path("pauses"), peers.listed())?;
        Ok((peers, node))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.world.dir.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn listed(&self) -> String {
        self.pauses.iter().map(|pause| pause.as_millis().to_string()).collect::<Vec<_>>().join(",")
    }

    fn url(&self) -> String {
        format!("https://localhost:{}{XCA}", self.port)
    }

    /// Certificate, key and anchors of the calling country.
    fn tls(&self) -> [String; 3] {
        let shown = |path: std::path::PathBuf| path.display().to_string();
        let (own, asking) = (&self.world.own, &self.world.asking);
        [shown(asking.path("tls-client.pem")), shown(asking.path("tls-client.key")), shown(own.path("anchors.pem"))]
    }

    async fn openjdk(&self) -> Result<Counted, Error> {
        let [certificate, key, anchors] = self.tls();
        let chain = X509::stack_from_pem(&std::fs::read(certificate)?)?;
        let key = PKey::private_key_from_pem(&std::fs::read(key)?)?;
        let store = Pkcs12::builder().name("own").pkey(&key).cert(&chain[0]).build2("changeit")?;
        std::fs::write(self.path("own.p12"), store.to_der()?)?;
        let program = sources().join("tests/interop/jsse/Peer.java");
        let mut command = Command::new("java");
        command.arg("-Xmx256m").arg(program).args(["call", &self.shown("own.p12"), &anchors]);
        counted(command.args([self.url(), self.shown("java"), self.shown("pauses")])).await
    }

    async fn python(&self) -> Result<Counted, Error> {
        let mut command = Command::new(std::env::var("NCP_PYTHON").unwrap_or_else(|_| "python3".into()));
        command.arg(sources().join("tests/interop/python/calls.py")).arg(self.url()).args(self.tls());
        counted(command.args([self.shown("python"), self.shown("pauses")])).await
    }

    async fn ipf(&self, classpath: &str) -> Result<Counted, Error> {
        let [certificate, key, anchors] = self.tls();
        let (id, authority) = PATIENT.split_once("^^^&").ok_or("a patient")?;
        let settings = [
            ("tls.certificate", certificate),
            ("tls.key", key),
            ("tls.anchors", anchors),
            ("security", self.shown("security.xml")),
            ("again.url", self.url()),
            ("home", format!("urn:oid:{HOME}")),
            ("patient.id", id.to_owned()),
            ("patient.authority", authority.trim_end_matches("&ISO").to_owned()),
            ("again", self.listed()),
        ];
        let settings = properties(self.path("again.properties"), &settings)?;
        let out = java(classpath, "client", &settings).output().await?;
        let legs = lines(&String::from_utf8_lossy(&out.stdout));
        let [(_, _, facts)] = &legs[..] else {
            return Err(format!("IPF: {}", String::from_utf8_lossy(&out.stderr)).into());
        };
        told("ipf", facts)
    }

    /// Each connection of `s_client` offers the session that the one before left. One that the gateway has closed is made anew
    /// before a call, as a pool does that looks first.
    async fn s_client(&self) -> Result<Counted, Error> {
        let (mut connected, mut failed): (Option<Child>, _) = (None, 0);
        for (call, pause) in self.pauses.iter().enumerate() {
            tokio::time::sleep(*pause).await;
            if connected.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                connected = None;
            }
            let mut child = match connected.take() {
                Some(child) => child,
                None => self.connect()?,
            };
            let message = std::fs::read(self.path("s_client").join(format!("{call}.xml")))?;
            match tokio::time::timeout(Duration::from_secs(60), exchange(&mut child, &message)).await {
                Ok(Ok(())) => connected = Some(child),
                other => {
                    failed += 1;
                    println!("s_client: call {call} after {} ms: {other:?}", pause.as_millis());
                }
            }
        }
        Ok((self.pauses.len(), failed))
    }

    fn connect(&self) -> Result<Child, Error> {
        let ([certificate, key, anchors], session) = (self.tls(), self.shown("session"));
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-quiet",
            "-connect",
            &format!("localhost:{}", self.port),
            "-servername",
            "localhost",
        ]);
        command.args(["-CAfile", &anchors, "-verify_return_error", "-cert", &certificate, "-key", &key]);
        command.args(["-sess_out", &session]);
        if Path::new(&session).exists() {
            command.args(["-sess_in", &session]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        Ok(command.spawn()?)
    }
}

/// One request and its whole answer, in chunks or of a length.
async fn exchange(child: &mut Child, message: &[u8]) -> Result<(), Error> {
    let (input, output) = child.stdin.as_mut().zip(child.stdout.as_mut()).ok_or("no pipes")?;
    let head = format!(
        "POST {XCA} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/soap+xml; charset=UTF-8\r\nContent-Length: {}\r\n\r\n",
        message.len()
    );
    input.write_all(&[head.as_bytes(), message].concat()).await?;
    input.flush().await?;
    let mut answer = Vec::new();
    loop {
        if output.read_buf(&mut answer).await? == 0 {
            return Err(format!("ended after {} bytes", answer.len()).into());
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_ascii_lowercase()
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.split_once("\r\n").map_or(rest, |(length, _)| length).parse::<usize>().ok());
        if length.map_or(body.ends_with("0\r\n\r\n"), |length| body.len() >= length) {
            let served = head.starts_with("HTTP/1.1 200") && body.contains("ResponseStatusType:Success");
            return if served { Ok(()) } else { Err(head.lines().next().unwrap_or_default().into()) };
        }
    }
}

async fn counted(command: &mut Command) -> Result<Counted, Error> {
    let out = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    told(&text, text.lines().last().unwrap_or_default()).map_err(|error| {
        let said = String::from_utf8_lossy(&out.stderr);
        format!("{error}: {said}").into()
    })
}

/// The counts of a line `calls N failed N`, below what else was said.
fn told(said: &str, line: &str) -> Result<Counted, Error> {
    let mut words = line.split_whitespace();
    let (Some("calls"), Some(calls), Some("failed"), Some(failed)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(format!("no counts in {said:?}").into());
    };
    let counted = (calls.parse()?, failed.parse()?);
    if counted.1 > 0 {
        println!("{said}\n{line}");
    }
    Ok(counted)
}

/// WI-04 and SK-10: nobody's request meets a closed connection, and nobody's session is one that is not taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sk_10_peers_of_every_kind_are_served_again_and_again() {
    let Some(classpath) = classpath() else { return };
    let calls = std::env::var("NCP_PEERS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(20);
    let (peers, _node) = Peers::start(calls).await.expect("a gateway");
    let (openjdk, s_client, python, ipf) =
        tokio::join!(peers.openjdk(), peers.s_client(), peers.python(), peers.ipf(&classpath));
    let mut wrong = Vec::new();
    for (kind, counted) in [("OpenJDK", openjdk), ("s_client", s_client), ("Python", python), ("IPF", ipf)] {
        match counted {
            Ok((made, failed)) => {
                println!("peers {kind}: {made} calls, {failed} failed");
                if (made, failed) != (calls, 0) {
                    wrong.push(kind);
                }
            }
            Err(error) => {
                println!("peers {kind}: {error}");
                wrong.push(kind);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
