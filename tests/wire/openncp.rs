//! Request bodies that OpenNCP and its Danish test tool send, wrapped in our envelope with fresh assertions, and a header
//! that was captured from an OpenNCP client. They are read where they lie (`NCP_SHARED_DATA`): several may not be copied.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ncp_ihe::{PatientAnswer, PatientId, PatientResponse, QueryResponse, actions};
use ncp_saml::{AssertionError, SignerIdentity, SignerTrust, Verifier};
use ncp_soap::ns::SOAP;
use ncp_tests::messages::{self, Capture, Origin, Trail};
use ncp_tests::neighbour::{Answer, Neighbour, XCA, XCPD, retrieve_response};
use ncp_tests::pki::{Algorithm, CountryPki, Error};
use ncp_tls::{CertificateFacts, Country};
use ncp_xml::{Element, Limits};
use openssl::x509::X509Ref;

use crate::node::{Node, Setup, asking_peer, sources};

mod points;

/// The communities that the bodies are addressed to; a gateway each.
const HOMES: [&str; 3] = ["2.16.17.710.820.1000.990.1", "1.2.208", "2.16.999.1000.990.1"];
const ASKING: &str = "2.999.246";
/// Patients that the bodies name and that are in our register.
const PATIENTS: [&str; 4] = [
    "1^^^&2.16.999.1000.990.1&ISO",
    "0410009234^^^&1.2.208.176.1.2&ISO",
    "041082-995W^^^&2.16.17.710.811&ISO",
    "182581814^^^&2.16.620.1.101.10.1.1&ISO",
];

/// How a body is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// ITI-55 with one match.
    Match,
    /// ITI-55 without a match.
    NoMatch,
    /// ITI-55 that cannot be answered.
    NotAnswered,
    /// ITI-38 answered with so many entries.
    Entries(usize),
    /// ITI-38, ITI-39 with this code.
    Code(&'static str),
}

/// File, community, patient of the treatment, class.
const BODIES: &[(&str, usize, usize, Class)] = &[
    ("xcpd/PT_CLIENT_XCPD_#0.xml", 0, 0, Class::Match),
    ("xcpd/PT_CLIENT_XCPD_#10.1.xml", 0, 0, Class::Match),
    ("xcpd/PT_CLIENT_XCPD_#10.xml", 0, 0, Class::NotAnswered),
    ("xcpd/PT_CLIENT_XCPD_#7.xml", 0, 0, Class::NotAnswered),
    ("xcpd/PT_CLIENT_XCPD_#8.xml", 0, 0, Class::NotAnswered),
    ("xcpd/PT_SERVER_XCPD_#7.xml", 0, 0, Class::NoMatch),
    ("dk-test-tool/xcpd/request.xml", 1, 1, Class::Match),
    // The status reads "urn:…:regrep: StatusType:Approved" in these: it is tolerated.
    ("xca/query/order/xca-query.xml", 0, 2, Class::Entries(1)),
    ("xca/query/mro/xca-query.xml", 0, 3, Class::Entries(0)),
    ("xca/query/order/xca-query-invalid-id.xml", 0, 2, Class::Code("4206")),
    ("xca/query/order/xca-query-empty-id.xml", 0, 2, Class::Code("XDSRegistryError")),
    // A status that names none, and a class code without quotes.
    ("xca/AdhocQueryRequest.xml", 0, 2, Class::Code("XDSStoredQueryMissingParam")),
    ("dk-test-tool/xca/query/request-ps.xml", 1, 1, Class::Entries(0)),
    ("dk-test-tool/xca/query/request-ep.xml", 1, 1, Class::Entries(0)),
    ("xca/retrieve/order/xca-retrieve-empty-id.xml", 0, 2, Class::Code("XDSUnknownRepositoryId")),
    // A RepositoryUniqueId that is no OID is a repository that nobody has.
    ("xca/retrieve/order/xca-retrieve-invalid-id.xml", 0, 2, Class::Code("XDSUnknownRepositoryId")),
    ("xca/retrieve/order/xca-retrieve.xml", 2, 2, Class::Code("XDSUnknownRepositoryId")),
    ("xca/retrieve/mro/xca-retrieve.xml", 0, 3, Class::Code("XDSUnknownRepositoryId")),
    ("xca/retrieve/mro/xca-retrieve-pdf.xml", 0, 3, Class::Code("XDSUnknownRepositoryId")),
    ("dk-test-tool/xca/retrieve/request-ps.xml", 1, 1, Class::Code("XDSMissingHomeCommunityId")),
    ("dk-test-tool/xca/retrieve/request-ep.xml", 1, 1, Class::Code("XDSMissingHomeCommunityId")),
];

fn data() -> Option<PathBuf> {
    let folder = messages::shared_data().map(|data| data.join("openncp")).filter(|folder| folder.is_dir());
    if folder.is_none() {
        println!("skipped: needs NCP_SHARED_DATA");
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_openncp_are_answered_as_their_class_deserves() {
    let Some(data) = data() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let own = CountryPki::create(&dir.path().join("own"), "NO", Algorithm::Rsa2048).expect("a PKI");
    let asking = CountryPki::create(&dir.path().join("asking"), "FI", Algorithm::P256).expect("a PKI");
    let captured = |home: &str| dir.path().join("captured").join(home);
    let mut gateways = Vec::new();
    for home in HOMES {
        let node = gateway(&dir.path().join(home), home, (&own, &asking), "", "").await.expect("a gateway");
        let capture = Capture::new(&captured(home)).expect("a capture");
        let mut neighbour = node.asked_by(&asking, ASKING, &own, Some(&capture)).expect("a neighbour");
        neighbour.origin = Origin::Given;
        gateways.push((node, neighbour));
    }
    let mut wrong = Vec::new();
    for (file, home, patient, class) in BODIES {
        let neighbour = &gateways[*home].1;
        let patient = PatientId::parse_cx(PATIENTS[*patient]).expect("a CX");
        let found = match ask(neighbour, &data.join(file), &patient).await {
            Ok(answer) => judge(*class, &answer),
            Err(error) => Some(error.to_string()),
        };
        wrong.extend(found.map(|what| format!("{file}: {what}, expected {class:?}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let mut report = messages::Report::default();
    for (home, (node, _)) in HOMES.iter().zip(&gateways) {
        messages::assert_clean(&captured(home), 1);
        let kept = messages::load(&captured(home)).expect("read");
        let trail = Trail { home: (*home).to_owned(), records: node.records().expect("records") };
        messages::check_answered(&kept, &[trail], &[ASKING], &mut report);
    }
    assert_eq!(report.findings, []);
}

/// A body out of its file: bare, or out of the envelope of a template.
fn body(file: &Path) -> Result<Element, Error> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    // Templates have places for assertions; their body stands without them.
    let text = text.replace("{{hcp-assertion|safe}}", "").replace("{{trc-assertion|safe}}", "");
    let root = Element::parse(text.trim_start().as_bytes(), &Limits::ANSWER)?;
    Ok(match root.child(SOAP, "Body") {
        Some(body) => body.elements().next().ok_or("an empty body")?.clone(),
        None => root,
    })
}

async fn ask(neighbour: &Neighbour, file: &Path, patient: &PatientId) -> Result<Answer, Error> {
    let body = body(file)?;
    let (action, path) = match body.local() {
        "PRPA_IN201305UV02" => (actions::ITI55_REQUEST, XCPD),
        "AdhocQueryRequest" => (actions::ITI38_REQUEST, XCA),
        _ => (actions::ITI39_REQUEST, XCA),
    };
    let mut assertions = neighbour.assertions(patient).await?;
    if action == actions::ITI55_REQUEST {
        assertions.truncate(1);
    }
    neighbour.call(action, path, &assertions, body).await
}

fn judge(class: Class, answer: &Answer) -> Option<String> {
    if let Some(fault) = answer.fault() {
        return Some(format!("{fault:?}"));
    }
    let codes = answer.codes();
    let found = match answer.body.local() {
        "PRPA_IN201306UV02" => match PatientResponse::read(&answer.body) {
            Ok(PatientAnswer::Matches(all)) if all.len() == 1 => Class::Match,
            Ok(PatientAnswer::NoMatch { .. }) => Class::NoMatch,
            Ok(_) => Class::NotAnswered,
            Err(error) => return Some(error.to_string()),
        },
        "AdhocQueryResponse" => match QueryResponse::read(&answer.body) {
            Ok((response, _)) if codes.is_empty() => Class::Entries(response.objects.entries.len()),
            Ok(_) => {
                return (!matches!(class, Class::Code(code) if codes.iter().any(|c| c == code)))
                    .then(|| codes.join(", "));
            }
            Err(error) => return Some(error.to_string()),
        },
        _ => match retrieve_response(&answer.body) {
            Ok(_) => {
                return (!matches!(class, Class::Code(code) if codes.iter().any(|c| c == code)))
                    .then(|| codes.join(", "));
            }
            Err(error) => return Some(error.to_string()),
        },
    };
    (found != class).then(|| format!("{found:?} {}", codes.join(", ")))
}

async fn gateway(
    dir: &Path,
    home: &str,
    (own, asking): (&CountryPki, &CountryPki),
    listener: &str,
    more: &str,
) -> Result<Node, Error> {
    let data = dir.join("data");
    std::fs::create_dir_all(data.join("reports"))?;
    std::fs::create_dir_all(data.join("dicom"))?;
    std::fs::copy(sources().join("deploy/demo/no/manifest.toml"), data.join("manifest.toml"))?;
    let persons: String = PATIENTS
        .iter()
        .map(|id| format!("[[patient]]\nnational_id = \"{id}\"\nfamily = \"F\"\ngiven = [\"G\"]\nbirth_date = \"19800101\"\nsex = \"F\"\n"))
        .collect();
    std::fs::write(dir.join("patients.toml"), persons)?;
    // An ePrescription, the class that the bodies ask for.
    std::fs::write(data.join("reports/prescription.txt"), "prescription")?;
    std::fs::write(
        data.join("reports/prescription.toml"),
        format!(
            r#"file = "prescription.txt"
media_type = "text/plain"
unique_id = "2.999.47.71.1"
patient = "{}"
title = "ePrescription"
language = "nb-NO"
created = "2026-01-02T10:00:00Z"
class = {{ code = "57833-6", system = "2.16.840.1.113883.6.1", display = "Prescription for medication" }}
type = {{ code = "57833-6", system = "2.16.840.1.113883.6.1", display = "Prescription for medication" }}
format = {{ code = "urn:epSOS:ep:pre:2010", system = "2.999.47.50", display = "ePrescription" }}
practice_setting = {{ code = "394802001", system = "2.16.840.1.113883.6.96", display = "General medicine" }}
facility_type = {{ code = "35971002", system = "2.16.840.1.113883.6.96", display = "Ambulatory care site" }}
confidentiality = [{{ code = "N", system = "2.16.840.1.113883.5.25", display = "Normal" }}]
"#,
            PATIENTS[2]
        ),
    )?;
    let national = format!(
        r#"[national]
patients_file = "patients.toml"
[[national.connector]]
kind = "embedded"
name = "registry"
folder = "{}"
repository_unique_id = "2.999.47.21.1"
location_uids = ["2.999.47.21.1"]
uid_root = "2.999.47.31"
"#,
        data.display()
    );
    let peers = asking_peer(asking, ASKING, "body");
    Node::start(&Setup { dir, pki: own, home, national, peers, listener: listener.into(), more: more.into() }).await
}

/// Trusts whatever certificate the header brings, so that only its signature decides.
struct Anybody(Country);

impl SignerTrust for Anybody {
    fn signer(&self, certificate: &X509Ref) -> Result<SignerIdentity, String> {
        let facts = CertificateFacts::of(certificate).map_err(|e| e.to_string())?;
        Ok(SignerIdentity {
            country: self.0,
            fingerprint: facts.fingerprint,
            common_name: facts.common_name,
            stale: false,
        })
    }
}

/// The upstream project edited the fixture after capture: structure and digests hold, the signature value does not.
#[tokio::test]
async fn the_captured_header_is_refused_for_its_signature_alone() {
    let Some(data) = data() else { return };
    let file = data.join("saml/openncp_soap_header.xml");
    let header = std::fs::read_to_string(&file).expect("the header");
    let message = format!("<s:Envelope xmlns:s=\"{SOAP}\">{}<s:Body><x/></s:Body></s:Envelope>", header.trim());
    let verifier = Verifier::start(1).expect("starts");
    let trust = Arc::new(Anybody(Country::parse("DK").expect("DK")));
    let issued = "2025-07-26T11:36:00Z".parse().expect("an instant");
    let refused = verifier.verify(message.clone().into(), trust.clone(), issued).await;
    assert!(matches!(refused, Err(AssertionError::Signature(_))), "{refused:?}");
    // One character of the signed content changed: the same refusal, but now the digest is what xmlsec1 finds wrong.
    for (text, references) in [(header.clone(), "1/1"), (header.replacen("urn:idp:DK", "urn:idp:SE", 1), "0/1")] {
        let said = xmlsec1(&text);
        assert!(said.contains(&format!("SignedInfo References (ok/all): {references}")), "{said}");
        assert!(!said.starts_with("OK"), "{said}");
    }
}

/// What another implementation says of the first assertion of a header, with the certificate that it brings.
fn xmlsec1(header: &str) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let start = header.find("<saml2:Assertion").expect("an assertion");
    let end = header.find("</saml2:Assertion>").expect("its end") + "</saml2:Assertion>".len();
    let assertion = &header[start..end];
    let certificate =
        assertion.split("X509Certificate>").nth(1).and_then(|t| t.split('<').next()).expect("a certificate");
    let compact: String = certificate.split_whitespace().collect();
    let lines: Vec<&str> = compact.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).expect("base64")).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let (xml, cert) = (dir.path().join("assertion.xml"), dir.path().join("signer.pem"));
    std::fs::write(&xml, assertion).expect("written");
    std::fs::write(&cert, pem).expect("written");
    let out = Command::new("xmlsec1")
        .args(["--verify", "--id-attr:ID", "urn:oasis:names:tc:SAML:2.0:assertion:Assertion", "--pubkey-cert-pem"])
        .arg(cert)
        .arg(xml)
        .output()
        .expect("xmlsec1 is installed");
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}
