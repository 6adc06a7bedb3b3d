//! The attack set on a gateway: what must be refused and how, as data.
//!
//! Rows carry the ids of the threat table (`docs/threats.md`). `tests/abuse` runs them against gateways in its own process,
//! `ncp attack` against one that runs; both write the same report. A peer and a national consumer send the same rows
//! ([`Side`]), a clinician's system has its own ([`Clinician`]).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ncp_ihe::{HomeCommunityId, PatientId, actions};
use ncp_saml::{SignedAssertion, Signer};
use ncp_soap::{Addressing, Envelope, ns};
use ncp_xml::Element;

use crate::consumer::{REGISTRY, REPOSITORY, SOURCE};
use crate::neighbour::{Answer, Neighbour, ToldBusy, XCA, XCAI, XCPD};
use crate::pki::{CountryPki, Error};

mod clinician;
mod consent;
mod consumer;
mod content;
mod issued;
mod long;
mod packages;
mod requests;
mod shapes;
mod tokens;
mod transport;

pub use clinician::{Call, Clinician, KnownUrls};
pub use long::{TOO_LONG, with_slot};
pub use transport::{handshakes, other_names, versions};

/// One code for every check of an assertion that fails.
pub const INTEGRITY: &str = "ERROR_SEC_DATA_INTEGRITY_NOT_ENSURED";
/// A message that cannot be read.
pub const MALFORMED: &str = "HTTP 400 Sender";
/// A row cannot be sent.
const NO_THIRD: &str = "no third country to send from";
/// A good answer.
pub const SERVED: &str = "served";

/// So long a gateway may take until it serves.
const PATIENCE: Duration = Duration::from_secs(30);
/// So often a gateway may say that it is busy.
const TIMES: u32 = 5;
/// The longest wait before it is asked again.
const LONGEST: Duration = Duration::from_secs(6);

/// One bad input.
pub struct Row {
    /// Id of the threat table; letters where a row of it names more cases than ids.
    pub id: String,
    /// What is sent.
    pub input: String,
    /// Any of these answers is right.
    pub expected: Vec<&'static str>,
    /// Word of the rule by which the verifier refuses, alone and without a gateway; empty where it takes the assertions.
    pub rule: &'static str,
    /// Messages, sent one after the other; the last answer counts.
    pub messages: Vec<Message>,
}

/// A message and who sends it.
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Path that it goes to.
    pub path: &'static str,
    /// Over the TLS of a third country.
    pub by_third: bool,
}

/// What a run found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Id of the row.
    pub id: String,
    /// What was sent.
    pub input: String,
    /// What may be answered.
    pub expected: String,
    /// What was answered.
    pub got: String,
    /// Whether the one is among the other.
    pub held: bool,
}

impl Finding {
    /// Compares.
    pub fn new(id: &str, input: &str, expected: &[&str], got: String) -> Self {
        let held = expected.contains(&got.as_str());
        Self { id: id.into(), input: input.into(), expected: expected.join(" or "), got, held }
    }
}

/// As whom the rows are sent, which decides the port, the form of the messages and that of the refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The gateway of another country (ITI-38, ITI-39, ITI-55, RAD-75).
    Peer,
    /// A national XDS consumer of the gateway's own country (ITI-18, ITI-43, RAD-69).
    Consumer,
}

impl Side {
    /// The certificates of the PKI with which this side connects and signs, by file.
    pub fn certificates(self) -> (&'static str, &'static str) {
        match self {
            Self::Peer => ("tls-client", "seal"),
            Self::Consumer => ("consumer", "xua"),
        }
    }

    /// Action and path by which this side asks for what a peer asks for with `action`.
    fn asks(self, action: &'static str) -> (&'static str, &'static str) {
        match (self, action) {
            (Self::Consumer, actions::ITI38_REQUEST) => (actions::ITI18_REQUEST, REGISTRY),
            (Self::Consumer, actions::ITI39_REQUEST) => (actions::ITI43_REQUEST, REPOSITORY),
            (Self::Consumer, actions::RAD75_REQUEST) => (actions::RAD69_REQUEST, SOURCE),
            (_, actions::ITI55_REQUEST) => (action, XCPD),
            (_, actions::RAD75_REQUEST) => (action, XCAI),
            _ => (action, XCA),
        }
    }
}

/// Who attacks, and what is known of the attacked gateway.
pub struct Attacker {
    /// As whom.
    pub side: Side,
    /// PKI of a country that the gateway has as a peer; of its own country for its consumers.
    pub pki: CountryPki,
    /// PKI of another one that it has as a peer, where there is one.
    pub third: Option<CountryPki>,
    /// Sends as the first.
    pub neighbour: Neighbour,
    /// Sends as the other.
    pub third_neighbour: Option<Neighbour>,
    /// The community that has the patients: the attacked one, or one that it asks for its consumers.
    pub target: HomeCommunityId,
    /// A patient of that community.
    pub patient: PatientId,
    /// Another one.
    pub other: PatientId,
    /// A document of the other patient: repository and unique id.
    pub foreign_document: (String, String),
    /// A document of the patient that is blocked, and one that does not exist.
    pub blocked_document: Option<(String, String)>,
    /// A person of that community who opted out of the service.
    pub opted_out: Option<PatientId>,
}

impl Attacker {
    /// All rows that go through a message.
    ///
    /// # Errors
    /// Keys, signing.
    pub async fn rows(&self) -> Result<Vec<Row>, Error> {
        let claims = self.neighbour.claims();
        let hcp = self.neighbour.hcp(&claims, Timestamp::now()).await?;
        let trc = self.neighbour.trc(&hcp, &claims, &self.patient).await?;
        let mut rows = shapes::rows(self, &hcp.xml, &trc.xml);
        rows.extend(issued::rows(self).await?);
        rows.extend(content::rows(self).await?);
        rows.extend(requests::rows(self).await?);
        rows.extend(consent::rows(self).await?);
        rows.extend(long::rows(self).await?);
        rows.extend(packages::rows(self).await?);
        if self.side == Side::Consumer {
            return consumer::rows(self, rows).await;
        }
        Ok(rows)
    }

    /// Signs as this side does.
    fn seal(&self) -> Result<Signer, Error> {
        issued::signer(&self.pki, self.side.certificates().1)
    }

    fn told(&self, answer: &Answer) -> String {
        match self.side {
            Side::Peer => verdict(answer),
            Side::Consumer => consumer::verdict(answer),
        }
    }

    /// Sends the messages of a row and says what came back.
    pub async fn run(&self, row: &Row) -> Finding {
        let mut got = "nothing sent".to_owned();
        for message in &row.messages {
            let Ok(sender) = self.sender(message) else {
                got = NO_THIRD.into();
                break;
            };
            got = self.ask(sender, message).await.unwrap_or_else(|error| format!("no answer: {error}"));
        }
        Finding::new(&row.id, &row.input, &row.expected, got)
    }

    /// Waits until a good query is served, for half a minute at most. After a fault the guards of a gateway stand a little
    /// longer than its cause, and what is answered meanwhile says nothing of a row.
    ///
    /// # Errors
    /// The assertions of the query cannot be signed.
    pub async fn until_served(&self) -> Result<(), Error> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let assertions = self.neighbour.assertions(&self.patient).await?;
            let query = Neighbour::find_documents(&self.patient).to_element();
            let message = self.signed_message(actions::ITI38_REQUEST, &assertions, query);
            if self.ask(&self.neighbour, &message).await.is_ok_and(|told| told == SERVED) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// What a message is answered. A gateway that is busy judged nothing and says when to come again, so that it is asked
    /// again.
    async fn ask(&self, sender: &Neighbour, message: &Message) -> Result<String, Error> {
        for _ in 0..TIMES {
            let after = match post(sender, message).await {
                Ok(answer) if answer.is_busy() => answer.retry_after.unwrap_or(LONGEST),
                Ok(answer) => return Ok(self.told(&answer)),
                Err(error) => error.downcast::<ToldBusy>()?.0,
            };
            tokio::time::sleep(after.min(LONGEST)).await;
        }
        Ok(format!("busy, {TIMES} times"))
    }

    /// Sends a message of a row, as whoever it says.
    ///
    /// # Errors
    /// Nobody to send it as; as [`Neighbour::post`].
    pub async fn send(&self, message: &Message) -> Result<Answer, Error> {
        post(self.sender(message)?, message).await
    }

    fn sender(&self, message: &Message) -> Result<&Neighbour, Error> {
        let sender = if message.by_third { self.third_neighbour.as_ref() } else { Some(&self.neighbour) };
        sender.ok_or_else(|| NO_THIRD.into())
    }

    /// An envelope with these Security children and a query for the patient's documents.
    fn query(&self, security: &str) -> Vec<u8> {
        self.envelope(&Element::new(ns::WSSE, "Security").raw(security).to_xml())
    }

    /// The same with the header blocks after WS-Addressing given whole.
    fn envelope(&self, blocks: &str) -> Vec<u8> {
        self.message(actions::ITI38_REQUEST, blocks, Neighbour::find_documents(&self.patient).to_element()).bytes
    }

    fn message(&self, action: &'static str, blocks: &str, body: Element) -> Message {
        let (action, path) = self.side.asks(action);
        let headers = Addressing::request(action, &format!("https://localhost{path}")).to_headers();
        let bytes = Envelope { headers, body }.write();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let close = header_end(&text);
        let bytes = format!("{}{blocks}{}", &text[..close], &text[close..]).into_bytes();
        Message { bytes, path, by_third: false }
    }

    /// The message of a query whose bytes were changed.
    fn changed(&self, bytes: Vec<u8>) -> Message {
        Message { bytes, path: self.side.asks(actions::ITI38_REQUEST).1, by_third: false }
    }

    fn signed_message(&self, action: &'static str, assertions: &[SignedAssertion], body: Element) -> Message {
        let security: String = assertions.iter().map(|a| a.xml.as_str()).collect();
        let security = Element::new(ns::WSSE, "Security").raw(security).to_xml();
        self.message(action, &security, body)
    }
}

/// Where the header's end tag begins.
fn header_end(text: &str) -> usize {
    let mut ends = text.match_indices("</").map(|(at, _)| at);
    let is_header =
        |at: &usize| text[*at..].split('>').next().is_some_and(|tag| tag.ends_with(":Header") || tag == "</Header");
    ends.find(is_header).unwrap_or_default()
}

const SOAP: &str = "application/soap+xml; charset=UTF-8";

/// One word for an answer: its error codes, the fault, or that it was served.
pub fn verdict(answer: &Answer) -> String {
    if let Some(fault) = answer.fault() {
        return format!("HTTP {} {}", answer.status.as_u16(), fault.code);
    }
    let mut codes = answer.codes();
    codes.sort();
    codes.dedup();
    match (codes.is_empty(), answer.status.is_success()) {
        (false, _) => codes.join("+"),
        (true, true) => SERVED.into(),
        (true, false) => format!("HTTP {}", answer.status.as_u16()),
    }
}

/// The report that an auditor reads: a summary and one line a row, as Markdown.
pub fn report(gateway: &str, findings: &[Finding]) -> String {
    let failed: Vec<&Finding> = findings.iter().filter(|f| !f.held).collect();
    let mut out = format!(
        "# Attack report\n\nGateway: {gateway}. Time: {}. Rows: {}, held: {}, failed: {}.\n\n",
        Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        findings.len(),
        findings.len() - failed.len(),
        failed.len(),
    );
    out.push_str("| id | input | expected | got | held |\n|---|---|---|---|---|\n");
    for finding in findings {
        let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            finding.id,
            cell(&finding.input),
            cell(&finding.expected),
            cell(&finding.got),
            if finding.held { "yes" } else { "**no**" }
        );
    }
    out
}

async fn post(sender: &Neighbour, message: &Message) -> Result<Answer, Error> {
    let packed = message.bytes.starts_with(packages::DELIMITER.as_bytes());
    let content_type = if packed { packages::PACKAGE } else { SOAP };
    sender.post(message.path, content_type, message.bytes.clone()).await
}
