//! `ncp-audit`: the Audit Record Repository.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ncp_audit::server::{self, Repository};

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
    /// Makes the tables and folders that are not there yet, and indexes what the index lacks; the repository must not run.
    Migrate {
        /// Configuration file, audit.toml.
        #[arg(long)]
        config: PathBuf,
    },
    /// Makes the index again from the records; the repository must not run.
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
        Command::Serve { config }
        | Command::CheckConfig { config }
        | Command::Migrate { config }
        | Command::Reindex { config } => config.clone(),
    };
    let config = match server::load(&path) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("{}: {problem}", path.display());
            }
            return ExitCode::from(64);
        }
    };
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    let warnings = config.warnings();
    let done = match command {
        Command::CheckConfig { .. } => {
            warnings.iter().for_each(|warning| eprintln!("{}: warning: {warning}", path.display()));
            println!("configuration is valid");
            Ok(())
        }
        Command::Serve { .. } => {
            warnings.iter().for_each(|warning| tracing::warn!(warning, "configuration"));
            server::serve(&config, stop()).await
        }
        Command::Migrate { .. } => blocking(&config, migrate).await,
        Command::Reindex { .. } => blocking(&config, reindex).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ncp-audit: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Connecting to PostgreSQL blocks, and must not do so on a runtime's thread.
async fn blocking(
    config: &server::Config,
    work: impl FnOnce(&server::Config) -> Result<(), ncp_audit::AuditError> + Send + 'static,
) -> Result<(), ncp_audit::AuditError> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || work(&config)).await.map_err(|_| ncp_audit::AuditError::Stopped)?
}

fn reindex(config: &server::Config) -> Result<(), ncp_audit::AuditError> {
    let count = Repository::open(config)?.reindex()?;
    println!("{count} records indexed");
    Ok(())
}

/// Makes the tables that are not there; a store of an earlier form is indexed anew.
fn migrate(config: &server::Config) -> Result<(), ncp_audit::AuditError> {
    drop(Repository::open(config)?);
    println!("store and index are of this version");
    Ok(())
}

async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}
