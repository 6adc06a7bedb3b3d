//! Documents that a country sends in a transfer encoding, or in an empty part: cases WI-01, WI-02 and FO-06 at NCP-B.

use bytes::Bytes;
use ncp_ihe::{
    Content, DocumentEntry, DocumentRequest, DocumentResponse, RetrieveRequest, RetrieveResponse, Status, actions,
};
use ncp_tests::cases::Recorded;
use ncp_tests::country::{Country, Reaction};
use ncp_tests::issuer::BASE;
use ncp_tests::neighbour::{Answer, retrieve_response};

use crate::clinicians::{documents, knowing, sent};
use crate::consumers::ask;
use crate::{Others, World, entry, listed, parts, patient};

const OF: &str = "2.999.101";
const RELATED: &str = "multipart/related; boundary=\"b0\"; type=\"application/xop+xml\"; start=\"<0@se.example>\"; \
                       start-info=\"application/soap+xml\"";

/// A file of the cases about documents of this country.
fn recorded(file: &str) -> Recorded {
    let whole = match file.ends_with(".mime") {
        true => Recorded::load(file, Some(RELATED)).with("2.999.752.20", &format!("{OF}.21.1")).with("2.999.752", OF),
        false => Recorded::load(file, None),
    };
    let document = format!("{OF}.30.1");
    whole.with("@HOME@", OF).with("@REPOSITORY@", &format!("{OF}.21.1")).with("@DOCUMENT@", &document)
}

fn wanted(number: u32) -> DocumentRequest {
    let DocumentEntry { home, repository_unique_id, unique_id, .. } = entry(OF, number);
    DocumentRequest { home, repository: repository_unique_id, document: unique_id }
}

/// A country that lists one document and answers ITI-39 so.
async fn world(entry: DocumentEntry, answer: Recorded, lines: &str) -> (World, Vec<Country>) {
    listing(vec![entry], answer, lines).await
}

async fn listing(entries: Vec<DocumentEntry>, answer: Recorded, lines: &str) -> (World, Vec<Country>) {
    let react = knowing(OF, "19800101", move |asked| match asked.action.as_str() {
        actions::ITI39_REQUEST => Reaction::Recorded(answer.clone()),
        _ => listed(entries.clone()),
    });
    Others::none().with("AA", OF, react).await.clinicians().peers(0, lines.into()).world("").await
}

/// ITI-43 of one document by a national consumer.
async fn iti43(world: &World) -> Answer {
    ask(world, RetrieveRequest { documents: vec![wanted(1)] }.to_element()).await
}

/// The document by a clinician: status and body.
async fn binary(world: &World) -> (u16, Bytes) {
    binary_of(world, 1).await
}

async fn binary_of(world: &World, number: u32) -> (u16, Bytes) {
    let bundle = documents(world, "").await;
    let unique_id = format!("{OF}.30.{number}");
    let lines = bundle["entry"].as_array().cloned().unwrap_or_default();
    let line = lines.iter().find(|line| line["resource"]["masterIdentifier"].to_string().contains(&unique_id));
    let url = line.and_then(|line| line.pointer("/resource/content/0/attachment/url")).and_then(|url| url.as_str());
    let url = url.unwrap_or_else(|| panic!("{bundle}"));
    let path = if url.starts_with(BASE) { url.to_owned() } else { format!("{BASE}{url}") };
    let (head, body) = sent(world, &path, ("accept", "text/xml"), None).await;
    (head.status.as_u16(), body)
}

/// The document of WI-01; FO-06 has one of its own.
fn original(file: &str) -> Bytes {
    match file.ends_with(".mime") {
        true => {
            use base64::Engine;
            let text = String::from_utf8(recorded(file).body).expect("text");
            let coded = text.split("1@se.example>\r\n\r\n").nth(1).and_then(|rest| rest.split("--b0").next());
            let compact: String = coded.expect("a part").split_whitespace().collect();
            base64::engine::general_purpose::STANDARD.decode(compact).expect("base64").into()
        }
        false => Recorded::load("wire/WI-document.xml", Some("text/xml")).body.into(),
    }
}

const CODED: [&str; 3] = [
    "wire/WI-01-a-iti39-answer-base64.http",
    "wire/WI-01-b-iti39-answer-quoted-printable.http",
    "foreign/FO-06-iti39-part-base64.mime",
];

#[tokio::test]
async fn wi_01_and_fo_06_a_coded_document_arrives_as_it_was() {
    for file in CODED {
        let document = original(file);
        for (announced, lines) in
            [(true, ""), (false, ""), (true, "verify_hash = false"), (false, "verify_hash = false")]
        {
            let mut listed_as = entry(OF, 1);
            if announced {
                let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha1(), &document).expect("SHA-1");
                (listed_as.hash, listed_as.size) = (Some(hex::encode(digest)), Some(document.len() as u64));
            }
            let (world, _countries) = world(listed_as, recorded(file), lines).await;
            assert_eq!(binary(&world).await, (200, document.clone()), "{file} announced {announced} {lines}");
            let mut answer = iti43(&world).await;
            assert_eq!(parts(&mut answer).await.expect("whole"), std::slice::from_ref(&document), "{file}");
        }
    }
}

#[tokio::test]
async fn wi_01_a_coding_that_nobody_knows_is_named() {
    for (from, to, named) in [
        ("Encoding: base64", "Encoding: x-yenc", "Content-Transfer-Encoding x-yenc is not known"),
        ("Encoding: base64\r\n", "Encoding: base64\r\nX: 1\r\n", ""),
        ("PD94", "P*94", "part is not the base64 that its Content-Transfer-Encoding says"),
    ] {
        let (world, _countries) = world(entry(OF, 1), recorded(CODED[0]).with(from, to), "verify_hash = false").await;
        let (status, body) = binary(&world).await;
        let body = String::from_utf8(body.to_vec()).expect("text");
        match named {
            "" => assert_eq!(status, 200),
            named => {
                assert!(status == 502 && body.contains(named), "{status} {body}");
                let answer = iti43(&world).await;
                let response = retrieve_response(&answer.body).expect("a response");
                assert!(response.errors[0].context.contains(named), "{}", response.errors[0].context);
            }
        }
    }
}

#[tokio::test]
async fn wi_06_an_id_that_is_coded_in_both_places_is_found() {
    let file = "wire/WI-06-a-iti39-answer-coded-ids.http";
    let document = original("");
    let (world, _countries) = world(entry(OF, 1), recorded(file), "verify_hash = false").await;
    assert_eq!(binary(&world).await, (200, document.clone()));
    let mut answer = iti43(&world).await;
    assert_eq!(parts(&mut answer).await.expect("whole"), std::slice::from_ref(&document));
}

#[tokio::test]
async fn wi_02_an_empty_part_does_not_hold_the_next() {
    let file = "wire/WI-02-a-iti39-answer-empty-part.http";
    for lines in ["", "verify_hash = false"] {
        let (world, _countries) = world(entry(OF, 1), recorded(file), lines).await;
        let (status, body) = binary(&world).await;
        assert!(status == 502 && !body.windows(7).any(|w| w == b"ANOTHER"), "{status} {body:?}");
        let mut answer = iti43(&world).await;
        let response = retrieve_response(&answer.body).expect("a response");
        assert_eq!((response.status, answer.codes()), (Status::Failure, vec!["XDSRepositoryError".to_owned()]));
        assert_eq!(parts(&mut answer).await.expect("whole"), Vec::<Bytes>::new());
    }
}

/// WI-01 and WI-02 with the odd part as the second of three documents, announced or not.
#[tokio::test]
async fn wi_01_and_wi_02_an_odd_document_between_two_others() {
    let document = original(CODED[0]);
    let ids = [1, 3].map(|number| format!("{OF}.30.{number}"));
    let beside = [(ids[0].as_str(), "<first/>"), (ids[1].as_str(), "<third/>")];
    for (file, whole) in [(CODED[0], true), (CODED[1], true), ("wire/WI-02-a-iti39-answer-empty-part.http", false)] {
        for (announced, lines) in [(true, ""), (false, ""), (false, "verify_hash = false")] {
            let what = format!("{file} announced {announced} {lines}");
            let between = Recorded::load(file, None).second_of_three(beside);
            let between = between.with("@HOME@", OF).with("@REPOSITORY@", &format!("{OF}.21.1"));
            let second = if announced { announcing(2, &document) } else { entry(OF, 2) };
            let entries = vec![entry(OF, 1), second, entry(OF, 3)];
            let (world, _countries) = listing(entries, between.with("@DOCUMENT@", &format!("{OF}.30.2")), lines).await;
            ask(&world, ncp_tests::neighbour::Neighbour::find_documents(&patient()).to_element()).await;
            let request = RetrieveRequest { documents: (1..=3).map(wanted).collect() };
            let mut answer = ask(&world, request.to_element()).await;
            let response = retrieve_response(&answer.body).expect("a response");
            let mut expected = vec![Bytes::from("<first/>"), Bytes::from("<third/>")];
            let (status, body) = binary_of(&world, 2).await;
            if whole {
                expected.insert(1, document.clone());
                assert_eq!((response.status, response.errors.len()), (Status::Success, 0), "{what}");
                assert_eq!((status, &body), (200, &document), "{what}");
            } else {
                let [error] = response.errors.as_slice() else { panic!("{what}: {:?}", response.errors) };
                assert_eq!((response.status, error.code.as_str()), (Status::PartialSuccess, "XDSRepositoryError"));
                assert!(error.location.as_deref().is_some_and(|at| at.starts_with(&wanted(2).document)), "{what}");
                assert!(status == 502 && !body.windows(6).any(|w| w == b"<third"), "{what}: {status}");
            }
            assert_eq!(parts(&mut answer).await.expect("whole"), expected, "{what}");
        }
    }
}

/// A country that lists three documents and sends these in their place.
async fn sending(documents: [Bytes; 3], sent: [Bytes; 3], limits: &str) -> (World, Vec<Country>) {
    let announced = documents.clone();
    let react = move |asked: &ncp_tests::country::Asked| match asked.action.as_str() {
        actions::ITI39_REQUEST => {
            let (mut responses, mut parts) = (Vec::new(), Vec::new());
            for (number, bytes) in (1u32..).zip(&sent) {
                let id = format!("{number}@country");
                responses.push(DocumentResponse {
                    request: wanted(number),
                    new_document: None,
                    media_type: "text/xml".into(),
                    content: Content::Include(id.clone()),
                });
                parts.push((id, "text/xml", bytes.clone()));
            }
            let body = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: responses };
            Reaction::Parts(actions::ITI39_RESPONSE, body.to_element(), parts)
        }
        _ => listed((1u32..).zip(&announced).map(|(number, bytes)| announcing(number, bytes)).collect()),
    };
    Others::none().with("AA", OF, react).await.world(limits).await
}

fn announcing(number: u32, bytes: &[u8]) -> DocumentEntry {
    let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha1(), bytes).expect("SHA-1");
    DocumentEntry { hash: Some(hex::encode(digest)), size: Some(bytes.len() as u64), ..entry(OF, number) }
}

/// A CDA that records this id and birth date.
fn recording(root: &str, id: &str, birth: &str) -> Bytes {
    let document = format!(
        "<ClinicalDocument xmlns=\"urn:hl7-org:v3\"><recordTarget><patientRole><id root=\"{root}\" extension=\"{id}\"/>\
         <patient><birthTime value=\"{birth}\"/></patient></patientRole></recordTarget><author/></ClinicalDocument>"
    );
    document.into()
}

/// CO-01 at NCP-B: a CDA that records somebody else goes neither to a clinician nor to a national consumer, announced by its hash
/// or not; one that records the patient by an id that only her country knows does.
#[tokio::test]
async fn co_01_a_cda_that_records_another_patient_is_withheld() {
    let own = ncp_tests::asking::PATIENTS;
    for (document, clinician, consumer) in [
        (recording(own, "4711", "19800101"), true, true),
        (recording(own, "4712", "19800101"), false, false),
        (recording("2.999.5.5", "MERGED", "19800101"), true, true),
        // A consumer's request names no birth date, so that a clinician's is compared alone.
        (recording("2.999.5.5", "OTHER", "19790101"), false, true),
    ] {
        for announced in [true, false] {
            let what = format!("{} announced {announced}", String::from_utf8_lossy(&document));
            let sent = document.clone();
            let listed_as = if announced { announcing(1, &document) } else { entry(OF, 1) };
            let react = knowing(OF, "19800101", move |asked| match asked.action.as_str() {
                actions::ITI39_REQUEST => {
                    let response = DocumentResponse {
                        request: wanted(1),
                        new_document: None,
                        media_type: "text/xml".into(),
                        content: Content::Include("1@country".into()),
                    };
                    let body =
                        RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![response] };
                    let part = ("1@country".to_owned(), "text/xml", sent.clone());
                    Reaction::Parts(actions::ITI39_RESPONSE, body.to_element(), vec![part])
                }
                _ => listed(vec![listed_as.clone()]),
            });
            let (world, _countries) = Others::none().with("AA", OF, react).await.clinicians().world("").await;
            let (status, body) = binary(&world).await;
            assert_eq!((status == 200, body == document), (clinician, clinician), "{what}: {status}");
            let mut answer = iti43(&world).await;
            let came = parts(&mut answer).await.expect("whole");
            assert_eq!(came == [document.clone()], consumer, "{what}: {:?}", answer.codes());
            if !consumer {
                assert_eq!(answer.codes(), ["XDSRepositoryError"], "{what}");
                let alerted = || world.records().iter().any(|xml| xml.contains("records another patient"));
                for _ in 0..100 {
                    if alerted() {
                        break;
                    }
                    tokio::time::sleep(crate::second() / 20).await;
                }
                assert!(alerted(), "{what}: an alert");
            }
        }
    }
}

/// CO-01 at the relay: what a country announced in ITI-38 is compared in ITI-43, whichever of the documents it is. One that
/// does not fit into memory ends the message without its closing boundary after the others came.
#[tokio::test]
async fn co_01_a_relayed_document_that_is_not_what_was_announced() {
    let document = |letter: u8| Bytes::from(vec![letter; 200_000]);
    let right = [document(b'a'), document(b'b'), document(b'c')];
    for at in 0..3 {
        for wrong in [document(b'z'), right[at].slice(..400), Bytes::new()] {
            for (limits, held) in [("", true), ("compare_bytes = \"1KiB\"", false)] {
                let mut sent = right.clone();
                sent[at] = wrong.clone();
                let (world, _countries) = sending(right.clone(), sent, limits).await;
                ask(&world, ncp_tests::neighbour::Neighbour::find_documents(&patient()).to_element()).await;
                let request = RetrieveRequest { documents: (1..=3).map(wanted).collect() };
                let mut answer = ask(&world, request.to_element()).await;
                let response = retrieve_response(&answer.body).expect("a response");
                let (came, whole) = whole_parts(&mut answer).await;
                let others: Vec<Bytes> = (0..3).filter(|n| *n != at).map(|n| right[n].clone()).collect();
                assert!(others.iter().all(|other| came.contains(other)), "{at}, {} bytes, {limits}", wrong.len());
                assert!(!came.contains(&document(b'z')), "the wrong document came whole");
                if held {
                    assert!(whole && came.len() == 2 && response.status == Status::PartialSuccess);
                    assert!(
                        response.errors[0]
                            .location
                            .as_deref()
                            .is_some_and(|l| l.starts_with(&wanted(at as u32 + 1).document))
                    );
                    assert_eq!(response.errors.len(), 1);
                } else {
                    // One that is small enough is known before the root is written all the same.
                    assert_eq!(whole, response.errors.len() == 1, "closed although a document is missing");
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                let alerts = world
                    .records()
                    .iter()
                    .filter(|xml| xml.contains("registry announced") || xml.contains("is empty"))
                    .count();
                assert!(alerts > 0, "an alert");
            }
        }
    }
}

/// All parts that ended, and whether the message did.
pub(crate) async fn whole_parts(answer: &mut Answer) -> (Vec<Bytes>, bool) {
    let mut out = Vec::new();
    loop {
        match answer.parts.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return (out, true),
            Err(_) => return (out, false),
        }
        let mut bytes = Vec::new();
        loop {
            match answer.parts.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) => return (out, false),
            }
        }
        out.push(Bytes::from(bytes));
    }
}
