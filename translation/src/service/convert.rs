//! Between the wire and the types of this crate.

use ncp_proto::translation as pb;
use tonic::{Code, Status};

use super::errors::status;
use crate::designation;
use crate::document::profile::Profiles;
use crate::document::{Required, Task};
use crate::relationship::{Allowed, Relationship};
use crate::snapshot::{Property, Snapshot};
use crate::translate::{Answer, Issue, Match, Outcome, Unknown};

/// Wider targets unless the caller says otherwise; narrower and related ones never silently.
pub(super) fn allowed(policy: Option<pb::Policy>) -> Allowed {
    match policy {
        None => Allowed::WIDER,
        Some(p) => Allowed {
            wider: p.allow_wider,
            narrower: p.allow_narrower,
            related: p.allow_related,
            fallback: p.allow_fallback,
        },
    }
}

pub(super) fn task(header: &pb::DocumentHeader, profiles: &Profiles) -> Result<Task, Status> {
    let required = match header.policy.map(|p| p.required()) {
        Some(pb::Required::Fail) => Required::Fail,
        Some(pb::Required::NullFlavor) => Required::NullFlavor,
        _ => Required::Keep,
    };
    let direction = match header.direction() {
        pb::Direction::NationalToPivot => crate::document::Direction::ToPivot,
        pb::Direction::PivotToLanguage => {
            let languages: Vec<String> =
                header.language.split(',').map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).take(10).collect();
            if languages.is_empty() || languages.iter().any(|l| l.len() > 64) {
                let message = "the reader's language is required, as a BCP 47 tag";
                return Err(status(Code::InvalidArgument, "UNKNOWN_LANGUAGE", "2505", message, "header.language"));
            }
            crate::document::Direction::ToLanguage(languages)
        }
        pb::Direction::Unspecified => {
            return Err(super::errors::invalid("header.direction", "a direction is required"));
        }
    };
    let profile = profiles.get(&header.profile);
    let profile = profile.ok_or_else(|| super::errors::invalid("header.profile", "unknown profile"))?;
    Ok(Task { direction, allowed: allowed(header.policy), required, profile })
}

pub(super) fn relationship(of: Relationship) -> pb::Relationship {
    match of {
        Relationship::Equivalent => pb::Relationship::Equivalent,
        Relationship::TargetWider => pb::Relationship::TargetWider,
        Relationship::TargetNarrower => pb::Relationship::TargetNarrower,
        Relationship::Related => pb::Relationship::Related,
        Relationship::NotRelated => pb::Relationship::NotRelated,
    }
}

pub(super) fn outcome(of: Outcome) -> pb::Outcome {
    match of {
        Outcome::Mapped => pb::Outcome::Mapped,
        Outcome::MappedApproximate => pb::Outcome::MappedApproximate,
        Outcome::AlreadyTarget => pb::Outcome::AlreadyTarget,
        Outcome::Unmapped => pb::Outcome::Unmapped,
        Outcome::Fallback => pb::Outcome::Fallback,
        Outcome::NeedsContext => pb::Outcome::NeedsContext,
        Outcome::UnknownCode => pb::Outcome::UnknownCode,
        Outcome::InactiveCode => pb::Outcome::InactiveCode,
    }
}

pub(super) fn map_ref(snapshot: &Snapshot, map: u32) -> pb::MapRef {
    let info = snapshot.map(map);
    pb::MapRef { url: info.url.to_owned(), version: info.version.to_owned(), digest: info.digest.to_vec() }
}

pub(super) fn designation(of: designation::Designation) -> pb::Designation {
    pb::Designation {
        own_phrase: of.origin == designation::Origin::Phrase,
        text: of.text,
        language: of.language,
        fallback: of.fallback,
    }
}

pub(super) fn issue(of: &Issue, location: &str) -> pb::Issue {
    pb::Issue {
        severity: if of.error { pb::Severity::Error } else { pb::Severity::Warning } as i32,
        reason: of.reason.to_owned(),
        legacy_code: of.legacy.to_owned(),
        location: location.to_owned(),
    }
}

fn property(of: Property<'_>) -> pb::Property {
    let code = pb::Code {
        system: of.system.to_owned(),
        version: String::new(),
        code: of.value.to_owned(),
        display: of.display.to_owned(),
    };
    pb::Property { name: of.name.to_owned(), text: of.value.to_owned(), code: (!of.system.is_empty()).then_some(code) }
}

pub(super) fn as_match(snapshot: &Snapshot, m: &Match, languages: &[String]) -> pb::Match {
    let asked = [String::from("en")];
    let languages = if languages.is_empty() { &asked } else { languages };
    let named = m.concept.and_then(|c| designation::choose(snapshot, c, languages));
    pb::Match {
        target: Some(pb::Code {
            system: m.system.clone(),
            version: m.version.clone(),
            code: m.code.clone(),
            display: m.display.clone(),
        }),
        relationship: relationship(m.relationship) as i32,
        source_word: m.word.to_owned(),
        via: m.via.iter().map(|v| map_ref(snapshot, *v)).collect(),
        designation: named.map(designation),
        product: m.row.iter().flat_map(|r| snapshot.products(r).map(property).collect::<Vec<_>>()).collect(),
        depends_on: m.row.iter().flat_map(|r| snapshot.depends(r).map(property).collect::<Vec<_>>()).collect(),
        comment: m.row.as_ref().map(|r| snapshot.comment(r).to_owned()).unwrap_or_default(),
        active: m.active,
        fallback: m.fallback,
    }
}

pub(super) fn response(
    snapshot: &Snapshot,
    source: pb::Code,
    answer: &Answer,
    languages: &[String],
    correlation_id: String,
) -> pb::TranslateResponse {
    pb::TranslateResponse {
        outcome: outcome(answer.outcome) as i32,
        source: Some(source),
        matches: answer.matches.iter().map(|m| as_match(snapshot, m, languages)).collect(),
        rejected_by_policy: answer.rejected.iter().map(|m| as_match(snapshot, m, languages)).collect(),
        snapshot: snapshot.digest().to_vec(),
        correlation_id,
        issues: answer.issues.iter().map(|i| issue(i, "")).collect(),
    }
}

pub(super) fn unknown(error: Unknown) -> Status {
    let (reason, legacy, field) = match error {
        Unknown::System => ("CODE_SYSTEM_NOT_FOUND", "4501", "source.system"),
        Unknown::TargetSystem => ("TARGET_CODE_SYSTEM_NOT_FOUND", "4507", "target_system"),
        Unknown::Map => ("MAP_NOT_FOUND", "4500", "map_url"),
    };
    status(Code::NotFound, reason, legacy, &error.to_string(), field)
}
