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
    let all = Matched { records: found.clone(), matching: found.len() };
    let dir = tempfile::tempdir().expect("a folder");
    assert!(export(&all, Form::Xml, &dir.path().join("xml")).expect("writes"));
    for (index, one) in found.iter().enumerate() {
        let written = std::fs::read(dir.path().join("xml").join(format!("{index:06}.xml"))).expect("reads");
        assert_eq!(Some(&written), one.record.as_ref().map(|r| &r.message), "as it was received");
    }
    let file = dir.path().join("bundle.json");
    assert!(export(&all, Form::Fhir, &file).expect("writes"));
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
    assert!(export(&all, Form::Csv, &file).expect("writes"));
    let text = std::fs::read_to_string(&file).expect("reads");
    assert_eq!(text.lines().count(), found.len() + 1);
    assert!(text.lines().skip(1).all(|row| row.matches("\",\"").count() == 11), "twelve cells a row");
}

/// TR-09: what was cut is an error, and the Bundle says how much there is.
#[test]
fn tr_09_an_export_that_is_cut_says_so() {
    let mut records: Vec<Found> = examples().into_iter().map(|(_, found)| found).collect();
    let matching = records.len();
    records.pop();
    let dir = tempfile::tempdir().expect("a folder");
    let cut = Matched { records, matching };
    for (form, name) in [(Form::Xml, "xml"), (Form::Csv, "rows.csv"), (Form::Fhir, "bundle.json")] {
        assert!(!export(&cut, form, &dir.path().join(name)).expect("writes"), "{name}");
    }
    let bundle = std::fs::read(dir.path().join("bundle.json")).expect("reads");
    let bundle: Value = serde_json::from_slice(&bundle).expect("JSON");
    assert_eq!(bundle["total"], matching);
    assert_eq!(bundle["entry"].as_array().map(Vec::len), Some(matching - 1));
    // A record that no AuditEvent can be made of is missing too.
    let without_form = Found { record: None, ..Found::default() };
    let odd = Matched { records: vec![without_form], matching: 1 };
    assert!(!export(&odd, Form::Fhir, &dir.path().join("odd.json")).expect("writes"));
}
