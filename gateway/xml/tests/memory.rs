//! SE-07: the memory that reading takes follows from the bytes that were read, whatever the shape. The test is alone in its
//! process, since its allocator counts for the whole of it.

use ncp_xml::{Element, InFlight, Limits, REQUESTS, XmlError};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a reader may hold beside eight times what it read.
const BASE: usize = 64_000_000;

/// What the work held at its most.
fn held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let out = work();
    (out, ALLOCATOR.peak_usage() - before)
}

/// A document that repeats one thing as often as it can.
#[derive(Debug, Clone)]
enum Shape {
    /// Elements with so many attributes of so long values.
    Attributes(usize, usize),
    /// Empty elements with names of so many letters.
    Empty(usize),
    /// Elements one in the other, so deep.
    Deep(usize),
    /// Elements that declare so many namespaces.
    Namespaces(usize),
    /// Namespaces declared further and further in.
    Scopes(usize),
    /// Texts of so many bytes, with references and sections in them.
    Texts(usize),
    /// Comments and instructions.
    Passed,
    /// Each element with a namespace of its own.
    Own,
}

impl Shape {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            (1..256_usize, 0..40_usize).prop_map(|(n, long)| Self::Attributes(n, long)),
            (1..12_usize).prop_map(Self::Empty),
            (1..126_usize).prop_map(Self::Deep),
            (1..256_usize).prop_map(Self::Namespaces),
            (1..100_usize).prop_map(Self::Scopes),
            (1..60_usize).prop_map(Self::Texts),
            Just(Self::Passed),
            Just(Self::Own),
        ]
    }

    /// One of what is repeated; `n` makes names differ.
    fn piece(&self, n: usize) -> String {
        let attributes = |count: usize, name: &str, value: &str| -> String {
            (0..count).map(|i| format!(" {name}{:x}='{value}'", i + n % 7)).collect()
        };
        match self {
            Self::Attributes(count, long) => format!("<a{}/>", attributes(*count, "b", &"v".repeat(*long))),
            Self::Empty(long) => format!("<{}/>", "e".repeat(*long)),
            Self::Deep(deep) => "<d>".repeat(*deep) + &"</d>".repeat(*deep),
            Self::Namespaces(count) => format!("<a{}/>", attributes(*count, "xmlns:n", "u")),
            Self::Scopes(deep) => {
                let open: String = (0..*deep).map(|i| format!("<s xmlns:p{i}='u{n}' p{i}:a='1'>")).collect();
                open + &"</s>".repeat(*deep)
            }
            Self::Texts(long) => format!("<t>{}&lt;<![CDATA[x]]><!-- -->y</t>", "t".repeat(*long)),
            Self::Passed => "<!-- --><?p i?>".to_owned(),
            Self::Own => format!("<o xmlns='u{n}'/>"),
        }
    }

    /// A document of about so many bytes.
    fn document(&self, bytes: usize) -> String {
        let mut out = String::with_capacity(bytes + (64 << 10));
        out.push_str("<r>");
        for n in 0.. {
            if out.len() >= bytes {
                break;
            }
            out.push_str(&self.piece(n));
        }
        out + "</r>"
    }
}

/// Every reader of XML.
fn all_readers(document: &[u8], limits: &Limits) {
    let most = BASE + 8 * document.len();
    let check = |reader: &str, held: usize| assert!(held <= most, "{reader}: {held} of {most}");
    let (read, parsed) = held(|| Element::parse(document, limits));
    check("parse", parsed);
    drop(read);
    check("scan", held(|| ncp_xml::scan(document, limits)).1);
    check("outline", held(|| Element::outline(document, limits, ("", "a"), &mut |_| ())).1);
    let text = std::str::from_utf8(document).expect("text");
    check("leading", held(|| Element::leading(text, limits, ("", "t"))).1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let lifted = held(|| {
        let source = tokio::io::BufReader::new(document);
        let charge = &mut REQUESTS.charge("");
        runtime.block_on(Element::parse_lifting(source, limits, ("", "t"), &mut |_| (), charge)).is_ok()
    });
    check("lifting", lifted.1);
}

#[test]
fn se_07_memory_follows_from_the_bytes_that_were_read() {
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(Shape::any(), 1_500_000..2_500_000_usize), |(shape, bytes)| {
            let document = shape.document(bytes);
            all_readers(document.as_bytes(), &Limits::REQUEST);
            all_readers(document.as_bytes(), &Limits::ANSWER);
            Ok(())
        })
        .expect("bounded");
    se_07_as_it_was_measured();
    se_07_json_of_every_shape();
    what_is_held_comes_back();
}

/// Values of every shape, as many as a text has place for, in a list and as members of one object.
fn se_07_json_of_every_shape() {
    let coding = r#"{"system":"urn:oid:2.999.1","code":"c","display":"d"}"#;
    for value in
        ["[]", "{}", "0", "\"\"", "\"a text of some length, as names are\"", "{\"a\":{}}", "[[[[[[[0]]]]]]]", coding]
    {
        for bytes in [100_000, 1_000_000] {
            let count = bytes / (value.len() + 1);
            let list = format!("[{}]", vec![value; count].join(","));
            let members: Vec<String> = (0..count).map(|n| format!("\"{n:x}\":{value}")).collect();
            for text in [list, format!("{{{}}}", members.join(","))] {
                for read in [ncp_xml::json::read, ncp_xml::json::read_last] {
                    let (told, held) = held(|| read(text.as_bytes()));
                    assert!(held <= BASE + 8 * text.len(), "{value}: {held} of {}", text.len());
                    assert!(told.is_ok() || bytes > 100_000, "{value}: a short text is read");
                }
            }
        }
    }
}

/// The three rows of the case: what one request holds, and eight at once.
fn se_07_as_it_was_measured() {
    let attributes = Shape::Attributes(200, 0).document(3_000_000);
    let (read, grown) = held(|| Element::parse(attributes.as_bytes(), &Limits::REQUEST));
    assert_eq!(read.err(), Some(XmlError::Memory));
    assert!(grown < BASE, "{grown}");
    let empty = Shape::Empty(1).document(800_000);
    let (read, grown) = held(|| Element::parse(empty.as_bytes(), &Limits::REQUEST));
    assert!(read.is_err() && grown < BASE, "{grown}");
    // Eight at once take from one budget: who finds nothing left is told so, not that the message is bad.
    static SMALL: InFlight = InFlight::new(64 << 20, 100);
    let sound = Shape::Texts(40).document(2_500_000);
    let (told, grown) = held(|| {
        let mut charges: Vec<_> = (0..8).map(|_| SMALL.charge("")).collect();
        let trees = charges.iter_mut().map(|charge| Element::parse_charged(sound.as_bytes(), &Limits::ANSWER, charge));
        trees.collect::<Vec<_>>().into_iter().map(Result::err).collect::<Vec<_>>()
    });
    assert!(told.contains(&None) && told.contains(&Some(XmlError::Busy)), "{told:?}");
    assert!(told.iter().flatten().all(|error| *error == XmlError::Busy), "{told:?}");
    assert!(grown <= BASE + 8 * 2_500_000, "{grown}");
    assert_eq!(SMALL.taken(), 0);
}

fn what_is_held_comes_back() {
    let document = Shape::Attributes(50, 3).document(2_000_000);
    let before = ALLOCATOR.current_usage();
    for _ in 0..4 {
        all_readers(document.as_bytes(), &Limits::REQUEST);
    }
    assert!(ALLOCATOR.current_usage() <= before + (64 << 10));
}
