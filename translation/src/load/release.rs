//! Releases as they are published: packed, and as states.
//!
//! A ZIP file is unpacked into a folder of its own. Of RF2, Full files hold every state that a component ever had and
//! Delta files what changed since a release; of both only the newest state of each component counts, so they are
//! reduced, with the Snapshot they belong to, to one Snapshot file. Files that are Snapshot alone are read as they lie.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{LINE, Source, whole_file};
use crate::build::Problem;

/// Bytes of all files of a ZIP file at most.
const UNPACKED: u64 = 64 << 30;
/// Files of a ZIP file at most.
const FILES: usize = 100_000;
const KINDS: [&str; 3] = ["Snapshot", "Full", "Delta"];

/// Unpacks a ZIP file; its files are named below it.
pub(super) fn unpacked(source: &Source, into: &Path) -> Result<Vec<Source>, Problem> {
    let wrong = |e: &dyn std::fmt::Display| whole_file(&source.name, e.to_string());
    let file = std::fs::File::open(&source.path).map_err(|e| wrong(&e))?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| wrong(&e))?;
    if archive.len() > FILES {
        return Err(wrong(&format!("holds more than {FILES} files")));
    }
    let mut left = UNPACKED;
    let mut out = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| wrong(&e))?;
        if !entry.is_file() {
            continue;
        }
        let below = entry.enclosed_name().ok_or_else(|| wrong(&"a file's name leads out of the ZIP file"))?;
        let path = into.join(&below);
        let copied = (|| {
            std::fs::create_dir_all(path.parent().unwrap_or(into))?;
            let mut to = BufWriter::new(std::fs::File::create(&path)?);
            let copied = std::io::copy(&mut (&mut entry).take(left + 1), &mut to)?;
            to.flush()?;
            Ok::<u64, std::io::Error>(copied)
        })();
        left = left.checked_sub(copied.map_err(|e| wrong(&e))?).ok_or_else(|| wrong(&"holds too much"))?;
        let below = below.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        out.push(Source { path, name: format!("{}/{below}", source.name) });
    }
    Ok(out)
}

/// Full and Delta files of RF2 reduced to Snapshot files; all others as they are.
pub(super) fn as_snapshots(sources: Vec<Source>, into: &Path) -> Result<Vec<Source>, Problem> {
    let mut families: BTreeMap<String, BTreeMap<&'static str, Vec<Source>>> = BTreeMap::new();
    let mut out = Vec::new();
    for source in sources {
        match family(&source) {
            Some((family, kind)) => families.entry(family).or_default().entry(kind).or_default().push(source),
            None => out.push(source),
        }
    }
    for (number, (family, mut kinds)) in families.into_iter().enumerate() {
        let mut of = |kind| kinds.remove(kind).unwrap_or_default();
        let (snapshots, full, deltas) = (of("Snapshot"), of("Full"), of("Delta"));
        // A Full file says all that the Snapshot of its release says; a Delta says more only if it is newer.
        let mut states = if snapshots.is_empty() { full } else { snapshots };
        let newest = states.iter().map(date).max();
        states.extend(deltas.into_iter().filter(|delta| Some(date(delta)) > newest));
        match states.as_slice() {
            [one] if one.file_name().contains("Snapshot") => out.push(one.clone()),
            all => out.push(reduced(all, &family, &into.join(format!("states{number}")))?),
        }
    }
    Ok(out)
}

/// What a file of RF2 is of, whatever its kind and date: the name with both left out, and the kind.
fn family(source: &Source) -> Option<(String, &'static str)> {
    let name = source.file_name();
    let rf2 = ["sct2_", "der2_", "xsct2_"].iter().any(|p| name.to_lowercase().starts_with(p));
    let kind = KINDS.into_iter().find(|kind| name.contains(kind)).filter(|_| rf2 && name.ends_with(".txt"))?;
    let stem = name.strip_suffix(".txt")?;
    let undated = stem.strip_suffix(&date(source)).unwrap_or(stem);
    Some((undated.replacen(kind, "Snapshot", 1), kind))
}

/// The release's date at the end of a file's name.
fn date(source: &Source) -> String {
    let stem = source.file_name().trim_end_matches(".txt");
    stem.rsplit('_').next().filter(|d| d.bytes().all(|b| b.is_ascii_digit())).unwrap_or_default().to_owned()
}

/// The newest state of each component: file, place and effectiveTime by identifier.
fn reduced(states: &[Source], family: &str, folder: &Path) -> Result<Source, Problem> {
    let newest = states.iter().max_by_key(|s| date(s)).map(date).unwrap_or_default();
    let name = format!("{family}{newest}.txt");
    let mut places: HashMap<Vec<u8>, (usize, u64, Vec<u8>)> = HashMap::new();
    let mut header = Vec::new();
    for (file, source) in states.iter().enumerate() {
        each_line(source, |number, at, line| {
            let mut fields = line.split(|b| *b == b'\t');
            let (id, time) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            if number == 1 {
                if header.is_empty() {
                    header = line.to_vec();
                } else if header != line {
                    return Err("has other columns than the file it changes".to_owned());
                }
                return Ok(());
            }
            match places.get_mut(id) {
                Some(known) if known.2.as_slice() > time => {}
                Some(known) => *known = (file, at, time.to_vec()),
                None => {
                    places.insert(id.to_vec(), (file, at, time.to_vec()));
                }
            }
            Ok(())
        })?;
    }
    let mut order: Vec<(usize, u64)> = places.into_values().map(|(file, at, _)| (file, at)).collect();
    order.sort_unstable();
    let failed = |e: std::io::Error| whole_file(&name, e.to_string());
    std::fs::create_dir_all(folder).map_err(failed)?;
    let path = folder.join(&name);
    let mut out = BufWriter::new(std::fs::File::create(&path).map_err(failed)?);
    let mut write = |line: &[u8]| out.write_all(line).and_then(|()| out.write_all(b"\n")).map_err(failed);
    write(&header)?;
    let mut wanted = order.into_iter().peekable();
    for (file, source) in states.iter().enumerate() {
        while let Some((_, first)) = wanted.next_if(|(of, _)| *of == file) {
            let mut opened = BufReader::with_capacity(1 << 18, std::fs::File::open(&source.path).map_err(failed)?);
            opened.seek(SeekFrom::Start(first)).map_err(failed)?;
            let (mut at, mut next, mut line) = (first, Some(first), Vec::new());
            while let Some(place) = next {
                line.clear();
                let n = opened.read_until(b'\n', &mut line).map_err(failed)?;
                if n == 0 {
                    break;
                }
                if at == place {
                    write(trimmed(&line))?;
                    next = wanted.next_if(|(of, _)| *of == file).map(|(_, at)| at);
                }
                at += n as u64;
            }
        }
    }
    out.flush().map_err(failed)?;
    Ok(Source { path, name })
}

fn trimmed(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r'] = line {
        line = rest;
    }
    line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line)
}

/// Number, place and text of each line.
fn each_line(source: &Source, mut each: impl FnMut(u32, u64, &[u8]) -> Result<(), String>) -> Result<(), Problem> {
    let failed = |line, text: String| Problem { file: source.name.as_str().into(), line, text };
    let file = std::fs::File::open(&source.path).map_err(|e| failed(0, e.to_string()))?;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut line, mut number, mut at) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let n = reader
            .by_ref()
            .take(LINE as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|e| failed(number, e.to_string()))?;
        number += 1;
        match n {
            0 => return Ok(()),
            n if n > LINE => return Err(failed(number, format!("line is longer than {LINE} bytes"))),
            _ if !line.ends_with(b"\n") => return Err(failed(number, "file ends in the middle of a line".into())),
            n => {
                each(number, at, trimmed(&line)).map_err(|text| failed(number, text))?;
                at += n as u64;
            }
        }
    }
}
