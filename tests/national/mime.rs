//! What national systems send in a transfer encoding, in an empty part, or with wrong line ends: cases WI-01, WI-02 and WI-12
//! at NCP-A.

use axum::response::{IntoResponse, Response};
use ncp_ihe::{DocumentEntry, DocumentRequest, HomeCommunityId, RetrieveRequest, RetrieveResponse, Status, actions};
use ncp_tests::cases::Recorded;
use ncp_tests::neighbour::{XCA, retrieve_response};
use ncp_tests::synth::Study;

use crate::habits::{LOCATION, connector};
use crate::harness::{Asker, HOME, World, codes, fetch, others_came};
use crate::lines::{Lines, digest};
use crate::xds::{KOS, REPOSITORY, domain, entry};
use crate::{images, oid, patient, study};
use ncp_tests::archive::{Archive, Asked};

const ITI47: &str = r#"{ transaction = "ITI-47", endpoint = "https://localhost:PORT/pdq" }"#;

fn recorded(file: &str) -> Recorded {
    Recorded::load(&format!("wire/{file}"), None).with("@REPOSITORY@", REPOSITORY).with("@DOCUMENT@", KOS)
}

fn wanted(document: &str) -> DocumentRequest {
    let home = Some(HomeCommunityId(oid(HOME)));
    DocumentRequest { home, repository: oid(REPOSITORY), document: document.into() }
}

/// The entry of the document of the cases, with hash and size or without.
fn report(announced: bool) -> DocumentEntry {
    let document = Recorded::load("wire/WI-document.xml", Some("text/xml")).body;
    let mut entry = entry(patient(), KOS, &study(8, 1));
    (entry.mime_type, entry.reference_ids) = ("text/xml".into(), Vec::new());
    if announced {
        let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha1(), &document).expect("SHA-1");
        (entry.hash, entry.size) = (Some(hex::encode(digest)), Some(document.len() as u64));
    }
    entry
}

#[tokio::test]
async fn wi_01_a_coded_document_of_the_repository_arrives_as_it_was() {
    let world = World::new();
    let (domain, neighbour, _) = domain(&world, &study(8, 1), ITI47).await;
    let document = Recorded::load("wire/WI-document.xml", Some("text/xml")).body;
    for announced in [true, false] {
        for file in ["WI-01-c-iti43-answer-base64.http", "WI-01-d-iti43-answer-quoted-printable.http"] {
            {
                let mut holdings = domain.0.lock().expect("not poisoned");
                (holdings.entries, holdings.recorded) = (vec![report(announced)], Some(recorded(file)));
                holdings.documents.clear();
            }
            let (response, bytes) = neighbour.document(&patient(), &wanted(KOS)).await.expect("ITI-39");
            assert_eq!((response.status, bytes == document), (Status::Success, true), "{file} announced {announced}");
        }
    }
}

const FIRST: (&str, &str) = ("2.999.47.31.81", "<first/>");
const THIRD: (&str, &str) = ("2.999.47.31.82", "<third/>");

/// ITI-39 of three documents, the odd one second: the root, and the whole parts.
async fn three(asker: &Asker) -> (RetrieveResponse, Vec<Vec<u8>>) {
    let request = RetrieveRequest { documents: [FIRST.0, KOS, THIRD.0].map(wanted).to_vec() };
    let assertions = asker.assertions(&patient()).await.expect("signs");
    let mut answer = asker.call(actions::ITI39_REQUEST, XCA, &assertions, request.to_element()).await.expect("a root");
    let response = retrieve_response(&answer.body).expect("a response");
    let mut parts = Vec::new();
    while answer.parts.next().await.expect("whole").is_some() {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.parts.chunk().await.expect("whole") {
            bytes.extend_from_slice(&chunk);
        }
        parts.push(bytes);
    }
    (response, parts)
}

/// WI-01 and WI-02 with the odd part as the second of three documents: of three that NCP-B asks for, and of three in the
/// repository's own answer.
#[tokio::test]
async fn wi_01_and_wi_02_an_odd_document_between_two_others() {
    let world = World::new();
    let (domain, neighbour, _) = domain(&world, &study(8, 1), ITI47).await;
    let document = Recorded::load("wire/WI-document.xml", Some("text/xml")).body;
    for announced in [true, false] {
        for (file, whole) in [
            ("WI-01-c-iti43-answer-base64.http", true),
            ("WI-01-d-iti43-answer-quoted-printable.http", true),
            ("WI-02-b-iti43-answer-empty-part.http", false),
        ] {
            {
                let mut holdings = domain.0.lock().expect("not poisoned");
                let beside = |(id, _): (&str, &str), number: u32| DocumentEntry {
                    unique_id: id.into(),
                    entry_uuid: format!("urn:uuid:00000000-0000-4000-8000-{number:012}"),
                    ..report(false)
                };
                holdings.entries = vec![beside(FIRST, 1), report(announced), beside(THIRD, 2)];
                holdings.documents = [FIRST, THIRD].map(|(id, text)| (id.to_owned(), text.into())).into();
                let between = Recorded::load(&format!("wire/{file}"), None).second_of_three([FIRST, THIRD]);
                holdings.recorded = Some(between.with("@REPOSITORY@", REPOSITORY).with("@DOCUMENT@", KOS));
            }
            let (response, parts) = three(&neighbour).await;
            let mut expected = vec![FIRST.1.as_bytes().to_vec(), THIRD.1.into()];
            if whole {
                expected.insert(1, document.clone());
                assert_eq!((response.status, response.errors.len()), (Status::Success, 0), "{file} {announced}");
            } else {
                let [error] = response.errors.as_slice() else { panic!("{file}: {:?}", response.errors) };
                assert_eq!((response.status, error.code.as_str()), (Status::PartialSuccess, "XDSRepositoryError"));
                assert!(error.location.as_deref().is_some_and(|at| at.starts_with(KOS)), "{file}: {error:?}");
            }
            assert!(parts == expected, "{file} announced {announced}: {} parts", parts.len());
        }
    }
    assert!(world.trail().await.iter().any(|xml| xml.contains("document is empty")), "an alert");
}

/// WI-02: the empty part of a repository's answer does not hold the next.
#[tokio::test]
async fn wi_02_an_empty_part_of_the_repository_does_not_hold_the_next() {
    let world = World::new();
    let (domain, neighbour, _) = domain(&world, &study(8, 1), ITI47).await;
    for announced in [true, false] {
        {
            let mut holdings = domain.0.lock().expect("not poisoned");
            let file = recorded("WI-02-b-iti43-answer-empty-part.http");
            (holdings.entries, holdings.recorded) = (vec![report(announced)], Some(file));
            holdings.documents.clear();
        }
        let (response, bytes) = neighbour.document(&patient(), &wanted(KOS)).await.expect("ITI-39");
        assert_eq!((response.status, bytes.len()), (Status::Failure, 0), "announced {announced}");
        assert_eq!(response.errors[0].code, "XDSRepositoryError");
    }
}

/// An archive with one study of three instances, the second of which comes so.
async fn odd_second(
    world: &World,
    answer: impl Fn(&[u8]) -> Response + Send + Sync + 'static,
) -> (Archive, Asker, Study, Vec<std::path::PathBuf>) {
    let archive = Archive::default();
    let study = Study { side: 32, ..study(1, 3) };
    archive.hold(&study, world.dir.path());
    let files: Vec<_> = (1..=3).map(|slice| world.dir.path().join("held-1").join(format!("{slice:06}.dcm"))).collect();
    let (second, file) = (study.instance(2), std::fs::read(&files[1]).expect("reads"));
    archive.habit(move |asked: &Asked<'_>| {
        (asked.what == "instance" && asked.path.ends_with(&second)).then(|| answer(&file))
    });
    let neighbour = world.gateway(true, &connector(&archive.serve().await, LOCATION)).await;
    (archive, neighbour, study, files)
}

fn as_part(encoding: &str, content: &[u8]) -> Response {
    let head = format!("--b\r\nContent-Type: application/dicom\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
    let body = [head.as_bytes(), content, b"\r\n--b--\r\n"].concat();
    let kind = "multipart/related; type=\"application/dicom\"; boundary=b";
    ([("content-type", kind)], body).into_response()
}

/// WI-01 from an archive: a declared coding of an instance is undone; one that nobody knows is refused, and the others come.
#[tokio::test]
async fn wi_01_a_coded_instance_of_an_archive_arrives_as_it_was() {
    let world = World::new();
    let lines = |file: &[u8]| {
        let coded = openssl::base64::encode_block(file).into_bytes();
        coded.chunks(76).flat_map(|line| [line, b"\r\n".as_slice()].concat()).collect::<Vec<u8>>()
    };
    let (_archive, neighbour, study, files) = odd_second(&world, move |file| as_part("base64", &lines(file))).await;
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=3)).await;
    assert_eq!((fetched.whole, fetched.instances.len()), (true, 3));
    crate::harness::same_as_files(&fetched, &files, &study);
    for (encoding, coded) in [("x-yenc", true), ("base64", false)] {
        let world = World::new();
        let answer = move |file: &[u8]| as_part(encoding, if coded { file } else { b"no base64 at all!" });
        let (archive, neighbour, study, files) = odd_second(&world, answer).await;
        archive.asked();
        let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=3)).await;
        others_came(&fetched, &files, &study, 1..=3, 2);
        assert_eq!(codes(&fetched), ["XDSRepositoryError"], "{encoding}");
        let again = archive.asked().iter().filter(|path| path.ends_with(&study.instance(2))).count();
        assert_eq!(again, 1, "{encoding}: what stays wrong is asked for once");
    }
}

/// WI-12, the file as it was seen: bare line feeds in the multipart body of an archive. Of three instances the one is named,
/// in the answer, on the trail, and in a line from which the archive's operator finds it.
#[tokio::test]
async fn wi_12_an_instance_with_bare_line_feeds_is_named_and_the_others_come() {
    let world = World::new();
    let answer = |file: &[u8]| {
        let seen = Recorded::load("wire/WI-12-a-wado-answer-lf.http", None).with_bytes("@DICOM_FILE@", file);
        ([("content-type", seen.content_type)], seen.body).into_response()
    };
    let lines = Lines::begin();
    let (_archive, neighbour, study, files) = odd_second(&world, answer).await;
    let fetched = fetch(&neighbour, &images(&study, LOCATION, 1..=3)).await;
    others_came(&fetched, &files, &study, 1..=3, 2);
    assert_eq!((fetched.response.status, codes(&fetched)), (Status::PartialSuccess, vec!["XDSRepositoryError"]));
    let logged = lines.of("instance does not come");
    let [line] = logged.as_slice() else { panic!("{logged:?}") };
    assert_eq!(line["connector"], format!("archive {LOCATION}"), "{line}");
    assert!(line["host"].as_str().is_some_and(|host| host.starts_with("127.0.0.1:")), "{line}");
    assert_eq!((&line["study"], &line["instance"]), (&digest(&study.uid()).into(), &digest(&study.instance(2)).into()));
    let reason = line["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("multipart body is malformed: line ends"), "{line}");
    assert!(!lines.hold(&study.instance(2)) && !lines.hold(crate::LOCAL_ID), "no identifier of a person's images");
    let named = format!("<Instance UID=\"{}\"", study.instance(2));
    assert!(world.trail().await.iter().any(|xml| xml.contains(&named)), "on the trail");
}
