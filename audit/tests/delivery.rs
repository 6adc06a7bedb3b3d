//! Delivery to foreign repositories: Debian's rsyslog as receiver and as sender, a receiver that cuts, stalls and refuses.

#![allow(clippy::print_stdout)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::Pki;
use common::receivers::{
    By, Posted, apart, count, delivered, delivery, fhir_repository, intent, rules, to_syslog, until,
};
use ncp_audit::server::Engine;
use ncp_audit::*;

fn options(dir: &Path) -> SpoolOptions {
    let site = Site { source: "ncp-no".into(), enterprise_site: "NO".into(), ehdsi: true, ..Site::default() };
    let limits = SpoolLimits { segment: 1 << 20, reserve: 0, ..SpoolLimits::default() };
    SpoolOptions { limits, ..SpoolOptions::new(dir.join("spool"), common::key_file(dir), site) }
}

async fn write(sink: &AuditSink, from: usize, to: usize) {
    for n in from..to {
        let peer = PeerFacts { address: "192.0.2.1".into(), ..PeerFacts::default() };
        sink.event(&Event::SecurityAlert { rule: format!("Søren rule {n}."), peer }, &format!("x{n}"))
            .await
            .expect("stored");
    }
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

    /// As audit/README.md says it: a message may be as long as our longest record.
    fn receiver(dir: &Path, pki: &Pki, port: u16, driver: &str) -> Self {
        Self::taking("maxMessageSize=\"576k\"", dir, pki, port, driver)
    }

    fn taking(most: &str, dir: &Path, pki: &Pki, port: u16, driver: &str) -> Self {
        let server = pki.leaf("arr");
        let (ca, cert, key) = (server.anchors.display(), server.cert_chain.display(), server.key.display());
        let out = dir.join("out").display().to_string();
        Self::start(
            dir,
            &format!(
                r#"global({most} workDirectory="{work}" defaultNetstreamDriver="{driver}"
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

/// rsyslog is killed again and again while it receives: everything that was accepted arrives, some of it twice.
/// Its main queue is direct: with one in memory it closes a connection in order before it has written what came by it,
/// and killed then it loses that, which no sender can notice.
async fn rsyslog_receives(driver: &str, dialect: Dialect) {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let port = common::free().port();
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    let (bom, ends_without_notify) = (dialect == Dialect::Ehdsi, driver == "gtls");
    let target = SyslogTarget { dialect, bom, ends_without_notify, ..to_syslog(&pki, port) };
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

/// The FHIR feed: order kept, 500 and 429 tried again, what will never be taken becomes a dead letter and holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn fhir_feed_sends_again_and_keeps_dead_letters() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let asked = AtomicUsize::new(0);
    let (port, posted) = fhir_repository(&pki, move |body| match asked.fetch_add(1, Ordering::Relaxed) {
        3 => (500, 0),
        6 => (429, 0),
        _ if body.contains("rule 10.") => (422, 0),
        _ => (201, 0),
    })
    .await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    write(&sink, 0, 40).await;
    sink.event(&Event::Heartbeat, "").await.expect("stored");
    let sending = By::Fhir.spawn(&sink, &pki, port, "/fhir");
    delivered(&sink).await;
    sending.abort();
    let taken = taken(&posted);
    let numbers: Vec<usize> = taken.iter().flat_map(|body| rules(body)).collect();
    let expected: Vec<usize> = (0..40).filter(|n| *n != 10).collect();
    assert_eq!(numbers, expected, "each once, in order, without the dead letter");
    assert!(taken.iter().all(|body| body.contains("\"AuditEvent\"") && !body.contains("HEARTBEAT")));
    let letters = std::fs::read(dir.path().join("spool/dead-letters-fhir-arr")).expect("dead letters");
    assert!(letters.len() > 500 && !letters.windows(4).any(|w| w == b"rule"), "one, encrypted");
}

fn taken(posted: &Mutex<Vec<Posted>>) -> Vec<String> {
    let posted = posted.lock().expect("no panic").clone();
    posted.into_iter().filter(|one| one.status == 201).map(|one| one.body).collect()
}

/// What a FHIR receiver will never take is set apart, counted, and kept for an operator; a status that says something of the
/// way or of the moment sets nothing apart, and the pause that the receiver asks for is kept.
#[tokio::test(flavor = "multi_thread")]
async fn co_17_what_a_fhir_receiver_refuses_is_counted_and_readable() {
    const REFUSED: [(usize, u16); 4] = [(2, 400), (5, 413), (8, 422), (11, 409)];
    const LATER: [(usize, u16); 6] = [(14, 401), (15, 403), (16, 404), (17, 500), (18, 429), (19, 503)];
    const PAUSE: u64 = 2;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::create(&dir.path().join("pki"));
    let failed = Mutex::new(BTreeSet::new());
    let (port, posted) = fhir_repository(&pki, move |body| {
        let status = |of: &[(usize, u16)]| of.iter().find(|(n, _)| rules(body).contains(n)).copied();
        if let Some((_, status)) = status(&REFUSED) {
            return (status, 0);
        }
        match status(&LATER).filter(|(n, _)| failed.lock().expect("no panic").insert(*n)) {
            Some((_, status @ (429 | 503))) => (status, PAUSE),
            Some((_, status)) => (status, 0),
            None => (201, 0),
        }
    })
    .await;
    let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
    write(&sink, 0, 25).await;
    let sending = By::Fhir.spawn(&sink, &pki, port, "/fhir");
    delivered(&sink).await;
    sending.abort();
    // The metric of the gateway counts this.
    assert_eq!(delivery(&sink).apart, REFUSED.len() as u64);
    let apart = apart(dir.path(), "fhir-arr");
    for (one, (number, status)) in apart.iter().zip(REFUSED) {
        assert_eq!((rules(&one.xml), one.seq), ([number].into(), number as u64 + 1));
        assert_eq!(one.reason, format!("receiver answers {status}"));
    }
    assert_eq!(apart.len(), REFUSED.len());
    let recorded: Vec<usize> = taken(&posted).iter().flat_map(|body| rules(body)).collect();
    let expected: Vec<usize> = (0..25).filter(|n| !REFUSED.iter().any(|(refused, _)| refused == n)).collect();
    assert_eq!(recorded, expected, "each once, in order");
    count("a FHIR repository answers 400, 409, 413, 422", 25, &recorded.into_iter().collect(), &apart);
    let posted = posted.lock().expect("no panic").clone();
    for (number, status) in LATER {
        let tries: Vec<&Posted> = posted.iter().filter(|one| rules(&one.body).contains(&number)).collect();
        let [first, second] = tries[..] else { panic!("rule {number}: {} tries", tries.len()) };
        assert_eq!((first.status, second.status), (status, 201));
        let pause = second.at - first.at;
        assert!(!matches!(status, 429 | 503) || pause >= Duration::from_secs(PAUSE), "{status}: {pause:?}");
    }
}

/// CO-21: with the size that audit/README.md names rsyslog takes our longest record whole; with its default it takes pieces.
#[tokio::test(flavor = "multi_thread")]
async fn co_21_the_longest_record_arrives_whole_where_there_is_room_for_it() {
    for (most, is_whole) in [("maxMessageSize=\"576k\"", true), ("", false)] {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::create(&dir.path().join("pki"));
        let port = common::free().port();
        let receiver = Rsyslog::taking(most, &dir.path().join("arr"), &pki, port, "ossl");
        let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
        let mut exchange = sink.intent(intent("long")).await.expect("stored");
        let bytes = vec![b'q'; ncp_audit::bounds::QUERY];
        let query = Some(QueryObject { id: "q".into(), bytes, class_codes: Vec::new() });
        exchange.decided(Decision { query, ..Decision::default() }).await.expect("stored");
        exchange.finish(Outcome::new(OutcomeIndicator::Success, "")).await.expect("stored");
        let records = ncp_audit::read_spool(&options(dir.path())).expect("is read").records;
        let (_, _, record) = records.last().expect("a record");
        assert!(record.len() > 256 << 10, "{} bytes", record.len());
        let sending = tokio::spawn(syslog(sink.clone(), to_syslog(&pki, port)));
        until("the end of it arrives", 60, || receiver.text().contains("</AuditMessage>")).await;
        assert_eq!(receiver.text().contains(record.as_str()), is_whole, "{most:?}");
        sending.abort();
    }
}
