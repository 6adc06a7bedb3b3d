//! SKS, OpenNCP's tables and national lists with a declared header.

use super::*;

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
    let wide = format!("Kod,Titel\n{}\n", ",".repeat(crate::load::LINE + 1));
    assert!(with(&wide)[0].contains("t.csv:2: line is longer"));
    assert_eq!(
        problems(&[("m.json", "{\"resourceType\":\"ConceptMap\",\n\"url\":")])[0].split(": ").next(),
        Some("m.json:2")
    );
}
