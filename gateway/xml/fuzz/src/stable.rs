//! The targets on a stable compiler.

#[path = "../../../../tests/fuzz/stable.rs"]
mod stable;

fn main() -> std::process::ExitCode {
    stable::run(&[("budget", ncp_xml_fuzz::budget)])
}
