//! Between two gateways during the check: keeps every request for the schemas, and cuts an answer when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ncp_soap::{BoxError, MessageLimits};
use ncp_tests::messages::{Capture, Origin};
use ncp_tls::{ClientAuth, HttpClient, Material};
use ncp_xml::REQUESTS;
use tokio::net::TcpListener;

use crate::Error;
use crate::demo::{Country, Demo, offset};

/// A relay in front of one country's gateway. It shows that country's server certificate to the asking gateway and the
/// asking country's client certificate to the one that is asked.
pub(crate) struct Relay {
    /// Bytes after which the next answer to RAD-75 breaks off; 0: none.
    cut: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Towards {
    http: HttpClient<Full<Bytes>>,
    origin: String,
    capture: Option<Capture>,
    cut: Arc<AtomicU64>,
}

type Body = UnsyncBoxBody<Bytes, BoxError>;

impl Relay {
    /// Listens and leads the asking country's gateway here, by its configuration; it must not have started yet.
    pub(crate) async fn between(demo: &Demo, asking: &Country, holding: &Country) -> Result<Self, Error> {
        let (own, other) = if asking.code == "fi" { (&demo.fi, &demo.no) } else { (&demo.no, &demo.fi) };
        let (peers, port) = (offset(holding.code) + 443, offset(holding.code) + 462);
        let path = demo.dir.join(asking.code).join("gateway.toml");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, text.replace(&format!("localhost:{peers}/"), &format!("localhost:{port}/")))?;

        let server = Material::load(&other.path("tls-server.pem"), &other.path("tls-server.key"))?;
        let acceptor = server.acceptor(ClientAuth::Required, &[own.path("anchors.pem")], b"\x08http/1.1")?;
        let client = Material::load(&own.path("tls-client.pem"), &own.path("tls-client.key"))?;
        let connector = client.connector(&[other.path("anchors.pem")], b"\x08http/1.1")?;
        let cut = Arc::new(AtomicU64::new(0));
        let towards = Arc::new(Towards {
            http: ncp_tls::http_client(connector, None, Duration::from_secs(10)),
            origin: format!("https://localhost:{peers}"),
            capture: Capture::from_environment()?,
            cut: cut.clone(),
        });
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, towards) = (acceptor.clone(), towards.clone());
                tokio::spawn(async move {
                    let Ok(stream) = ncp_tls::accept(&acceptor, tcp, Duration::from_secs(10)).await else { return };
                    let service = service_fn(move |request| pass(towards.clone(), request));
                    // A cut answer ends the connection with an error, as it should.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { cut, task })
    }

    /// The next answer to RAD-75 ends after so many bytes.
    pub(crate) fn cut_next_study_after(&self, bytes: u64) {
        self.cut.store(bytes, Ordering::Release);
    }
}

async fn pass(towards: Arc<Towards>, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await?.to_bytes();
    let path = head.uri.path().to_owned();
    let mut onward = Request::post(format!("{}{path}", towards.origin));
    for (name, value) in head.headers.iter().filter(|(name, _)| name.as_str().starts_with("content-")) {
        onward = onward.header(name, value);
    }
    let answer = towards.http.request(onward.body(Full::new(bytes.clone()))?).await?;
    // What did not reach the other gateway is no message.
    if let Some(capture) = &towards.capture {
        let message =
            ncp_soap::read_message(&head.headers, Full::new(bytes), &MessageLimits::default(), REQUESTS.charge(""))
                .await?;
        let announced = head.headers.get(hyper::header::CONTENT_TYPE);
        let xop = announced.is_some_and(|t| t.as_bytes().starts_with(b"multipart/"));
        capture.envelope(xop, Origin::Gateway, &message.root)?;
    }
    let cut = if path.contains("xcai") { towards.cut.swap(0, Ordering::AcqRel) } else { 0 };
    let mut left = if cut == 0 { u64::MAX } else { cut };
    Ok(answer.map(|body| {
        // Counting stands before the error: what was passed until then has gone.
        let stream = BodyStream::new(body).map(move |frame| -> Result<Frame<Bytes>, BoxError> {
            let frame = frame?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            left = left.checked_sub(bytes).ok_or_else(|| BoxError::from("cut here"))?;
            Ok(frame)
        });
        BodyExt::boxed_unsync(StreamBody::new(stream))
    }))
}
