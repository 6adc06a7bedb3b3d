//! The configuration: the shipped example is valid, and everything wrong is said at once.

use std::path::Path;
use std::process::Command;

fn check(text: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, text).expect("writes");
    let out = Command::new(env!("CARGO_BIN_EXE_ncp-gateway"))
        .arg("--config")
        .arg(&file)
        .arg("check-config")
        .output()
        .expect("runs");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/gateway.toml");
    std::fs::read_to_string(path).expect("the example")
}

#[test]
fn the_example_lacks_only_its_files() {
    let (code, said) = check(&example());
    assert_eq!(code, Some(64));
    assert!(said.lines().all(|line| line.contains("no such file") || line.contains("no such folder")), "{said}");
    assert!(said.lines().count() >= 8, "{said}");
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = example()
        .replace("shutdown_grace = \"30s\"", "shutdown_grace = \"30\"")
        .replace("concurrency = 256", "concurrency = \"many\"\nunheard_of = 1")
        .replace("peers = \"0.0.0.0:443\"", "peers = \"nowhere\"")
        .replace("country = \"FI\"", "country = \"Finland\"")
        .replace("source = \"ncp-gateway-no\"", "sauce = \"ncp-gateway-no\"")
        .replace("kind = \"embedded\"", "kind = \"embedded\"\ncolour = \"red\"")
        + "\n[extra]\nx = 1\n";
    let (code, said) = check(&text);
    assert_eq!(code, Some(64));
    for wanted in [
        "gateway.shutdown_grace",
        "limits.concurrency",
        "listener.peers",
        "peer[0].country",
        "audit.source: is missing",
        "colour",
    ] {
        assert!(said.contains(wanted), "{wanted} is not among:\n{said}");
    }
}

#[test]
fn no_key_switches_a_verification_off() {
    for key in ["verify = false", "insecure = true", "skip_verification = true", "allow_unsigned = true"] {
        let (code, said) = check(&example().replacen("[seal]", &format!("[seal]\n{key}"), 1));
        assert_eq!(code, Some(64));
        assert!(said.contains("unknown key"), "{key}: {said}");
    }
}

#[test]
fn national_connectors_are_checked() {
    let text = example()
        .replace("transaction = \"ITI-47\"", "transaction = \"ITI-47\"\ncolour = \"red\"")
        .replace("page = 1000 ", "page = 0 ");
    let (code, said) = check(&text);
    assert_eq!(code, Some(64));
    assert!(said.contains("colour"), "{said}");
    let text = example().replace("https://xds.example.no/images", "http://xds.example.no/images");
    let (code, said) = check(&text.replace("page = 1000 ", "page = 0 "));
    assert_eq!(code, Some(64));
    for wanted in ["national.connector[1].page", "national.connector[2].registry"] {
        assert!(said.contains(wanted), "{wanted} is not among:\n{said}");
    }
}

/// Of two that are called the same one would never be found: both are named.
#[test]
fn what_is_named_twice_is_refused() {
    let peer = |country: &str, home: &str, name: &str, pin: &str| {
        format!(
            "\n[[peer]]\ncountry = \"{country}\"\nname = \"{name}\"\nhome_community_id = \"urn:oid:{home}\"\n\
             tls_anchors = \"a\"\nseal_anchors = \"a\"\npin = {{ tls_client = [{pin}], tls_server = [{pin}], seal = [{pin}] }}\n"
        )
    };
    let digest = format!("\"sha256:{}\"", "ab".repeat(32));
    let spelt = format!("\"sha256:{}\"", "AB:".repeat(32).trim_end_matches(':'));
    let subject = "\"CN=ncp.se,O=Agency,C=SE\"";
    let receiver = "\n[[audit.fhir]]\nname = \"national\"\nbase = \"https://localhost/fhir\"\n\
                    tls = { certificate = \"a\", key = \"a\", anchors = \"a\" }\n";
    let archive = |name: &str, repository: &str, location: &str| {
        format!(
            "\n[[national.connector]]\nkind = \"embedded\"\nname = \"{name}\"\nfolder = \"data\"\n\
             repository_unique_id = \"{repository}\"\nlocation_uids = [\"{location}\"]\nuid_root = \"2.999.1\"\n"
        )
    };
    let two = |one: String, other: String| example() + &one + &other;
    let paths = example().replace("retrieve_paths = [\"/xds/repository\"]", "retrieve_paths = [\"/xds/registry\"]");
    for (text, says) in [
        (
            example() + &peer("FI", "2.999.1", "Suomi", "\"a\""),
            "peer[1].country: country FI of peer[1] (Suomi) is also that of peer[0] (Finland)",
        ),
        (
            example() + &peer("SE", "2.999.246", "Sweden", "\"a\""),
            "community urn:oid:2.999.246 of peer[1] (Sweden) is also that of peer[0] (Finland)",
        ),
        (
            two(peer("SE", "2.999.1", "Sweden", &digest), peer("DK", "2.999.2", "Denmark", &spelt)),
            "of peer[2] (Denmark) is also that of peer[1] (Sweden)",
        ),
        (
            two(peer("SE", "2.999.1", "Sweden", subject), peer("DK", "2.999.2", "Denmark", subject)),
            "peer[2].pin: certificate C=SE,CN=ncp.se,O=Agency of peer[2] (Denmark) is also that of peer[1] (Sweden)",
        ),
        (example() + receiver + receiver, "fhir receiver national of audit.fhir[1] is also that of audit.fhir[0]"),
        (
            two(archive("one", "2.999.3", "2.999.4"), archive("one", "2.999.5", "2.999.6")),
            "name one of national.connector[5] (one) is also that of national.connector[4] (one)",
        ),
        (
            two(archive("one", "2.999.3", "2.999.4"), archive("two", "2.999.3", "2.999.6")),
            "repository 2.999.3 of national.connector[5] (two) is also that of national.connector[4] (one)",
        ),
        (
            two(archive("one", "2.999.3", "2.999.4"), archive("two", "2.999.5", "2.999.4")),
            "location 2.999.4 of national.connector[5] (two) is also that of national.connector[4] (one)",
        ),
        (paths, "path /xds/registry of consumer.retrieve_paths is also that of consumer.query_paths"),
    ] {
        let (code, said) = check(&text);
        assert_eq!(code, Some(64));
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("is also that of")).collect();
        assert!(
            !lines.is_empty() && lines.iter().all(|line| line.contains(says)),
            "{says} is not what is said:\n{said}"
        );
    }
    // Two countries may call their gateways the same, and two kinds of receivers too.
    let good = two(peer("SE", "2.999.1", "Sweden", "\"ncp\""), peer("DK", "2.999.2", "Denmark", "\"ncp\""));
    let (_, said) = check(&(good + receiver));
    assert!(!said.contains("is also that of"), "{said}");
}

/// SE-14: the consent file must be there and right as a whole, or the gateway does not start and says what to do.
#[test]
fn se_14_a_consent_file_that_cannot_be_read_refuses_the_start() {
    use ncp_tests::asking::Asking;
    let dir = tempfile::tempdir().expect("a folder");
    let asking = Asking::create(dir.path()).expect("a PKI");
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/no");
    let config = asking.write([0, 0, 0], "", &policies, &[]).expect("writes");
    let fi = asking.other("FI").expect("a PKI");
    let peer = format!(
        "[[peer]]\ncountry = \"FI\"\nname = \"Finland\"\nhome_community_id = \"urn:oid:2.999.246\"\n\
         tls_anchors = \"{}\"\nseal_anchors = \"{}\"\n{}",
        fi.path("tls-anchors.pem").display(),
        fi.path("seal-anchors.pem").display(),
        ncp_tests::pki::peer_pin("FI"),
    );
    let text = std::fs::read_to_string(&config).expect("reads");
    std::fs::write(&config, text + &peer).expect("writes");
    let consent = dir.path().join("consent.toml");
    let run = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_ncp-gateway")).arg("--config").arg(&config).args(arguments).output();
        let out = out.expect("runs");
        let said = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (out.status.code(), said)
    };
    let (code, said) = run(&["check-config"]);
    assert_eq!(code, Some(0), "{said}");
    let patient = "patient = \"30857710106^^^&2.16.578.1.12.4.1.4.1&ISO\"";
    for (text, says) in [
        (Some("[[opt_out".to_owned()), "no TOML from line 1 on"),
        (Some("opt_out = true".to_owned()), "expected [[opt_out]], [[consent_required]] or [[block]] tables"),
        (Some(format!("[[opt_out]]\n{patient}\ncountries = [\"Finland\"]\n")), "expected codes of ISO 3166-1"),
        (Some("[[block]]\npatient = \"garbage\"\nimaging = true\n".to_owned()), "expected id^^^&OID&ISO"),
        (None, "consent_file"),
    ] {
        match &text {
            Some(text) => std::fs::write(&consent, text).expect("writes"),
            None => std::fs::remove_file(&consent).expect("removes"),
        }
        // A start ends before anything is bound.
        for arguments in [&["check-config"][..], &[]] {
            let (code, said) = run(arguments);
            assert_eq!(code, Some(64), "{arguments:?}: {said}");
            assert!(said.contains(says) && said.contains("consent"), "{arguments:?}: {said}");
            assert!(!said.contains("30857710106") && !said.contains("garbage"), "{said}");
        }
    }
}

/// SK-08: a reload loads what changed; a signal loads all anew.
#[test]
fn sk_08_a_reload_loads_what_changed() {
    use std::sync::Arc;

    use ncp_gateway::app::{Learned, Snapshot};
    use ncp_tests::asking::Asking;
    use ncp_tls::Country;

    let dir = tempfile::tempdir().expect("a folder");
    let asking = Asking::create(dir.path()).expect("a PKI");
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/no");
    let file = asking.write([0, 0, 0], "", &policies, &[]).expect("writes");
    let mut text = std::fs::read_to_string(&file).expect("reads");
    let countries = ["FI", "SE"].map(|code| asking.other(code).expect("a PKI"));
    for (index, pki) in countries.iter().enumerate() {
        pki.crl("crls.pem", &[], (-60, 3600)).expect("a CRL");
        text.push_str(&format!(
            "[[peer]]\ncountry = \"{code}\"\nname = \"{code}\"\nhome_community_id = \"urn:oid:2.999.{index}\"\n\
             tls_anchors = {:?}\nseal_anchors = {:?}\ncrls = {:?}\n{}\n",
            pki.path("tls-anchors.pem"),
            pki.path("seal-anchors.pem"),
            pki.path("crls.pem"),
            ncp_tests::pki::peer_pin(&pki.country),
            code = pki.country,
        ));
    }
    std::fs::write(&file, text).expect("writes");
    let load = |before: Option<&Arc<Snapshot>>, anew: bool| {
        let config = ncp_gateway::config::load(&file).expect("a configuration");
        let learned = Learned { before: before.cloned(), anew, ..Learned::default() };
        let (snapshot, stayed) =
            Snapshot::load_parts(&config, &learned).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert!(stayed.is_empty(), "{stayed:?}");
        Arc::new(snapshot)
    };
    let kept = |one: &Snapshot, other: &Snapshot, code: &str| {
        let country = Country::parse(code).expect("a country");
        let anchors = [
            (&one.tls_anchors, &other.tls_anchors),
            (&one.server_anchors, &other.server_anchors),
            (&one.seal_anchors, &other.seal_anchors),
        ];
        let same = anchors.map(|(one, other)| Arc::ptr_eq(&one[&country], &other[&country]));
        assert!(same == [true; 3] || same == [false; 3], "{same:?}");
        same[0]
    };

    let first = load(None, false);
    let second = load(Some(&first), false);
    assert!(kept(&first, &second, "FI") && kept(&first, &second, "SE"), "nothing changed");
    countries[0].crl("crls.pem", &["tls-server"], (-60, 7200)).expect("a CRL");
    let third = load(Some(&second), false);
    assert!(!kept(&second, &third, "FI") && kept(&second, &third, "SE"), "the CRL of one");
    let pinned = std::fs::read_to_string(&file).expect("reads");
    let (head, tail) = pinned.rsplit_once("pin = {").expect("a pin");
    let (_, tail) = tail.split_once('}').expect("a table");
    std::fs::write(&file, format!("{head}pin = \"anchor\"{tail}")).expect("writes");
    let fourth = load(Some(&third), false);
    assert!(kept(&third, &fourth, "FI") && !kept(&third, &fourth, "SE"), "the names of one");
    let fifth = load(Some(&fourth), true);
    assert!(!kept(&fourth, &fifth, "FI") && !kept(&fourth, &fifth, "SE"), "all at a signal");
}

/// A gateway of its own in a folder, with one country.
fn with_finland(dir: &Path, change: impl Fn(String) -> String) -> std::path::PathBuf {
    let asking = ncp_tests::asking::Asking::create(dir).expect("a PKI");
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/no");
    let file = asking.write([0, 0, 0], "", &policies, &[]).expect("writes");
    let fi = asking.other("FI").expect("a PKI");
    fi.crl("crls.pem", &[], (-60, 3600)).expect("a CRL");
    let text = std::fs::read_to_string(&file).expect("reads");
    let peer = format!(
        "[[peer]]\ncountry = \"FI\"\nname = \"Finland\"\nhome_community_id = \"urn:oid:2.999.246\"\n\
         tls_anchors = {:?}\nseal_anchors = {:?}\ncrls = {:?}\n{}",
        fi.path("tls-anchors.pem"),
        fi.path("seal-anchors.pem"),
        fi.path("crls.pem"),
        ncp_tests::pki::peer_pin("FI"),
    );
    std::fs::write(&file, change(text) + &peer).expect("writes");
    file
}

/// SK-09: a gateway whose spool takes no record is not ready, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn sk_09_a_full_spool_is_not_ready() {
    let dir = tempfile::tempdir().expect("a folder");
    let small = |text: String| {
        text.replace("spool_segment_bytes = 4194304", "spool_segment_bytes = 65536\nspool_bytes = 262144")
            .replace("spool_reserve_bytes = 4194304", "spool_reserve_bytes = 0")
    };
    let file = with_finland(dir.path(), small);
    let config = ncp_gateway::config::load(&file).expect("a configuration");
    let app = ncp_gateway::app::build(config).await.unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(ncp_gateway::health::reasons(&app).await, ["it starts or stops"]);
    app.drain.set_ready();
    assert!(ncp_gateway::health::reasons(&app).await.is_empty());
    let event = ncp_audit::Event::SmpQueried { peer: ncp_audit::PeerFacts::default(), query: "x".repeat(4000) };
    while app.audit.event(&event, "").await.is_ok() {}
    assert_eq!(ncp_gateway::health::reasons(&app).await, ["the audit spool takes no record"]);
    app.drain.stop();
    assert_eq!(ncp_gateway::health::reasons(&app).await.len(), 2, "every reason is said");
}

/// SK-09: keys and CRLs, by the time that is asked for.
#[test]
fn sk_09_keys_and_crls_past_their_time_are_not_ready() {
    use ncp_gateway::app::{Learned, Snapshot};

    let dir = tempfile::tempdir().expect("a folder");
    let file = with_finland(dir.path(), |text| text);
    let config = ncp_gateway::config::load(&file).expect("a configuration");
    let snapshot = Snapshot::load(&config, &Learned::default()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let now = jiff::Timestamp::now();
    let in_hours = |hours: i64| now + jiff::SignedDuration::from_hours(hours);
    assert!(snapshot.unusable(now).is_empty());
    assert!(snapshot.unusable(in_hours(24)).is_empty(), "within the grace");
    assert_eq!(snapshot.unusable(in_hours(26)), ["no country has CRLs that are believed"]);
    let late = snapshot.unusable(in_hours(24 * 365 * 20));
    assert_eq!(late.len(), 3, "{late:?}");
    assert!(snapshot.unusable(in_hours(-24 * 365 * 20)).contains(&"its seal is out of date"), "not yet");
}

/// WI-04: anchors that alone give no path are pointed out, with what follows from it.
#[test]
fn wi_04_anchors_that_alone_give_no_path_are_pointed_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = with_finland(dir.path(), |text| text);
    let warned = || {
        let warnings = ncp_gateway::config::load(&file).expect("a configuration").warnings();
        warnings.into_iter().filter(|warning| warning.contains("anchors: ")).collect::<Vec<_>>()
    };
    assert!(warned().is_empty(), "root and intermediate: {:?}", warned());
    let tls = dir.path().join("FI/tls-anchors.pem");
    let both = std::fs::read_to_string(&tls).expect("reads");
    let (root, intermediate) = both.split_at(both.rfind("-----BEGIN").expect("two"));
    let of_seals = std::fs::read_to_string(dir.path().join("FI/seal-anchors.pem")).expect("reads");
    let (other_root, _) = of_seals.split_at(of_seals.rfind("-----BEGIN").expect("two"));
    for (anchors, says) in [
        (root.to_owned(), "sends the intermediate in every handshake"),
        (intermediate.to_owned(), "no root is in it"),
        (format!("{other_root}{intermediate}"), "leads to none of its roots"),
    ] {
        std::fs::write(&tls, anchors).expect("writes");
        let said = warned();
        assert!(said.len() == 1 && said[0].starts_with("peer[0].tls_anchors: ") && said[0].contains(says), "{said:?}");
    }
    std::fs::write(&tls, &both).expect("writes");
    std::fs::write(dir.path().join("FI/seal-anchors.pem"), other_root).expect("writes");
    std::fs::write(dir.path().join("pki/assertion-anchors.pem"), root).expect("writes");
    let said = warned().join("\n");
    assert!(said.contains("peer[0].seal_anchors: ") && said.contains("a signature has one certificate"), "{said}");
    assert!(said.contains("consumer.assertion_anchors: ") && said.contains("KeyInfo"), "{said}");
}

/// SK-08: a reload waits for a slow disk, here a pipe in the place of the file, and no exchange waits for the reload. There is
/// one thread for all exchanges.
#[tokio::test]
async fn sk_08_no_exchange_waits_for_a_reload() {
    use std::io::Write;

    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, openat};

    let dir = tempfile::tempdir().expect("a folder");
    let file = with_finland(dir.path(), |text| text);
    let config = ncp_gateway::config::load(&file).expect("a configuration");
    let app = ncp_gateway::app::build(config).await.unwrap_or_else(|problems| panic!("{problems:?}"));
    let text = std::fs::read_to_string(&file).expect("reads");
    std::fs::remove_file(&file).expect("removes");
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let (served, serving) = std::sync::mpsc::channel();
    let (tell, read) = tokio::sync::oneshot::channel();
    let disk = std::thread::spawn(move || {
        let mut pipe = loop {
            // A pipe can be opened so once somebody reads it.
            match openat(CWD, &file, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
                Ok(pipe) => break std::fs::File::from(pipe),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        // The test waits for it, or has failed.
        let _ = tell.send(());
        let served = serving.recv_timeout(std::time::Duration::from_secs(10)).is_ok();
        pipe.write_all(text.as_bytes()).expect("is read");
        served
    });
    let before = app.snapshot.load().generation;
    let watching = tokio::spawn(ncp_gateway::reload::watch(app.clone()));
    read.await.expect("the reload reads");
    // Fails where the disk waited for nobody.
    let _ = served.send(());
    while app.snapshot.load().generation == before {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    watching.abort();
    assert!(disk.join().expect("ends"), "nobody was served until the file was read");
}
