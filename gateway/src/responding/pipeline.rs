//! The stage list of the responding side. Read this first.
//!
//! ```text
//! 0 audit_scope   intent on disk, closed on every way out
//! 1 listener      mutual TLS, limits, load shedding          (before this file)
//! 2 ncp-soap      envelope, WS-Addressing, MTOM/XOP
//! 3 security      signature, trust, binding, replay          => Authenticated<T>
//! 4 itiNN, rad75  decoded request (ncp-ihe)
//! 5 policy        admit                                      => Authorised<LookUp<T>>
//! 6 national      look-ups; policy release per unit          => Authorised<Disclose<U>>
//! 7 translate     pivot metadata and documents
//! 8 outcome       decision on disk, then the reply; parts stream
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use ncp_soap::{Addressing, BoxError, OutPart, SoapError};
use ncp_xml::Element;
use tracing::Instrument;

use super::replay::Seen;
use super::{deliver, iti38, iti39, iti55, rad75, security};
use crate::app::{App, Snapshot};
use crate::audit_scope::{Streamed, Trail, WayBack};
use crate::bounds;
use crate::config::SecurityErrors;
use crate::identity::TransactionName;
use crate::listener::{PeerConnection, Reply};
use crate::outcome::GatewayError;
use crate::telemetry::ExchangeLabels;
pub use crate::wire::Answer;
use crate::wire::{self, Back};

/// What every stage can reach.
pub struct Exchange {
    /// The program.
    pub app: Arc<App>,
    /// Trust, policy and peers as they were when the exchange began.
    pub snapshot: Arc<Snapshot>,
    /// Who is at the other end of TLS.
    pub connection: PeerConnection,
    /// The reference that the peer, the trail and the log share.
    pub reference: String,
}

/// A request after stage 2.
pub struct Message {
    /// As it was read.
    pub request: wire::Request,
    /// Which transaction.
    pub transaction: TransactionName,
}

/// How an exchange is answered.
pub enum Replied {
    /// On its connection.
    Now(Reply),
    /// The message was taken; this carries it out and posts the answer (WS-Addressing asynchronous exchange).
    Later(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// Carries one exchange from its headers to its reply.
pub async fn respond<B>(app: Arc<App>, connection: PeerConnection, path: &str, headers: &HeaderMap, body: B) -> Replied
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = Instant::now();
    let snapshot = app.snapshot.load_full();
    let reference = uuid::Uuid::new_v4().to_string();
    let expected = expected_at(&app, path);
    let exchange = Exchange { app: app.clone(), snapshot, connection, reference };
    let mut trail = match Trail::responding(&exchange, path, expected).await {
        Ok(trail) => trail,
        Err(error) => return Replied::Now(wire::unstarted(&exchange.reference, &error)),
    };
    let span =
        tracing::info_span!("exchange", ncp.reference = %exchange.reference, ncp.transaction = tracing::field::Empty);

    let carried = async {
        let message = read_message(&exchange, path, headers, body).await?;
        tracing::Span::current().record("ncp.transaction", message.transaction.as_str());
        trail.message(message.transaction, &message.request.addressing);
        trail.evidence(&exchange.app, &message.request.bytes);
        let place = match message.request.answer_at {
            // Whoever lets us wait with its answers is told that there are too many of them.
            Some(_) => Some(exchange.app.replies.enter(&exchange.connection).await.ok_or(SoapError::Busy)?),
            None => None,
        };
        Ok::<_, GatewayError>((message, place))
    }
    .instrument(span.clone())
    .await;
    let (message, place) = match carried {
        Ok(carried) => carried,
        Err(error) => {
            // The one line of a message that could not be read; what is refused later is told by `carry_out`.
            let (transaction, peer) =
                (expected.map_or("-", TransactionName::as_str), exchange.connection.peer.as_ref());
            let country = peer.map(|p| p.country.to_string()).unwrap_or_default();
            tracing::info!(ncp.transaction = transaction, ncp.reference = %exchange.reference, %country, reason = %error,
                "message refused");
            let reply = wire::fault(&error, Back::default(), &exchange.reference);
            trail.refused(&error).await;
            measure(&exchange, expected, error.class(), began);
            return Replied::Now(reply);
        }
    };

    let Some(address) = message.request.answer_at.clone() else {
        let Carried { reply, trail, .. } = carry_out(&exchange, &message, trail, began).instrument(span).await;
        if let Some(trail) = trail {
            trail.finish().await;
        }
        return Replied::Now(reply);
    };
    let work = async move {
        let _place = place;
        let Carried { reply, trail, streamed, way_back } = carry_out(&exchange, &message, trail, began).await;
        let delivered = deliver::deliver(&exchange, &address, reply).await;
        if let Err(error) = &delivered {
            tracing::warn!(ncp.reference = %exchange.reference, reason = %error, "answer could not be delivered");
            if let Err(error) = exchange.app.audit.event(&way_back.failed(error), &exchange.reference).await {
                tracing::error!(reason = %error, "event not stored");
            }
        }
        let delivered = delivered.map_err(|error| format!("answer could not be delivered: {error}"));
        match (trail, streamed, delivered) {
            (Some(trail), _, Ok(())) => trail.finish().await,
            (Some(trail), _, Err(why)) => trail.broke_off(&why).await,
            // With parts the trail went with the stream and comes back when that ended.
            (None, Some(streamed), delivered) => {
                if let Ok(Ok(streamed)) = tokio::time::timeout(deliver::WHOLE, streamed).await {
                    streamed.close(delivered).await;
                }
            }
            (None, None, _) => {}
        }
    };
    Replied::Later(Box::pin(work.instrument(span)))
}

/// An exchange that was carried out.
struct Carried {
    reply: Reply,
    /// Still open when the reply is whole and nothing follows it.
    trail: Option<Trail>,
    /// The trail of an answer with parts that is posted, when its stream ended.
    streamed: Option<tokio::sync::oneshot::Receiver<Streamed>>,
    way_back: WayBack,
}

/// Stages 3 to 8 and the reply.
async fn carry_out(exchange: &Exchange, message: &Message, mut trail: Trail, began: Instant) -> Carried {
    let transaction = message.transaction;
    let answered = answer(exchange, message, &mut trail).await;
    let outcome = match &answered {
        Ok(_) => "success",
        Err(error) => error.class(),
    };
    measure(exchange, Some(transaction), outcome, began);
    let way_back = trail.way_back();
    if answered.is_ok() {
        trail.answered(&exchange.app, response_action(message), message.request.back());
    }
    let mut streamed = None;
    let (reply, trail) = match answered {
        Ok(Answer::Simple(body)) => (simple_reply(message, body), Some(trail)),
        Ok(Answer::Listed(found)) => {
            (wire::listed(response_action(message), message.request.back(), found), Some(trail))
        }
        // The trail goes with the stream: its outcome is written after the last byte.
        Ok(Answer::Parts(body, parts)) if message.request.answer_at.is_some() => {
            let (parts, ended) = trail.follow_back(parts);
            streamed = Some(ended);
            (parts_reply(message, body, parts), None)
        }
        Ok(Answer::Parts(body, parts)) => (parts_reply(message, body, trail.follow(parts)), None),
        Err(error) => {
            tracing::info!(ncp.transaction = transaction.as_str(), ncp.reference = %exchange.reference, reason = %error, "refused");
            let (action, reply) = refusal(exchange, message, &error);
            trail.answered(&exchange.app, action, message.request.back());
            trail.refused(&error).await;
            (reply, None)
        }
    };
    Carried { reply, trail, streamed, way_back }
}

/// Stage 2: bounded reading, addressing, dispatch on `wsa:Action` and body element.
async fn read_message<B>(exchange: &Exchange, path: &str, headers: &HeaderMap, body: B) -> Result<Message, GatewayError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let peer = exchange.connection.peer.as_ref();
    let reply_to = peer.and_then(|p| p.asynchronous.as_ref()).and_then(|a| a.peer_reply_to.as_deref());
    // OpenNCP's client leaves WS-Addressing out when its module for it is not engaged (T-SOAP-2 holds for all others).
    let implied = |declared: Option<String>, body: &Element| {
        let is_optional = peer.is_some_and(|peer| peer.addressing_optional());
        let by_body = || action_of(&exchange.app, path, body).map(ToOwned::to_owned);
        if is_optional { declared.or_else(by_body) } else { None }
    };
    let (limits, caller) = (&exchange.app.config.limits, &exchange.connection);
    let request = wire::read(limits, caller, reply_to, headers, body, implied).await?;
    let ours = &exchange.app.config.listener.addresses;
    if !ours.is_empty() {
        request.addressing.check_destination(ours)?;
    }
    let transaction = dispatch(&exchange.app, path, &request.addressing, &request.envelope.body)?;
    bounds::check(&request.envelope.body, &request.bytes)?;
    Ok(Message { request, transaction })
}

/// A transaction as its request shows it: actions, paths, body element.
type Shape<'a> = (TransactionName, &'static [&'static str], &'a [String], (&'static str, &'static str));

fn shapes(app: &App) -> [Shape<'_>; 4] {
    use ncp_ihe::{actions, ns};
    let listener = &app.config.listener;
    let (xcpd, xca, xcai) = (&listener.xcpd_paths, &listener.xca_paths, &listener.xcai_paths);
    let iti55 = &[actions::ITI55_REQUEST, actions::ITI55_DEFERRED_REQUEST];
    [
        (TransactionName::Iti55, iti55, xcpd, (ns::HL7V3, "PRPA_IN201305UV02")),
        (TransactionName::Iti38, &[actions::ITI38_REQUEST], xca, (ns::QUERY, "AdhocQueryRequest")),
        (TransactionName::Iti39, &[actions::ITI39_REQUEST], xca, (ns::XDSB, "RetrieveDocumentSetRequest")),
        (TransactionName::Rad75, &[actions::RAD75_REQUEST], xcai, (ns::XDSI, "RetrieveImagingDocumentSetRequest")),
    ]
}

fn dispatch(app: &App, path: &str, addressing: &Addressing, body: &Element) -> Result<TransactionName, SoapError> {
    let shapes = shapes(app);
    let named = shapes.iter().find(|(_, actions, ..)| actions.contains(&addressing.action.as_str()));
    let (transaction, _, paths, (namespace, local)) = named.ok_or(SoapError::Action)?;
    if !paths.iter().any(|p| p == path) {
        return Err(SoapError::Action);
    }
    if !body.is(namespace, local) {
        return Err(SoapError::ActionMismatch);
    }
    Ok(*transaction)
}

/// The action of a message that names none, by its path and its body element.
fn action_of(app: &App, path: &str, body: &Element) -> Option<&'static str> {
    let fits =
        |(_, _, paths, (namespace, local)): &Shape<'_>| paths.iter().any(|p| p == path) && body.is(namespace, local);
    shapes(app).iter().find(|shape| fits(shape)).and_then(|(_, actions, ..)| actions.first().copied())
}

/// The transaction that a path stands for, before the message is read.
fn expected_at(app: &App, path: &str) -> Option<TransactionName> {
    let listener = &app.config.listener;
    if listener.xcpd_paths.iter().any(|p| p == path) {
        Some(TransactionName::Iti55)
    } else if listener.xca_paths.iter().any(|p| p == path) {
        Some(TransactionName::Iti38)
    } else if listener.xcai_paths.iter().any(|p| p == path) {
        Some(TransactionName::Rad75)
    } else {
        None
    }
}

/// Stages 3 to 8 of one transaction.
async fn answer(exchange: &Exchange, message: &Message, trail: &mut Trail) -> Result<Answer, GatewayError> {
    match message.transaction {
        TransactionName::Iti55 => iti55::respond(exchange, message, trail).await,
        TransactionName::Iti38 => iti38::respond(exchange, message, trail).await,
        TransactionName::Iti39 => iti39::respond(exchange, message, trail).await,
        TransactionName::Rad75 => rad75::respond(exchange, message, trail).await,
    }
}

fn response_action(message: &Message) -> &'static str {
    use ncp_ihe::actions;
    match message.transaction {
        TransactionName::Iti55 if iti55::is_deferred(message) => actions::ITI55_DEFERRED_RESPONSE,
        TransactionName::Iti55 => actions::ITI55_RESPONSE,
        TransactionName::Iti38 => actions::ITI38_RESPONSE,
        TransactionName::Iti39 => actions::ITI39_RESPONSE,
        TransactionName::Rad75 => actions::RAD75_RESPONSE,
    }
}

fn simple_reply(message: &Message, body: Element) -> Reply {
    let (action, back) = (response_action(message), message.request.back());
    match message.transaction {
        TransactionName::Iti39 | TransactionName::Rad75 => {
            wire::mtom(action, back, body, futures_util::stream::empty::<Result<OutPart, BoxError>>())
        }
        TransactionName::Iti55 | TransactionName::Iti38 => wire::simple(action, back, body),
    }
}

fn parts_reply(message: &Message, body: Element, parts: crate::listener::OutParts) -> Reply {
    wire::mtom(response_action(message), message.request.back(), body, parts)
}

/// A refusal in the shape that the transaction and the peer's configuration ask for, and its action.
fn refusal(exchange: &Exchange, message: &Message, error: &GatewayError) -> (&'static str, Reply) {
    let fault = || (ncp_soap::FAULT_ACTION, wire::fault(error, message.request.back(), &exchange.reference));
    let row = error.row();
    let wants_fault = exchange.connection.peer.as_ref().is_some_and(|p| p.security_errors == SecurityErrors::Fault);
    if row.as_fault || (wants_fault && !row.wss.is_empty()) {
        return fault();
    }
    let body = match message.transaction {
        TransactionName::Iti55 => iti55::refusal(exchange, message, error),
        TransactionName::Iti38 => iti38::refusal(exchange, error),
        TransactionName::Iti39 | TransactionName::Rad75 => iti39::refusal(exchange, message.transaction, error),
    };
    match body {
        Some(body) => (response_action(message), simple_reply(message, body)),
        None => fault(),
    }
}

fn measure(exchange: &Exchange, transaction: Option<TransactionName>, outcome: &str, began: Instant) {
    let labels = ExchangeLabels {
        transaction: transaction.map_or("-", TransactionName::as_str).to_owned(),
        role: "responding".into(),
        country: exchange.connection.peer.as_ref().map_or("-".into(), |p| p.country.as_str().to_owned()),
        outcome: outcome.to_owned(),
    };
    exchange.app.metrics.exchange(labels, began.elapsed());
}

/// Stage 3 for a transaction, under its span.
pub(super) async fn authenticate<T>(
    exchange: &Exchange,
    message: &Message,
    request: T,
    trail: &mut Trail,
) -> Result<crate::policy::Authenticated<T>, GatewayError> {
    trail.holds()?;
    let span = tracing::info_span!("security", ncp.transaction = message.transaction.as_str());
    let (authenticated, seen) = security::authenticate(exchange, message, request).instrument(span).await?;
    trail.repeats(seen == Seen::Repeat);
    trail.identified(authenticated.identity());
    if authenticated.identity().revocation_stale {
        trail.recorder().alert("revocation data of the signer are past their time, within the grace");
    }
    Ok(authenticated)
}
