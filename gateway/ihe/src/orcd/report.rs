//! The text of an imaging report: what a reader of a CDA sees, as lines, and the person it is about.

use ncp_xml::{ANSWERS, Busy, Element};

use super::narrative::{Line, Narrative};
use crate::ns::HL7V3;
use crate::{Address, PatientRecord};

/// Lines of one report.
const MOST_LINES: usize = 20_000;

/// The person a document is about, as the register says it, else as the document does.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Person {
    /// Family name.
    pub family: Option<String>,
    /// Given names.
    pub given: Vec<String>,
    /// `YYYYMMDD`
    pub birth_date: Option<String>,
    /// `F`, `M`, `UN`.
    pub sex: Option<String>,
    /// Where the person lives.
    pub address: Option<Address>,
}

impl From<&PatientRecord> for Person {
    fn from(record: &PatientRecord) -> Self {
        Self {
            family: Some(record.name.family.clone()).filter(|family| !family.is_empty()),
            given: record.name.given.clone(),
            birth_date: record.birth_date.clone(),
            sex: record.gender.clone(),
            address: record.address.clone(),
        }
    }
}

/// A report for reading.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Whom it is about.
    pub person: Person,
    /// Who wrote it and for which organisation, as the document says it.
    pub authors: Vec<String>,
    /// The organisation that keeps the original.
    pub custodian: Option<String>,
    /// Section titles and their text, in order.
    pub lines: Vec<Line>,
}

/// Why a report cannot be shown as pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It is no CDA with a structured body.
    #[error("the report is in a form that cannot be shown as pages")]
    Form,
    /// It has more than 20,000 lines or four million characters.
    #[error("the report is too long to be shown as pages")]
    TooLong,
    /// The messages that are being read leave no memory for it now.
    #[error("no memory for the report now")]
    Busy,
}

impl ReportError {
    /// What is told of it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Form => "the report is in a form that cannot be shown as pages",
            Self::TooLong => "the report is too long to be shown as pages",
            Self::Busy => "no memory for the report now",
        }
    }
}

impl Report {
    /// Takes the text out of a structured CDA.
    ///
    /// # Errors
    /// It is none, or too long. Nothing is cut off in silence.
    pub fn of_cda(cda: &[u8]) -> Result<Self, ReportError> {
        let mut charge = ANSWERS.charge(super::DOCUMENTS);
        let document = super::document(cda, &mut charge).map_err(|Busy| ReportError::Busy)?;
        let document = document.ok_or(ReportError::Form)?;
        let body = document.path(HL7V3, &["component", "structuredBody"]).ok_or(ReportError::Form)?;
        let mut narrative = Narrative::default();
        sections(body, 2, &mut narrative);
        if narrative.exhausted() {
            return Err(ReportError::TooLong);
        }
        let mut lines = narrative.lines;
        if narrative.deleted {
            lines.push(note("Text that the author marked as deleted is not shown."));
        }
        if !narrative.unknown.is_empty() {
            let names: Vec<&str> = narrative.unknown.iter().take(20).map(String::as_str).collect();
            lines.push(note(&format!(
                "Text in elements of an unknown kind is shown as plain text: {}.",
                names.join(", ")
            )));
        }
        if lines.len() > MOST_LINES {
            return Err(ReportError::TooLong);
        }
        let custodian = ["custodian", "assignedCustodian", "representedCustodianOrganization", "name"];
        Ok(Self {
            person: person(&document),
            authors: document.all(HL7V3, "author").filter_map(author).collect(),
            custodian: document.path(HL7V3, &custodian).map(name).filter(|n| !n.is_empty()),
            lines,
        })
    }

    /// Makes a report of plain text.
    ///
    /// # Errors
    /// It is too long.
    pub fn of_text(text: &str) -> Result<Self, ReportError> {
        let lines: Vec<Line> = text.lines().take(MOST_LINES + 1).map(|l| Line::plain(l.trim_end())).collect();
        if lines.len() > MOST_LINES { Err(ReportError::TooLong) } else { Ok(Self { lines, ..Self::default() }) }
    }
}

fn note(text: &str) -> Line {
    let mut line = Line::plain(text);
    line.runs.iter_mut().for_each(|run| run.italic = true);
    line
}

fn sections(holder: &Element, level: u8, narrative: &mut Narrative) {
    for section in holder.all(HL7V3, "component").flat_map(|component| component.all(HL7V3, "section")) {
        let title = section.child(HL7V3, "title").map(Element::trimmed).filter(|t| !t.is_empty());
        if let Some(title) = &title {
            narrative.lines.push(Line::heading(level, title.clone()));
        }
        let before = narrative.lines.len();
        // The subject is inherited by what is nested (CDA R2 4.4); who it is stands in the original.
        if section.child(HL7V3, "subject").is_some() {
            narrative
                .lines
                .push(note("This section is not about the patient but about the subject that the original names."));
        }
        section.all(HL7V3, "text").for_each(|text| narrative.read(text));
        let below = section.all(HL7V3, "component").next().is_some();
        if narrative.lines.len() == before && !below && (title.is_some() || section.child(HL7V3, "entry").is_some()) {
            narrative.lines.push(note("This section has no text."));
        }
        sections(section, (level + 1).min(6), narrative);
    }
}

/// Person and organisation of an author.
fn author(author: &Element) -> Option<String> {
    let assigned = author.child(HL7V3, "assignedAuthor")?;
    let person = assigned.path(HL7V3, &["assignedPerson", "name"]).map(name);
    let device = assigned.path(HL7V3, &["assignedAuthoringDevice", "softwareName"]).map(Element::trimmed);
    let organisation = assigned.path(HL7V3, &["representedOrganization", "name"]).map(name);
    let parts: Vec<String> =
        [person.or(device), organisation].into_iter().flatten().filter(|p| !p.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A name of a person or an organisation: its parts in the order of the document, or its text.
fn name(name: &Element) -> String {
    let parts: Vec<String> = name.elements().map(Element::trimmed).filter(|p| !p.is_empty()).collect();
    if parts.is_empty() { name.trimmed() } else { parts.join(" ") }
}

/// Who the record target of a CDA is.
pub(super) fn person(document: &Element) -> Person {
    let Some(patient) = document.path(HL7V3, &["recordTarget", "patientRole", "patient"]) else {
        return Person::default();
    };
    let name = patient.child(HL7V3, "name");
    let all = |local| name.into_iter().flat_map(move |n| n.all(HL7V3, local)).map(Element::trimmed);
    let value =
        |local, attribute| patient.child(HL7V3, local).and_then(|e: &Element| e.get(attribute)).map(str::to_owned);
    Person {
        family: all("family").next(),
        given: all("given").collect(),
        birth_date: value("birthTime", "value"),
        sex: value("administrativeGenderCode", "code"),
        address: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_become_lines() {
        let cda = "<ClinicalDocument xmlns='urn:hl7-org:v3'><recordTarget><patientRole><patient><name><given>Jon</given>\
             <family>Testesen</family></name><birthTime value='19770530'/></patient></patientRole></recordTarget>\
             <component><structuredBody><component><section><title>Funn</title><text>En <content>to</content>\n tre\
             <br/>fire<list><item>a</item><item>b</item></list><table><tbody><tr><td>x</td><td>y</td></tr></tbody></table>\
             </text><component><section><title>Under</title><text><paragraph>p</paragraph></text></section></component>\
             </section></component></structuredBody></component></ClinicalDocument>";
        let report = Report::of_cda(cda.as_bytes()).expect("a report");
        let lines: Vec<String> = report.lines.iter().map(Line::text).collect();
        assert_eq!(lines, ["Funn", "En to tre", "fire", "\u{2022} a", "\u{2022} b", "x | y", "Under", "p"]);
        assert_eq!(report.lines.iter().filter(|l| l.heading > 0).count(), 2);
        assert_eq!(report.person.family.as_deref(), Some("Testesen"));
        let about = cda.replace("<title>Under", "<subject><relatedSubject/></subject><title>Under");
        let about = Report::of_cda(about.as_bytes()).expect("a report");
        assert!(about.lines.iter().any(|line| line.text().contains("not about the patient")));
        assert_eq!(Report::of_cda(b"<ClinicalDocument xmlns='urn:hl7-org:v3'/>").err(), Some(ReportError::Form));
        // A spanning cell in a spanning cell doubles at each level.
        let open = "<table><tbody><tr><td rowspan='2'>".repeat(20);
        let close = "</td><td/></tr><tr><td/></tr></tbody></table>".repeat(20);
        let doubling = format!(
            "<ClinicalDocument xmlns='urn:hl7-org:v3'><component><structuredBody><component><section><text>{open}{}{close}\
             </text></section></component></structuredBody></component></ClinicalDocument>",
            "x".repeat(1000)
        );
        assert_eq!(Report::of_cda(doubling.as_bytes()).err(), Some(ReportError::TooLong));
        let long = "x\n".repeat(MOST_LINES + 1);
        assert_eq!(Report::of_text(&long).err(), Some(ReportError::TooLong), "nothing is cut off in silence");
    }
}
