//! Bounded HTTP GET of configured addresses: plain, or TLS with anchors of its own. No redirect is followed.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ncp_tls::HttpClient;

/// A client of one server.
pub enum HttpGet {
    /// `http://`
    Plain(Client<HttpConnector, Empty<Bytes>>),
    /// `https://`
    Tls(HttpClient<Empty<Bytes>>),
}

impl HttpGet {
    /// Plain without anchors, else TLS to a server that they vouch for.
    ///
    /// # Errors
    /// Anchors.
    pub fn new(anchors: Option<&Path>, handshake: Duration) -> Result<Self, String> {
        let Some(anchors) = anchors else {
            return Ok(Self::Plain(Client::builder(TokioExecutor::new()).build(HttpConnector::new())));
        };
        let connector = ncp_tls::anonymous_connector(&[anchors.to_owned()], b"\x08http/1.1");
        Ok(Self::Tls(ncp_tls::http_client(connector.map_err(|e| e.to_string())?, None, handshake)))
    }

    /// The body of a 200, at most `most` bytes.
    ///
    /// # Errors
    /// Address, network, another status, size, time; no text of the server's.
    pub async fn get(
        &self,
        url: &str,
        accept: &'static str,
        authorization: Option<&str>,
        most: usize,
        patience: Duration,
    ) -> Result<Bytes, String> {
        let uri: Uri = url.parse().map_err(|_| "address".to_owned())?;
        let mut request = Request::get(uri).header(header::ACCEPT, accept);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).map_err(|_| "address".to_owned())?;
        let work = async {
            let response = match self {
                Self::Plain(client) => client.request(request).await,
                Self::Tls(client) => client.request(request).await,
            };
            let response = response.map_err(|_| "cannot be reached".to_owned())?;
            if response.status() != http::StatusCode::OK {
                return Err(format!("HTTP {}", response.status().as_u16()));
            }
            let body = Limited::new(response.into_body(), most).collect().await;
            body.map(|body| body.to_bytes()).map_err(|_| "body broke off or is too large".to_owned())
        };
        tokio::time::timeout(patience, work).await.map_err(|_| "no answer in time".to_owned())?
    }
}
