//! Responding Imaging Gateway: RAD-75 in, the images of the definition behind it.

use std::collections::BTreeMap;
use std::path::Path;

use dicom_dictionary_std::tags;
use dicom_object::OpenFileOptions;
use ncp_ihe::{Content, DocumentResponse, ImagingRequest, PatientId, RetrieveResponse, Status, actions};
use ncp_tests::country::Country;
use ncp_tests::messages::Origin;
use ncp_tests::neighbour::{Answer, XCAI, retrieve_response};
use ncp_tests::pki::Error;
use ncp_xml::Element;

use super::images::{self, Placed};
use super::plan::{self, find};
use super::table::{Table, Verdict};
use super::{ASKING, World, domain, ig};
use crate::node::{Node, Setup, asking_peer};

/// homeCommunityId of the Responding Imaging Gateway in the definitions.
const HOME: &str = "1.3.6.1.4.1.21367.13.70.201";
/// Imaging Document Sources E and F.
pub(super) const SOURCES: [&str; 2] = ["1.3.6.1.4.1.21367.13.71.201.1", "1.3.6.1.4.1.21367.13.71.201.2"];
const PATIENT: &str = "RIG^^^&1.3.6.1.4.1.21367.13.20.1000&ISO";

/// What came back.
pub(super) struct Returned {
    pub(super) response: RetrieveResponse,
    pub(super) objects: BTreeMap<String, Vec<u8>>,
}

/// Both revisions.
pub(crate) async fn run(world: &World, table: &mut Table) -> Result<(), Error> {
    for (suite, prefix) in [("RIG 2016", "rig_54"), ("RIG 2018", "rig_2018-54")] {
        for test in plan::tests(prefix)? {
            let folder = super::testkit().join(&test);
            if folder.join("Rad75RetrieveRequest").is_dir() {
                one(world, suite, &test, &folder, table).await.map_err(|e| format!("{test}: {e}"))?;
            }
        }
    }
    Ok(())
}

async fn one(world: &World, suite: &'static str, test: &str, folder: &Path, table: &mut Table) -> Result<(), Error> {
    let body = super::read(&folder.join("Rad75RetrieveRequest/RAD-75Request.xml"))?;
    let request = ImagingRequest::read(&body)?;
    let expected = expected_response(&folder.join("ValidateRad75Response"))?;
    let home = world.folder(test);
    let promised = |uid: &str| expected.documents.iter().any(|d| d.request.document == uid);
    let (placed, person) = images::place(&images::originals()?, &request, promised, &home.join("sources"))?;
    let note = if placed.iter().all(|p| p.original) { "" } else { "with images generated to the UIDs" };
    let patient = PatientId::parse_cx(PATIENT)?;
    let domain = domain::start(&world.own, &request, ig::held(&placed, &SOURCES), &patient, &person).await?;
    let node = gateway(world, &home, &person, &domain).await?;
    let mut neighbour = node.asked_by(&world.asking, ASKING, &world.own, Some(&world.capture))?;
    neighbour.origin = Origin::Given;
    let assertions = neighbour.assertions(&patient).await?;
    let answer = neighbour.call(actions::RAD75_REQUEST, XCAI, &assertions, body).await?;
    let returned = returned(answer).await?;
    let mut asked: Vec<(&str, Vec<ImagingRequest>)> = vec![("E", Vec::new()), ("F", Vec::new())];
    for one in domain.asked() {
        world.capture.envelope(one.xop, Origin::Ours, &one.envelope)?;
        if one.action != actions::RAD69_REQUEST {
            continue;
        }
        let request = ImagingRequest::read(&one.body)?;
        let source = &request.studies[0].series[0].instances[0].repository;
        let place = SOURCES.iter().position(|s| *s == source.as_str()).ok_or("another source was asked")?;
        asked[place].1.push(request);
    }
    for section in plan::sections(folder)? {
        let path = folder.join(&section);
        let verdict = match section.as_str() {
            "Rad75RetrieveRequest" => status(&path, returned.response.status)?,
            "ValidateRad75Response" => same_response(&expected, &returned, errors_wanted(&path)?),
            "ValidateReturnedImages" => same_images(&placed, &returned),
            _ => ig::same_requests(&path, &asked)?,
        };
        table.note(suite, test, &section, verdict, note);
    }
    Ok(())
}

/// Reads a whole answer.
pub(super) async fn returned(mut answer: Answer) -> Result<Returned, Error> {
    let response = retrieve_response(&answer.body)?;
    let mut objects = BTreeMap::new();
    while let Some(head) = answer.parts.next().await? {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.parts.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        let named = response.documents.iter().find(|d| d.content == Content::Include(head.content_id.clone()));
        objects.insert(named.ok_or("a part that the root does not name")?.request.document.clone(), bytes);
    }
    Ok(Returned { response, objects })
}

/// A gateway before the infrastructure.
async fn gateway(world: &World, dir: &Path, person: &images::Person, domain: &Country) -> Result<Node, Error> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("patients.toml"), patients_toml(PATIENT, person))?;
    let [e, f] = SOURCES;
    let (registry, repository) = (domain.url("/registry"), domain.url("/repository"));
    let national = format!(
        r#"[national]
patients_file = "patients.toml"

[[national.connector]]
kind = "xds"
name = "national"
registry = "{registry}"
repositories = [{{ id = "{manifests}", endpoint = "{repository}" }}]
sources = [{{ id = "{e}", endpoint = "{at_e}" }}, {{ id = "{f}", endpoint = "{at_f}" }}]
tls = {{ certificate = "{pki}/internal-client.pem", key = "{pki}/internal-client.key", anchors = "{pki}/anchors.pem" }}
"#,
        manifests = domain::MANIFESTS,
        at_e = domain.url("/e"),
        at_f = domain.url("/f"),
        pki = world.own.dir.display(),
    );
    let setup = Setup {
        dir,
        pki: &world.own,
        home: HOME,
        national,
        peers: asking_peer(&world.asking, ASKING, "body"),
        listener: String::new(),
        more: String::new(),
    };
    Node::start(&setup).await
}

/// `[[national.connector]]` of a folder.
pub(super) fn embedded(name: &str, folder: &Path, id: &str) -> String {
    format!(
        r#"
[[national.connector]]
kind = "embedded"
name = "{name}"
folder = "{folder}"
repository_unique_id = "{id}"
location_uids = ["{id}"]
uid_root = "2.999.47.31"
"#,
        folder = folder.display()
    )
}

/// `[[patient]]` of one person.
pub(super) fn patients_toml(patient: &str, person: &images::Person) -> String {
    format!(
        "[[patient]]\nnational_id = \"{patient}\"\nlocal_ids = [\"{}\"]\nfamily = \"Nist\"\ngiven = [\"A\"]\n\
         birth_date = \"{}\"\nsex = \"{}\"\n",
        person.local_id, person.birth_date, person.sex
    )
}

/// The `Standard/ResponseBody` of a section.
pub(super) fn expected_response(section: &Path) -> Result<RetrieveResponse, Error> {
    let plan = super::read(&section.join("testplan.xml"))?;
    let body = find(&plan, "ResponseBody").and_then(|b| b.elements().next()).ok_or("no ResponseBody")?;
    // The published Document elements hold "...": only what stands beside them is compared.
    Ok(RetrieveResponse::read(body, |_| Ok::<_, Error>(Content::Inline(Vec::new().into())))?)
}

/// Whether the section asserts that the error list is not empty.
pub(super) fn errors_wanted(section: &Path) -> Result<bool, Error> {
    let plan = super::read(&section.join("testplan.xml"))?;
    Ok(plan::all(&plan, "Assert").iter().any(|a| a.get("process") == Some("registryErrorListNotEmpty")))
}

/// ExpectedStatus of the step that sends.
pub(super) fn status(section: &Path, got: Status) -> Result<Verdict, Error> {
    let plan = super::read(&section.join("testplan.xml"))?;
    let expected = find(&plan, "ExpectedStatus").map(Element::trimmed).unwrap_or_default();
    Ok(if expected == format!("{got:?}") {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("status {got:?}, expected {expected}"))
    })
}

/// `sameRetImgs`: status, set of (home, repository, document), mimeType; `registryErrorListNotEmpty`.
pub(super) fn same_response(expected: &RetrieveResponse, got: &Returned, errors: bool) -> Verdict {
    let key = |d: &DocumentResponse| {
        let home = d.request.home.as_ref().map(ToString::to_string).unwrap_or_default();
        (home, d.request.repository.to_string(), d.request.document.clone(), d.media_type.clone())
    };
    let sorted = |r: &RetrieveResponse| {
        let mut all: Vec<_> = r.documents.iter().map(key).collect();
        all.sort();
        all
    };
    if expected.status != got.response.status {
        return Verdict::Failed(format!("status {:?}, expected {:?}", got.response.status, expected.status));
    }
    if sorted(expected) != sorted(&got.response) {
        return Verdict::Failed("another set of documents".into());
    }
    if errors && got.response.errors.is_empty() {
        return Verdict::Failed("no RegistryError".into());
    }
    let codes = |r: &RetrieveResponse| r.errors.iter().map(|e| e.code.clone()).collect::<Vec<_>>();
    let missing: Vec<String> = codes(expected).into_iter().filter(|c| !codes(&got.response).contains(c)).collect();
    if missing.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("codes {}, expected {}", codes(&got.response).join(", "), missing.join(", ")))
    }
}

/// `sameDcmImgs`: the tags of the list are those of the image that the source holds, and so is every byte.
pub(super) fn same_images(placed: &[Placed], got: &Returned) -> Verdict {
    const TAGS: [dicom_core::Tag; 7] = [
        tags::SOP_CLASS_UID,
        tags::SOP_INSTANCE_UID,
        tags::PATIENT_ID,
        tags::PATIENT_BIRTH_DATE,
        tags::PATIENT_SEX,
        tags::STUDY_INSTANCE_UID,
        tags::SERIES_INSTANCE_UID,
    ];
    if got.objects.is_empty() {
        return Verdict::Failed("no image came".into());
    }
    for (uid, bytes) in &got.objects {
        let Some(placed) = placed.iter().find(|p| p.sop_instance == *uid) else {
            return Verdict::Failed("an image that no source holds".into());
        };
        let parse = |bytes: &[u8]| OpenFileOptions::new().from_reader(bytes).ok();
        let held = std::fs::read(&placed.path).unwrap_or_default();
        let (Some(came), Some(source)) = (parse(bytes), parse(&held)) else {
            return Verdict::Failed("no DICOM object".into());
        };
        if TAGS.iter().any(|tag| images::text(&came, *tag) != images::text(&source, *tag)) {
            return Verdict::Failed("a tag of the list differs".into());
        }
        if *bytes != held {
            return Verdict::Failed("bytes differ".into());
        }
    }
    Verdict::Passed
}
