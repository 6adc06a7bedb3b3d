//! The text of an imaging report: what a reader of a CDA sees, as lines, and the person it is about.

use ncp_xml::{Element, Limits, Node};

use crate::ManifestPatient;
use crate::ns::HL7V3;

/// Lines of one report.
const MOST_LINES: usize = 20_000;

/// The person a document is about, as the document says it.
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
}

impl From<&ManifestPatient> for Person {
    /// A DICOM PN is `family^given^middle`.
    fn from(patient: &ManifestPatient) -> Self {
        let name = patient.name.as_deref().and_then(|n| n.split('=').next()).unwrap_or_default();
        let mut parts = name.split('^').map(str::trim).map(ToOwned::to_owned);
        Self {
            family: parts.next().filter(|p| !p.is_empty()),
            given: parts.take(2).filter(|p| !p.is_empty()).collect(),
            birth_date: patient.birth_date.clone(),
            sex: patient.sex.as_deref().map(|s| if s == "O" { "UN" } else { s }.to_owned()),
        }
    }
}

/// A line of text.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    /// Whether it stands above others.
    pub heading: bool,
    /// What it says.
    pub text: String,
}

/// A report for reading.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Whom it is about.
    pub person: Person,
    /// Section titles and their text, in order.
    pub lines: Vec<Line>,
}

impl Report {
    /// Takes the text out of a structured CDA; `None` for anything else.
    pub fn of_cda(cda: &[u8]) -> Option<Self> {
        let document = Element::parse(cda, &Limits::ANSWER).ok().filter(|d| d.is(HL7V3, "ClinicalDocument"))?;
        let mut out = Self { person: person(&document), lines: Vec::new() };
        let body = document.path(HL7V3, &["component", "structuredBody"])?;
        out.sections(body);
        out.lines.truncate(MOST_LINES);
        Some(out)
    }

    /// Of plain text.
    pub fn of_text(text: &str) -> Self {
        let lines = text.lines().take(MOST_LINES).map(|l| Line { heading: false, text: l.trim_end().to_owned() });
        Self { person: Person::default(), lines: lines.collect() }
    }

    fn sections(&mut self, holder: &Element) {
        for component in holder.all(HL7V3, "component") {
            let Some(section) = component.child(HL7V3, "section") else { continue };
            if let Some(title) = section.child(HL7V3, "title").map(Element::trimmed).filter(|t| !t.is_empty()) {
                self.lines.push(Line { heading: true, text: title });
            }
            if let Some(text) = section.child(HL7V3, "text") {
                let mut line = String::new();
                self.block(text, &mut line);
                self.end(&mut line);
            }
            self.sections(section);
        }
    }

    /// Narrative: what stands in a line of its own ends the line before.
    fn block(&mut self, element: &Element, line: &mut String) {
        for child in element.children() {
            match child {
                Node::Text(text) | Node::Raw(text) => {
                    for word in text.split_whitespace() {
                        if !line.is_empty() && !line.ends_with(' ') {
                            line.push(' ');
                        }
                        line.push_str(word);
                    }
                }
                Node::Element(child) => match child.local() {
                    "br" => self.end(line),
                    "td" | "th" => {
                        if !line.is_empty() {
                            line.push_str(" | ");
                        }
                        self.block(child, line);
                    }
                    "paragraph" | "item" | "list" | "tr" | "table" | "caption" => {
                        self.end(line);
                        if child.local() == "item" {
                            line.push_str("\u{2022} ");
                        }
                        self.block(child, line);
                        self.end(line);
                    }
                    _ => self.block(child, line),
                },
                Node::Gap => {}
            }
        }
    }

    fn end(&mut self, line: &mut String) {
        let text = std::mem::take(line);
        if !text.trim().is_empty() {
            self.lines.push(Line { heading: false, text });
        }
    }
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
        let lines: Vec<&str> = report.lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(lines, ["Funn", "En to tre", "fire", "\u{2022} a", "\u{2022} b", "x | y", "Under", "p"]);
        assert_eq!(report.lines.iter().filter(|l| l.heading).count(), 2);
        assert_eq!(report.person.family.as_deref(), Some("Testesen"));
        assert!(Report::of_cda(b"<ClinicalDocument xmlns='urn:hl7-org:v3'/>").is_none());
    }

    #[test]
    fn a_dicom_name_is_a_person() {
        let patient =
            ManifestPatient { name: Some("Testesen^Jon^X=".into()), sex: Some("O".into()), ..Default::default() };
        let person = Person::from(&patient);
        assert_eq!((person.family.as_deref(), person.given.len()), (Some("Testesen"), 2));
        assert_eq!(person.sex.as_deref(), Some("UN"));
    }
}
