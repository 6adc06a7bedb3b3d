//! Cases beside the policies: a request and what the policies must say to it, in a TOML file. `ncp policy` runs them, and
//! so does a test of this crate.

use std::path::Path;

use serde::Deserialize;

use super::engine::{PolicyEngine, Stage, Verdict};
use super::facts::{Description, Facts};
use crate::identity::{Identity, TransactionName};

/// A file of cases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    /// The cases.
    #[serde(default)]
    pub case: Vec<Case>,
}

/// One request and the verdict it must get.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// `ITI-38` and so on.
    pub transaction: String,
    /// `look-up` or `disclose`.
    #[serde(default = "look_up")]
    pub stage: String,
    /// Country of treatment.
    #[serde(default = "finland")]
    pub country: String,
    /// ISCO code, or `Patient`.
    #[serde(default = "doctor")]
    pub role: String,
    /// Organisation that asks.
    #[serde(default)]
    pub organisation: String,
    /// Last components, as `PRD-006`.
    #[serde(default = "usual")]
    pub permissions: Vec<String>,
    /// `TREATMENT`, `EMERGENCY`, `PATRQT`.
    #[serde(default = "treatment")]
    pub purpose: String,
    /// That of the login; none: the same.
    #[serde(default)]
    pub login_purpose: Option<String>,
    /// Whether the login was two-factor.
    #[serde(default = "yes")]
    pub strong: bool,
    /// Whether a next-of-kin assertion came along.
    #[serde(default)]
    pub next_of_kin: bool,
    /// Whether the person opted out of the service.
    #[serde(default)]
    pub opted_out: bool,
    /// `document`, `manifest`, `study`; empty at look-up.
    #[serde(default)]
    pub kind: String,
    /// classCode. Of a document, manifest or study an attribute that a case does not say is one that nobody told.
    pub class_code: Option<String>,
    /// typeCode.
    pub type_code: Option<String>,
    /// confidentialityCodes.
    pub confidentiality: Option<Vec<String>>,
    /// Modalities.
    pub modalities: Option<Vec<String>>,
    /// Names and identifiers of the authors' organisations.
    pub author_organisations: Option<Vec<String>>,
    /// `YYYYMMDD`
    pub service_date: Option<String>,
    /// `permit` or `deny`; absent in a request that is only explained.
    pub expect: Option<String>,
    /// The `@id` that must be among the reasons.
    pub rule: Option<String>,
}

/// What the policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `permit`, `deny` or `failed`.
    pub verdict: &'static str,
    /// The `@id`s of the policies that decided.
    pub rules: String,
}

impl Cases {
    /// Reads a file.
    ///
    /// # Errors
    /// Unreadable, or not of this form.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        toml::from_str(&text).map_err(|e| format!("{}: {}", path.display(), e.message()))
    }
}

/// A case as the policies are asked it.
pub struct Question {
    identity: Identity,
    transaction: TransactionName,
    stage: Stage,
    facts: Facts,
}

impl Question {
    /// What the policies decide.
    pub fn ask(&self, engine: &PolicyEngine) -> Verdict {
        engine.decide(&self.identity, self.transaction, self.stage, &self.facts)
    }
}

impl Case {
    /// The look-up that a verified HCP assertion asks for.
    pub fn of(transaction: &str, hcp: &ncp_saml::HcpAssertion, next_of_kin: bool) -> Self {
        Self {
            name: "message".into(),
            transaction: transaction.into(),
            stage: look_up(),
            country: hcp.issuer.split(':').nth(2).unwrap_or_default().into(),
            role: hcp.role.code.clone(),
            organisation: hcp.organisation.clone().unwrap_or_default(),
            permissions: hcp.permissions.clone(),
            purpose: hcp.purpose.as_str().into(),
            login_purpose: None,
            strong: hcp.strongly_authenticated,
            next_of_kin,
            opted_out: false,
            kind: String::new(),
            class_code: None,
            type_code: None,
            confidentiality: None,
            modalities: None,
            author_organisations: None,
            service_date: None,
            expect: None,
            rule: None,
        }
    }

    /// Asks the policies.
    ///
    /// # Errors
    /// A transaction, stage, country or kind that is none.
    pub fn ask(&self, engine: &PolicyEngine) -> Result<Said, String> {
        let question = self.question()?;
        if self.opted_out && !engine.opens_opted_out(&question.identity, question.transaction) {
            return Ok(Said { verdict: "deny", rules: "opted out".into() });
        }
        let verdict = match question.ask(engine) {
            Verdict::Permit => "permit",
            Verdict::Deny(_) => "deny",
            Verdict::Failed(_) => "failed",
        };
        let Question { identity, transaction, stage, facts } = question;
        Ok(Said { verdict, rules: engine.reasons(&identity, transaction, stage, &facts).names })
    }

    /// What a gateway would ask.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn question(&self) -> Result<Question, String> {
        let none = |what: &str| format!("{}: no such {what}", self.name);
        let transaction =
            [TransactionName::Iti55, TransactionName::Iti38, TransactionName::Iti39, TransactionName::Rad75]
                .into_iter()
                .find(|t| t.as_str() == self.transaction)
                .ok_or_else(|| none("transaction"))?;
        let stage = match self.stage.as_str() {
            "look-up" => Stage::LookUp,
            "disclose" => Stage::Disclose,
            _ => return Err(none("stage")),
        };
        let kind = ["", "document", "manifest", "study"].into_iter().find(|k| *k == self.kind);
        let kind = kind.ok_or_else(|| none("kind"))?;
        // A person, and a request before its look-up, have none of these.
        let unsaid = if kind.is_empty() { Facts::default() } else { Facts::unknown(kind) };
        let description = unsaid.descriptions.first().cloned().unwrap_or_else(Description::none);
        let facts = Facts {
            kind,
            confidentiality: self.confidentiality.clone().or(unsaid.confidentiality),
            modalities: self.modalities.clone().or(unsaid.modalities),
            author_organisations: self.author_organisations.clone().or(unsaid.author_organisations),
            descriptions: vec![Description {
                class_code: self.class_code.clone().or(description.class_code),
                type_code: self.type_code.clone().or(description.type_code),
                service_date: self.service_date.clone().or(description.service_date),
            }],
            incomplete: false,
        };
        let identity = self.identity().ok_or_else(|| none("country"))?;
        Ok(Question { identity, transaction, stage, facts })
    }

    /// Whether the policies say what is expected.
    pub fn holds(&self, said: &Said) -> bool {
        let ruled = self.rule.as_ref().is_none_or(|rule| said.rules.split(',').any(|r| r == rule));
        self.expect.as_deref().is_none_or(|expected| expected == said.verdict) && ruled
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            country: ncp_tls::Country::parse(&self.country).ok()?,
            home_community_id: ncp_ihe::HomeCommunityId::parse("urn:oid:2.999").ok()?,
            peer_name: self.country.clone(),
            hcp_id: "_case".into(),
            trc_id: None,
            trc_patient: None,
            user: "case".into(),
            user_name: "<case>".into(),
            subject_name: "case".into(),
            role: self.role.clone(),
            role_display: String::new(),
            role_system: super::roles::ISCO.into(),
            nok_id: None,
            next_of_kin: self.next_of_kin,
            revocation_stale: false,
            organisation: Some(self.organisation.clone()),
            organisation_id: None,
            locality: String::new(),
            purpose: self.purpose.clone(),
            login_purpose: self.login_purpose.clone().unwrap_or_else(|| self.purpose.clone()),
            permissions: self.permissions.clone(),
            strongly_authenticated: self.strong,
        })
    }
}

fn look_up() -> String {
    "look-up".into()
}
fn finland() -> String {
    "FI".into()
}
fn doctor() -> String {
    "221".into()
}
fn treatment() -> String {
    "TREATMENT".into()
}
fn yes() -> bool {
    true
}
fn usual() -> Vec<String> {
    ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"].map(Into::into).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name)
    }

    /// The example for emergencies holds alone and beside the shipped policies, which open nobody without it.
    #[test]
    fn se_18_who_opted_out_is_found_in_an_emergency_by_policy_alone() {
        let example = shipped("examples/opted-out-in-an-emergency");
        let cases = Cases::load(&example.join("cases.toml")).expect("cases").case;
        let said = |engine: &PolicyEngine, case: &Case| case.ask(engine).expect("a case");
        let alone = PolicyEngine::load(&example).expect("policies");
        let permits = cases.iter().filter(|case| case.expect.as_deref() == Some("permit")).count();
        assert!(permits >= 3 && cases.len() - permits >= 4);
        for country in ["no", "fi"] {
            let read = |path: std::path::PathBuf| std::fs::read_to_string(path).expect("reads");
            let without = read(shipped(country).join("transactions.cedar"));
            let with = PolicyEngine::parse(&(without.clone() + &read(example.join("opted-out.cedar")))).expect("fits");
            let without = PolicyEngine::parse(&without).expect("fits");
            for case in &cases {
                assert!(case.holds(&said(&alone, case)) && case.holds(&said(&with, case)), "{country}: {}", case.name);
                assert_eq!(said(&without, case).verdict, "deny", "{country}: {}", case.name);
            }
        }
    }

    #[test]
    fn the_shipped_cases_hold() {
        for country in ["no", "fi"] {
            let folder = shipped(country);
            let engine = PolicyEngine::load(&folder).expect("policies");
            let cases = Cases::load(&folder.join("cases.toml")).expect("cases");
            assert!(cases.case.len() >= 20, "{country}");
            for case in &cases.case {
                let said = case.ask(&engine).expect("a case");
                assert!(case.holds(&said), "{country}: {}: {said:?}", case.name);
            }
        }
    }
}
