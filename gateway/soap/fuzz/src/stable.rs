//! The targets on a stable compiler.

#[path = "../../../../tests/fuzz/stable.rs"]
mod stable;

fn main() -> std::process::ExitCode {
    stable::run(&[("mime", ncp_soap_fuzz::mime), ("message", ncp_soap_fuzz::message), ("coding", ncp_soap_fuzz::coding)])
}
