//! National lists with a declared header: CSV, TSV or XLSX, with a column profile in TOML beside it under the same name.
//!
//! ```toml
//! system = "urn:oid:1.2.752.116.1.3.2.1.4"
//! version = "2026"
//! language = "sv"
//! licence = "public, Socialstyrelsen"
//! sheet = "KVÅ"              # XLSX
//! header_row = 1             # lines above it are passed over
//! encoding = "utf-8"         # or a label of the WHATWG list
//! delimiter = ";"
//! complete = true
//! case_sensitive = true
//! [columns]
//! code = "Kod"
//! display = "Titel"
//! parent = "Överordnad"
//! status = "Status"
//! inactive = ["Utgått"]      # values of the status column
//! modality = "Modality"      # DICOM modality, region and side of our phrases
//! region = "Region"
//! side = "Side"
//! [columns.displays]         # further languages
//! en = "English"
//! [[columns.target]]         # a map in the same table
//! code = "LOINC"
//! system = "http://loinc.org"
//! relationship = "Rel"       # column, or
//! always = "wider"
//! url = "urn:example:map"
//! ```

use std::collections::BTreeMap;

use calamine::{Data, Reader};
use serde::Deserialize;

use super::loinc::{bytes_of, csv};
use super::{Source, whole_file};
use crate::build::{Builder, GroupRecord, Origin, Problem, RowRecord, Unmapped, VersionRecord};
use crate::format::NONE;
use crate::relationship::Word;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    system: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    language: String,
    #[serde(default)]
    licence: String,
    #[serde(default)]
    name: String,
    sheet: Option<String>,
    #[serde(default = "one")]
    header_row: usize,
    encoding: Option<String>,
    delimiter: Option<String>,
    #[serde(default)]
    complete: bool,
    #[serde(default = "yes")]
    case_sensitive: bool,
    columns: Columns,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Columns {
    code: String,
    display: Option<String>,
    parent: Option<String>,
    status: Option<String>,
    #[serde(default)]
    inactive: Vec<String>,
    modality: Option<String>,
    region: Option<String>,
    side: Option<String>,
    #[serde(default)]
    displays: BTreeMap<String, String>,
    #[serde(default)]
    target: Vec<TargetColumns>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetColumns {
    code: String,
    system: String,
    relationship: Option<String>,
    always: Option<String>,
    comment: Option<String>,
    url: String,
}

/// Names of look-alikes of Latin letters and digits are not codes of these lists.
fn odd(code: &str) -> Option<char> {
    code.chars().find(|c| !c.is_ascii() && !matches!(c, 'Å' | 'Ä' | 'Ö' | 'Æ' | 'Ø' | 'å' | 'ä' | 'ö' | 'æ' | 'ø'))
}

pub(super) fn read(builder: &mut Builder, source: &Source) -> Result<(), Problem> {
    let profile_path = source.path.with_extension("toml");
    let text = std::fs::read_to_string(&profile_path).map_err(|e| whole_file(&source.name, e.to_string()))?;
    let profile: Profile = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() as u32 + 1);
        let file = profile_path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Problem { file: file.into(), line, text: e.message().to_owned() }
    })?;
    let delimiter = profile.delimiter.as_deref().map_or(b',', |d| d.as_bytes().first().copied().unwrap_or(b','));
    let delimiter = if source.name.ends_with(".tsv") { b'\t' } else { delimiter };
    let original = bytes_of(source)?;
    let bytes = if source.name.to_lowercase().ends_with(".xlsx") {
        sheet(source, &profile, original)?
    } else {
        decoded(source, &profile, original)?
    };
    let system = builder.system(&profile.system);
    if !profile.language.is_empty() {
        builder.system_language(&profile.system, &profile.language);
    }
    let version = builder.version(VersionRecord {
        system,
        version: profile.version.clone(),
        case_sensitive: profile.case_sensitive,
        complete: profile.complete,
        name: profile.name.clone(),
        licence: profile.licence.clone(),
    });
    let columns = &profile.columns;
    let mut required = vec![columns.code.as_str()];
    required.extend([&columns.display, &columns.parent, &columns.status].into_iter().flatten().map(String::as_str));
    required.extend(columns.displays.values().map(String::as_str));
    required.extend(columns.target.iter().map(|t| t.code.as_str()));
    let digest = openssl::sha::sha256(&bytes);
    let mut groups: Vec<Option<(u32, u32)>> = vec![None; columns.target.len()];
    csv(builder, source, "declared header", delimiter, bytes, &required, |builder, origin, get| {
        let code = get(&columns.code);
        if code.trim().is_empty() {
            builder.problem(origin, "has no code");
            return;
        }
        if let Some(odd) = odd(&code) {
            builder.problem(origin, format!("code {code:?} has {odd:?}, which looks like another letter"));
            return;
        }
        if code.trim() != code {
            builder.warning(origin, format!("code {code:?} has blanks at its end, they are kept"));
        }
        let status = columns.status.as_deref().map(get).unwrap_or_default();
        let active = !columns.inactive.contains(&status);
        let concept = builder.content(system, &code, version, active, origin);
        let display = columns.display.as_deref().map(get).unwrap_or_default();
        builder.designation(concept, version, &profile.language, 0, true, display.trim(), "");
        for (language, column) in &columns.displays {
            builder.designation(concept, version, language, 0, true, get(column).trim(), "");
        }
        if let Some(parent) = columns.parent.as_deref().map(get).filter(|p| !p.is_empty()) {
            let parent = builder.concept(system, &parent);
            builder.parents.push((concept, parent, origin));
        }
        let facets =
            [&columns.modality, &columns.region, &columns.side].map(|c| c.as_deref().map(get).unwrap_or_default());
        if facets.iter().any(|f| !f.is_empty()) {
            builder.facets.insert(concept, facets);
        }
        for (target, group) in columns.target.iter().zip(&mut groups) {
            mapped(builder, origin, get, target, (concept, system, &profile.version), group, &digest);
        }
    })?;
    Ok(())
}

fn mapped(
    builder: &mut Builder,
    origin: Origin,
    get: &dyn Fn(&str) -> String,
    target: &TargetColumns,
    (source, system, version): (u32, u32, &str),
    group: &mut Option<(u32, u32)>,
    digest: &[u8; 32],
) {
    let target_system = builder.system(&target.system);
    let (map, group) = *group.get_or_insert_with(|| {
        let map = builder.map(&target.url, version, "active", ["", ""], digest);
        let record = GroupRecord {
            map,
            source: system,
            source_version: String::new(),
            target: target_system,
            target_version: String::new(),
            unmapped: Unmapped::None,
            origin,
        };
        (map, builder.group(record))
    });
    let code = get(&target.code);
    let word = match (&target.relationship, &target.always) {
        _ if code.is_empty() => "unmatched".to_owned(),
        (Some(column), _) => get(column),
        (None, Some(word)) => word.clone(),
        (None, None) => "relatedto".to_owned(),
    };
    let Some(word) = Word::parse(&word) else {
        builder.problem(origin, format!("unknown relationship {word:?}"));
        return;
    };
    let number = if code.is_empty() { NONE } else { builder.concept(target_system, &code) };
    let comment = target.comment.as_deref().map(get).unwrap_or_default();
    let comment = builder.strings.id(&comment);
    builder.row(RowRecord {
        source,
        target: number,
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
}

/// UTF-8 from the declared encoding, without the lines above the header.
fn decoded(source: &Source, profile: &Profile, bytes: Vec<u8>) -> Result<Vec<u8>, Problem> {
    let bytes = match profile.encoding.as_deref() {
        None => bytes,
        Some(label) => {
            let encoding = encoding_rs::Encoding::for_label(label.as_bytes())
                .ok_or_else(|| whole_file(&source.name, format!("unknown encoding {label}")))?;
            encoding.decode(&bytes).0.into_owned().into_bytes()
        }
    };
    let skipped = bytes.split_inclusive(|b| *b == b'\n').take(profile.header_row - profile.header_row.min(1));
    let at: usize = skipped.map(<[u8]>::len).sum();
    Ok(bytes[at..].to_vec())
}

/// A sheet of a workbook as CSV, so that one reader serves both.
fn sheet(source: &Source, profile: &Profile, bytes: Vec<u8>) -> Result<Vec<u8>, Problem> {
    let failed = |e: String| whole_file(&source.name, e);
    let cursor = std::io::Cursor::new(bytes);
    let mut book = calamine::Xlsx::new(cursor).map_err(|e| failed(e.to_string()))?;
    let name = match &profile.sheet {
        Some(name) => name.clone(),
        None => book.sheet_names().first().cloned().ok_or_else(|| failed("has no sheet".into()))?,
    };
    let range = book.worksheet_range(&name).map_err(|e| failed(e.to_string()))?;
    let delimiter = profile.delimiter.as_deref().map_or(b',', |d| d.as_bytes().first().copied().unwrap_or(b','));
    let mut out = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    for row in range.rows().skip(profile.header_row.saturating_sub(1)) {
        let cells = row.iter().map(|cell| match cell {
            Data::Empty | Data::Error(_) => String::new(),
            Data::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => format!("{number:.0}"),
            other => other.to_string(),
        });
        out.write_record(cells).map_err(|e| failed(e.to_string()))?;
    }
    out.into_inner().map_err(|e| failed(e.to_string()))
}

/// `phrases.csv`: our own words for modality, region and side, a column a language.
pub(super) fn phrases(builder: &mut Builder, source: &Source) -> Result<(), Problem> {
    let bytes = bytes_of(source)?;
    csv(builder, source, "phrases", b',', bytes, &["key", "en", "nb", "sv", "da", "fi"], |builder, origin, get| {
        builder.used(origin.input);
        for language in ["en", "nb", "sv", "da", "fi"] {
            let text = get(language);
            if text.is_empty() {
                builder.problem(origin, format!("has no {language}"));
            }
            builder.phrases.insert((get("key"), language.to_owned()), text);
        }
    })?;
    Ok(())
}
