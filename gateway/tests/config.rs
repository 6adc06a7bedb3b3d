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
