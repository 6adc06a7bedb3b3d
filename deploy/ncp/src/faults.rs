//! What goes wrong on the way: a retrieve that partly fails, an archive that stops, a gateway that is ended or killed,
//! an index that is lost. Each is on the trail, and the next good request is served.

use std::time::{Duration, Instant};

use ncp_audit::Filter;
use ncp_ihe::{DocumentRequest, Oid, PatientAnswer, PatientId, RetrieveRequest, Status, actions};
use ncp_tests::attack::{TOO_LONG, verdict, with_slot};
use ncp_tests::neighbour::{Neighbour, XCA, retrieve_response};
use serde_json::json;

use crate::check::{Steps, ensure, imaging_request, manifest, neighbour, wanted};
use crate::clinician::Client;
use crate::demo::{Demo, FINLAND, NORWAY, large_study, offset, wait_ready};
use crate::issuer::Token;
use crate::{Error, audit};

pub(crate) async fn run(steps: &mut Steps, demo: &mut Demo) {
    let began = Instant::now();
    steps.done("retrieve-partly-fails", began, partly(demo).await);
    let began = Instant::now();
    steps.done("one-long-message", began, long_message(demo).await);
    let began = Instant::now();
    steps.done("archive-stops-mid-instance", began, archive_stops(demo).await);
    let began = Instant::now();
    steps.done("drain-on-sigterm", began, drain(demo).await);
    let began = Instant::now();
    steps.done("restart-after-kill", began, restart(demo).await);
    let began = Instant::now();
    steps.done("audit-reindex", began, reindex(demo).await);
    let began = Instant::now();
    steps.done("audit-commands", began, commands(demo).await);
}

/// Two documents are asked for, one is not there: one comes, and two messages of one exchange say so.
async fn partly(demo: &Demo) -> Result<serde_json::Value, Error> {
    let patient = PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let reader = neighbour(demo, &FINLAND, &NORWAY)?;
    let entries = reader.documents(&patient).await?.objects.entries;
    let there = wanted(entries.iter().find(|e| e.mime_type == "text/xml").ok_or("no report")?);
    let absent = DocumentRequest { document: "2.999.47.30.999".into(), ..there.clone() };
    let request = RetrieveRequest { documents: vec![there, absent] };
    let assertions = reader.assertions(&patient).await?;
    let mut answer = reader.call(actions::ITI39_REQUEST, XCA, &assertions, request.to_element()).await?;
    let response = retrieve_response(&answer.body)?;
    while answer.parts.next().await?.is_some() {
        while answer.parts.chunk().await?.is_some() {}
    }
    ensure(
        response.status == Status::PartialSuccess && response.documents.len() == 1,
        format!("{:?} with {} documents", response.status, response.documents.len()),
    )?;
    let codes = answer.codes();
    ensure(codes.iter().any(|c| c == "XDSDocumentUniqueIdError"), format!("codes {codes:?}"))?;
    let mut outcomes = Vec::new();
    for _ in 0..100 {
        let filter = Filter { patient: patient.to_cx(), transaction: "ITI-39".into(), ..Filter::default() };
        let found = audit::search(&demo.dir, "no", filter).await?;
        let facts: Vec<_> = found.iter().filter_map(|f| f.record.as_ref()?.facts.clone()).collect();
        if let Some(failed) = facts.iter().find(|f| f.outcome == 4) {
            outcomes = facts.iter().filter(|f| f.exchange_id == failed.exchange_id).map(|f| f.outcome).collect();
            outcomes.sort_unstable();
            if outcomes == [0, 4] {
                return Ok(json!({ "documents": 1, "outcomes": outcomes }));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("the exchange has outcomes {outcomes:?}").into())
}

/// One message of 13 MiB without assertions is refused by its size; its record has length and digest, and the records behind
/// it arrive within seconds.
async fn long_message(demo: &Demo) -> Result<serde_json::Value, Error> {
    let patient = PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let reader = neighbour(demo, &FINLAND, &NORWAY)?;
    let body = with_slot(Neighbour::find_documents(&patient).to_element(), &"x".repeat(13 << 20));
    // What is sent is no valid message, so that it is not kept for those who check messages.
    let mut sender = neighbour(demo, &FINLAND, &NORWAY)?;
    sender.capture = None;
    let answer = sender.call(actions::ITI38_REQUEST, XCA, &[], body).await?;
    ensure(verdict(&answer) == TOO_LONG, format!("answered {}", verdict(&answer)))?;
    let sent = jiff::Timestamp::now().as_microsecond();
    reader.documents(&patient).await?;
    for _ in 0..100 {
        let filter = Filter { transaction: "ITI-38".into(), ..Filter::default() };
        let found = audit::search(&demo.dir, "no", filter).await?;
        let records = || found.iter().filter_map(|found| found.record.as_ref());
        let told = |message: &[u8]| String::from_utf8_lossy(message).contains("the query is longer than 256 KiB (");
        let refused = records().filter(|record| told(&record.message)).count();
        let behind = records().filter(|record| record.event_time_us >= sent).count();
        if refused > 0 && behind > 0 {
            return Ok(json!({ "fault": "one message of 13 MiB", "accepted": 2, "recorded": 2, "lost": 0 }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the records behind a long message do not arrive".into())
}

/// The index is thrown away and made again from the records; the same searches find the same.
async fn reindex(demo: &mut Demo) -> Result<serde_json::Value, Error> {
    let all = || Filter { limit: 1000, transaction: "RAD-75".into(), ..Filter::default() };
    let places = |found: &[ncp_proto::audit::Found]| -> Vec<(String, u64, u64)> {
        let records = found.iter().filter_map(|f| f.record.as_ref().map(|r| (f.source.clone(), r.epoch, r.seq)));
        records.collect()
    };
    let before = places(&audit::search(&demo.dir, "no", all()).await?);
    demo.terminate("no", "ncp-audit").await?;
    demo.ended("no/ncp-audit").await?;
    for entry in std::fs::read_dir(demo.dir.join("no/audit"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("index.sqlite")) {
            std::fs::remove_file(path)?;
        }
    }
    demo.once("no", "ncp-audit", &["migrate", "--config"], "audit.toml").await?;
    demo.once("no", "ncp-audit", &["reindex", "--config"], "audit.toml").await?;
    demo.start_one("no", "ncp-audit")?;
    wait_ready(offset("no") + 450).await?;
    let after = places(&audit::search(&demo.dir, "no", all()).await?);
    ensure(!before.is_empty() && before == after, format!("{} records before, {} after", before.len(), after.len()))?;
    Ok(json!({ "records": after.len() }))
}

/// The commands that an auditor and an operator use, as they use them.
async fn commands(demo: &Demo) -> Result<serde_json::Value, Error> {
    let dir = demo.dir.display().to_string();
    let of = ["--dir", &dir, "--country", "no"];
    let why = ["--reason", "review"];
    let run = async |arguments: &[&str]| -> Result<(bool, String), Error> {
        let tool = std::env::current_exe()?;
        let done = tokio::process::Command::new(tool).arg("audit").args(arguments).output().await?;
        Ok((done.status.success(), String::from_utf8(done.stdout)?))
    };
    let good = async |arguments: &[&str]| -> Result<String, Error> {
        let (good, text) = run(arguments).await?;
        ensure(good && !text.is_empty(), format!("ncp audit {} says nothing", arguments.join(" "))).map(|()| text)
    };
    let list = good(&[&["list"], &of[..], &why, &["--transaction", "ITI-39"]].concat()).await?;
    let exchange = list.lines().next().and_then(|line| line.split_whitespace().find(|w| w.len() == 36));
    let exchange = exchange.ok_or("list names no exchange")?;
    let shown = good(&[&["show", exchange], &of[..], &why].concat()).await?;
    ensure(shown.contains("<AuditMessage") && shown.contains("ITI-39"), "show shows no message")?;
    let found = good(&[&["search"], &of[..], &why, &["--outcome", "12"]].concat()).await?;
    ensure(found.lines().all(|line| line.contains("outcome 12")), "search finds other outcomes")?;
    let (unreasoned, _) = run(&[&["list"], &of[..]].concat()).await?;
    ensure(!unreasoned, "the trail is read without a reason")?;
    let (_, gaps) = run(&[&["gaps"], &of[..]].concat()).await?;
    ensure(gaps.contains("internal-client.ncp.no epoch 1") && !gaps.contains("MISSING"), format!("gaps: {gaps}"))?;
    let out = demo.dir.join("export");
    let mut exported = 0;
    for form in ["fhir", "csv", "xml"] {
        let file = out.with_extension(form).display().to_string();
        let said = good(
            &[&["export"], &of[..], &why, &["--transaction", "RAD-75", "--format", form, "--out", &file]].concat(),
        )
        .await?;
        exported = said.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    }
    let bundle: serde_json::Value = serde_json::from_slice(&std::fs::read(out.with_extension("fhir"))?)?;
    let entries = bundle["entry"].as_array().map_or(0, Vec::len);
    let rows = std::fs::read_to_string(out.with_extension("csv"))?.lines().count() - 1;
    let files = std::fs::read_dir(out.with_extension("xml"))?.count();
    ensure(
        exported > 0 && [entries, rows, files] == [exported; 3],
        format!("{entries}, {rows}, {files} of {exported}"),
    )?;
    let (spool, key) = (demo.dir.join("no/spool"), demo.no.path("spool.key"));
    let held = good(&["spool", "--spool", &spool.display().to_string(), "--key", &key.display().to_string()]).await?;
    ensure(held.contains("records in") && held.contains("feed: "), format!("spool: {held}"))?;

    let mut watching = tokio::process::Command::new(std::env::current_exe()?)
        .args([&["audit", "watch"], &of[..], &why].concat())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let watched = watching.stdout.take().ok_or("no output")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(watched));
    // Every search is on the trail, so that it shows in what is watched; the watcher may not be there yet.
    let asking = async {
        loop {
            run(&[&["list"], &of[..], &why, &["--limit", "1"]].concat()).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        #[allow(unreachable_code)]
        Ok::<(), Error>(())
    };
    let seen = tokio::select! {
        line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()) => line??.unwrap_or_default(),
        asked = asking => { asked?; String::new() }
    };
    ensure(seen.contains("110101"), format!("watch shows {seen}"))?;
    Ok(json!({ "exported": exported }))
}

/// What a reader of the large study got.
struct Read {
    bytes: u64,
    instances: usize,
    asked: usize,
    broken: bool,
}

/// Asks for the large study and reads it; `meanwhile` runs once, after the first MiBs.
async fn read_large(
    demo: &mut Demo,
    after: u64,
    meanwhile: impl AsyncFnOnce(&mut Demo) -> Result<(), Error>,
) -> Result<Read, Error> {
    let patient = PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let reader = neighbour(demo, &FINLAND, &NORWAY)?;
    let entries = reader.documents(&patient).await?.objects.entries;
    let study = large_study().uid();
    let entry =
        entries.iter().find(|e| e.study_instance_uid().is_some_and(|u| u.as_str() == study)).ok_or("no manifest")?;
    let manifest = manifest(&reader, &patient, entry).await?;
    let request = imaging_request(&manifest, entry.home.as_ref().ok_or("no home")?)?;
    let (response, mut answer) = reader.images(&patient, &request).await?;
    let mut out = Read { bytes: 0, instances: 0, asked: response.documents.len(), broken: false };
    let mut meanwhile = Some(meanwhile);
    loop {
        match answer.parts.next().await {
            Ok(None) => return Ok(out),
            Err(_) => break,
            Ok(Some(_)) => {}
        }
        loop {
            match answer.parts.chunk().await {
                Ok(None) => break,
                Err(_) => {
                    out.broken = true;
                    return Ok(out);
                }
                Ok(Some(chunk)) => {
                    out.bytes += chunk.len() as u64;
                    if out.bytes > after
                        && let Some(work) = meanwhile.take()
                    {
                        work(demo).await?;
                    }
                }
            }
        }
        out.instances += 1;
    }
    out.broken = true;
    Ok(out)
}

/// Waits until the trail holds a RAD-75 of the large study with that outcome; its message.
async fn recorded(demo: &Demo, outcome: i32) -> Result<String, Error> {
    for _ in 0..100 {
        let filter = Filter { study: large_study().uid(), transaction: "RAD-75".into(), ..Filter::default() };
        let found = audit::search(&demo.dir, "no", filter).await?;
        let mut records = found.iter().filter_map(|f| f.record.as_ref());
        let fits = |r: &&ncp_proto::audit::Record| r.facts.as_ref().is_some_and(|f| f.outcome == outcome);
        if let Some(record) = records.find(fits) {
            return Ok(String::from_utf8_lossy(&record.message).into_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("the trail has no RAD-75 with outcome {outcome}").into())
}

/// SIGTERM in the middle of a study: the answer comes whole, its record exists, then the gateway ends.
async fn drain(demo: &mut Demo) -> Result<serde_json::Value, Error> {
    let read = read_large(demo, 8 << 20, async |demo: &mut Demo| demo.terminate("no", "ncp-gateway").await).await?;
    ensure(
        !read.broken && read.instances == read.asked,
        format!("{} of {} instances came", read.instances, read.asked),
    )?;
    demo.ended("no/ncp-gateway").await?;
    demo.start_gateway("no")?;
    wait_ready(offset("no") + 445).await?;
    let message = recorded(demo, 0).await?;
    let count = openssl::base64::encode_block(read.asked.to_string().as_bytes());
    ensure(message.contains(&format!("type=\"NumberOfInstances\" value=\"{count}\"")), "the record counts otherwise")?;
    Ok(json!({ "instances": read.instances, "bytes": read.bytes }))
}

/// The archive's file is cut in the middle: the receiver learns it, the trail says how much went out.
async fn archive_stops(demo: &mut Demo) -> Result<serde_json::Value, Error> {
    let file = demo.dir.join("no/data/dicom/large/000010.dcm");
    let whole = std::fs::read(&file)?;
    std::fs::write(&file, &whole[..whole.len() / 2])?;
    let read = read_large(demo, u64::MAX, async |_: &mut Demo| Ok(())).await;
    std::fs::write(&file, whole)?;
    let read = read?;
    // The others all come behind the one that ends early, and the message has no closing boundary.
    let all = read.broken && read.instances == read.asked;
    ensure(all, format!("{} instances, broken {}", read.instances, read.broken))?;
    // One record of what came and one of what did not.
    for (outcome, instances) in [(4, 1), (0, read.asked - 1)] {
        let message = recorded(demo, outcome).await?;
        let count = openssl::base64::encode_block(instances.to_string().as_bytes());
        let counted = message.contains(&format!("type=\"NumberOfInstances\" value=\"{count}\""));
        ensure(counted, "the record counts otherwise")?;
    }
    Ok(json!({ "whole_instances": read.asked - 1, "bytes": read.bytes, "outcomes": [0, 4] }))
}

/// Norway's gateway is gone: a professional in Finland is told so, and her country's trail says that the way failed.
async fn unreachable(demo: &Demo) -> Result<(), Error> {
    let patient = PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let found = Client::demo(&demo.dir, "fi", &Token::default())?.find(&patient).await;
    ensure(found.is_err() || found.is_ok_and(|(found, _)| found.is_empty()), "found without the other country")?;
    for _ in 0..100 {
        let filter = Filter { transaction: "EHDSI-CF".into(), country: "NO".into(), ..Filter::default() };
        let found = audit::search(&demo.dir, "fi", filter).await?;
        if let Some(record) = found.first().and_then(|f| f.record.as_ref()) {
            let facts = record.facts.clone().unwrap_or_default();
            return ensure(facts.outcome == 12 && facts.user.contains("hpr-9144889"), "EHDSI-CF says too little");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the trail has no EHDSI-CF".into())
}

/// A gateway is killed in the middle of a study and started again: the trail shows it, the next request is served.
async fn restart(demo: &mut Demo) -> Result<serde_json::Value, Error> {
    let read = read_large(demo, 32 << 20, async |demo: &mut Demo| demo.kill("no/ncp-gateway").await).await?;
    ensure(read.broken, "the receiver took a broken study for whole")?;
    unreachable(demo).await?;
    demo.start_gateway("no")?;
    wait_ready(offset("no") + 445).await?;
    recorded(demo, 12).await?;
    let patient = PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let again = neighbour(demo, &FINLAND, &NORWAY)?.find(&Oid::parse(NORWAY.home)?, &patient).await?;
    ensure(matches!(again, PatientAnswer::Matches(_)), "the next good request failed")?;
    Ok(json!({ "bytes_before_kill": read.bytes, "outcome": 12 }))
}
