//! What the targets do with any bytes.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use ncp_soap::mime::{MimeLimits, MultipartReader};
use ncp_soap::{Addressing, Envelope, Fault, MessageLimits, read_message};
use ncp_xml::{Limits, REQUESTS};

/// The bytes in chunks, as a connection delivers them.
fn body(bytes: &Bytes, chunk: usize) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
    let (bytes, chunk) = (bytes.clone(), chunk.max(1));
    let chunks = (0..bytes.len()).step_by(chunk).map(move |at| {
        Ok(Frame::data(bytes.slice(at..(at + chunk).min(bytes.len()))))
    });
    StreamBody::new(futures_util::stream::iter(chunks))
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// multipart/related; the first byte is the size of the chunks. However it is cut, the same comes out.
pub fn mime(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let rest = &Bytes::copy_from_slice(rest);
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

/// Parts with transfer encodings and in every legal empty form. The data say what stands in each part; what is read must be
/// that, however the bytes are cut, and bytes of one part never appear in another.
pub fn coding(data: &[u8]) {
    // What eight long parts do, more of them do too.
    let Some((chunk, mut rest)) = data[..data.len().min(2048)].split_first() else { return };
    let (mut written, mut expected) = (b"preamble".to_vec(), Vec::new());
    while let Some((control, behind)) = rest.split_first() {
        let length = usize::from(behind.first().copied().unwrap_or_default()).min(behind.len().saturating_sub(1));
        let content = &behind[behind.len().min(1)..][..length];
        rest = &behind[(1 + length).min(behind.len())..];
        let plain = content.windows(3).any(|window| window == b"--B");
        let (coding, coded) = match control % 4 {
            0 if !plain => ("binary", content.to_vec()),
            0 | 1 => ("base64", lines(&base64(content), usize::from(control / 4) + 1)),
            2 => ("Quoted-Printable", quoted_printable(content)),
            _ => ("x-unknown", b"anything".to_vec()),
        };
        written.extend(format!("\r\n--B\r\nContent-Transfer-Encoding: {coding}\r\n").bytes());
        // Without content the empty line's end may be the delimiter's, and so may the last field's.
        match control / 4 % 3 {
            1 if content.is_empty() => {}
            2 if content.is_empty() => written.truncate(written.len() - 2),
            _ => {
                written.extend(b"\r\n");
                written.extend(&coded);
            }
        }
        expected.push((coding != "x-unknown").then(|| content.to_vec()));
    }
    written.extend(b"\r\n--B--");
    let written = Bytes::from(written);
    let read = run(async {
        let limits = MimeLimits { parts: 1 << 20, ..MimeLimits::default() };
        let mut reader = MultipartReader::new(body(&written, usize::from(*chunk)), "B", limits).expect("a boundary");
        let mut out = Vec::new();
        while reader.next_part().await.expect("a legal body").is_some() {
            let mut content = Some(Vec::new());
            loop {
                match reader.next_chunk().await {
                    Ok(Some(bytes)) => content.iter_mut().for_each(|content| content.extend_from_slice(&bytes)),
                    Ok(None) => break,
                    Err(error) => {
                        assert!(error.is_of_part(), "{error}");
                        content = None;
                        break;
                    }
                }
            }
            out.push(content);
        }
        out
    });
    assert_eq!(read, expected);
}

fn base64(content: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for group in content.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= group.len() { digit } else { b'=' });
        }
    }
    out
}

fn lines(text: &[u8], width: usize) -> Vec<u8> {
    text.chunks(width).collect::<Vec<_>>().join(&b"\r\n"[..])
}

fn quoted_printable(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, byte) in content.iter().enumerate() {
        match byte {
            b'\n' => out.extend(b"\r\n"),
            b'!'..=b'~' if !matches!(byte, b'=' | b'-') => out.push(*byte),
            _ => out.extend(format!("={byte:02X}").bytes()),
        }
        if at % 20 == 19 {
            out.extend(b"=\r\n");
        }
    }
    if content.len() % 20 == 0 && !content.is_empty() {
        // The last line is no soft one (RFC 2045 6.7).
        out.truncate(out.len() - 3);
    }
    out
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
        let mut incoming = read_message(&headers, body(&Bytes::copy_from_slice(rest), usize::from(*first)), &limits, REQUESTS.charge("")).await.ok()?;
        let _ = incoming.parts.drain(64 << 10).await;
        Some(incoming.root)
    });
    let Some(root) = root else { return };
    let Ok(envelope) = Envelope::read(&root, &Limits::REQUEST) else { return };
    let _ = (Addressing::read(&envelope), Fault::read(&envelope.body), envelope.check_must_understand(&[]));
    let again = Envelope::read(&envelope.clone().write(), &Limits::REQUEST).expect("what was written can be read");
    assert_eq!(again.body.to_xml(), envelope.body.to_xml());
}
