//! `ncp terminology`: snapshots of the terminology service are built, compared, put in place and counted.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ncp_translation::counters::Counters;
use ncp_translation::snapshot::Snapshot;
use ncp_translation::{coverage, diff, generate, load, store};

use crate::Error;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Builds a snapshot from releases, national lists and maps; every fault is told with file and line.
    ///
    /// Example: ncp terminology build translation/maps /data/SnomedCT_InternationalRF2 --out snapshots --use
    Build {
        /// Folders and files: RF2, LOINC, FHIR JSON, SKS, OpenNCP tables, CSV or XLSX with a profile in TOML beside them.
        #[arg(required = true)]
        inputs: Vec<PathBuf>,
        /// Folder of snapshots.
        #[arg(long)]
        out: PathBuf,
        /// Puts it in place: a running service takes it within seconds.
        #[arg(long = "use")]
        put: bool,
    },
    /// Tells what a new snapshot changes: maps, versions, rows, codes that became inactive.
    Diff {
        /// A snapshot, or a folder of sources.
        old: PathBuf,
        /// A snapshot, or a folder of sources.
        new: PathBuf,
    },
    /// Puts a built snapshot in place, also an earlier one.
    Use {
        /// `<digest>.snapshot`.
        snapshot: PathBuf,
    },
    /// Counts what the maps cover, by content and, with the service's state_dir, by traffic.
    Coverage {
        /// A snapshot, or a folder of sources.
        source: PathBuf,
        /// `state_dir` of the service.
        #[arg(long)]
        state_dir: Option<PathBuf>,
        /// Writes the page to this file.
        #[arg(long)]
        html: Option<PathBuf>,
    },
    /// Writes synthetic releases in the real formats, for tests and benchmarks.
    Synthetic {
        /// Folder.
        out: PathBuf,
        /// Full size: 360,000 SNOMED CT concepts, 105,000 LOINC codes, 1,000,000 rows.
        #[arg(long)]
        full: bool,
    },
}

pub(crate) fn run(command: Command) -> Result<bool, Error> {
    match command {
        Command::Build { inputs, out, put } => build(&inputs, &out, put),
        Command::Diff { old, new } => {
            let found = diff::diff(&open(&old)?, &open(&new)?);
            for line in &found.lines {
                println!("{line}");
            }
            println!("{} differences", found.lines.len());
            Ok(true)
        }
        Command::Use { snapshot } => {
            let opened = Snapshot::open(&snapshot)?;
            store::self_test(&opened)?;
            put_in_place(&snapshot)?;
            Ok(true)
        }
        Command::Coverage { source, state_dir, html } => {
            let counters = Counters::default();
            if let Some(folder) = &state_dir {
                counters.load(folder);
            }
            let counted = coverage::count(&open(&source)?, Some(&counters), 50);
            println!("{:<60} {:>8} {:>8} {:>8} {:>8}", "code system", "codes", "exact", "approx", "none");
            for s in &counted.systems {
                println!("{:<60} {:>8} {:>8} {:>8} {:>8}", s.system, s.codes, s.exact, s.approximate, s.unmapped);
            }
            for s in &counted.sets {
                println!("{:<60} {:>8} {:>8} {:>8}", s.url, s.members, s.exact, s.approximate);
            }
            for g in &counted.gaps {
                let near: Vec<&str> = g.candidates.iter().map(|c| c.1.as_str()).collect();
                println!(
                    "gap {} {} asked {} times, nearest code maps to {}",
                    g.system,
                    g.code,
                    g.count,
                    near.join(" ")
                );
            }
            if let Some(file) = html {
                std::fs::write(file, coverage::page(&counted))?;
            }
            Ok(true)
        }
        Command::Synthetic { out, full } => {
            generate::write(&out, if full { generate::Size::FULL } else { generate::Size::SMALL })?;
            Ok(true)
        }
    }
}

fn told(problems: &[ncp_translation::build::Problem]) -> bool {
    for problem in problems {
        eprintln!("{problem}");
    }
    eprintln!("{} problems, no snapshot", problems.len());
    false
}

fn build(inputs: &[PathBuf], out: &Path, put: bool) -> Result<bool, Error> {
    let built = match load::build(inputs) {
        Ok(built) => built,
        Err(problems) => return Ok(told(&problems)),
    };
    for warning in &built.warnings {
        eprintln!("warning: {warning}");
    }
    let path = built.save(out)?;
    store::self_test(&Snapshot::open(&path)?)?;
    println!("{}", path.display());
    if put {
        put_in_place(&path)?;
    }
    Ok(true)
}

/// The file `current` names the snapshot that serves; it is replaced whole.
fn put_in_place(snapshot: &Path) -> Result<(), Error> {
    let folder = snapshot.parent().unwrap_or(Path::new("."));
    let digest = snapshot.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let draft = folder.join(".current");
    std::fs::write(&draft, format!("{digest}\n"))?;
    std::fs::rename(draft, folder.join("current"))?;
    Ok(())
}

fn open(path: &Path) -> Result<Snapshot, Error> {
    if path.extension().is_some_and(|e| e == "snapshot") {
        return Ok(Snapshot::open(path)?);
    }
    let built = load::build(&[path.to_owned()]).map_err(|problems| {
        told(&problems);
        Error::from("the sources have problems")
    })?;
    Ok(Snapshot::built(built)?)
}
