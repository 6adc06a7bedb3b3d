//! SE-01 and SE-21: whatever is accepted, its record passes every receiver, and one message does not fill the spool.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ncp_audit::bounds::{self, EVIDENCE, LOST, OBJECTS, QUERY, RECORD, TEXT, told_more};
use ncp_audit::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn site() -> Site {
    Site {
        source: "ncp-a.no.example.test".into(),
        enterprise_site: "NO-NCP".into(),
        node: "ncp-a.no.example.test".into(),
        ehdsi: true,
        ..Site::default()
    }
}

fn intent(transaction: Transaction, role: Role) -> Intent {
    Intent {
        exchange_id: "5b2f0c1e-0000-4000-8000-00000000bbbb".into(),
        transaction,
        role,
        peer: PeerFacts {
            country: "FI".into(),
            home_community_id: "urn:oid:2.999.246".into(),
            certificate_name: "ncp-b.fi.example.test".into(),
            address: "192.0.2.20".into(),
            endpoint: "https://ncp.fi.example.test/xca".into(),
        },
        own_endpoint: "https://ncp-a.no.example.test/xca".into(),
        own_address: "198.51.100.10".into(),
        trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        began: "2026-11-23T09:14:11.950Z".parse().expect("an instant"),
    }
}

/// A text of one kind of characters, as long as asked and without a pattern that repeats.
fn text(kind: u8, bytes: usize, seed: u64) -> String {
    let alphabet: Vec<char> = match kind {
        0 => ('!'..='~').filter(|c| !"<>&\"'".contains(*c)).collect(),
        1 => vec!['&', '"', '<', '\''],
        2 => vec!['\t', '\u{202e}', '\u{9c}', '\n'],
        _ => ('\u{4e00}'..='\u{9fff}').collect(),
    };
    let mut state = seed | 1;
    let mut out = String::new();
    loop {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let next = alphabet[(state >> 33) as usize % alphabet.len()];
        if out.len() + next.len_utf8() > bytes {
            return out;
        }
        out.push(next);
    }
}

fn a_text() -> impl Strategy<Value = String> {
    let length = prop_oneof![0..200usize, TEXT - 3..=TEXT, TEXT..2 * TEXT];
    (0..4u8, length, any::<u64>()).prop_map(|(kind, bytes, seed)| text(kind, bytes, seed))
}

fn a_query() -> impl Strategy<Value = Option<QueryObject>> {
    let length = prop_oneof![0..2000usize, QUERY - 9..=QUERY, QUERY..2 * QUERY];
    let codes = (1..40usize, any::<u64>()).prop_map(|(n, seed)| vec![text(0, 4000, seed); n]);
    let query = (0..4u8, length, any::<u64>(), codes).prop_map(|(kind, bytes, seed, class_codes)| QueryObject {
        id: "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d".into(),
        bytes: text(kind, bytes, seed).into_bytes(),
        class_codes,
    });
    proptest::option::of(query)
}

fn a_decision() -> impl Strategy<Value = Decision> {
    let user = vec(a_text(), 6).prop_map(|mut texts| {
        let mut next = || texts.pop().unwrap_or_default();
        HumanRequestor { user_name: next(), display: next(), role: (next(), next(), next()), organisation: next() }
    });
    let documents = (0..2000usize, a_text()).prop_map(|(n, id)| {
        let document = |n: usize| DocumentObject {
            unique_id: format!("{n}{}", &id[..id.char_indices().nth(20).map_or(id.len(), |(at, _)| at)]),
            repository: "2.999.21".into(),
            home: "urn:oid:2.999.47".into(),
            ..DocumentObject::default()
        };
        (0..n).map(document).collect::<Vec<_>>()
    });
    let studies = (0..600usize, 0..600usize).prop_map(|(n, series)| {
        let uid = |n: usize| format!("2.999.{n}.{}", n * 7919);
        let study = |n: usize| StudyObject {
            study: uid(n),
            series: (0..series / n.max(1)).map(uid).collect(),
            ..Default::default()
        };
        (0..n).map(study).collect::<Vec<_>>()
    });
    let header = prop_oneof![Just(0usize), Just(EVIDENCE), Just(EVIDENCE + 1)];
    let header = (header, any::<u64>()).prop_map(|(bytes, seed)| text(0, bytes, seed));
    // One list at most, as in every transaction; most often one that fits.
    let lists =
        prop_oneof![(documents, Just(Vec::new())), (Just(Vec::new()), studies), (Just(Vec::new()), Just(Vec::new()))];
    (user, a_text(), a_query(), lists, header, any::<bool>()).prop_map(
        |(user, patient, query, (documents, studies), request_header, emergency)| Decision {
            message_id: "urn:uuid:5b2f0c1e-0000-4000-8000-00000000aaaa".into(),
            user: Some(user),
            patient: Some(patient),
            purpose: if emergency { "EMERGENCY" } else { "TREATMENT" }.into(),
            query,
            documents,
            studies,
            request_header,
            ..Decision::default()
        },
    )
}

/// Everything that one exchange may raise beside its own message, about the same person.
fn outcome(decision: &Decision) -> Outcome {
    let user = || decision.user.clone().unwrap_or_default();
    let patient = || decision.patient.clone().unwrap_or_default();
    let peer = PeerFacts::default;
    let checked =
        |kind| Event::AssertionChecked { kind, user: user(), assertion: "_a".into(), patient: patient(), peer: peer() };
    let rule = || "emergency access".to_owned();
    Outcome {
        documents: decision.documents.clone(),
        studies: decision.studies.clone(),
        // As many as another country sends, each as long as it likes.
        responses: vec![Evidence { message_id: "urn:uuid:bbbb".into(), header: "x".repeat(EVIDENCE) }; 64],
        alerts: vec![
            checked(AssertionKind::Hcp),
            checked(AssertionKind::Trc),
            checked(AssertionKind::Nok),
            Event::EmergencyStarted {
                user: user(),
                patient: patient(),
                rule: rule(),
                justification: "x".repeat(1 << 20),
                peer: peer(),
            },
            Event::EmergencyStopped { user: user(), patient: patient(), rule: rule(), peer: peer() },
        ],
        error_code: "x".repeat(1 << 20),
        ..Outcome::new(OutcomeIndicator::Minor, &"x".repeat(1 << 20))
    }
}

/// Record ≤ half of what each of our receivers takes, in both dialects and as AuditEvent, and each can be read again.
fn passes(record: &AuditRecord) {
    for xml in [Some(&record.xml), record.ehdsi.as_ref()].into_iter().flatten() {
        assert!(xml.len() <= RECORD, "{} bytes", xml.len());
        let read = Message::read(xml.as_bytes()).expect("a message that is read");
        let json = to_audit_event(&read).to_string();
        assert!(json.len() <= FEED_BYTES / 2, "{} bytes as AuditEvent", json.len());
    }
    const { assert!(RECORD <= SYSLOG_BYTES / 2 && RECORD <= FEED_BYTES / 2) }
}

/// Everything as long as it may be, of each kind of characters.
#[test]
fn se_01_everything_at_its_bound_passes_every_receiver() {
    for kind in 0..4 {
        let per_text = if kind == 0 { TEXT } else { 600 };
        let texts = |seed| text(kind, per_text, seed);
        let user = HumanRequestor {
            user_name: texts(1),
            display: texts(2),
            role: (texts(3), texts(4), texts(5)),
            organisation: texts(6),
        };
        let query = QueryObject {
            id: "q".into(),
            bytes: text(kind, QUERY, 7).into_bytes(),
            class_codes: vec![text(0, TEXT, 8); 100],
        };
        let decision = Decision {
            message_id: "urn:uuid:5b2f0c1e-0000-4000-8000-00000000aaaa".into(),
            user: Some(user),
            patient: Some(texts(9)),
            purpose: "EMERGENCY".into(),
            query: Some(query),
            request_header: text(0, EVIDENCE, 10),
            ..Decision::default()
        };
        assert_eq!(decision.check(), Ok(()), "{kind}");
        let outcome = outcome(&decision);
        for transaction in Transaction::ALL {
            for role in [Role::Initiator, Role::Responder] {
                of_exchange(&site(), &intent(transaction, role), &decision, &outcome).iter().for_each(passes);
            }
        }
    }
}

/// A query and a list, each as long as it may be: one decision that no transaction makes, and its messages pass as well.
#[test]
fn se_01_a_query_stands_apart_from_a_long_list() {
    let uid = |n: usize| format!("2.999.{n}.{}", text(0, 40, n as u64));
    let study = |n: usize, series: usize| StudyObject {
        study: uid(n),
        series: (0..series).map(uid).collect(),
        ..StudyObject::default()
    };
    for studies in [vec![study(1, 1200)], (0..500).map(|n| study(n, 0)).collect()] {
        let query = QueryObject { id: "q".into(), bytes: text(1, QUERY, 7).into_bytes(), class_codes: Vec::new() };
        let decision = Decision { query: Some(query), studies, ..Decision::default() };
        assert_eq!(decision.check(), Ok(()));
        let outcome = Outcome { studies: decision.studies.clone(), ..outcome(&decision) };
        let records = of_exchange(&site(), &intent(Transaction::Iti38, Role::Responder), &decision, &outcome);
        records.iter().for_each(passes);
        let of = |what: &str| records.iter().filter(|record| record.xml.contains(what)).count();
        assert_eq!(of("ParticipantObjectQuery"), 1, "once");
        let told: usize = records.iter().map(|record| record.studies.len()).sum();
        assert_eq!(told, decision.studies.len());
    }
}

/// As many documents, or studies, as one request may name: each stands in one of several messages of the exchange.
#[test]
fn se_01_long_lists_go_into_several_messages() {
    let uid = |n: usize| format!("2.999.{n}.{}", text(0, 40, n as u64));
    let document = |n| DocumentObject { unique_id: uid(n), repository: "2.999.21".into(), ..DocumentObject::default() };
    let study = |n| StudyObject { study: uid(n), series: vec![uid(n + 1)], ..StudyObject::default() };
    let documents = Decision { documents: (0..800).map(document).collect(), ..Decision::default() };
    let studies = Decision { studies: (0..500).map(study).collect(), ..Decision::default() };
    for (decision, transaction) in [(documents, Transaction::Iti39), (studies, Transaction::Rad75)] {
        assert_eq!(decision.check(), Ok(()));
        let outcome = Outcome {
            documents: decision.documents.clone(),
            studies: decision.studies.clone(),
            ..Outcome::new(OutcomeIndicator::Success, "")
        };
        for role in [Role::Initiator, Role::Responder] {
            let records = of_exchange(&site(), &intent(transaction, role), &decision, &outcome);
            assert!(records.len() > 1);
            records.iter().for_each(passes);
            for id in decision.documents.iter().map(|d| &d.unique_id).chain(decision.studies.iter().map(|s| &s.study)) {
                let id = format!("ParticipantObjectID=\"{id}\"");
                assert_eq!(records.iter().filter(|record| record.xml.contains(&id)).count(), 1, "{id}");
                let ehdsi = records.iter().filter(|record| record.ehdsi.as_ref().is_some_and(|xml| xml.contains(&id)));
                assert_eq!(ehdsi.count(), 1, "{id}");
            }
        }
    }
}

/// FO-08: the instances that did not come stand under their SOP Instance UIDs, each once, however many they are.
#[test]
fn fo_08_lost_instances_stand_on_the_trail_one_by_one() {
    let uid = |n: usize| format!("2.999.{n:04}.{}", "7".repeat(50));
    for (count, beyond) in [(1, 0), (3, 0), (1500, 0), (LOST / 80, 700)] {
        let lost: Vec<String> = (0..count).map(uid).collect();
        let more = told_more(beyond, &[0; 32]);
        let study = StudyObject {
            study: "2.999.5".into(),
            instances: count as u64 + beyond,
            lost: lost.clone(),
            lost_more: if beyond > 0 { more.clone() } else { String::new() },
            ..StudyObject::default()
        };
        let went = StudyObject { study: "2.999.5".into(), instances: 2, ..StudyObject::default() };
        let outcome =
            Outcome { studies: vec![went], failed_studies: vec![study], ..Outcome::new(OutcomeIndicator::Success, "") };
        for role in [Role::Initiator, Role::Responder] {
            let records = of_exchange(&site(), &intent(Transaction::Rad75, role), &Decision::default(), &outcome);
            records.iter().for_each(passes);
            let failed = &records[1..];
            assert!(failed.iter().all(|record| record.outcome == 4) && records[0].outcome == 0);
            let ehdsi = |record: &AuditRecord| record.ehdsi.clone().expect("both dialects");
            for (dialect, schema) in [(0, "dicom2017c-ipf.xsd"), (1, "dicom-unsigned-openncp.xsd")] {
                let xml = |record: &AuditRecord| if dialect == 0 { record.xml.clone() } else { ehdsi(record) };
                valid(schema, &failed.iter().map(xml).collect::<Vec<_>>());
                let messages = failed.iter().map(|record| Message::read(xml(record).as_bytes()).expect("reads"));
                let objects: Vec<_> = messages.flat_map(|m| m.objects).filter(|o| o.dicom.is_some()).collect();
                let dicom = || objects.iter().filter_map(|o| o.dicom.as_ref());
                assert_eq!(dicom().flat_map(|d| d.instances.clone()).collect::<Vec<_>>(), lost, "{count} {role:?}");
                let counted: u64 = dicom().flat_map(|d| &d.sop_classes).map(|(_, count)| count).sum();
                assert_eq!(counted, count as u64 + beyond);
                let told = objects.iter().flat_map(|o| &o.details).filter(|(kind, _)| kind == "ncp:lost-more");
                let told: Vec<_> = told.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect();
                assert_eq!(told, vec![more.clone(); usize::from(beyond > 0)]);
            }
            let shown: usize = failed.iter().map(|r| r.xml.matches("<Instance ").count()).sum();
            assert_eq!(shown, count);
        }
    }
}

/// The same where a request named as instances what is none.
#[test]
fn fo_08_lost_instances_with_any_name_pass_every_receiver() {
    for kind in 0..4 {
        let lost: Vec<String> = (0..LOST as u64 / 1016).map(|seed| text(kind, 1000, seed)).collect();
        let study = StudyObject { instances: lost.len() as u64, lost, ..StudyObject::default() };
        let outcome = Outcome { failed_studies: vec![study], ..Outcome::new(OutcomeIndicator::Minor, "") };
        let intent = intent(Transaction::Rad75, Role::Responder);
        of_exchange(&site(), &intent, &Decision::default(), &outcome).iter().for_each(passes);
    }
}

/// Valid by the schema of a dialect.
fn valid(schema: &str, messages: &[String]) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = messages.iter().enumerate().map(|(number, xml)| {
        let file = folder.path().join(format!("{number}.xml"));
        std::fs::write(&file, xml).expect("writes");
        file
    });
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/audit").join(schema);
    let out = std::process::Command::new("xmllint")
        .args(["--nonet", "--noout", "--huge", "--schema"])
        .arg(schema)
        .args(files.collect::<Vec<_>>())
        .output()
        .expect("xmllint");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn se_01_largest_accepted_message_of_each_transaction_and_role_passes_every_receiver(
        decision in a_decision(),
        transaction in proptest::sample::select(Transaction::ALL.to_vec()),
        role in proptest::sample::select(vec![Role::Initiator, Role::Responder]),
    ) {
        let outcome = outcome(&decision);
        let records = of_exchange(&site(), &intent(transaction, role), &decision, &outcome);
        if decision.check().is_ok() {
            records.iter().for_each(passes);
            let studies: usize = records.iter().map(|record| record.studies.len()).sum();
            prop_assert_eq!(studies, decision.studies.len(), "every study stands in some message");
        }
    }

    #[test]
    fn se_21_one_message_grows_the_spool_by_its_query_twice_and_little_more(decision in a_decision()) {
        let audited = |decision: &Decision| {
            let query = decision.query.as_ref().map_or(0, |query| query.bytes.len().min(QUERY));
            let listed: usize = decision.documents.iter().map(|d| 256 + d.unique_id.len()).sum::<usize>()
                + decision.studies.iter().map(|s| 256 + s.series.len() * 32).sum::<usize>();
            // Evidence is kept of what came and of what went.
            query + listed.min(OBJECTS) + decision.request_header.len().min(EVIDENCE) + EVIDENCE
        };
        let dir = tempfile::tempdir().expect("a folder");
        let before = size(dir.path());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let sink = AuditSink::open(&options(dir.path())).await.expect("opens");
            let mut exchange = sink.intent(intent(Transaction::Iti38, Role::Responder)).await.expect("stored");
            // Refused or not, its record is bounded.
            exchange.decided(decision.clone()).await.expect("stored");
            exchange.finish(outcome(&decision)).await.expect("stored");
        });
        let (grown, most) = (size(dir.path()) - before, (64 << 10) + 2 * audited(&decision) as u64);
        prop_assert!(grown <= most, "{} bytes, {} allowed", grown, most);
        read_spool(&options(dir.path())).expect("is read").records.iter().for_each(|(_, _, xml)| {
            assert!(xml.len() <= RECORD, "{} bytes", xml.len());
        });
    }
}

fn options(dir: &Path) -> SpoolOptions {
    let key = dir.join("key");
    if !key.exists() {
        std::fs::write(&key, "ab".repeat(32)).expect("writes");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    let limits = SpoolLimits { segment: 1 << 20, reserve: 0, ..SpoolLimits::default() };
    SpoolOptions { limits, ..SpoolOptions::new(dir.join("spool"), key, site()) }
}

/// Bytes of content.
fn size(dir: &Path) -> u64 {
    if dir.join("spool").exists() { read_spool(&options(dir)).expect("is read").size.1 } else { 0 }
}

#[test]
fn se_21_what_is_too_long_is_named_with_its_length_and_digest() {
    let long = "x".repeat(1 << 20);
    let decision = Decision {
        user: Some(HumanRequestor { display: long.clone(), ..HumanRequestor::default() }),
        ..Decision::default()
    };
    let told = decision.check().expect_err("longer than 4 KiB").to_string();
    assert!(told.starts_with("a text about the user is longer than 4 KiB (1048576 bytes, SHA-256 "), "{told}");
    assert_eq!(told, bounds::text("a text about the user is longer than 4 KiB", &long).expect_err("long").to_string());
    let at_the_bound = HumanRequestor { display: "x".repeat(TEXT), ..HumanRequestor::default() };
    assert_eq!(Decision { user: Some(at_the_bound), ..Decision::default() }.check(), Ok(()));
}

/// Items of releases before 0.2, in which a query is a list of numbers.
#[test]
fn a_decision_of_an_earlier_release_is_read() {
    let query: QueryObject = serde_json::from_str(r#"{"id":"a","bytes":[60,113,47,62]}"#).expect("reads");
    assert_eq!(query.bytes, b"<q/>");
    let again = serde_json::to_string(&query).expect("json");
    assert_eq!(again, r#"{"id":"a","bytes":"<q/>","class_codes":[]}"#);
    let read: QueryObject = serde_json::from_str(&again).expect("reads");
    assert_eq!(read, query);
    let other = QueryObject { bytes: vec![0xff, 0xfe], ..query };
    assert_eq!(
        serde_json::from_str::<QueryObject>(&serde_json::to_string(&other).expect("json")).expect("reads"),
        other
    );
}

/// A record in the spool holds its query once and comes out as it went in.
#[test]
fn a_stored_record_is_the_same_again() {
    let query = QueryObject { id: "q".into(), bytes: text(3, 9000, 7).into_bytes(), class_codes: Vec::new() };
    let decision = Decision { query: Some(query), patient: Some("a\"b".into()), ..Decision::default() };
    let outcome = Outcome::new(OutcomeIndicator::Success, "");
    let record = of_exchange(&site(), &intent(Transaction::Iti38, Role::Responder), &decision, &outcome).remove(0);
    let stored = serde_json::to_string(&record).expect("json");
    assert!(stored.len() < 9000 + 9000, "{} bytes", stored.len());
    assert_eq!(serde_json::from_str::<AuditRecord>(&stored).expect("reads"), record);
    // A release before 0.2 wrote no query apart.
    let plain = serde_json::json!({
        "event_time_us": 1, "xml": record.xml, "exchange_id": "", "transaction": "", "role": "", "outcome": 0,
        "patient": "", "user": "", "organisation": "", "country": "", "purpose": "", "studies": [],
    });
    assert_eq!(serde_json::from_value::<AuditRecord>(plain).expect("reads").xml, record.xml);
}
