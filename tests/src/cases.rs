//! Answers of other systems as they were seen, byte for byte, with placeholders for what belongs to the exchange.

use std::path::Path;

/// An HTTP answer: its Content-Type and its body.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Content-Type.
    pub content_type: String,
    /// Body.
    pub body: Vec<u8>,
}

impl Recorded {
    /// Reads a file of `tests/fixtures/cases`: the head of an answer, an empty line, its body. A file without a head has the
    /// Content-Type given.
    ///
    /// # Panics
    /// When the file is not there or has no Content-Type.
    pub fn load(file: &str, content_type: Option<&str>) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases").join(file);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if let Some(content_type) = content_type {
            return Self { content_type: content_type.to_owned(), body: bytes };
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let head = std::str::from_utf8(&bytes[..end]).expect("text");
        let field = head.lines().find_map(|line| line.strip_prefix("Content-Type: ")).expect("a Content-Type");
        Self { content_type: field.to_owned(), body: bytes[end + 4..].to_vec() }
    }

    /// With every occurrence of a text replaced, as placeholders are.
    pub fn with(mut self, from: &str, to: &str) -> Self {
        let (from, mut at) = (from.as_bytes(), 0);
        while let Some(found) = self.body[at..].windows(from.len()).position(|window| window == from) {
            self.body.splice(at + found..at + found + from.len(), to.bytes());
            at += found + to.len();
        }
        self
    }

    /// As the answer to a message.
    pub fn relating_to(self, message_id: &str) -> Self {
        self.with("@RELATES_TO@", message_id).with("@RELATES-TO@", message_id)
    }
}
