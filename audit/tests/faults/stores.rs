//! PostgreSQL as the repository's store: full, stopped, restarted, killed.

use crate::common::Cluster;
use crate::*;

/// What happens to the server.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Full,
    Stopped,
    Restarted,
    Killed,
}

/// Under load, on a small disk: what cannot be stored is not acknowledged and comes later; who discloses goes on.
#[test]
fn postgresql_full_stopped_restarted_and_killed() {
    let cluster = Cluster::on_disk(256 << 10);
    let url = cluster.url();
    let world = World::with(Engine::Postgres(url.clone()));
    std::fs::write(world.path().join("paced"), "").expect("writes");
    let (server, sender) = (world.server(), world.sender(world.config.feed.port(), None));
    world.more(100);
    let mut recovery = Recovery::default();
    for round in 0..if long() { 3 } else { 1 } {
        for fault in [Fault::Full, Fault::Stopped, Fault::Restarted, Fault::Killed] {
            match fault {
                Fault::Full => cluster.fill(),
                Fault::Stopped => cluster.control("stop"),
                Fault::Restarted => cluster.control("restart"),
                Fault::Killed => cluster.kill(),
            }
            // The spool takes what the repository cannot.
            world.more(150);
            let acknowledged = match fault {
                Fault::Restarted => world.acknowledged(),
                Fault::Full => {
                    std::thread::sleep(Duration::from_secs(1));
                    cluster.free();
                    // A full disk may have ended the server.
                    let acknowledged = world.acknowledged();
                    cluster.again();
                    acknowledged
                }
                Fault::Stopped | Fault::Killed => {
                    let acknowledged = world.acknowledged();
                    cluster.again();
                    acknowledged
                }
            };
            recovery.wait(&format!("round {round}: records are acknowledged after {fault:?}"), 120, acknowledged);
        }
    }
    let kept = Kept::Postgres(&url);
    world.finish("PostgreSQL full, stopped, restarted, killed", sender, server, kept, &recovery);
    within(&recovery, Duration::from_secs(10));
}
