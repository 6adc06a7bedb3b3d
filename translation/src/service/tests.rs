//! The API over a real connection.

use ncp_proto::translation::translation_client::TranslationClient;
use ncp_proto::translation::{self as pb, document_chunk, document_event};
use tonic::Code;
use tonic::transport::Channel;

use super::{Service, errors::reason};
use crate::cache::Cache;
use crate::counters::Counters;
use crate::load::tests::{shipped, snapshot};
use crate::store::Store;

const NCRP: &str = "urn:oid:2.16.578.1.12.4.1.1.7270";

pub(crate) async fn served(store: Store, cache: Cache) -> TranslationClient<Channel> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = Service::new(store, Counters::default(), cache).server();
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let channel =
        Channel::from_shared(format!("http://{address}")).expect("an address").connect().await.expect("connects");
    TranslationClient::new(channel)
}

fn code(system: &str, code: &str) -> Option<pb::Code> {
    Some(pb::Code { system: system.into(), code: code.into(), ..pb::Code::default() })
}

fn one(value: &str) -> pb::TranslateRequest {
    pb::TranslateRequest { source: code(NCRP, value), correlation_id: value.into(), ..pb::TranslateRequest::default() }
}

pub(crate) fn document(bytes: &[u8], header: pb::DocumentHeader) -> Vec<pb::DocumentChunk> {
    let mut out = vec![pb::DocumentChunk { part: Some(document_chunk::Part::Header(header)) }];
    out.extend(
        bytes.chunks(64 << 10).map(|c| pb::DocumentChunk { part: Some(document_chunk::Part::Data(c.to_vec())) }),
    );
    out
}

pub(crate) fn to_pivot() -> pb::DocumentHeader {
    pb::DocumentHeader {
        media_type: "text/xml".into(),
        direction: pb::Direction::NationalToPivot as i32,
        ..pb::DocumentHeader::default()
    }
}

pub(crate) async fn sent(
    client: &mut TranslationClient<Channel>,
    bytes: &[u8],
    header: pb::DocumentHeader,
) -> Result<(Vec<u8>, pb::DocumentSummary), tonic::Status> {
    let mut events = client.transcode_document(tokio_stream::iter(document(bytes, header))).await?.into_inner();
    let (mut data, mut summary) = (Vec::new(), None);
    while let Some(event) = events.message().await? {
        match event.part {
            Some(document_event::Part::Data(chunk)) => data.extend(chunk),
            Some(document_event::Part::Summary(found)) => summary = Some(found),
            _ => {}
        }
    }
    Ok((data, summary.expect("a summary")))
}

pub(crate) fn cda() -> Vec<u8> {
    format!(
        "<ClinicalDocument xmlns=\"urn:hl7-org:v3\"><code code=\"SSC0AD\" codeSystem=\"{NCRP}\"/></ClinicalDocument>"
    )
    .into_bytes()
}

/// SE-01: a message over the bound of the contract is refused by its length, and the next one is answered.
#[tokio::test]
async fn se_01_a_message_over_its_bound_is_refused_and_the_next_is_answered() {
    let client = served(Store::new(shipped()).expect("passes"), Cache::none()).await;
    // The bound of the service, not that of its client.
    let mut client = client.max_encoding_message_size(2 * pb::REQUEST_BYTES);
    let batch = |bytes: usize| pb::TranslateBatchRequest {
        systems: vec![NCRP.into()],
        system: vec![0],
        code: vec!["x".repeat(bytes)],
        ..pb::TranslateBatchRequest::default()
    };
    client.translate_batch(batch(pb::REQUEST_BYTES - 1000)).await.expect("within the bound");
    let refused = client.translate_batch(batch(pb::REQUEST_BYTES)).await.expect_err("over the bound");
    assert_eq!(refused.code(), Code::OutOfRange);
    client.translate(one("SSC0AD")).await.expect("answers");
}

#[tokio::test]
async fn single_stream_batch_lookup_validate_maps_and_filters() {
    let mut client = served(Store::new(shipped()).expect("passes"), Cache::none()).await;
    let answer = client.translate(one("SSC0AD")).await.expect("answers").into_inner();
    assert_eq!((answer.outcome(), answer.matches.len(), answer.snapshot.len()), (pb::Outcome::Mapped, 2, 32));
    assert!(answer.matches[0].via[0].url.contains("ncrp") && answer.matches[0].source_word == "equivalent");
    let reverse = pb::TranslateRequest { source: code("http://loinc.org", "24627-2"), reverse: true, ..one("") };
    let answer = client.translate(reverse).await.expect("answers").into_inner();
    assert_eq!(answer.matches.len(), 2, "Norway and Denmark: {answer:?}");

    let asked = ["SSC0AD", "NOSUCH", "SAA0AG"];
    let mut stream = client.translate_stream(tokio_stream::iter(asked.map(one))).await.expect("answers").into_inner();
    for id in asked {
        let answer = stream.message().await.expect("an answer").expect("an answer");
        assert_eq!(answer.correlation_id, id, "order is kept");
    }

    let batch = pb::TranslateBatchRequest {
        systems: vec![NCRP.into(), "http://loinc.org".into(), "urn:unknown".into()],
        system: vec![0, 0, 1, 2],
        code: vec!["SSC0AD".into(), "NOSUCH".into(), "24627-2".into(), "x".into()],
        target_system: "http://snomed.info/sct".into(),
        ..pb::TranslateBatchRequest::default()
    };
    let answer = client.translate_batch(batch.clone()).await.expect("answers").into_inner();
    assert_eq!(answer.target_code, ["169069000", "", "", ""]);
    assert_eq!(answer.outcome[0], pb::Outcome::Mapped as i32);
    assert_eq!(answer.outcome[1..], [pb::Outcome::Unmapped as i32; 3]);
    let coverage = client.coverage(pb::CoverageRequest { most: 10 }).await.expect("answers").into_inner();
    assert_eq!((coverage.gaps[0].code.as_str(), coverage.gaps[0].count), ("NOSUCH", 2));

    let lookup =
        pb::LookupRequest { code: code(NCRP, "SSC0AD"), languages: vec!["nb".into()], ..pb::LookupRequest::default() };
    let found = client.lookup(lookup).await.expect("answers").into_inner();
    assert_eq!(found.designation.map(|d| (d.text, d.language)), Some(("CT toraks".into(), "nb".into())));
    let validate = pb::ValidateCodeRequest { code: code(NCRP, "NOSUCH"), ..pb::ValidateCodeRequest::default() };
    assert!(!client.validate_code(validate).await.expect("answers").into_inner().valid);
    let maps = client.list_maps(pb::ListMapsRequest::default()).await.expect("answers").into_inner();
    assert!(maps.maps.len() >= 9 && maps.manifest.contains("sha256"));
    let filter = pb::ExpandFilterRequest {
        codes: code("http://loinc.org", "24627-2").into_iter().collect(),
        ..pb::ExpandFilterRequest::default()
    };
    assert!(client.expand_filter(filter).await.expect("answers").into_inner().exact);
}

#[tokio::test]
async fn errors_have_a_reason_and_openncps_number() {
    let mut client = served(Store::new(shipped()).expect("passes"), Cache::none()).await;
    let told = |status: tonic::Status| (status.code(), reason(&status).expect("details"));
    let error = client.translate(pb::TranslateRequest::default()).await.expect_err("no code");
    assert_eq!(told(error), (Code::InvalidArgument, ("INVALID_REQUEST".into(), "4500".into())));
    let unknown = pb::TranslateRequest { source: code("2.999.404", "x"), ..pb::TranslateRequest::default() };
    let error = client.translate(unknown).await.expect_err("no such system");
    assert_eq!(told(error), (Code::NotFound, ("CODE_SYSTEM_NOT_FOUND".into(), "4501".into())));
    let map = pb::TranslateRequest { map_url: "urn:none".into(), ..one("SSC0AD") };
    assert_eq!(told(client.translate(map).await.expect_err("no such map")).0, Code::NotFound);
    let pinned = pb::TranslateRequest { snapshot: vec![1; 32], ..one("SSC0AD") };
    let error = client.translate(pinned).await.expect_err("not loaded");
    assert_eq!(told(error), (Code::FailedPrecondition, ("SNAPSHOT_NOT_LOADED".into(), "4500".into())));
    let many = pb::TranslateBatchRequest {
        systems: vec![NCRP.into()],
        system: vec![0; 1001],
        code: vec!["a".into(); 1001],
        ..pb::TranslateBatchRequest::default()
    };
    assert_eq!(told(client.translate_batch(many).await.expect_err("too many")).0, Code::ResourceExhausted);
    let uneven = pb::TranslateBatchRequest { system: vec![0], ..pb::TranslateBatchRequest::default() };
    assert_eq!(told(client.translate_batch(uneven).await.expect_err("columns")).0, Code::InvalidArgument);
}

#[tokio::test]
async fn documents_over_the_wire_with_provenance_and_limits() {
    let mut client = served(Store::new(shipped()).expect("passes"), Cache::none()).await;
    let header =
        pb::DocumentHeader { size: cda().len() as u64, sha256: openssl::sha::sha256(&cda()).to_vec(), ..to_pivot() };
    let (bytes, summary) = sent(&mut client, &cda(), header.clone()).await.expect("translates");
    assert_eq!(summary.sha256_out, openssl::sha::sha256(&bytes));
    assert_eq!((summary.seen, summary.mapped, summary.maps.len()), (1, 1, 1));
    assert!(summary.translated_at > 0 && !summary.service_version.is_empty() && summary.maps[0].digest.len() == 32);
    let wrong = pb::DocumentHeader { sha256: vec![0; 32], ..header.clone() };
    let error = sent(&mut client, &cda(), wrong).await.expect_err("another document");
    assert_eq!((error.code(), reason(&error).expect("details").0.as_str()), (Code::DataLoss, "DIGEST_MISMATCH"));
    let broken = sent(&mut client, b"<a", to_pivot()).await.expect_err("not well-formed");
    assert_eq!(broken.code(), Code::InvalidArgument);
    let large = vec![b' '; (64 << 20) + 1];
    let error = sent(&mut client, &large, to_pivot()).await.expect_err("too large");
    assert_eq!(
        (error.code(), reason(&error).expect("details").0.as_str()),
        (Code::ResourceExhausted, "DOCUMENT_TOO_LARGE")
    );
    let nobody = pb::DocumentHeader { direction: pb::Direction::PivotToLanguage as i32, ..to_pivot() };
    let error = sent(&mut client, &cda(), nobody).await.expect_err("no language");
    assert_eq!(reason(&error).expect("details").1, "2505");
}

#[tokio::test]
async fn a_swap_in_the_middle_of_documents_mixes_nothing_and_loses_nothing() {
    let with = |target: &str| {
        let map = format!(
            r#"{{"resourceType":"ConceptMap","url":"u","status":"active","group":[{{"source":"{NCRP}","target":"urn:oid:2.999.2","element":[{{"code":"SSC0AD","target":[{{"code":"{target}","equivalence":"equal"}}]}}]}}]}}"#
        );
        snapshot(&[("m.json", &map)])
    };
    let store = Store::new(with("old")).expect("passes");
    let before = store.serving();
    let client = served(store.clone(), Cache::none()).await;
    let inner = format!("<x code=\"SSC0AD\" codeSystem=\"{NCRP}\"/>").repeat(200);
    let text = format!("<ClinicalDocument xmlns=\"urn:hl7-org:v3\">{inner}</ClinicalDocument>").into_bytes();
    let work: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, text) = (client.clone(), text.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    let (bytes, _) = sent(&mut client, &text, to_pivot()).await.expect("translates");
                    let bytes = String::from_utf8(bytes).expect("UTF-8");
                    let (old, new) = (bytes.matches("code=\"old\"").count(), bytes.matches("code=\"new\"").count());
                    assert!((old, new) == (200, 0) || (old, new) == (0, 200), "mixed: {old} and {new}");
                }
            })
        })
        .collect();
    for turn in 0..6 {
        tokio::task::yield_now().await;
        store.swap(with(if turn % 2 == 0 { "new" } else { "old" })).expect("swaps");
    }
    store.swap(with("new")).expect("swaps");
    for task in work {
        task.await.expect("0 failed");
    }
    // The one before is kept and can be asked for.
    let mut client = client;
    let pinned = pb::TranslateRequest { snapshot: before.digest().to_vec(), ..one("SSC0AD") };
    assert_eq!(
        client.translate(pinned).await.expect("answers").into_inner().matches[0]
            .target
            .as_ref()
            .map(|t| t.code.clone()),
        Some("old".into())
    );
}

#[test]
fn a_damaged_snapshot_is_not_taken_and_the_old_one_goes_on_serving() {
    let store = Store::new(shipped()).expect("passes");
    let digest = *store.serving().digest();
    let folder = tempfile::tempdir().expect("a folder");
    let maps = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/terminology/openncp");
    let path = crate::load::build(&[maps]).expect("builds").save(folder.path()).expect("saves");
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[4000] ^= 4;
    std::fs::write(&path, bytes).expect("writes");
    assert!(store.swap_file(&path).is_err());
    assert_eq!(store.serving().digest(), &digest);
}

/// SE-04: a stream that brings no code for half a minute is ended; one that brings codes slowly is answered to its end.
#[tokio::test]
async fn se_04_a_stream_that_never_sends_is_ended() {
    let mut client = served(Store::new(shipped()).expect("passes"), Cache::none()).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut answers = client.translate_stream(tokio_stream::pending()).await.expect("a stream").into_inner();
    assert_eq!(answers.message().await.expect_err("is silent").code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < super::SILENCE * 2);
    let codes = tokio_stream::iter(["SSC0AD"; 4].map(one));
    let slow = tokio_stream::StreamExt::throttle(codes, super::SILENCE * 2 / 3);
    let mut answers = client.translate_stream(slow).await.expect("a stream").into_inner();
    for _ in 0..4 {
        assert_eq!(answers.message().await.expect("an answer").expect("one more").correlation_id, "SSC0AD");
    }
    assert!(answers.message().await.expect("ends in order").is_none());
}
