//! `ncp`: the operator's tool.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod audit;
mod bench;
mod check;
mod demo;
mod faults;
mod refusals;

/// What goes wrong in a tool is told to a person.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The operator's tool of an NCP gateway.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts two countries, Norway and Finland, on this machine with a throw-away PKI and real DICOM.
    ///
    /// Prints where they listen and runs until Ctrl-C. The programs are looked for beside `ncp`, or in NCP_BIN_DIR.
    Demo {
        /// Walks the whole story and its refusals once, one JSON line a step, and stops.
        #[arg(long)]
        check: bool,
        /// Folder of the demonstration; default NCP_DEMO_DIR or ~/.ncp-demo. It is emptied at each start.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Where deploy/demo and tests/fixtures lie.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// Reads the audit trail of a running demonstration.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Prints figures of this machine, one JSON line each, beside those of a peer in the same run.
    #[command(subcommand)]
    Bench(bench::Bench),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo { check: false, dir, sources } => demo::run(dir, &sources).await.map(|()| true),
        Command::Demo { check: true, dir, sources } => check::run(dir, &sources).await,
        Command::Bench(bench) => bench::run(bench).await.map(|()| true),
        Command::Audit(command) => audit::run(command).await.map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ncp: {error}");
            ExitCode::FAILURE
        }
    }
}
