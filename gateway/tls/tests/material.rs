//! A certificate's verdict does not depend on what else is sent with it.
#![allow(clippy::print_stdout)]

mod common;

use common::{Kind, Pair, Says, answer, request};
use ncp_tls::{Anchors, Freshness, Material, Purpose, Revocation};
use openssl::x509::X509;

struct World {
    _folder: tempfile::TempDir,
    root: Pair,
    intermediate: Pair,
    anchors: Anchors,
}

impl World {
    fn new(purpose: Purpose) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Pair::new("Root", Kind::Authority, None);
        let intermediate = Pair::new("Intermediate", Kind::Authority, Some(&root));
        let file = folder.path().join("anchors.pem");
        std::fs::write(&file, root.pem()).expect("writes");
        let anchors = Anchors::load(&file, Revocation::none(), purpose).expect("anchors");
        Self { _folder: folder, root, intermediate, anchors }
    }
}

/// All orders of a list.
fn orders(all: &[X509]) -> Vec<Vec<X509>> {
    if all.len() < 2 {
        return vec![all.to_vec()];
    }
    let one_first = |n: usize| {
        let rest = [&all[..n], &all[n + 1..]].concat();
        orders(&rest).into_iter().map(move |rest| [&all[n..=n], &rest].concat())
    };
    (0..all.len()).flat_map(one_first).collect()
}

/// WI-04: one more certificate removes no path, wherever it stands.
#[test]
fn wi_04_a_certificate_more_makes_no_good_certificate_bad() {
    let world = World::new(Purpose::TlsClient);
    let leaf = Pair::new("Client", Kind::Client, Some(&world.intermediate));
    let stranger = Pair::new("Stranger", Kind::Authority, None);
    let same_key = |issuer: Option<&Pair>, days| {
        Pair::with("Intermediate", Kind::Authority, issuer, world.intermediate.key.clone(), days).certificate
    };
    let more = [
        ("nothing", vec![]),
        ("a stranger's root", vec![stranger.certificate.clone()]),
        ("the intermediate, signed by a stranger", vec![same_key(Some(&stranger), 30)]),
        ("the intermediate, past its time", vec![same_key(Some(&world.root), -1)]),
        ("the intermediate, self-signed", vec![same_key(None, 30)]),
        ("the leaf and the root", vec![leaf.certificate.clone(), world.root.certificate.clone()]),
        (
            "the intermediate twice, signed by strangers",
            vec![same_key(Some(&stranger), 30), same_key(Some(&Pair::new("Other", Kind::Authority, None)), 30)],
        ),
    ];
    for (what, more) in more {
        let sent = [vec![world.intermediate.certificate.clone()], more].concat();
        for sent in orders(&sent) {
            // A new one each time: a path that held is remembered.
            let anchors = World { anchors: reloaded(&world), ..World::new(Purpose::TlsClient) }.anchors;
            assert_eq!(anchors.verify(&leaf.certificate, &sent).expect(what), Freshness::Current);
        }
    }
    // And a bad one stays bad.
    let foreign = Pair::new("Client", Kind::Client, Some(&Pair::new("Intermediate", Kind::Authority, Some(&stranger))));
    let sent = [world.intermediate.certificate.clone(), stranger.certificate.clone()];
    assert!(reloaded(&world).verify(&foreign.certificate, &sent).is_err());
}

fn reloaded(world: &World) -> Anchors {
    let file = world._folder.path().join("anchors.pem");
    Anchors::load(&file, Revocation::none(), Purpose::TlsClient).expect("anchors")
}

/// WI-04: a path that held is the certificate's, with and without its intermediates.
#[test]
fn wi_04_the_verdict_is_that_of_the_certificate() {
    let world = World::new(Purpose::TlsClient);
    let leaf = Pair::new("Client", Kind::Client, Some(&world.intermediate));
    assert!(world.anchors.verify(&leaf.certificate, &[]).is_err(), "no path was seen yet");
    let sent = [world.intermediate.certificate.clone()];
    assert!(world.anchors.verify(&leaf.certificate, &sent).is_ok());
    assert!(world.anchors.verify(&leaf.certificate, &[]).is_ok());
    assert!(reloaded(&world).verify(&leaf.certificate, &[]).is_err(), "a reload forgets the verdict");
}

/// WI-04: a stapled answer counts where it holds, and is nothing where it does not.
#[test]
fn wi_04_a_staple_that_does_not_hold_makes_no_good_certificate_bad() {
    let world = World::new(Purpose::TlsServer);
    let sent = [world.intermediate.certificate.clone()];
    let plain = Pair::new("Server", Kind::Server, Some(&world.intermediate));
    let promising = Pair::new("Server", Kind::Stapling, Some(&world.intermediate));
    let stranger = Pair::new("Intermediate", Kind::Authority, None);
    for (leaf, other, needs) in [(&plain, &promising, false), (&promising, &plain, true)] {
        let asked = request(leaf, &world.intermediate);
        let good = answer(&asked, &world.intermediate, Says::Good, Some(3600));
        let revoked = answer(&asked, &world.intermediate, Says::Revoked, Some(3600));
        let verdict = |staple: Option<&[u8]>| world.anchors.verify_stapled(&leaf.certificate, &sent, staple).is_ok();
        assert!(verdict(Some(&good)));
        assert!(!verdict(Some(&revoked)));
        let none = [
            None,
            Some(b"not DER".to_vec()),
            Some(answer(&asked, &stranger, Says::Revoked, Some(3600))),
            Some(answer(&asked, &world.intermediate, Says::Good, Some(-1000))),
            Some(answer(&request(other, &world.intermediate), &world.intermediate, Says::Good, Some(3600))),
        ];
        for staple in none {
            assert_eq!(verdict(staple.as_deref()), !needs, "{staple:02x?}");
        }
    }
}

/// The folder of the material, for the process that counts what it reads.
const FOLDER: &str = "NCP_TEST_FOLDER";

/// Bytes that this process has read so far.
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a count");
    line.parse().expect("a number")
}

/// Does nothing unless [`sk_08_a_client_context_reads_its_own_anchors_alone`] starts it, with a large bundle for the system's.
#[test]
fn sk_08_makes_contexts() {
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else { return };
    let material = Material::load(&folder.join("client.pem"), &folder.join("client.key")).expect("material");
    let anchors = [folder.join("anchors.pem")];
    let before = bytes_read();
    for _ in 0..10 {
        material.connector(&anchors, b"\x08http/1.1").expect("a context");
        ncp_tls::anonymous_connector(&anchors, b"\x08http/1.1").expect("a context");
    }
    println!("read {}", bytes_read() - before);
}

/// SK-08: what the system trusts is not read for each peer and thrown away.
#[test]
fn sk_08_a_client_context_reads_its_own_anchors_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Pair::new("Root", Kind::Authority, None);
    let client = Pair::new("client", Kind::Client, Some(&root));
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("writes");
    write("anchors.pem", &root.pem());
    write("client.pem", &client.pem());
    write("client.key", &client.key.private_key_to_pem_pkcs8().expect("PEM"));
    write("bundle.pem", &root.pem().repeat((1 << 20) / root.pem().len()));
    let out = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["sk_08_makes_contexts", "--exact", "--nocapture"])
        .env(FOLDER, folder.path())
        .env("SSL_CERT_FILE", folder.path().join("bundle.pem"))
        .output()
        .expect("runs");
    let said = String::from_utf8(out.stdout).expect("text");
    let read = said.lines().find_map(|line| line.rsplit_once("read ")?.1.parse::<usize>().ok());
    let read = read.unwrap_or_else(|| panic!("{said}"));
    assert!(read > 0 && read < 256 << 10, "twenty contexts read {read} bytes");
}
