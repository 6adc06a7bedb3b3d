//! `ncp policy explain-consent` as an operator runs it, and the shipped examples of policies.

use std::path::Path;
use std::process::Command;

use ncp_tests::asking::Asking;

const PATIENT: &str = "30857710106^^^&2.16.578.1.12.4.1.4.1&ISO";

/// Exit code and output.
fn ncp(arguments: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_ncp")).args(arguments).output().expect("runs");
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (out.status.code(), text.concat())
}

fn policies(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway/policies").join(name)
}

/// The file's rows for a patient, read as they are obeyed, towards a country.
#[test]
fn se_14_explain_consent_says_what_is_in_force() {
    let dir = tempfile::tempdir().expect("a folder");
    let asking = Asking::create(dir.path()).expect("a PKI");
    let config = asking.write([0, 0, 0], "", &policies("no"), &[]).expect("writes");
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
    let config = config.to_str().expect("a path");
    let explain = |rows: &str, country: &str| {
        std::fs::write(dir.path().join("consent.toml"), rows).expect("writes");
        ncp(&["policy", "explain-consent", PATIENT, "--config", config, "--country", country])
    };
    let patient = format!("patient = \"{PATIENT}\"");
    assert_eq!(explain("", "FI"), (Some(0), "towards FI: takes part\n".into()));
    // As the patient's register writes it, for a country in another code.
    let rows = format!("[[opt_out]]\npatient = \"{PATIENT}^PI\"\ncountries = [\"fin\"]\n");
    assert_eq!(explain(&rows, "FI"), (Some(0), "towards FI: opted out: not found, no documents\n".into()));
    assert_eq!(explain(&rows, "SE"), (Some(0), "towards SE: takes part\n".into()));
    let rows = format!("[[consent_required]]\n{patient}\n");
    assert_eq!(explain(&rows, "FI"), (Some(0), "towards FI: a consent is required and absent: 4701\n".into()));
    let rows = format!(
        "[[block]]\n{patient}\nimaging = true\ncountries = [\"246\"]\nrequesters = [\"Clinic\"]\nfrom = \"20260101\"\n\
         valid_until = \"2030-01-01T00:00:00Z\"\n[[block]]\n{patient}\n[[block]]\npatient = \"1^^^&2.999.1&ISO\"\n"
    );
    let expected = "towards FI: takes part\n  closed       images and their manifests; of days 20260101 to 99999999; to FI; \
                    to organisation Clinic; until 2030-01-01T00:00:00Z\n  closed       everything\n";
    assert_eq!(explain(&rows, "FI"), (Some(0), expected.into()));
    // A file with slips is not explained as if it were whole; each row is named, and nothing of what stands in it.
    let rows = format!("[[opt_out]]\n{patient}\ncountries = [\"Finland\"]\n[[block]]\nimaging = true\n");
    let (code, said) = explain(&rows, "FI");
    assert_ne!(code, Some(0));
    assert!(
        said.contains("WRONG    [[opt_out]] 1: countries: expected codes of ISO 3166-1 (closes its patient)"),
        "{said}"
    );
    assert!(said.contains("WRONG    [[block]] 1: ") && said.contains("(names no patient)"), "{said}");
    assert!(!said.contains("30857710106") && !said.contains("Finland"), "{said}");
    for broken in ["[[opt_out", "opt_out = 1"] {
        let (code, said) = explain(broken, "FI");
        assert!(code != Some(0) && !said.contains("takes part"), "{said}");
    }
    assert_ne!(ncp(&["policy", "explain-consent", "30857710106", "--config", config]).0, Some(0), "no CX");
}

/// `ncp policy test` over the shipped policies and the example for emergencies.
#[test]
fn se_18_the_shipped_policies_pass_their_cases() {
    for folder in ["no", "fi", "examples/opted-out-in-an-emergency"] {
        let (code, said) = ncp(&["policy", "test", policies(folder).to_str().expect("a path")]);
        assert!(code == Some(0) && said.ends_with(" cases, 0 failed\n"), "{folder}: {said}");
    }
}
