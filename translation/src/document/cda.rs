//! CDA R2. An element with `@code` and `@codeSystem` that has a target gets it in its own attributes; the source, and
//! further targets, stand in `translation` children.
//!
//! Towards a reader's language only `@displayName` changes; what it was stands in a `translation` child.

use ncp_xml::{Element as Tree, Limits, REQUESTS};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{BYTES, DocumentError, ELEMENTS, Element, Fate, Report, Task, Translated, decide};
use crate::snapshot::Snapshot;

const HL7: &str = "urn:hl7-org:v3";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";

/// Bounds on a document.
pub const LIMITS: Limits = Limits {
    bytes: BYTES,
    depth: super::DEPTH,
    attributes: 256,
    attribute_bytes: 64 << 10,
    text_bytes: BYTES,
    nodes: 2_000_000,
    held: Limits::ANSWER.held,
};

/// Translates; what is no CDA document, or carries a signature, stays as it is.
///
/// # Errors
/// A document that is not well-formed, has a DTD, or passes a limit.
pub fn translate(bytes: &[u8], task: &Task, snapshot: &Snapshot) -> Result<Translated, DocumentError> {
    // Its tree takes from the memory of all documents that are being read, until it is dropped.
    let mut charge = REQUESTS.charge("documents");
    let root = Tree::parse_charged(bytes, &LIMITS, &mut charge)?;
    if !root.is(HL7, "ClinicalDocument") {
        return Ok(Translated::untouched(bytes, Vec::new(), "not a CDA document"));
    }
    let signed = signed(&root);
    drop(root);
    let done = edit(bytes, task, snapshot)?;
    Ok(if signed { Translated::untouched(bytes, kept(done.reports), "signed") } else { done })
}

/// Reports of a document that was not edited: nothing was written.
fn kept(mut reports: Vec<Report>) -> Vec<Report> {
    for report in &mut reports {
        if matches!(report.fate, Fate::Mapped | Fate::Approximate | Fate::Nulled) {
            report.fate = Fate::Refused;
        }
    }
    reports
}

fn signed(root: &Tree) -> bool {
    let mut stack = vec![root];
    while let Some(element) = stack.pop() {
        if element.ns() == DSIG {
            return true;
        }
        stack.extend(element.elements());
    }
    false
}

/// An element that is open.
struct Frame {
    name: String,
    /// Translations to write before its end, unless it has them: code, system, display, and the element.
    pending: Vec<(String, String, String)>,
    seen: Vec<(String, String)>,
    /// LOINC code of the section, once read.
    section: String,
}

/// The bytes are well-formed UTF-8 within limits when this is called.
fn edit(bytes: &[u8], task: &Task, snapshot: &Snapshot) -> Result<Translated, DocumentError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ncp_xml::XmlError::Encoding)?;
    // The reader leaves a byte order mark out of its positions; it stays in the document.
    let (mark, text) = text.split_at(if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 });
    let mut reader = Reader::from_str(text);
    let mut out = String::with_capacity(mark.len() + text.len() + text.len() / 8);
    out.push_str(mark);
    let mut reports = Vec::new();
    let mut open: Vec<Frame> = Vec::new();
    let mut at = 0;
    loop {
        let event = reader.read_event().map_err(|_| ncp_xml::XmlError::Malformed)?;
        let end = usize::try_from(reader.buffer_position()).map_err(|_| ncp_xml::XmlError::TooLarge)?;
        let written = text.get(at..end).ok_or(ncp_xml::XmlError::Malformed)?;
        at = end;
        match event {
            Event::Start(start) => {
                let frame = begin(&start, &mut open, task, snapshot, &mut reports, &mut out, written)?;
                open.push(frame);
            }
            Event::Empty(start) => {
                let frame = begin(&start, &mut open, task, snapshot, &mut reports, &mut out, written)?;
                if !frame.pending.is_empty() {
                    close(&frame, &mut out);
                    out.push_str(&format!("</{}>", frame.name));
                }
            }
            Event::End(_) => {
                if let Some(frame) = open.pop() {
                    close(&frame, &mut out);
                }
                out.push_str(written);
            }
            Event::Eof => break,
            _ => out.push_str(written),
        }
        if reports.len() > ELEMENTS {
            return Err(DocumentError::TooMany);
        }
    }
    Ok(Translated { bytes: out.into_bytes(), reports, skipped: None })
}

fn close(frame: &Frame, out: &mut String) {
    let prefix = frame.name.strip_suffix(local(&frame.name)).unwrap_or_default();
    for (code, system, display) in &frame.pending {
        if frame.seen.iter().any(|(c, s)| c == code && bare(s) == bare(system)) {
            continue;
        }
        out.push_str(&format!(
            "<{prefix}translation code=\"{}\" codeSystem=\"{}\"",
            escaped(code),
            escaped(bare(system))
        ));
        if !display.is_empty() {
            out.push_str(&format!(" displayName=\"{}\"", escaped(display)));
        }
        out.push_str("/>");
    }
}

#[derive(Default)]
struct Attributes {
    code: Option<String>,
    system: Option<String>,
    version: Option<String>,
    display: Option<String>,
    null: bool,
}

fn attributes(start: &BytesStart<'_>) -> Result<Attributes, DocumentError> {
    let mut out = Attributes::default();
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute.map_err(|_| ncp_xml::XmlError::Malformed)?;
        let slot = match attribute.key.as_ref() {
            "code" => &mut out.code,
            "codeSystem" => &mut out.system,
            "codeSystemVersion" => &mut out.version,
            "displayName" => &mut out.display,
            "nullFlavor" => {
                out.null = true;
                continue;
            }
            _ => continue,
        };
        let value =
            attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(|_| ncp_xml::XmlError::Malformed)?;
        *slot = Some(value.into_owned());
    }
    Ok(out)
}

#[allow(clippy::too_many_arguments)]
fn begin(
    start: &BytesStart<'_>,
    open: &mut [Frame],
    task: &Task,
    snapshot: &Snapshot,
    reports: &mut Vec<Report>,
    out: &mut String,
    written: &str,
) -> Result<Frame, DocumentError> {
    let name = start.name().as_ref().to_owned();
    let mut frame = Frame { name: name.clone(), pending: Vec::new(), seen: Vec::new(), section: String::new() };
    let found = attributes(start)?;
    let keep = |frame: Frame, out: &mut String| {
        out.push_str(written);
        Ok(frame)
    };
    if local(&name) == "translation" {
        // The source and further targets of the element above, not codes of their own.
        if let (Some(parent), Some(code), Some(system)) = (open.last_mut(), found.code, found.system) {
            parent.seen.push((code, system));
        }
        return keep(frame, out);
    }
    let path = path(open, &name);
    if let (Some(parent), Some(code)) = (open.last_mut(), &found.code)
        && local(&parent.name) == "section"
        && local(&name) == "code"
    {
        parent.section = code.clone();
    }
    let section = open.iter().rev().find(|f| !f.section.is_empty()).map(|f| f.section.clone()).unwrap_or_default();
    let element = Element {
        dangerous: path.contains("/qualifier") || local(&name) == "interpretationCode" || path.contains("negation"),
        path,
        system: found.system.clone().unwrap_or_default(),
        version: found.version.clone().unwrap_or_default(),
        code: found.code.clone().unwrap_or_default(),
        display: found.display.clone().unwrap_or_default(),
        section,
    };
    if found.null && (found.code.is_some() || found.system.is_some() || local(&name) == "code") {
        reports.push(null_report(&element, task));
        return keep(frame, out);
    }
    let (Some(code), false) = (found.code, found.null) else { return keep(frame, out) };
    let Some(system) = found.system else {
        // languageCode, statusCode and the like: their system is fixed by the schema.
        let fixed = matches!(local(&name), "languageCode" | "statusCode" | "realmCode" | "signatureCode");
        reports.push(Report {
            fate: if fixed { Fate::AlreadyTarget } else { Fate::NoSystem },
            ..null_report(&element, task)
        });
        return keep(frame, out);
    };
    let (decision, report) = decide(&element, task, snapshot)?;
    reports.push(report);
    let old = found.display.unwrap_or_default();
    let before = (code.clone(), system.clone(), old);
    if let Some(display) = &decision.display {
        frame.pending.push(before);
        let change =
            Change { code: Some((&code, &system)), display: Some(&display.text), version: found.version.as_deref() };
        out.push_str(&change.tag(&name, written));
    } else if let Some((first, further)) = decision.targets.split_first() {
        frame.pending.push(before);
        frame.pending.extend(further.iter().map(|m| (m.code.clone(), m.system.clone(), m.display.clone())));
        let display = Some(first.display.as_str()).filter(|d| !d.is_empty());
        let change = Change { code: Some((&first.code, &first.system)), display, version: None };
        out.push_str(&change.tag(&name, written));
    } else if decision.null {
        frame.pending.push(before);
        out.push_str(&Change { code: None, display: None, version: None }.tag(&name, written));
    } else {
        out.push_str(written);
        return Ok(frame);
    }
    Ok(frame)
}

fn null_report(element: &Element, task: &Task) -> Report {
    Report {
        path: element.path.clone(),
        system: element.system.clone(),
        code: element.code.clone(),
        fate: Fate::Null,
        required: task.requires(&element.path),
        maps: Vec::new(),
        target: None,
        designation: None,
        issues: Vec::new(),
    }
}

struct Change<'a> {
    /// None writes nullFlavor OTH.
    code: Option<(&'a str, &'a str)>,
    display: Option<&'a str>,
    version: Option<&'a str>,
}

impl Change<'_> {
    /// The tag, open, with its code attributes replaced; all other attributes and their spelling stay.
    fn tag(&self, name: &str, written: &str) -> String {
        let mut out = format!("<{name}");
        let body = written.get(name.len() + 1..).unwrap_or_default();
        let body = body.strip_suffix("/>").or_else(|| body.strip_suffix('>')).unwrap_or(body);
        out.push_str(&kept_attributes(body));
        match self.code {
            Some((code, system)) => {
                out.push_str(&format!(" code=\"{}\" codeSystem=\"{}\"", escaped(code), escaped(bare(system))));
            }
            None => out.push_str(" nullFlavor=\"OTH\""),
        }
        if let Some(version) = self.version {
            out.push_str(&format!(" codeSystemVersion=\"{}\"", escaped(version)));
        }
        if let Some(display) = self.display {
            out.push_str(&format!(" displayName=\"{}\"", escaped(display)));
        }
        out.push('>');
        out
    }
}

/// Attributes other than those of the code, as written.
fn kept_attributes(body: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some(equals) = rest.find('=') {
        let name = rest[..equals].trim();
        let after = rest[equals + 1..].trim_start();
        let Some(quote) = after.chars().next().filter(|c| matches!(c, '"' | '\'')) else { break };
        let Some(close) = after[1..].find(quote) else { break };
        let value = &after[..close + 2];
        if !matches!(name, "code" | "codeSystem" | "codeSystemName" | "codeSystemVersion" | "displayName") {
            out.push_str(&format!(" {name}={value}"));
        }
        rest = &after[close + 2..];
    }
    out
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

fn path(open: &[Frame], name: &str) -> String {
    let mut out = String::new();
    for frame in open {
        out.push('/');
        out.push_str(local(&frame.name));
    }
    out.push('/');
    out.push_str(local(name));
    out
}

fn bare(system: &str) -> &str {
    crate::build::plain(system)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
