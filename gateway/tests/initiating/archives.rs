//! What an archive behind a country does reaches the clinician: cases IM-17, IM-18, IM-20 and IM-22 at NCP-B, and what a manifest
//! counts or its reader finds odd (P10).

use std::collections::BTreeSet;

use bytes::Bytes;
use ncp_ihe::{KosDialect, Manifest, RetrieveResponse, Severity, Status, Uid, actions};
use ncp_tests::country::{Asked, Country, Reaction};
use serde_json::{Value, json};

use crate::clinicians::code;
use crate::dicomweb::{kos_sent, listing_one, manifest, root, showing};
use crate::losses::{all_recorded, fetched, lost_by_name};
use crate::{Held, World, refusal};

const OF: &str = "2.999.101";

/// IM-17: a study whose manifest was replaced since it was listed is gone, with a text that says what to do, and never the answer
/// that also means "not yours".
#[tokio::test]
async fn im_17_a_study_that_was_replaced_is_gone_and_not_unknown() {
    let uid = Held::new(1, OF, 3).study.uid();
    let (world, _countries) = listing_one(uid.clone(), "", |asked| {
        let errors = vec![refusal("urn:ncp:replaced")];
        let body = RetrieveResponse { status: Status::Failure, errors, documents: Vec::new() }.to_element();
        (asked.action == actions::ITI39_REQUEST).then(|| Reaction::Parts(actions::ITI39_RESPONSE, body, Vec::new()))
    })
    .await;
    let root = root(&world).await;
    for path in ["/studies".to_owned(), format!("/studies/{uid}"), format!("/studies/{uid}/metadata"), "/status".into()]
    {
        let heard = fetched(&world, &format!("{root}{path}")).await;
        let issue = &heard.json()["issue"][0];
        assert_eq!((heard.status, code(issue)), (410, "study-changed"), "{path}");
        assert!(issue["details"]["text"].as_str().is_some_and(|text| text.contains("search again")), "{issue}");
    }
}

/// IM-17: who was promised three instances sees three, and hears that one more came, in a Warning and in the status resource.
#[tokio::test]
async fn im_17_what_arrived_since_is_told() {
    for newer in [0, 1, 12] {
        let held = Held::new(1, OF, 3);
        let (uid, files, kos) = (held.study.uid(), held.files.clone(), Bytes::from(manifest(&held)));
        let (world, _countries) = listing_one(uid.clone(), "", move |asked| match asked.action.as_str() {
            actions::ITI39_REQUEST => {
                let mut told = refusal(&format!("urn:ncp:newer:{newer}"));
                told.severity = Severity::Warning;
                Some(kos_sent(asked, kos.clone(), if newer > 0 { vec![told] } else { Vec::new() }))
            }
            actions::RAD75_REQUEST => Some(held.sent()),
            _ => None,
        })
        .await;
        let root = root(&world).await;
        let text = format!("{newer} more instances arrived: search again");
        for path in ["/studies".to_owned(), format!("/studies/{uid}/metadata"), format!("/studies/{uid}")] {
            let heard = fetched(&world, &format!("{root}{path}")).await;
            assert_eq!(
                (heard.status, heard.warnings().contains(&text)),
                (200, newer > 0),
                "{path}: {}",
                heard.warnings()
            );
            if path == format!("/studies/{uid}") {
                assert!(heard.parts().await == (files.clone(), true) && !heard.warnings().contains("not available"));
            }
        }
        let status = fetched(&world, &format!("{root}/status")).await.json();
        let arrived = if newer > 0 { json!({ "instances": newer, "text": text }) } else { Value::Null };
        assert_eq!((&status["arrived"], &status["received"]), (&arrived, &json!(3)), "{status}");
    }
}

/// A country whose archives do this with single slices.
async fn losing(lost: Vec<(u32, &'static str, &'static str)>) -> (World, Vec<Country>, Held) {
    let held = Held::new(1, OF, 3);
    let kos = manifest(&held);
    let sent = Held { study: held.study.clone(), home: OF.into(), files: held.files.clone() };
    let (world, countries) = showing(held.study.uid(), kos, "", move || sent.sent_but(&lost)).await;
    (world, countries, held)
}

/// IM-18: the archive's own time reaches the clinician, whichever of the instances is busy, and where none came.
#[tokio::test]
async fn im_18_when_to_come_back_is_told_to_the_clinician() {
    let (busy, longer) = ("busy, try again in 600 s (reference 1)", "busy, try again in 900 s (reference 1)");
    let (world, _countries, held) = losing(vec![(2, "XDSRepositoryBusy", busy)]).await;
    let (root, uid) = (root(&world).await, held.study.uid());
    for path in [format!("{root}/studies/{uid}"), format!("{root}/studies/{uid}/metadata")] {
        let heard = fetched(&world, &path).await;
        assert_eq!((heard.status, heard.lost(), heard.header("retry-after")), (200, 1, "600"), "{path}");
    }
    let heard = fetched(&world, &format!("{root}/studies/{uid}")).await;
    assert_eq!(heard.parts().await, (vec![held.files[0].clone(), held.files[2].clone()], true));
    let missing = &fetched(&world, &format!("{root}/status")).await.json()["missing"];
    assert_eq!(missing[0]["reason"], "busy", "{missing}");
    assert!(missing[0]["text"].as_str().is_some_and(|text| text.contains("ask again later")), "{missing}");

    let all = vec![(1, "XDSRepositoryBusy", busy), (2, "XDSRepositoryBusy", longer), (3, "XDSRepositoryBusy", busy)];
    let (world, _countries, _) = losing(all).await;
    let root = crate::dicomweb::root(&world).await;
    for path in [format!("{root}/studies/{uid}"), format!("{root}/studies/{uid}/metadata")] {
        let heard = fetched(&world, &path).await;
        assert_eq!(heard.status, 503, "{path}");
        assert!(matches!(heard.header("retry-after"), "600" | "900"), "{path}: {}", heard.header("retry-after"));
        assert_eq!(code(&heard.json()["issue"][0]), "country-busy");
    }
}

/// IM-20: what is missing has its reason, and who is to blame is told rightly: the country, or an archive behind it.
#[tokio::test]
async fn im_20_a_missing_instance_has_its_reason_and_the_right_one_is_blamed() {
    for (told, reason, text) in [
        ("XDSRepositoryError", "not-delivered", "the archive behind the country did not deliver the instance"),
        ("XDSDocumentUniqueIdError", "not-available", "the country does not make the instance available"),
        ("XDSRepositoryBusy", "busy", "the archive behind the country is busy; ask again later"),
    ] {
        let (world, _countries, held) = losing(vec![(2, told, "no")]).await;
        let (root, study) = (root(&world).await, &held.study);
        let before = world.records().len();
        let heard = fetched(&world, &format!("{root}/studies/{}/metadata", study.uid())).await;
        assert_eq!((heard.status, heard.elements().len(), heard.lost()), (200, 2, 1), "{told}");
        assert!(heard.warnings().contains("1 of 3 instances not available"), "{}", heard.warnings());
        let status = fetched(&world, &format!("{root}/status")).await.json();
        let retry = format!("{root}/studies/{}/series/{}/instances/{}", study.uid(), study.series(), study.instance(2));
        let expected = json!([{
            "series": study.series(), "instance": study.instance(2), "reason": reason, "text": text, "retry": retry,
        }]);
        assert_eq!((&status["country"], &status["missing"]), (&json!("AA"), &expected), "{status}");
        assert_eq!(all_recorded(&world, before, 3).await, (2, 1));
        assert_eq!(lost_by_name(&world, "RAD-75", before), [study.instance(2)], "{told}: on the trail");
        // Nothing else came: the country was reached, and is not called unreachable.
        let alone = fetched(&world, &retry).await;
        let issue = alone.json()["issue"][0].clone();
        assert!(alone.status >= 400 && code(&issue) != "country-unreachable", "{told}: {issue}");
    }
}

/// IM-22 and IM-08: what the manifest counts and does not list is told by every answer, although it cannot be asked for.
#[tokio::test]
async fn im_22_what_a_manifest_counts_and_does_not_list_is_told() {
    let held = Held::new(1, OF, 3);
    let (uid, series, files) = (held.study.uid(), held.study.series(), held.files.clone());
    let mut told = Manifest::read_kos(&manifest(&held)).expect("a manifest");
    // Two more in the series that is listed, and four in one that is not.
    told.series[0].total = Some(5);
    (told.series_total, told.instance_total) = (Some(2), Some(9));
    let kos = told.write_kos(KosDialect::Mado(Default::default())).expect("writes");
    let (world, _countries) = showing(uid.clone(), kos, "", move || held.sent()).await;
    let root = root(&world).await;
    for (path, unlisted, all) in [
        (format!("{root}/studies/{uid}"), 6, "9"),
        (format!("{root}/studies/{uid}/series/{series}"), 2, "5"),
        (format!("{root}/studies/{uid}/metadata"), 6, "9"),
    ] {
        let before = world.records().len();
        let heard = fetched(&world, &path).await;
        assert_eq!((heard.status, heard.lost(), heard.header("x-ncp-instances")), (200, unlisted, all), "{path}");
        if !path.ends_with("metadata") {
            assert_eq!(heard.parts().await, (files.clone(), true), "{path}: those that are listed come whole");
        }
        // The trail says that it was not the whole study.
        for _ in 0..100 {
            if lacks(&world, before) {
                break;
            }
            tokio::time::sleep(crate::second() / 20).await;
        }
        assert!(lacks(&world, before), "{path}: outcome 4");
    }
    let found = fetched(&world, &format!("{root}/studies")).await;
    assert_eq!((&found.json()[0]["00201208"]["Value"][0], found.lost()), (&json!(9), 6));
    let status = fetched(&world, &format!("{root}/status")).await.json();
    assert_eq!((&status["expected"], &status["unlisted"], &status["received"]), (&json!(3), &json!(6), &json!(3)));
}

/// Whether the last RAD-75 since then ended with outcome 4.
fn lacks(world: &World, before: usize) -> bool {
    let records = world.trail().ihe;
    let last = records.iter().skip(before).rfind(|m| m.types.iter().any(|t| t.code == "RAD-75"));
    last.is_some_and(|message| message.outcome == 4)
}

/// P10: whatever the reader of manifests warns of has its readers: the status resource, the trail, and, where something of the
/// study may be missing, a Warning.
#[tokio::test]
async fn p_10_no_warning_of_a_manifest_has_no_reader() {
    let held = || Held::new(1, OF, 3);
    let base = || Manifest::read_kos(&manifest(&held())).expect("a manifest");
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 5] = [
        ("PatientIdWithoutIssuer", |_| {}),
        ("Count", |m| m.series[0].total = Some(7)),
        ("SeriesCount", |m| m.series_total = Some(4)),
        ("Repeated", |m| {
            let again = m.series[0].instances[0].clone();
            m.series[0].instances.push(again);
        }),
        ("EmptySeries", |m| {
            let mut empty = m.series[0].clone();
            (empty.series, empty.instances) = (Uid::parse("2.999.101.9").expect("a UID"), Vec::new());
            m.series.push(empty);
        }),
    ];
    for (class, change) in changes {
        let mut told = base();
        change(&mut told);
        let kos = told.write_kos(KosDialect::Mado(Default::default())).expect("writes");
        let read = Manifest::read_kos(&kos).expect("reads");
        let odd = read.oddities();
        assert!(odd.contains(class), "{class}: {odd:?}");
        let (held, uid) = (held(), held().study.uid());
        let (world, _countries) = showing(uid.clone(), kos, "", move || held.sent()).await;
        let root = root(&world).await;
        let heard = fetched(&world, &format!("{root}/studies/{uid}/metadata")).await;
        assert_eq!(heard.status, 200, "{class}: {}", heard.text());
        assert_eq!(heard.elements().len(), 3, "{class}");
        let may_lack = read.warnings.iter().any(|warning| warning.leaves_out());
        assert_eq!(
            heard.warnings().contains("does not list all of the study"),
            may_lack,
            "{class}: {}",
            heard.warnings()
        );
        let status = fetched(&world, &format!("{root}/status")).await.json();
        let shown: BTreeSet<String> = serde_json::from_value(status["manifest"].clone()).expect("names");
        assert_eq!(shown, odd, "{class}");
        all_recorded(&world, 0, 3).await;
        let objects = world.trail().ihe.into_iter().flat_map(|message| message.objects).flat_map(|o| o.details);
        let told: Vec<String> = objects
            .filter(|(kind, _)| kind == "ncp:manifest-odd")
            .map(|(_, value)| String::from_utf8_lossy(&value).into_owned())
            .collect();
        assert!(!told.is_empty() && told.iter().all(|names| *names == read.odd()), "{class}: {told:?}");
    }
}

/// P3 at NCP-B (IM-01): of two issuers of one id the manifest tells one; an object of the other is withheld.
#[tokio::test]
async fn p_3_an_object_of_another_issuer_than_the_manifests_is_withheld() {
    for (issuer, expected) in [("HOSPITAL-A", 3), ("HOSPITAL-B", 2)] {
        let mut held = Held::new(1, OF, 3);
        let mut told = Manifest::read_kos(&manifest(&held)).expect("a manifest");
        told.patient.ids[1].label = Some("HOSPITAL-A".into());
        let kos = told.write_kos(KosDialect::Mado(Default::default())).expect("writes");
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("issued.dcm");
        std::fs::write(&file, &held.files[1]).expect("writes");
        let mut object = dicom_object::open_file(&file).expect("reads");
        let tag = dicom_dictionary_std::tags::ISSUER_OF_PATIENT_ID;
        object.put(dicom_core::DataElement::new(tag, dicom_core::VR::LO, dicom_core::PrimitiveValue::from(issuer)));
        object.write_to_file(&file).expect("writes");
        held.files[1] = std::fs::read(&file).expect("reads").into();
        let (uid, lost) = (held.study.uid(), held.study.instance(2));
        let (world, _countries) = showing(uid.clone(), kos, "", move || held.sent()).await;
        let root = root(&world).await;
        let heard = fetched(&world, &format!("{root}/studies/{uid}/metadata")).await;
        assert_eq!((heard.status, heard.elements().len(), heard.lost()), (200, expected, 3 - expected), "{issuer}");
        all_recorded(&world, 0, 3).await;
        assert_eq!(lost_by_name(&world, "RAD-75", 0), vec![lost; 3 - expected], "{issuer}");
    }
}

/// IM-15 and T-DCM-7 from a country: an answer in a content coding that nobody asked for is refused, never inflated.
#[tokio::test]
async fn im_15_a_compressed_answer_of_a_country_is_named_and_not_inflated() {
    let zeros = Bytes::from(ncp_tests::synth::gzipped(64 << 20));
    let held = Held::new(1, OF, 1);
    let (uid, kos) = (held.study.uid(), Bytes::from(manifest(&held)));
    for action in [actions::ITI39_REQUEST, actions::RAD75_REQUEST] {
        let (kos, zeros) = (kos.clone(), zeros.clone());
        let (world, _countries) = listing_one(uid.clone(), "", move |asked: &Asked| match asked.action.as_str() {
            coded if coded == action => {
                let content_type = "application/soap+xml".to_owned();
                let bomb = ncp_tests::cases::Recorded { content_type, body: zeros.to_vec() };
                Some(Reaction::Coded(Box::new(Reaction::Recorded(bomb)), "gzip"))
            }
            actions::ITI39_REQUEST => Some(kos_sent(asked, kos.clone(), Vec::new())),
            _ => None,
        })
        .await;
        let root = root(&world).await;
        let heard = fetched(&world, &format!("{root}/studies/{uid}")).await;
        let issue = heard.json()["issue"][0].clone();
        assert_eq!((heard.status, code(&issue)), (502, "content-unreadable"), "{action}: {issue}");
        assert!(issue["details"]["text"].as_str().is_some_and(|text| text.contains("gzip")), "{issue}");
    }
}
