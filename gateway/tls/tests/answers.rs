//! Answers in forms that are old, and legal (WI-03).

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Kind, Pair};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use ncp_tls::{ClientAuth, Material, anonymous_connector, http_builder, http_client};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// Reads one request and writes these bytes.
async fn answers<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: Vec<u8>) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        read.push(byte[0]);
    }
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

/// Fields and body as our plain client sees them.
async fn seen(bytes: Vec<u8>) -> Option<(Vec<(String, String)>, Bytes)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { answers(listener.accept().await.expect("a call").0, bytes).await });
    let request = Request::get(url).body(Empty::<Bytes>::new()).expect("a request");
    let (head, body) = http_builder().build_http().request(request).await.ok()?.into_parts();
    let text = |value: &hyper::header::HeaderValue| {
        value.to_str().expect("text").split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    let fields = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Some((fields, body.collect().await.ok()?.to_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// A legal answer reads the same folded or not, wherever it is folded.
    #[test]
    fn wi_03_an_answer_reads_the_same_folded_or_not(
        words in proptest::collection::vec("[!-~]{1,6}", 1..6),
        folds in proptest::collection::vec(0..4_usize, 6),
    ) {
        let joined = |fold: &dyn Fn(usize) -> &'static str| {
            let value = words.iter().enumerate().map(|(n, word)| format!("{}{word}", fold(n))).collect::<String>();
            format!("HTTP/1.1 200 OK\r\nX-One:{value}\r\nContent-Length: 2\r\nX-Two: b\r\n\r\nok").into_bytes()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let plain = runtime.block_on(seen(joined(&|_| " "))).expect("an answer");
        // A value may begin on the second line.
        let folded = runtime.block_on(seen(joined(&|n| [" ", "\r\n ", "\r\n\t", " \r\n  "][folds[n]])));
        prop_assert_eq!(folded, Some(plain));
    }
}

#[tokio::test]
async fn wi_03_the_clients_over_tls_read_folded_fields() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Pair::new("Root", Kind::Authority, None);
    let server = Pair::new("localhost", Kind::Server, Some(&root));
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("anchors.pem"), root.pem()).expect("writes");
    std::fs::write(path("server.pem"), server.pem()).expect("writes");
    std::fs::write(path("server.key"), server.key.private_key_to_pem_pkcs8().expect("PEM")).expect("writes");
    let material = Material::load(&path("server.pem"), &path("server.key")).expect("material");
    let acceptor = material.acceptor(ClientAuth::None, &[], b"\x08http/1.1").expect("an acceptor");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let mut accepted = ncp_tls::Accepted::new(listener, acceptor);
    tokio::spawn(async move {
        let (stream, _) = accepted.next().await.expect("a connection");
        let folded = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/related;\r\n\tboundary=b;\r\n start=a\r\nContent-Length: 0\r\n\r\n";
        answers(stream, folded.to_vec()).await;
    });
    let connector = anonymous_connector(&[path("anchors.pem")], b"\x08http/1.1").expect("a connector");
    let http = http_client::<Empty<Bytes>>(connector, None, Duration::from_secs(10));
    let request = Request::get(format!("https://localhost:{port}/")).body(Empty::new()).expect("a request");
    let answer = http.request(request).await.expect("an answer");
    let field = answer.headers()["content-type"].to_str().expect("text");
    let plain = field.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(plain, "multipart/related; boundary=b; start=a");
}
