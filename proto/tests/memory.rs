//! SE-07: the memory that reading a message takes follows from its bytes, whatever list of it is filled with what. The test is alone
//! in its process, since its allocator counts for the whole of it.

use bytes::Bytes;
use ncp_proto::codec::{Field, Shape, Shaped, read};
use ncp_proto::{audit, national, translation};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a reader may hold beside eight times what it read.
const BASE: usize = 64_000_000;

/// A message of a service: its shape, and how it is read.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    shape: &'static Shape,
    read: fn(Bytes) -> Result<(), tonic::Code>,
    /// Bytes of one at most.
    most: usize,
}

fn kind<U: Message + Default + Shaped>(most: usize) -> Kind {
    let read = |bytes| read::<U>(bytes).map(drop).map_err(|status| status.code());
    Kind { name: std::any::type_name::<U>(), shape: U::SHAPE, read, most }
}

/// What others send to our services and what services answer.
fn kinds() -> Vec<Kind> {
    use audit::{Found, GapsReply, Record, SearchRequest};
    use national::{
        DocumentEntry, GetConsentResponse, LocateStudiesRequest, LocatedStudy, Patient, QueryDocumentsRequest,
    };
    use translation::{
        CoverageResponse, ExpandFilterRequest, ExpandFilterResponse, ListMapsResponse, LookupResponse,
        TranslateBatchRequest, TranslateBatchResponse, TranslateRequest, TranslateResponse,
    };
    const ASKED: usize = translation::REQUEST_BYTES;
    const ANSWERED: usize = translation::ANSWER_BYTES;
    const NATIONAL: usize = national::MESSAGE_BYTES;
    vec![
        kind::<TranslateRequest>(ASKED),
        kind::<TranslateBatchRequest>(ASKED),
        kind::<ExpandFilterRequest>(ASKED),
        kind::<TranslateResponse>(ANSWERED),
        kind::<TranslateBatchResponse>(ANSWERED),
        kind::<ExpandFilterResponse>(ANSWERED),
        kind::<LookupResponse>(ANSWERED),
        kind::<ListMapsResponse>(ANSWERED),
        kind::<CoverageResponse>(ANSWERED),
        kind::<Record>(16 << 20),
        kind::<SearchRequest>(1 << 20),
        kind::<Found>(16 << 20),
        kind::<GapsReply>(16 << 20),
        kind::<DocumentEntry>(NATIONAL),
        kind::<Patient>(NATIONAL),
        kind::<QueryDocumentsRequest>(NATIONAL),
        kind::<LocateStudiesRequest>(NATIONAL),
        kind::<LocatedStudy>(NATIONAL),
        kind::<GetConsentResponse>(NATIONAL),
    ]
}

/// The ways to all lists of a shape.
fn lists(shape: &'static Shape) -> Vec<Vec<&'static Field>> {
    let mut out = Vec::new();
    for field in shape.0 {
        if field.item > 0 {
            out.push(vec![field]);
        }
        for rest in field.of.map(lists).unwrap_or_default() {
            out.push(std::iter::once(field).chain(rest).collect());
        }
    }
    out
}

/// A field with a content.
fn field(tag: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(tag << 3 | 2, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// A message of so many bytes with one list filled: all items in one, or each within messages of its own.
fn filled(way: &[&Field], item: usize, bytes: usize, apart: bool) -> Vec<u8> {
    let (last, around) = way.split_last().expect("a list");
    // What is no text and no number has nothing in it.
    let item = field(last.tag, &vec![b'1'; if last.of.is_some() { 0 } else { item }]);
    let within = |content: Vec<u8>| around.iter().rev().fold(content, |content, one| field(one.tag, &content));
    if apart {
        let one = within(item);
        one.repeat(bytes / one.len())
    } else {
        within(item.repeat(bytes / item.len()))
    }
}

fn holds(kind: Kind, message: Vec<u8>) -> Result<(), tonic::Code> {
    let length = message.len();
    let message = Bytes::from(message);
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let told = (kind.read)(message);
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    // The message itself is held beside what is made of it.
    assert!(held + 2 * length <= BASE + 8 * length, "{}: {held} bytes held of {length}", kind.name);
    told
}

#[test]
fn se_07_memory_of_a_message_follows_from_its_bytes() {
    let ways: Vec<_> =
        kinds().into_iter().flat_map(|kind| lists(kind.shape).into_iter().map(move |way| (kind, way))).collect();
    let shapes = (prop::sample::select(ways), 0..40_usize, 1..=16_usize, any::<bool>());
    TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() })
        .run(&shapes, |((kind, way), item, parts, apart)| {
            // Whether it is taken or refused, it costs what it may.
            let _ = holds(kind, filled(&way, item, kind.most / 16 * parts, apart));
            Ok(())
        })
        .expect("bounded");

    // As it was found: empty properties of a code, and empty studies of a record.
    let all = kinds();
    for (name, tags) in [("::TranslateRequest", &[9][..]), ("::Record", &[6, 10])] {
        let kind = *all.iter().find(|kind| kind.name.ends_with(name)).expect("a message");
        let way = lists(kind.shape).into_iter().find(|way| way.iter().map(|f| f.tag).eq(tags.iter().copied()));
        let message = filled(&way.expect("a list"), 0, kind.most, false);
        assert_eq!(holds(kind, message), Err(tonic::Code::OutOfRange), "{name}");
    }
    long_messages_are_read();
}

fn is_read<U: Message + Default + Shaped + PartialEq + std::fmt::Debug>(message: &U) {
    assert_eq!(read::<U>(Bytes::from(message.encode_to_vec())).expect("reads"), *message);
}

/// What is sent for good is taken: a batch of codes, a study of fifty thousand instances, a long record.
fn long_messages_are_read() {
    use national::{LocatedInstance, LocatedStudy};
    let text = |n: usize| format!("1.2.826.0.1.3680043.8.498.{n:020}");
    let batch = translation::TranslateBatchRequest {
        systems: vec!["urn:oid:2.999.1".into()],
        system: vec![0; 1000],
        code: (0..1000).map(text).collect(),
        ..Default::default()
    };
    is_read(&batch);
    let instance = |n: usize| LocatedInstance { sop_instance: text(n), ..Default::default() };
    let study = LocatedStudy { instances: (0..50_000).map(instance).collect(), ..Default::default() };
    is_read(&study);
    let facts = audit::Facts { studies: (0..10_000).map(text).collect(), ..Default::default() };
    let record = audit::Record { message: vec![b'<'; 15 << 20], facts: Some(facts), ..Default::default() };
    is_read(&record);
    assert_eq!(
        read::<audit::Record>(Bytes::from_static(b"\xff")).expect_err("no message").code(),
        tonic::Code::Internal
    );
}
