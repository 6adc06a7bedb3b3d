//! A viewer under the DICOMweb root of a study, with a country behind it that breaks off or sends somebody else's image.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use ncp_ihe::{
    Coded, Content, DocumentResponse, IssuedId, KosDialect, Manifest, ManifestInstance, ManifestSeries, ReferenceId,
    RegistryError, RetrieveRequest, RetrieveResponse, Status, Uid, actions,
};
use ncp_tests::country::{Asked, Country, Reaction};
use ncp_tests::issuer::BASE;
use serde_json::Value;

use crate::clinicians::{base, call, confirm, knows, matches};
use crate::losses::fetched;
use crate::{Held, Others, World, entry, listed, second};

const OF: &str = "2.999.101";

/// What the country does with RAD-75.
#[derive(Clone, Copy)]
enum Sends {
    Whole,
    CutAfter(usize),
}

pub(crate) fn manifest(held: &Held) -> Vec<u8> {
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let study = &held.study;
    let mut series = ManifestSeries::new(uid(&study.series()));
    series.modality = Some("CT".into());
    series.number = Some(1);
    series.location = ncp_ihe::Oid::parse(&format!("{OF}.21.1")).ok();
    let ct = uid("1.2.840.10008.5.1.4.1.1.2");
    series.instances =
        (1..=study.instances).map(|slice| ManifestInstance::new(ct.clone(), uid(&study.instance(slice)))).collect();
    let mut manifest = Manifest::new(uid("2.999.101.31.1"), uid("2.999.101.31.1.1"), uid(&study.uid()));
    manifest.patient.ids = vec![IssuedId::new("4711", None), IssuedId::new(&study.patient_id, None)];
    manifest.patient.birth_date = Some(study.birth_date.clone());
    manifest.study_date = Some("20260102".into());
    manifest.series = vec![series];
    manifest.write_kos(KosDialect::Mado(Default::default())).expect("writes")
}

/// A country with one study.
async fn world(held: Held) -> (World, Vec<Country>, Arc<Mutex<Sends>>) {
    let sends = Arc::new(Mutex::new(Sends::Whole));
    let (how, kos) = (sends.clone(), manifest(&held));
    let (world, countries) = showing(held.study.uid(), kos, "", move || match *how.lock().expect("not poisoned") {
        Sends::Whole => held.sent(),
        Sends::CutAfter(bytes) => Reaction::Cut(Box::new(held.sent()), bytes),
    })
    .await;
    (world, countries, sends)
}

/// A country with one study and its manifest, that answers RAD-75 so.
pub(crate) async fn showing(
    study: String,
    manifest: Vec<u8>,
    limits: &str,
    images: impl Fn() -> Reaction + Send + Sync + 'static,
) -> (World, Vec<Country>) {
    let kos = Bytes::from(manifest);
    let react = move |asked: &Asked| match asked.action.as_str() {
        actions::ITI39_REQUEST => Some(kos_sent(asked, kos.clone(), Vec::new())),
        actions::RAD75_REQUEST => Some(images()),
        _ => None,
    };
    listing_one(study, limits, react).await
}

/// A country that lists one study, and answers what else it is asked so.
pub(crate) async fn listing_one(
    study: String,
    limits: &str,
    react: impl Fn(&Asked) -> Option<Reaction> + Send + Sync + 'static,
) -> (World, Vec<Country>) {
    let mut listed_as = entry(OF, 9);
    listed_as.mime_type = "application/dicom".into();
    listed_as.format_code = Coded::new("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1", None);
    listed_as.reference_ids = vec![ReferenceId::study(&Uid::parse(&study).expect("a UID"))];
    let known = knows(OF, "19800101", move || listed(vec![listed_as.clone()]));
    let react = move |asked: &Asked| react(asked).unwrap_or_else(|| known(asked));
    Others::none().with("AA", OF, react).await.clinicians().world(limits).await
}

/// A manifest as ITI-39 sends it, with what the country reports beside it.
pub(crate) fn kos_sent(asked: &Asked, kos: Bytes, errors: Vec<RegistryError>) -> Reaction {
    let request = RetrieveRequest::read(&asked.body).expect("ITI-39").documents.remove(0);
    let document = DocumentResponse {
        request,
        new_document: None,
        media_type: "application/dicom".into(),
        content: Content::Include("kos@country".into()),
    };
    let body = RetrieveResponse { status: Status::Success, errors, documents: vec![document] };
    let part = ("kos@country".to_owned(), "application/dicom", kos);
    Reaction::Parts(actions::ITI39_RESPONSE, body.to_element(), vec![part])
}

/// The DICOMweb root that the search handed out.
pub(crate) async fn root(world: &World) -> String {
    let base = base(&confirm(world, &matches(world).await).await);
    let (_, _, bundle) = call(world, &format!("{base}/DocumentReference"), "", None).await;
    let extensions = bundle["entry"][0]["resource"]["extension"].as_array().expect("extensions").iter();
    let mut urls = extensions.filter_map(|e| e["valueUrl"].as_str());
    urls.find(|url| url.ends_with("/dicomweb")).expect("a root").to_owned()
}

/// Status and body; no body when it broke off.
async fn get(world: &World, subject: &str, url: &str) -> (u16, Option<Bytes>) {
    let clinic = world.clinic.as_ref().expect("a clinicians' side");
    let connector =
        ncp_tls::anonymous_connector(std::slice::from_ref(&world.anchors), b"\x08http/1.1").expect("a connector");
    let http: ncp_tls::HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, second() * 10);
    let path = url.strip_prefix(BASE).expect("ours");
    let request = Request::get(format!("https://localhost:{}{path}", clinic.0.port()))
        .header("authorization", format!("Bearer {}", clinic.1.token(subject).expect("signs")))
        .body(Full::default())
        .expect("a request");
    let response = http.request(request).await.expect("answers");
    (response.status().as_u16(), response.into_body().collect().await.ok().map(|body| body.to_bytes()))
}

async fn json(world: &World, url: &str) -> Vec<Value> {
    let (status, body) = get(world, "hpr-1", url).await;
    assert_eq!(status, 200, "{url}");
    serde_json::from_slice(&body.expect("whole")).expect("JSON")
}

#[tokio::test]
async fn metadata_are_complete_or_name_what_is_missing() {
    let held = Held::new(1, OF, 5);
    let (study, series) = (held.study.uid(), held.study.series());
    let (instance, bytes) = (held.study.instance(2), held.files[1].clone());
    let (world, countries, sends) = world(held).await;
    let root = root(&world).await;
    let place = format!("{root}/studies/{study}/series/{series}");

    let found = json(&world, &format!("{root}/studies")).await;
    assert_eq!((found.len(), &found[0]["00201208"]["Value"][0]), (1, &Value::from(5)));
    assert_eq!(json(&world, &format!("{place}/instances?limit=2")).await.len(), 2);
    let told = json(&world, &format!("{root}/studies/{study}/metadata")).await;
    assert_eq!(told.len(), 5);
    for element in &told {
        assert_eq!(element["00280010"]["Value"][0], 256);
        // One person, by the id under which the other country's documents are registered.
        assert_eq!(element["00100020"]["Value"][0], "4711");
        let url = element["00081190"]["Value"][0].as_str().expect("a URL");
        assert!(url.starts_with(&place), "{url}");
    }
    let alone = json(&world, &format!("{place}/instances/{instance}/metadata")).await;
    assert_eq!(alone, told[1..2]);
    let (_, file) = get(&world, "hpr-1", &format!("{place}/instances/{instance}")).await;
    assert!(file.expect("whole").windows(bytes.len()).any(|w| w == bytes), "the instance byte for byte");

    // The manifest was asked for once, and serves nobody else.
    let asked = |action: &str| countries[0].asked().iter().filter(|a| a.action == action).count();
    assert_eq!(asked(actions::ITI39_REQUEST), 1);
    assert_eq!(get(&world, "hpr-2", &format!("{root}/studies")).await.0, 404);

    // Two instances, then the way breaks, also at the second asking: the array is closed, and a Warning says what it lacks.
    *sends.lock().expect("not poisoned") = Sends::CutAfter(300_000);
    let heard = fetched(&world, &format!("{place}/metadata")).await;
    assert_eq!((heard.status, heard.elements().len(), heard.lost()), (200, 2, 3));
    // Not even one: that can be said.
    *sends.lock().expect("not poisoned") = Sends::CutAfter(60_000);
    assert_eq!(get(&world, "hpr-1", &format!("{place}/metadata")).await.0, 502);
    *sends.lock().expect("not poisoned") = Sends::Whole;
    assert_eq!(json(&world, &format!("{place}/metadata")).await.len(), 5);
}

#[tokio::test]
async fn an_image_of_somebody_else_has_no_metadata() {
    let mut held = Held::new(2, OF, 3);
    let mut other = Held::new(2, OF, 3);
    other.study.patient_id = "SOMEBODY".into();
    let dir = tempfile::tempdir().expect("a folder");
    let foreign = other.study.write(dir.path()).expect("writes").remove(1);
    held.files[1] = std::fs::read(foreign).expect("reads").into();
    let study = held.study.uid();
    let (world, _countries, _) = world(held).await;
    let root = root(&world).await;
    let heard = fetched(&world, &format!("{root}/studies/{study}/metadata")).await;
    assert_eq!((heard.status, heard.elements().len(), heard.lost()), (200, 2, 1), "FA-WAD-10");
}

/// T-WEB-1 to T-WEB-5: paths and headers that try to be something else; T-SEA-1 to T-SEA-3 and T-TRT-1 to T-TRT-4: addresses
/// of somebody else, and what is no treatment.
#[tokio::test]
async fn paths_and_headers_that_are_none() {
    let (world, countries, _) = world(Held::new(3, OF, 1)).await;
    let known = world.clinician().learn().await.expect("the good way");
    let before = countries[0].asked().len();
    world.holds(&known, &["T-WEB-1", "T-WEB-2", "T-WEB-3", "T-WEB-4", "T-WEB-5"]).await;
    world.holds(&known, &["T-SEA-1", "T-SEA-2", "T-SEA-3", "T-TRT-1", "T-TRT-2", "T-TRT-3", "T-TRT-4"]).await;
    assert_eq!(countries[0].asked().len(), before, "nothing of it reached the other country");
}
