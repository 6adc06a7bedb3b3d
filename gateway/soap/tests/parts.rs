//! Where one part ends, and what its declared coding makes of it: cases WI-01, WI-02 and FO-06, and the properties that look
//! for the rest of their kinds.

use std::convert::Infallible;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use ncp_soap::mime::{MimeLimits, MultipartReader, write_multipart};
use ncp_soap::{MessageLimits, OutPart, SoapError, read_message};
use ncp_xml::REQUESTS;
use proptest::prelude::*;

/// A colon, so that a delimiter could be read as a header field.
const BOUNDARY: &str = "B:b";

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

/// The bytes as a body whose frames end at these places, given in thousandths.
fn body(bytes: &[u8], cuts: &[usize]) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut * bytes.len() / 1000).chain([0, bytes.len()]).collect();
    ends.sort_unstable();
    let frames: Vec<_> =
        ends.windows(2).map(|pair| Ok(Frame::data(Bytes::copy_from_slice(&bytes[pair[0]..pair[1]])))).collect();
    StreamBody::new(stream::iter(frames))
}

type Read = Vec<(Option<String>, Result<Vec<u8>, SoapError>)>;

/// Each part's Content-ID and content, or why it cannot be read.
fn parts(bytes: &[u8], cuts: &[usize]) -> Result<Read, SoapError> {
    run(async {
        let mut reader = MultipartReader::new(body(bytes, cuts), BOUNDARY, MimeLimits::default())?;
        let mut out = Vec::new();
        while let Some(head) = reader.next_part().await? {
            let mut content = Vec::new();
            let content = loop {
                match reader.next_chunk().await {
                    Ok(Some(chunk)) => content.extend_from_slice(&chunk),
                    Ok(None) => break Ok(content),
                    Err(error) if error.is_of_part() => break Err(error),
                    Err(error) => return Err(error),
                }
            };
            out.push((head.content_id().map(ToOwned::to_owned), content));
        }
        Ok(out)
    })
}

/// One part as it is written, with what it holds.
#[derive(Debug, Clone)]
struct Sent {
    padding: &'static str,
    header: Option<&'static str>,
    /// `None`: the part has no body at all, and the line end of its empty line is the delimiter's.
    content: Option<Vec<u8>>,
}

/// Bytes of many delimiters' pieces that hold no delimiter.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"--".to_vec()),
        Just(b"--B".to_vec()),
        Just(b"B:b".to_vec()),
        Just(b"-".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..9),
    ];
    let holds = |text: &[u8]| {
        let delimiter = format!("--{BOUNDARY}").into_bytes();
        text.starts_with(&delimiter) || [b"\r\n".to_vec(), delimiter].concat().windows(7).any(|d| find(text, d))
    };
    proptest::collection::vec(piece, 0..14)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("holds a delimiter", move |text| !holds(text))
}

fn find(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn sent() -> impl Strategy<Value = Sent> {
    let padding = prop_oneof![Just(""), Just(" "), Just("\t ")];
    let header = prop_oneof![
        Just(None),
        Just(Some("Content-Type: text/xml")),
        Just(Some("Content-Type: text/xml;\r\n charset=UTF-8\r\nContent-Transfer-Encoding: Binary\r\nX: --B")),
    ];
    let content = prop_oneof![Just(None), Just(Some(Vec::new())), content().prop_map(Some)];
    (padding, header, content).prop_map(|(padding, header, content)| Sent { padding, header, content })
}

fn written(all: &[Sent], preamble: bool) -> Vec<u8> {
    let mut out = if preamble { b"not for readers\r\n".to_vec() } else { Vec::new() };
    for (number, part) in all.iter().enumerate() {
        let begin = if number == 0 { "" } else { "\r\n" };
        out.extend(format!("{begin}--{BOUNDARY}{}\r\nContent-ID: <{number}>\r\n", part.padding).bytes());
        out.extend(part.header.map(|fields| format!("{fields}\r\n")).unwrap_or_default().bytes());
        if let Some(content) = &part.content {
            out.extend(b"\r\n");
            out.extend(content);
        }
    }
    out.extend(format!("\r\n--{BOUNDARY}--\r\nepilogue").bytes());
    out
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0usize..=1000, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    /// WI-02: bytes of one part never appear in another, for every split and every legal empty form, and writing the parts
    /// that were read and reading them again gives the same parts.
    #[test]
    fn wi_02_bytes_of_one_part_never_appear_in_another(
        all in proptest::collection::vec(sent(), 1..6), preamble in any::<bool>(), cuts in cuts(),
    ) {
        let expected: Vec<Vec<u8>> = all.iter().map(|part| part.content.clone().unwrap_or_default()).collect();
        let read = parts(&written(&all, preamble), &cuts).expect("a legal body");
        let ids: Vec<String> = read.iter().filter_map(|(id, _)| id.clone()).collect();
        prop_assert_eq!(ids, (0..all.len()).map(|n| n.to_string()).collect::<Vec<_>>());
        let content: Vec<Vec<u8>> = read.into_iter().map(|(_, content)| content.expect("readable")).collect();
        prop_assert_eq!(&content, &expected);

        let out = content.into_iter().map(|bytes| Ok(OutPart {
            content_id: String::new(),
            media_type: "text/xml".into(),
            data: Box::pin(stream::iter([Ok(Bytes::from(bytes))])),
        }));
        let again = run(write_multipart(BOUNDARY, None, stream::iter(out.collect::<Vec<_>>())).collect());
        let again = parts(&again.expect("written").to_bytes(), &cuts).expect("our own");
        let again: Vec<Vec<u8>> = again.into_iter().map(|(_, content)| content.expect("readable")).collect();
        prop_assert_eq!(again, expected);
    }

    /// WI-02: however bytes are cut, legal or not, the same comes out: what is refused is refused by its bytes.
    #[test]
    fn wi_02_the_same_comes_out_however_it_is_cut(
        pieces in proptest::collection::vec(prop::sample::select(vec![
            "\r\n", "\r\n--", BOUNDARY, "--", "\r", "\n", " ", "\t", "\u{b}", "\u{c}", "\u{a0}", ":", "x", "Content-ID: <x>", "=",
        ]), 0..30),
        cuts in cuts(),
    ) {
        let bytes = format!("--{BOUNDARY}{}", pieces.concat()).into_bytes();
        let whole = parts(&bytes, &[]);
        let every: Vec<usize> = (0..=1000).collect();
        for cuts in [&cuts, &every] {
            prop_assert_eq!(format!("{:?}", parts(&bytes, cuts)), format!("{whole:?}"));
        }
    }

    /// WI-01: for every body and every coding the reader gives the original bytes.
    #[test]
    fn wi_01_a_declared_coding_is_undone(
        content in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'='), any::<u8>()], 0..300),
        width in 1usize..80, quoted in any::<bool>(), cuts in cuts(),
    ) {
        let (coding, coded) = match quoted {
            true => ("Quoted-Printable", quoted_printable(&content, width.max(4))),
            false => ("BASE64", base64_lines(&content, width)),
        };
        let read = parts(&one(coding, &coded), &cuts).expect("a legal body");
        prop_assert_eq!(read[0].1.clone().expect("readable"), content);
        prop_assert_eq!(read[1].1.clone().expect("readable"), b"the next part");
    }

    /// WI-01: text that is not what it declares is an error of its part; it is never other bytes than a whole decoder's.
    #[test]
    fn wi_01_what_is_not_what_it_declares_is_refused(
        text in proptest::collection::vec(prop_oneof![Just(b'='), Just(b'A'), Just(b'\r'), Just(b'\n'), 0x20u8..0x7f, any::<u8>()], 0..60),
        cuts in cuts(),
    ) {
        prop_assume!(!find(&text, b"--B") && !text.ends_with(b"\r"));
        let read = parts(&one("base64", &text), &cuts).expect("a legal body");
        let compact: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
        match (&read[0].1, STANDARD.decode(compact)) {
            (Ok(content), Ok(whole)) => prop_assert_eq!(content, &whole),
            (Err(SoapError::Undecodable("base64")), Err(_)) => {}
            (one, other) => prop_assert!(false, "{one:?}, {other:?}"),
        }
        prop_assert_eq!(read[1].1.clone().expect("readable"), b"the next part");
        let quoted = parts(&one("quoted-printable", &text), &cuts).expect("a legal body");
        let whole = parts(&one("quoted-printable", &text), &[]).expect("a legal body");
        prop_assert_eq!(quoted[0].1.clone().ok(), whole[0].1.clone().ok());
    }
}

/// FO-08: what is said after all parts came takes none of them along, and the message is not whole.
#[test]
fn fo_08_an_error_behind_the_parts_leaves_them_whole() {
    let part = |bytes: &'static [u8]| {
        let data = Box::pin(stream::iter([Ok(Bytes::from_static(bytes))]));
        Ok(OutPart { content_id: String::new(), media_type: "text/xml".into(), data })
    };
    let all = stream::iter(vec![part(b"one"), part(b"two"), Err("one more is missing".into())]);
    let mut body = write_multipart(BOUNDARY, None, all);
    let mut bytes = Vec::new();
    let failed = run(async {
        loop {
            match body.frame().await {
                Some(Ok(frame)) => bytes.extend(frame.into_data().expect("data")),
                other => return other.is_some(),
            }
        }
    });
    assert!(failed, "the body ends with an error");
    let read = run(async {
        let mut reader =
            MultipartReader::new(self::body(&bytes, &[]), BOUNDARY, MimeLimits::default()).expect("a reader");
        let mut out = Vec::new();
        while let Ok(Some(_)) = reader.next_part().await {
            let mut content = Vec::new();
            while let Some(chunk) = reader.next_chunk().await.expect("the part ends") {
                content.extend_from_slice(&chunk);
            }
            out.push(content);
        }
        (out, matches!(reader.next_part().await, Err(SoapError::Truncated)))
    });
    assert_eq!(read, (vec![b"one".to_vec(), b"two".to_vec()], true));
}

/// A coded part and a plain one behind it.
fn one(coding: &str, coded: &[u8]) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\nContent-Transfer-Encoding: {coding}\r\n\r\n");
    let tail = format!("\r\n--{BOUNDARY}\r\n\r\nthe next part\r\n--{BOUNDARY}--");
    [head.as_bytes(), coded, tail.as_bytes()].concat()
}

fn base64_lines(content: &[u8], width: usize) -> Vec<u8> {
    STANDARD.encode(content).as_bytes().chunks(width).collect::<Vec<_>>().join(&b"\r\n"[..])
}

/// RFC 2045 6.7: a line end is written as CR LF, a CR as an escape, as is white space before a line end; long lines are
/// broken softly.
fn quoted_printable(content: &[u8], width: usize) -> Vec<u8> {
    let (mut out, mut line, mut at) = (Vec::new(), 0, 0);
    while at < content.len() {
        if content[at] == b'\n' {
            out.extend(b"\r\n");
            (line, at) = (0, at + 1);
            continue;
        }
        let ends = content.get(at + 1).is_none_or(|next| *next == b'\n');
        let plain = match content[at] {
            b' ' | b'\t' => !ends,
            b'=' | b'-' => false,
            byte => byte.is_ascii_graphic(),
        };
        let token = if plain { vec![content[at]] } else { format!("={:02X}", content[at]).into_bytes() };
        if line + token.len() > width {
            out.extend(b"=\r\n");
            line = 0;
        }
        line += token.len();
        out.extend(token);
        at += 1;
    }
    out
}

/// WI-02: the line end of the empty line is the delimiter's, the line end of the last field is, there is no field at all.
#[test]
fn wi_02_an_empty_part_in_every_form() {
    for empty in ["A: b\r\n\r\n\r\n", "A: b\r\n\r\n", "A: b\r\n", "\r\n\r\n", "\r\n", ""] {
        let bytes = format!("--{BOUNDARY}\r\n{empty}--{BOUNDARY}\r\nA: b\r\n\r\nTEXT OF ANOTHER\r\n--{BOUNDARY}--");
        for cut in 0..1000 {
            let read = parts(bytes.as_bytes(), &[cut]).unwrap_or_else(|e| panic!("{empty:?}: {e}"));
            let content: Vec<_> = read.into_iter().map(|(_, content)| content.expect("readable")).collect();
            assert_eq!(content, [b"".to_vec(), b"TEXT OF ANOTHER".to_vec()], "{empty:?} cut at {cut}");
        }
    }
}

/// T-MIM-CTE, FO-06: a coding that nobody knows is never taken for the content, and its value is named without what could
/// harm a log. The parts beside it come.
#[test]
fn fo_06_an_unknown_coding_is_named() {
    for (coding, named) in [
        ("uuencode", "uuencode"),
        ("x-gzip", "x-gzip"),
        ("base64, gzip", "base64gzip"),
        ("", "without a readable value"),
        ("\u{fc}\u{7}<script>", "script"),
    ] {
        let read = parts(&one(coding, b"AAAA"), &[]).expect("a legal body");
        let Err(error @ SoapError::TransferEncoding(_)) = &read[0].1 else { panic!("{coding}: {:?}", read[0].1) };
        assert_eq!(error.to_string(), format!("Content-Transfer-Encoding {named} is not known"));
        assert_eq!(read[1].1.clone().expect("readable"), b"the next part");
    }
    for plain in ["7bit", "8BIT", " binary "] {
        assert_eq!(parts(&one(plain, b"=41"), &[]).expect("legal")[0].1.clone().expect("readable"), b"=41");
    }
    let twice = one("binary\r\nContent-Transfer-Encoding: base64", b"AAAA");
    assert!(matches!(parts(&twice, &[]), Err(SoapError::Mime)), "two codings of one part");
}

#[test]
fn wi_01_what_a_line_end_hides() {
    for (coded, content) in [
        ("a  \r\nb", Some("a\nb")),
        ("a=0D\r\nb=0D=0A", Some("a\r\nb\r\n")),
        ("a=  \r\nb", Some("ab")),
        ("=c3=B6", Some("\u{f6}")),
        ("a \t", Some("a")),
        ("a=", None),
        ("a=4", None),
        ("a=\nb", None),
        ("a\nb", None),
        ("a=ZZ", None),
        ("\u{f6}", None),
    ] {
        let read = parts(&one("quoted-printable", coded.as_bytes()), &[]).expect("a legal body");
        assert_eq!(read[0].1.clone().ok(), content.map(|c| c.as_bytes().to_vec()), "{coded:?}");
    }
    for coded in ["QQ", "QQ==QQ==", "QQ=", "Q*Q=", "QR=="] {
        let read = parts(&one("base64", coded.as_bytes()), &[]).expect("a legal body");
        assert!(matches!(read[0].1, Err(SoapError::Undecodable("base64"))), "{coded}");
    }
}

fn message(fields: &[(&'static str, &str)], bytes: &[u8]) -> Result<Bytes, SoapError> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.insert(*name, HeaderValue::from_str(value).expect("a value"));
    }
    run(read_message(&headers, body(bytes, &[]), &MessageLimits::default(), REQUESTS.charge("")))
        .map(|message| message.root)
}

/// WI-01: the root of a request or an answer is decoded as any part; charset and codings of the whole message are read.
#[test]
fn wi_01_the_root_of_a_message() {
    let name = header::CONTENT_TYPE.as_str();
    let related = "multipart/related; boundary=\"B:b\"; start=\"<r>\"";
    let root = |fields: &str, text: &[u8]| {
        let head = format!("--{BOUNDARY}\r\nContent-ID: <early>\r\nContent-Transfer-Encoding: uuencode\r\n\r\nx");
        let head = format!("{head}\r\n--{BOUNDARY}\r\nContent-ID: <r>\r\n{fields}\r\n\r\n");
        message(&[(name, related)], &[head.as_bytes(), text, format!("\r\n--{BOUNDARY}--").as_bytes()].concat())
    };
    let read = root("Content-Transfer-Encoding: base64", b"PHIv\r\nPg==").expect("readable");
    assert_eq!(&read[..], b"<r/>");
    let unknown = root("Content-Transfer-Encoding: x-uu", b"<r/>");
    assert!(matches!(&unknown, Err(SoapError::TransferEncoding(value)) if value == "x-uu"));
    let fault = unknown.expect_err("refused").fault("ref").to_element().to_xml();
    assert!(fault.contains("Content-Transfer-Encoding x-uu is not known (reference ref)"), "{fault}");
    let charset = root("Content-Type: application/xop+xml; charset=ISO-8859-1", b"<r/>");
    assert!(matches!(&charset, Err(SoapError::Charset(name)) if name == "ISO-8859-1"));
    let soap = |charset: &str| message(&[(name, &format!("application/soap+xml{charset}"))], b"<r/>");
    assert!(soap("").is_ok() && soap("; charset=\"utf-8\"").is_ok() && soap("; charset=US-ASCII").is_ok());
    assert!(matches!(soap("; charset=utf-16"), Err(SoapError::Charset(_))));
    let coded = |field, value| message(&[(name, "application/soap+xml"), (field, value)], b"<r/>");
    assert!(coded("content-encoding", "identity").is_ok() && coded("content-transfer-encoding", "8bit").is_ok());
    let gzip = coded("content-encoding", "gzip").expect_err("refused");
    assert_eq!((gzip.to_string().as_str(), gzip.http_status()), ("Content-Encoding gzip is not taken", 415));
    assert!(matches!(coded("content-transfer-encoding", "base64"), Err(SoapError::TransferEncoding(_))));
}

/// WI-01: a part that says that it is compressed is no document as it stands.
#[test]
fn wi_01_a_compressed_part() {
    let of = |coding: &str| {
        let bytes =
            format!("--{BOUNDARY}\r\nContent-Encoding: {coding}\r\n\r\nx\r\n--{BOUNDARY}\r\n\r\ny\r\n--{BOUNDARY}--");
        parts(bytes.as_bytes(), &[]).expect("a legal body")
    };
    for coding in ["gzip", "DEFLATE", "identity, gzip", ""] {
        let read = of(coding);
        assert!(matches!(read[0].1, Err(SoapError::ContentEncoding(_))), "{coding}");
        assert!(matches!(&read[1].1, Ok(content) if content == b"y"), "{coding}: the next one is whole");
    }
    assert!(matches!(&of(" Identity")[0].1, Ok(content) if content == b"x"));
}

/// WI-01: whatever ends a line of a part's header, what it declares is seen, or the message is refused.
#[test]
fn wi_01_no_declaration_hides_in_another_field() {
    for end in ["\n", "\r", "\r\r\n", "\n\r\n"] {
        for name in ["Content-Transfer-Encoding", "content-transfer-encoding ", "Content-Transfer-Encoding\t"] {
            let head = format!("Content-Type: text/plain{end}{name}: base64");
            let bytes = format!("--{BOUNDARY}\r\n{head}\r\n\r\nWFg=\r\n--{BOUNDARY}--");
            let seen = match parts(bytes.as_bytes(), &[]) {
                Err(_) => true,
                Ok(read) => !matches!(&read[0].1, Ok(content) if content == b"WFg="),
            };
            assert!(seen, "{end:?} {name:?}");
        }
    }
    for field in ["", ": base64", "Content Transfer Encoding: base64", "Content-\u{ad}Transfer-Encoding: base64"] {
        let bytes = format!("--{BOUNDARY}\r\nX: y\r\n{field}\r\n\r\nWFg=\r\n--{BOUNDARY}--");
        assert_eq!(parts(bytes.as_bytes(), &[]).is_err(), !field.is_empty(), "{field:?}");
    }
}

/// WI-12: a body of bare line feeds has no part whose header ends, and is refused where that can be told.
#[test]
fn wi_12_a_bare_line_feed_behind_a_delimiter() {
    let lines = format!("--{BOUNDARY}\nContent-Type: application/dicom\n\nx\n--{BOUNDARY}--\n");
    assert!(matches!(parts(lines.as_bytes(), &[]), Err(SoapError::Mime)));
    let mixed = format!("--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}\nContent-Type: text/plain\r\n\r\ny\r\n--{BOUNDARY}--");
    assert!(matches!(parts(mixed.as_bytes(), &[]), Err(SoapError::Mime)));
}

/// What stands before the first boundary is passed over, and is no place to keep a reader busy.
#[test]
fn wi_02_a_preamble_has_an_end() {
    let with = |length: usize| {
        let bytes = [vec![b'x'; length], format!("\r\n--{BOUNDARY}\r\n\r\ny\r\n--{BOUNDARY}--").into_bytes()].concat();
        parts(&bytes, &[100, 200, 300])
    };
    assert!(with(10_000).is_ok());
    assert!(matches!(with(100_000), Err(SoapError::TooLarge(_))));
}

/// WI-02, found by the fuzz target: a form feed behind a boundary was padding in one piece and no line's end in several.
#[test]
fn wi_02_only_blanks_stand_behind_a_boundary() {
    for (padding, legal) in
        [("", true), (" \t", true), ("\u{c}", false), ("\u{c}\n\n", false), ("\u{a0}", false), ("x", false)]
    {
        let bytes = format!("--{BOUNDARY}{padding}\r\n\r\ny\r\n--{BOUNDARY}--");
        let every: Vec<usize> = (0..=1000).collect();
        for cuts in [&[][..], &every] {
            assert_eq!(parts(bytes.as_bytes(), cuts).is_ok(), legal, "{padding:?}");
        }
    }
}

/// WI-01: a document's charset is for its reader; one that no reader knows is refused with its part.
#[test]
fn wi_01_the_charset_of_a_part() {
    let part = |declared: &str| {
        let bytes = format!("--{BOUNDARY}\r\nContent-Type: {declared}\r\n\r\nx\r\n--{BOUNDARY}--");
        parts(bytes.as_bytes(), &[]).expect("a legal body").remove(0).1
    };
    for known in
        ["text/xml; charset=utf-8", "application/xml; charset=\"ISO-8859-15\"", "text/plain; charset=x-klingon"]
    {
        assert_eq!(part(known).expect("readable"), b"x", "{known}");
    }
    assert!(matches!(part("text/xml; charset=x-klingon"), Err(SoapError::Charset(name)) if name == "x-klingon"));
}

/// SE-23: what a part says of its charset is read, and one that nobody knows is an error of that part alone; a Content-Location
/// (RFC 2557) is no name of a part, so that nothing is found by it (XOP 1.0: an Include is a cid).
#[test]
fn se_23_charset_and_location_of_a_part() {
    let message = format!(
        "--{BOUNDARY}\r\nContent-Type: text/xml; charset=x-nobody-knows\r\nContent-ID: <odd@x>\r\n\r\n<a/>\r\n\
         --{BOUNDARY}\r\nContent-Type: text/xml; charset=ISO-8859-15\r\nContent-ID: <latin@x>\r\n\r\n<b/>\r\n\
         --{BOUNDARY}\r\nContent-Type: text/xml\r\nContent-Location: cid:wanted@x\r\n\r\n<c/>\r\n\
         --{BOUNDARY}\r\nContent-Type: text/xml\r\nContent-ID: <wanted@x>\r\nContent-Location: http://192.0.2.1/\r\n\r\n<d/>\r\n\
         --{BOUNDARY}--\r\n"
    );
    for cuts in [&[][..], &[10, 200, 400, 600, 800, 990]] {
        let read = parts(message.as_bytes(), cuts).expect("a message");
        let [odd, latin, nameless, wanted] = &read[..] else { panic!("{} parts", read.len()) };
        let Err(SoapError::Charset(named)) = &odd.1 else { panic!("{:?}", odd.1) };
        assert_eq!(named, "x-nobody-knows");
        let content = |part: &(Option<String>, Result<Vec<u8>, SoapError>)| part.1.clone().expect("is read");
        assert_eq!(
            [content(latin), content(nameless), content(wanted)],
            [b"<b/>", b"<c/>", b"<d/>"].map(|t| t.to_vec())
        );
        assert_eq!((nameless.0.as_deref(), wanted.0.as_deref()), (None, Some("wanted@x")));
    }
}

/// SE-06: where parts are passed over, their headers count as their content does.
#[test]
fn se_06_headers_of_parts_count_where_parts_are_passed_over() {
    let drained = |parts: usize| {
        let root = "--b\r\nContent-Type: application/xop+xml\r\nContent-ID: <r>\r\n\r\n<a/>\r\n".to_owned();
        let part = format!("--b\r\nX: {}\r\n\r\n\r\n", "h".repeat(10_000));
        let package = root + &part.repeat(parts) + "--b--\r\n";
        let announced = "multipart/related; boundary=b; start=\"<r>\"; type=\"application/xop+xml\"";
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(announced))]);
        run(async {
            let body = body(package.as_bytes(), &[]);
            let read = read_message(&headers, body, &MessageLimits::default(), REQUESTS.charge("")).await;
            read.expect("a root").parts.drain(100_000).await
        })
    };
    assert!(drained(9).is_ok());
    assert!(matches!(drained(10), Err(SoapError::TooLarge(_))));
}
