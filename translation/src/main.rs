//! `ncp-translation`: the terminology service.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ncp_proto::translation::translation_server::TranslationServer;
use ncp_tls::TlsFiles;
use ncp_translation::config::{self, Config};
use ncp_translation::maps::Snapshot;
use ncp_translation::service::Service;
use tokio::net::TcpListener;
use tonic_health::ServingStatus;

/// The terminology service of a National Contact Point.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves translations over gRPC until SIGTERM.
    Serve {
        /// Configuration file, translation.toml.
        #[arg(long)]
        config: PathBuf,
    },
    /// Reads the configuration and the maps and reports everything that is wrong with them.
    CheckConfig {
        /// Configuration file, translation.toml.
        #[arg(long)]
        config: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let path = match &command {
        Command::Serve { config } | Command::CheckConfig { config } => config,
    };
    let loaded = config::load(path).and_then(|config| Snapshot::load(&config.maps).map(|snapshot| (config, snapshot)));
    let (config, snapshot) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems {
                eprintln!("{}: {problem}", path.display());
            }
            return ExitCode::from(64);
        }
    };
    if let Command::CheckConfig { .. } = command {
        println!("configuration is valid, {} maps", snapshot.maps.len());
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    match serve(&config, snapshot).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ncp-translation: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: &Config, snapshot: Snapshot) -> Result<(), Box<dyn std::error::Error>> {
    let files = TlsFiles {
        cert_chain: config.certificate.clone(),
        key: config.key.clone(),
        anchors: config.anchors.clone(),
        crls: None,
    };
    let acceptor = files.mutual_acceptor(b"\x02h2")?;
    let listener = TcpListener::bind(config.listen).await?;
    let admin = TcpListener::bind(config.admin).await?;
    let service = Service::new(snapshot);
    let (health, health_service) = tonic_health::server::health_reporter();
    let status = if service.self_test() { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("ncp.translation.v1.Translation", status).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(ncp_proto::DESCRIPTORS)
        .build_v1()?;
    let routes = axum_routes();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(admin, routes).await {
            tracing::error!(reason = %error, "admin listener ended");
        }
    });
    tracing::info!(listen = %config.listen, "terminology service is ready");
    tonic::transport::Server::builder()
        .timeout(std::time::Duration::from_secs(30))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(TranslationServer::new(service))
        .serve_with_incoming_shutdown(ncp_tls::incoming(listener, acceptor), stop())
        .await?;
    Ok(())
}

fn axum_routes() -> axum::Router {
    axum::Router::new()
        .route("/livez", axum::routing::get(|| async { "live\n" }))
        .route("/readyz", axum::routing::get(|| async { "ready\n" }))
}

async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}
