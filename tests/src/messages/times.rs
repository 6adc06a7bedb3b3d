//! Rule 11 on content: what a document says of its own time is what its DocumentEntry says in UTC.

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use ncp_ihe::ns::HL7V3;
use ncp_ihe::{DocumentEntry, Dtm};
use ncp_xml::{Element, Limits};

use super::content::text;

/// Seconds that offsets of zones are multiples of, and the widest one.
const QUARTER_S: i64 = 15 * 60;
const WIDEST_S: i64 = 14 * 3600;

/// Holds a CDA's `effectiveTime` against the entry's creationTime; none where the bytes are no CDA.
pub(super) fn cda(bytes: &[u8], entry: &DocumentEntry) -> Option<Result<(), String>> {
    let root = Element::parse(bytes, &Limits::ANSWER).ok().filter(|root| root.is(HL7V3, "ClinicalDocument"))?;
    let value = root.child(HL7V3, "effectiveTime")?.get("value")?.trim().to_owned();
    let sign = value.rfind(['+', '-']).unwrap_or(value.len());
    Some(agree("effectiveTime", &value[..sign], &value[sign..], "creationTime", entry.creation_time.as_ref()))
}

/// Holds the times of a manifest against the entry's: its creation (Instance Creation, else Content Date and Time)
/// against creationTime, the study's against serviceStartTime.
pub(super) fn manifest(object: &InMemDicomObject, entry: &DocumentEntry) -> Result<(), String> {
    let offset = text(object, tags::TIMEZONE_OFFSET_FROM_UTC).unwrap_or_default();
    let at = |date, time| {
        let date = text(object, date).filter(|date| !date.is_empty())?;
        Some(format!("{date}{}", text(object, time).unwrap_or_default()))
    };
    let created = at(tags::INSTANCE_CREATION_DATE, tags::INSTANCE_CREATION_TIME)
        .or_else(|| at(tags::CONTENT_DATE, tags::CONTENT_TIME));
    if let Some(created) = created {
        agree("creation of the manifest", &created, &offset, "creationTime", entry.creation_time.as_ref())?;
    }
    match at(tags::STUDY_DATE, tags::STUDY_TIME).zip(entry.service_start.as_ref()) {
        Some((study, start)) => agree("study time", &study, &offset, "serviceStartTime", Some(start)),
        None => Ok(()),
    }
}

/// A local time with its offset is the entry's instant, to the coarser precision of the two. Without an offset it is
/// some zone's.
fn agree(what: &str, local: &str, offset: &str, slot: &str, entry: Option<&Dtm>) -> Result<(), String> {
    let Some(entry) = entry else { return Err(format!("no {slot}")) };
    let digits: String = local.chars().take_while(char::is_ascii_digit).take(14).collect();
    let at = Dtm::parse(&digits).ok().as_ref().and_then(Dtm::earliest);
    let (Some(at), Some(listed)) = (at, entry.earliest()) else { return Err(format!("{what} or {slot} is no time")) };
    let broken = || Err(format!("{what} is not the {slot}"));
    // A day without an hour has no offset: it may be the day before or after in UTC.
    if digits.len() <= 8 || offset.is_empty() {
        let apart = listed.as_second() - at.as_second();
        let coarse = digits.len() <= 8 || entry.as_str().len() < 12;
        let zone = apart.abs() <= WIDEST_S + if coarse { 24 * 3600 } else { 0 } && (coarse || apart % QUARTER_S == 0);
        return if zone { Ok(()) } else { broken() };
    }
    let Some(offset) = parse_offset(offset) else { return Err(format!("{what} has an offset that is none")) };
    let civil: DateTime = at.to_zoned(TimeZone::UTC).datetime();
    let Ok(instant) = offset.to_timestamp(civil) else { return broken() };
    let precision = digits.len().min(entry.as_str().len());
    let same = Dtm::of(instant).as_str().get(..precision) == entry.as_str().get(..precision);
    if same { Ok(()) } else { broken() }
}

/// `+0200`
fn parse_offset(text: &str) -> Option<Offset> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text.get(1..5).filter(|_| text.len() == 5 && text.starts_with(['+', '-']))?;
    let (hours, minutes): (i32, i32) = (digits.get(..2)?.parse().ok()?, digits.get(2..)?.parse().ok()?);
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_with_its_offset_is_the_entrys_instant() {
        let utc = Dtm::parse("20260312081500").expect("a time");
        let judge = |local, offset| agree("time", local, offset, "creationTime", Some(&utc)).is_ok();
        assert!(judge("20260312091500.273", "+0100"));
        assert!(judge("202603120915", "+0100"));
        assert!(judge("20260312091500", ""));
        assert!(judge("20260312", ""));
        // The local time copied, the offset turned round, no zone's minutes, another day, no time, no offset.
        for (local, offset) in [
            ("20260312081500", "+0100"),
            ("20260312091500", "-0100"),
            ("20260312091723", ""),
            ("20260316", ""),
            ("noon", ""),
            ("20260312091500", "+1"),
        ] {
            assert!(!judge(local, offset), "{local}{offset}");
        }
        assert!(agree("time", "2026", "", "creationTime", None).is_err());
    }
}
