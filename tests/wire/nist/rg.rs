//! Responding Gateway: stored queries and retrieves over the documents that the definitions load.

use std::path::Path;

use ncp_ihe::{PatientId, QueryResponse, actions};
use ncp_saml::SignedAssertion;
use ncp_tests::messages::Origin;
use ncp_tests::neighbour::{Answer, Neighbour, XCA, retrieve_response};
use ncp_tests::pki::Error;
use ncp_xml::Element;

use super::plan::{self, Outcome, Sender, Sends, Values};
use super::table::{Table, Verdict};
use super::{ASKING, World};
use crate::node::{Node, Setup, asking_peer, sources};

/// homeCommunityId of the Responding Gateway.
pub(super) const HOME: &str = "1.3.6.1.4.1.21367.13.70.200";
const REPOSITORY: &str = "1.3.6.1.4.1.21367.13.71.200";
const AUTHORITY: &str = "1.3.6.1.4.1.21367.13.20.1000";

/// The submissions that the definitions build on: where their identifiers are looked for, the step, and the documents.
/// The files of 15807 are not published with the definitions; one of 12318 stands for each.
const SUBMISSIONS: &[(&str, &str, &[&str])] = &[
    ("12318/init", "init", &["my_document.txt", "summary.xml"]),
    ("15807/onedoc1", "submit_single_doc", &["my_document.txt"]),
    ("15807/twodoc", "submit", &["my_document.txt", "my_document2.txt"]),
];

/// The definitions of the list, in the order in which they build on each other.
const TESTS: &[&str] = &["12309", "12310", "12311", "12312", "12313", "15811", "15813", "15815", "15831"];

/// Runs the list.
pub(crate) async fn run(world: &World, table: &mut Table) -> Result<(), Error> {
    let dir = world.folder("rg");
    let mut values = Values::of(HOME);
    load(&dir, &mut values)?;
    let node = gateway(world, &dir, "body").await?;
    let mut neighbour = node.asked_by(&world.asking, ASKING, &world.own, Some(&world.capture))?;
    neighbour.origin = Origin::Given;
    for test in TESTS {
        for section in plan::sections(&super::testkit().join(test))? {
            let rg = Rg { neighbour: &neighbour, patient: patient_of(test, &section)? };
            let steps = match plan::run(test, &section, &rg, &mut values).await {
                Ok(steps) => steps,
                Err(error) => vec![(String::new(), Verdict::Failed(error.to_string()))],
            };
            for (step, verdict) in steps {
                table.add("RG", test, &format!("{section} {step}"), verdict);
            }
        }
    }
    table.add("RG", "12320", "", Verdict::NotDeclared("Restricted Metadata Update is another profile"));
    table.add("RG", "15829", "", Verdict::NotDeclared("On-Demand Documents option; an operator changes the document"));
    Ok(())
}

/// The patient whose treatment the assertions confirm: the one whom the section asks about.
pub(super) fn patient_of(test: &str, section: &str) -> Result<PatientId, Error> {
    let at = match (test, section) {
        ("15811", "TwoDocFindDocuments") | ("15813", _) => "15807/twodoc",
        ("15811", _) => "15807/onedoc1",
        _ => "12318/init",
    };
    Ok(PatientId::parse_cx(&patient(at))?)
}

fn patient(at: &str) -> String {
    format!("{}^^^&{AUTHORITY}&ISO", at.replace('/', "-"))
}

/// Writes the documents with their metadata, and remembers what later steps take over.
pub(super) fn load(dir: &Path, values: &mut Values) -> Result<(), Error> {
    let folder = dir.join("data");
    let reports = folder.join("reports");
    std::fs::create_dir_all(&reports)?;
    std::fs::create_dir_all(folder.join("dicom"))?;
    std::fs::copy(sources().join("deploy/demo/no/manifest.toml"), folder.join("manifest.toml"))?;
    let mut patients = String::new();
    for (at, step, files) in SUBMISSIONS {
        let (test, section) = at.split_once('/').ok_or("test/section")?;
        let patient = patient(at);
        // The person whom summary.xml of 12318 records: documents that name somebody else are withheld (CO-01).
        patients.push_str(&format!(
            "[[patient]]\nnational_id = \"{patient}\"\nfamily = \"Aaaactxy\"\ngiven = [\"Cxey\"]\nbirth_date = \"19800808\"\nsex = \"M\"\n"
        ));
        values.id(at, "AssignedPatientId", "SubmissionSet01", &patient);
        values.report((test, section, step), "$testdata_home$", &format!("urn:oid:{HOME}"));
        for (index, file) in files.iter().enumerate() {
            let object = format!("Document0{}", index + 1);
            let unique_id = format!("2.999.47.70.{}.{}", values.documents.len() + 1, index + 1);
            let bytes = std::fs::read(super::testkit().join("12318").join(file))?;
            let name = format!("{}-{object}", at.replace('/', "-"));
            let media_type = if file.ends_with(".xml") { "text/xml" } else { "text/plain" };
            std::fs::write(reports.join(file), &bytes)?;
            std::fs::write(reports.join(format!("{name}.toml")), report(file, media_type, &unique_id, &patient))?;
            values.id(at, "AssignedUids", &object, &unique_id);
            values.id(at, "AssignedUuids", &object, &entry_uuid(&unique_id));
            values.report((test, section, step), &format!("{object}_uid"), &unique_id);
            values.documents.insert(unique_id, bytes);
        }
    }
    values.report(("12318", "query", "query"), "repuid", REPOSITORY);
    std::fs::write(dir.join("patients.toml"), patients)?;
    Ok(())
}

/// As the embedded connector makes it of the uniqueId.
pub(super) fn entry_uuid(unique_id: &str) -> String {
    let digest = openssl::sha::sha256(unique_id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().urn().to_string()
}

/// Metadata of `12318/init/two_doc.xml` in the connector's form.
fn report(file: &str, media_type: &str, unique_id: &str, patient: &str) -> String {
    let code =
        |code: &str, scheme: &str| format!("{{ code = \"{code}\", system = \"{scheme}\", display = \"{code}\" }}");
    // NIST submits both with 20051224; the CDA itself says when it was made, and rule 11 takes it by its word.
    let created = if file.ends_with(".xml") { "2008-05-22T10:08:45-05:00" } else { "2005-12-24T00:00:00Z" };
    format!(
        r#"file = "{file}"
media_type = "{media_type}"
unique_id = "{unique_id}"
patient = "{patient}"
title = "Physical"
language = "en-us"
created = "{created}"
service_start = "2005-12-24T08:00:00Z"
author = "^Smitty^Gerald^^^"
institution = "Cleveland Clinic"
class = {class}
type = {kind}
format = {format}
practice_setting = {practice}
facility_type = {facility}
confidentiality = [{confidentiality}]
"#,
        class = code("Communication", "Connect-a-thon classCodes"),
        kind = code("34098-4", "2.16.840.1.113883.6.1"),
        format = code("CDAR2/IHE 1.0", "Connect-a-thon formatCodes"),
        practice = code("Dialysis", "Connect-a-thon practiceSettingCodes"),
        facility = code("Outpatient", "Connect-a-thon healthcareFacilityTypeCodes"),
        confidentiality = code("N", "2.16.840.1.113883.5.25"),
    )
}

/// A gateway over what was loaded.
pub(super) async fn gateway(world: &World, dir: &Path, security_errors: &str) -> Result<Node, Error> {
    let national = format!(
        "[national]\npatients_file = \"patients.toml\"\nlanguage = \"en-us\"\n{}",
        super::rig::embedded("registry", &dir.join("data"), REPOSITORY)
    );
    let setup = Setup {
        dir,
        pki: &world.own,
        home: HOME,
        national,
        peers: asking_peer(&world.asking, ASKING, security_errors),
        listener: String::new(),
        more: String::new(),
    };
    Node::start(&setup).await
}

/// A neighbour that asks for one patient.
struct Rg<'a> {
    neighbour: &'a Neighbour,
    patient: PatientId,
}

impl Sender for Rg<'_> {
    async fn send(&self, sends: Sends, body: Element) -> Result<Outcome, Error> {
        let assertions = self.neighbour.assertions(&self.patient).await?;
        ask(self.neighbour, sends, &assertions, body).await
    }
}

/// Sends ITI-38 or ITI-39 and reads the whole answer.
pub(super) async fn ask(
    neighbour: &Neighbour,
    sends: Sends,
    assertions: &[SignedAssertion],
    body: Element,
) -> Result<Outcome, Error> {
    let action = match sends {
        Sends::Query => actions::ITI38_REQUEST,
        Sends::Retrieve => actions::ITI39_REQUEST,
    };
    outcome(neighbour.call(action, XCA, assertions, body).await?, sends).await
}

pub(super) async fn outcome(mut answer: Answer, sends: Sends) -> Result<Outcome, Error> {
    if let Some(fault) = answer.fault() {
        return Ok(Outcome { status: "Fault".into(), codes: vec![fault.subcode], ..Outcome::default() });
    }
    let mut out = Outcome { codes: answer.codes(), body: Some(answer.body.clone()), ..Outcome::default() };
    if sends == Sends::Query {
        out.status = format!("{:?}", QueryResponse::read(&answer.body)?.0.status);
        return Ok(out);
    }
    let response = retrieve_response(&answer.body)?;
    out.status = format!("{:?}", response.status);
    while let Some(head) = answer.parts.next().await? {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.parts.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        let named = response.documents.iter().find(|d| d.content == ncp_ihe::Content::Include(head.content_id.clone()));
        let named = named.ok_or("a part that the root does not name")?;
        out.documents.push((named.request.document.clone(), named.media_type.clone(), bytes));
    }
    Ok(out)
}
