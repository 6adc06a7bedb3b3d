//! The instances of a study, one after the other. One that fails ends, is named, and leaves the others whole.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::DocumentRequest;
use ncp_soap::OutPart;
use tokio::task::JoinSet;

use super::super::boxed;
use super::{Batch, First, Losses, Source, Wanted, Why};
use crate::instance::{self, Expected, Foreign};
use crate::listener::OutParts;
use crate::passing::{Data, Fate, Incomplete, watched};

const DICOM: &str = "application/dicom";

/// Instances of a batch that are still to come when the next batch is asked for. Few, so that an answer does not wait
/// long for a slow reader.
const AHEAD: usize = 8;

/// The state of one study's retrieval.
pub(super) struct Fetch {
    source: Source,
    expected: Expected,
    losses: Losses,
}

/// An instance whose header is what it should be.
struct Begun {
    request: DocumentRequest,
    part: OutPart,
    fate: Fate,
}

impl Fetch {
    pub(super) fn new(source: Source, expected: Expected, losses: Losses) -> Self {
        Self { source, expected, losses }
    }

    /// All batches, then once more what is missing. While the last instances of a batch go on the next is asked for, so
    /// that the way to the other country is not idle between two batches; the second asking takes one after the other.
    pub(super) fn stream(mut self, first: First, rest: VecDeque<Vec<Wanted>>) -> OutParts {
        let First { answer, wanted, failed } = first;
        Box::pin(async_stream::try_stream! {
            let mut all: Vec<Wanted> = failed;
            all.extend(wanted);
            let mut next = Some(answer);
            let mut queue = rest;
            let mut ahead = JoinSet::new();
            let mut again = true;
            loop {
                if let Some(mut batch) = next.take() {
                    self.refused(&mut batch, &all);
                    for (request, bytes) in std::mem::take(&mut batch.inline) {
                        if let Some(begun) = self.inline(request, bytes) {
                            yield begun.part;
                            self.ended(&begun.request, &begun.fate);
                        }
                    }
                    // A batch that breaks off leaves the rest for the second asking.
                    while let Some(begun) = self.next(&mut batch).await {
                        if again && ahead.is_empty() && batch.promised.len() < AHEAD
                            && let Some(wanted) = queue.pop_front()
                        {
                            all.extend(wanted.iter().cloned());
                            let source = self.source.clone();
                            ahead.spawn(async move { source.ask(&wanted).await });
                        }
                        yield begun.part;
                        self.ended(&begun.request, &begun.fate);
                    }
                }
                // A batch that is refused as a whole is missing, not the end: the others may come.
                if let Some(asked) = ahead.join_next().await {
                    next = asked.ok().and_then(Result::ok);
                    continue;
                }
                let wanted = match queue.pop_front() {
                    Some(wanted) => {
                        all.extend(wanted.iter().cloned());
                        wanted
                    }
                    None if std::mem::take(&mut again) => {
                        let missing = self.missing(&all);
                        queue.extend(missing.chunks(self.source.call.peer.batch).map(<[_]>::to_vec));
                        all.retain(|one| self.losses.is_settled(&one.instance));
                        continue;
                    }
                    None => break,
                };
                next = self.source.ask(&wanted).await.ok();
            }
            for one in self.missing(&all) {
                self.losses.add(&one.request(), Why::NotSent);
            }
            let lost = self.losses.unnamed();
            if lost > 0 {
                Err(boxed(Incomplete { lost, total: all.len() }))?;
            }
        })
    }

    /// What the source says that it has not is not asked for again.
    fn refused(&self, batch: &mut Batch, all: &[Wanted]) {
        for (instance, why) in std::mem::take(&mut batch.refused) {
            if let Some(one) = all.iter().find(|one| *one.instance == *instance) {
                self.losses.add(&one.request(), why);
            }
        }
    }

    fn missing(&self, all: &[Wanted]) -> Vec<Wanted> {
        all.iter().filter(|one| !self.losses.is_settled(&one.instance)).cloned().collect()
    }

    /// How an instance ended.
    fn ended(&self, request: &DocumentRequest, fate: &Fate) {
        match fate.ended() {
            Ok(()) => self.losses.came(&request.document),
            Err(error) => {
                let foreign = error.downcast_ref::<Foreign>();
                self.losses.add(request, foreign.map_or(Why::BrokeOff, |foreign| Why::from(*foreign)));
            }
        }
    }

    /// The next instance that is what it should be; `None` when the batch ends.
    async fn next(&mut self, batch: &mut Batch) -> Option<Begun> {
        let mut parts = batch.parts.lock().await;
        loop {
            let head = parts.next().await.ok()??;
            let Some(request) = batch.promised.remove(&head.content_id) else { continue };
            let held = match instance::header(&mut *parts, &request.document, &self.expected).await {
                Ok((held, Ok(()))) => held,
                Ok((_, Err(foreign))) => {
                    self.losses.add(&request, foreign.into());
                    continue;
                }
                // The part cannot be read; those behind it can.
                Err(error) if error.is_of_part() => {
                    self.losses.add(&request, Why::Withheld("instance is in a transfer encoding that is not read"));
                    continue;
                }
                Err(_) => {
                    // It has not begun, so that it can be asked for again.
                    return None;
                }
            };
            let parts = batch.parts.clone();
            let rest = async_stream::try_stream! {
                yield held;
                while let Some(chunk) = parts.lock().await.chunk().await.map_err(boxed)? {
                    yield chunk;
                }
            };
            return Some(begun(request, Box::pin(rest)));
        }
    }

    /// An instance that came inside the XML; it is bounded by the answer's limit.
    fn inline(&self, request: DocumentRequest, bytes: Bytes) -> Option<Begun> {
        match instance::whole(bytes, &request.document, &self.expected) {
            Ok(bytes) => Some(begun(request, futures_util::stream::once(async { Ok(bytes) }).boxed())),
            Err(foreign) => {
                self.losses.add(&request, foreign.into());
                None
            }
        }
    }
}

/// The part that goes on, looked at while it does.
fn begun(request: DocumentRequest, data: Data) -> Begun {
    let sound = instance::sound(data, None, |foreign| boxed(foreign));
    let (data, fate) = watched(Box::pin(sound));
    let part = OutPart { content_id: request.document.clone(), media_type: DICOM.into(), data };
    Begun { request, part, fate }
}
