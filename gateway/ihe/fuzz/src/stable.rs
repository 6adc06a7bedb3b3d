//! The targets on a stable compiler.

#[path = "../../../../tests/fuzz/stable.rs"]
mod stable;

fn main() -> std::process::ExitCode {
    stable::run(&[("ebrim", ncp_ihe_fuzz::ebrim), ("hl7v3", ncp_ihe_fuzz::hl7v3), ("manifest", ncp_ihe_fuzz::manifest), ("dicom", ncp_ihe_fuzz::dicom), ("narrative", ncp_ihe_fuzz::narrative)])
}
