//! Consent resources of FHIR R4 and R5 as rules. Every element of an active Consent is read, or the answer is an error:
//! what is passed over in a permission opens.
//!
//! R4: `policyRule` is the base, the root provision an exception to it or its scope, nested provisions exceptions to what
//! stands above them. HL7's and IHE's own examples write a type at the root, with and without a `policyRule`; both are
//! read. Without a base a root that permits closes everything else, and one that denies closes what it names. R5:
//! `decision` is the base, `provision` are exceptions, and each level reverses the one above.

use jiff::Timestamp;
use ncp_ihe::PatientId;
use serde_json::{Map, Value};

use super::country::country;
use super::rule::{Actor, CONFIDENTIALITY, Condition, Content, Decision, Label, Purpose, Rule, is_loinc};

/// Provisions inside provisions.
const DEPTH: usize = 8;
/// Provisions of all Consents of one patient, and values of one element.
const PROVISIONS: usize = 5_000;
const VALUES: usize = 5_000;

const COUNTRIES: &str = "urn:iso:std:iso:3166";
const URI: &str = "urn:ietf:rfc:3986";
const ACT_CODE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
const PARTICIPATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
const CONFIDENTIALITY_SYSTEM: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";
const SCOPES: &str = "http://terminology.hl7.org/CodeSystem/consentscope";
const CATEGORIES: &str = "http://terminology.hl7.org/CodeSystem/consentcategorycodes";
const ACTIONS: &str = "http://terminology.hl7.org/CodeSystem/consentaction";
const RESOURCES: &str = "http://hl7.org/fhir/resource-types";
const LOINC: &str = "http://loinc.org";

/// What cannot be read, without a word of the message.
pub(super) type Unread = &'static str;

/// Elements without influence on what is permitted.
const RESOURCE: [&str; 7] = ["resourceType", "id", "meta", "language", "text", "contained", "extension"];
const TOP: [&str; 23] = [
    "identifier",
    "status",
    "scope",
    "category",
    "patient",
    "subject",
    "dateTime",
    "date",
    "performer",
    "organization",
    "grantor",
    "manager",
    "controller",
    "sourceAttachment",
    "sourceReference",
    "policy",
    "policyRule",
    "policyText",
    "verification",
    "provision",
    "decision",
    "period",
    "grantee",
];
const PROVISION: [&str; 16] = [
    "id",
    "extension",
    "type",
    "period",
    "actor",
    "action",
    "securityLabel",
    "purpose",
    "class",
    "documentType",
    "resourceType",
    "dataPeriod",
    "data",
    "provision",
    "code",
    "expression",
];

/// The rules of the active Consents about this service among some resources, which are all of one patient.
///
/// # Errors
/// What of an active one is not understood.
pub(super) fn read(consents: &[Value], patient: &PatientId) -> Result<Vec<Rule>, Unread> {
    let mut reader = Reader { left: PROVISIONS };
    let mut out = Vec::new();
    for consent in consents {
        let Some(consent) = consent.as_object() else { return Err("no resource") };
        match consent.get("resourceType").and_then(Value::as_str) {
            Some("Consent") => out.extend(reader.consent(consent, patient)?),
            Some("OperationOutcome") if !severe(consent) => {}
            _ => return Err("a resource that is no Consent"),
        }
    }
    Ok(out)
}

/// Whether an outcome tells of a failure; one whose severity is not known does.
fn severe(outcome: &Map<String, Value>) -> bool {
    let harmless =
        |issue: &Value| matches!(issue.get("severity").and_then(Value::as_str), Some("information" | "warning"));
    outcome.get("issue").and_then(Value::as_array).is_none_or(|issues| !issues.iter().all(harmless))
}

struct Reader {
    /// Provisions that may still come.
    left: usize,
}

impl Reader {
    fn consent(&mut self, consent: &Map<String, Value>, patient: &PatientId) -> Result<Option<Rule>, Unread> {
        match text(consent, "status")?.ok_or("Consent without status")? {
            "active" => {}
            "draft" | "proposed" | "rejected" | "inactive" | "entered-in-error" | "not-done" | "unknown" => {
                return Ok(None);
            }
            _ => return Err("Consent.status"),
        }
        only(consent, &[&RESOURCE[..], &TOP].concat())?;
        if !is_about_service(consent)? {
            return Ok(None);
        }
        let named: Vec<&Value> = ["patient", "subject"].iter().filter_map(|name| consent.get(*name)).collect();
        if named.is_empty() {
            return Err("Consent without patient");
        }
        named.into_iter().try_for_each(|reference| of_patient(reference, patient))?;
        for verification in list(consent, "verification")? {
            if verification.get("verified").and_then(Value::as_bool) != Some(true) {
                return Err("Consent.verification");
            }
        }
        // Who must agree is not who receives.
        if consent.contains_key("grantee") {
            return Err("Consent.grantee");
        }
        let in_force = match consent.get("period") {
            Some(period) => Some(in_force(period)?),
            None => None,
        };
        let provision = consent.get("provision");
        let is_r5 = consent.contains_key("decision") || provision.is_some_and(Value::is_array);
        let mut rule = if is_r5 { self.r5(consent)? } else { self.r4(consent)? };
        rule.conditions.extend(in_force);
        Ok(Some(rule))
    }

    fn r5(&mut self, consent: &Map<String, Value>) -> Result<Rule, Unread> {
        if ["scope", "policy", "policyRule"].iter().any(|of_r4| consent.contains_key(*of_r4))
            && consent.contains_key("policyRule")
        {
            return Err("Consent with decision and policyRule");
        }
        let base = decision(text(consent, "decision")?.ok_or("Consent.decision")?)?;
        let mut rule = Rule::of(base);
        for provision in list(consent, "provision")? {
            rule.exceptions.push(self.provision(provision, Form::R5(reversed(base)), 1)?);
        }
        Ok(rule)
    }

    fn r4(&mut self, consent: &Map<String, Value>) -> Result<Rule, Unread> {
        let (rule_of_base, needs_exceptions) = match consent.get("policyRule") {
            Some(rule) => policy_rule(rule)?,
            // What a policy that is named by its address says is not known here.
            None if policies(consent)? => (Some(Decision::Deny), false),
            None => (None, false),
        };
        let Some(provision) = consent.get("provision") else {
            // "With restrictions", and none is there.
            return match rule_of_base {
                Some(base) if !needs_exceptions => Ok(Rule::of(base)),
                _ => Err("Consent without a rule"),
            };
        };
        let kind = object(provision)?.get("type").map(|kind| kind.as_str().ok_or("provision.type")).transpose()?;
        let kind = kind.map(decision).transpose()?;
        let base = rule_of_base.or(kind.map(|_| Decision::Deny)).ok_or("Consent without a rule")?;
        let root = self.provision(provision, Form::Root(kind.unwrap_or(base)), 1)?;
        Ok(match (rule_of_base, kind) {
            // The scope of the permission, or what alone is permitted, is what the root names.
            (Some(Decision::Permit), Some(Decision::Permit) | None) => root,
            // Nothing is said of what the root does not name.
            (None, Some(Decision::Deny)) => root,
            // A base that denies holds whatever the scope of its exceptions.
            (_, None) | (Some(Decision::Deny), Some(Decision::Deny)) => {
                let exceptions = root.exceptions.into_iter().map(|mut exception| {
                    exception.conditions.extend(root.conditions.iter().cloned());
                    exception
                });
                Rule { exceptions: exceptions.collect(), ..Rule::of(base) }
            }
            (stated, Some(_)) => Rule { exceptions: vec![root], implied: stated.is_none(), ..Rule::of(base) },
        })
    }

    fn provision(&mut self, provision: &Value, form: Form, depth: usize) -> Result<Rule, Unread> {
        self.left = self.left.checked_sub(1).ok_or("more provisions than are read")?;
        if depth > DEPTH {
            return Err("provisions are nested too deeply");
        }
        let provision = object(provision)?;
        only(provision, &PROVISION)?;
        let said = text(provision, "type")?.map(decision).transpose()?;
        let own = match form {
            Form::Root(decision) => decision,
            Form::R4 => said.ok_or("nested provision without type")?,
            Form::R5(_) if said.is_some() => return Err("provision.type in R5"),
            Form::R5(decision) => decision,
        };
        let mut rule = Rule::of(own);
        rule.conditions = conditions(provision)?;
        let inner = match form {
            Form::R5(decision) => Form::R5(reversed(decision)),
            Form::Root(_) | Form::R4 => Form::R4,
        };
        for nested in list(provision, "provision")? {
            rule.exceptions.push(self.provision(nested, inner, depth + 1)?);
        }
        Ok(rule)
    }
}

/// Where a provision gets its decision from.
#[derive(Clone, Copy)]
enum Form {
    /// The root of R4, decided by its own type or by the base.
    Root(Decision),
    /// Nested in R4: its own type.
    R4,
    /// R5: the reverse of what is above.
    R5(Decision),
}

fn reversed(decision: Decision) -> Decision {
    match decision {
        Decision::Permit => Decision::Deny,
        Decision::Deny => Decision::Permit,
    }
}

fn decision(code: &str) -> Result<Decision, Unread> {
    match code {
        "permit" => Ok(Decision::Permit),
        "deny" => Ok(Decision::Deny),
        _ => Err("permit or deny"),
    }
}

/// The base of R4, and whether it means nothing without exceptions.
fn policy_rule(rule: &Value) -> Result<(Option<Decision>, bool), Unread> {
    let mut found = None;
    for (system, code) in codings(rule)? {
        let base = match (system, code) {
            (Some(ACT_CODE), "OPTIN") => (Decision::Permit, false),
            (Some(ACT_CODE), "OPTINR") => (Decision::Permit, true),
            (Some(ACT_CODE), "OPTOUT" | "OPTOUTE") => (Decision::Deny, false),
            _ => return Err("Consent.policyRule"),
        };
        if found.is_some_and(|other| other != base) {
            return Err("Consent.policyRule");
        }
        found = Some(base);
    }
    let (base, needs_exceptions) = found.ok_or("Consent.policyRule")?;
    Ok((Some(base), needs_exceptions))
}

/// Whether policies are named.
fn policies(consent: &Map<String, Value>) -> Result<bool, Unread> {
    let named = list(consent, "policy")?;
    for policy in named {
        only(object(policy)?, &["id", "extension", "authority", "uri"])?;
    }
    Ok(!named.is_empty())
}

/// By scope and category: a consent to research, to a treatment or an advance directive decides nothing here.
fn is_about_service(consent: &Map<String, Value>) -> Result<bool, Unread> {
    let mut about = true;
    if let Some(scope) = consent.get("scope") {
        for coding in codings(scope)? {
            about &= match coding {
                (Some(SCOPES) | None, "patient-privacy") => true,
                (Some(SCOPES) | None, "research" | "adr" | "treatment") => false,
                _ => return Err("Consent.scope"),
            };
        }
    }
    for category in list(consent, "category")? {
        for coding in codings(category)? {
            about &= match coding {
                (Some(LOINC), "59284-0" | "57016-8" | "57017-6" | "64292-6" | "83930-8") => true,
                (Some(ACT_CODE), "INFA" | "INFACCESS" | "INFAO" | "IDSCL" | "INFASO" | "ICOL") => true,
                (Some(ACT_CODE), "RESEARCH" | "RSDID" | "RSREID") => false,
                (Some(CATEGORIES), "infa" | "npp") => true,
                (Some(CATEGORIES), "acd" | "dnr" | "hcd" | "polst" | "research" | "rsdid" | "rsreid") => false,
                _ => return Err("Consent.category"),
            };
        }
    }
    Ok(about)
}

/// The server was asked for this patient's; an identifier that says another is an error.
fn of_patient(reference: &Value, patient: &PatientId) -> Result<(), Unread> {
    let reference = object(reference)?;
    only(reference, &["id", "extension", "reference", "type", "identifier", "display"])?;
    let Some(identifier) = reference.get("identifier") else {
        return text(reference, "reference")?.map(|_| ()).ok_or("Consent.patient");
    };
    let (system, value) = identifier_of(identifier)?;
    let same =
        value == patient.extension && system.is_some_and(|s| s.strip_prefix("urn:oid:") == Some(patient.root.as_str()));
    if same { Ok(()) } else { Err("Consent of another patient") }
}

fn conditions(provision: &Map<String, Value>) -> Result<Vec<Condition>, Unread> {
    // Content by SNOMED CT or an expression cannot be compared with what is known of a document.
    if ["code", "expression"].iter().any(|name| provision.contains_key(*name)) {
        return Err("provision by content");
    }
    let mut out = Vec::new();
    if let Some(period) = provision.get("period") {
        out.push(in_force(period)?);
    }
    let each = |name: &str| list(provision, name);
    let actors = each("actor")?.iter().map(actor).collect::<Result<Vec<_>, _>>()?;
    let purposes = each("purpose")?.iter().map(purpose).collect::<Result<Vec<_>, _>>()?;
    let labels = each("securityLabel")?.iter().map(label).collect::<Result<Vec<_>, _>>()?;
    let units = each("data")?.iter().map(unit).collect::<Result<Vec<_>, _>>()?;
    let mut actions = Vec::new();
    for action in each("action")? {
        for coding in codings(action)? {
            actions.push(match coding {
                (Some(ACTIONS) | None, "access" | "disclose" | "use") => true,
                (Some(ACTIONS) | None, "collect" | "correct") => false,
                _ => return Err("provision.action"),
            });
        }
    }
    let mut kinds = Vec::new();
    for class in each("class")?.iter().chain(each("resourceType")?) {
        kinds.push(content(coding(class)?)?);
    }
    for class in each("documentType")? {
        kinds.push(content(coding(class)?)?);
    }
    if provision.contains_key("dataPeriod") {
        let (from, to) = days(provision.get("dataPeriod"))?;
        out.push(Condition::DataPeriod(from, to));
    }
    let mut add = |present: bool, condition: Condition| out.extend(present.then_some(condition));
    add(!actors.is_empty(), Condition::Actor(actors));
    add(!purposes.is_empty(), Condition::Purpose(purposes));
    add(!labels.is_empty(), Condition::Label(labels));
    add(!units.is_empty(), Condition::Unit(units));
    add(!actions.is_empty(), Condition::Disclosure(actions.contains(&true)));
    add(!kinds.is_empty(), Condition::Content(kinds));
    Ok(out)
}

fn actor(actor: &Value) -> Result<Actor, Unread> {
    let actor = object(actor)?;
    only(actor, &["id", "extension", "role", "reference"])?;
    let roles = codings(actor.get("role").ok_or("actor without role")?)?;
    let mut authors = Vec::new();
    for role in roles {
        authors.push(match role {
            (Some(PARTICIPATION) | None, "IRCP" | "PRCP") => false,
            (Some(PARTICIPATION) | None, "AUT" | "CST") => true,
            _ => return Err("actor.role"),
        });
    }
    let reference = object(actor.get("reference").ok_or("actor without reference")?)?;
    only(reference, &["id", "extension", "reference", "type", "identifier", "display"])?;
    let (system, value) = identifier_of(reference.get("identifier").ok_or("actor without identifier")?)?;
    let value = value.to_owned();
    if system == Some(COUNTRIES) {
        let known = country(&value).ok_or("actor of no country")?;
        return if authors == [false] { Ok(Actor::Country(known)) } else { Err("actor.role") };
    }
    if !system.is_none_or(|s| s == URI || s.starts_with("urn:oid:")) {
        return Err("actor.reference.identifier.system");
    }
    match (authors.as_slice(), text(reference, "type")?) {
        ([true], None | Some("Organization")) => Ok(Actor::Author(value)),
        ([false], Some("Organization")) => Ok(Actor::Organisation(value)),
        ([false], Some("Practitioner" | "PractitionerRole")) => Ok(Actor::Professional(value)),
        ([false], None) => Ok(Actor::Recipient(value)),
        _ => Err("actor"),
    }
}

fn purpose(purpose: &Value) -> Result<Purpose, Unread> {
    let (system, code) = coding(purpose)?;
    if !matches!(system, Some(ACT_REASON) | None) {
        return Err("provision.purpose.system");
    }
    match code {
        "TREAT" | "PurposeOfUse" => Ok(Purpose::Treatment),
        "ETREAT" | "BTG" => Ok(Purpose::Emergency),
        "PATRQT" => Ok(Purpose::PatientRequest),
        "HMARKT" | "HOPERAT" | "HPAYMT" | "HRESCH" | "PUBHLTH" | "FAMRQT" | "PWATRNY" | "SUPNWK" | "CLINTRCH"
        | "HSYSADMIN" | "MEMADMIN" | "COVERAGE" | "ETREATMENT" => Ok(Purpose::Other),
        _ => Err("provision.purpose"),
    }
}

fn label(label: &Value) -> Result<Label, Unread> {
    let (system, code) = coding(label)?;
    let rank = CONFIDENTIALITY.iter().position(|c| *c == code);
    match (system, rank) {
        (Some(CONFIDENTIALITY_SYSTEM) | None, Some(rank)) => Ok(Label::UpTo(rank)),
        (Some(CONFIDENTIALITY_SYSTEM), None) => Err("provision.securityLabel"),
        (Some(system), _) if system.starts_with("urn:oid:") => Ok(Label::Code(code.to_owned())),
        (None, None) => Ok(Label::Code(code.to_owned())),
        (Some(_), _) => Err("provision.securityLabel.system"),
    }
}

fn content((system, code): (Option<&str>, &str)) -> Result<Content, Unread> {
    match (system, code) {
        (Some(RESOURCES) | None, "ImagingStudy" | "ImagingSelection") => Ok(Content::Images),
        (Some(LOINC | "urn:oid:2.16.840.1.113883.6.1") | None, "18748-4") => Ok(Content::Images),
        (
            Some(RESOURCES) | None,
            "DocumentReference" | "DocumentManifest" | "DiagnosticReport" | "Composition" | "Binary",
        ) => Ok(Content::Documents),
        (Some(LOINC | "urn:oid:2.16.840.1.113883.6.1") | None, code) if is_loinc(code) => {
            Ok(Content::Loinc(code.to_owned()))
        }
        _ => Err("provision.class"),
    }
}

fn unit(data: &Value) -> Result<String, Unread> {
    let data = object(data)?;
    only(data, &["id", "extension", "meaning", "reference"])?;
    if text(data, "meaning")? != Some("instance") {
        return Err("data.meaning");
    }
    let reference = object(data.get("reference").ok_or("data without reference")?)?;
    only(reference, &["id", "extension", "reference", "type", "identifier", "display"])?;
    let (system, value) = identifier_of(reference.get("identifier").ok_or("data without identifier")?)?;
    if !matches!(system, None | Some(URI | "urn:dicom:uid")) {
        return Err("data.reference.identifier.system");
    }
    let id = value.strip_prefix("urn:oid:").unwrap_or(value);
    // A uniqueId is a UID, with an extension of its own or without; what is neither names nothing.
    let (uid, _) = id.split_once('^').unwrap_or((id, ""));
    if uid.starts_with("urn:uuid:") || ncp_ihe::Uid::parse(uid).is_ok() {
        Ok(id.to_owned())
    } else {
        Err("data of no unit")
    }
}

fn in_force(period: &Value) -> Result<Condition, Unread> {
    let (start, end) = ends(period)?;
    let start = start.map(|text| Moment::read(text).and_then(Moment::start)).transpose()?;
    let end = end.map(|text| Moment::read(text).and_then(Moment::end)).transpose()?;
    if start.zip(end).is_some_and(|(start, end)| start >= end) {
        return Err("a period that ends before it begins");
    }
    Ok(Condition::InForce(start, end))
}

fn days(period: Option<&Value>) -> Result<(String, String), Unread> {
    let (start, end) = ends(period.ok_or("period")?)?;
    let day = |text: Option<&str>, last: bool, or: &str| match text {
        None => Ok(or.to_owned()),
        Some(text) => Moment::read(text).map(|moment| moment.day(last)),
    };
    let (from, to) = (day(start, false, "00000000")?, day(end, true, "99999999")?);
    if from > to { Err("a period that ends before it begins") } else { Ok((from, to)) }
}

fn ends(period: &Value) -> Result<(Option<&str>, Option<&str>), Unread> {
    let period = object(period)?;
    only(period, &["id", "extension", "start", "end"])?;
    let (start, end) = (text(period, "start")?, text(period, "end")?);
    if start.is_none() && end.is_none() { Err("an empty period") } else { Ok((start, end)) }
}

/// A FHIR dateTime: an instant, or a year, month or day that counts whole.
enum Moment {
    Instant(Timestamp, jiff::civil::Date),
    Days(jiff::civil::Date, jiff::civil::Date),
}

impl Moment {
    fn read(text: &str) -> Result<Self, Unread> {
        let wrong = "a date that is none";
        let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        let first = match text.split('-').collect::<Vec<_>>().as_slice() {
            [year] if digits(year, 4) => format!("{text}-01-01"),
            [year, month] if digits(year, 4) && digits(month, 2) => format!("{text}-01"),
            _ => text.to_owned(),
        };
        if text.len() > 10 {
            let instant: Timestamp = text.parse().map_err(|_| wrong)?;
            let day = text.get(..10).and_then(|day| day.parse().ok()).ok_or(wrong)?;
            return Ok(Self::Instant(instant, day));
        }
        let date: jiff::civil::Date = first.parse().map_err(|_| wrong)?;
        let last = match text.len() {
            4 => date.last_of_year(),
            7 => date.last_of_month(),
            10 => date,
            _ => return Err(wrong),
        };
        Ok(Self::Days(date, last))
    }

    fn start(self) -> Result<Timestamp, Unread> {
        match self {
            Self::Instant(at, _) => Ok(at),
            Self::Days(first, _) => midnight(first),
        }
    }

    fn end(self) -> Result<Timestamp, Unread> {
        match self {
            Self::Instant(at, _) => Ok(at),
            Self::Days(_, last) => midnight(last.tomorrow().map_err(|_| "a date that is none")?),
        }
    }

    fn day(&self, last: bool) -> String {
        let date = match self {
            Self::Instant(_, day) => day,
            Self::Days(_, day) if last => day,
            Self::Days(day, _) => day,
        };
        date.strftime("%Y%m%d").to_string()
    }
}

fn midnight(date: jiff::civil::Date) -> Result<Timestamp, Unread> {
    date.to_zoned(jiff::tz::TimeZone::UTC).map(|at| at.timestamp()).map_err(|_| "a date that is none")
}

fn object(value: &Value) -> Result<&Map<String, Value>, Unread> {
    value.as_object().ok_or("an element that is no object")
}

/// No element beside those that are read, and none that changes their meaning.
fn only(object: &Map<String, Value>, read: &[&str]) -> Result<(), Unread> {
    let known = |name: &String| read.contains(&name.as_str());
    if object.keys().all(known) { Ok(()) } else { Err("an element that is not understood") }
}

fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], Unread> {
    match object.get(name) {
        None => Ok(&[]),
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= VALUES => Ok(items),
        Some(_) => Err("a list that is none"),
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Unread> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err("a text that is none"),
    }
}

/// The codings of a CodeableConcept, at least one.
fn codings(concept: &Value) -> Result<Vec<(Option<&str>, &str)>, Unread> {
    let concept = object(concept)?;
    only(concept, &["id", "extension", "coding", "text"])?;
    let all = list(concept, "coding")?.iter().map(coding).collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() { Err("a concept without a code") } else { Ok(all) }
}

fn coding(coding: &Value) -> Result<(Option<&str>, &str), Unread> {
    let coding = object(coding)?;
    only(coding, &["id", "extension", "system", "version", "code", "display", "userSelected"])?;
    Ok((text(coding, "system")?, text(coding, "code")?.ok_or("a coding without a code")?))
}

fn identifier_of(identifier: &Value) -> Result<(Option<&str>, &str), Unread> {
    let identifier = object(identifier)?;
    only(identifier, &["id", "extension", "use", "type", "system", "value", "assigner"])?;
    // An identifier that is no longer in use names somebody else now, or nobody.
    if text(identifier, "use")? == Some("old") || identifier.contains_key("period") {
        return Err("an identifier that is out of use");
    }
    Ok((text(identifier, "system")?, text(identifier, "value")?.ok_or("an identifier without value")?))
}
