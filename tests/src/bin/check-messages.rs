//! `check-messages FOLDER [LEAST]`: judges the messages that a run kept (`NCP_CAPTURE_DIR`) against the schemas and the
//! rules; at least so many must be there.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: check-messages FOLDER [LEAST]");
        return ExitCode::from(64);
    };
    let least = arguments.next().and_then(|n| n.to_str().and_then(|n| n.parse().ok())).unwrap_or(1);
    match ncp_tests::messages::check(&folder) {
        Ok(report) => {
            for finding in &report.findings {
                println!("{finding}");
            }
            println!("{}", report.summary());
            ExitCode::from(u8::from(!report.findings.is_empty() || report.messages < least))
        }
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
