//! Periods of FHIR: when a rule is in force, and of which days the data are.

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::Value;

use super::element::{Unread, object, only, text};
use super::rule::Condition;

pub(super) fn in_force(period: &Value) -> Result<Condition, Unread> {
    let (start, end) = ends(period)?;
    let start = start.map(|text| Moment::read(text).and_then(Moment::start)).transpose()?;
    let end = end.map(|text| Moment::read(text).and_then(Moment::end)).transpose()?;
    if start.zip(end).is_some_and(|(start, end)| start >= end) {
        return Err("a period that ends before it begins");
    }
    Ok(Condition::InForce(start, end))
}

pub(super) fn days(period: &Value) -> Result<(String, String), Unread> {
    let (start, end) = ends(period)?;
    let day = |text: Option<&str>, last: bool, or: &str| match text {
        None => Ok(or.to_owned()),
        Some(text) => Moment::read(text).map(|moment| moment.day(last)),
    };
    let (from, to) = (day(start, false, "00000000")?, day(end, true, "99999999")?);
    if from > to { Err("a period that ends before it begins") } else { Ok((from, to)) }
}

fn ends(period: &Value) -> Result<(Option<&str>, Option<&str>), Unread> {
    let period = object(period)?;
    only(period, &["id", "extension", "start", "end"])?;
    let (start, end) = (text(period, "start")?, text(period, "end")?);
    if start.is_none() && end.is_none() { Err("an empty period") } else { Ok((start, end)) }
}

/// A FHIR dateTime: an instant, or a year, month or day that counts whole.
enum Moment {
    Instant(Timestamp, Date),
    Days(Date, Date),
}

impl Moment {
    fn read(text: &str) -> Result<Self, Unread> {
        let wrong = "a date that is none";
        let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        let first = match text.split('-').collect::<Vec<_>>().as_slice() {
            [year] if digits(year, 4) => format!("{text}-01-01"),
            [year, month] if digits(year, 4) && digits(month, 2) => format!("{text}-01"),
            _ => text.to_owned(),
        };
        if text.len() > 10 {
            let instant: Timestamp = text.parse().map_err(|_| wrong)?;
            let day = text.get(..10).and_then(|day| day.parse().ok()).ok_or(wrong)?;
            return Ok(Self::Instant(instant, day));
        }
        let date: Date = first.parse().map_err(|_| wrong)?;
        let last = match text.len() {
            4 => date.last_of_year(),
            7 => date.last_of_month(),
            10 => date,
            _ => return Err(wrong),
        };
        Ok(Self::Days(date, last))
    }

    fn start(self) -> Result<Timestamp, Unread> {
        match self {
            Self::Instant(at, _) => Ok(at),
            Self::Days(first, _) => midnight(first),
        }
    }

    fn end(self) -> Result<Timestamp, Unread> {
        match self {
            Self::Instant(at, _) => Ok(at),
            Self::Days(_, last) => midnight(last.tomorrow().map_err(|_| "a date that is none")?),
        }
    }

    fn day(&self, last: bool) -> String {
        let date = match self {
            Self::Instant(_, day) => day,
            Self::Days(_, day) if last => day,
            Self::Days(day, _) => day,
        };
        date.strftime("%Y%m%d").to_string()
    }
}

fn midnight(date: Date) -> Result<Timestamp, Unread> {
    date.to_zoned(jiff::tz::TimeZone::UTC).map(|at| at.timestamp()).map_err(|_| "a date that is none")
}
