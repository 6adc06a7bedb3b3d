//! Delivery to foreign repositories: Debian's rsyslog as receiver and as sender, a receiver that cuts, stalls and refuses.

#![allow(clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Pki;
use ncp_audit::server::Engine;
use ncp_audit::*;

fn options(dir: &Path) -> SpoolOptions {
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ehdsi: true, ..Site::default() };
    let limits = SpoolLimits { segment: 1 << 20, reserve: 0, ..SpoolLimits::default() };
    SpoolOptions { limits, ..SpoolOptions::new(dir.join("spool"), common::key_file(dir), site) }
}

fn target(pki: &Pki, port: u16, dialect: Dialect) -> SyslogTarget {
    SyslogTarget {
        name: "arr".into(),
        address: ("127.0.0.1".into(), port),
        server_name: "localhost".into(),
        connector: pki.leaf("ncp-no").connector(b"").expect("connector"),
        dialect,
        bom: dialect == Dialect::Ehdsi,
        structured_data: false,
        hostname: "ncp-no".into(),
        source: "ncp-no".into(),
        ends_without_notify: false,
        max_record_bytes: SYSLOG_BYTES,
    }
}

async fn write(sink: &AuditSink, from: usize, to: usize) {
    for n in from..to {
        let peer = PeerFacts { address: "192.0.2.1".into(), ..PeerFacts::default() };
        sink.event(&Event::SecurityAlert { rule: format!("Søren rule {n}."), peer }, &format!("x{n}"))
            .await
            .expect("stored");
    }
}

/// Numbers of the rules that stand in a text.
fn rules(text: &str) -> BTreeSet<usize> {
    let after = text.split("rule ").skip(1);
    after.filter_map(|rest| rest.split('.').next()?.parse().ok()).collect()
}

/// rsyslogd in the foreground with a configuration of its own; killed when dropped.
struct Rsyslog(Child, PathBuf);

impl Rsyslog {
    fn start(dir: &Path, configuration: &str) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let file = dir.join("rsyslog.conf");
        std::fs::write(&file, configuration).expect("writes");
        let program = ["/usr/sbin/rsyslogd", "/sbin/rsyslogd"].into_iter().find(|p| Path::new(p).exists());
        let child = Command::new(program.expect("rsyslog is installed (tests/run.sh does)"))
            .args(["-n", "-f"])
            .arg(&file)
            .arg("-i")
            .arg(dir.join("pid"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        Self(child, dir.to_owned())
    }

    fn receiver(dir: &Path, pki: &Pki, port: u16, driver: &str) -> Self {
        let server = pki.leaf("arr");
        let (ca, cert, key) = (server.anchors.display(), server.cert_chain.display(), server.key.display());
        let out = dir.join("out").display().to_string();
        Self::start(
            dir,
            &format!(
                r#"global(maxMessageSize="64k" workDirectory="{work}" defaultNetstreamDriver="{driver}"
  defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}"
  parser.escapeControlCharactersOnReceive="off")
main_queue(queue.type="Direct")
module(load="imtcp" StreamDriver.Name="{driver}" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/name" PermittedPeer=["ncp-no"])
template(name="raw" type="string" string="%rawmsg%\n")
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="arr")
ruleset(name="arr") {{ action(type="omfile" file="{out}" template="raw" sync="on" flushOnTXEnd="on") }}
"#,
                work = dir.display()
            ),
        )
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.1.join("out")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// rsyslog is killed again and again while it receives: everything that was accepted arrives, some of it twice.
/// Its main queue is direct: with one in memory it closes a connection in order before it has written what came by it,
/// and killed then it loses that, which no sender can notice.
async fn rsyslog_receives(driver: &str, dialect: Dialect) {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let port = common::free().port();
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let target = SyslogTarget { ends_without_notify: driver == "gtls", ..target(&pki, port, dialect) };
    let sending = tokio::spawn(syslog(sink.clone(), target));
    let mut accepted = 0;
    for round in 0..4 {
        // Round 0: the receiver is down while records queue.
        let receiver = (round > 0).then(|| Rsyslog::receiver(&dir.path().join("arr"), &pki, port, driver));
        write(&sink, accepted, accepted + 150).await;
        accepted += 150;
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(receiver);
    }
    let receiver = Rsyslog::receiver(&dir.path().join("arr"), &pki, port, driver);
    let all: BTreeSet<usize> = (0..accepted).collect();
    until("every record arrives", 90, || rules(&receiver.text()) == all).await;
    let text = receiver.text();
    assert!(
        text.lines().all(|l| l.starts_with("<85>1 ") && l.contains(" ncp-gateway ") && l.contains(" IHE+RFC-3881 - "))
    );
    assert_eq!(text.contains('\u{feff}'), dialect == Dialect::Ehdsi, "the byte order mark is as configured");
    let copies = text.matches("rule ").count();
    let recorded = rules(&text).len();
    let lost = accepted - recorded;
    println!(
        "\nfault \"rsyslog ({driver}) killed while it receives\" accepted {accepted} recorded {recorded} lost {lost} copies {copies}"
    );
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_with_openssl_receives() {
    rsyslog_receives("ossl", Dialect::Ihe).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_with_gnutls_receives() {
    rsyslog_receives("gtls", Dialect::Ehdsi).await;
}

/// rsyslog relays what it got elsewhere to our repository.
#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_sends_to_our_repository() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let config = common::config(dir.path(), &pki, Engine::Files);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let for_serve = config.clone();
    let serving = tokio::spawn(async move {
        ncp_audit::server::serve(&for_serve, async { drop(stopped.await) }).await.expect("serves");
    });
    let relay = dir.path().join("relay");
    std::fs::create_dir_all(&relay).expect("a folder");
    let input = relay.join("in");
    std::fs::write(&input, "").expect("writes");
    let client = pki.leaf("hospital-relay");
    let port = config.syslog.expect("an address").port();
    let sender = Rsyslog::start(
        &relay,
        &format!(
            r#"global(maxMessageSize="64k" workDirectory="{work}" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}")
module(load="imfile" mode="polling" pollingInterval="1")
input(type="imfile" File="{input}" Tag="audit" ruleset="out" reopenOnTruncate="on")
template(name="atna" type="string" string="<85>1 %timegenerated:::date-rfc3339% relay app - IHE+RFC-3881 - %msg%\n")
ruleset(name="out") {{ action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" TCP_Framing="octet-counted" template="atna"
  StreamDriver="ossl" StreamDriverMode="1" StreamDriverAuthMode="x509/name" StreamDriverPermittedPeers="ncp-audit" action.resumeRetryCount="-1") }}
"#,
            work = relay.display(),
            ca = client.anchors.display(),
            cert = client.cert_chain.display(),
            key = client.key.display(),
            input = input.display()
        ),
    );
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/audit/ehdsi/rad-75-responder.xml");
    let message = std::fs::read_to_string(example).expect("an example").replace('\n', "");
    let lines: String =
        (0..200).map(|n| format!("{}\n", message.replace("2.999.5\"", &format!("2.999.5.{n}\"")))).collect();
    std::fs::write(&input, lines).expect("writes");
    let connector = pki.leaf("tool").connector(b"\x02h2").expect("connector");
    let endpoint = format!("https://127.0.0.1:{}", config.query.port());
    let channel = ncp_tls::channel(&endpoint, "localhost", connector).expect("channel");
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let state = gaps(channel.clone()).await;
        if let Ok(state) = &state
            && state.sources.iter().any(|s| s.source == "hospital-relay" && s.records == 200)
        {
            assert!(state.rejected.is_empty(), "{:?}", state.rejected);
            break;
        }
        assert!(Instant::now() < end, "200 records: {state:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(sender);
    stop.send(()).expect("stops");
    serving.await.expect("ends");
}

/// A FHIR repository that answers each POST as `answer` says; it keeps what it took.
async fn fhir_receiver(
    pki: &Pki,
    answer: impl Fn(usize, &str) -> u16 + Send + Sync + 'static,
) -> (u16, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    let server = pki.leaf("arr");
    let material = ncp_tls::Material::load(&server.cert_chain, &server.key).expect("material");
    let acceptor =
        material.acceptor(ncp_tls::ClientAuth::Required, &[server.anchors], b"\x08http/1.1").expect("acceptor");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let taken: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let kept = taken.clone();
    tokio::spawn(async move {
        let mut asked = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(10)).await else { continue };
            let mut stream = BufReader::new(stream);
            loop {
                let (mut line, mut length) = (String::new(), 0);
                while stream.read_line(&mut line).await.is_ok_and(|n| n > 2) {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    line.clear();
                }
                if length == 0 {
                    break;
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.expect("a body");
                let body = String::from_utf8(body).expect("text");
                let status = answer(asked, &body);
                asked += 1;
                if status == 201 {
                    kept.lock().expect("no panic").push(body);
                }
                let head = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await.expect("writes");
                stream.flush().await.expect("writes");
            }
        }
    });
    (port, taken)
}

/// The FHIR feed: order kept, 500 and 429 tried again, what will never be taken becomes a dead letter and holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn fhir_feed_sends_again_and_keeps_dead_letters() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let (port, taken) = fhir_receiver(&pki, |asked, body| match asked {
        3 => 500,
        6 => 429,
        _ if body.contains("rule 10.") => 422,
        _ => 201,
    })
    .await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    write(&sink, 0, 40).await;
    sink.event(&Event::Heartbeat, "").await.expect("stored");
    let connector = pki.leaf("ncp-no").connector(b"\x08http/1.1").expect("connector");
    let target = FhirTarget {
        name: "arr".into(),
        base: format!("https://localhost:{port}/fhir"),
        client: ncp_tls::http_client(connector, None, Duration::from_secs(10)),
        max_record_bytes: FEED_BYTES,
    };
    let sending = tokio::spawn(fhir_feed(sink.clone(), target));
    until("everything is delivered", 30, || {
        sink.deliveries().iter().any(|d| d.receiver == "fhir-arr" && d.waiting == 0)
    })
    .await;
    sending.abort();
    let taken = taken.lock().expect("no panic").clone();
    let numbers: Vec<usize> = taken.iter().flat_map(|body| rules(body)).collect();
    let expected: Vec<usize> = (0..40).filter(|n| *n != 10).collect();
    assert_eq!(numbers, expected, "each once, in order, without the dead letter");
    assert!(taken.iter().all(|body| body.contains("\"AuditEvent\"") && !body.contains("HEARTBEAT")));
    let letters = std::fs::read(dir.path().join("spool/dead-letters-fhir-arr")).expect("dead letters");
    assert!(letters.len() > 500 && !letters.windows(4).any(|w| w == b"rule"), "one, encrypted");
}
