//! The targets on a stable compiler.

#[path = "../../../tests/fuzz/stable.rs"]
mod stable;

fn main() -> std::process::ExitCode {
    stable::run(&[("search", ncp_audit_fuzz::search), ("batch", ncp_audit_fuzz::batch)])
}
