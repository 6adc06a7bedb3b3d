//! Bad input of the threat table that an archive can send, under its ids: one row an input. Beside its own answer every row checks
//! that the other instances, or studies, come as they are, that what does not come is named in the answer and on the trail, that
//! nobody else was asked for anything, and that the next good request is served.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use ncp_ihe::Status;
use ncp_tests::synth::{Study, bomb, gzipped};

use crate::habits::{LOCATION, connector};
use crate::harness::{Asker, World, codes, fetch, others_came};
use crate::{images, patient, study, uid};
use ncp_tests::archive::{Archive, Asked, status};

type Answer = fn(&[u8]) -> Response;

const KIND: &str = "multipart/related; type=\"application/dicom\"; boundary=b";

fn multipart(body: Vec<u8>) -> Response {
    ([("content-type", KIND)], body).into_response()
}

/// An instance as one part.
fn part(object: Vec<u8>) -> Response {
    multipart([b"--b\r\nContent-Type: application/dicom\r\n\r\n".to_vec(), object, b"\r\n--b--\r\n".to_vec()].concat())
}

/// The object with a change made to it.
fn changed(good: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Response {
    let mut object = good.to_vec();
    change(&mut object);
    part(object)
}

fn pixels_at(good: &[u8]) -> usize {
    let tag = b"\xe0\x7f\x10\0OW\0\0";
    good.windows(tag.len()).position(|window| window == tag).expect("pixels")
}

/// What an archive sends in the place of one instance, and the code by which that is told.
const INSTANCES: [(&str, &str, &str, Answer); 22] = [
    ("T-DCM-1", "no DICM", WITHHELD, |good| changed(good, |o| o[128..132].copy_from_slice(b"NONE"))),
    ("T-DCM-2", "truncated in its header", WITHHELD, |good| part(good[..200].to_vec())),
    ("T-DCM-2", "truncated in its pixels", WITHHELD, |good| part(good[..good.len() - 100].to_vec())),
    ("T-DCM-3", "group length past the end", WITHHELD, |good| {
        changed(good, |o| o[140..144].copy_from_slice(&0x7000_0000_u32.to_le_bytes()))
    }),
    ("T-DCM-4", "pixels of 4 GB", WITHHELD, |good| {
        let at = pixels_at(good);
        changed(good, |o| o[at + 8..at + 12].copy_from_slice(&0xFFFF_FFF0_u32.to_le_bytes()))
    }),
    ("T-DCM-5", "20,000 nested sequences", WITHHELD, |good| {
        changed(good, |o| {
            for _ in 0..20_000 {
                o.extend_from_slice(b"\xe1\x7f\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff");
            }
        })
    }),
    ("T-DCM-6", "an odd end", WITHHELD, |good| changed(good, |o| o.push(b'x'))),
    ("T-DCM-7", "a deflate bomb", WITHHELD, |good| part(bomb(good))),
    ("T-DCM-8", "a length that runs over its end", WITHHELD, |good| {
        let at = pixels_at(good);
        changed(good, |o| {
            let length = u32::from_le_bytes(o[at + 8..at + 12].try_into().expect("four")) + 2;
            o[at + 8..at + 12].copy_from_slice(&length.to_le_bytes());
        })
    }),
    ("T-HTTP-2", "a gzip bomb nobody asked for", FAILED, |_| {
        ([("content-type", KIND), ("content-encoding", "gzip")], gzipped(64 << 20)).into_response()
    }),
    ("T-MIM-5", "no closing boundary", FAILED, |good| {
        multipart([b"--b\r\nContent-Type: application/dicom\r\n\r\n".as_slice(), good].concat())
    }),
    ("T-MIM-4", "another boundary than announced", FAILED, |good| {
        multipart([b"--other\r\n\r\n".as_slice(), good, b"\r\n--other--\r\n"].concat())
    }),
    ("T-MIM-8", "two instances in one answer", FAILED, |good| {
        multipart([b"--b\r\n\r\n".as_slice(), good, b"\r\n--b\r\n\r\n", good, b"\r\n--b--\r\n"].concat())
    }),
    ("T-MIM-9", "a part header of 300 kB", FAILED, |good| {
        multipart([b"--b\r\nX: ".to_vec(), vec![b'x'; 300 << 10], b"\r\n\r\n".to_vec(), good.to_vec()].concat())
    }),
    ("T-MIM-10", "a storm of what is nearly a boundary", WITHHELD, |_| part(b"\r\n--".repeat(200_000))),
    ("T-MIM-12", "a transfer encoding nobody knows", FAILED, |good| {
        let head = b"--b\r\nContent-Transfer-Encoding: x-gzip64\r\n\r\n".as_slice();
        multipart([head, good, b"\r\n--b--\r\n"].concat())
    }),
    ("T-KOS-1", "a redirect to another host", FAILED, |_| {
        status(302, &[("location", "http://192.0.2.1/dicom-web/studies")]).expect("a status")
    }),
    ("T-KOS-2", "a redirect to a metadata service", FAILED, |_| {
        status(307, &[("location", "http://169.254.169.254/latest/meta-data")]).expect("a status")
    }),
    ("T-KOS-3", "a redirect with user info", FAILED, |_| {
        status(302, &[("location", "http://user:secret@127.0.0.1/x")]).expect("a status")
    }),
    ("T-KOS-4", "a redirect to itself", FAILED, |_| status(302, &[("location", "?again=1")]).expect("a status")),
    ("T-DCM-1", "a page in the place of an object", FAILED, |_| {
        ([("content-type", "text/html")], "<script>alert(1)</script>").into_response()
    }),
    ("T-DCM-1", "nothing", WITHHELD, |_| part(Vec::new())),
];

/// How an instance is told that is not what it should be, and one that its archive did not deliver.
const WITHHELD: &str = "XDSDocumentUniqueIdError";
const FAILED: &str = "XDSRepositoryError";

#[tokio::test(flavor = "multi_thread")]
async fn t_dcm_t_mim_t_kos_what_an_archive_sends_in_the_place_of_an_instance() {
    let world = World::new();
    let archive = Archive::default();
    let study = Study { side: 32, ..study(1, 3) };
    archive.hold(&study, world.dir.path());
    let files: Vec<_> = (1..=3).map(|slice| world.dir.path().join("held-1").join(format!("{slice:06}.dcm"))).collect();
    let good = std::fs::read(&files[1]).expect("reads");
    let base = archive.serve().await;
    for (id, what, code, answer) in INSTANCES {
        // What failed a moment ago is not promised again under the same treatment, so each row has its own gateway.
        let neighbour = world.gateway(true, &connector(&base, LOCATION)).await;
        let (second, good) = (study.instance(2), good.clone());
        archive.habit(move |asked: &Asked<'_>| {
            (asked.what == "instance" && asked.path.ends_with(&second)).then(|| answer(&good))
        });
        let before = world.trail().await.len();
        let mut request = images(&study, LOCATION, 1..=3);
        request.transfer_syntaxes.push(uid("1.2.840.10008.1.2.1.99"));
        let fetched = fetch(&neighbour, &request).await;
        others_came(&fetched, &files, &study, 1..=3, 2);
        if fetched.whole {
            assert_eq!(codes(&fetched), [code], "{id} {what}");
        }
        let trail = world.trail().await.split_off(before);
        let named = format!("<Instance UID=\"{}\"", study.instance(2));
        assert!(trail.iter().any(|xml| xml.contains(&named)), "{id} {what}: on the trail");
        let alerted = trail.iter().any(|xml| xml.contains("csd-code=\"110113\""));
        assert_eq!(alerted, code == WITHHELD, "{id} {what}: an alert");
        archive.behaves();
        assert_eq!(served(&neighbour).await, 1, "{id} {what}: the next request");
    }
}

/// Studies that are listed.
async fn served(neighbour: &Asker) -> usize {
    let found = neighbour.documents(&patient()).await.expect("ITI-38");
    assert_eq!(found.status, Status::Success);
    found.objects.entries.len()
}

/// Id, what it is, and the answer.
type Row = (&'static str, &'static str, fn() -> Response);

/// What an archive answers to a search for the instances of one study.
const SEARCHES: [Row; 9] = [
    ("T-FHR-5", "nested 10,000 deep", || json(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)))),
    ("T-FHR-5", "objects nested 10,000 deep", || {
        json(&format!("[{}{}]", "{\"a\":".repeat(10_000), "}".repeat(10_000)))
    }),
    ("T-HTTP-1", "40 MB of white space", || json(&" ".repeat(40 << 20))),
    ("T-HTTP-2", "a gzip bomb", || ([("content-encoding", "gzip")], gzipped(64 << 20)).into_response()),
    ("T-KOS-4", "60,000 instances", || {
        let one = r#"{"00080018":{"vr":"UI","Value":["2.999.1"]}}"#;
        json(&format!("[{}]", vec![one; 60_000].join(",")))
    }),
    ("T-KOS-4", "one instance, without what is needed to ask for it", || {
        json(r#"[{"00080018":{"vr":"UI","Value":["2.999.1"]}}]"#)
    }),
    ("T-FHR-5", "no JSON", || json("<html/>")),
    ("T-FHR-5", "half of an answer", || json(r#"[{"00080018":{"vr":"UI","Val"#)),
    ("T-KOS-2", "a redirect to a metadata service", || {
        status(302, &[("location", "http://169.254.169.254/")]).expect("a status")
    }),
];

fn json(text: &str) -> Response {
    ([("content-type", "application/dicom+json")], text.to_owned()).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn t_fhr_t_http_t_kos_what_an_archive_answers_to_a_search() {
    let world = World::new();
    let archive = Archive::default();
    let all: BTreeSet<String> = (1..=3).map(|number| study(number, 3).uid()).collect();
    (1..=3).for_each(|number| archive.hold(&Study { side: 32, ..study(number, 3) }, world.dir.path()));
    let neighbour = world.gateway(true, &connector(&archive.serve().await, LOCATION)).await;
    let odd = study(2, 3).uid();
    for (id, what, answer) in SEARCHES {
        let of = format!("/studies/{odd}/");
        archive.habit(move |asked: &Asked<'_>| asked.path.contains(&of).then(answer));
        let found = neighbour.documents(&patient()).await.expect("ITI-38");
        let listed: BTreeSet<String> =
            found.objects.entries.iter().filter_map(|e| e.study_instance_uid()).map(|uid| uid.to_string()).collect();
        let others: BTreeSet<String> = all.iter().filter(|uid| **uid != odd).cloned().collect();
        assert_eq!((found.status, listed), (Status::PartialSuccess, others), "{id} {what}");
        let names = found.errors.iter().any(|e| {
            e.context.contains("cannot list it") && e.location.as_deref().is_some_and(|at| at.starts_with(&odd))
        });
        assert!(names, "{id} {what}: {:?}", found.errors);
        archive.behaves();
        assert_eq!(served(&neighbour).await, 3, "{id} {what}: the next request");
    }
}
