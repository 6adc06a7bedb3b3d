//! Writing OrCD documents: a CDA header out of the metadata, and the content in base64.

use base64::Engine;
use ncp_xml::Element;

use super::report::Person;
use super::{PDF_FORMAT, PNG_FORMAT};
use crate::ns::HL7V3;
use crate::{Coded, DocumentEntry};

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
/// Stands for the content until the CDA is written: a long one is encoded once, into its place.
const CONTENT: &str = "content";
/// Bytes of a header.
const HEADER: usize = 64 << 10;
const LOINC: &str = "2.16.840.1.113883.6.1";
/// codingScheme of OpenNCP's formatCodes.
const FORMATS: &str = "eHDSI formatCodes";

/// What an OrCD document holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrcdKind {
    /// A medical imaging report as PDF.
    Report,
    /// A medical image as PNG.
    Picture,
}

impl OrcdKind {
    /// classCode and typeCode.
    pub fn class_code(self) -> Coded {
        match self {
            Self::Report => Coded::new("18748-4", LOINC, Some("OrCD Diagnostic Imaging Study")),
            Self::Picture => Coded::new("x-clinical-image", LOINC, Some("OrCD Medical Image")),
        }
    }

    /// formatCode.
    pub fn format_code(self) -> Coded {
        match self {
            Self::Report => Coded::new(PDF_FORMAT, FORMATS, Some("PDF/A coded document")),
            Self::Picture => Coded::new(PNG_FORMAT, FORMATS, Some("PNG coded document")),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Report => "application/pdf",
            Self::Picture => "image/png",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Report => "1.3.6.1.4.1.12559.11.10.1.3.1.1.10",
            Self::Picture => "1.3.6.1.4.1.12559.11.10.1.3.1.1.11",
        }
    }
}

/// One OrCD document: the same bytes for the same facts.
pub struct OrcdDocument<'a> {
    /// What it holds.
    pub kind: OrcdKind,
    /// The entry of what it was made from.
    pub original: &'a DocumentEntry,
    /// Its own uniqueId.
    pub unique_id: &'a str,
    /// The patient as the register names it, else as the original does.
    pub person: &'a Person,
    /// The organisation that keeps the original.
    pub custodian: Option<&'a str>,
    /// PDF or PNG.
    pub content: &'a [u8],
}

impl OrcdDocument<'_> {
    /// The CDA, UTF-8.
    pub fn write(&self) -> Vec<u8> {
        let entry = self.original;
        let at = entry.creation_time.as_ref().or(entry.service_start.as_ref());
        // Times of the metadata are UTC; CDA says so only with an hour.
        let at = at.map(|dtm| if dtm.as_str().len() > 8 { format!("{dtm}+0000") } else { dtm.to_string() });
        let time = |local| match &at {
            Some(at) => element(local).attr("value", at),
            None => element(local).attr("nullFlavor", "UNK"),
        };
        let class = self.kind.class_code();
        let code = element("code")
            .attr("code", &class.code)
            .attr("codeSystem", LOINC)
            .attr("codeSystemName", "LOINC")
            .attr("displayName", class.display.unwrap_or_default());
        let confidentiality = entry.confidentiality.iter().map(|c| c.code.as_str());
        let confidentiality = confidentiality.filter(|c| matches!(*c, "N" | "R" | "V")).max().unwrap_or("N");
        let original = entry.unique_id.as_str();
        let text = element("text").attr("mediaType", self.kind.media_type()).attr("representation", "B64");
        let body = element("nonXMLBody").attr("classCode", "DOCBODY").attr("moodCode", "EVN").with(text.text(CONTENT));
        let document = element("ClinicalDocument")
            .attr("classCode", "DOCCLIN")
            .attr("moodCode", "EVN")
            .with(element("typeId").attr("root", "2.16.840.1.113883.1.3").attr("extension", "POCD_HD000040"))
            .with(element("templateId").attr("root", self.kind.template()))
            .with(id(self.unique_id))
            .with(code)
            .with(element("title").text(entry.title.clone().unwrap_or_else(|| "Diagnostic imaging".into())))
            .with(time("effectiveTime"))
            .with(
                element("confidentialityCode")
                    .attr("code", confidentiality)
                    .attr("codeSystem", "2.16.840.1.113883.5.25"),
            )
            .with(element("languageCode").attr("code", &entry.language))
            .with(self.patient())
            .with(self.author(time("time")))
            .with(self.custodian())
            .with(
                element("relatedDocument").attr("typeCode", "XFRM").with(element("parentDocument").with(id(original))),
            )
            .with(element("component").with(body));
        let header = document.to_xml();
        // Nothing but the ends of elements stands behind the content.
        let (before, behind) = header.rsplit_once(CONTENT).unwrap_or((&header, ""));
        let mut out = String::with_capacity(DECLARATION.len() + header.len() + encoded_length(self.content));
        out.push_str(DECLARATION);
        out.push_str(before);
        base64::engine::general_purpose::STANDARD.encode_string(self.content, &mut out);
        out.push_str(behind);
        out.into_bytes()
    }

    /// Bytes of the CDA at most, but for texts of its header that are longer than metadata have.
    pub fn most(&self) -> usize {
        encoded_length(self.content) + HEADER
    }

    /// What is not known has a nullFlavor: OpenNCP's readers expect the elements to be there.
    fn patient(&self) -> Element {
        let of = &self.original.patient_id;
        let id = element("id").attr("root", of.root.to_string()).attr("extension", &of.extension);
        let person = self.person;
        let family = person.family.iter().map(|f| element("family").text(f.clone()));
        let given = person.given.iter().map(|g| element("given").text(g.clone()));
        let name = known("name", family.chain(given).collect());
        let sex = match &person.sex {
            Some(sex) => {
                element("administrativeGenderCode").attr("code", sex).attr("codeSystem", "2.16.840.1.113883.5.1")
            }
            None => unknown("administrativeGenderCode"),
        };
        let birth = match &person.birth_date {
            Some(birth) => element("birthTime").attr("value", birth),
            None => unknown("birthTime"),
        };
        let patient = element("patient").with(name).with(sex).with(birth);
        let role = element("patientRole").with(id).with(self.patient_address()).with(unknown("telecom"));
        element("recordTarget").with(role.with(patient))
    }

    fn patient_address(&self) -> Element {
        let Some(address) = &self.person.address else { return unknown("addr") };
        let parts = [
            ("streetAddressLine", &address.street),
            ("postalCode", &address.postal_code),
            ("city", &address.city),
            ("country", &address.country),
        ];
        known("addr", parts.iter().filter_map(|(local, part)| Some(element(local).text(part.as_deref()?))).collect())
    }

    fn author(&self, time: Element) -> Element {
        let author = self.original.authors.first();
        // XCN: the second and third components are family and given name.
        let mut named = author.and_then(|a| a.person.as_deref()).unwrap_or_default().split('^').skip(1);
        let parts = [("family", named.next()), ("given", named.next())];
        let parts = parts.into_iter().filter_map(|(local, part)| Some((local, part.filter(|p| !p.is_empty())?)));
        let name = known("name", parts.map(|(local, part)| element(local).text(part)).collect());
        let mut assigned = element("assignedAuthor")
            .with(element("id").attr("nullFlavor", "NI"))
            .with(unknown("addr"))
            .with(unknown("telecom"))
            .with(element("assignedPerson").with(name));
        if let Some(institution) = self.institution() {
            assigned.push(
                element("representedOrganization")
                    .with(element("name").text(institution))
                    .with(unknown("telecom"))
                    .with(unknown("addr")),
            );
        }
        element("author").with(time).with(assigned)
    }

    fn institution(&self) -> Option<&str> {
        let institution = self.original.authors.first()?.institutions.first()?;
        institution.split('^').next().filter(|name| !name.is_empty())
    }

    fn custodian(&self) -> Element {
        let name = match self.custodian.or_else(|| self.institution()) {
            Some(name) => element("name").text(name),
            None => unknown("name"),
        };
        let organisation = element("representedCustodianOrganization")
            .with(element("id").attr("root", self.original.repository_unique_id.to_string()))
            .with(name)
            .with(unknown("telecom"))
            .with(unknown("addr"));
        element("custodian").with(element("assignedCustodian").with(organisation))
    }
}

/// An element with parts; without any it says that they are not known.
fn known(local: &str, parts: Vec<Element>) -> Element {
    if parts.is_empty() { unknown(local) } else { element(local).with_all(parts) }
}

fn unknown(local: &str) -> Element {
    element(local).attr("nullFlavor", "UNK")
}

fn encoded_length(content: &[u8]) -> usize {
    content.len().div_ceil(3) * 4
}

fn element(local: &str) -> Element {
    Element::new(HL7V3, local)
}

/// A uniqueId as II: root and, behind `^`, extension (ITI TF-3: table 4.2.3.2-1).
fn id(unique_id: &str) -> Element {
    let (root, extension) = unique_id.split_once('^').map_or((unique_id, None), |(root, ext)| (root, Some(ext)));
    let id = element("id").attr("root", root);
    match extension {
        Some(extension) => id.attr("extension", extension),
        None => id,
    }
}
