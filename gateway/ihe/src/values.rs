//! Value types, parsed once.

use std::fmt;

use crate::MessageError;

/// An object identifier, bare. `urn:oid:` is taken off when read, whatever its case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(String);

impl Oid {
    /// Reads `1.2.3` or `urn:oid:1.2.3`, at most 64 characters.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        let text = text.trim();
        let bare = match text.get(..8) {
            Some(prefix) if prefix.eq_ignore_ascii_case("urn:oid:") => &text[8..],
            _ => text,
        };
        if is_dotted(bare) { Ok(Self(bare.to_owned())) } else { Err(MessageError::Malformed("oid")) }
    }

    /// `urn:oid:…`
    pub fn urn(&self) -> String {
        format!("urn:oid:{}", self.0)
    }

    /// Bare.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_dotted(text: &str) -> bool {
    text.len() <= 64
        && text.contains('.')
        && text.split('.').all(|arc| {
            !arc.is_empty() && arc.bytes().all(|b| b.is_ascii_digit()) && (arc == "0" || !arc.starts_with('0'))
        })
}

/// A community. Written as `urn:oid:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HomeCommunityId(pub Oid);

impl HomeCommunityId {
    /// Reads both forms.
    ///
    /// # Errors
    /// No OID.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        Oid::parse(text).map(Self)
    }
}

impl fmt::Display for HomeCommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.urn())
    }
}

/// A DICOM UID (PS3.5 9.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(String);

impl Uid {
    /// Reads a UID; padding of DICOM values is taken off.
    ///
    /// # Errors
    /// Other characters, over 64 of them, or a component without digits: `..` would be a step up in a path.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        let text = text.trim_end_matches(['\0', ' ']).trim();
        let component = |c: &str| !c.is_empty() && c.bytes().all(|b| b.is_ascii_digit());
        let valid = text.len() <= 64 && text.split('.').all(component);
        if valid { Ok(Self(text.to_owned())) } else { Err(MessageError::Malformed("uid")) }
    }

    /// The UID.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A patient identifier with its assigning authority. Comparison is exact.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PatientId {
    /// The identifier.
    pub extension: String,
    /// The assigning authority.
    pub root: Oid,
}

impl fmt::Debug for PatientId {
    /// Never the identifier: values of this type end up in error and debug output.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PatientId(… of {})", self.root)
    }
}

impl PatientId {
    /// An identifier.
    ///
    /// # Errors
    /// Empty, too long, or with characters that CX delimits with.
    pub fn new(extension: &str, root: Oid) -> Result<Self, MessageError> {
        let valid = !extension.is_empty()
            && extension.len() <= 128
            && !extension.contains(['^', '&', '~', '|'])
            && !extension.chars().any(char::is_control);
        if valid {
            Ok(Self { extension: extension.to_owned(), root })
        } else {
            Err(MessageError::Malformed("patient id"))
        }
    }

    /// Reads `id^^^&OID&ISO`, nothing else.
    ///
    /// # Errors
    /// Any other form.
    pub fn parse_cx(text: &str) -> Result<Self, MessageError> {
        let malformed = MessageError::Malformed("cx");
        let (extension, authority) = text.split_once("^^^&").ok_or_else(|| malformed.clone())?;
        let root = authority.strip_suffix("&ISO").ok_or(malformed)?;
        Self::new(extension, Oid::parse(root)?)
    }

    /// `id^^^&OID&ISO`
    pub fn to_cx(&self) -> String {
        format!("{}^^^&{}&ISO", self.extension, self.root)
    }
}

/// A code, its coding scheme as on the wire, its display.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Coded {
    /// Code.
    pub code: String,
    /// OID without prefix, or text.
    pub system: String,
    /// Display.
    pub display: Option<String>,
}

impl Coded {
    /// A code.
    pub fn new(code: &str, system: &str, display: Option<&str>) -> Self {
        Self { code: code.to_owned(), system: system.to_owned(), display: display.map(ToOwned::to_owned) }
    }

    /// Code system of modalities (PS3.16 CID 29), bare.
    pub const MODALITIES: &str = "1.2.840.10008.2.16.4";

    /// Whether it is a modality, whose code system is written as an OID, as a URN or as FHIR names it.
    pub fn is_modality(&self) -> bool {
        [Self::MODALITIES, "http://dicom.nema.org/resources/ontology/DCM"].contains(&bare(&self.system))
    }

    /// Same code in the same system; displays do not matter.
    pub fn same(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// System, bare, and code: equal for the same code.
    pub fn key(&self) -> (&str, &str) {
        (bare(&self.system), &self.code)
    }
}

fn bare(system: &str) -> &str {
    match system.get(..8) {
        Some(prefix) if prefix.eq_ignore_ascii_case("urn:oid:") => &system[8..],
        _ => system,
    }
}

/// A time of XDS metadata: `YYYY[MM[DD[hh[mm[ss]]]]]`, UTC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dtm(String);

impl Dtm {
    /// Reads a DTM; fractions and offsets of careless senders are refused.
    ///
    /// # Errors
    /// Any other form.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        let text = text.trim();
        let digits = matches!(text.len(), 4 | 6 | 8 | 10 | 12 | 14) && text.bytes().all(|b| b.is_ascii_digit());
        // A month 13 has the form and is no time.
        let read = Some(Self(text.to_owned())).filter(|dtm| digits && dtm.earliest().is_some());
        read.ok_or(MessageError::Malformed("dtm"))
    }

    /// The instant that a date of a careless sender says exactly: a DTM with an offset or a fraction of a second, or ISO 8601
    /// with its zone. A time that says no zone is left as it is: it is unread.
    ///
    /// # Errors
    /// Neither a DTM nor such a date.
    pub fn received(text: &str) -> Result<Self, MessageError> {
        let text = text.trim();
        Self::parse(text).or_else(|_| exact(text).map(Self::of).ok_or(MessageError::Malformed("dtm")))
    }

    /// The day that a date of DICOM says (PS3.5 table 6.2-1, DA; before DICOM 3.0 it was written `2026.01.31`).
    pub fn of_dicom_date(text: &str) -> Option<Self> {
        let text = text.trim_matches([' ', '\0']);
        let digits = match text.as_bytes() {
            [_, _, _, _, b'.', _, _, b'.', _, _] => text.replace('.', ""),
            _ => text.to_owned(),
        };
        Self::parse(&digits).ok().filter(|day| day.0.len() == 8)
    }

    /// To the second.
    pub fn of(at: jiff::Timestamp) -> Self {
        Self(at.strftime("%Y%m%d%H%M%S").to_string())
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The earliest instant it may mean.
    pub fn earliest(&self) -> Option<jiff::Timestamp> {
        let full = format!("{:0<4}{}", self.0, "0101000000".get(self.0.len().saturating_sub(4)..)?);
        jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", full)
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()
            .map(|z| z.timestamp())
    }
}

/// `YYYYMMDDhhmmss[.f][±hhmm|Z]` or RFC 3339. A fraction without an offset is of a DTM, which is UTC.
fn exact(text: &str) -> Option<jiff::Timestamp> {
    if text.len() > 40 || !text.is_ascii() {
        return None;
    }
    if text.get(4..5) == Some("-") {
        return text.parse().ok();
    }
    let (digits, rest) = text.split_at_checked(14)?;
    let at = Dtm::parse(digits).ok()?.earliest()?;
    let fraction = rest.strip_prefix('.').map_or(0, |rest| 1 + rest.bytes().take_while(u8::is_ascii_digit).count());
    if fraction == 1 {
        return None;
    }
    let offset = rest.get(fraction..)?;
    let sign = match offset.get(..1) {
        None => return Some(at),
        Some("Z") if offset.len() == 1 => return Some(at),
        Some("+") => 1,
        Some("-") => -1,
        Some(_) => return None,
    };
    let number =
        |from: usize| offset.get(from..from + 2).filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
    let (hours, minutes): (i64, i64) = (number(1)?, number(3)?);
    if offset.len() != 5 || hours > 14 || minutes > 59 {
        return None;
    }
    at.checked_sub(jiff::SignedDuration::from_mins(sign * (hours * 60 + minutes))).ok()
}

impl fmt::Display for Dtm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oids_are_compared_bare() {
        assert_eq!(Oid::parse("URN:OID:2.999.47").expect("an OID"), Oid::parse("2.999.47").expect("an OID"));
        for bad in ["", "2", "2..1", "2.01", "2.a", "urn:uuid:1.2"] {
            assert!(Oid::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_uid_is_no_path() {
        assert_eq!(Uid::parse(" 1.2.03\0").expect("a UID").as_str(), "1.2.03");
        for bad in ["", "..", ".", "1..2", "1.", ".1", "1.2.x", "1/2", &"1".repeat(65)] {
            assert!(Uid::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cx_has_one_form() {
        let id = PatientId::parse_cx("1 2^^^&2.999.1&ISO").expect("a CX");
        assert_eq!(id.to_cx(), "1 2^^^&2.999.1&ISO");
        for bad in ["1", "1^^^2.999.1", "1^^^&2.999.1&ISO^x", "^^^&2.999.1&ISO", "1^^^&x&ISO"] {
            assert!(PatientId::parse_cx(bad).is_err(), "{bad}");
        }
        assert!(!format!("{id:?}").contains("1 2"));
    }

    #[test]
    fn a_dtm_knows_its_earliest_instant() {
        let earliest = |text: &str| Dtm::parse(text).expect("a DTM").earliest().map(|t| t.to_string());
        assert_eq!(earliest("2024").as_deref(), Some("2024-01-01T00:00:00Z"));
        assert_eq!(earliest("202402030405").as_deref(), Some("2024-02-03T04:05:00Z"));
        assert!(Dtm::parse("20240203+0100").is_err());
        // WI-09: what says an instant exactly is read, what does not is not.
        for same in [
            "20260301091500",
            "20260301101500+0100",
            "20260301044500-0430",
            "20260301091500.25",
            "20260301101500.123+0100",
            "20260301091500Z",
            "2026-03-01T10:15:00+01:00",
            "2026-03-01T09:15:00.5Z",
        ] {
            assert_eq!(Dtm::received(same).expect(same).as_str(), "20260301091500");
        }
        for none in
            ["20260301+0100", "2026-03-01T09:15:00", "20260301091500.", "20260301091500+1", "20260301091500+9900", "x"]
        {
            assert!(Dtm::received(none).is_err(), "{none}");
        }
        assert_eq!(Dtm::received("2026").expect("a year").as_str(), "2026");
        let day = |text: &str| Dtm::of_dicom_date(text).map(|day| day.0);
        for good in ["20260131", "20260131 ", "2026.01.31"] {
            assert_eq!(day(good).as_deref(), Some("20260131"), "{good}");
        }
        for bad in ["", "2026", "202601311200", "2026-01-31", "20260230", "20261301", "31.01.2026", "2026.1.31", "?"] {
            assert_eq!(day(bad), None, "{bad}");
        }
    }
}
