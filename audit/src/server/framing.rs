//! Octet-counted syslog frames (RFC 5425 4.3) and their header (RFC 5424 6), read from hostile bytes.
//!
//! A framing error ends the connection: there is no falling back to another framing, since what follows could be made to
//! look like a record.

/// A frame may be so long, bytes. Longer ones are refused, never cut.
pub(crate) const LONGEST: usize = 1 << 20;
/// Digits of a length.
const DIGITS: usize = 7;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("no octet count (newline framing is not read)")]
    NoCount,
    #[error("octet count of zero or with leading zero")]
    Zero,
    #[error("frame is longer than 1 MiB")]
    TooLong,
    #[error("connection ended inside a frame")]
    Cut,
}

/// Takes bytes as they come and gives whole frames.
#[derive(Default)]
pub(crate) struct Frames {
    buffer: Vec<u8>,
    from: usize,
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.from > 0 {
            self.buffer.drain(..self.from);
            self.from = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has come.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let rest = &self.buffer[self.from..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let Some(after) = rest.get(digits) else {
            return if digits > DIGITS { Err(FrameError::TooLong) } else { Ok(None) };
        };
        if digits == 0 || *after != b' ' {
            return Err(FrameError::NoCount);
        }
        if rest[0] == b'0' {
            return Err(FrameError::Zero);
        }
        if digits > DIGITS {
            return Err(FrameError::TooLong);
        }
        let length = rest[..digits].iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
        if length > LONGEST {
            return Err(FrameError::TooLong);
        }
        let start = digits + 1;
        let Some(frame) = rest.get(start..start + length) else { return Ok(None) };
        let frame = frame.to_vec();
        self.from += start + length;
        Ok(Some(frame))
    }

    /// What came and is no whole frame.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.from..]
    }
}

/// The message of a frame: what follows `<PRI>1 SP TIMESTAMP SP HOSTNAME SP APP-NAME SP PROCID SP MSGID SP STRUCTURED-DATA
/// SP`, without byte order mark. Any PRI, MSGID and STRUCTURED-DATA are read: OpenNCP writes `<1>` and `- - - -`, relays
/// add elements of their own.
pub(crate) fn message(frame: &[u8]) -> Result<Vec<u8>, &'static str> {
    let close = frame.iter().take(5).position(|b| *b == b'>').ok_or("no priority")?;
    if frame.first() != Some(&b'<') || close < 2 || !frame[1..close].iter().all(u8::is_ascii_digit) {
        return Err("no priority");
    }
    let mut rest = frame[close + 1..].strip_prefix(b"1 ").ok_or("no RFC 5424 header")?;
    for _ in 0..5 {
        let space = rest.iter().position(|b| *b == b' ').ok_or("header ends early")?;
        if space == 0 || space > 255 || !rest[..space].iter().all(u8::is_ascii_graphic) {
            return Err("header field is malformed");
        }
        rest = &rest[space + 1..];
    }
    let rest = match rest.first() {
        Some(b'-') => &rest[1..],
        Some(b'[') => structured_data(rest).ok_or("structured data does not end")?,
        _ => return Err("no structured data"),
    };
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let rest = rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest);
    if rest.is_empty() { Err("no message") } else { Ok(rest.trim_ascii_end().to_vec()) }
}

/// What follows the elements; quotes and escapes inside values are minded.
fn structured_data(mut rest: &[u8]) -> Option<&[u8]> {
    while rest.first() == Some(&b'[') {
        let (mut quoted, mut escaped, mut end) = (false, false, None);
        for (index, byte) in rest.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b']' if !quoted => {
                    end = Some(index);
                    break;
                }
                _ => {}
            }
        }
        rest = &rest[end? + 1..];
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        for chunk in bytes.chunks(step) {
            frames.push(chunk);
            while let Some(frame) = frames.next()? {
                out.push(frame);
            }
        }
        Ok(out)
    }

    #[test]
    fn frames_are_found_however_they_are_split() {
        let bytes = b"3 abc10 0123456789 ";
        for step in 1..bytes.len() {
            let got = all(&bytes[..bytes.len() - 1], step).expect("frames");
            assert_eq!(got, [b"abc".to_vec(), b"0123456789".to_vec()]);
        }
    }

    #[test]
    fn wrong_lengths_end_the_connection() {
        for (bytes, error) in [
            (b"0 ".as_slice(), FrameError::Zero),
            (b"007 abcdefg", FrameError::Zero),
            (b"99999999 x", FrameError::TooLong),
            (b"99999999999999999999999999", FrameError::TooLong),
            (b"1048577 x", FrameError::TooLong),
            (b"-5 abc", FrameError::NoCount),
            (b"<85>1 2026", FrameError::NoCount),
            (b"12abc", FrameError::NoCount),
            (b"\n3 abc", FrameError::NoCount),
        ] {
            assert_eq!(all(bytes, 3), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn headers_of_all_kinds_are_read() {
        for head in [
            "<85>1 2026-11-23T09:14:11.950Z host app 42 IHE+RFC-3881 - ",
            "<1>1 2026-11-23T09:14:11Z host - - - - \u{feff}",
            "<132>1 2026-11-23T09:14:11Z host - - - - ",
            "<85>1 2026-11-23T09:14:11Z host app 42 ID [audit@32473 src=\"a\" ep=\"7\"][timeQuality x=\"]\\\"\"] \u{feff}",
        ] {
            assert_eq!(
                message(format!("{head}<AuditMessage/>\n").as_bytes()),
                Ok(b"<AuditMessage/>".to_vec()),
                "{head}"
            );
        }
        for bad in [
            "",
            "<85>",
            "<8a>1 a b c d e - x",
            "<85>2 a b c d e - x",
            "<85>1 a b c",
            "<85>1 a b c d e [x",
            "<85>1 a b c d e - ",
        ] {
            assert!(message(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
