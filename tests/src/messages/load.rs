//! Reading a folder of messages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ncp_ihe::ns::{HL7V3, QUERY, XDSB, XDSI};
use ncp_soap::ns::{SOAP, WSA};
use ncp_xml::{Element, Limits};

use super::capture::{Origin, file_name};
use crate::pki::Error;

/// A message of the folder.
#[derive(Debug, Clone)]
pub struct Message {
    /// File name.
    pub name: String,
    /// Who wrote it.
    pub origin: Origin,
    /// Whether it came as a XOP package.
    pub xop: bool,
    /// The envelope as sent.
    pub bytes: Vec<u8>,
    /// Header blocks.
    pub headers: Vec<Element>,
    /// The body's element.
    pub body: Element,
    /// Which transaction its action stands for.
    pub transaction: Option<Transaction>,
    parts: BTreeMap<String, PathBuf>,
}

/// A part's kept bytes.
#[derive(Debug, Clone)]
pub struct Part {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether they are all.
    pub whole: bool,
}

/// A transaction and its table row: actions, bodies, packaging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// As `ITI-38`.
    pub name: &'static str,
    /// `wsa:Action` of the request.
    pub request: &'static str,
    /// `wsa:Action` of the response.
    pub response: &'static str,
    /// Body of the request: namespace, local name.
    pub asks: (&'static str, &'static str),
    /// Body of the response.
    pub answers: (&'static str, &'static str),
    /// Whether both are XOP packages.
    pub xop: bool,
}

const fn row(
    name: &'static str,
    actions: (&'static str, &'static str),
    asks: (&'static str, &'static str),
    answers: (&'static str, &'static str),
    xop: bool,
) -> Transaction {
    Transaction { name, request: actions.0, response: actions.1, asks, answers, xop }
}

const ADHOC: (&str, &str) = (QUERY, "AdhocQueryRequest");
const ADHOC_ANSWER: (&str, &str) = (QUERY, "AdhocQueryResponse");
const RETRIEVE: (&str, &str) = (XDSB, "RetrieveDocumentSetRequest");
const IMAGES: (&str, &str) = (XDSI, "RetrieveImagingDocumentSetRequest");
const RETRIEVED: (&str, &str) = (XDSB, "RetrieveDocumentSetResponse");

/// The table.
pub(crate) const TRANSACTIONS: &[Transaction] = &[
    row(
        "ITI-18",
        ("urn:ihe:iti:2007:RegistryStoredQuery", "urn:ihe:iti:2007:RegistryStoredQueryResponse"),
        ADHOC,
        ADHOC_ANSWER,
        false,
    ),
    row(
        "ITI-38",
        ("urn:ihe:iti:2007:CrossGatewayQuery", "urn:ihe:iti:2007:CrossGatewayQueryResponse"),
        ADHOC,
        ADHOC_ANSWER,
        false,
    ),
    row(
        "ITI-43",
        ("urn:ihe:iti:2007:RetrieveDocumentSet", "urn:ihe:iti:2007:RetrieveDocumentSetResponse"),
        RETRIEVE,
        RETRIEVED,
        true,
    ),
    row(
        "ITI-39",
        ("urn:ihe:iti:2007:CrossGatewayRetrieve", "urn:ihe:iti:2007:CrossGatewayRetrieveResponse"),
        RETRIEVE,
        RETRIEVED,
        true,
    ),
    row(
        "RAD-69",
        ("urn:ihe:rad:2009:RetrieveImagingDocumentSet", "urn:ihe:iti:2007:RetrieveDocumentSetResponse"),
        IMAGES,
        RETRIEVED,
        true,
    ),
    row(
        "RAD-75",
        (
            "urn:ihe:rad:2011:CrossGatewayRetrieveImagingDocumentSet",
            "urn:ihe:rad:2011:CrossGatewayRetrieveImagingDocumentSetResponse",
        ),
        IMAGES,
        RETRIEVED,
        true,
    ),
    row(
        "ITI-55",
        (
            "urn:hl7-org:v3:PRPA_IN201305UV02:CrossGatewayPatientDiscovery",
            "urn:hl7-org:v3:PRPA_IN201306UV02:CrossGatewayPatientDiscovery",
        ),
        (HL7V3, "PRPA_IN201305UV02"),
        (HL7V3, "PRPA_IN201306UV02"),
        false,
    ),
    row(
        "ITI-45",
        ("urn:hl7-org:v3:PRPA_IN201309UV02", "urn:hl7-org:v3:PRPA_IN201310UV02"),
        (HL7V3, "PRPA_IN201309UV02"),
        (HL7V3, "PRPA_IN201310UV02"),
        false,
    ),
    row(
        "ITI-47",
        ("urn:hl7-org:v3:PRPA_IN201305UV02", "urn:hl7-org:v3:PRPA_IN201306UV02"),
        (HL7V3, "PRPA_IN201305UV02"),
        (HL7V3, "PRPA_IN201306UV02"),
        false,
    ),
];

impl Message {
    /// Text of a WS-Addressing header.
    pub fn addressing(&self, local: &str) -> Option<String> {
        self.headers.iter().find(|h| h.is(WSA, local)).map(Element::trimmed)
    }

    /// Whether the body is a SOAP fault.
    pub fn is_fault(&self) -> bool {
        self.body.is(SOAP, "Fault")
    }

    /// Whether it is the request of its transaction.
    pub fn is_request(&self) -> bool {
        TRANSACTIONS.iter().any(|t| self.body.is(t.asks.0, t.asks.1))
    }

    /// The kept bytes of a part.
    pub fn part(&self, content_id: &str) -> Option<Part> {
        let path = self.parts.get(&file_name(content_id))?;
        let bytes = std::fs::read(path).ok()?;
        Some(Part { bytes, whole: path.extension().is_some_and(|e| e == "part") })
    }
}

/// Reads all messages of a folder, in the order of their names.
///
/// # Errors
/// Files, and an envelope that does not read.
pub fn load(folder: &Path) -> Result<Vec<Message>, Error> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "xml"))
        .collect();
    files.sort();
    files.iter().map(|path| message(path)).collect()
}

fn message(path: &Path) -> Result<Message, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = std::fs::read(path)?;
    let wrong = |what: &str| Error::from(format!("{name}: {what}"));
    let root = Element::parse(&bytes, &Limits::ANSWER).map_err(|e| wrong(&e.to_string()))?;
    let body = root.child(SOAP, "Body").and_then(|b| b.elements().next()).ok_or_else(|| wrong("no body"))?.clone();
    let headers: Vec<Element> = root.child(SOAP, "Header").map(|h| h.elements().cloned().collect()).unwrap_or_default();
    let action = headers.iter().find(|h| h.is(WSA, "Action")).map(Element::trimmed).unwrap_or_default();
    let fits = |t: &&Transaction| {
        (t.request == action && body.is(t.asks.0, t.asks.1))
            || (t.response == action && body.is(t.answers.0, t.answers.1))
    };
    let transaction = TRANSACTIONS.iter().find(fits).copied();
    let id = name.split('.').next().unwrap_or_default();
    let mut parts = BTreeMap::new();
    if let Ok(entries) = std::fs::read_dir(path.with_file_name(format!("{id}.parts"))) {
        for entry in entries {
            let part = entry?.path();
            let stem = part.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            parts.insert(stem, part);
        }
    }
    let origin = match name.split('.').nth(1) {
        Some("given") => Origin::Given,
        Some("gateway") => Origin::Gateway,
        _ => Origin::Ours,
    };
    Ok(Message { origin, xop: name.ends_with(".xop.xml"), name, bytes, headers, body, transaction, parts })
}
