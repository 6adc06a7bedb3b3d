//! Semantics of maps, and the seven defects of TSAM shown absent.

use super::*;
use crate::load::tests::{shipped, snapshot};

fn query<'a>(system: &'a str, code: &'a str) -> Query<'a> {
    Query { system, version: "", code, target_system: "", map: "", context: &[], allowed: Allowed::ALL }
}

fn tsam(associations: &str) -> Snapshot {
    snapshot(&[
        ("codeSystem.csv", "ID;OID;NAME;DESCRIPTION\n1;2.999.1;A;\n2;2.999.2;B;\n"),
        (
            "codeSystemVersion.csv",
            "ID;FULL_NAME;LOCAL_NAME;CODE_SYSTEM_ID;STATUS\n11;A 2;2;1;current\n12;A 1;1;1;retired\n21;B 1;1;2;current\n",
        ),
        (
            "codeSystemConcept.csv",
            "ID;CODE;CODE_SYSTEM_VERSION_ID;STATUS\n101;x;11;Current\n102;y;11;Current\n103;gone;12;Current\n201;p;21;Current\n202;q;21;Current\n",
        ),
        (
            "designation.csv",
            "ID;DESIGNATION;CODE_SYSTEM_CONCEPT_ID;LANGUAGE_CODE;TYPE;IS_PREFERRED;STATUS\n1;National name;102;en-GB;;Yes;current\n",
        ),
        (
            "transcodingAssociation.csv",
            &format!("ID;SOURCE_CONCEPT_ID;TARGET_CONCEPT_ID;QUALITY;STATUS;STATUS_DATE\n{associations}"),
        ),
    ])
}

#[test]
fn tsam_defect_1_invalid_maps_are_used() {
    let s = tsam("1;101;201;;invalid;\n2;102;202;equivalent;valid;\n");
    let answer = translate(&s, &query("2.999.1", "x")).expect("answers");
    assert_eq!((answer.outcome, answer.matches.len()), (Outcome::Unmapped, 0));
}

#[test]
fn tsam_defect_2_no_equivalence() {
    let s = tsam("1;101;201;wider;valid;\n");
    let answer = translate(&s, &query("2.999.1", "x")).expect("answers");
    assert_eq!(
        (answer.outcome, answer.matches[0].relationship),
        (Outcome::MappedApproximate, Relationship::TargetWider)
    );
    let exact = Query { allowed: Allowed::EXACT, ..query("2.999.1", "x") };
    let answer = translate(&s, &exact).expect("answers");
    assert_eq!((answer.outcome, answer.matches.len(), answer.rejected.len()), (Outcome::Unmapped, 0, 1));
}

#[test]
fn tsam_defect_3_first_row_wins() {
    for rows in [
        "1;101;201;wider;valid;\n2;101;202;equivalent;valid;\n",
        "2;101;202;equivalent;valid;\n1;101;201;wider;valid;\n",
    ] {
        let s = tsam(rows);
        let answer = translate(&s, &query("2.999.1", "x")).expect("answers");
        let codes: Vec<&str> = answer.matches.iter().map(|m| m.code.as_str()).collect();
        assert_eq!(codes, ["q", "p"], "equivalent first, whatever the order of rows");
    }
}

#[test]
fn tsam_defect_4_version_guess() {
    let s = tsam("1;101;201;equivalent;valid;\n");
    let old = Query { version: "7", ..query("2.999.1", "x") };
    assert!(
        translate(&s, &old).expect("answers").issues.contains(&issues::VERSION),
        "a version that is not loaded is said"
    );
    let system = s.system("2.999.1").expect("a system");
    let versions: Vec<&str> = s.versions(system).map(|v| v.version).collect();
    assert_eq!(versions, ["2", "1"]);
    let gone = s.find(system, "gone").expect("a code");
    assert_eq!(s.contents(gone).map(|c| (c.version, c.active)).collect::<Vec<_>>(), [("1", false)]);
    let map = Query { map: "urn:openncp:transcoding-association|9", ..query("2.999.1", "x") };
    assert_eq!(translate(&s, &map), Err(Unknown::Map), "never a silent substitute");
}

#[test]
fn tsam_defect_5_no_map_means_the_source_itself() {
    let s = tsam("1;101;201;equivalent;valid;\n");
    let answer = translate(&s, &query("2.999.1", "y")).expect("answers");
    assert_eq!((answer.outcome, answer.matches.len()), (Outcome::Unmapped, 0), "though y has a name in English");
    assert!(answer.issues.contains(&issues::TARGET));
}

const MAPS: &str = r#"{"resourceType":"ConceptMap","url":"urn:a","version":"1","status":"active","group":[
{"source":"urn:oid:2.999.1","target":"urn:oid:2.999.2","element":[
 {"code":"w","target":[{"code":"mid","equivalence":"wider"}]},
 {"code":"e","target":[{"code":"mid","equivalence":"equal"}]},
 {"code":"loop","target":[{"code":"loop2","equivalence":"equal"}]},
 {"code":"no","target":[{"equivalence":"unmatched"}]},
 {"code":"dep","target":[{"code":"d1","equivalence":"equal","dependsOn":[{"property":"urn:side","value":"L"}],"product":[{"property":"urn:p","system":"urn:oid:2.999.5","value":"v"}]}]}],
 "unmapped":{"mode":"fixed","code":"other"}},
{"source":"urn:oid:2.999.6","target":"urn:oid:2.999.2","element":[],"unmapped":{"mode":"provided"}},
{"source":"urn:oid:2.999.7","target":"urn:oid:2.999.2","element":[],"unmapped":{"mode":"other-map","url":"urn:b"}}]}"#;
const MORE: &str = r#"{"resourceType":"ConceptMap","url":"urn:b","version":"1","status":"active","group":[
{"source":"urn:oid:2.999.2","target":"urn:oid:2.999.3","element":[
 {"code":"mid","target":[{"code":"end","equivalence":"narrower"}]},
 {"code":"loop2","target":[{"code":"loop3","equivalence":"equal"}]}]},
{"source":"urn:oid:2.999.3","target":"urn:oid:2.999.2","element":[{"code":"loop3","target":[{"code":"loop2","equivalence":"equal"}]}]},
{"source":"urn:oid:2.999.7","target":"urn:oid:2.999.2","element":[{"code":"z","target":[{"code":"mid","equivalence":"equal"}]}]}]}"#;

fn two() -> Snapshot {
    snapshot(&[("a.json", MAPS), ("b.json", MORE)])
}

#[test]
fn chains_give_the_weakest_relationship_and_every_map() {
    let s = two();
    let to = |code| translate(&s, &Query { target_system: "2.999.3", ..query("2.999.1", code) }).expect("answers");
    let weak = to("w");
    assert_eq!(
        (weak.matches[0].code.as_str(), weak.matches[0].relationship, weak.matches[0].via.len()),
        ("end", Relationship::Related, 2)
    );
    assert_eq!(to("e").matches[0].relationship, Relationship::TargetNarrower);
    let looped =
        translate(&s, &Query { target_system: "2.999.7", ..query("2.999.1", "loop") }).expect("a circle of maps ends");
    assert_eq!(looped.outcome, Outcome::Unmapped);
}

#[test]
fn unmapped_modes_mark_what_is_not_mapped() {
    let s = two();
    let fixed = translate(&s, &query("2.999.1", "nowhere")).expect("answers");
    assert_eq!(
        (fixed.outcome, fixed.matches[0].code.as_str(), fixed.matches[0].fallback),
        (Outcome::Fallback, "other", true)
    );
    let kept = translate(&s, &query("2.999.6", "k")).expect("answers");
    assert_eq!(
        (kept.outcome, kept.matches[0].code.as_str(), kept.matches[0].word),
        (Outcome::Fallback, "k", "unmapped")
    );
    let other = translate(&s, &query("2.999.7", "z")).expect("answers");
    assert_eq!(
        other.matches.iter().find(|m| m.via.len() == 2).map(|m| m.code.as_str()),
        None,
        "its own map has the row"
    );
    assert_eq!(other.matches[0].code, "mid");
    let refused = Query { allowed: Allowed::WIDER, ..query("2.999.1", "nowhere") };
    assert_eq!(translate(&s, &refused).expect("answers").outcome, Outcome::Unmapped, "a fallback needs permission");
    assert_eq!(
        translate(&s, &query("2.999.1", "no")).expect("answers").outcome,
        Outcome::Unmapped,
        "said to have no target"
    );
}

#[test]
fn dependencies_need_every_value_and_products_come_out() {
    let s = two();
    assert_eq!(translate(&s, &query("2.999.1", "dep")).expect("answers").outcome, Outcome::NeedsContext);
    let with = |value: &str| {
        let context = [("urn:side".to_owned(), value.to_owned())];
        translate(&s, &Query { context: &context, ..query("2.999.1", "dep") }).expect("answers")
    };
    let left = with("L");
    assert_eq!((left.outcome, left.matches[0].code.as_str()), (Outcome::Mapped, "d1"));
    let row = left.matches[0].row.expect("a row");
    assert_eq!(s.products(&row).map(|p| p.value.to_owned()).collect::<Vec<_>>(), ["v"]);
    assert_ne!(with("R").outcome, Outcome::Mapped);
}

#[test]
fn reverse_gives_every_source_with_the_relationship_swapped() {
    let s = two();
    let found = reverse(&s, &Query { target_system: "2.999.1", ..query("2.999.2", "mid") }).expect("answers");
    let got: Vec<(&str, Relationship)> = found.matches.iter().map(|m| (m.code.as_str(), m.relationship)).collect();
    assert_eq!(got, [("e", Relationship::Equivalent), ("w", Relationship::TargetNarrower)]);
}

#[test]
fn maps_by_version_and_only_the_newest_active_one_answers_unasked() {
    let with = |version: &str, status: &str, code: &str| {
        format!(
            r#"{{"resourceType":"ConceptMap","url":"urn:v","version":"{version}","status":"{status}","group":[{{"source":"urn:oid:2.999.1","target":"urn:oid:2.999.2","element":[{{"code":"a","target":[{{"code":"{code}","relationship":"equivalent"}}]}}]}}]}}"#
        )
    };
    let (a, b, c, d) = (
        with("2.9", "active", "nine"),
        with("2.81", "active", "eighty"),
        with("3.0", "draft", "draft"),
        with("4.0", "retired", "retired"),
    );
    let s = snapshot(&[("a.json", &a), ("b.json", &b), ("c.json", &c), ("d.json", &d)]);
    let codes = |map: &str| -> Vec<String> {
        translate(&s, &Query { map, ..query("2.999.1", "a") })
            .expect("answers")
            .matches
            .iter()
            .map(|m| m.code.clone())
            .collect()
    };
    assert_eq!(codes(""), ["eighty"]);
    assert_eq!((codes("urn:v|2.9"), codes("urn:v|4.0")), (vec!["nine".to_owned()], vec!["retired".to_owned()]));
}

#[test]
fn designations_fall_back_openly() {
    let s = shipped();
    let system = s.system("http://loinc.org").expect("LOINC");
    let name = |code: &str, languages: &[&str]| {
        let languages: Vec<String> = languages.iter().map(|l| (*l).to_owned()).collect();
        crate::designation::choose(&s, s.find(system, code).expect("a code"), &languages).expect("a name")
    };
    let national = name("30745-4", &["nb-NO"]);
    assert_eq!(
        (national.text.as_str(), national.origin, national.fallback),
        ("RG toraks", crate::designation::Origin::National, false)
    );
    let phrase = name("24627-2", &["sv", "en"]);
    assert_eq!((phrase.text.as_str(), phrase.language.as_str(), phrase.fallback), ("DT br\u{f6}stkorg", "sv", true));
    let english = name("24627-2", &["de", "en"]);
    assert_eq!((english.text.as_str(), english.language.as_str(), english.fallback), ("CT Chest", "en", true));
}

#[test]
fn filters_expand_to_every_national_code_and_never_to_nothing() {
    let s = shipped();
    let ask = |system: &str, code: &str| {
        crate::expand::expand(&s, &[(system.into(), code.into())], &["2.16.578.1.12.4.1.1.7270".into()])
    };
    let has = |e: &crate::expand::Expansion, code: &str| e.codes.iter().any(|c| c.code == code);
    let chest = ask("http://loinc.org", "24627-2");
    assert!(chest.exact && !chest.unrestricted && has(&chest, "SSC0AD"));
    let brain = ask("http://loinc.org", "24590-2");
    assert!(!brain.exact && has(&brain, "SAA0AG"), "an inexact row widens, answers are filtered again");
    let nothing = ask("http://loinc.org", "99999-9");
    assert!(nothing.unrestricted && !nothing.exact && nothing.codes.len() == 1, "zero codes are not \"no documents\"");
}

#[test]
fn a_modality_and_a_region_expand_to_the_procedures_that_have_them() {
    let s = shipped();
    let ask = |system: &str, code: &str| {
        let found = crate::expand::expand(&s, &[(system.into(), code.into())], &["2.16.578.1.12.4.1.1.7270".into()]);
        assert!(!found.exact && !found.unrestricted, "{code}: {found:?}");
        move |code: &str| found.codes.iter().any(|c| c.code == code)
    };
    let ct = ask("1.2.840.10008.2.16.4", "CT");
    assert!(ct("SSC0AD") && ct("SSD0AD") && !ct("SSC0AG") && !ct("SSC0AA"));
    let upper_trunk = ask("2.16.840.1.113883.6.96", "67734004");
    assert!(upper_trunk("SSC0AD") && upper_trunk("SSC0AG") && !upper_trunk("SSD0AD"));
    let mado = ask("http://snomed.info/sct", "1141981001");
    for spine in ["737561001", "421060004"] {
        assert!(ask("http://snomed.info/sct", spine)("SNA0AG"), "{spine} is the same region");
    }
    assert!(mado("SNA0AG"), "the cervical spine");
}

#[test]
fn coverage_counts_by_content_and_by_traffic() {
    let s = shipped();
    let counters = crate::counters::Counters::default();
    counters.unmapped("urn:oid:2.16.578.1.12.4.1.1.7270", "SSC0AZ");
    counters.unmapped("urn:oid:2.16.578.1.12.4.1.1.7270", "SSC0AZ");
    let counted = crate::coverage::count(&s, Some(&counters), 10);
    let ncrp = counted.systems.iter().find(|c| c.system.ends_with(".7270")).expect("NCRP");
    assert_eq!((ncrp.codes, ncrp.exact + ncrp.approximate + ncrp.unmapped), (54, 54));
    assert_eq!((counted.gaps[0].count, counted.gaps[0].candidates.is_empty()), (2, false));
    let folder = tempfile::tempdir().expect("a folder");
    counters.save(folder.path()).expect("saves");
    let again = crate::counters::Counters::default();
    again.load(folder.path());
    assert_eq!(again.most(10), counters.most(10));
    assert!(crate::coverage::page(&counted).contains("SSC0AZ"));
}

/// SE-05: what a filter costs follows from its codes: twice the codes are twice the rows, and systems that are named again and
/// again are no more rows.
#[test]
fn se_05_an_expansion_grows_with_its_codes_alone() {
    let s = shipped();
    let code = |code: &str| ("1.2.840.10008.2.16.4".to_owned(), code.to_owned());
    let national = |times: usize| vec!["2.16.578.1.12.4.1.1.7270".to_owned(); times];
    let rows = |codes: &[(String, String)], national: &[String]| crate::expand::expand(&s, codes, national).codes.len();
    let one = rows(&[code("CT"), code("MR")], &national(1));
    assert!(one > 2);
    assert_eq!(rows(&[code("CT"), code("MR"), code("CT"), code("MR")], &national(1)), 2 * one);
    assert_eq!(rows(&[code("CT"), code("MR")], &national(5_000)), one);
}
