//! The guarantees on FHIR reports, and DICOM JSON as a view.

use super::super::{Fate, Task, translate};
use crate::load::tests::shipped;

const REPORT: &str = r#"{ "resourceType" : "Bundle", "type":"document",
 "entry":[{"resource":{"resourceType":"DiagnosticReport","status":"final","code":{"coding":[
   {"system":"http://helsedir.no/fhir/CodeSystem/no-kodeverk-7270-ncrp","code":"SSC0AD","display":"CT toraks"}],"text":"fri \u00e5 tekst"},
   "category":[{"coding":[{"system":"urn:oid:2.16.578.1.12.4.1.1.8654","code":"B05"}]}],
   "valueQuantity":{"value":1.50,"system":"http://unitsofmeasure.org","code":"mm"}}},
  {"resource":{"resourceType":"ImagingStudy","modality":[{"system":"urn:oid:2.16.578.1.12.4.1.1.7270","code":"SSC0AD"}]}}]}"#;

fn kind() -> &'static str {
    "application/fhir+json"
}

#[test]
fn targets_stand_beside_the_source_and_all_other_bytes_stay() {
    let s = shipped();
    let once = translate(REPORT.as_bytes(), kind(), &Task::to_pivot(), &s).expect("translates");
    let text = String::from_utf8(once.bytes.clone()).expect("UTF-8");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let coding = &value["entry"][0]["resource"]["code"]["coding"];
    assert_eq!((&coding[0]["code"], &coding[0]["userSelected"]), (&"SSC0AD".into(), &true.into()));
    let codes: Vec<&str> = coding.as_array().expect("codings").iter().filter_map(|c| c["code"].as_str()).collect();
    assert_eq!(codes, ["SSC0AD", "24627-2", "169069000"]);
    assert_eq!(
        (&coding[1]["system"], &coding[2]["system"]),
        (&"http://loinc.org".into(), &"http://snomed.info/sct".into())
    );
    let map = coding[1]["extension"][0]["extension"][0]["valueCanonical"].as_str().expect("the map");
    assert!(map.contains("ncrp") && map.contains('|'));
    assert!(
        text.contains(r#""text":"fri \u00e5 tekst""#)
            && text.contains("1.50")
            && text.starts_with("{ \"resourceType\" : \"Bundle\"")
    );
    // Whatever was inserted taken out again is the source.
    let modality = &value["entry"][1]["resource"]["modality"];
    assert_eq!(modality.as_array().map(Vec::len), Some(1), "a second modality would say something else");
    assert_eq!(modality[0]["extension"][0]["valueCoding"]["code"], "24627-2");
    let twice = translate(&once.bytes, kind(), &Task::to_pivot(), &s).expect("translates");
    assert_eq!(twice.bytes, once.bytes);
    let paths: Vec<&str> = once.reports.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "DiagnosticReport.code",
            "DiagnosticReport.category",
            "DiagnosticReport.valueQuantity",
            "ImagingStudy.modality"
        ]
    );
    assert_eq!(once.reports[2].fate, Fate::AlreadyTarget);
}

#[test]
fn designations_are_translation_extensions_with_their_language() {
    let s = shipped();
    let pivot = translate(REPORT.as_bytes(), kind(), &Task::to_pivot(), &s).expect("translates");
    let reader = Task::to_language(&["fi", "en"]);
    let read = translate(&pivot.bytes, kind(), &reader, &s).expect("translates");
    let value: serde_json::Value = serde_json::from_slice(&read.bytes).expect("JSON");
    let coding = &value["entry"][0]["resource"]["code"]["coding"][1];
    assert_eq!(coding["display"], "CT Chest");
    let parts = &coding["_display"]["extension"][0]["extension"];
    assert_eq!((&parts[0]["valueCode"], &parts[1]["valueString"]), (&"fi".into(), &"TT rintakeh\u{e4}".into()));
    assert_eq!(translate(&read.bytes, kind(), &reader, &s).expect("translates").bytes, read.bytes);
}

#[test]
fn signed_and_broken_resources() {
    let s = shipped();
    let signed = REPORT.replacen("\"type\":\"document\"", "\"type\":\"document\",\"signature\":{}", 1);
    let kept = translate(signed.as_bytes(), kind(), &Task::to_pivot(), &s).expect("reads");
    assert_eq!((kept.bytes.as_slice(), kept.skipped, kept.reports.len()), (signed.as_bytes(), Some("signed"), 4));
    for bad in ["", "{", "{\"a\":1,}", "[1,2", &"[".repeat(1000), "{\"resourceType\":\"X\"} x"] {
        assert!(translate(bad.as_bytes(), kind(), &Task::to_pivot(), &s).is_err(), "{bad:.20}");
    }
    assert!(translate(b"%PDF", "application/pdf", &Task::to_pivot(), &s).is_err());
    assert_eq!(translate(b"{}", kind(), &Task::to_pivot(), &s).expect("reads").skipped, Some("not a FHIR resource"));
}

#[test]
fn dicom_json_gets_equivalent_codes_as_a_view() {
    let s = shipped();
    let source = r#"[{"00080060":{"vr":"CS","Value":["CT"]},"00081032":{"vr":"SQ","Value":[{"00080100":{"vr":"SH","Value":["SSC0AD"]},
        "00080102":{"vr":"SH","Value":["99NCRP"]},"0008010C":{"vr":"UI","Value":["2.16.578.1.12.4.1.1.7270"]},"00080104":{"vr":"LO","Value":["CT toraks"]}}]},
        "00400260":{"vr":"SQ","Value":[{"00080100":{"vr":"SH","Value":["X"]},"00080102":{"vr":"SH","Value":["99LOCAL"]}}]}}]"#;
    let done = translate(source.as_bytes(), "application/dicom+json", &Task::to_pivot(), &s).expect("translates");
    let value: serde_json::Value = serde_json::from_slice(&done.bytes).expect("JSON");
    let equivalent = &value[0]["00081032"]["Value"][0]["00080121"]["Value"];
    assert_eq!(
        (&equivalent[0]["00080100"]["Value"][0], &equivalent[0]["00080102"]["Value"][0]),
        (&"24627-2".into(), &"LN".into())
    );
    assert_eq!(equivalent[1]["00080102"]["Value"][0], "SCT");
    let fates: Vec<Fate> = done.reports.iter().map(|r| r.fate).collect();
    assert!(fates.contains(&Fate::NoSystem) && fates.contains(&Fate::Mapped) && fates.len() == 3, "{fates:?}");
    assert_eq!(
        translate(&done.bytes, "application/dicom+json", &Task::to_pivot(), &s).expect("translates").bytes,
        done.bytes
    );
}
