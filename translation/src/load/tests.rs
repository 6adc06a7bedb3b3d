//! A file of the real format for each loader, and what they refuse, with file and line.

mod fhir;
mod loinc;
mod rf2;
mod tables;

use std::path::{Path, PathBuf};

use super::build;
use crate::check_digit::{with_loinc_digit, with_sctid_digit};
use crate::relationship::{Allowed, Relationship};
use crate::snapshot::Snapshot;
use crate::translate::{Outcome, Query, translate};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/terminology")
}

pub(crate) fn shipped() -> Snapshot {
    let maps = Path::new(env!("CARGO_MANIFEST_DIR")).join("maps");
    let built = build(&[maps]).unwrap_or_else(|p| panic!("{p:#?}"));
    Snapshot::built(built).expect("a snapshot")
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("writes");
    }
    folder
}

pub(crate) fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let folder = folder(files);
    Snapshot::built(build(&[folder.path().to_owned()]).unwrap_or_else(|p| panic!("{p:#?}"))).expect("a snapshot")
}

fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let folder = folder(files);
    build(&[folder.path().to_owned()]).expect_err("problems").iter().map(ToString::to_string).collect()
}

fn query<'a>(system: &'a str, code: &'a str) -> Query<'a> {
    Query { system, version: "", code, target_system: "", map: "", context: &[], allowed: Allowed::ALL }
}

fn refs(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect()
}
