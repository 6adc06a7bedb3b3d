//! The guarantees on CDA, each by its number.

#![allow(clippy::print_stdout)] // a test says what it leaves out

use super::super::{Direction, DocumentError, Fate, Required, Task, Translated};
use super::translate;
use crate::load::tests::{shipped, snapshot};
use crate::relationship::Allowed;

const NCRP: &str = "2.16.578.1.12.4.1.1.7270";

fn report() -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/no/reports/ct.xml");
    std::fs::read(path).expect("the demo's report")
}

fn cda(inner: &str) -> String {
    format!("<ClinicalDocument xmlns=\"urn:hl7-org:v3\">{inner}</ClinicalDocument>")
}

fn pivot(text: &str) -> Translated {
    translate(text.as_bytes(), &Task::to_pivot(), &shipped()).expect("translates")
}

fn text(of: &Translated) -> String {
    String::from_utf8(of.bytes.clone()).expect("UTF-8")
}

#[test]
fn guarantee_1_bytes_outside_coded_elements_are_unchanged_and_signed_documents_never_edited() {
    let after = translate(&report(), &Task::to_pivot(), &shipped()).expect("translates");
    let strip = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        text.lines().filter(|l| !l.contains("SSC0AD")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(strip(&report()), strip(&after.bytes));
    assert_ne!(report(), after.bytes);
    let signed = cda(&format!(
        "<code code=\"SSC0AD\" codeSystem=\"{NCRP}\"/><Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"/>"
    ));
    let kept = pivot(&signed);
    assert_eq!((kept.bytes.as_slice(), kept.skipped), (signed.as_bytes(), Some("signed")));
    assert_eq!((kept.reports.len(), kept.reports[0].fate), (1, Fate::Refused), "accounted for all the same");
}

#[test]
fn guarantee_2_source_survives_and_twice_equals_once() {
    let once = translate(&report(), &Task::to_pivot(), &shipped()).expect("translates");
    let written = text(&once);
    assert!(written.contains("code=\"24627-2\" codeSystem=\"2.16.840.1.113883.6.1\""), "{written}");
    assert!(
        written.contains(&format!("<translation code=\"SSC0AD\" codeSystem=\"{NCRP}\" displayName=\"CT toraks\"/>"))
    );
    assert!(written.contains("<translation code=\"169069000\" codeSystem=\"2.16.840.1.113883.6.96\"/>"));
    assert_eq!(pivot(&written).bytes, once.bytes);
    let reader = Task::to_language(&["fi", "en"]);
    let read = translate(&once.bytes, &reader, &shipped()).expect("translates");
    assert_ne!(read.bytes, once.bytes);
    assert_eq!(translate(&read.bytes, &reader, &shipped()).expect("translates").bytes, read.bytes);
    assert!(text(&read).contains("code=\"SSC0AD\""), "the national code is still there");
}

#[test]
fn guarantee_3_every_coded_element_is_reported_with_its_path() {
    let done = translate(&report(), &Task::to_pivot(), &shipped()).expect("translates");
    let source = String::from_utf8(report()).expect("UTF-8");
    assert_eq!(done.reports.len(), source.matches(" code=\"").count());
    assert_eq!(done.reports.iter().filter(|r| r.fate == Fate::Mapped).count(), 3);
    assert!(done.reports.iter().any(|r| r.path == "/ClinicalDocument/documentationOf/serviceEvent/code"));
}

#[test]
fn guarantee_3_every_coded_element_of_the_sample_documents_is_accounted_for() {
    let shared = std::env::var("NCP_SHARED_DATA").map_or_else(
        |_| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        std::path::PathBuf::from,
    );
    let mut seen = 0;
    for folder in ["openncp/cda-orcd", "openncp/cda-ps", "imaging/ehdsi-orcd-cda"] {
        let Ok(entries) = std::fs::read_dir(shared.join(folder)) else {
            println!("skipped: needs NCP_SHARED_DATA");
            return;
        };
        for entry in entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "xml")) {
            let bytes = std::fs::read(entry.path()).expect("reads");
            let done = translate(&bytes, &Task::to_pivot(), &shipped()).expect("translates");
            let root = ncp_xml::Element::parse(&bytes, &super::LIMITS).expect("parses");
            let mut stack = vec![&root];
            let mut coded = 0;
            while let Some(element) = stack.pop() {
                let has = |name: &str| element.attributes().iter().any(|a| a.local() == name);
                let counts = has("code") && element.local() != "translation";
                let null = has("nullFlavor") && (has("codeSystem") || element.local() == "code");
                coded += usize::from(counts || (null && element.local() != "translation"));
                stack.extend(element.elements());
            }
            assert_eq!(done.reports.len(), coded, "{}", entry.path().display());
            seen += coded;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn guarantee_4_provenance_names_the_maps_and_how_they_relate() {
    let s = shipped();
    let done = translate(&report(), &Task::to_pivot(), &s).expect("translates");
    let mapped = done.reports.iter().find(|r| r.fate == Fate::Mapped).expect("a mapped element");
    let info = s.map(mapped.maps[0]);
    assert!(info.url.contains("ncrp") && !info.version.is_empty() && info.digest != [0; 32]);
    assert_eq!(mapped.target.as_ref().map(|t| t.2), Some(crate::relationship::Relationship::Equivalent));
}

#[test]
fn guarantee_5_approximate_targets_need_permission() {
    let source = cda("<code code=\"B05\" codeSystem=\"2.16.578.1.12.4.1.1.8654\"/>");
    let strict = Task { allowed: Allowed::EXACT, ..Task::to_pivot() };
    let kept = translate(source.as_bytes(), &strict, &shipped()).expect("translates");
    assert_eq!((kept.bytes.as_slice(), kept.reports[0].fate), (source.as_bytes(), Fate::Refused));
    assert_eq!(pivot(&source).reports[0].fate, Fate::Approximate);
}

#[test]
fn guarantee_6_a_required_element_without_a_target_is_kept_failed_or_nulled_never_dropped() {
    let source = cda(&format!(
        "<code code=\"NOSUCH\" codeSystem=\"{NCRP}\" displayName=\"x\"/><x code=\"NOSUCH\" codeSystem=\"{NCRP}\"/>"
    ));
    let task = |required| Task {
        required,
        profile: crate::document::profile::Profiles::default().get("imaging-report").expect("is there"),
        ..Task::to_pivot()
    };
    let kept = translate(source.as_bytes(), &task(Required::Keep), &shipped()).expect("translates");
    assert_eq!(
        (kept.bytes.as_slice(), kept.reports[0].required, kept.reports[1].required),
        (source.as_bytes(), true, false)
    );
    let failed = translate(source.as_bytes(), &task(Required::Fail), &shipped());
    assert_eq!(failed, Err(DocumentError::Required("/ClinicalDocument/code".into())));
    let nulled = translate(source.as_bytes(), &task(Required::NullFlavor), &shipped()).expect("translates");
    let expected = format!(
        "<code nullFlavor=\"OTH\"><translation code=\"NOSUCH\" codeSystem=\"{NCRP}\" displayName=\"x\"/></code>"
    );
    assert!(text(&nulled).contains(&expected), "{}", text(&nulled));
    assert_eq!(
        translate(&nulled.bytes, &task(Required::NullFlavor), &shipped()).expect("translates").bytes,
        nulled.bytes
    );
}

#[test]
fn a_list_of_coded_elements_says_what_is_translated_exact_required_or_kept() {
    let source = cda(&format!(
        "<code code=\"E01-2\" codeSystem=\"2.16.578.1.12.4.1.1.9602\"/><component><section><code code=\"B05\" codeSystem=\"2.16.578.1.12.4.1.1.8654\"/><entry><observation><code code=\"SSC0AD\" codeSystem=\"{NCRP}\"/><value code=\"NOSUCH\" codeSystem=\"{NCRP}\"/></observation></entry></section></component>"
    ));
    let list = r#"
        others = "keep"
        [[element]]
        path = "section/code"
        exact = true
        [[element]]
        path = "/ClinicalDocument/component/**/observation/code"
        [[element]]
        path = "observation/value"
        required = true
    "#;
    let profile = std::sync::Arc::new(crate::document::profile::Profile::read(list).expect("a list"));
    let task = Task { profile, ..Task::to_pivot() };
    let done = translate(source.as_bytes(), &task, &shipped()).expect("translates");
    let fates: Vec<(&str, Fate, bool)> = done.reports.iter().map(|r| (r.code.as_str(), r.fate, r.required)).collect();
    let expected = [
        ("E01-2", Fate::Kept, false),
        ("B05", Fate::Refused, false),
        ("SSC0AD", Fate::Mapped, false),
        ("NOSUCH", Fate::Unmapped, true),
    ];
    assert_eq!(fates, expected);
    assert!(text(&done).contains("<code code=\"E01-2\" codeSystem=\"2.16.578.1.12.4.1.1.9602\"/>"));
    let strict = Task { required: Required::Fail, ..task };
    assert!(
        matches!(translate(source.as_bytes(), &strict, &shipped()), Err(DocumentError::Required(path)) if path.ends_with("observation/value"))
    );
}

#[test]
fn guarantee_7_designations_carry_their_real_language_and_say_fallback() {
    let source = cda(
        "<code code=\"24627-2\" codeSystem=\"2.16.840.1.113883.6.1\" displayName=\"CT Chest\"><originalText>fritekst</originalText></code>",
    );
    let read = translate(source.as_bytes(), &Task::to_language(&["fi", "en"]), &shipped()).expect("translates");
    assert_eq!(read.reports[0].designation, Some(("TT rintakeh\u{e4}".into(), "fi".into(), true)));
    let written = text(&read);
    assert!(
        written.contains("displayName=\"TT rintakeh\u{e4}\"")
            && written.contains("<originalText>fritekst</originalText>")
    );
    assert!(
        written
            .contains("<translation code=\"24627-2\" codeSystem=\"2.16.840.1.113883.6.1\" displayName=\"CT Chest\"/>")
    );
    let german = translate(source.as_bytes(), &Task::to_language(&["de", "en"]), &shipped()).expect("translates");
    assert_eq!((german.bytes.as_slice(), german.reports[0].fate), (source.as_bytes(), Fate::AlreadyTarget));
    assert_eq!(german.reports[0].designation, Some(("CT Chest".into(), "en".into(), true)));
}

#[test]
fn guarantee_8_null_flavor_is_untouched() {
    let source = cda(&format!("<code nullFlavor=\"UNK\" code=\"SSC0AD\" codeSystem=\"{NCRP}\"/>"));
    let kept = pivot(&source);
    assert_eq!((kept.bytes.as_slice(), kept.reports[0].fate), (source.as_bytes(), Fate::Null));
}

#[test]
fn guarantee_9_dangerous_categories_demand_equivalence() {
    let map = r#"{"resourceType":"ConceptMap","url":"u","status":"active","group":[{"source":"urn:oid:2.999.1","target":"http://snomed.info/sct","element":[
        {"code":"v","target":[{"code":"7771000","equivalence":"wider"}]},{"code":"q","target":[{"code":"394914008","equivalence":"wider"}]}]}]}"#;
    let s = snapshot(&[
        ("m.json", map),
        ("systems.toml", "systems = [[\"urn:oid:2.16.840.1.113883.6.96\", \"http://snomed.info/sct\"]]"),
    ]);
    let fates = |inner: &str| -> Vec<Fate> {
        let done = translate(cda(inner).as_bytes(), &Task { allowed: Allowed::ALL, ..Task::to_pivot() }, &s)
            .expect("translates");
        done.reports.iter().map(|r| r.fate).collect()
    };
    assert_eq!(fates("<value code=\"q\" codeSystem=\"2.999.1\"/>"), [Fate::Approximate]);
    assert_eq!(fates("<value code=\"v\" codeSystem=\"2.999.1\"/>"), [Fate::Refused], "a side");
    assert_eq!(
        fates("<qualifier><value code=\"q\" codeSystem=\"2.999.1\"/></qualifier>"),
        [Fate::Refused],
        "a qualifier"
    );
    let allergies = "<section><code code=\"48765-2\" codeSystem=\"2.16.840.1.113883.6.1\"/><entry><value code=\"q\" codeSystem=\"2.999.1\"/></entry></section>";
    assert_eq!(fates(allergies).last(), Some(&Fate::Refused), "allergies");
}

#[test]
fn guarantee_10_errors_carry_no_content_of_the_document() {
    let named = cda("<recordTarget><name>Testesen</name></recordTarget").replace("</Clinical", "</Wrong");
    let error = translate(named.as_bytes(), &Task::to_pivot(), &shipped()).expect_err("not well-formed");
    assert!(!error.to_string().contains("Testesen") && !format!("{error:?}").contains("Testesen"));
}

/// TSAM nests the first translation child in the new one and leaves others as they are.
#[test]
fn tsam_defect_6_only_the_first_translation_child_is_handled() {
    let source = cda(&format!(
        "<code code=\"SSC0AD\" codeSystem=\"{NCRP}\"><translation code=\"a\" codeSystem=\"2.999.1\"/><translation code=\"169069000\" codeSystem=\"2.16.840.1.113883.6.96\"/></code>"
    ));
    let written = text(&pivot(&source));
    assert_eq!(
        written.matches("<translation").count(),
        3,
        "both stay as siblings, the source is added, nothing twice: {written}"
    );
    assert!(written.contains("<translation code=\"a\" codeSystem=\"2.999.1\"/><translation code=\"169069000\""));
}

/// In TSAM a bad element is an entry of a list beside the document, an optional one nowhere.
#[test]
fn tsam_defect_7_one_bad_element_is_only_a_list_entry() {
    let source = cda(&format!(
        "<code code=\"SSC0AD\" codeSystem=\"{NCRP}\"/><x code=\"?\" codeSystem=\"2.999.404\"/><y code=\"SSC0AZ\" codeSystem=\"{NCRP}\"/><z code=\"free\"/>"
    ));
    let done = pivot(&source);
    let fates: Vec<Fate> = done.reports.iter().map(|r| r.fate).collect();
    assert_eq!(fates, [Fate::Mapped, Fate::Unmapped, Fate::Unmapped, Fate::NoSystem]);
    assert!(
        done.reports[1].issues.contains(&crate::translate::issues::SYSTEM)
            && done.reports[2].issues.contains(&crate::translate::issues::TARGET)
    );
}

#[test]
fn children_stay_before_translations_and_prefixes_stay() {
    let source = format!(
        "<h:ClinicalDocument xmlns:h=\"urn:hl7-org:v3\"><h:code  a='1' code='SSC0AD' codeSystem='{NCRP}'><h:originalText>x &amp; y</h:originalText></h:code></h:ClinicalDocument>"
    );
    let written = text(&pivot(&source));
    assert!(written.contains("<h:originalText>x &amp; y</h:originalText><h:translation code=\"SSC0AD\""), "{written}");
    assert!(written.contains("a='1'"));
}

#[test]
fn bad_documents_are_refused_whole() {
    let s = shipped();
    let refused = |text: &str| translate(text.as_bytes(), &Task::to_pivot(), &s).is_err();
    assert!(refused("<!DOCTYPE ClinicalDocument [<!ENTITY x \"y\">]><ClinicalDocument xmlns=\"urn:hl7-org:v3\"/>"));
    assert!(refused(&cda("<code code=\"SSC0AD\"")) && refused("") && refused("\u{feff}"));
    assert!(refused(&cda(&("<a>".repeat(200) + &"</a>".repeat(200)))));
    let many = cda(&"<x code=\"a\" codeSystem=\"2.999.1\"/>".repeat(100_001));
    assert_eq!(translate(many.as_bytes(), &Task::to_pivot(), &s), Err(DocumentError::TooMany));
    let other = translate(b"<html/>", &Task { direction: Direction::ToPivot, ..Task::to_pivot() }, &s).expect("reads");
    assert_eq!(other.skipped, Some("not a CDA document"));
}
