//! `check-config` of the audit repository and of the terminology service as an operator runs it: a root that serves two uses is
//! pointed out, and the configuration is valid all the same (SE-10).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use ncp_tests::pki::{Algorithm, CountryPki};

/// What the program says about this configuration.
fn warned(program: &str, dir: &Path, text: &str) -> String {
    let file = dir.join(format!("{program}.toml"));
    std::fs::write(&file, text).expect("writes");
    let path = Path::new(env!("CARGO_BIN_EXE_ncp")).with_file_name(program);
    assert!(path.is_file(), "`cargo build --workspace --bins` comes first");
    let output = Command::new(path).args(["check-config", "--config"]).arg(&file).output().expect("runs");
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.starts_with("configuration is valid"), "{said}{warned}");
    warned.replace(&format!("{}: warning: ", file.display()), "")
}

#[test]
fn se_10_a_root_for_two_uses_is_pointed_out() {
    let dir = tempfile::tempdir().expect("a folder");
    CountryPki::create_apart(&dir.path().join("pki"), "NO", Algorithm::P256).expect("a PKI");
    let key = dir.path().join("audit.key");
    std::fs::write(&key, "cd".repeat(32)).expect("writes");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let own = "certificate = \"pki/internal-server.pem\"\nkey = \"pki/internal-server.key\"\nanchors = \"pki/internal-anchors.pem\"\n";
    let shared = |uses: &str| {
        format!(
            "the root \"Demonstration internal root NO\" serves several uses: {uses}; give each use a root of its own\n"
        )
    };

    let audit = format!(
        "feed = \"127.0.0.1:1\"\nquery = \"127.0.0.1:2\"\nadmin = \"127.0.0.1:3\"\nsyslog = \"127.0.0.1:4\"\n{own}\
         data_dir = \"data\"\nkey_file = \"audit.key\"\nsource = \"ncp-audit\"\nenterprise_site = \"NO\"\n\
         writers = {{ gateway = \"ncp-gateway-no\" }}\nreaders = [\"anna\"]\n"
    );
    let audit = |more: &str| warned("ncp-audit", dir.path(), &format!("{audit}{more}"));
    assert_eq!(audit("senders = []\n"), "", "nobody but our own");
    let both = shared("our own services and readers, senders and portals");
    assert_eq!(audit("senders = [\"hospital\"]\n"), both);
    assert_eq!(audit("senders = [\"hospital\"]\nsource_anchors = \"pki/internal-anchors.pem\"\n"), both);
    assert_eq!(audit("senders = [\"hospital\"]\nsource_anchors = \"pki/consumer-anchors.pem\"\n"), "");

    let maps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../translation/maps");
    let translation = format!(
        "listen = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n{own}clients = [\"gateway\"]\nmaps = {:?}\n",
        maps.canonicalize().expect("maps")
    );
    let translation = |more: &str| warned("ncp-translation", dir.path(), &format!("{translation}{more}"));
    assert_eq!(translation(""), "", "gRPC alone");
    assert_eq!(translation("fhir = \"127.0.0.1:3\"\n"), shared("callers of the FHIR façade, our own services"));
    assert_eq!(translation("fhir = \"127.0.0.1:3\"\nfhir_plain = true\n"), "");
    assert_eq!(translation("fhir = \"127.0.0.1:3\"\nfhir_anchors = \"pki/consumer-anchors.pem\"\n"), "");
}
