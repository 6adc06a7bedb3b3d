//! FHIR resources, and what every source must keep to.

use super::loinc::loinc;
use super::*;

#[test]
fn fhir_the_shipped_maps_load_and_give_the_same_bytes_twice() {
    let maps = Path::new(env!("CARGO_MANIFEST_DIR")).join("maps");
    let (a, b) = (build(std::slice::from_ref(&maps)).expect("builds"), build(&[maps]).expect("builds"));
    assert_eq!(a.bytes(), b.bytes());
    let snapshot = Snapshot::built(a).expect("a snapshot");
    for system in ["2.16.578.1.12.4.1.1.7270", "http://ehelse.no/fhir/CodeSystem/no-kodeverk-7270-ncrp"] {
        let answer = translate(&snapshot, &query(system, "SSC0AD")).expect("answers");
        let codes: Vec<&str> = answer.matches.iter().map(|m| m.code.as_str()).collect();
        assert_eq!(
            (answer.outcome, codes.contains(&"24627-2"), codes.contains(&"169069000")),
            (Outcome::Mapped, true, true)
        );
    }
    assert!(translate(&snapshot, &query("2.16.578.1.12.4.1.1.9999", "SSC0AD")).is_err(), "never by code alone");
}

#[test]
fn saved_snapshots_are_named_by_their_digest_and_one_flipped_bit_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let built = build(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("maps")]).expect("builds");
    let path = built.save(folder.path()).expect("saves");
    let opened = Snapshot::open(&path).expect("opens");
    assert_eq!(opened.digest(), &built.digest());
    assert_eq!(opened.manifest(), built.manifest.trim_end());
    let mut bytes = std::fs::read(&path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).expect("writes");
    assert!(matches!(Snapshot::open(&path), Err(crate::snapshot::SnapshotError::Digest { .. })));
    bytes.truncate(middle);
    std::fs::write(&path, &bytes).expect("writes");
    assert!(Snapshot::open(&path).is_err());
}

const MAP: &str = r#"{"resourceType":"ConceptMap","url":"u","version":"1","status":"active",
"group":[{"source":"urn:oid:2.999.1","target":"http://loinc.org",
"element":[
{"code":"a","target":[{"code":"CODE","equivalence":"equivalent"}]}
]}]}"#;

#[test]
fn targets_must_exist_be_active_and_have_right_check_digits() {
    let with = |code: &str| {
        let map = MAP.replace("CODE", code);
        let mut files = loinc();
        files.push(("m.json".into(), map));
        problems(&refs(&files))
    };
    assert_eq!(
        with("79073-5"),
        ["m.json:4: target 79073-5 has a wrong check digit", "m.json:4: target 79073-5 is unknown in its code system"]
    );
    assert_eq!(with(&with_loinc_digit(99_001)), [format!("m.json:4: target {} is inactive", with_loinc_digit(99_001))]);
    assert_eq!(with("18748-4"), ["m.json:4: target 18748-4 is unknown in its code system"]);
}

#[test]
fn rows_that_contradict_are_refused_and_the_same_row_twice_is_one() {
    let twice = MAP.replace(
        r#"[{"code":"CODE","equivalence":"equivalent"}]"#,
        "[{\"code\":\"24627-2\",\"equivalence\":\"equivalent\"},\n{\"code\":\"24627-2\",\"equivalence\":\"wider\"}]",
    );
    assert_eq!(
        problems(&[("m.json", &twice)]),
        ["m.json:5: a has the same target twice, with different relationships"]
    );
    let same = twice.replace("wider", "equal");
    let folder = folder(&[("m.json", &same)]);
    let built = build(&[folder.path().to_owned()]).expect("builds");
    assert_eq!(built.warnings.len(), 1);
    assert_eq!(Snapshot::built(built).expect("a snapshot").all_rows().count(), 1);
}

#[test]
fn other_map_cycles_are_refused() {
    let map = |name: &str, other: &str| {
        MAP.replace("CODE", "24627-2")
            .replace("\"url\":\"u\"", &format!("\"url\":\"{name}\""))
            .replace("\n]}]}", &format!("\n],\"unmapped\":{{\"mode\":\"other-map\",\"url\":\"{other}\"}}}}]}}"))
    };
    let found = problems(&[("a.json", &map("A", "B")), ("b.json", &map("B", "A"))]);
    assert!(found.iter().all(|p| p.contains("leads back to its own map")) && found.len() == 2, "{found:?}");
}

#[test]
fn fhir_r5_code_system_value_set_and_naming_system() {
    let snapshot = snapshot(&[
        (
            "n.json",
            r#"{"resourceType":"NamingSystem","uniqueId":[{"type":"oid","value":"2.999.7"},{"type":"uri","value":"http://example.org/cs","preferred":true}]}"#,
        ),
        (
            "c.json",
            r#"{"resourceType":"CodeSystem","url":"http://example.org/cs","version":"1","content":"complete","caseSensitive":false,"language":"sv",
            "concept":[{"code":"A","display":"Far","concept":[{"code":"B","display":"Barn","designation":[{"language":"fi","value":"Lapsi"}]}]},
            {"code":"C","property":[{"code":"status","valueCode":"retired"}]}]}"#,
        ),
        (
            "v.json",
            r#"{"resourceType":"ValueSet","url":"http://example.org/vs","version":"1","compose":{"include":[{"system":"http://example.org/cs","filter":[{"property":"concept","op":"is-a","value":"A"}]}]}}"#,
        ),
        (
            "w.json",
            r#"{"resourceType":"ValueSet","url":"urn:oid:2.999.8","compose":{"include":[{"valueSet":["http://example.org/vs"]}],"exclude":[{"system":"http://example.org/cs","concept":[{"code":"B"}]}]}}"#,
        ),
        (
            "m.json",
            r#"{"resourceType":"ConceptMap","url":"m","status":"active","group":[{"source":"http://example.org/cs|1","target":"urn:oid:2.999.9","element":[{"code":"A","noMap":true},{"code":"B","target":[{"code":"b","relationship":"source-is-broader-than-target"}]}]}]}"#,
        ),
    ]);
    let system = snapshot.system("urn:oid:2.999.7").expect("by its OID");
    assert_eq!(snapshot.system_name(system), "http://example.org/cs");
    let find = |code: &str| snapshot.find_folded(system, code).expect("a code");
    assert_eq!(find("b"), find("B"), "a system that does not mind case");
    let set = snapshot.value_set("http://example.org/vs|1").expect("a set");
    assert!(set.complete && set.contains(find("A")) && set.contains(find("B")) && !set.contains(find("C")));
    let set = snapshot.value_set("2.999.8").expect("by its OID");
    assert!(set.contains(find("A")) && !set.contains(find("B")));
    let answer = translate(&snapshot, &query("2.999.7", "B")).expect("answers");
    assert_eq!(
        (answer.outcome, answer.matches[0].relationship),
        (Outcome::MappedApproximate, Relationship::TargetNarrower)
    );
    assert_eq!(translate(&snapshot, &query("2.999.7", "A")).expect("answers").outcome, Outcome::Unmapped);
    let validate = crate::service::validate;
    assert!(!validate(&snapshot, "2.999.7", "", "C", "").expect("known").valid);
    assert!(validate(&snapshot, "2.999.7", "", "A", "2.999.8").expect("known").valid);
}
