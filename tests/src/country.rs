//! A country as a gateway that asks sees it: a TLS server with that country's certificate which answers SOAP as told, or
//! does not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ncp_soap::{Addressing, BoxError, Envelope, MessageLimits, OutPart};
use ncp_tls::{ClientAuth, HttpClient, Material};
use ncp_xml::{Element, Limits, REQUESTS};
use tokio::net::TcpListener;

use crate::cases::Recorded;
use crate::pki::{CountryPki, Error};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `wsa:Action`.
    pub action: String,
    /// `wsa:MessageID`.
    pub message_id: Option<String>,
    /// Address of `wsa:ReplyTo`.
    pub reply_to: Option<String>,
    /// Whether it came as a XOP package.
    pub xop: bool,
    /// `wsa:RelatesTo`.
    pub relates_to: Option<String>,
    /// Bytes of the envelope.
    pub envelope: Bytes,
    /// The body element.
    pub body: Element,
}

/// What the country does.
pub enum Reaction {
    /// Simple SOAP: action and body.
    Simple(&'static str, Element),
    /// MTOM: action, body, parts as Content-ID, media type, bytes.
    Parts(&'static str, Element, Vec<(String, &'static str, Bytes)>),
    /// As `Parts`, broken off after so many bytes.
    Cut(Box<Reaction>, usize),
    /// Waits first.
    Late(Duration, Box<Reaction>),
    /// Takes the message and posts the answer to its ReplyTo (WS-Addressing asynchronous exchange).
    Elsewhere(Box<Reaction>),
    /// The same, taken by a 202 with this body: none is an empty one in chunks, which ends when the answer was taken.
    Acknowledged(Option<Recorded>, Box<Reaction>),
    /// The bytes of an answer of another system.
    Recorded(Recorded),
    /// The same, declared to be in a content coding.
    Coded(Box<Reaction>, &'static str),
    /// The same under an HTTP status, with the seconds after which to come again where it says so.
    Under(u16, Option<u64>, Box<Reaction>),
    /// An HTTP status without a body.
    Status(u16),
    /// Too busy (503), and the seconds after which to come again.
    Busy(u64),
}

type React = dyn Fn(&Asked) -> Reaction + Send + Sync;
type Body = UnsyncBoxBody<Bytes, BoxError>;
type Http = HttpClient<Body>;

/// A running country; it stops when it is dropped.
pub struct Country {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Country {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Country {
    /// Starts it on a port of its own. It wants a client certificate that leads to `asking`.
    ///
    /// # Errors
    /// Files, OpenSSL, the network.
    pub async fn start(
        pki: &CountryPki,
        asking: &Path,
        react: impl Fn(&Asked) -> Reaction + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        Self::start_at(0, pki, asking, react).await
    }

    /// The same on a given port: one that comes back.
    ///
    /// # Errors
    /// Files, OpenSSL, the network.
    pub async fn start_at(
        port: u16,
        pki: &CountryPki,
        asking: &Path,
        react: impl Fn(&Asked) -> Reaction + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let material = Material::load(&pki.path("tls-server.pem"), &pki.path("tls-server.key"))?;
        let client = Material::load(&pki.path("tls-client.pem"), &pki.path("tls-client.key"))?;
        let connector = client.connector(&[asking.to_owned()], b"\x08http/1.1")?;
        let http: Http = ncp_tls::http_client(connector, None, Duration::from_secs(10));
        let acceptor = material.acceptor(ClientAuth::Required, &[asking.to_owned()], b"\x08http/1.1")?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, react): (_, Arc<React>) = (asked.clone(), Arc::new(react));
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, seen, react, http) = (acceptor.clone(), seen.clone(), react.clone(), http.clone());
                tokio::spawn(async move {
                    let Ok(stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(10)).await else { return };
                    let service = service_fn(move |request| {
                        let (seen, react, http) = (seen.clone(), react.clone(), http.clone());
                        async move { Ok::<_, Infallible>(serve(request, &seen, &*react, http).await) }
                    });
                    // A cut answer ends the connection with an error, as it should.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { address, asked, task })
    }

    /// `https://localhost:port` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }
}

async fn serve(request: Request<Incoming>, seen: &Mutex<Vec<Asked>>, react: &React, http: Http) -> Response<Body> {
    match read(request).await {
        Ok(asked) => {
            seen.lock().unwrap_or_else(|p| p.into_inner()).push(asked.clone());
            match react(&asked) {
                Reaction::Elsewhere(then) => {
                    tokio::spawn(post(*then, asked, http));
                    status(StatusCode::ACCEPTED)
                }
                Reaction::Acknowledged(with, then) => {
                    let id = asked.message_id.clone();
                    let posted = tokio::spawn(post(*then, asked, http));
                    let mut taken = match with {
                        Some(recorded) => reply(Reaction::Recorded(recorded), id.as_deref()).await,
                        // A stream has no length, so that its zero octets are framed by chunks.
                        None => {
                            let end = futures_util::stream::once(posted).filter_map(async |_| None);
                            Response::new(BodyExt::boxed_unsync(StreamBody::new(Box::pin(end))))
                        }
                    };
                    *taken.status_mut() = StatusCode::ACCEPTED;
                    taken
                }
                now => reply(now, asked.message_id.as_deref()).await,
            }
        }
        Err(_) => status(StatusCode::BAD_REQUEST),
    }
}

async fn post(then: Reaction, asked: Asked, http: Http) {
    let (head, body) = reply(then, asked.message_id.as_deref()).await.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).cloned();
    let Some((content_type, address)) = content_type.zip(asked.reply_to) else { return };
    if let Ok(request) = Request::post(address).header(header::CONTENT_TYPE, content_type).body(body) {
        // What became of it is seen at the other end.
        let _ = http.request(request).await;
    }
}

async fn read(request: Request<Incoming>) -> Result<Asked, Error> {
    let (head, body) = request.into_parts();
    let mut message =
        ncp_soap::read_message(&head.headers, body, &MessageLimits::default(), REQUESTS.charge("")).await?;
    message.parts.drain(1 << 20).await?;
    let envelope = Envelope::read(&message.root, &Limits::REQUEST)?;
    let wsa = ncp_soap::ns::WSA;
    let text = |local| envelope.headers.iter().find(|h| h.is(wsa, local)).map(Element::trimmed);
    let reply_to = envelope.headers.iter().find(|h| h.is(wsa, "ReplyTo")).and_then(|h| h.child(wsa, "Address"));
    Ok(Asked {
        action: text("Action").ok_or("no Action")?,
        message_id: text("MessageID"),
        reply_to: reply_to.map(Element::trimmed),
        xop: head.headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"multipart/")),
        relates_to: text("RelatesTo"),
        envelope: message.root.clone(),
        body: envelope.body,
    })
}

fn reply<'a>(
    reaction: Reaction,
    relates: Option<&'a str>,
) -> Pin<Box<dyn Future<Output = Response<Body>> + Send + 'a>> {
    Box::pin(async move {
        match reaction {
            Reaction::Simple(action, body) => {
                let bytes = Envelope { headers: Addressing::response(action, relates).to_headers(), body }.write();
                let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
                soap(ncp_soap::soap_content_type(action), body)
            }
            Reaction::Parts(action, body, parts) => {
                let root = Envelope { headers: Addressing::response(action, relates).to_headers(), body }.write();
                let parts = parts.into_iter().map(|(content_id, media_type, bytes)| {
                    let data = futures_util::stream::once(async { Ok::<_, BoxError>(bytes) }).boxed();
                    Ok(OutPart { content_id, media_type: media_type.to_owned(), data })
                });
                let (content_type, body) = ncp_soap::mtom_response(root, futures_util::stream::iter(parts));
                soap(content_type, body)
            }
            Reaction::Recorded(recorded) => {
                let Recorded { content_type, body } = recorded.relating_to(relates.unwrap_or_default());
                let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
                let content_type = http::HeaderValue::try_from(content_type);
                soap(content_type.unwrap_or(http::HeaderValue::from_static("text/plain")), body)
            }
            Reaction::Cut(whole, bytes) => reply(*whole, relates).await.map(|body| {
                let mut left = bytes;
                // A pause between frames, so that what comes before the cut has left.
                let stream = BodyStream::new(body).then(move |frame| {
                    let checked = frame.and_then(|frame| {
                        let length = frame.data_ref().map_or(0, Bytes::len);
                        left = left.checked_sub(length).ok_or_else(|| BoxError::from("cut here"))?;
                        Ok::<Frame<Bytes>, BoxError>(frame)
                    });
                    async move {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        checked
                    }
                });
                BodyExt::boxed_unsync(StreamBody::new(stream))
            }),
            Reaction::Coded(then, coding) => {
                let mut answer = reply(*then, relates).await;
                answer.headers_mut().insert(header::CONTENT_ENCODING, http::HeaderValue::from_static(coding));
                answer
            }
            Reaction::Under(code, after, then) => {
                let mut answer = reply(*then, relates).await;
                *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                if let Some(after) = after {
                    answer.headers_mut().insert(header::RETRY_AFTER, after.into());
                }
                answer
            }
            Reaction::Late(wait, then) => {
                tokio::time::sleep(wait).await;
                reply(*then, relates).await
            }
            // Only the country itself can post; inside another reaction it says nothing.
            Reaction::Elsewhere(_) | Reaction::Acknowledged(..) => status(StatusCode::ACCEPTED),
            Reaction::Status(code) => status(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
            Reaction::Busy(after) => {
                let mut busy = status(StatusCode::SERVICE_UNAVAILABLE);
                busy.headers_mut().insert(header::RETRY_AFTER, after.into());
                busy
            }
        }
    })
}

fn soap(content_type: http::HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
