//! Consent resources of FHIR R4 and R5 as rules. Every element of an active Consent is read, or the answer is an error:
//! what is passed over in a permission opens.
//!
//! R4: `policyRule` is the base, the root provision an exception to it or its scope, nested provisions exceptions to what
//! stands above them. HL7's and IHE's own examples write a type at the root, with and without a `policyRule`; both are
//! read. Without a base a root that permits closes everything else, and one that denies closes what it names. R5:
//! `decision` is the base, `provision` are exceptions, and each level reverses the one above.

use ncp_ihe::PatientId;
use serde_json::{Map, Value};

use super::country::country;
use super::element::{Unread, coding, codings, identifier_of, list, object, only, referenced, text};
use super::file::document_id;
use super::period::{days, in_force};
use super::rule::{Actor, CONFIDENTIALITY, Condition, Content, Decision, Label, Purpose, Rule, is_loinc};

/// Provisions inside provisions.
const DEPTH: usize = 8;
/// Provisions of all Consents of one patient.
const PROVISIONS: usize = 5_000;

const COUNTRIES: &str = "urn:iso:std:iso:3166";
const URI: &str = "urn:ietf:rfc:3986";
const ACT_CODE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
const PARTICIPATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
const CONFIDENTIALITY_SYSTEMS: [&str; 2] =
    ["http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "urn:oid:2.16.840.1.113883.5.25"];
const SCOPES: &str = "http://terminology.hl7.org/CodeSystem/consentscope";
const CATEGORIES: &str = "http://terminology.hl7.org/CodeSystem/consentcategorycodes";
const ACTIONS: &str = "http://terminology.hl7.org/CodeSystem/consentaction";
const RESOURCES: &str = "http://hl7.org/fhir/resource-types";
const LOINC: &str = "http://loinc.org";

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
    let mut reader = Reader { left: PROVISIONS, literal: None };
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
    /// The patient's resource, where Consents name it by its address alone.
    literal: Option<String>,
}

/// The type and the id of a resource at a server, without its base and version.
fn plain_reference(literal: &str) -> String {
    let unversioned = literal.split("/_history/").next().unwrap_or(literal);
    let mut last: Vec<&str> = unversioned.rsplit('/').take(2).collect();
    last.reverse();
    last.join("/")
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
        for reference in named {
            if let Some(literal) = of_patient(consent, reference, patient)? {
                let other = self.literal.replace(plain_reference(literal));
                if other.is_some() && other != self.literal {
                    return Err("Consents of several patients");
                }
            }
        }
        for verification in list(consent, "verification")? {
            if verification.get("verified").and_then(Value::as_bool) != Some(true) {
                return Err("Consent.verification");
            }
        }
        // Who must agree is not who receives.
        if consent.contains_key("grantee") {
            return Err("Consent.grantee");
        }
        let in_force = consent.get("period").map(in_force).transpose()?;
        let provision = consent.get("provision");
        let is_r5 = consent.contains_key("decision") || provision.is_some_and(Value::is_array);
        let mut rule = if is_r5 { self.r5(consent)? } else { self.r4(consent)? };
        rule.conditions.extend(in_force);
        Ok(Some(rule))
    }

    fn r5(&mut self, consent: &Map<String, Value>) -> Result<Rule, Unread> {
        if consent.contains_key("policyRule") {
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

/// By scope and category: a consent to research, to a treatment or an advance directive decides nothing here. One that
/// says both is an error.
fn is_about_service(consent: &Map<String, Value>) -> Result<bool, Unread> {
    let mut by_scope = None;
    if let Some(scope) = consent.get("scope") {
        for coding in codings(scope)? {
            let about = match coding {
                (Some(SCOPES) | None, "patient-privacy") => true,
                (Some(SCOPES) | None, "research" | "adr" | "treatment") => false,
                _ => return Err("Consent.scope"),
            };
            if by_scope.replace(about).is_some_and(|other| other != about) {
                return Err("Consent.scope");
            }
        }
    }
    let mut by_category = None;
    for category in list(consent, "category")? {
        for coding in codings(category)? {
            let about = match coding {
                // A consent of any kind.
                (Some(LOINC), "59284-0") => continue,
                (Some(LOINC), "57016-8" | "57017-6" | "64292-6" | "83930-8") => true,
                (Some(ACT_CODE), "INFA" | "INFACCESS" | "INFAO" | "IDSCL" | "INFASO" | "ICOL") => true,
                (Some(ACT_CODE), "RESEARCH" | "RSDID" | "RSREID") => false,
                (Some(CATEGORIES), "infa" | "npp") => true,
                (Some(CATEGORIES), "acd" | "dnr" | "hcd" | "polst" | "research" | "rsdid" | "rsreid") => false,
                _ => return Err("Consent.category"),
            };
            if by_category.replace(about).is_some_and(|other| other != about) {
                return Err("Consent.category");
            }
        }
    }
    match (by_scope, by_category) {
        (Some(true), Some(false)) => Err("Consent.category of another scope"),
        (by_scope, by_category) => Ok(by_scope.or(by_category).unwrap_or(true)),
    }
}

/// The server was asked for this patient's; an identifier that says another is an error, and so are references to two.
fn of_patient<'a>(
    consent: &'a Map<String, Value>,
    reference: &'a Value,
    patient: &PatientId,
) -> Result<Option<&'a str>, Unread> {
    let reference = referenced(reference)?;
    let is_patient = |identifier: &Value| -> Result<bool, Unread> {
        let (system, value) = identifier_of(identifier)?;
        let system = system.and_then(|system| system.strip_prefix("urn:oid:"));
        Ok(value == patient.extension && system == Some(patient.root.as_str()))
    };
    let mut same = reference.get("identifier").map(is_patient).transpose()?;
    let literal = text(reference, "reference")?;
    if let Some(id) = literal.and_then(|literal| literal.strip_prefix('#')) {
        let named = |resource: &&Value| resource.get("id").and_then(Value::as_str) == Some(id);
        let contained = list(consent, "contained")?.iter().find(named).ok_or("Consent.patient")?;
        let identifiers = list(object(contained)?, "identifier")?;
        let one = identifiers.iter().any(|identifier| is_patient(identifier) == Ok(true));
        same = Some(one && same != Some(false));
    }
    match (same, literal) {
        (Some(true), _) => Ok(None),
        (Some(false), _) => Err("Consent of another patient"),
        (None, Some(literal)) => Ok(Some(literal)),
        (None, None) => Err("Consent.patient"),
    }
}

fn conditions(provision: &Map<String, Value>) -> Result<Vec<Condition>, Unread> {
    // Content by SNOMED CT or an expression cannot be compared with what is known of a document.
    if ["code", "expression"].iter().any(|name| provision.contains_key(*name)) {
        return Err("provision by content");
    }
    let mut out = Vec::new();
    out.extend(provision.get("period").map(in_force).transpose()?);
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
    for name in ["class", "resourceType", "documentType"] {
        let kinds = each(name)?.iter().map(|kind| content(coding(kind)?)).collect::<Result<Vec<_>, _>>()?;
        out.extend((!kinds.is_empty()).then_some(Condition::Content(kinds)));
    }
    if let Some(period) = provision.get("dataPeriod") {
        out.push(Condition::DataPeriod(days(period)?));
    }
    let mut add = |present: bool, condition: Condition| out.extend(present.then_some(condition));
    add(!actors.is_empty(), Condition::Actor(actors));
    add(!purposes.is_empty(), Condition::Purpose(purposes));
    add(!labels.is_empty(), Condition::Label(labels));
    add(!units.is_empty(), Condition::Unit(units));
    add(!actions.is_empty(), Condition::Disclosure(actions.contains(&true)));
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
    let reference = referenced(actor.get("reference").ok_or("actor without reference")?)?;
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
        | "HSYSADMIN" | "MEMADMIN" | "COVERAGE" => Ok(Purpose::Other),
        _ => Err("provision.purpose"),
    }
}

fn label(label: &Value) -> Result<Label, Unread> {
    let (system, code) = coding(label)?;
    let rank = CONFIDENTIALITY.iter().position(|c| *c == code);
    let is_hl7 = system.is_some_and(|system| CONFIDENTIALITY_SYSTEMS.contains(&system));
    match (system, rank) {
        (None, Some(rank)) => Ok(Label::UpTo(rank)),
        (Some(_), Some(rank)) if is_hl7 => Ok(Label::UpTo(rank)),
        (Some(_), None) if is_hl7 => Err("provision.securityLabel"),
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
    let reference = referenced(data.get("reference").ok_or("data without reference")?)?;
    let (system, value) = identifier_of(reference.get("identifier").ok_or("data without identifier")?)?;
    if !matches!(system, None | Some(URI | "urn:dicom:uid")) {
        return Err("data.reference.identifier.system");
    }
    document_id(value).ok_or("data of no unit")
}
