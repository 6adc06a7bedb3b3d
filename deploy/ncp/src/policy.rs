//! `ncp policy`: policies are text with tests.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ncp_gateway::config;
use ncp_gateway::policy::PolicyEngine;
use ncp_gateway::policy::cases::Cases;
use ncp_gateway::policy::consent::{ConsentFile, ConsentSource, ServiceConsent};
use ncp_ihe::PatientId;
use ncp_tls::Country;

use crate::Error;

#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Runs the cases beside the policies and says which do not hold.
    ///
    /// Example: ncp policy test gateway/policies/no
    Test {
        /// Folder with *.cedar and cases.toml.
        folder: PathBuf,
        /// Another file of cases.
        #[arg(long)]
        cases: Option<PathBuf>,
    },
    /// Says for each request of a file what the policies decide and by which rules.
    Explain {
        /// File in the form of cases; `expect` may be left out.
        request: PathBuf,
        /// Folder with *.cedar.
        #[arg(long)]
        folder: PathBuf,
    },
    /// Prints what a patient has decided and how it is read: the file's rows and what a server or service says besides.
    ExplainConsent {
        /// The patient, id^^^&OID&ISO.
        patient: String,
        /// Configuration of the gateway.
        #[arg(long)]
        config: PathBuf,
        /// Country of treatment; default: each peer.
        #[arg(long)]
        country: Option<String>,
    },
    /// Compares two policy folders over a file of cases: what the new one opens and what it closes.
    Diff {
        /// Folder in use.
        old: PathBuf,
        /// Folder to come.
        new: PathBuf,
        /// File of cases.
        cases: PathBuf,
    },
}

/// False when a case does not hold or the folders differ.
pub(crate) async fn run(command: Policy) -> Result<bool, Error> {
    match command {
        Policy::Test { folder, cases } => test(&folder, &cases.unwrap_or_else(|| folder.join("cases.toml"))),
        Policy::Explain { request, folder } => explain(&request, &folder),
        Policy::ExplainConsent { patient, config, country } => {
            explain_consent(&patient, &config, country.as_deref()).await
        }
        Policy::Diff { old, new, cases } => diff(&old, &new, &cases),
    }
}

fn test(folder: &Path, cases: &Path) -> Result<bool, Error> {
    let engine = PolicyEngine::load(folder)?;
    let cases = Cases::load(cases)?;
    let mut failed = 0;
    for case in &cases.case {
        let said = case.ask(&engine)?;
        if !case.holds(&said) {
            failed += 1;
            let wanted = case.expect.as_deref().unwrap_or("any");
            let rule = case.rule.as_deref().map(|r| format!(" by {r}")).unwrap_or_default();
            println!("FAILED  {}: {} by {}, expected {wanted}{rule}", case.name, said.verdict, said.rules);
        }
    }
    println!("{} cases, {failed} failed", cases.case.len());
    Ok(failed == 0)
}

fn explain(request: &Path, folder: &Path) -> Result<bool, Error> {
    let engine = PolicyEngine::load(folder)?;
    for case in &Cases::load(request)?.case {
        let said = case.ask(&engine)?;
        println!("{}", case.name);
        println!(
            "  asks     {} at {} as {} of {} for {}",
            case.transaction, case.stage, case.role, case.country, case.purpose
        );
        println!("  decided  {}", said.verdict);
        println!("  by       {}", said.rules);
    }
    Ok(true)
}

async fn explain_consent(patient: &str, config: &Path, country: Option<&str>) -> Result<bool, Error> {
    let patient = PatientId::parse_cx(patient).map_err(|_| "patient: expected id^^^&OID&ISO")?;
    let config = config::load(config).map_err(|all| all.iter().map(|p| format!("{p}\n")).collect::<String>())?;
    let (_, wrong) = ConsentFile::load_rows(&config.policy.consent_file, &ConsentFile::default())?;
    for row in &wrong {
        println!("WRONG    {row}");
    }
    if !wrong.is_empty() {
        println!("a gateway that runs reads the other rows; it does not start with this file");
        return Ok(false);
    }
    let source = ConsentSource::load(&config.policy)?;
    let countries = match country {
        Some(code) => vec![Country::parse(code).map_err(|_| "country: expected two letters")?],
        None => config.peer.iter().map(|peer| peer.country).collect(),
    };
    for country in countries {
        let directives = source.directives(&patient, &country).await?;
        let participation = match directives.service {
            ServiceConsent::Given => "takes part",
            ServiceConsent::OptedOut => "opted out: not found, no documents",
            ServiceConsent::MissingAndSaid => "a consent is required and absent: 4701",
        };
        println!("towards {country}: {participation}");
        if directives.permit_needed {
            println!("  nothing is open without a permission that covers who asks");
        }
        for block in &directives.blocks {
            println!("  closed       {block}");
        }
        for rule in &directives.rules {
            println!("  permission   {rule:?}");
        }
    }
    Ok(true)
}

fn diff(old: &Path, new: &Path, cases: &Path) -> Result<bool, Error> {
    let (old, new) = (PolicyEngine::load(old)?, PolicyEngine::load(new)?);
    let (mut opened, mut closed) = (0, 0);
    for case in &Cases::load(cases)?.case {
        let (before, after) = (case.ask(&old)?, case.ask(&new)?);
        match (before.verdict, after.verdict) {
            (same, other) if same == other => continue,
            (_, "permit") => {
                opened += 1;
                println!("opens   {} (was: {} by {})", case.name, before.verdict, before.rules);
            }
            (_, verdict) => {
                closed += 1;
                println!("closes  {} (now: {verdict} by {})", case.name, after.rules);
            }
        }
    }
    println!("the change opens {opened} and closes {closed} of the cases");
    Ok(opened + closed == 0)
}
