//! Instances that a source sends one after the other over one connection, checked before a byte of them goes on.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use async_stream::try_stream;
use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::DocumentRequest;
use tokio::sync::{Mutex, MutexGuard};

use super::{ByteStream, Instance, InstanceStream, NationalError};
use crate::instance::{self, Chunks, Expected};

/// A sequence of instances on one connection.
pub(super) trait Incoming: Send + 'static {
    /// Goes to the next instance, leaving out what is left of the present one; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Result<Option<DocumentRequest>, NationalError>> + Send;
    /// The next bytes of the present instance; `None` at its end.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, NationalError>> + Send;
}

/// The instances of a source. One that is foreign, or was promised and does not come, fails in its place.
pub(super) fn instances<I: Incoming>(
    source: I,
    mut promised: BTreeSet<DocumentRequest>,
    expected: Expected,
) -> InstanceStream {
    let source = Arc::new(Mutex::new(source));
    Box::pin(try_stream! {
        loop {
            let next = source.lock().await.next().await;
            let request = match next {
                Ok(Some(request)) => request,
                Ok(None) => break,
                // The connection broke between two instances: one that was promised is where it fails.
                Err(error) => {
                    if let Some(request) = promised.first().cloned() {
                        yield Instance { request, size: None, content: failing(error) };
                    }
                    return;
                }
            };
            // What was not asked for is not passed on.
            if !promised.remove(&request) {
                continue;
            }
            let begun = begin(&source, &request, &expected).await;
            yield Instance { request, size: None, content: begun.unwrap_or_else(failing) };
        }
        for request in promised {
            yield Instance { request, size: None, content: failing(NationalError::UnknownDocument) };
        }
    })
}

async fn begin<I: Incoming>(
    source: &Arc<Mutex<I>>,
    request: &DocumentRequest,
    expected: &Expected,
) -> Result<ByteStream, NationalError> {
    let (held, verdict) = instance::header(&mut Present(source.lock().await), &request.document, expected).await?;
    verdict.map_err(NationalError::Foreign)?;
    let source = source.clone();
    Ok(Box::pin(try_stream! {
        yield held;
        loop {
            let chunk = source.lock().await.chunk().await?;
            match chunk {
                Some(chunk) => yield chunk,
                None => break,
            }
        }
    }))
}

struct Present<'a, I>(MutexGuard<'a, I>);

impl<I: Incoming> Chunks for Present<'_, I> {
    type Error = NationalError;
    async fn chunk(&mut self) -> Result<Option<Bytes>, NationalError> {
        self.0.chunk().await
    }
}

/// An instance that cannot be had: its place in the answer fails.
pub(super) fn failing(error: NationalError) -> ByteStream {
    futures_util::stream::iter([Err(error)]).boxed()
}
