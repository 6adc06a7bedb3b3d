//! Archives with habits: each unit fails alone, and what is missing is said.

use std::collections::BTreeSet;

use axum::response::Response;
use ncp_ihe::{
    Association, Availability, ContentFilter, CrossGatewayQueryRequest, DocumentEntry, DocumentRequest, EntryType,
    HomeCommunityId, Manifest, ObjectIds, QueryResponse, ReturnType, Status, StoredQuery, actions,
};
use ncp_tests::archive::{Archive, Asked, status};
use ncp_tests::neighbour::XCA;
use ncp_tests::synth::Study;

use crate::harness::{Asker, HOME, World, codes, dicomweb, fetch, same_as_files};
use crate::lines::{Lines, digest};
use crate::{images, oid, patient};

pub(crate) const LOCATION: &str = "2.999.47.21.3";
const OTHER: &str = "2.999.47.21.4";

pub(crate) fn connector(base: &str, location: &str) -> String {
    dicomweb(base, location, "first_byte = \"2s\"\nidle = \"2s\"\nwait = \"4s\"\npage = 100")
}

fn study(number: u32) -> Study {
    Study { side: 32, ..crate::study(number, 3) }
}

/// An archive with so many studies of the patient, and who asks for them.
async fn archive(world: &World, studies: u32) -> (Archive, Asker) {
    let archive = Archive::default();
    (1..=studies).for_each(|number| archive.hold(&study(number), world.dir.path()));
    let base = archive.serve().await;
    let neighbour = world.gateway(true, &connector(&base, LOCATION)).await;
    (archive, neighbour)
}

/// Studies that a query lists.
fn listed(found: &QueryResponse) -> BTreeSet<String> {
    found.objects.entries.iter().filter_map(|e| e.study_instance_uid()).map(|uid| uid.to_string()).collect()
}

fn all_but(studies: u32, odd: &[u32]) -> BTreeSet<String> {
    (1..=studies).filter(|n| !odd.contains(n)).map(|n| study(n).uid()).collect()
}

fn names(found: &QueryResponse, text: &str) -> bool {
    found.errors.iter().any(|e| e.code == "XDSRegistryError" && e.context.contains(text))
}

fn names_study(found: &QueryResponse, number: u32, text: &str) -> bool {
    let uid = study(number).uid();
    let of = |location: &str| location.split(' ').next() == Some(uid.as_str());
    found.errors.iter().any(|e| e.location.as_deref().is_some_and(of) && e.context.contains(text))
}

async fn complete(neighbour: &Asker, number: u32, location: &str, folder: &std::path::Path) {
    let study = study(number);
    let fetched = fetch(neighbour, &images(&study, location, 1..=3)).await;
    assert!(fetched.whole, "study {number} came to its end");
    assert_eq!((fetched.response.status, fetched.instances.len()), (Status::Success, 3), "study {number}");
    let files: Vec<_> =
        (1..=3).map(|slice| folder.join(format!("held-{number}")).join(format!("{slice:06}.dcm"))).collect();
    same_as_files(&fetched, &files, &study);
}

/// Instances are sent with bare line feeds (RFC 2046 5.1.1 wants CRLF).
fn bare_line_feeds(asked: &Asked<'_>) -> Option<Response> {
    use axum::response::IntoResponse;
    let body = "--b\nContent-Type: application/dicom\n\nDICM\n--b--\n";
    let kind = "multipart/related; type=\"application/dicom\"; boundary=b";
    (asked.what == "instance").then(|| ([("content-type", kind)], body).into_response())
}

/// IM-11, P6, and WI-12 for bare line feeds: whatever one archive does, another of the same country is served, and the failures of one study do not close
/// its own archive.
#[tokio::test]
async fn im_11_failures_of_one_archive_close_nothing_else() {
    let world = World::new();
    let (odd, well) = (Archive::default(), Archive::default());
    (1..=2).for_each(|number| odd.hold(&study(number), world.dir.path()));
    well.hold(&study(3), world.dir.path());
    let connectors = connector(&odd.serve().await, LOCATION) + &connector(&well.serve().await, OTHER);
    let neighbour = world.gateway(true, &connectors).await;
    let habits: [fn(&Asked<'_>) -> Option<Response>; 4] = [
        bare_line_feeds,
        |asked| (asked.what == "instance").then(|| status(500, &[])).flatten(),
        |asked| (asked.what == "instance").then(|| status(503, &[])).flatten(),
        |_| status(500, &[]),
    ];
    for (index, habit) in habits.into_iter().enumerate() {
        odd.habit(habit);
        for _ in 0..4 {
            let fetched = fetch(&neighbour, &images(&study(1), LOCATION, 1..=3)).await;
            assert!(fetched.whole && fetched.instances.is_empty(), "habit {index}: told, not broken off");
            assert_eq!(codes(&fetched).len(), 3, "habit {index}: one error for each instance");
        }
        complete(&neighbour, 3, OTHER, world.dir.path()).await;
        odd.behaves();
        complete(&neighbour, 2, LOCATION, world.dir.path()).await;
    }
}

/// IM-12: one study that the archive cannot list, by three habits; the others are listed, it is named.
#[tokio::test]
async fn im_12_one_study_that_cannot_be_listed_hides_no_other() {
    const STUDIES: u32 = 12;
    let world = World::new();
    let (archive, neighbour) = archive(&world, STUDIES).await;
    for odd in [1, 5, STUDIES] {
        let uid = study(odd).uid();
        let own = uid.clone();
        archive.habit(move |asked| {
            (asked.what == "studies" && asked.page.contains(&own)).then(|| status(400, &[])).flatten()
        });
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        assert_eq!((found.status, listed(&found)), (Status::PartialSuccess, all_but(STUDIES, &[odd])), "pages {odd}");
        assert!(names(&found, "cannot list"), "{:?}", found.errors);

        let own = uid.clone();
        archive.habit(move |asked| {
            (asked.what == "studies" && asked.among.contains(&own)).then(|| status(400, &[])).flatten()
        });
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        assert_eq!((found.status, listed(&found)), (Status::PartialSuccess, all_but(STUDIES, &[odd])), "dates {odd}");
        assert!(names(&found, "cannot list"), "{:?}", found.errors);

        archive.habit(move |asked| {
            let full = asked.query.contains_key("includefield");
            (asked.what == "studies" && full && asked.among.contains(&uid)).then(|| status(500, &[])).flatten()
        });
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        assert_eq!((found.status, listed(&found)), (Status::Success, all_but(STUDIES, &[])), "attributes {odd}");
    }
    // Nothing at all can be had: said, and quickly.
    archive.habit(|asked| (asked.what == "studies").then(|| status(400, &[])).flatten());
    archive.asked();
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!(found.status, Status::Failure);
    assert!(archive.asked().len() <= 220, "a search in pieces ends");
}

/// IM-12: where pages and dates do not part the odd study from another of its day, modalities do.
#[tokio::test]
async fn im_12_a_study_of_the_same_day_as_an_odd_one_is_found_by_its_modality() {
    let world = World::new();
    let archive = Archive::default();
    // The dates of the archive repeat after 84 studies.
    [1, 2].into_iter().for_each(|number| archive.hold(&study(number), world.dir.path()));
    archive.hold_as(&study(85), world.dir.path(), "MR");
    let odd = study(85).uid();
    archive.habit(move |asked| {
        (asked.what == "studies" && asked.among.contains(&odd)).then(|| status(400, &[])).flatten()
    });
    let neighbour = world.gateway(true, &connector(&archive.serve().await, LOCATION)).await;
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, listed(&found)), (Status::PartialSuccess, all_but(2, &[])));
    assert!(names(&found, "cannot list"), "{:?}", found.errors);
    complete(&neighbour, 1, LOCATION, world.dir.path()).await;
}

/// P5 with random input: whatever becomes of what an archive answers of one study, the others are listed and complete.
#[tokio::test]
async fn p_5_a_random_answer_of_one_study_changes_no_other() {
    const STUDIES: u32 = 4;
    let world = World::new();
    let (archive, neighbour) = archive(&world, STUDIES).await;
    let good = serde_json::Value::from(ncp_tests::archive::instances_of(&study(2))).to_string().into_bytes();
    let part = format!("/studies/{}/", study(2).uid());
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..40 {
        let mut odd = good.clone();
        for _ in 0..1 + next() % 4 {
            let at = usize::try_from(next() % odd.len() as u64).expect("small");
            match next() % 4 {
                0 => odd.truncate(at.max(1)),
                1 => odd.insert(at, b"\"{}[]:,\\0"[usize::try_from(next() % 9).expect("small")]),
                2 => drop(odd.remove(at)),
                _ => odd[at] = u8::try_from(next() % 256).expect("a byte"),
            }
            if odd.is_empty() {
                odd.push(b'[');
            }
        }
        let (own, sent) = (part.clone(), odd.clone());
        archive.habit(move |asked| {
            use axum::response::IntoResponse;
            let answer = || ([("content-type", "application/dicom+json")], sent.clone()).into_response();
            asked.path.contains(&own).then(answer)
        });
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        let told = String::from_utf8_lossy(&odd).into_owned();
        assert!(all_but(STUDIES, &[2]).is_subset(&listed(&found)), "round {round}: {told}");
        // What is not listed is named.
        let listed = listed(&found).contains(&study(2).uid());
        assert!(listed || found.status == Status::PartialSuccess, "round {round}: {told}");
    }
    for number in [1, 3, STUDIES] {
        complete(&neighbour, number, LOCATION, world.dir.path()).await;
    }
}

/// P5: one study of many is odd, in one of several ways; the others are as if it were well, and it is named.
#[tokio::test]
async fn p_5_one_odd_study_changes_no_other() {
    const STUDIES: u32 = 9;
    let world = World::new();
    let (archive, neighbour) = archive(&world, STUDIES).await;
    type Habit = fn() -> Option<Response>;
    let ways: [(&str, Habit); 5] = [
        ("500", || status(500, &[])),
        ("403", || status(403, &[])),
        ("gzip", || status(200, &[("content-encoding", "gzip")])),
        ("no JSON", || status(200, &[])),
        ("elsewhere", || status(302, &[("location", "http://elsewhere.example/x")])),
    ];
    for (index, (way, answer)) in ways.into_iter().enumerate() {
        let odd = index as u32 * 2 + 1;
        let part = format!("/studies/{}/", study(odd).uid());
        archive.habit(move |asked| asked.path.contains(&part).then(answer).flatten());
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        assert_eq!((found.status, listed(&found)), (Status::PartialSuccess, all_but(STUDIES, &[odd])), "{way}");
        assert!(names_study(&found, odd, "cannot list"), "{way}: {:?}", found.errors);
        for number in (1..=STUDIES).filter(|n| *n != odd).take(2) {
            complete(&neighbour, number, LOCATION, world.dir.path()).await;
        }
    }
}

/// IM-13: a slow study is named as being read, and is there on the next search; then it is not slow any more.
#[tokio::test]
async fn im_13_one_slow_study_hides_no_other() {
    const STUDIES: u32 = 20;
    let world = World::new();
    let (archive, neighbour) = archive(&world, STUDIES).await;
    let gate = archive.gate(&format!("/studies/{}/", study(7).uid()));
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, listed(&found)), (Status::PartialSuccess, all_but(STUDIES, &[7])));
    assert!(names_study(&found, 7, "being read"), "{:?}", found.errors);
    // It is being read once, however often it is searched for.
    gate.add_permits(2);
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, listed(&found)), (Status::Success, all_but(STUDIES, &[])));
    // The gate is closed again: what took long is kept for as long as the archive counts as many instances.
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, listed(&found)), (Status::Success, all_but(STUDIES, &[])));
}

/// CO-13 from an archive: a study whose date is none is listed without it, and nothing invalid goes out.
#[tokio::test]
async fn co_13_a_date_of_an_archive_that_is_none_goes_nowhere() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 2).await;
    archive.habit(|asked| {
        use axum::response::IntoResponse;
        let one = |uid: &String| {
            let odd = *uid == study(2).uid();
            let text = |vr: &str, text: &str| serde_json::json!({ "vr": vr, "Value": [text] });
            serde_json::json!({
                "00080020": text("DA", if odd { "20261341" } else { "20260102" }),
                "00080030": text("TM", if odd { "9999" } else { "1015" }),
                "00100020": text("LO", crate::LOCAL_ID),
                "00100030": text("DA", crate::BIRTH_DATE),
                "0020000D": text("UI", uid),
            })
        };
        let all = serde_json::Value::from(asked.page.iter().map(one).collect::<Vec<_>>()).to_string();
        (asked.what == "studies").then(|| ([("content-type", "application/dicom+json")], all).into_response())
    });
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!(listed(&found), all_but(2, &[]));
    assert!(!found.to_element().to_xml().contains("20261341"), "an invalid date went out");
    let (response, bytes) =
        neighbour.document(&patient(), &wanted(&entry_of(&found, 2).unique_id)).await.expect("ITI-39");
    assert_eq!(response.status, Status::Success);
    let read = Manifest::read_kos(&bytes).expect("a manifest");
    assert_eq!((read.study_date, bytes.windows(8).any(|w| w == b"20261341")), (None, false));
}

/// IM-14: any answer of an archive that has no instances at study level leads to the series level.
#[tokio::test]
async fn im_14_without_instances_of_a_study_its_series_are_asked() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 2).await;
    for code in [400, 404, 405, 501, 500] {
        archive.habit(move |asked| {
            let at_study = asked.what == "instances" && !asked.path.contains("/series/");
            at_study.then(|| status(code, &[])).flatten()
        });
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        assert_eq!((found.status, listed(&found)), (Status::Success, all_but(2, &[])), "{code}");
        complete(&neighbour, 1, LOCATION, world.dir.path()).await;
    }
    // An archive that lists no series, but instances that name theirs.
    archive.habit(|asked| (asked.what == "series").then(|| status(501, &[])).flatten());
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, listed(&found)), (Status::Success, all_but(2, &[])));
}

/// The entry of a study's manifest.
fn of_study(found: &QueryResponse, number: u32) -> &DocumentEntry {
    let of = |e: &&DocumentEntry| e.study_instance_uid().is_some_and(|uid| uid.as_str() == study(number).uid());
    found.objects.entries.iter().find(of).expect("listed")
}

/// IM-08: a study date that is none is not told as if there were none: the answer and the log name the study, which is
/// listed all the same; in the form of before DICOM 3.0 it is one.
#[tokio::test]
async fn im_08_a_study_date_that_cannot_be_read_is_named() {
    let world = World::new();
    let lines = Lines::begin();
    let (archive, neighbour) = archive(&world, 2).await;
    archive.dated(1, "2026.01.02");
    archive.dated(2, "02/01/2026");
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, listed(&found)), (Status::Success, all_but(2, &[])), "{:?}", found.errors);
    assert!(names_study(&found, 2, "study date") && !names_study(&found, 1, ""), "{:?}", found.errors);
    let began = [1, 2].map(|number| of_study(&found, number).service_start.as_ref().map(ToString::to_string));
    assert_eq!(began, [Some("20260102000000".to_owned()), None]);
    let left_out = lines.of("left out of a list");
    let [line] = left_out.as_slice() else { panic!("{left_out:?}") };
    let named = (format!("archive {LOCATION}").into(), digest(&study(2).uid()).into());
    assert_eq!((&line["connector"], &line["unit"]), (&named.0, &named.1), "{line}");
    assert_eq!(line["reason"], "its study date or time cannot be read");
    assert!(!lines.hold("02/01/2026"), "no value");
    complete(&neighbour, 2, LOCATION, world.dir.path()).await;
}

/// IM-08: an archive that counts more instances than it lists: the list says so, and so does the manifest, from which the
/// clinician's side counts what is missing.
#[tokio::test]
async fn im_08_what_the_archive_counts_and_does_not_list_is_told() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 2).await;
    let whole = neighbour.documents(&patient()).await.expect("ITI-38");
    assert!(whole.errors.is_empty());
    archive.counts(1, 5);
    // A gateway that has not listed the study before.
    let neighbour = world.gateway(true, &connector(&archive.serve().await, LOCATION)).await;
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!((found.status, listed(&found)), (Status::Success, all_but(2, &[])));
    assert!(names_study(&found, 1, "3 of 5 instances are listed") && !names_study(&found, 2, ""), "{:?}", found.errors);
    for (number, announced) in [(1, 5), (2, 3)] {
        let id = &of_study(&found, number).unique_id;
        assert_eq!(*id == of_study(&whole, number).unique_id, announced == 3, "another object has another UID");
        let (response, bytes) = neighbour.document(&patient(), &wanted(id)).await.expect("ITI-39");
        assert_eq!(response.status, Status::Success);
        assert_eq!(Manifest::read_kos(&bytes).expect("a KOS").announced_count(), announced, "study {number}");
    }
}

/// IM-15: no coding but none is asked for.
#[tokio::test]
async fn im_15_archives_are_asked_for_no_content_coding() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 1).await;
    neighbour.documents(&patient()).await.expect("ITI-38");
    complete(&neighbour, 1, LOCATION, world.dir.path()).await;
    let headers = archive.headers();
    assert!(headers.len() > 3);
    for headers in headers {
        let codings: Vec<_> = headers.get_all("accept-encoding").iter().collect();
        assert_eq!(codings, ["identity"]);
    }
}

/// IM-18 and IM-19: an archive that is busy, or fetches from tape, is waited for as long as it says.
#[tokio::test]
async fn im_18_an_archive_that_says_when_is_waited_for() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 1).await;
    for code in [503, 429, 202] {
        archive.asked();
        archive.habit(move |asked| {
            let busy = asked.what == "instance" && asked.before < 2;
            busy.then(|| status(code, &[("retry-after", "1")])).flatten()
        });
        complete(&neighbour, 1, LOCATION, world.dir.path()).await;
        assert_eq!(archive.asked().iter().filter(|a| a.contains("/instances/")).count(), 9, "{code}");
    }
}

/// IM-19: a redirect below the archive's own address is followed, another is not, and nobody else hears of it.
#[tokio::test]
async fn im_19_redirects_are_followed_below_the_own_address_alone() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 1).await;
    archive.habit(|asked| {
        let first = asked.what == "instance" && !asked.query.contains_key("key");
        first.then(|| status(302, &[("location", "?key=1")])).flatten()
    });
    complete(&neighbour, 1, LOCATION, world.dir.path()).await;
    let elsewhere = Archive::default();
    let address = elsewhere.serve().await;
    archive.habit(move |asked| (asked.what == "instance").then(|| status(302, &[("location", &address)])).flatten());
    let fetched = fetch(&neighbour, &images(&study(1), LOCATION, 1..=3)).await;
    assert!(fetched.whole && fetched.instances.is_empty());
    assert_eq!(codes(&fetched), ["XDSRepositoryError"; 3]);
    assert!(elsewhere.asked().is_empty());
}

/// IM-02: a search asks whose id a patient's id is.
#[tokio::test]
async fn im_02_a_search_asks_for_the_issuer_of_the_id() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 1).await;
    let fields = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = fields.clone();
    archive.habit(move |asked| {
        let asked_for = asked.query.get("includefield").cloned().unwrap_or_default();
        if matches!(asked.what, "studies" | "instances") {
            kept.lock().expect("not poisoned").push(asked_for);
        }
        None
    });
    neighbour.documents(&patient()).await.expect("ITI-38");
    let fields = fields.lock().expect("not poisoned").clone();
    let issuers = ["00100021", "00100024", "00101002"];
    assert!(fields.len() >= 2 && fields.iter().all(|f| issuers.iter().all(|tag| f.contains(tag))), "{fields:?}");
}

fn wanted(unique_id: &str) -> DocumentRequest {
    let home = Some(HomeCommunityId(oid(HOME)));
    DocumentRequest { home, repository: oid(LOCATION), document: unique_id.to_owned() }
}

/// The manifest of a study as it is listed.
fn entry_of(found: &QueryResponse, number: u32) -> DocumentEntry {
    let uid = study(number).uid();
    let of = |e: &&DocumentEntry| e.study_instance_uid().is_some_and(|own| own.as_str() == uid);
    found.objects.entries.iter().find(of).expect("listed").clone()
}

fn sha1(bytes: &[u8]) -> String {
    hex::encode(openssl::sha::sha1(bytes))
}

/// IM-16: opening one study asks about that study alone, whatever else the patient has.
#[tokio::test]
async fn im_16_opening_a_study_asks_about_that_study_alone() {
    const STUDIES: u32 = 70;
    let world = World::new();
    let (archive, neighbour) = archive(&world, STUDIES).await;
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!(listed(&found), all_but(STUDIES, &[]));
    let restarted = world.gateway(true, &connector(&archive.serve().await, LOCATION)).await;
    for (asker, number) in [(&neighbour, 1), (&neighbour, STUDIES), (&restarted, 2), (&restarted, 69)] {
        let entry = entry_of(&found, number);
        archive.asked();
        let (response, bytes) = asker.document(&patient(), &wanted(&entry.unique_id)).await.expect("ITI-39");
        let asked = archive.asked();
        assert_eq!((response.status, Some(sha1(&bytes))), (Status::Success, entry.hash), "study {number}");
        assert!(asked.len() <= 3, "{asked:?}");
        complete(asker, number, LOCATION, world.dir.path()).await;
        assert!(archive.asked().iter().all(|a| a.contains("/instances/")), "nothing was listed again");
    }
}

/// IM-17, P8: a study that grows. Who was promised its three instances goes on seeing them and hears that one more came;
/// a new search shows four, replacing the three.
#[tokio::test]
async fn im_17_who_was_promised_a_study_keeps_it_while_it_grows() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 3).await;
    let first = entry_of(&neighbour.documents(&patient()).await.expect("ITI-38"), 2);
    let mut former = vec![first.clone()];
    for more in 1..=2 {
        archive.grow(2, world.dir.path());
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        let grown = entry_of(&found, 2);
        assert_eq!((found.status, found.objects.entries.len()), (Status::Success, 3));
        assert!(former.iter().all(|old| old.unique_id != grown.unique_id));
        for old in &former {
            let (response, bytes) = neighbour.document(&patient(), &wanted(&old.unique_id)).await.expect("ITI-39");
            assert_eq!((response.status, Some(sha1(&bytes))), (Status::Success, old.hash.clone()));
            let listed = Manifest::read_kos(&bytes).expect("a manifest").instance_count();
            let newer = format!("urn:ncp:newer:{}", 3 + more - listed);
            assert_eq!(response.errors.iter().map(|e| e.code.clone()).collect::<Vec<_>>(), [newer]);
        }
        let (response, bytes) = neighbour.document(&patient(), &wanted(&grown.unique_id)).await.expect("ITI-39");
        assert_eq!((response.status, response.errors.len()), (Status::Success, 0));
        assert_eq!(Manifest::read_kos(&bytes).expect("a manifest").instance_count(), 3 + more);
        complete(&neighbour, 2, LOCATION, world.dir.path()).await;
        former.push(grown);
    }
    // The former forms are deprecated and replaced.
    let query = StoredQuery::GetRelatedDocuments {
        document: ObjectIds::EntryUuids(vec![first.entry_uuid.clone()]),
        association_types: vec![Association::RPLC.into()],
        contents: ContentFilter { entry_types: vec![EntryType::Stable], ..ContentFilter::default() },
    };
    let home = Some(HomeCommunityId(oid(HOME)));
    let request = CrossGatewayQueryRequest { home, return_type: ReturnType::LeafClass, query };
    let assertions = neighbour.assertions(&patient()).await.expect("signs");
    let answer = neighbour.call(actions::ITI38_REQUEST, XCA, &assertions, request.to_element()).await;
    let (related, _) = QueryResponse::read(&answer.expect("an answer").body).expect("reads");
    let replaces = |a: &Association| a.is(Association::RPLC) && a.target == first.entry_uuid;
    assert!(related.objects.associations.iter().any(replaces), "{related:?}");
    assert!(related.objects.entries.iter().all(|e| e.availability == Availability::Deprecated));
    // A gateway that never listed the former forms says what became of them, and shows the present one.
    let restarted = world.gateway(true, &connector(&archive.serve().await, LOCATION)).await;
    let (response, _) = restarted.document(&patient(), &wanted(&first.unique_id)).await.expect("ITI-39");
    assert_eq!((response.status, response.errors[0].code.as_str()), (Status::Failure, "urn:ncp:replaced"));
    let (response, _) = restarted.document(&patient(), &wanted(&former[2].unique_id)).await.expect("ITI-39");
    assert_eq!(response.status, Status::Success);
}

/// IM-18: an archive that is busy for longer than anybody waits: each instance is told with the archive's own time.
#[tokio::test]
async fn im_18_a_longer_time_is_told_as_the_archive_says_it() {
    let world = World::new();
    let (archive, neighbour) = archive(&world, 1).await;
    let busy = study(1).instance(2);
    archive.habit(move |asked| asked.path.ends_with(&busy).then(|| status(503, &[("retry-after", "600")])).flatten());
    let fetched = fetch(&neighbour, &images(&study(1), LOCATION, 1..=3)).await;
    assert!(fetched.whole && fetched.instances.len() == 2);
    assert_eq!((fetched.response.status, codes(&fetched)), (Status::PartialSuccess, vec!["XDSRepositoryBusy"]));
    assert!(
        fetched.response.errors[0].context.starts_with("busy, try again in 600 s"),
        "{:?}",
        fetched.response.errors
    );
}
