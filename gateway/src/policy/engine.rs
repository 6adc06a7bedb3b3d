//! Cedar: the country's policies, validated strictly when loaded; any evaluation error is a refusal.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    EvaluationError, PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use serde_json::Value;

use super::facts::{Description, Facts};
use crate::identity::{Identity, TransactionName};

/// The schema of principals, actions, resources and context; the same for every country.
const SCHEMA: &str = include_str!("../../policies/ncp.cedarschema");

/// Which of the two decisions is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before anything national is touched.
    LookUp,
    /// For one person, document or study.
    Disclose,
}

/// Cedar's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A permit holds and no forbid does.
    Permit,
    /// Named policies forbid, or none permits.
    Deny(Rules),
    /// A policy could not be evaluated: a refusal and an alarm.
    Failed(String),
}

/// The policies behind a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Their `@id`s.
    pub names: String,
    /// One of them is `@answer("weak-authentication")`: the peer is told 4702.
    pub weak: bool,
}

/// Why a policy folder was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyLoadError {
    /// Folder or file could not be read.
    #[error("cannot read policy folder {path}: {source}")]
    Read {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// No policy file in the folder.
    #[error("no .cedar file in {0}")]
    Empty(String),
    /// A file does not parse.
    #[error("{file}: {message}")]
    Parse {
        /// The file.
        file: String,
        /// Cedar's message.
        message: String,
    },
    /// The set does not fit the schema.
    #[error("policies do not fit the schema: {0}")]
    Invalid(String),
}

/// Attributes that come as often as documents describe a unit.
const DESCRIBED: [&str; 3] = ["classCode", "typeCode", "serviceDate"];

/// A loaded and validated policy set.
pub struct PolicyEngine {
    policies: PolicySet,
    schema: Schema,
    authorizer: Authorizer,
    decisions: AtomicU64,
    /// A policy asks for class, type or date, so that each description of a unit is decided about.
    asks_description: bool,
}

impl PolicyEngine {
    /// Loads every `*.cedar` file of a folder, in name order.
    ///
    /// # Errors
    /// The first file that does not parse, or all findings of strict validation in one text.
    pub fn load(folder: &Path) -> Result<Self, PolicyLoadError> {
        let read = |source| PolicyLoadError::Read { path: folder.display().to_string(), source };
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .map_err(read)?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "cedar"))
            .collect();
        files.sort();
        if files.is_empty() {
            return Err(PolicyLoadError::Empty(folder.display().to_string()));
        }
        let mut text = String::new();
        for file in &files {
            let content = std::fs::read_to_string(file).map_err(read)?;
            PolicySet::from_str(&content).map_err(|error| PolicyLoadError::Parse {
                file: file.display().to_string(),
                message: error.to_string(),
            })?;
            text.push_str(&content);
            text.push('\n');
        }
        Self::parse(&text)
    }

    /// Parses and validates a policy text.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str) -> Result<Self, PolicyLoadError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA)
            .map_err(|error| PolicyLoadError::Invalid(format!("schema: {error}")))?;
        let policies = PolicySet::from_str(text)
            .map_err(|error| PolicyLoadError::Parse { file: "policies".into(), message: error.to_string() })?;
        let result = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        if !result.validation_passed() {
            let findings: Vec<String> = result.validation_errors().map(ToString::to_string).collect();
            return Err(PolicyLoadError::Invalid(findings.join("; ")));
        }
        let json: Vec<Value> = policies
            .policies()
            .map(cedar_policy::Policy::to_json)
            .collect::<Result<_, _>>()
            .map_err(|error| PolicyLoadError::Invalid(error.to_string()))?;
        // With `has` a rule would pass over what is not known, and passing over opens.
        if json.iter().any(|policy| mentions(policy, &|name, _| name == "has")) {
            return Err(PolicyLoadError::Invalid("`has`: every attribute is there or the rule closes".into()));
        }
        let described =
            |name: &str, value: &Value| name == "attr" && value.as_str().is_some_and(|a| DESCRIBED.contains(&a));
        let asks_description = json.iter().any(|policy| mentions(policy, &described));
        let (authorizer, decisions) = (Authorizer::new(), AtomicU64::new(0));
        Ok(Self { policies, schema, authorizer, decisions, asks_description })
    }

    /// Decides. An error in any policy is a `Failed` verdict, since Cedar skips a forbid that fails; a policy that asks for
    /// a fact that nobody told denies.
    pub fn decide(&self, identity: &Identity, transaction: TransactionName, stage: Stage, facts: &Facts) -> Verdict {
        let all = if self.asks_description { facts.descriptions.len() } else { 1 };
        let none = Description::none();
        for description in facts.descriptions.iter().chain([&none]).take(all.max(1)) {
            match self.decide_one(identity, transaction, stage, facts, description) {
                Verdict::Permit => {}
                closed => return closed,
            }
        }
        Verdict::Permit
    }

    fn decide_one(
        &self,
        identity: &Identity,
        transaction: TransactionName,
        stage: Stage,
        facts: &Facts,
        description: &Description,
    ) -> Verdict {
        self.decisions.fetch_add(1, Ordering::Relaxed);
        let (request, entities) = match self.request(identity, transaction, stage, facts, description) {
            Ok(parts) => parts,
            Err(why) => return Verdict::Failed(why),
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        let failed = response.diagnostics().errors().next();
        if let Some(AuthorizationError::PolicyEvaluationError(error)) = failed {
            return match error.inner() {
                EvaluationError::EntityAttrDoesNotExist(_) => {
                    let names = format!("{} asks for what nobody told", self.named(error.policy_id()));
                    Verdict::Deny(Rules { names, weak: false })
                }
                other => Verdict::Failed(other.to_string()),
            };
        }
        match response.decision() {
            Decision::Allow => Verdict::Permit,
            Decision::Deny => Verdict::Deny(self.rules(response.diagnostics().reason())),
        }
    }

    /// How often it was asked to decide since it was loaded.
    pub fn decisions(&self) -> u64 {
        self.decisions.load(Ordering::Relaxed)
    }

    fn rules<'a>(&self, policies: impl Iterator<Item = &'a PolicyId>) -> Rules {
        let (mut names, mut weak) = (Vec::new(), false);
        for id in policies {
            weak |= self.policies.annotation(id, "answer").is_some_and(|a| a == "weak-authentication");
            names.push(self.named(id));
        }
        names.sort();
        Rules { names: if names.is_empty() { "no permit".into() } else { names.join(",") }, weak }
    }

    /// Whether a policy that permits is annotated `@opens("opted-out")`, and this is an emergency: only then is somebody
    /// found who opted out of the service.
    pub fn opens_opted_out(&self, identity: &Identity, transaction: TransactionName) -> bool {
        let facts = Facts::default();
        let Ok((request, entities)) =
            self.request(identity, transaction, Stage::Disclose, &facts, &Description::none())
        else {
            return false;
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        let opens = |id: &PolicyId| self.policies.annotation(id, "opens").is_some_and(|a| a == "opted-out");
        identity.is_emergency()
            && response.decision() == Decision::Allow
            && response.diagnostics().errors().next().is_none()
            && response.diagnostics().reason().any(opens)
    }

    fn named(&self, id: &PolicyId) -> String {
        self.policies.annotation(id, "id").map_or_else(|| id.to_string(), ToString::to_string)
    }

    /// The `@id`s of the policies that decided, for people.
    pub fn reasons(&self, identity: &Identity, transaction: TransactionName, stage: Stage, facts: &Facts) -> Rules {
        match self.decide(identity, transaction, stage, facts) {
            Verdict::Deny(rules) => rules,
            Verdict::Failed(why) => Rules { names: why, weak: false },
            Verdict::Permit => {
                let description = facts.descriptions.first().cloned().unwrap_or_else(Description::none);
                match self.request(identity, transaction, stage, facts, &description) {
                    Ok((request, entities)) => {
                        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
                        self.rules(response.diagnostics().reason())
                    }
                    Err(why) => Rules { names: why, weak: false },
                }
            }
        }
    }

    fn request(
        &self,
        identity: &Identity,
        transaction: TransactionName,
        stage: Stage,
        facts: &Facts,
        description: &Description,
    ) -> Result<(Request, Entities), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let string = |s: &str| RestrictedExpression::new_string(s.to_owned());
        let set = |items: &[String]| RestrictedExpression::new_set(items.iter().map(|s| string(s)));

        let principal = uid("Professional", &identity.user)?;
        let action = uid("Action", transaction.as_str())?;
        let resource = uid("Unit", "unit")?;
        let principal_entity = Entity::new(
            principal.clone(),
            HashMap::from([
                ("country".to_owned(), string(identity.country.as_str())),
                ("role".to_owned(), string(&identity.role)),
                ("organisation".to_owned(), string(identity.organisation.as_deref().unwrap_or_default())),
                ("permissions".to_owned(), set(&identity.permissions)),
            ]),
            Default::default(),
        )
        .map_err(|e| text(&e))?;
        let told = [
            ("kind", Some(string(facts.kind))),
            ("classCode", description.class_code.as_deref().map(string)),
            ("typeCode", description.type_code.as_deref().map(string)),
            ("confidentiality", facts.confidentiality.as_deref().map(set)),
            ("modalities", facts.modalities.as_deref().map(set)),
            ("authorOrganisations", facts.author_organisations.as_deref().map(set)),
            ("serviceDate", description.service_date.as_deref().map(string)),
        ];
        // An attribute that is left out fails the rule that asks for it, and no other.
        let all_told = told.iter().all(|(_, value)| value.is_some());
        let told = told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let resource_entity =
            Entity::new(resource.clone(), told.collect(), Default::default()).map_err(|e| text(&e))?;
        let context = Context::from_pairs([
            ("stage".to_owned(), string(if stage == Stage::LookUp { "look-up" } else { "disclose" })),
            ("purpose".to_owned(), string(&identity.purpose)),
            ("loginPurpose".to_owned(), string(&identity.login_purpose)),
            ("emergency".to_owned(), RestrictedExpression::new_bool(identity.is_emergency())),
            ("stronglyAuthenticated".to_owned(), RestrictedExpression::new_bool(identity.strongly_authenticated)),
            ("nextOfKin".to_owned(), RestrictedExpression::new_bool(identity.next_of_kin)),
        ])
        .map_err(|e| text(&e))?;
        let entities = Entities::from_entities([principal_entity, resource_entity], all_told.then_some(&self.schema))
            .map_err(|e| text(&e))?;
        let request = Request::new(principal, action, resource, context, Some(&self.schema)).map_err(|e| text(&e))?;
        Ok((request, entities))
    }
}

/// Whether a member of a JSON value, at any depth, is one that is looked for.
fn mentions(value: &Value, wanted: &impl Fn(&str, &Value) -> bool) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(name, inner)| wanted(name, inner) || mentions(inner, wanted)),
        Value::Array(items) => items.iter().any(|inner| mentions(inner, wanted)),
        _ => false,
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = EntityTypeName::from_str(kind).map_err(|error| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const DEFAULT: &str = include_str!("../../policies/no/transactions.cedar");

    pub(crate) fn radiologist() -> Identity {
        Identity {
            country: ncp_tls::Country::parse("FI").expect("a country"),
            home_community_id: ncp_ihe::HomeCommunityId::parse("urn:oid:2.999.246").expect("an OID"),
            peer_name: "Finland".into(),
            hcp_id: "_h".into(),
            trc_id: None,
            trc_patient: None,
            user: "u1".into(),
            user_name: "<u1@urn:idp:FI:countryB>".into(),
            subject_name: "Radiologist".into(),
            role: "221".into(),
            role_display: "Medical Doctors".into(),
            role_system: crate::policy::roles::ISCO.into(),
            nok_id: None,
            next_of_kin: false,
            revocation_stale: false,
            organisation: Some("Hospital".into()),
            organisation_id: None,
            locality: "Hospital".into(),
            purpose: "TREATMENT".into(),
            login_purpose: "TREATMENT".into(),
            permissions: ["PRD-003", "PRD-005", "PRD-006", "PRD-010", "PRD-016"].map(Into::into).to_vec(),
            strongly_authenticated: true,
        }
    }

    /// Whether an emergency may be stated after the login is the country's to say.
    #[test]
    fn on_06_a_purpose_after_the_login_is_judged_by_policy() {
        let facts = Facts::default();
        let after = Identity { purpose: "EMERGENCY".into(), ..radiologist() };
        let shipped = PolicyEngine::parse(DEFAULT).expect("shipped policies are valid");
        assert_eq!(shipped.decide(&after, TransactionName::Iti38, Stage::LookUp, &facts), Verdict::Permit);
        let strict = format!(
            "{DEFAULT}\n@id(\"stated-at-login\") forbid (principal, action, resource) \
             when {{ context.purpose != context.loginPurpose }};"
        );
        let strict = PolicyEngine::parse(&strict).expect("a policy");
        match strict.decide(&after, TransactionName::Iti38, Stage::LookUp, &facts) {
            Verdict::Deny(rules) => assert_eq!(rules.names, "stated-at-login"),
            other => panic!("{other:?}"),
        }
        let at_login = Identity { login_purpose: "EMERGENCY".into(), ..after };
        assert_eq!(strict.decide(&at_login, TransactionName::Iti38, Stage::LookUp, &facts), Verdict::Permit);
    }

    #[test]
    fn one_permit_per_transaction_and_role() {
        let engine = PolicyEngine::parse(DEFAULT).expect("shipped policies are valid");
        let doctor = radiologist();
        for transaction in
            [TransactionName::Iti55, TransactionName::Iti38, TransactionName::Iti39, TransactionName::Rad75]
        {
            assert_eq!(engine.decide(&doctor, transaction, Stage::LookUp, &Facts::default()), Verdict::Permit);
        }
        let pharmacist = Identity { role: "2262".into(), ..doctor.clone() };
        let verdict = engine.decide(&pharmacist, TransactionName::Rad75, Stage::LookUp, &Facts::default());
        assert!(matches!(verdict, Verdict::Deny(rules) if rules.names == "no permit" && !rules.weak));
        let unpermitted = Identity { permissions: vec!["PRD-006".into()], ..doctor };
        let verdict = engine.decide(&unpermitted, TransactionName::Iti38, Stage::LookUp, &Facts::default());
        assert!(matches!(verdict, Verdict::Deny(_)));
    }

    #[test]
    fn weak_logins_and_citizens_data() {
        let engine = PolicyEngine::parse(DEFAULT).expect("shipped policies are valid");
        let weak = Identity { strongly_authenticated: false, ..radiologist() };
        let verdict = engine.decide(&weak, TransactionName::Iti38, Stage::LookUp, &Facts::default());
        assert!(matches!(verdict, Verdict::Deny(rules) if rules.weak && rules.names == "weak-login"));
        let emergency = Identity { purpose: "EMERGENCY".into(), ..radiologist() };
        let withheld = Facts { kind: "document", confidentiality: Some(vec!["NORS".into()]), ..Facts::default() };
        let verdict = engine.decide(&emergency, TransactionName::Iti38, Stage::Disclose, &withheld);
        assert!(matches!(verdict, Verdict::Deny(_)), "emergency opens nothing that the patient closed");
        let citizen = Identity { role: "Patient".into(), purpose: "PATRQT".into(), ..radiologist() };
        for code in ["NORU", "NORN_FFL", "NORS"] {
            let deferred = Facts { kind: "document", confidentiality: Some(vec![code.into()]), ..Facts::default() };
            let verdict = engine.decide(&citizen, TransactionName::Iti38, Stage::Disclose, &deferred);
            assert!(matches!(verdict, Verdict::Deny(_)), "{code}");
        }
        let deferred = Facts { kind: "document", confidentiality: Some(vec!["NORU".into()]), ..Facts::default() };
        let verdict = engine.decide(&radiologist(), TransactionName::Iti38, Stage::Disclose, &deferred);
        assert_eq!(verdict, Verdict::Permit, "deferred for the citizen, not for the clinician");
    }

    #[test]
    fn blocked_confidentiality_is_withheld_at_disclosure() {
        let engine = PolicyEngine::parse(DEFAULT).expect("shipped policies are valid");
        let blocked = Facts { kind: "document", confidentiality: Some(vec!["NORS".into()]), ..Facts::default() };
        let verdict = engine.decide(&radiologist(), TransactionName::Iti38, Stage::Disclose, &blocked);
        assert!(matches!(verdict, Verdict::Deny(_)), "{verdict:?}");
    }

    #[test]
    fn a_policy_outside_the_schema_is_not_loaded() {
        let text = "permit(principal, action, resource); forbid(principal, action, resource) when { resource.nosuch };";
        assert!(matches!(PolicyEngine::parse(text), Err(PolicyLoadError::Invalid(_))));
    }
}
