//! A file of the real format for each loader, and what they refuse, with file and line.

use std::path::{Path, PathBuf};

use super::build;
use crate::check_digit::{with_loinc_digit, with_sctid_digit};
use crate::relationship::{Allowed, Relationship};
use crate::snapshot::Snapshot;
use crate::translate::{Outcome, Query, translate};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/terminology")
}

pub(crate) fn shipped() -> Snapshot {
    let maps = Path::new(env!("CARGO_MANIFEST_DIR")).join("maps");
    let built = build(&[maps]).unwrap_or_else(|p| panic!("{p:#?}"));
    Snapshot::built(built).expect("a snapshot")
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("writes");
    }
    folder
}

pub(crate) fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let folder = folder(files);
    Snapshot::built(build(&[folder.path().to_owned()]).unwrap_or_else(|p| panic!("{p:#?}"))).expect("a snapshot")
}

fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let folder = folder(files);
    build(&[folder.path().to_owned()]).expect_err("problems").iter().map(ToString::to_string).collect()
}

fn query<'a>(system: &'a str, code: &'a str) -> Query<'a> {
    Query { system, version: "", code, target_system: "", map: "", context: &[], allowed: Allowed::ALL }
}

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

fn rf2() -> Vec<(String, String)> {
    let id = |n: u64| with_sctid_digit(n * 1000 + 10).to_string();
    let (root, chest, old, fsn, syn, old_syn) = (id(138), id(901), id(902), id(911), id(912), id(913));
    let tab = |rows: &[&[&str]], end: &str| rows.iter().map(|r| r.join("\t") + end).collect::<String>();
    let core = "900000000000207008";
    vec![
        (
            "sct2_Concept_Snapshot_INT_20260101.txt".into(),
            tab(
                &[
                    &["id", "effectiveTime", "active", "moduleId", "definitionStatusId"],
                    &[&root, "20020131", "1", core, "900000000000074008"],
                    &[&chest, "20260101", "1", core, "900000000000074008"],
                    &[&old, "20250101", "0", core, "900000000000074008"],
                ],
                "\r\n",
            ),
        ),
        (
            "sct2_Description_Snapshot-en_INT_20260101.txt".into(),
            tab(
                &[
                    &[
                        "id",
                        "effectiveTime",
                        "active",
                        "moduleId",
                        "conceptId",
                        "languageCode",
                        "typeId",
                        "term",
                        "caseSignificanceId",
                    ],
                    &[
                        &fsn,
                        "20260101",
                        "1",
                        core,
                        &chest,
                        "en",
                        "900000000000003001",
                        "Plain X-ray of chest (procedure)",
                        "900000000000448009",
                    ],
                    &[
                        &syn,
                        "20260101",
                        "1",
                        core,
                        &chest,
                        "en",
                        "900000000000013009",
                        "Chest X-ray",
                        "900000000000448009",
                    ],
                    &[
                        &old_syn,
                        "20260101",
                        "1",
                        core,
                        &chest,
                        "en",
                        "900000000000013009",
                        "Chest \"film\"",
                        "900000000000448009",
                    ],
                ],
                "\n",
            ),
        ),
        (
            "der2_cRefset_LanguageSnapshot-en_INT_20260101.txt".into(),
            tab(
                &[
                    &[
                        "id",
                        "effectiveTime",
                        "active",
                        "moduleId",
                        "refsetId",
                        "referencedComponentId",
                        "acceptabilityId",
                    ],
                    &["x", "20260101", "1", core, "900000000000508004", &syn, "900000000000548007"],
                ],
                "\n",
            ),
        ),
        (
            "sct2_Relationship_Snapshot_INT_20260101.txt".into(),
            tab(
                &[
                    &[
                        "id",
                        "effectiveTime",
                        "active",
                        "moduleId",
                        "sourceId",
                        "destinationId",
                        "relationshipGroup",
                        "typeId",
                        "characteristicTypeId",
                        "modifierId",
                    ],
                    &[
                        "1",
                        "20260101",
                        "1",
                        core,
                        &chest,
                        &root,
                        "0",
                        "116680003",
                        "900000000000011006",
                        "900000000000451002",
                    ],
                ],
                "\n",
            ),
        ),
        (
            "der2_cRefset_AssociationSnapshot_INT_20260101.txt".into(),
            tab(
                &[
                    &[
                        "id",
                        "effectiveTime",
                        "active",
                        "moduleId",
                        "refsetId",
                        "referencedComponentId",
                        "targetComponentId",
                    ],
                    &["a", "20260101", "1", core, "900000000000526001", &old, &chest],
                ],
                "\n",
            ),
        ),
        (
            "der2_sRefset_SimpleMapSnapshot_INT_20260101.txt".into(),
            tab(
                &[
                    &["id", "effectiveTime", "active", "moduleId", "refsetId", "referencedComponentId", "mapTarget"],
                    &["b", "20260101", "1", core, "446608001", &chest, "C34.9"],
                ],
                "\n",
            ),
        ),
        (
            "der2_iisssccRefset_ExtendedMapSnapshot_INT_20260101.txt".into(),
            tab(
                &[
                    &[
                        "id",
                        "effectiveTime",
                        "active",
                        "moduleId",
                        "refsetId",
                        "referencedComponentId",
                        "mapGroup",
                        "mapPriority",
                        "mapRule",
                        "mapAdvice",
                        "mapTarget",
                        "correlationId",
                        "mapCategoryId",
                    ],
                    &[
                        "c",
                        "20260101",
                        "1",
                        core,
                        "447562003",
                        &chest,
                        "1",
                        "1",
                        "TRUE",
                        "ALWAYS Z01.6",
                        "Z01.6",
                        "447561005",
                        "447637006",
                    ],
                ],
                "\n",
            ),
        ),
        (
            "der2_Refset_SimpleSnapshot_INT_20260101.txt".into(),
            tab(
                &[
                    &["id", "effectiveTime", "active", "moduleId", "refsetId", "referencedComponentId"],
                    &["d", "20260101", "1", core, "723264001", &chest],
                ],
                "\n",
            ),
        ),
        ("readme.txt".into(), "not read".into()),
    ]
}

fn refs(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect()
}

#[test]
fn rf2_release_concepts_descriptions_languages_and_reference_sets() {
    let files = rf2();
    let snapshot = snapshot(&refs(&files));
    let system = snapshot.system("http://snomed.info/sct").expect("SNOMED CT");
    let id = |n: u64| with_sctid_digit(n * 1000 + 10).to_string();
    let (root, chest, old) = (id(138), id(901), id(902));
    let find = |code: &str| snapshot.find(system, code).expect("a concept");
    let version = snapshot.versions(system).next().expect("a version");
    assert_eq!(version.version, "http://snomed.info/sct/900000000000207008/version/20260101");
    assert!(
        version.complete
            && snapshot.subsumes(find(&root), find(&chest))
            && !snapshot.subsumes(find(&chest), find(&root))
    );
    let named = crate::designation::choose(&snapshot, find(&chest), &["en-GB".into()]).expect("a name");
    assert_eq!((named.text.as_str(), named.language.as_str(), named.fallback), ("Chest X-ray", "en-GB", false));
    let replaced = translate(&snapshot, &query("http://snomed.info/sct", &old)).expect("answers");
    assert_eq!(replaced.matches[0].code, chest);
    assert!(replaced.issues.contains(&crate::translate::issues::INACTIVE));
    let icd = Query { target_system: "http://hl7.org/fhir/sid/icd-10", ..query("2.16.840.1.113883.6.96", &chest) };
    assert_eq!(translate(&snapshot, &icd).expect("answers").matches[0].code, "Z01.6");
    let set = snapshot.value_set("http://snomed.info/sct?fhir_vs=refset/723264001").expect("a reference set");
    assert!(set.contains(find(&chest)) && !set.contains(find(&root)));
    // An edition without a date means the one that is loaded.
    let edition =
        Query { version: "http://snomed.info/sct/900000000000207008", ..query("http://snomed.info/sct", &old) };
    assert!(!translate(&snapshot, &edition).expect("answers").issues.contains(&crate::translate::issues::VERSION));
}

#[test]
fn rf2_is_refused_with_file_and_line() {
    let mut files = rf2();
    files[0].1 = files[0].1.replace("\t20020131\t1\t", "\t20020131\t1\t1\t");
    assert!(problems(&refs(&files))[0].starts_with("sct2_Concept_Snapshot_INT_20260101.txt:2: has 6 columns"));
    let mut files = rf2();
    files[0].1 += "419394000\t20260101\t1\t900000000000207008\t900000000000074008\r\n";
    assert!(problems(&refs(&files)).iter().any(|p| p.contains("txt:5: 419394000 has a wrong check digit")));
    let mut files = rf2();
    let cut = files[0].1.len() - 3;
    files[0].1.truncate(cut);
    assert!(problems(&refs(&files)).iter().any(|p| p.contains("file ends in the middle of a line")));
    let mut files = rf2();
    let turned = files[3]
        .1
        .lines()
        .nth(1)
        .map(|l| {
            let f: Vec<&str> = l.split('\t').collect();
            format!("2\t20260101\t1\t{}\t{}\t{}\t0\t116680003\t{}\t{}\n", f[3], f[5], f[4], f[8], f[9])
        })
        .expect("a line");
    files[3].1 += &turned;
    assert!(problems(&refs(&files)).iter().any(|p| p.contains("is its own ancestor")));
    let mut files = rf2();
    files[0].1 += &"1\t".repeat(super::LINE);
    assert!(problems(&refs(&files)).iter().any(|p| p.contains("txt:5: line is longer than")));
}

/// The release of [`rf2`] in another form gives the same content.
fn same_release(inputs: &[PathBuf]) {
    let built = build(inputs).unwrap_or_else(|p| panic!("{p:#?}"));
    let (other, files) = (Snapshot::built(built).expect("a snapshot"), rf2());
    let plain = snapshot(&refs(&files));
    let names = |s: &Snapshot| {
        let rows = s.all_rows().map(|r| format!("{} {:?}", s.code(r.source), r.target.map(|t| s.code(t).to_owned())));
        let concepts = s.concepts().map(|c| {
            let active = s.contents(c).map(|c| (c.version.to_owned(), c.active)).collect::<Vec<_>>();
            format!("{} {active:?} {:?}", s.code(c), s.names(c).map(|n| n.text.to_owned()).collect::<Vec<_>>())
        });
        let mut all: Vec<String> = rows.chain(concepts).collect();
        all.sort();
        all
    };
    assert_eq!(names(&other), names(&plain));
}

#[test]
fn rf2_as_a_zip_file_as_published() {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("SnomedCT_InternationalRF2_20260101.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).expect("creates"));
    for (name, text) in rf2() {
        let below = format!("SnomedCT_InternationalRF2/Snapshot/Terminology/{name}");
        zip.start_file(below, zip::write::SimpleFileOptions::default()).expect("begins");
        zip.write_all(text.as_bytes()).expect("writes");
    }
    zip.finish().expect("ends");
    same_release(std::slice::from_ref(&path));
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&path, bytes).expect("writes");
    let told = build(&[path]).expect_err("half a file");
    assert!(told[0].file.ends_with("RF2_20260101.zip"), "{told:?}");
    let path = folder.path().join("evil.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).expect("creates"));
    zip.start_file("../../sct2_Concept_Snapshot_INT_20260101.txt", zip::write::SimpleFileOptions::default())
        .expect("begins");
    zip.finish().expect("ends");
    assert!(build(&[path]).expect_err("leads out")[0].text.contains("leads out"));
}

#[test]
fn rf2_full_files_and_a_delta_reduce_to_the_newest_state_of_each_component() {
    // Every component began in 2002, inactive; the Full file also holds its state of the release.
    let began = |line: &str| {
        let mut fields: Vec<&str> = line.split('\t').collect();
        (fields[1], fields[2]) = ("20020101", "0");
        fields.join("\t") + "\n"
    };
    let full = rf2().into_iter().map(|(name, text)| {
        let text = text.replace("\r\n", "\n");
        let (header, rows) = text.split_once('\n').unwrap_or((&text, ""));
        let old: String = rows.lines().filter(|_| name.contains("Snapshot")).map(began).collect();
        (name.replace("Snapshot", "Full"), format!("{header}\n{rows}{old}"))
    });
    let full: Vec<(String, String)> = full.collect();
    let of_full = folder(&refs(&full));
    same_release(&[of_full.path().to_owned()]);
    // The Snapshot of the release before, and what changed since.
    let mut before: Vec<(String, String)> =
        rf2().into_iter().map(|(name, text)| (name.replace("20260101", "20250101"), text)).collect();
    let concepts = before[0].1.replace("\t20260101\t1\t", "\t20250101\t0\t");
    let (header, _) = concepts.split_once("\r\n").expect("lines");
    let changed: String =
        rf2()[0].1.lines().filter(|l| l.contains("\t20260101\t1\t")).map(|l| format!("{l}\n")).collect();
    assert!(!changed.is_empty());
    let delta = ("sct2_Concept_Delta_INT_20260101.txt".to_owned(), format!("{header}\n{changed}"));
    before[0].1 = concepts;
    before.push(delta);
    let of_delta = folder(&refs(&before));
    same_release(&[of_delta.path().to_owned()]);
}

fn loinc() -> Vec<(String, String)> {
    let deprecated = with_loinc_digit(99_001);
    vec![
        ("LoincTable/Loinc.csv".into(), format!("\u{feff}\"LOINC_NUM\",\"COMPONENT\",\"STATUS\",\"SHORTNAME\",\"LONG_COMMON_NAME\",\"VersionLastChanged\",\"DisplayName\"\r\n\
            \"24627-2\",\"Multisection\",\"ACTIVE\",\"CT Chest\",\"CT Chest\",\"2.69\",\"\"\r\n\
            \"30745-4\",\"Views\",\"ACTIVE\",\"XR Chest\",\"XR Chest Views\",\"2.82\",\"\"\r\n\
            \"{deprecated}\",\"Old\",\"DEPRECATED\",\"Old\",\"Old, quoted \"\"name\"\"\",\"2.9\",\"\"\r\n")),
        ("AccessoryFiles/LinguisticVariants/LinguisticVariants.csv".into(),
            "\"ID\",\"ISO_LANGUAGE\",\"ISO_COUNTRY\",\"LANGUAGE_NAME\",\"PRODUCER\"\n\"24\",\"de\",\"DE\",\"German\",\"x\"\n".into()),
        ("AccessoryFiles/LinguisticVariants/deDE24LinguisticVariant.csv".into(),
            "\"LOINC_NUM\",\"COMPONENT\",\"LONG_COMMON_NAME\",\"LinguisticVariantDisplayName\"\n\"24627-2\",\"\",\"CT Thorax lang\",\"CT Thorax\"\n".into()),
        ("AccessoryFiles/LoincRsnaRadiologyPlaybook/LoincRsnaRadiologyPlaybook.csv".into(),
            "\"LoincNumber\",\"LongCommonName\",\"PartNumber\",\"PartTypeName\",\"PartName\",\"PartSequenceOrder\",\"RID\",\"PreferredName\",\"RPID\",\"LongName\"\n\
            \"24627-2\",\"CT Chest\",\"LP208891-8\",\"Rad.Modality.Modality Type\",\"CT\",\"A\",\"\",\"\",\"\",\"\"\n\
            \"24627-2\",\"CT Chest\",\"LP199964-6\",\"Rad.Anatomic Location.Region Imaged\",\"Chest\",\"A\",\"\",\"\",\"\",\"\"\n".into()),
        ("LoincTable/MapTo.csv".into(), format!("\"LOINC\",\"MAP_TO\",\"COMMENT\"\n\"{deprecated}\",\"24627-2\",\"\"\n")),
    ]
}

#[test]
fn loinc_table_playbook_variants_and_map_to() {
    let files = loinc();
    let snapshot = snapshot(&refs(&files));
    let system = snapshot.system("http://loinc.org").expect("LOINC");
    assert_eq!(snapshot.versions(system).next().map(|v| v.version), Some("2.82"));
    let chest = snapshot.find(system, "24627-2").expect("a code");
    let name = |l: &str| crate::designation::choose(&snapshot, chest, &[l.to_owned()]).map(|d| d.text);
    assert_eq!(
        (name("en").as_deref(), name("de-AT").as_deref(), name("fi")),
        (Some("CT Chest"), Some("CT Thorax"), None)
    );
    assert_eq!(snapshot.facets(chest), Some(["CT", "chest", ""]));
    let deprecated = with_loinc_digit(99_001);
    let answer = translate(&snapshot, &query("http://loinc.org", &deprecated)).expect("answers");
    assert_eq!((answer.matches[0].code.as_str(), answer.matches[0].relationship), ("24627-2", Relationship::Related));
    assert!(answer.issues.contains(&crate::translate::issues::INACTIVE));
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

#[test]
fn sks_fixed_width_lines_the_latest_end_counts() {
    let line = |code: &str, from: &str, to: &str, text: &str| {
        format!("uku{code:<20}{from}20260101{to}{text:<120}{:<20}\r\n", "")
    };
    let text = line("UXCC00", "19990101", "20051231", "CT gammel")
        + &line("UXCC00", "20060101", "25000101", "CT-skanning af thorax")
        + &line("UXRC99", "19990101", "20051231", "Nedlagt");
    let snapshot = snapshot(&[("SKScomplete.txt", &text)]);
    let system = snapshot.system("1.2.208.176.2.4").expect("SKS");
    let code = snapshot.find(system, "UXCC00").expect("a code");
    assert_eq!(snapshot.names(code).next().map(|n| n.text.to_owned()).as_deref(), Some("CT-skanning af thorax"));
    let old = snapshot.find(system, "UXRC99").expect("a code");
    assert!(snapshot.contents(code).all(|c| c.active) && snapshot.contents(old).all(|c| !c.active));
    let cyrillic = line("UX\u{421}C00", "20060101", "25000101", "x");
    assert!(problems(&[("SKS.txt", &cyrillic)])[0].contains("SKS.txt:1: code"));
    assert!(problems(&[("SKS.txt", "uku\r\n")])[0].contains("is no SKS line"));
}

#[test]
fn openncp_tables_of_tsam_in_their_code_page() {
    let snapshot =
        Snapshot::built(build(&[fixtures().join("openncp")]).unwrap_or_else(|p| panic!("{p:#?}"))).expect("a snapshot");
    let answer = translate(&snapshot, &query("2.16.840.1.113883.6.96", "271649006")).expect("answers");
    assert_eq!((answer.outcome, answer.matches[0].code.as_str()), (Outcome::MappedApproximate, "8480-6"));
    let system = snapshot.system("2.16.840.1.113883.6.96").expect("SNOMED CT");
    let diastolic = snapshot.find(system, "271650006").expect("a code");
    let name = crate::designation::choose(&snapshot, diastolic, &["sk-SK".into()]).expect("a name");
    assert_eq!(name.text, "diastolick\u{fd} art\u{e9}riov\u{fd} tlak");
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(fixtures().join("openncp")).expect("reads") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "csv") {
            std::fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("copies");
        }
    }
    let refused = build(&[folder.path().to_owned()]).expect_err("a code page that is not named");
    assert!(refused[0].to_string().starts_with("designation.csv:8: is not UTF-8"), "{refused:?}");
}

#[test]
fn declared_header_tables_of_norway_sweden_and_finland() {
    let snapshot =
        Snapshot::built(build(&[fixtures().join("tables")]).unwrap_or_else(|p| panic!("{p:#?}"))).expect("a snapshot");
    let name = |system: &str, code: &str, language: &str| {
        let concept = snapshot.find(snapshot.system(system)?, code)?;
        crate::designation::choose(&snapshot, concept, &[language.to_owned()]).map(|d| d.text)
    };
    assert_eq!(name("2.16.578.1.12.4.1.1.7270", "SSC0AD", "no").as_deref(), Some("CT toraks"), "XLSX");
    assert_eq!(name("1.2.752.116.1.3.2.1.4", "AA001", "sv").as_deref(), Some("Datortomografi torax"), "ISO 8859-1");
    assert_eq!(name("2.999.246.1.1", "GD1AA", "sv").as_deref(), Some("Thoraxr\u{f6}ntgen"), "BOM and CRLF");
    let answer = translate(&snapshot, &query("2.999.246.1.1", "GD1AA")).expect("answers");
    assert_eq!(answer.matches[0].code, "30745-4");
    let dexa = snapshot.find(snapshot.system("2.16.578.1.12.4.1.1.7270").expect("NCRP"), "SNX0XA").expect("a code");
    assert!(snapshot.contents(dexa).all(|c| !c.active));
}

#[test]
fn tables_are_refused_with_file_and_line() {
    let profile = "system = \"urn:oid:2.999.1\"\n[columns]\ncode = \"Kod\"\ndisplay = \"Titel\"\n";
    let with = |text: &str| problems(&[("t.toml", profile), ("t.csv", text)]);
    assert_eq!(with("Kod,Namn\nA,b\n"), ["t.csv:1: has no column Titel"]);
    assert_eq!(with("Kod,Titel\nA,b\nA\n"), ["t.csv:3: has 1 columns, the header has 2"]);
    assert!(with("Kod,Titel\n\u{410}1,b\n")[0].starts_with("t.csv:2: code"), "a Cyrillic A");
    assert_eq!(problems(&[("t.toml", "system = 1\n"), ("t.csv", "a\n")])[0].split(':').next(), Some("t.toml"));
    let wide = format!("Kod,Titel\n{}\n", ",".repeat(super::LINE + 1));
    assert!(with(&wide)[0].contains("t.csv:2: line is longer"));
    assert_eq!(
        problems(&[("m.json", "{\"resourceType\":\"ConceptMap\",\n\"url\":")])[0].split(": ").next(),
        Some("m.json:2")
    );
}
