//! Envelopes, addressing, MIME hazards (ids T-MIM-…, T-WSA-…) and round trips of packages.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use ncp_soap::mime::{MediaType, MimeLimits, MultipartReader};
use ncp_soap::{
    Addressing, Envelope, Fault, MessageLimits, OutPart, SoapError, include, included, mtom_response, read_lifting,
    read_message,
};
use ncp_xml::{Element, Limits, REQUESTS};
use proptest::prelude::*;

fn body(chunks: Vec<Vec<u8>>) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin {
    StreamBody::new(stream::iter(chunks.into_iter().map(|c| Ok(Frame::data(Bytes::from(c))))))
}

fn headers(content_type: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).expect("ascii"));
    map
}

async fn parts_of(
    content_type: &str,
    bytes: &[u8],
    chunk: usize,
) -> Result<(Bytes, Vec<(String, Vec<u8>)>), SoapError> {
    let chunks = bytes.chunks(chunk.max(1)).map(<[u8]>::to_vec).collect();
    let mut message =
        read_message(&headers(content_type), body(chunks), &MessageLimits::default(), REQUESTS.charge("")).await?;
    let mut out = Vec::new();
    while let Some(head) = message.parts.next().await? {
        let mut data = Vec::new();
        while let Some(chunk) = message.parts.chunk().await? {
            data.extend_from_slice(&chunk);
        }
        out.push((head.content_id, data));
    }
    Ok((message.root, out))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

fn package(parts: Vec<Vec<u8>>) -> (String, Vec<u8>) {
    run(async {
        let parts = parts.into_iter().enumerate().map(|(i, data)| {
            let chunks: Vec<_> = data.chunks(7).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            Ok(OutPart {
                content_id: format!("p{i} %@ncp"),
                media_type: "application/dicom".into(),
                data: Box::pin(stream::iter(chunks)),
            })
        });
        let (content_type, body) = mtom_response(b"<root/>".to_vec(), stream::iter(parts.collect::<Vec<_>>()));
        let bytes = body.collect().await.expect("writes").to_bytes();
        (content_type.to_str().expect("ascii").to_owned(), bytes.to_vec())
    })
}

#[test]
fn a_list_is_read_as_it_comes_from_either_packaging() {
    let items: String = (0..100).map(|n| format!("<i>{n}</i>")).collect();
    let envelope = format!(
        "<s:Envelope xmlns:s=\"{}\"><s:Body><list>{items}<rest/></list></s:Body></s:Envelope>",
        ncp_soap::ns::SOAP
    );
    let (mtom, package) = run(async {
        let (content_type, body) = ncp_soap::mtom_request(envelope.clone().into_bytes());
        (content_type, body.collect().await.expect("writes").to_bytes().to_vec())
    });
    let simple = HeaderValue::from_static("application/soap+xml");
    for (content_type, bytes) in [(simple, envelope.as_bytes()), (mtom, &package)] {
        let mut count = 0;
        let chunks = bytes.chunks(11).map(<[u8]>::to_vec).collect();
        let headers = headers(content_type.to_str().expect("ascii"));
        let limits = (&MessageLimits::default(), &Limits::LISTED);
        let take = &mut |item: Element| {
            assert_eq!(item.content(), count.to_string());
            count += 1;
        };
        let (envelope, _) = run(read_lifting(&headers, body(chunks), limits, ("", "i"), take, REQUESTS.charge("")))
            .expect("an envelope");
        assert_eq!(envelope.body.elements().map(Element::local).collect::<Vec<_>>(), ["rest"]);
        assert_eq!(count, 100);
    }
    let cut = body(vec![envelope.as_bytes()[..200].to_vec()]);
    let (headers, bounds) = (headers("application/soap+xml"), MessageLimits::default());
    let read =
        run(read_lifting(&headers, cut, (&bounds, &Limits::LISTED), ("", "i"), &mut |_| (), REQUESTS.charge("")));
    assert!(matches!(read, Err(SoapError::Xml(_))));
}

proptest! {
    #[test]
    fn packages_come_back(parts in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), any::<u8>()], 0..80), 0..5), chunk in 1usize..40) {
        let (content_type, bytes) = package(parts.clone());
        let (root, read) = run(parts_of(&content_type, &bytes, chunk)).expect("our own package");
        prop_assert_eq!(&root[..], b"<root/>");
        let read: Vec<Vec<u8>> = read.into_iter().map(|(_, data)| data).collect();
        prop_assert_eq!(read, parts);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'B'), Just(b':'), any::<u8>()], 0..200), chunk in 1usize..20) {
        let _ = run(parts_of("multipart/related; boundary=B", &bytes, chunk));
    }
}

#[test]
fn t_mim_a_truncated_package_is_known() {
    let (content_type, bytes) = package(vec![b"abc".to_vec(), b"def".to_vec()]);
    for cut in [bytes.len() - 6, bytes.len() - 20, bytes.len() / 2, 10] {
        assert!(matches!(run(parts_of(&content_type, &bytes[..cut], 9)), Err(SoapError::Truncated)), "cut at {cut}");
    }
}

#[test]
fn t_mim_boundary_start_and_ids() {
    let whole = b"--B\r\nContent-ID: <a>\r\n\r\n<a/>\r\n--B\r\nContent-ID: <a>\r\n\r\nx\r\n--B--";
    assert!(matches!(run(parts_of("multipart/related", whole, 99)), Err(SoapError::Mime)));
    assert!(matches!(run(parts_of("multipart/related; boundary=\"\"", whole, 99)), Err(SoapError::Mime)));
    assert!(matches!(
        run(parts_of("multipart/related; boundary=B; start=\"<z>\"", b"--B\r\n\r\nx\r\n--B--", 99)),
        Err(SoapError::Mime)
    ));
    assert!(matches!(run(parts_of("multipart/related; boundary=B", whole, 99)), Err(SoapError::DuplicateContentId)));
    assert!(matches!(run(parts_of("text/html", whole, 99)), Err(SoapError::MediaType)));
}

#[test]
fn the_root_need_not_come_first() {
    let whole =
        b"preamble\r\n--B \r\ncontent-id: <x>\r\n\r\nXX\r\n--B\r\nContent-ID:\r\n <r>\r\n\r\n<r/>\r\n--B--\r\nepilogue";
    let (root, parts) =
        run(parts_of("Multipart/Related; Start=\"<r>\"; BOUNDARY=B; start-info=\"a; action=\\\"b\\\"\"", whole, 5))
            .expect("legal");
    assert_eq!(&root[..], b"<r/>");
    assert_eq!(parts, vec![("x".to_owned(), b"XX".to_vec())]);
}

#[test]
fn t_mim_includes_stay_inside_the_message() {
    let holder = |child: Element| Element::new("urn:ihe:iti:xds-b:2007", "Document").with(child);
    let id = "1.2 %<3>@ncp";
    assert_eq!(included(&holder(include(id))).expect("resolves").as_deref(), Some(id));
    for href in ["http://127.0.0.1/", "file:///etc/passwd", "x"] {
        let outside = Element::new(ncp_soap::ns::XOP, "Include").attr("href", href);
        assert!(matches!(included(&holder(outside)), Err(SoapError::UnresolvedInclude)), "{href}");
    }
}

#[test]
fn t_mim_many_parts_and_long_headers_are_refused() {
    let many = b"--B\r\n\r\nx\r\n".repeat(50);
    let read = |bytes: Vec<u8>, limits| {
        run(async move {
            let mut reader = MultipartReader::new(body(vec![bytes]), "B", limits)?;
            while reader.next_part().await?.is_some() {}
            Ok::<_, SoapError>(())
        })
    };
    let limits = MimeLimits { parts: 10, ..MimeLimits::default() };
    assert!(matches!(read(many, limits), Err(SoapError::TooLarge(_))));
    let long = [b"--B\r\nX: ".as_slice(), &vec![b'x'; 300_000], b"\r\n\r\n--B--"].concat();
    assert!(matches!(read(long, MimeLimits::default()), Err(SoapError::TooLarge(_))));
}

#[test]
fn silence_ends_a_message() {
    let waiting = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let limits = MessageLimits { idle: Duration::from_millis(10), ..MessageLimits::default() };
    let read = run(read_message(&headers("application/soap+xml"), waiting, &limits, REQUESTS.charge("")));
    assert!(matches!(read.err(), Some(SoapError::Timeout)));
}

#[test]
fn t_wsa_addresses_and_bogus_headers() {
    let envelope = |inner: &str| {
        let xml = format!(
            "<s:Envelope xmlns:s='{}' xmlns:a='{}' xmlns:b='http://www.w3.org/2005/08/addressing/anonymous'><s:Header>{inner}</s:Header><s:Body><x/></s:Body></s:Envelope>",
            ncp_soap::ns::SOAP,
            ncp_soap::ns::WSA
        );
        Envelope::read(xml.as_bytes(), &Limits::REQUEST).expect("an envelope")
    };
    let opencp = envelope(
        "<b:Action s:mustUnderstand='0'>x</b:Action><b:ReplyTo><b:Address>http://evil</b:Address></b:ReplyTo><a:Action s:mustUnderstand='1'>urn:a</a:Action><a:MessageID>urn:uuid:1</a:MessageID>",
    );
    let read = Addressing::read(&opencp).expect("the right set is there");
    assert_eq!((read.action.as_str(), read.message_id.as_deref()), ("urn:a", Some("urn:uuid:1")));
    let foreign =
        envelope("<a:Action>urn:a</a:Action><a:ReplyTo><a:Address>http://169.254.169.254/</a:Address></a:ReplyTo>");
    let foreign = Addressing::read(&foreign).expect("read, not called");
    for configured in [None, Some("https://ncp.example/reply")] {
        assert!(matches!(foreign.reply_address(configured), Err(SoapError::AddressRefused)));
    }
    let reply = |tag: &str| format!("<a:{tag}><a:Address>https://ncp.example/reply</a:Address></a:{tag}>");
    let read =
        |inner: String| Addressing::read(&envelope(&format!("<a:Action>urn:a</a:Action>{inner}"))).expect("reads");
    let asynchronous = read(reply("ReplyTo"));
    let configured = Some("https://ncp.example/reply");
    assert_eq!(asynchronous.reply_address(configured).ok(), Some(configured));
    assert!(asynchronous.reply_address(Some("https://ncp.example/reply/")).is_err());
    assert!(asynchronous.reply_address(None).is_err());
    assert!(read(reply("FaultTo")).reply_address(configured).is_err());
    assert_eq!(read(reply("ReplyTo") + &reply("FaultTo")).reply_address(configured).ok(), Some(configured));
    assert_eq!(read(String::new()).reply_address(configured).ok(), Some(None));
    assert!(matches!(Addressing::read(&envelope("")), Err(SoapError::Action)));
    assert!(matches!(
        Addressing::read(&envelope("<a:Action>1</a:Action><a:Action>2</a:Action>")),
        Err(SoapError::Addressing)
    ));
    let unknown = envelope("<a:Action>1</a:Action><z xmlns='urn:z' s:mustUnderstand='true'/>");
    assert!(matches!(unknown.check_must_understand(&[(ncp_soap::ns::WSA, "Action")]), Err(SoapError::MustUnderstand)));
}

#[test]
fn faults_read_back() {
    let fault = Fault::new("Sender", "wsa:InvalidAddressingHeader", "wsa:DuplicateMessageID", "no");
    let bytes = fault.envelope(Some("urn:uuid:1")).write();
    let read = Envelope::read(&bytes, &Limits::REQUEST).expect("our own envelope");
    assert_eq!(Fault::read(&read.body), Some(fault));
    assert_eq!(SoapError::Version.http_status(), 500);
    assert_eq!(MediaType::parse("a/b; x=\"1;2\"").parameter("x"), Some("1;2"));
    let soap11 = "<e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/'><e:Body/></e:Envelope>";
    assert!(matches!(Envelope::read(soap11.as_bytes(), &Limits::REQUEST), Err(SoapError::Version)));
}
