//! A neighbour's NCP-B as a test sees it: issues assertions with its own seal and sends SOAP over its own TLS.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use ncp_ihe::{
    Content, CrossGatewayQueryRequest, DocumentRequest, FindDocuments, HomeCommunityId, ImagingRequest, MessageError,
    Oid, PatientAnswer, PatientId, PatientQuery, PatientResponse, QueryResponse, RetrieveRequest, RetrieveResponse,
    ReturnType, StoredQuery, actions,
};
use ncp_saml::{Code, HcpClaims, Purpose, SealKey, SignedAssertion, Signer, TrcClaims};
use ncp_soap::{Addressing, Envelope, Fault, MessageLimits, ns};
use ncp_tls::{Country, Material, TlsConnector, TlsStream};
use ncp_xml::{ANSWERS, Element, Limits};

use crate::messages::{Capture, Origin, RecordedParts};
use crate::pki::{CountryPki, Error};

/// Paths of a gateway.
pub const XCPD: &str = "/openncp-ws-server/services/XCPD_Service";
/// XCA.
pub const XCA: &str = "/openncp-ws-server/services/XCA_Service";
/// XCA-I.
pub const XCAI: &str = "/xcai/retrieve";

/// A neighbour.
pub struct Neighbour {
    signer: Signer,
    connector: TlsConnector,
    /// Its country.
    pub country: Country,
    /// Its community.
    pub home: HomeCommunityId,
    host: String,
    port: u16,
    /// Where its messages and their answers are kept; at first what `NCP_CAPTURE_DIR` names.
    pub capture: Option<Capture>,
    /// Who wrote the bodies that it sends.
    pub origin: Origin,
}

/// An answer whose root was read.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Bytes of the envelope.
    pub envelope: Bytes,
    /// The body element.
    pub body: Element,
    /// What follows.
    pub parts: RecordedParts,
    /// When to come again, where it says so.
    pub retry_after: Option<Duration>,
}

/// A refusal for overload that has no SOAP message: HTTP 503 with Retry-After.
#[derive(Debug, Clone, Copy)]
pub struct ToldBusy(pub Duration);

impl std::fmt::Display for ToldBusy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "busy, try again in {} s", self.0.as_secs())
    }
}

impl std::error::Error for ToldBusy {}

/// Codes by which a community says that it is busy.
const BUSY: [&str; 3] = ["XDSRegistryBusy", "XDSRepositoryBusy", "ResponderBusy"];

impl Answer {
    /// The fault, when the body is one.
    pub fn fault(&self) -> Option<Fault> {
        Fault::read(&self.body)
    }

    /// Whether it says that the gateway is busy and can be asked again: by HTTP 503 with Retry-After, or by its codes.
    pub fn is_busy(&self) -> bool {
        let by_status = self.status == StatusCode::SERVICE_UNAVAILABLE && self.retry_after.is_some();
        by_status || self.codes().iter().any(|code| BUSY.contains(&code.as_str()))
    }

    /// Codes of registry errors, or of the acknowledgement details of ITI-55.
    pub fn codes(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut stack = vec![&self.body];
        while let Some(element) = stack.pop() {
            out.extend(element.get("errorCode").map(ToOwned::to_owned));
            if element.local() == "acknowledgementDetail" || element.local() == "detectedIssueManagement" {
                out.extend(element.elements().filter_map(|e| e.get("code")).map(ToOwned::to_owned));
            }
            stack.extend(element.elements());
        }
        out
    }
}

impl Neighbour {
    /// A neighbour with the client certificate and seal of a PKI, towards a gateway at `address`.
    ///
    /// # Errors
    /// Files, OpenSSL.
    pub fn new(
        pki: &CountryPki,
        home: &str,
        gateway_anchors: &std::path::Path,
        host: &str,
        port: u16,
    ) -> Result<Self, Error> {
        Self::showing(pki, home, gateway_anchors, host, port, ("tls-client", "seal"))
    }

    /// A neighbour that connects and signs with other certificates of a PKI, by file.
    ///
    /// # Errors
    /// Files, OpenSSL.
    pub fn showing(
        pki: &CountryPki,
        home: &str,
        gateway_anchors: &std::path::Path,
        host: &str,
        port: u16,
        (connects, signs): (&str, &str),
    ) -> Result<Self, Error> {
        let file = |name: &str, end: &str| pki.path(&format!("{name}.{end}"));
        let material = Material::load(&file(connects, "pem"), &file(connects, "key"))?;
        let connector = material.connector(&[gateway_anchors.to_owned()], b"\x08http/1.1")?;
        let seal = SealKey::load(&file(signs, "pem"), &file(signs, "key"))?;
        let country = seal.country;
        let signer = Signer::start(seal, 1)?;
        Ok(Self {
            signer,
            connector,
            country,
            home: HomeCommunityId::parse(home)?,
            host: host.to_owned(),
            port,
            capture: Capture::from_environment()?,
            origin: Origin::Ours,
        })
    }

    /// A radiologist's claims.
    pub fn claims(&self) -> HcpClaims {
        HcpClaims {
            country: self.country,
            name_id: "hpr-9144889".into(),
            subject_name: "Radiologist on duty".into(),
            role: Code {
                code: "221".into(),
                system: "2.16.840.1.113883.2.9.6.2.7".into(),
                system_name: "ISCO".into(),
                display: "Medical Doctors".into(),
            },
            organisation: "University hospital".into(),
            organisation_id: "urn:oid:2.999.246.10".into(),
            facility_type: "Hospital".into(),
            purpose: Purpose::Treatment,
            locality: "Emergency department".into(),
            npi: None,
            home_community_id: self.home.to_string(),
            permissions: ["PRD-003", "PRD-004", "PRD-005", "PRD-006", "PRD-010", "PRD-016"].map(Into::into).to_vec(),
            authn_context_class: "urn:oasis:names:tc:SAML:2.0:ac:classes:SmartcardPKI".into(),
            authn_instant: Timestamp::now(),
        }
    }

    /// An HCP assertion of these claims.
    ///
    /// # Errors
    /// The signer's.
    pub async fn hcp(&self, claims: &HcpClaims, issued: Timestamp) -> Result<SignedAssertion, Error> {
        let id = format!("_{}", uuid::Uuid::new_v4());
        Ok(self.signer.issue_hcp(&id, claims, issued, Duration::from_secs(4 * 3600)).await?)
    }

    /// Signs any assertion with this country's seal.
    ///
    /// # Errors
    /// No XML, the signer's.
    pub async fn sign(&self, id: &str, text: &str) -> Result<SignedAssertion, Error> {
        Ok(self.signer.sign(id, Element::parse(text.as_bytes(), &Limits::REQUEST)?).await?)
    }

    /// A TRC assertion for a patient.
    ///
    /// # Errors
    /// The signer's.
    pub async fn trc(
        &self,
        hcp: &SignedAssertion,
        claims: &HcpClaims,
        patient: &PatientId,
    ) -> Result<SignedAssertion, Error> {
        let id = format!("_{}", uuid::Uuid::new_v4());
        let facts = TrcClaims {
            country: self.country,
            name_id: claims.name_id.clone(),
            hcp_id: hcp.id.clone(),
            patient: patient.to_cx(),
            purpose: claims.purpose,
        };
        let now = Timestamp::now();
        let until = now + jiff::SignedDuration::from_hours(2);
        Ok(self.signer.issue_trc(&id, &facts, now, until).await?)
    }

    /// Both assertions for a patient.
    ///
    /// # Errors
    /// The signer's.
    pub async fn assertions(&self, patient: &PatientId) -> Result<Vec<SignedAssertion>, Error> {
        let claims = self.claims();
        let hcp = self.hcp(&claims, Timestamp::now()).await?;
        let trc = self.trc(&hcp, &claims, patient).await?;
        Ok(vec![hcp, trc])
    }

    /// The bytes of a message.
    pub fn message(&self, action: &str, path: &str, assertions: &[SignedAssertion], body: Element) -> Vec<u8> {
        let to = format!("https://{}:{}{path}", self.host, self.port);
        let mut headers = Addressing::request(action, &to).to_headers();
        let mut security = Element::new(ns::WSSE, "Security");
        for assertion in assertions {
            security = security.raw(assertion.xml.clone());
        }
        headers.push(security);
        Envelope { headers, body }.write()
    }

    /// Sends bytes with a content type and reads the root of the answer.
    ///
    /// # Errors
    /// Network, TLS, an answer that is no SOAP.
    pub async fn post(&self, path: &str, content_type: &str, message: impl Into<Bytes>) -> Result<Answer, Error> {
        post(&self.connector, &self.host, self.port, path, content_type, message, self.capture.as_ref()).await
    }

    /// A TLS connection on which a test writes what it likes.
    ///
    /// # Errors
    /// Network, TLS.
    pub async fn open(&self) -> Result<TlsStream, Error> {
        Ok(ncp_tls::connect(&self.connector, &self.host, self.port, server_name(&self.host), Duration::from_secs(10))
            .await?)
    }

    /// A simple SOAP call.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub async fn call(
        &self,
        action: &str,
        path: &str,
        assertions: &[SignedAssertion],
        body: Element,
    ) -> Result<Answer, Error> {
        self.send(action, path, self.message(action, path, assertions, body)).await
    }

    /// Sends the bytes of a message in the form of its action.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub async fn send(&self, action: &str, path: &str, message: Vec<u8>) -> Result<Answer, Error> {
        let xop = matches!(action, actions::ITI39_REQUEST | actions::RAD75_REQUEST);
        if let Some(capture) = &self.capture {
            capture.envelope(xop, self.origin, &message)?;
        }
        if xop {
            let (content_type, body) = ncp_soap::mtom_request(message);
            let bytes = body.collect().await?.to_bytes();
            return self.post(path, content_type.to_str()?, bytes).await;
        }
        self.post(path, "application/soap+xml; charset=UTF-8", message).await
    }

    /// ITI-55 by identifier.
    ///
    /// # Errors
    /// As [`call`](Self::call), and an answer that does not read.
    pub async fn find(&self, receiver: &Oid, id: &PatientId) -> Result<PatientAnswer, Error> {
        let hcp = self.hcp(&self.claims(), Timestamp::now()).await?;
        let query = PatientQuery::new(self.home.0.clone(), receiver.clone(), vec![id.clone()], None, None, None);
        let answer = self.call(actions::ITI55_REQUEST, XCPD, &[hcp], query.to_element(Timestamp::now())).await?;
        Ok(PatientResponse::read(&answer.body)?)
    }

    /// A request for everything of a patient.
    pub fn find_documents(patient: &PatientId) -> CrossGatewayQueryRequest {
        let query = StoredQuery::FindDocuments(FindDocuments::of_patient(patient.clone()));
        CrossGatewayQueryRequest { home: None, return_type: ReturnType::LeafClass, query }
    }

    /// FindDocuments.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn documents(&self, patient: &PatientId) -> Result<QueryResponse, Error> {
        let assertions = self.assertions(patient).await?;
        let request = Self::find_documents(patient);
        let answer = self.call(actions::ITI38_REQUEST, XCA, &assertions, request.to_element()).await?;
        Ok(QueryResponse::read(&answer.body)?.0)
    }

    /// ITI-39 of one document: response and bytes.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn document(
        &self,
        patient: &PatientId,
        wanted: &DocumentRequest,
    ) -> Result<(RetrieveResponse, Vec<u8>), Error> {
        let assertions = self.assertions(patient).await?;
        let request = RetrieveRequest { documents: vec![wanted.clone()] };
        let mut answer = self.call(actions::ITI39_REQUEST, XCA, &assertions, request.to_element()).await?;
        let response = retrieve_response(&answer.body)?;
        let mut bytes = Vec::new();
        while answer.parts.next().await?.is_some() {
            while let Some(chunk) = answer.parts.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
        }
        Ok((response, bytes))
    }

    /// RAD-75: the answer with its parts still to come.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn images(
        &self,
        patient: &PatientId,
        request: &ImagingRequest,
    ) -> Result<(RetrieveResponse, Answer), Error> {
        let assertions = self.assertions(patient).await?;
        let answer = self.call(actions::RAD75_REQUEST, XCAI, &assertions, request.to_element()).await?;
        let response = retrieve_response(&answer.body)?;
        Ok((response, answer))
    }
}

/// Reads a retrieve's root.
///
/// # Errors
/// Malformed.
pub fn retrieve_response(body: &Element) -> Result<RetrieveResponse, MessageError> {
    RetrieveResponse::read(body, |holder| match ncp_soap::included(holder) {
        Ok(Some(id)) => Ok(Content::Include(id)),
        Ok(None) => ncp_soap::inline_content(holder).map(Content::Inline),
        Err(error) => Err(error),
    })
}

/// The name that a certificate must have: that of the host, and `localhost` where the host is an address.
pub(crate) fn server_name(host: &str) -> &str {
    if host.parse::<std::net::IpAddr>().is_ok() { "localhost" } else { host }
}

/// Sends bytes over a connection of their own and reads the root of the answer.
pub(crate) async fn post(
    connector: &TlsConnector,
    host: &str,
    port: u16,
    path: &str,
    content_type: &str,
    message: impl Into<Bytes>,
    capture: Option<&Capture>,
) -> Result<Answer, Error> {
    let stream = ncp_tls::connect(connector, host, port, server_name(host), Duration::from_secs(10)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, content_type)
        .body(Full::new(message.into()))?;
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    // The connection lives as long as its task; the sender may go.
    answer(parts.status, &parts.headers, body, capture).await
}

async fn answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: Incoming,
    capture: Option<&Capture>,
) -> Result<Answer, Error> {
    let mut headers = headers.clone();
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/soap+xml"));
    let limits = MessageLimits { root_bytes: Limits::ANSWER.bytes, parts: 100_000, ..MessageLimits::default() };
    let retry_after = ncp_tls::retry_after::read(&headers);
    let unread = |error: String| match retry_after {
        Some(after) if status == StatusCode::SERVICE_UNAVAILABLE => Error::from(ToldBusy(after)),
        _ => format!("HTTP {status}: {error}").into(),
    };
    let message = ncp_soap::read_message(&headers, body, &limits, ANSWERS.charge("")).await;
    let message = message.map_err(|e| unread(e.to_string()))?;
    let envelope = Envelope::read(&message.root, &Limits::ANSWER).map_err(|e| unread(e.to_string()))?;
    let xop = headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"multipart/"));
    let id = capture.map(|c| c.envelope(xop, Origin::Ours, &message.root)).transpose()?;
    let parts = Capture::follow(capture, id, message.parts);
    Ok(Answer { status, envelope: message.root, body: envelope.body, parts, retry_after })
}
