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

    /// The document of a retrieve as the second of three. The first is this one; the third is what the file has behind its
    /// document, or else a text. To be called before the placeholders are replaced.
    ///
    /// # Panics
    /// When the file is no answer with one document.
    pub fn second_of_three(self, [first, third]: [(&str, &str); 2]) -> Self {
        let root = String::from_utf8(self.body.clone()).expect("text");
        let (start, end) = (root.find("<ihe:DocumentResponse>"), root.find("</ihe:DocumentResponse>"));
        let (start, end) = start.zip(end.map(|end| end + "</ihe:DocumentResponse>".len())).expect("a document");
        let beside = |(id, _): (&str, &str), part: &str| {
            root[start..end].replace("@DOCUMENT@", id).replace("doc1@a.example", part)
        };
        let both = format!("{}@SECOND@{}", beside(first, "doc0@a.example"), beside(third, "doc2@a.example"));
        let all = format!("{}{both}{}", &root[..start], &root[end..]).replacen("@SECOND@", &root[start..end], 1);
        let boundary = all.split("\r\n").next().expect("a delimiter").to_owned();
        let part = |id: &str, text: &str| {
            format!("\r\n{boundary}\r\nContent-Type: text/xml\r\nContent-ID: <{id}@a.example>\r\n\r\n{text}")
        };
        let all =
            all.replacen(&format!("\r\n{boundary}\r\n"), &format!("{}\r\n{boundary}\r\n", part("doc0", first.1)), 1);
        let body = match all.contains("<other@a.example>") {
            true => all.replace("<other@a.example>", "<doc2@a.example>").replace("TEXT OF ANOTHER PATIENT", third.1),
            false => {
                all.replacen(&format!("\r\n{boundary}--"), &format!("{}\r\n{boundary}--", part("doc2", third.1)), 1)
            }
        };
        Self { body: body.into_bytes(), ..self }
    }

    /// With a text replaced by bytes, once.
    ///
    /// # Panics
    /// When the text is not there.
    pub fn with_bytes(mut self, from: &str, to: &[u8]) -> Self {
        let at = self.body.windows(from.len()).position(|window| window == from.as_bytes()).expect("the placeholder");
        self.body.splice(at..at + from.len(), to.iter().copied());
        self
    }

    /// As the answer to a message.
    pub fn relating_to(self, message_id: &str) -> Self {
        self.with("@RELATES_TO@", message_id).with("@RELATES-TO@", message_id)
    }
}
