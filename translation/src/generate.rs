//! Synthetic releases of full size in the real formats, for tests and benchmarks. No content of any release is in them:
//! identifiers are counted up, with right check digits, and words are put together from a short list.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::check_digit::{with_loinc_digit, with_sctid_digit};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// SNOMED CT concepts.
    pub concepts: u64,
    /// Synonyms of each.
    pub synonyms: u64,
    /// LOINC codes.
    pub loinc: u32,
    /// Rows of a national map.
    pub rows: u64,
}

impl Size {
    /// About the size of the real releases.
    pub const FULL: Self = Self { concepts: 360_000, synonyms: 4, loinc: 105_000, rows: 1_000_000 };
    /// Small, for tests.
    pub const SMALL: Self = Self { concepts: 500, synonyms: 2, loinc: 200, rows: 1000 };
}

const WORDS: [&str; 16] = [
    "chest", "abdomen", "pelvis", "head", "neck", "knee", "hip", "shoulder", "plain", "contrast", "left", "right",
    "views", "guided", "limited", "whole",
];

fn words(seed: u64) -> String {
    (0..5)
        .map(|i| WORDS[(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(i * 7) % 16) as usize])
        .collect::<Vec<_>>()
        .join(" ")
}

/// The identifier of the concept with that number.
pub fn concept(number: u64) -> u64 {
    with_sctid_digit((number + 10_000) * 100)
}

/// Writes the releases into a folder.
///
/// # Errors
/// Of the file system.
pub fn write(folder: &Path, size: Size) -> std::io::Result<()> {
    snomed(&folder.join("SnomedCT_Synthetic/Snapshot/Terminology"), size)?;
    loinc(&folder.join("Loinc_Synthetic/LoincTable"), size)?;
    map(folder, size)
}

fn file(folder: &Path, name: &str) -> std::io::Result<BufWriter<std::fs::File>> {
    std::fs::create_dir_all(folder)?;
    Ok(BufWriter::with_capacity(1 << 20, std::fs::File::create(folder.join(name))?))
}

fn snomed(folder: &Path, size: Size) -> std::io::Result<()> {
    const MODULE: &str = "900000000000207008";
    let mut concepts = file(folder, "sct2_Concept_Snapshot_INT_20260101.txt")?;
    let mut descriptions = file(folder, "sct2_Description_Snapshot-en_INT_20260101.txt")?;
    let mut relationships = file(folder, "sct2_Relationship_Snapshot_INT_20260101.txt")?;
    let mut languages = file(folder, "der2_cRefset_LanguageSnapshot-en_INT_20260101.txt")?;
    writeln!(concepts, "id\teffectiveTime\tactive\tmoduleId\tdefinitionStatusId")?;
    writeln!(
        descriptions,
        "id\teffectiveTime\tactive\tmoduleId\tconceptId\tlanguageCode\ttypeId\tterm\tcaseSignificanceId"
    )?;
    writeln!(
        relationships,
        "id\teffectiveTime\tactive\tmoduleId\tsourceId\tdestinationId\trelationshipGroup\ttypeId\tcharacteristicTypeId\tmodifierId"
    )?;
    writeln!(languages, "id\teffectiveTime\tactive\tmoduleId\trefsetId\treferencedComponentId\tacceptabilityId")?;
    for n in 0..size.concepts {
        let id = concept(n);
        let active = u8::from(n % 20 != 19);
        writeln!(concepts, "{id}\t20260101\t{active}\t{MODULE}\t900000000000074008")?;
        for s in 0..=size.synonyms {
            let description = with_sctid_digit((n * (size.synonyms + 1) + s + 10_000) * 100 + 1);
            let kind = if s == 0 { "900000000000003001" } else { "900000000000013009" };
            writeln!(
                descriptions,
                "{description}\t20260101\t1\t{MODULE}\t{id}\ten\t{kind}\t{} {n} {s}\t900000000000448009",
                words(n + s)
            )?;
            if s == 1 {
                writeln!(
                    languages,
                    "{n}\t20260101\t1\t{MODULE}\t900000000000509007\t{description}\t900000000000548007"
                )?;
            }
        }
        if n > 0 {
            writeln!(
                relationships,
                "{n}\t20260101\t1\t{MODULE}\t{id}\t{}\t0\t116680003\t900000000000011006\t900000000000451002",
                concept(n / 8)
            )?;
        }
    }
    for mut file in [concepts, descriptions, relationships, languages] {
        file.flush()?;
    }
    Ok(())
}

fn loinc(folder: &Path, size: Size) -> std::io::Result<()> {
    let mut out = file(folder, "Loinc.csv")?;
    writeln!(
        out,
        "\"LOINC_NUM\",\"COMPONENT\",\"STATUS\",\"SHORTNAME\",\"LONG_COMMON_NAME\",\"VersionLastChanged\",\"DisplayName\""
    )?;
    for n in 0..size.loinc {
        let code = with_loinc_digit(n + 1000);
        writeln!(out, "\"{code}\",\"{0}\",\"ACTIVE\",\"{0}\",\"{0} {n}\",\"2.82\",\"\"", words(u64::from(n)))?;
    }
    out.flush()
}

/// The national code with that number.
pub fn national(number: u64) -> String {
    format!("NAT{number:07}-{:08x}", number.wrapping_mul(2_654_435_761) as u32)
}

fn map(folder: &Path, size: Size) -> std::io::Result<()> {
    let mut out = file(folder, "national.csv")?;
    writeln!(out, "code,target")?;
    for n in 0..size.rows {
        // Active concepts only.
        let target = (n % size.concepts) / 20 * 20 + n % 19;
        writeln!(out, "{},{}", national(n), concept(target.min(size.concepts - 2)))?;
    }
    out.flush()?;
    std::fs::write(
        folder.join("national.toml"),
        "system = \"urn:oid:2.999.1\"\nversion = \"1\"\n[columns]\ncode = \"code\"\n[[columns.target]]\ncode = \"target\"\n\
         system = \"http://snomed.info/sct\"\nalways = \"equivalent\"\nurl = \"urn:ncp:synthetic\"\n",
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn synthetic_releases_build_and_give_the_same_bytes_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        super::write(folder.path(), super::Size::SMALL).expect("writes");
        let build = || {
            crate::load::build(&[folder.path().to_owned()]).unwrap_or_else(|p| panic!("{:#?}", &p[..p.len().min(5)]))
        };
        let (a, b) = (build(), build());
        assert_eq!(a.digest(), b.digest());
        let snapshot = crate::snapshot::Snapshot::built(a).expect("a snapshot");
        let system = snapshot.system("2.999.1").expect("the national system");
        let row = snapshot.best(system, &super::national(7), crate::relationship::Allowed::EXACT).expect("a row");
        assert_eq!(row.target.map(|t| snapshot.code(t).to_owned()), Some(super::concept(7).to_string()));
    }
}
