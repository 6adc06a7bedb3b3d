//! The generated code is that of the contracts.

use std::path::{Path, PathBuf};

#[test]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = ["audit", "national", "translation"];
    let files: Vec<PathBuf> = packages.iter().map(|p| root.join(format!("ncp/{p}/v1/{p}.proto"))).collect();
    let descriptors = protox::compile(&files, [root]).expect("the contracts compile");
    let fresh = tempfile::tempdir().expect("a folder");
    tonic_prost_build::configure()
        .out_dir(fresh.path())
        .file_descriptor_set_path(fresh.path().join("descriptors.bin"))
        .compile_fds(descriptors.clone())
        .expect("code is generated");
    std::fs::write(fresh.path().join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors)).expect("writes");
    let target = root.join("src/gen");
    let generated = packages.iter().map(|p| format!("ncp.{p}.v1.rs"));
    for name in generated.chain(["descriptors.bin".to_owned()]) {
        let new = std::fs::read(fresh.path().join(&name)).expect("was generated");
        if std::env::var_os("UPDATE_GEN").is_some() {
            std::fs::create_dir_all(&target).expect("a folder");
            std::fs::write(target.join(&name), new).expect("writes");
        } else {
            let old = std::fs::read(target.join(&name)).unwrap_or_default();
            assert!(old == new, "{name} is not fresh: run UPDATE_GEN=1 cargo test -p ncp-proto");
        }
    }
}
