//! SE-07: the memory that reading a package takes follows from the bytes that came, whatever its parts, their headers and the
//! references to them are. The test is alone in its process, since its allocator counts for the whole of it.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use ncp_soap::{Envelope, MessageLimits, SoapError, read_message};
use ncp_xml::{ANSWERS, Limits};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a reader may hold beside eight times what it read.
const BASE: usize = 64_000_000;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

/// A body that is made as it is read, so that it is not held beside what its reader holds.
fn body(message: String, frame: usize) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin {
    let message = Bytes::from(message);
    let frames = (0..message.len()).step_by(frame).map(move |at| {
        let end = message.len().min(at + frame);
        Ok(Frame::data(Bytes::copy_from_slice(&message[at..end])))
    });
    StreamBody::new(stream::iter(frames))
}

/// What a package repeats.
#[derive(Debug, Clone)]
enum Shape {
    /// Parts with names of so many letters and no content, before the root or behind it.
    Empty(usize, bool),
    /// Parts with so many header fields.
    Fields(usize),
    /// Includes of parts that do not come, with names of so many letters, some of them percent-coded.
    Includes(usize, bool),
    /// Content before the root in lines of base64 or quoted-printable of so many letters.
    Coded(&'static str, usize),
    /// One field of a header that is folded again and again.
    Folded,
}

impl Shape {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            (1..200_usize, any::<bool>()).prop_map(|(long, early)| Self::Empty(long, early)),
            (1..1000_usize).prop_map(Self::Fields),
            (0..60_usize, any::<bool>()).prop_map(|(long, coded)| Self::Includes(long, coded)),
            (prop::sample::select(vec!["base64", "quoted-printable"]), 1..80_usize)
                .prop_map(|(coding, line)| Self::Coded(coding, line * 4)),
            Just(Self::Folded),
        ]
    }

    /// Repeats a piece until so many bytes are there.
    fn repeated(bytes: usize, most: usize, piece: impl Fn(usize) -> String) -> String {
        let mut out = String::with_capacity(bytes + (64 << 10));
        for n in 0..most {
            if out.len() >= bytes {
                break;
            }
            out.push_str(&piece(n));
        }
        out
    }

    /// A package of about so many bytes.
    fn package(&self, bytes: usize) -> String {
        let named = |long: &usize, n: usize| format!("{n:x}{}", "n".repeat(*long));
        let part = |headers: &str, content: &str| format!("--b\r\n{headers}\r\n\r\n{content}\r\n");
        let (mut early, mut behind, mut includes) = (String::new(), String::new(), String::new());
        match self {
            Self::Empty(long, is_early) => {
                let parts = Self::repeated(bytes, 16_000, |n| {
                    part(&format!("Content-ID: <{}>\r\nContent-Type: a/b", named(long, n)), "")
                });
                *(if *is_early { &mut early } else { &mut behind }) = parts;
            }
            Self::Fields(count) => {
                let fields = "a:\r\n".repeat(*count);
                early = Self::repeated(bytes, 16_000, |_| part(fields.trim_end(), "x"));
            }
            Self::Includes(long, coded) => {
                includes = Self::repeated(bytes, usize::MAX, |n| {
                    format!(
                        "<d:Document><x:Include href='cid:{}{}'/></d:Document>",
                        if *coded { "%6E" } else { "" },
                        named(long, n)
                    )
                });
            }
            Self::Coded(coding, line) => {
                let lines = Self::repeated(bytes, usize::MAX, |_| format!("{}\r\n", "QUJD".repeat(line / 4)));
                early = part(&format!("Content-Transfer-Encoding: {coding}"), &lines);
            }
            Self::Folded => {
                early = Self::repeated(bytes, 16_000, |_| part(&format!("a: b{}", "\r\n c".repeat(3_000)), "x"));
            }
        }
        let envelope = format!(
            "<s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:x='http://www.w3.org/2004/08/xop/include' xmlns:d='urn:ihe:iti:xds-b:2007'>\
             <s:Body><r>{includes}</r></s:Body></s:Envelope>"
        );
        format!(
            "{early}{}{behind}--b--\r\n",
            part("Content-Type: application/xop+xml\r\nContent-ID: <root>", &envelope)
        )
    }
}

/// Reads a package as an answer with parts is read: its root, the references in it, its parts to the end.
async fn read(package: String, frame: usize, xml: &Limits) -> Result<usize, SoapError> {
    let announced = "multipart/related; boundary=b; start=\"<root>\"; type=\"application/xop+xml\"";
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(announced))]);
    let limits = MessageLimits { root_bytes: xml.bytes, parts: 100_000, ..MessageLimits::default() };
    let mut message = read_message(&headers, body(package, frame), &limits, ANSWERS.charge("")).await?;
    let envelope = Envelope::read_charged(&message.root, xml, message.parts.charge())?;
    message.parts.refer(&envelope.body)?;
    let mut parts = 0;
    while message.parts.next().await?.is_some() {
        parts += 1;
        while message.parts.chunk().await?.is_some() {}
    }
    Ok(parts)
}

/// Reads within the bound: beside what came, which stands in memory only because the test made it.
fn within(shape: &Shape, bytes: usize, frame: usize, xml: &Limits) -> Result<usize, SoapError> {
    let package = shape.package(bytes);
    let sent = package.len();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let told = run(read(package, frame, xml));
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(held <= BASE + 8 * sent, "{shape:?}: {held} bytes held, {sent} read: {told:?}");
    assert_eq!(ANSWERS.taken(), 0, "{shape:?}");
    told
}

#[test]
fn se_07_memory_of_a_package_follows_from_its_bytes() {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(Shape::any(), 500_000..4_000_000_usize, 1..5_usize), |(shape, bytes, frame)| {
            let _ = within(&shape, bytes, 10_usize.pow(frame as u32 + 1), &Limits::REQUEST);
            let _ = within(&shape, bytes, 16 << 10, &Limits::ANSWER);
            Ok(())
        })
        .expect("bounded");
    // Tens of thousands of references, and as many parts as a request may have, are read.
    let (references, parts) = (Shape::Includes(36, false), Shape::Empty(36, false));
    assert_eq!(within(&references, 1_500_000, 16 << 10, &Limits::ANSWER).ok(), Some(0));
    assert_eq!(within(&parts, 4_000_000, 16 << 10, &Limits::ANSWER).ok(), Some(16_000));
    // Far more references than parts are none of an answer.
    assert!(within(&Shape::Includes(0, true), 20_000_000, 64 << 10, &Limits::ANSWER).is_err());
    what_is_held_comes_back();
}

fn what_is_held_comes_back() {
    let before = ALLOCATOR.current_usage();
    for _ in 0..4 {
        let _ = within(&Shape::Empty(20, true), 1_000_000, 1000, &Limits::ANSWER);
    }
    assert!(ALLOCATOR.current_usage() <= before + (64 << 10));
}
