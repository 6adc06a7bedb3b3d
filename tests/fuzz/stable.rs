//! Runs fuzz targets without libFuzzer: mutated corpora on a stable compiler. It has no coverage to steer by, so it is the
//! second choice; `tests/fuzz.sh` says which of the two ran.
//!
//! Usage: stable TARGET SECONDS FINDINGS CORPUS…
//! A panic writes its input to FINDINGS and ends with status 1; an input that takes ten seconds likewise.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A target: any bytes, no panic.
pub type Target = (&'static str, fn(&[u8]));

/// Longest input.
const LONGEST: usize = 256 << 10;
/// An input that takes longer is a finding.
const SLOW: Duration = Duration::from_secs(10);
/// What breaks parsers.
const TOKENS: [&[u8]; 12] = [
    b"\r\n--", b"--\r\n", b"<!DOCTYPE a [<!ENTITY b \"b\">]>", b"&#x0;", b"]]>", b"xmlns=\"\"", b"\xFF\xFF\xFF\xFF", b"\xFE\xFF\x00\xE0",
    b"\xFE\xFF\xDD\xE0\0\0\0\0", b"SQ\0\0\xFF\xFF\xFF\xFF", b"urn:oid:", b"99999999999999999999",
];

/// Runs the target that the command line names.
pub fn run(targets: &[Target]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(name), Some(seconds), Some(findings)) = (arguments.first(), arguments.get(1), arguments.get(2)) else {
        eprintln!("usage: stable TARGET SECONDS FINDINGS CORPUS…");
        return ExitCode::from(64);
    };
    let Some((_, target)) = targets.iter().find(|(known, _)| known == name) else {
        eprintln!("no target called {name}");
        return ExitCode::from(64);
    };
    let corpus = corpus(&arguments[3..]);
    let until = Instant::now() + Duration::from_secs(seconds.parse().unwrap_or(10));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut runs = 0u64;
    for seed in &corpus {
        if let Some(how) = harm(*target, seed) {
            return found(Path::new(findings), name, how, seed);
        }
        runs += 1;
    }
    while Instant::now() < until {
        let input = mutate(&corpus, &mut random);
        if let Some(how) = harm(*target, &input) {
            return found(Path::new(findings), name, how, &input);
        }
        runs += 1;
    }
    println!("{name}: {runs} inputs from {} seeds, no finding", corpus.len());
    ExitCode::SUCCESS
}

fn corpus(folders: &[String]) -> Vec<Vec<u8>> {
    let mut out = vec![Vec::new()];
    for folder in folders {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        out.extend(files.iter().filter_map(|path| std::fs::read(path).ok()).filter(|bytes| bytes.len() <= LONGEST));
    }
    out
}

fn harm(target: fn(&[u8]), input: &[u8]) -> Option<&'static str> {
    let began = Instant::now();
    if std::panic::catch_unwind(|| target(input)).is_err() {
        return Some("panic");
    }
    (began.elapsed() > SLOW).then_some("slow")
}

fn found(folder: &Path, name: &str, how: &str, input: &[u8]) -> ExitCode {
    let path = folder.join(format!("{name}-{how}"));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, input));
    eprintln!("{name}: {how}; input in {} ({written:?})", path.display());
    ExitCode::FAILURE
}

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut out = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(out.len() + 1);
        let most = 1 + random.below(64);
        let length = random.below(most);
        let end = (at + length).min(out.len());
        match random.below(7) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 if at < out.len() => out[at] = random.next() as u8,
            2 => drop(out.drain(at..end)),
            3 => {
                let piece = out[at..end].to_vec();
                let times = 1 + random.below(20);
                drop(out.splice(at..at, piece.repeat(times)));
            }
            4 => drop(out.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(400)).min(other.len());
                drop(out.splice(at..end, other[from..to].iter().copied()));
            }
            _ => out.truncate(at.max(out.len() / 2)),
        }
    }
    out.truncate(LONGEST);
    out
}

/// xorshift: the same inputs at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}
