//! Directives in a TOML file: `[[opt_out]]`, `[[consent_required]]` and `[[block]]` tables.
//!
//! A row becomes domain types when it is read, so that a rule which can never hold is an error and no rule without effect.
//! At start and in `check-config` any error refuses the file. A running gateway reads it row by row: a bad row closes its
//! patient; a bad row that names nobody closes nobody, and what the last good file said of that section stays.

use std::path::Path;

use jiff::Timestamp;
use jiff::civil::Date;
use ncp_ihe::{PatientId, Uid};
use ncp_tls::Country;
use serde::Deserialize;
use toml::{Table, Value};

use super::country::country;
use super::{Block, ConsentError, Directives, ServiceConsent};

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsentFile {
    opt_out: Vec<Participation>,
    consent_required: Vec<Participation>,
    block: Vec<(PatientId, Block)>,
    /// Patients of rows that could not be read.
    closed: Vec<PatientId>,
}

/// A patient, and the countries that a row is about; none: all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Participation {
    patient: PatientId,
    countries: Vec<Country>,
}

/// A row that cannot be read. It holds nothing of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongRow {
    /// `opt_out` and so on, with the row's number from 1.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// Whether its patient is known and therefore closed.
    pub closes: bool,
}

impl std::fmt::Display for WrongRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let effect = if self.closes { "closes its patient" } else { "names no patient" };
        write!(f, "{}: {} ({effect})", self.place, self.what)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParticipationRow {
    /// CX of the patient.
    patient: String,
    /// Countries; empty means all.
    #[serde(default)]
    countries: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockRow {
    patient: String,
    document: Option<String>,
    study: Option<String>,
    author_organisation: Option<String>,
    /// `YYYYMMDD`
    from: Option<String>,
    /// `YYYYMMDD`
    to: Option<String>,
    confidentiality: Option<String>,
    #[serde(default)]
    imaging: bool,
    #[serde(default)]
    countries: Vec<String>,
    #[serde(default)]
    requesters: Vec<String>,
    #[serde(default)]
    professionals: Vec<String>,
    valid_from: Option<Timestamp>,
    valid_until: Option<Timestamp>,
}

impl ConsentFile {
    /// Reads the file; every row must be right.
    ///
    /// # Errors
    /// Its path and all that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConsentError> {
        let parse = |message: String| ConsentError::Parse { path: path.to_owned(), message };
        let (file, wrong) = Self::load_rows(path, &Self::default())?;
        let wrong: Vec<String> = wrong.iter().map(|row| format!("{}: {}", row.place, row.what)).collect();
        if wrong.is_empty() { Ok(file) } else { Err(parse(wrong.join("; "))) }
    }

    /// Reads the file row by row, after the last good one.
    ///
    /// # Errors
    /// When it cannot be read at all.
    pub fn load_rows(path: &Path, last: &Self) -> Result<(Self, Vec<WrongRow>), ConsentError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConsentError::Read { path: path.to_owned(), source })?;
        Self::read_rows(&text, last).map_err(|message| ConsentError::Parse { path: path.to_owned(), message })
    }

    /// The same of a text.
    ///
    /// # Errors
    /// No TOML.
    pub fn read_rows(text: &str, last: &Self) -> Result<(Self, Vec<WrongRow>), String> {
        let sections: Table = toml::from_str(text).map_err(|error| {
            let line =
                error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
            format!("no TOML from line {} on", line.unwrap_or(1))
        })?;
        let mut out = Self::default();
        let mut wrong = Vec::new();
        for (name, rows) in sections {
            let mut forgotten = false;
            match rows {
                Value::Array(rows) => {
                    for (index, row) in rows.into_iter().enumerate() {
                        let named = row.get("patient").and_then(Value::as_str).and_then(patient);
                        if let Err(what) = out.add(&name, row) {
                            forgotten |= named.is_none();
                            let section = if is_section(&name) { name.as_str() } else { "a section that is none" };
                            let place = format!("[[{section}]] {}", index + 1);
                            wrong.push(WrongRow { place, what, closes: named.is_some() });
                            out.closed.extend(named);
                        }
                    }
                }
                _ => {
                    forgotten = true;
                    let what = "expected [[opt_out]], [[consent_required]] or [[block]] tables".to_owned();
                    wrong.push(WrongRow { place: "a key".into(), what, closes: false });
                }
            }
            if forgotten {
                out.keep(&name, last);
            }
        }
        Ok((out, wrong))
    }

    fn add(&mut self, section: &str, row: Value) -> Result<(), String> {
        match section {
            "opt_out" => self.opt_out.push(Participation::read(row)?),
            "consent_required" => self.consent_required.push(Participation::read(row)?),
            "block" => self.block.push(block(row)?),
            _ => return Err("no such section".into()),
        }
        Ok(())
    }

    /// Keeps what another file said of a section beside what this one says.
    fn keep(&mut self, section: &str, last: &Self) {
        fn merge<T: Clone + PartialEq>(into: &mut Vec<T>, from: &[T]) {
            let missing: Vec<T> = from.iter().filter(|row| !into.contains(row)).cloned().collect();
            into.extend(missing);
        }
        match section {
            "opt_out" => merge(&mut self.opt_out, &last.opt_out),
            "consent_required" => merge(&mut self.consent_required, &last.consent_required),
            "block" => merge(&mut self.block, &last.block),
            // A section whose name has a slip may be any of them.
            _ => ["opt_out", "consent_required", "block"].iter().for_each(|section| self.keep(section, last)),
        }
        merge(&mut self.closed, &last.closed);
    }

    /// What it says of a patient to a country.
    pub fn directives(&self, patient: &PatientId, to: &Country) -> Directives {
        let named = |rows: &[Participation]| {
            rows.iter().any(|row| row.patient == *patient && (row.countries.is_empty() || row.countries.contains(to)))
        };
        let opted_out = named(&self.opt_out) || self.closed.contains(patient);
        let service = match (opted_out, named(&self.consent_required)) {
            (true, _) => ServiceConsent::OptedOut,
            (false, true) => ServiceConsent::MissingAndSaid,
            (false, false) => ServiceConsent::Given,
        };
        let blocks = self.block.iter().filter(|(of, _)| of == patient).map(|(_, block)| block.clone()).collect();
        Directives { service, blocks, ..Directives::default() }
    }
}

fn is_section(name: &str) -> bool {
    matches!(name, "opt_out" | "consent_required" | "block")
}

/// A row with the names and types of its section.
fn row<T: for<'de> Deserialize<'de>>(row: Value) -> Result<T, String> {
    // The reader's words may repeat the row's.
    row.try_into().map_err(|_: toml::de::Error| "a key that is unknown or missing, or a value of another type".into())
}

impl Participation {
    fn read(value: Value) -> Result<Self, String> {
        let row: ParticipationRow = row(value)?;
        Ok(Self { patient: patient(&row.patient).ok_or(NO_PATIENT)?, countries: countries(&row.countries)? })
    }
}

const NO_PATIENT: &str = "patient: expected id^^^&OID&ISO";

/// A CX; an identifier type code behind it says nothing that matters here.
fn patient(text: &str) -> Option<PatientId> {
    let text = text.trim();
    let cx = match text.match_indices('^').nth(3) {
        Some((at, _)) if text.get(at + 1..).is_some_and(|code| code.bytes().all(|b| b.is_ascii_alphanumeric())) => {
            text.get(..at)?
        }
        Some(_) => return None,
        None => text,
    };
    PatientId::parse_cx(cx).ok()
}

fn countries(codes: &[String]) -> Result<Vec<Country>, String> {
    let read = |code: &String| country(code.trim()).ok_or("countries: expected codes of ISO 3166-1".to_owned());
    codes.iter().map(read).collect()
}

fn block(value: Value) -> Result<(PatientId, Block), String> {
    let row: BlockRow = row(value)?;
    let patient = patient(&row.patient).ok_or(NO_PATIENT)?;
    let unit = match (&row.document, &row.study) {
        (Some(_), Some(_)) => return Err("a block names a document or a study, not both".into()),
        (Some(document), None) => Some(document_id(document).ok_or("document: expected a unique id")?),
        (None, Some(study)) => Some(uid(study).ok_or("study: expected a UID")?),
        (None, None) => None,
    };
    let day = |day: &Option<String>| match day {
        Some(text) if text.len() != 8 || Date::strptime("%Y%m%d", text).is_err() => {
            Err("from and to are days, as \"20260131\"".to_owned())
        }
        other => Ok(other.clone()),
    };
    let period = match (day(&row.from)?, day(&row.to)?) {
        (None, None) => None,
        (from, to) => Some((from.unwrap_or_else(|| "00000000".into()), to.unwrap_or_else(|| "99999999".into()))),
    };
    if period.as_ref().is_some_and(|(from, to)| from > to) {
        return Err("to lies before from".into());
    }
    if row.valid_until.is_some_and(|until| row.valid_from.unwrap_or(Timestamp::MIN) >= until) {
        return Err("valid_until lies before valid_from".into());
    }
    let named = |text: &String| !text.trim().is_empty() && text.trim() == text;
    let texts =
        row.requesters.iter().chain(&row.professionals).chain(&row.author_organisation).chain(&row.confidentiality);
    if !texts.clone().all(named) || row.confidentiality.as_ref().is_some_and(|code| code.contains(char::is_whitespace))
    {
        return Err("a name or code that is empty or has blanks around it".into());
    }
    let block = Block {
        unit,
        author_organisation: row.author_organisation.clone(),
        period,
        confidentiality: row.confidentiality.clone(),
        imaging: row.imaging,
        countries: countries(&row.countries)?,
        requesters: row.requesters.clone(),
        professionals: row.professionals.clone(),
        valid: (row.valid_from, row.valid_until),
    };
    Ok((patient, block))
}

fn uid(text: &str) -> Option<String> {
    Uid::parse(plain(text)).ok().map(|uid| uid.to_string())
}

/// A uniqueId: a UID, with an extension behind `^` or without, or a UUID.
pub(super) fn document_id(text: &str) -> Option<String> {
    let plain = plain(text);
    let known = match plain.split_once('^') {
        Some((root, extension)) => Uid::parse(root).is_ok() && !extension.is_empty() && extension.trim() == extension,
        None => Uid::parse(plain).is_ok() || is_uuid(plain),
    };
    known.then(|| plain.to_owned())
}

fn is_uuid(text: &str) -> bool {
    let prefix = text.get(..9).is_some_and(|prefix| prefix.eq_ignore_ascii_case("urn:uuid:"));
    prefix && text.len() == 45 && uuid::Uuid::parse_str(&text[9..]).is_ok()
}

/// Without the prefix that says that it is an OID.
fn plain(text: &str) -> &str {
    let prefix = text.get(..8).is_some_and(|prefix| prefix.eq_ignore_ascii_case("urn:oid:"));
    if prefix { &text[8..] } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (ConsentFile, Vec<WrongRow>) {
        ConsentFile::read_rows(text, &ConsentFile::default()).expect("TOML")
    }

    fn of(file: &ConsentFile, id: &str, to: &str) -> Directives {
        let patient = PatientId::parse_cx(&format!("{id}^^^&2.999.1&ISO")).expect("a CX");
        file.directives(&patient, &Country::parse(to).expect("a country"))
    }

    #[test]
    fn a_file_reads_as_directives() {
        let (file, wrong) = read(
            "[[block]]\npatient = \"1^^^&2.999.1&ISO\"\ndocument = \"2.999.9\"\ncountries = [\"SE\"]\nfrom = \"20260101\"\n\
             [[opt_out]]\npatient = \"2^^^&2.999.1&ISO\"\ncountries = [\"FI\"]\n\
             [[consent_required]]\npatient = \"3^^^&2.999.1&ISO\"\n",
        );
        assert!(wrong.is_empty(), "{wrong:?}");
        let one = of(&file, "1", "FI");
        assert_eq!(one.service, ServiceConsent::Given);
        assert_eq!(one.blocks.len(), 1);
        assert_eq!(one.blocks[0].unit.as_deref(), Some("2.999.9"));
        assert_eq!(one.blocks[0].period, Some(("20260101".into(), "99999999".into())));
        assert_eq!(of(&file, "2", "FI").service, ServiceConsent::OptedOut);
        assert_eq!(of(&file, "2", "SE").service, ServiceConsent::Given);
        assert_eq!(of(&file, "3", "SE").service, ServiceConsent::MissingAndSaid);
        assert_eq!(of(&file, "4", "SE"), Directives::default());
    }

    /// Each of these rows would never hold as it is written: it is obeyed by what it means, or refused.
    #[test]
    fn se_14_a_rule_that_can_never_hold_is_obeyed_or_refused() {
        let opted_out = |rows: &str| {
            let (file, wrong) = read(&format!("[[opt_out]]\n{rows}\n"));
            (of(&file, "1", "FI").service == ServiceConsent::OptedOut, wrong.len())
        };
        let patient = "patient = \"1^^^&2.999.1&ISO\"";
        assert_eq!(opted_out("patient = \"1^^^&2.999.1&ISO^PI\""), (true, 0), "SE-14.1");
        assert_eq!(opted_out(&format!("{patient}\ncountries = [\"fi\"]")), (true, 0), "SE-14.2");
        assert_eq!(opted_out(&format!("{patient}\ncountries = [\"FIN\", \"752\"]")), (true, 0));
        assert_eq!(opted_out(&format!("{patient}\ncountries = [\"Finland\"]")), (true, 1), "SE-14.3");
        assert_eq!(opted_out(&format!("{patient}\ncountry = [\"SE\"]")), (true, 1));
        assert_eq!(opted_out("patient = \"1^^^2.999.1\""), (false, 1));
        for row in [
            "imaging = true",
            "document = \"report 7\"",
            "study = \"2.999.\"",
            "from = \"20260230\"",
            "from = \"2026\"",
            "from = \"20260201\"\nto = \"20260101\"",
            "confidentiality = \"\"",
            "confidentiality = \" R\"",
            "requesters = [\"\"]",
            "professionals = [\" a\"]",
            "author_organisation = \"\"",
            "countries = [\"Norway\"]",
            "document = \"2.999.1\"\nstudy = \"2.999.1\"",
            "valid_from = \"2026-02-01T00:00:00Z\"\nvalid_until = \"2026-01-01T00:00:00Z\"",
            "valid_until = \"-009999-01-02T01:59:59Z\"",
        ] {
            let garbage = if row == "imaging = true" { "patient = \"garbage\"" } else { patient };
            let (file, wrong) = read(&format!("[[block]]\n{garbage}\n{row}\n"));
            assert_eq!(wrong.len(), 1, "SE-14.4 and its kind: {row}");
            assert_eq!(of(&file, "1", "FI").service == ServiceConsent::OptedOut, garbage == patient, "{row}");
        }
    }

    /// SE-14.10, the reading: a slip in one row, and a correct new one beside it.
    #[test]
    fn se_14_10_a_slip_in_one_row_holds_no_other_back() {
        let opt_out = |id: u32| format!("[[opt_out]]\npatient = \"{id}^^^&2.999.1&ISO\"\n");
        let (last, _) = read(&[opt_out(1), opt_out(2)].concat());
        let (file, wrong) = ConsentFile::read_rows(
            &[opt_out(2), "[[opt_out]]\npatient = \"garbage\"\n".into(), opt_out(3)].concat(),
            &last,
        )
        .expect("TOML");
        assert_eq!(wrong.iter().map(|w| w.closes).collect::<Vec<_>>(), [false]);
        for id in ["1", "2", "3"] {
            assert_eq!(of(&file, id, "FI").service, ServiceConsent::OptedOut, "{id}");
        }
        assert_eq!(of(&file, "4", "FI").service, ServiceConsent::Given, "nobody else is closed");
        let (without, wrong) = ConsentFile::read_rows(&opt_out(3), &last).expect("TOML");
        assert!(wrong.is_empty());
        assert_eq!(of(&without, "1", "FI").service, ServiceConsent::Given, "a row may be taken out");
        let (slip, wrong) =
            ConsentFile::read_rows("[[optout]]\npatient = \"7^^^&2.999.1&ISO\"\n", &last).expect("TOML");
        assert_eq!((wrong.len(), of(&slip, "7", "FI").service), (1, ServiceConsent::OptedOut));
        assert!(ConsentFile::read_rows("[[opt_out]\n", &last).is_err());
    }
}
