//! `ncp-gateway`: thin start.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ncp_gateway::responding::orcd::draw;
use ncp_gateway::{app, config, telemetry};

/// The gateway of a National Contact Point for eHealth.
///
/// Starts with --config FILE and serves until SIGTERM; the file is described in deploy/config/gateway.toml.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file, gateway.toml.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Reads the configuration and everything it names, reports all that is wrong, binds nothing.
    CheckConfig,
    /// Gives up the way back to the last release: what it would read beside the present form is removed.
    ///
    /// The gateway must not run. Without it a way back forgets nothing. With Redis it is run once, when no gateway of the
    /// last release shares that memory any more; other gateways of this release may go on.
    Migrate,
    /// The gateway's own helper: a DICOM object on standard input becomes a PNG on standard output.
    #[command(name = draw::COMMAND, hide = true)]
    Draw,
}

/// Every connection that the listeners may hold needs a descriptor: the soft limit, often 1024, is raised to the hard one.
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // What the system refuses stays as it was.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// Bad configuration (EX_USAGE).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Draw) = arguments.command {
        return match draw::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                match reason {
                    draw::NotDrawn::Unconfined(why) => eprintln!("draw: {why}"),
                    reason => eprintln!("draw: {}", reason.text()),
                }
                ExitCode::from(reason.exit_code())
            }
        };
    }
    raise_descriptor_limit();
    serve(arguments)
}

#[tokio::main]
async fn serve(arguments: Arguments) -> ExitCode {
    let Some(path) = arguments.config else {
        eprintln!("--config FILE is required; see ncp-gateway --help");
        return ExitCode::from(USAGE);
    };
    let say = |problems: &[String]| problems.iter().for_each(|problem| eprintln!("{}: {problem}", path.display()));
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(problems) => {
            say(&problems.iter().map(ToString::to_string).collect::<Vec<_>>());
            return ExitCode::from(USAGE);
        }
    };
    if let Some(Command::CheckConfig) = arguments.command {
        return match app::Snapshot::load(&config, &app::Learned::default()) {
            Ok(_) => {
                config.warnings().iter().for_each(|warning| eprintln!("{}: warning: {warning}", path.display()));
                println!("configuration is valid");
                ExitCode::SUCCESS
            }
            Err(problems) => {
                say(&problems);
                ExitCode::from(USAGE)
            }
        };
    }
    if let Some(Command::Migrate) = arguments.command {
        return match app::migrate(&config).await {
            Ok(done) => {
                println!("{done}");
                ExitCode::SUCCESS
            }
            Err(problem) => {
                say(&[problem]);
                ExitCode::FAILURE
            }
        };
    }
    let traces = match telemetry::start(&config.telemetry, "ncp-gateway") {
        Ok(traces) => traces,
        Err(problem) => {
            say(&[problem]);
            return ExitCode::from(USAGE);
        }
    };
    config.warnings().iter().for_each(|warning| tracing::warn!(warning, "configuration"));
    let app = match app::build(config).await {
        Ok(app) => app,
        Err(problems) => {
            say(&problems);
            return ExitCode::from(USAGE);
        }
    };
    let done = app::run(app).await;
    if let Some(traces) = traces {
        let _ = traces.shutdown();
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ncp-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}
