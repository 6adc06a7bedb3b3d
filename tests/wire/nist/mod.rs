//! The test definitions of the NIST XDS Toolkit run against our gateway (`conformance-suites.md` 2).
//!
//! Each definition is read as it was published: request, expected status, expected body and XPath assertions; nothing of
//! what is compared is written here. What differs and may is in [`table::DEVIATIONS`] with its reason. The results are
//! `tests/CONFORMANCE.md`; `NCP_UPDATE_CONFORMANCE=1` writes that file anew.

mod domain;
mod ig;
mod images;
mod plan;
mod rg;
mod rig;
mod table;
mod xua;

use std::path::{Path, PathBuf};

use ncp_tests::messages::{self, Capture, Report};
use ncp_tests::pki::{Algorithm, CountryPki, Error};
use ncp_xml::{Element, Limits};

use table::Table;

/// Our country in the tests; its community is what the definitions say.
const OURS: &str = "NO";
/// The community that asks.
pub(crate) const ASKING: &str = "2.999.246";

/// What all suites share.
pub(crate) struct World {
    dir: tempfile::TempDir,
    /// The gateway's country.
    pub(crate) own: CountryPki,
    /// The asking country.
    pub(crate) asking: CountryPki,
    /// Every message of the run.
    pub(crate) capture: Capture,
    /// The capture's folder.
    pub(crate) captured: PathBuf,
}

impl World {
    fn new() -> Result<Self, Error> {
        let dir = tempfile::tempdir()?;
        let captured = dir.path().join("captured");
        Ok(Self {
            own: CountryPki::create(&dir.path().join("pki-own"), OURS, Algorithm::Rsa2048)?,
            asking: CountryPki::create(&dir.path().join("pki-asking"), "FI", Algorithm::P256)?,
            capture: Capture::new(&captured)?,
            captured,
            dir,
        })
    }

    /// A folder for one gateway.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The definitions.
pub(crate) fn testkit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/nist/testkit")
}

/// Reads an XML file of the definitions.
pub(crate) fn read(path: &Path) -> Result<Element, Error> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let start = text.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or_default();
    Element::parse(&text[start..], &Limits::ANSWER).map_err(|e| format!("{}: {e}", path.display()).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nist_definitions_hold() {
    let world = World::new().expect("PKI and folders");
    let mut table = Table::default();
    rig::run(&world, &mut table).await.expect("RIG definitions run");
    ig::imaging(&world, &mut table).await.expect("IIG definitions run");
    rg::run(&world, &mut table).await.expect("RG definitions run");
    ig::run(&world, &mut table).await.expect("IG definitions run");
    xua::run(&world, &mut table).await.expect("XUA definitions run");

    let kept: Report = messages::check(&world.captured).expect("messages are judged");
    println!("{}", kept.summary());
    let broken: Vec<String> = kept.findings.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    table.compare_with_file();
}
