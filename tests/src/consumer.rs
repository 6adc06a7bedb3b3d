//! A national XDS consumer as a test sees it: shows a national TLS certificate and a user's XUA assertion, and asks its own
//! country's gateway by SOAP.

use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use ncp_ihe::{PatientId, actions};
use ncp_saml::{HcpClaims, SealKey, SignedAssertion, Signer, TrcClaims, hcp_template};
use ncp_soap::{Addressing, Envelope, ns};
use ncp_tls::{Material, TlsConnector, TlsStream};
use ncp_xml::{Element, Limits};

use crate::messages::{Capture, Origin};
use crate::neighbour::{Answer, post};
use crate::pki::{CountryPki, Error};

/// Namespace of WS-Trust.
pub const TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
/// Namespace of the parameters of a TRC assertion.
pub const TRC: &str = "https://ehdsi.eu/assertion/trc";
const XS: &str = "http://www.w3.org/2001/XMLSchema";
/// Path of ITI-18.
pub const REGISTRY: &str = "/xds/registry";
/// Path of ITI-43.
pub const REPOSITORY: &str = "/xds/repository";
/// Path of the WS-Trust endpoint for TRC assertions.
pub const TOKENS: &str = "/TRC-STS/SecurityTokenService";
/// Path of the one for next-of-kin assertions.
pub const KIN_TOKENS: &str = "/TRC-STS/NextOfKinTokenService";
/// Path of RAD-69.
pub const SOURCE: &str = "/xdsi/source";

/// Asks for a TRC assertion as OpenNCP's portal does.
pub fn treatment_request(patient: &str, purpose: &str) -> Element {
    let trust = |local: &str, text: &str| Element::new(TRUST, local).text(text);
    let trc = |local: &str, text: &str| Element::new(TRC, local).text(text);
    let parameters = Element::new(TRC, "TRCParameters");
    Element::new(TRUST, "RequestSecurityToken")
        .with(trust("RequestType", &format!("{TRUST}/Issue")))
        .with(trust("TokenType", "urn:oasis:names:tc:SAML:2.0:assertion"))
        .with(parameters.with(trc("PurposeOfUse", purpose)).with(trc("PatientId", patient)))
}

/// A consumer. Its certificate is `consumer`, its users' assertions are signed with `xua`.
pub struct Consumer {
    connector: TlsConnector,
    signer: Signer,
    audience: String,
    /// The gateway's port for consumers.
    pub port: u16,
    /// Where its messages and their answers are kept; at first what `NCP_CAPTURE_DIR` names.
    pub capture: Option<Capture>,
    /// Who wrote the bodies that it sends.
    pub origin: Origin,
}

impl Consumer {
    /// A consumer with leaves of a country's PKI, towards its gateway on a port of this machine.
    ///
    /// # Errors
    /// Files, OpenSSL.
    pub fn new(pki: &CountryPki, anchors: &Path, audience: &str, port: u16) -> Result<Self, Error> {
        let material = Material::load(&pki.path("consumer.pem"), &pki.path("consumer.key"))?;
        let connector = material.connector(&[anchors.to_owned()], b"\x08http/1.1")?;
        let signer = Signer::start(SealKey::load(&pki.path("xua.pem"), &pki.path("xua.key"))?, 1)?;
        Ok(Self {
            connector,
            signer,
            audience: audience.to_owned(),
            port,
            capture: Capture::from_environment()?,
            origin: Origin::Ours,
        })
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// The network, TLS.
    pub async fn open(&self) -> Result<TlsStream, Error> {
        Ok(ncp_tls::connect(&self.connector, "localhost", self.port, "localhost", Duration::from_secs(10)).await?)
    }

    /// The user's XUA assertion, in the form of IHE: bearer, an audience of the service, no mark of the eHDSI profile.
    ///
    /// # Errors
    /// The signer's.
    pub async fn xua(&self, claims: &HcpClaims, patient: Option<&PatientId>) -> Result<SignedAssertion, Error> {
        let id = format!("_{}", uuid::Uuid::new_v4());
        self.sign(&id, &self.xua_template(&id, claims, patient, Timestamp::now())).await
    }

    /// The same before it is signed, as text.
    pub fn xua_template(&self, id: &str, claims: &HcpClaims, patient: Option<&PatientId>, issued: Timestamp) -> String {
        let mut text = hcp_template(id, claims, issued, Duration::from_secs(3600)).to_xml();
        for (from, to) in [
            (" NameQualifier=\"urn:ehdsi:assertions:hcp\"", String::new()),
            ("urn:ehdsi:assertions.audience:x-border", self.audience.clone()),
            ("cm:sender-vouches", "cm:bearer".into()),
        ] {
            text = text.replace(from, &to);
        }
        if let Some(patient) = patient {
            let value = patient.to_cx().replace('&', "&amp;");
            let attribute = format!(
                "<saml:Attribute Name=\"urn:oasis:names:tc:xacml:2.0:resource:resource-id\"><saml:AttributeValue>{value}\
                 </saml:AttributeValue></saml:Attribute></saml:AttributeStatement>"
            );
            text = text.replace("</saml:AttributeStatement>", &attribute);
        }
        text
    }

    /// Signs an assertion with the users' key.
    ///
    /// # Errors
    /// No XML, the signer's.
    pub async fn sign(&self, id: &str, text: &str) -> Result<SignedAssertion, Error> {
        // Reading forgets a prefix that only values use, as the types of attributes do.
        let assertion = Element::parse(text.as_bytes(), &Limits::REQUEST)?.declare("xs", XS);
        Ok(self.signer.sign(id, assertion).await?)
    }

    /// A TRC assertion that builds on the user's.
    ///
    /// # Errors
    /// The signer's.
    pub async fn trc(
        &self,
        user: &SignedAssertion,
        claims: &HcpClaims,
        patient: &PatientId,
    ) -> Result<SignedAssertion, Error> {
        let facts = TrcClaims {
            country: claims.country,
            name_id: claims.name_id.clone(),
            hcp_id: user.id.clone(),
            patient: patient.to_cx(),
            purpose: claims.purpose,
        };
        let (id, now) = (format!("_{}", uuid::Uuid::new_v4()), Timestamp::now());
        Ok(self.signer.issue_trc(&id, &facts, now, now + SignedDuration::from_hours(1)).await?)
    }

    /// Both, for a patient under treatment.
    ///
    /// # Errors
    /// The signer's.
    pub async fn assertions(&self, claims: &HcpClaims, patient: &PatientId) -> Result<Vec<SignedAssertion>, Error> {
        let user = self.xua(claims, None).await?;
        let trc = self.trc(&user, claims, patient).await?;
        Ok(vec![user, trc])
    }

    /// Asks a WS-Trust endpoint, by what is asked for, as OpenNCP's client does: no WS-Addressing but a MessageID.
    ///
    /// # Errors
    /// Network, TLS, an answer that is no SOAP.
    pub async fn token(&self, assertions: &[SignedAssertion], body: Element) -> Result<Answer, Error> {
        let id = Element::new(ns::WSA, "MessageID").text(uuid::Uuid::new_v4().urn().to_string());
        let security = Element::new(ns::WSSE, "Security");
        let security = assertions.iter().fold(security, |all, one| all.raw(one.xml.clone()));
        let kin = body.elements().any(|e| e.local() == "NoKParameters");
        let path = if kin { KIN_TOKENS } else { TOKENS };
        self.token_message(path, Envelope { headers: vec![id, security], body }.write()).await
    }

    /// The same with the message given whole.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn token_message(&self, path: &str, message: Vec<u8>) -> Result<Answer, Error> {
        let content_type = "application/soap+xml; charset=UTF-8";
        post(&self.connector, "localhost", self.port, path, content_type, message, None).await
    }

    /// One call; the transaction is told by its body.
    ///
    /// # Errors
    /// Network, TLS, an answer that is no SOAP.
    pub async fn call(&self, assertions: &[SignedAssertion], body: Element) -> Result<Answer, Error> {
        let (action, path) = match body.local() {
            "AdhocQueryRequest" => (actions::ITI18_REQUEST, REGISTRY),
            "RetrieveDocumentSetRequest" => (actions::ITI43_REQUEST, REPOSITORY),
            _ => (actions::RAD69_REQUEST, SOURCE),
        };
        let mut headers = Addressing::request(action, &format!("https://localhost:{}{path}", self.port)).to_headers();
        let security = Element::new(ns::WSSE, "Security");
        headers.push(assertions.iter().fold(security, |all, one| all.raw(one.xml.clone())));
        let message = Envelope { headers, body }.write();
        let capture = self.capture.as_ref();
        if let Some(capture) = capture {
            capture.envelope(path != REGISTRY, self.origin, &message)?;
        }
        if path == REGISTRY {
            let content_type = ncp_soap::soap_content_type(action);
            return post(&self.connector, "localhost", self.port, path, content_type.to_str()?, message, capture).await;
        }
        let (content_type, body) = ncp_soap::mtom_request(message);
        let bytes = body.collect().await?.to_bytes();
        post(&self.connector, "localhost", self.port, path, content_type.to_str()?, bytes, capture).await
    }
}
