//! Periods of FHIR: when a rule is in force, and of which days the data are. A date without a time is a day of the patient's
//! calendar and counts whole.

use jiff::civil::Date;
use jiff::{Timestamp, Zoned};
use serde_json::Value;

use super::element::{Unread, object, only, text};
use super::rule::{Asking, Condition};
use crate::policy::calendar;

/// When something begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At this instant.
    Instant(Timestamp),
    /// With this day.
    Day(Date),
}

impl Moment {
    pub(super) fn has_begun(self, asking: Asking<'_>) -> bool {
        match self {
            Self::Instant(at) => at <= asking.now,
            Self::Day(first) => first <= asking.today,
        }
    }

    pub(super) fn has_ended(self, asking: Asking<'_>) -> bool {
        match self {
            Self::Instant(at) => at <= asking.now,
            Self::Day(last) => last < asking.today,
        }
    }

    /// Whether a period may begin so and end with the other.
    fn may_precede(self, end: Self) -> bool {
        match (self, end) {
            (Self::Instant(start), Self::Instant(end)) => start < end,
            (Self::Day(first), Self::Day(last)) => first <= last,
            (Self::Instant(start), Self::Day(last)) => calendar::days(start).any(|first| first <= last),
            (Self::Day(first), Self::Instant(end)) => calendar::days(end).any(|last| first <= last),
        }
    }
}

/// Days of a service, `YYYYMMDD`: the first and the last that a period may have, and those that it has whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Days {
    may: (String, String),
    surely: (String, String),
}

impl Days {
    /// Whether the period has a day; none where that cannot be told.
    pub(super) fn have(&self, day: &str) -> Option<bool> {
        let within = |(from, to): &(String, String)| from.as_str() <= day && day <= to.as_str();
        match (within(&self.surely), within(&self.may)) {
            (true, _) => Some(true),
            (false, false) => Some(false),
            (false, true) => None,
        }
    }
}

pub(super) fn in_force(period: &Value) -> Result<Condition, Unread> {
    let (start, end) = ends(period)?;
    let start = start.map(Written::read).transpose()?.map(|start| match start {
        Written::Instant(at, _) => Moment::Instant(at.timestamp()),
        Written::Days(first, _) => Moment::Day(first),
    });
    let end = end.map(Written::read).transpose()?.map(|end| match end {
        Written::Instant(at, _) => Moment::Instant(at.timestamp()),
        Written::Days(_, last) => Moment::Day(last),
    });
    if start.zip(end).is_some_and(|(start, end)| !start.may_precede(end)) {
        return Err("a period that ends before it begins");
    }
    Ok(Condition::InForce(start, end))
}

pub(super) fn days(period: &Value) -> Result<Days, Unread> {
    let (start, end) = ends(period)?;
    let day = |date: Date| date.strftime("%Y%m%d").to_string();
    let open = |day: &str| (day.to_owned(), day.to_owned());
    let (first, first_whole) = match start.map(Written::read).transpose()? {
        None => open("00000000"),
        Some(start) => {
            let (may, whole) = start.first()?;
            (day(may), day(whole))
        }
    };
    let (last, last_whole) = match end.map(Written::read).transpose()? {
        None => open("99999999"),
        Some(end) => {
            let (may, whole) = end.last()?;
            (day(may), day(whole))
        }
    };
    if first > last {
        return Err("a period that ends before it begins");
    }
    Ok(Days { may: (first, last), surely: (first_whole, last_whole) })
}

fn ends(period: &Value) -> Result<(Option<&str>, Option<&str>), Unread> {
    let period = object(period)?;
    only(period, &["id", "extension", "start", "end"])?;
    let (start, end) = (text(period, "start")?, text(period, "end")?);
    if start.is_none() && end.is_none() { Err("an empty period") } else { Ok((start, end)) }
}

/// A FHIR dateTime: an instant, by which clock it is written, or the days of a year, a month or one day.
enum Written {
    /// As it is written, and whether in universal time: servers write so whatever they were told.
    Instant(Zoned, bool),
    Days(Date, Date),
}

const NONE: Unread = "a date that is none";

impl Written {
    fn read(text: &str) -> Result<Self, Unread> {
        let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        let first = match text.split('-').collect::<Vec<_>>().as_slice() {
            [year] if digits(year, 4) => format!("{text}-01-01"),
            [year, month] if digits(year, 4) && digits(month, 2) => format!("{text}-01"),
            _ => text.to_owned(),
        };
        if text.len() > 10 {
            let pieces = jiff::fmt::temporal::Pieces::parse(text).map_err(|_| NONE)?;
            let at: Timestamp = text.parse().map_err(|_| NONE)?;
            let offset = pieces.to_numeric_offset().ok_or(NONE)?;
            return Ok(Self::Instant(at.to_zoned(offset.to_time_zone()), text.ends_with(['Z', 'z'])));
        }
        let date: Date = first.parse().map_err(|_| NONE)?;
        let last = match text.len() {
            4 => date.last_of_year(),
            7 => date.last_of_month(),
            10 => date,
            _ => return Err(NONE),
        };
        Ok(Self::Days(date, last))
    }

    /// The first day that a period which begins so may have, and the first that it has whole.
    fn first(&self) -> Result<(Date, Date), Unread> {
        match self {
            Self::Days(first, _) => Ok((*first, *first)),
            Self::Instant(at, false) if at.time() == jiff::civil::Time::midnight() => Ok((at.date(), at.date())),
            Self::Instant(at, universal) => {
                let (first, last) = around(at, *universal);
                Ok((first, last.tomorrow().map_err(|_| NONE)?))
            }
        }
    }

    /// The last day that a period which ends so may have, and the last that it has whole.
    fn last(&self) -> Result<(Date, Date), Unread> {
        match self {
            Self::Days(_, last) => Ok((*last, *last)),
            Self::Instant(at, false) if (at.hour(), at.minute()) == (23, 59) => Ok((at.date(), at.date())),
            Self::Instant(at, universal) => {
                let (first, last) = around(at, *universal);
                Ok((last, first.yesterday().map_err(|_| NONE)?))
            }
        }
    }
}

/// The first and the last day that an instant may be on: where it tells its clock, that clock's day.
fn around(at: &Zoned, universal: bool) -> (Date, Date) {
    let mut days = calendar::days(at.timestamp()).filter(|_| universal);
    let first = days.next().unwrap_or(at.date());
    (first, days.next().unwrap_or(first))
}
