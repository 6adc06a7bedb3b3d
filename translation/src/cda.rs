//! Transcoding CDA R2 without touching a byte outside the coded elements.
//!
//! An element with `@code` and `@codeSystem` that has a target gets it in its own attributes; the source, and further
//! targets, stand in `translation` children. What has no target stays as it is. A document that carries a signature is
//! never edited.

use ncp_xml::{Element, Limits};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::maps::{Relationship, Snapshot, Target};

/// Coded elements of one document at most.
const MOST: usize = 100_000;
const HL7: &str = "urn:hl7-org:v3";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const LOINC: &str = "urn:oid:2.16.840.1.113883.6.1";

/// Bounds on a document.
pub const LIMITS: Limits = Limits {
    bytes: 64 << 20,
    depth: 256,
    attributes: 256,
    attribute_bytes: 64 << 10,
    text_bytes: 64 << 20,
    nodes: 2_000_000,
};

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CdaError {
    /// XML.
    #[error("document is refused: {0}")]
    Xml(#[from] ncp_xml::XmlError),
    /// Too many coded elements.
    #[error("document has too many coded elements")]
    TooMany,
}

/// What happened to one coded element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where, by element names.
    pub path: String,
    /// System as written.
    pub system: String,
    /// Code.
    pub code: String,
    /// What became of it.
    pub fate: Fate,
}

/// Fates of a coded element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Exact target written.
    Mapped,
    /// Approximate target written.
    Approximate,
    /// Already in a target system.
    AlreadyTarget,
    /// Kept: no target.
    Unmapped,
    /// Kept: nullFlavor.
    Null,
    /// Kept: every target is refused by policy.
    Refused,
}

/// A document after transcoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcoded {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Every coded element.
    pub reports: Vec<Report>,
    /// Why nothing was edited.
    pub skipped: Option<&'static str>,
}

/// Which targets may be written over a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Wider targets.
    pub wider: bool,
    /// Narrower targets.
    pub narrower: bool,
    /// Related targets.
    pub related: bool,
}

impl Allowed {
    fn takes(self, relationship: Relationship) -> bool {
        match relationship {
            Relationship::Equivalent => true,
            Relationship::TargetWider => self.wider,
            Relationship::TargetNarrower => self.narrower,
            Relationship::Related => self.related,
            Relationship::NotRelated => false,
        }
    }
}

/// National to pivot.
///
/// # Errors
/// A document that is not well-formed, has a DTD, or passes a limit.
pub fn to_pivot(bytes: &[u8], snapshot: &Snapshot, allowed: Allowed) -> Result<Transcoded, CdaError> {
    let root = Element::parse(bytes, &LIMITS)?;
    let whole = |skipped| Transcoded { bytes: bytes.to_vec(), reports: Vec::new(), skipped: Some(skipped) };
    if !root.is(HL7, "ClinicalDocument") {
        return Ok(whole("not a CDA document"));
    }
    if signed(&root) {
        return Ok(whole("signed"));
    }
    drop(root);
    edit(bytes, snapshot, allowed)
}

fn signed(root: &Element) -> bool {
    let mut stack = vec![root];
    while let Some(element) = stack.pop() {
        if element.ns() == DSIG {
            return true;
        }
        stack.extend(element.elements());
    }
    false
}

/// The bytes are well-formed UTF-8 within limits when this is called.
fn edit(bytes: &[u8], snapshot: &Snapshot, allowed: Allowed) -> Result<Transcoded, CdaError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ncp_xml::XmlError::Encoding)?;
    let mut reader = Reader::from_str(text);
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut reports = Vec::new();
    // What has to be written before the end tag of each open element.
    let mut open: Vec<(String, Option<String>)> = Vec::new();
    let mut at = 0;
    loop {
        let event = reader.read_event().map_err(|_| ncp_xml::XmlError::Malformed)?;
        let end = usize::try_from(reader.buffer_position()).map_err(|_| ncp_xml::XmlError::TooLarge)?;
        let written = text.get(at..end).ok_or(ncp_xml::XmlError::Malformed)?;
        at = end;
        match event {
            Event::Start(start) => {
                let name = start.name().as_ref().to_owned();
                let change = coded(&start, &name, &open, snapshot, allowed, &mut reports)?;
                match change {
                    Some(change) => {
                        out.push_str(&change.tag(&start, written, false));
                        open.push((name, Some(change.translations)));
                    }
                    None => {
                        out.push_str(written);
                        open.push((name, None));
                    }
                }
            }
            Event::Empty(start) => {
                let name = start.name().as_ref().to_owned();
                match coded(&start, &name, &open, snapshot, allowed, &mut reports)? {
                    Some(change) => {
                        out.push_str(&change.tag(&start, written, true));
                        out.push_str(&change.translations);
                        out.push_str(&format!("</{name}>"));
                    }
                    None => out.push_str(written),
                }
            }
            Event::End(_) => {
                if let Some((_, Some(translations))) = open.pop() {
                    out.push_str(&translations);
                }
                out.push_str(written);
            }
            Event::Eof => break,
            _ => out.push_str(written),
        }
        if reports.len() > MOST {
            return Err(CdaError::TooMany);
        }
    }
    Ok(Transcoded { bytes: out.into_bytes(), reports, skipped: None })
}

struct Change {
    code: String,
    system: String,
    display: Option<String>,
    translations: String,
}

impl Change {
    /// The tag with its code attributes replaced; all other attributes and their spelling stay.
    fn tag(&self, start: &BytesStart<'_>, written: &str, empty: bool) -> String {
        let mut out = format!("<{}", start.name().as_ref());
        let prefix = start.name().as_ref().len() + 1;
        let body = written.get(prefix..).unwrap_or_default();
        let body = body.trim_end_matches('>').trim_end_matches('/');
        out.push_str(&kept_attributes(body));
        out.push_str(&format!(" code=\"{}\" codeSystem=\"{}\"", escaped(&self.code), escaped(bare(&self.system))));
        if let Some(display) = &self.display {
            out.push_str(&format!(" displayName=\"{}\"", escaped(display)));
        }
        let _ = empty;
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

fn coded(
    start: &BytesStart<'_>,
    name: &str,
    open: &[(String, Option<String>)],
    snapshot: &Snapshot,
    allowed: Allowed,
    reports: &mut Vec<Report>,
) -> Result<Option<Change>, CdaError> {
    // The source and further targets of an element above, not codes of their own.
    if name.rsplit(':').next() == Some("translation") {
        return Ok(None);
    }
    let mut found: [Option<String>; 4] = [None, None, None, None];
    for attribute in start.attributes().with_checks(false) {
        let attribute = attribute.map_err(|_| ncp_xml::XmlError::Malformed)?;
        let slot = match attribute.key.as_ref() {
            "code" => 0,
            "codeSystem" => 1,
            "displayName" => 2,
            "nullFlavor" => 3,
            _ => continue,
        };
        let value =
            attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(|_| ncp_xml::XmlError::Malformed)?;
        found[slot] = Some(value.into_owned());
    }
    let [code, system, display, null] = found;
    let (code, system) = match (code, system, null) {
        (Some(code), Some(system), None) => (code, system),
        (code, Some(system), Some(_)) => {
            reports.push(Report { path: path(open, name), system, code: code.unwrap_or_default(), fate: Fate::Null });
            return Ok(None);
        }
        _ => return Ok(None),
    };
    let mut report =
        |fate| reports.push(Report { path: path(open, name), system: system.clone(), code: code.clone(), fate });
    if snapshot.is_target(&system) {
        report(Fate::AlreadyTarget);
        return Ok(None);
    }
    let targets = snapshot.targets(&system, &code);
    let mut permitted: Vec<&Target> = targets.iter().filter(|t| allowed.takes(t.relationship)).collect();
    // Exact before approximate, LOINC before SNOMED CT; both are written.
    permitted.sort_by_key(|t| (t.relationship, t.system != LOINC));
    let Some((first, further)) = permitted.split_first() else {
        report(if targets.is_empty() { Fate::Unmapped } else { Fate::Refused });
        return Ok(None);
    };
    report(if first.relationship == Relationship::Equivalent { Fate::Mapped } else { Fate::Approximate });
    let prefix = name.strip_suffix(local(name)).unwrap_or_default();
    let mut translations = translation(prefix, &code, &system, display.as_deref());
    for target in further {
        translations.push_str(&translation(prefix, &target.code, &target.system, target.display.as_deref()));
    }
    Ok(Some(Change {
        code: first.code.clone(),
        system: first.system.clone(),
        display: first.display.clone(),
        translations,
    }))
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

fn path(open: &[(String, Option<String>)], name: &str) -> String {
    let mut out = String::new();
    for (parent, _) in open {
        out.push('/');
        out.push_str(local(parent));
    }
    out.push('/');
    out.push_str(local(name));
    out
}

fn translation(prefix: &str, code: &str, system: &str, display: Option<&str>) -> String {
    let display = display.map(|d| format!(" displayName=\"{}\"", escaped(d))).unwrap_or_default();
    format!("<{prefix}translation code=\"{}\" codeSystem=\"{}\"{display}/>", escaped(code), escaped(bare(system)))
}

fn bare(system: &str) -> &str {
    system.strip_prefix("urn:oid:").unwrap_or(system)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::tests::shipped;

    const ALL: Allowed = Allowed { wider: true, narrower: false, related: false };

    fn report() -> Vec<u8> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/no/reports/ct.xml");
        std::fs::read(path).expect("the demo's report")
    }

    #[test]
    fn guarantee_1_bytes_outside_coded_elements_are_unchanged() {
        let (before, after) = (report(), to_pivot(&report(), &shipped(), ALL).expect("transcodes"));
        let strip = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
            text.lines().filter(|l| !l.contains("SSC0AD")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(strip(&before), strip(&after.bytes));
        assert_ne!(before, after.bytes);
    }

    #[test]
    fn guarantee_2_source_survives_and_twice_equals_once() {
        let once = to_pivot(&report(), &shipped(), ALL).expect("transcodes");
        let text = String::from_utf8(once.bytes.clone()).expect("UTF-8");
        assert!(text.contains("code=\"24627-2\" codeSystem=\"2.16.840.1.113883.6.1\""), "{text}");
        assert!(text.contains(
            "<translation code=\"SSC0AD\" codeSystem=\"2.16.578.1.12.4.1.1.7270\" displayName=\"CT toraks\"/>"
        ));
        assert!(text.contains("<translation code=\"169069000\" codeSystem=\"2.16.840.1.113883.6.96\"/>"));
        let twice = to_pivot(&once.bytes, &shipped(), ALL).expect("transcodes");
        assert_eq!(once.bytes, twice.bytes);
    }

    #[test]
    fn guarantee_3_every_coded_element_is_reported() {
        let done = to_pivot(&report(), &shipped(), ALL).expect("transcodes");
        let text = String::from_utf8(report()).expect("UTF-8");
        assert_eq!(done.reports.len(), text.matches(" codeSystem=\"").count());
        assert_eq!(done.reports.iter().filter(|r| r.fate == Fate::Mapped).count(), 3);
        assert!(done.reports.iter().any(|r| r.path == "/ClinicalDocument/documentationOf/serviceEvent/code"));
    }

    #[test]
    fn guarantee_5_approximate_targets_need_permission() {
        let cda = "<ClinicalDocument xmlns=\"urn:hl7-org:v3\"><code code=\"B05\" codeSystem=\"2.16.578.1.12.4.1.1.8654\"/></ClinicalDocument>";
        let strict = Allowed { wider: false, narrower: false, related: false };
        let kept = to_pivot(cda.as_bytes(), &shipped(), strict).expect("transcodes");
        assert_eq!((kept.bytes.as_slice(), kept.reports[0].fate), (cda.as_bytes(), Fate::Refused));
        assert_eq!(to_pivot(cda.as_bytes(), &shipped(), ALL).expect("transcodes").reports[0].fate, Fate::Approximate);
    }

    #[test]
    fn guarantee_8_null_flavor_is_untouched_and_signed_documents_too() {
        let cda = "<ClinicalDocument xmlns=\"urn:hl7-org:v3\"><code nullFlavor=\"UNK\" code=\"SSC0AD\" codeSystem=\"2.16.578.1.12.4.1.1.7270\"/></ClinicalDocument>";
        let kept = to_pivot(cda.as_bytes(), &shipped(), ALL).expect("transcodes");
        assert_eq!((kept.bytes.as_slice(), kept.reports[0].fate), (cda.as_bytes(), Fate::Null));
        let signed = cda
            .replace("</Clinical", "<Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"/></Clinical")
            .replace(" nullFlavor=\"UNK\"", "");
        let kept = to_pivot(signed.as_bytes(), &shipped(), ALL).expect("reads");
        assert_eq!((kept.bytes.as_slice(), kept.skipped), (signed.as_bytes(), Some("signed")));
    }

    #[test]
    fn children_stay_before_translations() {
        let cda = "<h:ClinicalDocument xmlns:h=\"urn:hl7-org:v3\"><h:code  a='1' code='SSC0AD' codeSystem='2.16.578.1.12.4.1.1.7270'><h:originalText>x &amp; y</h:originalText></h:code></h:ClinicalDocument>";
        let done =
            String::from_utf8(to_pivot(cda.as_bytes(), &shipped(), ALL).expect("transcodes").bytes).expect("UTF-8");
        assert!(done.contains("<h:code a='1' code=\"24627-2\""), "{done}");
        assert!(done.contains("</h:originalText><h:translation code=\"SSC0AD\""), "{done}");
        assert!(to_pivot(b"<!DOCTYPE a><a/>", &shipped(), ALL).is_err());
    }

    #[test]
    fn too_many_coded_elements_are_refused() {
        let many = "<code code=\"x\" codeSystem=\"2.999.9\"/>".repeat(MOST + 1);
        let cda = format!("<ClinicalDocument xmlns=\"urn:hl7-org:v3\">{many}</ClinicalDocument>");
        assert_eq!(to_pivot(cda.as_bytes(), &shipped(), ALL), Err(CdaError::TooMany));
    }
}
