//! Time and memory of an ITI-38 answer of 10, 1,000 and 10,000 entries, as the codec of each role spends them: NCP-A writes
//! the message entry by entry, NCP-B reads it as it comes and keeps the entries. One JSON line each, every figure from a process of its own.
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ncp_ihe::{DocumentEntry, HomeCommunityId, Oid, QueryResponse, RegistryObjects, Status};
use ncp_xml::{Element, Limits};
use serde_json::{Value, json};

const SAMPLE: &[u8] = include_bytes!("../../../tests/fixtures/ihe-samples/iti38-response-kos-leafclass.xml");
const SIZES: [usize; 3] = [10, 1_000, 10_000];
const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, entries, message] = arguments.as_slice() {
        let line = match role.as_str() {
            "ncp_b" => read(entries.parse()?, Path::new(message))?,
            _ => write(entries.parse()?, Path::new(message))?,
        };
        println!("{line}");
        return Ok(());
    }
    let message = std::env::temp_dir().join(format!("metadata-bench-{}.xml", std::process::id()));
    let mut middle: [Option<f64>; 2] = [None, None];
    for entries in SIZES {
        // The writer leaves its message for the reader.
        for (role, middle) in ["ncp_a", "ncp_b"].into_iter().zip(&mut middle) {
            let mut run = Command::new(std::env::current_exe()?);
            let out = run.arg(role).arg(entries.to_string()).arg(&message).output()?;
            let mut line: Value =
                serde_json::from_slice(&out.stdout).map_err(|_| String::from_utf8_lossy(&out.stderr).into_owned())?;
            let per_entry = line["us_per_entry"].as_f64().unwrap_or_default();
            // The smallest size carries the fixed cost, so linearity is told against the middle one.
            if entries == SIZES[1] {
                *middle = Some(per_entry);
            }
            line["role"] = json!(role);
            line["times_the_middle"] = middle.map_or(Value::Null, |m| json!(round(per_entry / m)));
            println!("{line}");
        }
    }
    std::fs::remove_file(message)?;
    Ok(())
}

/// NCP-A: entries to bytes.
fn write(count: usize, message: &Path) -> Result<Value, Failure> {
    let response = answer(count)?;
    let mut out = BufWriter::new(File::create(message)?);
    let (before, began) = (peak()?, Instant::now());
    let (shell, entries) = response.into_listing();
    let (head, tail) = shell.to_xml_around();
    let mut bytes = head.len() + tail.len();
    out.write_all(head.as_bytes())?;
    for entry in entries {
        let xml = entry.to_xml();
        bytes += xml.len();
        out.write_all(xml.as_bytes())?;
    }
    out.write_all(tail.as_bytes())?;
    out.flush()?;
    line(count, bytes, began, before)
}

/// NCP-B: bytes to entries.
fn read(count: usize, message: &Path) -> Result<Value, Failure> {
    let bytes = std::fs::metadata(message)?.len();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (before, began) = (peak()?, Instant::now());
    let mut objects = RegistryObjects::default();
    let mut unusable = 0;
    let body = runtime.block_on(async {
        let source = tokio::io::BufReader::with_capacity(64 << 10, tokio::fs::File::open(message).await?);
        let take = &mut |object: Element| unusable += usize::from(objects.read_listed(&object).is_err());
        let charge = &mut ncp_xml::ANSWERS.charge("");
        Ok::<_, Failure>(Element::parse_lifting(source, &Limits::LISTED, RegistryObjects::LISTED, take, charge).await?)
    })?;
    let (read, _) = QueryResponse::read(&body)?;
    if objects.entries.len() != count || unusable != 0 || read.status != Status::Success {
        return Err("entries did not come back".into());
    }
    line(count, bytes as usize, began, before)
}

fn line(count: usize, bytes: usize, began: Instant, before: u64) -> Result<Value, Failure> {
    let took = began.elapsed().as_secs_f64();
    let kib = peak()?.saturating_sub(before) as f64;
    let per = |value: f64| round(value / count as f64);
    Ok(json!({
        "bench": "metadata", "role": Value::Null, "entries": count, "us_per_entry": per(took * 1e6),
        "message_kib_per_entry": per(bytes as f64 / 1024.0), "peak_kib_per_entry": per(kib), "target_kib_per_entry": 4,
    }))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn answer(count: usize) -> Result<QueryResponse, Failure> {
    let envelope = Element::parse(SAMPLE, &Limits::ANSWER)?;
    let body = envelope.child(SOAP, "Body").and_then(|b| b.elements().next()).ok_or("no body")?;
    let (mut response, _) = QueryResponse::read(body)?;
    let sample = response.objects.entries.first().cloned().ok_or("no entry")?;
    let home = HomeCommunityId(Oid::parse("2.999.47")?);
    let entry = |n: usize| DocumentEntry {
        entry_uuid: format!("urn:uuid:{:08x}-0000-4000-8000-000000000000", n),
        unique_id: format!("{}.{n}", sample.unique_id),
        home: Some(home.clone()),
        ..sample.clone()
    };
    response.objects = RegistryObjects::of_entries((0..count).map(entry).collect());
    Ok(response)
}

/// VmHWM in KiB.
fn peak() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
