//! The operator's commands, run as an operator runs them on the demonstration.

use std::path::Path;

use ncp_ihe::{PatientId, actions};
use ncp_tests::neighbour::{Neighbour, XCA};
use serde_json::{Value, json};

use crate::Error;
use crate::check::ensure;
use crate::demo::Demo;

/// `ncp cert`, `ncp explain` and `ncp policy`.
pub(crate) async fn commands(demo: &Demo, sources: &Path, neighbour: &Neighbour) -> Result<Value, Error> {
    let text = |path: &Path| path.display().to_string();
    let config = text(&demo.dir.join("no/gateway.toml"));
    let doctor = good(&["cert", "doctor", "--config", &config]).await?;
    ensure(doctor.contains("answers to localhost") && doctor.contains("days left"), format!("doctor: {doctor}"))?;
    let calendar = text(&demo.dir.join("certificates.ics"));
    good(&["cert", "calendar", "--config", &config, "--out", &calendar]).await?;
    let events = std::fs::read_to_string(&calendar)?.matches("BEGIN:VEVENT").count();
    ensure(events > 0, "the calendar is empty")?;

    let patient = PatientId::parse_cx("30857710106^^^&2.16.578.1.12.4.1.4.1&ISO")?;
    let assertions = neighbour.assertions(&patient).await?;
    let body = Neighbour::find_documents(&patient).to_element();
    let message = String::from_utf8(neighbour.message(actions::ITI38_REQUEST, XCA, &assertions, body))?;
    let file = text(&demo.dir.join("message.xml"));
    std::fs::write(&file, &message)?;
    let (admitted, said) = run(&["explain", "--config", &config, &file]).await?;
    ensure(admitted && said.contains("ADMITTED"), format!("explain: {said}"))?;
    std::fs::write(&file, message.replace("TREATMENT", "EMERGENCY"))?;
    let (admitted, said) = run(&["explain", "--config", &config, &file]).await?;
    ensure(!admitted && said.contains("signature: does not verify"), format!("explain of a changed message: {said}"))?;

    let policies = |country: &str| text(&sources.join("gateway/policies").join(country));
    let (old, new) = (policies("no"), policies("fi"));
    let cases = format!("{old}/cases.toml");
    let tested = good(&["policy", "test", &old]).await?;
    ensure(tested.contains(" 0 failed"), format!("policy test: {tested}"))?;
    let explained = good(&["policy", "explain", "--folder", &old, &cases]).await?;
    ensure(explained.contains("by       iti-55-professionals"), "policy explain names no rule")?;
    let compared = good(&["policy", "diff", &old, &new, &cases]).await?;
    ensure(compared.contains("opens 0 and closes 0"), format!("policy diff: {compared}"))?;
    let cases = tested.split_whitespace().next().and_then(|n| n.parse::<usize>().ok());
    Ok(json!({ "certificates": events, "policy_cases": cases }))
}

/// `ncp attack` as a peer of Norway, as a consumer and a clinician of Finland, and at the trail.
pub(crate) async fn attack(demo: &Demo) -> Result<Value, Error> {
    let (dir, report) = (demo.dir.display().to_string(), demo.dir.join("attack.md"));
    let said = good(&["attack", "--dir", &dir, "--out", &report.display().to_string()]).await?;
    ensure(said.contains(" 0 failed"), format!("attack: {said}"))?;
    let held = std::fs::read_to_string(report)?.lines().filter(|line| line.ends_with("| yes |")).count();
    ensure(said.starts_with(&format!("{held} rows")), format!("{held} rows in the report, {said}"))?;
    Ok(json!({ "rows": held }))
}

async fn good(arguments: &[&str]) -> Result<String, Error> {
    let (good, text) = run(arguments).await?;
    ensure(good && !text.is_empty(), format!("ncp {}: {text}", arguments.join(" "))).map(|()| text)
}

async fn run(arguments: &[&str]) -> Result<(bool, String), Error> {
    let done = tokio::process::Command::new(std::env::current_exe()?).args(arguments).output().await?;
    Ok((done.status.success(), String::from_utf8(done.stdout)? + &String::from_utf8(done.stderr)?))
}
