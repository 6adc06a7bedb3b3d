//! Keeping messages.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hyper::body::Incoming;
use ncp_soap::{PartHead, Parts, SoapError};

use crate::pki::Error;

/// Bytes kept of a part: the header of an instance, the whole of most documents.
pub const HEAD: usize = 64 << 10;

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The project: it is judged.
    Ours,
    /// One of our gateways, seen on its way to another: judged, and held against that gateway's audit records.
    Gateway,
    /// Others, or a test that breaks a rule on purpose: only its answer is judged.
    Given,
}

/// A folder that messages are kept in.
#[derive(Debug, Clone)]
pub struct Capture(PathBuf);

impl Capture {
    /// A folder, made when missing.
    ///
    /// # Errors
    /// Files.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// The folder that `NCP_CAPTURE_DIR` names, if any.
    ///
    /// # Errors
    /// Files.
    pub fn from_environment() -> Result<Option<Self>, Error> {
        std::env::var_os("NCP_CAPTURE_DIR").map(|dir| Self::new(Path::new(&dir))).transpose()
    }

    /// Keeps an envelope; the id is for its parts.
    ///
    /// # Errors
    /// Files.
    pub fn envelope(&self, xop: bool, origin: Origin, envelope: &[u8]) -> Result<String, Error> {
        let id = uuid::Uuid::new_v4().to_string();
        let packaging = if xop { "xop" } else { "soap" };
        let by = match origin {
            Origin::Ours => "",
            Origin::Gateway => "gateway.",
            Origin::Given => "given.",
        };
        std::fs::write(self.0.join(format!("{id}.{by}{packaging}.xml")), envelope)?;
        Ok(id)
    }

    /// Keeps a part of a message.
    ///
    /// # Errors
    /// Files.
    pub fn part(&self, id: &str, content_id: &str, head: &[u8], whole: bool) -> Result<(), Error> {
        let folder = self.0.join(format!("{id}.parts"));
        std::fs::create_dir_all(&folder)?;
        let kind = if whole { "part" } else { "head" };
        std::fs::File::create(folder.join(format!("{}.{kind}", file_name(content_id))))?.write_all(head)?;
        Ok(())
    }

    /// Parts that are kept while they are read.
    pub fn follow(capture: Option<&Self>, id: Option<String>, parts: Parts<Incoming>) -> RecordedParts {
        let into = capture.cloned().zip(id);
        RecordedParts { parts, into, current: None }
    }
}

/// A Content-ID as a file name.
pub(crate) fn file_name(content_id: &str) -> String {
    percent_encoding::utf8_percent_encode(content_id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The parts of an answer; what is read of them is kept.
pub struct RecordedParts {
    parts: Parts<Incoming>,
    into: Option<(Capture, String)>,
    current: Option<Current>,
}

struct Current {
    content_id: String,
    head: Vec<u8>,
    whole: bool,
}

impl RecordedParts {
    /// As [`Parts::next`].
    ///
    /// # Errors
    /// As [`Parts::next`].
    pub async fn next(&mut self) -> Result<Option<PartHead>, SoapError> {
        self.keep(false);
        let head = self.parts.next().await?;
        if self.into.is_some() {
            self.current = head.as_ref().map(|head| Current {
                content_id: head.content_id.clone(),
                head: Vec::new(),
                whole: true,
            });
        }
        Ok(head)
    }

    /// As [`Parts::chunk`].
    ///
    /// # Errors
    /// As [`Parts::chunk`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SoapError> {
        let chunk = self.parts.chunk().await?;
        match (&chunk, &mut self.current) {
            (None, _) => self.keep(true),
            (Some(bytes), Some(current)) => {
                let room = HEAD - current.head.len();
                current.whole &= bytes.len() <= room;
                current.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            _ => {}
        }
        Ok(chunk)
    }

    /// Writes what was read of the present part. A part that nobody read to its end is a head.
    fn keep(&mut self, ended: bool) {
        if let (Some(current), Some((capture, id))) = (self.current.take(), &self.into) {
            // A test that cannot write its capture fails in the check, by the part that is missing.
            let _ = capture.part(id, &current.content_id, &current.head, current.whole && ended);
        }
    }
}
