//! SNOMED CT as it is published.

use super::*;

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
    files[0].1 += &"1\t".repeat(crate::load::LINE);
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
