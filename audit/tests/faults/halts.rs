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
