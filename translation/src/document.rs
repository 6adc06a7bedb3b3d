//! Whole documents: every coded element is accounted for, nothing else is touched, the original stays beside the
//! translation, and what is signed is never edited.

use std::sync::Arc;

use crate::designation;
use crate::relationship::{Allowed, Relationship};
use crate::snapshot::{Concept, Snapshot};
use crate::translate::{self, Answer, Issue, Match, Outcome, Query, issues};
use profile::Profile;

pub mod cda;
pub mod dicom;
pub mod fhir;
mod json;
pub mod profile;

/// Bytes of one document at most.
pub const BYTES: usize = 64 << 20;
/// Coded elements of one document at most.
pub const ELEMENTS: usize = 100_000;
/// Nesting at most.
pub const DEPTH: u32 = 128;

/// Laterality in SNOMED CT: left, right, both. A wider or related target could name the other side.
const SIDES: [&str; 3] = ["7771000", "24028007", "51440002"];
/// Section of allergies and intolerances, LOINC.
const ALLERGIES: &str = "48765-2";

/// Why a document cannot be read or translated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// XML.
    #[error("document is refused: {0}")]
    Xml(#[from] ncp_xml::XmlError),
    /// JSON.
    #[error("document is refused: not well-formed JSON at byte {0}")]
    Json(usize),
    /// No DICOM Part 10 object, or beyond bounds.
    #[error("document is refused: {0}")]
    Dicom(String),
    /// Nested too deeply.
    #[error("document is nested too deeply")]
    TooDeep,
    /// Too many coded elements.
    #[error("document has more than 100,000 coded elements")]
    TooMany,
    /// A required element has no target and the policy says to fail.
    #[error("required element {0} has no target")]
    Required(String),
    /// A media type that is not translated.
    #[error("media type is not translated")]
    MediaType,
}

/// Which way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Direction {
    /// National codes to SNOMED CT and LOINC.
    ToPivot,
    /// Designations in the reader's languages, first choice first.
    ToLanguage(Vec<String>),
}

/// What happens to a required element without a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Required {
    /// It stays.
    Keep,
    /// The whole document fails.
    Fail,
    /// nullFlavor OTH, the source beside it.
    NullFlavor,
}

/// How a document is translated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Task {
    /// Direction.
    pub direction: Direction,
    /// Which targets may be written.
    pub allowed: Allowed,
    /// Required elements.
    pub required: Required,
    /// What is asked of its elements.
    pub profile: Arc<Profile>,
}

impl Task {
    /// To the pivot, wider targets taken, required elements kept.
    pub fn to_pivot() -> Self {
        Self {
            direction: Direction::ToPivot,
            allowed: Allowed::WIDER,
            required: Required::Keep,
            profile: Arc::default(),
        }
    }

    /// To a reader's languages.
    pub fn to_language(languages: &[&str]) -> Self {
        let languages = languages.iter().map(|l| (*l).to_owned()).collect();
        Self { direction: Direction::ToLanguage(languages), ..Self::to_pivot() }
    }

    /// Whether an element must be translated.
    fn requires(&self, path: &str) -> bool {
        self.profile.rule(path).required
    }
}

/// Fates of a coded element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Exact target or designation written.
    Mapped,
    /// Approximate target written.
    Approximate,
    /// Already in a target system, or already in the reader's words.
    AlreadyTarget,
    /// Kept: no target or designation.
    Unmapped,
    /// Kept: nullFlavor.
    Null,
    /// Kept: the profile says so.
    Kept,
    /// Kept: every target is refused by policy.
    Refused,
    /// Kept: has no system, so that nobody knows which code it is.
    NoSystem,
    /// nullFlavor written, source beside it.
    Nulled,
}

impl Fate {
    /// Word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Approximate => "approximate",
            Self::AlreadyTarget => "already-target",
            Self::Unmapped => "unmapped",
            Self::Null => "null-flavor",
            Self::Kept => "kept-by-profile",
            Self::Refused => "refused-by-policy",
            Self::NoSystem => "no-system",
            Self::Nulled => "null-flavor-written",
        }
    }
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
    /// Whether the profile requires it.
    pub required: bool,
    /// Maps that were used.
    pub maps: Vec<u32>,
    /// What was written, and how it relates.
    pub target: Option<(String, String, Relationship)>,
    /// Designation that was written, with its real language and whether it is a fallback.
    pub designation: Option<(String, String, bool)>,
    /// Remarks.
    pub issues: Vec<Issue>,
}

/// A document after translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translated {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Every coded element.
    pub reports: Vec<Report>,
    /// Why nothing was edited.
    pub skipped: Option<&'static str>,
}

impl Translated {
    fn untouched(bytes: &[u8], reports: Vec<Report>, why: &'static str) -> Self {
        Self { bytes: bytes.to_vec(), reports, skipped: Some(why) }
    }
}

/// Translates a document by its media type.
///
/// # Errors
/// Malformed, over a limit, of an unknown media type, or a required element without a target.
pub fn translate(
    bytes: &[u8],
    media_type: &str,
    task: &Task,
    snapshot: &Snapshot,
) -> Result<Translated, DocumentError> {
    let kind = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "text/xml" | "application/xml" | "application/hl7-v3+xml" => cda::translate(bytes, task, snapshot),
        "application/fhir+json" | "application/json" => fhir::translate(bytes, task, snapshot),
        "application/dicom+json" => dicom::view(bytes, task, snapshot),
        "application/dicom" => dicom::view_of_object(bytes, task, snapshot),
        _ => Err(DocumentError::MediaType),
    }
}

/// A coded element as a document has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Element {
    path: String,
    system: String,
    version: String,
    code: String,
    display: String,
    /// LOINC code of the section around it.
    section: String,
    /// By its place it says a side or a negation.
    dangerous: bool,
}

/// What to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Decision {
    /// Targets, best first; empty for none.
    targets: Vec<Match>,
    /// Designation of the code itself.
    display: Option<designation::Designation>,
    /// The element becomes nullFlavor OTH.
    null: bool,
}

fn decide(element: &Element, task: &Task, snapshot: &Snapshot) -> Result<(Decision, Report), DocumentError> {
    let rule = task.profile.rule(&element.path);
    let mut report = Report {
        path: element.path.clone(),
        system: element.system.clone(),
        code: element.code.clone(),
        fate: Fate::Unmapped,
        required: rule.required,
        maps: Vec::new(),
        target: None,
        designation: None,
        issues: Vec::new(),
    };
    if element.system.is_empty() {
        report.fate = Fate::NoSystem;
        return Ok((Decision::default(), report));
    }
    if rule.keep {
        report.fate = Fate::Kept;
        return Ok((Decision::default(), report));
    }
    match &task.direction {
        Direction::ToPivot if rule.exact => {
            to_pivot(element, &Task { allowed: Allowed::EXACT, ..task.clone() }, snapshot, report)
        }
        Direction::ToPivot => to_pivot(element, task, snapshot, report),
        Direction::ToLanguage(languages) => Ok(to_language(element, languages, snapshot, report)),
    }
}

fn dangerous(element: &Element, answer: &Answer) -> bool {
    let side = |m: &Match| SIDES.contains(&m.code.as_str());
    element.dangerous || element.section == ALLERGIES || answer.matches.iter().chain(&answer.rejected).any(side)
}

fn to_pivot(
    element: &Element,
    task: &Task,
    snapshot: &Snapshot,
    mut report: Report,
) -> Result<(Decision, Report), DocumentError> {
    let query = Query {
        system: &element.system,
        version: &element.version,
        code: &element.code,
        target_system: "",
        map: "",
        context: &[],
        allowed: task.allowed,
    };
    let mut answer = match translate::translate(snapshot, &query) {
        Ok(answer) => answer,
        Err(_) => {
            report.issues.push(issues::SYSTEM);
            return required(task, report);
        }
    };
    if dangerous(element, &answer) && task.allowed != Allowed::EXACT {
        let query = Query { allowed: Allowed::EXACT, ..query };
        answer = translate::translate(snapshot, &query).unwrap_or(answer);
    }
    report.issues.append(&mut answer.issues);
    let loinc = |m: &Match| m.system != crate::check_digit::LOINC;
    let mut targets = answer.matches;
    targets.retain(|m| !m.fallback || task.allowed.fallback);
    // Exact before approximate, LOINC before SNOMED CT; all are written.
    targets.sort_by_key(|m| (m.fallback, m.relationship, loinc(m)));
    targets.dedup_by(|a, b| a.system == b.system && a.code == b.code);
    report.fate = match (answer.outcome, targets.first()) {
        (_, Some(m)) if m.relationship == Relationship::Equivalent && !m.fallback => Fate::Mapped,
        (_, Some(_)) => Fate::Approximate,
        (Outcome::AlreadyTarget, None) => Fate::AlreadyTarget,
        _ if answer.rejected.iter().any(|m| m.relationship != Relationship::NotRelated) => Fate::Refused,
        (_, None) => Fate::Unmapped,
    };
    let Some(first) = targets.first() else {
        if report.fate == Fate::AlreadyTarget {
            return Ok((Decision::default(), report));
        }
        return required(task, report);
    };
    for m in &targets {
        report.maps.extend(m.via.iter().filter(|v| !report.maps.contains(v)).copied().collect::<Vec<_>>());
    }
    report.target = Some((first.system.clone(), first.code.clone(), first.relationship));
    for m in &mut targets {
        if m.display.is_empty()
            && let Some(concept) = m.concept
            && let Some(name) = designation::choose(snapshot, concept, &["en".to_owned()])
            && name.origin == designation::Origin::Release
        {
            m.display = name.text;
        }
    }
    Ok((Decision { targets, ..Decision::default() }, report))
}

/// A required element without a target: kept, failed or nulled, never dropped.
fn required(task: &Task, mut report: Report) -> Result<(Decision, Report), DocumentError> {
    match task.required {
        Required::Fail if report.required => Err(DocumentError::Required(report.path)),
        Required::NullFlavor if report.required => {
            report.fate = Fate::Nulled;
            Ok((Decision { null: true, ..Decision::default() }, report))
        }
        _ => Ok((Decision::default(), report)),
    }
}

fn to_language(element: &Element, languages: &[String], snapshot: &Snapshot, mut report: Report) -> (Decision, Report) {
    let concept: Option<Concept> =
        snapshot.system(&element.system).and_then(|system| snapshot.find_folded(system, &element.code));
    let Some(found) = concept.and_then(|concept| designation::choose(snapshot, concept, languages)) else {
        let known = snapshot.system(&element.system).is_some();
        report.issues.push(if known { issues::DESIGNATION } else { issues::SYSTEM });
        return (Decision::default(), report);
    };
    if found.several {
        report.issues.push(issues::SEVERAL);
    }
    report.designation = Some((found.text.clone(), found.language.clone(), found.fallback));
    if found.text == element.display {
        report.fate = Fate::AlreadyTarget;
        return (Decision::default(), report);
    }
    report.fate = if found.fallback { Fate::Approximate } else { Fate::Mapped };
    (Decision { display: Some(found), ..Decision::default() }, report)
}
