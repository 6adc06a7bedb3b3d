//! One unit of a streamed answer that fails takes no other with it: its own stream just ends, the units behind it follow, and
//! whoever sends them asks afterwards how each ended and leaves out the closing boundary.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use ncp_soap::{BoxError, OutPart};
use tokio::time::{Instant, timeout_at};

use crate::listener::OutParts;

/// The bytes of a unit, as they come.
pub type Data = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// How the stream of a unit ended.
#[derive(Clone, Default)]
pub struct Fate(Arc<Mutex<Option<Result<(), BoxError>>>>);

impl Fate {
    /// The end of a stream that was read to it; a stream that was given up has failed.
    pub fn ended(&self) -> Result<(), BoxError> {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        ended.unwrap_or_else(|| Err("the unit was not read to its end".into()))
    }

    fn set(&self, ended: Result<(), BoxError>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }
}

/// The bytes of a unit, and how they ended.
pub fn watched(data: Data) -> (Data, Fate) {
    let fate = Fate::default();
    (Box::pin(Watched { data: Some(data), fate: fate.clone() }), fate)
}

/// Every chunk of an image passes here, so that it is a stream of its own instead of a generated one.
struct Watched {
    /// `None` when it has ended.
    data: Option<Data>,
    fate: Fate,
}

impl Stream for Watched {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(data) = &mut self.data else { return Poll::Ready(None) };
        let (ended, told) = match ready!(data.as_mut().poll_next(context)) {
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
            Some(Err(error)) => (Err(error), Some(Err("the unit ended before its end".into()))),
            None => (Ok(()), None),
        };
        self.data = None;
        self.fate.set(ended);
        Poll::Ready(told)
    }
}

/// The bytes of a unit until it fails.
pub fn quiet(data: Data) -> Data {
    Box::pin(data.take_while(|chunk| std::future::ready(chunk.is_ok())))
}

/// The bytes of a unit until it fails, and how it ended.
pub fn until_failure(data: Data) -> (Data, Fate) {
    let (data, fate) = watched(data);
    (quiet(data), fate)
}

/// How long is read ahead.
const PATIENCE: Duration = Duration::from_secs(3);

/// Reads units as far as so many bytes go. A unit that fails in them is left out, and so is the error that says so at the
/// end, because both can still be told beside the answer. Returns the units, and whether these are all.
pub async fn read_ahead(mut units: OutParts, most: usize) -> (OutParts, bool) {
    let until = Instant::now() + PATIENCE;
    let (mut held, mut left) = (Vec::new(), most);
    loop {
        let mut part = match timeout_at(until, units.next()).await {
            Err(_) => return (chained(held, units), false),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                held.extend((!error.is::<Incomplete>()).then_some(Err(error)));
                break;
            }
            Ok(Some(Ok(part))) => part,
        };
        let mut chunks = Vec::new();
        loop {
            match timeout_at(until, part.data.next()).await {
                Ok(None) => {
                    part.data = Box::pin(stream::iter(chunks));
                    held.push(Ok(part));
                    break;
                }
                Ok(Some(Err(_))) => break,
                Ok(Some(Ok(chunk))) => {
                    let more = left.checked_sub(chunk.len());
                    chunks.push(Ok(chunk));
                    if let Some(more) = more {
                        left = more;
                        continue;
                    }
                }
                Err(_) => {}
            }
            part.data = Box::pin(stream::iter(chunks).chain(part.data));
            held.push(Ok(part));
            return (chained(held, units), false);
        }
    }
    (Box::pin(stream::iter(held)), true)
}

fn chained(held: Vec<Result<OutPart, BoxError>>, units: OutParts) -> OutParts {
    Box::pin(stream::iter(held).chain(units))
}

/// The units of an answer that could all be sent have been; so many could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{lost} of {total} units are missing")]
pub struct Incomplete {
    /// Units that were promised and did not come.
    pub lost: usize,
    /// All that were promised.
    pub total: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unit_that_fails_ends() {
        let run = |chunks: Vec<Result<Bytes, BoxError>>| async {
            let (mut data, fate) = until_failure(Box::pin(futures_util::stream::iter(chunks)));
            assert!(fate.ended().is_err(), "it has not ended yet");
            let mut count = 0;
            while let Some(chunk) = data.next().await {
                assert!(chunk.is_ok());
                count += 1;
            }
            (count, fate.ended().is_ok())
        };
        let chunk = || Ok(Bytes::from_static(b"x"));
        assert_eq!(run(vec![chunk(), chunk()]).await, (2, true));
        assert_eq!(run(vec![chunk(), Err("cut".into()), chunk()]).await, (1, false));
    }

    fn unit(chunks: Vec<Result<Bytes, BoxError>>) -> Result<OutPart, BoxError> {
        let data = Box::pin(stream::iter(chunks));
        Ok(OutPart { content_id: String::new(), media_type: String::new(), data })
    }

    async fn read(mut units: OutParts) -> (Vec<usize>, bool) {
        let mut lengths = Vec::new();
        while let Some(unit) = units.next().await {
            let Ok(mut unit) = unit else { return (lengths, false) };
            let mut length = 0;
            while let Some(Ok(chunk)) = unit.data.next().await {
                length += chunk.len();
            }
            lengths.push(length);
        }
        (lengths, true)
    }

    /// FO-08: what fails within the bytes that are read ahead is left out; what fails behind them ends the answer with an error.
    #[tokio::test]
    async fn fo_08_what_is_read_ahead_is_known() {
        let units = |bad: usize, length: usize| -> OutParts {
            let chunk = move || Ok(Bytes::from(vec![0; length]));
            let all = (0..4).map(move |n| match n == bad {
                true => unit(vec![chunk(), Err("cut".into())]),
                false => unit(vec![chunk(), chunk()]),
            });
            let all: Vec<_> = all.chain([Err(Box::new(Incomplete { lost: 1, total: 4 }) as BoxError)]).collect();
            Box::pin(stream::iter(all))
        };
        for bad in 0..4 {
            let (ahead, ended) = read_ahead(units(bad, 10), 1000).await;
            assert_eq!((ended, read(ahead).await), (true, (vec![20; 3], true)), "{bad}");
            let (ahead, ended) = read_ahead(units(bad, 1000), 1500).await;
            let (lengths, closed) = read(ahead).await;
            assert!(!ended && !closed && lengths.iter().filter(|l| **l == 2000).count() == 3, "{bad}: {lengths:?}");
        }
    }
}
