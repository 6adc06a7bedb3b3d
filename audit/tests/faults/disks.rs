//! Small disks that fill up and are freed.

use crate::*;

/// The spool's disk is a small one: reserve, second folder, then nothing is disclosed; killed while full; freed again.
#[test]
fn spool_disk_full_and_freed() {
    let world = World::new();
    let (spool, second) = (world.path().join("spool"), world.path().join("second"));
    std::fs::write(world.path().join("small-disk"), "").expect("writes");
    let disks = Namespace::with(&[(&spool, 4096), (&second, 1024)]);
    let filler = spool.join("filler");
    disks.fill(&filler, 2048);
    // Nobody listens yet: the spool fills.
    let port = world.config.feed.port();
    let sender = world.sender(port, Some(&disks));
    let refused = |at_least: u64| {
        let said = world.said.lock().expect("no panic");
        said.refused >= at_least && said.levels.last().is_some_and(|l| l == "Full")
    };
    until("the disks are full", 60, || refused(20));
    let levels = world.said.lock().expect("no panic").levels.clone();
    // Reserve and second folder may be used up between two looks at the level; what lies there tells it all the same.
    assert!(!disks.path(&spool.join("reserve")).exists(), "the reserve was not used: {levels:?}");
    let in_second = std::fs::read_dir(disks.path(&second)).expect("the second folder").flatten();
    let written = in_second.filter_map(|file| file.metadata().ok()).any(|file| file.len() > 0);
    assert!(written, "the second folder was not used: {levels:?}");
    assert!(levels.iter().any(|l| l == "Full"), "{levels:?}");
    let disclosed = world.said.lock().expect("no panic").disclosed.len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.said.lock().expect("no panic").disclosed.len(), disclosed, "disclosed without a record");
    // Killed while nothing is taken, and started again on disks that are still full.
    sender.kill();
    std::fs::remove_file(disks.path(&filler)).expect("frees");
    let sender = world.sender(port, Some(&disks));
    let server = world.server();
    world.more(200);
    let index = world.index();
    let kept = Kept::File(&index);
    let count = world.finish("spool disk full and freed", sender, server, kept, &Recovery::default());
    assert!(count.disclosed >= disclosed);
}

/// SK-01: the shipped bounds on a small disk, and a healthy repository: what is acknowledged is kept as long as there is
/// room, and stops neither disclosure nor a start, also where somebody else fills the disk.
#[test]
fn sk_01_acknowledged_records_on_a_small_disk_stop_nothing() {
    let world = World::new();
    let spool = world.path().join("spool");
    std::fs::write(world.path().join("shipped"), "").expect("writes");
    std::fs::write(world.path().join("steady"), "").expect("writes");
    let kib = if long() { 24 << 10 } else { 6 << 10 };
    let disk = Namespace::with(&[(&spool, kib)]);
    let (server, port) = (world.server(), world.config.feed.port());
    let mut sender = world.sender(port, Some(&disk));
    let held = || -> u64 {
        let files = std::fs::read_dir(disk.path(&spool)).expect("the spool").flatten();
        let segments = files.filter(|file| file.file_name().to_string_lossy().starts_with("segment-"));
        segments.map(|file| file.metadata().map_or(0, |m| m.len())).sum()
    };
    world.more(20);
    let first = || disk.path(&spool.join("segment-000000000001.spool")).exists();
    until("the first segment is kept until space is short", 120, || !first());
    assert!(held() > u64::from(kib) << 8, "a quarter of the disk at least holds what is acknowledged");
    for round in 0..2 {
        world.more(if long() { 6000 } else { 1000 });
        sender.kill();
        if round == 1 {
            disk.fill(&spool.join("filler"), 0);
        }
        sender = world.sender(port, Some(&disk));
    }
    world.more(200);
    let index = world.index();
    let kept = Kept::File(&index);
    world.finish("acknowledged records on a small disk", sender, server, kept, &Recovery::default());
    let said = world.said.lock().expect("no panic");
    assert_eq!(said.refused, 0, "{:?}", said.levels);
    assert!(said.levels.iter().all(|level| level == "Free" || level == "Warning"), "{:?}", said.levels);
}

/// SK-05: a small disk is filled by what nobody acknowledged, five times over: refused, and at work again within a second
/// once there is room. Filled by what was acknowledged it goes on. The log has a line a second.
#[test]
fn sk_05_a_disk_that_is_full_and_freed_again_and_again() {
    let world = World::new();
    let spool = world.path().join("spool");
    let steady = world.path().join("steady");
    for flag in [&world.path().join("shipped"), &steady] {
        std::fs::write(flag, "").expect("writes");
    }
    let (rounds, kib) = if long() { (5, 24 << 10) } else { (2, 6 << 10) };
    let disk = Namespace::with(&[(&spool, kib)]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let relay = runtime.block_on(Relay::before(world.config.feed));
    let (server, sender) = (world.server(), world.sender(relay.port, Some(&disk)));
    world.more(20);
    let filler = spool.join("filler");
    let (mut recovery, mut full) = (Recovery::default(), Duration::ZERO);
    let refused = || world.said.lock().expect("no panic").refused;
    for _ in 0..rounds {
        // Three eighths of the disk go to somebody else; what is acknowledged makes room for the rest.
        let before = refused();
        until("what is acknowledged gives way", 120, || disk.grow(&filler, u64::from(kib) * 3 / 8));
        assert_eq!(refused(), before, "a disk that acknowledged records filled refuses nothing");
        relay.set(Way::Stalls);
        std::fs::remove_file(&steady).expect("removes");
        until("the disk is full", 120, || {
            let is_full = world.said.lock().expect("no panic").levels.last().is_some_and(|level| level == "Full");
            is_full && refused() > before + 20
        });
        let began = Instant::now();
        let disclosed = || world.said.lock().expect("no panic").disclosed.len();
        let so_far = disclosed();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(disclosed(), so_far, "disclosed without a record");
        full += began.elapsed();
        std::fs::remove_file(disk.path(&filler)).expect("frees");
        recovery.wait("records are taken again", 30, world.goes_on());
        std::fs::write(&steady, "").expect("writes");
        relay.set(Way::Passes);
        let acknowledged = || world.said.lock().expect("no panic").waiting < 500;
        until("everything is delivered", 120, acknowledged);
    }
    let index = world.index();
    let kept = Kept::File(&index);
    world.finish("small disk full of unacknowledged records and freed", sender, server, kept, &recovery);
    within(&recovery, Duration::from_secs(1));
    let log = std::fs::read_to_string(world.path().join("sender.log")).expect("a log");
    let lines = log.lines().filter(|line| line.contains("not stored")).count();
    let most = full.as_secs() as usize + 3 * rounds;
    assert!((rounds..=most).contains(&lines), "{lines} lines about records that were not stored, {most} at most");
    assert!(log.lines().count() < 20 * rounds + most, "{} lines:\n{log}", log.lines().count());
}

/// The repository's disk is a small one: nothing is acknowledged while it is full; freed, everything comes again.
#[test]
fn repository_disk_full_and_freed() {
    let world = World::new();
    let data = world.config.data_dir.clone();
    // Room for all that comes between the rounds, so that only the filler fills it.
    let (rounds, kib) = if long() { (10, 1 << 20) } else { (2, 1 << 16) };
    let disks = Namespace::with(&[(&data, kib)]);
    let server = Server::start(&world.file, Some(&disks));
    let sender = world.sender(world.config.feed.port(), None);
    world.more(50);
    for _ in 0..rounds {
        let filler = data.join("filler");
        disks.fill(&filler, 0);
        world.more(150);
        std::thread::sleep(Duration::from_millis(300));
        std::fs::remove_file(disks.path(&filler)).expect("frees");
        world.more(50);
    }
    let log = std::fs::read_to_string(world.file.with_extension("log")).expect("a log");
    assert!(log.contains("repository failed"), "the disk was never full");
    let index = disks.path(&world.index());
    world.finish("repository disk full and freed", sender, server, Kept::File(&index), &Recovery::default());
}
