//! NCP-B towards other countries: Initiating Gateway and Initiating Imaging Gateway.
//!
//! ```text
//! Caller, Treatment   facts of a clinician's call, from a verified token and a sealed base
//! Call::begin         intent and decision on disk                     (audit_scope)
//! Call::send          assertions issued, message sent, answer read     (peers)
//! discover, query, retrieve, images   one file a transaction; what came is checked before it is used
//! ask_all             several countries at once; relay passes their documents on as they come
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::Timestamp;
use ncp_audit::HumanRequestor;
use ncp_ihe::PatientId;
use ncp_saml::{HcpClaims, SignedAssertion, TrcClaims};
use ncp_soap::{BoxError, Parts};
use ncp_xml::Element;
use tokio::sync::oneshot;

use crate::app::{App, Snapshot};
use crate::audit_scope::{Recorder, Trail};
use crate::config::Peer;
use crate::identity::TransactionName;
use crate::outcome::GatewayError;
use crate::soap_client::{AnswerBody, Elsewhere, Listed};
use crate::telemetry::ExchangeLabels;
use crate::whole::Holder;

pub mod announced;
pub mod asynchronous;
pub mod codes;
pub mod discover;
pub mod guard;
pub mod images;
pub mod peers;
pub mod query;
pub mod relay;
pub mod retrieve;
pub mod told;

use guard::Found;
pub use peers::PeerError;
use peers::{Outgoing, PeerAnswer};

/// Life of an HCP identity assertion.
const HCP_LIFE: Duration = Duration::from_secs(4 * 3600);
/// How long, and how often, a country that is busy is waited for; beyond that the caller is told when to come again.
const BUSY: Duration = Duration::from_secs(6);
const BUSY_TIMES: usize = 2;
/// What must be left for its answer then: a call that is cut short would be told as a country that does not answer.
const ANSWERING: Duration = Duration::from_secs(2);

/// The health professional of one call. The assertion is issued from these facts at every sending, with the same ID
/// and instant, so that nothing has to be kept between calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Under what she has her share of what all share: the issuer and subject of her token, or the consumer that calls for her.
    pub share: String,
    /// What the HCP identity assertion says.
    pub claims: HcpClaims,
    /// Its ID.
    pub hcp_id: String,
    /// Its instant.
    pub issued: Timestamp,
}

/// A confirmed treatment relationship, from which the TRC assertion is issued.
#[derive(Debug, Clone)]
pub struct Treatment {
    /// The patient as the country of affiliation knows her.
    pub patient: PatientId,
    /// ID of the TRC assertion.
    pub trc_id: String,
    /// Its instant.
    pub issued: Timestamp,
    /// Its end.
    pub until: Timestamp,
}

impl Caller {
    /// As the trail names the professional.
    pub fn requestor(&self) -> HumanRequestor {
        let claims = &self.claims;
        HumanRequestor {
            user_name: format!("<{}@urn:idp:{}:countryB>", claims.name_id, claims.country),
            display: claims.subject_name.clone(),
            role: (claims.role.code.clone(), claims.role.system.clone(), claims.role.display.clone()),
            organisation: claims.organisation.clone(),
        }
    }
}

/// An answer whose root was read, with what ends when it was read.
pub struct Answered {
    /// The body element.
    pub body: Element,
    /// What of it was read apart.
    pub listed: Listed,
    /// What follows.
    pub parts: Parts<AnswerBody>,
    /// Kept until the answer was read.
    pub held: Held,
}

/// What ends when an answer was read: its call's place, and the connection over which the country brought it.
pub struct Held {
    _place: guard::Place,
    _taken: Option<oneshot::Sender<()>>,
}

/// One exchange with one country.
pub struct Call {
    /// The program.
    pub app: Arc<App>,
    /// Trust and peers as they were when the clinician's call began.
    pub snapshot: Arc<Snapshot>,
    /// The other country.
    pub peer: Arc<Peer>,
    /// Who asks.
    pub caller: Caller,
    /// For whom; none in ITI-55.
    pub treatment: Option<Treatment>,
    /// How long the user is ready to wait for ITI-55 or ITI-38; none: as configured.
    pub wait: Option<Duration>,
}

impl Call {
    /// Intent and decision are on disk when this returns; nothing was sent yet.
    ///
    /// # Errors
    /// The peer does not serve the transaction; the record could not be stored.
    async fn begin(
        &self,
        transaction: TransactionName,
        describe: impl FnOnce(&mut Trail),
    ) -> Result<Trail, GatewayError> {
        let endpoint = self.endpoint(transaction)?;
        let mut trail = Trail::initiating(&self.app, transaction, &self.peer, endpoint).await?;
        trail.asked_by(self.caller.requestor(), self.caller.claims.purpose.as_str());
        if let Some(treatment) = &self.treatment {
            trail.patient(&treatment.patient);
        }
        describe(&mut trail);
        match trail.decided().await {
            Ok(()) => Ok(trail),
            Err(error) => {
                trail.refused(&error).await;
                Err(error)
            }
        }
    }

    /// For whom its documents are held.
    pub fn holder(&self) -> Holder {
        Holder::new(format_args!("of {}", self.peer.country), &self.caller.share)
    }

    fn endpoint(&self, transaction: TransactionName) -> Result<&str, PeerError> {
        endpoint(&self.peer, transaction)
    }

    /// Issues the assertions, sends one message, reads the root of its answer.
    ///
    /// A query or a document that did not reach the country is asked for once more, within the same time (R-RT-1). A country
    /// that is busy and says for how short a time is asked again after it: it has begun nothing. The call has its permit in
    /// the country's bulkhead until the answer is dropped.
    ///
    /// # Errors
    /// [`PeerError`] as [`GatewayError`]; the seal.
    async fn send(
        &self,
        transaction: TransactionName,
        body: Element,
        recorder: &Recorder,
    ) -> Result<Answered, GatewayError> {
        let pass = self.app.guards.enter(self.peer.country, transaction, &self.caller.share).await?;
        let began = Instant::now();
        let assertions = self.assertions().await?;
        let route = self.snapshot.routes.get(&self.peer.country).ok_or(PeerError::NotServed)?;
        let patience = self.patience(transaction);
        let own_reply_to = self.peer.asynchronous.as_ref().and_then(|a| a.own_reply_to.as_deref());
        let (pending, country) = (&self.app.pending, self.peer.country);
        let message = Outgoing {
            country,
            limits: &self.app.config.limits,
            route,
            endpoint: self.endpoint(transaction)?,
            transaction,
            assertions: &assertions,
            elsewhere: own_reply_to.map(|address| Elsewhere { address, pending, country }),
            evidence: self.app.audit.keeps_evidence().then_some(recorder),
            trail: recorder,
        };
        let mut answer = peers::send(&message, body.clone(), patience).await;
        let (mut unreachable, mut busy) = (0, 0);
        loop {
            let pause = match &answer {
                Err(PeerError::Unreachable(_)) if transaction != TransactionName::Rad75 && unreachable == 0 => {
                    unreachable += 1;
                    Duration::from_millis(50)
                }
                Err(PeerError::Later(after))
                    if *after <= BUSY && busy < BUSY_TIMES && began.elapsed() + *after + ANSWERING <= patience =>
                {
                    busy += 1;
                    *after
                }
                _ => break,
            };
            let pause = pause + Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_bytes()[0]));
            let Some(left) = patience.checked_sub(began.elapsed() + pause) else { break };
            tokio::time::sleep(pause).await;
            answer = peers::send(&message, body.clone(), left).await;
        }
        let outcome = match &answer {
            Ok(_) => "success",
            Err(_) => "failed",
        };
        let labels = ExchangeLabels {
            transaction: transaction.as_str().to_owned(),
            role: "initiating".to_owned(),
            country: self.peer.country.to_string(),
            outcome: outcome.to_owned(),
        };
        self.app.metrics.exchange(labels, began.elapsed());
        let place = pass.answered(&answer);
        if answer.as_ref().is_err_and(PeerError::opens_a_circuit) {
            self.seek(transaction);
        }
        let PeerAnswer { body, listed, parts, taken } = answer?;
        Ok(Answered { body, listed, parts, held: Held { _place: place, _taken: taken } })
    }

    /// Looks for the country until it is back, by the addresses that are configured by then, each of them once.
    fn seek(&self, transaction: TransactionName) {
        let (app, country) = (Arc::downgrade(&self.app), self.peer.country);
        self.app.guards.seek(country, transaction, move |transactions| {
            let app = app.clone();
            async move {
                let nowhere = |transactions: Vec<_>| transactions.into_iter().map(|t| (t, Found::NoLonger)).collect();
                let Some(app) = app.upgrade() else { return nowhere(transactions) };
                let snapshot = app.snapshot.load_full();
                let (peer, route) = (snapshot.peers.by_country(country), snapshot.routes.get(&country));
                let Some((peer, route)) = peer.zip(route) else { return nowhere(transactions) };
                let mut served: BTreeMap<String, (&str, Vec<TransactionName>)> = BTreeMap::new();
                let mut found: Vec<(TransactionName, Found)> = Vec::new();
                for transaction in transactions {
                    let endpoint = endpoint(peer, transaction).ok();
                    match endpoint.and_then(|endpoint| Some((host_of(endpoint)?, endpoint))) {
                        Some((host, endpoint)) => {
                            served.entry(host).or_insert((endpoint, Vec::new())).1.push(transaction)
                        }
                        None => found.push((transaction, Found::NoLonger)),
                    }
                }
                let looks = served.values().map(|(endpoint, _)| peers::look(route, endpoint));
                for (looked, (_, of)) in join_all(looks).await.into_iter().zip(served.values()) {
                    found.extend(of.iter().map(|transaction| (*transaction, looked)));
                }
                found
            }
        });
    }

    /// Time until the root of an answer.
    fn patience(&self, transaction: TransactionName) -> Duration {
        let limits = &self.app.config.limits;
        let general = match transaction {
            TransactionName::Iti55 => limits.discovery,
            TransactionName::Iti38 => limits.query,
            TransactionName::Iti39 | TransactionName::Rad75 => limits.first_byte,
        };
        let asynchronous = self.peer.asynchronous.as_ref().filter(|a| a.own_reply_to.is_some());
        let of_peer = self.peer.deadline().or(asynchronous.map(|a| a.wait));
        let is_search = matches!(transaction, TransactionName::Iti55 | TransactionName::Iti38);
        match (self.wait.filter(|_| is_search), of_peer) {
            (Some(wait), Some(longest)) => wait.min(longest),
            (Some(patience), None) | (None, Some(patience)) => patience,
            (None, None) => general,
        }
    }

    async fn assertions(&self) -> Result<Vec<SignedAssertion>, GatewayError> {
        let sealed = |_| GatewayError::Internal("assertion could not be issued");
        let Caller { claims, hcp_id, issued, .. } = &self.caller;
        let mut out = vec![self.snapshot.signer.issue_hcp(hcp_id, claims, *issued, HCP_LIFE).await.map_err(sealed)?];
        if let Some(treatment) = &self.treatment {
            let facts = TrcClaims {
                country: claims.country,
                name_id: claims.name_id.clone(),
                hcp_id: hcp_id.clone(),
                patient: treatment.patient.to_cx(),
                purpose: claims.purpose,
            };
            let Treatment { trc_id, issued, until, .. } = treatment;
            out.push(self.snapshot.signer.issue_trc(trc_id, &facts, *issued, *until).await.map_err(sealed)?);
        }
        Ok(out)
    }
}

fn endpoint(peer: &Peer, transaction: TransactionName) -> Result<&str, PeerError> {
    let endpoint = match transaction {
        TransactionName::Iti55 => &peer.xcpd,
        TransactionName::Iti38 | TransactionName::Iti39 => &peer.xca,
        TransactionName::Rad75 => &peer.xcai,
    };
    endpoint.as_deref().ok_or(PeerError::NotServed)
}

/// Host and port of an address.
fn host_of(endpoint: &str) -> Option<String> {
    endpoint.parse::<http::Uri>().ok()?.authority().map(ToString::to_string)
}

/// Asks several countries at once. The answers come in the order of the calls, when the last has answered or failed: each
/// call ends by its own deadline. A call goes on to its end, and onto the trail, also when nobody waits any more.
///
/// # Errors
/// Those of each call, in its place.
pub async fn ask_all<T, F, Answered>(
    calls: impl IntoIterator<Item = Arc<Call>>,
    mut ask: F,
) -> Vec<(Arc<Call>, Result<T, GatewayError>)>
where
    T: Send + 'static,
    F: FnMut(Arc<Call>) -> Answered,
    Answered: Future<Output = Result<T, GatewayError>> + Send + 'static,
{
    let asked: Vec<_> = calls.into_iter().map(|call| (tokio::spawn(ask(call.clone())), call)).collect();
    let mut out = Vec::with_capacity(asked.len());
    for (task, call) in asked {
        let answered = task.await.unwrap_or(Err(GatewayError::Internal("a call ended early")));
        out.push((call, answered));
    }
    out
}

/// Ends a trail as its result says.
async fn close<T>(trail: Trail, result: Result<T, GatewayError>) -> Result<T, GatewayError> {
    match &result {
        Ok(_) => trail.finish().await,
        Err(error) => trail.refused(error).await,
    }
    result
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> BoxError {
    Box::new(error)
}
