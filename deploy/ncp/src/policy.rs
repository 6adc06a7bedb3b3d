//! `ncp policy`: policies are text with tests.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ncp_gateway::policy::PolicyEngine;
use ncp_gateway::policy::cases::Cases;

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
pub(crate) fn run(command: Policy) -> Result<bool, Error> {
    match command {
        Policy::Test { folder, cases } => test(&folder, &cases.unwrap_or_else(|| folder.join("cases.toml"))),
        Policy::Explain { request, folder } => explain(&request, &folder),
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
