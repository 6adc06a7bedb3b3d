//! The story as a clinician lives it: everything through the gateway of her own country, the trail in both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use ncp_audit::Filter;
use ncp_ihe::PatientId;
use openssl::sha::Sha256;
use serde_json::{Value, json};

use crate::check::{Steps, ensure};
use crate::clinician::{Client, Line, Piece};
use crate::demo::{Country, Demo, offset, plain};
use crate::issuer::{SCOPES, Token};
use crate::relay::Relay;
use crate::trail::facts;
use crate::{Error, audit, trail, viewer};

/// Find, confirm, list, read, fetch; then what must be refused; then the trail of both countries.
pub(crate) async fn story(
    steps: &mut Steps,
    demo: &Demo,
    asking: &Country,
    holding: &Country,
    patient: &PatientId,
    (archive, instances): (&BTreeMap<String, String>, usize),
) -> Result<(), Error> {
    let way = format!("{}-{}", asking.code, holding.code);
    let client = Client::demo(&demo.dir, asking.code, &Token::default())?;
    let began = Instant::now();
    let found = find(&client, patient).await;
    let entry = found.as_ref().ok().cloned();
    steps.done(&format!("match {way}"), began, found.map(|_| json!({ "grade": "certain" })));
    let Some(entry) = entry else { return Ok(()) };

    let began = Instant::now();
    let confirmed = client.confirm(&entry).await;
    let base = confirmed.as_ref().ok().cloned();
    steps.done(
        &format!("confirm-treatment {way}"),
        began,
        confirmed.map(|base| json!({ "base_characters": base.len() })),
    );
    let Some(base) = base else { return Ok(()) };

    let began = Instant::now();
    let listed = client.documents(&base).await;
    let (lines, result) = match listed {
        Ok(lines) => {
            let reports = lines.iter().filter(|l| l.original.is_some()).count();
            let studies = lines.iter().filter(|l| l.dicomweb.is_some()).count();
            let facts = json!({ "lines": lines.len(), "reports": reports, "studies": studies });
            (lines, ensure(reports >= 1 && studies >= 1, "no report or no study was listed").map(|()| facts))
        }
        Err(error) => (Vec::new(), Err(error)),
    };
    steps.done(&format!("documents {way}"), began, result);

    let began = Instant::now();
    let read = report(&client, &lines).await;
    let said = read.as_ref().ok().and_then(|r| r["said"].as_str()).unwrap_or_default().to_owned();
    steps.done(&format!("binary {way}"), began, read);
    let began = Instant::now();
    steps.done(&format!("coverage {}", asking.code), began, coverage(asking, &said).await);
    if holding.code == "fi" {
        let began = Instant::now();
        steps.done(&format!("orcd {way}"), began, held(&client, &lines).await);
    }
    let began = Instant::now();
    steps.done(&format!("wado-rs {way}"), began, images(&client, &lines, archive, instances).await);
    let began = Instant::now();
    steps.done(&format!("viewer {way}"), began, viewer::walk(&client, &lines, archive).await);
    let began = Instant::now();
    steps.done(&format!("audit-both {way}"), began, trails(demo, asking, holding, patient).await);
    refusals(steps, demo, asking, patient, &entry, &base, &way).await
}

/// Studies that lie in a real Orthanc: found, listed and fetched like any other, every instance as it was stored.
pub(crate) async fn orthanc(
    demo: &Demo,
    asking: &Country,
    patient: &PatientId,
    stored: &BTreeMap<String, String>,
) -> Result<Value, Error> {
    let client = Client::demo(&demo.dir, asking.code, &Token::default())?;
    let entry = find(&client, patient).await?;
    let base = client.confirm(&entry).await?;
    let lines = client.documents(&base).await?;
    ensure(lines.iter().filter(|l| l.dicomweb.is_some()).count() == 2, "two studies were expected")?;
    images(&client, &lines, stored, stored.len()).await
}

/// The other country breaks off inside an instance: the professional's system sees no closing boundary and no further
/// part, the trail of her country says how much came.
pub(crate) async fn broken(demo: &Demo, asking: &Country, patient: &PatientId, relay: &Relay) -> Result<Value, Error> {
    let client = Client::demo(&demo.dir, asking.code, &Token::default())?;
    let base = client.confirm(&find(&client, patient).await?).await?;
    let lines = client.documents(&base).await?;
    let large = crate::demo::large_study();
    let line = lines.iter().find(|l| l.study.as_deref() == Some(&large.uid())).ok_or("the study was not listed")?;
    let root = line.dicomweb.as_ref().ok_or("no root")?;
    relay.cut_next_study_after(20 << 20);
    let mut whole = 0u64;
    let got = client
        .study(root, &large.uid(), |piece| {
            whole += u64::from(matches!(piece, Piece::End));
            Ok(())
        })
        .await;
    ensure(got.is_err(), "a cut study looked complete")?;
    for _ in 0..50 {
        let filter = Filter { study: large.uid(), transaction: "RAD-75".into(), limit: 10, ..Filter::default() };
        for found in audit::search(&demo.dir, asking.code, filter).await? {
            let Some(facts) = facts(&found).filter(|f| f.role == "initiator" && f.outcome == 4) else { continue };
            return Ok(json!({ "whole_instances": whole, "outcome": facts.outcome }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("no record with outcome 4 in the asking country".into())
}

async fn find(client: &Client, patient: &PatientId) -> Result<Value, Error> {
    let (found, missing) = client.find(patient).await?;
    ensure(missing.is_empty(), format!("{missing:?}"))?;
    let [entry] = found.as_slice() else { return Err(format!("{} patients", found.len()).into()) };
    let value = entry.pointer("/resource/identifier/0/value").and_then(Value::as_str);
    ensure(value == Some(&patient.extension), "another patient")?;
    let grade = entry.pointer("/search/extension/0/valueCode").and_then(Value::as_str);
    ensure(grade == Some("certain"), "not certain")?;
    Ok(entry.clone())
}

/// The translation carries the European code; its original is reachable and is the archive's, by its announced digest.
async fn report(client: &Client, lines: &[Line]) -> Result<Value, Error> {
    let line = lines.iter().find(|l| l.original.is_some()).ok_or("no translated report")?;
    let (head, translated) = client.binary(&line.url).await?;
    let header = |name: &str| head.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let digest = format!("sha-256=:{}:", openssl::base64::encode_block(&openssl::sha::sha256(&translated)));
    ensure(header("repr-digest") == digest, "Repr-Digest does not fit")?;
    ensure(header("link").contains("rel=\"original\""), "no link to the original")?;
    ensure(header("cache-control") == "no-store" && header("content-security-policy") == "sandbox", "headers")?;
    let text = String::from_utf8(translated.to_vec())?;
    ensure(text.contains("codeSystem=\"2.16.840.1.113883.6.1\""), "no European code in the report")?;
    // Finnish words for a Norwegian report, Norwegian ones for a Finnish one: national names, or our own phrase.
    let words = ["TT rintakehä", "Thoraxin röntgen", "RG toraks"];
    ensure(header("x-ncp-translation").contains("snapshot="), "not translated for its reader")?;
    ensure(
        words.iter().any(|w| text.contains(&format!("displayName=\"{w}\""))),
        "no designation in the reader's words",
    )?;
    let url = header("link").split(['<', '>']).nth(1).unwrap_or_default().to_owned();
    let (head, original) = client.binary(&url).await?;
    let announced = head.headers().get("x-ncp-original-digest").and_then(|v| v.to_str().ok()).unwrap_or_default();
    ensure(announced == hex::encode(openssl::sha::sha256(&original)), "digest of the original does not fit")?;
    ensure(text.as_bytes() != original, "translation and original are the same")?;
    Ok(json!({ "translated_bytes": text.len(), "original_bytes": original.len(), "said": header("x-ncp-translation") }))
}

/// What a country with OpenNCP would show: the report as PDF and the key image as PNG, out of their OrCD documents.
async fn held(client: &Client, lines: &[Line]) -> Result<Value, Error> {
    let mut out = serde_json::Map::new();
    for (media_type, begins) in [("application/pdf", &b"%PDF-"[..]), ("image/png", b"\x89PNG\r\n\x1a\n")] {
        let line = lines.iter().find(|l| l.held.as_deref() == Some(media_type));
        let line = line.ok_or_else(|| format!("no document holds {media_type}"))?;
        let bytes = client.binary_as(&line.url, media_type).await?.map_err(|s| format!("{media_type}: {s}"))?;
        ensure(bytes.starts_with(begins), format!("{media_type} does not begin as one"))?;
        let whole = client.binary_as(&line.url, "text/xml").await?.map_err(|s| format!("the CDA: {s}"))?;
        let inside = ncp_ihe::orcd::held(&whole).map_err(|_| "no memory for the CDA")?;
        ensure(inside.is_some_and(|(_, inside)| inside == bytes), "the CDA holds something else")?;
        let other = if media_type == "image/png" { "application/pdf" } else { "image/png" };
        let refused = client.binary_as(&line.url, other).await?;
        ensure(refused == Err(StatusCode::NOT_ACCEPTABLE), "another media type than it holds was answered")?;
        out.insert(media_type.to_owned(), json!(bytes.len()));
    }
    Ok(Value::Object(out))
}

/// The coverage page of the country that read the report: of the snapshot that gave its words, with every code system
/// that is mapped from.
async fn coverage(country: &Country, said: &str) -> Result<Value, Error> {
    let page = plain(offset(country.code) + 451, "/coverage").await?.ok_or("no terminology service")?;
    let digest = said.split("snapshot=").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
    ensure(digest.len() == 64 && page.contains(digest), "the page is of another snapshot")?;
    for system in ["2.16.578.1.12.4.1.1.7270", "1.2.208.176.2.4", "2.999.246.1.1"] {
        ensure(page.contains(&format!("<td>urn:oid:{system}</td>")), format!("{system} is not on the page"))?;
    }
    Ok(json!({ "systems": page.matches("<tr><td>").count(), "bytes": page.len() }))
}

/// Every instance of every study, compared with the archive's file.
async fn images(
    client: &Client,
    lines: &[Line],
    archive: &BTreeMap<String, String>,
    expected: usize,
) -> Result<Value, Error> {
    let known: std::collections::BTreeSet<&String> = archive.values().collect();
    let (mut count, mut bytes) = (0, 0u64);
    for line in lines {
        let (Some(root), Some(study)) = (&line.dicomweb, &line.study) else { continue };
        let mut digest = Sha256::new();
        let mut announced = 0;
        let got = client
            .study(root, study, |piece| {
                match piece {
                    Piece::Begin(total) => announced = total,
                    Piece::Warning(text) => return Err(text.into()),
                    Piece::Chunk(chunk) => {
                        digest.update(chunk);
                        bytes += chunk.len() as u64;
                    }
                    Piece::End => {
                        let whole = hex::encode(std::mem::replace(&mut digest, Sha256::new()).finish());
                        ensure(known.contains(&whole), "an instance differs from the archive's")?;
                    }
                }
                Ok(())
            })
            .await?;
        ensure(got as u64 == announced, format!("{got} of {announced} instances"))?;
        count += got;
    }
    ensure(count == expected, format!("{count} instances, {expected} expected"))?;
    Ok(json!({ "instances": count, "bytes": bytes, "sha256": "all equal" }))
}

/// The messages of both countries by their rows, and the assertions' issue at the asking one.
async fn trails(demo: &Demo, asking: &Country, holding: &Country, patient: &PatientId) -> Result<Value, Error> {
    let initiator = trail::walk(demo, asking, "initiator", patient).await?;
    let responder = trail::walk(demo, holding, "responder", patient).await?;
    let all = audit::search(&demo.dir, asking.code, Filter { limit: 1000, ..Filter::default() }).await?;
    // Assertions issued, and the report that was translated for its reader, with the snapshot.
    for issued in ["ITI-40", "EHDSI-92", "ncp:terminology-snapshot"] {
        let is = |f: &ncp_proto::audit::Found| {
            f.record.as_ref().is_some_and(|r| String::from_utf8_lossy(&r.message).contains(issued))
        };
        ensure(all.iter().any(is), format!("no record of {issued}"))?;
    }
    Ok(json!({ asking.code: initiator, holding.code: responder }))
}

/// Name, caller, method, URL, body, the status that is expected.
type Case<'a> = (&'a str, &'a Client, Method, String, Option<&'a Value>, StatusCode);

/// Tokens and sealed bases that must not do.
async fn refusals(
    steps: &mut Steps,
    demo: &Demo,
    asking: &Country,
    patient: &PatientId,
    entry: &Value,
    base: &str,
    way: &str,
) -> Result<(), Error> {
    let as_token = |token: &Token<'_>| Client::demo(&demo.dir, asking.code, token);
    let good = as_token(&Token::default())?;
    let origin = format!("https://localhost:{}", offset(asking.code) + 444);
    let match_url = format!("{origin}/fhir/Patient/$match");
    let list = format!("{base}/DocumentReference");
    let body = json!({ "resourceType": "Patient", "identifier": [{ "system": patient.root.urn(), "value": patient.extension }] });
    let unconfirmed =
        entry.get("fullUrl").and_then(Value::as_str).and_then(|u| u.split_once("/Patient/")).ok_or("url")?.0;
    let other_issuer = if asking.code == "fi" { "no" } else { "fi" };
    let forged = {
        let pki = demo.dir.join(other_issuer).join("pki");
        let token = crate::issuer::token(&pki, asking.code, &Token::default())?;
        Client::new(&origin, &demo.dir.join(asking.code).join("pki/anchors.pem"), token)?
    };
    let none = Client::new(&origin, &demo.dir.join(asking.code).join("pki/anchors.pem"), String::new())?;
    let expired = as_token(&Token { life: -600, ..Token::default() })?;
    let narrow = as_token(&Token { scope: "user/Patient.rs", ..Token::default() })?;
    let colleague = as_token(&Token { subject: "hpr-1", scope: SCOPES, ..Token::default() })?;
    let tampered = list.replacen("/p/", "/p/A", 1);
    let nobody = json!({ "resourceType": "Patient", "identifier": [{ "system": "urn:oid:2.999.9", "value": "1" }] });
    let confirm = format!("{}/$confirm-treatment", entry.get("fullUrl").and_then(Value::as_str).unwrap_or_default());
    let btg = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "purpose", "valueCoding": { "code": "BTG" } }, { "name": "relationship", "valueBoolean": true } ] });
    let cases: Vec<Case<'_>> = vec![
        ("bearer-missing", &none, Method::POST, match_url.clone(), Some(&body), StatusCode::UNAUTHORIZED),
        ("bearer-expired", &expired, Method::POST, match_url.clone(), Some(&body), StatusCode::UNAUTHORIZED),
        ("bearer-forged", &forged, Method::POST, match_url.clone(), Some(&body), StatusCode::UNAUTHORIZED),
        ("bearer-scope", &narrow, Method::GET, list.clone(), None, StatusCode::FORBIDDEN),
        ("sealed-of-a-colleague", &colleague, Method::GET, list.clone(), None, StatusCode::NOT_FOUND),
        ("sealed-tampered", &good, Method::GET, tampered, None, StatusCode::NOT_FOUND),
        ("unconfirmed", &good, Method::GET, format!("{unconfirmed}/DocumentReference"), None, StatusCode::BAD_REQUEST),
        ("emergency-without-reason", &good, Method::POST, confirm, Some(&btg), StatusCode::BAD_REQUEST),
        ("country-unknown", &good, Method::POST, match_url, Some(&nobody), StatusCode::UNPROCESSABLE_ENTITY),
    ];
    for (name, client, method, url, body, expected) in cases {
        let began = Instant::now();
        let result = async {
            let (status, answer) = client.json(method, &url, body).await?;
            ensure(status == expected, format!("{status}, expected {expected}"))?;
            ensure(
                answer.get("resourceType").and_then(Value::as_str) == Some("OperationOutcome"),
                "no OperationOutcome",
            )?;
            ensure(!answer.to_string().contains(&patient.extension), "the refusal names the patient")?;
            Ok(json!({ "status": status.as_u16() }))
        };
        let result = result.await;
        steps.done(&format!("refused {name} {way}"), began, result);
    }
    Ok(())
}
