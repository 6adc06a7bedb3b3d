//! `ncp demo --check`: the story and its refusals, once, headless.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ncp_ihe::{DicomHeader, Scanned};
use ncp_ihe::{
    DocumentEntry, DocumentRequest, HomeCommunityId, ImagingRequest, Manifest, Oid, PatientAnswer, PatientId,
    SeriesRequest, Status, StudyRequest, Uid,
};
use ncp_tests::neighbour::{Answer, Neighbour, retrieve_response};
use openssl::sha::Sha256;
use serde_json::json;

use crate::clinician::Client;
use crate::demo::{Country, Demo, FINLAND, NORWAY, data_dir, offset};
use crate::relay::Relay;
use crate::{Error, audit, consumer, faults, issuer, ports, refusals, token_endpoint, tools, trail, treatment};

/// Transfer syntaxes that a viewer of today takes.
const SYNTAXES: &[&str] =
    &["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"];

/// Counts and prints steps.
#[derive(Default)]
pub(crate) struct Steps {
    passed: usize,
    failed: usize,
}

impl Steps {
    pub(crate) fn done(&mut self, step: &str, began: Instant, result: Result<serde_json::Value, Error>) {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(facts) => {
                self.passed += 1;
                println!("{}", merged(json!({ "step": step, "ok": true, "ms": ms }), facts));
            }
            Err(error) => {
                self.failed += 1;
                println!("{}", json!({ "step": step, "ok": false, "ms": ms, "error": error.to_string() }));
            }
        }
    }
}

fn merged(mut line: serde_json::Value, facts: serde_json::Value) -> serde_json::Value {
    if let (Some(line), serde_json::Value::Object(facts)) = (line.as_object_mut(), facts) {
        line.extend(facts);
    }
    line
}

/// Fails with words unless the condition holds.
pub(crate) fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(otherwise.into().into()) }
}

pub(crate) async fn run(dir: Option<PathBuf>, sources: &Path) -> Result<bool, Error> {
    let mut steps = Steps::default();
    let began = Instant::now();
    let mut demo = Demo::prepare(data_dir(dir)?, sources)?;
    let to_norway = Relay::between(&demo, &FINLAND, &NORWAY).await?;
    let _to_finland = Relay::between(&demo, &NORWAY, &FINLAND).await?;
    let started = demo.start().await;
    let up = started.is_ok();
    steps.done("start", began, started.map(|()| json!({})));
    if up {
        let patient = PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")?;
        story(&mut steps, &demo, &FINLAND, &NORWAY, &patient, (25, 1)).await?;
        let patient = PatientId::parse_cx("010478-900X^^^&1.2.246.21&ISO")?;
        story(&mut steps, &demo, &NORWAY, &FINLAND, &patient, (1, 0)).await?;
        let patient = PatientId::parse_cx("01827854321^^^&2.16.578.1.12.4.1.4.1&ISO")?;
        let began = Instant::now();
        let stored = archive(&demo.dir.join("no/orthanc-import"))?;
        steps.done("orthanc fi-no", began, treatment::orthanc(&demo, &FINLAND, &patient, &stored).await);
        let large = PatientId::parse_cx("01827812345^^^&2.16.578.1.12.4.1.4.1&ISO")?;
        let began = Instant::now();
        steps.done("peer-breaks-off fi-no", began, treatment::broken(&demo, &FINLAND, &large, &to_norway).await);
        refusals::run(&mut steps, &demo).await?;
        let began = Instant::now();
        steps.done("private-key-jwt fi", began, backend(&demo, &FINLAND).await);
        let began = Instant::now();
        let asking = neighbour(&demo, &FINLAND, &NORWAY)?;
        steps.done("operators-tools", began, tools::commands(&demo, sources, &asking).await);
        faults::run(&mut steps, &mut demo).await;
        for country in ["no", "fi"] {
            let began = Instant::now();
            steps.done(&format!("se_08_ports {country}"), began, ports::run(&demo, country).await);
        }
        let began = Instant::now();
        steps.done("attack", began, tools::attack(&demo).await);
        if let Some(capture) = std::env::var_os("NCP_CAPTURE_DIR").map(PathBuf::from) {
            let began = Instant::now();
            steps.done("records-kept", began, records(&demo.dir, &capture).await);
        }
        let dir = demo.dir.clone();
        demo.stop().await?;
        let began = Instant::now();
        steps.done("no-personal-data-in-logs", began, logs(&dir));
    }
    println!("{}", json!({ "passed": steps.passed, "failed": steps.failed }));
    Ok(steps.failed == 0)
}

/// A back-end system proves who it is with its key, and its token is taken; what it sent once is not taken again.
async fn backend(demo: &Demo, country: &Country) -> Result<serde_json::Value, Error> {
    let pki = demo.dir.join(country.code).join("pki");
    let assertion = token_endpoint::assertion(&pki, country.code, |_| ())?;
    let (status, answer) = token_endpoint::ask(&pki, country.code, &assertion, &[]).await?;
    let token = answer["access_token"].as_str().ok_or_else(|| format!("no token: {status}"))?.to_owned();
    let (again, _) = token_endpoint::ask(&pki, country.code, &assertion, &[]).await?;
    ensure(again == 401, format!("the same assertion again: {again}"))?;
    let late = token_endpoint::assertion(&pki, country.code, |claims| claims["exp"] = json!(1))?;
    let (late, _) = token_endpoint::ask(&pki, country.code, &late, &[]).await?;
    ensure(late == 401, format!("an expired assertion: {late}"))?;
    let base = issuer::audience(country.code);
    let caller = Client::new(&base, &pki.join("anchors.pem"), token)?;
    let person = json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:oid:2.999.9", "value": "1" }] });
    let answer = caller.call(hyper::Method::POST, &format!("{base}/fhir/Patient/$match"), Some(&person)).await?;
    // Nobody's identifier: asked is nothing, but the token was taken.
    ensure(answer.status() == 422, format!("the token: {}", answer.status()))?;
    Ok(json!({ "again": 401, "expired": 401 }))
}

/// The audit records of both countries go beside the messages of the capture, when the last has come.
async fn records(dir: &Path, capture: &Path) -> Result<serde_json::Value, Error> {
    let mut counts = [0; 2];
    loop {
        let before = counts;
        for (count, country) in counts.iter_mut().zip([&NORWAY, &FINLAND]) {
            *count = audit::keep(dir, country, capture).await?;
        }
        if before == counts {
            return Ok(json!({ "no": counts[0], "fi": counts[1] }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Names and identifiers of the demonstration's persons stand in no log line of any process.
fn logs(dir: &Path) -> Result<serde_json::Value, Error> {
    let persons = [
        "30857710106",
        "01827812345",
        "010478-900X",
        "Testesen",
        "Esimerkki",
        "UV59569735",
        "Radiologist on duty",
        "hpr-9144889",
    ];
    let mut lines = 0;
    for country in [&NORWAY, &FINLAND] {
        for entry in std::fs::read_dir(dir.join(country.code).join("log"))? {
            let text = std::fs::read_to_string(entry?.path())?;
            lines += text.lines().count();
            for person in persons {
                ensure(!text.contains(person), "a log line names a person")?;
            }
        }
    }
    ensure(lines > 10, "there are no logs")?;
    Ok(json!({ "lines": lines }))
}

/// A neighbour of `asking` towards the gateway of `holding`.
pub(crate) fn neighbour(demo: &Demo, asking: &Country, holding: &Country) -> Result<Neighbour, Error> {
    let (own, theirs) = if asking.code == "fi" { (&demo.fi, &demo.no) } else { (&demo.no, &demo.fi) };
    Neighbour::new(own, asking.home, &theirs.path("anchors.pem"), "127.0.0.1", offset(holding.code) + 443)
}

/// ITI-55, ITI-38, ITI-39, RAD-75 and the trail, of one patient.
async fn story(
    steps: &mut Steps,
    demo: &Demo,
    asking: &Country,
    holding: &Country,
    patient: &PatientId,
    (instances, blocked): (usize, usize),
) -> Result<(), Error> {
    let way = format!("{}-{}", asking.code, holding.code);
    let neighbour = neighbour(demo, asking, holding)?;
    let receiver = Oid::parse(holding.home)?;

    let began = Instant::now();
    steps.done(&format!("iti55 {way}"), began, discover(&neighbour, &receiver, patient).await);

    let began = Instant::now();
    let queried = neighbour.documents(patient).await;
    let (entries, result) = match queried {
        Ok(answer) => {
            let reports = answer.objects.entries.iter().filter(|e| !e.is_manifest()).count();
            let fits = answer.status == Status::Success
                && reports >= 1
                && answer.objects.entries.iter().all(|e| e.home.is_some());
            let facts =
                json!({ "entries": answer.objects.entries.len(), "reports": reports, "blocked_and_absent": blocked });
            let hidden = answer.objects.entries.iter().all(|e| e.unique_id != "2.999.47.30.2");
            let result =
                ensure(fits, "unexpected answer").and(ensure(hidden, "a blocked document was listed")).map(|()| facts);
            (answer.objects.entries, result)
        }
        Err(error) => (Vec::new(), Err(error)),
    };
    steps.done(&format!("iti38 {way}"), began, result);

    let began = Instant::now();
    steps.done(&format!("iti39 {way}"), began, report(&neighbour, patient, &entries).await);

    let began = Instant::now();
    let archive = archive(&demo.dir.join(holding.code).join("data/dicom"))?;
    steps.done(&format!("rad75 {way}"), began, images(&neighbour, patient, &entries, &archive, instances).await);

    let began = Instant::now();
    steps.done(&format!("audit {way}"), began, trail::walk(demo, holding, "responder", patient).await);
    treatment::story(steps, demo, asking, holding, patient, (&archive, instances)).await?;
    consumer::story(steps, demo, asking, holding, patient, (&archive, instances)).await
}

async fn discover(neighbour: &Neighbour, receiver: &Oid, patient: &PatientId) -> Result<serde_json::Value, Error> {
    match neighbour.find(receiver, patient).await? {
        PatientAnswer::Matches(matches) => {
            ensure(matches.len() == 1 && matches[0].record.id == *patient, "another patient was found")?;
            ensure(matches[0].home.0 == *receiver, "another community")?;
            Ok(json!({ "degree": matches[0].degree }))
        }
        other => Err(format!("no match: {other:?}").into()),
    }
}

/// The original byte for byte, and its pivot: a coded element carries the pivot code and the original.
async fn report(
    neighbour: &Neighbour,
    patient: &PatientId,
    entries: &[DocumentEntry],
) -> Result<serde_json::Value, Error> {
    let entry =
        entries.iter().find(|e| e.mime_type == "text/xml" && !e.is_delayed_assembly()).ok_or("no report was listed")?;
    ensure(
        entry.type_code.code == "18748-4" && entry.practice_setting.code == "394914008",
        "metadata is not in European codes",
    )?;
    let (response, bytes) = neighbour.document(patient, &wanted(entry)).await?;
    ensure(response.status == Status::Success && response.documents.len() == 1, "no document")?;
    let hash = hex::encode(openssl::sha::sha1(&bytes));
    ensure(
        entry.hash.as_deref() == Some(hash.as_str()) && entry.size == Some(bytes.len() as u64),
        "hash or size differ",
    )?;
    let pivot =
        entries.iter().find(|e| e.mime_type == "text/xml" && e.is_delayed_assembly()).ok_or("no pivot was listed")?;
    let (response, transcoded) = neighbour.document(patient, &wanted(pivot)).await?;
    ensure(response.status == Status::Success && response.errors.is_empty(), format!("{:?}", response.errors))?;
    let text = String::from_utf8(transcoded)?;
    let original = String::from_utf8(bytes)?;
    let code = original
        .split("<serviceEvent")
        .nth(1)
        .and_then(|t| t.split("<code code=\"").nth(1))
        .and_then(|t| t.split('"').next());
    let code = code.ok_or("the report has no procedure code")?;
    let event =
        text.split("<serviceEvent").nth(1).and_then(|t| t.split("</serviceEvent>").next()).ok_or("no serviceEvent")?;
    ensure(event.contains("codeSystem=\"2.16.840.1.113883.6.1\""), "no pivot code in the coded element")?;
    ensure(event.contains(&format!("<translation code=\"{code}\"")), "the original code is gone")?;
    Ok(json!({ "original_bytes": original.len(), "pivot_bytes": text.len(), "national_code": code }))
}

pub(crate) fn wanted(entry: &DocumentEntry) -> DocumentRequest {
    DocumentRequest {
        home: entry.home.clone(),
        repository: entry.repository_unique_id.clone(),
        document: entry.unique_id.clone(),
    }
}

/// A RAD-75 request for everything a manifest lists.
pub(crate) fn imaging_request(manifest: &Manifest, home: &HomeCommunityId) -> Result<ImagingRequest, Error> {
    let mut series = Vec::new();
    for one in &manifest.series {
        let location = one.location.clone().ok_or("a series without Retrieve Location UID")?;
        let instances = one.instances.iter().map(|i| DocumentRequest {
            home: Some(home.clone()),
            repository: location.clone(),
            document: i.sop_instance.to_string(),
        });
        series.push(SeriesRequest { series: one.series.clone(), instances: instances.collect() });
    }
    let transfer_syntaxes = SYNTAXES.iter().map(|s| Uid::parse(s)).collect::<Result<_, _>>()?;
    Ok(ImagingRequest { studies: vec![StudyRequest { study: manifest.study.clone(), series }], transfer_syntaxes })
}

/// Fetches a manifest by ITI-39.
pub(crate) async fn manifest(
    neighbour: &Neighbour,
    patient: &PatientId,
    entry: &DocumentEntry,
) -> Result<Manifest, Error> {
    let (response, bytes) = neighbour.document(patient, &wanted(entry)).await?;
    ensure(response.status == Status::Success, "no manifest")?;
    Ok(Manifest::read_kos(&bytes)?)
}

/// All studies of the patient, every instance compared with the archive's file.
async fn images(
    neighbour: &Neighbour,
    patient: &PatientId,
    entries: &[DocumentEntry],
    archive: &BTreeMap<String, String>,
    expected: usize,
) -> Result<serde_json::Value, Error> {
    let (mut count, mut bytes) = (0usize, 0u64);
    for entry in entries.iter().filter(|e| e.is_manifest()) {
        let manifest = manifest(neighbour, patient, entry).await?;
        let home = entry.home.clone().ok_or("entry without home")?;
        let request = imaging_request(&manifest, &home)?;
        let (_, answer) = neighbour.images(patient, &request).await?;
        let (instances, length) = compared(answer, archive).await?;
        count += instances;
        bytes += length;
    }
    ensure(count == expected, format!("{count} instances, {expected} expected"))?;
    Ok(json!({ "instances": count, "bytes": bytes, "sha256": "all equal" }))
}

/// Reads RAD-69 or RAD-75 to its end and compares every instance with the archive's file: instances and bytes.
pub(crate) async fn compared(mut answer: Answer, archive: &BTreeMap<String, String>) -> Result<(usize, u64), Error> {
    let response = retrieve_response(&answer.body)?;
    ensure(response.status == Status::Success, format!("status {:?}, {:?}", response.status, answer.codes()))?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(head) = answer.parts.next().await? {
        let found = response.documents.iter().find(|d| d.content == ncp_ihe::Content::Include(head.content_id.clone()));
        let uid = found.ok_or("a part that the root does not name")?.request.document.clone();
        let mut digest = Sha256::new();
        while let Some(chunk) = answer.parts.chunk().await? {
            digest.update(&chunk);
            bytes += chunk.len() as u64;
        }
        let digest = hex::encode(digest.finish());
        ensure(archive.get(&uid) == Some(&digest), "an instance differs from the archive's")?;
        count += 1;
    }
    Ok((count, bytes))
}

/// SHA-256 of every file of an archive by SOP Instance UID.
pub(crate) fn archive(folder: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut out = BTreeMap::new();
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path())?;
            let Scanned::Header(header) = DicomHeader::scan(&bytes, true) else {
                return Err(format!("{}: no DICOM object", entry.path().display()).into());
            };
            out.insert(header.sop_instance, hex::encode(openssl::sha::sha256(&bytes)));
        }
    }
    Ok(out)
}
