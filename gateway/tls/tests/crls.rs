//! Of an issuer's CRLs the one that was issued last counts (CO-06).

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Kind, Pair, crl};
use ncp_tls::{Anchors, Freshness, Purpose, Revocation, TlsError, latest, parse_crls};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

struct World {
    folder: tempfile::TempDir,
    root: Pair,
    intermediate: Pair,
    leaf: Pair,
}

impl World {
    fn new() -> Self {
        let root = Pair::new("Root", Kind::Authority, None);
        let intermediate = Pair::new("Intermediate", Kind::Authority, Some(&root));
        let leaf = Pair::new("Client", Kind::Client, Some(&intermediate));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("anchors.pem"), root.pem()).expect("writes");
        Self { folder, root, intermediate, leaf }
    }

    /// With a CRL of the root that was issued just now, and these of the intermediate.
    fn anchors(&self, of_intermediate: &[Vec<u8>], grace: i64) -> Anchors {
        let of_root = crl(&self.root, (-1, DAY), &[]);
        let all = [of_root, of_intermediate.concat()].concat();
        let crls = Arc::new(latest(parse_crls(&all).expect("CRLs")));
        let grace = Duration::from_secs(u64::try_from(grace).expect("fits"));
        let revocation = Revocation { crls, grace, ..Revocation::none() };
        Anchors::load(&self.folder.path().join("anchors.pem"), revocation, Purpose::TlsClient).expect("anchors")
    }

    fn first(&self, anchors: &Anchors) -> Result<Freshness, TlsError> {
        anchors.verify(&self.leaf.certificate, std::slice::from_ref(&self.intermediate.certificate))
    }

    /// What is remembered of the path: without its intermediate none can be built.
    fn again(&self, anchors: &Anchors) -> Option<Freshness> {
        anchors.verify(&self.leaf.certificate, &[]).ok()
    }
}

/// The same in the other order.
fn both_orders(crls: [Vec<u8>; 2]) -> [[Vec<u8>; 2]; 2] {
    let [one, other] = crls.clone();
    [crls, [other, one]]
}

/// CO-06: a file's old CRL beside the one that was fetched since does not make each exchange build the path anew.
#[test]
fn co_06_an_old_crl_beside_the_new_one_ends_no_verdict() {
    let world = World::new();
    let crls = [crl(&world.intermediate, (-2 * DAY, -DAY), &[]), crl(&world.intermediate, (-HOUR, DAY), &[])];
    for crls in both_orders(crls) {
        let anchors = world.anchors(&crls, 0);
        assert_eq!(world.first(&anchors).expect("a path"), Freshness::Current);
        assert_eq!(world.again(&anchors), Some(Freshness::Current), "the path is remembered");
    }
}

/// CO-06: a CRL that is past its time and that no other replaces, as after the way back to a file, has no part in a path.
#[test]
fn co_06_a_crl_past_its_time_ends_no_verdict_of_another() {
    let world = World::new();
    let crls = [crl(&world.intermediate, (-DAY, DAY), &[]), crl(&world.intermediate, (-2 * HOUR, -HOUR), &[])];
    for crls in both_orders(crls) {
        let anchors = world.anchors(&crls, 0);
        assert_eq!(world.first(&anchors).expect("a path"), Freshness::Current);
        assert_eq!(world.again(&anchors), Some(Freshness::Current), "the path is remembered");
    }
}

/// CO-06: the grace is that of the last CRL: an older one neither takes it away nor brings back what the last revoked.
#[test]
fn co_06_the_grace_is_that_of_the_last_crl() {
    let world = World::new();
    let old = crl(&world.intermediate, (-30 * DAY, -29 * DAY), &[]);
    for crls in both_orders([old, crl(&world.intermediate, (-2 * HOUR, -HOUR), &[])]) {
        let anchors = world.anchors(&crls, DAY);
        assert_eq!(world.first(&anchors).expect("within the grace"), Freshness::Stale);
        assert_eq!(world.again(&anchors), Some(Freshness::Stale), "is remembered for a moment");
        assert!(world.first(&world.anchors(&crls, 60)).is_err(), "beyond the grace");
    }
    let old = crl(&world.intermediate, (-4 * HOUR, -3 * HOUR), &[]);
    for crls in both_orders([old, crl(&world.intermediate, (-2 * HOUR, -HOUR), &[&world.leaf])]) {
        assert!(world.first(&world.anchors(&crls, DAY)).is_err(), "revoked by the last");
    }
}
