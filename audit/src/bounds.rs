//! How long the parts of a record may be. What a stranger sends is bounded where it comes in, so that nothing on the way of
//! its record, down to the receiver, meets something that it cannot take; a message is never cut afterwards.
//!
//! The smallest of our own receivers takes 1 MiB (syslog); every record stays below half of that.

use crate::event::{Decision, DocumentObject, HumanRequestor, Intent, PeerFacts, StudyObject};

/// A name, an identifier, an organisation or another text of its own, bytes.
pub const TEXT: usize = 4 << 10;
/// A query, bytes of XML: thousands of identifiers.
pub const QUERY: usize = 256 << 10;
/// What the documents or studies of one exchange take in its records, bytes, each counted with `OBJECT`.
pub const OBJECTS: usize = 256 << 10;
/// SOP Instance UIDs of one exchange that did not come, bytes; those beyond are counted and digested.
pub const LOST: usize = 256 << 10;
/// SOAP headers that one exchange keeps as evidence, bytes.
pub const EVIDENCE: usize = 48 << 10;
/// An encoded record: half of what the smallest of our own receivers takes.
pub const RECORD: usize = 512 << 10;
/// The texts about professional, patient and message of one exchange as they are written, with what XML escapes: they stand
/// in a record twice at most.
const TEXTS: usize = 32 << 10;
/// What an object takes beside its own texts, bytes.
const OBJECT: usize = 256;

/// Something in a request is longer than a record holds, or than is read: the request is refused, and the record of the
/// refusal says how long it was and what it digests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLong {
    /// What it is, in words of our own that callers are told.
    pub what: &'static str,
    /// Its length, where it was read whole or announced.
    pub bytes: Option<u64>,
    /// The digest of what was read of it, hex.
    pub sha256: String,
    /// How many bytes were read, where those are not all.
    pub read: Option<u64>,
}

impl TooLong {
    /// Says it of these bytes.
    pub fn of(what: &'static str, bytes: &[u8]) -> Self {
        Self { what, bytes: Some(bytes.len() as u64), sha256: digest(bytes), read: None }
    }

    /// Says it of something that was read so far only, and whose length may have been announced.
    pub fn begun(what: &'static str, announced: Option<u64>, read: &[u8]) -> Self {
        Self { what, bytes: announced, sha256: digest(read), read: Some(read.len() as u64) }
    }
}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, bytes, sha256, read } = self;
        write!(f, "{what} (")?;
        match (bytes, read) {
            (Some(bytes), None) => write!(f, "{bytes} bytes, SHA-256 {sha256})"),
            (Some(bytes), Some(0)) => write!(f, "{bytes} bytes announced, none read)"),
            (Some(bytes), Some(read)) => {
                write!(f, "{bytes} bytes announced, SHA-256 of the first {read} bytes {sha256})")
            }
            (None, read) => {
                let read = read.unwrap_or_default();
                write!(f, "more than {read} bytes, SHA-256 of the first {read} bytes {sha256})")
            }
        }
    }
}

impl std::error::Error for TooLong {}

fn digest(bytes: &[u8]) -> String {
    hex::encode(openssl::sha::sha256(bytes))
}

/// Checks a text.
///
/// # Errors
/// It is longer than [`TEXT`].
pub fn text(what: &'static str, text: &str) -> Result<(), TooLong> {
    if text.len() > TEXT { Err(TooLong::of(what, text.as_bytes())) } else { Ok(()) }
}

/// Length and digest of a text that is too long; none of any other.
pub(crate) fn told(text: &str) -> Option<String> {
    (text.len() > TEXT).then(|| told_bytes(text.as_bytes()))
}

/// Length and digest of bytes, which stand for them where they are too long.
pub fn told_bytes(bytes: &[u8]) -> String {
    format!("[{} bytes, SHA-256 {}]", bytes.len(), digest(bytes))
}

/// Number and digest of identifiers for which a list has no room.
pub fn told_more(more: u64, sha256: &[u8]) -> String {
    format!("[{more} more, SHA-256 {}]", hex::encode(sha256))
}

/// How long a text is as the value of an attribute.
pub(crate) fn written(text: &str) -> usize {
    let more = |c: char| match c {
        '<' | '>' | '&' | '"' | '\'' => 6,
        c if c.is_ascii() && !c.is_control() => 1,
        // A mark that would turn the direction of writing is spelled out.
        c => c.len_utf8().max(10),
    };
    text.chars().map(more).sum()
}

impl Decision {
    /// Whether its record holds it.
    ///
    /// # Errors
    /// What is too long first.
    pub fn check(&self) -> Result<(), TooLong> {
        text("the message id is longer than 4 KiB", &self.message_id)?;
        text("the purpose of use is longer than 4 KiB", &self.purpose)?;
        self.user.as_ref().map_or(Ok(()), HumanRequestor::check)?;
        if self.request_header.len() > EVIDENCE {
            return Err(TooLong::of("the header is longer than what is kept of it", self.request_header.as_bytes()));
        }
        text("the patient identifier is longer than 4 KiB", self.patient.as_deref().unwrap_or_default())?;
        let texts = self.user.iter().flat_map(HumanRequestor::texts).chain(self.patient.as_deref());
        let texts: Vec<&str> = texts.chain([self.message_id.as_str(), &self.purpose]).collect();
        if texts.iter().map(|text| written(text)).sum::<usize>() > TEXTS {
            return Err(TooLong::of(
                "the texts about user, patient and message are longer than 32 KiB",
                texts.concat().as_bytes(),
            ));
        }
        if let Some(query) = &self.query {
            text("the query id is longer than 4 KiB", &query.id)?;
            if query.bytes.len() > QUERY {
                return Err(TooLong::of("the query is longer than 256 KiB", &query.bytes));
            }
        }
        self.documents.iter().try_for_each(DocumentObject::check)?;
        self.studies.iter().try_for_each(StudyObject::check)?;
        if self.listed() > OBJECTS {
            let ids = self
                .documents
                .iter()
                .map(|d| d.unique_id.as_str())
                .chain(self.studies.iter().map(|s| s.study.as_str()));
            let list = ids.collect::<Vec<_>>().join("\n");
            return Err(TooLong::of("the list of documents or studies is longer than a record holds", list.as_bytes()));
        }
        Ok(())
    }

    /// What its documents and studies take.
    fn listed(&self) -> usize {
        let documents = self.documents.iter().map(DocumentObject::weight);
        documents.chain(self.studies.iter().map(StudyObject::weight)).sum()
    }

    /// The same decision in the bounds: of what is too long its length and digest, and no list. What it was that was too
    /// long stands in the outcome.
    pub(crate) fn bounded(mut self) -> Self {
        if self.check().is_ok() {
            return self;
        }
        // Texts that XML escapes take more than they are long: each has its share.
        let user = self.user.iter_mut().flat_map(HumanRequestor::texts_mut);
        let texts = user.chain(&mut self.patient).chain([&mut self.message_id, &mut self.purpose]);
        texts.filter(|text| written(text) > TEXTS / 9).for_each(|text| *text = told_bytes(text.as_bytes()));
        if self.request_header.len() > EVIDENCE {
            self.request_header = told_bytes(self.request_header.as_bytes());
        }
        if let Some(query) = &mut self.query {
            short(&mut query.id);
            if query.bytes.len() > QUERY {
                query.bytes = told_bytes(&query.bytes).into_bytes();
            }
        }
        self.documents.iter_mut().for_each(|document| {
            [&mut document.unique_id, &mut document.repository, &mut document.home].into_iter().for_each(short);
        });
        self.studies.iter_mut().for_each(|study| {
            let own = [&mut study.study, &mut study.repository, &mut study.home, &mut study.accession];
            own.into_iter().chain(&mut study.series).for_each(short);
        });
        if self.listed() > OBJECTS {
            self.documents.clear();
            self.studies.clear();
        }
        self
    }
}

fn short(text: &mut String) {
    if let Some(told) = told(text) {
        *text = told;
    }
}

impl Intent {
    pub(crate) fn bounded(mut self) -> Self {
        self.peer.bound();
        [&mut self.own_endpoint, &mut self.own_address, &mut self.trace].into_iter().for_each(short);
        self
    }
}

impl PeerFacts {
    fn bound(&mut self) {
        let Self { country, home_community_id, certificate_name, address, endpoint } = self;
        [country, home_community_id, certificate_name, address, endpoint].into_iter().for_each(short);
    }
}

impl HumanRequestor {
    fn texts(&self) -> [&str; 6] {
        [&self.user_name, &self.display, &self.role.0, &self.role.1, &self.role.2, &self.organisation]
    }

    /// Whether a record holds what is said of the professional.
    ///
    /// # Errors
    /// What is too long first.
    pub fn check(&self) -> Result<(), TooLong> {
        self.texts().into_iter().try_for_each(|value| text("a text about the user is longer than 4 KiB", value))
    }

    fn texts_mut(&mut self) -> [&mut String; 6] {
        let Self { user_name, display, role, organisation } = self;
        [user_name, display, &mut role.0, &mut role.1, &mut role.2, organisation]
    }
}

impl DocumentObject {
    fn check(&self) -> Result<(), TooLong> {
        let texts = [&self.unique_id, &self.repository, &self.home];
        texts.into_iter().try_for_each(|value| text("a document identifier is longer than 4 KiB", value))
    }

    fn weight(&self) -> usize {
        OBJECT + written(&self.unique_id) + self.repository.len() + self.home.len()
    }
}

impl StudyObject {
    fn check(&self) -> Result<(), TooLong> {
        let texts = [&self.study, &self.repository, &self.home, &self.accession].into_iter().chain(&self.series);
        texts.into_iter().try_for_each(|value| text("a study identifier is longer than 4 KiB", value))
    }

    fn weight(&self) -> usize {
        let own = written(&self.study) + self.repository.len() + self.home.len() + written(&self.accession);
        OBJECT + own + self.series.iter().map(|uid| OBJECT / 2 + uid.len()).sum::<usize>()
    }
}
