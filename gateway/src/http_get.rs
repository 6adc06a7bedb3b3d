//! Bounded HTTP GET of configured addresses: plain, or TLS with anchors of its own. No redirect is followed.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use ncp_tls::HttpClient;

/// The one content coding that our clients take. Without the field a server may choose any (RFC 9110 12.5.3).
pub const IDENTITY: &str = "identity";

/// A content coding other than none: what it is called, without anything that would spoil a log.
pub fn coding(headers: &HeaderMap) -> Option<String> {
    let named = headers.get_all(header::CONTENT_ENCODING).iter();
    let named = named.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    let other = named.filter(|name| !name.is_empty()).find(|name| !name.eq_ignore_ascii_case(IDENTITY.as_bytes()))?;
    Some(crate::soap_client::code_only(&String::from_utf8_lossy(other)))
}

/// A client of one server.
pub enum HttpGet {
    /// `http://`
    Plain(Box<Client<HttpConnector, Empty<Bytes>>>),
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
            return Ok(Self::Plain(Box::new(ncp_tls::http_builder().build(HttpConnector::new()))));
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
        let identity = HeaderValue::from_static(IDENTITY);
        let mut request = Request::get(uri).header(header::ACCEPT, accept).header(header::ACCEPT_ENCODING, identity);
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
            if let Some(coding) = coding(response.headers()) {
                return Err(format!("answered in the content coding {coding}, which was not asked for"));
            }
            let body = Limited::new(response.into_body(), most).collect().await;
            body.map(|body| body.to_bytes()).map_err(|_| "body broke off or is too large".to_owned())
        };
        tokio::time::timeout(patience, work).await.map_err(|_| "no answer in time".to_owned())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IM-15.
    #[test]
    fn im_15_a_coding_that_was_not_asked_for_is_named() {
        let of = |value: &'static str| {
            coding(&HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert_eq!(of("gzip").as_deref(), Some("gzip"));
        assert_eq!(of("identity, br<script>").as_deref(), Some("brscript"));
        assert_eq!(of("Identity"), None);
        assert_eq!(of(""), None);
        assert_eq!(coding(&HeaderMap::new()), None);
    }
}
