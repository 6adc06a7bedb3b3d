//! Who signed an assertion, where a national issuer sends its chain.

use std::sync::Arc;

use openssl::nid::Nid;
use openssl::x509::X509Ref;

use crate::AssertionError as E;
use crate::structure::Located;
use crate::trust::{SignerIdentity, SignerTrust};
use crate::worker::Checks;

impl Checks {
    /// Who signed an assertion, and the bytes that were digested: trust before any signature is looked at, but for a chain, of
    /// which the first certificate whose key verifies is the signer's and the others help to build its path.
    pub(crate) fn signed(
        &mut self,
        message: &[u8],
        assertion: &Located,
        trust: &dyn SignerTrust,
    ) -> Result<(SignerIdentity, Arc<[u8]>), E> {
        let is_national = trust.is_national();
        if let [only] = assertion.certificates.as_slice() {
            let certificate = &self.signer(only)?.certificate;
            fits_method(certificate, assertion)?;
            let signer = trust.signer(certificate).map_err(E::Trust)?;
            return Ok((signer, self.digested(message, assertion, only, is_national)?));
        }
        let mut refused = E::Signature("does not verify");
        for (index, der) in assertion.certificates.iter().enumerate() {
            let certificate = self.signer(der)?.certificate.clone();
            let digested = match self.digested(message, assertion, der, is_national) {
                Ok(digested) => digested,
                Err(error @ E::Signature(_)) => {
                    refused = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            fits_method(&certificate, assertion)?;
            let mut others = Vec::new();
            for (at, other) in assertion.certificates.iter().enumerate() {
                if at != index {
                    others.push(self.signer(other)?.certificate.clone());
                }
            }
            return Ok((trust.signer_among(&certificate, &others).map_err(E::Trust)?, digested));
        }
        Err(refused)
    }
}

/// ECDSA with SHA-384 is that of P-384.
fn fits_method(certificate: &X509Ref, assertion: &Located) -> Result<(), E> {
    let on_p384 = || {
        let curve = certificate.public_key().and_then(|key| key.ec_key()).map(|key| key.group().curve_name());
        matches!(curve, Ok(Some(Nid::SECP384R1)))
    };
    if assertion.is_p384 && !on_p384() { Err(E::Algorithm("signature.key")) } else { Ok(()) }
}
