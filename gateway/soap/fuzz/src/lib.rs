//! What the targets do with any bytes.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use ncp_soap::mime::{MimeLimits, MultipartReader};
use ncp_soap::{Addressing, Envelope, Fault, MessageLimits, read_message};
use ncp_xml::Limits;

/// The bytes in chunks, as a connection delivers them.
fn body(bytes: &[u8], chunk: usize) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
    let chunks: Vec<_> = bytes.chunks(chunk.max(1)).map(|c| Ok(Frame::data(Bytes::copy_from_slice(c)))).collect();
    StreamBody::new(futures_util::stream::iter(chunks))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// multipart/related; the first byte is the size of the chunks. However it is cut, the same comes out.
pub fn mime(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let read = |chunk: usize| {
        run(async {
            let mut reader = MultipartReader::new(body(rest, chunk), "B", MimeLimits::default()).ok()?;
            let mut out = Vec::new();
            while let Some(head) = reader.next_part().await.ok()? {
                let mut content = Vec::new();
                while let Some(bytes) = reader.next_chunk().await.ok()? {
                    content.extend_from_slice(&bytes);
                }
                out.push((head, content));
            }
            Some(out)
        })
    };
    assert_eq!(read(usize::from(*first)), read(rest.len()));
}

/// A whole message: MIME or plain, envelope, addressing, fault.
pub fn message(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let content_type = match first % 3 {
        0 => "application/soap+xml; charset=UTF-8",
        1 => "multipart/related; type=\"application/xop+xml\"; start-info=\"application/soap+xml\"; boundary=B",
        _ => "multipart/related; type=\"application/xop+xml\"; start=\"<r>\"; start-info=\"application/soap+xml\"; boundary=B",
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let limits = MessageLimits { root_bytes: 64 << 10, ..MessageLimits::default() };
    let root = run(async {
        let mut incoming = read_message(&headers, body(rest, usize::from(*first)), &limits).await.ok()?;
        let _ = incoming.parts.drain(64 << 10).await;
        Some(incoming.root)
    });
    let Some(root) = root else { return };
    let Ok(envelope) = Envelope::read(&root, &Limits::REQUEST) else { return };
    let _ = (Addressing::read(&envelope), Fault::read(&envelope.body), envelope.check_must_understand(&[]));
    let again = Envelope::read(&envelope.clone().write(), &Limits::REQUEST).expect("what was written can be read");
    assert_eq!(again.body.to_xml(), envelope.body.to_xml());
}
