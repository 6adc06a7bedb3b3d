//! How long a clinician's call may be: a body or a text over its bound is refused, and the record of the refusal has its
//! length and digest.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use ncp_audit::{Event, PeerFacts, TooLong, bounds};

use super::problem::Problem;
use super::{Clinic, Context};

/// Bodies of requests: parameters, never documents.
const BODY_BYTES: usize = 64 << 10;
/// Time for such a body, which is short: a call holds its permit while its body comes.
const BODY_TIME: Duration = Duration::from_secs(10);
const BODY_TOO_LONG: &str = "the body of the call is longer than 64 KiB";
const TEXT_TOO_LONG: &str = "a text of the call is longer than 4 KiB";

/// Reads the body of a call whose caller is known.
///
/// # Errors
/// It is longer than 64 KiB, it broke off, or it did not come in time.
pub(super) async fn body(body: Body) -> Result<Bytes, Problem> {
    within(BODY_TIME, body).await
}

async fn within(time: Duration, body: Body) -> Result<Bytes, Problem> {
    tokio::time::timeout(time, read(body)).await.unwrap_or(Err(Problem::Slow))
}

async fn read(mut body: Body) -> Result<Bytes, Problem> {
    let announced = body.size_hint().exact();
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::Request("body", "The body could not be read."))?;
        let Ok(data) = frame.into_data() else { continue };
        let room = (BODY_BYTES - read.len()).min(data.len());
        read.extend_from_slice(&data[..room]);
        if room < data.len() {
            return Err(TooLong::begun(BODY_TOO_LONG, announced, &read).into());
        }
    }
    Ok(read.freeze())
}

/// Checks texts of a call that are asked elsewhere or recorded.
///
/// # Errors
/// One is longer than 4 KiB.
pub(super) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<(), Problem> {
    Ok(texts.into_iter().try_for_each(|text| bounds::text(TEXT_TOO_LONG, text))?)
}

/// Leaves each value once: what a caller repeats goes out once.
pub(super) fn each_once<T: Clone + PartialEq>(values: &mut Vec<T>) {
    let mut known = Vec::new();
    values.retain(|value| {
        let is_new = !known.contains(value);
        if is_new {
            known.push(value.clone());
        }
        is_new
    });
}

impl Clinic {
    /// A refusal because of length is on the trail before the caller is told.
    pub(super) async fn recorded(&self, problem: Arc<Problem>, context: &Context) -> Arc<Problem> {
        let Problem::TooLong(found) = &*problem else { return problem };
        let peer = PeerFacts { address: context.address.ip().to_string(), ..PeerFacts::default() };
        let event = Event::SecurityAlert { rule: found.to_string(), peer };
        match self.record(&event, context).await {
            Ok(()) => problem,
            Err(unrecorded) => Arc::new(unrecorded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> String {
        hex::encode(openssl::sha::sha256(bytes))
    }

    #[tokio::test]
    async fn a_body_of_64_kib_is_read_and_of_a_longer_one_its_begin() {
        let chunks = |bytes: usize| {
            let all = vec![b'x'; bytes];
            let chunks: Vec<_> = all.chunks(1000).map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c))).collect();
            Body::from_stream(futures_util::stream::iter(chunks))
        };
        assert_eq!(body(chunks(BODY_BYTES)).await.expect("is read").len(), BODY_BYTES);
        let Err(Problem::TooLong(found)) = body(chunks(BODY_BYTES + 1)).await else { panic!("is refused") };
        let sha256 = digest(&vec![b'x'; BODY_BYTES]);
        let told = format!("{BODY_TOO_LONG} (more than 65536 bytes, SHA-256 of the first 65536 bytes {sha256})");
        assert_eq!(found.to_string(), told);
    }
    /// A body that comes byte by byte, or never, is not waited for.
    #[tokio::test]
    async fn se_04_a_slow_body_ends() {
        let time = Duration::from_millis(50);
        for pause in [time / 5, time * 1000] {
            let bytes = futures_util::stream::unfold((), move |()| async move {
                tokio::time::sleep(pause).await;
                Some((Ok::<_, std::io::Error>(Bytes::from_static(b"{")), ()))
            });
            let body = Body::from_stream(bytes);
            let read = tokio::time::timeout(time * 200, within(time, body)).await.expect("ends");
            assert!(matches!(read, Err(Problem::Slow)));
        }
    }
}
