//! Every path on which a manifest, what groups it, or the images of its study may be had.

use bytes::Bytes;
use ncp_ihe::{
    Availability, ContentFilter, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, FindDocuments, FindFolders,
    FindSubmissionSets, GetAll, HomeCommunityId, ImagingRequest, ObjectIds, Oid, PatientId, ReferenceId,
    RetrieveRequest, ReturnType, SeriesRequest, StoredQuery, StudyRequest, TimeRange, Uid, actions,
};
use ncp_saml::{NextOfKin, NextOfKinClaims, SignedAssertion};
use ncp_tests::issuer::Issuer;
use ncp_tests::neighbour::{Answer, Neighbour, XCA, XCAI};
use ncp_xml::Element;

use super::closings::Who;
use super::study;
use crate::treating::{Asker, Known};
use crate::world::{HOME, PATIENT, World};

/// The set and the folder whose only member is the manifest; the report that is appended to it.
const SET: &str = "2.999.47.40.2";
const FOLDER: &str = "2.999.47.41.2";
const REPORT: &str = "2.999.47.30.2";
const APPENDED: &str = "urn:ihe:iti:2007:AssociationType:APND";

/// What a path gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The manifest, a group of it alone, or an image.
    Open,
    /// As for what does not exist.
    Closed,
    /// A refusal that says so.
    Refused,
    /// Nobody can ask so on this path.
    None,
}

/// A cell of the table, and whether it is about images.
pub(super) struct Cell {
    pub(super) path: &'static str,
    pub(super) of_images: bool,
    pub(super) verdict: Verdict,
}

/// What is asked for.
pub(super) struct Target {
    pub(super) manifest: DocumentEntry,
    /// Where its images are.
    pub(super) location: &'static str,
}

pub(super) fn patient() -> PatientId {
    PatientId::parse_cx(PATIENT).expect("a CX")
}

fn home() -> Option<HomeCommunityId> {
    HomeCommunityId::parse(HOME).ok()
}

/// What groups the manifest.
pub(super) fn registry(manifest: &str) -> String {
    format!(
        "[[folder]]\nunique_id = \"{FOLDER}\"\npatient = \"{PATIENT}\"\nmembers = [\"{manifest}\"]\n\
         codes = [{{ code = \"imaging\", system = \"2.999.47.50\" }}]\nupdated = \"2026-01-03T10:00:00Z\"\n\
         [[submission_set]]\nunique_id = \"{SET}\"\npatient = \"{PATIENT}\"\nmembers = [\"{manifest}\"]\n\
         source_id = \"2.999.47.42\"\nsubmitted = \"2026-01-03T10:00:00Z\"\n\
         content_type = {{ code = \"18748-4\", system = \"2.16.840.1.113883.6.1\" }}\n\
         [[association]]\nkind = \"APND\"\nsource = \"{manifest}\"\ntarget = \"{REPORT}\"\n"
    )
}

/// Each of the stored queries, and documents by entryUUID besides.
fn queries(manifest: &DocumentEntry) -> Vec<(&'static str, StoredQuery)> {
    use StoredQuery as Q;
    let all = || vec![Availability::Approved, Availability::Deprecated];
    let named = |id: &str| ObjectIds::UniqueIds(vec![id.to_owned()]);
    let own = || named(&manifest.unique_id);
    let uuids = || vec![manifest.entry_uuid.clone()];
    let contents = ContentFilter::default;
    let by_reference = FindDocuments {
        reference_ids: vec![vec![ReferenceId::study(&Uid::parse(&study().uid()).expect("a UID"))]],
        ..FindDocuments::of_patient(patient())
    };
    vec![
        ("FindDocuments", Q::FindDocuments(FindDocuments::of_patient(patient()))),
        ("…ByReferenceId", Q::FindDocuments(by_reference)),
        (
            "FindSubmissionSets",
            Q::FindSubmissionSets(FindSubmissionSets {
                patient_id: patient(),
                status: all(),
                source_ids: Vec::new(),
                submitted: TimeRange::default(),
                author_person: Vec::new(),
                content_types: Vec::new(),
            }),
        ),
        (
            "FindFolders",
            Q::FindFolders(FindFolders {
                patient_id: patient(),
                status: all(),
                updated: TimeRange::default(),
                codes: Vec::new(),
            }),
        ),
        (
            "GetAll",
            Q::GetAll(GetAll {
                patient_id: patient(),
                document_status: all(),
                set_status: all(),
                folder_status: all(),
                contents: contents(),
            }),
        ),
        ("GetDocuments", Q::GetDocuments(own())),
        ("… by UUID", Q::GetDocuments(ObjectIds::EntryUuids(uuids()))),
        ("…AndAssociations", Q::GetDocumentsAndAssociations(own())),
        (
            "GetRelatedDocuments",
            Q::GetRelatedDocuments {
                document: named(REPORT),
                association_types: vec![APPENDED.into()],
                contents: contents(),
            },
        ),
        ("GetFoldersForDocument", Q::GetFoldersForDocument(own())),
        ("GetFolders", Q::GetFolders(named(FOLDER))),
        ("GetFolderAndContents", Q::GetFolderAndContents { folder: named(FOLDER), contents: contents() }),
        ("GetSubmissionSetAndContents", Q::GetSubmissionSetAndContents { set: named(SET), contents: contents() }),
        ("GetSubmissionSets", Q::GetSubmissionSets(uuids())),
        ("GetAssociations", Q::GetAssociations(uuids())),
    ]
}

/// Queries, retrieves and images as bodies, for NCP-A or, by the same names, for NCP-B's national side.
fn bodies(target: &Target) -> Vec<(&'static str, &'static str, Element)> {
    let mut out = Vec::new();
    for (name, query) in queries(&target.manifest) {
        let request = CrossGatewayQueryRequest { home: home(), return_type: ReturnType::LeafClass, query };
        out.push((name, actions::ITI38_REQUEST, request.to_element()));
    }
    let location = Oid::parse(target.location).expect("an OID");
    let unit = |id: String| DocumentRequest { home: home(), repository: location.clone(), document: id };
    let document = |id: String| RetrieveRequest { documents: vec![unit(id)] }.to_element();
    out.push(("manifest", actions::ITI39_REQUEST, document(target.manifest.unique_id.clone())));
    out.push(("OrCD", actions::ITI39_REQUEST, document(format!("{}^ORCD", target.manifest.unique_id))));
    let images = |slices: std::ops::RangeInclusive<u32>| {
        let series = Uid::parse(&study().series()).expect("a UID");
        let instances = slices.map(|slice| unit(study().instance(slice))).collect();
        let series = vec![SeriesRequest { series, instances }];
        let study = StudyRequest { study: Uid::parse(&study().uid()).expect("a UID"), series };
        let transfer_syntaxes = vec![Uid::parse("1.2.840.10008.1.2.1").expect("a UID")];
        ImagingRequest { studies: vec![study], transfer_syntaxes }.to_element()
    };
    out.push(("images", actions::RAD75_REQUEST, images(1..=2)));
    out.push(("one image", actions::RAD75_REQUEST, images(1..=1)));
    out
}

/// NCP-A, as another country asks it: ITI-38, ITI-39, RAD-75.
pub(super) async fn through_a(neighbour: &Neighbour, who: Who, target: &Target) -> Vec<Cell> {
    let with = assertions(neighbour, who).await;
    let mut cells = Vec::new();
    for (path, action, body) in bodies(target) {
        let xca = if action == actions::RAD75_REQUEST { XCAI } else { XCA };
        let answer = neighbour.call(action, xca, &with, body).await.expect("an answer");
        cells.push(cell(path, action, judged(answer, action, &target.manifest).await));
    }
    cells
}

/// NCP-B's national side: ITI-18, ITI-43, RAD-69.
pub(super) async fn through_b(asker: &Asker<'_>, neighbour: &Neighbour, who: Who, target: &Target) -> Vec<Cell> {
    let mut cells = Vec::new();
    let claims = claims(neighbour, who);
    for (path, action, body) in bodies(target) {
        // A national consumer has no next-of-kin assertion to show here.
        let verdict = if who == Who::Kin {
            Verdict::None
        } else {
            let with = asker.consumer.assertions(&claims, &patient()).await.expect("signs");
            let answer = asker.consumer.call(&with, body).await.expect("an answer");
            judged(answer, action, &target.manifest).await
        };
        cells.push(cell(path, action, verdict));
    }
    cells
}

fn cell(path: &'static str, action: &str, verdict: Verdict) -> Cell {
    Cell { path, of_images: action == actions::RAD75_REQUEST, verdict }
}

/// NCP-B's clinicians' side: FHIR and DICOMweb, of which the caller knows the addresses.
pub(super) async fn through_clinic(
    asker: &Asker<'_>,
    issuer: &Issuer,
    who: Who,
    known: &Known,
    target: &Target,
) -> Vec<Cell> {
    let token = token(issuer, who);
    let manifest = &target.manifest.unique_id;
    let (uid, series, instance) = (study().uid(), study().series(), study().instance(1));
    let Known { base, document, root } = known;
    let place = format!("{root}/studies/{uid}");
    let mut cells = Vec::new();
    let mut push = |path, of_images, verdict| cells.push(Cell { path, of_images, verdict });
    if who == Who::Kin {
        for (path, of_images) in CLINIC {
            push(path, of_images, Verdict::None);
        }
        return cells;
    }
    // A report that names the study may stay; the manifest's line has the way to the images.
    let lists = |bytes: &Bytes| contains(bytes, manifest) || contains(bytes, "/dicomweb");
    let anew = match asker.treat(&token).await {
        Ok(Some(base)) => listing(asker.call(&token, &format!("{base}/DocumentReference"), None).await, lists),
        Ok(None) => Verdict::Closed,
        Err(_) => Verdict::Refused,
    };
    let list = asker.call(&token, &format!("{base}/DocumentReference"), None).await;
    let filled = |bytes: &Bytes| !bytes.is_empty() && bytes.as_ref() != b"[]";
    let answers = [
        ("find, treat, list", anew),
        ("list", listing(list, lists)),
        ("Binary", listing(asker.call(&token, document, None).await, filled)),
        ("QIDO studies", listing(asker.call(&token, &format!("{root}/studies"), None).await, filled)),
        ("QIDO instances", listing(asker.call(&token, &format!("{place}/instances"), None).await, filled)),
        ("WADO study", listing(asker.call(&token, &place, None).await, filled)),
        ("WADO metadata", listing(asker.call(&token, &format!("{place}/metadata"), None).await, filled)),
        (
            "WADO instance",
            listing(asker.call(&token, &format!("{place}/series/{series}/instances/{instance}"), None).await, filled),
        ),
    ];
    for ((path, verdict), (_, of_images)) in answers.into_iter().zip(CLINIC) {
        push(path, of_images, verdict);
    }
    cells
}

/// The paths of the clinicians' side, and which of them are about images.
const CLINIC: [(&str, bool); 8] = [
    ("find, treat, list", false),
    ("list", false),
    ("Binary", false),
    ("QIDO studies", true),
    ("QIDO instances", true),
    ("WADO study", true),
    ("WADO metadata", true),
    ("WADO instance", true),
];

fn contains(bytes: &Bytes, text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Of an answer over HTTP; one that breaks off after its first byte has disclosed something.
fn listing((status, body): (u16, Option<Bytes>), shows: impl Fn(&Bytes) -> bool) -> Verdict {
    match (status, body) {
        (200 | 206, None) => Verdict::Open,
        (200 | 206, Some(bytes)) if shows(&bytes) => Verdict::Open,
        (200 | 206 | 404, _) => Verdict::Closed,
        _ => Verdict::Refused,
    }
}

/// Of an answer over SOAP.
async fn judged(mut answer: Answer, action: &str, manifest: &DocumentEntry) -> Verdict {
    let mut parts = 0;
    while let Some(_head) = answer.parts.next().await.expect("a part") {
        while answer.parts.chunk().await.expect("a piece").is_some() {}
        parts += 1;
    }
    let is_list = action == actions::ITI38_REQUEST;
    let root = String::from_utf8_lossy(&answer.envelope);
    let names = [manifest.unique_id.as_str(), &manifest.entry_uuid, SET, FOLDER];
    let listed = is_list && names.iter().any(|name| root.contains(&format!("\"{name}\"")));
    let codes = answer.codes();
    match parts > 0 || listed {
        true => Verdict::Open,
        false if answer.fault().is_some() => Verdict::Refused,
        // A list is empty and says nothing; whatever is fetched does not exist.
        false if is_list && codes.is_empty() => Verdict::Closed,
        false if !is_list && !codes.is_empty() && codes.iter().all(|c| c == "XDSDocumentUniqueIdError") => {
            Verdict::Closed
        }
        false => Verdict::Refused,
    }
}

fn claims(neighbour: &Neighbour, who: Who) -> ncp_saml::HcpClaims {
    let mut claims = neighbour.claims();
    match who {
        Who::Radiologist | Who::Kin => {}
        Who::Weak => claims.authn_context_class = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password".into(),
        Who::Citizen => {
            claims.role.code = "Patient".into();
            claims.role.display = "Patient".into();
        }
    }
    claims
}

async fn assertions(neighbour: &Neighbour, who: Who) -> Vec<SignedAssertion> {
    let claims = claims(neighbour, who);
    let now = jiff::Timestamp::now();
    let hcp = neighbour.hcp(&claims, now).await.expect("signs");
    let trc = neighbour.trc(&hcp, &claims, &patient()).await.expect("signs");
    let mut assertions = vec![hcp, trc];
    if who == Who::Kin {
        let facts = NextOfKinClaims {
            country: neighbour.country,
            name_id: claims.name_id.clone(),
            hcp_id: assertions[0].id.clone(),
            kin: NextOfKin { id: "kin-1".into(), ..NextOfKin::default() },
        };
        let id = format!("_{}", uuid::Uuid::new_v4());
        let template = ncp_saml::nok_template(&id, &facts, now, now + jiff::SignedDuration::from_hours(2));
        assertions.insert(0, neighbour.sign(&id, &template.to_xml()).await.expect("signs"));
    }
    assertions
}

/// The token of whoever asks; a clinician's has the subject that blocks name.
pub(super) fn token(issuer: &Issuer, who: Who) -> String {
    let mut claims = Issuer::claims("hpr-9144889");
    match who {
        Who::Radiologist | Who::Kin => {}
        Who::Weak => drop(claims.as_object_mut().and_then(|claims| claims.remove("acr"))),
        Who::Citizen => claims["extensions"]["ihe_iua"]["subject_role"] = serde_json::json!([{ "code": "Patient" }]),
    }
    issuer.sign(&claims, Some("at+jwt")).expect("signs")
}

/// The archive's or the folder's manifest of the study, as it is listed when nothing is closed.
pub(super) async fn manifest(world: &World, neighbour: &Neighbour) -> DocumentEntry {
    let listed = neighbour.documents(&patient()).await.expect("a list");
    let of_study = |e: &DocumentEntry| {
        e.is_manifest()
            && !e.unique_id.contains('^')
            && e.study_instance_uid().is_some_and(|uid| uid.as_str() == study().uid())
    };
    let manifest = listed.objects.entries.into_iter().find(of_study);
    manifest.unwrap_or_else(|| panic!("no manifest in {}", world.dir.path().display()))
}
