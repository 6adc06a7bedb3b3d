//! What a patient has closed: opted out as a whole, or blocked document by document.

use ncp_ihe::PatientId;

use super::consent::{ConsentError, ConsentSource, ServiceConsent};
use super::decide::Resource;
use crate::identity::Identity;

/// Whether this unit is closed towards whoever asks. The work done does not depend on the answer.
///
/// # Errors
/// When the consent source cannot say; the caller refuses.
pub async fn is_blocked<R: Resource>(
    consent: &ConsentSource,
    patient: &PatientId,
    resource: &R,
    identity: &Identity,
) -> Result<bool, ConsentError> {
    let opted_out = consent.service_consent(patient, &identity.country).await? == ServiceConsent::OptedOut;
    let keys = consent.blocked_keys(patient, &identity.country).await?;
    let named = resource.block_keys().iter().any(|key| keys.contains(key));
    Ok(opted_out | named)
}
