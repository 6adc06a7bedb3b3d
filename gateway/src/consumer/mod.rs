//! NCP-B towards national XDS consumers: ITI-18, ITI-43 and RAD-69 in, ITI-38, ITI-39 and RAD-75 out (IHE's grouping of an
//! Initiating Gateway with XDS.b consumers, ITI TF-1: 18).
//!
//! ```text
//! 1 listener   mutual TLS of a national anchor, limits
//! 2 wire       envelope, WS-Addressing; dispatch on path, action and body
//! 3 security   XUA assertion => who asks; TRC assertion or resource-id => the treatment
//! 4 query      ITI-18, to one community or to all that know the patient   => initiating
//!   sts        WS-Trust: a TRC assertion for an HCP identity assertion, as OpenNCP's TRC-STS
//!   retrieve   ITI-43 and RAD-69, by homeCommunityId                       => initiating
//! 5 outcome    decision on disk, then the reply; parts stream
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use ncp_audit::Transaction;
use ncp_ihe::actions;
use ncp_soap::SoapError;
use ncp_tls::TlsStream;
use openssl::x509::X509;
use tokio::net::TcpListener;

use crate::admission::Capacity;
use crate::app::{App, Snapshot};
use crate::audit_scope::Trail;
use crate::bounds;
use crate::config;
use crate::identity::TransactionName;
use crate::listener::{self, PeerConnection, Reply, serve_connection};
use crate::outcome::GatewayError;
use crate::telemetry::ExchangeLabels;
use crate::wire::{self, Answer};

mod query;
mod retrieve;
mod security;
mod sts;

/// The transactions of national consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Registry Stored Query.
    Iti18,
    /// Retrieve Document Set.
    Iti43,
    /// Retrieve Imaging Document Set.
    Rad69,
}

impl Asked {
    fn as_str(self) -> &'static str {
        match self {
            Self::Iti18 => "ITI-18",
            Self::Iti43 => "ITI-43",
            Self::Rad69 => "RAD-69",
        }
    }

    /// What it becomes towards another country.
    fn across(self) -> TransactionName {
        match self {
            Self::Iti18 => TransactionName::Iti38,
            Self::Iti43 => TransactionName::Iti39,
            Self::Rad69 => TransactionName::Rad75,
        }
    }

    fn response_action(self) -> &'static str {
        match self {
            Self::Iti18 => actions::ITI18_RESPONSE,
            // RAD-69 answers with the action of ITI-43.
            Self::Iti43 | Self::Rad69 => actions::ITI43_RESPONSE,
        }
    }
}

impl From<Asked> for Transaction {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Iti18 => Self::Iti18,
            Asked::Iti43 => Self::Iti43,
            Asked::Rad69 => Self::Rad69,
        }
    }
}

/// The consumers' side.
pub struct Consumers {
    app: Arc<App>,
    config: config::Consumer,
    capacity: Capacity,
}

/// The certificate that a consumer's handshake brought, and what came with it.
struct Shown {
    leaf: X509,
    sent: Vec<X509>,
}

/// One exchange and what its stages can reach.
struct Exchange {
    consumers: Arc<Consumers>,
    snapshot: Arc<Snapshot>,
    connection: PeerConnection,
    reference: String,
}

impl Consumers {
    /// Nothing is bound.
    pub fn new(app: Arc<App>, config: &config::Consumer) -> Self {
        let capacity = listener::capacity(&app.config.limits);
        Self { app, config: config.clone(), capacity }
    }

    /// Whether a client certificate is good under the trust of this moment, which a reload and time change.
    fn knows(&self, shown: &Shown) -> bool {
        let snapshot = self.app.snapshot.load();
        let trust = snapshot.consumers.as_ref();
        trust.is_some_and(|trust| trust.clients.verify(&shown.leaf, &shown.sent).is_ok())
    }

    fn expected_at(&self, path: &str) -> Option<Asked> {
        let config = &self.config;
        let at = [
            (&config.query_paths, Asked::Iti18),
            (&config.retrieve_paths, Asked::Iti43),
            (&config.imaging_paths, Asked::Rad69),
        ];
        at.into_iter().find(|(paths, _)| paths.iter().any(|p| p == path)).map(|(_, asked)| asked)
    }

    fn token_at(&self, path: &str) -> Option<sts::Token> {
        let at = [(&self.config.trc_paths, sts::Token::Trc), (&self.config.nok_paths, sts::Token::Nok)];
        at.into_iter().find(|(paths, _)| paths.iter().any(|p| p == path)).map(|(_, token)| token)
    }
}

/// Accepts consumers until the drain begins.
pub async fn serve(consumers: Arc<Consumers>, listener: TcpListener) {
    let app = consumers.app.clone();
    let acceptor = move || app.snapshot.load().consumers.as_ref().map(|trust| trust.acceptor.clone());
    let (bounds, drain) = (consumers.app.config.limits.bounds(), consumers.app.drain.clone());
    ncp_tls::accept_until(listener, acceptor, bounds, drain.stopping(), move |accepted, address| {
        let consumers = consumers.clone();
        async move {
            match accepted {
                Ok(stream) => connection(consumers, stream, address).await,
                Err(error) => listener::handshake_failed(&consumers.app, address, &error.to_string()).await,
            }
        }
    })
    .await;
}

async fn connection(consumers: Arc<Consumers>, stream: TlsStream, address: SocketAddr) {
    let Some(certificate) = ncp_tls::peer_certificate(&stream).map(Arc::new) else { return };
    let Some(leaf) = stream.ssl().peer_certificate() else { return };
    let sent = stream.ssl().peer_cert_chain().map(|c| c.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
    let shown = Arc::new(Shown { leaf, sent });
    // The handshake built a path; revocation, use and strength are checked here.
    if !consumers.knows(&shown) {
        listener::handshake_failed(&consumers.app, address, "certificate is of no national consumer").await;
        return;
    }
    let Ok(own) = stream.local_addr() else { return };
    let who = PeerConnection::national(certificate, address, own);
    let app = consumers.app.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (consumers, who, good) = (consumers.clone(), who.clone(), consumers.knows(&shown));
        async move {
            let reply = match good {
                true => listener::to_known(exchange(consumers, who, request).await),
                false => listener::no_longer(),
            };
            Ok::<_, std::convert::Infallible>(reply)
        }
    });
    serve_connection(stream, service, &app).await;
}

async fn exchange(consumers: Arc<Consumers>, connection: PeerConnection, request: Request<Incoming>) -> Reply {
    if request.method() != Method::POST {
        return listener::empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(permit) = consumers.capacity.enter(&connection).await else {
        consumers.app.metrics.shed("consumers");
        return listener::busy();
    };
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let asked = match (consumers.expected_at(path), consumers.token_at(path)) {
        (Some(asked), _) => Ok(asked),
        (None, Some(token)) => Err(token),
        (None, None) => return listener::unread(StatusCode::NOT_FOUND),
    };
    let exchange = Exchange {
        snapshot: consumers.app.snapshot.load_full(),
        consumers,
        connection,
        reference: uuid::Uuid::new_v4().to_string(),
    };
    let reply = match asked {
        Ok(asked) => respond(exchange, asked, path, &parts.headers, body).await,
        Err(token) => sts::respond(&exchange, token, &parts.headers, body).await,
    };
    listener::held_by(permit, reply)
}

/// Carries one exchange from its headers to its reply.
async fn respond(exchange: Exchange, asked: Asked, path: &str, headers: &HeaderMap, body: Incoming) -> Reply {
    let began = Instant::now();
    let (app, reference) = (exchange.consumers.app.clone(), exchange.reference.clone());
    let mut trail = match Trail::consumer(&app, &reference, asked.into(), (&exchange.connection, path)).await {
        Ok(trail) => trail,
        Err(error) => return wire::unstarted(&reference, &error),
    };
    let measure = |outcome: &str| {
        let labels = ExchangeLabels {
            transaction: asked.as_str().to_owned(),
            role: "consumer".to_owned(),
            country: app.config.gateway.country.to_string(),
            outcome: outcome.to_owned(),
        };
        app.metrics.exchange(labels, began.elapsed());
    };
    let read = wire::read(&app.config.limits, &exchange.connection, None, headers, body, |_, _| None).await;
    let bounded = |request: wire::Request| {
        let request = dispatched(asked, request)?;
        bounds::check(&request.envelope.body, &request.bytes)?;
        Ok::<_, GatewayError>(request)
    };
    let request = match read.and_then(bounded) {
        Ok(request) => request,
        Err(error) => {
            tracing::info!(ncp.transaction = asked.as_str(), ncp.reference = %reference, reason = %error,
                "message refused");
            trail.refused(&error).await;
            measure(error.class());
            return wire::fault(&error, wire::Back::default(), &reference);
        }
    };
    trail.message(asked, &request.addressing);
    trail.evidence(&app, &request.bytes);
    let back = request.back();
    let answered = match asked {
        Asked::Iti18 => query::respond(&exchange, &request, &mut trail).await,
        Asked::Iti43 | Asked::Rad69 => retrieve::respond(&exchange, asked, &request, &mut trail).await,
    };
    match answered {
        Ok(answer) => {
            measure("success");
            trail.answered(&app, asked.response_action(), back);
            match answer {
                Answer::Simple(body) => {
                    trail.finish().await;
                    wire::simple(asked.response_action(), back, body)
                }
                Answer::Listed(found) => {
                    trail.finish().await;
                    wire::listed(asked.response_action(), back, found)
                }
                Answer::Parts(body, parts) => wire::mtom(asked.response_action(), back, body, trail.follow(parts)),
            }
        }
        Err(error) => {
            tracing::info!(ncp.transaction = asked.as_str(), ncp.reference = %reference, reason = %error, "refused");
            let reply = refusal(asked, &error, back, &reference);
            trail.refused(&error).await;
            measure(error.class());
            reply
        }
    }
}

fn dispatched(asked: Asked, request: wire::Request) -> Result<wire::Request, SoapError> {
    let (action, namespace, local) = match asked {
        Asked::Iti18 => (actions::ITI18_REQUEST, ncp_ihe::ns::QUERY, "AdhocQueryRequest"),
        Asked::Iti43 => (actions::ITI43_REQUEST, ncp_ihe::ns::XDSB, "RetrieveDocumentSetRequest"),
        Asked::Rad69 => (actions::RAD69_REQUEST, ncp_ihe::ns::XDSI, "RetrieveImagingDocumentSetRequest"),
    };
    if request.addressing.action != action {
        return Err(SoapError::Action);
    }
    if !request.envelope.body.is(namespace, local) {
        return Err(SoapError::ActionMismatch);
    }
    Ok(request)
}

/// Security refusals are faults (ITI TF-2: 3.40.4.1.3), all others stand in the response.
fn refusal(asked: Asked, error: &GatewayError, back: wire::Back<'_>, reference: &str) -> Reply {
    use ncp_ihe::{QueryResponse, RegistryObjects, RetrieveResponse, Status};
    let row = error.row();
    if row.as_fault || !row.wss.is_empty() {
        return wire::fault(error, back, reference);
    }
    let errors = vec![error.registry_error(asked.across(), None, reference)];
    let (action, status) = (asked.response_action(), Status::Failure);
    match asked {
        Asked::Iti18 => {
            let body = QueryResponse { status, errors, objects: RegistryObjects::default(), object_refs: Vec::new() };
            wire::simple(action, back, body.to_element())
        }
        Asked::Iti43 | Asked::Rad69 => {
            let body = RetrieveResponse { status, errors, documents: Vec::new() }.to_element();
            wire::mtom(action, back, body, futures_util::stream::empty())
        }
    }
}
