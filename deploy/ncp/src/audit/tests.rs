//! The operator's readings over messages as OpenNCP writes them.

use std::path::Path;

use ncp_proto::audit::Record;

use super::*;

/// The example set, as a repository hands it out that took it from a foreign sender.
fn examples() -> Vec<(String, Found)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/audit/ehdsi");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("fixtures").flatten().map(|e| e.path()).collect();
    files.sort();
    let found = |path: &std::path::PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let message = std::fs::read(path).expect("reads");
        let read = Message::read(&message).unwrap_or_else(|e| panic!("{name}: {e}"));
        let record = Record {
            event_time_us: read.at.as_microsecond(),
            media_type: "application/xml".into(),
            transport: "syslog".into(),
            facts: Some(read.facts()),
            message,
            ..Record::default()
        };
        (name, Found { source: "openncp".into(), record: Some(record), ..Found::default() })
    };
    files.iter().map(found).collect()
}

fn facts(found: &Found) -> ncp_proto::audit::Facts {
    found.record.clone().and_then(|r| r.facts).unwrap_or_default()
}

#[test]
fn lines_and_objects_of_the_ehdsi_examples() {
    let examples = examples();
    assert!(examples.len() > 50, "{}", examples.len());
    for (name, found) in &examples {
        let (line, facts) = (line(found), facts(found));
        assert!(line.starts_with("20") && line.contains(&facts.transaction), "{name}: {line}");
        assert!(!facts.transaction.is_empty() && !line.chars().any(char::is_control), "{name}");
        let object = object(found);
        assert!(object["message"].as_str().is_some_and(|m| m.contains("AuditMessage")), "{name}");
        assert_eq!(object["transaction"], facts.transaction, "{name}");
        let (code, role) = name.rsplit_once('-').unwrap_or((name, ""));
        if ["initiator", "responder"].contains(&role) {
            assert_eq!(facts.transaction, code.to_uppercase(), "{name}");
            assert!(!facts.user.is_empty() && !facts.organisation.is_empty(), "{name}: who, for whom");
            assert!(!facts.exchange_id.is_empty(), "{name}: the exchange that views fold");
        }
        if code.starts_with("rad-") && code != "rad-129" {
            assert_eq!(facts.studies.len(), 1, "{name}");
        }
    }
    let emergency = |name: &str| facts(&examples.iter().find(|(n, _)| n == name).expect("is there").1).emergency;
    assert!(emergency("emergency-start") && !emergency("iti-38-responder"));
}

#[test]
fn exports_of_the_ehdsi_examples_in_every_form() {
    let found: Vec<Found> = examples().into_iter().map(|(_, found)| found).collect();
    let dir = tempfile::tempdir().expect("a folder");
    export(&found, Form::Xml, &dir.path().join("xml")).expect("writes");
    for (index, one) in found.iter().enumerate() {
        let written = std::fs::read(dir.path().join("xml").join(format!("{index:06}.xml"))).expect("reads");
        assert_eq!(Some(&written), one.record.as_ref().map(|r| &r.message), "as it was received");
    }
    let file = dir.path().join("bundle.json");
    export(&found, Form::Fhir, &file).expect("writes");
    let bundle: Value = serde_json::from_slice(&std::fs::read(&file).expect("reads")).expect("JSON");
    let entries = bundle["entry"].as_array().expect("entries");
    assert_eq!(entries.len(), found.len());
    for entry in entries {
        let event = &entry["resource"];
        // What FHIR R4 asks of every AuditEvent, and what reads it back.
        let held =
            ["/type/code", "/recorded", "/agent/0", "/source/observer"].iter().all(|p| event.pointer(p).is_some());
        assert!(held && ncp_audit::from_audit_event(event).is_ok(), "{event}");
    }
    let file = dir.path().join("rows.csv");
    export(&found, Form::Csv, &file).expect("writes");
    let text = std::fs::read_to_string(&file).expect("reads");
    assert_eq!(text.lines().count(), found.len() + 1);
    assert!(text.lines().skip(1).all(|row| row.matches("\",\"").count() == 11), "twelve cells a row");
}
