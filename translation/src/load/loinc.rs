//! LOINC releases: `Loinc.csv`, the RSNA Radiology Playbook, `MapTo.csv` and linguistic variants; quoted CSV.

use std::collections::HashMap;
use std::io::Read;

use super::{LINE, Source, whole_file};
use crate::build::{Builder, GroupRecord, Origin, Problem, RowRecord, Unmapped, VersionRecord};
use crate::check_digit::LOINC;
use crate::relationship::Word;

pub(super) fn order(name: &str) -> Option<u8> {
    Some(match name {
        "Loinc.csv" => 0,
        "LinguisticVariants.csv" => 1,
        _ if name.ends_with("LinguisticVariant.csv") => 2,
        "LoincRsnaRadiologyPlaybook.csv" => 3,
        "MapTo.csv" => 4,
        _ => return None,
    })
}

/// What is known of the release while its files are read.
#[derive(Debug, Default)]
pub(super) struct Release {
    version: u32,
    begun: bool,
    /// Number of a linguistic variant to its language tag.
    variants: HashMap<String, String>,
    map: Option<(u32, u32)>,
}

/// A CSV file with a header, bounded in width, with the line of each record.
pub(super) fn csv(
    builder: &mut Builder,
    source: &Source,
    kind: &'static str,
    delimiter: u8,
    bytes: Vec<u8>,
    required: &[&str],
    mut each: impl FnMut(&mut Builder, Origin, &dyn Fn(&str) -> String),
) -> Result<u32, Problem> {
    let input = builder.input(&source.name, kind, openssl::sha::sha256(&bytes), bytes.len() as u64);
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.len() > LINE {
            return Err(Problem {
                file: source.name.as_str().into(),
                line: index as u32 + 1,
                text: format!("line is longer than {LINE} bytes"),
            });
        }
    }
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text);
    let header: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(|h| h.trim().to_owned()).collect(),
        Err(_) => return Err(whole_file(&source.name, "has no header in UTF-8")),
    };
    for name in required {
        if !header.iter().any(|h| h.eq_ignore_ascii_case(name)) {
            return Err(Problem { file: source.name.as_str().into(), line: 1, text: format!("has no column {name}") });
        }
    }
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line) as u32;
                builder.problem(Origin { input, line }, "is not UTF-8 or no CSV");
                break;
            }
        }
        let line = record.position().map_or(0, csv::Position::line) as u32;
        let origin = Origin { input, line };
        if record.len() == 1 && record.get(0).is_some_and(str::is_empty) {
            continue;
        }
        if record.len() != header.len() {
            builder.problem(origin, format!("has {} columns, the header has {}", record.len(), header.len()));
            continue;
        }
        let get = |name: &str| {
            let at = header.iter().position(|h| h.eq_ignore_ascii_case(name));
            at.and_then(|i| record.get(i)).unwrap_or_default().to_owned()
        };
        each(builder, origin, &get);
    }
    Ok(input)
}

pub(super) fn bytes_of(source: &Source) -> Result<Vec<u8>, Problem> {
    let failed = |e: std::io::Error| whole_file(&source.name, e.to_string());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&source.path).map_err(failed)?;
    file.take(super::JSON + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > super::JSON {
        return Err(whole_file(&source.name, format!("is larger than {} bytes", super::JSON)));
    }
    Ok(bytes)
}

impl Release {
    pub(super) fn read(&mut self, builder: &mut Builder, source: &Source) -> Result<(), Problem> {
        let bytes = bytes_of(source)?;
        if !self.begun {
            builder.alias(&[LOINC, "http://loinc.org"]);
            builder.system_language(LOINC, "en");
            let system = builder.system(LOINC);
            self.version = builder.version(VersionRecord {
                system,
                version: newest(&bytes),
                case_sensitive: false,
                complete: source.file_name() == "Loinc.csv",
                name: "LOINC".into(),
                licence: "LOINC licence, http://loinc.org/license".into(),
            });
            self.begun = true;
        }
        match order(source.file_name()) {
            Some(0) => self.table(builder, source, bytes),
            Some(1) => self.variants(builder, source, bytes),
            Some(2) => self.variant(builder, source, bytes),
            Some(3) => self.playbook(builder, source, bytes),
            _ => self.map_to(builder, source, bytes),
        }
    }

    fn table(&self, builder: &mut Builder, source: &Source, bytes: Vec<u8>) -> Result<(), Problem> {
        let system = builder.system(LOINC);
        let required = ["LOINC_NUM", "STATUS", "LONG_COMMON_NAME", "SHORTNAME"];
        csv(builder, source, "LOINC table", b',', bytes, &required, |builder, origin, get| {
            let status = get("STATUS");
            // DISCOURAGED and TRIAL codes are valid; a deprecated one is not.
            let active = status != "DEPRECATED";
            let concept = builder.content(system, &get("LOINC_NUM"), self.version, active, origin);
            builder.designation(concept, self.version, "en", 0, true, &get("LONG_COMMON_NAME"), "");
            builder.designation(concept, self.version, "en", 1, false, &get("DisplayName"), "");
            builder.designation(concept, self.version, "en", 1, false, &get("SHORTNAME"), "");
        })?;
        Ok(())
    }

    fn variants(&mut self, builder: &mut Builder, source: &Source, bytes: Vec<u8>) -> Result<(), Problem> {
        let required = ["ID", "ISO_LANGUAGE", "ISO_COUNTRY"];
        csv(builder, source, "LOINC linguistic variants", b',', bytes, &required, |builder, origin, get| {
            builder.used(origin.input);
            let tag = format!("{}-{}", get("ISO_LANGUAGE").to_lowercase(), get("ISO_COUNTRY").to_uppercase());
            self.variants.insert(get("ID"), tag.trim_end_matches('-').to_owned());
        })?;
        Ok(())
    }

    /// `svSE21LinguisticVariant.csv`: language, country, number of the variant.
    fn variant(&self, builder: &mut Builder, source: &Source, bytes: Vec<u8>) -> Result<(), Problem> {
        let stem = source.file_name().trim_end_matches("LinguisticVariant.csv").to_owned();
        let number: String = stem.chars().filter(char::is_ascii_digit).collect();
        let letters: String = stem.chars().filter(char::is_ascii_alphabetic).collect();
        let named = match (letters.get(..2), letters.get(2..4)) {
            (Some(language), Some(country)) => format!("{language}-{country}"),
            _ => letters.clone(),
        };
        let language = self.variants.get(&number).cloned().unwrap_or(named);
        let system = builder.system(LOINC);
        let required = ["LOINC_NUM", "LONG_COMMON_NAME"];
        csv(builder, source, "LOINC linguistic variant", b',', bytes, &required, |builder, origin, get| {
            let Some(concept) = builder.known_concept(system, &get("LOINC_NUM")) else {
                builder.problem(origin, format!("unknown code {}", get("LOINC_NUM")));
                return;
            };
            builder.used(origin.input);
            builder.designation(concept, self.version, &language, 0, true, &get("LinguisticVariantDisplayName"), "");
            builder.designation(concept, self.version, &language, 1, true, &get("LONG_COMMON_NAME"), "");
        })?;
        Ok(())
    }

    /// Modality, region and side, one line a part.
    fn playbook(&self, builder: &mut Builder, source: &Source, bytes: Vec<u8>) -> Result<(), Problem> {
        let system = builder.system(LOINC);
        let required = ["LoincNumber", "PartNumber", "PartTypeName", "PartName"];
        csv(builder, source, "LOINC/RSNA Radiology Playbook", b',', bytes, &required, |builder, origin, get| {
            let code = get("LoincNumber");
            let Some(concept) = builder.known_concept(system, &code) else {
                builder.problem(origin, format!("unknown code {code}"));
                return;
            };
            builder.used(origin.input);
            let facet = match get("PartTypeName").to_lowercase().as_str() {
                "rad.modality.modality type" => 0,
                "rad.anatomic location.region imaged" => 1,
                "rad.anatomic location.laterality" => 2,
                _ => return,
            };
            let facets = builder.facets.entry(concept).or_default();
            if facets[facet].is_empty() {
                facets[facet] = facet_word(facet, &get("PartName"));
            }
        })?;
        Ok(())
    }

    /// Deprecated codes and what to use instead.
    fn map_to(&mut self, builder: &mut Builder, source: &Source, bytes: Vec<u8>) -> Result<(), Problem> {
        let digest = openssl::sha::sha256(&bytes);
        let system = builder.system(LOINC);
        let version = builder.versions.get(self.version as usize).map(|v| v.version.clone()).unwrap_or_default();
        let url = "http://loinc.org/cm/map-to";
        let map = builder.map(url, &version, "active", ["", ""], &digest);
        let mut group = self.map.map(|m| m.1);
        csv(builder, source, "LOINC map to", b',', bytes, &["LOINC", "MAP_TO"], |builder, origin, get| {
            let group = *group.get_or_insert_with(|| {
                builder.group(GroupRecord {
                    map,
                    source: system,
                    source_version: String::new(),
                    target: system,
                    target_version: String::new(),
                    unmapped: Unmapped::None,
                    origin,
                })
            });
            let (from, to) = (get("LOINC"), get("MAP_TO"));
            let (source, target) = (builder.concept(system, &from), builder.concept(system, &to));
            let comment = builder.strings.id(&get("COMMENT"));
            let Some(word) = Word::parse("relatedto") else { return };
            builder.row(RowRecord {
                source,
                target,
                map,
                group,
                word,
                priority: 0,
                depends: Vec::new(),
                products: Vec::new(),
                comment,
                display: 0,
                origin,
            });
        })?;
        self.map = group.map(|g| (map, g));
        Ok(())
    }
}

/// Playbook words in the words of our phrases: DICOM modality, region, side.
fn facet_word(facet: usize, part: &str) -> String {
    let lower = part.to_lowercase();
    match (facet, lower.as_str()) {
        (0, _) => part.to_uppercase(),
        (2, "left" | "right" | "bilateral") => lower,
        (2, _) => String::new(),
        _ => lower.replace([' ', '+'], "-"),
    }
}

/// The release: the newest `VersionLastChanged`.
fn newest(bytes: &[u8]) -> String {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bytes);
    let at = reader.headers().ok().and_then(|h| h.iter().position(|n| n == "VersionLastChanged"));
    let Some(at) = at else { return String::new() };
    let mut newest = String::new();
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).unwrap_or(false) {
        let version = record.get(at).and_then(|v| std::str::from_utf8(v).ok()).unwrap_or_default();
        if crate::build::compare_versions(version, &newest).is_gt() {
            newest = version.to_owned();
        }
    }
    newest
}
