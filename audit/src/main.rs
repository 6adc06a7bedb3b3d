//! `ncp-audit`: the Audit Record Repository.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ncp_audit::server::{self, Index, RecordStore};

/// The Audit Record Repository of a National Contact Point.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Receives records from gateways and answers searches.
    Serve {
        /// Configuration file, audit.toml.
        #[arg(long)]
        config: PathBuf,
    },
    /// Reads the configuration and reports everything that is wrong with it.
    CheckConfig {
        /// Configuration file, audit.toml.
        #[arg(long)]
        config: PathBuf,
    },
    /// Makes the index again from the records.
    Reindex {
        /// Configuration file, audit.toml.
        #[arg(long)]
        config: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let path = match &command {
        Command::Serve { config } | Command::CheckConfig { config } | Command::Reindex { config } => config,
    };
    let config = match server::load(path) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("{}: {problem}", path.display());
            }
            return ExitCode::from(64);
        }
    };
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    let done = match command {
        Command::CheckConfig { .. } => {
            println!("configuration is valid");
            Ok(())
        }
        Command::Serve { .. } => server::serve(&config, stop()).await,
        Command::Reindex { .. } => reindex(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ncp-audit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn reindex(config: &server::Config) -> Result<(), ncp_audit::AuditError> {
    let store = RecordStore::open(&config.data_dir, &config.key_file)?;
    let fresh = config.data_dir.join("index.new");
    let _ = std::fs::remove_file(&fresh);
    let mut index = Index::open(&fresh)?;
    let mut count = 0;
    store.walk(|place, found| {
        count += 1;
        let patient =
            found.record.as_ref().and_then(|r| r.facts.as_ref()).map(|f| f.patient.clone()).unwrap_or_default();
        index.add(&[(place, found, store.patient_hash(&patient))])
    })?;
    drop(index);
    std::fs::rename(fresh, config.data_dir.join("index.sqlite"))?;
    println!("{count} records indexed");
    Ok(())
}

async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}
