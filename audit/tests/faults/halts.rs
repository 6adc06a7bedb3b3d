//! Processes that stand still, ways that are cut, folders that two processes want.

use rustix::process::Signal;

use crate::*;

/// SIGSTOP of the repository and of the sender, under load, then SIGCONT.
#[test]
fn stopped_processes_go_on() {
    let world = World::new();
    std::fs::write(world.path().join("paced"), "").expect("writes");
    let port = world.config.feed.port();
    let (server, sender) = (world.server(), world.sender(port, None));
    let pause = Duration::from_secs(if long() { 20 } else { 3 });
    let mut recovery = Recovery::default();
    world.more(100);
    for _ in 0..2 {
        server.signal(Signal::STOP);
        // Records that nobody takes hold up nobody who discloses.
        world.more(20);
        std::thread::sleep(pause);
        let acknowledged = world.acknowledged();
        server.signal(Signal::CONT);
        recovery.wait("the repository takes records again", 60, acknowledged);

        sender.signal(Signal::STOP);
        std::thread::sleep(pause);
        let goes_on = world.goes_on();
        sender.signal(Signal::CONT);
        recovery.wait("the sender goes on", 60, goes_on);
    }
    let index = world.index();
    world.finish("repository and sender stopped by SIGSTOP", sender, server, Kept::File(&index), &recovery);
    within(&recovery, Duration::from_secs(2));
}

/// SK-04: the way is cut again and again, each time after something was acknowledged.
#[test]
fn sk_04_a_way_that_is_cut_again_and_again() {
    let world = World::new();
    std::fs::write(world.path().join("paced"), "").expect("writes");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let relay = runtime.block_on(Relay::before(world.config.feed));
    let (server, sender) = (world.server(), world.sender(relay.port, None));
    world.more(50);
    let cuts = || relay.cuts.load(std::sync::atomic::Ordering::Relaxed);
    let mut recovery = Recovery::default();
    relay.set(Way::CutAfter(40_000));
    for _ in 0..if long() { 60 } else { 12 } {
        let before = cuts();
        until("the way is cut", 60, || cuts() > before);
        recovery.wait("records are acknowledged again", 120, world.acknowledged());
    }
    relay.set(Way::Passes);
    let index = world.index();
    world.finish("way to the repository cut again and again", sender, server, Kept::File(&index), &recovery);
    within(&recovery, Duration::from_secs(2));
}

/// A second process on the spool, or on the second folder of another spool, is refused with the reason, and the first goes
/// on.
#[test]
fn sk_02_a_second_process_is_refused_and_the_first_goes_on() {
    let world = World::new();
    std::fs::write(world.path().join("small-disk"), "").expect("writes");
    let (server, sender) = (world.server(), world.sender(world.config.feed.port(), None));
    world.more(50);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let same = options(world.path());
    let elsewhere = SpoolOptions { dir: world.path().join("another"), ..options(world.path()) };
    for (second, folder) in [(same, "spool"), (elsewhere, "second")] {
        let refused = runtime.block_on(AuditSink::open(&second)).err().expect("is refused").to_string();
        assert!(refused.contains(&format!("{folder} is in use by another process")), "{refused}");
        world.more(50);
    }
    let index = world.index();
    let none = Recovery::default();
    world.finish("two processes on one spool or second folder", sender, server, Kept::File(&index), &none);
}

/// A second `serve`, and `migrate` and `reindex` beside a running one, are refused with the reason; the first goes on, and
/// what it has is found where it says.
#[test]
fn sk_02_a_second_repository_is_refused_and_the_first_goes_on() {
    let world = World::new();
    let (server, sender) = (world.server(), world.sender(world.config.feed.port(), None));
    world.more(50);
    let run = |command: &str, file: &Path| {
        let program = Path::new(env!("CARGO_BIN_EXE_ncp-audit"));
        std::process::Command::new(program).args([command, "--config"]).arg(file).output().expect("runs")
    };
    for command in ["serve", "migrate", "reindex"] {
        let refused = run(command, &world.file);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("data is in use by another process"), "{command}: {said}");
        world.more(50);
    }
    // A folder of its own, and the addresses of the first: it cannot serve, and leaves no record that it began.
    let elsewhere = Config { data_dir: world.path().join("another"), ..world.config.clone() };
    assert!(!run("serve", &write(&elsewhere, &world.path().join("another.toml"))).status.success());
    let log = elsewhere.data_dir.join("records-000000000001.log");
    assert_eq!(std::fs::metadata(log).expect("a log").len(), 0, "nothing is recorded of a start that failed");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let tls = ncp_tls::TlsFiles {
            cert_chain: world.path().join("pki/tool.pem"),
            key: world.path().join("pki/tool.key"),
            anchors: world.path().join("pki/ca.pem"),
            crls: None,
        };
        let connector = tls.connector(b"\x02h2").expect("connector");
        let address = format!("https://{}", world.config.query);
        let channel = ncp_tls::channel(&address, "localhost", connector).expect("channel");
        let all = async || search(channel.clone(), Filter { limit: 100_000, ..common::search() }).await;
        // What was accepted is delivered within a moment.
        while all().await.expect("every record is read").len() <= 150 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let index = world.index();
    let none = Recovery::default();
    world.finish("two repositories on one folder", sender, server, Kept::File(&index), &none);
}
