//! Loaders: the files of releases and national lists, told apart by name and content.
//!
//! Every reader is bounded: a line of at most [`LINE`] bytes, a JSON file of at most [`JSON`].

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use crate::build::{Builder, Built, Origin, Problem};

mod fhir;
mod loinc;
mod openncp;
mod release;
mod rf2;
mod sks;
mod systems;
mod table;

/// Bytes of one line at most.
pub const LINE: usize = 1 << 20;
/// Bytes of one JSON file at most.
pub const JSON: u64 = 512 << 20;

/// A file of a release.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Its name in manifest and messages.
    pub(crate) name: String,
}

impl Source {
    fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// Kinds of files, in the order in which they are read: names of systems first, content before maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Systems,
    Rf2(u8),
    Loinc(u8),
    Sks,
    OpenNcp(u8),
    Fhir(u8),
    Table,
    Phrases,
}

/// Builds a snapshot from folders and files.
///
/// # Errors
/// Everything that is wrong, with file and line.
pub fn build(inputs: &[PathBuf]) -> Result<Built, Vec<Problem>> {
    let mut builder = Builder::default();
    // Holds what is unpacked, until the snapshot is built.
    let scratch = tempfile::tempdir().map_err(|e| vec![whole_file("inputs", e.to_string())])?;
    let mut sources = Vec::new();
    for source in inputs.iter().map(|input| listed(input)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        if source.name.to_lowercase().ends_with(".zip") {
            let into = scratch.path().join(format!("zip{}", sources.len()));
            sources.extend(release::unpacked(&source, &into).map_err(|problem| vec![problem])?);
        } else {
            sources.push(source);
        }
    }
    let sources = release::as_snapshots(sources, scratch.path()).map_err(|problem| vec![problem])?;
    let mut kinds: Vec<(Kind, Source)> = Vec::new();
    for source in sources {
        match kind(&source) {
            Some(kind) => kinds.push((kind, source)),
            None => builder.ignored += 1,
        }
    }
    kinds.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    if kinds.is_empty() {
        return Err(vec![whole_file("inputs", "no file of a known kind")]);
    }
    let mut rf2 = rf2::Release::default();
    let mut loinc = loinc::Release::default();
    let mut openncp = openncp::Tables::default();
    let mut value_sets = fhir::ValueSets::default();
    for (kind, source) in &kinds {
        let read = match kind {
            Kind::Systems => systems::read(&mut builder, source),
            Kind::Rf2(_) => rf2.read(&mut builder, source),
            Kind::Loinc(_) => loinc.read(&mut builder, source),
            Kind::Sks => sks::read(&mut builder, source),
            Kind::OpenNcp(_) => openncp.read(&mut builder, source),
            Kind::Fhir(_) => fhir::read(&mut builder, &mut value_sets, source),
            Kind::Table => table::read(&mut builder, source),
            Kind::Phrases => table::phrases(&mut builder, source),
        };
        if let Err(problem) = read {
            builder.problems.push(problem);
        }
    }
    openncp.finish(&mut builder);
    value_sets.finish(&mut builder);
    builder.finish()
}

fn whole_file(name: &str, text: impl Into<String>) -> Problem {
    Problem { file: name.into(), line: 0, text: text.into() }
}

/// The files below an input, by name.
fn listed(input: &Path) -> Result<Vec<Source>, Vec<Problem>> {
    if input.is_file() {
        let name = input.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![Source { path: input.to_owned(), name }]);
    }
    let mut out = Vec::new();
    for entry in walkdir::WalkDir::new(input).sort_by_file_name() {
        let entry = entry.map_err(|e| vec![whole_file(&input.display().to_string(), e.to_string())])?;
        if entry.file_type().is_file() {
            let below = entry.path().strip_prefix(input).unwrap_or(entry.path());
            let name = below.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            out.push(Source { path: entry.path().to_owned(), name });
        }
    }
    Ok(out)
}

fn kind(source: &Source) -> Option<Kind> {
    let name = source.file_name();
    let lower = name.to_lowercase();
    let ends = |e: &str| lower.ends_with(e);
    if name.starts_with('.') {
        return None;
    }
    if name == "systems.toml" {
        return Some(Kind::Systems);
    }
    if name == "phrases.csv" {
        return Some(Kind::Phrases);
    }
    if (lower.starts_with("sct2_") || lower.starts_with("der2_") || lower.starts_with("xsct2_")) && ends(".txt") {
        return rf2::order(name).map(Kind::Rf2);
    }
    if lower.starts_with("sks") && ends(".txt") {
        return Some(Kind::Sks);
    }
    if ends(".csv") {
        if let Some(order) = loinc::order(name) {
            return Some(Kind::Loinc(order));
        }
        if let Some(order) = openncp::order(name) {
            return Some(Kind::OpenNcp(order));
        }
    }
    if (ends(".csv") || ends(".xlsx") || ends(".tsv")) && source.path.with_extension("toml").is_file() {
        return Some(Kind::Table);
    }
    if ends(".json") && name != "package.json" {
        return fhir::order(&source.path).map(Kind::Fhir);
    }
    None
}

/// Reads a file whole, bounded; returns its bytes and registers it.
fn whole(builder: &mut Builder, source: &Source, kind: &'static str, most: u64) -> Result<(u32, Vec<u8>), Problem> {
    let failed = |e: std::io::Error| whole_file(&source.name, e.to_string());
    let file = std::fs::File::open(&source.path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(whole_file(&source.name, format!("is larger than {most} bytes")));
    }
    let input = builder.input(&source.name, kind, openssl::sha::sha256(&bytes), bytes.len() as u64);
    Ok((input, bytes))
}

/// Reads lines of a file one by one; hashes it; refuses lines over [`LINE`] and a last line without an end, which is
/// what a half-written file looks like, if `ended` is set.
fn lines(
    builder: &mut Builder,
    source: &Source,
    kind: &'static str,
    ended: bool,
    mut each: impl FnMut(&mut Builder, Origin, &[u8]),
) -> Result<u32, Problem> {
    let failed = |e: std::io::Error| whole_file(&source.name, e.to_string());
    let file = std::fs::File::open(&source.path).map_err(failed)?;
    let mut reader = std::io::BufReader::with_capacity(1 << 18, file);
    let input = builder.input(&source.name, kind, [0; 32], 0);
    let mut hash = openssl::sha::Sha256::new();
    let (mut line, mut number, mut total) = (Vec::new(), 0u32, 0u64);
    loop {
        line.clear();
        let n = reader.by_ref().take(LINE as u64 + 1).read_until(b'\n', &mut line).map_err(failed)?;
        if n == 0 {
            break;
        }
        hash.update(&line);
        total += n as u64;
        number += 1;
        let origin = Origin { input, line: number };
        if n > LINE {
            return Err(Problem {
                file: source.name.as_str().into(),
                line: number,
                text: format!("line is longer than {LINE} bytes"),
            });
        }
        if ended && !line.ends_with(b"\n") {
            builder.problem(origin, "file ends in the middle of a line");
        }
        let mut text = line.as_slice();
        while let [rest @ .., b'\n' | b'\r'] = text {
            text = rest;
        }
        if number == 1 {
            text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        }
        each(builder, origin, text);
    }
    if let Some(known) = builder.inputs.get_mut(input as usize) {
        known.sha256 = hash.finish();
        known.bytes = total;
    }
    Ok(input)
}

#[cfg(test)]
pub(crate) mod tests;
