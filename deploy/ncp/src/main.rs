//! `ncp`: the operator's tool.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ncp_tests::pki::{Algorithm, Use};

mod attack;
mod attack_callers;
mod attack_trail;
mod audit;
mod bench;
mod bench_documents;
mod bench_java;
mod bench_load;
mod bench_swap;
mod bench_terminology;
mod cert;
mod check;
mod clinician;
mod consumer;
mod demo;
mod explain;
mod fanout;
mod faults;
mod faults_load;
mod faults_replay;
mod faults_stops;
mod issuer;
mod kill;
mod load;
mod manifest;
mod policy;
mod ports;
mod refusals;
mod relay;
mod templates;
mod terminology;
mod token_endpoint;
mod tools;
mod trail;
mod treatment;
mod viewer;

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
    /// Finds a patient in another country, as a clinician's system does.
    ///
    /// Example: ncp find --patient '30857710106^^^&2.16.578.1.12.4.1.4.1&ISO'
    Find(clinician::Find),
    /// Fetches a patient's reports and images from another country into a folder.
    ///
    /// Example: ncp fetch --patient '30857710106^^^&2.16.578.1.12.4.1.4.1&ISO' --confirm-treatment --out images
    Fetch(clinician::Fetch),
    /// Prints a bearer token that the demonstration's issuer gives to a back-end system by `private_key_jwt`, for curl.
    Token {
        /// Country whose gateway is called: fi or no.
        #[arg(long, default_value = "fi")]
        country: String,
        /// Folder of the demonstration; default NCP_DEMO_DIR or ~/.ncp-demo.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Makes throw-away keys and certificates of one country, for tests and pilots; never for production.
    Pki {
        /// Two letters.
        #[arg(long)]
        country: String,
        /// Folder; made if missing.
        #[arg(long)]
        out: PathBuf,
        /// Adds the certificate of a person who reads the trail to the PKI in the folder.
        #[arg(long)]
        reader: Option<String>,
    },
    /// Sends the attack set to one's own gateway and writes a report that an auditor reads.
    ///
    /// As a peer to its port for peers, as a national consumer to that for consumers, as a clinician's system to that for
    /// clinicians; in a demonstration to all three and to its audit repository. Nothing is disclosed that the test patient does
    /// not have. Ids are those of docs/threats.md.
    ///
    /// Example: ncp attack --out report.md (against a running demonstration)
    Attack(Box<attack::Attack>),
    /// Kills, stops and damages what runs in a demonstration under load and counts what was disclosed and recorded.
    Faults {
        /// How often gateway and repository are killed; with more than 10, what stands still or is away does so for longer.
        #[arg(long, default_value_t = 10)]
        rounds: u64,
        /// Where deploy/demo and tests/fixtures lie.
        #[arg(long, default_value = ".")]
        sources: PathBuf,
    },
    /// Clinicians and neighbours ask a demonstration for a while; every act is compared with the trails of both countries.
    ///
    /// Prints the totals; the report has latencies and what each process used. Exit code 1 when an act failed, a disclosure is
    /// not on both trails, or a long run was too slow or grew.
    Load(load::Load),
    /// Certificates: what is right, what is not, and when they end.
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Says what the gateway would decide about a message, check by check. Nothing is fetched or disclosed.
    Explain(explain::Explain),
    /// Tests, explains and compares policies.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Reads the audit trail of a running demonstration.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Shows imaging manifests (KOS of XDS-I.b, Xt-EHR V7e and MADO; MADO's FHIR document) and converts between them.
    #[command(subcommand)]
    Manifest(manifest::Command),
    /// Builds, compares and counts snapshots of the terminology service.
    #[command(subcommand)]
    Terminology(terminology::Command),
    /// Prints figures of this machine, one JSON line each, beside those of a peer in the same run.
    #[command(subcommand)]
    Bench(bench::Bench),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo { check: false, dir, sources } => demo::run(dir, &sources).await.map(|()| true),
        Command::Demo { check: true, dir, sources } => check::run(dir, &sources).await,
        Command::Manifest(command) => manifest::run(command),
        Command::Bench(bench) => bench::run(bench).await.map(|()| true),
        Command::Find(command) => clinician::find(command).await.map(|()| true),
        Command::Fetch(command) => clinician::fetch(command).await.map(|()| true),
        Command::Token { country, dir } => print_token(&country, dir).await.map(|()| true),
        Command::Pki { country, out, reader: None } => pki(&country, &out).map(|()| true),
        Command::Pki { country, out, reader: Some(name) } => reader(&country, &out, &name).map(|()| true),
        Command::Attack(attack) => attack::run(*attack).await,
        Command::Faults { rounds, sources } => kill::run(rounds, &sources).await,
        Command::Load(load) => load::run(load).await,
        Command::Cert(command) => cert::run(command).await,
        Command::Explain(explain) => explain::run(explain).await,
        Command::Policy(command) => policy::run(command).await,
        Command::Audit(command) => audit::run(command).await,
        Command::Terminology(command) => terminology::run(command),
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

async fn print_token(country: &str, dir: Option<PathBuf>) -> Result<(), Error> {
    let pki = demo::data_dir(dir)?.join(country).join("pki");
    println!("{}", token_endpoint::token(&pki, country).await?);
    Ok(())
}

fn reader(country: &str, out: &std::path::Path, name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(plain) || out.join(format!("{name}.pem")).exists() {
        return Err(format!("{name:?}: expected a new name of letters, digits, - and .").into());
    }
    ncp_tests::pki::CountryPki::open(out, country)?.reader(name)?;
    let common = format!("{name}.ncp.{}", country.to_lowercase());
    println!("written to {}; add {common:?} to `readers` of audit.toml", out.join(format!("{name}.pem")).display());
    Ok(())
}

fn pki(country: &str, out: &std::path::Path) -> Result<(), Error> {
    if out.join("anchors.pem").exists() {
        return Err(format!("{} holds a PKI already; give another --out", out.display()).into());
    }
    let pki = ncp_tests::pki::CountryPki::create_apart(out, country, Algorithm::Rsa2048)?;
    pki.leaf("consumer", Use::Client, Algorithm::P256, 0, 90)?;
    pki.leaf("xua", Use::Seal, Algorithm::P256, 0, 90)?;
    issuer::create(out)?;
    let out = out.display();
    println!("written to {out}: tls-anchors.pem and seal-anchors.pem for the other countries; the keys stay here");
    println!("consumer.pem, xua.pem: a national consumer; issuer.jwk, jwks.json: an issuer of clinicians' tokens");
    println!("their [[peer]] names your certificates:\n{}", ncp_tests::pki::peer_pin(country).trim_end());
    Ok(())
}
