//! The targets on a stable compiler.

#[path = "../../../tests/fuzz/stable.rs"]
mod stable;

fn main() -> std::process::ExitCode {
    stable::run(&[("consent", ncp_gateway_fuzz::consent), ("consent-file", ncp_gateway_fuzz::consent_file)])
}
