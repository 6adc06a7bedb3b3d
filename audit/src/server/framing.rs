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
    use crate::Message;

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

    /// A record with so many of its octets in each of these places, and so many of these elements, with the place between them.
    fn record(detail: usize, text: usize, ids: usize, elements: usize, between: &str) -> String {
        let object = format!(
            "<ParticipantObjectIdentification ParticipantObjectID=\"{}\" ParticipantObjectTypeCode=\"2\">{between}\
             <ParticipantObjectIDTypeCode csd-code=\"2\"/>{between}<ParticipantObjectDetail type=\"x\" value=\"y\"/>\
             </ParticipantObjectIdentification>{between}",
            "1".repeat(ids)
        );
        format!(
            "<AuditMessage><EventIdentification EventActionCode=\"E\" EventDateTime=\"2026-11-23T09:14:11Z\" \
             EventOutcomeIndicator=\"0\"><EventID csd-code=\"110112\" codeSystemName=\"DCM\" originalText=\"Query\"/>\
             <EventOutcomeDescription>{}</EventOutcomeDescription></EventIdentification><ActiveParticipant UserID=\"u\" \
             UserIsRequestor=\"true\"/><AuditSourceIdentification AuditSourceID=\"pacs\"/><ParticipantObjectIdentification \
             ParticipantObjectID=\"1\"><ParticipantObjectDetail type=\"x\" value=\"{}\"/></ParticipantObjectIdentification>{}\
             </AuditMessage>",
            "t".repeat(text),
            "A".repeat(detail),
            object.repeat(elements)
        )
    }

    fn framed(record: &str) -> Vec<u8> {
        let head = "<85>1 2026-11-23T09:14:11.950Z host app 42 IHE+RFC-3881 - ";
        format!("{} {head}{record}", head.len() + record.len()).into_bytes()
    }

    /// What the repository makes of what came in one frame.
    fn taken(frame: &[u8]) -> Result<Message, String> {
        let frames = all(frame, 64 << 10).map_err(|error| error.to_string())?;
        let bytes = message(frames.first().ok_or("no frame")?)?;
        Message::read(&bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn wi_10_a_record_between_64_kib_and_1_mib() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fixtures/cases/wire/WI-10-a-syslog-frame.txt");
        let case = std::fs::read_to_string(file).expect("a case");
        for letters in [70_000, 900_000, LONGEST - 1_200] {
            let frame = case
                .replace("@NOW_RFC5424@", "2026-11-23T09:14:11.950Z")
                .replace("@NOW_ISO@", "2026-11-23T09:14:11Z")
                .replace("@70000_TIMES_A@", &"A".repeat(letters));
            let (_, rest) = frame.split_once(' ').expect("a count");
            let read = taken(format!("{} {rest}", rest.len()).as_bytes()).expect("is taken");
            // It is read as base64, as evidence is.
            assert_eq!(read.objects[0].details[0].1.len(), letters / 4 * 3);
        }
        let one = record(LONGEST, 0, 1, 0, "");
        assert_eq!(taken(&framed(&one)).err(), Some(FrameError::TooLong.to_string()), "refused as too long, never cut");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]

        /// What the listener takes by its length is never refused by it afterwards, wherever its octets are: in one attribute, in
        /// one text, in long attributes of many elements, or in elements with line ends between them; and as FHIR likewise.
        #[test]
        fn wi_10_what_a_listener_takes_is_read(
            detail in 0usize..=4, text in 0usize..=4, ids in 1usize..200, lines in proptest::prelude::any::<bool>(),
        ) {
            let between = if lines { "\r\n  " } else { "" };
            let octets = LONGEST - 2_000;
            let (detail, text) = (octets / 8 * detail, octets / 8 * text);
            let element = record(0, 0, ids, 1, between).len() - record(0, 0, ids, 0, between).len();
            let elements = (octets - detail - text) / element;
            let record = record(detail, text, ids, elements, between);
            proptest::prop_assert!(record.len() > octets - 2 * element);
            let read = taken(&framed(&record));
            let read = read.map_err(proptest::test_runner::TestCaseError::fail)?;
            proptest::prop_assert_eq!(read.objects.len(), elements + 1);
            let event = crate::to_audit_event(&read).to_string();
            let back = ncp_xml::json::read_last(event.as_bytes()).map_err(ToOwned::to_owned);
            let back = back.and_then(|event| crate::fhir::from_audit_event(&event).map_err(|why| why.to_string()));
            proptest::prop_assert_eq!(back.map(|message| message.objects.len()), Ok(elements + 1));
        }
    }
}
