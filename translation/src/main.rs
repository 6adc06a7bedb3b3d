//! `ncp-translation`: the terminology service.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ncp_tls::{ClientAuth, Times};
use ncp_translation::cache::Cache;
use ncp_translation::config::{self, Config};
use ncp_translation::counters::Counters;
use ncp_translation::facade;
use ncp_translation::load;
use ncp_translation::service::Service;
use ncp_translation::snapshot::Snapshot;
use ncp_translation::store::Store;
use tokio::net::TcpListener;
use tonic_health::ServingStatus;

/// How often the folder of snapshots is looked at, and counts are written.
const LOOK: Duration = Duration::from_secs(5);
const WRITE: Duration = Duration::from_secs(3600);

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
    let loaded = config::load(path).and_then(|config| {
        let store = snapshot(&config)?;
        let cache = config.redis.as_ref().map(config::Redis::cache).transpose().map_err(|e| vec![e])?;
        Ok((config, store, cache.unwrap_or_default()))
    });
    let (config, store, cache) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems {
                eprintln!("{}: {problem}", path.display());
            }
            return ExitCode::from(64);
        }
    };
    if let Command::CheckConfig { .. } = command {
        config.warnings().iter().for_each(|warning| eprintln!("{}: warning: {warning}", path.display()));
        println!("configuration is valid, {} maps", store.serving().maps().len());
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    config.warnings().iter().for_each(|warning| tracing::warn!(warning, "configuration"));
    match serve(&config, store, cache).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ncp-translation: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The snapshot to start with: built from sources, or the one named `current`.
fn snapshot(config: &Config) -> Result<Store, Vec<String>> {
    let snapshot = match (&config.maps, &config.snapshots) {
        (Some(maps), _) => {
            let built = load::build(std::slice::from_ref(maps))
                .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
            Snapshot::built(built).map_err(|e| vec![e.to_string()])?
        }
        (None, Some(folder)) => {
            let path = current(folder).ok_or_else(|| vec![format!("{}: no file named current", folder.display())])?;
            Snapshot::open(&path).map_err(|e| vec![format!("{}: {e}", path.display())])?
        }
        (None, None) => return Err(vec!["maps, snapshots: give one of them".to_owned()]),
    };
    Store::new(snapshot).map_err(|e| vec![e.to_string()])
}

/// The snapshot that the file `current` names.
fn current(folder: &std::path::Path) -> Option<PathBuf> {
    let name = std::fs::read_to_string(folder.join("current")).ok()?;
    let digest = name.trim();
    let plain = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| folder.join(format!("{digest}.snapshot")))
}

async fn serve(config: &Config, store: Store, cache: Cache) -> Result<(), Box<dyn std::error::Error>> {
    let callers = || Some(config.clients.clone());
    let acceptor = config.tls().acceptor_of(ClientAuth::Required, callers(), b"\x02h2")?;
    let listener = TcpListener::bind(config.listen).await?;
    let admin = TcpListener::bind(config.admin).await?;
    let counters = Counters::default();
    if let Some(folder) = &config.state_dir {
        counters.load(folder);
    }
    let profiles = config.profiles().map_err(|problems| problems.join("; "))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    // The store holds only what has passed its self-test.
    health.set_service_status("ncp.translation.v1.Translation", ServingStatus::Serving).await;
    let reflection = config.reflection.then(|| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ncp_proto::DESCRIPTORS)
            .build_v1()
    });
    let reflection = reflection.transpose()?;
    let routes = health_routes().merge(facade::coverage_routes(store.clone(), counters.clone()));
    tokio::spawn(ncp_tls::serve_plain(admin, routes, Times::default(), std::future::pending()));
    if let Some(address) = config.fhir {
        let listener = TcpListener::bind(address).await?;
        let bearers = config.bearers()?;
        let client = if bearers.is_some() { ClientAuth::Optional } else { ClientAuth::Required };
        let routes = match bearers {
            Some(bearers) => facade::routes_for(store.clone(), bearers),
            None => facade::routes(store.clone()),
        };
        if config.fhir_plain {
            tokio::spawn(ncp_tls::serve_plain(listener, routes, Times::default(), stop()));
        } else {
            let acceptor = config.fhir_tls().acceptor_of(client, callers(), b"\x08http/1.1")?;
            tokio::spawn(ncp_tls::serve_routes(listener, acceptor, routes, Times::default(), stop()));
        }
    }
    if let Some(folder) = config.snapshots.clone() {
        tokio::spawn(watch(folder, store.clone(), cache.clone()));
    }
    if let Some(folder) = config.state_dir.clone() {
        tokio::spawn(write(folder, counters.clone()));
    }
    tracing::info!(listen = %config.listen, snapshot = %hex::encode(store.serving().digest()), "terminology service is ready");
    tonic::transport::Server::builder()
        .timeout(Duration::from_secs(30))
        .add_service(health_service)
        .add_optional_service(reflection)
        .add_service(Service::new(store, counters.clone(), cache).with_profiles(profiles).server())
        .serve_with_incoming_shutdown(ncp_tls::incoming(listener, acceptor), stop())
        .await?;
    if let Some(folder) = &config.state_dir {
        counters.save(folder)?;
    }
    Ok(())
}

/// Puts another snapshot in place when `current` names one; a damaged one is logged and the old one goes on serving.
async fn watch(folder: PathBuf, store: Store, cache: Cache) {
    let mut refused = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(path) = current(&folder) else { continue };
        let serving = hex::encode(store.serving().digest());
        if path.file_stem().is_some_and(|s| s.to_string_lossy() == serving) || refused.as_ref() == Some(&path) {
            continue;
        }
        let (to, from) = (store.clone(), path.clone());
        match tokio::task::spawn_blocking(move || to.swap_file(&from)).await {
            Ok(Ok(())) => {
                let digest = *store.serving().digest();
                tracing::info!(snapshot = %hex::encode(digest), "snapshot is in place");
                cache.announce(&digest).await;
                refused = None;
            }
            Ok(Err(error)) => {
                tracing::error!(reason = %error, "snapshot is refused, the old one goes on serving");
                refused = Some(path);
            }
            Err(_) => tracing::error!("swap stopped"),
        }
    }
}

async fn write(folder: PathBuf, counters: Counters) {
    loop {
        tokio::time::sleep(WRITE).await;
        if let Err(error) = counters.save(&folder) {
            tracing::error!(reason = %error, "counts are not written");
        }
    }
}

fn health_routes() -> axum::Router {
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
