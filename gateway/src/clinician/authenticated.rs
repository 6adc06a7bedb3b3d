//! Who calls: the token, the proof of what it is bound to, the scope; and then, not before, the call's permit.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use jiff::Timestamp;
use ncp_audit::{Event, PeerFacts};

use super::dpop::Called;
use super::problem::Problem;
use super::token::{self, Bearer, Binding, TokenError};
use super::{Clinic, Context};
use crate::admission::{self, Permit};

/// The proof that a call's token is good and its sender has what it is bound to. `Clinic::bearer` alone makes it.
pub struct Authenticated {
    subject: String,
    address: SocketAddr,
}

impl admission::Authenticated for Authenticated {
    fn subject(&self) -> String {
        self.subject.clone()
    }

    fn address(&self) -> IpAddr {
        self.address.ip()
    }
}

/// A call's permit from its authentication on; whoever has a copy keeps it.
#[derive(Clone, Default)]
pub(super) struct Admitted(Arc<OnceLock<Permit>>);

impl Admitted {
    /// Whether the caller is authenticated and has its permit.
    pub(super) fn is_some(&self) -> bool {
        self.0.get().is_some()
    }
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Admitted").field(&self.0.get().is_some()).finish()
    }
}

impl Clinic {
    /// The caller, with a scope that gives the right (`r` to read, `s` to search) to one of the resources. From here on the
    /// call has a permit; nothing of its body was read before. A bad token leaves a record.
    pub(super) async fn bearer(
        &self,
        context: &Context,
        headers: &HeaderMap,
        (covering, right): (&[(&'static str, &'static str)], char),
        scope: &'static str,
    ) -> Result<Bearer, Problem> {
        let header = ncp_tls::authorization(headers);
        let snapshot = self.app.snapshot.load_full();
        let checked = match &snapshot.tokens {
            Some(tokens) => {
                let now = Timestamp::now();
                let checked = tokens.check(header, &self.config, &self.app.config.gateway, now);
                checked.and_then(|bearer| self.proved(&bearer, headers, context, now).map(|()| bearer))
            }
            None => Err(TokenError::Token(ncp_tls::TokenError::Signature)),
        };
        let (rule, problem) = match checked {
            Ok(bearer) if covering.iter().any(|(name, resource)| bearer.may(name, resource, right)) => {
                let caller = Authenticated { subject: bearer.subject.clone(), address: context.address };
                context.connection.authenticated();
                self.admit(&caller, context).await?;
                return Ok(bearer);
            }
            Ok(_) => ("token lacks the scope".to_owned(), Problem::Scope(scope)),
            // No refusal of the token: nothing is wrong with it.
            Err(TokenError::Busy) => {
                self.app.metrics.shed("clinicians");
                return Err(Problem::Busy);
            }
            Err(error) => (error.to_string(), Problem::Token),
        };
        tracing::info!(ncp.reference = %context.reference, rule, "token refused");
        let peer = PeerFacts { address: context.address.ip().to_string(), ..PeerFacts::default() };
        let address = peer.address.clone();
        let event = Event::UserAuthenticationFailed { rule, peer };
        // Whoever has no token must not be able to fill the spool.
        if let Err(error) = self.app.audit.refused_caller(&event, &context.reference, &address).await {
            tracing::error!(reason = %error, "event not stored");
            return Err(Problem::Internal);
        }
        Err(problem)
    }

    async fn admit(&self, caller: &Authenticated, context: &Context) -> Result<(), Problem> {
        let Some(permit) = self.capacity.enter(caller).await else {
            self.app.metrics.shed("clinicians");
            return Err(Problem::Busy);
        };
        // A call is admitted once.
        let _ = context.admitted.0.set(permit);
        Ok(())
    }

    /// That the caller holds the key or the certificate that the token is bound to, where it is bound.
    fn proved(
        &self,
        bearer: &Bearer,
        headers: &HeaderMap,
        context: &Context,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let thumbprint = match &bearer.binding {
            Binding::Free => return Ok(()),
            Binding::Certificate(bound) => {
                let shown = context.certificate.0.as_ref() == Some(bound);
                return if shown { Ok(()) } else { Err(TokenError::Certificate) };
            }
            Binding::Key(thumbprint) => thumbprint,
        };
        let mut proofs = headers.get_all("dpop").iter();
        let (Some(proof), None) = (proofs.next(), proofs.next()) else { return Err(TokenError::Proof("not one")) };
        let proof = proof.to_str().map_err(|_| TokenError::Proof("form"))?;
        let header = ncp_tls::authorization(headers);
        let (token, _) = token::presented(header).ok_or(TokenError::Token(ncp_tls::TokenError::Missing))?;
        let (method, path) = &context.called;
        let url = format!("{}{path}", self.config.base_url);
        self.proofs.check(
            proof,
            (&bearer.subject, thumbprint),
            &Called { method: method.as_str(), url: &url, token },
            now,
        )
    }
}
