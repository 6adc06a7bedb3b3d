//! The X-User Assertion that goes with a call: the foreign professional, vouched for by this country's own seal.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ncp_saml::{Code, SignedAssertion, Signer, XuaClaims, xua_template};

use crate::config::Xua;
use crate::identity::Identity;
use crate::national::NationalError;

/// Long enough for one call.
const LIFE: Duration = Duration::from_secs(300);

/// Issues them.
pub(super) struct Issuer {
    config: Xua,
    signer: Arc<Signer>,
}

impl Issuer {
    pub(super) fn new(config: &Xua, signer: Arc<Signer>) -> Self {
        Self { config: config.clone(), signer }
    }

    pub(super) async fn assertion(&self, identity: &Identity) -> Result<SignedAssertion, NationalError> {
        let id = format!("_{}", uuid::Uuid::new_v4());
        let template = xua_template(&id, &claims(&self.config, identity), Timestamp::now(), LIFE);
        let signed = self.signer.sign(&id, template).await;
        signed.map_err(|_| NationalError::down("assertion could not be issued"))
    }
}

fn claims(config: &Xua, identity: &Identity) -> XuaClaims {
    let purpose = if identity.is_emergency() { ("ETREAT", "emergency treatment") } else { ("TREAT", "treatment") };
    XuaClaims {
        issuer: config.issuer.clone(),
        audience: config.audience.clone(),
        name_id: identity.user.clone(),
        subject_name: identity.subject_name.clone(),
        role: Code {
            code: identity.role.clone(),
            system: "2.16.840.1.113883.2.9.6.2.7".into(),
            system_name: "ISCO".into(),
            display: identity.role_display.clone(),
        },
        organisation: identity.organisation.clone(),
        organisation_id: identity.organisation_id.clone(),
        home_community_id: identity.home_community_id.to_string(),
        purpose: Code {
            code: purpose.0.into(),
            system: "2.16.840.1.113883.1.11.20448".into(),
            system_name: "PurposeOfUse".into(),
            display: purpose.1.into(),
        },
        patient: identity.trc_patient.as_ref().map(ncp_ihe::PatientId::to_cx),
        authn_context_class: config.authn_context_class.clone(),
        typed_codes: config.typed_codes,
    }
}
