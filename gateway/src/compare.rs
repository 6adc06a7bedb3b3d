//! A document is compared with what is known of it before it is handed on: hash and size that a registry announced (ITI TF-3:
//! 4.2.3.2.10, 4.2.3.2.24) and, at the gateway of the patient's country, whom a CDA records.
//!
//! A document that fits into the memory set apart for this is kept until it was compared. One that does not passes while it is
//! compared, and its stream ends with an error where it differs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use ncp_ihe::cda::{self, CdaBeginning, RecordTarget};
use ncp_ihe::{DocumentEntry, EntryType};
use openssl::sha::Sha1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Bytes of a CDA in which its record targets must stand when it passes without being kept.
const BEGINNING: usize = 256 << 10;
/// Unit of the budget, bytes.
const UNIT: usize = 1 << 10;
/// How long a document is kept that comes slowly: its receiver waits for a first byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a registry announced of a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announced {
    /// SHA-1.
    pub hash: Option<[u8; 20]>,
    /// Bytes.
    pub size: Option<u64>,
}

impl Announced {
    /// What an entry announces; nothing where the document is made when it is retrieved.
    pub fn of(entry: &DocumentEntry) -> Self {
        if entry.is_delayed_assembly() || entry.entry_type == EntryType::OnDemand {
            return Self::default();
        }
        let hash = entry.hash.as_deref().and_then(|hash| hex::decode(hash.trim()).ok());
        Self { hash: hash.and_then(|hash| hash.try_into().ok()), size: entry.size }
    }

    /// Compares a whole document.
    ///
    /// # Errors
    /// How it differs.
    pub fn fits(&self, bytes: &[u8]) -> Result<(), Misfit> {
        let mut seen = Seen::default();
        seen.add(bytes);
        seen.end(self)
    }
}

/// How a document differs from what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It has no bytes.
    Empty,
    /// Another size than announced.
    Size,
    /// Another hash than announced.
    Hash,
    /// A CDA that records somebody else.
    OtherPatient,
    /// A CDA whose record target cannot be read.
    Unreadable,
}

impl Misfit {
    /// The rule that was broken.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Empty => "document is empty",
            Self::Size => "document has another size than its registry announced",
            Self::Hash => "document has another hash than its registry announced",
            Self::OtherPatient => "document records another patient than its entry names",
            Self::Unreadable => "document does not say readably whom it records",
        }
    }
}

/// Whether the persons whom a CDA records may be the patient.
pub type IsPatient = Arc<dyn Fn(&[RecordTarget]) -> bool + Send + Sync>;

/// What a document is compared with.
#[derive(Clone, Default)]
pub struct Expected {
    /// Hash and size.
    pub announced: Announced,
    /// Whom a CDA may record; none: not compared.
    pub is_patient: Option<IsPatient>,
}

/// What passed of a document.
#[derive(Default)]
struct Seen {
    sha1: Sha1,
    length: u64,
}

impl Seen {
    fn add(&mut self, chunk: &[u8]) {
        self.sha1.update(chunk);
        self.length += chunk.len() as u64;
    }

    fn end(self, announced: &Announced) -> Result<(), Misfit> {
        if self.length == 0 {
            return Err(Misfit::Empty);
        }
        if announced.size.is_some_and(|size| size != self.length) {
            return Err(Misfit::Size);
        }
        if announced.hash.is_some_and(|hash| hash != self.sha1.finish()) { Err(Misfit::Hash) } else { Ok(()) }
    }
}

impl Expected {
    /// Whether the beginning of a document may go on; `false`: more of it is needed.
    fn records(&self, beginning: &[u8], whole: bool) -> Result<bool, Misfit> {
        let Some(is_patient) = &self.is_patient else { return Ok(true) };
        match cda::beginning(beginning, whole) {
            CdaBeginning::Other => Ok(true),
            CdaBeginning::Of(targets) if is_patient(&targets) => Ok(true),
            CdaBeginning::Of(_) => Err(Misfit::OtherPatient),
            CdaBeginning::More => Ok(false),
            CdaBeginning::Unreadable => Err(Misfit::Unreadable),
        }
    }

    /// Compares a document that is there.
    ///
    /// # Errors
    /// How it differs.
    pub fn fits(&self, document: &[u8]) -> Result<(), Misfit> {
        self.announced.fits(document)?;
        self.records_whole(document)
    }

    /// Whom a document that is there records; its beginning is enough most times.
    fn records_whole(&self, document: &[u8]) -> Result<(), Misfit> {
        let beginning = &document[..document.len().min(BEGINNING)];
        if !self.records(beginning, beginning.len() == document.len())? {
            self.records(document, true)?;
        }
        Ok(())
    }
}

/// Memory for documents that wait to be compared, shared by all exchanges.
#[derive(Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    most: usize,
}

impl Budget {
    /// So many bytes for all documents together, and for one.
    pub fn new(all: usize, most: usize) -> Self {
        Self { units: Arc::new(Semaphore::new((all / UNIT).min(Semaphore::MAX_PERMITS))), most }
    }

    fn share(&self) -> Share {
        Share { budget: self.clone(), permit: None, taken: 0 }
    }
}

/// What one document takes of the budget, given back when it is dropped.
struct Share {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
    taken: usize,
}

impl Share {
    /// Whether so many bytes in all fit.
    fn reaches(&mut self, bytes: usize) -> bool {
        let wanted = bytes.div_ceil(UNIT);
        if bytes > self.budget.most {
            return false;
        }
        let Ok(more) = u32::try_from(wanted.saturating_sub(self.taken)) else { return false };
        let Ok(permit) = self.budget.units.clone().try_acquire_many_owned(more) else { return false };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        self.taken = self.taken.max(wanted);
        true
    }
}

/// The bytes of a document, as they come.
pub type Content<E> = Pin<Box<dyn Stream<Item = Result<Bytes, E>> + Send>>;

/// A document that may go on.
pub enum Compared<E> {
    /// It is what it should be. It takes its share of the budget until the stream is dropped.
    Whole(u64, Content<E>),
    /// It is compared while it passes; where it differs the stream ends with an error.
    Passing(Content<E>),
}

/// Compares a document with what is known of it.
///
/// # Errors
/// What ends its stream; how it differs.
pub async fn compare<E>(mut content: Content<E>, expected: Expected, budget: &Budget) -> Result<Compared<E>, E>
where
    E: From<Misfit> + Send + 'static,
{
    let mut share = budget.share();
    let (mut held, mut seen) = (Kept::default(), Seen::default());
    let until = Instant::now() + PATIENCE;
    let mut known = false;
    loop {
        let Some(chunk) = content.next().await.transpose()? else {
            seen.end(&expected.announced)?;
            expected.records_whole(held.bytes())?;
            let (length, bytes) = (held.bytes().len() as u64, held.freeze());
            let once = async_stream::stream! {
                let _share = share;
                yield Ok(bytes);
            };
            return Ok(Compared::Whole(length, Box::pin(once)));
        };
        seen.add(&chunk);
        if expected.announced.size.is_some_and(|size| size < seen.length) {
            return Err(Misfit::Size.into());
        }
        let length = held.bytes().len() + chunk.len();
        let fits = Instant::now() < until && share.reaches(length);
        held.push(chunk);
        if fits {
            continue;
        }
        known = known || expected.records(held.bytes(), false)?;
        if known {
            return Ok(Compared::Passing(Box::pin(passing(content, held.freeze(), share, seen, expected.announced))));
        }
        if length > BEGINNING {
            return Err(Misfit::Unreadable.into());
        }
    }
}

/// What is kept of a document; one that comes in one piece is not copied.
#[derive(Default)]
struct Kept {
    one: Bytes,
    many: BytesMut,
}

impl Kept {
    fn push(&mut self, chunk: Bytes) {
        if self.bytes().is_empty() {
            self.one = chunk;
            return;
        }
        let before = std::mem::take(&mut self.one);
        self.many.extend_from_slice(&before);
        self.many.extend_from_slice(&chunk);
    }

    fn bytes(&self) -> &[u8] {
        if self.many.is_empty() { &self.one } else { &self.many }
    }

    fn freeze(self) -> Bytes {
        if self.many.is_empty() { self.one } else { self.many.freeze() }
    }
}

/// What was kept, then the rest, then whether it was what was announced. The last piece waits for that.
fn passing<E>(
    mut content: Content<E>,
    held: Bytes,
    share: Share,
    mut seen: Seen,
    announced: Announced,
) -> impl Stream<Item = Result<Bytes, E>> + Send
where
    E: From<Misfit> + Send + 'static,
{
    async_stream::try_stream! {
        let mut last = held;
        let mut share = Some(share);
        while let Some(chunk) = content.next().await.transpose()? {
            seen.add(&chunk);
            if announced.size.is_some_and(|size| size < seen.length) {
                Err(Misfit::Size)?;
            }
            yield std::mem::replace(&mut last, chunk);
            share = None;
        }
        seen.end(&announced)?;
        yield last;
        drop(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Failed(&'static str);

    impl From<Misfit> for Failed {
        fn from(misfit: Misfit) -> Self {
            Self(misfit.rule())
        }
    }

    fn content(bytes: &[u8], chunk: usize) -> Content<Failed> {
        let chunks: Vec<_> = bytes.chunks(chunk).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        Box::pin(futures_util::stream::iter(chunks))
    }

    fn announced(bytes: &[u8]) -> Announced {
        Announced { hash: Some(openssl::sha::sha1(bytes)), size: Some(bytes.len() as u64) }
    }

    /// What was kept or passed, and how it ended.
    async fn run(sent: &[u8], expected: &Expected, budget: &Budget) -> (bool, Vec<u8>, Option<Failed>) {
        let (kept, mut content) = match compare(content(sent, 700), expected.clone(), budget).await {
            Ok(Compared::Whole(_, content)) => (true, content),
            Ok(Compared::Passing(content)) => (false, content),
            Err(error) => return (true, Vec::new(), Some(error)),
        };
        let mut out = Vec::new();
        while let Some(chunk) = content.next().await {
            match chunk {
                Ok(chunk) => out.extend_from_slice(&chunk),
                Err(error) => return (kept, out, Some(error)),
            }
        }
        (kept, out, None)
    }

    /// CO-01: what differs never comes whole, kept or passing, whatever it has in the place of the right bytes.
    #[tokio::test]
    async fn co_01_another_document_never_comes_whole() {
        let right: Vec<u8> = (0..40_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = Expected { announced: announced(&right), is_patient: None };
        let mut other = right.clone();
        other[39_999] ^= 1;
        let longer = [right.as_slice(), b"x"].concat();
        for (all, most, kept) in [(1 << 20, 1 << 20, true), (1 << 20, 30_000, false), (10_000, 1 << 20, false)] {
            let budget = Budget::new(all, most);
            assert_eq!(run(&right, &expected, &budget).await, (kept, right.clone(), None));
            for wrong in [&other[..], &longer, &right[..400], b""] {
                let (_, came, failed) = run(wrong, &expected, &budget).await;
                assert!(failed.is_some() && (came.len() < wrong.len() || wrong.is_empty()), "{}", wrong.len());
                assert!(!kept || came.is_empty(), "{} bytes came before they were compared", came.len());
            }
            assert_eq!(budget.units.available_permits(), all / UNIT, "all is given back");
        }
        let none = Expected::default();
        let budget = Budget::new(1 << 20, 1 << 20);
        assert_eq!(run(&other, &none, &budget).await.2, None);
        assert_eq!(run(b"", &none, &budget).await.2, Some(Failed("document is empty")));
    }

    #[tokio::test]
    async fn co_01_another_persons_cda_does_not_begin() {
        let filler = "x".repeat(100_000);
        let cda = |id: &str, before: &str| {
            format!(
                "<ClinicalDocument xmlns='urn:hl7-org:v3'><title>{before}</title><recordTarget><patientRole><id root='2.999' \
                 extension='{id}'/></patientRole></recordTarget><author/><text>{filler}</text></ClinicalDocument>"
            )
            .into_bytes()
        };
        let is_patient: IsPatient =
            Arc::new(|targets| targets.iter().any(|t| t.ids == [("2.999".to_owned(), "1".to_owned())]));
        let expected = Expected { announced: Announced::default(), is_patient: Some(is_patient) };
        for budget in [Budget::new(1 << 20, 1 << 20), Budget::new(0, 1 << 20), Budget::new(1 << 20, 1000)] {
            assert_eq!(run(&cda("1", ""), &expected, &budget).await.2, None);
            let (_, came, failed) = run(&cda("2", ""), &expected, &budget).await;
            assert_eq!((came.len(), failed), (0, Some(Failed(Misfit::OtherPatient.rule()))));
        }
        let late = cda("1", &"y".repeat(2 * BEGINNING));
        assert_eq!(run(&late, &expected, &Budget::new(1 << 20, 1 << 20)).await.2, None, "kept, it is read whole");
        let (_, came, failed) = run(&late, &expected, &Budget::new(0, 0)).await;
        assert_eq!((came.len(), failed), (0, Some(Failed(Misfit::Unreadable.rule()))));
        assert_eq!(run(b"%PDF-1.7", &expected, &Budget::new(0, 0)).await.2, None);
    }
}
