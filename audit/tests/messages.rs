//! The audit tables, walked: every transaction at both sides and every event, in both dialects, each against its own
//! schema and field by field, and equal to the committed example. `UPDATE_EXAMPLES=1` writes the examples.

#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use ncp_audit::*;

fn at() -> Timestamp {
    "2026-11-23T09:14:11.950Z".parse().expect("an instant")
}

fn site() -> Site {
    Site {
        source: "ncp-a.no.example.test".into(),
        enterprise_site: "NO-NCP".into(),
        node: "ncp-a.no.example.test".into(),
        ehdsi: true,
        ..Site::default()
    }
}

fn peer() -> PeerFacts {
    PeerFacts {
        country: "FI".into(),
        home_community_id: "urn:oid:2.999.246".into(),
        certificate_name: "ncp-b.fi.example.test".into(),
        address: "192.0.2.20".into(),
        endpoint: String::new(),
    }
}

fn user() -> HumanRequestor {
    HumanRequestor {
        user_name: "mso<dr.4711@https://idp.fi.example.test>".into(),
        display: "Dr Åsa \u{202e}<Example>\u{1b}[31m".into(),
        role: ("2212".into(), "2.16.840.1.113883.2.9.6.2.7".into(), "Specialist medical practitioners".into()),
        organisation: "Example Hospital".into(),
    }
}

const PATIENT: &str = "14857012345^^^&2.16.578.1.12.4.1.4.1&ISO";
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Code; EventID and action at NCP-B and NCP-A; the same for `ehdsi`; role of the object; its type code in `ihe`;
/// display name in `ehdsi`.
struct Row(Transaction, &'static str, [&'static str; 4], [&'static str; 4], &'static str, &'static str, &'static str);

const QUERY: [&str; 4] = ["110112", "E", "110112", "E"];
const PHI: [&str; 4] = ["110107", "C", "110106", "R"];
const DICOM: [&str; 4] = ["110103", "C", "110104", "R"];

const ROWS: [Row; 15] = [
    Row(Transaction::Iti55, "ITI-55", QUERY, QUERY, "24", "ITI-55", "IdentityService::FindIdentityByTraits"),
    Row(Transaction::Iti38, "ITI-38", QUERY, QUERY, "24", "ITI-38", "OrCDService::List"),
    Row(Transaction::Iti39, "ITI-39", PHI, PHI, "3", "9", "OrCDService::Retrieve"),
    Row(Transaction::Rad75, "RAD-75", DICOM, PHI, "3", "110180", "Cross Gateway Retrieve Imaging Document Set"),
    Row(Transaction::Iti18, "ITI-18", QUERY, QUERY, "24", "ITI-18", "Registry Stored Query"),
    Row(Transaction::Iti43, "ITI-43", PHI, PHI, "3", "9", "Retrieve Document Set"),
    Row(Transaction::Rad69, "RAD-69", DICOM, PHI, "3", "110180", "Retrieve Imaging Document Set"),
    Row(Transaction::Iti78, "ITI-78", QUERY, QUERY, "24", "ITI-78", "Mobile Patient Demographics Query"),
    Row(Transaction::Iti83, "ITI-83", QUERY, QUERY, "24", "ITI-83", "Mobile Patient Identifier Cross-reference Query"),
    Row(Transaction::Iti119, "ITI-119", QUERY, QUERY, "24", "ITI-119", "Patient Demographics Match"),
    Row(Transaction::Iti67, "ITI-67", QUERY, QUERY, "24", "ITI-67", "Find Document References"),
    Row(Transaction::Iti68, "ITI-68", PHI, PHI, "3", "9", "Retrieve Document"),
    Row(Transaction::Rad129, "RAD-129", QUERY, QUERY, "24", "RAD-129", "QIDO-RS Query"),
    Row(Transaction::Rad107, "RAD-107", DICOM, PHI, "3", "110180", "WADO-RS Retrieve"),
    Row(Transaction::Rad160, "RAD-160", DICOM, PHI, "3", "110180", "WADO-RS Retrieve across communities"),
];

fn exchange(row: &Row, role: Role) -> AuditRecord {
    let initiator = role == Role::Initiator;
    let peer = PeerFacts {
        endpoint: if initiator { "https://ncp.fi.example.test/x".into() } else { String::new() },
        ..peer()
    };
    let intent = Intent {
        exchange_id: "5b2f0c1e-0000-4000-8000-00000000bbbb".into(),
        transaction: row.0,
        role,
        peer,
        own_endpoint: if initiator {
            "http://www.w3.org/2005/08/addressing/anonymous"
        } else {
            "https://ncp-a.no.example.test/x"
        }
        .into(),
        own_address: "198.51.100.10".into(),
        trace: TRACE.into(),
        began: at(),
    };
    let (documents, studies) = match (row.4, row.5) {
        ("3", "9") => (vec![document()], vec![]),
        ("3", _) => (vec![], vec![study()]),
        _ => (vec![], vec![]),
    };
    let query = (row.4 == "24").then(|| QueryObject {
        id: "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d".into(),
        bytes: b"<q/>".to_vec(),
        class_codes: vec!["18748-4^^2.16.840.1.113883.6.1".into(), "55113-5^^2.16.840.1.113883.6.1".into()],
    });
    let decision = Decision {
        message_id: "urn:uuid:aaaa".into(),
        request_header: if initiator { "" } else { "<s:Header>request</s:Header>" }.into(),
        user: Some(user()),
        patient: Some(PATIENT.into()),
        purpose: "TREATMENT".into(),
        query,
        ..Decision::default()
    };
    let outcome = Outcome { documents, studies, ..Outcome::new(OutcomeIndicator::Success, "") };
    let mut records = of_exchange(&site(), &intent, &decision, &outcome);
    assert_eq!(records.len(), 1, "{}", row.1);
    let evidence =
        |xml: &str| xml.contains("type=\"securityheader\" value=\"PHM6SGVhZGVyPnJlcXVlc3Q8L3M6SGVhZGVyPg==\"");
    assert!(!evidence(&records[0].xml), "the strict dialect has no evidence");
    assert_eq!(records[0].ehdsi.as_deref().is_some_and(evidence), !initiator, "{}", row.1);
    records.remove(0)
}

fn document() -> DocumentObject {
    DocumentObject {
        unique_id: "2.999.1^1".into(),
        repository: "2.999.21".into(),
        home: "urn:oid:2.999.47".into(),
        bytes: 12,
        sha256: "ab".repeat(32),
        snapshot: "cd".repeat(32),
    }
}

fn study() -> StudyObject {
    StudyObject {
        study: "2.999.5".into(),
        series: vec!["2.999.5.1".into(), "2.999.5.2".into()],
        repository: "2.999.21".into(),
        home: "urn:oid:2.999.47".into(),
        accession: "NO-ACC-77".into(),
        sop_classes: vec![("1.2.840.10008.5.1.4.1.1.2".into(), 19), ("1.2.840.10008.5.1.4.1.1.88.59".into(), 1)],
        instances: 20,
        bytes: 99,
        sha256: "ef".repeat(32),
        ..StudyObject::default()
    }
}

/// Every event that stands alone: its name, its EventID, EventTypeCode and outcome.
fn events() -> Vec<(&'static str, &'static str, &'static str, i32, Event)> {
    let (rule, assertion, patient) = ("rule".to_owned(), "_6f9a5f1c".to_owned(), PATIENT.to_owned());
    let checked = |kind| Event::AssertionChecked {
        kind,
        user: user(),
        assertion: assertion.clone(),
        patient: if kind == AssertionKind::Hcp { String::new() } else { patient.clone() },
        peer: peer(),
    };
    let transcoding = Transcoding {
        input: ("2.999.1^1".into(), "ab".repeat(32)),
        output: ("2.999.1^1^PIVOT".into(), "cd".repeat(32)),
        patient: patient.clone(),
        maps: "ef".repeat(32),
        unmapped: 2,
    };
    vec![
        ("application-start", "110100", "110120", 0, Event::ApplicationStart),
        ("application-stop", "110100", "110121", 0, Event::ApplicationStop),
        ("recording-start", "110100", "110134", 0, Event::RecordingStarted),
        ("recording-stop", "110100", "110133", 0, Event::RecordingStopped),
        (
            "auth-failure-user",
            "110114",
            "110122",
            8,
            Event::UserAuthenticationFailed { rule: rule.clone(), peer: peer() },
        ),
        (
            "auth-failure-node",
            "110113",
            "110126",
            8,
            Event::NodeAuthenticationFailed { rule: rule.clone(), peer: peer() },
        ),
        ("suppressed", "110114", "110122", 8, Event::Suppressed { rule: rule.clone(), count: 41, since: at() }),
        ("restricted-function", "110113", "110132", 4, Event::RestrictedFunction { rule: rule.clone(), peer: peer() }),
        ("security-alert", "110113", "NCP-ALERT", 8, Event::SecurityAlert { rule: rule.clone(), peer: peer() }),
        ("hcp-issue", "110112", "ITI-40", 0, Event::HcpIssued { user: user(), assertion: assertion.clone() }),
        ("hcp-check", "110112", "ITI-40", 0, checked(AssertionKind::Hcp)),
        (
            "trc-issue",
            "110112",
            "EHDSI-92",
            0,
            Event::TrcIssued {
                user: user(),
                assertion: assertion.clone(),
                patient: patient.clone(),
                purpose: "TREATMENT".into(),
                peer: peer(),
            },
        ),
        ("trc-check", "110112", "EHDSI-92", 0, checked(AssertionKind::Trc)),
        (
            "nok-issue",
            "110112",
            "EHDSI-96",
            0,
            Event::NokIssued {
                user: user(),
                assertion: assertion.clone(),
                patient: patient.clone(),
                guarantor: "2^^^&2.999.2&ISO".into(),
                peer: peer(),
            },
        ),
        ("nok-check", "110112", "EHDSI-96", 0, checked(AssertionKind::Nok)),
        ("pivot-translation", "110112", "EHDSI-94", 4, Event::Translated(transcoding)),
        (
            "smp-query",
            "SMP",
            "EHDSI-193",
            0,
            Event::SmpQueried { peer: peer(), query: "urn:ehealth:fi:ncp-idp".into() },
        ),
        (
            "communication-failure",
            "110112",
            "EHDSI-CF",
            12,
            Event::CommunicationFailed {
                role: Role::Initiator,
                rule: rule.clone(),
                user: Some(user()),
                patient: patient.clone(),
                peer: peer(),
            },
        ),
        (
            "emergency-start",
            "110113",
            "110127",
            0,
            Event::EmergencyStarted {
                user: user(),
                patient: patient.clone(),
                rule: "block".into(),
                justification: "unconscious".into(),
                peer: peer(),
            },
        ),
        (
            "emergency-stop",
            "110113",
            "110138",
            0,
            Event::EmergencyStopped { user: user(), patient, rule: "block".into(), peer: peer() },
        ),
        (
            "audit-log-used",
            "110101",
            "ITI-81",
            0,
            Event::AuditLogUsed { user: "auditor.17".into(), query: "date=ge2026".into() },
        ),
    ]
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/audit")
}

/// Validates and compares with the committed example.
fn example(dialect: &str, schema: &str, named: &[(String, String)]) {
    let folder = fixtures().join(dialect);
    let update = std::env::var_os("UPDATE_EXAMPLES").is_some();
    let fresh = tempfile::tempdir().expect("a folder");
    if update {
        std::fs::create_dir_all(&folder).expect("a folder");
    }
    let process = format!("AlternativeUserID=\"{}\"", std::process::id());
    let mut files = Vec::new();
    for (name, xml) in named {
        // The process changes from run to run.
        let xml = format!("{}\n", xml.replace(&process, "AlternativeUserID=\"4242\"").replace("><", ">\n<"));
        let file = fresh.path().join(format!("{name}.xml"));
        std::fs::write(&file, &xml).expect("writes");
        files.push(file);
        let committed = folder.join(format!("{name}.xml"));
        if update {
            std::fs::write(&committed, &xml).expect("writes");
        }
        let old = std::fs::read_to_string(&committed).unwrap_or_default();
        assert!(old == xml, "{dialect}/{name}.xml differs: run UPDATE_EXAMPLES=1\n{xml}");
    }
    let out = Command::new("xmllint")
        .args(["--nonet", "--noout", "--schema"])
        .arg(fixtures().join(schema))
        .args(&files)
        .output()
        .expect("xmllint");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn read(xml: &str) -> Message {
    assert!(!xml.contains(['\u{1b}', '\u{202e}']), "a control character went through");
    Message::read(xml.as_bytes()).expect("reads")
}

/// What holds in both dialects.
fn common(message: &Message, row: &Row, role: Role, [event, action]: [&str; 2]) {
    let name = format!("{} {role:?}", row.1);
    assert_eq!((message.event.code.as_str(), message.action.as_str()), (event, action), "{name}");
    assert_eq!(message.types[0].code, row.1);
    assert_eq!(message.types[0].system, "IHE Transactions");
    assert_eq!(message.purposes[0].code, "TREATMENT");
    assert_eq!((message.source.as_str(), message.enterprise_site.as_str()), ("ncp-a.no.example.test", "NO-NCP"));
    let role_of =
        |code: &str| message.participants.iter().filter(|p| p.roles.iter().any(|r| r.code == code)).collect::<Vec<_>>();
    let human = role_of("2212");
    assert_eq!(human.len(), 1, "{name}: the professional with her true role");
    assert_eq!(
        (human[0].user_id.as_str(), human[0].name.as_str()),
        ("dr.4711", "mso<dr.4711@https://idp.fi.example.test>")
    );
    for party in ["ServiceConsumer", "ServiceProvider"] {
        let party = role_of(party);
        assert!(
            party.len() == 1 && !party[0].address.is_empty() && !party[0].address.starts_with("127."),
            "{name}: address"
        );
    }
    assert!(message.participants.iter().any(|p| p.user_id == "Example Hospital"), "{name}: organisation");
    let object = |kind: &str, role: &str| message.objects.iter().find(|o| o.kind == kind && o.role == role);
    let details = |o: &Object, kind: &str| o.details.iter().filter(|(k, _)| k == kind).count();
    match row.4 {
        "24" => {
            let query = object("2", "24").expect("a query");
            assert_eq!(query.query.as_deref(), Some(b"<q/>".as_slice()));
            assert_eq!(details(query, "ncp:class-code"), 2, "{name}: all class codes");
        }
        _ if row.5 == "9" => {
            let document = message.objects.iter().find(|o| o.id == "2.999.1^1").expect("the document");
            for kind in
                ["Repository Unique Id", "ihe:homeCommunityID", "ncp:sha-256", "ncp:bytes", "ncp:terminology-snapshot"]
            {
                assert_eq!(details(document, kind), 1, "{name}: {kind}");
            }
        }
        _ => {
            let study = message.objects.iter().find(|o| o.id_type.code == "110180").expect("the study");
            assert_eq!(details(study, "Series Instance Unique Id"), 2, "{name}: series");
            for kind in ["Repository Unique Id", "NumberOfInstances", "ncp:sha-256", "ncp:bytes"] {
                assert_eq!(details(study, kind), 1, "{name}: {kind}");
            }
            // In one object, or in one for each class where the schema has room for one.
            let dicom: Vec<&DicomData> = message.objects.iter().filter_map(|o| o.dicom.as_ref()).collect();
            let classes: Vec<_> = dicom.iter().flat_map(|d| d.sop_classes.clone()).collect();
            assert_eq!(classes, self::study().sop_classes, "{name}: instances by class");
            for dicom in dicom {
                assert_eq!((dicom.accessions.len(), dicom.studies[0].as_str()), (1, "2.999.5"));
            }
        }
    }
}

#[test]
fn every_transaction_at_both_sides_in_both_dialects() {
    let (mut ihe, mut ehdsi) = (Vec::new(), Vec::new());
    assert_eq!(ROWS.len() + 1, Transaction::ALL.len(), "a transaction without a row");
    for row in &ROWS {
        for role in [Role::Initiator, Role::Responder] {
            let side = usize::from(role == Role::Responder) * 2;
            let name = format!("{}-{}", row.1.to_lowercase(), ["initiator", "responder"][side / 2]);
            let record = exchange(row, role);

            let message = read(&record.xml);
            common(&message, row, role, [row.2[side], row.2[side + 1]]);
            // What is asked comes from the initiator, what is retrieved from the responder.
            let first = message.participants.first().expect("a source");
            assert_eq!(first.roles[0].code, "110153", "{name}");
            assert_eq!(
                first.roles[1].code,
                if row.4 == "24" { "ServiceConsumer" } else { "ServiceProvider" },
                "{name}"
            );
            let omitted = row.0 == Transaction::Iti55 && role == Role::Initiator;
            assert_eq!(message.patient(), if omitted { "" } else { PATIENT }, "{name}");
            assert!(message.objects.iter().any(|o| o.id_type.code == row.5), "{name}: type of the object");
            assert!(message.objects.iter().any(|o| o.id == TRACE && o.role == "26"), "{name}: trace");

            let old = record.ehdsi.clone().expect("both are written");
            let message = read(&old);
            common(&message, row, role, [row.3[side], row.3[side + 1]]);
            assert_eq!(message.types[0].display, row.6);
            let order: Vec<&str> = message.participants.iter().map(|p| p.roles[0].code.as_str()).collect();
            assert_eq!(order, ["110152", "110153", "ServiceConsumer", "ServiceProvider"], "{name}");
            let (consumer, provider) = (&message.participants[2], &message.participants[3]);
            let ours = if role == Role::Initiator { consumer } else { provider };
            assert_eq!(ours.user_id, "ncp-a.no.example.test", "{name}: CN of the certificate");
            assert_eq!(message.patient(), PATIENT);
            assert!(
                message
                    .objects
                    .iter()
                    .flat_map(|o| &o.details)
                    .any(|(k, v)| k == "traceparent" && v == TRACE.as_bytes())
            );
            ihe.push((name.clone(), record.xml));
            ehdsi.push((name, old));
        }
    }
    example("ihe", "dicom2017c-ipf.xsd", &ihe);
    example("ehdsi", "dicom-unsigned-openncp.xsd", &ehdsi);
}

/// ON-13: what OpenATNA's schema asks for beside its form is in every message of its dialect, also in one that was written
/// in the strict dialect alone, before a receiver took the other.
#[test]
fn on_13_every_message_of_the_other_dialect_validates_with_openatnas_schema() {
    let fresh = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(fixtures().join("ihe")).expect("the examples").flatten() {
        let message = Message::read(&std::fs::read(entry.path()).expect("reads")).expect("a message");
        let xml = message.to_xml(Dialect::Ehdsi);
        let read = Message::read(xml.as_bytes()).expect("a message");
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(read.types.iter().chain([&read.event]).all(|code| !code.display.is_empty()), "{name}: display names");
        assert!(read.types.iter().all(|code| !code.text.is_empty()), "{name}: original texts");
        assert!(
            read.objects.iter().all(|o| o.role.is_empty() || o.role.parse::<u8>().is_ok_and(|r| r <= 24)),
            "{name}"
        );
        assert_eq!(read.facts().studies, message.facts().studies, "{name}");
        let file = fresh.path().join(name);
        std::fs::write(&file, xml).expect("writes");
        files.push(file);
    }
    assert!(files.len() > 40, "{} examples", files.len());
    let schema = fixtures().join("dicom-unsigned-openncp.xsd");
    let out = Command::new("xmllint").args(["--nonet", "--noout", "--schema"]).arg(schema).args(&files).output();
    let out = out.expect("xmllint");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn every_event_in_both_dialects() {
    let (mut ihe, mut ehdsi) = (Vec::new(), Vec::new());
    for (name, event, kind, outcome, what) in events() {
        let record = of_event(&site(), &what, "5b2f0c1e-0000-4000-8000-00000000bbbb", at());
        for xml in [&record.xml, record.ehdsi.as_ref().expect("both are written")] {
            let message = read(xml);
            assert_eq!(message.event.code, event, "{name}");
            assert_eq!(message.types[0].code, kind, "{name}");
            assert_eq!(message.outcome, outcome, "{name}");
            assert!(
                message.participants.iter().any(|p| p.user_id == "ncp-a.no.example.test"),
                "{name}: the application"
            );
        }
        let message = read(&record.xml);
        let details: Vec<&str> = message.objects.iter().flat_map(|o| &o.details).map(|(k, _)| k.as_str()).collect();
        match name {
            "emergency-start" => {
                assert_eq!(message.purposes[0].code, "EMERGENCY");
                assert!(details.contains(&"Alert Description") && details.contains(&"justification"));
            }
            "pivot-translation" => assert!(details.contains(&"ncp:terminology-snapshot")),
            "trc-issue" | "trc-check" | "nok-issue" | "nok-check" => assert_eq!(message.patient(), PATIENT),
            _ => {}
        }
        ihe.push((name.to_owned(), record.xml));
        ehdsi.push((name.to_owned(), record.ehdsi.expect("both are written")));
    }
    example("ihe", "dicom2017c-ipf.xsd", &ihe);
    example("ehdsi", "dicom-unsigned-openncp.xsd", &ehdsi);
}

/// RAD-75 as Import and Export in the strict dialect, where a country configures it.
#[test]
fn images_as_import_and_export() {
    let intent = Intent {
        exchange_id: "x".into(),
        transaction: Transaction::Rad75,
        role: Role::Responder,
        peer: peer(),
        own_endpoint: "https://ncp-a.no.example.test/x".into(),
        own_address: String::new(),
        trace: String::new(),
        began: at(),
    };
    let site = Site { imaging: ImagingEvent::Phi, ..site() };
    let done = Outcome { studies: vec![study()], ..Outcome::new(OutcomeIndicator::Success, "") };
    let records = of_exchange(&site, &intent, &Decision::default(), &done);
    assert_eq!(read(&records[0].xml).event.code, "110106");
}

/// A refusal names its error code; a retrieve that partly failed has two messages.
#[test]
fn refusals_and_partial_retrieves() {
    let intent = Intent {
        exchange_id: "x".into(),
        transaction: Transaction::Iti39,
        role: Role::Responder,
        peer: peer(),
        own_endpoint: "https://ncp-a.no.example.test/x".into(),
        own_address: String::new(),
        trace: String::new(),
        began: at(),
    };
    let refused = Outcome { error_code: "4703".into(), ..Outcome::new(OutcomeIndicator::Serious, "weak") };
    let records = of_exchange(&site(), &intent, &Decision::default(), &refused);
    let message = read(records[0].ehdsi.as_deref().expect("both"));
    assert!(message.objects.iter().any(|o| o.id == "4703" && o.id_type.system == "eHealth DSI Security"));
    let partly = Outcome {
        documents: vec![document()],
        failed_documents: vec![document()],
        ..Outcome::new(OutcomeIndicator::Success, "")
    };
    let outcomes: Vec<i32> =
        of_exchange(&site(), &intent, &Decision::default(), &partly).iter().map(|r| r.outcome).collect();
    assert_eq!(outcomes, [0, 4]);
}

/// What others write is read: OpenNCP's samples, RFC 3881 with `code`, and our own reference set.
#[test]
fn messages_of_others_are_read() {
    let data = std::env::var_os("NCP_SHARED_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let mut read = 0;
    for folder in ["audit/examples", "openncp/audit"] {
        let Ok(entries) = std::fs::read_dir(data.join(folder)) else {
            println!("skipped: needs NCP_SHARED_DATA");
            return;
        };
        for path in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "xml")) {
            let bytes = std::fs::read(&path).expect("reads");
            match Message::read(&bytes) {
                Ok(message) => {
                    let facts = message.facts();
                    assert!(!facts.transaction.is_empty(), "{}", path.display());
                    read += 1;
                }
                // One of the samples has no source, which every message must have.
                Err(error) => assert_eq!(error, ReadError::Missing("AuditSourceIdentification"), "{}", path.display()),
            }
        }
    }
    assert!(read > 25, "{read}");
}
