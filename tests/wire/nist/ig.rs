//! Initiating (Imaging) Gateway: a national consumer in front, two communities behind, which answer as the definitions have
//! it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ncp_gateway::{app, config};
use ncp_ihe::{
    Availability, Coded, Content, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, DocumentResponse,
    EntryType, HomeCommunityId, ImagingRequest, Oid, PatientId, QueryResponse, RegistryError, RegistryObjects,
    RetrieveRequest, RetrieveResponse, ReturnType, Severity, Status, StoredQuery, actions,
};
use ncp_saml::HcpClaims;
use ncp_tests::asking::{AUDIENCE, Asking, Known, PATIENTS};
use ncp_tests::consumer::Consumer;
use ncp_tests::country::{Asked, Country, Reaction};
use ncp_tests::messages::Origin;
use ncp_tests::neighbour::Neighbour;
use ncp_tests::pki::Error;
use ncp_xml::Element;

use super::images::{self, Placed};
use super::plan::{self, Outcome, Sender, Sends, Values, find};
use super::rig;
use super::table::{Table, Verdict};
use super::{World, rg};
use crate::node::sources;

/// Communities 1 and 2 of the XCA definitions, A and B of the XCA-I ones.
const HOMES: [&str; 2] = ["1.3.6.1.4.1.21367.13.70.101", "1.3.6.1.4.1.21367.13.70.102"];
const REPOSITORIES: [&str; 2] = ["1.3.6.1.4.1.21367.13.71.101", "1.3.6.1.4.1.21367.13.71.102"];

/// What a community holds.
#[derive(Default)]
struct Holding {
    entries: Vec<(DocumentEntry, Bytes)>,
    /// A patient for whom its registry fails.
    failing: Option<PatientId>,
    images: Images,
}

/// Images with their transfer syntax and the source that holds them.
pub(super) type Images = Vec<(String, String, Placed)>;

type Shared = Arc<Mutex<Holding>>;

/// The gateway under test with its neighbours.
pub(super) struct Ig {
    pub(super) consumer: Consumer,
    pub(super) claims: HcpClaims,
    communities: [(Country, Shared); 2],
    task: tokio::task::JoinHandle<Result<(), String>>,
}

impl Drop for Ig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ig {
    pub(super) async fn start(world: &World, name: &str) -> Result<Self, Error> {
        let dir = world.folder(name);
        std::fs::create_dir_all(&dir)?;
        let asking = Asking::create(&dir)?;
        let anchors = asking.pki.path("anchors.pem");
        let mut communities = Vec::new();
        let mut certificates = Vec::new();
        for (code, home) in ["AA", "BB"].into_iter().zip(HOMES) {
            let pki = asking.other(code)?;
            let held = Shared::default();
            let own = held.clone();
            let country = Country::start(&pki, &anchors, move |asked| react(&own, home, asked)).await?;
            communities.push((country, held));
            certificates.push(pki);
        }
        let known: Vec<Known<'_>> = certificates
            .iter()
            .zip(&communities)
            .zip(HOMES)
            .map(|((pki, (country, _)), home)| Known { pki, home: home.to_owned(), country, lines: String::new() })
            .collect();
        let path = asking.write([0; 3], "", &sources().join("gateway/policies/no"), &known)?;
        let config =
            config::load(&path).map_err(|p| p.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let bound = app::bind(app::build(config).await.map_err(|p| p.join("; "))?).await?;
        let port = bound.consumers_address().ok_or("no address")?.port();
        let task = tokio::spawn(bound.serve());
        let mut consumer = Consumer::new(&asking.pki, &anchors, AUDIENCE, port)?;
        consumer.capture = Some(world.capture.clone());
        consumer.origin = Origin::Given;
        let claims = Neighbour::new(&asking.pki, "2.999.47", &anchors, "localhost", port)?.claims();
        let communities = communities.try_into().map_err(|_| "two communities")?;
        Ok(Self { consumer, claims, communities, task })
    }

    fn holding(&self, community: usize) -> std::sync::MutexGuard<'_, Holding> {
        self.communities[community].1.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Keeps what the gateway sent to the communities, and gives it by community.
    fn sent(&self, world: &World, since: [usize; 2]) -> Result<Vec<Vec<Asked>>, Error> {
        let mut out = Vec::new();
        for ((country, _), since) in self.communities.iter().zip(since) {
            let asked = country.asked().split_off(since);
            for one in &asked {
                world.capture.envelope(one.xop, Origin::Ours, &one.envelope)?;
            }
            out.push(asked);
        }
        Ok(out)
    }

    fn counts(&self) -> [usize; 2] {
        [self.communities[0].0.asked().len(), self.communities[1].0.asked().len()]
    }
}

/// A community's gateways.
fn react(held: &Shared, home: &'static str, asked: &Asked) -> Reaction {
    let held = held.lock().unwrap_or_else(|p| p.into_inner());
    let answered = match asked.action.as_str() {
        actions::ITI38_REQUEST => query(&held, asked),
        actions::ITI39_REQUEST => documents(&held, asked),
        actions::RAD75_REQUEST => study(&held.images, Some(home), actions::RAD75_RESPONSE, asked),
        _ => None,
    };
    answered.unwrap_or(Reaction::Status(500))
}

fn error(code: &str, location: Option<String>) -> RegistryError {
    RegistryError { code: code.into(), context: "as told".into(), severity: Severity::Error, location }
}

fn status(errors: &[RegistryError], results: usize) -> Status {
    match (errors.is_empty(), results) {
        (true, _) => Status::Success,
        (false, 0) => Status::Failure,
        (false, _) => Status::PartialSuccess,
    }
}

fn query(held: &Holding, asked: &Asked) -> Option<Reaction> {
    let request = CrossGatewayQueryRequest::read(&asked.body).ok()?;
    let mut errors = Vec::new();
    if let StoredQuery::FindDocuments(find) = &request.query
        && held.failing.as_ref() == Some(&find.patient_id)
    {
        errors.push(error("XDSRegistryError", request.home.as_ref().map(ToString::to_string)));
    }
    let wanted = |entry: &&DocumentEntry| match &request.query {
        StoredQuery::FindDocuments(find) => find.matches(entry),
        StoredQuery::GetDocuments(ids) => ids.name(entry),
        _ => false,
    };
    let entries: Vec<DocumentEntry> = held.entries.iter().map(|(e, _)| e).filter(wanted).cloned().collect();
    let status = status(&errors, entries.len());
    let response = match request.return_type {
        ReturnType::ObjectRef => QueryResponse {
            status,
            errors,
            objects: RegistryObjects::default(),
            object_refs: entries.into_iter().map(|e| (e.entry_uuid, e.home)).collect(),
        },
        ReturnType::LeafClass => {
            QueryResponse { status, errors, objects: RegistryObjects::of_entries(entries), object_refs: Vec::new() }
        }
    };
    Some(Reaction::Simple(actions::ITI38_RESPONSE, response.to_element()))
}

pub(super) fn package(
    action: &'static str,
    found: Vec<(DocumentRequest, String, Bytes)>,
    errors: Vec<RegistryError>,
) -> Reaction {
    let mut parts = Vec::new();
    let mut documents = Vec::new();
    for (index, (request, media_type, bytes)) in found.into_iter().enumerate() {
        let content_id = format!("{index}@community");
        let kind = if media_type == "application/dicom" { "application/dicom" } else { "application/octet-stream" };
        parts.push((content_id.clone(), kind, bytes));
        documents.push(DocumentResponse {
            request,
            new_document: None,
            media_type,
            content: Content::Include(content_id),
        });
    }
    let body = RetrieveResponse { status: status(&errors, documents.len()), errors, documents }.to_element();
    Reaction::Parts(action, body, parts)
}

fn documents(held: &Holding, asked: &Asked) -> Option<Reaction> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for request in RetrieveRequest::read(&asked.body).ok()?.documents {
        match held.entries.iter().find(|(e, _)| e.unique_id == request.document) {
            Some((entry, bytes)) => found.push((request, entry.mime_type.clone(), bytes.clone())),
            None => errors.push(error("XDSDocumentUniqueIdError", Some(request.document))),
        }
    }
    Some(package(actions::ITI39_RESPONSE, found, errors))
}

/// RAD-75 and RAD-69: what the source holds in a syntax of the list.
pub(super) fn study(images: &Images, home: Option<&str>, response: &'static str, asked: &Asked) -> Option<Reaction> {
    let wanted = ImagingRequest::read(&asked.body).ok()?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for request in wanted.studies.iter().flat_map(|s| &s.series).flat_map(|s| &s.instances) {
        let image = images.iter().find(|(source, _, placed)| {
            request.repository.as_str() == source && placed.sop_instance == request.document
        });
        let location = home.map_or(request.document.clone(), |home| format!("{} urn:oid:{home}", request.document));
        match image {
            None => errors.push(error("XDSDocumentUniqueIdError", Some(location))),
            Some((_, syntax, _)) if !wanted.transfer_syntaxes.iter().any(|s| s.as_str() == syntax) => {
                errors.push(error("XDSRepositoryError", Some(location)));
            }
            Some((_, _, placed)) => {
                let bytes = std::fs::read(&placed.path).ok()?;
                found.push((request.clone(), "application/dicom".to_owned(), Bytes::from(bytes)));
            }
        }
    }
    Some(package(response, found, errors))
}

/// What lies at these sources.
pub(super) fn held(placed: &[Placed], sources: &[&str]) -> Images {
    let mut out = Vec::new();
    for source in sources {
        let own = placed.iter().filter(|p| p.path.components().any(|c| c.as_os_str() == *source));
        out.extend(own.map(|p| ((*source).to_owned(), images::syntax(&p.path), p.clone())));
    }
    out
}

/// Both revisions of the XCA-I definitions.
pub(crate) async fn imaging(world: &World, table: &mut Table) -> Result<(), Error> {
    let ig = Ig::start(world, "iig").await?;
    for (suite, prefix) in [("IIG 2016", "iig_54"), ("IIG 2018", "iig_2018-54")] {
        for test in plan::tests(prefix)? {
            let folder = super::testkit().join(&test);
            if folder.join("Rad69RetrieveRequest").is_dir() {
                one(world, &ig, suite, &test, &folder, table).await.map_err(|e| format!("{test}: {e}"))?;
            }
        }
    }
    Ok(())
}

async fn one(
    world: &World,
    ig: &Ig,
    suite: &'static str,
    test: &str,
    folder: &Path,
    table: &mut Table,
) -> Result<(), Error> {
    let body = super::read(&folder.join("Rad69RetrieveRequest/RAD-69Request.xml"))?;
    let request = ImagingRequest::read(&body)?;
    let expected = rig::expected_response(&folder.join("ValidateRad69Response"))?;
    let promised = |uid: &str| expected.documents.iter().any(|d| d.request.document == uid);
    let (placed, _) = images::place(&images::originals()?, &request, promised, &world.folder(test))?;
    let note = if placed.iter().all(|p| p.original) { "" } else { "with images generated to the UIDs" };
    for (community, repository) in REPOSITORIES.iter().enumerate() {
        ig.holding(community).images = held(&placed, &[repository]);
    }
    let before = ig.counts();
    let patient = PatientId::new("IIG", Oid::parse(PATIENTS)?)?;
    let assertions = ig.consumer.assertions(&ig.claims, &patient).await?;
    let answer = ig.consumer.call(&assertions, body).await?;
    let returned = rig::returned(answer).await?;
    let mut asked = Vec::new();
    for (letter, sent) in ["A", "B"].into_iter().zip(ig.sent(world, before)?) {
        asked.push((letter, sent.iter().map(|a| ImagingRequest::read(&a.body)).collect::<Result<_, _>>()?));
    }
    for section in plan::sections(folder)? {
        let path = folder.join(&section);
        let verdict = match section.as_str() {
            "Rad69RetrieveRequest" => rig::status(&path, returned.response.status)?,
            "ValidateRad69Response" => rig::same_response(&expected, &returned, rig::errors_wanted(&path)?),
            "ValidateReturnedImages" => rig::same_images(&placed, &returned),
            _ => same_requests(&path, &asked)?,
        };
        table.note(suite, test, &section, verdict, note);
    }
    Ok(())
}

/// `sameReqImgs`: what each receiver was asked for is what the definition says, no more and no less. The bodies are named
/// by the receiver's letter.
pub(super) fn same_requests(section: &Path, asked: &[(&str, Vec<ImagingRequest>)]) -> Result<Verdict, Error> {
    let plan = super::read(&section.join("testplan.xml"))?;
    for (letter, asked) in asked {
        let Some(body) = find(&plan, &format!("RequestBody-{letter}")) else { continue };
        let expected = ImagingRequest::read(body.elements().next().ok_or("an empty RequestBody")?)?;
        let mut wanted = units(&expected);
        wanted.sort();
        let mut got: Vec<String> = asked.iter().flat_map(units).collect();
        got.sort();
        if wanted != got {
            return Ok(Verdict::Failed(format!("{letter} was asked for another set of images")));
        }
    }
    Ok(Verdict::Passed)
}

/// Each unit of a request with all that names it.
fn units(request: &ImagingRequest) -> Vec<String> {
    let mut syntaxes: Vec<&str> = request.transfer_syntaxes.iter().map(|s| s.as_str()).collect();
    syntaxes.sort_unstable();
    let mut out = Vec::new();
    for study in &request.studies {
        for series in &study.series {
            for i in &series.instances {
                let home = i.home.as_ref().map(ToString::to_string).unwrap_or_default();
                out.push(format!(
                    "{} {} {home} {} {} {syntaxes:?}",
                    study.study, series.series, i.repository, i.document
                ));
            }
        }
    }
    out
}

/// Submissions of 15807 and 12318: where, step, community, files.
const SUBMISSIONS: &[(&str, &str, usize, &[&str])] = &[
    ("12318/init", "init", 0, &["my_document.txt", "summary.xml"]),
    ("15807/onedoc1", "submit_single_doc", 0, &["my_document.txt"]),
    ("15807/twodoc", "submit", 0, &["my_document.txt", "my_document2.txt"]),
    ("15807/onedoc2", "submit_single_doc", 0, &["my_document.txt"]),
    ("15807/onedoc3", "submit_single_doc", 1, &["my_document2.txt"]),
    ("15807/registryError", "submit_single_doc", 1, &["my_document.txt"]),
];

/// The patient of a submission; those of onedoc2 and onedoc3 are one.
fn patient(at: &str) -> Result<PatientId, Error> {
    let name = if at == "15807/onedoc3" { "15807/onedoc2" } else { at };
    Ok(PatientId::new(&name.replace('/', "-"), Oid::parse(PATIENTS)?)?)
}

/// Fills both communities, and remembers what steps take over.
pub(super) fn load(ig: &Ig) -> Result<Values, Error> {
    let mut values = Values::of(HOMES[0]);
    for (at, step, community, files) in SUBMISSIONS {
        let (test, section) = at.split_once('/').ok_or("test/section")?;
        let patient = patient(at)?;
        let place = (test, section, *step);
        values.id(at, "AssignedPatientId", "SubmissionSet01", &patient.to_cx());
        values.report(place, "$testdata_home$", &format!("urn:oid:{}", HOMES[*community]));
        values.report(place, "$testdata_repid$", REPOSITORIES[*community]);
        if *at == "15807/onedoc1" {
            values.report(("15824", "pif", "step"), "$patientid$", &patient.to_cx());
        }
        if *at == "15807/registryError" {
            ig.holding(0).failing = Some(patient.clone());
        }
        for (index, file) in files.iter().enumerate() {
            let bytes = std::fs::read(super::testkit().join("12318").join(file))?;
            let unique_id = format!("2.999.101.70.{}", values.documents.len() + 1);
            let entry = entry(&unique_id, *community, &patient, file, &bytes)?;
            let object = format!("Document0{}", index + 1);
            values.id(at, "AssignedUids", &object, &unique_id);
            values.id(at, "AssignedUuids", &object, &entry.entry_uuid);
            values.report(place, "$uid$", &unique_id);
            values.report(place, "$mimeType$", &entry.mime_type);
            ig.holding(*community).entries.push((entry, bytes.clone().into()));
            values.documents.insert(unique_id, bytes);
        }
    }
    Ok(values)
}

pub(super) fn entry(
    unique_id: &str,
    community: usize,
    patient: &PatientId,
    file: &str,
    bytes: &[u8],
) -> Result<DocumentEntry, Error> {
    let code = |code: &str, system: &str| Coded::new(code, system, Some(code));
    Ok(DocumentEntry {
        entry_uuid: rg::entry_uuid(unique_id),
        unique_id: unique_id.to_owned(),
        home: Some(HomeCommunityId::parse(&format!("urn:oid:{}", HOMES[community]))?),
        repository_unique_id: Oid::parse(REPOSITORIES[community])?,
        availability: Availability::Approved,
        entry_type: EntryType::Stable,
        patient_id: patient.clone(),
        source_patient_id: Some(patient.clone()),
        source_patient_info: Vec::new(),
        class_code: code("Communication", "Connect-a-thon classCodes"),
        type_code: code("34098-4", "2.16.840.1.113883.6.1"),
        format_code: code("CDAR2/IHE 1.0", "Connect-a-thon formatCodes"),
        practice_setting: code("Dialysis", "Connect-a-thon practiceSettingCodes"),
        facility_type: code("Outpatient", "Connect-a-thon healthcareFacilityTypeCodes"),
        confidentiality: vec![code("N", "2.16.840.1.113883.5.25")],
        event_codes: Vec::new(),
        language: "en-us".into(),
        mime_type: if file.ends_with(".xml") { "text/xml" } else { "text/plain" }.into(),
        title: Some("Physical".into()),
        comments: None,
        // As in `rg::report`.
        creation_time: ncp_ihe::Dtm::parse(if file.ends_with(".xml") { "20080522150845" } else { "20051224" }).ok(),
        service_start: ncp_ihe::Dtm::parse("200512240800").ok(),
        service_stop: ncp_ihe::Dtm::parse("200512241100").ok(),
        hash: Some(hex::encode(openssl::sha::sha1(bytes))),
        size: Some(bytes.len() as u64),
        reference_ids: Vec::new(),
        authors: Vec::new(),
        legal_authenticator: None,
        extra_slots: Vec::new(),
    })
}

/// The definitions, in the order in which they build on each other.
const TESTS: &[(&str, &[&str])] = &[
    ("12300", &["finddocs"]),
    ("12306", &["finddocs"]),
    ("12307", &["getdocs"]),
    ("15808", &["SingleDocumentFindDocuments", "SingleDocumentGetDocuments", "TwoDocumentsFindDocuments"]),
    ("15809", &["OneDocRetrieve", "TwoDocRetrieve"]),
    ("15810", &["TwoRGFindDocuments", "RG1Retrieve", "RG2Retrieve"]),
    ("15814", &["XDSRegistryError"]),
];

/// Runs the XCA list.
pub(crate) async fn run(world: &World, table: &mut Table) -> Result<(), Error> {
    let ig = Ig::start(world, "ig").await?;
    let mut values = load(&ig)?;
    for (test, sections) in TESTS {
        for section in *sections {
            let sender = Asks { ig: &ig, world, patient: patient_of(test, section)? };
            let steps = match plan::run(test, section, &sender, &mut values).await {
                Ok(steps) => steps,
                Err(error) => vec![(String::new(), Verdict::Failed(error.to_string()))],
            };
            for (step, verdict) in steps {
                table.add("IG", test, &format!("{section} {step}"), verdict);
            }
        }
    }
    Ok(())
}

/// Whom a section asks about.
pub(super) fn patient_of(test: &str, section: &str) -> Result<PatientId, Error> {
    patient(match (test, section) {
        ("12306" | "12307", _) => "12318/init",
        (_, "TwoDocumentsFindDocuments" | "TwoDocRetrieve") => "15807/twodoc",
        ("15810", _) => "15807/onedoc2",
        ("15814", _) => "15807/registryError",
        _ => "15807/onedoc1",
    })
}

/// A national consumer that asks for one patient.
struct Asks<'a> {
    ig: &'a Ig,
    world: &'a World,
    patient: PatientId,
}

impl Sender for Asks<'_> {
    async fn send(&self, sends: Sends, body: Element) -> Result<Outcome, Error> {
        let before = self.ig.counts();
        let assertions = self.ig.consumer.assertions(&self.ig.claims, &self.patient).await?;
        let answer = self.ig.consumer.call(&assertions, body).await?;
        let outcome = rg::outcome(answer, sends).await?;
        self.ig.sent(self.world, before)?;
        Ok(outcome)
    }
}
