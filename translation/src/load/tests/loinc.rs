//! LOINC as it is published.

use super::*;

pub(super) fn loinc() -> Vec<(String, String)> {
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
